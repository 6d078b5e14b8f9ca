//! The declared secret files as they are live, for who hides their values.
//!
//! Invariant: only a file that the policy declares is read, through the directory handles of its part.

use std::{fs::File, io::Read as _};

use proto::policy::FilesPolicy;
use rustix::fs::FileType;

use super::{
    Store,
    error::StoreError,
    scan::{self, Place, Root},
    set::{ComponentFiles, Set},
};

/// An env file is far smaller.
const SECRET_BYTES_MAX: u64 = 1024 * 1024;

impl Store {
    /// The bytes of every declared file that is `secret`; of what is not there, nothing.
    ///
    /// # Errors
    /// One of them is there and cannot be read.
    pub fn secrets(&self, files: &ComponentFiles) -> Result<Vec<Vec<u8>>, StoreError> {
        let is_secret =
            |declared: &FilesPolicy| matches!(declared, FilesPolicy::File(file) if file.secret);
        if !files.files.iter().any(is_secret) {
            return Ok(Vec::new());
        }
        let set = Set::new(files)?;
        let roots = scan::roots(&set, &set.sites()?, Place::Live)?;
        let mut found = Vec::new();
        for (_, root) in files.files.iter().zip(&roots).filter(|(file, _)| is_secret(file)) {
            let Root::File(dir, name) = root else { continue };
            let regular = |mode| FileType::from_raw_mode(mode) == FileType::RegularFile;
            if dir.stat(name)?.is_some_and(|stat| regular(stat.st_mode))
                && let Some(file) = dir.file_if_there(name)?
            {
                found.push(
                    read(file).map_err(|source| StoreError::Read { path: dir.at(name), source })?,
                );
            }
        }
        Ok(found)
    }
}

fn read(file: File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}
