//! Every scenario of `ctl sandbox`, as a user runs it: real processes, real kills, real disks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod edge;
mod traces;

use std::{
    path::Path,
    process::{Command, Output},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

/// One at a time: each has twenty processes and measures times.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sandbox_command(arguments: &[&str], temporary: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ctl-under-test"));
    command
        .arg("sandbox")
        .args(arguments)
        .env("TMPDIR", temporary)
        .env("LASTGOOD_CONFIG", temporary.join("config.yaml"));
    command
}

fn sandbox(arguments: &[&str], temporary: &Path) -> Output {
    sandbox_command(arguments, temporary).output().unwrap()
}

/// Runs a scenario; its document. Nothing of it is left, on disk or running.
fn scenario(name: &str) -> Value {
    let _alone = alone();
    let temporary = tempfile::tempdir().unwrap();
    let output = sandbox(&["--scenario", name, "-o", "json"], temporary.path());
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let document: Value =
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}\n{stdout}\n{stderr}"));
    assert_eq!(document["ok"], true, "{stdout}\n{stderr}");
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(document["scenario"], name);
    assert_nothing_left(temporary.path());
    document
}

fn assert_nothing_left(temporary: &Path) {
    let left: Vec<_> =
        std::fs::read_dir(temporary).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "left on disk: {left:?}");
    let needle = temporary.to_str().unwrap();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        assert!(!line.contains(needle), "left running: {line}");
    }
}

fn hosts(document: &Value) -> impl Iterator<Item = &Value> {
    document["hosts"].as_array().unwrap().iter().filter(|host| host["group"] != "edge")
}

fn assert_restored(host: &Value) {
    assert_eq!(host["outcome"], "restored", "{host}");
    assert_eq!(host["version_observed"], host["version_wanted"], "{host}");
    assert!(host["outage_ms"].as_u64().is_some_and(|ms| ms > 0), "{host}");
}

#[test]
fn p03_a_bad_release_is_taken_back_on_every_host() {
    let document = scenario("rollback");
    assert_eq!(document["exit_code"], 0);
    assert_eq!(document["hosts"].as_array().unwrap().len(), 6, "every host is accounted for");
    for host in hosts(&document) {
        assert_eq!(host["outcome"], "restored", "{host}");
        assert_eq!(host["version_observed"], host["version_wanted"], "{host}");
        let was_bad = host["group"] == "blue";
        assert_eq!(host["outage_ms"].as_u64().is_some_and(|ms| ms > 0), was_bad, "{host}");
    }
    assert!(document["error_rate_before"].as_f64().unwrap() > 0.2);
    assert_eq!(document["error_rate_after"], 0.0);
    let at = |key: &str| document[key].as_u64().unwrap_or_else(|| panic!("no {key}"));
    assert!(at("mitigated_at_edge_ms") < at("total_ms"), "users first: {document}");
    assert_eq!(document["users"]["version"], "v1.0.0");
}

#[test]
fn a_release_goes_live_and_back_and_no_user_notices() {
    let document = scenario("blue-green");
    assert_eq!(document["users"]["failures"], 0);
    assert!(document["users"]["requests"].as_u64().unwrap() > 100, "{document}");
    assert_eq!(document["users"]["version"], "v1.0.0", "in the end they are back");
    for host in hosts(&document) {
        assert_eq!(host["version_observed"], host["version_wanted"], "{host}");
    }
}

fn verdicts(document: &Value) -> Vec<&str> {
    let rows = document["verdicts"].as_array().unwrap().iter();
    rows.map(|row| row["verdict"].as_str().unwrap()).collect()
}

#[test]
fn a_bad_canary_is_taken_back_by_the_judge() {
    let document = scenario("canary-abort");
    assert_eq!(document["exit_code"], 23, "reverted");
    assert_eq!(verdicts(&document).last(), Some(&"fail"), "{document}");
    let users = &document["users"];
    assert_eq!(users["version"], "v1.0.0");
    let (requests, failures) = (users["requests"].as_u64(), users["failures"].as_u64());
    let failed = failures.unwrap() as f64 / requests.unwrap() as f64;
    assert!(failed < 0.05, "only the canary's share met it: {users}");
    for host in hosts(&document) {
        assert_eq!(host["version_observed"], "v1.0.0", "{host}");
    }
}

#[test]
fn a_good_canary_goes_to_everybody_by_itself_and_no_user_notices() {
    let document = scenario("canary-promote");
    assert_eq!(document["exit_code"], 0);
    assert_eq!(document["users"]["failures"], 0);
    assert_eq!(document["users"]["version"], "v3.0.0");
    let passed = verdicts(&document).into_iter().filter(|verdict| *verdict == "pass").count();
    assert!(passed >= 2, "at each weight: {document}");
}

