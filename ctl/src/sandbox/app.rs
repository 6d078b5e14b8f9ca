//! The sandbox's app: one small HTTP service that is what its live tree says.
//!
//! ```text
//! <tree>/<service>/version           what it answers as its version
//! <tree>/<service>/behaviour.json    {"error_rate": 0.25, "after": 40}: the share of requests that fail, and after how
//!                                    many good ones that begins: what shows only under load
//! <tree>/uploads/outage              while it is there, what the app depends on is down: a third of the requests fail
//! <tree>/.env.production             must hold the keys that the app needs
//! ```
//!
//! Invariant: but for the outage, version and behaviour are read once, when it starts: what it answers proves what was on disk then.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Bytes, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpListener;

/// The span that the error rate is taken over, as the app that it stands for does.
const WINDOW: Duration = Duration::from_secs(10);
/// Above this the app calls itself degraded.
const DEGRADED_ABOVE: f64 = 0.10;
/// The share of requests that fail while what the app depends on is down.
const OUTAGE_RATE: f64 = 0.34;
/// Keys without which the app does not start.
const REQUIRED: [&str; 3] = ["SUPABASE_URL", "JWT_SECRET", "STRIPE_SECRET_KEY"];

/// One service of the app.
#[derive(Clone, Debug, clap::Args)]
pub struct AppArgs {
    /// The live tree.
    #[arg(long)]
    tree: PathBuf,
    /// Which of its services.
    #[arg(long)]
    service: String,
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Behaviour {
    error_rate: f64,
    #[serde(default)]
    after: u64,
}

#[derive(Debug)]
struct App {
    service: String,
    version: String,
    behaviour: Behaviour,
    outage: PathBuf,
    answers: Mutex<Answers>,
}

#[derive(Debug, Default)]
struct Answers {
    count: u64,
    /// When, and whether it failed.
    recent: VecDeque<(Instant, bool)>,
}

/// Serves until it is ended.
pub(super) async fn serve(args: AppArgs) -> anyhow::Result<()> {
    let app = Arc::new(App::read(&args.tree, &args.service)?);
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listening on {}", args.listen))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let app = app.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let app = app.clone();
                async move { Ok::<_, Infallible>(app.answer(&request)) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = served.await {
                tracing::debug!(%error, "a client went away");
            }
        });
    }
}

impl App {
    fn read(tree: &Path, service: &str) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = tree.join(service).join(name);
            std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let env = std::fs::read_to_string(tree.join(".env.production"))
            .context("reading .env.production")?;
        for key in REQUIRED {
            let set = env
                .lines()
                .filter_map(|line| line.split_once('='))
                .any(|(k, v)| k == key && !v.is_empty());
            if !set {
                bail!("{key} is not set in .env.production");
            }
        }
        let version = read("version")?.trim().to_owned();
        let behaviour = serde_json::from_str(&read("behaviour.json")?).context("behaviour.json")?;
        let (service, outage) = (service.to_owned(), tree.join("uploads/outage"));
        Ok(Self { service, version, behaviour, outage, answers: Mutex::default() })
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.uri().path() == "/api/health" {
            return self.health();
        }
        let failed = self.count();
        let body =
            serde_json::json!({ "service": self.service, "version": self.version, "ok": !failed });
        let status = if failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        json(status, &body)
    }

    fn health(&self) -> Response<Full<Bytes>> {
        let rate = self.rate();
        let status = if rate > DEGRADED_ABOVE { "degraded" } else { "healthy" };
        let body = serde_json::json!({
            "status": status,
            "errorRate": rate,
            "version": self.version,
            "service": self.service,
        });
        json(StatusCode::OK, &body)
    }

    /// Counts a request; says whether it is one of those that fail: of every hundred, evenly spread.
    fn count(&self) -> bool {
        let down = self.outage.exists();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.count += 1;
        let Behaviour { error_rate, after } = self.behaviour;
        let rate = if down { OUTAGE_RATE } else { error_rate };
        let counted = if down { answers.count } else { answers.count.saturating_sub(after) };
        #[expect(clippy::cast_precision_loss, reason = "a sandbox does not live for 2^53 requests")]
        let so_far = |count: u64| (count as f64 * rate).floor();
        let failed = counted > 0 && so_far(counted) > so_far(counted - 1);
        answers.recent.push_back((Instant::now(), failed));
        failed
    }

    fn rate(&self) -> f64 {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        while answers.recent.front().is_some_and(|(at, _)| at.elapsed() > WINDOW) {
            answers.recent.pop_front();
        }
        let failed = answers.recent.iter().filter(|(_, failed)| *failed).count();
        #[expect(clippy::cast_precision_loss, reason = "ten seconds of requests")]
        let rate = failed as f64 / answers.recent.len().max(1) as f64;
        (rate * 1000.0).round() / 1000.0
    }
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}
