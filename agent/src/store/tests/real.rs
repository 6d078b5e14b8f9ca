//! What only a filesystem of its own can show. Needs root; run with `--ignored`.

use super::*;

/// A small filesystem of its own, for as long as it is in scope.
pub(super) struct SmallDisk {
    temp: TempDir,
}

impl SmallDisk {
    pub(super) fn new(bytes: u64) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"])
            .arg(temp.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "this test has to mount a tmpfs");
        Self { temp }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.temp.path().canonicalize().unwrap()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg(self.temp.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
#[ignore = "real: needs root and mount"]
fn real_disk_full_during_staging() {
    const MIB: u64 = 1024 * 1024;
    let disk = SmallDisk::new(48 * MIB);
    let app = disk.root().join("app");
    fs::create_dir(&app).unwrap();
    let tree = TreePolicy {
        tree: app.clone(),
        switch: SwitchMode::Exchange,
        keep: Vec::new(),
        privileged_files: false,
        from: None,
    };
    let files = ComponentFiles {
        component: "app".to_owned(),
        files: vec![FilesPolicy::Tree(tree)],
        managers: Vec::new(),
    };
    for name in 0..12 {
        fs::write(app.join(name.to_string()), vec![name; MIB as usize]).unwrap();
    }
    let state = tempfile::tempdir().unwrap();
    let state = state.path().join("state");
    let first = Store::open(&state).unwrap().snapshot(&files, label("v1")).unwrap().exact;
    fs::write(app.join("0"), "two").unwrap();
    let mut before = Picture::new();
    look(&app, &app, &mut before);

    // Full from the start: refused before a byte is written.
    let ballast = disk.root().join("ballast");
    fs::write(&ballast, vec![0; 30 * MIB as usize]).unwrap();
    let store = Store::open(&state).unwrap();
    let refused =
        [store.preflight(&files, first).unwrap_err(), store.stage(&files, first).unwrap_err()];
    drop(store);
    for error in refused {
        let StoreError::NoSpace { needed_bytes, free_bytes, .. } = error else {
            panic!("{}", error.reason())
        };
        assert!(needed_bytes > 12 * MIB && free_bytes < 12 * MIB, "{needed_bytes} {free_bytes}");
    }
    fs::remove_file(&ballast).unwrap();

    // Filled by somebody else after the space was found free.
    let filler = ballast.clone();
    let hook = move |step: &str| match step {
        "stage: space reserved" => fs::write(&filler, vec![0; 30 * MIB as usize]),
        _ => Ok(()),
    };
    let store = Store::open_with(&state, Steps::new(hook)).unwrap();
    let error = store.stage(&files, first).unwrap_err();
    let text = error.reason();
    let StoreError::NoSpace { needed_bytes, free_bytes, .. } = error else { panic!("{text}") };
    assert!(needed_bytes > 12 * MIB, "{text}");
    assert!(text.contains(&needed_bytes.to_string()) && text.contains(&free_bytes.to_string()));
    let mut after = Picture::new();
    look(&app, &app, &mut after);
    assert_eq!(after, before, "nothing live changed");
    assert_eq!(fs::read_dir(disk.root().join(".lastgood")).unwrap().count(), 0, "nothing is left");
    drop(store);

    fs::remove_file(&ballast).unwrap();
    assert!(!Store::open(&state).unwrap().stage(&files, first).unwrap().already);
}

#[test]
#[ignore = "real: needs root and mount"]
fn real_mount_inside_a_tree_is_refused() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    world.deploy(2);
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(world.app().join("uploads"))
        .status()
        .unwrap();
    assert!(mounted.success(), "this test has to mount a tmpfs");
    let errors =
        [store.preflight(&world.files(), first).err(), store.stage(&world.files(), first).err()];
    let unmounted =
        std::process::Command::new("umount").arg(world.app().join("uploads")).status().unwrap();
    assert!(unmounted.success());
    for error in errors {
        assert!(matches!(error, Some(StoreError::Mount { .. })), "{error:?}");
    }
}

#[test]
#[ignore = "real: needs root and mount"]
fn real_disk_full_during_compaction() {
    const MIB: usize = 1024 * 1024;
    let disk = SmallDisk::new(64 * MIB as u64);
    let world = World::new(SwitchMode::Exchange);
    let state = disk.root().join("state");
    let text = b"what compresses well ".repeat(MIB / 20);
    for name in 0..20 {
        fs::write(
            world.app().join(name.to_string()),
            [&text, name.to_string().as_bytes()].concat(),
        )
        .unwrap();
    }
    for name in 20..220 {
        let small = [&text[..100_000], name.to_string().as_bytes()].concat();
        fs::write(world.app().join(name.to_string()), small).unwrap();
    }
    let ballast = disk.root().join("ballast");
    let (filler, full) = (ballast.clone(), Arc::new(AtomicUsize::new(0)));
    let fill = Arc::clone(&full);
    let hook = move |step: &str| {
        if step == "compact: marked" && fill.load(Ordering::Relaxed) > 0 {
            // To the last block.
            let mut file = fs::File::create(&filler)?;
            while io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
        }
        Ok(())
    };
    let store = Store::open_with(&state, Steps::new(hook)).unwrap();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    fs::write(world.app().join("gone"), noise(3 * MIB)).unwrap();
    let second = store.snapshot(&world.files(), label("v2")).unwrap().exact;
    forget(&store, "crm", second);

    let now = Compaction { min_age: Duration::ZERO, ..Compaction::default() };
    full.store(1, Ordering::Relaxed);
    let done = store.compact(&now).unwrap();
    assert!(matches!(&done.left[..], [Left::NoSpace { .. }]), "{done:?}");
    // What nothing names goes all the same.
    assert!(done.freed_bytes >= 3 * MIB as u64, "{done:?}");
    assert_eq!(done.compressed_objects, 0);
    store.check("crm", first).unwrap();
    assert_eq!(fs::read_dir(state.join("store/tmp")).unwrap().count(), 0);

    full.store(0, Ordering::Relaxed);
    fs::remove_file(&ballast).unwrap();
    let done = store.compact(&now).unwrap();
    assert!(done.left.is_empty() && done.compressed_objects >= 220, "{done:?}");
    store.check("crm", first).unwrap();
    drop(store);
    Store::open(&state).unwrap().check("crm", first).unwrap();
}

/// Bytes that do not compress.
fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise
}
