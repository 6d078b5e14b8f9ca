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
    Abort, Ask, FleetEvent, FleetName, FleetState, HostName, OperationId, OperationKind, Timestamp,
    planner,
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
    measure::Samples,
    operations::{Operations, Request, StartError, inventory},
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
    /// Since when no operation of our own has been in the way.
    quiet_since: BTreeMap<FleetName, Timestamp>,
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
    sides: Sides,
    affected: Option<f64>,
    control: bool,
    /// Users reach some host without the release.
    control_is_served: bool,
    way: Way,
    busy: Option<(OperationId, OperationKind)>,
    last_automatic: Option<LastAutomatic>,
}

impl Triggers {
    pub fn new(
        operations: Arc<Operations>,
        (fleets, sessions): (Arc<Fleets>, Arc<Sessions>),
        samples: Arc<Samples>,
        proposals: Proposals,
    ) -> Self {
        let readings = Readings { samples, sessions: sessions.clone() };
        Self { operations, fleets, sessions, readings, proposals, inner: Mutex::default() }
    }

    /// Looks for as long as the coordinator lives.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOKS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks: BTreeMap<FleetName, JoinSet<()>> = BTreeMap::new();
        loop {
            ticks.tick().await;
            for fleet in self.fleets.names().await {
                let looks = looks.entry(fleet.clone()).or_default();
                while looks.try_join_next().is_some() {}
                // One that waits for its hosts or for a source keeps no other fleet waiting.
                if looks.is_empty() {
                    looks.spawn(self.clone().look_once(fleet));
                }
            }
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
                None => (TriggerStands::Off, Timestamp(0), String::new()),
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
        self.remember(fleet, &alert);
        Ok(did)
    }

    async fn look_once(self: Arc<Self>, fleet: FleetName) {
        if let Err(error) = self.look(&fleet).await {
            tracing::error!(%fleet, error = &error as &dyn std::error::Error, "triggers");
        }
    }

    async fn look(&self, fleet: &FleetName) -> Result<(), FleetsError> {
        let Some(scene) = self.scene(fleet).await else { return Ok(()) };
        self.forget(fleet, &scene.triggers);
        let now = wall();
        let held = self.held(fleet, &scene, now);
        for trigger in &scene.triggers {
            if let TriggerSource::Alert(_) = trigger.source {
                continue;
            }
            self.set_armed(fleet, trigger, &scene, now);
            self.record_baseline(fleet, trigger, &scene, held.is_some()).await?;
            let quiet_since = self.lock().quiet_since.get(fleet).copied().unwrap_or(now);
            let read = self.readings.read(fleet, trigger, &scene.sides, quiet_since).await;
            let recorded = self.baseline(fleet, trigger).await;
            let control = if trigger.breach.is_of_baseline() { recorded } else { read.control };
            let fired = {
                let mut inner = self.lock();
                let key = (fleet.clone(), trigger.name.clone());
                let Some(standing) = inner.watches.get_mut(&key) else { continue };
                standing.watch.take(&read.fleet, control.as_ref(), held.as_deref())
            };
            let Some(fired) = fired else { continue };
            let did = self.follow(fleet, &scene, trigger, &fired).await?;
            let mut inner = self.lock();
            if let Some(standing) = inner.watches.get_mut(&(fleet.clone(), trigger.name.clone())) {
                standing.did = Some(did);
            }
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
                let id = self.operations.next_id(&OperationKind::Rollback);
                let mut first = None;
                let record = |state: &FleetState| {
                    // Whoever comes second, in this very moment, finds the record of the first.
                    first = state.automatic.as_ref().map(|first| first.operation.clone());
                    let (operation, trigger) = (id.clone(), trigger.name.clone());
                    let event = FleetEvent::ActedAutomatically { operation, trigger, at: wall() };
                    Ok::<_, FleetsError>(if first.is_none() { vec![event] } else { Vec::new() })
                };
                self.fleets.change(fleet, record).await?;
                if let Some(first) = first {
                    return Ok(format!("{}; {first} was begun for it already", fired.sentence));
                }
                let request = Request::Rollback(planner::Request {
                    to: Some(to.clone()),
                    ..planner::Request::default()
                });
                let key = format!("automatic {id}");
                let who = (by.clone(), notice.clone(), key);
                match self.operations.begin(fleet, request, who, Some(id)).await {
                    Ok(id) => Ok(format!("{notice}; {id} begins")),
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
            let sides = Sides::of(control_part, &inventory, &has);
            let way = match at_gate {
                Some(operation) => match operation.plan().from.clone() {
                    Some(release) => Way::To { release, why_not_automatic: None },
                    None => Way::None("what ran before is not one release".to_owned()),
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
            inner.quiet_since.remove(fleet);
            return Some(format!("{operation} is at work: gaps are expected"));
        }
        let since = *inner.quiet_since.entry(fleet.clone()).or_insert(now);
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
        let since = self.lock().quiet_since.get(fleet).copied().unwrap_or_else(wall);
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

/// How old a baseline gets before it is measured anew, while nothing new is live.
const BASELINE_EVERY_MS: i64 = 10 * 60 * 1000;

impl Standing {
    fn new(trigger: &Trigger, now: Timestamp) -> Self {
        Self { watch: Watch::new(trigger.clone(), now), armed_by: None, did: None }
    }
}

fn canary_hosts(operation: &engine::Operation) -> Vec<HostName> {
    let plan = operation.plan();
    let gate = plan.stages.iter().find_map(|stage| stage.gate.as_ref());
    let Some(gate) = gate else { return Vec::new() };
    let hosts = plan.hosts.iter().filter(|row| row.group == gate.canary && row.left_out.is_none());
    hosts.map(|row| row.host.clone()).collect()
}
