//! Lets hosts in and shuts them out: tokens, joins, renewals, revocations.
//!
//! ```text
//! ctl ─ make_token ─▶ token ─▶ a person ─▶ agent join ─ join ─▶ certificate ─ acknowledge ─▶ the host's identity
//!                                          agent run  ─ renew ─▶ certificate ─ acknowledge ─▶ the next one
//! ctl ─ revoke ─▶ none of them counts
//! ```
//!
//! The CA's key is read when it is needed and not kept: whoever takes the file away ends joining at once.
//!
//! Invariant: a certificate is on record before it is handed out.
//! Invariant: a stranger's request is read no further than its token until that has proved right.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use engine::{FleetName, HostName, Timestamp};
use proto::{
    span::Span,
    tls::{
        CA_KEY_FILE, Ca, CaHash, Identity, IdentityDir, IdentityError, PeerIdentity, Request, Role,
        TlsError, Validity,
    },
};

use crate::{
    fleets::Fleets,
    host::wall,
    identities::{
        Answer, Cause, Certificate, Failures, Identities, IdentitiesError, IdentityEvent, Standing,
        TokenError, TokenHash, shown,
    },
};

/// How long a token holds where nobody says otherwise.
pub const TOKEN_TTL_DEFAULT: Duration = Duration::from_secs(15 * 60);
/// What may be asked for. A token is typed at once; one that lies about is a key that lies about.
pub const TOKEN_TTL_MIN: Duration = Duration::from_secs(60);
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(60 * 60);
/// How long an agent's certificate holds where the settings do not say otherwise.
pub const LIFETIME_DEFAULT: Span = Span::seconds(30 * 24 * 3600);
/// Begins every token, so that one is recognised where it should not be.
const TOKEN_PREFIX: &str = "lgj_";

/// See the module.
#[derive(Debug)]
pub struct Registrar {
    pub identities: Arc<Identities>,
    pub fleets: Arc<Fleets>,
    /// The coordinator's own identity, with the CA's key beside it where hosts may join.
    pub identity_dir: PathBuf,
    pub lifetime: Duration,
    pub failures: Failures,
}

