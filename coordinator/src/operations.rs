//! All operations: making plans, starting them, finding the runner that a message is for.
//!
//! Invariant: one operation at a time holds a fleet; who holds it is on the fleet's record before it begins.
//! Invariant: an operation starts only from a plan that a person saw, and only while making it again gives the
//! same one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use engine::{
    Decision, FleetEvent, FleetName, FleetState, GroupName, HostName, Input, Inventory, Operation,
    OperationId, OperationKind, OperationRow, Phase, Plan, ReleaseName, RunResult,
    planner::{self, Refusal},
};
use tracing::Instrument as _;

use crate::{
    fleets::{FleetsError, nearest},
    host::wall,
    journal::JournalError,
    proposals,
    runner::{self, Runner, RunnerError, RunnerHandle, Shared, View},
    sessions::Sessions,
    trace::Trace,
};

/// How long a plan may be started after it was made.
pub const PLAN_VALID: Duration = Duration::from_secs(600);
/// How long a plan waits for hosts to tell how they are. Longer than an agent waits for an app that hangs (2 s): its word
/// is still to come.
const LOOK_WITHIN: Duration = Duration::from_secs(3);
/// Plans that are kept at a time; the oldest goes first.
const PLANS_KEPT_MAX: usize = 256;

/// What a plan is asked for.
#[derive(Clone, Debug)]
pub enum Request {
    Rollback(planner::Request),
    Undo(OperationId),
    Snapshot(ReleaseName),
    Check(ReleaseName),
    Fetch(ReleaseName),
    Deploy(planner::Deploy),
    Switch(GroupName),
}

/// By whose word something begins that no person has seen as a plan. Whether the word still holds is looked at in the same
/// moment in which the fleet is taken, and goes on record with it.
#[derive(Clone, Debug)]
pub enum Word {
    /// A person approved what was proposed under this id.
    Approved { proposal: OperationId, reason: String },
    /// A trigger acts by itself on what that operation brought.
    Automatic { trigger: String, on: OperationId },
}

/// Why a plan was not made or an operation not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Fleet(#[from] FleetsError),
    #[error(transparent)]
    Runner(#[from] RunnerError),
    #[error("operation `{id}` is not known{}", near.as_ref().map_or_else(String::new, |near| format!("; did you mean `{near}`?")))]
    NoOperation { id: String, near: Option<String> },
    #[error("plan `{0}` is not known or too old")]
    NoPlan(String),
    #[error("the fleet is no longer as plan {0} found it")]
    Stale(String),
    #[error("operation {holder} holds fleet {fleet}")]
    Busy { holder: OperationId, fleet: FleetName },
    #[error("the coordinator is fenced: {0}")]
    Fenced(String),
    #[error("there is nothing to do: {0}")]
    Nothing(String),
    #[error("{id} was {how} already")]
    Decided { id: OperationId, how: String },
    #[error("{0} began by itself already, and no person has acted since")]
    ActedBefore(OperationId),
    #[error("{0}")]
    NotAutomatic(String),
}

/// See the module.
#[derive(Debug)]
pub struct Operations {
    shared: Shared,
    next: AtomicU64,
    runners: Mutex<BTreeMap<OperationId, RunnerHandle>>,
    plans: Mutex<Vec<Kept>>,
    /// A runner that cannot write any more ends the process through this.
    fatal: tokio::sync::mpsc::Sender<RunnerError>,
}

#[derive(Clone, Debug)]
struct Kept {
    plan: Plan,
    request: Request,
    /// Hosts that did not tell how they are when it was made.
    silent: BTreeSet<HostName>,
    made: Instant,
}

impl Operations {
    /// Goes on with every operation that was open when the last coordinator ended.
    pub async fn recover(
        shared: Shared,
        fatal: tokio::sync::mpsc::Sender<RunnerError>,
    ) -> Result<Arc<Self>, StartError> {
        let streams = shared.journal.streams("op/").map_err(RunnerError::Replay)?;
        let number = |name: &str| name.rsplit('-').next()?.parse::<u64>().ok();
        let highest =
            streams.iter().filter_map(|stream| number(stream.as_str())).max().unwrap_or(0);
        let (runners, plans) = (Mutex::default(), Mutex::default());
        let this =
            Arc::new(Self { shared, next: AtomicU64::new(highest + 1), runners, plans, fatal });
        for fleet in this.shared.fleets.names().await {
            // An id that was taken and never became an operation is not given again.
            let taken = |state: &FleetState| {
                let begun = state.operations.iter().map(|row| &row.id);
                let proposed = state.proposals.iter().map(|row| &row.operation);
                begun.chain(proposed).filter_map(|id| number(id.as_str())).max().unwrap_or(0)
            };
            let taken = this.shared.fleets.read(&fleet, taken).await.unwrap_or(0);
            this.next.fetch_max(taken + 1, Ordering::Relaxed);
        }
        for fleet in this.shared.fleets.names().await {
            this.recover_fleet(&fleet).await?;
        }
        Ok(this)
    }

