//! What is put to the edge: every server with its weight, and the division that the weights stand for.
//!
//! ```text
//! body of PUT /weights, or the file ── serde, strict ──▶ Division ── check ──▶ Division, or what does not hold
//! ```
//!
//! Invariant: a division that was checked has a server with weight for each served port and each group with a share.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Division {
    pub servers: Vec<Server>,
    pub weights: Weights,
}

/// One port of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Server {
    pub host: String,
    pub group: String,
    pub address: SocketAddr,
    /// The name of the port.
    pub port: String,
    /// Its part of the sum of all weights of this port.
    pub weight: u32,
}

/// How the traffic is divided, in the words of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Weights {
    /// Percent by group.
    pub groups: BTreeMap<String, u32>,
    /// Hosts of those groups that get nothing.
    #[serde(default)]
    pub out: BTreeSet<String>,
}

impl Division {
    /// Reads and checks; in words what does not hold.
    pub(super) fn read(bytes: &[u8], ports: &BTreeMap<String, SocketAddr>) -> Result<Self, String> {
        let division: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("this is no division: {error}"))?;
        division.check(ports)?;
        Ok(division)
    }

    fn check(&self, ports: &BTreeMap<String, SocketAddr>) -> Result<(), String> {
        let Weights { groups, out } = &self.weights;
        let sum: u64 = groups.values().copied().map(u64::from).sum();
        if sum != 100 {
            return Err(format!("the groups' weights sum to {sum} %, not to 100 %"));
        }
        let mut seen = BTreeSet::new();
        for server in &self.servers {
            let Server { host, group, port, weight, .. } = server;
            if host.is_empty() || group.is_empty() {
                return Err("a server without a host or a group".to_owned());
            }
            if !ports.contains_key(port) {
                return Err(format!("{host}: the port `{port}` is not served here"));
            }
            if !seen.insert((host, port)) {
                return Err(format!("{host} is there twice for the port `{port}`"));
            }
            if *weight > 0 && groups.get(group).is_none_or(|percent| *percent == 0) {
                return Err(format!("{host} has a weight, and its group `{group}` has no share"));
            }
            if *weight > 0 && out.contains(host) {
                return Err(format!("{host} has a weight, and is to get nothing"));
            }
        }
        for port in ports.keys() {
            for (group, percent) in groups.iter().filter(|(_, percent)| **percent > 0) {
                let gets = |server: &&Server| {
                    server.port == *port && server.group == *group && server.weight > 0
                };
                if self.servers.iter().find(gets).is_none() {
                    return Err(format!(
                        "`{group}` has {percent} %, and none of its servers has a weight for the port `{port}`"
                    ));
                }
            }
        }
        Ok(())
    }
}
