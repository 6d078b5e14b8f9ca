//! What happens next: all policy of a running operation lives here.
//!
//! ```text
//! inputs ─▶ answer (one by one) ─▶ advance (until nothing more follows) ─▶ events
//! ```
//!
//! Stages. The hosts of a stage begin in batches when the stage before has ended; a host goes into a stage when it has
//! done its own part in all earlier ones. Budgets are those of the stage: failed and unknown hosts of other stages do
//! not count in it. A late host brings an earlier stage back.
//!
//! Abort with restore. What is in work turns round at once. What is done is taken back last stage first, so that an
//! edge is back before the apps that it needs; within a stage, as many at once as its budget lets out. A host that is
//! unknown holds up nobody but itself: what it did in earlier stages is taken back when it has told how the later one
//! stands, or the later undo would put its own beginning in place again. The order also holds for hosts that come back
//! when the run has ended: what they had done or still do is taken back, what they had not begun is left alone. Abort
//! with leave, and a halt, leave late hosts as they are, and tell.
//!
//! Halt, and abort with leave. What a stage did only for those after it - hosts taken out of the traffic, writers
//! stopped, a part of the edges - is taken back when nothing is in work any more; on a host
//! that is unknown in a later stage, or tells late, when it tells.
//!
//! Retry. Only the hosts that were named go on, and those that come back late; hosts that had not begun wait for a
//! retry that names them. Edges move the traffic again, all of them or none. Hosts that only look, look again: what
//! users get may have changed.
//!
//! Canary. A stage with a gate leads on when its soak is over and the judge says pass, or when a person promotes it. The
//! judge's fail aborts, running or paused, and so does every halt: all of it goes back, the traffic first.
//!
//! Root. A host that root took over is asked for nothing more, whatever follows: no undo, no retry, no other look. It
//! counts as failed from the stage on that it had come to, not in those that had ended well there before.
//!
//! Invariant: pure. [`decide`] works on a scratch copy; the caller appends the events to the journal, flushes,
//! applies them, and only then acts.
//! Invariant: abort beats pause and halt; a track that was begun is never cut short but by its own undo.

use crate::{
    event::{Abort, Ask, Event, StepReport, TrackEnd, TrackEnding},
    judge::{Ruling, Verdict},
    name::HostName,
    operation::{HostState, Operation, Phase, Slot},
    time::Elapsed,
    track::{Goal, NOTHING_BEGUN, TrackState},
};

/// Who aborts what the judge fails.
pub const BY_THE_JUDGE: &str = "judge";
/// Who aborts a canary that cannot go on.
pub const BY_ITSELF: &str = "lastgood";

/// What the world told.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Time has passed.
    Tick,
    StepReported {
        host: HostName,
        stage: usize,
        attempt: u32,
        step: StepReport,
    },
    TrackEnded {
        host: HostName,
        stage: usize,
        attempt: u32,
        ending: TrackEnding,
    },
    AgentLost {
        host: HostName,
    },
    /// Its session begins. `tracks` is all that its ledger holds of this operation.
    AgentBack {
        host: HostName,
        tracks: Vec<SeenTrack>,
    },
    /// Root took the host over with an operation of its own since this one was planned.
    Overtaken {
        host: HostName,
        why: String,
    },
    Asked {
        ask: Ask,
        by: String,
    },
    /// What the judge says of the canary in a stage.
    Judged {
        stage: usize,
        ruling: Ruling,
    },
}

/// One order of this operation as an agent's ledger has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenTrack {
    pub stage: usize,
    pub attempt: u32,
    /// Absent while it runs.
    pub ending: Option<TrackEnding>,
}

/// The events that follow from `inputs`, in order; empty where nothing does.
pub fn decide(operation: &Operation, inputs: Vec<Input>, now: Elapsed) -> Vec<Event> {
    let mut scratch = operation.clone();
    let mut events = Vec::new();
    for input in inputs {
        let new = answer(&scratch, input, now);
        take(&mut scratch, new, &mut events);
    }
    // Each round makes at least one track or the phase move on, so it ends.
    loop {
        let next = advance(&scratch, now);
        if next.is_empty() {
            return events;
        }
        take(&mut scratch, next, &mut events);
    }
}

