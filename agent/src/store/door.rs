//! The way in for whoever fuzzes: any bytes as each kind of file that the agent reads back. Not in an ordinary build.
//!
//! ```text
//! bytes ─┬─ as they are ────────────────▶ decode ──▶ refused, or what has the invariants of its kind
//!        └─ under a checksum of their own ▶ decode        (nothing gets past a checksum by chance)
//! ```
//!
//! Invariant: a panic here is a defect: of the decoder, or of what it let through.

use std::collections::{BTreeSet, HashMap};

use proto::policy::Policy;

use super::{
    cache::{self, Cache},
    hash::Hash,
    hold::{HOLD, Hold},
    manifest::Manifest,
    packs, records,
    records::{Record, SNAPSHOT, STANDING, Standing},
};

/// What the bytes are taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Manifest,
    PackIndex,
    Record,
    StatCache,
    Hold,
    Policy,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Manifest, Self::PackIndex, Self::Record, Self::StatCache, Self::Hold, Self::Policy];

    /// The name of its target.
    pub fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::PackIndex => "pack_index",
            Self::Record => "record",
            Self::StatCache => "stat_cache",
            Self::Hold => "hold",
            Self::Policy => "policy",
        }
    }
}

/// Decodes bytes as a kind of file. Whether they were one.
pub fn open(kind: Kind, bytes: &[u8]) -> bool {
    match kind {
        Kind::Manifest => manifest(bytes),
        Kind::PackIndex => {
            let sealed =
                [packs::INDEX_MAGIC.as_slice(), Hash::of(bytes).as_bytes(), bytes].concat();
            pack_index(bytes) | pack_index(&sealed)
        }
        Kind::Record => sealed::<Record>(SNAPSHOT, bytes) | sealed::<Standing>(STANDING, bytes),
        Kind::StatCache => {
            let known =
                [bytes, &framed(cache::MAGIC, bytes)].map(|bytes| Cache::decode(bytes).len());
            known.into_iter().any(|entries| entries > 0)
        }
        Kind::Hold => sealed::<Hold>(HOLD, bytes),
        Kind::Policy => std::str::from_utf8(bytes).is_ok_and(|text| Policy::parse(text).is_ok()),
    }
}

fn manifest(bytes: &[u8]) -> bool {
    let Ok(manifest) = Manifest::decode(bytes) else { return false };
    assert_eq!(
        Manifest::decode(&manifest.encode()).as_ref(),
        Ok(&manifest),
        "it is read as it is written"
    );
    let mut paths = BTreeSet::new();
    for entry in &manifest.entries {
        let plain = entry.path.split(|byte| *byte == b'/').all(|name| name != b"..");
        assert!(plain && !entry.path.starts_with(b"/"), "a path that leads out");
        assert!(paths.insert(&entry.path), "a path twice");
    }
    manifest.files().count() <= manifest.entries.len() && manifest.content() != manifest.exact()
}

fn pack_index(bytes: &[u8]) -> bool {
    let Ok(spots) = packs::decode(bytes, 1) else { return false };
    let largest = spots.values().map(|spot| spot.length).max().unwrap_or_default();
    assert!(usize::try_from(largest).is_ok_and(|length| length <= packs::PACKED_BYTES_MAX));
    let again: HashMap<_, _> = packs::decode(&packs::encode(&spots), 1).expect("it was encoded");
    assert_eq!(again, spots);
    true
}

/// As they are, and under a checksum of their own.
fn sealed<T>(magic: &[u8; 4], bytes: &[u8]) -> bool
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let mut any = false;
    for bytes in [bytes, &framed(magic, bytes)] {
        let Ok(value) = records::unseal::<T>(magic, bytes) else { continue };
        let again = records::unseal(magic, &records::seal(magic, &value));
        assert_eq!(again.as_ref(), Ok(&value), "what was read is what is written");
        any = true;
    }
    any
}

fn framed(magic: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [magic.as_slice(), Hash::of(body).as_bytes(), body].concat()
}
