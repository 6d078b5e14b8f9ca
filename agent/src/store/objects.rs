//! Bytes by their hash.
//!
//! ```text
//! put ─┬ small ──▶ tmp/<batch>/pack ───┐ commit: make the bytes durable, ┌▶ packs/<number>.pack, then its index
//!      └ large ──▶ tmp/<batch>/<hash> ─┘ then give them their names      └▶ objects/ab/cdef…
//!      └ with holes, of any size: as a large one, with its holes
//!                                                   later, in the background: objects/ab/cdef….z (compact.rs)
//! ```
//!
//! An object with holes takes the place of one of the same bytes without, never the other way: what is built from it
//! is no larger than it was. A file has holes where the kernel says so of the open file (SEEK_HOLE), which knows of what
//! is not yet on the disk; how many blocks a file takes says nothing of one that was just written, or is compressed.
//!
//! A large object that is only readable was tried, and does not pay to compress. Where both names are there, the plain
//! one counts; it goes only once the other one is durable, so whoever looks for the plain one first finds one of them.
//!
//! Invariant: an object is whole or absent, also after power loss: it gets its name only once its bytes are durable.
//! Invariant: bytes that do not have the hash of their name are never used: a large object is moved to `damaged/`, a
//! small one is taken out of its pack's index.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt as _,
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{SeekFrom, Stat},
    io::Errno,
};

use super::{
    dir::{Dir, Rename},
    error::StoreError,
    flush::Flusher,
    hash::Hash,
    lock, meta,
    packs::{self, PACKED_BYTES_MAX, Packs, Spot},
    relied::{Relied, Rely},
    remove, squeeze,
};

/// Up to so many new files are made durable one by one; more than that by one sync of the filesystem, whose cost
/// is what everybody else on the host has written too.
const SYNC_EACH_MAX: usize = 16;
/// The pack of a batch.
pub(super) const PACK: &[u8] = b"pack";
/// How much of a pack is written at a time.
const PACK_CHUNK_BYTES: usize = 1024 * 1024;
/// So much of a pack, or a file of that size, is written back while more is read.
const WRITE_BACK_BYTES: u64 = 8 * 1024 * 1024;
/// How much is read at a time.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;
/// A block that is nothing but zeros is a hole in the copy of a file that has holes. No file system has smaller ones.
const HOLE_BYTES: usize = 512;

/// The objects of a store.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) dir: Dir,
    pub(super) tmp: Dir,
    damaged: Dir,
    pub(super) packs: Packs,
    pub(super) relied: Relied,
    /// The directories below `dir` that are there.
    fanouts: RwLock<HashSet<Vec<u8>>>,
    batches: AtomicU64,
}

/// An object that is there. Its bytes are not yet known to be right.
#[derive(Debug)]
pub(super) enum Object {
    Packed(Vec<u8>),
    Own(File),
    /// Of its own, compressed, with its raw size.
    Squeezed(File, u64),
    /// What is there cannot be decompressed.
    Broken,
}

impl Objects {
    pub(super) fn open_all(
        dir: Dir,
        packs: Dir,
        tmp: Dir,
        damaged: Dir,
    ) -> Result<Self, StoreError> {
        let packs = Packs::open(packs, &tmp)?;
        let fanouts = RwLock::new(dir.names()?.into_iter().collect());
        let (relied, batches) = (Relied::default(), AtomicU64::new(0));
        Ok(Self { dir, tmp, damaged, packs, relied, fanouts, batches })
    }

    /// Whether an object of this size is there. Its bytes are not read.
    pub(super) fn contains(&self, hash: Hash, size_bytes: u64) -> Result<bool, StoreError> {
        if let Some(spot) = self.packs.find(hash) {
            return Ok(u64::from(spot.length) == size_bytes);
        }
        let (fanout, name) = names(hash);
        let Some(fanout) = self.fanout(&fanout)? else { return Ok(false) };
        if let Some(stat) = fanout.stat(&name)? {
            return Ok(u64::try_from(stat.st_size) == Ok(size_bytes));
        }
        Ok(match squeezed(&fanout, &name)? {
            Some(Object::Squeezed(_, raw_bytes)) => raw_bytes == size_bytes,
            Some(Object::Packed(_) | Object::Own(_) | Object::Broken) | None => false,
        })
    }

