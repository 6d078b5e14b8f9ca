//! One component: its files, its services, its checks, and what each verb does to them.

mod fetch;
mod forward;
pub(super) mod learner;
mod sampled;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use proto::{
    amount::Size,
    policy::{CheckPolicy, ComponentPolicy, FilesPolicy, RetentionPolicy},
};
use tokio::time::Instant;

use super::{
    RELOAD_VERBS, VERBS,
    blocking::{end_after_failed_sync, stored},
    compact::Compactor,
    fit::Fit,
    hooks::Hooks,
    secrets,
    services::Services,
};
use crate::{
    drivers::{BuildError, Triggers},
    facts::Facts,
    ledger::Found,
    local::{Import, Imported, Owner},
    order::{Before, Evidence, Step, Verb},
    probe::{self, Prober, Tried, Wanted, Windows},
    redact::Redactor,
    retention,
    status::{CheckStatus, ComponentStatus},
    store::{
        self, Backup, BackupOwner, ComponentFiles, Difference, Hash, Keep, Label, Observed,
        StandsAs, Store, StoreError,
    },
};

/// How long a check may take when the host is only looked at.
const GLANCE: Duration = Duration::from_secs(2);
/// So many releases stand staged, so that the usual rollback has nothing left to copy.
const STAGED_RELEASES: usize = 2;
/// Drifted paths that are named in a step's words; the rest is counted.
const PATHS_NAMED: usize = 5;

/// See the module.
#[derive(Debug)]
pub(super) struct Component {
    name: String,
    files: Arc<ComponentFiles>,
    services: Services,
    fit: Fit,
    hooks: Hooks,
    /// Files beside its own that hold secrets.
    secret_files: BTreeSet<PathBuf>,
    checks: Vec<CheckPolicy>,
    windows: Windows,
    /// How long what others put there must be healthy to become a release; none where it is not learned.
    after_healthy: Option<Duration>,
    retention: RetentionPolicy,
    store: Arc<Store>,
    compactor: Compactor,
    prober: Prober,
    fetcher: fetch::Fetcher,
}

type Done = Result<String, String>;
type Shown = Result<(String, Option<Evidence>), String>;

impl Component {
    pub(super) fn build(
        name: &str,
        policy: &ComponentPolicy,
        state: &Path,
        (store, compactor): (&Arc<Store>, &Compactor),
        prober: &Prober,
        facts: &Arc<Facts>,
    ) -> Result<Self, BuildError> {
        let hold = store.hold_path(name);
        let files = Arc::new(ComponentFiles {
            component: name.to_owned(),
            files: policy.files.clone(),
            managers: Vec::new(),
        });
        Ok(Self {
            name: name.to_owned(),
            fit: Fit {
                component: name.to_owned(),
                files: files.clone(),
                store: store.clone(),
                facts: facts.clone(),
                migrations: policy.migrations.clone(),
                comparing: Fit::comparing(&policy.checks),
                applied: Mutex::default(),
            },
            files,
            services: Services::build(name, &policy.services, state, &hold)?,
            hooks: Hooks::new(name, &policy.hooks, state),
            secret_files: secrets::files(policy),
            checks: policy.checks.clone(),
            windows: Windows {
                ready_within: policy.ready_within.0,
                stable_for: policy.stable_for.0,
            },
            after_healthy: policy.capture.as_ref().map(|capture| capture.after_healthy.0),
            retention: policy.retention.unwrap_or(RetentionPolicy::DEFAULT),
            store: store.clone(),
            compactor: compactor.clone(),
            prober: prober.clone(),
            fetcher: fetch::Fetcher::new(&policy.files),
        })
    }

    /// Why a step is refused before anything begins, where it is.
    pub(super) fn forbidden(&self, step: &Step) -> Option<String> {
        match step.verb {
            Verb::Hook => self.hooks.named(&step.hook).err(),
            Verb::Preflight
            | Verb::Snapshot
            | Verb::Stage
            | Verb::Stop
            | Verb::Switch
            | Verb::Start
            | Verb::Verify
            | Verb::Discard
            | Verb::Check
            | Verb::Reload => None,
            Verb::Fetch => self.fetch_refusal(step),
            Verb::SetWeights | Verb::Drain => {
                Some(format!("`{}` does not stand on a component", step.verb))
            }
        }
    }

