//! Triggers at work: readings of each fleet, what each trigger makes of them, and what follows.
//!
//! ```text
//! each second, each fleet with triggers
//!   who has the release, who does not ─▶ readings (samples, checks, Prometheus) ─▶ Watch::take ─▶ fired ─▶ response
//! POST /v1/alerts ─▶ alerted ──────────────────────────────────────────────────────────────────────────▲      │
//!                                         a rollback that begins, a canary's abort, a proposal, or nothing ◀──┘
//! ```
//!
//! Invariant: that a trigger acts by itself is on record before it acts; the record stands in the way of a second time.
//! Invariant: a trigger acts on what went forward here, never on what a person or another tool did.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use engine::{
    Abort, Ask, FleetEvent, FleetName, FleetState, HostName, OperationId, OperationKind, RunResult,
    Timestamp, planner,
    trigger::{
        Breach, Circumstances, Control, Fired, LastAutomatic, Recent, Response, Then, Trigger,
        TriggerSeverity, TriggerSource, TriggerStands, Watch, Way, notice, response, severity,
    },
};
use proto::v1;
use tokio::{task::JoinSet, time::MissedTickBehavior};

use crate::{
    fleets::{Fleets, FleetsError},
    grpc::canary,
    host::wall,
    measure::{Samples, Servers},
    operations::{Operations, Request, StartError, Word, inventory},
    proposals::{Proposals, Proposed},
    readings::{Readings, Sides},
    sessions::Sessions,
};

/// How often triggers are looked at.
const LOOKS_EVERY: Duration = Duration::from_secs(1);
/// For how long after an operation of our own a trigger stays quiet: checks need a moment to tell again.
const SETTLES_MS: i64 = 5_000;
/// Alerts that are known to have been taken.
const ALERTS_KNOWN_MAX: usize = 1000;

/// An alert that was posted.
#[derive(Clone, Debug)]
pub struct Alerted {
    /// Empty where it names none.
    pub fleet: String,
    pub name: String,
    pub severity: TriggerSeverity,
    pub summary: String,
    /// The same for as long as the alert goes on.
    pub once: String,
}

/// Why an alert was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AlertError {
    #[error("the alert names no fleet: give it a label `fleet`, or the URL `?fleet=NAME`")]
    NoFleet,
    #[error("the alert has no name")]
    NoName,
    #[error(transparent)]
    Fleets(#[from] FleetsError),
}

impl AlertError {
    /// Whether it would be refused again.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::NoFleet | Self::NoName => true,
            Self::Fleets(error) => match error {
                FleetsError::NotKnown { .. } | FleetsError::NameOne { .. } | FleetsError::None => {
                    true
                }
                FleetsError::Journal(_) | FleetsError::Decode { .. } => false,
            },
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Triggers {
    operations: Arc<Operations>,
    fleets: Arc<Fleets>,
    sessions: Arc<Sessions>,
    readings: Readings,
    proposals: Proposals,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    watches: BTreeMap<(FleetName, String), Standing>,
    /// Alerts that were taken, oldest first.
    alerts: VecDeque<(FleetName, String)>,
    /// Since when no operation of our own has been in the way, and after which one.
    quiet: BTreeMap<FleetName, Quiet>,
}

/// The newest operation with its end, and the gate that it stands at.
type After = (Option<(OperationId, Option<RunResult>)>, Option<usize>);

#[derive(Clone, Debug)]
struct Quiet {
    since: Timestamp,
    after: After,
}

#[derive(Debug)]
struct Standing {
    watch: Watch,
    armed_by: Option<OperationId>,
    /// What followed when it fired.
    did: Option<String>,
}

/// What a fleet is like for its triggers.
#[derive(Debug)]
struct Scene {
    triggers: Vec<Trigger>,
    /// What went forward, and until when it may be taken back.
    armed: Option<(Recent, Option<Timestamp>)>,
    /// The canary that runs, where one does.
    canary: Option<OperationId>,
    /// The operation of our own that is the cause of gaps.
    at_work: Option<OperationId>,
    after: After,
    sides: Sides,
    affected: Option<f64>,
    control: bool,
    /// Users reach some host without the release.
    control_is_served: bool,
    way: Way,
    busy: Option<(OperationId, OperationKind)>,
    last_automatic: Option<LastAutomatic>,
}

impl Scene {
    /// Whether a breach that was measured in another one is about the same thing.
    fn is_about(&self, other: &Self) -> bool {
        let of = |scene: &Self| scene.armed.as_ref().map(|(recent, _)| recent.operation.clone());
        of(self) == of(other) && self.canary == other.canary
    }
}

impl Triggers {
    pub fn new(
        operations: Arc<Operations>,
        (fleets, sessions): (Arc<Fleets>, Arc<Sessions>),
        (samples, servers): (Arc<Samples>, Servers),
        proposals: Proposals,
    ) -> Self {
        let readings = Readings { samples, sessions: sessions.clone(), servers };
        Self { operations, fleets, sessions, readings, proposals, inner: Mutex::default() }
    }

