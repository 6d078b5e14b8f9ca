//! Snapshots: taking, listing and checking them.
//!
//! Invariant: a release never changes: its name belongs to one exact hash per component.
//! Invariant: a damaged snapshot is listed with what is wrong, and never stands in the way of the others.

use std::sync::Arc;

use super::{
    Label, Shared, Store,
    build::damaged_object,
    error::{Damage, StoreError},
    hash::Hash,
    known::Known,
    manifest::{Encoded, SetManifest},
    objects::Batch,
    privileged,
    records::{Bytes, Found, LivePointer, PartRecord, Record},
    scan::{self, Keep, Place, Read, Scanned},
    set::{ComponentFiles, Set, Site, stands},
};

/// A snapshot as it is listed: one line per name that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    pub component: String,
    /// Its name on this host.
    pub exact: Hash,
    /// Its name on every host; none where its record cannot be read.
    pub content: Option<Hash>,
    /// Empty for what was replaced without ever having been named.
    pub release: String,
    pub version: Option<String>,
    pub taken_at_unix_ms: i64,
    /// When it was learned to be good; none where it was asked for.
    pub learned_at_unix_ms: Option<i64>,
    pub size_bytes: u64,
    pub files: u64,
    /// Sockets, fifos and devices that are not part of it.
    pub skipped: Vec<String>,
    /// Its bytes are in the store; else only in the tree that was replaced, which stands beside the live one.
    pub in_store: bool,
    /// None while it is whole.
    pub damage: Option<String>,
    /// When every byte of it was last read and found right; milliseconds since 1970.
    pub verified_at_unix_ms: Option<i64>,
}

impl Store {
    /// Takes a snapshot of a component as it is now, and names it. The same again under the same name changes
    /// nothing; the same under another name gives it that name too.
    ///
    /// # Errors
    /// [`StoreError::Changing`] where something keeps writing to it; [`StoreError::ReleaseTaken`] where the name
    /// belongs to something else.
    pub fn snapshot(
        &self,
        files: &ComponentFiles,
        label: Label,
    ) -> Result<SnapshotInfo, StoreError> {
        let set = Set::new(files)?;
        let shared = self.shared(&set.component)?;
        let _busy = shared.enter();
        self.refuse_held(&set.component)?;
        let sites = set.sites()?;
        self.refuse_no_room(&set, &sites, &shared)?;
        let taken = self.capture(&set, &sites, &shared, label);
        self.save_cache(&set.component, &shared);
        taken.map_err(|error| self.with_room(error, &sites))
    }

