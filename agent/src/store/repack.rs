//! Packs anew: old ones compressed, half empty ones without what nothing names, small ones together.
//!
//! ```text
//! old pack, object by object ──read, check──▶ compressed where it pays ──▶ tmp/compact/pack, up to a bound
//!   ──sync──▶ packs/<new>.pack ──▶ its index ──sync──▶ looked for there ──▶ old index gone ──▶ old pack gone
//! ```
//!
//! Invariant: one object at a time is in memory, and a megabyte that waits to be written.
//! Invariant: an object that cannot be read stays where it is, and keeps its pack.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    compact::{Left, Run},
    error::StoreError,
    hash::Hash,
    objects::{PACK, Pack, sync_file},
    packs::{self, HEAD_BYTES, Spot},
    squeeze,
};

/// A pack that takes less than this part of the bound is small.
const SMALL_PART: u64 = 8;
/// So many small packs become one.
const SMALL_MANY: usize = 8;
/// After so many objects it is looked whether an operation waits.
const OBJECTS_AT_ONCE: usize = 64;

/// A pack that is being written.
struct New {
    pack: Pack,
    spots: HashMap<Hash, Spot>,
    compressed: u64,
    saved_bytes: u64,
}

impl Run<'_> {
    /// Writes packs anew where that pays.
    pub(super) fn repack(&mut self) -> Result<(), StoreError> {
        let mut new = None;
        let mut old = BTreeSet::new();
        for (pack, bytes) in self.chosen()? {
            if !self.has_room(bytes.min(self.how.pack_bytes_max))? {
                break;
            }
            old.insert(pack);
            self.copy(pack, &mut new, &mut old)?;
        }
        if let Some(new) = new {
            self.publish(new)?;
        }
        self.free_packs(&old)?;
        Ok(())
    }

    /// The packs that are to be written anew, and how much of each is named.
    fn chosen(&self) -> Result<BTreeMap<u32, u64>, StoreError> {
        let packs = &self.store.objects.packs;
        let mut named: HashMap<u32, u64> = HashMap::new();
        packs.each(|hash, spot| {
            if self.mark.names(hash) {
                *named.entry(spot.pack).or_default() += HEAD_BYTES as u64 + u64::from(spot.stored);
            }
        });
        let now_s = jiff::Timestamp::now().as_second();
        let min_age_s = i64::try_from(self.how.min_age.as_secs()).unwrap_or(i64::MAX);
        let (mut chosen, mut small) = (BTreeMap::new(), BTreeMap::new());
        for pack in packs.list()? {
            let Some(bytes) = named.get(&pack.number).copied() else { continue };
            let is_old = !pack.compacted && now_s.saturating_sub(pack.written_s) >= min_age_s;
            let unnamed = pack.bytes.saturating_sub(bytes + packs::COMPACTED.len() as u64);
            if is_old || unnamed.saturating_mul(4) > pack.bytes {
                chosen.insert(pack.number, bytes);
            } else if pack.compacted && pack.bytes < self.how.pack_bytes_max / SMALL_PART {
                small.insert(pack.number, bytes);
            }
        }
        if small.len() >= SMALL_MANY {
            chosen.append(&mut small);
        }
        Ok(chosen)
    }

    /// Copies what is named of a pack. A new one that is full is put in its place at once.
    fn copy(
        &mut self,
        pack: u32,
        new: &mut Option<New>,
        old: &mut BTreeSet<u32>,
    ) -> Result<(), StoreError> {
        let mut spots = Vec::new();
        self.store.objects.packs.each(|hash, spot| {
            if spot.pack == pack && self.mark.names(hash) {
                spots.push((hash, spot));
            }
        });
        spots.sort_unstable_by_key(|(_, spot)| spot.offset);
        for (index, (hash, spot)) in spots.into_iter().enumerate() {
            if index % OBJECTS_AT_ONCE == 0 {
                self.make_way()?;
            }
            let (stored, saved_bytes) = match self.checked(hash, spot) {
                Ok(Some(stored)) => stored,
                Ok(None) => {
                    self.found_damaged(hash)?;
                    continue;
                }
                Err(error @ (StoreError::Read { .. } | StoreError::Open { .. })) => {
                    self.done.left.push(Left::CannotRead { why: error.reason() });
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let to = match &mut *new {
                Some(to) => to,
                none => none.insert(self.begin()?),
            };
            let at = to.pack.append(hash, spot.length, &stored, self.temp())?;
            to.spots.insert(hash, at);
            to.compressed += u64::from(saved_bytes > 0);
            to.saved_bytes += saved_bytes;
            if to.pack.bytes() >= self.how.pack_bytes_max
                && let Some(full) = new.take()
            {
                self.publish(full)?;
                *old = self.free_packs(old)?;
            }
        }
        Ok(())
    }

    /// An object as it is to be stored, and what that saves; none where it is damaged.
    fn checked(&self, hash: Hash, spot: Spot) -> Result<Option<(Vec<u8>, u64)>, StoreError> {
        let packs = &self.store.objects.packs;
        let stored = packs.stored(spot)?;
        if spot.stored < spot.length {
            let bytes = packs.plain(spot, stored.clone())?;
            return Ok(bytes.filter(|bytes| Hash::of(bytes) == hash).map(|_| (stored, 0)));
        }
        if Hash::of(&stored) != hash {
            return Ok(None);
        }
        let frame = squeeze::small(&stored)
            .map_err(|source| StoreError::Read { path: packs.at(spot), source })?;
        let plain_bytes = stored.len() as u64;
        let kept = frame.unwrap_or(stored);
        let saved_bytes = plain_bytes - kept.len() as u64;
        Ok(Some((kept, saved_bytes)))
    }

    fn begin(&self) -> Result<New, StoreError> {
        let file = self.temp().create(PACK)?;
        let number = self.store.objects.packs.number();
        let pack = Pack::new(number, file, packs::COMPACTED);
        Ok(New { pack, spots: HashMap::new(), compressed: 0, saved_bytes: 0 })
    }

    /// Puts a new pack in its place. From then on its objects are looked for there.
    fn publish(&mut self, mut new: New) -> Result<(), StoreError> {
        let (objects, steps) = (&self.store.objects, &self.store.steps);
        new.pack.flush(self.temp())?;
        sync_file(&new.pack.file, &self.temp().at(PACK))?;
        steps.reach("compact: pack written")?;
        let from = (self.temp(), PACK);
        let index = objects.packs.add(&objects.tmp, from, new.pack.number, &new.spots)?;
        steps.reach("compact: pack named")?;
        objects.packs.sync(&index)?;
        steps.reach("compact: index durable")?;
        objects.packs.know(new.spots);
        self.done.compressed_objects += new.compressed;
        self.done.saved_bytes += new.saved_bytes;
        Ok(())
    }
}
