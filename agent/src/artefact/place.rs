//! Where artefacts are while they are fetched: directories that nobody else can look into, and that never outlive their use.
//!
//! ```text
//! <state>/artefacts/fetch-N/{archive,tree}     the agent's own; removed when the fetch ends, or when the agent starts
//! <state>/artefacts/lastgood-git-…             a note that /var/tmp/lastgood-git-… is ours: written before that is made
//! /var/tmp/lastgood-git-…/{config,repo}        a git repository for a user that may not see the state directory
//! ```
//!
//! Invariant: what a crash leaves is known by its name in the state directory, and removed when the agent starts.
//! Invariant: nothing here is ever used for a second fetch.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::Mode;

use super::error::ArtefactError;
use crate::store::{StoreError, dir::Dir, remove};

const NAME: &str = "artefacts";
/// Open to every user of the host, unlike the state directory.
const OUTSIDE: &str = "/var/tmp";
const OUTSIDE_PREFIX: &str = "lastgood-git-";

/// The state directory's place for artefacts.
#[derive(Debug)]
pub(super) struct Places {
    path: PathBuf,
}

/// A directory for one fetch, removed when dropped.
#[derive(Debug)]
pub(super) struct Place {
    holder: Dir,
    name: Vec<u8>,
    pub(super) dir: Dir,
    pub(super) path: PathBuf,
}

/// A directory that other users can get to, removed when dropped. It is the agent's own; what is below may be theirs.
#[derive(Debug)]
pub(super) struct Outside {
    notes: Dir,
    holder: Dir,
    name: Vec<u8>,
    pub(super) dir: Dir,
    pub(super) path: PathBuf,
}

impl Places {
    /// Opens it, made where it is missing. What an earlier run left is removed. One process has it open at a time.
    pub(super) fn open(state: &Path) -> Result<Self, StoreError> {
        let state = state.canonicalize().map_err(|source| StoreError::Open {
            path: crate::store::shown(state.as_os_str().as_encoded_bytes()),
            source,
        })?;
        let holder = Dir::open(&state)?.ensure_dir(NAME.as_bytes())?;
        for name in holder.names()? {
            // A git that outlived the agent may still write there: no reason not to start.
            if let Err(error) = remove_leftover(&holder, &name) {
                tracing::warn!(
                    reason = error.reason(),
                    "what an earlier fetch left stays until the next start"
                );
            }
        }
        Ok(Self { path: state.join(NAME) })
    }

    /// A fresh directory.
    pub(super) fn fresh(&self) -> Result<Place, StoreError> {
        static FETCHES: AtomicU64 = AtomicU64::new(0);
        let holder = Dir::open(&self.path)?;
        let name = loop {
            let name = format!("fetch-{}", FETCHES.fetch_add(1, Ordering::Relaxed));
            // Only what could not be removed is in the way.
            if holder.stat(name.as_bytes())?.is_none() {
                break name;
            }
        };
        holder.make_dir(name.as_bytes())?;
        let dir = holder.dir(name.as_bytes())?;
        Ok(Place { holder, path: self.path.join(&name), name: name.into_bytes(), dir })
    }

    /// A fresh directory that every user can get to, but none can look into or write to.
    pub(super) fn outside(&self) -> Result<Outside, ArtefactError> {
        let notes = Dir::open(&self.path)?;
        let name = format!("{OUTSIDE_PREFIX}{:016x}", RandomState::new().build_hasher().finish());
        let name = name.into_bytes();
        notes.create(&name)?;
        notes.sync()?;
        let path = Path::new(OUTSIDE).join(String::from_utf8_lossy(&name).as_ref());
        let holder = Dir::open(Path::new(OUTSIDE))?;
        holder.make_dir(&name)?;
        let dir = holder.dir(&name)?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o711))
            .map_err(|errno| ArtefactError::io(format!("open {}", path.display()))(errno.into()))?;
        Ok(Outside { notes, holder, name, dir, path })
    }
}

fn remove_leftover(holder: &Dir, name: &[u8]) -> Result<(), StoreError> {
    if is_outside(name) {
        remove_outside(&Dir::open(Path::new(OUTSIDE))?, name)?;
    }
    remove::tree(holder, name)
}

fn is_outside(name: &[u8]) -> bool {
    name.strip_prefix(OUTSIDE_PREFIX.as_bytes())
        .is_some_and(|rest| rest.len() == 16 && rest.iter().all(u8::is_ascii_hexdigit))
}

/// What others may have made in it goes first, so that a crash leaves nothing elsewhere.
fn remove_outside(holder: &Dir, name: &[u8]) -> Result<(), StoreError> {
    let Some(dir) = holder.dir_if_there(name)? else { return Ok(()) };
    // Somebody else's of that name is none of ours.
    if dir.own_stat()?.st_uid != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    for below in dir.names()? {
        remove::tree(&dir, &below)?;
    }
    holder.remove_dir(name)
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = remove::tree(&self.holder, &self.name) {
            tracing::warn!(
                reason = error.reason(),
                "what was fetched stays until the agent starts again"
            );
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let removed = remove_outside(&self.holder, &self.name);
        if let Err(error) = removed.and_then(|()| self.notes.unlink(&self.name)) {
            tracing::warn!(
                reason = error.reason(),
                "a git repository stays until the agent starts again"
            );
        }
    }
}
