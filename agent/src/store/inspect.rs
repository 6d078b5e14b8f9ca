//! Looking: what is live, whether it still is what it should be, and how far a switch has come.
//!
//! Invariant: nothing here writes to anything but the stat cache, or waits for an operation.

use super::{
    Store,
    compare::{self, Difference},
    error::StoreError,
    hash::Hash,
    manifest::SetManifest,
    records::Found,
    scan::{self, Keep, Place, Read},
    set::{ComponentFiles, Set, stands},
};

/// What is live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    pub exact: Hash,
    pub content: Hash,
    /// What the store itself last put or captured here; none where it never did.
    pub record: Option<LiveRecord>,
    /// A path of `record` is missing or no longer as it was. Extra paths do not count: apps write.
    pub changed: bool,
    /// How many paths there are that `record` does not have.
    pub extra: u64,
}

/// The snapshot that should be live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveRecord {
    /// Empty for what was never named.
    pub release: String,
    pub exact: Hash,
    pub version: Option<String>,
}

/// How far a switch has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// `from` is live, and nothing is held.
    NotDone,
    /// `to` is live, and nothing is held.
    Done,
    /// It has begun and not ended: call [`Store::switch`] again, either way round.
    Partial,
    /// It cannot be said, and why.
    Unknown(String),
}

impl Store {
    /// Looks at what is live, reading only what changed since it was last read.
    pub fn live(&self, files: &ComponentFiles) -> Result<Live, StoreError> {
        let set = Set::new(files)?;
        let found = self.look(&set)?;
        let mut live = Live {
            exact: found.exact(),
            content: found.content(),
            record: None,
            changed: false,
            extra: 0,
        };
        let Some(pointer) = self.records.live(&set.component)? else { return Ok(live) };
        let recorded = pointer.exact;
        let Some(Found::Record(record)) = self.records.find(&set.component, recorded)? else {
            return Ok(live);
        };
        // The name that it got last is the one that it goes by.
        let label = record.labels.last();
        live.record = Some(LiveRecord {
            release: label.map(|label| label.release.clone()).unwrap_or_default(),
            exact: recorded,
            version: label.and_then(|label| label.version.clone()),
        });
        match self.closest(&set, recorded, &found) {
            Ok(Some((exact, differences))) => {
                if differences.is_empty() {
                    live.exact = exact;
                }
                live.changed = differences.iter().any(Difference::is_failure);
                let extra = differences.iter().filter(|one| !one.is_failure()).count();
                live.extra = u64::try_from(extra).unwrap_or(u64::MAX);
            }
            // Taken under another policy, or its manifests are damaged: no longer comparable.
            Ok(None) | Err(StoreError::OtherPolicy { .. } | StoreError::Damaged(_)) => {
                live.changed = true;
            }
            Err(error) => return Err(error),
        }
        Ok(live)
    }

    /// Every path of what is live that is not as a snapshot says. [`Difference::is_failure`] tells what the app may
    /// have written from what must not have changed.
    pub fn digest_matches(
        &self,
        files: &ComponentFiles,
        exact: Hash,
    ) -> Result<Vec<Difference>, StoreError> {
        let set = Set::new(files)?;
        let found = self.look(&set)?;
        match self.closest(&set, exact, &found)? {
            Some((_, differences)) => Ok(differences),
            None => Err(StoreError::Unknown { component: set.component, exact }),
        }
    }

    /// Looks how far a switch has come; after a crash, before anything is done.
    pub fn observe(
        &self,
        files: &ComponentFiles,
        from: Hash,
        to: Hash,
    ) -> Result<Observed, StoreError> {
        let set = Set::new(files)?;
        match self.hold_if_read(&set.component) {
            Err(why) => return Ok(Observed::Unknown(why)),
            Ok(Some(pair)) if pair == (from, to) || pair == (to, from) => {
                return Ok(Observed::Partial);
            }
            Ok(Some((from, to))) => {
                return Ok(Observed::Unknown(format!("it is held in the switch {from} → {to}")));
            }
            Ok(None) => {}
        }
        let found = self.look(&set)?;
        let mut sides = Vec::new();
        for (exact, observed) in [(to, Observed::Done), (from, Observed::NotDone)] {
            if let Some((_, differences)) = self.closest(&set, exact, &found)? {
                sides.push((differences, observed));
            }
        }
        // Equal first; then equal but for what an app may have written since.
        for accept in
            [Vec::is_empty, |all: &Vec<Difference>| !all.iter().any(Difference::is_failure)]
        {
            if let Some((_, observed)) = sides.iter().find(|(differences, _)| accept(differences)) {
                return Ok(observed.clone());
            }
        }
        let sites = set.sites()?;
        if stands(&sites, to)? && !stands(&sites, from)? {
            // Nothing has left `.lastgood` yet; the app has changed files of its release.
            return Ok(Observed::NotDone);
        }
        let nearest = sides.into_iter().map(|(differences, _)| differences).min_by_key(Vec::len);
        let nearest = nearest.unwrap_or_default();
        Ok(Observed::Unknown(format!(
            "what is live is neither of the two: {}",
            Difference::summary(&nearest)
        )))
    }

    /// How what was found differs from a snapshot, or from what once was replaced in its name after it had changed:
    /// whichever is nearer. None where there is no such snapshot.
    pub(super) fn closest(
        &self,
        set: &Set,
        exact: Hash,
        found: &SetManifest,
    ) -> Result<Option<(Hash, Vec<Difference>)>, StoreError> {
        let late = self.records.late_if_read(&set.component, exact)?;
        let mut closest: Option<(Hash, Vec<Difference>)> = None;
        for exact in std::iter::once(exact).chain(late) {
            let record = match self.known(set, exact) {
                Err(StoreError::Unknown { .. }) => continue,
                record => record?,
            };
            let expected = self.records.manifests(&record)?;
            let differences = compare::sets(set, &expected, found);
            let failures = |all: &[Difference]| all.iter().filter(|one| one.is_failure()).count();
            let nearer = closest.as_ref().is_none_or(|(_, best)| {
                (failures(&differences), differences.len()) < (failures(best), best.len())
            });
            if nearer {
                closest = Some((exact, differences));
            }
        }
        Ok(closest)
    }

    fn look(&self, set: &Set) -> Result<SetManifest, StoreError> {
        let shared = self.shared(&set.component)?;
        let sites = set.sites()?;
        let roots = scan::roots(set, &sites, Place::Live)?;
        let found = scan::set(set, &roots, &shared.cache, Read::Changed, Keep::Nothing)?;
        self.save_cache(&set.component, &shared);
        Ok(found.manifest)
    }

    /// From and to of the hold, or why it cannot be read.
    fn hold_if_read(&self, component: &str) -> Result<Option<(Hash, Hash)>, String> {
        match self.hold(component) {
            Ok(hold) => Ok(hold.map(|hold| (hold.from, hold.to))),
            Err(error) => Err(error.reason()),
        }
    }
}
