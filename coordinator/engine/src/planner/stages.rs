//! The stages of a plan that moves hosts, in the order in which components need each other across hosts.
//!
//! ```text
//! prepare                all hosts that move, at once; nothing is cut
//! restore                hosts whose components need nothing on other hosts, in batches
//! restore edge           hosts that need those, in batches; one stage per level
//! verify from the edge   hosts that need others and are in place: what users get; nothing is cut
//! ```
//!
//! Where an edge divides the traffic, the route says how it goes along:
//!
//! ```text
//! in place   as above                                                      each host is out from stop to start
//! drained    for each batch: drain it ─▶ restore it ─▶ traffic to it         nobody notices, capacity is less
//! shifted    the side that gets the traffic is made ready or looked at ─▶ shift ─▶ the rest, all at once
//! tried      the canary and the slot without traffic are made ready ─▶ a rising share to the canary, a gate after each
//!            ─▶ all traffic to the slot; or, where no slot is free, none to the canary ─▶ the rest, drained
//! outage     something that all slots share moves: stop all that need it ─▶ restore it ─▶ start the rest
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
    shared,
    tracks::{self, Goes},
    traffic::{self, Edge},
};
use crate::{
    canary::{Canary, CanaryStep},
    fleet::Fleet,
    inventory::Inventory,
    levels::Levels,
    name::{GroupName, HostName, ReleaseName},
    plan::{Batch, Budget, Gate, Stage, Step, Track, Verb},
    weights::Weights,
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

/// How a plan of moves goes about it.
pub(super) struct How<'a> {
    /// A person's word to every preflight.
    pub(super) across_migrations: bool,
    /// It goes to a new release.
    pub(super) forward: bool,
    /// What is in place on the side that gets the traffic is looked at once, without the window.
    pub(super) at_once: bool,
    /// What users get in the end, where the whole fleet goes there.
    pub(super) release: &'a ReleaseName,
    pub(super) whole_fleet: bool,
    pub(super) route: Route<'a>,
}

impl How<'_> {
    /// What happens to a host that moves.
    fn word(&self) -> &'static str {
        if self.forward { "deploy" } else { "restore" }
    }
}

/// See the module.
pub(super) enum Route<'a> {
    InPlace,
    Drained(Edge<'a>),
    Shifted(Edge<'a>, Weights),
    Tried(Trial<'a>),
}

/// A release that is tried on a few hosts first.
pub(super) struct Trial<'a> {
    pub(super) canary: &'a Canary,
    pub(super) edge: Edge<'a>,
    /// A slot without traffic: it gets all of it in the end.
    pub(super) slot: Option<GroupName>,
}

impl Trial<'_> {
    /// How the traffic is divided in the end.
    pub(super) fn after(&self) -> Weights {
        match &self.slot {
            Some(slot) => Weights::all_to(slot.clone()),
            None => self.edge.now.clone(),
        }
    }

    /// How long it may stand still.
    pub(super) fn waits_ms(&self) -> u64 {
        let holds: u64 = self.canary.steps.iter().map(|step| step.hold_ms).sum();
        holds.saturating_add(self.canary.wait_at_most_ms)
    }

    fn has(&self, group: &GroupName) -> bool {
        self.canary.group == *group || self.slot.as_ref() == Some(group)
    }

    /// The stages that give the canary its shares, from this index on; and the one that takes them away again, where no
    /// slot gets all.
    fn weigh(&self, release: &ReleaseName, first: usize) -> Vec<Stage> {
        let Canary { group, steps, analysis, source, .. } = self.canary;
        let shares: Vec<&CanaryStep> = steps.iter().filter(|step| step.weight < 100).collect();
        // The stage that divides the traffic anew, past the one that tests it.
        let tests = self.slot.is_some() && self.edge.tests_first();
        let after = first + shares.len() + usize::from(tests);
        let asks_for_all = steps.iter().all(|step| step.weight < 100);
        let last = shares.len().saturating_sub(1);
        let mut stages = Vec::new();
        for (index, step) in shares.into_iter().enumerate() {
            let weight = step.weight;
            let to = self.edge.now.with_share(group, weight);
            let stage = self.edge.set(&format!("{group} {weight} %"), &to, release, &[]);
            let gate = Gate {
                canary: group.clone(),
                weight,
                asks: step.asks || asks_for_all && index == last,
                analysis: analysis.clone(),
                source: source.clone(),
            };
            let held_until = Some(after);
            stages.push(Stage { soak_ms: step.hold_ms, gate: Some(gate), held_until, ..stage });
        }
        if self.slot.is_none() && !stages.is_empty() {
            stages.push(self.edge.set(&format!("{group} 0 %"), &self.edge.now, release, &[]));
        }
        stages
    }
}

/// Stages for these moves.
pub(super) fn stages(
    inventory: &Inventory<'_>,
    fleet: &Fleet,
    moves: &[Move<'_, '_>],
    how: &How<'_>,
) -> Result<Staged, Refusal> {
    let mut staged = as_ordered(inventory, fleet, moves, how)?;
    if how.forward {
        for step in staged.stages.iter_mut().flat_map(steps_of) {
            step.forward = matches!(step.verb, Verb::Preflight | Verb::Stage | Verb::Switch)
                && !is_traffic(step);
        }
    }
    Ok(staged)
}

