//! What users got: counted as it comes, and told as one document.
//!
//! Invariant: `sent` is the sum of what was answered, what failed, idle resets and what is open.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::connection::Got;

/// Failures of which each one is told; the rest is counted.
const TOLD_MAX: usize = 50;

/// How a request failed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Nobody took the connection.
    Refused,
    /// The connection was cut before the whole answer was there.
    Reset,
    /// There was no whole answer in time.
    Timeout,
    /// An answer of 500 or more.
    Status(u16),
    Other(String),
}

/// Failures by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Failures {
    /// How many requests there were in all.
    pub requests: u64,
    pub refused: u64,
    pub reset: u64,
    pub timeout: u64,
    pub status: BTreeMap<u16, u64>,
    pub other: BTreeMap<String, u64>,
}

impl Failures {
    /// All of them.
    pub fn count(&self) -> u64 {
        let more = self.status.values().chain(self.other.values()).sum::<u64>();
        self.refused + self.reset + self.timeout + more
    }

    fn add(&mut self, failure: Failure) {
        match failure {
            Failure::Refused => self.refused += 1,
            Failure::Reset => self.reset += 1,
            Failure::Timeout => self.timeout += 1,
            Failure::Status(status) => *self.status.entry(status).or_default() += 1,
            Failure::Other(words) => *self.other.entry(words).or_default() += 1,
        }
    }
}

/// The answers of one version, of any status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    pub count: u64,
    /// Since the load began.
    pub first_ms: u64,
    pub last_ms: u64,
    /// When the last of their requests was begun: before its connection was opened, where it opened one.
    pub last_asked_ms: u64,
}

/// From when the schedule wanted a request until its whole answer was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    pub p50_us: u64,
    pub p95_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// For who has the same clock.
    #[serde(skip)]
    pub began: Instant,
    pub took_ms: u64,
    pub sent: u64,
    /// With a status below 500.
    pub answered: u64,
    pub fresh: Failures,
    pub kept: Failures,
    /// Connections that had been answered before, were closed by the server, and a request had just gone out by them.
    pub idle_resets: u64,
    /// Connections that were opened to be kept.
    pub connections: u64,
    pub versions: BTreeMap<String, Seen>,
    pub hosts: BTreeMap<String, u64>,
    /// The first failures, each with when it was.
    pub failures: Vec<(u64, Failure)>,
    pub latency: Latency,
}

impl Report {
    /// When the last answer of a version came, by this machine's clock.
    pub fn last_of(&self, version: &str) -> Option<Instant> {
        Some(self.began + Duration::from_millis(self.versions.get(version)?.last_ms))
    }

    /// When the last request that got this version was begun. One that is answered late may have been asked for early.
    pub fn last_asked_of(&self, version: &str) -> Option<Instant> {
        Some(self.began + Duration::from_millis(self.versions.get(version)?.last_asked_ms))
    }

    /// When the first did.
    pub fn first_of(&self, version: &str) -> Option<Instant> {
        Some(self.began + Duration::from_millis(self.versions.get(version)?.first_ms))
    }

    /// Failures of both kinds of connections; without idle resets.
    pub fn failed(&self) -> u64 {
        self.fresh.count() + self.kept.count()
    }
}

/// What is counted while the load goes on.
#[derive(Debug)]
pub(super) struct Tally {
    began: Instant,
    sent: u64,
    answered: u64,
    /// Of kept connections, then of fresh ones.
    failures: [Failures; 2],
    told: Vec<(u64, Failure)>,
    idle_resets: u64,
    connections: u64,
    versions: BTreeMap<String, Seen>,
    hosts: BTreeMap<String, u64>,
    latencies_us: Vec<u64>,
}

impl Tally {
    pub(super) fn begin() -> Self {
        Self {
            began: Instant::now(),
            sent: 0,
            answered: 0,
            failures: Default::default(),
            told: Vec::new(),
            idle_resets: 0,
            connections: 0,
            versions: BTreeMap::new(),
            hosts: BTreeMap::new(),
            latencies_us: Vec::new(),
        }
    }

    pub(super) fn sent(&mut self, fresh: bool) {
        self.sent += 1;
        self.failures[usize::from(fresh)].requests += 1;
    }

    pub(super) fn connected(&mut self) {
        self.connections += 1;
    }

    pub(super) fn idle_reset(&mut self) {
        self.idle_resets += 1;
    }

    pub(super) fn failed(&mut self, fresh: bool, failure: Failure) {
        if self.told.len() < TOLD_MAX {
            self.told.push((ms(self.began.elapsed()), failure.clone()));
        }
        self.failures[usize::from(fresh)].add(failure);
    }

    pub(super) fn answered(&mut self, fresh: bool, got: Got, asked: Instant, latency: Duration) {
        let now = ms(self.began.elapsed());
        let asked = ms(asked.saturating_duration_since(self.began));
        self.latencies_us.push(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        if let Some(version) = got.version {
            let seen = self.versions.entry(version);
            let none = Seen { count: 0, first_ms: now, last_ms: now, last_asked_ms: asked };
            let seen = seen.or_insert(none);
            seen.count += 1;
            seen.last_ms = now;
            seen.last_asked_ms = seen.last_asked_ms.max(asked);
        }
        if let Some(host) = got.host {
            *self.hosts.entry(host).or_default() += 1;
        }
        if got.status >= 500 {
            self.failed(fresh, Failure::Status(got.status));
        } else {
            self.answered += 1;
        }
    }

    pub(super) fn report(&self) -> Report {
        let mut sorted = self.latencies_us.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
            sorted.get(place).copied().unwrap_or(0)
        };
        let [kept, fresh] = self.failures.clone();
        Report {
            began: self.began,
            took_ms: ms(self.began.elapsed()),
            sent: self.sent,
            answered: self.answered,
            fresh,
            kept,
            idle_resets: self.idle_resets,
            connections: self.connections,
            versions: self.versions.clone(),
            hosts: self.hosts.clone(),
            failures: self.told.clone(),
            latency: Latency { p50_us: at(50), p95_us: at(95), p99_us: at(99), max_us: at(100) },
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
