//! What a rollback goes to, and how, case by case; plans as a reviewer reads them are under `snapshots/`.

use engine::{
    Elapsed, Evidence, FleetEvent, Input, Operation, Phase, RunResult, Share, Standing, TrackEnd,
    TrackEnding, Verb, decide,
    planner::{self, Planned, Refusal, Request},
};

use crate::worlds::{World, component, host, operation, release, show, snapshot};

fn bare(world: &World) -> Planned {
    planner::rollback(&world.inventory(), &Request::default())
}

fn to(world: &World, name: &str) -> Planned {
    let request = Request { to: Some(release(name)), hosts: vec![], ..Request::default() };
    planner::rollback(&world.inventory(), &request)
}

fn target(planned: &Planned) -> &str {
    planned.as_ref().unwrap().to.as_ref().unwrap().as_str()
}

/// Why each candidate was not taken, in the order in which they were looked at.
fn candidates(planned: Planned) -> Vec<(String, String)> {
    match planned {
        Err(Refusal::NoTarget { candidates }) => {
            candidates.into_iter().map(|row| (row.release.to_string(), row.why_not)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bare_rollback_goes_to_the_newest_good_release_older_than_the_live_one() {
    let plan = bare(&World::usual()).unwrap();
    insta::assert_snapshot!(show(&plan));
}

#[test]
fn what_is_not_good_is_skipped_and_the_refusal_says_why_for_each() {
    let mut world = World::usual();
    world.release("v4", 4);
    for name in ["v0", "va", "vb", "vc", "vd"] {
        world.release(name, 0);
        world.proven(name, &["b1", "b2", "g1"], Standing::Good);
    }
    world.marked("v2", Standing::Bad, "leaks memory");
    world.proven("v1", &["b2"], Standing::Bad);
    world.damaged("g1", "va", "3 files differ from the manifest");
    world.missing("b1", "vb");
    world.marked("vc", Standing::Unproven, "nobody knows");
    world.marked("vd", Standing::Bad, "loses mail");
    world.release("ve", 0);
    // The newest good one that is left is damaged: the one that is whole is named, and not taken.
    let refused = bare(&world).unwrap_err();
    let Refusal::NotWhole { release: damaged, older, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!((damaged, older), (&release("va"), &Some(release("v0"))));
    assert_eq!(
        refused.to_string(),
        "va is not whole on g1 (3 files differ from the manifest); the next older release that is good and whole \
         on all planned hosts is v0"
    );
    let taken = to(&world, "v0").unwrap();
    assert_eq!(target(&Ok(taken)), "v0", "once it is asked for by name");
    world.missing("b1", "v0");
    let rows = candidates(bare(&world));
    let rows: Vec<(&str, &str)> = rows.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let expected = [
        ("v4", "it is newer than the live release"),
        ("v3", "it is live now"),
        ("v2", "it is marked bad"),
        ("v1", "an operation found it bad on b2"),
        ("ve", "it is unproven on b1"),
        ("vd", "it is marked bad"),
        ("vc", "it is unproven on b1"),
        ("vb", "it is not whole on b1: no snapshot of crm"),
        ("va", "it is not whole on g1: 3 files differ from the manifest"),
        ("v0", "it is not whole on b1: no snapshot of crm"),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn a_good_release_that_a_host_never_had_is_passed_over_and_the_plan_says_so() {
    let mut world = World::usual();
    let first = target(&bare(&world)).to_owned();
    world.missing("b1", &first);
    let plan = bare(&world).unwrap();
    assert_ne!(plan.to.as_ref().unwrap().as_str(), first);
    let wanted = format!("{first} was passed over: it is not whole on b1: no snapshot of crm");
    assert!(plan.warnings.contains(&wanted), "{:?}", plan.warnings);
}

#[test]
fn a_live_release_without_a_snapshot_is_newer_than_all_that_have_one() {
    let mut world = World::usual();
    world.live("v9-hotfix");
    world.proven("v3", &["b1", "b2", "g1"], Standing::Good);
    assert_eq!(target(&bare(&world)), "v3");
}

#[test]
fn on_a_mixed_fleet_the_target_is_older_than_the_newest_live_release() {
    let mut world = World::usual();
    world.live_on(&["b1"], "v2");
    let plan = bare(&world).unwrap();
    assert_eq!((target(&Ok(plan.clone())), &plan.from), ("v2", &None));
    assert!(
        !plan.marks_from_bad,
        "several releases were live: none of them is known to be the bad one"
    );
    insta::assert_snapshot!(show(&plan));
}

#[test]
fn a_named_release_is_taken_even_if_unproven_but_says_so() {
    let mut world = World::usual();
    world.release("v0", 0);
    world.proven("v0", &["g1"], Standing::Good);
    world.proven("v0", &["b2"], Standing::Bad);
    let plan = to(&world, "v0").unwrap();
    assert_eq!(
        plan.warnings,
        ["v0 was never proven good on b1", "an operation found v0 bad on b2"]
    );
    assert_eq!(plan.why_target, "named by --to");
}

#[test]
fn a_named_release_may_be_newer_than_the_live_one() {
    let mut world = World::usual();
    world.live("v1");
    assert_eq!(target(&to(&world, "v3")), "v3");
}

#[test]
fn a_named_release_that_is_unknown_bad_or_not_whole_is_refused() {
    let mut world = World::usual();
    let error = to(&world, "v7").unwrap_err();
    assert!(matches!(error, Refusal::NotKnown { what: "release", .. }), "{error:?}");
    world.damaged("b2", "v1", "the manifest is gone");
    let error = to(&world, "v1").unwrap_err().to_string();
    assert_eq!(error, "v1 is not whole on b2 (the manifest is gone)");
    world.marked("v2", Standing::Bad, "leaks memory");
    assert_eq!(to(&world, "v2").unwrap_err().to_string(), "v2 is marked bad: leaks memory");
}

fn rolled_back(world: &mut World) {
    world.live("v2");
    world.state.apply(&FleetEvent::RolledBackTo {
        release: release("v2"),
        operation: operation("rb-0193"),
    });
}

#[test]
fn a_bare_rollback_after_a_rollback_has_nothing_to_do() {
    let mut world = World::usual();
    rolled_back(&mut world);
    let plan = bare(&world).unwrap();
    assert!(plan.nothing_to_do() && !plan.freezes && !plan.marks_from_bad);
    assert!(plan.hosts.iter().all(|row| row.left_out.as_deref() == Some("is on v2 already")));
    assert!(plan.why_target.contains("rb-0193") && plan.why_target.contains("--to"));
    assert_eq!(target(&to(&world, "v1")), "v1", "a named release goes further back");
}

#[test]
fn a_deploy_after_a_rollback_can_be_rolled_back_again() {
    let mut world = World::usual();
    rolled_back(&mut world);
    world.live_on(&["g1"], "v3");
    let plan = bare(&world).unwrap();
    assert!(!plan.nothing_to_do());
    assert_eq!(target(&Ok(plan)), "v2");
}

#[test]
fn p03_what_a_host_told_before_is_not_taken_for_how_it_is_now() {
    let mut world = World::usual();
    // Last heard, it was on the target already; since then anything may have been put there.
    world.live_on(&["b2"], "v2");
    let verbs = |world: &World| -> Vec<Verb> {
        let plan = bare(world).unwrap();
        let tracks = plan.stages.iter().flat_map(|stage| stage.tracks());
        let mine = tracks.filter(|track| track.host == host("b2"));
        mine.flat_map(|track| track.steps.iter().map(|step| step.verb)).collect()
    };
    assert_eq!(verbs(&world), [Verb::Verify]);
    world.silent("b2");
    assert!(verbs(&world).contains(&Verb::Switch), "{:?}", verbs(&world));
    let plan = bare(&world).unwrap();
    assert!(plan.warnings.iter().any(|w| w.starts_with("b2 did not tell in time")), "{plan:?}");
    let row = plan.hosts.iter().find(|row| row.host == host("b2")).unwrap();
    assert_eq!((row.reachable, &row.from), (true, &None));
}

#[test]
fn an_unreachable_host_within_the_budget_is_planned_as_unknown() {
    let mut world = World::usual();
    world.away("b2");
    world.strategy().budget_out = Share::Hosts(2);
    let plan = bare(&world).unwrap();
    insta::assert_snapshot!(show(&plan));
}

#[test]
fn unreachable_hosts_over_the_budget_refuse_the_plan() {
    let mut world = World::usual();
    world.away("b2");
    // It would be the one host that may be out, and no other could ever move.
    let error = bare(&world).unwrap_err();
    assert_eq!(error.to_string(), "1 of the 3 planned hosts are out of reach; the budget allows 0");
    world.away("g1");
    world.strategy().budget_out = Share::Hosts(3);
    let error = bare(&world).unwrap_err();
    assert!(matches!(error, Refusal::TooManyUnreachable { allowed: 1, .. }), "{error}");
    world.strategy().budget_unknown = 2;
    bare(&world).unwrap();
}

#[test]
fn an_unreachable_host_without_a_known_snapshot_refuses_the_release() {
    let mut world = World::usual();
    for name in ["v1", "v2"] {
        let row = world.state.releases.get_mut(&release(name)).unwrap();
        row.hosts.get_mut(&host("b2")).unwrap().snapshots.clear();
    }
    assert_eq!(target(&bare(&world)), "v2", "the host itself says that it has it");
    world.away("b2");
    let rows = candidates(bare(&world));
    assert_eq!(
        rows[1].1,
        "it is not whole on b2: out of reach, and no snapshot of crm is on record"
    );
}

#[test]
fn a_part_of_the_fleet_neither_marks_bad_nor_freezes() {
    let world = World::usual();
    let request = Request { to: None, hosts: vec![host("g1")], ..Request::default() };
    let plan = planner::rollback(&world.inventory(), &request).unwrap();
    assert!(!plan.marks_from_bad && !plan.freezes);
    let whole = bare(&world).unwrap();
    assert!(whole.marks_from_bad && whole.freezes);
    insta::assert_snapshot!(show(&plan));
}

#[test]
fn a_host_that_does_not_exist_is_refused_by_name() {
    let request = Request { to: None, hosts: vec![host("b9")], ..Request::default() };
    let error = planner::rollback(&World::usual().inventory(), &request).unwrap_err();
    assert_eq!(error.to_string(), "host `b9` is not known");
}

#[test]
fn the_canary_group_goes_first() {
    let groups: [(&str, &[&str]); 2] = [("blue", &["b1", "b2"]), ("canary", &["c1"])];
    let mut world = World::new(&groups, &[("crm", &[])]);
    for (name, age) in [("v1", 1), ("v2", 2)] {
        world.release(name, age);
    }
    world.marked("v1", Standing::Good, "");
    world.live("v2");
    let plan = bare(&world).unwrap();
    let restore = plan.stages.iter().find(|stage| stage.cuts_capacity).unwrap();
    let order: Vec<&str> = restore.tracks().map(|track| track.host.as_str()).collect();
    assert_eq!(order, ["c1", "b1", "b2"]);
}

#[test]
fn components_stop_in_the_reverse_of_the_order_in_which_they_start() {
    let components: [(&str, &[&str]); 3] =
        [("web", &["api"]), ("api", &["db-proxy"]), ("db-proxy", &[])];
    let mut world = World::new(&[("blue", &["b1"])], &components);
    for (name, age) in [("v1", 1), ("v2", 2)] {
        world.release(name, age);
    }
    world.marked("v1", Standing::Good, "");
    world.live("v2");
    insta::assert_snapshot!(show(&bare(&world).unwrap()));
}

#[test]
fn what_is_on_the_target_already_is_only_verified() {
    let mut world = World::usual();
    world.live_on(&["b2"], "v2");
    // The record says v2, but the files were changed by hand: that is not the target.
    world.live_on(&["g1"], "v2");
    let now = world.hosts.get_mut(&host("g1")).unwrap();
    now.live.get_mut(&component("crm")).unwrap().changed = true;
    insta::assert_snapshot!(show(&bare(&world).unwrap()));
}

#[test]
fn batches_grow_as_the_file_says_and_never_over_what_may_be_out() {
    let hosts: Vec<String> = (0..12).map(|n| format!("b{n:02}")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let mut world = World::new(&[("blue", &hosts)], &[("crm", &[])]);
    for (name, age) in [("v1", 1), ("v2", 2)] {
        world.release(name, age);
    }
    world.marked("v1", Standing::Good, "");
    world.live("v2");
    for (batches, out, expected) in [
        (vec!["1", "5", "50%"], "50%", vec![1, 5, 6]),
        (vec!["1", "5", "50%"], "3", vec![1, 3, 3, 3, 2]),
        (vec!["25%"], "100%", vec![3, 3, 3, 3]),
        (vec!["1"], "100%", vec![1; 12]),
    ] {
        let strategy = world.strategy();
        strategy.batches = batches.iter().map(|text| text.parse().unwrap()).collect();
        strategy.budget_out = out.parse().unwrap();
        let plan = bare(&world).unwrap();
        let restore = plan.stages.last().unwrap();
        let sizes: Vec<usize> = restore.batches.iter().map(|batch| batch.tracks.len()).collect();
        assert_eq!(sizes, expected, "{batches:?}, out {out}");
    }
}

/// Runs a plan to its end; every host does as told and says what it replaced.
pub(crate) fn ran(world: &World, plan: &engine::Plan) -> Operation {
    let plan = Box::new(plan.clone());
    let opened = engine::Event::Opened { plan, by: "ada".to_owned(), reason: String::new() };
    let mut run = Operation::open(operation("rb-0200"), &opened).unwrap();
    let mut inputs = vec![Input::Tick];
    while !matches!(run.phase(), Phase::Ended(_)) {
        for event in decide(&run, std::mem::take(&mut inputs), Elapsed(0)) {
            run.apply(&event).unwrap();
        }
        for to in run.outstanding() {
            let cuts = run.steps(&to).iter().any(|step| step.verb.cuts());
            let live = &world.hosts[&to.host].live;
            let row = |(component, live): (&engine::ComponentName, &engine::LiveNow)| Evidence {
                component: component.clone(),
                snapshot: None,
                version: None,
                stable_ms: 0,
                replaced: live.snapshot.clone(),
                replaced_content: Some(format!("content of {component}")),
                notes: vec![],
                weights: None,
            };
            let evidence = if cuts { live.iter().map(row).collect() } else { vec![] };
            let ending =
                TrackEnding { end: TrackEnd::Done, reason: String::new(), steps: vec![], evidence };
            let (host, stage, attempt) = (to.host, to.stage, to.attempt);
            inputs.push(Input::TrackEnded { host, stage, attempt, ending });
        }
    }
    run
}

#[test]
fn undo_goes_back_to_what_was_live_before() {
    let mut world = World::usual();
    let run = ran(&world, &bare(&world).unwrap());
    assert_eq!(run.phase(), Phase::Ended(RunResult::Verified));
    rolled_back(&mut world);
    let plan = planner::undo(&world.inventory(), &run).unwrap();
    let switches = plan.stages.iter().flat_map(engine::Stage::tracks).flat_map(|track| {
        track.steps.iter().filter(|step| step.verb == engine::Verb::Switch).map(|step| {
            (track.host.clone(), step.target.clone().and_then(|target| target.snapshot).unwrap())
        })
    });
    let expected = ["b1", "b2", "g1"].map(|name| (host(name), snapshot(name, "crm", "v3")));
    assert_eq!(switches.collect::<Vec<_>>(), expected);
    insta::assert_snapshot!(show(&plan));
}

#[test]
fn undo_is_refused_where_nothing_was_replaced_or_what_was_is_gone() {
    let mut world = World::usual();
    let run = ran(&world, &bare(&world).unwrap());
    rolled_back(&mut world);
    world.missing("g1", "v3");
    let error = planner::undo(&world.inventory(), &run).unwrap_err().to_string();
    assert_eq!(error, "v3 is not whole on g1 (what was replaced of crm is gone)");

    let nothing = ran(&world, &bare(&world).unwrap());
    let error = planner::undo(&world.inventory(), &nothing).unwrap_err();
    assert!(matches!(error, Refusal::NothingToUndo(_)), "{error:?}");
}
