//! The coordinator's own certificate, read anew when its files change.
//!
//! Looked at before each handshake: a few calls of `stat`, and no clock, watcher or signal to go wrong.
//!
//! Invariant: files that do not belong together, or not yet, leave what was there before in use.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use proto::tls::{CA_FILE, CERT_FILE, IdentityDir, KEY_FILE, TlsError, server_config};
use tokio_rustls::TlsAcceptor;

/// See the module.
pub(super) struct Tls {
    dir: PathBuf,
    /// What the files looked like when they were read last, usable or not.
    seen: Stamp,
    acceptor: TlsAcceptor,
}

/// Device, inode, size and time of each file; changes with whatever is put in its place.
type Stamp = [Option<(u64, u64, u64, i64, i64)>; 3];

impl Tls {
    pub(super) fn new(own: &IdentityDir) -> Result<Self, TlsError> {
        let acceptor = TlsAcceptor::from(Arc::new(server_config(own)?));
        Ok(Self { dir: own.dir().to_owned(), seen: stamp(own.dir()), acceptor })
    }

    /// For the next handshake.
    pub(super) fn now(&mut self) -> TlsAcceptor {
        let seen = stamp(&self.dir);
        if seen != self.seen {
            self.seen = seen;
            match IdentityDir::load(&self.dir).and_then(|own| Ok((server_config(&own)?, own))) {
                Ok((config, own)) => {
                    tracing::info!(serial = own.serial(), "a new certificate of our own is in use");
                    self.acceptor = TlsAcceptor::from(Arc::new(config));
                }
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(
                        error,
                        "our own certificate has changed and cannot be used; the one before is"
                    );
                }
            }
        }
        self.acceptor.clone()
    }
}

fn stamp(dir: &Path) -> Stamp {
    [CA_FILE, CERT_FILE, KEY_FILE].map(|file| {
        let found = fs::metadata(dir.join(file)).ok()?;
        Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    })
}
