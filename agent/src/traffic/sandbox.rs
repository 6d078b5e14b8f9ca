//! `sandbox`: the small proxy of `ctl sandbox`, asked over its control socket in HTTP and JSON.
//!
//! ```text
//! GET /weights ─▶ {"groups":{"blue":100},"out":[]}, or 404 where nothing was set
//! PUT /weights {"servers":[{"host","group","address","port","weight"}…],"weights":{…}} ─▶ the same
//! GET /open    ─▶ {"crm-b1":2}
//! ```
//!
//! Invariant: what it answers to a change is what it does from then on, and after a restart.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use proto::policy::{SandboxProxy, TrafficPolicy};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Duration, Instant};

use super::{Doing, Open, Problem, Proxy, division, reach::socket_address};
use crate::{
    finding::Finding,
    http::{Client, HttpError, Request},
    order::Weights,
};

/// How long a look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// The socket says where it goes.
const URL: &str = "http://sandbox";

/// See the module.
#[derive(Debug)]
pub(super) struct Sandbox {
    policy: TrafficPolicy,
    socket: String,
    http: Client,
}

#[derive(Serialize)]
struct Put<'a> {
    servers: Vec<Server<'a>>,
    weights: &'a Weights,
}

#[derive(Serialize)]
struct Server<'a> {
    host: &'a str,
    group: &'a str,
    address: String,
    port: &'a str,
    weight: u64,
}

impl Sandbox {
    pub(super) fn new(sandbox: &SandboxProxy, policy: &TrafficPolicy) -> Result<Self, HttpError> {
        let http = Client::on_socket(&sandbox.socket)?;
        Ok(Self { policy: policy.clone(), socket: sandbox.socket.display().to_string(), http })
    }

    /// What it answers; none for a 404.
    async fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
        within: Duration,
    ) -> Result<Option<T>, String> {
        let what = format!("{method} {path} of the proxy at {}", self.socket);
        let url = format!("{URL}{path}");
        let request = Request { method, url: &url, body, headers: &[], within };
        let answer = self.http.ask(&request).await.map_err(|error| format!("{what}: {error}"))?;
        match answer.status {
            200 => serde_json::from_slice(&answer.body)
                .map(Some)
                .map_err(|_| format!("{what}: its answer is not what was asked for")),
            404 => Ok(None),
            status => {
                let said: String =
                    String::from_utf8_lossy(&answer.body).chars().take(120).collect();
                Err(format!("{what}: {status} {said}"))
            }
        }
    }

    fn servers(&self, to: &Weights) -> Result<Vec<Server<'_>>, String> {
        let shares = division::exact(&self.policy.groups, to)?;
        let mut servers = Vec::new();
        for (group, hosts) in &self.policy.groups {
            for (host, address) in hosts {
                for (port, number) in &self.policy.ports {
                    servers.push(Server {
                        host,
                        group,
                        address: socket_address(address, *number),
                        port,
                        weight: shares.get(host).copied().unwrap_or(0),
                    });
                }
            }
        }
        Ok(servers)
    }

    async fn try_set(&self, to: &Weights, deadline: Instant) -> Result<(), String> {
        let to = division::plain(&self.policy.groups, to);
        let put = Put { servers: self.servers(&to)?, weights: &to };
        let body = serde_json::to_string(&put).expect("names and numbers can be written");
        let within = deadline.saturating_duration_since(Instant::now());
        let does: Option<Weights> = self.ask("PUT", "/weights", Some(&body), within).await?;
        match does.map(|does| division::plain(&self.policy.groups, &does)) {
            Some(does) if does == to => Ok(()),
            Some(does) => Err(format!("the proxy was told {to}, and divides {does}")),
            None => Err("the proxy knows no weights".to_owned()),
        }
    }
}

impl Proxy for Sandbox {
    fn name(&self) -> &'static str {
        "sandbox"
    }

    fn test<'a>(&'a self, to: &'a Weights, _deadline: Instant) -> Doing<'a, Result<(), String>> {
        Box::pin(async move {
            self.servers(to)?;
            self.observe().await.map(drop)
        })
    }

    fn set<'a>(&'a self, to: &'a Weights, deadline: Instant) -> Doing<'a, Result<(), String>> {
        Box::pin(self.try_set(to, deadline))
    }

    fn observe(&self) -> Doing<'_, Result<Option<Weights>, String>> {
        Box::pin(async {
            let does: Option<Weights> = self.ask("GET", "/weights", None, LOOK_WITHIN).await?;
            Ok(does.map(|does| division::plain(&self.policy.groups, &does)))
        })
    }

    fn open<'a>(&'a self, hosts: &'a BTreeSet<String>) -> Doing<'a, Result<Open, String>> {
        Box::pin(async move {
            let open = self.ask("GET", "/open", None, LOOK_WITHIN).await?;
            let open: BTreeMap<String, u64> = open.unwrap_or_default();
            let still = |(host, count): &(String, u64)| *count > 0 && hosts.contains(host);
            Ok(Open { hosts: open.into_iter().filter(still).collect(), old: 0 })
        })
    }

    fn troubles(&self) -> Doing<'_, Vec<Problem>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn findings(&self) -> Doing<'_, Vec<Finding>> {
        Box::pin(async {
            let what = format!("traffic through the proxy at {}", self.socket);
            vec![match self.observe().await {
                Ok(_) => Finding::ok(what),
                Err(why) => Finding::of_words(what, &why),
            }]
        })
    }
}
