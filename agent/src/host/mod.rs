//! This host: the components of its policy, and every verb on them.
//!
//! ```text
//! verb        files (store)                    services (drivers, in order)     checks (prober)
//! preflight   known, whole, room
//! snapshot    everything as it is now                                           version
//! stage       build beside, read back
//! stop                                         last to first
//! switch      exchange under the hold
//! start                                        first to last
//! verify      digest after the window          the same processes throughout    pass, hold, version
//! ```
//!
//! Invariant: nothing is touched that the policy does not name.
//! Invariant: every verb may be done again; what is done already is done.

mod component;
mod services;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use proto::policy::{ComponentPolicy, Policy};

use self::component::Component;
use crate::{
    drivers::{BuildError, Doing},
    hands::{About, Hands},
    http::HttpError,
    ledger::{Found, StepResult},
    local::{Import, Imported, Shape},
    order::{Before, Evidence, Step, Verb},
    probe::Prober,
    status::{HostStatus, Snapshot},
    store::{Store, StoreError},
};

/// What a component can do; the planner asks for nothing else.
pub const VERBS: [Verb; 9] = [
    Verb::Preflight,
    Verb::Snapshot,
    Verb::Stage,
    Verb::Stop,
    Verb::Switch,
    Verb::Start,
    Verb::Verify,
    Verb::Discard,
    Verb::Check,
];

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
    policy_hash: String,
    about: About,
    components: BTreeMap<String, Arc<Component>>,
    store: Arc<Store>,
    state: PathBuf,
}

impl Host {
    /// The host that a policy describes, with its state in `state`. Inside the runtime: drivers have tasks.
    pub fn open(policy: &Policy, policy_hash: String, state: &Path) -> Result<Self, HostError> {
        let store = Arc::new(Store::open(state).map_err(HostError::Store)?);
        let prober = Prober::new().map_err(HostError::Checks)?;
        let build = |(name, policy): (&String, &ComponentPolicy)| {
            let built = Component::build(name, policy, state, &store, &prober);
            let failed = |source| HostError::Service { component: name.clone(), source };
            Ok((name.clone(), Arc::new(built.map_err(failed)?)))
        };
        let components = policy.components.iter().map(build).collect::<Result<_, _>>()?;
        let shapes = policy.components.iter().map(|(name, policy)| Shape::of(name, policy));
        let about = About { host: policy.host.clone(), shapes: shapes.collect() };
        Ok(Self { policy_hash, about, components, store, state: state.to_owned() })
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
        let row = |row: crate::store::SnapshotInfo| Snapshot {
            component: row.component,
            exact: row.exact.to_string(),
            content: row.content.map_or_else(String::new, |hash| hash.to_string()),
            release: row.release,
            version: row.version.unwrap_or_default(),
            taken_at_unix_ms: row.taken_at_unix_ms,
            size_bytes: row.size_bytes,
            files: row.files,
            damage: row.damage.unwrap_or_default(),
        };
        rows.into_iter().map(row).collect()
    }
}

impl Hands for Host {
    fn forbidden(&self, step: &Step) -> Option<String> {
        self.component(step).err()
    }

    fn look<'a>(
        &'a self,
        step: &'a Step,
        staged: Option<String>,
    ) -> Doing<'a, Result<Before, String>> {
        Box::pin(async move {
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
                | Verb::Hook => Ok(Before::Nothing),
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
            let observed = match self.component(step) {
                Ok(component) => component.observe(step, before, undo).await,
                Err(why) => Err(why),
            };
            observed.unwrap_or_else(|why| (Found::Unknown(why), None))
        })
    }

    fn undo<'a>(&'a self, step: &'a Step, before: &'a Before) -> Doing<'a, StepResult> {
        Box::pin(async move {
            let undone = match self.component(step) {
                Ok(component) => component.undo(step, before).await,
                Err(why) => Err(why),
            };
            result(undone.map(|detail| (detail, None)))
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
            let free = rustix::fs::statvfs(&self.state);
            let free_bytes = free.map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize));
            HostStatus {
                policy_hash: self.policy_hash.clone(),
                components,
                snapshots: self.snapshots().await,
                free_bytes,
            }
        })
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
}

impl Host {
    async fn try_perform(
        &self,
        step: &Step,
        before: &Before,
    ) -> Result<(String, Option<Evidence>), String> {
        let component = self.component(step)?;
        match step.verb {
            Verb::Preflight => component.preflight(step).await.map(|detail| (detail, None)),
            Verb::Snapshot => component.snapshot(step).await,
            Verb::Stage => component.stage(step).await,
            Verb::Stop => component.stop(step).await.map(|detail| (detail, None)),
            Verb::Switch => component.switch(step, before).await,
            Verb::Start => component.start(step).await.map(|detail| (detail, None)),
            Verb::Verify => component.verify(step).await,
            Verb::Discard => component.discard(step).await.map(|detail| (detail, None)),
            Verb::Check => component.check(step).await.map(|detail| (detail, None)),
            Verb::Reload => component.reload(step).await.map(|detail| (detail, None)),
            Verb::Hook => component.hook(step).await.map(|detail| (detail, None)),
        }
    }
}

fn result(done: Result<(String, Option<Evidence>), String>) -> StepResult {
    match done {
        Ok((detail, evidence)) => StepResult { ok: true, detail, duration_ms: 0, evidence },
        Err(detail) => StepResult { ok: false, detail, duration_ms: 0, evidence: None },
    }
}
