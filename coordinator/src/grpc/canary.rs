//! Canaries, triggers and proposals, to the wire and from it.

use engine::{
    Canary, CanaryStep, Counters, Decision, Elapsed, GroupName, MetricSource, Operation, Phase,
    Proposal, Waits,
    judge::{Analysis, Figure, Measure, Ruling, Verdict},
    trigger::{Breach, Then, Trigger, TriggerSeverity, TriggerSource, TriggerStands},
};
use proto::{
    status::{StatusKind, status},
    v1,
};
use tonic::{Code, Status};

use super::from_proto::{Wire, WireError, field};
use crate::{
    host::wall,
    measure::{Gauges, SideSays},
    runner::View,
};

/// A fleet's canary, checked.
pub fn canary(message: v1::Canary) -> Wire<Canary> {
    let step = |row: v1::CanaryStep| CanaryStep {
        weight: row.weight,
        hold_ms: row.hold_ms,
        asks: row.asks,
    };
    Ok(Canary {
        group: field("canary.group", GroupName::new(message.group))?,
        steps: message.steps.into_iter().map(step).collect(),
        analysis: analysis(message.analysis.ok_or(WireError::Missing("canary.analysis"))?)?,
        source: source(message.source)?,
        armed_for_ms: message.armed_for_ms,
        wait_at_most_ms: message.wait_at_most_ms,
    })
}

fn analysis(message: v1::Analysis) -> Wire<Analysis> {
    let measure = |value: i32| match v1::Measure::try_from(value) {
        Ok(v1::Measure::Errors) => Ok(Measure::Errors),
        Ok(v1::Measure::P50) => Ok(Measure::P50),
        Ok(v1::Measure::P95) => Ok(Measure::P95),
        Ok(v1::Measure::P99) => Ok(Measure::P99),
        Ok(v1::Measure::Unspecified) | Err(_) => {
            Err(WireError::Enum { field: "canary.analysis.compare", value })
        }
    };
    let analysis = Analysis {
        compare: message.compare.into_iter().map(measure).collect::<Wire<_>>()?,
        errors_at_most: message.errors_at_most,
        latency_ratio: message.latency_ratio,
        false_alarm: message.false_alarm,
        min_requests: message.min_requests,
        stale_after_ms: message.stale_after_ms,
    };
    field("canary", analysis.check())?;
    Ok(analysis)
}

fn source(message: Option<v1::MetricSource>) -> Wire<MetricSource> {
    use v1::metric_source::Source;
    match message.and_then(|message| message.source) {
        Some(Source::Probes(_)) => Ok(MetricSource::Probes),
        Some(Source::Prometheus(row)) => Ok(MetricSource::Prometheus(Counters {
            url: row.url,
            requests: row.requests,
            errors: row.errors,
            latency: (!row.latency.is_empty()).then_some(row.latency),
        })),
        None => Err(WireError::Missing("canary.source")),
    }
}

/// A fleet's trigger, checked.
pub fn trigger(message: v1::Trigger) -> Wire<Trigger> {
    use v1::trigger::Source;
    let source = match message.source.ok_or(WireError::Missing("triggers.source"))? {
        Source::Probes(_) => TriggerSource::Probes,
        Source::Check(check) => TriggerSource::Check(check),
        Source::Prometheus(row) => TriggerSource::Prometheus { url: row.url, query: row.query },
        Source::Alert(alert) => TriggerSource::Alert(alert),
    };
    let severity = match v1::TriggerSeverity::try_from(message.severity) {
        Ok(v1::TriggerSeverity::Critical) => TriggerSeverity::Critical,
        Ok(v1::TriggerSeverity::High) => TriggerSeverity::High,
        Ok(v1::TriggerSeverity::Low) => TriggerSeverity::Low,
        Ok(v1::TriggerSeverity::Unspecified) | Err(_) => {
            return Err(WireError::Enum { field: "triggers.severity", value: message.severity });
        }
    };
    let then = match v1::Then::try_from(message.then) {
        Ok(v1::Then::Propose) => Then::Propose,
        Ok(v1::Then::Rollback) => Then::Rollback,
        Ok(v1::Then::Unspecified) | Err(_) => {
            return Err(WireError::Enum { field: "triggers.then", value: message.then });
        }
    };
    let breach = field("triggers.breach", Breach::of(&source, Some(&message.breach)))?;
    Ok(Trigger {
        name: message.name,
        source,
        breach,
        for_ms: message.for_ms,
        min_requests: message.min_requests,
        severity,
        then,
    })
}

