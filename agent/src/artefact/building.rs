//! A tree that is built from what nobody vouches for: an archive, or a directory of somebody else's.
//!
//! ```text
//! unpack (tar) ──┐
//!                ├─ dir, file, link ──▶ Building: plain? new? below a directory? within the limits? ──▶ a fresh directory
//! copy (dirs) ───┘                      finish: links, then modes and times of directories
//! ```
//!
//! Two names that differ in case only are two files here, as they are for the app: file systems of Linux tell them apart.
//! On one that does not the second cannot be created, and the whole is refused.
//!
//! Invariant: everything is created new, by a handle of a real directory below the root, and is the agent's own.
//! Invariant: no link is there while anything else is written, and none leads out of its tree.
//! Invariant: the same artefact gives the same tree, times included.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Write as _,
    time::Instant,
};

use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};

use super::error::ArtefactError;
use crate::store::{dir, dir::Dir, free};

/// What is unpacked at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Files, directories and links.
    pub(super) entries: u64,
    /// Bytes of all files; and of a download.
    pub(super) bytes: u64,
    /// Names in a path.
    pub(super) depth: usize,
    pub(super) path_bytes: usize,
    /// How many times as large as the archive its contents may be, once they are larger than `ratio_from_bytes`.
    pub(super) ratio: u64,
    pub(super) ratio_from_bytes: u64,
    /// What stays free on the file system.
    pub(super) reserve_bytes: u64,
}

impl Limits {
    pub(super) const DEFAULT: Self = Self {
        entries: 1_000_000,
        bytes: 64 << 30,
        depth: 64,
        path_bytes: 2048,
        ratio: 200,
        ratio_from_bytes: 16 << 20,
        reserve_bytes: 64 << 20,
    };
}

/// One of the component's trees in the artefact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeRule {
    /// Where it is; empty for the whole artefact.
    pub from: Vec<u8>,
    /// Its files may be set-uid and set-gid.
    pub privileged: bool,
}

/// What was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Built {
    pub files: u64,
    pub links: u64,
    pub bytes: u64,
    /// Extended attributes were left out.
    pub without_xattrs: bool,
}

/// Mode and time of modification, as the artefact says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) mtime_s: i64,
}

/// See the module.
pub(super) struct Building<'a> {
    root: &'a Dir,
    trees: &'a [TreeRule],
    pub(super) limits: Limits,
    end: Instant,
    /// The directory that was written to last.
    open: Option<(Vec<u8>, Dir)>,
    /// Those that nobody named have none.
    dirs: BTreeMap<Vec<u8>, Option<Meta>>,
    files: BTreeSet<Vec<u8>>,
    links: BTreeMap<Vec<u8>, (Vec<u8>, i64)>,
    newest_s: i64,
    /// As long as others do not write.
    room_bytes: u64,
    pub(super) built: Built,
}

/// What a file or directory takes beside its bytes.
const ENTRY_BYTES: u64 = 4096;
/// So many bytes are written until somebody looks how many are free.
const LOOK_EVERY_BYTES: u64 = 64 << 20;
const CHUNK_BYTES: usize = 128 * 1024;
const LINK_BYTES_MAX: usize = 4095;
const PERMISSIONS: u32 = 0o777;
const SET_IDS: u32 = 0o6000;

impl<'a> Building<'a> {
    /// Into an empty directory of the agent's own, by `end`.
    pub(super) fn new(root: &'a Dir, trees: &'a [TreeRule], limits: Limits, end: Instant) -> Self {
        Self {
            root,
            trees,
            limits,
            end,
            open: None,
            dirs: BTreeMap::from([(Vec::new(), None)]),
            files: BTreeSet::new(),
            links: BTreeMap::new(),
            newest_s: 0,
            room_bytes: 0,
            built: Built::default(),
        }
    }

    /// A directory. One that was made for what is in it gets its mode from here.
    pub(super) fn dir(&mut self, path: &[u8], meta: Meta) -> Result<(), ArtefactError> {
        self.newest_s = self.newest_s.max(meta.mtime_s);
        if path.is_empty() {
            return self.root_is_named(meta);
        }
        if let Some(None) = self.dirs.get(path) {
            self.dirs.insert(path.to_vec(), Some(meta));
            return Ok(());
        }
        self.is_new(path)?;
        self.ensure_dir(dir::split(path).0)?;
        self.make_dir(path)?;
        self.dirs.insert(path.to_vec(), Some(meta));
        Ok(())
    }

