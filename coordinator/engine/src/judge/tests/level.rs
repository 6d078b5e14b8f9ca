//! How often a canary that is no worse fails, at any look at all.
//!
//! Invariant: what is measured here is the level itself: with a limit of 10, one hold in ten may fail, and a test that
//! is looked at too often would fail far more of them.

use proptest::prelude::*;

use super::{Draws, at, counts};
use crate::{
    judge::{
        Analysis, Judge, Latency, Measure, Sample, Side, Verdict,
        bet::{Allowed, Bet, Tally, payoff},
    },
    time::Timestamp,
};

const LIMIT: f64 = 10.0;
const RUNS: u64 = 400;
const LOOKS: u64 = 200;

/// One in ten of the runs, and three standard deviations more.
fn most() -> usize {
    let (runs, chance) = (RUNS as f64, 1.0 / LIMIT);
    (runs * chance + 3.0 * (runs * chance * (1.0 - chance)).sqrt()) as usize
}

/// How many runs reach the limit at any look.
fn failed(allowed: Allowed, requests: (u64, u64), rates: impl Fn(u64) -> (f64, f64)) -> usize {
    let reached = |seed: u64| {
        let mut draws = Draws(seed);
        let mut bet = Bet::new(allowed, 0.01);
        (1..=LOOKS).any(|look| {
            let rates = rates(look);
            let canary = Tally { bad: draws.of(requests.0, rates.0), all: requests.0 };
            let baseline = Tally { bad: draws.of(requests.1, rates.1), all: requests.1 };
            bet.block(look * 1000, canary, baseline);
            bet.evidence() >= LIMIT
        })
    };
    (0..RUNS).filter(|seed| reached(*seed)).count()
}

#[test]
fn a_canary_that_is_no_worse_seldom_fails_at_any_look() {
    let margin = 0.001;
    for requests in [(2, 38), (20, 20), (15, 5)] {
        for rate in [0.0, 0.005, 0.05, 0.5] {
            let (allowed, canary) = (Allowed::Baseline { margin }, rate + margin);
            let failed = failed(allowed, requests, |_| (canary, rate));
            assert!(failed <= most(), "{failed} of {RUNS} at {rate} with {requests:?}");
        }
    }
}

#[test]
fn rates_that_drift_on_both_sides_are_no_proof() {
    let allowed = Allowed::Baseline { margin: 0.001 };
    let drift = |look: u64| if look % 60 < 20 { 0.3 } else { 0.005 };
    let failed = failed(allowed, (5, 35), |look| (drift(look), drift(look)));
    assert!(failed <= most(), "{failed} of {RUNS}");
}

#[test]
fn at_the_bound_or_as_bad_as_the_baseline_is_not_above_it() {
    let at_bound = failed(Allowed::Bound(0.05), (10, 30), |_| (0.05, 0.005));
    assert!(at_bound <= most(), "{at_bound} of {RUNS} at the bound");
    let as_bad = failed(Allowed::Bound(0.05), (10, 30), |_| (0.4, 0.4));
    assert!(as_bad <= most(), "{as_bad} of {RUNS} as bad as the baseline");
    let alone = failed(Allowed::Bound(0.05), (10, 0), |_| (0.05, 0.0));
    assert!(alone <= most(), "{alone} of {RUNS} without a baseline");
}

#[test]
fn a_canary_that_is_worse_does_fail() {
    let allowed = Allowed::Baseline { margin: 0.001 };
    assert_eq!(failed(allowed, (5, 35), |_| (0.25, 0.005)), RUNS as usize);
    assert_eq!(failed(Allowed::Bound(0.05), (10, 30), |_| (0.25, 0.005)), RUNS as usize);
    assert_eq!(failed(Allowed::Bound(0.05), (10, 0), |_| (0.25, 0.0)), RUNS as usize);
    // It turns bad late, after the bets have lost for long.
    let turns = |look: u64| if look > 150 { (0.5, 0.005) } else { (0.005, 0.005) };
    assert!(failed(allowed, (5, 35), turns) > RUNS as usize * 99 / 100);
}

/// All of it: errors and latency, every look a ruling.
#[test]
fn a_good_canary_seldom_fails_the_whole_judge() {
    let analysis = Analysis {
        compare: vec![Measure::Errors, Measure::P50, Measure::P95],
        false_alarm: 0.1,
        ..Analysis::default()
    };
    let runs = 60;
    let failed = (0..runs).filter(|seed| {
        let mut draws = Draws(*seed);
        let mut judge = Judge::new(&analysis, at(0));
        (1..=60).any(|second| {
            judge.take(Side::Canary, &drawn(&mut draws, second, 6));
            judge.take(Side::Baseline, &drawn(&mut draws, second, 40));
            judge.ruling(at(second)).verdict == Verdict::Fail
        })
    });
    let failed = failed.count();
    assert!(failed <= 12, "{failed} of {runs}");
}

