//! A release on trial: what a deploy put live, and how much of its lease is left.
//!
//! ```text
//! StepBegan of a switch that goes forward ─┬─ one append ─▶ Trial, before anything is switched
//!                                          │
//! now and then: what is left ──────────────┼─▶ Trial again
//! kept, or gone back ──────────────────────┴─▶ Trial with how it ended
//! another operation switched the same component, or the switch was taken back ─▶ none any more
//! ```
//!
//! What it goes back to is not written twice: it is what the steps of its track found live before their switch.
//!
//! Invariant: what is left only falls. Within one boot it falls with the monotonic clock, whoever runs; over a reboot it
//! is what was written last. Wall time decides nothing.
//! Invariant: a trial ends once. One that ended is never open again but by another switch.

use serde::{Deserialize, Serialize};

use super::{Ledger, Track};
use crate::order::{Before, End, TrackKey, Verb};

/// A moment, as far as a host can tell after a crash or a reboot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// `/proc/sys/kernel/random/boot_id`; empty where it cannot be read.
    pub boot: String,
    /// Monotonic, suspended time included.
    pub since_boot_ms: u64,
    /// For people only.
    pub unix_ms: i64,
}

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        let clock = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (seconds, nanos) = (clock.tv_sec.unsigned_abs(), clock.tv_nsec.unsigned_abs());
        Self {
            boot: crate::exec::proc::boot_id().unwrap_or_default(),
            since_boot_ms: seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000),
            unix_ms: jiff::Timestamp::now().as_millisecond(),
        }
    }

    /// How long before `now` it was; none where that cannot be told.
    fn until_ms(&self, now: &Self) -> Option<u64> {
        let same = !self.boot.is_empty() && self.boot == now.boot;
        if same { now.since_boot_ms.checked_sub(self.since_boot_ms) } else { None }
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub lasting_ms: u64,
    /// What was left of it at that moment.
    pub left_ms: u64,
    pub at: Moment,
    /// It goes back, too, where no coordinator was there for the whole time.
    pub wants_coordinator: bool,
    /// A coordinator welcomed this host since the switch.
    pub welcomed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Over>,
}

/// How a trial ended that was not cut short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Over {
    /// Its checks passed when the time was over.
    Kept,
    /// The host goes back, or went, by this local operation.
    Back { operation: String, why: String },
    /// It should have gone back, and could not begin to.
    NotBegun { why: String, refused: String },
}

/// A component that a deploy switched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switched {
    pub component: String,
    /// Exact hashes.
    pub from: String,
    pub to: String,
    /// The name of what it went to.
    pub release: String,
}

impl Trial {
    /// What is left of it now.
    pub fn left_ms(&self, now: &Moment) -> u64 {
        self.left_ms.saturating_sub(self.at.until_ms(now).unwrap_or(0))
    }

    /// The same trial, written down now.
    pub fn at(&self, now: &Moment) -> Self {
        Self { left_ms: self.left_ms(now), at: now.clone(), ..self.clone() }
    }
}

impl Ledger {
    /// A trial that is not over, with its track.
    pub fn on_trial(&self, key: &TrackKey) -> Option<(&Trial, &Track)> {
        let trial = self.trials.get(key).filter(|trial| trial.over.is_none())?;
        Some((trial, self.tracks.get(key)?))
    }

    /// All trials, with their tracks: those that are open, and those that ended so that a person has to hear of it.
    pub fn trials(&self) -> impl Iterator<Item = (&TrackKey, &Trial, &Track)> {
        self.trials.iter().filter_map(|(key, trial)| Some((key, trial, self.tracks.get(key)?)))
    }

    pub(super) fn try_out(&mut self, key: &TrackKey, trial: &Trial) {
        match trial.over {
            Some(Over::Kept) => _ = self.trials.remove(key),
            Some(Over::Back { .. } | Over::NotBegun { .. }) | None => {
                self.trials.insert(key.clone(), trial.clone());
            }
        }
    }

    /// A track has ended: what it switched is no longer what others put there on trial; what it took back of its own is
    /// on no trial any more.
    pub(super) fn end_trials(&mut self, ended: &TrackKey) {
        let Some(track) = self.tracks.get(ended) else { return };
        let stuck = track.ending.as_ref().is_some_and(|ending| ending.end == End::Stuck);
        let moved: Vec<String> = track.moved().map(|row| row.component).collect();
        let stands = !stuck && track.on_trial().next().is_some();
        let tracks = &self.tracks;
        self.trials.retain(|key, trial| {
            if key == ended {
                return trial.over.is_some() || stands;
            }
            let own_way_back = match &trial.over {
                Some(Over::Back { operation, .. }) => *operation == ended.operation,
                Some(Over::Kept | Over::NotBegun { .. }) | None => false,
            };
            let Some(tried) = tracks.get(key) else { return false };
            own_way_back || !tried.moved().any(|row| moved.contains(&row.component))
        });
    }
}

impl Track {
    /// What its steps switched to something else, and did not take back.
    pub(crate) fn moved(&self) -> impl Iterator<Item = Switched> {
        self.steps.iter().zip(&self.order.steps).filter_map(|(state, step)| {
            let from = match state.before().filter(|_| state.changed())? {
                Before::Live(from) => from,
                Before::Nothing | Before::Running(_) | Before::Weights(_) => return None,
            };
            (step.verb == Verb::Switch && *from != step.snapshot).then(|| Switched {
                component: step.component.clone(),
                from: from.clone(),
                to: step.snapshot.clone(),
                release: step.release.clone(),
            })
        })
    }

    /// The same, of a deploy's steps: what a lease is about.
    pub fn on_trial(&self) -> impl Iterator<Item = Switched> {
        let forward = |row: &Switched| {
            let mut steps = self.order.steps.iter();
            steps.any(|step| {
                step.verb == Verb::Switch && step.forward && step.component == row.component
            })
        };
        self.moved().filter(move |row| forward(row))
    }
}
