//! The journal for tests and simulations: the same contract over a disk that is a shared map, with crashes on demand.
//!
//! ```text
//! MemoryDisk ◀── open ── MemoryJournal     dropping the journal is the crash, opening the disk again the restart
//! ```
//!
//! Invariant: what an append acknowledged is on the disk; what a crash point cut off was never acknowledged.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{BoxFuture, Epoch, Journal, JournalError, Stream, check_sizes};

/// What outlives a [`MemoryJournal`]. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    streams: BTreeMap<Stream, Vec<Vec<u8>>>,
    epoch: Option<Epoch>,
    /// Grows with every opening; a journal of an earlier one writes nothing more.
    opening: u64,
}

/// Where a journal stops, as a process does that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// The `n`-th append from now (0: the next) is lost.
    Before(u64),
    /// The `n`-th append from now is on disk, and its caller never learns so.
    After(u64),
}

/// See the module.
pub struct MemoryJournal {
    disk: MemoryDisk,
    epoch: Epoch,
    opening: u64,
    crash: Mutex<Crash>,
}

#[derive(Clone, Copy, Debug)]
enum Crash {
    Never,
    At(CrashPoint),
    Stopped,
}

impl MemoryJournal {
    /// Begins a new term on `disk`. A journal that still holds the disk is stopped, as its process would be.
    pub fn open(disk: &MemoryDisk, at_least: u64) -> Self {
        let mut contents = disk.lock();
        let epoch = Epoch::after(contents.epoch.as_ref(), at_least);
        contents.epoch = Some(epoch.clone());
        contents.opening += 1;
        let opening = contents.opening;
        drop(contents);
        Self { disk: disk.clone(), epoch, opening, crash: Mutex::new(Crash::Never) }
    }

    /// As [`open`](Self::open), under an instance name of the caller's: for runs that must repeat exactly.
    pub fn open_as(disk: &MemoryDisk, at_least: u64, instance: impl Into<String>) -> Self {
        let mut journal = Self::open(disk, at_least);
        journal.epoch.instance = instance.into();
        disk.lock().epoch = Some(journal.epoch.clone());
        journal
    }

    /// Stops this journal at `point`. Replaces an earlier crash point.
    pub fn crash_at(&self, point: CrashPoint) {
        *lock(&self.crash) = Crash::At(point);
    }

    fn append_now(
        &self,
        stream: Stream,
        expected: u64,
        records: Vec<Vec<u8>>,
    ) -> Result<u64, JournalError> {
        check_sizes(&stream, &records)?;
        let mut contents = self.disk.lock();
        if contents.opening != self.opening {
            return Err(JournalError::Stopped);
        }
        let mut crash = lock(&self.crash);
        let (now, next) = crash.step();
        *crash = next;
        if now == Fate::Lost {
            return Err(JournalError::Stopped);
        }
        let actual = contents.streams.get(&stream).map_or(0, |held| held.len() as u64);
        if actual != expected {
            return Err(JournalError::Conflict { stream, expected, actual });
        }
        let next_index = expected + records.len() as u64;
        if !records.is_empty() {
            contents.streams.entry(stream).or_default().extend(records);
        }
        match now {
            Fate::Answered => Ok(next_index),
            Fate::Lost | Fate::Unanswered => Err(JournalError::Stopped),
        }
    }
}

impl Journal for MemoryJournal {
    fn append(
        &self,
        stream: Stream,
        expected: u64,
        records: Vec<Vec<u8>>,
    ) -> BoxFuture<'_, Result<u64, JournalError>> {
        Box::pin(async move { self.append_now(stream, expected, records) })
    }

    fn replay(&self, stream: &Stream) -> Result<Vec<Vec<u8>>, JournalError> {
        Ok(self.disk.lock().streams.get(stream).cloned().unwrap_or_default())
    }

    fn streams(&self, prefix: &str) -> Result<Vec<Stream>, JournalError> {
        let contents = self.disk.lock();
        let wanted = contents.streams.keys().filter(|stream| stream.as_str().starts_with(prefix));
        Ok(wanted.cloned().collect())
    }

    fn epoch(&self) -> &Epoch {
        &self.epoch
    }
}

impl fmt::Debug for MemoryJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryJournal").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl MemoryDisk {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        lock(&self.0)
    }
}

/// What becomes of one append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    Lost,
    Unanswered,
}

impl Crash {
    /// The fate of the append at hand, and the crash point for the ones after it.
    fn step(self) -> (Fate, Self) {
        match self {
            Self::Never => (Fate::Answered, Self::Never),
            Self::Stopped | Self::At(CrashPoint::Before(0)) => (Fate::Lost, Self::Stopped),
            Self::At(CrashPoint::After(0)) => (Fate::Unanswered, Self::Stopped),
            Self::At(CrashPoint::Before(n)) => {
                (Fate::Answered, Self::At(CrashPoint::Before(n - 1)))
            }
            Self::At(CrashPoint::After(n)) => (Fate::Answered, Self::At(CrashPoint::After(n - 1))),
        }
    }
}

/// Nothing is left half done under these locks, so a panic elsewhere does not spoil the data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
