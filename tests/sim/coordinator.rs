//! The runner's order around the real engine: decide, append, apply, act; and a crash at each append.
//!
//! ```text
//! inbox ─▶ engine::decide ─▶ append (crash?) ─▶ Operation::apply ─▶ watchers, orders of `outstanding`
//! restart: term + 1, Operation::replay, every agent lost until it says hello
//! ```

use std::collections::{BTreeMap, BTreeSet};

use agent::order::{self, Fence, Order, TrackKey};
use engine::{
    Command, Elapsed, Event, Goal, Input, OnFailure, Operation, TrackEnd, TrackEnding, Verb, decide,
};
use rand::RngExt as _;

use crate::{
    faults::{Mutant, Who},
    world::{Down, Due, Taken, Up, World, host_index, host_name},
};

/// How long the runner collects inputs before it decides.
const TURN_MS: u64 = 2;

/// A coordinator's process and its journal.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) up: bool,
    /// Grows with each crash.
    pub(crate) life: u64,
    epoch: u64,
    sequence: u64,
    /// The disk.
    pub(crate) journal: Vec<Event>,
    pub(crate) operation: Operation,
    sessions: BTreeMap<usize, Session>,
    /// Orders sent on the sessions that are open.
    sent: BTreeSet<(usize, usize, u32)>,
    /// Hosts that root took, on the fleet's record; and what of it is news since the last turn.
    taken: BTreeMap<usize, String>,
    news: Vec<usize>,
    inbox: Vec<Input>,
    turn: Option<u64>,
    /// Operation time when this process started, and when that was.
    base: Elapsed,
    started: u64,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    session: u64,
    /// Its agent has told what it holds.
    open: bool,
}

/// A coordinator that crashed here but goes on elsewhere: it sends again what it had in flight.
#[derive(Debug)]
pub(crate) struct OldTerm {
    epoch: u64,
    sequence: u64,
    orders: Vec<(usize, Order)>,
}

impl Coordinator {
    pub(crate) fn new(opened: Event, operation: Operation) -> Self {
        Self {
            up: true,
            life: 0,
            epoch: 1,
            sequence: 0,
            journal: vec![opened],
            operation,
            sessions: BTreeMap::new(),
            sent: BTreeSet::new(),
            taken: BTreeMap::new(),
            news: Vec::new(),
            inbox: Vec::new(),
            turn: None,
            base: Elapsed(0),
            started: 0,
        }
    }

    pub(crate) fn elapsed(&self, now: u64) -> Elapsed {
        self.base.plus(now - self.started)
    }

    fn fence(&mut self) -> Fence {
        self.sequence += 1;
        Fence { epoch: self.epoch, instance: instance(self.epoch), sequence: self.sequence }
    }

    /// Nothing is left to decide and every agent has said what it holds.
    pub(crate) fn is_quiet(&self, hosts: usize) -> bool {
        let open = self.sessions.values().filter(|session| session.open).count();
        self.up && self.inbox.is_empty() && open == hosts
    }
}

