//! Canaries and proposals: what is asked of the coordinator, what is said before and after, and what a command exits with.

use clap::Parser as _;
use proto::v1::{self, create_plan_request::Request, promote_operation_request::To};

use super::{Fake, ctl, document, script};
use crate::{
    cli::Cli,
    exit::Exit,
    render::{canary::tests as example, triggers, watch},
};

/// A canary stands at 5 %, and the edges say so.
fn world(result: v1::OperationResult) -> Fake {
    let mut script = script(result);
    script.operation = v1::Operation { result: result.into(), ..example::example() };
    script.events = Vec::new();
    script.fleet.operation = script.operation.id.clone();
    script.fleet.traffic = Some(example::traffic(5));
    Fake::start(script)
}

/// What follows a promotion to 50 %.
fn promoted(fake: &Fake) {
    let mut script = fake.script();
    let mut operation = script.operation.clone();
    operation.canary.as_mut().unwrap().step = Some(1);
    script.moved = Some((operation, example::traffic(50)));
    script.events = watch::tests::canary_events();
    // It goes on for longer than anybody watches.
    script.hold_at = Some(script.events.len() as u64);
    script.operation.events = 7;
}

/// It has ended like this, and the edges say so.
fn over(fake: &Fake, result: v1::OperationResult, weight: u32) {
    let mut script = fake.script();
    let mut operation = v1::Operation { result: result.into(), ..script.operation.clone() };
    operation.ended_unix_ms = watch::tests::started_ms() + 96_400;
    operation.aborted_by = "mira".to_owned();
    operation.canary.as_mut().unwrap().waits = v1::CanaryWaits::Nothing.into();
    script.moved = Some((operation, example::traffic(weight)));
}

#[tokio::test]
async fn a_canary_is_a_deploy_by_another_name() {
    for line in [
        &["deploy", "--release", "v1.4.3", "--strategy", "canary", "--confirm", "prod"][..],
        &["canary", "start", "--release", "v1.4.3", "--confirm", "prod"][..],
    ] {
        let fake = Fake::start(script(v1::OperationResult::Verified));
        assert_eq!(ctl(fake.context(), line).await.0, Exit::Done, "{line:?}");
        let planned = fake.script().planned.clone();
        let Some(Request::Deploy(deploy)) = &planned[0].request else { panic!("{planned:?}") };
        assert_eq!(deploy.strategy(), v1::Strategy::Canary);
        assert_eq!(fake.script().starts.len(), 1);
    }
    let hosts = ["deploy", "--release", "v2", "--strategy", "canary", "--hosts", "crm-c1"];
    let fake = Fake::start(script(v1::OperationResult::Verified));
    assert_eq!(ctl(fake.context(), &hosts).await.0, Exit::Usage);
}

#[tokio::test]
async fn a_canary_that_was_taken_back_by_itself_is_23() {
    for (by, code) in [("judge", 23), ("lastgood", 23), ("mira", 20), ("", 20)] {
        let fake = world(v1::OperationResult::PutBack);
        fake.script().operation.aborted_by = by.to_owned();
        let line = ["canary", "start", "--release", "v1.4.3", "--confirm", "prod", "-o", "json"];
        let (exit, captured) = ctl(fake.context(), &line).await;
        let document = document(&captured);
        assert_eq!((exit.code(), document["exit_code"].as_u64()), (code, Some(code.into())));
        assert_eq!(document["result"]["aborted_by"].as_str().unwrap_or_default(), by);
        // Whoever watches it exits alike.
        assert_eq!(ctl(fake.context(), &["watch", "dp-0207"]).await.0.code(), code);
    }
}

