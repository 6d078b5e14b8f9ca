//! Reading every byte of what stands staged, where a disk may have changed bytes that no time of a file tells of.
//!
//! ```text
//! .lastgood/<name>.<16> ──every byte──▶ as its manifest says? ──no──▶ its seal goes, durable ──▶ set aside: built anew by
//!                                                                     the next stage; the only copy of it stays
//! ```
//!
//! Invariant: nobody waits for it: only what was found wrong is read again while operations wait.
//! Invariant: what is the only copy of something is never removed, however damaged.

use super::{
    Shared, Store,
    beside::set_aside,
    compare::Difference,
    error::{Damage, StoreError},
    hash::Hash,
    manifest::SetManifest,
    records::{Bytes, Record, Standing},
    scan::{Place, Read},
    set::{ComponentFiles, Set, Site, stands},
};

/// What a look at a staged snapshot found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandsAs {
    /// Nothing of it stands beside what is live.
    Nothing,
    /// Every byte is right.
    Whole,
    /// It was not, and was taken out of use; the store builds it anew when it is staged.
    TakenOut(String),
}

impl Store {
    /// Reads every byte of what stands of a snapshot beside the live one, whatever the times of its files say. What is
    /// wrong is taken out of use.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where what is wrong is the only copy; it is left where it is, and is not used.
    pub fn check_staged(
        &self,
        files: &ComponentFiles,
        exact: Hash,
    ) -> Result<StandsAs, StoreError> {
        let set = Set::new(files)?;
        let shared = self.shared(&set.component)?;
        let sites = set.sites()?;
        if !stands(&sites, exact)? {
            return Ok(StandsAs::Nothing);
        }
        let record = match self.known(&set, exact) {
            // It cannot be switched to any more.
            Err(StoreError::OtherPolicy { .. }) => return Ok(StandsAs::Nothing),
            record => record?,
        };
        {
            let _busy = shared.enter();
            if self.hold(&set.component)?.is_some() {
                // A switch is in the middle of it.
                return Ok(StandsAs::Nothing);
            }
            self.read_unread(&set, &sites, &shared)?;
        }
        if self.wrong_bytes(&set, &sites, &shared, &record)?.is_empty() {
            return Ok(StandsAs::Whole);
        }
        // An operation may have taken or changed it meanwhile: now none can.
        let _busy = shared.enter();
        if self.hold(&set.component)?.is_some() || !stands(&sites, exact)? {
            return Ok(StandsAs::Nothing);
        }
        let wrong = self.wrong_bytes(&set, &sites, &shared, &record)?;
        if wrong.is_empty() {
            return Ok(StandsAs::Whole);
        }
        self.take_out(&set, &sites, &record, &wrong)
    }

    /// What differs from the snapshot, or from what was replaced in its name after it had changed: whichever is nearer.
    fn wrong_bytes(
        &self,
        set: &Set,
        sites: &[Site<'_>],
        shared: &Shared,
        record: &Record,
    ) -> Result<Vec<Difference>, StoreError> {
        let look = |manifest: &SetManifest| -> Result<Vec<Difference>, StoreError> {
            let stands = (Place::Staged(record.exact), Read::Everything);
            let wrong = self.wrong(set, sites.iter(), &shared.cache, stands, manifest)?;
            Ok(wrong.into_iter().flat_map(|(_, differences)| differences).collect())
        };
        let wanted = self.wanted(record)?;
        let mut wrong = look(&wanted)?;
        if let (false, Some(late)) =
            (wrong.is_empty(), self.records.late(&set.component, record.exact)?)
        {
            let late = self.wanted(&self.known(set, late)?)?;
            let late = look(&late)?;
            if late.len() < wrong.len() {
                wrong = late;
            }
        }
        Ok(wrong)
    }

    fn take_out(
        &self,
        set: &Set,
        sites: &[Site<'_>],
        record: &Record,
        wrong: &[Difference],
    ) -> Result<StandsAs, StoreError> {
        let (component, exact) = (&set.component, record.exact);
        let standing = self.records.standing(component)?;
        let seals = standing.seals.iter().filter(|seal| seal.exact != exact).cloned().collect();
        self.records.set_standing(component, Standing { seals, ..standing })?;
        let what = format!("what stood staged was not it: {}", Difference::summary(wrong));
        let late = self.records.late(component, exact)?;
        let copy = late.map(|late| self.known(set, late)).transpose()?;
        let copy = copy.as_ref().unwrap_or(record);
        if copy.bytes == Bytes::BesideLive {
            self.records.set_damage(component, copy.exact, Some(&what))?;
            let (component, exact) = (component.clone(), copy.exact);
            return Err(StoreError::Damaged(Box::new(Damage { component, exact, what })));
        }
        for site in sites {
            if let Some(staging) = &site.staging {
                set_aside(site, staging, &site.part.staged_name(exact), exact)?;
            }
        }
        self.records.set_late(component, exact, None)?;
        tracing::error!(component, %exact, what, "a staged release was taken out of use");
        Ok(StandsAs::TakenOut(what))
    }
}
