//! The judge: is the canary worse than the baseline?
//!
//! ```text
//! samples of both sides ─▶ blocks ─▶ checks (errors, quantiles, bound) ─▶ ruling: pass, fail or hold
//!                          what both  each bets that the canary is no worse;
//!                          counted    what the bet wins is the evidence
//!                          meanwhile
//! ```
//!
//! It can be asked at every moment, and its error level holds over all of them: see `bet` for the method and its
//! sources, `check` for what is compared, and `deploy/judge.md` for how to read it.
//!
//! Invariant: no clock. Times are arguments; one that jumps makes the judge hold, and proves nothing.
//! Invariant: only "the canary is worse" fails; missing, stale or few samples hold.
//! Invariant: a fail that was proven stays one.
//! Invariant: counts that have no counterpart in time are not compared.

mod analysis;
mod bet;
mod check;
mod counters;
mod holds;
mod ruling;
mod sample;
#[cfg(test)]
mod tests;
mod words;

pub use analysis::{Analysis, AnalysisError, Measure, Side};
pub use counters::Counters;
pub use ruling::{Figure, Ruling, Verdict};
pub use sample::{Gap, Latency, Sample};
pub(crate) use words::{ago, clock, count, percent};

use self::{
    bet::Tally,
    check::{Check, Counted, What},
};
use crate::time::Timestamp;

/// A side that gets no request for less than this is only quiet, and what the other side counted meanwhile waits to be
/// compared.
const QUIET_MS: u64 = 30_000;

/// Evidence from which on a canary is doubtful: it does not fail, but it does not pass.
const DOUBT: f64 = 10.0;

/// Where this share of the canary's newest requests fail, it does not pass, whatever the baseline does. A bound of the
/// analysis takes its place.
const BAD_FOR_ANYBODY: f64 = 0.10;

/// For about so long a request is new.
const NEW_MS: f64 = 30_000.0;

/// Fewer new requests than this say nothing of their share.
const NEW_AT_LEAST: f64 = 20.0;

/// See the module. One judge serves one weight step.
#[derive(Clone, Debug)]
pub struct Judge {
    since: Timestamp,
    min_requests: u64,
    stale_after_ms: u64,
    errors_at_most: Option<f64>,
    /// Whether anything needs the baseline.
    compares: bool,
    canary: Seen,
    baseline: Seen,
    checks: Vec<Check>,
}

/// What is known of one side.
#[derive(Clone, Debug)]
struct Seen {
    /// Everything; of latencies, what was compared.
    total: Counted,
    /// Not yet compared, for want of the other side's.
    pending: Counted,
    /// The end of the newest sample, and of the newest with a request in it.
    newest: Option<Timestamp>,
    newest_request: Option<Timestamp>,
    /// Since when there is none, and why.
    gap: Option<(Timestamp, Gap)>,
    /// Bad and all requests of late.
    late: (f64, f64),
}

impl Seen {
    fn new() -> Self {
        let nothing = Counted::default();
        let (newest, newest_request, gap) = (None, None, None);
        Self {
            total: nothing.clone(),
            pending: nothing,
            newest,
            newest_request,
            gap,
            late: (0.0, 0.0),
        }
    }

    fn take(&mut self, sample: &Sample) {
        let requests = Tally { bad: sample.bad, all: sample.requests() };
        self.total.requests.add(requests);
        self.pending.add(requests, &sample.latency);
        let passed = self.newest.map_or(0, |newest| later(sample.to, newest));
        let kept = (-(passed as f64) / NEW_MS).exp();
        self.late.0 = self.late.0 * kept + requests.bad as f64;
        self.late.1 = self.late.1 * kept + requests.all as f64;
        self.newest = self.newest.max(Some(sample.to));
        if requests.all > 0 {
            self.newest_request = self.newest_request.max(Some(sample.to));
        }
        if self.gap.as_ref().is_some_and(|(since, _)| sample.to >= *since) {
            self.gap = None;
        }
    }

    fn compared(&mut self) {
        self.total.latency.merge(&self.pending.latency);
        self.pending.clear();
    }

    fn late_share(&self) -> Option<f64> {
        (self.late.1 >= NEW_AT_LEAST).then(|| self.late.0 / self.late.1)
    }
}

