//! Whether declared trees and files can be switched here: what a stage or a switch would find out in the night.
//!
//! ```text
//! ComponentFiles ──▶ each part:  real, no link, no mount ─▶ names can be exchanged ─▶ `keep` can move with it
//!                ├─▶ files that are set-uid, set-gid or have capabilities, where the policy does not allow them
//!                └─▶ each filesystem: room for one more copy of all of it
//! ```
//!
//! The store is not opened, so this works beside a running agent. To see whether names can be exchanged, one empty
//! directory is made where a release would be staged, and removed again.
//!
//! Invariant: nothing that is live, staged or recorded is changed.
//! Invariant: one bad part does not keep the others from being looked at.

use std::{collections::HashSet, io::ErrorKind, path::Path};

use proto::policy::SwitchMode;
use rustix::{
    fs::{FileType, Stat},
    io::Errno,
};

use super::{
    dir::{self, Dir, Rename},
    error::{StoreError, shown, shown_path},
    mounts,
    overlay::{self, Layer},
    privileged::{self, Right},
    scan::{self, Place, Root},
    set::{ComponentFiles, Part, PartKind, Set, Site},
    space::Needs,
};
use crate::finding::Finding;

/// The mend for what is declared and missing.
const NOT_THERE: &str = "put the release there once, or correct the path in the policy";
/// One handle is open per level.
const DEPTH_MAX: usize = 256;

/// Everything that was looked at. Blocking.
pub fn look(files: &ComponentFiles) -> Vec<Finding> {
    let set = match Set::new(files) {
        Ok(set) => set,
        Err(error) => return vec![Finding::of_words("files", &error.reason())],
    };
    let mut found = Vec::new();
    let mut needs = Needs::default();
    for (index, part) in set.parts.iter().enumerate() {
        match &part.kind {
            PartKind::Inner { tree, rel } => found.push(inner(&set.parts[*tree], *tree, part, rel)),
            PartKind::Tree { .. } | PartKind::File => of_site(index, part, &mut needs, &mut found),
        }
    }
    let needed = needs.tightest();
    found.push(match needs.check() {
        Ok(()) => Finding::ok(format!(
            "room for one more copy: {} bytes needed, {} free",
            needed.0, needed.1
        )),
        Err(error) => Finding::of_words("room for one more copy", &error.reason()),
    });
    found
}

