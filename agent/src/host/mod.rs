//! This host: the components of its policy, and every verb on them.
//!
//! ```text
//! verb        files (store)                    services (drivers, in order)     checks (prober)
//! preflight   known, whole, room, its keys, its database's schema
//! snapshot    everything as it is now, applied migrations                       version
//! fetch       an artefact becomes a snapshot; nothing live is touched
//! stage       build beside, read back
//! stop                                         last to first
//! switch      exchange under the hold          reloaded ones test their files
//! start                                        first to last
//! reload                                       what serves has read its files
//! verify      digest after the window, keys    the same processes throughout    pass, hold, version, speed
//! ```
//!
//! A step on `traffic` is the edge's: see [`crate::traffic`].
//!
//! Invariant: nothing is touched that the policy does not name.
//! Invariant: every verb may be done again; what is done already is done.

mod blocking;
mod compact;
mod component;
mod env;
mod fit;
mod gate;
mod hooks;
pub mod learning;
mod managers;
pub mod problems;
#[cfg(test)]
mod script_tests;
mod secrets;
mod services;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::policy::{ComponentPolicy, Policy};
use tokio::{sync::watch, time::Instant};

use self::{
    compact::Compactor,
    component::{Component, learner::Learner},
    learning::Pace,
    problems::Problem,
};
use crate::{
    artefact::Artefacts,
    drivers::{BuildError, Doing},
    facts::Facts,
    hands::{About, Hands},
    http::HttpError,
    lease::Lease,
    ledger::{Found, Ledger, StepResult},
    local::{Import, Imported, Shape},
    order::{Before, Evidence, Step, Verb},
    probe::Prober,
    quarantine::{self, Quarantine, QuarantineError},
    retention::{self, Ask},
    sampler::{Answered, Sampled},
    status::{self, HostStatus, Snapshot},
    store::{Store, StoreError},
    traffic::Traffic,
};

/// What a component can do; the planner asks for nothing else.
pub const VERBS: [Verb; 10] = [
    Verb::Preflight,
    Verb::Snapshot,
    Verb::Stage,
    Verb::Stop,
    Verb::Switch,
    Verb::Start,
    Verb::Verify,
    Verb::Discard,
    Verb::Check,
    Verb::Hook,
];

/// The same for one whose services are reloaded while they run.
pub const RELOAD_VERBS: [Verb; 9] = [
    Verb::Preflight,
    Verb::Snapshot,
    Verb::Stage,
    Verb::Switch,
    Verb::Reload,
    Verb::Verify,
    Verb::Discard,
    Verb::Check,
    Verb::Hook,
];

/// How often the host is looked over for problems: it walks trees.
const PROBLEMS_EVERY: Duration = Duration::from_secs(60);
/// How long the services of one component may take to be made ready when the agent starts.
const SET_UP_WITHIN: Duration = Duration::from_secs(5);

