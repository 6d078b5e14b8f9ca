//! What the agent does with an order, decided without any I/O.
//!
//! ```text
//! Input ─▶ decide ─▶ Records ─▶ (ledger, flushed) ─▶ Ledger::apply
//!             │                                          │
//!             └─▶ Reply                                  └─▶ work() : the one thing to do next
//! ```
//!
//! The shell does what [`work`] says, tells how it went as an [`Input`], and repeats. After a crash it starts
//! from the replayed ledger: there is no other path.
//!
//! Invariant: a step is begun only under the highest fence on record, and after what undoes it is on record.
//! Invariant: what a crash left open is looked at before anything is done to it.
//! Invariant: a track that cuts capacity runs to its end or is taken back; it never waits for the network.
//! Invariant: a track that only verifies ends as done or as left: there is nothing to take back, so that nothing is
//! said to be as it was before.
//! Invariant: what root orders on the host goes first: an open track of a coordinator is taken back, and what was
//! planned before is not begun here any more.
//! Invariant: a release on trial goes back once: that it does is on record with the order for it, in one append.

use crate::{
    ledger::{Found, Ledger, Moment, Over, Record, StepResult, Track, Trial},
    order::{
        Before, End, Ending, Evidence, Fence, Goal, LocalOrder, OnFailure, Order, Origin, TrackKey,
        Verb,
    },
};

/// An open step that was found undone after this many restarts is taken back: it may be what kills the agent.
const LOOKS_MAX: u32 = 3;
/// How often taking a step back is tried.
const UNDO_TRIES_MAX: u32 = 3;
/// How many ended tracks are kept for answers.
const TRACKS_KEPT: usize = 64;
/// How far ahead of a coordinator's sequence a local order is: above whatever it may have sent before it learns of it.
const LOCAL_AHEAD: u64 = 1 << 20;

/// What the world told.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A coordinator answered our hello: its term, with sequence 0. To be on record before the session tells what
    /// the ledger holds: what a coordinator was told must not be changed any more by one of an earlier term.
    Welcomed(Fence),
    /// An order came; `forbidden` says why this host's policy does not allow it, where it does not.
    Order {
        order: Order,
        forbidden: Option<String>,
    },
    /// Root orders something on the host itself; it is told again while it waits.
    Local {
        order: LocalOrder,
        forbidden: Option<String>,
    },
    /// How things are before a step.
    Looked {
        key: TrackKey,
        index: usize,
        before: Result<Before, String>,
    },
    Performed {
        key: TrackKey,
        index: usize,
        result: StepResult,
    },
    /// How far an open step got before a crash, in the direction that it had.
    Observed {
        key: TrackKey,
        index: usize,
        found: Found,
        evidence: Option<Evidence>,
    },
    Undone {
        key: TrackKey,
        index: usize,
        result: StepResult,
    },
    /// A release on trial was looked at.
    Tried {
        key: TrackKey,
        at: Moment,
        kept: bool,
    },
}

/// The one thing to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// See what would undo the step.
    Look {
        key: TrackKey,
        index: usize,
    },
    Perform {
        key: TrackKey,
        index: usize,
    },
    /// A crash left it open: see how far it got.
    Observe {
        key: TrackKey,
        index: usize,
        undo: bool,
    },
    Undo {
        key: TrackKey,
        index: usize,
        before: Before,
    },
}

/// What an order is answered with at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// It is on record and at work.
    Taken,
    /// It ended before; this is the answer for ever.
    Ended(TrackKey),
    /// It is not begun and will not be under this fence.
    Refused(String),
    /// It is not begun: root took this host since it was planned.
    Overtaken(String),
    /// A local order: an open track is taken back first.
    Waits,
}

/// What follows from an input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// To be durable before anything else is done.
    pub records: Vec<Record>,
    pub reply: Option<Reply>,
}

