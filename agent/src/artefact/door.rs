//! The way in for whoever fuzzes: any bytes as an archive. Not in an ordinary build.
//!
//! ```text
//! bytes ─┬─ as they are ───────────────────────────▶ unpack ──▶ refused, or a tree that keeps to itself
//!        └─ each header under a checksum that holds ▶ unpack
//! ```
//!
//! Invariant: a panic here is a defect.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    building::{Building, Limits, TreeRule},
    unpack,
};
use crate::store::dir::Dir;

const BLOCK_BYTES: usize = 512;

/// Unpacks bytes. Whether they were an archive that may be unpacked.
pub fn open(bytes: &[u8]) -> bool {
    one(bytes) | one(&with_checksums(bytes))
}

fn one(bytes: &[u8]) -> bool {
    let temp = tempfile::tempdir().expect("there is room for a directory");
    let above = temp.path().canonicalize().expect("it was made just now");
    fs::create_dir(above.join("tree")).expect("it is empty");
    let mut archive: File = tempfile::tempfile().expect("there is room for a file");
    archive.write_all(bytes).expect("there is room for it");
    let root = Dir::open(&above.join("tree")).expect("it was made just now");
    let trees = [TreeRule { from: Vec::new(), privileged: false }];
    let limits = Limits { entries: 1000, bytes: 1 << 20, reserve_bytes: 0, ..Limits::DEFAULT };
    let mut building =
        Building::new(&root, &trees, limits, Instant::now() + Duration::from_secs(60));
    let unpacked = unpack::unpack(&archive, &mut building);
    let built = unpacked.and_then(|()| building.finish());
    let beside: Vec<_> = fs::read_dir(&above).expect("it is ours").collect();
    assert_eq!(beside.len(), 1, "something is beside the tree");
    keeps_to_itself(&above.join("tree"), &above.join("tree"));
    built.is_ok()
}

/// No link leads out, and no file is more than a file.
fn keeps_to_itself(root: &Path, dir: &Path) {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    // What is closed to its owner is looked into all the same.
    drop(fs::set_permissions(dir, fs::Permissions::from_mode(0o700)));
    for entry in fs::read_dir(dir).expect("it is ours") {
        let path = entry.expect("it can be listed").path();
        let found = path.symlink_metadata().expect("nobody else is here");
        if found.is_dir() {
            keeps_to_itself(root, &path);
        } else if found.is_symlink() {
            let leads = path.canonicalize();
            assert!(
                leads.is_err() || leads.is_ok_and(|to| to.starts_with(root)),
                "a link leads out"
            );
        } else {
            assert!(found.is_file() && found.nlink() == 1 && found.mode() & 0o6000 == 0);
        }
    }
}

/// Nothing gets past a checksum by chance.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK_BYTES) {
        if block.get(257..262).is_some_and(|magic| magic == b"ustar") {
            let mut header = tar::Header::from_byte_slice(block).clone();
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
    bytes
}
