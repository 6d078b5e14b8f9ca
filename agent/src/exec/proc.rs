//! What the kernel says of a process: who it is, whether it lives, when it ends.
//!
//! ```text
//! /proc/PID/stat ---> Proc (pid, group, start time, alive)
//! pid + Proc -------> Identity (pid, start time, boot id) --> Watch (pidfd): exited(), signal()
//! ```
//!
//! Invariant: a process is named by its pid *and* start time *and* boot id; a bare pid is never signalled.
//! Invariant: a zombie is not alive.

use std::{fs, io, os::fd::OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

/// Which process, for ever: no other process of any boot has the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: i32,
    /// Clock ticks from the boot to its start: field 22 of `/proc/PID/stat`.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

impl Identity {
    /// The process that has `pid` now. `None` where there is no such process.
    ///
    /// # Errors
    /// The kernel's boot id cannot be read.
    pub fn of(pid: i32) -> io::Result<Option<Self>> {
        let boot_id = boot_id()?;
        Ok(Proc::read(pid).map(|proc| Self { pid, start_time: proc.start_time, boot_id }))
    }

    /// What the kernel says of it now: `None` once it is gone, whoever has its pid by then. A zombie is still there.
    pub fn look(&self) -> Option<Proc> {
        let same_boot = boot_id().is_ok_and(|boot_id| boot_id == self.boot_id);
        Proc::read(self.pid).filter(|proc| same_boot && proc.start_time == self.start_time)
    }

    /// It runs: there, and not a zombie.
    pub fn is_alive(&self) -> bool {
        self.look().is_some_and(|proc| proc.alive)
    }
}

/// One process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proc {
    pub pid: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    pub start_time: u64,
    /// Not a zombie, and not being taken away.
    pub alive: bool,
}

impl Proc {
    /// The process that has `pid` now, `None` where there is none.
    pub fn read(pid: i32) -> Option<Self> {
        parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Every process of this host, zombies among them.
    ///
    /// # Errors
    /// `/proc` cannot be listed. A process that ends meanwhile is left out.
    pub fn all() -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok());
            found.extend(pid.and_then(Self::read));
        }
        Ok(found)
    }

    /// Whether its environment at its start held all `entries` (`KEY=value`). `false` where it may not be read.
    pub fn has_in_environment(&self, entries: &[String]) -> bool {
        let Ok(environ) = fs::read(format!("/proc/{}/environ", self.pid)) else { return false };
        entries
            .iter()
            .all(|entry| environ.split(|byte| *byte == 0).any(|it| it == entry.as_bytes()))
    }

    /// Whether it was started as `argv`, by itself or through an interpreter of a `#!` line.
    pub fn is_command(&self, argv: &[String]) -> bool {
        let Ok(line) = fs::read(format!("/proc/{}/cmdline", self.pid)) else { return false };
        let line = line.strip_suffix(b"\0").unwrap_or(&line);
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let wanted: Vec<&[u8]> = argv.iter().map(String::as_bytes).collect();
        !wanted.is_empty() && words.ends_with(&wanted)
    }

    /// Whether this very process is there still, and alive.
    pub fn is_alive_still(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.alive && now.is_same(self))
    }

    /// The same process, at whatever moment of this boot.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.pid, self.start_time) == (other.pid, other.start_time)
    }

    /// Signals this very process, not another that has its pid by now. Gone already is fine.
    ///
    /// # Errors
    /// The kernel's: most likely that it belongs to another user.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(fd) = open_pidfd(self.pid)? else { return Ok(()) };
        // Opened first, compared after: were it another process, its start would be another.
        if Self::read(self.pid).is_none_or(|now| !now.is_same(self)) {
            return Ok(());
        }
        unless_gone(pidfd_send_signal(fd, signal))
    }
}

