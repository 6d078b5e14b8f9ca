//! Faults in the middle of a rollback, whatever runs the app's services.

use std::thread;

use crate::{
    app::{Runs, digest, started_on, units, uploads},
    fleet::{Fleet, Told, Wanted, eventually},
    hosts::Host,
    stepper::Stepper,
};

/// No service has ever started on a mix of the two.
const ONE_RELEASE: [&str; 2] = ["v1.0.0", "v2.0.0"];
/// The steps of a switch at which hosts are hit: kept paths have moved, and some more.
const IN_MID_SWITCH: usize = 7;

/// A fleet on which v2.0.0 is live and bad, and what v1.0.0 was on each host.
pub(crate) fn with_a_bad_release(
    test: &str,
    hosts: usize,
    files: usize,
    runs: Runs,
) -> (Fleet, Vec<String>) {
    with_a_bad_release_on(test, Wanted { files, ..Wanted::hosts(hosts, runs) })
}

fn with_a_bad_release_on(test: &str, wanted: Wanted) -> (Fleet, Vec<String>) {
    let fleet = Fleet::start(test, wanted);
    let good = fleet.hosts.iter().map(digest).collect();
    fleet.deploy("v2.0.0", Some("error-rate"));
    fleet.serves("v2.0.0");
    (fleet, good)
}

/// Exactly the good release is live, and nothing that is kept was lost.
pub(crate) fn assert_whole(host: &Host, good: &str) {
    assert_eq!(digest(host), good, "{}", host.name);
    assert_eq!(uploads(host), format!("of customer {}\n", host.name));
    assert_eq!(started_on(host), ONE_RELEASE, "{}", host.name);
}

/// A rollback during which `hit` does something to the first host in the middle of its switch.
fn rollback_with(fleet: &Fleet, hit: impl FnOnce(&Host, Stepper) + Send) -> Told {
    let plan = fleet.plan(&["--to", "v1.0.0"]);
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

pub(crate) fn killed_in_mid_switch(test: &str, runs: Runs) {
    let (fleet, good) = with_a_bad_release(test, 1, 500, runs);
    let told = rollback_with(&fleet, |_, stepper| stepper.kill_agent());
    assert_eq!(told.code, 0, "{told:?}");
    assert_whole(&fleet.hosts[0], &good[0]);
    fleet.serves("v1.0.0");
}

pub(crate) fn crashed_in_mid_switch(test: &str, runs: Runs) {
    // As long as its boot and a person's look take.
    let wanted = Wanted { files: 500, unknown_after: "60s", ..Wanted::hosts(2, runs) };
    let (fleet, good) = with_a_bad_release_on(test, wanted);
    let told = rollback_with(&fleet, |host, stepper| {
        host.crash();
        drop(stepper);
        match runs {
            Runs::Process => host.boot(),
            Runs::Systemd => boot_without_the_agent(host),
        }
    });
    assert_eq!(told.code, 0, "{told:?}");
    for (host, good) in fleet.hosts.iter().zip(&good) {
        assert_eq!(told.outcome(host), "restored");
        assert_whole(host, good);
    }
    fleet.serves("v1.0.0");
}

/// Its services are enabled, and on its disk is neither release: nothing may start before the agent has looked.
fn boot_without_the_agent(host: &Host) {
    host.look("mv etc/systemd/system/multi-user.target.wants/lastgood-agent.service root/");
    let before = host.look("wc -l var/log/ace-crm/starts.log");
    host.boot();
    assert_eq!(host.sh("ls /var/lib/lastgood/hold"), "crm\n");
    // By itself at boot, and by a person who does not know.
    let units = units();
    host.sh(&format!("systemctl start {units}"));
    let state = host.sh(&format!("systemctl show -P ActiveState -P ConditionResult {units}"));
    assert_eq!(state.matches("inactive").count(), 3, "{state}");
    assert_eq!(state.matches("no").count(), 3, "{state}");
    let after = host.sh("wc -l /var/log/ace-crm/starts.log");
    let count = |text: &str| text.split(' ').next().map(str::to_owned);
    assert_eq!(count(&before), count(&after));
    host.sh("systemctl enable --now lastgood-agent");
}

pub(crate) fn cut_off_in_mid_rollback(test: &str, runs: Runs) {
    let (fleet, good) = with_a_bad_release(test, 3, 500, runs);
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
