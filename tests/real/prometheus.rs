//! A real Prometheus that scrapes an app of ours each second, asked as the coordinator asks it.
//!
//! ```text
//! App: counters that the test sets ◀─ scrape ─ Prometheus ◀─ query ─ coordinator::measure
//! ```
//!
//! It needs no host of its own, but the program of Debian's package `prometheus`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use coordinator::{
    grpc::from_proto,
    host::wall,
    measure::{Ask, CountersReader, Fault, Prometheus, PrometheusError, Servers, try_sources},
};
use engine::{
    Counters, HostName, Timestamp,
    judge::{Latency, Sample},
};
use proto::v1;
use tests::eventually;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::{AbortHandle, JoinSet},
};

use crate::scraper::Scraper;

const REQUESTS: &str = "sum(requests_total{host=~\"$side\"})";
const ERRORS: &str = "sum(errors_total{host=~\"$side\"})";
const LATENCY: &str = "sum by (le) (seconds_bucket{host=~\"$side\"})";

/// What an app has counted; of answers, half took at most 0.1 s.
#[derive(Clone, Copy, Debug)]
struct Counted {
    requests: u64,
    /// Without any, there is no series of them.
    errors: u64,
}

/// An app on a fixed address, which can go and come back. Its name has a dot, as names do.
struct App {
    address: SocketAddr,
    counted: Arc<Mutex<Counted>>,
    serving: AbortHandle,
}

