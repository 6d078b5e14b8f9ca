//! The load against a server that fails in known ways, and counts itself how often it did.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{Failures, Load, Plan, Report};

/// What becomes of a request, by its number on the server and on its connection.
type Answers = fn(u64, u64) -> Answer;

#[derive(Clone, Copy)]
enum Answer {
    Version(&'static str),
    Status(u16),
    /// The same, once so many requests have come.
    Held(&'static str, u64),
    /// The connection is reset.
    Cut,
    /// It is reset in the middle of the answer.
    Half,
    Never,
    /// An answer after which the connection is closed without a word of it.
    Last(&'static str),
}

#[derive(Default)]
struct Counted {
    requests: AtomicU64,
    posts: AtomicU64,
    connections: AtomicUsize,
}

/// Runs a load of so many requests against a server of that kind.
fn run(answers: Answers, change: impl FnOnce(&mut Plan)) -> (Report, Arc<Counted>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let mut plan = plan(listener.local_addr().unwrap());
    change(&mut plan);
    let counted = Arc::<Counted>::default();
    let all = counted.clone();
    runtime.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            all.connections.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(stream, answers, all.clone()));
        }
    });
    let report = Load::start(plan).wait();
    runtime.shutdown_background();
    assert_eq!(report.sent, report.fresh.requests + report.kept.requests);
    assert_eq!(report.sent, report.answered + report.failed() + report.idle_resets);
    (report, counted)
}

fn plan(server: SocketAddr) -> Plan {
    Plan {
        rate: 1000,
        requests: Some(400),
        timeout: Duration::from_secs(20),
        ..Plan::usual(server)
    }
}

async fn serve(mut stream: TcpStream, answers: Answers, counted: Arc<Counted>) {
    for of_connection in 0.. {
        let mut bytes = [0; 4096];
        let mut head = Vec::new();
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read(&mut bytes).await {
                Ok(count) if count > 0 => head.extend_from_slice(&bytes[..count]),
                _ => return,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let number = counted.requests.fetch_add(1, Ordering::Relaxed);
        counted.posts.fetch_add(u64::from(head.starts_with("POST")), Ordering::Relaxed);
        let (status, version, close) = match answers(number, of_connection) {
            Answer::Version(version) => (200, version, head.contains("connection: close")),
            Answer::Status(status) => (status, "v1", head.contains("connection: close")),
            Answer::Held(version, until) => {
                while counted.requests.load(Ordering::Relaxed) < until {
                    tokio::task::yield_now().await;
                }
                (200, version, head.contains("connection: close"))
            }
            Answer::Last(version) => (200, version, true),
            Answer::Cut => return,
            Answer::Half => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{").await.ok();
                return;
            }
            Answer::Never => std::future::pending().await,
        };
        let body = format!(r#"{{"version":"{version}"}}"#);
        let answer = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nx-served-by: h{}\r\nx-version: {version}\r\n\r\n{body}",
            body.len(),
            number % 2,
        );
        if stream.write_all(answer.as_bytes()).await.is_err() || close {
            return;
        }
    }
}

#[test]
fn a_good_server_has_no_failures_and_every_request_is_counted() {
    let (report, counted) = run(|_, _| Answer::Version("v1"), |_| {});
    assert_eq!(
        (report.sent, report.answered, report.failed(), report.idle_resets),
        (400, 400, 0, 0)
    );
    assert_eq!((report.fresh.requests, report.kept.requests), (200, 200));
    assert_eq!(counted.requests.load(Ordering::Relaxed), 400);
    assert_eq!(counted.posts.load(Ordering::Relaxed), 100);
    assert_eq!(counted.connections.load(Ordering::Relaxed), 200 + report.connections as usize);
    // A connection that is kept is used again.
    assert!((50..200).contains(&report.connections), "{report:?}");
    assert_eq!(report.hosts.values().copied().collect::<Vec<_>>(), [200, 200]);
    let latency = report.latency;
    assert!(
        latency.p50_us > 0 && latency.p50_us <= latency.p95_us && latency.p99_us <= latency.max_us
    );
}

#[test]
fn a_load_has_the_mix_that_was_planned() {
    let (report, counted) = run(
        |_, _| Answer::Version("v1"),
        |plan| {
            (plan.fresh_percent, plan.post_percent) = (10, 100);
        },
    );
    assert_eq!((report.fresh.requests, report.kept.requests), (40, 360));
    assert_eq!(counted.posts.load(Ordering::Relaxed), 400);
}

#[test]
fn every_fifth_answer_of_500_is_a_failure_of_its_kind() {
    let fifth: Answers =
        |number, _| if number % 5 == 0 { Answer::Status(503) } else { Answer::Version("v1") };
    let (report, _) = run(fifth, |_| {});
    let of = |failures: &Failures| failures.status.get(&503).copied().unwrap_or(0);
    assert_eq!(of(&report.fresh) + of(&report.kept), 80);
    assert_eq!((report.failed(), report.answered, report.failures.len()), (80, 320, 50));
    // What is refused by the app is no failure of the way to it.
    let (report, _) = run(|_, _| Answer::Status(404), |_| {});
    assert_eq!((report.failed(), report.answered), (0, 400));
}

#[test]
fn a_cut_on_a_fresh_connection_is_a_failure() {
    let tenth: Answers =
        |number, _| if number % 10 == 0 { Answer::Cut } else { Answer::Version("v1") };
    let (report, _) = run(tenth, |plan| plan.fresh_percent = 100);
    assert_eq!((report.fresh.reset, report.fresh.count(), report.idle_resets), (40, 40, 0));
}

#[test]
fn a_cut_of_a_used_connection_without_a_byte_is_an_idle_reset_and_of_a_new_one_is_not() {
    let third: Answers =
        |_, of_connection| if of_connection == 2 { Answer::Cut } else { Answer::Version("v1") };
    let (report, _) = run(third, |plan| plan.fresh_percent = 0);
    assert!(report.idle_resets > 0);
    assert_eq!((report.failed(), report.answered), (0, 400 - report.idle_resets));
    let (report, _) = run(|_, _| Answer::Cut, |plan| plan.fresh_percent = 0);
    assert_eq!((report.idle_resets, report.kept.reset), (0, 400));
}

#[test]
fn a_cut_in_the_answer_is_never_an_idle_reset() {
    let second: Answers = |_, of_connection| {
        if of_connection == 1 { Answer::Half } else { Answer::Version("v1") }
    };
    let (report, _) = run(second, |plan| plan.fresh_percent = 0);
    assert_eq!(report.idle_resets, 0);
    assert!(report.kept.reset > 0);
    assert_eq!(report.failed(), report.kept.reset);
}

#[test]
fn a_connection_that_was_closed_while_it_was_idle_is_opened_again() {
    let (report, counted) = run(
        |_, _| Answer::Last("v1"),
        |plan| {
            // Far apart, so that the end of a connection is heard before it is wanted again.
            (plan.fresh_percent, plan.kept, plan.rate, plan.requests) = (0, 1, 20, Some(20));
        },
    );
    assert_eq!((report.answered, report.failed(), report.idle_resets), (20, 0, 0));
    assert_eq!((report.connections, counted.connections.load(Ordering::Relaxed)), (20, 20));
}

#[test]
fn nobody_there_is_refused() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = free.local_addr().unwrap();
    drop(free);
    let report = Load::start(plan(server)).wait();
    assert_eq!((report.fresh.refused, report.kept.refused), (200, 200));
    assert_eq!((report.failed(), report.versions.len()), (400, 0));
}

