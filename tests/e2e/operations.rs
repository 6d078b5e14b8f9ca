//! Operations from the first call to the last host.

use std::{collections::BTreeMap, sync::Arc};

use agent::order::Verb;
use proto::v1::{self, OperationResult, Outcome};
use tests::{
    cluster::{Client, Cluster, FLEET},
    eventually,
    hands::ScriptedHands,
};

/// Hosts with `v2` live and `v1`, `v2` in their stores; `v1` is good.
pub(crate) struct Fleet {
    pub cluster: Cluster,
    pub hands: BTreeMap<&'static str, Arc<ScriptedHands>>,
    pub client: Client,
}

pub(crate) const HOSTS: [&str; 4] = ["h1", "h2", "h3", "h4"];

pub(crate) async fn fleet() -> Fleet {
    fleet_with(|_| {}).await
}

pub(crate) async fn fleet_with(change: impl FnOnce(&mut v1::FleetControl)) -> Fleet {
    fleet_on(Cluster::start().await, change).await
}

pub(crate) async fn fleet_on(
    cluster: Cluster,
    change: impl FnOnce(&mut v1::FleetControl),
) -> Fleet {
    fleet_of(cluster, change, || ScriptedHands::new("v2", &["v1", "v2"])).await
}

/// A fleet of such hosts, on which v1 has served for weeks.
pub(crate) async fn fleet_of(
    mut cluster: Cluster,
    change: impl FnOnce(&mut v1::FleetControl),
    hands_of_one: impl Fn() -> Arc<ScriptedHands>,
) -> Fleet {
    cluster.apply(&HOSTS, change).await;
    let mut hands = BTreeMap::new();
    for host in HOSTS {
        let scripted = hands_of_one();
        cluster.start_agent(host, scripted.clone());
        hands.insert(host, scripted);
    }
    cluster.connected(HOSTS.len()).await;
    let client = proven(&cluster).await;
    Fleet { cluster, hands, client }
}

/// A client of a coordinator to which a person has said that v1 is good.
pub(crate) async fn proven(cluster: &Cluster) -> Client {
    let mut client = cluster.client().await;
    let mark = v1::MarkReleaseRequest {
        fleet: FLEET.to_owned(),
        release: "v1".to_owned(),
        standing: v1::Standing::Good.into(),
        reason: "it served for weeks".to_owned(),
    };
    client.mark_release(mark).await.unwrap();
    client
}

pub(crate) fn rollback(to: &str, hosts: &[&str]) -> v1::CreatePlanRequest {
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    let request = v1::RollbackRequest { to_release: to.to_owned(), hosts, ..Default::default() };
    let request = Some(v1::create_plan_request::Request::Rollback(request));
    v1::CreatePlanRequest { fleet: FLEET.to_owned(), request }
}

impl Fleet {
    pub(crate) async fn begin(&mut self, request: v1::CreatePlanRequest) -> String {
        let plan = self.client.create_plan(request).await.unwrap().into_inner().plan.unwrap();
        let start = v1::StartOperationRequest {
            plan_id: plan.id,
            reason: "a test".to_owned(),
            idempotency_key: String::new(),
        };
        self.client.start_operation(start).await.unwrap().into_inner().operation
    }

    pub(crate) async fn operation(&mut self, id: &str) -> v1::Operation {
        let request = v1::GetOperationRequest { operation: id.to_owned() };
        self.client.get_operation(request).await.unwrap().into_inner().operation.unwrap()
    }

    pub(crate) async fn abort(&mut self, id: &str, mode: v1::AbortMode) {
        let request = v1::AbortOperationRequest { operation: id.to_owned(), mode: mode.into() };
        self.client.abort_operation(request).await.unwrap();
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self, id: &str) -> v1::Operation {
        self.seen(id, "the operation has ended", |operation| operation.ended_unix_ms > 0).await
    }

    /// Waits until late hosts have made it a verified one.
    async fn verified(&self, id: &str) -> v1::Operation {
        let verified = |operation: &v1::Operation| operation.result() == OperationResult::Verified;
        self.seen(id, "the operation is verified", verified).await
    }

    async fn seen(
        &self,
        id: &str,
        what: &str,
        holds: impl Fn(&v1::Operation) -> bool,
    ) -> v1::Operation {
        eventually(what, || {
            let (mut client, operation) = (self.client.clone(), id.to_owned());
            let holds = &holds;
            async move {
                let request = v1::GetOperationRequest { operation };
                let operation = client.get_operation(request).await.ok()?.into_inner().operation?;
                holds(&operation).then_some(operation)
            }
        })
        .await
    }

