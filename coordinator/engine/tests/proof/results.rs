//! Which ends of hosts give which result of the run, as a table.

use std::fmt::Write as _;

use engine::{
    Abort, Ask, Budget, Elapsed, Goal, Input, Operation, Phase, RunResult, TrackEnd, TrackEnding,
    decide,
};

use crate::plans::{Sketch, host};

/// How a host of the run fares in the stage that cuts; `Lost` never answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fare {
    Ends(TrackEnd),
    Lost,
}

const FARES: [(&str, Fare); 6] = [
    ("done", Fare::Ends(TrackEnd::Done)),
    ("undone", Fare::Ends(TrackEnd::Undone)),
    ("refused", Fare::Ends(TrackEnd::Refused)),
    ("left", Fare::Ends(TrackEnd::Left)),
    ("stuck", Fare::Ends(TrackEnd::Stuck)),
    ("lost", Fare::Lost),
];

/// A budget that halts nothing.
const WIDE: Budget = Budget { failed: 9, unknown: 9, out: 9 };

struct Run {
    operation: Operation,
    now: Elapsed,
}

impl Run {
    fn of(sketch: &Sketch) -> Self {
        let mut run = Self { operation: sketch.open(), now: Elapsed(0) };
        run.input(Input::Tick);
        run
    }

    fn input(&mut self, input: Input) {
        for event in decide(&self.operation, vec![input], self.now) {
            self.operation.apply(&event).unwrap();
        }
    }

    fn end(&mut self, n: usize, end: TrackEnd) {
        let mut mine = self.operation.outstanding().into_iter().filter(|to| to.host == host(n));
        let to = mine.next().expect("the host has an order");
        // An order to go back is answered as such.
        let end = if to.goal == Goal::Undo { TrackEnd::Undone } else { end };
        let ending = TrackEnding { end, reason: String::new(), steps: vec![], evidence: vec![] };
        let (host, stage, attempt) = (to.host, to.stage, to.attempt);
        self.input(Input::TrackEnded { host, stage, attempt, ending });
    }

    fn fare(&mut self, n: usize, fare: Fare) {
        match fare {
            Fare::Ends(end) => self.end(n, end),
            Fare::Lost => {
                self.input(Input::AgentLost { host: host(n) });
                self.now = self.now.plus(crate::plans::UNKNOWN_AFTER_MS);
                self.input(Input::Tick);
            }
        }
    }

    fn result(&self) -> RunResult {
        let phase = self.operation.phase();
        let Phase::Ended(result) = phase else { panic!("it has not ended: {phase:?}") };
        result
    }
}

/// Two hosts prepared, then both fare as said.
fn both(one: Fare, other: Fare) -> RunResult {
    let mut run = Run::of(&Sketch::usual(2, WIDE));
    run.end(0, TrackEnd::Done);
    run.end(1, TrackEnd::Done);
    run.fare(0, one);
    run.fare(1, other);
    run.result()
}

#[test]
fn the_result_of_two_hosts() {
    let mut out = format!("{:8}", "");
    for (name, _) in FARES {
        write!(out, "  {name:10}").unwrap();
    }
    for (name, one) in FARES {
        write!(out, "\n{name:8}").unwrap();
        for (_, other) in FARES {
            let result = both(one, other);
            assert_eq!(result, both(other, one), "the order of hosts does not matter");
            write!(out, "  {:10}", format!("{result:?}")).unwrap();
        }
    }
    let lines: Vec<&str> = out.lines().map(str::trim_end).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn any_unknown_host_is_mixed_once_something_was_cut() {
    for (name, fare) in FARES {
        assert_eq!(both(Fare::Lost, fare), RunResult::Mixed, "lost and {name}");
    }
}

#[test]
fn all_original_is_put_back() {
    let undone = Fare::Ends(TrackEnd::Undone);
    assert_eq!(both(undone, undone), RunResult::PutBack);
}

#[test]
fn what_halts_in_prepare_is_refused() {
    let bad = FARES.into_iter().filter(|(_, fare)| *fare != Fare::Ends(TrackEnd::Done));
    for (name, fare) in bad.filter(|(_, fare)| *fare != Fare::Ends(TrackEnd::Left)) {
        let mut run = Run::of(&Sketch::usual(2, Budget { failed: 9, unknown: 0, out: 9 }));
        run.fare(0, fare);
        run.end(1, TrackEnd::Done);
        assert_eq!(run.result(), RunResult::Refused, "{name}");
    }
}

#[test]
fn an_abort_before_anything_was_cut_puts_back_what_was_never_moved() {
    for abort in [Abort::Leave, Abort::Restore] {
        let mut run = Run::of(&Sketch::usual(2, WIDE));
        run.input(Input::Asked { ask: Ask::Abort(abort), by: "ada".to_owned() });
        run.end(0, TrackEnd::Done);
        run.end(1, TrackEnd::Done);
        assert_eq!(run.result(), RunResult::PutBack, "{abort:?}");
    }
}

#[test]
fn an_abort_with_restore_takes_everything_back() {
    let mut run = Run::of(&Sketch::usual(2, WIDE));
    run.end(0, TrackEnd::Done);
    run.end(1, TrackEnd::Done);
    run.fare(0, Fare::Ends(TrackEnd::Done));
    run.input(Input::Asked { ask: Ask::Abort(Abort::Restore), by: "ada".to_owned() });
    let mut hosts: Vec<_> = run.operation.outstanding().into_iter().map(|to| to.goal).collect();
    hosts.dedup();
    assert_eq!(hosts, [Goal::Undo], "what is in work first, then what is done");
    run.end(1, TrackEnd::Done);
    run.end(0, TrackEnd::Done);
    assert_eq!(run.result(), RunResult::PutBack);
}

/// A late host settles what was mixed only because it was unknown.
#[test]
fn a_late_host_renews_the_result() {
    let mut run = Run::of(&Sketch::usual(2, WIDE));
    run.end(0, TrackEnd::Done);
    run.end(1, TrackEnd::Done);
    run.fare(0, Fare::Ends(TrackEnd::Undone));
    run.fare(1, Fare::Lost);
    assert_eq!(run.result(), RunResult::Mixed);
    run.input(Input::AgentBack { host: host(1), tracks: vec![] });
    assert_eq!(run.result(), RunResult::PutBack);
}
