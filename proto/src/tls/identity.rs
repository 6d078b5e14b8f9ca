//! Identities, and how they stand in certificates.

use std::{fmt, str::FromStr};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::ca::BACKDATE_MS;

const SCHEME: &str = "spiffe://";
/// The longest domain or name, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// What a process may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A person with ctl.
    Operator,
    /// The agent of one host; its name is the host's.
    Agent,
    Coordinator,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Operator, Self::Agent, Self::Coordinator];

    /// As it stands in a URI.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Agent => "agent",
            Self::Coordinator => "coordinator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who somebody is: `spiffe://<domain>/<role>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    domain: String,
    role: Role,
    name: String,
}

impl Identity {
    /// An identity of checked parts.
    ///
    /// # Errors
    /// [`IdentityError::Domain`] unless the domain is of small letters, digits, `.` and `-`;
    /// [`IdentityError::Name`] unless the name is of letters, digits, `.`, `_` and `-`.
    pub fn new(domain: &str, role: Role, name: &str) -> Result<Self, IdentityError> {
        let fits = |text: &str| !matches!(text, "" | "." | "..") && text.len() <= NAME_BYTES_MAX;
        let of_domain =
            |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-');
        let of_name = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        if !(fits(domain) && domain.bytes().all(of_domain)) {
            return Err(IdentityError::Domain(domain.to_owned()));
        }
        if !(fits(name) && name.bytes().all(of_name)) {
            return Err(IdentityError::Name(name.to_owned()));
        }
        Ok(Self { domain: domain.to_owned(), role, name: name.to_owned() })
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    pub const fn role(&self) -> Role {
        self.role
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.domain, self.role, self.name)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let not_ours = || IdentityError::Uri(uri.to_owned());
        let mut parts = uri.strip_prefix(SCHEME).ok_or_else(not_ours)?.split('/');
        let (Some(domain), Some(role), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(not_ours());
        };
        let role = Role::ALL.into_iter().find(|known| known.as_str() == role);
        Self::new(domain, role.ok_or_else(not_ours)?, name)
    }
}

/// What a certificate says of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    pub identity: Identity,
    /// When the certificate was issued, by the clock of whoever has the CA's key; milliseconds since 1970.
    pub issued_unix_ms: i64,
    /// When the certificate ends; milliseconds since 1970.
    pub not_after_unix_ms: i64,
    /// The serial number, in hex with colons.
    pub serial: String,
    /// Which key it is for: blake3 of the public key, in hex.
    pub key: String,
}

impl PeerIdentity {
    /// As [`from_der`](Self::from_der), for the first certificate of a PEM text.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes());
        Self::from_der(&der.map_err(|_| IdentityError::Certificate)?)
    }

    /// Reads a certificate in DER. Trust is not its matter: the TLS verifiers have checked the chain.
    ///
    /// # Errors
    /// [`IdentityError`]: not a certificate, not exactly one URI name, or not one of ours.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let certificate = parse(der)?;
        let uris = uris(&certificate)?;
        let [uri] = uris[..] else { return Err(IdentityError::Uris(uris.len())) };
        let from = certificate.validity().not_before.timestamp().saturating_mul(1000);
        Ok(Self {
            identity: uri.parse()?,
            issued_unix_ms: from.saturating_add(BACKDATE_MS),
            not_after_unix_ms: certificate.validity().not_after.timestamp().saturating_mul(1000),
            serial: certificate.raw_serial_as_string(),
            key: key_hash(certificate.public_key().raw),
        })
    }
}

/// Why a certificate or a text names nobody.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    #[error("`{0}` is not a fleet domain: small letters, digits, `.` and `-`")]
    Domain(String),
    #[error("`{0}` cannot be a name: letters, digits, `.`, `_` and `-`, at most {NAME_BYTES_MAX}")]
    Name(String),
    #[error("`{0}` is not an identity: spiffe://<domain>/<operator|agent|coordinator>/<name>")]
    Uri(String),
    #[error("it is not an X.509 certificate")]
    Certificate,
    #[error("its certificate holds {0} URI names instead of exactly one")]
    Uris(usize),
}

/// The domain of a CA: its certificate's one URI name is `spiffe://<domain>`.
pub(super) fn domain_of_ca(der: &[u8]) -> Result<String, IdentityError> {
    let certificate = parse(der)?;
    let uris = uris(&certificate)?;
    let [uri] = uris[..] else { return Err(IdentityError::Uris(uris.len())) };
    let domain = uri.strip_prefix(SCHEME).ok_or_else(|| IdentityError::Domain(uri.to_owned()))?;
    Identity::new(domain, Role::Coordinator, "x").map(|checked| checked.domain)
}

/// Names a key by its SubjectPublicKeyInfo in DER.
pub(super) fn key_hash(spki: &[u8]) -> String {
    blake3::hash(spki).to_hex().to_string()
}

/// Whether a certificate is for the key with this SubjectPublicKeyInfo.
pub(super) fn is_of_key(der: &[u8], spki: &[u8]) -> Result<bool, IdentityError> {
    Ok(parse(der)?.public_key().raw == spki)
}

/// Whether `ca` is named as the issuer of a certificate.
pub(super) fn is_issued_by(der: &[u8], ca: &[u8]) -> Result<bool, IdentityError> {
    Ok(parse(der)?.issuer().as_raw() == parse(ca)?.subject().as_raw())
}

/// See [`domain_of_ca`].
pub(super) fn uri_of_ca(domain: &str) -> String {
    format!("{SCHEME}{domain}")
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(IdentityError::Certificate),
    }
}

fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, IdentityError> {
    let names = certificate.subject_alternative_name().map_err(|_| IdentityError::Certificate)?;
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    Ok(names
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect())
}
