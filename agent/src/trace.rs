//! What the agent adds to a trace: a span per track, per step of it, and per call of a driver.
//!
//! ```text
//! order (traceparent) ─▶ Taken, in the ledger ─▶ step, observe, undo ─▶ driver call
//!                          └─ ended, maybe by another process: the track's span
//! ```
//!
//! Invariant: a track's own place is on disk before its first step, so that an agent that is started again goes on in
//! the same trace.
//! Invariant: the spans of a track's steps leave after the track's own. An agent that is killed in a track loses those of
//! the steps that it had done; the ledger has them.
//! Invariant: names and results only: what a host said stays out of it.

use proto::trace::{self, Held, Past, Span, SpanKind, TraceContext};
use tracing::Instrument as _;

use crate::{
    drivers::{self, DriverError},
    ledger::{Found, Ledger, Record},
    order::{End, Goal, Order, Step, Taken},
    worker::{Input, Work},
};

/// Marks an order as taken now, on this host: at its own place, where this process exports nothing.
pub fn taken(host: &str, order: &Order) -> Taken {
    let place = order.traceparent.parse::<TraceContext>().ok();
    let place = place.map(|place| if trace::exporting() { place.child() } else { place });
    Taken {
        host: host.to_owned(),
        at_unix_ms: now_unix_ms(),
        traceparent: place.map_or_else(String::new, |place| place.to_string()),
    }
}

/// Does a piece of a track's work within its span, and with its log lines marked.
pub async fn traced(
    ledger: &Ledger,
    work: &Work,
    steps: &Held,
    doing: impl Future<Output = Input>,
) -> Input {
    let Some(track) = ledger.open() else { return doing.await };
    let mut span = step_span(track.order(), work).held_by(steps);
    let input = span.scope(doing.instrument(log_span(track.order()))).await;
    span.result(result(&input));
    input
}

/// What a record means for its track's span, and those of its steps; before it is applied.
pub fn recorded(ledger: &Ledger, record: &Record, steps: &Held) {
    match record {
        Record::Accepted(order) => {
            // The steps that an earlier attempt began hang on that one's span.
            let earlier = ledger.open().filter(|track| track.order().key == order.key);
            if let Some(earlier) = earlier {
                export(earlier.order(), Err("superseded"));
                steps.release();
            }
        }
        Record::Ended { key, ending } => {
            let track = ledger.open().filter(|track| track.order().key == *key);
            let Some(order) = track.map(|track| track.order()) else { return };
            let result = match (ending.end, order.goal) {
                (End::Done, _) | (End::Undone, Goal::Undo) => Ok(()),
                (End::Undone, Goal::Forward) => Err("undone"),
                (End::Left, _) => Err("left"),
                (End::Stuck, _) => Err("stuck"),
            };
            export(order, result);
            steps.release();
        }
        Record::Fenced(_)
        | Record::StepBegan { .. }
        | Record::Observed { .. }
        | Record::StepEnded { .. }
        | Record::TurnedBack { .. }
        | Record::UndoBegan { .. }
        | Record::UndoEnded { .. }
        | Record::Dropped { .. }
        | Record::Trial { .. } => {}
    }
}

/// The span that log lines about a record are in.
pub fn log_span_of(ledger: &Ledger, record: &Record) -> tracing::Span {
    let key = match record {
        Record::Accepted(order) => return log_span(order),
        Record::Fenced(_) => return tracing::Span::none(),
        Record::StepBegan { key, .. }
        | Record::Observed { key, .. }
        | Record::StepEnded { key, .. }
        | Record::TurnedBack { key, .. }
        | Record::UndoBegan { key, .. }
        | Record::UndoEnded { key, .. }
        | Record::Ended { key, .. }
        | Record::Dropped { key }
        | Record::Trial { key, .. } => key,
    };
    let track = ledger.tracks().into_iter().find(|track| track.order().key == *key);
    track.map_or_else(tracing::Span::none, |track| log_span(track.order()))
}