    /// What a step says, without the values of secrets: those that were there before it, and those that are there now.
    /// Only where somebody else's words may be in it; the store's own name paths.
    pub(super) async fn shown(&self, step: &Step, work: impl Future<Output = Shown>) -> Shown {
        match step.verb {
            Verb::Stop | Verb::Start | Verb::Reload | Verb::Verify | Verb::Hook => {}
            Verb::Preflight
            | Verb::Snapshot
            | Verb::Stage
            | Verb::Switch
            | Verb::Discard
            | Verb::Check
            | Verb::Fetch
            | Verb::SetWeights
            | Verb::Drain => return work.await,
        }
        let before = self.redactor().await;
        match work.await {
            Ok((words, evidence)) if step.verb == Verb::Hook => {
                Ok((secrets::hide(&words, &[before, self.redactor().await]), evidence))
            }
            Ok(done) => Ok(done),
            Err(words) => Err(secrets::hide(&words, &[before, self.redactor().await])),
        }
    }

    /// What hides the secrets that the component has now.
    async fn redactor(&self) -> Result<Redactor, String> {
        let files = self.secret_files.clone();
        let own = self.stored(|store, files| store.secrets(files)).await?;
        secrets::redactor(&files, own)
    }

    /// The files of service managers that its services would take along.
    pub(super) fn manager_files(&self) -> Vec<FilesPolicy> {
        self.services.files()
    }

    /// The same component with these files of service managers.
    pub(super) fn with_managers(mut self, managers: Vec<FilesPolicy>) -> Self {
        let (component, files) = (self.name.clone(), self.files.files.clone());
        self.files = Arc::new(ComponentFiles { component, files, managers });
        self.fit.files = self.files.clone();
        self
    }

    /// Makes the host ready for its services.
    pub(super) async fn set_up(&self, deadline: Instant) -> Result<(), String> {
        self.services.set_up(deadline).await
    }

    /// The services that run.
    pub(super) async fn running(&self) -> Result<Vec<String>, String> {
        self.services.running().await
    }

    /// The exact hash of what is live: what the stage step found, where there was one.
    pub(super) async fn live(&self, staged: Option<String>) -> Result<String, String> {
        match staged {
            Some(staged) => Ok(staged),
            None => self
                .stored(|store, files| store.live(files))
                .await
                .map(|live| live.exact.to_string()),
        }
    }

    /// Whether a snapshot stands beside what is live already. One that cannot be told counts as not.
    pub(super) async fn is_staged(&self, exact: Hash) -> bool {
        self.stored(move |store, files| store.is_staged(files, exact)).await.unwrap_or(false)
    }

    pub(super) async fn preflight(&self, step: &Step) -> Done {
        let to = target(step)?;
        self.services.set_up(deadline(step)).await?;
        let found = self.stored(move |store, files| store.preflight(files, to)).await?;
        let mut words = match found.bytes_needed {
            0 => vec!["nothing to copy".to_owned()],
            needed => vec![format!("needs {needed} bytes, {} are free", found.bytes_free)],
        };
        words.extend(found.notes);
        words.extend(self.fit.preflight(to, step.across_migrations).await?);
        Ok(words.join("; "))
    }

    pub(super) async fn snapshot(&self, step: &Step) -> Shown {
        let version = self.version().await;
        let label = Label {
            release: step.release.clone(),
            version: version.clone(),
            taken_at_unix_ms: jiff::Timestamp::now().as_millisecond(),
            learned_at_unix_ms: None,
        };
        let info = self.stored(move |store, files| store.snapshot(files, label)).await?;
        let mut words = vec![format!("{} files, {} bytes", info.files, info.size_bytes)];
        words.extend(self.fit.taken(info.exact).await);
        let evidence = Evidence {
            component: self.name.clone(),
            snapshot: Some(info.exact.to_string()),
            version,
            notes: info.skipped.iter().map(|path| format!("skipped {path}")).collect(),
            ..Evidence::default()
        };
        self.prestage(info.exact);
        Ok((words.join("; "), Some(evidence)))
    }

