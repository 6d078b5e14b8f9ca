//! What root orders on the host, against what coordinators order.

use super::*;
use crate::order::{MadeHere, Step};

const SWITCH: usize = 1;

fn step(verb: Verb) -> Step {
    Step {
        verb,
        component: "crm".to_owned(),
        release: "v1".to_owned(),
        snapshot: "5d2e".to_owned(),
        deadline_ms: 1,
        hook: String::new(),
        across_migrations: false,
        weights: None,
        artefact: None,
        at_once: false,
        forward: false,
    }
}

fn fence(epoch: u64, sequence: u64) -> Fence {
    Fence { epoch, instance: format!("i{epoch}"), sequence }
}

fn order(operation: &str, stage: u32, fence: Fence) -> Order {
    Order {
        key: TrackKey { operation: operation.to_owned(), stage },
        attempt: 1,
        plan_hash: "p".to_owned(),
        fence,
        goal: Goal::Forward,
        steps: [Verb::Stop, Verb::Switch, Verb::Verify].map(step).to_vec(),
        on_failure: OnFailure::Restore,
        traceparent: String::new(),
        origin: Origin::Coordinator,
        after: String::new(),
        taken: None,
    }
}

fn local(operation: &str, verbs: &[Verb]) -> LocalOrder {
    LocalOrder {
        made: MadeHere {
            operation: operation.to_owned(),
            by: "root".to_owned(),
            at_unix_ms: 1,
            release: "v1".to_owned(),
        },
        plan_hash: "l".to_owned(),
        steps: verbs.iter().copied().map(step).collect(),
        on_failure: OnFailure::Restore,
        trial: None,
    }
}

const CUTS: [Verb; 3] = [Verb::Stop, Verb::Switch, Verb::Verify];

/// A worker, driven by hand.
#[derive(Default)]
struct Bench(Ledger);

impl Bench {
    fn tell(&mut self, input: Input) -> Option<Reply> {
        let decision = decide(&self.0, input);
        decision.records.iter().for_each(|record| self.0.apply(record));
        decision.reply
    }

    fn order(&mut self, order: Order) -> Option<Reply> {
        self.tell(Input::Order { order, forbidden: None })
    }

    fn local(&mut self, order: &LocalOrder) -> Option<Reply> {
        self.tell(Input::Local { order: order.clone(), forbidden: None })
    }

    /// Does the next piece of work, well.
    fn work(&mut self) -> bool {
        let result =
            || StepResult { ok: true, detail: String::new(), duration_ms: 1, evidence: None };
        let input = match work(&self.0) {
            None => return false,
            Some(Work::Look { key, index }) => {
                Input::Looked { key, index, before: Ok(Before::Running(vec!["app".to_owned()])) }
            }
            Some(Work::Perform { key, index }) => Input::Performed { key, index, result: result() },
            Some(Work::Observe { key, index, .. }) => {
                Input::Observed { key, index, found: Found::NotDone, evidence: None }
            }
            Some(Work::Undo { key, index, .. }) => Input::Undone { key, index, result: result() },
        };
        self.tell(input);
        true
    }

    fn work_to_the_end(&mut self) {
        while self.work() {}
    }

    fn ending(&self, operation: &str, stage: u32) -> Option<End> {
        let key = TrackKey { operation: operation.to_owned(), stage };
        self.0.tracks[&key].ending.as_ref().map(|ending| ending.end)
    }
}

#[test]
fn p01_on_an_idle_host_it_is_begun_above_the_coordinators_fence() {
    let mut bench = Bench::default();
    bench.tell(Input::Welcomed(fence(3, 0)));
    assert_eq!(bench.local(&local("local-1", &CUTS)), Some(Reply::Taken));
    let taken = bench.0.fence().unwrap().clone();
    assert_eq!((taken.epoch, taken.instance.as_str()), (3, "i3"));
    assert!(taken.sequence > 1_000_000);
    bench.work_to_the_end();
    assert_eq!(bench.ending("local-1", 0), Some(End::Done));
    assert_eq!(
        bench.local(&local("local-1", &CUTS)),
        Some(Reply::Refused("local-1 was begun already".to_owned()))
    );
}

#[test]
fn without_any_coordinator_ever_it_works_and_the_first_one_ranks_above() {
    let mut bench = Bench::default();
    assert_eq!(bench.local(&local("local-1", &CUTS)), Some(Reply::Taken));
    bench.work_to_the_end();
    assert_eq!(bench.tell(Input::Welcomed(fence(1, 0))), None);
    let new = Order { after: "local-1".to_owned(), ..order("rb-1", 0, fence(1, 1)) };
    assert_eq!(bench.order(new), Some(Reply::Taken));
}

