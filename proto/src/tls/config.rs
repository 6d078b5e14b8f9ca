//! TLS configurations for both sides, and the checks that they add to the chain of trust.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};

use super::{
    CA_FILE, CERT_FILE, Identity, IdentityError, KEY_FILE, PeerIdentity, Role, TlsError,
    ca::{read, read_key},
    generations::steadily,
    identity,
};

/// Nothing but gRPC is spoken.
const ALPN: &[u8] = b"h2";

/// An identity's certificate, its key and the CA, read from a directory.
pub struct IdentityDir {
    dir: PathBuf,
    owner: PeerIdentity,
    cas: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl IdentityDir {
    /// Reads [`CA_FILE`] (one or more), [`CERT_FILE`] and [`KEY_FILE`] of `dir`.
    ///
    /// # Errors
    /// [`TlsError::Read`], [`Pem`](TlsError::Pem), [`KeyIsOpen`](TlsError::KeyIsOpen),
    /// [`Identity`](TlsError::Identity), [`Setup`](TlsError::Setup).
    pub fn load(dir: &Path) -> Result<Self, TlsError> {
        steadily(dir, || Self::load_now(dir))
    }

    fn load_now(dir: &Path) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        let cas = certificates(&dir.join(CA_FILE))?;
        for root in &cas {
            roots.add(root.clone()).map_err(TlsError::Setup)?;
        }
        let chain = certificates(&dir.join(CERT_FILE))?;
        let leaf = chain.first().map_or(&[][..], |leaf| leaf.as_ref());
        let owner = PeerIdentity::from_der(leaf).map_err(TlsError::Identity)?;
        let path = dir.join(KEY_FILE);
        let key = PrivateKeyDer::from_pem_slice(read_key(&path)?.as_bytes())
            .map_err(|_| TlsError::Pem { path, wanted: "private key" })?;
        Ok(Self { dir: dir.to_owned(), owner, cas, roots: Arc::new(roots), chain, key })
    }

    /// Where it was read from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The certificate's serial number, in hex with colons.
    pub fn serial(&self) -> &str {
        &self.owner.serial
    }

    /// What the certificate says of its owner.
    pub const fn owner(&self) -> &PeerIdentity {
        &self.owner
    }

    /// The CA that issued the certificate, in DER.
    ///
    /// # Errors
    /// [`TlsError::Pem`] where it is not among the CAs of this identity.
    pub fn issuer(&self) -> Result<&CertificateDer<'static>, TlsError> {
        let leaf = self.chain.first().map_or(&[][..], |leaf| leaf.as_ref());
        let issued = |ca: &&CertificateDer<'static>| identity::is_issued_by(leaf, ca) == Ok(true);
        let path = self.dir.join(CA_FILE);
        self.cas
            .iter()
            .find(issued)
            .ok_or(TlsError::Pem { path, wanted: "certificate of the issuer" })
    }

    pub const fn identity(&self) -> &Identity {
        &self.owner.identity
    }

    /// When the certificate was issued; milliseconds since 1970.
    pub const fn issued_unix_ms(&self) -> i64 {
        self.owner.issued_unix_ms
    }

    /// When the certificate ends; milliseconds since 1970.
    pub const fn not_after_unix_ms(&self) -> i64 {
        self.owner.not_after_unix_ms
    }
}

impl fmt::Debug for IdentityDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityDir").field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// The coordinator's side: a client shows a certificate of our CA and domain, or none at all; a bad one gets no
/// connection. Whoever shows none is nobody, and what nobody may do is the caller's matter.
///
/// Our own CA goes along with the certificate, for hosts that join and know no more of it than its hash.
///
/// # Errors
/// [`TlsError::Role`] unless the identity is a coordinator's, [`Verifier`](TlsError::Verifier),
/// [`Setup`](TlsError::Setup).
pub fn server_config(own: &IdentityDir) -> Result<ServerConfig, TlsError> {
    let Role::Coordinator = own.identity().role() else {
        let needs = "to listen, that of a coordinator is needed";
        return Err(TlsError::Role { is: own.identity().role(), needs });
    };
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::clone(&own.roots), provider())
        .build()
        .map_err(TlsError::Verifier)?;
    let verifier = FleetClients { inner, domain: own.identity().domain().to_owned() };
    let mut chain = own.chain.clone();
    chain.push(own.issuer()?.clone());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Setup)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, own.key.clone_key())
        .map_err(TlsError::Setup)?;
    // A resumed session would outlive its certificate: it is not checked again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// The side of ctl and agents: the server is a coordinator of our CA and domain, under the name that was dialled.
