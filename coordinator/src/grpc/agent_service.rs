//! One session per agent: its word up, orders down.
//!
//! Invariant: which host it is comes from the certificate; what a message says of it is not believed.

use std::{sync::Arc, time::Duration};

use engine::{FleetName, FleetState, HostName, Input, Timestamp};
use proto::{PROTOCOL_MAX, PROTOCOL_MIN, tls::PeerIdentity, v1};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{from_proto, samples, to_proto};
use crate::{
    fleets::{Fleets, FleetsError},
    host::{Hello, HostStatus, wall},
    identities::{Cause, Standing},
    measure::Samples,
    operations::Operations,
    registrar::{Registrar, standing_words},
    roles,
    sessions::{Down, Generation, Sessions},
};

/// How long an agent may take to say who it is after it opened its session.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to look at its host after that: its checks have their own time.
const STATUS_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an agent tells how its host is when nothing has changed.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// Messages down that wait for one agent's connection; orders before that wait in its session's queue.
const DOWN_QUEUED_MAX: usize = 8;

/// See the module.
#[derive(Clone, Debug)]
pub struct AgentService {
    pub sessions: Arc<Sessions>,
    pub fleets: Arc<Fleets>,
    pub operations: Arc<Operations>,
    pub registrar: Arc<Registrar>,
    pub samples: Arc<Samples>,
}

type Responses = ReceiverStream<Result<v1::SessionResponse, Status>>;

