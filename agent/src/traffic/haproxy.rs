//! `haproxy`: weights by the runtime socket, and the state file that a restart reads.
//!
//! ```text
//! test     show servers state, show stat: every host a server, nobody else gets traffic, `balance roundrobin`
//! set      set server B/H weight N (and ready) ─▶ the others weight 0, maint ─▶ show servers state ─▶ state file (durable)
//! observe  show servers state: weight, and not in maintenance or draining
//! open     show stat: current sessions of each server
//! ```
//!
//! - Weights are absolute and at most 256; one that HAProxy takes in percent is relative to the configured one. A division
//!   that does not read back as itself is refused. They are chosen near 100: with 19, 19 and 2 HAProxy 2.6 sent 4.86 %
//!   where 5 was meant, with 76, 76 and 8 it sent 4.96 (20,000 requests); with 247, 247 and 26 it sent 4.99, and took
//!   thousands of requests to get there after a change.
//! - Who gets nothing gets weight 0 *and* maintenance: with weight 0, or draining, a client that a cookie binds to a server
//!   goes on to it. Sessions that are open end by themselves; health checks of it rest meanwhile. Maintenance at weight 0 is
//!   taken for ours, and ends when the server is given traffic; at another weight it is somebody's own, and stays: that
//!   host is refused until it is `ready`.
//! - HAProxy answers an unknown server, and everything else, with a success: every reply to a change that is not empty is
//!   a failure, and all of it is read back.
//! - First traffic is given, then taken away: at no moment does a backend have nobody.
//!
//! Invariant: what is observed is read from the running HAProxy, of every backend.
//! Invariant: every change of weights is in the state file before it counts as done.

#[cfg(test)]
mod real;
mod socket;
mod state;

use std::{collections::BTreeSet, path::PathBuf};

use proto::policy::{HaproxyProxy, TrafficPolicy};
use tokio::time::{Duration, Instant};

use self::{
    socket::Socket,
    state::{Row, backends_by_weight, sessions},
};
use super::{
    Doing, Open, Problem, Proxy, SET_ANEW,
    division::{self, Groups, Shares},
    file,
};
use crate::{finding::Finding, order::Weights};

/// The largest weight of a server.
const WEIGHT_MAX: u64 = 256;
/// How long a look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// How long putting back may take.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// Changes in one line: HAProxy reads 16 KiB of it at most.
const CHANGES_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Haproxy {
    socket: Socket,
    state_file: PathBuf,
    groups: Groups,
    /// One for each port.
    backends: Vec<String>,
}

impl Haproxy {
    pub(super) fn new(haproxy: &HaproxyProxy, policy: &TrafficPolicy) -> Self {
        let backend = |port: &String| format!("{}-{port}", policy.app);
        Self {
            socket: Socket::new(&haproxy.socket),
            state_file: haproxy.state_file.clone(),
            groups: policy.groups.clone(),
            backends: policy.ports.keys().map(backend).collect(),
        }
    }

    /// The servers of our backends, as they run.
    async fn rows(&self, deadline: Instant) -> Result<Vec<Row>, String> {
        let rows = state::rows(&self.socket.ask("show servers state", deadline).await?)?;
        Ok(rows.into_iter().filter(|row| self.backends.contains(&row.backend)).collect())
    }

    /// Why the backends are not what this is for, where they are not.
    fn refusal(&self, rows: &[Row]) -> Option<String> {
        let known = |host: &String| self.groups.values().any(|hosts| hosts.contains_key(host));
        for backend in &self.backends {
            let mut own = rows.iter().filter(|row| row.backend == *backend);
            if own.clone().next().is_none() {
                return Some(format!(
                    "HAProxy has no backend {backend}, or no server in it; mend: add it to its configuration"
                ));
            }
            let missing = |host: &&String| !own.clone().any(|row| row.server == **host);
            let missing: Vec<&String> =
                self.groups.values().flat_map(|hosts| hosts.keys()).filter(missing).collect();
            if !missing.is_empty() {
                let names = division::listed(missing);
                return Some(format!(
                    "backend {backend} has no server {names}; mend: call its servers like their hosts"
                ));
            }
            if let Some(row) = own.find(|row| row.is_given() && !known(&row.server)) {
                return Some(format!(
                    "server {backend}/{} gets traffic, and is not in this host's policy; mend: `set server {backend}/{} \
                     state maint`, or add it",
                    row.server, row.server
                ));
            }
        }
        None
    }

