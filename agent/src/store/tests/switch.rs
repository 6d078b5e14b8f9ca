//! The switch: forward, back, interrupted anywhere, asked for twice.

use super::*;

#[test]
fn p04_a_rollback_restores_everything_and_can_be_undone() {
    for mode in MODES {
        let Rollback { world, first, first_picture, second, second_picture } =
            World::at_second(mode);
        let store = world.store();

        store.switch(&world.files(), second, first).unwrap();
        assert_eq!(without_carrier(world.picture()), first_picture);
        assert!(!world.app().join("only-v2").exists());
        assert!(!world.root.join("etc/only-v2.conf").exists());
        assert!(!world.root.join("etc/web.service.d").exists());
        assert!(world.root.join("etc/app.service.d/10.conf").exists());
        assert_eq!(world.kept(), [Some("mine".to_owned()), Some("log".to_owned())]);
        assert_eq!(store.held().unwrap(), Vec::<String>::new());
        assert_eq!(store.observe(&world.files(), second, first).unwrap(), Observed::Done);
        assert_eq!(store.digest_matches(&world.files(), first).unwrap(), []);

        store.switch(&world.files(), first, second).unwrap();
        assert_eq!(world.picture(), second_picture);
        assert_eq!(world.kept(), [Some("mine".to_owned()), Some("log".to_owned())]);
        assert_eq!(store.observe(&world.files(), second, first).unwrap(), Observed::NotDone);
    }
}

#[test]
fn the_undo_copies_nothing() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    let inode = |world: &World| fs::metadata(world.app().join("server.js")).unwrap().ino();
    let replaced = inode(&world);
    let store = world.store();
    store.switch(&world.files(), second, first).unwrap();
    let beside = format!("srv/.lastgood/app.{}", second.short());
    assert_eq!(fs::metadata(world.root.join(beside).join("server.js")).unwrap().ino(), replaced);
    store.switch(&world.files(), first, second).unwrap();
    assert_eq!(inode(&world), replaced);
}

#[test]
fn p04_a_switch_that_stops_at_any_step_goes_forward_or_back_as_a_set() {
    for mode in MODES {
        let steps = steps_of(mode);
        assert!(steps >= 9, "{steps}");
        for stop in 0..steps {
            for forward in [true, false] {
                let case = format!("{mode:?}, stopped at step {stop}, forward: {forward}");
                let Rollback { world, first, first_picture, second, second_picture } =
                    World::at_second(mode);
                let (from, to) = (second, first);
                let store = world.store_with(stop_at(stop));
                let stopped = store.switch(&world.files(), from, to);
                assert!(matches!(stopped, Err(StoreError::Step { .. })), "{case}");
                drop(store);

                let store = world.store();
                assert_eq!(store.held().unwrap(), ["crm"], "{case}");
                assert_eq!(
                    store.observe(&world.files(), from, to).unwrap(),
                    Observed::Partial,
                    "{case}"
                );
                if forward {
                    store.switch(&world.files(), from, to).unwrap();
                    assert_eq!(without_carrier(world.picture()), first_picture, "{case}");
                } else {
                    store.switch(&world.files(), to, from).unwrap();
                    assert_eq!(world.picture(), second_picture, "{case}");
                }
                assert_eq!(
                    world.kept(),
                    [Some("mine".to_owned()), Some("log".to_owned())],
                    "{case}"
                );
                assert!(store.held().unwrap().is_empty(), "{case}");

                // And whatever happened, the other one still stands.
                let (live, other) = if forward { (to, from) } else { (from, to) };
                store.switch(&world.files(), live, other).unwrap();
            }
        }
    }
}

#[test]
fn p05_late_changes_survive_a_stop_at_any_step_and_the_way_back() {
    for mode in MODES {
        // Before the first one nothing is known of them yet.
        for stop in 0..steps_of(mode) {
            for forward in [true, false] {
                let case = format!("{mode:?}, stopped at step {stop}, forward: {forward}");
                let Rollback { world, first, first_picture, second, .. } = World::at_second(mode);
                fs::write(world.app().join("bin/run"), "written while it stopped").unwrap();
                fs::write(world.app().join("core"), "dumped").unwrap();
                let late = world.picture();
                let store = world.store_with(stop_at(stop));
                store.switch(&world.files(), second, first).unwrap_err();
                drop(store);
                let store = world.store();
                if forward {
                    store.switch(&world.files(), second, first).unwrap();
                    assert_eq!(without_carrier(world.picture()), first_picture, "{case}");
                }
                store.switch(&world.files(), first, second).unwrap();
                assert_eq!(world.picture(), late, "{case}");
                assert!(store.held().unwrap().is_empty(), "{case}");
            }
        }
    }
}

