//! One running operation: the shell around the engine.
//!
//! ```text
//! inputs ─▶ decide ─▶ append (flushed) ─▶ apply ─▶ publish ─▶ send what is outstanding
//! ```
//!
//! Invariant: that order, always. Recovery is the same loop on a replayed journal; there is no second path.
//! Invariant: an order is sent once to each session of its host; whether it is outstanding is the engine's word.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use engine::{
    Ask, Elapsed, Event, FleetEvent, FleetName, FleetState, Goal, HostName, IllegalEvent, Input,
    Operation, OperationId, Phase, Plan, RunResult, Timestamp, consequences, decide,
    judge::{Ruling, Verdict},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    fleets::{Fleets, FleetsError},
    host::{OperationClock, wall},
    journal::{Journal, JournalError, Stream},
    sessions::{Generation, Order, Sessions},
    trace::{self, Trace},
};

/// Inputs that wait for a runner. When it is full the senders wait: the agents' reports are not lost.
const INPUTS_QUEUED_MAX: usize = 4096;
/// Inputs that one round takes: one append, one flush.
const INPUTS_PER_ROUND_MAX: usize = 1024;
/// How long an idle runner sleeps at most.
const IDLE: Duration = Duration::from_secs(3600);

/// An event with the wall time at which it was written down: the persisted form of an operation's stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub at: Timestamp,
    pub event: Event,
    /// The operation's place in its trace; with its first event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
}

