//! What is learned counts, but for less than an operation or a person; and what was left as bad does not come back as good.

use engine::{
    ComponentName, FleetEvent, Left, SeenSnapshot, Standing, StandingSource, Timestamp,
    consequences,
    planner::{self, Refusal, Request},
};

use crate::{
    planner_tables::ran,
    worlds::{World, component, host, operation, release, snapshot},
};

const HOSTS: [&str; 3] = ["b1", "b2", "g1"];

impl World {
    /// These hosts have learned it.
    fn learned(&mut self, name: &str, hosts: &[&str]) {
        for at in hosts {
            let (component, snapshot) = (component("crm"), snapshot(at, "crm", name));
            let (host, release, at) = (host(at), release(name), Timestamp(50));
            self.state.apply(&FleetEvent::Learned { host, component, release, snapshot, at });
        }
    }

    /// Its content, on every host.
    fn content(&mut self, name: &str, content: &str) {
        for at in HOSTS {
            let known = &self.state.releases[&release(name)].hosts[&host(at)].snapshots;
            let seen =
                SeenSnapshot { content: content.to_owned(), ..known[&component("crm")].clone() };
            let (component, release) = (component("crm"), release(name));
            self.state.apply(&FleetEvent::SnapshotSeen {
                host: host(at),
                component,
                release,
                seen,
            });
        }
    }

    fn left(&mut self, name: &str, content: &str) {
        let (release, content) = (release(name), content.to_owned());
        let (component, operation) = (component("crm"), operation("rb-0193"));
        let left = Left { release, component, content, operation };
        self.state.apply(&FleetEvent::Left { left, at: Timestamp(95) });
    }

    fn standing(&self, name: &str) -> (Standing, Option<StandingSource>) {
        self.state.releases[&release(name)].standing()
    }

    fn alarm(&self, content: &str) -> Option<String> {
        Some(self.state.quarantined(&component("crm"), content)?.to_string())
    }
}

/// v1 and v3 as in the usual world, v2 learned on these hosts.
fn world(learned: &[&str]) -> World {
    let mut world = World::new(&[("blue", &["b1", "b2"]), ("green", &["g1"])], &[("crm", &[])]);
    for (name, age) in [("v1", 1), ("v2", 2), ("v3", 3)] {
        world.release(name, age);
    }
    world.proven("v1", &HOSTS, Standing::Good);
    world.learned("v2", learned);
    world.live("v3");
    world
}

fn target(world: &World) -> (String, Vec<String>) {
    let plan = planner::rollback(&world.inventory(), &Request::default()).unwrap();
    (plan.to.clone().unwrap().to_string(), plan.warnings.clone())
}

#[test]
fn a_learned_release_is_gone_back_to_with_a_warning_and_never_without_a_person() {
    let world = world(&HOSTS);
    assert_eq!(world.standing("v2"), (Standing::Good, Some(StandingSource::Learned)));
    let (to, warnings) = target(&world);
    assert_eq!(to, "v2");
    assert_eq!(warnings[0], "v2 was only learned to be good; no operation or person said so");
    let plan = planner::rollback(&world.inventory(), &Request::default()).unwrap();
    assert!(plan.why_target.contains("learned to be good"), "{}", plan.why_target);
    let hosts = HOSTS.map(host);
    let why_not =
        |world: &World, name| planner::why_not_automatic(&world.state, &release(name), &hosts);
    assert_eq!(
        why_not(&world, "v2").unwrap(),
        "v2 was only learned to be good on b1; a person has to say so"
    );
    assert_eq!(why_not(&world, "v3").unwrap(), "v3 is unproven on b1");
    assert_eq!(why_not(&world, "v9").unwrap(), "v9 is not known");
    assert_eq!(why_not(&world, "v1"), None);
    let mut said = world.clone();
    said.marked("v2", Standing::Good, "it served for weeks");
    assert_eq!(why_not(&said, "v2"), None);
    said.marked("v1", Standing::Bad, "leaks");
    assert_eq!(why_not(&said, "v1").unwrap(), "v1 is bad on b1");
    // One host that only learned it is enough.
    let mut mixed = world;
    mixed.proven("v2", &["b1", "b2"], Standing::Good);
    assert_eq!(mixed.standing("v2"), (Standing::Good, Some(StandingSource::Learned)));
    assert!(why_not(&mixed, "v2").unwrap().contains("on g1"));
    mixed.proven("v2", &["g1"], Standing::Good);
    assert_eq!(mixed.standing("v2"), (Standing::Good, Some(StandingSource::Operated)));
    assert_eq!(why_not(&mixed, "v2"), None);
}

