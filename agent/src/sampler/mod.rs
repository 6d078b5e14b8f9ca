//! Asks the app all the time and counts its answers: what canaries and triggers are judged by.
//!
//! ```text
//! policy `samples` ─▶ each check in its own beat ─ ask ─▶ hands ─▶ Answered ─▶ Counts of the interval
//!                        ▲                                                       │ each second
//! ledger ─ at work here? ┘                  session ◀─ what it has room for ─────┘
//! ```
//!
//! It runs as long as a session is up: without one nobody would hear, and nothing is kept for later.
//!
//! Invariant: intervals of one check do not overlap, and each answer is counted in one of them or in none.
//! Invariant: what was asked, answered or counted while this agent is at work on the component is in no sample.
//! Invariant: a gauge is a number that the app sent in the interval; where there was none, none is sent.
//! Invariant: it never waits for whoever takes its samples, and never asks more at once than [`IN_FLIGHT_MAX`] a check.

mod counts;
mod latency;
#[cfg(test)]
mod tests;
mod work;

use std::{sync::Arc, time::Duration};

use proto::policy::CheckPolicy;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};

pub use self::latency::{BOUNDS, bound_us};
use self::{counts::Counts, work::Work};
use crate::{hands::Hands, ledger::Ledger};

/// How often what was counted is sent.
const SEND_EVERY: Duration = Duration::from_secs(1);
/// Requests of one check that may wait for their answer: an app that hangs is not buried under more of them.
pub const IN_FLIGHT_MAX: usize = 4;
/// By how much a beat is longer or shorter than the policy says, so that hosts do not ask all at once.
const JITTER: f64 = 0.1;

/// A check that is asked all the time.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    pub component: String,
    pub check: CheckPolicy,
    pub every: Duration,
}

/// How one request went.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    pub good: bool,
    /// How long the answer took, where there was one.
    pub took: Option<Duration>,
    /// What the app said of itself, good or bad.
    pub gauges: Vec<Gauge>,
}

/// A number that the app reckons itself, over a time that it alone knows, where the check has a bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Gauge {
    /// Where in the answer: a JSON pointer.
    pub pointer: String,
    pub value: f64,
    pub at_most: Option<f64>,
    pub at_least: Option<f64>,
}

impl Answered {
    /// There was no answer, or it could not be asked for.
    pub const NONE: Self = Self { good: false, took: None, gauges: Vec::new() };
}

/// Counts of one interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub component: String,
    pub check: String,
    /// It ended when this was made.
    pub length: Duration,
    pub good: u64,
    pub bad: u64,
    /// How many answers took at most so many microseconds, and longer than the bound before; no bound for what is longer
    /// than all of them. Bounds rise; one without answers only says where the next begins.
    pub latency: Vec<(Option<u64>, u64)>,
    /// What the app said last of itself.
    pub gauges: Vec<Gauge>,
}

/// Asks for as long as it is held.
#[derive(Debug)]
pub struct Sampler(Option<JoinHandle<()>>);