fn drawn(draws: &mut Draws, second: i64, all: u64) -> Sample {
    let bad = draws.of(all, 0.02);
    let mut rows = [40, 80, 160, 320, 640].map(|ms: u64| (Some(ms * 1000), 0));
    for _ in 0..all {
        let at = (draws.unit().powi(3) * 5.0) as usize;
        rows[at].1 += 1;
    }
    Sample { latency: Latency::new(rows), ..counts(second, all - bad, bad) }
}

/// How likely each number of bad ones is.
fn binomial(all: u64, chance: f64) -> Vec<f64> {
    let mut rows = vec![1.0];
    for _ in 0..all {
        let mut next = vec![0.0; rows.len() + 1];
        for (bad, part) in rows.iter().enumerate() {
            next[bad] += part * (1.0 - chance);
            next[bad + 1] += part * chance;
        }
        rows = next;
    }
    rows
}

proptest! {
    /// The proof of the module, reckoned out: over all outcomes of a block, a bet on it pays no more than 1 on average.
    #[test]
    fn no_bet_pays_where_the_canary_is_no_worse(
        n in 0_u64..9,
        m in 0_u64..9,
        q in 0.0..1.0_f64,
        part in 0.0..=1.0_f64,
        margin in prop_oneof![Just(0.0), 0.0..0.2_f64],
        bound in 0.001..0.9_f64,
        guess in 1e-5..0.98_f64,
        rate in 1e-5..0.98_f64,
    ) {
        for allowed in [Allowed::Baseline { margin }, Allowed::Bound(bound)] {
            let most: f64 = match allowed {
                Allowed::Baseline { margin } => q + margin,
                Allowed::Bound(bound) if m == 0 => bound,
                Allowed::Bound(bound) => q.max(bound),
            };
            let p = part * most.min(1.0);
            let mut mean = 0.0;
            for (bad, chance) in binomial(n, p).into_iter().enumerate() {
                for (worse, other) in binomial(m, q).into_iter().enumerate() {
                    let canary = Tally { bad: bad as u64, all: n };
                    let baseline = Tally { bad: worse as u64, all: m };
                    mean += chance * other * payoff(allowed, guess, rate, canary, baseline).exp();
                }
            }
            prop_assert!(mean <= 1.0 + 1e-9, "{allowed:?} pays {mean}");
        }
    }
}

/// What the evidence is on average after one more block.
fn mean_after(bet: &Bet, all: (u64, u64), rates: (f64, f64)) -> f64 {
    let mut mean = 0.0;
    for (bad, chance) in binomial(all.0, rates.0).into_iter().enumerate() {
        for (worse, other) in binomial(all.1, rates.1).into_iter().enumerate() {
            let canary = Tally { bad: bad as u64, all: all.0 };
            let baseline = Tally { bad: worse as u64, all: all.1 };
            let mut bet = bet.clone();
            bet.block(100_000, canary, baseline);
            mean += chance * other * bet.evidence();
        }
    }
    mean
}

proptest! {
    /// Whatever was seen before, evidence does not grow on average where the canary is no worse: so no block is bet on by
    /// what was counted in it, and moving the reserve into the bets wins nothing.
    #[test]
    fn evidence_does_not_grow_by_itself(
        history in prop::collection::vec((0_u64..6, 0_u64..6, 0_u64..6, 0_u64..6), 0..4),
        n in 0_u64..9,
        m in 0_u64..9,
        q in 0.0..1.0_f64,
        bound in 0.001..0.9_f64,
    ) {
        for allowed in [Allowed::Baseline { margin: 0.0 }, Allowed::Bound(bound)] {
            let mut bet = Bet::new(allowed, 0.01);
            for (age, (bad, good, worse, better)) in history.iter().enumerate() {
                let canary = Tally { bad: *bad, all: bad + good };
                bet.block(age as u64 * 1000, canary, Tally { bad: *worse, all: worse + better });
            }
            let p = match allowed {
                Allowed::Baseline { .. } => q,
                Allowed::Bound(bound) if m == 0 => bound,
                Allowed::Bound(bound) => q.max(bound),
            };
            let (before, after) = (bet.evidence(), mean_after(&bet, (n, m), (p, q)));
            prop_assert!(after <= before * (1.0 + 1e-9), "{allowed:?}: {before} grows to {after}");
        }
    }
}

#[test]
fn samples_of_another_weight_are_left_out() {
    let mut judge = Judge::new(&Analysis::default(), at(10));
    judge.take(Side::Canary, &counts(10, 0, 500));
    judge.take(Side::Baseline, &Sample { to: Timestamp(at(11).0), ..counts(10, 500, 0) });
    assert_eq!(judge.counted(Side::Canary), (0, 0));
    assert_eq!(judge.counted(Side::Baseline), (0, 0));
}
