//! Records that go: what they alone named goes with them, and nothing else does.

use super::*;

fn manifests(world: &World) -> usize {
    fs::read_dir(world.root.join("state/store/manifests")).unwrap().count()
}

/// Two components over the same files, so that they share every manifest.
fn twin(world: &World) -> ComponentFiles {
    ComponentFiles { component: "twin".to_owned(), ..world.files() }
}

#[test]
fn a_record_goes_with_the_manifests_that_it_alone_names() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    let alone = manifests(&world);
    world.deploy(2);
    let second = store.snapshot(&world.files(), label("v2")).unwrap().exact;
    store.records.set_damage("crm", second, Some("a check found it")).unwrap();
    store.records.remove("crm", second).unwrap();
    store.records.remove("crm", second).unwrap();
    assert_eq!(manifests(&world), alone);
    drop(store);
    let store = world.store();
    assert!(matches!(store.check("crm", second), Err(StoreError::Unknown { .. })));
    assert_eq!(store.records.damage("crm", second).unwrap(), None);
    assert_eq!(store.records.verified_at("crm", second).unwrap(), None);
    store.check("crm", first).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
}

#[test]
fn a_manifest_that_another_component_names_stays() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let one = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    let other = store.snapshot(&twin(&world), label("v1")).unwrap().exact;
    let both = manifests(&world);
    store.records.remove("crm", one).unwrap();
    assert_eq!(manifests(&world), both);
    store.check("twin", other).unwrap();
    store.records.remove("twin", other).unwrap();
    assert_eq!(manifests(&world), 0);
}

#[test]
fn next_to_a_damaged_record_no_manifest_goes() {
    let world = World::new(SwitchMode::Exchange);
    let first = world.store().snapshot(&world.files(), label("v1")).unwrap().exact;
    world.deploy(2);
    let second = world.store().snapshot(&world.files(), label("v2")).unwrap().exact;
    let before = manifests(&world);
    let record = world.root.join("state/store/snapshots/crm").join(first.to_string());
    let whole = fs::read(&record).unwrap();
    fs::write(&record, &whole[..40]).unwrap();
    let store = world.store();
    store.records.remove("crm", second).unwrap();
    assert_eq!(manifests(&world), before);
    drop(store);
    fs::write(&record, whole).unwrap();
    world.store().check("crm", first).unwrap();
}
