//! What a component's trees and files are now.
//!
//! ```text
//! Sites ──roots(Place)──▶ Root per part ──set──▶ Scanned { manifest, skipped, unsettled }
//!                                         │ a file is read, unless the stat cache knows it as it is (walk.rs)
//!                                         └ its bytes go into a batch of objects, where the caller wants them kept
//! ```
//!
//! Invariant: kept paths and declared single files are no part of a tree's manifest.
//! Invariant: a result that may mix two moments says so (`unsettled`), or does not leave [`settled`].

use super::{
    Steps,
    cache::Cache,
    dir::Dir,
    error::{StoreError, shown},
    hash::Hash,
    learn::Watch,
    manifest::SetManifest,
    objects::Batch,
    set::{Part, PartKind, Set, Site},
    walk::{self, Walk},
};

/// How often a set is walked until two walks in a row agree.
const WALKS_MAX: u32 = 4;

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
#[derive(Debug, Default)]
pub(super) enum Root {
    Tree(Dir),
    File(Dir, Vec<u8>),
    /// A tree that is not there, or a file whose directory is not.
    #[default]
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
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep<'b, 'o> {
    Nothing,
    SingleFiles(&'b Batch<'o>),
    Everything(&'b Batch<'o>),
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
    keep: Keep<'_, '_>,
) -> Result<Scanned, StoreError> {
    watched(set, roots, cache, read, keep, None)
}

/// The same, with somebody who is told of every file that is come by.
pub(super) fn watched(
    set: &Set,
    roots: &[Root],
    cache: &Cache,
    read: Read,
    keep: Keep<'_, '_>,
    watch: Option<&Watch<'_>>,
) -> Result<Scanned, StoreError> {
    let batch = |part: &Part| match (keep, &part.kind) {
        (Keep::Nothing, _) | (Keep::SingleFiles(_), PartKind::Tree { .. }) => None,
        (Keep::SingleFiles(batch) | Keep::Everything(batch), _) => Some(batch),
    };
    let batches = set.parts.iter().map(batch).collect();
    Walk { set, cache, read, batches, watch }.run(roots, &walk::excluded(set))
}

/// Walks a set until two walks in a row agree; `open` opens what stands for its parts.
///
/// # Errors
/// [`StoreError::Changing`] with a path that never came to rest.
pub(super) fn settled(
    component: &Set,
    cache: &Cache,
    batch: &Batch<'_>,
    steps: &Steps,
    open: impl Fn() -> Result<Vec<Root>, StoreError>,
) -> Result<Scanned, StoreError> {
    let mut last: Option<Scanned> = None;
    let mut culprit = component.component.clone();
    for _ in 0..WALKS_MAX {
        // Opened anew: a deploy may put another directory into the place of the first.
        let roots = open()?;
        let now = set(component, &roots, cache, Read::Changed, Keep::Everything(batch))?;
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
