//! Who gets how much, and from when on.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    super::{division::Server, table::Wheel},
    Stand, Toy, client, division, fresh_client, start,
};

fn wheel(weights: &[u32]) -> Wheel {
    let servers = weights.iter().zip(1_u16..).map(|(weight, number)| {
        let server = Server {
            host: format!("h{number}"),
            group: "any".to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], number)),
            port: "backend".to_owned(),
            weight: *weight,
        };
        (server, 0)
    });
    Wheel(servers.collect())
}

#[test]
fn p07_every_hundred_turns_are_divided_exactly_and_evenly() {
    for percent in [0, 1, 5, 25, 50, 99, 100] {
        let mut wheel = wheel(&[100 - percent, percent]);
        let mut turns = Vec::new();
        for _ in 0..300 {
            turns.push(wheel.turn(&[]).unwrap().host == "h2");
        }
        for hundred in turns.chunks(100) {
            let got = hundred.iter().filter(|second| **second).count();
            assert_eq!(got, percent as usize);
        }
        // Never more than one away from its share, at any moment.
        for (after, _) in turns.iter().enumerate() {
            let got = turns[..=after].iter().filter(|second| **second).count() as i64;
            let off = got * 100 - (after as i64 + 1) * i64::from(percent);
            assert!(off.abs() <= 100, "{percent} %: {got} of {}", after + 1);
        }
    }
}

#[test]
fn what_was_tried_is_passed_over_and_an_empty_wheel_has_no_turn() {
    let mut wheel = wheel(&[1, 1, 0]);
    let first = wheel.turn(&[]).unwrap();
    let second = wheel.turn(&[first.address]).unwrap();
    assert_ne!(first.host, second.host);
    assert_eq!(wheel.turn(&[first.address, second.address]), None);
}

#[tokio::test]
async fn users_are_divided_exactly_at_5_25_and_50_percent() {
    let stand = Stand::start().await;
    let toys = [
        Toy::start("b1").await,
        Toy::start("b2").await,
        Toy::start("g1").await,
        Toy::start("g2").await,
    ];
    let [b1, b2, g1, g2] = toys.each_ref().map(|toy| toy.address);
    for green in [5, 25, 50] {
        let (blue, before) = (100 - green, toys.each_ref().map(Toy::count));
        stand
            .put(&division(
                &[
                    ("b1", "blue", b1, blue),
                    ("b2", "blue", b2, blue),
                    ("g1", "green", g1, green),
                    ("g2", "green", g2, green),
                ],
                &[("blue", blue), ("green", green)],
                &[],
            ))
            .await;
        let clients = [client(), fresh_client()];
        for number in 0..400 {
            let answer = clients[number % 2].get(stand.url("/")).send().await.unwrap();
            assert_eq!(answer.status(), 200);
        }
        let got: Vec<usize> =
            toys.iter().zip(before).map(|(toy, before)| toy.count() - before).collect();
        let [blue, green] = [blue, green].map(|percent| percent as usize * 2);
        assert_eq!(got, [blue, blue, green, green]);
    }
}

#[tokio::test]
async fn p07_a_host_that_is_out_gets_nothing_and_the_next_request_of_an_open_connection_knows() {
    let stand = Stand::start().await;
    let toys = [Toy::start("b1").await, Toy::start("b2").await, Toy::start("g1").await];
    let [b1, b2, g1] = toys.each_ref().map(|toy| toy.address);
    let client = client();
    let who = async |times: usize| {
        let mut got = BTreeMap::<String, usize>::new();
        for _ in 0..times {
            let host = client.get(stand.url("/")).send().await.unwrap().text().await.unwrap();
            *got.entry(host).or_default() += 1;
        }
        got.into_iter().collect::<Vec<_>>()
    };
    let servers = |b1w, b2w, g1w| {
        [("b1", "blue", b1, b1w), ("b2", "blue", b2, b2w), ("g1", "green", g1, g1w)]
    };
    stand.put(&division(&servers(1, 1, 0), &[("blue", 100)], &[])).await;
    assert_eq!(who(10).await, [("b1".to_owned(), 5), ("b2".to_owned(), 5)]);
    stand.put(&division(&servers(1, 0, 0), &[("blue", 100)], &["b2"])).await;
    assert_eq!(who(10).await, [("b1".to_owned(), 10)]);
    stand.put(&division(&servers(0, 0, 1), &[("green", 100)], &[])).await;
    assert_eq!(who(10).await, [("g1".to_owned(), 10)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_traffic_moves() {
    let stand = Stand::start().await;
    let (blue, green) = (Toy::start("blue").await, Toy::start("green").await);
    let to = |group: &str| {
        let weight = |of: &str| u32::from(of == group);
        let servers = [
            ("b1", "blue", blue.address, weight("blue")),
            ("g1", "green", green.address, weight("green")),
        ];
        division(&servers, &[(group, 100)], &[])
    };
    stand.put(&to("blue")).await;
    let over = Arc::new(AtomicBool::new(false));
    let users: Vec<_> = (0..8)
        .map(|number| {
            let (over, url) = (over.clone(), stand.url("/"));
            let client = if number % 2 == 0 { client() } else { fresh_client() };
            tokio::spawn(async move {
                let mut requests = 0;
                while !over.load(Ordering::Relaxed) {
                    let request = if requests % 3 == 0 {
                        client.post(&url).body("x")
                    } else {
                        client.get(&url)
                    };
                    assert_eq!(request.send().await.unwrap().status(), 200);
                    requests += 1;
                }
                requests
            })
        })
        .collect();
    let client = client();
    for switch in 0..30 {
        let group = if switch % 2 == 0 { "green" } else { "blue" };
        stand.put(&to(group)).await;
        // Acknowledged is in force.
        let answer = client.get(stand.url("/")).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), group);
    }
    over.store(true, Ordering::Relaxed);
    let mut requests = 30;
    for user in users {
        requests += user.await.unwrap();
    }
    assert_eq!(blue.count() + green.count(), requests);
    assert!(blue.count() > 0 && green.count() > 0);
}

#[tokio::test]
async fn p08_a_restart_begins_with_what_was_acknowledged() {
    let mut stand = Stand::start().await;
    let (blue, green) = (Toy::start("blue").await, Toy::start("green").await);
    let servers = [("b1", "blue", blue.address, 0), ("g1", "green", green.address, 100)];
    let wanted = division(&servers, &[("green", 100)], &[]);
    stand.put(&wanted).await;
    // What a kill in the middle of the next change leaves.
    std::fs::write(stand.state().join("division.json.new"), "{\"servers\":[").unwrap();
    drop(stand.edge.take());
    stand.edge = Some(start(&stand.state()).await.unwrap());
    assert_eq!(stand.ask("GET", "/weights", None).await, (200, wanted["weights"].clone()));
    let answer = client().get(stand.url("/")).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "green");
}

#[tokio::test]
async fn p08_what_is_on_disk_and_does_not_hold_is_said_and_not_served() {
    let mut stand = Stand::start().await;
    drop(stand.edge.take());
    std::fs::write(stand.state().join("division.json"), "{\"servers\":[").unwrap();
    let error = format!("{:#}", start(&stand.state()).await.unwrap_err());
    assert!(error.contains("division.json") && error.contains("remove the file"), "{error}");
}

#[tokio::test]
async fn a_second_edge_on_the_same_state_is_refused() {
    let stand = Stand::start().await;
    let error = start(&stand.state()).await.unwrap_err().to_string();
    assert!(error.contains("is served already"), "{error}");
    assert_eq!(stand.ask("GET", "/open", None).await.0, 200);
}
