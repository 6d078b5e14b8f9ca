//! Hosts that are not as they have to be: what is wrong is named, with its mend, before or instead of half a rollback.

use crate::{
    app::{Runs, TREE, digest},
    faults::{assert_whole, with_a_bad_release},
    fleet::{CHECK, Fleet, Wanted},
    hosts::Host,
};

/// Something that is wrong with a host.
struct Wrong {
    make: &'static str,
    mend: &'static str,
    /// What `agent check` says of it.
    said: &'static [&'static str],
}

const WRONG: [Wrong; 6] = [
    Wrong {
        make: "sed -i 's/ace-crm-frontend.service/ace-crm-frontnd.service/' /etc/lastgood/policy.yaml",
        mend: "sed -i 's/ace-crm-frontnd.service/ace-crm-frontend.service/' /etc/lastgood/policy.yaml",
        said: &["service frontend", "ace-crm-frontnd.service"],
    },
    Wrong {
        make: "mv /var/www/ace-crm /srv/ace-crm; ln -s /srv/ace-crm /var/www/ace-crm",
        mend: "rm /var/www/ace-crm; mv /srv/ace-crm /var/www/ace-crm",
        said: &["tree /var/www/ace-crm", "link"],
    },
    Wrong {
        make: "mount -t tmpfs none /var/www/ace-crm/lib",
        mend: "umount /var/www/ace-crm/lib",
        said: &["tree /var/www/ace-crm", "/var/www/ace-crm/lib", "mount"],
    },
    Wrong {
        make: "mount -t tmpfs none /var/www/ace-crm/uploads",
        mend: "umount /var/www/ace-crm/uploads",
        said: &["/var/www/ace-crm/uploads", "mount"],
    },
    Wrong {
        make: "mv /etc/systemd/system/ace-crm-frontend.service /root/; systemctl mask ace-crm-frontend",
        mend: "systemctl unmask ace-crm-frontend; mv /root/ace-crm-frontend.service /etc/systemd/system/
            systemctl daemon-reload",
        said: &["service frontend", "ace-crm-frontend.service", "systemctl unmask"],
    },
    Wrong {
        make: "chmod 644 /etc/lastgood/secrets/test-token",
        mend: "chmod 600 /etc/lastgood/secrets/test-token",
        said: &["/etc/lastgood/secrets/test-token", "chmod 0600"],
    },
];

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p03_what_would_keep_a_rollback_from_working_is_named_with_its_mend() {
    let wanted = Wanted { files: 50, ..Wanted::hosts(1, Runs::Systemd) };
    let fleet = Fleet::start("wrong", wanted);
    let host = &fleet.hosts[0];
    for Wrong { make, mend, said } in WRONG {
        host.sh(make);
        let (told, ok) = host.try_sh(CHECK);
        let bad: Vec<&str> = told.lines().filter(|line| line.starts_with("bad ")).collect();
        let named = bad
            .iter()
            .any(|line| said.iter().all(|words| line.contains(words)) && line.contains("; mend: "));
        assert!(!ok && named, "{make}: {said:?}: {told}");
        host.sh(mend);
        let (told, ok) = host.try_sh(CHECK);
        assert!(ok, "after {mend}: {told}");
    }
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p05_a_rollback_that_cannot_be_says_why_and_puts_everything_back() {
    let (fleet, good) = with_a_bad_release("cannot", 1, 50, Runs::Systemd);
    let host = &fleet.hosts[0];
    let bad = digest(host);

    // Before anything stops.
    host.sh(&format!("mount -t tmpfs none {TREE}/lib"));
    fails(&fleet, 10, &[&format!("{TREE}/lib"), "mount"]);
    host.sh(&format!("umount {TREE}/lib"));
    assert_eq!(digest(host), bad);
    fleet.serves("v2.0.0");

    // Its units end at once.
    host.sh("mkdir -p /etc/ace-crm; echo v1.0.0 >/etc/ace-crm/broken");
    fails(&fleet, 20, &["ace-crm-", "exit-code", "does not run on this host any more"]);
    assert_eq!(digest(host), bad);
    fleet.serves("v2.0.0");
    host.sh("rm /etc/ace-crm/broken");

    let told = fleet.rollback(&["--to", "v1.0.0"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert_whole(host, &good[0]);
}

fn fails(fleet: &Fleet, code: i32, words: &[&str]) {
    let told = fleet.rollback(&["--to", "v1.0.0"]);
    assert_eq!(told.code, code, "{words:?}: {told:?}");
    for words in words {
        assert!(told.says(words), "{words}: {told:?}");
    }
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p05_services_that_do_not_end_or_cannot_start_are_no_obstacle() {
    let wanted = Wanted { files: 50, ..Wanted::hosts(1, Runs::Systemd) };
    let fleet = Fleet::start("deaf", wanted);
    let host = &fleet.hosts[0];
    let good = digest(host);
    for fault in ["ignores-term", "slow-stop"] {
        let version = format!("v2.0.0-{fault}");
        fleet.deploy(&version, Some(fault));
        fleet.serves(&version);
        back(&fleet, host, &good);
    }
    // Somebody masked a unit to keep v2 from starting again and again.
    fleet.deploy("v2.0.0-masked", Some("crash-loop"));
    host.sh("systemctl stop ace-crm-frontend; rm /etc/systemd/system/ace-crm-frontend.service
        systemctl mask ace-crm-frontend");
    back(&fleet, host, &good);
}

fn back(fleet: &Fleet, host: &Host, good: &str) {
    let told = fleet.rollback(&["--to", "v1.0.0"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert_eq!(digest(host), good);
    fleet.serves("v1.0.0");
}
