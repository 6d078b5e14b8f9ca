//! Hosts of `tests/real/rig`: booted systemds with addresses and disks of their own.
//!
//! ```text
//! Host ──rig up, exec, cp, crash, powercut, partition──▶ tests/real/rig ──▶ systemd-nspawn, nft, ext4 on loop
//!   └── /proc/<leader>/root: the host's live files, seen from this machine
//! ```
//!
//! Invariant: a host is gone when its [`Host`] is, however the test ended.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// The command that everything here goes through.
fn rig(arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("real/rig");
    Command::new(script).args(arguments).stdin(Stdio::null()).output().expect("the rig runs")
}

/// Its words, where it did what it was told.
fn told(arguments: &[&str]) -> String {
    let output = rig(arguments);
    let (words, complaint) = texts(&output);
    assert!(output.status.success(), "rig {}: {words}{complaint}", arguments.join(" "));
    words
}

pub(crate) fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// The address of this machine, as hosts reach it. A rig that is set up has one.
pub(crate) fn gateway() -> String {
    told(&["setup"]);
    told(&["gateway"]).trim().to_owned()
}

/// Whatever a signal has stopped on a host runs again; where it is not up nothing has to.
pub(crate) fn go_on(name: &str) {
    rig(&["raw", name, "kill", "-CONT", "-1"]);
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: String,
}

impl Host {
    /// Boots new hosts, all at the same time.
    pub(crate) fn boot_new(names: &[String]) -> Vec<Self> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // What an interrupted run left has an old disk.
        rig(&[&["destroy"], &names[..]].concat());
        told(&[&["up"], &names[..]].concat());
        let host = |name: &&str| Self {
            name: (*name).to_owned(),
            address: told(&["address", name]).trim().to_owned(),
        };
        names.iter().map(host).collect()
    }

    /// Runs a shell script as root; what it says. It must succeed.
    pub(crate) fn sh(&self, script: &str) -> String {
        let (output, ok) = self.try_sh(script);
        assert!(ok, "{}: {script}: {output}", self.name);
        output
    }

    /// The same, and whether it succeeded.
    pub(crate) fn try_sh(&self, script: &str) -> (String, bool) {
        let output = rig(&["exec", &self.name, "sh", "-ec", script]);
        let (words, complaint) = texts(&output);
        if output.status.success() { (words, true) } else { (words + &complaint, false) }
    }

    /// Copies a file of this machine into the host.
    pub(crate) fn put(&self, from: &Path, to: &str) {
        told(&["cp", &from.display().to_string(), &format!("{}:{to}", self.name)]);
    }

    /// Everything ends at once; the page cache stays.
    pub(crate) fn crash(&self) {
        told(&["crash", &self.name]);
    }

    /// Everything ends at once, and what was not synced is lost.
    pub(crate) fn cut_power(&self) {
        told(&["powercut", &self.name]);
    }

    /// After either of them.
    pub(crate) fn boot(&self) {
        told(&["boot", &self.name]);
    }

    /// Runs a shell script on this machine in the root of the disk of this host, which is not up.
    pub(crate) fn look(&self, script: &str) -> String {
        told(&["look", &self.name, "sh", "-ec", script])
    }

    /// Nothing comes or goes any more.
    pub(crate) fn partition(&self) {
        told(&["partition", &self.name]);
    }

    /// It does again.
    pub(crate) fn heal(&self) {
        told(&["heal", &self.name]);
    }

    /// A path of the running host, as this machine sees it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        let leader = told(&["leader", &self.name]);
        PathBuf::from(format!("/proc/{}/root{path}", leader.trim()))
    }

    /// The main process of a unit, by its pid on this machine.
    pub(crate) fn pid_of(&self, unit: &str) -> u32 {
        let inside = self.sh(&format!("systemctl show -P MainPID {unit}"));
        let leader = told(&["leader", &self.name]);
        let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let wanted = space(leader.trim());
        for entry in std::fs::read_dir("/proc").expect("processes").flatten() {
            let Ok(pid) = entry.file_name().into_string() else { continue };
            if space(&pid) != wanted || wanted.is_none() {
                continue;
            }
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let own = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            if own.and_then(|pids| pids.split_whitespace().last()) == Some(inside.trim()) {
                return pid.parse().expect("a pid is a number");
            }
        }
        panic!("{unit} does not run on {}", self.name)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        rig(&["destroy", &self.name]);
    }
}
