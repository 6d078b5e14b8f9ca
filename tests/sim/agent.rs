//! An agent's shell around the real worker: decide, append, apply, work; and a crash at every instant between.
//!
//! ```text
//! order, result ─▶ worker::decide ─▶ append (crash?) ─▶ Ledger::apply ─▶ reports up
//!                                                           └─▶ worker::work ─▶ half, whole, result
//! ```

use std::collections::BTreeMap;

use agent::{
    lease::watch::Watch,
    ledger::{Found, Ledger, Record, StepResult, Track},
    order::{Before, End, Ending, Fence, LocalOrder, Order, Step, TrackKey, Verb},
    worker::{self, Input, Reply, Work},
};
use engine::{Evidence, SeenTrack, StepReport, StepState, TrackEnd, TrackEnding};
use rand::RngExt as _;

use crate::{
    faults::{Mutant, Who},
    host::Extent,
    world::{Down, Due, Link, Up, World},
};

/// An agent's process and its disk.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) alive: bool,
    /// Grows with each crash: what a dead process scheduled does not happen.
    pub(crate) life: u64,
    /// The disk.
    pub(crate) records: Vec<Record>,
    pub(crate) ledger: Ledger,
    pub(crate) session: Option<Link>,
    /// What root ordered, while a track is taken back for it.
    pub(crate) waiting: Option<LocalOrder>,
    /// What it saw of what is on trial.
    pub(crate) watches: BTreeMap<TrackKey, Watch>,
    job: Option<Job>,
    jobs: u64,
}

/// What the process is doing.
#[derive(Debug)]
struct Job {
    id: u64,
    work: Work,
    fate: Fate,
    before: Option<Before>,
}

/// How a step will go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    FailsBefore,
    FailsHalf,
    FailsAfter,
}

/// The instants of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instant {
    Half,
    Whole,
    Result,
}

impl Agent {
    pub(crate) fn new() -> Self {
        Self {
            alive: false,
            life: 0,
            records: Vec::new(),
            ledger: Ledger::default(),
            session: None,
            waiting: None,
            watches: BTreeMap::new(),
            job: None,
            jobs: 0,
        }
    }
}

impl World {
    /// The process starts: the ledger from the disk, the open step in doubt.
    pub(crate) fn start_agent(&mut self, host: usize) {
        let agent = &mut self.agents[host];
        if agent.alive {
            return;
        }
        agent.alive = true;
        agent.ledger = Ledger::replay(&agent.records);
        self.note(|| format!("h{host} starts"));
        let verdict = self.watch.p08_told_is_on_record(host, &self.agents[host].ledger);
        self.watch.judge(verdict);
        self.pursue(host);
        let life = self.agents[host].life;
        self.looks_at_trials(host, life);
        self.dial(host);
    }

    /// The process dies; what is on the disk and on the machine stays as it is.
    pub(crate) fn crash_agent(&mut self, host: usize) {
        self.note(|| format!("h{host} dies"));
        let agent = &mut self.agents[host];
        (agent.alive, agent.job, agent.waiting) = (false, None, None);
        agent.watches.clear();
        agent.life += 1;
        agent.ledger = Ledger::replay(&agent.records);
        if let Some(link) = agent.session.take() {
            self.break_session(host, link.session);
        }
        let back = self.rng.random_range(50..8_000);
        self.later(back, Due::AgentStarts { host });
    }

    /// What comes down the session.
    pub(crate) fn take_down(&mut self, host: usize, session: u64, message: Down) {
        let agent = &self.agents[host];
        if !agent.alive || agent.session.is_none_or(|link| link.session != session) {
            return;
        }
        match message {
            Down::Welcome(fence) => self.welcomed(host, session, fence),
            Down::Order(order) => self.order_came(host, *order),
        }
    }