#[test]
fn what_not_every_host_has_learned_is_not_good_as_a_whole() {
    let world = world(&["b1", "g1"]);
    assert_eq!(world.standing("v2").0, Standing::Unproven);
    assert_eq!(target(&world).0, "v1");
}

#[test]
fn learning_is_of_one_snapshot_and_of_every_component() {
    let mut world = world(&HOSTS);
    let (known, at) = (snapshot("b1", "crm", "v2"), host("b1"));
    let seen = |hash| SeenSnapshot {
        snapshot: hash,
        content: String::new(),
        version: None,
        taken_at: Timestamp(2),
    };
    let see = |world: &mut World, component: ComponentName, seen| {
        let (host, release) = (at.clone(), release("v2"));
        world.state.apply(&FleetEvent::SnapshotSeen { host, component, release, seen });
    };
    see(&mut world, component("proxy"), seen(snapshot("b1", "proxy", "v2")));
    assert_eq!(world.standing("v2").0, Standing::Unproven, "nobody speaks for the proxy");
    let learned = FleetEvent::Learned {
        host: at.clone(),
        component: component("proxy"),
        release: release("v2"),
        snapshot: snapshot("b1", "proxy", "v2"),
        at: Timestamp(51),
    };
    world.state.apply(&learned);
    assert_eq!(world.standing("v2").0, Standing::Good);
    see(&mut world, component("crm"), seen(snapshot("b1", "crm", "another")));
    assert_eq!(world.standing("v2").0, Standing::Unproven, "another snapshot of that name");
    see(&mut world, component("crm"), seen(known));
    assert_eq!(world.standing("v2").0, Standing::Good);
}

#[test]
fn learning_weakens_nothing_and_makes_nothing_good_that_was_found_bad() {
    let mut proven = world(&[]);
    proven.proven("v2", &HOSTS, Standing::Good);
    let before = proven.standing("v2");
    proven.learned("v2", &HOSTS);
    assert_eq!(proven.standing("v2"), before);
    let mut marked = world(&[]);
    marked.marked("v2", Standing::Bad, "leaks");
    marked.learned("v2", &HOSTS);
    assert_eq!(marked.standing("v2"), (Standing::Bad, Some(StandingSource::Marked)));
    // Left on one host, learned on the others: nowhere good.
    let mut left = world(&["b2", "g1"]);
    left.proven("v2", &["b1"], Standing::Bad);
    let standing = |at| left.state.releases[&release("v2")].standing_on(&host(at)).0;
    assert_eq!([standing("b1"), standing("b2")], [Standing::Bad, Standing::Unproven]);
}

