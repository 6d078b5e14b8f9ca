//! The proxy on a real HAProxy, which needs no systemd.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use proto::policy::Policy;

use super::{
    super::{
        Traffic,
        hosts::{Hosts, load, through},
    },
    *,
};
use crate::order::{Before, Step, Verb};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// An edge with an HAProxy of its own, before `blue` (two hosts) and `green` (one).
struct Edge {
    root: tempfile::TempDir,
    hosts: Hosts,
    haproxy: Option<Child>,
}

impl Edge {
    fn new(backend: &str) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let root = tempfile::tempdir().unwrap();
        let hosts = Hosts::new(["crm-b1", "crm-b2", "crm-g1"]);
        let mut edge = Self { root, hosts, haproxy: None };
        let saved = format!("server-state-file {}", edge.at("state").display());
        edge.configure(&saved, backend, "");
        edge.start();
        edge
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(name)
    }

    fn configure(&self, global: &str, backend: &str, more: &str) {
        let mut text = format!(
            "global\n  stats socket {} mode 600 level admin\n  {global}\ndefaults\n  mode http\n  \
             load-server-state-from-file global\n  timeout client 5s\n  timeout server 60s\n  timeout connect 1s\n\
             frontend front\n  bind unix@{}\n  default_backend crm-api\nbackend crm-api\n  {backend}\n",
            self.at("admin").display(),
            self.at("front").display()
        );
        for (host, address) in &self.hosts.addresses {
            let port = self.hosts.port;
            text.push_str(&format!("  server {host} {address}:{port} cookie {host} weight 0\n"));
        }
        text.push_str(more);
        fs::write(self.at("haproxy.cfg"), text + "\n").unwrap();
    }

    fn start(&mut self) {
        let mut command = Command::new("/usr/sbin/haproxy");
        command.arg("-db").arg("-f").arg(self.at("haproxy.cfg"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.haproxy = Some(child);
        let end = std::time::Instant::now() + LONG;
        while std::os::unix::net::UnixStream::connect(self.at("admin")).is_err() {
            assert!(std::time::Instant::now() < end, "HAProxy did not start");
            std::thread::yield_now();
        }
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.haproxy.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn traffic(&self) -> Traffic {
        let at = &self.hosts.addresses;
        let text = format!(
            "version: 1\nfleet: prod\nhost: edge1\ntraffic:\n  through: {{ haproxy: {{ socket: {}, state_file: {} }} }}\n  \
             app: crm\n  ports: {{ api: {} }}\n  groups:\n    blue: {{ crm-b1: {}, crm-b2: {} }}\n    green: {{ crm-g1: {} }}\n  \
             drain: 20s\n  version: {{ port: api, path: /version, version_at: /version }}\n",
            self.at("admin").display(),
            self.at("state").display(),
            self.hosts.port,
            at["crm-b1"],
            at["crm-b2"],
            at["crm-g1"]
        );
        let policy = Policy::parse(&text).unwrap().traffic.unwrap();
        fs::create_dir_all(self.at("agent")).unwrap();
        Traffic::new(&policy, &self.at("agent")).unwrap()
    }

    async fn tell(&self, line: &str) -> String {
        Socket::new(&self.at("admin")).ask(line, Instant::now() + LONG).await.unwrap()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.stop();
    }
}

const PLAIN: &str = "balance roundrobin";

fn weights(groups: &[(&str, u32)]) -> Weights {
    let groups = groups.iter().map(|(group, percent)| ((*group).to_owned(), *percent));
    Weights { groups: groups.collect(), out: BTreeSet::new() }
}

fn step(verb: Verb, to: &Weights) -> Step {
    Step {
        verb,
        component: Step::TRAFFIC.to_owned(),
        release: "v1".to_owned(),
        snapshot: String::new(),
        deadline_ms: 30_000,
        hook: String::new(),
        across_migrations: false,
        weights: Some(to.clone()),
        artefact: None,
        at_once: true,
        forward: false,
    }
}

async fn done(traffic: &Traffic, verb: Verb, to: &Weights) -> String {
    traffic.perform(&step(verb, to)).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "real: needs haproxy"]
async fn real_haproxy_divides_by_percent_and_remembers_it() {
    let mut edge = Edge::new(PLAIN);
    let traffic = edge.traffic();
    assert_eq!(traffic.status().await.observed, None);
    for percent in [5, 25, 50] {
        let to = weights(&[("blue", 100 - percent), ("green", percent)]);
        done(&traffic, Verb::Preflight, &to).await;
        done(&traffic, Verb::SetWeights, &to).await;
        edge.hosts.counts();
        // Servers keep their places in the round when weights change: the first thousands are less exact.
        for within in [40, 8] {
            load(&edge.at("front"), 4000);
            let got = edge.hosts.counts();
            let wanted = u64::from(percent) * 40;
            assert!(got["crm-g1"].abs_diff(wanted) <= within, "{percent} %: {got:?}");
        }
    }
    let blue = weights(&[("blue", 100)]);
    let before = traffic.look(&step(Verb::SetWeights, &blue)).await.unwrap();
    done(&traffic, Verb::SetWeights, &blue).await;
    // A restart forgets what was only said on the socket.
    edge.stop();
    edge.start();
    assert_eq!(traffic.status().await.observed, Some(blue.clone()));
    assert_eq!(traffic.status().await.problems, []);
    let words = done(&traffic, Verb::Verify, &blue).await;
    assert_eq!(words, "haproxy divides blue 100 %; 2 of 2 hosts answer as v1");
    assert!(traffic.findings().await.iter().all(|finding| finding.bad.is_none()));
    let half = weights(&[("blue", 50), ("green", 50)]);
    assert_eq!(before, Before::Weights(Some(half.clone())));
    traffic.undo(&step(Verb::SetWeights, &blue), &before).await.unwrap();
    assert_eq!(traffic.status().await.observed, Some(half));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "real: needs haproxy"]
async fn real_haproxy_sends_nobody_whom_a_cookie_binds_to_who_gets_nothing() {
    let edge = Edge::new("balance roundrobin\n  cookie SERVER insert indirect nocache");
    let traffic = edge.traffic();
    done(&traffic, Verb::SetWeights, &weights(&[("green", 100)])).await;
    let bound = "Cookie: SERVER=crm-g1\r\n";
    through(&edge.at("front"), "/", bound);
    assert_eq!(edge.hosts.counts()["crm-g1"], 1);
    done(&traffic, Verb::SetWeights, &weights(&[("blue", 100)])).await;
    for _ in 0..20 {
        assert!(through(&edge.at("front"), "/", bound).contains(" 200 "));
    }
    assert_eq!(edge.hosts.counts()["crm-g1"], 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "real: needs haproxy"]
async fn real_haproxy_is_drained_when_its_sessions_have_ended() {
    let edge = Edge::new(PLAIN);
    let traffic = edge.traffic();
    done(&traffic, Verb::SetWeights, &weights(&[("green", 100)])).await;
    let front = edge.at("front");
    let slow = std::thread::spawn(move || through(&front, "/slow", ""));
    edge.hosts.wait_for_slow("crm-g1", 1);
    let blue = weights(&[("blue", 100)]);
    done(&traffic, Verb::SetWeights, &blue).await;
    let mut short = step(Verb::Drain, &blue);
    short.deadline_ms = 300;
    let (words, _) = traffic.perform(&short).await.unwrap();
    assert!(words.starts_with("1 connection still on crm-g1 after 0."), "{words}");
    edge.hosts.release("crm-g1");
    assert!(slow.join().unwrap().contains(" 200 "), "nobody was cut off");
    assert!(done(&traffic, Verb::Drain, &blue).await.starts_with("drained in "));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "real: needs haproxy"]
async fn real_haproxy_that_is_not_what_was_declared_is_refused_with_the_mend() {
    let mut edge = Edge::new(PLAIN);
    let traffic = edge.traffic();
    let blue = weights(&[("blue", 100)]);
    done(&traffic, Verb::SetWeights, &blue).await;
    let refused = async |to: &Weights| {
        let why = traffic.perform(&step(Verb::Preflight, to)).await.unwrap_err();
        let set = traffic.perform(&step(Verb::SetWeights, to)).await.unwrap_err();
        assert_eq!(why, set);
        why
    };
    let green = weights(&[("green", 100)]);
    // What somebody holds by hand is not let go.
    edge.tell("set server crm-api/crm-g1 weight 10").await;
    let why = refused(&green).await;
    assert!(why.contains("somebody has crm-api/crm-g1 in maintenance or draining"), "{why}");
    edge.tell("set server crm-api/crm-g1 weight 0").await;
    // What somebody gives by hand is seen.
    edge.tell("set server crm-api/crm-g1 weight 100; set server crm-api/crm-g1 state ready").await;
    let status = traffic.status().await;
    assert_eq!(status.observed, Some(weights(&[("blue", 67), ("green", 33)])));
    let said: Vec<&str> = status.problems.iter().map(|problem| problem.what.as_str()).collect();
    assert_eq!(said[0], "traffic goes to blue 67 %, green 33 %; asked was blue 100 %");
    assert!(said[1].contains("a restart of HAProxy would change the traffic"), "{said:?}");
    done(&traffic, Verb::SetWeights, &blue).await;
    assert_eq!(traffic.status().await.problems, []);
    fs::remove_file(edge.at("state")).unwrap();
    let problem = &traffic.status().await.problems[0];
    assert!(problem.what.contains("is gone: a restart of HAProxy would change"), "{problem:?}");
    done(&traffic, Verb::SetWeights, &blue).await;

    let saved = format!("server-state-file {}", edge.at("state").display());
    for (global, backend, more, words) in [
        ("", PLAIN, "", "has no `server-state-file`"),
        (saved.as_str(), "balance leastconn", "", "mend: `balance roundrobin`"),
        (
            saved.as_str(),
            PLAIN,
            "  server old 127.0.0.1:1 weight 5",
            "server crm-api/old gets traffic",
        ),
    ] {
        edge.stop();
        edge.configure(global, backend, more);
        edge.start();
        let why = refused(&green).await;
        assert!(why.contains(words), "{why}");
        let found = traffic.findings().await;
        if !backend.contains("leastconn") {
            assert!(found.iter().any(|finding| finding.to_string().contains(words)), "{found:?}");
        }
    }
    edge.stop();
    let why = refused(&green).await;
    assert!(why.contains("HAProxy does not answer on"), "{why}");
}
