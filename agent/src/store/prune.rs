//! Pruning: what retention lets go leaves the store, so that it does not grow for ever.
//!
//! ```text
//! records ─▶ Row ─ judge (retention.rs) ─▶ goes ─▶ record out of use, durable ─▶ manifests that nobody else names
//!                                                     ─▶ trees beside the live one set aside ─▶ forgotten ─▶ swept
//! ```
//!
//! A record is taken out of use by a rename to `<exact>.gone`, which says after a crash what is still to be done: the
//! next prune goes on with it. Objects are left; what nobody names any more is freed by whoever cleans the packs.
//!
//! Invariant: whatever a crash leaves is a whole store: a snapshot that is listed has all that it names.
//! Invariant: what is live, was replaced last, is staged or is not read yet is never pruned, whoever asks; where that
//! cannot be told, nothing is.

use std::collections::{BTreeMap, BTreeSet};

use proto::policy::RetentionPolicy;

use super::{
    Store,
    beside::set_aside,
    error::StoreError,
    hash::Hash,
    records::{Bytes, Found, Record, Standing},
    retention::{self, Fate, Keep, Row},
    set::{ComponentFiles, Set, Site, stands},
};

/// So many of the trees that stand sealed beside the live one stay, newest first: those that a rollback is quick with.
const SEALED_KEPT: usize = 4;

/// What is asked of a component's snapshots.
#[derive(Clone, Debug)]
pub struct Ask {
    pub rules: RetentionPolicy,
    /// What must stay beside what the store itself knows of.
    pub keep: Vec<Keep>,
    pub now_unix_ms: i64,
    /// Nothing but these goes, where there is a list.
    pub only: Option<BTreeSet<Hash>>,
    /// Nothing is changed.
    pub dry_run: bool,
}

/// What became of a component's snapshots, or would become of them; newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub rows: Vec<Judged>,
    /// What is named by nothing any more, or would be: the size of the files, before any compression.
    pub freed_bytes: u64,
    /// What the rest takes, where that is more than the rules allow: it must stay.
    pub still_over: Option<u64>,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub exact: Hash,
    /// Its names, oldest first; none where it was replaced without ever having had one.
    pub releases: Vec<String>,
    pub taken_at_unix_ms: i64,
    pub size_bytes: u64,
    pub fate: Fate,
}

/// A component as it is judged.
struct Judgement {
    rows: Vec<Row>,
    fates: Vec<Fate>,
    judged: Vec<Judged>,
}

impl Judgement {
    fn over(&self, ask: &Ask) -> Option<u64> {
        let disk = ask.rules.disk?;
        Some(retention::bytes_taken(&self.rows, &self.fates)).filter(|taken| *taken > disk.0)
    }
}

/// Which objects a snapshot names; read once, for a manifest never changes.
type Objects = BTreeMap<Hash, Vec<(Hash, u64)>>;

impl Store {
    /// Prunes a component's snapshots by rules. What is not asked for by anybody makes way: an operation waits only
    /// for the records of what goes, not for the removal of trees.
    ///
    /// # Errors
    /// [`StoreError::Held`] in the middle of a switch. What went before an error is gone whole.
    pub fn prune(&self, files: &ComponentFiles, ask: &Ask) -> Result<Pruned, StoreError> {
        let set = Set::new(files)?;
        let mut objects = Objects::new();
        // A record that can no longer be read may name anything.
        self.records.everything_again()?;
        let found = self.judged(&set, ask, &mut objects)?;
        let any = found.fates.iter().any(Fate::goes);
        if ask.dry_run || (!any && self.records.retired(&set.component)?.is_empty()) {
            if !ask.dry_run {
                // A crash may have left what was set aside already.
                self.tidy(files)?;
            }
            let freed_bytes = self.freed(&set, &found, &mut objects)?;
            return Ok(Pruned { still_over: found.over(ask), rows: found.judged, freed_bytes });
        }
        let shared = self.shared(&set.component)?;
        let pruned = {
            let _busy = shared.enter();
            self.refuse_held(&set.component)?;
            // What an operation did meanwhile counts.
            let found = self.judged(&set, ask, &mut objects)?;
            let freed_bytes = self.freed(&set, &found, &mut objects)?;
            let sites = set.sites()?;
            for (row, _) in found.rows.iter().zip(&found.fates).filter(|(_, fate)| fate.goes()) {
                self.records.retire(&set.component, row.exact)?;
                self.steps.reach("prune: record out of use")?;
            }
            self.finish_retired(&set, &sites)?;
            Pruned { still_over: found.over(ask), rows: found.judged, freed_bytes }
        };
        self.tidy(files)?;
        Ok(pruned)
    }

