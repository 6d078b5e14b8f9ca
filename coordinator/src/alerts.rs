//! Alerts that are posted: the webhook of Prometheus' Alertmanager, version 4 of its body.
//!
//! ```text
//! POST /v1/alerts ─▶ token ─▶ rate ─▶ size ─▶ body ─▶ for each alert that fires: which fleet ─▶ Triggers::alerted ─▶ what was done
//! ```
//!
//! | answer | when |
//! |---|---|
//! | 200 | every alert was taken: `{"alerts":[{"alert":…,"fleet":…,"did":…}]}` |
//! | 400 | the body is not what Alertmanager sends |
//! | 401 | no token, or another one |
//! | 404, 405 | another path, another method |
//! | 413 | the body is larger than 1 MiB |
//! | 422 | an alert names no fleet, or one that is not known; those that do were taken |
//! | 429 | too many at once: Alertmanager sends it again |
//! | 503 | what followed could not be written down, or takes its time: Alertmanager sends it again |
//!
//! The fleet is the alert's label `fleet`, or `?fleet=` of the URL. An alert by the name of a trigger's source does what
//! that trigger says; any other one proposes a rollback.
//!
//! Invariant: without a token nothing is read; the token is compared in constant time, and never logged.
//! Invariant: an address that others can reach is served over TLS only.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use engine::trigger::TriggerSeverity;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use proto::tls::{IdentityDir, server_config};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

use crate::triggers::{Alerted, Triggers};

/// The path that is served.
pub const PATH: &str = "/v1/alerts";
/// The largest body.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Alerts that one body holds at most.
const ALERTS_MAX: usize = 1000;
/// Connections at a time.
const CONNECTIONS_MAX: usize = 32;
/// How long a request may take to come and to be answered.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that are answered at once, and how soon one more is.
const BURST: f64 = 20.0;
const PER_SECOND: f64 = 2.0;
/// The shortest token: what can be guessed is none.
const TOKEN_BYTES_MIN: usize = 16;

/// Where alerts are taken, and whose.
#[derive(Clone, Debug)]
pub struct AlertsConfig {
    pub listen: SocketAddr,
    pub token_file: PathBuf,
}

/// A listener for alerts.
#[expect(missing_debug_implementations, reason = "it holds a token")]
pub struct Alerts {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    desk: Arc<Desk>,
}

