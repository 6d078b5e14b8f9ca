//! Would a rollback work right now? The answer before it is needed.

use proto::v1::{DoctorRequest, DoctorResponse, Severity};
use tests::cluster::FLEET;

use crate::operations::{Fleet, fleet, rollback};

async fn doctor(fleet: &mut Fleet) -> DoctorResponse {
    let request = DoctorRequest { fleet: FLEET.to_owned() };
    fleet.client.doctor(request).await.unwrap().into_inner()
}

fn found(answer: &DoctorResponse, severity: Severity) -> Vec<(&str, &str)> {
    let rows = answer.findings.iter().filter(|finding| finding.severity() == severity);
    rows.map(|finding| (finding.host.as_str(), finding.what.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_with_a_way_back_everywhere_is_ready_and_says_how_long_it_took() {
    let mut fleet = fleet().await;
    let answer = doctor(&mut fleet).await;
    assert!(answer.ready, "{answer:?}");
    assert_eq!(answer.way_back, "v1");
    assert!(answer.hosts.iter().all(|host| host.ready));
    assert_eq!(found(&answer, Severity::Blocking), []);
    assert_eq!(answer.expected_ms, 0, "nothing was ever rolled back here");

    let id = fleet.begin(rollback("v1", &[])).await;
    fleet.ended(&id).await;
    // Nothing older is good; what it went back to is, and that is what the next deploy is taken back to.
    let answer = doctor(&mut fleet).await;
    assert!(answer.ready && answer.way_back_is_live, "{answer:?}");
    assert_eq!(answer.way_back, "v1");
    assert!(answer.expected_ms > 0, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_make_a_rollback_fail_is_found_before_it_is_needed() {
    let mut fleet = fleet().await;
    fleet.hands["h1"].problem("unit app.service is masked", "systemctl unmask app.service");
    let answer = doctor(&mut fleet).await;
    assert!(!answer.ready);
    assert_eq!(found(&answer, Severity::Blocking), [("h1", "unit app.service is masked")]);
    assert_eq!(answer.findings[0].mend, "systemctl unmask app.service");
    let ready: Vec<bool> = answer.hosts.iter().map(|host| host.ready).collect();
    assert_eq!(ready, [false, true, true, true]);

    fleet.hands["h2"].damage("an object is missing");
    let answer = doctor(&mut fleet).await;
    let (warned, blocking) =
        (found(&answer, Severity::Warning), found(&answer, Severity::Blocking));
    assert_eq!(answer.way_back, "", "v1 is the only good one: {blocking:?}");
    assert!(
        blocking.iter().any(|(host, what)| host.is_empty() && what.contains("v1")),
        "{blocking:?}"
    );
    assert!(warned.contains(&("h2", "v1 is damaged there: an object is missing")), "{warned:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_fail_one_day_is_a_warning() {
    let mut fleet = fleet().await;
    fleet.hands["h3"].never_verified();
    let answer = doctor(&mut fleet).await;
    assert!(answer.ready, "{answer:?}");
    assert_eq!(found(&answer, Severity::Warning), [("h3", "v1 was never read back there")]);

    fleet.cluster.stop_agent("h4");
    fleet.cluster.connected(3).await;
    let answer = doctor(&mut fleet).await;
    assert!(answer.ready, "one host out of reach is within the budget: {answer:?}");
    let warned = found(&answer, Severity::Warning);
    assert!(
        warned.iter().any(|(host, what)| *host == "h4" && what.contains("not connected")),
        "{warned:?}"
    );
    assert!(!answer.hosts[3].ready);
}
