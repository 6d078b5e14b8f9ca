//! Triggers: rules on measurements that propose or start a rollback.
//!
//! ```text
//! readings (fleet, control) ─▶ Watch ─▶ fired ─▶ response(circumstances) ─▶ rollback, proposal or nothing
//!                                                                        └▶ notice: one sentence for people
//! ```
//!
//! Invariant: no clock, no I/O. Times are arguments; one that jumps lengthens a breach by a minute at most.
//! Invariant: missing data neither begins nor ends a breach.
//! Invariant: only [`response`] lets a rollback begin by itself, and only where nothing speaks against it.

mod breach;
mod notice;
mod response;
#[cfg(test)]
mod tests;
mod watch;

use serde::{Deserialize, Serialize};

pub use breach::{Bound, Breach, BreachError, Comparison, Metric};
pub use notice::{notice, severity};
pub use response::{Circumstances, Control, LastAutomatic, Recent, Response, Way, response};
pub use watch::{Fired, Reading, TriggerStands, Watch};

/// A rule on measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    pub name: String,
    pub source: TriggerSource,
    pub breach: Breach,
    /// How long the breach must last.
    pub for_ms: u64,
    /// Below this number of requests there is no judgement.
    pub min_requests: u64,
    pub severity: TriggerSeverity,
    pub then: Then,
}

/// Where a trigger's readings come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TriggerSource {
    /// The agents' own probes.
    Probes,
    /// A check of a component, by name.
    Check(String),
    /// A query that answers with one number.
    Prometheus { url: String, query: String },
    /// An alert of this name that is posted to the coordinator.
    Alert(String),
}

/// How bad a breach is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TriggerSeverity {
    Critical,
    High,
    Low,
}

/// What follows a breach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// A rollback is planned, and people are asked.
    Propose,
    /// A rollback begins.
    Rollback,
}

impl Trigger {
    /// When it fires, in the words of the fleet file: `error_rate > 0.1 for 30s`.
    pub fn rule(&self) -> String {
        let seconds = self.for_ms as f64 / 1000.0;
        match &self.source {
            TriggerSource::Check(check) => format!("check {check} fails for {seconds}s"),
            TriggerSource::Alert(alert) => format!("alert {alert} is posted for {seconds}s"),
            TriggerSource::Probes | TriggerSource::Prometheus { .. } => {
                format!("{} for {seconds}s", self.breach)
            }
        }
    }
}

impl TriggerSeverity {
    /// As in the fleet file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Low => "low",
        }
    }
}
