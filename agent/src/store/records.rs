//! The store's durable records: manifests, snapshots, what is live, what is damaged.
//!
//! ```text
//! manifests/<exact of the part>          Manifest::encode; its name is its hash
//! snapshots/<component>/<exact>          Record: parts, labels, sizes
//! live/<component>                       Standing: the snapshot that the store itself put or captured there last, and
//!                                        what is known of the trees beside it
//! late/<component>/<exact>               Hash of what really was replaced, where it changed after it was staged
//! damage/<component>/<exact>             what a check found, in words
//! snapshots/<component>/<exact>.gone     a record that was pruned, until everything of it is gone
//! verified/<component>/<exact>           when every byte was last read and found right
//! ```
//!
//! Records are read once and then known (known.rs); the rest is read where it is asked for.
//!
//! Invariant: a record is whole or absent, and what it names was durable before it.
//! Invariant: a record whose checksum, name or manifests do not agree is never used.

use std::{
    collections::HashSet,
    fs::File,
    io::{Read, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Label,
    decoded::{Decoded, Working},
    dir::{Dir, Rename},
    error::{Damage, StoreError},
    hash::Hash,
    known::All,
    lock,
    manifest::{Encoded, Manifest, SetManifest, set_hash},
    objects::sync_file,
    seals::Seal,
    set::{Set, Shape},
};

pub(super) const SNAPSHOT: &[u8; 4] = b"LGS3";
const POINTER: &[u8; 4] = b"LGP2";
pub(super) const STANDING: &[u8; 4] = b"LGT1";
pub(super) const VERIFIED: &[u8; 4] = b"LGV1";
const CHECKSUM_BYTES: usize = 32;
/// What a record's name ends in once it is out of use.
const GONE: &str = ".gone";

/// A snapshot as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) component: String,
    pub(super) exact: Hash,
    pub(super) content: Hash,
    pub(super) parts: Vec<PartRecord>,
    /// None: what was live before something replaced it, which nobody named.
    pub(super) labels: Vec<Label>,
    pub(super) noticed_at_unix_ms: i64,
    pub(super) size_bytes: u64,
    pub(super) files: u64,
    /// Sockets, fifos and devices that were passed over.
    pub(super) skipped: Vec<String>,
    pub(super) bytes: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartRecord {
    pub(super) shape: Shape,
    pub(super) exact: Hash,
}

/// Where the bytes of a snapshot are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Bytes {
    InStore,
    /// Only in the tree that was replaced; those of single files are in the store.
    BesideLive,
}

/// What the store itself put or captured as live last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LivePointer {
    pub(super) exact: Hash,
    /// What a finished switch put it in the place of; forgotten when the next one is staged. It tells a switch that
    /// is asked for again from the way back of one that never began.
    pub(super) replaced: Option<Hash>,
}

/// What the store knows of a component's trees, live and beside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    pub(super) live: Option<LivePointer>,
    /// What the last switch replaced, as long as nobody has looked whether it changed before it stopped.
    pub(super) unread: Option<Hash>,
    /// What was staged last for an operation, until a switch has put something there: it is not taken for anything else.
    pub(super) wanted: Option<Hash>,
    pub(super) seals: Vec<Seal>,
}

/// The directories of the records.
#[derive(Debug)]
pub(super) struct Records {
    tmp: Dir,
    manifests: Dir,
    pub(super) snapshots: Dir,
    live: Dir,
    late: Dir,
    pub(super) damage: Dir,
    pub(super) verified: Dir,
    decoded: Decoded,
    /// See [`super::known`].
    pub(super) known: Mutex<Option<All>>,
    /// How often a record was written or removed.
    generation: AtomicU64,
    /// Held while a record and its manifests are written or removed: a manifest that is there must not go before the
    /// record that counts on it has come.
    pub(super) writing: Mutex<()>,
}

/// What was found where a record should be.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Record(Box<Record>),
    Damaged(Damage),
}

impl Records {
    pub(super) fn open(store: &Dir, tmp: Dir) -> Result<Self, StoreError> {
        Ok(Self {
            tmp,
            manifests: store.ensure_dir(b"manifests")?,
            snapshots: store.ensure_dir(b"snapshots")?,
            live: store.ensure_dir(b"live")?,
            late: store.ensure_dir(b"late")?,
            damage: store.ensure_dir(b"damage")?,
            verified: store.ensure_dir(b"verified")?,
            decoded: Decoded::default(),
            known: Mutex::default(),
            generation: AtomicU64::new(0),
            writing: Mutex::default(),
        })
    }

