//! Plans of one step per component that cut nothing: take a snapshot, read one.
//!
//! A snapshot is taken in the order in which components need each other across hosts, as a rollback moves them: what
//! the edge verifies is an app that was verified before it.

use std::collections::BTreeMap;

use super::{
    Planned, Refusal,
    hosts::{self, Chosen, planned},
    stages, target,
    tracks::{self, COPY_MS, Goes},
};
use crate::{
    fleet::Fleet,
    inventory::Inventory,
    levels::Levels,
    name::{HostName, ReleaseName},
    plan::{OperationKind, Plan, PlanDraft, Stage, Step, Target, Track, Verb},
};

/// Plans a snapshot of every host under one name. The checks run after it: that proves the release.
pub fn snapshot(inventory: &Inventory<'_>, release: &ReleaseName) -> Planned {
    let fleet = hosts::fleet(inventory)?;
    let chosen = hosts::choose(fleet, &[])?;
    let levels = Levels::of(fleet);
    let mut by_level: BTreeMap<usize, Vec<&Chosen<'_>>> = BTreeMap::new();
    for row in planned(&chosen) {
        by_level.entry(levels.level(row.group)).or_default().push(row);
    }
    let track = |row: &&Chosen<'_>| {
        let mut steps = Vec::new();
        for component in &row.components {
            let target = Target { release: release.clone(), snapshot: None };
            let go = Goes { component, target, there: false };
            steps.push(tracks::step(Verb::Snapshot, &go, COPY_MS));
            steps.push(tracks::verify(&go));
        }
        Track { host: row.host.clone(), steps }
    };
    let stages = by_level.values().enumerate().map(|(index, rows)| {
        let name = if index == 0 {
            "snapshot".to_owned()
        } else {
            format!("snapshot {}", hosts::groups(rows.iter().copied()))
        };
        stages::together(&name, rows.iter().map(track).collect())
    });
    let why = format!("everything as it is now, under the name {release}");
    plan(inventory, fleet, &chosen, stages.collect(), (OperationKind::Snapshot, release, why))
}

/// Plans a full read of a release's snapshots.
pub fn check(inventory: &Inventory<'_>, release: &ReleaseName) -> Planned {
    let fleet = hosts::fleet(inventory)?;
    let mut chosen = hosts::choose(fleet, &[])?;
    let Some(known) = inventory.state.releases.get(release) else {
        let known = inventory.state.releases.keys().map(ToString::to_string).collect();
        return Err(Refusal::NotKnown {
            what: "release",
            name: release.to_string(),
            near: None,
            known,
        });
    };
    for row in chosen.iter_mut().filter(|row| row.left_out.is_none()) {
        if known.hosts.get(row.host).is_none_or(|host| host.held().next().is_none()) {
            row.left_out = Some(format!("has no snapshot of {release}"));
        }
    }
    if planned(&chosen).next().is_none() {
        let (release, hosts) = (release.clone(), Vec::new());
        return Err(Refusal::NotWhole { release, hosts, older: None });
    }
    let tracks = planned(&chosen).map(|row| {
        let steps = known.hosts[row.host].held().map(|(component, seen)| {
            let target = Target { release: release.clone(), snapshot: Some(seen.snapshot.clone()) };
            Step {
                verb: Verb::Check,
                component: component.clone(),
                target: Some(target),
                deadline_ms: COPY_MS,
                hook: None,
                across_migrations: false,
                weights: None,
                artefact: None,
                at_once: false,
                forward: false,
            }
        });
        Track { host: row.host.clone(), steps: steps.collect() }
    });
    let stage = stages::together("check", tracks.collect());
    let why = format!("every byte of {release} is read");
    plan(inventory, fleet, &chosen, vec![stage], (OperationKind::Check, release, why))
}

/// A plan of such stages; `why` is its one sentence.
pub(super) fn plan(
    inventory: &Inventory<'_>,
    fleet: &Fleet,
    chosen: &[Chosen<'_>],
    stages: Vec<Stage>,
    (kind, release, why): (OperationKind, &ReleaseName, String),
) -> Planned {
    let hosts = hosts::listing(inventory, chosen);
    let longest = |stage: &Stage| stage.tracks().map(Track::deadline_ms).max().unwrap_or(COPY_MS);
    let deadline_ms = stages.iter().map(longest).sum();
    let draft = PlanDraft {
        kind,
        fleet: fleet.name.clone(),
        app: fleet.app.clone(),
        from: hosts::common_release(&hosts),
        to: Some(release.clone()),
        why_target: why,
        stages,
        hosts,
        marks_from_bad: false,
        freezes: false,
        on_failure: fleet.rollback.on_failure,
        late_hosts: crate::fleet::LateHosts::Wait,
        deadline_ms,
        unknown_after_ms: fleet.rollback.unknown_after_ms,
        interruption: Vec::new(),
        not_rolled_back: Vec::new(),
        warnings: Vec::new(),
        weights_before: None,
        weights_after: None,
    };
    Plan::new(draft).map_err(Refusal::Defect)
}

/// Hosts of a fleet that a release is missing on, as `releases` shows it.
pub fn missing_on(inventory: &Inventory<'_>, release: &ReleaseName) -> Vec<(HostName, String)> {
    let Some(fleet) = &inventory.state.fleet else { return Vec::new() };
    match hosts::choose(fleet, &[]) {
        Ok(chosen) => target::missing_on(inventory, &chosen, release),
        Err(_) => Vec::new(),
    }
}
