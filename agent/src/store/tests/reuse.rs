//! Trees that stand staged for one release and are made another's.

use super::*;

/// Three releases that differ in little; the third is live, the first is staged.
struct Three {
    world: World,
    releases: [Hash; 3],
    second: Picture,
    third: Picture,
}

fn three() -> Three {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    fs::write(world.app().join("server.js"), "serve(2)").unwrap();
    fs::write(world.app().join(".env.production"), "SECRET=2").unwrap();
    fs::remove_dir(world.app().join("empty")).unwrap();
    fs::remove_file(world.app().join("dangling")).unwrap();
    fs::create_dir_all(world.app().join("dangling/now/a/directory")).unwrap();
    fs::set_permissions(world.app().join("same"), Permissions::from_mode(0o640)).unwrap();
    let second = store.snapshot(&world.files(), label("v2")).unwrap().exact;
    let second_picture = world.picture();
    fs::write(world.app().join("server.js"), "serve(3)").unwrap();
    let third = store.snapshot(&world.files(), label("v3")).unwrap().exact;
    let third_picture = world.picture();
    store.stage(&world.files(), first).unwrap();
    let releases = [first, second, third];
    Three { world, releases, second: second_picture, third: third_picture }
}

fn staged(world: &World, exact: Hash, path: &str) -> PathBuf {
    world.root.join(format!("srv/.lastgood/app.{}", exact.short())).join(path)
}

#[test]
fn a_tree_that_stands_for_another_release_is_taken_over_and_only_what_differs_is_copied() {
    let Three { world, releases: [first, second, third], second: picture, .. } = three();
    // The number of an inode that is gone may be given again at once, but not with its time of birth.
    let inode = |path: PathBuf| {
        let meta = fs::symlink_metadata(path).unwrap();
        (meta.ino(), meta.created().unwrap())
    };
    let untouched = ["bin/run", ".env", "link"].map(|path| inode(staged(&world, first, path)));
    let changed = ["server.js", "same"].map(|path| inode(staged(&world, first, path)));
    let store = world.store();
    assert!(!store.stage(&world.files(), second).unwrap().already);
    assert!(!store.is_staged(&world.files(), first).unwrap());
    let now = ["bin/run", ".env", "link"].map(|path| inode(staged(&world, second, path)));
    assert_eq!(now, untouched);
    for (path, before) in ["server.js", "same"].into_iter().zip(changed) {
        assert_ne!(inode(staged(&world, second, path)), before, "{path} was written anew");
    }
    store.switch(&world.files(), third, second).unwrap();
    assert_eq!(world.picture(), picture);
    assert_eq!(store.digest_matches(&world.files(), second).unwrap(), []);
}

#[test]
fn a_declared_file_is_all_that_differs_and_all_that_is_made_anew() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let env = world.app().join(".env.production");
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    fs::write(&env, "SECRET=2").unwrap();
    let second = store.snapshot(&world.files(), label("v2")).unwrap().exact;
    fs::write(&env, "SECRET=3").unwrap();
    store.snapshot(&world.files(), label("v3")).unwrap();
    store.stage(&world.files(), first).unwrap();
    let inode = |exact| fs::metadata(staged(&world, exact, "server.js")).unwrap().ino();
    let before = inode(first);
    store.stage(&world.files(), second).unwrap();
    assert_eq!(inode(second), before);
    let text = fs::read_to_string(staged(&world, second, ".env.production")).unwrap();
    assert_eq!(text, "SECRET=2");
}

#[test]
fn a_takeover_that_stops_at_any_step_leaves_nothing_half_named() {
    for stop in 0.. {
        let Three { world, releases: [first, second, third], second: picture, third: live } =
            three();
        let store = world.store_with(stop_at(stop));
        let stopped = store.stage(&world.files(), second);
        drop(store);
        assert_eq!(world.picture(), live, "stopped at step {stop}");
        let store = world.store();
        store.stage(&world.files(), second).unwrap();
        store.switch(&world.files(), third, second).unwrap();
        assert_eq!(world.picture(), picture, "stopped at step {stop}");
        store.stage(&world.files(), first).unwrap();
        assert_eq!(store.digest_matches(&world.files(), second).unwrap(), []);
        if stopped.is_ok() {
            assert!(stop >= 5);
            break;
        }
    }
}