/// Milliseconds from one to the other; 0 if it is not later.
fn later(time: Timestamp, than: Timestamp) -> u64 {
    u64::try_from(time.0.saturating_sub(than.0)).unwrap_or(0)
}

impl Judge {
    /// Judges what is measured from `since` on: when the weight was set.
    pub fn new(analysis: &Analysis, since: Timestamp) -> Self {
        let mut measures = analysis.compare.clone();
        measures.sort_unstable();
        measures.dedup();
        let compared = measures.iter().map(|measure| What::of(*measure, analysis.latency_ratio));
        let bound = analysis.errors_at_most.map(What::ErrorsAtMost);
        let whats: Vec<What> = compared.chain(bound).collect();
        // Any of the checks may be the one that is wrong: each gets its part of the allowed chance.
        let limit = whats.len() as f64 / analysis.false_alarm;
        Self {
            since,
            min_requests: analysis.min_requests,
            stale_after_ms: analysis.stale_after_ms,
            errors_at_most: analysis.errors_at_most,
            compares: !measures.is_empty(),
            canary: Seen::new(),
            baseline: Seen::new(),
            checks: whats.into_iter().map(|what| Check::new(what, limit)).collect(),
        }
    }

    /// Takes the counts of one interval. Those of an interval that began before the step are left out: they are of
    /// another weight. Sides and hosts may come in any order; where the hosts of a side are summed up first, a little
    /// less is needed to see the same.
    pub fn take(&mut self, side: Side, sample: &Sample) {
        if sample.from < self.since {
            return;
        }
        let at = sample.to;
        let (own, other) = match side {
            Side::Canary => (&mut self.canary, &self.baseline),
            Side::Baseline => (&mut self.baseline, &self.canary),
        };
        own.take(sample);
        let silent = later(at, other.newest_request.unwrap_or(self.since)) > self.quiet_ms();
        let both = self.canary.pending.requests.all > 0 && self.baseline.pending.requests.all > 0;
        if both || silent {
            self.compare(at);
        }
    }

    /// Notes that a source has no sample that would end at `at`. The next sample of the side ends it.
    pub fn missed(&mut self, side: Side, at: Timestamp, why: Gap) {
        let seen = match side {
            Side::Canary => &mut self.canary,
            Side::Baseline => &mut self.baseline,
        };
        let since = seen.gap.as_ref().map_or(at, |(since, _)| *since);
        seen.gap = Some((since, why));
    }

    /// The bad and all requests of a side since the step began.
    pub fn counted(&self, side: Side) -> (u64, u64) {
        let requests = match side {
            Side::Canary => self.canary.total.requests,
            Side::Baseline => self.baseline.total.requests,
        };
        (requests.bad, requests.all)
    }

    /// What can be said now.
    pub fn ruling(&self, now: Timestamp) -> Ruling {
        let (canary, baseline) = (&self.canary.total, &self.baseline.total);
        let numbers = self.checks.iter().map(|check| check.numbers(canary, baseline));
        let numbers: Vec<_> = numbers.collect();
        let rows = self.checks.iter().zip(&numbers);
        let figures = rows.map(|(check, numbers)| words::figure(check, numbers)).collect();
        let proven = self.checks.iter().filter_map(words::worse);
        let proven: Vec<String> = proven.collect();
        let (verdict, sentence) = if !proven.is_empty() {
            (Verdict::Fail, proven.join("; "))
        } else if let Some(sentence) = self.holds(now, &numbers) {
            (Verdict::Hold, sentence)
        } else {
            let rows = self.checks.iter().zip(&numbers);
            let rows: Vec<_> = rows.map(|(check, row)| words::no_worse(check, row)).collect();
            (Verdict::Pass, rows.join("; "))
        };
        Ruling { verdict, sentence, numbers: figures, at: now }
    }

    /// For how long a side may have no request.
    fn quiet_ms(&self) -> u64 {
        self.stale_after_ms.max(QUIET_MS)
    }

    /// Everything that both sides have pending is one block.
    fn compare(&mut self, at: Timestamp) {
        let (canary, baseline) = (&self.canary, &self.baseline);
        for check in &mut self.checks {
            let age_ms = later(at, self.since);
            check.block(age_ms, &canary.pending, &baseline.pending, &baseline.total.latency);
        }
        self.canary.compared();
        self.baseline.compared();
        for check in &mut self.checks {
            check.prove(&self.canary.total, &self.baseline.total);
        }
    }
}
