//! Compaction: what is named is there at every moment and reads back the same; what is not named goes; the disk gains.

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::{
    damage::{files_below, flip},
    *,
};

const NOW: Compaction = Compaction {
    min_age: Duration::ZERO,
    pack_bytes_max: 512 * 1024 * 1024,
    wait: Duration::from_secs(10),
};

/// Bytes that compress well, others for each seed.
fn prose(seed: u64, bytes: usize) -> Vec<u8> {
    format!("the release {seed} says the same thing again and again; ")
        .into_bytes()
        .repeat(bytes / 40 + 1)[..bytes]
        .to_vec()
}

/// Bytes that do not compress.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

/// A release of small and large files, some of which every release has.
fn fill(world: &World, release: u64) {
    let dir = world.app().join("lib");
    fs::create_dir_all(&dir).unwrap();
    for file in 0..20 {
        fs::write(dir.join(format!("own-{file}.js")), prose(release * 100 + file, 3000)).unwrap();
        fs::write(dir.join(format!("shared-{file}.js")), prose(file, 3000)).unwrap();
    }
    fs::write(dir.join("large"), prose(release, 300_000)).unwrap();
    fs::write(dir.join("noise"), noise(release, 200_000)).unwrap();
    fs::write(dir.join("shared-large"), prose(7_000_000, 400_000)).unwrap();
}

/// Blocks that everything of the store below `kind` takes.
fn taken(world: &World, kind: &str) -> u64 {
    let files = files_below(&world.root.join("state/store").join(kind));
    files.iter().map(|path| fs::metadata(path).unwrap().blocks() * 512).sum()
}

fn objects(world: &World) -> u64 {
    taken(world, "objects") + taken(world, "packs")
}

/// Two releases, both taken.
fn two_releases() -> (World, [Hash; 2], [Picture; 2]) {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    fill(&world, 1);
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    let first_picture = world.picture();
    world.deploy(2);
    fill(&world, 2);
    let second = store.snapshot(&world.files(), label("v2")).unwrap().exact;
    let second_picture = world.picture();
    (world, [first, second], [first_picture, second_picture])
}

fn no_damage(store: &Store, exacts: &[Hash]) {
    for exact in exacts {
        store.check("crm", *exact).unwrap_or_else(|error| panic!("{}", error.reason()));
    }
}

#[test]
fn a_compacted_store_takes_less_and_restores_the_same() {
    let (world, [first, second], [first_picture, _]) = two_releases();
    let store = world.store();
    let before = objects(&world);
    let done = store.compact(&NOW).unwrap();
    assert_eq!(done.left, []);
    assert_eq!((done.freed_objects, done.damaged_objects), (0, 0));
    assert!(done.compressed_objects >= 63, "{done:?}");
    let after = objects(&world);
    assert!(after < before / 2, "{before} → {after}");
    no_damage(&store, &[first, second]);
    store.stage(&world.files(), first).unwrap();
    store.switch(&world.files(), second, first).unwrap();
    assert_eq!(without_carrier(world.picture()), first_picture);
    // What is done is done.
    assert_eq!(store.compact(&NOW).unwrap(), Compacted::default());
    drop(store);
    let store = world.store();
    no_damage(&store, &[first, second]);
    assert_eq!(store.compact(&NOW).unwrap(), Compacted::default());
    assert_eq!(objects(&world), after);
}

#[test]
fn what_no_record_names_is_freed_and_what_another_shares_is_not() {
    let (world, [first, second], _) = two_releases();
    let store = world.store();
    let twin = ComponentFiles { component: "twin".to_owned(), ..world.files() };
    let other = store.snapshot(&twin, label("v2")).unwrap().exact;
    store.compact(&NOW).unwrap();
    let both = objects(&world);
    forget(&store, "crm", first);
    let done = store.compact(&NOW).unwrap();
    assert!(done.freed_objects >= 22 && done.left.is_empty(), "{done:?}");
    let one = objects(&world);
    assert!(one < both, "{both} → {one}");
    no_damage(&store, &[second]);
    forget(&store, "crm", second);
    assert_eq!(store.compact(&NOW).unwrap(), Compacted::default());
    store.check("twin", other).unwrap();
    forget(&store, "twin", other);
    store.compact(&NOW).unwrap();
    assert_eq!(objects(&world), 0);
    assert_eq!(taken(&world, "manifests"), 0);
}

