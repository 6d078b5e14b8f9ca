//! What the coordinator adds to a trace: a span per call that came with one, and one per operation.
//!
//! ```text
//! header ─┬─▶ TraceLayer: the call's span
//!         └─▶ Operations::start: Trace, journaled with the operation ─▶ orders
//!                                  └─ ended: its span, from the journal
//! ```
//!
//! The operation hangs on the caller's span, beside the call's: that one would be lost with a coordinator that is
//! killed just after it has answered.
//!
//! Invariant: an operation's place in its trace is durable before the first order carries it, so that a coordinator
//! that is started again goes on in the same trace.
//! Invariant: it only carries; no trace, or one that cannot be read, changes nothing about an operation.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use engine::{Event, Operation, OperationKind, RunResult};
use proto::trace::{self, HEADER, Past, Span, SpanKind, TraceContext};
use serde::{Deserialize, Serialize};
use tonic::{
    Code, Status,
    codegen::{Service, http},
};

use crate::{host::wall, runner::Entry};

/// The calls that get a span, where they come with a trace.
const TRACED: &str = "/lastgood.v1.OperatorService/";

/// A span older than this was sent or given up before the process ended, whatever ended it.
const MAYBE_LOST_MS: i64 = 10_000;

/// An operation's place: its own span, and the one that it hangs on. As W3C's `traceparent`; persisted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    pub traceparent: String,
    /// Empty where nobody called with a trace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub caller: String,
}

impl Trace {
    /// The place of an operation that begins in this call. The caller's own, where this process exports nothing.
    pub fn begin() -> Self {
        let caller = trace::current();
        let own = match caller {
            Some(caller) if trace::exporting() => caller.child(),
            Some(caller) => caller,
            None => TraceContext::random(),
        };
        let caller = caller.map_or_else(String::new, |caller| caller.to_string());
        Self { traceparent: own.to_string(), caller }
    }

    /// The id of the trace; empty where it cannot be read.
    pub fn trace_id(&self) -> String {
        let context = self.traceparent.parse::<TraceContext>();
        context.map_or_else(|_| String::new(), TraceContext::trace_id)
    }
}

/// The place that an operation was given when it was opened; none in journals of before.
pub fn of(entries: &[Arc<Entry>]) -> Option<&Trace> {
    entries.first()?.trace.as_ref()
}

/// Exports the span of an operation whose last entry says that it has ended. One that was brought back to life by a
/// late host has its span already; what came then is a span below it.
pub fn ended(operation: &Operation, entries: &[Arc<Entry>]) {
    let ends: Vec<usize> = entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| matches!(entry.event, Event::Ended { .. }))
        .map(|(index, _)| index)
        .collect();
    let (Some(trace), Some(end)) = (of(entries), ends.last()) else { return };
    let Event::Ended { result, .. } = entries[*end].event else { return };
    let Ok(own) = trace.traceparent.parse::<TraceContext>() else { return };
    let caller = trace.caller.parse::<TraceContext>().ok();
    if caller == Some(own) {
        return;
    }
    let plan = operation.plan();
    let kind = kind_word(&plan.kind);
    let before = ends.len().checked_sub(2).map(|before| ends[before]);
    let (context, parent, name, began) = match before {
        None => (own, caller, format!("RUN {kind}"), &entries[0]),
        Some(before) => (own.child(), Some(own), format!("RUN {kind} again"), &entries[before + 1]),
    };
    let mut attributes = vec![
        ("cicd.pipeline.name", kind.into()),
        ("cicd.pipeline.run.id", operation.id().to_string().into()),
        ("cicd.pipeline.result", pipeline_result(result).into()),
        ("rollback.fleet", plan.fleet.to_string().into()),
        ("rollback.app", plan.app.clone().into()),
        ("rollback.hosts", i64::try_from(plan.hosts.len()).unwrap_or(i64::MAX).into()),
    ];
    let releases = [("rollback.release.from", &plan.from), ("rollback.release.to", &plan.to)];
    attributes.extend(
        releases
            .into_iter()
            .filter_map(|(key, name)| Some((key, name.as_ref()?.to_string().into()))),
    );
    Past {
        context,
        parent,
        name: name.into(),
        kind: SpanKind::Server,
        began_unix_ms: began.at.0,
        ended_unix_ms: entries[*end].at.0,
        attributes,
        result: result_word(result),
    }
    .export();
}

