//! A bet against the canary being no worse: what it has won is the evidence.
//!
//! ```text
//! counts of both sides ─▶ block ─▶ stakes (from earlier blocks only) ─▶ capital × payoff ─▶ evidence
//! ```
//!
//! The null hypothesis: in every block the canary's rate is at most the baseline's plus a margin. In a block with `n`
//! requests of the canary and `m` of the baseline, any pivot `t` and stakes `a`, `b` with `n a = m b` pay
//!
//! ```text
//! Π (1 + a (x - t - margin))   over the canary's requests     x, y: 1 for a bad request, else 0
//! Π (1 - b (y - t))            over the baseline's requests
//! ```
//!
//! Where the rates are `p` and `q`, the mean of that is at most `exp(n a (p - t - margin) - m b (q - t))`, which is
//! `exp(n a (p - q - margin))`: at most 1 under the null hypothesis, whatever the pivot, and also where rates drift from
//! block to block. So capital that begins with 1 is an e-process, and by Ville's inequality it ever reaches `1/α` with a
//! chance of at most `α`: one may look as often as one likes, and stop.
//!
//! With no margin and this pivot it is the e-variable of Turner, Ly and Grünwald, "Generic E-variables for exact
//! sequential k-sample tests that allow for optional stopping" (2024); with one, of Turner and Grünwald, "Exact anytime-
//! valid confidence intervals for contingency tables and beyond" (2023). The one-sided bet on a bound is that of
//! Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2024).
//!
//! How much worse a canary would be is not known: the capital is spread over several guesses. When it gets worse is not
//! known either: a reserve goes into the bets little by little, so that what a good hour has lost does not hide a bad
//! minute (as the e-detectors of Shin, Ramdas and Rinaldo do, 2024). A mean of e-processes is one, and so is moving
//! capital among them.
//!
//! Invariant: the stakes on a block depend on nothing that was counted in it but how many requests it has.

/// The bad and all requests of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) bad: u64,
    pub(super) all: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.bad = self.bad.saturating_add(other.bad);
        self.all = self.all.saturating_add(other.all);
    }

    pub(super) fn share(self) -> Option<f64> {
        (self.all > 0).then(|| self.bad as f64 / self.all as f64)
    }

    fn good(self) -> f64 {
        self.all.saturating_sub(self.bad) as f64
    }
}

/// What the null hypothesis allows the canary's rate to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Allowed {
    /// The baseline's, and so much more.
    Baseline { margin: f64 },
    /// So much, or the baseline's where that is more.
    Bound(f64),
}

/// How much of the room above what is allowed a worse canary is guessed to fill, and the part of the stakes on it.
const GUESSES: [(f64, f64); 5] =
    [(0.004, 0.10), (0.02, 0.15), (0.08, 0.15), (0.27, 0.30), (0.80, 0.15)];

/// The part of the stakes on what earlier blocks taught.
const LEARNED: f64 = 0.15;

const BETS: usize = GUESSES.len() + 1;

/// What is not staked at the beginning.
const RESERVE: f64 = 0.4;

/// In this time after the beginning, half of the reserve is staked; then half of the rest in twice the time, and so on.
const RESERVE_MS: f64 = 60_000.0;

/// As many requests as the first guess of a rate weighs.
const PRIOR_WEIGHT: f64 = 20.0;

/// No rate is guessed nearer to 0 than this, and none nearer to 1 than [`SURE`].
const EDGE: f64 = 1e-5;
const SURE: f64 = 0.98;

/// No stake loses more than this part of itself on one request of the baseline.
const LOSS_AT_MOST: f64 = 0.95;

/// More is not counted: it is proven many times over.
const CAPITAL_AT_MOST: f64 = 1e200;

/// Capital and what earlier blocks taught.
#[derive(Clone, Debug)]
pub(super) struct Bet {
    allowed: Allowed,
    /// What the baseline's rate is taken for before anything is known.
    prior: f64,
    canary: Tally,
    baseline: Tally,
    reserve: f64,
    capital: [f64; BETS],
    /// Milliseconds from the beginning to the newest block.
    age_ms: f64,
}

impl Bet {
    pub(super) fn new(allowed: Allowed, prior: f64) -> Self {
        let nothing = Tally::default();
        let capital = parts().map(|part| part * (1.0 - RESERVE));
        let reserve = RESERVE;
        Self { allowed, prior, canary: nothing, baseline: nothing, reserve, capital, age_ms: 0.0 }
    }