#[tonic::async_trait]
impl v1::agent_service_server::AgentService for AgentService {
    type SessionStream = Responses;

    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        let from = roles::connection(&request)?.address().ip();
        let v1::JoinRequest { host, token, csr_der } = request.into_inner();
        let handed = self.registrar.join(&host, &token, &csr_der, from).await?;
        Ok(Response::new(v1::JoinResponse {
            certificate_pem: handed.certificate_pem,
            ca_pem: handed.ca_pem,
            fleet: handed.fleet.to_string(),
        }))
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        let host = roles::agent(&request)?;
        self.registrar.acknowledge(&host, roles::peer(&request)?).await?;
        Ok(Response::new(v1::AcknowledgeResponse {}))
    }

    async fn renew(
        &self,
        request: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::RenewResponse>, Status> {
        let host = roles::agent(&request)?;
        let peer = roles::peer(&request)?.clone();
        let handed = self.registrar.renew(&host, &peer, &request.into_inner().csr_der).await?;
        let (certificate_pem, ca_pem) = (handed.certificate_pem, handed.ca_pem);
        Ok(Response::new(v1::RenewResponse { certificate_pem, ca_pem }))
    }

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let host = roles::agent(&request)?;
        let peer = roles::peer(&request)?.clone();
        let Some(fleet) = self.fleets.of_host(&host).await else {
            tracing::warn!(%host, "an agent was refused: its host is in no fleet file that was applied");
            let why = format!(
                "host {host} is in no fleet of this coordinator; add it to the fleet file and `ctl apply`"
            );
            return Err(Status::permission_denied(why));
        };
        let mut up = request.into_inner();
        let hello = first(&mut up).await?;
        if hello.protocol_min > PROTOCOL_MAX || hello.protocol_max < PROTOCOL_MIN {
            let (min, max) = (hello.protocol_min, hello.protocol_max);
            tracing::warn!(%host, min, max, "an agent was refused: it speaks no protocol of ours");
            return Err(Status::failed_precondition(format!(
                "the agent speaks protocol {min} to {max}, this coordinator {PROTOCOL_MIN} to {PROTOCOL_MAX}"
            )));
        }
        let (down, responses) = mpsc::channel(DOWN_QUEUED_MAX);
        let welcome = v1::Welcome {
            protocol: PROTOCOL_MAX,
            epoch: Some(to_proto::epoch(self.sessions.epoch())),
            heartbeat_ms: u64::try_from(HEARTBEAT.as_millis()).unwrap_or(u64::MAX),
        };
        let welcome = v1::session_response::Message::Welcome(welcome);
        if down.send(Ok(v1::SessionResponse { message: Some(welcome) })).await.is_err() {
            return Err(Status::cancelled("the agent is gone"));
        }
        let newcomer = Newcomer { service: self.clone(), host, fleet, hello, peer };
        tokio::spawn(newcomer.run(up, down));
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

impl AgentService {
    /// Puts on record what was not yet there: snapshots, and what root did on the host. Before the status counts: what
    /// was planned before must not be sent any more once the host's word on its fence lets it. Answers the status in the
    /// fleet's names.
    async fn seen(
        &self,
        fleet: &FleetName,
        host: &HostName,
        status: HostStatus,
    ) -> Result<HostStatus, Status> {
        let named = |state: &FleetState| {
            let mut named = status.clone();
            named.join_names(state);
            named
        };
        let look = |state: &FleetState| {
            let named = named(state);
            named.unseen(state, host).is_empty().then_some(named)
        };
        if let Some(Some(nothing_new)) = self.fleets.read(fleet, look).await {
            return Ok(nothing_new);
        }
        let mut told = None;
        let record = |state: &FleetState| {
            let named = told.insert(named(state));
            Ok::<_, FleetsError>(named.unseen(state, host))
        };
        self.fleets.change(fleet, record).await?;
        // Runners look at the record in each round; this is one.
        self.operations.tell(fleet, Input::Tick).await;
        Ok(told.unwrap_or(status))
    }
}

/// An agent that was welcomed and has not yet told what its ledger holds.
struct Newcomer {
    service: AgentService,
    host: HostName,
    fleet: FleetName,
    hello: Hello,
    peer: PeerIdentity,
}

impl Newcomer {
    async fn run(
        self,
        mut up: Streaming<v1::SessionRequest>,
        down: mpsc::Sender<Result<v1::SessionResponse, Status>>,
    ) {
        let Self { service, host, fleet, hello, peer } = self;
        let status = match status(&mut up).await {
            Ok(status) => status,
            Err(why) => {
                tracing::warn!(%host, why = why.message(), "an agent did not tell how its host is");
                // It may be gone: then nobody needs to be told.
                down.send(Err(why)).await.ok();
                return;
            }
        };
        tracing::info!(%host, %fleet, version = hello.agent_version, "agent connected");
        let status = match service.seen(&fleet, &host, status).await {
            Ok(status) => status,
            Err(why) => {
                tracing::error!(%host, why = why.message(), "what it told could not be put on record");
                down.send(Err(why)).await.ok();
                return;
            }
        };
        let ends = Timestamp(peer.not_after_unix_ms);
        let (generation, orders) = service.sessions.open(&host, hello, status, ends);
        Session { service, host, fleet, generation, peer }.run(up, orders, down).await;
    }
}

struct Session {
    service: AgentService,
    host: HostName,
    fleet: FleetName,
    generation: Generation,
    peer: PeerIdentity,
}

impl Session {
    async fn run(
        self,
        mut up: Streaming<v1::SessionRequest>,
        mut orders: mpsc::Receiver<Down>,
        down: mpsc::Sender<Result<v1::SessionResponse, Status>>,
    ) {
        let Self { service, host, fleet, generation, .. } = &self;
        let mut identities = service.registrar.identities.changed();
        service.operations.back(fleet, host).await;
        let why = loop {
            if let Some(why) = self.shut_out() {
                let status = Status::permission_denied(why.clone());
                // It may be gone: then nobody needs to be told.
                down.try_send(Err(status)).ok();
                break why;
            }
            tokio::select! {
                // Its sender lives in the record that the service holds.
                _ = identities.changed() => {}
                order = orders.recv() => match order {
                    Some(order) => {
                        let message = to_proto::down(&order);
                        if down.send(Ok(v1::SessionResponse { message: Some(message) })).await.is_err() {
                            break "the agent no longer listens".to_owned();
                        }
                    }
                    None => break "a newer session of the same agent took over".to_owned(),
                },
                message = up.next() => match message {
                    Some(Ok(message)) => if let Err(why) = self.take(message).await {
                        break why;
                    },
                    Some(Err(status)) => break status.message().to_owned(),
                    None => break "the agent closed it".to_owned(),
                },
            }
        };
        if service.sessions.close(host, *generation) {
            tracing::info!(%host, why, "agent lost");
            service.operations.tell(fleet, Input::AgentLost { host: host.clone() }).await;
        }
    }

    /// Why this session is cut, where its certificate no longer counts. A host that has renewed it takes up a new
    /// session by itself.
    fn shut_out(&self) -> Option<String> {
        match self.service.registrar.identities.standing(&self.host, &self.peer) {
            Standing::Good | Standing::Replaced { by: Cause::Renewal, .. } => None,
            refused @ (Standing::Pending
            | Standing::Replaced { by: Cause::Token, .. }
            | Standing::Dropped
            | Standing::Revoked { .. }
            | Standing::ByHand) => Some(standing_words(&self.host, &refused)),
        }
    }

    async fn take(&self, message: v1::SessionRequest) -> Result<(), String> {
        use v1::session_request::Message;
        let Self { service, host, fleet, generation, .. } = self;
        match message.message {
            Some(Message::Report(report)) => {
                // Refused because our term is over: that says nothing of the host, and everything of us.
                let seen = from_proto::refused_for(&report);
                if service.sessions.fence_if_outranked(host, seen.as_ref()) {
                    return Ok(());
                }
                let (operation, input) =
                    from_proto::report(report, host).map_err(|error| error.to_string())?;
                match service
                    .operations
                    .runner(operation.as_str())
                    .filter(|runner| runner.fleet() == fleet)
                {
                    Some(runner) => runner.tell(input).await,
                    None => {
                        tracing::debug!(%host, %operation, "a report on an operation that is over for good")
                    }
                }
                Ok(())
            }
            Some(Message::Status(status)) => {
                let status = from_proto::host_status(status).map_err(|error| error.to_string())?;
                if service.sessions.generation(host) == Some(*generation) {
                    let status = service
                        .seen(fleet, host, status)
                        .await
                        .map_err(|status| status.message().to_owned())?;
                    service.sessions.update(host, *generation, status);
                }
                Ok(())
            }
            Some(Message::Pruned(pruned)) => {
                let (id, pruned) = from_proto::pruned(pruned).map_err(|error| error.to_string())?;
                service.sessions.pruned(host, *generation, id, pruned);
                Ok(())
            }
            Some(Message::Samples(told)) => {
                // Of the past, from a session that another has taken the place of.
                if service.sessions.generation(host) != Some(*generation) {
                    return Ok(());
                }
                match samples::told(told, wall()) {
                    Ok(told) => told.into_iter().for_each(|told| service.samples.take(host, told)),
                    Err(why) => service.samples.refused(host, &why),
                }
                Ok(())
            }
            Some(Message::Hello(_)) => Err("a second Hello in one session".to_owned()),
            None => Err("a message without content, or of a newer protocol".to_owned()),
        }
    }
}

async fn first(up: &mut Streaming<v1::SessionRequest>) -> Result<Hello, Status> {
    use v1::session_request::Message;
    let message = tokio::time::timeout(HELLO_TIMEOUT, up.next()).await;
    let message = message.map_err(|_| Status::deadline_exceeded("no Hello came"))?;
    match message.ok_or_else(|| Status::cancelled("the agent is gone"))??.message {
        Some(Message::Hello(hello)) => Ok(from_proto::hello(hello)),
        Some(
            Message::Report(_) | Message::Status(_) | Message::Pruned(_) | Message::Samples(_),
        )
        | None => Err(Status::invalid_argument("the first message of a session is Hello")),
    }
}

async fn status(up: &mut Streaming<v1::SessionRequest>) -> Result<HostStatus, Status> {
    use v1::session_request::Message;
    let message = tokio::time::timeout(STATUS_TIMEOUT, up.next()).await;
    let message = message.map_err(|_| Status::deadline_exceeded("no HostStatus came"))?;
    match message.ok_or_else(|| Status::cancelled("the agent is gone"))??.message {
        Some(Message::Status(status)) => Ok(from_proto::host_status(status)?),
        Some(Message::Report(_) | Message::Hello(_) | Message::Pruned(_) | Message::Samples(_))
        | None => Err(Status::invalid_argument("the second message of a session is HostStatus")),
    }
}
