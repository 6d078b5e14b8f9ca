//! The steps of one host, and the batches of many.

use super::hosts::Chosen;
use crate::{
    fleet::{Component, HookPoint, Rollback, Share},
    inventory::Inventory,
    name::{ComponentName, ReleaseName, SnapshotHash},
    plan::{Batch, Step, Target, Track, Verb},
};

/// The longest that a look takes.
const PREFLIGHT_MS: u64 = 30_000;
/// The longest that reading or writing a whole tree takes.
pub(super) const COPY_MS: u64 = 10 * 60_000;
/// The longest that a switch takes: renames, and one full digest.
const SWITCH_MS: u64 = 2 * 60_000;
/// Added to what the fleet file allows, so that the agent's own deadline is the one that speaks.
pub(super) const MARGIN_MS: u64 = 10_000;

/// What a component goes to on a host.
pub(super) struct Goes<'a> {
    pub(super) component: &'a Component,
    pub(super) target: Target,
    /// It is there already: only to be verified.
    pub(super) there: bool,
}

/// Everything that can be done while the old release still serves.
pub(super) fn prepare(
    row: &Chosen<'_>,
    goes: &[Goes<'_>],
    across_migrations: bool,
) -> Option<Track> {
    let mut steps = Vec::new();
    for go in goes.iter().filter(|go| !go.there) {
        steps.push(Step { across_migrations, ..step(Verb::Preflight, go, PREFLIGHT_MS) });
        steps.push(step(Verb::Stage, go, COPY_MS));
    }
    (!steps.is_empty()).then(|| Track { host: row.host.clone(), steps })
}

/// Stop all, in the reverse of the order in which they need each other; switch all; start all; verify all.
///
/// A component that reloads is never stopped: it is switched with the others and reads its files anew in its place
/// among the starts. Hooks run at their points, those before a stop in the order of the stops; never for what is only
/// verified.
pub(super) fn restore(row: &Chosen<'_>, goes: &[Goes<'_>]) -> Track {
    let moves = || goes.iter().filter(|go| !go.there);
    let stops = || moves().rev().filter(|go| !go.component.reloads);
    let mut steps = Vec::new();
    steps.extend(moves().rev().flat_map(|go| hooks(go, HookPoint::BeforeStop)));
    steps.extend(stops().map(stop));
    steps.extend(moves().map(|go| step(Verb::Switch, go, SWITCH_MS)));
    steps.extend(moves().flat_map(|go| hooks(go, HookPoint::BeforeStart)));
    steps.extend(moves().map(|go| {
        if go.component.reloads {
            step(Verb::Reload, go, go.component.ready_within_ms + MARGIN_MS)
        } else {
            start(go)
        }
    }));
    steps.extend(moves().flat_map(|go| hooks(go, HookPoint::AfterStart)));
    steps.extend(goes.iter().map(verify));
    steps.extend(moves().flat_map(|go| hooks(go, HookPoint::AfterVerify)));
    Track { host: row.host.clone(), steps }
}

/// All services of a component stop.
pub(super) fn stop(go: &Goes<'_>) -> Step {
    step(Verb::Stop, go, go.component.stop_within_ms + MARGIN_MS)
}

/// All services of a component start.
pub(super) fn start(go: &Goes<'_>) -> Step {
    step(Verb::Start, go, go.component.ready_within_ms + MARGIN_MS)
}

/// Only what is in place, as it is.
pub(super) fn look(row: &Chosen<'_>, goes: &[Goes<'_>]) -> Track {
    Track { host: row.host.clone(), steps: goes.iter().map(verify).collect() }
}

/// Its checks hold, for as long as the fleet file says.
pub(super) fn verify(go: &Goes<'_>) -> Step {
    let component = go.component;
    step(Verb::Verify, go, component.ready_within_ms + component.stable_for_ms + MARGIN_MS)
}

fn hooks<'a>(go: &'a Goes<'_>, at: HookPoint) -> impl Iterator<Item = Step> + 'a {
    let here = go.component.hooks.iter().filter(move |hook| hook.at == at);
    here.map(|hook| Step {
        hook: Some(hook.name.clone()),
        ..step(Verb::Hook, go, hook.within_ms + MARGIN_MS)
    })
}

/// One step on one component.
pub(super) fn step(verb: Verb, go: &Goes<'_>, deadline_ms: u64) -> Step {
    Step {
        verb,
        component: go.component.name.clone(),
        target: Some(go.target.clone()),
        deadline_ms,
        hook: None,
        across_migrations: false,
        weights: None,
        artefact: None,
        at_once: false,
        forward: false,
    }
}

/// The snapshot of a release on a host: from the host itself, else from what it told last.
pub(super) fn snapshot_of(
    inventory: &Inventory<'_>,
    row: &Chosen<'_>,
    component: &ComponentName,
    release: &ReleaseName,
) -> Option<SnapshotHash> {
    if let Some(now) = inventory.hosts.get(row.host) {
        return now.whole(component, release).map(|row| row.snapshot.clone());
    }
    let recorded = inventory.state.releases.get(release)?.hosts.get(row.host)?;
    recorded.holds(component).map(|seen| seen.snapshot.clone())
}

/// Whether exactly this snapshot is live there, unchanged.
pub(super) fn is_there(
    inventory: &Inventory<'_>,
    row: &Chosen<'_>,
    component: &ComponentName,
    snapshot: &SnapshotHash,
) -> bool {
    let now = inventory.hosts.get(row.host).filter(|now| !now.silent);
    let live = now.and_then(|now| now.live.get(component));
    live.is_some_and(|live| !live.changed && live.snapshot.as_ref() == Some(snapshot))
}

/// Tracks in batches: sizes as the file says, the last one repeats, none larger than may be out at once.
pub(super) fn batches(tracks: Vec<Track>, strategy: &Rollback, out: u32) -> Vec<Batch> {
    let all = tracks.len();
    let mut sizes = strategy.batches.iter();
    let mut share = Share::Hosts(1);
    let mut batches = Vec::new();
    let mut rest = tracks.into_iter().peekable();
    while rest.peek().is_some() {
        share = sizes.next().copied().unwrap_or(share);
        let size = share.of(all).min(out).max(1);
        batches.push(Batch { tracks: rest.by_ref().take(size as usize).collect() });
    }
    batches
}
