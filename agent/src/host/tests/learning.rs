//! Learning by the looks of a real host: whose processes serve, and what keeps it from resting.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::host::component::learner::Learner;

/// Looks follow each other as fast as they can.
const PACE: Pace = Pace {
    look_every: Duration::ZERO,
    rest: Duration::from_millis(30),
    gap_max: Duration::from_secs(30),
    restless_after: Duration::ZERO,
};
const LOOKS_MAX: usize = 2_000;

fn learner(host: &Host) -> Learner {
    Learner::of(&host.components["crm"], PACE).expect("it is to be learned")
}

/// Looks until there is something; panics where that never comes.
async fn look_until<T>(
    learner: &mut Learner,
    host: &Host,
    found: impl Fn(&[Snapshot]) -> Option<T>,
) -> T {
    for _ in 0..LOOKS_MAX {
        learner.look(|| false).await;
        if let Some(found) = found(&host.snapshots().await) {
            return found;
        }
    }
    panic!("looked in vain: {:?}", host.snapshots().await);
}

fn names(rows: &[Snapshot]) -> Vec<&str> {
    rows.iter().map(|row| row.release.as_str()).collect()
}

fn all_named(rows: &[Snapshot]) -> Option<usize> {
    rows.iter().all(|row| !row.release.is_empty()).then_some(rows.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_from_before_a_deploy_say_nothing_of_its_files() {
    let app = App::start().await;
    let checks = format!("{{ name: up, tcp: \"{}\" }}", app.address);
    let more = "    services: [{ name: app, process: { command: [/bin/sleep, \"1000\"], directory: / } }]\n    \
                capture: { after_healthy: 1ms }\n";
    let world = World::new(&checks, more);
    let host = world.host();
    world.deploy("1", ENV);
    done(&host, Verb::Start, "").await;
    let mut learner = learner(&host);
    look_until(&mut learner, &host, |rows| all_named(rows).filter(|rows| *rows == 1)).await;
    learner.look(|| false).await;
    // New files, and nothing that has read them.
    world.deploy("2", ENV);
    look_until(&mut learner, &host, |rows| (rows.len() == 2).then_some(())).await;
    for _ in 0..50 {
        learner.look(|| false).await;
    }
    assert_eq!(all_named(&host.snapshots().await), None, "{:?}", names(&host.snapshots().await));
    done(&host, Verb::Stop, "").await;
    done(&host, Verb::Start, "").await;
    look_until(&mut learner, &host, |rows| all_named(rows).filter(|rows| *rows == 2)).await;
    done(&host, Verb::Stop, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_operation_is_at_work_nothing_is_looked_at() {
    let app = App::start().await;
    let checks = format!("{{ name: up, tcp: \"{}\" }}", app.address);
    let world = World::new(&checks, "    capture: { after_healthy: 1ms }\n");
    let host = world.host();
    world.deploy("1", ENV);
    let mut learner = learner(&host);
    for _ in 0..50 {
        learner.look(|| true).await;
    }
    assert!(host.snapshots().await.is_empty());
    look_until(&mut learner, &host, |rows| (rows.len() == 1).then_some(())).await;
    // One that comes between the look and the name goes first.
    let asked = AtomicBool::new(false);
    learner.look(|| asked.swap(true, Ordering::SeqCst)).await;
    look_until(&mut learner, &host, all_named).await;
    let facts = host.snapshots().await;
    assert!(facts[0].learned_at_unix_ms >= facts[0].taken_at_unix_ms, "{facts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_lacks_a_required_key_is_not_learned() {
    let app = App::start().await;
    let checks = format!("{{ name: up, tcp: \"{}\" }}", app.address);
    let world = World::new(&checks, "    capture: { after_healthy: 1ms }\n");
    let host = world.host();
    world.deploy("1", "OTHER=1\n");
    let mut learner = learner(&host);
    look_until(&mut learner, &host, |rows| (rows.len() == 1).then_some(())).await;
    for _ in 0..50 {
        learner.look(|| false).await;
    }
    assert_eq!(names(&host.snapshots().await), [""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_rests_is_told_with_its_path_and_is_no_reason_to_block() {
    let app = App::start().await;
    let checks = format!("{{ name: up, tcp: \"{}\" }}", app.address);
    let world = World::new(&checks, "    capture: { after_healthy: 10m }\n");
    let host = world.host();
    let mut learner = learner(&host);
    let mut deploys = 0..LOOKS_MAX;
    let problem = loop {
        let number = deploys.next().expect("a problem is told");
        world.deploy(&number.to_string(), ENV);
        learner.look(|| false).await;
        if let Some(problem) = learner.problem() {
            break problem;
        }
    };
    assert!(problem.what.contains("/app/"), "{}", problem.what);
    assert!(problem.what.ends_with("keeps changing, so that nothing can be learned"));
    assert!(problem.warns && problem.mend.contains("`keep`"));
    snapshot(&host, "v1").await;
    // A look makes way for what is staged in the background.
    for _ in 0..LOOKS_MAX {
        learner.look(|| false).await;
        if learner.problem().is_none() {
            return;
        }
    }
    panic!("it is a release now: {:?}", learner.problem());
}
