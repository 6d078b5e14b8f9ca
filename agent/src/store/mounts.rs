//! What is mounted where, in the agent's own namespace.
//!
//! Invariant: a tree that is, or holds, a mount is refused before anything is built: it could not be switched whole.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::{
    error::{StoreError, shown_path},
    set::{Part, Set},
};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Refuses a set of which a tree is a mount point or holds one.
pub(super) fn refuse(set: &Set) -> Result<(), StoreError> {
    let mounts = mount_points(&read()?);
    for part in &set.parts {
        if let Some(mount) = first_below(&mounts, &part.path) {
            return Err(StoreError::Mount { path: shown_path(mount) });
        }
    }
    Ok(())
}

/// [`refuse`], of one part.
pub(super) fn refuse_part(part: &Part) -> Result<(), StoreError> {
    match first_below(&mount_points(&read()?), &part.path) {
        Some(mount) => Err(StoreError::Mount { path: shown_path(mount) }),
        None => Ok(()),
    }
}

/// What the kernel says of the mounts of the agent's namespace.
pub(super) fn read() -> Result<Vec<u8>, StoreError> {
    std::fs::read(MOUNTINFO)
        .map_err(|source| StoreError::Read { path: MOUNTINFO.to_owned(), source })
}

/// One line of it.
#[derive(Debug)]
pub(super) struct Mount {
    /// What of its filesystem is mounted.
    pub(super) root: PathBuf,
    pub(super) point: PathBuf,
    /// The name of the filesystem's kind.
    pub(super) kind: Vec<u8>,
    /// The options of the filesystem itself.
    pub(super) options: Vec<u8>,
}

/// proc(5): `id parent device root point options … - kind source options`.
pub(super) fn lines(mountinfo: &[u8]) -> Vec<Mount> {
    let line = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let path = |field: &[u8]| PathBuf::from(OsString::from_vec(unescaped(field)));
        let dash = fields.iter().position(|field| *field == b"-")?;
        Some(Mount {
            root: path(fields.get(3)?),
            point: path(fields.get(4)?),
            kind: fields.get(dash + 1)?.to_vec(),
            options: unescaped(fields.get(dash + 3)?),
        })
    };
    mountinfo.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn mount_points(mountinfo: &[u8]) -> Vec<PathBuf> {
    lines(mountinfo).into_iter().map(|mount| mount.point).collect()
}

fn first_below<'a>(mounts: &'a [PathBuf], path: &Path) -> Option<&'a Path> {
    mounts.iter().map(PathBuf::as_path).find(|mount| mount.starts_with(path))
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            Some(_) | None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTURED: &[u8] = b"\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
37 21 0:33 / /srv/app/uploads rw,nosuid - tmpfs none rw,size=1024k
38 21 0:34 / /srv/my\\040app rw - tmpfs none rw
";

    #[test]
    fn mounts_at_and_below_a_tree_are_found() {
        let mounts = mount_points(CAPTURED);
        assert_eq!(mounts.len(), 3);
        let found = |path: &str| first_below(&mounts, Path::new(path)).is_some();
        assert!(found("/srv/app"));
        assert!(found("/srv/my app"));
        assert!(!found("/srv/ap"));
        assert!(!found("/srv/app/uploads/2025"));
    }
}
