//! Looks at what is on trial, and does what follows.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    is_due,
    watch::{Seen, Verdict, Watch, look_every},
};
use crate::{
    core::CoreHandle,
    hands::Hands,
    ledger::{Ledger, Switched, Track},
    local::{self, plan},
    order::{LocalOrder, MadeHere, OnFailure, TrackKey},
    text::shortened,
};

/// What spoke against a release is kept in the ledger and told.
const WHY_BYTES_MAX: usize = 512;

/// Runs for as long as the agent does.
pub struct Leases<H> {
    pub hands: Arc<H>,
    pub core: CoreHandle,
}

impl<H> std::fmt::Debug for Leases<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leases").finish_non_exhaustive()
    }
}

/// One trial, as this process watches it.
struct Watched {
    watch: Watch,
    next: Instant,
}

impl<H: Hands> Leases<H> {
    /// Runs for ever; ends where the core is gone.
    pub async fn run(self) {
        let begun = Instant::now();
        let mut changes = self.core.ledger();
        let mut watched: BTreeMap<TrackKey, Watched> = BTreeMap::new();
        loop {
            let ledger = changes.borrow_and_update().clone();
            watched.retain(|key, _| ledger.on_trial(key).is_some());
            for (key, _, _) in ledger.trials().filter(|(_, trial, _)| trial.over.is_none()) {
                let now = Instant::now();
                let new = || Watched { watch: Watch::new(now - begun), next: now };
                let one = watched.entry(key.clone()).or_insert_with(new);
                if one.next <= now {
                    let every = self.look(key, &mut one.watch, begun).await;
                    one.next = Instant::now() + every;
                }
            }
            let next = watched.values().map(|one| one.next).min();
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = until(next) => {}
            }
        }
    }

    /// Looks once; answers when to look again.
    async fn look(&self, key: &TrackKey, watch: &mut Watch, begun: Instant) -> Duration {
        let ledger = self.ledger();
        let Some((_, track)) = ledger.on_trial(key) else { return Duration::ZERO };
        let rows: Vec<Switched> = track.on_trial().collect();
        let leases = rows.iter().filter_map(|row| self.hands.lease(&row.component));
        let ready_within = leases.map(|lease| lease.ready_within).max().unwrap_or(Duration::ZERO);
        let now = begun.elapsed();
        let mut seen = Seen::Operation;
        if !is_at_work(&ledger) {
            seen = self.seen(&rows).await;
        }
        let (at, ledger) = (self.hands.moment(), self.ledger());
        // It may have ended while it was looked at, or something may be at work by now.
        let Some((trial, _)) = ledger.on_trial(key) else { return Duration::ZERO };
        if is_at_work(&ledger) {
            seen = Seen::Operation;
        }
        let left = Duration::from_millis(trial.left_ms(&at));
        let every = look_every(ready_within, left);
        match watch.look(seen, now, left, ready_within) {
            Verdict::GoesOn if is_due(trial, &at) => self.core.tried(key, at, false).await,
            Verdict::GoesOn => {}
            Verdict::Passed if trial.wants_coordinator && !trial.welcomed => {
                if self.core.has_session().await {
                    self.core.tried(key, at, true).await;
                } else {
                    let why = "no coordinator was there during its lease".to_owned();
                    self.go_back(key, why).await;
                }
            }
            Verdict::Passed => self.core.tried(key, at, true).await,
            Verdict::Back(why) => self.go_back(key, why).await,
        }
        every
    }

    /// Whether all components hold now.
    async fn seen(&self, rows: &[Switched]) -> Seen {
        for row in rows.iter().filter(|row| self.hands.lease(&row.component).is_some()) {
            if let Err(why) = self.hands.holds(&row.component, &row.to).await {
                return Seen::Failed(format!("{}: {why}", row.component));
            }
        }
        Seen::Passed
    }

    async fn go_back(&self, key: &TrackKey, why: String) {
        let why = shortened(&why, WHY_BYTES_MAX);
        let status = self.hands.status().await;
        let about = self.hands.about();
        let ledger = self.ledger();
        let Some((_, track)) = ledger.on_trial(key) else { return };
        let named = |row: &Switched| {
            let mut snapshots = status.snapshots.iter();
            let known = snapshots.find(|known| {
                known.component == row.component
                    && known.exact == row.from
                    && !known.release.is_empty()
            });
            known.map_or_else(|| format!("before-{}", key.operation), |known| known.release.clone())
        };
        let to: BTreeMap<String, (String, String)> = track
            .on_trial()
            .map(|row| (row.component.clone(), (named(&row), row.from.clone())))
            .collect();
        let view = plan::View { shapes: &about.shapes, status: &status, ledger: &ledger };
        let steps = plan::back(view, &to);
        let mut releases: Vec<&str> = to.values().map(|(release, _)| release.as_str()).collect();
        releases.dedup();
        let made = MadeHere {
            operation: local::fresh_id(&ledger),
            by: format!("the lease of {}", key.operation),
            at_unix_ms: self.hands.moment().unix_ms,
            release: releases.join(", "),
        };
        let operation = made.operation.clone();
        let order = LocalOrder {
            plan_hash: plan::hash_of(&steps),
            made,
            steps,
            // What was live before stays, even where it does not pass either: the other one has failed.
            on_failure: OnFailure::Leave,
            trial: Some((key.clone(), why)),
        };
        if let Err(why) = self.core.local(order).await {
            tracing::warn!(operation, why, "going back is not begun");
        }
    }

    fn ledger(&self) -> Arc<Ledger> {
        self.core.ledger().borrow().clone()
    }
}

/// Whether something is at work that changes what serves.
fn is_at_work(ledger: &Ledger) -> bool {
    let cuts = |track: &Track| track.order().steps.iter().any(|step| step.verb.cuts());
    ledger.open().is_some_and(cuts)
}

async fn until(next: Option<Instant>) {
    match next {
        Some(next) => sleep_until(next).await,
        None => std::future::pending().await,
    }
}
