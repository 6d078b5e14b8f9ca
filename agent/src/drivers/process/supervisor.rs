//! Watches one service: starts it when it is wanted, ends it when it is not, and finds it again after the agent died.
//!
//! ```text
//!             start, or its end (after a delay)            spawned
//!  Stopped ------------------------------------> Wanted ------------> Running
//!     ^                                            |  ^---- its end ----'  |
//!     '------------------ stop --------------------+-----------------------'
//! ```
//!
//! Invariant: what is wanted is on the disk before anything is done about it.
//! Invariant: nothing is started while the hold is there, while it is not wanted, or while an earlier copy is alive.
//! Invariant: the end of this task, or of the agent, ends no service.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    process::Child,
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    handle::{self, Answer, Request, SupervisorHandle, View},
    state::{self, Desired, Record, RecordError},
};
use crate::{
    drivers::{DriverError, log},
    exec::{
        self, ExecError, Spec,
        members::{EndError, Mark, Patience, end},
        proc::{Identity, Watch, signal_group},
        status_words,
    },
    retry,
};

/// How often a hold is looked for while a start waits for its end: a part of the outage.
const HOLD_POLL: Duration = Duration::from_millis(50);
/// How long the kernel may take after KILL. Longer means that a process hangs in the kernel.
pub(super) const KILL_GRACE: Duration = Duration::from_secs(2);
/// How long what a dead leader left behind has to end by itself before it is killed.
const LEFTOVERS_WITHIN: Duration = Duration::from_secs(1);

/// What is to be supervised, and where that is written down.
#[derive(Debug)]
pub(super) struct Service {
    /// `<component>.<service>`.
    pub(super) name: String,
    pub(super) spec: Spec,
    pub(super) mark: Mark,
    pub(super) hold: PathBuf,
    pub(super) record: PathBuf,
    pub(super) log: PathBuf,
    /// Wanted where there is no record of it yet.
    pub(super) autostart: bool,
}

/// The task of one service.
#[derive(Debug)]
pub(super) struct Supervisor {
    service: Service,
    record: Record,
    phase: Phase,
    delays: retry::Policy,
    /// Starts that wait for the hold to be lifted.
    waiting: Vec<Answer>,
    /// How it ended last, or could not be started.
    last_words: Option<String>,
    requests: mpsc::Receiver<Request>,
    view: watch::Sender<Option<View>>,
}

#[derive(Debug)]
enum Phase {
    Stopped,
    Wanted { not_before: Instant, held: bool },
    Running(Box<Running>),
}

#[derive(Debug)]
struct Running {
    watch: Watch,
    /// `None` where an earlier run of the agent started it: then it is not ours to wait for.
    child: Option<Child>,
    since: Instant,
}

enum Attempt {
    Held,
    Spawned(Box<Running>),
}

enum Event {
    Asked(Request),
    Exited,
    Due,
    Closed,
}

impl Supervisor {
    pub(super) fn new(service: Service) -> (Self, SupervisorHandle) {
        let (handle, requests, view) = handle::channel();
        let supervisor = Self {
            service,
            record: Record::new(Desired::Stopped),
            phase: Phase::Stopped,
            delays: retry::Policy::restart(),
            waiting: Vec::new(),
            last_words: None,
            requests,
            view,
        };
        (supervisor, handle)
    }