#[tokio::test]
async fn where_no_canary_runs_every_command_says_so_and_asks_nothing() {
    let none = world(v1::OperationResult::Running);
    none.script().fleet.operation.clear();
    let other = world(v1::OperationResult::Running);
    other.script().operation.canary = None;
    let over = world(v1::OperationResult::Verified);
    for (fake, now) in [(none, "no operation"), (other, "has no canary"), (over, "is over")] {
        for verb in ["status", "promote", "pause", "resume", "abort"] {
            let (exit, captured) = ctl(fake.context(), &["canary", verb]).await;
            assert_eq!(exit, Exit::Refused, "{verb}");
            let told = captured.stderr();
            assert!(told.contains("no canary runs in prod") && told.contains(now), "{told}");
        }
        let script = fake.script();
        assert_eq!((script.promoted.len(), script.aborts.len()), (0, 0));
    }
}

#[tokio::test]
async fn status_has_what_is_asked_and_what_is_seen() {
    let fake = world(v1::OperationResult::Running);
    let (exit, captured) = ctl(fake.context(), &["canary", "status"]).await;
    assert_eq!(exit, Exit::Done);
    assert!(captured.stdout().contains("5 %, step 1 of 2"), "{}", captured.stdout());
    let (_, captured) = ctl(fake.context(), &["canary", "status", "-o", "json"]).await;
    let seen = document(&captured);
    assert_eq!((&seen["weight"], &seen["weight_observed"]), (&5.into(), &5.into()));
    assert_eq!((&seen["waits"], &seen["ruling"]["verdict"]), (&"hold".into(), &"pass".into()));
    let (_, captured) = ctl(fake.context(), &["status", "-o", "json"]).await;
    assert_eq!(document(&captured)["canary"]["operation"], "dp-0207");
}

#[tokio::test]
async fn a_promotion_says_from_where_to_where_asks_and_waits_until_the_edges_have_it() {
    for (words, to) in [(&[][..], None), (&["--to", "50"][..], Some(To::Weight(50)))] {
        let fake = world(v1::OperationResult::Running);
        promoted(&fake);
        let line = [&["canary", "promote", "--confirm", "prod"][..], words].concat();
        let (exit, captured) = ctl(fake.context(), &line).await;
        assert_eq!(exit, Exit::Done, "{}", captured.stderr());
        let told = captured.stderr();
        assert!(told.contains("dp-0207  canary 5 % → 50 %"), "{told}");
        assert!(told.contains("canary gets 50 % of the traffic"), "{told}");
        assert!(!told.contains("stage 3/5"), "what was before is not said again: {told}");
        assert!(captured.stdout().contains("50 %, step 2 of 2"), "{}", captured.stdout());
        assert_eq!(fake.script().promoted[0].to, to);
    }
}

#[tokio::test]
async fn the_whole_fleet_is_promoted_to_the_end_of_the_operation() {
    for (step, words) in [(0, &["--full"][..]), (0, &["--to", "100"][..]), (1, &[][..])] {
        let fake = world(v1::OperationResult::Running);
        fake.script().operation.canary.as_mut().unwrap().step = Some(step);
        over(&fake, v1::OperationResult::Verified, 0);
        let line = [&["canary", "promote", "--confirm", "prod"][..], words].concat();
        let (exit, captured) = ctl(fake.context(), &line).await;
        assert_eq!(exit, Exit::Done, "{}", captured.stderr());
        assert!(captured.stderr().contains("→ 100 %"), "{}", captured.stderr());
        assert!(captured.stdout().contains("prod serves v1.4.4"), "{}", captured.stdout());
        let to = if words.is_empty() { None } else { Some(To::Full(true)) };
        assert_eq!(fake.script().promoted[0].to, to);
    }
}

#[tokio::test]
async fn a_promotion_to_no_weight_of_it_or_without_a_word_asks_nothing_of_the_coordinator() {
    let fake = world(v1::OperationResult::Running);
    let (exit, captured) = ctl(fake.context(), &["canary", "promote", "--to", "40"]).await;
    assert_eq!(exit, Exit::Usage);
    assert!(captured.stderr().contains("it has 5, 50, 100"), "{}", captured.stderr());
    let (exit, captured) = ctl(fake.context(), &["canary", "promote", "--to", "50"]).await;
    assert_eq!(exit, Exit::Usage);
    let line = "ctl --context test canary promote --to 50 --fleet prod --confirm prod";
    assert!(captured.stderr().contains(line), "{}", captured.stderr());
    assert_eq!(ctl(fake.context(), &["canary", "promote", "--yes"]).await.0, Exit::Usage);
    assert_eq!(fake.script().promoted.len(), 0);
    assert!(Cli::try_parse_from(["ctl", "canary", "promote", "--to", "50", "--full"]).is_err());
}

