//! How long after its restart a coordinator that was killed in mid-operation sends its first new order.
//!
//! Ten hosts, real sessions, journals and ledgers. The coordinator's runtime is dropped in mid-operation and a new
//! one is started on the same journal; the clock runs from that start to the first step of a host that had none.
//!
//! `cargo run --release -p tests --bin bench-recovery -- [ROUNDS]`

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use agent::order::Verb;
use proto::v1;
use tests::{
    cluster::{Cluster, FLEET},
    eventually,
    hands::ScriptedHands,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(9), |text| text.parse())?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        times.push(round().await?);
    }
    times.sort();
    let (min, median, max) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    println!("coordinator's restart to its first new order, 10 hosts, {rounds} rounds:");
    println!("  median {median:.2?} (min {min:.2?}, max {max:.2?})");
    Ok(())
}

async fn round() -> anyhow::Result<Duration> {
    let names: Vec<String> = (0..10).map(|number| format!("h{number}")).collect();
    let hosts: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut cluster = Cluster::start().await;
    cluster.apply(&hosts, |_| {}).await;
    let mut hands = Vec::new();
    for host in &hosts {
        let scripted = ScriptedHands::new("v2", &["v1", "v2"]);
        cluster.start_agent(host, scripted.clone());
        hands.push(scripted);
    }
    cluster.connected(hosts.len()).await;
    let mut client = cluster.client().await;
    let (fleet, release, reason) = (FLEET.to_owned(), "v1".to_owned(), "a benchmark".to_owned());
    let standing = v1::Standing::Good.into();
    client.mark_release(v1::MarkReleaseRequest { fleet, release, standing, reason }).await?;
    let request = v1::create_plan_request::Request::Rollback(v1::RollbackRequest::default());
    let request = v1::CreatePlanRequest { fleet: FLEET.to_owned(), request: Some(request) };
    let plan = client.create_plan(request).await?.into_inner().plan.unwrap_or_default();
    hands[0].hold_back(Verb::Verify);
    client
        .start_operation(v1::StartOperationRequest { plan_id: plan.id, ..Default::default() })
        .await?;
    performed(&hands[0], "start").await;
    cluster.stop_coordinator();
    hands[0].let_go();
    performed(&hands[0], "verify").await;
    let begun = Instant::now();
    cluster.start_coordinator().await;
    let others = hands[1..].to_vec();
    eventually("a new order", || {
        let any = others.iter().any(|hands| hands.performed().iter().any(|step| step == "stop"));
        async move { any.then_some(()) }
    })
    .await;
    Ok(begun.elapsed())
}

async fn performed(hands: &Arc<ScriptedHands>, what: &str) {
    eventually(what, || {
        let done = hands.performed().iter().any(|step| step == what);
        async move { done.then_some(()) }
    })
    .await;
}
