//! Who is who: identities in certificates, the CA that issues them, and TLS that accepts nothing else.
//!
//! ```text
//! Ca ── issue ──▶ ca.pem cert.pem key.pem ── IdentityDir ─┬─▶ server_config   the coordinator's side
//!                 spiffe://<domain>/<role>/<name>         └─▶ client_config ─▶ channel   ctl's and agents' side
//!
//! NewKey ── Request ─▶ Ca::sign ─▶ certificate ─▶ Generations ─▶ IdentityDir      a host that joins, or renews
//!              └─ over Pinned: a coordinator of the CA with a known hash, and no certificate of our own yet
//! ```
//!
//! Invariant: TLS 1.3 only, both sides show a certificate of our own CA and of the same domain, or the client shows
//! none and is nobody; no session is resumed, for a resumed one is not checked again.
//! Invariant: who a peer is comes from its one URI name, never from a common name and never from a message.
//! Invariant: the provider is passed by hand (ring); nothing depends on a process-wide default.

mod ca;
mod channel;
mod config;
mod generations;
mod identity;
mod pinned;
mod request;
#[cfg(test)]
mod tests;
mod words;

pub use self::{
    ca::{Ca, Issued, Validity},
    channel::{CONNECT_TIMEOUT, DialError, channel, connect},
    config::{IdentityDir, PeerError, certificates_of, client_config, server_config},
    generations::{Generation, Generations},
    identity::{Identity, IdentityError, PeerIdentity, Role},
    pinned::{CaHash, CaHashError, Pinned},
    request::{NewKey, REQUEST_BYTES_MAX, Request},
    words::{explain, peer_words},
};

use std::{io, path::PathBuf};

/// The CA's certificate, in a CA's and in an identity's directory.
pub const CA_FILE: &str = "ca.pem";
/// The CA's key, 0600, only in a CA's directory.
pub const CA_KEY_FILE: &str = "ca-key.pem";
/// An identity's certificate.
pub const CERT_FILE: &str = "cert.pem";
/// An identity's key, 0600.
pub const KEY_FILE: &str = "key.pem";

/// Why an identity, a CA or a TLS configuration could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("{} is already there; a CA is never overwritten, for every certificate of the fleet hangs on it", path.display())]
    Exists { path: PathBuf },

    #[error("{} holds no {wanted} in PEM form", path.display())]
    Pem { path: PathBuf, wanted: &'static str },

    #[error("{} can be read by others; it is a key: chmod 600 it", path.display())]
    KeyIsOpen { path: PathBuf },

    #[error("{} in {} belongs to none of the CA certificates there; bring the CA's own key", CA_KEY_FILE, dir.display())]
    OtherKey { dir: PathBuf },

    #[error(
        "what was sent is not a request for a certificate, or its sender does not have the key"
    )]
    Request,

    #[error("`{host}` is neither a DNS name nor an IP address")]
    Host { host: String },

    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),

    #[error("the certificate of this identity is not usable")]
    Identity(#[source] IdentityError),

    #[error("the certificate in use here is of the role {is}; {needs}")]
    Role { is: Role, needs: &'static str },

    #[error("the domain {wanted} is not the CA's, {of_ca}")]
    Domain { wanted: String, of_ca: String },

    #[error("TLS cannot be set up with this certificate and key")]
    Setup(#[source] rustls::Error),

    #[error("the CA's certificate cannot be used to check others")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}
