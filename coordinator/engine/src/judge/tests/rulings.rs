//! Pass and fail, with their sentences.

use super::{
    Analysis, Draws, Judge, Latency, Measure, Sample, Side, Verdict, after, at, counts,
    only_errors, verdict,
};
use crate::judge::{Gap, Ruling};

fn fails_within(
    analysis: &Analysis,
    seconds: i64,
    canary: (u64, u64),
    baseline: (u64, u64),
) -> Ruling {
    let mut judge = Judge::new(analysis, at(0));
    for second in 1..=seconds {
        judge.take(Side::Baseline, &counts(second, baseline.0, baseline.1));
        judge.take(Side::Canary, &counts(second, canary.0, canary.1));
        let ruling = judge.ruling(at(second));
        if ruling.verdict == Verdict::Fail {
            return ruling;
        }
    }
    panic!("it did not fail: {}", judge.ruling(at(seconds)).sentence);
}

#[test]
fn a_good_canary_passes_with_its_numbers() {
    let judge = after(&only_errors(), 60, (10, 0), (190, 1));
    assert_eq!(
        verdict(&judge.ruling(at(60))),
        (Verdict::Pass, "errors: canary 0 % (0 of 600), baseline 0.52 % (60 of 11,460): no worse")
    );
}

#[test]
fn a_canary_that_only_fails_is_seen_within_two_seconds() {
    let ruling = fails_within(&Analysis::default(), 2, (0, 5), (95, 0));
    assert_eq!(
        ruling.sentence,
        "errors: canary 100 % (5 of 5), baseline 0 % (0 of 95): worse beyond doubt (less than 1 in 1,000,000 \
         by chance; limit 1 in 200)"
    );
    let figure = &ruling.numbers[0];
    assert_eq!(
        (figure.name.as_str(), figure.canary, figure.baseline),
        ("errors", Some(1.0), Some(0.0))
    );
    assert_eq!((figure.canary_requests, figure.baseline_requests), (5, 95));
    assert!(figure.evidence >= figure.limit);
}

#[test]
fn what_was_proven_stays_proven() {
    let mut judge = after(&only_errors(), 5, (0, 5), (95, 0));
    let first = judge.ruling(at(5));
    assert_eq!(first.verdict, Verdict::Fail);
    for second in 6..=300 {
        judge.take(Side::Canary, &counts(second, 5, 0));
        judge.take(Side::Baseline, &counts(second, 95, 95));
    }
    judge.missed(Side::Canary, at(301), Gap::CounterReset);
    let later = judge.ruling(at(400));
    assert_eq!(verdict(&later), verdict(&first));
}

#[test]
fn a_baseline_that_is_as_bad_fails_nobody() {
    let bound = Analysis { errors_at_most: Some(0.05), ..only_errors() };
    for analysis in [only_errors(), bound] {
        let judge = after(&analysis, 120, (5, 5), (90, 90));
        let ruling = judge.ruling(at(120));
        assert_eq!(ruling.verdict, Verdict::Hold);
        assert!(ruling.sentence.contains("not this release alone"), "{}", ruling.sentence);
        assert_eq!(judge.counted(Side::Baseline), (10_800, 21_600));
    }
}

#[test]
fn a_bound_fails_what_is_above_it() {
    let bound = Analysis { compare: vec![], errors_at_most: Some(0.05), ..Analysis::default() };
    let ruling = fails_within(&bound, 60, (7, 3), (100, 0));
    assert!(
        ruling.sentence.starts_with("errors at most 5 %: canary 30 % ("),
        "{}",
        ruling.sentence
    );
    assert!(ruling.sentence.contains("above it beyond doubt"), "{}", ruling.sentence);
    // Without a baseline too, once it is clear that there is none.
    let mut judge = Judge::new(&bound, at(0));
    for second in 1..=60 {
        judge.take(Side::Canary, &counts(second, 7, 3));
    }
    assert_eq!(judge.ruling(at(60)).verdict, Verdict::Fail);
}

#[test]
fn a_difference_that_nobody_would_notice_passes_however_certain() {
    // A tenth of the margin worse, on a million requests a second.
    let judge = after(&only_errors(), 60, (994_900, 5_100), (995_000, 5_000));
    assert_eq!(judge.ruling(at(60)).verdict, Verdict::Pass);
    let judge = after(&only_errors(), 60, (993_000, 7_000), (995_000, 5_000));
    assert_eq!(judge.ruling(at(60)).verdict, Verdict::Fail);
}

