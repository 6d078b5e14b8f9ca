//! Forward: a release that the hosts have goes live, and traffic goes to another slot.
//!
//! ```text
//! fetch    each host makes a snapshot of the release's artefacts         (an operation of its own: nothing live changes)
//! deploy   rolling      host by host, out of the traffic meanwhile where an edge divides it
//!          blue-green   the slot without traffic, then the traffic; the side that it left stays as the way back
//!          canary       a few hosts and the slot without traffic; a rising share to the few; the traffic, or the rest
//! switch   only the traffic, once the other side was seen to be healthy
//! ```
//!
//! Invariant: going forward asks the freeze, the marks and the quarantine. Going back asks none of them.
//! Invariant: nothing changes the side that traffic left while it is kept as the way back, unless a person gives it up.

use super::{
    Planned, Refusal,
    hosts::{self, Chosen, planned},
    rollback::{About, assemble, canary_first, goes_to},
    stages::{self, Move, Route, Trial},
    target,
    tracks::{self, COPY_MS, Goes},
    traffic::{self, Edge},
};
use crate::{
    fleet::{Component, FleetState, Standing},
    inventory::Inventory,
    name::{ComponentName, GroupName, HostName, ReleaseName},
    plan::{OperationKind, Plan, PlanDraft, Stage, Step, Target, Track, Verb},
    release::Release,
    time::Timestamp,
    weights::Weights,
};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deploy {
    pub release: ReleaseName,
    pub strategy: Strategy,
    /// Empty: all. Only with a rolling deploy.
    pub hosts: Vec<HostName>,
    pub across_migrations: bool,
    /// The side that traffic left is changed although it is still kept as the way back.
    pub give_up_warm: bool,
}

/// How a release goes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    Rolling,
    BlueGreen,
    /// As the fleet file's `canary` says.
    Canary,
}

/// Plans a deploy of a release that the hosts have. `now` tells whether a side is still kept warm.
pub fn deploy(inventory: &Inventory<'_>, request: &Deploy, now: Timestamp) -> Planned {
    let fleet = hosts::fleet(inventory)?;
    let name = &request.release;
    let release = known(inventory.state, name)?;
    refuse_frozen(inventory.state)?;
    if let Some((Standing::Bad, reason)) = &release.marked {
        return Err(Refusal::MarkedBad { release: name.clone(), reason: reason.clone() });
    }
    let mut chosen = hosts::choose(fleet, &request.hosts)?;
    let route = match request.strategy {
        // A slot of which only a part has the release must not get all the traffic.
        Strategy::BlueGreen | Strategy::Canary if !request.hosts.is_empty() => {
            let what = strategy_noun(request.strategy);
            return Err(Refusal::Traffic(format!(
                "{what} deploy goes through a whole fleet; single hosts are for a rolling one"
            )));
        }
        Strategy::Canary => {
            let trial = trial(inventory, needed_edge(inventory)?)?;
            if let Some(slot) = &trial.slot {
                if !request.give_up_warm {
                    refuse_warm(inventory.state, slot, now)?;
                }
                let stays = |row: &&mut Chosen<'_>| {
                    row.left_out.is_none() && traffic::is_backend(fleet, row.group)
                };
                for row in chosen.iter_mut().filter(stays) {
                    if *row.group != *slot && *row.group != trial.canary.group {
                        row.left_out = Some("stays as it is: the way back".to_owned());
                    }
                }
            }
            Route::Tried(trial)
        }
        Strategy::BlueGreen => {
            let edge = needed_edge(inventory)?;
            let slot = idle_slot(&edge)?.clone();
            if !request.give_up_warm {
                refuse_warm(inventory.state, &slot, now)?;
            }
            for row in chosen.iter_mut().filter(|row| row.left_out.is_none() && *row.group != slot)
            {
                row.left_out = Some("stays as it is: the way back".to_owned());
            }
            Route::Shifted(edge, Weights::all_to(slot))
        }
        Strategy::Rolling => match traffic::edge(inventory, fleet) {
            Ok(Some(edge)) if fleet.rollback.traffic_first => Route::Drained(edge),
            Ok(_) => Route::InPlace,
            Err(why) => return Err(Refusal::Traffic(why)),
        },
    };
    let with = |component: &&Component| is_of(release, &component.name);
    for row in chosen.iter_mut().filter(|row| row.left_out.is_none()) {
        if !row.components.iter().any(&with) {
            row.left_out = Some(format!("{name} has nothing for it"));
        }
    }
    if planned(&chosen).next().is_none() {
        return Err(Refusal::NotFetched { release: name.clone(), hosts: Vec::new() });
    }
    refuse_missing(inventory, &chosen, name, release)?;
    refuse_quarantined(inventory, &chosen, name)?;
    let moves: Vec<Move<'_, '_>> =
        canary_first(&chosen).map(|row| (row, goes_to(inventory, row, name))).collect();
    let nothing = moves.iter().all(|(_, goes)| traffic::is_in_place(goes));
    let served = match &route {
        Route::Shifted(edge, to) => edge.now == *to,
        Route::Tried(trial) => trial.slot.is_none(),
        Route::InPlace | Route::Drained(_) => true,
    };
    if nothing && served {
        return nothing_to_do(inventory, &chosen, name, format!("{name} is live there already"));
    }
    let about = About {
        why: format!("{name} goes live, {}", strategy_words(request.strategy)),
        across_migrations: request.across_migrations,
        whole_fleet: request.hosts.is_empty(),
        forward: true,
        last: record(inventory, &chosen, name, release).into_iter().collect(),
        ..About::going_to(Some(name.clone()))
    };
    assemble(inventory, fleet, &chosen, &moves, (OperationKind::Deploy, route), about)
}