    pub(super) async fn stage(&self, step: &Step) -> Shown {
        let to = target(step)?;
        let staged = self.stored(move |store, files| store.stage(files, to)).await?;
        let mut words = if staged.already {
            "stands already".to_owned()
        } else {
            "built and read back".to_owned()
        };
        if !staged.drift.is_empty() {
            words.push_str(&format!("; changed by hand or by the app: {}", named(&staged.drift)));
        }
        for more in self.fit.staged(staged.before, to).await {
            words.push_str(&format!("; {more}"));
        }
        let evidence = Evidence {
            component: self.name.clone(),
            replaced: Some(staged.before.to_string()),
            replaced_content: self.content_of(staged.before).await,
            ..Evidence::default()
        };
        Ok((words, Some(evidence)))
    }

    pub(super) async fn stop(&self, step: &Step) -> Done {
        self.services.stop(|_| true, deadline(step)).await
    }

    pub(super) async fn start(&self, step: &Step) -> Done {
        self.services.start(|_| true, deadline(step)).await
    }

    pub(super) async fn switch(&self, step: &Step, before: &Before) -> Shown {
        let (from, to) = (live_before(before)?, target(step)?);
        let mut notes: Vec<String> = self.at_rest(step).await?.into_iter().collect();
        if from == to {
            return Ok(("is live already".to_owned(), Some(self.switched(from, to))));
        }
        let switched = self.stored(move |store, files| store.switch(files, from, to)).await?;
        self.accepted(from, to, deadline(step)).await?;
        notes.extend(switched.notes);
        let mut evidence = self.switched(from, to);
        evidence.notes.clone_from(&notes);
        Ok((notes.join("; "), Some(evidence)))
    }

    /// Nothing is replaced under a running service. What was stopped may run again: a host that booted since has started
    /// what is enabled, as long as no hold stood; so may a person have.
    async fn at_rest(&self, step: &Step) -> Result<Option<String>, String> {
        if self.services.reload() {
            return Ok(None);
        }
        let running = self.services.running().await?;
        if running.is_empty() {
            return Ok(None);
        }
        self.services.stop(|_| true, deadline(step)).await?;
        Ok(Some(format!("{} had been started again and was stopped", running.join(", "))))
    }

    /// Services that run on read the new files at their next reload, whoever asks for it. Files that they would not take are
    /// put back at once.
    async fn accepted(&self, from: Hash, to: Hash, deadline: Instant) -> Result<(), String> {
        if !self.services.reload() {
            return Ok(());
        }
        let Err(why) = self.services.accept(deadline).await else { return Ok(()) };
        let back = self.stored(move |store, files| store.switch(files, to, from)).await;
        match back {
            Ok(_) => Err(format!("{why}; the files that were live before are back")),
            Err(error) => {
                Err(format!("{why}; and the files before could not be put back: {error}"))
            }
        }
    }

    pub(super) async fn verify(&self, step: &Step) -> Shown {
        let to = if step.snapshot.is_empty() { None } else { Some(target(step)?) };
        self.fit.has_keys().await?;
        let version = match to {
            None => None,
            Some(to) => self.recorded_version(to).await?,
        };
        let wanted = Wanted { version, baselines: self.fit.baselines(to).await };
        let identities = self.services.identities().await?;
        let still = || self.services.still(&identities);
        let (checks, windows) = probe::asked(&self.checks, self.windows, step.at_once);
        let verified = match self.prober.verify(&checks, &wanted, windows, still).await {
            Ok(verified) => verified,
            Err(failed) => {
                return Err(format!("{}{}", failed.reason, self.services.logs().await));
            }
        };
        let mut notes = verified.notes;
        notes.extend(self.services.unwatched());
        // A service runs again, so nobody waits for a look at what was replaced.
        match self.stored(|store, files| store.read_replaced(files)).await {
            Ok(replaced) => notes.extend(replaced),
            Err(why) => notes.push(format!("what was replaced could not be read yet: {why}")),
        }
        if let Some(to) = to {
            notes.extend(self.unchanged(to).await?);
        }
        self.fit.has_keys().await?;
        notes.extend(self.fit.verified(to, &wanted.baselines, verified.times).await);
        let evidence = Evidence {
            component: self.name.clone(),
            version: verified.version.clone(),
            stable_ms: u64::try_from(verified.stable_for.as_millis()).unwrap_or(u64::MAX),
            notes,
            ..Evidence::default()
        };
        self.keep_replaced();
        let version =
            verified.version.map_or_else(String::new, |version| format!(", reports {version}"));
        let checks = self.checks.len();
        Ok((format!("{checks} of {checks} checks held{version}"), Some(evidence)))
    }

