//! One request from a user to a server and its answer back, both as streams.
//!
//! ```text
//! request ─▶ turn ─▶ connect ──refused──▶ the next server's turn
//!                       └─ sent ─▶ answer, with `x-served-by`; or 502, and never a second time
//! ```
//!
//! Every request has a connection of its own to its server: none is ever sent on one that the server is about to close.
//!
//! Invariant: what was sent to a server, even in part, is sent to no other.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{Either, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::{self, HeaderName, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;

use super::table::{Table, Turn};

/// A server that does not take a connection in this time is as good as one that refuses it.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How long a server may think before it begins to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Tells a user which host answered.
const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
/// What is said to the next in line only. RFC 9110 §7.6.1, and two that are older.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

type Answer = Response<Either<Tracked, Full<Bytes>>>;

/// Serves a port for ever.
pub(super) async fn serve(listener: TcpListenerStream, port: String, table: Arc<Table>) {
    let serve = |stream: TcpStream| {
        let (port, table) = (port.clone(), table.clone());
        async move {
            // A small answer is not to wait for the next one. It is only slower where that fails.
            stream.set_nodelay(true).ok();
            let answer = service_fn(|request| async {
                Ok::<_, Infallible>(forward(&table, &port, request).await)
            });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = served.await {
                tracing::debug!(%error, "a user went away");
            }
        }
    };
    super::accept(listener, serve).await;
}

async fn forward(table: &Arc<Table>, port: &str, request: Request<Incoming>) -> Answer {
    if request.method() == Method::CONNECT {
        return words(StatusCode::METHOD_NOT_ALLOWED, "this proxy is no way to other places");
    }
    let mut tried = Vec::new();
    let mut why = "no server has a weight".to_owned();
    while let Some(turn) = table.next(port, &tried) {
        match connect(turn.address).await {
            Ok(stream) => return send(stream, turn, request).await,
            Err(refused) => {
                why = format!("{}: {refused}", turn.host);
                tried.push(turn.address);
            }
        }
    }
    let status =
        if tried.is_empty() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_GATEWAY };
    words(status, &why)
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = match timeout(CONNECT_WITHIN, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("no connection within {CONNECT_WITHIN:?}")),
    };
    // It is only slower where that fails.
    stream.set_nodelay(true).ok();
    Ok(stream)
}

/// From here on every failure is the user's.
async fn send(stream: TcpStream, turn: Turn, request: Request<Incoming>) -> Answer {
    let host = turn.host.clone();
    let failed = |why: String| {
        let mut answer = words(StatusCode::BAD_GATEWAY, &format!("{host}: {why}"));
        served_by(answer.headers_mut(), &host);
        answer
    };
    let connected = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = match connected {
        Ok(both) => both,
        Err(error) => return failed(error.to_string()),
    };
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a server went away");
        }
    });
    let request = to_server(request, turn.address);
    match timeout(ANSWER_WITHIN, sender.send_request(request)).await {
        Err(_) => failed(format!("no answer within {ANSWER_WITHIN:?}")),
        Ok(Err(error)) => failed(error.to_string()),
        Ok(Ok(mut answer)) => {
            strip(answer.headers_mut());
            served_by(answer.headers_mut(), &host);
            answer.map(|body| Either::Left(Tracked { body, _turn: turn }))
        }
    }
}

/// The request as it goes to a server: its path alone, on a connection that ends with it.
fn to_server(request: Request<Incoming>, server: SocketAddr) -> Request<Incoming> {
    let (mut parts, body) = request.into_parts();
    let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
    let host = parts.uri.authority().and_then(|it| HeaderValue::from_str(it.as_str()).ok());
    let host = host.or_else(|| parts.headers.get(header::HOST).cloned());
    let host = host.or_else(|| HeaderValue::from_str(&server.to_string()).ok());
    strip(&mut parts.headers);
    if chunked {
        // Of the two, this one does not count; a server may see it otherwise.
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    if let Some(host) = host {
        parts.headers.insert(header::HOST, host);
    }
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let path = parts.uri.path_and_query().cloned();
    parts.uri = path.map(Uri::from).unwrap_or_default();
    parts.version = hyper::Version::HTTP_11;
    Request::from_parts(parts, body)
}

/// Takes away what was said to this proxy only.
fn strip(headers: &mut HeaderMap) {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|it| it.to_str().ok());
    let named: Vec<HeaderName> =
        connection.flat_map(|it| it.split(',')).filter_map(|it| it.trim().parse().ok()).collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn served_by(headers: &mut HeaderMap, host: &str) {
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(SERVED_BY, host);
    }
}

fn words(status: StatusCode, why: &str) -> Answer {
    let mut answer = Response::new(Either::Right(Full::new(Bytes::from(format!("{why}\n")))));
    *answer.status_mut() = status;
    answer
}

/// A server's answer; its request is open until all of it went to the user.
#[derive(Debug)]
pub(super) struct Tracked {
    body: Incoming,
    _turn: Turn,
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
