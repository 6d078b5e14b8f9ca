//! The session with the coordinator: dial, say who we are, take orders, tell what happened; and again.
//!
//! Invariant: losing it loses nothing: the core goes on, and what it did is in the ledger when the next one begins.
//! Invariant: a coordinator whose epoch is over gets no session from us.

use std::{convert::Infallible, sync::Arc, time::Duration};

use proto::{
    MESSAGE_BYTES_MAX, PROTOCOL_MAX, PROTOCOL_MIN,
    tls::{self, DialError, IdentityDir},
    v1::{self, agent_service_client::AgentServiceClient},
};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    core::{CoreHandle, Report},
    grpc::{from_proto, to_proto},
    hands::Hands,
    ledger::{Ledger, Record},
    order::{Fence, Verb},
    retention::{self, Kept as MustStay},
    retry::Policy,
    sampler::Sampler,
    status::HostStatus,
    trace,
};

/// Messages up that wait for the connection.
const UP_QUEUED_MAX: usize = 64;
/// Where no more than so many have room, samples are dropped: what is said of orders goes first.
const UP_KEPT_FREE: usize = UP_QUEUED_MAX / 2;
/// Reports of the core that wait for the session.
const REPORTS_QUEUED_MAX: usize = 256;
/// How long the coordinator may take to welcome us.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a look at the host may hold up the news that a track has ended.
const HELD_MAX: Duration = Duration::from_secs(3);

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
    #[error("this host has a new certificate")]
    Renewed,
    #[error(
        "the certificate of {host} ended on {day}: {error}; to let it in again: ctl agent token create --host {host}, \
         then the line that it prints, here"
    )]
    Ended { host: String, day: String, error: DialError },
}

/// A session that is kept open until the next one has taken over, so that the host never counts as lost.
type Kept = (mpsc::Sender<v1::SessionRequest>, tonic::Streaming<v1::SessionResponse>);

/// See the module.
pub struct Session<H> {
    pub coordinator: String,
    pub identity: std::path::PathBuf,
    pub hands: Arc<H>,
    pub core: CoreHandle,
    /// Moves when another certificate is in use.
    pub renewed: watch::Receiver<()>,
    /// What the coordinator of this session said must stay; none while there is no session, or it has not said yet.
    pub kept: watch::Sender<Option<MustStay>>,
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
        let mut kept = None;
        loop {
            let mut up_since = None;
            let ended = Box::pin(self.once(&mut up_since, &mut kept)).await;
            self.kept.send_replace(None);
            let lost = match ended {
                Ok(never) => match never {},
                Err(Lost::GoingDown) => return,
                Err(Lost::Renewed) => {
                    tracing::info!(
                        coordinator = self.coordinator,
                        "a session with the new certificate begins"
                    );
                    continue;
                }
                Err(lost) => lost,
            };
            kept = None;
            // Only the time with a session up counts: one that is refused at once must not be dialled for ever fast.
            if let Some(up_since) = up_since {
                delays.worked_for(Instant::elapsed(&up_since));
            }
            let delay = delays.next_delay();
            tracing::warn!(coordinator = self.coordinator, why = %lost, ?delay, "no session");
            tokio::time::sleep(delay).await;
        }
    }

    async fn once(
        &self,
        up_since: &mut Option<Instant>,
        kept: &mut Option<Kept>,
    ) -> Result<Infallible, Lost> {
        let mut renewed = self.renewed.clone();
        renewed.mark_unchanged();
        // Read anew each time: a renewed certificate is taken up without a restart.
        let identity = IdentityDir::load(&self.identity)?;
        let host = identity.identity().name().to_owned();
        let config = Arc::new(tls::client_config(&identity)?);
        let channel = tls::connect(&self.coordinator, config).await;
        let channel = channel.map_err(|error| not_dialled(&identity, error))?;
        let mut client = AgentServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        // A certificate that was never shown counts from here on; one that was shown is as before.
        if let Err(status) = client.acknowledge(v1::AcknowledgeRequest {}).await
            && status.code() != tonic::Code::Unimplemented
        {
            return Err(Lost::Call(tls::explain(&status)));
        }
        let (up, requests) = mpsc::channel(UP_QUEUED_MAX);
        let (reports, reported) = mpsc::channel(REPORTS_QUEUED_MAX);
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
        *up_since = Some(Instant::now());
        let sampler = self.sampler(up.clone());
        Talk {
            session: self,
            host,
            up,
            _sampler: sampler,
            look: None,
            again: false,
            held: Vec::new(),
            held_until: None,
            prunes: JoinSet::new(),
            renewed,
        }
        .run(answers, reported, heartbeat, kept)
        .await
    }

    /// Asks the app and tells of it, for as long as the session is up.
    fn sampler(&self, up: mpsc::Sender<v1::SessionRequest>) -> Sampler {
        Sampler::start(self.hands.clone(), self.core.ledger(), move |samples| {
            let samples = v1::session_request::Message::Samples(to_proto::samples(samples));
            let message = v1::SessionRequest { message: Some(samples) };
            up.capacity() > UP_KEPT_FREE && up.try_send(message).is_ok()
        })
    }
}

