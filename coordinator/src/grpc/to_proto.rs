//! Our types to the wire. Free functions that cannot fail.

use std::time::Instant;

use engine::{
    Abort, Artefact, Ask, Elapsed, Event, Evidence, FleetName, Freeze, Goal, GroupName, HostName,
    HostOutcome, OnFailure, OperationKind, Outcome, Phase, Plan, ReleaseName, RunResult, Standing,
    StandingSource, StepState, Timestamp, TrackEnd, Verb, Weights,
};
use proto::v1;

use crate::{
    doctor::{Finding, HostReadiness, Readiness, Severity},
    host::{ComponentStatus, HeldSnapshot, HostStatus, Problem, TrafficStatus, wall},
    identities::{HostIdentity, Origin},
    journal::Epoch,
    operations::PLAN_VALID,
    quarantine::Barred,
    retention::Kept,
    runner::{Entry, View},
    sessions::{Down, Keep, Order, Prune, Pruned, PrunedRow, Quarantine},
};

fn text<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(String::new, ToString::to_string)
}

/// Our term.
pub fn epoch(epoch: &Epoch) -> v1::Epoch {
    v1::Epoch { counter: epoch.counter, instance: epoch.instance.clone() }
}

/// How a host stands, in words where there is something to say, and when its certificate ends.
pub fn identity(
    state: &HostIdentity,
    now: Timestamp,
) -> (v1::AgentIdentity, Option<String>, Option<Timestamp>) {
    let told = match (state.revoked(), state.current(), state.awaited_until(now)) {
        (_, _, Some(until)) => Some(format!("may join until {}", minute(until))),
        (Some(revoked), _, None) => {
            Some(format!("shut out {} by {}: {}", minute(revoked.at), revoked.by, revoked.reason))
        }
        (None, _, None) => None,
    };
    let identity = match (state.revoked(), state.current().map(|current| current.origin)) {
        (Some(_), _) => v1::AgentIdentity::Revoked,
        (None, None) => v1::AgentIdentity::None,
        (None, Some(Origin::Here)) => v1::AgentIdentity::Joined,
        (None, Some(Origin::Hand)) => v1::AgentIdentity::Issued,
    };
    (identity, told, state.current().map(|current| current.ends))
}

fn minute(at: Timestamp) -> String {
    let at = jiff::Timestamp::from_millisecond(at.0).unwrap_or_default();
    at.strftime("%m-%d %H:%M UTC").to_string()
}

/// What goes down to an agent.
pub fn down(down: &Down) -> v1::session_response::Message {
    match down {
        Down::Order(sent) => v1::session_response::Message::Order(order(sent)),
        Down::Look => v1::session_response::Message::Look(v1::Look {}),
        Down::Keep(told) => v1::session_response::Message::Keep(keep(told)),
        Down::Prune(asked) => v1::session_response::Message::Prune(prune(asked)),
        Down::Quarantine(told) => v1::session_response::Message::Quarantine(quarantine(told)),
    }
}

fn keep(keep: &Keep) -> v1::Keep {
    let row = |row: &Kept| v1::KeepRow {
        component: row.component.to_string(),
        snapshot: row.snapshot.to_string(),
        why: row.why.clone(),
    };
    v1::Keep {
        epoch: Some(epoch(&keep.epoch)),
        at_unix_ms: keep.at.0,
        rows: keep.rows.iter().map(row).collect(),
    }
}

fn quarantine(told: &Quarantine) -> v1::Quarantine {
    let row = |row: &Barred| v1::QuarantineRow {
        component: row.component.to_string(),
        content: row.content.clone(),
        why: row.why.clone(),
    };
    v1::Quarantine { epoch: Some(epoch(&told.epoch)), rows: told.rows.iter().map(row).collect() }
}

fn prune(prune: &Prune) -> v1::Prune {
    let only = prune.only.iter().flatten().map(|(component, snapshot)| v1::KeepRow {
        component: component.to_string(),
        snapshot: snapshot.to_string(),
        why: String::new(),
    });
    v1::Prune {
        id: prune.id,
        dry_run: prune.dry_run,
        component: text(prune.component.as_ref()),
        keep: Some(keep(&prune.keep)),
        agreed: prune.only.is_some(),
        only: only.collect(),
    }
}

