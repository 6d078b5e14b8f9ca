//! Backups of before as releases.

use super::*;

/// The layout of the procedure that people follow by hand: the tree's contents, the env file as a backup.
pub(super) fn previous(world: &World) -> PathBuf {
    let dir = world.root.join("backups/previous");
    fs::create_dir_all(dir.join("bin")).unwrap();
    fs::create_dir_all(dir.join("uploads")).unwrap();
    fs::write(dir.join("server.js"), "serve(0)").unwrap();
    fs::write(dir.join("bin/run"), "#!/bin/sh").unwrap();
    fs::set_permissions(dir.join("bin/run"), Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.join("uploads/photo"), "of the backup").unwrap();
    fs::write(dir.join(".env.production.backup"), "SECRET=0").unwrap();
    fs::write(dir.join("nginx.conf"), "conf 0").unwrap();
    symlink("server.js", dir.join("link")).unwrap();
    let _socket = UnixListener::bind(dir.join("app.sock")).unwrap();
    fs::create_dir_all(world.root.join("backups/portal")).unwrap();
    fs::write(world.root.join("backups/portal/index.html"), "portal 0").unwrap();
    dir
}

fn backup(world: &World, owner: BackupOwner) -> Backup {
    previous(world);
    made(world, owner)
}

/// The backup that was made of it.
pub(super) fn made(world: &World, owner: BackupOwner) -> Backup {
    let dir = world.root.join("backups/previous");
    let files = vec![
        (world.root.join("srv/app"), dir.clone()),
        (world.root.join("srv/portal"), world.root.join("backups/portal")),
        (world.root.join("etc/app.conf"), dir.join("nginx.conf")),
        (world.root.join("etc/only-v2.conf"), dir.join("nginx.conf")),
    ];
    Backup { from: dir, files, owner, beside: false, role: Role::Backup }
}

#[test]
fn a_backup_becomes_a_release_and_goes_live_like_any_other() {
    for mode in MODES {
        let world = World::new(mode);
        let store = world.store();
        let live = store.snapshot(&world.files(), label("v1")).unwrap();
        let before = world.picture();
        let backup = backup(&world, BackupOwner::Found);
        let taken_at_unix_ms = 1_600_000_000_000;
        let name = Label {
            release: "v0".to_owned(),
            version: None,
            taken_at_unix_ms,
            learned_at_unix_ms: None,
        };
        let (info, notes) = store.import(&world.files(), &backup, name.clone()).unwrap();
        assert_eq!(world.picture(), before, "nothing live is touched");
        assert_eq!(store.live(&world.files()).unwrap().record.unwrap().exact, live.exact);
        assert_eq!((info.release.as_str(), info.taken_at_unix_ms), ("v0", taken_at_unix_ms));
        assert_eq!((info.version.clone(), info.in_store), (None, true));
        assert!(info.skipped.iter().any(|path| path.ends_with("app.sock")), "{:?}", info.skipped);
        assert!(notes.iter().any(|note| note.ends_with(".env.production.backup")), "{notes:?}");
        let again = store.import(&world.files(), &backup, name).unwrap().0;
        assert_eq!(again, info, "the same again is the same");

        store.stage(&world.files(), info.exact).unwrap();
        store.switch(&world.files(), live.exact, info.exact).unwrap();
        assert_eq!(world.speaks(), "serve(0) SECRET=0 conf 0 portal 0 conf 0");
        assert_eq!(world.kept()[0].as_deref(), Some("mine"), "what is kept is not the backup's");
        let live = world.app();
        assert_eq!(fs::read_link(live.join("link")).unwrap(), Path::new("server.js"));
        for gone in [".env.production.backup", "nginx.conf", "app.sock"] {
            assert!(live.join(gone).symlink_metadata().is_err(), "{gone} is no file of the app");
        }
        assert!(store.digest_matches(&world.files(), info.exact).unwrap().is_empty());
    }
}

