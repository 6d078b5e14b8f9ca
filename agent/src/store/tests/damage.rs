//! Promise 8: what is damaged is found, named and never used.

use super::*;

/// Every file below a directory, largest first.
pub(super) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    files
}

pub(super) fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn p08_a_flipped_bit_in_any_object_is_found_named_and_never_staged() {
    let world = World::new(SwitchMode::Exchange);
    let first = world.store().snapshot(&world.files(), label("v1")).unwrap().exact;
    world.deploy(2);
    let before = world.picture();
    let object = flip_packed(&world, "serve(1)");
    let store = world.store();
    let error = store.stage(&world.files(), first).unwrap_err();
    let text = error.reason();
    assert!(matches!(error, StoreError::Damaged(_)), "{text}");
    assert!(text.contains("server.js") && text.contains(&object.display().to_string()), "{text}");
    assert_eq!(world.picture(), before);
    assert_eq!(staged_names(&world), Vec::<String>::new());
    let listed = store.list().unwrap();
    let damaged: Vec<&SnapshotInfo> = listed.iter().filter(|info| info.damage.is_some()).collect();
    let [SnapshotInfo { exact, damage: Some(damage), .. }] = damaged[..] else {
        panic!("{listed:?}")
    };
    assert_eq!(*exact, first);
    assert!(damage.contains("server.js"), "{damage}");
    assert!(matches!(store.preflight(&world.files(), first), Err(StoreError::Damaged(_))));
    assert!(matches!(store.check("crm", first), Err(StoreError::Damaged(_))));

    // Where the release stands again, taking it again mends it.
    world.deploy(1);
    fs::write(world.app().join("extra"), "so that it is another snapshot").unwrap();
    store.snapshot(&world.files(), label("v1b")).unwrap();
    store.check("crm", first).unwrap();
    assert_eq!(store.list().unwrap().iter().filter(|info| info.damage.is_some()).count(), 0);
    store.stage(&world.files(), first).unwrap();
}

#[test]
fn p08_check_reads_every_byte() {
    let texts =
        ["serve(1)", "V=1", "SECRET=1", "#!/bin/sh", "the same in both", "portal 1", "conf 1"];
    for text in texts {
        let world = World::new(SwitchMode::Exchange);
        let store = world.store();
        let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
        store.check("crm", first).unwrap();
        let pack = flip_packed(&world, text);
        let error = store.check("crm", first).unwrap_err().reason();
        assert!(error.contains(&pack.display().to_string()), "{error}");
        // It stays out of use although it is right again, until it is stored anew.
        flip_back(&pack, text);
        drop(store);
        let store = world.store();
        assert!(matches!(store.check("crm", first), Err(StoreError::Damaged(_))), "{text}");
        store.snapshot(&world.files(), label("v1")).unwrap();
        store.check("crm", first).unwrap();
    }
}

#[test]
fn p08_a_flipped_bit_in_a_large_object_is_found() {
    let world = World::new(SwitchMode::Exchange);
    let large: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    fs::write(world.app().join("large"), &large).unwrap();
    let store = world.store();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    let objects = files_below(&world.root.join("state/store/objects"));
    let [object] = &objects[..] else { panic!("{objects:?}") };
    assert_eq!(fs::read(object).unwrap(), large);
    flip(object);
    let error = store.check("crm", first).unwrap_err().reason();
    assert!(error.contains(&object.display().to_string()), "{error}");
    assert!(!object.exists());
    store.snapshot(&world.files(), label("v1")).unwrap();
    store.check("crm", first).unwrap();
}

#[test]
fn p08_a_damaged_or_missing_index_is_made_anew_from_its_pack() {
    let world = World::new(SwitchMode::Exchange);
    let first = world.store().snapshot(&world.files(), label("v1")).unwrap().exact;
    let packs = world.root.join("state/store/packs");
    let is_index = |path: &PathBuf| path.extension() == Some(OsStr::new("index"));
    let index = files_below(&packs).into_iter().find(is_index).unwrap();
    let whole = fs::read(&index).unwrap();
    for damage in [
        flip,
        |path: &Path| fs::remove_file(path).unwrap(),
        |path: &Path| {
            fs::File::options().write(true).open(path).unwrap().set_len(50).unwrap();
        },
    ] {
        damage(&index);
        world.store().check("crm", first).unwrap();
        assert_eq!(fs::read(&index).unwrap(), whole);
    }
}

#[test]
fn p08_a_flipped_bit_in_a_manifest_or_record_is_found_and_the_rest_is_listed() {
    let Rollback { world, first, second, second_picture, .. } =
        World::at_second(SwitchMode::Exchange);
    let store = world.store();
    store.discard(&world.files(), first).unwrap();
    for kind in ["manifests", "snapshots"] {
        for file in files_below(&world.root.join("state/store").join(kind)) {
            let whole = fs::read(&file).unwrap();
            flip(&file);
            let damaged: Vec<Hash> = [first, second]
                .into_iter()
                .filter(|exact| matches!(store.check("crm", *exact), Err(StoreError::Damaged(_))))
                .collect();
            assert!(!damaged.is_empty(), "{}", file.display());
            let listed = store.list().unwrap();
            assert_eq!(listed.len(), 2);
            for info in listed {
                assert_eq!(info.damage.is_some(), damaged.contains(&info.exact), "{info:?}");
            }
            if damaged.contains(&first) {
                let error = store.stage(&world.files(), first).unwrap_err();
                assert!(matches!(error, StoreError::Damaged(_)), "{}", error.reason());
            }
            assert_eq!(world.picture(), second_picture);
            fs::write(&file, whole).unwrap();
            for exact in [first, second] {
                store.check("crm", exact).unwrap();
            }
        }
    }
}

#[test]
fn p08_what_an_interrupted_snapshot_left_is_gone_and_the_next_one_is_whole() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store_with(stop_at(0));
    store.snapshot(&world.files(), label("v1")).unwrap_err();
    drop(store);
    fs::write(world.root.join("state/store/tmp/torn"), "half").unwrap();
    let store = world.store();
    assert!(store.list().unwrap().is_empty());
    assert_eq!(fs::read_dir(world.root.join("state/store/tmp")).unwrap().count(), 0);
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    store.check("crm", first).unwrap();
}

/// Flips a bit in the middle of a text where it stands in a pack, and says which.
fn flip_packed(world: &World, text: &str) -> PathBuf {
    let packs = files_below(&world.root.join("state/store/packs"));
    let holds = |path: &&PathBuf| find(&fs::read(path).unwrap(), text.as_bytes()).is_some();
    let pack = packs.iter().find(holds).unwrap().clone();
    let mut bytes = fs::read(&pack).unwrap();
    let at = find(&bytes, text.as_bytes()).unwrap() + text.len() / 2;
    bytes[at] ^= 0x10;
    fs::write(&pack, bytes).unwrap();
    pack
}

fn flip_back(pack: &Path, text: &str) {
    let mut flipped = text.as_bytes().to_vec();
    flipped[text.len() / 2] ^= 0x10;
    let mut bytes = fs::read(pack).unwrap();
    let at = find(&bytes, &flipped).unwrap();
    bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
    fs::write(pack, bytes).unwrap();
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}
