//! Runs in which root takes a host over, case by case: the host is asked for nothing more, the others go on.
//!
//! ```text
//! prepare a b c ─▶ cut a, b, c ─▶ look d       Overtaken(host) at any of these moments
//! ```

use engine::{
    Abort, Ask, Budget, Command, Elapsed, Goal, HostName, Input, LateHosts, Operation, Outcome,
    Phase, RunResult, TrackEnd, TrackEnding, decide,
};

use crate::plans::{Does, Shape, Sketch, UNKNOWN_AFTER_MS, host};

const WIDE: Budget = Budget { failed: 9, unknown: 9, out: 9 };
/// The host that only looks.
const LOOKS: usize = 3;

struct Run {
    operation: Operation,
    now: Elapsed,
}

impl Run {
    /// Three hosts that prepare and move, one after the other; then one that looks. Nobody may fail in prepare.
    fn new(late_hosts: LateHosts) -> Self {
        let shape = |batches, budget, does| Shape { batches, budget, soak_ms: 0, does };
        let prepare = Budget { failed: 0, ..WIDE };
        let stages = vec![
            shape(vec![vec![0, 1, 2]], prepare, Does::Prepare),
            shape(vec![vec![0], vec![1], vec![2]], WIDE, Does::Cut),
            shape(vec![vec![LOOKS]], WIDE, Does::Look),
        ];
        let sketch = Sketch { hosts: 4, away: vec![], stages, late_hosts };
        let mut run = Self { operation: sketch.open(), now: Elapsed(0) };
        run.input(Input::Tick);
        run
    }

    /// Everybody is prepared; the first host moves.
    fn moving() -> Self {
        let mut run = Self::new(LateHosts::Rollback);
        (0..3).for_each(|n| run.end(n, TrackEnd::Done));
        run
    }

    fn input(&mut self, input: Input) {
        for event in decide(&self.operation, vec![input], self.now) {
            self.operation.apply(&event).unwrap();
        }
    }

    fn ask(&mut self, ask: Ask) {
        self.input(Input::Asked { ask, by: "ada".to_owned() });
    }

    fn taken(&mut self, n: usize) {
        self.input(Input::Overtaken { host: host(n), why: "root took it".to_owned() });
    }

    fn lost(&mut self, n: usize) {
        self.input(Input::AgentLost { host: host(n) });
        self.now = self.now.plus(UNKNOWN_AFTER_MS);
        self.input(Input::Tick);
    }

    fn end(&mut self, n: usize, end: TrackEnd) {
        let mut mine = self.operation.outstanding().into_iter().filter(|to| to.host == host(n));
        let to = mine.next().unwrap_or_else(|| panic!("no order for {n}: {:?}", self.orders()));
        let ending = TrackEnding { end, reason: String::new(), steps: vec![], evidence: vec![] };
        let (host, stage, attempt) = (to.host, to.stage, to.attempt);
        self.input(Input::TrackEnded { host, stage, attempt, ending });
    }

    fn orders(&self) -> Vec<(HostName, usize, Goal)> {
        let row = |to: Command| (to.host, to.stage, to.goal);
        self.operation.outstanding().into_iter().map(row).collect()
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.operation.outcomes().into_iter().map(|row| row.outcome).collect()
    }

    fn result(&self) -> RunResult {
        let phase = self.operation.phase();
        let Phase::Ended(result) = phase else { panic!("{phase:?}: {:?}", self.orders()) };
        result
    }
}

#[test]
fn the_others_go_on_and_the_result_is_mixed() {
    let mut run = Run::moving();
    run.taken(0);
    run.end(1, TrackEnd::Done);
    run.end(2, TrackEnd::Done);
    run.end(LOOKS, TrackEnd::Done);
    assert_eq!(run.result(), RunResult::Mixed);
    let row = run.operation.outcomes().remove(0);
    assert_eq!((row.outcome, row.reason.as_str()), (Outcome::Failed, "root took it"));
}

/// What it says afterwards, late or not, is about what does not hold any more.
#[test]
fn nothing_that_it_says_afterwards_counts() {
    let mut run = Run::moving();
    let to = run.operation.outstanding().remove(0);
    run.taken(0);
    let before = run.operation.clone();
    let ending =
        TrackEnding { end: TrackEnd::Done, reason: String::new(), steps: vec![], evidence: vec![] };
    run.input(Input::TrackEnded { host: to.host, stage: to.stage, attempt: to.attempt, ending });
    run.input(Input::AgentBack { host: host(0), tracks: vec![] });
    run.taken(0);
    assert_eq!(run.operation, before);
}

