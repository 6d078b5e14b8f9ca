//! A coordinator that says what a test tells it to, behind the real door: mutual TLS on loopback.
//!
//! Killing it takes its runtime away, and with it every connection, as SIGKILL would.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use proto::{
    tls::{Ca, Identity, IdentityDir, Role, Validity},
    v1::{
        self,
        operator_service_server::{OperatorService, OperatorServiceServer},
    },
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status};

use crate::context::Context;

/// What it says, and what it was told.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    pub(super) plan: v1::Plan,
    pub(super) fleet: v1::GetFleetResponse,
    pub(super) releases: Vec<v1::Release>,
    pub(super) doctor: v1::DoctorResponse,
    /// How every operation ends.
    pub(super) operation: v1::Operation,
    pub(super) events: Vec<v1::WatchOperationResponse>,
    /// The stream stays open, and silent, before this event.
    pub(super) hold_at: Option<u64>,
    /// Each start answers with these first, after it has begun.
    pub(super) start_refusals: Vec<Status>,
    pub(super) plan_refusal: Option<Status>,
    /// Idempotency keys that were sent.
    pub(super) starts: Vec<String>,
    pub(super) planned: Vec<v1::CreatePlanRequest>,
    pub(super) applied: Vec<v1::FleetControl>,
    pub(super) aborts: Vec<i32>,
    /// How hosts answer a prune, whether dry or not.
    pub(super) pruned: v1::PruneSnapshotsResponse,
    pub(super) prunes: Vec<v1::PruneSnapshotsRequest>,
    pub(super) proposals: Vec<v1::Proposal>,
    pub(super) promoted: Vec<v1::PromoteOperationRequest>,
    /// The operation, and how the traffic is divided, after a promotion or an abort.
    pub(super) moved: Option<(v1::Operation, v1::TrafficView)>,
    pub(super) approved: Vec<v1::ApproveOperationRequest>,
    pub(super) sources: Vec<v1::SourceTried>,
}

