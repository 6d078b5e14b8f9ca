//! What is refused, and what a person is told.

use proto::{
    status::{StatusKind, read},
    tls::{Ca, Identity, Role, Validity},
    v1,
};
use std::time::Duration;
use tests::cluster::{Cluster, FLEET};

use crate::operations::{HOSTS, fleet, rollback};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_operation_is_told_who_holds_the_fleet() {
    let mut fleet = fleet().await;
    fleet.hands["h1"].hold_back(agent::order::Verb::Verify);
    let plan =
        fleet.client.create_plan(rollback("", &[])).await.unwrap().into_inner().plan.unwrap();
    let first = fleet.begin(rollback("", &[])).await;
    let start = v1::StartOperationRequest { plan_id: plan.id, ..Default::default() };
    let refused = fleet.client.start_operation(start).await.unwrap_err();
    let told = read(&refused).unwrap();
    assert_eq!(told.kind, StatusKind::Busy);
    assert!(told.what.contains(&first), "{}", told.what);
    fleet.hands["h1"].let_go();
    fleet.ended(&first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_refused_once_the_fleet_has_moved() {
    let mut fleet = fleet().await;
    let plan =
        fleet.client.create_plan(rollback("", &[])).await.unwrap().into_inner().plan.unwrap();
    let other = fleet.begin(rollback("", &["h1"])).await;
    fleet.ended(&other).await;
    let start = v1::StartOperationRequest { plan_id: plan.id, ..Default::default() };
    let told = read(&fleet.client.start_operation(start).await.unwrap_err()).unwrap();
    assert_eq!(told.kind, StatusKind::StalePlan);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_starts_one_operation() {
    let mut fleet = fleet().await;
    let plan =
        fleet.client.create_plan(rollback("", &[])).await.unwrap().into_inner().plan.unwrap();
    let start = v1::StartOperationRequest {
        plan_id: plan.id,
        reason: String::new(),
        idempotency_key: "ci-4711".to_owned(),
    };
    let first = fleet.client.start_operation(start.clone()).await.unwrap().into_inner().operation;
    let second = fleet.client.start_operation(start).await.unwrap().into_inner().operation;
    assert_eq!(first, second);
    fleet.ended(&first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_come_with_the_nearest_one() {
    let mut fleet = fleet().await;
    let near = |status: tonic::Status| {
        let told = read(&status).unwrap();
        assert_eq!(told.kind, StatusKind::NotFound);
        told.what
    };
    let host = near(fleet.client.create_plan(rollback("", &["h11"])).await.unwrap_err());
    assert!(host.contains("`h11`") && host.contains("did you mean `h1`"), "{host}");
    let release = near(fleet.client.create_plan(rollback("v11", &[])).await.unwrap_err());
    assert!(release.contains("did you mean `v1`"), "{release}");
    let other = near(
        fleet.client.get_fleet(v1::GetFleetRequest { fleet: "tset".to_owned() }).await.unwrap_err(),
    );
    assert!(other.contains(&format!("did you mean `{FLEET}`")), "{other}");
    let request = v1::GetOperationRequest { operation: "rb-9999".to_owned() };
    assert!(near(fleet.client.get_operation(request).await.unwrap_err()).contains("rb-9999"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_release_it_says_why_none_qualifies() {
    let mut fleet = fleet().await;
    let mark = v1::MarkReleaseRequest {
        fleet: String::new(),
        release: "v1".to_owned(),
        standing: v1::Standing::Bad.into(),
        reason: "it leaks".to_owned(),
    };
    fleet.client.mark_release(mark).await.unwrap();
    let told = read(&fleet.client.create_plan(rollback("", &[])).await.unwrap_err()).unwrap();
    assert_eq!(told.kind, StatusKind::Refused);
    assert!(told.details.iter().any(|line| line == "v1: it is marked bad"), "{:?}", told.details);
    assert!(
        told.details.iter().any(|line| line.starts_with("v2: it is live now")),
        "{:?}",
        told.details
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_and_told_why() {
    let cluster = Cluster::start().await;
    cluster.apply(&HOSTS, |_| {}).await;
    // An agent's certificate cannot do what an operator's can.
    let agent = cluster.identity(Role::Agent, "h1");
    let refused = cluster
        .client_as(&agent)
        .await
        .get_fleet(v1::GetFleetRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    // A host that no fleet file names.
    let stray = cluster.identity(Role::Agent, "stray");
    let refused = session(&cluster, &stray).await;
    assert!(refused.contains("is in no fleet"), "{refused}");
    // Another fleet's certificate.
    let other = Ca::create("other").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::new("other", Role::Agent, "h1").unwrap();
    let issued = other.issue(&identity, &[], Validity::lasting(Duration::from_secs(60))).unwrap();
    issued.save(dir.path()).unwrap();
    let refused = session(&cluster, dir.path()).await;
    assert!(!refused.is_empty());
}

/// What an agent with that identity is told when it opens a session.
pub(crate) async fn session(cluster: &Cluster, identity: &std::path::Path) -> String {
    use proto::{tls, v1::agent_service_client::AgentServiceClient};
    let own = tls::IdentityDir::load(identity).unwrap();
    let config = std::sync::Arc::new(tls::client_config(&own).unwrap());
    let channel = match tls::connect(&cluster.address.to_string(), config).await {
        Ok(channel) => channel,
        Err(error) => return error.to_string(),
    };
    let mut client = AgentServiceClient::new(channel);
    let (_up, requests) = tokio::sync::mpsc::channel(1);
    match client.session(tokio_stream::wrappers::ReceiverStream::new(requests)).await {
        Ok(_) => String::new(),
        Err(status) => status.message().to_owned(),
    }
}
