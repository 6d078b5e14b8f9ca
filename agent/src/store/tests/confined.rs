//! Promise 10: nothing outside the declared roots is read or touched.

use super::*;

#[test]
fn sockets_and_fifos_are_listed_and_never_opened() {
    let world = World::new(SwitchMode::Exchange);
    let _socket = UnixListener::bind(world.app().join("app.sock")).unwrap();
    let fifo = world.app().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
    // Opening the fifo for reading would wait for a writer for ever.
    let info = world.store().snapshot(&world.files(), label("v1")).unwrap();
    let expected = ["app.sock", "fifo"].map(|name| world.app().join(name).display().to_string());
    assert_eq!(info.skipped, expected);
}

#[test]
fn p10_a_link_in_place_of_a_directory_leads_nowhere() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    let outside = world.root.join("outside");
    fs::create_dir_all(outside.join("logs")).unwrap();
    fs::write(outside.join("logs/passwd"), "root").unwrap();
    // Of a kept path's parent.
    fs::rename(world.app().join("var"), world.root.join("var.moved")).unwrap();
    symlink(&outside, world.app().join("var")).unwrap();
    let store = world.store();
    let error = store.switch(&world.files(), second, first).unwrap_err();
    assert!(matches!(error, StoreError::Link { .. }), "{}", error.reason());
    assert_eq!(fs::read_to_string(outside.join("logs/passwd")).unwrap(), "root");
    // In a snapshot it is a link and nothing else.
    let info = store.live(&world.files()).unwrap();
    assert!(info.changed);
    // Of the tree itself.
    fs::rename(world.app(), world.root.join("srv/app.moved")).unwrap();
    symlink(&outside, world.app()).unwrap();
    for error in [
        store.snapshot(&world.files(), label("v3")).unwrap_err(),
        store.stage(&world.files(), first).unwrap_err(),
        store.preflight(&world.files(), first).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Link { .. }), "{}", error.reason());
    }
    // Of a parent.
    fs::remove_file(world.app()).unwrap();
    fs::rename(world.root.join("srv"), world.root.join("srv.moved")).unwrap();
    symlink("srv.moved", world.root.join("srv")).unwrap();
    let error = store.stage(&world.files(), first).unwrap_err();
    assert!(matches!(error, StoreError::Link { .. }), "{}", error.reason());
}

#[test]
fn p10_a_release_link_that_leads_out_is_refused() {
    let world = World::new(SwitchMode::Link);
    fs::create_dir(world.root.join("outside")).unwrap();
    let store = world.store();
    for target in [world.root.join("outside"), "../outside".into(), ".lastgood/x".into()] {
        fs::remove_file(world.app()).unwrap();
        symlink(&target, world.app()).unwrap();
        let error = store.snapshot(&world.files(), label("v1")).unwrap_err();
        assert!(matches!(error, StoreError::Unfit { .. }), "{}", error.reason());
    }
    // An absolute one that leads to a release is one.
    fs::remove_file(world.app()).unwrap();
    symlink(world.root.join("srv/releases/first"), world.app()).unwrap();
    store.snapshot(&world.files(), label("v1")).unwrap();
}

#[test]
fn p10_a_staging_directory_of_somebody_else_is_refused() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    world.deploy(2);
    fs::create_dir(world.root.join("srv/.lastgood")).unwrap();
    fs::set_permissions(world.root.join("srv/.lastgood"), Permissions::from_mode(0o777)).unwrap();
    let error = store.stage(&world.files(), first).unwrap_err();
    assert!(matches!(error, StoreError::Unfit { .. }), "{}", error.reason());
}

#[test]
fn the_state_directory_is_closed_to_others() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    world.deploy(2);
    store.stage(&world.files(), first).unwrap();
    for path in ["state", "state/store", "state/hold", "srv/.lastgood"] {
        let mode = fs::metadata(world.root.join(path)).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o700, "{path}");
    }
}
