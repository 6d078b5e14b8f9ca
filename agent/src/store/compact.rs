//! Compaction: what nothing names is freed, and what is kept for long is compressed. In the background.
//!
//! ```text
//! mark (mark.rs) ─▶ free: large objects, then packs in which nothing is named
//!                ─▶ shrink (shrink.rs): large objects, each to its own compressed form
//!                ─▶ repack (repack.rs): packs that are old, half empty or small ──copy, compress──▶ a new pack ─▶ free the old
//! ```
//!
//! It holds no lock that an operation waits for. Between objects it looks whether an operation is under way or waits,
//! and if so it ends; what is done by then stays done, and the next time goes on from there.
//!
//! What may stop at any moment, and why nothing is lost then: an object is first written anew, whole, durable and in an
//! index; only then is it looked for there; only then does its old place go, index first. So at every moment it has at
//! least one place, and one of two is as good as the other.
//!
//! Invariant: an object is freed only while nobody counts on it (relied.rs) and by a mark that is still true.
//! Invariant: bytes are read and checked against their hash before they are written anew; what is damaged is taken out of
//! use and named, never copied.
//! Invariant: what it writes fits with room to spare, or is not begun.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{TryLockError, atomic::Ordering},
    time::Duration,
};

use super::{
    Store,
    build::damaged_object,
    dir::{Dir, Rename},
    error::StoreError,
    hash::Hash,
    lock,
    mark::Mark,
    records::{Bytes, Found},
    remove,
    space::Needs,
};

/// What is compacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// What is younger is not compressed yet: most of what is taken is needed again soon, or never.
    pub min_age: Duration,
    /// A pack is not made larger than this.
    pub pack_bytes_max: u64,
    /// How long is waited for the moment in which nobody adds objects, before anything is freed.
    pub wait: Duration,
}

impl Default for Compaction {
    fn default() -> Self {
        Self {
            min_age: Duration::from_secs(600),
            pack_bytes_max: 512 * 1024 * 1024,
            wait: Duration::from_secs(10),
        }
    }
}

/// What a compaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Objects that nothing named, and what they took.
    pub freed_objects: u64,
    pub freed_bytes: u64,
    /// Objects that are kept compressed from now on, and by how much less that is.
    pub compressed_objects: u64,
    pub saved_bytes: u64,
    /// Objects that were found damaged. The snapshots that need them are marked so.
    pub damaged_objects: u64,
    /// What was left for another time, and why.
    pub left: Vec<Left>,
}

/// Why something was left for another time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// An operation on this component comes first.
    MadeWay { component: String },
    /// Another compaction is under way.
    AlreadyRunning,
    /// Objects were being added all the time, so nothing was freed.
    Relied,
    /// A record or a manifest cannot be read, so nothing was freed: it may name any object.
    Unreadable { why: String },
    /// There is no room for a copy; everything is as it was.
    NoSpace { why: String },
    /// The disk does not give it back; it stays where it is.
    CannotRead { why: String },
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MadeWay { component } => write!(f, "an operation on `{component}` came first"),
            Self::AlreadyRunning => write!(f, "another compaction is under way"),
            Self::Relied => write!(f, "nothing was freed: objects were being added all the time"),
            Self::Unreadable { why } => write!(
                f,
                "nothing was freed: {why}; as long as it cannot be read it may need any object; \
                 take that release again where it stands, or remove the snapshot"
            ),
            Self::NoSpace { why } => write!(f, "nothing more was compressed: {why}"),
            Self::CannotRead { why } => write!(f, "{why}; it stays where it is"),
        }
    }
}

/// So many large objects are freed in one go.
const FREED_AT_ONCE: usize = 64;
/// How often a mark is brought up to date before freeing is left for another time.
const LOOKS_MAX: u32 = 3;

