//! Triggers and alerts, end to end: what they take back by themselves, and when a person is asked.

use std::{io, net::SocketAddr};

use proto::v1::{self, ProposalState, TriggerState};
use tests::{
    cluster::{ALERTS_TOKEN, Cluster, FLEET},
    eventually,
    hands::ScriptedHands,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::operations::{Fleet, HOSTS, fleet_of};

/// A fleet on the good `v1`, with `v2` in its stores, and a trigger on the check `payment`.
async fn fleet(then: v1::Then) -> Fleet {
    let source = v1::trigger::Source::Check("payment".to_owned());
    fleet_with(v1::Trigger { source: Some(source), then: then.into(), ..trigger() }).await
}

fn trigger() -> v1::Trigger {
    v1::Trigger {
        name: "payment".to_owned(),
        for_ms: 1_000,
        severity: v1::TriggerSeverity::Critical.into(),
        ..v1::Trigger::default()
    }
}

/// The same with another trigger; the check is asked all the time.
async fn fleet_with(trigger: v1::Trigger) -> Fleet {
    let hands = || {
        let scripted = ScriptedHands::new("v1", &["v1", "v2"]);
        scripted.is_sampled();
        scripted
    };
    fleet_of(Cluster::start().await, |control| control.triggers.push(trigger), hands).await
}

impl Fleet {
    async fn deploys(&mut self, hosts: &[&str]) {
        let deploy = v1::DeployRequest {
            release: "v2".to_owned(),
            strategy: v1::Strategy::Rolling.into(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ..v1::DeployRequest::default()
        };
        let request = Some(v1::create_plan_request::Request::Deploy(deploy));
        let id = self.begin(v1::CreatePlanRequest { fleet: FLEET.to_owned(), request }).await;
        let ended = self.ended(&id).await;
        assert_eq!(ended.result(), v1::OperationResult::Verified, "{:?}", ended.hosts);
    }

    fn pays(&self, well: bool) {
        self.hands.values().for_each(|hands| hands.pays(well));
    }

    async fn view(&self) -> v1::GetFleetResponse {
        let request = v1::GetFleetRequest { fleet: FLEET.to_owned() };
        self.client.clone().get_fleet(request).await.unwrap().into_inner()
    }

    /// The trigger, once it stands so.
    async fn stands(&self, state: TriggerState) -> v1::TriggerView {
        eventually(&format!("the trigger is {state:?}"), || async {
            let view = self.view().await;
            view.triggers.into_iter().find(|row| row.state() == state)
        })
        .await
    }

    async fn proposals(&self) -> Vec<v1::Proposal> {
        let request = v1::ListProposalsRequest { fleet: FLEET.to_owned() };
        self.client.clone().list_proposals(request).await.unwrap().into_inner().proposals
    }

    async fn proposed(&self) -> v1::Proposal {
        eventually("a rollback is proposed", || async {
            self.proposals().await.into_iter().find(|row| row.state() == ProposalState::Waiting)
        })
        .await
    }

    /// The newest operation of a kind, once there is one.
    async fn begun(&self, prefix: &str) -> v1::Operation {
        eventually("an operation has begun", || async {
            let request = v1::ListOperationsRequest { fleet: FLEET.to_owned(), since_unix_ms: 0 };
            let rows = self.client.clone().list_operations(request).await.ok()?.into_inner();
            rows.operations.into_iter().find(|row| row.id.starts_with(prefix))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_takes_a_deploy_back_by_itself_and_not_twice_without_a_person() {
    let mut fleet = fleet(v1::Then::Rollback).await;
    // Nothing was deployed here yet: whatever fails is not its business.
    fleet.pays(false);
    fleet.stands(TriggerState::Off).await;
    fleet.pays(true);
    fleet.deploys(&[]).await;
    fleet.stands(TriggerState::Well).await;
    fleet.pays(false);
    let begun = fleet.begun("rb-").await;
    assert_eq!(begun.by, "trigger payment");
    assert!(begun.reason.contains("check payment fails on 4 hosts"), "{}", begun.reason);
    let ended = fleet.ended(&begun.id).await;
    assert_eq!(ended.result(), v1::OperationResult::Verified, "{:?}", ended.hosts);
    assert!(fleet.live().iter().all(|live| live == "v1"), "{:?}", fleet.live());
    assert!(fleet.view().await.freeze.unwrap().frozen, "nothing puts it back");

    // Somebody marks v2 as well, and deploys it again without a look: the trigger asks this time. To lift the freeze and to
    // mark a release are a person's acts; the deploy alone is not.
    let thaw = v1::SetFreezeRequest {
        fleet: FLEET.to_owned(),
        frozen: false,
        reason: "the provider was down".to_owned(),
    };
    fleet.client.set_freeze(thaw).await.unwrap();
    let mark = v1::MarkReleaseRequest {
        fleet: FLEET.to_owned(),
        release: "v2".to_owned(),
        standing: v1::Standing::Unproven.into(),
        reason: "the provider was down".to_owned(),
    };
    fleet.client.mark_release(mark).await.unwrap();
    fleet.pays(true);
    fleet.deploys(&[]).await;
    fleet.stands(TriggerState::Well).await;
    fleet.pays(false);
    let again = eventually("a second one has begun", || async {
        Some(fleet.begun("rb-").await).filter(|row| row.id != begun.id)
    })
    .await;
    assert_eq!(again.by, "trigger payment", "a person has acted in between");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_hosts_without_the_release_are_as_bad_a_person_is_asked() {
    let mut fleet = fleet(v1::Then::Rollback).await;
    fleet.deploys(&["h1", "h2"]).await;
    fleet.stands(TriggerState::Well).await;
    fleet.pays(false);
    let proposal = fleet.proposed().await;
    assert!(proposal.why_not_automatic.contains("it is not the release"), "{proposal:?}");
    assert_eq!((proposal.by.as_str(), proposal.to_release.as_str()), ("trigger payment", "v1"));
    assert_eq!(proposal.severity(), v1::TriggerSeverity::Critical);
    assert_eq!(fleet.view().await.operation, "", "nothing has begun by itself");
    assert_eq!(fleet.view().await.proposals.len(), 1);

    let reject =
        v1::RejectOperationRequest { operation: proposal.operation.clone(), reason: String::new() };
    let refused = fleet.client.reject_operation(reject.clone()).await.unwrap_err();
    assert!(refused.message().contains("with a reason"), "{refused:?}");
    let reject = v1::RejectOperationRequest { reason: "the provider is down".to_owned(), ..reject };
    let rejected = fleet.client.reject_operation(reject.clone()).await.unwrap().into_inner();
    let rejected = rejected.proposal.unwrap();
    assert_eq!((rejected.state(), rejected.decided_by.as_str()), (ProposalState::Rejected, "mira"));
    let twice = fleet.client.reject_operation(reject).await.unwrap_err();
    assert!(twice.message().contains("rejected by mira already"), "{twice:?}");
    let unknown =
        v1::ApproveOperationRequest { operation: "rb-9".to_owned(), ..Default::default() };
    let unknown = fleet.client.approve_operation(unknown).await.unwrap_err();
    assert!(unknown.message().contains("no operation `rb-9` waits"), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_proposed_begins_when_a_person_approves_even_after_a_restart() {
    let mut fleet = fleet(v1::Then::Propose).await;
    fleet.deploys(&[]).await;
    fleet.stands(TriggerState::Well).await;
    fleet.pays(false);
    let proposal = fleet.proposed().await;
    fleet.cluster.stop_coordinator();
    fleet.cluster.start_coordinator().await;
    fleet.client = fleet.cluster.client().await;
    fleet.cluster.connected(HOSTS.len()).await;
    let kept = fleet.proposals().await;
    assert_eq!(kept, std::slice::from_ref(&proposal), "it is on record");
    let approve = v1::ApproveOperationRequest {
        operation: proposal.operation.clone(),
        reason: "go".to_owned(),
    };
    let approved = fleet.client.approve_operation(approve).await.unwrap().into_inner();
    assert_eq!(approved.proposal.unwrap().state(), ProposalState::Approved);
    let ended = fleet.ended(&proposal.operation).await;
    assert_eq!(ended.by, "mira");
    assert!(ended.reason.starts_with("go (approved: check payment fails"), "{}", ended.reason);
    assert!(fleet.live().iter().all(|live| live == "v1"), "{:?}", fleet.live());
    // Its id is nobody else's.
    fleet.pays(true);
    let thaw = v1::SetFreezeRequest { fleet: FLEET.to_owned(), ..Default::default() };
    let thaw = v1::SetFreezeRequest { reason: "mended".to_owned(), ..thaw };
    fleet.client.set_freeze(thaw).await.unwrap();
}

/// Posts a body; answers the status and what was said.
async fn post(to: SocketAddr, path: &str, token: &str, body: &str) -> io::Result<(u16, String)> {
    let mut stream = tokio::net::TcpStream::connect(to).await?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: alerts\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let said = answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned();
    Ok((status, said))
}

/// As Alertmanager sends it.
fn alert(name: &str, fleet: &str, status: &str, fingerprint: &str) -> String {
    serde_json::json!({
        "version": "4",
        "groupKey": "{}:{alertname=\"HighErrorRate\"}",
        "truncatedAlerts": 0,
        "status": status,
        "receiver": "lastgood",
        "groupLabels": { "alertname": name },
        "commonLabels": { "alertname": name },
        "commonAnnotations": {},
        "externalURL": "http://alertmanager:9093",
        "alerts": [{
            "status": status,
            "labels": { "alertname": name, "fleet": fleet, "severity": "critical" },
            "annotations": { "summary": "12 % of requests fail" },
            "startsAt": "2026-11-22T03:10:00Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://prometheus:9090/graph",
            "fingerprint": fingerprint,
        }],
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_that_are_posted_propose_once_whatever_comes() {
    let mut fleet = fleet(v1::Then::Propose).await;
    fleet.deploys(&[]).await;
    let (path, good) = ("/v1/alerts", alert("HighErrorRate", FLEET, "firing", "a1"));
    let to = fleet.cluster.alerts;
    let send = async |path: &str, token: &str, body: &str| {
        post(to, path, token, body).await.expect("an answer")
    };
    let (status, said) = send(path, "another-token-altogether", &good).await;
    assert_eq!(status, 401, "{said}");
    assert!(!said.contains(ALERTS_TOKEN));
    assert_eq!(send("/metrics", ALERTS_TOKEN, &good).await.0, 404);
    assert_eq!(send(path, ALERTS_TOKEN, "{\"version\":").await.0, 400);
    let old = good.replace("\"version\":\"4\"", "\"version\":\"3\"");
    assert_eq!(send(path, ALERTS_TOKEN, &old).await.0, 400);
    let (status, said) =
        send(path, ALERTS_TOKEN, &alert("HighErrorRate", "tset", "firing", "a2")).await;
    assert_eq!(status, 422, "{said}");
    assert!(said.contains("fleet `tset` is not known") && said.contains("`test`"), "{said}");
    let (status, said) = send(path, ALERTS_TOKEN, &alert("X", "", "resolved", "a3")).await;
    assert_eq!((status, said.contains("it is resolved")), (200, true), "{said}");
    assert_eq!(fleet.proposals().await, [], "nothing of that was an alert of ours");

    // Two at once, and the first once more: one proposal.
    let other = alert("SlowAnswers", FLEET, "firing", "b1");
    let (first, second) =
        tokio::join!(send(path, ALERTS_TOKEN, &good), send(path, ALERTS_TOKEN, &other));
    assert_eq!((first.0, second.0), (200, 200), "{first:?} {second:?}");
    let proposals = fleet.proposals().await;
    assert_eq!(proposals.len(), 1, "{proposals:?}");
    let said = format!("{} {}", first.1, second.1);
    assert!(said.contains("proposed as rb-") && said.contains("proposed already as rb-"), "{said}");
    let (_, again) = send(path, ALERTS_TOKEN, &good).await;
    assert!(again.contains("it was taken before"), "{again}");
    assert_eq!(proposals[0].severity(), v1::TriggerSeverity::Critical);

    // An alert during a rollback changes nothing.
    let (_, hands) = fleet.hands.iter().next().expect("a host");
    hands.hold_back(agent::order::Verb::Stop);
    let approve = v1::ApproveOperationRequest {
        operation: proposals[0].operation.clone(),
        reason: String::new(),
    };
    fleet.client.clone().approve_operation(approve).await.unwrap();
    let (status, said) =
        send(path, ALERTS_TOKEN, &alert("HighErrorRate", FLEET, "firing", "c1")).await;
    assert_eq!(status, 200);
    assert!(said.contains("already takes it back"), "{said}");
    hands.let_go();
    let operation = proposals[0].operation.clone();
    fleet.ended(&operation).await;

    // Too many at once are told to come again.
    let mut refused = false;
    for number in 0..100 {
        let body = alert("HighErrorRate", FLEET, "resolved", &format!("d{number}"));
        refused |= send(path, ALERTS_TOKEN, &body).await.0 == 429;
    }
    assert!(refused, "100 requests within a moment");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agents_own_samples_say_is_what_a_trigger_measures() {
    let mut fleet = fleet_with(v1::Trigger {
        source: Some(v1::trigger::Source::Probes(v1::Probes {})),
        breach: "error_rate > 0.5".to_owned(),
        then: v1::Then::Propose.into(),
        ..trigger()
    })
    .await;
    fleet.deploys(&[]).await;
    // Only what was measured is well.
    fleet.stands(TriggerState::Well).await;
    fleet.pays(false);
    let proposal = fleet.proposed().await;
    assert_eq!((proposal.by.as_str(), proposal.to_release.as_str()), ("trigger payment", "v1"));
    assert!(proposal.why.contains('%'), "{}", proposal.why);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_approves_and_who_rejects_in_the_same_moment_are_not_both_told_yes() {
    let mut fleet = fleet(v1::Then::Propose).await;
    fleet.deploys(&[]).await;
    fleet.stands(TriggerState::Well).await;
    fleet.pays(false);
    let operation = fleet.proposed().await.operation;
    let approve =
        v1::ApproveOperationRequest { operation: operation.clone(), reason: "go".to_owned() };
    let reject =
        v1::RejectOperationRequest { operation: operation.clone(), reason: "wait".to_owned() };
    let (mut first, mut second) = (fleet.client.clone(), fleet.client.clone());
    let (approved, rejected) =
        tokio::join!(first.approve_operation(approve), second.reject_operation(reject));
    let decided = fleet.proposals().await.into_iter().find(|row| row.operation == operation);
    let decided = decided.unwrap().state();
    match (&approved, &rejected) {
        (Ok(_), Err(refused)) => {
            assert_eq!(decided, ProposalState::Approved);
            assert!(refused.message().contains("approved by mira already"), "{refused:?}");
            fleet.ended(&operation).await;
        }
        (Err(refused), Ok(_)) => {
            assert_eq!(decided, ProposalState::Rejected);
            assert!(refused.message().contains("rejected by mira already"), "{refused:?}");
            assert_eq!(fleet.view().await.operation, "", "nothing has begun");
            assert!(fleet.live().iter().all(|live| live == "v2"), "{:?}", fleet.live());
        }
        (Ok(_), Ok(_)) | (Err(_), Err(_)) => panic!("{approved:?} {rejected:?}"),
    }
}
