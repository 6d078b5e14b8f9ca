//! Files with holes keep them, whatever their size.

use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;

use super::{super::objects, *};

const KIB: u64 = 1024;

/// A file of this size with these bytes in it, and nothing else.
fn sparse(path: &Path, size: u64, data: &[(u64, &[u8])]) {
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (at, bytes) in data {
        file.write_all_at(bytes, *at).unwrap();
    }
    file.sync_all().unwrap();
}

/// Where a file has bytes, and how many blocks it takes.
fn extents(path: &Path) -> (Vec<(u64, u64)>, u64) {
    let file = fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    let (mut at, mut found) = (0, Vec::new());
    while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        at = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap();
        found.push((start, at));
    }
    (found, file.metadata().unwrap().blocks())
}

#[test]
fn holes_come_back_in_small_and_large_files() {
    let world = World::new(SwitchMode::Exchange);
    let dir = world.app().join("sparse");
    fs::create_dir(&dir).unwrap();
    let block = [7; 4096];
    let large = 8 * KIB * KIB;
    let rows: [(&str, u64, &[u64]); 8] = [
        ("small", 64 * KIB, &[0, 32 * KIB]),
        ("small-start", 64 * KIB, &[60 * KIB]),
        ("small-end", 64 * KIB, &[0]),
        ("small-odd", 64 * KIB + 1, &[8 * KIB]),
        ("tiny", 100, &[]),
        ("large", large, &[KIB * KIB, 5 * KIB * KIB]),
        ("large-end", large + 1, &[0]),
        ("large-all", large, &[]),
    ];
    for (name, size, data) in rows {
        let data: Vec<(u64, &[u8])> = data.iter().map(|at| (*at, &block[..])).collect();
        sparse(&dir.join(name), size, &data);
    }
    // Zeros that were written are bytes.
    let zeros = [vec![0; 256 * 1024], b"end".to_vec()].concat();
    fs::write(dir.join("zeros"), &zeros).unwrap();
    fs::write(dir.join("small-zeros"), &zeros[250 * 1024..]).unwrap();
    let names: Vec<PathBuf> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let look = || {
        let each = |path: &PathBuf| (path.clone(), extents(path), fs::read(path).unwrap());
        names.iter().map(each).collect::<Vec<_>>()
    };
    let before = look();
    for (path, (data, blocks), bytes) in &before {
        let whole = data[..] == [(0, bytes.len() as u64)];
        assert_eq!(whole, path.to_str().unwrap().ends_with("zeros"), "{path:?} {data:?} {blocks}");
    }
    let store = world.store();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    assert_eq!(objects_below(&world), 9, "every file with holes, and the large one");
    for (path, ..) in &before {
        fs::write(path, "changed").unwrap();
    }
    let second = store.snapshot(&world.files(), label("v2")).unwrap().exact;
    let needed = store.preflight(&world.files(), first).unwrap().bytes_needed;
    assert!(needed < 8 * KIB * KIB, "holes need no room: {needed}");
    store.stage(&world.files(), first).unwrap();
    store.switch(&world.files(), second, first).unwrap();
    assert_eq!(look(), before);
    store.check("crm", first).unwrap();
}

fn objects_below(world: &World) -> usize {
    let fanouts = fs::read_dir(world.root.join("state/store/objects")).unwrap();
    fanouts.map(|fanout| fs::read_dir(fanout.unwrap().path()).unwrap().count()).sum()
}

#[test]
fn bytes_that_are_known_without_holes_come_back_with_them() {
    for size in [64 * KIB, 1024 * KIB] {
        for looked_at_before in [false, true] {
            let world = World::new(SwitchMode::Exchange);
            let path = world.app().join("image");
            let store = world.store();
            let mut bytes = vec![0; usize::try_from(size).unwrap()];
            bytes[..4].copy_from_slice(b"head");
            fs::write(&path, &bytes).unwrap();
            let dense = store.snapshot(&world.files(), label("v1")).unwrap().exact;
            sparse(&path, size, &[(0, b"head")]);
            let before = extents(&path);
            assert!(before.1 * 512 < size);
            if looked_at_before {
                // Until nothing of it is too young to be remembered.
                let deadline = std::time::Instant::now() + Duration::from_secs(20);
                let shared = store.shared("crm").unwrap();
                let stat = || rustix::fs::stat(&path).unwrap();
                while shared.cache.seen(&stat()).is_none() {
                    assert!(std::time::Instant::now() < deadline);
                    store.live(&world.files()).unwrap();
                }
            }
            let first = store.snapshot(&world.files(), label("v2")).unwrap().exact;
            fs::write(&path, "changed").unwrap();
            let second = store.snapshot(&world.files(), label("v3")).unwrap().exact;
            store.stage(&world.files(), first).unwrap();
            store.switch(&world.files(), second, first).unwrap();
            assert_eq!(extents(&path), before, "{size} {looked_at_before}");
            store.check("crm", dense).unwrap();
            drop(store);
            world.store().check("crm", dense).unwrap();
        }
    }
}

#[test]
fn a_file_that_was_just_written_has_no_holes() {
    let places = [Some(tempfile::tempdir().unwrap()), tempfile::tempdir_in("/dev/shm").ok()];
    for temp in places.into_iter().flatten() {
        let path = temp.path().join("file");
        for size in [1, 60, 4095, 4096, 4097, 100_000, 3_000_001] {
            let bytes = vec![0; size];
            fs::write(&path, &bytes).unwrap();
            let size = u64::try_from(size).unwrap();
            let has_holes = || {
                let file = fs::File::open(&path).unwrap();
                objects::has_holes(&file, size, "file").unwrap()
            };
            assert!(!has_holes(), "{size} in {temp:?}, not on the disk yet");
            fs::File::open(&path).unwrap().sync_all().unwrap();
            assert!(!has_holes(), "{size} in {temp:?}");
            sparse(&path, size, &[]);
            assert!(has_holes(), "{size} in {temp:?}, all of it a hole");
            fs::remove_file(&path).unwrap();
        }
        fs::write(&path, "").unwrap();
        assert!(!objects::has_holes(&fs::File::open(&path).unwrap(), 0, "file").unwrap());
    }
}