#[tokio::test]
async fn an_abort_never_asks_and_is_done_when_the_edges_say_nothing_goes_there() {
    for (result, weight, code) in [
        (v1::OperationResult::PutBack, 0, 0),
        (v1::OperationResult::Refused, 0, 0),
        (v1::OperationResult::Mixed, 0, 21),
        // It came too late.
        (v1::OperationResult::Verified, 0, 10),
    ] {
        let fake = world(v1::OperationResult::Running);
        over(&fake, result, weight);
        let (exit, captured) = ctl(fake.context(), &["canary", "abort"]).await;
        assert_eq!(exit.code(), code, "{result:?}: {}", captured.stderr());
        let told = captured.stderr();
        assert!(told.contains("dp-0207  canary 5 % → 0 %"), "{told}");
        assert_eq!(told.contains("canary 0 %, as the edges say"), code == 0, "{told}");
        assert_eq!(fake.script().aborts, [i32::from(v1::AbortMode::Restore)]);
    }
    let fake = world(v1::OperationResult::Running);
    assert_eq!(ctl(fake.context(), &["canary", "abort", "--detach"]).await.0, Exit::Done);
}

#[tokio::test]
async fn pause_and_resume_show_where_it_stands() {
    let fake = world(v1::OperationResult::Running);
    for verb in ["pause", "resume"] {
        let (exit, captured) = ctl(fake.context(), &["canary", verb]).await;
        assert_eq!(exit, Exit::Done);
        assert!(captured.stdout().contains("5 %, step 1 of 2"), "{}", captured.stdout());
    }
}

/// A rollback was proposed, and its plan is the example's.
fn proposed() -> Fake {
    let mut script = script(v1::OperationResult::Verified);
    script.proposals = vec![triggers::tests::example()];
    script.fleet.proposals = script.proposals.clone();
    script.operation.id = "rb-0208".to_owned();
    Fake::start(script)
}

#[tokio::test]
async fn what_was_proposed_is_shown_agreed_to_and_followed() {
    let fake = proposed();
    let (exit, captured) = ctl(fake.context(), &["approve", "rb-0208"]).await;
    assert_eq!(exit, Exit::Usage, "nobody can be asked");
    let line = "ctl --context test approve rb-0208 --fleet prod --confirm prod";
    assert!(captured.stderr().contains(line), "{}", captured.stderr());
    assert!(fake.script().approved.is_empty());

    let line = ["approve", "rb-0208", "--confirm", "prod", "--reason", "users see it"];
    let (exit, captured) = ctl(fake.context(), &line).await;
    assert_eq!(exit, Exit::Done, "{}", captured.stderr());
    let told = captured.stderr();
    assert!(told.contains("error_rate was 14.2 %") && told.contains("Why this target"), "{told}");
    assert!(captured.stdout().contains("prod serves v1.4.2"), "{}", captured.stdout());
    let approved = fake.script().approved.clone();
    assert_eq!((approved.len(), approved[0].reason.as_str()), (1, "users see it"));
}

#[tokio::test]
async fn a_plan_that_cannot_be_shown_keeps_nobody_from_approving() {
    let fake = proposed();
    fake.script().plan_refusal = Some(tonic::Status::internal("no"));
    let line = ["approve", "rb-0208", "--confirm", "prod", "--detach"];
    let (exit, captured) = ctl(fake.context(), &line).await;
    assert_eq!(exit, Exit::Done, "{}", captured.stderr());
    assert!(captured.stderr().contains("cannot be shown"), "{}", captured.stderr());
    assert_eq!(fake.script().approved.len(), 1);
}

