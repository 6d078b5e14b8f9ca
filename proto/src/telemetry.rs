//! Logs and traces, set up the same way in ctl, coordinator and agent.
//!
//! ```text
//! tracing ─────────▶ stderr, text or JSON, as LASTGOOD_LOG says
//! trace::{Span, Past} ─▶ OTLP over gRPC or HTTP, as the OTEL_… variables say: queued, sent by a thread of its own
//! ```
//!
//! Invariant: a dead or slow collector costs spans, never time: the queue drops what does not fit, and flushing at the
//! end is bounded.
//! Invariant: telemetry that cannot be set up as asked is left out with a warning; it never keeps a process from
//! starting.

use std::{env, error::Error, sync::mpsc, thread, time::Duration};

use opentelemetry::{Key, KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider},
};
use tonic::transport::ClientTlsConfig;
use tracing_subscriber::{
    EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::trace;

/// Says what is logged: `debug`, `coordinator=debug,h2=info`, …
pub const LOG_VARIABLE: &str = "LASTGOOD_LOG";
/// Where traces go. Nothing is sent anywhere while it and [`OTLP_TRACES_VARIABLE`] are unset.
pub const OTLP_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The same for traces alone; it wins.
pub const OTLP_TRACES_VARIABLE: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
/// `grpc` or `http/protobuf`.
const PROTOCOL_VARIABLES: [&str; 2] =
    ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const TIMEOUT_VARIABLES: [&str; 2] =
    ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
/// The port that OTLP over gRPC is registered for.
const GRPC_PORT: &str = ":4317";

/// What is logged where nobody says otherwise: ours, and what others warn of.
const DEFAULT_FILTER: &str = "warn,agent=info,coordinator=info,ctl=info,engine=info,proto=info";
/// One export, so that a collector that hangs does not hold the sender for ever.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long spans wait for company. Shorter than the SDK's: what waits in a process that is killed is lost.
const EXPORT_EVERY: Duration = Duration::from_secs(1);
/// How long the end of a process waits for its last spans.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people and the journal.
    Text,
    /// One object per line.
    Json,
}

/// Sends the last spans when it is dropped, for two seconds at most. Hold it to the end of `main`.
#[derive(Debug)]
#[must_use = "dropping it ends the export of traces"]
pub struct Guard {
    traces: Option<SdkTracerProvider>,
    flush_within: Duration,
}

impl Guard {
    /// Waits no longer than this for the last spans.
    pub fn within(mut self, flush_within: Duration) -> Self {
        self.flush_within = flush_within;
        self
    }
}

/// Why nothing would be seen.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error(
        "{LOG_VARIABLE} is not a log filter; write it like `info` or `coordinator=debug,h2=warn`"
    )]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    #[error("logging was set up before")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Whether the environment asks for traces to be exported.
pub fn exports() -> bool {
    let disabled =
        said("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let elsewhere = said("OTEL_TRACES_EXPORTER").is_some_and(|value| value != "otlp");
    !disabled && !elsewhere && endpoint().is_some()
}

/// Sets up logs, and traces where a collector is named. Must be called within a tokio runtime, once.
///
/// # Errors
/// [`TelemetryError`]; never because traces cannot be exported.
pub fn init(service_name: &'static str, format: Format) -> Result<Guard, TelemetryError> {
    let filter = said(LOG_VARIABLE).unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    let filter = EnvFilter::try_new(filter).map_err(TelemetryError::Filter)?;
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(TelemetryError::Twice)?;
    Ok(traces_only(service_name))
}

/// Sets up traces where a collector is named, and no logs. Must be called within a tokio runtime, once.
pub fn traces_only(service_name: &'static str) -> Guard {
    let traces = match exports().then(|| exporting(service_name)) {
        Some(Ok(traces)) => {
            trace::export_to(traces.tracer("lastgood"));
            Some(traces)
        }
        Some(Err(error)) => {
            tracing::warn!(%error, "no traces are exported: the OTEL_EXPORTER_OTLP_… variables cannot be used");
            None
        }
        None => None,
    };
    Guard { traces, flush_within: FLUSH_TIMEOUT }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(traces) = self.traces.take() else { return };
        // The exporter may need the very thread that drops this; and whatever it does, it gets no more than its time.
        let flush_within = self.flush_within;
        let (ended, end) = mpsc::channel();
        let flushing = thread::Builder::new().name("last-spans".to_owned()).spawn(move || {
            let result = traces.shutdown_with_timeout(flush_within);
            // Nobody may be waiting any more.
            drop(ended.send(result));
        });
        let why = match flushing.map(|_| end.recv_timeout(flush_within)) {
            Ok(Ok(Ok(()))) => return,
            Ok(Ok(Err(error))) => describe(&error),
            Ok(Err(error)) => describe(&error),
            Err(error) => describe(&error),
        };
        tracing::warn!(why, "the last spans were not exported");
    }
}

