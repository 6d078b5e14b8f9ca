//! Following an operation to its end, through lost connections and restarts of the coordinator.
//!
//! ```text
//! pump: GetOperation ─▶ WatchOperation(next index) ─▶ events ─▶ end of stream ─▶ GetOperation ─▶ ended
//!          ▲                     └─ connection lost: say so, pace, again ─┘ │
//!          └────────────────────────────────────── not ended yet ──────────┘
//! follow: pump, Ctrl-C, timeout and ticks, whichever comes first
//! ```
//!
//! Invariant: each event is shown once, in order, whatever happens to the connection.
//! Invariant: an operation counts as ended when the coordinator says so, never because a stream ended.

use std::{future::Future, pin::pin, time::Duration};

use proto::{status, v1};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tonic::{Code, Status};

use crate::{
    error::{CtlError, explain},
    exit::dial_error,
    session::Client,
};

/// After a loss: as often as this, for so long; then slower. A coordinator that was killed is back within seconds.
const RETRY_FAST: Duration = Duration::from_millis(200);
const RETRY_FAST_FOR: Duration = Duration::from_secs(10);
const RETRY_SLOW: Duration = Duration::from_secs(2);
/// How often a watcher may draw.
const TICK: Duration = Duration::from_millis(120);
/// Events that wait to be shown; the stream's own window bounds the rest.
const SIGNALS: usize = 64;

/// Who is told as it goes on.
pub trait Watcher: Send {
    /// Once, before everything else but a loss.
    fn opened(&mut self, operation: &v1::Operation);
    /// In order, each index once.
    fn event(&mut self, event: &v1::WatchOperationResponse);
    /// Said once per loss.
    fn lost(&mut self, why: &str);
    fn back(&mut self);
    /// Several times a second.
    fn tick(&mut self);
}

/// How long to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// No longer than this.
    For(Duration),
    /// This, and as long as its stages are to be held.
    Beside(Duration),
}

impl Patience {
    fn with(self, operation: &v1::Operation) -> Duration {
        let stages = operation.plan.iter().flat_map(|plan| &plan.stages);
        let holds = Duration::from_millis(stages.map(|stage| stage.soak_ms).sum());
        match self {
            Self::For(time) => time,
            Self::Beside(time) => time.saturating_add(holds),
        }
    }
}

/// How the following ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Followed {
    Ended(Box<v1::Operation>),
    /// The person stopped watching; the operation goes on.
    Detached,
    TimedOut,
}

/// Follows `operation` from its first event. `interrupt` is what makes a person stop watching.
///
/// # Errors
/// [`CtlError::Call`] for what trying again cannot mend, such as an unknown operation.
pub async fn follow(
    client: Client,
    operation: &str,
    patience: Patience,
    interrupt: impl Future<Output = ()>,
    watcher: &mut dyn Watcher,
) -> Result<Followed, CtlError> {
    let (sender, mut signals) = mpsc::channel(SIGNALS);
    let mut pump =
        pin!(Pump { client, operation, sender, next: 0, opened: false, lost: None }.run());
    let mut interrupt = pin!(interrupt);
    let (Patience::For(timeout) | Patience::Beside(timeout)) = patience;
    let (began, mut deadline) = (Instant::now(), pin!(sleep(timeout)));
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = &mut interrupt => return Ok(Followed::Detached),
            () = &mut deadline => return Ok(Followed::TimedOut),
            // Before the events, so that a burst of them does not stop the picture.
            _ = ticks.tick() => watcher.tick(),
            Some(signal) = signals.recv() => {
                if let Signal::Opened(operation) = &signal {
                    deadline.as_mut().reset(began + patience.with(operation));
                }
                signal.tell(watcher);
            }
            ended = &mut pump => {
                while let Ok(signal) = signals.try_recv() {
                    signal.tell(watcher);
                }
                return ended.map(|operation| Followed::Ended(Box::new(operation)));
            }
        }
    }
}

/// Whether it is over.
pub fn has_ended(operation: &v1::Operation) -> bool {
    match v1::OperationResult::try_from(operation.result) {
        Ok(v1::OperationResult::Running | v1::OperationResult::Paused) => false,
        Ok(
            v1::OperationResult::Unspecified
            | v1::OperationResult::Verified
            | v1::OperationResult::Refused
            | v1::OperationResult::PutBack
            | v1::OperationResult::Mixed
            | v1::OperationResult::Unverified,
        )
        | Err(_) => true,
    }
}

