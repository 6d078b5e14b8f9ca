//! Releases on trial, on real hosts whose coordinator is away and whose power goes in the middle of it.
//!
//! ```text
//! deploy v2.0.0 ─▶ the coordinator is gone ─▶ the power goes ─▶ boot ─▶ the agent goes back by itself, or stays
//! ```
//!
//! Invariant: while hosts decide, nobody is there whom they could ask.

use serde_json::{Value, json};

use crate::{
    app::{Runs, SERVICES, content, digest, started_on, uploads, version_at},
    fleet::{Fleet, Wanted, eventually},
    fleet_file::BUILDS,
    hosts::Host,
    traffic::{assert_done, confirmed, create_release},
};

const NEXT: &str = "v2.0.0";
/// A deploy brings a tree and leaves the host's env file, which names the version that it was written for.
const STARTED_ON: [&str; 2] = ["v1.0.0", "v1.0.0+v2.0.0"];

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p12_a_host_that_loses_its_power_and_its_health_in_the_trial_goes_back_by_itself() {
    let (mut fleet, good) = on_trial("trial", "5m", "hold");
    fleet.stop_coordinator();
    let next = content(&fleet.hosts[1]);
    fleet.hosts[0].cut_power();
    // What it needs beside its tree is gone with the power: on this host it never gets healthy again.
    fleet.hosts[0].look(&format!("mkdir -p etc/ace-crm; echo {NEXT} >etc/ace-crm/unhealthy"));
    fleet.hosts[0].boot();
    went_back(&fleet.hosts[0], &good[0]);
    // The other one is well, and alone: that takes nobody back.
    assert_eq!(content(&fleet.hosts[1]), next);
    assert_eq!(version_at(&fleet.hosts[1], SERVICES[0].1).as_deref(), Some(NEXT));
    fleet.start_coordinator();
    let told = told(&fleet, &fleet.hosts[0]);
    assert_eq!((&told["end"], &told["to_release"]), (&json!("done"), &json!("v1.0.0")), "{told}");
    let status = fleet.ctl(&["status"]).json;
    assert_eq!(row(&status, &fleet.hosts[1])["local_operation"], Value::Null, "{status}");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p12_a_trial_that_ends_while_the_power_is_off_ends_at_the_boot() {
    let (mut fleet, good) = on_trial("trialend", "30s", "revert");
    fleet.stop_coordinator();
    fleet.hosts[0].cut_power();
    // They were switched together: where the one that is up has gone back, the time of the other is over too.
    went_back(&fleet.hosts[1], &good[1]);
    fleet.hosts[0].boot();
    went_back(&fleet.hosts[0], &good[0]);
    fleet.start_coordinator();
    for host in &fleet.hosts {
        let told = told(&fleet, host);
        assert_eq!(told["end"], "done", "{told}");
    }
}

/// Two hosts on which v2.0.0 was just deployed and is on trial, and what v1.0.0 was on each.
fn on_trial(test: &str, lasting: &str, without_coordinator: &str) -> (Fleet, Vec<String>) {
    let wanted = Wanted { files: 200, ready_within: "8s", ..Wanted::hosts(2, Runs::Process) };
    let fleet = Fleet::start_as(test, wanted, |file, _| {
        file["sources"] = json!({ "builds": { "directory": BUILDS } });
        file["components"]["crm"]["lease"] =
            json!({ "for": lasting, "without_coordinator": without_coordinator });
    });
    let good = fleet.hosts.iter().map(digest).collect();
    create_release(&fleet, NEXT, None);
    let deploy = ["deploy", "--release", NEXT, "--strategy", "rolling"];
    assert_done(&fleet.ctl(&confirmed(&deploy)));
    fleet.serves(NEXT);
    (fleet, good)
}

fn went_back(host: &Host, good: &str) {
    eventually(&format!("{} is back by itself", host.name), || {
        let back = |(_, port)| version_at(host, port).as_deref() == Some("v1.0.0");
        let held = host.try_sh("ls /var/lib/lastgood/hold | grep .").1;
        (SERVICES.into_iter().all(back) && !held).then_some(())
    });
    assert_eq!(digest(host), good, "{}", host.name);
    assert_eq!(uploads(host), format!("of customer {}\n", host.name));
    assert_eq!(started_on(host), STARTED_ON, "{}", host.name);
}

/// What a host did while nobody could be asked, as it is told later.
fn told(fleet: &Fleet, host: &Host) -> Value {
    eventually("it is told what the host did", || {
        let status = fleet.ctl(&["status"]).json;
        let local = row(&status, host)["local_operation"].clone();
        local["end"].is_string().then_some(local)
    })
}

fn row<'a>(status: &'a Value, host: &Host) -> &'a Value {
    let mut rows = status["hosts"].as_array().into_iter().flatten();
    rows.find(|row| row["host"] == *host.name).unwrap_or(&Value::Null)
}
