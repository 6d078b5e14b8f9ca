//! A Prometheus server that answers as it is told; the texts are what a real one said.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use engine::{Counters as Queries, HostName, Timestamp, judge::Gap};
use proto::v1;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

use super::*;

/// A whole answer to a path and its form.
type Answer = dyn Fn(&str, &BTreeMap<String, String>) -> String + Send + Sync;

/// It ends when this is dropped.
struct Server {
    address: SocketAddr,
    /// The forms that were posted.
    asked: Arc<Mutex<Vec<BTreeMap<String, String>>>>,
    accepting: AbortHandle,
}

impl Server {
    async fn start(
        answer: impl Fn(&str, &BTreeMap<String, String>) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, answer): (Arc<Mutex<Vec<_>>>, Arc<Answer>) = (Arc::default(), Arc::new(answer));
        let log = asked.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), log.clone()));
            }
        });
        Self { address, asked, accepting: accepting.abort_handle() }
    }

    /// Always says this.
    async fn saying(text: &str) -> Self {
        let text = text.to_owned();
        Self::start(move |_, _| text.clone()).await
    }

    fn prometheus(&self) -> Prometheus {
        Prometheus::new(&format!("http://me:hunter2@{}/", self.address)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: Arc<Answer>,
    log: Arc<Mutex<Vec<BTreeMap<String, String>>>>,
) {
    let mut request = Vec::new();
    let whole = loop {
        if stream.read_buf(&mut request).await.is_ok_and(|read| read == 0) {
            return;
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
        });
        if body.len() >= length.unwrap_or(0) {
            break text;
        }
    };
    let (head, body) = whole.split_once("\r\n\r\n").unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let form: BTreeMap<String, String> = body
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), decoded(value)))
        .collect();
    log.lock().unwrap().push(form.clone());
    let answer = answer(path, &form);
    // Who has heard enough closes early.
    stream.write_all(answer.as_bytes()).await.ok();
    if answer.is_empty() {
        std::future::pending::<()>().await;
    }
}

fn decoded(text: &str) -> String {
    let bytes = text.replace('+', " ").into_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let hex = std::str::from_utf8(&bytes[at + 1..at + 3]).unwrap();
            out.push(u8::from_str_radix(hex, 16).unwrap());
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).unwrap()
}

