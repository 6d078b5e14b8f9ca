//! One tree with three services that are units of systemd, enabled at boot.

use crate::{
    app::{Runs, STARTS, digest},
    faults::{
        assert_whole, crashed_in_mid_switch, cut_off_in_mid_rollback, killed_in_mid_switch,
        with_a_bad_release,
    },
    fleet::eventually,
};

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p04_an_agent_that_is_killed_in_mid_switch_of_units_goes_on() {
    killed_in_mid_switch("ukilled", Runs::Systemd);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p04_enabled_units_do_not_start_on_a_mix_after_a_crash_in_mid_switch() {
    crashed_in_mid_switch("ucrashed", Runs::Systemd);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p06_a_host_with_units_that_is_cut_off_in_mid_rollback_ends_by_itself() {
    cut_off_in_mid_rollback("ucutoff", Runs::Systemd);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p08_an_agent_whose_program_is_replaced_keeps_what_it_knows() {
    let (fleet, good) = with_a_bad_release("upgrade", 1, 500, Runs::Systemd);
    let host = &fleet.hosts[0];
    let [pid, starts] = ["systemctl show -P MainPID lastgood-agent", &format!("cat {STARTS}")]
        .map(|script| host.sh(script));
    // As a package does it: another file takes the place of the one that runs.
    host.sh("cp /usr/sbin/agent /usr/sbin/agent.new; mv /usr/sbin/agent.new /usr/sbin/agent
        systemctl restart lastgood-agent");
    assert_ne!(host.sh("systemctl show -P MainPID lastgood-agent"), pid);
    assert_eq!(host.sh(&format!("cat {STARTS}")), starts, "the app was not asked to do anything");
    fleet.connected(1);
    let read = fleet.ctl(&["snapshot", "verify", "v1.0.0"]);
    assert_eq!(read.code, 0, "{read:?}");
    let told = fleet.rollback(&["--to", "v1.0.0"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert_whole(host, &good[0]);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p12_root_takes_a_host_back_that_is_cut_off_while_the_coordinator_is_dead() {
    let (mut fleet, good) = with_a_bad_release("local", 2, 500, Runs::Systemd);
    fleet.stop_coordinator();
    let host = &fleet.hosts[0];
    host.partition();
    let bad = digest(&fleet.hosts[1]);
    host.sh("agent local rollback --yes");
    assert_whole(host, &good[0]);
    assert_eq!(digest(&fleet.hosts[1]), bad);
    host.heal();
    fleet.start_coordinator();
    let (host, name) = (&fleet.hosts[0], fleet.hosts[0].name.as_str());
    let look = format!("ctl agent acknowledge --host {name}");
    eventually("the fleet knows that somebody was at the host", || {
        let told = fleet.ctl_text(&["status"]);
        told.says(&look).then_some(())
    });
    let seen = fleet.ctl(&["agent", "acknowledge", "--host", name]);
    assert_eq!(seen.code, 0, "{seen:?}");
    assert!(!fleet.ctl_text(&["status"]).says(&look));
    assert_whole(host, &good[0]);
    fleet.connected(2);
    let told = fleet.rollback(&["--to", "v1.0.0"]);
    assert_eq!(told.code, 0, "{told:?}");
    for (host, good) in fleet.hosts.iter().zip(&good) {
        assert_whole(host, good);
    }
}
