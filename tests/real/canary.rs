//! A release that is tried on some users first, and judged by what a real Prometheus has scraped.
//!
//! ```text
//! blue, green, canary: a host each ◀── edge: nginx ◀── 100 requests a second from this machine
//!   └─ /metrics ◀─ each second ─ Prometheus ◀─ queries ─ coordinator: judge, triggers
//! ```
//!
//! A free slot makes it quick: it gets the release together with the canary, and in the end only the traffic moves.
//!
//! Invariant: what users get is told by the load, never by Lastgood; times are told, and nothing is judged by them.

use std::{collections::BTreeSet, net::SocketAddr, thread, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use tests::load::{Failure, Load, Plan, Report};

use crate::{
    app::{self, Runs},
    figures,
    fleet::{Edge, Fleet, Told, Wanted, eventually},
    hosts::Host,
    proxies::{PORTS, Proxy},
    scraper::Scraper,
    traffic::{
        self, GOOD, assert_done, assert_nobody_noticed, confirmed, create_release, users_get,
    },
};

const NEXT: &str = "v2.0.0";
/// How often a bad release is tried.
const RUNS: usize = 10;
/// Versions that fail on a host for as long as they stand there.
const FAILING: &str = "/etc/ace-crm/failing";

#[test]
#[ignore = "needs root, systemd-nspawn and Prometheus"]
fn a_release_that_fails_is_taken_back_by_the_judge_each_time() {
    // It would hold for longer than a proof takes: only the judge ends it.
    let steps = json!([{ "weight": 5, "hold": "5m" }, { "weight": 100 }]);
    let (fleet, _scraper) = tried("ccabort", json!({ "steps": steps }), |_| json!({}));
    let before: Vec<String> = fleet.hosts.iter().map(app::digest).collect();
    let divided = status(&fleet)["traffic"]["weights"].clone();
    let mut runs = Vec::new();
    for run in 1..=RUNS {
        // Other bytes each time: what was found to be bad is known by its content.
        let bad = format!("v2.0.{run}");
        create_release(&fleet, &bad, Some("errors-by-chance"));
        let users = Users::come(&fleet);
        users_get(&users.load, GOOD, fleet.sides().0);
        let went = deploy(&fleet, &bad);
        assert_eq!(went.told.code, 23, "{:?}", went.told);
        assert!(went.shares.contains(&5), "{:?}", went.shares);
        // Nobody gets it any more, and nobody gets an error.
        users_get(&users.load, GOOD, fleet.sides().0);
        let (report, began) = users.go();
        let status = status(&fleet);
        assert_eq!(status["traffic"]["weights"], divided, "{status}");
        for (host, before) in fleet.hosts.iter().zip(&before) {
            assert_eq!(app::digest(host), *before, "{}", host.name);
        }
        fleet.serves(GOOD);
        runs.push(taken_back(&went, &report, began));
    }
    tell(&runs);
    // What was found to be bad is not brought out again.
    let again = fleet.ctl(&confirmed(&["canary", "start", "--release", "v2.0.1"]));
    assert_eq!(again.code, 10, "{again:?}");
}

#[test]
#[ignore = "needs root, systemd-nspawn and Prometheus"]
fn a_good_release_goes_to_everybody_and_back_when_it_turns_bad() {
    let steps = [
        json!({ "weight": 5, "hold": "10s" }),
        json!({ "weight": 50, "hold": "5s" }),
        json!({ "weight": 100 }),
    ];
    let canary = json!({ "steps": steps, "min_requests": 40 });
    let query = "(sum(rate(http_requests_total{code=~\"5..\"}[5s])) or vector(0)) / sum(rate(http_requests_total[5s]))";
    let (fleet, _scraper) = tried("ccgood", canary, |url| {
        json!({ "errors": {
            "source": { "prometheus": url, "query": query },
            "breach": "> 0.02", "for": "2s", "severity": "critical", "then": "rollback",
        } })
    });
    let (blue, green) = fleet.sides();
    create_release(&fleet, NEXT, None);
    let users = Users::come(&fleet);
    users_get(&users.load, GOOD, blue);
    let went = deploy(&fleet, NEXT);
    assert_done(&went.told);
    assert!(went.shares.is_superset(&BTreeSet::from([5, 50])), "{:?}", went.shares);
    for weight in [5, 50] {
        let passed =
            |line: &&Value| line["ruling"]["verdict"] == "pass" && line["weight"] == weight;
        assert!(went.of("judged").any(|line| passed(&line)), "{weight} %: {:?}", went.lines);
    }
    users_get(&users.load, NEXT, green);
    assert_nobody_noticed(Proxy::Nginx, &users.go().0, 4);

    // Later on, at 100 %.
    let users = Users::come(&fleet);
    users_get(&users.load, NEXT, green);
    trigger(&fleet, "errors", "well");
    fail(&fleet, &[NEXT]);
    let operation = eventually("a rollback begins by itself", || {
        let history = fleet.ctl(&["history"]).json;
        let begun = history["operations"].as_array()?;
        let by_itself = begun.iter().find(|row| row["by"] == "trigger errors")?;
        assert_eq!(by_itself["kind"], "rollback", "{by_itself}");
        Some(by_itself["operation"].as_str()?.to_owned())
    });
    assert_done(&fleet.ctl(&["watch", &operation]));
    users_get(&users.load, GOOD, blue);
    fleet.serves(GOOD);
    assert_only_its_errors(&users.go().0);
}

#[test]
#[ignore = "needs root, systemd-nspawn and Prometheus"]
fn p07_a_canary_that_nobody_measures_holds_and_an_outage_of_all_hosts_is_not_the_release() {
    let steps = json!([{ "weight": 50, "hold": "10s" }, { "weight": 100 }]);
    let canary = json!({ "steps": steps, "min_requests": 300 });
    let (fleet, mut scraper) = tried("ccblind", canary, |_| {
        json!({ "errors": {
            "source": "probes", "breach": "error_rate > 0.10", "for": "5s",
            "severity": "critical", "then": "rollback",
        } })
    });
    let (blue, green) = fleet.sides();
    create_release(&fleet, NEXT, None);
    let users = Users::come(&fleet);
    users_get(&users.load, GOOD, blue);
    thread::scope(|scope| {
        let deploy = scope.spawn(|| fleet.ctl(&begin(NEXT)));
        eventually("the canary has its share", || {
            (status(&fleet)["canary"]["weight"] == 50).then_some(())
        });
        scraper.kill();
        let away = format!("Prometheus at {}: it cannot be reached", scraper.url());
        eventually("the hold is over, and the judge holds", || {
            let now = fleet.ctl(&["canary", "status"]).json;
            let holds = now["waits"] == "judge" && now["ruling"]["verdict"] == "hold";
            let says = now["ruling"]["sentence"].as_str()?.contains(&away);
            (holds && says).then_some(())
        });
        assert!(fleet.ctl(&["doctor"]).says(&away), "{:?}", fleet.ctl(&["doctor"]));
        assert!(!deploy.is_finished());
        scraper.start_again();
        let told = deploy.join().expect("ctl runs");
        assert_done(&told);
    });
    users_get(&users.load, NEXT, green);
    assert_nobody_noticed(Proxy::Nginx, &users.go().0, 3);

    // What all of them need is down.
    trigger(&fleet, "errors", "well");
    fail(&fleet, &[GOOD, NEXT]);
    let proposal = eventually("a rollback is proposed", || {
        let found = fleet.ctl(&["proposals"]).json;
        Some(found["proposals"].as_array()?.first()?.clone())
    });
    assert_eq!(proposal["by"], "trigger errors", "{proposal}");
    let why = proposal["why_not_automatic"].as_str().expect("a reason");
    assert!(why.contains("the hosts without it are as bad: it is not the release"), "{why}");
    let history = fleet.ctl(&["history"]).json;
    let begun = history["operations"].as_array().expect("operations");
    assert!(begun.iter().all(|row| row["kind"] != "rollback"), "{history}");
}

/// A fleet on the good release, all its traffic on blue, and who measures it: nobody else does.
fn tried(test: &str, mut canary: Value, triggers: impl FnOnce(&str) -> Value) -> (Fleet, Scraper) {
    let mut scraper = None;
    let wanted =
        Wanted { edge: Edge::Tries(Proxy::Nginx), files: 200, ..Wanted::hosts(3, Runs::Process) };
    let fleet = Fleet::start_as(test, wanted, |file, hosts| {
        let (_, port, _) = PORTS[0];
        let target = |host: &Host| {
            let address: SocketAddr = format!("{}:{port}", host.address).parse().expect("one");
            (address, Some(format!("{}:{port}", host.name)))
        };
        let targets: Vec<_> = hosts.iter().map(target).collect();
        let url = scraper.insert(Scraper::start(&targets)).url();
        canary["source"] = json!({
            "prometheus": url,
            "requests": "sum(http_requests_total{instance=~\"($side):.*\"})",
            "errors": "sum(http_requests_total{instance=~\"($side):.*\",code=~\"5..\"})",
            "latency": "sum by (le) (http_request_duration_seconds_bucket{instance=~\"($side):.*\"})",
        });
        file["canary"] = canary;
        file["triggers"] = triggers(&url);
    });
    assert_done(&fleet.ctl(&confirmed(&["switch", "--to", "blue"])));
    (fleet, scraper.expect("it was started with the fleet"))
}

/// Users of the edge, and when they came.
struct Users {
    load: Load,
    began: Timestamp,
}

impl Users {
    fn come(fleet: &Fleet) -> Self {
        let get = "/api/contacts".to_owned();
        let plan = Plan { rate: 100, get, ..traffic::users(fleet.edge()) };
        Self { began: Timestamp::now(), load: Load::start(plan) }
    }

    fn go(self) -> (Report, Timestamp) {
        (self.load.stop(), self.began)
    }
}

/// How a canary went.
struct Went {
    /// How it ended.
    told: Told,
    /// What `ctl` said meanwhile.
    lines: Vec<Value>,
    /// What the edge was seen to give to the canary, in percent.
    shares: BTreeSet<u64>,
}

impl Went {
    fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.lines.iter().filter(move |line| line["type"] == kind)
    }
}

