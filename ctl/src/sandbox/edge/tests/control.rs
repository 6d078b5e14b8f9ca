//! What the control socket takes and what it refuses.

use serde_json::{Value, json};

use super::{Stand, Toy, client, division};

#[tokio::test]
async fn nothing_is_served_until_something_was_set() {
    let stand = Stand::start().await;
    let (status, said) = stand.ask("GET", "/weights", None).await;
    assert_eq!((status, said), (404, json!({ "error": "no weights were set" })));
    assert_eq!(client().get(stand.url("/")).send().await.unwrap().status(), 503);
    let ports = json!({ "backend": stand.address() });
    assert_eq!(stand.ask("GET", "/ports", None).await, (200, ports));
    assert_eq!(stand.ask("DELETE", "/weights", None).await.0, 405);
    assert_eq!(stand.ask("GET", "/else", None).await.0, 404);
}

#[tokio::test]
async fn p07_what_does_not_hold_is_refused_in_words_and_changes_nothing() {
    let stand = Stand::start().await;
    let toy = Toy::start("b1").await;
    let at = toy.address;
    let blue = ("b1", "blue", at, 1);
    let good = division(&[blue], &[("blue", 100)], &[]);
    stand.put(&good).await;
    let with = |key: &str, value: Value| {
        let mut body = good.clone();
        body["servers"][0][key] = value;
        body
    };
    let mut unknown = good.clone();
    unknown["more"] = json!(1);
    let bad = [
        (json!([]), "no division"),
        (json!({ "servers": [] }), "missing field `weights`"),
        (unknown, "unknown field `more`"),
        (with("address", json!("crm-b1")), "no division"),
        (with("weight", json!(-1)), "no division"),
        (with("weight", json!(0.5)), "no division"),
        (with("weight", json!(0)), "none of its servers has a weight for the port `backend`"),
        (with("port", json!("frontend")), "the port `frontend` is not served here"),
        (with("group", json!("green")), "its group `green` has no share"),
        (with("host", json!("")), "a server without a host"),
        (division(&[blue, blue], &[("blue", 100)], &[]), "b1 is there twice"),
        (division(&[blue], &[("blue", 99)], &[]), "sum to 99 %"),
        (division(&[blue], &[("blue", 100), ("green", 5)], &[]), "sum to 105 %"),
        (division(&[blue], &[], &[]), "sum to 0 %"),
        (division(&[blue], &[("blue", 95), ("green", 5)], &[]), "`green` has 5 %"),
        (division(&[blue], &[("blue", 100)], &["b1"]), "is to get nothing"),
        (division(&[], &[("blue", 100)], &[]), "none of its servers"),
        (json!("x".repeat(2 * 1024 * 1024)), "reading the body"),
    ];
    for (body, words) in bad {
        let (status, said) = stand.ask("PUT", "/weights", Some(&body)).await;
        let said = said["error"].as_str().unwrap();
        assert_eq!(status, 400, "{said}");
        assert!(said.contains(words), "`{words}` is not in: {said}");
        assert_eq!(stand.ask("GET", "/weights", None).await, (200, good["weights"].clone()));
        assert_eq!(client().get(stand.url("/")).send().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn p08_what_cannot_be_written_is_not_in_force() {
    let stand = Stand::start().await;
    let (blue, green) = (Toy::start("blue").await, Toy::start("green").await);
    let servers = |b, g| [("b1", "blue", blue.address, b), ("g1", "green", green.address, g)];
    stand.put(&division(&servers(1, 0), &[("blue", 100)], &[])).await;
    // A directory in the place of the new file: root too cannot write there.
    std::fs::create_dir(stand.state().join("division.json.new")).unwrap();
    let (status, said) =
        stand.ask("PUT", "/weights", Some(&division(&servers(0, 1), &[("green", 100)], &[]))).await;
    assert_eq!(status, 500, "{said}");
    assert!(said["error"].as_str().unwrap().contains("what was in force still is"), "{said}");
    let answer = client().get(stand.url("/")).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "blue");
}

#[tokio::test]
async fn open_requests_are_counted_by_host_until_their_answer_has_gone() {
    let stand = Stand::start().await;
    let (mut blue, green) = (Toy::start("blue").await, Toy::start("green").await);
    let servers = |b, g| [("b1", "blue", blue.address, b), ("g1", "green", green.address, g)];
    let to_green = division(&servers(0, 1), &[("green", 100)], &[]);
    stand.put(&division(&servers(1, 0), &[("blue", 100)], &[])).await;
    assert_eq!(stand.ask("GET", "/open", None).await, (200, json!({})));
    let held: Vec<_> =
        (0..2).map(|_| tokio::spawn(client().get(stand.url("/hold")).send())).collect();
    for _ in 0..2 {
        blue.seen.recv().await.unwrap();
    }
    assert_eq!(stand.ask("GET", "/open", None).await, (200, json!({ "b1": 2 })));
    // They are open on the side that has left, too.
    stand.put(&to_green).await;
    assert_eq!(client().get(stand.url("/")).send().await.unwrap().text().await.unwrap(), "green");
    assert_eq!(stand.ask("GET", "/open", None).await, (200, json!({ "b1": 2 })));
    blue.gate.add_permits(2);
    for answer in held {
        assert_eq!(answer.await.unwrap().unwrap().text().await.unwrap(), "blue");
    }
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while stand.ask("GET", "/open", None).await != (200, json!({})) {
        assert!(tokio::time::Instant::now() < deadline, "an answer that has gone is still open");
    }
}

#[tokio::test]
async fn a_user_who_goes_away_leaves_nothing_open() {
    let stand = Stand::start().await;
    let mut blue = Toy::start("blue").await;
    stand.put(&division(&[("b1", "blue", blue.address, 1)], &[("blue", 100)], &[])).await;
    let user = tokio::spawn(client().get(stand.url("/hold")).send());
    blue.seen.recv().await.unwrap();
    assert_eq!(stand.ask("GET", "/open", None).await.1, json!({ "b1": 1 }));
    user.abort();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while stand.ask("GET", "/open", None).await.1 != json!({}) {
        assert!(tokio::time::Instant::now() < deadline, "a request of nobody is still open");
    }
}
