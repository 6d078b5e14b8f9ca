//! The bytes of one declared single file: as a snapshot has it, or as it is live.
//!
//! Invariant: only a file that the policy declares is read, through the directory handles of its part.
//! Invariant: bytes of a snapshot have the hash that its manifest names.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use rustix::fs::FileType;

use super::{
    Store,
    error::StoreError,
    hash::Hash,
    manifest::Kind,
    scan::{self, Place, Root},
    set::{ComponentFiles, Set},
};

/// An env file or a configuration is far smaller.
const SINGLE_BYTES_MAX: u64 = 1024 * 1024;

impl Store {
    /// The bytes of the declared file `path` in a snapshot; none where the file was absent.
    ///
    /// # Errors
    /// It is not declared, no regular file or too large to look into, or the store no longer has its bytes.
    pub fn file_in(
        &self,
        files: &ComponentFiles,
        exact: Hash,
        path: &Path,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let set = Set::new(files)?;
        let index = part_of(&set, path)?;
        let manifest = self.wanted(&self.known(&set, exact)?)?;
        let Some(entry) = manifest.parts.get(index).and_then(|part| part.entries.first()) else {
            return Ok(None);
        };
        let Kind::File { size_bytes, hash } = entry.kind else { return Err(unfit(path, LINK)) };
        if size_bytes > SINGLE_BYTES_MAX {
            return Err(unfit(path, LARGE));
        }
        let damaged = |how| {
            let what = super::build::damaged_object(b"", &self.objects.at(hash), how);
            let component = set.component.clone();
            StoreError::Damaged(Box::new(super::Damage { component, exact, what }))
        };
        let Some(object) = self.objects.open(hash)? else { return Err(damaged("is missing")) };
        let mut bytes = Vec::new();
        let read = object.read(&self.objects.at(hash), |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        if read != (size_bytes, hash) {
            return Err(damaged("no longer has the bytes of its name"));
        }
        Ok(Some(bytes))
    }

    /// The bytes of the declared file `path` as it is live; none where it is absent.
    ///
    /// # Errors
    /// It is not declared, no regular file or too large to look into, or cannot be read.
    pub fn live_file(
        &self,
        files: &ComponentFiles,
        path: &Path,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let set = Set::new(files)?;
        let index = part_of(&set, path)?;
        let roots = scan::roots(&set, &set.sites()?, Place::Live)?;
        let Some(Root::File(dir, name)) = roots.get(index) else { return Ok(None) };
        match dir.stat(name)? {
            None => return Ok(None),
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {}
            Some(_) => return Err(unfit(path, LINK)),
        }
        dir.file_if_there(name)?.map(|file| read(file, path)).transpose()
    }
}

const LINK: &str = "not a regular file, so that its keys cannot be told";
const LARGE: &str = "larger than 1 MiB, so that its keys cannot be told";

fn part_of(set: &Set, path: &Path) -> Result<usize, StoreError> {
    let plain: PathBuf = path.components().collect();
    let found = set.parts.iter().position(|part| part.path == plain);
    found.ok_or_else(|| StoreError::Policy {
        component: set.component.clone(),
        why: format!("{} is none of its files", super::error::shown_path(path)),
    })
}

fn unfit(path: &Path, what: &str) -> StoreError {
    StoreError::Unfit {
        path: super::error::shown_path(path),
        what: what.to_owned(),
        mend: "make it a plain env file, or take `require` and `secret` out of its declaration",
    }
}

fn read(file: File, path: &Path) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    let whole = file.take(SINGLE_BYTES_MAX + 1).read_to_end(&mut bytes);
    let at = super::error::shown_path(path);
    let count = whole.map_err(|source| StoreError::Read { path: at, source })?;
    if u64::try_from(count).is_ok_and(|count| count > SINGLE_BYTES_MAX) {
        return Err(unfit(path, LARGE));
    }
    Ok(bytes)
}
