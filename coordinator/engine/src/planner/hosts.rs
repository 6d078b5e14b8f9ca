//! Which hosts a request means.

use std::collections::BTreeSet;

use super::Refusal;
use crate::{
    fleet::{Component, Fleet},
    inventory::Inventory,
    name::{GroupName, HostName, ReleaseName},
    plan::{PlannedHost, Stage},
};

/// A host of the fleet with what the request makes of it.
pub(super) struct Chosen<'a> {
    pub(super) host: &'a HostName,
    pub(super) group: &'a GroupName,
    pub(super) components: Vec<&'a Component>,
    /// Why it has no part; absent where it has one.
    pub(super) left_out: Option<String>,
}

/// The fleet that the inventory is of.
pub(super) fn fleet<'a>(inventory: &Inventory<'a>) -> Result<&'a Fleet, Refusal> {
    inventory.state.fleet.as_ref().ok_or(Refusal::NoHosts)
}

/// Every host of the fleet; `only`, where it is not empty, names those that take part.
pub(super) fn choose<'a>(fleet: &'a Fleet, only: &[HostName]) -> Result<Vec<Chosen<'a>>, Refusal> {
    let known: BTreeSet<&HostName> = fleet.hosts().map(|(host, _)| host).collect();
    if let Some(missing) = only.iter().find(|host| !known.contains(host)) {
        let known: Vec<String> = known.into_iter().map(ToString::to_string).collect();
        return Err(Refusal::NotKnown {
            what: "host",
            name: missing.to_string(),
            near: None,
            known,
        });
    }
    let mut chosen = Vec::new();
    for (host, group) in fleet.hosts() {
        let components = fleet.components_of(group);
        let left_out = if components.is_empty() {
            Some(format!("group {group} has no component"))
        } else if !only.is_empty() && !only.contains(host) {
            Some("left out by --hosts".to_owned())
        } else {
            None
        };
        chosen.push(Chosen { host, group, components, left_out });
    }
    if chosen.iter().all(|row| row.left_out.is_some()) {
        return Err(Refusal::NoHosts);
    }
    Ok(chosen)
}

/// The part of them that takes part.
pub(super) fn planned<'a, 'b>(chosen: &'b [Chosen<'a>]) -> impl Iterator<Item = &'b Chosen<'a>> {
    chosen.iter().filter(|row| row.left_out.is_none())
}

/// The release that is live on a host, where all its components agree.
pub(super) fn live_release(inventory: &Inventory<'_>, row: &Chosen<'_>) -> Option<ReleaseName> {
    let now = inventory.hosts.get(row.host).filter(|now| !now.silent)?;
    let mut releases =
        row.components.iter().map(|component| now.live.get(&component.name)?.release.as_ref());
    let first = releases.next()??;
    releases.all(|other| other == Some(first)).then(|| first.clone())
}

/// The list of hosts as the plan shows it.
pub(super) fn listing(inventory: &Inventory<'_>, chosen: &[Chosen<'_>]) -> Vec<PlannedHost> {
    let row = |row: &Chosen<'_>| PlannedHost {
        host: row.host.clone(),
        group: row.group.clone(),
        from: live_release(inventory, row),
        reachable: inventory.hosts.contains_key(row.host),
        left_out: row.left_out.clone(),
    };
    chosen.iter().map(row).collect()
}

/// The same, with the edges that only move traffic.
pub(super) fn listed(
    inventory: &Inventory<'_>,
    chosen: &[Chosen<'_>],
    stages: &[Stage],
) -> Vec<PlannedHost> {
    let mut rows = listing(inventory, chosen);
    let acts = |host: &HostName| stages.iter().flat_map(Stage::tracks).any(|t| t.host == *host);
    for row in &mut rows {
        match (acts(&row.host), &row.left_out) {
            (true, Some(_)) => row.left_out = None,
            (false, None) => row.left_out = Some("has nothing to do".to_owned()),
            (true, None) | (false, Some(_)) => {}
        }
    }
    rows
}

/// The release that is live on all of them; absent where they differ or one is not known.
pub(super) fn common_release<'a>(
    hosts: impl IntoIterator<Item = &'a PlannedHost>,
) -> Option<ReleaseName> {
    let counted = |row: &&PlannedHost| row.left_out.is_none() && row.reachable;
    common_release_of(hosts.into_iter().filter(counted))
}

/// The same of all of them, whether they have a part or not.
pub(super) fn common_release_of<'a>(
    hosts: impl IntoIterator<Item = &'a PlannedHost>,
) -> Option<ReleaseName> {
    let mut releases = hosts.into_iter().map(|row| &row.from);
    let first = releases.next()?.as_ref()?;
    releases.all(|other| other.as_ref() == Some(first)).then(|| first.clone())
}

/// The groups of these hosts, by name: `edge, cache`.
pub(super) fn groups<'a, 'b: 'a>(rows: impl Iterator<Item = &'a Chosen<'b>>) -> String {
    let mut names: Vec<&GroupName> = Vec::new();
    for row in rows {
        if !names.contains(&row.group) {
            names.push(row.group);
        }
    }
    names.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
