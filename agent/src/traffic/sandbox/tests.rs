//! The sandbox's proxy as its text says it, and the whole way through a host to it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use proto::policy::Policy;
use serde_json::{Value, json};

use super::{super::hosts::Hosts, *};
use crate::{
    hands::Hands as _,
    host::Host,
    ledger::{Found, StepResult},
    order::{Before, Step, Verb},
};

/// What it was told last, and what it is to say is open.
#[derive(Debug, Default)]
struct Inner {
    put: Option<Value>,
    open: Value,
    /// It answers as if it had taken a change.
    deaf: bool,
}

/// A proxy that keeps what it is told.
fn proxy(socket: &Path) -> Arc<Mutex<Inner>> {
    let inner = Arc::new(Mutex::new(Inner { open: json!({}), ..Inner::default() }));
    let (listener, at) = (UnixListener::bind(socket).unwrap(), inner.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            answer(stream, &at);
        }
    });
    inner
}

fn answer(mut stream: UnixStream, at: &Mutex<Inner>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let mut at = at.lock().unwrap();
    if first.starts_with("PUT /weights ") && !at.deaf {
        at.put = Some(serde_json::from_slice(&body).unwrap());
    }
    let weights = at.put.as_ref().map(|put| {
        let mut weights = put["weights"].clone();
        // It lists those without a share, too.
        let of_green = weights["groups"]["green"].take();
        weights["groups"]["green"] = if of_green.is_null() { json!(0) } else { of_green };
        weights.to_string()
    });
    let (status, body) = match (first.split(' ').nth(1).unwrap(), weights) {
        ("/open", _) => ("200 OK", at.open.to_string()),
        ("/weights", Some(weights)) => ("200 OK", weights),
        (_, _) => ("404 Not Found", String::new()),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
}

/// An edge of the sandbox, with three hosts.
struct Edge {
    _temp: tempfile::TempDir,
    root: PathBuf,
    hosts: Hosts,
    proxy: Arc<Mutex<Inner>>,
}

impl Edge {
    fn new() -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let proxy = proxy(&root.join("edge.sock"));
        Self { _temp: temp, root, hosts: Hosts::new(["crm-b1", "crm-b2", "crm-g1"]), proxy }
    }

    fn host(&self) -> Host {
        let at = &self.hosts.addresses;
        let text = format!(
            "version: 1\nfleet: prod\nhost: edge1\ntraffic:\n  through: {{ sandbox: {{ socket: {}/edge.sock }} }}\n  app: crm\n  \
             ports: {{ backend: {} }}\n  groups:\n    blue: {{ crm-b1: {}, crm-b2: {} }}\n    green: {{ crm-g1: {} }}\n  \
             drain: 2s\n  version: {{ port: backend, path: /version, version_at: /version }}\n",
            self.root.display(),
            self.hosts.port,
            at["crm-b1"],
            at["crm-b2"],
            at["crm-g1"]
        );
        let policy = Policy::parse(&text).unwrap();
        Host::open(&policy, String::new(), &self.root.join("state")).unwrap()
    }
}

fn weights(groups: &[(&str, u32)]) -> Weights {
    let groups = groups.iter().map(|(group, percent)| ((*group).to_owned(), *percent));
    Weights { groups: groups.collect(), out: BTreeSet::new() }
}

fn step(verb: Verb, release: &str, to: &Weights) -> Step {
    Step {
        verb,
        component: Step::TRAFFIC.to_owned(),
        release: release.to_owned(),
        snapshot: String::new(),
        deadline_ms: 10_000,
        hook: String::new(),
        across_migrations: false,
        weights: Some(to.clone()),
        artefact: None,
        at_once: true,
        forward: false,
    }
}

