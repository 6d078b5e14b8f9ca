//! The walk: what a component's trees and files are now.
//!
//! ```text
//! Sites ──roots(Place)──▶ Root per part ──set──▶ Scanned { manifest, skipped, unsettled }
//!                                         │ a file is read, unless the stat cache knows it as it is
//!                                         └ its bytes go into a batch of objects, where the caller wants them kept
//! ```
//!
//! Invariant: nothing but regular files is opened for reading; sockets, fifos and devices are listed and passed over.
//! Invariant: kept paths and declared single files are no part of a tree's manifest.
//! Invariant: a result that may mix two moments says so (`unsettled`), or does not leave [`settled`].

use std::{collections::HashSet, time::SystemTime};

use rustix::fs::{FileType, Stat};

use super::{
    Steps,
    cache::Cache,
    dir::Dir,
    error::{StoreError, shown},
    hash::Hash,
    manifest::{Entry, Kind, Manifest, SetManifest},
    meta,
    objects::{Batch, hash_through},
    set::{Part, PartKind, STAGING, Set, Site},
};

/// How often a file that changes under the reader is read.
const READS_MAX: u32 = 3;
/// How often a set is walked until two walks in a row agree.
const WALKS_MAX: u32 = 4;
/// One handle is open per level.
const DEPTH_MAX: usize = 256;
/// What the kernel takes as one path, less what stands before it.
const PATH_BYTES_MAX: usize = 3800;

/// Which of a component's trees and files are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Live,
    /// Beside the live ones, staged or replaced.
    Staged(Hash),
    /// Beside the live ones, not yet complete.
    Building(Hash),
}

/// Where one part is.
#[derive(Debug)]
pub(super) enum Root {
    Tree(Dir),
    File(Dir, Vec<u8>),
    /// A tree that is not there, or a file whose directory is not.
    Absent,
}

/// What a walk may take from the stat cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// What changed since it was read last.
    Changed,
    /// Every byte.
    Everything,
}

/// Whose bytes are kept as objects.
#[derive(Debug)]
pub(super) enum Keep<'b, 'o> {
    Nothing,
    SingleFiles(&'b mut Batch<'o>),
    Everything(&'b mut Batch<'o>),
}

/// What a walk found.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) manifest: SetManifest,
    pub(super) skipped: Vec<String>,
    /// A path that changed while it was read: the manifest may mix two moments.
    pub(super) unsettled: Option<String>,
}

