//! Stage: build the wanted release beside the live one, while that one still serves.
//!
//! ```text
//! hash what is live (`before`, durable; single files into the store)
//!   └▶ standing already, whole?  ──yes──▶ done
//!        └no▶ another release stands? ──yes──▶ taken over and changed (reuse.rs)
//!             └no▶ room? ──▶ build at .lastgood/tmp.<name>.<16> ──sync──▶ read every byte back ──▶ .lastgood/<name>.<16>
//! ```
//!
//! Invariant: nothing live changes, whatever fails; what was built in part is removed.
//! Invariant: what stands under its final name was read back whole after it was made durable; of a tree that was taken
//! over, what is new in it. When it is staged again, what of it changed since is read (seals.rs says why that is enough).

use std::collections::BTreeSet;

use proto::policy::SwitchMode;
use rustix::fs::StatVfsMountFlags;

use super::{
    Shared, Store,
    beside::{finish, is_link, refuse_no_exchange, set_aside, sweep, sweep_gone},
    build::Builder,
    cache::Cache,
    compare::{self, Difference, DifferenceKind},
    dir::{self, Dir, Rename},
    error::StoreError,
    hash::Hash,
    manifest::{Manifest, SetManifest},
    mounts, privileged,
    records::{Bytes, LivePointer, Record, Standing},
    remove,
    scan::{self, Keep, Place, Read, Root},
    seals,
    set::{ComponentFiles, Part, PartKind, Set, Site, stands},
    space::{self, Needs},
};

/// What a stage left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// What is live now: where a switch goes from, and what its undo goes back to.
    pub before: Hash,
    /// What was changed by hand, or by the app, since the store itself last put or captured the live release.
    pub drift: Vec<String>,
    /// Nothing was copied: it stood there whole, or is what is live.
    pub already: bool,
}

/// Which staged releases may be taken to build another one from: this one first, then the oldest.
#[derive(Clone, Copy, Debug)]
struct Donors {
    first: Option<Hash>,
    others: bool,
    /// It is work that nobody waits for.
    background: bool,
}

/// Whether a stage would fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preflight {
    /// With the margin; 0 where nothing has to be built.
    pub bytes_needed: u64,
    /// On the filesystem where it is tightest.
    pub bytes_free: u64,
    pub notes: Vec<String>,
}

impl Store {
    /// Says whether the way to a snapshot is there: it is known and whole by metadata, there is room for it, and its
    /// trees can be switched. Changes nothing.
    ///
    /// # Errors
    /// What stands in the way. [`StoreError::NoSpace`] names what is needed and what is free.
    pub fn preflight(&self, files: &ComponentFiles, to: Hash) -> Result<Preflight, StoreError> {
        let set = Set::new(files)?;
        mounts::refuse(&set)?;
        let record = self.known(&set, to)?;
        let manifest = self.wanted(&record)?;
        privileged::refuse_stored(&set, to, &manifest)?;
        let sites = set.sites()?;
        // Opens every live root: each must be there, and on the filesystem that it would be staged on.
        scan::roots(&set, &sites, Place::Live)?;
        refuse_keep_elsewhere(&set, &sites)?;
        let staged = scan::roots(&set, &sites, Place::Staged(to))?;
        let mut notes = Vec::new();
        let mut needs = Needs::default();
        for site in &sites {
            refuse_read_only(&site.parent)?;
            if matches!(staged.get(site.index), Some(Root::Tree(_))) {
                notes.push(format!("{} stands staged already", site.part.shown()));
                continue;
            }
            self.refuse_incomplete(&set, &record, &manifest, site)?;
            for (_, part) in own_parts(&set, &manifest, site) {
                let (bytes, entries) = space::to_build(&self.objects, part.entries.iter())?;
                needs.add_size(&site.parent, bytes, entries)?;
            }
        }
        needs.check()?;
        let (bytes_needed, bytes_free) = needs.tightest();
        Ok(Preflight { bytes_needed, bytes_free, notes })
    }

