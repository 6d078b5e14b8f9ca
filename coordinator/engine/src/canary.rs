//! A release on a few hosts first: what the fleet file says of it, and how a running one stands.
//!
//! ```text
//! canary hosts and the free slot get the release, while no user reaches them
//!   ─▶ weight 5 %, hold ─▶ weight 50 %, hold ─▶ … ─▶ all traffic to the slot, or the rest host by host
//!            └── a gate after each: the judge says pass, or a person promotes
//! ```
//!
//! Invariant: the canary is no slot and no edge; its steps rise.

use serde::{Deserialize, Serialize};

use crate::{
    judge::{Analysis, Ruling},
    name::GroupName,
    operation::{Operation, Phase},
    plan::Gate,
    time::Elapsed,
};

/// How a release is tried on a few hosts first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    pub group: GroupName,
    /// Rising; 100 is the whole fleet.
    pub steps: Vec<CanaryStep>,
    pub analysis: Analysis,
    pub source: MetricSource,
    /// For how long triggers stay armed after the release is live everywhere.
    pub armed_for_ms: u64,
    /// How long it may wait, for samples or for a person, before it goes back.
    pub wait_at_most_ms: u64,
}

/// A share of the traffic, and for how long it is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStep {
    pub weight: u32,
    pub hold_ms: u64,
    /// It goes on only when a person promotes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
}

/// Where counts of requests come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetricSource {
    /// The agents' own samples.
    Probes,
    Prometheus(Counters),
}

/// Queries whose answers only grow; `$side` in them is the names of one side's hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub url: String,
    pub requests: String,
    pub errors: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<String>,
}

/// How a canary stands.
#[derive(Clone, Debug, PartialEq)]
pub struct CanaryNow<'a> {
    pub group: &'a GroupName,
    pub steps: Vec<CanaryStage<'a>>,
    /// The index of the step whose weight is set.
    pub step: Option<usize>,
    pub ruling: Option<&'a Ruling>,
    /// When the hold of the step is over, while it runs.
    pub hold_until: Option<Elapsed>,
    pub waits: Waits,
}

/// One weight of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CanaryStage<'a> {
    pub stage: usize,
    pub gate: &'a Gate,
    pub hold_ms: u64,
}

/// What a canary waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Its hosts, or the traffic.
    Steps,
    /// The end of the hold.
    Hold,
    /// The judge, who cannot say pass.
    Judge,
    /// A person has to promote it.
    Person,
    /// It is paused.
    Resume,
    /// Nothing: it is over.
    Nothing,
}

impl Operation {
    /// Whether it tries a release on a few hosts first.
    pub fn is_canary(&self) -> bool {
        self.plan().stages.iter().any(|stage| stage.gate.is_some())
    }

    /// How its canary stands; none where it has none. `now` is of its own time.
    pub fn canary(&self, now: Elapsed) -> Option<CanaryNow<'_>> {
        let stages = self.plan().stages.iter().enumerate();
        let steps: Vec<CanaryStage<'_>> = stages
            .filter_map(|(stage, is)| {
                Some(CanaryStage { stage, gate: is.gate.as_ref()?, hold_ms: is.soak_ms })
            })
            .collect();
        let group = &steps.first()?.gate.canary;
        let step =
            self.gate_in_force().and_then(|stage| steps.iter().position(|s| s.stage == stage));
        let ended = step.and_then(|_| self.stage_ended());
        let held = step.zip(ended).map(|(step, ended)| ended.plus(steps[step].hold_ms));
        let waits = match (self.phase(), step) {
            (Phase::Ended(_), _) => Waits::Nothing,
            (Phase::Paused, _) => Waits::Resume,
            (Phase::Halting | Phase::Aborting(_), _) | (Phase::Running, None) => Waits::Steps,
            (Phase::Running, Some(_)) if held.is_some_and(|until| until > now) => Waits::Hold,
            (Phase::Running, Some(step)) if steps[step].gate.asks => Waits::Person,
            (Phase::Running, Some(_)) => Waits::Judge,
        };
        let hold_until = held.filter(|_| matches!(waits, Waits::Hold));
        Some(CanaryNow { group, step, ruling: self.ruling(), hold_until, waits, steps })
    }
}
