//! A collector of traces, as OTLP has it: over gRPC or over HTTP, on loopback, in a runtime of its own.
//!
//! ```text
//! processes under test ── OTLP ─▶ Collector ─▶ spans(): what came in, flat
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Response, StatusCode, body::Bytes};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::status::StatusCode as SpanStatus,
};
use prost::Message as _;
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_stream::wrappers::TcpListenerStream;

/// A span as it came in. Ids in hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub service: String,
    pub resource: BTreeMap<String, String>,
    pub trace: String,
    pub span: String,
    /// Empty for the first of a trace.
    pub parent: String,
    pub name: String,
    pub attributes: BTreeMap<String, String>,
    /// None where nothing was said.
    pub ok: Option<bool>,
    pub message: String,
    pub began_unix_ns: u64,
    pub ended_unix_ns: u64,
}

/// How it is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    Http,
}

type Inbox = Arc<Mutex<Vec<Received>>>;

/// See the module.
#[derive(Debug)]
pub struct Collector {
    protocol: Protocol,
    address: SocketAddr,
    inbox: Inbox,
    runtime: Option<Runtime>,
}

impl Collector {
    /// Listens.
    pub fn start(protocol: Protocol) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let inbox = Inbox::default();
        match protocol {
            Protocol::Grpc => {
                let service = TraceServiceServer::new(Grpc(inbox.clone()));
                let served = tonic::transport::Server::builder()
                    .add_service(service)
                    .serve_with_incoming(TcpListenerStream::new(listener));
                runtime.spawn(served);
            }
            Protocol::Http => {
                runtime.spawn(http(listener, inbox.clone()));
            }
        }
        Self { protocol, address, inbox, runtime: Some(runtime) }
    }

    /// What a process that is to export here has in its environment.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        let protocol = match self.protocol {
            Protocol::Grpc => "grpc",
            Protocol::Http => "http/protobuf",
        };
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", self.address)),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.to_owned()),
        ]
    }

    /// Everything that came in.
    pub fn spans(&self) -> Vec<Received> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Debug)]
struct Grpc(Inbox);

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        take(&self.0, request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn http(listener: TcpListener, inbox: Inbox) {
    while let Ok((stream, _)) = listener.accept().await {
        let inbox = inbox.clone();
        let service = hyper::service::service_fn(move |request| {
            let inbox = inbox.clone();
            async move { Ok::<_, hyper::Error>(answer(&inbox, request).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(served);
    }
}

async fn answer(
    inbox: &Inbox,
    request: hyper::Request<hyper::body::Incoming>,
) -> Response<Full<Bytes>> {
    let protobuf = request
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes() == b"application/x-protobuf");
    let here = request.uri().path() == "/v1/traces" && protobuf;
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
    let told = body.ok().and_then(|body| ExportTraceServiceRequest::decode(body).ok());
    let mut response = Response::new(Full::default());
    match told {
        Some(told) if here => take(inbox, told),
        Some(_) | None => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}

fn take(inbox: &Inbox, request: ExportTraceServiceRequest) {
    let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
    for of_one in request.resource_spans {
        let resource = pairs(&of_one.resource.unwrap_or_default().attributes);
        for span in of_one.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let status = span.status.clone().unwrap_or_default();
            inbox.push(Received {
                service: resource.get("service.name").cloned().unwrap_or_default(),
                resource: resource.clone(),
                trace: hex(&span.trace_id),
                span: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                name: span.name,
                attributes: pairs(&span.attributes),
                ok: match status.code() {
                    SpanStatus::Unset => None,
                    SpanStatus::Ok => Some(true),
                    SpanStatus::Error => Some(false),
                },
                message: status.message,
                began_unix_ns: span.start_time_unix_nano,
                ended_unix_ns: span.end_time_unix_nano,
            });
        }
    }
}

fn pairs(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|any| any.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Holds spans to be one tree: one trace, one first span, no id twice, and every other span hangs on one of them.
/// `caller` is the span that the first one hangs on, where it has one. Answers the first.
pub fn one_tree<'a>(spans: &'a [Received], caller: &str) -> &'a Received {
    let traces: BTreeSet<&str> = spans.iter().map(|span| span.trace.as_str()).collect();
    assert_eq!(traces.len(), 1, "one trace: {traces:?}");
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.span.as_str()).collect();
    assert_eq!(ids.len(), spans.len(), "no span twice");
    let (first, rest): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span.parent == caller);
    for span in rest {
        assert!(ids.contains(span.parent.as_str()), "what it hangs on is not there: {span:?}");
        assert!(span.began_unix_ns <= span.ended_unix_ns, "{span:?}");
    }
    assert_eq!(first.len(), 1, "one first span: {first:?}");
    first[0]
}
