//! The way back is in the trace as well: steps that fail, steps that are taken back, an abort in mid-track.
//!
//! Where spans go is a process's own affair: each case runs in a child, which is this test again with a collector in
//! its environment.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
};

use agent::order::Verb;
use proto::{telemetry, v1};
use tests::collector::{Collector, Protocol, Received, one_tree};

use crate::operations::{fleet, rollback};

/// What a case exported; `name` is its child below.
fn exported(name: &str) -> Vec<Received> {
    let collector = Collector::start(Protocol::Grpc);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .envs(collector.environment())
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    collector.spans()
}

fn steps_of<'a>(spans: &'a [Received], host: &str) -> Vec<&'a Received> {
    spans
        .iter()
        .filter(|span| span.name != "track")
        .filter(|span| span.attributes.get("host.name").is_some_and(|name| name == host))
        .collect()
}

fn is_there(steps: &[&Received], name: &str, ok: bool) -> bool {
    steps.iter().any(|step| step.name == name && step.ok == Some(ok))
}

#[tokio::test(flavor = "multi_thread")]
async fn child_with_a_host_that_fails() {
    if !telemetry::exports() {
        return;
    }
    let guard = telemetry::traces_only("test");
    let mut fleet = fleet().await;
    fleet.hands["h1"].fail(Verb::Verify, "GET https://mira:hunter2@h1/health says 500");
    let id = fleet.begin(rollback("", &[])).await;
    fleet.ended(&id).await;
    drop(guard);
}

#[test]
fn p11_what_failed_and_was_taken_back_is_in_the_tree_without_the_host_s_words() {
    let spans = exported("traces::child_with_a_host_that_fails");
    let root = one_tree(&spans, "");
    assert_eq!((root.name.as_str(), root.ok), ("RUN rollback", Some(false)));
    assert_eq!(root.attributes["cicd.pipeline.result"], "failure");
    let steps = steps_of(&spans, "h1");
    assert!(is_there(&steps, "verify", false), "{steps:?}");
    for undone in ["undo start", "undo switch", "undo stop"] {
        assert!(is_there(&steps, undone, true), "{undone} in {steps:?}");
    }
    let track = spans.iter().find(|span| {
        span.name == "track" && span.attributes.get("error.type").is_some_and(|why| why == "undone")
    });
    assert_eq!(track.unwrap().attributes["host.name"], "h1");
    let steps = steps_of(&spans, "h2");
    assert!(is_there(&steps, "verify", true), "{steps:?}");
    assert!(!format!("{spans:?}").contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn child_with_an_abort_in_mid_track() {
    if !telemetry::exports() {
        return;
    }
    let guard = telemetry::traces_only("test");
    let mut fleet = fleet().await;
    fleet.hands["h1"].hold_back(Verb::Verify);
    let id = fleet.begin(rollback("", &[])).await;
    fleet.performed("h1", "start").await;
    fleet.abort(&id, v1::AbortMode::Restore).await;
    fleet.hands["h1"].let_go();
    fleet.ended(&id).await;
    drop(guard);
}

#[test]
fn an_abort_in_mid_track_leaves_no_step_without_its_track() {
    let spans = exported("traces::child_with_an_abort_in_mid_track");
    let root = one_tree(&spans, "");
    assert_eq!(root.attributes["cicd.pipeline.run.id"], "rb-0001");
    let steps = steps_of(&spans, "h1");
    let goals: BTreeSet<&str> = spans
        .iter()
        .filter(|span| span.name == "track" && span.attributes["host.name"] == "h1")
        .map(|track| track.attributes["rollback.goal"].as_str())
        .collect();
    assert_eq!(goals, ["forward", "undo"].into());
    for name in ["stop", "switch", "start", "undo start", "undo switch", "undo stop"] {
        assert!(is_there(&steps, name, true), "{name} in {steps:?}");
    }
}