/// How bad a breach is.
pub fn severity(severity: TriggerSeverity) -> v1::TriggerSeverity {
    match severity {
        TriggerSeverity::Critical => v1::TriggerSeverity::Critical,
        TriggerSeverity::High => v1::TriggerSeverity::High,
        TriggerSeverity::Low => v1::TriggerSeverity::Low,
    }
}

/// What follows a breach.
pub fn then(then: Then) -> v1::Then {
    match then {
        Then::Propose => v1::Then::Propose,
        Then::Rollback => v1::Then::Rollback,
    }
}

/// How a trigger stands.
pub fn stands(stands: TriggerStands) -> v1::TriggerState {
    match stands {
        TriggerStands::Off => v1::TriggerState::Off,
        TriggerStands::Well => v1::TriggerState::Well,
        TriggerStands::Blind => v1::TriggerState::Blind,
        TriggerStands::Held => v1::TriggerState::Held,
        TriggerStands::Breached => v1::TriggerState::Breached,
        TriggerStands::Fired => v1::TriggerState::Fired,
    }
}

/// What the judge says.
pub fn ruling(ruling: &Ruling) -> v1::Ruling {
    let figure = |row: &Figure| v1::Figure {
        name: row.name.clone(),
        canary: row.canary,
        baseline: row.baseline,
        bound: row.bound,
        canary_requests: row.canary_requests,
        baseline_requests: row.baseline_requests,
    };
    v1::Ruling {
        verdict: match ruling.verdict {
            Verdict::Pass => v1::Verdict::Pass,
            Verdict::Fail => v1::Verdict::Fail,
            Verdict::Hold => v1::Verdict::Hold,
        }
        .into(),
        sentence: ruling.sentence.clone(),
        figures: ruling.numbers.iter().map(figure).collect(),
        at_unix_ms: ruling.at.0,
    }
}

/// How an operation's canary stands. `now` is of the operation's own time, while it runs; `newest` is what the judge says
/// now, where that is newer than what is on record.
pub fn canary_view(
    view: &View,
    now: Option<Elapsed>,
    newest: Option<&Ruling>,
) -> Option<v1::CanaryView> {
    let at = now.unwrap_or_else(|| view.operation.last());
    let now = view.operation.canary(at)?;
    // By the wall, as people read it.
    let hold_until = now.hold_until.map(|until| {
        let left = i64::try_from(until.since(at)).unwrap_or(i64::MAX);
        wall().0.saturating_add(left)
    });
    let step = |row: &engine::CanaryStage<'_>| v1::CanaryStepView {
        weight: row.gate.weight,
        hold_ms: row.hold_ms,
        stage: u32::try_from(row.stage).unwrap_or(u32::MAX),
        asks: row.gate.asks,
    };
    Some(v1::CanaryView {
        group: now.group.to_string(),
        steps: now.steps.iter().map(step).collect(),
        step: now.step.map(|step| u32::try_from(step).unwrap_or(u32::MAX)),
        ruling: newest.or(now.ruling).map(ruling),
        hold_until_unix_ms: hold_until.unwrap_or(0),
        waits: match now.waits {
            Waits::Steps => v1::CanaryWaits::Steps,
            Waits::Hold => v1::CanaryWaits::Hold,
            Waits::Judge => v1::CanaryWaits::Judge,
            Waits::Person => v1::CanaryWaits::Person,
            Waits::Resume => v1::CanaryWaits::Resume,
            Waits::Nothing => v1::CanaryWaits::Nothing,
        }
        .into(),
        gauges: Vec::new(),
    })
}

