//! How this host gets into the fleet: a token in, a certificate out. The key is made here and stays.
//!
//! ```text
//! policy has the line's hash ─▶ key, on disk ─▶ Join over a connection that believes the line's CA only
//!     ─▶ certificate beside the identity in use ─▶ a connection with it ─▶ in use ─▶ Acknowledge
//! ```
//!
//! Stopped anywhere, it goes on with the same line and the same token.
//!
//! Invariant: nothing is sent to a coordinator whose CA does not have the line's hash.
//! Invariant: an identity that worked is replaced only by one that the coordinator has just let in.

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use proto::{
    status,
    tls::{
        self, CaHash, DialError, Generations, IdentityDir, IdentityError, Issued, NewKey,
        PeerIdentity, Pinned, Role, TlsError,
    },
    v1::{self, agent_service_client::AgentServiceClient},
};
use tonic::transport::Channel;

use crate::{
    config::JoinArgs,
    policy::{self, LoadError},
    retry::Tries,
};

/// No token is longer.
const TOKEN_BYTES_MAX: u64 = 256;

/// Why this host is not in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Policy(#[from] LoadError),
    #[error(
        "the policy {path} has the hash {is}, and the line says {wanted}: bring the one that belongs to the line \
         (ctl policy render --host {host} | ssh root@{host} 'umask 022; cat > {path}'); where the fleet file has \
         changed since: ctl apply, then a new token. Nothing was sent, the token still holds",
        path = path.display()
    )]
    OtherPolicy { path: PathBuf, host: String, is: String, wanted: String },
    #[error("cannot read the token from {from}")]
    Token {
        from: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "there is no token in {from}; it is the second line that `ctl agent token create` prints"
    )]
    NoToken { from: String },
    #[error("the identity cannot be kept")]
    Keep(#[source] TlsError),
    #[error("there is no connection to the coordinator; nothing was sent, the token still holds")]
    Dial(#[source] DialError),
    #[error("the coordinator does not let {host} in: {why}")]
    Refused { host: String, why: String },
    #[error(
        "it is not known whether {host} was let in: {why}; run the same line with the same token again"
    )]
    Lost { host: String, why: String },
    #[error("the coordinator's answer cannot be used: {why}; nothing on this host was changed")]
    Answer { why: String },
    #[error(
        "the coordinator does not take the certificate that it has just given; nothing on this host was changed"
    )]
    NotTaken(#[source] DialError),
}

/// Where to join, and as whom.
#[derive(Clone, Debug)]
pub struct Join {
    pub coordinator: String,
    pub host: String,
    pub ca_hash: CaHash,
    pub policy_hash: String,
    pub policy: PathBuf,
    pub identity: PathBuf,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Joined {
    pub fleet: String,
    /// When the certificate ends; milliseconds since 1970.
    pub ends_unix_ms: i64,
}

impl From<&JoinArgs> for Join {
    fn from(args: &JoinArgs) -> Self {
        Self {
            coordinator: args.coordinator.clone(),
            host: args.host.clone(),
            ca_hash: args.ca_hash,
            policy_hash: args.policy_hash.clone(),
            policy: args.policy.clone(),
            identity: args.identity.clone().unwrap_or_else(|| args.state.join("identity")),
        }
    }
}

impl Join {
    /// Refuses a policy file that is not the line's.
    ///
    /// # Errors
    /// [`JoinError::Policy`], [`JoinError::OtherPolicy`].
    pub fn check_policy(&self) -> Result<(), JoinError> {
        let is = policy::load(&self.policy, &self.host)?.hash;
        if is == self.policy_hash {
            return Ok(());
        }
        let (path, host, wanted) =
            (self.policy.clone(), self.host.clone(), self.policy_hash.clone());
        Err(JoinError::OtherPolicy { path, host, is, wanted })
    }

    /// Joins.
    ///
    /// # Errors
    /// [`JoinError`]; each says whether the token still holds.
    pub async fn run(&self, token: &str) -> Result<Joined, JoinError> {
        self.check_policy()?;
        let generations = Generations::of(&self.identity);
        // A key belongs to its token: one that is left from another join is not used again.
        let mut what_for = blake3::hash(token.as_bytes()).to_hex().to_string();
        what_for.truncate(16);
        let key = NewKey::keep_in(&generations.asking(&what_for)).map_err(JoinError::Keep)?;
        let pinned = Pinned::new(self.ca_hash);
        let config = pinned.client_config().map_err(JoinError::Keep)?;
        let channel =
            tls::connect(&self.coordinator, Arc::new(config)).await.map_err(JoinError::Dial)?;
        let request = v1::JoinRequest {
            host: self.host.clone(),
            token: token.to_owned(),
            csr_der: key.csr_der().map_err(JoinError::Keep)?,
        };
        let answer = AgentServiceClient::new(channel).join(request).await;
        let answer = answer.map_err(|status| self.not_let_in(&status))?.into_inner();
        let issued = usable(&answer, &key, &self.host, pinned.learned().map(|ca| ca.as_ref()))?;
        let (generation, own) = generations.put(&issued).map_err(JoinError::Keep)?;
        let channel = connect(&self.coordinator, &own).await?;
        let before = generations.switch(&generation).map_err(JoinError::Keep)?;
        if let Err(status) = acknowledge(channel).await {
            let why = self.not_let_in(&status);
            if let (JoinError::Refused { .. }, Some(before)) = (&why, &before) {
                generations.switch(before).map_err(JoinError::Keep)?;
            }
            return Err(why);
        }
        generations.asked().map_err(JoinError::Keep)?;
        Ok(Joined { fleet: answer.fleet, ends_unix_ms: own.not_after_unix_ms() })
    }