/// Why this host cannot be worked on.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("opening the store")]
    Store(#[source] StoreError),
    #[error("component {component}")]
    Service {
        component: String,
        #[source]
        source: BuildError,
    },
    #[error("setting up the checks")]
    Checks(#[source] HttpError),
}

/// See the module.
#[derive(Debug)]
pub struct Host {
    policy: Policy,
    policy_hash: String,
    about: About,
    components: BTreeMap<String, Arc<Component>>,
    /// Where this host divides the fleet's traffic.
    traffic: Option<Traffic>,
    store: Arc<Store>,
    state: PathBuf,
    /// What it does not go forward to.
    quarantine: Arc<Quarantine>,
    /// As the last look found them.
    problems: Mutex<Vec<Problem>>,
    /// What learning found in its way, by component.
    restless: Mutex<BTreeMap<String, status::Problem>>,
}

impl Host {
    /// The host that a policy describes, with its state in `state`. Inside the runtime: drivers have tasks.
    pub fn open(policy: &Policy, policy_hash: String, state: &Path) -> Result<Self, HostError> {
        let store = Arc::new(Store::open(state).map_err(HostError::Store)?);
        let prober = Prober::new().map_err(HostError::Checks)?;
        let facts = Arc::new(Facts::open(state));
        let compactor = Compactor::start(&store);
        let build = |(name, policy): (&String, &ComponentPolicy)| {
            let built =
                Component::build(name, policy, state, (&store, &compactor), &prober, &facts);
            let failed = |source| HostError::Service { component: name.clone(), source };
            Ok((name.clone(), built.map_err(failed)?))
        };
        let built = policy.components.iter().map(build).collect::<Result<BTreeMap<_, _>, _>>()?;
        let asked = built.iter().map(|(name, built)| (name.clone(), built.manager_files()));
        let mut managers = managers::assign(policy, asked.collect());
        let artefacts =
            Arc::new(Artefacts::open(state, &policy.sources).map_err(HostError::Store)?);
        let components = built.into_iter().map(|(name, built)| {
            let own = managers.remove(&name).unwrap_or_default();
            (name, Arc::new(built.with_managers(own).with_artefacts(&artefacts)))
        });
        let components = components.collect();
        let shapes = policy.components.iter().map(|(name, policy)| Shape::of(name, policy));
        let about = About { host: policy.host.clone(), shapes: shapes.collect() };
        let traffic = policy.traffic.as_ref().map(|traffic| Traffic::new(traffic, state));
        let traffic = traffic.transpose().map_err(HostError::Checks)?;
        Ok(Self {
            policy: policy.clone(),
            policy_hash,
            about,
            components,
            traffic,
            store,
            state: state.to_owned(),
            quarantine: Arc::new(Quarantine::open(state)),
            problems: Mutex::default(),
            restless: Mutex::default(),
        })
    }

    /// Learns the components that are to be learned, for as long as it is let.
    pub async fn learn(self: Arc<Self>, ledger: watch::Receiver<Arc<Ledger>>, pace: Pace) {
        let mut learners: Vec<Learner> =
            self.components.values().filter_map(|one| Learner::of(one, pace)).collect();
        while !learners.is_empty() {
            for learner in &mut learners {
                let name = learner.name().to_owned();
                let at_work = || ledger.borrow().open().is_some_and(|track| track.touches(&name));
                learner.look(at_work).await;
                let mut restless = self.restless.lock().unwrap_or_else(PoisonError::into_inner);
                match learner.problem() {
                    Some(problem) => restless.insert(name, problem),
                    None => restless.remove(&name),
                };
            }
            tokio::time::sleep(pace.look_every).await;
        }
    }

    /// Looks for problems now and then, so that whoever asks how the host is need not wait for it.
    pub async fn watch_problems(self: Arc<Self>) {
        loop {
            let found = self.problems().await;
            *self.found() = found;
            tokio::time::sleep(PROBLEMS_EVERY).await;
        }
    }

    fn found(&self) -> MutexGuard<'_, Vec<Problem>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the host ready for every component, so that none starts in the middle of a switch. What fails is asked for
    /// again by each preflight.
    pub async fn set_up(&self) {
        for (component, built) in &self.components {
            if let Err(why) = built.set_up(Instant::now() + SET_UP_WITHIN).await {
                tracing::warn!(component, why, "the host is not ready for this component");
            }
        }
    }

    /// The traffic, where a step stands on it.
    fn traffic(&self, step: &Step) -> Option<Result<&Traffic, String>> {
        let none = || "this host divides no traffic: its policy has no `traffic`".to_owned();
        (step.component == Step::TRAFFIC).then(|| self.traffic.as_ref().ok_or_else(none))
    }

    fn component(&self, step: &Step) -> Result<&Arc<Component>, String> {
        let known = || format!("component `{}` is not in this host's policy", step.component);
        self.components.get(&step.component).ok_or_else(known)
    }

    async fn snapshots(&self) -> Vec<Snapshot> {
        let store = self.store.clone();
        let listed = tokio::task::spawn_blocking(move || store.list()).await;
        let rows = match listed {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => {
                tracing::warn!(reason = error.reason(), "the snapshots could not be listed");
                Vec::new()
            }
            Err(error) => {
                tracing::error!(%error, "listing the snapshots panicked");
                Vec::new()
            }
        };
        let mut snapshots = Vec::new();
        for row in rows {
            let staged = match self.components.get(&row.component) {
                Some(component) => component.is_staged(row.exact).await,
                None => false,
            };
            snapshots.push(Snapshot {
                component: row.component,
                exact: row.exact.to_string(),
                content: row.content.map_or_else(String::new, |hash| hash.to_string()),
                release: row.release,
                version: row.version.unwrap_or_default(),
                taken_at_unix_ms: row.taken_at_unix_ms,
                learned_at_unix_ms: row.learned_at_unix_ms.unwrap_or(0),
                size_bytes: row.size_bytes,
                files: row.files,
                damage: row.damage.unwrap_or_default(),
                verified_at_unix_ms: row.verified_at_unix_ms.unwrap_or(0),
                staged,
            });
        }
        snapshots
    }
}

impl Hands for Host {
    fn forbidden(&self, step: &Step) -> Option<String> {
        if let Some(traffic) = self.traffic(step) {
            return traffic.map_or_else(Some, |traffic| traffic.forbidden(step));
        }
        match self.component(step) {
            Ok(component) => component.forbidden(step),
            Err(why) => Some(why),
        }
    }

    fn look<'a>(
        &'a self,
        step: &'a Step,
        staged: Option<String>,
    ) -> Doing<'a, Result<Before, String>> {
        Box::pin(async move {
            if let Some(traffic) = self.traffic(step) {
                return traffic?.look(step).await;
            }
            let component = self.component(step)?;
            match step.verb {
                Verb::Stop | Verb::Start => component.running().await.map(Before::Running),
                Verb::Switch => component.live(staged).await.map(Before::Live),
                Verb::Preflight
                | Verb::Snapshot
                | Verb::Stage
                | Verb::Verify
                | Verb::Discard
                | Verb::Check
                | Verb::Reload
                | Verb::Hook
                | Verb::Fetch
                | Verb::SetWeights
                | Verb::Drain => Ok(Before::Nothing),
            }
        })
    }

    fn perform<'a>(&'a self, step: &'a Step, before: &'a Before) -> Doing<'a, StepResult> {
        Box::pin(async move { result(self.try_perform(step, before).await) })
    }

    fn observe<'a>(
        &'a self,
        step: &'a Step,
        before: &'a Before,
        undo: bool,
    ) -> Doing<'a, (Found, Option<Evidence>)> {
        Box::pin(async move {
            let observed = match (self.traffic(step), self.component(step)) {
                (Some(Ok(traffic)), _) => traffic.observe(step, before, undo).await,
                (None, Ok(component)) => component.observe(step, before, undo).await,
                (Some(Err(why)), _) | (None, Err(why)) => Err(why),
            };
            observed.unwrap_or_else(|why| (Found::Unknown(why), None))
        })
    }

    fn undo<'a>(&'a self, step: &'a Step, before: &'a Before) -> Doing<'a, StepResult> {
        Box::pin(async move {
            let undone = match (self.traffic(step), self.component(step)) {
                (Some(Ok(traffic)), _) => traffic.undo(step, before).await,
                (None, Ok(component)) => {
                    let undone = component.undo(step, before);
                    component.shown(step, async { undone.await.map(|detail| (detail, None)) }).await
                }
                (Some(Err(why)), _) | (None, Err(why)) => Err(why),
            };
            result(undone)
        })
    }

    fn status(&self) -> Doing<'_, HostStatus> {
        Box::pin(async move {
            let look = |component: &Arc<Component>| {
                let component = component.clone();
                tokio::spawn(async move { component.status().await })
            };
            let looks: Vec<_> = self.components.values().map(look).collect();
            let mut components = Vec::new();
            for look in looks {
                components.push(look.await.expect("a look does not panic"));
            }
            for problem in self.found().iter() {
                let of = components.iter_mut().find(|row| row.component == problem.component);
                if let Some(row) = of {
                    let (what, mend) = (problem.what.clone(), problem.mend.clone());
                    row.problems.push(status::Problem { what, mend, warns: false });
                }
            }
            let restless = self.restless.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for row in &mut components {
                row.problems.extend(restless.get(&row.component).cloned());
            }
            let free = rustix::fs::statvfs(&self.state);
            let free_bytes = free.map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize));
            HostStatus {
                policy_hash: self.policy_hash.clone(),
                components,
                snapshots: self.snapshots().await,
                free_bytes,
                traffic: match &self.traffic {
                    Some(traffic) => Some(traffic.status().await),
                    None => None,
                },
            }
        })
    }

    fn lease(&self, component: &str) -> Option<Lease> {
        Lease::of(self.policy.components.get(component)?)
    }

    fn holds<'a>(&'a self, component: &'a str, snapshot: &'a str) -> Doing<'a, Result<(), String>> {
        Box::pin(async move {
            match self.components.get(component) {
                Some(component) => component.holds(snapshot).await,
                None => Err("it is not in this host's policy any more".to_owned()),
            }
        })
    }

    fn sampled(&self) -> Vec<Sampled> {
        let of = |(component, policy): (&String, &ComponentPolicy)| {
            let samples = policy.samples.iter();
            let chosen = samples.flat_map(|samples| {
                samples.chosen(&policy.checks).map(|check| Sampled {
                    component: component.clone(),
                    check: check.clone(),
                    every: samples.every.0,
                })
            });
            chosen.collect::<Vec<_>>()
        };
        self.policy.components.iter().flat_map(of).collect()
    }

    fn ask<'a>(&'a self, sampled: &'a Sampled) -> Doing<'a, Option<Answered>> {
        Box::pin(async move { self.components.get(&sampled.component)?.ask(&sampled.check).await })
    }

    fn about(&self) -> About {
        self.about.clone()
    }

    fn import<'a>(&'a self, import: &'a Import) -> Doing<'a, Result<Imported, String>> {
        Box::pin(async move {
            match self.components.get(&import.component) {
                Some(component) => component.import(import).await,
                None => {
                    let known: Vec<&str> = self.components.keys().map(String::as_str).collect();
                    Err(format!(
                        "component `{}` is not in this host's policy; it has: {}",
                        import.component,
                        known.join(", ")
                    ))
                }
            }
        })
    }

    fn quarantine<'a>(&'a self, told: &'a quarantine::Told) -> Doing<'a, Result<(), String>> {
        Box::pin(async move {
            let (list, told) = (self.quarantine.clone(), told.clone());
            let taken = tokio::task::spawn_blocking(move || list.take(told)).await;
            taken.expect("writing a list does not panic").map_err(|error| {
                if matches!(error, QuarantineError::Fsync { .. }) {
                    tracing::error!(%error, "a sync failed; the process ends");
                    std::process::abort()
                }
                error.to_string()
            })
        })
    }

    fn prune<'a>(&'a self, ask: &'a Ask) -> Doing<'a, Result<retention::Report, String>> {
        Box::pin(async move {
            let mut report = retention::Report::default();
            let wanted = |name: &String| ask.component.as_ref().is_none_or(|only| only == name);
            for (name, component) in self.components.iter().filter(|(name, _)| wanted(name)) {
                if let Err(why) = component.prune(ask, &mut report).await {
                    // The others are pruned all the same.
                    report.failures.push(format!("{name}: {why}"));
                }
            }
            Ok(report)
        })
    }
}

