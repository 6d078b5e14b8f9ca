//! Whether what is to be built fits.
//!
//! Invariant: asked before the first byte is written, per filesystem, with a margin for what others write meanwhile.

use std::collections::BTreeMap;

use super::{
    dir::Dir,
    error::StoreError,
    manifest::{Entry, Kind},
    objects::Objects,
    set::Site,
};

/// What a file or directory takes on disk beyond its bytes: its inode, its name, the rest of its last block.
const ENTRY_BYTES: u64 = 4096;
/// The least that must be left over.
const MARGIN_BYTES: u64 = 4 * 1024 * 1024;

/// What is needed on each filesystem that something is built on.
#[derive(Debug, Default)]
pub(super) struct Needs {
    filesystems: BTreeMap<u64, Need>,
}

#[derive(Debug, Default)]
struct Need {
    path: String,
    bytes: u64,
    inodes: u64,
    free_bytes: u64,
    free_inodes: Option<u64>,
}

impl Needs {
    /// Adds what takes so many bytes and entries on the filesystem of `dir`.
    pub(super) fn add_size(
        &mut self,
        dir: &Dir,
        bytes: u64,
        entries: u64,
    ) -> Result<(), StoreError> {
        let need = self.filesystems.entry(dir.own_stat()?.st_dev).or_default();
        need.path = dir.at(b"");
        (need.free_bytes, need.free_inodes) = free(dir)?;
        need.inodes = need.inodes.saturating_add(entries);
        let overhead = entries.saturating_mul(ENTRY_BYTES);
        need.bytes = need.bytes.saturating_add(overhead).saturating_add(bytes);
        Ok(())
    }

    /// Asks again how much is free where these stand.
    pub(super) fn look_again(&mut self, sites: &[&Site<'_>]) -> Result<(), StoreError> {
        for site in sites {
            let dir = site.staging()?;
            if let Some(need) = self.filesystems.get_mut(&dir.own_stat()?.st_dev) {
                (need.free_bytes, need.free_inodes) = free(dir)?;
            }
        }
        Ok(())
    }

    /// Refuses what does not fit.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        for need in self.filesystems.values() {
            let Need { path, free_bytes, .. } = need;
            if need.bytes_with_margin() > *free_bytes {
                return Err(StoreError::NoSpace {
                    path: path.clone(),
                    needed_bytes: need.bytes_with_margin(),
                    free_bytes: *free_bytes,
                });
            }
            if let Some(free) = need.free_inodes
                && need.inodes > free
            {
                return Err(StoreError::NoInodes { path: path.clone(), needed: need.inodes, free });
            }
        }
        Ok(())
    }

    /// Bytes needed and bytes free on the filesystem where it is tightest.
    pub(super) fn tightest(&self) -> (u64, u64) {
        let left = |need: &&Need| need.free_bytes.saturating_sub(need.bytes_with_margin());
        let tightest = self.filesystems.values().min_by_key(left);
        tightest.map_or((0, 0), |need| (need.bytes_with_margin(), need.free_bytes))
    }
}

impl Need {
    fn bytes_with_margin(&self) -> u64 {
        if self.bytes == 0 { 0 } else { self.bytes + self.bytes / 20 + MARGIN_BYTES }
    }
}

/// Bytes and entries that it takes to build these. Another name of a file takes neither, and holes take no bytes.
pub(super) fn to_build<'e>(
    objects: &Objects,
    entries: impl Iterator<Item = &'e Entry>,
) -> Result<(u64, u64), StoreError> {
    let (mut bytes, mut count) = (0u64, 0);
    for entry in entries {
        match entry.kind {
            Kind::Same { .. } => {}
            Kind::Dir | Kind::Link { .. } => count += 1,
            Kind::File { size_bytes, hash } => {
                bytes = bytes.saturating_add(objects.filled_bytes(hash, size_bytes)?);
                count += 1;
            }
        }
    }
    Ok((bytes, count))
}

/// Bytes that everything on a file system takes.
pub(super) fn used(dir: &Dir) -> Result<u64, StoreError> {
    let stat = rustix::fs::fstatvfs(dir)
        .map_err(|errno| StoreError::Stat { path: dir.at(b""), source: errno.into() })?;
    Ok(stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize))
}

/// Free bytes and inodes; filesystems that make inodes as they need them name no number.
pub(crate) fn free(dir: &Dir) -> Result<(u64, Option<u64>), StoreError> {
    let stat = rustix::fs::fstatvfs(dir)
        .map_err(|errno| StoreError::Stat { path: dir.at(b""), source: errno.into() })?;
    let inodes = (stat.f_files > 0).then_some(stat.f_favail);
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), inodes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(bytes: u64, free_bytes: u64, free_inodes: Option<u64>) -> Needs {
        let path = "/srv/.lastgood".to_owned();
        let need = Need { path, bytes, inodes: 10, free_bytes, free_inodes };
        Needs { filesystems: BTreeMap::from([(1, need)]) }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_is_needed() {
        let error = needs(1_000_000, 1_000_000, None).check().unwrap_err().to_string();
        let needed = 1_000_000 + 50_000 + MARGIN_BYTES;
        assert!(error.contains(&format!("{needed} bytes needed, 1000000 bytes free")), "{error}");
        needs(1_000_000, needed, None).check().unwrap();
        needs(0, 0, None).check().unwrap();
    }

    #[test]
    fn inodes_run_out_too() {
        let checked = needs(1, u64::MAX, Some(9)).check();
        assert!(matches!(checked, Err(StoreError::NoInodes { needed: 10, free: 9, .. })));
        needs(1, u64::MAX, Some(10)).check().unwrap();
    }
}
