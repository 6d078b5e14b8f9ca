//! nginx's processes as the kernel shows them: which workers take connections.
//!
//! ```text
//! /proc/PID/{stat,cmdline} of the master's children ──▶ Workers ── newer_than(before) ──▶ what serves has read its files
//! ```
//!
//! A worker reads nothing by itself: it is a copy of its master, so that one which was started after the master had read
//! its files has them. Its age is therefore told by which workers there were before, not by a clock; and a master that
//! kept its old files starts new workers, too, for those that die, so that *all* have to be new.
//!
//! Invariant: a worker is known by pid and start time, never by a bare pid.

use std::{collections::BTreeSet, fs, io};

use crate::exec::proc::Proc;

const TITLE: &str = "nginx: worker process";
const ENDING: &str = "is shutting down";

/// A master's workers at one moment: (pid, start time).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Workers {
    /// Those that take connections.
    pub(super) accepting: BTreeSet<(i32, u64)>,
    /// Those that only end the connections that they have.
    pub(super) ending: Vec<i32>,
}

impl Workers {
    /// Looks at the children of `master`.
    pub(super) fn of(master: i32) -> io::Result<Self> {
        let mut workers = Self::default();
        let all = Proc::all()?;
        for proc in all.iter().filter(|proc| proc.alive && parent(proc.pid) == Some(master)) {
            match role(&fs::read(format!("/proc/{}/cmdline", proc.pid)).unwrap_or_default()) {
                Role::Accepts => {
                    workers.accepting.insert((proc.pid, proc.start_time));
                }
                Role::Ends => workers.ending.push(proc.pid),
                Role::Other => {}
            }
        }
        Ok(workers)
    }

    /// Whether new ones serve and none of those that served `before` does.
    pub(super) fn newer_than(&self, before: &Self) -> bool {
        !self.accepting.is_empty() && self.accepting.is_disjoint(&before.accepting)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Accepts,
    Ends,
    /// A cache manager, or a child that has not yet its title.
    Other,
}

fn role(cmdline: &[u8]) -> Role {
    let title = String::from_utf8_lossy(cmdline);
    match title.trim_end_matches('\0').strip_prefix(TITLE) {
        Some(rest) if rest.contains(ENDING) => Role::Ends,
        Some(_) => Role::Accepts,
        None => Role::Other,
    }
}

/// proc(5), status: `PPid:`.
fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(accepting: &[(i32, u64)]) -> Workers {
        Workers { accepting: accepting.iter().copied().collect(), ending: Vec::new() }
    }

    #[test]
    fn what_nginx_calls_its_processes() {
        assert_eq!(role(b"nginx: worker process\0\0\0"), Role::Accepts);
        assert_eq!(role(b"nginx: worker process is shutting down\0"), Role::Ends);
        assert_eq!(role(b"nginx: cache manager process\0"), Role::Other);
        assert_eq!(role(b"nginx: master process /usr/sbin/nginx\0"), Role::Other);
    }

    #[test]
    fn only_when_all_that_serve_are_new_have_the_files_been_read() {
        let before = workers(&[(10, 100), (11, 100)]);
        assert!(!workers(&[(10, 100), (11, 100)]).newer_than(&before));
        assert!(!workers(&[(12, 200), (11, 100)]).newer_than(&before), "one died and came back");
        assert!(!workers(&[]).newer_than(&before));
        assert!(workers(&[(12, 200), (13, 200)]).newer_than(&before));
        assert!(workers(&[(10, 200)]).newer_than(&before), "a pid that was given again");
    }

    #[test]
    fn the_parent_of_this_process_is_known() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(parent(own), rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()));
    }
}
