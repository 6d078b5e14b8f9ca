//! A component's declared trees and files, checked so that they can be switched as one set.
//!
//! ```text
//! FilesPolicy…  ──Set::new──▶  Part 0: tree /var/www/ace-crm      keep uploads, logs
//!                              Part 1: file .env.production, inner of part 0
//!                              Part 2: file /etc/ace/app.conf     on its own
//!                    Sites::open ──▶ for each part that moves by itself: its parent and `<parent>/.lastgood`
//! ```
//!
//! Invariant: no two parts overlap, but for a single file inside a tree.
//! Invariant: `.lastgood` belongs to the agent's user, is closed to others, and lies outside every tree.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use proto::policy::{FilesPolicy, SwitchMode};
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use super::{
    dir::{self, Dir},
    error::{StoreError, shown, shown_path},
    hash::Hash,
    manifest,
};

/// Where staged and replaced trees stand, beside the live one.
pub const STAGING: &str = ".lastgood";
/// A file name has 255 bytes at most; a staged one is the live one's with at most 55 bytes around it.
const NAME_BYTES_MAX: usize = 200;

/// A component and the files that go back with it.
#[derive(Clone, Debug, PartialEq)]
pub struct ComponentFiles {
    pub component: String,
    pub files: Vec<FilesPolicy>,
    /// Those of its service managers. A tree of these may be absent, and be so in one release and not in another; of
    /// the component's own trees an absent one is a mistake.
    pub managers: Vec<FilesPolicy>,
}

/// [`ComponentFiles`] that can be switched as a set.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) component: String,
    pub(super) parts: Vec<Part>,
}

/// One declared tree or file.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) parent: PathBuf,
    pub(super) name: Vec<u8>,
    pub(super) kind: PartKind,
    /// It is a service manager's: not declared, and a backup of the app need not have it.
    pub(super) of_manager: bool,
}

#[derive(Debug)]
pub(super) enum PartKind {
    Tree {
        switch: SwitchMode,
        keep: Vec<Vec<u8>>,
        /// Its files may be set-uid, set-gid or have file capabilities.
        privileged: bool,
        /// Declared files below it: belong to the set, not to this tree's manifest.
        inner: Vec<Vec<u8>>,
    },
    File,
    /// A file below the tree `tree` (an index), at `rel` in it.
    Inner {
        tree: usize,
        rel: Vec<u8>,
    },
}

/// What a snapshot remembers of the policy that it was taken under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shape {
    pub(super) path: Vec<u8>,
    /// None for a file.
    pub(super) keep: Option<Vec<Vec<u8>>>,
}

impl Set {
    /// Checks the declaration.
    ///
    /// # Errors
    /// [`StoreError::Policy`] with what overlaps or cannot be a path of a release.
    pub(super) fn new(files: &ComponentFiles) -> Result<Self, StoreError> {
        let ComponentFiles { component, files, managers } = files;
        let refuse = |why: String| StoreError::Policy { component: component.clone(), why };
        if !is_component_name(component) {
            return Err(refuse("its name cannot be a file name".to_owned()));
        }
        let mut parts = Vec::new();
        let declared = files.iter().map(|files| (files, false));
        for (files, of_manager) in declared.chain(managers.iter().map(|files| (files, true))) {
            parts.push(Part::new(files, of_manager).map_err(refuse)?);
        }
        place_inner(&mut parts).map_err(refuse)?;
        refuse_overlaps(&parts).map_err(refuse)?;
        Ok(Self { component: component.clone(), parts })
    }

    /// What a snapshot of it remembers.
    pub(super) fn shapes(&self) -> Vec<Shape> {
        self.parts.iter().map(Part::shape).collect()
    }

    /// Opens the parents of every part that moves by itself, in the order of the parts.
    pub(super) fn sites(&self) -> Result<Vec<Site<'_>>, StoreError> {
        let mut sites = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            match part.kind {
                PartKind::Tree { .. } | PartKind::File => sites.push(Site::open(index, part)?),
                PartKind::Inner { .. } => {}
            }
        }
        Ok(sites)
    }
}