    fn welcomed(&mut self, host: usize, session: u64, fence: Fence) {
        let term = fence.epoch;
        if self.mutant != Some(Mutant::ForgetsTheWelcome) {
            let decision = worker::decide(&self.agents[host].ledger, Input::Welcomed(fence));
            if let Some(Reply::Refused(why)) = decision.reply {
                self.note(|| format!("h{host} leaves its session: {why}"));
                return self.agent_notices(host, session);
            }
            if !self.record(host, decision.records, None) {
                return;
            }
        }
        if self.agents[host].ledger.open().is_none() {
            self.watch.told_idle(host, term);
        }
        let tracks = self.agents[host].ledger.tracks().into_iter().filter(is_theirs);
        let tracks = tracks.map(seen).collect();
        let taken = self.taken(host);
        self.send_up(host, Up::Status(tracks, taken));
    }

    pub(crate) fn order_came(&mut self, host: usize, mut order: Order) {
        let wire = (order.key.clone(), order.fence.clone());
        let (stage, attempt) = (order.key.stage as usize, order.attempt);
        if self.mutant == Some(Mutant::IgnoresTheFence)
            && let Some(fence) = self.agents[host].ledger.fence()
        {
            order.fence = Fence { sequence: fence.sequence + 1, ..fence.clone() };
        }
        if self.leases {
            order.steps.iter_mut().for_each(|step| step.forward = true);
        }
        let input = Input::Order { order, forbidden: None };
        let decision = worker::decide(&self.agents[host].ledger, input);
        if !self.record(host, decision.records, Some(&wire)) {
            return;
        }
        match decision.reply {
            Some(Reply::Ended(key)) => self.tell_end(host, &key),
            Some(Reply::Refused(why)) => {
                self.note(|| format!("h{host} refuses stage {stage}, attempt {attempt}: {why}"));
                self.send_up(host, Up::Refused { stage, attempt, why, overtaken: false });
            }
            Some(Reply::Overtaken(why)) => {
                self.note(|| format!("h{host} is root's: {why}"));
                self.send_up(host, Up::Refused { stage, attempt, why, overtaken: true });
            }
            Some(Reply::Taken | Reply::Waits) | None => {}
        }
        self.pursue(host);
    }

    /// A job's result, to the worker; then whatever follows.
    fn result(&mut self, host: usize, input: Input) {
        let decision = worker::decide(&self.agents[host].ledger, input);
        if self.record(host, decision.records, None) {
            self.root_goes_on(host);
            self.pursue(host);
        }
    }

    /// Append, apply, tell. False if the process died of it.
    pub(crate) fn record(
        &mut self,
        host: usize,
        records: Vec<Record>,
        wire: Option<&(TrackKey, Fence)>,
    ) -> bool {
        if records.is_empty() {
            return true;
        }
        let mut records = records;
        records.extend(self.trial_begins(host, &records));
        let tells_first = self.mutant == Some(Mutant::AgentTellsFirst);
        if tells_first {
            let mut scratch = self.agents[host].ledger.clone();
            records.iter().for_each(|record| scratch.apply(record));
            self.tell(host, &scratch, &records);
        }
        let crash = self.crash_at_append(Who::Agent(host));
        if crash != Some(false) {
            self.agents[host].records.extend(records.iter().cloned());
            let verdict = self.watch.p01_one_authority(host, &records, wire);
            self.watch.judge(verdict);
            self.watch.recorded(host, &records);
            self.watch.root_took(host, &records, &self.machines[host]);
        }
        if crash.is_some() {
            self.crash_agent(host);
            return false;
        }
        for record in &records {
            self.note(|| format!("h{host} records {}", record_word(record)));
            self.agents[host].ledger.apply(record);
        }
        let (machine, ledger) = (&self.machines[host], &self.agents[host].ledger);
        let verdict = self.watch.p03_done_is_true(host, machine, ledger, &records);
        self.watch.judge(verdict);
        if !tells_first {
            let ledger = self.agents[host].ledger.clone();
            self.tell(host, &ledger, &records);
        }
        true
    }

