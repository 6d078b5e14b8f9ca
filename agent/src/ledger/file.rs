//! The ledger on disk: an append-only file of checksummed records.
//!
//! ```text
//! header "lastgood ledger 1\n"
//! append  length u32 LE │ crc32 u32 LE of the length │ crc32 u32 LE of the payload │ payload (JSON, list of Record)
//! ```
//!
//! A plain file, because an agent must be small and sled neither is (it holds a page cache and threads) nor
//! fsyncs by itself.
//!
//! Invariant: [`LedgerFile::append`] returns only when its records are durable; after a failed sync the process
//! ends, because what the disk then holds is not known.
//! Invariant: an append is there as a whole or not at all: what a step's end leads to is never cut from it.
//! Invariant: a torn tail (a crash in an append that was never acknowledged) is cut off; damage before the tail
//! is refused, never skipped.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use super::{Ledger, Record};
use crate::lock;

const HEADER: &[u8] = b"lastgood ledger 1\n";
/// Larger than any append with an order of the most steps; a length above it is damage.
const APPEND_BYTES_MAX: u32 = 1024 * 1024;
/// Past this the file is written anew with only what is still needed.
const COMPACT_BYTES: u64 = 4 * 1024 * 1024;

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("opening the ledger {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("reading the ledger {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the ledger {} is of a format that this agent does not know; run the version that wrote it, or, if no \
         operation is open on this host, move the file away and start again",
        path.display()
    )]
    Format { path: PathBuf },
    #[error(
        "the ledger {} is damaged at byte {offset}; nothing is done on this host until a person has looked: \
         compare the live release with `ctl status`, then move the file away and start again",
        path.display()
    )]
    Damaged { path: PathBuf, offset: u64 },
    #[error("another agent holds the ledger {}", path.display())]
    Held { path: PathBuf },
    #[error("writing the ledger {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// The open file.
#[derive(Debug)]
pub struct LedgerFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl LedgerFile {
    /// Opens or creates the ledger in `directory` and replays it.
    pub fn open(directory: &Path) -> Result<(Self, Ledger), LedgerError> {
        let path = directory.join("ledger");
        let open = |source| LedgerError::Open { path: path.clone(), source };
        // It may be the first that is made of the state directory.
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(open)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(open)?;
        if !lock::take(&file).map_err(open)? {
            return Err(LedgerError::Held { path });
        }
        let mut ledger = Self { path, file, bytes: 0 };
        let records = ledger.read()?;
        ledger.sync_directory().map_err(|source| ledger.write_error(source))?;
        Ok((ledger, Ledger::replay(&records)))
    }