impl Store {
    /// Frees what nothing names and compresses what is old enough. Nobody waits for it: it makes way.
    ///
    /// # Errors
    /// What could not be written or looked at. Every object that is named can be read all the same.
    pub fn compact(&self, how: &Compaction) -> Result<Compacted, StoreError> {
        let _only = match self.compacting.try_lock() {
            Ok(only) => only,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Ok(Compacted { left: vec![Left::AlreadyRunning], ..Compacted::default() });
            }
        };
        let mut run = Run {
            store: self,
            how,
            temp: None,
            mark: Mark::default(),
            freeing: true,
            damaged: BTreeMap::new(),
            done: Compacted::default(),
        };
        let ended = run.all();
        if !matches!(ended, Err(StoreError::Fsync { .. })) {
            run.name_damaged()?;
        }
        let left = match ended {
            Ok(()) => None,
            Err(StoreError::Yielded { component }) => Some(Left::MadeWay { component }),
            Err(error) if error.is_no_space() => Some(Left::NoSpace { why: error.reason() }),
            Err(error) => return Err(error),
        };
        run.done.left.extend(left);
        Ok(run.done)
    }
}

/// One compaction.
pub(super) struct Run<'a> {
    pub(super) store: &'a Store,
    pub(super) how: &'a Compaction,
    /// Where something new is written, once something is: on a full disk there is room for nothing, and yet to be freed.
    temp: Option<Temp<'a>>,
    pub(super) mark: Mark,
    /// False once somebody kept on adding objects.
    freeing: bool,
    /// Objects that were found damaged, and where.
    pub(super) damaged: BTreeMap<Hash, String>,
    pub(super) done: Compacted,
}

