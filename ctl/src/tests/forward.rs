//! Going forward, and traffic: which requests a command makes, in which order, and what it says in the end.

use clap::Parser as _;
use proto::v1::{self, create_plan_request::Request};

use super::{Fake, ctl, document, script};
use crate::{cli::Cli, exit::Exit, render::watch};

fn all_to(group: &str) -> v1::Weights {
    let groups = vec![v1::GroupWeight { group: group.to_owned(), percent: 100 }];
    v1::Weights { groups, out: Vec::new() }
}

/// A fleet whose edge sends all traffic to blue, and a release that is made of an artefact.
fn world(result: v1::OperationResult) -> Fake {
    let mut script = script(result);
    script.fleet.traffic = Some(v1::TrafficView {
        observed: Some(all_to("blue")),
        slots: vec!["blue".to_owned(), "green".to_owned()],
        ..v1::TrafficView::default()
    });
    let made_of = [("crm".to_owned(), v1::Artefact::default())].into();
    let release = "v1.4.4".to_owned();
    script.releases = vec![v1::Release { release, artefacts: made_of, ..v1::Release::default() }];
    Fake::start(script)
}

fn requests(fake: &Fake) -> Vec<Request> {
    let planned = fake.script().planned.clone();
    planned.into_iter().map(|request| request.request.unwrap()).collect()
}

#[tokio::test]
async fn a_deploy_fetches_first_and_goes_to_the_side_without_traffic() {
    let fake = world(v1::OperationResult::Verified);
    let line = ["deploy", "--release", "v1.4.4", "--confirm", "prod"];
    let (exit, captured) = ctl(fake.context(), &line).await;
    assert_eq!(exit, Exit::Done, "{}", captured.stderr());
    let [Request::Fetch(fetched), Request::Deploy(deploy)] = &requests(&fake)[..] else {
        panic!("{:?}", requests(&fake));
    };
    assert_eq!(fetched, "v1.4.4");
    assert_eq!(deploy.strategy(), v1::Strategy::BlueGreen);
    assert_eq!(fake.script().starts.len(), 2);
    assert!(captured.stderr().contains("strategy  blue-green: green has no traffic"));
}

#[tokio::test]
async fn without_an_idle_side_or_with_hosts_it_is_rolling() {
    let fake = world(v1::OperationResult::Verified);
    fake.script().fleet.traffic = None;
    for line in [
        &["deploy", "--release", "v1.4.4", "--no-fetch", "--confirm", "prod"][..],
        &["deploy", "--release", "v1.4.3", "--hosts", "crm-b1", "--confirm", "prod"][..],
    ] {
        assert_eq!(ctl(fake.context(), line).await.0, Exit::Done);
    }
    let requests = requests(&fake);
    assert_eq!(requests.len(), 2, "v1.4.3 is made of nothing that is known: {requests:?}");
    for request in requests {
        let Request::Deploy(deploy) = request else { panic!("{request:?}") };
        assert_eq!(deploy.strategy(), v1::Strategy::Rolling);
    }
}

#[tokio::test]
async fn a_fetch_that_fails_is_the_end_of_a_deploy() {
    let fake = world(v1::OperationResult::Refused);
    let line = ["deploy", "--release", "v1.4.4", "--confirm", "prod"];
    let (exit, _) = ctl(fake.context(), &line).await;
    assert_eq!(exit, Exit::Refused);
    assert!(matches!(&requests(&fake)[..], [Request::Fetch(_)]));
}

#[tokio::test]
async fn a_plan_that_was_shown_runs_without_a_new_one() {
    let fake = world(v1::OperationResult::Verified);
    for command in ["deploy", "switch"] {
        let line = [command, "--plan", "8f21c0de", "--confirm", "prod"];
        assert_eq!(ctl(fake.context(), &line).await.0, Exit::Done);
    }
    assert_eq!((requests(&fake).len(), fake.script().starts.len()), (0, 2));
    // What is said beside it would be ignored, and might be another release.
    for line in [
        &["ctl", "deploy", "--plan", "8f21c0de", "--release", "v2"][..],
        &["ctl", "deploy", "--plan", "8f21c0de", "--give-up-warm"][..],
        &["ctl", "switch", "--plan", "8f21c0de", "--to", "green"][..],
        &["ctl", "deploy"][..],
        &["ctl", "switch"][..],
    ] {
        assert!(Cli::try_parse_from(line).is_err(), "{line:?}");
    }
}