#[test]
fn what_is_compressed_is_not_stored_again() {
    let (world, [_, second], _) = two_releases();
    let store = world.store();
    store.compact(&NOW).unwrap();
    let before = objects(&world);
    let twin = ComponentFiles { component: "twin".to_owned(), ..world.files() };
    let other = store.snapshot(&twin, label("v2")).unwrap().exact;
    assert_eq!(objects(&world), before);
    no_damage(&store, &[second]);
    store.check("twin", other).unwrap();
}

#[test]
fn what_is_young_is_left_as_it_is() {
    let (world, exacts, _) = two_releases();
    let store = world.store();
    let before = objects(&world);
    let young = Compaction { min_age: Duration::from_secs(3600), ..NOW };
    assert_eq!(store.compact(&young).unwrap(), Compacted::default());
    assert_eq!(objects(&world), before);
    no_damage(&store, &exacts);
}

#[test]
fn what_has_holes_or_does_not_pay_stays_plain() {
    let world = World::new(SwitchMode::Exchange);
    let file = fs::File::create(world.app().join("sparse")).unwrap();
    file.set_len(4_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", 3_000_000).unwrap();
    fs::write(world.app().join("noise"), noise(1, 500_000)).unwrap();
    let store = world.store();
    let exact = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    let large = || {
        let files = files_below(&world.root.join("state/store/objects"));
        let known = |path: &PathBuf| {
            let meta = fs::metadata(path).unwrap();
            (path.clone(), meta.ino(), meta.mode() & 0o777)
        };
        files.iter().map(known).collect::<Vec<_>>()
    };
    let before = large();
    store.compact(&NOW).unwrap();
    let after = large();
    let [(_, _, sparse), (_, _, tried)] = after[..] else { panic!("{after:?}") };
    assert_eq!((sparse, tried), (0o600, 0o400), "{after:?}");
    let inodes = |rows: &[(PathBuf, u64, u32)]| rows.iter().map(|row| row.1).collect::<Vec<_>>();
    assert_eq!(inodes(&before), inodes(&after));
    no_damage(&store, &[exact]);
}

#[test]
fn many_small_packs_become_one_and_a_bound_holds() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let mut exacts = Vec::new();
    for release in 0..9 {
        fill(&world, release);
        exacts.push(store.snapshot(&world.files(), label(&format!("v{release}"))).unwrap().exact);
        store.compact(&NOW).unwrap();
    }
    let packs = || {
        let files = files_below(&world.root.join("state/store/packs"));
        files.into_iter().filter(|path| path.extension() == Some(OsStr::new("pack"))).count()
    };
    assert!(packs() < 9, "{}", packs());
    no_damage(&store, &exacts);
    // Half of them go, and what is left is written anew in packs of a few kilobytes.
    for exact in exacts.drain(..5) {
        forget(&store, "crm", exact);
    }
    let bounded = Compaction { pack_bytes_max: 4096, ..NOW };
    store.compact(&bounded).unwrap();
    no_damage(&store, &exacts);
    for path in files_below(&world.root.join("state/store/packs")) {
        assert!(fs::metadata(&path).unwrap().len() < 4096 + 3200, "{}", path.display());
    }
    assert!(packs() > 1);
    drop(store);
    no_damage(&world.store(), &exacts);
}

#[test]
fn p08_next_to_a_damaged_record_or_manifest_nothing_is_freed() {
    for kind in ["manifests", "snapshots"] {
        let (world, [first, second], _) = two_releases();
        let store = world.store();
        forget(&store, "crm", second);
        let torn = files_below(&world.root.join("state/store").join(kind)).remove(0);
        let whole = fs::read(&torn).unwrap();
        flip(&torn);
        let done = store.compact(&NOW).unwrap();
        assert!(matches!(&done.left[..], [Left::Unreadable { .. }]), "{done:?}");
        assert_eq!(done.freed_objects, 0);
        assert!(done.compressed_objects > 0);
        fs::write(&torn, whole).unwrap();
        no_damage(&store, &[first]);
        let done = store.compact(&NOW).unwrap();
        assert!(done.freed_objects >= 22 && done.left.is_empty(), "{done:?}");
        no_damage(&store, &[first]);
    }
}

