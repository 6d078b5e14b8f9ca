//! Records: those that go take with them what they alone named, and nothing else. What is known of them needs no disk.

use std::process::Command;

use super::*;

/// Tells a process that is started by a test where the store is.
const STATE: &str = "LASTGOOD_TEST_STATE";

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
    forget(&store, "crm", second);
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
    forget(&store, "crm", one);
    assert_eq!(manifests(&world), both);
    store.check("twin", other).unwrap();
    forget(&store, "twin", other);
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
    forget(&store, "crm", second);
    assert_eq!(manifests(&world), before);
    drop(store);
    fs::write(&record, whole).unwrap();
    world.store().check("crm", first).unwrap();
}

#[test]
fn listing_reads_no_file_once_the_records_are_known() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    let store = world.store();
    store.check("crm", first).unwrap();
    store.records.set_damage("crm", second, Some("a check found it")).unwrap();
    let listed = store.list().unwrap();
    let row = |exact| listed.iter().find(|row| row.exact == exact).unwrap();
    assert!(row(first).verified_at_unix_ms.is_some() && row(first).damage.is_none());
    assert_eq!(row(second).damage.as_deref(), Some("a check found it"));
    let kinds = ["snapshots", "damage", "verified"];
    let at = |kind: &str| world.root.join("state/store").join(kind).join("crm");
    for kind in kinds {
        fs::rename(at(kind), at(kind).with_extension("away")).unwrap();
    }
    assert_eq!(store.list().unwrap(), listed);
    for kind in kinds {
        fs::rename(at(kind).with_extension("away"), at(kind)).unwrap();
    }
    // Whatever changes is seen at once, and is what the next process reads.
    store.records.set_damage("crm", second, None).unwrap();
    let mended = store.list().unwrap();
    assert!(mended.iter().all(|row| row.damage.is_none()));
    forget(&store, "crm", first);
    let left = store.list().unwrap();
    assert_eq!(left.len(), mended.len() - 1);
    drop(store);
    assert_eq!(world.store().list().unwrap(), left);
}

#[test]
fn a_check_looks_at_the_disk_and_not_at_what_is_known() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    store.check("crm", first).unwrap();
    fs::remove_file(world.root.join("state/store/snapshots/crm").join(first.to_string())).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(matches!(store.check("crm", first), Err(StoreError::Unknown { .. })));
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn another_process_never_has_the_same_store_open() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let other = || {
        Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::tests::records::opened_elsewhere",
                "--ignored",
                "--nocapture",
            ])
            .env(STATE, world.root.join("state"))
            .output()
            .unwrap()
    };
    let refused = other();
    let text = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(refused.status.success() && text.contains("in use by another process"), "{text}");
    drop(store);
    let opened = other();
    let text = String::from_utf8_lossy(&opened.stdout).into_owned();
    assert!(opened.status.success() && text.contains("opened"), "{text}");
}

#[test]
#[ignore = "started by another_process_never_has_the_same_store_open"]
fn opened_elsewhere() {
    let Some(state) = std::env::var_os(STATE) else { return };
    match Store::open(Path::new(&state)) {
        Ok(_) => println!("opened"),
        Err(error) => println!("{}", error.reason()),
    }
}