    async fn recover_fleet(&self, fleet: &FleetName) -> Result<(), StartError> {
        let newest = |state: &FleetState| state.operations.last().map(|row| row.id.clone());
        let Some(newest) = self.shared.fleets.read(fleet, newest).await.flatten() else {
            return Ok(());
        };
        match Runner::recover(newest.clone(), self.shared.clone()) {
            Ok((runner, handle)) => {
                self.launch(runner, handle);
                Ok(())
            }
            // The fleet was taken, but the operation's first record never became durable: nothing was sent.
            Err(RunnerError::Illegal { index: 0, .. }) => {
                let end = FleetEvent::OperationEnded {
                    operation: newest,
                    result: RunResult::Refused,
                    at: wall(),
                };
                self.shared.fleets.change(fleet, |_| Ok::<_, FleetsError>(vec![end])).await?;
                Ok(())
            }
            // One operation that cannot be read must not keep the others from going on.
            Err(error @ (RunnerError::Illegal { .. } | RunnerError::Decode { .. })) => {
                tracing::error!(operation = %newest, error = &error as &dyn std::error::Error, "left as it is");
                Ok(())
            }
            Err(
                error @ (RunnerError::Append(_)
                | RunnerError::Replay(_)
                | RunnerError::Fleet(_)
                | RunnerError::Panicked { .. }),
            ) => Err(error.into()),
        }
    }

    /// Asks every host of a fleet how it is, and waits a moment for the answers.
    /// Answers who did not tell in time.
    pub async fn look(&self, fleet: &FleetName) -> BTreeSet<HostName> {
        let hosts = |state: &FleetState| {
            let hosts = state.fleet.iter().flat_map(|fleet| fleet.hosts());
            hosts.map(|(host, _)| host.clone()).collect::<Vec<_>>()
        };
        let hosts = self.shared.fleets.read(fleet, hosts).await.unwrap_or_default();
        self.shared.sessions.look(&hosts, LOOK_WITHIN).await
    }

    /// Makes a plan and keeps it for a while.
    pub async fn plan(&self, fleet: &FleetName, request: Request) -> Result<Plan, StartError> {
        let silent = self.look(fleet).await;
        let plan = self.make(fleet, &request, &silent).await?;
        let kept = Kept { plan: plan.clone(), request, silent, made: Instant::now() };
        let mut plans = self.plans();
        plans.retain(|kept| kept.made.elapsed() < PLAN_VALID && kept.plan.hash() != plan.hash());
        if plans.len() >= PLANS_KEPT_MAX {
            plans.remove(0);
        }
        plans.push(kept);
        Ok(plan)
    }

    /// Starts exactly the plan of that id. The same key gives the same operation.
    pub async fn start(
        self: &Arc<Self>,
        plan_id: &str,
        by: String,
        reason: String,
        key: String,
    ) -> Result<OperationId, StartError> {
        if let Some(known) = self.by_key(&key).await {
            return Ok(known);
        }
        if let Some(why) = self.shared.sessions.fenced() {
            return Err(StartError::Fenced(why));
        }
        let kept = self.plans().iter().find(|kept| kept.plan.id() == plan_id).cloned();
        let kept = kept.filter(|kept| kept.made.elapsed() < PLAN_VALID);
        let kept = kept.ok_or_else(|| StartError::NoPlan(plan_id.to_owned()))?;
        let fleet = kept.plan.fleet.clone();
        if let Some(holder) =
            self.shared.fleets.read(&fleet, |state| state.busy.clone()).await.flatten()
        {
            return Err(StartError::Busy { holder, fleet });
        }
        let again = self.make(&fleet, &kept.request, &kept.silent).await?;
        if again.hash() != kept.plan.hash() {
            return Err(StartError::Stale(plan_id.to_owned()));
        }
        // From here on it goes through, whether or not the caller waits for it: a fleet that was taken has a runner.
        let (this, trace) = (self.clone(), Trace::begin());
        let id = self.next_id(&again.kind);
        let who = (by, reason, key);
        let opened = tokio::spawn(async move { this.open(again, id, who, (trace, None)).await });
        opened.await.expect("opening does not panic")
    }

