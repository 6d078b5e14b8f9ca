//! The coordinator: decides when and in which order; knows no path, no command line and no secret.
//!
//! ```text
//! ctl ───▶ grpc/operator_service ─▶ operations ─▶ engine::planner        agents ───▶ grpc/agent_service
//!                                       │                                                │ ▲
//!                                       ▼                                                ▼ │ orders
//!                                    runner (one per operation) ◀── inputs ────────── sessions
//!                                       │ decide, append, apply, act
//!                                       ▼
//!                                    journal (sled) ◀── fleets: releases, standing, freeze
//!                                       ▲
//!                                       └── registrar: who joins, renews and is shut out ── identities
//! ```
//!
//! Invariant: it listens; it never dials a host.
//! Invariant: nothing that was acknowledged is lost, and a journal that cannot be written ends the process.

pub mod accept;
pub mod alerts;
pub mod config;
pub mod doctor;
pub mod fleets;
pub mod grpc;
pub mod host;
pub mod identities;
pub mod journal;
pub mod judging;
pub mod measure;
pub mod operations;
pub mod proposals;
pub mod quarantine;
pub mod readings;
pub mod registrar;
pub mod retention;
pub mod roles;
pub mod runner;
pub mod sessions;
pub mod trace;
pub mod triggers;

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use proto::{MESSAGE_BYTES_MAX, ready::Manager, shutdown::told_to_stop, tls::IdentityDir, v1};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

pub use config::Config;

use crate::{
    accept::Acceptor,
    alerts::{Alerts, AlertsConfig},
    fleets::Fleets,
    grpc::{agent_service::AgentService, operator_service::OperatorService},
    identities::{Failures, Identities},
    journal::{Journal, SledJournal},
    judging::Judging,
    measure::{Samples, Servers},
    operations::Operations,
    proposals::Proposals,
    registrar::{LIFETIME_DEFAULT, Registrar},
    retention::Keeper,
    roles::RoleLayer,
    runner::{RunnerError, Shared},
    sessions::Sessions,
    trace::TraceLayer,
    triggers::Triggers,
};

/// Streams that one connection may have open: an agent needs one, an operator a few watches.
const STREAMS_MAX: u32 = 32;
/// What one peer may make us buffer, per stream and per connection.
const WINDOW_BYTES: u32 = 256 * 1024;
/// The largest set of headers.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// How soon a peer that vanished without a word is found out: interval and timeout together.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call may take until it is answered; streams then last as long as they are wanted.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long calls in flight may take to end when the coordinator goes down.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// A running coordinator. Dropping it ends it.
#[derive(Debug)]
pub struct Coordinator {
    address: SocketAddr,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    alerts_address: Option<SocketAddr>,
    /// What goes on beside the calls; ends with this.
    _keepers: JoinSet<()>,
    fatal: mpsc::Receiver<RunnerError>,
    stop: tokio::sync::watch::Sender<bool>,
}

/// Who else has a word with the coordinator, beside agents and operators.
#[derive(Debug)]
struct Outside {
    alerts: Option<AlertsConfig>,
    servers: Servers,
}

