//! What a tree or a single file is: every path with its metadata and the hash of its bytes.
//!
//! ```text
//! Manifest ── encode ──▶ bytes ── blake3 ──▶ exact      all metadata; its file name in the store
//!     └────── paths, types, modes, bytes ──▶ content    the same on every host
//! SetManifest = one Manifest per declared tree or file, in the policy's order; exact and content over all of them
//! ```
//!
//! Invariant: one manifest has one encoding, and `decode` accepts no other.
//! Invariant: a decoded path is relative, has no `..`, and its parent is a directory of the same manifest.
//! Invariant: no absolute path and no host enters a content hash.
//! Invariant: of several names of one file the first in byte order is the file; the others name it, and are as it is.
//!
//! Names of one file are known within one part. A name that is kept across releases, declared as a file by itself or
//! part of another tree does not count: such a name is a file of its own. The content hash takes each name for a file of
//! its own, too: a deploy that copied where another one linked brought the same release.
//!
//! Where a file has holes is no part of it: the kernel's answer to that changes without a change of the file. Objects
//! have them (objects.rs).

use serde::{Deserialize, Serialize};

use super::{dir, hash::Hash};

/// Stands before every encoded manifest; the last byte is the version of the format.
const MAGIC: &[u8; 4] = b"LGM3";
/// What a set's exact hash is derived for.
pub(super) const EXACT_SET: &str = "lastgood 2025 exact set v1";
/// Permission bits with set-uid, set-gid and sticky.
const MODE_BITS: u32 = 0o7777;

/// A tree, or a single file, at one moment. Sorted by path; the root has the empty path.
///
/// No entry at all: the declared file was absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) entries: Vec<Entry>,
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Relative to the tree's root, as the kernel has it: any bytes but NUL.
    pub(super) path: Vec<u8>,
    pub(super) meta: Meta,
    pub(super) kind: Kind,
}

/// Extended attributes as name and value.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What is kept of an inode besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime_s: i64,
    pub(super) mtime_ns: u32,
    /// Name → value, sorted by name.
    pub(super) xattrs: Xattrs,
}

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Dir,
    File {
        size_bytes: u64,
        hash: Hash,
    },
    Link {
        target: Vec<u8>,
    },
    /// Another name of the file at a path that comes before it.
    Same {
        as_path: Vec<u8>,
    },
}

/// Bytes that are not a manifest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ManifestError {
    #[error("it does not start as a manifest does")]
    Magic,
    #[error("it is not encoded as a manifest is")]
    Encoding,
    #[error("entry {index} is not one that a scan could have found: {why}")]
    Entry { index: usize, why: &'static str },
}

