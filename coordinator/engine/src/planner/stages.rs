//! The stages of a plan that moves hosts, in the order in which components need each other across hosts.
//!
//! ```text
//! prepare                all hosts that move, at once; nothing is cut
//! restore                hosts whose components need nothing on other hosts, in batches
//! restore edge           hosts that need those, in batches; one stage per level
//! verify from the edge   hosts that need others and are in place: what users get; nothing is cut
//! ```
//!
//! A host that needs others and moves verifies at the end of its own track, after what it needs: that is its look
//! from the edge. One that is in place already looks last, when everything that it needs has moved. Such hosts count
//! against no budget: they lose no capacity, and what they see can be bad without anything to put back.
//!
//! Invariant: budgets and batches of a stage are shares of the hosts of that stage.
//! Invariant: every component of every planned host is verified after its last change.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Refusal,
    hosts::{self, Chosen},
    tracks::{self, Goes},
};
use crate::{
    fleet::Fleet,
    inventory::Inventory,
    levels::Levels,
    name::HostName,
    plan::{Batch, Budget, Stage, Track},
};

/// A host and where each of its components goes.
pub(super) type Move<'a, 'b> = (&'b Chosen<'a>, Vec<Goes<'a>>);

/// What a plan of moves does, stage by stage.
pub(super) struct Staged {
    pub(super) stages: Vec<Stage>,
    /// Hosts that only look, in the last stage.
    pub(super) looking: BTreeSet<HostName>,
    pub(super) warnings: Vec<String>,
}

/// Stages for these moves. `across_migrations` is a person's word to every preflight.
pub(super) fn stages(
    inventory: &Inventory<'_>,
    fleet: &Fleet,
    moves: &[Move<'_, '_>],
    across_migrations: bool,
) -> Result<Staged, Refusal> {
    let levels = Levels::of(fleet);
    let moved = |(_, goes): &&Move<'_, '_>| goes.iter().any(|go| !go.there);
    let looks = |row: &&Move<'_, '_>| !moved(row) && levels.needs_others(row.0.group);
    let mut by_level: BTreeMap<usize, Vec<&Move<'_, '_>>> = BTreeMap::new();
    for row in moves.iter().filter(|row| !looks(row)) {
        by_level.entry(levels.level(row.0.group)).or_default().push(row);
    }
    refuse_unreachable(inventory, fleet, &by_level)?;
    let mut stages = Vec::new();
    let prepare: Vec<Track> = moves
        .iter()
        .filter_map(|(row, goes)| tracks::prepare(row, goes, across_migrations))
        .collect();
    if !prepare.is_empty() {
        stages.push(prepared(fleet, prepare));
    }
    for rows in by_level.values() {
        let first = stages.iter().all(|stage| !stage.cuts_capacity);
        stages.push(level(fleet, rows, first));
    }
    let looking: Vec<&Move<'_, '_>> = moves.iter().filter(looks).collect();
    if !looking.is_empty() {
        let tracks = looking.iter().map(|(row, goes)| tracks::look(row, goes)).collect();
        stages.push(together("verify from the edge", tracks));
    }
    Ok(Staged {
        stages,
        looking: looking.into_iter().map(|(row, _)| row.host.clone()).collect(),
        warnings: circles(&levels),
    })
}

/// All at once, whatever happens to some: nothing is cut, and one host's failure is no reason to keep the others.
pub(super) fn together(name: &str, tracks: Vec<Track>) -> Stage {
    let all = u32::try_from(tracks.len()).unwrap_or(u32::MAX);
    Stage {
        name: name.to_owned(),
        batches: vec![Batch { tracks }],
        budget: Budget { failed: all, unknown: all, out: all },
        soak_ms: 0,
        cuts_capacity: false,
        mitigates: false,
        held_until: None,
    }
}

fn prepared(fleet: &Fleet, tracks: Vec<Track>) -> Stage {
    let strategy = &fleet.rollback;
    let out = strategy.budget_out.of(tracks.len());
    Stage {
        name: "prepare".to_owned(),
        batches: vec![Batch { tracks }],
        // Nothing has been stopped yet, so one host that cannot go back is reason enough not to begin.
        budget: Budget { failed: 0, unknown: strategy.budget_unknown, out },
        soak_ms: 0,
        cuts_capacity: false,
        mitigates: false,
        held_until: None,
    }
}

fn level(fleet: &Fleet, rows: &[&Move<'_, '_>], first: bool) -> Stage {
    let tracks: Vec<Track> = rows.iter().map(|(row, goes)| tracks::restore(row, goes)).collect();
    if tracks.iter().all(Track::only_looks) {
        return together("verify", tracks);
    }
    let strategy = &fleet.rollback;
    let out = strategy.budget_out.of(tracks.len());
    Stage {
        name: if first {
            "restore".to_owned()
        } else {
            format!("restore {}", hosts::groups(rows.iter().map(|(row, _)| *row)))
        },
        batches: tracks::batches(tracks, strategy, out),
        budget: Budget { failed: strategy.budget_failed, unknown: strategy.budget_unknown, out },
        soak_ms: strategy.soak_ms,
        cuts_capacity: true,
        mitigates: false,
        held_until: None,
    }
}

/// What is unknown counts as out. In a stage that can move some of its hosts one place has to be left for them; a
/// stage all of whose hosts are away moves none of them now, and keeps no other stage from what it can do; but a plan
/// of such stages alone moves nothing. Stages whose hosts are all in place are none that move.
fn refuse_unreachable(
    inventory: &Inventory<'_>,
    fleet: &Fleet,
    by_level: &BTreeMap<usize, Vec<&Move<'_, '_>>>,
) -> Result<(), Refusal> {
    let strategy = &fleet.rollback;
    let away = |rows: &[&Move<'_, '_>]| -> Vec<HostName> {
        let hosts = rows.iter().map(|(row, _)| row.host);
        hosts.filter(|host| !inventory.hosts.contains_key(*host)).cloned().collect()
    };
    let all: Vec<&Move<'_, '_>> = by_level.values().flatten().copied().collect();
    let (hosts, planned) = (away(&all), all.len());
    let over = |hosts: Vec<HostName>, planned, allowed| {
        Err(Refusal::TooManyUnreachable { hosts, planned, allowed })
    };
    if hosts.len() > strategy.budget_unknown as usize {
        return over(hosts, planned, strategy.budget_unknown);
    }
    let moves =
        |rows: &&Vec<&Move<'_, '_>>| rows.iter().any(|(_, goes)| goes.iter().any(|go| !go.there));
    let moving: usize = by_level.values().filter(moves).map(Vec::len).sum();
    if !hosts.is_empty() && hosts.len() == moving {
        return over(hosts, planned, 0);
    }
    for rows in by_level.values() {
        let (hosts, planned) = (away(rows), rows.len());
        let room = strategy.budget_out.of(planned).saturating_sub(1);
        if hosts.len() > room as usize && hosts.len() < planned {
            return over(hosts, planned, room.min(strategy.budget_unknown));
        }
    }
    Ok(())
}

fn circles(levels: &Levels<'_>) -> Vec<String> {
    let said = levels.circles().into_iter().map(|circle| {
        let names: Vec<String> = circle.iter().map(ToString::to_string).collect();
        format!(
            "groups {} need each other: there is no order between their hosts",
            names.join(" and ")
        )
    });
    said.collect()
}