/// Spans are queued (2048; the rest is dropped) and sent by the SDK's own thread. Endpoint, headers, compression,
/// sampler and limits are read by the SDK itself.
fn exporting(service_name: &'static str) -> Result<SdkTracerProvider, ExporterBuildError> {
    let timeout = if TIMEOUT_VARIABLES.iter().any(|name| said(name).is_some()) {
        None
    } else {
        Some(EXPORT_TIMEOUT)
    };
    let exporter = if over_grpc() {
        let mut builder = SpanExporter::builder().with_tonic();
        if endpoint().is_some_and(|endpoint| !endpoint.starts_with("http://")) {
            builder = builder.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
        }
        match timeout {
            Some(timeout) => builder.with_timeout(timeout).build()?,
            None => builder.build()?,
        }
    } else {
        // An error only says that a provider was installed before, which does as well.
        rustls::crypto::ring::default_provider().install_default().ok();
        let builder = SpanExporter::builder()
            .with_http()
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary);
        match timeout {
            Some(timeout) => builder.with_timeout(timeout).build()?,
            None => builder.build()?,
        }
    };
    let mut batches = BatchConfigBuilder::default();
    if said("OTEL_BSP_SCHEDULE_DELAY").is_none() {
        batches = batches.with_scheduled_delay(EXPORT_EVERY);
    }
    let queue = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build();
    Ok(SdkTracerProvider::builder()
        .with_span_processor(queue)
        .with_id_generator(trace::Ids::default())
        .with_resource(resource(service_name))
        .build())
}

/// What the variables say; where they say nothing, gRPC at the port that is registered for it, else HTTP.
fn over_grpc() -> bool {
    match PROTOCOL_VARIABLES.iter().find_map(|name| said(name)).as_deref() {
        Some("grpc") => return true,
        Some("http/protobuf") => return false,
        Some(protocol) => {
            tracing::warn!(protocol, "OTLP is spoken as grpc or http/protobuf; the port decides");
        }
        None => {}
    }
    endpoint().is_some_and(|endpoint| {
        let (_, after) = endpoint.split_once("://").unwrap_or(("", &endpoint));
        after.split('/').next().is_some_and(|authority| authority.ends_with(GRPC_PORT))
    })
}

/// Who we are; what the environment says of it wins.
fn resource(service_name: &'static str) -> Resource {
    let said_already = Resource::builder().build();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let ours = [
        KeyValue::new("host.name", host.trim().to_owned()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let unsaid = |key: &Key| said_already.get(key).is_none();
    let ours = ours.into_iter().filter(|pair| unsaid(&pair.key));
    let mut builder = Resource::builder().with_attributes(ours);
    let named = said("OTEL_SERVICE_NAME").is_some()
        || said("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|list| {
            list.split(',').any(|pair| pair.trim_start().starts_with("service.name="))
        });
    if !named {
        builder = builder.with_service_name(service_name);
    }
    builder.build()
}

fn endpoint() -> Option<String> {
    said(OTLP_TRACES_VARIABLE).or_else(|| said(OTLP_VARIABLE))
}

/// What a variable says; an empty one says nothing.
fn said(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn describe(error: &impl Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        process::{Command, Stdio},
        time::Instant,
    };

    use super::*;

    /// The child of the tests below; passes at once in the usual run.
    #[tokio::test]
    async fn emitting_child() {
        if env::var_os(OTLP_VARIABLE).is_none() {
            return;
        }
        let guard = init("test", Format::Json).unwrap();
        let began = Instant::now();
        for _ in 0..10_000 {
            drop(trace::Span::begin("step", trace::SpanKind::Internal, None));
        }
        tracing::info!(emitted_ms = began.elapsed().as_millis() as u64, "emitted");
        drop(guard);
        tracing::info!(ended_ms = began.elapsed().as_millis() as u64, "ended");
    }

    fn number(said: &str, field: &str) -> u64 {
        let (_, rest) =
            said.split_once(&format!("\"{field}\":")).unwrap_or_else(|| panic!("{said}"));
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    }

    fn child(endpoint: &str, protocol: &str) -> String {
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", "telemetry::tests::emitting_child", "--nocapture"])
            .env(OTLP_VARIABLE, endpoint)
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .env_remove(LOG_VARIABLE)
            .stdout(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert!(number(&said, "emitted_ms") < 2_000, "{said}");
        assert!(number(&said, "ended_ms") < 6_000, "{said}");
        said
    }

    #[test]
    fn p12_a_collector_that_never_answers_costs_no_time() {
        for protocol in ["grpc", "http/protobuf"] {
            // Accepts connections in its backlog and says nothing.
            let silent = TcpListener::bind("127.0.0.1:0").unwrap();
            let said = child(&format!("http://{}", silent.local_addr().unwrap()), protocol);
            assert!(said.contains("the last spans were not exported"), "{protocol}: {said}");
        }
    }

    #[test]
    fn p12_a_collector_that_refuses_costs_no_time() {
        for protocol in ["grpc", "http/protobuf"] {
            let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            child(&format!("http://{gone}"), protocol);
        }
    }

    #[test]
    fn p12_variables_that_cannot_be_used_only_cost_the_traces() {
        for (endpoint, protocol) in [("http://[", "grpc"), ("http://[", "http/protobuf")] {
            let said = child(endpoint, protocol);
            assert!(said.contains("no traces are exported"), "{protocol}: {said}");
        }
    }
}
