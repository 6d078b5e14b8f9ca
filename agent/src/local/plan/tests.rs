//! Where a local rollback goes, and in which steps.

use super::*;
use crate::{
    ledger::{Ledger, Record, StepResult},
    order::{Before, End, Ending, Evidence, Fence, MadeHere, Order, Origin, TrackKey},
    status::{ServiceStatus, Snapshot},
};

fn shape(name: &str) -> Shape {
    Shape {
        name: name.to_owned(),
        reloads: name == "proxy",
        stop_within_ms: 1_000,
        ready_within_ms: 2_000,
        stable_for_ms: 3_000,
        hooks: Vec::new(),
    }
}

fn snapshot(component: &str, release: &str, day: i64, version: &str) -> Snapshot {
    Snapshot {
        component: component.to_owned(),
        exact: format!("{component}-{release}"),
        release: release.to_owned(),
        version: version.to_owned(),
        taken_at_unix_ms: day,
        ..Snapshot::default()
    }
}

fn running(component: &str, release: &str) -> ComponentStatus {
    let service = ServiceStatus { service: "app".to_owned(), running: true, ..Default::default() };
    ComponentStatus {
        component: component.to_owned(),
        release: release.to_owned(),
        snapshot: format!("{component}-{release}"),
        services: vec![service],
        ..ComponentStatus::default()
    }
}

struct Host {
    shapes: Vec<Shape>,
    status: HostStatus,
    ledger: Ledger,
}

impl Host {
    /// One component, `v3` live, `v1` and `v2` captured while their check answered.
    fn new() -> Self {
        let rows = [("v1", 1), ("v2", 2), ("v3", 3)];
        let snapshots = rows.map(|(release, day)| snapshot("crm", release, day, release)).to_vec();
        let components = vec![running("crm", "v3")];
        let status = HostStatus { components, snapshots, ..HostStatus::default() };
        Self { shapes: vec![shape("crm")], status, ledger: Ledger::default() }
    }

    fn plan(&self, to: Option<&str>) -> Result<Plan, Refusal> {
        let view = View { shapes: &self.shapes, status: &self.status, ledger: &self.ledger };
        make(
            view,
            &Ask::Rollback { to: to.map(str::to_owned), leave: false, across_migrations: false },
        )
    }

    fn apply(&mut self, records: &[Record]) {
        records.iter().for_each(|record| self.ledger.apply(record));
    }

    /// An operation that went from one release to another and ended well.
    fn operated(&mut self, operation: &str, from: &str, to: &str) {
        let key = TrackKey { operation: operation.to_owned(), stage: 1 };
        let target = format!("crm-{to}");
        let steps =
            [Verb::Switch, Verb::Verify].map(|verb| step(verb, "crm", to, &target, 1)).to_vec();
        self.apply(&[Record::Accepted(Box::new(order(&key, steps)))]);
        for index in 0..2 {
            let evidence = Evidence {
                component: "crm".to_owned(),
                snapshot: Some(target.clone()),
                replaced: Some(format!("crm-{from}")),
                ..Evidence::default()
            };
            let result = StepResult {
                ok: true,
                detail: String::new(),
                duration_ms: 1,
                evidence: Some(evidence),
            };
            let before = Before::Nothing;
            self.apply(&[
                Record::StepBegan { key: key.clone(), index, before },
                Record::StepEnded { key: key.clone(), index, result },
            ]);
        }
        let ending = Ending { end: End::Done, reason: String::new() };
        self.apply(&[Record::Ended { key, ending }]);
    }
}

fn order(key: &TrackKey, steps: Vec<Step>) -> Order {
    Order {
        key: key.clone(),
        attempt: 1,
        plan_hash: "p".to_owned(),
        fence: Fence { epoch: 1, instance: "i".to_owned(), sequence: 1 },
        goal: Goal::Forward,
        steps,
        on_failure: OnFailure::Restore,
        traceparent: String::new(),
        origin: Origin::Coordinator,
        after: String::new(),
        taken: None,
    }
}

