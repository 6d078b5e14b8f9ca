//! Documents: what `-o json` and `-o jsonl` print. The names are those of the glossary, and they are public API.
//!
//! Invariant: names are added, never renamed. Times are RFC 3339 or null, durations are numbers of milliseconds and say
//! so in their names, hashes are hex.

use jiff::Timestamp;
use proto::{
    tls::Identity,
    v1::{self, watch_operation_response::Event},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::words;
use crate::{
    context::Config,
    error::{CtlError, Failure},
    exit::Exit,
    out::{Document, typed},
};

/// A plan, and the command that runs exactly this one.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub id: String,
    pub hash: String,
    pub kind: String,
    pub fleet: String,
    pub app: String,
    pub from_release: Option<String>,
    pub to_release: Option<String>,
    pub why_target: String,
    pub stages: Vec<Stage>,
    pub hosts: Vec<PlannedHost>,
    pub marks_from_bad: bool,
    pub freezes: bool,
    pub interruption: Vec<String>,
    pub not_rolled_back: Vec<String>,
    pub warnings: Vec<String>,
    pub deadline_ms: u64,
    pub expected_ms: Option<u64>,
    pub valid_until: Option<Timestamp>,
    pub nothing_to_do: bool,
    pub production: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    pub name: String,
    pub batches: Vec<Vec<Track>>,
    pub budget: Budget,
    pub soak_ms: u64,
    pub cuts_capacity: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Budget {
    pub failed: u32,
    pub unknown: u32,
    pub out: u32,
}

#[derive(Clone, Debug, Serialize)]
pub struct Track {
    pub host: String,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Step {
    pub verb: String,
    pub component: String,
    pub release: Option<String>,
    pub snapshot: Option<String>,
    pub deadline_ms: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct PlannedHost {
    pub host: String,
    pub group: String,
    pub from_release: Option<String>,
    pub to_release: Option<String>,
    pub left_out: Option<String>,
    pub reachable: bool,
}

impl Document for Plan {
    const TYPE: &'static str = "plan";
}

impl Plan {
    pub fn new(plan: &v1::Plan, command: Option<String>) -> Self {
        Self {
            id: plan.id.clone(),
            hash: plan.hash.clone(),
            kind: words::kind(plan.kind),
            fleet: plan.fleet.clone(),
            app: plan.app.clone(),
            from_release: text(&plan.from_release),
            to_release: text(&plan.to_release),
            why_target: plan.why_target.clone(),
            stages: plan.stages.iter().map(stage).collect(),
            hosts: plan.hosts.iter().map(planned_host).collect(),
            marks_from_bad: plan.marks_from_bad,
            freezes: plan.freezes,
            interruption: plan.interruption.clone(),
            not_rolled_back: plan.not_rolled_back.clone(),
            warnings: plan.warnings.clone(),
            deadline_ms: plan.deadline_ms,
            expected_ms: (plan.expected_ms > 0).then_some(plan.expected_ms),
            valid_until: words::instant(plan.valid_until_unix_ms),
            nothing_to_do: plan.nothing_to_do,
            production: plan.production,
            command,
        }
    }
}

fn stage(stage: &v1::Stage) -> Stage {
    let budget = stage.budget.unwrap_or_default();
    Stage {
        name: stage.name.clone(),
        batches: stage
            .batches
            .iter()
            .map(|batch| batch.tracks.iter().map(track).collect())
            .collect(),
        budget: Budget { failed: budget.failed, unknown: budget.unknown, out: budget.out },
        soak_ms: stage.soak_ms,
        cuts_capacity: stage.cuts_capacity,
    }
}

fn track(track: &v1::Track) -> Track {
    let step = |step: &v1::Step| Step {
        verb: words::verb(step.verb),
        component: step.component.clone(),
        release: text(&step.release),
        snapshot: text(&step.snapshot),
        deadline_ms: step.deadline_ms,
    };
    Track { host: track.host.clone(), steps: track.steps.iter().map(step).collect() }
}

fn planned_host(host: &v1::PlannedHost) -> PlannedHost {
    PlannedHost {
        host: host.host.clone(),
        group: host.group.clone(),
        from_release: text(&host.from_release),
        to_release: text(&host.to_release),
        left_out: text(&host.left_out),
        reachable: host.reachable,
    }
}

/// An operation as it stands.
#[derive(Clone, Debug, Serialize)]
pub struct Operation {
    pub operation: String,
    pub kind: String,
    pub fleet: String,
    pub plan: String,
    pub from_release: Option<String>,
    pub to_release: Option<String>,
    pub result: String,
    pub by: String,
    pub reason: String,
    pub started: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    pub duration_ms: Option<u64>,
    pub halted: Option<String>,
    pub stage: u32,
    pub events: u64,
    pub hosts: Vec<Host>,
}

/// How a host stands in it.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    pub host: String,
    pub group: String,
    pub outcome: String,
    pub reason: Option<String>,
    pub version_wanted: Option<String>,
    pub version_observed: Option<String>,
    pub cut_ms: u64,
    pub evidence: Vec<Evidence>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Evidence {
    pub component: String,
    pub snapshot: Option<String>,
    pub version: Option<String>,
    pub stable_ms: u64,
    pub notes: Vec<String>,
}

impl Document for Operation {
    const TYPE: &'static str = "operation";
}

impl From<&v1::Operation> for Operation {
    fn from(operation: &v1::Operation) -> Self {
        let default = v1::Plan::default();
        let plan = operation.plan.as_ref().unwrap_or(&default);
        let ended = operation.ended_unix_ms;
        Self {
            operation: operation.id.clone(),
            kind: words::kind(plan.kind),
            fleet: plan.fleet.clone(),
            plan: plan.id.clone(),
            from_release: text(&plan.from_release),
            to_release: text(&plan.to_release),
            result: words::result(operation.result),
            by: operation.by.clone(),
            reason: operation.reason.clone(),
            started: words::instant(operation.started_unix_ms),
            ended: words::instant(ended),
            duration_ms: (ended != 0).then(|| words::between_ms(operation.started_unix_ms, ended)),
            halted: text(&operation.halted),
            stage: operation.stage,
            events: operation.events,
            hosts: operation.hosts.iter().map(|host| self::host(host, plan)).collect(),
        }
    }
}

fn host(host: &v1::HostOutcome, plan: &v1::Plan) -> Host {
    let planned = plan.hosts.iter().find(|planned| planned.host == host.host);
    let observed = super::summary::observed(host);
    Host {
        host: host.host.clone(),
        group: host.group.clone(),
        outcome: words::outcome(host.outcome),
        reason: text(&host.reason),
        version_wanted: planned.and_then(|planned| text(&planned.to_release)),
        version_observed: (observed != "-").then_some(observed),
        cut_ms: host.cut_ms,
        evidence: host.evidence.iter().map(evidence).collect(),
    }
}

fn evidence(evidence: &v1::Evidence) -> Evidence {
    Evidence {
        component: evidence.component.clone(),
        snapshot: text(&evidence.snapshot),
        version: text(&evidence.version),
        stable_ms: evidence.stable_ms,
        notes: evidence.notes.clone(),
    }
}

/// How a command that runs an operation ended.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub exit_code: u8,
    /// Whether it has ended; false where ctl stopped watching.
    pub ended: bool,
    /// Whether there was anything to do.
    pub changed: bool,
    /// The operation's id.
    pub operation: Option<String>,
    pub result: Option<Operation>,
    /// Given where nothing was begun.
    pub plan: Option<Plan>,
}

impl Document for Run {
    const TYPE: &'static str = "result";
}

/// An operation's event as a line of a stream.
pub fn event(operation: &str, response: &v1::WatchOperationResponse) -> Value {
    let (kind, mut fields) = match response.event.as_ref() {
        None => ("unknown", json!({})),
        Some(Event::Opened(e)) => ("opened", json!({ "by": e.by, "reason": e.reason })),
        Some(Event::StageBegan(e)) => ("stage", json!({ "stage": e.stage, "name": e.name })),
        Some(Event::Dispatched(e)) => {
            let goal = match e.goal() {
                v1::Goal::Forward | v1::Goal::Unspecified => "forward",
                v1::Goal::Undo => "undo",
            };
            ("dispatched", json!({ "stage": e.stage, "hosts": e.hosts, "goal": goal }))
        }
        Some(Event::Step(e)) => ("step", step_event(e)),
        Some(Event::HostEnded(e)) => {
            let end = words::track_end(e.end);
            (
                "host_ended",
                json!({ "host": e.host, "stage": e.stage, "end": end, "reason": text(&e.reason) }),
            )
        }
        Some(Event::HostUnknown(e)) => ("host_unknown", json!({ "host": e.host, "reason": e.why })),
        Some(Event::StageEnded(e)) => ("stage_ended", json!({ "stage": e.stage, "name": e.name })),
        Some(Event::Noted(e)) => ("noted", json!({ "host": e.host, "what": e.what })),
        Some(Event::Halted(e)) => ("halted", json!({ "reason": e.why })),
        Some(Event::Asked(e)) => ("asked", json!({ "what": e.what, "by": e.by })),
        Some(Event::Ended(e)) => ("ended", json!({ "result": words::result(e.result) })),
    };
    if let Some(fields) = fields.as_object_mut() {
        fields.insert("op".to_owned(), operation.into());
        fields.insert("index".to_owned(), response.index.into());
        fields.insert("time".to_owned(), json!(words::instant(response.at_unix_ms)));
    }
    typed(kind, &fields)
}

fn step_event(step: &v1::watch_operation_response::StepChanged) -> Value {
    json!({
        "host": step.host,
        "stage": step.stage,
        "attempt": step.attempt,
        "step": step.index,
        "verb": words::verb(step.verb),
        "component": step.component,
        "state": words::step_state(step.state),
        "duration_ms": step.duration_ms,
        "detail": text(&step.detail),
    })
}

/// The connection to the coordinator was lost or is back, as a line of a stream.
pub fn connection(operation: &str, lost: Option<&str>, now: Timestamp) -> Value {
    let state = if lost.is_some() { "lost" } else { "back" };
    typed("connection", &json!({ "op": operation, "state": state, "reason": lost, "time": now }))
}

/// A fleet at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub fleet: String,
    pub environment: String,
    pub app: String,
    pub operation: Option<String>,
    pub freeze: Option<Freeze>,
    pub fenced: Option<String>,
    pub way_back: Option<String>,
    pub no_way_back: Option<String>,
    pub hosts: Vec<HostStatus>,
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
    pub components: Vec<ComponentStatus>,
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

impl From<&v1::GetFleetResponse> for Status {
    fn from(fleet: &v1::GetFleetResponse) -> Self {
        Self {
            fleet: fleet.fleet.clone(),
            environment: fleet.environment.clone(),
            app: fleet.app.clone(),
            operation: text(&fleet.operation),
            freeze: fleet.freeze.as_ref().map(Freeze::from),
            fenced: text(&fleet.fenced),
            way_back: text(&fleet.way_back),
            no_way_back: text(&fleet.no_way_back),
            hosts: fleet.hosts.iter().map(host_status).collect(),
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
        components: status.iter().flat_map(|status| &status.components).map(component).collect(),
    }
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
    pub snapshots: Vec<ReleaseSnapshot>,
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
        Self { fleet: list.fleet.clone(), snapshots: rows.collect() }
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
        size_bytes: snapshot.size_bytes,
        files: snapshot.files,
        damage: text(&snapshot.damage),
    })
}

/// Operations, newest first.
#[derive(Clone, Debug, Serialize)]
pub struct Operations {
    pub operations: Vec<Operation>,
}

impl Document for Operations {
    const TYPE: &'static str = "operations";

    fn lines(&self) -> Vec<Value> {
        self.operations.iter().map(|operation| typed(Operation::TYPE, operation)).collect()
    }
}

/// An operation with everything that is on record of it.
#[derive(Clone, Debug, Serialize)]
pub struct Logs {
    pub result: Operation,
    pub events: Vec<Value>,
}

impl Document for Logs {
    const TYPE: &'static str = "logs";

    fn lines(&self) -> Vec<Value> {
        let end = typed(Operation::TYPE, &self.result);
        self.events.iter().cloned().chain([end]).collect()
    }
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
            note: text(&agent.note),
        };
        Self {
            epoch: list.epoch.as_ref().map(|epoch| epoch.counter),
            agents: list.agents.iter().map(agent).collect(),
        }
    }
}

