//! A command on its way to be a process, with nothing of the agent's that it should not have.
//!
//! ```text
//! Prepared --a thread of its own: umask, groups--> fork, uid, gid, exec (std) --> Child
//! ```
//!
//! The thread is there because the safe ways to set supplementary groups and a umask work on the calling thread. std
//! takes all groups away from a child that gets another user, unless it may not: so the thread gives up the right to
//! change groups once it has the wanted ones, and the child inherits both. Its effective user stays root until std
//! changes it in the child, so that no other user may signal the thread. `setpriv` would do the same at the price of a
//! tool that must be there and of errors that arrive as exit codes.
//!
//! Invariant: the child has the groups of its user in `/etc/group`, and none of the agent's.
//! Invariant: the child's umask is 022, whatever the agent's is.
//! Invariant: no other thread of the agent sees any of it.

use std::{io, process::Stdio};

use rustix::{
    fs::Mode,
    process::Gid,
    thread::{
        CapabilitySet, UnshareFlags, capabilities, set_capabilities, set_thread_groups,
        set_thread_res_gid,
    },
};
use tokio::{process::Child, runtime::Handle};

/// What new files of a child may not have: writing by group and others.
const UMASK: Mode = Mode::WGRP.union(Mode::WOTH);

/// A command that is ready to be spawned.
#[derive(Debug)]
pub struct Prepared {
    command: std::process::Command,
    /// The groups that it gets; `None` where it keeps the agent's user.
    groups: Option<Groups>,
}

/// The groups of a user.
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) first: Gid,
    pub(super) all: Vec<Gid>,
}

impl Prepared {
    pub(super) fn new(command: std::process::Command, groups: Option<Groups>) -> Self {
        Self { command, groups }
    }

    /// Adds to its environment.
    pub fn envs<'a>(&mut self, variables: impl IntoIterator<Item = (&'a str, &'a str)>) {
        self.command.envs(variables);
    }

    /// Nothing to read, and where it writes.
    pub fn output(&mut self, out: impl Into<Stdio>, err: impl Into<Stdio>) {
        self.command.stdin(Stdio::null()).stdout(out).stderr(err);
    }

    /// Starts it. Inside the runtime.
    ///
    /// # Errors
    /// The kernel's.
    pub fn spawn(self) -> io::Result<Child> {
        let Self { command, groups } = self;
        let runtime = Handle::current();
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("spawn".to_owned());
            let spawning = thread.spawn_scoped(scope, move || {
                let _inside = runtime.enter();
                own_umask()?;
                if let Some(groups) = groups {
                    own_groups(&groups)?;
                }
                tokio::process::Command::from(command).spawn()
            })?;
            spawning.join().expect("spawning a command does not panic")
        })
    }
}

/// Gives this thread a umask of its own.
fn own_umask() -> io::Result<()> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe because of other flags; a umask of one's own breaks nothing"
    )]
    rustix::thread::unshare(UnshareFlags::FS)?;
    rustix::process::umask(UMASK);
    Ok(())
}

/// Gives this thread the groups of the child's user, and takes from it the right to change them again. The effective
/// group stays as it is: std sets it in the child, to what is the real and saved one by then.
fn own_groups(groups: &Groups) -> io::Result<()> {
    set_thread_groups(&groups.all)?;
    set_thread_res_gid(groups.first, None, groups.first)?;
    let mut rights = capabilities(None)?;
    rights.effective.remove(CapabilitySet::SETGID);
    Ok(set_capabilities(None, rights)?)
}