    /// Goes on with what was taken out of use, from wherever a crash left it.
    fn finish_retired(&self, set: &Set, sites: &[Site<'_>]) -> Result<(), StoreError> {
        let retired = self.records.retired(&set.component)?;
        self.records.sweep_manifests()?;
        self.steps.reach("prune: manifests gone")?;
        for (exact, _) in retired {
            // The same may have been recorded again since: then only the older record of it goes.
            if self.records.find(&set.component, exact)?.is_none() {
                let standing = self.records.standing(&set.component)?;
                let seals = standing.seals.iter().filter(|seal| seal.exact != exact).cloned();
                let standing = Standing { seals: seals.collect(), ..standing };
                self.records.set_standing(&set.component, standing)?;
                for site in sites {
                    let Some(staging) = &site.staging else { continue };
                    set_aside(site, staging, &site.part.staged_name(exact), exact)?;
                }
                self.steps.reach("prune: trees set aside")?;
                self.records.forget_all_of(&set.component, exact)?;
                self.steps.reach("prune: forgotten")?;
            }
            self.records.drop_retired(&set.component, exact)?;
            self.steps.reach("prune: done with one")?;
        }
        Ok(())
    }

    fn judged(&self, set: &Set, ask: &Ask, objects: &mut Objects) -> Result<Judgement, StoreError> {
        let component = &set.component;
        let sites = set.sites()?;
        let (mut records, mut unreadable) = (Vec::new(), Vec::new());
        for (exact, found) in self.records.all(component)? {
            match found {
                Found::Record(record) => records.push(*record),
                Found::Damaged(damage) => unreadable.push(Judged {
                    exact,
                    releases: Vec::new(),
                    taken_at_unix_ms: 0,
                    size_bytes: 0,
                    fate: Fate::Stays(damage.what),
                }),
            }
        }
        records.sort_by_key(|record| std::cmp::Reverse((taken_at(record), record.exact)));
        let mut rows = Vec::new();
        for record in &records {
            let mut row = self.row(record, &sites)?;
            if ask.rules.disk.is_some() {
                row.objects = self.objects_of(record, objects)?;
            }
            rows.push(row);
        }
        let keep = self.must_stay(component, &ask.keep)?;
        let mut fates = retention::judge(&rows, &ask.rules, &keep, ask.now_unix_ms);
        if let Some(why) = self.records.standing_damage(component)? {
            for fate in &mut fates {
                *fate = Fate::Stays(format!("what is live cannot be told: {why}"));
            }
        }
        if let Some(only) = &ask.only {
            for (row, fate) in rows.iter().zip(&mut fates) {
                if fate.goes() && !only.contains(&row.exact) {
                    *fate = Fate::Stays("not among those that were agreed to".to_owned());
                }
            }
        }
        let judged = records.iter().zip(&fates).map(|(record, fate)| Judged {
            exact: record.exact,
            releases: record.labels.iter().map(|label| label.release.clone()).collect(),
            taken_at_unix_ms: taken_at(record),
            size_bytes: record.size_bytes,
            fate: fate.clone(),
        });
        let judged = judged.chain(unreadable).collect();
        Ok(Judgement { rows, fates, judged })
    }

    fn row(&self, record: &Record, sites: &[Site<'_>]) -> Result<Row, StoreError> {
        let (component, exact) = (&record.component, record.exact);
        let damaged = self.records.damage(component, exact)?.is_some()
            || self.records.missing_manifest(record)?.is_some();
        let stands = stands(sites, exact)?;
        let newest = record.labels.iter().map(|label| label.taken_at_unix_ms).max();
        Ok(Row {
            exact,
            named: !record.labels.is_empty(),
            damaged,
            only_copy: record.bytes == Bytes::BesideLive,
            known_since_unix_ms: record.noticed_at_unix_ms.max(newest.unwrap_or(i64::MIN)),
            late: self.records.late(component, exact)?,
            objects: Vec::new(),
            beside_bytes: if stands { record.size_bytes } else { 0 },
        })
    }

    /// What must stay: what the store itself knows of, then what it was told. The first reason is the one that is shown.
    fn must_stay(&self, component: &str, told: &[Keep]) -> Result<Vec<Keep>, StoreError> {
        let Standing { live, unread, wanted, seals } = self.records.standing(component)?;
        let because = |exact, why: &str| Keep { exact, why: why.to_owned() };
        let mut keep: Vec<Keep> = live.iter().map(|live| because(live.exact, "live")).collect();
        keep.extend_from_slice(told);
        let replaced = live.and_then(|live| live.replaced);
        keep.extend(replaced.map(|exact| because(exact, "what the last switch replaced")));
        keep.extend(unread.map(|exact| because(exact, "what the last switch replaced")));
        keep.extend(wanted.map(|exact| because(exact, "staged for an operation")));
        let newest = seals.iter().rev().take(SEALED_KEPT);
        keep.extend(
            newest.map(|seal| because(seal.exact, "staged: going back to it copies nothing")),
        );
        // What really was replaced in a name that must stay, where it had changed by then.
        let mut late = Vec::new();
        for one in &keep {
            let really = self.records.late(component, one.exact)?;
            late.extend(really.map(|exact| Keep { exact, why: one.why.clone() }));
        }
        keep.extend(late);
        Ok(keep)
    }

    fn objects_of(
        &self,
        record: &Record,
        known: &mut Objects,
    ) -> Result<Vec<(Hash, u64)>, StoreError> {
        if let Some(known) = known.get(&record.exact) {
            return Ok(known.clone());
        }
        let manifests = match self.records.manifests(record) {
            Ok(manifests) => manifests,
            // What it named cannot be told; it counts for nothing.
            Err(StoreError::Damaged(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let trees_elsewhere = record.bytes == Bytes::BesideLive;
        let parts = manifests.parts.iter().zip(&record.parts);
        let stored = parts.filter(|(_, part)| part.shape.keep.is_none() || !trees_elsewhere);
        let objects = stored.flat_map(|(part, _)| part.files()).map(|(_, size, hash)| (hash, size));
        let objects: BTreeMap<Hash, u64> = objects.collect();
        let objects: Vec<(Hash, u64)> = objects.into_iter().collect();
        known.insert(record.exact, objects.clone());
        Ok(objects)
    }

    /// What nothing names once that is gone which goes: trees, and objects that no snapshot of any component needs.
    fn freed(
        &self,
        set: &Set,
        found: &Judgement,
        objects: &mut Objects,
    ) -> Result<u64, StoreError> {
        let going: BTreeSet<Hash> = found
            .rows
            .iter()
            .zip(&found.fates)
            .filter_map(|(row, fate)| fate.goes().then_some(row.exact))
            .collect();
        if going.is_empty() {
            return Ok(0);
        }
        let rows = found.rows.iter().filter(|row| going.contains(&row.exact));
        let trees = rows.fold(0u64, |sum, row| sum.saturating_add(row.beside_bytes));
        let (mut freed, mut needed) = (BTreeMap::new(), Vec::new());
        for component in self.records.components()? {
            for (exact, record) in self.records.all(&component)? {
                let Found::Record(record) = record else { continue };
                let named = self.objects_of(&record, objects)?;
                if component == set.component && going.contains(&exact) {
                    freed.extend(named);
                } else {
                    needed.push(named);
                }
            }
        }
        for (object, _) in needed.into_iter().flatten() {
            freed.remove(&object);
        }
        Ok(freed.values().fold(trees, |sum, size| sum.saturating_add(*size)))
    }
}

/// When it was taken under its newest name; when it was noticed, where it has none.
fn taken_at(record: &Record) -> i64 {
    let taken = record.labels.iter().map(|label| label.taken_at_unix_ms).max();
    taken.unwrap_or(record.noticed_at_unix_ms)
}
