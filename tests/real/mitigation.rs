//! How long users get a release after somebody has typed `ctl rollback`, on real nginx and HAProxy.
//!
//! ```text
//! run: deploy blue-green ─▶ users get it ─▶ `ctl rollback` ─▶ the edge says that nobody gets it any more
//!            300 requests a second through the edge, all the time ─▶ its last answer ─┘
//! ```
//!
//! Invariant: no answer of it was asked for after Lastgood has said that nobody gets it; times are told. That no request
//! fails meanwhile is proven in `traffic.rs`.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tests::load::Load;

use crate::{
    figures,
    fleet::Told,
    hosts::Host,
    proxies::Proxy,
    traffic::{GOOD, assert_done, confirmed, create_release, divided, users, users_get},
};

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn nginx_takes_users_off_a_release_at_once_each_time() {
    taken_off("mnginx", Proxy::Nginx, 20);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn haproxy_takes_users_off_a_release_at_once_each_time() {
    taken_off("mhaproxy", Proxy::Haproxy, 5);
}

/// Since `ctl rollback` was started.
struct Run {
    /// As Lastgood has it on record.
    mitigated: Duration,
    last_bad: Duration,
    /// The last request that got it was begun.
    last_asked: Duration,
    whole: Duration,
}

fn taken_off(test: &str, proxy: Proxy, runs: usize) {
    let fleet = divided(test, proxy, 1);
    let (blue, green) = fleet.sides();
    let mut all = Vec::new();
    for run in 1..=runs {
        // What was left as bad is not brought out again.
        let next = format!("v2.0.{run}");
        create_release(&fleet, &next, None);
        let load = Load::start(users(fleet.edge()));
        users_get(&load, GOOD, blue);
        assert_done(&fleet.ctl(&confirmed(&[
            "deploy",
            "--release",
            &next,
            "--strategy",
            "blue-green",
        ])));
        users_get(&load, &next, green);
        // In this order: what passes between the two never makes a claim seem early.
        let (asked_at, asked) = (Timestamp::now(), Instant::now());
        let told = fleet.rollback(&["--reason", "users complain"]);
        let whole = asked.elapsed();
        assert_done(&told);
        assert_only_traffic_went_back(&told, blue);
        users_get(&load, GOOD, blue);
        let report = load.stop();
        let mitigated = told.json["result"]["mitigated"].as_str().expect("it was measured");
        let mitigated: Timestamp = mitigated.parse().expect("a time");
        let since = |time: Instant| time.saturating_duration_since(asked);
        let last_bad = report.last_of(&next).expect("users had it");
        let last_asked = report.last_asked_of(&next).expect("users had it");
        let run = Run {
            // Of an operation that was on record later than it was typed.
            mitigated: mitigated.duration_since(asked_at).try_into().expect("later than asked"),
            last_bad: since(last_bad),
            last_asked: since(last_asked),
            whole,
        };
        // What was asked for before may come after. Both times are in whole milliseconds.
        assert!(
            run.last_asked <= run.mitigated + Duration::from_millis(1),
            "{next} was asked for {:?} after the rollback was, and got; it said {:?}",
            run.last_asked,
            run.mitigated
        );
        all.push(run);
        assert_done(&fleet.ctl(&["freeze", "off", "--fleet", "prod", "--reason", "the next run"]));
    }
    fleet.serves(GOOD);
    let tell = |what: &str, of: fn(&Run) -> Duration| {
        figures::tell(&format!("{proxy:?}, since `ctl rollback`: {what}"), all.iter().map(of));
    };
    tell("mitigated", |run| run.mitigated);
    tell("the last answer of the release", |run| run.last_bad);
    tell("the last request that got it", |run| run.last_asked);
    tell("every host is back", |run| run.whole);
}

/// The good release was warm on these hosts: nobody has stopped or replaced it there.
fn assert_only_traffic_went_back(told: &Told, warm: &[Host]) {
    let all = told.json["result"]["hosts"].as_array().expect("hosts");
    for host in warm {
        let row = all.iter().find(|row| row["host"] == host.name.as_str());
        let row = row.unwrap_or_else(|| panic!("{} is told of: {told:?}", host.name));
        assert_eq!(row["cut_ms"], 0, "{row}");
        let evidence = row["evidence"].as_array().expect("evidence");
        assert!(!evidence.is_empty(), "{row}");
        assert!(evidence.iter().all(|one| one["replaced"].is_null()), "{row}");
    }
}
