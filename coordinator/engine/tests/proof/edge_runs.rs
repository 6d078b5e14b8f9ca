//! Runs of several stages that cut, and of a look from the edge, case by case: the rules that `decide` states.

use engine::{
    Abort, Ask, Command, Elapsed, Event, Goal, HostName, Input, LateHosts, Operation, Outcome,
    Phase, Plan, RunResult, SeenTrack, Share, TrackEnd, TrackEnding, decide,
    planner::{self, Request},
};

use crate::worlds::{World, host, operation, release};

/// A run of a real plan, driven by hand.
pub(crate) struct Run {
    pub(crate) operation: Operation,
    pub(crate) now: Elapsed,
}

impl Run {
    pub(crate) fn of(plan: Plan) -> Self {
        let opened =
            Event::Opened { plan: Box::new(plan), by: "ada".to_owned(), reason: String::new() };
        let operation = Operation::open(operation("rb-0200"), &opened).unwrap();
        let mut run = Self { operation, now: Elapsed(0) };
        run.input(Input::Tick);
        run
    }

    pub(crate) fn input(&mut self, input: Input) {
        for event in decide(&self.operation, vec![input], self.now) {
            self.operation.apply(&event).unwrap();
        }
    }

    pub(crate) fn ask(&mut self, ask: Ask) {
        assert!(self.operation.allows(&ask), "{ask:?} in {:?}", self.operation.phase());
        self.input(Input::Asked { ask, by: "ada".to_owned() });
    }

