//! What the agent must know of a supervised process when it comes back: the record.
//!
//! Invariant: replaced as a whole (write, fsync, rename, fsync of the directory), so it is never half written.
//! Invariant: a record that cannot be read is never used; the host is looked at instead.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::exec::proc::Identity;

/// What the last order was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Desired {
    Running,
    Stopped,
}

/// One service's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) desired: Desired,
    /// The process that was started last. `None` before a start and after a stop; also between a start and the writing of
    /// it, so that `None` means: look.
    pub(super) process: Option<Identity>,
    /// Restarts since the last order to start.
    pub(super) restarts: u64,
}

impl Record {
    pub(super) fn new(desired: Desired) -> Self {
        Self { desired, process: None, restarts: 0 }
    }
}

/// A record that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error("cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged", .path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot write {}", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The record at `path`, `None` where there never was one.
pub(super) fn load(path: &Path) -> Result<Option<Record>, RecordError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RecordError::Read { path: path.to_owned(), source }),
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|source| RecordError::Damaged { path: path.to_owned(), source })
}

/// Replaces the record at `path`; on the disk when this returns.
pub(super) fn save(path: &Path, record: &Record) -> Result<(), RecordError> {
    replace(path, record).map_err(|source| RecordError::Write { path: path.to_owned(), source })
}

fn replace(path: &Path, record: &Record) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_damage_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        assert_eq!(load(&path).unwrap(), None);
        let process = Some(Identity { pid: 7, start_time: 9, boot_id: "b".into() });
        for record in [
            Record::new(Desired::Stopped),
            Record { desired: Desired::Running, process, restarts: 3 },
        ] {
            save(&path, &record).unwrap();
            assert_eq!(load(&path).unwrap(), Some(record));
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "a temporary file was left");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(matches!(load(&path), Err(RecordError::Damaged { .. })));
    }
}
