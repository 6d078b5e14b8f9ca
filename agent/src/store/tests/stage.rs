//! Staging: drift, reuse, interruption, removal.

use super::*;

#[test]
fn a_stage_that_stops_at_any_step_changes_nothing_and_can_be_repeated() {
    for mode in MODES {
        for stop in 0.. {
            let Rollback { world, first, first_picture, second, second_picture } =
                World::at_second(mode);
            let store = world.store();
            store.discard(&world.files(), first).unwrap();
            drop(store);
            let store = world.store_with(stop_at(stop));
            let stopped = store.stage(&world.files(), first);
            drop(store);
            assert_eq!(world.picture(), second_picture, "{mode:?}, stopped at step {stop}");
            if stopped.is_ok() {
                assert!(stop >= 4);
                break;
            }
            let store = world.store();
            store.stage(&world.files(), first).unwrap();
            store.switch(&world.files(), second, first).unwrap();
            assert_eq!(without_carrier(world.picture()), first_picture);
        }
    }
}

#[test]
fn drift_is_named_and_what_drifted_is_known() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    fs::write(world.app().join(".env"), "V=by hand").unwrap();
    let store = world.store();
    let staged = store.stage(&world.files(), first).unwrap();
    assert!(staged.already);
    assert_ne!(staged.before, second);
    assert_eq!(staged.drift, [format!("{}/.env has other content", world.app().display())]);
    let drifted = world.picture();
    store.switch(&world.files(), staged.before, first).unwrap();
    // It was never named, its bytes are in no store, and still it can be gone back to.
    assert!(store.discard(&world.files(), staged.before).unwrap().join("").contains("only copy"));
    assert!(store.stage(&world.files(), staged.before).unwrap().already);
    store.switch(&world.files(), first, staged.before).unwrap();
    assert_eq!(world.picture(), drifted);
}

#[test]
fn a_replaced_tree_outlives_its_removal_once_it_is_stored() {
    let Rollback { world, first, .. } = World::at_second(SwitchMode::Exchange);
    fs::write(world.app().join(".env"), "V=by hand").unwrap();
    let drifted = world.picture();
    let store = world.store();
    let before = store.stage(&world.files(), first).unwrap().before;
    store.switch(&world.files(), before, first).unwrap();
    store.store_replaced(&world.files(), before).unwrap();
    assert_eq!(store.discard(&world.files(), before).unwrap(), Vec::<String>::new());
    store.check("crm", before).unwrap();
    assert!(!store.stage(&world.files(), before).unwrap().already);
    store.switch(&world.files(), first, before).unwrap();
    assert_eq!(world.picture(), drifted);
}

#[test]
fn what_changed_in_the_last_moment_outlives_its_removal_too() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    fs::write(world.app().join(".env"), "V=by hand").unwrap();
    let late = world.picture();
    let store = world.store();
    store.switch(&world.files(), second, first).unwrap();
    store.read_replaced(&world.files()).unwrap();
    let beside: Vec<Hash> =
        store.list().unwrap().iter().filter(|row| !row.in_store).map(|row| row.exact).collect();
    let [really] = beside[..] else { panic!("{beside:?}") };
    assert!(store.discard(&world.files(), second).unwrap().join("").contains("only copy"));
    store.store_replaced(&world.files(), really).unwrap();
    assert_eq!(store.discard(&world.files(), second).unwrap(), Vec::<String>::new());
    store.check("crm", really).unwrap();
    assert!(!store.stage(&world.files(), really).unwrap().already);
    store.switch(&world.files(), first, really).unwrap();
    assert_eq!(world.picture(), late);
}

#[test]
fn a_staged_tree_that_was_tampered_with_is_built_anew() {
    let Rollback { world, first, second, first_picture, .. } =
        World::at_second(SwitchMode::Exchange);
    let staged = world.root.join(format!("srv/.lastgood/app.{}", first.short()));
    fs::write(staged.join("server.js"), "tampered").unwrap();
    let store = world.store();
    assert!(!store.stage(&world.files(), first).unwrap().already);
    assert!(store.stage(&world.files(), first).unwrap().already);
    store.switch(&world.files(), second, first).unwrap();
    assert_eq!(without_carrier(world.picture()), first_picture);
}

#[test]
fn with_release_links_only_directories_of_our_own_are_ever_removed() {
    let Rollback { world, first, second, first_picture, second_picture } =
        World::at_second(SwitchMode::Link);
    let releases = || {
        let mut names: Vec<String> = fs::read_dir(world.root.join("srv/releases"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let ours = format!("lastgood-app-{}", first.short());
    let store = world.store();
    assert_eq!(releases(), ["first", &ours]);
    store.switch(&world.files(), second, first).unwrap();

    // What is live, and what was replaced, stays.
    assert_eq!(store.discard(&world.files(), first).unwrap(), Vec::<String>::new());
    assert_eq!(releases(), ["first", &ours]);
    assert_eq!(without_carrier(world.picture()), first_picture);
    store.switch(&world.files(), first, second).unwrap();
    assert_eq!(world.picture(), second_picture);

    // What was staged and is no longer wanted goes; a link of our own to the app's release goes without it.
    store.discard(&world.files(), first).unwrap();
    assert_eq!(releases(), ["first"]);
    store.stage(&world.files(), first).unwrap();
    store.switch(&world.files(), second, first).unwrap();
    store.discard(&world.files(), second).unwrap();
    assert_eq!(releases(), ["first", &ours]);
    assert_eq!(without_carrier(world.picture()), first_picture);
}