    /// Plans and starts at once what needs no other look of a person: who approved has seen what it is, and a trigger has
    /// its rule. Who, why and the key.
    pub async fn begin(
        self: &Arc<Self>,
        fleet: &FleetName,
        request: Request,
        (by, reason, key): (String, String, String),
        word: Word,
    ) -> Result<OperationId, StartError> {
        if let Some(known) = self.by_key(&key).await {
            return Ok(known);
        }
        if let Some(why) = self.shared.sessions.fenced() {
            return Err(StartError::Fenced(why));
        }
        let silent = self.look(fleet).await;
        let plan = self.make(fleet, &request, &silent).await?;
        if plan.nothing_to_do() {
            return Err(StartError::Nothing(plan.why_target.clone()));
        }
        let id = match &word {
            Word::Approved { proposal, .. } => proposal.clone(),
            Word::Automatic { .. } => self.next_id(&plan.kind),
        };
        let (this, trace) = (self.clone(), Trace::begin());
        let opened = tokio::spawn(async move {
            this.open(plan, id, (by, reason, key), (trace, Some(word))).await
        });
        opened.await.expect("opening does not panic")
    }

    /// An id that no operation had or will have.
    pub fn next_id(&self, kind: &OperationKind) -> OperationId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        OperationId::new(format!("{}-{number:04}", kind.prefix()))
            .expect("letters, digits and a dash")
    }

    /// The runners of operations that this coordinator goes on with.
    pub fn running(&self) -> Vec<RunnerHandle> {
        self.runners().values().cloned().collect()
    }

    async fn open(
        &self,
        plan: Plan,
        id: OperationId,
        (by, reason, key): (String, String, String),
        (trace, word): (Trace, Option<Word>),
    ) -> Result<OperationId, StartError> {
        let fleet = plan.fleet.clone();
        let mut known = None;
        let take = |state: &FleetState| {
            known = self.begun_with(state, &key);
            if known.is_some() {
                return Ok(Vec::new());
            }
            let word =
                word.as_ref().map(|word| spoken(state, &plan, &id, &by, word)).transpose()?;
            if let Some(holder) = &state.busy {
                return Err(StartError::Busy { holder: holder.clone(), fleet: fleet.clone() });
            }
            let (operation, key) = (id.clone(), key.clone());
            let opened = FleetEvent::OperationOpened { operation, key, at: wall() };
            Ok(word.into_iter().chain([opened]).collect())
        };
        self.shared.fleets.change(&fleet, take).await?;
        if let Some(known) = known {
            return Ok(known);
        }
        let (runner, handle) =
            match Runner::open(id.clone(), plan, by, reason, trace, self.shared.clone()).await {
                Ok(opened) => opened,
                Err(error) => {
                    let end = FleetEvent::OperationEnded {
                        operation: id,
                        result: RunResult::Refused,
                        at: wall(),
                    };
                    self.shared.fleets.change(&fleet, |_| Ok::<_, FleetsError>(vec![end])).await?;
                    return Err(error.into());
                }
            };
        // The fleet's last operation is over for good once a new one begins.
        self.runners().retain(|_, runner| *runner.fleet() != fleet);
        self.launch(runner, handle);
        Ok(id)
    }

    /// An operation as it stands. Runners first; else from the journal, on a thread that may block.
    pub async fn view(&self, id: &str) -> Result<View, StartError> {
        if let Some(runner) = self.runner(id) {
            return Ok(runner.view().borrow().clone());
        }
        let Ok(named) = OperationId::new(id) else { return Err(self.no_operation(id)) };
        let journal = self.shared.journal.clone();
        let read = tokio::task::spawn_blocking(move || runner::view(&named, &*journal));
        read.await.expect("replaying does not panic")?.ok_or_else(|| self.no_operation(id))
    }

    /// The runner of an operation; none where it is over for good.
    pub fn runner(&self, id: &str) -> Option<RunnerHandle> {
        self.runners().values().find(|runner| runner.operation().as_str() == id).cloned()
    }

    /// That there is no such operation, with the nearest that there is.
    pub fn no_operation(&self, id: &str) -> StartError {
        let streams = self.shared.journal.streams("op/").unwrap_or_default();
        let known: Vec<String> =
            streams.iter().map(|stream| stream.as_str()[3..].to_owned()).collect();
        StartError::NoOperation { id: id.to_owned(), near: nearest(id, &known) }
    }

    /// Tells every runner of a fleet what happened to one of its hosts.
    pub async fn tell(&self, fleet: &FleetName, input: Input) {
        let runners: Vec<RunnerHandle> =
            self.runners().values().filter(|runner| runner.fleet() == fleet).cloned().collect();
        for runner in runners {
            runner.tell(input.clone()).await;
        }
    }

    /// Tells every runner of a fleet that a host's session has begun.
    pub async fn back(&self, fleet: &FleetName, host: &HostName) {
        let Some(seen) = self.shared.sessions.get(host) else { return };
        let runners: Vec<RunnerHandle> =
            self.runners().values().filter(|runner| runner.fleet() == fleet).cloned().collect();
        for runner in runners {
            let tracks = seen.status.tracks_of(runner.operation());
            runner.tell(Input::AgentBack { host: host.clone(), tracks }).await;
        }
    }

    async fn make(
        &self,
        fleet: &FleetName,
        request: &Request,
        silent: &BTreeSet<HostName>,
    ) -> Result<Plan, StartError> {
        let undone = match request {
            Request::Undo(id) => Some(self.view(id.as_str()).await?.operation),
            Request::Rollback(_)
            | Request::Snapshot(_)
            | Request::Check(_)
            | Request::Fetch(_)
            | Request::Deploy(_)
            | Request::Switch(_) => None,
        };
        let sessions = self.shared.sessions.clone();
        let make = |state: &FleetState| make(state, &sessions, request, undone.as_deref(), silent);
        let made = self.shared.fleets.read(fleet, make).await;
        Ok(made.unwrap_or(Err(Refusal::NoHosts)).map_err(named_nearest)?)
    }

    async fn by_key(&self, key: &str) -> Option<OperationId> {
        for fleet in self.shared.fleets.names().await {
            let find = |state: &FleetState| self.begun_with(state, key);
            if let Some(found) = self.shared.fleets.read(&fleet, find).await.flatten() {
                return Some(found);
            }
        }
        None
    }

    /// The operation that was begun with a key; not one whose first record never became durable.
    fn begun_with(&self, state: &FleetState, key: &str) -> Option<OperationId> {
        let row = state.operations.iter().find(|row| !key.is_empty() && row.key == key)?;
        let name = format!("op/{}", row.id);
        let streams = self.shared.journal.streams(&name).unwrap_or_default();
        streams.iter().any(|stream| stream.as_str() == name).then(|| row.id.clone())
    }

    fn launch(&self, runner: Runner, handle: RunnerHandle) {
        let id = handle.operation().clone();
        self.runners().insert(id.clone(), handle);
        let fatal = self.fatal.clone();
        tokio::spawn(async move {
            let span = runner.log_span();
            let error = match tokio::spawn(runner.run().instrument(span)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                // A defect: a restarted coordinator goes on from the journal.
                Err(panic) => {
                    RunnerError::Panicked { operation: id.clone(), why: panic.to_string() }
                }
            };
            tracing::error!(operation = %id, error = &error as &dyn std::error::Error, "the runner stopped");
            if fatal.send(error).await.is_err() {
                tracing::debug!("the coordinator is going down already");
            }
        });
    }

    fn runners(&self) -> MutexGuard<'_, BTreeMap<OperationId, RunnerHandle>> {
        self.runners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plans(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<JournalError> for StartError {
    fn from(error: JournalError) -> Self {
        Self::Runner(RunnerError::Replay(error))
    }
}

/// That a word still holds, as it goes on record.
fn spoken(
    state: &FleetState,
    plan: &Plan,
    id: &OperationId,
    by: &str,
    word: &Word,
) -> Result<FleetEvent, StartError> {
    let at = wall();
    match word {
        Word::Approved { proposal, reason } => {
            let decided = |how: String| StartError::Decided { id: proposal.clone(), how };
            let row = state.proposal(proposal).ok_or_else(|| decided("decided".to_owned()))?;
            if let Some(known) = &row.decided {
                return Err(decided(proposals::how(known)));
            }
            if row.until <= at {
                return Err(decided("out of time".to_owned()));
            }
            let (operation, by, reason) = (proposal.clone(), by.to_owned(), reason.clone());
            Ok(FleetEvent::Decided { operation, decision: Decision::Approved, by, reason, at })
        }
        Word::Automatic { trigger, on } => {
            if let Some(first) = &state.automatic {
                return Err(StartError::ActedBefore(first.operation.clone()));
            }
            if state.armed.as_ref().is_none_or(|armed| armed.operation != *on) {
                let why = format!("what {on} brought is not what there is to take back any more");
                return Err(StartError::NotAutomatic(why));
            }
            // The plan may move more hosts than the release went to.
            let moved = plan.moved_hosts();
            let to = plan.to.as_ref();
            let why_not = to.and_then(|to| planner::why_not_automatic(state, to, &moved));
            match why_not {
                Some(why) => Err(StartError::NotAutomatic(why)),
                None => {
                    let (operation, trigger) = (id.clone(), trigger.clone());
                    Ok(FleetEvent::ActedAutomatically { operation, trigger, at })
                }
            }
        }
    }
}

/// What the planners see of a fleet now.
pub fn inventory<'a>(state: &'a FleetState, sessions: &Sessions) -> Inventory<'a> {
    let mut hosts = BTreeMap::new();
    for (host, _) in state.fleet.iter().flat_map(|fleet| fleet.hosts()) {
        if let Some(seen) = sessions.get(host).filter(|seen| seen.generation().is_some()) {
            hosts.insert(host.clone(), seen.status.now(state, host));
        }
    }
    Inventory { state, hosts }
}

