//! Checks against real servers, sockets and commands.

mod faults;
mod many;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use proto::{policy::HttpExpect, span::Span};
use serde_json::json;
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
};

use super::{judge::QUOTED_CHARS, *};

const WANTED: &str = "1.0.0";

/// What the server gets to see of a request.
#[derive(Debug)]
struct Asked {
    /// Counts from 0.
    number: usize,
    method: String,
    path: String,
    authorization: Option<String>,
    /// `X-Probe` and `X-Key`.
    probe_and_key: [Option<String>; 2],
    content_type: Option<String>,
    body: String,
}

enum Reply {
    Now(u16, String),
    After(Duration, u16, String),
    Never,
}

/// An app that answers as it is told. It ends when this is dropped.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Server {
    async fn start(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, reply) = (Arc::new(AtomicUsize::new(0)), Arc::new(reply));
        let count = asked.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (count, reply) = (count.clone(), reply.clone());
                let service =
                    service_fn(move |request| answer(request, count.clone(), reply.clone()));
                connections
                    .spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, asked, accepting: accepting.abort_handle() }
    }

    /// Always says this.
    async fn saying(status: u16, body: serde_json::Value) -> Self {
        Self::start(move |_| Reply::Now(status, body.to_string())).await
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn probe(&self) -> HttpProbe {
        HttpProbe {
            http: format!("http://{}/health", self.address),
            method: None,
            body: None,
            bearer_file: None,
            requests: None,
            headers: Default::default(),
            header_files: Default::default(),
            expect: HttpExpect { version_at: Some("/version".into()), ..HttpExpect::default() },
        }
    }

    fn check(&self) -> CheckPolicy {
        check(ProbePolicy::Http(self.probe()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    count: Arc<AtomicUsize>,
    reply: Arc<impl Fn(&Asked) -> Reply>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let header =
        |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (authorization, content_type) = (header("authorization"), header("content-type"));
    let probe_and_key = ["x-probe", "x-key"].map(header);
    let path = request.uri().path().to_owned();
    let number = count.fetch_add(1, Ordering::SeqCst);
    let method = request.method().to_string();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let (status, body) = match reply(&Asked {
        number,
        method,
        path,
        authorization,
        probe_and_key,
        content_type,
        body,
    }) {
        Reply::Now(status, body) => (status, body),
        Reply::After(wait, status, body) => {
            tokio::time::sleep(wait).await;
            (status, body)
        }
        Reply::Never => std::future::pending().await,
    };
    let response = Response::builder().status(status).header("location", "/elsewhere");
    Ok(response.body(Full::from(body)).unwrap())
}

fn good() -> serde_json::Value {
    json!({ "status": "ok", "version": WANTED })
}

fn check(probe: ProbePolicy) -> CheckPolicy {
    let every = Span(Duration::from_millis(20));
    CheckPolicy { name: "health".into(), probe, every, pass: 2, timeout: Span::seconds(20) }
}

fn prober() -> Prober {
    // Another test may have been first.
    drop(rustls::crypto::ring::default_provider().install_default());
    Prober::new().unwrap()
}

fn wanted() -> Wanted {
    of(WANTED)
}

fn of(version: &str) -> Wanted {
    Wanted { version: Some(version.to_owned()), ..Wanted::default() }
}

async fn try_http(probe: HttpProbe) -> Tried {
    prober().try_once(&check(ProbePolicy::Http(probe)), &wanted()).await
}

/// The detail of a try that must fail.
async fn failure(probe: HttpProbe) -> String {
    let tried = try_http(probe).await;
    assert!(!tried.ok, "{tried:?}");
    tried.detail
}

#[tokio::test]
async fn p03_the_right_version_passes_and_another_does_not() {
    let server = Server::saying(200, good()).await;
    let tried = try_http(server.probe()).await;
    assert!(tried.ok, "{tried:?}");
    assert_eq!(tried.version.as_deref(), Some(WANTED));

    let server = Server::saying(200, json!({ "version": "2.0.0" })).await;
    let tried = try_http(server.probe()).await;
    assert!(
        !tried.ok && tried.detail.ends_with("→ 200, version is 2.0.0, wanted 1.0.0"),
        "{tried:?}"
    );
    assert_eq!(tried.version.as_deref(), Some("2.0.0"));
    let any = prober().try_once(&server.check(), &Wanted::default()).await;
    assert!(any.ok, "{any:?}");

    let server = Server::saying(200, json!({ "version": ["1.0.0"] })).await;
    assert!(failure(server.probe()).await.ends_with("there is no version at `/version`"));
}

#[tokio::test]
async fn a_status_that_is_not_wanted_fails() {
    let server = Server::saying(503, good()).await;
    let detail = failure(server.probe()).await;
    assert_eq!(detail, format!("GET http://{}/health → 503, wanted 200", server.address));
    let mut probe = server.probe();
    probe.expect.status = Some(503);
    assert!(try_http(probe).await.ok);
}

#[tokio::test]
async fn json_that_is_not_as_wanted_fails() {
    let server = Server::saying(
        200,
        json!({ "version": WANTED, "db": { "up": false }, "long": "x".repeat(999) }),
    )
    .await;
    let with = |pointer: &str, value| {
        let json = BTreeMap::from([(pointer.to_owned(), value)]);
        HttpProbe { expect: HttpExpect { json, ..HttpExpect::default() }, ..server.probe() }
    };
    assert!(try_http(with("/db/up", json!(false))).await.ok);
    assert!(failure(with("/db/up", json!(true))).await.ends_with("`/db/up` is false, wanted true"));
    assert!(failure(with("/queue", json!(0))).await.ends_with("`/queue` is missing, wanted 0"));
    assert!(failure(with("/long", json!("y"))).await.len() < 300);
}

#[tokio::test]
async fn an_answer_that_is_no_json_or_too_long_fails() {
    let server = Server::start(|_| Reply::Now(200, "fine".into())).await;
    assert!(failure(server.probe()).await.ends_with("the answer is not JSON"));
    let long =
        format!("{{\"version\":\"{WANTED}\",\"x\":\"{}\"}}", "x".repeat(http::BODY_BYTES_MAX));
    let server = Server::start(move |_| Reply::Now(200, long.clone())).await;
    assert!(failure(server.probe()).await.ends_with("the answer is longer than 64 KiB"));
}

#[tokio::test]
async fn a_slow_answer_fails_where_speed_is_expected() {
    let server =
        Server::start(|_| Reply::After(Duration::from_millis(60), 200, good().to_string())).await;
    let mut probe = server.probe();
    probe.expect.within = Some(Span(Duration::from_millis(20)));
    assert!(failure(probe.clone()).await.contains("wanted within 20"));
    probe.expect.within = Some(Span::seconds(20));
    assert!(try_http(probe).await.ok);
}

#[tokio::test]
async fn one_that_hangs_fails_at_its_timeout() {
    let server = Server::start(|_| Reply::Never).await;
    let hasty = CheckPolicy { timeout: Span(Duration::from_millis(50)), ..server.check() };
    let tried = prober().try_once(&hasty, &Wanted::default()).await;
    assert!(!tried.ok && tried.detail.contains("no answer within"), "{tried:?}");
    assert!(tried.took >= Duration::from_millis(50));
}

#[tokio::test]
async fn one_that_is_not_there_fails_in_the_hosts_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let tcp = check(ProbePolicy::Tcp(TcpProbe { tcp: address.clone() }));
    assert!(prober().try_once(&tcp, &Wanted::default()).await.ok);
    drop(listener);
    let tried = prober().try_once(&tcp, &Wanted::default()).await;
    assert_eq!(
        (tried.ok, tried.detail),
        (false, format!("connect {address} → connection refused"))
    );
    let mut probe = Server::saying(200, good()).await.probe();
    probe.http = format!("http://{address}/");
    assert_eq!(failure(probe).await, format!("GET http://{address}/ → connection refused"));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = Server::start(|asked| {
        Reply::Now(if asked.number == 0 { 302 } else { 200 }, good().to_string())
    })
    .await;
    assert!(failure(server.probe()).await.ends_with("→ 302, wanted 200"));
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn all_requests_of_a_try_must_pass() {
    let server = Server::start(|asked| {
        Reply::Now(if asked.number == 2 { 500 } else { 200 }, good().to_string())
    })
    .await;
    let probe = HttpProbe { requests: Some(5), ..server.probe() };
    let why = failure(probe.clone()).await;
    assert!(why.starts_with("1 of 5 failed: GET http://"), "{why}");
    assert!(why.ends_with("→ 500, wanted 200 (request 3)"), "{why}");
    assert_eq!(server.asked(), 5, "all of them are made");
    let tried = try_http(probe).await;
    assert!(tried.ok && tried.detail.contains("; 5 requests: average "), "{tried:?}");
    assert_eq!(server.asked(), 10);
}

#[tokio::test]
async fn method_and_body_are_sent() {
    let server = Server::start(|asked| {
        let json = asked.content_type.as_deref() == Some("application/json");
        let right = asked.method == "POST" && asked.body == "{\"ping\":1}" && json;
        Reply::Now(if right { 200 } else { 400 }, good().to_string())
    })
    .await;
    let probe = HttpProbe {
        method: Some("POST".into()),
        body: Some("{\"ping\":1}".into()),
        ..server.probe()
    };
    let tried = try_http(probe).await;
    assert!(tried.ok, "{tried:?}");
}

#[tokio::test]
async fn p11_a_bearer_is_read_at_each_try_and_never_shown() {
    // An app that sends back what it was sent, in every way it can.
    let server = Server::start(|asked| {
        let token = asked.authorization.clone().unwrap_or_default();
        Reply::Now(200, json!({ "version": token, "deep": [{ "token": token }] }).to_string())
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let mut probe = HttpProbe { bearer_file: Some(file.clone()), ..server.probe() };
    assert!(failure(probe.clone()).await.contains("no such file"));
    std::fs::write(&file, "\n").unwrap();
    assert!(failure(probe.clone()).await.contains("is empty"));
    // Longer than what is quoted, and with what JSON writes in its own way.
    let long = format!("hunter2\\\"{}", "hunter2".repeat(QUOTED_CHARS));
    for token in ["first-hunter2", "second-hunter2", &long] {
        std::fs::write(&file, format!("{token}\n")).unwrap();
        let sent = format!("Bearer {token}");
        probe.expect.json.clear();
        let right = prober().try_once(&check(ProbePolicy::Http(probe.clone())), &of(&sent)).await;
        assert!(right.ok, "the token in the file was not sent");
        let wrong = try_http(probe.clone()).await;
        probe.expect.json.insert("/deep".into(), json!("x"));
        for tried in [right, wrong, try_http(probe.clone()).await] {
            assert!(!format!("{tried:?}").contains("hunter2"), "{tried:?}");
        }
    }
}

#[tokio::test]
async fn a_command_passes_by_its_exit() {
    let command = |script: &str| {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        check(ProbePolicy::Command(CommandProbe { command, user: None }))
    };
    assert!(prober().try_once(&command("true"), &Wanted::default()).await.ok);
    let tried =
        prober().try_once(&command("echo no database >&2; exit 7"), &Wanted::default()).await;
    assert!(!tried.ok && tried.detail.ends_with("→ exit 7: no database"), "{tried:?}");
    let hasty = CheckPolicy { timeout: Span(Duration::from_millis(50)), ..command("sleep 600") };
    let tried = prober().try_once(&hasty, &Wanted::default()).await;
    assert!(!tried.ok && tried.detail.contains("at its deadline"), "{tried:?}");
}

#[tokio::test]
async fn what_cannot_be_judged_is_refused_and_never_passes() {
    let server = Server::saying(200, good()).await;
    let refused = |change: &dyn Fn(&mut CheckPolicy, &mut HttpProbe)| {
        let (mut check, mut probe) = (server.check(), server.probe());
        change(&mut check, &mut probe);
        CheckPolicy { probe: ProbePolicy::Http(probe), ..check }
    };
    assert_eq!(unsupported(&server.check()), None);
    let program = |command: &[&str]| {
        let command = command.iter().map(|part| (*part).to_owned()).collect();
        check(ProbePolicy::Command(CommandProbe { command, user: None }))
    };
    for (check, word) in [
        (
            refused(&|_, probe| drop(probe.headers.insert("Content-Length".into(), "1".into()))),
            "the agent's own",
        ),
        (
            refused(&|_, probe| {
                probe.bearer_file = Some("/token".into());
                probe.header_files.insert("Authorization".into(), "/token".into());
            }),
            "given twice",
        ),
        (
            refused(&|_, probe| probe.expect.at_most = BTreeMap::from([("rate".into(), 1.0)])),
            "JSON pointer",
        ),
        (refused(&|_, probe| probe.requests = Some(0)), "requests"),
        (refused(&|_, probe| probe.http = "localhost".into()), "url"),
        (refused(&|_, probe| probe.expect.version_at = Some("version".into())), "JSON pointer"),
        (refused(&|check, _| check.pass = 0), "pass"),
        (program(&["true"]), "absolute"),
        (program(&[]), "empty"),
    ] {
        let why = unsupported(&check).unwrap();
        assert!(why.contains(word), "{why}");
        let tried = prober().try_once(&check, &wanted()).await;
        assert_eq!((tried.ok, tried.detail), (false, why));
    }
    assert_eq!(server.asked(), 0);
}

// Verification over time.

const SHORT: Windows =
    Windows { ready_within: Duration::from_secs(20), stable_for: Duration::from_millis(300) };

async fn same() -> Result<(), String> {
    Ok(())
}

#[tokio::test]
async fn p03_a_component_that_comes_up_and_holds_is_verified() {
    let server = Server::start(|asked| {
        Reply::Now(if asked.number < 3 { 503 } else { 200 }, good().to_string())
    })
    .await;
    let checks =
        [server.check(), check(ProbePolicy::Tcp(TcpProbe { tcp: server.address.to_string() }))];
    let verified = prober().verify(&checks, &wanted(), SHORT, same).await.unwrap();
    assert_eq!(verified.version.as_deref(), Some(WANTED));
    assert!(verified.stable_for >= SHORT.stable_for);
    assert_eq!(verified.notes, ["check `health` failed 3 times before it was ready"]);
}

#[tokio::test]
async fn passes_count_only_in_a_row() {
    let server = Server::start(|asked| {
        Reply::Now(if asked.number % 2 == 0 { 200 } else { 503 }, good().to_string())
    })
    .await;
    let windows = Windows { ready_within: Duration::from_secs(1), ..SHORT };
    let refused = prober().verify(&[server.check()], &wanted(), windows, same).await.unwrap_err();
    assert!(refused.reason.starts_with("not ready within 1s: check `health`"), "{refused}");
    assert!(server.asked() > 3);
}

#[tokio::test]
async fn p03_the_wrong_version_is_never_ready_and_the_reason_says_so() {
    let server = Server::saying(200, json!({ "version": "2.0.0" })).await;
    let hanging = Server::start(|_| Reply::Never).await;
    let checks = [server.check(), CheckPolicy { name: "other".into(), ..hanging.check() }];
    let windows = Windows { ready_within: Duration::from_secs(1), ..SHORT };
    let refused = prober().verify(&checks, &wanted(), windows, same).await.unwrap_err();
    assert!(refused.reason.contains("version is 2.0.0, wanted 1.0.0"), "{refused}");
    assert!(refused.reason.contains("check `other`: no try has ended"), "{refused}");
    assert_eq!(refused.last[0].tried.as_ref().unwrap().version.as_deref(), Some("2.0.0"));
    assert_eq!((refused.last[1].check.as_str(), &refused.last[1].tried), ("other", &None));
}

#[tokio::test]
async fn p03_one_failing_try_in_the_stability_window_fails_it() {
    let server = Server::start(|asked| {
        Reply::Now(if asked.number == 5 { 503 } else { 200 }, good().to_string())
    })
    .await;
    let windows = Windows { stable_for: Duration::from_secs(20), ..SHORT };
    let refused = prober().verify(&[server.check()], &wanted(), windows, same).await.unwrap_err();
    assert!(refused.reason.starts_with("not stable: after "), "{refused}");
    assert!(
        refused.reason.contains("check `health`: GET ") && refused.reason.contains("→ 503"),
        "{refused}"
    );
}

#[tokio::test]
async fn p03_a_restart_in_the_stability_window_fails_it() {
    let server = Server::saying(200, good()).await;
    let looks = AtomicUsize::new(0);
    let still = async || match looks.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(()),
        _ => Err("service `web` was restarted: pid 7, was 5".to_owned()),
    };
    let windows = Windows { stable_for: Duration::from_secs(20), ..SHORT };
    let refused = prober().verify(&[server.check()], &wanted(), windows, still).await.unwrap_err();
    assert!(refused.reason.ends_with("service `web` was restarted: pid 7, was 5"), "{refused}");
}

#[tokio::test]
async fn p03_the_end_of_the_window_is_looked_at_even_if_no_try_falls_into_it() {
    // Passes twice, then never again; and the next try would come an hour later.
    let server = Server::start(|asked| {
        Reply::Now(if asked.number < 1 { 200 } else { 503 }, good().to_string())
    })
    .await;
    let rare = CheckPolicy { every: Span::seconds(3600), pass: 1, ..server.check() };
    let refused = prober().verify(&[rare], &wanted(), SHORT, same).await.unwrap_err();
    assert!(refused.reason.contains("→ 503"), "{refused}");
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn without_checks_only_the_processes_are_watched() {
    let verified = prober().verify(&[], &Wanted::default(), SHORT, same).await.unwrap();
    assert_eq!((verified.version, verified.notes), (None, Vec::new()));
    let dead = async || Err("service `web` does not run".to_owned());
    assert!(prober().verify(&[], &Wanted::default(), SHORT, dead).await.is_err());
}

#[test]
fn what_has_been_running_all_along_is_asked_once() {
    let check = CheckPolicy {
        name: "up".to_owned(),
        probe: ProbePolicy::Tcp(proto::policy::TcpProbe { tcp: "127.0.0.1:1".to_owned() }),
        every: proto::span::Span::seconds(1),
        pass: 3,
        timeout: proto::span::Span::seconds(1),
    };
    let long = Duration::from_secs(60);
    let windows = Windows { ready_within: long, stable_for: long };
    let checks = [check];
    let (same, kept) = asked(&checks, windows, false);
    assert_eq!((same[0].pass, kept.ready_within, kept.stable_for), (3, long, long));
    let (once, short) = asked(&checks, windows, true);
    assert_eq!((once[0].pass, short.stable_for), (1, Duration::ZERO));
    assert!(short.ready_within < long);
}
