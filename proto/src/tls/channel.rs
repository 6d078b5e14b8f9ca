//! The way from ctl and agents to the coordinator.
//!
//! ```text
//! call ─▶ Channel ─▶ TCP (no delay) ─▶ TLS ─▶ the server's first bytes have come ─▶ HTTP/2 with keepalive
//! ```
//!
//! In TLS 1.3 the client is done before the server has looked at its certificate; a refusal would show up as a broken
//! first call. So a connection counts as made when the server has said something: an HTTP/2 server always speaks first.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

use super::words::{is_refusal, peer_words, tls_cause};

/// For name look-up, TCP, TLS and the server's first bytes together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until the answer to a call begins. Streams may last as long as they like after that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Finds a dead path within half a minute, and keeps address translation from forgetting a quiet one.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a server may make us hold, per call and in all.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// Why there is no connection to the coordinator.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error(
        "`{address}` is not the address of a coordinator: write it like lastgood.example.com:7443"
    )]
    Address { address: String },

    #[error("cannot reach the coordinator at {address}")]
    Reach {
        address: String,
        #[source]
        source: io::Error,
    },

    #[error("the coordinator at {address} did not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout { address: String },

    #[error("what answers at {address} is not this fleet's coordinator: {why}")]
    Server { address: String, why: String },

    #[error("the coordinator at {address} refused this certificate: {why}")]
    Refused { address: String, why: String },

    #[error(
        "the coordinator at {address} closed the connection before the first call; its log says why"
    )]
    Closed { address: String },
}

/// A channel that connects at its first call, and again whenever the connection was lost.
///
/// `address` is `host:port`; the host must be among the names of the coordinator's certificate. A failed call carries
/// a [`DialError`] as a source: see [`explain`](super::explain). Must be called within a tokio runtime.
///
/// # Errors
/// [`DialError::Address`].
pub fn channel(address: &str, config: Arc<ClientConfig>) -> Result<Channel, DialError> {
    let dialler = Dialler::new(address, config)?;
    let connector = tower::service_fn(move |_| {
        let dialler = dialler.clone();
        async move { dialler.dial().await.map(TokioIo::new) }
    });
    Ok(endpoint(address)?.connect_with_connector_lazy(connector))
}

/// As [`channel`], but connects now and says why there can be no connection.
///
/// # Errors
/// [`DialError`].
pub async fn connect(address: &str, config: Arc<ClientConfig>) -> Result<Channel, DialError> {
    let dialler = Dialler::new(address, config)?;
    // Dialled here, where the error still has its type; later connections are made by the channel itself.
    let mut first = Some(dialler.clone().dial().await?);
    let connector = tower::service_fn(move |_| {
        let (first, dialler) = (first.take(), dialler.clone());
        async move {
            match first {
                Some(connection) => Ok(TokioIo::new(connection)),
                None => dialler.dial().await.map(TokioIo::new),
            }
        }
    });
    Box::pin(endpoint(address)?.connect_with_connector(connector))
        .await
        .map_err(|_| DialError::Closed { address: address.to_owned() })
}

/// Plain `http` because TLS is the connector's matter; tonic would refuse `https` with a connector of our own.
fn endpoint(address: &str) -> Result<Endpoint, DialError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| DialError::Address { address: address.to_owned() })?;
    Ok(endpoint
        .timeout(ANSWER_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADERS_BYTES_MAX))
}

/// Makes one connection at a time, whole or with a reason.
#[derive(Clone)]
struct Dialler {
    address: String,
    host: String,
    port: u16,
    server_name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Dialler {
    fn new(address: &str, config: Arc<ClientConfig>) -> Result<Self, DialError> {
        let refused = || DialError::Address { address: address.to_owned() };
        let (host, port) = address.rsplit_once(':').ok_or_else(refused)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().map_err(|_| refused())?;
        let server_name = ServerName::try_from(host.to_owned()).map_err(|_| refused())?;
        Ok(Self { address: address.to_owned(), host: host.to_owned(), port, server_name, config })
    }

    async fn dial(self) -> Result<BufReader<TlsStream<TcpStream>>, DialError> {
        let address = self.address.clone();
        // Boxed, as below: a connection in the making would swell every future that awaits one.
        match tokio::time::timeout(CONNECT_TIMEOUT, Box::pin(self.dial_unbounded())).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Timeout { address }),
        }
    }

    async fn dial_unbounded(self) -> Result<BufReader<TlsStream<TcpStream>>, DialError> {
        let Self { address, host, port, server_name, config } = self;
        let unreached = |source| DialError::Reach { address: address.clone(), source };
        let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(unreached)?;
        // Calls are small and wait for their answers.
        tcp.set_nodelay(true).map_err(unreached)?;
        let tls = TlsConnector::from(config)
            .connect(server_name, tcp)
            .await
            .map_err(|error| broken(&address, error))?;
        let mut tls = BufReader::new(tls);
        match tls.fill_buf().await {
            Ok([]) => Err(DialError::Closed { address }),
            Ok(_) => Ok(tls),
            Err(error) => Err(broken(&address, error)),
        }
    }
}

fn broken(address: &str, error: io::Error) -> DialError {
    let address = address.to_owned();
    match tls_cause(&error) {
        Some(tls) if is_refusal(tls) => DialError::Refused { address, why: peer_words(tls) },
        Some(tls) => DialError::Server { address, why: peer_words(tls) },
        None if error.kind() == io::ErrorKind::UnexpectedEof => DialError::Closed { address },
        None => DialError::Reach { address, source: error },
    }
}
