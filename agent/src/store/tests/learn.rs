//! What came by other means is looked at, taken and named.

use std::time::SystemTime;

use super::*;

/// Later than any change: nothing counts as moving.
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

fn learned(release: &str) -> Label {
    Label { learned_at_unix_ms: Some(1_700_000_600_000), ..label(release) }
}

fn known(store: &Store, world: &World) -> Option<(String, bool)> {
    let known = store.glance(&world.files(), later()).unwrap().known;
    known.map(|known| (known.release, known.extra))
}

#[test]
fn a_glance_tells_a_release_from_what_came_by_other_means() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    assert_eq!(known(&store, &world), None, "the first day");
    store.snapshot(&world.files(), label("v1")).unwrap();
    assert_eq!(known(&store, &world), Some(("v1".to_owned(), false)));
    fs::write(world.app().join("cache"), "by the app").unwrap();
    assert_eq!(known(&store, &world), Some(("v1".to_owned(), true)));
    fs::remove_file(world.app().join("cache")).unwrap();
    fs::write(world.app().join("server.js"), "serve(2)").unwrap();
    assert_eq!(known(&store, &world), None);
    store.snapshot(&world.files(), label("v2")).unwrap();
    // The old bytes with other times, as a deploy of the old release makes them.
    fs::write(world.app().join("server.js"), "serve(1)").unwrap();
    assert_eq!(known(&store, &world), Some(("v1".to_owned(), false)), "by its content");
}

#[test]
fn what_was_taken_has_no_name_and_what_was_learned_can_be_gone_back_to() {
    for mode in MODES {
        let world = World::new(mode);
        let store = world.store();
        let exact = store.glance(&world.files(), later()).unwrap().exact;
        store.take(&world.files(), exact, later()).unwrap();
        store.take(&world.files(), exact, later()).unwrap();
        let [row] = &store.list().unwrap()[..] else { panic!("one row") };
        assert_eq!((row.exact, row.release.as_str(), row.in_store), (exact, "", true));
        assert_eq!(store.live(&world.files()).unwrap().record, None, "nothing was promised");
        assert_eq!(known(&store, &world), None);
        let picture = world.picture();

        let info = store.learn(&world.files(), exact, later(), learned("v1")).unwrap();
        assert_eq!(info.learned_at_unix_ms, Some(1_700_000_600_000));
        assert_eq!(known(&store, &world), Some(("v1".to_owned(), false)));
        assert_eq!(store.live(&world.files()).unwrap().record.unwrap().release, "v1");
        drop(store);

        let store = world.store();
        assert_eq!(store.list().unwrap(), [info], "after a restart, too");
        world.deploy(2);
        let before = store.stage(&world.files(), exact).unwrap().before;
        store.switch(&world.files(), before, exact).unwrap();
        assert_eq!(without_carrier(world.picture()), without_carrier(picture), "{mode:?}");
    }
}

#[test]
fn what_moves_is_neither_taken_nor_named() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let files = world.files();
    let exact = store.glance(&files, later()).unwrap().exact;
    let since = UNIX_EPOCH + Duration::from_secs(1);
    let glance = store.glance(&files, since).unwrap();
    assert_eq!(glance.exact, exact);
    assert!(glance.moving.unwrap().contains(&world.root.display().to_string()));
    let moving = |done: Result<(), StoreError>| matches!(done, Err(StoreError::Changing { .. }));
    assert!(moving(store.take(&files, exact, since)), "something changed since");
    store.take(&files, exact, later()).unwrap();
    let name = |since| store.learn(&files, exact, since, learned("v1")).map(drop);
    assert!(moving(name(since)));
    world.deploy(2);
    assert!(moving(store.take(&files, exact, later())), "it is another tree");
    assert!(moving(name(later())));
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(store.list().unwrap()[0].release.is_empty());
}

#[test]
fn a_name_is_not_taken_from_another() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    store.snapshot(&world.files(), label("v1")).unwrap();
    world.deploy(2);
    let exact = store.glance(&world.files(), later()).unwrap().exact;
    let unknown = store.learn(&world.files(), exact, later(), learned("v2")).unwrap_err();
    assert!(matches!(unknown, StoreError::Unknown { .. }), "it was never taken: {unknown}");
    store.take(&world.files(), exact, later()).unwrap();
    let taken = store.learn(&world.files(), exact, later(), learned("v1")).unwrap_err();
    assert!(matches!(taken, StoreError::ReleaseTaken { .. }), "{taken}");
}

#[test]
fn whoever_works_on_it_goes_first() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let exact = store.glance(&world.files(), later()).unwrap().exact;
    let shared = store.shared("crm").unwrap();
    let yields = || {
        let glanced = store.glance(&world.files(), later()).map(drop);
        let taken = store.take(&world.files(), exact, later());
        let learned = store.learn(&world.files(), exact, later(), learned("v1")).map(drop);
        [glanced, taken, learned]
            .into_iter()
            .all(|done| matches!(done, Err(StoreError::Yielded { .. })))
    };
    let working = shared.enter();
    assert!(yields(), "somebody works");
    drop(working);
    shared.waiting.fetch_add(1, Ordering::Relaxed);
    assert!(yields(), "somebody came meanwhile");
    shared.waiting.fetch_sub(1, Ordering::Relaxed);
    assert!(store.list().unwrap().is_empty());
    store.take(&world.files(), exact, later()).unwrap();
}

#[test]
fn p08_a_power_cut_in_the_middle_leaves_it_unnamed_or_named() {
    let world = World::new(SwitchMode::Exchange);
    let exact = world.store().glance(&world.files(), later()).unwrap().exact;
    let cut = world.store_with(stop_at(0));
    assert!(cut.take(&world.files(), exact, later()).is_err());
    drop(cut);
    let store = world.store();
    assert!(store.list().unwrap().is_empty());
    store.take(&world.files(), exact, later()).unwrap();
    drop(store);
    let cut = world.store_with(stop_at(0));
    assert!(cut.learn(&world.files(), exact, later(), learned("v1")).is_err());
    drop(cut);
    let store = world.store();
    assert_eq!(store.list().unwrap()[0].release, "v1");
    assert_eq!(known(&store, &world), Some(("v1".to_owned(), false)));
    store.learn(&world.files(), exact, later(), learned("v1")).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
}
