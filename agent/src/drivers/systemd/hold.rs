//! The drop-in that keeps a unit from starting while its component is in the middle of a switch.
//!
//! ```text
//! /usr/local/lib/systemd/system/UNIT.d/50-lastgood-hold.conf     ConditionPathExists=!<state>/hold/<component>
//! ```
//!
//! It stands on systemd's own path, so that it holds at boot before any agent runs, and outside of the drop-ins that go
//! back with a release. Where no hold is, it changes nothing.
//!
//! Invariant: whole or absent, and durable before it is relied on.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The directory on systemd's path that belongs to what a host's owner installed.
pub(super) const DIRECTORY: &str = "/usr/local/lib/systemd/system";
const NAME: &str = "50-lastgood-hold.conf";

/// Where the drop-in of a unit is.
pub(super) fn path(unit: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{unit}.d")).join(NAME)
}

/// Whether it is there and says what it should.
pub(super) fn stands(path: &Path, hold: &Path) -> bool {
    fs::read(path).is_ok_and(|found| found == text(hold).as_bytes())
}

/// Writes it where it is not; says whether it had to.
pub(super) fn ensure(path: &Path, hold: &Path) -> io::Result<bool> {
    if stands(path, hold) {
        return Ok(false);
    }
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text(hold).as_bytes())?;
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    // The directories may be new as well.
    for directory in directory.ancestors().take(4) {
        File::open(directory)?.sync_all()?;
    }
    Ok(true)
}

fn text(hold: &Path) -> String {
    // `%` begins a specifier.
    let hold = hold.display().to_string().replace('%', "%%");
    format!(
        "# Written by the Lastgood agent. While this file is there, a switch of the unit's files has begun and not\n\
         # ended: started now, it would run on a mix of two releases. The agent takes the switch to its end.\n\
         [Unit]\n\
         ConditionPathExists=!{hold}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_once_and_again_where_somebody_changed_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/app.service.d").join(NAME);
        let hold = Path::new("/var/lib/last%good/hold/crm");
        assert!(!stands(&path, hold));
        assert!(ensure(&path, hold).unwrap());
        assert!(!ensure(&path, hold).unwrap());
        let found = fs::read_to_string(&path).unwrap();
        let wanted = "\n[Unit]\nConditionPathExists=!/var/lib/last%%good/hold/crm\n";
        assert!(found.ends_with(wanted), "{found}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        fs::write(&path, "[Unit]\n").unwrap();
        assert!(ensure(&path, hold).unwrap());
        assert!(stands(&path, hold));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