/// Why an operation could not go on or be read.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    #[error("writing the operation's journal")]
    Append(#[source] JournalError),
    #[error("reading the operation's journal")]
    Replay(#[source] JournalError),
    #[error("record {index} of operation {operation} cannot be read by this build")]
    Decode {
        operation: OperationId,
        index: usize,
        #[source]
        source: serde_json::Error,
    },
    #[error("record {index} of operation {operation} does not follow from the ones before it")]
    Illegal {
        operation: OperationId,
        index: usize,
        #[source]
        source: IllegalEvent,
    },
    #[error("writing the fleet's record")]
    Fleet(#[source] FleetsError),
    #[error("the runner of operation {operation} has a defect: {why}")]
    Panicked { operation: OperationId, why: String },
}

/// Why an ask was refused.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("that cannot be done while the operation is {0}")]
    NotNow(&'static str),
    #[error("operation {0} holds the fleet")]
    Busy(OperationId),
    #[error("operation {0} has changed the fleet since")]
    NotNewest(OperationId),
    #[error("{host}: {why}")]
    Overtaken { host: HostName, why: String },
    #[error("the coordinator is going down")]
    Gone,
}

/// The events of an operation and where it stands, for readers.
#[derive(Clone, Debug)]
pub struct View {
    pub operation: Arc<Operation>,
    pub entries: Arc<Vec<Arc<Entry>>>,
}

impl View {
    /// When it was opened.
    pub fn started(&self) -> Timestamp {
        self.entries.first().map_or(Timestamp(0), |entry| entry.at)
    }

    /// The id of its trace; empty for an operation of before there were any.
    pub fn trace_id(&self) -> String {
        trace::of(&self.entries).map_or_else(String::new, Trace::trace_id)
    }

    /// From when on users were on what the plan goes to; absent where that was not measured.
    pub fn mitigated(&self) -> Option<Timestamp> {
        let since = self.operation.mitigated()?;
        let ends = |entry: &&Arc<Entry>| matches!(&entry.event, Event::StageEnded { at, .. } if *at == since);
        self.entries.iter().find(ends).map(|entry| entry.at)
    }

    /// When it ended; absent while it runs.
    pub fn ended(&self) -> Option<Timestamp> {
        match self.operation.phase() {
            Phase::Ended(_) => {
                let ends = self
                    .entries
                    .iter()
                    .rev()
                    .find(|entry| matches!(entry.event, Event::Ended { .. }));
                ends.map(|entry| entry.at)
            }
            Phase::Running | Phase::Paused | Phase::Halting | Phase::Aborting(_) => None,
        }
    }
}

/// The way to a runner.
#[derive(Clone, Debug)]
pub struct RunnerHandle {
    operation: OperationId,
    fleet: FleetName,
    inputs: mpsc::Sender<Message>,
    view: watch::Receiver<View>,
    clock: OperationClock,
}

#[derive(Debug)]
enum Message {
    Input(Input),
    Ask(Ask, String, oneshot::Sender<Result<(), AskError>>),
}

impl RunnerHandle {
    /// Whose runner it is.
    pub fn operation(&self) -> &OperationId {
        &self.operation
    }

    /// The fleet that it moves.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// Tells the runner something. Waits while it is far behind; a runner that is gone has nothing to do with it.
    pub async fn tell(&self, input: Input) {
        if self.inputs.send(Message::Input(input)).await.is_err() {
            tracing::debug!(operation = %self.operation, "input for a runner that is gone");
        }
    }

    /// Asks for something; answered when it is durable, or why not.
    pub async fn ask(&self, ask: Ask, by: String) -> Result<(), AskError> {
        let (sender, receiver) = oneshot::channel();
        self.inputs.send(Message::Ask(ask, by, sender)).await.map_err(|_| AskError::Gone)?;
        receiver.await.map_err(|_| AskError::Gone)?
    }

    /// Now, in the operation's own time.
    pub fn now(&self) -> Elapsed {
        self.clock.now()
    }

    /// Follows what becomes durable.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Runner {
    operation: Operation,
    entries: Arc<Vec<Arc<Entry>>>,
    clock: OperationClock,
    journal: Arc<dyn Journal>,
    sessions: Arc<Sessions>,
    fleets: Arc<Fleets>,
    inputs: mpsc::Receiver<Message>,
    view: watch::Sender<View>,
    /// The session that each outstanding order was last sent to.
    sent: BTreeMap<(HostName, usize, u32), Generation>,
}

impl Runner {
    /// Opens an operation: its first record is durable when this returns.
    pub async fn open(
        id: OperationId,
        plan: Plan,
        by: String,
        reason: String,
        trace: Trace,
        shared: Shared,
    ) -> Result<(Self, RunnerHandle), RunnerError> {
        let event = Event::Opened { plan: Box::new(plan), by, reason };
        let entry = Entry { at: wall(), event, trace: Some(trace) };
        let appended = shared.journal.append(stream(&id), 0, vec![encode(&entry)]).await;
        appended.map_err(RunnerError::Append)?;
        Self::from_entries(id, vec![entry], shared)
    }

    /// An operation from its journal.
    pub fn recover(id: OperationId, shared: Shared) -> Result<(Self, RunnerHandle), RunnerError> {
        let entries = read(&id, &*shared.journal)?;
        let recovered = Self::from_entries(id, entries, shared)?;
        trace::ended_before_start(&recovered.0.operation, &recovered.0.entries);
        Ok(recovered)
    }

    fn from_entries(
        id: OperationId,
        entries: Vec<Entry>,
        shared: Shared,
    ) -> Result<(Self, RunnerHandle), RunnerError> {
        let operation = replay(&id, &entries)?;
        let entries: Arc<Vec<Arc<Entry>>> = Arc::new(entries.into_iter().map(Arc::new).collect());
        let (sender, inputs) = mpsc::channel(INPUTS_QUEUED_MAX);
        let view = View { operation: Arc::new(operation.clone()), entries: entries.clone() };
        let (view, view_receiver) = watch::channel(view);
        let fleet = operation.plan().fleet.clone();
        let clock = OperationClock::from(operation.last());
        let handle =
            RunnerHandle { operation: id, fleet, inputs: sender, view: view_receiver, clock };
        let Shared { journal, sessions, fleets } = shared;
        let sent = BTreeMap::new();
        Ok((
            Self { operation, entries, clock, journal, sessions, fleets, inputs, view, sent },
            handle,
        ))
    }

    /// The span that its log lines are in.
    pub fn log_span(&self) -> tracing::Span {
        trace::log_span(&self.operation, &self.entries)
    }

    /// Runs until nobody holds a handle any more. An error is a journal that can no longer be written: the
    /// process has to end, and goes on from the journal when it is started again.
    pub async fn run(mut self) -> Result<(), RunnerError> {
        // Who is here and who is not may have changed since the last record.
        let mut round = self.greet();
        loop {
            self.round(std::mem::take(&mut round)).await?;
            self.settle().await?;
            self.send().await;
            match self.gather().await {
                Some(messages) => round = messages,
                None => return Ok(()),
            }
        }
    }

    /// What the sessions that exist already mean for this operation.
    fn greet(&self) -> Vec<Message> {
        let hosts = self.operation.plan().hosts.iter().filter(|row| row.left_out.is_none());
        let input = |host: &HostName| match self
            .sessions
            .get(host)
            .filter(|seen| seen.generation().is_some())
        {
            Some(seen) => {
                let tracks = seen.status.tracks_of(self.operation.id());
                Message::Input(Input::AgentBack { host: host.clone(), tracks })
            }
            None => Message::Input(Input::AgentLost { host: host.clone() }),
        };
        hosts.map(|row| input(&row.host)).chain(self.looks_anew()).collect()
    }

    /// What the judge said before this process began is of samples that nobody has any more.
    fn looks_anew(&self) -> Option<Message> {
        let stage = self.operation.gate_in_force()?;
        let ruling = Ruling {
            verdict: Verdict::Hold,
            sentence: "the coordinator has just begun: nothing was measured yet".to_owned(),
            numbers: Vec::new(),
            at: wall(),
        };
        Some(Message::Input(Input::Judged { stage, ruling }))
    }

    /// What was told, between two reminders of what holds no more: a session of such a host changes nothing, and a
    /// retry does not bring it back.
    async fn with_overtaken(&self, told: Vec<Input>) -> Vec<Input> {
        let overtaken = self.overtaken().await.into_iter();
        let overtaken: Vec<Input> =
            overtaken.map(|(host, why)| Input::Overtaken { host, why }).collect();
        overtaken.iter().cloned().chain(told).chain(overtaken.iter().cloned()).collect()
    }

    /// The newest local operation of each host that has one.
    async fn local(&self) -> BTreeMap<HostName, String> {
        let find = |state: &FleetState| {
            let rows = state.local.iter();
            rows.map(|(host, seen)| (host.clone(), seen.operation.id.clone())).collect()
        };
        self.fleets.read(&self.operation.plan().fleet, find).await.unwrap_or_default()
    }

    /// The hosts of the plan that root took over since it was made.
    async fn overtaken(&self) -> BTreeMap<HostName, String> {
        let plan = self.operation.plan().clone();
        let id = self.operation.id();
        let find = |state: &FleetState| {
            let hosts = plan.hosts.iter();
            hosts
                .filter_map(|row| Some((row.host.clone(), state.overtaken(id, &row.host)?)))
                .collect()
        };
        self.fleets.read(&self.operation.plan().fleet, find).await.unwrap_or_default()
    }

    async fn gather(&mut self) -> Option<Vec<Message>> {
        let wake = self.operation.wake_at().map(|at| self.clock.instant(at));
        let sleep = match wake {
            Some(instant) => tokio::time::sleep_until(instant.into()),
            None => tokio::time::sleep(IDLE),
        };
        let mut messages = Vec::new();
        tokio::select! {
            () = sleep => return Some(messages),
            received = self.inputs.recv_many(&mut messages, INPUTS_PER_ROUND_MAX) => {
                if received == 0 { return None; }
            }
        }
        Some(messages)
    }

    /// One round: everything that was told is one append.
    async fn round(&mut self, messages: Vec<Message>) -> Result<(), RunnerError> {
        let mut inputs = Vec::new();
        let mut asks = Vec::new();
        for message in messages {
            match message {
                Message::Input(input) => inputs.push(input),
                Message::Ask(ask, by, answer) => asks.push((ask, by, answer)),
            }
        }
        // Each ask is a round of its own, so that its answer is about what it met.
        for (ask, by, answer) in asks {
            let result = self.asked(ask, by).await?;
            if answer.send(result).is_err() {
                tracing::debug!("who asked is gone");
            }
        }
        inputs.push(Input::Tick);
        let events = self.decided(inputs).await;
        self.commit(events).await
    }

    async fn asked(&mut self, ask: Ask, by: String) -> Result<Result<(), AskError>, RunnerError> {
        // First, so that a retry of such a host is refused for the reason that holds for good.
        if let Ask::Retry(hosts) = &ask {
            let overtaken = self.overtaken().await;
            if let Some((host, why)) = overtaken.iter().find(|(host, _)| hosts.contains(host)) {
                return Ok(Err(AskError::Overtaken { host: host.clone(), why: why.clone() }));
            }
        }
        if !self.operation.allows(&ask) {
            return Ok(Err(AskError::NotNow(phase_word(self.operation.phase()))));
        }
        if let Ask::Retry(_) = &ask
            && let Err(refused) = self.claim().await
        {
            return Ok(Err(refused));
        }
        let inputs = self.with_overtaken(vec![Input::Asked { ask, by }]).await;
        let events = decide(&self.operation, inputs, self.clock.now());
        self.commit(events).await?;
        Ok(Ok(()))
    }

    /// The events that follow; of an ended operation only those that it may still have.
    async fn decided(&mut self, inputs: Vec<Input>) -> Vec<Event> {
        let inputs = self.with_overtaken(inputs).await;
        if !matches!(self.operation.phase(), Phase::Ended(_)) {
            return decide(&self.operation, inputs, self.clock.now());
        }
        let events = decide(&self.operation, inputs.clone(), self.clock.now());
        let reopens = |event: &Event| {
            matches!(event, Event::SeenInWork { .. } | Event::SeenIdle { again: true, .. })
        };
        if !events.iter().any(reopens) {
            return events;
        }
        // A late host brings an ended operation back to life only while nothing else has touched the fleet.
        match self.claim().await {
            Ok(()) => events,
            Err(why) => {
                tracing::warn!(operation = %self.operation.id(), %why, "a late host is left as it is");
                let others =
                    inputs.into_iter().filter(|input| !matches!(input, Input::AgentBack { .. }));
                decide(&self.operation, others.collect(), self.clock.now())
            }
        }
    }

    /// Takes the fleet again for this operation.
    async fn claim(&self) -> Result<(), AskError> {
        let id = self.operation.id().clone();
        let take = |state: &FleetState| {
            if let Some(holder) = &state.busy {
                return Err(ClaimError::Refused(AskError::Busy(holder.clone())));
            }
            match state.operations.last() {
                Some(newest) if newest.id != id => {
                    Err(ClaimError::Refused(AskError::NotNewest(newest.id.clone())))
                }
                Some(_) | None => Ok(vec![FleetEvent::OperationOpened {
                    operation: id.clone(),
                    key: String::new(),
                    at: wall(),
                }]),
            }
        };
        match self.fleets.change(&self.operation.plan().fleet, take).await {
            Ok(()) => Ok(()),
            Err(ClaimError::Refused(why)) => Err(why),
            Err(ClaimError::Fleets(error)) => {
                tracing::error!(%error, "the fleet could not be claimed");
                Err(AskError::Gone)
            }
        }
    }

    /// Append, flush, apply, publish.
    async fn commit(&mut self, events: Vec<Event>) -> Result<(), RunnerError> {
        if events.is_empty() {
            return Ok(());
        }
        let at = wall();
        let entries: Vec<Entry> =
            events.into_iter().map(|event| Entry { at, event, trace: None }).collect();
        let records = entries.iter().map(encode).collect();
        let expected = self.entries.len() as u64;
        let appended = self.journal.append(stream(self.operation.id()), expected, records).await;
        appended.map_err(RunnerError::Append)?;
        let ends = entries.iter().any(|entry| matches!(entry.event, Event::Ended { .. }));
        for entry in &entries {
            log(self.operation.id(), &entry.event);
            self.operation.apply(&entry.event).expect("the engine's own events are legal");
        }
        Arc::make_mut(&mut self.entries).extend(entries.into_iter().map(Arc::new));
        let view =
            View { operation: Arc::new(self.operation.clone()), entries: self.entries.clone() };
        self.view.send_replace(view);
        if ends {
            trace::ended(&self.operation, &self.entries);
        }
        Ok(())
    }

    /// What the end means for the fleet, as far as it is not on record yet.
    async fn settle(&self) -> Result<(), RunnerError> {
        if !matches!(self.operation.phase(), Phase::Ended(_)) {
            return Ok(());
        }
        let settle = |state: &FleetState| Ok(consequences(&self.operation, state, wall()));
        let fleet = self.operation.plan().fleet.clone();
        self.fleets.change(&fleet, settle).await.map_err(RunnerError::Fleet)
    }

    /// Sends what is outstanding to sessions that do not have it yet. What root took over gets nothing: the news may
    /// be on record before this runner has heard of it.
    async fn send(&mut self) {
        let outstanding = self.operation.outstanding();
        let traceparent =
            trace::of(&self.entries).map_or_else(String::new, |trace| trace.traceparent.clone());
        let overtaken =
            if outstanding.is_empty() { BTreeMap::new() } else { self.overtaken().await };
        let local = if outstanding.is_empty() { BTreeMap::new() } else { self.local().await };
        let open: BTreeSet<_> =
            outstanding.iter().map(|c| (c.host.clone(), c.stage, c.attempt)).collect();
        self.sent.retain(|key, _| open.contains(key));
        for command in outstanding {
            let key = (command.host.clone(), command.stage, command.attempt);
            let generation = self.sessions.generation(&command.host);
            if generation.is_none() || self.sent.get(&key) == generation.as_ref() {
                continue;
            }
            if overtaken.contains_key(&command.host) {
                continue;
            }
            let order = |epoch, sequence| Order {
                operation: self.operation.id().clone(),
                stage: command.stage,
                host: command.host.clone(),
                attempt: command.attempt,
                plan_hash: self.operation.plan().hash().to_owned(),
                goal: command.goal,
                steps: match command.goal {
                    Goal::Forward => self.operation.steps(&command).to_vec(),
                    Goal::Undo => Vec::new(),
                },
                on_failure: self.operation.plan().on_failure,
                after_local: local.get(&command.host).cloned().unwrap_or_default(),
                epoch,
                sequence,
                traceparent: traceparent.clone(),
            };
            if let Some(generation) = self.sessions.order(order, &command.host) {
                self.sent.insert(key, generation);
            }
        }
    }
}

/// What a runner needs of the rest of the coordinator.
#[derive(Clone, Debug)]
pub struct Shared {
    pub journal: Arc<dyn Journal>,
    pub sessions: Arc<Sessions>,
    pub fleets: Arc<Fleets>,
}

/// An operation from its journal, to look at.
pub fn view(id: &OperationId, journal: &dyn Journal) -> Result<Option<View>, RunnerError> {
    let entries = read(id, journal)?;
    if entries.is_empty() {
        return Ok(None);
    }
    let operation = Arc::new(replay(id, &entries)?);
    let entries = Arc::new(entries.into_iter().map(Arc::new).collect());
    Ok(Some(View { operation, entries }))
}

fn read(id: &OperationId, journal: &dyn Journal) -> Result<Vec<Entry>, RunnerError> {
    let records = journal.replay(&stream(id)).map_err(RunnerError::Replay)?;
    let decode = |(index, bytes): (usize, &Vec<u8>)| {
        let error = |source| RunnerError::Decode { operation: id.clone(), index, source };
        serde_json::from_slice(bytes).map_err(error)
    };
    records.iter().enumerate().map(decode).collect()
}

fn replay(id: &OperationId, entries: &[Entry]) -> Result<Operation, RunnerError> {
    let illegal = |index, source| RunnerError::Illegal { operation: id.clone(), index, source };
    let Some(first) = entries.first() else { return Err(illegal(0, IllegalEvent::NotOpened)) };
    let mut operation =
        Operation::open(id.clone(), &first.event).map_err(|source| illegal(0, source))?;
    for (index, entry) in entries.iter().enumerate().skip(1) {
        operation.apply(&entry.event).map_err(|source| illegal(index, source))?;
    }
    Ok(operation)
}

enum ClaimError {
    Refused(AskError),
    Fleets(FleetsError),
}

impl From<FleetsError> for ClaimError {
    fn from(error: FleetsError) -> Self {
        Self::Fleets(error)
    }
}

fn stream(id: &OperationId) -> Stream {
    Stream::new(format!("op/{id}")).expect("an operation's id is a stream's name")
}

fn encode(entry: &Entry) -> Vec<u8> {
    serde_json::to_vec(entry).expect("an event has only strings, numbers and lists")
}

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Halting => "halting",
        Phase::Aborting(_) => "being aborted",
        Phase::Ended(RunResult::Verified) => "over: verified",
        Phase::Ended(RunResult::Refused) => "over: refused",
        Phase::Ended(RunResult::PutBack) => "over: put back",
        Phase::Ended(RunResult::Mixed) => "over: mixed",
        Phase::Ended(RunResult::Unverified) => "over: not verified",
    }
}