impl Part {
    fn new(declared: &FilesPolicy, of_manager: bool) -> Result<Self, String> {
        let (path, kind) = match declared {
            FilesPolicy::Tree(tree) => {
                let mut keep: Vec<Vec<u8>> =
                    tree.keep.iter().map(|keep| keep_path(keep)).collect::<Result<_, _>>()?;
                keep.sort_unstable();
                let (switch, inner) = (tree.switch, Vec::new());
                let privileged = tree.privileged_files;
                (&tree.tree, PartKind::Tree { switch, keep, privileged, inner })
            }
            FilesPolicy::File(file) => (&file.file, PartKind::File),
        };
        let plain = path.components().all(|component| match component {
            Component::RootDir => true,
            Component::Normal(name) => name != STAGING,
            Component::Prefix(_) | Component::CurDir | Component::ParentDir => false,
        });
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(format!("{} has no parent directory", shown_path(path)));
        };
        if !path.is_absolute() || !plain {
            return Err(format!(
                "{} is not a plain absolute path outside `{STAGING}`",
                shown_path(path)
            ));
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(format!("the name of {} is too long to stage", shown_path(path)));
        }
        Ok(Self {
            // Collected anew: a slash at the end or a doubled one is gone.
            path: path.components().collect(),
            parent: parent.components().collect(),
            name: name.as_bytes().to_vec(),
            kind,
            of_manager,
        })
    }

    /// The kept paths of a tree.
    pub(super) fn keep(&self) -> &[Vec<u8>] {
        match &self.kind {
            PartKind::Tree { keep, .. } => keep,
            PartKind::File | PartKind::Inner { .. } => &[],
        }
    }

    /// Whether there may be nothing at its path.
    pub(super) fn may_be_absent(&self) -> bool {
        match &self.kind {
            PartKind::Tree { .. } => self.of_manager,
            PartKind::File | PartKind::Inner { .. } => true,
        }
    }

    /// How it is shown.
    pub(super) fn shown(&self) -> String {
        shown_path(&self.path)
    }

    /// How a path below it is shown.
    pub(super) fn shown_below(&self, rel: &[u8]) -> String {
        if rel.is_empty() { self.shown() } else { format!("{}/{}", self.shown(), shown(rel)) }
    }

    /// The name under `.lastgood` at which it stands for a snapshot.
    pub(super) fn staged_name(&self, exact: Hash) -> Vec<u8> {
        self.name_with(&exact.short())
    }

    /// The name under `.lastgood` while it is being built.
    pub(super) fn building_name(&self, exact: Hash) -> Vec<u8> {
        self.name_with(&format!("{}.tmp", exact.short()))
    }

    /// A name under `.lastgood` for what is to be removed when there is time.
    pub(super) fn gone_name(&self, exact: Hash, number: u64) -> Vec<u8> {
        self.name_with(&format!("{}.gone-{number}", exact.short()))
    }

    /// Names under `.lastgood` that nothing else can have: two for a probe.
    pub(super) fn probe_names(&self) -> [Vec<u8>; 2] {
        ["probe-a", "probe-b"].map(|name| self.name_with(name))
    }

    /// Whether a name under `.lastgood` is a leftover of this part: half-built, or to be removed.
    pub(super) fn is_leftover(&self, name: &[u8]) -> bool {
        let rest = name.strip_prefix(self.name.as_slice()).and_then(|rest| rest.strip_prefix(b"."));
        let Some((id, rest)) = rest.and_then(|rest| rest.split_at_checked(16)) else {
            return false;
        };
        let rest = rest.strip_prefix(b".tmp").or_else(|| rest.strip_prefix(b".gone-"));
        id.iter().all(u8::is_ascii_hexdigit)
            && rest.is_some_and(|rest| rest.iter().all(|b| b.is_ascii_digit() || *b == b'.'))
    }

    /// Whether it is a leftover that is to be removed, and so no longer used.
    pub(super) fn is_gone(&self, name: &[u8]) -> bool {
        let rest = name.strip_prefix(self.name.as_slice()).unwrap_or_default();
        self.is_leftover(name) && rest.windows(6).any(|part| part == b".gone-")
    }

    fn name_with(&self, after: &str) -> Vec<u8> {
        [&self.name, b".".as_slice(), after.as_bytes()].concat()
    }

    fn shape(&self) -> Shape {
        let keep = match &self.kind {
            PartKind::Tree { keep, .. } => Some(keep.clone()),
            PartKind::File | PartKind::Inner { .. } => None,
        };
        Shape { path: self.path.as_os_str().as_bytes().to_vec(), keep }
    }
}

/// A part that moves by itself, with the directories that it moves in.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) index: usize,
    pub(super) part: &'a Part,
    pub(super) parent: Dir,
    /// None until something was staged here.
    pub(super) staging: Option<Dir>,
}

impl<'a> Site<'a> {
    pub(super) fn open(index: usize, part: &'a Part) -> Result<Self, StoreError> {
        let parent = Dir::open(&part.parent)?;
        let staging = parent.dir_if_there(STAGING.as_bytes())?;
        if let Some(staging) = &staging {
            refuse_foreign(staging)?;
        }
        Ok(Self { index, part, parent, staging })
    }

    /// `.lastgood`, made where it is missing.
    pub(super) fn ensure_staging(&mut self) -> Result<&Dir, StoreError> {
        if self.staging.is_none() {
            let staging = self.parent.ensure_dir(STAGING.as_bytes())?;
            refuse_foreign(&staging)?;
            self.staging = Some(staging);
        }
        self.staging()
    }

