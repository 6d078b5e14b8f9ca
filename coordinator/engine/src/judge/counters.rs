//! From counters that only grow, as Prometheus has them, to the counts of an interval.
//!
//! Invariant: a counter that went back, or an answer that is no number, gives no sample: what lies between is lost, and
//! that is said.

use super::sample::{Gap, Latency, Sample};
use crate::time::Timestamp;

/// What a source answered at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Counters {
    pub at: Timestamp,
    pub requests: f64,
    pub errors: f64,
    /// Per upper bound in seconds (infinity is the open end), how many answers stayed below it: cumulative, as `le`
    /// is. Empty where there is none.
    pub latency: Vec<(f64, f64)>,
}

impl Counters {
    /// What was counted from an earlier answer to this one.
    pub fn since(&self, earlier: &Self) -> Result<Sample, Gap> {
        let requests = grown(earlier.requests, self.requests)?;
        let bad = grown(earlier.errors, self.errors)?;
        // Counters are read one after the other: an error may be counted whose request is not yet.
        let bad = bad.min(requests);
        let latency = between(&sorted(&earlier.latency)?, &sorted(&self.latency)?)?;
        Ok(Sample { from: earlier.at, to: self.at, good: requests - bad, bad, latency })
    }
}

fn grown(before: f64, after: f64) -> Result<u64, Gap> {
    if !before.is_finite() || !after.is_finite() {
        return Err(Gap::NotANumber);
    }
    if after < before || before < 0.0 {
        return Err(Gap::CounterReset);
    }
    Ok((after - before).round() as u64)
}

fn sorted(buckets: &[(f64, f64)]) -> Result<Vec<(f64, f64)>, Gap> {
    if buckets.iter().any(|(bound, _)| bound.is_nan()) {
        return Err(Gap::NotANumber);
    }
    let mut buckets = buckets.to_vec();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(buckets)
}

fn between(before: &[(f64, f64)], after: &[(f64, f64)]) -> Result<Latency, Gap> {
    // Other buckets than before: whoever counts was started anew.
    let same = before.iter().map(|row| row.0).eq(after.iter().map(|row| row.0));
    if !same {
        return Err(Gap::CounterReset);
    }
    let mut rows = Vec::with_capacity(after.len());
    let mut below = 0;
    for ((bound, then), (_, now)) in before.iter().zip(after) {
        let up_to = grown(*then, *now)?;
        let bound_us = bound.is_finite().then(|| (bound.max(0.0) * 1e6).round() as u64);
        rows.push((bound_us, up_to.saturating_sub(below)));
        below = below.max(up_to);
    }
    Ok(Latency::new(rows))
}