/// Opens the roots of every part, in the order of the parts.
pub(super) fn roots(set: &Set, sites: &[Site<'_>], place: Place) -> Result<Vec<Root>, StoreError> {
    let mut roots: Vec<Root> = set.parts.iter().map(|_| Root::Absent).collect();
    for site in sites {
        roots[site.index] = site_root(site, place)?;
    }
    for (index, part) in set.parts.iter().enumerate() {
        if let PartKind::Inner { tree, rel } = &part.kind
            && let Root::Tree(tree) = &roots[*tree]
        {
            let (above, name) = super::dir::split(rel);
            if let Some(dir) = tree.dir_if_there(above)? {
                roots[index] = Root::File(dir, name.to_vec());
            }
        }
    }
    Ok(roots)
}

/// Walks once.
pub(super) fn set(
    set: &Set,
    roots: &[Root],
    cache: &Cache,
    read: Read,
    mut keep: Keep<'_, '_>,
) -> Result<Scanned, StoreError> {
    let mut scanned = Scanned {
        manifest: SetManifest { parts: Vec::new() },
        skipped: Vec::new(),
        unsettled: None,
    };
    for (part, root) in set.parts.iter().zip(roots) {
        let batch = match (&mut keep, &part.kind) {
            (Keep::Nothing, _) | (Keep::SingleFiles(_), PartKind::Tree { .. }) => None,
            (Keep::SingleFiles(batch) | Keep::Everything(batch), _) => Some(&mut **batch),
        };
        let mut walk = Walk {
            part,
            excluded: excluded(part),
            cache,
            read,
            batch,
            entries: Vec::new(),
            scanned: &mut scanned,
        };
        walk.part(root)?;
        let mut entries = walk.entries;
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        scanned.manifest.parts.push(Manifest { entries });
    }
    Ok(scanned)
}

/// Walks a set until two walks in a row agree; `open` opens what stands for its parts.
///
/// # Errors
/// [`StoreError::Changing`] with a path that never came to rest.
pub(super) fn settled(
    component: &Set,
    cache: &Cache,
    batch: &mut Batch<'_>,
    steps: &Steps,
    open: impl Fn() -> Result<Vec<Root>, StoreError>,
) -> Result<Scanned, StoreError> {
    let mut last: Option<Scanned> = None;
    let mut culprit = component.component.clone();
    for _ in 0..WALKS_MAX {
        // Opened anew: a deploy may put another directory into the place of the first.
        let roots = open()?;
        let now = set(component, &roots, cache, Read::Changed, Keep::Everything(&mut *batch))?;
        steps.reach("snapshot: walked")?;
        match (&now.unsettled, &last) {
            (Some(path), _) => culprit.clone_from(path),
            (None, Some(last)) if last.manifest == now.manifest && last.unsettled.is_none() => {
                return Ok(now);
            }
            (None, Some(last)) => {
                let changes = super::compare::sets(component, &last.manifest, &now.manifest);
                if let Some(first) = changes.first() {
                    culprit.clone_from(&first.path);
                }
            }
            (None, None) => {}
        }
        last = Some(now);
    }
    Err(StoreError::Changing { path: culprit })
}

/// One walk over one part.
struct Walk<'w, 'o> {
    part: &'w Part,
    excluded: HashSet<&'w [u8]>,
    cache: &'w Cache,
    read: Read,
    batch: Option<&'w mut Batch<'o>>,
    entries: Vec<Entry>,
    scanned: &'w mut Scanned,
}

impl Walk<'_, '_> {
    fn part(&mut self, root: &Root) -> Result<(), StoreError> {
        match root {
            Root::Absent => Ok(()),
            Root::Tree(dir) => self.tree(dir, Vec::new(), 0),
            Root::File(dir, name) => {
                let Some(stat) = dir.stat(name)? else { return Ok(()) };
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    return Err(StoreError::Unfit {
                        path: dir.at(name),
                        what: "a directory although it is declared as a file".to_owned(),
                        mend: "declare it as a tree",
                    });
                }
                self.leaf(dir, name, &stat, Vec::new())
            }
        }
    }

    fn tree(&mut self, dir: &Dir, rel: Vec<u8>, depth: usize) -> Result<(), StoreError> {
        if depth > DEPTH_MAX || rel.len() > PATH_BYTES_MAX {
            return Err(StoreError::Unfit {
                path: dir.at(b""),
                what: format!("deeper than {DEPTH_MAX} levels or {PATH_BYTES_MAX} bytes"),
                mend: "remove it, or declare it under `keep`",
            });
        }
        let meta = meta::of_open(dir, &dir.own_stat()?, &dir.at(b""))?;
        self.entries.push(Entry { path: rel.clone(), meta, kind: Kind::Dir });
        for name in dir.names()? {
            let path =
                if rel.is_empty() { name.clone() } else { [&rel, name.as_slice()].join(&b'/') };
            if self.excluded.contains(path.as_slice()) {
                continue;
            }
            if name == STAGING.as_bytes() {
                return Err(StoreError::Unfit {
                    path: dir.at(&name),
                    what: format!("named `{STAGING}`"),
                    mend: "that name is for what stands beside a live tree; rename or remove it",
                });
            }
            let Some(stat) = dir.stat(&name)? else {
                self.unsettled(dir.at(&name));
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                self.leaf(dir, &name, &stat, path)?;
                continue;
            }
            match dir.dir_if_there(&name)? {
                Some(below) => self.tree(&below, path, depth + 1)?,
                None => self.unsettled(dir.at(&name)),
            }
        }
        Ok(())
    }

    fn leaf(
        &mut self,
        dir: &Dir,
        name: &[u8],
        stat: &Stat,
        path: Vec<u8>,
    ) -> Result<(), StoreError> {
        let entry = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.file(dir, name, path)?,
            FileType::Symlink => {
                let meta = meta::of_link(dir, name, stat)?;
                Some(Entry { path, meta, kind: Kind::Link { target: dir.read_link(name)? } })
            }
            FileType::Socket
            | FileType::Fifo
            | FileType::BlockDevice
            | FileType::CharacterDevice
            | FileType::Directory
            | FileType::Unknown => {
                self.scanned.skipped.push(self.part.shown_below(&path));
                None
            }
        };
        self.entries.extend(entry);
        Ok(())
    }

    /// None, and unsettled, where it no longer is a file.
    fn file(&mut self, dir: &Dir, name: &[u8], path: Vec<u8>) -> Result<Option<Entry>, StoreError> {
        let at = dir.at(name);
        let mut reads = 0;
        loop {
            reads += 1;
            let mut file = match dir.file_if_there(name) {
                Ok(Some(file)) => file,
                Ok(None) | Err(StoreError::Link { .. }) => {
                    self.unsettled(at);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            let before = meta::stat_of(&file, &at)?;
            if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
                self.unsettled(at);
                return Ok(None);
            }
            let (size_bytes, hash) = match self.known(&before)? {
                Some(known) => known,
                None => self.read(&mut file, &at, &before)?,
            };
            let meta = meta::of_open(&file, &before, &at)?;
            let after = meta::stat_of(&file, &at)?;
            let same = meta::ctime(&before) == meta::ctime(&after)
                && meta::mtime(&before) == meta::mtime(&after)
                && before.st_size == after.st_size
                && u64::try_from(before.st_size) == Ok(size_bytes);
            if !same && reads < READS_MAX {
                continue;
            }
            if !same {
                self.unsettled(at);
            }
            return Ok(Some(Entry { path, meta, kind: Kind::File { size_bytes, hash } }));
        }
    }

    /// Size and hash of a file that need not be read.
    fn known(&self, stat: &Stat) -> Result<Option<(u64, Hash)>, StoreError> {
        let hash = match self.read {
            Read::Changed => self.cache.hash(stat),
            Read::Everything => None,
        };
        let (Some(hash), Ok(size_bytes)) = (hash, u64::try_from(stat.st_size)) else {
            return Ok(None);
        };
        let stored = match &self.batch {
            Some(batch) => batch.holds(hash, size_bytes)?,
            None => true,
        };
        Ok(stored.then_some((size_bytes, hash)))
    }

    fn read(
        &mut self,
        file: &mut std::fs::File,
        at: &str,
        before: &Stat,
    ) -> Result<(u64, Hash), StoreError> {
        let began = SystemTime::now();
        let (size_bytes, hash) = match &mut self.batch {
            Some(batch) => batch.put(file, at)?,
            None => hash_through(file, at, |_| Ok(()))?,
        };
        if u64::try_from(before.st_size) == Ok(size_bytes) {
            self.cache.remember(before, hash, began);
        }
        Ok((size_bytes, hash))
    }

    fn unsettled(&mut self, path: String) {
        self.scanned.unsettled.get_or_insert(path);
    }
}

