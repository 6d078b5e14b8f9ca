//! Switch: the staged set takes the place of the live one, between stop and start.
//!
//! ```text
//! hold, durable ▶ kept paths move over ▶ every part changes places ▶ times of touched directories set back
//!   ▶ names durable ▶ recorded, durable ▶ hold lifted        nothing here depends on the size of the trees
//! ```
//!
//! That is so where the target is sealed (seals.rs says what stands for its digest, and when the replaced tree is read).
//! Where it is not, and after a crash, what is replaced is looked at before anything moves, and what is live before the
//! hold is lifted.
//!
//! Every step looks before it acts, so that the same call goes on after a crash at any point, and the call with from
//! and to exchanged takes the whole set back.
//!
//! A move into or out of a directory changes its modification time. The times of the root and of every directory above
//! a kept path are therefore set back, in both trees, to what the hold says that they were: the digest covers them like any other.
//!
//! Invariant: each declared path is one whole version at every instant; with `switch: exchange` it is never absent.
//! Invariant: nothing that a switch replaces is removed by it.
//! Invariant: the hold is lifted only on an equal digest or an unbroken seal, after everything that moved is durable.

use std::collections::BTreeSet;

use proto::policy::SwitchMode;
use rustix::fs::FileType;

use super::{
    Shared, Store, beside,
    compare::Difference,
    dir::{self, Dir, Rename},
    error::{StoreError, shown},
    hash::Hash,
    hold::{Hold, Mark, Marks, Time},
    manifest::{Manifest, SetManifest},
    meta,
    records::{LivePointer, Record},
    scan::{self, Keep, Place, Read, Root},
    seals,
    set::{ComponentFiles, Part, PartKind, Set, Site, stands},
};

/// What a switch has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Switched {
    /// What changed between staging and the stop, which sockets stayed with the replaced tree, and the like.
    pub notes: Vec<String>,
}

impl Store {
    /// Puts snapshot `to`, which was staged, into the place of `from`, which is live. **The component's services must
    /// be stopped.** Call it again with the same arguments to go on after a crash, or with the two exchanged to take
    /// it back; the same exchange is how a finished switch is undone.
    ///
    /// # Errors
    /// After an error the component may be held ([`Store::held`]): it must not be started before one of these two
    /// calls has succeeded. [`StoreError::Digest`] where what is live afterwards is not `to`.
    pub fn switch(
        &self,
        files: &ComponentFiles,
        from: Hash,
        to: Hash,
    ) -> Result<Switched, StoreError> {
        let set = Set::new(files)?;
        let shared = self.shared(&set.component)?;
        let _busy = shared.enter();
        let sites = set.sites()?;
        let switch = Switch {
            store: self,
            set: &set,
            sites: &sites,
            shared: &shared,
            source: self.known(&set, from)?,
            target: self.known(&set, to)?,
        };
        switch.run().map_err(|error| self.with_room(error, &sites))
    }
}

/// One switch of one component.
struct Switch<'a> {
    store: &'a Store,
    set: &'a Set,
    sites: &'a [Site<'a>],
    shared: &'a Shared,
    source: Record,
    target: Record,
}

