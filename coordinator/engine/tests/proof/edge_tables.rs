//! Plans whose components need each other across hosts: the order of hosts, hooks, reloads, and the look from the edge.

use engine::{
    Hook, HookPoint, OperationKind, Plan, PlanDraft, PlanError, RunResult, Share, Verb,
    planner::{self, Refusal, Request},
};

use crate::{
    planner_tables::ran,
    worlds::{World, component, group, host, release, show},
};

fn to(world: &World, name: &str) -> Plan {
    let request = Request { to: Some(release(name)), ..Request::default() };
    planner::rollback(&world.inventory(), &request).unwrap()
}

fn bare(world: &World) -> Plan {
    planner::rollback(&world.inventory(), &Request::default()).unwrap()
}

#[test]
fn an_edge_that_moves_goes_after_the_apps_that_it_needs() {
    insta::assert_snapshot!(show(&bare(&World::with_edge())));
}

#[test]
fn an_edge_that_is_in_place_looks_last_and_cuts_nothing() {
    let mut world = World::with_edge();
    world.live_on(&["lb"], "v2");
    let plan = bare(&world);
    assert!(plan.marks_from_bad, "what the edge is on says nothing of what the apps leave");
    insta::assert_snapshot!(show(&plan));
}

#[test]
fn a_chain_of_needs_makes_a_stage_for_each_link() {
    let mut world = World::with_edge();
    let fleet = world.state.fleet.as_mut().unwrap();
    fleet.groups.push(engine::Group { name: group("cdn"), hosts: vec![host("c1")] });
    let mut cdn = fleet.components[1].clone();
    (cdn.name, cdn.groups) = (component("cdn"), vec![group("cdn")]);
    cdn.needs = vec![component("proxy")];
    fleet.components.insert(0, cdn);
    world.hosts.insert(host("c1"), engine::HostNow::default());
    for (name, age) in [("v1", 1), ("v2", 2), ("v3", 3)] {
        world.release(name, age);
    }
    world.live("v3");
    let names: Vec<String> = to(&world, "v2").stages.iter().map(|s| s.name.clone()).collect();
    assert_eq!(names, ["prepare", "restore", "restore edge", "restore cdn"]);
}

/// The queue runs beside the proxy: edge needs app, app needs edge. A common small fleet.
#[test]
fn groups_that_need_each_other_share_a_stage_and_the_plan_says_so() {
    let mut world = World::with_edge();
    let fleet = world.state.fleet.as_mut().unwrap();
    let mut queue = fleet.components[0].clone();
    (queue.name, queue.groups) = (component("queue"), vec![group("edge")]);
    fleet.components[0].needs = vec![component("queue")];
    fleet.components.push(queue);
    fleet.check().unwrap();
    for (name, age) in [("v1", 1), ("v2", 2), ("v3", 3)] {
        world.release(name, age);
    }
    world.live("v3");
    insta::assert_snapshot!("all_move", show(&to(&world, "v2")));
    // What is in place there is still asked last.
    world.live_on(&["lb"], "v2");
    let plan = to(&world, "v2");
    assert_eq!(plan.stages.last().unwrap().name, "verify from the edge");
}

#[test]
fn hooks_run_at_their_points_and_only_where_something_moves() {
    let mut world = World::new(&[("blue", &["b1", "b2"])], &[("crm", &[]), ("proxy", &["crm"])]);
    world.component("proxy").reloads = true;
    let points = [
        ("drain", HookPoint::BeforeStop),
        ("clear-cache", HookPoint::BeforeStart),
        ("warm-up", HookPoint::AfterStart),
        ("announce", HookPoint::AfterVerify),
    ];
    for name in ["crm", "proxy"] {
        let hook = |(name, at): (&str, _)| Hook { name: name.to_owned(), at, within_ms: 7_000 };
        world.component(name).hooks = points.map(hook).to_vec();
    }
    for (name, age) in [("v1", 1), ("v2", 2)] {
        world.release(name, age);
    }
    world.live("v2");
    world.live_on(&["b2"], "v1");
    let plan = to(&world, "v1");
    let hooks = plan.stages.iter().flat_map(|s| s.tracks()).flat_map(|t| &t.steps);
    let deadlines: Vec<u64> =
        hooks.filter(|s| s.verb == Verb::Hook).map(|s| s.deadline_ms).collect();
    assert_eq!(deadlines, [17_000; 8], "what the fleet file allows, and a margin");
    insta::assert_snapshot!(show(&plan));
}

#[test]
fn a_part_of_the_fleet_is_not_seen_from_the_edge_and_says_so() {
    let world = World::with_edge();
    let part = |hosts: &[&str]| {
        let hosts = hosts.iter().map(|name| host(name)).collect();
        planner::rollback(&world.inventory(), &Request { hosts, ..Request::default() }).unwrap()
    };
    let said = "what users get through lb is not verified: it is left out";
    assert_eq!(part(&["b1"]).warnings, [said]);
    assert_eq!(part(&["b1", "lb"]).warnings, Vec::<String>::new());
    assert_eq!(part(&["lb"]).warnings, Vec::<String>::new(), "the apps do not look through it");
}