    /// `.lastgood`.
    pub(super) fn staging(&self) -> Result<&Dir, StoreError> {
        self.staging.as_ref().ok_or_else(|| StoreError::Open {
            path: self.parent.at(STAGING.as_bytes()),
            source: std::io::ErrorKind::NotFound.into(),
        })
    }

    /// How this tree takes the live one's place; single files are exchanged.
    pub(super) fn mode(&self) -> SwitchMode {
        match &self.part.kind {
            PartKind::Tree { switch, .. } => *switch,
            PartKind::File | PartKind::Inner { .. } => SwitchMode::Exchange,
        }
    }

    /// The tree that the name `name` in `holder` stands for: the directory itself, or with `switch: link` the
    /// one that the link says. None where nothing is there.
    pub(super) fn tree(&self, holder: &Dir, name: &[u8]) -> Result<Option<Dir>, StoreError> {
        match self.mode() {
            SwitchMode::Exchange => holder.dir_if_there(name),
            SwitchMode::Link => match holder.stat(name)? {
                None => Ok(None),
                Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                    self.parent.dir_if_there(&self.link_target(holder, name)?)
                }
                Some(_) => Err(StoreError::Unfit {
                    path: holder.at(name),
                    what: "not a link although it is declared with `switch: link`".to_owned(),
                    mend: "declare `switch: exchange`, or make it a link to the release's directory",
                }),
            },
        }
    }

    /// Where a release link leads, relative to the parent of the live link; never out of it.
    pub(super) fn link_target(&self, holder: &Dir, name: &[u8]) -> Result<Vec<u8>, StoreError> {
        let text = holder.read_link(name)?;
        let parent = self.part.parent.as_os_str().as_bytes();
        let below = match text.strip_prefix(parent) {
            Some(rest) if rest.starts_with(b"/") => &rest[1..],
            Some(_) | None => &text,
        };
        let below = below.strip_suffix(b"/").unwrap_or(below);
        let below = below.strip_prefix(b"./").unwrap_or(below);
        if manifest::is_relative(below) && !dir::split(below).0.starts_with(STAGING.as_bytes()) {
            return Ok(below.to_vec());
        }
        Err(StoreError::Unfit {
            path: holder.at(name),
            what: format!("a link that leads out of {}", shown_path(&self.part.parent)),
            mend: "keep the releases beside or below the link",
        })
    }
}

