//! Back to what was live before an operation.

use std::collections::BTreeMap;

use super::{
    Planned, Refusal,
    hosts::{self, Chosen},
    rollback::{About, assemble, canary_first},
    tracks::{self, Goes},
};
use crate::{
    inventory::Inventory,
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
    let hosts: Vec<HostName> = replaced.keys().map(|(host, _)| host.clone()).collect();
    if hosts.is_empty() {
        return Err(Refusal::NothingToUndo(operation.id().clone()));
    }
    let chosen = hosts::choose(fleet, &hosts)?;
    let from = operation.plan().from.as_ref();
    let missing = missing(inventory, &chosen, &replaced);
    if !missing.is_empty() {
        let release = operation.plan().from.clone().unwrap_or_else(replaced_name);
        return Err(Refusal::NotWhole { release, hosts: missing });
    }
    let about = About {
        to: operation.plan().from.clone(),
        why: format!("what was live before {}", operation.id()),
        warnings: Vec::new(),
    };
    let kind = OperationKind::Undo(operation.id().clone());
    let moves = canary_first(&chosen)
        .map(|row| (row, goes_back(inventory, row, &replaced, from)))
        .collect();
    assemble(inventory, fleet, &chosen, moves, kind, about, false)
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

fn replaced_name() -> ReleaseName {
    ReleaseName::new("replaced").expect("a fixed name is valid")
}
