//! What can go wrong with an artefact: one variant per operation that was attempted.
//!
//! Invariant: a text names the path in the artefact, and never shows what is in a file, nor a secret.

use std::{error::Error, io};

use proto::artefact::{Digest, NotADigest};

use crate::{
    exec::{CommandFailure, ExecError},
    http::HttpError,
    store::{StoreError, shown},
};

/// Why an artefact was not fetched. [`ArtefactError::reason`] is the text for a person.
#[derive(Debug, thiserror::Error)]
pub enum ArtefactError {
    #[error("this host's policy has no source `{asked}`; it has: {known}")]
    NoSource { asked: String, known: String },

    #[error("`{name}` cannot be the name of an artefact in {kind}: {why}")]
    Name { name: String, kind: &'static str, why: &'static str },

    #[error(transparent)]
    NotADigest(#[from] NotADigest),

    #[error(
        "a digest of {kind} is {wanted}, and `{digest}` is none; write the release's artefact anew"
    )]
    OtherDigest { kind: &'static str, wanted: &'static str, digest: Digest },

    #[error("{0}")]
    Store(StoreError),

    #[error("{path} is {what}")]
    NotThere { path: String, what: &'static str },

    /// Nothing of it was unpacked.
    #[error(
        "{what} is not what the release names: wanted {wanted}, found {found}; nothing of it is used"
    )]
    Wrong { what: String, wanted: Digest, found: String },

    /// Something in it that no release may have.
    #[error("it holds `{path}`, {what}; {mend}")]
    Refused { path: String, what: String, mend: &'static str },

    #[error("it is no archive that can be unpacked: {what}")]
    Archive { what: String },

    #[error("it has more {what} than {limit}, which is the most that is unpacked")]
    Limit { what: &'static str, limit: u64 },

    #[error("could not {doing}")]
    Io {
        doing: String,
        #[source]
        source: io::Error,
    },

    #[error(
        "not enough space on the file system of {path}: {needed_bytes} bytes needed, {free_bytes} bytes free; free some \
         space and ask again"
    )]
    NoSpace { path: String, needed_bytes: u64, free_bytes: u64 },

    #[error("{url}")]
    Http {
        url: String,
        #[source]
        source: HttpError,
    },

    #[error("{0}")]
    Secret(String),

    #[error("git could not be run")]
    Exec(#[source] ExecError),

    #[error("{0}")]
    Git(CommandFailure),

    #[error("the repository has no {what}")]
    NoRevision { what: String },

    #[error("it was not done by the step's deadline")]
    Late,
}

impl ArtefactError {
    /// The whole story in one line: what failed, and why in the host's own words.
    pub fn reason(&self) -> String {
        if let Self::Store(error) = self {
            return error.reason();
        }
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            text.push_str(&format!(": {error}"));
            source = error.source();
        }
        text
    }

    pub(super) fn refused(path: &[u8], what: impl Into<String>, mend: &'static str) -> Self {
        Self::Refused { path: shown(path), what: what.into(), mend }
    }

    pub(super) fn archive(what: impl Into<String>) -> Self {
        Self::Archive { what: what.into() }
    }

    pub(super) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

impl From<StoreError> for ArtefactError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
