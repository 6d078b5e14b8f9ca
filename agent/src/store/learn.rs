//! Learning: what came to be live by other means is looked at, taken once it rests, and named once it has proven itself.
//!
//! ```text
//! glance ──▶ Glance: its exact hash, which release it is, what still moves      every half minute; nothing is stored
//! take   ──▶ bytes and record, unnamed                                          when two glances saw the very same
//! learn  ──▶ its name; it is what should be live from here on                   when its checks have held
//! ```
//!
//! Invariant: nobody waits for any of it: it begins only while no operation is at work, and ends as soon as one wants to.
//! Invariant: what is taken and what is named is what was seen, with no file that changed since.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use rustix::fs::{FileType, Stat};

use super::{
    Label, Shared, Store,
    cache::is_settled,
    compare::Difference,
    error::StoreError,
    hash::Hash,
    manifest::SetManifest,
    meta,
    records::{Bytes, Found, LivePointer},
    scan::{self, Keep, Place, Read, Scanned},
    set::{ComponentFiles, Set},
    snapshot::{SnapshotInfo, info, new_record},
};

/// What is live at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance {
    pub exact: Hash,
    /// The release that it is; none where it is none of this host's.
    pub known: Option<KnownRelease>,
    /// A file that changed since the time that was asked about, or while it was looked at.
    pub moving: Option<String>,
}

/// A release of this host that is live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownRelease {
    pub release: String,
    pub version: Option<String>,
    /// There are paths that it does not have: the app may have written them.
    pub extra: bool,
}

impl Store {
    /// Looks at what is live, and at what of it changed since `since`. Reads only what changed since it was last read.
    ///
    /// # Errors
    /// [`StoreError::Yielded`] where an operation is at work or wants to be, [`StoreError::Held`] in a switch.
    pub fn glance(&self, files: &ComponentFiles, since: SystemTime) -> Result<Glance, StoreError> {
        let set = Set::new(files)?;
        let shared = self.shared(&set.component)?;
        // Not kept: whoever comes meanwhile does not wait for a look.
        drop(free(&set, &shared)?);
        self.refuse_held(&set.component)?;
        let (scanned, moving) = self.watched(&set, &shared, since, Keep::Nothing)?;
        self.save_cache(&set.component, &shared);
        let exact = scanned.manifest.exact();
        let known = self.recognised(&set, &scanned.manifest, exact)?;
        Ok(Glance { exact, known, moving })
    }

    /// Takes what is live into the store without a name, if it is what a glance saw and nothing has changed since.
    ///
    /// # Errors
    /// As [`Store::glance`]; [`StoreError::Changing`] where it is not.
    pub fn take(
        &self,
        files: &ComponentFiles,
        exact: Hash,
        since: SystemTime,
    ) -> Result<(), StoreError> {
        let set = Set::new(files)?;
        let shared = self.shared(&set.component)?;
        let _busy = free(&set, &shared)?;
        self.refuse_held(&set.component)?;
        let batch = self.objects.batch();
        let (scanned, moving) = self.watched(&set, &shared, since, Keep::Everything(&batch))?;
        still(&set, &scanned, exact, moving)?;
        let manifests = scanned.manifest.encode();
        let _named = batch.commit()?;
        self.steps.reach("take: bytes stored")?;
        let mut record = match self.records.find(&set.component, exact)? {
            Some(Found::Record(record)) => *record,
            Some(Found::Damaged(_)) | None => {
                let now = jiff::Timestamp::now().as_millisecond();
                new_record(&set, &scanned, &manifests, now, Bytes::InStore)
            }
        };
        record.bytes = Bytes::InStore;
        self.records.save(&record, &manifests)?;
        self.save_cache(&set.component, &shared);
        Ok(())
    }

    /// Names what was taken, if it is what is live and nothing has changed since.
    ///
    /// # Errors
    /// As [`Store::take`]; [`StoreError::ReleaseTaken`] where the name belongs to something else.
    pub fn learn(
        &self,
        files: &ComponentFiles,
        exact: Hash,
        since: SystemTime,
        label: Label,
    ) -> Result<SnapshotInfo, StoreError> {
        let set = Set::new(files)?;
        let shared = self.shared(&set.component)?;
        let _busy = free(&set, &shared)?;
        self.refuse_held(&set.component)?;
        let (scanned, moving) = self.watched(&set, &shared, since, Keep::Nothing)?;
        still(&set, &scanned, exact, moving)?;
        self.refuse_taken(&set.component, &label.release, exact)?;
        let mut record = self.records.require(&set.component, exact)?;
        if record.bytes != Bytes::InStore {
            return Err(StoreError::Unknown { component: set.component, exact });
        }
        if record.labels.iter().all(|known| known.release != label.release) {
            record.labels.push(label.clone());
            self.records.resave(&record)?;
        }
        self.steps.reach("learn: named")?;
        let live = LivePointer { exact, replaced: None };
        self.records.set_live(&set.component, live)?;
        let verified_at = self.records.verified_at(&set.component, exact)?;
        let label = record.labels.iter().find(|known| known.release == label.release);
        Ok(info(&record, label, None, verified_at))
    }

