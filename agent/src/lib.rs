//! The agent: does typed steps on its own host, and nothing that its policy does not name.
//!
//! ```text
//! coordinator ◀── session ──▶ core ── worker (pure) ── ledger (on disk first)
//!                              │
//!                              └─ hands ── host ─┬─ store      files: snapshot, stage, switch, hold
//!                                                ├─ drivers    services: start, stop, status
//!                                                └─ probe      checks: what "good" means
//! ```
//!
//! Invariant: it dials; it listens to nobody but root on its own host, on a socket in its state directory.
//! Invariant: every step is written down before it begins and after it ends.

pub mod config;
pub mod core;
pub mod drivers;
pub mod exec;
pub mod grpc;
pub mod hands;
pub mod host;
pub mod http;
pub mod ledger;
pub mod local;
mod lock;
pub mod order;
pub mod policy;
pub mod probe;
pub mod retry;
pub mod session;
pub mod status;
pub mod store;
mod text;
pub mod worker;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::Parser as _;
use proto::{shutdown::told_to_stop, tls::IdentityDir};
use tokio::task::JoinHandle;

pub use config::{Cli, Command, Config};

use crate::{
    core::Core,
    hands::Hands,
    host::Host,
    ledger::{LedgerError, LedgerFile},
    local::{Service, socket},
    session::Session,
};

/// A running agent. Dropping it ends it; services that it started go on.
#[derive(Debug)]
pub struct Agent {
    core: JoinHandle<Result<(), LedgerError>>,
    session: JoinHandle<()>,
    local: JoinHandle<()>,
}

impl Agent {
    /// Reads identity and policy, opens ledger and store, and dials.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        let identity = IdentityDir::load(&config.identity_dir()).context("this host's identity")?;
        let loaded = policy::load(&config.policy, identity.identity().name())?;
        let host = Host::open(&loaded.policy, loaded.hash, &config.state)?;
        Self::start_with(
            config.coordinator.clone(),
            config.identity_dir(),
            &config.state,
            Arc::new(host),
        )
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
        let session = Session { coordinator, identity, hands, core: handle };
        Ok(Self { core: tokio::spawn(core.run()), session: tokio::spawn(session.run()), local })
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
        self.local.abort();
        self.session.abort();
        self.core.abort();
    }
}

/// The binary.
pub fn main_impl() -> ExitCode {
    match Cli::parse().command {
        Command::Run(config) => run(&config),
        Command::Check(config) => in_runtime(config.log_json, check(&config)),
        Command::Local(args) => local::cli::main(&args),
    }
}

/// Runs an agent in this process until it is told to stop.
pub fn run(config: &Config) -> ExitCode {
    in_runtime(config.log_json, async { Agent::start(config).await?.run(told_to_stop()).await })
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

/// Whether the agent could start, without starting it.
async fn check(config: &Config) -> anyhow::Result<()> {
    let identity = IdentityDir::load(&config.identity_dir()).context("this host's identity")?;
    let loaded = policy::load(&config.policy, identity.identity().name())?;
    Host::open(&loaded.policy, loaded.hash.clone(), &config.state)?;
    #[expect(clippy::print_stdout, reason = "what was asked for")]
    {
        println!("{} could start; policy {}", identity.identity().name(), loaded.hash);
    }
    Ok(())
}
