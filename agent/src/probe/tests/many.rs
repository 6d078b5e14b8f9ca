//! Headers, bounds, and tries of many requests.

use super::*;
use crate::sampler::Gauge;

fn bounds(pointer: &str, bound: f64) -> BTreeMap<String, f64> {
    BTreeMap::from([(pointer.to_owned(), bound)])
}

#[tokio::test]
async fn numbers_are_held_to_their_bounds() {
    let server = Server::saying(
        200,
        json!({ "version": WANTED, "errorRate": 0.1, "workers": 4, "text": "0.0" }),
    )
    .await;
    let with = |at_most: &[(&str, f64)], at_least: &[(&str, f64)]| {
        let list = |rows: &[(&str, f64)]| {
            rows.iter().map(|(pointer, bound)| ((*pointer).to_owned(), *bound)).collect()
        };
        let (at_most, at_least) = (list(at_most), list(at_least));
        HttpProbe {
            expect: HttpExpect { at_most, at_least, ..HttpExpect::default() },
            ..server.probe()
        }
    };
    assert!(try_http(with(&[("/errorRate", 0.1)], &[("/workers", 4.0)])).await.ok);
    for (probe, words) in [
        (with(&[("/errorRate", 0.05)], &[]), "`/errorRate` is 0.1, wanted at most 0.05"),
        (with(&[], &[("/workers", 5.0)]), "`/workers` is 4, wanted at least 5"),
        (with(&[("/none", 1.0)], &[]), "`/none` is missing, wanted at most 1"),
        (with(&[("/text", 1.0)], &[]), "`/text` is \"0.0\", not a number; wanted at most 1"),
    ] {
        let why = failure(probe).await;
        assert!(why.ends_with(words), "{why}");
    }
    let silent = Server::start(|_| Reply::Now(200, "fine".into())).await;
    let at_most = bounds("/errorRate", 1.0);
    let expect = HttpExpect { at_most, ..HttpExpect::default() };
    let why = failure(HttpProbe { expect, ..silent.probe() }).await;
    assert!(why.ends_with("the answer is not JSON"), "{why}");
}

/// What the app says of itself, as pointer and number.
async fn gauges(probe: HttpProbe) -> Vec<(String, f64)> {
    let answered = prober().ask_once(&check(ProbePolicy::Http(probe))).await;
    answered.gauges.into_iter().map(|gauge| (gauge.pointer, gauge.value)).collect()
}

#[tokio::test]
async fn what_the_app_says_of_itself_is_told_where_a_bound_is_and_a_number_stands() {
    let body = json!({ "errorRate": 0.4, "workers": 4, "text": "0.0", "other": 7 });
    let server = Server::saying(503, body).await;
    let mut probe = server.probe();
    probe.expect.at_most =
        ["/errorRate", "/text", "/none"].map(|pointer| (pointer.to_owned(), 0.1)).into();
    probe.expect.at_least = bounds("/workers", 2.0);
    let answered = prober().ask_once(&check(ProbePolicy::Http(probe.clone()))).await;
    assert!(!answered.good, "whatever it says of itself");
    let gauge = |pointer: &str, value, at_most, at_least| Gauge {
        pointer: pointer.to_owned(),
        value,
        at_most,
        at_least,
    };
    let told = [gauge("/errorRate", 0.4, Some(0.1), None), gauge("/workers", 4.0, None, Some(2.0))];
    assert_eq!(answered.gauges, told);
    // Both bounds of one number.
    probe.expect.at_least = bounds("/errorRate", 0.0);
    let both = prober().ask_once(&check(ProbePolicy::Http(probe.clone()))).await;
    assert_eq!(both.gauges, [gauge("/errorRate", 0.4, Some(0.1), Some(0.0))]);
    // Without a bound, or without an answer, there is none.
    probe.expect = HttpExpect::default();
    assert_eq!(gauges(probe).await, []);
    let silent = Server::start(|_| Reply::Now(200, "fine".into())).await;
    let expect = HttpExpect { at_most: bounds("/errorRate", 1.0), ..HttpExpect::default() };
    assert_eq!(gauges(HttpProbe { expect, ..silent.probe() }).await, []);
}

#[tokio::test]
async fn p11_a_number_that_is_a_secret_is_no_gauge() {
    let server = Server::saying(200, json!({ "token": 20262026, "errorRate": 0.5 })).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    std::fs::write(&file, "20262026\n").unwrap();
    let mut probe = server.probe();
    probe.header_files.insert("X-Key".into(), file);
    probe.expect.at_most = ["/token", "/errorRate"].map(|at| (at.to_owned(), 1.0)).into();
    assert_eq!(gauges(probe).await, [("/errorRate".to_owned(), 0.5)]);
}

