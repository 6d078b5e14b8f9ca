//! The stat cache: the hash and the extended attributes that a file had when it was last read, by what `stat` said of
//! it then.
//!
//! Invariant: a hit is as good as reading: a file that was changed too shortly before it was read to tell a later
//! change apart is never remembered.
//! Invariant: losing the cache costs time and nothing else, so it is neither synced nor repaired.

use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

use super::{hash::Hash, manifest::Xattrs, meta, records};

pub(super) const MAGIC: &[u8; 4] = b"LGC4";
/// The kernel stamps with a clock that moves every 1 to 10 ms.
const STAMP_STEP: Duration = Duration::from_millis(20);
/// Filesystems without nanoseconds stamp with whole or even seconds.
const COARSE_STAMP_STEP: Duration = Duration::from_secs(2);
/// Beyond this it starts anew: trees that are long gone have left their entries.
const ENTRIES_MAX: usize = 1_000_000;

/// The cache of one component, shared by all that look at it.
#[derive(Debug, Default)]
pub(super) struct Cache {
    seen: RwLock<HashMap<(u64, u64), Seen>>,
    /// Something was remembered since it was last encoded.
    is_new: AtomicBool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    size_bytes: i64,
    mtime: (i64, u32),
    ctime: (i64, u32),
    hash: Hash,
    /// So that it is not taken for stored where only the same bytes without holes are.
    holes: bool,
    /// A change of them is a change of ctime, too.
    xattrs: Xattrs,
}

impl Cache {
    /// The hash of a file that looks like this, whether it has holes, and its extended attributes; if it was read while
    /// it did.
    pub(super) fn seen(&self, stat: &Stat) -> Option<(Hash, bool, Xattrs)> {
        let all = self.read();
        let seen = all.get(&(stat.st_dev, stat.st_ino))?;
        let same = seen.size_bytes == stat.st_size
            && seen.mtime == meta::mtime(stat)
            && seen.ctime == meta::ctime(stat);
        same.then(|| (seen.hash, seen.holes, seen.xattrs.clone()))
    }

    /// Remembers what was read since `began`, a time before the first byte was.
    pub(super) fn remember(
        &self,
        stat: &Stat,
        hash: Hash,
        holes: bool,
        xattrs: &Xattrs,
        began: SystemTime,
    ) {
        if !is_settled(meta::ctime(stat), began) {
            return;
        }
        let mut seen = self.write();
        if seen.len() >= ENTRIES_MAX {
            seen.clear();
        }
        seen.insert(
            (stat.st_dev, stat.st_ino),
            Seen {
                size_bytes: stat.st_size,
                mtime: meta::mtime(stat),
                ctime: meta::ctime(stat),
                hash,
                holes,
                xattrs: xattrs.clone(),
            },
        );
        self.is_new.store(true, Ordering::Relaxed);
    }

    /// For a later run; none where it has nothing new.
    pub(super) fn encode_if_new(&self) -> Option<Vec<u8>> {
        let is_new = self.is_new.swap(false, Ordering::Relaxed);
        is_new.then(|| records::seal(MAGIC, &*self.read()))
    }

    /// What an earlier run left; empty where it cannot be read.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        let seen = records::unseal(MAGIC, bytes).unwrap_or_default();
        Self { seen: RwLock::new(seen), is_new: AtomicBool::default() }
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn len(&self) -> usize {
        self.read().len()
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<(u64, u64), Seen>> {
        self.seen.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<(u64, u64), Seen>> {
        self.seen.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether any change after `began` would have got another stamp than this one.
pub(super) fn is_settled(ctime: (i64, u32), began: SystemTime) -> bool {
    let step = if ctime.1 == 0 { COARSE_STAMP_STEP } else { STAMP_STEP };
    let Ok(seconds) = u64::try_from(ctime.0) else { return false };
    UNIX_EPOCH
        .checked_add(Duration::new(seconds, ctime.1) + step)
        .is_some_and(|settled| settled < began)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_as_young_as_the_read_proves_nothing() {
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        let stamp = (100, 500_000_000);
        assert!(!is_settled(stamp, at(100_500)));
        assert!(!is_settled(stamp, at(100_510)));
        assert!(is_settled(stamp, at(100_600)));
        assert!(!is_settled(stamp, at(50_000)));
        assert!(!is_settled((100, 0), at(101_500)));
        assert!(is_settled((100, 0), at(102_500)));
    }

    #[test]
    fn garbage_is_an_empty_cache() {
        assert!(Cache::decode(b"LGC2 torn").read().is_empty());
    }
}
