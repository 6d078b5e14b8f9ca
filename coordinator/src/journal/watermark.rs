//! How many records were ever acknowledged, kept beside the store: a store that lost its tail cannot hide it.
//!
//! sled ends recovery at the first message that it cannot read and carries on without the rest. Whatever was behind
//! it is then missing without a gap, so the number of records has to be known from elsewhere.
//!
//! ```text
//! append ─▶ store ─▶ fdatasync ─▶ watermark written (not synced) ─▶ acknowledged
//! ```
//!
//! Invariant: the number never is above what is durable: it is written after the sync. It may be behind after a
//! power loss, by what the kernel had not written back; never after a kill.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

/// Two slots, written in turn, so that a torn write leaves the other one.
const SLOTS: u64 = 2;
/// Apart by more than a sector.
const SLOT_SPACING_BYTES: u64 = 4096;
const SLOT_BYTES: usize = 8 + 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Watermark {
    file: File,
    next_slot: u64,
}

impl Watermark {
    /// Makes a new one that says zero, durably but for its directory entry.
    pub(super) fn create(path: &Path) -> io::Result<()> {
        let file = File::options().write(true).create(true).truncate(true).open(path)?;
        let mut watermark = Self { file, next_slot: 0 };
        watermark.write(0)?;
        watermark.sync()
    }

    /// Opens it; answers the number too, `None` where no slot is readable.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<u64>)> {
        let file = File::options().read(true).write(true).open(path)?;
        let slots: Vec<_> = (0..SLOTS).map(|slot| read(&file, slot)).collect::<io::Result<_>>()?;
        let newest = (0..SLOTS).zip(&slots).max_by_key(|(_, count)| **count);
        // The next write goes over the older one.
        let next_slot = newest.map_or(0, |(slot, _)| (slot + 1) % SLOTS);
        Ok((Self { file, next_slot }, slots.into_iter().flatten().max()))
    }

    /// Notes that `count` records are durable.
    pub(super) fn write(&mut self, count: u64) -> io::Result<()> {
        let count = count.to_be_bytes();
        let mut slot = [0; SLOT_BYTES];
        slot[..8].copy_from_slice(&count);
        slot[8..].copy_from_slice(&crc32fast::hash(&count).to_be_bytes());
        self.file.write_all_at(&slot, self.next_slot * SLOT_SPACING_BYTES)?;
        self.next_slot = (self.next_slot + 1) % SLOTS;
        Ok(())
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn read(file: &File, slot: u64) -> io::Result<Option<u64>> {
    let mut bytes = [0; SLOT_BYTES];
    match file.read_exact_at(&mut bytes, slot * SLOT_SPACING_BYTES) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let (count, crc) = bytes.split_at(8);
    let intact = crc32fast::hash(count).to_be_bytes() == *crc;
    Ok(count.first_chunk().filter(|_| intact).map(|count| u64::from_be_bytes(*count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flip(path: &Path, at: u64) {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }

    #[test]
    fn says_the_last_number_written_and_survives_one_torn_slot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watermark");
        Watermark::create(&path).unwrap();
        for count in [1, 5, 6] {
            let (mut watermark, _) = Watermark::open(&path).unwrap();
            watermark.write(count).unwrap();
            assert_eq!(Watermark::open(&path).unwrap().1, Some(count));
        }
        // 0 in slot 0, then 1, 5 and 6 in slots 1, 0 and 1.
        flip(&path, SLOT_SPACING_BYTES);
        assert_eq!(Watermark::open(&path).unwrap().1, Some(5));
        flip(&path, 8);
        assert_eq!(Watermark::open(&path).unwrap().1, None);
    }
}
