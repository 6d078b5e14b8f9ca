//! What a release is made of: how its digest is written, what it may be called in a source, and the hash of a directory.
//!
//! ```text
//! sha256:HEX   the bytes of an archive
//! tree:HEX     a directory: path, type, permissions and bytes of all that is in it        (TreeHash)
//! git:HEX      a commit
//! ```
//!
//! Invariant: one digest has one spelling.
//! Invariant: a name that is accepted leads nowhere but below its source.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
    str::FromStr,
};

/// The longest name between two slashes.
const SEGMENT_BYTES_MAX: usize = 255;
/// The longest name of an artefact.
const NAME_BYTES_MAX: usize = 1024;
const SHA256_CHARS: usize = 64;
const SHA1_CHARS: usize = 40;
/// How much of a file is in memory at once.
const READ_BYTES: usize = 64 * 1024;
const PERMISSIONS: u32 = 0o777;

/// What an artefact must be, to the last byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Digest {
    /// Of an archive file.
    Sha256(String),
    /// Of a directory: [`TreeHash`].
    Tree(String),
    /// A commit, of SHA-1 or of SHA-256.
    Git(String),
}

/// What is no digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a digest; write `sha256:` or `tree:` and 64 of 0-9 and a-f, or `git:` and the whole hash of a commit"
)]
pub struct NotADigest(pub String);

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let hex = |hex: &str, lengths: &[usize]| {
            let plain = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            (plain && lengths.contains(&hex.len())).then(|| hex.to_owned())
        };
        let found = match text.split_once(':') {
            Some(("sha256", rest)) => hex(rest, &[SHA256_CHARS]).map(Self::Sha256),
            Some(("tree", rest)) => hex(rest, &[SHA256_CHARS]).map(Self::Tree),
            Some(("git", rest)) => hex(rest, &[SHA1_CHARS, SHA256_CHARS]).map(Self::Git),
            Some(_) | None => None,
        };
        // It is shown, so it is cut: nobody knows what it is.
        found.ok_or_else(|| {
            NotADigest(text.chars().take(80).flat_map(char::escape_default).collect())
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(hex) => write!(f, "sha256:{hex}"),
            Self::Tree(hex) => write!(f, "tree:{hex}"),
            Self::Git(hex) => write!(f, "git:{hex}"),
        }
    }
}

/// Why something cannot be the path of an artefact below its source; none where it can.
pub fn path_refusal(name: &str) -> Option<&'static str> {
    let bad = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
    if name.is_empty() {
        Some("it is empty")
    } else if name.starts_with('/') {
        Some("it is absolute; write it relative to the source")
    } else if name.chars().any(char::is_control) {
        Some("it holds a control character")
    } else if name.split('/').any(bad) {
        Some("it is not a plain path: no part of it may be empty, `.` or `..`")
    } else if name.len() > NAME_BYTES_MAX
        || name.split('/').any(|one| one.len() > SEGMENT_BYTES_MAX)
    {
        Some("it is too long")
    } else {
        None
    }
}

/// Why something cannot be a tag, branch or commit; none where it can. Stricter than git-check-ref-format(1).
pub fn revision_refusal(name: &str) -> Option<&'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._+-/@#=".contains(c);
    if let Some(why) = path_refusal(name) {
        return Some(why);
    }
    if name.starts_with('-') {
        Some("it begins with `-`")
    } else if !name.chars().all(allowed) || name.contains("@{") {
        Some("a tag or branch is of letters, digits and `._+-/@#=`")
    } else if name.contains("..") || name == "@" {
        Some("it is not one tag, branch or commit")
    } else if name
        .split('/')
        .any(|one| one.starts_with('.') || one.ends_with('.') || one.ends_with(".lock"))
    {
        Some("git has no tag or branch of such a name")
    } else {
        None
    }
}

/// The hash of a directory, from what is in it, in any order.
///
/// The root itself does not count, nor do owners, times and extended attributes; of the mode only `rwxrwxrwx` does, and
/// none of a link's.
#[derive(Clone, Debug, Default)]
pub struct TreeHash {
    entries: BTreeMap<Vec<u8>, TreeEntry>,
}

/// What a path in a directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeEntry {
    Dir {
        mode: u32,
    },
    /// With the blake3 hash of its bytes.
    File {
        mode: u32,
        hash: [u8; 32],
    },
    Link {
        target: Vec<u8>,
    },
}

impl TreeHash {
    /// Adds what stands at a path, relative to the root.
    pub fn add(&mut self, path: &[u8], entry: TreeEntry) {
        self.entries.insert(path.to_vec(), entry);
    }

    /// The digest of everything that was added.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("lastgood 2026 artefact tree v1");
        for (path, entry) in &self.entries {
            field(&mut hasher, path);
            match entry {
                TreeEntry::Dir { mode } => {
                    hasher.update(b"d").update(&(mode & PERMISSIONS).to_le_bytes());
                }
                TreeEntry::File { mode, hash } => {
                    hasher.update(b"f").update(&(mode & PERMISSIONS).to_le_bytes()).update(hash);
                }
                TreeEntry::Link { target } => {
                    hasher.update(b"l");
                    field(&mut hasher, target);
                }
            }
        }
        Digest::Tree(hasher.finalize().to_hex().to_string())
    }
}

