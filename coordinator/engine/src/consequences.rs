//! What the end of an operation means for its fleet.

use std::collections::BTreeSet;

use crate::{
    decide::BY_THE_JUDGE,
    fleet::{FleetEvent, FleetState, Standing, StandingSource, Warm},
    name::{GroupName, HostName, ReleaseName},
    operation::{Operation, Outcome, Phase},
    plan::{OperationKind, Stage, Step, Track},
    proposal::{Armed, Decision, Proposal},
    quarantine::Left,
    time::Timestamp,
};

/// For how long triggers are armed where the fleet file has no canary that says so.
const ARMED_FOR_MS: u64 = 24 * 3600 * 1000;

/// The changes of the fleet that follow from an ended operation and are not on its record yet; none while it runs.
///
/// Derived from the two alone: a coordinator that was killed before it wrote them down writes the same ones
/// afterwards, and a host that tells late how it fared adds what is new.
pub fn consequences(operation: &Operation, state: &FleetState, at: Timestamp) -> Vec<FleetEvent> {
    let Phase::Ended(result) = operation.phase() else { return Vec::new() };
    let id = operation.id();
    let mut events = findings(operation, state, at);
    events.extend(failed(operation, state, at));
    let newest = state.operations.last().is_some_and(|row| row.id == *id);
    let named = state.rolled_back_to.as_ref().is_some_and(|(_, by)| by == id);
    let plan = operation.plan();
    if plan.freezes && moved(operation) && newest && !named {
        let left =
            plan.from.as_ref().map_or_else(|| "what was live".to_owned(), ToString::to_string);
        let reason = format!("{id} rolled back from {left}");
        events.push(FleetEvent::Frozen { by: id.to_string(), reason, at });
        if let Some(release) = plan.to.clone() {
            events.push(FleetEvent::RolledBackTo { release, operation: id.clone() });
        }
    }
    if newest {
        events.extend(side_left(operation, state, at));
        events.extend(armed(operation, state, at));
    }
    events.extend(settled(operation, state, at));
    events.extend(decided(operation, state, at));
    let recorded = state.operations.iter().find(|row| row.id == *id).and_then(|row| row.result);
    if state.busy.as_ref() == Some(id) || recorded != Some(result) {
        events.push(FleetEvent::OperationEnded { operation: id.clone(), result, at });
    }
    events
}

/// What an operation found out about releases.
fn findings(operation: &Operation, state: &FleetState, at: Timestamp) -> Vec<FleetEvent> {
    let plan = operation.plan();
    let hosts = on_target(operation);
    if hosts.is_empty() || !operation.proves() {
        return Vec::new();
    }
    let proven = |release: &ReleaseName, standing: Standing| {
        let known = |host: &HostName| {
            let on_host = state.releases.get(release).and_then(|row| row.hosts.get(host));
            on_host.and_then(|row| row.standing) == Some((standing, StandingSource::Operated))
        };
        (!hosts.iter().all(known)).then(|| FleetEvent::Proven {
            release: release.clone(),
            hosts: hosts.clone(),
            standing,
            operation: operation.id().clone(),
            at,
        })
    };
    let mut events = Vec::new();
    events.extend(plan.to.as_ref().and_then(|to| proven(to, Standing::Good)));
    if plan.marks_from_bad {
        events.extend(plan.from.as_ref().and_then(|from| proven(from, Standing::Bad)));
        events.extend(left(operation, state, at));
    }
    events
}

