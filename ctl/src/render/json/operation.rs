//! Plans, operations and their events as documents.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proto::v1::{self, watch_operation_response::Event};
use serde::Serialize;
use serde_json::{Value, json};

use super::{ArtefactOf, Canary, Proposal, Ruling, Traffic, text};
use crate::{
    out::{Document, typed},
    render::{progress::planned_weights, summary, words},
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
    /// How the traffic is divided, and will be; null where no edge divides it, or it is not known.
    pub weights_before: Option<Weights>,
    pub weights_after: Option<Weights>,
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
    pub mitigates: bool,
    /// What must hold before the next stage begins, once `soak_ms` is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
}

/// A share of the traffic goes to the canary, and the judge looks on.
#[derive(Clone, Debug, Serialize)]
pub struct Gate {
    pub canary: String,
    pub weight: u32,
    /// A person has to promote it.
    pub asks: bool,
    /// What the judge compares.
    pub measures: Vec<String>,
}

/// How traffic is divided.
#[derive(Clone, Debug, Serialize)]
pub struct Weights {
    /// Percent by group.
    pub groups: BTreeMap<String, u32>,
    /// Hosts of those groups that get nothing.
    pub out: Vec<String>,
}

impl From<&v1::Weights> for Weights {
    fn from(weights: &v1::Weights) -> Self {
        let groups = weights.groups.iter().map(|row| (row.group.clone(), row.percent));
        Self { groups: groups.collect(), out: weights.out.clone() }
    }
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub across_migrations: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artefact: Option<ArtefactOf>,
    /// It looks once, without waiting for checks to hold.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub at_once: bool,
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
            weights_before: plan.weights_before.as_ref().map(Weights::from),
            weights_after: plan.weights_after.as_ref().map(Weights::from),
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
        mitigates: stage.mitigates,
        gate: stage.gate.as_ref().map(|gate| Gate {
            canary: gate.canary.clone(),
            weight: gate.weight,
            asks: gate.asks,
            measures: gate.measures.clone(),
        }),
    }
}

fn track(track: &v1::Track) -> Track {
    let step = |step: &v1::Step| Step {
        verb: words::verb(step.verb),
        component: step.component.clone(),
        release: text(&step.release),
        snapshot: text(&step.snapshot),
        deadline_ms: step.deadline_ms,
        hook: text(&step.hook),
        across_migrations: step.across_migrations,
        weights: step.weights.as_ref().map(Weights::from),
        artefact: step.artefact.as_ref().map(ArtefactOf::from),
        at_once: step.at_once,
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
    /// When no host that got traffic ran any more what the plan leaves, as an edge measured it.
    pub mitigated: Option<Timestamp>,
    pub mitigated_ms: Option<u64>,
    pub halted: Option<String>,
    /// A person's name, `judge` or `lastgood`, where somebody did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted_by: Option<String>,
    /// Where its plan has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    pub stage: u32,
    pub events: u64,
    /// The W3C id of its trace, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
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
    /// The snapshot that was live before; null where nothing was switched.
    pub replaced: Option<String>,
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
            mitigated: words::instant(operation.mitigated_unix_ms),
            mitigated_ms: (operation.mitigated_unix_ms != 0)
                .then(|| words::between_ms(operation.started_unix_ms, operation.mitigated_unix_ms)),
            halted: text(&operation.halted),
            aborted_by: text(&operation.aborted_by),
            canary: Canary::new(operation, None),
            stage: operation.stage,
            events: operation.events,
            trace_id: text(&operation.trace_id),
            hosts: operation.hosts.iter().map(|host| self::host(host, plan)).collect(),
        }
    }
}

fn host(host: &v1::HostOutcome, plan: &v1::Plan) -> Host {
    let planned = plan.hosts.iter().find(|planned| planned.host == host.host);
    let observed = summary::observed(host);
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
        replaced: text(&evidence.replaced),
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
    /// What the edges say afterwards, where an operation that moves traffic did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// Of this command, where its caller has one or it exports its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

impl Document for Run {
    const TYPE: &'static str = "result";
}

/// An operation's event as a line of a stream.
pub fn event(operation: &str, plan: &v1::Plan, response: &v1::WatchOperationResponse) -> Value {
    let (kind, mut fields) = match response.event.as_ref() {
        None => ("unknown", json!({})),
        Some(Event::Opened(e)) => ("opened", json!({ "by": e.by, "reason": e.reason })),
        Some(Event::StageBegan(e)) => ("stage", json!({ "stage": e.stage, "name": e.name })),
        Some(Event::Dispatched(e)) => {
            let goal = match e.goal() {
                v1::Goal::Forward | v1::Goal::Unspecified => "forward",
                v1::Goal::Undo => "undo",
            };
            let fields = json!({ "stage": e.stage, "hosts": e.hosts, "goal": goal });
            ("dispatched", fields)
        }
        Some(Event::Step(e)) => ("step", step_event(plan, e)),
        Some(Event::HostEnded(e)) => {
            let end = words::track_end(e.end);
            (
                "host_ended",
                json!({ "host": e.host, "stage": e.stage, "end": end, "reason": text(&e.reason) }),
            )
        }
        Some(Event::HostUnknown(e)) => ("host_unknown", json!({ "host": e.host, "reason": e.why })),
        Some(Event::Noted(e)) => ("noted", json!({ "host": e.host, "what": e.what })),
        Some(Event::StageEnded(e)) => (
            "stage_ended",
            json!({
                "stage": e.stage,
                "name": e.name,
                "mitigated_after_ms": (e.mitigated_after_ms > 0).then_some(e.mitigated_after_ms),
            }),
        ),
        Some(Event::Judged(e)) => {
            let ruling = e.ruling.as_ref().map(Ruling::from);
            ("judged", json!({ "stage": e.stage, "weight": e.weight, "ruling": ruling }))
        }
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

fn step_event(plan: &v1::Plan, step: &v1::watch_operation_response::StepChanged) -> Value {
    let mut event = json!({
        "host": step.host,
        "stage": step.stage,
        "attempt": step.attempt,
        "step": step.index,
        "verb": words::verb(step.verb),
        "component": step.component,
        "state": words::step_state(step.state),
        "duration_ms": step.duration_ms,
        "detail": text(&step.detail),
    });
    let Value::Object(fields) = &mut event else { return event };
    if let Some(hook) = text(&step.hook) {
        fields.insert("hook".to_owned(), hook.into());
    }
    if let Some(weights) = planned_weights(plan, step) {
        fields.insert("weights".to_owned(), json!(Weights::from(weights)));
    }
    event
}

/// The connection to the coordinator was lost or is back, as a line of a stream.
pub fn connection(operation: &str, lost: Option<&str>, now: Timestamp) -> Value {
    let state = if lost.is_some() { "lost" } else { "back" };
    typed("connection", &json!({ "op": operation, "state": state, "reason": lost, "time": now }))
}

/// Operations, newest first, and what was proposed and never begun.
#[derive(Clone, Debug, Serialize)]
pub struct Operations {
    pub operations: Vec<Operation>,
    pub proposals: Vec<Proposal>,
}

impl Document for Operations {
    const TYPE: &'static str = "operations";

    fn lines(&self) -> Vec<Value> {
        let operations = self.operations.iter().map(|row| typed(Operation::TYPE, row));
        operations.chain(self.proposals.iter().map(|row| typed(Proposal::TYPE, row))).collect()
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