/// What follows from `input`; nothing, where it is late or out of place.
pub fn decide(ledger: &Ledger, input: Input) -> Decision {
    match input {
        Input::Welcomed(fence) => welcomed(ledger, fence),
        Input::Order { order, forbidden } => order_came(ledger, order, forbidden),
        Input::Local { order, forbidden } => local_came(ledger, order, forbidden),
        Input::Looked { key, index, before } => {
            records(if work(ledger) == Some(Work::Look { key: key.clone(), index }) {
                looked(ledger, key, index, before)
            } else {
                Vec::new()
            })
        }
        Input::Performed { key, index, result } => {
            records(if work(ledger) == Some(Work::Perform { key: key.clone(), index }) {
                let end = Record::StepEnded { key: key.clone(), index, result };
                then(ledger, vec![end], |ledger| after_step(ledger, &key, index))
            } else {
                Vec::new()
            })
        }
        Input::Observed { key, index, found, evidence } => {
            records(observed(ledger, key, index, found, evidence))
        }
        Input::Undone { key, index, result } => records(match work(ledger) {
            Some(Work::Undo { key: k, index: i, .. }) if k == key && i == index => {
                let end = Record::UndoEnded { key: key.clone(), index, result };
                then(ledger, vec![end], |ledger| go_back(ledger, &key))
            }
            Some(
                Work::Look { .. } | Work::Perform { .. } | Work::Observe { .. } | Work::Undo { .. },
            )
            | None => Vec::new(),
        }),
        Input::Tried { key, at, kept } => records(tried(ledger, key, &at, kept)),
    }
}

/// How much of its lease a release on trial has left, or that it is kept.
fn tried(ledger: &Ledger, key: TrackKey, at: &Moment, kept: bool) -> Vec<Record> {
    let Some((trial, _)) = ledger.on_trial(&key) else { return Vec::new() };
    let over = kept.then_some(Over::Kept);
    vec![Record::Trial { key, trial: Trial { over, ..trial.at(at) } }]
}

/// The one thing to do next: the same after a crash as before it, but that what was open is looked at first.
pub fn work(ledger: &Ledger) -> Option<Work> {
    let key = ledger.open.clone()?;
    let track = ledger.tracks.get(&key)?;
    if track.back.is_some() {
        let index = to_take_back(track)?;
        let step = &track.steps[index];
        if ledger.doubt && step.undo_begun > 0 {
            return Some(Work::Observe { key, index, undo: true });
        }
        let before = step.before().cloned().unwrap_or(Before::Nothing);
        return Some(Work::Undo { key, index, before });
    }
    match track.steps.iter().position(|step| step.result.is_none()) {
        Some(index) if track.steps[index].before.is_none() => Some(Work::Look { key, index }),
        Some(index) if ledger.doubt => Some(Work::Observe { key, index, undo: false }),
        Some(index) => Some(Work::Perform { key, index }),
        None => None,
    }
}

fn records(records: Vec<Record>) -> Decision {
    Decision { records, reply: None }
}

fn refuse(why: String) -> Decision {
    Decision { records: Vec::new(), reply: Some(Reply::Refused(why)) }
}

/// An open track keeps the term that it was begun under until an order of the new one takes it over.
fn welcomed(ledger: &Ledger, fence: Fence) -> Decision {
    match outranked(ledger, &fence) {
        Some(why) => refuse(why),
        None => {
            let idle = newer(ledger, &fence) && ledger.open().is_none();
            let fenced = idle.then_some(Record::Fenced(fence));
            let first = |trial: &Trial| trial.over.is_none() && !trial.welcomed;
            let trials = ledger.trials.iter().filter(|(_, trial)| first(trial));
            let welcomed = trials.map(|(key, trial)| {
                let trial = Trial { welcomed: true, ..trial.clone() };
                Record::Trial { key: key.clone(), trial }
            });
            records(fenced.into_iter().chain(welcomed).collect())
        }
    }
}

/// Why a coordinator has no say here, where it has none.
fn outranked(ledger: &Ledger, by: &Fence) -> Option<String> {
    let fence = ledger.fence()?;
    if by.epoch < fence.epoch {
        return Some(format!("epoch {} is over; this host has seen {}", by.epoch, fence.epoch));
    }
    let other = by.epoch == fence.epoch && by.instance != fence.instance;
    other.then(|| format!("another coordinator holds epoch {}", fence.epoch))
}

fn order_came(ledger: &Ledger, order: Order, forbidden: Option<String>) -> Decision {
    if let Some(why) = outranked(ledger, &order.fence) {
        return refuse(why);
    }
    if let Some(why) = overtaken(ledger, &order) {
        return Decision { records: Vec::new(), reply: Some(Reply::Overtaken(why)) };
    }
    if let Some(track) = ledger.tracks.get(&order.key) {
        if track.order.plan_hash != order.plan_hash {
            return refuse("this operation has another plan here".to_owned());
        }
        if order.attempt < track.order.attempt {
            return refuse(format!("attempt {} followed it", track.order.attempt));
        }
        if order.attempt == track.order.attempt {
            return known(ledger, track, &order);
        }
    }
    if !newer(ledger, &order.fence) {
        return refuse("a newer order came before it".to_owned());
    }
    if let Some(open) =
        ledger.open().filter(|open| open.order.key != order.key || order.goal == Goal::Forward)
    {
        let TrackKey { operation, stage } = &open.order.key;
        return refuse(format!("this host is at work on {operation}, stage {stage}"));
    }
    if let Some(why) = forbidden {
        return refuse(why);
    }
    accept(ledger, order)
}