    /// What durable records mean for the coordinator.
    fn tell(&mut self, host: usize, ledger: &Ledger, records: &[Record]) {
        for record in records {
            let (key, index, state) = match record {
                Record::StepBegan { key, index, .. } => (key, *index, StepState::Running),
                Record::StepEnded { key, index, result } if result.ok => {
                    (key, *index, StepState::Done)
                }
                Record::StepEnded { key, index, .. } => (key, *index, StepState::Failed),
                Record::UndoEnded { key, index, .. } => (key, *index, StepState::Undone),
                Record::Ended { key, .. } => {
                    let mut tracks = ledger.tracks().into_iter().filter(is_theirs);
                    let track = tracks.find(|track| track.order().key == *key);
                    if let Some((stage, attempt, ending)) = track.and_then(ended) {
                        self.send_up(host, Up::Ended { stage, attempt, ending });
                    }
                    continue;
                }
                Record::Fenced(_)
                | Record::Accepted(_)
                | Record::Observed { .. }
                | Record::TurnedBack { .. }
                | Record::UndoBegan { .. }
                | Record::Dropped { .. }
                | Record::Trial { .. } => continue,
            };
            let mut tracks = ledger.tracks().into_iter().filter(is_theirs);
            let Some(track) = tracks.find(|track| track.order().key == *key) else { continue };
            let (stage, attempt) = (key.stage as usize, track.order().attempt);
            let step = StepReport { index, state, duration_ms: 0, detail: String::new() };
            self.send_up(host, Up::Step { stage, attempt, step });
        }
    }

    fn tell_end(&mut self, host: usize, key: &TrackKey) {
        let tracks = self.agents[host].ledger.tracks();
        let track = tracks.into_iter().find(|track| track.order().key == *key);
        if let Some((stage, attempt, ending)) = track.and_then(ended) {
            self.send_up(host, Up::Ended { stage, attempt, ending });
        }
    }

    /// Begins what the worker says is next, unless it is being done.
    pub(crate) fn pursue(&mut self, host: usize) {
        let agent = &mut self.agents[host];
        let Some(work) = worker::work(&agent.ledger) else {
            agent.job = None;
            return;
        };
        if agent.job.as_ref().is_some_and(|job| job.work == work) {
            return;
        }
        agent.jobs += 1;
        let (id, life) = (agent.jobs, agent.life);
        let (key, index) = place(&work);
        let step = step_of(&agent.ledger, key, index);
        let effect = match &work {
            Work::Perform { .. } => Some(false),
            Work::Undo { .. } => Some(true),
            Work::Look { .. } | Work::Observe { .. } => None,
        };
        let before = match &work {
            Work::Undo { before, .. } => Some(before.clone()),
            Work::Look { .. } | Work::Perform { .. } | Work::Observe { .. } => {
                before_of(&agent.ledger, key, index)
            }
        };
        if let Some(back) = effect {
            let verdict = self.watch.p02_at_most_once(host, key, index, back);
            self.watch.judge(verdict);
        }
        let (fate, ms) = self.fate(host, &step, &work);
        self.note(|| format!("h{host} begins {}: {fate:?}, {ms} ms", work_word(&work, &step)));
        if self.mutant == Some(Mutant::SkipsTheLook) && matches!(work, Work::Observe { .. }) {
            let (key, found) = (key.clone(), Found::NotDone);
            return self.result(host, Input::Observed { key, index, found, evidence: None });
        }
        let mut at = |ms, instant| self.later(ms, Due::Work { host, life, job: id, instant });
        if effect.is_some() {
            at(ms / 3, Instant::Half);
            at(ms * 2 / 3, Instant::Whole);
        }
        at(ms, Instant::Result);
        self.agents[host].job = Some(Job { id, work, fate, before });
        if effect.is_some() && self.chance(self.faults.crash_in_step) {
            let when = self.rng.random_range(0..=ms);
            self.later(when, Due::AgentDies { host, life });
        }
    }

    fn fate(&mut self, host: usize, step: &Step, work: &Work) -> (Fate, u64) {
        let quick = match work {
            Work::Look { .. } | Work::Observe { .. } => self.rng.random_range(2..20),
            Work::Perform { .. } | Work::Undo { .. } => self.rng.random_range(20..800),
        };
        let mends = matches!(work, Work::Undo { .. }) && !self.unmendable[host];
        // Failures before anything is cut end most runs early; they are rarer, so that the rest is seen too.
        let prepares = matches!(step.verb, Verb::Preflight | Verb::Stage);
        let often = if prepares { self.faults.step_fails / 10 } else { self.faults.step_fails };
        if mends || !self.chance(often) {
            return (Fate::Fine, quick);
        }
        let fate = match self.rng.random_range(0..3) {
            0 => Fate::FailsBefore,
            1 => Fate::FailsHalf,
            _ => Fate::FailsAfter,
        };
        let hangs = self.chance(self.faults.step_hangs * 10);
        (fate, if hangs { step.deadline_ms } else { quick })
    }