impl World {
    /// What comes up from an agent. Hello opens a session; only its first status makes the agent count as back.
    pub(crate) fn take_up(&mut self, host: usize, session: u64, life: u64, message: Up) {
        if !self.coordinator.up || self.coordinator.life != life {
            return;
        }
        let name = host_name(host);
        match message {
            Up::Hello => {
                let newest = self.coordinator.sessions.get(&host).map(|row| row.session);
                if newest.is_none_or(|newest| newest < session) {
                    self.coordinator.sessions.insert(host, Session { session, open: false });
                    let epoch = self.coordinator.epoch;
                    let fence = Fence { epoch, instance: instance(epoch), sequence: 0 };
                    self.send_down(host, session, Down::Welcome(fence));
                }
            }
            Up::Taken(taken) => self.learn(host, &taken),
            Up::Status(tracks, taken) => {
                let row = self.coordinator.sessions.get_mut(&host);
                let Some(row) = row.filter(|row| row.session == session && !row.open) else {
                    return;
                };
                row.open = true;
                self.coordinator.sent.retain(|(other, _, _)| *other != host);
                self.learn(host, &taken);
                self.note(|| format!("coordinator: h{host} is back with {} tracks", tracks.len()));
                self.tell_coordinator(Input::AgentBack { host: name, tracks });
            }
            Up::Step { stage, attempt, step } => {
                self.tell_coordinator(Input::StepReported { host: name, stage, attempt, step });
            }
            Up::Ended { stage, attempt, ending } => {
                self.tell_coordinator(Input::TrackEnded { host: name, stage, attempt, ending });
            }
            Up::Refused { why, overtaken: true, .. } => {
                self.tell_coordinator(Input::Overtaken { host: name, why });
            }
            Up::Refused { stage, attempt, why, overtaken: false } => {
                let ending = ending(TrackEnd::Refused, why);
                self.tell_coordinator(Input::TrackEnded { host: name, stage, attempt, ending });
            }
        }
    }

    /// Root took a host: on record before anything else is sent there, under a sequence above root's.
    fn learn(&mut self, host: usize, taken: &Taken) {
        let coordinator = &mut self.coordinator;
        let ours = taken.fence.as_ref().filter(|fence| {
            fence.epoch == coordinator.epoch && fence.instance == instance(coordinator.epoch)
        });
        coordinator.sequence = ours.map_or(0, |fence| fence.sequence).max(coordinator.sequence);
        if let Some(newest) = &taken.newest {
            coordinator.news.push(host);
            if self.mutant != Some(Mutant::IgnoresRoot) {
                coordinator.taken.insert(host, newest.clone());
            }
            self.turn_at(self.now + TURN_MS);
        }
    }

    /// What holds no more, before and after everything else: a retry must not bring it back.
    fn overtaken(&self) -> impl Iterator<Item = Input> + use<> {
        let hosts: Vec<usize> = self.coordinator.taken.keys().copied().collect();
        let why = "root took it".to_owned();
        hosts
            .into_iter()
            .map(move |host| Input::Overtaken { host: host_name(host), why: why.clone() })
    }

    /// The coordinator's side of a broken session.
    pub(crate) fn coordinator_notices(&mut self, host: usize, session: u64, life: u64) {
        let here = self.coordinator.sessions.get(&host).is_some_and(|row| row.session == session);
        if !self.coordinator.up || self.coordinator.life != life || !here {
            return;
        }
        self.coordinator.sessions.remove(&host);
        self.note(|| format!("coordinator: h{host} is lost"));
        if self.mutant == Some(Mutant::LostIsDone) {
            for to in self.coordinator.operation.outstanding() {
                if host_index(&to.host) == host {
                    let (host, stage, attempt) = (to.host, to.stage, to.attempt);
                    let ending = ending(TrackEnd::Done, String::new());
                    self.tell_coordinator(Input::TrackEnded { host, stage, attempt, ending });
                }
            }
        }
        self.tell_coordinator(Input::AgentLost { host: host_name(host) });
    }

    /// Into the inbox; a turn follows.
    pub(crate) fn tell_coordinator(&mut self, input: Input) {
        if self.coordinator.up {
            self.coordinator.inbox.push(input);
            self.turn_at(self.now + TURN_MS);
        }
    }

    fn turn_at(&mut self, at: u64) {
        if self.coordinator.turn.is_none_or(|turn| at < turn) {
            self.coordinator.turn = Some(at);
            let life = self.coordinator.life;
            self.later(at.saturating_sub(self.now), Due::Turn { life });
        }
    }