    /// Whether an object of this size is there that has holes.
    fn contains_sparse(&self, hash: Hash, size_bytes: u64) -> Result<bool, StoreError> {
        match self.open(hash)? {
            Some(Object::Own(file)) => {
                let stat = meta::stat_of(&file, &self.at(hash))?;
                Ok(u64::try_from(stat.st_size) == Ok(size_bytes)
                    && has_holes(&file, size_bytes, &self.at(hash))?)
            }
            Some(Object::Packed(_) | Object::Squeezed(..) | Object::Broken) | None => Ok(false),
        }
    }

    /// How many bytes an object takes where it is built; all of them where it is not there.
    pub(super) fn filled_bytes(&self, hash: Hash, size_bytes: u64) -> Result<u64, StoreError> {
        if self.packs.find(hash).is_some() {
            return Ok(size_bytes);
        }
        match self.open(hash)? {
            Some(Object::Own(file)) if has_holes(&file, size_bytes, &self.at(hash))? => {
                let stat = meta::stat_of(&file, &self.at(hash))?;
                let blocks = u64::try_from(stat.st_blocks).unwrap_or(u64::MAX);
                Ok(size_bytes.min(blocks.saturating_mul(512)))
            }
            Some(Object::Own(_) | Object::Packed(_) | Object::Squeezed(..) | Object::Broken)
            | None => Ok(size_bytes),
        }
    }

    /// Opens an object; none where it is not there.
    pub(super) fn open(&self, hash: Hash) -> Result<Option<Object>, StoreError> {
        while let Some(spot) = self.packs.find(hash) {
            match self.packs.read(spot) {
                // Meanwhile it was moved to another pack.
                Err(StoreError::Open { .. }) if self.packs.find(hash) != Some(spot) => {}
                Err(error) => return Err(error),
                Ok(bytes) => return Ok(Some(bytes.map_or(Object::Broken, Object::Packed))),
            }
        }
        let (fanout, name) = names(hash);
        let Some(fanout) = self.fanout(&fanout)? else { return Ok(None) };
        match fanout.file_if_there(&name)? {
            Some(file) => Ok(Some(Object::Own(file))),
            None => squeezed(&fanout, &name),
        }
    }

    /// How the place of an object is shown.
    pub(super) fn at(&self, hash: Hash) -> String {
        if let Some(spot) = self.packs.find(hash) {
            return self.packs.at(spot);
        }
        let (fanout, mut name) = names(hash);
        if let Ok(Some(dir)) = self.fanout(&fanout) {
            name = used(&dir, name).unwrap_or_else(|_| names(hash).1);
        }
        self.dir.at(&[fanout, name].join(&b'/'))
    }

    /// Moves an object whose bytes are not those of its name out of use.
    pub(super) fn quarantine(&self, hash: Hash) -> Result<(), StoreError> {
        if self.packs.find(hash).is_some() {
            return self.packs.forget(&self.tmp, hash);
        }
        let (fanout, name) = names(hash);
        let fanout = self.dir.dir(&fanout)?;
        let name = used(&fanout, name)?;
        fanout.rename(&name, &self.damaged, hash.to_string().as_bytes(), Rename::Over)?;
        fanout.sync()?;
        self.damaged.sync()
    }

    /// Begins to add objects.
    pub(super) fn batch(&self) -> Batch<'_> {
        let name = format!("batch-{}", self.batches.fetch_add(1, Ordering::Relaxed)).into_bytes();
        let (rely, incoming) = (Some(self.relied.rely()), AtomicU64::new(0));
        Batch { objects: self, name, rely, pending: Mutex::default(), incoming }
    }

    pub(super) fn fanout(&self, name: &[u8]) -> Result<Option<Dir>, StoreError> {
        if !self.fanouts.read().unwrap_or_else(PoisonError::into_inner).contains(name) {
            return Ok(None);
        }
        self.dir.dir_if_there(name)
    }
}

impl Object {
    /// Reads it to its end; returns size and hash of what was read, and a size that no object has where it cannot be
    /// decompressed.
    pub(super) fn read(
        self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> Result<(), StoreError>,
    ) -> Result<(u64, Hash), StoreError> {
        match self {
            Self::Packed(bytes) => {
                each(&bytes)?;
                Ok((bytes.len() as u64, Hash::of(&bytes)))
            }
            Self::Own(mut file) => hash_through(&mut file, path, each),
            Self::Squeezed(file, raw_bytes) => {
                let mut raw = squeeze::large_again(file, raw_bytes)
                    .map_err(|source| StoreError::Read { path: path.to_owned(), source })?;
                match hash_through(&mut raw, path, each) {
                    // Not the disk's word, but the decoder's.
                    Err(StoreError::Read { source, .. }) if source.raw_os_error().is_none() => {
                        Ok(broken())
                    }
                    read => read,
                }
            }
            Self::Broken => Ok(broken()),
        }
    }
}