    /// An instant of a job has come.
    pub(crate) fn work_goes_on(&mut self, host: usize, life: u64, id: u64, instant: Instant) {
        let agent = &self.agents[host];
        let Some(job) = agent.job.as_ref().filter(|job| job.id == id && agent.life == life) else {
            return;
        };
        let (work, fate, before) = (job.work.clone(), job.fate, job.before.clone());
        let (key, index) = place(&work);
        let step = step_of(&agent.ledger, key, index);
        let extent = match (instant, fate) {
            (Instant::Result, _) => {
                self.agents[host].job = None;
                return self.report(host, work, &step, fate, before);
            }
            (_, Fate::FailsBefore) | (Instant::Whole, Fate::FailsHalf) => return,
            (Instant::Half, _) => Extent::Half,
            (Instant::Whole, _) => Extent::Whole,
        };
        let machine = &mut self.machines[host];
        let done = match &work {
            Work::Perform { .. } => machine.perform(&step, extent),
            Work::Undo { before, .. } => machine.undo(&step, before, extent),
            Work::Look { .. } | Work::Observe { .. } => Ok(()),
        };
        self.watch.judge(done.map_err(|why| format!("{why} (h{host})")));
    }

    /// How a job went.
    fn report(&mut self, host: usize, work: Work, step: &Step, fate: Fate, before: Option<Before>) {
        let machine = &self.machines[host];
        let input = match work {
            Work::Look { key, index } => {
                let before = match fate {
                    Fate::Fine => Ok(machine.look(step)),
                    Fate::FailsBefore | Fate::FailsHalf | Fate::FailsAfter => {
                        Err("it cannot be told".to_owned())
                    }
                };
                Input::Looked { key, index, before }
            }
            Work::Perform { key, index } => {
                let verified = step.verb != Verb::Verify || machine.is_as_wanted(step);
                let bad = step.verb == Verb::Verify && self.bad[host];
                let ok = fate == Fate::Fine && verified && !bad;
                let evidence = if ok { machine.evidence(step, before.as_ref()) } else { None };
                Input::Performed { key, index, result: outcome(ok, evidence) }
            }
            Work::Observe { key, index, undo } => {
                self.watch.looked(host, &key, index, undo);
                let found = match (&before, undo) {
                    (Some(before), true) => machine.observe_undo(step, before),
                    (None, true) => Found::Unknown("what undoes it is not on record".to_owned()),
                    (_, false) => machine.observe(step),
                };
                let half = found == Found::Partial && self.mutant == Some(Mutant::HalfIsDone);
                let found = if half { Found::Done } else { found };
                let evidence = match (&found, undo) {
                    (Found::Done, false) => machine.evidence(step, before.as_ref()),
                    (Found::Done | Found::NotDone | Found::Partial | Found::Unknown(_), _) => None,
                };
                Input::Observed { key, index, found, evidence }
            }
            Work::Undo { key, index, .. } => {
                let result = outcome(fate == Fate::Fine, None);
                Input::Undone { key, index, result }
            }
        };
        self.result(host, input);
    }
}

fn outcome(ok: bool, evidence: Option<agent::order::Evidence>) -> StepResult {
    let detail = if ok { "" } else { "the simulator says no" };
    StepResult { ok, detail: detail.to_owned(), duration_ms: 1, evidence }
}

fn place(work: &Work) -> (&TrackKey, usize) {
    match work {
        Work::Look { key, index }
        | Work::Perform { key, index }
        | Work::Observe { key, index, .. }
        | Work::Undo { key, index, .. } => (key, *index),
    }
}

fn step_of(ledger: &Ledger, key: &TrackKey, index: usize) -> Step {
    let open = ledger.open().filter(|track| track.order().key == *key);
    open.expect("work is on the open track").order().steps[index].clone()
}