/// Whether a call that failed may go well when it is made again: the way is broken, not the answer no.
pub fn is_passing(error: &Status) -> bool {
    if dial_error(error).is_some() || std::error::Error::source(error).is_some() {
        return true;
    }
    let passing = match error.code() {
        Code::Unavailable
        | Code::Unknown
        | Code::Internal
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::ResourceExhausted => true,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    };
    passing && status::read(error).is_none()
}

/// How long to wait before the next try.
pub fn pace(lost_for: Duration) -> Duration {
    if lost_for < RETRY_FAST_FOR { RETRY_FAST } else { RETRY_SLOW }
}

/// For how long a call is tried again that nobody watches.
pub const RETRY_CALLS_FOR: Duration = RETRY_FAST_FOR;

enum Signal {
    Opened(Box<v1::Operation>),
    Event(Box<v1::WatchOperationResponse>),
    Lost(String),
    Back,
}

impl Signal {
    fn tell(&self, watcher: &mut dyn Watcher) {
        match self {
            Self::Opened(operation) => watcher.opened(operation),
            Self::Event(event) => watcher.event(event),
            Self::Lost(why) => watcher.lost(why),
            Self::Back => watcher.back(),
        }
    }
}

/// Brings events from the coordinator for as long as it takes.
struct Pump<'a> {
    client: Client,
    operation: &'a str,
    sender: mpsc::Sender<Signal>,
    /// The index of the next event that was not shown yet.
    next: u64,
    opened: bool,
    lost: Option<Instant>,
}

impl Pump<'_> {
    async fn run(mut self) -> Result<v1::Operation, CtlError> {
        loop {
            match self.once().await {
                Ok(Some(operation)) => return Ok(operation),
                // The stream ended before the operation: a coordinator that is about to stop.
                Ok(None) => {}
                Err(status) if is_passing(&status) => {
                    if self.lost.is_none() {
                        self.lost = Some(Instant::now());
                        self.send(Signal::Lost(explain(&status))).await;
                    }
                }
                Err(status) => return Err(CtlError::call("watch the operation")(status)),
            }
            sleep(pace(self.lost.map_or(Duration::ZERO, |since| since.elapsed()))).await;
        }
    }

    /// One connection's worth of events; the operation, if it has ended.
    async fn once(&mut self) -> Result<Option<v1::Operation>, Status> {
        if !self.opened {
            let operation = self.get().await?;
            self.reached().await;
            self.opened = true;
            self.send(Signal::Opened(Box::new(operation))).await;
        }
        let (operation, from_index) = (self.operation.to_owned(), self.next);
        let request = v1::WatchOperationRequest { operation, from_index };
        let mut events = self.client.watch_operation(request).await?.into_inner();
        self.reached().await;
        while let Some(event) = events.message().await? {
            if event.index >= self.next {
                self.next = event.index + 1;
                self.send(Signal::Event(Box::new(event))).await;
            }
        }
        let operation = self.get().await?;
        Ok(has_ended(&operation).then_some(operation))
    }

    async fn get(&mut self) -> Result<v1::Operation, Status> {
        let request = v1::GetOperationRequest { operation: self.operation.to_owned() };
        let response = self.client.get_operation(request).await?.into_inner();
        response.operation.ok_or_else(|| Status::data_loss("the answer holds no operation"))
    }

    async fn reached(&mut self) {
        if self.lost.take().is_some() {
            self.send(Signal::Back).await;
        }
    }

    async fn send(&self, signal: Signal) {
        // Where nobody listens any more, the pump is dropped at its next await.
        self.sender.send(signal).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use proto::status::{StatusKind, status};

    use super::*;

    #[test]
    fn only_a_broken_way_is_tried_again() {
        assert!(is_passing(&Status::unavailable("")));
        assert!(is_passing(&Status::unknown("h2 protocol error")));
        assert!(!is_passing(&Status::not_found("")));
        assert!(!is_passing(&Status::permission_denied("")));
        for kind in StatusKind::ALL {
            assert!(!is_passing(&status(kind, Code::Unavailable, "no", &[], "")), "{kind:?}");
        }
    }

    #[test]
    fn fast_at_first_then_slower() {
        assert_eq!(pace(Duration::ZERO), RETRY_FAST);
        assert_eq!(pace(Duration::from_secs(9)), RETRY_FAST);
        assert_eq!(pace(Duration::from_secs(11)), RETRY_SLOW);
    }
}
