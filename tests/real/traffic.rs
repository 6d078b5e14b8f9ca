//! Traffic that Lastgood moves, on real nginx and HAProxy, under users who do not stop asking.
//!
//! ```text
//! blue: 2 hosts ─┐
//! green: 2 hosts ─┴◀── edge: nginx or HAProxy ◀── 300 requests a second from this machine
//!      deploy --strategy blue-green ─▶ switch --to blue ─▶ switch --to green ─▶ rollback; a rolling deploy
//! ```
//!
//! Invariant: what users get is told by the load, never by Lastgood.

use std::process::Command;

use tests::load::{Load, Plan, Report};

use crate::{
    app::Runs,
    fleet::{Edge, Fleet, Told, Wanted, eventually},
    fleet_file::BUILDS,
    hosts::{Host, texts},
    proxies::{Proxy, front},
};

pub(crate) const GOOD: &str = "v1.0.0";
const NEXT: &str = "v2.0.0";
const KEPT: usize = 50;
/// Answers of one version in a row after which users are said to have it.
const SETTLED: u64 = 100;

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn nginx_deploy_switch_and_rollback_under_load() {
    deploy_switch_and_rollback("tnginx", Proxy::Nginx);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn haproxy_deploy_switch_and_rollback_under_load() {
    deploy_switch_and_rollback("thaproxy", Proxy::Haproxy);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn a_rolling_deploy_drains_each_host_and_nobody_notices() {
    for (test, proxy) in [("rnginx", Proxy::Nginx), ("rhaproxy", Proxy::Haproxy)] {
        let fleet = divided(test, proxy, 1);
        create_release(&fleet, NEXT, None);
        let load = Load::start(users(fleet.edge()));
        users_get(&load, GOOD, fleet.sides().0);
        assert_done(&fleet.ctl(&confirmed(&[
            "deploy",
            "--release",
            NEXT,
            "--strategy",
            "rolling",
        ])));
        fleet.serves(NEXT);
        users_get(&load, NEXT, fleet.sides().0);
        // Each host of the side with traffic is taken out and comes back.
        assert_nobody_noticed(proxy, &load.stop(), 4);
    }
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p07_where_one_edge_of_two_refuses_no_edge_moves() {
    let fleet = divided("tworefuse", Proxy::Nginx, 2);
    let (blue, _) = fleet.sides();
    let loads: Vec<Load> = fleet.edges.iter().map(|edge| Load::start(users(edge))).collect();
    for load in &loads {
        users_get(load, GOOD, blue);
    }
    // Somebody has left a file that nginx does not take: it serves on, and can load nothing new.
    fleet.edges[1].sh("echo 'no such directive;' >/etc/nginx/conf.d/broken.conf");
    let told = fleet.ctl(&confirmed(&["switch", "--to", "green"]));
    assert_ne!(told.code, 0, "{told:?}");
    assert!(told.says("broken.conf"), "{told:?}");
    for load in &loads {
        users_get(load, GOOD, blue);
    }
    for load in loads {
        let report = load.stop();
        // Not one request went to the other side.
        assert_eq!(report.hosts.len(), blue.len(), "{report:#?}");
        assert_nobody_noticed(Proxy::Nginx, &report, 2);
    }
    fleet.edges[1].sh("rm /etc/nginx/conf.d/broken.conf");
    assert_done(&fleet.ctl(&confirmed(&["switch", "--to", "green"])));
}

fn deploy_switch_and_rollback(test: &str, proxy: Proxy) {
    let fleet = divided(test, proxy, 1);
    let (blue, green) = fleet.sides();
    create_release(&fleet, NEXT, None);
    let load = Load::start(users(fleet.edge()));
    users_get(&load, GOOD, blue);
    assert_done(&fleet.ctl(&confirmed(&["deploy", "--release", NEXT, "--strategy", "blue-green"])));
    users_get(&load, NEXT, green);
    assert_done(&fleet.ctl(&confirmed(&["switch", "--to", "blue"])));
    users_get(&load, GOOD, blue);
    assert_done(&fleet.ctl(&confirmed(&["switch", "--to", "green"])));
    users_get(&load, NEXT, green);
    let told = fleet.rollback(&["--reason", "5xx after the deploy"]);
    assert_done(&told);
    users_get(&load, GOOD, blue);
    // Both sides are on it in the end, the one that was left too.
    fleet.serves(GOOD);
    assert_nobody_noticed(proxy, &load.stop(), 4);
}

/// Two hosts on each side, all on the good release; all traffic on blue.
pub(crate) fn divided(test: &str, proxy: Proxy, edges: usize) -> Fleet {
    let wanted =
        Wanted { edge: Edge::Divides(proxy, edges), files: 200, ..Wanted::hosts(4, Runs::Process) };
    let fleet = Fleet::start(test, wanted);
    assert_done(&fleet.ctl(&confirmed(&["switch", "--to", "blue"])));
    fleet
}

pub(crate) fn confirmed<'a>(command: &[&'a str]) -> Vec<&'a str> {
    [command, &["--fleet", "prod", "--confirm", "prod"]].concat()
}

