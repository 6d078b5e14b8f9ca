//! The power goes at every step of a switch, and at every step of its undo.
//!
//! ```text
//! round n:  ctl rollback ─▶ 3 agents, step by step ─▶ at step 3n+1, 3n+2, 3n+3: power cut ─▶ disk looked at ─▶ boot
//!           ─▶ the agent goes on by itself ─▶ ctl watch: every host restored, or as it was ─▶ ctl rollback --undo
//! ```

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::{
    app::{
        Runs, content, content_on_disk, digest, started_on, units_digest, units_digest_on_disk,
        uploads,
    },
    fleet::{Fleet, Told, Wanted},
    hosts::Host,
    stepper::{Stepper, Stop},
};

/// Which hold of an operation: that of the switch, or the one after it, of its undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum During {
    Switch,
    Undo,
}

/// Steps after the hold was lifted at which the power goes too: that the switch is done is not in the ledger yet.
const STEPS_AFTER: usize = 4;
/// A switch that is done in fewer steps is not the one that was to be cut.
const HELD_MIN: usize = 10;

/// Whole releases on one host.
#[derive(Debug)]
struct Releases {
    digests: [String; 2],
    contents: [String; 2],
    units: [String; 2],
}

impl Releases {
    /// Of a host that is not up: its tree is of one release, and so is the whole set unless it is held.
    fn assert_no_mix(&self, host: &Host, cut: &Stop) {
        let of = |all: &[String; 2], live: &String| all.iter().position(|one| one == live);
        let tree = of(&self.contents, &content_on_disk(host));
        assert!(tree.is_some(), "{}: a mix on the disk after {cut:?}", host.name);
        // Without units there is one set of none.
        if self.units[0] != self.units[1] && host.look("ls var/lib/lastgood/hold").is_empty() {
            let units = of(&self.units, &units_digest_on_disk(host));
            assert_eq!(units, tree, "{}: a mix that is not held after {cut:?}", host.name);
        }
    }
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p04_the_power_goes_at_every_step_of_a_switch() {
    every_step("cut", During::Switch, Runs::Process);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p04_the_power_goes_at_every_step_of_an_undo() {
    every_step("cutundo", During::Undo, Runs::Process);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p04_the_power_goes_at_every_step_of_a_switch_of_units() {
    every_step("ucut", During::Switch, Runs::Systemd);
}

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn p04_the_power_goes_at_every_step_of_an_undo_of_units() {
    every_step("ucutundo", During::Undo, Runs::Systemd);
}

fn every_step(test: &str, during: During, runs: Runs) {
    // Every unit file and every directory of drop-ins has steps of its own.
    let hosts = match runs {
        Runs::Process => 3,
        Runs::Systemd => 6,
    };
    let ready_within = match during {
        During::Switch => "20s",
        // The release that does not come up is waited for so long.
        During::Undo => "5s",
    };
    let fleet = Fleet::start(
        test,
        // Every call of a traced agent costs; how many files there are does not change the steps.
        Wanted { files: 200, ready_within, unknown_after: "60s", ..Wanted::hosts(hosts, runs) },
    );
    let whole = |host: &Host| [digest(host), content(host), units_digest(host)];
    let good: Vec<_> = fleet.hosts.iter().map(whole).collect();
    fleet.deploy("v2.0.0", None);
    fleet.serves("v2.0.0");
    let releases: Vec<Releases> = fleet
        .hosts
        .iter()
        .zip(good)
        .map(|(host, [good_digest, good_content, good_units])| {
            let [digest, content, units] = whole(host);
            Releases {
                digests: [good_digest, digest],
                contents: [good_content, content],
                units: [good_units, units],
            }
        })
        .collect();
    if during == During::Undo {
        // An enabled unit that can start does so at each boot, in the middle of the undo.
        let list = match runs {
            Runs::Process => "broken",
            Runs::Systemd => "unhealthy",
        };
        for host in &fleet.hosts {
            host.sh(&format!("mkdir -p /etc/ace-crm; echo v1.0.0 >/etc/ace-crm/{list}"));
        }
    }
    let mut held = 0;
    for first in (0..).step_by(fleet.hosts.len()) {
        let (told, cuts) = cut_each(&fleet, &releases, during, first);
        let (code, outcome, live) = match during {
            During::Switch => (0, "restored", 0),
            During::Undo => (20, "original", 1),
        };
        assert_eq!(told.code, code, "from step {first}: {cuts:?}: {told:?}");
        for (host, whole) in fleet.hosts.iter().zip(&releases) {
            assert_eq!(told.outcome(host), outcome, "{}: {cuts:?}", host.name);
            assert_eq!(digest(host), whole.digests[live], "{}: {cuts:?}", host.name);
            assert_eq!(uploads(host), format!("of customer {}\n", host.name), "{cuts:?}");
            assert_eq!(started_on(host), ["v1.0.0", "v2.0.0"], "{}: {cuts:?}", host.name);
        }
        fleet.serves(["v1.0.0", "v2.0.0"][live]);
        held += cuts.iter().flatten().filter(|stop| stop.held).count();
        if cuts.iter().any(Option::is_none) {
            break;
        }
        if during == During::Switch {
            let back = fleet.rollback(&["--undo", told.operation()]);
            assert_eq!(back.code, 0, "{back:?}");
        }
    }
    assert!(held >= HELD_MIN, "the power went only {held} times in a switch");
}

/// Runs a rollback during which the power of each host goes at a step of its own; where it went, none for a host that
/// was through before its step came.
fn cut_each(
    fleet: &Fleet,
    releases: &[Releases],
    during: During,
    first: usize,
) -> (Told, Vec<Option<Stop>>) {
    // A traced agent looks at its host too slowly for a plan to wait for it.
    let plan = fleet.plan(&["--to", "v1.0.0"]);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut cuts = Vec::new();
        for (index, host) in fleet.hosts.iter().enumerate() {
            let (over, whole) = (&over, &releases[index]);
            let stepper = Stepper::attach(host);
            cuts.push(scope.spawn(move || {
                let cut = cut(host, &stepper, during, first + index, over)?;
                drop(stepper);
                whole.assert_no_mix(host, &cut);
                let kept = host.look("find var/www -name contract.pdf | wc -l");
                assert_eq!(kept, "1\n", "{}: after {cut:?}", host.name);
                host.boot();
                Some(cut)
            }));
        }
        let told = fleet.rollback(&["--plan", &plan, "--timeout", "3m"]);
        over.store(true, Ordering::SeqCst);
        let cuts = cuts.into_iter().map(|cut| cut.join().expect("no panic")).collect();
        (told, cuts)
    })
}

/// Cuts the power at this step, counted from where the hold is there for the first time.
fn cut(
    host: &Host,
    stepper: &Stepper,
    during: During,
    at: usize,
    over: &AtomicBool,
) -> Option<Stop> {
    let wanted = match during {
        During::Switch => 1,
        During::Undo => 2,
    };
    let (mut holds, mut was_held, mut count, mut after) = (0, false, 0, 0);
    let stop = stepper.run(
        || over.load(Ordering::SeqCst),
        |stop| {
            holds += usize::from(stop.held && !was_held);
            was_held = stop.held;
            if holds != wanted {
                return false;
            }
            after += usize::from(!stop.held);
            count += 1;
            count > at && after <= STEPS_AFTER
        },
    )?;
    host.cut_power();
    Some(stop)
}
