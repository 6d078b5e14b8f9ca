//! One service: reads its tree once, writes that down, and answers HTTP.
//!
//! ```text
//! GET  /api/health      {"status", "errorRate", "version", "service"}
//! POST /api/auth/test   200        GET /api/users/me   200 with the bearer `test-token`, else 401
//! GET  /api/contacts    a list     everything else     200
//! GET  /metrics         what was counted of all of these but the health check   (metrics.rs)
//! ```
//!
//! Every answer has `x-ace-version` and `x-ace-host`.

use std::{
    collections::VecDeque,
    fs,
    io::Write as _,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use crate::{
    metrics::Metrics,
    tree::{self, Fault, Found},
};

/// The span that the error rate is taken over.
const WINDOW: Duration = Duration::from_secs(10);
/// Above this the app calls itself degraded.
const DEGRADED_ABOVE: f64 = 0.10;
/// Versions that this host lacks something for, outside of their tree.
const BROKEN: &str = "/etc/ace-crm/broken";
/// Versions that start on this host, and are not healthy.
const UNHEALTHY: &str = "/etc/ace-crm/unhealthy";
/// Versions of which every fourth request fails, health checks too, for as long as they stand here.
const FAILING: &str = "/etc/ace-crm/failing";
const TOKEN: &str = "authorization: bearer test-token";
const HEAD_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug)]
struct Service {
    name: String,
    host: String,
    found: Found,
    healthy: bool,
    answers: Mutex<Answers>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Answers {
    count: u32,
    recent: VecDeque<(Instant, bool)>,
}

/// Serves until it is told to stop.
pub(crate) fn run(dir: &Path, name: &str, listen: SocketAddr, starts: &Path) -> anyhow::Result<()> {
    let found = tree::read(dir);
    write_down(starts, name, &found).with_context(|| format!("writing {}", starts.display()))?;
    let found = found?;
    let broken = is_in(BROKEN, &found.version);
    anyhow::ensure!(!broken, "{} does not run on this host any more", found.version);
    let healthy = !is_in(UNHEALTHY, &found.version) && found.fault != Some(Fault::Health500);
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
    let (name, answers, metrics) = (name.to_owned(), Mutex::default(), Metrics::default());
    let service = Service { name, host, found, healthy, answers, metrics };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(Arc::new(service), dir, listen))
}

/// Whether a version stands in a list of this host.
fn is_in(list: &str, version: &str) -> bool {
    fs::read_to_string(list).unwrap_or_default().lines().any(|line| line == version)
}

/// One line, which a power cut does not take away.
fn write_down(starts: &Path, name: &str, found: &anyhow::Result<Found>) -> anyhow::Result<()> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let on = match found {
        Ok(found) => found.releases.iter().cloned().collect::<Vec<_>>().join("+"),
        Err(error) => format!("nothing: {error:#}"),
    };
    if let Some(dir) = starts.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = fs::File::options().create(true).append(true).open(starts)?;
    file.write_all(format!("{} {name} {on}\n", boot.trim()).as_bytes())?;
    file.sync_all()?;
    Ok(())
}

async fn serve(service: Arc<Service>, dir: &Path, listen: SocketAddr) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
    let mut told_to_stop = signal(SignalKind::terminate())?;
    let log = dir.join("logs").join(format!("{}.log", service.name));
    fs::create_dir_all(dir.join("logs"))?;
    let mut log = fs::File::options().create(true).append(true).open(log)?;
    writeln!(log, "{} serves {}", service.name, service.found.version)?;
    let crashes = service.found.fault == Some(Fault::CrashLoop);
    let end = async {
        if crashes { sleep(Duration::from_millis(400)).await } else { std::future::pending().await }
    };
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => anyhow::bail!("a fault of this release"),
            _ = told_to_stop.recv() => match service.found.fault {
                Some(Fault::IgnoresTerm) => {}
                Some(Fault::SlowStop) => {
                    sleep(Duration::from_secs(8)).await;
                    return Ok(());
                }
                _ => return Ok(()),
            },
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let service = service.clone();
                // A client that goes away is no concern of the app's.
                tokio::spawn(async move { service.answer(stream).await.ok() });
            }
        }
    }
}

