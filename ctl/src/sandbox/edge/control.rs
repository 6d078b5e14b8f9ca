//! The edge's control socket: HTTP/1.1 and JSON, for the agent of its host.
//!
//! Invariant: a change that was begun is brought to its end, also where nobody waits for the answer any more.

use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::UnixStream;
use tokio_stream::wrappers::UnixListenerStream;

use super::{division::Division, table::Table};

/// Far above a division of a thousand hosts.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How long an answer may take: a sync of a busy disk.
const ASK_WITHIN: Duration = Duration::from_secs(30);

/// Serves the socket for ever.
pub(super) async fn serve(listener: UnixListenerStream, table: Arc<Table>) {
    let serve = |stream: UnixStream| {
        let table = table.clone();
        async move {
            let answer =
                service_fn(|request| async { Ok::<_, Infallible>(answer(&table, request).await) });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = served.await {
                tracing::debug!(%error, "who asked went away");
            }
        }
    };
    super::accept(listener, serve).await;
}

async fn answer(table: &Arc<Table>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/weights") => match table.weights() {
            Some(weights) => json(StatusCode::OK, &weights),
            None => error(StatusCode::NOT_FOUND, "no weights were set"),
        },
        (&Method::PUT, "/weights") => put(table, request.into_body()).await,
        (&Method::GET, "/open") => json(StatusCode::OK, &table.open_requests()),
        (&Method::GET, "/ports") => json(StatusCode::OK, table.ports()),
        (_, "/weights" | "/open" | "/ports") => {
            error(StatusCode::METHOD_NOT_ALLOWED, "GET it; or PUT /weights")
        }
        (_, path) => error(StatusCode::NOT_FOUND, &format!("there is no {path}")),
    }
}

async fn put(table: &Arc<Table>, body: Incoming) -> Response<Full<Bytes>> {
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(why) => return error(StatusCode::BAD_REQUEST, &format!("reading the body: {why}")),
    };
    let division = match Division::read(&body, table.ports()) {
        Ok(division) => division,
        Err(why) => return error(StatusCode::BAD_REQUEST, &why),
    };
    let set = {
        let table = table.clone();
        tokio::task::spawn_blocking(move || table.set(division)).await
    };
    match set {
        Ok(Ok(weights)) => json(StatusCode::OK, &weights),
        Ok(Err(why)) => {
            let why = format!(
                "writing the division: {why}; what was in force still is, and what a restart begins with is not known"
            );
            error(StatusCode::INTERNAL_SERVER_ERROR, &why)
        }
        Err(why) => error(StatusCode::INTERNAL_SERVER_ERROR, &why.to_string()),
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let bytes = serde_json::to_vec(value).expect("maps with names as keys are JSON");
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn error(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    json(status, &serde_json::json!({ "error": why }))
}

/// Why a control socket gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("connecting to the edge's control socket")]
    Connect(#[source] std::io::Error),
    #[error("asking the edge")]
    Ask(#[source] hyper::Error),
    #[error("the edge's answer is no JSON")]
    Json(#[source] serde_json::Error),
    #[error("the edge did not answer within {ASK_WITHIN:?}")]
    Late,
}

/// Asks an edge by its control socket: the status and the document of its answer.
///
/// # Errors
/// There was no whole answer; whether it did what it was asked is not known.
pub async fn ask(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<(u16, serde_json::Value), AskError> {
    let asked = async {
        let stream = UnixStream::connect(socket).await.map_err(AskError::Connect)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(AskError::Ask)?;
        let body = body.map(ToString::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "edge")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(body)))
            .expect("methods and paths are written down in this program");
        let answered = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            Ok::<_, hyper::Error>((status, answer.into_body().collect().await?.to_bytes()))
        };
        let (answered, _) = tokio::join!(answered, connection);
        let (status, bytes) = answered.map_err(AskError::Ask)?;
        Ok((status, serde_json::from_slice(&bytes).map_err(AskError::Json)?))
    };
    tokio::time::timeout(ASK_WITHIN, asked).await.map_err(|_| AskError::Late)?
}
