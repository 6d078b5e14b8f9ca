//! How long answers took: counts between fixed bounds, eight to each doubling.
//!
//! Invariant: a longer time is never in a lower bucket; what is longer than all bounds is counted beyond them.

use std::time::Duration;

/// The bounds of one doubling, in microseconds: each is 2^⅛ times the one before.
const FIRST_US: [u64; 8] = [250, 273, 297, 324, 354, 386, 420, 459];
/// 0.25 ms to a minute.
pub const BOUNDS: usize = FIRST_US.len() * 18;

/// The upper bound of a bucket; none beyond the last.
pub fn bound_us(bucket: usize) -> Option<u64> {
    (bucket < BOUNDS).then(|| FIRST_US[bucket % FIRST_US.len()] << (bucket / FIRST_US.len()))
}

/// Counts by bucket.
#[derive(Clone, Debug)]
pub(super) struct Latency([u64; BOUNDS + 1]);

impl Latency {
    pub(super) fn new() -> Self {
        Self([0; BOUNDS + 1])
    }

    pub(super) fn add(&mut self, took: Duration) {
        let us = u64::try_from(took.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let (mut low, mut high) = (0, BOUNDS);
        while low < high {
            let middle = (low + high) / 2;
            if bound_us(middle).is_some_and(|bound| us <= bound) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        self.0[low] += 1;
    }

    /// What is not empty, each with the bound that it begins at before it.
    pub(super) fn rows(&self) -> Vec<(Option<u64>, u64)> {
        let mut rows = Vec::new();
        let mut listed = None;
        for (bucket, count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            let before = bucket.checked_sub(1);
            if before != listed {
                rows.extend(before.map(|before| (bound_us(before), 0)));
            }
            rows.push((bound_us(bucket), *count));
            listed = Some(bucket);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(us: &[u64]) -> Vec<(Option<u64>, u64)> {
        let mut latency = Latency::new();
        us.iter().for_each(|us| latency.add(Duration::from_micros(*us)));
        latency.rows()
    }

    #[test]
    fn eight_bounds_to_each_doubling_from_a_quarter_of_a_millisecond_to_a_minute() {
        let bounds: Vec<u64> = (0..BOUNDS).map(|bucket| bound_us(bucket).unwrap()).collect();
        assert_eq!((bounds[0], bound_us(BOUNDS)), (250, None));
        assert!(*bounds.last().unwrap() >= 60_000_000 && bounds[BOUNDS - 2] < 60_000_000);
        for two in bounds.windows(2) {
            let ratio = two[1] as f64 / two[0] as f64;
            assert!((1.085..1.10).contains(&ratio), "{two:?}");
        }
    }

    #[test]
    fn a_time_is_between_its_bounds() {
        assert_eq!(rows(&[0, 1, 250]), [(Some(250), 3)]);
        assert_eq!(rows(&[251]), [(Some(250), 0), (Some(273), 1)]);
        assert_eq!(rows(&[250, 251, 274]), [(Some(250), 1), (Some(273), 1), (Some(297), 1)]);
        assert_eq!(rows(&[100, 500]), [(Some(250), 1), (Some(459), 0), (Some(500), 1)]);
        let last = bound_us(BOUNDS - 1);
        assert_eq!(rows(&[70_000_000, u64::MAX]), [(last, 0), (None, 2)]);
        // Part of a microsecond above a bound is above it.
        let mut latency = Latency::new();
        latency.add(Duration::from_nanos(250_001));
        assert_eq!(latency.rows()[1], (Some(273), 1));
    }
}