    /// Makes a snapshot known: its manifests first, then the record that names them.
    pub(super) fn save(&self, record: &Record, manifests: &Encoded) -> Result<(), StoreError> {
        let _writing = lock(&self.writing);
        for (exact, bytes) in &manifests.parts {
            let name = exact.to_string().into_bytes();
            // A whole one of this name would be these very bytes; a damaged one is mended by this.
            if self.manifest(&name)?.as_deref() != Some(bytes) {
                write_durably(&self.tmp, &self.manifests, &name, bytes)?;
            }
        }
        self.write(record)
    }

    /// [`Records::save`] of a record whose manifests are there already.
    pub(super) fn resave(&self, record: &Record) -> Result<(), StoreError> {
        let _writing = lock(&self.writing);
        self.write(record)
    }

    fn write(&self, record: &Record) -> Result<(), StoreError> {
        let dir = self.snapshots.ensure_dir(record.component.as_bytes())?;
        let name = record.exact.to_string();
        let written = write_durably(&self.tmp, &dir, name.as_bytes(), &seal(SNAPSHOT, record));
        let looked = self.changed(&record.component, record.exact);
        written.and(looked)
    }

    /// The caller holds `writing`.
    fn changed(&self, component: &str, exact: Hash) -> Result<(), StoreError> {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.look_again(component, exact)
    }

    /// Another number whenever a record was written or removed since.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Removes the manifests that no record names.
    pub(super) fn sweep_manifests(&self) -> Result<(), StoreError> {
        let _writing = lock(&self.writing);
        self.look_if_new()?;
        self.sweep()
    }

