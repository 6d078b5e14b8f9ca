//! From counters that grow to samples.

use super::at;
use crate::judge::{Counters, Gap, Latency};

fn read(second: i64, requests: f64, errors: f64, latency: &[(f64, f64)]) -> Counters {
    Counters { at: at(second), requests, errors, latency: latency.to_vec() }
}

#[test]
fn what_lies_between_two_answers_is_a_sample() {
    let inf = f64::INFINITY;
    let before = read(0, 100.0, 1.0, &[(0.1, 80.0), (0.5, 95.0), (inf, 100.0)]);
    let after = read(15, 160.0, 4.0, &[(inf, 160.0), (0.1, 120.0), (0.5, 150.0)]);
    let sample = after.since(&before).unwrap();
    assert_eq!((sample.from, sample.to), (at(0), at(15)));
    assert_eq!((sample.good, sample.bad), (57, 3));
    let latency = Latency::new([(Some(100_000), 40), (Some(500_000), 15), (None, 5)]);
    assert_eq!(sample.latency, latency);
}

#[test]
fn what_cannot_be_told_is_no_sample() {
    let buckets = [(0.1, 80.0), (f64::INFINITY, 100.0)];
    let before = read(0, 100.0, 1.0, &buckets);
    for (after, gap) in [
        (read(15, f64::NAN, 1.0, &buckets), Gap::NotANumber),
        (read(15, 110.0, f64::INFINITY, &buckets), Gap::NotANumber),
        (read(15, 10.0, 0.0, &buckets), Gap::CounterReset),
        (read(15, 110.0, 0.0, &buckets), Gap::CounterReset),
        (read(15, 110.0, 1.0, &[(0.1, 8.0), (f64::INFINITY, 10.0)]), Gap::CounterReset),
        (read(15, 110.0, 1.0, &[(0.2, 80.0), (f64::INFINITY, 100.0)]), Gap::CounterReset),
        (read(15, 110.0, 1.0, &[(f64::NAN, 80.0), (f64::INFINITY, 100.0)]), Gap::NotANumber),
    ] {
        assert_eq!(after.since(&before), Err(gap));
    }
}

#[test]
fn an_error_whose_request_is_not_counted_yet_is_no_more_than_all() {
    let sample = read(1, 1.0, 2.0, &[]).since(&read(0, 0.0, 0.0, &[])).unwrap();
    assert_eq!((sample.good, sample.bad), (0, 1));
}