    /// Looks for as long as the coordinator lives.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOKS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks: BTreeMap<(FleetName, String), JoinSet<()>> = BTreeMap::new();
        loop {
            ticks.tick().await;
            let mut wanted = BTreeSet::new();
            for fleet in self.fleets.names().await {
                for trigger in self.known(&fleet).await {
                    let key = (fleet.clone(), trigger.name.clone());
                    wanted.insert(key.clone());
                    let looks = looks.entry(key).or_default();
                    while looks.try_join_next().is_some() {}
                    // One that waits for its hosts or for a source keeps no other one waiting.
                    if looks.is_empty() {
                        looks.spawn(self.clone().look_once(fleet.clone(), trigger));
                    }
                }
            }
            looks.retain(|key, looks| {
                while looks.try_join_next().is_some() {}
                // What has begun to act goes on to its end.
                wanted.contains(key) || !looks.is_empty()
            });
            let hosts: BTreeSet<String> = self.fleets.hosts().await.into_iter().collect();
            self.readings.samples.keep_only(|host| hosts.contains(host.as_str()));
            if let Err(error) = self.proposals.expire().await {
                tracing::error!(error = &error as &dyn std::error::Error, "proposals");
            }
        }
    }

    /// How the triggers of a fleet stand.
    pub fn views(&self, fleet: &FleetName, state: &FleetState) -> Vec<v1::TriggerView> {
        let inner = self.lock();
        let triggers = state.fleet.iter().flat_map(|fleet| &fleet.triggers);
        let view = |trigger: &Trigger| {
            let standing = inner.watches.get(&(fleet.clone(), trigger.name.clone()));
            let (stands, since, detail) = match standing {
                Some(standing) => {
                    let (stands, since, detail) = standing.watch.stands();
                    let did = standing.did.as_deref().filter(|_| stands == TriggerStands::Fired);
                    (stands, since, did.unwrap_or(detail).to_owned())
                }
                None => alerts_stand(trigger, state, wall()),
            };
            v1::TriggerView {
                name: trigger.name.clone(),
                rule: trigger.rule(),
                severity: canary::severity(trigger.severity).into(),
                then: canary::then(trigger.then).into(),
                state: canary::stands(stands).into(),
                detail,
                since_unix_ms: since.0,
                armed_until_unix_ms: standing
                    .and_then(|standing| standing.watch.armed_until())
                    .map_or(0, |until| until.0),
            }
        };
        triggers.map(view).collect()
    }

