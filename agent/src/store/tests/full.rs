//! The disk fills at every point: on file systems from hardly any room to enough.
//!
//! ```text
//! tmpfs of n, n+step, … bytes (tree and state on one, or the state on one of its own) ──▶ snapshot, stage, switch, undo
//!     each: done, or said; the live release whole; then room is made ──▶ opened anew, nothing left over, all of it works
//! ```
//!
//! Needs root, and room in memory. Invariant: a step never claims to be done on a disk that had no room for it.

use super::{real::SmallDisk, *};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// What a release of this app takes.
const FILES: u64 = 40;
const FILE_BYTES: u64 = 20 * KIB;
/// So fine that a write of one file is cut in its middle, too.
const STEP: u64 = 36 * KIB;

/// Where the state directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    WithTheTree,
    OnADiskOfItsOwn,
}

fn write_release(app: &Path, version: u8) {
    for number in 0..FILES {
        let byte = version.wrapping_mul(41).wrapping_add(u8::try_from(number).unwrap());
        fs::write(app.join(format!("file-{number}")), vec![byte; FILE_BYTES as usize]).unwrap();
    }
    fs::write(app.join("version"), [version]).unwrap();
}

fn release_of(app: &Path) -> Picture {
    let mut picture = Picture::new();
    look(app, app, &mut picture);
    picture
}

/// Something on a disk that takes all room but this much.
fn fill(disk: &Path, leave: u64) -> PathBuf {
    let stat = rustix::fs::statvfs(disk).unwrap();
    let free = stat.f_bavail * stat.f_frsize;
    let ballast = disk.join("ballast");
    let file = fs::File::create(&ballast).unwrap();
    rustix::fs::fallocate(
        &file,
        rustix::fs::FallocateFlags::empty(),
        0,
        free.saturating_sub(leave).max(1),
    )
    .unwrap();
    ballast
}

/// One round: so many bytes are free on the disk that is filled when `work` begins.
fn round(state: State, work: Work, leave: u64) -> bool {
    let disk = SmallDisk::new(16 * MIB);
    let other = SmallDisk::new(16 * MIB);
    let app = disk.root().join("srv/app");
    fs::create_dir_all(&app).unwrap();
    let state_dir = match state {
        State::WithTheTree => disk.root().join("state"),
        State::OnADiskOfItsOwn => other.root().join("state"),
    };
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
    write_release(&app, 1);
    let store = Store::open(&state_dir).unwrap();
    let first = store.snapshot(&files, label("v1")).unwrap().exact;
    let first_picture = release_of(&app);
    write_release(&app, 2);
    let second_picture = release_of(&app);
    let mut second = None;
    let mut live = &second_picture;
    if work != Work::Snapshot {
        second = Some(store.snapshot(&files, label("v2")).unwrap().exact);
    }
    if matches!(work, Work::Switch | Work::Undo) {
        store.stage(&files, first).unwrap();
    }
    if let (Work::Undo, Some(second)) = (work, second) {
        store.switch(&files, second, first).unwrap();
        live = &first_picture;
    }
    // Both, as it may be either that a step needs.
    let full: Vec<PathBuf> = [&disk, &other].iter().map(|disk| fill(&disk.root(), leave)).collect();
    let case = format!("{state:?} {work:?} with {leave} bytes free");
    let done = match (work, second) {
        (Work::Snapshot, _) => store.snapshot(&files, label("v2")).map(drop),
        (Work::Stage, _) => store.stage(&files, first).map(drop),
        (Work::Switch, Some(second)) => store.switch(&files, second, first).map(drop),
        (Work::Undo, Some(second)) => store.switch(&files, first, second).map(drop),
        (Work::Switch | Work::Undo, None) => unreachable!("both are known"),
    };
    let found = release_of(&app);
    if let Err(error) = &done {
        let (StoreError::NoSpace { needed_bytes, free_bytes, .. }
        | StoreError::Full { needed_bytes, free_bytes, .. }) = error
        else {
            panic!("{case}: it says neither what is needed nor what is free: {}", error.reason())
        };
        assert!(needed_bytes > free_bytes, "{case}: {}", error.reason());
        assert!([&first_picture, &second_picture].contains(&&found), "{case}");
        assert!(&found == live || store.held().unwrap() == ["app"], "{case}");
    }
    drop(store);
    // Room is made; a fresh process goes on.
    full.iter().for_each(|ballast| fs::remove_file(ballast).unwrap());
    let store = Store::open(&state_dir).unwrap();
    assert_eq!(fs::read_dir(state_dir.join("store/tmp")).unwrap().count(), 0, "{case}");
    for row in store.list().unwrap() {
        assert_eq!(row.damage, None, "{case}");
        store.check("app", row.exact).unwrap();
    }
    match (work, second) {
        (Work::Snapshot, _) => drop(store.snapshot(&files, label("v2")).unwrap()),
        (Work::Stage, _) => drop(store.stage(&files, first).unwrap()),
        (Work::Switch, Some(second)) => drop(store.switch(&files, second, first).unwrap()),
        (Work::Undo, Some(second)) => drop(store.switch(&files, first, second).unwrap()),
        (Work::Switch | Work::Undo, None) => unreachable!("both are known"),
    }
    let wanted = if work == Work::Switch { &first_picture } else { &second_picture };
    assert_eq!(&release_of(&app), wanted, "{case}");
    store.tidy(&files).unwrap();
    for entry in fs::read_dir(disk.root().join("srv/.lastgood")).into_iter().flatten() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert_eq!(name.len(), "app.".len() + 16, "{case}: {name} was left");
    }
    done.is_ok()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Snapshot,
    Stage,
    Switch,
    Undo,
}

#[test]
#[ignore = "real: needs root and mount"]
fn real_p04_the_disk_fills_at_every_point() {
    for state in [State::WithTheTree, State::OnADiskOfItsOwn] {
        for work in [Work::Snapshot, Work::Stage, Work::Switch, Work::Undo] {
            // First in single blocks, where the small files of the state run out of room; then coarser.
            let fine = (0..12).map(|blocks| blocks * 4 * KIB);
            let coarse =
                (1..).map(|steps| 48 * KIB + steps * STEP).take_while(|free| *free < 8 * MIB);
            let (mut refused, mut done) = (0, 0);
            for free in fine.chain(coarse) {
                if round(state, work, free) {
                    done += 1;
                    // What fits in this fits in more.
                    if done == 3 {
                        break;
                    }
                } else {
                    refused += 1;
                    done = 0;
                }
            }
            println!("{state:?} {work:?}: refused {refused} times, then done");
            assert!(refused > 0 && done == 3, "{state:?} {work:?}: {refused} {done}");
        }
    }
}
