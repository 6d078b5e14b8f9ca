//! The fleet's own CA, and the files that it and its certificates live in.

use std::{
    fmt, fs,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    CA_FILE, CA_KEY_FILE, CERT_FILE, Identity, IdentityError, KEY_FILE, Role, TlsError, identity,
    request::Request,
};

/// Ten years: a CA is replaced by adding the next one to `ca.pem`, not in a hurry.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates begin in the past, for hosts whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// The same, for what reads certificates.
pub(super) const BACKDATE_MS: i64 = 5 * 60 * 1000;

/// From when to when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: SystemTime,
    pub until: SystemTime,
}

impl Validity {
    /// From a little before now for `lifetime` from now.
    pub fn lasting(lifetime: Duration) -> Self {
        let now = SystemTime::now();
        Self { from: now - BACKDATE, until: now + lifetime }
    }
}

/// The CA of one fleet domain.
pub struct Ca {
    domain: String,
    cert_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// A new CA for `domain`; nothing is written.
    ///
    /// # Errors
    /// [`TlsError::Identity`] for a domain that is none, [`TlsError::Make`].
    pub fn create(domain: &str) -> Result<Self, TlsError> {
        // The domain is checked as every identity's is.
        Identity::new(domain, Role::Coordinator, "x").map_err(TlsError::Identity)?;
        let validity = Validity::lasting(CA_LIFETIME);
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("Lastgood CA {domain}"));
        params.subject_alt_names = vec![uri(&identity::uri_of_ca(domain))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = (validity.from.into(), validity.until.into());
        let key = KeyPair::generate().map_err(TlsError::Make)?;
        let cert_pem = params.self_signed(&key).map_err(TlsError::Make)?.pem();
        let key_pem = key.serialize_pem();
        let issuer = Issuer::new(params, key);
        Ok(Self { domain: domain.to_owned(), cert_pem, key_pem, issuer })
    }

    /// Writes [`CA_FILE`] and [`CA_KEY_FILE`] into `dir`, which is made (0700) where it is missing.
    ///
    /// # Errors
    /// [`TlsError::Exists`], [`TlsError::Write`].
    pub fn save(&self, dir: &Path) -> Result<(), TlsError> {
        let (cert, key) = (dir.join(CA_FILE), dir.join(CA_KEY_FILE));
        for path in [&cert, &key] {
            if path.exists() {
                return Err(TlsError::Exists { path: path.clone() });
            }
        }
        make_dir(dir)?;
        write(&key, &self.key_pem, 0o600)?;
        write(&cert, &self.cert_pem, 0o644)
    }

    /// Puts [`CA_KEY_FILE`] beside a coordinator's identity, which can then let hosts join.
    ///
    /// # Errors
    /// [`TlsError::Write`].
    pub fn save_key(&self, dir: &Path) -> Result<(), TlsError> {
        make_dir(dir)?;
        write(&dir.join(CA_KEY_FILE), &self.key_pem, 0o600)
    }

