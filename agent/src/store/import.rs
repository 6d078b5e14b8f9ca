//! A backup of before as a release: walked as if it stood where the policy says that the component lives.
//!
//! ```text
//! DIR                      ── stands for ──▶ the component's tree, without its `keep` paths
//! DIR/.env.production, …   ── stand for ───▶ its declared files       (Backup::files says where else they are)
//!           └── walk (confined, links as links) ──▶ owners as the live ones, where the backup is root's ──▶ record
//! ```
//!
//! Files of service managers that the backup does not have are taken as they are live: backups of an app seldom have
//! them, and a release without them would remove the units.
//!
//! Invariant: of what is declared nothing live is read but owner and mode, and nothing live is changed; what is live
//! stays on record as it was.
//! Invariant: a declared file that the backup does not have is refused: a release without it would remove the live one.
//! An artefact of a build is no backup: what it does not have of the host's own files stays as it is live.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::FileType;

use super::{
    Label, Store, dir,
    dir::Dir,
    error::{StoreError, shown_path},
    hash::Hash,
    privileged,
    scan::{self, Place, Root, Scanned},
    set::{ComponentFiles, PartKind, Set},
    snapshot::SnapshotInfo,
};

/// What a file of a backup may be called besides its own name: `.env.production.backup`.
const BACKUP_SUFFIX: &str = ".backup";
const PERMISSIONS: u32 = 0o7777;

/// A backup on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Stands for the component's tree. A link is followed once.
    pub from: PathBuf,
    /// Declared trees and files, and where in the backup they are.
    pub files: Vec<(PathBuf, PathBuf)>,
    pub owner: BackupOwner,
    /// A declared file may also stand beside `from`.
    pub beside: bool,
    pub role: Role,
}

/// What a backup that is imported is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A whole release of before: a declared file that it does not have is refused.
    Backup,
    /// What a build made: trees, each named in `files`, and seldom the host's own files. A declared file is taken from
    /// it only where it lies in a tree that has it, and is not one of `live_first` that is live; else it stays as it is
    /// live, or absent.
    Artefact { live_first: Vec<PathBuf> },
}

/// Whose the files of the release are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupOwner {
    /// As in the backup; but where all of it is root's, as the live ones: backups are made by root, apps are not run
    /// by it.
    Guess,
    Live,
    Found,
}

/// Where one part is taken from.
enum Source {
    /// In the backup, with no link on the way; no name for a tree.
    Backup { dir: PathBuf, name: Option<Vec<u8>> },
    /// A service manager's file that the backup does not have: as it is live.
    Live,
}

impl Store {
    /// Makes a backup a release of a component; answers what it took from where, too. The same again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Backup`] where it does not have what the policy declares, [`StoreError::ReleaseTaken`] where the
    /// name belongs to something else.
    pub fn import(
        &self,
        files: &ComponentFiles,
        backup: &Backup,
        label: Label,
    ) -> Result<(SnapshotInfo, Vec<String>), StoreError> {
        let mut set = Set::new(files)?;
        let mut notes = Vec::new();
        let sources = Finder { set: &set, backup }.sources(&mut notes)?;
        leave_out_what_stands_for_others(&mut set, &sources);
        let shared = self.shared(&set.component)?;
        let _busy = shared.enter();
        let sites = set.sites()?;
        let open = || {
            let mut roots = scan::roots(&set, &sites, Place::Live)?;
            for (root, source) in roots.iter_mut().zip(&sources) {
                if let Some(found) = source.open()? {
                    *root = found;
                }
            }
            Ok(roots)
        };
        let batch = self.objects.batch();
        let mut scanned = scan::settled(&set, &shared.cache, &batch, &self.steps, open)?;
        if let Some((part, rel, right)) = privileged::first(&set, &scanned.manifest) {
            let path = sources[part].shown_below(rel);
            let path = path.unwrap_or_else(|| set.parts[part].shown_below(rel));
            return Err(privileged::error(&set.parts[part], path, right));
        }
        notes.extend(take_owners(&set, &mut scanned, backup.owner)?);
        let info = self.name(&set, &scanned, batch, label)?;
        Ok((info, notes))
    }
}

