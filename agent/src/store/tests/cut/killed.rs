//! Killed after every system call: the page cache stays.
//!
//! Needs strace. Every operation at every call; a switch and an undo both go on and go back.

use super::*;

/// Runs `work` killed at each of its calls; a switch in both directions after it.
fn killed_everywhere(work: Work, mode: Mode, least: usize) {
    let temp = tempfile::tempdir_in(place()).unwrap();
    let root = temp.path().canonicalize().unwrap();
    let scene = || {
        let at = root.join(number().to_string());
        fs::create_dir(&at).unwrap();
        Scene::new(work, mode, at)
    };
    let calls = scene().calls(processors()[0]);
    println!("{work:?} {mode:?}: {} calls", calls.len());
    assert!(calls.len() >= least, "{work:?} {mode:?}: {calls:#?}");
    for forward in work.directions() {
        at_each(&calls, |call, processor| {
            let scene = scene();
            let killed = scene.cut(call, processor);
            let case = format!("{work:?} {mode:?} killed at {call:?}, forward: {forward}");
            scene.check(*forward, &case);
            fs::remove_dir_all(&scene.world.root).unwrap();
            killed
        });
    }
}

/// In memory where that can be: nothing here is about a disk.
fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

#[test]
#[ignore = "real: needs strace"]
fn real_p08_a_snapshot_that_is_killed_at_any_call() {
    killed_everywhere(Work::Snapshot, Mode::Exchange, 50);
}

#[test]
#[ignore = "real: needs strace"]
fn real_p08_an_import_that_is_killed_at_any_call() {
    killed_everywhere(Work::Import, Mode::Exchange, 50);
}

#[test]
#[ignore = "real: needs strace"]
fn real_p04_a_stage_that_is_killed_at_any_call() {
    killed_everywhere(Work::Stage, Mode::Exchange, 100);
    killed_everywhere(Work::Reuse, Mode::Exchange, 100);
}

#[test]
#[ignore = "real: needs strace"]
fn real_p04_a_switch_that_is_killed_at_any_call() {
    for mode in [Mode::Exchange, Mode::Link] {
        killed_everywhere(Work::Switch, mode, 50);
    }
}

#[test]
#[ignore = "real: needs strace"]
fn real_p04_an_undo_that_is_killed_at_any_call() {
    for mode in [Mode::Exchange, Mode::Link] {
        killed_everywhere(Work::Undo, mode, 50);
    }
}

#[test]
#[ignore = "real: needs strace"]
fn real_p05_what_follows_a_switch_killed_at_any_call() {
    killed_everywhere(Work::After, Mode::Exchange, 50);
}
