//! `process`: a command that the agent itself starts and watches, for hosts and apps without a service manager.
//!
//! | verb   | what it means here |
//! |--------|--------------------|
//! | start  | the command is spawned, in a process group of its own; when it dies by itself it is started again |
//! | stop   | TERM to the group, at the deadline KILL; done when the group and everything it started is gone |
//! | status | the process with the recorded pid, start time and boot id is alive |
//!
//! ```text
//! ProcessDriver --SupervisorHandle--> Supervisor (a task per service) --spawn, watch, signal--> processes
//!                                          |
//!                       <state>/process/<component>.<service>.json   what is wanted, and which process it is
//!                       <state>/logs/<component>.<service>.log       what it writes
//! ```
//!
//! The command must stay in the foreground: when it exits, the service has ended.
//!
//! Invariant: services outlive the agent; the next agent finds them again.
//! Invariant: nothing starts while its component's hold is there.

mod handle;
mod state;
mod supervisor;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use proto::policy::ProcessPolicy;
use tokio::time::Instant;

use self::{
    handle::SupervisorHandle,
    supervisor::{Service, Supervisor},
};
use super::{Context, Doing, DriverError, ServiceDriver, ServiceState, Verb, log};
use crate::exec::{self, Spec, members::Mark};

/// A command under supervision. Dropping it ends the supervision, not the command.
#[derive(Debug)]
pub struct ProcessDriver {
    supervisor: SupervisorHandle,
    log: PathBuf,
}

/// A service that cannot be supervised on this host.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    #[error("cannot make {}", .path.display())]
    MakeDirectory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the state directory {}", .path.display())]
    StateDirectory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("variable {0} is the agent's own; take it out of `environment`")]
    OwnVariable(String),
}

impl ProcessDriver {
    /// Starts the supervision: a process of an earlier agent is found again, and started if it should run and does not.
    /// Call it inside the runtime.
    ///
    /// # Errors
    /// The state directory cannot be used, or the policy sets a variable of ours.
    pub fn build(
        service: &str,
        policy: &ProcessPolicy,
        context: &Context,
    ) -> Result<Self, SetUpError> {
        let state = &context.state_dir;
        let name = format!("{}.{}", file_name(&context.component), file_name(service));
        let mark = Mark::new(&name, state)
            .map_err(|source| SetUpError::StateDirectory { path: state.clone(), source })?;
        for (variable, _) in mark.variables() {
            if policy.environment.contains_key(*variable) {
                return Err(SetUpError::OwnVariable((*variable).to_owned()));
            }
        }
        let log = directory(state, "logs")?.join(format!("{name}.log"));
        let record = directory(state, "process")?.join(format!("{name}.json"));
        let hold = context.hold_path.clone();
        let autostart = context.autostart;
        let service =
            Service { name, spec: spec(policy), mark, hold, autostart, record, log: log.clone() };
        let (supervisor, handle) = Supervisor::new(service);
        tokio::spawn(supervisor.run());
        Ok(Self { supervisor: handle, log })
    }

    /// Why this agent would refuse to start the command, `None` where nothing is known against it. For `agent check`.
    pub fn refusal(policy: &ProcessPolicy) -> Option<String> {
        exec::refusal(&spec(policy))
    }
}

impl ServiceDriver for ProcessDriver {
    fn name(&self) -> &'static str {
        "process"
    }

    fn verbs(&self) -> &'static [Verb] {
        &[Verb::Start, Verb::Stop, Verb::Status, Verb::Log]
    }

    fn start(&self, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(self.supervisor.start(deadline))
    }

    fn stop(&self, within: Duration, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(self.supervisor.stop(within, deadline))
    }

    fn status(&self) -> Doing<'_, Result<ServiceState, DriverError>> {
        Box::pin(async {
            let view = self.supervisor.view().await?;
            // The supervisor may not have seen its end yet.
            let identity = view.process.filter(|process| process.is_alive());
            Ok(ServiceState {
                running: identity.is_some(),
                identity: identity.map(super::Identity::Process),
                restarts: view.restarts,
                detail: view.detail,
            })
        })
    }

    fn last_log_lines(&self, count: usize) -> Doing<'_, Vec<String>> {
        let path = self.log.clone();
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || log::tail(&path, count)).await;
            read.ok().and_then(Result::ok).unwrap_or_default()
        })
    }
}

fn spec(policy: &ProcessPolicy) -> Spec {
    let environment: BTreeMap<_, _> = policy.environment.clone();
    Spec {
        argv: policy.command.clone(),
        environment,
        directory: policy.directory.clone(),
        user: policy.user.clone(),
    }
}

pub(super) fn directory(state: &Path, name: &str) -> Result<PathBuf, SetUpError> {
    let path = state.join(name);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
    match made {
        Ok(()) => Ok(path),
        Err(source) => Err(SetUpError::MakeDirectory { path, source }),
    }
}

/// A policy's name as a part of a file name. No two names have the same, and none leaves its directory.
pub(super) fn file_name(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
