//! What the verbs decide, with a proxy that does what it is told, or what a test says, and with hosts on this machine.

use std::{
    fs,
    net::TcpListener,
    sync::{Arc, Mutex, MutexGuard},
};

use proto::policy::Policy;

use super::*;
use crate::order::Verb;

/// What the fake is told to do, and what became of it.
#[derive(Debug, Default)]
struct Inner {
    running: Option<Weights>,
    /// Why it refuses a candidate, a change, or to be asked.
    refuses: Option<String>,
    fails: Option<String>,
    mute: Option<String>,
    /// It takes every change and does none.
    deaf: bool,
    /// Something beside it was changed.
    troubled: bool,
    open: Vec<Open>,
    set: Vec<Weights>,
    /// What the record held when the proxy was told.
    recorded: Vec<String>,
    state: std::path::PathBuf,
}

#[derive(Clone, Debug)]
struct Fake(Arc<Mutex<Inner>>);

impl Fake {
    fn at(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

fn now<'a, T: Send + 'a>(value: T) -> Doing<'a, T> {
    Box::pin(std::future::ready(value))
}

impl Proxy for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn test<'a>(&'a self, _to: &'a Weights, _deadline: Instant) -> Doing<'a, Result<(), String>> {
        now(self.at().refuses.clone().map_or(Ok(()), Err))
    }

    fn set<'a>(&'a self, to: &'a Weights, _deadline: Instant) -> Doing<'a, Result<(), String>> {
        let mut at = self.at();
        let recorded = fs::read_to_string(at.state.join("traffic.json")).unwrap_or_default();
        at.recorded.push(recorded);
        if let Some(why) = at.fails.clone() {
            return now(Err(why));
        }
        at.set.push(to.clone());
        if !at.deaf {
            at.running = Some(to.clone());
        }
        now(Ok(()))
    }

    fn observe(&self) -> Doing<'_, Result<Option<Weights>, String>> {
        let at = self.at();
        now(at.mute.clone().map_or_else(|| Ok(at.running.clone()), Err))
    }

    fn open<'a>(&'a self, _hosts: &'a BTreeSet<String>) -> Doing<'a, Result<Open, String>> {
        let mut at = self.at();
        let open = if at.open.len() > 1 { at.open.remove(0) } else { at.open[0].clone() };
        now(Ok(open))
    }

    fn troubles(&self) -> Doing<'_, Vec<Problem>> {
        let problem = Problem { what: "changed by hand".to_owned(), ..Problem::default() };
        now(if self.at().troubled { vec![problem] } else { Vec::new() })
    }

    fn findings(&self) -> Doing<'_, Vec<Finding>> {
        now(Vec::new())
    }
}

/// An edge before `blue` (two hosts) and `green` (one). Each host is an address of the loopback network; who answers,
/// listens there.
struct Edge {
    traffic: Traffic,
    fake: Fake,
    state: tempfile::TempDir,
    port: u16,
    answers: BTreeMap<&'static str, TcpListener>,
}

const HOSTS: [(&str, &str); 3] =
    [("crm-b1", "127.0.3.1"), ("crm-b2", "127.0.3.2"), ("crm-g1", "127.0.3.3")];