    async fn try_test(&self, to: &Weights, deadline: Instant) -> Result<(), String> {
        division::within(&self.groups, to, WEIGHT_MAX)?;
        let rows = self.rows(deadline).await?;
        if let Some(why) = self.refusal(&rows) {
            return Err(why);
        }
        let wanted = division::reached(&self.groups, to);
        let held = rows.iter().find(|row| wanted.contains(&row.server) && row.is_held_by_hand());
        if let Some(Row { backend, server, .. }) = held {
            return Err(format!(
                "somebody has {backend}/{server} in maintenance or draining; mend: `set server {backend}/{server} state \
                 ready`, or leave that host out"
            ));
        }
        let stat = self.socket.ask("show stat", deadline).await?;
        let by_weight = backends_by_weight(&stat)?;
        if let Some(other) = self.backends.iter().find(|backend| !by_weight.contains(*backend)) {
            return Err(format!(
                "backend {other} does not divide by weight alone; mend: `balance roundrobin`"
            ));
        }
        self.state_file_works(deadline).await.map(drop)
    }

    /// Whether a restart would read the state file: as far as that can be told. The words say what could not.
    async fn state_file_works(&self, deadline: Instant) -> Result<Option<String>, String> {
        file::is_own(&self.state_file).map_err(|error| error.to_string())?;
        let info = self.socket.ask("show info", deadline).await?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid: ")?.trim().parse().ok());
        let texts = pid.and_then(state::configuration_of);
        let Some(texts) = texts else {
            return Ok(Some("its configuration cannot be read from here".to_owned()));
        };
        state::reads_state_file(&texts, &self.state_file).map(|()| None)
    }

    async fn try_set(&self, to: &Weights, deadline: Instant) -> Result<(), String> {
        let shares = division::within(&self.groups, to, WEIGHT_MAX)?;
        let before = self.rows(deadline).await?;
        if let Some(why) = self.refusal(&before) {
            return Err(why);
        }
        match self.make(&shares, &before, deadline).await {
            Ok(()) => Ok(()),
            Err(why) => Err(format!("{why}; {}", self.put_back(&before).await)),
        }
    }

    async fn make(&self, shares: &Shares, before: &[Row], deadline: Instant) -> Result<(), String> {
        let (mut given, mut taken) = (Vec::new(), Vec::new());
        for row in before {
            let Row { backend, server, .. } = row;
            match shares.get(server) {
                None => {}
                Some(0) => {
                    taken.push(format!("set server {backend}/{server} weight 0"));
                    taken.push(format!("set server {backend}/{server} state maint"));
                }
                Some(part) => {
                    given.push(format!("set server {backend}/{server} weight {part}"));
                    if !row.is_given() {
                        given.push(format!("set server {backend}/{server} state ready"));
                    }
                }
            }
        }
        given.extend(taken);
        self.change(&given, deadline).await?;
        let now = self.rows(deadline).await?;
        for row in &now {
            let wanted = shares.get(&row.server).copied();
            let runs = if row.is_given() { row.weight } else { 0 };
            if wanted.is_some_and(|wanted| wanted != runs) {
                return Err(format!(
                    "{}/{} was told weight {}, and has {runs}",
                    row.backend,
                    row.server,
                    wanted.unwrap_or_default()
                ));
            }
        }
        self.persist(deadline).await
    }

    /// Every change is answered with nothing, or it was none.
    async fn change(&self, changes: &[String], deadline: Instant) -> Result<(), String> {
        for some in changes.chunks(CHANGES_MAX) {
            let reply = self.socket.ask(&some.join("; "), deadline).await?;
            let words: Vec<&str> =
                reply.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            if !words.is_empty() {
                return Err(format!("HAProxy says: {}", words.join(" | ")));
            }
        }
        Ok(())
    }

    async fn persist(&self, deadline: Instant) -> Result<(), String> {
        let all = self.socket.ask("show servers state", deadline).await?;
        state::rows(&all)?;
        file::write_own(&self.state_file, all.as_bytes(), file::OPEN)
            .map_err(|error| error.to_string())
    }

    /// Every server as it was; in words how that went.
    async fn put_back(&self, before: &[Row]) -> String {
        let deadline = Instant::now() + BACK_WITHIN;
        let of = |row: &Row| {
            let Row { backend, server, weight, .. } = row;
            let state = row.state_word();
            [
                format!("set server {backend}/{server} weight {weight}"),
                format!("set server {backend}/{server} state {state}"),
            ]
        };
        let (given, taken): (Vec<&Row>, Vec<&Row>) = before.iter().partition(|row| row.is_given());
        let changes: Vec<String> = given.into_iter().chain(taken).flat_map(of).collect();
        let back = match self.change(&changes, deadline).await {
            Ok(()) => self.persist(deadline).await,
            Err(why) => Err(why),
        };
        match back {
            Ok(()) => "every server is as it was before".to_owned(),
            Err(why) => format!(
                "and the servers could not be put back as they were: {why}; mend: {SET_ANEW} once HAProxy answers"
            ),
        }
    }