fn begin(release: &str) -> Vec<&str> {
    confirmed(&["deploy", "--release", release, "--strategy", "canary"])
}

/// A canary to its end, and what the edge says meanwhile.
fn deploy(fleet: &Fleet, release: &str) -> Went {
    thread::scope(|scope| {
        let arguments = [&["-o", "jsonl"], &begin(release)[..]].concat();
        let running = scope.spawn(move || fleet.ctl_text(&arguments));
        let mut shares = BTreeSet::new();
        eventually("the canary ends", || {
            shares.extend(status(fleet)["traffic"]["weights"]["groups"]["canary"].as_u64());
            running.is_finished().then_some(())
        });
        let told = running.join().expect("ctl runs");
        let lines = told.words.lines().map(|line| serde_json::from_str(line).expect("a document"));
        Went { lines: lines.collect(), shares, told }
    })
}

fn status(fleet: &Fleet) -> Value {
    fleet.ctl(&["status"]).json
}

/// Waits until a trigger stands so.
fn trigger(fleet: &Fleet, name: &str, state: &str) {
    eventually(&format!("trigger {name} is {state}"), || {
        let status = status(fleet);
        let mut rows = status["triggers"].as_array()?.iter();
        rows.any(|row| row["trigger"] == name && row["state"] == state).then_some(())
    });
}

