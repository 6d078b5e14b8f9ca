//! The session with the coordinator: dial, say who we are, take orders, tell what happened; and again.
//!
//! Invariant: losing it loses nothing: the core goes on, and what it did is in the ledger when the next one begins.
//! Invariant: a coordinator whose epoch is over gets no session from us.

use std::{sync::Arc, time::Duration};

use proto::{
    MESSAGE_BYTES_MAX, PROTOCOL_MAX, PROTOCOL_MIN,
    tls::{self, DialError, IdentityDir},
    v1::{self, agent_service_client::AgentServiceClient},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    core::{CoreHandle, Report},
    grpc::{from_proto, to_proto},
    hands::Hands,
    ledger::{Ledger, Record},
    order::{Fence, Verb},
    retry::Policy,
};

/// Messages up that wait for the connection.
const UP_QUEUED_MAX: usize = 64;
/// Reports of the core that wait for the session.
const REPORTS_QUEUED_MAX: usize = 256;
/// How long the coordinator may take to welcome us.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// A session that held this long was a good one: the next delay is short again.
const GOOD_AFTER: Duration = Duration::from_secs(5);
/// How long a look at the host may hold up the news that a track has ended.
const STATUS_WITHIN: Duration = Duration::from_secs(2);

/// Why there is no session now.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("the certificate cannot be used: {0}")]
    Identity(#[from] tls::TlsError),
    #[error("{0}")]
    Call(String),
    #[error("the coordinator did not welcome us in time")]
    NoWelcome,
    #[error("the coordinator speaks protocol {0}, this agent {PROTOCOL_MIN} to {PROTOCOL_MAX}")]
    Protocol(u32),
    #[error("the coordinator has no say here: {0}")]
    Fenced(String),
    #[error("the coordinator closed the session")]
    Closed,
    #[error("the agent is going down")]
    GoingDown,
}

/// See the module.
pub struct Session<H> {
    pub coordinator: String,
    pub identity: std::path::PathBuf,
    pub hands: Arc<H>,
    pub core: CoreHandle,
    /// Called when a session is up: systemd is told that the agent is ready.
    pub on_up: Box<dyn Fn() + Send + Sync>,
}

impl<H> std::fmt::Debug for Session<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("coordinator", &self.coordinator).finish_non_exhaustive()
    }
}

impl<H: Hands> Session<H> {
    /// Keeps a session up for ever.
    pub async fn run(self) {
        let mut delays = Policy::reconnect();
        loop {
            let begun = tokio::time::Instant::now();
            let lost = match Box::pin(self.once()).await {
                Ok(never) => match never {},
                Err(Lost::GoingDown) => return,
                Err(lost) => lost,
            };
            delays.worked_for(begun.elapsed());
            if begun.elapsed() > GOOD_AFTER {
                delays.reset();
            }
            let delay = delays.next_delay();
            tracing::warn!(coordinator = self.coordinator, why = %lost, ?delay, "no session");
            tokio::time::sleep(delay).await;
        }
    }

    async fn once(&self) -> Result<std::convert::Infallible, Lost> {
        // Read anew each time: a renewed certificate is taken up without a restart.
        let identity = IdentityDir::load(&self.identity)?;
        let host = identity.identity().name().to_owned();
        let config = Arc::new(tls::client_config(&identity)?);
        let channel = tls::connect(&self.coordinator, config).await?;
        let mut client = AgentServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (up, requests) = mpsc::channel(UP_QUEUED_MAX);
        let (reports, mut reported) = mpsc::channel(REPORTS_QUEUED_MAX);
        let hello = hello(&self.core.ledger().borrow());
        send(&up, hello).await?;
        let answers = client.session(ReceiverStream::new(requests)).await;
        let mut answers = answers.map_err(|status| Lost::Call(tls::explain(&status)))?.into_inner();
        let (term, heartbeat) = welcome(&mut answers).await?;
        // It was told our epoch in Hello and says so to its operators; it gets nothing else from us.
        let ledger = self
            .core
            .welcomed(term, reports)
            .await
            .ok_or(Lost::GoingDown)?
            .map_err(Lost::Fenced)?;
        let status = self.hands.status().await;
        let status = to_proto::host_status(&status, &ledger, &host);
        send(&up, v1::session_request::Message::Status(status)).await?;
        tracing::info!(coordinator = self.coordinator, "session up");
        (self.on_up)();
        let mut tell_at = tokio::time::Instant::now() + heartbeat;
        loop {
            tokio::select! {
                answer = answers.message() => {
                    let answer = answer.map_err(|status| Lost::Call(tls::explain(&status)))?;
                    self.take(answer.ok_or(Lost::Closed)?, &host, &up).await?;
                }
                report = reported.recv() => {
                    let report = report.ok_or(Lost::GoingDown)?;
                    // Whoever hears that a track has ended must not plan with how the host was before it.
                    if changes_host(&report) {
                        match tokio::time::timeout(STATUS_WITHIN, self.status(&host)).await {
                            Ok(status) => send(&up, status).await?,
                            Err(_) => tell_at = tokio::time::Instant::now(),
                        }
                    }
                    for report in to_proto::report(&report, &host) {
                        send(&up, v1::session_request::Message::Report(report)).await?;
                    }
                }
                () = tokio::time::sleep_until(tell_at) => {
                    tell_at = tokio::time::Instant::now() + heartbeat;
                    send(&up, self.status(&host).await).await?;
                }
            }
        }
    }

