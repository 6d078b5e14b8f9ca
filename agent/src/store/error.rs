//! What can go wrong in the store: one variant per operation that was attempted.
//!
//! Invariant: a text names the path, and never shows what is in a file.
//! Invariant: [`StoreError::Fsync`] is told apart from everything else, because nothing may go on after it.

use std::{error::Error, io, path::Path};

use super::{compare::Difference, hash::Hash, own::NotOwn};

/// Why the store did not do what it was asked.
///
/// [`StoreError::reason`] is the text for a person: what failed and why, in one line.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The policy asks for something that cannot be switched as a set.
    #[error("the files of component `{component}` cannot be handled: {why}")]
    Policy { component: String, why: String },

    /// Another process has this state directory open.
    #[error("the store in {path} is in use by another process; stop the other agent first")]
    InUse { path: String },

    #[error("{0}")]
    NotOwn(NotOwn),

    #[error("could not open {path}")]
    Open {
        path: String,
        #[source]
        source: io::Error,
    },

    #[error(
        "{path} is a symbolic link or lies behind one, and links are never followed; \
         put the real path into the policy"
    )]
    Link { path: String },

    #[error(
        "{path} is a mount point or lies on another filesystem than its parent, so it cannot be \
         switched; declare a directory below the mount, or use `switch: link`"
    )]
    Mount { path: String },

    #[error("could not create {path}")]
    Create {
        path: String,
        #[source]
        source: io::Error,
    },

    #[error("could not look at {path}")]
    Stat {
        path: String,
        #[source]
        source: io::Error,
    },

    #[error("could not list {path}")]
    List {
        path: String,
        #[source]
        source: io::Error,
    },

    #[error("could not read {path}")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },

    #[error("could not write {path}")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },

    #[error("could not set {what} of {path}")]
    Metadata {
        path: String,
        what: &'static str,
        #[source]
        source: io::Error,
    },

    #[error("could not rename {from} to {to}")]
    Rename {
        from: String,
        to: String,
        #[source]
        source: io::Error,
    },

    #[error("could not remove {path}")]
    Remove {
        path: String,
        #[source]
        source: io::Error,
    },

    /// What was written may be lost although every write was accepted. **The process must end** and recover from
    /// what is on disk: after a failed fsync the kernel may call lost pages clean, so trying again proves nothing.
    #[error(
        "could not make {path} durable; the agent must end and start again from what is on disk"
    )]
    Fsync {
        path: String,
        #[source]
        source: io::Error,
    },

    #[error(
        "not enough space on the filesystem of {path}: {needed_bytes} bytes needed, {free_bytes} \
         bytes free; nothing live was changed; free some space, or `ctl snapshot discard` old staged releases"
    )]
    NoSpace { path: String, needed_bytes: u64, free_bytes: u64 },

    /// It filled up while something was written; what had been begun is gone on with, or taken back, as after a crash.
    #[error(
        "the filesystem of {path} is full: at least {needed_bytes} bytes needed, {free_bytes} bytes free; free some \
         space and ask again"
    )]
    Full {
        path: String,
        needed_bytes: u64,
        free_bytes: u64,
        #[source]
        source: Box<StoreError>,
    },

    #[error(
        "not enough inodes on the filesystem of {path}: {needed} needed, {free} free; nothing \
         live was changed"
    )]
    NoInodes { path: String, needed: u64, free: u64 },

    /// Only of work that nobody waits for.
    #[error(
        "an operation on component `{component}` came first; what was not finished is done another time"
    )]
    Yielded { component: String },

    #[error(
        "{path} keeps changing while it is read; stop what writes to it, or declare it under `keep`"
    )]
    Changing { path: String },

    #[error("{path} is {what}, which cannot belong to a release; {mend}")]
    Unfit { path: String, what: String, mend: &'static str },

    /// A file that gives whoever runs it the rights of somebody else, where the policy does not say that it may be.
    #[error("{path} {has}, and gives rights to whoever runs it; {mend}")]
    Privileged { path: String, has: &'static str, mend: String },

    /// A backup that cannot be taken for a release of the component.
    #[error("the backup {path} cannot become a release of component `{component}`: {why}")]
    Backup { component: String, path: String, why: String },

    #[error(
        "release `{release}` of component `{component}` is already snapshot {existing}; what is \
         live now is {offered}; releases never change, so give this one another name"
    )]
    ReleaseTaken { component: String, release: String, existing: Hash, offered: Hash },

    #[error("component `{component}` has no snapshot {exact} on this host")]
    Unknown { component: String, exact: Hash },

    #[error(
        "snapshot {exact} of component `{component}` was taken under another policy ({why}); take \
         a new one"
    )]
    OtherPolicy { component: String, exact: Hash, why: String },

    #[error("{0}")]
    Damaged(Box<Damage>),

    #[error(
        "snapshot {exact} of component `{component}` is not staged: {path} is missing; stage it first"
    )]
    NotStaged { component: String, exact: Hash, path: String },

    #[error(
        "the bytes of snapshot {exact} of component `{component}` are not in the store, and {path} does not hold them either"
    )]
    NoBytes { component: String, exact: Hash, path: String },

    #[error(
        "the filesystem of {path} cannot exchange two names in one step; nothing was moved; use \
         `switch: link` for this tree"
    )]
    NotAtomic {
        path: String,
        #[source]
        source: io::Error,
    },

    #[error(
        "component `{component}` is held in the middle of the switch {from} → {to}; finish that one or take it back first"
    )]
    Held { component: String, from: Hash, to: Hash },

    #[error(
        "the hold of component `{component}` in {path} cannot be read ({why}); nothing was moved"
    )]
    HoldDamaged { component: String, path: String, why: String },

    #[error(
        "{path} is neither the release that was to be replaced nor the one that was to replace it; somebody else moved it"
    )]
    Displaced { path: String },

    #[error(
        "both {kept} and {other} exist, and both claim to be the kept `{keep}`; remove the one that is not wanted"
    )]
    KeepTwice { keep: String, kept: String, other: String },

    #[error(
        "component `{component}` is not {exact} after the switch: {}; its services stay held",
        Difference::summary(differences)
    )]
    Digest { component: String, exact: Hash, differences: Vec<Difference> },

    #[error("{path} is not what was staged: {}", Difference::summary(differences))]
    StagedWrong { path: String, differences: Vec<Difference> },

    #[error("stopped at the step `{step}`")]
    Step {
        step: String,
        #[source]
        source: io::Error,
    },
}

