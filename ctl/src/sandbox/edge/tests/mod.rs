//! The edge before servers of its own: real sockets on loopback, in this process.

mod control;
mod forwarded;
mod split;

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http_body_util::{Either, Full};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};

use super::{Edge, EdgeArgs, Listen, ask, socket};

/// One app of a host. `/hold` answers when it is let go, `/echo` gives back what comes as it comes, all else its name.
pub(super) struct Toy {
    pub(super) address: SocketAddr,
    pub(super) requests: Arc<AtomicUsize>,
    pub(super) gate: Arc<Semaphore>,
    /// What each request brought along.
    pub(super) seen: mpsc::UnboundedReceiver<(String, HeaderMap)>,
    task: JoinHandle<()>,
}

impl Toy {
    pub(super) async fn start(host: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, gate) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
        let (sender, seen) = mpsc::unbounded_channel();
        let (count, held) = (requests.clone(), gate.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (count, held, sender) = (count.clone(), held.clone(), sender.clone());
                tokio::spawn(async move {
                    let answer = service_fn(|request: Request<Incoming>| async {
                        count.fetch_add(1, Ordering::Relaxed);
                        let path = request.uri().to_string();
                        sender.send((path.clone(), request.headers().clone())).ok();
                        if path == "/hold" {
                            held.acquire().await.unwrap().forget();
                        }
                        let body = if path == "/echo" {
                            Either::Left(request.into_body())
                        } else {
                            Either::Right(Full::new(Bytes::from_static(host.as_bytes())))
                        };
                        let mut answer = Response::new(body);
                        answer.headers_mut().insert("connection", "x-private".parse().unwrap());
                        answer
                            .headers_mut()
                            .insert("x-private", "of the last hop".parse().unwrap());
                        answer.headers_mut().insert("x-public", "for the user".parse().unwrap());
                        Ok::<_, Infallible>(answer)
                    });
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer)
                        .await
                        .ok();
                });
            }
        });
        Self { address, requests, gate, seen, task }
    }

    pub(super) fn count(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An edge with a directory of its own, on the one port `backend`.
pub(super) struct Stand {
    pub(super) dir: TempDir,
    pub(super) edge: Option<Edge>,
}

impl Stand {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let edge = Some(start(&dir.path().join("edge")).await.unwrap());
        Self { dir, edge }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.edge.as_ref().unwrap().ports()["backend"]
    }

    pub(super) async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        ask(&socket(&self.state()), method, path, body).await.unwrap()
    }

    pub(super) async fn put(&self, body: &Value) {
        let (status, said) = self.ask("PUT", "/weights", Some(body)).await;
        assert_eq!((status, &said), (200, &body["weights"]));
    }

    pub(super) fn state(&self) -> std::path::PathBuf {
        self.dir.path().join("edge")
    }
}

pub(super) async fn start(state: &Path) -> anyhow::Result<Edge> {
    let listen = Listen { port: "backend".to_owned(), at: "127.0.0.1:0".parse().unwrap() };
    Edge::start(&EdgeArgs { state: state.to_owned(), listen: vec![listen] }).await
}

/// A division among servers: host, group, where, weight.
pub(super) fn division(
    servers: &[(&str, &str, SocketAddr, u32)],
    groups: &[(&str, u32)],
    out: &[&str],
) -> Value {
    let servers: Vec<Value> = servers
        .iter()
        .map(|(host, group, address, weight)| {
            json!({ "host": host, "group": group, "address": address, "port": "backend", "weight": weight })
        })
        .collect();
    let groups: serde_json::Map<String, Value> =
        groups.iter().map(|(group, percent)| ((*group).to_owned(), json!(percent))).collect();
    json!({ "servers": servers, "weights": { "groups": groups, "out": out } })
}

pub(super) fn client() -> reqwest::Client {
    builder().build().unwrap()
}

/// One whose every request has a connection of its own.
pub(super) fn fresh_client() -> reqwest::Client {
    builder().pool_max_idle_per_host(0).build().unwrap()
}

fn builder() -> reqwest::ClientBuilder {
    // It wants one though it asks nobody by TLS; another test may have said so already.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().no_proxy()
}