/// A tree, or a file on its own.
fn of_site(index: usize, part: &Part, needs: &mut Needs, found: &mut Vec<Finding>) {
    let what = named(part);
    let site = match opened(index, part) {
        Ok(site) => site,
        Err(bad) => return found.push(bad),
    };
    let bad = |error: &StoreError| Finding::of_words(what.clone(), &error.reason());
    let root = match scan::site_root(&site, Place::Live) {
        // The link to the live release leads nowhere.
        Err(StoreError::Open { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return found.push(Finding::bad(what, "is not there", NOT_THERE));
        }
        Ok(root) => root,
        Err(error) => return found.push(bad(&error)),
    };
    let mut measure = Measure::new(part);
    let measured = match &root {
        Root::Tree(tree) => measure.tree(tree, &mut Vec::new(), 0),
        Root::File(dir, name) => measure.file(dir, name, b""),
        Root::Absent => Ok(()),
    };
    let Measure { bytes, entries, privileged, .. } = measure;
    found.extend(not_allowed(part, privileged));
    match measured.and_then(|()| needs.add_size(&site.parent, bytes, entries)) {
        Err(error) => found.push(bad(&error)),
        Ok(()) => found.push(match (&root, site.mode()) {
            (Root::Tree(tree), SwitchMode::Exchange) => of_layers(what.clone(), tree, &part.path),
            (Root::Tree(_) | Root::File(..) | Root::Absent, _) => Finding::ok(what.clone()),
        }),
    }
    let exchange = format!("{what}: names beside it can be exchanged");
    found.push(match exchanged(&site) {
        Ok(()) => Finding::ok(exchange),
        Err(error) => Finding::of_words(format!("{what}: its names"), &error.reason()),
    });
    let Root::Tree(tree) = root else { return };
    for keep in part.keep() {
        let what = format!("{what}: keep {}", shown(keep));
        found.push(match kept(&tree, keep) {
            Ok(()) => Finding::ok(what),
            Err(error) => Finding::of_words(what, &error.reason()),
        });
    }
}

/// The directories that a part moves in, where the part itself is real.
fn opened(index: usize, part: &Part) -> Result<Site<'_>, Finding> {
    let what = named(part);
    let bad = |error: &StoreError| Finding::of_words(what.clone(), &error.reason());
    mounts::refuse_part(part).map_err(|error| bad(&error))?;
    let site = Site::open(index, part).map_err(|error| bad(&error))?;
    let Some(stat) = site.parent.stat(&part.name).map_err(|error| bad(&error))? else {
        return Err(Finding::bad(what, "is not there", NOT_THERE));
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_file = matches!(part.kind, PartKind::File);
    if is_file && kind != FileType::RegularFile && kind != FileType::Symlink {
        return Err(Finding::bad(
            what,
            "is not a file",
            "name the real file, or declare it as a tree",
        ));
    }
    if kind == FileType::Symlink && site.mode() == SwitchMode::Exchange {
        let target = site.parent.read_link(&part.name).unwrap_or_default();
        let mend = match part.kind {
            PartKind::Tree { .. } => {
                "name the real directory; or declare `switch: link`, where this is the link to the live release"
            }
            PartKind::File | PartKind::Inner { .. } => "name the file that it leads to",
        };
        let why = format!("is a symbolic link to {}, and links are never followed", shown(&target));
        return Err(Finding::bad(what, why, mend));
    }
    Ok(site)
}

/// A file inside a tree; what is wrong with the tree is the tree's matter.
fn inner(tree: &Part, index: usize, part: &Part, rel: &[u8]) -> Finding {
    let what = named(part);
    let mut refused = None;
    let mut look = || -> Result<Option<FileType>, StoreError> {
        let site = Site::open(index, tree)?;
        let Root::Tree(root) = scan::site_root(&site, Place::Live)? else { return Ok(None) };
        let (above, name) = dir::split(rel);
        let Some(above) = root.dir_if_there(above)? else { return Ok(None) };
        let mut measure = Measure::new(part);
        measure.file(&above, name, b"")?;
        refused = not_allowed(part, measure.privileged);
        Ok(above.stat(name)?.map(|stat| FileType::from_raw_mode(stat.st_mode)))
    };
    let looked = look();
    if let Some(refused) = refused {
        return refused;
    }
    match looked {
        Ok(Some(FileType::RegularFile)) => Finding::ok(what),
        Ok(Some(
            FileType::Symlink
            | FileType::Directory
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown,
        )) => {
            Finding::bad(what, "is not a file", "name the real file, or take it out of the policy")
        }
        Ok(None) => {
            Finding::bad(what, "is not there", "put it there, or take it out of the policy")
        }
        Err(error) => Finding::of_words(what, &error.reason()),
    }
}

fn named(part: &Part) -> String {
    let kind = match part.kind {
        PartKind::Tree { .. } => "tree",
        PartKind::File | PartKind::Inner { .. } => "file",
    };
    format!("{kind} {}", part.shown())
}

/// A directory that comes from the lower layer of an overlay cannot be renamed.
fn of_layers(what: String, tree: &Dir, path: &Path) -> Finding {
    match overlay::layer(tree, path) {
        Ok(Layer::None | Layer::Upper) => Finding::ok(what),
        Ok(Layer::Unseen) => Finding::ok(format!(
            "{what} (on an overlay whose layers cannot be seen from here: whether it can be moved, the first switch will show)"
        )),
        Ok(Layer::Lower) => Finding::bad(
            what,
            "comes from the lower layer of an overlay, which the kernel does not rename",
            format!(
                "copy it once: `cp -a {0} {0}.new && rm -r {0} && mv {0}.new {0}`; or use `switch: link`",
                shown_path(path)
            ),
        ),
        Err(error) => Finding::of_words(what, &error.reason()),
    }
}

/// Tries it on two empty directories, where a release would be staged.
fn exchanged(site: &Site<'_>) -> Result<(), StoreError> {
    let base = site.staging.as_ref().unwrap_or(&site.parent);
    let place = format!(".lastgood-check-{}-{}", std::process::id(), site.index).into_bytes();
    base.make_dir(&place)?;
    let tried = base.dir(&place).and_then(|probe| {
        let tried = [b"a", b"b"].iter().try_for_each(|name| probe.make_dir(*name));
        let tried = tried.and_then(|()| probe.rename(b"a", &probe, b"b", Rename::Exchange));
        let removed = [b"a", b"b"].iter().try_for_each(|name| probe.remove_dir(*name));
        tried.and(removed)
    });
    let removed = base.remove_dir(&place);
    let exchange = site.mode() == SwitchMode::Exchange;
    match tried {
        Err(StoreError::Rename { source, .. }) if exchange => {
            Err(StoreError::NotAtomic { path: site.parent.at(b""), source })
        }
        Err(StoreError::Rename { .. }) | Ok(()) => removed,
        Err(error) => Err(error),
    }?;
    refuse_sticky(site)
}

/// In a sticky directory only the owner of a name, or root, may rename it.
fn refuse_sticky(site: &Site<'_>) -> Result<(), StoreError> {
    const STICKY: u32 = 0o1000;
    let own = rustix::process::geteuid();
    let parent = site.parent.own_stat()?;
    let live = site.parent.stat(&site.part.name)?;
    let foreign = live.is_some_and(|live| live.st_uid != own.as_raw());
    let theirs = parent.st_uid != own.as_raw();
    if own.is_root() || parent.st_mode & STICKY == 0 || !foreign || !theirs {
        return Ok(());
    }
    Err(StoreError::Unfit {
        path: site.part.shown(),
        what: "another user's in a sticky directory".to_owned(),
        mend: "run the agent as root, or move it to a directory of its own",
    })
}

/// A kept path moves with the switch by rename.
fn kept(tree: &Dir, keep: &[u8]) -> Result<(), StoreError> {
    let (above, name) = dir::split(keep);
    let Some(above) = tree.dir_if_there(above)? else { return Ok(()) };
    let Some(stat) = above.stat(name)? else { return Ok(()) };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        // Refuses what is mounted there, even from the same filesystem.
        above.dir(name)?;
    }
    if stat.st_dev == tree.own_stat()?.st_dev {
        return Ok(());
    }
    Err(StoreError::Mount { path: above.at(name) })
}

