//! Which processes belong to a service, and how all of them are ended.
//!
//! ```text
//! leader (identity) --its group--\
//! mark in the environment ---------> members --TERM--> wait --KILL--> wait --> none left, or StillAlive
//! ```
//!
//! A process belongs to a service where it is in its leader's process group or carries the service's mark, which children
//! inherit: so a daemon that left the group is found, and a service whose pid was never written down.
//!
//! Invariant: nothing is signalled that is not known to be the service's at that moment.

use std::{collections::BTreeSet, fs, io, os::unix::fs::MetadataExt, path::Path, time::Duration};

use rustix::process::{Signal, getpgrp, getpid};
use tokio::time::{Instant, sleep};

use super::proc::{Identity, Proc, signal_group};

/// How often the members that were signalled are looked at: it bounds what a stop loses.
const POLL: Duration = Duration::from_millis(5);
/// How often members are looked for anew meanwhile: that reads all of `/proc`.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What a service's processes carry in their environment.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    variables: [(&'static str, String); 2],
    entries: [String; 2],
}

impl Mark {
    /// The mark of `service` under the agent of `state_dir`. Device and inode are part of it: in a container the same path is
    /// another directory.
    pub(crate) fn new(service: &str, state_dir: &Path) -> io::Result<Self> {
        let state_dir = state_dir.canonicalize()?;
        let metadata = fs::metadata(&state_dir)?;
        let home = format!("{}:{}:{}", state_dir.display(), metadata.dev(), metadata.ino());
        let home = blake3::hash(home.as_bytes()).to_hex()[..16].to_owned();
        let variables = [("LASTGOOD_SERVICE", service.to_owned()), ("LASTGOOD_STATE", home)];
        let entries = variables.each_ref().map(|(key, value)| format!("{key}={value}"));
        Ok(Self { variables, entries })
    }

    /// What goes into the environment.
    pub(crate) fn variables(&self) -> &[(&'static str, String)] {
        &self.variables
    }

    /// The process that was started with this mark: the oldest leader of a group that carries it.
    pub(crate) async fn find_leader(&self) -> io::Result<Option<Identity>> {
        let members = self.members(None).await?;
        let leader = members
            .all
            .iter()
            .filter(|proc| proc.pid == proc.group)
            .min_by_key(|proc| proc.start_time);
        leader.map_or(Ok(None), |proc| Identity::of(proc.pid))
    }

    /// Those of `commands` that run with this mark, as they were spawned: each leads a group in a session that is not
    /// its own. A daemon has left that session. Blocking.
    pub(crate) fn scripts(&self, commands: &[Vec<String>]) -> io::Result<Vec<Proc>> {
        let is_one = |proc: &Proc| {
            proc.alive
                && proc.pid == proc.group
                && proc.pid != proc.session
                && proc.has_in_environment(&self.entries)
                && commands.iter().any(|argv| proc.is_command(argv))
        };
        Ok(Proc::all()?.into_iter().filter(is_one).collect())
    }

    /// Every process of the service that is alive.
    pub(crate) async fn members(&self, leader: Option<&Identity>) -> io::Result<Members> {
        let (entries, leader) = (self.entries.clone(), leader.cloned());
        tokio::task::spawn_blocking(move || look(&entries, leader.as_ref())).await?
    }
}

/// The processes of a service at one moment.
#[derive(Debug, Default)]
pub(crate) struct Members {
    all: Vec<Proc>,
    /// The process groups that are the service's as a whole.
    groups: BTreeSet<i32>,
}

/// How long the two ways of ending may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// KILL comes then.
    pub(crate) term_until: Instant,
    /// How long the kernel may take after KILL.
    pub(crate) kill_for: Duration,
}

/// Why a service could not be ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndError {
    #[error("cannot look for its processes")]
    Look(#[from] io::Error),
    #[error("cannot signal process {pid}")]
    Signal {
        pid: i32,
        #[source]
        source: io::Error,
    },
    #[error("still alive after KILL: process {}", pids(.0))]
    StillAlive(Vec<Proc>),
}

/// Ends every member: TERM, once, then KILL. Nothing to end is fine.
pub(crate) async fn end(
    mark: &Mark,
    leader: Option<&Identity>,
    patience: Patience,
) -> Result<(), EndError> {
    let first = mark.members(leader).await?;
    if first.all.is_empty() {
        return Ok(());
    }
    // TERM only once: many take a second one as an order to drop everything, and what a member starts in order to end
    // well, it may finish.
    first.signal(Signal::TERM)?;
    let left = match leader {
        Some(leader) => {
            leader_gone_by(leader, patience.term_until).await;
            // Forked while they were looked for, so never asked; and nobody waits for them now.
            let left = mark.members(Some(leader)).await?;
            left.without(&first).signal(Signal::TERM)?;
            left
        }
        None => first,
    };
    if gone_by(mark, leader, left, patience.term_until).await?.is_empty() {
        return Ok(());
    }
    let kill_until = Instant::now() + patience.kill_for;
    loop {
        let left = mark.members(leader).await?;
        left.signal(Signal::KILL)?;
        let next = (Instant::now() + LOOK_AGAIN).min(kill_until);
        let left = gone_by(mark, leader, left, next).await?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= kill_until {
            return Err(EndError::StillAlive(left));
        }
    }
}