#[tokio::test]
async fn p11_headers_are_sent_and_those_from_files_never_shown() {
    // Sends back what it was sent, as text and as a number.
    let server = Server::start(|asked| {
        let [probe, key] = asked.probe_and_key.clone();
        let number: u64 = key.as_deref().unwrap_or_default().parse().unwrap_or_default();
        Reply::Now(200, json!({ "version": key, "probe": probe, "number": number }).to_string())
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    let mut probe = server.probe();
    probe.headers.insert("X-Probe".into(), "lastgood".into());
    probe.header_files.insert("X-Key".into(), file.clone());
    assert!(failure(probe.clone()).await.contains("header_files `X-Key`"));
    probe.expect.json.insert("/probe".into(), json!("lastgood"));
    for key in ["first-hunter2", "20262026"] {
        std::fs::write(&file, format!("{key}\n")).unwrap();
        let right = prober().try_once(&check(ProbePolicy::Http(probe.clone())), &of(key)).await;
        assert!(right.ok, "the key of the file was not sent");
        let wrong = try_http(probe.clone()).await;
        let mut number = probe.clone();
        number.expect.json.insert("/number".into(), json!(1));
        let number = try_http(number).await;
        assert!(!wrong.ok && !number.ok);
        for tried in [right, wrong, number] {
            assert!(!format!("{tried:?}").contains(key), "{tried:?}");
        }
    }
    std::fs::write(&file, "two\nlines").unwrap();
    assert!(failure(probe).await.contains("cannot stand in a header"));
}

#[tokio::test]
async fn p11_of_two_secrets_the_longer_is_taken_out_first() {
    let server = Server::start(|asked| {
        Reply::Now(200, json!({ "version": asked.authorization.clone() }).to_string())
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let bearer_file = Some(write("token", "hunter2-and-the-rest"));
    let header_files = BTreeMap::from([("X-Key".to_owned(), write("key", "hunter2"))]);
    let why = failure(HttpProbe { bearer_file, header_files, ..server.probe() }).await;
    assert!(!why.contains("and-the-rest"), "{why}");
}

#[tokio::test]
async fn a_content_type_of_ones_own_goes_before() {
    let server = Server::start(|asked| {
        Reply::Now(200, json!({ "version": asked.content_type.clone() }).to_string())
    })
    .await;
    let mut probe = HttpProbe { method: Some("POST".into()), ..server.probe() };
    probe.body = Some("{}".into());
    probe.headers.insert("Content-Type".into(), "application/vnd.x+json".into());
    let check = check(ProbePolicy::Http(probe));
    let tried = prober().try_once(&check, &of("application/vnd.x+json")).await;
    assert!(tried.ok, "{tried:?}");
}

#[tokio::test]
async fn the_failed_of_many_are_counted_and_named() {
    let server = Server::start(|asked| {
        Reply::Now(if asked.number % 3 == 2 { 500 } else { 200 }, good().to_string())
    })
    .await;
    let why = failure(HttpProbe { requests: Some(20), ..server.probe() }).await;
    assert!(why.starts_with("6 of 20 failed: GET http://"), "{why}");
    assert!(why.ends_with("→ 500, wanted 200 (requests 3, 6, 9, 12, 15 and 1 more)"), "{why}");
    assert_eq!(server.asked(), 20);
}

#[tokio::test]
async fn many_requests_share_one_timeout() {
    let server = Server::start(|asked| match asked.number {
        0 | 1 => Reply::Now(200, good().to_string()),
        _ => Reply::Never,
    })
    .await;
    let probe = HttpProbe { requests: Some(20), ..server.probe() };
    let hasty = CheckPolicy {
        timeout: Span(Duration::from_millis(300)),
        ..check(ProbePolicy::Http(probe))
    };
    let tried = prober().try_once(&hasty, &wanted()).await;
    assert!(tried.detail.contains("1 of 3 failed: GET "), "{tried:?}");
    assert!(tried.detail.ends_with("(request 3); 17 more were not made in time"), "{tried:?}");
    assert!(!tried.ok && tried.times.is_none());
}

#[tokio::test]
async fn average_and_p95_are_held_to_bound_and_baseline() {
    // One in four is slow: it moves the p95 and, less, the average.
    let server = Server::start(|asked| match asked.number % 4 {
        3 => Reply::After(Duration::from_millis(80), 200, good().to_string()),
        _ => Reply::Now(200, good().to_string()),
    })
    .await;
    let with = |expect| {
        let expect = HttpExpect { version_at: None, ..expect };
        let probe = HttpProbe { requests: Some(8), expect, ..server.probe() };
        check(ProbePolicy::Http(probe))
    };
    let span = |ms| Some(Span(Duration::from_millis(ms)));
    let roomy = HttpExpect {
        average_within: span(20_000),
        p95_within: span(20_000),
        ..HttpExpect::default()
    };
    let tried = prober().try_once(&with(roomy), &wanted()).await;
    assert!(tried.ok && tried.times.unwrap().p95_us >= 80_000, "{tried:?}");
    for (expect, word) in [
        (HttpExpect { average_within: span(10), ..HttpExpect::default() }, "the average is "),
        (HttpExpect { p95_within: span(40), ..HttpExpect::default() }, "the p95 is "),
    ] {
        let tried = prober().try_once(&with(expect), &wanted()).await;
        assert!(!tried.ok && tried.detail.contains(word), "{tried:?}");
    }
    let factor = HttpExpect { p95_over_baseline: Some(1.5), ..HttpExpect::default() };
    let baseline = |p95_us| Wanted {
        baselines: BTreeMap::from([("health".to_owned(), Times { average_us: 0, p95_us })]),
        ..Wanted::default()
    };
    for (wanted, ok) in
        [(Wanted::default(), true), (baseline(10_000_000), true), (baseline(10_000), false)]
    {
        let tried = prober().try_once(&with(factor.clone()), &wanted).await;
        assert_eq!(tried.ok, ok, "{tried:?}");
    }
}