#[test]
fn p08_any_byte_flipped_in_a_compacted_store_is_found_or_does_no_harm() {
    let world = World::new(SwitchMode::Exchange);
    fs::write(world.app().join("large"), prose(1, 140_000)).unwrap();
    let store = world.store();
    let exact = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    store.compact(&NOW).unwrap();
    let wanted =
        store.file_in(&world.files(), exact, &world.app().join(".env.production")).unwrap();
    drop(store);
    let state = world.root.join("state/store");
    let mut found = 0;
    for path in
        files_below(&state.join("packs")).into_iter().chain(files_below(&state.join("objects")))
    {
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(3) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, bytes).unwrap();
            let store = world.store();
            match store.check("crm", exact) {
                Ok(()) => {}
                Err(StoreError::Damaged(damage)) => {
                    found += 1;
                    assert!(damage.what.contains("object"), "{damage}");
                }
                Err(error) => panic!("{}", error.reason()),
            }
            match store.file_in(&world.files(), exact, &world.app().join(".env.production")) {
                Ok(bytes) => assert_eq!(bytes, wanted),
                Err(error) => assert!(matches!(error, StoreError::Damaged(_))),
            }
            drop(store);
            // As it was, with what a damaged object took with it.
            for kind in ["packs", "objects"] {
                for path in files_below(&state.join(kind)) {
                    if path.extension() == Some(OsStr::new("index")) {
                        fs::remove_file(path).unwrap();
                    }
                }
            }
            fs::write(&path, &whole).unwrap();
        }
    }
    no_damage(&world.store(), &[exact]);
    assert!(found > 50, "{found}");
}

#[test]
fn p08_what_compaction_finds_damaged_is_named_and_not_copied() {
    let (world, [first, second], _) = two_releases();
    drop(world.store());
    // The bytes of one small and one large object that only the first release has.
    for (kind, text) in [("packs", "the release 105 says"), ("objects", "the release 1 says")] {
        let holds = |path: &PathBuf| {
            let bytes = fs::read(path).unwrap();
            bytes.windows(text.len()).position(|window| window == text.as_bytes())
        };
        let files = files_below(&world.root.join("state/store").join(kind));
        let (path, at) = files.iter().find_map(|path| Some((path, holds(path)?))).unwrap();
        let mut bytes = fs::read(path).unwrap();
        bytes[at + 5] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let store = world.store();
    let done = store.compact(&NOW).unwrap();
    assert_eq!((done.damaged_objects, done.left.len()), (2, 0), "{done:?}");
    let listed = store.list().unwrap();
    let damage = |exact| listed.iter().find(|row| row.exact == exact).unwrap().damage.clone();
    assert!(damage(first).unwrap().contains("no longer has the bytes"), "{listed:?}");
    assert_eq!(damage(second), None);
    assert!(matches!(store.stage(&world.files(), first), Err(StoreError::Damaged(_))));
    no_damage(&store, &[second]);
}

/// A copy of everything below a directory.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

#[test]
fn p08_whatever_is_on_the_disk_at_any_step_has_every_named_object() {
    let (world, [first, second], _) = two_releases();
    forget(&world.store(), "crm", first);
    let crashes = world.root.join("crashes");
    let (state, to) = (world.root.join("state"), crashes.clone());
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&steps);
    let store = world.store_with(move |step| {
        let mut seen = lock(&seen);
        copy(&state, &to.join(seen.len().to_string()));
        seen.push(step.to_owned());
        Ok(())
    });
    let done = store.compact(&NOW).unwrap();
    assert!(done.freed_objects > 0 && done.compressed_objects > 0, "{done:?}");
    let seen = lock(&steps).clone();
    for step in [
        "marked",
        "freed",
        "pack written",
        "pack named",
        "index durable",
        "old index gone",
        "old pack gone",
        "object written",
        "object named",
        "plain object gone",
    ] {
        assert!(seen.contains(&format!("compact: {step}")), "{step}: {seen:?}");
    }
    let wanted = objects(&world);
    for (number, step) in seen.iter().enumerate() {
        let state = crashes.join(number.to_string());
        let store = Store::open(&state).unwrap();
        store.check("crm", second).unwrap_or_else(|error| panic!("{step}: {}", error.reason()));
        assert_eq!(fs::read_dir(state.join("store/tmp")).unwrap().count(), 0, "{step}");
        let again = store.compact(&NOW).unwrap();
        assert_eq!((again.damaged_objects, again.left), (0, Vec::new()), "{step}");
        store.check("crm", second).unwrap();
        let blocks = |path: PathBuf| fs::metadata(path).unwrap().blocks() * 512;
        let kinds = ["objects", "packs"].map(|kind| state.join("store").join(kind));
        let taken: u64 = kinds.iter().flat_map(|kind| files_below(kind)).map(blocks).sum();
        assert_eq!(taken, wanted, "{step}: the next one ends what this one began");
    }
}

