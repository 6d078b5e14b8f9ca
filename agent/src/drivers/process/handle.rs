//! How a supervisor is asked: the verbs of the driver, each with an answer or a deadline.
//!
//! Invariant: an order whose caller stopped waiting is not begun any more; one that was begun, `view` tells of.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};

use super::supervisor::KILL_GRACE;
use crate::{drivers::DriverError, exec::proc::Identity};

/// A worker asks one thing of a service at a time; a second one may be an abort.
const REQUESTS_MAX: usize = 4;

pub(super) type Answer = oneshot::Sender<Result<(), DriverError>>;

/// What a supervisor is asked.
#[derive(Debug)]
pub(super) enum Request {
    Start { answer: Answer },
    Stop { term_until: Instant, answer: Answer },
}

impl Request {
    /// Its caller was told by now that it was not done in time.
    pub(super) fn is_given_up(&self) -> bool {
        match self {
            Self::Start { answer } | Self::Stop { answer, .. } => answer.is_closed(),
        }
    }
}

/// What the supervisor knows, for those who look.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// The process it watches. Whether that is alive now, the host says.
    pub(super) process: Option<Identity>,
    pub(super) restarts: u64,
    pub(super) detail: String,
}

/// The way to a supervisor. It ends when its last handle is dropped.
#[derive(Clone, Debug)]
pub(super) struct SupervisorHandle {
    requests: mpsc::Sender<Request>,
    view: watch::Receiver<Option<View>>,
}

/// A handle, and the supervisor's ends of it.
pub(super) fn channel() -> (SupervisorHandle, mpsc::Receiver<Request>, watch::Sender<Option<View>>)
{
    let (requests, asked) = mpsc::channel(REQUESTS_MAX);
    let (view, seen) = watch::channel(None);
    (SupervisorHandle { requests, view: seen }, asked, view)
}

impl SupervisorHandle {
    /// Wants the service to run and waits until it was spawned.
    pub(super) async fn start(&self, deadline: Instant) -> Result<(), DriverError> {
        let asked = self.ask(|answer| Request::Start { answer });
        match timeout_at(deadline, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(DriverError::TimedOut(format!(
                "not started by the deadline: {}",
                self.detail()
            ))),
        }
    }

    /// Wants it not to run and waits until nothing of it does.
    pub(super) async fn stop(
        &self,
        within: Duration,
        deadline: Instant,
    ) -> Result<(), DriverError> {
        // The kernel's time after KILL lies before the deadline where there is room for it.
        let latest = deadline.checked_sub(KILL_GRACE).unwrap_or(deadline);
        let term_until = (Instant::now() + within).min(latest);
        let asked = self.ask(|answer| Request::Stop { term_until, answer });
        let give_up = deadline.max(term_until + KILL_GRACE) + KILL_GRACE;
        match timeout_at(give_up, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(DriverError::TimedOut(format!(
                "not stopped by the deadline: {}",
                self.detail()
            ))),
        }
    }

    /// What it knows, once it has found out what there is.
    pub(super) async fn view(&self) -> Result<View, DriverError> {
        let mut view = self.view.clone();
        let known = view.wait_for(Option::is_some).await.map_err(|_| gone())?;
        known.clone().ok_or_else(gone)
    }

    async fn ask(&self, request: impl FnOnce(Answer) -> Request) -> Result<(), DriverError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    fn detail(&self) -> String {
        self.view
            .borrow()
            .as_ref()
            .map_or_else(|| "still looking".to_owned(), |view| view.detail.clone())
    }
}

fn gone() -> DriverError {
    DriverError::Permanent("its supervisor has ended; restart the agent".to_owned())
}