#[test]
fn what_root_changed_in_a_tree_out_of_reach_is_found_after_the_switch_and_is_right_the_next_time() {
    let Three { world, releases: [first, second, third], second: picture, .. } = three();
    fs::write(staged(&world, first, "bin/run"), "tampered").unwrap();
    let store = world.store();
    store.stage(&world.files(), second).unwrap();
    store.switch(&world.files(), third, second).unwrap();
    let found = store.digest_matches(&world.files(), second).unwrap();
    let paths: Vec<&str> = found.iter().map(|one| one.path.as_str()).collect();
    assert!(paths.iter().any(|path| path.ends_with("bin/run")), "{found:?}");
    assert!(found.iter().any(|one| one.is_failure()));
    store.switch(&world.files(), second, third).unwrap();
    store.stage(&world.files(), second).unwrap();
    store.switch(&world.files(), third, second).unwrap();
    assert_eq!(world.picture(), picture);
}

#[test]
fn the_only_copy_of_something_is_never_taken() {
    let Three { world, releases: [first, second, _], .. } = three();
    fs::write(world.app().join(".env"), "V=by hand").unwrap();
    let store = world.store();
    let before = store.stage(&world.files(), first).unwrap().before;
    store.switch(&world.files(), before, first).unwrap();
    store.read_replaced(&world.files()).unwrap();
    store.stage(&world.files(), second).unwrap();
    assert_eq!(fs::read_to_string(staged(&world, before, ".env")).unwrap(), "V=by hand");
}

#[test]
fn before_it_is_asked_for_the_newest_releases_stand_and_what_an_operation_wants_stays() {
    let Three { world, releases: [first, second, third], .. } = three();
    let store = world.store();
    let stand = |store: &Store| {
        [first, second, third].map(|exact| store.is_staged(&world.files(), exact).unwrap())
    };
    // The first one was staged for an operation.
    store.prestage(&world.files(), third, 1).unwrap();
    assert_eq!(stand(&store), [true, false, true]);
    store.prestage(&world.files(), second, 2).unwrap();
    assert_eq!(stand(&store), [true, true, false]);
    assert_eq!(store.records.live("crm").unwrap().unwrap().exact, third);
    store.switch(&world.files(), third, first).unwrap();
    store.prestage(&world.files(), first, 2).unwrap();
    // The way back was not taken either.
    store.switch(&world.files(), first, third).unwrap();
}

#[test]
fn what_is_taken_out_of_use_is_removed_when_nobody_waits() {
    let Rollback { world, first, .. } = World::at_second(SwitchMode::Exchange);
    let store = world.store();
    let tampered = world.root.join(format!("srv/.lastgood/app.{}/server.js", first.short()));
    fs::write(tampered, "tampered").unwrap();
    store.stage(&world.files(), first).unwrap();
    assert!(staged_names(&world).iter().any(|name| name.contains(".gone-")));
    store.tidy(&world.files()).unwrap();
    assert!(!staged_names(&world).iter().any(|name| name.contains(".gone-")));
    assert!(store.is_staged(&world.files(), first).unwrap());
}

#[test]
fn work_that_nobody_asked_for_makes_way() {
    let Rollback { world, first, .. } = World::at_second(SwitchMode::Exchange);
    let store = world.store();
    store.discard(&world.files(), first).unwrap();
    let shared = store.shared("crm").unwrap();
    shared.waiting.fetch_add(1, Ordering::Relaxed);
    let yielded = store.prestage(&world.files(), first, 2);
    assert!(matches!(yielded, Err(StoreError::Yielded { .. })), "{yielded:?}");
    assert!(!store.is_staged(&world.files(), first).unwrap());
    shared.waiting.fetch_sub(1, Ordering::Relaxed);
    store.prestage(&world.files(), first, 2).unwrap();
    assert!(store.is_staged(&world.files(), first).unwrap());
}