    /// One round of the runner.
    pub(crate) fn turn(&mut self, life: u64) {
        let now = self.now;
        let coordinator = &mut self.coordinator;
        let due = coordinator.turn.is_some_and(|turn| turn <= now);
        if !coordinator.up || coordinator.life != life || !due {
            return;
        }
        coordinator.turn = None;
        let told = std::mem::take(&mut coordinator.inbox);
        let news = std::mem::take(&mut coordinator.news);
        let elapsed = coordinator.elapsed(now);
        let inputs = self.overtaken().chain(told).chain(self.overtaken());
        let inputs = inputs.chain([Input::Tick]).collect();
        let coordinator = &mut self.coordinator;
        let events = decide(&coordinator.operation, inputs, elapsed);
        if !events.is_empty() {
            if self.mutant == Some(Mutant::CoordinatorSendsFirst) {
                let before = self.coordinator.operation.clone();
                self.apply(&events);
                self.act();
                self.coordinator.operation = before;
            }
            let crash = self.crash_at_append(Who::Coordinator);
            if crash != Some(false) {
                self.coordinator.journal.extend(events.iter().cloned());
                self.canary_recorded(&events);
            }
            if crash.is_some() {
                return self.crash_coordinator();
            }
            self.apply(&events);
            self.watch.shown(self.coordinator.journal.len());
        }
        self.watch.coordinator_knows(news);
        self.act();
    }

    fn apply(&mut self, events: &[Event]) {
        for event in events {
            self.note(|| format!("coordinator: {}", event_word(event)));
            if let Event::BecameUnknown { host, .. } = event {
                self.watch.became_unknown(host_index(host));
            }
            if let Event::StageBegan { stage, .. } = event {
                let verdict = self.stages_follow_each_other(*stage);
                self.watch.judge(verdict);
                let verdict = if self.calm { self.the_edge_finds_its_apps(*stage) } else { Ok(()) };
                self.watch.judge(verdict);
            }
            if let Err(error) = self.coordinator.operation.apply(event) {
                self.watch.judge(Err(format!("an event of decide cannot be applied: {error:?}")));
            }
        }
    }

    /// Sends what is outstanding and was not sent on its session; sleeps until time matters.
    fn act(&mut self) {
        for to in self.coordinator.operation.outstanding() {
            let host = host_index(&to.host);
            let open = self.coordinator.sessions.get(&host).filter(|row| row.open).copied();
            let Some(row) = open.filter(|_| !self.coordinator.taken.contains_key(&host)) else {
                continue;
            };
            if self.coordinator.sent.insert((host, to.stage, to.attempt)) {
                let fence = self.coordinator.fence();
                let message = Down::Order(Box::new(self.order(&to, fence)));
                self.watch.ordered(host, to.stage, to.attempt);
                self.send_down(host, row.session, message);
            }
        }
        if let Some(at) = self.coordinator.operation.wake_at() {
            let here = at.since(self.coordinator.base) + self.coordinator.started;
            if here <= self.now {
                let now = self.now;
                self.watch.judge(Err(format!("p06: to wake at {here}, which is not after {now}")));
            }
            self.turn_at(here.max(self.now + 1));
        }
    }

    fn order(&self, to: &Command, fence: Fence) -> Order {
        let operation = &self.coordinator.operation;
        let plan = operation.plan();
        let ahead = self.mutant == Some(Mutant::WeighsAhead);
        let steps = if ahead { next_weight(operation, to) } else { operation.steps(to).to_vec() };
        Order {
            key: TrackKey {
                operation: operation.id().as_str().to_owned(),
                stage: u32::try_from(to.stage).expect("few stages"),
            },
            attempt: to.attempt,
            plan_hash: plan.hash().to_owned(),
            fence,
            goal: match to.goal {
                Goal::Forward => order::Goal::Forward,
                Goal::Undo => order::Goal::Undo,
            },
            steps: steps.iter().map(step).collect(),
            on_failure: match plan.on_failure {
                OnFailure::Restore => order::OnFailure::Restore,
                OnFailure::Leave => order::OnFailure::Leave,
            },
            traceparent: String::new(),
            taken: None,
            origin: order::Origin::Coordinator,
            after: self.coordinator.taken.get(&host_index(&to.host)).cloned().unwrap_or_default(),
        }
    }