#[test]
fn content_that_was_left_is_recognised_under_any_name_and_is_no_way_back() {
    let mut world = world(&HOSTS);
    for (name, content) in [("v1", "one"), ("v2", "two"), ("v3", "three")] {
        world.content(name, content);
    }
    assert_eq!(world.alarm("two"), None);
    // v2.1 was deployed by others and left; it never had a snapshot.
    world.left("v2.1", "two");
    assert_eq!(world.alarm("two"), None, "nobody found it bad");
    world.proven("v2.1", &HOSTS, Standing::Bad);
    assert_eq!(world.alarm("two").unwrap(), "the content of v2.1, which was left bad by rb-0193");
    assert_eq!(world.alarm(""), None);
    assert_eq!(world.state.quarantined(&component("other"), "two"), None);
    // What was only learned does not excuse it.
    assert_eq!(world.standing("v2").0, Standing::Good);
    assert_eq!(target(&world).0, "v1");
    let mut none = world.clone();
    none.missing("b1", "v1");
    let Err(Refusal::NoTarget { candidates }) =
        planner::rollback(&none.inventory(), &Request::default())
    else {
        panic!("a learned release with bad content was taken");
    };
    let v2 = candidates.iter().find(|row| row.release == release("v2")).unwrap();
    assert_eq!(v2.why_not, "on b1 it has the content of v2.1, which was left bad by rb-0193");
    let by_name = Request { to: Some(release("v2")), ..Request::default() };
    let plan = planner::rollback(&world.inventory(), &by_name).unwrap();
    assert!(plan.warnings[0].contains("the content of v2.1"), "{:?}", plan.warnings);
    // An operation or a person does.
    let mut proven = world.clone();
    proven.proven("v2", &["b1"], Standing::Good);
    assert_eq!(proven.alarm("two"), None);
    world.marked("v2.1", Standing::Good, "it was the database");
    assert_eq!(world.alarm("two"), None);
}

#[test]
fn a_release_that_is_bad_under_its_own_name_is_recognised_too() {
    let mut world = world(&[]);
    for (name, content) in [("v1", "one"), ("v2", "two"), ("v3", "one")] {
        world.content(name, content);
    }
    world.marked("v2", Standing::Bad, "leaks memory");
    assert_eq!(world.alarm("two").unwrap(), "the content of v2, which is marked bad: leaks memory");
    // This component is the same in a bad release and in a good one.
    world.proven("v3", &HOSTS, Standing::Bad);
    assert_eq!(world.alarm("one"), None);
    world.proven("v1", &HOSTS, Standing::Bad);
    assert!(world.alarm("one").unwrap().ends_with("which an operation found bad"));
}

#[test]
fn a_rollback_records_once_what_its_hosts_replaced() {
    let world = world(&HOSTS);
    let plan = planner::rollback(&world.inventory(), &Request::default()).unwrap();
    let run = ran(&world, &plan);
    let mut state = world.state.clone();
    let events = consequences(&run, &state, Timestamp(99));
    let left = |events: &[FleetEvent]| {
        let found = events.iter().filter_map(|event| {
            let FleetEvent::Left { left, .. } = event else { return None };
            Some((left.release.to_string(), left.content.clone()))
        });
        found.collect::<Vec<_>>()
    };
    assert_eq!(
        left(&events),
        [("v3".to_owned(), "content of crm".to_owned())],
        "once for all hosts"
    );
    for event in &events {
        state.apply(event);
    }
    assert_eq!(left(&consequences(&run, &state, Timestamp(100))), []);
}

/// What hosts are told is what each question about a content is answered with, and nothing is missing.
#[test]
fn the_list_of_what_is_in_quarantine_is_what_each_question_is_answered_with() {
    let contents = ["good", "bad", "left", "shared", "lifted", ""];
    let mut world = world(&[]);
    let asked = |world: &World, wanted: &[&str]| {
        let listed = world.state.quarantine();
        let crm = component("crm");
        for content in contents {
            let row = listed.iter().find(|row| row.0 == crm && row.1 == content);
            assert_eq!(row.map(|row| row.2.to_string()), world.alarm(content), "{content}");
        }
        let listed: Vec<&str> = listed.iter().map(|row| row.1.as_str()).collect();
        assert_eq!(listed, wanted);
    };
    asked(&world, &[]);
    world.content("v1", "good");
    world.content("v2", "bad");
    world.proven("v2", &["b1"], Standing::Bad);
    world.left("v2", "left");
    world.left("v2", "good");
    asked(&world, &["bad", "left"]);
    // One component of several may not have changed.
    world.content("v2", "good");
    asked(&world, &["left"]);
    world.marked("v2", Standing::Unproven, "it was the proxy");
    asked(&world, &[]);
}
