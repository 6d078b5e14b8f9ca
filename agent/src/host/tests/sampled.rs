//! Checks that are asked all the time, against an app that answers as it is told.

use std::sync::Mutex;

use tokio::sync::mpsc;

use super::*;
use crate::sampler::{Sample, Sampler};

/// Of its first `whole` requests, the last of each four fails; it answers no more after them. What it was sent, it says.
struct Fourth {
    address: std::net::SocketAddr,
    accepting: AbortHandle,
}

impl Fourth {
    async fn start(whole: u64, body: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            let silent = Mutex::new(Vec::new());
            let mut number = 0;
            while let Ok((mut stream, _)) = listener.accept().await {
                if number == whole {
                    silent.lock().unwrap().push(stream);
                    continue;
                }
                number += 1;
                let status = if number % 4 == 0 { "500 No" } else { "200 OK" };
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        if stream.read_buf(&mut request).await.is_ok_and(|read| read == 0) {
                            return;
                        }
                    }
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
                    stream.write_all(answer.as_bytes()).await.ok();
                });
            }
        });
        Self { address, accepting: accepting.abort_handle() }
    }
}

impl Drop for Fourth {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

const SAMPLES: &str = "    samples: { every: 20ms }\n";

#[tokio::test]
async fn good_and_bad_answers_are_counted_as_the_app_gave_them() {
    let app = Fourth::start(60, "{}").await;
    let check = format!("{{ name: contacts, http: \"http://{}/\", timeout: 1m }}", app.address);
    let world = World::new(&check, SAMPLES);
    let host = Arc::new(world.host());
    let (_ledger, watched) = watch::channel(Arc::new(Ledger::default()));
    let (tell, mut sent) = mpsc::unbounded_channel();
    let _sampler = Sampler::start(host, watched, move |samples| tell.send(samples).is_ok());
    let mut all: Vec<Sample> = Vec::new();
    let whole = async {
        while all.iter().map(|sample| sample.good + sample.bad).sum::<u64>() < 60 {
            all.extend(sent.recv().await.unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(120), whole).await.unwrap();
    let sum = |of: fn(&Sample) -> u64| all.iter().map(of).sum::<u64>();
    let latency = |sample: &Sample| sample.latency.iter().map(|(_, count)| count).sum();
    assert_eq!((sum(|sample| sample.good), sum(|sample| sample.bad), sum(latency)), (45, 15, 60));
}

#[tokio::test]
async fn a_held_component_is_not_asked_and_an_answer_is_judged_by_itself() {
    let app = Fourth::start(u64::MAX, "{ \"status\": \"ok\" }").await;
    let ask = |expect: &str| {
        let check =
            format!("{{ name: c, http: \"http://{}/\", expect: {{ {expect} }} }}", app.address);
        World::new(&check, SAMPLES)
    };
    // What only several requests, or a record, can show does not count against one.
    let world = ask("json: { /status: ok }, average_within: 1ms, p95_over_baseline: 1.0");
    let host = world.host();
    let sampled = host.sampled().remove(0);
    assert_eq!((sampled.component.as_str(), sampled.every), ("crm", Duration::from_millis(20)));
    let answered = host.ask(&sampled).await.unwrap();
    assert!(answered.good && answered.took.is_some());
    fs::write(world.root.join("state/hold/crm"), "").unwrap();
    assert_eq!(host.ask(&sampled).await, None);
    fs::remove_file(world.root.join("state/hold/crm")).unwrap();
    assert!(host.ask(&sampled).await.is_some());

    let world = ask("json: { /status: healthy }");
    let host = world.host();
    let answered = host.ask(&host.sampled().remove(0)).await.unwrap();
    assert!(!answered.good && answered.took.is_some());
}