    /// Builds a snapshot beside what is live and checks every byte of it, and makes what is live known and durable.
    ///
    /// # Errors
    /// Nothing live is changed by any. [`StoreError::NoSpace`] where it does not fit, [`StoreError::Damaged`] where
    /// the store no longer has its bytes.
    pub fn stage(&self, files: &ComponentFiles, to: Hash) -> Result<Staged, StoreError> {
        let set = Set::new(files)?;
        let shared = self.shared(&set.component)?;
        let _busy = shared.enter();
        self.refuse_held(&set.component)?;
        mounts::refuse(&set)?;
        let _manifests = self.records.work();
        let record = self.known(&set, to)?;
        let manifest = self.wanted(&record)?;
        privileged::refuse_stored(&set, to, &manifest)?;
        let mut sites = set.sites()?;
        refuse_keep_elsewhere(&set, &sites)?;
        let staged = self.stage_set(&set, &mut sites, &shared, &record, &manifest);
        self.save_cache(&set.component, &shared);
        staged.map_err(|error| self.with_room(error, &sites))
    }

    fn stage_set(
        &self,
        set: &Set,
        sites: &mut [Site<'_>],
        shared: &Shared,
        record: &Record,
        manifest: &SetManifest,
    ) -> Result<Staged, StoreError> {
        let to = record.exact;
        let notes = self.read_unread(set, sites, shared)?;
        if !notes.is_empty() {
            tracing::info!(component = set.component, notes = notes.join("; "), "replaced before");
        }
        let (before, drift) = self.capture_before(set, sites, shared)?;
        self.steps.reach("stage: before known")?;
        let standing = self.records.standing(&set.component)?;
        let live = standing.live.map(|live| LivePointer { replaced: None, ..live });
        let wanted = Some(to);
        self.records.set_standing(&set.component, Standing { live, wanted, ..standing })?;
        // What stands as a copy of the live one is nearest to anything, and least needed.
        let donors = Donors { first: Some(before), others: true, background: false };
        let already = before == to || self.place(set, sites, shared, record, manifest, donors)?;
        if before != to && !already {
            // It was read back as it was built.
            self.records.set_verified(&set.component, to)?;
        }
        if before != to {
            self.seal(set, sites, to)?;
            self.steps.reach("stage: sealed")?;
        }
        Ok(Staged { before, drift, already })
    }

    /// Makes a release stand beside what is live before anybody asks for it, so that going back to it copies nothing.
    /// At most `most` releases stand so: beyond that the oldest becomes this one. Off the critical path.
    ///
    /// # Errors
    /// As [`Store::stage`]; nothing live is changed by any. [`StoreError::Yielded`] where an operation came in between.
    pub fn prestage(
        &self,
        files: &ComponentFiles,
        exact: Hash,
        most: usize,
    ) -> Result<(), StoreError> {
        let set = Set::new(files)?;
        let shared = self.shared(&set.component)?;
        let _busy = super::lock(&shared.busy);
        self.refuse_held(&set.component)?;
        mounts::refuse(&set)?;
        let record = self.known(&set, exact)?;
        let manifest = self.wanted(&record)?;
        privileged::refuse_stored(&set, exact, &manifest)?;
        let mut sites = set.sites()?;
        if !sites.iter().all(seals::can_seal) {
            // With `switch: link` the app's own releases stand side by side already.
            return Ok(());
        }
        self.read_unread(&set, &sites, &shared)?;
        let others = self.records.standing(&set.component)?.seals.len() >= most;
        let donors = Donors { first: None, others, background: true };
        self.place(&set, &mut sites, &shared, &record, &manifest, donors)?;
        self.seal(&set, &sites, exact)?;
        self.save_cache(&set.component, &shared);
        Ok(())
    }

    /// Removes what was taken out of use under `.lastgood`. To be called when nobody waits.
    pub fn tidy(&self, files: &ComponentFiles) -> Result<(), StoreError> {
        let set = Set::new(files)?;
        let sites = set.sites()?;
        if sites.iter().all(seals::can_seal) {
            // Names that were taken out of use are never used again, so no operation has to wait.
            return sites.iter().try_for_each(sweep_gone);
        }
        let shared = self.shared(&set.component)?;
        let _busy = shared.enter();
        self.refuse_held(&set.component)?;
        sites.iter().filter(|site| site.staging.is_some()).try_for_each(sweep)
    }

    /// Whether a snapshot stands beside what is live, so that nothing has to be copied to go back to it.
    pub fn is_staged(&self, files: &ComponentFiles, exact: Hash) -> Result<bool, StoreError> {
        let set = Set::new(files)?;
        let record = self.known(&set, exact)?;
        let absent = Manifest::default().exact();
        for site in set.sites()? {
            if record.parts.get(site.index).is_some_and(|part| part.exact == absent) {
                continue;
            }
            let Some(staging) = &site.staging else { return Ok(false) };
            if staging.stat(&site.part.staged_name(exact))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes what stands staged of a snapshot, unless it is the only place where its bytes are. Returns what was
    /// left standing, and why.
    ///
    /// # Errors
    /// [`StoreError::Held`] in the middle of a switch.
    pub fn discard(&self, files: &ComponentFiles, exact: Hash) -> Result<Vec<String>, StoreError> {
        let set = Set::new(files)?;
        let shared = self.shared(&set.component)?;
        let _busy = shared.enter();
        self.refuse_held(&set.component)?;
        let record = self.known(&set, exact)?;
        let mut notes = self.read_unread(&set, &set.sites()?, &shared)?;
        let only_copy = match self.records.late(&set.component, exact)? {
            Some(late) => self.known(&set, late)?.bytes == Bytes::BesideLive,
            None => record.bytes == Bytes::BesideLive,
        };
        let sites = set.sites()?;
        if only_copy && stands(&sites, exact)? {
            let beside = sites.first().map(|site| site.parent.at(super::STAGING.as_bytes()));
            let beside = beside.unwrap_or_default();
            notes.push(format!("{beside} was left alone: it holds the only copy of {exact}"));
            return Ok(notes);
        }
        for site in &sites {
            let Some(staging) = &site.staging else { continue };
            set_aside(site, staging, &site.part.staged_name(exact), exact)?;
            sweep(site)?;
        }
        self.records.set_late(&set.component, exact, None)?;
        Ok(notes)
    }

    /// Hashes what is live and makes it known; returns its name, and what of it drifted.
    fn capture_before(
        &self,
        set: &Set,
        sites: &[Site<'_>],
        shared: &Shared,
    ) -> Result<(Hash, Vec<String>), StoreError> {
        let batch = self.objects.batch();
        let roots = scan::roots(set, sites, Place::Live)?;
        let keep = Keep::SingleFiles(&batch);
        let scanned = scan::set(set, &roots, &shared.cache, Read::Changed, keep)?;
        let _named = batch.commit()?;
        // What a deploy has just written is only in memory, and would be lost with the power: an undo goes back to it.
        let mut durable = BTreeSet::new();
        for site in sites {
            if durable.insert(site.parent.own_stat()?.st_dev) {
                site.parent.sync_filesystem()?;
            }
        }
        self.steps.reach("stage: live durable")?;
        let mut drift = Vec::new();
        if let Some(path) = &scanned.unsettled {
            drift.push(format!("{path} keeps changing while it is read"));
        }
        let last = match self.records.live(&set.component)? {
            Some(live) => match self.closest(set, live.exact, &scanned.manifest) {
                // Taken under another policy, or damaged: nothing to compare with.
                Err(StoreError::OtherPolicy { .. } | StoreError::Damaged(_)) => None,
                closest => closest?,
            },
            None => None,
        };
        if let Some((exact, differences)) = last {
            if differences.is_empty() {
                return Ok((exact, drift));
            }
            drift.extend(Difference::worth_telling(&differences));
        }
        Ok((self.notice(set, &scanned)?, drift))
    }

    /// Makes a snapshot stand beside the live one; says whether it already did.
    fn place(
        &self,
        set: &Set,
        sites: &mut [Site<'_>],
        shared: &Shared,
        record: &Record,
        manifest: &SetManifest,
        donors: Donors,
    ) -> Result<bool, StoreError> {
        let to = record.exact;
        for site in sites.iter_mut() {
            site.ensure_staging()?;
            if site.mode() == SwitchMode::Exchange {
                refuse_no_exchange(site)?;
            }
        }
        let sites = &*sites;
        let stands = (Place::Staged(to), Read::Changed);
        let wrong = self.wrong(set, sites.iter(), &shared.cache, stands, manifest)?;
        let missing: Vec<&Site<'_>> = wrong.into_iter().map(|(site, _)| site).collect();
        if missing.is_empty() {
            return Ok(true);
        }
        if record.bytes == Bytes::BesideLive && self.stands_late(set, sites, &shared.cache, to)? {
            return Ok(true);
        }
        for site in &missing {
            self.refuse_incomplete(set, record, manifest, site)?;
        }
        let built = self.build(set, sites, &missing, shared, (to, manifest), donors);
        if let Err(StoreError::Yielded { .. }) = built {
            // Whoever waits does not wait for a removal either.
            for site in &missing {
                set_aside(site, site.staging()?, &site.part.building_name(to), to)?;
            }
        } else if built.is_err() {
            for site in &missing {
                if let Err(error) = sweep(site) {
                    let reason = error.reason();
                    tracing::warn!(reason, "a release that was built in part was left behind");
                }
            }
        }
        built.map(|()| false)
    }

    fn build(
        &self,
        set: &Set,
        sites: &[Site<'_>],
        missing: &[&Site<'_>],
        shared: &Shared,
        (to, manifest): (Hash, &SetManifest),
        donors: Donors,
    ) -> Result<(), StoreError> {
        let mut needs = Needs::default();
        for site in missing {
            self.clear(set, site, to)?;
            // Removing takes time, which is there when nobody waits for a way back.
            set_aside(site, site.staging()?, &site.part.building_name(to), to)?;
        }
        let mut reused = Vec::new();
        if let Some(donor) = self.donor(set, to, donors)? {
            reused = self.reuse(set, sites, missing, shared, (to, manifest), donor)?;
        }
        let rest: Vec<&Site<'_>> =
            missing.iter().copied().filter(|site| !reused.contains(&site.index)).collect();
        for site in &rest {
            for (_, part) in own_parts(set, manifest, site) {
                let (bytes, entries) = space::to_build(&self.objects, part.entries.iter())?;
                needs.add_size(site.staging()?, bytes, entries)?;
            }
        }
        if needs.check().is_err() {
            for site in missing {
                sweep(site)?;
            }
            needs.look_again(&rest)?;
        }
        needs.check()?;
        self.steps.reach("stage: space reserved")?;
        for site in &rest {
            self.build_site(set, site, shared, (to, manifest), donors).map_err(|error| {
                let staging = site.staging();
                match staging.and_then(|staging| out_of_space(&error, staging, &needs, site, to)) {
                    Ok(Some(no_space)) => no_space,
                    Ok(None) | Err(_) => error,
                }
            })?;
        }
        self.steps.reach("stage: built")?;
        let (built, new) = (rest.iter().copied(), (Place::Building(to), Read::Everything));
        let wrong = self.wrong(set, built, &shared.cache, new, manifest)?;
        if let Some((site, differences)) = wrong.into_iter().next() {
            let path = site.staging()?.at(&site.part.building_name(to));
            return Err(StoreError::StagedWrong { path, differences });
        }
        for site in missing {
            finish(site, to)?;
        }
        // What stands is this snapshot itself now, not what once was replaced in its name.
        self.records.set_late(&set.component, to, None)?;
        self.steps.reach("stage: in place")
    }

    /// Which release's staged trees are taken to build another from.
    fn donor(&self, set: &Set, to: Hash, donors: Donors) -> Result<Option<Hash>, StoreError> {
        let standing = self.records.standing(&set.component)?;
        // An operation that is under way, or may still be undone, needs these where they are.
        let replaced = standing.live.and_then(|live| live.replaced);
        let taken = |exact: &Hash| [Some(to), standing.wanted, replaced].contains(&Some(*exact));
        let mut sealed = standing.seals.iter().map(|seal| seal.exact).filter(|one| !taken(one));
        if let Some(first) = donors.first.filter(|first| sealed.clone().any(|one| one == *first)) {
            return Ok(Some(first));
        }
        Ok(if donors.others { sealed.next() } else { None })
    }

    fn build_site(
        &self,
        set: &Set,
        site: &Site<'_>,
        shared: &Shared,
        (to, manifest): (Hash, &SetManifest),
        donors: Donors,
    ) -> Result<(), StoreError> {
        let builder = Builder {
            objects: &self.objects,
            records: &self.records,
            component: &set.component,
            exact: to,
            yields_to: donors.background.then_some(&shared.waiting),
        };
        let staging = site.staging()?;
        let name = site.part.building_name(to);
        let mut own = own_parts(set, manifest, site);
        let Some((_, first)) = own.next().filter(|(_, first)| !first.entries.is_empty()) else {
            // It is absent in this release.
            return Ok(());
        };
        if !matches!(site.part.kind, PartKind::Tree { .. }) {
            builder.file(staging, &name, first)?;
            return staging.sync();
        }
        let inner: Vec<(&[u8], _)> = own
            .filter_map(|(part, manifest)| match &part.kind {
                PartKind::Inner { rel, .. } => Some((rel.as_slice(), manifest)),
                PartKind::Tree { .. } | PartKind::File => None,
            })
            .collect();
        builder.tree(staging, &name, first, &inner)?;
        staging.sync_filesystem()
    }

    /// The sites whose own part, or a single file inside it, is not as a manifest says.
    pub(super) fn wrong<'s, 'p>(
        &self,
        set: &Set,
        sites: impl Iterator<Item = &'s Site<'p>>,
        cache: &Cache,
        (place, read): (Place, Read),
        manifest: &SetManifest,
    ) -> Result<Vec<(&'s Site<'p>, Vec<Difference>)>, StoreError>
    where
        'p: 's,
    {
        let mut wrong = Vec::new();
        for site in sites {
            let roots = scan::roots(set, std::slice::from_ref(site), place)?;
            let wanted = manifest.parts.get(site.index);
            if let Some(Root::Absent) = roots.get(site.index)
                && wanted.is_some_and(|part| !part.entries.is_empty())
            {
                // One line for it, not one for every path of it.
                let (path, kind) = (site.part.shown(), DifferenceKind::Missing);
                wrong.push((site, vec![Difference { path, kind }]));
                continue;
            }
            let found = scan::set(set, &roots, cache, read, Keep::Nothing)?;
            let own = own_parts(set, manifest, site).zip(own_parts(set, &found.manifest, site));
            let differences: Vec<Difference> = own
                .flat_map(|((part, expected), (_, found))| compare::part(part, expected, found))
                .collect();
            if !differences.is_empty() {
                wrong.push((site, differences));
            }
        }
        Ok(wrong)
    }

    /// Whether what was replaced in this snapshot's name, and had changed by then, stands as it was replaced.
    fn stands_late(
        &self,
        set: &Set,
        sites: &[Site<'_>],
        cache: &Cache,
        exact: Hash,
    ) -> Result<bool, StoreError> {
        let late = self.records.late_if_read(&set.component, exact)?;
        let Some(late) = late else { return Ok(false) };
        let manifest = self.records.manifests(&self.known(set, late)?)?;
        let stands = (Place::Staged(exact), Read::Changed);
        Ok(self.wrong(set, sites.iter(), cache, stands, &manifest)?.is_empty())
    }

    /// Refuses a site that can be built from nothing.
    fn refuse_incomplete(
        &self,
        set: &Set,
        record: &Record,
        manifest: &SetManifest,
        site: &Site<'_>,
    ) -> Result<(), StoreError> {
        // What an earlier check found counts, but only where objects are needed.
        self.records.require(&set.component, record.exact)?;
        for (part, manifest) in own_parts(set, manifest, site) {
            let is_tree = matches!(part.kind, PartKind::Tree { .. });
            if is_tree && !manifest.entries.is_empty() && record.bytes == Bytes::BesideLive {
                let (component, exact) = (set.component.clone(), record.exact);
                let path = site.parent.at(super::STAGING.as_bytes());
                return Err(StoreError::NoBytes { component, exact, path });
            }
            for (path, size_bytes, hash) in manifest.files() {
                if !self.objects.contains(hash, size_bytes)? {
                    let at = self.objects.at(hash);
                    let what = super::build::damaged_object(path, &at, "is missing");
                    self.records.set_damage(&set.component, record.exact, Some(&what))?;
                    self.records.require(&set.component, record.exact)?;
                }
            }
        }
        Ok(())
    }

    /// Frees the name of a snapshot under `.lastgood`, removing nothing. A tree that was replaced in that name after it had changed
    /// goes to its own name; anything else is a copy that no longer is whole.
    pub(super) fn clear(&self, set: &Set, site: &Site<'_>, exact: Hash) -> Result<(), StoreError> {
        let staging = site.staging()?;
        let name = site.part.staged_name(exact);
        if staging.stat(&name)?.is_none() {
            return Ok(());
        }
        let live = &site.part.name;
        if site.mode() == SwitchMode::Link
            && is_link(&site.parent, live)?
            && site.link_target(staging, &name)? == site.link_target(&site.parent, live)?
        {
            // Only says where the live release is.
            return staging.unlink(&name);
        }
        if let Some(late) = self.records.late(&set.component, exact)? {
            let own = site.part.staged_name(late);
            if staging.stat(&own)?.is_none() {
                staging.rename(&name, staging, &own, Rename::New)?;
                return staging.sync();
            }
        }
        set_aside(site, staging, &name, exact)
    }
}

/// The part of a site, and the single files inside it, with their manifests; the site's own first.
pub(super) fn own_parts<'a>(
    set: &'a Set,
    manifest: &'a SetManifest,
    site: &Site<'_>,
) -> impl Iterator<Item = (&'a Part, &'a Manifest)> + use<'a> {
    let own = site.index;
    let parts = set.parts.iter().zip(&manifest.parts).enumerate();
    let inner = parts.clone().filter(move |(_, (part, _))| match part.kind {
        PartKind::Inner { tree, .. } => tree == own,
        PartKind::Tree { .. } | PartKind::File => false,
    });
    parts.filter(move |(index, _)| *index == own).chain(inner).map(|(_, part)| part)
}

fn refuse_read_only(dir: &Dir) -> Result<(), StoreError> {
    let stat = rustix::fs::fstatvfs(dir)
        .map_err(|errno| StoreError::Stat { path: dir.at(b""), source: errno.into() })?;
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(StoreError::Create {
            path: dir.at(super::STAGING.as_bytes()),
            source: rustix::io::Errno::ROFS.into(),
        });
    }
    Ok(())
}

/// A kept path is moved by rename, so it has to be on its tree's filesystem.
fn refuse_keep_elsewhere(set: &Set, sites: &[Site<'_>]) -> Result<(), StoreError> {
    let roots = scan::roots(set, sites, Place::Live)?;
    for (part, root) in set.parts.iter().zip(&roots) {
        let Root::Tree(tree) = root else { continue };
        let device = tree.own_stat()?.st_dev;
        for keep in part.keep() {
            let (above, name) = dir::split(keep);
            let Some(above) = tree.dir_if_there(above)? else { continue };
            if above.stat(name)?.is_some_and(|stat| stat.st_dev != device) {
                return Err(StoreError::Mount { path: above.at(name) });
            }
        }
    }
    Ok(())
}

/// The error that says how much was needed, where the disk filled up while it was being built.
fn out_of_space(
    error: &StoreError,
    staging: &Dir,
    needs: &Needs,
    site: &Site<'_>,
    to: Hash,
) -> Result<Option<StoreError>, StoreError> {
    if !error.is_no_space() {
        return Ok(None);
    }
    remove::tree(staging, &site.part.building_name(to))?;
    let (needed_bytes, _) = needs.tightest();
    let (free_bytes, _) = space::free(staging)?;
    Ok(Some(StoreError::NoSpace { path: staging.at(b""), needed_bytes, free_bytes }))
}
