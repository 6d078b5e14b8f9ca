//! Runs that move the traffic, case by case: when users are safe, and what becomes of it where something fails.

use engine::{
    Ask, Elapsed, FleetEvent, Outcome, Phase, RunResult, Timestamp, TrackEnd, consequences,
    planner::{self, Deploy, Request, Strategy},
};

use crate::{
    edge_runs::Run,
    planner_tables::ran,
    worlds::{World, group, host, release},
};

fn rollback(world: &World) -> Run {
    Run::of(planner::rollback(&world.inventory(), &Request::default()).unwrap())
}

fn rolling(world: &World) -> Run {
    let request = Deploy {
        release: release("v3"),
        strategy: Strategy::Rolling,
        hosts: vec![],
        across_migrations: false,
        give_up_warm: false,
    };
    Run::of(planner::deploy(&world.inventory(), &request, Timestamp(9)).unwrap())
}

#[test]
fn users_are_safe_when_the_edge_says_so_and_hosts_are_restored_after() {
    let mut run = rollback(&World::with_traffic());
    run.until("lb/1→");
    assert_eq!(run.operation.mitigated(), None);
    run.now = Elapsed(2_100);
    run.end("lb", TrackEnd::Done, "");
    assert_eq!(run.operation.mitigated(), Some(Elapsed(2_100)));
    run.now = Elapsed(38_000);
    run.until("");
    assert_eq!(run.operation.phase(), Phase::Ended(RunResult::Verified));
    assert_eq!(run.operation.mitigated(), Some(Elapsed(2_100)));
    let outcomes = run.operation.outcomes();
    assert!(outcomes.iter().all(|row| row.outcome == Outcome::Restored), "{outcomes:?}");
}

#[test]
fn where_one_edge_fails_those_that_moved_go_back() {
    let mut world = World::with_traffic();
    world.second_edge();
    let mut run = rollback(&world);
    run.until("lb/2→ lb2/2→");
    run.end("lb", TrackEnd::Done, "");
    run.end("lb2", TrackEnd::Undone, "nginx refuses its files");
    assert_eq!(run.orders(), "lb/2←", "{:?}", run.operation.phase());
    run.end("lb", TrackEnd::Undone, "");
    assert_eq!(run.operation.phase(), Phase::Ended(RunResult::PutBack));
    assert_eq!(run.operation.mitigated(), None);
    let failed = "1 host failed; the budget of stage `shift traffic` is 0";
    assert_eq!(run.operation.halted(), Some(failed));
}

#[test]
fn nothing_moves_where_the_good_side_is_not_healthy() {
    let mut run = rollback(&World::with_traffic());
    run.end("g1", TrackEnd::Left, "backend answers 503");
    run.end("g2", TrackEnd::Done, "");
    assert_eq!(run.orders(), "");
    assert_ne!(run.operation.phase(), Phase::Ended(RunResult::Verified));
    assert_eq!(run.operation.mitigated(), None);
}

#[test]
fn a_host_that_was_taken_out_gets_its_traffic_back_when_the_run_halts() {
    let mut world = World::with_traffic();
    world.release("v3", 3);
    let mut run = rolling(&world);
    run.until("b1/3→");
    run.end("b1", TrackEnd::Undone, "the checks did not pass");
    assert_eq!(run.orders(), "lb/2←", "{:?}", run.operation.phase());
    run.end("lb", TrackEnd::Undone, "");
    assert!(matches!(run.operation.phase(), Phase::Ended(_)));
}

#[test]
fn what_was_let_in_again_is_not_taken_back() {
    let mut world = World::with_traffic();
    world.release("v3", 3);
    let mut run = rolling(&world);
    run.until("b2/6→");
    run.end("b2", TrackEnd::Undone, "the checks did not pass");
    assert_eq!(run.orders(), "lb/5←", "only what b2 waits for");
}

#[test]
fn stages_of_one_series_share_their_budget() {
    let mut world = World::with_traffic();
    world.release("v3", 3);
    world.strategy().budget_failed = 1;
    world.strategy().budget_out = engine::Share::Hosts(2);
    let mut run = rolling(&world);
    run.until("b1/3→");
    run.end("b1", TrackEnd::Undone, "the checks did not pass");
    assert_eq!(run.orders(), "lb/4→", "one may fail");
    run.until("b2/6→");
    run.end("b2", TrackEnd::Undone, "the checks did not pass");
    assert_eq!(run.orders(), "lb/5←", "but not two");
}

#[test]
fn a_retry_that_halts_does_not_take_users_back_to_what_is_bad() {
    let mut world = World::with_traffic();
    world.strategy().budget_failed = 1;
    let mut run = rollback(&world);
    run.until("b1/4→ b2/4→");
    run.end("b1", TrackEnd::Done, "");
    run.end("b2", TrackEnd::Stuck, "the disk is full");
    assert!(matches!(run.operation.phase(), Phase::Ended(_)), "{}", run.orders());
    run.ask(Ask::Retry(vec![host("b2")]));
    assert_eq!(run.orders(), "g1/0→ g2/0→", "what users get is looked at again");
    run.end("g1", TrackEnd::Left, "backend answers 503");
    run.end("g2", TrackEnd::Done, "");
    let halted = "1 host failed; the budget of stage `check green` is 0";
    assert_eq!((run.operation.halted(), run.orders().as_str()), (Some(halted), ""));
    assert!(matches!(run.operation.phase(), Phase::Ended(_)), "the edge keeps its division");
}

#[test]
fn a_retry_drains_the_host_that_goes_again_and_no_other() {
    let mut world = World::with_traffic();
    world.release("v3", 3);
    world.strategy().budget_failed = 1;
    world.strategy().budget_out = engine::Share::Hosts(2);
    let mut run = rolling(&world);
    run.until("b2/6→");
    run.end("b2", TrackEnd::Undone, "the checks did not pass");
    run.until("");
    run.ask(Ask::Retry(vec![host("b2")]));
    let mut orders = Vec::new();
    while let Some(order) = Some(run.orders()).filter(|orders| !orders.is_empty()) {
        let name = order.split('/').next().unwrap().to_owned();
        orders.push(order);
        run.end(&name, TrackEnd::Done, "");
    }
    assert_eq!(orders, ["b2/0→", "lb/5→", "b2/6→", "lb/7→"]);
    assert_eq!(run.operation.phase(), Phase::Ended(RunResult::Verified));
}

#[test]
fn the_side_that_traffic_left_is_on_record_until_it_is_used() {
    let mut world = World::with_traffic();
    let plan = planner::switch(&world.inventory(), &group("green")).unwrap();
    let run = ran(&world, &plan);
    let opened = FleetEvent::OperationOpened {
        operation: run.id().clone(),
        key: String::new(),
        at: Timestamp(7),
    };
    world.state.apply(&opened);
    for event in consequences(&run, &world.state, Timestamp(8)) {
        world.state.apply(&event);
    }
    let warm = world.state.warm.clone().unwrap();
    assert_eq!(
        (warm.group, warm.release, warm.until),
        (group("blue"), release("v2"), Timestamp(1_800_008))
    );
    assert!(consequences(&run, &world.state, Timestamp(9)).is_empty(), "once");
    assert!(!world.state.releases.values().any(|row| row.hosts.contains_key(&host("lb"))));

    world.traffic(&[("green", 100)]);
    let undone = planner::undo(&world.inventory(), &run).unwrap();
    let names: Vec<&str> = undone.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["check blue", "shift traffic", "drain"]);
    assert_eq!(undone.to, Some(release("v2")));
}
