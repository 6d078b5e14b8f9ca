//! What starts a unit by itself (sockets, timers, paths): stopped with it, and started again after it.
//!
//! ```text
//! stop:  record(Between, those that are active) ▶ they stop ▶ the unit stops ▶ record(Disarmed)
//! start: record(Between) ▶ sockets start ▶ the unit starts ▶ the others start ▶ record removed
//! ```
//!
//! Sockets come first: systemd refuses to open the socket of a service that runs already.
//!
//! Invariant: which of them were active is on the disk before the first of them is stopped, and until all of them run.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::super::{DriverError, Triggers};

/// The triggers of one unit, on disk.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
}

/// What stands there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stopped {
    /// A stop or a start of them has begun and not ended.
    pub(super) between: bool,
    /// Names of units.
    pub(super) units: Vec<String>,
}

impl Stopped {
    /// Those that must listen before the service runs.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &String> {
        self.units.iter().filter(|unit| unit.ends_with(".socket"))
    }

    /// Those that may start it at any moment.
    pub(super) fn others(&self) -> impl Iterator<Item = &String> {
        self.units.iter().filter(|unit| !unit.ends_with(".socket"))
    }
}

impl Record {
    /// The record of a service. `name` is a file name.
    pub(super) fn new(state: &Path, name: &str) -> Self {
        Self { path: state.join("systemd").join(format!("{name}.json")) }
    }

    /// How far they are.
    pub(super) fn state(&self) -> Triggers {
        match self.load() {
            Ok(None) => Triggers::Armed,
            Ok(Some(Stopped { between: false, .. })) => Triggers::Disarmed,
            // One that cannot be read was not whole for a reason: every verb on it says so.
            Ok(Some(Stopped { between: true, .. })) | Err(_) => Triggers::Between,
        }
    }

    /// What was stopped; none where nothing was, or all of it runs again.
    pub(super) fn load(&self) -> Result<Option<Stopped>, DriverError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read", &error)),
        };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|error| self.failed("read", &error.into()))
    }

    /// Replaces it; on the disk when this returns.
    pub(super) fn save(&self, stopped: &Stopped) -> Result<(), DriverError> {
        self.replace(stopped).map_err(|error| self.failed("write", &error))
    }

    /// All of them run.
    pub(super) fn clear(&self) -> Result<(), DriverError> {
        match fs::remove_file(&self.path) {
            Ok(()) => self.directory().and_then(|at| File::open(at)?.sync_all()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
        .map_err(|error| self.failed("remove", &error))
    }

    fn replace(&self, stopped: &Stopped) -> io::Result<()> {
        let directory = self.directory()?;
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&serde_json::to_vec(stopped)?)?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        for directory in directory.ancestors().take(2) {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }

    fn directory(&self) -> io::Result<&Path> {
        self.path.parent().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn failed(&self, verb: &str, error: &io::Error) -> DriverError {
        DriverError::Permanent(format!(
            "cannot {verb} {}, which says what sockets and timers are to be started again: {error}",
            self.path.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stopped_is_known_until_it_runs_again() {
        let state = tempfile::tempdir().unwrap();
        let record = Record::new(state.path(), "crm.web");
        assert_eq!(record.state(), Triggers::Armed);
        let units = vec!["web.socket".to_owned(), "web.timer".to_owned()];
        let mut stopped = Stopped { between: true, units };
        record.save(&stopped).unwrap();
        assert_eq!(record.state(), Triggers::Between);
        stopped.between = false;
        record.save(&stopped).unwrap();
        assert_eq!(record.state(), Triggers::Disarmed);
        let found = record.load().unwrap().unwrap();
        assert_eq!(found.sockets().collect::<Vec<_>>(), ["web.socket"]);
        assert_eq!(found.others().collect::<Vec<_>>(), ["web.timer"]);
        record.clear().unwrap();
        record.clear().unwrap();
        assert_eq!(record.state(), Triggers::Armed);
        fs::write(&record.path, "{").unwrap();
        assert_eq!(record.state(), Triggers::Between);
        assert!(record.load().is_err());
    }
}