/// Why an order was planned for a host that no longer is as it was then: its sender does not know of the newest local
/// operation, it is not above that one, or its operation was here before it. The recorded end of such a track is no
/// answer: it was true before.
fn overtaken(ledger: &Ledger, order: &Order) -> Option<String> {
    let local = ledger.newest_local()?;
    let made = local.order.origin.made_here()?;
    let fence = &local.order.fence;
    let below = (order.fence.epoch, order.fence.sequence) <= (fence.epoch, fence.sequence);
    let same = |track: &&Track| track.order.key.operation == order.key.operation;
    let before = |track: &Track| track.order.overtakes() || track.accepted < local.accepted;
    let planned_before = ledger.tracks.values().filter(same).any(before);
    let unaware = order.after != made.operation;
    (unaware || below || planned_before).then(|| made.took_over())
}

/// What root orders goes first. A coordinator's open track is taken back by an order for the same track, so that no
/// service is left stopped; the local one is accepted once nothing is open.
fn local_came(ledger: &Ledger, order: LocalOrder, forbidden: Option<String>) -> Decision {
    if order.trial.as_ref().is_some_and(|(tried, _)| ledger.on_trial(tried).is_none()) {
        return refuse("that trial is over".to_owned());
    }
    if let Some(refused) = forbidden {
        let not_begun = |why| Over::NotBegun { why, refused: refused.clone() };
        let records = trial_ends(ledger, &order, not_begun);
        return Decision { records, ..refuse(refused) };
    }
    let fence = local_fence(ledger, order.overtakes());
    let key = order.key();
    let origin = Origin::Host(order.made.clone());
    let Some(open) = ledger.open() else {
        if ledger.tracks.contains_key(&key) {
            return refuse(format!("{} was begun already", key.operation));
        }
        let back = |why| Over::Back { operation: key.operation.clone(), why };
        let mut records = trial_ends(ledger, &order, back);
        let LocalOrder { plan_hash, steps, on_failure, .. } = order;
        let (goal, traceparent) = (Goal::Forward, String::new());
        let (attempt, after) = (1, String::new());
        let order = Order {
            key,
            attempt,
            plan_hash,
            fence,
            goal,
            steps,
            on_failure,
            traceparent,
            origin,
            after,
            taken: None,
        };
        let accepted = accept(ledger, order);
        records.extend(accepted.records);
        return Decision { records, ..accepted };
    };
    // What changes something that serves ends soon, and may well be the way back that is wanted.
    if order.trial.is_some() && open.order.steps.iter().any(|step| step.verb.cuts()) {
        return refuse(format!("this host is at work on {}", open.order.key.operation));
    }
    match open.order.origin.made_here() {
        Some(made) if made.operation == key.operation => {
            return Decision { records: Vec::new(), reply: Some(Reply::Waits) };
        }
        Some(made) => return refuse(format!("{} is at work on this host", made.operation)),
        None if !order.overtakes() => {
            let TrackKey { operation, stage } = &open.order.key;
            return refuse(format!("this host is at work on {operation}, stage {stage}"));
        }
        None => {}
    }
    let attempt = open.order.attempt.saturating_add(1);
    let back = Order { attempt, fence, goal: Goal::Undo, origin, ..open.order.clone() };
    Decision { reply: Some(Reply::Waits), ..accept(ledger, back) }
}

/// How the trial ends that an order was made for, where it was.
fn trial_ends(
    ledger: &Ledger,
    order: &LocalOrder,
    over: impl FnOnce(String) -> Over,
) -> Vec<Record> {
    let Some((key, why)) = &order.trial else { return Vec::new() };
    let Some((trial, _)) = ledger.on_trial(key) else { return Vec::new() };
    let trial = Trial { over: Some(over(why.clone())), ..trial.clone() };
    vec![Record::Trial { key: key.clone(), trial }]
}