fn steps_of(stage: &mut Stage) -> impl Iterator<Item = &mut Step> {
    let tracks = stage.batches.iter_mut().flat_map(|batch| &mut batch.tracks);
    tracks.flat_map(|track| &mut track.steps)
}

fn is_traffic(step: &Step) -> bool {
    step.component.as_str() == Step::TRAFFIC
}

fn as_ordered(
    inventory: &Inventory<'_>,
    fleet: &Fleet,
    moves: &[Move<'_, '_>],
    how: &How<'_>,
) -> Result<Staged, Refusal> {
    let levels = Levels::of(fleet);
    let moved = |(_, goes): &&Move<'_, '_>| !traffic::is_in_place(goes);
    let outage = shared::moves(moves);
    let writers = shared::writers(fleet);
    // Nothing looks on while what it needs goes back.
    let waits = |row: &Move<'_, '_>| outage && shared::writes(row, &writers);
    let looks =
        |row: &&Move<'_, '_>| !moved(row) && levels.needs_others(row.0.group) && !waits(row);
    let mut by_level: BTreeMap<usize, Vec<&Move<'_, '_>>> = BTreeMap::new();
    for row in moves.iter().filter(|row| !looks(row)) {
        by_level.entry(levels.level(row.0.group)).or_default().push(row);
    }
    refuse_unreachable(inventory, fleet, &by_level)?;
    let mut warnings = circles(&levels);
    let mut stages = Vec::new();
    let mut rest = by_level;
    if outage {
        shared::outage(fleet, &mut rest, &writers, how, &mut stages);
    } else if let Route::Shifted(edge, to) = &how.route {
        for rows in rest.values_mut() {
            let (receivers, others): (Vec<_>, Vec<_>) =
                rows.iter().copied().partition(|(row, _)| to.reaches(row.host, row.group));
            if !receivers.is_empty() {
                ready(fleet, &receivers, how, &mut stages);
            }
            *rows = others;
        }
        stages.extend(edge.shift(to, how.release, stages.len()));
    } else if let Route::Tried(trial) = &how.route {
        for rows in rest.values_mut() {
            let (first, others): (Vec<_>, Vec<_>) =
                rows.iter().copied().partition(|(row, _)| trial.has(row.group));
            if !first.is_empty() {
                ready(fleet, &first, how, &mut stages);
            }
            *rows = others;
        }
        stages.extend(trial.weigh(how.release, stages.len()));
        if trial.slot.is_some() {
            stages.extend(trial.edge.shift(&trial.after(), how.release, stages.len()));
        }
    }
    let left = || rest.values().flatten().copied();
    let prepare: Vec<Track> = left()
        .filter_map(|(row, goes)| tracks::prepare(row, goes, how.across_migrations))
        .collect();
    if !prepare.is_empty() && !outage {
        stages.push(prepared(fleet, "prepare", prepare));
    }
    for rows in rest.values().filter(|rows| !rows.is_empty()) {
        let first = stages.iter().all(|stage| !stage.cuts_capacity);
        match &how.route {
            Route::InPlace => stages.push(level(fleet, how, rows, first)),
            Route::Drained(edge) | Route::Tried(Trial { edge, .. }) => {
                drained(fleet, edge, rows, (how, first), &mut stages, &mut warnings);
            }
            Route::Shifted(edge, to) => {
                let idle = |row: &Chosen<'_>| {
                    edge.may_serve(fleet, row) && !to.reaches(row.host, row.group)
                };
                let (idle, others): (Vec<_>, Vec<_>) =
                    rows.iter().copied().partition(|(row, _)| idle(row));
                if !idle.is_empty() {
                    stages.push(unused(fleet, how, &idle));
                }
                if !others.is_empty() {
                    stages.push(level(fleet, how, &others, false));
                }
            }
        }
    }
    let looking: Vec<&Move<'_, '_>> = moves.iter().filter(looks).collect();
    if !looking.is_empty() {
        let tracks = looking.iter().map(|(row, goes)| tracks::look(row, goes)).collect();
        stages.push(together("verify from the edge", tracks));
    }
    Ok(Staged {
        stages,
        looking: looking.into_iter().map(|(row, _)| row.host.clone()).collect(),
        warnings,
    })
}

/// Hosts that no traffic reaches yet, brought to what users are to get; or looked at, where all of them are there.
fn ready(fleet: &Fleet, rows: &[&Move<'_, '_>], how: &How<'_>, stages: &mut Vec<Stage>) {
    let groups = hosts::groups(rows.iter().map(|(row, _)| *row));
    let none = |stage: Stage| {
        let budget = Budget { failed: 0, unknown: 0, ..stage.budget };
        Stage { budget, ..stage }
    };
    if rows.iter().all(|(_, goes)| traffic::is_in_place(goes)) {
        let mut tracks: Vec<Track> =
            rows.iter().map(|(row, goes)| tracks::look(row, goes)).collect();
        for step in tracks.iter_mut().flat_map(|track| &mut track.steps) {
            step.at_once = how.at_once;
        }
        stages.push(none(together(&format!("check {groups}"), tracks)));
        return;
    }
    let prepare = rows.iter();
    let prepare =
        prepare.filter_map(|(row, goes)| tracks::prepare(row, goes, how.across_migrations));
    stages.push(prepared(fleet, &format!("prepare {groups}"), prepare.collect()));
    stages.push(none(unused(fleet, how, rows)));
}

