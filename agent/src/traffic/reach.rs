//! Whether hosts answer at the edge, and with which version: asked from here, for here is where users' requests come from.
//!
//! ```text
//! host ─▶ TCP connect to every port ─▶ version probe, where the policy has one ─▶ Answered, or why not
//! ```
//!
//! Invariant: all hosts are asked at the same time; one that hangs costs a moment, not a moment each.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::Duration,
};

use proto::policy::{TrafficPolicy, VersionProbe};
use serde_json::Value;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::http::{self, Client, Request};

/// How long a host has to answer on one port, and to tell its version.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How much of a version that an app sent is quoted.
const QUOTED_CHARS: usize = 120;

/// What each host that was asked said: its version where a probe asks for one, or why it did not answer.
pub(super) type Answers = BTreeMap<String, Result<Option<String>, String>>;

/// Asks hosts. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    http: Client,
    ports: BTreeMap<String, u16>,
    addresses: BTreeMap<String, String>,
    probe: Option<VersionProbe>,
}

impl Reach {
    pub(super) fn new(http: Client, policy: &TrafficPolicy) -> Self {
        let addresses = policy.groups.values().flatten();
        Self {
            http,
            ports: policy.ports.clone(),
            addresses: addresses.map(|(host, at)| (host.clone(), at.clone())).collect(),
            probe: policy.version.clone(),
        }
    }

    /// Whether hosts tell their version.
    pub(super) fn asks_for_versions(&self) -> bool {
        self.probe.is_some()
    }

    /// Asks every one of these hosts, once.
    pub(super) async fn ask(&self, hosts: &BTreeSet<String>) -> Answers {
        let mut asking = JoinSet::new();
        for host in hosts.iter().cloned() {
            let reach = self.clone();
            asking.spawn(async move {
                let answered = reach.ask_one(&host).await;
                (host, answered)
            });
        }
        asking.join_all().await.into_iter().collect()
    }

    async fn ask_one(&self, host: &str) -> Result<Option<String>, String> {
        let Some(address) = self.addresses.get(host) else {
            return Err("it is not in the policy".to_owned());
        };
        for (name, port) in &self.ports {
            let what = format!("{name} ({})", socket_address(address, *port));
            match timeout(ANSWER_WITHIN, TcpStream::connect((address.as_str(), *port))).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(format!("{what}: {}", http::words(&error))),
                Err(_) => return Err(format!("{what}: no answer within {ANSWER_WITHIN:?}")),
            }
        }
        match &self.probe {
            Some(probe) => self.version(address, probe).await.map(Some),
            None => Ok(None),
        }
    }

    async fn version(&self, address: &str, probe: &VersionProbe) -> Result<String, String> {
        let port = self.ports.get(&probe.port).copied().unwrap_or_default();
        let url = format!("http://{}{}", socket_address(address, port), probe.path);
        let what = format!("GET {}", http::shown(&url));
        let request =
            Request { method: "GET", url: &url, body: None, headers: &[], within: ANSWER_WITHIN };
        let answer = self.http.ask(&request).await.map_err(|error| format!("{what} → {error}"))?;
        if answer.status != 200 {
            return Err(format!("{what} → {}, wanted 200", answer.status));
        }
        let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
        let found = body.as_ref().and_then(|body| body.pointer(&probe.version_at));
        let text = found.and_then(|found| match found {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        });
        let text = text.ok_or_else(|| format!("{what} → no version at `{}`", probe.version_at))?;
        Ok(text.chars().take(QUOTED_CHARS).collect())
    }
}

/// Whether a version is that of a release: named the same, but for a `v` in front.
pub(super) fn is_version_of(version: &str, release: &str) -> bool {
    let plain = |text: &str| text.strip_prefix('v').unwrap_or(text).to_owned();
    plain(version) == plain(release)
}

/// `10.0.0.1:80`, `[fd00::1]:80`.
pub(super) fn socket_address(address: &str, port: u16) -> String {
    match address.parse::<Ipv6Addr>() {
        Ok(v6) => format!("[{v6}]:{port}"),
        Err(_) => format!("{address}:{port}"),
    }
}

/// `crm-b2 (api (10.0.0.2:80): connection refused)`, for each that did not answer.
pub(super) fn silent(answers: &Answers) -> BTreeMap<&str, String> {
    let mut silent = BTreeMap::new();
    for (host, answered) in answers {
        if let Err(why) = answered {
            silent.insert(host.as_str(), format!("{host} ({why})"));
        }
    }
    silent
}

/// The deadline of something that begins now.
pub(super) fn deadline(within_ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(within_ms)
}