/// What an `apply` did or would do.
#[derive(Clone, Debug, Serialize)]
pub struct Applied {
    pub fleet: String,
    pub applied: bool,
    pub changes: Vec<String>,
    pub not_acted_upon: Vec<&'static str>,
    pub policy_hashes: std::collections::BTreeMap<String, String>,
}

impl Document for Applied {
    const TYPE: &'static str = "applied";
}

/// A fleet file that holds.
#[derive(Clone, Debug, Serialize)]
pub struct Valid {
    pub file: String,
    pub valid: bool,
    pub fleet: String,
    pub hosts: usize,
    pub components: usize,
    pub not_acted_upon: Vec<&'static str>,
}

impl Document for Valid {
    const TYPE: &'static str = "valid";
}

/// The policy of one host.
#[derive(Clone, Debug, Serialize)]
pub struct Policy {
    pub host: String,
    pub hash: String,
    pub policy: String,
}

impl Document for Policy {
    const TYPE: &'static str = "policy";
}

/// An identity that was made.
#[derive(Clone, Debug, Serialize)]
pub struct Issued {
    pub identity: String,
    pub directory: String,
    pub ends: Option<Timestamp>,
}

impl Issued {
    pub fn new(identity: &Identity, directory: &std::path::Path, ends_unix_ms: i64) -> Self {
        Self {
            identity: identity.to_string(),
            directory: directory.display().to_string(),
            ends: words::instant(ends_unix_ms),
        }
    }
}