    /// Waits until a host has done a step.
    pub(crate) async fn performed(&self, host: &str, what: &str) {
        let hands = self.hands[host].clone();
        eventually(&format!("{host} has done {what}"), || {
            let done = hands.performed().iter().any(|step| step == what);
            async move { done.then_some(()) }
        })
        .await;
    }

    pub(crate) fn live(&self) -> Vec<String> {
        HOSTS.iter().map(|host| self.hands[host].live()).collect()
    }

    /// Nothing was left stopped.
    pub(crate) fn assert_all_run(&self) {
        for host in HOSTS {
            assert!(
                self.hands[host].runs(),
                "{host} was left stopped: {:?}",
                self.hands[host].performed()
            );
        }
    }

    /// The exact hash of each host's outcome, for a glance.
    pub(crate) fn outcomes(operation: &v1::Operation) -> Vec<(String, Outcome)> {
        operation.hosts.iter().map(|row| (row.host.clone(), row.outcome())).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_rollback_brings_every_host_to_the_newest_good_release() {
    let mut fleet = fleet().await;
    let id = fleet.begin(rollback("", &[])).await;
    let operation = fleet.ended(&id).await;
    assert_eq!(operation.result(), OperationResult::Verified);
    assert_eq!(fleet.live(), ["v1"; 4]);
    assert!(operation.hosts.iter().all(|row| row.outcome() == Outcome::Restored));
    for row in &operation.hosts {
        let evidence = &row.evidence.iter().find(|row| !row.snapshot.is_empty()).unwrap();
        assert_eq!(
            (evidence.snapshot.as_str(), evidence.version.as_str()),
            (tests::hands::hash("v1").as_str(), "v1")
        );
    }
    let fleet_now =
        fleet.client.get_fleet(v1::GetFleetRequest::default()).await.unwrap().into_inner();
    assert!(fleet_now.freeze.unwrap().frozen, "a full rollback freezes the fleet");
    let releases =
        fleet.client.list_releases(v1::ListReleasesRequest::default()).await.unwrap().into_inner();
    let v2 = releases.releases.iter().find(|row| row.release == "v2").unwrap();
    assert_eq!(v2.standing(), v1::Standing::Bad, "the release that was left is bad");

    let again =
        fleet.client.create_plan(rollback("", &[])).await.unwrap().into_inner().plan.unwrap();
    assert!(again.nothing_to_do, "a second bare rollback changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_of_some_hosts_marks_and_freezes_nothing() {
    let mut fleet = fleet().await;
    let id = fleet.begin(rollback("", &["h1", "h2"])).await;
    let operation = fleet.ended(&id).await;
    assert_eq!(operation.result(), OperationResult::Verified);
    assert_eq!(fleet.live(), ["v1", "v1", "v2", "v2"]);
    assert_eq!(Fleet::outcomes(&operation)[2], ("h3".to_owned(), Outcome::Skipped));
    let now = fleet.client.get_fleet(v1::GetFleetRequest::default()).await.unwrap().into_inner();
    assert!(!now.freeze.unwrap().frozen);
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_returns_to_what_was_live() {
    let mut fleet = fleet().await;
    let id = fleet.begin(rollback("", &[])).await;
    fleet.ended(&id).await;
    let request = Some(v1::create_plan_request::Request::Undo(id));
    let undo = fleet.begin(v1::CreatePlanRequest { fleet: String::new(), request }).await;
    assert_eq!(fleet.ended(&undo).await.result(), OperationResult::Verified);
    assert_eq!(fleet.live(), ["v2"; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_fails_is_put_back_and_the_others_go_on() {
    let mut fleet = fleet().await;
    fleet.hands["h2"].fail(Verb::Verify, "GET /api/health → 503");
    let id = fleet.begin(rollback("", &[])).await;
    let operation = fleet.ended(&id).await;
    assert_eq!(operation.result(), OperationResult::Mixed);
    assert_eq!(fleet.live(), ["v1", "v2", "v1", "v1"]);
    fleet.assert_all_run();
    let failed = operation.hosts.iter().find(|row| row.host == "h2").unwrap();
    assert_eq!(failed.outcome(), Outcome::Original);
    assert!(failed.reason.contains("GET /api/health → 503"), "{}", failed.reason);

    fleet.hands["h2"].mend();
    let retry = v1::RetryOperationRequest { operation: id.clone(), hosts: Vec::new() };
    fleet.client.retry_operation(retry).await.unwrap();
    let operation = fleet.ended(&id).await;
    assert_eq!(operation.result(), OperationResult::Verified);
    assert_eq!(fleet.live(), ["v1"; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p07_more_failures_than_the_budget_halt_it() {
    let mut fleet = fleet().await;
    for host in HOSTS {
        fleet.hands[host].fail(Verb::Verify, "503");
    }
    let id = fleet.begin(rollback("", &[])).await;
    let operation = fleet.ended(&id).await;
    assert_eq!(operation.result(), OperationResult::PutBack, "all are as before");
    assert!(operation.halted.contains("budget"), "{}", operation.halted);
    assert_eq!(fleet.live(), ["v2"; 4]);
    fleet.assert_all_run();
    assert!(
        fleet.hands["h4"].performed().iter().all(|step| step != "stop"),
        "the last host was never touched"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_before_anything_stops_refuses_the_whole() {
    let mut fleet = fleet().await;
    fleet.hands["h3"].fail(Verb::Stage, "object 5d2e is damaged");
    let id = fleet.begin(rollback("", &[])).await;
    let operation = fleet.ended(&id).await;
    assert_eq!(operation.result(), OperationResult::Refused);
    for host in HOSTS {
        assert!(fleet.hands[host].performed().iter().all(|step| step != "stop"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_restore_takes_everything_back() {
    let mut fleet = fleet().await;
    fleet.hands["h2"].hold_back(Verb::Verify);
    let id = fleet.begin(rollback("", &[])).await;
    fleet.performed("h2", "start").await;
    fleet.abort(&id, v1::AbortMode::Restore).await;
    fleet.hands["h2"].let_go();
    let operation = fleet.ended(&id).await;
    assert_eq!(operation.result(), OperationResult::PutBack, "{:?}", Fleet::outcomes(&operation));
    assert_eq!(fleet.live(), ["v2"; 4]);
    fleet.assert_all_run();
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_leave_ends_what_was_begun_and_begins_no_more() {
    let mut fleet = fleet().await;
    fleet.hands["h1"].hold_back(Verb::Verify);
    let id = fleet.begin(rollback("", &[])).await;
    fleet.performed("h1", "start").await;
    fleet.abort(&id, v1::AbortMode::Leave).await;
    fleet.hands["h1"].let_go();
    let operation = fleet.ended(&id).await;
    assert_eq!(operation.result(), OperationResult::Mixed);
    assert_eq!(fleet.live(), ["v1", "v2", "v2", "v2"]);
    fleet.assert_all_run();
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_begins_no_new_host_until_resume() {
    let mut fleet = fleet().await;
    fleet.hands["h1"].hold_back(Verb::Verify);
    let id = fleet.begin(rollback("", &[])).await;
    fleet.performed("h1", "start").await;
    let pause = v1::PauseOperationRequest { operation: id.clone() };
    let paused = fleet.client.pause_operation(pause).await.unwrap().into_inner().operation.unwrap();
    assert_eq!(paused.result(), OperationResult::Paused);
    fleet.hands["h1"].let_go();
    fleet.performed("h1", "verify").await;
    assert_eq!(fleet.operation(&id).await.result(), OperationResult::Paused);
    assert!(fleet.hands["h2"].performed().iter().all(|step| step != "stop"));
    fleet
        .client
        .resume_operation(v1::ResumeOperationRequest { operation: id.clone() })
        .await
        .unwrap();
    assert_eq!(fleet.ended(&id).await.result(), OperationResult::Verified);
}

#[tokio::test(flavor = "multi_thread")]
async fn p02_a_new_coordinator_goes_on_where_the_old_one_was() {
    let mut fleet = fleet().await;
    fleet.hands["h2"].hold_back(Verb::Switch);
    let id = fleet.begin(rollback("", &[])).await;
    fleet.performed("h2", "stop").await;
    fleet.cluster.stop_coordinator();
    fleet.hands["h2"].let_go();
    // The atomic unit ends without a coordinator.
    fleet.performed("h2", "verify").await;
    fleet.cluster.start_coordinator().await;
    fleet.client = fleet.cluster.client().await;
    let operation = fleet.ended(&id).await;
    assert_eq!(operation.result(), OperationResult::Verified);
    for host in HOSTS {
        let stops = fleet.hands[host].performed().iter().filter(|step| *step == "stop").count();
        assert_eq!(stops, 1, "{host} was stopped once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p02_an_agent_that_dies_in_a_step_looks_and_finishes() {
    let mut fleet = fleet().await;
    fleet.hands["h1"].hold_back(Verb::Start);
    let id = fleet.begin(rollback("", &[])).await;
    fleet.performed("h1", "switch").await;
    fleet.cluster.stop_agent("h1");
    fleet.hands["h1"].let_go();
    let hands = fleet.hands["h1"].clone();
    restart(&mut fleet.cluster, "h1", hands).await;
    let operation = fleet.ended(&id).await;
    assert_eq!(operation.result(), OperationResult::Verified, "{:?}", Fleet::outcomes(&operation));
    let switches = fleet.hands["h1"].performed().iter().filter(|step| *step == "switch").count();
    assert_eq!(switches, 1, "what was done is not done again");
    fleet.assert_all_run();
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_a_lost_host_is_unknown_and_is_brought_along_when_it_comes_back() {
    let mut fleet = fleet().await;
    fleet.hands["h2"].hold_back(Verb::Stop);
    let id = fleet.begin(rollback("", &[])).await;
    fleet.performed("h2", "stage").await;
    fleet.performed("h1", "verify").await;
    fleet.cluster.stop_agent("h2");
    let operation = fleet.ended(&id).await;
    assert_eq!(operation.result(), OperationResult::Mixed);
    assert_eq!(Fleet::outcomes(&operation)[1], ("h2".to_owned(), Outcome::Unknown));
    fleet.hands["h2"].let_go();
    let hands = fleet.hands["h2"].clone();
    restart(&mut fleet.cluster, "h2", hands).await;
    let operation = fleet.verified(&id).await;
    assert!(operation.hosts.iter().all(|row| row.outcome() == Outcome::Restored));
    assert_eq!(fleet.live(), ["v1"; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_a_host_that_forgot_what_it_did_is_not_called_put_back() {
    let mut fleet = fleet().await;
    fleet.hands["h2"].hold_back(Verb::Verify);
    let id = fleet.begin(rollback("", &[])).await;
    fleet.performed("h1", "verify").await;
    fleet.performed("h2", "start").await;
    fleet.cluster.stop_agent("h1");
    fleet.cluster.ledger_is_free("h1").await;
    fleet.cluster.forget("h1");
    fleet.cluster.start_agent("h1", fleet.hands["h1"].clone());
    fleet.cluster.connected(HOSTS.len()).await;
    fleet.abort(&id, v1::AbortMode::Restore).await;
    fleet.hands["h2"].let_go();
    let operation = fleet.ended(&id).await;
    assert_eq!(operation.result(), OperationResult::Mixed);
    let h1 = operation.hosts.iter().find(|row| row.host == "h1").unwrap();
    assert_eq!(h1.outcome(), Outcome::Failed, "{}", h1.reason);
    assert!(h1.reason.contains("no longer knows"), "{}", h1.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_succeeds_late_freezes_and_says_what_it_put_there() {
    let mut fleet = fleet_with(|control| {
        let Some(rollback) = control.rollback.as_mut() else { return };
        rollback.batches = vec!["100%".to_owned()];
        rollback.budget_out = "100%".to_owned();
        rollback.budget_unknown = 4;
    })
    .await;
    for host in HOSTS {
        fleet.hands[host].hold_back(Verb::Verify);
    }
    let id = fleet.begin(rollback("", &[])).await;
    for host in HOSTS {
        fleet.performed(host, "start").await;
        fleet.cluster.stop_agent(host);
    }
    assert_eq!(fleet.ended(&id).await.result(), OperationResult::Mixed);
    for host in HOSTS {
        fleet.hands[host].let_go();
        let hands = fleet.hands[host].clone();
        restart(&mut fleet.cluster, host, hands).await;
    }
    fleet.verified(&id).await;
    let now = fleet.client.get_fleet(v1::GetFleetRequest::default()).await.unwrap().into_inner();
    assert!(now.freeze.unwrap().frozen);
    let again =
        fleet.client.create_plan(rollback("", &[])).await.unwrap().into_inner().plan.unwrap();
    assert!(again.nothing_to_do, "it goes no further back");
}

/// Starts an agent again once its ledger is free.
async fn restart(cluster: &mut Cluster, host: &str, hands: Arc<ScriptedHands>) {
    let freed = cluster.ledger_is_free(host);
    freed.await;
    cluster.start_agent(host, hands);
}