/// Plans to move the traffic to a slot.
pub fn switch(inventory: &Inventory<'_>, to: &GroupName) -> Planned {
    let fleet = hosts::fleet(inventory)?;
    let edges = traffic::reachable(inventory, fleet).map_err(Refusal::Traffic)?;
    if !edges.traffic.slots.contains(to) {
        let known = edges.traffic.slots.iter().map(ToString::to_string).collect();
        let (what, name) = ("slot", to.to_string());
        return Err(Refusal::NotKnown { what, name, near: None, known });
    }
    let now = match traffic::edge(inventory, fleet) {
        Ok(Some(edge)) => Some(edge),
        // Not set yet, or not alike: a switch is what mends that.
        Ok(None) | Err(_) => None,
    };
    let after = Weights::all_to(to.clone());
    let mut chosen = hosts::choose(fleet, &[])?;
    for row in chosen.iter_mut().filter(|row| row.left_out.is_none() && row.group != to) {
        row.left_out = Some("is only given or taken traffic".to_owned());
    }
    if planned(&chosen).next().is_none() {
        return Err(Refusal::Traffic(format!("{to} has no host with a component")));
    }
    let away = planned(&chosen).find(|row| !inventory.hosts.contains_key(row.host));
    if let Some(away) = away {
        let why = format!("{} of {to} is out of reach: its health cannot be seen", away.host);
        return Err(Refusal::Traffic(why));
    }
    let live = hosts::common_release(&hosts::listing(inventory, &chosen));
    let Some(release) = live else {
        return Err(Refusal::Traffic(format!(
            "the hosts of {to} do not run one and the same release"
        )));
    };
    let left = users_release(inventory, now.as_ref());
    if now.as_ref().is_some_and(|edge| edge.now == after) {
        let why = format!("all traffic goes to {to} already");
        return nothing_to_do(inventory, &chosen, &release, why);
    }
    if let Some(known) = inventory.state.releases.get(&release) {
        if let (Standing::Bad, _) = known.standing() {
            let reason = known.marked.as_ref().map_or_else(
                || "an operation found it bad".to_owned(),
                |(_, reason)| reason.clone(),
            );
            return Err(Refusal::MarkedBad { release, reason });
        }
        let first_seen = |name: &ReleaseName| Some(inventory.state.releases.get(name)?.first_seen);
        let newer = left.as_ref().and_then(first_seen).is_some_and(|left| known.first_seen > left);
        if newer {
            refuse_frozen(inventory.state)?;
        }
    }
    let moves: Vec<Move<'_, '_>> =
        planned(&chosen).map(|row| (row, as_it_is(inventory, row, &release))).collect();
    let mut stages: Vec<Stage> = Vec::new();
    let looks = moves.iter().map(|(row, goes)| tracks::look(row, goes)).collect();
    let check = stages::together(&format!("check {to}"), looks);
    let budget = crate::plan::Budget { failed: 0, unknown: 0, ..check.budget };
    stages.push(Stage { budget, ..check });
    stages.extend(edges.shift(&after, &release, stages.len()));
    let before = now.map(|edge| edge.now);
    let listed = hosts::listed(inventory, &chosen, &stages);
    let why = match &before {
        Some(before) => format!("the traffic, {before} now, goes to {to}"),
        None => format!("the edges have no common division of the traffic yet; it goes to {to}"),
    };
    let strategy = &fleet.rollback;
    let draft = PlanDraft {
        kind: OperationKind::Switch,
        fleet: fleet.name.clone(),
        app: fleet.app.clone(),
        from: left,
        to: Some(release),
        why_target: why,
        stages,
        hosts: listed,
        marks_from_bad: false,
        freezes: false,
        on_failure: strategy.on_failure,
        late_hosts: crate::fleet::LateHosts::Wait,
        deadline_ms: strategy.deadline_ms,
        unknown_after_ms: strategy.unknown_after_ms,
        interruption: vec![format!(
            "none for users: the traffic moves to {after}, no host changes"
        )],
        not_rolled_back: Vec::new(),
        warnings: Vec::new(),
        weights_before: before,
        weights_after: Some(after),
    };
    Plan::new(draft).map_err(Refusal::Defect)
}