fn take(scratch: &mut Operation, new: Vec<Event>, events: &mut Vec<Event>) {
    for event in new {
        scratch.apply(&event).expect("decide emits only events that its own state allows");
        events.push(event);
    }
}

/// What an input means by itself. What is late, repeated or out of place means nothing.
fn answer(operation: &Operation, input: Input, at: Elapsed) -> Vec<Event> {
    match input {
        Input::Tick => Vec::new(),
        Input::StepReported { host, stage, attempt, step } => {
            match current(operation, &host, stage, attempt) {
                Some(slot)
                    if matches!(slot.state, TrackState::InWork { .. })
                        && operation.step(&host, stage, step.index).is_some()
                        && !slot.steps.contains(&step) =>
                {
                    vec![Event::StepReported { host, stage, attempt, step }]
                }
                Some(_) | None => Vec::new(),
            }
        }
        Input::TrackEnded { host, stage, attempt, ending } => {
            ended(operation, host, stage, attempt, ending, at)
        }
        Input::AgentLost { host } => match operation.hosts().get(&host) {
            Some(state) if state.lost.is_none() => vec![Event::HostLost { host, at }],
            Some(_) | None => Vec::new(),
        },
        Input::AgentBack { host, tracks } => back(operation, host, tracks, at),
        Input::Overtaken { host, why } => overtaken(operation, host, why, at),
        Input::Asked { ask, by } if allowed(operation, &ask) => vec![Event::Asked { ask, by, at }],
        Input::Asked { .. } => Vec::new(),
        Input::Judged { stage, ruling } => {
            let now = operation.gate_in_force() == Some(stage) && !operation.is_promoted();
            let new = operation.verdict() != Some(ruling.verdict);
            if !(now && new) {
                return Vec::new();
            }
            let failed = ruling.verdict == Verdict::Fail;
            let mut events = vec![Event::Judged { stage, ruling, at }];
            if failed {
                // At once: what is told in the same turn, another word of his or a promotion, comes after the abort.
                let (ask, by) = (Ask::Abort(Abort::Restore), BY_THE_JUDGE.to_owned());
                events.push(Event::Asked { ask, by, at });
            }
            events
        }
    }
}

fn ended(
    operation: &Operation,
    host: HostName,
    stage: usize,
    attempt: u32,
    ending: TrackEnding,
    at: Elapsed,
) -> Vec<Event> {
    match current(operation, &host, stage, attempt) {
        Some(slot)
            if matches!(slot.state, TrackState::InWork { .. } | TrackState::Unknown { .. }) =>
        {
            told_end(operation, host, stage, slot, ending, at)
        }
        Some(_) | None => Vec::new(),
    }
}

/// An end, and first that the host is at work again where what it did has to be taken back although the run has ended.
fn told_end(
    operation: &Operation,
    host: HostName,
    stage: usize,
    slot: &Slot,
    ending: TrackEnding,
    at: Elapsed,
) -> Vec<Event> {
    let attempt = slot.attempt;
    let over = matches!(operation.phase(), Phase::Ended(_));
    let forward = matches!(slot.state, TrackState::Unknown { goal: Goal::Forward, .. });
    let moved = matches!(ending.end, TrackEnd::Done | TrackEnd::Left);
    let mut events = Vec::new();
    let taken_back = restoring(operation) || is_left_held(operation, &host, stage);
    let this = forward && moved && !slot.looks && cuts(operation, stage) && taken_back;
    if over && (this || has_more_to_take_back(operation, &host, stage, ending.end)) {
        let host = host.clone();
        events.push(Event::SeenInWork { host, stage, attempt, at });
    }
    events.push(Event::TrackEnded { host, stage, attempt, ending });
    events
}

fn cuts(operation: &Operation, stage: usize) -> bool {
    operation.plan().stages.get(stage).is_some_and(|stage| stage.cuts_capacity)
}

