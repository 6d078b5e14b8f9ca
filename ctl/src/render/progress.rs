//! How far an operation is, from its plan and its events.
//!
//! ```text
//! Plan ─▶ Progress::new ─▶ apply(event), apply(event), … ─▶ watch (rows, lines)
//! ```
//!
//! Invariant: the same events give the same progress, from whichever index and however often they were resumed.

use std::collections::{BTreeMap, BTreeSet};

use proto::v1::{self, watch_operation_response::Event};

use super::words::{self, clean};

/// An operation in work.
#[derive(Clone, Debug)]
pub struct Progress {
    pub operation: String,
    pub plan: v1::Plan,
    pub by: String,
    pub started_unix_ms: i64,
    /// The stage in work.
    pub stage: usize,
    pub halted: String,
    pub paused: bool,
    /// Who had it taken back; empty where nobody did.
    pub aborted_by: String,
    pub result: Option<v1::OperationResult>,
    /// The weight that stands and since when, while its gate is shut.
    pub held: Option<Held>,
    /// What the judge said last.
    pub ruling: Option<v1::Ruling>,
    hosts: BTreeMap<String, Host>,
    /// Steps of each host, by stage.
    planned: BTreeMap<String, BTreeMap<u32, usize>>,
}

/// A stage of the plan whose weight stands until its gate opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub stage: usize,
    pub since_unix_ms: i64,
}

/// One host of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub state: HostState,
    /// Since when it is so.
    pub since_unix_ms: i64,
    /// The step in work or the last one: `verify crm`.
    pub step: String,
    /// The host's own words, where something is wrong.
    pub words: String,
    done: BTreeSet<(u32, u32)>,
}

/// Where a host stands. In the order in which a person wants to see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostState {
    /// Needs a person.
    Stuck,
    Unknown,
    /// On the wanted release, not verified, and left so by order.
    Left,
    /// Taken back; it is as it was.
    PutBack,
    Working,
    /// Taking back.
    Undoing,
    Waiting,
    Done,
}

impl Progress {
    pub fn new(operation: &v1::Operation) -> Self {
        let plan = operation.plan.clone().unwrap_or_default();
        let mut planned: BTreeMap<String, BTreeMap<u32, usize>> = BTreeMap::new();
        for (index, stage) in (0..).zip(&plan.stages) {
            for track in stage.batches.iter().flat_map(|batch| &batch.tracks) {
                planned.entry(track.host.clone()).or_default().insert(index, track.steps.len());
            }
        }
        let waiting = Host {
            state: HostState::Waiting,
            since_unix_ms: operation.started_unix_ms,
            step: String::new(),
            words: String::new(),
            done: BTreeSet::new(),
        };
        Self {
            operation: operation.id.clone(),
            by: operation.by.clone(),
            started_unix_ms: operation.started_unix_ms,
            stage: 0,
            halted: String::new(),
            paused: false,
            aborted_by: String::new(),
            result: None,
            held: None,
            ruling: None,
            hosts: planned.keys().map(|host| (host.clone(), waiting.clone())).collect(),
            planned,
            plan,
        }
    }

    pub fn apply(&mut self, response: &v1::WatchOperationResponse) {
        let at = response.at_unix_ms;
        match &response.event {
            None | Some(Event::Opened(_)) => {}
            Some(Event::StageEnded(ended)) => {
                let stage = ended.stage as usize;
                let gated = self.plan.stages.get(stage).is_some_and(|stage| stage.gate.is_some());
                self.held = gated.then_some(Held { stage, since_unix_ms: at });
            }
            Some(Event::Judged(judged)) => self.ruling.clone_from(&judged.ruling),
            Some(Event::Noted(noted)) => {
                if let Some(host) = self.hosts.get_mut(&noted.host) {
                    host.words = clean(&noted.what);
                }
            }
            Some(Event::StageBegan(began)) => {
                self.stage = began.stage as usize;
                self.held = None;
            }
            Some(Event::Dispatched(sent)) => {
                self.result = None;
                self.held = None;
                for name in &sent.hosts {
                    if let Some(host) = self.hosts.get_mut(name) {
                        host.begin(sent.stage, sent.goal(), at);
                    }
                }
            }
            Some(Event::Step(step)) => {
                let name = self.step_name(step);
                if let Some(host) = self.hosts.get_mut(&step.host) {
                    host.step(step, name);
                }
            }
            Some(Event::HostEnded(ended)) => self.ended(ended, at),
            Some(Event::HostUnknown(unknown)) => {
                if let Some(host) = self.hosts.get_mut(&unknown.host) {
                    host.turn(HostState::Unknown, at);
                    host.words = clean(&unknown.why);
                }
            }
            Some(Event::Halted(halted)) => self.halted = clean(&halted.why),
            Some(Event::Asked(asked)) => self.asked(&asked.what, &asked.by),
            Some(Event::Ended(ended)) => self.result = Some(ended.result()),
        }
    }