    pub(super) async fn discard(&self, step: &Step) -> Done {
        let exact = target(step)?;
        let notes = self.stored(move |store, files| store.discard(files, exact)).await?;
        Ok(notes.join("; "))
    }

    pub(super) async fn check(&self, step: &Step) -> Shown {
        let exact = target(step)?;
        let whole = self.stored(move |store, files| store.check(&files.component, exact)).await;
        // Looked at all the same, so that a damaged object does not hide a damaged tree.
        let stands = self.stored(move |store, files| store.check_staged(files, exact)).await;
        let stands = match (whole, stands) {
            (Ok(()), stands) => stands?,
            (Err(why), Ok(StandsAs::TakenOut(what))) => return Err(format!("{why}; and {what}")),
            (Err(why), Ok(StandsAs::Nothing | StandsAs::Whole) | Err(_)) => return Err(why),
        };
        let mut evidence = Evidence { component: self.name.clone(), ..Evidence::default() };
        let words = match stands {
            StandsAs::Nothing => "every byte read".to_owned(),
            StandsAs::Whole => "every byte read, and every byte that stands staged".to_owned(),
            StandsAs::TakenOut(what) => {
                let what =
                    format!("{what}; it was taken out of use and is built anew when it is staged");
                evidence.notes.push(what.clone());
                format!("every byte read; {what}")
            }
        };
        Ok((words, Some(evidence)))
    }

    /// The services read their files anew.
    pub(super) async fn reload(&self, step: &Step) -> Done {
        if !self.services.reload() {
            return Err(format!("no service of {} can be reloaded", step.component));
        }
        self.services.read_anew(deadline(step)).await
    }

    /// Runs a declared hook.
    pub(super) async fn hook(&self, step: &Step) -> Done {
        self.hooks.run(step).await
    }

    /// Takes a step back that was done wholly or in part.
    pub(super) async fn undo(&self, step: &Step, before: &Before) -> Done {
        match (step.verb, before) {
            (Verb::Stop, Before::Running(running)) => {
                let ran = |name: &str| running.iter().any(|other| other == name);
                self.services.rearm(|name| !ran(name), deadline(step)).await?;
                self.services.start(ran, deadline(step)).await
            }
            (Verb::Start, Before::Running(running)) => {
                self.services
                    .stop(|name| running.iter().all(|other| other != name), deadline(step))
                    .await
            }
            (Verb::Switch, Before::Live(_)) => {
                let (from, to) = (target(step)?, live_before(before)?);
                if from == to {
                    return Ok("nothing was replaced".to_owned());
                }
                let mut words: Vec<String> = self.at_rest(step).await?.into_iter().collect();
                let switched =
                    self.stored(move |store, files| store.switch(files, from, to)).await?;
                words.extend(switched.notes);
                if self.services.reload() {
                    words.push(format!(
                        "{} reloaded",
                        self.services.read_anew(deadline(step)).await?
                    ));
                }
                Ok(words.join("; "))
            }
            (Verb::Stop | Verb::Start | Verb::Switch, _) => {
                Err(format!("the ledger does not say how things were before {}", step.verb))
            }
            (
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
                | Verb::Drain,
                _,
            ) => Ok(String::new()),
        }
    }

