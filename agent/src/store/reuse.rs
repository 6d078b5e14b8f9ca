//! Reuse: a tree that stands staged for another release is taken over and changed where the wanted one differs.
//!
//! ```text
//! sealed .lastgood/<name>.<other> ──its seal goes, durable──▶ .lastgood/<name>.<wanted>.tmp
//!   ──what differs: removed, made anew from objects──▶ durable ──what was made or touched: read back──▶ as if built
//! ```
//!
//! Most releases differ from the one before in a few files of a hundred, so this copies a few hundredths.
//!
//! Invariant: a tree is taken only if the store has every byte of its release: the only copy of something is never taken.
//! Invariant: whatever fails, the tree that was taken is no longer one of the other release by its name.

use std::{mem, sync::Arc};

use super::{
    Shared, Store,
    build::Builder,
    change::{Change, Leaf},
    compare,
    dir::Rename,
    error::StoreError,
    hash::Hash,
    manifest::{Manifest, SetManifest},
    records::{Bytes, Found, Standing},
    remove,
    scan::{self, Keep, Place, Read, Root},
    set::{PartKind, Set, Site},
    space::{self, Needs},
    stage::own_parts,
    walk::Walk,
};

impl Store {
    /// Builds what it can of `missing` from trees that stand for another release; returns those that it built.
    pub(super) fn reuse(
        &self,
        set: &Set,
        sites: &[Site<'_>],
        missing: &[&Site<'_>],
        shared: &Shared,
        (to, manifest): (Hash, &SetManifest),
        donor: Hash,
    ) -> Result<Vec<usize>, StoreError> {
        let Some(old) = self.donated(set, sites, donor)? else { return Ok(Vec::new()) };
        let standing = self.records.standing(&set.component)?;
        let seals = standing.seals.iter().filter(|seal| seal.exact != donor).cloned().collect();
        self.records.set_standing(&set.component, Standing { seals, ..standing })?;
        self.steps.reach("stage: another one taken")?;
        let mut built = Vec::new();
        for site in missing {
            if !matches!(site.part.kind, PartKind::Tree { .. }) {
                continue;
            }
            match self.reuse_site(set, site, shared, (to, manifest), (donor, &old)) {
                Ok(true) => built.push(site.index),
                Ok(false) => {}
                Err(error @ (StoreError::Fsync { .. } | StoreError::Step { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(reason = error.reason(), "a staged tree could not be reused");
                }
            }
            if !built.contains(&site.index) {
                remove::tree(site.staging()?, &site.part.building_name(to))?;
            }
        }
        Ok(built)
    }

    /// The manifests of what stands staged and may be taken; none where it may not.
    fn donated(
        &self,
        set: &Set,
        sites: &[Site<'_>],
        donor: Hash,
    ) -> Result<Option<Arc<SetManifest>>, StoreError> {
        let Some(Found::Record(record)) = self.records.find(&set.component, donor)? else {
            return Ok(None);
        };
        let may = record.bytes == Bytes::InStore
            && self.records.same_shape(&record, set).is_ok()
            && matches!(self.records.late(&set.component, donor), Ok(None))
            && self.records.damage(&set.component, donor)?.is_none()
            && self.is_sealed(set, sites, donor)?;
        match self.records.manifests(&record) {
            Ok(manifests) if may => Ok(Some(manifests)),
            Ok(_) | Err(StoreError::Damaged(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn reuse_site(
        &self,
        set: &Set,
        site: &Site<'_>,
        shared: &Shared,
        (to, manifest): (Hash, &SetManifest),
        (donor, old): (Hash, &SetManifest),
    ) -> Result<bool, StoreError> {
        let staging = site.staging()?;
        let (name, building) = (site.part.staged_name(donor), site.part.building_name(to));
        let (before, wanted) = (leaves(set, old, site), leaves(set, manifest, site));
        let (Some(whole), Some(_)) = (manifest.parts.get(site.index), staging.stat(&name)?) else {
            return Ok(false);
        };
        if whole.entries.is_empty() {
            return Ok(false);
        }
        let change = Change::between(&before, &wanted);
        let mut needs = Needs::default();
        let new = change.made.iter().chain(&change.named).map(|(_, entry)| *entry);
        let (bytes, entries) = space::to_build(&self.objects, new)?;
        needs.add_size(staging, bytes, entries)?;
        needs.check()?;
        staging.rename(&name, staging, &building, Rename::New)?;
        let builder = Builder {
            objects: &self.objects,
            records: &self.records,
            component: &set.component,
            exact: to,
            yields_to: None,
        };
        builder.change(&staging.dir(&building)?, &change, whole)?;
        staging.sync_filesystem()?;
        self.is_changed(set, site, shared, (to, manifest), &change)
    }

    /// Whether everything that a change made is as the manifest says, to the last byte. What it left alone was looked
    /// at when it was sealed, and stands since then where nobody else can reach it.
    fn is_changed(
        &self,
        set: &Set,
        site: &Site<'_>,
        shared: &Shared,
        (to, manifest): (Hash, &SetManifest),
        change: &Change<'_>,
    ) -> Result<bool, StoreError> {
        let mut roots = scan::roots(set, std::slice::from_ref(site), Place::Building(to))?;
        let Some(whole) = manifest.parts.get(site.index) else { return Ok(false) };
        let Some(Root::Tree(root)) = roots.get_mut(site.index).map(mem::take) else {
            return Ok(false);
        };
        let named = change.named.iter().flat_map(|(path, entry)| [*path, entry.first_name()]);
        let mut paths: Vec<&[u8]> =
            change.made.iter().map(|(path, _)| *path).chain(named).collect();
        paths.extend(&change.touched);
        // Declared files have a manifest of their own; what went has none.
        paths.retain(|path| whole.get(path).is_some());
        paths.sort_unstable();
        paths.dedup();
        let cache = &shared.cache;
        let batches = set.parts.iter().map(|_| None).collect();
        let walk = Walk { set, cache, read: Read::Everything, batches, watch: None };
        let found = walk.at(site.index, &root, &paths)?;
        let expected = paths.iter().filter_map(|path| whole.get(path)).cloned().collect();
        let expected = Manifest { entries: expected };
        let as_made = found.unsettled.is_none()
            && found.manifest.parts.get(site.index).is_some_and(|found| {
                set.parts
                    .get(site.index)
                    .is_some_and(|part| compare::part(part, &expected, found).is_empty())
            });
        let inner = scan::set(set, &roots, cache, Read::Everything, Keep::Nothing)?;
        let others = own_parts(set, manifest, site).zip(own_parts(set, &inner.manifest, site));
        Ok(as_made
            && others.skip(1).all(|((part, expected), (_, found))| {
                compare::part(part, expected, found).is_empty()
            }))
    }
}

/// Every path of a tree with the single files in it, in order.
fn leaves<'m>(set: &'m Set, manifest: &'m SetManifest, site: &Site<'_>) -> Vec<Leaf<'m>> {
    let mut all = Vec::new();
    for (part, manifest) in own_parts(set, manifest, site) {
        match &part.kind {
            PartKind::Inner { rel, .. } => {
                all.extend(manifest.entries.first().map(|entry| (rel.as_slice(), entry)));
            }
            PartKind::Tree { .. } | PartKind::File => {
                all.extend(manifest.entries.iter().map(|entry| (entry.path.as_slice(), entry)));
            }
        }
    }
    all.sort_by_key(|(path, _)| *path);
    all
}