impl Store {
    /// [`Store::import`]; none where the name belongs to something else.
    pub fn import_new(
        &self,
        files: &ComponentFiles,
        backup: &Backup,
        label: Label,
    ) -> Result<Option<(SnapshotInfo, Vec<String>)>, StoreError> {
        match self.import(files, backup, label) {
            Ok(imported) => Ok(Some(imported)),
            Err(StoreError::ReleaseTaken { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Which of these declared files are live with other bytes, or another link, than in a snapshot.
    pub fn singles_changed(
        &self,
        files: &ComponentFiles,
        exact: Hash,
        paths: &[PathBuf],
    ) -> Result<Vec<String>, StoreError> {
        let set = Set::new(files)?;
        let recorded = self.records.manifests(&self.known(&set, exact)?)?;
        let mut roots = scan::roots(&set, &set.sites()?, Place::Live)?;
        for (part, root) in set.parts.iter().zip(&mut roots) {
            if !paths.contains(&part.path) {
                *root = Root::Absent;
            }
        }
        let shared = self.shared(&set.component)?;
        let live =
            scan::set(&set, &roots, &shared.cache, scan::Read::Everything, scan::Keep::Nothing)?;
        let kind =
            |part: &super::manifest::Manifest| part.entries.first().map(|entry| entry.kind.clone());
        let rows = set.parts.iter().zip(recorded.parts.iter().zip(&live.manifest.parts));
        Ok(rows
            .filter(|(part, (then, now))| paths.contains(&part.path) && kind(then) != kind(now))
            .map(|(part, _)| part.shown())
            .collect())
    }
}

impl Source {
    /// None where it is what is live.
    fn open(&self) -> Result<Option<Root>, StoreError> {
        let Self::Backup { dir, name } = self else { return Ok(None) };
        let dir = Dir::open(dir)?;
        Ok(Some(match name {
            None => Root::Tree(dir),
            Some(name) => Root::File(dir, name.clone()),
        }))
    }

    /// How a path below it is shown; none where it is what is live.
    fn shown_below(&self, rel: &[u8]) -> Option<String> {
        let Self::Backup { dir, name } = self else { return None };
        let rel = name.as_deref().unwrap_or(rel);
        Some(shown_path(&dir.join(std::ffi::OsStr::from_bytes(rel))))
    }

    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Backup { dir, .. } => Some(dir),
            Self::Live => None,
        }
    }
}

/// Finds each part of a set in a backup.
struct Finder<'a> {
    set: &'a Set,
    backup: &'a Backup,
}

impl Finder<'_> {
    fn sources(&self, notes: &mut Vec<String>) -> Result<Vec<Source>, StoreError> {
        for (declared, _) in &self.backup.files {
            if !self.set.parts.iter().any(|part| part.path == *declared) {
                let parts: Vec<String> = self.set.parts.iter().map(|part| part.shown()).collect();
                return Err(self.refuse(format!(
                    "{} is not declared; the policy has {}",
                    shown_path(declared),
                    parts.join(", ")
                )));
            }
        }
        let from = real(&self.backup.from)?;
        let mut sources: Vec<Option<Source>> = self.set.parts.iter().map(|_| None).collect();
        for (index, part) in self.set.parts.iter().enumerate() {
            if let PartKind::Tree { .. } = part.kind {
                sources[index] = Some(match self.tree(index, &from)? {
                    Some(dir) => Source::Backup { dir, name: None },
                    None => Source::Live,
                });
            }
        }
        for (index, part) in self.set.parts.iter().enumerate() {
            let (base, rel) = match &part.kind {
                PartKind::Tree { .. } => continue,
                PartKind::File => (from.clone(), part.name.clone()),
                PartKind::Inner { tree, rel } => {
                    let tree = sources[*tree].as_ref().expect("trees were found first");
                    (tree.dir().unwrap_or(&from).to_owned(), rel.clone())
                }
            };
            sources[index] = Some(match self.file(index, &base, &rel)? {
                Some(path) => {
                    notes.push(format!("{} from {}", part.shown(), shown_path(&path)));
                    split(&path)?
                }
                None => Source::Live,
            });
        }
        let live = self
            .set
            .parts
            .iter()
            .zip(&sources)
            .filter(|(_, source)| matches!(source, Some(Source::Live)));
        notes.extend(live.map(|(part, _)| format!("{} as it is live", part.shown())));
        Ok(sources.into_iter().map(|source| source.expect("every part was found")).collect())
    }