async fn perform(host: &Host, verb: Verb, release: &str, to: &Weights) -> StepResult {
    let step = step(verb, release, to);
    assert_eq!(host.forbidden(&step), None);
    let before = host.look(&step, None).await.unwrap();
    host.perform(&step, &before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_goes_the_whole_way_through_a_host() {
    let mut edge = Edge::new();
    let host = edge.host();
    assert_eq!(host.status().await.traffic.unwrap().observed, None);
    let (mostly, blue) = (weights(&[("blue", 90), ("green", 10)]), weights(&[("blue", 100)]));
    for verb in [Verb::Preflight, Verb::SetWeights, Verb::Verify] {
        let done = perform(&host, verb, "v1", &mostly).await;
        assert!(done.ok, "{verb}: {done:?}");
    }
    let at = |host: &str| format!("{}:{}", edge.hosts.addresses[host], edge.hosts.port);
    let row = |name: &str, group: &str, weight: u64| json!({"host": name, "group": group, "address": at(name), "port": "backend", "weight": weight});
    let servers =
        json!([row("crm-b1", "blue", 9), row("crm-b2", "blue", 9), row("crm-g1", "green", 2)]);
    let put = edge.proxy.lock().unwrap().put.clone().unwrap();
    assert_eq!(put["servers"], servers);
    assert_eq!(put["weights"], json!({"groups": {"blue": 90, "green": 10}, "out": []}));

    let order = step(Verb::SetWeights, "v1", &blue);
    let before = host.look(&order, None).await.unwrap();
    assert_eq!(before, Before::Weights(Some(mostly.clone())));
    let done = host.perform(&order, &before).await;
    assert_eq!((done.ok, done.detail.as_str()), (true, "traffic goes to blue 100 %"));
    assert_eq!(done.evidence.unwrap().weights, Some(blue.clone()));
    assert_eq!(host.observe(&order, &before, false).await.0, Found::Done);

    edge.proxy.lock().unwrap().open = json!({"crm-g1": 3, "crm-b1": 7});
    let drained = perform(&host, Verb::Drain, "v1", &blue).await;
    assert!(drained.ok, "{drained:?}");
    assert!(drained.detail.starts_with("3 connections still on crm-g1 after 2."), "{drained:?}");

    // Who gets traffic has to be the release that was meant; a `v` in front is none of its name.
    assert!(perform(&host, Verb::Verify, "1", &blue).await.ok);
    edge.hosts.stop("crm-b2");
    edge.hosts.start("crm-b2", "v2");
    let wrong = perform(&host, Verb::Verify, "v1", &blue).await;
    assert_eq!(wrong.detail, "wanted is v1, and crm-b2 serves v2");
    assert!(perform(&host, Verb::Preflight, "v1", &blue).await.ok, "which one is no question yet");

    edge.proxy.lock().unwrap().deaf = true;
    let why = perform(&host, Verb::SetWeights, "v1", &mostly).await;
    let words = "the proxy was told blue 90 %, green 10 %, and divides blue 100 %";
    assert_eq!((why.ok, why.detail.as_str()), (false, words));
    edge.proxy.lock().unwrap().deaf = false;
    assert!(host.undo(&order, &before).await.ok);
    let status = host.status().await.traffic.unwrap();
    assert_eq!((status.asked, status.observed), (Some(mostly.clone()), Some(mostly)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_traffic_divides_none() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let state = tempfile::tempdir().unwrap();
    let root = state.path().canonicalize().unwrap();
    let policy = Policy::parse("version: 1\nfleet: prod\nhost: crm-b1\n").unwrap();
    let host = Host::open(&policy, String::new(), &root.join("state")).unwrap();
    let order = step(Verb::SetWeights, "v1", &weights(&[("blue", 100)]));
    let none = "this host divides no traffic: its policy has no `traffic`";
    assert_eq!(host.forbidden(&order).as_deref(), Some(none));
    assert_eq!(host.perform(&order, &Before::Nothing).await.detail, none);
    assert_eq!(host.status().await.traffic, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_not_there_is_said() {
    let edge = Edge::new();
    std::fs::remove_file(edge.root.join("edge.sock")).unwrap();
    let status = edge.host().status().await.traffic.unwrap();
    let what = &status.problems[0].what;
    assert!(what.starts_with("how the traffic is divided cannot be told: GET /weights"), "{what}");
}