fn restoring(operation: &Operation) -> bool {
    operation.aborted() == Some(Abort::Restore)
}

/// Whether what a host did in earlier stages waits to be taken back until it is known that this one ended there like that.
fn has_more_to_take_back(
    operation: &Operation,
    host: &HostName,
    stage: usize,
    end: TrackEnd,
) -> bool {
    let Some(state) = operation.hosts().get(host) else { return false };
    let waits = |index: usize, slot: &Slot| {
        let finished = matches!(slot.state, TrackState::Done | TrackState::Left { .. });
        let until = operation.plan().stages[index].held_until;
        let kept = end == TrackEnd::Done && until == Some(stage);
        let held = is_left_held(operation, host, index) && !kept;
        finished && cuts(operation, index) && (restoring(operation) || held)
    };
    state.tracks.range(..stage).any(|(index, slot)| waits(*index, slot))
}

/// A session begins: the agent's ledger is a fresh observation, and only that leads out of unknown.
fn back(operation: &Operation, host: HostName, seen: Vec<SeenTrack>, at: Elapsed) -> Vec<Event> {
    let Some(state) = operation.hosts().get(&host) else { return Vec::new() };
    let mut events = Vec::new();
    if state.lost.is_some() {
        events.push(Event::HostBack { host: host.clone(), at });
    }
    for (stage, slot) in &state.tracks {
        let TrackState::Unknown { goal, .. } = &slot.state else { continue };
        let (stage, attempt) = (*stage, slot.attempt);
        let known = seen
            .iter()
            .find(|track| track.stage == stage && track.attempt == attempt && attempt > 0);
        match (known, goal) {
            (Some(SeenTrack { ending: Some(ending), .. }), _) => {
                let (host, ending) = (host.clone(), ending.clone());
                events.extend(told_end(operation, host, stage, slot, ending, at));
            }
            // Undo orders that never arrived are sent again: they only take back.
            (Some(_), _) | (None, Goal::Undo) => {
                events.push(Event::SeenInWork { host: host.clone(), stage, attempt, at });
            }
            (None, Goal::Forward)
                if matches!(operation.phase(), Phase::Ended(_))
                    && has_more_to_take_back(operation, &host, stage, TrackEnd::Refused) =>
            {
                let (end, reason) = (TrackEnd::Refused, NOTHING_BEGUN.to_owned());
                let ending = TrackEnding { end, reason, steps: Vec::new(), evidence: Vec::new() };
                events.extend(told_end(operation, host.clone(), stage, slot, ending, at));
            }
            (None, Goal::Forward) => {
                let again = try_late(operation, slot);
                events.push(Event::SeenIdle { host: host.clone(), stage, again, at });
            }
        }
    }
    events
}

/// While the operation runs, whatever it did there is out of date. Of an ended one only what is not known can still
/// change: how it ended was true then.
fn overtaken(operation: &Operation, host: HostName, why: String, at: Elapsed) -> Vec<Event> {
    let Some(state) = operation.hosts().get(&host) else { return Vec::new() };
    let counts = match operation.phase() {
        Phase::Running | Phase::Paused | Phase::Halting | Phase::Aborting(_) => {
            state.taken.is_none()
        }
        Phase::Ended(_) => state.is_unknown(),
    };
    if counts { vec![Event::Overtaken { host, why, at }] } else { Vec::new() }
}

/// Whether a host that comes late is still brought along. To look changes nothing, so that is always wanted.
fn try_late(operation: &Operation, slot: &Slot) -> bool {
    use crate::fleet::LateHosts;
    let wanted = match operation.plan().late_hosts {
        LateHosts::Rollback => true,
        LateHosts::Wait => slot.looks,
    };
    let going = match operation.phase() {
        Phase::Running | Phase::Paused => true,
        // An operation that went well but for this host goes on with it.
        Phase::Ended(_) => operation.halted().is_none() && operation.aborted().is_none(),
        Phase::Halting | Phase::Aborting(_) => false,
    };
    wanted && going
}