    /// Where a tree is: named, or the backup itself where there is one tree, else a directory of its name in it. None for
    /// a service manager's that is not there.
    fn tree(&self, index: usize, from: &Path) -> Result<Option<PathBuf>, StoreError> {
        let part = &self.set.parts[index];
        if let Some(named) = self.named(index) {
            return real(named).map(Some);
        }
        let declared =
            |p: &&super::set::Part| matches!(p.kind, PartKind::Tree { .. }) && !p.of_manager;
        if self.set.parts.iter().filter(declared).count() == 1 && !part.of_manager {
            return Ok(Some(from.to_owned()));
        }
        let inside = from.join(std::ffi::OsStr::from_bytes(&part.name));
        if inside.is_dir() {
            return real(&inside).map(Some);
        }
        if part.of_manager {
            return Ok(None);
        }
        Err(self.refuse(format!(
            "the component has several trees, and there is no {}; name it: --file {}=DIR",
            shown_path(&inside),
            part.shown()
        )))
    }

    /// Where a declared file is: named, at its place in the backup, there as `….backup`, or beside it. None for a
    /// service manager's that is not there.
    fn file(&self, index: usize, base: &Path, rel: &[u8]) -> Result<Option<PathBuf>, StoreError> {
        let part = &self.set.parts[index];
        if let Role::Artefact { live_first } = &self.backup.role {
            let path = base.join(std::ffi::OsStr::from_bytes(rel));
            let inner = matches!(part.kind, PartKind::Inner { .. });
            let live = live_first.contains(&part.path) && is_file(&part.path);
            return Ok(Some(path).filter(|path| inner && !live && is_file(path)));
        }
        let at = |dir: &Path, rel: &[u8]| {
            let plain = dir.join(std::ffi::OsStr::from_bytes(rel));
            let mut suffixed = plain.clone().into_os_string();
            suffixed.push(BACKUP_SUFFIX);
            [plain, suffixed.into()]
        };
        if let Some(named) = self.named(index) {
            if is_file(named) {
                return Ok(Some(named.to_owned()));
            }
            return Err(self.refuse(format!("{} is no file", shown_path(named))));
        }
        let mut places = at(base, rel).to_vec();
        if let Some(above) = base.parent().filter(|_| self.backup.beside) {
            places.extend(at(above, dir::split(rel).1));
        }
        if let Some(found) = places.iter().find(|path| is_file(path)) {
            return Ok(Some(found.clone()));
        }
        if part.of_manager {
            return Ok(None);
        }
        Err(self.refuse(format!(
            "it does not have {}, and a release without it would remove the live one; name it: --file {}=FILE",
            part.shown(),
            part.shown()
        )))
    }

    fn named(&self, index: usize) -> Option<&Path> {
        let path = &self.set.parts[index].path;
        let mut rows = self.backup.files.iter();
        rows.find(|(declared, _)| declared == path).map(|(_, source)| source.as_path())
    }

    fn refuse(&self, why: String) -> StoreError {
        let component = self.set.component.clone();
        StoreError::Backup { component, path: shown_path(&self.backup.from), why }
    }
}

