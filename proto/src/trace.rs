//! One operation is one trace: where its spans hang, and how that goes from process to process.
//!
//! ```text
//! TRACEPARENT ─▶ ctl's span ── header ─▶ call's span ─▶ operation (journal) ── order ─▶ track (ledger) ─▶ step ─▶ driver call
//!                    Span                    Span           Past                           Past             Span     Span::inner
//! ```
//!
//! A [`Span`] lives as long as what it measures. What may end in another process than it began in, an operation and a
//! track, has an id that is written down first; its span is a [`Past`], made when it has ended.
//!
//! Invariant: who exports nothing is not in the tree: its children hang on its own parent.
//! Invariant: a span leaves this process after the one that it hangs on, or hangs on one that outlives this process:
//! the caller's, or one whose id is written down. So a process that is killed takes whole branches with it (what had
//! not been sent), and leaves none without its stem. A full queue or a failed export can.
//! Invariant: attributes are names, numbers and results; never a host's words, which may quote anything.

use std::{
    borrow::Cow,
    cell::Cell,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::SystemTime,
};

use opentelemetry::{
    Context, KeyValue, Value,
    trace::{
        Span as _, SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId,
        TraceState, Tracer as _,
    },
};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracer, Span as SdkSpan};
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
};

pub use opentelemetry::trace::SpanKind;

/// The header, and in capitals the variable of a caller's environment.
pub const HEADER: &str = "traceparent";
/// See [`HEADER`].
pub const VARIABLE: &str = "TRACEPARENT";

/// Set once, where spans are exported.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

pub(crate) fn export_to(tracer: SdkTracer) {
    // A second subscriber is refused before it comes to this.
    TRACER.set(tracer).ok();
}

/// Whether this process exports spans.
pub fn exporting() -> bool {
    TRACER.get().is_some()
}

/// A span's place: its trace, itself, and whether it is recorded. Written as W3C's `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: TraceId,
    span: SpanId,
    flags: TraceFlags,
}

/// No `traceparent`: what comes with it is taken as if there were none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent, such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
pub struct NoContext;

impl TraceContext {
    /// The beginning of a trace.
    pub fn random() -> Self {
        let ids = RandomIdGenerator::default();
        let (trace, span) = (ids.new_trace_id(), ids.new_span_id());
        Self { trace, span, flags: TraceFlags::SAMPLED }
    }

    /// A new span below this one.
    pub fn child(self) -> Self {
        Self { span: RandomIdGenerator::default().new_span_id(), ..self }
    }

    /// The caller's, from the environment; none where there is none or it cannot be read.
    pub fn of_caller() -> Option<Self> {
        std::env::var(VARIABLE).ok()?.parse().ok()
    }

    /// The id of the trace, in hex.
    pub fn trace_id(self) -> String {
        self.trace.to_string()
    }

    fn remote(self) -> SpanContext {
        SpanContext::new(self.trace, self.span, self.flags, true, TraceState::default())
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, self.flags.to_u8())
    }
}

impl FromStr for TraceContext {
    type Err = NoContext;

    /// <https://www.w3.org/TR/trace-context/#traceparent-header>: a later version may have more after the flags.
    fn from_str(text: &str) -> Result<Self, NoContext> {
        let hex = |part: &str, digits: usize| {
            part.len() == digits
                && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let mut parts = text.trim().splitn(5, '-');
        let mut next = |digits| parts.next().filter(|part| hex(part, digits)).ok_or(NoContext);
        let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return Err(NoContext);
        }
        let trace = TraceId::from_hex(trace).map_err(|_| NoContext)?;
        let span = SpanId::from_hex(span).map_err(|_| NoContext)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| NoContext)?;
        if trace == TraceId::INVALID || span == SpanId::INVALID {
            return Err(NoContext);
        }
        Ok(Self { trace, span, flags: TraceFlags::new(flags) & TraceFlags::SAMPLED })
    }
}

tokio::task_local! {
    static CURRENT: Scope;
}

#[derive(Clone, Debug)]
struct Scope {
    context: Option<TraceContext>,
    held: Held,
}

/// Ended spans that wait for the one above them. What waits is sent after it, so that no collector has them without it.
#[derive(Clone, Debug, Default)]
pub struct Held(Arc<Mutex<Vec<(SdkSpan, SystemTime)>>>);

impl Held {
    /// Exports what waits: the span above has been.
    pub fn release(&self) {
        self.take().into_iter().for_each(|(mut span, at)| span.end_with_timestamp(at));
    }

    fn take(&self) -> Vec<(SdkSpan, SystemTime)> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(SdkSpan, SystemTime)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the work of this task hangs: the span whose [`Span::scope`] it runs in.
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(|scope| scope.context).ok().flatten()
}

/// Does `work` where it hangs on `context` itself.
pub fn within<F: Future>(
    context: TraceContext,
    work: F,
) -> impl Future<Output = F::Output> + use<F> {
    CURRENT.scope(Scope { context: Some(context), held: Held::default() }, work)
}

/// What is going on now. Ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    exported: Option<SdkSpan>,
    context: Option<TraceContext>,
    /// Of the spans within this one.
    within: Held,
    /// Where this one waits for the one above it.
    above: Option<Held>,
}

impl Span {
    /// Begins below `parent`; without one it is the first of its trace.
    pub fn begin(
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        parent: Option<TraceContext>,
    ) -> Self {
        let exported = TRACER.get().map(|tracer| {
            tracer.build_with_context(tracer.span_builder(name).with_kind(kind), &below(parent))
        });
        let context = exported.as_ref().map(|span| {
            let context = span.span_context();
            let (trace, span) = (context.trace_id(), context.span_id());
            TraceContext { trace, span, flags: context.trace_flags() }
        });
        let context = context.filter(|context| context.trace != TraceId::INVALID).or(parent);
        Self { exported, context, within: Held::default(), above: None }
    }