    /// Removes the manifests that no record names: those of a save that was cut off. None, where a record cannot be
    /// read: it may name any of them. The caller holds `writing`, and has looked.
    fn sweep(&self) -> Result<(), StoreError> {
        let mut named = HashSet::new();
        for known in lock(&self.known).iter().flatten().flat_map(|(_, rows)| rows.values()) {
            match &known.found {
                Found::Record(record) => named.extend(record.parts.iter().map(|part| part.exact)),
                Found::Damaged(_) => return Ok(()),
            }
        }
        let mut removed = false;
        for name in self.manifests.names()? {
            let exact = std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok());
            if exact.is_some_and(|exact| !named.contains(&exact)) {
                self.manifests.unlink(&name)?;
                removed = true;
            }
        }
        if removed { self.manifests.sync() } else { Ok(()) }
    }

    /// What the disk holds of a record now; none where there is none.
    pub(super) fn read_record(
        &self,
        component: &str,
        exact: Hash,
    ) -> Result<Option<Found>, StoreError> {
        let Some(dir) = self.snapshots.dir_if_there(component.as_bytes())? else { return Ok(None) };
        let Some(bytes) = read(&dir, exact.to_string().as_bytes())? else { return Ok(None) };
        let damaged = |what: String| {
            let component = component.to_owned();
            Ok(Some(Found::Damaged(Damage { component, exact, what })))
        };
        let record: Record = match unseal(SNAPSHOT, &bytes) {
            Ok(record) => record,
            Err(what) => return damaged(format!("its record {what}")),
        };
        let parts = record.parts.iter().map(|part| part.exact);
        let named = set_hash(super::manifest::EXACT_SET, parts);
        if record.component != component || record.exact != exact || named != exact {
            return damaged("its record is that of another snapshot".to_owned());
        }
        Ok(Some(Found::Record(Box::new(record))))
    }

    /// [`Records::find`], where only a whole record will do. What an earlier check found counts.
    pub(super) fn require(&self, component: &str, exact: Hash) -> Result<Record, StoreError> {
        if let Some(what) = self.damage(component, exact)? {
            let component = component.to_owned();
            return Err(StoreError::Damaged(Box::new(Damage { component, exact, what })));
        }
        match self.find(component, exact)? {
            Some(Found::Record(record)) => Ok(*record),
            Some(Found::Damaged(damage)) => Err(StoreError::Damaged(Box::new(damage))),
            None => Err(StoreError::Unknown { component: component.to_owned(), exact }),
        }
    }

    /// Keeps manifests decoded for as long as what is returned lives.
    pub(super) fn work(&self) -> Working<'_> {
        self.decoded.work()
    }

    /// The manifests of a snapshot, each checked against its hash.
    pub(super) fn manifests(&self, record: &Record) -> Result<Arc<SetManifest>, StoreError> {
        self.decoded.get(record.exact, || self.read_manifests(record))
    }

    /// [`Records::manifests`], read from the disk.
    pub(super) fn read_manifests(&self, record: &Record) -> Result<SetManifest, StoreError> {
        let mut parts = Vec::new();
        for part in &record.parts {
            parts.push(self.part(part.exact)?.map_err(|what| {
                let (component, exact) = (record.component.clone(), record.exact);
                StoreError::Damaged(Box::new(Damage { component, exact, what }))
            })?);
        }
        Ok(SetManifest { parts })
    }

    /// What is wrong with a snapshot of which a manifest is not there; none is read.
    pub(super) fn missing_manifest(&self, record: &Record) -> Result<Option<String>, StoreError> {
        for part in &record.parts {
            let name = part.exact.to_string();
            if self.manifests.stat(name.as_bytes())?.is_none() {
                let at = self.manifests.at(name.as_bytes());
                return Ok(Some(format!("its manifest {at} is missing")));
            }
        }
        Ok(None)
    }

    /// Refuses a snapshot that was taken under another declaration of the same component.
    pub(super) fn same_shape(&self, record: &Record, set: &Set) -> Result<(), StoreError> {
        let other = |why: String| {
            let (component, exact) = (record.component.clone(), record.exact);
            Err(StoreError::OtherPolicy { component, exact, why })
        };
        let shapes = set.shapes();
        if shapes.len() != record.parts.len() {
            return other(format!(
                "it has {} trees and files, the policy has {}",
                record.parts.len(),
                shapes.len()
            ));
        }
        for ((shape, part), declared) in shapes.iter().zip(&record.parts).zip(&set.parts) {
            if *shape != part.shape {
                let same = shape.path == part.shape.path;
                let what = if same { "`keep`" } else { "the order or the paths" };
                return other(format!("{what} at {} differs", declared.shown()));
            }
        }
        Ok(())
    }

    /// Takes a record out of use, durably. What it names is dropped afterwards, see [`Records::retired`].
    pub(super) fn retire(&self, component: &str, exact: Hash) -> Result<(), StoreError> {
        let Some(dir) = self.snapshots.dir_if_there(component.as_bytes())? else { return Ok(()) };
        let (name, gone) = (exact.to_string(), format!("{exact}{GONE}"));
        let _writing = lock(&self.writing);
        dir.rename(name.as_bytes(), &dir, gone.as_bytes(), Rename::Over)?;
        dir.sync()?;
        self.changed(component, exact)
    }

    /// The records of a component that are out of use and not forgotten yet; none where one cannot be read.
    pub(super) fn retired(
        &self,
        component: &str,
    ) -> Result<Vec<(Hash, Option<Record>)>, StoreError> {
        let mut retired = Vec::new();
        let Some(dir) = self.snapshots.dir_if_there(component.as_bytes())? else {
            return Ok(retired);
        };
        for name in dir.names()? {
            let text = String::from_utf8_lossy(&name);
            let Some(exact) = text.strip_suffix(GONE).and_then(|exact| exact.parse().ok()) else {
                continue;
            };
            let bytes = read(&dir, &name)?;
            retired.push((exact, bytes.and_then(|bytes| unseal(SNAPSHOT, &bytes).ok())));
        }
        Ok(retired)
    }

    /// Forgets a record that is out of use, once nothing of it is left.
    pub(super) fn drop_retired(&self, component: &str, exact: Hash) -> Result<(), StoreError> {
        let Some(dir) = self.snapshots.dir_if_there(component.as_bytes())? else { return Ok(()) };
        dir.unlink(format!("{exact}{GONE}").as_bytes())?;
        dir.sync()
    }

    /// Forgets everything that is known of a snapshot beside its record.
    pub(super) fn forget_all_of(&self, component: &str, exact: Hash) -> Result<(), StoreError> {
        for kind in [&self.late, &self.damage, &self.verified] {
            self.set(kind, component, exact, None)?;
        }
        Ok(())
    }

    /// Remembers what a check found; none forgets it.
    pub(super) fn set_damage(
        &self,
        component: &str,
        exact: Hash,
        what: Option<&str>,
    ) -> Result<(), StoreError> {
        let _writing = lock(&self.writing);
        self.set(&self.damage, component, exact, what.map(str::as_bytes))?;
        self.look_again(component, exact)
    }

    /// Remembers that every byte of a snapshot was read and found right just now.
    pub(super) fn set_verified(&self, component: &str, exact: Hash) -> Result<(), StoreError> {
        let now: i64 = jiff::Timestamp::now().as_millisecond();
        let _writing = lock(&self.writing);
        self.set(&self.verified, component, exact, Some(&seal(VERIFIED, &now)))?;
        self.look_again(component, exact)
    }

    /// The snapshot that the store itself put or captured last; none where it never did, or cannot say.
    pub(super) fn live(&self, component: &str) -> Result<Option<LivePointer>, StoreError> {
        Ok(self.standing(component)?.live)
    }

    pub(super) fn set_live(&self, component: &str, live: LivePointer) -> Result<(), StoreError> {
        let standing = self.standing(component)?;
        self.set_standing(component, Standing { live: Some(live), ..standing })
    }

    /// What is known of the trees; nothing where it cannot be read.
    pub(super) fn standing(&self, component: &str) -> Result<Standing, StoreError> {
        let bytes = read(&self.live, component.as_bytes())?;
        Ok(bytes.and_then(|bytes| unseal(STANDING, &bytes).ok()).unwrap_or_default())
    }

    /// Why it cannot be told what is known of the trees, where something was written down and does not hold.
    pub(super) fn standing_damage(&self, component: &str) -> Result<Option<String>, StoreError> {
        let bytes = read(&self.live, component.as_bytes())?;
        let read = bytes.map(|bytes| unseal::<Standing>(STANDING, &bytes));
        Ok(read.and_then(Result::err).map(|what| format!("its record {what}")))
    }

    pub(super) fn set_standing(
        &self,
        component: &str,
        standing: Standing,
    ) -> Result<(), StoreError> {
        if self.standing(component)? == standing {
            return Ok(());
        }
        write_durably(&self.tmp, &self.live, component.as_bytes(), &seal(STANDING, &standing))
    }

    /// What really was replaced as `exact`, where it had changed since it was staged over.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where that cannot be read: what stands in the name of `exact` may be the only copy of it.
    pub(super) fn late(&self, component: &str, exact: Hash) -> Result<Option<Hash>, StoreError> {
        let Some(dir) = self.late.dir_if_there(component.as_bytes())? else { return Ok(None) };
        let name = exact.to_string();
        let Some(bytes) = read(&dir, name.as_bytes())? else { return Ok(None) };
        unseal(POINTER, &bytes).map(Some).map_err(|why| {
            let at = dir.at(name.as_bytes());
            let what = format!(
                "the note {at} of what was replaced in its name {why}, so that nothing of it is removed; remove the \
                 note to give up what changed in the last moment"
            );
            StoreError::Damaged(Box::new(Damage { component: component.to_owned(), exact, what }))
        })
    }

    /// [`Records::late`], where one that cannot be read is as good as none: only to look.
    pub(super) fn late_if_read(
        &self,
        component: &str,
        exact: Hash,
    ) -> Result<Option<Hash>, StoreError> {
        match self.late(component, exact) {
            Err(StoreError::Damaged(damage)) => {
                tracing::error!(component, reason = damage.what, "a note is damaged");
                Ok(None)
            }
            late => late,
        }
    }

    /// The snapshot in whose name `really` was replaced: what [`Records::late`] answers, asked the other way.
    pub(super) fn replaced_as(
        &self,
        component: &str,
        really: Hash,
    ) -> Result<Option<Hash>, StoreError> {
        let Some(dir) = self.late.dir_if_there(component.as_bytes())? else { return Ok(None) };
        for name in dir.names()? {
            let exact = String::from_utf8(name).ok().and_then(|name| name.parse().ok());
            let Some(exact) = exact else { continue };
            if self.late_if_read(component, exact)? == Some(really) {
                return Ok(Some(exact));
            }
        }
        Ok(None)
    }

    pub(super) fn set_late(
        &self,
        component: &str,
        exact: Hash,
        really: Option<Hash>,
    ) -> Result<(), StoreError> {
        let bytes = really.map(|really| seal(POINTER, &really));
        self.set(&self.late, component, exact, bytes.as_deref())
    }

    fn set(
        &self,
        kind: &Dir,
        component: &str,
        exact: Hash,
        bytes: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let name = exact.to_string();
        if let Some(bytes) = bytes {
            let dir = kind.ensure_dir(component.as_bytes())?;
            return write_durably(&self.tmp, &dir, name.as_bytes(), bytes);
        }
        let Some(dir) = kind.dir_if_there(component.as_bytes())? else { return Ok(()) };
        dir.unlink(name.as_bytes())?;
        dir.sync()
    }

    /// One part's manifest, or what is wrong with it.
    pub(super) fn part(&self, exact: Hash) -> Result<Result<Manifest, String>, StoreError> {
        let name = exact.to_string();
        let at = self.manifests.at(name.as_bytes());
        let Some(bytes) = self.manifest(name.as_bytes())? else {
            return Ok(Err(format!("its manifest {at} is missing")));
        };
        if Hash::of(&bytes) != exact {
            return Ok(Err(format!("the bytes of its manifest {at} changed")));
        }
        Ok(Manifest::decode(&bytes).map_err(|error| format!("its manifest {at}: {error}")))
    }

    fn manifest(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        read(&self.manifests, name)
    }
}

