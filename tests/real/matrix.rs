//! Everything that can be wrong with v2, one after the other, on one fleet of systemd hosts behind an nginx.
//!
//! ```text
//! v1.0.0 good, and looked at by find, sha256sum, systemctl, nginx -T, curl ─▶ for each bad v2:
//!     cp and systemctl restart on every host ─▶ ctl snapshot create must not call it good ─▶ ctl rollback ─▶
//!     find, sha256sum, systemctl, nginx -T, curl: v1.0.0 to the last byte, and what users put there is still there
//! ```
//!
//! Invariant: that a host is back is told by its own tools, never by Lastgood.

use std::{fmt::Write as _, thread};

use crate::{
    app::{Runs, STARTS, TREE, unit, units},
    edge::{self, SITE, assert_users_get},
    fleet::{Edge, Fleet, Wanted, eventually},
    hosts::Host,
};

const GOOD: &str = "v1.0.0";

/// How the team brings out a bad v2, and how it is known to be bad.
struct Bad {
    name: &'static str,
    fault: Option<&'static str>,
    /// Words of the check that does not pass. None where no check of the app has to find it.
    found_by: Option<&'static str>,
    /// What else is changed with it on the app hosts.
    on_app: &'static str,
    /// The same on the edge; `%` stands for its usual file of this version.
    on_edge: &'static str,
}

const NO_CHANGE: &str = "";
/// Its nginx serves the file that belongs to v2.
const ITS_SITE: &str = "%\nsystemctl reload nginx";

const MATRIX: [Bad; 10] = [
    bad("error-rate", Some(" of 20 failed"), ITS_SITE),
    bad("lie", Some("of 20 failed"), NO_CHANGE),
    bad("health500", Some("500"), NO_CHANGE),
    bad("slow", Some("the average is 1"), NO_CHANGE),
    bad("hang", Some("contacts"), NO_CHANGE),
    bad("crash-loop", Some("ace-crm-"), NO_CHANGE),
    bad("missing-key", Some("JWT_SECRET"), NO_CHANGE),
    Bad {
        name: "broken-nginx",
        fault: None,
        found_by: None,
        on_app: NO_CHANGE,
        // It does not come up again.
        on_edge: "%\nsed -i 's/proxy_pass/proxy_passs/' $SITE; systemctl restart nginx || true",
    },
    Bad {
        name: "wrong-upstream",
        fault: None,
        found_by: None,
        on_app: NO_CHANGE,
        on_edge: "%\nsed -i 's/:5000/:5999/' $SITE; systemctl reload nginx",
    },
    Bad {
        name: "unit-files",
        fault: None,
        found_by: None,
        // A drop-in that only v2 has, another start command, and one unit without what v1 had.
        on_app: "mkdir -p /etc/systemd/system/ace-crm-backend.service.d
            printf '[Service]\nEnvironment=ONLY_IN_V2=1\nRestartSec=2s\n' >/etc/systemd/system/ace-crm-backend.service.d/tuning.conf
            sed -i 's/^User=www-data/User=root/' /etc/systemd/system/ace-crm-frontend.service
            sed -i '/^Restart/d' /etc/systemd/system/ace-crm-client-portal.service
            systemctl daemon-reload; systemctl restart $UNITS",
        on_edge: NO_CHANGE,
    },
];

