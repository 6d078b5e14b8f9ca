//! Small objects, many to a file: a release of 45,000 files must not become 45,000 more.
//!
//! ```text
//! packs/<number>.pack    LGK2 (as taken) or LGD1 (compacted), then per object: hash (32), length (u32), stored (u32), bytes
//! packs/<number>.index   LGI2, checksum (32), then per object: hash (32), offset (u64), length (u32), stored (u32)
//! ```
//!
//! Numbers are little-endian. `length` is what the object has, `stored` what it takes: the same where it is plain, less
//! where it is a frame of zstd. Where two packs have an object, the higher number counts: the other one is what a
//! compaction left that was cut off.
//!
//! A pack gets its name only once its bytes are durable, its index after it. So a pack without a whole index is a whole
//! pack: its index is made anew from it, object by object, each checked against its hash. An index without its pack is
//! what is left of one that was removed.
//!
//! Invariant: what the index names was whole and durable when it was written; every use of it is checked all the same.
//! Invariant: an object that was found damaged is taken out of its index, durably, and so is never used again.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::{BufReader, Read as _},
    os::unix::fs::FileExt as _,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{
    dir::{Dir, Rename},
    error::StoreError,
    hash::Hash,
    lock, meta,
    objects::sync_file,
    records, squeeze,
};

/// A pack as a batch wrote it.
pub(super) const TAKEN: &[u8; 4] = b"LGK2";
/// One that a compaction wrote: what pays is compressed.
pub(super) const COMPACTED: &[u8; 4] = b"LGD1";
pub(super) const INDEX_MAGIC: &[u8; 4] = b"LGI2";
const HASH_BYTES: usize = 32;
/// What stands before an object.
pub(super) const HEAD_BYTES: usize = HASH_BYTES + 4 + 4;
const ENTRY_BYTES: usize = HASH_BYTES + 8 + 4 + 4;
/// Files larger than this are objects of their own, so that they can be cloned where the file system can.
pub(super) const PACKED_BYTES_MAX: usize = 128 * 1024;
/// How many packs are open at a time.
const OPEN_MAX: usize = 32;

/// Where an object is in the packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) pack: u32,
    pub(super) offset: u64,
    /// Of the object.
    pub(super) length: u32,
    /// In the pack. Less than `length`: compressed.
    pub(super) stored: u32,
}

/// A pack as a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackFile {
    pub(super) number: u32,
    pub(super) bytes: u64,
    pub(super) compacted: bool,
    /// When, in seconds since 1970.
    pub(super) written_s: i64,
}

/// Every pack, with what is where.
#[derive(Debug)]
pub(super) struct Packs {
    dir: Dir,
    spots: RwLock<HashMap<Hash, Spot>>,
    open: Mutex<HashMap<u32, Arc<File>>>,
    next: AtomicU32,
    /// Held while an index is written anew.
    writing: Mutex<()>,
}

impl Packs {
    /// Reads the indexes; one that is missing or damaged is made anew.
    pub(super) fn open(dir: Dir, tmp: &Dir) -> Result<Self, StoreError> {
        let mut spots = HashMap::new();
        let (packs, indexes) = (numbers(&dir, b".pack")?, numbers(&dir, b".index")?);
        for pack in &packs {
            let known = records::read(&dir, &index_name(*pack))?;
            let entries = match known.as_deref().map(|bytes| decode(bytes, *pack)) {
                Some(Ok(entries)) => entries,
                Some(Err(_)) | None => {
                    let entries = rebuild(&dir, *pack)?;
                    let shown = dir.at(&index_name(*pack));
                    tracing::warn!(
                        index = shown,
                        objects = entries.len(),
                        "made anew from its pack"
                    );
                    records::write_durably(tmp, &dir, &index_name(*pack), &encode(&entries))?;
                    entries
                }
            };
            spots.reserve(entries.len());
            spots.extend(entries);
        }
        for index in indexes.difference(&packs) {
            dir.unlink(&index_name(*index))?;
        }
        let last = packs.last().max(indexes.last()).copied().unwrap_or_default();
        let (spots, open, writing) = (RwLock::new(spots), Mutex::default(), Mutex::default());
        Ok(Self { dir, spots, open, next: AtomicU32::new(last + 1), writing })
    }

    /// Where an object is; none where no pack has it.
    pub(super) fn find(&self, hash: Hash) -> Option<Spot> {
        self.spots.read().unwrap_or_else(PoisonError::into_inner).get(&hash).copied()
    }

    /// The bytes of the object at a spot, whatever they are now; none where they cannot be decompressed.
    pub(super) fn read(&self, spot: Spot) -> Result<Option<Vec<u8>>, StoreError> {
        self.plain(spot, self.stored(spot)?)
    }

