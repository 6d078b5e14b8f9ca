//! One tree with three services that the agent itself runs.

use crate::{
    app::Runs,
    faults::{
        assert_whole, crashed_in_mid_switch, cut_off_in_mid_rollback, killed_in_mid_switch,
        with_a_bad_release,
    },
};

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p03_a_bad_release_is_taken_back_on_every_host() {
    let (fleet, good) = with_a_bad_release("back", 3, 3000, Runs::Process);
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
    killed_in_mid_switch("killed", Runs::Process);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p04_a_host_that_crashes_in_mid_switch_goes_on_after_its_boot() {
    crashed_in_mid_switch("crashed", Runs::Process);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p06_a_host_that_is_cut_off_in_mid_rollback_ends_by_itself_and_is_unknown_until_it_is_back() {
    cut_off_in_mid_rollback("cutoff", Runs::Process);
}