impl App {
    async fn start(address: SocketAddr, counted: Counted) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free address");
        let address = listener.local_addr().expect("it listens");
        let counted = Arc::new(Mutex::new(counted));
        let now = counted.clone();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let now = now.clone();
                connections.spawn(async move {
                    let mut request = Vec::new();
                    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                        if stream.read_buf(&mut request).await.is_ok_and(|read| read == 0) {
                            return;
                        }
                    }
                    let body = metrics(*now.lock().expect("no test panicked"));
                    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close";
                    let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    // Who has gone need not be told.
                    stream.write_all(answer.as_bytes()).await.ok();
                });
            }
        });
        Self { address, counted, serving: serving.abort_handle() }
    }

    fn count(&self, requests: u64, errors: u64) {
        *self.counted.lock().expect("no test panicked") = Counted { requests, errors };
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn metrics(counted: Counted) -> String {
    let Counted { requests, errors } = counted;
    let host = "host=\"web-1.ace\"";
    let mut text = format!(
        "# TYPE requests_total counter\nrequests_total{{{host}}} {requests}\n# TYPE seconds histogram\n\
         seconds_bucket{{{host},le=\"0.1\"}} {}\nseconds_bucket{{{host},le=\"+Inf\"}} {requests}\n\
         seconds_sum{{{host}}} {requests}\nseconds_count{{{host}}} {requests}\n",
        requests / 2
    );
    if errors > 0 {
        text.push_str(&format!("# TYPE errors_total counter\nerrors_total{{{host}}} {errors}\n"));
    }
    text
}

fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// The one number that a query answers with, of a server that wants no credentials.
async fn number(url: &str, query: &str) -> Result<f64, PrometheusError> {
    Servers::default().number(url, query).await
}

/// Once the app was scraped with so many requests.
async fn scraped(server: &Scraper, requests: u64) {
    let has = async || number(&server.url(), "sum(requests_total)").await.ok();
    eventually("a scrape", || async { has().await.filter(|found| *found == requests as f64) })
        .await;
}

fn queries(server: &Scraper) -> v1::PrometheusCounters {
    v1::PrometheusCounters {
        url: server.url(),
        requests: REQUESTS.to_owned(),
        errors: ERRORS.to_owned(),
        latency: LATENCY.to_owned(),
    }
}

fn reader(server: &Scraper) -> CountersReader {
    let v1::PrometheusCounters { url, requests, errors, latency } = queries(server);
    let queries = Counters { url, requests, errors, latency: Some(latency) };
    let hosts = ["web-1.ace", "web-2.ace"].map(|name| HostName::new(name).expect("a name"));
    CountersReader::new(&Servers::default(), &queries, &hosts)
}

#[tokio::test]
#[ignore = "needs Prometheus"]
async fn prometheus_answers_and_its_troubles_are_told_in_its_own_words() {
    let app = App::start(free_address(), Counted { requests: 100, errors: 0 }).await;
    let mut server = Scraper::start(&[(app.address, None)]);
    scraped(&server, 100).await;

    let fault =
        async |query: &str| number(&server.url(), query).await.expect_err("no number").fault;
    let refused = fault("sum(").await;
    let Fault::Refused { kind, words } = refused else { panic!("{refused}") };
    assert_eq!(kind, "bad_data");
    assert!(words.contains("parse error: unclosed left parenthesis"), "{words}");
    assert_eq!(fault("sum(nobody_counts_this)").await, Fault::NoData);
    assert_eq!(fault("scalar(sum(requests_total))").await, Fault::Scalar);
    assert_eq!(fault("sum(requests_total) * 0 / 0").await, Fault::NotANumber("NaN".to_owned()));
    assert_eq!(fault("sum(requests_total) / 0").await, Fault::NotANumber("inf".to_owned()));
    assert!(matches!(fault("seconds_bucket").await, Fault::Several { count: 2, .. }));
    assert!(matches!(fault("\"words\"").await, Fault::Kind { .. }));
    // Its own pages, and an app that is none.
    let ours = format!("http://{}", app.address);
    let error = number(&format!("{}/graph", server.url()), "1").await.expect_err("its own page");
    assert!(matches!(error.fault, Fault::NotPrometheus { .. }), "{error}");
    let error = number(&ours, "1").await.expect_err("no Prometheus");
    assert!(matches!(error.fault, Fault::NotPrometheus { .. }), "{error}");

    app.count(200, 0);
    scraped(&server, 200).await;
    let prometheus = Prometheus::new(&server.url()).expect("an address");
    let now = wall().0;
    let span = (Timestamp(now - 60_000), Timestamp(now));
    let step = Duration::from_secs(1);
    let found = prometheus.range("requests_total", span, step, &Ask::default()).await;
    let found = found.expect("a range");
    let values: Vec<f64> = found[0].points.iter().map(|point| point.value).collect();
    assert!(values.starts_with(&[100.0]) && values.is_sorted(), "{values:?}");
    assert_eq!(found[0].labels["host"], "web-1.ace");
    let none = prometheus.range("nobody_counts_this", span, step, &Ask::default()).await;
    assert_eq!(none.expect_err("no data").fault, Fault::NoData);

    server.kill();
    let error = number(&server.url(), "sum(requests_total)").await.expect_err("it is dead");
    let expected =
        format!("Prometheus at {}: it cannot be reached: connection refused", server.url());
    assert_eq!(error.to_string(), expected);
}

/// Reads until something was counted, or it fails. Of one scrape, latencies may be known a moment before their requests.
async fn next(reader: &mut CountersReader) -> Result<Sample, PrometheusError> {
    let deadline = std::time::Instant::now() + tests::PATIENCE;
    let mut latency = Latency::default();
    loop {
        if let Some(sample) = reader.read().await? {
            latency.merge(&sample.latency);
            if sample.requests() > 0 {
                return Ok(Sample { latency, ..sample });
            }
        }
        assert!(std::time::Instant::now() < deadline, "nothing was counted");
    }
}

#[tokio::test]
#[ignore = "needs Prometheus"]
async fn prometheus_counters_become_samples_and_a_restart_is_no_sample() {
    let app = App::start(free_address(), Counted { requests: 100, errors: 0 }).await;
    let server = Scraper::start(&[(app.address, None)]);
    scraped(&server, 100).await;
    let mut reader = reader(&server);
    assert_eq!(reader.read().await, Ok(None));

    // It cannot be told whether this was counted before the first look.
    app.count(150, 0);
    scraped(&server, 150).await;
    assert_eq!(reader.read().await, Ok(None));
    let quiet = reader.read().await.expect("an answer").expect("nothing, for certain");
    assert_eq!((quiet.good, quiet.bad), (0, 0));

    // The first errors begin their series.
    app.count(200, 5);
    let first = next(&mut reader).await.expect("a sample");
    assert_eq!((first.good, first.bad), (45, 5));
    assert_eq!((first.latency.total(), first.latency.surely_above(100_000)), (50, 25));
    app.count(260, 5);
    let second = next(&mut reader).await.expect("a sample");
    assert_eq!((second.good, second.bad), (60, 0));
    assert!(second.from >= first.to && second.to > second.from, "{first:?} {second:?}");

    // The app goes, and comes back with what it has counted since.
    let address = app.address;
    drop(app);
    let away = eventually("that it is away", || async { reader_fault(&server).await }).await;
    assert_eq!(away, Fault::NoData);
    assert_eq!(reader.read().await.expect_err("no data").fault, Fault::NoData);
    let app = App::start(address, Counted { requests: 7, errors: 0 }).await;
    scraped(&server, 7).await;
    assert_eq!(reader.read().await.expect_err("a restart").fault, Fault::Reset);
    app.count(20, 1);
    let third = next(&mut reader).await.expect("a sample");
    assert_eq!((third.good, third.bad), (12, 1));

    let rows = try_sources(&Servers::default(), &fleet(&server)).await;
    let rows: Vec<_> = rows.iter().map(|row| (row.ok, row.detail.as_str())).collect();
    assert_eq!(rows, [(true, "20"), (true, "1"), (true, "a histogram of 2 buckets")]);
}

/// Why the app's counter is not there.
async fn reader_fault(server: &Scraper) -> Option<Fault> {
    number(&server.url(), "sum(requests_total)").await.err().map(|error| error.fault)
}

/// A fleet whose canary's requests this server counts.
fn fleet(server: &Scraper) -> engine::Fleet {
    let hosts = vec!["web-1.ace".to_owned()];
    let source = v1::metric_source::Source::Prometheus(queries(server));
    let control = v1::FleetControl {
        fleet: "prod".to_owned(),
        groups: vec![v1::Group { name: "canary".to_owned(), hosts }],
        rollback: Some(v1::RollbackStrategy {
            batches: vec!["1".to_owned()],
            budget_out: "1".to_owned(),
            on_failure: v1::OnFailure::Restore.into(),
            late_hosts: v1::LateHosts::Rollback.into(),
            ..v1::RollbackStrategy::default()
        }),
        canary: Some(v1::Canary {
            group: "canary".to_owned(),
            analysis: Some(v1::Analysis {
                compare: vec![v1::Measure::Errors.into()],
                latency_ratio: 1.5,
                false_alarm: 0.01,
                stale_after_ms: 10_000,
                ..v1::Analysis::default()
            }),
            source: Some(v1::MetricSource { source: Some(source) }),
            ..v1::Canary::default()
        }),
        ..v1::FleetControl::default()
    };
    from_proto::fleet(control).expect("a fleet")
}
