//! Wire to our types. Free functions; every field is checked, and what is missing is named.

use std::collections::BTreeMap;

use engine::{
    Artefact, Component, ComponentName, Evidence, Fleet, FleetName, Group, GroupName, Hook,
    HookPoint, HostName, Input, LateHosts, LocalOperation, OnFailure, OperationId, ReleaseName,
    Rollback, SeenSnapshot, SeenTrack, SnapshotHash, Standing, StepReport, StepState, Timestamp,
    TrackEnd, TrackEnding, Traffic, Verb, Weights, planner,
};
use proto::v1;

use super::canary;
use crate::{
    host::{
        CheckStatus, ComponentStatus, HeldSnapshot, Hello, HostStatus, Problem, ServiceStatus,
        TrafficStatus,
    },
    operations::Request,
    sessions::{Pruned, PrunedRow},
};

/// A message that does not say what it has to.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{field}` has the value {value}, which this build does not know")]
    Enum { field: &'static str, value: i32 },
    #[error("`{field}`: {why}")]
    Field { field: &'static str, why: String },
}

pub(super) type Wire<T> = Result<T, WireError>;

pub(super) fn field<T, E: std::fmt::Display>(name: &'static str, value: Result<T, E>) -> Wire<T> {
    value.map_err(|error| WireError::Field { field: name, why: error.to_string() })
}

/// Empty means absent.
fn optional<T, E: std::fmt::Display>(
    name: &'static str,
    text: String,
    parse: impl FnOnce(String) -> Result<T, E>,
) -> Wire<Option<T>> {
    if text.is_empty() { Ok(None) } else { field(name, parse(text)).map(Some) }
}

/// What an agent says first.
pub fn hello(message: v1::Hello) -> Hello {
    Hello {
        protocol_min: message.protocol_min,
        protocol_max: message.protocol_max,
        agent_version: message.agent_version,
        highest_epoch: message.highest_epoch.map(|epoch| (epoch.counter, epoch.instance)),
    }
}

/// A host as its agent tells it.
pub fn host_status(message: v1::HostStatus) -> Wire<HostStatus> {
    Ok(HostStatus {
        policy_hash: message.policy_hash,
        components: message.components.into_iter().map(component_status).collect::<Wire<_>>()?,
        snapshots: message.snapshots.into_iter().map(held_snapshot).collect::<Wire<_>>()?,
        tracks: message.tracks.into_iter().map(seen_track).collect::<Wire<_>>()?,
        free_bytes: message.free_bytes,
        local: message.local_operations.into_iter().next_back().map(local_operation).transpose()?,
        fence: message
            .highest_epoch
            .map(|epoch| (epoch.counter, epoch.instance, message.highest_sequence)),
        traffic: message.traffic.map(traffic_status).transpose()?,
    })
}

fn traffic_status(message: v1::TrafficStatus) -> Wire<TrafficStatus> {
    Ok(TrafficStatus {
        driver: message.driver,
        asked: message.asked.map(weights).transpose()?,
        observed: message.observed.map(weights).transpose()?,
        problems: message.problems.into_iter().map(problem).collect(),
    })
}

fn local_operation(message: v1::LocalOperation) -> Wire<LocalOperation> {
    let ended = |row: v1::LocalEnd| Ok((track_end(row.end)?, row.reason));
    Ok(LocalOperation {
        id: message.id,
        at: Timestamp(message.at_unix_ms),
        by: message.by,
        to: message.to_release,
        ended: message.ended.map(ended).transpose()?,
    })
}

fn component_status(message: v1::ComponentStatus) -> Wire<ComponentStatus> {
    let service = |row: v1::ServiceStatus| ServiceStatus {
        service: row.service,
        driver: row.driver,
        running: row.running,
        detail: row.detail,
    };
    let check =
        |row: v1::CheckStatus| CheckStatus { check: row.check, ok: row.ok, detail: row.detail };
    Ok(ComponentStatus {
        component: field("component", ComponentName::new(message.component))?,
        release: optional("release", message.release, ReleaseName::new)?,
        snapshot: optional("snapshot", message.snapshot, SnapshotHash::new)?,
        content: message.content,
        lease_until: (message.lease_until_unix_ms > 0)
            .then_some(Timestamp(message.lease_until_unix_ms)),
        changed: message.changed,
        version: (!message.version.is_empty()).then_some(message.version),
        services: message.services.into_iter().map(service).collect(),
        checks: message.checks.into_iter().map(check).collect(),
        held: message.held,
        verbs: message.verbs.into_iter().map(verb).collect::<Wire<_>>()?,
        problems: message.problems.into_iter().map(problem).collect(),
    })
}

fn problem(message: v1::Problem) -> Problem {
    Problem { what: message.what, mend: message.mend, warns: message.warns }
}

fn held_snapshot(message: v1::SnapshotInfo) -> Wire<HeldSnapshot> {
    let seen = SeenSnapshot {
        snapshot: field("snapshot", SnapshotHash::new(message.snapshot))?,
        content: message.content,
        version: (!message.version.is_empty()).then_some(message.version),
        taken_at: Timestamp(message.taken_at_unix_ms),
    };
    Ok(HeldSnapshot {
        component: field("component", ComponentName::new(message.component))?,
        release: optional("release", message.release, ReleaseName::new)?,
        seen,
        size_bytes: message.size_bytes,
        files: message.files,
        damage: (!message.damage.is_empty()).then_some(message.damage),
        verified_at: (message.verified_at_unix_ms > 0)
            .then_some(Timestamp(message.verified_at_unix_ms)),
        staged: message.staged,
        learned_at: (message.learned_at_unix_ms > 0)
            .then_some(Timestamp(message.learned_at_unix_ms)),
    })
}

fn seen_track(message: v1::TrackStatus) -> Wire<(OperationId, SeenTrack)> {
    let id = message.id.ok_or(WireError::Missing("id"))?;
    let track = SeenTrack {
        stage: id.stage as usize,
        attempt: id.attempt,
        ending: message.ended.map(track_ended).transpose()?,
    };
    Ok((field("operation", OperationId::new(id.operation))?, track))
}

/// A report on an order, as the input that it is. `host` comes from the certificate, not from the message.
pub fn report(message: v1::Report, host: &HostName) -> Wire<(OperationId, Input)> {
    let id = message.id.ok_or(WireError::Missing("id"))?;
    let operation = field("operation", OperationId::new(id.operation))?;
    let (host, stage, attempt) = (host.clone(), id.stage as usize, id.attempt);
    let input = match message.report.ok_or(WireError::Missing("report"))? {
        v1::report::Report::Step(step) => {
            let step = step_report(step)?;
            Input::StepReported { host, stage, attempt, step }
        }
        v1::report::Report::Ended(ended) => {
            let ending = track_ended(ended)?;
            Input::TrackEnded { host, stage, attempt, ending }
        }
        // The host is root's for all of the operation: it is not this order alone that ended.
        v1::report::Report::Refused(refused) if refused.overtaken => {
            Input::Overtaken { host, why: refused.reason }
        }
        v1::report::Report::Refused(refused) => {
            let reason = format!("the agent refused: {}", refused.reason);
            let (end, steps, evidence) = (TrackEnd::Refused, Vec::new(), Vec::new());
            Input::TrackEnded {
                host,
                stage,
                attempt,
                ending: TrackEnding { end, reason, steps, evidence },
            }
        }
    };
    Ok((operation, input))
}

/// The highest epoch that a refusing agent has on record.
pub fn refused_for(message: &v1::Report) -> Option<(u64, String)> {
    match message.report.as_ref()? {
        v1::report::Report::Refused(refused) => {
            let epoch = refused.highest_epoch.as_ref()?;
            Some((epoch.counter, epoch.instance.clone()))
        }
        v1::report::Report::Step(_) | v1::report::Report::Ended(_) => None,
    }
}

fn step_report(message: v1::StepReport) -> Wire<StepReport> {
    let state = match v1::StepState::try_from(message.state) {
        Ok(v1::StepState::Running) => StepState::Running,
        Ok(v1::StepState::Done) => StepState::Done,
        Ok(v1::StepState::Failed) => StepState::Failed,
        Ok(v1::StepState::Undone) => StepState::Undone,
        Ok(v1::StepState::Unspecified) | Err(_) => {
            return Err(WireError::Enum { field: "state", value: message.state });
        }
    };
    let (index, duration_ms, detail) =
        (message.index as usize, message.duration_ms, message.detail);
    Ok(StepReport { index, state, duration_ms, detail })
}

fn track_ended(message: v1::TrackEnded) -> Wire<TrackEnding> {
    Ok(TrackEnding {
        end: track_end(message.end)?,
        reason: message.reason,
        steps: message.steps.into_iter().map(step_report).collect::<Wire<_>>()?,
        evidence: message.evidence.into_iter().map(evidence).collect::<Wire<_>>()?,
    })
}

fn track_end(value: i32) -> Wire<TrackEnd> {
    match v1::TrackEnd::try_from(value) {
        Ok(v1::TrackEnd::Done) => Ok(TrackEnd::Done),
        Ok(v1::TrackEnd::Undone) => Ok(TrackEnd::Undone),
        Ok(v1::TrackEnd::Left) => Ok(TrackEnd::Left),
        Ok(v1::TrackEnd::Stuck) => Ok(TrackEnd::Stuck),
        Ok(v1::TrackEnd::Unspecified) | Err(_) => Err(WireError::Enum { field: "end", value }),
    }
}

fn evidence(message: v1::Evidence) -> Wire<Evidence> {
    Ok(Evidence {
        component: field("component", ComponentName::new(message.component))?,
        snapshot: optional("snapshot", message.snapshot, SnapshotHash::new)?,
        version: (!message.version.is_empty()).then_some(message.version),
        stable_ms: message.stable_ms,
        replaced: optional("replaced", message.replaced, SnapshotHash::new)?,
        replaced_content: (!message.replaced_content.is_empty())
            .then_some(message.replaced_content),
        notes: message.notes,
        weights: message.weights.map(weights).transpose()?,
    })
}

fn verb(value: i32) -> Wire<Verb> {
    match v1::Verb::try_from(value) {
        Ok(v1::Verb::Preflight) => Ok(Verb::Preflight),
        Ok(v1::Verb::Snapshot) => Ok(Verb::Snapshot),
        Ok(v1::Verb::Stage) => Ok(Verb::Stage),
        Ok(v1::Verb::Stop) => Ok(Verb::Stop),
        Ok(v1::Verb::Switch) => Ok(Verb::Switch),
        Ok(v1::Verb::Start) => Ok(Verb::Start),
        Ok(v1::Verb::Verify) => Ok(Verb::Verify),
        Ok(v1::Verb::Discard) => Ok(Verb::Discard),
        Ok(v1::Verb::Check) => Ok(Verb::Check),
        Ok(v1::Verb::Reload) => Ok(Verb::Reload),
        Ok(v1::Verb::Hook) => Ok(Verb::Hook),
        Ok(v1::Verb::Fetch) => Ok(Verb::Fetch),
        Ok(v1::Verb::SetWeights) => Ok(Verb::SetWeights),
        Ok(v1::Verb::Drain) => Ok(Verb::Drain),
        Ok(v1::Verb::Unspecified) | Err(_) => Err(WireError::Enum { field: "verb", value }),
    }
}

/// How traffic is divided.
pub fn weights(message: v1::Weights) -> Wire<Weights> {
    let share = |row: v1::GroupWeight| {
        Ok((field("weights.groups", GroupName::new(row.group))?, row.percent))
    };
    let groups: Vec<_> = message.groups.into_iter().map(share).collect::<Wire<_>>()?;
    let out = message.out.into_iter().map(|host| field("weights.out", HostName::new(host)));
    Weights::new(groups, out.collect::<Wire<Vec<_>>>()?)
        .map_err(|error| WireError::Field { field: "weights", why: error.to_string() })
}

/// What a release is made of.
pub fn artefact(message: v1::Artefact) -> Artefact {
    let v1::Artefact { source, name, digest } = message;
    Artefact { source, name, digest }
}

fn traffic(message: v1::Traffic) -> Wire<Traffic> {
    let slots = message.slots.into_iter().map(|slot| field("traffic.slots", GroupName::new(slot)));
    Ok(Traffic {
        edge: field("traffic.edge", GroupName::new(message.edge))?,
        slots: slots.collect::<Wire<_>>()?,
        drain_ms: message.drain_ms,
        warm_ms: message.warm_ms,
    })
}

/// The control part of a fleet file.
pub fn fleet(message: v1::FleetControl) -> Wire<Fleet> {
    let rollback = message.rollback.ok_or(WireError::Missing("rollback"))?;
    let hashes = message.policy_hashes.into_iter();
    Ok(Fleet {
        name: field("fleet", FleetName::new(message.fleet))?,
        environment: message.environment,
        app: message.app,
        groups: message.groups.into_iter().map(group).collect::<Wire<_>>()?,
        components: message.components.into_iter().map(component).collect::<Wire<_>>()?,
        rollback: rollback_strategy(rollback)?,
        policy_hashes: hashes
            .map(|(host, hash)| Ok((field("policy_hashes", HostName::new(host))?, hash)))
            .collect::<Wire<BTreeMap<_, _>>>()?,
        traffic: message.traffic.map(traffic).transpose()?,
        canary: message.canary.map(canary::canary).transpose()?,
        triggers: message.triggers.into_iter().map(canary::trigger).collect::<Wire<_>>()?,
    })
}

fn group(message: v1::Group) -> Wire<Group> {
    let hosts = message.hosts.into_iter().map(|host| field("groups.hosts", HostName::new(host)));
    Ok(Group {
        name: field("groups.name", GroupName::new(message.name))?,
        hosts: hosts.collect::<Wire<_>>()?,
    })
}

fn component(message: v1::Component) -> Wire<Component> {
    let groups =
        message.groups.into_iter().map(|group| field("components.groups", GroupName::new(group)));
    let needs =
        message.needs.into_iter().map(|other| field("components.needs", ComponentName::new(other)));
    Ok(Component {
        name: field("components.name", ComponentName::new(message.name))?,
        groups: groups.collect::<Wire<_>>()?,
        needs: needs.collect::<Wire<_>>()?,
        services: message.services,
        stop_within_ms: message.stop_within_ms,
        ready_within_ms: message.ready_within_ms,
        stable_for_ms: message.stable_for_ms,
        reloads: message.reloads,
        hooks: message.hooks.into_iter().map(hook).collect::<Wire<_>>()?,
        shared: message.shared,
    })
}

fn hook(message: v1::Hook) -> Wire<Hook> {
    let at = match message.at() {
        v1::HookPoint::BeforeStop => HookPoint::BeforeStop,
        v1::HookPoint::BeforeStart => HookPoint::BeforeStart,
        v1::HookPoint::AfterStart => HookPoint::AfterStart,
        v1::HookPoint::AfterVerify => HookPoint::AfterVerify,
        v1::HookPoint::Unspecified => {
            return Err(WireError::Enum { field: "components.hooks.at", value: message.at });
        }
    };
    Ok(Hook { name: message.name, at, within_ms: message.within_ms })
}

fn rollback_strategy(message: v1::RollbackStrategy) -> Wire<Rollback> {
    let on_failure = match message.on_failure() {
        v1::OnFailure::Restore => OnFailure::Restore,
        v1::OnFailure::Leave => OnFailure::Leave,
        v1::OnFailure::Unspecified => {
            return Err(WireError::Enum {
                field: "rollback.on_failure",
                value: message.on_failure,
            });
        }
    };
    let late_hosts = match message.late_hosts() {
        v1::LateHosts::Rollback => LateHosts::Rollback,
        v1::LateHosts::Wait => LateHosts::Wait,
        v1::LateHosts::Unspecified => {
            return Err(WireError::Enum {
                field: "rollback.late_hosts",
                value: message.late_hosts,
            });
        }
    };
    let batches = message.batches.iter().map(|share| field("rollback.batches", share.parse()));
    Ok(Rollback {
        batches: batches.collect::<Wire<_>>()?,
        budget_failed: message.budget_failed,
        budget_unknown: message.budget_unknown,
        budget_out: field("rollback.budget.out", message.budget_out.parse())?,
        on_failure,
        late_hosts,
        deadline_ms: message.deadline_ms,
        soak_ms: message.soak_ms,
        unknown_after_ms: message.unknown_after_ms,
        traffic_first: message.traffic_first,
    })
}

/// What a plan is asked for.
pub fn plan_request(message: v1::create_plan_request::Request) -> Wire<Request> {
    use v1::create_plan_request::Request as R;
    Ok(match message {
        R::Rollback(request) => Request::Rollback(planner::Request {
            to: optional("to_release", request.to_release, ReleaseName::new)?,
            hosts: hosts(request.hosts)?,
            across_migrations: request.across_migrations,
            in_place: request.in_place,
        }),
        R::Undo(operation) => Request::Undo(field("undo", OperationId::new(operation))?),
        R::Snapshot(release) => Request::Snapshot(field("snapshot", ReleaseName::new(release))?),
        R::Check(release) => Request::Check(field("check", ReleaseName::new(release))?),
        R::Fetch(release) => Request::Fetch(field("fetch", ReleaseName::new(release))?),
        R::Deploy(request) => Request::Deploy(planner::Deploy {
            strategy: match request.strategy() {
                v1::Strategy::Rolling => planner::Strategy::Rolling,
                v1::Strategy::BlueGreen => planner::Strategy::BlueGreen,
                v1::Strategy::Canary => planner::Strategy::Canary,
                v1::Strategy::Unspecified => {
                    return Err(WireError::Enum { field: "strategy", value: request.strategy });
                }
            },
            release: field("release", ReleaseName::new(request.release))?,
            hosts: hosts(request.hosts)?,
            across_migrations: request.across_migrations,
            give_up_warm: request.give_up_warm,
        }),
        R::Switch(request) => Request::Switch(field("to", GroupName::new(request.to))?),
    })
}

/// Names of hosts.
pub fn hosts(hosts: Vec<String>) -> Wire<Vec<HostName>> {
    hosts.into_iter().map(|host| field("hosts", HostName::new(host))).collect()
}

/// The name of a release.
pub fn release(name: String) -> Wire<ReleaseName> {
    field("release", ReleaseName::new(name))
}

/// How a person marks a release.
pub fn standing(value: i32) -> Wire<Standing> {
    match v1::Standing::try_from(value) {
        Ok(v1::Standing::Good) => Ok(Standing::Good),
        Ok(v1::Standing::Bad) => Ok(Standing::Bad),
        Ok(v1::Standing::Unproven) => Ok(Standing::Unproven),
        Ok(v1::Standing::Unspecified) | Err(_) => Err(WireError::Enum { field: "standing", value }),
    }
}

/// A component; none where it is left out.
pub fn component_name(name: String) -> Wire<Option<ComponentName>> {
    optional("component", name, ComponentName::new)
}

/// A snapshot that a person agreed to let go.
pub fn agreed(message: v1::AgreedPrune) -> Wire<(HostName, ComponentName, SnapshotHash)> {
    Ok((
        field("host", HostName::new(message.host))?,
        field("component", ComponentName::new(message.component))?,
        field("snapshot", SnapshotHash::new(message.snapshot))?,
    ))
}

/// What a host answered to a prune, and which one.
pub fn pruned(message: v1::Pruned) -> Wire<(u64, Result<Pruned, String>)> {
    if !message.failed.is_empty() {
        return Ok((message.id, Err(message.failed)));
    }
    let row = |row: v1::PrunedRow| {
        Ok(PrunedRow {
            component: field("component", ComponentName::new(row.component))?,
            snapshot: field("snapshot", SnapshotHash::new(row.snapshot))?,
            releases: row.releases,
            size_bytes: row.size_bytes,
            taken_at: Timestamp(row.taken_at_unix_ms),
            goes: row.goes,
            why: row.why,
        })
    };
    let rows = message.rows.into_iter().map(row).collect::<Wire<_>>()?;
    let v1::Pruned { id, freed_bytes, notes, failures, .. } = message;
    Ok((id, Ok(Pruned { rows, freed_bytes, notes, failures })))
}