pub(crate) fn assert_done(told: &Told) {
    assert_eq!(told.code, 0, "{told:?}");
}

/// Builds a release here, brings it to every host of the app, and makes it known.
pub(crate) fn create_release(fleet: &Fleet, version: &str, fault: Option<&str>) {
    let built = tempfile::tempdir().expect("a temporary directory");
    let (tree, name) = (built.path().join("tree"), format!("ace-crm-{version}.tar.gz"));
    let archive = built.path().join(&name);
    run(Command::new(env!("CARGO_BIN_EXE_ace-crm"))
        .args(["release".as_ref(), tree.as_os_str()])
        .args([version, "--files", "200"])
        .args(fault.map(|fault| format!("--fault={fault}"))));
    // Its files belong to whom the app runs as: www-data.
    run(Command::new("tar")
        .args(["--sort=name", "--owner=33", "--group=33", "--numeric-owner", "-C"])
        .arg(&tree)
        .arg("-czf")
        .arg(&archive)
        .arg("."));
    let hashed = run(Command::new("sha256sum").arg(&archive));
    let digest = hashed.split_whitespace().next().expect("a hash");
    for host in &fleet.hosts {
        host.sh(&format!("mkdir -p {BUILDS}"));
        host.put(&archive, &format!("{BUILDS}/{name}"));
    }
    let artefact = format!("crm=builds:{name}@sha256:{digest}");
    assert_done(&fleet.ctl(&[
        "release",
        "create",
        version,
        "--fleet",
        "prod",
        "--artefact",
        &artefact,
    ]));
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("a command");
    let (words, complaint) = texts(&output);
    assert!(output.status.success(), "{command:?}: {words}{complaint}");
    words
}

/// Users of an edge.
pub(crate) fn users(edge: &Host) -> Plan {
    let [version_at, host_at] = ["x-ace-version", "x-ace-host"].map(str::to_owned);
    Plan { version_at, host_at, kept: KEPT, ..Plan::usual(front(edge)) }
}

/// Waits until users get this version from all of these hosts, and nothing else.
pub(crate) fn users_get(load: &Load, version: &str, hosts: &[Host]) {
    let of = |report: &Report| {
        let version = report.versions.get(version).map_or(0, |seen| seen.count);
        let hosts = hosts.iter().map(|host| report.hosts.get(&host.name).copied().unwrap_or(0));
        (version, hosts.collect::<Vec<_>>(), report.hosts.values().sum::<u64>())
    };
    let mut before = of(&load.so_far());
    eventually(&format!("users get {version} and nothing else"), || {
        let now = of(&load.so_far());
        let all = now.2 - before.2;
        if all < SETTLED {
            return None;
        }
        let of_hosts: Vec<u64> =
            now.1.iter().zip(&before.1).map(|(now, then)| now - then).collect();
        let settled = now.0 - before.0 == all
            && of_hosts.iter().sum::<u64>() == all
            && of_hosts.iter().all(|count| *count > 0);
        before = now;
        settled.then_some(())
    });
}

/// What the manual procedure cannot do. nginx closes what is idle at each reload: one in ten may have had a request on
/// its way just then.
pub(crate) fn assert_nobody_noticed(proxy: Proxy, report: &Report, reloads: usize) {
    assert_eq!(report.fresh.count(), 0, "{proxy:?}: {report:#?}");
    assert_eq!(report.kept.count(), 0, "{proxy:?}: {report:#?}");
    let resets = match proxy {
        Proxy::Nginx => reloads * KEPT / 10,
        Proxy::Haproxy => 0,
    };
    assert!(report.idle_resets <= resets as u64, "{proxy:?}: {report:#?}");
}
