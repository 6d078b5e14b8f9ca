//! The include file, and what the running nginx tells of it.
//!
//! Invariant: pure. The same division of the same policy is the same file, byte by byte.
//! Invariant: the generation is a hash of everything else in the file: a file that somebody changed has none.

use std::fmt::Write as _;

use proto::policy::TrafficPolicy;
use serde::{Deserialize, Serialize};

use super::super::{
    division::{self, Groups, Shares},
    reach::socket_address,
};
use crate::order::Weights;

/// The one version of what is told.
const VERSION: u32 = 1;
/// Stands for the generation while that is computed.
const NO_GENERATION: &str = "0000000000000000";
const BEFORE_GENERATION: &str = "\"generation\":\"";

/// What the running nginx tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Told {
    lastgood: u32,
    pub(super) generation: String,
    shares: Shares,
}

impl Told {
    /// None where it is something else.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let told: Self = serde_json::from_slice(body).ok()?;
        (told.lastgood == VERSION).then_some(told)
    }

    /// The division that it amounts to.
    pub(super) fn weights(&self, groups: &Groups) -> Result<Weights, String> {
        let known = |host: &String| groups.values().any(|hosts| hosts.contains_key(host));
        let strange = self.shares.iter().find(|(host, part)| **part > 0 && !known(host));
        if let Some((host, _)) = strange {
            return Err(format!("{host} gets traffic, and is not in this host's policy"));
        }
        let weights = division::back(groups, &self.shares);
        weights.ok_or_else(|| "no host of this host's policy gets traffic".to_owned())
    }
}

/// The file for a division, and its generation.
pub(super) fn rendered(
    policy: &TrafficPolicy,
    to: &Weights,
    tells_at: &str,
) -> Result<(Vec<u8>, String), String> {
    let shares = division::exact(&policy.groups, to)?;
    let plain = text(policy, to, &shares, tells_at, NO_GENERATION);
    let generation = hash(&plain);
    Ok((text(policy, to, &shares, tells_at, &generation).into_bytes(), generation))
}

/// The generation of a file; none where it is not as it was written.
pub(super) fn generation_of(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let from = text.find(BEFORE_GENERATION)? + BEFORE_GENERATION.len();
    let generation = text.get(from..from + NO_GENERATION.len())?;
    (hash(&text.replacen(generation, NO_GENERATION, 1)) == generation)
        .then(|| generation.to_owned())
}

fn hash(text: &str) -> String {
    let mut hex = blake3::hash(text.as_bytes()).to_hex().to_string();
    hex.truncate(NO_GENERATION.len());
    hex
}

fn text(
    policy: &TrafficPolicy,
    to: &Weights,
    shares: &Shares,
    tells_at: &str,
    generation: &str,
) -> String {
    let mut text = format!(
        "# Written by the Lastgood agent; what is changed here by hand is lost. `ctl switch` divides the traffic.\n\
         # {to}\n"
    );
    for (name, port) in &policy.ports {
        let upstream = format!("{}-{name}", policy.app);
        let mut block = format!("upstream {upstream} {{\n    zone lastgood-{upstream} 256k;\n");
        for (host, address) in policy.groups.values().flatten() {
            let at = socket_address(address, *port);
            let part = shares.get(host).copied().unwrap_or(0);
            let does = match part {
                0 => "down".to_owned(),
                part => format!("weight={part} max_fails=3 fail_timeout=10s"),
            };
            writeln!(block, "    server {at} {does}; # {host}").expect("a string takes all");
        }
        text.push_str(&block);
        text.push_str("}\n");
    }
    let told =
        Told { lastgood: VERSION, generation: generation.to_owned(), shares: shares.clone() };
    let told = serde_json::to_string(&told).expect("names and numbers can be written");
    text.push_str(&format!(
        "# The agent asks here what the running nginx does.\nserver {{\n    listen {tells_at};\n    access_log off;\n    \
         default_type application/json;\n    return 200 '{told}';\n}}\n"
    ));
    text
}

#[cfg(test)]
pub(super) mod tests {
    use proto::policy::Policy;

    use super::*;

