//! The door for root on the host: a Unix socket in the state directory.
//!
//! ```text
//! accept ─▶ SO_PEERCRED: root or the agent's own user, else closed ─▶ one line in ─▶ Service ─▶ lines out
//! ```
//!
//! Invariant: the socket is its owner's only (0600) from the moment that it has its name.
//! Invariant: who is at the other end is the kernel's word; a line is bounded in length and time.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
};

use super::{
    Service,
    wire::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, Request, Response},
};
use crate::hands::Hands;

/// The socket's name in the state directory.
const NAME: &str = "local.sock";
/// People and scripts on one host.
const TALKS_AT_ONCE: usize = 8;
/// How long a request may take to come, once its talk was taken.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one answer may wait for its reader.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers that wait for the connection.
const ANSWERS_QUEUED_MAX: usize = 64;
/// When the process is out of descriptors, accepting again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a talk came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    #[error("no agent listens at {}", path.display())]
    Absent { path: PathBuf },
    #[error("the agent does not let this user in at {}; be root", path.display())]
    NotAllowed { path: PathBuf },
    #[error("talking to the agent")]
    Io(#[source] io::Error),
    #[error("the agent said what this version does not understand; use the agent's own binary")]
    Content(#[source] serde_json::Error),
    #[error(
        "the agent broke off; what was begun goes on, or is looked at when it starts: agent local status"
    )]
    BrokenOff,
}

/// Where the socket of an agent is.
pub fn path(state: &Path) -> PathBuf {
    state.join(NAME)
}

/// Listens. The caller holds the ledger's lock, so that a socket that is there already is a dead agent's.
pub fn bind(state: &Path) -> io::Result<UnixListener> {
    let (new, path) = (state.join(format!("{NAME}.new")), path(state));
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    std::fs::rename(&new, &path)?;
    Ok(listener)
}

/// Answers for ever.
pub async fn serve<H: Hands>(listener: UnixListener, service: Service<H>) {
    let talks = Arc::new(Semaphore::new(TALKS_AT_ONCE));
    loop {
        let Ok(turn) = talks.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot take a local talk");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = service.clone();
        tokio::spawn(async move {
            if let Err(error) = talk(stream, &service).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "a local talk broke off");
            }
            drop(turn);
        });
    }
}

/// Whether a user may ask anything.
fn may(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

async fn talk<H: Hands>(stream: UnixStream, service: &Service<H>) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(REQUEST_BYTES_MAX as u64));
    tokio::time::timeout(REQUEST_TIMEOUT, read.read_line(&mut line)).await??;
    let (say, mut answers) = mpsc::channel(ANSWERS_QUEUED_MAX);
    match serde_json::from_str::<Request>(&line) {
        _ if !may(uid) => {
            tracing::warn!(uid, "a local talk was refused: not root");
            let why = "only root is let in".to_owned();
            drop(say.try_send(Response::Refused { why }));
            drop(say);
        }
        Ok(request) => {
            let service = service.clone();
            tokio::spawn(async move { service.answer(request, &say).await });
        }
        Err(error) => {
            let why = format!("not a request that this agent understands: {error}");
            drop(say.try_send(Response::Refused { why }));
            drop(say);
        }
    }
    while let Some(answer) = answers.recv().await {
        let mut bytes = serde_json::to_vec(&answer)?;
        bytes.push(b'\n');
        tokio::time::timeout(WRITE_TIMEOUT, write.write_all(&bytes)).await??;
    }
    Ok(())
}

/// A talk with the agent of a state directory.
#[derive(Debug)]
pub struct Talk {
    answers: BufReader<tokio::net::unix::OwnedReadHalf>,
    _write: tokio::net::unix::OwnedWriteHalf,
}

impl Talk {
    /// Asks. [`TalkError::Absent`] where no agent runs.
    pub async fn begin(state: &Path, request: &Request) -> Result<Self, TalkError> {
        let path = path(state);
        let stream = UnixStream::connect(&path).await.map_err(|error| {
            let is = |kind| error.kind() == kind;
            if is(io::ErrorKind::NotFound) || is(io::ErrorKind::ConnectionRefused) {
                TalkError::Absent { path: path.clone() }
            } else if is(io::ErrorKind::PermissionDenied) {
                TalkError::NotAllowed { path: path.clone() }
            } else {
                TalkError::Io(error)
            }
        })?;
        let (read, mut write) = stream.into_split();
        let mut line = serde_json::to_vec(request).map_err(TalkError::Content)?;
        line.push(b'\n');
        write.write_all(&line).await.map_err(TalkError::Io)?;
        Ok(Self { answers: BufReader::new(read), _write: write })
    }

    /// The next answer.
    pub async fn next(&mut self) -> Result<Response, TalkError> {
        let mut line = String::new();
        let mut bounded = (&mut self.answers).take(RESPONSE_BYTES_MAX as u64);
        bounded.read_line(&mut line).await.map_err(TalkError::Io)?;
        if line.is_empty() {
            return Err(TalkError::BrokenOff);
        }
        serde_json::from_str(&line).map_err(TalkError::Content)
    }
}
