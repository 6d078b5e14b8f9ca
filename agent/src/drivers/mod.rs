//! What the agent can do with a service, whatever technology runs it.
//!
//! ```text
//! ServicePolicy --build--> dyn ServiceDriver --start, stop--> done, or DriverError (only Transient is retried)
//!                               \-----------status---------> ServiceState: the look that evidence rests on
//! ```
//!
//! | driver    | runs |
//! |-----------|------|
//! | `process` | a command that the agent itself starts and watches |
//! | `script`  | the app's own start, stop and status scripts |
//! | `systemd` | a unit of the host's service manager |
//! | `nginx`   | a unit that is reloaded, never stopped |
//! | `fake`    | nothing: it stands in for a driver in tests |
//!
//! Invariant: every verb is idempotent: done already is done.
//! Invariant: a verb ends by its deadline; what it could not do by then it says.
//! Invariant: `status` looks at the host, never at what was asked for.

pub mod conformance;
pub mod fake;
mod log;
pub mod nginx;
pub mod process;
pub mod script;
pub mod systemd;

use std::{fmt, path::PathBuf, pin::Pin, time::Duration};

use proto::policy::{self, FilesPolicy, ServicePolicy};
use tokio::time::Instant;

use crate::exec::proc;

/// What a driver's verb returns: something to be awaited.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One service under one technology.
pub trait ServiceDriver: fmt::Debug + Send + Sync {
    /// The driver's name, as a policy has it.
    fn name(&self) -> &'static str;

    /// What it can do. Any other verb answers [`DriverError::Unsupported`].
    fn verbs(&self) -> &'static [Verb];

    /// Makes the host ready for the other verbs, and for a crash in the middle of them. Changes nothing that serves.
    fn set_up(&self, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        let _ = deadline;
        Box::pin(std::future::ready(Ok(())))
    }

    /// Starts the service. Whether it is any good, the checks say.
    fn start(&self, deadline: Instant) -> Doing<'_, Result<(), DriverError>>;

    /// Stops the service: it has `within` to end by itself, then it is killed. Done means that nothing of it runs.
    fn stop(&self, within: Duration, deadline: Instant) -> Doing<'_, Result<(), DriverError>>;

    /// Makes the running service read its files anew; done means that what serves now has read them.
    fn reload(&self, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        let _ = deadline;
        let why = format!("driver `{}` cannot reload; stop and start it", self.name());
        Box::pin(std::future::ready(Err(DriverError::Unsupported(why))))
    }

    /// Whether the service, which reads its files at a reload, would take them as they stand now.
    fn accepts(&self, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        let _ = deadline;
        Box::pin(std::future::ready(Ok(())))
    }

    /// How what starts the service by itself is: a stop stops it too, a start starts it again.
    fn triggers(&self) -> Triggers {
        Triggers::Armed
    }

    /// Starts again what starts the service by itself, and not the service: what undoes a stop of one that did not run.
    fn rearm(&self, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        let _ = deadline;
        Box::pin(std::future::ready(Ok(())))
    }

    /// Files of the service manager that go back with the release, beside those that the component declares.
    fn files(&self) -> Vec<FilesPolicy> {
        Vec::new()
    }

    /// Whether its status names the process that runs, so that a restart between two looks is seen.
    fn watches(&self) -> bool {
        true
    }

    /// What on this host would keep it from working, each with its mend. Changes nothing.
    fn problems(&self) -> Doing<'_, Vec<String>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    /// Looks.
    fn status(&self) -> Doing<'_, Result<ServiceState, DriverError>>;

    /// The last `count` lines that the service wrote, oldest first. Empty where there are none or none can be read.
    fn last_log_lines(&self, count: usize) -> Doing<'_, Vec<String>>;
}

/// What can be asked of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Start,
    Stop,
    Reload,
    Status,
    Log,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Reload => "reload",
            Self::Status => "status",
            Self::Log => "log",
        })
    }
}

/// How what starts a service by itself (a socket, a timer) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Triggers {
    /// As its owner had it.
    Armed,
    /// A stop or a start has begun with it, and has not ended.
    Between,
    /// A stop stopped it.
    Disarmed,
}

/// Which run of a service it is: no other run has the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The service is one process.
    Process(proc::Identity),
    /// The service manager's own name for the run.
    Run(String),
}

