//! One walk over a component's trees and files, by several threads.
//!
//! ```text
//! Root per part ──▶ jobs: a directory, or a file that must be read ──▶ workers ──▶ entries per part, sorted
//!                          │ a file that the stat cache knows costs one `fstatat`, nothing else
//!                          └ each directory is opened by one name below the handle of the one above it
//! ```
//!
//! Which bytes are read: those of every file whose device, inode, size, mtime or ctime is not the one that it was last
//! read with, and of every file that is too young to tell. That is enough because the kernel stamps every change of
//! bytes, mode, owner or attributes into ctime, which nobody but root can set (by the clock) or get round (by the disk).
//!
//! A file with several names is looked at by each of them; those that lie in one part are brought together at the end.
//!
//! Invariant: nothing but regular files is opened for reading; sockets, fifos and devices are listed and passed over.

use std::{collections::HashSet, sync::Arc, time::SystemTime};

use rustix::fs::{FileType, Stat};

use super::{
    cache::Cache,
    dir::{self, Dir},
    error::StoreError,
    learn::Watch,
    manifest::{Entry, Kind, Manifest, Meta, SetManifest},
    meta,
    objects::{Batch, has_holes, hash_through},
    scan::{Read, Root, Scanned},
    set::{Part, PartKind, STAGING, Set},
    workers,
};

/// How often a file that changes under the reader is read.
const READS_MAX: u32 = 3;
const DEPTH_MAX: usize = 256;
/// What the kernel takes as one path, less what stands before it.
const PATH_BYTES_MAX: usize = 3800;

/// What all workers share.
pub(super) struct Walk<'w> {
    pub(super) set: &'w Set,
    pub(super) cache: &'w Cache,
    pub(super) read: Read,
    /// Where the bytes of a part go, by the part's index; none: nowhere.
    pub(super) batches: Vec<Option<&'w Batch<'w>>>,
    /// Told of every file and link that is come by.
    pub(super) watch: Option<&'w Watch<'w>>,
}

/// Something to look at.
enum Job {
    Dir { part: usize, dir: Below, rel: Vec<u8>, depth: usize },
    File { part: usize, dir: Arc<Dir>, name: Vec<u8>, path: Vec<u8> },
}

/// A directory that is open, or a name in one that is.
enum Below {
    Open(Arc<Dir>),
    Named(Arc<Dir>, Vec<u8>),
}

/// What one worker found.
struct Worker {
    entries: Vec<Vec<Entry>>,
    skipped: Vec<(usize, Vec<u8>)>,
    /// What may have other names: part, device and inode, path.
    linked: Vec<(usize, (u64, u64), Vec<u8>)>,
    unsettled: Option<String>,
}