/// Whether an ask has a meaning now. The operator's service asks the same before it answers.
pub(crate) fn allowed(operation: &Operation, ask: &Ask) -> bool {
    match (ask, operation.phase()) {
        (Ask::Pause, Phase::Running) | (Ask::Resume, Phase::Paused) => true,
        (Ask::Abort(_), Phase::Running | Phase::Paused | Phase::Halting) => true,
        (Ask::Abort(Abort::Restore), Phase::Aborting(Abort::Leave)) => true,
        // What a canary showed once, it does not show again by itself: it is deployed anew.
        (Ask::Retry(_), Phase::Ended(_)) if operation.is_canary() => false,
        (Ask::Promote { to_stage }, Phase::Running) => {
            operation.gate_in_force().is_some_and(|gate| gate < *to_stage)
        }
        (Ask::Retry(hosts), Phase::Ended(_)) => {
            let ours = |state: &HostState| state.taken.is_none();
            let may = |state: &HostState| ours(state) && !state.is_unknown() && !state.is_done();
            let may = |host| operation.hosts().get(host).is_some_and(may);
            !hosts.is_empty() && hosts.iter().all(may)
        }
        (
            Ask::Pause | Ask::Resume | Ask::Abort(_) | Ask::Retry(_) | Ask::Promote { .. },
            Phase::Running | Phase::Paused | Phase::Halting | Phase::Aborting(_) | Phase::Ended(_),
        ) => false,
    }
}

/// The slot that a report is about. Attempts are counted from 1: 0 is a field that was left out.
fn current<'a>(
    operation: &'a Operation,
    host: &HostName,
    stage: usize,
    attempt: u32,
) -> Option<&'a Slot> {
    let slot = operation.hosts().get(host)?.tracks.get(&stage)?;
    (slot.attempt == attempt && attempt > 0).then_some(slot)
}

/// The next thing that follows from the state and the time alone; empty when nothing does.
fn advance(operation: &Operation, now: Elapsed) -> Vec<Event> {
    if let Phase::Ended(_) = operation.phase() {
        return Vec::new();
    }
    let lost = newly_unknown(operation, now);
    if !lost.is_empty() {
        return lost;
    }
    if let Some(by) = taken_back_by(operation) {
        let (ask, by) = (Ask::Abort(Abort::Restore), by.to_owned());
        return vec![Event::Asked { ask, by, at: now }];
    }
    match operation.phase() {
        Phase::Running => run(operation, now),
        Phase::Paused => halt_if_due(operation, now),
        Phase::Halting | Phase::Aborting(Abort::Leave) => give_back(operation, now),
        Phase::Aborting(Abort::Restore) => restore(operation, now),
        Phase::Ended(_) => Vec::new(),
    }
}

/// Who aborts a canary by itself: the judge, whatever else goes on, and whatever halts it. Users are never left on what
/// was only tried.
fn taken_back_by(operation: &Operation) -> Option<&'static str> {
    match operation.phase() {
        Phase::Running | Phase::Paused => {
            let failed = operation.gate_in_force().is_some() && !operation.is_promoted();
            (failed && operation.verdict() == Some(Verdict::Fail)).then_some(BY_THE_JUDGE)
        }
        Phase::Halting => operation.is_canary().then_some(BY_ITSELF),
        Phase::Aborting(_) | Phase::Ended(_) => None,
    }
}

fn newly_unknown(operation: &Operation, now: Elapsed) -> Vec<Event> {
    let mut events = Vec::new();
    for (host, state) in operation.hosts() {
        for (stage, slot) in &state.tracks {
            if operation.unknown_at(state, slot).is_some_and(|due| due <= now) {
                let why = match state.lost {
                    Some(_) => "its agent is out of reach since its order was sent",
                    None => "its agent did not answer in time",
                };
                let (host, why) = (host.clone(), why.to_owned());
                events.push(Event::BecameUnknown { host, stage: *stage, why, at: now });
            }
        }
    }
    events
}

