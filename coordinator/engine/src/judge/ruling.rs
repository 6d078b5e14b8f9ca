//! What the judge says.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// What the judge says of a release under traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// There are enough fresh samples of both sides, and nothing speaks against the canary.
    Pass,
    /// It was proven that the canary is worse.
    Fail,
    /// Neither can be said.
    Hold,
}

/// A verdict with its grounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ruling {
    pub verdict: Verdict,
    /// Why, with its numbers, for a tired person.
    pub sentence: String,
    pub numbers: Vec<Figure>,
    pub at: Timestamp,
}

/// One check in numbers. Shares are of 1, latencies in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// `errors`, `p95`, `errors at most`.
    pub name: String,
    /// Over the whole step so far; `None` where nothing was measured.
    pub canary: Option<f64>,
    pub baseline: Option<f64>,
    /// What the canary may have at most; `None` where that is not known yet.
    pub bound: Option<f64>,
    pub canary_requests: u64,
    pub baseline_requests: u64,
    /// How much more likely the counts are with a worse canary than with one that is no worse, as a bet that was
    /// fair would pay: 1 says nothing.
    pub evidence: f64,
    /// Where the evidence proves it.
    pub limit: f64,
}