    /// Takes an alert; answers what was done.
    ///
    /// # Errors
    /// It is of no fleet of ours, or what followed could not be written down.
    pub async fn alerted(&self, alert: Alerted) -> Result<String, AlertError> {
        if alert.fleet.is_empty() {
            return Err(AlertError::NoFleet);
        }
        if alert.name.is_empty() {
            return Err(AlertError::NoName);
        }
        let fleet = self.fleets.named(&alert.fleet).await?;
        if self.is_known(&fleet, &alert) {
            return Ok("nothing: it was taken before".to_owned());
        }
        let scene = self.scene(&fleet).await;
        let Some(scene) = scene else { return Err(FleetsError::None.into()) };
        let of = |trigger: &&Trigger| trigger.source == TriggerSource::Alert(alert.name.clone());
        let unknown = || Trigger {
            name: alert.name.clone(),
            source: TriggerSource::Alert(alert.name.clone()),
            breach: Breach::Fails,
            for_ms: 0,
            min_requests: 0,
            severity: alert.severity,
            then: Then::Propose,
        };
        let trigger = scene.triggers.iter().find(of).cloned().unwrap_or_else(unknown);
        let now = wall();
        let what = match alert.summary.as_str() {
            "" => format!("alert {} is posted", alert.name),
            summary => format!("alert {} is posted: {summary}", alert.name),
        };
        let fired = Fired {
            at: now,
            since: now,
            value: 1.0,
            bound: 0.0,
            control: None,
            control_as_bad: None,
            sentence: what,
        };
        let did = self.follow(&fleet, &scene, &trigger, &fired).await?;
        // What goes forward just now may be what it is about: when it is live, the alert counts again.
        let goes_forward = scene.armed.is_none()
            && scene.busy.as_ref().is_some_and(|(_, kind)| *kind != OperationKind::Rollback);
        if !goes_forward {
            self.remember(fleet, &alert);
        }
        Ok(did)
    }

    /// The triggers of a fleet that are looked at; those that left its file are forgotten.
    async fn known(&self, fleet: &FleetName) -> Vec<Trigger> {
        let all = |state: &FleetState| state.fleet.as_ref().map(|fleet| fleet.triggers.clone());
        let mut triggers = self.fleets.read(fleet, all).await.flatten().unwrap_or_default();
        self.forget(fleet, &triggers);
        triggers.retain(|trigger| !matches!(trigger.source, TriggerSource::Alert(_)));
        triggers
    }