/// One call of a service's driver.
pub fn call_span(driver: &'static str, verb: drivers::Verb, service: &str) -> Span {
    let mut span = Span::inner(format!("{driver} {verb}"));
    span.attribute("rollback.driver", driver);
    span.attribute("rollback.service", service.to_owned());
    span
}

/// One word for how a driver's call failed.
pub fn call_result<T>(done: &Result<T, DriverError>) -> Result<(), &'static str> {
    match done {
        Ok(_) => Ok(()),
        Err(DriverError::Transient(_)) => Err("transient"),
        Err(DriverError::Permanent(_)) => Err("permanent"),
        Err(DriverError::Unsupported(_)) => Err("unsupported"),
        Err(DriverError::TimedOut(_)) => Err("timed_out"),
    }
}

fn place(order: &Order) -> Option<(&Taken, TraceContext)> {
    let taken = order.taken.as_ref()?;
    Some((taken, taken.traceparent.parse().ok()?))
}

/// The span of a piece of work. Looking where nothing is cut is none.
fn step_span(order: &Order, work: &Work) -> Span {
    let (index, prefix) = match work {
        Work::Look { index, .. } if !order.steps[*index].verb.cuts() => return Span::nothing(),
        Work::Look { index, .. } => (*index, "look "),
        Work::Perform { index, .. } => (*index, ""),
        Work::Observe { index, .. } => (*index, "observe "),
        Work::Undo { index, .. } => (*index, "undo "),
    };
    let Some((taken, place)) = place(order) else { return Span::nothing() };
    let Step { verb, component, release, .. } = &order.steps[index];
    let mut span = Span::begin(format!("{prefix}{verb}"), SpanKind::Internal, Some(place));
    let run = format!("{}/{}/{}/{index}", order.key.operation, order.key.stage, taken.host);
    span.attribute("cicd.pipeline.task.name", verb.to_string());
    span.attribute("cicd.pipeline.task.run.id", run);
    span.attribute("cicd.pipeline.task.type", "deploy");
    span.attribute("host.name", taken.host.clone());
    span.attribute("rollback.component", component.clone());
    if !release.is_empty() {
        span.attribute("rollback.release.to", release.clone());
    }
    span
}

fn result(input: &Input) -> Result<(), &'static str> {
    match input {
        Input::Looked { before: Err(_), .. } => Err("look"),
        Input::Performed { result, .. } | Input::Undone { result, .. } if !result.ok => {
            Err("failed")
        }
        Input::Observed { found: Found::Unknown(_), .. } => Err("unknown"),
        Input::Looked { .. }
        | Input::Performed { .. }
        | Input::Undone { .. }
        | Input::Observed { .. }
        | Input::Welcomed(_)
        | Input::Order { .. }
        | Input::Local { .. }
        | Input::Tried { .. } => Ok(()),
    }
}

fn export(order: &Order, result: Result<(), &'static str>) {
    let Some((taken, context)) = place(order) else { return };
    let parent = order.traceparent.parse::<TraceContext>().ok();
    if parent == Some(context) {
        return;
    }
    let goal = match order.goal {
        Goal::Forward => "forward",
        Goal::Undo => "undo",
    };
    Past {
        context,
        parent,
        name: "track".into(),
        kind: SpanKind::Internal,
        began_unix_ms: taken.at_unix_ms,
        ended_unix_ms: now_unix_ms(),
        attributes: vec![
            ("cicd.pipeline.run.id", order.key.operation.clone().into()),
            ("host.name", taken.host.clone().into()),
            ("rollback.stage", i64::from(order.key.stage).into()),
            ("rollback.attempt", i64::from(order.attempt).into()),
            ("rollback.goal", goal.into()),
        ],
        result,
    }
    .export();
}

fn log_span(order: &Order) -> tracing::Span {
    let trace_id =
        place(order).map_or_else(String::new, |(_, place): (_, TraceContext)| place.trace_id());
    tracing::error_span!("track", operation = order.key.operation, trace_id)
}

fn now_unix_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
