//! What the coordinator is started with.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use proto::span::Span;

use crate::{measure::Credentials, registrar::LIFETIME_DEFAULT};

/// A host that is switched off over a weekend and a holiday still finds its certificate good.
const LIFETIME_MIN: Duration = Duration::from_secs(7 * 24 * 3600);

/// The coordinator's settings, all of them.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "coordinator",
    version,
    about = "Decides what each host does next, and when; keeps what happened.",
    after_help = "Examples:\n  coordinator --state /var/lib/lastgood-coordinator --identity /etc/lastgood/coordinator\n  \
                  coordinator --listen 0.0.0.0:7443 --epoch-at-least 42"
)]
pub struct Config {
    /// Where the journal is kept.
    #[arg(
        long,
        env = "LASTGOOD_STATE",
        value_name = "DIR",
        default_value = "/var/lib/lastgood-coordinator"
    )]
    pub state: PathBuf,
    /// The directory with ca.pem, cert.pem and key.pem; with ca-key.pem too, hosts can join.
    #[arg(
        long,
        env = "LASTGOOD_IDENTITY",
        value_name = "DIR",
        default_value = "/etc/lastgood/coordinator"
    )]
    pub identity: PathBuf,
    /// Where agents and operators connect to.
    #[arg(long, env = "LASTGOOD_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:7443")]
    pub listen: SocketAddr,
    /// The epoch is at least this: after the journal was restored from a backup or lost.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub epoch_at_least: u64,
    /// How long the certificates hold that hosts get when they join or renew: 168h to 8760h.
    #[arg(long, env = "LASTGOOD_AGENT_CERTIFICATES", value_name = "SPAN", default_value_t = LIFETIME_DEFAULT, value_parser = lifetime)]
    pub agent_certificates: Span,
    /// Where alerts are posted to, as Alertmanager does it; over TLS unless only this host can reach it. Left out: nowhere.
    #[arg(
        long,
        env = "LASTGOOD_ALERTS_LISTEN",
        value_name = "ADDRESS",
        requires = "alerts_token_file"
    )]
    pub alerts_listen: Option<SocketAddr>,
    /// The bearer token that alerts have to come with.
    #[arg(long, env = "LASTGOOD_ALERTS_TOKEN_FILE", value_name = "FILE")]
    pub alerts_token_file: Option<PathBuf>,
    /// What a Prometheus wants to know who asks: a file with one line, a bearer token or `user:password`. It goes to that
    /// server only, whatever a fleet file says. Several: once each, or with commas.
    #[arg(
        long,
        env = "LASTGOOD_PROMETHEUS_CREDENTIALS",
        value_name = "URL=FILE",
        value_delimiter = ','
    )]
    pub prometheus_credentials: Vec<Credentials>,
    /// Logs as JSON lines.
    #[arg(long)]
    pub log_json: bool,
}

fn lifetime(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|error: proto::span::SpanError| error.to_string())?;
    if span.0 < LIFETIME_MIN {
        return Err(format!("it is at least {}", Span(LIFETIME_MIN)));
    }
    Ok(span)
}
