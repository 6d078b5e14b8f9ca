//! What the agent is started with.

use std::path::PathBuf;

/// What is asked of the binary.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "agent",
    version,
    about = "Does typed steps on this host, within its policy, for the coordinator that it dials.",
    after_help = "Examples:\n  agent check --coordinator lastgood.example.com:7443\n  \
                  agent run --coordinator lastgood.example.com:7443"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// See [`Cli`].
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Serve this host: what the service unit starts.
    Run(Config),
    /// See whether everything is there that a rollback would need, and change nothing.
    Check(Config),
    /// See and roll back this host by itself, as root, with no coordinator.
    Local(crate::local::cli::LocalArgs),
}

/// The agent's settings, all of them.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Where to dial, as host:port.
    #[arg(long, env = "LASTGOOD_COORDINATOR", value_name = "ADDRESS")]
    pub coordinator: String,
    /// Where the ledger, the store and the holds are kept.
    #[arg(long, env = "LASTGOOD_STATE", value_name = "DIR", default_value = "/var/lib/lastgood")]
    pub state: PathBuf,
    /// The directory with ca.pem, cert.pem and key.pem; `identity` in the state directory where it is left out.
    #[arg(long, env = "LASTGOOD_IDENTITY", value_name = "DIR")]
    pub identity: Option<PathBuf>,
    /// What may be touched on this host.
    #[arg(
        long,
        env = "LASTGOOD_POLICY",
        value_name = "FILE",
        default_value = "/etc/lastgood/policy.yaml"
    )]
    pub policy: PathBuf,
    /// Logs as JSON lines.
    #[arg(long)]
    pub log_json: bool,
}

impl Config {
    /// The identity directory.
    pub fn identity_dir(&self) -> PathBuf {
        self.identity.clone().unwrap_or_else(|| self.state.join("identity"))
    }
}
