//! A state directory that is not the agent's own is refused at the start, with what mends it.

use super::{super::own, *};

/// What is wrong at the start, as `agent check` says it too; the mend that is a chmod is done, and then it opens.
fn refused(world: &World) -> String {
    let state = world.root.join("state");
    let error = Store::open(&state).unwrap_err();
    let found = own::look(&state);
    assert!(matches!(error, StoreError::NotOwn(_)), "{}", error.reason());
    assert_eq!(found.first().map(ToString::to_string), Some(error.reason()));
    error.reason()
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn p11_a_state_directory_that_is_open_to_others_is_refused_until_it_is_closed() {
    let world = World::new(SwitchMode::Exchange);
    let first = world.store().snapshot(&world.files(), label("v1")).unwrap().exact;
    for below in ["", "hold", "store", "store/objects", "store/packs", "store/live", "store/tmp"] {
        let path = world.root.join("state").join(below);
        let path: PathBuf = path.components().collect();
        for mode in [0o750, 0o701, 0o770, 0o777, 0o710] {
            chmod(&path, mode);
            let said = refused(&world);
            let shown = path.display();
            let wanted =
                format!("{shown} is open to others (mode {mode:o}); mend: chmod 0700 {shown}");
            assert_eq!(said, wanted);
            chmod(&path, 0o700);
            world.store().check("crm", first).unwrap();
        }
    }
}

#[test]
fn all_that_is_open_is_named_at_once() {
    let world = World::new(SwitchMode::Exchange);
    drop(world.store());
    let state = world.root.join("state");
    for below in ["hold", "store", "store/manifests"] {
        chmod(&state.join(below), 0o755);
    }
    let found = own::look(&state);
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn p10_a_store_behind_a_link_is_refused() {
    for below in ["store", "hold", "store/snapshots"] {
        let world = World::new(SwitchMode::Exchange);
        drop(world.store());
        let path = world.root.join("state").join(below);
        let elsewhere = world.root.join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        let said = refused(&world);
        assert!(said.contains("is a symbolic link") && said.contains("; mend: "), "{said}");
    }
}

#[test]
fn a_file_in_the_place_of_the_store_is_refused() {
    let world = World::new(SwitchMode::Exchange);
    fs::create_dir(world.root.join("state")).unwrap();
    chmod(&world.root.join("state"), 0o700);
    fs::write(world.root.join("state/store"), "").unwrap();
    assert!(refused(&world).contains("is not a directory; mend: move it away"));
}

#[test]
fn a_state_directory_behind_a_link_of_roots_own_is_where_it_leads() {
    let world = World::new(SwitchMode::Exchange);
    let elsewhere = world.root.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    chmod(&elsewhere, 0o700);
    symlink(&elsewhere, world.root.join("state")).unwrap();
    drop(world.store());
    assert!(elsewhere.join("store").is_dir());
    chmod(&elsewhere, 0o755);
    assert!(refused(&world).contains("elsewhere is open to others"));
}

#[test]
#[ignore = "real: needs root, to give a directory to somebody else"]
fn real_p10_a_state_directory_of_somebody_else_is_refused() {
    for below in ["", "hold", "store", "store/live"] {
        let world = World::new(SwitchMode::Exchange);
        drop(world.store());
        let path: PathBuf = world.root.join("state").join(below).components().collect();
        chown(&path, Some(1234), None).unwrap();
        let said = refused(&world);
        assert!(said.contains("belongs to user 1234, not to the agent's user 0"), "{said}");
        assert!(said.contains(&format!("chown -R 0 {}", path.display())), "{said}");
        chown(&path, Some(0), None).unwrap();
        drop(world.store());
    }
}

#[test]
#[ignore = "real: needs root and mount"]
fn real_a_state_directory_on_a_read_only_filesystem_is_refused() {
    let world = World::new(SwitchMode::Exchange);
    drop(world.store());
    let state = world.root.join("state");
    let mount = |options: &[&str]| {
        let status = std::process::Command::new("mount").args(options).arg(&state).status();
        assert!(status.unwrap().success(), "this test has to mount");
    };
    mount(&["--bind", state.to_str().unwrap()]);
    mount(&["-o", "remount,bind,ro"]);
    let said = std::panic::catch_unwind(|| refused(&world));
    assert!(std::process::Command::new("umount").arg(&state).status().unwrap().success());
    let said = said.unwrap();
    assert!(said.contains("mounted read-only; mend: "), "{said}");
    drop(world.store());
}
