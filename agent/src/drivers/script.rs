//! `script`: the app's own scripts, for apps that come with `start-all.sh` and `stop-all.sh`.
//!
//! | verb   | what it means here |
//! |--------|--------------------|
//! | start  | where `status` says that it does not run: `start`, then `status` until it runs |
//! | stop   | `stop`, then `status` until it does not run; where that takes longer than `stop_within`: `force_stop` |
//! | status | `status` exits 0: runs; 3: does not; anything else is not known and an error |
//!
//! ```text
//! Spec (argv, user, directory, environment) --exec::run-----------> stop, force_stop, status: nothing is left of them
//!                                           \-exec::run_and_leave-> start: what it leaves in the background lives on
//!                                                   both write to <state>/logs/<component>.<service>.log
//! ```
//!
//! What a start script leaves is outside of the agent's process group, and writes to the log, not to a pipe of the
//! agent's. It stays in the agent's cgroup: our unit says `KillMode=process`, so that a restart of the agent leaves it.
//!
//! Limits: scripts name no process, so a restart between two looks is not seen, and [`ServiceDriver::watches`] says so.
//! What starts the app at boot is the owner's and does not know of holds; this driver honours them.
//!
//! Invariant: a start or stop that a dead agent left running is ended before another begins.
//! Invariant: nothing is started while the component's hold is there.

#[cfg(test)]
mod tests;

use std::{io, io::Write as _, path::PathBuf, time::Duration};

use proto::policy::ScriptPolicy;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Context, Doing, DriverError, ServiceDriver, ServiceState, Verb, log,
    process::{SetUpError, directory, file_name},
};
use crate::exec::{self, ExecError, Output, Spec, last_lines, members::Mark, proc};

/// How long a look may take: a healthy script needs a fraction, and the news of the host waits for it.
const STATUS_WITHIN: Duration = Duration::from_secs(5);
/// How long after a good `start` the service may take to show up in `status`: scripts often start in the background.
const SHOWS_UP_WITHIN: Duration = Duration::from_secs(30);
/// How much of a stop's time is kept for `force_stop`, where there is that much.
const FORCE_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks while something is waited for: a look starts a process.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often a hold is looked for while a start waits for its end: a part of the outage.
const HOLD_POLL: Duration = Duration::from_millis(50);
/// How long a script that a dead agent left has between TERM and KILL, and the kernel after that.
const LEFTOVER_GRACE: Duration = Duration::from_secs(2);
/// The exit status of `status` for "does not run", as init scripts have it (LSB 3.0, "program is not running").
const NOT_RUNNING: i32 = 3;
/// How many lines of a script's output are quoted.
const QUOTED_LINES: usize = 5;

/// See the module.
#[derive(Debug)]
pub struct ScriptDriver {
    policy: ScriptPolicy,
    hold: PathBuf,
    log: PathBuf,
    mark: Mark,
}

impl ScriptDriver {
    /// # Errors
    /// The state directory cannot be used, or the policy sets a variable of ours.
    pub fn build(
        service: &str,
        policy: &ScriptPolicy,
        context: &Context,
    ) -> Result<Self, SetUpError> {
        let state = &context.state_dir;
        let name = format!("{}.{}", file_name(&context.component), file_name(service));
        let mark = Mark::new(&format!("{name}.script"), state)
            .map_err(|source| SetUpError::StateDirectory { path: state.clone(), source })?;
        for (variable, _) in mark.variables() {
            if policy.environment.contains_key(*variable) {
                return Err(SetUpError::OwnVariable((*variable).to_owned()));
            }
        }
        let log = directory(state, "logs")?.join(format!("{name}.log"));
        Ok(Self { policy: policy.clone(), hold: context.hold_path.clone(), log, mark })
    }

    /// What on this host keeps the scripts from being run, each with its mend. Runs nothing.
    pub fn refusals(policy: &ScriptPolicy) -> Vec<String> {
        let commands = [&policy.start, &policy.stop, &policy.status];
        let commands = commands.into_iter().chain(&policy.force_stop);
        let mut words: Vec<String> =
            commands.filter_map(|argv| exec::refusal(&spec(policy, argv))).collect();
        words.dedup();
        words
    }