impl Run<'_> {
    fn all(&mut self) -> Result<(), StoreError> {
        self.mark.look(&self.store.records)?;
        self.store.steps.reach("compact: marked")?;
        if let Some(why) = self.mark.unreadable() {
            self.done.left.push(Left::Unreadable { why: why.to_owned() });
        }
        self.free_large()?;
        let packs = self.store.objects.packs.list()?;
        self.free_packs(&packs.iter().map(|pack| pack.number).collect())?;
        self.temp = Some(Temp::new(&self.store.objects.tmp)?);
        // The large ones first: each needs little room, and makes some for the packs.
        self.shrink()?;
        self.repack()?;
        self.store.records.sweep_manifests()
    }

    /// Where something new is written.
    pub(super) fn temp(&self) -> &Dir {
        &self.temp.as_ref().expect("it is made before anything is written").dir
    }

    /// Ends here where an operation is under way or waits.
    pub(super) fn make_way(&self) -> Result<(), StoreError> {
        for (component, shared) in &*lock(&self.store.components) {
            let busy = matches!(shared.busy.try_lock(), Err(TryLockError::WouldBlock));
            if busy || shared.waiting.load(Ordering::Relaxed) > 0 {
                return Err(StoreError::Yielded { component: component.clone() });
            }
        }
        Ok(())
    }

    /// Does something while nobody counts on what the mark does not name; none where that moment did not come.
    fn alone<T>(
        &mut self,
        work: impl FnOnce(&Mark) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        for _ in 0..LOOKS_MAX {
            self.mark.look(&self.store.records)?;
            let wait = if self.freeing { self.how.wait } else { Duration::ZERO };
            let Some(_alone) = self.store.objects.relied.by_nobody(wait) else { break };
            if self.mark.is_true(&self.store.records) {
                return work(&self.mark).map(Some);
            }
        }
        if std::mem::replace(&mut self.freeing, false) {
            self.done.left.push(Left::Relied);
        }
        Ok(None)
    }

    /// Removes large objects that nothing names.
    fn free_large(&mut self) -> Result<(), StoreError> {
        let objects = &self.store.objects;
        for fanout in objects.dir.names()? {
            let Some(dir) = objects.fanout(&fanout)? else { continue };
            let names = dir.names()?.into_iter();
            let unnamed: Vec<(Vec<u8>, Hash)> = names
                .filter_map(|name| large_hash(&fanout, &name).map(|hash| (name, hash)))
                .filter(|(_, hash)| !self.mark.names(*hash))
                .collect();
            for some in unnamed.chunks(FREED_AT_ONCE) {
                self.make_way()?;
                // Renamed here and removed later: removing a large file takes time.
                let aside = &objects.tmp;
                let mut moved = Vec::new();
                let freed = self.alone(|mark| {
                    let (mut count, mut bytes) = (0, 0);
                    for (name, _) in some.iter().filter(|(_, hash)| !mark.names(*hash)) {
                        let Some(stat) = dir.stat(name)? else { continue };
                        let new = [b"freed-", fanout.as_slice(), name].concat();
                        dir.rename(name, aside, &new, Rename::Over)?;
                        moved.push(new);
                        count += 1;
                        bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
                    }
                    Ok((count, bytes))
                })?;
                self.store.steps.reach("compact: freed")?;
                let Some((count, bytes)) = freed else { return Ok(()) };
                moved.iter().try_for_each(|name| aside.unlink(name))?;
                self.done.freed_objects += count;
                self.done.freed_bytes += bytes;
            }
        }
        Ok(())
    }

    /// Removes those of these packs in which nothing is named; returns the others.
    pub(super) fn free_packs(&mut self, of: &BTreeSet<u32>) -> Result<BTreeSet<u32>, StoreError> {
        if of.is_empty() {
            return Ok(BTreeSet::new());
        }
        let packs = &self.store.objects.packs;
        let freed = self.alone(|mark| {
            let mut dead = of.clone();
            packs.each(|hash, spot| {
                if mark.names(hash) {
                    dead.remove(&spot.pack);
                }
            });
            Ok((packs.leave(&dead), dead))
        })?;
        let Some(((count, bytes), dead)) = freed else { return Ok(of.clone()) };
        self.done.freed_objects += count;
        self.done.freed_bytes += bytes;
        for pack in &dead {
            packs.remove_index(*pack)?;
            self.store.steps.reach("compact: old index gone")?;
            packs.remove_pack(*pack)?;
            self.store.steps.reach("compact: old pack gone")?;
        }
        Ok(of.difference(&dead).copied().collect())
    }

    /// Whether so many bytes can be written; what is left over must do for everybody else.
    pub(super) fn has_room(&mut self, bytes: u64) -> Result<bool, StoreError> {
        let mut needs = Needs::default();
        needs.add_size(&self.store.objects.tmp, bytes, 1)?;
        match needs.check() {
            Ok(()) => Ok(true),
            Err(error) => {
                let why = error.reason();
                if !self.done.left.iter().any(|left| matches!(left, Left::NoSpace { .. })) {
                    self.done.left.push(Left::NoSpace { why });
                }
                Ok(false)
            }
        }
    }

    /// An object does not have the bytes of its name: it is taken out of use.
    pub(super) fn found_damaged(&mut self, hash: Hash) -> Result<(), StoreError> {
        let objects = &self.store.objects;
        let at = objects.at(hash);
        tracing::warn!(object = at, %hash, "no longer has the bytes of its name");
        objects.quarantine(hash)?;
        self.damaged.insert(hash, at);
        self.done.damaged_objects += 1;
        Ok(())
    }

    /// Marks every snapshot that needs an object which was found damaged.
    fn name_damaged(&self) -> Result<(), StoreError> {
        if self.damaged.is_empty() {
            return Ok(());
        }
        let records = &self.store.records;
        for known in records.everything()?.values().flat_map(|rows| rows.values()) {
            let Found::Record(record) = &known.found else { continue };
            for part in &record.parts {
                if part.shape.keep.is_some() && record.bytes == Bytes::BesideLive {
                    continue;
                }
                let Ok(manifest) = records.part(part.exact)? else { continue };
                let lost = manifest
                    .files()
                    .find_map(|(path, _, hash)| Some((path, self.damaged.get(&hash)?)));
                if let Some((path, at)) = lost {
                    let what = damaged_object(path, at, "no longer has the bytes of its name");
                    records.set_damage(&record.component, record.exact, Some(&what))?;
                }
            }
        }
        Ok(())
    }
}

/// The hash of a large object by its names, plain or compressed.
pub(super) fn large_hash(fanout: &[u8], name: &[u8]) -> Option<Hash> {
    let name = name.strip_suffix(b".z").unwrap_or(name);
    std::str::from_utf8(&[fanout, name].concat()).ok()?.parse().ok()
}

/// A directory for what is being written. What stays in it is removed, now or when the store is opened the next time.
pub(super) struct Temp<'a> {
    holder: &'a Dir,
    dir: Dir,
}

const TEMP: &[u8] = b"compact";

impl<'a> Temp<'a> {
    fn new(holder: &'a Dir) -> Result<Self, StoreError> {
        remove::tree(holder, TEMP)?;
        holder.make_dir(TEMP)?;
        Ok(Self { holder, dir: holder.dir(TEMP)? })
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if let Err(error) = remove::tree(self.holder, TEMP) {
            tracing::warn!(reason = error.reason(), "temporary objects were left behind");
        }
    }
}
