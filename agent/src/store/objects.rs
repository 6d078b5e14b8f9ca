//! Bytes by their hash.
//!
//! ```text
//! put ──▶ tmp/<batch>/<hash> ──commit: make the bytes durable──▶ rename ──▶ objects/ab/cdef…
//! ```
//!
//! Invariant: an object is whole or absent, also after power loss: it gets its name only once its bytes are durable.
//! Invariant: bytes that do not have the hash of their name are moved to `damaged/`, and so are never used again.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    sync::atomic::{AtomicU64, Ordering},
};

use super::{
    dir::{Dir, Rename},
    error::StoreError,
    hash::Hash,
    remove,
};

/// Up to so many new objects are made durable one by one; more than that by one sync of the filesystem, whose cost
/// is what everybody else on the host has written too.
const SYNC_EACH_MAX: usize = 16;
/// Where the bytes of a file land until their hash is known.
const INCOMING: &[u8] = b"incoming";
/// How much is read at a time.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

/// The objects of a store.
#[derive(Debug)]
pub(super) struct Objects {
    dir: Dir,
    tmp: Dir,
    damaged: Dir,
    batches: AtomicU64,
}

impl Objects {
    pub(super) fn new(dir: Dir, tmp: Dir, damaged: Dir) -> Self {
        Self { dir, tmp, damaged, batches: AtomicU64::new(0) }
    }

    /// Whether an object of this size is there. Its bytes are not read.
    pub(super) fn contains(&self, hash: Hash, size_bytes: u64) -> Result<bool, StoreError> {
        let (fanout, name) = names(hash);
        let Some(fanout) = self.dir.dir_if_there(&fanout)? else { return Ok(false) };
        let Some(stat) = fanout.stat(&name)? else { return Ok(false) };
        Ok(u64::try_from(stat.st_size) == Ok(size_bytes))
    }

    /// Opens an object; none where it is not there.
    pub(super) fn open(&self, hash: Hash) -> Result<Option<File>, StoreError> {
        let (fanout, name) = names(hash);
        match self.dir.dir_if_there(&fanout)? {
            Some(fanout) => fanout.file_if_there(&name),
            None => Ok(None),
        }
    }

    /// How an object is shown.
    pub(super) fn at(&self, hash: Hash) -> String {
        let (fanout, name) = names(hash);
        self.dir.at(&[fanout, name].join(&b'/'))
    }

    /// Moves an object whose bytes are not those of its name out of use.
    pub(super) fn quarantine(&self, hash: Hash) -> Result<(), StoreError> {
        let (fanout, name) = names(hash);
        let fanout = self.dir.dir(&fanout)?;
        fanout.rename(&name, &self.damaged, hash.to_string().as_bytes(), Rename::Over)?;
        fanout.sync()?;
        self.damaged.sync()
    }

    /// Begins to add objects.
    pub(super) fn batch(&self) -> Result<Batch<'_>, StoreError> {
        let name = format!("batch-{}", self.batches.fetch_add(1, Ordering::Relaxed)).into_bytes();
        self.tmp.make_dir(&name)?;
        let dir = self.tmp.dir(&name)?;
        Ok(Batch { objects: self, name, dir, pending: BTreeMap::new() })
    }
}

/// Objects that are being added. Dropped without [`Batch::commit`], none of them ever was there.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    objects: &'a Objects,
    name: Vec<u8>,
    dir: Dir,
    pending: BTreeMap<Hash, u64>,
}

impl Batch<'_> {
    /// Whether these bytes are, or will be, in the store.
    pub(super) fn holds(&self, hash: Hash, size_bytes: u64) -> Result<bool, StoreError> {
        Ok(self.pending.contains_key(&hash) || self.objects.contains(hash, size_bytes)?)
    }

    /// Reads a file to its end; returns what was read.
    pub(super) fn put(&mut self, file: &mut File, path: &str) -> Result<(u64, Hash), StoreError> {
        self.dir.unlink(INCOMING)?;
        let mut incoming = self.dir.create(INCOMING)?;
        let at = self.dir.at(INCOMING);
        let (size_bytes, hash) = hash_through(file, path, |chunk| {
            incoming
                .write_all(chunk)
                .map_err(|source| StoreError::Write { path: at.clone(), source })
        })?;
        if self.holds(hash, size_bytes)? {
            self.dir.unlink(INCOMING)?;
        } else {
            self.dir.rename(INCOMING, &self.dir, hash.to_string().as_bytes(), Rename::New)?;
            self.pending.insert(hash, size_bytes);
        }
        Ok((size_bytes, hash))
    }

    /// Makes every added object durable and gives it its name.
    pub(super) fn commit(mut self) -> Result<(), StoreError> {
        let each = self.pending.len() <= SYNC_EACH_MAX;
        if each {
            for hash in self.pending.keys() {
                let name = hash.to_string();
                sync_file(&self.dir.file(name.as_bytes())?, &self.dir.at(name.as_bytes()))?;
            }
        } else {
            self.dir.sync_filesystem()?;
        }
        for hash in std::mem::take(&mut self.pending).into_keys() {
            let (fanout, name) = names(hash);
            let fanout = self.objects.dir.ensure_dir(&fanout)?;
            self.dir.rename(hash.to_string().as_bytes(), &fanout, &name, Rename::Over)?;
            if each {
                fanout.sync()?;
            }
        }
        if !each {
            self.dir.sync_filesystem()?;
        }
        Ok(())
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        // What stays behind is removed when the store is opened the next time.
        if let Err(error) = remove::tree(&self.objects.tmp, &self.name) {
            tracing::warn!(reason = error.reason(), "temporary objects were left behind");
        }
    }
}

/// Reads a file to its end, gives each chunk on, and returns size and hash of what was read.
pub(super) fn hash_through(
    file: &mut File,
    path: &str,
    mut each: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(u64, Hash), StoreError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let length = match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher.count(), hasher.finalize().into())),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(StoreError::Read { path: path.to_owned(), source }),
        };
        let chunk = buffer.get(..length).unwrap_or_default();
        hasher.update(chunk);
        each(chunk)?;
    }
}

/// Makes a file's bytes durable.
pub(super) fn sync_file(file: &File, path: &str) -> Result<(), StoreError> {
    file.sync_all().map_err(|source| StoreError::Fsync { path: path.to_owned(), source })
}

fn names(hash: Hash) -> (Vec<u8>, Vec<u8>) {
    let hex = hash.to_string();
    let (fanout, name) = hex.split_at(2);
    (fanout.into(), name.into())
}