#[tokio::test]
async fn what_does_not_wait_is_not_approved() {
    let fake = proposed();
    fake.script().proposals[0].state = v1::ProposalState::Expired.into();
    let (exit, captured) = ctl(fake.context(), &["approve", "rb-0208", "--confirm", "prod"]).await;
    assert_eq!(exit, Exit::Refused);
    assert!(captured.stderr().contains("rb-0208 was expired already"), "{}", captured.stderr());
    let (exit, _) = ctl(fake.context(), &["approve", "rb-0300", "--confirm", "prod"]).await;
    assert_eq!(exit, Exit::Usage);
    assert!(fake.script().approved.is_empty());
}

#[tokio::test]
async fn proposals_are_listed_rejected_and_part_of_the_history() {
    let fake = proposed();
    let (exit, captured) = ctl(fake.context(), &["proposals", "-o", "json"]).await;
    assert_eq!(exit, Exit::Done);
    assert_eq!(document(&captured)["proposals"][0]["state"], "waiting");
    let (_, captured) = ctl(fake.context(), &["history", "--since", "90d", "-o", "json"]).await;
    assert_eq!(document(&captured)["proposals"][0]["operation"], "rb-0208");
    let line = ["reject", "rb-0208", "--reason", "it was the proxy", "-o", "json"];
    let (exit, captured) = ctl(fake.context(), &line).await;
    assert_eq!(exit, Exit::Done);
    let rejected = document(&captured);
    assert_eq!(
        (&rejected["state"], &rejected["decided_reason"]),
        (&"rejected".into(), &"it was the proxy".into())
    );
}

const FLEET: &str = include_str!("../../../deploy/examples/ace-crm.fleet.yaml");

#[tokio::test]
async fn queries_are_tried_by_the_coordinator_and_one_that_fails_is_an_invalid_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fleet.yaml");
    std::fs::write(&file, FLEET).unwrap();
    let file = file.to_str().unwrap();
    let fake = world(v1::OperationResult::Running);
    let (exit, captured) = ctl(fake.context(), &["validate", "-f", file]).await;
    assert_eq!(exit, Exit::Done);
    assert!(
        captured.stderr().contains("trigger `payment` can never fire"),
        "{}",
        captured.stderr()
    );
    let tried = |ok, detail: &str| v1::SourceTried {
        place: "triggers.slow.source.query".to_owned(),
        query: "histogram_quantile(0.95, …)".to_owned(),
        ok,
        detail: detail.to_owned(),
    };
    for (row, code, words) in [
        (tried(true, "0.182"), Exit::Done, "✓ triggers.slow.source.query"),
        (tried(false, "bad_data: parse error"), Exit::InvalidFleet, "bad_data: parse error"),
    ] {
        fake.script().sources = vec![row];
        let (exit, captured) = ctl(fake.context(), &["validate", "--online", "-f", file]).await;
        assert_eq!(exit, code);
        assert!(captured.stdout().contains(words), "{}", captured.stdout());
    }
    let line = ["validate", "--online", "-f", file, "-o", "json"];
    let (_, captured) = ctl(fake.context(), &line).await;
    assert_eq!(document(&captured)["sources"][0]["ok"], false);
    assert_eq!(fake.script().applied.len(), 0, "nothing is applied");
}

#[tokio::test]
async fn a_bare_rollback_while_a_canary_runs_is_its_abort() {
    let fake = world(v1::OperationResult::Running);
    over(&fake, v1::OperationResult::PutBack, 0);
    let (exit, captured) = ctl(fake.context(), &["rollback", "--confirm", "prod"]).await;
    assert_eq!(exit, Exit::Done, "{captured:?}");
    assert_eq!(fake.script().planned.len(), 0, "nothing was planned");
    assert!(captured.stderr().contains("to roll back is to abort it"), "{}", captured.stderr());
    // Who names where to, or only looks, plans as ever.
    for line in [&["rollback", "--to", "v1.4.1", "--dry-run"][..], &["rollback", "--dry-run"][..]] {
        let fake = world(v1::OperationResult::Running);
        ctl(fake.context(), line).await;
        assert_eq!(fake.script().planned.len(), 1, "{line:?}");
    }
}
