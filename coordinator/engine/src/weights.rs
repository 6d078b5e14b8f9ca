//! How an edge divides the traffic among groups of hosts.
//!
//! Invariant: what groups get sums to 100; a group without a share is not listed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::name::{GroupName, HostName};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Weights {
    groups: BTreeMap<GroupName, u32>,
    out: BTreeSet<HostName>,
}

/// What is no division of traffic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("weights sum to {0}, not to 100")]
pub struct NotWhole(pub u32);

#[derive(Serialize, Deserialize)]
struct Written {
    groups: BTreeMap<GroupName, u32>,
    out: BTreeSet<HostName>,
}

impl Weights {
    /// So much percent for each group, and nothing for some of their hosts.
    pub fn new(
        groups: impl IntoIterator<Item = (GroupName, u32)>,
        out: impl IntoIterator<Item = HostName>,
    ) -> Result<Self, NotWhole> {
        let mut sum: u32 = 0;
        let mut shares = BTreeMap::new();
        for (group, percent) in groups {
            sum = sum.saturating_add(percent);
            if percent > 0 && shares.insert(group, percent).is_some() {
                return Err(NotWhole(sum));
            }
        }
        if sum != 100 {
            return Err(NotWhole(sum));
        }
        Ok(Self { groups: shares, out: out.into_iter().collect() })
    }

    /// Everything to one group.
    pub fn all_to(group: GroupName) -> Self {
        Self { groups: BTreeMap::from([(group, 100)]), out: BTreeSet::new() }
    }

    /// The same but for these hosts, which get nothing.
    pub fn without(&self, hosts: impl IntoIterator<Item = HostName>) -> Self {
        let mut out = self.out.clone();
        out.extend(hosts);
        Self { groups: self.groups.clone(), out }
    }

    /// The groups with a share, in percent.
    pub fn groups(&self) -> &BTreeMap<GroupName, u32> {
        &self.groups
    }

    /// Hosts that get nothing although their group has a share.
    pub fn out(&self) -> &BTreeSet<HostName> {
        &self.out
    }

    /// Percent.
    pub fn of(&self, group: &GroupName) -> u32 {
        self.groups.get(group).copied().unwrap_or(0)
    }

    /// Whether a host of this group gets traffic.
    pub fn reaches(&self, host: &HostName, group: &GroupName) -> bool {
        self.of(group) > 0 && !self.out.contains(host)
    }
}

impl std::fmt::Display for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shares: Vec<String> =
            self.groups.iter().map(|(group, percent)| format!("{group} {percent} %")).collect();
        f.write_str(&shares.join(", "))?;
        if self.out.is_empty() {
            return Ok(());
        }
        let out: Vec<String> = self.out.iter().map(ToString::to_string).collect();
        write!(f, " without {}", out.join(", "))
    }
}

impl TryFrom<Written> for Weights {
    type Error = NotWhole;

    fn try_from(written: Written) -> Result<Self, NotWhole> {
        Self::new(written.groups, written.out)
    }
}

impl From<Weights> for Written {
    fn from(weights: Weights) -> Self {
        Self { groups: weights.groups, out: weights.out }
    }
}

/// What a release is made of, in one component: found by hosts in a source of their own policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artefact {
    pub source: String,
    pub name: String,
    /// `sha256:HEX`, `tree:HEX` or `git:HEX`.
    pub digest: String,
}