/// Why a host was not let in, renewed or shut out.
#[derive(Debug, thiserror::Error)]
pub enum RegistrarError {
    #[error("{0}")]
    Token(TokenError),
    #[error("too many joins from this address have failed; wait a minute")]
    TooMany,
    #[error("host `{host}` is in no fleet of this coordinator{}", near.as_ref().map_or_else(String::new, |near| format!("; did you mean `{near}`?")))]
    NoHost { host: String, near: Option<String> },
    #[error("the applied fleet file has no policy for {host}")]
    NoPolicy { host: HostName },
    #[error("a token holds for {} to {}", Span(TOKEN_TTL_MIN), Span(TOKEN_TTL_MAX))]
    Ttl,
    #[error("a host is shut out with a reason")]
    NoReason,
    #[error("this coordinator cannot issue certificates: there is no {CA_KEY_FILE} in {}", dir.display())]
    NoCa { dir: PathBuf, host: HostName },
    #[error("this coordinator cannot issue certificates")]
    Ca(#[source] TlsError),
    #[error("the request for a certificate is not usable: {0}")]
    Request(TlsError),
    #[error("the certificate that was just made cannot be read")]
    Made(#[source] IdentityError),
    #[error("a renewal is for a new key")]
    SameKey,
    #[error("{0}")]
    Standing(String),
    #[error("the record of identities could not be written")]
    Record(#[from] IdentitiesError),
}

/// A token, and what has to stand on the line beside it.
pub struct MadeToken {
    pub fleet: FleetName,
    pub token: String,
    pub expires: Timestamp,
    pub ca: CaHash,
    pub policy_hash: String,
}

/// What a host gets.
#[derive(Debug)]
pub struct Handed {
    pub certificate_pem: String,
    pub ca_pem: String,
    pub fleet: FleetName,
}

impl Registrar {
    /// A token for one host; one that was made before no longer counts.
    ///
    /// # Errors
    /// [`RegistrarError`].
    pub async fn make_token(
        &self,
        host: &HostName,
        ttl: Option<Duration>,
        by: String,
    ) -> Result<MadeToken, RegistrarError> {
        let ttl = ttl.unwrap_or(TOKEN_TTL_DEFAULT);
        if !(TOKEN_TTL_MIN..=TOKEN_TTL_MAX).contains(&ttl) {
            return Err(RegistrarError::Ttl);
        }
        let fleet = self.fleet_of(host).await?;
        let policy = |state: &engine::FleetState| {
            state.fleet.as_ref().and_then(|fleet| fleet.policy_hashes.get(host).cloned())
        };
        let policy_hash = self.fleets.read(&fleet, policy).await.flatten();
        let policy_hash =
            policy_hash.ok_or_else(|| RegistrarError::NoPolicy { host: host.clone() })?;
        // A token that nobody could use would only be found out on the host.
        self.ca(host)?;
        let own = IdentityDir::load(&self.identity_dir).map_err(RegistrarError::Ca)?;
        let ca = CaHash::of(own.issuer().map_err(RegistrarError::Ca)?);
        let random: [u8; 24] = rand::random();
        let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let token = format!("{TOKEN_PREFIX}{digits}");
        let at = wall();
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        let expires = Timestamp(at.0.saturating_add(ttl_ms));
        let made =
            IdentityEvent::TokenMade { hash: TokenHash::of(&token), by: by.clone(), at, expires };
        let decide = |_: &_| Ok::<_, RegistrarError>((vec![made], ()));
        self.identities.change(host, decide).await?;
        tracing::info!(%host, by, ttl = %Span(ttl), "a join token was made");
        Ok(MadeToken { fleet, token, expires, ca, policy_hash })
    }

    /// A certificate for whoever shows a host's token first.
    ///
    /// # Errors
    /// [`RegistrarError`]; also in the log.
    pub async fn join(
        &self,
        host: &str,
        token: &str,
        csr_der: &[u8],
        from: IpAddr,
    ) -> Result<Handed, RegistrarError> {
        if self.failures.is_blocked(from, Instant::now()) {
            // Not in the log: that is what this is for.
            return Err(RegistrarError::TooMany);
        }
        let joined = Box::pin(self.try_join(host, token, csr_der)).await;
        match &joined {
            Ok(_) => {
                tracing::info!(host, %from, "a host was given a certificate; it is to show it")
            }
            Err(why) => {
                self.failures.failed(from, Instant::now());
                let host: String = host.chars().take(64).collect();
                tracing::warn!(?host, %from, "a join was refused: {why}");
            }
        }
        joined
    }

    async fn try_join(
        &self,
        host: &str,
        token: &str,
        csr_der: &[u8],
    ) -> Result<Handed, RegistrarError> {
        let unknown = |_| RegistrarError::Token(TokenError::Unknown);
        let host = HostName::new(host).map_err(unknown)?;
        let token = TokenHash::of(token);
        // Hosts without a token and hosts that are none are the same to whoever asks.
        self.identities
            .read(&host, |state| state.token(token, wall()))
            .map_err(RegistrarError::Token)?;
        let fleet = self.fleet_of(&host).await?;
        let request = Request::from_der(csr_der).map_err(RegistrarError::Request)?;
        let ca = self.ca(&host)?;
        let decide = |state: &crate::identities::HostIdentity| match state
            .join(token, &request.key(), wall())
            .map_err(RegistrarError::Token)?
        {
            Answer::Again(certificate) => Ok((Vec::new(), certificate)),
            Answer::Issue => self.issue(&ca, &host, &request, Cause::Token),
        };
        let certificate = self.identities.change(&host, decide).await?;
        Ok(handed(certificate, &ca, fleet))
    }

    /// A certificate for a new key, in place of the one that is shown.
    ///
    /// # Errors
    /// [`RegistrarError`]; also in the log.
    pub async fn renew(
        &self,
        host: &HostName,
        peer: &PeerIdentity,
        csr_der: &[u8],
    ) -> Result<Handed, RegistrarError> {
        let renewed = self.try_renew(host, peer, csr_der).await;
        match &renewed {
            Ok(_) => tracing::info!(%host, "a host was given its next certificate"),
            Err(why) => tracing::warn!(%host, "a renewal was refused: {why}"),
        }
        renewed
    }

    async fn try_renew(
        &self,
        host: &HostName,
        peer: &PeerIdentity,
        csr_der: &[u8],
    ) -> Result<Handed, RegistrarError> {
        let fleet = self.fleet_of(host).await?;
        let request = Request::from_der(csr_der).map_err(RegistrarError::Request)?;
        if request.key() == peer.key {
            return Err(RegistrarError::SameKey);
        }
        let ca = self.ca(host)?;
        let decide = |state: &crate::identities::HostIdentity| match state
            .renew(shown(peer), &request.key())
            .map_err(|why| refused(host, &why))?
        {
            Answer::Again(certificate) => Ok((Vec::new(), certificate)),
            Answer::Issue => self.issue(&ca, host, &request, Cause::Renewal),
        };
        let certificate = self.identities.change(host, decide).await?;
        Ok(handed(certificate, &ca, fleet))
    }

    /// A host shows a certificate: from now on it is the only one that counts.
    ///
    /// # Errors
    /// [`RegistrarError::Standing`], where it does not count.
    pub async fn acknowledge(
        &self,
        host: &HostName,
        peer: &PeerIdentity,
    ) -> Result<(), RegistrarError> {
        let decide = |state: &crate::identities::HostIdentity| {
            let event =
                state.acknowledge(shown(peer), wall()).map_err(|why| refused(host, &why))?;
            let new = event.is_some();
            Ok::<_, RegistrarError>((event.into_iter().collect(), new))
        };
        if self.identities.change(host, decide).await? {
            tracing::info!(%host, serial = peer.serial, "this certificate is now the host's");
        }
        Ok(())
    }

    /// Shuts a host out until it joins again.
    ///
    /// # Errors
    /// [`RegistrarError`].
    pub async fn revoke(
        &self,
        host: &HostName,
        reason: String,
        by: String,
    ) -> Result<(), RegistrarError> {
        if reason.trim().is_empty() {
            return Err(RegistrarError::NoReason);
        }
        // A host that left the fleet file has a certificate all the same.
        if self.identities.read(host, |state| state.current().is_none()) {
            self.fleet_of(host).await?;
        }
        let revoked = IdentityEvent::Revoked { by: by.clone(), reason: reason.clone(), at: wall() };
        let decide = |_: &_| Ok::<_, RegistrarError>((vec![revoked], ()));
        self.identities.change(host, decide).await?;
        tracing::warn!(%host, by, reason, "the host's certificates are refused from now on");
        Ok(())
    }

    fn issue(
        &self,
        ca: &Ca,
        host: &HostName,
        request: &Request,
        cause: Cause,
    ) -> Result<(Vec<IdentityEvent>, Certificate), RegistrarError> {
        let identity =
            Identity::new(ca.domain(), Role::Agent, host.as_str()).map_err(RegistrarError::Made)?;
        let pem = ca
            .sign(request, &identity, Validity::lasting(self.lifetime))
            .map_err(RegistrarError::Ca)?;
        let made = PeerIdentity::from_pem(&pem).map_err(RegistrarError::Made)?;
        let certificate = Certificate {
            serial: made.serial,
            key: made.key,
            pem,
            at: wall(),
            ends: Timestamp(made.not_after_unix_ms),
        };
        Ok((vec![IdentityEvent::Issued { certificate: certificate.clone(), cause }], certificate))
    }

    fn ca(&self, host: &HostName) -> Result<Ca, RegistrarError> {
        let dir: &Path = &self.identity_dir;
        if !dir.join(CA_KEY_FILE).exists() {
            return Err(RegistrarError::NoCa { dir: dir.to_owned(), host: host.clone() });
        }
        Ca::load(dir).map_err(RegistrarError::Ca)
    }

    async fn fleet_of(&self, host: &HostName) -> Result<FleetName, RegistrarError> {
        match self.fleets.of_host(host).await {
            Some(fleet) => Ok(fleet),
            None => {
                let known = self.fleets.hosts().await;
                let near = crate::fleets::nearest(host.as_str(), &known);
                Err(RegistrarError::NoHost { host: host.to_string(), near })
            }
        }
    }
}

impl std::fmt::Debug for MadeToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadeToken").field("fleet", &self.fleet).finish_non_exhaustive()
    }
}

fn handed(certificate: Certificate, ca: &Ca, fleet: FleetName) -> Handed {
    Handed { certificate_pem: certificate.pem, ca_pem: ca.cert_pem().to_owned(), fleet }
}

fn refused(host: &HostName, standing: &Standing) -> RegistrarError {
    RegistrarError::Standing(standing_words(host, standing))
}

/// Why a certificate does not count, and what to do.
pub fn standing_words(host: &HostName, standing: &Standing) -> String {
    let day = |at: &Timestamp| {
        let at = jiff::Timestamp::from_millisecond(at.0).unwrap_or_default();
        at.strftime("%Y-%m-%d %H:%M UTC").to_string()
    };
    let again = format!("to let {host} in again: ctl agent token create --host {host}");
    match standing {
        Standing::Good => format!("the certificate of {host} counts"),
        Standing::Pending => {
            format!(
                "the certificate of {host} was not acknowledged yet; run `agent join` again with the same token"
            )
        }
        Standing::Replaced { at, by: Cause::Renewal } => {
            format!("this certificate of {host} was renewed on {}; {again}", day(at))
        }
        Standing::Replaced { at, by: Cause::Token } => {
            format!(
                "this certificate of {host} was replaced by a newer one on {}; {again}",
                day(at)
            )
        }
        Standing::Dropped => {
            format!(
                "the token of this certificate of {host} was withdrawn before it was acknowledged; {again}"
            )
        }
        Standing::Revoked { at, by, reason } => {
            format!("{host} was shut out on {} by {by}: {reason}; {again}", day(at))
        }
        Standing::ByHand => {
            format!(
                "{host} was shut out once, so only a certificate from a join counts for it; {again}"
            )
        }
    }
}
