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

    /// So much percent for one more group; what the others keep is divided among them as before, to the percent.
    pub fn with_share(&self, group: &GroupName, percent: u32) -> Self {
        let percent = percent.min(100);
        let others: Vec<(&GroupName, u32)> =
            self.groups.iter().filter(|(other, _)| *other != group).map(|(g, p)| (g, *p)).collect();
        let all: u32 = others.iter().map(|(_, share)| share).sum();
        if all == 0 {
            return Self { groups: BTreeMap::from([(group.clone(), 100)]), out: self.out.clone() };
        }
        let left = 100 - percent;
        let mut shares: Vec<(&GroupName, u32, u32)> = others
            .into_iter()
            .map(|(other, share)| (other, share * left / all, share * left % all))
            .collect();
        let mut missing = left - shares.iter().map(|(_, share, _)| share).sum::<u32>();
        // The largest remainders are rounded up.
        shares.sort_by_key(|(_, _, rest)| std::cmp::Reverse(*rest));
        for (_, share, _) in &mut shares {
            *share += u32::from(missing > 0);
            missing = missing.saturating_sub(1);
        }
        let shares = shares.into_iter().map(|(other, share, _)| (other.clone(), share));
        let groups = shares.chain([(group.clone(), percent)]).filter(|(_, share)| *share > 0);
        Self { groups: groups.collect(), out: self.out.clone() }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(shares: &[(&str, u32)]) -> Weights {
        let named = |(name, share): &(&str, u32)| (GroupName::new(*name).unwrap(), *share);
        Weights::new(shares.iter().map(named), []).unwrap()
    }

    #[test]
    fn a_share_for_one_more_group_leaves_the_others_in_proportion() {
        let canary = GroupName::new("canary").unwrap();
        let (blue, both) = (of(&[("blue", 100)]), of(&[("blue", 50), ("green", 50)]));
        let rows = [
            (&blue, 5, "blue 95 %, canary 5 %"),
            (&blue, 0, "blue 100 %"),
            (&blue, 100, "canary 100 %"),
            (&both, 5, "blue 48 %, canary 5 %, green 47 %"),
            (&of(&[("blue", 95), ("canary", 5)]), 50, "blue 50 %, canary 50 %"),
            (&of(&[("a", 33), ("b", 33), ("c", 34)]), 10, "a 30 %, b 30 %, c 30 %, canary 10 %"),
            (&of(&[("canary", 100)]), 5, "canary 100 %"),
        ];
        for (before, percent, expected) in rows {
            let after = before.with_share(&canary, percent);
            assert_eq!(after.groups().values().sum::<u32>(), 100, "{after}");
            let sorted: BTreeSet<&str> = expected.split(", ").collect();
            let text = after.to_string();
            assert_eq!(text.split(", ").collect::<BTreeSet<_>>(), sorted);
        }
    }
}
