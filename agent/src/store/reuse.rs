//! Reuse: a tree that stands staged for another release is taken over and changed where the wanted one differs.
//!
//! ```text
//! sealed .lastgood/<name>.<other> ──its seal goes, durable──▶ .lastgood/<name>.<wanted>.tmp
//!   ──what differs: removed, made anew from objects──▶ durable ──every path looked at, what is new read──▶ as if built
//! ```
//!
//! Most releases differ from the one before in a few files of a hundred, so this copies a few hundredths.
//!
//! Invariant: a tree is taken only if the store has every byte of its release: the only copy of something is never taken.
//! Invariant: whatever fails, the tree that was taken is no longer one of the other release by its name.

use std::collections::BTreeMap;

use super::{
    Shared, Store,
    build::Builder,
    dir::Rename,
    error::StoreError,
    hash::Hash,
    manifest::{Entry, SetManifest},
    records::{Bytes, Found, Standing},
    remove,
    scan::{Place, Read},
    set::{PartKind, Set, Site},
    space::Needs,
    stage::own_parts,
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
    ) -> Result<Option<SetManifest>, StoreError> {
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
        let mut needs = Needs::default();
        let new = wanted.iter().filter(|(path, entry)| before.get(*path) != Some(*entry));
        let (entries, bytes) = new
            .fold((0, 0), |(entries, bytes), (_, entry)| (entries + 1, bytes + entry.size_bytes()));
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
        builder.change(&staging.dir(&building)?, &before, &wanted, whole)?;
        staging.sync_filesystem()?;
        let look = (Place::Building(to), Read::Changed);
        let wrong = self.wrong(set, std::iter::once(site), &shared.cache, look, manifest)?;
        Ok(wrong.is_empty())
    }
}

/// Every path of a tree with the single files in it.
fn leaves<'m>(
    set: &'m Set,
    manifest: &'m SetManifest,
    site: &Site<'_>,
) -> BTreeMap<&'m [u8], &'m Entry> {
    let mut all = BTreeMap::new();
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
    all
}