fn make(
    state: &FleetState,
    sessions: &Sessions,
    request: &Request,
    undone: Option<&Operation>,
    silent: &BTreeSet<HostName>,
) -> Result<Plan, Refusal> {
    let mut inventory = inventory(state, sessions);
    for (host, now) in &mut inventory.hosts {
        now.silent = silent.contains(host);
    }
    match (request, undone) {
        (Request::Rollback(request), _) => planner::rollback(&inventory, request),
        (Request::Snapshot(release), _) => planner::snapshot(&inventory, release),
        (Request::Check(release), _) => planner::check(&inventory, release),
        (Request::Fetch(release), _) => planner::fetch(&inventory, release),
        (Request::Deploy(request), _) => planner::deploy(&inventory, request, wall()),
        (Request::Switch(to), _) => planner::switch(&inventory, to),
        (Request::Undo(id), Some(operation)) => {
            let moved =
                |row: &&OperationRow| row.moves_hosts() && row.result != Some(RunResult::Refused);
            let newest = state.operations.iter().rev().find(moved);
            if let Some(newest) = newest.filter(|newest| newest.id != *id) {
                let (operation, newest) = (id.clone(), newest.id.clone());
                return Err(Refusal::NotNewest { operation, newest });
            }
            if !matches!(operation.phase(), Phase::Ended(_)) {
                return Err(Refusal::StillRuns(id.clone()));
            }
            planner::undo(&inventory, operation)
        }
        (Request::Undo(id), None) => Err(Refusal::NothingToUndo(id.clone())),
    }
}

