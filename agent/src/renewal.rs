//! Keeps the host's certificate: a new one, for a new key, after two thirds of its life.
//!
//! ```text
//! due ─▶ key, on disk ─▶ Renew (with the certificate in use) ─▶ new one beside it ─▶ a connection with it
//!     ─▶ in use ─▶ the session begins anew and acknowledges it; the old one counts until then
//! ```
//!
//! A coordinator that is away, or cannot issue, stops nothing: the session goes on with what there is.
//!
//! Invariant: a certificate is put into use only after the coordinator has taken it in a handshake.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use proto::{
    tls::{self, DialError, Generations, IdentityDir, NewKey, PeerIdentity, TlsError},
    v1::{self, agent_service_client::AgentServiceClient},
};
use tokio::sync::watch;

use crate::{
    join::{WrongCertificate, new_identity},
    retry::Policy,
};

/// A sleep no longer than this is measured: whoever sets the clock is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Hosts that joined at one time renew within this share of the certificate's life, a twentieth.
const SPREAD: i64 = 20;
/// What a key is asked for with.
const WHAT_FOR: &str = "renewal";

/// Why there is no new certificate yet.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("{0}")]
    Files(#[from] TlsError),
    #[error("the coordinator refuses: {0}")]
    Refused(String),
    #[error("the coordinator's answer cannot be used: {0}")]
    Answer(#[from] WrongCertificate),
}

/// See the module.
#[derive(Debug)]
pub struct Renewal {
    pub coordinator: String,
    pub identity: PathBuf,
    /// Moves when another certificate is in use.
    pub renewed: watch::Sender<()>,
}

impl Renewal {
    /// Keeps the certificate for ever.
    pub async fn run(self) {
        let mut delays = Policy::renewal();
        loop {
            let renewed = match IdentityDir::load(&self.identity) {
                Ok(own) => {
                    let left = until(due_unix_ms(own.owner()));
                    if !left.is_zero() {
                        tokio::time::sleep(left.min(LOOK_EVERY)).await;
                        continue;
                    }
                    Box::pin(self.once(&own)).await
                }
                Err(error) => Err(error.into()),
            };
            match renewed {
                Ok(()) => {
                    delays.reset();
                    self.renewed.send_replace(());
                }
                Err(why) => {
                    let delay = delays.next_delay();
                    tracing::warn!(%why, ?delay, "this host's certificate is due and could not be renewed");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    async fn once(&self, own: &IdentityDir) -> Result<(), RenewalError> {
        let generations = Generations::of(&self.identity);
        let key = NewKey::keep_in(&generations.asking(WHAT_FOR))?;
        let config = Arc::new(tls::client_config(own)?);
        let channel = tls::connect(&self.coordinator, config).await?;
        let request = v1::RenewRequest { csr_der: key.csr_der()? };
        let answer = AgentServiceClient::new(channel).renew(request).await;
        let answer = answer.map_err(|status| RenewalError::Refused(tls::explain(&status)))?;
        let v1::RenewResponse { certificate_pem, ca_pem } = answer.into_inner();
        let host = own.identity().name();
        let issued = new_identity(&certificate_pem, &ca_pem, &key, host)?;
        let (generation, new) = generations.put(&issued)?;
        let config = Arc::new(tls::client_config(&new)?);
        tls::connect(&self.coordinator, config).await?;
        generations.switch(&generation)?;
        generations.asked()?;
        tracing::info!(serial = new.serial(), "this host has a new certificate");
        Ok(())
    }
}

/// When a certificate is to be renewed: after two thirds of its life, less what spreads hosts apart.
fn due_unix_ms(own: &PeerIdentity) -> i64 {
    let life = own.not_after_unix_ms.saturating_sub(own.issued_unix_ms).max(0);
    let share = i64::from(blake3::hash(own.serial.as_bytes()).as_bytes()[0]);
    let spread = life / SPREAD * share / 256;
    own.issued_unix_ms.saturating_add(life / 3 * 2).saturating_sub(spread)
}

fn until(unix_ms: i64) -> Duration {
    let at = Duration::from_millis(u64::try_from(unix_ms).unwrap_or(0));
    at.saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proto::tls::{Identity, Role};

    use super::*;

    #[test]
    fn a_certificate_is_due_before_two_thirds_of_its_life_have_passed_and_hosts_are_spread() {
        let day = 24 * 3600 * 1000;
        let mut seen = std::collections::BTreeSet::new();
        for serial in 0..100 {
            let own = PeerIdentity {
                identity: Identity::new("ace", Role::Agent, "h1").unwrap(),
                issued_unix_ms: 1000 * day,
                not_after_unix_ms: 1030 * day,
                serial: serial.to_string(),
                key: String::new(),
            };
            let due = due_unix_ms(&own);
            assert!(due <= 1020 * day && due >= 1018 * day, "{due}");
            seen.insert(due);
        }
        assert!(seen.len() > 50, "{}", seen.len());
    }
}