    /// The bytes at a spot as they are stored.
    pub(super) fn stored(&self, spot: Spot) -> Result<Vec<u8>, StoreError> {
        let file = self.file(spot.pack)?;
        let mut bytes = vec![0; spot.stored as usize];
        file.read_exact_at(&mut bytes, spot.offset)
            .map_err(|source| StoreError::Read { path: self.at(spot), source })?;
        Ok(bytes)
    }

    /// What is stored at a spot, decompressed where it has to be.
    pub(super) fn plain(&self, spot: Spot, stored: Vec<u8>) -> Result<Option<Vec<u8>>, StoreError> {
        plain(spot.length, stored)
            .map_err(|source| StoreError::Read { path: self.at(spot), source })
    }

    /// How the place of an object is shown.
    pub(super) fn at(&self, spot: Spot) -> String {
        self.dir.at(&pack_name(spot.pack))
    }

    /// A number that no pack has.
    pub(super) fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Names a pack whose bytes are durable, and writes its index. Neither name is durable yet.
    pub(super) fn add(
        &self,
        tmp: &Dir,
        from: (&Dir, &[u8]),
        pack: u32,
        entries: &HashMap<Hash, Spot>,
    ) -> Result<File, StoreError> {
        let (holder, name) = from;
        holder.rename(name, &self.dir, &pack_name(pack), Rename::New)?;
        records::write(tmp, &self.dir, &index_name(pack), &encode(entries))?;
        self.dir.file(&index_name(pack))
    }

    /// Makes the names and the index of a pack durable.
    pub(super) fn sync(&self, index: &File) -> Result<(), StoreError> {
        sync_file(index, &self.dir.at(b""))?;
        self.dir.sync()
    }

    /// From now on these are there.
    pub(super) fn know(&self, entries: HashMap<Hash, Spot>) {
        self.spots.write().unwrap_or_else(PoisonError::into_inner).extend(entries);
    }

    /// Takes a damaged object out of use.
    pub(super) fn forget(&self, tmp: &Dir, hash: Hash) -> Result<(), StoreError> {
        let _writing = lock(&self.writing);
        let left: HashMap<Hash, Spot> = {
            let mut spots = self.spots.write().unwrap_or_else(PoisonError::into_inner);
            let Some(gone) = spots.remove(&hash) else { return Ok(()) };
            let same = spots.iter().filter(|(_, spot)| spot.pack == gone.pack);
            let left = same.map(|(hash, spot)| (*hash, *spot)).collect();
            drop(spots);
            records::write_durably(tmp, &self.dir, &index_name(gone.pack), &encode(&left))?;
            left
        };
        tracing::debug!(left = left.len(), "an object was taken out of its pack's index");
        Ok(())
    }

    /// Every pack that is a file, whether or not anything in it is known.
    pub(super) fn list(&self) -> Result<Vec<PackFile>, StoreError> {
        let mut list = Vec::new();
        for number in numbers(&self.dir, b".pack")? {
            let file = self.dir.file(&pack_name(number))?;
            let at = self.dir.at(&pack_name(number));
            let stat = meta::stat_of(&file, &at)?;
            let mut magic = [0; COMPACTED.len()];
            let compacted = match file.read_exact_at(&mut magic, 0) {
                Ok(()) => magic == *COMPACTED,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => false,
                Err(source) => return Err(StoreError::Read { path: at, source }),
            };
            let bytes = u64::try_from(stat.st_size).unwrap_or_default();
            list.push(PackFile { number, bytes, compacted, written_s: meta::mtime(&stat).0 });
        }
        Ok(list)
    }

    /// Looks at where every object is.
    pub(super) fn each(&self, mut each: impl FnMut(Hash, Spot)) {
        let spots = self.spots.read().unwrap_or_else(PoisonError::into_inner);
        spots.iter().for_each(|(hash, spot)| each(*hash, *spot));
    }

    /// From now on nothing in these packs is there; returns what was, by number of objects and stored bytes. The files
    /// are still there.
    pub(super) fn leave(&self, packs: &BTreeSet<u32>) -> (u64, u64) {
        let mut spots = self.spots.write().unwrap_or_else(PoisonError::into_inner);
        let (mut objects, mut bytes) = (0, 0);
        spots.retain(|_, spot| {
            let gone = packs.contains(&spot.pack);
            if gone {
                objects += 1;
                bytes += u64::from(spot.stored);
            }
            !gone
        });
        (objects, bytes)
    }

