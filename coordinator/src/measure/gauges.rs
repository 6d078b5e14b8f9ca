//! What apps say of themselves on the two sides of a canary, next to each other.
//!
//! ```text
//! Samples: newest by host ─ of this weight, and fresh ─▶ by check and pointer: lowest, median, highest of a side ─▶ status
//! ```
//!
//! An app reckons such a number over a time that it alone knows, so it is shown to people, and the judge never gets it.
//!
//! Invariant: a side of which nothing fresh is known has no numbers; what was said at another weight is none of it.

use std::collections::BTreeMap;

use engine::{ComponentName, HostName, Timestamp, judge::Side};

use super::{GaugeNow, Samples};

/// Whom a canary is compared with, since when, and how old what is shown may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    pub canary: Vec<HostName>,
    pub baseline: Vec<HostName>,
    /// When the weight was set.
    pub since: Timestamp,
    pub stale_after_ms: u64,
}

/// One number of the app's own, on both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Gauges {
    pub component: ComponentName,
    pub check: String,
    /// Where in the answer: a JSON pointer.
    pub pointer: String,
    /// None where no host of the side has said it of late.
    pub canary: Option<SideSays>,
    pub baseline: Option<SideSays>,
    /// The tightest of the hosts' bounds.
    pub at_most: Option<f64>,
    pub at_least: Option<f64>,
}

/// What the hosts of one side say, each its newest.
#[derive(Clone, Debug, PartialEq)]
pub struct SideSays {
    pub lowest: f64,
    pub median: f64,
    pub highest: f64,
    /// Hosts that have said it of late, and how many the side has.
    pub hosts: usize,
    pub of_hosts: usize,
    /// When the oldest of these numbers came.
    pub oldest: Timestamp,
}

impl Compared {
    /// What both sides say, by component, check and pointer. `now` gives the time once all is read.
    pub fn gauges(&self, samples: &Samples, now: impl FnOnce() -> Timestamp) -> Vec<Gauges> {
        let sides = [Side::Canary, Side::Baseline];
        let rows = sides.map(|side| (side, samples.gauges(self.hosts(side))));
        let now = now();
        let mut said: BTreeMap<_, (Vec<GaugeNow>, Vec<GaugeNow>)> = BTreeMap::new();
        for (side, rows) in rows {
            for row in rows.into_iter().filter(|row| self.is_current(row, now)) {
                let key = (row.component.clone(), row.check.clone(), row.gauge.pointer.clone());
                let both = said.entry(key).or_default();
                match side {
                    Side::Canary => both.0.push(row),
                    Side::Baseline => both.1.push(row),
                }
            }
        }
        let gauges = said.into_iter().map(|((component, check, pointer), (canary, baseline))| {
            let all = || canary.iter().chain(&baseline).map(|row| &row.gauge);
            Gauges {
                component,
                check,
                pointer,
                at_most: all().filter_map(|gauge| gauge.at_most).reduce(f64::min),
                at_least: all().filter_map(|gauge| gauge.at_least).reduce(f64::max),
                canary: SideSays::of(&canary, self.canary.len()),
                baseline: SideSays::of(&baseline, self.baseline.len()),
            }
        });
        gauges.collect()
    }

    fn hosts(&self, side: Side) -> &[HostName] {
        match side {
            Side::Canary => &self.canary,
            Side::Baseline => &self.baseline,
        }
    }

    /// One of before the weight may be of another release; one of the future is of before our clock was set back.
    fn is_current(&self, row: &GaugeNow, now: Timestamp) -> bool {
        let age = u64::try_from(now.0.saturating_sub(row.to.0));
        row.from >= self.since && age.is_ok_and(|age| age <= self.stale_after_ms)
    }
}

impl SideSays {
    fn of(rows: &[GaugeNow], of_hosts: usize) -> Option<Self> {
        let mut values: Vec<f64> = rows.iter().map(|row| row.gauge.value).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let (lowest, highest) = (*values.first()?, *values.last()?);
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        let oldest = rows.iter().map(|row| row.to).min()?;
        Some(Self { lowest, median, highest, hosts: rows.len(), of_hosts, oldest })
    }
}

#[cfg(test)]
mod tests {
    use engine::judge::Sample;

    use super::*;
    use crate::measure::{Gauge, Told};

    const SET: i64 = 10_000;

    fn host(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    /// A canary `c`, and `a`, `b` and `d`, at a weight that was set at second 10.
    fn compared() -> Compared {
        Compared {
            canary: vec![host("c")],
            baseline: ["a", "b", "d"].map(host).into(),
            since: Timestamp(SET),
            stale_after_ms: 30_000,
        }
    }

    /// At this time, in an interval of a second.
    fn says(samples: &Samples, name: &str, at: i64, value: f64, at_most: f64) {
        let (from, to) = (Timestamp(at - 1000), Timestamp(at));
        let gauge = Gauge {
            pointer: "/errorRate".to_owned(),
            value,
            at_most: Some(at_most),
            at_least: None,
        };
        let told = Told {
            component: ComponentName::new("crm").unwrap(),
            check: "health".to_owned(),
            sample: Sample { from, to, good: 1, ..Sample::default() },
            gauges: vec![gauge],
        };
        samples.take(&host(name), told);
    }

    fn seen(samples: &Samples, now: i64) -> Vec<Gauges> {
        compared().gauges(samples, || Timestamp(now))
    }

    #[test]
    fn both_sides_stand_next_to_each_other() {
        let samples = Samples::default();
        says(&samples, "c", 12_000, 0.25, 0.05);
        says(&samples, "a", 12_000, 0.01, 0.05);
        says(&samples, "b", 12_500, 0.0, 0.02);
        says(&samples, "elsewhere", 12_000, 0.9, 0.01);
        let [row] = &seen(&samples, 13_000)[..] else { panic!() };
        assert_eq!(
            (row.component.as_str(), row.check.as_str(), row.pointer.as_str()),
            ("crm", "health", "/errorRate")
        );
        assert_eq!((row.at_most, row.at_least), (Some(0.02), None), "the tightest");
        let canary = row.canary.as_ref().unwrap();
        assert_eq!((canary.lowest, canary.median, canary.highest), (0.25, 0.25, 0.25));
        assert_eq!((canary.hosts, canary.of_hosts), (1, 1));
        let rest = row.baseline.as_ref().unwrap();
        assert_eq!((rest.lowest, rest.median, rest.highest), (0.0, 0.005, 0.01));
        assert_eq!((rest.hosts, rest.of_hosts, rest.oldest), (2, 3, Timestamp(12_000)));
        // The middle one of three.
        says(&samples, "d", 13_000, 0.008, 0.05);
        assert_eq!(seen(&samples, 13_000)[0].baseline.as_ref().unwrap().median, 0.008);
    }

    #[test]
    fn what_is_old_or_of_another_weight_is_not_shown_as_current() {
        let samples = Samples::default();
        // Of the release before, as likely as not: the interval began before the weight was set.
        says(&samples, "c", SET + 999, 0.9, 0.05);
        says(&samples, "a", SET + 1000, 0.1, 0.05);
        let [row] = &seen(&samples, SET + 1000)[..] else { panic!() };
        assert_eq!(row.canary, None);
        assert_eq!(row.baseline.as_ref().unwrap().highest, 0.1);
        assert_eq!(seen(&samples, SET + 31_000).len(), 1, "just fresh");
        assert_eq!(seen(&samples, SET + 31_001), [], "stale");
        assert_eq!(seen(&samples, SET + 999), [], "our clock was set back");
    }
}