/// Plans to bring a release's artefacts to the hosts. Nothing live changes.
pub fn fetch(inventory: &Inventory<'_>, name: &ReleaseName) -> Planned {
    let fleet = hosts::fleet(inventory)?;
    let release = known(inventory.state, name)?;
    if release.artefacts.is_empty() {
        return Err(Refusal::NoArtefacts(name.clone()));
    }
    if let Some((Standing::Bad, reason)) = &release.marked {
        return Err(Refusal::MarkedBad { release: name.clone(), reason: reason.clone() });
    }
    let mut chosen = hosts::choose(fleet, &[])?;
    let track = |row: &Chosen<'_>| {
        let step = |component: &&Component| {
            let artefact = release.artefacts.get(&component.name)?.clone();
            let target = Target { release: name.clone(), snapshot: None };
            let go = Goes { component, target, there: false };
            let step = tracks::step(Verb::Fetch, &go, COPY_MS);
            Some(Step { artefact: Some(artefact), forward: true, ..step })
        };
        Track { host: row.host.clone(), steps: row.components.iter().filter_map(step).collect() }
    };
    let tracks: Vec<Track> =
        planned(&chosen).map(track).filter(|track| !track.steps.is_empty()).collect();
    for row in chosen.iter_mut().filter(|row| row.left_out.is_none()) {
        if tracks.iter().all(|track| track.host != *row.host) {
            row.left_out = Some(format!("{name} has nothing for it"));
        }
    }
    if tracks.is_empty() {
        return Err(Refusal::NoArtefacts(name.clone()));
    }
    let stages = vec![stages::together("fetch", tracks)];
    let why = format!("each host fetches {name} by its own policy; nothing live changes");
    super::single::plan(inventory, fleet, &chosen, stages, (OperationKind::Fetch, name, why))
}

fn known<'a>(state: &'a FleetState, name: &ReleaseName) -> Result<&'a Release, Refusal> {
    state.releases.get(name).ok_or_else(|| Refusal::NotKnown {
        what: "release",
        name: name.to_string(),
        near: None,
        known: state.releases.keys().map(ToString::to_string).collect(),
    })
}

fn refuse_frozen(state: &FleetState) -> Result<(), Refusal> {
    match &state.freeze {
        Some(freeze) => {
            Err(Refusal::Frozen { by: freeze.by.clone(), reason: freeze.reason.clone() })
        }
        None => Ok(()),
    }
}

fn refuse_warm(state: &FleetState, slot: &GroupName, now: Timestamp) -> Result<(), Refusal> {
    match &state.warm {
        Some(warm) if warm.group == *slot && warm.until > now => {
            let (group, release, until) = (slot.clone(), warm.release.clone(), warm.until);
            Err(Refusal::Warm { group, release, until })
        }
        Some(_) | None => Ok(()),
    }
}

fn needed_edge<'a>(inventory: &Inventory<'a>) -> Result<Edge<'a>, Refusal> {
    let fleet = hosts::fleet(inventory)?;
    match traffic::edge(inventory, fleet) {
        Ok(Some(edge)) => Ok(edge),
        Ok(None) => Err(Refusal::Traffic("the fleet file has no `traffic`".to_owned())),
        Err(why) => Err(Refusal::Traffic(why)),
    }
}

/// How the fleet file has a release tried, and whether it can be now.
fn trial<'a>(inventory: &Inventory<'a>, edge: Edge<'a>) -> Result<Trial<'a>, Refusal> {
    let fleet = hosts::fleet(inventory)?;
    let Some(canary) = &fleet.canary else {
        return Err(Refusal::Canary("the fleet file has no `canary`".to_owned()));
    };
    let group = &canary.group;
    if edge.now.of(group) > 0 {
        let (now, slot) = (&edge.now, edge.traffic.slots.first());
        let slot = slot.map_or_else(|| "SLOT".to_owned(), ToString::to_string);
        return Err(Refusal::Canary(format!(
            "{group} has a share of the traffic already ({now}): take it away first, `ctl switch --to {slot}`"
        )));
    }
    let slot = edge.idle_slots().next().cloned();
    Ok(Trial { canary, edge, slot })
}

fn idle_slot<'a>(edge: &Edge<'a>) -> Result<&'a GroupName, Refusal> {
    edge.idle_slots().next().ok_or_else(|| {
        Refusal::Traffic(format!(
            "every slot has traffic ({}): none is free for a new release",
            edge.now
        ))
    })
}