impl Walk<'_> {
    /// Walks the roots, one per part.
    pub(super) fn run(
        &self,
        roots: &[Root],
        excluded: &[HashSet<&[u8]>],
    ) -> Result<Scanned, StoreError> {
        let mut alone = self.worker();
        let mut jobs = Vec::new();
        for (part, root) in roots.iter().enumerate() {
            match root {
                Root::Absent => {}
                Root::Tree(dir) => {
                    let dir = Below::Open(Arc::new(dir.dir(b"")?));
                    jobs.push(Job::Dir { part, dir, rel: Vec::new(), depth: 0 });
                }
                Root::File(dir, name) => self.single(&mut alone, part, dir, name)?,
            }
        }
        let each = |worker: &mut Worker, job, more: &mut Vec<Job>| match job {
            Job::Dir { part, dir, rel, depth } => {
                self.directory(worker, part, dir, rel, depth, &excluded[part], more)
            }
            Job::File { part, dir, name, path } => self.file(worker, part, &dir, &name, path),
        };
        let mut workers = if jobs.is_empty() {
            Vec::new()
        } else {
            workers::share(jobs, || self.worker(), each)?
        };
        workers.push(alone);
        Ok(self.gathered(workers))
    }

    /// Looks at some paths of a tree and nothing below them; what is not there is in nothing that it returns.
    pub(super) fn at(
        &self,
        part: usize,
        root: &Dir,
        paths: &[&[u8]],
    ) -> Result<Scanned, StoreError> {
        let jobs = dir::grouped(paths.iter().copied(), |path| path);
        let each = |worker: &mut Worker, job: Vec<&[u8]>, _: &mut Vec<_>| {
            let Some(first) = job.first() else { return Ok(()) };
            let (above, _) = root.parent_of(first)?;
            job.iter().try_for_each(|path| self.one(worker, part, &above, path))
        };
        Ok(self.gathered(workers::share(jobs, || self.worker(), each)?))
    }

    fn one(
        &self,
        worker: &mut Worker,
        part: usize,
        above: &Dir,
        path: &[u8],
    ) -> Result<(), StoreError> {
        let (_, name) = dir::split(path);
        let stat = if path.is_empty() { Some(above.own_stat()?) } else { above.stat(name)? };
        let Some(stat) = stat else { return Ok(()) };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let dir = above.dir(name)?;
                let meta = meta::of_open(&dir, &dir.own_stat()?, || dir.at(b""))?;
                worker.entries[part].push(Entry { path: path.to_vec(), meta, kind: Kind::Dir });
                Ok(())
            }
            FileType::RegularFile => self.file(worker, part, above, name, path.to_vec()),
            FileType::Symlink
            | FileType::Socket
            | FileType::Fifo
            | FileType::BlockDevice
            | FileType::CharacterDevice
            | FileType::Unknown => self.special(worker, part, above, name, &stat, path.to_vec()),
        }
    }

    fn worker(&self) -> Worker {
        let entries = self.set.parts.iter().map(|_| Vec::new()).collect();
        Worker { entries, skipped: Vec::new(), linked: Vec::new(), unsettled: None }
    }

    fn gathered(&self, workers: Vec<Worker>) -> Scanned {
        let mut parts: Vec<Vec<Entry>> = self.set.parts.iter().map(|_| Vec::new()).collect();
        let (mut skipped, mut linked, mut unsettled) = (Vec::new(), Vec::new(), None);
        for worker in workers {
            for (part, mut entries) in parts.iter_mut().zip(worker.entries) {
                part.append(&mut entries);
            }
            skipped.extend(worker.skipped);
            linked.extend(worker.linked);
            unsettled = unsettled.or(worker.unsettled);
        }
        for entries in &mut parts {
            entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        }
        linked.sort_unstable();
        for names in linked.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let Some(((part, _, first), others)) = names.split_first() else { continue };
            for (_, _, other) in others {
                if !same_file(&mut parts[*part], first, other) {
                    unsettled.get_or_insert_with(|| self.set.parts[*part].shown_below(other));
                }
            }
        }
        skipped.sort_unstable();
        let skipped = skipped.iter().map(|(part, path)| self.set.parts[*part].shown_below(path));
        Scanned {
            skipped: skipped.collect(),
            manifest: SetManifest {
                parts: parts.into_iter().map(|entries| Manifest { entries }).collect(),
            },
            unsettled,
        }
    }

    fn single(
        &self,
        worker: &mut Worker,
        part: usize,
        dir: &Dir,
        name: &[u8],
    ) -> Result<(), StoreError> {
        let Some(stat) = dir.stat(name)? else { return Ok(()) };
        self.come_by(dir, name, &stat)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Err(StoreError::Unfit {
                path: dir.at(name),
                what: "a directory although it is declared as a file".to_owned(),
                mend: "declare it as a tree",
            }),
            FileType::RegularFile => self.file(worker, part, dir, name, Vec::new()),
            FileType::Symlink
            | FileType::Socket
            | FileType::Fifo
            | FileType::BlockDevice
            | FileType::CharacterDevice
            | FileType::Unknown => self.special(worker, part, dir, name, &stat, Vec::new()),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a job taken apart")]
    fn directory(
        &self,
        worker: &mut Worker,
        part: usize,
        below: Below,
        rel: Vec<u8>,
        depth: usize,
        excluded: &HashSet<&[u8]>,
        more: &mut Vec<Job>,
    ) -> Result<(), StoreError> {
        let dir = match below {
            Below::Open(dir) => dir,
            Below::Named(above, name) => match above.dir_if_there(&name)? {
                Some(dir) => Arc::new(dir),
                None => {
                    worker.unsettled(above.at(&name));
                    return Ok(());
                }
            },
        };
        if depth > DEPTH_MAX || rel.len() > PATH_BYTES_MAX {
            return Err(StoreError::Unfit {
                path: dir.at(b""),
                what: format!("deeper than {DEPTH_MAX} levels or {PATH_BYTES_MAX} bytes"),
                mend: "remove it, or declare it under `keep`",
            });
        }
        let meta = meta::of_open(&*dir, &dir.own_stat()?, || dir.at(b""))?;
        for name in dir.names()? {
            let path =
                if rel.is_empty() { name.clone() } else { [&rel, name.as_slice()].join(&b'/') };
            if excluded.contains(path.as_slice()) {
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
                worker.unsettled(dir.at(&name));
                continue;
            };
            self.come_by(&dir, &name, &stat)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let dir = Below::Named(Arc::clone(&dir), name);
                    more.push(Job::Dir { part, dir, rel: path, depth: depth + 1 });
                }
                FileType::RegularFile => match self.known(part, &stat)? {
                    Some((kind, meta)) => worker.found(part, &stat, Entry { path, meta, kind }),
                    None => more.push(Job::File { part, dir: Arc::clone(&dir), name, path }),
                },
                FileType::Symlink
                | FileType::Socket
                | FileType::Fifo
                | FileType::BlockDevice
                | FileType::CharacterDevice
                | FileType::Unknown => self.special(worker, part, &dir, &name, &stat, path)?,
            }
        }
        worker.entries[part].push(Entry { path: rel, meta, kind: Kind::Dir });
        Ok(())
    }

    /// What is neither a directory nor a regular file.
    fn special(
        &self,
        worker: &mut Worker,
        part: usize,
        dir: &Dir,
        name: &[u8],
        stat: &Stat,
        path: Vec<u8>,
    ) -> Result<(), StoreError> {
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let meta = meta::of_link(dir, name, stat)?;
            let kind = Kind::Link { target: dir.read_link(name)? };
            worker.entries[part].push(Entry { path, meta, kind });
        } else {
            worker.skipped.push((part, path));
        }
        Ok(())
    }

    /// Reads a file. It is unsettled, and no entry, where it no longer is one.
    fn file(
        &self,
        worker: &mut Worker,
        part: usize,
        dir: &Dir,
        name: &[u8],
        path: Vec<u8>,
    ) -> Result<(), StoreError> {
        let at = dir.at(name);
        let mut reads = 0;
        loop {
            reads += 1;
            let mut file = match dir.file_if_there(name) {
                Ok(Some(file)) => file,
                Ok(None) | Err(StoreError::Link { .. }) => {
                    worker.unsettled(at);
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let before = meta::stat_of(&file, &at)?;
            if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
                worker.unsettled(at);
                return Ok(());
            }
            if let Some((kind, meta)) = self.known(part, &before)? {
                worker.found(part, &before, Entry { path, meta, kind });
                return Ok(());
            }
            let began = SystemTime::now();
            let holes = has_holes(&file, u64::try_from(before.st_size).unwrap_or_default(), &at)?;
            let (size_bytes, hash) = match self.batches[part] {
                Some(batch) => batch.put(&mut file, &before, holes, &at)?,
                None => hash_through(&mut file, &at, |_| Ok(()))?,
            };
            let meta = meta::of_open(&file, &before, || at.clone())?;
            let after = meta::stat_of(&file, &at)?;
            let same = meta::ctime(&before) == meta::ctime(&after)
                && meta::mtime(&before) == meta::mtime(&after)
                && before.st_size == after.st_size
                && u64::try_from(before.st_size) == Ok(size_bytes);
            if same {
                self.cache.remember(&before, hash, holes, &meta.xattrs, began);
            } else if reads < READS_MAX {
                continue;
            } else {
                worker.unsettled(at);
            }
            let kind = Kind::File { size_bytes, hash };
            worker.found(part, &before, Entry { path, meta, kind });
            return Ok(());
        }
    }

    fn come_by(&self, dir: &Dir, name: &[u8], stat: &Stat) -> Result<(), StoreError> {
        match self.watch {
            Some(watch) => watch.come_by(&self.set.component, stat, || dir.at(name)),
            None => Ok(()),
        }
    }

    /// What is known of a file that need not be read.
    fn known(&self, part: usize, stat: &Stat) -> Result<Option<(Kind, Meta)>, StoreError> {
        let seen = match self.read {
            Read::Changed => self.cache.seen(stat),
            Read::Everything => None,
        };
        let (Some((hash, holes, xattrs)), Ok(size_bytes)) = (seen, u64::try_from(stat.st_size))
        else {
            return Ok(None);
        };
        let stored = match self.batches[part] {
            Some(batch) => batch.holds(hash, size_bytes, holes)?,
            None => true,
        };
        Ok(stored.then(|| (Kind::File { size_bytes, hash }, meta::from_stat(stat, xattrs))))
    }
}