/// Writes a file whole or not at all: beside, durable, then renamed into its place.
pub(super) fn write_durably(
    tmp: &Dir,
    dir: &Dir,
    name: &[u8],
    bytes: &[u8],
) -> Result<(), StoreError> {
    let (file, new) = write_beside(tmp, dir, name, bytes)?;
    sync_file(&file, &dir.at(name))?;
    tmp.rename(&new, dir, name, Rename::Over)?;
    dir.sync()
}

/// [`write_durably`] for what may be lost or torn by a power cut.
pub(super) fn write(tmp: &Dir, dir: &Dir, name: &[u8], bytes: &[u8]) -> Result<(), StoreError> {
    let (_, new) = write_beside(tmp, dir, name, bytes)?;
    tmp.rename(&new, dir, name, Rename::Over)
}

fn write_beside(
    tmp: &Dir,
    dir: &Dir,
    name: &[u8],
    bytes: &[u8],
) -> Result<(File, Vec<u8>), StoreError> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let new = format!("write-{}", WRITES.fetch_add(1, Ordering::Relaxed)).into_bytes();
    tmp.unlink(&new)?;
    let mut file = tmp.create(&new)?;
    file.write_all(bytes).map_err(|source| StoreError::Write { path: dir.at(name), source })?;
    Ok((file, new))
}