    pub(super) async fn run(mut self) {
        self.find_again().await;
        loop {
            self.publish();
            match self.next_event().await {
                Event::Asked(request) if request.is_given_up() => {}
                Event::Asked(Request::Start { answer }) => self.want(answer).await,
                Event::Asked(Request::Stop { term_until, answer }) => {
                    let stopped = self.stop(term_until).await;
                    // Published first: who has the answer sees what it says.
                    self.publish();
                    deliver(answer, stopped);
                }
                Event::Exited => self.ended().await,
                Event::Due => self.try_to_start().await,
                Event::Closed => return,
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let (running, due) = match &self.phase {
            Phase::Stopped => (None, None),
            Phase::Wanted { not_before, .. } => (None, Some(*not_before)),
            Phase::Running(running) => (Some(&running.watch), None),
        };
        let exited = async {
            match running {
                // An error means that the runtime shuts down, and this task with it.
                Some(watch) if watch.exited().await.is_ok() => {}
                Some(_) | None => std::future::pending().await,
            }
        };
        let due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        // Orders first: a stop outruns the restart that is due.
        tokio::select! { biased;
            request = self.requests.recv() => request.map_or(Event::Closed, Event::Asked),
            () = exited => Event::Exited,
            () = due => Event::Due,
        }
    }

    /// What an earlier run of the agent left: its record, and the host as it is.
    async fn find_again(&mut self) {
        // Read where it stands: once, and a few bytes.
        let loaded = state::load(&self.service.record);
        let first = matches!(loaded, Ok(None));
        let recorded = loaded.unwrap_or_else(|error| {
            tracing::error!(service = %self.service.name, error = words(&error), "the host is looked at instead");
            None
        });
        let found = match &recorded {
            Some(Record { process: Some(process), .. }) => Ok(Some(process.clone())),
            // Started and not yet written down, or never started.
            Some(_) | None => self.service.mark.find_leader().await,
        };
        let watch = found.and_then(|found| found.as_ref().map_or(Ok(None), Watch::open));
        let watch = watch.unwrap_or_else(|error| {
            tracing::error!(service = %self.service.name, %error, "cannot look for its process");
            None
        });
        let wanted = watch.is_some() || (first && self.service.autostart);
        let unknown = if wanted { Desired::Running } else { Desired::Stopped };
        self.record = recorded.unwrap_or_else(|| Record::new(unknown));
        let now = Instant::now();
        self.phase = match (watch, self.record.desired) {
            (Some(watch), _) => {
                tracing::info!(service = %self.service.name, pid = watch.identity().pid, "found again");
                self.record.process = Some(watch.identity().clone());
                if let Err(error) = self.save().await {
                    tracing::error!(service = %self.service.name, error = words(&error), "its pid is not recorded");
                }
                Phase::Running(Box::new(Running { watch, child: None, since: now }))
            }
            (None, Desired::Running) => Phase::Wanted { not_before: now, held: false },
            (None, Desired::Stopped) => Phase::Stopped,
        };
    }

    /// An order to start.
    async fn want(&mut self, answer: Answer) {
        if let Phase::Running(running) = &self.phase
            && !running.watch.identity().is_alive()
        {
            self.ended().await;
        }
        let before = self.record.clone();
        self.record.desired = Desired::Running;
        if !matches!(self.phase, Phase::Running(_)) {
            self.record = Record::new(Desired::Running);
        }
        if self.record != before
            && let Err(error) = self.save().await
        {
            self.record = before;
            return deliver(answer, Err(DriverError::Permanent(words(&error))));
        }
        if matches!(self.phase, Phase::Running(_)) {
            return deliver(answer, Ok(()));
        }
        self.delays.reset();
        self.waiting.push(answer);
        self.phase = Phase::Wanted { not_before: Instant::now(), held: false };
    }

    /// An order to stop.
    async fn stop(&mut self, term_until: Instant) -> Result<(), DriverError> {
        if self.record.desired != Desired::Stopped {
            let before = self.record.clone();
            self.record.desired = Desired::Stopped;
            if let Err(error) = self.save().await {
                self.record = before;
                return Err(DriverError::Permanent(words(&error)));
            }
        }
        for waiting in self.waiting.drain(..) {
            deliver(
                waiting,
                Err(DriverError::Permanent("a stop came before it was started".to_owned())),
            );
        }
        if matches!(self.phase, Phase::Wanted { .. }) {
            self.phase = Phase::Stopped;
        }
        self.publish();
        self.end_all(term_until).await.map_err(|error| self.not_ended(&error))?;
        if let Phase::Running(running) = std::mem::replace(&mut self.phase, Phase::Stopped) {
            self.last_words = Some(reap(running.child).await);
        }
        if self.record.process.take().is_some()
            && let Err(error) = self.save().await
        {
            // The process that it names is gone, so it stands for nothing.
            tracing::warn!(service = %self.service.name, error = words(&error), "an old pid stays recorded");
        }
        tracing::info!(service = %self.service.name, "stopped");
        Ok(())
    }

    /// The process has exited by itself.
    async fn ended(&mut self) {
        // Before it is waited for: until then nobody else can get its group's number.
        if let Err(error) = self.end_all(Instant::now() + LEFTOVERS_WITHIN).await {
            tracing::warn!(service = %self.service.name, error = words(&error), "what it left is not ended");
        }
        let Phase::Running(running) = std::mem::replace(&mut self.phase, Phase::Stopped) else {
            return;
        };
        let up = running.since.elapsed();
        let ended = reap(running.child).await;
        tracing::warn!(service = %self.service.name, ended, up_ms = up.as_millis(), "ended by itself");
        self.last_words = Some(ended);
        match self.record.desired {
            Desired::Stopped => {}
            Desired::Running => {
                self.delays.worked_for(up);
                self.record.restarts += 1;
                let not_before = Instant::now() + self.delays.next_delay();
                self.phase = Phase::Wanted { not_before, held: false };
            }
        }
    }

    async fn try_to_start(&mut self) {
        let attempt =
            if is_held(&self.service.hold) { Ok(Attempt::Held) } else { self.spawn().await };
        let started = match attempt {
            Ok(Attempt::Held) => {
                self.phase = Phase::Wanted { not_before: Instant::now() + HOLD_POLL, held: true };
                return;
            }
            Ok(Attempt::Spawned(running)) => {
                tracing::info!(service = %self.service.name, pid = running.watch.identity().pid, "started");
                self.phase = Phase::Running(running);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(service = %self.service.name, %error, "cannot be started");
                self.last_words = Some(error.to_string());
                self.not_started().await;
                Err(error)
            }
        };
        self.publish();
        for waiting in self.waiting.drain(..) {
            deliver(waiting, started.clone());
        }
    }

    /// Who ordered it is told that it does not run, so it will not run later; what was good before is tried again.
    async fn not_started(&mut self) {
        self.waiting.retain(|waiting| !waiting.is_closed());
        if self.waiting.is_empty() {
            let not_before = Instant::now() + self.delays.next_delay();
            self.phase = Phase::Wanted { not_before, held: false };
            return;
        }
        self.phase = Phase::Stopped;
        self.record.desired = Desired::Stopped;
        if let Err(error) = self.save().await {
            tracing::error!(service = %self.service.name, error = words(&error), "the next agent will try to start it");
        }
    }

    async fn spawn(&mut self) -> Result<Attempt, DriverError> {
        self.end_all(Instant::now() + LEFTOVERS_WITHIN)
            .await
            .map_err(|error| self.not_ended(&error))?;
        // On the disk before the spawn: no pid means that one has to be looked for.
        self.record.process = None;
        self.save().await.map_err(|error| DriverError::Permanent(words(&error)))?;
        // Asked again: making room took its time.
        if is_held(&self.service.hold) {
            return Ok(Attempt::Held);
        }
        let child = self.spawn_child()?;
        let watch = watch_child(&child)?;
        self.record.process = Some(watch.identity().clone());
        if let Err(error) = self.save().await {
            tracing::error!(service = %self.service.name, error = words(&error), "its pid is not recorded, only its mark");
        }
        let running = Running { watch, child: Some(child), since: Instant::now() };
        Ok(Attempt::Spawned(Box::new(running)))
    }

    fn spawn_child(&self) -> Result<Child, DriverError> {
        let path = &self.service.log;
        let opened = log::open(path).and_then(|log| Ok((log.try_clone()?, log)));
        let (out, err) = opened.map_err(|error| {
            DriverError::Permanent(format!("cannot open its log {}: {error}", path.display()))
        })?;
        let mut command = exec::prepare(&self.service.spec).map_err(|error| not_run(&error))?;
        let mark = self.service.mark.variables();
        command.envs(mark.iter().map(|(key, value)| (*key, value.as_str())));
        command.output(out, err);
        let program = || self.service.spec.argv.first().cloned().unwrap_or_default();
        command.spawn().map_err(|source| not_run(&ExecError::Spawn { program: program(), source }))
    }

    async fn end_all(&self, term_until: Instant) -> Result<(), EndError> {
        let patience = Patience { term_until, kill_for: KILL_GRACE };
        end(&self.service.mark, self.record.process.as_ref(), patience).await
    }

    fn not_ended(&self, error: &EndError) -> DriverError {
        let words = format!("service {} cannot be stopped: {}", self.service.name, words(error));
        match error {
            EndError::StillAlive(_) => DriverError::TimedOut(words),
            EndError::Look(_) | EndError::Signal { .. } => DriverError::Permanent(words),
        }
    }

    async fn save(&self) -> Result<(), RecordError> {
        let (path, record) = (self.service.record.clone(), self.record.clone());
        let path_of_failure = path.clone();
        let saved = tokio::task::spawn_blocking(move || state::save(&path, &record)).await;
        saved.unwrap_or_else(|gone| {
            Err(RecordError::Write { path: path_of_failure, source: gone.into() })
        })
    }

    fn publish(&self) {
        let after = |state: &str| match &self.last_words {
            Some(words) => format!("{state}; before that: {words}"),
            None => state.to_owned(),
        };
        let detail = match &self.phase {
            Phase::Stopped => after("stopped"),
            Phase::Wanted { held: true, .. } => {
                format!("held: {} is there", self.service.hold.display())
            }
            Phase::Wanted { held: false, .. } => after("waiting to be started"),
            Phase::Running(running) => after(&format!(
                "running as pid {}, restarts: {}",
                running.watch.identity().pid,
                self.record.restarts
            )),
        };
        let process = match &self.phase {
            Phase::Running(running) => Some(running.watch.identity().clone()),
            Phase::Stopped | Phase::Wanted { .. } => None,
        };
        self.view.send_replace(Some(View { process, restarts: self.record.restarts, detail }));
    }
}

/// A handle on a child that was just spawned. It is not waited for, so it is there even if it has exited already. One that
/// cannot be watched is not left running.
fn watch_child(child: &Child) -> Result<Watch, DriverError> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
    let watch =
        Identity::of(pid).and_then(|identity| identity.as_ref().map_or(Ok(None), Watch::open));
    let watch = watch.and_then(|watch| watch.ok_or_else(|| io::ErrorKind::NotFound.into()));
    watch.map_err(|source| {
        if let Err(error) = signal_group(pid, Signal::KILL) {
            tracing::error!(pid, %error, "cannot kill a process that cannot be watched");
        }
        not_run(&ExecError::Watch { pid, source })
    })
}

/// The hold is there, or it cannot be told that it is not.
fn is_held(hold: &Path) -> bool {
    match fs::symlink_metadata(hold) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Takes the zombie away and says how it ended.
async fn reap(child: Option<Child>) -> String {
    let Some(mut child) = child else { return "ended while no agent was its parent".to_owned() };
    match timeout(KILL_GRACE, child.wait()).await {
        Ok(Ok(status)) => status_words(status),
        Ok(Err(error)) => format!("ended, and how is not known: {error}"),
        Err(_) => "ended, and how is not known yet".to_owned(),
    }
}

fn not_run(error: &ExecError) -> DriverError {
    let words = error.words();
    if error.is_transient() { DriverError::Transient(words) } else { DriverError::Permanent(words) }
}

/// An error and what the host said: on one line.
fn words(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn deliver(answer: Answer, result: Result<(), DriverError>) {
    if answer.send(result).is_err() {
        tracing::debug!("nobody waits for the answer any more");
    }
}