    async fn status(&self, host: &str) -> v1::session_request::Message {
        let status = self.hands.status().await;
        let ledger = self.core.ledger().borrow().clone();
        v1::session_request::Message::Status(to_proto::host_status(&status, &ledger, host))
    }

    async fn take(
        &self,
        answer: v1::SessionResponse,
        host: &str,
        up: &mpsc::Sender<v1::SessionRequest>,
    ) -> Result<(), Lost> {
        match answer.message {
            Some(v1::session_response::Message::Order(order)) => {
                match from_proto::order(order, host) {
                    Ok(order) => {
                        if self.core.order(order).await {
                            Ok(())
                        } else {
                            Err(Lost::GoingDown)
                        }
                    }
                    // Not begun, and not answered: the coordinator counts it as unknown when its time is up.
                    Err(why) => {
                        tracing::error!(%why, "an order that this agent does not understand");
                        Ok(())
                    }
                }
            }
            Some(v1::session_response::Message::Look(_)) => send(up, self.status(host).await).await,
            Some(v1::session_response::Message::Welcome(_)) | None => {
                tracing::warn!("the coordinator sent what has no place here");
                Ok(())
            }
        }
    }
}

fn hello(ledger: &Ledger) -> v1::session_request::Message {
    let fence = ledger.fence();
    v1::session_request::Message::Hello(v1::Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: crate::exec::proc::boot_id().unwrap_or_default(),
        highest_epoch: fence
            .map(|fence| v1::Epoch { counter: fence.epoch, instance: fence.instance.clone() }),
    })
}

/// The coordinator's term, and how often it wants to hear of us.
async fn welcome(
    answers: &mut tonic::Streaming<v1::SessionResponse>,
) -> Result<(Fence, Duration), Lost> {
    let first = tokio::time::timeout(WELCOME_TIMEOUT, answers.message())
        .await
        .map_err(|_| Lost::NoWelcome)?;
    let first = first.map_err(|status| Lost::Call(tls::explain(&status)))?.ok_or(Lost::Closed)?;
    let Some(v1::session_response::Message::Welcome(welcome)) = first.message else {
        return Err(Lost::NoWelcome);
    };
    if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&welcome.protocol) {
        return Err(Lost::Protocol(welcome.protocol));
    }
    let epoch = welcome.epoch.ok_or(Lost::NoWelcome)?;
    let term = Fence { epoch: epoch.counter, instance: epoch.instance, sequence: 0 };
    Ok((term, Duration::from_millis(welcome.heartbeat_ms.clamp(500, 60_000))))
}

async fn send(
    up: &mpsc::Sender<v1::SessionRequest>,
    message: v1::session_request::Message,
) -> Result<(), Lost> {
    let message = v1::SessionRequest { message: Some(message) };
    up.send(message).await.map_err(|_| Lost::Closed)
}

/// Whether the host looks different now: a track has ended that changed what serves, or took a snapshot.
fn changes_host(report: &Report) -> bool {
    let Report::Facts(ledger, records) = report else { return false };
    let ended = records.iter().filter_map(|record| match record {
        Record::Ended { key, .. } => Some(key),
        Record::Fenced(_)
        | Record::Accepted(_)
        | Record::StepBegan { .. }
        | Record::Observed { .. }
        | Record::StepEnded { .. }
        | Record::TurnedBack { .. }
        | Record::UndoBegan { .. }
        | Record::UndoEnded { .. }
        | Record::Dropped { .. } => None,
    });
    let changes = |verb: Verb| verb.cuts() || verb == Verb::Snapshot;
    let mut tracks =
        ended.filter_map(|key| ledger.tracks().into_iter().find(|track| track.order().key == *key));
    tracks.any(|track| track.order().steps.iter().any(|step| changes(step.verb)))
}
