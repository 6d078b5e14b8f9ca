//! Metadata of inodes: read from, and put onto, open descriptors.
//!
//! Invariant: what already is right is not set, so that an agent without root can restore files that are its own.
//! Invariant: owner before xattrs before mode before times; each of them undoes a later one.

use std::{fs::File, io, os::fd::AsFd};

use rustix::{
    fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags},
    io::Errno,
};

use super::{
    dir::Dir,
    error::StoreError,
    manifest::{Meta, Xattrs},
};

/// Attributes that the kernel or an overlay computes for one inode; they mean nothing on another.
const NOT_KEPT: [&[u8]; 3] = [b"security.ima", b"security.evm", b"trusted.overlay."];

/// The metadata behind an open descriptor. `path` is for messages.
pub(super) fn of_open(
    fd: impl AsFd,
    stat: &Stat,
    path: impl Fn() -> String,
) -> Result<Meta, StoreError> {
    let names = read_whole(|buffer| rustix::fs::flistxattr(&fd, buffer));
    let xattrs = xattrs(names, |name, buffer| rustix::fs::fgetxattr(&fd, name, buffer));
    meta(stat, xattrs, path)
}

/// The metadata of a link itself.
pub(super) fn of_link(dir: &Dir, name: &[u8], stat: &Stat) -> Result<Meta, StoreError> {
    let at = dir.proc_path(name);
    let names = read_whole(|buffer| rustix::fs::llistxattr(&at, buffer));
    let xattrs = xattrs(names, |name, buffer| rustix::fs::lgetxattr(&at, name, buffer));
    meta(stat, xattrs, || dir.at(name))
}

/// Makes the inode behind a descriptor be as `wanted`.
pub(super) fn apply(fd: impl AsFd, wanted: &Meta, path: &str) -> Result<(), StoreError> {
    let failed = |what| {
        move |errno: Errno| StoreError::Metadata {
            path: path.to_owned(),
            what,
            source: errno.into(),
        }
    };
    let stat = rustix::fs::fstat(&fd).map_err(failed("metadata"))?;
    let (uid, gid) = new_owner(&stat, wanted);
    if uid.is_some() || gid.is_some() {
        rustix::fs::fchown(&fd, uid, gid).map_err(failed("the owner"))?;
    }
    let now = of_open(&fd, &stat, || path.to_owned())?;
    for (name, _) in now.xattrs.iter().filter(|(name, _)| !has(&wanted.xattrs, name)) {
        rustix::fs::fremovexattr(&fd, name.as_slice()).map_err(failed("extended attributes"))?;
    }
    for (name, value) in wanted.xattrs.iter().filter(|xattr| !now.xattrs.contains(xattr)) {
        rustix::fs::fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty())
            .map_err(failed("extended attributes"))?;
    }
    // An inherited ACL may have changed it since `stat`; a change of owner may have cleared bits of it.
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(wanted.mode)).map_err(failed("the mode"))?;
    rustix::fs::futimens(&fd, &times((wanted.mtime_s, wanted.mtime_ns)))
        .map_err(failed("the times"))
}

/// Makes a link be as `wanted`; a link's mode cannot be set.
pub(super) fn apply_to_link(dir: &Dir, name: &[u8], wanted: &Meta) -> Result<(), StoreError> {
    let failed = |what| {
        move |errno: Errno| StoreError::Metadata { path: dir.at(name), what, source: errno.into() }
    };
    let Some(stat) = dir.stat(name)? else {
        return Err(failed("metadata")(Errno::NOENT));
    };
    let (uid, gid) = new_owner(&stat, wanted);
    if uid.is_some() || gid.is_some() {
        rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("the owner"))?;
    }
    let now = of_link(dir, name, &stat)?;
    let at = dir.proc_path(name);
    for (name, value) in wanted.xattrs.iter().filter(|xattr| !now.xattrs.contains(xattr)) {
        rustix::fs::lsetxattr(&at, name.as_slice(), value, XattrFlags::empty())
            .map_err(failed("extended attributes"))?;
    }
    rustix::fs::utimensat(
        dir,
        name,
        &times((wanted.mtime_s, wanted.mtime_ns)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(failed("the times"))
}

/// Sets a directory's modification time back, where it is another.
pub(super) fn settle_mtime(dir: &Dir, wanted: (i64, u32)) -> Result<(), StoreError> {
    let stat = dir.own_stat()?;
    if mtime(&stat) == wanted {
        return Ok(());
    }
    rustix::fs::futimens(dir, &times(wanted)).map_err(|errno| StoreError::Metadata {
        path: dir.at(b""),
        what: "the times",
        source: errno.into(),
    })
}

/// Seconds and nanoseconds of the last modification.
pub(super) fn mtime(stat: &Stat) -> (i64, u32) {
    (stat.st_mtime, nanoseconds(stat.st_mtime_nsec))
}

/// Seconds and nanoseconds of the last change of the inode.
pub(super) fn ctime(stat: &Stat) -> (i64, u32) {
    (stat.st_ctime, nanoseconds(stat.st_ctime_nsec))
}

/// What `fstat` says of an open file.
pub(super) fn stat_of(file: &File, path: &str) -> Result<Stat, StoreError> {
    rustix::fs::fstat(file)
        .map_err(|errno| StoreError::Stat { path: path.to_owned(), source: errno.into() })
}

/// The metadata of what `stat` was said of, and these extended attributes.
pub(super) fn from_stat(stat: &Stat, xattrs: Xattrs) -> Meta {
    let (mtime_s, mtime_ns) = mtime(stat);
    let mode = stat.st_mode & 0o7777;
    Meta { mode, uid: stat.st_uid, gid: stat.st_gid, mtime_s, mtime_ns, xattrs }
}

fn meta(
    stat: &Stat,
    xattrs: Result<Xattrs, Errno>,
    path: impl Fn() -> String,
) -> Result<Meta, StoreError> {
    let xattrs = xattrs.map_err(|errno| StoreError::Read {
        path: format!("the extended attributes of {}", path()),
        source: io::Error::from(errno),
    })?;
    Ok(from_stat(stat, xattrs))
}

fn xattrs(
    names: Result<Vec<u8>, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Xattrs, Errno> {
    let names = match names {
        // A filesystem without them has none.
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        names => names?,
    };
    let mut all = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if NOT_KEPT.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        match read_whole(|buffer| get(name, buffer)) {
            Ok(value) => all.push((name.to_vec(), value)),
            // Removed since it was listed: the next pass of a scan settles it.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// Calls `read` with a growing buffer. 64 KiB is the kernel's limit for a value and for a list.
fn read_whole(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    // Most inodes have none, and then nothing is allocated.
    let mut small = [0; 256];
    match read(&mut small) {
        Ok(length) => return Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {}
        Err(errno) => return Err(errno),
    }
    let mut buffer = vec![0; 64 * 1024];
    let length = read(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn has(xattrs: &[(Vec<u8>, Vec<u8>)], name: &[u8]) -> bool {
    // A label that the running kernel insists on cannot be removed, only replaced.
    name == b"security.selinux" || xattrs.iter().any(|(other, _)| other == name)
}

fn new_owner(stat: &Stat, wanted: &Meta) -> (Option<Uid>, Option<Gid>) {
    let uid = (stat.st_uid != wanted.uid).then(|| Uid::from_raw(wanted.uid));
    let gid = (stat.st_gid != wanted.gid).then(|| Gid::from_raw(wanted.gid));
    (uid, gid)
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
    }
}

fn nanoseconds(nsec: impl TryInto<u32>) -> u32 {
    nsec.try_into().unwrap_or(0)
}