/// What a look at a service showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceState {
    pub running: bool,
    /// Which process it is. Another identity at a later look means that it was restarted in between. `None` while it does
    /// not run, and where the driver cannot tell ([`ServiceDriver::watches`]).
    pub identity: Option<Identity>,
    /// How often it was restarted without being asked to, since its last start.
    pub restarts: u64,
    /// The driver's own words.
    pub detail: String,
}

/// Why a verb was not done, in words for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// It may work in a moment. The caller may try again: [`crate::retry::Tries::transient`].
    #[error("{0}")]
    Transient(String),
    /// Trying again changes nothing.
    #[error("{0}")]
    Permanent(String),
    /// The driver has no such verb.
    #[error("{0}")]
    Unsupported(String),
    /// It was not done by the deadline. What state that left, `status` says.
    #[error("{0}")]
    TimedOut(String),
}

/// Where a driver is at home.
#[derive(Clone, Debug)]
pub struct Context {
    pub component: String,
    /// The agent's state directory. It exists.
    pub state_dir: PathBuf,
    /// While this file exists, nothing of the component may start.
    pub hold_path: PathBuf,
    /// What a service is that was never ordered anything: true where the agent is its supervisor from the host's
    /// first day on.
    pub autostart: bool,
}

/// A service that no driver of this agent can run.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("service `{service}` cannot be set up on this host")]
    Process {
        service: String,
        #[source]
        source: process::SetUpError,
    },
}

/// The driver of `service`. Call it inside the runtime: a driver may have a task of its own, which ends when the driver is
/// dropped. The service does not.
///
/// # Errors
/// This agent has no such driver, or the driver cannot be set up on this host.
pub fn build(
    service: &ServicePolicy,
    context: &Context,
) -> Result<Box<dyn ServiceDriver>, BuildError> {
    match &service.driver {
        policy::ServiceDriver::Process(process) => {
            let built = process::ProcessDriver::build(&service.name, process, context);
            let failed = |source| BuildError::Process { service: service.name.clone(), source };
            Ok(Box::new(built.map_err(failed)?))
        }
        policy::ServiceDriver::Systemd(unit) => {
            Ok(Box::new(systemd::SystemdDriver::new(&service.name, unit, context)))
        }
        policy::ServiceDriver::Nginx(unit) => Ok(Box::new(nginx::NginxDriver::new(unit, context))),
        policy::ServiceDriver::Script(script) => {
            let built = script::ScriptDriver::build(&service.name, script, context);
            let failed = |source| BuildError::Process { service: service.name.clone(), source };
            Ok(Box::new(built.map_err(failed)?))
        }
    }
}

/// What on this host would keep a service from working, each with its mend. Unlike [`build`] it takes up no supervision,
/// so it may be asked beside a running agent.
pub async fn problems(service: &ServicePolicy, context: &Context) -> Vec<String> {
    match &service.driver {
        policy::ServiceDriver::Process(process) => {
            process::ProcessDriver::refusal(process).into_iter().collect()
        }
        policy::ServiceDriver::Script(script) => script::ScriptDriver::refusals(script),
        policy::ServiceDriver::Systemd(_) | policy::ServiceDriver::Nginx(_) => {
            match build(service, context) {
                Ok(driver) => driver.problems().await,
                Err(error) => vec![error.to_string()],
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_policy_gets_its_driver() {
        let state = tempfile::tempdir().unwrap();
        let context = Context {
            component: "crm".to_owned(),
            state_dir: state.path().to_owned(),
            hold_path: state.path().join("hold"),
            autostart: false,
        };
        let argv = || vec!["/bin/true".to_owned()];
        let process = policy::ProcessPolicy {
            command: argv(),
            directory: "/".into(),
            environment: Default::default(),
            user: None,
        };
        let script = policy::ScriptPolicy {
            start: argv(),
            stop: argv(),
            force_stop: None,
            status: argv(),
            directory: "/".into(),
            environment: Default::default(),
            user: "root".into(),
        };
        let table = [
            (policy::ServiceDriver::Process(process), "process"),
            (policy::ServiceDriver::Script(script), "script"),
            (policy::ServiceDriver::Systemd("web.service".into()), "systemd"),
            (policy::ServiceDriver::Nginx("nginx.service".into()), "nginx"),
        ];
        for (driver, name) in table {
            let stop_within = policy::default_stop_within();
            let service = ServicePolicy { name: "web".to_owned(), driver, stop_within };
            assert_eq!(build(&service, &context).unwrap().name(), name);
        }
    }
}
