//! How good the judge is: false aborts of a good canary, how long until a bad one is seen, and what a look costs.
//!
//! `cargo run --release -p tests --bin bench-judge -- [HOLDS]`
//!
//! Requests, failures and answer times are drawn from a seeded generator; no time passes.

mod world;

use std::{hint::black_box, time::Instant};

use engine::{
    Timestamp,
    judge::{Analysis, Judge, Measure, Side, Verdict},
};
use world::{Draws, World};

/// Ten minutes, looked at every second.
const HOLD_SECONDS: u64 = 600;

/// How often each delay is measured.
const RUNS: u64 = 2_000;

fn main() {
    let holds = std::env::args()
        .nth(1)
        .map_or(10_000, |text| text.parse().expect("the argument is a number of holds"));
    println!("false aborts: {holds} holds of {HOLD_SECONDS} looks each, at most 1 % allowed");
    for (name, world) in [
        ("5 and 95 requests/s, 0.5 % errors", World::new(5.0, 95.0).errors(0.005, 0.005)),
        ("5 and 95 requests/s, 0.6 % and 0.5 % errors", World::new(5.0, 95.0).errors(0.006, 0.005)),
        ("50 and 50 requests/s, 5 % errors", World::new(50.0, 50.0).errors(0.05, 0.05)),
        ("5 and 95 requests/s, 30 % errors", World::new(5.0, 95.0).errors(0.3, 0.3)),
        ("1 and 19 requests/s, no errors", World::new(1.0, 19.0).errors(0.0, 0.0)),
    ] {
        let ends = runs(holds, &world, HOLD_SECONDS);
        let aborted = ends.iter().filter(|end| end.failed_at.is_some()).count();
        let passed = ends.iter().filter(|end| end.last == Verdict::Pass).count();
        let (aborted, passed) = (share(aborted, ends.len()), share(passed, ends.len()));
        println!("  {name}: {aborted:.3} % aborted, {passed:.1} % pass at the end");
    }
    println!("delay in seconds until a bad canary fails; baseline 0.5 % errors, {RUNS} runs each:");
    println!("  {:<58} {:>8} {:>8} {:>8} {:>8}", "canary", "median", "p95", "max", "seen");
    let base = |canary, baseline| World::new(canary, baseline).errors(0.005, 0.005);
    for (name, world, from) in [
        ("100 % errors, 5 of 100 requests/s", base(5.0, 95.0).errors(1.0, 0.005), 0),
        ("25 % errors, 5 of 100 requests/s", base(5.0, 95.0).errors(0.25, 0.005), 0),
        ("5 % errors, 5 of 100 requests/s", base(5.0, 95.0).errors(0.05, 0.005), 0),
        ("1 % errors, 5 of 100 requests/s", base(5.0, 95.0).errors(0.01, 0.005), 0),
        ("1 % errors, 50 of 1,000 requests/s", base(50.0, 950.0).errors(0.01, 0.005), 0),
        ("1 % errors, 50 of 100 requests/s", base(50.0, 50.0).errors(0.01, 0.005), 0),
        (
            "25 % errors after 9 good minutes, 5 of 100 requests/s",
            base(5.0, 95.0).worsens(0.25, 540),
            540,
        ),
        ("twice as slow, 5 of 100 requests/s", base(5.0, 95.0).slower(2.0), 0),
        ("three times as slow, 5 of 100 requests/s", base(5.0, 95.0).slower(3.0), 0),
        ("1.3 times as slow (allowed), 5 of 100 requests/s", base(5.0, 95.0).slower(1.3), 0),
    ] {
        let ends = runs(RUNS, &world, HOLD_SECONDS);
        let mut delays: Vec<u64> = ends.iter().filter_map(|end| end.failed_at).collect();
        delays.retain(|at| *at > from);
        delays.sort_unstable();
        // Over all runs: one that was never seen is longer than the hold.
        let at = |part: f64| {
            let index = (part * (ends.len() - 1) as f64) as usize;
            delays.get(index).map_or_else(|| "-".to_owned(), |at| (at - from).to_string())
        };
        let (median, p95, most) = (at(0.5), at(0.95), at(1.0));
        let seen = share(delays.len(), ends.len());
        println!("  {name:<58} {median:>8} {p95:>8} {most:>8} {seen:>6.1} %");
    }
    println!("one core:");
    let (decisions, seconds) = decisions();
    let rate = decisions as f64 / seconds;
    println!("  {rate:.0} decisions/s (a sample of each side, errors and p95, and a ruling)");
}

/// How one hold ended.
struct End {
    /// Seconds from its beginning to the fail.
    failed_at: Option<u64>,
    last: Verdict,
}

fn runs(runs: u64, world: &World, seconds: u64) -> Vec<End> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    std::thread::scope(|scope| {
        let part = move |core: u64| {
            let seeds = (core..runs).step_by(cores as usize);
            seeds.map(|seed| hold(seed, world, seconds)).collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..cores).map(|core| scope.spawn(move || part(core))).collect();
        let ends = workers.into_iter();
        ends.flat_map(|worker| worker.join().expect("no run panics")).collect()
    })
}

fn hold(seed: u64, world: &World, seconds: u64) -> End {
    let mut draws = Draws::new(seed);
    let mut judge = Judge::new(&Analysis::default(), Timestamp(0));
    let mut last = Verdict::Hold;
    for second in 1..=seconds {
        judge.take(Side::Canary, &world.sample(&mut draws, Side::Canary, second));
        judge.take(Side::Baseline, &world.sample(&mut draws, Side::Baseline, second));
        last = judge.ruling(at(second)).verdict;
        if last == Verdict::Fail {
            return End { failed_at: Some(second), last };
        }
    }
    End { failed_at: None, last }
}

/// How many were made in how many seconds.
fn decisions() -> (u64, f64) {
    let world = World::new(5.0, 95.0).errors(0.005, 0.005);
    let mut draws = Draws::new(7);
    let analysis = Analysis { compare: vec![Measure::Errors, Measure::P95], ..Analysis::default() };
    let rounds: Vec<_> = (1..=HOLD_SECONDS)
        .map(|second| {
            let canary = world.sample(&mut draws, Side::Canary, second);
            (second, canary, world.sample(&mut draws, Side::Baseline, second))
        })
        .collect();
    let (begin, mut made) = (Instant::now(), 0);
    while begin.elapsed().as_secs_f64() < 2.0 {
        let mut judge = Judge::new(&analysis, Timestamp(0));
        for (second, canary, baseline) in &rounds {
            judge.take(Side::Canary, canary);
            judge.take(Side::Baseline, baseline);
            black_box(judge.ruling(at(*second)));
        }
        made += HOLD_SECONDS;
    }
    (made, begin.elapsed().as_secs_f64())
}

fn at(second: u64) -> Timestamp {
    Timestamp(i64::try_from(second * 1000).expect("a few minutes"))
}

fn share(part: usize, of: usize) -> f64 {
    part as f64 * 100.0 / of as f64
}