fn with(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// The newest moment of the server's clock in these tests.
const DATE: &str = "Date: Mon, 23 Nov 2026 03:39:37 GMT\r\nContent-Type: application/json\r\n";
const NOW: f64 = 1_795_405_177.817;

fn ok(data: &str) -> String {
    with("200 OK", DATE, &format!("{{\"status\":\"success\",\"data\":{data}}}"))
}

fn vector(rows: &[(&str, &str)]) -> String {
    let rows = rows.iter().map(|(labels, value)| {
        format!("{{\"metric\":{{{labels}}},\"value\":[{NOW},\"{value}\"]}}")
    });
    let rows = rows.collect::<Vec<_>>().join(",");
    ok(&format!("{{\"resultType\":\"vector\",\"result\":[{rows}]}}"))
}

async fn said(answer: &str) -> Result<f64, String> {
    let server = Server::saying(answer).await;
    let number = server.prometheus().number("sum(req)", &Ask::default()).await;
    number.map_err(|error| {
        let shown = format!("Prometheus at http://{}: ", server.address);
        error
            .to_string()
            .strip_prefix(&shown)
            .expect("it names the server, and no password")
            .to_owned()
    })
}

#[tokio::test]
async fn one_number_is_told_and_whatever_else_there_is_has_its_own_word() {
    assert_eq!(said(&vector(&[("", "80")])).await, Ok(80.0));
    assert_eq!(said(&vector(&[("", "1.5e+06")])).await, Ok(1_500_000.0));
    let refused = "{\"status\":\"error\",\"errorType\":\"bad_data\",\"error\":\"invalid parameter \\\"query\\\": 1:5: \
                   parse error: unclosed left parenthesis\",\"warnings\":[\"one store is away\"]}";
    let old =
        "{\"resultType\":\"vector\",\"result\":[{\"metric\":{},\"value\":[1795405000,\"1\"]}]}";
    let histogram =
        "{\"resultType\":\"vector\",\"result\":[{\"metric\":{},\"histogram\":[1795405177,{}]}]}";
    let table = [
        (vector(&[]), "no data"),
        (vector(&[("", "NaN")]), "`NaN` is no number to judge by"),
        (vector(&[("", "+Inf")]), "`inf` is no number to judge by"),
        (vector(&[("", "many")]), "`many` is no number to judge by"),
        (
            vector(&[("\"job\":\"a\"", "1"), ("\"job\":\"b\"", "2")]),
            "2 series where one is wanted, such as {job=\"a\"}; write `sum(…)`",
        ),
        (
            ok("{\"resultType\":\"scalar\",\"result\":[1795405144.749,\"1\"]}"),
            "a scalar, whose age cannot be told; leave `scalar(…)` out",
        ),
        (
            ok("{\"resultType\":\"string\",\"result\":[1795405144.762,\"x\"]}"),
            "a string where a vector is wanted",
        ),
        (ok("{\"resultType\":\"matrix\",\"result\":[]}"), "a matrix where a vector is wanted"),
        (ok(old), "no data since 177s"),
        (ok(histogram), "a native histogram where a number is wanted"),
        (
            with("400 Bad Request", DATE, refused),
            "bad_data: invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis; it warns: one store is away",
        ),
        (
            with("200 OK", "Content-Type: text/html; charset=utf-8\r\n", "<html>Grafana</html>"),
            "status 200 with text/html, which is no answer of Prometheus; is the address right?",
        ),
        (
            with("502 Bad Gateway", "", ""),
            "status 502 with no content type, which is no answer of Prometheus; is the address right?",
        ),
        (with("200 OK", DATE, "{\"status\":\"success\"}"), "status 200 with application/json"),
        (with("200 OK", DATE, &"[".repeat(100_000)), "status 200 with application/json"),
        (
            with("302 Found", "Location: http://you:hunter2@other:1/x?token=hunter2\r\n", ""),
            "it sends us to http://other:1/x, and nobody is followed",
        ),
        (with("200 OK", DATE, &" ".repeat(5 << 20)), "its answer is longer than 4194304 bytes"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{".to_owned(),
            "it cannot be reached: ",
        ),
    ];
    for (answer, expected) in table {
        let why = said(&answer).await.unwrap_err();
        assert!(why.starts_with(expected), "{why}: {expected}");
    }
}

#[tokio::test]
async fn one_that_is_away_or_hangs_is_told_in_time() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = Servers::default().number(&format!("http://{address}"), "x").await.unwrap_err();
    let expected =
        format!("Prometheus at http://{address}: it cannot be reached: connection refused");
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.gap(), Gap::NoAnswer(expected));
    let silent = Server::saying("").await;
    let ask = Ask { within: Duration::from_millis(200), ..Ask::default() };
    let error = silent.prometheus().number("x", &ask).await.unwrap_err();
    assert_eq!(error.fault, Fault::TimedOut(ask.within));
    for address in ["prometheus:9090", "ftp://hunter2@host/", "/metrics", "http://"] {
        let error = Servers::default().number(address, "x").await.unwrap_err().to_string();
        assert!(
            error.contains("this is no address to ask") && !error.contains("hunter2"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_range_has_its_points_and_its_end_may_not_be_old() {
    let server = Server::start(|path, form| {
        assert_eq!(path, "/api/v1/query_range");
        assert_eq!((form["start"].as_str(), form["step"].as_str()), ("1795405170.000", "1.000"));
        ok("{\"resultType\":\"matrix\",\"result\":[{\"metric\":{\"job\":\"app\"},\
            \"values\":[[1795405176,\"60\"],[1795405177,\"70\"]]}]}")
    })
    .await;
    let range = async |end: i64| {
        let span = (Timestamp(1_795_405_170_000), Timestamp(end));
        let ask = Ask { stale_after: Duration::from_secs(5), ..Ask::default() };
        server.prometheus().range("req", span, Duration::from_secs(1), &ask).await
    };
    let found = range(1_795_405_178_000).await.unwrap();
    let points: Vec<_> = found[0].points.iter().map(|point| (point.at.0, point.value)).collect();
    assert_eq!(points, [(1_795_405_176_000, 60.0), (1_795_405_177_000, 70.0)]);
    assert_eq!(found[0].labels["job"], "app");
    let old = range(1_795_405_190_000).await.unwrap_err();
    assert_eq!(old.fault, Fault::Stale(Duration::from_secs(13)));
}

/// What an app has counted.
#[derive(Clone, Debug, Default)]
struct Counted {
    /// None: there is no series.
    requests: Option<u64>,
    errors: Option<u64>,
    fast: u64,
}

async fn app() -> (Server, Arc<Mutex<Counted>>) {
    let counted: Arc<Mutex<Counted>> = Arc::default();
    let now = counted.clone();
    let server = Server::start(move |_, form| {
        let counted = now.lock().unwrap().clone();
        let one = |value: Option<u64>| {
            let value = value.map(|value| value.to_string());
            vector(&value.iter().map(|value| ("", value.as_str())).collect::<Vec<_>>())
        };
        match form["query"].as_str() {
            "requests{host=~\"web-1[.]a|web-2\"}" => one(counted.requests),
            "errors{host=~\"web-1[.]a|web-2\"}" => one(counted.errors),
            "latency" => {
                let (fast, all) =
                    (counted.fast.to_string(), counted.requests.unwrap_or(0).to_string());
                vector(&[("\"le\":\"+Inf\"", &all), ("\"le\":\"0.1\"", &fast)])
            }
            other => panic!("{other}"),
        }
    })
    .await;
    (server, counted)
}

fn reader(server: &Server) -> CountersReader {
    let side = |name: &str| format!("{name}{{host=~\"$side\"}}");
    let queries = Queries {
        url: format!("http://{}", server.address),
        requests: side("requests"),
        errors: side("errors"),
        latency: Some("latency".to_owned()),
    };
    let hosts = ["web-1.a", "web-2"].map(|name| HostName::new(name).unwrap());
    CountersReader::new(&Servers::default(), &queries, &hosts)
}

#[tokio::test]
async fn counters_become_disjoint_samples_of_what_is_certainly_new() {
    let (server, counted) = app().await;
    let count = |requests, errors, fast| {
        *counted.lock().unwrap() = Counted { requests: Some(requests), errors, fast };
    };
    let mut reader = reader(&server);
    count(1000, None, 900);
    assert_eq!(reader.read().await, Ok(None));
    assert_eq!(reader.read().await, Ok(None));
    // It may have been counted before the first look, and scraped since.
    count(1100, None, 990);
    assert_eq!(reader.read().await, Ok(None));

    count(1110, None, 998);
    let first = reader.read().await.unwrap().unwrap();
    assert_eq!((first.good, first.bad, first.latency.total()), (10, 0, 10));
    assert_eq!((first.latency.surely_above(100_000), first.latency.perhaps_above(100_000)), (2, 2));
    // The first error begins its series.
    count(1120, Some(3), 1005);
    let second = reader.read().await.unwrap().unwrap();
    assert_eq!((second.good, second.bad), (7, 3));
    assert_eq!(second.from, first.to, "it begins where the one before ended");
    let quiet = reader.read().await.unwrap().unwrap();
    assert_eq!((quiet.requests(), quiet.from), (0, second.to));
    // Errors that are known before their requests are counted with them.
    count(1120, Some(8), 1005);
    assert_eq!(reader.read().await.unwrap().unwrap().requests(), 0);
    count(1130, Some(8), 1010);
    let late = reader.read().await.unwrap().unwrap();
    assert_eq!((late.good, late.bad), (5, 5));
    // All of one look are of one moment of the server's clock.
    let asked = server.asked.lock().unwrap();
    for look in asked.chunks(3) {
        assert!(!look[0].contains_key("time"));
        assert!(look[1..].iter().all(|form| form["time"] == "1795405177.817"), "{look:?}");
    }
}

#[tokio::test]
async fn a_restart_drops_its_interval_and_says_so() {
    let (server, counted) = app().await;
    let mut reader = reader(&server);
    let requests = |requests| counted.lock().unwrap().requests = requests;
    // Nothing is there yet: what comes is new.
    assert_eq!(reader.read().await.unwrap_err().fault, Fault::NoData);
    requests(Some(10));
    assert_eq!(reader.read().await, Ok(None));
    requests(Some(30));
    assert_eq!(reader.read().await.unwrap().unwrap().good, 20);
    requests(Some(4));
    let error = reader.read().await.unwrap_err();
    assert_eq!((error.fault.clone(), error.gap()), (Fault::Reset, Gap::CounterReset));
    requests(Some(9));
    assert_eq!(reader.read().await.unwrap().unwrap().good, 5);
    // Away for a while: what it counted meanwhile is in the next.
    requests(None);
    assert_eq!(reader.read().await.unwrap_err().fault, Fault::NoData);
    requests(Some(12));
    assert_eq!(reader.read().await.unwrap().unwrap().good, 3);
}

#[tokio::test]
async fn a_side_without_hosts_and_a_histogram_without_bounds_are_told() {
    let queries = |latency: &str, server: &Server| Queries {
        url: format!("http://{}", server.address),
        requests: "a".to_owned(),
        errors: "a".to_owned(),
        latency: Some(latency.to_owned()),
    };
    let server = Server::start(|_, form| match form["query"].as_str() {
        "unbound" => vector(&[("\"job\":\"a\"", "1")]),
        "twice" => {
            vector(&[("\"le\":\"1\",\"job\":\"a\"", "1"), ("\"le\":\"1\",\"job\":\"b\"", "1")])
        }
        _ => vector(&[("", "1")]),
    })
    .await;
    let error = CountersReader::new(&Servers::default(), &queries("twice", &server), &[])
        .read()
        .await
        .unwrap_err();
    assert_eq!(error.fault, Fault::NoHosts);
    let hosts = [HostName::new("a").unwrap()];
    for (query, expected) in
        [("unbound", "series {job=\"a\"} has no `le`"), ("twice", "2 series where one")]
    {
        let error = CountersReader::new(&Servers::default(), &queries(query, &server), &hosts)
            .read()
            .await
            .unwrap_err();
        assert!(error.fault.to_string().starts_with(expected), "{error}");
    }
}

/// A fleet whose canary, of two hosts, and whose triggers ask these servers.
fn fleet(counters: v1::PrometheusCounters, triggers: &[(&str, &str, &str)]) -> engine::Fleet {
    let group = |name: &str, hosts: &[&str]| v1::Group {
        name: name.to_owned(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
    };
    let trigger = |(name, url, query): &(&str, &str, &str)| v1::Trigger {
        name: (*name).to_owned(),
        source: Some(v1::trigger::Source::Prometheus(v1::PrometheusQuery {
            url: (*url).to_owned(),
            query: (*query).to_owned(),
        })),
        breach: "> 1".to_owned(),
        for_ms: 1000,
        severity: v1::TriggerSeverity::High.into(),
        then: v1::Then::Propose.into(),
        ..v1::Trigger::default()
    };
    let control = v1::FleetControl {
        fleet: "prod".to_owned(),
        groups: vec![group("blue", &["web-3"]), group("canary", &["web-1.a", "web-2"])],
        rollback: Some(v1::RollbackStrategy {
            batches: vec!["1".to_owned()],
            budget_out: "1".to_owned(),
            on_failure: v1::OnFailure::Restore.into(),
            late_hosts: v1::LateHosts::Rollback.into(),
            ..v1::RollbackStrategy::default()
        }),
        canary: Some(v1::Canary {
            group: "canary".to_owned(),
            steps: vec![v1::CanaryStep { weight: 5, hold_ms: 1000, asks: false }],
            analysis: Some(v1::Analysis {
                compare: vec![v1::Measure::Errors.into()],
                latency_ratio: 1.5,
                false_alarm: 0.01,
                min_requests: 100,
                stale_after_ms: 10_000,
                ..v1::Analysis::default()
            }),
            source: Some(v1::MetricSource {
                source: Some(v1::metric_source::Source::Prometheus(counters)),
            }),
            ..v1::Canary::default()
        }),
        triggers: triggers.iter().map(trigger).collect(),
        ..v1::FleetControl::default()
    };
    crate::grpc::from_proto::fleet(control).unwrap()
}

#[tokio::test]
async fn every_query_of_a_fleet_is_asked_once_and_each_says_what_it_is_worth() {
    let (server, counted) = app().await;
    *counted.lock().unwrap() = Counted { requests: Some(70), errors: None, fast: 60 };
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (url, away) = (format!("http://{}", server.address), format!("http://{away}"));
    let one = "requests{host=~\"web-1[.]a|web-2\"}";
    let fleet = fleet(
        v1::PrometheusCounters {
            url: url.clone(),
            requests: "requests{host=~\"$side\"}".to_owned(),
            errors: "errors{host=~\"$side\"}".to_owned(),
            latency: "latency".to_owned(),
        },
        &[("slow", &url, one), ("many", &url, "latency"), ("away", &away, "x")],
    );
    let rows = try_sources(&Servers::default(), &fleet).await;
    let rows: Vec<_> =
        rows.iter().map(|row| (row.place.as_str(), row.ok, row.detail.as_str())).collect();
    let many = format!(
        "Prometheus at {url}: 2 series where one is wanted, such as {{le=\"+Inf\"}}; write `sum(…)`"
    );
    let gone = format!("Prometheus at {away}: it cannot be reached: connection refused");
    let side = "it does not hold `$side`: canary and baseline would be the same; write it like \
                `instance=~\"($side):.*\"`";
    assert_eq!(
        rows,
        [
            ("canary.source.requests", true, "70"),
            ("canary.source.errors", true, "no data, which counts as 0 while there are requests"),
            ("canary.source.latency", false, side),
            ("triggers.slow.source.query", true, "70"),
            ("triggers.many.source.query", false, many.as_str()),
            ("triggers.away.source.query", false, gone.as_str()),
        ]
    );
    assert_eq!(server.asked.lock().unwrap().len(), 4, "each once");
}

/// A server that answers to this header only.
async fn guarded(wanted: &'static str) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !String::from_utf8_lossy(&request).contains("query=") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            let text = String::from_utf8_lossy(&request).to_lowercase();
            let answer = match text.contains(&format!("authorization: {wanted}\r\n").to_lowercase())
            {
                true => vector(&[("", "7")]),
                false => with("401 Unauthorized", "Content-Type: text/plain\r\n", "Unauthorized\n"),
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    Server { address, asked: Arc::default(), accepting: accepting.abort_handle() }
}

#[tokio::test]
async fn a_secret_is_read_for_each_request_and_goes_only_to_the_server_that_it_is_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    let shown = file.display().to_string();
    let (bearer, basic) =
        (guarded("Bearer s3cret").await, guarded("Basic bWlyYTpodW50ZXI6Mg==").await);
    let given = |address: SocketAddr| {
        Servers::new([format!("http://{address}={shown}").parse::<Credentials>().unwrap()])
    };
    let said = async |servers: &Servers, at: SocketAddr| {
        let number = servers.number(&format!("http://{at}/prom"), "x").await;
        number.map(|value| value.to_string()).unwrap_or_else(|error| error.fault.to_string())
    };
    let own = given(bearer.address);
    let unread = format!("what it knows the coordinator by cannot be read from {shown}: ");
    assert_eq!(said(&own, bearer.address).await, format!("{unread}no such file or directory"));
    for (text, told) in [
        ("s3cret\n", "7".to_owned()),
        ("other", format!("status 401: it does not take what stands in {shown}")),
        ("\n", format!("{unread}one line is wanted: a token, or `user:password`")),
        ("s3\ncret", format!("{unread}one line is wanted: a token, or `user:password`")),
    ] {
        std::fs::write(&file, text).unwrap();
        assert_eq!(said(&own, bearer.address).await, told, "{text:?}");
    }
    std::fs::write(&file, "mira:hunter:2").unwrap();
    assert_eq!(said(&given(basic.address), basic.address).await, "7");
    let none = "status 401: it wants to know who asks; start the coordinator with `--prometheus-credentials URL=FILE`";
    assert_eq!(said(&own, basic.address).await, none, "it is another server's");
    let gap = own.number(&format!("http://{}", basic.address), "x").await.unwrap_err().gap();
    assert!(matches!(gap, Gap::NoAnswer(_)), "{gap:?}");
}

#[test]
fn whose_secret_it_is_has_to_be_an_address() {
    let said = |text: &str| text.parse::<Credentials>().unwrap_err();
    let form = "write it like `https://prometheus:9090=/etc/lastgood/prometheus-token`";
    assert_eq!(said("https://prom:9090"), form);
    assert_eq!(said("ftp://prom=/etc/token"), format!("it begins with `ftp:`; {form}"));
    assert_eq!(said("prom=/etc/token"), format!("relative URL without a base; {form}"));
    assert_eq!(said("http://prom=token"), format!("the file's whole path is wanted; {form}"));
    let same = |one: &str, other: &str| {
        one.parse::<Credentials>().unwrap() == other.parse::<Credentials>().unwrap()
    };
    assert!(same("https://prom:443/x=/t", "https://PROM=/t"), "scheme, host and port alone");
    assert!(!same("https://prom=/t", "http://prom=/t"));
}