/// From now on a quarter of what these versions answer is an error, wherever they run.
fn fail(fleet: &Fleet, versions: &[&str]) {
    let lines = versions.join("\\n");
    for host in &fleet.hosts {
        host.sh(&format!("mkdir -p /etc/ace-crm; printf '{lines}\\n' >{FAILING}"));
    }
}

/// Users had answers all the time, of the app.
fn assert_only_its_errors(report: &Report) {
    assert!(report.failed() > 0, "{report:#?}");
    let own = |failure: &Failure| *failure == Failure::Status(500);
    assert!(report.failures.iter().all(|(_, failure)| own(failure)), "{report:#?}");
}

/// One run, since the first bad answer that a user got.
struct TakenBack {
    judged: Duration,
    last_bad: Duration,
    no_share: Duration,
    sentence: String,
}

fn taken_back(went: &Went, report: &Report, began: Timestamp) -> TakenBack {
    assert_only_its_errors(report);
    assert_eq!(report.failed(), report.failures.len() as u64, "each one is told: {report:#?}");
    let result = went.lines.last().expect("how it ended");
    assert_eq!(result["result"]["aborted_by"], "judge", "{:?}", went.told);
    let failed = went.of("judged").find(|line| line["ruling"]["verdict"] == "fail");
    let failed = failed.unwrap_or_else(|| panic!("{:?}", went.told));
    let at = |line: &Value| -> Timestamp {
        line["time"].as_str().expect("a time").parse().expect("one")
    };
    // What the edge reads back of its proxy is a part of the step.
    let none = |line: &&Value| line["verb"] == "set weights" && line["state"] == "undone";
    let none = went.of("step").find(none);
    let none = none.unwrap_or_else(|| panic!("{:?}", went.told));
    let of_load = |ms: u64| began + Duration::from_millis(ms);
    let first = of_load(report.failures[0].0);
    let last = of_load(report.failures[report.failures.len() - 1].0);
    let since = |time: Timestamp| time.duration_since(first).unsigned_abs();
    TakenBack {
        judged: since(at(failed)),
        last_bad: since(last),
        no_share: since(at(none)),
        sentence: failed["ruling"]["sentence"].as_str().expect("a sentence").to_owned(),
    }
}

#[expect(clippy::print_stderr, reason = "for the person who measures")]
fn tell(runs: &[TakenBack]) {
    for run in runs {
        let TakenBack { judged, last_bad, no_share, sentence } = run;
        eprintln!(
            "first bad answer → fail {judged:.1?} → last bad {last_bad:.1?}, 0 % {no_share:.1?}: {sentence}"
        );
    }
    figures::tell("from the first bad answer to 0 %", runs.iter().map(|run| run.no_share));
}
