//! Extended headers of POSIX tar: `LENGTH KEY=VALUE\n`, each read in the one way that it can be read.
//!
//! Invariant: a key that could change what is unpacked, and is not known here, is refused.

use std::collections::BTreeSet;

use super::error::ArtefactError;

/// What is taken from the header of one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size_bytes: Option<u64>,
    /// There were extended attributes, which are left out.
    pub(super) has_xattrs: bool,
}

/// Keys that say nothing of what a release is: its owners and times of access are the host's.
const IDLE: [&str; 14] = [
    "atime",
    "comment",
    "ctime",
    "gid",
    "gname",
    "mtime",
    "uid",
    "uname",
    "LIBARCHIVE.creationtime",
    "SCHILY.dev",
    "SCHILY.ino",
    "SCHILY.nlink",
    "MSWINDOWS.rawsd",
    "RHT.security.selinux",
];

/// The header of one file.
pub(super) fn of_file(bytes: &[u8]) -> Result<Pax, ArtefactError> {
    let mut pax = Pax::default();
    for (key, value) in records(bytes)? {
        let path = || match value.contains(&0) || value.is_empty() {
            true => Err(ArtefactError::archive("a PAX header has a name that is none")),
            false => Ok(Some(value.to_vec())),
        };
        match key {
            "path" => pax.path = path()?,
            "linkpath" => pax.link = path()?,
            "size" => pax.size_bytes = Some(number(value)?),
            "hdrcharset" if value == b"ISO-IR 10646 2000 UTF-8" => {}
            "SCHILY.xattr.security.capability" | "LIBARCHIVE.xattr.security.capability" => {
                return Err(refuse("file capabilities", "; leave them out"));
            }
            key if key.starts_with("SCHILY.xattr.") || key.starts_with("LIBARCHIVE.xattr.") => {
                pax.has_xattrs = true;
            }
            key if IDLE.contains(&key) => {}
            key => return Err(refuse(&format!("the key `{}`", key.escape_default()), "")),
        }
    }
    Ok(pax)
}

/// A header of the whole archive: only what `git archive` writes there, which is the commit.
pub(super) fn of_archive(bytes: &[u8]) -> Result<(), ArtefactError> {
    for (key, _) in records(bytes)? {
        if key != "comment" {
            let what = format!("the key `{}` for all files", key.escape_default());
            return Err(refuse(&what, ""));
        }
    }
    Ok(())
}

fn refuse(what: &str, mend: &str) -> ArtefactError {
    ArtefactError::archive(format!("a PAX header has {what}, which is not unpacked{mend}"))
}

fn records(mut bytes: &[u8]) -> Result<Vec<(&str, &[u8])>, ArtefactError> {
    let broken = || ArtefactError::archive("a PAX header cannot be read");
    let (mut records, mut seen) = (Vec::new(), BTreeSet::new());
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(broken)?;
        let length = usize::try_from(number(&bytes[..space])?).map_err(|_| broken())?;
        if length <= space || length > bytes.len() {
            return Err(broken());
        }
        let (record, rest) = bytes.split_at(length);
        let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(broken)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
        let key = std::str::from_utf8(&record[..equals]).map_err(|_| broken())?;
        if !seen.insert(key) {
            return Err(ArtefactError::archive("a PAX header has a key twice"));
        }
        records.push((key, &record[equals + 1..]));
        bytes = rest;
    }
    Ok(records)
}

/// Digits only, and not too many of them.
fn number(bytes: &[u8]) -> Result<u64, ArtefactError> {
    let digits = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(bytes).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| ArtefactError::archive("a PAX header has a number that is none"))
}