#[test]
fn an_outage_that_is_nobodys_fault_takes_no_canary_back() {
    let document = scenario("dependency-outage");
    assert_eq!(document["exit_code"], 0);
    assert!(!verdicts(&document).contains(&"fail"), "{document}");
    assert!(document["users"]["failures"].as_u64().unwrap() > 0, "users noticed it");
    assert_eq!(document["users"]["version"], "v3.0.0", "and then it went on");
}

#[test]
fn p08_a_coordinator_that_is_killed_goes_on_where_it_was() {
    let document = scenario("coordinator-crash");
    assert_eq!(document["exit_code"], 0);
    hosts(&document).for_each(assert_restored);
    let killed = &document["killed"][0];
    assert_eq!(killed["what"], "coordinator");
    assert_ne!(killed["old_pid"], killed["new_pid"]);
}

#[test]
fn p04_an_agent_that_is_killed_in_its_switch_leaves_no_mix() {
    let document = scenario("agent-crash");
    assert_eq!(document["exit_code"], 0);
    hosts(&document).for_each(assert_restored);
    assert!(document["killed"][0]["what"].as_str().unwrap().starts_with("agent "));
}

#[test]
fn p03_a_host_that_never_comes_back_is_unknown() {
    let document = scenario("host-lost");
    assert_eq!(document["exit_code"], 21);
    let (lost, others): (Vec<_>, Vec<_>) =
        hosts(&document).partition(|host| host["outcome"] == "unknown");
    assert_eq!(lost.len(), 1);
    assert!(lost[0]["version_observed"].is_null());
    others.into_iter().for_each(assert_restored);
}

#[test]
fn p05_a_damaged_way_back_is_refused_before_anything_stops() {
    let document = scenario("bad-target");
    assert_eq!(document["exit_code"], 10);
    for host in hosts(&document) {
        assert_eq!(host["outcome"], "original", "{host}");
        assert_eq!(host["outage_ms"], 0, "{host}");
        assert_eq!(host["version_observed"], "v2.0.0", "{host}");
    }
    let damaged =
        hosts(&document).find(|host| host["reason"].as_str().unwrap().contains("is damaged"));
    assert!(damaged.is_some(), "the damaged host is named");
}

#[test]
fn a_kept_sandbox_answers_ctl_until_it_is_stopped() {
    let _alone = alone();
    let temporary = tempfile::tempdir().unwrap();
    let kept = sandbox(&["--keep", "-o", "json"], temporary.path());
    assert_eq!(kept.status.code(), Some(0), "{}", String::from_utf8_lossy(&kept.stderr));
    let ctl = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_ctl-under-test"))
            .args(["--context", "sandbox", "-o", "json"])
            .args(arguments)
            .env("LASTGOOD_CONFIG", temporary.path().join("config.yaml"))
            .output()
            .unwrap()
    };
    let json = |output: &Output| -> Value { serde_json::from_slice(&output.stdout).unwrap() };
    let status = ctl(&["status"]);
    assert_eq!(status.status.code(), Some(0), "{}", String::from_utf8_lossy(&status.stderr));
    assert_eq!(json(&status)["fleet"], "sandbox");
    // The live release was put there by a rollback: a bare one changes nothing and says so.
    let again = ctl(&["rollback", "--yes"]);
    assert_eq!(again.status.code(), Some(0), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(json(&again)["changed"], false);
    // Without a terminal and without a confirmation nothing starts.
    let asked = ctl(&["rollback", "--undo", "rb-0003"]);
    assert_eq!(asked.status.code(), Some(2), "{}", String::from_utf8_lossy(&asked.stderr));
    assert!(String::from_utf8_lossy(&asked.stderr).contains("--confirm sandbox"));
    // Every byte of the good release is still there.
    let verified = ctl(&["snapshot", "verify", "v1.0.0"]);
    assert_eq!(verified.status.code(), Some(0), "{}", String::from_utf8_lossy(&verified.stderr));
    let history = ctl(&["history"]);
    assert_eq!(json(&history)["operations"].as_array().unwrap().len(), 4);
    let stopped = sandbox(&["--stop"], temporary.path());
    assert_eq!(stopped.status.code(), Some(0), "{}", String::from_utf8_lossy(&stopped.stderr));
    std::fs::remove_file(temporary.path().join("config.yaml")).unwrap();
    assert_nothing_left(temporary.path());
}
