//! An operation as it stands, from its events.
//!
//! Invariant: [`Operation::apply`] is the only mutator, for live runs and for recovery alike.
//! Invariant: what should be in flight is derived ([`Operation::outstanding`]), never stored.
//! Invariant: what root took over is not this operation's any more: it is asked for nothing, and stays `failed`.
//! Invariant: a track that only looks changes nothing: forward it ends as `done` or `left`, whatever its agent says.

mod outcome;
mod retry;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    Evidence,
    event::{Abort, Ask, Event, StepReport, TrackEnd, TrackEnding},
    judge::{Ruling, Verdict},
    name::{HostName, OperationId},
    plan::{Plan, Stage, Step, Track},
    time::Elapsed,
    track::{Goal, IllegalMove, TrackEvent, TrackState},
};

pub use outcome::{HostOutcome, Outcome, RunResult};

/// One run of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    id: OperationId,
    plan: Arc<Plan>,
    by: String,
    reason: String,
    phase: Phase,
    /// The stage in work; past the last one when all are done.
    stage: usize,
    /// Since when the stage in work has been begun, and since when its last track has ended.
    stage_began: Option<Elapsed>,
    stage_ended: Option<Elapsed>,
    hosts: BTreeMap<HostName, HostState>,
    /// A track that can change what is live was begun.
    cut: bool,
    deadline: Elapsed,
    /// The time of the newest event.
    last: Elapsed,
    /// Since when no host that gets traffic runs what the plan leaves.
    mitigated: Option<Elapsed>,
    /// Why it halted, where it did.
    halted: Option<String>,
    /// The strongest abort that was asked for.
    abort: Option<Abort>,
    /// The judge's newest word, and on which stage.
    ruling: Option<(usize, Ruling)>,
    /// The gates before this stage stand open: a person promoted.
    promoted: usize,
    /// Who aborted it.
    aborted_by: Option<String>,
    /// Since a person retried hosts: those, and who came back late. Nobody else begins anything that changes a host.
    again: Option<BTreeSet<HostName>>,
}

/// Where the operation as a whole stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Running,
    Paused,
    /// Nothing new begins; it ends when what is in work has ended.
    Halting,
    Aborting(Abort),
    Ended(RunResult),
}

/// Something that should be on its way to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub host: HostName,
    pub stage: usize,
    pub attempt: u32,
    pub goal: Goal,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostState {
    pub(crate) tracks: BTreeMap<usize, Slot>,
    /// Since when its agent is not connected.
    pub(crate) lost: Option<Elapsed>,
    /// Root took it over; for good, as far as this operation goes: its agent refuses every order that was planned before.
    pub(crate) taken: Option<TakenOver>,
}

/// See [`HostState::taken`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TakenOver {
    /// How far the host was: its first stage that was not done, or its last one. Stages before it had ended well there.
    pub(crate) stage: usize,
}

/// A host's place in one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Its batch, and its place in it.
    pub(crate) batch: usize,
    place: usize,
    pub(crate) deadline_ms: u64,
    pub(crate) attempt: u32,
    /// This attempt, or an earlier one that was not taken back, was told to have begun a step there.
    pub(crate) begun: bool,
    pub(crate) state: TrackState,
    /// It only verifies what is in place.
    pub(crate) looks: bool,
    /// The last attempt that was begun left the host neither as it was nor verified.
    left_down: bool,
    pub(crate) steps: Vec<StepReport>,
    pub(crate) evidence: Vec<Evidence>,
}

/// An event that cannot follow the ones before it: a defect, or a damaged journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IllegalEvent {
    #[error("the first event is not `Opened`")]
    NotOpened,
    #[error("`Opened` comes a second time")]
    OpenedTwice,
    #[error("{host} has no track in stage {stage}")]
    NoTrack { host: HostName, stage: usize },
    #[error("{host}, stage {stage}")]
    Move {
        host: HostName,
        stage: usize,
        #[source]
        source: IllegalMove,
    },
    #[error("{event} cannot come while the operation is {phase:?}")]
    Phase { event: &'static str, phase: Phase },
    #[error("the track of {host} in stage {stage} is at attempt {is}, not {told}")]
    Attempt { host: HostName, stage: usize, is: u32, told: u32 },
}