    /// The content hash of a snapshot; none where its record cannot be read.
    pub fn content_of(&self, component: &str, exact: Hash) -> Result<Option<Hash>, StoreError> {
        Ok(match self.records.find(component, exact)? {
            Some(Found::Record(record)) => Some(record.content),
            Some(Found::Damaged(_)) | None => None,
        })
    }

    fn watched(
        &self,
        set: &Set,
        shared: &Shared,
        since: SystemTime,
        keep: Keep<'_, '_>,
    ) -> Result<(Scanned, Option<String>), StoreError> {
        let sites = set.sites()?;
        let roots = scan::roots(set, &sites, Place::Live)?;
        let watch = Watch { since, waiting: &shared.waiting, young: Mutex::default() };
        let found = scan::watched(set, &roots, &shared.cache, Read::Changed, keep, Some(&watch))?;
        let young = watch.young.into_inner().unwrap_or_else(PoisonError::into_inner);
        let moving = found.unsettled.clone().or(young);
        Ok((found, moving))
    }

    /// Which of this host's releases it is: the one that should be live, as far as nothing of that is missing or
    /// changed; else one with the very same metadata; else one with the same content.
    fn recognised(
        &self,
        set: &Set,
        found: &SetManifest,
        exact: Hash,
    ) -> Result<Option<KnownRelease>, StoreError> {
        if let Some(pointer) = self.records.live(&set.component)? {
            let named = match self.records.find(&set.component, pointer.exact)? {
                Some(Found::Record(record)) => record.labels.last().cloned(),
                Some(Found::Damaged(_)) | None => None,
            };
            if let Some(label) = named {
                match self.closest(set, pointer.exact, found) {
                    Ok(Some((_, differences)))
                        if !differences.iter().any(Difference::is_failure) =>
                    {
                        return Ok(Some(known(label, !differences.is_empty())));
                    }
                    Ok(_) | Err(StoreError::OtherPolicy { .. } | StoreError::Damaged(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let content = found.content();
        let mut same_content = None;
        for (other, record) in self.records.all(&set.component)? {
            let Found::Record(record) = record else { continue };
            let Some(label) = record.labels.last().cloned() else { continue };
            if self.records.same_shape(&record, set).is_err() {
                continue;
            }
            if other == exact {
                return Ok(Some(known(label, false)));
            }
            if record.content == content {
                same_content.get_or_insert(known(label, false));
            }
        }
        Ok(same_content)
    }
}

fn known(label: Label, extra: bool) -> KnownRelease {
    KnownRelease { release: label.release, version: label.version, extra }
}

/// Begins, where nobody is at work or waits to be.
fn free<'s>(set: &Set, shared: &'s Shared) -> Result<MutexGuard<'s, ()>, StoreError> {
    match shared.busy.try_lock() {
        Ok(busy) => Ok(busy),
        Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::Yielded { component: set.component.clone() })
        }
    }
}

fn still(
    set: &Set,
    scanned: &Scanned,
    exact: Hash,
    moving: Option<String>,
) -> Result<(), StoreError> {
    match moving {
        Some(path) => Err(StoreError::Changing { path }),
        None if scanned.manifest.exact() != exact => {
            Err(StoreError::Changing { path: set.component.clone() })
        }
        None => Ok(()),
    }
}

/// Told of every file that a walk comes by.
#[derive(Debug)]
pub(super) struct Watch<'w> {
    /// Changes after it are told.
    since: SystemTime,
    /// Who waits for the component: then the walk ends.
    waiting: &'w AtomicUsize,
    young: Mutex<Option<String>>,
}

impl Watch<'_> {
    pub(super) fn come_by(
        &self,
        component: &str,
        stat: &Stat,
        at: impl FnOnce() -> String,
    ) -> Result<(), StoreError> {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return Err(StoreError::Yielded { component: component.to_owned() });
        }
        // A directory's stamp moves with what is kept in it, too; what came or went shows in the manifest.
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let changed = meta::ctime(stat);
        // A stamp of the future is of a clock that was set back since: it says nothing of when.
        if !is_dir && !is_settled(changed, self.since) && !is_future(changed) {
            let mut young = self.young.lock().unwrap_or_else(PoisonError::into_inner);
            young.get_or_insert_with(at);
        }
        Ok(())
    }
}

fn is_future(ctime: (i64, u32)) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(ctime.0).is_ok_and(|seconds| seconds > now.as_secs())
}