/// Under the term that is on record. What changes nothing that serves does not rise above its coordinator.
fn local_fence(ledger: &Ledger, overtakes: bool) -> Fence {
    // Epochs of coordinators begin at 1: the first one that comes ranks above it.
    let first = Fence { epoch: 0, instance: String::new(), sequence: 0 };
    let fence = ledger.fence().cloned().unwrap_or(first);
    let ahead = if overtakes { LOCAL_AHEAD } else { 0 };
    Fence { sequence: fence.sequence.saturating_add(ahead), ..fence }
}

/// The same order again: it is stamped anew, never done anew. While another track is open there is only the answer:
/// a fence above the one which that track runs under would let its next step begin below the highest on record.
fn known(ledger: &Ledger, track: &Track, order: &Order) -> Decision {
    let other = ledger.open().is_some_and(|open| open.order.key != order.key);
    let records = if newer(ledger, &order.fence) && !other {
        vec![Record::Fenced(order.fence.clone())]
    } else {
        Vec::new()
    };
    let reply = match track.ending {
        Some(_) => Reply::Ended(order.key.clone()),
        None => Reply::Taken,
    };
    Decision { records, reply: Some(reply) }
}

fn newer(ledger: &Ledger, new: &Fence) -> bool {
    ledger.fence().is_none_or(|old| (new.epoch, new.sequence) > (old.epoch, old.sequence))
}

fn accept(ledger: &Ledger, order: Order) -> Decision {
    let (key, goal) = (order.key.clone(), order.goal);
    // A running step is not cut short; its end turns the track back.
    let in_work = ledger.open_step().is_some();
    let mut new = Vec::new();
    let ended = ledger
        .tracks()
        .into_iter()
        .filter(|track| track.ending.is_some() && track.order.key != key)
        // Without it an order from before it could not be told from one after it.
        .filter(|track| ledger.newest_local().is_none_or(|local| local.accepted != track.accepted))
        // It says what the release on trial goes back to.
        .filter(|track| ledger.on_trial(&track.order.key).is_none());
    let surplus = ledger.tracks.len().saturating_sub(TRACKS_KEPT);
    new.extend(ended.take(surplus).map(|track| Record::Dropped { key: track.order.key.clone() }));
    new.push(Record::Accepted(Box::new(order)));
    let records = match goal {
        Goal::Forward => new,
        Goal::Undo if in_work => new,
        Goal::Undo => then(ledger, new, |ledger| {
            turn_back(ledger, &key, "it was taken back by order".to_owned())
        }),
    };
    Decision { records, reply: Some(Reply::Taken) }
}

fn looked(
    ledger: &Ledger,
    key: TrackKey,
    index: usize,
    before: Result<Before, String>,
) -> Vec<Record> {
    match before {
        Ok(before) => vec![Record::StepBegan { key, index, before }],
        Err(why) => {
            let verb = ledger.tracks[&key].order.steps[index].verb;
            turn_back(ledger, &key, format!("{verb}: {why}"))
        }
    }
}

/// A step has ended: on to the next, or back.
fn after_step(ledger: &Ledger, key: &TrackKey, index: usize) -> Vec<Record> {
    let track = &ledger.tracks[key];
    let Some(result) = &track.steps[index].result else { return Vec::new() };
    let step = &track.order.steps[index];
    if !result.ok {
        let name = if step.hook.is_empty() { String::new() } else { format!(" {} of", step.hook) };
        let why = format!("{}{name} {}: {}", step.verb, step.component, result.detail);
        let in_place = !step.verb.cuts() && in_place(track);
        return match (track.order.goal, track.order.on_failure) {
            (Goal::Forward, OnFailure::Leave) if in_place => vec![end(key, End::Left, why)],
            (Goal::Forward | Goal::Undo, OnFailure::Restore | OnFailure::Leave) => {
                turn_back(ledger, key, why)
            }
        };
    }
    if track.order.goal == Goal::Undo {
        return turn_back(ledger, key, "it was taken back by order".to_owned());
    }
    if track.steps.iter().all(|step| step.result.as_ref().is_some_and(|result| result.ok)) {
        return vec![end(key, End::Done, String::new())];
    }
    Vec::new()
}