#[test]
fn a_server_that_hangs_is_asked_as_often_all_the_same() {
    let (report, counted) =
        run(|_, _| Answer::Never, |plan| plan.timeout = Duration::from_millis(300));
    assert_eq!((report.fresh.timeout, report.kept.timeout), (200, 200));
    assert_eq!(counted.requests.load(Ordering::Relaxed), 400);
}

#[test]
fn versions_have_their_first_and_their_last_time() {
    let switch: Answers = |number, _| Answer::Version(if number < 200 { "v1" } else { "v2" });
    let (report, _) = run(switch, |_| {});
    let (v1, v2) = (&report.versions["v1"], &report.versions["v2"]);
    assert_eq!((v1.count, v2.count), (200, 200));
    assert!(v1.first_ms <= v1.last_ms && v1.first_ms < v2.last_ms && v2.first_ms <= v2.last_ms);
    assert!(report.last_of("v1").unwrap() < report.last_of("v2").unwrap());
    assert!(report.last_of("v3").is_none());
    let (report, _) = run(switch, |plan| plan.version_at = "x-version".to_owned());
    assert_eq!(report.versions["v2"].count, 200);
}

#[test]
fn an_answer_that_comes_late_was_asked_for_when_it_was() {
    let late: Answers = |number, _| match number {
        0 => Answer::Held("late", 400),
        _ => Answer::Version("v1"),
    };
    let (report, _) = run(late, |_| {});
    let last_asked = report.last_asked_of("v1").unwrap();
    assert!(report.last_asked_of("late").unwrap() < last_asked, "{report:?}");
    assert!(report.last_of("late").unwrap() >= last_asked, "{report:?}");
    assert!(report.last_asked_of("v2").is_none());
}

#[test]
fn a_load_without_an_end_is_stopped_and_told_of_meanwhile() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    drop(listener);
    let load = Load::start(Plan { requests: None, ..plan(server) });
    let deadline = std::time::Instant::now() + crate::PATIENCE;
    while load.so_far().failed() < 10 {
        assert!(std::time::Instant::now() < deadline, "nothing is sent");
        std::thread::yield_now();
    }
    let report = load.stop();
    assert_eq!(report.sent, report.fresh.refused + report.kept.refused);
}