#[test]
fn a_backup_of_roots_takes_the_owners_of_what_is_live() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new(SwitchMode::Exchange);
    for path in ["srv/app", "srv/app/.env.production"] {
        chown(world.root.join(path), Some(1234), Some(4321)).unwrap();
    }
    fs::set_permissions(world.app(), Permissions::from_mode(0o2750)).unwrap();
    let store = world.store();
    let live = store.snapshot(&world.files(), label("v1")).unwrap();
    let guess = backup(&world, BackupOwner::Guess);
    let (info, notes) = store.import(&world.files(), &guess, label("v0")).unwrap();
    assert!(
        notes.iter().any(|note| note.contains("owner 1234:4321") && note.contains("is root's")),
        "{notes:?}"
    );
    store.stage(&world.files(), info.exact).unwrap();
    store.switch(&world.files(), live.exact, info.exact).unwrap();
    for (path, mode) in [("", 0o2750), ("server.js", 0o644), (".env.production", 0o600)] {
        let found = fs::symlink_metadata(world.app().join(path)).unwrap();
        assert_eq!((found.uid(), found.gid()), (1234, 4321), "{path}");
        if path != "server.js" {
            assert_eq!(found.mode() & 0o7777, mode, "{path}");
        }
    }
    // As found, and where a single file is not root's, nothing is guessed.
    let found = Backup { owner: BackupOwner::Found, ..guess.clone() };
    let as_found = store.import(&world.files(), &found, label("as-found")).unwrap().0;
    assert_ne!(as_found.exact, info.exact);
    chown(guess.from.join("server.js"), Some(7), Some(7)).unwrap();
    let guessed = store.import(&world.files(), &guess, label("mixed")).unwrap();
    assert!(guessed.1.iter().all(|note| !note.contains("owner")), "{:?}", guessed.1);
}

#[test]
fn what_the_backup_does_not_have_is_refused_with_what_to_say() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let whole = backup(&world, BackupOwner::Found);
    let refused = |change: &dyn Fn(&mut Backup)| {
        let mut backup = whole.clone();
        change(&mut backup);
        store.import(&world.files(), &backup, label("v0")).unwrap_err().reason()
    };
    let why = refused(&|backup| backup.files.retain(|(path, _)| !path.ends_with("app.conf")));
    assert!(why.contains("would remove the live one; name it: --file"), "{why}");
    let why = refused(&|backup| backup.files.retain(|(path, _)| !path.ends_with("portal")));
    assert!(why.contains("several trees"), "{why}");
    let why = refused(&|backup| backup.files.push(("/etc/shadow".into(), "/etc/shadow".into())));
    assert!(why.contains("/etc/shadow is not declared"), "{why}");
    fs::remove_file(whole.from.join(".env.production.backup")).unwrap();
    let why = refused(&|_| {});
    assert!(why.contains("srv/app/.env.production"), "{why}");
    // Beside the backup only where that was asked for.
    fs::write(world.root.join("backups/.env.production"), "SECRET=beside").unwrap();
    assert!(refused(&|_| {}).contains(".env.production"));
    let beside = Backup { beside: true, ..whole.clone() };
    let (_, notes) = store.import(&world.files(), &beside, label("v0")).unwrap();
    assert!(notes.iter().any(|note| note.ends_with("backups/.env.production")), "{notes:?}");
    // A name that something else has.
    fs::write(whole.from.join("server.js"), "serve(other)").unwrap();
    let taken = store.import(&world.files(), &beside, label("v0")).unwrap_err();
    assert!(matches!(taken, StoreError::ReleaseTaken { .. }), "{taken:?}");
}

#[test]
fn p10_a_link_in_a_backup_leads_nowhere() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let backup = backup(&world, BackupOwner::Found);
    fs::create_dir(world.root.join("secret")).unwrap();
    fs::write(world.root.join("secret/key"), "the key").unwrap();
    symlink(world.root.join("secret"), backup.from.join("out")).unwrap();
    let (info, _) = store.import(&world.files(), &backup, label("v0")).unwrap();
    let live = store.snapshot(&world.files(), label("v1")).unwrap();
    store.stage(&world.files(), info.exact).unwrap();
    store.switch(&world.files(), live.exact, info.exact).unwrap();
    assert!(world.app().join("out").is_symlink(), "a link is kept as a link");
    // One that the backup's directory itself is reached by is followed once: root named it.
    let latest = world.root.join("backups/latest");
    symlink("previous", &latest).unwrap();
    let by_link = Backup { from: latest, ..backup };
    assert_eq!(store.import(&world.files(), &by_link, label("v0")).unwrap().0.exact, info.exact);
}

#[test]
fn p09_a_backup_with_a_privileged_file_is_refused() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let backup = backup(&world, BackupOwner::Found);
    fs::set_permissions(backup.from.join("bin/run"), Permissions::from_mode(0o4755)).unwrap();
    let mut files = world.files();
    for one in &mut files.files {
        if let FilesPolicy::Tree(tree) = one {
            tree.privileged_files = false;
        }
    }
    let error = store.import(&files, &backup, label("v0")).unwrap_err();
    let at = backup.from.join("bin/run").display().to_string();
    assert!(matches!(error, StoreError::Privileged { .. }), "{}", error.reason());
    assert!(error.reason().contains(&format!("chmod u-s {at}")), "{}", error.reason());
    assert!(store.list().unwrap().is_empty());
    store.import(&world.files(), &backup, label("v0")).unwrap();
}