/// What the judge failed is bad on the hosts that it was tried on: no deploy brings it back.
fn failed(operation: &Operation, state: &FleetState, at: Timestamp) -> Option<FleetEvent> {
    if operation.aborted_by() != Some(BY_THE_JUDGE) {
        return None;
    }
    let plan = operation.plan();
    let release = plan.to.clone()?;
    let canary = &plan.stages.iter().find_map(|stage| stage.gate.as_ref())?.canary;
    let known = |host: &HostName| {
        let on_host = state.releases.get(&release).and_then(|row| row.hosts.get(host));
        on_host.and_then(|row| row.standing) == Some((Standing::Bad, StandingSource::Operated))
    };
    let tried = plan.hosts.iter().filter(|row| row.group == *canary && row.left_out.is_none());
    let hosts: Vec<HostName> = tried.map(|row| row.host.clone()).collect();
    let (standing, operation) = (Standing::Bad, operation.id().clone());
    (!hosts.iter().all(known)).then_some(FleetEvent::Proven {
        release,
        hosts,
        standing,
        operation,
        at,
    })
}

/// What went forward may be taken back by a trigger for a while; what went back needs none.
fn armed(operation: &Operation, state: &FleetState, at: Timestamp) -> Option<FleetEvent> {
    let plan = operation.plan();
    let disarmed = || state.armed.is_some().then_some(FleetEvent::Armed { armed: None, at });
    match plan.kind {
        OperationKind::Deploy => {}
        OperationKind::Rollback | OperationKind::Undo(_) => {
            return if on_target(operation).is_empty() { None } else { disarmed() };
        }
        // The traffic left what went forward: whoever moved it has taken it back.
        OperationKind::Switch => {
            operation.mitigated()?;
            let stays = state.armed.as_ref().map(|armed| &armed.release) == plan.to.as_ref();
            return if stays { None } else { disarmed() };
        }
        OperationKind::Snapshot | OperationKind::Check | OperationKind::Fetch => return None,
    }
    let (mut hosts, release) = (on_target(operation), plan.to.clone()?);
    let id = operation.id().clone();
    if hosts.is_empty() {
        return None;
    }
    // Hosts that got the release before are no control group of those that get it now; late hosts come to the rest.
    let before = state.armed.as_ref().filter(|armed| armed.release == release && armed.until > at);
    let known = before.map_or(&[][..], |armed| &armed.hosts);
    let late = hosts.iter().any(|host| !known.contains(host));
    hosts.extend(known.iter().filter(|host| !hosts.contains(host)).cloned().collect::<Vec<_>>());
    match state.armed.as_ref().filter(|armed| armed.operation == id) {
        Some(armed) if late && before.is_some() => {
            let armed = Armed { hosts, ..armed.clone() };
            return Some(FleetEvent::Armed { armed: Some(armed), at });
        }
        Some(_) => return None,
        None => {}
    }
    let canary = state.fleet.as_ref().and_then(|fleet| fleet.canary.as_ref());
    let for_ms = canary.map_or(ARMED_FOR_MS, |canary| canary.armed_for_ms);
    let until = Timestamp(at.0.saturating_add(i64::try_from(for_ms).unwrap_or(i64::MAX)));
    let armed = Armed { operation: id, release, hosts, since: at, until };
    Some(FleetEvent::Armed { armed: Some(armed), at })
}

/// What restored hosts replaced: to be recognised wherever it is put back.
fn left(operation: &Operation, state: &FleetState, at: Timestamp) -> Vec<FleetEvent> {
    let Some(release) = operation.plan().from.as_ref() else { return Vec::new() };
    let mut known: Vec<&Left> = Vec::new();
    let mut all = Vec::new();
    let outcomes = operation.outcomes();
    let restored = outcomes.iter().filter(|row| row.outcome == Outcome::Restored);
    for evidence in restored.flat_map(|row| &row.evidence) {
        let Some(content) = &evidence.replaced_content else { continue };
        all.push(Left {
            release: release.clone(),
            component: evidence.component.clone(),
            content: content.clone(),
            operation: operation.id().clone(),
        });
    }
    let mut events = Vec::new();
    for left in &all {
        if !state.left.contains(left) && !known.contains(&left) {
            known.push(left);
            events.push(FleetEvent::Left { left: left.clone(), at });
        }
    }
    events
}

