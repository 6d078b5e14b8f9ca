//! What the judge says, and how often it is wrong.

mod counters;
mod holds;
mod level;
mod rulings;
mod words;

use super::{Analysis, Judge, Latency, Measure, Ruling, Sample, Side, Verdict};
use crate::time::Timestamp;

/// 16:00:00 UTC of some day.
const BEGIN_MS: i64 = 1_700_056_800_000 + 7_200_000;

fn at(second: i64) -> Timestamp {
    Timestamp(BEGIN_MS + second * 1000)
}

/// Counts of the second that ends then, without latencies.
fn counts(second: i64, good: u64, bad: u64) -> Sample {
    let latency = Latency::default();
    Sample { from: at(second - 1), to: at(second), good, bad, latency }
}

fn only_errors() -> Analysis {
    Analysis { compare: vec![Measure::Errors], ..Analysis::default() }
}

/// A judge that has seen some seconds of both sides, and what it says then.
fn after(analysis: &Analysis, seconds: i64, canary: (u64, u64), baseline: (u64, u64)) -> Judge {
    let mut judge = Judge::new(analysis, at(0));
    for second in 1..=seconds {
        judge.take(Side::Canary, &counts(second, canary.0, canary.1));
        judge.take(Side::Baseline, &counts(second, baseline.0, baseline.1));
    }
    judge
}

fn verdict(ruling: &Ruling) -> (Verdict, &str) {
    (ruling.verdict, ruling.sentence.as_str())
}

/// A generator with a seed (splitmix64).
struct Draws(u64);

impl Draws {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// How many of so many happen, each with this chance.
    fn of(&mut self, all: u64, chance: f64) -> u64 {
        (0..all).map(|_| u64::from(self.unit() < chance)).sum()
    }
}