    fn ended(&mut self, ended: &v1::watch_operation_response::HostEnded, at: i64) {
        let Some(planned) = self.planned.get(&ended.host) else { return };
        let Some(host) = self.hosts.get_mut(&ended.host) else { return };
        host.words = clean(&ended.reason);
        match v1::TrackEnd::try_from(ended.end) {
            Ok(v1::TrackEnd::Done) => {
                let steps = planned.get(&ended.stage).copied().unwrap_or(0);
                host.done.extend((0..).take(steps).map(|index: u32| (ended.stage, index)));
                let last = planned.keys().next_back() == Some(&ended.stage);
                host.turn(if last { HostState::Done } else { HostState::Waiting }, at);
                host.step.clear();
            }
            Ok(v1::TrackEnd::Undone) => host.turn(HostState::PutBack, at),
            Ok(v1::TrackEnd::Left) => host.turn(HostState::Left, at),
            Ok(v1::TrackEnd::Stuck | v1::TrackEnd::Unspecified) | Err(_) => {
                host.turn(HostState::Stuck, at);
            }
        }
    }

    fn asked(&mut self, what: &str, by: &str) {
        match what {
            what if what.starts_with("abort") => self.aborted_by = clean(by),
            "pause" => self.paused = true,
            "resume" => self.paused = false,
            _ => {}
        }
    }

    /// A step in words; what is set is known from the plan alone.
    pub fn step_name(&self, step: &v1::watch_operation_response::StepChanged) -> String {
        words::step(step.verb, &step.component, &step.hook, planned_weights(&self.plan, step))
    }

    /// Hosts that have a track, by name.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, &Host)> {
        self.hosts.iter().map(|(name, host)| (name.as_str(), host))
    }

    /// Hosts in a state, by name.
    pub fn in_state(&self, state: HostState) -> impl Iterator<Item = &str> {
        self.hosts().filter(move |(_, host)| host.state == state).map(|(name, _)| name)
    }

    /// Steps done, and all of them.
    pub fn steps(&self) -> (usize, usize) {
        let done = self.hosts.values().map(|host| host.done.len()).sum();
        let all = self.planned.values().flat_map(|stages| stages.values()).sum();
        (done, all)
    }
}

/// The division that a step of the traffic is about, as the plan has it.
pub fn planned_weights<'a>(
    plan: &'a v1::Plan,
    step: &v1::watch_operation_response::StepChanged,
) -> Option<&'a v1::Weights> {
    if step.component != words::TRAFFIC {
        return None;
    }
    let stage = plan.stages.get(step.stage as usize)?;
    let mut tracks = stage.batches.iter().flat_map(|batch| &batch.tracks);
    let track = tracks.find(|track| track.host == step.host)?;
    let planned = track.steps.get(step.index as usize)?;
    let same = planned.verb == step.verb && planned.component == step.component;
    planned.weights.as_ref().filter(|_| same)
}

impl Host {
    fn begin(&mut self, stage: u32, goal: v1::Goal, at: i64) {
        let state = match goal {
            v1::Goal::Forward | v1::Goal::Unspecified => HostState::Working,
            v1::Goal::Undo => HostState::Undoing,
        };
        self.turn(state, at);
        self.done.retain(|(done_in, _)| *done_in != stage);
        self.step.clear();
        self.words.clear();
    }

    fn step(&mut self, step: &v1::watch_operation_response::StepChanged, name: String) {
        self.words.clear();
        self.step = name;
        let key = (step.stage, step.index);
        match v1::StepState::try_from(step.state) {
            Ok(v1::StepState::Done) => drop(self.done.insert(key)),
            Ok(v1::StepState::Failed) => {
                self.done.remove(&key);
                self.words = clean(&step.detail);
            }
            Ok(v1::StepState::Undone) => drop(self.done.remove(&key)),
            Ok(v1::StepState::Running | v1::StepState::Unspecified) | Err(_) => {}
        }
    }

    fn turn(&mut self, state: HostState, at: i64) {
        self.state = state;
        self.since_unix_ms = at;
    }
}