#[test]
fn an_error_at_any_step_leaves_the_open_store_whole() {
    for number in 0.. {
        let (world, [first, second], _) = two_releases();
        forget(&world.store(), "crm", first);
        let store = world.store_with(stop_at(number));
        let ended = store.compact(&NOW);
        no_damage(&store, &[second]);
        if ended.is_ok() {
            assert!(number >= 10, "{number}");
            return;
        }
        let done = store.compact(&NOW).unwrap();
        assert_eq!(done.left, [], "{number}");
        no_damage(&store, &[second]);
    }
}

#[test]
fn p08_a_full_disk_leaves_everything_as_it_was() {
    for (full, kind) in [("compact: object written", "objects"), ("compact: pack written", "packs")]
    {
        let (world, exacts, _) = two_releases();
        let store = world.store_with(move |step: &str| match step {
            step if step == full => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        });
        let before = taken(&world, kind);
        let done = store.compact(&NOW).unwrap();
        assert!(matches!(&done.left[..], [Left::NoSpace { .. }]), "{done:?}");
        assert_eq!(taken(&world, kind), before);
        assert_eq!(fs::read_dir(world.root.join("state/store/tmp")).unwrap().count(), 0);
        no_damage(&store, &exacts);
    }
}

#[test]
fn nothing_is_freed_that_somebody_has_found_to_be_there() {
    let (world, [first, second], _) = two_releases();
    let store = world.store();
    forget(&store, "crm", first);
    let impatient = Compaction { wait: Duration::ZERO, ..NOW };
    let batch = store.objects.batch();
    let done = store.compact(&impatient).unwrap();
    assert_eq!((done.freed_objects, &done.left[..]), (0, &[Left::Relied][..]));
    let named = batch.commit().unwrap();
    assert_eq!(store.compact(&impatient).unwrap().freed_objects, 0);
    drop(named);
    assert!(store.compact(&impatient).unwrap().freed_objects > 0);
    no_damage(&store, &[second]);
}

#[test]
fn it_makes_way_for_an_operation_and_runs_once_at_a_time() {
    let (world, _, _) = two_releases();
    let store = world.store();
    let before = objects(&world);
    let shared = store.shared("crm").unwrap();
    let busy = shared.enter();
    let done = store.compact(&NOW).unwrap();
    assert_eq!(done.left, [Left::MadeWay { component: "crm".to_owned() }]);
    assert_eq!(objects(&world), before);
    drop(busy);
    let only = store.compacting.lock().unwrap();
    assert_eq!(store.compact(&NOW).unwrap().left, [Left::AlreadyRunning]);
    drop(only);
    assert!(store.compact(&NOW).unwrap().compressed_objects > 0);
}

