//! When this host prunes its store, and what it is told must stay.
//!
//! ```text
//! coordinator ── Keep ──▶ session ──▶ Kept ─┐
//! ledger: open, newest and root's own ──────┼─▶ Ask ─▶ hands ─▶ store: by the host's own rules
//! policy: retention ────────────────────────┘
//! ```
//!
//! By itself: after an operation, and every hour; and when an operator asks.
//!
//! Invariant: a host that was not told in this session what must stay prunes nothing; a list of a term that is over is
//! none.
//! Invariant: what an operation names that runs or can still be taken back stays.
//! Invariant: nothing is older than both clocks say: the host's own, and the coordinator's.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    hands::Hands,
    ledger::{Ledger, Track},
    order::{Before, Fence},
    store::{Fate, Hash},
};

/// How often the store is pruned where nothing else gives a reason to.
const EVERY: Duration = Duration::from_secs(3600);

/// A snapshot that must stay, and why, in words that follow `stays: `.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRow {
    pub component: String,
    pub exact: Hash,
    pub why: String,
}

/// What a coordinator said must stay.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Whose word it is; the sequence means nothing here.
    pub term: Fence,
    pub rows: Vec<KeptRow>,
    /// The coordinator's clock, and when it was heard.
    pub at_unix_ms: i64,
    pub heard: Instant,
}

/// What is asked of a host's store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ask {
    pub dry_run: bool,
    /// None for every component.
    pub component: Option<String>,
    pub keep: Vec<KeptRow>,
    pub now_unix_ms: i64,
    /// Nothing but these goes, where there is a list.
    pub only: Option<Vec<(String, Hash)>>,
}

/// What became of every snapshot, or would.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub rows: Vec<Row>,
    pub freed_bytes: u64,
    /// What there is to say of a component as a whole.
    pub notes: Vec<String>,
    /// Components that could not be pruned, and why.
    pub failures: Vec<String>,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub component: String,
    pub exact: Hash,
    pub releases: Vec<String>,
    pub size_bytes: u64,
    pub taken_at_unix_ms: i64,
    pub fate: Fate,
}

impl Kept {
    /// Whether it still counts on a host with this fence.
    pub fn counts(&self, fence: Option<&Fence>) -> bool {
        self.term.counts(fence)
    }

    /// Wall time, by the clock that is behind: one that runs ahead makes nothing old.
    pub fn now_unix_ms(&self) -> i64 {
        let since = i64::try_from(self.heard.elapsed().as_millis()).unwrap_or(i64::MAX);
        let own = jiff::Timestamp::now().as_millisecond();
        own.min(self.at_unix_ms.saturating_add(since))
    }

    /// What the host is asked, with what its ledger names beside.
    pub fn ask(&self, ledger: &Ledger) -> Ask {
        let mut keep = self.rows.clone();
        keep.extend(named(ledger));
        Ask { keep, now_unix_ms: self.now_unix_ms(), ..Ask::default() }
    }
}

/// Every snapshot that an operation names which runs, was the newest that changed what serves, was root's own, or put
/// something live that is on trial: where it went from, where it goes to, and what it replaced.
pub fn named(ledger: &Ledger) -> Vec<KeptRow> {
    let tracks = ledger.tracks();
    let cuts = |track: &&&Track| track.order().steps.iter().any(|step| step.verb.cuts());
    let newest = tracks.iter().rev().find(cuts).copied();
    let heads = ledger.open().into_iter().chain(newest).chain(ledger.newest_local());
    let heads = heads.chain(ledger.trials().map(|(_, _, track)| track));
    let operations: BTreeSet<&str> =
        heads.map(|track| track.order().key.operation.as_str()).collect();
    let mut rows = Vec::new();
    for track in tracks {
        let operation = track.order().key.operation.as_str();
        if !operations.contains(operation) {
            continue;
        }
        let why = format!("named by {operation}");
        for (component, exact) in names(track) {
            // Some verbs have none, and a scripted host has hashes of its own.
            if let Ok(exact) = exact.parse() {
                rows.push(KeptRow { component, exact, why: why.clone() });
            }
        }
    }
    rows
}

fn names(track: &Track) -> Vec<(String, String)> {
    let mut names = Vec::new();
    for (index, step) in track.order().steps.iter().enumerate() {
        names.push((step.component.clone(), step.snapshot.clone()));
        match track.before(index) {
            Some(Before::Live(exact)) => names.push((step.component.clone(), exact.clone())),
            Some(Before::Nothing | Before::Running(_) | Before::Weights(_)) | None => {}
        }
    }
    for row in track.evidence() {
        let found = row.snapshot.into_iter().chain(row.replaced);
        names.extend(found.map(|exact| (row.component.clone(), exact)));
    }
    names
}