/// What a host answered to a prune, or why it did not.
pub fn host_pruned(host: &HostName, answer: Result<Pruned, String>) -> v1::HostPruned {
    let (pruned, failed) = match answer {
        Ok(pruned) => (pruned, String::new()),
        Err(why) => (Pruned::default(), why),
    };
    let row = |row: PrunedRow| v1::PrunedRow {
        component: row.component.to_string(),
        snapshot: row.snapshot.to_string(),
        releases: row.releases,
        size_bytes: row.size_bytes,
        taken_at_unix_ms: row.taken_at.0,
        goes: row.goes,
        why: row.why,
    };
    v1::HostPruned {
        host: host.to_string(),
        rows: pruned.rows.into_iter().map(row).collect(),
        freed_bytes: pruned.freed_bytes,
        notes: pruned.notes,
        failures: pruned.failures,
        failed,
    }
}

/// How far back a rollback can go.
pub fn horizon((releases, age): (usize, Elapsed)) -> v1::Horizon {
    v1::Horizon { releases: small(releases), age_ms: age.0 }
}

fn order(order: &Order) -> v1::Order {
    v1::Order {
        id: Some(v1::OrderId {
            operation: order.operation.to_string(),
            stage: small(order.stage),
            host: order.host.to_string(),
            attempt: order.attempt,
            plan_hash: order.plan_hash.clone(),
        }),
        epoch: Some(epoch(&order.epoch)),
        sequence: order.sequence,
        goal: goal(order.goal).into(),
        steps: order.steps.iter().map(step).collect(),
        on_failure: match order.on_failure {
            OnFailure::Restore => v1::OnFailure::Restore,
            OnFailure::Leave => v1::OnFailure::Leave,
        }
        .into(),
        traceparent: order.traceparent.clone(),
        after_local: order.after_local.clone(),
    }
}

