//! What is measured: counts of disjoint intervals, and why there are none.
//!
//! Invariant: a bucket knows both its ends, so that what lies above a bound is never guessed.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Counts of one interval on one side. Intervals of one source do not overlap; those of different hosts may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub from: Timestamp,
    pub to: Timestamp,
    pub good: u64,
    pub bad: u64,
    /// Of the answers, good and bad; empty where none is measured.
    pub latency: Latency,
}

impl Sample {
    /// How many requests it counts.
    pub fn requests(&self) -> u64 {
        self.good.saturating_add(self.bad)
    }
}

/// Why a source has no sample of an interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gap {
    /// The source did not answer, in its own words.
    NoAnswer(String),
    /// It answered with something that is no number.
    NotANumber,
    /// A counter went back: what it had counted is lost.
    CounterReset,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoAnswer(why) => write!(f, "the source does not answer ({why})"),
            Self::NotANumber => f.write_str("the source answers with no number"),
            Self::CounterReset => f.write_str("a counter was reset"),
        }
    }
}

/// How many answers took how long. Histograms with different bounds can be merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Sorted by where they end; without empty ones.
    buckets: Vec<Bucket>,
    /// The largest bound below the open end: nothing can be told apart above it.
    reach_us: u64,
}

/// Answers that took longer than `above_us` and at most `up_to_us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Bucket {
    above_us: u64,
    /// `u64::MAX`: open.
    up_to_us: u64,
    count: u64,
}

impl Latency {
    /// From upper bounds in microseconds, each with how many answers lie between it and the bound before; `None` is
    /// the open end. List empty buckets too: they say where the next one begins.
    pub fn new(buckets: impl IntoIterator<Item = (Option<u64>, u64)>) -> Self {
        let rows = buckets.into_iter().map(|(bound, count)| (bound.unwrap_or(u64::MAX), count));
        let mut rows: Vec<(u64, u64)> = rows.collect();
        rows.sort_unstable();
        let mut above_us = 0;
        let mut latency = Self::default();
        for (up_to_us, count) in rows {
            if up_to_us < u64::MAX {
                latency.reach_us = up_to_us;
            }
            if count > 0 {
                latency.add(Bucket { above_us, up_to_us, count });
            }
            above_us = up_to_us;
        }
        latency
    }

    /// How many buckets have answers: what it takes in memory.
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// How many answers it counts.
    pub fn total(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, bucket| sum.saturating_add(bucket.count))
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        self.reach_us = self.reach_us.max(other.reach_us);
        for bucket in &other.buckets {
            self.add(*bucket);
        }
    }

    fn add(&mut self, bucket: Bucket) {
        let key = |bucket: &Bucket| (bucket.up_to_us, bucket.above_us);
        match self.buckets.binary_search_by_key(&key(&bucket), key) {
            Ok(at) => {
                let known = &mut self.buckets[at];
                known.count = known.count.saturating_add(bucket.count);
            }
            Err(at) => self.buckets.insert(at, bucket),
        }
    }

    /// The largest bound: nothing above it can be told apart.
    pub fn reach_us(&self) -> u64 {
        self.reach_us
    }

    /// Forgets all counts.
    pub(super) fn clear(&mut self) {
        self.buckets.clear();
    }

    /// How many took longer than this for certain.
    pub fn surely_above(&self, us: u64) -> u64 {
        let above = self.buckets.iter().filter(|bucket| bucket.above_us >= us);
        above.map(|bucket| bucket.count).fold(0, u64::saturating_add)
    }

    /// How many may have taken longer than this.
    pub fn perhaps_above(&self, us: u64) -> u64 {
        let above = self.buckets.iter().filter(|bucket| bucket.up_to_us > us);
        above.map(|bucket| bucket.count).fold(0, u64::saturating_add)
    }

    /// The bucket bound that nearly this share of the answers stays below; `None` without answers, and where no bound
    /// is near: where more than three times as many lie above the last one.
    pub fn bound_near(&self, share: f64) -> Option<u64> {
        let total = self.total() as f64;
        let (mut sum, mut near) = (0.0, None::<(f64, u64)>);
        for bucket in self.buckets.iter().filter(|bucket| bucket.up_to_us < u64::MAX) {
            sum += bucket.count as f64;
            let below = sum / total;
            let off = (below - share).abs();
            let may = 1.0 - below <= 3.0 * (1.0 - share);
            if may && near.is_none_or(|(nearest, _)| off <= nearest) {
                near = Some((off, bucket.up_to_us));
            }
        }
        near.map(|(_, bound)| bound)
    }

    /// A latency within the bucket that a share of the answers stays below, as if those in a bucket lay evenly: a
    /// figure to show, never to decide by.
    pub fn quantile_about(&self, share: f64) -> Option<f64> {
        let needed = share * self.total() as f64;
        let mut sum = 0.0;
        for bucket in &self.buckets {
            let count = bucket.count as f64;
            if sum + count >= needed {
                let above = bucket.above_us as f64;
                if bucket.up_to_us == u64::MAX {
                    return Some(above);
                }
                return Some(above + (bucket.up_to_us as f64 - above) * (needed - sum) / count);
            }
            sum += count;
        }
        None
    }
}