impl Manifest {
    /// The one encoding.
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, MAGIC.to_vec())
            .expect("a manifest is plain vectors and numbers, which always encode")
    }

    /// Reads an encoding back. The bytes have the hash that names the manifest, so they are its one encoding.
    ///
    /// # Errors
    /// What a scan cannot find.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let body = bytes.strip_prefix(MAGIC).ok_or(ManifestError::Magic)?;
        let manifest: Self = postcard::from_bytes(body).map_err(|_| ManifestError::Encoding)?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// The hash over all metadata.
    pub(super) fn exact(&self) -> Hash {
        Hash::of(&self.encode())
    }

    /// The hash over path, type, mode and bytes only.
    pub(super) fn content(&self) -> Hash {
        let mut hasher = blake3::Hasher::new_derive_key("lastgood 2025 content of a manifest v1");
        for entry in &self.entries {
            let Entry { path, meta, kind } = entry;
            field(&mut hasher, path);
            hasher.update(&meta.mode.to_le_bytes());
            match kind {
                Kind::Dir => hasher.update(b"d"),
                Kind::File { size_bytes: _, hash } => hasher.update(b"f").update(hash.as_bytes()),
                Kind::Link { target } => {
                    hasher.update(b"l");
                    field(&mut hasher, target)
                }
                Kind::Same { .. } => {
                    let (_, hash) =
                        self.file_of(entry).expect("a manifest that was scanned or decoded has it");
                    hasher.update(b"f").update(hash.as_bytes())
                }
            };
        }
        hasher.finalize().into()
    }

    /// The entry of a path.
    pub(super) fn get(&self, path: &[u8]) -> Option<&Entry> {
        let found = self.entries.binary_search_by(|entry| entry.path.as_slice().cmp(path));
        found.ok().and_then(|index| self.entries.get(index))
    }

    /// Size and hash of the file that an entry is, or is another name of.
    pub(super) fn file_of(&self, entry: &Entry) -> Option<(u64, Hash)> {
        let first = match entry.kind {
            Kind::Same { .. } => self.get(entry.first_name())?,
            Kind::Dir | Kind::File { .. } | Kind::Link { .. } => entry,
        };
        match first.kind {
            Kind::File { size_bytes, hash } => Some((size_bytes, hash)),
            Kind::Dir | Kind::Link { .. } | Kind::Same { .. } => None,
        }
    }

    /// The kind of a path; that of a directory where it is the one that was `found`.
    fn get_unless(&self, found: Option<&[u8]>, path: &[u8]) -> Option<&Kind> {
        if found == Some(path) { Some(&Kind::Dir) } else { Some(&self.get(path)?.kind) }
    }

    /// The files with their paths, sizes and hashes; each once, by its first name.
    pub(super) fn files(&self) -> impl Iterator<Item = (&[u8], u64, Hash)> {
        self.entries.iter().filter_map(|entry| match entry.kind {
            Kind::File { size_bytes, hash } => Some((entry.path.as_slice(), size_bytes, hash)),
            Kind::Dir | Kind::Link { .. } | Kind::Same { .. } => None,
        })
    }

    fn validate(&self) -> Result<(), ManifestError> {
        let mut before: Option<&Entry> = None;
        // Most entries have the same parent as the one before them.
        let mut found: Option<&[u8]> = None;
        for (index, entry) in self.entries.iter().enumerate() {
            let refuse = |why| Err(ManifestError::Entry { index, why });
            match before {
                None if !entry.path.is_empty() => return refuse("the first one is not the root"),
                None => {}
                Some(before) if before.path >= entry.path => return refuse("out of order"),
                Some(_) if !is_relative(&entry.path) => return refuse("not a plain relative path"),
                Some(_) => {
                    let (parent, _) = dir::split(&entry.path);
                    match self.get_unless(found, parent) {
                        Some(Kind::Dir) => found = Some(parent),
                        Some(Kind::File { .. } | Kind::Link { .. } | Kind::Same { .. }) | None => {
                            return refuse("its parent is not a directory of this manifest");
                        }
                    }
                }
            }
            if let Err(why) = entry.validate() {
                return refuse(why);
            }
            if let Kind::Same { as_path } = &entry.kind {
                if *as_path >= entry.path {
                    return refuse("another name of what comes after it");
                }
                match self.get(as_path) {
                    Some(Entry { kind: Kind::File { .. }, meta, .. }) if *meta == entry.meta => {}
                    Some(Entry { kind: Kind::File { .. }, .. }) => {
                        return refuse("two names of one file with other metadata each");
                    }
                    Some(_) | None => return refuse("another name of what is no file"),
                }
            }
            before = Some(entry);
        }
        Ok(())
    }
}

impl Entry {
    /// The first name of the file that it is a name of; its own path where it is none, or the first.
    pub(super) fn first_name(&self) -> &[u8] {
        match &self.kind {
            Kind::Same { as_path } => as_path,
            Kind::Dir | Kind::File { .. } | Kind::Link { .. } => &self.path,
        }
    }

    fn validate(&self) -> Result<(), &'static str> {
        let Meta { mode, uid, gid, mtime_s: _, mtime_ns, xattrs } = &self.meta;
        if mode & !MODE_BITS != 0 {
            return Err("a mode has more bits than a mode has");
        }
        if *uid == u32::MAX || *gid == u32::MAX {
            return Err("an owner that no file can have");
        }
        if *mtime_ns >= 1_000_000_000 {
            return Err("a second has fewer nanoseconds");
        }
        if !xattrs.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err("extended attributes out of order");
        }
        if xattrs.iter().any(|(name, _)| name.is_empty() || name.contains(&0)) {
            return Err("an extended attribute without a proper name");
        }
        match &self.kind {
            Kind::Link { target } if target.is_empty() || target.contains(&0) => {
                Err("a link to nothing")
            }
            Kind::Dir | Kind::File { .. } | Kind::Link { .. } | Kind::Same { .. } => Ok(()),
        }
    }
}

/// A component's trees and files at one moment, in the order of its policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetManifest {
    pub(super) parts: Vec<Manifest>,
}

/// A component's manifests as they are stored: encoding and hash of each part.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) parts: Vec<(Hash, Vec<u8>)>,
    /// The snapshot's name on this host.
    pub(super) exact: Hash,
}

impl SetManifest {
    /// The snapshot's name on this host.
    pub(super) fn exact(&self) -> Hash {
        set_hash(EXACT_SET, self.parts.iter().map(Manifest::exact))
    }

    /// What is stored of it.
    pub(super) fn encode(&self) -> Encoded {
        let encode = |part: &Manifest| {
            let bytes = part.encode();
            (Hash::of(&bytes), bytes)
        };
        let parts: Vec<_> = self.parts.iter().map(encode).collect();
        let exact = set_hash(EXACT_SET, parts.iter().map(|(exact, _)| *exact));
        Encoded { parts, exact }
    }