///
/// # Errors
/// [`TlsError::Role`] for a coordinator's identity, [`Verifier`](TlsError::Verifier), [`Setup`](TlsError::Setup).
pub fn client_config(own: &IdentityDir) -> Result<ClientConfig, TlsError> {
    let (Role::Operator | Role::Agent) = own.identity().role() else {
        let needs = "to dial, that of an operator or an agent is needed";
        return Err(TlsError::Role { is: own.identity().role(), needs });
    };
    let verifier = FleetCoordinator::new(Arc::clone(&own.roots), own.identity().domain())?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
        .map_err(TlsError::Setup)?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// As [`client_config`], for a client that shows no certificate.
pub(super) fn nobody_config(
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Why a peer with a certificate of our CA is not spoken to.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PeerError {
    #[error("its certificate names nobody of the fleet")]
    Identity(#[source] IdentityError),
    #[error("its certificate is of another domain, {theirs} instead of {ours}")]
    Domain { theirs: String, ours: String },
    #[error("its certificate is that of the role {is}, which does not {does}")]
    Role { is: Role, does: &'static str },
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = || TlsError::Pem { path: path.to_owned(), wanted: "certificate" };
    let found: Vec<_> = CertificateDer::pem_slice_iter(read(path)?.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| pem())?;
    if found.is_empty() { Err(pem()) } else { Ok(found) }
}

/// All certificates of a PEM text, if it holds nothing else.
pub fn certificates_of(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()
}

/// The first certificate of a PEM text; `path` is where it belongs.
pub(super) fn first_certificate(
    pem: &str,
    path: &Path,
) -> Result<CertificateDer<'static>, TlsError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| TlsError::Pem { path: path.to_owned(), wanted: "certificate" })
}

/// Who the certificate names, if it is somebody of `domain`.
fn member(certificate: &CertificateDer<'_>, domain: &str) -> Result<Identity, PeerError> {
    let peer = PeerIdentity::from_der(certificate).map_err(PeerError::Identity)?;
    if peer.identity.domain() == domain {
        Ok(peer.identity)
    } else {
        let (theirs, ours) = (peer.identity.domain().to_owned(), domain.to_owned());
        Err(PeerError::Domain { theirs, ours })
    }
}

fn refuse(error: PeerError) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// What the coordinator asks of a client beyond the chain.
#[derive(Debug)]
struct FleetClients {
    inner: Arc<dyn ClientCertVerifier>,
    domain: String,
}

impl ClientCertVerifier for FleetClients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified =
            self.inner.verify_client_cert(end_entity, intermediates, now).inspect_err(|why| {
                // The caller of this knows an address only, and whoever looks for a host that is gone knows its name.
                if let Ok(named) = PeerIdentity::from_der(end_entity) {
                    let (named, why) = (named.identity, super::peer_words(why));
                    tracing::warn!(%named, why, "a certificate was refused");
                }
            })?;
        let role = member(end_entity, &self.domain).map_err(refuse)?.role();
        match role {
            Role::Operator | Role::Agent => Ok(verified),
            Role::Coordinator => Err(refuse(PeerError::Role { is: role, does: "dial" })),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// What a client asks of the coordinator beyond the chain and the name.
#[derive(Debug)]
pub(super) struct FleetCoordinator {
    inner: Arc<WebPkiServerVerifier>,
    domain: String,
}

impl FleetCoordinator {
    pub(super) fn new(roots: Arc<RootCertStore>, domain: &str) -> Result<Self, TlsError> {
        let inner = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(TlsError::Verifier)?;
        Ok(Self { inner, domain: domain.to_owned() })
    }
}

impl ServerCertVerifier for FleetCoordinator {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        let role = member(end_entity, &self.domain).map_err(refuse)?.role();
        match role {
            Role::Coordinator => Ok(verified),
            Role::Operator | Role::Agent => {
                Err(refuse(PeerError::Role { is: role, does: "coordinate" }))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
