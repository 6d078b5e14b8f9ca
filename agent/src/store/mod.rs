//! The content-addressed store, and the three things that are done with it: snapshot, stage, switch.
//!
//! ```text
//!              live tree ──snapshot──▶ objects + manifests + record           (while it serves)
//!                  ▲                          │ stage: build, verify every byte (while it serves)
//!                  │                          ▼
//!                  └────switch────▶ <parent>/.lastgood/<name>.<16 digits>      (services stopped)
//!                     the replaced tree stands there afterwards: undo is the same switch, the other way
//!
//! <state>/store/{objects,packs,manifests,snapshots,live,late,damage,damaged,cache,tmp}   <state>/hold/<component>
//! ```
//!
//! In the background what nothing names is freed, and what is kept for long is compressed: [`Store::compact`].
//!
//! Blocking: call it from a thread that may block. Operations on one component wait for each other; looking
//! ([`Store::live`], [`Store::observe`], [`Store::list`]) waits for nobody.
//!
//! Invariant: a snapshot's record is durable only after everything that it names is.
//! Invariant: nothing live is changed but by [`Store::switch`], and by that only under a durable hold.
//! Invariant: what a switch replaces is known by a manifest, and stands whole beside what replaced it.
//! Invariant: after [`StoreError::Fsync`] the process ends; what is on disk says how to go on.

mod beside;
mod build;
mod cache;
mod change;
mod compact;
mod compare;
mod decoded;
pub(crate) mod dir;
#[cfg(any(test, fuzzing))]
pub mod door;
mod error;
mod flush;
mod hash;
mod hold;
mod import;
mod inspect;
mod known;
mod learn;
mod manifest;
mod mark;
mod meta;
mod mounts;
mod need;
mod objects;
mod overlay;
pub mod own;
mod packs;
mod privileged;
pub mod problems;
mod prune;
mod records;
mod relied;
pub(crate) mod remove;
mod repack;
mod retention;
mod reuse;
mod scan;
mod seals;
mod secret;
mod set;
mod shrink;
mod single;
mod snapshot;
mod space;
mod squeeze;
mod stage;
mod switch;
#[cfg(test)]
mod tests;
mod verify;
mod walk;
mod workers;