/// The side that traffic left stays as the way back, where this operation went forward; going back uses it up.
fn side_left(operation: &Operation, state: &FleetState, at: Timestamp) -> Option<FleetEvent> {
    let plan = operation.plan();
    let none = || state.warm.is_some().then_some(FleetEvent::SideLeft { warm: None, at });
    match plan.kind {
        OperationKind::Deploy | OperationKind::Switch => {}
        OperationKind::Rollback | OperationKind::Undo(_) => {
            return on_target(operation).first().and_then(|_| none());
        }
        OperationKind::Snapshot | OperationKind::Check | OperationKind::Fetch => return None,
    }
    operation.mitigated()?;
    let (before, after) = (plan.weights_before.as_ref()?, plan.weights_after.as_ref()?);
    let traffic = state.fleet.as_ref()?.traffic.as_ref()?;
    let left = |slot: &&GroupName| before.of(slot) > 0 && after.of(slot) == 0;
    let group = traffic.slots.iter().find(left)?.clone();
    let release = plan.from.clone()?;
    let operation = operation.id().clone();
    if state.warm.as_ref().is_some_and(|warm| warm.operation == operation) {
        return None;
    }
    let until = Timestamp(at.0.saturating_add(i64::try_from(traffic.warm_ms).unwrap_or(i64::MAX)));
    Some(FleetEvent::SideLeft { warm: Some(Warm { group, release, until, operation }), at })
}

/// What was proposed is over once a rollback went through: by this very operation, or by another one.
fn decided(operation: &Operation, state: &FleetState, at: Timestamp) -> Vec<FleetEvent> {
    let id = operation.id();
    // Once, with its end: what is proposed later is about something new.
    if !moved(operation) || state.busy.as_ref() != Some(id) {
        return Vec::new();
    }
    let decide = |row: &Proposal| {
        let (decision, by, reason) = if row.operation == *id {
            (Decision::Approved, operation.by().to_owned(), operation.reason().to_owned())
        } else {
            (Decision::Expired, id.to_string(), format!("{id} rolled the fleet back"))
        };
        FleetEvent::Decided { operation: row.operation.clone(), decision, by, reason, at }
    };
    state.waiting().map(decide).collect()
}

/// A host that an operation restored after root had acted on it is one that somebody has looked at.
fn settled(operation: &Operation, state: &FleetState, at: Timestamp) -> Vec<FleetEvent> {
    match operation.plan().kind {
        OperationKind::Rollback | OperationKind::Undo(_) | OperationKind::Deploy => {}
        OperationKind::Snapshot
        | OperationKind::Check
        | OperationKind::Fetch
        | OperationKind::Switch => return Vec::new(),
    }
    let open = |host: &HostName| {
        let seen = state.local.get(host);
        let waits = seen.is_some_and(|seen| seen.settled.is_none());
        waits && state.overtaken(operation.id(), host).is_none()
    };
    let by = operation.id().to_string();
    let hosts = on_target(operation).into_iter().filter(open);
    hosts.map(|host| FleetEvent::LocalSettled { host, by: by.clone(), at }).collect()
}

fn on_target(operation: &Operation) -> Vec<HostName> {
    // An edge that only moves traffic has no release of its own.
    let tracks = operation.plan().stages.iter().flat_map(Stage::tracks);
    let on_component =
        |track: &&Track| track.steps.iter().any(|step| step.component.as_str() != Step::TRAFFIC);
    let hosts: BTreeSet<&HostName> = tracks.filter(on_component).map(|track| &track.host).collect();
    let outcomes = operation.outcomes().into_iter();
    let restored = outcomes.filter(|row| row.outcome == Outcome::Restored);
    restored.map(|row| row.host).filter(|host| hosts.contains(host)).collect()
}

/// Whether some host went to the target, and was not taken back by an abort.
fn moved(operation: &Operation) -> bool {
    match operation.plan().kind {
        OperationKind::Rollback => !on_target(operation).is_empty(),
        OperationKind::Undo(_)
        | OperationKind::Snapshot
        | OperationKind::Check
        | OperationKind::Fetch
        | OperationKind::Deploy
        | OperationKind::Switch => false,
    }
}