#[test]
fn p04_stopped_again_and_again_it_still_comes_through() {
    for mode in MODES {
        let Rollback { world, first, first_picture, second, second_picture } =
            World::at_second(mode);
        for (round, stop) in (0..steps_of(mode)).cycle().take(30).enumerate() {
            let store = world.store_with(stop_at(stop));
            // Now forward, now back, as a wavering operator would.
            let (from, to) = if round % 3 == 2 { (first, second) } else { (second, first) };
            let stopped = store.switch(&world.files(), from, to);
            assert!(!matches!(
                stopped,
                Err(StoreError::Digest { .. } | StoreError::Displaced { .. })
            ));
        }
        let store = world.store();
        store.switch(&world.files(), second, first).unwrap();
        assert_eq!(without_carrier(world.picture()), first_picture);
        store.switch(&world.files(), first, second).unwrap();
        assert_eq!(world.picture(), second_picture);
        assert_eq!(world.kept(), [Some("mine".to_owned()), Some("log".to_owned())]);
    }
}

#[test]
fn p04_each_path_is_one_whole_version_at_every_step() {
    for mode in MODES {
        let Rollback { world, first, second, .. } = World::at_second(mode);
        let world = Arc::new(world);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (looked, kept) = (Arc::clone(&world), Arc::clone(&seen));
        let store = world.store_with(move |step| {
            let app = looked.app();
            let text = |path: &str| fs::read_to_string(app.join(path)).map_err(io::Error::other);
            let pair = (text("server.js")?, text(".env.production")?);
            let whole = [("serve(1)", "SECRET=1"), ("serve(2)", "SECRET=2")];
            assert!(whole.contains(&(pair.0.as_str(), pair.1.as_str())), "{step}: {pair:?}");
            kept.lock().unwrap().push(step.to_owned());
            Ok(())
        });
        store.switch(&world.files(), second, first).unwrap();
        let seen = seen.lock().unwrap();
        assert!(seen.iter().any(|step| step.starts_with("switch: placed")), "{seen:?}");
    }
}

#[test]
fn a_switch_that_is_asked_for_twice_is_done_once() {
    for mode in MODES {
        let Rollback { world, first, second, .. } = World::at_second(mode);
        let store = world.store();
        store.switch(&world.files(), second, first).unwrap();
        let speaks = world.speaks();
        let again = store.switch(&world.files(), second, first).unwrap();
        assert_eq!(again.notes, ["nothing had to be moved"]);
        assert_eq!(world.speaks(), speaks);
    }
}

#[test]
fn p03_a_change_after_the_switch_is_no_longer_the_release() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    let store = world.store();
    store.switch(&world.files(), second, first).unwrap();
    fs::write(world.app().join("server.js"), "hacked").unwrap();
    fs::write(world.app().join("new.pid"), "1").unwrap();
    let again = store.switch(&world.files(), second, first);
    assert!(matches!(again, Err(StoreError::Digest { .. })), "{again:?}");
    let differences = store.digest_matches(&world.files(), first).unwrap();
    let failures: Vec<String> =
        differences.iter().filter(|one| one.is_failure()).map(ToString::to_string).collect();
    assert_eq!(failures, [format!("{}/server.js has other content", world.app().display())]);
    let extra =
        |one: &Difference| one.kind == DifferenceKind::Extra && one.path.ends_with("new.pid");
    assert!(differences.iter().any(extra));
    assert!(store.live(&world.files()).unwrap().changed);
}

#[test]
fn p05_what_changed_between_staging_and_the_stop_comes_back_with_the_undo() {
    for mode in MODES {
        let Rollback { world, first, first_picture, second, .. } = World::at_second(mode);
        fs::write(world.app().join("server.js"), "fixed by hand").unwrap();
        fs::write(world.app().join("note"), "written late").unwrap();
        fs::write(world.root.join("etc/app.conf"), "conf by hand").unwrap();
        let late = world.picture();
        let store = world.store();
        let mut notes = store.switch(&world.files(), second, first).unwrap().notes;
        notes.extend(store.read_replaced(&world.files()).unwrap());
        let notes = notes.join("\n");
        for changed in
            ["server.js has other content", "note was added", "app.conf has other content"]
        {
            assert!(notes.contains(changed), "{notes}");
        }
        assert_eq!(without_carrier(world.picture()), first_picture);
        store.switch(&world.files(), first, second).unwrap();
        assert_eq!(world.picture(), late);
        assert_eq!(store.digest_matches(&world.files(), second).unwrap(), []);
    }
}

#[test]
fn the_way_back_of_a_switch_that_never_began_changes_nothing() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    fs::write(world.app().join("server.js"), "last words").unwrap();
    let before = world.picture();
    let store = world.store();
    assert_eq!(store.observe(&world.files(), second, first).unwrap(), Observed::NotDone);
    let switched = store.switch(&world.files(), first, second).unwrap();
    assert!(switched.notes.join("\n").contains("server.js has other content"));
    assert_eq!(world.picture(), before);
    assert_eq!(store.digest_matches(&world.files(), second).unwrap(), []);
}

#[test]
fn p03_what_root_changed_in_a_sealed_tree_is_found_before_it_counts_as_restored() {
    let Rollback { world, first, second, second_picture, .. } =
        World::at_second(SwitchMode::Exchange);
    let staged = world.root.join(format!("srv/.lastgood/app.{}", first.short()));
    fs::write(staged.join("server.js"), "tampered").unwrap();
    let store = world.store();
    store.switch(&world.files(), second, first).unwrap();
    let differences = store.digest_matches(&world.files(), first).unwrap();
    let found: Vec<String> = differences.iter().map(ToString::to_string).collect();
    assert_eq!(found, [format!("{}/server.js has other content", world.app().display())]);
    store.switch(&world.files(), first, second).unwrap();
    assert_eq!(world.picture(), second_picture);
}