    /// The process dies; the journal stays. It may go on elsewhere, under its old term.
    pub(crate) fn crash_coordinator(&mut self) {
        self.note(|| "coordinator dies".to_owned());
        if self.chance(self.faults.old_term) {
            let commands = self.coordinator.operation.outstanding();
            let fence = self.coordinator.fence();
            let orders = commands
                .iter()
                .map(|to| (host_index(&to.host), self.order(to, fence.clone())))
                .collect();
            let (epoch, sequence) = (self.coordinator.epoch, self.coordinator.sequence);
            self.old_term = Some(OldTerm { epoch, sequence, orders });
        }
        let coordinator = &mut self.coordinator;
        coordinator.up = false;
        coordinator.life += 1;
        coordinator.inbox.clear();
        coordinator.news.clear();
        coordinator.sent.clear();
        coordinator.turn = None;
        coordinator.sessions.clear();
        for host in 0..self.agents.len() {
            if let Some(link) = self.agents[host].session {
                self.break_session(host, link.session);
            }
        }
        let back = self.rng.random_range(100..5_000);
        self.later(back, Due::CoordinatorStarts);
    }

    /// The process starts from its journal, under a new term; nobody is connected.
    pub(crate) fn start_coordinator(&mut self) {
        if self.coordinator.up {
            return;
        }
        let verdict = self.watch.p08_sent_is_in_the_journal(&self.coordinator.journal);
        self.watch.judge(verdict);
        let id = self.coordinator.operation.id().clone();
        match Operation::replay(id, &self.coordinator.journal) {
            Ok(operation) => self.coordinator.operation = operation,
            Err(error) => self.watch.judge(Err(format!("p08: no replay: {error:?}"))),
        }
        let coordinator = &mut self.coordinator;
        coordinator.up = true;
        coordinator.epoch += 1;
        coordinator.sequence = 0;
        coordinator.base = coordinator.operation.last();
        coordinator.started = self.now;
        let epoch = coordinator.epoch;
        self.note(|| format!("coordinator starts, term {epoch}"));
        for host in 0..self.agents.len() {
            self.tell_coordinator(Input::AgentLost { host: host_name(host) });
        }
        self.canary_restarted();
        self.judge_begins_anew();
    }

    /// An agent reached the old term: it welcomes and sends what it had in flight, as if it were in charge.
    pub(crate) fn old_term_speaks(&mut self, host: usize, session: u64) {
        let Some(old) = &mut self.old_term else { return };
        let epoch = old.epoch;
        let mut messages =
            vec![Down::Welcome(Fence { epoch, instance: instance(epoch), sequence: 0 })];
        for (_, order) in old.orders.iter().filter(|(to, _)| *to == host) {
            old.sequence += 1;
            let fence = Fence { epoch, instance: instance(epoch), sequence: old.sequence };
            messages.push(Down::Order(Box::new(Order { fence, ..order.clone() })));
        }
        for (n, message) in messages.into_iter().enumerate() {
            self.later(20 * (n as u64 + 1), Due::Down { host, session, message });
        }
        let end = self.rng.random_range(100..3_000);
        self.later(end, Due::AgentNotices { host, session });
    }
}

impl World {
    /// An order that nobody in charge gave: real steps under any identity and any fence.
    pub(crate) fn hostile_order(&mut self, host: usize) {
        let stage = self.rng.random_range(0..self.coordinator.operation.plan().stages.len());
        let to = Command { host: host_name(host), stage, attempt: 1, goal: Goal::Forward };
        let rng = &mut self.rng;
        let pick = ["rb-0001", "rb-0002"][rng.random_range(0..2)];
        let fence = Fence {
            epoch: rng.random_range(1..4),
            instance: format!("instance-{}", rng.random_range(0..2)),
            sequence: rng.random_range(1..40),
        };
        let attempt = rng.random_range(1..5);
        let back = rng.random_range(0..3) == 0;
        let other_plan = rng.random_range(0..8) == 0;
        let order = self.order(&to, fence);
        if !self.agents[host].alive || order.steps.is_empty() {
            return;
        }
        let order = Order {
            key: TrackKey { operation: pick.to_owned(), ..order.key.clone() },
            attempt,
            goal: if back { order::Goal::Undo } else { order::Goal::Forward },
            plan_hash: if other_plan { "another".to_owned() } else { order.plan_hash.clone() },
            ..order
        };
        self.order_came(host, order);
    }
}