impl Edge {
    fn new() -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let state = tempfile::tempdir().unwrap();
        // A port that was free on one address is held on it; the others take the same.
        let first = TcpListener::bind((HOSTS[0].1, 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        let root = state.path().canonicalize().unwrap();
        let policy = policy(port);
        let inner = Inner { state: root.clone(), open: vec![Open::default()], ..Inner::default() };
        let fake = Fake(Arc::new(Mutex::new(inner)));
        let proxy = Box::new(fake.clone());
        let traffic = Traffic::with(proxy, Client::new().unwrap(), &policy, &root);
        Self { traffic, fake, state, port, answers: [(HOSTS[0].0, first)].into() }
    }

    fn all_answer() -> Self {
        let mut edge = Self::new();
        edge.answers("crm-b2");
        edge.answers("crm-g1");
        edge
    }

    fn answers(&mut self, host: &str) {
        let (name, address) = HOSTS.iter().find(|(name, _)| *name == host).unwrap();
        self.answers.insert(name, TcpListener::bind((*address, self.port)).unwrap());
    }

    fn is_silent(&mut self, host: &str) {
        self.answers.remove(host);
    }

    async fn set(&self, to: &Weights) -> Result<String, String> {
        self.traffic.perform(&step(Verb::SetWeights, to)).await.map(|(words, _)| words)
    }

    async fn looked(&self, to: &Weights) -> Before {
        self.traffic.look(&step(Verb::SetWeights, to)).await.unwrap()
    }

    fn running(&self) -> Option<Weights> {
        self.fake.at().running.clone()
    }

    async fn problems(&self) -> Vec<String> {
        let status = self.traffic.status().await;
        status.problems.into_iter().map(|problem| problem.what).collect()
    }
}

fn policy(port: u16) -> TrafficPolicy {
    let of = |group: &[(&str, &str)]| {
        let rows: Vec<String> = group.iter().map(|(name, at)| format!("{name}: {at}")).collect();
        rows.join(", ")
    };
    let text = format!(
        "version: 1\nfleet: prod\nhost: edge1\ntraffic:\n  through: {{ sandbox: {{ socket: /run/none }} }}\n  app: crm\n  \
         ports: {{ api: {port} }}\n  groups: {{ blue: {{ {} }}, green: {{ {} }} }}\n  drain: 1s\n",
        of(&HOSTS[..2]),
        of(&HOSTS[2..])
    );
    Policy::parse(&text).unwrap().traffic.unwrap()
}

fn weights(groups: &[(&str, u32)], out: &[&str]) -> Weights {
    Weights {
        groups: groups.iter().map(|(group, percent)| ((*group).to_owned(), *percent)).collect(),
        out: out.iter().map(ToString::to_string).collect(),
    }
}

fn step(verb: Verb, to: &Weights) -> Step {
    Step {
        verb,
        component: Step::TRAFFIC.to_owned(),
        release: String::new(),
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

#[tokio::test]
async fn what_is_no_division_of_this_edge_is_refused_before_anything() {
    let edge = Edge::all_answer();
    for (bad, words) in [
        (weights(&[("blue", 60)], &[]), "weights sum to 60, not to 100"),
        (weights(&[("blue", 60), ("red", 40)], &[]), "group red is not in"),
        (weights(&[("blue", 100)], &["crm-b1", "crm-b2"]), "has no host that is not out"),
        (weights(&[("blue", 100)], &["elsewhere"]), "host elsewhere is not in"),
    ] {
        for verb in [Verb::Preflight, Verb::SetWeights, Verb::Verify, Verb::Drain] {
            let why = edge.traffic.forbidden(&step(verb, &bad)).unwrap();
            assert!(why.contains(words), "{verb}: {why}");
            assert_eq!(edge.traffic.perform(&step(verb, &bad)).await, Err(why));
        }
    }
    let mut none = step(Verb::SetWeights, &weights(&[("blue", 100)], &[]));
    none.weights = None;
    assert!(edge.traffic.forbidden(&none).unwrap().contains("does not say how"));
    let stop = step(Verb::Stop, &weights(&[("blue", 100)], &[]));
    assert_eq!(edge.traffic.forbidden(&stop).unwrap(), "`stop` is not done to traffic");
    assert_eq!((edge.running(), edge.fake.at().set.len()), (None, 0));
}

#[tokio::test]
async fn p07_a_host_that_does_not_answer_is_given_nothing_and_is_named() {
    let mut edge = Edge::all_answer();
    edge.is_silent("crm-b2");
    let blue = weights(&[("blue", 100)], &[]);
    let words = edge.set(&blue).await.unwrap();
    assert!(words.starts_with("traffic goes to blue 100 % without crm-b2; left out"), "{words}");
    assert!(words.contains("crm-b2 (api (127.0.3.2:"), "{words}");
    let status = edge.traffic.status().await;
    assert_eq!(status.asked, Some(blue.clone()));
    assert_eq!(status.observed, Some(weights(&[("blue", 100)], &["crm-b2"])));
    let problem = &status.problems[0];
    assert!(problem.what.contains("crm-b2 did not answer") && problem.warns, "{problem:?}");
    // Who gets traffic is good: what was left out is named, and is no failure.
    let (words, _) = edge.traffic.perform(&step(Verb::Verify, &blue)).await.unwrap();
    assert!(words.ends_with("left out when the traffic was set: crm-b2"), "{words}");
    // Once it answers, the same order gives it its part; one that has it already keeps it.
    edge.answers("crm-b2");
    assert_eq!(edge.set(&blue).await.unwrap(), "traffic goes to blue 100 %");
    edge.is_silent("crm-b1");
    let words = edge.set(&blue).await.unwrap();
    assert!(words.contains("keeps its traffic although it does not answer: crm-b1"), "{words}");
    assert_eq!(edge.running(), Some(blue));
}

#[tokio::test]
async fn a_group_of_which_nobody_answers_changes_nothing() {
    let mut edge = Edge::all_answer();
    edge.set(&weights(&[("blue", 100)], &[])).await.unwrap();
    edge.is_silent("crm-g1");
    let green = weights(&[("green", 100)], &[]);
    for verb in [Verb::Preflight, Verb::SetWeights] {
        let why = edge.traffic.perform(&step(verb, &green)).await.unwrap_err();
        assert!(
            why.contains("group green is to get 100 %, and none of its hosts answers"),
            "{why}"
        );
        assert!(why.contains("crm-g1 (api (127.0.3.3:") && why.contains("nothing was changed"));
    }
    assert_eq!(edge.running(), Some(weights(&[("blue", 100)], &[])));
    assert_eq!(edge.problems().await, [] as [&str; 0]);
}

#[tokio::test]
async fn p08_what_is_asked_is_on_the_disk_before_the_proxy_is_told() {
    let edge = Edge::all_answer();
    edge.set(&weights(&[("green", 100)], &[])).await.unwrap();
    assert!(edge.fake.at().recorded[0].contains("\"green\": 100"));
    let refused = "it does not take that".to_owned();
    edge.fake.at().refuses = Some(refused.clone());
    let blue = weights(&[("blue", 100)], &[]);
    for verb in [Verb::Preflight, Verb::SetWeights] {
        assert_eq!(edge.traffic.perform(&step(verb, &blue)).await, Err(refused.clone()));
    }
    assert_eq!(edge.fake.at().recorded.len(), 1, "it was not told");
    assert_eq!(edge.traffic.status().await.asked, Some(weights(&[("green", 100)], &[])));
}

#[tokio::test]
async fn a_change_that_fails_is_not_what_was_asked() {
    let edge = Edge::all_answer();
    let (green, blue) = (weights(&[("green", 100)], &[]), weights(&[("blue", 100)], &[]));
    edge.set(&green).await.unwrap();
    edge.fake.at().fails = Some("no room; it is as it was before".to_owned());
    assert_eq!(edge.set(&blue).await.unwrap_err(), "no room; it is as it was before");
    assert_eq!(edge.traffic.status().await.asked, Some(green.clone()));
    edge.fake.at().fails = None;
    // It says yes and goes on as before.
    edge.fake.at().deaf = true;
    let why = edge.set(&blue).await.unwrap_err();
    assert_eq!(why, "fake was told blue 100 %, and divides green 100 %");
    assert_eq!(edge.traffic.status().await.asked, Some(green));
}

#[tokio::test]
async fn p06_a_step_that_is_taken_back_leaves_what_was_before() {
    let mut edge = Edge::all_answer();
    edge.is_silent("crm-b2");
    let (blue, green) = (weights(&[("blue", 100)], &[]), weights(&[("green", 100)], &[]));
    let first = edge.looked(&blue).await;
    assert_eq!(first, Before::Weights(None));
    edge.set(&blue).await.unwrap();
    let before = edge.looked(&green).await;
    assert_eq!(before, Before::Weights(Some(weights(&[("blue", 100)], &["crm-b2"]))));
    edge.set(&green).await.unwrap();
    // Taking back asks nobody: users were there before.
    edge.is_silent("crm-b1");
    let order = step(Verb::SetWeights, &green);
    let (words, _) = edge.traffic.undo(&order, &before).await.unwrap();
    assert_eq!(words, "traffic goes to blue 100 % without crm-b2 again");
    let status = edge.traffic.status().await;
    assert_eq!(status.asked, Some(blue), "with what was left out then: {status:?}");
    assert!(status.problems[0].what.starts_with("crm-b2 did not answer"), "{status:?}");
    // Where nothing had been set, nothing is there to go back to.
    let (words, _) = edge.traffic.undo(&order, &first).await.unwrap();
    assert!(words.starts_with("nothing had been set before; the traffic stays"), "{words}");
    assert_eq!(edge.fake.at().set.len(), 3);
}

#[tokio::test]
async fn p02_after_a_crash_the_running_proxy_says_how_far_it_got() {
    let edge = Edge::all_answer();
    let (blue, green) = (weights(&[("blue", 100)], &[]), weights(&[("green", 100)], &[]));
    edge.set(&blue).await.unwrap();
    let (order, before) = (step(Verb::SetWeights, &green), edge.looked(&green).await);
    let seen = async |undo| edge.traffic.observe(&order, &before, undo).await.unwrap().0;
    assert_eq!(seen(false).await, Found::NotDone, "killed before it was decided");
    edge.fake.at().fails = Some("killed".to_owned());
    drop(edge.set(&green).await);
    let asked = Asked { weights: green.clone(), left_out: BTreeSet::new() };
    edge.traffic.record.ask(asked).unwrap();
    assert_eq!(seen(false).await, Found::NotDone, "decided, and the proxy was not told");
    edge.fake.at().running = Some(weights(&[("blue", 50), ("green", 50)], &[]));
    assert_eq!(seen(false).await, Found::Partial, "told in part");
    edge.fake.at().running = Some(green.clone());
    assert_eq!(seen(false).await, Found::Done);
    assert_eq!(seen(true).await, Found::NotDone);
    // What runs and what a restart would bring back differ.
    edge.fake.at().troubled = true;
    assert_eq!(seen(false).await, Found::Partial);
    edge.fake.at().troubled = false;
    edge.fake.at().running = Some(blue.clone());
    assert_eq!(seen(true).await, Found::Done);
    // One that does not run at all is told again.
    edge.fake.at().mute = Some("it does not run".to_owned());
    assert_eq!(seen(false).await, Found::Partial);
    assert_eq!(edge.looked(&green).await, Before::Weights(Some(green)), "what it was told last");
}

#[tokio::test]
async fn what_the_proxy_does_otherwise_than_asked_is_an_alarm() {
    let edge = Edge::all_answer();
    assert_eq!(edge.problems().await, ["how the traffic is to be divided was never said"]);
    edge.set(&weights(&[("blue", 100)], &[])).await.unwrap();
    edge.fake.at().running = Some(weights(&[("green", 100)], &[]));
    assert_eq!(edge.problems().await, ["traffic goes to green 100 %; asked was blue 100 %"]);
    let verify = step(Verb::Verify, &weights(&[("blue", 100)], &[]));
    let why = edge.traffic.perform(&verify).await.unwrap_err();
    assert_eq!(why, "fake divides green 100 %; asked was blue 100 %");
    edge.fake.at().running = None;
    assert_eq!(edge.problems().await, ["the proxy knows nothing of what was asked of it"]);
    edge.fake.at().mute = Some("connection refused".to_owned());
    let words = ["how the traffic is divided cannot be told: connection refused"];
    assert_eq!(edge.problems().await, words);
    fs::write(edge.state.path().join("traffic.json"), "{}").unwrap();
    assert!(edge.problems().await[0].contains("is not what the agent wrote"));
}

#[tokio::test]
async fn who_gets_traffic_answers_or_the_verification_fails() {
    let mut edge = Edge::all_answer();
    let blue = weights(&[("blue", 100)], &[]);
    edge.set(&blue).await.unwrap();
    let verify = step(Verb::Verify, &blue);
    let (words, evidence) = edge.traffic.perform(&verify).await.unwrap();
    assert_eq!(words, "fake divides blue 100 %; 2 of 2 hosts answer");
    assert_eq!(evidence.unwrap().weights, Some(blue.clone()));
    edge.is_silent("crm-b2");
    let why = edge.traffic.perform(&verify).await.unwrap_err();
    assert!(why.starts_with("gets traffic and does not answer: crm-b2 (api"), "{why}");
}

#[tokio::test]
async fn a_drain_waits_for_what_is_open_and_never_longer_than_it_may() {
    let edge = Edge::all_answer();
    let blue = weights(&[("blue", 100)], &[]);
    let busy = Open { hosts: [("crm-g1".to_owned(), 2)].into(), old: 1 };
    edge.fake.at().open = vec![busy.clone(), busy.clone(), Open::default()];
    let drain = step(Verb::Drain, &blue);
    let (words, _) = edge.traffic.perform(&drain).await.unwrap();
    assert!(words.starts_with("drained in 0."), "{words}");
    edge.fake.at().open = vec![busy];
    let (words, _) = edge.traffic.perform(&drain).await.unwrap();
    assert!(words.starts_with("2 connections still on crm-g1 after 1."), "{words}");
    let mut unsaid = drain;
    unsaid.weights = None;
    let (words, _) = edge.traffic.perform(&unsaid).await.unwrap();
    assert_eq!(words, "no traffic was ever set: nothing to drain");
}
