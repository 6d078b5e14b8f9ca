//! The coordinator's door: TCP in, connections of known peers out.
//!
//! ```text
//! listener ─▶ handshake, each in a task of its own, bounded in number and time ─▶ Connections ─▶ tonic
//!                └─▶ refused: who, and why in words, in the log                     └─ ConnectInfo = Peer
//! ```
//!
//! Invariant: what comes out has shown a certificate of our CA and domain, and [`Peer`] is what it says; or it has
//! shown none, is nobody, and is held to a short time and few bytes.
//! Invariant: no connection outlives the certificate that it was made with.
//! Invariant: a peer that is slow, silent or hostile in its handshake delays nobody else.
//! Invariant: a new certificate of our own is taken up without a restart; one that cannot be used changes nothing.

mod limits;
mod tls;

use std::{
    convert::Infallible,
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use proto::tls::{IdentityDir, IdentityError, PeerIdentity, TlsError};
use rustls::CertificateError;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, mpsc},
    time::Sleep,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use self::{
    limits::{Limits, Place},
    tls::Tls,
};

/// A whole fleet may come back at once after a restart; the kernel may cap it (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;
/// A handshake is two round trips and half a millisecond of work.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bounds what strangers can make us hold; 10,000 agents still pass in seconds.
const HANDSHAKES_AT_ONCE: usize = 512;
/// How long a connection without a certificate lasts: a join is one call.
const STRANGER_TIME: Duration = Duration::from_secs(15);
/// What such a connection may send in all: a join has some two KiB, HTTP/2 around it as much again.
const STRANGER_BYTES_MAX: usize = 64 * 1024;
/// Made connections that wait for tonic to take them.
const READY_CONNECTIONS: usize = 64;
/// When the process is out of descriptors, accepting again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket with the identity that it shows.
pub struct Acceptor {
    listener: TcpListener,
    tls: Tls,
    limits: Arc<Limits>,
    address: SocketAddr,
}

/// Why the coordinator cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen with this certificate")]
    Tls(#[source] TlsError),
}

impl Acceptor {
    /// Listens on `address` as `own`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(address: SocketAddr, own: &IdentityDir) -> Result<Self, BindError> {
        let tls = Tls::new(own).map_err(BindError::Tls)?;
        let listen = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            // A restart must not wait for the old connections' last packets.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener = socket.listen(BACKLOG)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) =
            listen().map_err(|source| BindError::Listen { address, source })?;
        Ok(Self { listener, tls, limits: Arc::default(), address })
    }

    /// Where it listens, the port known.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to accept, for `serve_with_incoming`. Dropping the stream closes the door.
    pub fn connections(self) -> Connections {
        let (ready, connections) = mpsc::channel(READY_CONNECTIONS);
        tokio::spawn(self.run(ready));
        Connections(connections)
    }

    async fn run(mut self, ready: mpsc::Sender<Connection>) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
        loop {
            let Ok(turn) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = ready.closed() => return,
            };
            let (socket, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (tls, limits, ready) = (self.tls.now(), self.limits.clone(), ready.clone());
            tokio::spawn(async move {
                match admit(&tls, &limits, socket, address).await {
                    // Without a receiver the server is shutting down, and the peer dials again.
                    Ok(connection) => drop(ready.send(connection).await),
                    Err(refusal) => tracing::warn!(%address, "connection refused: {refusal}"),
                }
                drop(turn);
            });
        }
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Accepted connections.
#[derive(Debug)]
pub struct Connections(mpsc::Receiver<Connection>);

impl Stream for Connections {
    type Item = Result<Connection, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

/// Who is at the other end; in the extensions of every request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Nobody, where no certificate was shown.
    who: Option<Arc<PeerIdentity>>,
    address: SocketAddr,
}

impl Peer {
    /// What its certificate says, if it has shown one.
    pub fn member(&self) -> Option<&PeerIdentity> {
        self.who.as_deref()
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Some(who) => who.identity.fmt(f),
            None => write!(f, "nobody at {}", self.address),
        }
    }
}

/// A TLS connection that ends with its peer's certificate.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    end: Pin<Box<Sleep>>,
    /// What may still come in; no limit for members, whose messages have their own.
    bytes_left: Option<usize>,
    _place: Place,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A server always reads, so this is what wakes it at the end.
        if self.end.as_mut().poll(cx).is_ready() {
            tracing::info!(peer = %self.peer, "connection cut: its certificate, or a stranger's time, has ended");
            return Poll::Ready(Err(ended()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        if let Some(left) = &mut self.bytes_left {
            match left.checked_sub(count) {
                Some(still) => *left = still,
                None => {
                    tracing::warn!(peer = %self.peer, "connection cut: it sends more than a join has");
                    return Poll::Ready(Err(ended()));
                }
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.end.is_elapsed() {
            return Poll::Ready(Err(ended()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end.is_elapsed() {
            return Poll::Ready(Err(ended()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{}", proto::tls::peer_words(.0))]
    Tls(rustls::Error),
    #[error("no handshake within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    #[error("its certificate names nobody of the fleet: {0}")]
    Identity(IdentityError),
    #[error("{0}")]
    Full(limits::Full),
    #[error("the connection broke during the handshake: {0}")]
    Broken(io::Error),
}

async fn admit(
    tls: &TlsAcceptor,
    limits: &Arc<Limits>,
    socket: TcpStream,
    address: SocketAddr,
) -> Result<Connection, Refusal> {
    // tonic's own setting does not reach sockets that it did not accept.
    socket.set_nodelay(true).map_err(Refusal::Broken)?;
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(socket)).await {
        Ok(handshake) => handshake.map_err(refusal)?,
        Err(_) => return Err(Refusal::Timeout),
    };
    // The verifiers have seen to chain, domain and role already; here it is only read.
    let Some(certificate) = stream.get_ref().1.peer_certificates().and_then(<[_]>::first) else {
        let place = limits.stranger().map_err(Refusal::Full)?;
        let end = Box::pin(tokio::time::sleep(STRANGER_TIME));
        let (peer, bytes_left) = (Peer { who: None, address }, Some(STRANGER_BYTES_MAX));
        return Ok(Connection { stream, peer, end, bytes_left, _place: place });
    };
    let who = PeerIdentity::from_der(certificate).map_err(Refusal::Identity)?;
    let left = time_until(who.not_after_unix_ms);
    if left.is_zero() {
        // X.509 lets a certificate live through its last second; the cut below does not.
        return Err(Refusal::Tls(CertificateError::Expired.into()));
    }
    let place = limits.member(&who.identity).map_err(Refusal::Full)?;
    let end = Box::pin(tokio::time::sleep(left));
    let peer = Peer { who: Some(Arc::new(who)), address };
    Ok(Connection { stream, peer, end, bytes_left: None, _place: place })
}

fn refusal(error: io::Error) -> Refusal {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(cause) => Refusal::Tls(cause.clone()),
        None => Refusal::Broken(error),
    }
}

/// Taken once, by the wall clock; a later jump of that clock cuts nothing early.
fn time_until(unix_ms: i64) -> Duration {
    let end = Duration::from_millis(u64::try_from(unix_ms).unwrap_or(0));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    end.saturating_sub(now)
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the peer's certificate or time has ended")
}

#[cfg(test)]
mod tests;