/// Hosts that no traffic reaches: all at once.
fn unused(fleet: &Fleet, how: &How<'_>, rows: &[&Move<'_, '_>]) -> Stage {
    let tracks: Vec<Track> = rows.iter().map(|(row, goes)| tracks::restore(row, goes)).collect();
    let groups = hosts::groups(rows.iter().map(|(row, _)| *row));
    if tracks.iter().all(Track::only_looks) {
        return together(&format!("verify {groups}"), tracks);
    }
    let strategy = &fleet.rollback;
    let all = u32::try_from(tracks.len()).unwrap_or(u32::MAX);
    Stage {
        cuts_capacity: true,
        budget: Budget {
            failed: strategy.budget_failed,
            unknown: strategy.budget_unknown,
            out: all,
        },
        ..together(&format!("{} {groups}", how.word()), tracks)
    }
}

/// Batch by batch, each taken out of the traffic before and let in again after. Hosts that no traffic reaches go first,
/// all at once.
fn drained(
    fleet: &Fleet,
    edge: &Edge<'_>,
    rows: &[&Move<'_, '_>],
    (how, first): (&How<'_>, bool),
    stages: &mut Vec<Stage>,
    warnings: &mut Vec<String>,
) {
    let served = |(row, goes): &&Move<'_, '_>| {
        edge.may_serve(fleet, row) && !edge.is_idle(fleet, row) && !traffic::is_in_place(goes)
    };
    let (served, others): (Vec<_>, Vec<_>) = rows.iter().copied().partition(served);
    let (idle, others): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|(row, _)| edge.is_idle(fleet, row));
    if !idle.is_empty() {
        stages.push(unused(fleet, how, &idle));
    }
    if !others.is_empty() {
        stages.push(level(fleet, how, &others, first));
    }
    let strategy = &fleet.rollback;
    let out = strategy.budget_out.of(served.len());
    let tracks: Vec<Track> = served.iter().map(|(row, goes)| tracks::restore(row, goes)).collect();
    let batches = tracks::batches(tracks, strategy, out);
    let (count, mut series) = (batches.len(), None);
    for (index, batch) in batches.into_iter().enumerate() {
        let hosts: Vec<HostName> = batch.tracks.iter().map(|track| track.host.clone()).collect();
        let names: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
        let names = names.join(", ");
        let last = index + 1 == count && how.whole_fleet;
        let around = edge.around(fleet, &hosts, how.release, (stages.len(), last));
        let (before, after) = around.unzip();
        if before.is_none() {
            warnings.push(format!(
                "{names} cannot be taken out of the traffic: its group would have no other host; it is out from stop to start"
            ));
        }
        stages.extend(before);
        let first = *series.get_or_insert(stages.len());
        stages.push(Stage {
            name: format!("{} {names}", how.word()),
            batches: vec![batch],
            budget: Budget {
                failed: strategy.budget_failed,
                unknown: strategy.budget_unknown,
                out,
            },
            soak_ms: strategy.soak_ms,
            cuts_capacity: true,
            mitigates: false,
            held_until: None,
            gate: None,
            series: Some(first),
        });
        stages.extend(after);
    }
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
        series: None,
        gate: None,
    }
}

pub(super) fn prepared(fleet: &Fleet, name: &str, tracks: Vec<Track>) -> Stage {
    let strategy = &fleet.rollback;
    let out = strategy.budget_out.of(tracks.len());
    Stage {
        name: name.to_owned(),
        batches: vec![Batch { tracks }],
        // Nothing has been stopped yet, so one host that cannot go back is reason enough not to begin.
        budget: Budget { failed: 0, unknown: strategy.budget_unknown, out },
        soak_ms: 0,
        cuts_capacity: false,
        mitigates: false,
        held_until: None,
        series: None,
        gate: None,
    }
}

fn level(fleet: &Fleet, how: &How<'_>, rows: &[&Move<'_, '_>], first: bool) -> Stage {
    let tracks: Vec<Track> = rows.iter().map(|(row, goes)| tracks::restore(row, goes)).collect();
    if tracks.iter().all(Track::only_looks) {
        return together("verify", tracks);
    }
    let strategy = &fleet.rollback;
    let out = strategy.budget_out.of(tracks.len());
    Stage {
        name: if first {
            how.word().to_owned()
        } else {
            format!("{} {}", how.word(), hosts::groups(rows.iter().map(|(row, _)| *row)))
        },
        batches: tracks::batches(tracks, strategy, out),
        budget: Budget { failed: strategy.budget_failed, unknown: strategy.budget_unknown, out },
        soak_ms: strategy.soak_ms,
        cuts_capacity: true,
        mitigates: false,
        held_until: None,
        series: None,
        gate: None,
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