impl Operation {
    /// An operation from its first event.
    pub fn open(id: OperationId, event: &Event) -> Result<Self, IllegalEvent> {
        let Event::Opened { plan, by, reason } = event else {
            return Err(IllegalEvent::NotOpened);
        };
        let plan = Arc::new((**plan).clone());
        let hosts = open_hosts(&plan);
        Ok(Self {
            id,
            by: by.clone(),
            reason: reason.clone(),
            phase: Phase::Running,
            stage: 0,
            stage_began: None,
            stage_ended: None,
            hosts,
            cut: false,
            deadline: Elapsed(plan.deadline_ms),
            last: Elapsed(0),
            mitigated: None,
            halted: None,
            abort: None,
            ruling: None,
            promoted: 0,
            aborted_by: None,
            again: None,
            plan,
        })
    }

    /// An operation from all of its events.
    pub fn replay<'a>(
        id: OperationId,
        events: impl IntoIterator<Item = &'a Event>,
    ) -> Result<Self, IllegalEvent> {
        let mut events = events.into_iter();
        let mut operation = Self::open(id, events.next().ok_or(IllegalEvent::NotOpened)?)?;
        for event in events {
            operation.apply(event)?;
        }
        Ok(operation)
    }

    /// The only mutator.
    pub fn apply(&mut self, event: &Event) -> Result<(), IllegalEvent> {
        match event {
            Event::Opened { .. } => return Err(IllegalEvent::OpenedTwice),
            Event::StageBegan { stage, at } => {
                self.require("a stage's begin", matches!(self.phase, Phase::Running))?;
                (self.stage, self.stage_began, self.stage_ended) = (*stage, Some(*at), None);
                self.reached(*at);
            }
            Event::Dispatched { stage, hosts, goal, at } => {
                self.dispatched(*stage, hosts, *goal, *at)?
            }
            Event::StepReported { host, stage, attempt, step } => {
                let slot = self.slot_at(host, *stage, *attempt)?;
                slot.begun = true;
                slot.report(step.clone());
            }
            Event::TrackEnded { host, stage, attempt, ending } => {
                self.ended(host, *stage, *attempt, ending)?
            }
            Event::HostLost { host, at } => self.link(host, Some(*at), *at),
            Event::HostBack { host, at } => self.link(host, None, *at),
            Event::BecameUnknown { host, stage, why, at } => {
                self.advance(
                    host,
                    *stage,
                    &TrackEvent::BecameUnknown { why: why.clone(), at: *at },
                )?;
                self.reached(*at);
            }
            Event::SeenInWork { host, stage, attempt, at } => {
                self.slot_at(host, *stage, *attempt)?;
                self.advance(host, *stage, &TrackEvent::SeenInWork { at: *at })?;
                self.came_late(host);
                self.reopen(*at);
                if *stage == self.stage {
                    // The stage is not over while it is in work there.
                    self.stage_ended = None;
                }
            }
            Event::SeenIdle { host, stage, again, at } => {
                let slot = self.slot(host, *stage)?;
                let seen = if !again && slot.looks {
                    let reason = "it was out of reach; nothing was verified there".to_owned();
                    TrackEvent::Ended { end: TrackEnd::Left, reason }
                } else if !again && slot.left_down {
                    let reason = "the order to try it again never came there".to_owned();
                    TrackEvent::Ended { end: TrackEnd::Stuck, reason }
                } else {
                    TrackEvent::SeenIdle { again: *again }
                };
                let moves = !slot.looks;
                self.advance(host, *stage, &seen)?;
                if *again {
                    self.came_late(host);
                    if moves {
                        self.look_again(*stage)?;
                    }
                    self.reopen(*at);
                    self.go_back_to(*stage);
                } else {
                    self.told_late();
                }
                self.reached(*at);
            }
            Event::Overtaken { host, why, at } => {
                self.overtaken(host, why)?;
                self.reached(*at);
            }
            Event::StageEnded { stage, at } => {
                self.require("a stage's end", self.stage == *stage && self.stage_ended.is_none())?;
                self.stage_ended = Some(*at);
                if self.mitigates(*stage) {
                    self.mitigated.get_or_insert(*at);
                }
                self.reached(*at);
            }
            Event::Asked { ask, by, at } => self.asked(ask, by, *at)?,
            Event::Judged { stage, ruling, at } => {
                self.require("a verdict", self.gate_in_force() == Some(*stage))?;
                self.ruling = Some((*stage, ruling.clone()));
                self.reached(*at);
            }
            Event::Halted { why, at } => {
                self.require("a halt", matches!(self.phase, Phase::Running | Phase::Paused))?;
                self.phase = Phase::Halting;
                self.halted = Some(why.clone());
                self.reached(*at);
            }
            Event::Ended { result, at } => {
                self.require("an end", !matches!(self.phase, Phase::Ended(_)))?;
                self.phase = Phase::Ended(*result);
                self.reached(*at);
            }
        }
        Ok(())
    }

    /// The orders that should be in flight. The same after a crash as before it.
    pub fn outstanding(&self) -> Vec<Command> {
        let mut commands = Vec::new();
        for (host, state) in &self.hosts {
            for (stage, slot) in &state.tracks {
                if let TrackState::InWork { goal, .. } = slot.state {
                    let (stage, attempt) = (*stage, slot.attempt);
                    commands.push(Command { host: host.clone(), stage, attempt, goal });
                }
            }
        }
        commands
    }

    /// When time alone will change something.
    pub fn wake_at(&self) -> Option<Elapsed> {
        if matches!(self.phase, Phase::Ended(_)) {
            return None;
        }
        let mut times = Vec::new();
        if matches!(self.phase, Phase::Running | Phase::Paused) {
            times.push(self.deadline);
        }
        times.extend(self.soaked_at());
        for state in self.hosts.values() {
            for slot in state.tracks.values() {
                times.extend(self.unknown_at(state, slot));
            }
        }
        times.into_iter().min()
    }

    /// Its id.
    pub fn id(&self) -> &OperationId {
        &self.id
    }

    /// When users were on what the plan goes to, as an edge measured it; none where that was not measured.
    pub fn mitigated(&self) -> Option<Elapsed> {
        self.mitigated
    }

    /// What it does.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Who began it.
    pub fn by(&self) -> &str {
        &self.by
    }

    /// Why, in their words.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The stage in work; past the last one when all are done.
    pub fn stage(&self) -> usize {
        self.stage
    }

    /// The time of its newest event.
    pub fn last(&self) -> Elapsed {
        self.last
    }

    /// Why it halted, where it did.
    pub fn halted(&self) -> Option<&str> {
        self.halted.as_deref()
    }

    /// Who aborted it, where somebody did.
    pub fn aborted_by(&self) -> Option<&str> {
        self.aborted_by.as_deref()
    }

    /// The judge's newest word.
    pub fn ruling(&self) -> Option<&Ruling> {
        self.ruling.as_ref().map(|(_, ruling)| ruling)
    }

    /// The stage whose gate is what the operation stands before now.
    pub fn gate_in_force(&self) -> Option<usize> {
        let live = matches!(self.phase, Phase::Running | Phase::Paused);
        let gate = self.current().and_then(|stage| stage.gate.as_ref());
        (live && gate.is_some() && self.stage_ended.is_some()).then_some(self.stage)
    }

    /// The steps that a command orders.
    pub fn steps(&self, command: &Command) -> &[Step] {
        match self.hosts.get(&command.host).and_then(|state| state.tracks.get(&command.stage)) {
            Some(slot) => &self.track(command.stage, slot).steps,
            None => &[],
        }
    }

    /// Whether a host only verifies in a stage: nothing can be taken back of that.
    pub fn only_looks(&self, host: &HostName, stage: usize) -> bool {
        let slot = self.hosts.get(host).and_then(|state| state.tracks.get(&stage));
        slot.is_some_and(|slot| slot.looks)
    }

    /// One step of a host in a stage.
    pub fn step(&self, host: &HostName, stage: usize, index: usize) -> Option<&Step> {
        let slot = self.hosts.get(host)?.tracks.get(&stage)?;
        self.track(stage, slot).steps.get(index)
    }

    fn track(&self, stage: usize, slot: &Slot) -> &Track {
        &self.plan.stages[stage].batches[slot.batch].tracks[slot.place]
    }

    /// Whether the end of a stage means that users are on what the plan goes to.
    fn mitigates(&self, stage: usize) -> bool {
        let done = |state: &HostState| {
            state.tracks.get(&stage).is_none_or(|slot| slot.state == TrackState::Done)
        };
        self.plan.stages.get(stage).is_some_and(|stage| stage.mitigates)
            && self.hosts.values().all(done)
    }

    fn dispatched(
        &mut self,
        stage: usize,
        hosts: &[HostName],
        goal: Goal,
        at: Elapsed,
    ) -> Result<(), IllegalEvent> {
        let allowed = match goal {
            Goal::Forward => matches!(self.phase, Phase::Running),
            Goal::Undo => matches!(self.phase, Phase::Aborting(_) | Phase::Halting),
        };
        self.require("an order", allowed)?;
        for host in hosts {
            self.advance(host, stage, &TrackEvent::Dispatched { goal, at })?;
            let slot = self.slot(host, stage)?;
            slot.attempt += 1;
            if goal == Goal::Forward {
                slot.begun = slot.left_down;
            }
            slot.steps.clear();
            slot.evidence.clear();
        }
        self.cut |= self.plan.stages[stage].cuts_capacity;
        self.reached(at);
        Ok(())
    }

    fn ended(
        &mut self,
        host: &HostName,
        stage: usize,
        attempt: u32,
        ending: &TrackEnding,
    ) -> Result<(), IllegalEvent> {
        let slot = self.slot_at(host, stage, attempt)?;
        // An agent that took something back names the steps; one that names none has lost its ledger.
        let taken_back = matches!(
            slot.state,
            TrackState::InWork { goal: Goal::Undo, .. }
                | TrackState::Unknown { goal: Goal::Undo, .. }
        );
        let undone = taken_back && ending.end == TrackEnd::Undone;
        let forgot = undone && ending.steps.is_empty() && slot.begun && !slot.looks;
        let (end, reason) = match (ending.end, slot.left_down) {
            // Nothing was changed there, whoever says how: what is in place is not verified.
            (TrackEnd::Undone | TrackEnd::Refused | TrackEnd::Stuck, _)
                if slot.looks && !taken_back =>
            {
                (TrackEnd::Left, ending.reason.clone())
            }
            // This attempt changed nothing, but an earlier one did.
            (TrackEnd::Refused, true) => (TrackEnd::Stuck, ending.reason.clone()),
            (_, _) if forgot => {
                (TrackEnd::Stuck, "the host no longer knows what it did".to_owned())
            }
            (end, _) => (end, ending.reason.clone()),
        };
        self.advance(host, stage, &TrackEvent::Ended { end, reason })?;
        let slot = self.slot(host, stage)?;
        let down = matches!(slot.state, TrackState::Left { .. } | TrackState::Stuck { .. });
        slot.left_down = down && !slot.looks;
        slot.begun |= !ending.steps.is_empty();
        for step in &ending.steps {
            slot.report(step.clone());
        }
        slot.evidence = match end {
            TrackEnd::Done | TrackEnd::Left => ending.evidence.clone(),
            TrackEnd::Undone | TrackEnd::Stuck | TrackEnd::Refused => Vec::new(),
        };
        self.told_late();
        Ok(())
    }

    /// What was measured there was true before.
    fn overtaken(&mut self, host: &HostName, why: &str) -> Result<(), IllegalEvent> {
        let Some(state) = self.hosts.get_mut(host) else {
            return Err(IllegalEvent::NoTrack { host: host.clone(), stage: 0 });
        };
        let stages: Vec<usize> = state.tracks.keys().copied().collect();
        let open = state.tracks.iter().find(|(_, slot)| slot.state != TrackState::Done);
        let reached = open.map(|(stage, _)| *stage).or_else(|| stages.last().copied());
        if let (None, Some(stage)) = (state.taken, reached) {
            state.taken = Some(TakenOver { stage });
        }
        for stage in stages {
            self.advance(host, stage, &TrackEvent::Overtaken { why: why.to_owned() })?;
            self.slot(host, stage)?.evidence.clear();
        }
        self.told_late();
        Ok(())
    }

    fn asked(&mut self, ask: &Ask, by: &str, at: Elapsed) -> Result<(), IllegalEvent> {
        match ask {
            Ask::Pause => {
                self.require("a pause", self.phase == Phase::Running)?;
                self.phase = Phase::Paused;
            }
            Ask::Resume => {
                self.require("a resume", self.phase == Phase::Paused)?;
                self.phase = Phase::Running;
            }
            Ask::Abort(abort) => {
                let stronger = match self.phase {
                    Phase::Running | Phase::Paused | Phase::Halting => true,
                    Phase::Aborting(Abort::Leave) => *abort == Abort::Restore,
                    Phase::Aborting(Abort::Restore) | Phase::Ended(_) => false,
                };
                self.require("an abort", stronger)?;
                self.phase = Phase::Aborting(*abort);
                self.abort = Some(*abort);
                self.aborted_by = Some(by.to_owned());
            }
            Ask::Promote { to_stage } => {
                let gate = self.gate_in_force();
                let holds =
                    self.phase == Phase::Running && gate.is_some_and(|gate| gate < *to_stage);
                self.require("a promotion", holds)?;
                self.promoted = *to_stage;
            }
            Ask::Retry(hosts) => {
                self.require("a retry", matches!(self.phase, Phase::Ended(_)))?;
                self.phase = Phase::Running;
                self.halted = None;
                self.abort = None;
                self.aborted_by = None;
                self.again = Some(hosts.iter().cloned().collect());
                for host in hosts {
                    self.retry(host)?;
                }
                self.traffic_again(hosts)?;
                self.look_again(0)?;
                self.go_back_to(0);
                self.deadline = at.plus(self.plan.deadline_ms);
            }
        }
        self.reached(at);
        Ok(())
    }

    fn came_late(&mut self, host: &HostName) {
        if let Some(again) = &mut self.again {
            again.insert(host.clone());
        }
    }

    /// A host that was unknown when the operation ended tells in the end how it fared.
    fn told_late(&mut self) {
        if let Phase::Ended(_) = self.phase {
            self.phase = Phase::Ended(self.result());
        }
    }

    /// A late host's track goes on after the operation had ended; what was halted or aborted stays so.
    fn reopen(&mut self, at: Elapsed) {
        if let Phase::Ended(_) = self.phase {
            self.phase = match (self.abort, &self.halted) {
                (Some(abort), _) => Phase::Aborting(abort),
                (None, Some(_)) => Phase::Halting,
                (None, None) => Phase::Running,
            };
            self.deadline = at.plus(self.plan.deadline_ms);
        }
        self.reached(at);
    }

    fn go_back_to(&mut self, stage: usize) {
        if stage < self.stage || self.stage_ended.is_some() {
            self.stage = stage.min(self.stage);
            self.stage_began = None;
            self.stage_ended = None;
        }
    }

    fn link(&mut self, host: &HostName, lost: Option<Elapsed>, at: Elapsed) {
        if let Some(state) = self.hosts.get_mut(host) {
            state.lost = lost;
        }
        self.reached(at);
    }

    fn advance(
        &mut self,
        host: &HostName,
        stage: usize,
        event: &TrackEvent,
    ) -> Result<(), IllegalEvent> {
        let slot = self.slot(host, stage)?;
        let next = slot.state.next(event);
        slot.state =
            next.map_err(|source| IllegalEvent::Move { host: host.clone(), stage, source })?;
        Ok(())
    }

    fn slot(&mut self, host: &HostName, stage: usize) -> Result<&mut Slot, IllegalEvent> {
        let missing = || IllegalEvent::NoTrack { host: host.clone(), stage };
        self.hosts.get_mut(host).and_then(|state| state.tracks.get_mut(&stage)).ok_or_else(missing)
    }

    fn slot_at(
        &mut self,
        host: &HostName,
        stage: usize,
        told: u32,
    ) -> Result<&mut Slot, IllegalEvent> {
        let slot = self.slot(host, stage)?;
        let is = slot.attempt;
        if is == told {
            Ok(slot)
        } else {
            Err(IllegalEvent::Attempt { host: host.clone(), stage, is, told })
        }
    }

    fn require(&self, event: &'static str, holds: bool) -> Result<(), IllegalEvent> {
        if holds { Ok(()) } else { Err(IllegalEvent::Phase { event, phase: self.phase }) }
    }

    fn reached(&mut self, at: Elapsed) {
        self.last = self.last.max(at);
    }

    // What `decide` reads.

    /// The stages that share their budget with one, itself among them.
    pub(crate) fn series(&self, stage: usize) -> Vec<usize> {
        let of = |index: usize| self.plan.stages.get(index).and_then(|stage| stage.series);
        match of(stage) {
            Some(first) => {
                (0..self.plan.stages.len()).filter(|index| of(*index) == Some(first)).collect()
            }
            None => vec![stage],
        }
    }

    pub(crate) fn hosts(&self) -> &BTreeMap<HostName, HostState> {
        &self.hosts
    }

    pub(crate) fn current(&self) -> Option<&Stage> {
        self.plan.stages.get(self.stage)
    }

    pub(crate) fn stage_began(&self) -> bool {
        self.stage_began.is_some()
    }

    pub(crate) fn stage_ended(&self) -> Option<Elapsed> {
        self.stage_ended
    }

    /// When the soak of the stage in work leads on. A pause and a gate hold it; the last stage also waits for late hosts.
    pub(crate) fn soaked_at(&self) -> Option<Elapsed> {
        let more = self.stage + 1 < self.plan.stages.len();
        if self.phase != Phase::Running || !(more || self.is_idle()) {
            return None;
        }
        let (ended, stage) = (self.stage_ended?, self.current()?);
        match &stage.gate {
            Some(_) if self.promoted > self.stage => Some(ended),
            Some(gate) if gate.asks || self.verdict() != Some(Verdict::Pass) => None,
            Some(_) | None => Some(ended.plus(stage.soak_ms)),
        }
    }

    /// The judge's word on the stage in work.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        let (stage, ruling) = self.ruling.as_ref()?;
        (*stage == self.stage).then_some(ruling.verdict)
    }

    /// Whether a person has promoted it past the stage in work.
    pub(crate) fn is_promoted(&self) -> bool {
        self.promoted > self.stage
    }

    /// Whether no order is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        let mut slots = self.hosts.values().flat_map(|state| state.tracks.values());
        !slots.any(|slot| matches!(slot.state, TrackState::InWork { .. }))
    }

    /// The strongest abort that was asked for since a person last retried.
    pub(crate) fn aborted(&self) -> Option<Abort> {
        self.abort
    }

    /// Whether a host may begin something: after a retry only those that were meant, and those that only look.
    pub(crate) fn may_begin(&self, host: &HostName, slot: &Slot) -> bool {
        slot.looks || self.again.as_ref().is_none_or(|again| again.contains(host))
    }

    pub(crate) fn deadline(&self) -> Elapsed {
        self.deadline
    }

    /// When a track in work becomes unknown, if nothing is heard.
    pub(crate) fn unknown_at(&self, host: &HostState, slot: &Slot) -> Option<Elapsed> {
        let TrackState::InWork { since, .. } = slot.state else { return None };
        let silent = host.lost.map(|lost| lost.max(since).plus(self.plan.unknown_after_ms));
        let overdue = since.plus(slot.deadline_ms);
        Some(silent.map_or(overdue, |silent| silent.min(overdue)))
    }
}