#[test]
fn sides_may_come_in_any_order_and_in_unequal_intervals() {
    let mut judge = Judge::new(&only_errors(), at(0));
    for second in 1..=30 {
        judge.take(Side::Canary, &counts(second, 4, 1));
        if second % 15 == 0 {
            let from = at(second - 15);
            judge.take(Side::Baseline, &Sample { from, ..counts(second, 1_420, 7) });
        }
    }
    assert_eq!(judge.ruling(at(30)).verdict, Verdict::Fail);
    // Two hosts on each side, the older sample last.
    let mut judge = Judge::new(&only_errors(), at(0));
    for second in 1..=30 {
        for (side, sample) in [
            (Side::Baseline, counts(second, 40, 0)),
            (Side::Canary, counts(second + 1, 3, 1)),
            (Side::Canary, counts(second, 3, 1)),
            (Side::Baseline, counts(second + 1, 40, 1)),
        ] {
            judge.take(side, &sample);
        }
    }
    assert_eq!(judge.ruling(at(31)).verdict, Verdict::Fail);
    assert_eq!(judge.counted(Side::Canary), (60, 240));
}

#[test]
fn counts_without_a_counterpart_in_time_are_not_compared() {
    let mut judge = Judge::new(&only_errors(), at(0));
    // The canary fails while nothing is known of the baseline; when the baseline is back, so is the canary.
    for second in 1..=60 {
        judge.take(Side::Canary, &counts(second, 0, 5));
    }
    for second in 61..=120 {
        judge.take(Side::Canary, &counts(second, 5, 0));
        judge.take(Side::Baseline, &counts(second, 95, 0));
    }
    let ruling = judge.ruling(at(120));
    assert_ne!(ruling.verdict, Verdict::Fail, "{}", ruling.sentence);
}

/// Answer times of a side: so many of each of the buckets.
fn timed(second: i64, rows: &[(u64, u64)]) -> Sample {
    let latency = Latency::new(rows.iter().map(|(ms, count)| (Some(ms * 1000), *count)));
    let all = latency.total();
    Sample { latency, ..counts(second, all, 0) }
}

#[test]
fn a_slow_canary_fails_and_one_within_the_ratio_does_not() {
    let p95 = Analysis { compare: vec![Measure::P95], ..Analysis::default() };
    let mut draws = Draws(3);
    let mut run = |canary: fn(u64) -> [u64; 4]| {
        let mut judge = Judge::new(&p95, at(0));
        for second in 1..=60 {
            let bounds = [50, 100, 150, 600].into_iter();
            let rows: Vec<_> = bounds.zip(canary(draws.of(10, 0.05))).collect();
            judge.take(Side::Canary, &timed(second, &rows));
            judge.take(Side::Baseline, &timed(second, &[(50, 90), (100, 8), (150, 2)]));
        }
        judge.ruling(at(60))
    };
    assert_eq!(run(|tail| [10 - tail, 0, tail, 0]).verdict, Verdict::Pass);
    let slow = run(|tail| [5, 0, 0, 5 + tail]);
    assert_eq!(slow.verdict, Verdict::Fail);
    assert!(slow.sentence.starts_with("p95: canary "), "{}", slow.sentence);
    assert!(slow.sentence.contains("bound 150 ms"), "{}", slow.sentence);
    assert_eq!(slow.numbers[0].bound, Some(150.0));
}

#[test]
fn noise_in_the_low_milliseconds_says_nothing() {
    let p95 = Analysis { compare: vec![Measure::P95], ..Analysis::default() };
    let mut judge = Judge::new(&p95, at(0));
    for second in 1..=60 {
        judge.take(Side::Canary, &timed(second, &[(1, 0), (4, 0), (8, 10), (20, 0)]));
        judge.take(Side::Baseline, &timed(second, &[(1, 100), (4, 0), (8, 0), (20, 0)]));
    }
    assert_eq!(judge.ruling(at(60)).verdict, Verdict::Pass);
}

#[test]
fn a_bucket_that_straddles_the_bound_counts_for_the_canary() {
    let wide = Latency::new([(Some(100_000), 90), (Some(200_000), 10)]);
    let fine = Latency::new([(Some(100_000), 0), (Some(150_000), 0), (Some(200_000), 10)]);
    assert_eq!((wide.surely_above(150_000), wide.perhaps_above(150_000)), (0, 10));
    let mut both = wide.clone();
    both.merge(&fine);
    assert_eq!((both.surely_above(150_000), both.perhaps_above(150_000)), (10, 20));
    assert_eq!(both.total(), 110);
    let mut other = fine;
    other.merge(&wide);
    assert_eq!(both, other);
}
