//! The sections `canary` and `triggers` of the control part.

use proto::v1;

use crate::fleet_file::{
    Canary, CanarySource, CanaryStep, Counters, Hold, Measure, Severity, Source, Then, Trigger,
};

pub(super) fn canary(canary: &Canary) -> v1::Canary {
    v1::Canary {
        group: canary.group.clone(),
        steps: canary.steps.iter().map(step).collect(),
        analysis: Some(v1::Analysis {
            compare: canary.compare.iter().map(|measure| self::measure(*measure).into()).collect(),
            errors_at_most: canary.errors_at_most,
            latency_ratio: canary.latency_ratio,
            false_alarm: canary.false_alarm,
            min_requests: canary.min_requests,
            stale_after_ms: canary.stale_after.as_ms(),
        }),
        source: Some(source(&canary.source)),
        armed_for_ms: canary.armed_for.as_ms(),
        wait_at_most_ms: canary.wait_at_most.as_ms(),
    }
}

fn step(step: &CanaryStep) -> v1::CanaryStep {
    let (hold_ms, asks) = match step.hold {
        Hold::For(span) => (span.as_ms(), false),
        Hold::Ask => (0, true),
    };
    v1::CanaryStep { weight: step.weight, hold_ms, asks }
}

fn measure(measure: Measure) -> v1::Measure {
    match measure {
        Measure::Errors => v1::Measure::Errors,
        Measure::P50 => v1::Measure::P50,
        Measure::P95 => v1::Measure::P95,
        Measure::P99 => v1::Measure::P99,
    }
}

fn source(source: &CanarySource) -> v1::MetricSource {
    use v1::metric_source::Source;
    let source = match source {
        CanarySource::Probes => Source::Probes(v1::Probes {}),
        CanarySource::Prometheus(Counters { url, requests, errors, latency }) => {
            Source::Prometheus(v1::PrometheusCounters {
                url: url.clone(),
                requests: requests.clone(),
                errors: errors.clone(),
                latency: latency.clone().unwrap_or_default(),
            })
        }
    };
    v1::MetricSource { source: Some(source) }
}

pub(super) fn trigger(name: &str, trigger: &Trigger) -> v1::Trigger {
    use v1::trigger::Source as Wire;
    let source = match &trigger.source {
        Source::Probes => Wire::Probes(v1::Probes {}),
        Source::Check(check) => Wire::Check(check.clone()),
        Source::Alert(alert) => Wire::Alert(alert.clone()),
        Source::Prometheus { url, query } => {
            Wire::Prometheus(v1::PrometheusQuery { url: url.clone(), query: query.clone() })
        }
    };
    let severity = match trigger.severity {
        Severity::Critical => v1::TriggerSeverity::Critical,
        Severity::High => v1::TriggerSeverity::High,
        Severity::Low => v1::TriggerSeverity::Low,
    };
    let then = match trigger.then {
        Then::Propose => v1::Then::Propose,
        Then::Rollback => v1::Then::Rollback,
    };
    v1::Trigger {
        name: name.to_owned(),
        source: Some(source),
        breach: trigger.breach.clone().unwrap_or_default(),
        for_ms: trigger.lasting.map_or(0, proto::span::Span::as_ms),
        min_requests: trigger.min_requests,
        severity: severity.into(),
        then: then.into(),
    }
}
