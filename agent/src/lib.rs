//! The agent: does typed steps on its own host, and nothing that its policy does not name.
//!
//! ```text
//! coordinator ◀── session ──▶ core ── worker (pure) ── ledger (on disk first)
//!                              │
//!                              └─ hands ── host ─┬─ store      files: snapshot, stage, switch, hold
//!                                                ├─ drivers    services: start, stop, status
//!                                                ├─ probe      checks: what "good" means
//!                                                ├─ artefact   what a deploy brings: fetched, checked, unpacked
//!                                                ├─ facts      what was measured while it was good
//!                                                └─ traffic    an edge: how its proxy divides the fleet's traffic
//! ```
//!
//! Invariant: it dials; it listens to nobody but root on its own host, on a socket in its state directory.
//! Invariant: every step is written down before it begins and after it ends.

pub mod artefact;
pub mod check;
pub mod config;
pub mod core;
mod dotenv;
pub mod drivers;
pub mod exec;
pub mod facts;
pub mod finding;
pub mod grpc;
pub mod hands;
pub mod host;
pub mod http;
pub mod join;
pub mod lease;
pub mod ledger;
pub mod local;
mod lock;
pub mod order;
pub mod policy;
mod postgres;
pub mod probe;
pub mod quarantine;
mod redact;
pub mod renewal;
pub mod retention;
pub mod retry;
pub mod sampler;
pub mod session;
pub mod status;
pub mod store;
mod text;
pub mod trace;
pub mod traffic;
pub mod worker;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::Parser as _;
use proto::{ready::Manager, shutdown::told_to_stop, tls::IdentityDir};
use tokio::{sync::watch, task::JoinHandle};

pub use config::{Cli, Command, Config, JoinArgs};

use crate::{
    core::Core,
    hands::Hands,
    host::{Host, learning::Pace},
    join::Join,
    lease::Leases,
    ledger::{Ledger, LedgerError, LedgerFile},
    local::{Service, socket},
    renewal::Renewal,
    retention::Retention,
    session::Session,
};

/// A running agent. Dropping it ends it; services that it started go on.
#[derive(Debug)]
pub struct Agent {
    core: JoinHandle<Result<(), LedgerError>>,
    session: JoinHandle<()>,
    renewal: JoinHandle<()>,
    local: JoinHandle<()>,
    retention: JoinHandle<()>,
    /// Goes back where what is on trial does not hold.
    leases: JoinHandle<()>,
    /// Looks the host over.
    look_over: Option<JoinHandle<()>>,
    /// Learns what others deploy.
    learning: Option<JoinHandle<()>>,
    ledger: watch::Receiver<Arc<Ledger>>,
}

impl Agent {
    /// Reads identity and policy, opens ledger and store, and dials.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        let identity = IdentityDir::load(&config.identity_dir()).context("this host's identity")?;
        let loaded = policy::load(&config.policy, identity.identity().name())?;
        let host = Host::open(&loaded.policy, loaded.hash, &config.state)?;
        host.set_up().await;
        let host = Arc::new(host);
        let mut agent = Self::start_with(
            config.coordinator.clone(),
            config.identity_dir(),
            &config.state,
            host.clone(),
        )?;
        agent.look_over = Some(tokio::spawn(host.clone().watch_problems()));
        agent.learn(host, Pace::default());
        Ok(agent)
    }

    /// The same with hands of the caller's.
    pub fn start_with<H: Hands>(
        coordinator: String,
        identity: PathBuf,
        state: &std::path::Path,
        hands: Arc<H>,
    ) -> anyhow::Result<Self> {
        let (file, ledger) = LedgerFile::open(&state.join("ledger"))?;
        let (core, handle) = Core::new(file, ledger, hands.clone());
        let listener = socket::bind(state).context("the socket for root on this host")?;
        let local =
            tokio::spawn(socket::serve(listener, Service::new(hands.clone(), handle.clone())));
        let (renewed, renewals) = watch::channel(());
        let renewal =
            Renewal { coordinator: coordinator.clone(), identity: identity.clone(), renewed };
        let ledger = handle.ledger();
        let (kept, told) = watch::channel(None);
        let retention = Retention { hands: hands.clone(), ledger: handle.ledger(), kept: told };
        let leases = Leases { hands: hands.clone(), core: handle.clone() };
        let session =
            Session { coordinator, identity, hands, core: handle, renewed: renewals, kept };
        Ok(Self {
            core: tokio::spawn(core.run()),
            session: tokio::spawn(session.run()),
            renewal: tokio::spawn(renewal.run()),
            local,
            retention: tokio::spawn(retention.run()),
            leases: tokio::spawn(leases.run()),
            look_over: None,
            learning: None,
            ledger,
        })
    }

    /// Learns the host's components that are to be learned, in this pace.
    pub fn learn(&mut self, host: Arc<Host>, pace: Pace) {
        self.learning = Some(tokio::spawn(host.learn(self.ledger.clone(), pace)));
    }

    /// Runs until `shutdown`, or until the ledger cannot be written.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::select! {
            () = shutdown => Ok(()),
            ended = &mut self.core => Ok(ended.context("the agent's core")??),
            ended = &mut self.session => Ok(ended.context("the agent's session")?),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        for task in self.look_over.iter().chain(&self.learning) {
            task.abort();
        }
        self.retention.abort();
        self.leases.abort();
        self.local.abort();
        self.session.abort();
        self.renewal.abort();
        self.core.abort();
    }
}

