//! Backups of before as releases: what is asked of the host, and the names of a directory of dated backups.
//!
//! ```text
//! /var/backups/ace-crm/2026-11-20_0310/  ── named ──▶ release `2026-11-20_0310`, of the directory's mtime
//! ```

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::plan;

/// A backup that is to become a release of one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    pub component: String,
    /// Stands for the component's tree.
    pub from: PathBuf,
    pub release: String,
    pub taken_at_unix_ms: i64,
    /// Declared trees and files that are elsewhere.
    pub files: Vec<Mapped>,
    pub owner: Owner,
    /// A declared file may also stand beside the backup.
    pub beside: bool,
}

/// Whose the files are when the release goes live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// As in the backup; but where the whole backup is root's, as the live ones.
    #[default]
    Guess,
    Live,
    Found,
}

/// A declared file, and where in a backup its bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    pub declared: PathBuf,
    pub source: PathBuf,
}

/// A release that was made of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    pub component: String,
    pub release: String,
    pub snapshot: String,
    pub files: u64,
    pub size_bytes: u64,
    pub taken_at_unix_ms: i64,
    /// What was taken from where, and what was left out.
    pub notes: Vec<String>,
}

/// A directory of backups: name, path and time of each.
pub(super) fn backups_in(dir: &Path) -> io::Result<Vec<(String, PathBuf, i64)>> {
    let mut backups = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // A link (`latest`) is another name of one of them.
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let Some(name) = release_name(&entry.file_name().to_string_lossy()) else { continue };
        backups.push((name, entry.path(), taken_at(&entry.path())?));
    }
    backups.sort_by_key(|(name, _, at)| (*at, name.clone()));
    Ok(backups)
}

/// When a backup was made: the modification time of its directory.
pub(super) fn taken_at(dir: &Path) -> io::Result<i64> {
    let found = std::fs::metadata(dir)?;
    Ok(found.mtime().saturating_mul(1000).saturating_add(found.mtime_nsec() / 1_000_000))
}

/// A directory's name as a release's; none where nothing of it can be one.
fn release_name(name: &str) -> Option<String> {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '-' };
    let name: String = name.chars().map(fits).take(128).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    plan::is_release(name).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_directories_become_names_of_releases() {
        for (name, expected) in [
            ("v1.4.1", Some("v1.4.1")),
            ("failed-deployment-20261120-031000", Some("failed-deployment-20261120-031000")),
            ("before the migration (old)", Some("before-the-migration--old-")),
            (".hidden", Some("hidden")),
            ("äöü", None),
            ("--", None),
        ] {
            assert_eq!(release_name(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn a_directory_of_backups_is_listed_oldest_first_without_files_and_links() {
        let dir = tempfile::tempdir().unwrap();
        for (name, seconds) in [("new", 2_000), ("old", 1_000)] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            std::fs::File::open(dir.path().join(name)).unwrap().set_modified(time).unwrap();
        }
        std::fs::write(dir.path().join("dump.sql"), "x").unwrap();
        std::os::unix::fs::symlink("new", dir.path().join("latest")).unwrap();
        let found = backups_in(dir.path()).unwrap();
        let rows: Vec<_> = found.iter().map(|(name, _, at)| (name.as_str(), *at)).collect();
        assert_eq!(rows, [("old", 1_000_000), ("new", 2_000_000)]);
    }
}