/// Objects that are being added, by several threads. Dropped without [`Batch::commit`], none of them ever was there.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    objects: &'a Objects,
    name: Vec<u8>,
    /// What it finds to be there must stay there.
    rely: Option<Rely<'a>>,
    pending: Mutex<Pending>,
    incoming: AtomicU64,
}

#[derive(Debug, Default)]
struct Pending {
    /// Made with the first object.
    dir: Option<Dir>,
    /// Whether it has holes.
    own: BTreeMap<Hash, bool>,
    packed: HashMap<Hash, Spot>,
    pack: Option<Pack>,
    flusher: Flusher,
}

/// A pack that is being written.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) number: u32,
    pub(super) file: File,
    /// Bytes in the file, and those that still have to be written to it.
    written: u64,
    waiting: Vec<u8>,
    /// Of those in the file, how many the flusher was told of.
    flushed: u64,
}

impl<'a> Batch<'a> {
    /// Whether these bytes are, or will be, in the store; with holes, where they should have some.
    pub(super) fn holds(
        &self,
        hash: Hash,
        size_bytes: u64,
        holes: bool,
    ) -> Result<bool, StoreError> {
        let pending = lock(&self.pending).has(hash, holes);
        Ok(pending
            || if holes {
                self.objects.contains_sparse(hash, size_bytes)?
            } else {
                self.objects.contains(hash, size_bytes)?
            })
    }

    /// Reads a file to its end; returns what was read. `stat` is what it was like when it was opened.
    pub(super) fn put(
        &self,
        file: &mut File,
        stat: &Stat,
        holes: bool,
        path: &str,
    ) -> Result<(u64, Hash), StoreError> {
        let mut start = Vec::new();
        if holes {
            return self.put_large(file, &start, holes, path);
        }
        if usize::try_from(stat.st_size).is_ok_and(|size| size <= PACKED_BYTES_MAX) {
            start.reserve_exact(usize::try_from(stat.st_size).unwrap_or_default() + 1);
            let mut limited = (&mut *file).take(PACKED_BYTES_MAX as u64 + 1);
            limited
                .read_to_end(&mut start)
                .map_err(|source| StoreError::Read { path: path.to_owned(), source })?;
            if start.len() <= PACKED_BYTES_MAX {
                return self.put_small(&start);
            }
        }
        self.put_large(file, &start, holes, path)
    }

    fn put_small(&self, bytes: &[u8]) -> Result<(u64, Hash), StoreError> {
        let (hash, size_bytes) = (Hash::of(bytes), bytes.len() as u64);
        if self.objects.contains(hash, size_bytes)? {
            return Ok((size_bytes, hash));
        }
        let pending = &mut *lock(&self.pending);
        if !pending.has(hash, false) {
            let pack = match &mut pending.pack {
                Some(pack) => pack,
                none => {
                    let file = self.dir(&mut pending.dir)?.create(PACK)?;
                    none.insert(Pack::new(self.objects.packs.number(), file, packs::TAKEN))
                }
            };
            let length = u32::try_from(bytes.len()).expect("what is packed is small");
            let spot = pack.append(hash, length, bytes, &self.objects.tmp)?;
            if pack.written - pack.flushed >= WRITE_BACK_BYTES {
                pack.flushed = pack.written;
                pending.flusher.begin(&pack.file, self.objects.tmp.at(PACK));
            }
            pending.packed.insert(hash, spot);
        }
        Ok((size_bytes, hash))
    }