/// Budgets and the deadline: what ends a run early.
fn halt_if_due(operation: &Operation, now: Elapsed) -> Vec<Event> {
    let Some(stage) = operation.current() else { return Vec::new() };
    // A late host may bring an earlier stage back, whose budget is not meant for what happened after it.
    let count = Count::up_to(operation, operation.stage(), operation.stage());
    let why = if count.failed > stage.budget.failed {
        let hosts = plural(count.failed, "host");
        format!("{hosts} failed; the budget of stage `{}` is {}", stage.name, stage.budget.failed)
    } else if count.unknown > stage.budget.unknown {
        let hosts = plural(count.unknown, "host");
        let verb = if count.unknown == 1 { "is" } else { "are" };
        format!(
            "{hosts} {verb} unknown; the budget of stage `{}` is {}",
            stage.name, stage.budget.unknown
        )
    } else if operation.deadline() <= now {
        "the operation's deadline has passed".to_owned()
    } else {
        return Vec::new();
    };
    vec![Event::Halted { why, at: now }]
}

fn run(operation: &Operation, now: Elapsed) -> Vec<Event> {
    if operation.current().is_none() {
        return end_if_idle(operation, now);
    }
    let index = operation.stage();
    if let Some(stage) = left_behind(operation, index) {
        return vec![Event::StageBegan { stage, at: now }];
    }
    if !operation.stage_began() {
        return vec![Event::StageBegan { stage: index, at: now }];
    }
    let halt = halt_if_due(operation, now);
    if !halt.is_empty() {
        return halt;
    }
    if operation.stage_ended().is_some() {
        let more = index + 1 < operation.plan().stages.len();
        return match (operation.soaked_at().is_some_and(|at| at <= now), more) {
            (false, _) => Vec::new(),
            (true, true) => vec![Event::StageBegan { stage: index + 1, at: now }],
            (true, false) => end_if_idle(operation, now),
        };
    }
    match next_batch(operation, index) {
        Next::Wait => Vec::new(),
        Next::Revive(hosts) => {
            vec![Event::Dispatched { stage: index, hosts, goal: Goal::Forward, at: now }]
        }
        Next::Dispatch(hosts) => match fit(operation, hosts, now) {
            Ok(hosts) if hosts.is_empty() => Vec::new(),
            Ok(hosts) => {
                vec![Event::Dispatched { stage: index, hosts, goal: Goal::Forward, at: now }]
            }
            Err(halt) => vec![halt],
        },
        Next::Over => vec![Event::StageEnded { stage: index, at: now }],
    }
}

/// An earlier stage that a host can begin only now: it was unknown in one before that.
fn left_behind(operation: &Operation, stage: usize) -> Option<usize> {
    let waits = |(host, state): (&HostName, &HostState)| {
        let mut tracks = state.tracks.range(..stage);
        let begins = |index: usize, slot: &Slot| {
            slot.state == TrackState::Waiting && ready(operation, host, state, index)
        };
        tracks.find(|(index, slot)| begins(**index, slot)).map(|(index, _)| *index)
    };
    operation.hosts().iter().filter_map(waits).min()
}

enum Next {
    Wait,
    /// Hosts that are out already.
    Revive(Vec<HostName>),
    Dispatch(Vec<HostName>),
    Over,
}

/// The hosts of the first batch that is not over: a batch begins when the one before it has ended. Before all
/// batches come hosts that an earlier attempt left down: to try them again takes no other host out.
fn next_batch(operation: &Operation, stage: usize) -> Next {
    let mut batch = usize::MAX;
    let mut waiting = Vec::new();
    let mut down = Vec::new();
    for (host, state) in operation.hosts() {
        let Some(slot) = state.tracks.get(&stage) else { continue };
        if slot.state.at_rest() || !ready(operation, host, state, stage) {
            continue;
        }
        if slot.is_down() {
            down.push(host.clone());
        }
        if slot.batch > batch {
            continue;
        }
        if slot.batch < batch {
            (batch, waiting) = (slot.batch, Vec::new());
        }
        if slot.state == TrackState::Waiting {
            waiting.push(host.clone());
        }
    }
    if !down.is_empty() {
        return Next::Revive(down);
    }
    match (batch, waiting.is_empty()) {
        (usize::MAX, _) => Next::Over,
        (_, true) => Next::Wait,
        (_, false) => Next::Dispatch(waiting),
    }
}