#[test]
fn no_retry_brings_it_back_nor_begins_it_with_another() {
    let mut run = Run::moving();
    run.taken(0);
    run.end(1, TrackEnd::Undone);
    run.end(2, TrackEnd::Done);
    run.end(LOOKS, TrackEnd::Done);
    for hosts in [vec![host(0)], vec![host(0), host(1)]] {
        assert!(!run.operation.allows(&Ask::Retry(hosts)));
    }
    run.ask(Ask::Retry(vec![host(1)]));
    // It was prepared when root came: that is no failure of the stage that everybody goes through again.
    assert_eq!(run.orders(), [(host(1), 0, Goal::Forward)]);
    run.end(1, TrackEnd::Done);
    run.end(1, TrackEnd::Done);
    run.end(LOOKS, TrackEnd::Done);
    assert_eq!(run.result(), RunResult::Mixed);
    assert_eq!(run.outcomes()[..2], [Outcome::Failed, Outcome::Restored]);
}

/// One that fails of itself, and is root's afterwards.
#[test]
fn a_host_that_is_stuck_when_root_comes_is_not_retried_either() {
    let mut run = Run::moving();
    run.end(0, TrackEnd::Stuck);
    run.taken(0);
    run.end(1, TrackEnd::Undone);
    run.end(2, TrackEnd::Done);
    run.end(LOOKS, TrackEnd::Done);
    assert!(!run.operation.allows(&Ask::Retry(vec![host(0)])));
}

#[test]
fn in_prepare_it_is_reason_enough_not_to_begin() {
    let mut run = Run::new(LateHosts::Rollback);
    run.taken(0);
    run.end(1, TrackEnd::Done);
    run.end(2, TrackEnd::Done);
    assert_eq!(run.result(), RunResult::Refused);
    assert_eq!(run.outcomes()[0], Outcome::Failed);
}

#[test]
fn a_late_host_goes_on_beside_one_that_root_took_later_than_prepare() {
    let mut run = Run::new(LateHosts::Rollback);
    run.end(0, TrackEnd::Done);
    run.end(1, TrackEnd::Done);
    run.lost(2);
    run.taken(0);
    run.end(1, TrackEnd::Done);
    run.end(LOOKS, TrackEnd::Done);
    assert_eq!(run.result(), RunResult::Mixed);
    run.input(Input::AgentBack { host: host(2), tracks: vec![] });
    assert_eq!(run.orders(), [(host(2), 0, Goal::Forward)], "{:?}", run.operation.halted());
    run.end(2, TrackEnd::Done);
    run.end(2, TrackEnd::Done);
    assert_eq!(run.orders(), [(host(LOOKS), 2, Goal::Forward)], "users get another thing now");
}

#[test]
fn a_late_host_that_root_took_is_not_brought_along() {
    let mut run = Run::moving();
    run.lost(0);
    run.end(1, TrackEnd::Done);
    run.end(2, TrackEnd::Done);
    run.end(LOOKS, TrackEnd::Done);
    assert_eq!(run.outcomes()[0], Outcome::Unknown);
    run.taken(0);
    run.input(Input::AgentBack { host: host(0), tracks: vec![] });
    assert_eq!((run.result(), run.outcomes()[0]), (RunResult::Mixed, Outcome::Failed));
}

/// In several stages, done in some: none of them is taken back over root's head.
#[test]
fn an_abort_takes_back_the_others_and_leaves_it_alone() {
    let mut run = Run::moving();
    run.end(0, TrackEnd::Done);
    run.end(1, TrackEnd::Done);
    run.taken(0);
    run.ask(Ask::Abort(Abort::Restore));
    let undo = |n| (host(n), 1, Goal::Undo);
    assert_eq!(run.orders(), [undo(1), undo(2)]);
    run.taken(2);
    assert_eq!(run.orders(), [undo(1)], "it holds up nobody");
    run.end(1, TrackEnd::Undone);
    assert_eq!(run.result(), RunResult::Mixed);
    let ends = [Outcome::Failed, Outcome::Original, Outcome::Failed, Outcome::Original];
    assert_eq!(run.outcomes(), ends);
}

/// What a host that only looks saw is worth nothing once root was there: not before an abort, nor after a retry.
#[test]
fn a_host_that_only_looks_needs_a_person_too() {
    for abort in [false, true] {
        let mut run = Run::moving();
        run.end(0, TrackEnd::Undone);
        run.end(1, TrackEnd::Done);
        run.end(2, TrackEnd::Done);
        run.taken(LOOKS);
        assert_eq!((run.result(), run.outcomes()[LOOKS]), (RunResult::Mixed, Outcome::Failed));
        run.ask(Ask::Retry(vec![host(0)]));
        run.end(0, TrackEnd::Done);
        if abort {
            run.ask(Ask::Abort(Abort::Restore));
            (0..3).for_each(|n| run.end(n, TrackEnd::Undone));
        } else {
            run.end(0, TrackEnd::Done);
        }
        assert_eq!((run.result(), run.outcomes()[LOOKS]), (RunResult::Mixed, Outcome::Failed));
    }
}
