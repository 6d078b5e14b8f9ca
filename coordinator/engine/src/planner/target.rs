//! Which release a rollback goes to.
//!
//! Invariant: a bare rollback takes only a release that is good on every planned host, whole on every one that
//! can be reached, and older than the newest live one.
//! Invariant: where the release that it would go to is damaged on a host, it goes to none: an older one is named, and a
//! person says whether it is to be that. One that a host never had is passed over, and the plan says so.

use super::{
    Candidate, Refusal,
    hosts::{Chosen, live_release, planned},
    traffic,
};
use crate::{
    fleet::{FleetState, Standing, StandingSource},
    inventory::Inventory,
    name::{ComponentName, HostName, ReleaseName},
    quarantine::Quarantined,
    release::Release,
    time::Timestamp,
};

/// A release and why it.
pub(super) struct Target {
    pub(super) release: ReleaseName,
    pub(super) why: String,
    pub(super) warnings: Vec<String>,
}

/// What a bare rollback of the whole fleet would take, or why nothing.
pub fn way_back(inventory: &Inventory<'_>) -> Result<ReleaseName, Refusal> {
    let fleet = super::hosts::fleet(inventory)?;
    let chosen = super::hosts::choose(fleet, &[])?;
    newest_good(inventory, &chosen).map(|target| target.release)
}

/// The releases that a rollback could go to from what is live: good and whole on every host; newest first, with when
/// each was first seen.
pub fn horizon(inventory: &Inventory<'_>) -> Vec<(ReleaseName, Timestamp)> {
    let chosen = super::hosts::fleet(inventory).and_then(|fleet| super::hosts::choose(fleet, &[]));
    let Ok(chosen) = chosen else { return Vec::new() };
    let live = live_releases(inventory, &chosen);
    let goes = |name: &ReleaseName, release: &Release| {
        live != [name.clone()] && why_not_good(inventory, &chosen, name, release).is_none()
    };
    let rows = by_age(inventory.state).filter(|(name, release)| goes(name, release));
    rows.map(|(name, release)| (name.clone(), release.first_seen)).collect()
}

