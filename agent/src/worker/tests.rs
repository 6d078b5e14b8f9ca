//! How a track ends when a step of it fails: by what the step is, what is in place, and the order's word.

use super::*;
use crate::order::Step;

const TRACK: [Verb; 6] =
    [Verb::Hook, Verb::Stop, Verb::Switch, Verb::Hook, Verb::Start, Verb::Verify];

fn order(verbs: &[Verb], goal: Goal, on_failure: OnFailure, attempt: u32) -> Order {
    let step = |verb: &Verb| Step {
        verb: *verb,
        component: "crm".to_owned(),
        release: "v1".to_owned(),
        snapshot: "a".repeat(64),
        deadline_ms: 1_000,
        hook: if *verb == Verb::Hook { "drain".to_owned() } else { String::new() },
        across_migrations: false,
        weights: None,
        artefact: None,
        at_once: false,
        forward: false,
    };
    Order {
        key: TrackKey { operation: "rb-0001".to_owned(), stage: 1 },
        attempt,
        plan_hash: "p".to_owned(),
        fence: Fence { epoch: 1, instance: "one".to_owned(), sequence: u64::from(attempt) },
        goal,
        steps: verbs.iter().map(step).collect(),
        on_failure,
        traceparent: String::new(),
        taken: None,
        origin: crate::order::Origin::Coordinator,
        after: String::new(),
    }
}

fn tell(ledger: &mut Ledger, input: Input) {
    for record in decide(ledger, input).records {
        ledger.apply(&record);
    }
}

/// Does all work; the step at `fails` fails. What was taken back, and how it ended.
fn run(ledger: &mut Ledger, fails: Option<usize>) -> (Vec<Verb>, End, String) {
    let mut back = Vec::new();
    while let Some(work) = work(ledger) {
        let result = |ok| StepResult {
            ok,
            detail: if ok { String::new() } else { "no".to_owned() },
            duration_ms: 0,
            evidence: None,
        };
        let input = match work {
            Work::Look { key, index } => Input::Looked { key, index, before: Ok(Before::Nothing) },
            Work::Perform { key, index } => {
                Input::Performed { key, index, result: result(fails != Some(index)) }
            }
            Work::Undo { key, index, .. } => {
                back.push(ledger.tracks[&key].order.steps[index].verb);
                Input::Undone { key, index, result: result(true) }
            }
            Work::Observe { key, index, .. } => {
                Input::Observed { key, index, found: Found::NotDone, evidence: None }
            }
        };
        tell(ledger, input);
    }
    let track = ledger.tracks().into_iter().next().expect("one track");
    let ending = track.ending().expect("no work is left").clone();
    (back, ending.end, ending.reason)
}

fn forward(
    verbs: &[Verb],
    on_failure: OnFailure,
    fails: Option<usize>,
) -> (Vec<Verb>, End, String) {
    let mut ledger = Ledger::default();
    let order = order(verbs, Goal::Forward, on_failure, 1);
    tell(&mut ledger, Input::Order { order, forbidden: None });
    run(&mut ledger, fails)
}

#[test]
fn a_failed_look_leaves_what_is_in_place_and_says_so() {
    for on_failure in [OnFailure::Restore, OnFailure::Leave] {
        let (back, end, reason) = forward(&[Verb::Verify, Verb::Verify], on_failure, Some(1));
        assert_eq!((back, end), (vec![], End::Left), "{on_failure:?}");
        assert_eq!(reason, "verify crm: no");
        assert_eq!(forward(&[Verb::Verify], on_failure, None).1, End::Done);
    }
}

#[test]
fn a_look_that_cannot_begin_is_not_as_it_was_before_either() {
    let mut ledger = Ledger::default();
    let look = order(&[Verb::Verify], Goal::Forward, OnFailure::Restore, 1);
    let key = look.key.clone();
    tell(&mut ledger, Input::Order { order: look, forbidden: None });
    tell(&mut ledger, Input::Looked { key, index: 0, before: Err("no answer".to_owned()) });
    assert_eq!(run(&mut ledger, None).1, End::Left);
}

#[test]
fn a_look_that_is_taken_back_by_order_is_undone() {
    let mut ledger = Ledger::default();
    let look = |goal, attempt| order(&[Verb::Verify], goal, OnFailure::Restore, attempt);
    tell(&mut ledger, Input::Order { order: look(Goal::Forward, 1), forbidden: None });
    run(&mut ledger, None);
    tell(&mut ledger, Input::Order { order: look(Goal::Undo, 2), forbidden: None });
    assert_eq!(run(&mut ledger, None).1, End::Undone);
}

/// With `restore` whatever fails is taken back; with `leave` only what is not yet in place. Hooks are never undone.
#[test]
fn a_track_that_cuts_ends_by_what_is_in_place() {
    let undone =
        |fails: usize| TRACK[..=fails].iter().rev().copied().filter(|v| v.cuts()).collect();
    for (fails, verb) in TRACK.into_iter().enumerate() {
        let (back, end, _) = forward(&TRACK, OnFailure::Restore, Some(fails));
        assert_eq!((back, end), (undone(fails), End::Undone), "step {fails}");
        let (back, end, reason) = forward(&TRACK, OnFailure::Leave, Some(fails));
        if verb == Verb::Verify {
            assert_eq!((back, end), (vec![], End::Left));
        } else {
            assert_eq!((back, end), (undone(fails), End::Undone), "step {fails}: {reason}");
        }
    }
    let after = [Verb::Switch, Verb::Reload, Verb::Verify, Verb::Hook];
    let (back, end, reason) = forward(&after, OnFailure::Leave, Some(3));
    assert_eq!(
        (back, end),
        (vec![], End::Left),
        "the release is in place when its last hook fails"
    );
    assert_eq!(reason, "hook drain of crm: no");
    let (back, end, _) = forward(&after, OnFailure::Restore, Some(3));
    assert_eq!((back, end), (vec![Verb::Reload, Verb::Switch], End::Undone), "last to first");
}

/// A file of an older agent has no such field.
#[test]
fn an_order_that_was_written_before_is_read() {
    let order = order(&[Verb::Preflight], Goal::Forward, OnFailure::Restore, 1);
    let text = serde_json::to_string(&order).expect("an order is data");
    assert!(!text.contains("across_migrations"), "{text}");
    assert_eq!(serde_json::from_str::<Order>(&text).expect("it reads"), order);
}
