//! The sandbox's processes: each its own, so that each can be killed.
//!
//! Invariant: everything that belongs to a sandbox has its root directory in its command line; that is how all of
//! it is found and ended, whoever started it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    edge,
    layout::{Layout, SandboxHost},
};

/// How long coordinator and agents may take to end by themselves.
const LAST_SPANS_WITHIN: Duration = Duration::from_secs(3);
/// How long processes may take to be gone after they were killed.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// A process that the sandbox started itself: the coordinator, an agent or an edge.
#[derive(Debug)]
pub(super) struct Process {
    pub what: String,
    command: Vec<String>,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// The coordinator.
    pub(super) fn coordinator(ctl: &Path, layout: &Layout) -> anyhow::Result<Self> {
        let dir = layout.coordinator_dir();
        let command = vec![
            ctl.display().to_string(),
            "sandbox-coordinator".to_owned(),
            "--state".to_owned(),
            dir.join("state").display().to_string(),
            "--identity".to_owned(),
            dir.join("identity").display().to_string(),
            "--listen".to_owned(),
            layout.coordinator.to_string(),
        ];
        Self::start("coordinator".to_owned(), command, layout.root.join("coordinator.log"))
    }

    /// The agent of a host.
    pub(super) fn agent(ctl: &Path, layout: &Layout, host: &SandboxHost) -> anyhow::Result<Self> {
        let command = vec![
            ctl.display().to_string(),
            "sandbox-agent".to_owned(),
            "--coordinator".to_owned(),
            layout.coordinator.to_string(),
            "--state".to_owned(),
            host.state().display().to_string(),
            "--policy".to_owned(),
            host.policy().display().to_string(),
        ];
        let log = layout.root.join(format!("agent-{}.log", host.name));
        Self::start(format!("agent {}", host.name), command, log)
    }

    /// The proxy of an edge host. Killed and restarted, it begins with the division that it had.
    pub(super) fn edge(ctl: &Path, layout: &Layout, host: &SandboxHost) -> anyhow::Result<Self> {
        let command = edge::command(ctl, &host.edge());
        let log = layout.root.join(format!("edge-{}.log", host.name));
        Self::start(format!("edge of {}", host.name), command, log)
    }

    fn start(what: String, command: Vec<String>, log: PathBuf) -> anyhow::Result<Self> {
        let child = spawn(&command, &log).with_context(|| format!("starting the {what}"))?;
        Ok(Self { what, command, log, child })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it where it is, without ending it.
    pub(super) fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub(super) fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills it, as a power cut would end it.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .and_then(|()| self.child.wait().map(drop))
            .with_context(|| format!("killing the {}", self.what))
    }

    /// Starts it again, as the host's service manager would.
    pub(super) fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.command, &self.log)
            .with_context(|| format!("starting the {} again", self.what))?;
        Ok(())
    }

    /// Its last lines.
    pub(super) fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// Why it has ended, where it has.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("the {} has ended ({status}):\n{}", self.what, self.log_tail()))
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("signalling the {}", self.what))
    }
}

fn spawn(command: &[String], log: &Path) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    let (program, arguments) = command.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A terminal's Ctrl-C is for ctl alone: it ends the others in its own order.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    // Nothing of the caller's set-up leaks into the sandbox but where traces go.
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LASTGOOD_LOG", "info");
    command.envs(std::env::vars_os().filter(|(name, _)| is_for_traces(name)));
    Ok(command.spawn()?)
}

/// Each part has its own service name.
fn is_for_traces(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("OTEL_") && name != "OTEL_SERVICE_NAME")
}

/// The processes of one host's services.
pub(super) fn services_of(host: &SandboxHost) -> Vec<Pid> {
    with_in_command_line(&host.tree())
}

/// Ends everything that belongs to a sandbox, whoever started it. Coordinator and agents may send their last spans.
pub(super) fn end_all(root: &Path) -> anyhow::Result<()> {
    let polite = Instant::now() + LAST_SPANS_WITHIN;
    let parts = with_in_command_line(root).into_iter().filter(|pid| is_part(*pid));
    let parts: Vec<Pid> = parts.filter(|pid| kill_process(*pid, Signal::TERM).is_ok()).collect();
    while parts.iter().any(|pid| is_part(*pid)) && Instant::now() < polite {
        std::thread::sleep(Duration::from_millis(20));
    }
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let left = with_in_command_line(root);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{} processes of the sandbox cannot be ended", left.len());
        }
        for pid in left {
            // Gone in between is as good.
            kill_process(pid, Signal::KILL).ok();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether it is a coordinator or an agent that has not ended: one that waits to be reaped has no command line.
fn is_part(pid: Pid) -> bool {
    let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .nth(1)
        .is_some_and(|word| word == b"sandbox-coordinator" || word == b"sandbox-agent")
}

fn with_in_command_line(path: &Path) -> Vec<Pid> {
    let own = std::process::id();
    let needle = path.as_os_str().as_encoded_bytes();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let hit = line.windows(needle.len()).any(|window| window == needle);
        if hit && pid != own {
            found.extend(i32::try_from(pid).ok().and_then(Pid::from_raw));
        }
    }
    found
}
