//! One connection of a user: what is asked by it, and how that can fail.
//!
//! Invariant: a request of which nothing was written is given back as not sent, never counted as a failure of an idle
//! connection; one that was written on a connection that had answered before, and got no byte back, is one.

use std::{error::Error as _, io, net::SocketAddr};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Ask, Plan, report::Failure};

const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What an answer says.
#[derive(Debug)]
pub(super) struct Got {
    pub status: u16,
    pub version: Option<String>,
    pub host: Option<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    Counts(Failure),
    /// Of a connection that had been idle: the server may close one at any time.
    IdleReset,
}

/// How a request ended without an answer.
#[derive(Debug)]
pub(super) enum Ended {
    /// Nothing of it was written.
    NotSent,
    Failed(Failed),
}

impl From<Ended> for Failed {
    fn from(ended: Ended) -> Self {
        match ended {
            // On a connection of its own that is the same as cut off.
            Ended::NotSent => Self::Counts(Failure::Reset),
            Ended::Failed(failed) => failed,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    reused: bool,
}

impl Connection {
    pub(super) async fn open(server: SocketAddr) -> Result<Self, Failed> {
        let stream = TcpStream::connect(server).await.map_err(|error| counts(of_io(&error)))?;
        // It is only slower where that fails.
        stream.set_nodelay(true).ok();
        let opened = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = opened.map_err(|error| counts(of_hyper(&error)))?;
        tokio::spawn(async move {
            // Whoever asks by it is told as well.
            connection.await.ok();
        });
        Ok(Self { sender, reused: false })
    }

    /// Whether nobody has closed it, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Asks once; gives the connection back for the next time.
    pub(super) async fn ask(mut self, plan: &Plan, ask: Ask) -> Result<(Got, Self), Ended> {
        if self.sender.ready().await.is_err() {
            return Err(Ended::NotSent);
        }
        let answer = match self.sender.try_send_request(request(plan, ask)).await {
            Ok(answer) => answer,
            Err(error) if error.message().is_some() => return Err(Ended::NotSent),
            Err(error) => {
                let failure = of_hyper(error.error());
                let idle = self.reused && failure == Failure::Reset;
                return Err(Ended::Failed(if idle { Failed::IdleReset } else { counts(failure) }));
            }
        };
        let got = read(plan, answer).await.map_err(|failure| Ended::Failed(counts(failure)))?;
        self.reused = true;
        Ok((got, self))
    }
}

fn counts(failure: Failure) -> Failed {
    Failed::Counts(failure)
}

fn request(plan: &Plan, ask: Ask) -> Request<Full<Bytes>> {
    let builder = if ask.post {
        Request::post(&plan.post).header("content-type", "application/json")
    } else {
        Request::get(&plan.get)
    };
    let builder = builder.header("host", plan.server.to_string());
    let builder = if ask.fresh { builder.header("connection", "close") } else { builder };
    let body = if ask.post { Bytes::from_static(br#"{"test":"true"}"#) } else { Bytes::new() };
    builder.body(Full::new(body)).expect("a test's path is a path")
}

async fn read(plan: &Plan, answer: Response<Incoming>) -> Result<Got, Failure> {
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| match error.downcast_ref::<hyper::Error>() {
        Some(error) => of_hyper(error),
        None => Failure::Other(error.to_string()),
    })?;
    let header = |name: &str| Some(parts.headers.get(name)?.to_str().ok()?.to_owned());
    let version = if plan.version_at.starts_with('/') {
        let body: Option<serde_json::Value> = serde_json::from_slice(&body.to_bytes()).ok();
        body.and_then(|body| Some(body.pointer(&plan.version_at)?.as_str()?.to_owned()))
    } else {
        header(&plan.version_at)
    };
    Ok(Got { status: parts.status.as_u16(), version, host: header(&plan.host_at) })
}

fn of_hyper(error: &hyper::Error) -> Failure {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(error) = inner.downcast_ref::<io::Error>() {
            return of_io(error);
        }
        source = inner.source();
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Failure::Reset;
    }
    Failure::Other(error.to_string())
}

fn of_io(error: &io::Error) -> Failure {
    use io::ErrorKind as Kind;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all else is told in the system's own words"
    )]
    match error.kind() {
        Kind::ConnectionRefused => Failure::Refused,
        Kind::TimedOut => Failure::Timeout,
        Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::BrokenPipe
        | Kind::NotConnected
        | Kind::UnexpectedEof => Failure::Reset,
        _ => Failure::Other(error.to_string()),
    }
}