/// An open handle on one process: it stays on that process whoever gets its pid.
#[derive(Debug)]
pub struct Watch {
    identity: Identity,
    fd: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Opens a handle on `identity`. `None` where that process is gone; a zombie has exited and says so.
    ///
    /// # Errors
    /// The kernel knows no pidfd (before 5.3), or there is no runtime to wait in.
    pub fn open(identity: &Identity) -> io::Result<Option<Self>> {
        let Some(fd) = open_pidfd(identity.pid)? else { return Ok(None) };
        // Opened first, compared after: see `Proc::signal`.
        if identity.look().is_none() {
            return Ok(None);
        }
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an owned pidfd keeps what that one asks for"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Some(Self { identity: identity.clone(), fd }))
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Waits until it has exited. A child of ours is then a zombie until it is waited for. Cancel safe.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn exited(&self) -> io::Result<()> {
        self.fd.readable().await.map(|mut guard| guard.retain_ready())
    }
}

/// Whether a process group has members that are alive.
///
/// # Errors
/// `/proc` cannot be listed.
pub fn group_is_alive(group: i32) -> io::Result<bool> {
    Ok(Proc::all()?.iter().any(|proc| proc.group == group && proc.alive))
}

/// Signals every process of a group. Gone already is fine. The caller knows that the group is its own: its leader, even
/// as a zombie, keeps the number from being given to another.
///
/// # Errors
/// The kernel's: most likely that none of it may be signalled.
pub fn signal_group(group: i32, signal: Signal) -> io::Result<()> {
    let group = Pid::from_raw(group).ok_or(io::ErrorKind::InvalidInput)?;
    unless_gone(rustix::process::kill_process_group(group, signal))
}

/// The id of this boot.
///
/// # Errors
/// `/proc` is not there.
pub fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

fn open_pidfd(pid: i32) -> io::Result<Option<OwnedFd>> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        // EINVAL: the number is that of a thread, so our process is gone.
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn unless_gone(signalled: rustix::io::Result<()>) -> io::Result<()> {
    match signalled {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// proc(5): `pid (comm) state ppid pgrp … num_threads(20) itrealvalue starttime(22) …`. The name may hold anything, a
/// closing bracket too, so the fields are counted from the last one.
fn parse_stat(stat: &str) -> Option<Proc> {
    let (head, tail) = stat.rsplit_once(')')?;
    let pid = head.split_once(' ')?.0.parse().ok()?;
    // `tail` begins with field 3.
    let field = |number: usize| tail.split_ascii_whitespace().nth(number - 3);
    // A leader whose other threads still run shows as a zombie and is none.
    let threads: u32 = field(20)?.parse().ok()?;
    let dead = matches!(field(3)?, "Z" | "X" | "x") && threads <= 1;
    Some(Proc {
        pid,
        group: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        start_time: field(22)?.parse().ok()?,
        alive: !dead,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "1234 (a) b) c) S 1 1200 1200 0 -1 4194560 812 0 0 0 1 2 0 0 20 0 7 0 153029 31 39 1 2";

    #[test]
    fn a_name_with_brackets_moves_no_field() {
        let wanted =
            Proc { pid: 1234, group: 1200, session: 1200, start_time: 153_029, alive: true };
        assert_eq!(parse_stat(STAT), Some(wanted));
    }

    #[test]
    fn a_zombie_is_not_alive_unless_its_threads_are() {
        let alone = STAT.replace(" S ", " Z ").replace(" 0 7 0 153029", " 0 1 0 153029");
        assert!(!parse_stat(&alone).unwrap().alive);
        assert!(parse_stat(&STAT.replace(" S ", " Z ")).unwrap().alive);
    }

    #[test]
    fn the_same_pid_with_another_start_or_boot_is_another_process() {
        let me = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap().unwrap();
        assert!(me.is_alive());
        assert!(!Identity { start_time: me.start_time + 1, ..me.clone() }.is_alive());
        assert!(!Identity { boot_id: "another".into(), ..me.clone() }.is_alive());
        assert!(!Identity { pid: i32::MAX, ..me }.is_alive());
    }

    #[test]
    fn a_process_that_only_has_the_pid_is_not_signalled() {
        let mut child = std::process::Command::new("/bin/sleep").arg("600").spawn().unwrap();
        let proc = Proc::read(i32::try_from(child.id()).unwrap()).unwrap();
        Proc { start_time: proc.start_time + 1, ..proc }.signal(Signal::KILL).unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        proc.signal(Signal::KILL).unwrap();
        child.wait().unwrap();
        proc.signal(Signal::KILL).unwrap();
    }
}