/// What is wrong with a snapshot, by name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "snapshot {exact} of component `{component}` is damaged: {what}; it is not used; choose another release, \
     or take this one again where it still stands"
)]
pub struct Damage {
    pub component: String,
    pub exact: Hash,
    /// What is damaged, with the path in the release and the object in the store where there is one.
    pub what: String,
}

impl StoreError {
    /// The whole story in one line: what failed, and why in the host's own words.
    pub fn reason(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }

    /// Whether a full disk or quota is behind it.
    pub(crate) fn is_no_space(&self) -> bool {
        let mut source = self.source();
        while let Some(error) = source {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return matches!(
                    io.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                );
            }
            source = error.source();
        }
        false
    }
}

/// A path as it is shown: bytes that are not text, and control characters, are escaped.
pub(crate) fn shown(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// See [`shown`].
pub(super) fn shown_path(path: &Path) -> String {
    shown(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_cannot_forge_a_log_line() {
        assert_eq!(shown(b"a\nerror: \xff"), "a\\nerror: \\xff");
        assert_eq!(shown("größe".as_bytes()), "größe");
    }

    #[test]
    fn the_reason_ends_in_the_hosts_own_words() {
        let source = io::Error::from_raw_os_error(13);
        let error = StoreError::Open { path: "/srv/app".into(), source };
        assert_eq!(error.reason(), "could not open /srv/app: Permission denied (os error 13)");
    }
}