    /// After a crash: how far the step, or its undo, got.
    pub(super) async fn observe(
        &self,
        step: &Step,
        before: &Before,
        undo: bool,
    ) -> Result<(Found, Option<Evidence>), String> {
        match (step.verb, before) {
            (Verb::Stop | Verb::Start, Before::Running(wanted)) => {
                let running = self.services.running().await?;
                let back = running.iter().all(|name| wanted.contains(name))
                    && wanted.iter().all(|n| running.contains(n));
                let (none, all) = (running.is_empty(), running.len() == self.services.len());
                let triggers = self.services.triggers();
                let done = match (undo, step.verb) {
                    (true, Verb::Stop) => back && triggers == Triggers::Armed,
                    (true, _) => back && triggers != Triggers::Between,
                    (false, Verb::Stop) => none && triggers != Triggers::Between,
                    (false, _) => all && triggers == Triggers::Armed,
                };
                let found = if done {
                    Found::Done
                } else if none || all {
                    Found::NotDone
                } else {
                    Found::Partial
                };
                Ok((found, None))
            }
            (Verb::Switch, Before::Live(_)) => {
                let (from, to) = (live_before(before)?, target(step)?);
                let observed =
                    self.stored(move |store, files| store.observe(files, from, to)).await?;
                Ok(match (observed, undo) {
                    (Observed::Done, false) => (Found::Done, Some(self.switched(from, to))),
                    (Observed::NotDone, false) | (Observed::Done, true) => (Found::NotDone, None),
                    // The files are back; whether what serves has read them since, a repeated reload makes sure of. How old a
                    // process is says nothing: one that died is started again, with the files that its master still has.
                    (Observed::NotDone, true) if self.services.reload() => (Found::Partial, None),
                    (Observed::NotDone, true) => (Found::Done, None),
                    (Observed::Partial, _) => (Found::Partial, None),
                    (Observed::Unknown(why), _) => (Found::Unknown(why), None),
                })
            }
            (Verb::Hook, _) => Ok((self.hooks.observe(step).await?, None)),
            // These may simply be done again: they change nothing that serves.
            (
                Verb::Preflight
                | Verb::Snapshot
                | Verb::Stage
                | Verb::Stop
                | Verb::Switch
                | Verb::Start
                | Verb::Verify
                | Verb::Discard
                | Verb::Check
                | Verb::Reload
                | Verb::Fetch
                | Verb::SetWeights
                | Verb::Drain,
                _,
            ) => Ok((Found::NotDone, None)),
        }
    }

    /// How the component is now.
    pub(super) async fn status(&self) -> ComponentStatus {
        let mut status = ComponentStatus {
            component: self.name.clone(),
            verbs: if self.services.reload() { RELOAD_VERBS.to_vec() } else { VERBS.to_vec() },
            ..Default::default()
        };
        status.verbs.extend(self.can_fetch().then_some(Verb::Fetch));
        match self.stored(|store, files| store.live(files)).await {
            Ok(live) => {
                status.changed = live.changed;
                status.content = live.content.to_string();
                if let Some(record) = live.record {
                    status.release = record.release;
                    status.snapshot = record.exact.to_string();
                }
            }
            Err(why) => tracing::debug!(component = self.name, why, "what is live cannot be told"),
        }
        let held = self.store.held().unwrap_or_default();
        status.held = held.contains(&self.name);
        let redactor = [self.redactor().await];
        status.services = self.services.status().await;
        for service in &mut status.services {
            service.detail = secrets::hide(&service.detail, &redactor);
        }
        for (check, tried) in self.checks.iter().zip(self.tried().await) {
            let name = check.name.clone();
            let Some(tried) = tried else {
                let detail = format!("no answer within {} s", GLANCE.as_secs());
                status.checks.push(CheckStatus { check: name, ok: false, detail });
                continue;
            };
            if let (Some(version), true) = (tried.version, status.version.is_empty()) {
                status.version = version;
            }
            let detail = secrets::hide(&tried.detail, &redactor);
            status.checks.push(CheckStatus { check: name, ok: tried.ok, detail });
        }
        status
    }