    /// A file of so many bytes, which `read` gives.
    pub(super) fn file(
        &mut self,
        path: &[u8],
        meta: Meta,
        size_bytes: u64,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize, ArtefactError>,
    ) -> Result<(), ArtefactError> {
        self.newest_s = self.newest_s.max(meta.mtime_s);
        self.is_new(path)?;
        if meta.mode & SET_IDS != 0 && !self.tree_of(path).is_some_and(|tree| tree.privileged) {
            let mend = "take the bits off, or declare the tree with `privileged_files: true`";
            return Err(ArtefactError::refused(path, "which is set-uid or set-gid", mend));
        }
        if self.built.bytes.saturating_add(size_bytes) > self.limits.bytes {
            return Err(ArtefactError::Limit { what: "bytes", limit: self.limits.bytes });
        }
        self.count(size_bytes)?;
        let (above, name) = dir::split(path);
        self.ensure_dir(above)?;
        let at = self.root.at(path);
        let mut file = self.opened(above)?.create(name)?;
        self.write(&mut file, &at, size_bytes, read)?;
        set_mode(&file, meta.mode & (PERMISSIONS | SET_IDS), &at)?;
        rustix::fs::futimens(&file, &times(meta.mtime_s))
            .map_err(|errno| ArtefactError::io(format!("set the time of {at}"))(errno.into()))?;
        self.built.files += 1;
        self.built.bytes += size_bytes;
        self.files.insert(path.to_vec());
        Ok(())
    }

    /// A symbolic link. It is made when everything else is there.
    pub(super) fn link(
        &mut self,
        path: &[u8],
        target: &[u8],
        mtime_s: i64,
    ) -> Result<(), ArtefactError> {
        self.newest_s = self.newest_s.max(mtime_s);
        self.is_new(path)?;
        if let Err(what) = self.stays_inside(path, target) {
            let mend = "make it a relative link to something in the same tree";
            return Err(ArtefactError::refused(path, what, mend));
        }
        self.count(0)?;
        self.ensure_dir(dir::split(path).0)?;
        self.built.links += 1;
        self.links.insert(path.to_vec(), (target.to_vec(), mtime_s));
        Ok(())
    }

    /// Makes the links, then sets modes and times of the directories.
    pub(super) fn finish(mut self) -> Result<Built, ArtefactError> {
        if self.files.is_empty() {
            return Err(ArtefactError::archive("there is no file in it"));
        }
        for (path, (target, mtime_s)) in std::mem::take(&mut self.links) {
            self.in_time()?;
            let (above, name) = dir::split(&path);
            let above = self.opened(above)?;
            above.symlink(&target, name)?;
            rustix::fs::utimensat(above, name, &times(mtime_s), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| {
                    ArtefactError::io(format!("set the time of {}", above.at(name)))(errno.into())
                })?;
        }
        self.open = None;
        // What is deeper comes later in the map, and first here: a closed directory closes what is below it.
        for (path, meta) in self.dirs.iter().rev() {
            let Meta { mode, mtime_s } =
                meta.unwrap_or(Meta { mode: 0o755, mtime_s: self.newest_s });
            let dir = self.root.dir(path)?;
            let at = self.root.at(path);
            // The root is ours until it is walked; the release's gets the live one's mode.
            if !path.is_empty() {
                set_mode(&dir, mode & PERMISSIONS, &at)?;
            }
            rustix::fs::futimens(&dir, &times(mtime_s)).map_err(|errno| {
                ArtefactError::io(format!("set the time of {at}"))(errno.into())
            })?;
        }
        Ok(self.built)
    }

    fn root_is_named(&mut self, meta: Meta) -> Result<(), ArtefactError> {
        match self.dirs.insert(Vec::new(), Some(meta)) {
            Some(None) | None => Ok(()),
            Some(Some(_)) => Err(ArtefactError::refused(b".", TWICE, MEND_TWICE)),
        }
    }

    /// Checks a path before anything is made for it.
    fn is_new(&self, path: &[u8]) -> Result<(), ArtefactError> {
        self.in_time()?;
        plain(path, &self.limits)?;
        if self.files.contains(path)
            || self.links.contains_key(path)
            || self.dirs.contains_key(path)
        {
            return Err(ArtefactError::refused(path, TWICE, MEND_TWICE));
        }
        Ok(())
    }