#[test]
fn p04_an_open_track_is_taken_back_before_the_local_one_begins() {
    let mut bench = Bench::default();
    bench.order(order("rb-1", 1, fence(1, 1)));
    // Stopped, and in the middle of the switch.
    while work(&bench.0)
        != Some(Work::Perform { key: order("rb-1", 1, fence(1, 1)).key, index: SWITCH })
    {
        assert!(bench.work());
    }
    let local = local("local-1", &CUTS);
    assert_eq!(bench.local(&local), Some(Reply::Waits));
    assert_eq!(bench.local(&local), Some(Reply::Waits), "asked again it still waits");
    assert!(matches!(work(&bench.0), Some(Work::Perform { .. })), "a step is not cut short");
    bench.work_to_the_end();
    assert_eq!(bench.ending("rb-1", 1), Some(End::Undone), "nothing stays stopped");
    assert_eq!(bench.local(&local), Some(Reply::Taken));
    bench.work_to_the_end();
    assert_eq!(bench.ending("local-1", 0), Some(End::Done));
}

#[test]
fn p01_what_was_planned_before_is_refused_whoever_sends_it() {
    let mut bench = Bench::default();
    bench.order(order("rb-1", 0, fence(1, 1)));
    bench.work_to_the_end();
    bench.local(&local("local-1", &CUTS));
    let aware = |order: Order| Order { after: "local-1".to_owned(), ..order };
    let refused = |reply| matches!(reply, Some(Reply::Overtaken(_)));
    assert!(refused(bench.order(order("rb-1", 1, fence(1, 2)))), "while it runs");
    bench.work_to_the_end();
    assert!(refused(bench.order(order("rb-1", 1, fence(1, 2)))), "below its fence");
    assert!(refused(bench.order(order("rb-1", 0, fence(1, 1)))), "its end is no answer any more");
    assert!(refused(bench.order(order("rb-2", 0, fence(2, 1)))), "of a sender that does not know");
    assert!(
        refused(bench.order(aware(order("rb-1", 1, fence(2, 1))))),
        "of an operation of before"
    );
    assert!(refused(bench.order(aware(order("rb-2", 0, fence(1, 2))))), "of before in its term");
    let above = bench.0.fence().unwrap().sequence + 1;
    assert_eq!(bench.order(aware(order("rb-2", 0, fence(1, above)))), Some(Reply::Taken));
}

#[test]
fn what_cuts_nothing_gives_way_and_overtakes_nobody() {
    let mut bench = Bench::default();
    bench.order(order("rb-1", 0, fence(1, 1)));
    let measure = local("local-1", &[Verb::Verify]);
    assert!(matches!(bench.local(&measure), Some(Reply::Refused(why)) if why.contains("rb-1")));
    bench.work_to_the_end();
    assert_eq!(bench.local(&measure), Some(Reply::Taken));
    bench.work_to_the_end();
    assert_eq!(bench.0.fence(), Some(&fence(1, 1)), "no coordinator's order is overtaken");
    assert_eq!(bench.order(order("rb-1", 1, fence(1, 2))), Some(Reply::Taken));
}

#[test]
fn one_local_operation_at_a_time() {
    let mut bench = Bench::default();
    bench.local(&local("local-1", &CUTS));
    let other = bench.local(&local("local-2", &CUTS));
    assert_eq!(other, Some(Reply::Refused("local-1 is at work on this host".to_owned())));
    let forbidden = Input::Local {
        order: local("local-3", &CUTS),
        forbidden: Some("not in the policy".to_owned()),
    };
    assert_eq!(bench.tell(forbidden), Some(Reply::Refused("not in the policy".to_owned())));
}

#[test]
fn what_was_taken_back_for_one_that_never_began_is_told_as_that() {
    let mut bench = Bench::default();
    bench.order(order("rb-1", 1, fence(1, 1)));
    bench.work();
    bench.work();
    bench.local(&local("local-1", &CUTS));
    bench.work_to_the_end();
    let rows = crate::local::operations(&bench.0);
    let ending = rows[0].ending.clone().unwrap();
    assert_eq!((rows.len(), ending.end), (1, End::Undone));
    assert_eq!(ending.reason, "rb-1 was taken back; nothing more was begun");
}

#[test]
fn a_local_track_survives_a_crash_like_any_other() {
    let mut bench = Bench::default();
    let mut records = Vec::new();
    let mut tell = |bench: &mut Bench, input| {
        let decision = decide(&bench.0, input);
        decision.records.iter().for_each(|record| bench.0.apply(record));
        records.extend(decision.records);
    };
    tell(&mut bench, Input::Local { order: local("local-1", &CUTS), forbidden: None });
    let Some(Work::Look { key, index }) = work(&bench.0) else { panic!("a look") };
    tell(&mut bench, Input::Looked { key, index, before: Ok(Before::Running(Vec::new())) });
    let text = serde_json::to_string(&records).unwrap();
    let records: Vec<Record> = serde_json::from_str(&text).unwrap();
    let again = Ledger::replay(&records);
    assert!(matches!(work(&again), Some(Work::Observe { undo: false, .. })));
    assert_eq!(crate::local::operations(&again).len(), 1);
}