fn verbs(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|step| format!("{} {}", step.verb, step.component)).collect()
}

#[test]
fn bare_it_goes_to_the_newest_one_older_than_the_live_one() {
    let plan = Host::new().plan(None).unwrap();
    assert_eq!((plan.release.as_str(), plan.from.as_deref()), ("v2", Some("v3")));
    assert!(plan.why.contains("older than v3 (live)"), "{}", plan.why);
    assert!(plan.why.contains("its check reported v2"), "{}", plan.why);
    let steps = ["preflight", "stage", "stop", "switch", "start", "verify"];
    assert_eq!(verbs(&plan), steps.map(|verb| format!("{verb} crm")));
    assert!(plan.steps.iter().all(|step| step.snapshot == "crm-v2" && step.deadline_ms > 0));
}

#[test]
fn what_was_deployed_over_a_release_is_newer_than_it() {
    let mut host = Host::new();
    host.status.components[0].changed = true;
    let plan = host.plan(None).unwrap();
    assert_eq!((plan.release.as_str(), plan.from), ("v3", None));
}

#[test]
fn a_release_that_this_host_was_rolled_back_from_is_passed_over() {
    let mut host = Host::new();
    host.operated("rb-0001", "v2", "v1");
    let plan = host.plan(None).unwrap();
    assert_eq!(plan.release, "v1");
    assert!(plan.why.contains("rb-0001 verified it here"), "{}", plan.why);
    let named = host.plan(Some("v2")).unwrap();
    assert_eq!(named.warnings, ["v2: rb-0001 rolled this host back from it"]);
    // Going on to something newer says nothing against what it left.
    let mut forward = Host::new();
    forward.operated("rb-0001", "v3", "v1");
    forward.operated("rb-0002", "v1", "v3");
    forward.status.snapshots.remove(1);
    assert_eq!(forward.plan(None).unwrap().release, "v1");
    // Verified again since: its last word counts.
    host.operated("un-0002", "v1", "v2");
    assert_eq!(host.plan(None).unwrap().release, "v2");
}

#[test]
fn what_nobody_verified_here_is_asked_for_by_name_only() {
    let mut host = Host::new();
    for row in &mut host.status.snapshots {
        row.version.clear();
    }
    let Err(Refusal::NoTarget { candidates }) = host.plan(None) else { panic!("a target") };
    let why =
        |name: &str| candidates.iter().find(|(release, _)| release == name).unwrap().1.clone();
    assert_eq!(why("v3"), "it is live now");
    assert_eq!(why("v2"), "it was never verified here");
    let plan = host.plan(Some("v1")).unwrap();
    assert_eq!(plan.warnings, ["v1: it was never verified here"]);
}

#[test]
fn a_release_has_to_be_whole_on_every_component() {
    let mut host = Host::new();
    host.shapes.push(shape("api"));
    host.status.components.push(running("api", "v3"));
    for (release, day) in [("v1", 1), ("v3", 3)] {
        host.status.snapshots.push(snapshot("api", release, day, release));
    }
    assert_eq!(host.plan(None).unwrap().release, "v1");
    let refusal = host.plan(Some("v2")).unwrap_err();
    assert_eq!(refusal.to_string(), "release `v2` is not whole on this host: no snapshot of api");
    host.status.snapshots[0].damage = "object 5d2e is missing".to_owned();
    assert!(matches!(host.plan(None), Err(Refusal::NoTarget { .. })));
    assert!(matches!(host.plan(Some("v9")), Err(Refusal::NotKnown { .. })));
}

