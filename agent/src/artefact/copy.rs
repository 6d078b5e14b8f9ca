//! A directory as an artefact: copied by handles, and hashed as it is copied.
//!
//! Invariant: what is hashed is what was copied, whatever its owner does meanwhile.

use std::{io::Read as _, os::unix::fs::MetadataExt as _};

use proto::artefact::{Digest, TreeEntry, TreeHash};
use rustix::fs::FileType;

use super::{
    building::{Building, Meta},
    error::ArtefactError,
};
use crate::store::dir::Dir;

/// Copies everything below a directory. Answers the digest of what was copied.
pub(super) fn copy(from: &Dir, building: &mut Building<'_>) -> Result<Digest, ArtefactError> {
    let mut hash = TreeHash::default();
    let mut waiting = vec![Vec::new()];
    while let Some(above) = waiting.pop() {
        let dir = from.dir(&above)?;
        for name in dir.names()? {
            let path =
                if above.is_empty() { name.clone() } else { [&above, name.as_slice()].join(&b'/') };
            let Some(stat) = dir.stat(&name)? else { return Err(changes(&path)) };
            let meta = Meta { mode: stat.st_mode & 0o7777, mtime_s: stat.st_mtime };
            let entry = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    building.dir(&path, meta)?;
                    waiting.push(path.clone());
                    TreeEntry::Dir { mode: meta.mode }
                }
                FileType::RegularFile => file(&dir, &name, &path, building)?,
                FileType::Symlink => {
                    let target = dir.read_link(&name)?;
                    building.link(&path, &target, meta.mtime_s)?;
                    TreeEntry::Link { target }
                }
                FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => {
                    let mend = "leave it out: a release is of files, directories and links";
                    return Err(ArtefactError::refused(
                        &path,
                        "which is neither file, directory nor link",
                        mend,
                    ));
                }
            };
            hash.add(&path, entry);
        }
    }
    Ok(hash.digest())
}

fn file(
    dir: &Dir,
    name: &[u8],
    path: &[u8],
    building: &mut Building<'_>,
) -> Result<TreeEntry, ArtefactError> {
    let mut file = dir.file(name)?;
    let at = dir.at(name);
    let found = file.metadata().map_err(ArtefactError::io(format!("look at {at}")))?;
    if !found.is_file() {
        return Err(changes(path));
    }
    let meta = Meta { mode: found.mode() & 0o7777, mtime_s: found.mtime() };
    let mut hasher = blake3::Hasher::new();
    building.file(path, meta, found.len(), &mut |chunk| {
        let read = file.read(chunk).map_err(ArtefactError::io(format!("read {at}")))?;
        if read == 0 {
            return Err(changes(path));
        }
        hasher.update(&chunk[..read]);
        Ok(read)
    })?;
    Ok(TreeEntry::File { mode: meta.mode, hash: hasher.finalize().into() })
}

fn changes(path: &[u8]) -> ArtefactError {
    let mend = "make the artefact whole before a release names it";
    ArtefactError::refused(path, "which changes while it is read", mend)
}
