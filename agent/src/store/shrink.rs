//! Large objects, compressed one by one.
//!
//! ```text
//! objects/ab/cdef… ──read, check, compress──▶ tmp/compact/large ──pays: sync──▶ objects/ab/cdef….z ──sync──▶ the plain one goes
//!                                                    └does not: the plain one is made read-only, and is not tried again
//! ```
//!
//! One that has holes stays as it is: what a hole takes no compression can beat, and it goes back as a hole.
//!
//! Invariant: the plain form goes only once the compressed one has its name, durably.

use std::fs::File;

use rustix::fs::{Mode, Stat};

use super::{
    compact::{Left, Run, large_hash},
    dir::{Dir, Rename},
    error::StoreError,
    hash::Hash,
    meta,
    objects::{has_holes, hash_through, squeezed_name, sync_file},
    squeeze,
};

/// What a large object is written to.
const LARGE: &[u8] = b"large";
/// After so many bytes it is looked whether an operation waits.
const BYTES_AT_ONCE: u64 = 8 * 1024 * 1024;

impl Run<'_> {
    /// Compresses every large object that is old enough and was not tried yet.
    pub(super) fn shrink(&mut self) -> Result<(), StoreError> {
        let objects = &self.store.objects;
        let now_s = jiff::Timestamp::now().as_second();
        let min_age_s = i64::try_from(self.how.min_age.as_secs()).unwrap_or(i64::MAX);
        for fanout in objects.dir.names()? {
            let Some(dir) = objects.fanout(&fanout)? else { continue };
            for name in dir.names()? {
                let Some(hash) = large_hash(&fanout, &name).filter(|_| !name.ends_with(b".z"))
                else {
                    continue;
                };
                let Some(stat) = dir.stat(&name)? else { continue };
                let is_old = now_s.saturating_sub(meta::mtime(&stat).0) >= min_age_s;
                let tried =
                    Mode::from_raw_mode(stat.st_mode).intersection(Mode::RWXU) == Mode::RUSR;
                let packed = objects.packs.find(hash).is_some();
                if !is_old || tried || packed {
                    continue;
                }
                self.make_way()?;
                let size_bytes = u64::try_from(stat.st_size).unwrap_or_default();
                if !self.has_room(size_bytes)? {
                    return Ok(());
                }
                match self.squeeze(&dir, &name, hash, &stat) {
                    Err(error @ StoreError::Read { .. }) => {
                        self.done.left.push(Left::CannotRead { why: error.reason() });
                    }
                    done => done?,
                }
                self.temp().unlink(LARGE)?;
            }
        }
        Ok(())
    }

    fn squeeze(
        &mut self,
        dir: &Dir,
        name: &[u8],
        hash: Hash,
        stat: &Stat,
    ) -> Result<(), StoreError> {
        // Freed, or taken out of use, in between.
        let Some(mut plain) = dir.file_if_there(name)? else { return Ok(()) };
        let size_bytes = u64::try_from(stat.st_size).unwrap_or_default();
        if has_holes(&plain, size_bytes, &dir.at(name))? {
            return Ok(());
        }
        let file = self.temp().create(LARGE)?;
        let at = self.temp().at(LARGE);
        let failed = |source| StoreError::Write { path: at.clone(), source };
        let mut large = squeeze::Large::new(&file, size_bytes).map_err(failed)?;
        let (mut read, mut looked) = (0, 0);
        let found = hash_through(&mut plain, &dir.at(name), |chunk| {
            read += chunk.len() as u64;
            if read - looked > BYTES_AT_ONCE {
                looked = read;
                self.make_way()?;
            }
            // One that has grown is damaged, which is found in a moment.
            if read > size_bytes { Ok(()) } else { large.write(chunk).map_err(failed) }
        })?;
        if found != (size_bytes, hash) {
            return self.found_damaged(hash);
        }
        large.end().map_err(failed)?;
        let stored = meta::stat_of(&file, &at)?.st_size;
        let stored = u64::try_from(stored).unwrap_or(u64::MAX);
        if !squeeze::pays(stored, size_bytes) {
            return tried(&plain, dir, name);
        }
        sync_file(&file, &at)?;
        self.store.steps.reach("compact: object written")?;
        self.temp().rename(LARGE, dir, &squeezed_name(name), Rename::Over)?;
        dir.sync()?;
        self.store.steps.reach("compact: object named")?;
        dir.unlink(name)?;
        self.store.steps.reach("compact: plain object gone")?;
        self.done.compressed_objects += 1;
        self.done.saved_bytes += size_bytes - stored;
        Ok(())
    }
}

/// Remembers that an object does not pay to compress. Lost, it is tried once more.
fn tried(plain: &File, dir: &Dir, name: &[u8]) -> Result<(), StoreError> {
    rustix::fs::fchmod(plain, Mode::RUSR).map_err(|errno| StoreError::Metadata {
        path: dir.at(name),
        what: "the mode",
        source: errno.into(),
    })
}
