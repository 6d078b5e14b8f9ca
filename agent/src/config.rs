//! What the agent is started with.

use std::path::PathBuf;

use proto::tls::CaHash;

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
    /// Let this host into the fleet: paste the line that `ctl agent token create` prints.
    Join(JoinArgs),
    /// See and roll back this host by itself, as root, with no coordinator.
    Local(crate::local::cli::LocalArgs),
}

/// What a join needs. The token is read from a file or from standard input, never from the command line, where
/// every user of the host could see it.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agent join --coordinator lastgood.example.com:7443 --host crm-g1 --ca-hash sha256:… --policy-hash …\n  \
                  agent join … --token-file /run/lastgood.token"
)]
pub struct JoinArgs {
    /// Where to dial, as host:port.
    #[arg(long, env = "LASTGOOD_COORDINATOR", value_name = "ADDRESS")]
    pub coordinator: String,
    /// This host's name, as in the fleet file.
    #[arg(long, value_name = "HOST")]
    pub host: String,
    /// The only CA that is believed.
    #[arg(long, value_name = "sha256:HASH")]
    pub ca_hash: CaHash,
    /// The only policy file that is taken.
    #[arg(long, value_name = "HASH")]
    pub policy_hash: String,
    /// A file with the token; else it is asked for, or read from standard input.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Where the ledger, the store and the holds are kept.
    #[arg(long, env = "LASTGOOD_STATE", value_name = "DIR", default_value = "/var/lib/lastgood")]
    pub state: PathBuf,
    /// Where ca.pem, cert.pem and key.pem go; `identity` in the state directory where it is left out.
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
