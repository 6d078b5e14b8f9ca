//! Whether a directory comes from the lower layer of an overlay, as in a container's image: the kernel refuses to
//! rename such a one (EXDEV), unless the overlay was mounted with `redirect_dir=on`.
//!
//! ```text
//! statfs: no overlay ─▶ None     mountinfo: upperdir, lowerdir ──seen from here──▶ Upper or Lower, else Unseen
//! ```
//!
//! Invariant: what cannot be seen is not guessed.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::{dir::Dir, error::StoreError, mounts};

/// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h.
const OVERLAY: i64 = 0x794c_7630;

/// Where a directory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// It is on no overlay.
    None,
    /// It is the overlay's own, or may be renamed all the same.
    Upper,
    Lower,
    /// The layers are not visible in the agent's namespace.
    Unseen,
}

/// Looks at a directory and its path.
pub(super) fn layer(dir: &Dir, path: &Path) -> Result<Layer, StoreError> {
    let stat = rustix::fs::fstatfs(dir)
        .map_err(|errno| StoreError::Stat { path: dir.at(b""), source: errno.into() })?;
    #[allow(clippy::useless_conversion, reason = "its width differs between processors")]
    if i64::from(stat.f_type) != OVERLAY {
        return Ok(Layer::None);
    }
    Ok(among(&mounts::read()?, path))
}

fn among(mountinfo: &[u8], path: &Path) -> Layer {
    let mounts = mounts::lines(mountinfo);
    let holds = |mount: &&mounts::Mount| mount.kind == b"overlay" && path.starts_with(&mount.point);
    let Some(mount) = mounts.iter().filter(holds).max_by_key(|mount| mount.point.as_os_str().len())
    else {
        return Layer::Unseen;
    };
    let mut layers = Layers::default();
    for option in mount.options.split(|byte| *byte == b',') {
        match split_once(option, b'=') {
            (b"redirect_dir", b"on") => return Layer::Upper,
            (b"upperdir", upper) => layers.upper = Some(PathBuf::from(OsStr::from_bytes(upper))),
            (b"lowerdir", lower) => {
                let lower = lower.split(|byte| *byte == b':').filter(|one| !one.is_empty());
                layers.lower = lower.map(|one| PathBuf::from(OsStr::from_bytes(one))).collect();
            }
            _ => {}
        }
    }
    let below = path.strip_prefix(&mount.point).unwrap_or(Path::new(""));
    let root = mount.root.strip_prefix("/").unwrap_or(&mount.root);
    layers.of(&root.join(below))
}

#[derive(Debug, Default)]
struct Layers {
    upper: Option<PathBuf>,
    lower: Vec<PathBuf>,
}

impl Layers {
    fn of(&self, below: &Path) -> Layer {
        let Some(upper) = self.upper.as_ref().filter(|upper| upper.is_dir()) else {
            return Layer::Unseen;
        };
        let here = upper.join(below);
        if !here.is_dir() {
            return Layer::Lower;
        }
        let mut value = [0; 1];
        let opaque = rustix::fs::lgetxattr(&here, "trusted.overlay.opaque", &mut value);
        if opaque.is_ok_and(|size| size == 1) && value == *b"y" {
            return Layer::Upper;
        }
        if self.lower.iter().any(|lower| lower.join(below).is_dir()) {
            return Layer::Lower;
        }
        if self.lower.iter().all(|lower| lower.is_dir()) { Layer::Upper } else { Layer::Unseen }
    }
}

fn split_once(text: &[u8], at: u8) -> (&[u8], &[u8]) {
    match text.iter().position(|byte| *byte == at) {
        Some(found) => (&text[..found], &text[found + 1..]),
        None => (text, b""),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_directory_is_found_in_its_layer() {
        let temp = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let path = temp.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let (upper, lower) = (dir("upper"), dir("lower"));
        dir("upper/srv/own");
        dir("upper/srv/both");
        dir("lower/srv/both");
        dir("lower/srv/theirs");
        let info = |options: &str| {
            format!(
                "30 1 0:30 / / rw - overlay overlay rw,lowerdir={},upperdir={}{options}\n31 30 0:5 / /proc rw - proc proc rw\n",
                lower.display(),
                upper.display()
            )
        };
        let at = |path: &str| among(info("").as_bytes(), Path::new(path));
        assert_eq!(at("/srv/own"), Layer::Upper);
        assert_eq!(at("/srv/both"), Layer::Lower);
        assert_eq!(at("/srv/theirs"), Layer::Lower);
        let redirected = info(",redirect_dir=on");
        assert_eq!(among(redirected.as_bytes(), Path::new("/srv/theirs")), Layer::Upper);
        fs::remove_dir_all(&upper).unwrap();
        assert_eq!(at("/srv/own"), Layer::Unseen);
    }
}
