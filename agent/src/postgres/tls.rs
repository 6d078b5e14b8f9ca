//! TLS to a database, by what its URL asks for.
//!
//! ```text
//! sslmode=prefer, require        Anybody          encrypted; who answers is not looked at, as libpq does
//! verify-ca (or a root given)    Issuer           the certificate is of a known issuer
//! verify-full                    IssuerAndName    and for this name
//! ```
//!
//! Invariant: one provider, ring; a handshake's signatures are verified whatever the mode.

use std::{error::Error, path::PathBuf, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Unreadable;

/// Who may answer. The path is a PEM file of issuers; without one, the host's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    Anybody,
    Issuer(Option<PathBuf>),
    IssuerAndName(Option<PathBuf>),
}

/// What the library connects with.
pub(super) fn connector(trust: Trust) -> Result<MakeRustlsConnect, Unreadable> {
    let provider = Arc::new(ring::default_provider());
    let failed = |error: &dyn Error| Unreadable::Tls(crate::http::words(error));
    let (root, any_name) = match trust {
        Trust::Anybody => (None, true),
        Trust::Issuer(root) => (Some(root), true),
        Trust::IssuerAndName(root) => (Some(root), false),
    };
    let issuers = match root {
        None => None,
        Some(root) => {
            let roots = Arc::new(roots(root)?);
            let verifier =
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
            Some(verifier.map_err(|error| failed(&error))?)
        }
    };
    let verifier = Verifier { issuers, any_name, provider: Arc::clone(&provider) };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// What is wrong with a certificate, without the name that was asked for; none where it is something else.
pub(super) fn certificate_words(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let inner = io.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(found) = inner.or_else(|| error.downcast_ref()) {
            let words = "its certificate is for another name";
            return Some(if is_other_name(found) { words.to_owned() } else { found.to_string() });
        }
        next = error.source();
    }
    None
}

fn is_other_name(error: &rustls::Error) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(
        error,
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })
    )
}

fn roots(file: Option<PathBuf>) -> Result<RootCertStore, Unreadable> {
    let mut store = RootCertStore::empty();
    match file {
        Some(file) => {
            let unreadable = || {
                Unreadable::Tls(format!(
                    "{} holds no certificates that can be read",
                    file.display()
                ))
            };
            for certificate in CertificateDer::pem_file_iter(&file).map_err(|_| unreadable())? {
                store.add(certificate.map_err(|_| unreadable())?).map_err(|_| unreadable())?;
            }
        }
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        return Err(Unreadable::Tls("there are no root certificates".to_owned()));
    }
    Ok(store)
}

#[derive(Debug)]
struct Verifier {
    /// None: anybody may answer.
    issuers: Option<Arc<WebPkiServerVerifier>>,
    any_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(issuers) = &self.issuers else { return Ok(ServerCertVerified::assertion()) };
        match issuers.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The name is looked at last: all else holds.
            Err(error) if self.any_name && is_other_name(&error) => {
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
