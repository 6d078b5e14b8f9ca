//! One tree with three services that the agent itself runs.

use crate::fleet::{Fleet, Runs, Wanted, digest, started_on, uploads};

const ONE_RELEASE: [&str; 2] = ["v1.0.0", "v2.0.0"];

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p03_a_bad_release_is_taken_back_on_every_host() {
    let fleet = Fleet::start("back", Wanted::hosts(3, Runs::Process));
    let good: Vec<String> = fleet.hosts.iter().map(digest).collect();
    fleet.deploy("v2.0.0", Some("error-rate"));
    fleet.serves("v2.0.0");
    let told = fleet.rollback(&["--reason", "a quarter of all requests fails"]);
    assert_eq!(told.code, 0, "{told:?}");
    for (host, good) in fleet.hosts.iter().zip(&good) {
        assert_eq!(told.outcome(host), "restored");
        assert_eq!(&digest(host), good, "{}", host.name);
        assert_eq!(uploads(host), format!("of customer {}\n", host.name));
        assert_eq!(started_on(host), ONE_RELEASE);
    }
    fleet.serves("v1.0.0");
}