    fn ensure_dir(&mut self, path: &[u8]) -> Result<(), ArtefactError> {
        if self.dirs.contains_key(path) {
            return Ok(());
        }
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            self.ensure_one(&path[..at])?;
        }
        self.ensure_one(path)
    }

    fn ensure_one(&mut self, path: &[u8]) -> Result<(), ArtefactError> {
        if self.dirs.contains_key(path) {
            return Ok(());
        }
        if self.files.contains(path) || self.links.contains_key(path) {
            let what = "which is a file or a link there, and a directory elsewhere in it";
            return Err(ArtefactError::refused(path, what, MEND_TWICE));
        }
        self.make_dir(path)?;
        self.dirs.insert(path.to_vec(), None);
        Ok(())
    }

    fn make_dir(&mut self, path: &[u8]) -> Result<(), ArtefactError> {
        self.count(0)?;
        let (above, name) = dir::split(path);
        Ok(self.opened(above)?.make_dir(name)?)
    }

    /// A directory that was made already.
    fn opened(&mut self, path: &[u8]) -> Result<&Dir, ArtefactError> {
        if self.open.as_ref().is_none_or(|(open, _)| open != path) {
            self.open = Some((path.to_vec(), self.root.dir(path)?));
        }
        Ok(&self.open.as_ref().expect("it was opened just now").1)
    }

    fn count(&mut self, bytes: u64) -> Result<(), ArtefactError> {
        let known = self.files.len() + self.links.len() + self.dirs.len();
        if u64::try_from(known).is_ok_and(|known| known >= self.limits.entries) {
            return Err(ArtefactError::Limit { what: "entries", limit: self.limits.entries });
        }
        self.reserve(bytes.saturating_add(ENTRY_BYTES))
    }

    /// Takes room for so many bytes, and refuses what would leave too little to everybody else.
    fn reserve(&mut self, bytes: u64) -> Result<(), ArtefactError> {
        if bytes > self.room_bytes {
            let (free_bytes, _) = free(self.root)?;
            let needed_bytes = bytes.saturating_add(self.limits.reserve_bytes);
            if needed_bytes > free_bytes {
                let path = self.root.at(b"");
                return Err(ArtefactError::NoSpace { path, needed_bytes, free_bytes });
            }
            let room = free_bytes - self.limits.reserve_bytes;
            self.room_bytes = room.min(LOOK_EVERY_BYTES.max(bytes));
        }
        self.room_bytes -= bytes;
        Ok(())
    }

    fn write(
        &self,
        file: &mut File,
        at: &str,
        size_bytes: u64,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize, ArtefactError>,
    ) -> Result<(), ArtefactError> {
        let mut chunk =
            vec![0; CHUNK_BYTES.min(usize::try_from(size_bytes).unwrap_or(CHUNK_BYTES))];
        let mut left = size_bytes;
        while left > 0 {
            self.in_time()?;
            let most = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = read(&mut chunk[..most])?;
            if got == 0 {
                return Err(ArtefactError::archive("it ends in the middle of a file"));
            }
            file.write_all(&chunk[..got]).map_err(ArtefactError::io(format!("write {at}")))?;
            left -= u64::try_from(got).unwrap_or(u64::MAX);
        }
        Ok(())
    }

    fn in_time(&self) -> Result<(), ArtefactError> {
        if Instant::now() < self.end { Ok(()) } else { Err(ArtefactError::Late) }
    }

    fn tree_of(&self, path: &[u8]) -> Option<&TreeRule> {
        self.trees.iter().find(|tree| below(path, &tree.from).is_some())
    }

    /// `..` may only come first: then it climbs real directories, and never more than there are. In the middle it would
    /// climb from wherever a link before it leads.
    fn stays_inside(&self, path: &[u8], target: &[u8]) -> Result<(), &'static str> {
        if target.is_empty() || target.contains(&0) || target.len() > LINK_BYTES_MAX {
            return Err("a link to what cannot be a path");
        }
        if target.starts_with(b"/") {
            return Err("an absolute link");
        }
        let tree = self.tree_of(path).map_or(b"".as_slice(), |tree| &tree.from);
        let inside = below(path, tree).unwrap_or(path);
        let mut depth = inside.split(|byte| *byte == b'/').count() - 1;
        let mut named = false;
        for part in target.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." if named => return Err("a link with `..` after a name"),
                b".." => match depth.checked_sub(1) {
                    Some(up) => depth = up,
                    None => return Err("a link that leads out of its tree"),
                },
                _ => named = true,
            }
        }
        Ok(())
    }
}

const TWICE: &str = "which is in it twice";
const MEND_TWICE: &str = "make the artefact so that each path is in it once";

/// Refuses a path that is not spelled in the one plain way, or is too long.
pub(super) fn plain(path: &[u8], limits: &Limits) -> Result<(), ArtefactError> {
    let refuse = |what: &str, mend| Err(ArtefactError::refused(path, what, mend));
    let mend = "make the artefact of relative paths below one directory";
    if path.starts_with(b"/") {
        return refuse("an absolute path", mend);
    }
    if path.contains(&0) || std::str::from_utf8(path).is_err() {
        return refuse("a name that is not text", "give the file a name in UTF-8");
    }
    let mut depth = 0;
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b".." => return refuse("a path with `..`", mend),
            b"" | b"." => return refuse("a path that is not spelled plainly", mend),
            name if name.len() > 255 => return refuse("a name that is too long", "shorten it"),
            _ => depth += 1,
        }
    }
    if path.len() > limits.path_bytes || depth > limits.depth {
        return refuse("a path that is too long or too deep", "shorten it");
    }
    Ok(())
}

/// The rest of a path below another; none where it is not below.
fn below<'p>(path: &'p [u8], above: &[u8]) -> Option<&'p [u8]> {
    if above.is_empty() { Some(path) } else { path.strip_prefix(above)?.strip_prefix(b"/") }
}

fn times(mtime_s: i64) -> Timestamps {
    let at = Timespec { tv_sec: mtime_s, tv_nsec: 0 };
    Timestamps { last_access: at, last_modification: at }
}

fn set_mode(file: impl rustix::fd::AsFd, mode: u32, at: &str) -> Result<(), ArtefactError> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
        .map_err(|errno| ArtefactError::io(format!("set the mode of {at}"))(errno.into()))
}