#[test]
fn snapshots_checks_and_compactions_at_the_same_time_lose_nothing() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    fill(&world, 0);
    let base = store.snapshot(&world.files(), label("v0")).unwrap().exact;
    let ended = AtomicBool::new(false);
    let mut exacts = vec![base];
    std::thread::scope(|scope| {
        let compacting = scope.spawn(|| {
            // Once more after the last snapshot, when nobody is in the way.
            loop {
                let last = ended.load(Ordering::SeqCst);
                let done = store.compact(&NOW).unwrap();
                assert_eq!(done.damaged_objects, 0);
                if last {
                    return done;
                }
            }
        });
        let reading = scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                no_damage(&store, &[base]);
            }
        });
        for release in 1..12 {
            // Every other release has bytes that have just become nobody's.
            fill(&world, release % 3);
            let name = format!("v{release}");
            let exact = store.snapshot(&world.files(), label(&name)).unwrap().exact;
            no_damage(&store, &[exact]);
            if let Some(old) = exacts.iter().position(|old| *old != base && *old != exact)
                && release % 2 == 0
            {
                forget(&store, "crm", exacts.remove(old));
            }
            exacts.push(exact);
        }
        ended.store(true, Ordering::SeqCst);
        reading.join().unwrap();
        let last = compacting.join().unwrap();
        assert!(last.left.is_empty(), "{last:?}");
    });
    no_damage(&store, &exacts);
    drop(store);
    no_damage(&world.store(), &exacts);
}

/// What is done to a store, in any order.
#[derive(Clone, Debug)]
enum Act {
    /// Files of these sizes and seeds become the tree, and are taken.
    Take(Vec<(u8, usize, bool)>),
    Remove(prop::sample::Index),
    Compact {
        pack_bytes_max: u64,
    },
    Open,
}

fn act() -> impl Strategy<Value = Act> {
    let file = (0..6u8, prop_oneof![0..400usize, 100_000..160_000usize], any::<bool>());
    prop_oneof![
        3 => prop::collection::vec(file, 0..6).prop_map(Act::Take),
        1 => any::<prop::sample::Index>().prop_map(Act::Remove),
        3 => prop_oneof![Just(2000), Just(1 << 29)]
            .prop_map(|pack_bytes_max| Act::Compact { pack_bytes_max }),
        1 => Just(Act::Open),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_objects_compacted_at_any_time_read_back_the_same(acts in prop::collection::vec(act(), 1..14)) {
        let world = World::new(SwitchMode::Exchange);
        let dir = world.app().join("lib");
        let mut store = world.store();
        let mut known: Vec<Hash> = Vec::new();
        for (number, act) in acts.into_iter().enumerate() {
            match act {
                Act::Take(files) => {
                    fs::create_dir_all(&dir).unwrap();
                    fs::remove_dir_all(&dir).unwrap();
                    fs::create_dir(&dir).unwrap();
                    for (seed, bytes, dense) in files {
                        let seed = u64::from(seed);
                        let text = if dense { noise(seed, bytes) } else { prose(seed, bytes) };
                        fs::write(dir.join(format!("{seed}-{bytes}-{dense}")), text).unwrap();
                    }
                    let label = label(&format!("v{number}"));
                    known.push(store.snapshot(&world.files(), label).unwrap().exact);
                }
                Act::Remove(index) if !known.is_empty() => {
                    let exact = known.swap_remove(index.index(known.len()));
                    forget(&store, "crm", exact);
                    known.retain(|other| *other != exact);
                }
                Act::Remove(_) => {}
                Act::Compact { pack_bytes_max } => {
                    let done = store.compact(&Compaction { pack_bytes_max, ..NOW }).unwrap();
                    prop_assert_eq!((done.damaged_objects, done.left), (0, Vec::new()));
                }
                Act::Open => {
                    drop(store);
                    store = world.store();
                }
            }
            no_damage(&store, &known);
        }
        // Nothing is kept that nobody names.
        known.into_iter().for_each(|exact| forget(&store, "crm", exact));
        store.compact(&NOW).unwrap();
        prop_assert_eq!(objects(&world), 0);
    }
}
