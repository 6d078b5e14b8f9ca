//! One tree with three services that the agent itself runs: faults in the middle of a rollback.

use std::thread;

use crate::{
    app::{Runs, digest, started_on, uploads},
    fleet::{Fleet, Told, Wanted, eventually},
    hosts::Host,
    stepper::Stepper,
};

/// No service has ever started on a mix of the two.
const ONE_RELEASE: [&str; 2] = ["v1.0.0", "v2.0.0"];
/// The steps of a switch at which hosts are hit: kept paths have moved, and some more.
const IN_MID_SWITCH: usize = 7;

/// A fleet on which v2.0.0 is live and bad, and what v1.0.0 was on each host.
fn with_a_bad_release(test: &str, hosts: usize, files: usize) -> (Fleet, Vec<String>) {
    let wanted = Wanted { files, ..Wanted::hosts(hosts, Runs::Process) };
    let fleet = Fleet::start(test, wanted);
    let good = fleet.hosts.iter().map(digest).collect();
    fleet.deploy("v2.0.0", Some("error-rate"));
    fleet.serves("v2.0.0");
    (fleet, good)
}

/// Exactly the good release is live, and nothing that is kept was lost.
fn assert_whole(host: &Host, good: &str) {
    assert_eq!(digest(host), good, "{}", host.name);
    assert_eq!(uploads(host), format!("of customer {}\n", host.name));
    assert_eq!(started_on(host), ONE_RELEASE, "{}", host.name);
}

/// A rollback during which `hit` does something to the first host in the middle of its switch.
fn rollback_with(fleet: &Fleet, hit: impl FnOnce(&Host, Stepper) + Send) -> Told {
    let plan = fleet.plan(&[]);
    let host = &fleet.hosts[0];
    let stepper = Stepper::attach(host);
    thread::scope(|scope| {
        let hit = scope.spawn(move || {
            let stop = stepper.run_into_switch(IN_MID_SWITCH);
            assert!(stop.held, "{stop:?}");
            hit(host, stepper);
        });
        let told = fleet.rollback(&["--plan", &plan, "--timeout", "3m"]);
        hit.join().expect("the host is hit in the middle of its switch");
        told
    })
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p03_a_bad_release_is_taken_back_on_every_host() {
    let (fleet, good) = with_a_bad_release("back", 3, 3000);
    let told = fleet.rollback(&["--reason", "a quarter of all requests fails"]);
    assert_eq!(told.code, 0, "{told:?}");
    for (host, good) in fleet.hosts.iter().zip(&good) {
        assert_eq!(told.outcome(host), "restored");
        assert_whole(host, good);
    }
    fleet.serves("v1.0.0");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p04_an_agent_that_is_killed_in_mid_switch_goes_on() {
    let (fleet, good) = with_a_bad_release("killed", 1, 500);
    let told = rollback_with(&fleet, |_, stepper| stepper.kill_agent());
    assert_eq!(told.code, 0, "{told:?}");
    assert_whole(&fleet.hosts[0], &good[0]);
    fleet.serves("v1.0.0");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p04_a_host_that_crashes_in_mid_switch_goes_on_after_its_boot() {
    let (fleet, good) = with_a_bad_release("crashed", 2, 500);
    let told = rollback_with(&fleet, |host, stepper| {
        host.crash();
        drop(stepper);
        host.boot();
    });
    assert_eq!(told.code, 0, "{told:?}");
    for (host, good) in fleet.hosts.iter().zip(&good) {
        assert_eq!(told.outcome(host), "restored");
        assert_whole(host, good);
    }
    fleet.serves("v1.0.0");
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p06_a_host_that_is_cut_off_in_mid_rollback_ends_by_itself_and_is_unknown_until_it_is_back() {
    let (fleet, good) = with_a_bad_release("cutoff", 3, 500);
    let told = rollback_with(&fleet, |host, stepper| {
        host.partition();
        drop(stepper);
        // It waits for nobody.
        eventually("the host that is cut off has ended", || {
            let held = host.try_sh("ls /var/lib/lastgood/hold | grep .").1;
            let up = host.try_sh("curl -sf http://127.0.0.1:5000/api/health | grep v1.0.0").1;
            (up && !held).then_some(())
        });
    });
    assert_eq!(told.code, 21, "{told:?}");
    assert_eq!(told.outcome(&fleet.hosts[0]), "unknown");
    for host in &fleet.hosts[1..] {
        assert_eq!(told.outcome(host), "restored");
    }
    fleet.hosts[0].heal();
    eventually("the host that is back is known to be restored", || {
        let now = fleet.ctl(&["watch", told.operation(), "--timeout", "3m"]);
        (now.code == 0 && now.outcome(&fleet.hosts[0]) == "restored").then_some(())
    });
    for (host, good) in fleet.hosts.iter().zip(&good) {
        assert_whole(host, good);
    }
    fleet.serves("v1.0.0");
}
