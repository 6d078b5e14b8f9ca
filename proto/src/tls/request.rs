//! Asking for a certificate: the key is made where it is used, and only its public half leaves.
//!
//! ```text
//! NewKey ── csr_der ──▶ Request (signature checked) ──▶ Ca::sign ──▶ certificate
//! ```
//!
//! Invariant: what a request says of its sender is not read; only its key is, and that the sender has it.

use std::{fmt, path::Path};

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, KeyPair, PublicKey,
    PublicKeyData as _,
};
use rustls::pki_types::CertificateSigningRequestDer;

use super::{
    KEY_FILE, TlsError,
    ca::{make_dir, read_key, sync_dir, write},
    identity::key_hash,
};

/// The largest request that is read. One with a P-256 key has some 300 bytes.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024;

/// A key without a certificate.
pub struct NewKey(KeyPair);

impl NewKey {
    /// The key in [`KEY_FILE`] of `dir`, made where there is none: whoever was interrupted asks with the same key
    /// again. Durable before it is handed out.
    ///
    /// # Errors
    /// [`TlsError::Make`], [`Write`](TlsError::Write), [`Read`](TlsError::Read), [`KeyIsOpen`](TlsError::KeyIsOpen).
    pub fn keep_in(dir: &Path) -> Result<Self, TlsError> {
        let path = dir.join(KEY_FILE);
        if path.exists() {
            return KeyPair::from_pem(&read_key(&path)?).map(Self).map_err(TlsError::Make);
        }
        let key = Self(KeyPair::generate().map_err(TlsError::Make)?);
        make_dir(dir)?;
        write(&path, &key.pem(), 0o600)?;
        sync_dir(dir.parent().unwrap_or(dir))?;
        Ok(key)
    }

    /// A request for it, in DER.
    ///
    /// # Errors
    /// [`TlsError::Make`].
    pub fn csr_der(&self) -> Result<Vec<u8>, TlsError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&self.0).map_err(TlsError::Make)?;
        Ok(csr.der().to_vec())
    }

    /// For [`Issued::key_pem`](super::Issued::key_pem): it stays on this host.
    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// As [`PeerIdentity::key`](super::PeerIdentity::key).
    pub fn hash(&self) -> String {
        key_hash(&self.0.subject_public_key_info())
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NewKey").field(&self.hash()).finish()
    }
}

/// A request whose sender has shown that the key is its own.
#[derive(Debug)]
pub struct Request(PublicKey);

impl Request {
    /// Reads a request in DER and checks its signature.
    ///
    /// # Errors
    /// [`TlsError::Request`].
    pub fn from_der(der: &[u8]) -> Result<Self, TlsError> {
        if der.len() > REQUEST_BYTES_MAX {
            return Err(TlsError::Request);
        }
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map(|request| Self(request.public_key))
            .map_err(|_| TlsError::Request)
    }

    /// As [`PeerIdentity::key`](super::PeerIdentity::key).
    pub fn key(&self) -> String {
        key_hash(&self.0.subject_public_key_info())
    }

    pub(super) const fn public_key(&self) -> &PublicKey {
        &self.0
    }
}
