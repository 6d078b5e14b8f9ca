//! Small objects, many to a file: a release of 45,000 files must not become 45,000 more.
//!
//! ```text
//! packs/<number>.pack    LGK1, then per object: hash (32), length (u32), bytes
//! packs/<number>.index   LGI1, checksum (32), then per object: hash (32), offset (u64), length (u32); numbers little-endian
//! ```
//!
//! A pack gets its name only once its bytes are durable, its index after it. So a pack without a whole index is a whole
//! pack: its index is made anew from it, object by object, each checked against its hash.
//!
//! Invariant: what the index names was whole and durable when it was written; every use of it is checked all the same.
//! Invariant: an object that was found damaged is taken out of its index, durably, and so is never used again.

use std::{
    collections::HashMap,
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
    lock,
    objects::sync_file,
    records,
};

pub(super) const PACK_MAGIC: &[u8; 4] = b"LGK1";
pub(super) const INDEX_MAGIC: &[u8; 4] = b"LGI1";
const HASH_BYTES: usize = 32;
const ENTRY_BYTES: usize = HASH_BYTES + 8 + 4;
/// Files larger than this are objects of their own, so that they can be cloned where the file system can.
pub(super) const PACKED_BYTES_MAX: usize = 128 * 1024;
/// How many packs are open at a time.
const OPEN_MAX: usize = 32;

/// Where an object is in the packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) pack: u32,
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// Every pack, with what is where.
#[derive(Debug)]
pub(super) struct Packs {
    dir: Dir,
    spots: RwLock<HashMap<Hash, Spot>>,
    open: Mutex<HashMap<u32, Arc<File>>>,
    next: AtomicU32,
}

impl Packs {
    /// Reads the indexes; one that is missing or damaged is made anew.
    pub(super) fn open(dir: Dir, tmp: &Dir) -> Result<Self, StoreError> {
        let (mut spots, mut last) = (HashMap::new(), 0);
        for name in dir.names()? {
            let number =
                name.strip_suffix(b".pack").and_then(|name| std::str::from_utf8(name).ok());
            let Some(pack) = number.and_then(|number| number.parse().ok()) else { continue };
            last = u32::max(last, pack);
            let known = records::read(&dir, &index_name(pack))?;
            let entries = match known.as_deref().map(|bytes| decode(bytes, pack)) {
                Some(Ok(entries)) => entries,
                Some(Err(_)) | None => {
                    let entries = rebuild(&dir, pack)?;
                    let shown = dir.at(&index_name(pack));
                    tracing::warn!(
                        index = shown,
                        objects = entries.len(),
                        "made anew from its pack"
                    );
                    records::write_durably(tmp, &dir, &index_name(pack), &encode(&entries))?;
                    entries
                }
            };
            spots.reserve(entries.len());
            spots.extend(entries);
        }
        let (spots, open) = (RwLock::new(spots), Mutex::default());
        Ok(Self { dir, spots, open, next: AtomicU32::new(last + 1) })
    }

    /// Where an object is; none where no pack has it.
    pub(super) fn find(&self, hash: Hash) -> Option<Spot> {
        self.spots.read().unwrap_or_else(PoisonError::into_inner).get(&hash).copied()
    }

    /// The bytes at a spot, whatever they are now.
    pub(super) fn read(&self, spot: Spot) -> Result<Vec<u8>, StoreError> {
        let file = self.file(spot.pack)?;
        let mut bytes = vec![0; usize::try_from(spot.length).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, spot.offset)
            .map_err(|source| StoreError::Read { path: self.at(spot), source })?;
        Ok(bytes)
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
pub(super) fn head(hash: Hash, length: u32) -> [u8; HASH_BYTES + 4] {
    let mut head = [0; HASH_BYTES + 4];
    head[..HASH_BYTES].copy_from_slice(hash.as_bytes());
    head[HASH_BYTES..].copy_from_slice(&length.to_le_bytes());
    head
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
        let (length, _) = rest.split_first_chunk().ok_or("is cut off")?;
        let (offset, length) = (u64::from_le_bytes(*offset), u32::from_le_bytes(*length));
        if usize::try_from(length).map_or(true, |length| length > PACKED_BYTES_MAX) {
            return Err("names an object that is too large for a pack");
        }
        spots.insert(Hash::from_bytes(*hash), Spot { pack, offset, length });
    }
    Ok(spots)
}

/// Reads a pack from its start; what has not the hash that stands before it is left out.
fn rebuild(dir: &Dir, pack: u32) -> Result<HashMap<Hash, Spot>, StoreError> {
    let name = pack_name(pack);
    let mut file = BufReader::new(dir.file(&name)?);
    let mut spots = HashMap::new();
    let mut magic = [0; PACK_MAGIC.len()];
    let mut read = |bytes: &mut [u8]| match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(source) => Err(StoreError::Read { path: dir.at(&name), source }),
    };
    if !read(&mut magic)? || magic != *PACK_MAGIC {
        return Ok(spots);
    }
    let (mut offset, mut bytes) = (magic.len() as u64, Vec::new());
    loop {
        let mut head = [0; HASH_BYTES + 4];
        if !read(&mut head)? {
            return Ok(spots);
        }
        offset += head.len() as u64;
        let (hash, length) = head.split_at(HASH_BYTES);
        let length = length.try_into().map(u32::from_le_bytes).unwrap_or(u32::MAX);
        let Ok(size) = usize::try_from(length) else { return Ok(spots) };
        if size > PACKED_BYTES_MAX {
            return Ok(spots);
        }
        bytes.resize(size, 0);
        if !read(&mut bytes)? {
            return Ok(spots);
        }
        let found = Hash::of(&bytes);
        if found.as_bytes() == hash {
            spots.insert(found, Spot { pack, offset, length });
        }
        offset += u64::from(length);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spots() -> impl Strategy<Value = HashMap<Hash, Spot>> {
        let spot = (any::<[u8; 8]>(), any::<u64>(), 0..=PACKED_BYTES_MAX as u32);
        prop::collection::vec(spot, 0..20).prop_map(|rows| {
            let row = |(seed, offset, length): ([u8; 8], u64, u32)| {
                (Hash::of(&seed), Spot { pack: 3, offset, length })
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
            objects in prop::collection::vec(any::<Vec<u8>>(), 0..9), junk in any::<Vec<u8>>()
        ) {
            let temp = tempfile::tempdir().unwrap();
            let dir = Dir::open(&temp.path().canonicalize().unwrap()).unwrap();
            let mut bytes = PACK_MAGIC.to_vec();
            for object in &objects {
                bytes.extend(head(Hash::of(object), object.len() as u32));
                bytes.extend(object);
            }
            bytes.extend(junk);
            std::fs::write(temp.path().join("00000007.pack"), &bytes).unwrap();
            let spots = rebuild(&dir, 7).unwrap();
            for object in objects {
                let spot = spots[&Hash::of(&object)];
                let at = usize::try_from(spot.offset).unwrap();
                prop_assert_eq!(&bytes[at..at + object.len()], object.as_slice());
            }
        }
    }
}