fn log(operation: &OperationId, event: &Event) {
    match event {
        Event::StepReported { host, step, .. } => {
            tracing::debug!(%operation, %host, index = step.index, state = ?step.state, detail = step.detail, "step");
        }
        Event::Opened { plan, by, reason } => {
            tracing::info!(%operation, fleet = %plan.fleet, by, reason, plan = plan.id(), "opened");
        }
        Event::TrackEnded { host, stage, ending, .. } => {
            tracing::info!(%operation, %host, stage, end = ?ending.end, reason = ending.reason, "track ended");
        }
        Event::BecameUnknown { host, why, .. } => {
            tracing::warn!(%operation, %host, why, "host became unknown")
        }
        Event::Overtaken { host, why, .. } => tracing::warn!(%operation, %host, why, "overtaken"),
        Event::Halted { why, .. } => tracing::warn!(%operation, why, "halted"),
        Event::Ended { result, .. } => tracing::info!(%operation, ?result, "ended"),
        Event::StageBegan { .. }
        | Event::Dispatched { .. }
        | Event::HostLost { .. }
        | Event::HostBack { .. }
        | Event::SeenInWork { .. }
        | Event::SeenIdle { .. }
        | Event::StageEnded { .. }
        | Event::Asked { .. } => tracing::info!(%operation, ?event, "event"),
        Event::Judged { stage, ruling, .. } => {
            tracing::info!(%operation, stage, verdict = ?ruling.verdict, why = ruling.sentence, "judged");
        }
    }
}