    fn not_let_in(&self, status: &tonic::Status) -> JoinError {
        let host = self.host.clone();
        // A status with a source was made on our side, out of a lost connection.
        if std::error::Error::source(status).is_some() {
            return JoinError::Lost { host, why: tls::explain(status) };
        }
        let told = status::read(status);
        let mut why = tls::explain(status);
        for line in told.iter().flat_map(|told| told.details.iter().chain(&told.mend)) {
            why = format!("{why}; {line}");
        }
        JoinError::Refused { host, why }
    }
}

/// Whether an answer is what was asked for, before anything is written.
fn usable(
    answer: &v1::JoinResponse,
    key: &NewKey,
    host: &str,
    ca: Option<&[u8]>,
) -> Result<Issued, JoinError> {
    let refused = |why: String| JoinError::Answer { why };
    let issued = new_identity(&answer.certificate_pem, &answer.ca_pem, key, host)
        .map_err(|error| refused(error.to_string()))?;
    let known = tls::certificates_of(&answer.ca_pem)
        .is_some_and(|all| all.iter().any(|der| Some(der.as_ref()) == ca));
    if known { Ok(issued) } else { Err(refused("the CA is not among those it sends".to_owned())) }
}

/// An identity of a certificate that was just issued, if it is for that key and host.
pub(crate) fn new_identity(
    cert_pem: &str,
    ca_pem: &str,
    key: &NewKey,
    host: &str,
) -> Result<Issued, WrongCertificate> {
    let peer = PeerIdentity::from_pem(cert_pem).map_err(WrongCertificate::Read)?;
    if peer.key != key.hash() {
        return Err(WrongCertificate::Key);
    }
    if (peer.identity.role(), peer.identity.name()) != (Role::Agent, host) {
        return Err(WrongCertificate::Name(peer.identity.to_string()));
    }
    let (cert_pem, ca_pem) = (cert_pem.to_owned(), ca_pem.to_owned());
    Ok(Issued { ca_pem, cert_pem, key_pem: key.pem() })
}

/// Why a certificate is not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WrongCertificate {
    #[error("{0}")]
    Read(IdentityError),
    #[error("the certificate is for another key")]
    Key,
    #[error("the certificate is for {0}")]
    Name(String),
}

/// A connection with the new certificate: the coordinator takes it, or it is not put into use.
async fn connect(coordinator: &str, own: &IdentityDir) -> Result<Channel, JoinError> {
    let config = Arc::new(tls::client_config(own).map_err(JoinError::Keep)?);
    tls::connect(coordinator, config).await.map_err(JoinError::NotTaken)
}

async fn acknowledge(channel: Channel) -> Result<(), tonic::Status> {
    let mut client = AgentServiceClient::new(channel);
    let mut tries = Tries::transient();
    loop {
        let status = match client.acknowledge(v1::AcknowledgeRequest {}).await {
            Ok(_) => return Ok(()),
            Err(status) => status,
        };
        match tries.next_delay() {
            Some(delay) if std::error::Error::source(&status).is_some() => {
                tokio::time::sleep(delay).await;
            }
            Some(_) | None => return Err(status),
        }
    }
}

/// The token from a file, or from standard input: typed unseen where that is a terminal.
///
/// # Errors
/// [`JoinError::Token`], [`JoinError::NoToken`].
pub fn read_token(file: Option<&Path>) -> Result<String, JoinError> {
    let from = file.map_or_else(|| "standard input".to_owned(), |file| file.display().to_string());
    let failed = |source| JoinError::Token { from: from.clone(), source };
    let text = match file {
        Some(file) if file != Path::new("-") => {
            limited(std::fs::File::open(file).map_err(failed)?).map_err(failed)?
        }
        Some(_) | None if io::stdin().is_terminal() => typed().map_err(failed)?,
        Some(_) | None => limited(io::stdin().lock()).map_err(failed)?,
    };
    let token = text.trim();
    if token.is_empty() { Err(JoinError::NoToken { from }) } else { Ok(token.to_owned()) }
}

fn limited(source: impl io::Read) -> io::Result<String> {
    let mut text = String::new();
    source.take(TOKEN_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// A line of the terminal without its echo: a token that stands in a window is read by whoever passes.
fn typed() -> io::Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = io::stdin();
    let usual = tcgetattr(&stdin)?;
    let mut silent = usual.clone();
    silent.local_modes -= LocalModes::ECHO;
    let mut stderr = io::stderr();
    write!(stderr, "Token: ")?;
    stderr.flush()?;
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Flush, &usual)?;
    writeln!(stderr)?;
    read.map(|_| line)
}
