//! A canary, as those see it who look on: what the app says of itself on both sides.

use crate::{app::App, operations::proven};
use proto::{policy::Policy, v1};
use serde_json::{Value, json};
use tests::{
    cluster::{Client, Cluster, FLEET},
    eventually,
    hands::ScriptedHands,
};

/// Two hosts that serve, the canary, and the edge.
const BACKENDS: [&str; 3] = ["b1", "b2", "c1"];
const EDGE: &str = "lb";
/// What is older is not shown as current.
const STALE_AFTER_MS: u64 = 2_000;

/// On `v1`, which is good, with `v2` in the stores, all traffic on blue.
async fn fleet(says: [fn(&str) -> Value; 3]) -> (Cluster, Client, Vec<App>) {
    // Another test may have been first.
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut cluster = Cluster::start().await;
    cluster.apply(&[], tried).await;
    let mut apps = Vec::new();
    for (host, says) in BACKENDS.into_iter().zip(says) {
        let hands = ScriptedHands::new("v1", &["v1", "v2"]);
        // It says of itself what it is told to, by the release that runs.
        let runs = hands.clone();
        let app = App::start(move || ("200 OK", says(&runs.live()).to_string())).await;
        let policy = format!(
            "version: 1\nfleet: prod\nhost: {host}\ncomponents:\n  crm:\n    checks: [{{ name: health, \
             http: \"http://{}/\", expect: {{ at_most: {{ /errorRate: 0.5 }} }} }}]\n    \
             ready_within: 1m\n    stable_for: 1s\n",
            app.address
        );
        let policy = Policy::parse(&policy).unwrap();
        hands.asks(policy.components["crm"].checks[0].clone());
        cluster.start_agent(host, hands);
        apps.push(app);
    }
    let edge = ScriptedHands::new("v1", &[]);
    edge.divides("blue");
    cluster.start_agent(EDGE, edge);
    cluster.connected(BACKENDS.len() + 1).await;
    let client = proven(&cluster).await;
    (cluster, client, apps)
}

/// A canary of one host, which waits at 5 % for a person.
fn tried(control: &mut v1::FleetControl) {
    let group = |name: &str, hosts: &[&str]| v1::Group {
        name: name.to_owned(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
    };
    control.groups = vec![
        group("blue", &BACKENDS[..2]),
        group("canary", &BACKENDS[2..]),
        group("edge", &[EDGE]),
    ];
    control.components[0].groups = vec!["blue".to_owned(), "canary".to_owned()];
    control.traffic = Some(v1::Traffic {
        edge: "edge".to_owned(),
        slots: vec!["blue".to_owned()],
        drain_ms: 0,
        warm_ms: 0,
    });
    control.canary = Some(v1::Canary {
        group: "canary".to_owned(),
        steps: vec![v1::CanaryStep { weight: 5, hold_ms: 0, asks: true }],
        analysis: Some(v1::Analysis {
            compare: vec![v1::Measure::Errors.into()],
            errors_at_most: None,
            latency_ratio: 1.5,
            false_alarm: 0.01,
            min_requests: 100,
            stale_after_ms: STALE_AFTER_MS,
        }),
        source: Some(v1::MetricSource {
            source: Some(v1::metric_source::Source::Probes(v1::Probes {})),
        }),
        armed_for_ms: 1_000,
        wait_at_most_ms: 3_600_000,
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_running_app_says_of_itself_stands_in_canary_status_by_side() {
    let says: [fn(&str) -> Value; 3] = [
        |_| json!({ "errorRate": 0.01 }),
        // No number: nothing is told of it, least of all 0.
        |_| json!({ "errorRate": "few" }),
        |live| json!({ "errorRate": if live == "v2" { 0.25 } else { 0.125 } }),
    ];
    let (mut cluster, mut client, _apps) = fleet(says).await;
    let deploy = v1::DeployRequest {
        release: "v2".to_owned(),
        strategy: v1::Strategy::Canary.into(),
        ..v1::DeployRequest::default()
    };
    let request = Some(v1::create_plan_request::Request::Deploy(deploy));
    let request = v1::CreatePlanRequest { fleet: FLEET.to_owned(), request };
    let plan = client.create_plan(request).await.unwrap().into_inner().plan.unwrap();
    let start = v1::StartOperationRequest {
        plan_id: plan.id,
        reason: "a test".to_owned(),
        idempotency_key: String::new(),
    };
    let id = client.start_operation(start).await.unwrap().into_inner().operation;

    // What `ctl canary status -o json` prints.
    let status = async |what: &str, holds: fn(&Value) -> bool| {
        eventually(what, || {
            let (mut client, operation) = (client.clone(), id.clone());
            async move {
                let request = v1::GetOperationRequest { operation };
                let operation = client.get_operation(request).await.unwrap().into_inner();
                let operation = operation.operation.unwrap();
                let document = ctl::render::json::Canary::new(&operation, None)?;
                let document = serde_json::to_value(document).unwrap();
                // What the release before said of itself is never shown as the canary's.
                let canary = &document["gauges"][0]["canary"];
                assert!(canary.is_null() || canary["median"] == 0.25, "{document}");
                assert!(document["step"] == 0 || document["gauges"] == json!([]), "{document}");
                holds(&document["gauges"]).then_some(document)
            }
        })
        .await
    };
    let both =
        |gauges: &Value| gauges[0]["canary"].is_object() && gauges[0]["baseline"].is_object();
    let document = status("both sides say how they are", both).await;
    let gauge = &document["gauges"][0];
    let named = [&gauge["component"], &gauge["check"], &gauge["pointer"], &gauge["at_most"]];
    assert_eq!(named, [&json!("crm"), &json!("health"), &json!("/errorRate"), &json!(0.5)]);
    let figures = |side: &str| {
        let row = &gauge[side];
        [&row["lowest"], &row["median"], &row["highest"], &row["hosts"], &row["of_hosts"]]
            .map(|figure| figure.as_f64().unwrap())
    };
    assert_eq!(figures("canary"), [0.25, 0.25, 0.25, 1.0, 1.0]);
    assert_eq!(figures("baseline"), [0.01, 0.01, 0.01, 1.0, 2.0], "b2 has no number");

    // Nobody tells of it any more: what it said last is not shown as current.
    cluster.stop_agent("c1");
    let gone = |gauges: &Value| gauges[0]["canary"].is_null() && gauges[0]["baseline"].is_object();
    status("only the rest says how it is", gone).await;
}