/// The newest good release older than the newest live one.
pub(super) fn newest_good(
    inventory: &Inventory<'_>,
    chosen: &[Chosen<'_>],
) -> Result<Target, Refusal> {
    let live = live_releases(inventory, chosen);
    let newest = newest_of(inventory.state, &live);
    let (mut candidates, mut passed_over) = (Vec::new(), Vec::new());
    for (name, release) in by_age(inventory.state) {
        let why_not = if live.contains(name) && newest == Some(name) {
            Some("it is live now".to_owned())
        } else if newest.is_some_and(|newest| !older(inventory.state, name, newest)) {
            Some("it is newer than the live release".to_owned())
        } else if let Some(why_not) = why_not_proven(inventory, chosen, name, release) {
            Some(why_not)
        } else {
            let hosts = not_whole(inventory, chosen, name, release);
            let older = || next_older(inventory, chosen, name);
            if let Some(older) = older().filter(|_| is_damaged(inventory, chosen, name)) {
                let (release, older) = (name.clone(), Some(older));
                return Err(Refusal::NotWhole { release, hosts, older });
            }
            let why_not =
                hosts.first().map(|(host, why)| format!("it is not whole on {host}: {why}"));
            passed_over.extend(why_not.iter().map(|why| format!("{name} was passed over: {why}")));
            why_not
        };
        match why_not {
            Some(why_not) => candidates.push(Candidate { release: name.clone(), why_not }),
            None => {
                let mut target = target(inventory, chosen, name, release, newest);
                target.warnings.splice(0..0, passed_over);
                return Ok(target);
            }
        }
    }
    Err(Refusal::NoTarget { candidates })
}

/// The release that a person named.
pub(super) fn named(
    inventory: &Inventory<'_>,
    chosen: &[Chosen<'_>],
    name: &ReleaseName,
) -> Result<Target, Refusal> {
    let Some(release) = inventory.state.releases.get(name) else {
        let known = by_age(inventory.state).map(|(name, _)| name.to_string()).collect();
        return Err(Refusal::NotKnown {
            what: "release",
            name: name.to_string(),
            near: None,
            known,
        });
    };
    if let Some((Standing::Bad, reason)) = &release.marked {
        return Err(Refusal::MarkedBad { release: name.clone(), reason: reason.clone() });
    }
    let hosts = not_whole(inventory, chosen, name, release);
    if !hosts.is_empty() {
        let older = next_older(inventory, chosen, name);
        return Err(Refusal::NotWhole { release: name.clone(), hosts, older });
    }
    let mut warnings = Vec::new();
    for row in planned(chosen) {
        if let Some(bad) = quarantined_on(inventory.state, name, row.host) {
            warnings.push(format!("on {} {name} has {bad}", row.host));
        }
        match release.standing_on(row.host).0 {
            Standing::Good => {}
            Standing::Unproven => {
                warnings.push(format!("{name} was never proven good on {}", row.host))
            }
            Standing::Bad => {
                warnings.push(format!("an operation found {name} bad on {}", row.host))
            }
        }
    }
    Ok(Target { release: name.clone(), why: "named by --to".to_owned(), warnings })
}

/// Why no rollback to a release may begin without a person, where it may not: on some host only what the host learned
/// speaks for it, or nothing does.
pub fn why_not_automatic(
    state: &FleetState,
    name: &ReleaseName,
    hosts: &[HostName],
) -> Option<String> {
    let Some(release) = state.releases.get(name) else {
        return Some(format!("{name} is not known"));
    };
    hosts.iter().find_map(|host| match release.standing_on(host) {
        (Standing::Good, Some(StandingSource::Operated | StandingSource::Marked)) => None,
        (Standing::Good, Some(StandingSource::Learned) | None) => {
            Some(format!("{name} was only learned to be good on {host}; a person has to say so"))
        }
        (Standing::Unproven, _) => Some(format!("{name} is unproven on {host}")),
        (Standing::Bad, _) => Some(format!("{name} is bad on {host}")),
    })
}

/// Another release, a bad one, whose content a release has on a host.
fn quarantined_on(state: &FleetState, name: &ReleaseName, host: &HostName) -> Option<Quarantined> {
    let on_host = state.releases.get(name)?.hosts.get(host)?;
    let mut rows = on_host.snapshots.iter();
    let bad = rows.find_map(|(component, seen)| state.quarantined(component, &seen.content));
    bad.filter(|bad| bad.release != *name)
}

fn target(
    inventory: &Inventory<'_>,
    chosen: &[Chosen<'_>],
    name: &ReleaseName,
    release: &Release,
    newest: Option<&ReleaseName>,
) -> Target {
    let hosts = planned(chosen).count();
    let learned =
        planned(chosen).any(|row| release.standing_on(row.host).1 == Some(StandingSource::Learned));
    let older = newest.map_or_else(String::new, |newest| format!(" older than {newest}"));
    let proof = if release.marked.is_some() { "marked good" } else { "proven good" };
    let mut warnings = Vec::new();
    let proof = if learned { "learned to be good" } else { proof };
    if learned {
        warnings
            .push(format!("{name} was only learned to be good; no operation or person said so"));
    }
    for row in planned(chosen).filter(|row| !inventory.hosts.contains_key(row.host)) {
        warnings.push(format!("{} is out of reach: it counts as unknown", row.host));
    }
    let why = format!("newest release{older} that is {proof}; whole on {hosts} of {hosts} hosts");
    Target { release: name.clone(), why, warnings }
}

/// Hosts that could not be brought to the release, and why.
pub(super) fn missing_on(
    inventory: &Inventory<'_>,
    chosen: &[Chosen<'_>],
    name: &ReleaseName,
) -> Vec<(HostName, String)> {
    match inventory.state.releases.get(name) {
        Some(release) => not_whole(inventory, chosen, name, release),
        None => Vec::new(),
    }
}

/// Releases, newest first; of the same age the greater name first, so that there is one order.
fn by_age(state: &FleetState) -> impl Iterator<Item = (&ReleaseName, &Release)> {
    let mut rows: Vec<_> = state.releases.iter().collect();
    rows.sort_by(|a, b| (b.1.first_seen, b.0).cmp(&(a.1.first_seen, a.0)));
    rows.into_iter()
}

fn live_releases(inventory: &Inventory<'_>, chosen: &[Chosen<'_>]) -> Vec<ReleaseName> {
    // What no user gets is not live.
    let fleet = inventory.state.fleet.as_ref();
    let edge = fleet.and_then(|fleet| Some((fleet, traffic::edge(inventory, fleet).ok()??)));
    let served =
        |row: &&Chosen<'_>| edge.as_ref().is_none_or(|(fleet, edge)| !edge.is_idle(fleet, row));
    let rows = planned(chosen).filter(served);
    let mut live: Vec<_> = rows.filter_map(|row| live_release(inventory, row)).collect();
    live.sort();
    live.dedup();
    live
}

/// A live release that has no snapshot yet is newer than any that has one.
fn newest_of<'a>(state: &FleetState, live: &'a [ReleaseName]) -> Option<&'a ReleaseName> {
    let age = |name: &ReleaseName| {
        state.releases.get(name).filter(|release| has_snapshots(release)).map(|r| r.first_seen)
    };
    live.iter().max_by(|a, b| match (age(a), age(b)) {
        (None, None) => a.cmp(b),
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (Some(_), None) => std::cmp::Ordering::Less,
        (Some(x), Some(y)) => (x, a).cmp(&(y, b)),
    })
}

fn older(state: &FleetState, name: &ReleaseName, than: &ReleaseName) -> bool {
    match (
        state.releases.get(name),
        state.releases.get(than).filter(|release| has_snapshots(release)),
    ) {
        (Some(one), Some(other)) => (one.first_seen, name) < (other.first_seen, than),
        (Some(_), None) => true,
        (None, _) => false,
    }
}

fn has_snapshots(release: &Release) -> bool {
    release.hosts.values().any(|host| !host.snapshots.is_empty())
}

fn why_not_proven(
    inventory: &Inventory<'_>,
    chosen: &[Chosen<'_>],
    name: &ReleaseName,
    release: &Release,
) -> Option<String> {
    planned(chosen).find_map(|row| match release.standing_on(row.host) {
        (Standing::Good, Some(StandingSource::Learned)) => {
            let bad = quarantined_on(inventory.state, name, row.host)?;
            Some(format!("on {} it has {bad}", row.host))
        }
        (Standing::Good, _) => None,
        (Standing::Unproven, _) => Some(format!("it is unproven on {}", row.host)),
        (Standing::Bad, Some(StandingSource::Marked)) => Some("it is marked bad".to_owned()),
        (Standing::Bad, _) => Some(format!("an operation found it bad on {}", row.host)),
    })
}

fn why_not_good(
    inventory: &Inventory<'_>,
    chosen: &[Chosen<'_>],
    name: &ReleaseName,
    release: &Release,
) -> Option<String> {
    why_not_proven(inventory, chosen, name, release).or_else(|| {
        let missing = not_whole(inventory, chosen, name, release);
        missing.first().map(|(host, why)| format!("it is not whole on {host}: {why}"))
    })
}

/// The newest release older than this one that is good and whole on every planned host, and live on none.
fn next_older(
    inventory: &Inventory<'_>,
    chosen: &[Chosen<'_>],
    than: &ReleaseName,
) -> Option<ReleaseName> {
    let live = live_releases(inventory, chosen);
    let fits = |(name, release): &(&ReleaseName, &Release)| {
        older(inventory.state, name, than)
            && !live.contains(name)
            && why_not_good(inventory, chosen, name, release).is_none()
    };
    by_age(inventory.state).find(fits).map(|(name, _)| name.clone())
}

/// Whether a host has the release, and has it damaged.
fn is_damaged(inventory: &Inventory<'_>, chosen: &[Chosen<'_>], name: &ReleaseName) -> bool {
    planned(chosen).any(|row| {
        let Some(now) = inventory.hosts.get(row.host) else { return false };
        row.components.iter().any(|component| {
            let mut rows = now.snapshots.get(&component.name).into_iter().flatten();
            let damaged =
                rows.any(|row| row.release.as_ref() == Some(name) && row.damage.is_some());
            damaged && now.whole(&component.name, name).is_none()
        })
    })
}

/// Hosts that could not be brought to the release, and why: from the host itself where it can be reached, else
/// from what it told last.
fn not_whole(
    inventory: &Inventory<'_>,
    chosen: &[Chosen<'_>],
    name: &ReleaseName,
    release: &Release,
) -> Vec<(HostName, String)> {
    let parts = missing_parts(inventory, chosen, name, release).into_iter();
    parts.map(|(host, _, why)| (host, why)).collect()
}

/// The same, component by component.
pub(super) fn missing_parts(
    inventory: &Inventory<'_>,
    chosen: &[Chosen<'_>],
    name: &ReleaseName,
    release: &Release,
) -> Vec<(HostName, ComponentName, String)> {
    let mut missing = Vec::new();
    for row in planned(chosen) {
        for component in &row.components {
            let recorded = release.hosts.get(row.host).and_then(|host| host.holds(&component.name));
            let why = match inventory.hosts.get(row.host) {
                None if recorded.is_some() => continue,
                None => format!("out of reach, and no snapshot of {} is on record", component.name),
                Some(now) if now.whole(&component.name, name).is_some() => continue,
                Some(now) => {
                    let rows = now.snapshots.get(&component.name).into_iter().flatten();
                    let damaged = rows
                        .filter(|row| row.release.as_ref() == Some(name))
                        .find_map(|row| row.damage.clone());
                    damaged.unwrap_or_else(|| format!("no snapshot of {}", component.name))
                }
            };
            missing.push((row.host.clone(), component.name.clone(), why));
        }
    }
    missing
}