#[test]
fn an_edge_that_is_away_keeps_no_app_from_going_back() {
    let mut world = World::with_edge();
    world.away("lb");
    let plan = to(&world, "v2");
    let edge = plan.stages.last().unwrap();
    assert_eq!((edge.name.as_str(), edge.budget.out), ("restore edge", 1));
    // Where a stage could move some of its hosts, a place for them has to be left.
    world.away("b1");
    world.strategy().budget_unknown = 2;
    let request = Request { to: Some(release("v2")), ..Request::default() };
    let error = planner::rollback(&world.inventory(), &request).unwrap_err();
    assert!(
        matches!(&error, Refusal::TooManyUnreachable { planned: 2, allowed: 0, .. }),
        "{error:?}"
    );
    world.strategy().budget_out = Share::Hosts(2);
    to(&world, "v2");
    world.strategy().budget_unknown = 1;
    let error = planner::rollback(&world.inventory(), &request).unwrap_err();
    assert!(matches!(error, Refusal::TooManyUnreachable { planned: 3, allowed: 1, .. }));
}

/// The apps are in place and the only host that would move is away: nothing would happen but looks.
#[test]
fn a_plan_that_could_move_no_host_is_refused() {
    let mut world = World::with_edge();
    world.live_on(&["b1", "b2"], "v2");
    world.away("lb");
    let request = Request { to: Some(release("v2")), ..Request::default() };
    let error = planner::rollback(&world.inventory(), &request).unwrap_err();
    assert!(
        matches!(&error, Refusal::TooManyUnreachable { planned: 3, allowed: 0, .. }),
        "{error:?}"
    );
}

#[test]
fn a_person_may_go_back_across_migrations_and_the_plan_says_what_that_means() {
    let world = World::with_edge();
    let request = Request { across_migrations: true, ..Request::default() };
    let plan = planner::rollback(&world.inventory(), &request).unwrap();
    for step in plan.stages.iter().flat_map(|s| s.tracks()).flat_map(|track| &track.steps) {
        assert_eq!(step.across_migrations, step.verb == Verb::Preflight, "{step:?}");
    }
    assert!(plan.warnings.iter().any(|text| text.contains("migrations")), "{:?}", plan.warnings);
    assert_ne!(plan.hash(), bare(&world).hash(), "it is another plan");
    assert!(bare(&world).warnings.is_empty());
}

#[test]
fn a_snapshot_is_taken_where_it_is_needed_first() {
    let world = World::with_edge();
    let plan = planner::snapshot(&world.inventory(), &release("v4")).unwrap();
    assert_eq!(plan.kind, OperationKind::Snapshot);
    insta::assert_snapshot!(show(&plan));
}

#[test]
fn undo_moves_in_the_same_order_and_looks_again() {
    let mut world = World::with_edge();
    // The proxy's files are the same in both releases, so that only the apps moved and the edge looked.
    let proxy = |world: &World, name: &str| {
        let now = &world.hosts[&host("lb")];
        now.whole(&component("proxy"), &release(name)).unwrap().snapshot.clone()
    };
    let same = proxy(&world, "v3");
    let lb = world.hosts.get_mut(&host("lb")).unwrap();
    for row in lb.snapshots.values_mut().flatten() {
        row.snapshot = same.clone();
    }
    let plan = bare(&world);
    assert_eq!(plan.stages.last().unwrap().name, "verify from the edge");
    let run = ran(&world, &plan);
    assert_eq!(run.phase(), engine::Phase::Ended(RunResult::Verified));
    world.live_on(&["b1", "b2"], "v2");
    let undo = planner::undo(&world.inventory(), &run).unwrap();
    insta::assert_snapshot!(show(&undo));
    // An edge that was changed by hand since cannot vouch for the release that returns.
    let lb = world.hosts.get_mut(&host("lb")).unwrap();
    lb.live.get_mut(&component("proxy")).unwrap().changed = true;
    let undo = planner::undo(&world.inventory(), &run).unwrap();
    assert_eq!(undo.stages.last().unwrap().name, "restore");
    let said = "what users get through lb is not verified: it is not on the release that returns";
    assert_eq!(undo.warnings, [said]);
}

/// What a planner must never hand out.
#[test]
fn a_plan_with_a_switch_or_a_hook_in_the_wrong_place_is_refused() {
    let edit = |change: &dyn Fn(&mut Vec<engine::Step>)| {
        let mut draft = PlanDraft::from(bare(&World::with_edge()));
        change(&mut draft.stages.last_mut().unwrap().batches[0].tracks[0].steps);
        Plan::new(draft).unwrap_err()
    };
    let verb = |verb| move |steps: &mut Vec<engine::Step>| steps[0].verb = verb;
    let wrong = |error: PlanError| matches!(error, PlanError::SwitchOutOfOrder { .. });
    assert!(wrong(edit(&|steps| drop(steps.remove(1)))), "without a reload");
    assert!(wrong(edit(&|steps| drop(steps.remove(2)))), "without a verify");
    assert!(wrong(edit(&|steps| steps.swap(0, 1))), "a reload before the switch");
    let stopped = |steps: &mut Vec<engine::Step>| {
        let stop = engine::Step { verb: Verb::Stop, ..steps[0].clone() };
        steps.insert(0, stop);
    };
    assert!(wrong(edit(&stopped)), "stopped and never started");
    let nameless = edit(&verb(Verb::Hook));
    assert!(matches!(nameless, PlanError::HookName { .. }), "{nameless:?}");
    let hook = |steps: &mut Vec<engine::Step>| {
        let hook =
            engine::Step { verb: Verb::Hook, hook: Some("x".to_owned()), ..steps[2].clone() };
        *steps = vec![hook, steps[2].clone()];
    };
    let unmoved = edit(&hook);
    assert!(matches!(unmoved, PlanError::HookWithoutSwitch { .. }), "{unmoved:?}");
}