impl Coordinator {
    /// Opens the journal, goes on with what was open, and listens.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        let identity = IdentityDir::load(&config.identity).context("the coordinator's identity")?;
        let journal = SledJournal::open(&config.state.join("journal"), config.epoch_at_least)?;
        let lifetime = config.agent_certificates.0;
        let alerts = config.alerts_listen.zip(config.alerts_token_file.clone());
        let alerts = alerts.map(|(listen, token_file)| AlertsConfig { listen, token_file });
        let servers = Servers::new(config.prometheus_credentials.iter().cloned());
        let outside = Outside { alerts, servers };
        Self::start_as(config.listen, &identity, Arc::new(journal), (lifetime, outside)).await
    }

    /// The same on a journal of the caller's.
    pub async fn start_with(
        listen: SocketAddr,
        identity: &IdentityDir,
        journal: Arc<dyn Journal>,
        alerts: Option<AlertsConfig>,
    ) -> anyhow::Result<Self> {
        let outside = Outside { alerts, servers: Servers::default() };
        Self::start_as(listen, identity, journal, (LIFETIME_DEFAULT.0, outside)).await
    }

    async fn start_as(
        listen: SocketAddr,
        identity: &IdentityDir,
        journal: Arc<dyn Journal>,
        (lifetime, Outside { alerts, servers }): (Duration, Outside),
    ) -> anyhow::Result<Self> {
        let epoch = journal.epoch().clone();
        tracing::info!(epoch = epoch.counter, instance = epoch.instance, "a new term begins");
        let sessions = Arc::new(Sessions::new(epoch));
        let fleets = Arc::new(Fleets::load(journal.clone())?);
        let identities = Arc::new(Identities::load(journal.clone())?);
        let registrar = Arc::new(Registrar {
            identities: identities.clone(),
            fleets: fleets.clone(),
            identity_dir: identity.dir().to_owned(),
            lifetime,
            failures: Failures::default(),
        });
        let shared = Shared { journal, sessions: sessions.clone(), fleets: fleets.clone() };
        let (fatal_sender, fatal) = mpsc::channel(1);
        let operations = Operations::recover(shared, fatal_sender).await?;
        let acceptor = Acceptor::bind(listen, identity)?;
        let address = acceptor.address();
        let (stop, mut stopped) = tokio::sync::watch::channel(false);
        let samples = Arc::new(Samples::default());
        let agents = AgentService {
            sessions: sessions.clone(),
            fleets: fleets.clone(),
            operations: operations.clone(),
            registrar: registrar.clone(),
            samples: samples.clone(),
        };
        let judging = Arc::new(Judging::new(operations.clone(), samples.clone(), servers.clone()));
        let proposals = Proposals { fleets: fleets.clone(), operations: operations.clone() };
        let triggers = Arc::new(Triggers::new(
            operations.clone(),
            (fleets.clone(), sessions.clone()),
            (samples, servers.clone()),
            proposals.clone(),
        ));
        let mut keepers = JoinSet::new();
        keepers.spawn(judging.clone().run());
        keepers.spawn(triggers.clone().run());
        let mut alerts_address = None;
        if let Some(config) = &alerts {
            let alerts = Alerts::bind(config, identity, triggers.clone()).await?;
            let at = alerts.address()?;
            tracing::info!(address = %at, "listening for alerts");
            alerts_address = Some(at);
            keepers.spawn(alerts.run());
        }
        let keeper = Keeper {
            sessions: sessions.clone(),
            fleets: fleets.clone(),
            operations: operations.clone(),
        };
        keepers.spawn(keeper.run());
        let operators = OperatorService {
            sessions,
            fleets,
            operations,
            registrar,
            judging,
            triggers,
            proposals,
            servers,
        };
        let router = router(agents, operators, RoleLayer::new(identities))?;
        let server = tokio::spawn(async move {
            let stopped = async move {
                // The sender lives as long as the coordinator; its end is a stop too.
                stopped.wait_for(|stop| *stop).await.ok();
            };
            router.serve_with_incoming_shutdown(acceptor.connections(), stopped).await
        });
        tracing::info!(%address, "listening");
        Ok(Self { address, alerts_address, server, _keepers: keepers, fatal, stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where alerts are posted to.
    pub fn alerts_address(&self) -> Option<SocketAddr> {
        self.alerts_address
    }

    /// Runs until `shutdown` or until it cannot go on.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::select! {
            () = shutdown => {}
            error = self.fatal.recv() => if let Some(error) = error {
                return Err(error).context("the journal cannot be written; start again to go on from it");
            },
            ended = &mut self.server => return Ok(ended??),
        }
        self.stop.send_replace(true);
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, &mut self.server).await.is_err() {
            tracing::debug!("open sessions are cut");
            self.server.abort();
        }
        Ok(())
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

type Router = tonic::transport::server::Router<
    tower::layer::util::Stack<
        TraceLayer,
        tower::layer::util::Stack<RoleLayer, tower::layer::util::Identity>,
    >,
>;

fn router(
    agents: AgentService,
    operators: OperatorService,
    roles: RoleLayer,
) -> anyhow::Result<Router> {
    let (health, health_service) = tonic_health::server::health_reporter();
    drop(health);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
    };
    let agents = v1::agent_service_server::AgentServiceServer::new(agents)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let operators = v1::operator_service_server::OperatorServiceServer::new(operators)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let router = tonic::transport::Server::builder()
        .timeout(ANSWER_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(roles)
        .layer(TraceLayer)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(agents)
        .add_service(operators);
    Ok(router)
}

/// The binary.
pub fn main_impl() -> ExitCode {
    run(Config::parse())
}

/// Runs a coordinator in this process until it is told to stop.
pub fn run(config: Config) -> ExitCode {
    let format = if config.log_json {
        proto::telemetry::Format::Json
    } else {
        proto::telemetry::Format::Text
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.context("starting the runtime").and_then(|runtime| {
        runtime.block_on(async {
            let _telemetry = proto::telemetry::init("lastgood-coordinator", format)?;
            let coordinator = Coordinator::start(&config).await?;
            let manager = Manager::of_this_process();
            manager.ready(&format!("listens on {}", coordinator.address()));
            let told = async {
                tokio::select! { () = told_to_stop() => {}, () = manager.keep_watchdog() => {} }
                manager.stopping();
            };
            coordinator.run(told).await
        })
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            #[expect(
                clippy::print_stderr,
                reason = "the last word of a process whose log may be elsewhere"
            )]
            {
                eprintln!("coordinator: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