#[test]
fn p03_another_tree_in_the_place_of_a_sealed_one_is_found_and_stays_held() {
    let Rollback { world, first, second, second_picture, .. } =
        World::at_second(SwitchMode::Exchange);
    let staging = world.root.join("srv/.lastgood");
    let staged = staging.join(format!("app.{}", first.short()));
    let moved = staging.join("moved");
    fs::rename(&staged, &moved).unwrap();
    fs::create_dir(&staged).unwrap();
    fs::write(staged.join("server.js"), "tampered").unwrap();
    let store = world.store();
    let error = store.switch(&world.files(), second, first).unwrap_err();
    assert!(matches!(&error, StoreError::Digest { .. }), "{}", error.reason());
    assert_eq!(store.held().unwrap(), ["crm"]);
    store.switch(&world.files(), first, second).unwrap();
    assert_eq!(world.picture(), second_picture);
    assert!(store.held().unwrap().is_empty());
}

#[test]
fn p03_a_release_behind_a_link_is_looked_at_before_it_may_start() {
    let Rollback { world, first, second, second_picture, .. } = World::at_second(SwitchMode::Link);
    let release = world.root.join(format!("srv/releases/lastgood-app-{}", first.short()));
    fs::write(release.join("server.js"), "tampered").unwrap();
    let store = world.store();
    let error = store.switch(&world.files(), second, first).unwrap_err();
    assert!(matches!(&error, StoreError::Digest { .. }), "{}", error.reason());
    assert_eq!(store.held().unwrap(), ["crm"]);
    store.switch(&world.files(), first, second).unwrap();
    assert_eq!(world.picture(), second_picture);
}

#[test]
fn what_was_replaced_is_read_once_and_then_sealed_for_the_undo() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    let store = world.store();
    let standing = |store: &Store| store.records.standing("crm").unwrap();
    let sealed = |store: &Store| -> Vec<Hash> {
        standing(store).seals.iter().map(|seal| seal.exact).collect()
    };
    assert_eq!(sealed(&store), [first]);
    store.switch(&world.files(), second, first).unwrap();
    assert_eq!((standing(&store).unread, sealed(&store)), (Some(second), Vec::new()));
    drop(store);
    // The power may go here.
    let store = world.store();
    assert_eq!(store.read_replaced(&world.files()).unwrap(), Vec::<String>::new());
    assert_eq!((standing(&store).unread, sealed(&store)), (None, vec![second]));
    store.switch(&world.files(), first, second).unwrap();
    assert_eq!((standing(&store).unread, sealed(&store)), (Some(first), Vec::new()));
}

#[test]
fn nothing_is_switched_that_was_not_staged() {
    let Rollback { world, first, second, second_picture, .. } =
        World::at_second(SwitchMode::Exchange);
    let store = world.store();
    store.discard(&world.files(), first).unwrap();
    assert_eq!(staged_names(&world), Vec::<String>::new());
    let error = store.switch(&world.files(), second, first).unwrap_err();
    assert!(matches!(error, StoreError::NotStaged { .. }), "{}", error.reason());
    assert!(store.held().unwrap().is_empty());
    assert_eq!(world.picture(), second_picture);
}

#[test]
fn a_half_staged_set_is_refused_before_anything_moves() {
    let Rollback { world, first, second, second_picture, .. } =
        World::at_second(SwitchMode::Exchange);
    fs::remove_dir_all(world.root.join(format!("srv/.lastgood/portal.{}", first.short()))).unwrap();
    let store = world.store();
    let error = store.switch(&world.files(), second, first).unwrap_err();
    assert!(error.reason().contains("portal"), "{}", error.reason());
    assert!(store.held().unwrap().is_empty());
    assert_eq!(world.picture(), second_picture);
    assert_eq!(world.kept(), [Some("mine".to_owned()), Some("log".to_owned())]);
}

#[test]
fn a_hold_of_another_switch_is_not_taken_over() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    let store = world.store_with(stop_at(3));
    store.switch(&world.files(), second, first).unwrap_err();
    drop(store);
    let store = world.store();
    let other = store.switch(&world.files(), first, first).unwrap_err();
    assert!(matches!(other, StoreError::Held { .. }), "{}", other.reason());
    assert!(matches!(store.stage(&world.files(), first), Err(StoreError::Held { .. })));
    assert!(matches!(store.snapshot(&world.files(), label("x")), Err(StoreError::Held { .. })));
    assert!(matches!(store.discard(&world.files(), first), Err(StoreError::Held { .. })));
    fs::write(store.hold_path("crm"), "{").unwrap();
    let observed = store.observe(&world.files(), second, first).unwrap();
    assert!(matches!(observed, Observed::Unknown(_)), "{observed:?}");
}