    /// Begins within the span whose scope this task runs in; outside of any it is nothing.
    pub fn inner(name: impl Into<Cow<'static, str>>) -> Self {
        match CURRENT.try_with(Scope::clone) {
            Ok(Scope { context: Some(context), held }) => {
                Self::begin(name, SpanKind::Internal, Some(context)).held_by(&held)
            }
            Ok(Scope { context: None, .. }) | Err(_) => Self::nothing(),
        }
    }

    /// Lets it wait, once it has ended, until `above` is released.
    pub fn held_by(mut self, above: &Held) -> Self {
        self.above = Some(above.clone());
        self
    }

    /// No span: what has no place in any trace.
    pub fn nothing() -> Self {
        Self { exported: None, context: None, within: Held::default(), above: None }
    }

    /// Where spans below it hang; its own parent, where nothing is exported.
    pub fn context(&self) -> Option<TraceContext> {
        self.context
    }

    /// Adds a name or a number.
    pub fn attribute(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.exported {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Says how it went. The word for a failure is one of a few.
    pub fn result(&mut self, result: Result<(), &'static str>) {
        if let Some(span) = &mut self.exported {
            if let Err(word) = result {
                span.set_attribute(KeyValue::new("error.type", word));
            }
            span.set_status(status(result));
        }
    }

    /// Does `work` within it.
    pub fn scope<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(Scope { context: self.context, held: self.within.clone() }, work)
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let held = self.within.take();
        let Some(span) = self.exported.take() else { return };
        let ended = std::iter::once((span, SystemTime::now())).chain(held);
        match &self.above {
            Some(above) => above.lock().extend(ended),
            None => ended.for_each(|(mut span, at)| span.end_with_timestamp(at)),
        }
    }
}

/// What has ended, with the id that it was given when it began.
#[derive(Clone, Debug)]
pub struct Past {
    pub context: TraceContext,
    pub parent: Option<TraceContext>,
    pub name: Cow<'static, str>,
    pub kind: SpanKind,
    pub began_unix_ms: i64,
    pub ended_unix_ms: i64,
    pub attributes: Vec<(&'static str, Value)>,
    pub result: Result<(), &'static str>,
}

impl Past {
    /// Exports it, where this process does.
    pub fn export(self) {
        let Some(tracer) = TRACER.get() else { return };
        let mut attributes: Vec<KeyValue> =
            self.attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect();
        attributes.extend(self.result.err().map(|word| KeyValue::new("error.type", word)));
        let builder = tracer
            .span_builder(self.name)
            .with_kind(self.kind)
            .with_start_time(time(self.began_unix_ms))
            .with_attributes(attributes);
        GIVEN.set(Some((self.context.trace, self.context.span)));
        let mut span = tracer.build_with_context(builder, &below(self.parent));
        GIVEN.set(None);
        span.set_status(status(self.result));
        span.end_with_timestamp(time(self.ended_unix_ms.max(self.began_unix_ms)));
    }
}

fn below(parent: Option<TraceContext>) -> Context {
    match parent {
        Some(parent) => Context::new().with_remote_span_context(parent.remote()),
        None => Context::new(),
    }
}

fn status(result: Result<(), &'static str>) -> Status {
    match result {
        Ok(()) => Status::Ok,
        Err(word) => Status::error(word),
    }
}

fn time(unix_ms: i64) -> SystemTime {
    let ms = u64::try_from(unix_ms).unwrap_or(0);
    SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(ms)
}

thread_local! {
    static GIVEN: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

/// Random ids, but for a [`Past`], which has its own.
#[derive(Debug, Default)]
pub(crate) struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        GIVEN.get().map_or_else(|| self.0.new_trace_id(), |(trace, _)| trace)
    }

    fn new_span_id(&self) -> SpanId {
        GIVEN.get().map_or_else(|| self.0.new_span_id(), |(_, span)| span)
    }
}

/// Puts the header on every call of a client.
#[derive(Clone, Debug, Default)]
pub struct Traced(Option<MetadataValue<Ascii>>);

impl Traced {
    /// For calls below `context`.
    pub fn new(context: Option<TraceContext>) -> Self {
        Self(context.and_then(|context| context.to_string().parse().ok()))
    }
}

impl tonic::service::Interceptor for Traced {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert(HEADER, value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_reads_back_as_it_was_written() {
        let context: TraceContext = TEXT.parse().unwrap();
        assert_eq!(context.to_string(), TEXT);
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let random = TraceContext::random();
        assert_eq!(random.to_string().parse(), Ok(random));
        let later = format!("01{}-more", &TEXT[2..]);
        assert_eq!(later.parse(), Ok(context));
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-011",
            "00-4bf92f3577b34da6a3ce929d0e0e47é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(NoContext), "{text}");
        }
    }

    #[tokio::test]
    async fn who_exports_nothing_is_not_in_the_tree() {
        let parent: TraceContext = TEXT.parse().unwrap();
        let span = Span::begin("step", SpanKind::Internal, Some(parent));
        assert_eq!(span.context(), Some(parent));
        let inner = span.scope(async { (current(), Span::inner("call").context()) }).await;
        assert_eq!(inner, (Some(parent), Some(parent)));
        assert_eq!((current(), Span::inner("call").context()), (None, None));
    }
}