/// A host goes into a stage only when it has done all earlier ones, and is meant to; what it has begun goes on.
fn ready(operation: &Operation, host: &HostName, state: &HostState, stage: usize) -> bool {
    let meant = |slot: &Slot| slot.state != TrackState::Waiting || operation.may_begin(host, slot);
    state.tracks.get(&stage).is_some_and(meant)
        && state.tracks.range(..stage).all(|(_, slot)| slot.state == TrackState::Done)
}

/// As many of `hosts` as the budget lets out now.
fn fit(
    operation: &Operation,
    mut hosts: Vec<HostName>,
    now: Elapsed,
) -> Result<Vec<HostName>, Event> {
    let Some(stage) = operation.current() else { return Ok(Vec::new()) };
    if !stage.cuts_capacity {
        return Ok(hosts);
    }
    let count = Count::of(operation, operation.stage());
    let taken = count.failed + count.unknown + count.in_work + count.down;
    let room = stage.budget.out.saturating_sub(taken);
    if room == 0 && count.in_work == 0 {
        let down = plural(count.failed + count.unknown, "host");
        let why = format!(
            "{down} failed or unknown; stage `{}` may have {} out",
            stage.name, stage.budget.out
        );
        return Err(Event::Halted { why, at: now });
    }
    hosts.truncate(room as usize);
    Ok(hosts)
}

/// Abort with restore: what was begun is taken back, the last stage first, never more hosts at once than the budget
/// of their stage lets out.
fn restore(operation: &Operation, now: Elapsed) -> Vec<Event> {
    let stages = operation.plan().stages.iter().enumerate().rev();
    let cuts = || stages.clone().filter(|(_, stage)| stage.cuts_capacity);
    let undo = |stage, hosts| vec![Event::Dispatched { stage, hosts, goal: Goal::Undo, at: now }];
    // A host in work is out already: its undo brings it back.
    for (index, _) in cuts() {
        let begun = Begun::of(operation, index).forward;
        if !begun.is_empty() {
            return undo(index, begun);
        }
    }
    for (index, stage) in cuts() {
        let Begun { mut finished, back, .. } = Begun::of(operation, index);
        finished.retain(|host| !is_unknown_after(operation, host, index));
        let count = Count::of(operation, index);
        let taken = count.failed + count.unknown + count.down + back;
        let room = stage.budget.out.saturating_sub(taken);
        // Where failures alone use the budget up, hosts still go back one by one: that is the order.
        let room = if back == 0 { room.max(1) } else { room };
        let waits = back > 0 || !finished.is_empty();
        finished.truncate(room as usize);
        if !finished.is_empty() {
            return undo(index, finished);
        }
        if waits {
            return Vec::new();
        }
    }
    end_if_idle(operation, now)
}

/// Whether it is not known what a host did in a later stage, which goes back first.
fn is_unknown_after(operation: &Operation, host: &HostName, stage: usize) -> bool {
    let Some(state) = operation.hosts().get(host) else { return false };
    let mut later = state.tracks.range(stage + 1..).filter(|(index, _)| cuts(operation, **index));
    later.any(|(_, slot)| !slot.looks && matches!(slot.state, TrackState::Unknown { .. }))
}

/// What was meant only for stages that will not come any more, or that did not do their part on a host, is taken back,
/// the last first, when nothing is in work.
fn give_back(operation: &Operation, now: Elapsed) -> Vec<Event> {
    if !operation.is_idle() {
        return Vec::new();
    }
    let stages = operation.plan().stages.iter().enumerate().rev();
    for (stage, until) in stages.filter_map(|(index, stage)| Some((index, stage.held_until?))) {
        let mut hosts = Begun::of(operation, stage).finished;
        hosts.retain(|host| is_held(operation, host, until));
        hosts.retain(|host| !is_unknown_after(operation, host, stage));
        if !hosts.is_empty() {
            return vec![Event::Dispatched { stage, hosts, goal: Goal::Undo, at: now }];
        }
    }
    end_if_idle(operation, now)
}

