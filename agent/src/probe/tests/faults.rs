//! An app whose health check says that all is well while its requests fail, hang or are slow.

use super::*;

/// `/health` always is healthy; `/api` is as `fault` says for the request of that number to it.
async fn app(fault: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Server {
    let asked = AtomicUsize::new(0);
    Server::start(move |request| match request.path.as_str() {
        "/api" => fault(asked.fetch_add(1, Ordering::SeqCst)),
        _ => {
            let body = json!({ "status": "healthy", "version": WANTED, "errorRate": 0.0 });
            Reply::Now(200, body.to_string())
        }
    })
    .await
}

/// What the fleet file of such an app declares: health, and twenty real requests.
fn checks(server: &Server) -> [CheckPolicy; 2] {
    let mut health = server.probe();
    health.expect.json.insert("/status".into(), json!("healthy"));
    health.expect.at_most.insert("/errorRate".into(), 0.1);
    let expect = HttpExpect { p95_over_baseline: Some(1.5), ..HttpExpect::default() };
    let http = format!("http://{}/api", server.address);
    let api = HttpProbe { http, requests: Some(20), expect, ..server.probe() };
    let api = CheckPolicy {
        name: "api".into(),
        timeout: Span::seconds(2),
        ..check(ProbePolicy::Http(api))
    };
    [check(ProbePolicy::Http(health)), api]
}

async fn verified(server: &Server) -> Result<Verified, NotVerified> {
    let windows = Windows { ready_within: Duration::from_secs(5), ..SHORT };
    let good = Times { average_us: 100_000, p95_us: 100_000 };
    let baselines = BTreeMap::from([("api".to_owned(), good)]);
    let wanted = Wanted { baselines, ..wanted() };
    prober().verify(&checks(server), &wanted, windows, same).await
}

fn fine() -> Reply {
    Reply::Now(200, "[]".into())
}

#[tokio::test]
async fn p03_healthy_and_working_is_verified_and_measured() {
    let verified = verified(&app(|_| fine()).await).await.unwrap();
    assert!(verified.times["api"].p95_us > 0);
}

#[tokio::test]
async fn p03_healthy_but_three_in_ten_requests_fail() {
    let app = app(|number| match number % 10 {
        0 | 4 | 7 => Reply::Now(500, String::new()),
        _ => fine(),
    })
    .await;
    let why = verified(&app).await.unwrap_err().reason;
    assert!(why.contains("check `api`: 6 of 20 failed: GET http://"), "{why}");
    assert!(!why.contains("check `health`"), "{why}");
}

#[tokio::test]
async fn p03_healthy_but_some_requests_hang() {
    let app = app(|number| if number % 10 == 3 { Reply::Never } else { fine() }).await;
    let why = verified(&app).await.unwrap_err().reason;
    assert!(why.contains("check `api`: ") && why.contains("no answer within 2s"), "{why}");
}

#[tokio::test]
async fn p03_healthy_but_slow() {
    // One request in ten: enough for the p95, and no health check asks for it.
    let app = app(|number| match number % 10 {
        3 => Reply::After(Duration::from_millis(200), 200, "[]".into()),
        _ => fine(),
    })
    .await;
    let why = verified(&app).await.unwrap_err().reason;
    assert!(why.contains("it was 100 ms while the release was good; wanted at most 1.5"), "{why}");
}
