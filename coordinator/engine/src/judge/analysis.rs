//! What the judge is asked to look at: a part of the fleet's control part.

use serde::{Deserialize, Serialize};

/// How canary and baseline are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Analysis {
    /// What of the canary is compared with the baseline.
    pub compare: Vec<Measure>,
    /// The largest share of failed requests that a canary may have, but for a baseline that has as many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors_at_most: Option<f64>,
    /// How many times the baseline's a latency may be.
    pub latency_ratio: f64,
    /// How likely a canary that is no worse is to be failed: over all looks and all checks of one step.
    pub false_alarm: f64,
    /// Fewer requests than this, on either side, are no pass.
    pub min_requests: u64,
    /// Samples that are older than this are missing.
    pub stale_after_ms: u64,
}

impl Default for Analysis {
    fn default() -> Self {
        Self {
            compare: vec![Measure::Errors, Measure::P95],
            errors_at_most: None,
            latency_ratio: 1.5,
            false_alarm: 0.01,
            min_requests: 100,
            stale_after_ms: 10_000,
        }
    }
}

impl Analysis {
    /// Whether a judge can work by it.
    pub fn check(&self) -> Result<(), AnalysisError> {
        if self.compare.is_empty() && self.errors_at_most.is_none() {
            return Err(AnalysisError::Nothing);
        }
        if let Some(most) = self.errors_at_most
            && !(most > 0.0 && most < 1.0)
        {
            return Err(AnalysisError::ErrorsAtMost(most));
        }
        if !(self.latency_ratio >= 1.0 && self.latency_ratio.is_finite()) {
            return Err(AnalysisError::LatencyRatio(self.latency_ratio));
        }
        if !(self.false_alarm > 0.0 && self.false_alarm <= 0.1) {
            return Err(AnalysisError::FalseAlarm(self.false_alarm));
        }
        if self.stale_after_ms == 0 {
            return Err(AnalysisError::StaleAfter);
        }
        Ok(())
    }
}

/// Why a judge cannot work by an analysis.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AnalysisError {
    #[error("nothing is compared: name `errors`, `p50`, `p95` or `p99`, or a bound on errors")]
    Nothing,
    #[error("{0} is no bound on the share of failed requests: write a number between 0 and 1")]
    ErrorsAtMost(f64),
    #[error("a latency may be {0} times the baseline's: write 1 or more")]
    LatencyRatio(f64),
    #[error("{0} is no chance of a false alarm: write a number above 0 and up to 0.1")]
    FalseAlarm(f64),
    #[error("samples are stale at once: write how old they may be")]
    StaleAfter,
}

/// A measurement that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Measure {
    /// The share of requests that failed.
    Errors,
    /// The latency that half of the requests stay below.
    P50,
    /// The latency that 95 % of the requests stay below.
    P95,
    /// The latency that 99 % of the requests stay below.
    P99,
}

impl Measure {
    /// Of a latency, which quantile it is.
    pub fn quantile(self) -> Option<f64> {
        match self {
            Self::Errors => None,
            Self::P50 => Some(0.5),
            Self::P95 => Some(0.95),
            Self::P99 => Some(0.99),
        }
    }

    /// As it is called in sentences and figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Errors => "errors",
            Self::P50 => "p50",
            Self::P95 => "p95",
            Self::P99 => "p99",
        }
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// The group that gets a share of the traffic first.
    Canary,
    /// Every other host that gets traffic meanwhile.
    Baseline,
}

impl Side {
    /// As it is called in sentences.
    pub fn name(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::Baseline => "baseline",
        }
    }
}
