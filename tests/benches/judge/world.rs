//! A world to judge: requests that come, fail and take their time by chance.

use engine::{
    Timestamp,
    judge::{Latency, Sample, Side},
};

/// Upper bucket bounds in microseconds; one more bucket is open.
const BOUNDS_US: [u64; 14] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 150_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// Half of the baseline's answers take no longer.
const MEDIAN_US: f64 = 40_000.0;

/// How far answer times spread: the standard deviation of their logarithm.
const SPREAD: f64 = 0.6;

/// A generator with a seed (splitmix64).
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// How many of many come where this many do on average (Poisson).
    fn arrivals(&mut self, mean: f64) -> u64 {
        if mean > 100.0 {
            return self.arrivals(mean / 2.0) + self.arrivals(mean / 2.0);
        }
        let (limit, mut product, mut arrivals) = ((-mean).exp(), self.unit(), 0);
        while product > limit {
            product *= self.unit();
            arrivals += 1;
        }
        arrivals
    }
}

/// Rates of both sides.
#[derive(Clone)]
pub(crate) struct World {
    requests: [f64; 2],
    errors: [f64; 2],
    /// The canary's errors from some second on.
    worsens: Option<(f64, u64)>,
    /// Per side, how much of all answers took no longer than each bound.
    below: [[f64; BOUNDS_US.len()]; 2],
}

impl World {
    /// Requests per second of the canary and of the baseline.
    pub(crate) fn new(canary: f64, baseline: f64) -> Self {
        let below = below(1.0);
        Self { requests: [canary, baseline], errors: [0.0; 2], worsens: None, below: [below; 2] }
    }

    pub(crate) fn errors(mut self, canary: f64, baseline: f64) -> Self {
        self.errors = [canary, baseline];
        self
    }

    pub(crate) fn worsens(mut self, canary: f64, from: u64) -> Self {
        self.worsens = Some((canary, from));
        self
    }

    pub(crate) fn slower(mut self, times: f64) -> Self {
        self.below[0] = below(times);
        self
    }

    /// What is counted in the second that ends then.
    pub(crate) fn sample(&self, draws: &mut Draws, side: Side, second: u64) -> Sample {
        let row = match side {
            Side::Canary => 0,
            Side::Baseline => 1,
        };
        let errors = match (side, self.worsens) {
            (Side::Canary, Some((errors, from))) if second > from => errors,
            (Side::Canary | Side::Baseline, _) => self.errors[row],
        };
        let all = draws.arrivals(self.requests[row]);
        let (mut bad, mut counts) = (0, [0_u64; BOUNDS_US.len() + 1]);
        for _ in 0..all {
            bad += u64::from(draws.unit() < errors);
            let slow = draws.unit();
            counts[self.below[row].partition_point(|below| *below < slow)] += 1;
        }
        let bounds = BOUNDS_US.iter().copied().map(Some).chain([None]);
        let latency = Latency::new(bounds.zip(counts));
        let to = i64::try_from(second * 1000).expect("a few minutes");
        Sample { from: Timestamp(to - 1000), to: Timestamp(to), good: all - bad, bad, latency }
    }
}

/// Log-normal answer times, so many times as long.
fn below(times: f64) -> [f64; BOUNDS_US.len()] {
    BOUNDS_US.map(|bound| normal_below(((bound as f64) / (MEDIAN_US * times)).ln() / SPREAD))
}

/// The normal distribution function (Abramowitz and Stegun 26.2.17, to seven digits).
fn normal_below(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let tail = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
        * t
        * (0.319_381_530
            + t * (-0.356_563_782
                + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    if x > 0.0 { 1.0 - tail } else { tail }
}