/// After a start: exports the span of an operation that had ended just before, for it may have been lost on its way.
/// Where it was not, it is the same once more: same ids, same times.
pub fn ended_before_start(operation: &Operation, entries: &[Arc<Entry>]) {
    let end = entries.iter().rev().find(|entry| matches!(entry.event, Event::Ended { .. }));
    if end.is_some_and(|end| wall().0.saturating_sub(end.at.0) < MAYBE_LOST_MS) {
        ended(operation, entries);
    }
}

/// The span that an operation's log lines are in.
pub fn log_span(operation: &Operation, entries: &[Arc<Entry>]) -> tracing::Span {
    let trace_id = of(entries).map_or_else(String::new, Trace::trace_id);
    tracing::error_span!("operation", operation = %operation.id(), trace_id)
}

fn kind_word(kind: &OperationKind) -> &'static str {
    match kind {
        OperationKind::Rollback => "rollback",
        OperationKind::Undo(_) => "undo",
        OperationKind::Snapshot => "snapshot",
        OperationKind::Check => "check",
        OperationKind::Fetch => "fetch",
        OperationKind::Deploy => "deploy",
        OperationKind::Switch => "switch",
    }
}

fn pipeline_result(result: RunResult) -> &'static str {
    match result {
        RunResult::Verified => "success",
        RunResult::Refused => "skip",
        RunResult::PutBack | RunResult::Mixed | RunResult::Unverified => "failure",
    }
}

fn result_word(result: RunResult) -> Result<(), &'static str> {
    match result {
        RunResult::Verified => Ok(()),
        RunResult::Refused => Err("refused"),
        RunResult::PutBack => Err("put_back"),
        RunResult::Mixed => Err("mixed"),
        RunResult::Unverified => Err("unverified"),
    }
}

/// Makes a span of each call that came with a trace; what the handler begins hangs on the caller's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct TraceLayer;

impl<S> tower::Layer<S> for TraceLayer {
    type Service = TraceService<S>;

    fn layer(&self, inner: S) -> TraceService<S> {
        TraceService { inner }
    }
}

/// See [`TraceLayer`].
#[derive(Clone, Debug)]
pub struct TraceService<S> {
    inner: S,
}

impl<S, B, R> Service<http::Request<B>> for TraceService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let traced = request.uri().path().strip_prefix(TRACED);
        let (Some(method), Some(caller)) = (traced, caller(request.headers())) else {
            return Box::pin(self.inner.call(request));
        };
        let method = format!("lastgood.v1.OperatorService/{method}");
        let mut span = Span::begin(method.clone(), SpanKind::Server, Some(caller));
        span.attribute("rpc.system.name", "grpc");
        span.attribute("rpc.method", method);
        let answer = trace::within(caller, self.inner.call(request));
        Box::pin(async move {
            let answer = answer.await;
            if let Ok(response) = &answer {
                // A stream's own end is later than its answer; what it tells is the operation's business.
                let status = Status::from_header_map(response.headers());
                let code = status.map_or(Code::Ok, |status| status.code());
                span.attribute("rpc.response.status_code", format!("{code:?}"));
                if ours(code) {
                    span.result(Err("internal"));
                }
            }
            answer
        })
    }
}

fn caller(headers: &http::HeaderMap) -> Option<TraceContext> {
    headers.get(HEADER)?.to_str().ok()?.parse().ok()
}

/// Whether it is the coordinator that failed, and not what was asked.
fn ours(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_operation_without_a_caller_begins_a_trace_and_reads_back() {
        let trace = Trace::begin();
        assert_eq!(trace.trace_id().len(), 32);
        assert!(trace.caller.is_empty());
        let written = serde_json::to_string(&trace).unwrap();
        assert_eq!(serde_json::from_str::<Trace>(&written).unwrap(), trace);
    }

    #[tokio::test]
    async fn where_nothing_is_exported_an_operation_is_in_its_caller_s_place() {
        let caller = TraceContext::random();
        let span = Span::begin("call", SpanKind::Server, Some(caller));
        let trace = span.scope(async { Trace::begin() }).await;
        assert_eq!(trace.traceparent, caller.to_string());
        assert_eq!(trace.caller, caller.to_string());
    }
}