/// The nearest known name, where a person's name is not known: the engine does not measure likeness.
fn named_nearest(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::NotKnown { what, name, near: None, known } => {
            let near = nearest(&name, &known);
            Refusal::NotKnown { what, name, near, known }
        }
        other @ (Refusal::NotKnown { .. }
        | Refusal::NoTarget { .. }
        | Refusal::MarkedBad { .. }
        | Refusal::NotWhole { .. }
        | Refusal::TooManyUnreachable { .. }
        | Refusal::NothingToUndo(_)
        | Refusal::NotNewest { .. }
        | Refusal::StillRuns(_)
        | Refusal::NoHosts
        | Refusal::Frozen { .. }
        | Refusal::Quarantined { .. }
        | Refusal::NoArtefacts(_)
        | Refusal::NotFetched { .. }
        | Refusal::Traffic(_)
        | Refusal::Canary(_)
        | Refusal::Warm { .. }
        | Refusal::Defect(_)) => other,
    }
}

#[cfg(test)]
mod tests {
    use engine::{
        Armed, Automatic, LateHosts, OnFailure, PlanDraft, Proposal, Timestamp,
        trigger::TriggerSeverity,
    };

    use super::*;

    fn id(text: &str) -> OperationId {
        OperationId::new(text).unwrap()
    }

