//! `nginx`: an include file with an upstream for each port, and a reload that is proven.
//!
//! ```text
//! test     candidate, bound over the include in a mount namespace of its own ─▶ nginx -t      nothing on the disk changes
//! set      include (durable) ─▶ drivers::nginx: -t, reload, none but new workers ─▶ told: this generation?
//! observe  told: what the running workers say themselves                          └─ no: the old file back, and reloaded
//! open     sockets of nginx's processes to hosts that get nothing (/proc)
//! ```
//!
//! How traffic is divided (measured on nginx 1.22, 20,000 requests, one worker and four):
//! - Upstream weights with a `zone` hit 5, 25 and 50 % to the request, and keep the failover from one host to the next
//!   that `proxy_next_upstream` gives. Without `zone` each worker counts for itself, which is off by a request or two.
//!   `split_clients` was off by up to 72 of 20,000, and has no other host to go on to.
//! - A weight of 0 is no nginx; such a host is `down`.
//! - `max_fails=3`: the default, 1, takes a host out for ten seconds after a single failed attempt, which makes a canary of
//!   5 % one of 0 %; none at all would send users to a dead host for as long as it is dead. So a share holds among hosts
//!   that answer.
//! - No `keepalive` to hosts: a connection that is open is a request that is under way, which is what a drain counts, and
//!   none is kept to a process that a switch replaces.
//!
//! The running nginx tells its division itself, on an address of the loopback network that is the include's own, and on a
//! port that only root can listen on. A Unix socket would not do: what a killed nginx leaves of it keeps the next from
//! starting (tried). A candidate is tested by a bind mount, for then no file of it lies where a reload of somebody else
//! could read it, and the owner's main file, its relative includes and its paths are the true ones. systemd makes the mount
//! for the one process, so that nothing of it is left, however that ends.
//!
//! Invariant: nothing untested is ever written to the include.
//! Invariant: a reload counts when the running workers tell the new generation.

mod connections;
mod include;
#[cfg(test)]
mod real;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write as _},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use proto::policy::{NginxProxy, TrafficPolicy};
use tokio::time::{Instant, sleep};

use self::include::{Told, generation_of, rendered};
use super::{Doing, Open, Problem, Proxy, SET_ANEW, division::Groups, file};
use crate::{
    drivers::{Context, ServiceDriver as _, nginx::NginxDriver},
    finding::Finding,
    http::{Client, Request},
    order::{Step, Weights},
};

/// Below 1024: only root can listen there, so that nobody else can speak for nginx or stand in its way.
const PORT: u16 = 476;
/// Begins the name of a file that is tested.
const CANDIDATE: &str = "traffic-candidate-";
/// How long the running nginx may take to tell.
const TELL_WITHIN: Duration = Duration::from_secs(2);
/// How long new workers may go on to be those that do not tell the new generation.
const READ_BACK_WITHIN: Duration = Duration::from_secs(3);
const READ_BACK_EVERY: Duration = Duration::from_millis(50);
/// So often in a row: each worker may be the one that answers.
const READ_BACK_TIMES: u32 = 3;
/// What is kept of a step's time for putting the old file back.
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// nginx refuses this, wherever it is included.
const NOT_NGINX: &[u8] = b"lastgood_is_included;\n";
/// What stands in the include before anything was set: nothing that nginx does.
const NOTHING_YET: &[u8] = b"# Lastgood writes the upstreams here when the traffic is first set.\n";

/// See the module.
#[derive(Debug)]
pub(super) struct Nginx {
    policy: TrafficPolicy,
    include: PathBuf,
    state: PathBuf,
    unit: String,
    driver: NginxDriver,
    http: Client,
    /// Where the running nginx tells.
    tells_at: String,
}

impl Nginx {
    pub(super) fn new(
        nginx: &NginxProxy,
        policy: &TrafficPolicy,
        state: &Path,
        http: Client,
    ) -> Self {
        let context = Context {
            component: Step::TRAFFIC.to_owned(),
            state_dir: state.to_owned(),
            hold_path: state.join("hold").join(Step::TRAFFIC),
            autostart: false,
        };
        Self {
            policy: policy.clone(),
            include: nginx.include.clone(),
            state: state.to_owned(),
            unit: nginx.unit.clone(),
            driver: NginxDriver::new(&nginx.unit, &context),
            http,
            tells_at: tells_at(&nginx.include),
        }
    }

    fn groups(&self) -> &Groups {
        &self.policy.groups
    }

    /// What the running nginx says; none where nothing listens there.
    async fn told(&self) -> Result<Option<Told>, String> {
        let url = format!("http://{}/", self.tells_at);
        let request =
            Request { method: "GET", url: &url, body: None, headers: &[], within: TELL_WITHIN };
        let answer = match self.http.ask(&request).await {
            Ok(answer) => answer,
            Err(error) if error.is_unheard() => return Ok(None),
            Err(error) => return Err(format!("{} does not tell: {error}", self.unit)),
        };
        let told = Told::read(&answer.body);
        told.map(Some).ok_or_else(|| {
            format!(
                "something else than {} answers on {} ({})",
                self.unit, self.tells_at, answer.status
            )
        })
    }

