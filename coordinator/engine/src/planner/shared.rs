//! Something that all slots share goes back: nothing that needs it runs meanwhile.
//!
//! ```text
//! prepare      all hosts that move
//! stop writers every component that needs what is shared, on every host, at once
//! restore db   what is shared
//! start        the others: restored where they move, started where they do not
//! ```
//!
//! Invariant: it is a full outage, and the plan says so.
//! Invariant: where the run halts before the starts, what was stopped is started again.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    hosts,
    stages::{How, Move, prepared, together},
    tracks,
};
use crate::{
    fleet::Fleet,
    name::ComponentName,
    plan::{Budget, Stage, Track, Verb},
};

/// Whether what is shared moves.
pub(super) fn moves(moves: &[Move<'_, '_>]) -> bool {
    moves.iter().flat_map(|(_, goes)| goes).any(|go| go.component.shared && !go.there)
}

/// The stages of the outage; takes the hosts that have a part in it out of `rest`.
pub(super) fn outage(
    fleet: &Fleet,
    rest: &mut BTreeMap<usize, Vec<&Move<'_, '_>>>,
    writers: &BTreeSet<ComponentName>,
    how: &How<'_>,
    stages: &mut Vec<Stage>,
) {
    let shares = |(_, goes): &Move<'_, '_>| goes.iter().any(|go| go.component.shared && !go.there);
    let mut stopped = Vec::new();
    let mut shared = Vec::new();
    for rows in rest.values_mut() {
        let taken = std::mem::take(rows);
        for row in taken {
            if writes(row, writers) {
                stopped.push(row);
            } else if shares(row) {
                shared.push(row);
            } else {
                rows.push(row);
            }
        }
    }
    let all = || {
        rest.values()
            .flatten()
            .copied()
            .chain(shared.iter().copied())
            .chain(stopped.iter().copied())
    };
    let prepare =
        all().filter_map(|(row, goes)| tracks::prepare(row, goes, how.across_migrations)).collect();
    stages.push(prepared(fleet, "prepare", prepare));
    let stops = stopped.iter().map(|row| stop(row, writers));
    let stops: Vec<Track> = stops.filter(|track| !track.steps.is_empty()).collect();
    let until = stages.len() + 2;
    if !stops.is_empty() {
        stages.push(Stage { held_until: Some(until), ..at_once("stop writers", stops) });
    }
    let names = hosts::groups(shared.iter().map(|(row, _)| *row));
    let tracks = shared.iter().map(|(row, goes)| tracks::restore(row, goes)).collect();
    stages.push(at_once(&format!("restore {names}"), tracks));
    let starts: Vec<Track> = stopped.iter().map(|row| start(row, writers)).collect();
    if !starts.is_empty() {
        let started = at_once("start", starts);
        // The data is back by now: one host that does not start is no reason to stop the others again.
        let budget = Budget {
            failed: fleet.rollback.budget_failed,
            unknown: fleet.rollback.budget_unknown,
            ..started.budget
        };
        stages.push(Stage { budget, ..started });
    }
}

/// Whether something on a host needs what is shared.
pub(super) fn writes((_, goes): &Move<'_, '_>, writers: &BTreeSet<ComponentName>) -> bool {
    goes.iter().any(|go| writers.contains(&go.component.name))
}

/// Components that need, themselves or through others, what is shared.
pub(super) fn writers(fleet: &Fleet) -> BTreeSet<ComponentName> {
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for component in fleet.components.iter().filter(|component| !component.shared) {
            let needs = |name: &ComponentName| {
                found.contains(name)
                    || fleet.components.iter().any(|other| other.shared && other.name == *name)
            };
            if component.needs.iter().any(needs) {
                found.insert(component.name.clone());
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

fn at_once(name: &str, tracks: Vec<Track>) -> Stage {
    let stage = together(name, tracks);
    let budget = Budget { failed: 0, unknown: 0, ..stage.budget };
    Stage { budget, cuts_capacity: true, ..stage }
}

fn stop((row, goes): &Move<'_, '_>, writers: &BTreeSet<ComponentName>) -> Track {
    let writing = goes.iter().rev().filter(|go| writers.contains(&go.component.name));
    let stops = writing.filter(|go| !go.component.reloads).map(tracks::stop);
    Track { host: row.host.clone(), steps: stops.collect() }
}

/// As it is restored, and those that do not move are started, before anything is verified.
fn start((row, goes): &Move<'_, '_>, writers: &BTreeSet<ComponentName>) -> Track {
    let mut track = tracks::restore(row, goes);
    let starts = goes.iter().filter(|go| go.there && writers.contains(&go.component.name));
    let starts: Vec<_> = starts.filter(|go| !go.component.reloads).map(tracks::start).collect();
    let verify = track.steps.iter().position(|step| step.verb == Verb::Verify);
    track.steps.splice(verify.unwrap_or(0)..verify.unwrap_or(0), starts);
    track
}