#[test]
fn where_the_newest_is_damaged_an_older_one_is_named_and_not_taken() {
    let mut host = Host::new();
    host.status.snapshots[1].damage = "object 5d2e is missing".to_owned();
    for to in [None, Some("v2")] {
        let refusal = host.plan(to).unwrap_err();
        let wanted = Refusal::NotWhole {
            name: "v2".to_owned(),
            why: vec!["crm: object 5d2e is missing".to_owned()],
            older: Some("v1".to_owned()),
        };
        assert_eq!(refusal, wanted);
    }
    assert_eq!(host.plan(Some("v1")).unwrap().release, "v1");
}

#[test]
fn several_components_go_together_and_a_proxy_is_reloaded() {
    let mut host = Host::new();
    for name in ["api", "proxy"] {
        host.shapes.insert(0, shape(name));
        host.status.components.push(running(name, "v3"));
        for (release, day) in [("v2", 2), ("v3", 3)] {
            host.status.snapshots.push(snapshot(name, release, day, release));
        }
    }
    let plan = host.plan(None).unwrap();
    let expected = [
        "preflight proxy",
        "stage proxy",
        "preflight api",
        "stage api",
        "preflight crm",
        "stage crm",
        "stop crm",
        "stop api",
        "switch proxy",
        "switch api",
        "switch crm",
        "reload proxy",
        "start api",
        "start crm",
        "verify proxy",
        "verify api",
        "verify crm",
    ];
    assert_eq!(verbs(&plan), expected);
}

#[test]
fn hooks_run_where_the_policy_says() {
    let mut host = Host::new();
    let at = [
        HookPoint::BeforeStop,
        HookPoint::BeforeStart,
        HookPoint::AfterStart,
        HookPoint::AfterVerify,
    ];
    host.shapes[0].hooks = at.map(|at| Hook { name: format!("{at:?}"), at, within_ms: 5 }).to_vec();
    let plan = host.plan(None).unwrap();
    let cut: Vec<String> = plan.steps[2..]
        .iter()
        .map(|step| if step.hook.is_empty() { step.verb.to_string() } else { step.hook.clone() })
        .collect();
    let expected = [
        "BeforeStop",
        "stop",
        "switch",
        "BeforeStart",
        "start",
        "AfterStart",
        "verify",
        "AfterVerify",
    ];
    assert_eq!(cut, expected);
}

#[test]
fn what_is_there_already_is_only_started_or_verified() {
    let mut host = Host::new();
    assert_eq!(host.plan(Some("v3")), Err(Refusal::Live("v3".to_owned())));
    host.status.components[0].services[0].running = false;
    let plan = host.plan(Some("v3")).unwrap();
    assert_eq!(verbs(&plan), ["stop crm", "start crm", "verify crm"]);
}

#[test]
fn a_coordinators_open_track_is_taken_back_first_and_another_local_one_is_waited_for() {
    let mut host = Host::new();
    let key = TrackKey { operation: "rb-0001".to_owned(), stage: 1 };
    let steps = vec![step(Verb::Stop, "crm", "v2", "crm-v2", 1)];
    host.apply(&[Record::Accepted(Box::new(order(&key, steps.clone())))]);
    assert_eq!(host.plan(None).unwrap().first.as_deref(), Some("rb-0001"));
    let made = MadeHere {
        operation: "local-1".to_owned(),
        by: "root".to_owned(),
        at_unix_ms: 1,
        release: "v2".to_owned(),
    };
    let key = TrackKey { operation: "local-1".to_owned(), stage: 0 };
    let local = Order { origin: Origin::Host(made), ..order(&key, steps) };
    host.apply(&[Record::Accepted(Box::new(local))]);
    assert_eq!(host.plan(None), Err(Refusal::Busy("local-1".to_owned())));
}

#[test]
fn names_of_releases_are_those_that_a_coordinator_takes() {
    for name in ["v1.4.2", "2026-11-22_03+1", "A"] {
        assert!(is_release(name), "{name}");
    }
    for name in ["", "-v1", "a b", "ä", &"x".repeat(129)] {
        assert!(!is_release(name), "{name}");
        assert_eq!(Host::new().plan(Some(name)), Err(Refusal::BadName(name.to_owned())));
    }
}
