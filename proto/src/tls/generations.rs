//! An identity on disk that can be replaced while it is in use: a directory per generation, and one link.
//!
//! ```text
//! identity/ca.pem, cert.pem, key.pem ─▶ current/…          what people and tools read
//! identity/current ─▶ generations/6f02a1…                  one rename changes all three files at once
//! identity/generations/6f02a1…/{ca,cert,key}.pem           named by the certificate's serial number
//! identity/asking-<what for>/key.pem                       the key of a certificate that is on its way
//! ```
//!
//! Invariant: at every instant, a power cut included, the three files belong together.
//! Invariant: an identity that was put there by hand as three plain files is taken over before it is replaced.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::{
    CA_FILE, CERT_FILE, IdentityDir, Issued, KEY_FILE, PeerIdentity, TlsError,
    ca::{read, read_key, sync_dir},
    config::first_certificate,
};

const CURRENT: &str = "current";
const GENERATIONS: &str = "generations";
const ASKING: &str = "asking-";
const FILES: [&str; 3] = [CA_FILE, CERT_FILE, KEY_FILE];

/// A directory with an identity in generations.
#[derive(Clone, Debug)]
pub struct Generations {
    dir: PathBuf,
}

/// One generation by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation(String);

impl Generations {
    /// Nothing is read or made yet.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Where the key of a certificate that was asked for is kept until it is in use. `what_for` is plain letters and
    /// digits; a key that was made for one thing is never used for another.
    pub fn asking(&self, what_for: &str) -> PathBuf {
        self.dir.join(format!("{ASKING}{what_for}"))
    }

    /// Forgets the keys that certificates were asked for with.
    ///
    /// # Errors
    /// [`TlsError::Write`].
    pub fn asked(&self) -> Result<(), TlsError> {
        let remove = || -> io::Result<()> {
            for entry in fs::read_dir(&self.dir)? {
                let entry = entry?;
                if entry.file_name().to_str().is_some_and(|name| name.starts_with(ASKING)) {
                    fs::remove_dir_all(entry.path())?;
                }
            }
            Ok(())
        };
        remove().map_err(|source| TlsError::Write { path: self.dir.clone(), source })?;
        sync_dir(&self.dir)
    }

    /// Writes a generation beside the one in use, durably, and reads it back.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn put(&self, issued: &Issued) -> Result<(Generation, IdentityDir), TlsError> {
        let path = self.dir.join(CERT_FILE);
        let leaf = first_certificate(&issued.cert_pem, &path)?;
        let serial = PeerIdentity::from_der(&leaf).map_err(TlsError::Identity)?.serial;
        let generation = Generation(serial.replace(':', ""));
        let at = self.path(&generation);
        issued.save(&at)?;
        sync_dir(&self.dir.join(GENERATIONS))?;
        sync_dir(&self.dir)?;
        Ok((generation, IdentityDir::load(&at)?))
    }

    /// The generation in use; none where there is no identity, or one of plain files.
    pub fn current(&self) -> Option<Generation> {
        let target = fs::read_link(self.dir.join(CURRENT)).ok()?;
        Some(Generation(target.file_name()?.to_str()?.to_owned()))
    }

    /// Puts a generation into use and answers the one that was. Older ones than these two are removed.
    ///
    /// # Errors
    /// [`TlsError`]; what was in use still is.
    pub fn switch(&self, to: &Generation) -> Result<Option<Generation>, TlsError> {
        let mut before = None;
        for (name, target) in self.links(to)? {
            if name == CURRENT {
                before = self.current();
            }
            self.link(&target, name)?;
        }
        self.prune(to, before.as_ref());
        Ok(before)
    }

    /// Which links are made to put a generation into use, in their order: whoever is stopped after any of them leaves
    /// one whole identity, and can begin anew.
    fn links(&self, to: &Generation) -> Result<Vec<(&'static str, PathBuf)>, TlsError> {
        let in_generations = |generation: &Generation| Path::new(GENERATIONS).join(&generation.0);
        let through = FILES.map(|file| (file, Path::new(CURRENT).join(file)));
        let found = |file: &str| self.dir.join(file).symlink_metadata();
        let mut links = Vec::new();
        if FILES.into_iter().any(|file| found(file).is_ok_and(|found| found.is_file())) {
            // What is seen now becomes a generation, so that none of these links changes what is read.
            let seen = Issued {
                ca_pem: read(&self.dir.join(CA_FILE))?,
                cert_pem: read(&self.dir.join(CERT_FILE))?,
                key_pem: read_key(&self.dir.join(KEY_FILE))?,
            };
            let (generation, _) = self.put(&seen)?;
            links.push((CURRENT, in_generations(&generation)));
            links.extend(through.clone());
        }
        links.push((CURRENT, in_generations(to)));
        let first = |file: &str| found(file).is_err();
        links.extend(through.into_iter().filter(|(file, _)| first(file)));
        Ok(links)
    }
    /// Puts a link in its place by one rename, durably.
    fn link(&self, target: &Path, name: &str) -> Result<(), TlsError> {
        let path = self.dir.join(name);
        let unfinished = self.dir.join(format!("{name}.new"));
        let place = || -> io::Result<()> {
            match fs::remove_file(&unfinished) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            symlink(target, &unfinished)?;
            fs::rename(&unfinished, &path)
        };
        place().map_err(|source| TlsError::Write { path: path.clone(), source })?;
        sync_dir(&self.dir)
    }

    /// What is not removed now is with the next generation; no identity depends on it.
    fn prune(&self, keep: &Generation, too: Option<&Generation>) {
        let Ok(entries) = fs::read_dir(self.dir.join(GENERATIONS)) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let kept = |generation: &Generation| name.to_str() == Some(&generation.0);
            if !kept(keep) && !too.is_some_and(kept) {
                fs::remove_dir_all(entry.path()).ok();
            }
        }
    }

    fn path(&self, generation: &Generation) -> PathBuf {
        self.dir.join(GENERATIONS).join(&generation.0)
    }
}

