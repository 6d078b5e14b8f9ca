//! Learning one component: looks at it now and then, and does what [`Learning`] says.
//!
//! ```text
//! ledger (at work?) ─▶ store::glance ─▶ keys, services, checks (only of what was taken) ─▶ Learning ─▶ take, learn
//! ```
//!
//! Invariant: nothing that serves is changed.
//! Invariant: what is learned was asked for nothing but its own checks: a person's word or an operation's counts for more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Component, Wanted};
use crate::{
    host::{
        learning::{Action, Learning, Pace, Rules, Running, Seen, Tree},
        services::Identities,
    },
    local::is_release,
    probe::Times,
    status::Problem,
    store::{Glance, Hash, Label, StoreError},
};

const NEVER_RESTS_MEND: &str = "name what the app writes by itself under `keep` in the fleet file; it then lives across releases";

/// See the module.
#[derive(Debug)]
pub(in crate::host) struct Learner {
    component: Arc<Component>,
    rules: Rules,
    begun: Instant,
    learning: Learning,
    /// The processes that served while the live tree was a release: later they say nothing of other files.
    ran_release: Option<Identities>,
}

/// All is well with what was taken.
struct Healthy {
    identities: Identities,
    version: Option<String>,
    baselines: BTreeMap<String, Times>,
    times: BTreeMap<String, Times>,
}

impl Learner {
    /// The learner of a component that is to be learned.
    pub(in crate::host) fn of(component: &Arc<Component>, pace: Pace) -> Option<Self> {
        let after_healthy = component.after_healthy?;
        Some(Self {
            component: component.clone(),
            rules: Rules { pace, after_healthy },
            begun: Instant::now(),
            learning: Learning::default(),
            ran_release: None,
        })
    }

    /// The component's name.
    pub(in crate::host) fn name(&self) -> &str {
        &self.component.name
    }

    /// Looks once. `at_work` says whether an operation is.
    pub(in crate::host) async fn look(&mut self, at_work: impl Fn() -> bool) {
        let began = SystemTime::now();
        let since = self.learning.since().unwrap_or(began);
        let (seen, healthy) = self.seen(began, since, &at_work).await;
        let now = self.begun.elapsed();
        match self.learning.look(seen, now, self.rules) {
            Action::Nothing => {}
            Action::Take(exact) => self.take(exact, since).await,
            Action::Name(exact) => {
                if let Some(healthy) = healthy.filter(|_| !at_work()) {
                    self.learn(exact, since, healthy).await;
                }
            }
        }
    }

    /// What a person has to be told.
    pub(in crate::host) fn problem(&self) -> Option<Problem> {
        let path = self.learning.never_rests(self.begun.elapsed(), self.rules)?;
        let what = path.map_or_else(|| "its files keep".to_owned(), |path| format!("{path} keeps"));
        let what = format!("{what} changing, so that nothing can be learned");
        Some(Problem { what, mend: NEVER_RESTS_MEND.to_owned(), warns: true })
    }

    async fn seen(
        &mut self,
        began: SystemTime,
        since: SystemTime,
        at_work: impl Fn() -> bool,
    ) -> (Seen, Option<Healthy>) {
        if at_work() {
            return (Seen::Operation, None);
        }
        let glanced = self.component.stored(move |store, files| match store.glance(files, since) {
            Ok(glance) => Ok(Ok(glance)),
            Err(StoreError::Yielded { .. }) => Ok(Err(Seen::Nothing)),
            Err(StoreError::Held { .. }) => Ok(Err(Seen::Operation)),
            Err(error) => Err(error),
        });
        let glance = match glanced.await {
            Ok(Ok(glance)) => glance,
            Ok(Err(seen)) => return (seen, None),
            Err(why) => {
                tracing::debug!(component = self.name(), why, "it could not be looked at");
                return (Seen::Failed, None);
            }
        };
        if self.is_release(&glance).await {
            self.ran_release = self.component.services.identities().await.ok();
            return (Seen::Known, None);
        }
        let healthy = match self.learning.asks() {
            true => self.healthy(glance.exact).await,
            false => None,
        };
        let runs = healthy
            .as_ref()
            .map(|healthy| Running(format!("{:?} {:?}", healthy.identities, healthy.version)));
        let Glance { exact, moving, known: _ } = glance;
        (Seen::Tree(Tree { exact, began, moving, healthy: runs }), healthy)
    }

    /// What only has more files than a release is that release with what the app wrote, as long as it reports no other
    /// version.
    async fn is_release(&self, glance: &Glance) -> bool {
        let Some(known) = &glance.known else { return false };
        if !known.extra || known.version.is_none() {
            return true;
        }
        let version = self.component.version().await;
        version.is_none() || version == known.version
    }

