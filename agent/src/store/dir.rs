//! A confined directory handle: the only place that opens, creates, renames or removes a path below a root.
//!
//! ```text
//! Dir::open("/var/www")   every component real, no link on the way
//!   └─ dir("ace-crm/api")   openat2: beneath, no links, no magic links, no other filesystem
//!        └─ file / create / rename / remove   one name below a handle that is already open
//! ```
//!
//! Invariant: a name that is operated on is one component; it is never followed if it is a link.
//! Invariant: whoever swaps a directory for a link gets an error or a look at the directory that was opened before.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, Stat},
    io::Errno,
};

use super::error::{StoreError, shown_path};

/// `openat2` answers EAGAIN when a rename elsewhere raced with it. A storm of renames gets an error, not a spin.
const RACES_MAX: u32 = 64;

/// So many paths of one directory are one job.
const GROUP_MAX: usize = 16;

/// An open directory, and the path by which people know it.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// How a rename treats what is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rename {
    /// It is replaced.
    Over,
    /// It makes the rename fail.
    New,
    /// The two change places.
    Exchange,
}

impl Dir {
    /// Opens an absolute path of which no component is a link.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd = open_at(CWD, path.as_os_str().as_bytes(), DIR_FLAGS, Mode::empty(), resolve)
            .map_err(|errno| opening(shown_path(path), errno))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// The path by which people know it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How a name below it is shown.
    pub(crate) fn at(&self, name: &[u8]) -> String {
        if name.is_empty() {
            return shown_path(&self.path);
        }
        shown_path(&self.path.join(OsStr::from_bytes(name)))
    }

    /// Opens a directory below; the empty path is this directory itself.
    pub(crate) fn dir(&self, rel: &[u8]) -> Result<Self, StoreError> {
        let name = if rel.is_empty() { b".".as_slice() } else { rel };
        let fd = open_at(&self.fd, name, DIR_FLAGS, Mode::empty(), BENEATH)
            .map_err(|errno| opening(self.at(rel), errno))?;
        let path =
            if rel.is_empty() { self.path.clone() } else { self.path.join(OsStr::from_bytes(rel)) };
        Ok(Self { fd, path })
    }

    /// [`Dir::dir`], or none where nothing is there.
    pub(crate) fn dir_if_there(&self, rel: &[u8]) -> Result<Option<Self>, StoreError> {
        if_there(self.dir(rel))
    }