/// Reads with `load` while no switch happens in between: files of two generations are never taken together.
pub(super) fn steadily<T>(
    dir: &Path,
    load: impl Fn() -> Result<T, TlsError>,
) -> Result<T, TlsError> {
    loop {
        let before = Generations::of(dir).current();
        let loaded = load();
        // A switch is rare; whoever is overtaken by one reads once more.
        if Generations::of(dir).current() == before {
            return loaded;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tls::{Ca, Identity, NewKey, Request, Role, Validity};

    fn agent() -> Identity {
        Identity::new("ace.example.com", Role::Agent, "web-1").unwrap()
    }

    fn issue(ca: &Ca) -> Issued {
        ca.issue(&agent(), &[], Validity::lasting(Duration::from_secs(3600))).unwrap()
    }

    #[test]
    fn a_new_generation_is_read_where_the_old_one_was() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create("ace.example.com").unwrap();
        let generations = Generations::of(dir.path());
        let mut last = None;
        for _ in 0..4 {
            let (new, put) = generations.put(&issue(&ca)).unwrap();
            assert_eq!(generations.switch(&new).unwrap(), last);
            assert_eq!(IdentityDir::load(dir.path()).unwrap().serial(), put.serial());
            assert_eq!(generations.current(), Some(new.clone()));
            last = Some(new);
        }
        let kept = fs::read_dir(dir.path().join(GENERATIONS)).unwrap().count();
        assert_eq!(kept, 2, "the one in use and the one before");
    }

    #[test]
    fn plain_files_are_taken_over_and_can_be_gone_back_to() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create("ace.example.com").unwrap();
        issue(&ca).save(dir.path()).unwrap();
        let by_hand = IdentityDir::load(dir.path()).unwrap().serial().to_owned();
        let generations = Generations::of(dir.path());
        let (new, _) = generations.put(&issue(&ca)).unwrap();
        let before = generations.switch(&new).unwrap().expect("the plain files");
        assert_ne!(IdentityDir::load(dir.path()).unwrap().serial(), by_hand);
        generations.switch(&before).unwrap();
        assert_eq!(IdentityDir::load(dir.path()).unwrap().serial(), by_hand);
    }

    #[test]
    fn p04_whoever_stops_in_the_middle_of_a_switch_leaves_one_whole_identity() {
        let ca = Ca::create("ace.example.com").unwrap();
        for stopped_after in 0..6 {
            let dir = tempfile::tempdir().unwrap();
            issue(&ca).save(dir.path()).unwrap();
            let generations = Generations::of(dir.path());
            let (next, put) = generations.put(&issue(&ca)).unwrap();
            let links = generations.links(&next).unwrap();
            assert_eq!(links.len(), 5);
            for (name, target) in links.into_iter().take(stopped_after) {
                generations.link(&target, name).unwrap();
                // Refuses a key that is not the certificate's.
                crate::tls::client_config(&IdentityDir::load(dir.path()).unwrap()).unwrap();
            }
            generations.switch(&next).unwrap();
            let now = IdentityDir::load(dir.path()).unwrap();
            crate::tls::client_config(&now).unwrap();
            assert_eq!(now.serial(), put.serial(), "stopped after {stopped_after}");
        }
    }

    #[test]
    fn a_key_that_was_asked_with_is_kept_until_it_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let generations = Generations::of(dir.path());
        let first = NewKey::keep_in(&generations.asking("a")).unwrap();
        let again = NewKey::keep_in(&generations.asking("a")).unwrap();
        assert_eq!(first.hash(), again.hash());
        assert_ne!(NewKey::keep_in(&generations.asking("b")).unwrap().hash(), first.hash());
        let request = Request::from_der(&again.csr_der().unwrap()).unwrap();
        assert_eq!(request.key(), first.hash());
        generations.asked().unwrap();
        assert_ne!(NewKey::keep_in(&generations.asking("a")).unwrap().hash(), first.hash());
    }

    #[test]
    fn p09_a_request_gets_its_key_signed_and_nothing_else_of_it() {
        let ca = Ca::create("ace.example.com").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let key = NewKey::keep_in(dir.path()).unwrap();
        let mut csr = key.csr_der().unwrap();
        let request = Request::from_der(&csr).unwrap();
        let validity = Validity::lasting(Duration::from_secs(60));
        let cert_pem = ca.sign(&request, &agent(), validity).unwrap();
        let der = first_certificate(&cert_pem, dir.path()).unwrap();
        let peer = PeerIdentity::from_der(&der).unwrap();
        assert_eq!((peer.identity, peer.key), (agent(), key.hash()));
        // Whoever does not have the key cannot ask for it.
        let last = csr.len() - 1;
        csr[last] ^= 1;
        assert!(matches!(Request::from_der(&csr), Err(TlsError::Request)));
        assert!(matches!(Request::from_der(&[0; 5000]), Err(TlsError::Request)));
    }
}
