//! Promise 9: no file that gives rights to whoever runs it gets onto a host by a release, unless the policy says so.

use super::*;

impl World {
    /// The declaration without `privileged_files`.
    fn plain_files(&self) -> ComponentFiles {
        let mut files = self.files();
        for one in &mut files.files {
            if let FilesPolicy::Tree(tree) = one {
                tree.privileged_files = false;
            }
        }
        files
    }

    fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.root.join(path), Permissions::from_mode(mode)).unwrap();
    }
}

/// `cap_net_bind_service+ep`, as the kernel keeps it.
pub(super) const BIND: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn p09_a_snapshot_with_a_privileged_file_is_refused_unless_it_is_declared() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let refused = |path: &str, has: &str, command: &str| {
        let error = store.snapshot(&world.plain_files(), label("v1")).unwrap_err();
        assert!(matches!(error, StoreError::Privileged { .. }), "{}", error.reason());
        let path = world.root.join(path).display().to_string();
        for part in [format!("{path} {has}"), format!("{command} {path}")] {
            assert!(error.reason().contains(&part), "{}", error.reason());
        }
        assert!(store.list().unwrap().is_empty());
        let looked = problems::look(&world.plain_files());
        let bad: Vec<String> =
            looked.iter().filter(|one| one.bad.is_some()).map(ToString::to_string).collect();
        assert!(bad.iter().any(|one| one.contains(&path) && one.contains(command)), "{bad:?}");
        error.reason()
    };
    let text = refused("srv/app/bin/run", "is set-uid", "chmod u-s");
    assert!(text.contains("`privileged_files: true`"), "{text}");
    world.mode("srv/app/bin/run", 0o2755);
    refused("srv/app/bin/run", "is set-gid", "chmod g-s");
    world.mode("srv/app/bin/run", 0o755);
    if rustix::process::geteuid().is_root() {
        let path = world.app().join("bin/run");
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&path, "security.capability", &BIND, flags).unwrap();
        refused("srv/app/bin/run", "has file capabilities", "setcap -r");
        rustix::fs::removexattr(&path, "security.capability").unwrap();
    }
    // A directory that is set-gid gives nobody anything.
    store.snapshot(&world.plain_files(), label("v1")).unwrap();
    let looked = problems::look(&world.plain_files());
    assert!(looked.iter().all(|one| !one.to_string().contains("rights")), "{looked:?}");
}

#[test]
fn p09_a_file_that_is_declared_by_itself_never_is_one() {
    let world = World::new(SwitchMode::Exchange);
    for path in ["srv/app/.env.production", "etc/app.conf"] {
        world.mode(path, 0o4700);
        let error = world.store().snapshot(&world.files(), label("v1")).unwrap_err().reason();
        assert!(error.contains(path) && error.contains("never may"), "{error}");
        let looked = problems::look(&world.files());
        let bad = looked.iter().filter(|one| one.bad.is_some());
        assert_eq!(bad.filter(|one| one.what.contains(path)).count(), 1, "{looked:?}");
        world.mode(path, 0o600);
    }
    world.store().snapshot(&world.files(), label("v1")).unwrap();
}

#[test]
fn p09_a_release_of_another_policy_is_not_built() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    world.deploy(2);
    world.mode("srv/app/bin/run", 0o755);
    let before = world.picture();
    for error in [
        store.preflight(&world.plain_files(), first).unwrap_err(),
        store.stage(&world.plain_files(), first).unwrap_err(),
        store.prestage(&world.plain_files(), first, 2).unwrap_err(),
    ] {
        let text = error.reason();
        assert!(matches!(error, StoreError::Privileged { .. }), "{text}");
        assert!(text.contains("bin/run") && text.contains("another release"), "{text}");
    }
    assert_eq!(staged_names(&world), Vec::<String>::new());
    assert_eq!(world.picture(), before);
    store.stage(&world.files(), first).unwrap();
}

#[test]
fn p12_a_bad_release_with_such_a_file_can_be_left() {
    let world = World::new(SwitchMode::Exchange);
    world.mode("srv/app/bin/run", 0o755);
    let store = world.store();
    let files = world.plain_files();
    let first = store.snapshot(&files, label("v1")).unwrap().exact;
    let first_picture = world.picture();
    world.mode("srv/app/bin/run", 0o4755);
    let bad = world.picture();
    let staged = store.stage(&files, first).unwrap();
    assert_eq!(staged.drift.len(), 1, "{:?}", staged.drift);
    store.switch(&files, staged.before, first).unwrap();
    assert_eq!(world.picture(), first_picture);
    store.read_replaced(&files).unwrap();
    // Taken back in the same track, it is what stood there.
    store.switch(&files, first, staged.before).unwrap();
    assert_eq!(world.picture(), bad);
}
