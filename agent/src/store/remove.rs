//! Removal of trees that may hold anything.
//!
//! Invariant: neither depth nor links nor mounts lead it astray: every directory is first moved up beside the root of
//! the removal, so that one handle is open at a time and no path is longer than a name.

use rustix::fs::{FileType, Mode};

use super::{
    dir::{Dir, Rename},
    error::StoreError,
};

/// Removes whatever stands at a name. Nothing there is not an error.
///
/// # Errors
/// [`StoreError::Mount`] where something is mounted in it: what is mounted is never touched.
pub(crate) fn tree(holder: &Dir, name: &[u8]) -> Result<(), StoreError> {
    let Some(stat) = holder.stat(name)? else { return Ok(()) };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return holder.unlink(name);
    }
    let mut waiting = vec![name.to_vec()];
    let mut moved = 0u64;
    while let Some(next) = waiting.pop() {
        let dir = open_to_empty(holder, &next)?;
        for entry in dir.names()? {
            let is_dir = dir
                .stat(&entry)?
                .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
            if !is_dir {
                dir.unlink(&entry)?;
                continue;
            }
            // Renaming a directory rewrites its `..`, which needs its write permission where we are not root.
            open_to_empty(&dir, &entry)?;
            let up = loop {
                moved += 1;
                let up = [name, b".", moved.to_string().as_bytes()].concat();
                if holder.stat(&up)?.is_none() {
                    break up;
                }
            };
            dir.rename(&entry, holder, &up, Rename::New)?;
            waiting.push(up);
        }
        holder.remove_dir(&next)?;
    }
    Ok(())
}

fn open_to_empty(holder: &Dir, name: &[u8]) -> Result<Dir, StoreError> {
    let dir = match holder.dir(name) {
        Err(StoreError::Open { source, .. })
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            // Not root, and the release closed it to its own owner.
            rustix::fs::chmodat(holder, name, Mode::RWXU, rustix::fs::AtFlags::empty()).map_err(
                |errno| StoreError::Metadata {
                    path: holder.at(name),
                    what: "the mode",
                    source: errno.into(),
                },
            )?;
            holder.dir(name)?
        }
        opened => opened?,
    };
    if dir.own_stat()?.st_mode & 0o700 != 0o700 {
        rustix::fs::fchmod(&dir, Mode::RWXU).map_err(|errno| StoreError::Metadata {
            path: dir.at(b""),
            what: "the mode",
            source: errno.into(),
        })?;
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn links_are_removed_and_not_what_they_lead_to() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("outside")).unwrap();
        std::fs::write(root.join("outside/kept"), "x").unwrap();
        std::fs::create_dir_all(root.join("gone/a/b")).unwrap();
        symlink(root.join("outside"), root.join("gone/a/link")).unwrap();
        let closed = std::fs::Permissions::from_mode(0o000);
        std::fs::set_permissions(root.join("gone/a/b"), closed).unwrap();

        tree(&Dir::open(&root).unwrap(), b"gone").unwrap();

        assert!(!root.join("gone").exists());
        assert!(root.join("outside/kept").exists());
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);
    }

    #[test]
    fn a_tree_deeper_than_any_path_goes() {
        let temp = tempfile::tempdir().unwrap();
        let root = Dir::open(&temp.path().canonicalize().unwrap()).unwrap();
        root.make_dir(b"deep").unwrap();
        let mut at = root.dir(b"deep").unwrap();
        for _ in 0..3000 {
            at.make_dir(b"d").unwrap();
            at = at.dir(b"d").unwrap();
        }
        drop(at);
        tree(&root, b"deep").unwrap();
        assert!(root.names().unwrap().is_empty());
    }
}