    /// The same, several times: in the middle of somebody's reload old and new workers answer by turns.
    async fn told_by_all(&self) -> Result<Option<Told>, String> {
        let first = self.told().await?;
        for _ in 1..READ_BACK_TIMES {
            if self.told().await? != first {
                return Err(format!("{} is being reloaded; ask again", self.unit));
            }
        }
        Ok(first)
    }

    /// Whether nginx would take these bytes in the place of the include. Each test has a file of its own: `agent check`
    /// may run while the agent does.
    async fn takes(&self, bytes: &[u8], deadline: Instant) -> Result<(), String> {
        let made = || {
            let mut file = tempfile::Builder::new().prefix(CANDIDATE).tempfile_in(&self.state)?;
            file.write_all(bytes)?;
            Ok(file)
        };
        let candidate = made().map_err(|error: io::Error| {
            format!("no candidate can be written in {}: {error}", self.state.display())
        })?;
        let tested = self.driver.accepts_with(&self.include, candidate.path(), deadline).await;
        tested.map_err(|error| error.to_string())
    }

    /// Whether nginx reads the include at all: then it cannot take what is no nginx.
    async fn includes_it(&self, deadline: Instant) -> Result<(), String> {
        let include = self.include.display();
        match self.takes(NOT_NGINX, deadline).await {
            Err(why) if why.contains("lastgood_is_included") => Ok(()),
            Err(why) => Err(why),
            Ok(()) => Err(format!(
                "the configuration of {} does not include {include}; mend: add `include {include};` to its `http` block",
                self.unit
            )),
        }
    }

    async fn try_test(&self, to: &Weights, deadline: Instant) -> Result<(), String> {
        file::is_own(&self.include).map_err(|error| error.to_string())?;
        let (bytes, generation) = rendered(&self.policy, to, &self.tells_at)?;
        let there = file::read(&self.include).map_err(|error| error.to_string())?;
        if there.is_none() {
            // Something has to be there for the candidate to be bound over.
            let written = file::write_own(&self.include, NOTHING_YET, file::OPEN);
            written.map_err(|error| error.to_string())?;
        }
        let runs = self.told().await.ok().flatten().map(|told| told.generation);
        self.takes(&bytes, deadline).await?;
        // What tells is included.
        match runs {
            Some(runs) if runs == generation => Ok(()),
            Some(_) | None => self.includes_it(deadline).await,
        }
    }

    async fn try_set(&self, to: &Weights, deadline: Instant) -> Result<(), String> {
        let (bytes, generation) = rendered(&self.policy, to, &self.tells_at)?;
        let old = file::read(&self.include).map_err(|error| error.to_string())?;
        let runs = self.told().await.ok().flatten().map(|told| told.generation);
        if old.as_ref() == Some(&bytes) && runs.as_ref() == Some(&generation) {
            return Ok(());
        }
        file::write_own(&self.include, &bytes, file::OPEN).map_err(|error| error.to_string())?;
        let until = deadline.checked_sub(BACK_WITHIN).unwrap_or(deadline);
        let until = until.max(Instant::now() + READ_BACK_WITHIN);
        let made = match self.driver.reload(until).await {
            Ok(()) => self.reads_back(&generation).await,
            Err(error) => Err(error.to_string()),
        };
        match made {
            Ok(()) => Ok(()),
            Err(why) => Err(format!("{why}; {}", self.put_back(old).await)),
        }
    }

    /// Whether what serves is what was written.
    async fn reads_back(&self, generation: &str) -> Result<(), String> {
        let end = Instant::now() + READ_BACK_WITHIN;
        let mut seen = 0;
        loop {
            let why = match self.told().await {
                Ok(Some(told)) if told.generation == generation => {
                    seen += 1;
                    if seen >= READ_BACK_TIMES {
                        return Ok(());
                    }
                    continue;
                }
                Ok(Some(_)) => {
                    format!("{} took the reload, and goes by an earlier division", self.unit)
                }
                Ok(None) => format!(
                    "{} took the reload, and does not go by {}: its configuration does not include it, or another \
                     program has {}",
                    self.unit,
                    self.include.display(),
                    self.tells_at
                ),
                Err(why) => why,
            };
            seen = 0;
            if Instant::now() >= end {
                return Err(why);
            }
            sleep(READ_BACK_EVERY).await;
        }
    }

    /// The file that was there before, and what serves by it; in words how that went.
    async fn put_back(&self, old: Option<Vec<u8>>) -> String {
        let include = self.include.display();
        let back = match &old {
            Some(bytes) => file::write_own(&self.include, bytes, file::OPEN),
            None => file::remove(&self.include),
        };
        if let Err(error) = back {
            return format!(
                "and what {include} held before could not be put back: {error}; mend: {SET_ANEW}, and no reload before"
            );
        }
        let before = old.as_deref().and_then(generation_of);
        let runs = self.told().await.map(|told| told.map(|told| told.generation));
        if runs.as_ref().is_ok_and(|runs| *runs == before) {
            return format!("{include} is as it was before, and so is what {} does", self.unit);
        }
        match self.driver.reload(Instant::now() + BACK_WITHIN).await {
            Ok(()) => {
                format!("{include} is as it was before, and {} was reloaded with it", self.unit)
            }
            Err(error) => format!(
                "{include} is as it was before, and {} could not be made to go by it: {error}; mend: `nginx -t` says why",
                self.unit
            ),
        }
    }