    /// Removes the index of a pack that was left.
    pub(super) fn remove_index(&self, pack: u32) -> Result<(), StoreError> {
        // One that is being written anew would come back.
        let _writing = lock(&self.writing);
        self.dir.unlink(&index_name(pack))?;
        self.dir.sync()
    }

    /// Removes a pack whose index is gone.
    pub(super) fn remove_pack(&self, pack: u32) -> Result<(), StoreError> {
        self.dir.unlink(&pack_name(pack))?;
        // Whoever opened it before that is done with it soon; kept open, it would keep its room.
        lock(&self.open).remove(&pack);
        self.dir.sync()
    }

    fn file(&self, pack: u32) -> Result<Arc<File>, StoreError> {
        let mut open = lock(&self.open);
        if let Some(file) = open.get(&pack) {
            return Ok(Arc::clone(file));
        }
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        let file = Arc::new(self.dir.file(&pack_name(pack))?);
        open.insert(pack, Arc::clone(&file));
        Ok(file)
    }
}

/// What stands before an object in a pack.
pub(super) fn head(hash: Hash, length: u32, stored: u32) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..HASH_BYTES].copy_from_slice(hash.as_bytes());
    head[HASH_BYTES..HASH_BYTES + 4].copy_from_slice(&length.to_le_bytes());
    head[HASH_BYTES + 4..].copy_from_slice(&stored.to_le_bytes());
    head
}

/// Whether an object in a pack can have these lengths.
fn can_be(length: u32, stored: u32) -> bool {
    stored <= length && usize::try_from(length).is_ok_and(|length| length <= PACKED_BYTES_MAX)
}

fn plain(length: u32, stored: Vec<u8>) -> std::io::Result<Option<Vec<u8>>> {
    let length = length as usize;
    if stored.len() == length { Ok(Some(stored)) } else { squeeze::small_again(&stored, length) }
}

/// The numbers of the files that have names like this.
fn numbers(dir: &Dir, suffix: &[u8]) -> Result<BTreeSet<u32>, StoreError> {
    let names = dir.names()?.into_iter();
    let number = |name: Vec<u8>| {
        std::str::from_utf8(name.strip_suffix(suffix)?).ok().and_then(|number| number.parse().ok())
    };
    Ok(names.filter_map(number).collect())
}

fn pack_name(pack: u32) -> Vec<u8> {
    format!("{pack:08}.pack").into_bytes()
}

fn index_name(pack: u32) -> Vec<u8> {
    format!("{pack:08}.index").into_bytes()
}

pub(super) fn encode(entries: &HashMap<Hash, Spot>) -> Vec<u8> {
    let mut sorted: Vec<(&Hash, &Spot)> = entries.iter().collect();
    sorted.sort_unstable_by_key(|(_, spot)| spot.offset);
    let mut body = Vec::with_capacity(sorted.len() * ENTRY_BYTES);
    for (hash, spot) in sorted {
        body.extend_from_slice(hash.as_bytes());
        body.extend_from_slice(&spot.offset.to_le_bytes());
        body.extend_from_slice(&spot.length.to_le_bytes());
        body.extend_from_slice(&spot.stored.to_le_bytes());
    }
    [INDEX_MAGIC.as_slice(), Hash::of(&body).as_bytes(), &body].concat()
}

pub(super) fn decode(bytes: &[u8], pack: u32) -> Result<HashMap<Hash, Spot>, &'static str> {
    let rest = bytes.strip_prefix(INDEX_MAGIC).ok_or("does not start as an index does")?;
    let (checksum, body) = rest.split_at_checked(HASH_BYTES).ok_or("is cut off")?;
    if Hash::of(body).as_bytes() != checksum {
        return Err("does not have its checksum");
    }
    let (entries, []) = body.as_chunks::<ENTRY_BYTES>() else { return Err("is cut off") };
    let mut spots = HashMap::with_capacity(entries.len());
    for entry in entries {
        let (hash, rest) = entry.split_first_chunk().ok_or("is cut off")?;
        let (offset, rest) = rest.split_first_chunk().ok_or("is cut off")?;
        let (length, rest) = rest.split_first_chunk().ok_or("is cut off")?;
        let (stored, _) = rest.split_first_chunk().ok_or("is cut off")?;
        let (length, stored) = (u32::from_le_bytes(*length), u32::from_le_bytes(*stored));
        if !can_be(length, stored) {
            return Err("names an object that cannot be in a pack");
        }
        let offset = u64::from_le_bytes(*offset);
        spots.insert(Hash::from_bytes(*hash), Spot { pack, offset, length, stored });
    }
    Ok(spots)
}

