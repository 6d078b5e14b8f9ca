//! Why neither pass nor fail can be said.
//!
//! Invariant: each reason says what is missing, of which side, and since when.

use super::{
    BAD_FOR_ANYBODY, DOUBT, Judge, Seen,
    analysis::Side,
    check::{Check, Numbers, What},
    later,
    words::{ago, chance, clock, count, latency, percent},
};
use crate::time::Timestamp;

impl Judge {
    /// The gravest reasons to hold; `None` where nothing speaks against a pass.
    pub(super) fn holds(&self, now: Timestamp, numbers: &[Numbers]) -> Option<String> {
        let mut sides = vec![(Side::Canary, &self.canary)];
        if self.compares {
            sides.push((Side::Baseline, &self.baseline));
        }
        let silent = sides.iter().filter_map(|(side, seen)| self.silent(*side, seen, now));
        join(silent)
            .or_else(|| self.too_few(&sides, now))
            .or_else(|| join(self.checks.iter().filter_map(|check| self.unmeasured(check))))
            .or_else(|| self.bad_for_anybody())
            .or_else(|| {
                let rows = self.checks.iter().zip(numbers);
                join(rows.filter_map(|(check, numbers)| doubtful(check, numbers)))
            })
    }

    fn silent(&self, side: Side, seen: &Seen, now: Timestamp) -> Option<String> {
        let side = side.name();
        let when = |since| format!("since {} ({})", clock(since), ago(later(now, since)));
        if let Some((since, gap)) = &seen.gap {
            return Some(format!("{side}: {gap}, {}", when(*since)));
        }
        let stale = |newest| later(now, newest) > self.stale_after_ms;
        let ahead = |newest| later(newest, now) > self.stale_after_ms;
        match (seen.newest, seen.newest_request) {
            (Some(newest), _) if ahead(newest) => {
                let (newest, now) = (clock(newest), clock(now));
                Some(format!(
                    "{side}: the newest sample is of {newest}, and it is {now}: the clock went back"
                ))
            }
            (None, _) => Some(format!("{side}: no sample yet, {}", when(self.since))),
            (Some(newest), _) if stale(newest) => {
                Some(format!("{side}: no sample {}", when(newest)))
            }
            (Some(_), None) => Some(format!("{side}: no request yet, {}", when(self.since))),
            (Some(_), Some(request)) if later(now, request) > self.quiet_ms() => {
                Some(format!("{side}: no request {}", when(request)))
            }
            (Some(_), Some(_)) => None,
        }
    }

    fn too_few(&self, sides: &[(Side, &Seen)], now: Timestamp) -> Option<String> {
        let requests = |seen: &Seen| seen.total.requests.all;
        sides.iter().any(|(_, seen)| requests(seen) < self.min_requests).then(|| {
            let each = sides.iter();
            let each =
                each.map(|(side, seen)| format!("{} {}", side.name(), count(requests(seen))));
            let each: Vec<_> = each.collect();
            let (since, least) = (clock(self.since), count(self.min_requests));
            let passed = ago(later(now, self.since));
            let each = each.join(", ");
            format!("too few requests: {each} since {since} ({passed}); {least} are enough")
        })
    }

    /// Why a latency check has nothing to compare.
    fn unmeasured(&self, check: &Check) -> Option<String> {
        let What::Latency { quantile, ratio, .. } = check.what else { return None };
        let name = check.what.name();
        let (canary, baseline) = (&self.canary.total.latency, &self.baseline.total.latency);
        let since = clock(self.since);
        for (side, latency) in [(Side::Canary, canary), (Side::Baseline, baseline)] {
            if latency.total() == 0 {
                let side = side.name();
                return Some(format!("{name}: no latency is measured on the {side} since {since}"));
            }
        }
        let Some(bounds) = check.bounds(baseline) else {
            return Some(match baseline.bound_near(quantile) {
                Some(_) => format!(
                    "{name}: {} answers of the baseline since {since} are too few to find it",
                    count(baseline.total())
                ),
                None => format!(
                    "{name}: the baseline's is above the last of its bucket bounds, {}, since {since}",
                    latency(baseline.reach_us() as f64)
                ),
            });
        };
        (bounds.canary_us > canary.reach_us()).then(|| {
            let (most, reach) = (bounds.canary_us as f64, canary.reach_us() as f64);
            let (most, reach) = (latency(most), latency(reach));
            format!(
                "{name}: the canary may have {most} ({ratio} times the baseline's bucket); its \
                 buckets end at {reach}, so that more cannot be told"
            )
        })
    }

    fn bad_for_anybody(&self) -> Option<String> {
        let most = self.errors_at_most.unwrap_or(BAD_FOR_ANYBODY);
        let canary = self.canary.late_share().filter(|share| *share > most)?;
        let baseline = self.baseline.late_share();
        let both = match baseline {
            Some(baseline) if baseline > most => {
                format!(
                    " and {} of the baseline's: it is not this release alone",
                    percent(baseline)
                )
            }
            Some(baseline) => format!(", {} of the baseline's", percent(baseline)),
            None => String::new(),
        };
        let (canary, most) = (percent(canary), percent(most));
        Some(format!(
            "errors: of late {canary} of the canary's requests failed{both}; no pass above {most}"
        ))
    }
}

fn doubtful(check: &Check, numbers: &Numbers) -> Option<String> {
    (numbers.evidence >= DOUBT).then(|| {
        let compared = super::words::compared(check.what, numbers);
        let (chance, limit) = (chance(numbers.evidence), chance(check.limit));
        format!("{compared}: looks worse, not beyond doubt ({chance} by chance; limit {limit})")
    })
}

fn join(reasons: impl Iterator<Item = String>) -> Option<String> {
    let reasons: Vec<String> = reasons.collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}