impl Host {
    async fn try_perform(
        &self,
        step: &Step,
        before: &Before,
    ) -> Result<(String, Option<Evidence>), String> {
        if let Some(traffic) = self.traffic(step) {
            return traffic?.perform(step).await;
        }
        let component = self.component(step)?;
        if step.forward {
            self.admit(component, step).await?;
        }
        component.shown(step, Self::try_on(component, step, before)).await
    }

    /// Content that was left as bad does not come back by going forward, whatever it is called now.
    async fn admit(&self, component: &Component, step: &Step) -> Result<(), String> {
        if self.quarantine.is_empty() || step.snapshot.is_empty() {
            return Ok(());
        }
        let content = component.content(step).await?;
        match self.quarantine.refuses(&step.component, &content) {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    async fn try_on(
        component: &Component,
        step: &Step,
        before: &Before,
    ) -> Result<(String, Option<Evidence>), String> {
        match step.verb {
            Verb::Preflight => component.preflight(step).await.map(|detail| (detail, None)),
            Verb::Snapshot => component.snapshot(step).await,
            Verb::Stage => component.stage(step).await,
            Verb::Stop => component.stop(step).await.map(|detail| (detail, None)),
            Verb::Switch => component.switch(step, before).await,
            Verb::Start => component.start(step).await.map(|detail| (detail, None)),
            Verb::Verify => component.verify(step).await,
            Verb::Discard => component.discard(step).await.map(|detail| (detail, None)),
            Verb::Check => component.check(step).await,
            Verb::Reload => component.reload(step).await.map(|detail| (detail, None)),
            Verb::Hook => component.hook(step).await.map(|detail| (detail, None)),
            Verb::Fetch => component.fetch(step).await,
            Verb::SetWeights | Verb::Drain => Err(component.forbidden(step).unwrap_or_default()),
        }
    }
}

fn result(done: Result<(String, Option<Evidence>), String>) -> StepResult {
    match done {
        Ok((detail, evidence)) => StepResult { ok: true, detail, duration_ms: 0, evidence },
        Err(detail) => StepResult { ok: false, detail, duration_ms: 0, evidence: None },
    }
}
