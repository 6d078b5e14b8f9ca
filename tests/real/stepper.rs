//! An agent that stands still after each call that changes what its disk holds, until it is told to go on.
//!
//! ```text
//! strace, on this machine ──every sync, rename, unlink, mkdir: SIGSTOP──▶ the agent, as shipped
//!    └─ its lines ─▶ Stepper ─▶ choose(stop) ─▶ go on: SIGCONT;  stay: the test cuts the power there
//! ```
//!
//! Invariant: no part of the product knows of it.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::hosts::{self, Host};

/// Everything that makes something durable, or changes a name.
const CALLS: &str = "fsync,fdatasync,syncfs,renameat,renameat2,unlinkat,linkat,symlinkat,mkdirat";
/// How long nothing is heard before the agent is told once more to go on.
const SILENCE: Duration = Duration::from_millis(50);
/// How long strace may take to let go.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// How long it may take until what is waited for has happened.
const PATIENCE: Duration = Duration::from_secs(60);

/// A place at which an agent stands still.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    /// The call that it has just made.
    #[expect(dead_code, reason = "for the words of a failed assertion")]
    pub(crate) call: String,
    /// Whether its component is in the middle of a switch.
    pub(crate) held: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Stepper {
    /// Its name.
    host: String,
    strace: Child,
    lines: Receiver<String>,
    agent: Pid,
    hold: PathBuf,
}

impl Stepper {
    /// Takes hold of the agent of a host.
    pub(crate) fn attach(host: &Host) -> Self {
        let pid = host.pid_of("lastgood-agent.service");
        let mut strace = Command::new("strace")
            .args(["-f", "-q", "-p", &pid.to_string(), "-e", &format!("trace={CALLS}")])
            .args(["-e", &format!("inject={CALLS}:signal=SIGSTOP")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace starts");
        let (sender, lines) = mpsc::channel();
        let said = strace.stderr.take().expect("strace speaks");
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let agent = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
        let hold = host.path("/var/lib/lastgood/hold/crm");
        let stepper = Self { host: host.name.clone(), strace, lines, agent, hold };
        crate::fleet::eventually("strace has the agent", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
            (tracer.trim() != "0").then_some(())
        });
        stepper
    }

    /// Lets the agent go from stop to stop until it is to stay at one; none where `over` came first.
    pub(crate) fn run(
        &self,
        mut over: impl FnMut() -> bool,
        mut stay: impl FnMut(&Stop) -> bool,
    ) -> Option<Stop> {
        let begun = Instant::now();
        let mut call = String::new();
        let mut signalled = false;
        let mut others = Vec::new();
        loop {
            match self.lines.recv_timeout(SILENCE) {
                Ok(line) if line.contains("--- stopped by SIGSTOP") => {
                    // Every thread says so; the first that does is enough.
                    if !std::mem::take(&mut signalled) {
                        continue;
                    }
                    let stop = Stop { call: call.clone(), held: self.hold.exists() };
                    if stay(&stop) {
                        return Some(stop);
                    }
                    self.go_on();
                }
                Ok(line) if line.contains("--- SIGSTOP") => match self.other(&line) {
                    None => signalled = true,
                    Some(other) => others.push(other),
                },
                Ok(line) => call = line,
                // A thread that stopped after the others went on waits as well; so does what the agent has started.
                Err(RecvTimeoutError::Timeout) => {
                    self.go_on();
                    for other in &others {
                        kill_process(*other, Signal::CONT).ok();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            if over() {
                return None;
            }
            assert!(begun.elapsed() < PATIENCE, "the agent was to come to a stop; last: {call}");
        }
    }

    /// The process that a line is about, where it is one that the agent started.
    fn other(&self, line: &str) -> Option<Pid> {
        let thread = line.strip_prefix("[pid ")?.split(']').next()?.trim();
        let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
        let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
        let process = Pid::from_raw(process.trim().parse().ok()?)?;
        (process != self.agent).then_some(process)
    }

    /// The same until a switch has come so far: the n-th step under its hold.
    pub(crate) fn run_into_switch(&self, nth: usize) -> Stop {
        let mut steps = 0;
        let into = |stop: &Stop| {
            steps += usize::from(stop.held);
            steps == nth
        };
        self.run(|| false, into).expect("the agent switches")
    }

    fn go_on(&self) {
        // Gone is as good.
        kill_process(self.agent, Signal::CONT).ok();
    }

    /// Kills the agent where it stands.
    pub(crate) fn kill_agent(&self) {
        kill_process(self.agent, Signal::KILL).expect("the agent is there");
    }
}

impl Drop for Stepper {
    fn drop(&mut self) {
        // Asked to end, strace lets go of the agent. Of one that was killed it may wait for ever.
        if let Ok(strace) = i32::try_from(self.strace.id()) {
            Pid::from_raw(strace).map(|pid| kill_process(pid, Signal::TERM).ok());
        }
        let asked = Instant::now();
        while matches!(self.strace.try_wait(), Ok(None)) {
            if asked.elapsed() > ENDS_WITHIN {
                self.strace.kill().ok();
            }
            std::thread::sleep(SILENCE);
        }
        // So that nothing stands still that the agent has started meanwhile.
        hosts::go_on(&self.host);
    }
}