    /// Whether all that speaks for it holds now.
    async fn healthy(&self, exact: Hash) -> Option<Healthy> {
        let component = &*self.component;
        let unhealthy = |why: &str| {
            tracing::debug!(component = component.name, why, "not learned yet");
            None
        };
        if component.fit.has_keys().await.is_err() {
            return unhealthy("a required key is missing");
        }
        let Ok(identities) = component.services.identities().await else {
            return unhealthy("a service does not run");
        };
        if self.ran_before(&identities) {
            return unhealthy("what serves was started before the files changed");
        }
        let baselines = component.fit.baselines(Some(exact)).await;
        let wanted = Wanted { version: None, baselines: baselines.clone() };
        let tries: Vec<_> = component
            .checks
            .iter()
            .map(|check| {
                let (prober, check, wanted) =
                    (component.prober.clone(), check.clone(), wanted.clone());
                tokio::spawn(async move { prober.try_once(&check, &wanted).await })
            })
            .collect();
        let (mut version, mut times, mut failed) = (None, BTreeMap::new(), tries.is_empty());
        for (check, tried) in component.checks.iter().zip(tries) {
            let tried = tried.await.expect("a try does not panic");
            failed |= !tried.ok;
            version = version.or(tried.version);
            times.extend(tried.times.map(|measured| (check.name.clone(), measured)));
        }
        if failed {
            return unhealthy("a check failed");
        }
        Some(Healthy { identities, version, baselines, times })
    }

    /// Whether the very processes serve that served a release before: they may never have read the files that are there
    /// now. What is reloaded keeps its first process.
    fn ran_before(&self, now: &Identities) -> bool {
        let watched = !now.is_empty() && now.iter().all(|(_, identity, _)| identity.is_some());
        watched && !self.component.services.reload() && self.ran_release.as_ref() == Some(now)
    }

    async fn take(&mut self, exact: Hash, since: SystemTime) {
        let taken = self.component.stored(move |store, files| store.take(files, exact, since));
        match taken.await {
            Ok(()) => {
                let component = self.name();
                tracing::info!(component, %exact, "it changed and rests; taken, not proven yet");
                self.learning.taken(exact, self.begun.elapsed());
            }
            Err(why) => tracing::debug!(component = self.name(), why, "not taken"),
        }
    }

    async fn learn(&mut self, exact: Hash, since: SystemTime, healthy: Healthy) {
        let component = self.component.clone();
        let Healthy { identities, version, baselines, times } = healthy;
        let rows = component.stored(|store, _| store.list()).await.unwrap_or_default();
        let own = || rows.iter().filter(|row| row.component == component.name);
        let names = own().map(|row| row.release.as_str()).collect();
        let now = Timestamp::now();
        let taken_at = own().find(|row| row.exact == exact).map(|row| row.taken_at_unix_ms);
        let release = name(version.as_deref(), &names, now);
        let label = Label {
            release: release.clone(),
            version,
            taken_at_unix_ms: taken_at.unwrap_or(now.as_millisecond()),
            learned_at_unix_ms: Some(now.as_millisecond()),
        };
        // Before it has a name: a release without these could not be gone back to past a migration.
        let mut notes = component.fit.taken(exact).await;
        let learned =
            component.stored(move |store, files| store.learn(files, exact, since, label)).await;
        if let Err(why) = learned {
            tracing::warn!(component = component.name, release, why, "not learned");
            return;
        }
        self.learning.named();
        self.ran_release = Some(identities);
        notes.extend(component.fit.verified(None, &baselines, times).await);
        let notes = notes.join("; ");
        tracing::info!(component = component.name, release, %exact, notes, "learned");
        component.prestage(exact);
    }
}

/// What it is called: as it calls itself, where that can be a name and is free; else by the minute.
fn name(version: Option<&str>, names: &BTreeSet<&str>, now: Timestamp) -> String {
    if let Some(version) = version.filter(|version| is_release(version) && !names.contains(version))
    {
        return version.to_owned();
    }
    let minute = now.strftime("learned-%Y-%m-%dT%H%M").to_string();
    let later = (2..).map(|number| format!("{minute}-{number}"));
    let mut free = std::iter::once(minute.clone()).chain(later);
    free.find(|name| !names.contains(name.as_str())).expect("numbers do not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_called_as_it_calls_itself_where_that_can_be() {
        let now: Timestamp = "2026-11-22T03:10:59Z".parse().unwrap();
        let names = BTreeSet::from(["", "v1.4.2", "learned-2026-11-22T0309"]);
        for (version, wanted) in [
            (Some("v1.4.3"), "v1.4.3"),
            (Some("v1.4.2"), "learned-2026-11-22T0310"),
            (Some("no name: it has spaces"), "learned-2026-11-22T0310"),
            (Some(""), "learned-2026-11-22T0310"),
            (None, "learned-2026-11-22T0310"),
        ] {
            assert_eq!(name(version, &names, now), wanted, "{version:?}");
        }
        let names = BTreeSet::from(["learned-2026-11-22T0310", "learned-2026-11-22T0310-2"]);
        assert_eq!(name(None, &names, now), "learned-2026-11-22T0310-3");
        assert!(is_release(&name(None, &names, now)));
    }
}