/// Reads a pack from its start; what has not the hash that stands before it is left out.
fn rebuild(dir: &Dir, pack: u32) -> Result<HashMap<Hash, Spot>, StoreError> {
    let name = pack_name(pack);
    let mut file = BufReader::new(dir.file(&name)?);
    let mut spots = HashMap::new();
    let mut magic = [0; TAKEN.len()];
    let mut read = |bytes: &mut [u8]| match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(source) => Err(StoreError::Read { path: dir.at(&name), source }),
    };
    if !read(&mut magic)? || (magic != *TAKEN && magic != *COMPACTED) {
        return Ok(spots);
    }
    let mut offset = magic.len() as u64;
    loop {
        let mut head = [0; HEAD_BYTES];
        if !read(&mut head)? {
            return Ok(spots);
        }
        offset += head.len() as u64;
        let (hash, lengths) = head.split_at(HASH_BYTES);
        let (length, stored) = lengths.split_at(4);
        let number = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).unwrap_or(u32::MAX);
        let (length, stored) = (number(length), number(stored));
        if !can_be(length, stored) {
            return Ok(spots);
        }
        let mut bytes = vec![0; stored as usize];
        if !read(&mut bytes)? {
            return Ok(spots);
        }
        let bytes = plain(length, bytes)
            .map_err(|source| StoreError::Read { path: dir.at(&name), source })?;
        let found = bytes.map(|bytes| Hash::of(&bytes));
        if let Some(found) = found.filter(|found| found.as_bytes() == hash) {
            spots.insert(found, Spot { pack, offset, length, stored });
        }
        offset += u64::from(stored);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spots() -> impl Strategy<Value = HashMap<Hash, Spot>> {
        let lengths =
            (0..=PACKED_BYTES_MAX as u32).prop_flat_map(|length| (Just(length), 0..=length));
        let spot = (any::<[u8; 8]>(), any::<u64>(), lengths);
        prop::collection::vec(spot, 0..20).prop_map(|rows| {
            let row = |(seed, offset, (length, stored)): ([u8; 8], u64, (u32, u32))| {
                (Hash::of(&seed), Spot { pack: 3, offset, length, stored })
            };
            rows.into_iter().map(row).collect()
        })
    }

    proptest! {
        #[test]
        fn an_index_decodes_to_what_was_encoded(spots in spots()) {
            prop_assert_eq!(decode(&encode(&spots), 3), Ok(spots));
        }

        #[test]
        fn an_index_with_any_bit_flipped_is_refused(
            spots in spots(), at in any::<prop::sample::Index>(), bit in 0..8u8
        ) {
            let mut bytes = encode(&spots);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&bytes, 3).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in any::<Vec<u8>>()) {
            prop_assert!(decode(&bytes, 3).is_err());
            let framed = [INDEX_MAGIC.as_slice(), Hash::of(&bytes).as_bytes(), &bytes].concat();
            if let Ok(spots) = decode(&framed, 3) {
                prop_assert!(spots.len() <= bytes.len() / ENTRY_BYTES);
            }
        }

        #[test]
        fn any_pack_is_read_to_its_end_without_a_panic(
            objects in prop::collection::vec((any::<Vec<u8>>(), 1..60usize), 0..9),
            junk in any::<Vec<u8>>()
        ) {
            let temp = tempfile::tempdir().unwrap();
            let dir = Dir::open(&temp.path().canonicalize().unwrap()).unwrap();
            let objects: Vec<Vec<u8>> =
                objects.into_iter().map(|(bytes, times)| bytes.repeat(times)).collect();
            let mut bytes = COMPACTED.to_vec();
            for object in &objects {
                let stored = squeeze::small(object).unwrap().unwrap_or_else(|| object.clone());
                bytes.extend(head(Hash::of(object), object.len() as u32, stored.len() as u32));
                bytes.extend(stored);
            }
            bytes.extend(junk);
            std::fs::write(temp.path().join("00000007.pack"), &bytes).unwrap();
            let tmp = dir.ensure_dir(b"tmp").unwrap();
            let packs = Packs::open(dir, &tmp).unwrap();
            for object in objects {
                let spot = packs.find(Hash::of(&object)).unwrap();
                prop_assert_eq!(packs.read(spot).unwrap(), Some(object));
            }
        }
    }

    #[test]
    fn an_index_without_its_pack_goes_and_its_number_is_not_used_again() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(&temp.path().canonicalize().unwrap()).unwrap();
        let tmp = dir.ensure_dir(b"tmp").unwrap();
        std::fs::write(temp.path().join("00000041.index"), "left").unwrap();
        let packs = Packs::open(dir, &tmp).unwrap();
        assert!(!temp.path().join("00000041.index").exists());
        assert_eq!(packs.number(), 42);
    }
}
