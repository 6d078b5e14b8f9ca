//! Builds a tree or a single file from a manifest and the store's objects.
//!
//! ```text
//! objects ──reflink, else copy──▶ new files (0600) ──owner, xattrs, mode, times──▶ other names of them, linked
//!   ──▶ directories: owner, xattrs, mode, times, leaves first
//! ```
//!
//! Invariant: writes only into files that it has just created; none of them is another name of an object or of anything
//! live: a file is linked only to names in the tree that is being built.
//! Invariant: every byte that was written, or cloned, is hashed; what is not what the manifest says ends the build.

use std::{
    fs::File,
    io::Seek as _,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    change::{Change, Leaf},
    dir::{self, Dir},
    error::{Damage, StoreError, shown},
    hash::Hash,
    manifest::{Entry, Kind, Manifest},
    meta,
    objects::{Copy, Object, Objects, has_holes, hash_through, sync_file},
    records::Records,
    workers,
};

/// Builds parts of one snapshot.
#[derive(Debug)]
pub(super) struct Builder<'a> {
    pub(super) objects: &'a Objects,
    pub(super) records: &'a Records,
    pub(super) component: &'a str,
    pub(super) exact: Hash,
    /// Work that nobody waits for ends as soon as somebody does.
    pub(super) yields_to: Option<&'a AtomicUsize>,
}