    /// Reads what [`save`](Self::save) wrote, or what stands beside a coordinator's identity. Of several
    /// certificates the one that the key belongs to counts.
    ///
    /// # Errors
    /// [`TlsError::Read`], [`Pem`](TlsError::Pem), [`KeyIsOpen`](TlsError::KeyIsOpen),
    /// [`Identity`](TlsError::Identity), [`Make`](TlsError::Make), [`OtherKey`](TlsError::OtherKey).
    pub fn load(dir: &Path) -> Result<Self, TlsError> {
        let cert_pem = read(&dir.join(CA_FILE))?;
        let key_pem = read_key(&dir.join(CA_KEY_FILE))?;
        let pem = || TlsError::Pem { path: dir.join(CA_FILE), wanted: "certificate" };
        let key = KeyPair::from_pem(&key_pem).map_err(TlsError::Make)?;
        let own = key.subject_public_key_info();
        let mut der = None;
        for found in CertificateDer::pem_slice_iter(cert_pem.as_bytes()) {
            let found = found.map_err(|_| pem())?;
            if identity::is_of_key(&found, &own).map_err(TlsError::Identity)? {
                der = Some(found);
            }
        }
        let der = der.ok_or_else(|| TlsError::OtherKey { dir: dir.to_owned() })?;
        let domain = identity::domain_of_ca(&der).map_err(TlsError::Identity)?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(TlsError::Make)?;
        Ok(Self { domain, cert_pem, key_pem, issuer })
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The certificates that are handed out to check others with.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// A certificate and a new key for `identity`. `hosts` are the DNS names and IP addresses that clients dial: for
    /// coordinators.
    ///
    /// # Errors
    /// [`TlsError::Domain`] for an identity of another domain, [`Host`](TlsError::Host), [`Make`](TlsError::Make).
    pub fn issue(
        &self,
        identity: &Identity,
        hosts: &[String],
        validity: Validity,
    ) -> Result<Issued, TlsError> {
        let key = KeyPair::generate().map_err(TlsError::Make)?;
        Ok(Issued {
            ca_pem: self.cert_pem.clone(),
            cert_pem: self.certificate(identity, hosts, validity, &key)?,
            key_pem: key.serialize_pem(),
        })
    }

    /// A certificate for a key that this side never sees. Nothing but the public key is taken from the request: who
    /// it is for, and for what, is the caller's word.
    ///
    /// # Errors
    /// As [`issue`](Self::issue).
    pub fn sign(
        &self,
        request: &Request,
        identity: &Identity,
        validity: Validity,
    ) -> Result<String, TlsError> {
        self.certificate(identity, &[], validity, request.public_key())
    }

    fn certificate(
        &self,
        identity: &Identity,
        hosts: &[String],
        validity: Validity,
        key: &impl PublicKeyData,
    ) -> Result<String, TlsError> {
        if identity.domain() != self.domain {
            let (wanted, of_ca) = (identity.domain().to_owned(), self.domain.clone());
            return Err(TlsError::Domain { wanted, of_ca });
        }
        let mut params =
            CertificateParams::new(hosts).map_err(|_| TlsError::Host { host: hosts.join(", ") })?;
        params.subject_alt_names.push(uri(&identity.to_string())?);
        params.distinguished_name = common_name(identity.name());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match identity.role() {
            Role::Coordinator => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Operator | Role::Agent => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (validity.from.into(), validity.until.into());
        Ok(params.signed_by(key, &self.issuer).map_err(TlsError::Make)?.pem())
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("domain", &self.domain).finish_non_exhaustive()
    }
}

/// A certificate with its key, and the CA to check others with.
#[derive(Clone)]
pub struct Issued {
    pub ca_pem: String,
    pub cert_pem: String,
    pub key_pem: String,
}

impl Issued {
    /// Writes [`CA_FILE`], [`CERT_FILE`] and [`KEY_FILE`] into `dir`, which is made (0700) where it is missing.
    /// Each file is replaced whole.
    ///
    /// # Errors
    /// [`TlsError::Write`].
    pub fn save(&self, dir: &Path) -> Result<(), TlsError> {
        make_dir(dir)?;
        write(&dir.join(KEY_FILE), &self.key_pem, 0o600)?;
        write(&dir.join(CERT_FILE), &self.cert_pem, 0o644)?;
        write(&dir.join(CA_FILE), &self.ca_pem, 0o644)
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

pub(super) fn read(path: &Path) -> Result<String, TlsError> {
    fs::read_to_string(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

/// Reads a key, unless anybody but its owner can.
pub(super) fn read_key(path: &Path) -> Result<String, TlsError> {
    let metadata =
        fs::metadata(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(TlsError::KeyIsOpen { path: path.to_owned() });
    }
    read(path)
}

pub(super) fn make_dir(dir: &Path) -> Result<(), TlsError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| TlsError::Write { path: dir.to_owned(), source })
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), TlsError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| TlsError::Write { path: dir.to_owned(), source })
}

/// Puts a file in its place whole and durably.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let place = || -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new("."));
        let unfinished = path.with_extension("new");
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(parent)?.sync_all()
    };
    place().map_err(|source| TlsError::Write { path: path.to_owned(), source })
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn uri(text: &str) -> Result<SanType, TlsError> {
    let refused = |_| TlsError::Identity(IdentityError::Uri(text.to_owned()));
    Ok(SanType::URI(text.try_into().map_err(refused)?))
}
