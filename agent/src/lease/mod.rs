//! The dead-man: a host that went forward goes back by itself where the new release does not hold, whoever is away.
//!
//! ```text
//! switch of a deploy ─▶ Trial, in the same append as its StepBegan
//! ledger ─▶ Leases ─ look ─▶ hands: services, checks ─▶ Watch ─┬─ goes on ─▶ Trial: what is left, now and then
//!                                                              ├─ kept
//!                                                              └─ back ─▶ LocalOrder, as root's own ─▶ core
//! ```
//!
//! A trial begins with the switch and is looked at once its track has ended, be it done or left. It goes back
//! - when its checks or services failed at every look for `ready_within`, at three looks at the least;
//! - when its time is over and three looks in a row fail then; the first that passes keeps it;
//! - under `without_coordinator: revert`, when its time is over, its checks pass, no coordinator has welcomed this host
//!   since the switch, and no session is up.
//!
//! All components that the track switched go back together, each to exactly what was live there before. The longest lease
//! among them counts. What is there then stays, verified or not: it was there before, and going to and fro mends nothing.
//! Another operation that switches one of them, or one that takes the switch back, ends the trial.
//!
//! Invariant: what decides is on disk before the switch, and survives this process and the boot.
//! Invariant: a coordinator that is away is no reason to go back, but where the policy says so.
//! Invariant: it goes back once. What fails then is told, not repeated.

mod shell;
#[cfg(test)]
mod tests;
pub mod watch;

use std::time::Duration;

use proto::policy::{ComponentPolicy, WithoutCoordinator};

pub use shell::Leases;

use crate::{
    ledger::{Ledger, Moment, Over, Record, Trial},
    order::{End, Step, TrackKey, Verb},
    status::Problem,
};

/// The shares of a lease after which what is left is written down.
const STEPS: u64 = 20;
/// No more often.
const WRITE_EVERY_MIN_MS: u64 = 1_000;
/// No less often: a reboot gives so much back at the most.
const WRITE_EVERY_MAX_MS: u64 = 60_000;

/// What the policy says of a component that is deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub lasting: Duration,
    pub wants_coordinator: bool,
    pub ready_within: Duration,
}

impl Lease {
    /// The lease of a component; none where its policy has none.
    pub fn of(policy: &ComponentPolicy) -> Option<Self> {
        let lease = policy.lease?;
        let wants_coordinator = match lease.without_coordinator {
            WithoutCoordinator::Hold => false,
            WithoutCoordinator::Revert => true,
        };
        let (lasting, ready_within) = (lease.lasting.0, policy.ready_within.0);
        Some(Self { lasting, wants_coordinator, ready_within })
    }
}

/// The trial that begins with these records: to be written in one append with them. `records` are those of a step that is
/// about to begin, not applied yet.
pub fn begins(
    ledger: &Ledger,
    records: &[Record],
    lease: impl Fn(&str) -> Option<Lease>,
    now: impl FnOnce() -> Moment,
) -> Option<Record> {
    let is_forward = |step: &Step| step.verb == Verb::Switch && step.forward;
    let (key, track) = records.iter().find_map(|record| match record {
        Record::StepBegan { key, index, .. } => {
            let track = ledger.tracks.get(key)?;
            is_forward(&track.order.steps[*index]).then_some((key, track))
        }
        Record::Fenced(_)
        | Record::Accepted(_)
        | Record::Observed { .. }
        | Record::StepEnded { .. }
        | Record::TurnedBack { .. }
        | Record::UndoBegan { .. }
        | Record::UndoEnded { .. }
        | Record::Ended { .. }
        | Record::Dropped { .. }
        | Record::Trial { .. } => None,
    })?;
    let forward =
        || track.order.steps.iter().zip(&track.steps).filter(|(step, _)| is_forward(step));
    // It began with the first of them.
    if forward().any(|(_, state)| state.before.is_some()) {
        return None;
    }
    let leases: Vec<Lease> = forward().filter_map(|(step, _)| lease(&step.component)).collect();
    let lasting = leases.iter().map(|lease| lease.lasting).max()?;
    let lasting_ms = u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX);
    let trial = Trial {
        lasting_ms,
        left_ms: lasting_ms,
        at: now(),
        wants_coordinator: leases.iter().any(|lease| lease.wants_coordinator),
        welcomed: false,
        over: None,
    };
    Some(Record::Trial { key: key.clone(), trial })
}

