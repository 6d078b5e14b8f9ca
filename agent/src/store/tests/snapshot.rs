//! Snapshots: names, hashes, what is live.

use super::*;

#[test]
fn content_is_the_same_on_another_host_and_exact_is_not() {
    let (one, other) = (World::new(SwitchMode::Exchange), World::new(SwitchMode::Link));
    let here = one.store().snapshot(&one.files(), label("v1")).unwrap();
    let there = other.store().snapshot(&other.files(), label("v1")).unwrap();
    assert_eq!(here.content, there.content);
    assert_ne!(here.exact, there.exact, "times differ");
    other.deploy(2);
    let second = other.store().snapshot(&other.files(), label("v2")).unwrap();
    assert_ne!(second.content, there.content);
}

#[test]
fn a_release_never_changes() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let first = store.snapshot(&world.files(), label("v1")).unwrap();
    assert_eq!(store.snapshot(&world.files(), label("v1")).unwrap(), first);
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&first));
    fs::write(world.app().join("server.js"), "serve(9)").unwrap();
    let error = store.snapshot(&world.files(), label("v1")).unwrap_err();
    assert!(matches!(error, StoreError::ReleaseTaken { existing, .. } if existing == first.exact));
    assert_eq!(store.list().unwrap(), [first]);
}

#[test]
fn one_snapshot_can_have_two_names() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    store.snapshot(&world.files(), label("v1")).unwrap();
    store.snapshot(&world.files(), label("v1-again")).unwrap();
    let names: Vec<String> = store.list().unwrap().into_iter().map(|info| info.release).collect();
    assert_eq!(names, ["v1", "v1-again"]);
}

#[test]
fn what_the_store_itself_put_live_is_told_from_what_came_by_hand() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    let store = world.store();
    let live = store.live(&world.files()).unwrap();
    let record = LiveRecord { release: "v2".into(), exact: second, version: Some("2".into()) };
    assert_eq!((live.exact, live.record, live.changed), (second, Some(record), false));
    store.switch(&world.files(), second, first).unwrap();
    let live = store.live(&world.files()).unwrap();
    assert_eq!((live.exact, live.changed), (first, false));
    assert_eq!(live.record.unwrap().release, "v1");
    world.deploy(2);
    let live = store.live(&world.files()).unwrap();
    assert!(live.changed);
    assert_eq!(live.record.unwrap().release, "v1");
}

#[test]
fn a_snapshot_of_another_policy_is_refused() {
    let Rollback { world, first, .. } = World::at_second(SwitchMode::Exchange);
    let store = world.store();
    let mut files = world.files();
    files.files.swap(2, 4);
    assert!(matches!(store.stage(&files, first), Err(StoreError::OtherPolicy { .. })));
    let mut files = world.files();
    if let FilesPolicy::Tree(tree) = &mut files.files[0] {
        tree.keep.pop();
    }
    let error = store.preflight(&files, first).unwrap_err().reason();
    assert!(error.contains("`keep`"), "{error}");
    // And it does not keep a release of the new policy from being taken and gone back to.
    let new = store.snapshot(&files, label("v2-new-policy")).unwrap().exact;
    store.stage(&files, new).unwrap();
}

#[test]
fn extended_attributes_go_back_with_the_release() {
    let world = World::new(SwitchMode::Exchange);
    let set = |path: &Path, value: &[u8]| {
        rustix::fs::setxattr(path, "user.origin", value, rustix::fs::XattrFlags::empty())
    };
    let file = world.app().join("server.js");
    if set(&file, b"one") == Err(rustix::io::Errno::NOTSUP) {
        return;
    }
    set(&world.app(), b"root").unwrap();
    let store = world.store();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    set(&file, b"two").unwrap();
    let second = store.snapshot(&world.files(), label("v2")).unwrap().exact;
    assert_ne!(first, second);
    store.stage(&world.files(), first).unwrap();
    store.switch(&world.files(), second, first).unwrap();
    let mut value = [0; 8];
    for (path, expected) in [(file, b"one".as_slice()), (world.app(), b"root")] {
        let length = rustix::fs::getxattr(path, "user.origin", &mut value).unwrap();
        assert_eq!(&value[..length], expected);
    }
}

/// Writes to a file of the tree after each of the first `times` walks over it.
fn restless(world: &World, times: usize) -> Store {
    let busy = world.app().join("busy");
    fs::write(&busy, "0").unwrap();
    let walks = AtomicUsize::new(0);
    world.store_with(move |step| {
        if step == "snapshot: walked" && walks.fetch_add(1, Ordering::Relaxed) < times {
            fs::write(&busy, walks.load(Ordering::Relaxed).to_string())?;
        }
        Ok(())
    })
}

#[test]
fn a_tree_that_never_rests_is_refused_by_name() {
    let world = World::new(SwitchMode::Exchange);
    let store = restless(&world, usize::MAX);
    let error = store.snapshot(&world.files(), label("v1")).unwrap_err();
    assert!(matches!(error, StoreError::Changing { .. }), "{}", error.reason());
    assert!(error.reason().contains("srv/app/busy"), "{}", error.reason());
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn a_tree_that_comes_to_rest_is_taken_as_it_then_is() {
    let world = World::new(SwitchMode::Exchange);
    let store = restless(&world, 1);
    let taken = store.snapshot(&world.files(), label("v1")).unwrap();
    assert_eq!(store.live(&world.files()).unwrap().exact, taken.exact);
}

#[test]
fn one_process_at_a_time() {
    let world = World::new(SwitchMode::Exchange);
    let _open = world.store();
    let second = Store::open(&world.root.join("state"));
    assert!(matches!(second, Err(StoreError::InUse { .. })));
}