/// Prunes in the background.
pub struct Retention<H> {
    pub hands: Arc<H>,
    pub ledger: watch::Receiver<Arc<Ledger>>,
    /// What must stay, while a session lasts in which that was told.
    pub kept: watch::Receiver<Option<Kept>>,
}

impl<H> std::fmt::Debug for Retention<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retention").field("kept", &self.kept).finish_non_exhaustive()
    }
}

impl<H: Hands> Retention<H> {
    /// Runs for ever; ends where nothing can be told any more.
    pub async fn run(mut self) {
        let (mut next, mut due) = (Instant::now() + EVERY, false);
        let mut at_work = self.ledger.borrow_and_update().open().is_some();
        loop {
            tokio::select! {
                () = sleep_until(next) => {
                    next = Instant::now() + EVERY;
                    due = true;
                }
                // What is due waits until it is told what must stay; that alone is no reason to prune.
                told = self.kept.changed() => if told.is_err() { return },
                moved = self.ledger.changed() => {
                    if moved.is_err() { return }
                    let was = at_work;
                    at_work = self.ledger.borrow_and_update().open().is_some();
                    due |= was && !at_work;
                }
            }
            if due && !at_work && self.prune().await {
                due = false;
            }
        }
    }

    /// Prunes, where it was told what must stay; says whether it was.
    async fn prune(&mut self) -> bool {
        let ledger = self.ledger.borrow().clone();
        let kept = self.kept.borrow_and_update().clone();
        let Some(kept) = kept.filter(|kept| kept.counts(ledger.fence())) else { return false };
        match self.hands.prune(&kept.ask(&ledger)).await {
            Ok(report) => tell(&report),
            Err(why) => tracing::warn!(why, "the store was not pruned"),
        }
        true
    }
}

