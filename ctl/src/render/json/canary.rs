//! Canaries, triggers and proposals as documents.

use jiff::Timestamp;
use proto::v1;
use serde::Serialize;
use serde_json::Value;

use super::text;
use crate::{
    out::{Document, typed},
    render::{canary, triggers, words},
};

/// How a canary stands. Weights are percent.
#[derive(Clone, Debug, Serialize)]
pub struct Canary {
    pub operation: String,
    pub fleet: String,
    pub group: String,
    pub release: Option<String>,
    /// The weight that is set: 0 before the first, null past the last.
    pub weight: Option<u32>,
    /// What the edges say that it gets; null where they differ, or were not asked.
    pub weight_observed: Option<u32>,
    /// The index of the step whose weight is set; null before the first and past the last.
    pub step: Option<u32>,
    pub steps: Vec<CanaryStep>,
    /// `steps`, `hold`, `judge`, `person`, `resume` or `nothing`.
    pub waits: String,
    pub hold_until: Option<Timestamp>,
    pub ruling: Option<Ruling>,
    /// What the app says of itself; the judge does not compare it.
    pub gauges: Vec<Gauge>,
}

/// One number of the app's own, on both sides; over what time, it alone knows.
#[derive(Clone, Debug, Serialize)]
pub struct Gauge {
    pub component: String,
    pub check: String,
    /// Where in the answer: a JSON pointer.
    pub pointer: String,
    /// Null where no host of the side has said it of late.
    pub canary: Option<GaugeSide>,
    pub baseline: Option<GaugeSide>,
    /// The tightest of the hosts' bounds.
    pub at_most: Option<f64>,
    pub at_least: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct GaugeSide {
    pub lowest: f64,
    pub median: f64,
    pub highest: f64,
    /// Hosts that have said it of late, and how many the side has.
    pub hosts: u32,
    pub of_hosts: u32,
    /// When the oldest of these numbers came.
    pub oldest: Option<Timestamp>,
}

#[derive(Clone, Debug, Serialize)]
pub struct CanaryStep {
    pub weight: u32,
    pub hold_ms: u64,
    /// The index of the plan's stage.
    pub stage: u32,
    /// A person has to promote it.
    pub asks: bool,
}

/// What the judge says.
#[derive(Clone, Debug, Serialize)]
pub struct Ruling {
    /// `pass`, `fail` or `hold`.
    pub verdict: String,
    pub sentence: String,
    pub figures: Vec<Figure>,
    pub at: Option<Timestamp>,
}

/// One comparison. Shares are of 1, latencies in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub name: String,
    pub canary: Option<f64>,
    pub baseline: Option<f64>,
    /// What the canary may be at most.
    pub bound: Option<f64>,
    pub canary_requests: u64,
    pub baseline_requests: u64,
}

impl Document for Canary {
    const TYPE: &'static str = "canary";
}

impl Canary {
    /// Absent where the operation has none.
    pub fn new(operation: &v1::Operation, traffic: Option<&v1::TrafficView>) -> Option<Self> {
        canary::Now::new(operation, traffic).map(|now| Self::from(&now))
    }
}

impl From<&canary::Now<'_>> for Canary {
    fn from(now: &canary::Now<'_>) -> Self {
        let view = now.canary;
        let plan = now.operation.plan.as_ref();
        let step = |step: &v1::CanaryStepView| CanaryStep {
            weight: step.weight,
            hold_ms: step.hold_ms,
            stage: step.stage,
            asks: step.asks,
        };
        Self {
            operation: now.operation.id.clone(),
            fleet: plan.map(|plan| plan.fleet.clone()).unwrap_or_default(),
            group: view.group.clone(),
            release: plan.and_then(|plan| text(&plan.to_release)),
            weight: now.weight(),
            weight_observed: now.observed,
            step: view.step,
            steps: view.steps.iter().map(step).collect(),
            waits: canary::waits(view.waits),
            hold_until: words::instant(view.hold_until_unix_ms),
            ruling: view.ruling.as_ref().map(Ruling::from),
            gauges: view.gauges.iter().map(Gauge::from).collect(),
        }
    }
}