/// What a copy of a part takes, and which files of it are not allowed in a release.
struct Measure<'p> {
    part: &'p Part,
    bytes: u64,
    entries: u64,
    /// Files with several names, by device and inode.
    linked: HashSet<(u64, u64)>,
    privileged: Vec<(Vec<u8>, Right)>,
}

impl<'p> Measure<'p> {
    fn new(part: &'p Part) -> Self {
        Self { part, bytes: 0, entries: 0, linked: HashSet::new(), privileged: Vec::new() }
    }

    /// All of a tree but what is kept across releases. Names that go away meanwhile are passed over.
    fn tree(&mut self, dir: &Dir, at: &mut Vec<u8>, depth: usize) -> Result<(), StoreError> {
        for name in dir.names()? {
            let length = at.len();
            if !at.is_empty() {
                at.push(b'/');
            }
            at.extend_from_slice(&name);
            if !self.part.keep().iter().any(|keep| keep == at) {
                self.one(dir, &name, at, depth)?;
            }
            at.truncate(length);
        }
        Ok(())
    }

    fn one(
        &mut self,
        dir: &Dir,
        name: &[u8],
        at: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), StoreError> {
        let Some(stat) = dir.stat(name)? else { return Ok(()) };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.regular(dir, name, &stat, at),
            FileType::Directory if depth < DEPTH_MAX => {
                if let Some(below) = dir.dir_if_there(name)? {
                    self.tree(&below, at, depth + 1)?;
                }
            }
            FileType::Directory
            | FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => {}
        }
        self.entries += 1;
        Ok(())
    }

    /// A declared file, by its name.
    fn file(&mut self, dir: &Dir, name: &[u8], rel: &[u8]) -> Result<(), StoreError> {
        match dir.stat(name)? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                self.regular(dir, name, &stat, rel)
            }
            Some(_) | None => {
                self.entries += 1;
                Ok(())
            }
        }
    }

    fn regular(
        &mut self,
        dir: &Dir,
        name: &[u8],
        stat: &Stat,
        rel: &[u8],
    ) -> Result<(), StoreError> {
        if stat.st_nlink > 1 && !self.linked.insert((stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        self.entries += 1;
        // Holes take nothing.
        let blocks = u64::try_from(stat.st_blocks).unwrap_or_default();
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        self.bytes = self.bytes.saturating_add(size.min(blocks.saturating_mul(512)));
        let declared_itself = match &self.part.kind {
            PartKind::Tree { inner, .. } => inner.iter().any(|inner| inner == rel),
            PartKind::File | PartKind::Inner { .. } => false,
        };
        if !privileged::may(self.part)
            && !declared_itself
            && let Some(right) = privileged::right(stat.st_mode, is_capable(dir, name)?)
        {
            self.privileged.push((rel.to_vec(), right));
        }
        Ok(())
    }
}

/// Whether a file has capabilities. It is not opened.
fn is_capable(dir: &Dir, name: &[u8]) -> Result<bool, StoreError> {
    match rustix::fs::lgetxattr(dir.proc_path(name), privileged::CAPABILITIES, &mut [0; 0]) {
        Ok(_) | Err(Errno::RANGE) => Ok(true),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::NOENT) => Ok(false),
        Err(errno) => Err(StoreError::Read {
            path: format!("the extended attributes of {}", dir.at(name)),
            source: errno.into(),
        }),
    }
}

/// What a snapshot of this part would be refused for.
fn not_allowed(part: &Part, privileged: Vec<(Vec<u8>, Right)>) -> Option<Finding> {
    let (rel, right) = privileged.first()?;
    let path = part.shown_below(rel);
    let mut what = format!("file {path}");
    if privileged.len() > 1 {
        what.push_str(&format!(" and {} more like it", privileged.len() - 1));
    }
    Some(Finding::of_words(what, &privileged::error(part, path, *right).reason()))
}