impl Sampler {
    /// Begins to ask what the host's policy wants asked. `send` takes what was counted or, having no room for it, drops it
    /// and says false; it must not wait.
    pub fn start<H: Hands>(
        hands: Arc<H>,
        ledger: watch::Receiver<Arc<Ledger>>,
        send: impl FnMut(Vec<Sample>) -> bool + Send + 'static,
    ) -> Self {
        let sampled = hands.sampled();
        if sampled.is_empty() {
            return Self(None);
        }
        let sampling = Sampling::new(hands, sampled, ledger, send);
        Self(Some(tokio::spawn(sampling.run())))
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

struct Sampling<H, S> {
    hands: Arc<H>,
    ledger: watch::Receiver<Arc<Ledger>>,
    checks: Vec<Asking>,
    asks: JoinSet<Asked>,
    send: S,
    dropped: u64,
}

/// One check.
struct Asking {
    sampled: Arc<Sampled>,
    next: Instant,
    in_flight: usize,
    work: Work,
    counts: Counts,
}

/// A request that has ended.
struct Asked {
    check: usize,
    /// As it was when it began.
    work: Work,
    /// None where nothing is to be counted.
    answered: Option<Answered>,
}

impl<H: Hands, S: FnMut(Vec<Sample>) -> bool> Sampling<H, S> {
    fn new(
        hands: Arc<H>,
        sampled: Vec<Sampled>,
        mut ledger: watch::Receiver<Arc<Ledger>>,
        send: S,
    ) -> Self {
        let now = Instant::now();
        let known = ledger.borrow_and_update().clone();
        let asking = |sampled: Sampled| Asking {
            work: Work::on(&sampled.component, &known),
            next: now + sampled.every.mul_f64(rand::random_range(0.0..1.0)),
            in_flight: 0,
            counts: Counts::new(now),
            sampled: Arc::new(sampled),
        };
        let checks = sampled.into_iter().map(asking).collect();
        Self { hands, ledger, checks, asks: JoinSet::new(), send, dropped: 0 }
    }

    /// Ends where the core is gone.
    async fn run(mut self) {
        let mut sends = sends();
        loop {
            let due = self.checks.iter().map(|check| check.next).min().expect("there are checks");
            tokio::select! {
                biased;
                changed = self.ledger.changed() => match changed {
                    Ok(()) => self.heed(),
                    Err(_) => return,
                },
                Some(asked) = self.asks.join_next() => {
                    self.count(asked.expect("a request does not panic"));
                }
                _ = sends.tick() => self.tell(),
                () = sleep_until(due) => self.ask(),
            }
        }
    }

    /// What this agent is at work on now. What was counted before is told no more, for it may be of the old release.
    fn heed(&mut self) {
        let ledger = self.ledger.borrow_and_update().clone();
        let now = Instant::now();
        for check in &mut self.checks {
            let work = Work::on(&check.sampled.component, &ledger);
            if work != check.work {
                check.work = work;
                check.counts = Counts::new(now);
            }
        }
    }

    fn ask(&mut self) {
        self.heed();
        let now = Instant::now();
        for (index, check) in self.checks.iter_mut().enumerate() {
            if check.next > now {
                continue;
            }
            let jitter = rand::random_range(1.0 - JITTER..1.0 + JITTER);
            check.next = now + check.sampled.every.mul_f64(jitter);
            if check.work.is_under_way() || check.in_flight >= IN_FLIGHT_MAX {
                continue;
            }
            check.in_flight += 1;
            let (hands, sampled, work) = (self.hands.clone(), check.sampled.clone(), check.work);
            self.asks.spawn(async move {
                let answered = hands.ask(&sampled).await;
                Asked { check: index, work, answered }
            });
        }
    }

    fn count(&mut self, asked: Asked) {
        self.heed();
        let check = &mut self.checks[asked.check];
        check.in_flight -= 1;
        match asked.answered {
            Some(answered) if asked.work == check.work && !check.work.is_under_way() => {
                check.counts.add(answered);
            }
            // Work began while it was asked: the answer may be of a service that was stopped.
            Some(_) => {}
            // A hold stands.
            None => check.counts = Counts::new(Instant::now()),
        }
    }

    fn tell(&mut self) {
        self.heed();
        let now = Instant::now();
        let samples =
            self.checks.iter_mut().filter_map(|check| check.counts.take(&check.sampled, now));
        let samples: Vec<Sample> = samples.collect();
        if samples.is_empty() {
            return;
        }
        if !(self.send)(samples) {
            self.dropped += 1;
            if self.dropped == 1 {
                tracing::warn!("samples are dropped: the session has no room for them");
            }
        } else if self.dropped > 0 {
            tracing::warn!(dropped = self.dropped, "seconds of samples were dropped; they go on");
            self.dropped = 0;
        }
    }
}

fn sends() -> Interval {
    let mut sends = interval_at(Instant::now() + SEND_EVERY, SEND_EVERY);
    sends.set_missed_tick_behavior(MissedTickBehavior::Delay);
    sends
}