/// What a command orders, but with the weights of the gate after it.
fn next_weight(operation: &Operation, to: &Command) -> Vec<engine::Step> {
    let steps = operation.steps(to);
    let stages = &operation.plan().stages;
    let next = stages.get(to.stage + 1).filter(|next| next.gate.is_some());
    let next = next.filter(|_| stages[to.stage].gate.is_some());
    let track = next.and_then(|next| next.tracks().find(|track| track.host == to.host));
    track.map_or_else(|| steps.to_vec(), |track| track.steps.clone())
}

fn instance(epoch: u64) -> String {
    format!("instance-{epoch}")
}

fn ending(end: TrackEnd, reason: String) -> TrackEnding {
    TrackEnding { end, reason, steps: Vec::new(), evidence: Vec::new() }
}

fn step(step: &engine::Step) -> order::Step {
    let target = step.target.as_ref();
    let snapshot = target.and_then(|target| target.snapshot.as_ref());
    order::Step {
        verb: match step.verb {
            Verb::Preflight => order::Verb::Preflight,
            Verb::Snapshot => order::Verb::Snapshot,
            Verb::Stage => order::Verb::Stage,
            Verb::Stop => order::Verb::Stop,
            Verb::Switch => order::Verb::Switch,
            Verb::Start => order::Verb::Start,
            Verb::Verify => order::Verb::Verify,
            Verb::Discard => order::Verb::Discard,
            Verb::Check => order::Verb::Check,
            Verb::Reload => order::Verb::Reload,
            Verb::Hook => order::Verb::Hook,
            Verb::Fetch => order::Verb::Fetch,
            Verb::SetWeights => order::Verb::SetWeights,
            Verb::Drain => order::Verb::Drain,
        },
        component: step.component.as_str().to_owned(),
        release: target.map(|target| target.release.as_str().to_owned()).unwrap_or_default(),
        snapshot: snapshot.map(|hash| hash.as_str().to_owned()).unwrap_or_default(),
        deadline_ms: step.deadline_ms,
        hook: step.hook.clone().unwrap_or_default(),
        across_migrations: step.across_migrations,
        weights: step.weights.as_ref().map(|weights| order::Weights {
            groups: weights
                .groups()
                .iter()
                .map(|(group, percent)| (group.to_string(), *percent))
                .collect(),
            out: weights.out().iter().map(ToString::to_string).collect(),
        }),
        artefact: None,
        at_once: step.at_once,
        forward: step.forward,
    }
}

fn event_word(event: &Event) -> String {
    match event {
        Event::Opened { .. } => "opened".to_owned(),
        Event::StepReported { host, stage, attempt, step } => {
            format!("{host} {stage}/{} attempt {attempt}: {:?}", step.index, step.state)
        }
        Event::TrackEnded { host, stage, attempt, ending } => {
            format!(
                "{host} ended stage {stage}, attempt {attempt}: {:?} {}",
                ending.end, ending.reason
            )
        }
        Event::StageBegan { .. }
        | Event::Dispatched { .. }
        | Event::HostLost { .. }
        | Event::HostBack { .. }
        | Event::BecameUnknown { .. }
        | Event::SeenInWork { .. }
        | Event::SeenIdle { .. }
        | Event::Overtaken { .. }
        | Event::StageEnded { .. }
        | Event::Asked { .. }
        | Event::Judged { .. }
        | Event::Halted { .. }
        | Event::Ended { .. } => format!("{event:?}"),
    }
}