    /// The directory that holds the last component of `rel`, and that component.
    pub(super) fn parent_of<'a>(&self, rel: &'a [u8]) -> Result<(Self, &'a [u8]), StoreError> {
        let (parent, name) = split(rel);
        Ok((self.dir(parent)?, name))
    }

    /// Opens a file for reading. A fifo does not block; look at its type before reading.
    pub(crate) fn file(&self, name: &[u8]) -> Result<File, StoreError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = self
            .single(name)
            .and_then(|name| open_at(&self.fd, name, flags, Mode::empty(), BENEATH))
            .map_err(|errno| opening(self.at(name), errno))?;
        Ok(File::from(fd))
    }

    /// [`Dir::file`], or none where nothing is there.
    pub(super) fn file_if_there(&self, name: &[u8]) -> Result<Option<File>, StoreError> {
        if_there(self.file(name))
    }

    /// Creates a file that must not exist, readable by its owner only.
    pub(crate) fn create(&self, name: &[u8]) -> Result<File, StoreError> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        self.single(name)
            .and_then(|name| open_at(&self.fd, name, flags, mode, BENEATH))
            .map(File::from)
            .map_err(|errno| StoreError::Create { path: self.at(name), source: errno.into() })
    }

    /// Creates a directory that must not exist, open to its owner only.
    pub(crate) fn make_dir(&self, name: &[u8]) -> Result<(), StoreError> {
        self.single(name)
            .and_then(|name| rustix::fs::mkdirat(&self.fd, name, Mode::RWXU))
            .map_err(|errno| StoreError::Create { path: self.at(name), source: errno.into() })
    }

    /// Opens a directory, made first where it is missing.
    pub(crate) fn ensure_dir(&self, name: &[u8]) -> Result<Self, StoreError> {
        match self.make_dir(name) {
            Ok(()) => self.sync()?,
            Err(StoreError::Create { source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        self.dir(name)
    }

    /// Creates a link that must not exist.
    pub(crate) fn symlink(&self, target: &[u8], name: &[u8]) -> Result<(), StoreError> {
        self.single(name)
            .and_then(|name| rustix::fs::symlinkat(target, &self.fd, name))
            .map_err(|errno| StoreError::Create { path: self.at(name), source: errno.into() })
    }

    /// What a link says.
    pub(crate) fn read_link(&self, name: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.single(name)
            .and_then(|name| rustix::fs::readlinkat(&self.fd, name, Vec::new()))
            .map(|target| target.into_bytes())
            .map_err(|errno| StoreError::Read { path: self.at(name), source: errno.into() })
    }

    /// What stands at a name, the link itself if it is one; none where nothing is there.
    pub(crate) fn stat(&self, name: &[u8]) -> Result<Option<Stat>, StoreError> {
        let looked = self
            .single(name)
            .and_then(|name| rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW));
        match looked {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(StoreError::Stat { path: self.at(name), source: errno.into() }),
        }
    }

    /// The directory's own metadata.
    pub(crate) fn own_stat(&self) -> Result<Stat, StoreError> {
        rustix::fs::fstat(&self.fd)
            .map_err(|errno| StoreError::Stat { path: self.at(b""), source: errno.into() })
    }

    /// Every name in it, in byte order.
    pub(crate) fn names(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let listing = |errno: Errno| StoreError::List { path: self.at(b""), source: errno.into() };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(listing)? {
            let name = entry.map_err(listing)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Renames a name here to a name in `to`.
    pub(crate) fn rename(
        &self,
        name: &[u8],
        to: &Self,
        new: &[u8],
        how: Rename,
    ) -> Result<(), StoreError> {
        let flags = match how {
            Rename::Over => RenameFlags::empty(),
            Rename::New => RenameFlags::NOREPLACE,
            Rename::Exchange => RenameFlags::EXCHANGE,
        };
        let renamed = self.single(name).and_then(|name| {
            let new = to.single(new)?;
            rustix::fs::renameat_with(&self.fd, name, &to.fd, new, flags)
        });
        renamed.map_err(|errno| StoreError::Rename {
            from: self.at(name),
            to: to.at(new),
            source: errno.into(),
        })
    }

    /// Gives the file at a name here another name in `to`, which must be free.
    pub(super) fn link(&self, name: &[u8], to: &Self, new: &[u8]) -> Result<(), StoreError> {
        let linked = self.single(name).and_then(|name| {
            // Without flags a symbolic link at `name` is not followed.
            rustix::fs::linkat(&self.fd, name, &to.fd, to.single(new)?, AtFlags::empty())
        });
        linked.map_err(|errno| StoreError::Create { path: to.at(new), source: errno.into() })
    }

    /// Removes anything but a directory. Nothing there is not an error.
    pub(crate) fn unlink(&self, name: &[u8]) -> Result<(), StoreError> {
        self.remove(name, AtFlags::empty())
    }

    /// Removes an empty directory. Nothing there is not an error.
    pub(crate) fn remove_dir(&self, name: &[u8]) -> Result<(), StoreError> {
        self.remove(name, AtFlags::REMOVEDIR)
    }

    /// Makes the names in it durable.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&self.fd)
            .map_err(|errno| StoreError::Fsync { path: self.at(b""), source: errno.into() })
    }

    /// Makes everything on its filesystem durable.
    pub(super) fn sync_filesystem(&self) -> Result<(), StoreError> {
        rustix::fs::syncfs(&self.fd)
            .map_err(|errno| StoreError::Fsync { path: self.at(b""), source: errno.into() })
    }

    /// A path through which the xattrs of a link can be reached without following it.
    pub(super) fn proc_path(&self, name: &[u8]) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.fd.as_raw_fd())).join(OsStr::from_bytes(name))
    }

    fn remove(&self, name: &[u8], flags: AtFlags) -> Result<(), StoreError> {
        let removed =
            self.single(name).and_then(|name| rustix::fs::unlinkat(&self.fd, name, flags));
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(StoreError::Remove { path: self.at(name), source: errno.into() }),
        }
    }

    /// Refuses a name that the kernel would take as a path.
    fn single<'a>(&self, name: &'a [u8]) -> Result<&'a [u8], Errno> {
        let plain = !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/');
        if plain { Ok(name) } else { Err(Errno::INVAL) }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A relative path as (parent, last component); the parent of a single name is empty.