fn before_of(ledger: &Ledger, key: &TrackKey, index: usize) -> Option<Before> {
    let open = ledger.open().filter(|track| track.order().key == *key)?;
    let step = open.steps().find(|(at, _)| *at == index)?.1;
    step.before().cloned()
}

/// An ended track as it is told.
fn ended(track: &Track) -> Option<(usize, u32, TrackEnding)> {
    let Ending { end, reason } = track.ending()?;
    let end = match end {
        End::Done => TrackEnd::Done,
        End::Undone => TrackEnd::Undone,
        End::Left => TrackEnd::Left,
        End::Stuck => TrackEnd::Stuck,
    };
    let hash = |text: &Option<String>| {
        text.as_ref().map(|text| engine::SnapshotHash::new(text.clone()).expect("a digest"))
    };
    let evidence = track.evidence().into_iter().map(|row| Evidence {
        component: engine::ComponentName::new(row.component.clone()).expect("a component's name"),
        snapshot: hash(&row.snapshot),
        version: row.version.clone(),
        stable_ms: row.stable_ms,
        replaced: hash(&row.replaced),
        replaced_content: row.replaced_content.clone(),
        notes: row.notes.clone(),
        weights: None,
    });
    let steps = track.steps().map(|(index, step)| {
        let state = match (step.undo(), step.result()) {
            (Some(undo), _) if undo.ok => StepState::Undone,
            (None, Some(result)) if result.ok => StepState::Done,
            (Some(_), _) | (None, Some(_)) => StepState::Failed,
            (None, None) => StepState::Running,
        };
        StepReport { index, state, duration_ms: 0, detail: String::new() }
    });
    let (steps, evidence) = (steps.collect(), evidence.collect());
    let ending = TrackEnding { end, reason: reason.clone(), steps, evidence };
    Some((track.order().key.stage as usize, track.order().attempt, ending))
}

/// A track that a coordinator ordered, and that root did not take from it.
pub(crate) fn is_theirs(track: &&Track) -> bool {
    track.order().origin.made_here().is_none()
}

/// A track as a hello tells it.
fn seen(track: &Track) -> SeenTrack {
    let (stage, attempt) = (track.order().key.stage as usize, track.order().attempt);
    SeenTrack { stage, attempt, ending: ended(track).map(|(_, _, ending)| ending) }
}

fn record_word(record: &Record) -> String {
    match record {
        Record::Accepted(order) => format!(
            "an order: stage {}, attempt {}, {:?}, term {}.{}",
            order.key.stage, order.attempt, order.goal, order.fence.epoch, order.fence.sequence
        ),
        Record::Fenced(fence) => format!("the term {}.{}", fence.epoch, fence.sequence),
        Record::StepBegan { key, index, before } => {
            format!("begin of {}/{index}, {}", key.stage, crate::invariants::before_word(before))
        }
        Record::Observed { key, index, found } => {
            format!("look at {}/{index}: {found:?}", key.stage)
        }
        Record::StepEnded { key, index, result } => {
            format!("end of {}/{index}: {}", key.stage, result.ok)
        }
        Record::TurnedBack { key, why } => format!("turn of {}: {why}", key.stage),
        Record::UndoBegan { key, index } => format!("begin of undo of {}/{index}", key.stage),
        Record::UndoEnded { key, index, result } => {
            format!("end of undo of {}/{index}: {}", key.stage, result.ok)
        }
        Record::Ended { key, ending } => {
            format!("end of {}: {:?} {}", key.stage, ending.end, ending.reason)
        }
        Record::Dropped { key } => format!("drop of {}", key.stage),
        Record::Trial { key, trial } => {
            format!("trial of {}: {} ms left, {:?}", key.stage, trial.left_ms, trial.over)
        }
    }
}

fn work_word(work: &Work, step: &Step) -> String {
    let (key, index) = place(work);
    let verb = match work {
        Work::Look { .. } => "look before",
        Work::Perform { .. } => "perform",
        Work::Observe { undo: false, .. } => "observe",
        Work::Observe { undo: true, .. } => "observe undo of",
        Work::Undo { .. } => "undo",
    };
    format!("{verb} {}/{index} {} {}", key.stage, step.verb, step.component)
}