    fn capture(
        &self,
        set: &Set,
        sites: &[Site<'_>],
        shared: &Shared,
        label: Label,
    ) -> Result<SnapshotInfo, StoreError> {
        let live = || scan::roots(set, sites, Place::Live);
        let batch = self.objects.batch();
        let scanned = scan::settled(set, &shared.cache, &batch, &self.steps, live)?;
        privileged::refuse_live(set, &scanned.manifest)?;
        let info = self.name(set, &scanned, batch, label)?;
        let live = LivePointer { exact: info.exact, replaced: None };
        self.records.set_live(&set.component, live)?;
        Ok(info)
    }

    /// Makes what was walked a release: its bytes durable first, then its record.
    pub(super) fn name(
        &self,
        set: &Set,
        scanned: &Scanned,
        batch: Batch<'_>,
        label: Label,
    ) -> Result<SnapshotInfo, StoreError> {
        let manifests = scanned.manifest.encode();
        let exact = manifests.exact;
        self.refuse_taken(&set.component, &label.release, exact)?;
        let _named = batch.commit()?;
        self.steps.reach("snapshot: bytes stored")?;

        let mut record = match self.records.find(&set.component, exact)? {
            Some(Found::Record(record)) => *record,
            Some(Found::Damaged(_)) | None => {
                new_record(set, scanned, &manifests, (self.now)(), Bytes::InStore)
            }
        };
        record.bytes = Bytes::InStore;
        let known = record.labels.iter().find(|known| known.release == label.release).cloned();
        let label = known.unwrap_or_else(|| {
            record.labels.push(label.clone());
            label
        });
        self.records.save(&record, &manifests)?;
        if self.records.damage(&set.component, exact)?.is_some() {
            // Its missing objects may just have been read anew.
            self.read_all(&record)?;
        }
        let verified_at = self.records.verified_at(&set.component, exact)?;
        Ok(info(&record, Some(&label), None, verified_at))
    }

    /// Every snapshot of every component, damaged ones too. Reads no file but the first time.
    pub fn list(&self) -> Result<Vec<SnapshotInfo>, StoreError> {
        let mut list = Vec::new();
        for (component, rows) in self.records.everything()? {
            for (exact, Known { found, damage, verified_at }) in rows {
                match found {
                    Found::Damaged(damage) => list.push(unreadable(&component, exact, damage)),
                    Found::Record(record) => {
                        let damage = match damage {
                            Some(damage) => Some(damage),
                            None => self.records.missing_manifest(&record)?,
                        };
                        if record.labels.is_empty() {
                            list.push(info(&record, None, damage, verified_at));
                            continue;
                        }
                        for label in &record.labels {
                            list.push(info(&record, Some(label), damage.clone(), verified_at));
                        }
                    }
                }
            }
        }
        Ok(list)
    }

    /// Reads every byte of a snapshot: record, manifests, objects. What it finds is remembered until the next check.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] names the path in the release and the object in the store.
    pub fn check(&self, component: &str, exact: Hash) -> Result<(), StoreError> {
        match self.records.find_again(component, exact)? {
            None => Err(StoreError::Unknown { component: component.to_owned(), exact }),
            Some(Found::Damaged(damage)) => Err(StoreError::Damaged(Box::new(damage))),
            Some(Found::Record(record)) => {
                self.read_all(&record)?;
                self.records.late(component, exact).map(drop)
            }
        }
    }

    /// Puts the bytes of a replaced tree into the store, so that its snapshot outlives the tree. Off the critical
    /// path; nothing depends on it but that.
    ///
    /// # Errors
    /// [`StoreError::StagedWrong`] where it no longer stands as it was replaced.
    pub fn store_replaced(&self, files: &ComponentFiles, exact: Hash) -> Result<(), StoreError> {
        let set = Set::new(files)?;
        let shared = self.shared(&set.component)?;
        let sites = set.sites()?;
        {
            let _busy = shared.enter();
            self.read_unread(&set, &sites, &shared)?;
        }
        let batch = self.objects.batch();
        // What changed after it was staged over stands under the name of what it was before.
        let stands_as = match stands(&sites, exact)? {
            true => exact,
            false => self.records.replaced_as(&set.component, exact)?.unwrap_or(exact),
        };
        let roots = scan::roots(&set, &sites, Place::Staged(stands_as))?;
        // A switch must not wait for a copy: one that takes the tree away meanwhile makes it differ, and the next
        // time copies it.
        let keep = Keep::Everything(&batch);
        let found = scan::set(&set, &roots, &shared.cache, Read::Changed, keep)?;
        let closest = self.closest(&set, exact, &found.manifest)?;
        let Some((exact, differences)) = closest else {
            return Err(StoreError::Unknown { component: set.component, exact });
        };
        if !differences.is_empty() {
            let path = sites.first().map(|site| site.parent.at(super::STAGING.as_bytes()));
            let path = path.unwrap_or_default();
            return Err(StoreError::StagedWrong { path, differences });
        }
        let _busy = shared.enter();
        let _named = batch.commit()?;
        let mut record = self.known(&set, exact)?;
        record.bytes = Bytes::InStore;
        self.records.resave(&record)
    }

    /// The record of a snapshot that a switch goes from or to, if the policy still is the one it was taken under.
    /// Whether its objects are whole does not matter here.
    pub(super) fn known(&self, set: &Set, exact: Hash) -> Result<Record, StoreError> {
        let record = match self.records.find(&set.component, exact)? {
            Some(Found::Record(record)) => *record,
            Some(Found::Damaged(damage)) => return Err(StoreError::Damaged(Box::new(damage))),
            None => {
                return Err(StoreError::Unknown { component: set.component.clone(), exact });
            }
        };
        self.records.same_shape(&record, set)?;
        Ok(record)
    }

    /// The manifests of a snapshot that is to be built. Damage is remembered.
    pub(super) fn wanted(&self, record: &Record) -> Result<Arc<SetManifest>, StoreError> {
        let manifest = self.records.manifests(record);
        if let Err(StoreError::Damaged(damage)) = &manifest {
            self.records.set_damage(&record.component, record.exact, Some(&damage.what))?;
        }
        manifest
    }

    /// Makes what stands somewhere known without a name, unless it already is.
    pub(super) fn notice(&self, set: &Set, scanned: &Scanned) -> Result<Hash, StoreError> {
        let manifests = scanned.manifest.encode();
        let exact = manifests.exact;
        let known = match self.records.find(&set.component, exact)? {
            Some(Found::Record(record)) => self.records.read_manifests(&record).is_ok(),
            Some(Found::Damaged(_)) | None => false,
        };
        if !known {
            let now = (self.now)();
            let record = new_record(set, scanned, &manifests, now, Bytes::BesideLive);
            self.records.save(&record, &manifests)?;
        }
        Ok(exact)
    }

    pub(super) fn refuse_taken(
        &self,
        component: &str,
        release: &str,
        offered: Hash,
    ) -> Result<(), StoreError> {
        for (existing, found) in self.records.all(component)? {
            let Found::Record(record) = found else { continue };
            let taken = record.labels.iter().any(|label| label.release == release);
            if taken && existing != offered {
                let (component, release) = (component.to_owned(), release.to_owned());
                return Err(StoreError::ReleaseTaken { component, release, existing, offered });
            }
        }
        Ok(())
    }

    fn read_all(&self, record: &Record) -> Result<(), StoreError> {
        let Record { component, exact, .. } = record;
        let found = match self.records.read_manifests(record) {
            Ok(manifest) => self.first_damage(record, &manifest)?,
            Err(StoreError::Damaged(damage)) => Some(damage.what),
            Err(error) => return Err(error),
        };
        if self.records.find(component, *exact)?.is_none() {
            // It was removed while it was read, and then its objects may go.
            return Err(StoreError::Unknown { component: component.clone(), exact: *exact });
        }
        self.records.set_damage(component, *exact, found.as_deref())?;
        match found {
            None => self.records.set_verified(component, *exact),
            Some(what) => {
                let (component, exact) = (component.clone(), *exact);
                Err(StoreError::Damaged(Box::new(Damage { component, exact, what })))
            }
        }
    }

    /// Reads objects until one is not what its name says, and takes that one out of use.
    fn first_damage(
        &self,
        record: &Record,
        manifest: &SetManifest,
    ) -> Result<Option<String>, StoreError> {
        for (part, known) in manifest.parts.iter().zip(&record.parts) {
            let is_tree = known.shape.keep.is_some();
            if is_tree && record.bytes == Bytes::BesideLive {
                continue;
            }
            for (path, size_bytes, hash) in part.files() {
                let at = self.objects.at(hash);
                let Some(object) = self.objects.open(hash)? else {
                    return Ok(Some(damaged_object(path, &at, "is missing")));
                };
                if object.read(&at, |_| Ok(()))? != (size_bytes, hash) {
                    self.objects.quarantine(hash)?;
                    let how = "no longer has the bytes of its name";
                    return Ok(Some(damaged_object(path, &at, how)));
                }
            }
        }
        Ok(None)
    }
}

pub(super) fn new_record(
    set: &Set,
    scanned: &Scanned,
    manifests: &Encoded,
    noticed_at_unix_ms: i64,
    bytes: Bytes,
) -> Record {
    let manifest = &scanned.manifest;
    let parts = set.shapes().into_iter().zip(&manifests.parts);
    let parts = parts.map(|(shape, (exact, _))| PartRecord { shape, exact: *exact });
    Record {
        component: set.component.clone(),
        exact: manifests.exact,
        content: manifest.content(),
        parts: parts.collect(),
        labels: Vec::new(),
        noticed_at_unix_ms,
        size_bytes: manifest.size_bytes(),
        files: manifest.files(),
        skipped: scanned.skipped.clone(),
        bytes,
    }
}

pub(super) fn info(
    record: &Record,
    label: Option<&Label>,
    damage: Option<String>,
    verified_at_unix_ms: Option<i64>,
) -> SnapshotInfo {
    SnapshotInfo {
        component: record.component.clone(),
        exact: record.exact,
        content: Some(record.content),
        release: label.map(|label| label.release.clone()).unwrap_or_default(),
        version: label.and_then(|label| label.version.clone()),
        taken_at_unix_ms: label.map_or(record.noticed_at_unix_ms, |label| label.taken_at_unix_ms),
        learned_at_unix_ms: label.and_then(|label| label.learned_at_unix_ms),
        size_bytes: record.size_bytes,
        files: record.files,
        skipped: record.skipped.clone(),
        in_store: record.bytes == Bytes::InStore,
        damage,
        verified_at_unix_ms,
    }
}

fn unreadable(component: &str, exact: Hash, damage: Damage) -> SnapshotInfo {
    SnapshotInfo {
        component: component.to_owned(),
        exact,
        content: None,
        release: String::new(),
        version: None,
        taken_at_unix_ms: 0,
        learned_at_unix_ms: None,
        size_bytes: 0,
        files: 0,
        skipped: Vec::new(),
        in_store: false,
        damage: Some(damage.to_string()),
        verified_at_unix_ms: None,
    }
}
