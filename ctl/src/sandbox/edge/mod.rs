//! The sandbox's proxy: what nginx or HAProxy is on a real edge, small enough to come with ctl.
//!
//! ```text
//! users ──HTTP/1.1──▶ proxy: one listener per named port ──▶ table: whose turn is it ──new connection──▶ a host's app
//! agent ──HTTP/1.1──▶ control: <state>/control ──▶ division: does it hold ─▶ disk ─▶ table
//! ```
//!
//! | control | answer |
//! |---|---|
//! | `GET /weights` | `{"groups":{"blue":100},"out":[]}`; 404 where nothing was set |
//! | `PUT /weights` | the same, once it is on disk and in force; 400 with words where it does not hold |
//! | `GET /open` | `{"crm-b1":2}`: requests that are open, by host |
//! | `GET /ports` | `{"backend":"127.0.0.1:40123"}`: where it listens |
//!
//! Invariant: a division is on disk before it is in force, and in force before it is acknowledged.
//! Invariant: a host without a share gets no request that comes in later, whatever connection it comes in by.

mod control;
mod division;
mod proxy;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    task::JoinSet,
};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{TcpListenerStream, UnixListenerStream},
};

pub use control::{AskError, ask};
use table::Table;

/// How long a listener rests that could not take a connection: the process has no more descriptors.
const REST: Duration = Duration::from_millis(20);

/// The sandbox's proxy as a process of its own.
#[derive(Clone, Debug, clap::Args)]
pub struct EdgeArgs {
    /// Where its control socket and its division are; its own.
    #[arg(long)]
    pub state: PathBuf,
    /// A port that it serves: NAME=ADDRESS.
    #[arg(long, value_name = "NAME=ADDRESS", required = true)]
    pub listen: Vec<Listen>,
}

/// A named port and where it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub port: String,
    pub at: SocketAddr,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, at) = text.split_once('=').ok_or("NAME=ADDRESS is wanted")?;
        let at = at.parse().map_err(|error| format!("{at}: {error}"))?;
        Ok(Self { port: port.to_owned(), at })
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.port, self.at)
    }
}

/// The control socket of an edge with this state directory.
pub fn socket(state: &Path) -> PathBuf {
    state.join("control")
}

/// The command that runs an edge as a process.
pub fn command(ctl: &Path, args: &EdgeArgs) -> Vec<String> {
    let mut command = vec![
        ctl.display().to_string(),
        "sandbox-edge".to_owned(),
        "--state".to_owned(),
        args.state.display().to_string(),
    ];
    for listen in &args.listen {
        command.extend(["--listen".to_owned(), listen.to_string()]);
    }
    command
}

/// An edge that serves until it is dropped; with it every connection ends.
#[derive(Debug)]
pub struct Edge {
    ports: BTreeMap<String, SocketAddr>,
    served: JoinSet<()>,
}

impl Edge {
    /// Begins to serve, with the division that is on disk.
    ///
    /// # Errors
    /// An address or the socket is taken, or what is on disk does not hold.
    pub async fn start(args: &EdgeArgs) -> anyhow::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&args.state)
            .with_context(|| format!("making {}", args.state.display()))?;
        let mut listeners = BTreeMap::new();
        for Listen { port, at } in &args.listen {
            let listener =
                TcpListener::bind(at).await.with_context(|| format!("listening on {at}"))?;
            let twice = listeners.insert(port.clone(), listener).is_some();
            ensure!(!twice, "the port {port} is named twice");
        }
        let mut ports = BTreeMap::new();
        for (port, listener) in &listeners {
            ports.insert(port.clone(), listener.local_addr()?);
        }
        let control = own_socket(&socket(&args.state)).await?;
        let table = Arc::new(Table::open(&args.state, ports.clone())?);
        let mut served = JoinSet::new();
        for (port, listener) in listeners {
            served.spawn(proxy::serve(TcpListenerStream::new(listener), port, table.clone()));
        }
        served.spawn(control::serve(UnixListenerStream::new(control), table));
        Ok(Self { ports, served })
    }

    /// Where each port is served.
    pub fn ports(&self) -> &BTreeMap<String, SocketAddr> {
        &self.ports
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// One of its tasks has ended: a bug, said as it is.
    pub async fn ended(mut self) -> anyhow::Result<()> {
        match self.served.join_next().await {
            Some(ended) => ended.context("a part of the edge has ended"),
            None => Ok(()),
        }
    }
}

/// A socket that a killed edge left is in nobody's way; one that answers is.
async fn own_socket(path: &Path) -> anyhow::Result<UnixListener> {
    ensure!(UnixStream::connect(path).await.is_err(), "{} is served already", path.display());
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", path.display()));
        }
        _ => {}
    }
    UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))
}

/// Takes connections for ever; each is served by a task that ends with this one.
async fn accept<S, F: Future<Output = ()> + Send + 'static>(
    mut listener: impl Stream<Item = io::Result<S>> + Unpin,
    serve: impl Fn(S) -> F,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(taken) = listener.next() => match taken {
                Ok(stream) => { connections.spawn(serve(stream)); }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(REST).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