/// Reads a whole file of our own; none where it is not there.
pub(super) fn read(dir: &Dir, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(mut file) = dir.file_if_there(name)? else { return Ok(None) };
    let mut bytes = Vec::new();
    let whole = File::read_to_end(&mut file, &mut bytes);
    whole.map_err(|source| StoreError::Read { path: dir.at(name), source })?;
    Ok(Some(bytes))
}

/// Encodes with a checksum in front.
pub(super) fn seal(magic: &[u8; 4], value: &impl Serialize) -> Vec<u8> {
    let body = postcard::to_stdvec(value)
        .expect("records are plain vectors and numbers, which always encode");
    [magic.as_slice(), Hash::of(&body).as_bytes(), &body].concat()
}

/// Decodes what [`seal`] made; the error completes the sentence "its record …".
pub(super) fn unseal<T: DeserializeOwned>(magic: &[u8; 4], bytes: &[u8]) -> Result<T, String> {
    let rest = bytes.strip_prefix(magic).ok_or("does not start as it should")?;
    let (checksum, body) = rest.split_at_checked(CHECKSUM_BYTES).ok_or("is cut off")?;
    if Hash::of(body).as_bytes() != checksum {
        return Err("does not have its checksum".to_owned());
    }
    postcard::from_bytes(body).map_err(|_| "is not encoded as it should be".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sealed_record_with_any_bit_flipped_is_refused(
            value in any::<Vec<u64>>(), at in any::<prop::sample::Index>(), bit in 0..8u8
        ) {
            let mut bytes = seal(SNAPSHOT, &value);
            prop_assert_eq!(unseal::<Vec<u64>>(SNAPSHOT, &bytes), Ok(value));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(unseal::<Vec<u64>>(SNAPSHOT, &bytes).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in any::<Vec<u8>>()) {
            prop_assert!(unseal::<Record>(SNAPSHOT, &bytes).is_err());
        }
    }
}