    async fn look_once(self: Arc<Self>, fleet: FleetName, trigger: Trigger) {
        if let Err(error) = self.look(&fleet, &trigger).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(%fleet, trigger = trigger.name, error, "triggers");
        }
    }

    async fn look(&self, fleet: &FleetName, trigger: &Trigger) -> Result<(), FleetsError> {
        let Some(scene) = self.scene(fleet).await else { return Ok(()) };
        let now = wall();
        let held = self.held(fleet, &scene, now);
        self.set_armed(fleet, trigger, &scene, now);
        self.record_baseline(fleet, trigger, &scene, held.is_some()).await?;
        let quiet_since = self.lock().quiet.get(fleet).map_or(now, |quiet| quiet.since);
        let read = self.readings.read(fleet, trigger, &scene.sides, quiet_since).await;
        let recorded = self.baseline(fleet, trigger).await;
        let of_baseline = trigger.breach.is_of_baseline();
        let control = if of_baseline { recorded } else { read.control.clone() };
        let key = (fleet.clone(), trigger.name.clone());
        let fired = {
            let mut inner = self.lock();
            let Some(standing) = inner.watches.get_mut(&key) else { return Ok(()) };
            standing.watch.take(&read.fleet, control.as_ref(), held.as_deref())
        };
        let Some(fired) = fired else { return Ok(()) };
        // Also where the bound is of what was measured before: the hosts without the release, now.
        let fired = fired.against(trigger, read.control.as_ref());
        // Sources take their time: what follows is about the fleet as it is now.
        let did = match self.scene(fleet).await {
            Some(now) if now.is_about(&scene) && now.triggers.contains(trigger) => {
                self.follow(fleet, &now, trigger, &fired).await?
            }
            Some(_) | None => {
                format!("{}; what it was about is over: nothing follows", fired.sentence)
            }
        };
        if let Some(standing) = self.lock().watches.get_mut(&key) {
            standing.did = Some(did);
        }
        Ok(())
    }

    /// What follows from a breach; in words.
    async fn follow(
        &self,
        fleet: &FleetName,
        scene: &Scene,
        trigger: &Trigger,
        fired: &Fired,
    ) -> Result<String, FleetsError> {
        // Probes ask a host without users as well; all else is measured only where users are.
        let of_users = match &trigger.source {
            TriggerSource::Prometheus { .. } | TriggerSource::Alert(_) => true,
            TriggerSource::Probes | TriggerSource::Check(_) => false,
        };
        let control = match (scene.control, fired.control_as_bad) {
            (false, _) => Control::Absent,
            (true, Some(true)) => Control::AsBad,
            (true, Some(false)) => Control::Well,
            (true, None) if of_users && !scene.control_is_served => Control::Absent,
            (true, None) => Control::Unknown("it is not measured by hosts".to_owned()),
        };
        let circumstances = Circumstances {
            changed: scene.armed.as_ref().map(|(recent, _)| recent.clone()),
            control,
            last_automatic: scene.last_automatic.clone(),
            way: scene.way.clone(),
            // A canary is no operation that has to be waited for: it is what is taken back.
            busy: scene.busy.clone().filter(|_| scene.canary.is_none()),
        };
        let response =
            match (response(trigger, &circumstances), &trigger.source, &circumstances.way) {
                // Somebody else's rule: a person decides whether it is about what runs here.
                (Response::Nothing { .. }, TriggerSource::Alert(_), Way::To { release, .. })
                    if circumstances.changed.is_none() && circumstances.busy.is_none() =>
                {
                    Response::Propose {
                        to: release.clone(),
                        why_not_automatic: "nothing was deployed here of late".to_owned(),
                    }
                }
                (other, _, _) => other,
            };
        let notice = notice(trigger, fired, scene.affected, &response);
        tracing::warn!(%fleet, trigger = trigger.name, notice, "a trigger fired");
        let by = match &trigger.source {
            TriggerSource::Alert(alert) => format!("alert {alert}"),
            TriggerSource::Probes | TriggerSource::Check(_) | TriggerSource::Prometheus { .. } => {
                format!("trigger {}", trigger.name)
            }
        };
        match (response, &scene.canary) {
            (Response::Nothing { .. }, _) => Ok(notice),
            (Response::Rollback { .. }, Some(canary)) => {
                let Some(runner) = self.operations.runner(canary.as_str()) else {
                    return Ok(notice);
                };
                match runner.ask(Ask::Abort(Abort::Restore), by).await {
                    Ok(()) => Ok(format!("{notice}; {canary} is aborted")),
                    Err(error) => Ok(format!("{notice}; {canary} was not aborted: {error}")),
                }
            }
            (Response::Propose { why_not_automatic, .. }, Some(canary)) => Ok(format!(
                "{notice}; {canary} goes on: {why_not_automatic}; `ctl canary abort` takes it back"
            )),
            (Response::Propose { to, why_not_automatic }, None) => {
                let why = fired.sentence.clone();
                let severity = severity(trigger, scene.affected);
                let what = Proposed { to, why, why_not_automatic, severity, by };
                let (id, new) = self.proposals.propose(fleet, what).await?;
                let word = if new { "proposed as" } else { "proposed already as" };
                Ok(format!("{notice}; {word} {id}"))
            }
            (Response::Rollback { to }, None) => {
                let request = Request::Rollback(planner::Request {
                    to: Some(to.clone()),
                    ..planner::Request::default()
                });
                // That it acts by itself goes on record with the operation: one that could not begin was none.
                let on = circumstances.changed.map(|recent| recent.operation);
                let Some(on) = on else { return Ok(notice) };
                let word = Word::Automatic { trigger: trigger.name.clone(), on };
                // An empty key is nobody's.
                let who = (by.clone(), notice.clone(), String::new());
                match self.operations.begin(fleet, request, who, word).await {
                    Ok(id) => Ok(format!("{notice}; {id} begins")),
                    // Another trigger, in this very moment.
                    Err(StartError::ActedBefore(first)) => {
                        Ok(format!("{}; {first} was begun for it already", fired.sentence))
                    }
                    Err(error) => self.instead(fleet, scene, trigger, fired, (to, by, error)).await,
                }
            }
        }
    }

    /// A rollback that could not begin by itself waits for a person.
    async fn instead(
        &self,
        fleet: &FleetName,
        scene: &Scene,
        trigger: &Trigger,
        fired: &Fired,
        (to, by, error): (engine::ReleaseName, String, StartError),
    ) -> Result<String, FleetsError> {
        tracing::error!(%fleet, error = &error as &dyn std::error::Error, "a rollback did not begin");
        let why_not_automatic = format!("it could not begin by itself: {error}");
        let severity = severity(trigger, scene.affected);
        let why = fired.sentence.clone();
        let what = Proposed { to, why, why_not_automatic: why_not_automatic.clone(), severity, by };
        let (id, _) = self.proposals.propose(fleet, what).await?;
        Ok(format!("{why}; proposed as {id}: {why_not_automatic}", why = fired.sentence))
    }

    /// What a fleet is like now; none where it has no file.
    async fn scene(&self, fleet: &FleetName) -> Option<Scene> {
        let (sessions, operations) = (&self.sessions, &self.operations);
        let now = wall();
        let see = |state: &FleetState| {
            let control_part = state.fleet.as_ref()?;
            let running = state.busy.as_ref().and_then(|id| operations.runner(id.as_str()));
            let running = running.map(|runner| runner.view().borrow().operation.clone());
            let at_gate = running.as_ref().filter(|operation| operation.gate_in_force().is_some());
            let inventory = inventory(state, sessions);
            let armed = match (&state.armed, at_gate) {
                (_, Some(operation)) => {
                    let release = operation.plan().to.clone()?;
                    let recent = Recent { operation: operation.id().clone(), release, ended: now };
                    Some((recent, None))
                }
                (Some(armed), None) if armed.until > now => {
                    let (operation, release) = (armed.operation.clone(), armed.release.clone());
                    Some((Recent { operation, release, ended: armed.since }, Some(armed.until)))
                }
                (Some(_) | None, None) => None,
            };
            let has: BTreeSet<HostName> = match (at_gate, &state.armed) {
                (Some(operation), _) => canary_hosts(operation).into_iter().collect(),
                (None, Some(armed)) => armed.hosts.iter().cloned().collect(),
                (None, None) => control_part.hosts().map(|(host, _)| host.clone()).collect(),
            };
            let mut sides = Sides::of(control_part, &inventory, &has);
            if let Some((operation, stage)) =
                at_gate.and_then(|operation| Some((operation, operation.gate_in_force()?)))
            {
                // The slot that waits for the traffic has the release as well.
                let tried = operation.plan().on_target_before(stage);
                sides.control.retain(|host| !tried.contains(host));
            }
            let way = match at_gate {
                Some(operation) => match operation.plan().from.clone() {
                    Some(release) => Way::To { release, why_not_automatic: None },
                    // An abort puts back what each host had, whatever that was.
                    None => Way::To { release: mixed(), why_not_automatic: None },
                },
                None => match planner::way_back(&inventory) {
                    Ok(release) => {
                        let hosts: Vec<HostName> = has.iter().cloned().collect();
                        let why = planner::why_not_automatic(state, &release, &hosts);
                        Way::To { release, why_not_automatic: why }
                    }
                    Err(refusal) => Way::None(refusal.to_string()),
                },
            };
            let last = state.automatic.as_ref();
            Some(Scene {
                triggers: control_part.triggers.clone(),
                armed,
                canary: at_gate.map(|operation| operation.id().clone()),
                at_work: state.busy.clone().filter(|_| at_gate.is_none()),
                after: (
                    state.operations.last().map(|row| (row.id.clone(), row.result)),
                    at_gate.and_then(|operation| operation.gate_in_force()),
                ),
                affected: sides.share(control_part, &inventory),
                control: !sides.control.is_empty(),
                control_is_served: sides.control_is_served(control_part, &inventory),
                sides,
                way,
                busy: running
                    .map(|operation| (operation.id().clone(), operation.plan().kind.clone())),
                last_automatic: last.map(|last| LastAutomatic {
                    operation: last.operation.clone(),
                    at: last.at,
                    person_since: false,
                }),
            })
        };
        self.fleets.read(fleet, see).await.flatten()
    }

    /// Why the triggers of a fleet stay quiet, where they do.
    fn held(&self, fleet: &FleetName, scene: &Scene, now: Timestamp) -> Option<String> {
        let mut inner = self.lock();
        if let Some(operation) = &scene.at_work {
            inner.quiet.remove(fleet);
            return Some(format!("{operation} is at work: gaps are expected"));
        }
        let since = quiet_since(&mut inner.quiet, fleet, &scene.after, now);
        let settles = now.0.saturating_sub(since.0) < SETTLES_MS && scene.canary.is_none();
        settles.then(|| "an operation has just ended: its hosts settle".to_owned())
    }

    fn set_armed(&self, fleet: &FleetName, trigger: &Trigger, scene: &Scene, now: Timestamp) {
        let mut inner = self.lock();
        let standing = inner
            .watches
            .entry((fleet.clone(), trigger.name.clone()))
            .or_insert_with(|| Standing::new(trigger, now));
        if standing.watch.trigger() != trigger {
            *standing = Standing::new(trigger, now);
        }
        let by = scene.armed.as_ref().map(|(recent, _)| recent.operation.clone());
        if standing.armed_by == by {
            return;
        }
        match &scene.armed {
            Some((_, until)) => standing.watch.arm(now, *until),
            None => standing.watch.disarm(now, "nothing was deployed of late"),
        }
        standing.armed_by = by;
        standing.did = None;
    }

    /// What a trigger measured before something went forward: what `* baseline` is of.
    async fn record_baseline(
        &self,
        fleet: &FleetName,
        trigger: &Trigger,
        scene: &Scene,
        held: bool,
    ) -> Result<(), FleetsError> {
        // While a new release is live nothing of it becomes the measure of itself.
        if !trigger.breach.is_of_baseline() || held || scene.armed.is_some() {
            return Ok(());
        }
        let since = self.lock().quiet.get(fleet).map_or_else(wall, |quiet| quiet.since);
        let read = self.readings.read(fleet, trigger, &scene.sides, since).await;
        let Some(value) = read.fleet.value.filter(|value| value.is_finite()) else { return Ok(()) };
        let (name, at) = (trigger.name.clone(), wall());
        let record = |state: &FleetState| {
            // Not each second: a baseline is what it is like over a day.
            let known = state.baselines.get(&name);
            let old = known.is_none_or(|(_, then)| at.0.saturating_sub(then.0) > BASELINE_EVERY_MS);
            let event = FleetEvent::BaselineMeasured { trigger: name.clone(), value, at };
            Ok::<_, FleetsError>(if old { vec![event] } else { Vec::new() })
        };
        self.fleets.change(fleet, record).await
    }

    async fn baseline(
        &self,
        fleet: &FleetName,
        trigger: &Trigger,
    ) -> Option<engine::trigger::Reading> {
        let find = |state: &FleetState| state.baselines.get(&trigger.name).copied();
        let (value, _) = self.fleets.read(fleet, find).await.flatten()?;
        Some(engine::trigger::Reading {
            at: wall(),
            value: Some(value),
            requests: u64::MAX,
            why_none: None,
        })
    }

    fn is_known(&self, fleet: &FleetName, alert: &Alerted) -> bool {
        let key = (fleet.clone(), format!("{} {}", alert.name, alert.once));
        self.lock().alerts.contains(&key)
    }

    fn remember(&self, fleet: FleetName, alert: &Alerted) {
        let mut inner = self.lock();
        inner.alerts.push_back((fleet, format!("{} {}", alert.name, alert.once)));
        if inner.alerts.len() > ALERTS_KNOWN_MAX {
            inner.alerts.pop_front();
        }
    }

    /// Triggers that left the fleet file are forgotten.
    fn forget(&self, fleet: &FleetName, triggers: &[Trigger]) {
        let known = |name: &String| triggers.iter().any(|trigger| trigger.name == *name);
        self.lock().watches.retain(|(of, name), _| of != fleet || known(name));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Since when nothing of our own has been in the way. One that came and went between two looks begins it anew, and so
/// does a clock that was put back.
fn quiet_since(
    quiet: &mut BTreeMap<FleetName, Quiet>,
    fleet: &FleetName,
    after: &After,
    now: Timestamp,
) -> Timestamp {
    let known = quiet.get(fleet).filter(|known| known.after == *after && known.since <= now);
    let since = known.map_or(now, |known| known.since);
    quiet.insert(fleet.clone(), Quiet { since, after: after.clone() });
    since
}

/// How old a baseline gets before it is measured anew, while nothing new is live.
const BASELINE_EVERY_MS: i64 = 10 * 60 * 1000;

impl Standing {
    fn new(trigger: &Trigger, now: Timestamp) -> Self {
        Self { watch: Watch::new(trigger.clone(), now), armed_by: None, did: None }
    }
}

/// How a trigger stands that nobody looks at: one whose alert is posted, or one that was applied just now.
fn alerts_stand(
    trigger: &Trigger,
    state: &FleetState,
    now: Timestamp,
) -> (TriggerStands, Timestamp, String) {
    let armed = state.armed.as_ref().filter(|armed| armed.until > now);
    match (&trigger.source, armed) {
        (TriggerSource::Alert(alert), Some(armed)) => {
            let detail = format!("waits until {alert} is posted: nobody asks for it");
            (TriggerStands::Blind, armed.since, detail)
        }
        (
            TriggerSource::Alert(_)
            | TriggerSource::Probes
            | TriggerSource::Check(_)
            | TriggerSource::Prometheus { .. },
            _,
        ) => (TriggerStands::Off, Timestamp(0), String::new()),
    }
}

/// What hosts had that did not all have the same.
fn mixed() -> engine::ReleaseName {
    engine::ReleaseName::new("what-each-host-had").expect("a fixed name is valid")
}

fn canary_hosts(operation: &engine::Operation) -> Vec<HostName> {
    let plan = operation.plan();
    let gate = plan.stages.iter().find_map(|stage| stage.gate.as_ref());
    let Some(gate) = gate else { return Vec::new() };
    let hosts = plan.hosts.iter().filter(|row| row.group == gate.canary && row.left_out.is_none());
    hosts.map(|row| row.host.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_that_is_not_posted_is_neither_off_nor_well_once_something_was_deployed() {
        let source = TriggerSource::Alert("Burn".to_owned());
        let breach = Breach::of(&source, None).unwrap();
        let (severity, then) = (TriggerSeverity::High, Then::Rollback);
        let (name, for_ms, min_requests) = ("paged".to_owned(), 0, 0);
        let paged = Trigger { name, source, breach, for_ms, min_requests, severity, then };
        let mut state = FleetState::default();
        let stands = |state: &FleetState, now: i64| alerts_stand(&paged, state, Timestamp(now)).0;
        assert_eq!(stands(&state, 5), TriggerStands::Off);
        let operation = OperationId::new("dp-0007").unwrap();
        let release = engine::ReleaseName::new("v2").unwrap();
        let (since, until, hosts) = (Timestamp(1), Timestamp(9), Vec::new());
        state.armed = Some(engine::Armed { operation, release, hosts, since, until });
        assert_eq!(stands(&state, 5), TriggerStands::Blind);
        assert_eq!(stands(&state, 9), TriggerStands::Off);
    }

    #[test]
    fn what_came_and_went_between_two_looks_and_a_clock_put_back_begin_the_quiet_anew() {
        let fleet = FleetName::new("prod").unwrap();
        let id = OperationId::new("dp-0007").unwrap();
        let mut quiet = BTreeMap::new();
        let mut since = |result: Option<RunResult>, gate: Option<usize>, now: i64| {
            let after = (Some((id.clone(), result)), gate);
            quiet_since(&mut quiet, &fleet, &after, Timestamp(now)).0
        };
        assert_eq!(since(None, Some(4), 1_000), 1_000);
        assert_eq!(since(None, Some(4), 9_000), 1_000);
        assert_eq!(since(None, Some(5), 10_000), 10_000, "another weight");
        assert_eq!(since(Some(RunResult::PutBack), None, 20_000), 20_000, "taken back at once");
        assert_eq!(since(Some(RunResult::PutBack), None, 90_000), 20_000);
        assert_eq!(since(Some(RunResult::PutBack), None, 5_000), 5_000, "the clock was put back");
        assert_eq!(since(Some(RunResult::PutBack), None, 6_000), 5_000);
    }
}
