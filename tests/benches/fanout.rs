//! How long a stage of four steps takes on many agents, from its begin to the last durable acknowledgement.
//!
//! Real sessions over mTLS, real workers and ledgers, one identity and one directory per agent; only the hosts'
//! hands do nothing. All in this process: coordinator and agents share its cores.
//!
//! `cargo run --release -p tests --bin bench-fanout -- [AGENTS] [ROUNDS]`

use std::time::{Duration, Instant};

use proto::v1;
use tests::{
    cluster::{Cluster, FLEET},
    hands::ScriptedHands,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let agents: usize = arguments.next().map_or(Ok(500), |text| text.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(7), |text| text.parse())?;
    let names: Vec<String> = (0..agents).map(|number| format!("h{number:05}")).collect();
    let hosts: Vec<&str> = names.iter().map(String::as_str).collect();

    let mut cluster = Cluster::start().await;
    let all_at_once = |control: &mut v1::FleetControl| {
        if let Some(rollback) = control.rollback.as_mut() {
            rollback.batches = vec!["100%".to_owned()];
            rollback.budget_out = "100%".to_owned();
            rollback.unknown_after_ms = 30_000;
        }
    };
    cluster.apply(&hosts, all_at_once).await;
    let begun = Instant::now();
    for host in &hosts {
        cluster.start_agent(host, ScriptedHands::new("v2", &["v1", "v2"]));
    }
    cluster.connected(agents).await;
    println!(
        "{agents} agents connected after {:.2?} (identities issued, ledgers made)",
        begun.elapsed()
    );

    let mut client = cluster.client().await;
    for release in ["v1", "v2"] {
        let standing = v1::Standing::Good.into();
        let (fleet, release, reason) =
            (FLEET.to_owned(), release.to_owned(), "a benchmark".to_owned());
        client.mark_release(v1::MarkReleaseRequest { fleet, release, standing, reason }).await?;
    }
    let mut stages = Vec::new();
    let mut totals = Vec::new();
    for round in 0..rounds {
        let to_release = if round % 2 == 0 { "v1" } else { "v2" }.to_owned();
        let request = v1::create_plan_request::Request::Rollback(v1::RollbackRequest {
            to_release,
            ..Default::default()
        });
        let request = v1::CreatePlanRequest { fleet: FLEET.to_owned(), request: Some(request) };
        let plan = client.create_plan(request).await?.into_inner().plan.unwrap_or_default();
        let start = v1::StartOperationRequest { plan_id: plan.id, ..Default::default() };
        let asked = Instant::now();
        let operation = client.start_operation(start).await?.into_inner().operation;
        let stage = watch(&mut client, operation).await?;
        totals.push(asked.elapsed());
        stages.push(stage);
    }
    println!("stage of stop, switch, start, verify on {agents} agents, {rounds} rounds:");
    print("begin to last durable acknowledgement", &mut stages);
    print("whole operation (prepare, then that stage)", &mut totals);
    Ok(())
}

/// Follows an operation to its end; answers how long its capacity-cutting stage took.
async fn watch(client: &mut tests::cluster::Client, operation: String) -> anyhow::Result<Duration> {
    use v1::watch_operation_response::Event;
    let request = v1::WatchOperationRequest { operation: operation.clone(), from_index: 0 };
    let mut events = client.watch_operation(request).await?.into_inner();
    let (mut began, mut ended) = (0, 0);
    while let Some(event) = events.message().await? {
        match event.event {
            Some(Event::StageBegan(stage)) if stage.name == "restore" => began = event.at_unix_ms,
            Some(Event::StageEnded(stage)) if stage.name == "restore" => ended = event.at_unix_ms,
            _ => {}
        }
    }
    let request = v1::GetOperationRequest { operation };
    let operation = client.get_operation(request).await?.into_inner().operation.unwrap_or_default();
    anyhow::ensure!(
        operation.result() == v1::OperationResult::Verified,
        "{:?}",
        operation.result()
    );
    Ok(Duration::from_millis(u64::try_from(ended - began)?))
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort();
    let (min, median, max) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    println!("  {what}: median {median:.2?} (min {min:.2?}, max {max:.2?})");
}