/// What the app says of itself, on both sides.
pub fn gauges(row: Gauges) -> v1::CanaryGauge {
    let hosts = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let side = |side: SideSays| v1::GaugeSide {
        lowest: side.lowest,
        median: side.median,
        highest: side.highest,
        hosts: hosts(side.hosts),
        of_hosts: hosts(side.of_hosts),
        oldest_unix_ms: side.oldest.0,
    };
    v1::CanaryGauge {
        component: row.component.to_string(),
        check: row.check,
        pointer: row.pointer,
        canary: row.canary.map(side),
        baseline: row.baseline.map(side),
        at_most: row.at_most,
        at_least: row.at_least,
    }
}

/// The stage that a promotion opens the way to: the next weight, the one that is named, or all.
///
/// # Errors
/// Why there is no such promotion now: in words that say what there is.
pub fn promoted_to(
    operation: &Operation,
    to: Option<v1::promote_operation_request::To>,
) -> Result<usize, Status> {
    use v1::promote_operation_request::To;
    let id = operation.id();
    let refused = |what: String| {
        let mend = "ctl canary status";
        Err(status(StatusKind::Refused, Code::FailedPrecondition, &what, &[], mend))
    };
    let Some(canary) = operation.canary(operation.last()) else {
        return refused(format!("{id} is no canary"));
    };
    let Some(gate) = operation.gate_in_force() else {
        return refused(match operation.phase() {
            Phase::Ended(_) => format!("{id} is over"),
            Phase::Halting | Phase::Aborting(_) => format!("{id} is going back"),
            Phase::Running | Phase::Paused => {
                let group = canary.group;
                format!(
                    "{id} stands at no weight of {group} now: its hosts or the traffic are in work"
                )
            }
        });
    };
    if operation.phase() == Phase::Paused {
        return refused(format!("{id} is paused; `ctl canary resume` first"));
    }
    let last = canary.steps.last().map_or(gate, |step| step.stage);
    match to {
        None => Ok(gate + 1),
        Some(To::Full(_)) => Ok(last + 1),
        Some(To::Weight(100)) => Ok(last + 1),
        Some(To::Weight(weight)) => {
            match canary.steps.iter().find(|step| step.gate.weight == weight) {
                Some(step) if step.stage > gate => Ok(step.stage),
                Some(_) => refused(format!("{weight} % is not above where {id} stands")),
                None => {
                    let steps = canary.steps.iter().map(|step| format!("{} %", step.gate.weight));
                    let steps: Vec<String> = steps.chain(["all".to_owned()]).collect();
                    refused(format!("{weight} % is no step of {id}: {}", steps.join(", ")))
                }
            }
        }
    }
}

/// An operation that waits for a person, or did.
pub fn proposal(fleet: &str, row: &Proposal) -> v1::Proposal {
    let decided = row.decided.as_ref();
    v1::Proposal {
        operation: row.operation.to_string(),
        kind: v1::OperationKind::Rollback.into(),
        to_release: row.to.to_string(),
        why: row.why.clone(),
        why_not_automatic: row.why_not_automatic.clone(),
        severity: severity(row.severity).into(),
        by: row.by.clone(),
        at_unix_ms: row.at.0,
        until_unix_ms: row.until.0,
        state: match decided.map(|decided| decided.decision) {
            None => v1::ProposalState::Waiting,
            Some(Decision::Approved) => v1::ProposalState::Approved,
            Some(Decision::Rejected) => v1::ProposalState::Rejected,
            Some(Decision::Expired) => v1::ProposalState::Expired,
        }
        .into(),
        decided_by: decided.map_or_else(String::new, |decided| decided.by.clone()),
        decided_reason: decided.map_or_else(String::new, |decided| decided.reason.clone()),
        decided_unix_ms: decided.map_or(0, |decided| decided.at.0),
        fleet: fleet.to_owned(),
    }
}