impl Worker {
    fn found(&mut self, part: usize, stat: &Stat, file: Entry) {
        if stat.st_nlink > 1 {
            self.linked.push((part, (stat.st_dev, stat.st_ino), file.path.clone()));
        }
        self.entries[part].push(file);
    }

    fn unsettled(&mut self, path: String) {
        self.unsettled.get_or_insert(path);
    }
}

/// Makes `other` another name of `first`. False where the two are not as one file is: it changed in between.
fn same_file(entries: &mut [Entry], first: &[u8], other: &[u8]) -> bool {
    let at = |path: &[u8]| entries.binary_search_by(|entry| entry.path.as_slice().cmp(path));
    let (Ok(first), Ok(other)) = (at(first), at(other)) else { return false };
    let as_path = entries[first].path.clone();
    if entries[first].kind != entries[other].kind || entries[first].meta != entries[other].meta {
        return false;
    }
    entries[other].kind = Kind::Same { as_path };
    true
}

/// The paths of each part that do not belong to its manifest.
pub(super) fn excluded(set: &Set) -> Vec<HashSet<&[u8]>> {
    set.parts.iter().map(excluded_of).collect()
}

fn excluded_of(part: &Part) -> HashSet<&[u8]> {
    match &part.kind {
        PartKind::Tree { keep, inner, .. } => keep.iter().chain(inner).map(Vec::as_slice).collect(),
        PartKind::File | PartKind::Inner { .. } => HashSet::new(),
    }
}
