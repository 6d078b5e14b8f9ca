//! Bit rot in what stands staged: bytes that changed without any time of a file changing.
//!
//! What stands for the disk here is the stat cache: it is told that the changed file was read as it is now, and had the
//! hash of before. That is what a look by `stat` makes of a block that turned on the disk.

use super::*;

/// Changes a file in a staged tree of `exact`, so that no look by `stat` sees it.
fn rot(world: &World, store: &Store, exact: Hash, rel: &str) {
    let path = world.root.join(format!("srv/.lastgood/app.{}/{rel}", exact.short()));
    let bytes = fs::read(&path).unwrap();
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let mut rotten = bytes.clone();
    rotten[0] ^= 0x10;
    fs::write(&path, rotten).unwrap();
    fs::File::options().append(true).open(&path).unwrap().set_modified(modified).unwrap();
    let stat = rustix::fs::stat(&path).unwrap();
    let shared = store.shared("crm").unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(10);
    shared.cache.remember(&stat, Hash::of(&bytes), false, &Vec::new(), later);
    assert!(store.is_staged(&world.files(), exact).unwrap());
}

fn seals(store: &Store) -> Vec<Hash> {
    store.records.standing("crm").unwrap().seals.iter().map(|seal| seal.exact).collect()
}

#[test]
fn p08_a_staged_tree_that_rots_is_found_taken_out_of_use_and_built_anew() {
    for mode in MODES {
        for rel in ["server.js", ".env.production", "bin/run", "bin/again"] {
            let Rollback { world, first, first_picture, second, .. } = World::at_second(mode);
            let store = world.store();
            assert_eq!(store.check_staged(&world.files(), first).unwrap(), StandsAs::Whole);
            if mode == SwitchMode::Link {
                // The staged name is a link to a directory beside the app's own releases.
                let beside = format!("srv/releases/lastgood-app-{}", first.short());
                fs::write(world.root.join(beside).join(rel), "rotten").unwrap();
            } else {
                rot(&world, &store, first, rel);
                // No look by `stat` finds it.
                assert!(store.stage(&world.files(), first).unwrap().already);
            }
            let found = store.check_staged(&world.files(), first).unwrap();
            let StandsAs::TakenOut(what) = found else { panic!("{rel}: {found:?}") };
            assert!(what.contains(rel), "{what}");
            assert_eq!(seals(&store), []);
            assert!(!store.is_staged(&world.files(), first).unwrap());
            assert_eq!(store.check_staged(&world.files(), first).unwrap(), StandsAs::Nothing);
            // The store has its bytes: it is not damaged.
            store.check("crm", first).unwrap();
            assert!(!store.stage(&world.files(), first).unwrap().already);
            store.switch(&world.files(), second, first).unwrap();
            assert_eq!(without_carrier(world.picture()), first_picture);
        }
    }
}

#[test]
fn p08_the_only_copy_that_rots_is_named_and_left_where_it_is() {
    let Rollback { world, first, .. } = World::at_second(SwitchMode::Exchange);
    fs::write(world.app().join(".env"), "V=by hand").unwrap();
    let store = world.store();
    let before = store.stage(&world.files(), first).unwrap().before;
    store.switch(&world.files(), before, first).unwrap();
    assert_eq!(store.check_staged(&world.files(), before).unwrap(), StandsAs::Whole);
    rot(&world, &store, before, "server.js");
    let error = store.check_staged(&world.files(), before).unwrap_err().reason();
    assert!(error.contains("server.js has other content"), "{error}");
    assert!(store.is_staged(&world.files(), before).unwrap());
    assert_eq!(seals(&store), []);
    let listed = store.list().unwrap();
    let row = listed.iter().find(|row| row.exact == before).unwrap();
    assert!(row.damage.as_ref().is_some_and(|damage| damage.contains("server.js")), "{row:?}");
}

#[test]
fn in_the_middle_of_a_switch_nothing_is_taken_out() {
    let Rollback { world, first, second, second_picture, .. } =
        World::at_second(SwitchMode::Exchange);
    let store = world.store_with(stop_at(2));
    store.switch(&world.files(), second, first).unwrap_err();
    for exact in [first, second] {
        assert_eq!(store.check_staged(&world.files(), exact).unwrap(), StandsAs::Nothing);
    }
    drop(store);
    world.store().switch(&world.files(), first, second).unwrap();
    assert_eq!(world.picture(), second_picture);
}
