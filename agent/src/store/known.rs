//! The records in memory: listing them, which every heartbeat does, reads no file.
//!
//! ```text
//! first use ──▶ every record and what was noted of it ──▶ memory ◀── looked at again ◀── save, remove, damage, verified
//! find, all, damage, verified_at ◀──────────────────────────┘             check, compact ┘
//! ```
//!
//! Manifests are not kept: they are large, and read where a tree is built, compared or checked.
//!
//! Invariant: memory is what the disk said after the last write: it is read back, never guessed from what was written.
//! Invariant: nobody else writes these files. The lock of the store is held for as long as it is open.
//! Invariant: whoever has to know what the disk holds *now* — a check, a compaction — looks again.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    error::StoreError,
    hash::Hash,
    lock,
    records::{Found, Records, VERIFIED, read, unseal},
};

/// Every record, by component and exact hash.
pub(super) type All = BTreeMap<String, BTreeMap<Hash, Known>>;

/// One record, and what was noted of it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) found: Found,
    pub(super) damage: Option<String>,
    pub(super) verified_at: Option<i64>,
}

impl Records {
    /// The record of a snapshot; none where there is none.
    pub(super) fn find(&self, component: &str, exact: Hash) -> Result<Option<Found>, StoreError> {
        Ok(self.known(component, exact)?.map(|known| known.found))
    }

    /// What an earlier check found wrong with a snapshot.
    pub(super) fn damage(
        &self,
        component: &str,
        exact: Hash,
    ) -> Result<Option<String>, StoreError> {
        Ok(self.known(component, exact)?.and_then(|known| known.damage))
    }

    /// When every byte of a snapshot was last read and found right; milliseconds since 1970.
    pub(super) fn verified_at(
        &self,
        component: &str,
        exact: Hash,
    ) -> Result<Option<i64>, StoreError> {
        Ok(self.known(component, exact)?.and_then(|known| known.verified_at))
    }

    /// Every record of a component, damaged ones too.
    pub(super) fn all(&self, component: &str) -> Result<Vec<(Hash, Found)>, StoreError> {
        self.look(|all| {
            let rows = all.get(component).into_iter().flatten();
            rows.map(|(exact, known)| (*exact, known.found.clone())).collect()
        })
    }

    /// Every record of every component.
    pub(super) fn everything(&self) -> Result<All, StoreError> {
        self.look(All::clone)
    }

    /// [`Records::find`], read from the disk now.
    pub(super) fn find_again(
        &self,
        component: &str,
        exact: Hash,
    ) -> Result<Option<Found>, StoreError> {
        let writing = lock(&self.writing);
        self.look_again(component, exact)?;
        drop(writing);
        self.find(component, exact)
    }

    /// [`Records::everything`], read from the disk now.
    pub(super) fn everything_again(&self) -> Result<All, StoreError> {
        let writing = lock(&self.writing);
        *lock(&self.known) = Some(self.read_everything()?);
        drop(writing);
        self.everything()
    }

    /// Reads one record and its notes from the disk. The caller holds `writing`.
    pub(super) fn look_again(&self, component: &str, exact: Hash) -> Result<(), StoreError> {
        let read = self.read_one(component, exact);
        let mut known = lock(&self.known);
        match read {
            Ok(one) => {
                // What was never read need not be kept up to date.
                let Some(all) = &mut *known else { return Ok(()) };
                let rows = all.entry(component.to_owned()).or_default();
                match one {
                    Some(one) => drop(rows.insert(exact, one)),
                    None => drop(rows.remove(&exact)),
                }
                Ok(())
            }
            Err(error) => {
                *known = None;
                Err(error)
            }
        }
    }

    /// Reads everything where that was not done yet. The caller holds `writing`.
    pub(super) fn look_if_new(&self) -> Result<(), StoreError> {
        if lock(&self.known).is_none() {
            let all = self.read_everything()?;
            *lock(&self.known) = Some(all);
        }
        Ok(())
    }

    fn known(&self, component: &str, exact: Hash) -> Result<Option<Known>, StoreError> {
        self.look(|all| all.get(component)?.get(&exact).cloned())
    }

    fn look<T>(&self, look: impl FnOnce(&All) -> T) -> Result<T, StoreError> {
        loop {
            if let Some(all) = &*lock(&self.known) {
                return Ok(look(all));
            }
            let _writing = lock(&self.writing);
            self.look_if_new()?;
        }
    }

    fn read_everything(&self) -> Result<All, StoreError> {
        let mut all = All::new();
        for component in self.components()? {
            let Some(dir) = self.snapshots.dir_if_there(component.as_bytes())? else { continue };
            let mut rows = BTreeMap::new();
            for name in dir.names()? {
                // Names that are no hash are passed over.
                let exact = String::from_utf8(name).ok().and_then(|name| name.parse().ok());
                let Some(exact) = exact else { continue };
                if let Some(known) = self.read_one(&component, exact)? {
                    rows.insert(exact, known);
                }
            }
            all.insert(component, rows);
        }
        Ok(all)
    }

    /// Every component that has a snapshot, by the names of the directories.
    pub(super) fn components(&self) -> Result<BTreeSet<String>, StoreError> {
        let names = self.snapshots.names()?.into_iter();
        Ok(names.filter_map(|name| String::from_utf8(name).ok()).collect())
    }

    fn read_one(&self, component: &str, exact: Hash) -> Result<Option<Known>, StoreError> {
        let Some(found) = self.read_record(component, exact)? else { return Ok(None) };
        let note = |kind: &super::dir::Dir| match kind.dir_if_there(component.as_bytes())? {
            Some(dir) => read(&dir, exact.to_string().as_bytes()),
            None => Ok(None),
        };
        let damage = note(&self.damage)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let verified_at = note(&self.verified)?.and_then(|bytes| unseal(VERIFIED, &bytes).ok());
        Ok(Some(Known { found, damage, verified_at }))
    }
}
