//! How long users get a release after somebody has typed `ctl rollback`, on real nginx and HAProxy.
//!
//! ```text
//! run: deploy blue-green ─▶ users get it ─▶ `ctl rollback` ─▶ the edge says that nobody gets it any more
//!            300 requests a second through the edge, all the time ─▶ its last answer ─┘
//! ```
//!
//! Invariant: no answer of it was asked for after Lastgood has said that nobody gets it; times are told.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tests::load::Load;

use crate::{
    figures,
    proxies::Proxy,
    traffic::{
        GOOD, assert_done, assert_nobody_noticed, confirmed, create_release, divided, users,
        users_get,
    },
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
        let (asked, asked_at) = (Instant::now(), Timestamp::now());
        let told = fleet.rollback(&["--reason", "users complain"]);
        let whole = asked.elapsed();
        assert_done(&told);
        users_get(&load, GOOD, blue);
        let report = load.stop();
        assert_nobody_noticed(proxy, &report, 2);
        let mitigated = told.json["result"]["mitigated"].as_str().expect("it was measured");
        let mitigated: Timestamp = mitigated.parse().expect("a time");
        let last_bad = report.last_of(&next).expect("users had it");
        let run = Run {
            // Of an operation that was on record later than it was typed.
            mitigated: mitigated.duration_since(asked_at).unsigned_abs(),
            last_bad: last_bad.saturating_duration_since(asked),
            whole,
        };
        // What comes later was on its way by then. Both times are in whole milliseconds.
        let longest = Duration::from_micros(report.latency.max_us) + Duration::from_millis(2);
        assert!(
            run.last_bad <= run.mitigated + longest,
            "an answer of {next} came {:?} after the rollback, which said {:?}; none took {longest:?}",
            run.last_bad,
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
    tell("every host is back", |run| run.whole);
}