    /// The snapshot's name on every host.
    pub(super) fn content(&self) -> Hash {
        set_hash("lastgood 2025 content set v1", self.parts.iter().map(Manifest::content))
    }

    /// Bytes of all files.
    pub(super) fn size_bytes(&self) -> u64 {
        self.parts.iter().flat_map(Manifest::files).map(|(_, size_bytes, _)| size_bytes).sum()
    }

    /// How many files.
    pub(super) fn files(&self) -> u64 {
        u64::try_from(self.parts.iter().flat_map(Manifest::files).count()).unwrap_or(u64::MAX)
    }
}

/// A set's hash from the hashes of its parts. Their number is in it by the length of what is hashed.
pub(super) fn set_hash(context: &str, parts: impl Iterator<Item = Hash>) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part.as_bytes());
    }
    hasher.finalize().into()
}

/// Whether a path stays below where it starts, spelled in the one plain way.
pub(super) fn is_relative(path: &[u8]) -> bool {
    !path.contains(&0)
        && path
            .split(|byte| *byte == b'/')
            .all(|name| !name.is_empty() && name != b"." && name != b"..")
}

/// Length first, so that no two lists of fields hash alike.
fn field<'a>(hasher: &'a mut blake3::Hasher, bytes: &[u8]) -> &'a mut blake3::Hasher {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    hasher.update(&length.to_le_bytes()).update(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn meta() -> impl Strategy<Value = Meta> {
        let xattrs = prop::collection::btree_map("user\\.[a-z]{1,4}", any::<Vec<u8>>(), 0..3);
        (0..=MODE_BITS, 0..u32::MAX, 0..u32::MAX, any::<i64>(), 0..1_000_000_000u32, xattrs)
            .prop_map(|(mode, uid, gid, mtime_s, mtime_ns, xattrs)| Meta {
                mode,
                uid,
                gid,
                mtime_s,
                mtime_ns,
                xattrs: xattrs
                    .into_iter()
                    .map(|(name, value)| (name.into_bytes(), value))
                    .collect(),
            })
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 1..6).prop_filter("a name", |name| {
            !name.contains(&0) && !name.contains(&b'/') && name != b"." && name != b".."
        })
    }

    fn leaf() -> impl Strategy<Value = Kind> {
        let target = prop::collection::vec(1..=255u8, 1..9);
        prop_oneof![
            (any::<u64>(), any::<[u8; 4]>())
                .prop_map(|(size_bytes, seed)| Kind::File { size_bytes, hash: Hash::of(&seed) }),
            target.prop_map(|target| Kind::Link { target }),
            Just(Kind::Dir),
        ]
    }

    /// Any manifest that a scan could give: directories for every parent, then leaves.
    pub(in crate::store) fn manifest() -> impl Strategy<Value = Manifest> {
        let leaves =
            prop::collection::vec((prop::collection::vec(name(), 1..4), meta(), leaf()), 0..8);
        (meta(), leaves).prop_map(|(root, leaves)| {
            let mut all: BTreeMap<Vec<u8>, (Meta, Kind)> = BTreeMap::new();
            for (path, meta, kind) in leaves {
                all.insert(path.join(&b'/'), (meta, kind));
            }
            all.insert(Vec::new(), (root.clone(), Kind::Dir));
            let paths: Vec<Vec<u8>> = all.keys().filter(|path| !path.is_empty()).cloned().collect();
            for path in paths {
                for parent in dir::ancestors(&path) {
                    all.entry(parent.to_vec()).or_insert_with(|| (root.clone(), Kind::Dir)).1 =
                        Kind::Dir;
                }
            }
            let mut entries: Vec<Entry> =
                all.into_iter().map(|(path, (meta, kind))| Entry { path, meta, kind }).collect();
            // Every other file is another name of the one before it.
            let mut first: Option<(Vec<u8>, Meta)> = None;
            for entry in &mut entries {
                if let Kind::File { .. } = entry.kind {
                    match first.take() {
                        Some((as_path, meta)) => {
                            (entry.kind, entry.meta) = (Kind::Same { as_path }, meta);
                        }
                        None => first = Some((entry.path.clone(), entry.meta.clone())),
                    }
                }
            }
            Manifest { entries }
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(manifest in manifest()) {
            let bytes = manifest.encode();
            prop_assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
        }

        #[test]
        fn a_flipped_bit_is_refused_or_what_a_scan_can_find(
            manifest in manifest(), at in any::<prop::sample::Index>(), bit in 0..8u8
        ) {
            let mut bytes = manifest.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(other) = Manifest::decode(&bytes) {
                prop_assert_eq!(Manifest::decode(&other.encode()), Ok(other));
            }
        }

        #[test]
        fn decode_never_panics(bytes in any::<Vec<u8>>()) {
            let mut framed = MAGIC.to_vec();
            framed.extend(&bytes);
            for bytes in [bytes, framed] {
                if let Ok(manifest) = Manifest::decode(&bytes) {
                    prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
                }
            }
        }

        #[test]
        fn owner_time_and_xattrs_are_not_content(manifest in manifest(), other in meta()) {
            let mut moved = manifest.clone();
            for entry in &mut moved.entries {
                entry.meta = Meta { mode: entry.meta.mode, ..other.clone() };
            }
            prop_assert_eq!(moved.content(), manifest.content());
        }
    }

    fn entry(path: &str, kind: Kind) -> Entry {
        let meta =
            Meta { mode: 0o755, uid: 0, gid: 0, mtime_s: 0, mtime_ns: 0, xattrs: Vec::new() };
        Entry { path: path.into(), meta, kind }
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["..", "../x", "/etc", "a/../b", "a//b", "./a", "a/", "a\0b"] {
            let entries = vec![entry("", Kind::Dir), entry(path, Kind::Dir)];
            let bytes = Manifest { entries }.encode();
            assert!(matches!(Manifest::decode(&bytes), Err(ManifestError::Entry { .. })), "{path}");
        }
    }

    #[test]
    fn nothing_lies_below_a_link() {
        let link = Kind::Link { target: b"/etc".to_vec() };
        let entries = vec![entry("", Kind::Dir), entry("a", link), entry("a/passwd", Kind::Dir)];
        let bytes = Manifest { entries }.encode();
        assert!(matches!(Manifest::decode(&bytes), Err(ManifestError::Entry { index: 2, .. })));
    }

    #[test]
    fn a_path_is_there_once() {
        let entries = vec![entry("", Kind::Dir), entry("a", Kind::Dir), entry("a", Kind::Dir)];
        let bytes = Manifest { entries }.encode();
        assert!(matches!(Manifest::decode(&bytes), Err(ManifestError::Entry { index: 2, .. })));
    }

    fn same(as_path: &str) -> Kind {
        Kind::Same { as_path: as_path.into() }
    }

    #[test]
    fn a_name_is_one_of_a_file_that_comes_before_it_and_is_as_it_is() {
        let file = Kind::File { size_bytes: 1, hash: Hash::of(b"1") };
        let named = |path: &str, kind: Kind| {
            let mut entries =
                vec![entry("", Kind::Dir), entry("b", file.clone()), entry("d", Kind::Dir)];
            entries.push(entry(path, kind));
            entries.sort_by(|a, b| a.path.cmp(&b.path));
            Manifest { entries }
        };
        let good = named("c", same("b"));
        assert_eq!(Manifest::decode(&good.encode()).unwrap(), good);
        assert_eq!(good.files().count(), 1);
        let mut other = good.clone();
        other.entries[2].meta.mtime_ns = 1;
        let link = Kind::Link { target: b"b".to_vec() };
        let mut to_link = named("c", link);
        to_link.entries.push(entry("e", same("c")));
        let mut to_same = named("c", same("b"));
        to_same.entries.push(entry("e", same("c")));
        for bad in [
            other,
            to_link,
            to_same,
            named("a", same("b")),
            named("c", same("c")),
            named("e", same("d")),
            named("c", same("")),
            named("c", same("a")),
            named("c", same("/etc/passwd")),
            named("c", same("../b")),
        ] {
            let refused = Manifest::decode(&bad.encode());
            assert!(matches!(refused, Err(ManifestError::Entry { .. })), "{bad:?}");
        }
    }

    #[test]
    fn what_is_linked_is_in_the_exact_hash_and_not_in_the_content() {
        let file = Kind::File { size_bytes: 1, hash: Hash::of(b"1") };
        let of = |kind: Kind| Manifest {
            entries: vec![entry("", Kind::Dir), entry("a", file.clone()), entry("b", kind)],
        };
        let (linked, copied) = (of(same("a")), of(file.clone()));
        assert_eq!(linked.content(), copied.content());
        assert_ne!(linked.exact(), copied.exact());
    }

    #[test]
    fn mode_and_bytes_are_content() {
        let file = |seed: &[u8]| Kind::File { size_bytes: 1, hash: Hash::of(seed) };
        let one = Manifest { entries: vec![entry("", file(b"1"))] };
        let two = Manifest { entries: vec![entry("", file(b"2"))] };
        let mut executable = one.clone();
        executable.entries[0].meta.mode = 0o700;
        assert_ne!(one.content(), two.content());
        assert_ne!(one.content(), executable.content());
    }
}
