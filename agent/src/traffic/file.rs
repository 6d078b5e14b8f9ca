//! Writes a file that a proxy reads: whole or as before, and on the disk before anything goes on.
//!
//! ```text
//! every directory above is root's alone (write_own) ─▶ NAME.lastgood-new ─▶ fsync ─▶ rename ─▶ fsync of the directory
//! ```
//!
//! Invariant: what a crash leaves is the old file or the new one, and at most a leftover whose name no proxy includes.
//! Invariant: nobody but root could put another file, or a link, in the way of what a proxy reads.
//! Invariant: after a failed sync the process ends: what the disk holds is not known.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Everybody may read what no secret stands in.
pub(super) const OPEN: u32 = 0o644;
/// Root alone.
pub(super) const CLOSED: u32 = 0o600;
/// Far more than any of them has.
const BYTES_MAX: u64 = 4 << 20;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Why a file was not written or read. It is as it was before.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("{path} is not root's alone ({what}); mend: {mend}")]
    NotOwn { path: String, what: String, mend: String },
    #[error("{path} is not there; mend: `mkdir -m 0755 {path}`")]
    NoDirectory { path: String },
    #[error("{path} is not a file; mend: name one")]
    NotAFile { path: String },
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path} could not be made durable: {source}")]
    Fsync { path: String, source: io::Error },
}

/// What a file holds; none where there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let failed = |source| FileError::Io { path: shown(path), source };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
        Ok(found) if !found.is_file() || found.len() > BYTES_MAX => {
            Err(FileError::NotAFile { path: shown(path) })
        }
        Ok(_) => fs::read(path).map(Some).map_err(failed),
    }
}

/// Writes a file durably where nobody but root could have put something else in its place.
pub(super) fn write_own(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    is_own(path)?;
    write(path, bytes, mode)
}

/// Writes a file of the agent's own state durably.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    end_after_failed_sync(try_write(path, bytes, mode))
}

/// Removes a file durably.
pub(super) fn remove(path: &Path) -> Result<(), FileError> {
    let removed = parent(path).and_then(|directory| {
        match fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(FileError::Io { path: shown(path), source }),
        }
        sync(directory)
    });
    end_after_failed_sync(removed)
}

/// Whether every directory above a file is one where nobody but root (or whom the agent runs as) can put another in its
/// place.
pub(super) fn is_own(path: &Path) -> Result<(), FileError> {
    let own = rustix::process::geteuid().as_raw();
    for directory in parent(path)?.ancestors() {
        let failed = |source: io::Error| {
            let path = shown(directory);
            if source.kind() == io::ErrorKind::NotFound {
                return FileError::NoDirectory { path };
            }
            FileError::Io { path, source }
        };
        let found = directory.symlink_metadata().map_err(failed)?;
        let (mode, shown) = (found.permissions().mode(), shown(directory));
        let bad =
            |what: String, mend: String| FileError::NotOwn { path: shown.clone(), what, mend };
        if !found.is_dir() {
            let mend = "name the directory itself, not a link to it".to_owned();
            return Err(bad("it is no directory".to_owned(), mend));
        }
        if found.uid() != 0 && found.uid() != own {
            let what = format!("it belongs to user {}", found.uid());
            return Err(bad(what, format!("`chown root:root {shown}`")));
        }
        if mode & WRITABLE_BY_OTHERS != 0 && mode & STICKY == 0 {
            let what = format!("mode {:o}", mode & 0o7777);
            return Err(bad(what, format!("`chmod go-w {shown}`")));
        }
    }
    Ok(())
}

fn try_write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    read(path)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lastgood-new");
    let beside = PathBuf::from(beside);
    let failed = |source| FileError::Io { path: shown(&beside), source };
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let opened = OpenOptions::new().write(true).create_new(true).mode(CLOSED).open(&beside);
    let mut file = opened.map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    file.sync_all().map_err(|source| FileError::Fsync { path: shown(&beside), source })?;
    fs::rename(&beside, path).map_err(failed)?;
    sync(parent(path)?)
}

fn sync(directory: &Path) -> Result<(), FileError> {
    let path = || shown(directory);
    let open = File::open(directory).map_err(|source| FileError::Io { path: path(), source })?;
    open.sync_all().map_err(|source| FileError::Fsync { path: path(), source })
}

fn parent(path: &Path) -> Result<&Path, FileError> {
    path.parent().ok_or_else(|| FileError::NotAFile { path: shown(path) })
}

fn end_after_failed_sync<T>(done: Result<T, FileError>) -> Result<T, FileError> {
    if let Err(error @ FileError::Fsync { .. }) = &done {
        tracing::error!(%error, "a sync failed; the process ends");
        std::process::abort()
    }
    done
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_a_leftover_is_no_obstacle() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().canonicalize().unwrap().join("crm.conf");
        assert_eq!(read(&path).unwrap(), None);
        fs::write(path.with_file_name("crm.conf.lastgood-new"), "half of").unwrap();
        write(&path, b"one", OPEN).unwrap();
        write(&path, b"two", OPEN).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn p10_nobody_else_decides_where_it_is_written() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let directory = root.join("conf.d");
        fs::create_dir(&directory).unwrap();
        let path = directory.join("crm.conf");
        let refused = || write_own(&path, b"x", OPEN).unwrap_err().to_string();
        fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
        assert!(refused().contains("mode 777); mend: `chmod go-w"), "{}", refused());
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        symlink("/etc/passwd", &path).unwrap();
        assert!(refused().contains("is not a file"), "{}", refused());
        fs::remove_file(&path).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(&directory, Some(1000), None).unwrap();
            assert!(refused().contains("it belongs to user 1000"), "{}", refused());
            chown(&directory, Some(0), None).unwrap();
        }
        let nowhere = write_own(&root.join("no/crm.conf"), b"x", OPEN).unwrap_err().to_string();
        assert!(nowhere.contains("/no is not there; mend: `mkdir"), "{nowhere}");
        let link = root.join("link");
        symlink("conf.d", &link).unwrap();
        let through = write_own(&link.join("crm.conf"), b"x", OPEN).unwrap_err().to_string();
        assert!(through.contains("it is no directory"), "{through}");
        assert_eq!(read(&path).unwrap(), None);
    }
}