async fn leader_gone_by(leader: &Identity, until: Instant) {
    while leader.is_alive() && Instant::now() < until {
        sleep(POLL).await;
    }
}

/// Waits until no member is left or `until` has come; returns those that are left.
async fn gone_by(
    mark: &Mark,
    leader: Option<&Identity>,
    members: Members,
    until: Instant,
) -> io::Result<Vec<Proc>> {
    let mut left = members.all;
    let mut look_again = Instant::now() + LOOK_AGAIN;
    loop {
        left.retain(Proc::is_alive_still);
        let now = Instant::now();
        if left.is_empty() || now >= look_again {
            left = mark.members(leader).await?.all;
            look_again = now + LOOK_AGAIN;
        }
        if left.is_empty() || now >= until {
            return Ok(left);
        }
        sleep(POLL).await;
    }
}

impl Members {
    /// Those that are not in `earlier`, one by one.
    fn without(&self, earlier: &Self) -> Self {
        let is_new = |proc: &&Proc| !earlier.all.iter().any(|it| it.is_same(proc));
        Self { all: self.all.iter().filter(is_new).copied().collect(), groups: BTreeSet::new() }
    }

    /// Groups as a whole, in which none can escape by a fork; the others one by one.
    fn signal(&self, signal: Signal) -> Result<(), EndError> {
        for group in &self.groups {
            let failed = |source| EndError::Signal { pid: *group, source };
            signal_group(*group, signal).map_err(failed)?;
        }
        // One that left its group meanwhile may have missed it.
        let in_group = |proc: &Proc| {
            self.groups.contains(&proc.group)
                && Proc::read(proc.pid).is_none_or(|now| now.group == proc.group)
        };
        for proc in self.all.iter().filter(|proc| !in_group(proc)) {
            proc.signal(signal).map_err(|source| EndError::Signal { pid: proc.pid, source })?;
        }
        Ok(())
    }
}

fn look(entries: &[String], leader: Option<&Identity>) -> io::Result<Members> {
    let (own_pid, own_group) = (getpid().as_raw_pid(), getpgrp().as_raw_pid());
    let alive: Vec<_> =
        Proc::all()?.into_iter().filter(|proc| proc.alive && proc.pid != own_pid).collect();
    let marked: BTreeSet<_> =
        alive.iter().filter(|proc| proc.has_in_environment(entries)).map(|proc| proc.pid).collect();
    let is_marked = |proc: &&Proc| marked.contains(&proc.pid);
    // A group is the service's where its leader is: any process of the session may join any group.
    let mut groups: BTreeSet<_> = alive
        .iter()
        .filter(is_marked)
        .filter(|proc| proc.pid == proc.group)
        .map(|proc| proc.pid)
        .collect();
    // A leader that is there, if only as a zombie, keeps its group's number; so does a member that it left.
    groups.extend(leader.map(|leader| leader.pid).filter(|group| {
        leader.is_some_and(|leader| leader.look().is_some())
            || alive.iter().filter(is_marked).any(|proc| proc.group == *group)
    }));
    groups.remove(&own_group);
    let belongs = |proc: &Proc| groups.contains(&proc.group) || marked.contains(&proc.pid);
    Ok(Members { all: alive.into_iter().filter(belongs).collect(), groups })
}

fn pids(procs: &[Proc]) -> String {
    procs.iter().map(|proc| proc.pid.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_survives_kill_is_named() {
        let proc = |pid| Proc { pid, group: 7, session: 7, start_time: 1, alive: true };
        let error = EndError::StillAlive(vec![proc(7), proc(9)]);
        assert_eq!(error.to_string(), "still alive after KILL: process 7, 9");
    }

    #[test]
    fn the_mark_tells_services_and_agents_apart() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mark =
            |service, state: &tempfile::TempDir| Mark::new(service, state.path()).unwrap().entries;
        assert_eq!(mark("crm.web", &one), mark("crm.web", &one));
        assert_ne!(mark("crm.web", &one), mark("crm.job", &one));
        assert_ne!(mark("crm.web", &one), mark("crm.web", &other));
    }
}
