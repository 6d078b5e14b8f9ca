//! When neither pass nor fail can be said, and what is said then.

use super::{
    Analysis, Judge, Latency, Measure, Sample, Side, Verdict, after, at, counts, only_errors,
};
use crate::judge::Gap;

/// Good on both sides; latencies as the row says.
fn good(second: i64, requests: u64, rows: &[(Option<u64>, u64)]) -> Sample {
    Sample { latency: Latency::new(rows.iter().copied()), ..counts(second, requests, 0) }
}

#[test]
fn each_reason_is_named_with_its_side_and_since_when() {
    let fine = || after(&only_errors(), 30, (10, 0), (100, 0));
    let cases: [(&str, Judge, i64, &str); 10] = [
        (
            "nothing yet",
            Judge::new(&only_errors(), at(0)),
            12,
            "canary: no sample yet, since 16:00:00 UTC (12 s); \
             baseline: no sample yet, since 16:00:00 UTC (12 s)",
        ),
        (
            "stale",
            fine(),
            45,
            "canary: no sample since 16:00:30 UTC (15 s); \
             baseline: no sample since 16:00:30 UTC (15 s)",
        ),
        (
            "a clock that went back",
            fine(),
            -3570,
            "canary: the newest sample is of 16:00:30 UTC, and it is 15:00:30 UTC: the clock went back; \
             baseline: the newest sample is of 16:00:30 UTC, and it is 15:00:30 UTC: the clock went back",
        ),
        (
            "no answer",
            {
                let mut judge = fine();
                for second in [31, 32, 33] {
                    let why = Gap::NoAnswer("connection refused".to_owned());
                    judge.missed(Side::Baseline, at(second), why);
                }
                judge
            },
            33,
            "baseline: the source does not answer (connection refused), since 16:00:31 UTC (2 s)",
        ),
        (
            "no number",
            {
                let mut judge = fine();
                judge.missed(Side::Canary, at(31), Gap::NotANumber);
                judge
            },
            31,
            "canary: the source answers with no number, since 16:00:31 UTC (0 s)",
        ),
        (
            "reset",
            {
                let mut judge = fine();
                judge.missed(Side::Canary, at(31), Gap::CounterReset);
                judge
            },
            31,
            "canary: a counter was reset, since 16:00:31 UTC (0 s)",
        ),
        (
            "a canary without traffic",
            after(&only_errors(), 40, (0, 0), (100, 0)),
            40,
            "canary: no request yet, since 16:00:00 UTC (40 s)",
        ),
        (
            "a baseline that lost its traffic",
            {
                let mut judge = fine();
                for second in 31..=70 {
                    judge.take(Side::Canary, &counts(second, 10, 0));
                    judge.take(Side::Baseline, &counts(second, 0, 0));
                }
                judge
            },
            70,
            "baseline: no request since 16:00:30 UTC (40 s)",
        ),
        (
            "too few",
            after(&only_errors(), 9, (10, 0), (200, 0)),
            9,
            "too few requests: canary 90, baseline 1,800 since 16:00:00 UTC (9 s); 100 are enough",
        ),
        (
            "everything fails",
            after(&only_errors(), 30, (7, 3), (70, 30)),
            30,
            "errors: of late 30 % of the canary's requests failed and 30 % of the baseline's: it is not this release \
             alone; no pass above 10 %",
        ),
    ];
    for (name, judge, now, sentence) in cases {
        let ruling = judge.ruling(at(now));
        assert_eq!((ruling.verdict, ruling.sentence.as_str()), (Verdict::Hold, sentence), "{name}");
    }
}

#[test]
fn a_quantile_that_cannot_be_told_holds() {
    let p95 = Analysis { compare: vec![Measure::P95], ..Analysis::default() };
    let open: &[(Option<u64>, u64)] = &[(Some(50_000), 2), (None, 98)];
    let fast: &[(Option<u64>, u64)] = &[(Some(50_000), 98), (Some(100_000), 2), (None, 0)];
    let coarse: &[(Option<u64>, u64)] = &[(Some(50_000), 98), (None, 2)];
    let p99 = Analysis { compare: vec![Measure::P99], ..Analysis::default() };
    for (analysis, seconds, canary, baseline, sentence) in [
        (&p95, 20, &[][..], fast, "p95: no latency is measured on the canary since 16:00:00 UTC"),
        (&p95, 20, fast, &[][..], "p95: no latency is measured on the baseline since 16:00:00 UTC"),
        (
            &p95,
            20,
            fast,
            open,
            "p95: the baseline's is above the last of its bucket bounds, 50 ms, since 16:00:00 UTC",
        ),
        (
            &p95,
            20,
            coarse,
            fast,
            "p95: the canary may have 75 ms (1.5 times the baseline's bucket); its buckets end at 50 ms, so that more \
             cannot be told",
        ),
        (
            &p99,
            4,
            fast,
            fast,
            "p99: 400 answers of the baseline since 16:00:00 UTC are too few to find it",
        ),
    ] {
        let mut judge = Judge::new(analysis, at(0));
        for second in 1..=seconds {
            judge.take(Side::Canary, &good(second, 100, canary));
            judge.take(Side::Baseline, &good(second, 100, baseline));
        }
        let ruling = judge.ruling(at(seconds));
        assert_eq!((ruling.verdict, ruling.sentence.as_str()), (Verdict::Hold, sentence));
    }
}

#[test]
fn the_next_sample_ends_a_gap() {
    let mut judge = after(&only_errors(), 30, (10, 0), (100, 0));
    judge.missed(Side::Canary, at(31), Gap::CounterReset);
    judge.take(Side::Canary, &counts(32, 10, 0));
    judge.take(Side::Baseline, &counts(32, 100, 0));
    assert_eq!(judge.ruling(at(32)).verdict, Verdict::Pass);
}

#[test]
fn what_looks_worse_does_not_pass() {
    let mut judge = after(&only_errors(), 60, (5, 0), (95, 0));
    let mut second = 60;
    while judge.ruling(at(second)).verdict == Verdict::Pass {
        second += 1;
        assert!(second < 600, "it never looks worse");
        judge.take(Side::Canary, &counts(second, 4, u64::from(second % 5 == 0)));
        judge.take(Side::Baseline, &counts(second, 95, 0));
    }
    let ruling = judge.ruling(at(second));
    assert_eq!(ruling.verdict, Verdict::Hold);
    assert!(ruling.sentence.contains("looks worse, not beyond doubt"), "{}", ruling.sentence);
}