    /// Every check, tried once, all at the same time; none for one that has not answered at a glance: an app that
    /// hangs must not keep the news of its host away.
    async fn tried(&self) -> Vec<Option<Tried>> {
        let try_once = |check: &CheckPolicy| {
            let (prober, check) = (self.prober.clone(), check.clone());
            tokio::spawn(async move {
                tokio::time::timeout(GLANCE, prober.try_once(&check, &Wanted::default())).await.ok()
            })
        };
        let tries: Vec<_> = self.checks.iter().map(try_once).collect();
        let mut tried = Vec::new();
        for one in tries {
            tried.push(one.await.expect("a try does not panic"));
        }
        tried
    }

    /// Makes a release of a backup. Its version is not known: nobody asked the app when it was made.
    pub(super) async fn import(&self, import: &Import) -> Result<Imported, String> {
        let label = Label {
            release: import.release.clone(),
            version: None,
            taken_at_unix_ms: import.taken_at_unix_ms,
            learned_at_unix_ms: None,
        };
        let files = import.files.iter();
        let backup = Backup {
            from: import.from.clone(),
            files: files.map(|row| (row.declared.clone(), row.source.clone())).collect(),
            owner: match import.owner {
                Owner::Guess => BackupOwner::Guess,
                Owner::Live => BackupOwner::Live,
                Owner::Found => BackupOwner::Found,
            },
            beside: import.beside,
            role: store::Role::Backup,
        };
        let (info, notes) =
            self.stored(move |store, files| store.import(files, &backup, label)).await?;
        let skipped = info.skipped.iter().map(|path| format!("{path} is left out: no file"));
        Ok(Imported {
            component: self.name.clone(),
            release: info.release,
            snapshot: info.exact.to_string(),
            files: info.files,
            size_bytes: info.size_bytes,
            taken_at_unix_ms: info.taken_at_unix_ms,
            notes: notes.into_iter().chain(skipped).collect(),
        })
    }

    /// Removes what the policy's retention lets go.
    pub(super) async fn prune(
        &self,
        ask: &retention::Ask,
        report: &mut retention::Report,
    ) -> Result<(), String> {
        let own = ask.keep.iter().filter(|row| row.component == self.name);
        let only = ask.only.iter().flatten().filter(|(component, _)| *component == self.name);
        let only = only.map(|(_, exact)| *exact).collect();
        let store_ask = store::Ask {
            rules: self.retention,
            keep: own.map(|row| Keep { exact: row.exact, why: row.why.clone() }).collect(),
            now_unix_ms: ask.now_unix_ms,
            only: ask.only.as_ref().map(|_| only),
            dry_run: ask.dry_run,
        };
        let pruned = self.stored(move |store, files| store.prune(files, &store_ask)).await?;
        report.freed_bytes = report.freed_bytes.saturating_add(pruned.freed_bytes);
        if !ask.dry_run && pruned.rows.iter().any(|row| row.fate.goes()) {
            // What nothing names any more is freed there.
            self.compactor.ask();
        }
        if let (Some(takes), Some(disk)) = (pruned.still_over, self.retention.disk) {
            let (name, takes) = (&self.name, Size(takes.next_multiple_of(1 << 20)));
            report
                .notes
                .push(format!("{name} takes {takes}, more than {disk}: the rest must stay"));
        }
        report.rows.extend(pruned.rows.into_iter().map(|row| retention::Row {
            component: self.name.clone(),
            exact: row.exact,
            releases: row.releases,
            size_bytes: row.size_bytes,
            taken_at_unix_ms: row.taken_at_unix_ms,
            fate: row.fate,
        }));
        Ok(())
    }

    /// What the app calls its version now, where a check asks for it.
    async fn version(&self) -> Option<String> {
        self.tried().await.into_iter().flatten().find_map(|tried| tried.version)
    }

    /// The content hash of a snapshot, where it can be read.
    async fn content_of(&self, exact: Hash) -> Option<String> {
        let content = self.stored(move |store, files| store.content_of(&files.component, exact));
        content.await.ok().flatten().map(|content| content.to_string())
    }