    /// Appends records; they are durable when this returns. An error means that the process has to end.
    pub fn append(&mut self, records: &[Record]) -> Result<(), LedgerError> {
        let mut bytes = Vec::new();
        encode(records, &mut bytes);
        if bytes.len() > APPEND_BYTES_MAX as usize {
            // What could not be read back must not be written.
            let source = std::io::Error::other(format!("{} bytes in one append", bytes.len()));
            return Err(self.write_error(source));
        }
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(|source| self.write_error(source))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Whether it has grown so long that [`Self::compact`] pays.
    pub fn is_long(&self) -> bool {
        self.bytes > COMPACT_BYTES
    }

    /// Writes the file anew: the fence, and the ended tracks that are still kept. Not while a track is open.
    pub fn compact(&mut self, ledger: &Ledger) -> Result<(), LedgerError> {
        let mut bytes = HEADER.to_vec();
        for record in ledger.summary() {
            encode(&[record], &mut bytes);
        }
        let new = self.path.with_extension("new");
        let swap = || -> std::io::Result<File> {
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            file.lock()?;
            std::fs::rename(&new, &self.path)?;
            Ok(file)
        };
        self.file = swap().map_err(|source| self.write_error(source))?;
        self.bytes = bytes.len() as u64;
        self.sync_directory().map_err(|source| self.write_error(source))
    }

    fn read(&mut self) -> Result<Vec<Record>, LedgerError> {
        let mut bytes = Vec::new();
        self.file
            .read_to_end(&mut bytes)
            .map_err(|source| LedgerError::Read { path: self.path.clone(), source })?;
        if bytes.len() < HEADER.len() && HEADER.starts_with(&bytes) {
            self.cut(0)?;
            let begun = self.file.write_all(HEADER).and_then(|()| self.file.sync_all());
            begun.map_err(|source| self.write_error(source))?;
            self.bytes = HEADER.len() as u64;
            return Ok(Vec::new());
        }
        let Some(mut rest) = bytes.strip_prefix(HEADER) else {
            return Err(LedgerError::Format { path: self.path.clone() });
        };
        let mut records = Vec::new();
        loop {
            let offset = (bytes.len() - rest.len()) as u64;
            match decode(rest) {
                Decoded::Append(appended, length) => {
                    records.extend(appended);
                    rest = &rest[length..];
                }
                Decoded::Torn => {
                    self.cut(offset)?;
                    self.bytes = offset;
                    return Ok(records);
                }
                Decoded::Damaged => {
                    return Err(LedgerError::Damaged { path: self.path.clone(), offset });
                }
            }
        }
    }

    fn cut(&mut self, offset: u64) -> Result<(), LedgerError> {
        let cut = self.file.set_len(offset).and_then(|()| self.file.seek(SeekFrom::Start(offset)));
        cut.and_then(|_| self.file.sync_all()).map_err(|source| self.write_error(source))
    }

    fn sync_directory(&self) -> std::io::Result<()> {
        match self.path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }

    fn write_error(&self, source: std::io::Error) -> LedgerError {
        LedgerError::Write { path: self.path.clone(), source }
    }
}

impl Ledger {
    /// Records that give the same answers as all of its records did.
    fn summary(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for track in self.tracks() {
            let key = &track.order.key;
            records.push(Record::Accepted(Box::new(track.order.clone())));
            for (index, step) in track.steps() {
                let key = || key.clone();
                if let Some(before) = step.before().cloned() {
                    records.push(Record::StepBegan { key: key(), index, before });
                }
                if let Some(result) = step.result.clone() {
                    records.push(Record::StepEnded { key: key(), index, result });
                }
                if let Some(result) = step.undo.clone() {
                    records.extend(
                        (0..step.undo_begun).map(|_| Record::UndoBegan { key: key(), index }),
                    );
                    records.push(Record::UndoEnded { key: key(), index, result });
                }
            }
            if let Some(why) = track.back.clone() {
                records.push(Record::TurnedBack { key: key.clone(), why });
            }
            if let Some(ending) = track.ending.clone() {
                records.push(Record::Ended { key: key.clone(), ending });
            }
        }
        let trials = self.trials.iter();
        records.extend(
            trials.map(|(key, trial)| Record::Trial { key: key.clone(), trial: trial.clone() }),
        );
        records.extend(self.fence().cloned().map(Record::Fenced));
        records
    }
}

enum Decoded {
    Append(Vec<Record>, usize),
    /// The end, or what an unfinished append left.
    Torn,
    Damaged,
}

fn encode(records: &[Record], bytes: &mut Vec<u8>) {
    let payload =
        serde_json::to_vec(records).expect("records have only strings, numbers and lists");
    let length =
        u32::try_from(payload.len()).expect("an order is checked to be far smaller").to_le_bytes();
    bytes.extend(length);
    bytes.extend(crc32fast::hash(&length).to_le_bytes());
    bytes.extend(crc32fast::hash(&payload).to_le_bytes());
    bytes.extend(payload);
}

/// The first append of `bytes`. Bytes that an unfinished append left are missing or zero; JSON has no zero byte,
/// so anything else that does not fit is damage.
fn decode(bytes: &[u8]) -> Decoded {
    let Some((head, rest)) = bytes.split_first_chunk::<12>() else { return Decoded::Torn };
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if crc32fast::hash(&head[..4]) != word(4) || word(0) > APPEND_BYTES_MAX {
        let unwritten = bytes.iter().all(|byte| *byte == 0);
        return if unwritten { Decoded::Torn } else { Decoded::Damaged };
    }
    let length = word(0) as usize;
    let Some(payload) = rest.get(..length) else { return Decoded::Torn };
    if crc32fast::hash(payload) != word(8) {
        let unwritten = rest.len() == length && payload.contains(&0);
        return if unwritten { Decoded::Torn } else { Decoded::Damaged };
    }
    match serde_json::from_slice(payload) {
        Ok(records) => Decoded::Append(records, head.len() + length),
        Err(_) => Decoded::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Fence;

    fn fenced(sequence: u64) -> Record {
        Record::Fenced(Fence { epoch: 3, instance: "ab".to_owned(), sequence })
    }

    fn written(directory: &Path, records: u64) -> Vec<u8> {
        let (mut file, _) = LedgerFile::open(directory).unwrap();
        for sequence in 1..=records {
            file.append(&[fenced(sequence)]).unwrap();
        }
        std::fs::read(directory.join("ledger")).unwrap()
    }

    #[test]
    fn p08_what_was_appended_is_there_after_a_reopen() {
        let directory = tempfile::tempdir().unwrap();
        written(directory.path(), 5);
        let (_, ledger) = LedgerFile::open(directory.path()).unwrap();
        assert_eq!(ledger.fence().unwrap().sequence, 5);
    }

    #[test]
    fn p08_a_torn_tail_is_cut_at_every_length() {
        let directory = tempfile::tempdir().unwrap();
        let whole = written(directory.path(), 3);
        let two = {
            let other = tempfile::tempdir().unwrap();
            written(other.path(), 2).len()
        };
        for length in two..whole.len() {
            std::fs::write(directory.path().join("ledger"), &whole[..length]).unwrap();
            let (mut file, ledger) = LedgerFile::open(directory.path()).unwrap();
            assert_eq!(ledger.fence().unwrap().sequence, 2, "cut to {length}");
            file.append(&[fenced(9)]).unwrap();
            drop(file);
            assert_eq!(LedgerFile::open(directory.path()).unwrap().1.fence().unwrap().sequence, 9);
        }
    }

    #[test]
    fn p08_an_append_is_there_as_a_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let before = written(directory.path(), 1).len();
        let (mut file, _) = LedgerFile::open(directory.path()).unwrap();
        file.append(&[fenced(2), fenced(3), fenced(4)]).unwrap();
        drop(file);
        let whole = std::fs::read(directory.path().join("ledger")).unwrap();
        for length in before..=whole.len() {
            std::fs::write(directory.path().join("ledger"), &whole[..length]).unwrap();
            let (_, ledger) = LedgerFile::open(directory.path()).unwrap();
            let expected = if length == whole.len() { 4 } else { 1 };
            assert_eq!(ledger.fence().unwrap().sequence, expected, "cut to {length}");
        }
    }

    #[test]
    fn p08_a_flipped_byte_anywhere_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let whole = written(directory.path(), 3);
        for at in HEADER.len()..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            std::fs::write(directory.path().join("ledger"), &bytes).unwrap();
            let error = LedgerFile::open(directory.path()).err();
            assert!(matches!(error, Some(LedgerError::Damaged { .. })), "byte {at}: {error:?}");
        }
    }

    #[test]
    fn p08_zeros_at_the_end_are_an_unfinished_append() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = written(directory.path(), 2);
        let end = bytes.len();
        bytes.extend([0; 300]);
        std::fs::write(directory.path().join("ledger"), &bytes).unwrap();
        let (file, ledger) = LedgerFile::open(directory.path()).unwrap();
        assert_eq!((file.bytes, ledger.fence().unwrap().sequence), (end as u64, 2));
    }

    #[test]
    fn an_unknown_format_is_refused_with_the_mend() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ledger"), b"lastgood ledger 9\nxxxxxxxx").unwrap();
        let error = LedgerFile::open(directory.path()).unwrap_err();
        assert!(error.to_string().contains("run the version that wrote it"), "{error}");
    }

    #[test]
    fn one_agent_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = LedgerFile::open(directory.path()).unwrap();
        assert!(matches!(LedgerFile::open(directory.path()), Err(LedgerError::Held { .. })));
        drop(first);
        LedgerFile::open(directory.path()).unwrap();
    }
}
