//! What was left as bad does not come back by going forward, whatever it is called; going back never asks.

use super::*;
use crate::{
    order::Fence,
    quarantine::{Row, Told},
};

const WHY: &str = "the content of v2, which was left bad by rb-0007; lift it with `ctl release mark v2 unproven --reason …`";

async fn go(host: &Host, verb: Verb, snapshot: &str, forward: bool) -> StepResult {
    let step = Step {
        verb,
        component: "crm".into(),
        release: "v2-again".into(),
        snapshot: snapshot.into(),
        deadline_ms: 60_000,
        hook: String::new(),
        across_migrations: false,
        weights: None,
        artefact: None,
        at_once: false,
        forward,
    };
    let before = host.look(&step, None).await.unwrap();
    host.perform(&step, &before).await
}

async fn content_of(host: &Host, exact: &str) -> String {
    let rows = host.snapshots().await;
    rows.into_iter().find(|row| row.exact == exact).expect("it was taken").content
}

#[tokio::test]
async fn p05_a_host_goes_back_to_what_it_does_not_go_forward_to() {
    let world = World::new("", "");
    world.deploy("2", ENV);
    let host = world.host();
    let (bad, _) = snapshot(&host, "v2").await;
    world.deploy("1", ENV);
    let (good, _) = snapshot(&host, "v1").await;
    let row =
        Row { component: "crm".into(), content: content_of(&host, &bad).await, why: WHY.into() };
    let term = Fence { epoch: 1, instance: "one".into(), sequence: 0 };
    host.quarantine(&Told { term: term.clone(), rows: vec![row] }).await.unwrap();
    drop(host);
    // With no coordinator, after a restart.
    let host = world.host();
    for verb in [Verb::Preflight, Verb::Stage, Verb::Switch] {
        let refused = go(&host, verb, &bad, true).await;
        assert_eq!((refused.ok, refused.detail), (false, format!("this is {WHY}")), "{verb}");
        let other = go(&host, verb, &good, true).await;
        assert!(other.ok, "{verb}: {other:?}");
    }
    for verb in [Verb::Preflight, Verb::Stage, Verb::Switch] {
        let back = go(&host, verb, &bad, false).await;
        assert!(back.ok, "{verb}: {back:?}");
    }
    host.quarantine(&Told { term, rows: Vec::new() }).await.unwrap();
    assert!(go(&host, Verb::Preflight, &bad, true).await.ok, "it was lifted");
}

#[tokio::test]
async fn p08_with_a_damaged_list_nothing_goes_forward_and_everything_goes_back() {
    let world = World::new("", "");
    world.deploy("1", ENV);
    let host = world.host();
    let (first, _) = snapshot(&host, "v1").await;
    let term = Fence { epoch: 1, instance: "one".into(), sequence: 0 };
    host.quarantine(&Told { term: term.clone(), rows: Vec::new() }).await.unwrap();
    drop(host);
    fs::write(world.root.join("state/quarantine.json"), "{}").unwrap();
    let host = world.host();
    for verb in [Verb::Preflight, Verb::Stage, Verb::Switch] {
        let refused = go(&host, verb, &first, true).await;
        assert!(
            refused.detail.contains("is not what the agent wrote; nothing goes forward"),
            "{refused:?}"
        );
        assert!(go(&host, verb, &first, false).await.ok, "{verb}");
    }
    host.quarantine(&Told { term, rows: Vec::new() }).await.unwrap();
    assert!(go(&host, Verb::Preflight, &first, true).await.ok, "it was told anew");
}