    /// The orders in flight, with their stages: `b1/1→ b2/1←`.
    pub(crate) fn orders(&self) -> String {
        let word = |to: Command| match to.goal {
            Goal::Forward => format!("{}/{}→", to.host, to.stage),
            Goal::Undo => format!("{}/{}←", to.host, to.stage),
        };
        self.operation.outstanding().into_iter().map(word).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn end(&mut self, name: &str, end: TrackEnd, reason: &str) {
        let mut mine = self.operation.outstanding().into_iter().filter(|to| to.host == host(name));
        let to = mine.next().unwrap_or_else(|| panic!("{name} has no order: {}", self.orders()));
        let (host, stage, attempt) = (to.host, to.stage, to.attempt);
        self.input(Input::TrackEnded { host, stage, attempt, ending: ending(end, reason) });
    }

    /// Everything in flight ends well until these are in flight.
    pub(crate) fn until(&mut self, orders: &str) {
        for _ in 0..20 {
            let Some(to) = self.operation.outstanding().into_iter().next() else { break };
            if self.orders() == orders {
                return;
            }
            let end = match to.goal {
                Goal::Forward => TrackEnd::Done,
                Goal::Undo => TrackEnd::Undone,
            };
            self.end(to.host.as_str(), end, "");
        }
        assert_eq!(self.orders(), orders);
    }

    pub(crate) fn lost(&mut self, name: &str) {
        self.input(Input::AgentLost { host: host(name) });
        self.now = self.now.plus(self.operation.plan().unknown_after_ms);
        self.input(Input::Tick);
    }

    pub(crate) fn back(&mut self, name: &str, tracks: Vec<SeenTrack>) {
        self.input(Input::AgentBack { host: host(name), tracks });
    }

    fn outcome(&self, name: &str) -> (Outcome, String) {
        let mut rows = self.operation.outcomes().into_iter().filter(|row| row.host == host(name));
        let row = rows.next().unwrap();
        (row.outcome, row.reason)
    }

    pub(crate) fn result(&self) -> RunResult {
        match self.operation.phase() {
            Phase::Ended(result) => result,
            phase @ (Phase::Running | Phase::Paused | Phase::Halting | Phase::Aborting(_)) => {
                panic!("it has not ended: {phase:?}, {}", self.orders())
            }
        }
    }
}

fn ending(end: TrackEnd, reason: &str) -> TrackEnding {
    TrackEnding { end, reason: reason.to_owned(), steps: vec![], evidence: vec![] }
}

pub(crate) fn seen(stage: usize, end: Option<TrackEnd>) -> SeenTrack {
    SeenTrack { stage, attempt: 1, ending: end.map(|end| ending(end, "")) }
}

fn to_v2(world: &World) -> Plan {
    let request = Request { to: Some(release("v2")), ..Request::default() };
    planner::rollback(&world.inventory(), &request).unwrap()
}

/// Apps move, the edge is in place: it only looks.
fn looking() -> World {
    let mut world = World::with_edge();
    world.strategy().budget_out = Share::Hosts(2);
    world.live_on(&["lb"], "v2");
    world
}

/// Apps move, then the edge.
fn moving() -> World {
    let mut world = World::with_edge();
    world.strategy().budget_out = Share::Hosts(2);
    world
}

const BAD_GATEWAY: &str = "verify proxy: GET https://crm.example/ → 502, 30 of 30";

#[test]
fn a_bad_look_from_the_edge_puts_nothing_back_and_is_unverified() {
    for end in [TrackEnd::Left, TrackEnd::Undone, TrackEnd::Refused, TrackEnd::Stuck] {
        let mut run = Run::of(to_v2(&looking()));
        run.until("lb/2→");
        run.end("lb", end, BAD_GATEWAY);
        assert_eq!(run.result(), RunResult::Unverified, "{end:?}");
        assert_eq!(run.outcome("lb"), (Outcome::Failed, BAD_GATEWAY.to_owned()));
        assert_eq!(run.outcome("b1").0, Outcome::Restored);
    }
}

#[test]
fn an_edge_that_cannot_be_reached_is_unknown_until_it_has_looked() {
    for late in [LateHosts::Wait, LateHosts::Rollback] {
        let mut world = looking();
        world.strategy().late_hosts = late;
        let mut run = Run::of(to_v2(&world));
        run.until("lb/2→");
        run.lost("lb");
        assert_eq!(run.result(), RunResult::Mixed);
        assert_eq!(run.outcome("lb").0, Outcome::Unknown);
        // Its ledger never saw the order. To look changes nothing, whatever the file says of late hosts.
        run.back("lb", vec![]);
        assert_eq!(run.orders(), "lb/2→");
        run.end("lb", TrackEnd::Done, "");
        assert_eq!(run.result(), RunResult::Verified);
    }
}

#[test]
fn an_edge_that_only_looks_counts_against_no_budget() {
    let mut world = looking();
    world.strategy().budget_out = Share::Hosts(1);
    world.strategy().budget_unknown = 0;
    let mut run = Run::of(to_v2(&world));
    run.lost("lb");
    run.until("b1/1→");
    run.until("b2/1→");
    run.until("lb/2→");
    run.now = run.now.plus(world.fleet().rollback.unknown_after_ms);
    run.input(Input::Tick);
    assert_eq!(run.result(), RunResult::Mixed, "its order was sent and nobody heard of it");
    assert_eq!(run.operation.halted(), None);
    assert_eq!(run.outcome("b2").0, Outcome::Restored);
}

#[test]
fn a_retry_looks_again() {
    let mut run = Run::of(to_v2(&looking()));
    run.until("lb/2→");
    run.end("lb", TrackEnd::Left, BAD_GATEWAY);
    run.ask(Ask::Retry(vec![host("lb")]));
    run.until("lb/2→");
    run.end("lb", TrackEnd::Done, "");
    assert_eq!(run.result(), RunResult::Verified);
}

/// What was seen before a host moved again is not what users get afterwards.
#[test]
fn a_host_that_is_tried_again_is_looked_at_again() {
    let mut world = looking();
    world.strategy().budget_failed = 1;
    let mut run = Run::of(to_v2(&world));
    run.until("b1/1→");
    run.end("b1", TrackEnd::Undone, "it did not start");
    run.until("lb/2→");
    run.end("lb", TrackEnd::Done, "");
    assert_eq!(run.result(), RunResult::Mixed);
    run.ask(Ask::Retry(vec![host("b1")]));
    run.until("b1/1→");
    run.until("lb/2→");
    run.end("lb", TrackEnd::Left, BAD_GATEWAY);
    assert_eq!(run.result(), RunResult::Unverified);
}

#[test]
fn all_on_target_but_not_looked_at_is_unverified() {
    let mut run = Run::of(to_v2(&looking()));
    run.until("b2/1→");
    run.ask(Ask::Abort(Abort::Leave));
    run.end("b2", TrackEnd::Done, "");
    assert_eq!(run.result(), RunResult::Unverified);
    assert_eq!(run.outcome("lb").0, Outcome::Original);
}

#[test]
fn what_was_put_back_is_not_looked_at() {
    let mut run = Run::of(to_v2(&looking()));
    run.until("b1/1→");
    run.end("b1", TrackEnd::Undone, "it did not start");
    assert_eq!(run.result(), RunResult::PutBack, "b2 and the edge were never begun");
    assert_eq!(run.outcome("lb").0, Outcome::Original);
}

#[test]
fn an_abort_takes_the_edge_back_before_the_apps() {
    let mut run = Run::of(to_v2(&moving()));
    run.until("lb/2→");
    run.ask(Ask::Abort(Abort::Restore));
    assert_eq!(run.orders(), "lb/2←", "the apps that it needs wait");
    run.end("lb", TrackEnd::Undone, "");
    assert_eq!(run.orders(), "b1/1← b2/1←", "as many as may be out");
    run.end("b1", TrackEnd::Undone, "");
    run.end("b2", TrackEnd::Undone, "");
    assert_eq!(run.result(), RunResult::PutBack);
}

#[test]
fn an_edge_that_cannot_be_taken_back_holds_up_no_app() {
    for fate in [Some(TrackEnd::Stuck), None] {
        let mut run = Run::of(to_v2(&moving()));
        run.until("lb/2→");
        run.ask(Ask::Abort(Abort::Restore));
        match fate {
            Some(end) => run.end("lb", end, "the disk is full"),
            None => run.lost("lb"),
        }
        assert_eq!(run.orders(), "b1/1← b2/1←");
        run.end("b1", TrackEnd::Undone, "");
        run.end("b2", TrackEnd::Undone, "");
        assert_eq!(run.result(), RunResult::Mixed);
    }
}

#[test]
fn an_abort_while_the_edge_looks_takes_the_apps_back() {
    let mut run = Run::of(to_v2(&looking()));
    run.until("lb/2→");
    run.ask(Ask::Abort(Abort::Restore));
    assert_eq!(run.orders(), "b1/1← b2/1← lb/2→", "there is nothing to take back of a look");
    run.end("b1", TrackEnd::Undone, "");
    run.end("b2", TrackEnd::Undone, "");
    run.end("lb", TrackEnd::Left, BAD_GATEWAY);
    assert_eq!(run.result(), RunResult::PutBack);
    assert_eq!(run.outcome("lb").0, Outcome::Original, "what it saw was taken back");
}

#[test]
fn a_retry_of_one_host_begins_no_other() {
    let mut world = moving();
    world.strategy().budget_out = Share::Hosts(1);
    let mut run = Run::of(to_v2(&world));
    run.until("b1/1→");
    run.end("b1", TrackEnd::Undone, "it did not start");
    assert_eq!(run.result(), RunResult::PutBack);
    run.ask(Ask::Retry(vec![host("b1")]));
    run.until("b1/1→");
    run.end("b1", TrackEnd::Done, "");
    assert_eq!(run.operation.phase(), Phase::Ended(RunResult::Mixed), "{}", run.orders());
    assert_eq!(run.outcome("b2").0, Outcome::Original);
    assert_eq!(run.outcome("lb").0, Outcome::Original);
    // Those that had not begun go on when they are named.
    run.ask(Ask::Retry(vec![host("b2"), host("lb")]));
    run.until("b2/1→");
    run.until("lb/2→");
    run.end("lb", TrackEnd::Done, "");
    assert_eq!(run.result(), RunResult::Verified);
}

/// What a late host did while an abort took everything else back.
fn late_after(abort: Abort, tracks: Vec<SeenTrack>) -> Run {
    let mut world = moving();
    world.strategy().batches = vec![Share::Hosts(2)];
    let mut run = Run::of(to_v2(&world));
    run.until("b1/1→ b2/1→");
    run.lost("b1");
    run.ask(Ask::Abort(abort));
    run.end("b2", if abort == Abort::Leave { TrackEnd::Done } else { TrackEnd::Undone }, "");
    assert_eq!(run.result(), RunResult::Mixed);
    run.back("b1", tracks);
    run
}

#[test]
fn an_abort_with_restore_also_holds_for_what_comes_late() {
    for track in [seen(1, Some(TrackEnd::Done)), seen(1, Some(TrackEnd::Left)), seen(1, None)] {
        let mut run = late_after(Abort::Restore, vec![track]);
        assert_eq!(run.orders(), "b1/1←");
        run.end("b1", TrackEnd::Undone, "");
        assert_eq!(run.result(), RunResult::PutBack);
    }
    let run = late_after(Abort::Restore, vec![seen(1, Some(TrackEnd::Undone))]);
    assert_eq!(run.result(), RunResult::PutBack, "it had taken itself back");
    let run = late_after(Abort::Restore, vec![]);
    assert_eq!(run.result(), RunResult::PutBack, "it never began; it is left alone");
    assert_eq!(run.outcome("b1").0, Outcome::Original);
}

#[test]
fn an_abort_with_leave_leaves_what_comes_late_and_tells() {
    let run = late_after(Abort::Leave, vec![seen(1, Some(TrackEnd::Done))]);
    assert_eq!(run.result(), RunResult::Mixed, "the edge did not begin");
    assert_eq!(run.outcome("b1").0, Outcome::Restored);
    assert_eq!(run.outcome("lb").0, Outcome::Original);
    let run = late_after(Abort::Leave, vec![]);
    assert_eq!((run.result(), run.outcome("b1").0), (RunResult::Mixed, Outcome::Original));
}

#[test]
fn failed_apps_within_their_budget_leave_the_edge_its_own() {
    let mut world = moving();
    world.strategy().budget_failed = 1;
    world.strategy().budget_out = Share::Percent(50);
    let mut run = Run::of(to_v2(&world));
    run.until("b1/1→");
    run.end("b1", TrackEnd::Undone, "it did not start");
    // One of two apps may be out, and is; nothing more of that stage begins.
    assert_eq!(run.result(), RunResult::PutBack);
    let mut world = moving();
    world.strategy().budget_failed = 1;
    let mut run = Run::of(to_v2(&world));
    run.until("b1/1→");
    run.end("b1", TrackEnd::Undone, "it did not start");
    run.until("b2/1→");
    run.until("lb/2→");
    run.end("lb", TrackEnd::Done, "");
    assert_eq!(run.result(), RunResult::Mixed);
}

/// A host that was unknown in prepare and tells that it is ready when the edge is at work already.
#[test]
fn a_late_app_goes_back_before_more_of_the_edge() {
    let mut world = moving();
    world.strategy().budget_unknown = 1;
    let mut run = Run::of(to_v2(&world));
    run.lost("b1");
    run.until("b2/1→");
    run.until("lb/2→");
    run.back("b1", vec![seen(0, None)]);
    assert_eq!(run.orders(), "b1/0→ lb/2→", "it is still at work on its first stage");
    run.end("b1", TrackEnd::Done, "");
    assert_eq!(run.orders(), "b1/1→ lb/2→", "and then it goes back");
    run.end("b1", TrackEnd::Done, "");
    run.end("lb", TrackEnd::Done, "");
    assert_eq!(run.result(), RunResult::Verified);
}

#[test]
fn the_next_stage_waits_for_a_host_that_is_seen_at_work_while_it_soaks() {
    let mut world = moving();
    world.strategy().soak_ms = 60_000;
    let mut run = Run::of(to_v2(&world));
    run.until("b1/1→");
    run.lost("b1");
    run.until("b2/1→");
    run.end("b2", TrackEnd::Done, "");
    assert_eq!(run.orders(), "", "it soaks");
    run.back("b1", vec![seen(1, None)]);
    run.now = run.now.plus(60_000);
    run.input(Input::Tick);
    assert_eq!(run.orders(), "b1/1→", "the edge needs it");
    run.end("b1", TrackEnd::Done, "");
    run.now = run.now.plus(60_000);
    run.input(Input::Tick);
    assert_eq!(run.orders(), "lb/2→");
}

/// Nothing but looks: the fleet is on target, and the edge says no.
#[test]
fn a_fleet_that_is_in_place_is_verified_or_not() {
    let mut world = looking();
    world.live_on(&["b1", "b2"], "v2");
    for (end, result) in
        [(TrackEnd::Done, RunResult::Verified), (TrackEnd::Left, RunResult::Unverified)]
    {
        let plan = to_v2(&world);
        let names: Vec<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["verify", "verify from the edge"]);
        let hosts: Vec<HostName> = plan.stages[0].tracks().map(|t| t.host.clone()).collect();
        assert_eq!(hosts, [host("b1"), host("b2")]);
        let mut run = Run::of(plan);
        run.until("lb/1→");
        run.end("lb", end, BAD_GATEWAY);
        assert_eq!(run.result(), result);
    }
}