fn observed(
    ledger: &Ledger,
    key: TrackKey,
    index: usize,
    found: Found,
    evidence: Option<Evidence>,
) -> Vec<Record> {
    let Some(Work::Observe { key: open, index: at, undo }) = work(ledger) else {
        return Vec::new();
    };
    if open != key || at != index {
        return Vec::new();
    }
    let seen = Record::Observed { key: key.clone(), index, found: found.clone() };
    let result =
        |ok, detail: &str| StepResult { ok, detail: detail.to_owned(), duration_ms: 0, evidence };
    let looks = ledger.tracks[&key].steps[index].looks + 1;
    match (found, undo) {
        (Found::Done, false) => {
            let result = result(true, "found done after a restart");
            let ended = Record::StepEnded { key: key.clone(), index, result };
            then(ledger, vec![seen, ended], |ledger| after_step(ledger, &key, index))
        }
        (Found::Done, true) => {
            let result = result(true, "found taken back after a restart");
            let ended = Record::UndoEnded { key: key.clone(), index, result };
            then(ledger, vec![seen, ended], |ledger| go_back(ledger, &key))
        }
        (Found::NotDone | Found::Partial, false)
            if looks <= LOOKS_MAX && !wants_back(ledger, &key) =>
        {
            vec![seen]
        }
        (Found::NotDone | Found::Partial, false) => then(ledger, vec![seen], |ledger| {
            let why = if wants_back(ledger, &key) {
                "it was taken back by order"
            } else {
                "the agent was restarted in it again and again"
            };
            turn_back(ledger, &key, why.to_owned())
        }),
        (Found::NotDone | Found::Partial, true) => vec![seen],
        (Found::Unknown(why), false) => {
            let why = format!("after a restart it could not be told how far it got: {why}");
            then(ledger, vec![seen], |ledger| turn_back(ledger, &key, why))
        }
        (Found::Unknown(why), true) => {
            let ended = Record::UndoEnded { key: key.clone(), index, result: result(false, &why) };
            then(ledger, vec![seen, ended], |ledger| go_back(ledger, &key))
        }
    }
}

fn wants_back(ledger: &Ledger, key: &TrackKey) -> bool {
    ledger.tracks.get(key).is_some_and(|track| track.order.goal == Goal::Undo)
}

fn turn_back(ledger: &Ledger, key: &TrackKey, why: String) -> Vec<Record> {
    let turned = Record::TurnedBack { key: key.clone(), why };
    then(ledger, vec![turned], |ledger| go_back(ledger, key))
}

/// Everything that changes what serves is done: the wanted release is in place, whatever follows says of it.
fn in_place(track: &Track) -> bool {
    let done = |index: usize| track.steps[index].result.as_ref().is_some_and(|result| result.ok);
    let cuts = |index: &usize| track.order.steps[*index].verb.cuts();
    let mut cutting = (0..track.steps.len()).filter(cuts).peekable();
    cutting.peek().is_some() && cutting.all(done)
}

/// Whether a track only verifies what is in place. Where that fails there is nothing to take back, and it is not as
/// it was before either: what was taken for good is not.
fn only_looks(track: &Track) -> bool {
    track.order.goal == Goal::Forward
        && track.order.steps.iter().all(|step| step.verb == Verb::Verify)
}

/// The next step to take back, or the end.
fn go_back(ledger: &Ledger, key: &TrackKey) -> Vec<Record> {
    let track = &ledger.tracks[key];
    let why = track.back.clone().unwrap_or_default();
    let Some(index) = to_take_back(track) else {
        let ended = if only_looks(track) { End::Left } else { End::Undone };
        return vec![end(key, ended, why)];
    };
    let step = &track.steps[index];
    match &step.undo {
        Some(failed) if step.undo_begun >= UNDO_TRIES_MAX => {
            let order = &track.order.steps[index];
            let stuck =
                format!("taking back {} {} failed: {}", order.verb, order.component, failed.detail);
            let reason = if why.is_empty() { stuck } else { format!("{why}; {stuck}") };
            vec![end(key, End::Stuck, reason)]
        }
        Some(_) | None => vec![Record::UndoBegan { key: key.clone(), index }],
    }
}

/// The last step that changed something and is not taken back, half-done ones included.
fn to_take_back(track: &Track) -> Option<usize> {
    (0..track.steps.len())
        .rev()
        .find(|&index| track.order.steps[index].verb.cuts() && track.steps[index].changed())
}

fn end(key: &TrackKey, end: End, reason: String) -> Record {
    Record::Ended { key: key.clone(), ending: Ending { end, reason } }
}

/// `records`, and what follows once they are applied.
fn then(
    ledger: &Ledger,
    mut records: Vec<Record>,
    next: impl FnOnce(&Ledger) -> Vec<Record>,
) -> Vec<Record> {
    let mut scratch = ledger.clone();
    for record in &records {
        scratch.apply(record);
    }
    records.extend(next(&scratch));
    records
}

#[cfg(test)]
mod local_tests;
#[cfg(test)]
mod tests;
