//! A user's view of each host and of the edge, from outside the agents: one request every 10 ms, each on a connection of
//! its own.
//!
//! Invariant: what it tells was answered by the app itself, at a time that it read itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::task::JoinHandle;

use super::layout::{Layout, SERVICES, SandboxHost};

/// How often each host is asked.
const EVERY: Duration = Duration::from_millis(10);
/// A request that takes longer is a failure.
const TIMEOUT: Duration = Duration::from_millis(500);

/// What was seen of one host.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub requests: u64,
    pub failures: u64,
    /// First and last good answer of each version.
    pub good: BTreeMap<String, (Instant, Instant)>,
    /// The last answer of each version, good or not.
    pub last: BTreeMap<String, Instant>,
    /// The first answer that was not good, and the last.
    pub failed: Option<(Instant, Instant)>,
}

/// Asks all hosts until it is dropped.
#[derive(Debug)]
pub(super) struct Prober {
    seen: Arc<Mutex<BTreeMap<&'static str, Seen>>>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Deserialize)]
struct Answer {
    version: String,
}

impl Prober {
    /// Begins, on every host and at the edge.
    pub(super) fn start(layout: &Layout) -> anyhow::Result<Self> {
        Self::of_hosts(layout.hosts.iter())
    }

    /// Begins, only as users come: through the edge.
    pub(super) fn at_the_edge(layout: &Layout) -> anyhow::Result<Self> {
        Self::of_hosts(layout.edge_host().into_iter())
    }

    fn of_hosts<'a>(hosts: impl Iterator<Item = &'a SandboxHost>) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .timeout(TIMEOUT)
            .build()?;
        let seen = Arc::<Mutex<BTreeMap<&'static str, Seen>>>::default();
        let tasks = hosts.map(|host| {
            let (name, url) = (host.name, host.url(SERVICES[0].1, "/api/contacts"));
            tokio::spawn(probe(client.clone(), name, url, seen.clone()))
        });
        Ok(Self { tasks: tasks.collect(), seen })
    }

    /// What was seen of a host so far.
    pub(super) fn of(&self, host: &str) -> Seen {
        lock(&self.seen).get(host).cloned().unwrap_or_default()
    }

    /// The share of requests to these hosts that failed since `since` was taken; absent without requests.
    pub(super) fn error_rate_since<'a>(
        &self,
        since: &BTreeMap<&'static str, Seen>,
        hosts: impl Iterator<Item = &'a str>,
    ) -> Option<f64> {
        let mut requests = 0;
        let mut failures = 0;
        for host in hosts {
            let now = self.of(host);
            let before = since.get(host).cloned().unwrap_or_default();
            requests += now.requests - before.requests;
            failures += now.failures - before.failures;
        }
        #[expect(clippy::cast_precision_loss, reason = "a sandbox does not live for 2^53 requests")]
        let rate = (requests > 0).then(|| failures as f64 / requests as f64);
        rate
    }

    /// Everything so far.
    pub(super) fn all(&self) -> BTreeMap<&'static str, Seen> {
        lock(&self.seen).clone()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn probe(
    client: reqwest::Client,
    host: &'static str,
    url: String,
    seen: Arc<Mutex<BTreeMap<&'static str, Seen>>>,
) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = client.get(&url).send().await;
        let good = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
        let version = match answer {
            Ok(answer) => answer.json::<Answer>().await.ok().map(|answer| answer.version),
            Err(_) => None,
        };
        let at = Instant::now();
        let mut seen = lock(&seen);
        let row = seen.entry(host).or_default();
        row.requests += 1;
        row.failures += u64::from(!good);
        if !good {
            row.failed.get_or_insert((at, at)).1 = at;
        }
        if let Some(version) = version {
            row.last.insert(version.clone(), at);
            if good {
                row.good.entry(version).or_insert((at, at)).1 = at;
            }
        }
    }
}

fn lock<T>(seen: &Mutex<T>) -> MutexGuard<'_, T> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