/// Length first, so that no two lists of fields hash alike.
fn field(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    hasher.update(&length.to_le_bytes()).update(bytes);
}

/// The digest of a directory of the caller's own, for who makes a release of it. An agent that fetches it walks it by
/// handles instead.
///
/// # Errors
/// It cannot be read, or holds what is neither directory, file nor link.
pub fn digest_of_directory(root: &Path) -> io::Result<Digest> {
    let mut hash = TreeHash::default();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let found = path.symlink_metadata()?;
            let mode = std::os::unix::fs::PermissionsExt::mode(&found.permissions());
            let what = if found.is_dir() {
                waiting.push(path.clone());
                TreeEntry::Dir { mode }
            } else if found.is_symlink() {
                TreeEntry::Link { target: fs::read_link(&path)?.as_os_str().as_bytes().to_vec() }
            } else if found.is_file() {
                let mut hasher = blake3::Hasher::new();
                hasher.update_reader(fs::File::open(&path)?)?;
                TreeEntry::File { mode, hash: hasher.finalize().into() }
            } else {
                let what = format!("{} is neither directory, file nor link", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            };
            let below = path.strip_prefix(root).expect("it was found below the root");
            hash.add(below.as_os_str().as_bytes(), what);
        }
    }
    Ok(hash.digest())
}

/// The digest of an archive of the caller's own, for who makes a release of it.
///
/// # Errors
/// It cannot be read.
pub fn digest_of_file(path: &Path) -> io::Result<Digest> {
    let mut file = fs::File::open(path)?;
    let mut hasher = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    let hex = hasher.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Digest::Sha256(hex))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_digest_has_one_spelling() {
        let (long, short) = ("0a".repeat(32), "0a".repeat(20));
        for good in [
            format!("sha256:{long}"),
            format!("tree:{long}"),
            format!("git:{long}"),
            format!("git:{short}"),
        ] {
            assert_eq!(good.parse::<Digest>().unwrap().to_string(), good);
        }
        for bad in [
            format!("sha256:{short}"),
            format!("sha256:{}", long.to_uppercase()),
            format!("md5:{long}"),
            long,
            "git:v1.2".to_owned(),
            "git:".to_owned(),
            format!("tree:{short}\n"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_digest_of_a_file_is_its_sha256() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let known = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest_of_file(&path).unwrap().to_string(), known);
        assert!(digest_of_file(dir.path()).is_err(), "a directory has no bytes");
        // Longer than what is read at once, and not a multiple of it.
        fs::write(&path, vec![b'a'; 1_000_000]).unwrap();
        let known = "sha256:cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
        assert_eq!(digest_of_file(&path).unwrap().to_string(), known);
    }

    #[test]
    fn a_path_leads_nowhere_but_below_its_source() {
        for good in ["crm-v2.tar.zst", "crm/v2/app.tar", "..hidden", "a b", "größe.tar"] {
            assert_eq!(path_refusal(good), None, "{good}");
        }
        let long = "a".repeat(256);
        for bad in
            ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a/.", "a\0b", "a\nb", &long]
        {
            assert!(path_refusal(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_revision_is_no_option_and_no_range() {
        for good in ["v1.4.2", "main", "feature/x", "release-2026.11", "0123abc", "v1+build.5"] {
            assert_eq!(revision_refusal(good), None, "{good}");
        }
        for bad in [
            "--upload-pack=/bin/sh",
            "-x",
            "main..v1",
            "HEAD~1",
            "v1^{}",
            "a b",
            "a:b",
            "@{1}",
            "@",
            "x@{1}",
            "a.lock",
            ".a",
            "a/.b",
            "v1*",
            "",
            "/v1",
            "v1/",
            "a\\b",
            "$(id)",
        ] {
            assert!(revision_refusal(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn the_hash_of_a_directory_sees_path_type_mode_and_bytes_only() {
        let make = |mode: u32, bytes: &str, target: &str, name: &str| {
            let temp = tempfile::tempdir().unwrap();
            let root = temp.path().join("app");
            fs::create_dir_all(root.join("lib")).unwrap();
            fs::write(root.join("lib").join(name), bytes).unwrap();
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(root.join("lib").join(name), mode).unwrap();
            symlink(target, root.join("link")).unwrap();
            digest_of_directory(&root).unwrap()
        };
        let first = make(0o644, "x", "lib", "a");
        assert_eq!(make(0o644, "x", "lib", "a"), first, "times and places do not count");
        for other in [
            make(0o755, "x", "lib", "a"),
            make(0o644, "y", "lib", "a"),
            make(0o644, "x", "lab", "a"),
            make(0o644, "x", "lib", "b"),
        ] {
            assert_ne!(other, first);
        }
    }
}