impl Service {
    async fn answer(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        let Some(head) = head(&mut stream).await? else { return Ok(()) };
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let begun = Instant::now();
        let (status, body) = if path == "/metrics" {
            (200, self.metrics.text())
        } else if path == "/api/health" {
            self.health()
        } else {
            match self.found.fault {
                Some(Fault::Slow) => sleep(Duration::from_secs(1)).await,
                Some(Fault::Hang) => std::future::pending().await,
                Some(_) | None => {}
            }
            let answer = self.request(method, path, &head);
            self.metrics.answered(answer.0, begun.elapsed());
            answer
        };
        let kind =
            if path == "/metrics" { "text/plain; version=0.0.4" } else { "application/json" };
        let answer = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\
             x-ace-version: {}\r\nx-ace-host: {}\r\nconnection: close\r\n\r\n{body}",
            body.len(),
            self.found.version,
            self.host
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        Ok(())
    }

    fn request(&self, method: &str, path: &str, head: &str) -> (u16, String) {
        if self.fails() {
            return (500, r#"{"error":"a fault of this release"}"#.to_owned());
        }
        let known = head.to_ascii_lowercase().contains(TOKEN);
        match (method, path) {
            ("POST", "/api/auth/test") => (200, r#"{"ok":true}"#.to_owned()),
            (_, "/api/users/me") if known => (200, r#"{"name":"test"}"#.to_owned()),
            (_, "/api/users/me") => (401, r#"{"error":"who are you"}"#.to_owned()),
            (_, "/api/contacts") => (200, r#"[{"id":1},{"id":2}]"#.to_owned()),
            _ => (200, format!(r#"{{"service":"{}"}}"#, self.name)),
        }
    }

    fn health(&self) -> (u16, String) {
        let rate = if self.found.fault == Some(Fault::Lie) { 0.0 } else { self.rate() };
        let status = if rate > DEGRADED_ABOVE { "degraded" } else { "healthy" };
        let fails = is_in(FAILING, &self.found.version) && self.fails();
        let code = if self.healthy && !fails { 200 } else { 500 };
        let body = serde_json::json!({
            "status": status,
            "errorRate": rate,
            "version": self.found.version,
            "service": self.name,
        });
        (code, body.to_string())
    }

    /// Whether this request is one of those that fail; evenly spread, where it is not by chance.
    fn fails(&self) -> bool {
        let percent = match self.found.fault {
            Some(Fault::ErrorRate) => 25,
            Some(Fault::ErrorsByChance) => {
                if rand::random_ratio(25, 100) {
                    100
                } else {
                    0
                }
            }
            Some(Fault::Lie) => 30,
            Some(_) | None if is_in(FAILING, &self.found.version) => 25,
            Some(_) | None => 0,
        };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let before = answers.count * percent / 100;
        answers.count += 1;
        let failed = answers.count * percent / 100 > before;
        answers.recent.push_back((Instant::now(), failed));
        failed
    }

    fn rate(&self) -> f64 {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        while answers.recent.front().is_some_and(|(at, _)| at.elapsed() > WINDOW) {
            answers.recent.pop_front();
        }
        let failed = answers.recent.iter().filter(|(_, failed)| *failed).count();
        let all = answers.recent.len().max(1);
        f64::from(u32::try_from(failed * 1000 / all).unwrap_or(u32::MAX)) / 1000.0
    }
}

/// A request's head; its body, which no answer depends on, is read as well.
async fn head(stream: &mut TcpStream) -> anyhow::Result<Option<String>> {
    let mut bytes = Vec::new();
    loop {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await?;
        if read == 0 || bytes.len() > HEAD_BYTES_MAX {
            return Ok(None);
        }
        bytes.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return Ok(Some(head.to_owned()));
            }
        }
    }
}