/// Whether what is left has to be written down: what was is of another boot, or too much has passed since.
pub fn is_due(trial: &Trial, now: &Moment) -> bool {
    let every = (trial.lasting_ms / STEPS).clamp(WRITE_EVERY_MIN_MS, WRITE_EVERY_MAX_MS);
    let left = trial.left_ms(now);
    let passed = trial.left_ms.saturating_sub(left);
    trial.at.boot != now.boot || passed >= every || (passed > 0 && left == 0)
}

/// Until when a component is on trial, by this host's clock.
pub fn until_unix_ms(ledger: &Ledger, component: &str, now: &Moment) -> Option<i64> {
    let open = ledger.trials().filter(|(_, trial, _)| trial.over.is_none());
    let mut own =
        open.filter(|(_, _, track)| track.on_trial().any(|row| row.component == component));
    own.next().map(|(_, trial, _)| {
        let left = i64::try_from(trial.left_ms(now)).unwrap_or(i64::MAX);
        now.unix_ms.saturating_add(left)
    })
}

/// What a person has to hear of a component whose release did not hold.
pub fn problems(ledger: &Ledger, component: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (key, trial, track) in ledger.trials() {
        let Some(row) = track.on_trial().find(|row| row.component == component) else { continue };
        let (release, lease) = (&row.release, format!("the lease of {}", key.operation));
        let (what, mend) = match &trial.over {
            None | Some(Over::Kept) => continue,
            Some(Over::NotBegun { why, refused }) => (
                format!(
                    "{release} did not hold ({why}), and {lease} could not take it back: {refused}"
                ),
                "ctl rollback, or `agent local rollback` on the host".to_owned(),
            ),
            Some(Over::Back { operation, why }) => {
                let own = TrackKey { operation: operation.clone(), stage: 0 };
                let ending = ledger.tracks.get(&own).map(|track| track.ending.as_ref());
                match ending {
                    Some(None) => continue,
                    Some(Some(ending)) if ending.end != End::Done => (
                        format!(
                            "{release} did not hold ({why}); {lease} took it back by {operation}, which failed: {}",
                            ending.reason
                        ),
                        "look at the host; then ctl rollback, or `agent local rollback` there"
                            .to_owned(),
                    ),
                    Some(Some(_)) | None => (
                        format!(
                            "{release} did not hold ({why}); {lease} took it back by {operation}"
                        ),
                        format!(
                            "find out why before it is deployed again; ctl release mark {release} bad --reason …"
                        ),
                    ),
                }
            }
        };
        problems.push(Problem { what, mend, warns: true });
    }
    problems
}

/// What became of a trial, in the log.
pub(crate) fn log(key: &TrackKey, trial: &Trial) {
    let operation = &key.operation;
    match &trial.over {
        None if trial.left_ms == trial.lasting_ms => {
            tracing::info!(
                operation,
                lasting_ms = trial.lasting_ms,
                "what it switches is on trial"
            );
        }
        None => tracing::debug!(operation, left_ms = trial.left_ms, "on trial"),
        Some(Over::Kept) => {
            tracing::info!(operation, "its lease is over: the release held, and is kept")
        }
        Some(Over::Back { operation: by, why }) => {
            tracing::warn!(operation, by, why, "the release did not hold: this host goes back");
        }
        Some(Over::NotBegun { why, refused }) => {
            tracing::error!(
                operation,
                why,
                refused,
                "the release did not hold, and cannot be taken back"
            );
        }
    }
}