/// The binary.
pub fn main_impl() -> ExitCode {
    match Cli::parse().command {
        Command::Run(config) => run(&config),
        Command::Check(config) => in_runtime(config.log_json, check(&config)),
        Command::Join(args) => in_runtime(args.log_json, join(&args)),
        Command::Local(args) => local::cli::main(&args),
    }
}

/// Runs an agent in this process until it is told to stop.
pub fn run(config: &Config) -> ExitCode {
    in_runtime(config.log_json, async {
        let agent = Agent::start(config).await?;
        // Policy taken, ledger open, services supervised: it can finish what it began, connected or not.
        let manager = Manager::of_this_process();
        manager.ready(&format!("serves this host; coordinator {}", config.coordinator));
        let told = async {
            tokio::select! { () = told_to_stop() => {}, () = manager.keep_watchdog() => {} }
            manager.stopping();
        };
        agent.run(told).await
    })
}

/// Logs, TLS and a runtime for one command of the binary; its error is the last word on stderr.
fn in_runtime(log_json: bool, work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let format =
        if log_json { proto::telemetry::Format::Json } else { proto::telemetry::Format::Text };
    // An error only says that a provider was installed before, which does as well.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.context("starting the runtime").and_then(|runtime| {
        runtime.block_on(async {
            let _telemetry = proto::telemetry::init("lastgood-agent", format)?;
            work.await
        })
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(
                clippy::print_stderr,
                reason = "the last word of a process whose log may be elsewhere"
            )]
            {
                eprintln!("agent: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Lets this host into the fleet.
async fn join(args: &JoinArgs) -> anyhow::Result<()> {
    let join = Join::from(args);
    // Before a token is asked for that could not be used.
    join.check_policy()?;
    let token = join::read_token(args.token_file.as_deref())?;
    let joined = join.run(&token).await?;
    let ends = jiff::Timestamp::from_millisecond(joined.ends_unix_ms).unwrap_or_default();
    #[expect(clippy::print_stdout, reason = "what was asked for")]
    {
        println!(
            "{} has joined {}; its certificate ends on {} and renews itself before.\n\
             Next:  1. LASTGOOD_COORDINATOR={} in /etc/lastgood/agent.env\n\
             \x20      2. agent check, then: systemctl enable --now lastgood-agent",
            join.host,
            joined.fleet,
            ends.strftime("%Y-%m-%d"),
            join.coordinator
        );
    }
    Ok(())
}

/// Says of everything that a rollback needs whether it is there.
#[expect(clippy::print_stdout, reason = "what was asked for")]
async fn check(config: &Config) -> anyhow::Result<()> {
    let findings = check::findings(config).await;
    for finding in &findings {
        println!("{finding}");
    }
    let bad = findings.iter().filter(|finding| finding.bad.is_some()).count();
    anyhow::ensure!(bad == 0, "{bad} of {} things are not as they have to be", findings.len());
    Ok(())
}