    /// `blue` of three hosts and `green` of one.
    pub(in crate::traffic) fn policy() -> TrafficPolicy {
        let text = "version: 1\nfleet: prod\nhost: edge1\ntraffic:\n  through: { nginx: { include: /etc/nginx/conf.d/crm.conf } }\n  \
             app: crm\n  ports: { api: 5000, web: 3000 }\n  groups:\n    \
             blue: { crm-b1: 10.0.0.1, crm-b2: 10.0.0.2, crm-b3: 'fd00::3' }\n    green: { crm-g1: 10.0.1.1 }\n  drain: 2s\n";
        Policy::parse(text).unwrap().traffic.unwrap()
    }

    fn canary() -> Weights {
        let groups = [("blue".to_owned(), 95), ("green".to_owned(), 5)];
        Weights { groups: groups.into(), out: ["crm-b2".to_owned()].into() }
    }

    #[test]
    fn the_file_says_what_it_is_and_tells_itself() {
        let (bytes, generation) = rendered(&policy(), &canary(), "127.76.1.2:476").unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let wanted = format!(
            "# Written by the Lastgood agent; what is changed here by hand is lost. `ctl switch` divides the traffic.\n\
             # blue 95 %, green 5 % without crm-b2\n\
             upstream crm-api {{\n    zone lastgood-crm-api 256k;\n    \
             server 10.0.0.1:5000 weight=19 max_fails=3 fail_timeout=10s; # crm-b1\n    \
             server 10.0.0.2:5000 down; # crm-b2\n    \
             server [fd00::3]:5000 weight=19 max_fails=3 fail_timeout=10s; # crm-b3\n    \
             server 10.0.1.1:5000 weight=2 max_fails=3 fail_timeout=10s; # crm-g1\n}}\n\
             upstream crm-web {{\n    zone lastgood-crm-web 256k;\n    \
             server 10.0.0.1:3000 weight=19 max_fails=3 fail_timeout=10s; # crm-b1\n    \
             server 10.0.0.2:3000 down; # crm-b2\n    \
             server [fd00::3]:3000 weight=19 max_fails=3 fail_timeout=10s; # crm-b3\n    \
             server 10.0.1.1:3000 weight=2 max_fails=3 fail_timeout=10s; # crm-g1\n}}\n\
             # The agent asks here what the running nginx does.\nserver {{\n    listen 127.76.1.2:476;\n    \
             access_log off;\n    default_type application/json;\n    \
             return 200 '{{\"lastgood\":1,\"generation\":\"{generation}\",\
             \"shares\":{{\"crm-b1\":19,\"crm-b2\":0,\"crm-b3\":19,\"crm-g1\":2}}}}';\n}}\n"
        );
        assert_eq!(text, wanted);
        assert_eq!(generation_of(&bytes), Some(generation));
        let told = text.lines().find_map(|line| line.trim().strip_prefix("return 200 '")).unwrap();
        let told = Told::read(told.trim_end_matches("';").as_bytes()).unwrap();
        assert_eq!(told.weights(&policy().groups).unwrap(), canary());
    }

    #[test]
    fn a_file_that_somebody_changed_has_no_generation() {
        let (bytes, generation) = rendered(&policy(), &canary(), "127.76.1.2:476").unwrap();
        let text = String::from_utf8(bytes).unwrap();
        for changed in [
            text.replace("weight=2 ", "weight=1 "),
            text.replace(&generation, "0123456789abcdef"),
            text.replace(&generation, NO_GENERATION),
            String::new(),
        ] {
            assert_eq!(generation_of(changed.as_bytes()), None, "{changed}");
        }
        let blue = Weights { groups: [("blue".to_owned(), 100)].into(), out: [].into() };
        assert_ne!(rendered(&policy(), &blue, "127.76.1.2:476").unwrap().1, generation);
    }

    #[test]
    fn traffic_to_a_host_that_nobody_knows_is_no_division() {
        let told = |body: &str| Told::read(body.as_bytes());
        let strange = told(r#"{"lastgood":1,"generation":"x","shares":{"crm-b1":1,"old":1}}"#);
        let why = strange.unwrap().weights(&policy().groups).unwrap_err();
        assert_eq!(why, "old gets traffic, and is not in this host's policy");
        assert_eq!(told(r#"{"lastgood":2,"generation":"x","shares":{}}"#), None);
        assert_eq!(told("<html>"), None);
    }
}