impl HostState {
    /// Whether what it does in some stage is not known.
    pub(crate) fn is_unknown(&self) -> bool {
        self.tracks.values().any(|slot| matches!(slot.state, TrackState::Unknown { .. }))
    }

    /// Whether it has no part but to verify what is in place.
    pub(crate) fn only_looks(&self) -> bool {
        self.tracks.values().all(|slot| slot.looks)
    }

    /// Whether it has nothing left to do.
    pub(crate) fn is_done(&self) -> bool {
        self.tracks.values().all(|slot| slot.state == TrackState::Done)
    }
}

impl Slot {
    /// It waits to be tried again on a host that an earlier attempt left down.
    pub(crate) fn is_down(&self) -> bool {
        self.state == TrackState::Waiting && self.left_down
    }

    /// Keeps the newest word on each step.
    fn report(&mut self, step: StepReport) {
        match self.steps.iter_mut().find(|known| known.index == step.index) {
            Some(known) => *known = step,
            None => self.steps.push(step),
        }
    }
}

fn open_hosts(plan: &Plan) -> BTreeMap<HostName, HostState> {
    let mut hosts: BTreeMap<HostName, HostState> = BTreeMap::new();
    for (stage_index, stage) in plan.stages.iter().enumerate() {
        for (batch_index, batch) in stage.batches.iter().enumerate() {
            for (place, track) in batch.tracks.iter().enumerate() {
                let new = || HostState { tracks: BTreeMap::new(), lost: None, taken: None };
                let slot = Slot {
                    batch: batch_index,
                    place,
                    deadline_ms: track.deadline_ms(),
                    attempt: 0,
                    begun: false,
                    state: TrackState::Waiting,
                    looks: track.only_looks(),
                    left_down: false,
                    steps: Vec::new(),
                    evidence: Vec::new(),
                };
                hosts
                    .entry(track.host.clone())
                    .or_insert_with(new)
                    .tracks
                    .insert(stage_index, slot);
            }
        }
    }
    // Who could not be reached when the plan was made is unknown from the start; an emergency does not wait.
    for row in plan.hosts.iter().filter(|row| !row.reachable) {
        let Some(state) = hosts.get_mut(&row.host) else { continue };
        state.lost = Some(Elapsed(0));
        if let Some(slot) = state.tracks.values_mut().next() {
            let why = "its agent was not connected when the plan was made".to_owned();
            slot.state = TrackState::Unknown { goal: Goal::Forward, since: Elapsed(0), why };
        }
    }
    hosts
}

impl Operation {
    /// Whether an ask has a meaning now.
    pub fn allows(&self, ask: &Ask) -> bool {
        crate::decide::allowed(self, ask)
    }
}