impl Document for Issued {
    const TYPE: &'static str = "identity";
}

/// What `init` made.
#[derive(Clone, Debug, Serialize)]
pub struct Initialised {
    pub domain: String,
    pub ca: String,
    pub context: String,
    pub identities: Vec<Issued>,
}

impl Document for Initialised {
    const TYPE: &'static str = "initialised";
}

/// Contexts.
#[derive(Clone, Debug, Serialize)]
pub struct Contexts {
    pub current: Option<String>,
    pub contexts: Vec<crate::context::Context>,
}

impl Document for Contexts {
    const TYPE: &'static str = "contexts";

    fn lines(&self) -> Vec<Value> {
        self.contexts.iter().map(|context| typed("context", context)).collect()
    }
}

impl From<&Config> for Contexts {
    fn from(config: &Config) -> Self {
        let current = config.choose(None).ok().map(|context| context.name.clone());
        Self { current, contexts: config.contexts.clone() }
    }
}

/// A standing that a person gave.
#[derive(Clone, Debug, Serialize)]
pub struct Marked {
    pub release: String,
    pub standing: String,
    pub reason: String,
}

impl Document for Marked {
    const TYPE: &'static str = "marked";
}

/// What this build is.
#[derive(Clone, Debug, Serialize)]
pub struct Version {
    pub version: &'static str,
    pub protocol_min: u32,
    pub protocol_max: u32,
}