    async fn try_open(&self, hosts: &BTreeSet<String>) -> Result<Open, String> {
        let Some(processes) = self.driver.processes().await.map_err(|error| error.to_string())?
        else {
            return Ok(Open::default());
        };
        let mut ends = BTreeMap::new();
        let addresses = self.policy.groups.values().flatten();
        for (host, address) in addresses.filter(|(host, _)| hosts.contains(*host)) {
            for port in self.policy.ports.values() {
                let found = tokio::net::lookup_host((address.as_str(), *port)).await;
                let found =
                    found.map_err(|error| format!("address {address} of {host}: {error}"))?;
                ends.extend(found.map(|end| (end, host.clone())));
            }
        }
        let old = u64::try_from(processes.ending.len()).unwrap_or(u64::MAX);
        let looked = tokio::task::spawn_blocking(move || connections::of(&processes, &ends)).await;
        let hosts = looked.expect("reading /proc does not panic");
        let hosts =
            hosts.map_err(|error| format!("the connections of nginx cannot be seen: {error}"))?;
        Ok(Open { hosts, old })
    }
}

impl Proxy for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn test<'a>(&'a self, to: &'a Weights, deadline: Instant) -> Doing<'a, Result<(), String>> {
        Box::pin(self.try_test(to, deadline))
    }

    fn set<'a>(&'a self, to: &'a Weights, deadline: Instant) -> Doing<'a, Result<(), String>> {
        Box::pin(self.try_set(to, deadline))
    }

    fn observe(&self) -> Doing<'_, Result<Option<Weights>, String>> {
        Box::pin(async {
            if let Some(told) = self.told_by_all().await? {
                return told.weights(self.groups()).map(Some);
            }
            let include = self.include.display();
            match file::read(&self.include).map_err(|error| error.to_string())? {
                Some(bytes) if generation_of(&bytes).is_some() => Err(format!(
                    "{} does not run, or does not go by {include}; `systemctl status {}` and `nginx -t` say why",
                    self.unit, self.unit
                )),
                Some(_) | None => Ok(None),
            }
        })
    }

    fn open<'a>(&'a self, hosts: &'a BTreeSet<String>) -> Doing<'a, Result<Open, String>> {
        Box::pin(self.try_open(hosts))
    }

    fn troubles(&self) -> Doing<'_, Vec<Problem>> {
        Box::pin(async {
            let Ok(Some(told)) = self.told().await else { return Vec::new() };
            let include = self.include.display();
            let on_disk = file::read(&self.include).ok().flatten();
            let what = match on_disk.as_deref().map(generation_of) {
                Some(Some(generation)) if generation == told.generation => return Vec::new(),
                Some(Some(_)) => {
                    format!("{include} holds another division than {} goes by", self.unit)
                }
                Some(None) => format!("{include} was changed by somebody"),
                None => format!("{include} is gone"),
            };
            let what = format!("{what}: the next reload of nginx would change the traffic");
            vec![Problem { what, mend: SET_ANEW.to_owned(), warns: false }]
        })
    }

    fn findings(&self) -> Doing<'_, Vec<Finding>> {
        Box::pin(async {
            let what = format!("traffic through {}", self.unit);
            let mut found: Vec<Finding> = Vec::new();
            let problems = self.driver.unit_problems().await;
            found.extend(problems.iter().map(|words| Finding::of_words(&what, words)));
            let include = format!("include {}", self.include.display());
            let read = file::is_own(&self.include).and_then(|()| file::read(&self.include));
            match read {
                Err(error) => found.push(Finding::of_words(&include, &error.to_string())),
                Ok(None) => found.push(Finding::bad(
                    &include,
                    "is not there",
                    format!("{SET_ANEW}: the first time makes it"),
                )),
                // Before the agent's first start there is nowhere to put a candidate.
                Ok(Some(_)) if problems.is_empty() && self.state.is_dir() => {
                    let included = self.includes_it(Instant::now() + BACK_WITHIN).await;
                    found.extend(included.err().map(|why| Finding::of_words(&include, &why)));
                }
                Ok(Some(_)) => {}
            }
            if found.is_empty() {
                found.push(Finding::ok(what));
            }
            found
        })
    }
}

/// An address of the loopback network for each include, so that two of them do not meet.
fn tells_at(include: &Path) -> String {
    let hash = blake3::hash(include.as_os_str().as_encoded_bytes());
    let [one, other, ..] = *hash.as_bytes();
    // `L`, and neither a network's own address nor its last.
    let address = Ipv4Addr::new(127, 76, one, other % 254 + 1);
    format!("{address}:{PORT}")
}
