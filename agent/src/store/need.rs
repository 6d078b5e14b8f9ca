//! How much room a snapshot and a switch need, told before anything is written and where a disk filled up all the same.
//!
//! ```text
//! snapshot: files that the stat cache, or the store, does not have ──sizes──▶ fits? ──no──▶ refused, nothing written
//! switch:   hold, records, names                            ──a few blocks──▶ fits? ──no──▶ refused, nothing moved
//! any:      a write fails for want of room ──▶ the same words, with what is needed and what is free
//! ```
//!
//! Invariant: what is not known is not made up: a need is told as the least that is needed.

use std::collections::{BTreeMap, HashSet};

use rustix::fs::FileType;

use super::{
    Shared, Store,
    cache::Cache,
    dir::Dir,
    error::StoreError,
    scan::{self, Place, Root},
    set::{Set, Site},
    space::{self, Needs},
    walk,
};

/// Hold, records, and the directories in which they and the names of a switch stand.
const SWITCH_BYTES: u64 = 64 * 1024;
/// What one path takes in a manifest, where all of them may have to be written in mid-switch.
const MANIFEST_ENTRY_BYTES: u64 = 256;
/// One handle is open per level; deeper trees are refused by the walk that follows.
const DEPTH_MAX: usize = 256;

impl Store {
    /// Refuses a snapshot for which there is no room. Where there is room for the whole release twice over, or for all
    /// that there is on its file systems, nobody has to look how much of it is new.
    pub(super) fn refuse_no_room(
        &self,
        set: &Set,
        sites: &[Site<'_>],
        shared: &Shared,
    ) -> Result<(), StoreError> {
        let (free_bytes, _) = space::free(&self.tmp)?;
        let known = match self.records.live(&set.component)? {
            Some(live) => self.records.find(&set.component, live.exact)?,
            None => None,
        };
        if let Some(super::records::Found::Record(record)) = known
            && free_bytes / 2 > record.size_bytes
        {
            return Ok(());
        }
        let mut used: BTreeMap<u64, u64> = BTreeMap::new();
        for site in sites {
            used.insert(site.parent.own_stat()?.st_dev, space::used(&site.parent)?);
        }
        if used.values().sum::<u64>() < free_bytes {
            return Ok(());
        }
        let (bytes, entries) = self.to_store(set, sites, &shared.cache)?;
        let mut needs = Needs::default();
        needs.add_size(&self.tmp, bytes.saturating_add(MANIFEST_ENTRY_BYTES * entries), 0)?;
        needs.check()
    }

    /// The bytes and paths of what is live that the store does not have yet, as far as stat tells.
    fn to_store(
        &self,
        set: &Set,
        sites: &[Site<'_>],
        cache: &Cache,
    ) -> Result<(u64, u64), StoreError> {
        let mut found = (0, 0);
        let excluded = walk::excluded(set);
        for (root, excluded) in scan::roots(set, sites, Place::Live)?.iter().zip(&excluded) {
            match root {
                Root::Absent => {}
                Root::Tree(dir) => self.below(dir, excluded, cache, &mut Vec::new(), &mut found)?,
                Root::File(dir, name) => self.file(dir, name, cache, &mut found)?,
            }
        }
        Ok(found)
    }

    fn below(
        &self,
        dir: &Dir,
        excluded: &HashSet<&[u8]>,
        cache: &Cache,
        at: &mut Vec<Vec<u8>>,
        found: &mut (u64, u64),
    ) -> Result<(), StoreError> {
        for name in dir.names()? {
            at.push(name.clone());
            if !excluded.contains(at.join(&b'/').as_slice()) {
                let is_dir = dir.stat(&name)?.is_some_and(|stat| {
                    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                });
                if !is_dir {
                    self.file(dir, &name, cache, found)?;
                } else if at.len() < DEPTH_MAX
                    && let Some(below) = dir.dir_if_there(&name)?
                {
                    self.below(&below, excluded, cache, at, found)?;
                }
            }
            at.pop();
        }
        found.1 += 1;
        Ok(())
    }

    fn file(
        &self,
        dir: &Dir,
        name: &[u8],
        cache: &Cache,
        found: &mut (u64, u64),
    ) -> Result<(), StoreError> {
        let Some(stat) = dir.stat(name)? else { return Ok(()) };
        found.1 += 1;
        let size_bytes = u64::try_from(stat.st_size).unwrap_or_default();
        let stored = match cache.seen(&stat) {
            Some((hash, _, _)) => self.objects.contains(hash, size_bytes)?,
            None => false,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && !stored {
            found.0 += size_bytes;
        }
        Ok(())
    }

    /// Refuses a switch whose records would not fit, before anything is moved.
    pub(super) fn refuse_no_room_to_switch(
        &self,
        sites: &[Site<'_>],
        sealed: bool,
        files: u64,
    ) -> Result<(), StoreError> {
        let records = if sealed { 0 } else { files.saturating_mul(MANIFEST_ENTRY_BYTES) };
        let beside = sites.iter().filter_map(|site| site.staging.as_ref());
        for (dir, needed_bytes) in std::iter::once((&self.hold, SWITCH_BYTES + records))
            .chain(beside.map(|staging| (staging, SWITCH_BYTES)))
        {
            let (free_bytes, _) = space::free(dir)?;
            if free_bytes < needed_bytes {
                let path = dir.at(b"");
                return Err(StoreError::NoSpace { path, needed_bytes, free_bytes });
            }
        }
        Ok(())
    }

    /// The error of an operation, with what was needed at least and what is free, where a disk was full.
    pub(super) fn with_room(&self, error: StoreError, sites: &[Site<'_>]) -> StoreError {
        // After a failed sync the process ends, whatever made it fail.
        if matches!(error, StoreError::Fsync { .. } | StoreError::NoSpace { .. })
            || !error.is_no_space()
        {
            return error;
        }
        let beside = sites.iter().map(|site| site.staging.as_ref().unwrap_or(&site.parent));
        let rooms = std::iter::once(&self.tmp).chain(beside);
        let rooms = rooms.filter_map(|dir| Some((space::free(dir).ok()?.0, dir.at(b""))));
        match rooms.min() {
            Some((free_bytes, path)) => StoreError::Full {
                path,
                needed_bytes: free_bytes.saturating_add(SWITCH_BYTES),
                free_bytes,
                source: Box::new(error),
            },
            None => error,
        }
    }
}
