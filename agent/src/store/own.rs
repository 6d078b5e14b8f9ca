//! Whether the state directory is the agent's own: what is in it is believed, and holds the app's secrets.
//!
//! ```text
//! <state>, <state>/hold, <state>/store and each directory in it ──▶ real, ours, closed to others, writable
//! ```
//!
//! Invariant: looks and changes nothing, so that `agent check` says beside a running agent what a start would say.
//! Invariant: all problems at once, each with its mend.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::StatVfsMountFlags;

use super::error::{StoreError, shown_path};

/// Group and others have nothing to do here.
const OPEN_TO_OTHERS: u32 = 0o077;

/// Something about the state directory on which no store can be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} {why}; mend: {mend}")]
pub struct NotOwn {
    pub path: String,
    pub why: String,
    pub mend: String,
}

/// Everything that is wrong with a state directory. One that is not there yet is made at the first start.
pub fn look(state: &Path) -> Vec<NotOwn> {
    // Links above it are root's own.
    let state = state.canonicalize().unwrap_or_else(|_| state.to_owned());
    let store = state.join("store");
    let below = fs::read_dir(&store).into_iter().flatten().flatten();
    let below = below.filter(|entry| entry.file_name() != "lock").map(|entry| entry.path());
    let mut all: Vec<PathBuf> = vec![state.clone(), state.join("hold"), store.clone()];
    all.extend(below);
    all.sort();
    let mut found: Vec<NotOwn> = all.iter().filter_map(|path| of_directory(path)).collect();
    found.extend(read_only(&state));
    found
}

/// [`look`], where one thing is enough.
pub(super) fn refuse(state: &Path) -> Result<(), StoreError> {
    look(state).into_iter().next().map_or(Ok(()), |one| Err(StoreError::NotOwn(one)))
}

fn of_directory(path: &Path) -> Option<NotOwn> {
    let shown = shown_path(path);
    let wrong = |why: String, mend: String| Some(NotOwn { path: shown.clone(), why, mend });
    let own = rustix::process::geteuid().as_raw();
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            let mend = "see why it cannot be looked at, and run `agent check` again";
            return wrong(format!("cannot be looked at: {error}"), mend.to_owned());
        }
    };
    let mode = found.mode() & 0o7777;
    if found.is_symlink() {
        let mend =
            "put the real directory there; to keep it elsewhere, set LASTGOOD_STATE or mount it";
        wrong("is a symbolic link, and links are never followed here".to_owned(), mend.to_owned())
    } else if !found.is_dir() {
        wrong("is not a directory".to_owned(), "move it away".to_owned())
    } else if found.uid() != own {
        let why = format!("belongs to user {}, not to the agent's user {own}", found.uid());
        let mend = format!(
            "see who put it there, then chown -R {own} {shown}, or move it away to begin anew"
        );
        wrong(why, mend)
    } else if mode & OPEN_TO_OTHERS != 0 {
        wrong(format!("is open to others (mode {mode:o})"), format!("chmod 0700 {shown}"))
    } else {
        None
    }
}

fn read_only(state: &Path) -> Option<NotOwn> {
    let flags = rustix::fs::statvfs(state).ok()?.f_flag;
    let mend = "see in `dmesg` why it is, then mount it writable again".to_owned();
    let why = "is on a file system that is mounted read-only".to_owned();
    let path = shown_path(state);
    flags.contains(StatVfsMountFlags::RDONLY).then_some(NotOwn { path, why, mend })
}