/// Whether any part of a snapshot stands beside the live one.
pub(super) fn stands(sites: &[Site<'_>], exact: Hash) -> Result<bool, StoreError> {
    for site in sites {
        let Some(staging) = &site.staging else { continue };
        if staging.stat(&site.part.staged_name(exact))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a name can be a file name in the state directory.
pub(super) fn is_component_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && manifest::is_relative(name.as_bytes()) && !name.contains('/')
}

fn keep_path(keep: &Path) -> Result<Vec<u8>, String> {
    let plain: PathBuf = keep.components().collect();
    let bytes = plain.as_os_str().as_bytes();
    if manifest::is_relative(bytes) {
        return Ok(bytes.to_vec());
    }
    Err(format!("`keep: {}` is not a path below its tree", shown_path(keep)))
}

/// Finds the files that lie below a tree.
fn place_inner(parts: &mut [Part]) -> Result<(), String> {
    for index in 0..parts.len() {
        if !matches!(parts[index].kind, PartKind::File) {
            continue;
        }
        let path = parts[index].path.clone();
        let found = parts.iter().enumerate().find_map(|(tree, part)| match &part.kind {
            PartKind::Tree { .. } => {
                let rel = path.strip_prefix(&part.path).ok()?;
                Some((tree, rel.as_os_str().as_bytes().to_vec()))
            }
            PartKind::File | PartKind::Inner { .. } => None,
        });
        let Some((tree, rel)) = found else { continue };
        if rel.is_empty() {
            return Err(format!("{} is declared as a tree and as a file", shown_path(&path)));
        }
        if let PartKind::Tree { keep, inner, .. } = &mut parts[tree].kind {
            if let Some(keep) = keep.iter().find(|keep| overlap(keep, &rel)) {
                return Err(format!(
                    "{} cannot go back with the release and live across releases under `keep: {}`",
                    shown_path(&path),
                    shown(keep)
                ));
            }
            inner.push(rel.clone());
        }
        parts[index].kind = PartKind::Inner { tree, rel };
    }
    Ok(())
}

fn refuse_overlaps(parts: &[Part]) -> Result<(), String> {
    for (index, part) in parts.iter().enumerate() {
        for other in &parts[..index] {
            let (a, b) = (part.path.as_os_str().as_bytes(), other.path.as_os_str().as_bytes());
            let nested = match (&part.kind, &other.kind) {
                (PartKind::Tree { .. }, PartKind::Tree { .. }) => overlap(a, b),
                _ => a == b,
            };
            if nested {
                return Err(format!("{} and {} overlap", part.shown(), other.shown()));
            }
        }
        let keep = part.keep();
        for (index, one) in keep.iter().enumerate() {
            if let Some(other) = keep[..index].iter().find(|other| overlap(one, other)) {
                return Err(format!(
                    "`keep` names {} and {} in {}; name only the outer one",
                    shown(other),
                    shown(one),
                    part.shown()
                ));
            }
        }
    }
    Ok(())
}

/// Whether one path is the other or lies below it.
fn overlap(a: &[u8], b: &[u8]) -> bool {
    let below = |long: &[u8], short: &[u8]| {
        long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    below(a, b) || below(b, a)
}

/// A staging directory that somebody else made could hold anything.
fn refuse_foreign(staging: &Dir) -> Result<(), StoreError> {
    let stat = staging.own_stat()?;
    let own = stat.st_uid == rustix::process::geteuid().as_raw();
    if own && stat.st_mode & 0o077 == 0 {
        return Ok(());
    }
    Err(StoreError::Unfit {
        path: staging.at(b""),
        what: "not a directory of the agent's own user that is closed to everybody else".to_owned(),
        mend: "find out who made it, and remove it",
    })
}

#[cfg(test)]
mod tests {
    use proto::policy::{FilePolicy, TreePolicy};

    use super::*;

    fn tree(path: &str, keep: &[&str]) -> FilesPolicy {
        FilesPolicy::Tree(TreePolicy {
            tree: path.into(),
            switch: SwitchMode::Exchange,
            keep: keep.iter().map(PathBuf::from).collect(),
            privileged_files: false,
            from: None,
        })
    }

    fn file(path: &str) -> FilesPolicy {
        FilesPolicy::File(FilePolicy { file: path.into(), secret: false, require: Vec::new() })
    }

    fn set(files: Vec<FilesPolicy>) -> Result<Set, StoreError> {
        Set::new(&ComponentFiles { component: "crm".to_owned(), files, managers: Vec::new() })
    }

    #[test]
    fn a_file_below_a_tree_is_found() {
        let set = set(vec![file("/srv/app/conf/.env"), tree("/srv/app/", &["uploads/"])]).unwrap();
        assert!(
            matches!(&set.parts[0].kind, PartKind::Inner { tree: 1, rel } if rel == b"conf/.env")
        );
        assert_eq!(set.parts[1].keep(), [b"uploads".to_vec()]);
    }

    #[test]
    fn what_cannot_be_a_set_is_refused() {
        for files in [
            vec![tree("/srv/app", &[]), tree("/srv/app/api", &[])],
            vec![tree("/srv/app", &[]), tree("/srv/app", &[])],
            vec![tree("/srv/app", &["data"]), file("/srv/app/data/.env")],
            vec![tree("/srv/app", &["data/.env"]), file("/srv/app/data/.env")],
            vec![tree("/srv/app", &["data", "data/logs"])],
            vec![tree("/srv/app", &["../other"])],
            vec![tree("/srv/app", &["/etc"])],
            vec![tree("/srv/app", &["."])],
            vec![tree("/", &[])],
            vec![tree("srv/app", &[])],
            vec![tree("/srv/../etc", &[])],
            vec![tree("/srv/.lastgood/app", &[])],
            vec![file("/srv/a"), file("/srv/a")],
        ] {
            assert!(matches!(set(files.clone()), Err(StoreError::Policy { .. })), "{files:?}");
        }
    }

    #[test]
    fn names_that_look_alike_do_not_overlap() {
        assert!(set(vec![tree("/srv/app", &["up", "upload"]), tree("/srv/app2", &[])]).is_ok());
    }

    #[test]
    fn only_a_parts_own_leftovers_are_its_leftovers() {
        let set = set(vec![tree("/srv/app", &[]), tree("/srv/app.conf", &[])]).unwrap();
        let exact = Hash::of(b"x");
        for (index, part) in set.parts.iter().enumerate() {
            let other = &set.parts[1 - index];
            for name in [part.building_name(exact), part.gone_name(exact, 3)] {
                assert!(part.is_leftover(&name));
                assert!(!other.is_leftover(&name));
            }
            assert!(part.is_leftover(&[part.gone_name(exact, 3), b".17".to_vec()].concat()));
            assert!(!part.is_leftover(&part.staged_name(exact)));
        }
    }

    #[test]
    fn a_component_is_named_like_a_file() {
        for name in ["", ".", "..", "a/b", "a\0"] {
            assert!(!is_component_name(name), "{name:?}");
        }
    }
}