pub(crate) fn split(rel: &[u8]) -> (&[u8], &[u8]) {
    match rel.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&rel[..slash], &rel[slash + 1..]),
        None => (b"", rel),
    }
}

/// Paths that follow each other and have one directory, a few at a time: a job for one thread, which opens it once.
pub(super) fn grouped<'m, T>(
    all: impl Iterator<Item = T>,
    path: impl Fn(&T) -> &'m [u8],
) -> Vec<Vec<T>> {
    let above = |one: &T| split(path(one)).0;
    let mut jobs: Vec<Vec<T>> = Vec::new();
    for one in all {
        let job = jobs.last_mut().filter(|job| job.len() < GROUP_MAX);
        match job.filter(|job| job.first().is_some_and(|first| above(first) == above(&one))) {
            Some(job) => job.push(one),
            None => jobs.push(vec![one]),
        }
    }
    jobs
}

/// Every proper ancestor of a relative path, the root (empty) first.
pub(super) fn ancestors(rel: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = rel.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    std::iter::once(&rel[..0]).chain(slashes.map(|(at, _)| &rel[..at]))
}

/// Without `NOFOLLOW`: the resolve flags refuse a link, and say that it was one.
const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

fn open_at(
    at: impl AsFd,
    name: &[u8],
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    #[cfg(test)]
    if UNPROTECTED.get() {
        return rustix::fs::openat(&at, name, flags.difference(OFlags::NOFOLLOW), mode);
    }
    let mut races = 0;
    loop {
        match rustix::fs::openat2(&at, name, flags, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) if races < RACES_MAX => races += 1,
            opened => return opened,
        }
    }
}

#[cfg(test)]
thread_local! {
    static UNPROTECTED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Does something as if there were no protection, to show what it is good for.
#[cfg(test)]
pub(super) fn unprotected<T>(work: impl FnOnce() -> T) -> T {
    UNPROTECTED.set(true);
    let done = work();
    UNPROTECTED.set(false);
    done
}

fn opening(path: String, errno: Errno) -> StoreError {
    match errno {
        Errno::LOOP => StoreError::Link { path },
        Errno::XDEV => StoreError::Mount { path },
        errno => StoreError::Open { path, source: errno.into() },
    }
}

fn if_there<T>(opened: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(StoreError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn real(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().canonicalize().unwrap()
    }

    #[test]
    fn a_link_in_any_place_of_a_path_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let root = real(&temp);
        std::fs::create_dir_all(root.join("outside/secret")).unwrap();
        std::fs::write(root.join("outside/secret/key"), "x").unwrap();
        std::fs::create_dir(root.join("tree")).unwrap();
        symlink(root.join("outside"), root.join("tree/inner")).unwrap();
        symlink("../outside/secret/key", root.join("tree/key")).unwrap();

        let tree = Dir::open(&root.join("tree")).unwrap();
        assert!(matches!(tree.dir(b"inner"), Err(StoreError::Link { .. })));
        assert!(matches!(tree.dir(b"inner/secret"), Err(StoreError::Link { .. })));
        assert!(matches!(tree.file(b"key"), Err(StoreError::Link { .. })));
        assert!(tree.dir(b"../outside").is_err());
        assert!(matches!(Dir::open(&root.join("tree/inner/secret")), Err(StoreError::Link { .. })));
    }

    #[test]
    fn a_path_is_not_a_name() {
        let temp = tempfile::tempdir().unwrap();
        let root = Dir::open(&real(&temp)).unwrap();
        root.make_dir(b"a").unwrap();
        root.create(b"there").unwrap();
        for name in [b"a/b".as_slice(), b"..", b".", b""] {
            assert!(root.create(name).is_err(), "{name:?}");
            assert!(root.unlink(name).is_err(), "{name:?}");
            assert!(root.link(name, &root, b"x").is_err(), "{name:?}");
            assert!(root.link(b"there", &root, name).is_err(), "{name:?}");
            assert!(root.rename(name, &root, b"x", Rename::Over).is_err(), "{name:?}");
        }
    }

    #[test]
    fn ancestors_of_a_path() {
        let all: Vec<&[u8]> = ancestors(b"a/b/c").collect();
        assert_eq!(all, [b"".as_slice(), b"a", b"a/b"]);
        assert_eq!(ancestors(b"a").count(), 1);
    }
}