    /// What the app called its version when a snapshot was taken.
    async fn recorded_version(&self, exact: Hash) -> Result<Option<String>, String> {
        let rows = self.stored(|store, _| store.list()).await?;
        let row = rows.into_iter().find(|row| row.component == self.name && row.exact == exact);
        Ok(row.and_then(|row| row.version))
    }

    /// Nothing of a snapshot has changed since it was put there; what the app has written beside it is listed.
    async fn unchanged(&self, exact: Hash) -> Result<Vec<String>, String> {
        let found = self.stored(move |store, files| store.digest_matches(files, exact)).await?;
        let (failures, others): (Vec<_>, Vec<_>) =
            found.into_iter().partition(Difference::is_failure);
        let paths =
            |rows: Vec<Difference>| rows.into_iter().map(|row| row.path).collect::<Vec<_>>();
        if !failures.is_empty() {
            let paths = paths(failures);
            return Err(format!(
                "files of the release changed after it was put there: {}",
                named(&paths)
            ));
        }
        let others = paths(others);
        Ok(if others.is_empty() {
            Vec::new()
        } else {
            vec![format!("written by the app: {}", named(&others))]
        })
    }

    /// What was replaced goes into the store now that nobody waits for it.
    fn keep_replaced(&self) {
        let (store, files, name) = (self.store.clone(), self.files.clone(), self.name.clone());
        let compactor = self.compactor.clone();
        tokio::task::spawn_blocking(move || {
            let rows = store.list().unwrap_or_default();
            for row in rows
                .iter()
                .filter(|row| row.component == name && !row.in_store && row.damage.is_none())
            {
                if let Err(error) = store.store_replaced(&files, row.exact) {
                    end_after_failed_sync(&error);
                    tracing::warn!(
                        component = name,
                        reason = error.reason(),
                        "what was replaced stays beside only"
                    );
                }
            }
            if let Err(error) = store.tidy(&files) {
                end_after_failed_sync(&error);
                tracing::warn!(component = name, reason = error.reason(), "leftovers stay");
            }
            compactor.ask();
        });
    }

    /// The release that is live now stands staged, too, for when something else is put in its place by other means.
    fn prestage(&self, exact: Hash) {
        let (store, files, name) = (self.store.clone(), self.files.clone(), self.name.clone());
        let compactor = self.compactor.clone();
        // Not a task: an agent that ends does not wait for it, and the next one removes what it left.
        std::thread::spawn(move || {
            let done =
                store.prestage(&files, exact, STAGED_RELEASES).and_then(|()| store.tidy(&files));
            if let Err(error) = done {
                end_after_failed_sync(&error);
                tracing::warn!(component = name, reason = error.reason(), "it is not staged yet");
            }
            compactor.ask();
        });
    }

    fn switched(&self, from: Hash, to: Hash) -> Evidence {
        Evidence {
            component: self.name.clone(),
            snapshot: Some(to.to_string()),
            replaced: Some(from.to_string()),
            ..Evidence::default()
        }
    }

    /// Runs something of the store on a thread that may block.
    async fn stored<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store, &ComponentFiles) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, String> {
        stored(&self.store, &self.files, work).await
    }
}

fn deadline(step: &Step) -> Instant {
    Instant::now() + Duration::from_millis(step.deadline_ms)
}

fn target(step: &Step) -> Result<Hash, String> {
    step.snapshot.parse().map_err(|_| format!("`{}` is not the hash of a snapshot", step.snapshot))
}

fn live_before(before: &Before) -> Result<Hash, String> {
    match before {
        Before::Live(hash) => {
            hash.parse().map_err(|_| format!("the ledger holds `{hash}` for a hash"))
        }
        Before::Nothing | Before::Running(_) | Before::Weights(_) => {
            Err("the ledger does not say what was live before".to_owned())
        }
    }
}

fn named(paths: &[String]) -> String {
    let mut text = paths.iter().take(PATHS_NAMED).cloned().collect::<Vec<_>>().join(", ");
    if paths.len() > PATHS_NAMED {
        text.push_str(&format!(" and {} more", paths.len() - PATHS_NAMED));
    }
    text
}