    async fn try_observe(&self) -> Result<Option<Weights>, String> {
        let rows = self.rows(Instant::now() + LOOK_WITHIN).await?;
        if let Some(why) = self.refusal(&rows) {
            return Err(why);
        }
        let mut divisions = Vec::new();
        for backend in &self.backends {
            let own = rows.iter().filter(|row| row.backend == *backend && row.is_given());
            let shares: Shares = own.map(|row| (row.server.clone(), row.weight)).collect();
            divisions.push((backend, division::back(&self.groups, &shares)));
        }
        let differ = divisions.windows(2).find(|two| two[0].1 != two[1].1);
        if let Some([(one, first), (other, second)]) = differ {
            let words = |division: &Option<Weights>| {
                division.as_ref().map_or_else(|| "nobody".to_owned(), Weights::to_string)
            };
            return Err(format!(
                "{one} sends to {}, {other} to {}; mend: {SET_ANEW}",
                words(first),
                words(second)
            ));
        }
        Ok(divisions.pop().and_then(|(_, division)| division))
    }

    async fn try_open(&self, hosts: &BTreeSet<String>) -> Result<Open, String> {
        let stat = self.socket.ask("show stat", Instant::now() + LOOK_WITHIN).await?;
        let mut open = Open::default();
        for (backend, server, count) in sessions(&stat)? {
            if count > 0 && self.backends.contains(&backend) && hosts.contains(&server) {
                *open.hosts.entry(server).or_default() += count;
            }
        }
        Ok(open)
    }
}

impl Proxy for Haproxy {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn test<'a>(&'a self, to: &'a Weights, deadline: Instant) -> Doing<'a, Result<(), String>> {
        Box::pin(self.try_test(to, deadline))
    }

    fn set<'a>(&'a self, to: &'a Weights, deadline: Instant) -> Doing<'a, Result<(), String>> {
        Box::pin(self.try_set(to, deadline))
    }

    fn observe(&self) -> Doing<'_, Result<Option<Weights>, String>> {
        Box::pin(self.try_observe())
    }

    fn open<'a>(&'a self, hosts: &'a BTreeSet<String>) -> Doing<'a, Result<Open, String>> {
        Box::pin(self.try_open(hosts))
    }

    fn troubles(&self) -> Doing<'_, Vec<Problem>> {
        Box::pin(async {
            let problem = |what: String| Problem { what, mend: SET_ANEW.to_owned(), warns: false };
            let Ok(rows) = self.rows(Instant::now() + LOOK_WITHIN).await else { return Vec::new() };
            let mut problems = Vec::new();
            let down = |row: &&Row| row.is_given() && row.is_down();
            for Row { backend, server, .. } in rows.iter().filter(down) {
                let what =
                    format!("HAProxy finds {backend}/{server} down, and sends nothing there");
                let mend = format!("see why {server} does not answer HAProxy's checks");
                problems.push(Problem { what, mend, warns: true });
            }
            let path = self.state_file.display();
            let saved = match file::read(&self.state_file) {
                Ok(Some(bytes)) => state::rows(&String::from_utf8_lossy(&bytes))
                    .map_err(|_| "is not what HAProxy printed".to_owned()),
                // What its configuration says anyway has not to be saved.
                Ok(None) if rows.iter().all(Row::is_as_configured) => return problems,
                Ok(None) => {
                    Err("is gone: a restart of HAProxy would change the traffic".to_owned())
                }
                Err(error) => Err(format!("cannot be read: {error}")),
            };
            let same = |row: &Row| {
                let own = |saved: &&Row| saved.backend == row.backend && saved.server == row.server;
                let saved = saved.as_ref().ok().and_then(|all| all.iter().find(own));
                saved.is_some_and(|saved| {
                    saved.weight == row.weight && saved.is_given() == row.is_given()
                })
            };
            match &saved {
                Err(why) => problems.push(problem(format!("{path} {why}"))),
                Ok(_) if !rows.iter().all(same) => problems.push(problem(format!(
                    "{path} does not hold the weights that run: a restart of HAProxy would change the traffic"
                ))),
                Ok(_) => {}
            }
            problems
        })
    }

    fn findings(&self) -> Doing<'_, Vec<Finding>> {
        Box::pin(async {
            let what = format!("traffic through haproxy at {}", self.socket.shown());
            let deadline = Instant::now() + LOOK_WITHIN;
            let mut found = Vec::new();
            match self.rows(deadline).await {
                Err(why) => return vec![Finding::of_words(what, &why)],
                Ok(rows) => found.extend(self.refusal(&rows)),
            }
            match self.state_file_works(deadline).await {
                Ok(_) => {}
                Err(why) => found.push(why),
            }
            if found.is_empty() {
                return vec![Finding::ok(what)];
            }
            found.iter().map(|why| Finding::of_words(&what, why)).collect()
        })
    }
}