pub(super) fn site_root(site: &Site<'_>, place: Place) -> Result<Root, StoreError> {
    let name = match place {
        Place::Live => site.part.name.clone(),
        Place::Staged(exact) => site.part.staged_name(exact),
        Place::Building(exact) => site.part.building_name(exact),
    };
    let holder = match (place, &site.staging) {
        (Place::Live, _) => &site.parent,
        (Place::Staged(_) | Place::Building(_), Some(staging)) => staging,
        (Place::Staged(_) | Place::Building(_), None) => return Ok(Root::Absent),
    };
    let tree = match (&site.part.kind, place) {
        (PartKind::File | PartKind::Inner { .. }, _) => {
            return Ok(Root::File(holder.dir(b"")?, name));
        }
        (PartKind::Tree { .. }, Place::Building(_)) => holder.dir_if_there(&name)?,
        (PartKind::Tree { .. }, Place::Live | Place::Staged(_)) => site.tree(holder, &name)?,
    };
    match (tree, place) {
        (Some(tree), _) => Ok(Root::Tree(tree)),
        (None, Place::Staged(_) | Place::Building(_)) => Ok(Root::Absent),
        (None, Place::Live) if site.part.may_be_absent() => Ok(Root::Absent),
        (None, Place::Live) => Err(StoreError::Open {
            path: shown(&[holder.path().as_os_str().as_encoded_bytes(), &name].join(&b'/')),
            source: std::io::ErrorKind::NotFound.into(),
        }),
    }
}

fn excluded(part: &Part) -> HashSet<&[u8]> {
    match &part.kind {
        PartKind::Tree { keep, inner, .. } => keep.iter().chain(inner).map(Vec::as_slice).collect(),
        PartKind::File | PartKind::Inner { .. } => HashSet::new(),
    }
}