impl Switch<'_> {
    fn run(&self) -> Result<Switched, StoreError> {
        let component = &self.set.component;
        let (from, to) = (self.source.exact, self.target.exact);
        let mut switched = Switched::default();
        let begun = self.store.hold_of(component, from, to)?;
        let is_new = begun.is_none();
        if is_new {
            switched.notes = self.store.read_unread(self.set, self.sites, self.shared)?;
        }
        // After a crash everything is looked at, sealed or not.
        let sealed = is_new && self.store.is_sealed(self.set, self.sites, to)?;
        let hold = match begun {
            Some(hold) => hold,
            None if self.nothing_to_move(&mut switched)? => {
                self.finish(false, None, &mut switched)?;
                switched.notes.push("nothing had to be moved".to_owned());
                return Ok(switched);
            }
            None => {
                let files = u64::max(self.source.files, self.target.files);
                self.store.refuse_no_room_to_switch(self.sites, sealed, files)?;
                let hold = self.begin()?;
                self.store.set_hold(component, &hold)?;
                hold
            }
        };
        self.store.steps.reach("switch: held")?;
        let mut unread = (hold.was_live == from && self.out_of_reach()).then_some(from);
        if sealed {
            self.store_single_files()?;
        } else if is_new || self.nothing_moved(&hold)? {
            self.save_late_changes(hold.was_live, &mut switched)?;
            unread = None;
        }
        self.store.steps.reach("switch: replaced known")?;

        for (site, marks) in self.moving(&hold)? {
            self.move_keep(site, marks)?;
        }
        for (site, marks) in self.moving(&hold)? {
            self.exchange(site, marks)?;
        }
        for (site, marks) in self.moving(&hold)? {
            self.settle(site, marks)?;
        }
        self.store.steps.reach("switch: durable")?;
        if hold.was_live == to {
            // What comes back is what it was, with what the app changed until it stopped.
            self.save_late_changes(to, &mut switched)?;
        }
        self.finish(sealed, unread, &mut switched)?;
        self.store.steps.reach("switch: recorded")?;
        self.store.lift_hold(component)?;
        Ok(switched)
    }

    /// Whether what is replaced will stand where nobody else can reach it, so that it can be looked at later.
    fn out_of_reach(&self) -> bool {
        self.sites.iter().all(seals::can_seal)
    }

    /// The bytes of the declared single files go into the store before anything moves; mostly they are there.
    fn store_single_files(&self) -> Result<(), StoreError> {
        let mut roots = scan::roots(self.set, self.sites, Place::Live)?;
        for root in &mut roots {
            if let Root::Tree(_) = root {
                *root = Root::Absent;
            }
        }
        let batch = self.store.objects.batch();
        let keep = Keep::SingleFiles(&batch);
        let scanned = scan::set(self.set, &roots, &self.shared.cache, Read::Changed, keep)?;
        match scanned.unsettled {
            // Its services stopped, so nothing should.
            Some(path) => Err(StoreError::Changing { path }),
            // They stand beside afterwards, and are looked at again before they are named.
            None => batch.commit().map(drop),
        }
    }

    /// Looks at both sides of every part. Refuses before anything has moved what could not be moved later.
    fn begin(&self) -> Result<Hold, StoreError> {
        let absent = Manifest::default().exact();
        let mut parts = Vec::new();
        for site in self.sites {
            let staging = site.staging().map_err(|_| self.not_staged(site))?;
            let from = mark(site, &site.parent, &site.part.name)?;
            let to = mark(site, staging, &site.part.staged_name(self.target.exact))?;
            let is_absent =
                self.target.parts.get(site.index).is_some_and(|part| part.exact == absent);
            if to == Mark::Nothing && !is_absent {
                return Err(self.not_staged(site));
            }
            if !site.part.may_be_absent() && from == Mark::Nothing {
                return Err(StoreError::Open {
                    path: site.part.shown(),
                    source: std::io::ErrorKind::NotFound.into(),
                });
            }
            if site.mode() == SwitchMode::Exchange {
                beside::refuse_no_exchange(site)?;
            }
            // An older copy of what is live may stand where the replaced tree has to go.
            self.store.clear(self.set, site, self.source.exact)?;
            let (from_times, to_times) = (Vec::new(), Vec::new());
            let mut marks = Marks { part: site.index, from, to, from_times, to_times };
            marks.from_times = self.times(site, &marks.from)?;
            marks.to_times = self.times(site, &marks.to)?;
            self.refuse_keep_twice(site, &marks)?;
            parts.push(marks);
        }
        let (from, to) = (self.source.exact, self.target.exact);
        Ok(Hold { from, to, was_live: from, parts })
    }

    /// Whether `to` is live without a move: the switch has ended before, or is the way back of one that never began.
    fn nothing_to_move(&self, switched: &mut Switched) -> Result<bool, StoreError> {
        let (from, to) = (self.source.exact, self.target.exact);
        if from == to {
            return Ok(true);
        }
        if stands(self.sites, to)? {
            return Ok(false);
        }
        let put = LivePointer { exact: to, replaced: Some(from) };
        if self.store.records.live(&self.set.component)? == Some(put) {
            return Ok(true);
        }
        if stands(self.sites, from)? {
            // It never left `.lastgood`: what is live is what it was, with what the app changed until it stopped.
            self.save_late_changes(to, switched)?;
            return Ok(true);
        }
        let closest = self.store.closest(self.set, to, &self.scan_live()?)?;
        Ok(closest.is_some_and(|(_, differences)| differences.is_empty()))
    }

    /// Whether every name is where it was when the hold was taken. The hold may be that of a run before a crash.
    fn nothing_moved(&self, hold: &Hold) -> Result<bool, StoreError> {
        for (site, marks) in self.moving(hold)? {
            let (was, comes) = if hold.was_live == hold.from {
                (&marks.from, &marks.to)
            } else {
                (&marks.to, &marks.from)
            };
            if mark(site, &site.parent, &site.part.name)? != *was {
                return Ok(false);
            }
            let (Some(was), Some(comes)) = (self.tree_of(site, was)?, self.tree_of(site, comes)?)
            else {
                continue;
            };
            for keep in site.part.keep() {
                if kept_in(&comes, keep)?.is_some() && kept_in(&was, keep)?.is_none() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The services have stopped: what is live now, as `was`, is what will have been replaced. Makes it known if it no
    /// longer is what was known when the target was staged.
    fn save_late_changes(&self, was: Hash, switched: &mut Switched) -> Result<(), StoreError> {
        let store = self.store;
        let batch = store.objects.batch();
        let roots = scan::roots(self.set, self.sites, Place::Live)?;
        let keep = Keep::SingleFiles(&batch);
        let cache = &self.shared.cache;
        let scanned = scan::set(self.set, &roots, cache, Read::Changed, keep)?;
        if let Some(path) = scanned.unsettled {
            // Its services stopped, so nothing should.
            return Err(StoreError::Changing { path });
        }
        let _named = batch.commit()?;
        for path in &scanned.skipped {
            switched.notes.push(format!("{path} is no file and stays with what is replaced"));
        }
        let known = store.closest(self.set, was, &scanned.manifest)?;
        let differences = known.map(|(_, differences)| differences).unwrap_or_default();
        if differences.is_empty() {
            return Ok(());
        }
        let really = store.notice(self.set, &scanned)?;
        store.records.set_late(&self.set.component, was, Some(really))?;
        let changes = Difference::worth_telling(&differences);
        switched
            .notes
            .extend(changes.into_iter().map(|change| format!("{change} since it was staged")));
        Ok(())
    }

    /// Moves every kept path from the tree that goes to the tree that comes.
    fn move_keep(&self, site: &Site<'_>, marks: &Marks) -> Result<(), StoreError> {
        let (Some(from), Some(to)) =
            (self.tree_of(site, &marks.from)?, self.tree_of(site, &marks.to)?)
        else {
            return Ok(());
        };
        self.refuse_keep_twice(site, marks)?;
        for keep in site.part.keep() {
            let Some(source) = kept_in(&from, keep)? else { continue };
            let (_, name) = dir::split(keep);
            let place = carry(&from, &to, keep)?;
            source.rename(name, &place, name, Rename::New)?;
            self.store.steps.reach(&format!("switch: kept {}", shown(keep)))?;
        }
        Ok(())
    }

    /// Brings one part to where `to` is live and `from` stands beside it, from wherever it is.
    fn exchange(&self, site: &Site<'_>, marks: &Marks) -> Result<(), StoreError> {
        let Site { part, parent, .. } = site;
        let staging = site.staging()?;
        let from_name = part.staged_name(self.source.exact);
        let to_name = part.staged_name(self.target.exact);
        let live = mark(site, parent, &part.name)?;
        if live != marks.from && live != marks.to {
            return Err(StoreError::Displaced { path: part.shown() });
        }
        if live != marks.to {
            // Turned round half-way, what comes still stands under the name of what goes.
            let at = if mark(site, staging, &to_name)? == marks.to { &to_name } else { &from_name };
            match (site.mode(), &marks.from, &marks.to) {
                (SwitchMode::Link, _, _) => {
                    // Where the old release is must be known before the only name of it is replaced.
                    if staging.stat(&from_name)?.is_none() {
                        staging.symlink(&parent.read_link(&part.name)?, &from_name)?;
                        staging.sync()?;
                    }
                    staging.rename(&to_name, parent, &part.name, Rename::Over)?;
                }
                (SwitchMode::Exchange, _, Mark::Nothing) => {
                    parent.rename(&part.name, staging, &from_name, Rename::New)?;
                }
                (SwitchMode::Exchange, Mark::Nothing, _) => {
                    staging.rename(at, parent, &part.name, Rename::New)?;
                }
                (SwitchMode::Exchange, _, _) => {
                    staging.rename(at, parent, &part.name, Rename::Exchange)?;
                }
            }
            self.store.steps.reach(&format!("switch: placed {}", part.index_shown(site)))?;
        }
        let left = mark(site, staging, &to_name)?;
        if left == marks.from && left != Mark::Nothing && site.mode() == SwitchMode::Exchange {
            staging.rename(&to_name, staging, &from_name, Rename::New)?;
            self.store.steps.reach(&format!("switch: set aside {}", part.index_shown(site)))?;
        }
        Ok(())
    }

    /// The times of a tree that the moves will change.
    fn times(&self, site: &Site<'_>, mark: &Mark) -> Result<Vec<Time>, StoreError> {
        let mut times = Vec::new();
        let Some(tree) = self.tree_of(site, mark)? else { return Ok(times) };
        for path in touched(site) {
            let Some(dir) = tree.dir_if_there(path)? else { continue };
            let (seconds, nanoseconds) = meta::mtime(&dir.own_stat()?);
            times.push(Time { path: path.to_vec(), seconds, nanoseconds });
        }
        Ok(times)
    }

    /// Sets back the times that the moves changed, and makes all names durable.
    fn settle(&self, site: &Site<'_>, marks: &Marks) -> Result<(), StoreError> {
        let sides = [(&marks.from, &marks.from_times), (&marks.to, &marks.to_times)];
        for (mark, times) in sides {
            let Some(tree) = self.tree_of(site, mark)? else { continue };
            // Leaves first, as the time of a directory is not changed by those of its children.
            for Time { path, seconds, nanoseconds } in times.iter().rev() {
                if let Some(dir) = tree.dir_if_there(path)? {
                    meta::settle_mtime(&dir, (*seconds, *nanoseconds))?;
                }
            }
            if site.part.keep().is_empty() {
                continue;
            }
            for path in touched(site) {
                if let Some(dir) = tree.dir_if_there(path)? {
                    dir.sync()?;
                }
            }
        }
        site.parent.sync()?;
        site.staging()?.sync()
    }

    /// What is live is `to`, to the last byte; or the hold stays.
    fn finish(
        &self,
        sealed: bool,
        unread: Option<Hash>,
        switched: &mut Switched,
    ) -> Result<(), StoreError> {
        let (component, exact) = (&self.set.component, self.target.exact);
        if !sealed {
            self.look_at_live(switched)?;
        }
        let replaced = (self.source.exact != exact).then_some(self.source.exact);
        let mut standing = self.store.records.standing(component)?;
        // It serves from now on, and so can change.
        standing.seals.retain(|seal| seal.exact != exact);
        standing.live = Some(LivePointer { exact, replaced });
        standing.unread = unread;
        standing.wanted = None;
        self.store.records.set_standing(component, standing)
    }

    fn look_at_live(&self, switched: &mut Switched) -> Result<(), StoreError> {
        let (component, exact) = (&self.set.component, self.target.exact);
        let found = self.scan_live()?;
        match self.store.closest(self.set, exact, &found)? {
            Some((is, differences)) if differences.is_empty() => {
                if is != exact {
                    switched.notes.push(format!(
                        "what is live again is {exact} as it was when it was replaced, with the \
                         changes that it had then: {is}"
                    ));
                }
                Ok(())
            }
            found => {
                let differences = found.map(|(_, differences)| differences).unwrap_or_default();
                Err(StoreError::Digest { component: component.clone(), exact, differences })
            }
        }
    }

    fn scan_live(&self) -> Result<SetManifest, StoreError> {
        let roots = scan::roots(self.set, self.sites, Place::Live)?;
        let cache = &self.shared.cache;
        let scanned = scan::set(self.set, &roots, cache, Read::Changed, Keep::Nothing)?;
        match scanned.unsettled {
            Some(path) => Err(StoreError::Changing { path }),
            None => Ok(scanned.manifest),
        }
    }

    /// The parts that move, with their marks. A hold of another shape is that of another policy.
    fn moving<'h>(&self, hold: &'h Hold) -> Result<Vec<(&Site<'_>, &'h Marks)>, StoreError> {
        let same = self.sites.len() == hold.parts.len()
            && self.sites.iter().zip(&hold.parts).all(|(site, marks)| site.index == marks.part);
        if same {
            return Ok(self.sites.iter().zip(&hold.parts).collect());
        }
        Err(StoreError::HoldDamaged {
            component: self.set.component.clone(),
            path: self.store.hold.at(self.set.component.as_bytes()),
            why: "it names other parts than the policy".to_owned(),
        })
    }

    /// The tree of one side, wherever it is now. None for single files, and for a tree that one side does not have.
    fn tree_of(&self, site: &Site<'_>, wanted: &Mark) -> Result<Option<Dir>, StoreError> {
        if !matches!(site.part.kind, PartKind::Tree { .. }) || *wanted == Mark::Nothing {
            return Ok(None);
        }
        if let Mark::Link(target) = wanted {
            return site.parent.dir(target).map(Some);
        }
        let staging = site.staging()?;
        let names =
            [self.source.exact, self.target.exact].map(|exact| site.part.staged_name(exact));
        let staged = names.iter().map(|name| (staging, name));
        for (holder, name) in std::iter::once((&site.parent, &site.part.name)).chain(staged) {
            if mark(site, holder, name)? == *wanted {
                return holder.dir(name).map(Some);
            }
        }
        Err(StoreError::Displaced { path: site.part.shown() })
    }

    fn refuse_keep_twice(&self, site: &Site<'_>, marks: &Marks) -> Result<(), StoreError> {
        let (Some(from), Some(to)) =
            (self.tree_of(site, &marks.from)?, self.tree_of(site, &marks.to)?)
        else {
            return Ok(());
        };
        for keep in site.part.keep() {
            if let (Some(kept), Some(other)) = (kept_in(&from, keep)?, kept_in(&to, keep)?) {
                let (_, name) = dir::split(keep);
                return Err(StoreError::KeepTwice {
                    keep: shown(keep),
                    kept: kept.at(name),
                    other: other.at(name),
                });
            }
        }
        Ok(())
    }

    fn not_staged(&self, site: &Site<'_>) -> StoreError {
        let name = site.part.staged_name(self.target.exact);
        let name = [super::STAGING.as_bytes(), &name].join(&b'/');
        StoreError::NotStaged {
            component: self.set.component.clone(),
            exact: self.target.exact,
            path: site.parent.at(&name),
        }
    }
}

impl Part {
    /// How a step names it.
    fn index_shown(&self, site: &Site<'_>) -> String {
        format!("{} {}", site.index, shown(&self.name))
    }
}

/// What stands at a name, as a hold remembers it.
fn mark(site: &Site<'_>, holder: &Dir, name: &[u8]) -> Result<Mark, StoreError> {
    let Some(stat) = holder.stat(name)? else { return Ok(Mark::Nothing) };
    let kind = FileType::from_raw_mode(stat.st_mode);
    match (site.mode(), &site.part.kind) {
        (SwitchMode::Link, _) if kind == FileType::Symlink => {
            site.link_target(holder, name).map(Mark::Link)
        }
        (SwitchMode::Exchange, PartKind::Tree { .. }) if kind == FileType::Directory => {
            Ok(Mark::Inode(stat.st_ino))
        }
        (SwitchMode::Exchange, PartKind::File | PartKind::Inner { .. })
            if kind != FileType::Directory =>
        {
            Ok(Mark::Inode(stat.st_ino))
        }
        (SwitchMode::Link | SwitchMode::Exchange, _) => Err(StoreError::Unfit {
            path: holder.at(name),
            what: "not of the kind that the policy declares".to_owned(),
            mend: "correct the policy, or what stands there",
        }),
    }
}

/// The directory of a tree in which a kept path is; none where it is not there.
fn kept_in(tree: &Dir, keep: &[u8]) -> Result<Option<Dir>, StoreError> {
    let (above, name) = dir::split(keep);
    let Some(above) = tree.dir_if_there(above)? else { return Ok(None) };
    Ok(above.stat(name)?.is_some().then_some(above))
}

/// The directory of the coming tree for a kept path; what is missing of the way there is made as it was.
fn carry(from: &Dir, to: &Dir, keep: &[u8]) -> Result<Dir, StoreError> {
    for path in dir::ancestors(keep).filter(|path| !path.is_empty()) {
        let (above, name) = dir::split(path);
        let above = to.dir(above)?;
        if above.stat(name)?.is_some() {
            continue;
        }
        above.make_dir(name)?;
        let source = from.dir(path)?;
        let like = meta::of_open(&source, &source.own_stat()?, || source.at(b""))?;
        let made = above.dir(name)?;
        meta::apply(&made, &like, &made.at(b""))?;
    }
    to.dir(dir::split(keep).0)
}

/// The directories of a tree that moves of its kept paths touch, the root first.
fn touched<'p>(site: &'p Site<'_>) -> BTreeSet<&'p [u8]> {
    let mut touched = BTreeSet::from([b"".as_slice()]);
    touched.extend(site.part.keep().iter().flat_map(|keep| dir::ancestors(keep)));
    touched
}
