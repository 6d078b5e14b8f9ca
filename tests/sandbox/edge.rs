//! The sandbox's proxy as a process that is killed while its division changes.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use ctl::sandbox::edge::{AskError, EdgeArgs, Listen, ask, command, socket};
use serde_json::{Value, json};
use tests::eventually;

const ROUNDS: u32 = 25;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

async fn start(state: &Path) -> Killed {
    let listen = Listen { port: "backend".to_owned(), at: "127.0.0.1:0".parse().unwrap() };
    let args = EdgeArgs { state: state.to_owned(), listen: vec![listen] };
    let words = command(Path::new(env!("CARGO_BIN_EXE_ctl-under-test")), &args);
    let edge = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).spawn().unwrap();
    eventually("the edge answers", || async {
        ask(&socket(state), "GET", "/ports", None).await.ok()
    })
    .await;
    Killed(edge)
}

/// The first division has 1 % for green, the next one 2 %, and so on.
fn division(number: u32) -> Value {
    let green = 1 + number % 99;
    let server = |group: &str, percent: u32| json!({ "host": group, "group": group, "address": "127.0.0.1:9", "port": "backend", "weight": percent });
    json!({
        "servers": [server("blue", 100 - green), server("green", green)],
        "weights": { "groups": { "blue": 100 - green, "green": green }, "out": [] },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p08_an_edge_that_is_killed_at_any_moment_begins_with_what_it_acknowledged() {
    let temporary = tempfile::tempdir().unwrap();
    let state = temporary.path().join("edge");
    let mut next = 0;
    for round in 0..ROUNDS {
        let edge = start(&state).await;
        let (control, first) = (socket(&state), next);
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let writer = tokio::spawn(async move {
            // Until nobody answers: how the last one ended is not known.
            for number in first.. {
                match ask(&control, "PUT", "/weights", Some(&division(number))).await {
                    Ok((200, weights)) if weights == division(number)["weights"] => {
                        if said.send(number).is_err() {
                            return number;
                        }
                    }
                    Ok(other) => panic!("{number}: {other:?}"),
                    Err(AskError::Connect(_) | AskError::Ask(_) | AskError::Json(_)) => {
                        return number;
                    }
                    Err(late @ AskError::Late) => panic!("{late}"),
                }
            }
            unreachable!("numbers do not end")
        });
        for _ in 0..=round {
            heard.recv().await.unwrap();
        }
        drop(edge);
        let unknown = writer.await.unwrap();
        let again = start(&state).await;
        let now = ask(&socket(&state), "GET", "/weights", None).await.unwrap();
        let known = [unknown - 1, unknown].map(|number| (200, division(number)["weights"].clone()));
        assert!(known.contains(&now), "{now:?}, not one of {known:?}");
        drop(again);
        next = unknown + 1;
    }
}
