//! Whether a release fits this host: its keys, its database's schema, its speed.
//!
//! ```text
//! preflight   keys of the target's own env file │ schema gate │ which keys change
//! stage       which keys change                 │ what is about to be replaced keeps its way back
//! snapshot    keys that are missing, as a note  │ applied migrations ─▶ facts
//! verify      keys of the live env file         │ baselines ◀─ facts, answer times ─▶ facts
//! ```
//!
//! Invariant: a release that lacks a required key is never verified; one that would lack it is never switched to.
//! Invariant: only what held is recorded as good.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use proto::policy::{CheckPolicy, MigrationsPolicy, ProbePolicy};

use super::{
    blocking::stored,
    env::{self, At},
    gate,
};
use crate::{
    facts::{Facts, FactsError, MadeOf},
    probe::{self, Times},
    store::{ComponentFiles, Hash, Store, StoreError},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Fit {
    pub(super) component: String,
    pub(super) files: Arc<ComponentFiles>,
    pub(super) store: Arc<Store>,
    pub(super) facts: Arc<Facts>,
    pub(super) migrations: Option<MigrationsPolicy>,
    /// The checks that compare with a baseline.
    pub(super) comparing: Vec<String>,
    /// What preflight saw applied in the database that the live release uses too.
    pub(super) applied: Mutex<Option<Vec<String>>>,
}

impl Fit {
    /// The checks of a policy that compare with a baseline.
    pub(super) fn comparing(checks: &[CheckPolicy]) -> Vec<String> {
        let compares = |check: &&CheckPolicy| match &check.probe {
            ProbePolicy::Http(probe) => probe::compares(&probe.expect),
            ProbePolicy::Tcp(_) | ProbePolicy::Command(_) => false,
        };
        checks.iter().filter(compares).map(|check| check.name.clone()).collect()
    }

    /// Whether the way to a snapshot may be gone; its words, or why not. Nothing was stopped yet.
    pub(super) async fn preflight(
        &self,
        to: Hash,
        across_migrations: bool,
    ) -> Result<Vec<String>, String> {
        let lacking = move |store: &Store, files: &ComponentFiles| {
            env::lacking(store, files, At::Snapshot(to))
        };
        let lacking = self.stored(lacking).await?;
        if !lacking.is_empty() {
            return Err(format!("{}; nothing was stopped", env::refusal(&lacking)));
        }
        let mut words = self.changes(to).await;
        if let Some(migrations) = &self.migrations {
            let now = gate::applied(migrations, &self.store, &self.files, At::Snapshot(to)).await;
            self.remember(migrations, to, &now).await;
            let recorded = self.facts.of(&self.component, &to.to_string()).migrations;
            let verdict = gate::judge(
                recorded.as_deref().ok_or_else(|| self.unrecorded()),
                now.as_deref().map_err(Clone::clone),
                &migrations.backward_safe,
            );
            words.push(verdict.admit(across_migrations)?);
        }
        Ok(words)
    }

    /// What is live is about to be replaced by `to`: its words, and a way back past the schema gate.
    pub(super) async fn staged(&self, before: Hash, to: Hash) -> Vec<String> {
        let seen = self.applied.lock().unwrap_or_else(PoisonError::into_inner).take();
        let known = self.facts.of(&self.component, &before.to_string()).migrations;
        let mut words = self.changes(to).await;
        if let (Some(seen), None) = (seen, known)
            && let Err(why) = self
                .recorded(move |facts, component| {
                    facts.taken(component, &before.to_string(), Some(seen))
                })
                .await
        {
            words.push(why);
        }
        words
    }

    /// A snapshot was taken: what a person should know of it.
    pub(super) async fn taken(&self, exact: Hash) -> Vec<String> {
        let mut notes = match self.stored(|store, files| env::lacking(store, files, At::Live)).await
        {
            Ok(lacking) if lacking.is_empty() => Vec::new(),
            Ok(lacking) => vec![format!("it will not be good: {}", lacking.join("; "))],
            Err(why) => vec![format!("its required keys cannot be told: {why}")],
        };
        let Some(migrations) = &self.migrations else { return notes };
        let applied = gate::applied(migrations, &self.store, &self.files, At::Live).await;
        notes.push(match &applied {
            Ok(applied) => format!("{} migrations are applied", applied.len()),
            Err(why) => format!(
                "its migrations could not be recorded, so that going back to it needs --across-migrations: {why}"
            ),
        });
        let applied = applied.ok();
        let recorded = self
            .recorded(move |facts, component| facts.taken(component, &exact.to_string(), applied));
        notes.extend(recorded.await.err());
        notes
    }

    /// A release that lacks a required key is not good, whatever its checks say.
    pub(super) async fn has_keys(&self) -> Result<(), String> {
        let lacking = self.stored(|store, files| env::lacking(store, files, At::Live)).await?;
        if lacking.is_empty() { Ok(()) } else { Err(env::refusal(&lacking)) }
    }

    /// What each check of a snapshot is compared with; `None` stands for what is live.
    pub(super) async fn baselines(&self, exact: Option<Hash>) -> BTreeMap<String, Times> {
        let exact = match exact {
            Some(exact) => Some(exact),
            None => self.live().await,
        };
        self.facts.baselines(&self.component, exact.map(|exact| exact.to_string()).as_deref())
    }

    /// The checks held: what was measured is recorded. Notes for a person.
    pub(super) async fn verified(
        &self,
        exact: Option<Hash>,
        compared: &BTreeMap<String, Times>,
        times: BTreeMap<String, Times>,
    ) -> Vec<String> {
        let recorded_anew = exact.is_none();
        let of = match exact {
            Some(exact) => Some(exact),
            None => self.live().await,
        };
        let Some(of) = of else { return Vec::new() };
        let measured = times.clone();
        let first = self
            .recorded(move |facts, component| {
                facts.verified(component, &of.to_string(), &times, recorded_anew)
            })
            .await;
        let first = match first {
            Ok(first) => first,
            Err(why) => return vec![why],
        };
        let alone = |check: &&String| !compared.contains_key(*check) && first.contains(check);
        let note = |check: &String| {
            let times = measured.get(check)?;
            Some(format!("check `{check}`: no baseline yet; recorded {}", times.words()))
        };
        self.comparing.iter().filter(alone).filter_map(note).collect()
    }

    /// The snapshot that is live, unchanged.
    async fn live(&self) -> Option<Hash> {
        let live = self.stored(Store::live).await.ok()?;
        live.record.filter(|_| !live.changed).map(|record| record.exact)
    }

    async fn changes(&self, to: Hash) -> Vec<String> {
        let changes = self.stored(move |store, files| env::changes(store, files, to)).await;
        changes.unwrap_or_else(|why| vec![format!("which keys change cannot be told: {why}")])
    }

    /// What is live is replaced by a way back to it: what it runs with must be known then. Only where both use the same
    /// database, or it would be another one's list.
    async fn remember(
        &self,
        migrations: &MigrationsPolicy,
        to: Hash,
        now: &Result<Vec<String>, String>,
    ) {
        let url = |at| gate::url(migrations, &self.store, &self.files, at);
        let same =
            matches!((url(At::Live).await, url(At::Snapshot(to)).await), (Ok(a), Ok(b)) if a == b);
        let seen = now.as_ref().ok().filter(|_| same).cloned();
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    fn unrecorded(&self) -> String {
        let lost = self.facts.lost().map_or_else(String::new, |why| format!(" ({why})"));
        format!("no migrations were recorded with this release{lost}")
    }

    /// Records what a snapshot was made of; the error is a note.
    pub(super) async fn made_of(&self, exact: Hash, made: MadeOf) -> Result<(), String> {
        let exact = exact.to_string();
        self.recorded(move |facts, component| facts.made_of(component, &exact, made)).await
    }

    /// Records something on a thread that may block; the error is a note, for nothing depends on it now.
    async fn recorded<T: Send + 'static>(
        &self,
        record: impl FnOnce(&Facts, &str) -> Result<T, FactsError> + Send + 'static,
    ) -> Result<T, String> {
        let (facts, component) = (Arc::clone(&self.facts), self.component.clone());
        let done = tokio::task::spawn_blocking(move || record(&facts, &component)).await;
        match done.expect("recording does not panic") {
            Ok(done) => Ok(done),
            Err(error @ FactsError::Fsync { .. }) => {
                tracing::error!(%error, "a sync failed; the process ends");
                std::process::abort()
            }
            Err(error) => Err(format!("what was measured is not recorded: {error}")),
        }
    }

    async fn stored<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store, &ComponentFiles) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, String> {
        stored(&self.store, &self.files, work).await
    }
}