impl Alerts {
    /// Listens.
    ///
    /// # Errors
    /// The token cannot be read or is too short; the address is taken.
    pub async fn bind(
        config: &AlertsConfig,
        identity: &IdentityDir,
        triggers: Arc<Triggers>,
    ) -> anyhow::Result<Self> {
        let token = read_token(&config.token_file)?;
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("listening for alerts on {}", config.listen))?;
        let tls = if config.listen.ip().is_loopback() {
            None
        } else {
            let mut own = server_config(identity).context("the certificate for alerts")?;
            own.alpn_protocols = vec![b"http/1.1".to_vec()];
            Some(TlsAcceptor::from(Arc::new(own)))
        };
        let desk = Desk { token: blake3::hash(token.as_bytes()), triggers, rate: Rate::default() };
        Ok(Self { listener, tls, desk: Arc::new(desk) })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves for as long as the coordinator lives.
    pub async fn run(self) {
        let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(seat) = seats.clone().acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "no connection for alerts can be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (tls, desk) = (self.tls.clone(), self.desk.clone());
            tokio::spawn(async move {
                if let Err(error) = connection(stream, tls, desk).await {
                    tracing::debug!(%error, "a connection for alerts ended");
                }
                drop(seat);
            });
        }
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    desk: Arc<Desk>,
) -> anyhow::Result<()> {
    match tls {
        None => serve(stream, desk).await,
        Some(tls) => {
            serve(tokio::time::timeout(REQUEST_TIMEOUT, tls.accept(stream)).await??, desk).await
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, desk: Arc<Desk>) -> anyhow::Result<()> {
    let answer = service_fn(|request| {
        let desk = desk.clone();
        async move { Ok::<_, Infallible>(desk.answer(request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT);
    Ok(http.serve_connection(TokioIo::new(stream), answer).await?)
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the token for alerts, {}", path.display()))?;
    let token = text.trim();
    ensure!(
        token.len() >= TOKEN_BYTES_MIN,
        "the token for alerts, {}, is shorter than {TOKEN_BYTES_MIN} characters: write another, e.g. `openssl rand -hex 32`",
        path.display()
    );
    Ok(token.to_owned())
}

/// Who answers.
struct Desk {
    token: blake3::Hash,
    triggers: Arc<Triggers>,
    rate: Rate,
}

/// What Alertmanager sends, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Webhook {
    version: String,
    alerts: Vec<Alert>,
}

#[derive(Debug, Deserialize)]
struct Alert {
    status: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default, rename = "startsAt")]
    starts_at: String,
    #[serde(default)]
    fingerprint: String,
}

/// Alerts, and the fleet that the URL names.
type Posted = (Vec<Alert>, Option<String>);

#[derive(Debug, Serialize)]
struct Done {
    alert: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<String>,
    did: String,
}

impl Desk {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let taken = tokio::time::timeout(REQUEST_TIMEOUT, self.taken(request)).await;
        let (status, body) = match taken {
            Ok(Ok((alerts, fleet))) => self.in_time(alerts, fleet).await,
            Ok(Err(refused)) => refused,
            Err(_) => (StatusCode::REQUEST_TIMEOUT, said("the request did not come in time")),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let json = hyper::header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        if status == StatusCode::TOO_MANY_REQUESTS {
            response
                .headers_mut()
                .insert(RETRY_AFTER, hyper::header::HeaderValue::from_static("5"));
        }
        response
    }

    /// What follows goes through to its end, whether or not the caller waits for it. Alertmanager does not send again what
    /// was answered with 408.
    async fn in_time(
        self: Arc<Self>,
        alerts: Vec<Alert>,
        fleet: Option<String>,
    ) -> (StatusCode, String) {
        let follows = tokio::spawn(async move { self.alerted(alerts, fleet).await });
        match tokio::time::timeout(REQUEST_TIMEOUT, follows).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::error!(%error, "alerts were not followed to the end");
                (StatusCode::SERVICE_UNAVAILABLE, said("a defect: see the coordinator's log"))
            }
            Err(_) => {
                let what = "what follows is not done yet, and goes on: send it again later";
                (StatusCode::SERVICE_UNAVAILABLE, said(what))
            }
        }
    }

    /// The alerts of a request and the fleet of its URL, or the answer that refuses it.
    async fn taken(&self, request: Request<Incoming>) -> Result<Posted, (StatusCode, String)> {
        if request.uri().path() != PATH {
            return Err((StatusCode::NOT_FOUND, said(&format!("only {PATH} is served here"))));
        }
        if request.method() != Method::POST {
            return Err((StatusCode::METHOD_NOT_ALLOWED, said("alerts are posted")));
        }
        if !self.knows(&request) {
            tracing::warn!("an alert without the token was refused");
            return Err((
                StatusCode::UNAUTHORIZED,
                said("the bearer token is missing, or another one"),
            ));
        }
        if !self.rate.allows(Instant::now()) {
            return Err((StatusCode::TOO_MANY_REQUESTS, said("too many requests at once")));
        }
        let fleet = query(request.uri().query().unwrap_or_default(), "fleet");
        let body = match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                return Err((StatusCode::PAYLOAD_TOO_LARGE, said(&format!("the body: {error}"))));
            }
        };
        let webhook: Webhook = match serde_json::from_slice(&body) {
            Ok(webhook) => webhook,
            Err(error) => {
                let what = format!("the body is not what Alertmanager sends: {error}");
                return Err((StatusCode::BAD_REQUEST, said(&what)));
            }
        };
        if webhook.version != "4" || webhook.alerts.len() > ALERTS_MAX {
            let what = format!(
                "version {} with {} alerts: version 4 with at most {ALERTS_MAX} is read",
                webhook.version,
                webhook.alerts.len()
            );
            return Err((StatusCode::BAD_REQUEST, said(&what)));
        }
        Ok((webhook.alerts, fleet))
    }

    async fn alerted(&self, alerts: Vec<Alert>, by_url: Option<String>) -> (StatusCode, String) {
        let (mut rows, mut status) = (Vec::new(), StatusCode::OK);
        for alert in alerts {
            let name = alert.labels.get("alertname").cloned().unwrap_or_default();
            let fleet = alert.labels.get("fleet").cloned().or_else(|| by_url.clone());
            if alert.status != "firing" {
                let did = "nothing: it is resolved".to_owned();
                rows.push(Done { alert: name, fleet, did });
                continue;
            }
            let alerted = Alerted {
                fleet: fleet.clone().unwrap_or_default(),
                severity: severity(alert.labels.get("severity").map(String::as_str)),
                summary: ["summary", "description"]
                    .iter()
                    .find_map(|key| alert.annotations.get(*key).cloned())
                    .unwrap_or_default(),
                once: format!("{}@{}", alert.fingerprint, alert.starts_at),
                name: name.clone(),
            };
            let did = match self.triggers.alerted(alerted).await {
                Ok(did) => did,
                Err(refused) if refused.is_lasting() => {
                    status = status.max(StatusCode::UNPROCESSABLE_ENTITY);
                    refused.to_string()
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "an alert");
                    status = StatusCode::SERVICE_UNAVAILABLE;
                    error.to_string()
                }
            };
            rows.push(Done { alert: name, fleet, did });
        }
        let body = serde_json::json!({ "alerts": rows });
        (status, body.to_string())
    }

    fn knows(&self, request: &Request<Incoming>) -> bool {
        let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer "));
        // Hashes are compared in constant time.
        token.is_some_and(|token| blake3::hash(token.trim().as_bytes()) == self.token)
    }
}