/// The coordinator, which can be killed and started again at the same address.
#[derive(Debug)]
pub(super) struct Fake {
    script: Arc<Mutex<Script>>,
    dir: tempfile::TempDir,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Fake {
    pub(super) fn start(script: Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create("test").unwrap();
        for (role, name) in [(Role::Coordinator, "coordinator"), (Role::Operator, "mira")] {
            issue(&ca, role, name, &dir.path().join(name));
        }
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut fake = Self { script: Arc::new(Mutex::new(script)), dir, address, runtime: None };
        fake.restart();
        fake
    }

    pub(super) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// At the same port as before.
    pub(super) fn restart(&mut self) {
        let own = IdentityDir::load(&self.dir.path().join("coordinator")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        // The old sockets may take a moment to go.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let listener = loop {
            let within = runtime.enter();
            let bound = listen(self.address);
            drop(within);
            match bound {
                Ok(listener) => break listener,
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
            }
            std::thread::yield_now();
        };
        self.address = listener.local_addr().unwrap();
        let config = Arc::new(proto::tls::server_config(&own).unwrap());
        let service = OperatorServiceServer::new(Service(Arc::clone(&self.script)));
        runtime.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(connections(listener, config))
                .await
                .unwrap();
        });
        self.runtime = Some(runtime);
    }

    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    pub(super) fn context(&self) -> Context {
        Context {
            name: "test".to_owned(),
            coordinator: format!("localhost:{}", self.address.port()),
            identity: self.dir.path().join("mira"),
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.kill();
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(16)
}

/// One handshake after the other: nobody in these tests is slow.
fn connections(
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
    let acceptor = TlsAcceptor::from(config);
    TcpListenerStream::new(listener).then(move |socket| {
        let acceptor = acceptor.clone();
        async move {
            let socket = socket?;
            socket.set_nodelay(true)?;
            acceptor.accept(socket).await
        }
    })
}

pub(super) fn issue(ca: &Ca, role: Role, name: &str, dir: &Path) {
    let identity = Identity::new(ca.domain(), role, name).unwrap();
    let validity = Validity::lasting(Duration::from_secs(3600));
    ca.issue(&identity, &["localhost".to_owned()], validity).unwrap().save(dir).unwrap();
}

struct Service(Arc<Mutex<Script>>);

type Events = Pin<Box<dyn Stream<Item = Result<v1::WatchOperationResponse, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

impl Service {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    /// A canary was moved as a person wanted.
    fn goes_on(&self) {
        let mut script = self.script();
        if let Some((operation, traffic)) = script.moved.clone() {
            (script.operation, script.fleet.traffic) = (operation, Some(traffic));
        }
    }

    fn operation(&self) -> Option<v1::Operation> {
        Some(self.script().operation.clone())
    }
}

#[tonic::async_trait]
impl OperatorService for Service {
    type WatchOperationStream = Events;

    async fn apply_fleet(
        &self,
        request: Request<v1::ApplyFleetRequest>,
    ) -> Answer<v1::ApplyFleetResponse> {
        let request = request.into_inner();
        self.script().applied.extend(request.control);
        let changes = vec!["host web-2 is new".to_owned()];
        Ok(Response::new(v1::ApplyFleetResponse { changes, applied: !request.dry_run }))
    }

    async fn get_fleet(&self, _: Request<v1::GetFleetRequest>) -> Answer<v1::GetFleetResponse> {
        Ok(Response::new(self.script().fleet.clone()))
    }

    async fn list_releases(
        &self,
        _: Request<v1::ListReleasesRequest>,
    ) -> Answer<v1::ListReleasesResponse> {
        Ok(Response::new(v1::ListReleasesResponse {
            fleet: "prod".to_owned(),
            releases: self.script().releases.clone(),
            ..v1::ListReleasesResponse::default()
        }))
    }

    async fn create_release(
        &self,
        _: Request<v1::CreateReleaseRequest>,
    ) -> Answer<v1::CreateReleaseResponse> {
        Ok(Response::new(v1::CreateReleaseResponse { created: true }))
    }

    async fn diff_releases(
        &self,
        _: Request<v1::DiffReleasesRequest>,
    ) -> Answer<v1::DiffReleasesResponse> {
        Ok(Response::new(v1::DiffReleasesResponse::default()))
    }

    async fn mark_release(
        &self,
        _: Request<v1::MarkReleaseRequest>,
    ) -> Answer<v1::MarkReleaseResponse> {
        Ok(Response::new(v1::MarkReleaseResponse {}))
    }

    async fn set_freeze(
        &self,
        request: Request<v1::SetFreezeRequest>,
    ) -> Answer<v1::SetFreezeResponse> {
        let request = request.into_inner();
        let freeze = v1::Freeze {
            frozen: request.frozen,
            reason: request.reason,
            by: "mira".to_owned(),
            since_unix_ms: 0,
        };
        Ok(Response::new(v1::SetFreezeResponse { freeze: Some(freeze) }))
    }

    async fn list_agents(
        &self,
        _: Request<v1::ListAgentsRequest>,
    ) -> Answer<v1::ListAgentsResponse> {
        Ok(Response::new(v1::ListAgentsResponse::default()))
    }

    async fn doctor(&self, _: Request<v1::DoctorRequest>) -> Answer<v1::DoctorResponse> {
        Ok(Response::new(self.script().doctor.clone()))
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Answer<v1::CreateJoinTokenResponse> {
        let v1::CreateJoinTokenRequest { host, ttl_ms } = request.into_inner();
        Ok(Response::new(v1::CreateJoinTokenResponse {
            host,
            fleet: "prod".to_owned(),
            token: "lgj_5f".to_owned(),
            expires_unix_ms: i64::try_from(ttl_ms).unwrap(),
            ca_hash: format!("sha256:{}", "ab".repeat(32)),
            policy_hash: "cd".repeat(32),
        }))
    }

    async fn revoke_agent(
        &self,
        request: Request<v1::RevokeAgentRequest>,
    ) -> Answer<v1::RevokeAgentResponse> {
        assert!(!request.into_inner().reason.is_empty());
        Ok(Response::new(v1::RevokeAgentResponse { was_connected: true }))
    }

    async fn acknowledge_host(
        &self,
        _: Request<v1::AcknowledgeHostRequest>,
    ) -> Answer<v1::AcknowledgeHostResponse> {
        Ok(Response::new(v1::AcknowledgeHostResponse::default()))
    }

    async fn create_plan(
        &self,
        request: Request<v1::CreatePlanRequest>,
    ) -> Answer<v1::CreatePlanResponse> {
        let mut script = self.script();
        script.planned.push(request.into_inner());
        match &script.plan_refusal {
            Some(status) => Err(status.clone()),
            None => Ok(Response::new(v1::CreatePlanResponse { plan: Some(script.plan.clone()) })),
        }
    }

    async fn start_operation(
        &self,
        request: Request<v1::StartOperationRequest>,
    ) -> Answer<v1::StartOperationResponse> {
        let mut script = self.script();
        script.starts.push(request.into_inner().idempotency_key);
        match script.start_refusals.pop() {
            Some(status) => Err(status),
            None => Ok(Response::new(v1::StartOperationResponse {
                operation: script.operation.id.clone(),
            })),
        }
    }

    async fn get_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Answer<v1::GetOperationResponse> {
        let operation = self.operation();
        if operation.as_ref().is_none_or(|known| known.id != request.get_ref().operation) {
            return Err(Status::not_found("operation is not known"));
        }
        Ok(Response::new(v1::GetOperationResponse { operation }))
    }

    async fn list_operations(
        &self,
        _: Request<v1::ListOperationsRequest>,
    ) -> Answer<v1::ListOperationsResponse> {
        Ok(Response::new(v1::ListOperationsResponse {
            operations: self.operation().into_iter().collect(),
        }))
    }

    async fn watch_operation(&self, request: Request<v1::WatchOperationRequest>) -> Answer<Events> {
        let from = request.into_inner().from_index;
        let script = self.script().clone();
        let (events, hold_at) = (script.events, script.hold_at);
        let until = hold_at.unwrap_or(u64::MAX);
        let said = events.into_iter().filter(move |event| (from..until).contains(&event.index));
        let said = tokio_stream::iter(said.map(Ok));
        match hold_at {
            Some(_) => Ok(Response::new(Box::pin(said.chain(tokio_stream::pending())))),
            None => Ok(Response::new(Box::pin(said))),
        }
    }

    async fn prune_snapshots(
        &self,
        request: Request<v1::PruneSnapshotsRequest>,
    ) -> Answer<v1::PruneSnapshotsResponse> {
        let mut script = self.script();
        script.prunes.push(request.into_inner());
        Ok(Response::new(script.pruned.clone()))
    }

    async fn pin_release(
        &self,
        request: Request<v1::PinReleaseRequest>,
    ) -> Answer<v1::PinReleaseResponse> {
        let changed = request.get_ref().pinned;
        Ok(Response::new(v1::PinReleaseResponse { changed }))
    }

    async fn pause_operation(
        &self,
        _: Request<v1::PauseOperationRequest>,
    ) -> Answer<v1::PauseOperationResponse> {
        Ok(Response::new(v1::PauseOperationResponse { operation: self.operation() }))
    }

    async fn resume_operation(
        &self,
        _: Request<v1::ResumeOperationRequest>,
    ) -> Answer<v1::ResumeOperationResponse> {
        Ok(Response::new(v1::ResumeOperationResponse { operation: self.operation() }))
    }

    async fn abort_operation(
        &self,
        request: Request<v1::AbortOperationRequest>,
    ) -> Answer<v1::AbortOperationResponse> {
        self.script().aborts.push(request.into_inner().mode);
        self.goes_on();
        Ok(Response::new(v1::AbortOperationResponse { operation: self.operation() }))
    }

    async fn promote_operation(
        &self,
        request: Request<v1::PromoteOperationRequest>,
    ) -> Answer<v1::PromoteOperationResponse> {
        self.script().promoted.push(request.into_inner());
        self.goes_on();
        Ok(Response::new(v1::PromoteOperationResponse { operation: self.operation() }))
    }

    async fn list_proposals(
        &self,
        _: Request<v1::ListProposalsRequest>,
    ) -> Answer<v1::ListProposalsResponse> {
        let proposals = self.script().proposals.clone();
        Ok(Response::new(v1::ListProposalsResponse { proposals }))
    }

    async fn approve_operation(
        &self,
        request: Request<v1::ApproveOperationRequest>,
    ) -> Answer<v1::ApproveOperationResponse> {
        let mut script = self.script();
        script.approved.push(request.into_inner());
        Ok(Response::new(v1::ApproveOperationResponse {
            proposal: script.proposals.first().cloned(),
        }))
    }

    async fn reject_operation(
        &self,
        request: Request<v1::RejectOperationRequest>,
    ) -> Answer<v1::RejectOperationResponse> {
        let request = request.into_inner();
        let proposal = v1::Proposal {
            operation: request.operation,
            state: v1::ProposalState::Rejected.into(),
            decided_by: "mira".to_owned(),
            decided_reason: request.reason,
            ..v1::Proposal::default()
        };
        Ok(Response::new(v1::RejectOperationResponse { proposal: Some(proposal) }))
    }

    async fn try_sources(
        &self,
        _: Request<v1::TrySourcesRequest>,
    ) -> Answer<v1::TrySourcesResponse> {
        let sources = self.script().sources.clone();
        Ok(Response::new(v1::TrySourcesResponse { sources }))
    }

    async fn retry_operation(
        &self,
        _: Request<v1::RetryOperationRequest>,
    ) -> Answer<v1::RetryOperationResponse> {
        Ok(Response::new(v1::RetryOperationResponse { operation: self.operation() }))
    }
}
