//! One check of the judge: what counts as bad, what was bet on it, what was proven.
//!
//! ```text
//! errors   bad: a failed request                    against the baseline's share, or against a bound
//! latency  bad: slower than a bound in microseconds the canary's is `ratio` times the baseline's
//! ```
//!
//! A latency quantile is compared by shares, as quantile tests are (Howard and Ramdas, "Sequential estimation of
//! quantiles", 2022): of the baseline, what is above the bucket bound `y` nearest to its quantile; of the canary, what is above
//! `ratio × y`. A canary that is at most `ratio` times as slow has no larger share there than the baseline has. Bounds
//! come from earlier blocks only, so the bet stays fair where they miss the quantile.
//!
//! Invariant: where a bucket straddles a bound, its answers count in favour of the canary.
//! Invariant: what was proven stays proven, with its numbers of then.

use super::{
    analysis::Measure,
    bet::{Allowed, Bet, Tally},
    sample::Latency,
};
/// The canary's share of failed requests may be larger by this: a difference of one request in a thousand that is
/// certain is still none that anybody would notice.
pub(super) const ERRORS_MARGIN: f64 = 0.001;

/// The share of answers above the bound may be larger by this part of what it is by definition.
const LATENCY_MARGIN: f64 = 0.2;

/// A canary is never too slow by less than this: noise in the low milliseconds says nothing.
const LATENCY_FLOOR_US: u64 = 10_000;

/// What a share of failed requests is taken for before anything is known.
const ERRORS_PRIOR: f64 = 0.01;

/// So many of the baseline's answers must lie above a quantile before a bound is put there.
const ABOVE_AT_LEAST: f64 = 5.0;

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum What {
    Errors,
    ErrorsAtMost(f64),
    Latency { measure: Measure, quantile: f64, ratio: f64 },
}

impl What {
    pub(super) fn of(measure: Measure, ratio: f64) -> Self {
        match measure.quantile() {
            None => Self::Errors,
            Some(quantile) => Self::Latency { measure, quantile, ratio },
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Errors => Measure::Errors.name(),
            Self::ErrorsAtMost(_) => "errors at most",
            Self::Latency { measure, .. } => measure.name(),
        }
    }
}

/// The bounds of a latency check, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) canary_us: u64,
    pub(super) baseline_us: u64,
}

/// What was counted on one side: in a block, or since the beginning.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    pub(super) requests: Tally,
    pub(super) latency: Latency,
}

impl Counted {
    pub(super) fn add(&mut self, requests: Tally, latency: &Latency) {
        self.requests.add(requests);
        self.latency.merge(latency);
    }

    pub(super) fn clear(&mut self) {
        self.requests = Tally::default();
        self.latency.clear();
    }
}

/// What a sentence and a figure are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) canary: Tally,
    pub(super) baseline: Tally,
    /// In microseconds; of latency checks.
    pub(super) quantiles: Option<(Option<f64>, Option<f64>)>,
    pub(super) bounds: Option<Bounds>,
    pub(super) evidence: f64,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) what: What,
    bet: Bet,
    /// Evidence from which on it is proven.
    pub(super) limit: f64,
    /// The numbers of the proof, as they were when it was found.
    pub(super) proof: Option<Numbers>,
}

impl Check {
    pub(super) fn new(what: What, limit: f64) -> Self {
        let bet = match what {
            What::Errors => Bet::new(Allowed::Baseline { margin: ERRORS_MARGIN }, ERRORS_PRIOR),
            What::ErrorsAtMost(most) => Bet::new(Allowed::Bound(most), ERRORS_PRIOR.min(most)),
            What::Latency { quantile, .. } => {
                let above = 1.0 - quantile;
                Bet::new(Allowed::Baseline { margin: LATENCY_MARGIN * above }, above)
            }
        };
        Self { what, bet, limit, proof: None }
    }

    /// Takes a block: what was counted in it, and the baseline's latencies before it.
    pub(super) fn block(
        &mut self,
        age_ms: u64,
        canary: &Counted,
        baseline: &Counted,
        past: &Latency,
    ) {
        if self.proof.is_some() {
            return;
        }
        match self.what {
            What::Errors if baseline.requests.all > 0 => {
                self.bet.block(age_ms, canary.requests, baseline.requests);
            }
            What::ErrorsAtMost(_) => self.bet.block(age_ms, canary.requests, baseline.requests),
            What::Latency { .. } => {
                if let Some(bounds) = self.bounds(past) {
                    let slow = |bad, latency: &Latency| Tally { bad, all: latency.total() };
                    let (canary, baseline) = (&canary.latency, &baseline.latency);
                    let canary = slow(canary.surely_above(bounds.canary_us), canary);
                    let baseline = slow(baseline.perhaps_above(bounds.baseline_us), baseline);
                    if canary.all > 0 && baseline.all > 0 {
                        self.bet.block(age_ms, canary, baseline);
                    }
                }
            }
            What::Errors => {}
        }
    }

    /// Notes a proof where there is one.
    pub(super) fn prove(&mut self, canary: &Counted, baseline: &Counted) {
        if self.proof.is_none() && self.bet.evidence() >= self.limit {
            self.proof = Some(self.numbers(canary, baseline));
        }
    }

    /// Where the bounds lie, going by these answers of the baseline; `None` while they are too few to say.
    pub(super) fn bounds(&self, baseline: &Latency) -> Option<Bounds> {
        let What::Latency { quantile, ratio, .. } = self.what else { return None };
        if (1.0 - quantile) * (baseline.total() as f64) < ABOVE_AT_LEAST {
            return None;
        }
        let baseline_us = baseline.bound_near(quantile)?;
        let times = (baseline_us as f64 * ratio).ceil() as u64;
        let canary_us = times.max(baseline_us.saturating_add(LATENCY_FLOOR_US));
        Some(Bounds { canary_us, baseline_us })
    }

    /// Of everything that was counted on both sides.
    pub(super) fn numbers(&self, canary: &Counted, baseline: &Counted) -> Numbers {
        let evidence = self.bet.evidence();
        match self.what {
            What::Errors | What::ErrorsAtMost(_) => Numbers {
                canary: canary.requests,
                baseline: baseline.requests,
                quantiles: None,
                bounds: None,
                evidence,
            },
            What::Latency { quantile, .. } => {
                let (slow, other) = self.bet.tallies();
                let about = |counted: &Counted| counted.latency.quantile_about(quantile);
                Numbers {
                    canary: slow,
                    baseline: other,
                    quantiles: Some((about(canary), about(baseline))),
                    bounds: self.bounds(&baseline.latency),
                    evidence,
                }
            }
        }
    }
}