/// Whether a release says anything of a component: by its artefacts, or, where it has none, by its snapshots.
fn is_of(release: &Release, component: &ComponentName) -> bool {
    if release.artefacts.is_empty() {
        release.hosts.values().any(|host| host.snapshots.contains_key(component))
    } else {
        release.artefacts.contains_key(component)
    }
}

fn refuse_missing(
    inventory: &Inventory<'_>,
    chosen: &[Chosen<'_>],
    name: &ReleaseName,
    release: &Release,
) -> Result<(), Refusal> {
    let all = target::missing_parts(inventory, chosen, name, release);
    let missing: Vec<(HostName, String)> = all
        .into_iter()
        .filter(|(_, component, _)| is_of(release, component))
        .map(|(host, _, why)| (host, why))
        .collect();
    match (missing.is_empty(), release.artefacts.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => {
            Err(Refusal::NotWhole { release: name.clone(), hosts: missing, older: None })
        }
        (false, false) => Err(Refusal::NotFetched { release: name.clone(), hosts: missing }),
    }
}

/// What was left as bad does not come back under another name.
fn refuse_quarantined(
    inventory: &Inventory<'_>,
    chosen: &[Chosen<'_>],
    name: &ReleaseName,
) -> Result<(), Refusal> {
    let Some(release) = inventory.state.releases.get(name) else { return Ok(()) };
    for row in planned(chosen) {
        let Some(on_host) = release.hosts.get(row.host) else { continue };
        for (component, seen) in on_host.held() {
            if let Some(bad) = inventory.state.quarantined(component, &seen.content) {
                let (release, component) = (name.clone(), component.clone());
                return Err(Refusal::Quarantined { release, component, bad });
            }
        }
        if let (Standing::Bad, _) = release.standing_on(row.host) {
            let reason = format!("an operation found it bad on {}", row.host);
            return Err(Refusal::MarkedBad { release: name.clone(), reason });
        }
    }
    Ok(())
}

/// What the release says nothing of belongs to it as it is when it is live: recorded under its name in the end.
fn record(
    inventory: &Inventory<'_>,
    chosen: &[Chosen<'_>],
    name: &ReleaseName,
    release: &Release,
) -> Option<Stage> {
    let track = |row: &Chosen<'_>| {
        let mut steps = Vec::new();
        let silent = |component: &&&Component| {
            !is_of(release, &component.name)
                && tracks::snapshot_of(inventory, row, &component.name, name).is_none()
        };
        for component in row.components.iter().filter(silent) {
            let target = Target { release: name.clone(), snapshot: None };
            let go = Goes { component, target, there: false };
            steps.push(tracks::step(Verb::Snapshot, &go, COPY_MS));
        }
        Track { host: row.host.clone(), steps }
    };
    let reachable = chosen.iter().filter(|row| inventory.hosts.contains_key(row.host));
    let meant = reachable.filter(|row| {
        row.left_out.is_none() || row.components.iter().all(|c| !is_of(release, &c.name))
    });
    let tracks: Vec<Track> = meant.map(track).filter(|track| !track.steps.is_empty()).collect();
    (!tracks.is_empty()).then(|| stages::together("record", tracks))
}

/// What is live of each component, under the release that the slot runs.
fn as_it_is<'a>(
    inventory: &Inventory<'_>,
    row: &Chosen<'a>,
    release: &ReleaseName,
) -> Vec<Goes<'a>> {
    let live = |component: &Component| {
        inventory.hosts.get(row.host)?.live.get(&component.name)?.snapshot.clone()
    };
    let goes = row.components.iter().map(|component| Goes {
        component,
        target: Target { release: release.clone(), snapshot: live(component) },
        there: true,
    });
    goes.collect()
}

/// What users get now, where that is one release.
fn users_release(inventory: &Inventory<'_>, edge: Option<&Edge<'_>>) -> Option<ReleaseName> {
    let (fleet, edge) = (inventory.state.fleet.as_ref()?, edge?);
    let chosen = hosts::choose(fleet, &[]).ok()?;
    let mut served = hosts::listing(inventory, &chosen);
    served.retain(|row| row.reachable && edge.now.reaches(&row.host, &row.group));
    hosts::common_release_of(&served)
}

fn nothing_to_do(
    inventory: &Inventory<'_>,
    chosen: &[Chosen<'_>],
    release: &ReleaseName,
    why: String,
) -> Planned {
    let fleet = hosts::fleet(inventory)?;
    super::rollback::in_place_already(fleet, hosts::listing(inventory, chosen), release, why)
}

fn strategy_words(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Rolling => "host by host",
        Strategy::BlueGreen => "on the side without traffic, and then the traffic goes there",
        Strategy::Canary => "on a few hosts with a rising share of the traffic first",
    }
}

fn strategy_noun(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Rolling => "a rolling",
        Strategy::BlueGreen => "a blue-green",
        Strategy::Canary => "a canary",
    }
}
