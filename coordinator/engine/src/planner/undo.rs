//! Back to what was live before an operation.
//!
//! It is a move of its own, to another release, and not the other play backwards: what is needed goes first again,
//! and hosts that only looked then look again in the end, where they are in place for the release that returns.

use std::collections::BTreeMap;

use super::{
    Planned, Refusal,
    hosts::{self, Chosen},
    rollback::{About, assemble, canary_first, goes_to},
    stages::{Move, Route},
    tracks::{self, Goes},
    traffic,
};
use crate::{
    fleet::Fleet,
    inventory::Inventory,
    levels::Levels,
    name::{ComponentName, HostName, ReleaseName, SnapshotHash},
    operation::Operation,
    plan::{OperationKind, Target},
};

/// Plans the way back of an operation that exchanged something.
pub fn undo(inventory: &Inventory<'_>, operation: &Operation) -> Planned {
    let fleet = hosts::fleet(inventory)?;
    let mut replaced: BTreeMap<(HostName, ComponentName), SnapshotHash> = BTreeMap::new();
    for (host, evidence) in operation.replaced() {
        if let Some(snapshot) = &evidence.replaced {
            replaced.insert((host, evidence.component.clone()), snapshot.clone());
        }
    }
    let mut hosts: Vec<HostName> = replaced.keys().map(|(host, _)| host.clone()).collect();
    let (route, warning) = route(inventory, fleet, operation);
    if let Route::Shifted(_, back) = &route {
        let gets = fleet.hosts().filter(|(host, group)| back.reaches(host, group));
        hosts.extend(gets.map(|(host, _)| host.clone()));
    }
    if hosts.is_empty() {
        return Err(Refusal::NothingToUndo(operation.id().clone()));
    }
    let from = operation.plan().from.as_ref();
    let looked = looked(fleet, operation, &replaced);
    let (looking, blind): (Vec<_>, Vec<_>) =
        looked.into_iter().partition(|host| in_place(inventory, fleet, host, from));
    hosts.extend(looking);
    let mut chosen = hosts::choose(fleet, &hosts)?;
    for row in chosen.iter_mut().filter(|row| !hosts.contains(row.host)) {
        if !row.components.is_empty() {
            row.left_out = Some(format!("{} did not change it", operation.id()));
        }
    }
    let missing = missing(inventory, &chosen, &replaced);
    if !missing.is_empty() {
        let release = operation.plan().from.clone().unwrap_or_else(replaced_name);
        return Err(Refusal::NotWhole { release, hosts: missing, older: None });
    }
    let about = About {
        to: operation.plan().from.clone(),
        why: format!("what was live before {}", operation.id()),
        warnings: blind.iter().map(not_seen).chain(warning).collect(),
        ..About::going_to(None)
    };
    let kind = OperationKind::Undo(operation.id().clone());
    let goes = |row: &Chosen<'_>| replaced.keys().any(|(host, _)| host == row.host);
    let moves: Vec<Move<'_, '_>> = canary_first(&chosen)
        .map(|row| match (goes(row), from) {
            (false, Some(from)) => (row, goes_to(inventory, row, from)),
            (true, _) | (false, None) => (row, goes_back(inventory, row, &replaced, from)),
        })
        .collect();
    assemble(inventory, fleet, &chosen, &moves, (kind, route), about)
}

/// Where the operation moved the traffic, it goes back to where it was.
fn route<'a>(
    inventory: &Inventory<'_>,
    fleet: &'a Fleet,
    operation: &Operation,
) -> (Route<'a>, Option<String>) {
    let back = operation.plan().weights_before.clone();
    match (traffic::edge(inventory, fleet), back) {
        (Ok(Some(edge)), Some(back)) if edge.now != back => (Route::Shifted(edge, back), None),
        (Ok(Some(edge)), _) if fleet.rollback.traffic_first => (Route::Drained(edge), None),
        (Ok(_), _) => (Route::InPlace, None),
        (Err(why), _) => (Route::InPlace, Some(format!("{why}: traffic is not moved"))),
    }
}

/// The hosts that the operation did not change but looked through.
fn looked(
    fleet: &Fleet,
    operation: &Operation,
    replaced: &BTreeMap<(HostName, ComponentName), SnapshotHash>,
) -> Vec<HostName> {
    let levels = Levels::of(fleet);
    let rows = operation.plan().hosts.iter().filter(|row| row.left_out.is_none());
    let rows = rows.filter(|row| replaced.keys().all(|(host, _)| *host != row.host));
    let known =
        rows.filter(|row| fleet.group_of(&row.host).is_some_and(|g| levels.needs_others(g)));
    known.map(|row| row.host.clone()).collect()
}

/// Whether all that is on a host is what the release that returns has there: only then it can look.
fn in_place(
    inventory: &Inventory<'_>,
    fleet: &Fleet,
    host: &HostName,
    release: Option<&ReleaseName>,
) -> bool {
    let (Some(release), Ok(chosen)) = (release, hosts::choose(fleet, std::slice::from_ref(host)))
    else {
        return false;
    };
    hosts::planned(&chosen).all(|row| {
        let goes = goes_to(inventory, row, release);
        goes.len() == row.components.len() && goes.iter().all(|go| go.there)
    })
}

fn not_seen(host: &HostName) -> String {
    format!("what users get through {host} is not verified: it is not on the release that returns")
}

fn goes_back<'a>(
    inventory: &Inventory<'_>,
    row: &Chosen<'a>,
    replaced: &BTreeMap<(HostName, ComponentName), SnapshotHash>,
    from: Option<&ReleaseName>,
) -> Vec<Goes<'a>> {
    let goes = row.components.iter().filter_map(|component| {
        let snapshot = replaced.get(&(row.host.clone(), component.name.clone()))?.clone();
        let there = tracks::is_there(inventory, row, &component.name, &snapshot);
        let release = release_of(inventory, row, component, &snapshot);
        let release = release.or_else(|| from.cloned()).unwrap_or_else(replaced_name);
        Some(Goes { component, target: Target { release, snapshot: Some(snapshot) }, there })
    });
    goes.collect()
}

fn release_of(
    inventory: &Inventory<'_>,
    row: &Chosen<'_>,
    component: &crate::fleet::Component,
    snapshot: &SnapshotHash,
) -> Option<ReleaseName> {
    let rows = inventory.hosts.get(row.host)?.snapshots.get(&component.name)?;
    rows.iter().find(|row| row.snapshot == *snapshot)?.release.clone()
}

/// Hosts that no longer hold what was replaced.
fn missing(
    inventory: &Inventory<'_>,
    chosen: &[Chosen<'_>],
    replaced: &BTreeMap<(HostName, ComponentName), SnapshotHash>,
) -> Vec<(HostName, String)> {
    let mut missing = Vec::new();
    for row in hosts::planned(chosen) {
        let Some(now) = inventory.hosts.get(row.host) else { continue };
        for component in &row.components {
            let Some(wanted) = replaced.get(&(row.host.clone(), component.name.clone())) else {
                continue;
            };
            let rows = now.snapshots.get(&component.name).into_iter().flatten();
            let whole = rows.filter(|row| row.damage.is_none()).any(|row| row.snapshot == *wanted);
            if !whole {
                missing.push((
                    row.host.clone(),
                    format!("what was replaced of {} is gone", component.name),
                ));
            }
        }
    }
    missing
}

pub(super) fn replaced_name() -> ReleaseName {
    ReleaseName::new("replaced").expect("a fixed name is valid")
}