/// Whether a host that tells late holds what was meant only for stages that did not come any more.
fn is_left_held(operation: &Operation, host: &HostName, stage: usize) -> bool {
    let stopped = operation.halted().is_some() || operation.aborted().is_some();
    let until = operation.plan().stages.get(stage).and_then(|stage| stage.held_until);
    stopped && until.is_some_and(|until| is_held(operation, host, until))
}

/// Whether what is held until a stage still is, on a host: that one has not begun, or would change something there and
/// did not.
fn is_held(operation: &Operation, host: &HostName, until: usize) -> bool {
    let undone = || {
        let slot = operation.hosts().get(host).and_then(|state| state.tracks.get(&until));
        slot.is_some_and(|slot| slot.state != TrackState::Done)
    };
    // Not by the stage in work: a retry looks at earlier ones again.
    let mut slots = operation.hosts().values().filter_map(|state| state.tracks.get(&until));
    let begun = slots.any(|slot| slot.state != TrackState::Waiting);
    !begun || cuts(operation, until) && undone()
}

/// The hosts that have begun something in a stage.
struct Begun {
    forward: Vec<HostName>,
    finished: Vec<HostName>,
    /// How many are going back.
    back: u32,
}

impl Begun {
    fn of(operation: &Operation, stage: usize) -> Self {
        let mut begun = Self { forward: Vec::new(), finished: Vec::new(), back: 0 };
        for (host, state) in operation.hosts() {
            match state.tracks.get(&stage).map(|slot| &slot.state) {
                Some(TrackState::InWork { goal: Goal::Forward, .. }) => {
                    begun.forward.push(host.clone());
                }
                Some(TrackState::InWork { goal: Goal::Undo, .. }) => begun.back += 1,
                Some(TrackState::Done | TrackState::Left { .. }) => {
                    begun.finished.push(host.clone());
                }
                Some(
                    TrackState::Waiting
                    | TrackState::Unknown { .. }
                    | TrackState::Undone { .. }
                    | TrackState::Stuck { .. },
                )
                | None => {}
            }
        }
        begun
    }
}

fn end_if_idle(operation: &Operation, now: Elapsed) -> Vec<Event> {
    if !operation.is_idle() {
        return Vec::new();
    }
    vec![Event::Ended { result: operation.result(), at: now }]
}

/// The hosts of a stage that count against its budget, each once.
struct Count {
    failed: u32,
    unknown: u32,
    in_work: u32,
    /// Waiting to be tried again, and down from before.
    down: u32,
}

impl Count {
    fn of(operation: &Operation, stage: usize) -> Self {
        Self::up_to(operation, stage, usize::MAX)
    }

    /// Only what happened to them in `last` and the stages before it.
    fn up_to(operation: &Operation, stage: usize, last: usize) -> Self {
        let mut count = Self { failed: 0, unknown: 0, in_work: 0, down: 0 };
        let series = operation.series(stage);
        let counts = |state: &&HostState| series.iter().any(|one| state.tracks.contains_key(one));
        for state in operation.hosts().values().filter(counts) {
            // All its tracks are stuck, those too that were done before root came.
            if let Some(taken) = state.taken {
                count.failed += u32::from(taken.stage <= last);
                continue;
            }
            let slots = || state.tracks.range(..=last).map(|(_, slot)| slot);
            let any = |wanted: fn(&TrackState) -> bool| slots().any(|slot| wanted(&slot.state));
            if any(|state| {
                matches!(
                    state,
                    TrackState::Undone { .. } | TrackState::Left { .. } | TrackState::Stuck { .. }
                )
            }) {
                count.failed += 1;
            } else if any(|state| matches!(state, TrackState::Unknown { .. })) {
                count.unknown += 1;
            } else if any(|state| matches!(state, TrackState::InWork { .. })) {
                count.in_work += 1;
            } else if slots().any(Slot::is_down) {
                count.down += 1;
            }
        }
        count
    }
}

fn plural(count: u32, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