fn said(what: &str) -> String {
    serde_json::json!({ "error": what }).to_string()
}

/// How bad an alert is, by the usual words of its label; high where it does not say.
fn severity(label: Option<&str>) -> TriggerSeverity {
    match label.unwrap_or_default() {
        "critical" | "page" | "emergency" => TriggerSeverity::Critical,
        "warning" | "low" | "info" | "none" => TriggerSeverity::Low,
        _ => TriggerSeverity::High,
    }
}

/// One value of a URL's query. Names of fleets need no escapes.
fn query(text: &str, wanted: &str) -> Option<String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned())
}

/// A bucket that fills again with time.
#[derive(Default)]
struct Rate(Mutex<Option<(f64, Instant)>>);

impl Rate {
    fn allows(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, since) = state.unwrap_or((BURST, now));
        let filled = now.saturating_duration_since(since).as_secs_f64() * PER_SECOND;
        let left = (left + filled).min(BURST);
        let allowed = left >= 1.0;
        *state = Some((if allowed { left - 1.0 } else { left }, now));
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_then_so_many_a_second() {
        let (rate, begin) = (Rate::default(), Instant::now());
        let taken = (0..100).filter(|_| rate.allows(begin)).count();
        assert_eq!(taken, 20);
        assert!(!rate.allows(begin + Duration::from_millis(400)));
        assert!(rate.allows(begin + Duration::from_millis(600)));
    }

    #[test]
    fn what_a_url_and_a_label_say() {
        assert_eq!(query("fleet=prod", "fleet").as_deref(), Some("prod"));
        assert_eq!(query("a=b&fleet=x", "fleet").as_deref(), Some("x"));
        assert_eq!(query("", "fleet"), None);
        assert_eq!(severity(Some("critical")), TriggerSeverity::Critical);
        assert_eq!(severity(Some("warning")), TriggerSeverity::Low);
        assert_eq!(severity(None), TriggerSeverity::High);
    }
}
