//! What the end of an operation means for its fleet.

use crate::{
    fleet::{FleetEvent, Standing},
    name::HostName,
    operation::{Operation, Outcome, Phase, RunResult},
    plan::OperationKind,
    time::Timestamp,
};

/// The changes of the fleet that follow from an ended operation; none while it runs. Derived from the operation
/// alone, so that a coordinator that was killed before it wrote them down writes the same ones afterwards.
pub fn consequences(operation: &Operation, at: Timestamp) -> Vec<FleetEvent> {
    let Phase::Ended(result) = operation.phase() else { return Vec::new() };
    let mut events = findings(operation, at);
    let moved = moved(operation);
    let plan = operation.plan();
    if plan.freezes && moved {
        let by = operation.id().to_string();
        let left =
            plan.from.as_ref().map_or_else(|| "what was live".to_owned(), ToString::to_string);
        let reason = format!("{by} rolled back from {left}");
        events.push(FleetEvent::Frozen { by, reason, at });
        if let Some(release) = plan.to.clone() {
            events.push(FleetEvent::RolledBackTo { release, operation: operation.id().clone() });
        }
    }
    events.push(ended(operation, result, at));
    events
}

/// What an operation found out about releases, and its end: also what follows when a host that had been unknown
/// tells later how it fared.
pub fn late_consequences(operation: &Operation, at: Timestamp) -> Vec<FleetEvent> {
    let Phase::Ended(result) = operation.phase() else { return Vec::new() };
    let mut events = findings(operation, at);
    events.push(ended(operation, result, at));
    events
}

fn findings(operation: &Operation, at: Timestamp) -> Vec<FleetEvent> {
    let plan = operation.plan();
    let restored = on_target(operation);
    let mut events = Vec::new();
    if restored.is_empty() || !operation.proves() {
        return events;
    }
    let proven = |release: &crate::ReleaseName, standing| FleetEvent::Proven {
        release: release.clone(),
        hosts: restored.clone(),
        standing,
        operation: operation.id().clone(),
        at,
    };
    events.extend(plan.to.as_ref().map(|to| proven(to, Standing::Good)));
    if plan.marks_from_bad {
        events.extend(plan.from.as_ref().map(|from| proven(from, Standing::Bad)));
    }
    events
}

fn ended(operation: &Operation, result: RunResult, at: Timestamp) -> FleetEvent {
    FleetEvent::OperationEnded { operation: operation.id().clone(), result, at }
}

fn on_target(operation: &Operation) -> Vec<HostName> {
    let outcomes = operation.outcomes().into_iter();
    outcomes.filter(|row| row.outcome == Outcome::Restored).map(|row| row.host).collect()
}

/// Whether some host went to the target, and was not taken back by an abort.
fn moved(operation: &Operation) -> bool {
    match operation.plan().kind {
        OperationKind::Rollback => !on_target(operation).is_empty(),
        OperationKind::Undo(_) | OperationKind::Snapshot | OperationKind::Check => false,
    }
}
