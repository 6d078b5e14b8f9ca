//! A fleet, its releases and its agents as documents.

use jiff::Timestamp;
use proto::v1;
use serde::Serialize;
use serde_json::Value;

use super::{Canary, Proposal, Trigger, Weights, text};
use crate::{
    out::{Document, typed},
    render::{doctor, words},
};

/// A fleet at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub fleet: String,
    pub environment: String,
    pub app: String,
    pub operation: Option<String>,
    /// Of the operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    pub freeze: Option<Freeze>,
    pub fenced: Option<String>,
    pub way_back: Option<String>,
    /// `operated`, `learned` or `marked`: what speaks for it.
    pub way_back_source: Option<String>,
    pub no_way_back: Option<String>,
    /// Null where no edge divides the traffic.
    pub traffic: Option<Traffic>,
    /// Null where none runs.
    pub canary: Option<Canary>,
    pub triggers: Vec<Trigger>,
    /// What waits for a person.
    pub proposals: Vec<Proposal>,
    pub hosts: Vec<HostStatus>,
}

/// How the traffic is divided now.
#[derive(Clone, Debug, Serialize)]
pub struct Traffic {
    /// What all edges say; null where they differ or one cannot be asked.
    pub weights: Option<Weights>,
    pub slots: Vec<String>,
    pub edges: Vec<Edge>,
    /// The side that traffic left last, while it is kept as the way back.
    pub warm: Option<String>,
    pub warm_release: Option<String>,
    pub warm_until: Option<Timestamp>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Edge {
    pub host: String,
    pub reachable: bool,
    pub driver: Option<String>,
    pub asked: Option<Weights>,
    pub observed: Option<Weights>,
    pub problems: Vec<String>,
}

impl From<&v1::TrafficView> for Traffic {
    fn from(view: &v1::TrafficView) -> Self {
        let edge = |edge: &v1::EdgeView| {
            let status = edge.status.clone().unwrap_or_default();
            Edge {
                host: edge.host.clone(),
                reachable: edge.status.is_some(),
                driver: text(&status.driver),
                asked: status.asked.as_ref().map(Weights::from),
                observed: status.observed.as_ref().map(Weights::from),
                problems: status.problems.into_iter().map(|problem| problem.what).collect(),
            }
        };
        Self {
            weights: view.observed.as_ref().map(Weights::from),
            slots: view.slots.clone(),
            edges: view.edges.iter().map(edge).collect(),
            warm: text(&view.warm),
            warm_release: text(&view.warm_release),
            warm_until: words::instant(view.warm_until_unix_ms),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Freeze {
    pub frozen: bool,
    pub reason: Option<String>,
    pub by: Option<String>,
    pub since: Option<Timestamp>,
}

#[derive(Clone, Debug, Serialize)]
pub struct HostStatus {
    pub host: String,
    pub group: String,
    pub connected: bool,
    pub last_seen: Option<Timestamp>,
    pub agent_version: Option<String>,
    pub live_release: Option<String>,
    pub policy_drift: bool,
    pub policy_hash: Option<String>,
    pub free_bytes: Option<u64>,
    /// What root did on the host itself, while nobody has looked at it.
    pub local_operation: Option<LocalOperation>,
    /// It runs what was left as bad.
    pub alarms: Vec<String>,
    pub components: Vec<ComponentStatus>,
}

#[derive(Clone, Debug, Serialize)]
pub struct LocalOperation {
    pub id: String,
    pub at: Option<Timestamp>,
    pub by: String,
    pub to_release: String,
    /// `done`, `undone`, `left` or `stuck`; absent while it runs.
    pub end: Option<&'static str>,
    pub reason: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ComponentStatus {
    pub component: String,
    pub release: Option<String>,
    pub snapshot: Option<String>,
    pub version: Option<String>,
    pub changed: bool,
    pub held: bool,
    pub services: Vec<ServiceStatus>,
    pub checks: Vec<CheckStatus>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ServiceStatus {
    pub service: String,
    pub driver: String,
    pub running: bool,
    pub detail: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct CheckStatus {
    pub check: String,
    pub ok: bool,
    pub detail: Option<String>,
}

impl Document for Status {
    const TYPE: &'static str = "status";
}

impl Status {
    /// `operation` is the one that runs, where it was asked for.
    pub fn new(fleet: &v1::GetFleetResponse, operation: Option<&v1::Operation>) -> Self {
        Self {
            fleet: fleet.fleet.clone(),
            environment: fleet.environment.clone(),
            app: fleet.app.clone(),
            operation: text(&fleet.operation),
            trace_id: text(&fleet.operation_trace_id),
            freeze: fleet.freeze.as_ref().map(Freeze::from),
            fenced: text(&fleet.fenced),
            way_back: text(&fleet.way_back),
            way_back_source: text(&words::source(fleet.way_back_source)),
            no_way_back: text(&fleet.no_way_back),
            traffic: fleet.traffic.as_ref().map(Traffic::from),
            canary: operation.and_then(|it| Canary::new(it, fleet.traffic.as_ref())),
            triggers: fleet.triggers.iter().map(Trigger::from).collect(),
            proposals: fleet.proposals.iter().map(Proposal::from).collect(),
            hosts: fleet.hosts.iter().map(host_status).collect(),
        }
    }
}

/// Whether a rollback would work right now.
#[derive(Clone, Debug, Serialize)]
pub struct Doctor {
    pub fleet: String,
    pub ready: bool,
    pub way_back: Option<String>,
    pub way_back_is_live: bool,
    pub expected_ms: Option<u64>,
    pub horizon: Option<Horizon>,
    pub hosts: Vec<HostReadiness>,
    pub findings: Vec<Finding>,
}

#[derive(Clone, Debug, Serialize)]
pub struct HostReadiness {
    pub host: String,
    pub group: String,
    pub ready: bool,
    pub live_release: Option<String>,
    pub staged: bool,
    pub bytes_needed: u64,
    pub free_bytes: u64,
    pub verified_at: Option<Timestamp>,
    pub certificate_ends: Option<Timestamp>,
    pub expected_cut_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub host: Option<String>,
    pub component: Option<String>,
    pub severity: String,
    pub what: String,
    pub mend: Option<String>,
}

impl Document for Doctor {
    const TYPE: &'static str = "doctor";
}

impl From<&v1::DoctorResponse> for Doctor {
    fn from(answer: &v1::DoctorResponse) -> Self {
        let known = |ms: u64| (ms > 0).then_some(ms);
        let host = |row: &v1::HostReadiness| HostReadiness {
            host: row.host.clone(),
            group: row.group.clone(),
            ready: row.ready,
            live_release: text(&row.live_release),
            staged: row.staged,
            bytes_needed: row.bytes_needed,
            free_bytes: row.free_bytes,
            verified_at: words::instant(row.verified_at_unix_ms),
            certificate_ends: words::instant(row.certificate_ends_unix_ms),
            expected_cut_ms: known(row.expected_cut_ms),
        };
        let finding = |row: &v1::Finding| Finding {
            host: text(&row.host),
            component: text(&row.component),
            severity: doctor::severity(row.severity),
            what: row.what.clone(),
            mend: text(&row.mend),
        };
        Self {
            fleet: answer.fleet.clone(),
            ready: answer.ready,
            way_back: text(&answer.way_back),
            way_back_is_live: answer.way_back_is_live,
            expected_ms: known(answer.expected_ms),
            horizon: answer.horizon.as_ref().map(Horizon::from),
            hosts: answer.hosts.iter().map(host).collect(),
            findings: answer.findings.iter().map(finding).collect(),
        }
    }
}

impl Document for Freeze {
    const TYPE: &'static str = "freeze";
}

impl From<&v1::Freeze> for Freeze {
    fn from(freeze: &v1::Freeze) -> Self {
        Self {
            frozen: freeze.frozen,
            reason: text(&freeze.reason),
            by: text(&freeze.by),
            since: words::instant(freeze.since_unix_ms),
        }
    }
}

fn host_status(host: &v1::HostView) -> HostStatus {
    let status = host.status.as_ref();
    HostStatus {
        host: host.host.clone(),
        group: host.group.clone(),
        connected: host.connected,
        last_seen: words::instant(host.last_seen_unix_ms),
        agent_version: text(&host.agent_version),
        live_release: text(&host.live_release),
        policy_drift: host.policy_drift,
        policy_hash: status.and_then(|status| text(&status.policy_hash)),
        free_bytes: status.map(|status| status.free_bytes),
        local_operation: host.local_operation.as_ref().map(LocalOperation::from),
        alarms: host.alarms.iter().map(|alarm| alarm.what.clone()).collect(),
        components: status.iter().flat_map(|status| &status.components).map(component).collect(),
    }
}

impl From<&v1::LocalOperation> for LocalOperation {
    fn from(local: &v1::LocalOperation) -> Self {
        let ended = local.ended.as_ref();
        Self {
            id: local.id.clone(),
            at: words::instant(local.at_unix_ms),
            by: local.by.clone(),
            to_release: local.to_release.clone(),
            end: ended.map(|ended| match ended.end() {
                v1::TrackEnd::Done => "done",
                v1::TrackEnd::Undone => "undone",
                v1::TrackEnd::Left => "left",
                v1::TrackEnd::Stuck | v1::TrackEnd::Unspecified => "stuck",
            }),
            reason: ended.and_then(|ended| text(&ended.reason)),
        }
    }
}

impl Document for LocalOperation {
    const TYPE: &'static str = "local_operation";
}

fn component(component: &v1::ComponentStatus) -> ComponentStatus {
    let service = |service: &v1::ServiceStatus| ServiceStatus {
        service: service.service.clone(),
        driver: service.driver.clone(),
        running: service.running,
        detail: text(&service.detail),
    };
    let check = |check: &v1::CheckStatus| CheckStatus {
        check: check.check.clone(),
        ok: check.ok,
        detail: text(&check.detail),
    };
    ComponentStatus {
        component: component.component.clone(),
        release: text(&component.release),
        snapshot: text(&component.snapshot),
        version: text(&component.version),
        changed: component.changed,
        held: component.held,
        services: component.services.iter().map(service).collect(),
        checks: component.checks.iter().map(check).collect(),
    }
}

/// Releases, newest first.
#[derive(Clone, Debug, Serialize)]
pub struct Releases {
    pub fleet: String,
    pub way_back: Option<String>,
    pub releases: Vec<Release>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Release {
    pub release: String,
    pub first_seen: Option<Timestamp>,
    pub standing: String,
    pub source: Option<String>,
    pub reason: Option<String>,
    pub live: bool,
    pub on_hosts: Vec<String>,
    pub missing_on: Vec<String>,
    pub host_standings: Vec<HostStanding>,
    pub snapshots: Vec<Snapshot>,
    pub pin: Option<Pin>,
}

/// Why it is never pruned.
#[derive(Clone, Debug, Serialize)]
pub struct Pin {
    pub by: String,
    pub reason: String,
    pub since: Option<Timestamp>,
}

#[derive(Clone, Debug, Serialize)]
pub struct HostStanding {
    pub host: String,
    pub standing: String,
    pub source: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    pub host: String,
    pub component: String,
    pub snapshot: String,
    pub content: String,
    pub version: Option<String>,
    pub taken: Option<Timestamp>,
    /// When the host had learned that it is good; absent where somebody asked for it.
    pub learned: Option<Timestamp>,
    pub size_bytes: u64,
    pub files: u64,
    pub damage: Option<String>,
}

impl Document for Releases {
    const TYPE: &'static str = "releases";

    fn lines(&self) -> Vec<Value> {
        self.releases.iter().map(|release| typed("release", release)).collect()
    }
}

impl Releases {
    pub fn new(list: &v1::ListReleasesResponse, way_back: &str) -> Self {
        Self {
            fleet: list.fleet.clone(),
            way_back: text(way_back),
            releases: list.releases.iter().map(release).collect(),
        }
    }
}

/// Snapshots, per release, host and component.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshots {
    pub fleet: String,
    pub horizon: Option<Horizon>,
    pub snapshots: Vec<ReleaseSnapshot>,
}

/// How many good releases every host can go back to, and how old the oldest is.
#[derive(Clone, Debug, Serialize)]
pub struct Horizon {
    pub releases: u32,
    pub age_ms: u64,
}

impl From<&v1::Horizon> for Horizon {
    fn from(horizon: &v1::Horizon) -> Self {
        Self { releases: horizon.releases, age_ms: horizon.age_ms }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct ReleaseSnapshot {
    pub release: String,
    #[serde(flatten)]
    pub snapshot: Snapshot,
}

impl Document for Snapshots {
    const TYPE: &'static str = "snapshots";

    fn lines(&self) -> Vec<Value> {
        self.snapshots.iter().map(|snapshot| typed("snapshot", snapshot)).collect()
    }
}

impl Snapshots {
    pub fn new(list: &v1::ListReleasesResponse) -> Self {
        let rows = list.releases.iter().flat_map(|release| {
            release.snapshots.iter().filter_map(|row| {
                Some(ReleaseSnapshot { release: release.release.clone(), snapshot: snapshot(row)? })
            })
        });
        Self {
            fleet: list.fleet.clone(),
            horizon: list.horizon.as_ref().map(Horizon::from),
            snapshots: rows.collect(),
        }
    }
}

fn release(release: &v1::Release) -> Release {
    let standing = |row: &v1::HostStanding| HostStanding {
        host: row.host.clone(),
        standing: words::standing(row.standing),
        source: text(&words::source(row.source)),
    };
    Release {
        release: release.release.clone(),
        first_seen: words::instant(release.first_seen_unix_ms),
        standing: words::standing(release.standing),
        source: text(&words::source(release.source)),
        reason: text(&release.reason),
        live: release.live,
        on_hosts: release.on_hosts.clone(),
        missing_on: release.missing_on.clone(),
        host_standings: release.host_standings.iter().map(standing).collect(),
        snapshots: release.snapshots.iter().filter_map(snapshot).collect(),
        pin: release.pin.as_ref().map(|pin| Pin {
            by: pin.by.clone(),
            reason: pin.reason.clone(),
            since: words::instant(pin.since_unix_ms),
        }),
    }
}

fn snapshot(row: &v1::HostSnapshot) -> Option<Snapshot> {
    let snapshot = row.snapshot.as_ref()?;
    Some(Snapshot {
        host: row.host.clone(),
        component: snapshot.component.clone(),
        snapshot: snapshot.snapshot.clone(),
        content: snapshot.content.clone(),
        version: text(&snapshot.version),
        taken: words::instant(snapshot.taken_at_unix_ms),
        learned: words::instant(snapshot.learned_at_unix_ms),
        size_bytes: snapshot.size_bytes,
        files: snapshot.files,
        damage: text(&snapshot.damage),
    })
}

/// Agents of all fleets.
#[derive(Clone, Debug, Serialize)]
pub struct Agents {
    pub epoch: Option<u64>,
    pub agents: Vec<Agent>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Agent {
    pub host: String,
    pub fleet: Option<String>,
    pub group: Option<String>,
    pub connected: bool,
    pub last_seen: Option<Timestamp>,
    pub agent_version: Option<String>,
    pub certificate_ends: Option<Timestamp>,
    pub identity: String,
    pub note: Option<String>,
}

impl Document for Agents {
    const TYPE: &'static str = "agents";

    fn lines(&self) -> Vec<Value> {
        self.agents.iter().map(|agent| typed("agent", agent)).collect()
    }
}

impl From<&v1::ListAgentsResponse> for Agents {
    fn from(list: &v1::ListAgentsResponse) -> Self {
        let agent = |agent: &v1::AgentView| Agent {
            host: agent.host.clone(),
            fleet: text(&agent.fleet),
            group: text(&agent.group),
            connected: agent.connected,
            last_seen: words::instant(agent.last_seen_unix_ms),
            agent_version: text(&agent.agent_version),
            certificate_ends: words::instant(agent.certificate_ends_unix_ms),
            identity: words::identity(agent.identity),
            note: text(&agent.note),
        };
        Self {
            epoch: list.epoch.as_ref().map(|epoch| epoch.counter),
            agents: list.agents.iter().map(agent).collect(),
        }
    }
}