impl From<&v1::CanaryGauge> for Gauge {
    fn from(row: &v1::CanaryGauge) -> Self {
        let side = |side: v1::GaugeSide| GaugeSide {
            lowest: side.lowest,
            median: side.median,
            highest: side.highest,
            hosts: side.hosts,
            of_hosts: side.of_hosts,
            oldest: words::instant(side.oldest_unix_ms),
        };
        Self {
            component: row.component.clone(),
            check: row.check.clone(),
            pointer: row.pointer.clone(),
            canary: row.canary.map(side),
            baseline: row.baseline.map(side),
            at_most: row.at_most,
            at_least: row.at_least,
        }
    }
}

impl From<&v1::Ruling> for Ruling {
    fn from(ruling: &v1::Ruling) -> Self {
        let figure = |row: &v1::Figure| Figure {
            name: row.name.clone(),
            canary: row.canary,
            baseline: row.baseline,
            bound: row.bound,
            canary_requests: row.canary_requests,
            baseline_requests: row.baseline_requests,
        };
        Self {
            verdict: canary::verdict(ruling.verdict),
            sentence: ruling.sentence.clone(),
            figures: ruling.figures.iter().map(figure).collect(),
            at: words::instant(ruling.at_unix_ms),
        }
    }
}

/// How a trigger stands.
#[derive(Clone, Debug, Serialize)]
pub struct Trigger {
    pub trigger: String,
    /// As in the fleet file: `error_rate > 0.10 for 30s`.
    pub rule: String,
    /// `critical`, `high` or `low`.
    pub severity: String,
    /// `propose` or `rollback`.
    pub then: String,
    /// `off`, `well`, `blind`, `held`, `breached` or `fired`.
    pub state: String,
    pub detail: Option<String>,
    pub since: Option<Timestamp>,
    /// Null where it stays armed, or is off.
    pub armed_until: Option<Timestamp>,
}

impl From<&v1::TriggerView> for Trigger {
    fn from(row: &v1::TriggerView) -> Self {
        Self {
            trigger: row.name.clone(),
            rule: row.rule.clone(),
            severity: triggers::severity(row.severity),
            then: triggers::then(row.then),
            state: triggers::state(row.state),
            detail: text(&row.detail),
            since: words::instant(row.since_unix_ms),
            armed_until: words::instant(row.armed_until_unix_ms),
        }
    }
}

/// An operation that waits for a person, or did.
#[derive(Clone, Debug, Serialize)]
pub struct Proposal {
    /// The id that it will have.
    pub operation: String,
    pub fleet: String,
    pub kind: String,
    pub to_release: Option<String>,
    pub why: String,
    pub why_not_automatic: Option<String>,
    pub severity: String,
    /// The trigger or the alert.
    pub by: String,
    pub at: Option<Timestamp>,
    /// It is not begun after this.
    pub until: Option<Timestamp>,
    /// `waiting`, `approved`, `rejected` or `expired`.
    pub state: String,
    pub decided_by: Option<String>,
    pub decided_reason: Option<String>,
    pub decided: Option<Timestamp>,
}

impl Document for Proposal {
    const TYPE: &'static str = "proposal";
}

impl From<&v1::Proposal> for Proposal {
    fn from(row: &v1::Proposal) -> Self {
        Self {
            operation: row.operation.clone(),
            fleet: row.fleet.clone(),
            kind: words::kind(row.kind),
            to_release: text(&row.to_release),
            why: row.why.clone(),
            why_not_automatic: text(&row.why_not_automatic),
            severity: triggers::severity(row.severity),
            by: row.by.clone(),
            at: words::instant(row.at_unix_ms),
            until: words::instant(row.until_unix_ms),
            state: triggers::proposal_state(row.state),
            decided_by: text(&row.decided_by),
            decided_reason: text(&row.decided_reason),
            decided: words::instant(row.decided_unix_ms),
        }
    }
}

/// What was proposed, newest first.
#[derive(Clone, Debug, Serialize)]
pub struct Proposals {
    pub proposals: Vec<Proposal>,
}

impl Document for Proposals {
    const TYPE: &'static str = "proposals";

    fn lines(&self) -> Vec<Value> {
        self.proposals.iter().map(|row| typed(Proposal::TYPE, row)).collect()
    }
}