    /// Whether it runs, in the script's words where that is not clear.
    async fn runs(&self, until: Instant) -> Result<(bool, String), DriverError> {
        let spec = self.spec(&self.policy.status);
        let within = until.saturating_duration_since(Instant::now()).min(STATUS_WITHIN);
        let output = exec::run(&spec, within).await.map_err(|error| not_run(&error))?;
        match (output.timed_out, output.status.code()) {
            (false, Some(0)) => Ok((true, words(&output))),
            (false, Some(NOT_RUNNING)) => Ok((false, words(&output))),
            (true, _) => Err(DriverError::TimedOut(format!(
                "`{}` did not end within {within:?} and was ended: it is not known whether it runs",
                spec.argv.join(" ")
            ))),
            (false, _) => Err(DriverError::Permanent(format!(
                "`{}` → {}: it is not known whether it runs (0: runs, {NOT_RUNNING}: does not): {}",
                spec.argv.join(" "),
                exec::status_words(output.status),
                words(&output)
            ))),
        }
    }

    /// Looks until `wanted` is so, or `until` has come; what the last look said.
    async fn comes_to(&self, wanted: bool, until: Instant) -> Result<bool, DriverError> {
        loop {
            let (running, _) = self.runs(until + STATUS_WITHIN).await?;
            if running == wanted || Instant::now() >= until {
                return Ok(running);
            }
            sleep(LOOK_EVERY.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    async fn try_start(&self, deadline: Instant) -> Result<(), DriverError> {
        self.end_leftovers().await?;
        if self.runs(deadline).await?.0 {
            return Ok(());
        }
        while self.is_held() {
            if Instant::now() >= deadline {
                let hold = self.hold.display();
                return Err(DriverError::TimedOut(format!("not started: {hold} holds it")));
            }
            sleep(HOLD_POLL).await;
        }
        let spec = self.spec(&self.policy.start);
        let log = log::open(&self.log).map_err(|error| self.no_log(&error))?;
        let within = deadline.saturating_duration_since(Instant::now());
        let output = exec::run_and_leave(&spec, within, log).await;
        let output = output.map_err(|error| not_run(&error))?;
        ended_well(output, &spec)?;
        let until = deadline.min(Instant::now() + SHOWS_UP_WITHIN);
        if self.comes_to(true, until).await? {
            return Ok(());
        }
        Err(DriverError::TimedOut(format!(
            "`{}` exited 0, but `{}` still says that it does not run",
            self.policy.start.join(" "),
            self.policy.status.join(" ")
        )))
    }

    async fn try_stop(&self, within: Duration, deadline: Instant) -> Result<(), DriverError> {
        self.end_leftovers().await?;
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let kept = if self.policy.force_stop.is_some() {
            FORCE_WITHIN.min(left / 2)
        } else {
            Duration::ZERO
        };
        let patient_until = (now + within).min(deadline.checked_sub(kept).unwrap_or(now));
        let asked = self.ask_to_stop(patient_until).await;
        let Some(force_stop) = &self.policy.force_stop else {
            return match asked {
                Ok(true) => Ok(()),
                Ok(false) => Err(DriverError::TimedOut(format!(
                    "it still runs after `{}`, and no `force_stop` is declared",
                    self.policy.stop.join(" ")
                ))),
                Err(error) => Err(error),
            };
        };
        match asked {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // Its words stay in the log of the service: they may hold secrets.
            Err(_) => tracing::warn!(log = %self.log.display(), "stop failed; forced"),
        }
        let deadline = deadline.max(Instant::now() + FORCE_WITHIN.min(left));
        self.run_to_end(force_stop, deadline).await?;
        if self.comes_to(false, deadline).await? {
            return Err(DriverError::TimedOut(format!(
                "it still runs after `{}` and `{}`",
                self.policy.stop.join(" "),
                force_stop.join(" ")
            )));
        }
        Ok(())
    }

    /// The patient way. True where it does not run any more.
    async fn ask_to_stop(&self, until: Instant) -> Result<bool, DriverError> {
        // Nothing to stop, or no patience at all: the script is not run in vain.
        let running = self.runs(until + STATUS_WITHIN).await?.0;
        let in_vain = self.policy.force_stop.is_some() && Instant::now() >= until;
        if !running || in_vain {
            return Ok(!running);
        }
        self.run_to_end(&self.policy.stop, until).await?;
        Ok(!self.comes_to(false, until).await?)
    }

    /// Runs a script of which nothing may be left, and keeps its words in the log.
    async fn run_to_end(&self, argv: &[String], until: Instant) -> Result<(), DriverError> {
        let spec = self.spec(argv);
        let within = until.saturating_duration_since(Instant::now());
        let output = exec::run(&spec, within).await.map_err(|error| not_run(&error))?;
        let kept = log::open(&self.log).and_then(|mut log| {
            log.write_all(output.stdout.as_bytes())?;
            log.write_all(output.stderr.as_bytes())
        });
        if let Err(error) = kept {
            tracing::warn!(log = %self.log.display(), %error, "a script's words are lost");
        }
        ended_well(output, &spec)
    }

    /// Ends a start or stop that goes on since an agent died in it. Its process group only: what a start has put into
    /// a session of its own is the service.
    async fn end_leftovers(&self) -> Result<(), DriverError> {
        let failed = |error: io::Error| {
            DriverError::Permanent(format!("cannot look for scripts of an earlier run: {error}"))
        };
        let scripts: Vec<_> = [&self.policy.start, &self.policy.stop]
            .into_iter()
            .chain(&self.policy.force_stop)
            .cloned()
            .collect();
        let mark = self.mark.clone();
        let look = tokio::task::spawn_blocking(move || mark.scripts(&scripts));
        let found = look.await.map_err(io::Error::from).flatten().map_err(failed)?;
        for script in found {
            tracing::warn!(
                pid = script.pid,
                "a script of an earlier run still goes on; it is ended"
            );
            let signal = |signal| proc::signal_group(script.group, signal);
            signal(Signal::TERM).map_err(failed)?;
            let until = Instant::now() + LEFTOVER_GRACE;
            let gone = async {
                while script.is_alive_still() {
                    sleep(HOLD_POLL).await;
                }
            };
            if timeout_at(until, gone).await.is_err() && script.is_alive_still() {
                signal(Signal::KILL).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn is_held(&self) -> bool {
        // What cannot be looked at may be a hold.
        self.hold.try_exists().unwrap_or(true)
    }

    fn spec(&self, argv: &[String]) -> Spec {
        let mut spec = spec(&self.policy, argv);
        let mark = self.mark.variables().iter();
        spec.environment.extend(mark.map(|(key, value)| ((*key).to_owned(), value.clone())));
        spec
    }

    fn no_log(&self, error: &io::Error) -> DriverError {
        DriverError::Permanent(format!("cannot open its log {}: {error}", self.log.display()))
    }
}

impl ServiceDriver for ScriptDriver {
    fn name(&self) -> &'static str {
        "script"
    }

    fn verbs(&self) -> &'static [Verb] {
        &[Verb::Start, Verb::Stop, Verb::Status, Verb::Log]
    }

    fn watches(&self) -> bool {
        false
    }

    fn start(&self, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(self.try_start(deadline))
    }

    fn stop(&self, within: Duration, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(self.try_stop(within, deadline))
    }

    fn problems(&self) -> Doing<'_, Vec<String>> {
        Box::pin(std::future::ready(Self::refusals(&self.policy)))
    }

    fn status(&self) -> Doing<'_, Result<ServiceState, DriverError>> {
        Box::pin(async {
            let (running, detail) = self.runs(Instant::now() + STATUS_WITHIN).await?;
            Ok(ServiceState { running, identity: None, restarts: 0, detail })
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

fn spec(policy: &ScriptPolicy, argv: &[String]) -> Spec {
    let mut spec = Spec::new(argv.to_vec()).as_user(Some(policy.user.clone()));
    spec.environment.extend(policy.environment.clone());
    spec.directory.clone_from(&policy.directory);
    spec
}

/// What a script said last, in one line.
fn words(output: &Output) -> String {
    let mut lines = last_lines(&output.stdout, QUOTED_LINES);
    lines.extend(last_lines(&output.stderr, QUOTED_LINES));
    lines.join(" | ")
}

fn ended_well(output: Output, spec: &Spec) -> Result<(), DriverError> {
    let timed_out = output.timed_out;
    match output.success(spec) {
        Ok(_) => Ok(()),
        Err(failure) if timed_out => Err(DriverError::TimedOut(failure.to_string())),
        Err(failure) => Err(DriverError::Permanent(failure.to_string())),
    }
}

fn not_run(error: &ExecError) -> DriverError {
    if error.is_transient() {
        DriverError::Transient(error.words())
    } else {
        DriverError::Permanent(error.words())
    }
}