/// A session that is up.
///
/// Looks at the host run beside it: an app that hangs must not keep an order from being taken.
struct Talk<'a, H> {
    session: &'a Session<H>,
    host: String,
    up: mpsc::Sender<v1::SessionRequest>,
    /// Ends with the session.
    _sampler: Sampler,
    /// The look that is under way, and whether another has to follow it.
    look: Option<JoinHandle<HostStatus>>,
    again: bool,
    /// Reports that wait for a look, so that whoever hears that a track has ended does not plan with how the host was
    /// before it; and until when they wait at the most.
    held: Vec<Report>,
    held_until: Option<Instant>,
    /// The prune that was asked for, and is under way.
    prunes: JoinSet<v1::Pruned>,
    renewed: watch::Receiver<()>,
}

impl<H: Hands> Talk<'_, H> {
    async fn run(
        mut self,
        mut answers: tonic::Streaming<v1::SessionResponse>,
        mut reported: mpsc::Receiver<Report>,
        heartbeat: Duration,
        kept: &mut Option<Kept>,
    ) -> Result<Infallible, Lost> {
        let mut look_at = Instant::now() + heartbeat;
        loop {
            tokio::select! {
                answer = answers.message() => {
                    let answer = answer.map_err(|status| Lost::Call(tls::explain(&status)))?;
                    self.take(answer.ok_or(Lost::Closed)?).await?;
                }
                report = reported.recv() => self.report(report.ok_or(Lost::GoingDown)?).await?,
                status = looked(&mut self.look) => {
                    self.look = None;
                    look_at = Instant::now() + heartbeat;
                    self.tell(&status).await?;
                    if std::mem::take(&mut self.again) {
                        self.begin_look();
                    } else {
                        self.release().await?;
                    }
                }
                () = sleep_until(look_at) => {
                    look_at = Instant::now() + heartbeat;
                    self.begin_look();
                }
                Some(pruned) = self.prunes.join_next() => {
                    let pruned = pruned.expect("a prune does not panic");
                    send(&self.up, v1::session_request::Message::Pruned(pruned)).await?;
                    self.begin_look();
                }
                () = held_too_long(self.held_until) => self.release().await?,
                () = taken_over(kept) => *kept = None,
                Ok(()) = self.renewed.changed() => {
                    *kept = Some((self.up, answers));
                    return Err(Lost::Renewed);
                }
            }
        }
    }

    async fn take(&mut self, answer: v1::SessionResponse) -> Result<(), Lost> {
        match answer.message {
            Some(v1::session_response::Message::Order(order)) => {
                match from_proto::order(order, &self.host) {
                    Ok(mut order) => {
                        order.taken = Some(trace::taken(&self.host, &order));
                        if self.session.core.order(order).await {
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
            Some(v1::session_response::Message::Look(_)) => {
                self.begin_look();
                Ok(())
            }
            Some(v1::session_response::Message::Keep(keep)) => {
                match self.must_stay(keep) {
                    Ok(kept) => _ = self.session.kept.send_replace(Some(kept)),
                    Err(why) => {
                        // What counted before may be over: nothing is pruned until it is told anew.
                        self.session.kept.send_replace(None);
                        tracing::warn!(why, "what must stay was told, and is not taken");
                    }
                }
                Ok(())
            }
            Some(v1::session_response::Message::Prune(prune)) => self.prune(prune).await,
            Some(v1::session_response::Message::Quarantine(told)) => {
                if let Err(why) = self.quarantine(told).await {
                    tracing::warn!(why, "what was left as bad was told, and is not taken");
                }
                Ok(())
            }
            Some(v1::session_response::Message::Welcome(_)) | None => {
                tracing::warn!("the coordinator sent what has no place here");
                Ok(())
            }
        }
    }

    /// What a coordinator says must stay, if it has a say here.
    fn must_stay(&self, keep: v1::Keep) -> Result<MustStay, String> {
        let kept = from_proto::keep(keep).map_err(|error| error.to_string())?;
        let ledger = self.session.core.ledger().borrow().clone();
        if kept.counts(ledger.fence()) {
            return Ok(kept);
        }
        Err(format!("epoch {} has no say here any more", kept.term.epoch))
    }

    /// Takes up what was left as bad, if its sender has a say here. What counted before still does where it is not taken.
    async fn quarantine(&self, told: v1::Quarantine) -> Result<(), String> {
        let told = from_proto::quarantine(told).map_err(|error| error.to_string())?;
        let ledger = self.session.core.ledger().borrow().clone();
        if !told.term.counts(ledger.fence()) {
            return Err(format!("epoch {} has no say here any more", told.term.epoch));
        }
        self.session.hands.quarantine(&told).await
    }

    /// Begins to prune; answers at once where that cannot be.
    async fn prune(&mut self, prune: v1::Prune) -> Result<(), Lost> {
        let id = prune.id;
        let ledger = self.session.core.ledger().borrow().clone();
        let at_work = ledger.open().map(|track| track.order().key.operation.clone());
        let asked = from_proto::prune(prune).map_err(|error| error.to_string());
        let asked = asked.and_then(|(keep, ask)| Ok((self.must_stay(keep)?, ask)));
        let why = match (asked, at_work) {
            (Err(why), _) => why,
            (Ok((_, ask)), Some(operation)) if !ask.dry_run => {
                format!("it is at work on {operation}; try again when that has ended")
            }
            (Ok(_), _) if !self.prunes.is_empty() => "it is being pruned already".to_owned(),
            (Ok((kept, ask)), _) => {
                let hands = self.session.hands.clone();
                let stays = kept.ask(&ledger);
                let ask =
                    retention::Ask { keep: stays.keep, now_unix_ms: stays.now_unix_ms, ..ask };
                self.prunes.spawn(async move {
                    let done = hands.prune(&ask).await;
                    if let (Ok(report), false) = (&done, ask.dry_run) {
                        retention::tell(report);
                    }
                    to_proto::pruned(id, done)
                });
                return Ok(());
            }
        };
        let refused = to_proto::pruned(id, Err(why));
        send(&self.up, v1::session_request::Message::Pruned(refused)).await
    }

    async fn report(&mut self, report: Report) -> Result<(), Lost> {
        let changes = changes_host(&report);
        if !changes && self.held.is_empty() {
            return self.send_report(&report).await;
        }
        if changes {
            self.begin_look();
            self.held_until.get_or_insert(Instant::now() + HELD_MAX);
        }
        self.held.push(report);
        Ok(())
    }

    /// One look at a time; what asks for one meanwhile gets one that begins after it asked.
    fn begin_look(&mut self) {
        if self.look.is_some() {
            self.again = true;
            return;
        }
        let hands = self.session.hands.clone();
        self.look = Some(tokio::spawn(async move { hands.status().await }));
    }

    async fn tell(&self, status: &HostStatus) -> Result<(), Lost> {
        let ledger = self.session.core.ledger().borrow().clone();
        let status = to_proto::host_status(status, &ledger, &self.host);
        send(&self.up, v1::session_request::Message::Status(status)).await
    }

    async fn release(&mut self) -> Result<(), Lost> {
        self.held_until = None;
        for report in std::mem::take(&mut self.held) {
            self.send_report(&report).await?;
        }
        Ok(())
    }

    async fn send_report(&self, report: &Report) -> Result<(), Lost> {
        for report in to_proto::report(report, &self.host) {
            send(&self.up, v1::session_request::Message::Report(report)).await?;
        }
        Ok(())
    }
}

/// Waits until the coordinator has ended the session before this one, as it does once it has this one. What came down
/// there meanwhile comes down here again.
async fn taken_over(kept: &mut Option<Kept>) {
    match kept {
        Some((_, answers)) => while let Ok(Some(_)) = answers.message().await {},
        None => std::future::pending().await,
    }
}

/// Why there is no connection; where the certificate has ended, what to do.
fn not_dialled(identity: &IdentityDir, error: DialError) -> Lost {
    let now = jiff::Timestamp::now();
    match jiff::Timestamp::from_millisecond(identity.not_after_unix_ms()) {
        Ok(end) if end <= now && matches!(error, DialError::Refused { .. }) => {
            let host = identity.identity().name().to_owned();
            Lost::Ended { host, day: end.strftime("%Y-%m-%d").to_string(), error }
        }
        Ok(_) | Err(_) => Lost::Dial(error),
    }
}

async fn looked(look: &mut Option<JoinHandle<HostStatus>>) -> HostStatus {
    match look {
        Some(look) => look.await.expect("a look does not panic"),
        None => std::future::pending().await,
    }
}

async fn held_too_long(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
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

/// Whether the host looks different now: a track has ended that changed what serves, or took a snapshot; or root has
/// taken the host, which the coordinator has to know before it sends anything more.
fn changes_host(report: &Report) -> bool {
    let Report::Facts(ledger, records) = report else { return false };
    let taken = |record: &Record| matches!(record, Record::Accepted(order) if order.overtakes());
    if records.iter().any(taken) {
        return true;
    }
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
        | Record::Dropped { .. }
        | Record::Trial { .. } => None,
    });
    let changes = |verb: Verb| verb.cuts() || verb == Verb::Snapshot;
    let mut tracks =
        ended.filter_map(|key| ledger.tracks().into_iter().find(|track| track.order().key == *key));
    tracks.any(|track| track.order().steps.iter().any(|step| changes(step.verb)))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proto::tls::{Ca, Identity, Role, Validity};

    use super::*;

    #[test]
    fn an_ended_certificate_is_told_with_the_way_back_in() {
        let ca = Ca::create("ace").unwrap();
        let named = Identity::new("ace", Role::Agent, "h1").unwrap();
        let now = SystemTime::now();
        let load = |until| {
            let dir = tempfile::tempdir().unwrap();
            let validity = Validity { from: now - Duration::from_secs(7200), until };
            ca.issue(&named, &[], validity).unwrap().save(dir.path()).unwrap();
            IdentityDir::load(dir.path()).unwrap()
        };
        let refused =
            || DialError::Refused { address: "c:1".to_owned(), why: "expired".to_owned() };
        let ended = load(now - Duration::from_secs(3600));
        let said = not_dialled(&ended, refused()).to_string();
        assert!(said.contains("ended on") && said.contains("token create --host h1"), "{said}");
        // Another trouble, or a certificate that holds, is told as it is.
        let away = DialError::Timeout { address: "c:1".to_owned() };
        assert!(matches!(not_dialled(&ended, away), Lost::Dial(_)));
        let holds = load(now + Duration::from_secs(3600));
        assert!(matches!(not_dialled(&holds, refused()), Lost::Dial(_)));
    }
}