/// What went is in the log, whoever asked for it.
pub fn tell(report: &Report) {
    for row in &report.rows {
        if let Fate::Goes(why) = &row.fate {
            let (component, snapshot) = (&row.component, row.exact.to_string());
            let releases = row.releases.join(", ");
            tracing::info!(component, snapshot, releases, why, "pruned");
        }
    }
    for note in report.failures.iter().chain(&report.notes) {
        tracing::warn!(note, "pruning");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        drivers::Doing,
        hands::About,
        ledger::{Found, Record, StepResult},
        local::{Import, Imported},
        order::{End, Ending, Evidence, Goal, OnFailure, Order, Origin, Step, TrackKey, Verb},
        status::HostStatus,
    };

    fn fence(epoch: u64, instance: &str) -> Fence {
        Fence { epoch, instance: instance.to_owned(), sequence: 0 }
    }

    fn kept(epoch: u64, instance: &str, at_unix_ms: i64) -> Kept {
        let (term, heard) = (fence(epoch, instance), Instant::now());
        Kept { term, rows: Vec::new(), at_unix_ms, heard }
    }

    #[tokio::test]
    async fn p01_a_list_of_a_term_that_is_over_is_none() {
        let told = kept(3, "a", 0);
        for (fence, counts) in [
            (None, true),
            (Some(fence(2, "b")), true),
            (Some(fence(3, "a")), true),
            (Some(fence(3, "b")), false),
            (Some(fence(4, "a")), false),
        ] {
            assert_eq!(told.counts(fence.as_ref()), counts, "{fence:?}");
        }
    }

    #[tokio::test]
    async fn the_clock_that_is_behind_counts() {
        let now = jiff::Timestamp::now().as_millisecond();
        let year_ms = 365 * 24 * 3600 * 1000;
        assert!(kept(1, "a", now - year_ms).now_unix_ms() < now - year_ms / 2);
        assert!(kept(1, "a", now + year_ms).now_unix_ms() < now + year_ms / 2);
    }

    fn order(operation: &str, sequence: u64, verb: Verb, to: Hash) -> Order {
        let step = Step {
            verb,
            component: "crm".to_owned(),
            release: "v1".to_owned(),
            snapshot: to.to_string(),
            deadline_ms: 1,
            hook: String::new(),
            across_migrations: false,
            weights: None,
            artefact: None,
            at_once: false,
            forward: false,
        };
        Order {
            key: TrackKey { operation: operation.to_owned(), stage: 0 },
            attempt: 1,
            plan_hash: String::new(),
            fence: Fence { sequence, ..fence(1, "a") },
            goal: Goal::Forward,
            steps: vec![step],
            on_failure: OnFailure::Restore,
            traceparent: String::new(),
            taken: None,
            origin: Origin::Coordinator,
            after: String::new(),
        }
    }

    /// A host that is only pruned.
    struct Pruned(tokio::sync::mpsc::UnboundedSender<Ask>);

    impl Hands for Pruned {
        fn forbidden(&self, _: &Step) -> Option<String> {
            None
        }

        fn look<'a>(&'a self, _: &'a Step, _: Option<String>) -> Doing<'a, Result<Before, String>> {
            Box::pin(async { Ok(Before::Nothing) })
        }

        fn perform<'a>(&'a self, _: &'a Step, _: &'a Before) -> Doing<'a, StepResult> {
            Box::pin(std::future::pending())
        }

        fn observe<'a>(
            &'a self,
            _: &'a Step,
            _: &'a Before,
            _: bool,
        ) -> Doing<'a, (Found, Option<Evidence>)> {
            Box::pin(std::future::pending())
        }

        fn undo<'a>(&'a self, _: &'a Step, _: &'a Before) -> Doing<'a, StepResult> {
            Box::pin(std::future::pending())
        }

        fn status(&self) -> Doing<'_, HostStatus> {
            Box::pin(async { HostStatus::default() })
        }

        fn about(&self) -> About {
            About::default()
        }

        fn import<'a>(&'a self, _: &'a Import) -> Doing<'a, Result<Imported, String>> {
            Box::pin(async { Err("it has no files".to_owned()) })
        }

        fn prune<'a>(&'a self, ask: &'a Ask) -> Doing<'a, Result<Report, String>> {
            let told = self.0.send(ask.clone()).map_err(|error| error.to_string());
            Box::pin(async move { told.map(|()| Report::default()) })
        }
    }

    #[tokio::test]
    async fn p05_a_host_that_was_not_told_what_must_stay_prunes_nothing() {
        let order = order("rb-0001", 1, Verb::Switch, Hash::of(b"to"));
        let ending = Ending { end: End::Done, reason: String::new() };
        let mut ledger = Ledger::replay(&[Record::Accepted(Box::new(order.clone()))]);
        let (ledgers, watched) = watch::channel(Arc::new(ledger.clone()));
        let (kept_by, told) = watch::channel(None);
        let (sender, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let hands = Arc::new(Pruned(sender));
        let retention = Retention { hands, ledger: watched, kept: told };
        let running = tokio::spawn(retention.run());
        // It has looked at the ledger once it waits.
        tokio::task::yield_now().await;
        // Told while it is at work, and then by one whose term is over: neither is pruned by.
        kept_by.send_replace(Some(kept(1, "a", 1)));
        kept_by.send_replace(None);
        ledger.apply(&Record::Ended { key: order.key, ending });
        ledgers.send_replace(Arc::new(ledger));
        kept_by.send_replace(Some(kept(0, "before", 2)));
        tokio::task::yield_now().await;
        let row = KeptRow {
            component: "crm".to_owned(),
            exact: Hash::of(b"good"),
            why: "last good".to_owned(),
        };
        kept_by.send_replace(Some(Kept { rows: vec![row.clone()], ..kept(1, "a", 3) }));
        let asked_for = tokio::time::timeout(Duration::from_secs(30), asked.recv());
        let ask = asked_for.await.expect("it is pruned once it is told").unwrap();
        assert_eq!(ask.keep[0], row);
        assert_eq!(ask.keep[1].why, "named by rb-0001");
        assert!(!ask.dry_run && ask.now_unix_ms < 1_000_000, "by the clock that is behind");
        // What is told alone is no reason to prune.
        kept_by.send_replace(Some(kept(1, "a", 4)));
        drop(kept_by);
        running.await.unwrap();
        assert!(asked.try_recv().is_err());
    }

    #[test]
    fn what_runs_and_what_can_be_taken_back_is_named_and_nothing_older() {
        let hash = |number: u8| Hash::of(&[number]);
        let mut records = Vec::new();
        let mut run = |operation: &str, sequence, verb, to: Hash, from: Option<Hash>, ends| {
            let order = order(operation, sequence, verb, to);
            let key = order.key.clone();
            records.push(Record::Accepted(Box::new(order)));
            if let Some(from) = from {
                let before = Before::Live(from.to_string());
                records.push(Record::StepBegan { key: key.clone(), index: 0, before });
            }
            if ends {
                let ending = Ending { end: End::Done, reason: String::new() };
                records.push(Record::Ended { key, ending });
            }
        };
        run("rb-0001", 1, Verb::Switch, hash(1), Some(hash(2)), true);
        run("rb-0002", 2, Verb::Switch, hash(3), Some(hash(4)), true);
        run("ck-0003", 3, Verb::Check, hash(5), None, true);
        run("ck-0004", 4, Verb::Check, hash(6), None, false);
        let found: Vec<(Hash, String)> =
            named(&Ledger::replay(&records)).into_iter().map(|row| (row.exact, row.why)).collect();
        let by = |number, operation: &str| (hash(number), format!("named by {operation}"));
        assert_eq!(found, [by(3, "rb-0002"), by(4, "rb-0002"), by(6, "ck-0004")]);
    }
}