    fn put_large(
        &self,
        file: &mut File,
        start: &[u8],
        holes: bool,
        path: &str,
    ) -> Result<(u64, Hash), StoreError> {
        let name = format!("incoming-{}", self.incoming.fetch_add(1, Ordering::Relaxed));
        let (incoming, at) = {
            let mut pending = lock(&self.pending);
            let dir = self.dir(&mut pending.dir)?;
            (dir.create(name.as_bytes())?, dir.at(name.as_bytes()))
        };
        let mut copy = Copy::new(&incoming, holes);
        let mut whole = start.chain(file);
        let (size_bytes, hash) = hash_through(&mut whole, path, |chunk| {
            copy.write(chunk).map_err(|source| StoreError::Write { path: at.clone(), source })
        })?;
        copy.end().map_err(|source| StoreError::Write { path: at, source })?;
        let stored = self.holds(hash, size_bytes, holes)?;
        let pending = &mut *lock(&self.pending);
        let known = stored || pending.has(hash, holes);
        let dir = self.dir(&mut pending.dir)?;
        if known {
            dir.unlink(name.as_bytes())?;
        } else {
            dir.rename(name.as_bytes(), dir, hash.to_string().as_bytes(), Rename::Over)?;
            pending.own.insert(hash, holes);
            pending.packed.remove(&hash);
            if size_bytes >= WRITE_BACK_BYTES {
                pending.flusher.begin(&incoming, dir.at(hash.to_string().as_bytes()));
            }
        }
        Ok((size_bytes, hash))
    }

    /// Makes every added object durable and gives it its name. What is returned is kept until the record that names
    /// them is saved.
    pub(super) fn commit(mut self) -> Result<Rely<'a>, StoreError> {
        let rely = self.rely.take().expect("only a commit takes it, and there is one");
        let mut pending = std::mem::take(&mut *lock(&self.pending));
        let Some(dir) = pending.dir.take() else { return Ok(rely) };
        let (objects, own) = (self.objects, pending.own);
        pending.flusher.end()?;
        let each = own.len() <= SYNC_EACH_MAX;
        if let Some(pack) = &mut pending.pack {
            pack.flush(&objects.tmp)?;
        }
        if each {
            for hash in own.keys() {
                let name = hash.to_string();
                sync_file(&dir.file(name.as_bytes())?, &dir.at(name.as_bytes()))?;
            }
            if let Some(pack) = &pending.pack {
                sync_file(&pack.file, &dir.at(PACK))?;
            }
        } else {
            dir.sync_filesystem()?;
        }
        let sparse: Vec<Hash> =
            own.iter().filter(|(_, holes)| **holes).map(|(hash, _)| *hash).collect();
        let mut index = None;
        if let Some(pack) = &pending.pack {
            let from = (&dir, PACK);
            index = Some(objects.packs.add(&objects.tmp, from, pack.number, &pending.packed)?);
        }
        for hash in own.into_keys() {
            let (fanout, name) = names(hash);
            let there = objects.dir.ensure_dir(&fanout)?;
            dir.rename(hash.to_string().as_bytes(), &there, &name, Rename::Over)?;
            objects.fanouts.write().unwrap_or_else(PoisonError::into_inner).insert(fanout);
            if each {
                there.sync()?;
            }
        }
        match index {
            Some(index) if each => objects.packs.sync(&index)?,
            _ if !each => dir.sync_filesystem()?,
            _ => {}
        }
        objects.packs.know(pending.packed);
        for hash in sparse {
            // One of these bytes without holes would be found first.
            objects.packs.forget(&objects.tmp, hash)?;
        }
        Ok(rely)
    }

    /// The directory of this batch.
    fn dir<'d>(&self, made: &'d mut Option<Dir>) -> Result<&'d Dir, StoreError> {
        Ok(match made {
            Some(dir) => dir,
            none => {
                self.objects.tmp.make_dir(&self.name)?;
                none.insert(self.objects.tmp.dir(&self.name)?)
            }
        })
    }
}

impl Pending {
    fn has(&self, hash: Hash, holes: bool) -> bool {
        match self.own.get(&hash) {
            Some(has_holes) => *has_holes || !holes,
            None => !holes && self.packed.contains_key(&hash),
        }
    }
}

impl Pack {
    pub(super) fn new(number: u32, file: File, magic: &[u8; 4]) -> Self {
        Self { number, file, written: 0, waiting: magic.to_vec(), flushed: 0 }
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.written + self.waiting.len() as u64
    }

    /// Adds an object as it is to be stored.
    pub(super) fn append(
        &mut self,
        hash: Hash,
        length: u32,
        bytes: &[u8],
        tmp: &Dir,
    ) -> Result<Spot, StoreError> {
        let stored = u32::try_from(bytes.len()).expect("what is packed is small");
        self.waiting.extend_from_slice(&packs::head(hash, length, stored));
        let offset = self.bytes();
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= PACK_CHUNK_BYTES {
            self.flush(tmp)?;
        }
        Ok(Spot { pack: self.number, offset, length, stored })
    }