    fn plan() -> Plan {
        let v1 = ReleaseName::new("v1").unwrap();
        let draft = PlanDraft {
            kind: OperationKind::Rollback,
            fleet: FleetName::new("prod").unwrap(),
            app: "crm".to_owned(),
            from: None,
            to: Some(v1),
            why_target: String::new(),
            stages: Vec::new(),
            hosts: Vec::new(),
            marks_from_bad: false,
            freezes: false,
            on_failure: OnFailure::Restore,
            late_hosts: LateHosts::Wait,
            deadline_ms: 1,
            unknown_after_ms: 1,
            interruption: Vec::new(),
            not_rolled_back: Vec::new(),
            warnings: Vec::new(),
            weights_before: None,
            weights_after: None,
        };
        Plan::new(draft).unwrap()
    }

    fn says(state: &FleetState, word: &Word) -> String {
        let (mut after, mine) = (state.clone(), id("rb-0009"));
        match spoken(state, &plan(), &mine, "mira", word) {
            Ok(event) => {
                after.apply(&event);
                let decided = after.proposal(&mine).and_then(|row| row.decided.as_ref());
                let acted =
                    after.automatic.as_ref().map(|acted| format!("{} acts", acted.operation));
                decided.map(proposals::how).or(acted).unwrap()
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_was_approved_begins_only_while_it_still_waits() {
        let word = Word::Approved { proposal: id("rb-0009"), reason: "go".to_owned() };
        let state = |until: i64, decided: Option<Decision>| {
            let mut state = FleetState::default();
            let proposal = Proposal {
                operation: id("rb-0009"),
                to: ReleaseName::new("v1").unwrap(),
                why: String::new(),
                why_not_automatic: String::new(),
                severity: TriggerSeverity::High,
                by: "trigger errors".to_owned(),
                at: Timestamp(0),
                until: Timestamp(until),
                decided: None,
            };
            state.apply(&FleetEvent::Proposed { proposal });
            if let Some(decision) = decided {
                let (operation, by, reason) = (id("rb-0009"), "ada".to_owned(), String::new());
                let at = Timestamp(1);
                state.apply(&FleetEvent::Decided { operation, decision, by, reason, at });
            }
            state
        };
        let rows = [
            (state(i64::MAX, None), "approved by mira"),
            (state(0, None), "rb-0009 was out of time already"),
            (state(i64::MAX, Some(Decision::Rejected)), "rb-0009 was rejected by ada already"),
            (state(i64::MAX, Some(Decision::Approved)), "rb-0009 was approved by ada already"),
            (FleetState::default(), "rb-0009 was decided already"),
        ];
        for (state, expected) in rows {
            assert_eq!(says(&state, &word), expected);
        }
    }

    #[test]
    fn a_trigger_acts_by_itself_only_once_and_on_what_it_measured() {
        let word = Word::Automatic { trigger: "errors".to_owned(), on: id("dp-0007") };
        let armed = |by: &str| {
            let (since, until) = (Timestamp(0), Timestamp(9));
            let (release, hosts) = (ReleaseName::new("v2").unwrap(), Vec::new());
            Some(Armed { operation: id(by), release, hosts, since, until })
        };
        let over = "what dp-0007 brought is not what there is to take back any more";
        let mut state = FleetState { armed: armed("dp-0007"), ..FleetState::default() };
        assert_eq!(says(&state, &word), "v1 is not known", "nobody found it good");
        state.apply(&FleetEvent::Marked {
            release: ReleaseName::new("v1").unwrap(),
            standing: engine::Standing::Good,
            by: "ada".to_owned(),
            reason: String::new(),
            at: Timestamp(0),
        });
        assert_eq!(says(&state, &word), "rb-0009 acts");
        let newer = FleetState { armed: armed("dp-0008"), ..FleetState::default() };
        assert_eq!(says(&newer, &word), over);
        assert_eq!(says(&FleetState::default(), &word), over);
        let (operation, trigger) = (id("rb-0008"), "slow".to_owned());
        let automatic = Some(Automatic { operation, trigger, at: Timestamp(1) });
        let acted = FleetState { automatic, ..state };
        let before = "rb-0008 began by itself already, and no person has acted since";
        assert_eq!(says(&acted, &word), before);
    }
}