impl Document for Version {
    const TYPE: &'static str = "ctl";
}

/// Why a command did not do what it was asked.
#[derive(Clone, Debug, Serialize)]
pub struct Error {
    pub error: String,
    pub cause: Vec<String>,
    pub now: Vec<String>,
    pub next: Vec<String>,
    pub exit_code: u8,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<FileProblem>,
}

/// What is wrong in a file, and where.
#[derive(Clone, Debug, Serialize)]
pub struct FileProblem {
    pub line: u64,
    pub column: u64,
    pub what: String,
    pub mend: String,
}

impl Document for Error {
    const TYPE: &'static str = "error";
}

impl From<&CtlError> for Error {
    fn from(error: &CtlError) -> Self {
        let Failure { what, cause, now, next } = error.told();
        let problems =
            if let CtlError::FleetFile { problems, .. } = error { problems } else { &vec![] };
        let problem = |problem: &crate::fleet_file::Problem| FileProblem {
            line: problem.line,
            column: problem.column,
            what: problem.what.clone(),
            mend: problem.mend.clone(),
        };
        let exit_code = Exit::code(error.exit());
        Self {
            error: what,
            cause,
            now,
            next,
            exit_code,
            problems: problems.iter().map(problem).collect(),
        }
    }
}

/// `None` for what the wire leaves empty.
fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{plan, status, watch};

    fn shown<D: Document>(document: &D) -> String {
        serde_json::to_string_pretty(document).unwrap()
    }

    #[test]
    fn a_plan() {
        let mut plan = plan::tests::example();
        plan.stages.truncate(1);
        plan.stages[0].batches[0].tracks.truncate(1);
        plan.hosts.truncate(4);
        let command = "ctl rollback --plan 8f21c0de --confirm prod".to_owned();
        insta::assert_snapshot!(shown(&Plan::new(&plan, Some(command))));
    }

    #[test]
    fn a_status() {
        insta::assert_snapshot!(shown(&Status::from(&status::tests::example())));
    }

    #[test]
    fn every_event_is_one_typed_line() {
        let lines: Vec<String> = watch::tests::events()
            .iter()
            .map(|response| event("rb-0193", response).to_string())
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn an_operation_with_its_hosts() {
        let host = v1::HostOutcome {
            host: "crm-b1".to_owned(),
            group: "blue".to_owned(),
            outcome: v1::Outcome::Restored.into(),
            cut_ms: 2_140,
            evidence: vec![v1::Evidence {
                version: "v1.4.2".to_owned(),
                stable_ms: 10_000,
                ..v1::Evidence::default()
            }],
            ..v1::HostOutcome::default()
        };
        let operation = v1::Operation {
            result: v1::OperationResult::Verified.into(),
            ended_unix_ms: watch::tests::started_ms() + 96_400,
            hosts: vec![host],
            ..watch::tests::operation()
        };
        let run = Run {
            exit_code: 0,
            ended: true,
            changed: true,
            operation: Some(operation.id.clone()),
            result: Some(Operation::from(&operation)),
            plan: None,
        };
        insta::assert_snapshot!(shown(&run));
    }

    #[test]
    fn an_error() {
        let error =
            CtlError::Usage { what: "no".to_owned(), next: vec!["ctl releases".to_owned()] };
        insta::assert_snapshot!(shown(&Error::from(&error)));
    }
}