use std::{
    collections::HashMap,
    fmt,
    fs::{DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use self::{cache::Cache, dir::Dir, error::shown_path, objects::Objects, records::Records};
pub use self::{
    compact::{Compacted, Compaction, Left},
    compare::{Difference, DifferenceKind},
    error::{Damage, StoreError},
    hash::{Hash, HashError},
    import::{Backup, BackupOwner, Role},
    inspect::{Live, LiveRecord, Observed},
    learn::{Glance, KnownRelease},
    prune::{Ask, Judged, Pruned},
    retention::{Fate, Keep},
    set::{ComponentFiles, STAGING},
    snapshot::SnapshotInfo,
    stage::{Preflight, Staged},
    switch::Switched,
    verify::StandsAs,
};
pub(crate) use self::{error::shown, space::free};
use crate::lock as file_lock;

/// What a snapshot is called, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    pub release: String,
    /// What the version check reported when it was taken.
    pub version: Option<String>,
    pub taken_at_unix_ms: i64,
    /// When it had proven itself, where nobody asked for it: its checks had held by then.
    pub learned_at_unix_ms: Option<i64>,
}

/// An agent's store. One process has it open at a time.
#[derive(Debug)]
pub struct Store {
    state: PathBuf,
    hold: Dir,
    cache: Dir,
    tmp: Dir,
    objects: Objects,
    records: Records,
    components: Mutex<HashMap<String, Arc<Shared>>>,
    /// Held by the one compaction that runs.
    compacting: Mutex<()>,
    steps: Steps,
    /// Milliseconds since 1970.
    now: fn() -> i64,
    /// Locked for as long as the store is open.
    _lock: File,
}

/// What the threads that work on one component share.
#[derive(Debug, Default)]
struct Shared {
    busy: Mutex<()>,
    /// How many wait for `busy`: work that nobody asked for makes way.
    waiting: AtomicUsize,
    cache: Cache,
}

impl Store {
    /// Opens the store in a state directory, made where it is missing. What an earlier run left half-written is
    /// removed; a hold that it left is found by [`Store::held`].
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another process has it open; [`StoreError::NotOwn`] where others could have been at it.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(state_dir, Steps::default())
    }

    /// [`Store::open`], with a hook that is called at every step from which an operation could not go on.
    pub fn open_with(state_dir: &Path, steps: Steps) -> Result<Self, StoreError> {
        // Links above the state directory are root's own; below it there are none.
        let state = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .and_then(|()| state_dir.canonicalize())
            .map_err(|source| StoreError::Create { path: shown_path(state_dir), source })?;
        own::refuse(&state)?;
        let root = Dir::open(&state)?;
        let store = root.ensure_dir(b"store")?;
        let lock = exclusive(&store)?;
        for name in store.names()? {
            if name.starts_with(b"tmp") {
                remove::tree(&store, &name)?;
            }
        }
        let tmp = store.ensure_dir(b"tmp")?;
        let objects = Objects::open_all(
            store.ensure_dir(b"objects")?,
            store.ensure_dir(b"packs")?,
            tmp.dir(b"")?,
            store.ensure_dir(b"damaged")?,
        )?;
        Ok(Self {
            hold: root.ensure_dir(b"hold")?,
            cache: store.ensure_dir(b"cache")?,
            records: Records::open(&store, tmp.dir(b"")?)?,
            tmp,
            objects,
            components: Mutex::default(),
            compacting: Mutex::default(),
            steps,
            now: || jiff::Timestamp::now().as_millisecond(),
            state,
            _lock: lock,
        })
    }

    /// The same store with another clock: milliseconds since 1970.
    #[must_use]
    pub fn with_clock(mut self, now: fn() -> i64) -> Self {
        self.now = now;
        self
    }

    /// The components that a switch holds: their services must not start until it has gone through or back.
    pub fn held(&self) -> Result<Vec<String>, StoreError> {
        let names = self.hold.names()?.into_iter();
        Ok(names.map(|name| String::from_utf8_lossy(&name).into_owned()).collect())
    }

    /// The file that exists while a component is held; services wait for its absence.
    pub fn hold_path(&self, component: &str) -> PathBuf {
        self.state.join("hold").join(component)
    }

    /// What threads share about a component; its stat cache is read the first time.
    fn shared(&self, component: &str) -> Result<Arc<Shared>, StoreError> {
        let mut components = lock(&self.components);
        if let Some(shared) = components.get(component) {
            return Ok(Arc::clone(shared));
        }
        let cache = records::read(&self.cache, component.as_bytes())?;
        let cache = cache.map(|bytes| Cache::decode(&bytes)).unwrap_or_default();
        let shared =
            Arc::new(Shared { busy: Mutex::default(), waiting: AtomicUsize::new(0), cache });
        components.insert(component.to_owned(), Arc::clone(&shared));
        Ok(shared)
    }

    /// Keeps the stat cache for the next run. Only speed depends on it, so it is not synced and its loss is no error.
    fn save_cache(&self, component: &str, shared: &Shared) {
        let Some(bytes) = shared.cache.encode_if_new() else { return };
        let saved = records::write(&self.tmp, &self.cache, component.as_bytes(), &bytes);
        if let Err(error) = saved {
            tracing::warn!(component, reason = error.reason(), "the stat cache was not saved");
        }
    }
}

impl Shared {
    /// Begins an operation, once the one before it has ended.
    fn enter(&self) -> MutexGuard<'_, ()> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let entered = lock(&self.busy);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        entered
    }
}

/// What [`Steps`] calls.
type Hook = dyn Fn(&str) -> io::Result<()> + Send + Sync;

/// Called between the steps of an operation, by name. An error from it ends the operation there, as a crash would.
#[derive(Clone, Default)]
pub struct Steps {
    hook: Option<Arc<Hook>>,
}

impl Steps {
    /// Calls `hook` at every step.
    pub fn new(hook: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { hook: Some(Arc::new(hook)) }
    }

    fn reach(&self, step: &str) -> Result<(), StoreError> {
        let Some(hook) = &self.hook else { return Ok(()) };
        hook(step).map_err(|source| StoreError::Step { step: step.to_owned(), source })
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").field("hooked", &self.hook.is_some()).finish()
    }
}

fn exclusive(store: &Dir) -> Result<File, StoreError> {
    const NAME: &[u8] = b"lock";
    let file = match store.file_if_there(NAME)? {
        Some(file) => file,
        None => store.create(NAME)?,
    };
    match file_lock::take(&file) {
        Ok(true) => Ok(file),
        Ok(false) => Err(StoreError::InUse { path: store.at(b"") }),
        Err(source) => Err(StoreError::Open { path: store.at(NAME), source }),
    }
}

/// Locks; a thread that panicked while it held the lock left nothing half-done that a lock could mend.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
