//! The first contact: a host that knows the hash of the CA, and has no certificate yet.
//!
//! ```text
//! Pinned { hash } ── handshake ──▶ the chain's last certificate has that hash ─▶ is the only root ─▶ learned()
//! ```
//!
//! Invariant: nothing is sent to a server whose chain does not end in the CA with that hash, under the name that was
//! dialled, as a coordinator of that CA's domain.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{
    TlsError,
    config::{FleetCoordinator, nobody_config, provider},
    identity::domain_of_ca,
};

const PREFIX: &str = "sha256:";

/// Names a CA: SHA-256 of its certificate in DER, as `openssl x509 -fingerprint -sha256` computes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CaHash([u8; 32]);

/// A text that is no such hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not the hash of a CA: `sha256:` and 64 hex digits, as `ctl agent token create` prints it"
)]
pub struct CaHashError(String);

impl CaHash {
    /// The hash of a certificate in DER.
    pub fn of(der: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, der).as_ref());
        Self(hash)
    }
}

impl FromStr for CaHash {
    type Err = CaHashError;

    fn from_str(text: &str) -> Result<Self, CaHashError> {
        let refused = || CaHashError(text.to_owned());
        let digits = text.strip_prefix(PREFIX).ok_or_else(refused)?;
        let is_hex = digits.len() == 64 && digits.bytes().all(|c| c.is_ascii_hexdigit());
        let mut hash = [0; 32];
        for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
            let pair = is_hex.then(|| digits.get(at..at + 2)).flatten().ok_or_else(refused)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refused())?;
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// See the module.
#[derive(Debug)]
pub struct Pinned {
    hash: CaHash,
    learned: OnceLock<CertificateDer<'static>>,
}

impl Pinned {
    pub fn new(hash: CaHash) -> Arc<Self> {
        Arc::new(Self { hash, learned: OnceLock::new() })
    }

    /// For one connection; the CA is [`learned`](Self::learned) from it.
    ///
    /// # Errors
    /// [`TlsError::Setup`].
    pub fn client_config(self: &Arc<Self>) -> Result<ClientConfig, TlsError> {
        nobody_config(Arc::new(Verifier(Arc::clone(self))))
    }

    /// The CA of the server that was spoken to, in DER.
    pub fn learned(&self) -> Option<&CertificateDer<'static>> {
        self.learned.get()
    }
}

/// Why a server is not the one that was meant.
#[derive(Debug, thiserror::Error)]
enum PinError {
    #[error("it shows no CA with its certificate; its version may be older than this one")]
    NoCa,
    #[error("its CA has the hash {is}, and the line of the token says {wanted}")]
    Other { is: CaHash, wanted: CaHash },
    #[error("its CA cannot be used: {0}")]
    Ca(String),
}

/// rustls wants a type of its own for what the configuration holds.
#[derive(Debug)]
struct Verifier(Arc<Pinned>);

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates.last().ok_or_else(|| refuse(PinError::NoCa))?;
        let (is, wanted) = (CaHash::of(ca), self.0.hash);
        if is != wanted {
            return Err(refuse(PinError::Other { is, wanted }));
        }
        let unusable = |why: String| refuse(PinError::Ca(why));
        let domain = domain_of_ca(ca).map_err(|error| unusable(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned()).map_err(|error| unusable(error.to_string()))?;
        let verifier = FleetCoordinator::new(Arc::new(roots), &domain)
            .map_err(|error| unusable(error.to_string()))?;
        let verified =
            verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)?;
        self.0.learned.get_or_init(|| ca.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn refuse(error: PinError) -> rustls::Error {
    let other = OtherError(Arc::new(error));
    rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_written_and_nothing_else_is() {
        let hash = CaHash::of(b"a certificate");
        assert_eq!(hash.to_string().parse::<CaHash>().unwrap(), hash);
        let digits = "ab".repeat(32);
        for bad in ["", "sha256:", &digits, &format!("sha256:{digits}0"), &format!("sha1:{digits}")]
        {
            assert!(bad.parse::<CaHash>().unwrap_err().to_string().contains("token create"));
        }
        assert!(format!("sha256:+{}", &digits[1..]).parse::<CaHash>().is_err());
        assert!(format!("sha256:{}ü", &digits[2..]).parse::<CaHash>().is_err());
    }
}