const fn bad(fault: &'static str, found_by: Option<&'static str>, on_edge: &'static str) -> Bad {
    Bad { name: fault, fault: Some(fault), found_by, on_app: NO_CHANGE, on_edge }
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p03_whatever_is_wrong_with_v2_the_whole_of_v1_comes_back() {
    let wanted =
        Wanted { edge: Edge::Plain, ready_within: "8s", ..Wanted::hosts(3, Runs::Systemd) };
    let fleet = Fleet::start("matrix", wanted);
    let lb = fleet.edge();
    assert_users_get(lb, GOOD, &fleet.hosts);
    let good = seen(&fleet);
    for bad in &MATRIX {
        let version = format!("v2.0.0-{}", bad.name);
        bring_out(&fleet, bad, &version);
        let known = bad.found_by.map(|words| assert_found(&fleet, bad, &version, words));
        let logs = kept(&fleet, "cat logs/*.log");
        // A release that was never recorded is no release: where to go has to be said.
        let told = match known {
            Some(()) => fleet.rollback(&["--reason", bad.name]),
            None => fleet.rollback(&["--reason", bad.name, "--to", GOOD]),
        };
        assert_eq!(told.code, 0, "{}: {told:?}", bad.name);
        for host in &fleet.hosts {
            assert_eq!(told.outcome(host), "restored", "{}: {told:?}", bad.name);
        }
        for (host, (now, good)) in fleet.all().zip(seen(&fleet).iter().zip(&good)) {
            assert_same(&format!("{} after {}", host.name, bad.name), now, good);
        }
        let during = kept(&fleet, &format!("cat uploads/2026/during-{}.pdf", bad.name));
        assert_eq!(during, vec![format!("of v2, {}\n", bad.name); fleet.hosts.len()]);
        for (now, before) in kept(&fleet, "cat logs/*.log").iter().zip(&logs) {
            assert!(before.lines().all(|line| now.contains(line)), "{}: {now}", bad.name);
        }
        assert_users_get(lb, GOOD, &fleet.hosts);
    }
    for host in fleet.all() {
        assert_eq!(host.sh("systemctl show -P NRestarts lastgood-agent"), "0\n", "{}", host.name);
    }
    for host in &fleet.hosts {
        let mixed = host.sh(&format!("grep -F + {STARTS} || true"));
        assert_eq!(mixed, "", "{}: a service started on a mix", host.name);
        let all = host.sh(&format!("ls {TREE}/uploads/2026 | wc -l"));
        assert_eq!(all.trim(), (MATRIX.len() + 1).to_string());
    }
}

/// What the team does, and what its users do meanwhile.
fn bring_out(fleet: &Fleet, bad: &Bad, version: &str) {
    fleet.deploy(version, bad.fault);
    let app = format!(
        "UNITS='{}'; rm -f {TREE}/lib/only-in-{GOOD}.js
        {}
        echo 'of v2, {}' >{TREE}/uploads/2026/during-{}.pdf",
        units(),
        bad.on_app,
        bad.name,
        bad.name
    );
    for host in &fleet.hosts {
        host.sh(&app);
    }
    let lb = fleet.edge();
    let site = edge::site_script(version, &fleet.hosts);
    lb.sh(&format!("SITE={SITE}\n{}", bad.on_edge.replace('%', &site)));
    if bad.fault.is_none() {
        fleet.serves(version);
    }
    if bad.on_edge == ITS_SITE {
        eventually("the proxy has the file of v2", || {
            let got = edge::ask(lb, "/api/health", 1);
            got.keys().all(|got| got.versions[1] == version).then_some(())
        });
    }
}

/// Its checks do not hold, so it is no good release; and why is said.
fn assert_found(fleet: &Fleet, bad: &Bad, version: &str, words: &str) {
    let told = fleet.ctl(&["snapshot", "create", "--as", version]);
    assert_ne!(told.code, 0, "{} passed: {told:?}", bad.name);
    assert!(told.says(words), "{}: `{words}` is not in {told:?}", bad.name);
    let releases = fleet.ctl(&["releases"]).json;
    let rows = releases["releases"].as_array().expect("releases");
    let row = rows.iter().find(|row| row["release"] == *version);
    let standing = row.and_then(|row| row["standing"].as_str());
    assert_ne!(standing, Some("good"), "{}: {releases:#}", bad.name);
}

/// Everything that a release is on each host.
fn seen(fleet: &Fleet) -> Vec<String> {
    let lb = fleet.edge();
    thread::scope(|scope| {
        let hosts: Vec<_> = fleet.hosts.iter().map(|host| scope.spawn(|| seen_on(host))).collect();
        let mut all: Vec<String> =
            hosts.into_iter().map(|seen| seen.join().expect("its tools")).collect();
        all.push(lb.sh(&format!("sha256sum {SITE}; stat -c '%a %u %g %Y' {SITE}; systemctl is-active nginx; nginx -T 2>&1")));
        all
    })
}

/// By an app host's own tools: its whole tree, its units as systemd has them, that they run.
fn seen_on(host: &Host) -> String {
    let mut script = format!(
        "cd {TREE}
        all() {{ find . \\( -path ./uploads -o -path ./logs \\) -prune -o \"$@\"; }}
        all -type d -printf '%p %y %m %U %G %T@\\n' | LC_ALL=C sort
        all ! -type d -printf '%p %y %m %U %G %T@ %n %s %l\\n' | LC_ALL=C sort
        all -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
        find /etc/systemd/system -name .lastgood -prune -o -name 'ace-crm*' -print | LC_ALL=C sort
        systemctl cat {units}
        systemctl is-active {units}; systemctl is-enabled {units}\n",
        units = units(),
    );
    for (service, _) in crate::app::SERVICES {
        let show =
            "systemctl show -p NeedDaemonReload -p DropInPaths -p Environment -p User -p Restart";
        writeln!(script, "{show} {}", unit(service)).expect("a text");
    }
    host.sh(&script)
}

fn kept(fleet: &Fleet, command: &str) -> Vec<String> {
    fleet.hosts.iter().map(|host| host.sh(&format!("cd {TREE}; {command}"))).collect()
}

/// Says which lines differ, not all of thousands.
fn assert_same(what: &str, now: &str, good: &str) {
    if now == good {
        return;
    }
    let lines = |a: &str, b: &str, sign: char| -> Vec<String> {
        let b: std::collections::BTreeSet<&str> = b.lines().collect();
        a.lines()
            .filter(|line| !b.contains(line))
            .take(10)
            .map(|it| format!("{sign}{it}"))
            .collect()
    };
    let (gone, new) = (lines(good, now, '-'), lines(now, good, '+'));
    panic!("{what}: not as {GOOD} was:\n{}\n{}", gone.join("\n"), new.join("\n"));
}
