//! What users of the real proxies see while the traffic is moved under them by hand: what can be had at all.
//!
//! ```text
//! two hosts, v1.0.0 and v2.0.0 ◀── nginx, then HAProxy, on one edge ◀── 300 requests a second from this machine
//!      traffic to the other host, five times ─▶ no failure;   the proxy restarted ─▶ failures, and they are seen
//! ```
//!
//! No part of Lastgood runs here: the tests of it are measured with what this one has shown to be able to see.

use std::time::Duration;

use tests::load::{Load, Plan, Report};

use crate::{
    app::{self, Release, Runs},
    fleet::{eventually, stripped},
    hosts::{Host, gateway},
    proxies::{Proxy, front},
};

const SWITCHES: usize = 5;
/// Requests that are waited for between two switches.
const BETWEEN: u64 = 150;
const KEPT: usize = 50;

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn nobody_notices_a_switch_and_everybody_a_restart() {
    gateway();
    let mut hosts = Host::boot_new(&["users-1", "users-2", "users-lb"].map(str::to_owned));
    let edge = hosts.pop().expect("an edge");
    for (host, version) in hosts.iter().zip(["v1.0.0", "v2.0.0"]) {
        let release = Release { version, fault: None, files: 50 };
        host.put(&stripped(env!("CARGO_BIN_EXE_ace-crm")), "/usr/local/bin/ace-crm");
        host.sh(&app::install_script(release, Runs::Systemd, &host.name));
    }
    for proxy in [Proxy::Nginx, Proxy::Haproxy] {
        edge.sh(&proxy.install_script(&hosts[..1], &hosts[1..]));
        serves(&edge, "v1.0.0");
        let report = switched(proxy, &edge, &hosts);
        assert_eq!(report.fresh.count(), 0, "{proxy:?}: {report:#?}");
        assert_eq!(report.kept.count(), 0, "{proxy:?}: {report:#?}");
        let resets = match proxy {
            // An old worker closes what is idle; one connection in ten may have a request on its way just then.
            Proxy::Nginx => SWITCHES * KEPT / 10,
            Proxy::Haproxy => 0,
        };
        assert!(report.idle_resets <= resets as u64, "{proxy:?}: {report:#?}");
        assert_eq!(report.versions.len(), 2, "{proxy:?}: {report:#?}");
        assert!(report.hosts["users-1"] > 0 && report.hosts["users-2"] > 0, "{report:#?}");
        let report = restarted(proxy, &edge);
        assert!(report.fresh.count() > 0, "{proxy:?}: {report:#?}");
        edge.sh("systemctl stop nginx haproxy");
    }
}

fn plan(edge: &Host) -> Plan {
    let header = |name: &str| name.to_owned();
    let (version_at, host_at) = (header("x-ace-version"), header("x-ace-host"));
    Plan {
        version_at,
        host_at,
        timeout: Duration::from_secs(5),
        kept: KEPT,
        ..Plan::usual(front(edge))
    }
}

fn serves(edge: &Host, version: &str) {
    eventually(&format!("users get {version}"), || {
        let plan = Plan { requests: Some(4), ..plan(edge) };
        let report = Load::start(plan).wait();
        report.versions.get(version).is_some_and(|seen| seen.count == 4).then_some(())
    });
}

fn switched(proxy: Proxy, edge: &Host, hosts: &[Host]) -> Report {
    let load = Load::start(plan(edge));
    let more = |load: &Load| {
        let before = load.so_far().sent;
        eventually("more requests were sent", || {
            (load.so_far().sent >= before + BETWEEN).then_some(())
        });
    };
    more(&load);
    for number in 0..SWITCHES {
        let (first, second) = hosts.split_at(1);
        let (to, from) = if number % 2 == 0 { (second, first) } else { (first, second) };
        proxy.switch_by_hand(edge, to, from);
        more(&load);
    }
    load.stop()
}

/// The way that loses requests.
fn restarted(proxy: Proxy, edge: &Host) -> Report {
    let load = Load::start(plan(edge));
    let unit = match proxy {
        Proxy::Nginx => "nginx",
        Proxy::Haproxy => "haproxy",
    };
    edge.sh(&format!("systemctl stop {unit}"));
    eventually("a user has seen it", || (load.so_far().failed() > 0).then_some(()));
    edge.sh(&format!("systemctl start {unit}"));
    load.stop()
}
