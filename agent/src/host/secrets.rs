//! The secret values of a component, read only in order to hide them.
//!
//! Invariant: where a file cannot be read, its values cannot be hidden, so words that may hold them are not shown.

use std::{collections::BTreeSet, io, path::PathBuf};

use proto::policy::{ComponentPolicy, ProbePolicy};

use crate::redact::Redactor;

/// Longer than any token or URL.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Files of the host's, beside the component's own, that hold secrets: of tokens, headers and URLs.
pub(super) fn files(policy: &ComponentPolicy) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for check in &policy.checks {
        match &check.probe {
            ProbePolicy::Http(probe) => {
                files.extend(probe.bearer_file.clone());
                files.extend(probe.header_files.values().cloned());
            }
            ProbePolicy::Tcp(_) | ProbePolicy::Command(_) => {}
        }
    }
    files.extend(policy.migrations.as_ref().and_then(|migrations| migrations.url_file.clone()));
    files
}

/// What hides their values, and those of `own`: the component's own files as they are.
///
/// # Errors
/// One of them cannot be read. One that is not there has no values.
pub(super) fn redactor(files: &BTreeSet<PathBuf>, own: Vec<Vec<u8>>) -> Result<Redactor, String> {
    let mut texts = own;
    for path in files {
        match read(path) {
            Ok(text) => texts.push(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        }
    }
    Ok(Redactor::new(texts))
}

/// The words without the values that each hides. Where one could not be made, only how the words begin is shown, up to
/// where somebody else's may come.
pub(super) fn hide(words: &str, redactors: &[Result<Redactor, String>]) -> String {
    if words.is_empty() {
        return String::new();
    }
    let mut hidden = words.to_owned();
    for redactor in redactors {
        match redactor {
            Ok(redactor) => hidden = redactor.hide(&hidden),
            Err(why) => {
                let ours = words.split([':', '\n']).next().unwrap_or_default();
                return format!("{ours} (the rest is not shown, for it may hold secrets: {why})");
            }
        }
    }
    hidden
}

fn read(path: &PathBuf) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}