fn goal(goal: Goal) -> v1::Goal {
    match goal {
        Goal::Forward => v1::Goal::Forward,
        Goal::Undo => v1::Goal::Undo,
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn step(step: &engine::Step) -> v1::Step {
    v1::Step {
        verb: verb(step.verb).into(),
        component: step.component.to_string(),
        release: text(step.target.as_ref().map(|target| &target.release)),
        snapshot: text(step.target.as_ref().and_then(|target| target.snapshot.as_ref())),
        deadline_ms: step.deadline_ms,
        hook: step.hook.clone().unwrap_or_default(),
        across_migrations: step.across_migrations,
        weights: step.weights.as_ref().map(weights),
        artefact: step.artefact.as_ref().map(artefact),
        at_once: step.at_once,
        forward: step.forward,
    }
}

/// How traffic is divided.
pub fn weights(weights: &Weights) -> v1::Weights {
    let share = |(group, percent): (&GroupName, &u32)| v1::GroupWeight {
        group: group.to_string(),
        percent: *percent,
    };
    v1::Weights {
        groups: weights.groups().iter().map(share).collect(),
        out: weights.out().iter().map(ToString::to_string).collect(),
    }
}

/// What a release is made of.
pub fn artefact(artefact: &Artefact) -> v1::Artefact {
    let Artefact { source, name, digest } = artefact.clone();
    v1::Artefact { source, name, digest }
}

fn verb(verb: Verb) -> v1::Verb {
    match verb {
        Verb::Preflight => v1::Verb::Preflight,
        Verb::Snapshot => v1::Verb::Snapshot,
        Verb::Stage => v1::Verb::Stage,
        Verb::Stop => v1::Verb::Stop,
        Verb::Switch => v1::Verb::Switch,
        Verb::Start => v1::Verb::Start,
        Verb::Verify => v1::Verb::Verify,
        Verb::Discard => v1::Verb::Discard,
        Verb::Check => v1::Verb::Check,
        Verb::Reload => v1::Verb::Reload,
        Verb::Hook => v1::Verb::Hook,
        Verb::Fetch => v1::Verb::Fetch,
        Verb::SetWeights => v1::Verb::SetWeights,
        Verb::Drain => v1::Verb::Drain,
    }
}

/// A plan as operators see it. `expected_ms` is 0 where history has nothing like it.
pub fn plan(plan: &Plan, environment: &str, expected_ms: u64, made: Instant) -> v1::Plan {
    let left = PLAN_VALID.saturating_sub(made.elapsed());
    let valid_until = wall().0.saturating_add(i64::try_from(left.as_millis()).unwrap_or(0));
    let host = |row: &engine::PlannedHost| v1::PlannedHost {
        host: row.host.to_string(),
        group: row.group.to_string(),
        from_release: text(row.from.as_ref()),
        to_release: if row.left_out.is_none() { text(plan.to.as_ref()) } else { String::new() },
        left_out: row.left_out.clone().unwrap_or_default(),
        reachable: row.reachable,
    };
    v1::Plan {
        id: plan.id().to_owned(),
        hash: plan.hash().to_owned(),
        kind: match plan.kind {
            OperationKind::Rollback => v1::OperationKind::Rollback,
            OperationKind::Undo(_) => v1::OperationKind::Undo,
            OperationKind::Snapshot => v1::OperationKind::Snapshot,
            OperationKind::Check => v1::OperationKind::Check,
            OperationKind::Fetch => v1::OperationKind::Fetch,
            OperationKind::Deploy => v1::OperationKind::Deploy,
            OperationKind::Switch => v1::OperationKind::Switch,
        }
        .into(),
        fleet: plan.fleet.to_string(),
        app: plan.app.clone(),
        from_release: text(plan.from.as_ref()),
        to_release: text(plan.to.as_ref()),
        why_target: plan.why_target.clone(),
        stages: plan.stages.iter().map(stage).collect(),
        hosts: plan.hosts.iter().map(host).collect(),
        marks_from_bad: plan.marks_from_bad,
        freezes: plan.freezes,
        interruption: plan.interruption.clone(),
        not_rolled_back: plan.not_rolled_back.clone(),
        warnings: plan.warnings.clone(),
        deadline_ms: plan.deadline_ms,
        expected_ms,
        valid_until_unix_ms: valid_until,
        nothing_to_do: plan.nothing_to_do(),
        production: environment == "production",
        weights_before: plan.weights_before.as_ref().map(weights),
        weights_after: plan.weights_after.as_ref().map(weights),
    }
}

fn stage(stage: &engine::Stage) -> v1::Stage {
    let track = |track: &engine::Track| v1::Track {
        host: track.host.to_string(),
        steps: track.steps.iter().map(step).collect(),
    };
    let batch =
        |batch: &engine::Batch| v1::Batch { tracks: batch.tracks.iter().map(track).collect() };
    v1::Stage {
        name: stage.name.clone(),
        batches: stage.batches.iter().map(batch).collect(),
        budget: Some(v1::Budget {
            failed: stage.budget.failed,
            unknown: stage.budget.unknown,
            out: stage.budget.out,
        }),
        soak_ms: stage.soak_ms,
        cuts_capacity: stage.cuts_capacity,
        mitigates: stage.mitigates,
        held_until: stage.held_until.map_or(0, small),
        gate: stage.gate.as_ref().map(|gate| v1::Gate {
            canary: gate.canary.to_string(),
            weight: gate.weight,
            asks: gate.asks,
            measures: gate.analysis.compare.iter().map(|it| it.name().to_owned()).collect(),
        }),
    }
}

/// An operation as it stands.
pub fn operation(view: &View, environment: &str) -> v1::Operation {
    let operation = &view.operation;
    v1::Operation {
        id: operation.id().to_string(),
        plan: Some(plan(operation.plan(), environment, 0, Instant::now())),
        result: match operation.phase() {
            Phase::Paused => v1::OperationResult::Paused,
            Phase::Running | Phase::Halting | Phase::Aborting(_) => v1::OperationResult::Running,
            Phase::Ended(result) => run_result(result),
        }
        .into(),
        by: operation.by().to_owned(),
        reason: operation.reason().to_owned(),
        started_unix_ms: view.started().0,
        ended_unix_ms: view.ended().map_or(0, |at| at.0),
        hosts: operation.outcomes().into_iter().map(host_outcome).collect(),
        halted: operation.halted().unwrap_or_default().to_owned(),
        stage: small(operation.stage()),
        events: view.entries.len() as u64,
        trace_id: view.trace_id(),
        mitigated_unix_ms: view.mitigated().map_or(0, |at| at.0),
        canary: super::canary::canary_view(view, None, None),
        aborted_by: operation.aborted_by().unwrap_or_default().to_owned(),
    }
}

fn run_result(result: RunResult) -> v1::OperationResult {
    match result {
        RunResult::Verified => v1::OperationResult::Verified,
        RunResult::Refused => v1::OperationResult::Refused,
        RunResult::PutBack => v1::OperationResult::PutBack,
        RunResult::Mixed => v1::OperationResult::Mixed,
        RunResult::Unverified => v1::OperationResult::Unverified,
    }
}

fn host_outcome(row: HostOutcome) -> v1::HostOutcome {
    v1::HostOutcome {
        host: row.host.to_string(),
        group: row.group.to_string(),
        outcome: match row.outcome {
            Outcome::Restored => v1::Outcome::Restored,
            Outcome::Original => v1::Outcome::Original,
            Outcome::Failed => v1::Outcome::Failed,
            Outcome::Unknown => v1::Outcome::Unknown,
            Outcome::Skipped => v1::Outcome::Skipped,
        }
        .into(),
        reason: row.reason,
        evidence: row.evidence.iter().map(evidence).collect(),
        cut_ms: row.cut_ms,
    }
}

fn evidence(row: &Evidence) -> v1::Evidence {
    v1::Evidence {
        component: row.component.to_string(),
        snapshot: text(row.snapshot.as_ref()),
        version: row.version.clone().unwrap_or_default(),
        stable_ms: row.stable_ms,
        notes: row.notes.clone(),
        replaced: text(row.replaced.as_ref()),
        replaced_content: row.replaced_content.clone().unwrap_or_default(),
        weights: row.weights.as_ref().map(weights),
    }
}

/// One event of an operation, as watchers see it.
pub fn watched(view: &View, index: usize, entry: &Entry) -> v1::WatchOperationResponse {
    v1::WatchOperationResponse {
        index: index as u64,
        at_unix_ms: entry.at.0,
        event: Some(event(view, &entry.event)),
    }
}

fn event(view: &View, event: &Event) -> v1::watch_operation_response::Event {
    use v1::watch_operation_response as w;
    let plan = view.operation.plan();
    match event {
        Event::Opened { by, reason, .. } => {
            w::Event::Opened(w::Opened { by: by.clone(), reason: reason.clone() })
        }
        Event::StageBegan { stage, .. } => {
            let name = plan.stages.get(*stage).map_or_else(String::new, |stage| stage.name.clone());
            w::Event::StageBegan(w::StageBegan { stage: small(*stage), name })
        }
        Event::Dispatched { stage, hosts, goal: way, .. } => w::Event::Dispatched(w::Dispatched {
            stage: small(*stage),
            hosts: hosts.iter().map(ToString::to_string).collect(),
            goal: goal(*way).into(),
        }),
        Event::StepReported { host, stage, attempt, step } => {
            let planned = view.operation.step(host, *stage, step.index);
            w::Event::Step(w::StepChanged {
                host: host.to_string(),
                stage: small(*stage),
                attempt: *attempt,
                index: small(step.index),
                verb: planned.map_or(v1::Verb::Unspecified, |step| verb(step.verb)).into(),
                component: planned.map_or_else(String::new, |step| step.component.to_string()),
                state: step_state(step.state).into(),
                duration_ms: step.duration_ms,
                detail: step.detail.clone(),
                hook: planned.and_then(|step| step.hook.clone()).unwrap_or_default(),
            })
        }
        Event::TrackEnded { host, stage, ending, .. } => w::Event::HostEnded(w::HostEnded {
            host: host.to_string(),
            stage: small(*stage),
            end: match ending.end {
                TrackEnd::Done => v1::TrackEnd::Done,
                // What only looks has nothing to take back.
                TrackEnd::Undone | TrackEnd::Refused | TrackEnd::Stuck
                    if looks(view, host, *stage) =>
                {
                    v1::TrackEnd::Left
                }
                TrackEnd::Undone | TrackEnd::Refused => v1::TrackEnd::Undone,
                TrackEnd::Left => v1::TrackEnd::Left,
                TrackEnd::Stuck => v1::TrackEnd::Stuck,
            }
            .into(),
            reason: ending.reason.clone(),
        }),
        Event::BecameUnknown { host, why, .. } => {
            w::Event::HostUnknown(w::HostUnknown { host: host.to_string(), why: why.clone() })
        }
        Event::HostLost { host, .. } => noted(host, "its agent is out of reach"),
        Event::HostBack { host, .. } => noted(host, "its agent is back"),
        Event::SeenInWork { host, .. } => noted(host, "it was seen at work"),
        Event::SeenIdle { host, again: true, .. } => {
            noted(host, "it came back late and is brought along")
        }
        Event::SeenIdle { host, again: false, .. } => {
            noted(host, "it came back late; nothing was begun there")
        }
        Event::Overtaken { host, why, .. } => noted(host, why),
        Event::StageEnded { stage, at } => {
            let name = plan.stages.get(*stage).map_or_else(String::new, |stage| stage.name.clone());
            let operation = &view.operation;
            let mitigated = operation.mitigated().filter(|since| {
                since == at && plan.stages.get(*stage).is_some_and(|stage| stage.mitigates)
            });
            let mitigated_after_ms = mitigated.map_or(0, |since| since.0.max(1));
            w::Event::StageEnded(w::StageEnded { stage: small(*stage), name, mitigated_after_ms })
        }
        Event::Asked { ask, by, .. } => {
            w::Event::Asked(w::Asked { what: ask_words(ask), by: by.clone() })
        }
        Event::Judged { stage, ruling, .. } => {
            let gate = plan.stages.get(*stage).and_then(|stage| stage.gate.as_ref());
            w::Event::Judged(w::Judged {
                stage: small(*stage),
                weight: gate.map_or(0, |gate| gate.weight),
                ruling: Some(super::canary::ruling(ruling)),
            })
        }
        Event::Halted { why, .. } => w::Event::Halted(w::Halted { why: why.clone() }),
        Event::Ended { result, .. } => {
            w::Event::Ended(w::Ended { result: run_result(*result).into() })
        }
    }
}

fn looks(view: &View, host: &HostName, stage: usize) -> bool {
    let cuts = view.operation.plan().stages.get(stage).is_some_and(|stage| stage.cuts_capacity);
    !cuts && view.operation.only_looks(host, stage)
}

fn noted(host: &HostName, what: &str) -> v1::watch_operation_response::Event {
    use v1::watch_operation_response as w;
    w::Event::Noted(w::Noted { host: host.to_string(), what: what.to_owned() })
}

fn ask_words(ask: &Ask) -> String {
    match ask {
        Ask::Pause => "pause".to_owned(),
        Ask::Resume => "resume".to_owned(),
        Ask::Abort(Abort::Restore) => "abort --restore".to_owned(),
        Ask::Abort(Abort::Leave) => "abort --leave".to_owned(),
        Ask::Retry(hosts) => {
            let hosts: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
            format!("retry {}", hosts.join(", "))
        }
        Ask::Promote { .. } => "promote".to_owned(),
    }
}

fn step_state(state: StepState) -> v1::StepState {
    match state {
        StepState::Running => v1::StepState::Running,
        StepState::Done => v1::StepState::Done,
        StepState::Failed => v1::StepState::Failed,
        StepState::Undone => v1::StepState::Undone,
    }
}

/// What root did on a host itself.
pub fn local_operation(local: &engine::LocalOperation) -> v1::LocalOperation {
    let ended = local.ended.as_ref().map(|(end, reason)| v1::LocalEnd {
        end: match end {
            TrackEnd::Done => v1::TrackEnd::Done,
            TrackEnd::Undone | TrackEnd::Refused => v1::TrackEnd::Undone,
            TrackEnd::Left => v1::TrackEnd::Left,
            TrackEnd::Stuck => v1::TrackEnd::Stuck,
        }
        .into(),
        reason: reason.clone(),
    });
    v1::LocalOperation {
        id: local.id.clone(),
        at_unix_ms: local.at.0,
        by: local.by.clone(),
        to_release: local.to.clone(),
        ended,
    }
}

/// Everything that is known of a host.
pub fn host_status(status: &HostStatus) -> v1::HostStatus {
    v1::HostStatus {
        policy_hash: status.policy_hash.clone(),
        components: status.components.iter().map(component_status).collect(),
        snapshots: status.snapshots.iter().map(snapshot).collect(),
        tracks: Vec::new(),
        free_bytes: status.free_bytes,
        local_operations: status.local.iter().map(local_operation).collect(),
        highest_epoch: status.fence.as_ref().map(|(counter, instance, _)| v1::Epoch {
            counter: *counter,
            instance: instance.clone(),
        }),
        highest_sequence: status.fence.as_ref().map_or(0, |(_, _, sequence)| *sequence),
        traffic: status.traffic.as_ref().map(traffic_status),
    }
}

/// How a proxy divides the traffic.
pub fn traffic_status(status: &TrafficStatus) -> v1::TrafficStatus {
    v1::TrafficStatus {
        driver: status.driver.clone(),
        asked: status.asked.as_ref().map(weights),
        observed: status.observed.as_ref().map(weights),
        problems: status.problems.iter().map(problem).collect(),
    }
}

fn component_status(row: &ComponentStatus) -> v1::ComponentStatus {
    let services = row.services.iter().map(|service| v1::ServiceStatus {
        service: service.service.clone(),
        driver: service.driver.clone(),
        running: service.running,
        detail: service.detail.clone(),
    });
    let checks = row.checks.iter().map(|check| v1::CheckStatus {
        check: check.check.clone(),
        ok: check.ok,
        detail: check.detail.clone(),
    });
    v1::ComponentStatus {
        component: row.component.to_string(),
        release: text(row.release.as_ref()),
        snapshot: text(row.snapshot.as_ref()),
        changed: row.changed,
        version: row.version.clone().unwrap_or_default(),
        services: services.collect(),
        checks: checks.collect(),
        held: row.held,
        verbs: row.verbs.iter().map(|v| verb(*v).into()).collect(),
        problems: row.problems.iter().map(problem).collect(),
        content: row.content.clone(),
        lease_until_unix_ms: row.lease_until.map_or(0, |until| until.0),
    }
}

/// Something that is not as it has to be.
pub fn problem(problem: &Problem) -> v1::Problem {
    v1::Problem { what: problem.what.clone(), mend: problem.mend.clone(), warns: problem.warns }
}

/// Whether a rollback would work.
pub fn readiness(fleet: &FleetName, readiness: Readiness, expected_ms: u64) -> v1::DoctorResponse {
    let Readiness { ready, way_back, way_back_is_live, hosts, findings } = readiness;
    let host = |row: HostReadiness| v1::HostReadiness {
        host: row.host.to_string(),
        group: row.group.to_string(),
        ready: row.ready,
        live_release: row.live.unwrap_or_default(),
        staged: row.staged,
        bytes_needed: row.bytes_needed,
        free_bytes: row.free_bytes,
        verified_at_unix_ms: row.verified_at.map_or(0, |at| at.0),
        certificate_ends_unix_ms: row.certificate_ends.map_or(0, |at| at.0),
        expected_cut_ms: row.expected_cut_ms,
    };
    let finding = |finding: Finding| v1::Finding {
        host: text(finding.host.as_ref()),
        component: text(finding.component.as_ref()),
        severity: match finding.severity {
            Severity::Note => v1::Severity::Note,
            Severity::Warning => v1::Severity::Warning,
            Severity::Blocking => v1::Severity::Blocking,
        }
        .into(),
        what: finding.what,
        mend: finding.mend,
    };
    v1::DoctorResponse {
        fleet: fleet.to_string(),
        ready,
        way_back: text(way_back.as_ref()),
        way_back_is_live,
        hosts: hosts.into_iter().map(host).collect(),
        findings: findings.into_iter().map(finding).collect(),
        expected_ms,
        horizon: None,
    }
}

/// A snapshot in a host's store.
pub fn snapshot(row: &HeldSnapshot) -> v1::SnapshotInfo {
    v1::SnapshotInfo {
        component: row.component.to_string(),
        snapshot: row.seen.snapshot.to_string(),
        content: row.seen.content.clone(),
        release: text(row.release.as_ref()),
        version: row.seen.version.clone().unwrap_or_default(),
        taken_at_unix_ms: row.seen.taken_at.0,
        size_bytes: row.size_bytes,
        files: row.files,
        damage: row.damage.clone().unwrap_or_default(),
        verified_at_unix_ms: row.verified_at.map_or(0, |at| at.0),
        staged: row.staged,
        learned_at_unix_ms: row.learned_at.map_or(0, |at| at.0),
    }
}

/// Whether deploys forward are refused.
pub fn freeze(freeze: Option<&Freeze>) -> v1::Freeze {
    match freeze {
        Some(freeze) => v1::Freeze {
            frozen: true,
            reason: freeze.reason.clone(),
            by: freeze.by.clone(),
            since_unix_ms: freeze.since.0,
        },
        None => v1::Freeze::default(),
    }
}

/// A release and where it can be restored.
pub fn release(
    name: &ReleaseName,
    release: &engine::Release,
    missing: &[(HostName, String)],
    live: bool,
    snapshots: Vec<v1::HostSnapshot>,
) -> v1::Release {
    let (overall, from) = release.standing();
    let holds =
        release.hosts.iter().filter(|(_, row)| row.held().next().is_some()).map(|(host, _)| host);
    let host_standings = release.hosts.keys().map(|host| {
        let (on_host, from) = release.standing_on(host);
        v1::HostStanding {
            host: host.to_string(),
            standing: standing(on_host).into(),
            source: source(from).into(),
        }
    });
    v1::Release {
        release: name.to_string(),
        first_seen_unix_ms: release.first_seen.0,
        standing: standing(overall).into(),
        source: source(from).into(),
        reason: release.marked.as_ref().map_or_else(String::new, |(_, reason)| reason.clone()),
        on_hosts: holds
            .filter(|host| missing.iter().all(|(other, _)| other != *host))
            .map(ToString::to_string)
            .collect(),
        missing_on: missing.iter().map(|(host, why)| format!("{host}: {why}")).collect(),
        live,
        host_standings: host_standings.collect(),
        snapshots,
        pin: release.pinned.as_ref().map(|pin| v1::Pin {
            by: pin.by.clone(),
            reason: pin.reason.clone(),
            since_unix_ms: pin.since.0,
        }),
        artefacts: release
            .artefacts
            .iter()
            .map(|(component, made_of)| (component.to_string(), artefact(made_of)))
            .collect(),
    }
}

fn standing(standing: Standing) -> v1::Standing {
    match standing {
        Standing::Unproven => v1::Standing::Unproven,
        Standing::Good => v1::Standing::Good,
        Standing::Bad => v1::Standing::Bad,
    }
}

/// Where a standing comes from.
pub fn source(source: Option<StandingSource>) -> v1::StandingSource {
    match source {
        None => v1::StandingSource::Unspecified,
        Some(StandingSource::Operated) => v1::StandingSource::Operated,
        Some(StandingSource::Learned) => v1::StandingSource::Learned,
        Some(StandingSource::Marked) => v1::StandingSource::Marked,
    }
}
