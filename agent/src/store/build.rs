//! Builds a tree or a single file from a manifest and the store's objects.
//!
//! ```text
//! objects ──reflink, else copy──▶ new files (0600) ──owner, xattrs, mode, times──▶ directories the same, leaves first
//! ```
//!
//! Invariant: writes only into files and directories that it has just created, and nothing is ever hard-linked.
//! Invariant: every byte that was written, or cloned, is hashed; what is not what the manifest says ends the build.

use std::{fs::File, io::Seek};

use super::{
    dir::{self, Dir},
    error::{Damage, StoreError, shown},
    hash::Hash,
    manifest::{Entry, Kind, Manifest},
    meta,
    objects::{Copy, Object, Objects, file_has_holes, hash_through, sync_file},
    records::Records,
};

/// Builds parts of one snapshot.
#[derive(Debug)]
pub(super) struct Builder<'a> {
    pub(super) objects: &'a Objects,
    pub(super) records: &'a Records,
    pub(super) component: &'a str,
    pub(super) exact: Hash,
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
        // The last parent stays open: entries of one directory follow each other.
        let mut parent = (Vec::new(), holder.dir(name)?);
        for entry in manifest.entries.iter().filter(|entry| !entry.path.is_empty()) {
            let (above, name) = dir::split(&entry.path);
            if parent.0 != above {
                parent = (above.to_vec(), root.dir(above)?);
            }
            match &entry.kind {
                Kind::Dir => parent.1.make_dir(name)?,
                Kind::File { .. } | Kind::Link { .. } => {
                    self.leaf(&parent.1, name, entry)?;
                }
            }
        }
        for (rel, manifest) in inner {
            if let Some(entry) = manifest.entries.first() {
                let (dir, name) = root.parent_of(rel)?;
                self.leaf(&dir, name, entry)?;
            }
        }
        // Leaves first: making an entry changes its directory's time, and a closed directory cannot be entered.
        for entry in manifest.entries.iter().rev() {
            if matches!(entry.kind, Kind::Dir) {
                let dir = root.dir(&entry.path)?;
                meta::apply(&dir, &entry.meta, &dir.at(b""))?;
            }
        }
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
            Object::Packed(_) => (false, false),
            // It fails on another filesystem, or one that cannot share blocks.
            Object::Own(own) => {
                (rustix::fs::ioctl_ficlone(&*file, own).is_ok(), file_has_holes(own, &object)?)
            }
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

/// What is said of an object that cannot be used.
pub(super) fn damaged_object(path: &[u8], object: &str, how: &str) -> String {
    if path.is_empty() {
        return format!("object {object} of a single file {how}");
    }
    format!("object {object} of `{}` {how}", shown(path))
}
