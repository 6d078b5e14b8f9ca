//! Logs and traces, set up the same way in ctl, coordinator and agent.
//!
//! ```text
//! tracing ─┬─▶ stderr, text or JSON, as LASTGOOD_LOG says
//!          └─▶ OTLP over gRPC, when OTEL_EXPORTER_OTLP_ENDPOINT is set: queued, sent by a thread of its own
//! ```
//!
//! Invariant: a dead or slow collector costs spans, never time: the queue drops what does not fit, and flushing at the
//! end is bounded.

use std::{env, error::Error, sync::mpsc, thread, time::Duration};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Says what is logged: `debug`, `coordinator=debug,h2=info`, …
pub const LOG_VARIABLE: &str = "LASTGOOD_LOG";
/// Where traces go. Nothing is sent anywhere while it is unset.
pub const OTLP_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What is logged where nobody says otherwise: ours, and what others warn of.
const DEFAULT_FILTER: &str = "warn,agent=info,coordinator=info,ctl=info,engine=info,proto=info";
/// Whose spans are exported, as far as the filter lets them through. Not those of the libraries that do the exporting:
/// each export would make the next one.
const TRACED: [&str; 5] = ["agent", "coordinator", "ctl", "engine", "proto"];
/// One export, so that a collector that hangs does not hold the sender for ever.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);
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
}

/// Why nothing would be seen.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error(
        "{LOG_VARIABLE} is not a log filter; write it like `info` or `coordinator=debug,h2=warn`"
    )]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    #[error("cannot export traces to {OTLP_VARIABLE}")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    #[error("logging was set up before")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets up logs, and traces where a collector is named. Must be called within a tokio runtime, once.
///
/// # Errors
/// [`TelemetryError`]; never because the collector does not answer.
pub fn init(service_name: &'static str, format: Format) -> Result<Guard, TelemetryError> {
    let filter = match env::var(LOG_VARIABLE) {
        Ok(text) if !text.is_empty() => text,
        Ok(_) | Err(_) => DEFAULT_FILTER.to_owned(),
    };
    let filter = EnvFilter::try_new(filter).map_err(TelemetryError::Filter)?;
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().boxed(),
    };
    let traces = match env::var_os(OTLP_VARIABLE) {
        Some(endpoint) if !endpoint.is_empty() => Some(exporting(service_name)?),
        Some(_) | None => None,
    };
    let spans = traces.as_ref().map(|traces| {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        let ours = TRACED.map(|name| (name, LevelFilter::TRACE));
        tracing_opentelemetry::layer()
            .with_tracer(traces.tracer(service_name))
            .with_filter(Targets::new().with_targets(ours))
    });
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(spans)
        .try_init()
        .map_err(TelemetryError::Twice)?;
    Ok(Guard { traces })
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(traces) = self.traces.take() else { return };
        // The exporter may need the very thread that drops this; and whatever it does, it gets no more than its time.
        let (ended, end) = mpsc::channel();
        let flushing = thread::Builder::new().name("last-spans".to_owned()).spawn(move || {
            let result = traces.shutdown_with_timeout(FLUSH_TIMEOUT);
            // Nobody may be waiting any more.
            drop(ended.send(result));
        });
        let why = match flushing.map(|_| end.recv_timeout(FLUSH_TIMEOUT)) {
            Ok(Ok(Ok(()))) => return,
            Ok(Ok(Err(error))) => describe(&error),
            Ok(Err(error)) => describe(&error),
            Err(error) => describe(&error),
        };
        tracing::warn!(why, "the last spans were not exported");
    }
}

/// Spans are queued (2048; the rest is dropped) and sent by the SDK's own thread.
fn exporting(service_name: &'static str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(TelemetryError::Exporter)?;
    let resource = Resource::builder().with_service_name(service_name).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
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

    /// The child of the test below; passes at once in the usual run.
    #[tokio::test]
    async fn emitting_child() {
        if env::var_os(OTLP_VARIABLE).is_none() {
            return;
        }
        let guard = init("test", Format::Json).unwrap();
        let began = Instant::now();
        for n in 0..10_000 {
            tracing::info_span!("step", n).in_scope(|| ());
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

    #[test]
    fn p12_a_collector_that_never_answers_costs_no_time() {
        // Accepts connections in its backlog and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", "telemetry::tests::emitting_child", "--nocapture"])
            .env(OTLP_VARIABLE, format!("http://{}", silent.local_addr().unwrap()))
            .env_remove(LOG_VARIABLE)
            .stdout(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert!(number(&said, "emitted_ms") < 2_000, "{said}");
        assert!(number(&said, "ended_ms") < 6_000, "{said}");
        assert!(said.contains("the last spans were not exported"), "{said}");
    }
}