/// A file of the backup that stands for a declared one elsewhere is no file of the tree.
fn leave_out_what_stands_for_others(set: &mut Set, sources: &[Source]) {
    let files: Vec<PathBuf> = sources
        .iter()
        .filter_map(|source| match source {
            Source::Backup { dir, name } => {
                Some(dir.join(std::ffi::OsStr::from_bytes(name.as_ref()?)))
            }
            Source::Live => None,
        })
        .collect();
    for (part, source) in set.parts.iter_mut().zip(sources) {
        let PartKind::Tree { inner, .. } = &mut part.kind else { continue };
        let Some(dir) = source.dir() else { continue };
        for file in &files {
            let Ok(rel) = file.strip_prefix(dir) else { continue };
            let rel = rel.as_os_str().as_bytes().to_vec();
            if !inner.contains(&rel) {
                inner.push(rel);
            }
        }
    }
}

/// Gives the files the owners that the live ones have, where that is wanted; says so.
fn take_owners(
    set: &Set,
    scanned: &mut Scanned,
    owner: BackupOwner,
) -> Result<Vec<String>, StoreError> {
    let entries = || scanned.manifest.parts.iter().flat_map(|part| &part.entries);
    let roots = entries().all(|entry| entry.meta.uid == 0 && entry.meta.gid == 0);
    match owner {
        BackupOwner::Found => return Ok(Vec::new()),
        BackupOwner::Guess if !roots => return Ok(Vec::new()),
        BackupOwner::Guess | BackupOwner::Live => {}
    }
    let sites = set.sites()?;
    let live = match scan::roots(set, &sites, Place::Live) {
        Ok(live) => live,
        // There is nothing live to take it from.
        Err(StoreError::Open { .. }) if owner == BackupOwner::Guess => {
            return Ok(vec!["nothing is live: owners are as in the backup".to_owned()]);
        }
        Err(error) => return Err(error),
    };
    let mut stats = Vec::new();
    for root in &live {
        stats.push(match root {
            Root::Absent => None,
            Root::Tree(dir) => Some(dir.own_stat()?),
            Root::File(dir, name) => dir.stat(name)?,
        });
    }
    let mut notes = Vec::new();
    for (index, (part, manifest)) in set.parts.iter().zip(&mut scanned.manifest.parts).enumerate() {
        // A declared file that is not live is its tree's.
        let above = match part.kind {
            PartKind::Inner { tree, .. } => stats[tree],
            PartKind::Tree { .. } | PartKind::File => None,
        };
        let Some(stat) = stats[index].or(above) else { continue };
        let mode = stat.st_mode & PERMISSIONS;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let own_mode = stats[index].is_some() && !is_link;
        let mut changed = false;
        for entry in &mut manifest.entries {
            let before = entry.meta.clone();
            (entry.meta.uid, entry.meta.gid) = (stat.st_uid, stat.st_gid);
            // The root of a tree, and a single file: what others may do with it is the host's word too.
            if entry.path.is_empty() && own_mode {
                entry.meta.mode = mode;
            }
            changed |= before != entry.meta;
        }
        if changed {
            notes.push(format!(
                "{}: owner {}:{}{}, as the live one{}",
                part.shown(),
                stat.st_uid,
                stat.st_gid,
                if own_mode { format!(" and mode {mode:03o}") } else { String::new() },
                if roots { "; the whole backup is root's" } else { "" }
            ));
        }
    }
    Ok(notes)
}

/// A path without links in it. It is root who names it.
fn real(path: &Path) -> Result<PathBuf, StoreError> {
    path.canonicalize().map_err(|source| StoreError::Open { path: shown_path(path), source })
}

fn split(path: &Path) -> Result<Source, StoreError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        let source = std::io::ErrorKind::InvalidInput.into();
        return Err(StoreError::Open { path: shown_path(path), source });
    };
    Ok(Source::Backup { dir: real(parent)?, name: Some(name.as_bytes().to_vec()) })
}

/// A file, or a link as the live one may be one.
fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| !found.is_dir())
}