    /// Hands every byte to the file.
    pub(super) fn flush(&mut self, tmp: &Dir) -> Result<(), StoreError> {
        self.file
            .write_all(&self.waiting)
            .map_err(|source| StoreError::Write { path: tmp.at(PACK), source })?;
        self.written += self.waiting.len() as u64;
        self.waiting.clear();
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

/// A file that is being written from its start, with holes where its source has some.
#[derive(Debug)]
pub(super) struct Copy<'f> {
    file: &'f File,
    holes: bool,
    at: u64,
}

impl<'f> Copy<'f> {
    pub(super) fn new(file: &'f File, holes: bool) -> Self {
        Self { file, holes, at: 0 }
    }

    pub(super) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        if self.holes {
            let into = usize::try_from(self.at % HOLE_BYTES as u64).expect("less than a block");
            let (head, rest) = chunk.split_at((HOLE_BYTES - into).min(chunk.len()));
            let is_zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
            let blocks = std::iter::once(head).chain(rest.chunks(HOLE_BYTES));
            // Blocks that follow each other are written at once.
            let (mut start, mut end) = (0, 0);
            for block in blocks {
                if is_zero(block) {
                    self.write_at(chunk, start, end)?;
                    start = end + block.len();
                }
                end += block.len();
            }
            self.write_at(chunk, start, end)?;
        } else {
            self.file.write_all_at(chunk, self.at)?;
        }
        self.at += chunk.len() as u64;
        Ok(())
    }

    fn write_at(&self, chunk: &[u8], start: usize, end: usize) -> io::Result<()> {
        self.file.write_all_at(&chunk[start..end], self.at + start as u64)
    }

    /// A hole at the end counts, too.
    pub(super) fn end(self) -> io::Result<()> {
        if self.holes { self.file.set_len(self.at) } else { Ok(()) }
    }
}

/// Whether an open file of this size has holes. It is at its start afterwards.
pub(super) fn has_holes(file: &File, size_bytes: u64, path: &str) -> Result<bool, StoreError> {
    if size_bytes == 0 {
        return Ok(false);
    }
    let first = match rustix::fs::seek(file, SeekFrom::Hole(0)) {
        Ok(first) => first,
        // A file system that has none, or a file that was emptied meanwhile.
        Err(Errno::INVAL | Errno::NOTSUP | Errno::NXIO) => size_bytes,
        Err(errno) => {
            return Err(StoreError::Read { path: path.to_owned(), source: errno.into() });
        }
    };
    rustix::fs::seek(file, SeekFrom::Start(0))
        .map_err(|errno| StoreError::Read { path: path.to_owned(), source: errno.into() })?;
    Ok(first < size_bytes)
}

/// Reads to the end, gives each chunk on, and returns size and hash of what was read.
pub(super) fn hash_through(
    file: &mut impl Read,
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

/// A size that no object has: what is there is not what it should be.
fn broken() -> (u64, Hash) {
    (u64::MAX, Hash::of(b""))
}

/// The compressed form of a large object; none where it is not there.
fn squeezed(fanout: &Dir, name: &[u8]) -> Result<Option<Object>, StoreError> {
    let name = squeezed_name(name);
    let Some(file) = fanout.file_if_there(&name)? else { return Ok(None) };
    let raw_bytes = squeeze::raw_bytes(&file)
        .map_err(|source| StoreError::Read { path: fanout.at(&name), source })?;
    Ok(Some(raw_bytes.map_or(Object::Broken, |raw_bytes| Object::Squeezed(file, raw_bytes))))
}

/// The name of the form that is used of a large object: the compressed one where there is no plain one.
fn used(fanout: &Dir, name: Vec<u8>) -> Result<Vec<u8>, StoreError> {
    let squeezed = squeezed_name(&name);
    let only = fanout.stat(&name)?.is_none() && fanout.stat(&squeezed)?.is_some();
    Ok(if only { squeezed } else { name })
}

pub(super) fn squeezed_name(name: &[u8]) -> Vec<u8> {
    [name, b".z"].concat()
}

pub(super) fn names(hash: Hash) -> (Vec<u8>, Vec<u8>) {
    let hex = hash.to_string();
    let (fanout, name) = hex.split_at(2);
    (fanout.into(), name.into())
}
