//! Files that give whoever runs them the rights of somebody else: set-uid, set-gid, file capabilities.
//!
//! ```text
//! policy: `privileged_files: true` for a tree ──▶ allowed there        anywhere else, and as a single file ──▶ refused
//!   snapshot, import: before it gets a name      preflight, stage: before it is built      `agent check`: before all that
//! ```
//!
//! A release must not be a way to put such a file onto a host unseen: it comes from a backup or a deploy, and is put
//! there by root.
//!
//! What is live is always taken as it is, so that a bad release that holds such a file can be left; and the switch back,
//! while the track runs, puts the tree back that stood there.
//!
//! Invariant: what is refused here was neither named nor built.

use super::{
    error::StoreError,
    hash::Hash,
    manifest::{Entry, Kind, SetManifest},
    set::{Part, PartKind, Set},
};

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
/// Where the kernel keeps file capabilities.
pub(super) const CAPABILITIES: &[u8] = b"security.capability";

/// The first such file that the policy does not allow, with the index of its part.
pub(super) fn first<'m>(set: &Set, manifest: &'m SetManifest) -> Option<(usize, &'m [u8], Right)> {
    let parts = set.parts.iter().zip(&manifest.parts).enumerate();
    parts.filter(|(_, (part, _))| !may(part)).find_map(|(index, (_, manifest))| {
        let mut files = manifest.entries.iter().filter(|entry| is_file(entry));
        files.find_map(|entry| {
            let capable = entry.meta.xattrs.iter().any(|(name, _)| name == CAPABILITIES);
            Some((index, entry.path.as_slice(), right(entry.meta.mode, capable)?))
        })
    })
}

/// Refuses what is live with such a file in it.
pub(super) fn refuse_live(set: &Set, manifest: &SetManifest) -> Result<(), StoreError> {
    match first(set, manifest) {
        Some((part, rel, right)) => {
            let part = &set.parts[part];
            Err(error(part, part.shown_below(rel), right))
        }
        None => Ok(()),
    }
}

/// Refuses a release of the store with such a file in it: the policy was another one when it was taken.
pub(super) fn refuse_stored(
    set: &Set,
    exact: Hash,
    manifest: &SetManifest,
) -> Result<(), StoreError> {
    let Some((part, rel, right)) = first(set, manifest) else { return Ok(()) };
    let part = &set.parts[part];
    let path = format!("{} of snapshot {exact}", part.shown_below(rel));
    let mend = declare(part).unwrap_or_else(|| NEVER.to_owned());
    let mend = format!("{mend}, or choose another release");
    Err(StoreError::Privileged { path, has: right.has(), mend })
}

/// Whether a part may hold such files.
pub(super) fn may(part: &Part) -> bool {
    match part.kind {
        PartKind::Tree { privileged, .. } => privileged,
        PartKind::File | PartKind::Inner { .. } => false,
    }
}

/// What makes a regular file of this mode one of them.
pub(super) fn right(mode: u32, capable: bool) -> Option<Right> {
    if mode & SET_UID != 0 {
        Some(Right::SetUid)
    } else if mode & SET_GID != 0 {
        Some(Right::SetGid)
    } else {
        capable.then_some(Right::Capabilities)
    }
}

/// See [`right`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    SetUid,
    SetGid,
    Capabilities,
}

impl Right {
    fn has(self) -> &'static str {
        match self {
            Self::SetUid => "is set-uid",
            Self::SetGid => "is set-gid",
            Self::Capabilities => "has file capabilities (security.capability)",
        }
    }

    fn take_away(self) -> &'static str {
        match self {
            Self::SetUid => "chmod u-s",
            Self::SetGid => "chmod g-s",
            Self::Capabilities => "setcap -r",
        }
    }
}

/// The refusal of a file that stands at `path` and is, or is to become, one of a part.
pub(super) fn error(part: &Part, path: String, right: Right) -> StoreError {
    let command = right.take_away();
    let mend = declare(part).unwrap_or_else(|| NEVER.to_owned());
    let mend = format!("{mend}, or take it away: {command} {path}");
    StoreError::Privileged { path, has: right.has(), mend }
}

/// What is said of a file that is declared by itself.
const NEVER: &str =
    "declare the tree that it is in, as a file that is declared by itself never may";

fn declare(part: &Part) -> Option<String> {
    match part.kind {
        PartKind::Tree { .. } => Some(format!(
            "declare `privileged_files: true` for the tree {} if that is meant",
            part.shown()
        )),
        PartKind::File | PartKind::Inner { .. } => None,
    }
}

fn is_file(entry: &Entry) -> bool {
    match entry.kind {
        // Another name is as the first one is, which comes before it.
        Kind::File { .. } => true,
        Kind::Dir | Kind::Link { .. } | Kind::Same { .. } => false,
    }
}