#[tokio::test]
async fn a_dry_run_gives_a_line_that_runs_exactly_that_plan() {
    let fake = world(v1::OperationResult::Verified);
    let line = ["deploy", "--release", "v1.4.4", "--dry-run", "-o", "json"];
    let (exit, captured) = ctl(fake.context(), &line).await;
    assert_eq!(exit, Exit::Done);
    let command = "ctl --context test deploy --fleet prod --plan 8f21c0de --confirm prod";
    assert_eq!(document(&captured)["command"], command);
    assert_eq!(fake.script().starts.len(), 0, "a dry run fetches nothing");
}

#[tokio::test]
async fn single_hosts_of_a_slot_are_refused_before_anything_is_fetched() {
    let fake = world(v1::OperationResult::Verified);
    let line = ["deploy", "--release", "v1.4.4", "--strategy", "blue-green", "--hosts", "crm-g1"];
    let (exit, _) = ctl(fake.context(), &line).await;
    assert_eq!(exit, Exit::Usage);
    assert_eq!(requests(&fake).len(), 0);
}

#[tokio::test]
async fn a_switch_and_its_undo() {
    let fake = world(v1::OperationResult::Verified);
    for line in [
        ["switch", "--to", "green", "--confirm", "prod"],
        ["switch", "--undo", "sw-0204", "--confirm", "prod"],
    ] {
        assert_eq!(ctl(fake.context(), &line).await.0, Exit::Done);
    }
    let [Request::Switch(switch), Request::Undo(undo)] = &requests(&fake)[..] else {
        panic!("{:?}", requests(&fake));
    };
    assert_eq!((switch.to.as_str(), undo.as_str()), ("green", "sw-0204"));
}

#[tokio::test]
async fn a_release_is_made_known_and_fetched_unless_told_otherwise() {
    let digest = format!("tree:{}", "9f".repeat(32));
    let artefact = format!("crm=builds:v1.4.4@{digest}");
    let fake = world(v1::OperationResult::Verified);
    let line = ["release", "create", "v1.4.4", "--artefact", &artefact, "--no-fetch"];
    let (exit, captured) = ctl(fake.context(), &line).await;
    assert_eq!(exit, Exit::Done);
    assert!(captured.stdout().contains("ctl --context test release fetch v1.4.4"));
    assert_eq!(requests(&fake).len(), 0);

    let line = ["release", "create", "v1.4.4", "--artefact", &artefact];
    assert_eq!(ctl(fake.context(), &line).await.0, Exit::Done);
    assert!(matches!(&requests(&fake)[..], [Request::Fetch(_)]));

    let line = ["release", "fetch", "v1.4.4", "--dry-run"];
    assert_eq!(ctl(fake.context(), &line).await.0, Exit::Done);
    assert_eq!(fake.script().starts.len(), 1, "a dry run starts nothing");

    let twice = ["release", "create", "v1", "--artefact", &artefact, "--artefact", &artefact];
    assert_eq!(ctl(fake.context(), &twice).await.0, Exit::Usage);
}

#[tokio::test]
async fn a_quarantine_says_what_it_means_once_it_holds() {
    let fake = world(v1::OperationResult::Verified);
    let line = ["release", "quarantine", "v1.4.3", "--reason", "mails are sent twice"];
    let (exit, captured) = ctl(fake.context(), &line).await;
    assert_eq!(exit, Exit::Done);
    assert_eq!(captured.stdout(), "v1.4.3 is marked bad.\n");
    let told = captured.stderr();
    assert!(told.contains("rollbacks never ask"), "{told}");
    assert!(told.contains("release mark v1.4.3 unproven"), "{told}");
}

#[tokio::test]
async fn an_operation_that_failed_says_what_the_edges_do_now() {
    let fake = world(v1::OperationResult::Mixed);
    fake.script().operation.plan = watch::tests::traffic_operation().plan;
    let line = ["watch", "rb-0193", "-o", "json"];
    let (_, captured) = ctl(fake.context(), &line).await;
    assert_eq!(document(&captured)["traffic"]["weights"]["groups"]["blue"], 100);
    let (_, captured) = ctl(fake.context(), &["watch", "rb-0193"]).await;
    assert!(captured.stdout().contains("the traffic goes to blue 100 %"), "{}", captured.stdout());

    // Where it went well nobody asks.
    fake.script().operation.result = v1::OperationResult::Verified.into();
    let (_, captured) = ctl(fake.context(), &line).await;
    assert!(document(&captured)["traffic"].is_null());
}