    /// What was won: 1 at the beginning.
    pub(super) fn evidence(&self) -> f64 {
        self.reserve + self.capital.iter().sum::<f64>()
    }

    /// The bad and all requests of the canary and of the baseline that were bet on.
    pub(super) fn tallies(&self) -> (Tally, Tally) {
        (self.canary, self.baseline)
    }

    /// A block that ended so many milliseconds after the beginning. A side without requests has none in this time.
    pub(super) fn block(&mut self, age_ms: u64, canary: Tally, baseline: Tally) {
        self.invest(age_ms as f64);
        let rate = rate(self.baseline, self.prior);
        for (capital, guess) in
            self.capital.iter_mut().zip(guesses(self.allowed, rate, self.canary))
        {
            let won = payoff(self.allowed, guess, rate, canary, baseline).exp();
            *capital = (*capital * won).min(CAPITAL_AT_MOST);
        }
        self.canary.add(canary);
        self.baseline.add(baseline);
    }

    /// Moves a part of the reserve into the bets.
    fn invest(&mut self, age_ms: f64) {
        let passed = age_ms - self.age_ms;
        if passed > 0.0 {
            self.age_ms = age_ms;
            let moved = self.reserve * passed / (age_ms + RESERVE_MS);
            self.reserve -= moved;
            for (capital, part) in self.capital.iter_mut().zip(parts()) {
                *capital += part * moved;
            }
        }
    }
}

fn parts() -> [f64; BETS] {
    let mut parts = [LEARNED; BETS];
    for (part, (_, guess)) in parts.iter_mut().zip(GUESSES) {
        *part = guess;
    }
    parts
}

/// What a rate is taken for.
fn rate(seen: Tally, prior: f64) -> f64 {
    let rate = (seen.bad as f64 + prior * PRIOR_WEIGHT) / (seen.all as f64 + PRIOR_WEIGHT);
    rate.clamp(EDGE, SURE)
}

/// What a worse canary's rate is guessed to be.
fn guesses(allowed: Allowed, baseline: f64, canary: Tally) -> [f64; BETS] {
    let most = match allowed {
        Allowed::Baseline { margin } => baseline + margin,
        Allowed::Bound(bound) => bound.max(baseline),
    };
    let most = most.min(SURE);
    let mut guesses = [rate(canary, most); BETS];
    for (guess, (fill, _)) in guesses.iter_mut().zip(GUESSES) {
        *guess = most + fill * (SURE - most);
    }
    guesses
}

/// The logarithm of what a bet on one guess pays; 0 where it does not bet.
pub(super) fn payoff(
    allowed: Allowed,
    guess: f64,
    rate: f64,
    canary: Tally,
    baseline: Tally,
) -> f64 {
    match allowed {
        Allowed::Baseline { margin } => against_baseline(margin, guess, rate, canary, baseline),
        Allowed::Bound(bound) if baseline.all == 0 => against_bound(bound, guess, canary),
        // The smaller of two fair payoffs is fair where either hypothesis holds.
        Allowed::Bound(bound) => {
            let bound = against_bound(bound, guess, canary);
            bound.min(against_baseline(0.0, guess, rate, canary, baseline))
        }
    }
}

fn against_baseline(margin: f64, guess: f64, rate: f64, canary: Tally, baseline: Tally) -> f64 {
    let (n, m) = (canary.all as f64, baseline.all as f64);
    if n == 0.0 || m == 0.0 {
        return 0.0;
    }
    let pivot = (n * (guess - margin) + m * rate) / (n + m);
    let mean = pivot + margin;
    if guess <= mean || pivot <= 0.0 || mean >= 1.0 {
        return 0.0;
    }
    let wanted = (guess - mean) / (mean * (1.0 - mean));
    let stake = wanted.min(m / n * LOSS_AT_MOST / (1.0 - pivot));
    let other = n * stake / m;
    canary.bad as f64 * (stake * (1.0 - mean)).ln_1p()
        + canary.good() * (-stake * mean).ln_1p()
        + baseline.bad as f64 * (-other * (1.0 - pivot)).ln_1p()
        + baseline.good() * (other * pivot).ln_1p()
}

fn against_bound(bound: f64, guess: f64, canary: Tally) -> f64 {
    if guess <= bound {
        return 0.0;
    }
    let stake = (guess - bound) / (bound * (1.0 - bound));
    canary.bad as f64 * (stake * (1.0 - bound)).ln_1p() + canary.good() * (-stake * bound).ln_1p()
}