impl Builder<'_> {
    /// Builds a tree at a name that must be free, with the single files that belong into it.
    pub(super) fn tree(
        &self,
        holder: &Dir,
        name: &[u8],
        manifest: &Manifest,
        inner: &[(&[u8], &Manifest)],
    ) -> Result<(), StoreError> {
        holder.make_dir(name)?;
        let root = holder.dir(name)?;
        let (mut places, mut names) = (Vec::new(), Vec::new());
        for entry in manifest.entries.iter().filter(|entry| !entry.path.is_empty()) {
            match &entry.kind {
                Kind::Dir => {
                    let (above, name) = root.parent_of(&entry.path)?;
                    above.make_dir(name)?;
                }
                Kind::File { .. } | Kind::Link { .. } => {
                    places.push((entry.path.as_slice(), entry));
                }
                Kind::Same { .. } => {
                    names.push((entry.path.as_slice(), entry));
                }
            }
        }
        for (rel, manifest) in inner {
            places.extend(manifest.entries.first().map(|entry| (*rel, entry)));
        }
        self.leaves(&root, &places)?;
        self.leaves(&root, &names)?;
        finish_dirs(&root, manifest, |_| true)
    }

    /// Makes an old tree, of which every path is known, the wanted one; what is the same in both is not touched.
    pub(super) fn change(
        &self,
        root: &Dir,
        change: &Change<'_>,
        manifest: &Manifest,
    ) -> Result<(), StoreError> {
        let gone = dir::grouped(change.gone.iter().copied(), |path| path);
        let each = |(): &mut (), job: Vec<&[u8]>, _: &mut Vec<_>| {
            let Some(first) = job.first() else { return Ok(()) };
            let (above, _) = root.parent_of(first)?;
            job.iter().try_for_each(|path| above.unlink(dir::split(path).1))
        };
        workers::share(gone, || (), each)?;
        for path in change.gone_dirs.iter().rev() {
            let (above, name) = root.parent_of(path)?;
            above.remove_dir(name)?;
        }
        for path in &change.made_dirs {
            let (above, name) = root.parent_of(path)?;
            above.make_dir(name)?;
        }
        self.leaves(root, &change.made)?;
        self.leaves(root, &change.named)?;
        finish_dirs(root, manifest, |path| change.touched.contains(path))
    }

    /// Builds files and links, or other names of files, whose directories and first names are there.
    fn leaves(&self, root: &Dir, places: &[Leaf<'_>]) -> Result<(), StoreError> {
        let jobs = dir::grouped(places.iter().copied(), |(path, _)| path);
        let each = |(): &mut (), job: Vec<Leaf<'_>>, _: &mut Vec<_>| {
            let Some((first, _)) = job.first() else { return Ok(()) };
            if self.yields_to.is_some_and(|waiting| waiting.load(Ordering::Relaxed) > 0) {
                return Err(StoreError::Yielded { component: self.component.to_owned() });
            }
            let (above, _) = root.parent_of(first)?;
            for (path, entry) in job {
                let name = dir::split(path).1;
                if let Kind::Same { as_path } = &entry.kind {
                    let (holder, first) = root.parent_of(as_path)?;
                    holder.link(first, &above, name)?;
                } else {
                    self.leaf(&above, name, entry)?;
                }
            }
            Ok(())
        };
        workers::share(jobs, || (), each)?;
        Ok(())
    }

    /// Builds a single file at a name that must be free, and makes it durable. An absent one builds nothing.
    pub(super) fn file(
        &self,
        holder: &Dir,
        name: &[u8],
        manifest: &Manifest,
    ) -> Result<(), StoreError> {
        let Some(entry) = manifest.entries.first() else { return Ok(()) };
        if let Some(file) = self.leaf(holder, name, entry)? {
            sync_file(&file, &holder.at(name))?;
        }
        Ok(())
    }

    fn leaf(&self, dir: &Dir, name: &[u8], entry: &Entry) -> Result<Option<File>, StoreError> {
        match &entry.kind {
            Kind::Dir => Err(StoreError::Unfit {
                path: dir.at(name),
                what: "a directory in the snapshot although it is declared as a file".to_owned(),
                mend: "declare it as a tree and take a new snapshot",
            }),
            Kind::Same { .. } => Err(StoreError::Unfit {
                path: dir.at(name),
                what: "another name of a file in the snapshot although it is declared by itself"
                    .to_owned(),
                mend: "take a new snapshot",
            }),
            Kind::Link { target } => {
                dir.symlink(target, name)?;
                meta::apply_to_link(dir, name, &entry.meta)?;
                Ok(None)
            }
            Kind::File { size_bytes, hash } => {
                let mut file = dir.create(name)?;
                self.fill(&mut file, &dir.at(name), entry, *size_bytes, *hash)?;
                meta::apply(&file, &entry.meta, &dir.at(name))?;
                Ok(Some(file))
            }
        }
    }

    /// Gives a new file the bytes of an object.
    fn fill(
        &self,
        file: &mut File,
        at: &str,
        entry: &Entry,
        size_bytes: u64,
        hash: Hash,
    ) -> Result<(), StoreError> {
        let object = self.objects.at(hash);
        let Some(bytes) = self.objects.open(hash)? else {
            return Err(self.damaged(entry, &object, "is missing"));
        };
        let failed = |source| StoreError::Write { path: at.to_owned(), source };
        let (cloned, holes) = match &bytes {
            Object::Packed(_) | Object::Squeezed(..) | Object::Broken => (false, false),
            // It fails on another filesystem, or one that cannot share blocks.
            Object::Own(own) => (
                rustix::fs::ioctl_ficlone(&*file, own).is_ok(),
                has_holes(own, size_bytes, &object)?,
            ),
        };
        let written = if cloned {
            file.rewind().map_err(failed)?;
            hash_through(file, at, |_| Ok(()))?
        } else {
            let mut copy = Copy::new(file, holes);
            let written = bytes.read(&object, |chunk| copy.write(chunk).map_err(failed))?;
            copy.end().map_err(failed)?;
            written
        };
        if written == (size_bytes, hash) {
            return Ok(());
        }
        let damage = self.damaged(entry, &object, "no longer has the bytes of its name");
        if let StoreError::Damaged(damage) = &damage {
            self.records.set_damage(self.component, self.exact, Some(&damage.what))?;
        }
        self.objects.quarantine(hash)?;
        Err(damage)
    }

    fn damaged(&self, entry: &Entry, object: &str, how: &str) -> StoreError {
        StoreError::Damaged(Box::new(Damage {
            component: self.component.to_owned(),
            exact: self.exact,
            what: damaged_object(&entry.path, object, how),
        }))
    }
}

/// Gives directories what the manifest says of them. Leaves first: making an entry changes its directory's time, and a
/// closed directory cannot be entered.
fn finish_dirs(
    root: &Dir,
    manifest: &Manifest,
    which: impl Fn(&[u8]) -> bool,
) -> Result<(), StoreError> {
    for entry in manifest.entries.iter().rev() {
        if matches!(entry.kind, Kind::Dir) && which(&entry.path) {
            let dir = root.dir(&entry.path)?;
            meta::apply(&dir, &entry.meta, &dir.at(b""))?;
        }
    }
    Ok(())
}

/// What is said of an object that cannot be used.
pub(super) fn damaged_object(path: &[u8], object: &str, how: &str) -> String {
    if path.is_empty() {
        return format!("object {object} of a single file {how}");
    }
    format!("object {object} of `{}` {how}", shown(path))
}
