//! The power goes at every system call: what was not made durable is lost.
//!
//! ```text
//! ext4 on a loop image ──child killed at call n──▶ EXT4_IOC_SHUTDOWN without a flush of the log ──▶ mounted anew ──▶ checked
//! ```
//!
//! What it proves: nothing that counts waits in memory, neither bytes nor names, as the file system commits nothing of
//! its own accord for ten minutes (`commit=600`) and gives a renamed file no bytes that nobody synced (`noauto_da_alloc`).
//! What it does not: that a disk keeps its promise to a flush, and what another file system does with the same calls.
//!
//! Needs root, mkfs.ext4, loop devices, perl and strace. A switch and an undo are cut at every call and both go on and
//! go back; so is every other operation, which only goes on.

use std::sync::MutexGuard;

use super::*;

/// Holds one world at a time.
const DISK_BYTES: u64 = 48 * 1024 * 1024;

/// A file system on an image of its own. Unmounted when dropped.
struct Disk {
    temp: TempDir,
    mounted: bool,
}

impl Disk {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let temp = tempfile::tempdir_in(place).unwrap();
        let image = fs::File::create(temp.path().join("image")).unwrap();
        image.set_len(DISK_BYTES).unwrap();
        fs::create_dir(temp.path().join("mnt")).unwrap();
        let mut disk = Self { temp, mounted: false };
        run(Command::new("mkfs.ext4").arg("-q").arg(disk.at("image")));
        disk.mount();
        disk
    }

    fn at(&self, name: &str) -> PathBuf {
        self.temp.path().canonicalize().unwrap().join(name)
    }

    fn mount(&mut self) {
        let options = "loop,commit=600,noauto_da_alloc,nodiscard";
        let (image, place) = (self.at("image"), self.at("mnt"));
        run(Command::new("mount").args(["-t", "ext4", "-o", options]).arg(image).arg(place));
        self.mounted = true;
    }

    fn unmount(&mut self) {
        if self.mounted {
            run(Command::new("umount").arg(self.at("mnt")));
            self.mounted = false;
        }
    }

    /// Everything is durable from here on.
    fn sync(&self) {
        rustix::fs::syncfs(fs::File::open(self.at("mnt")).unwrap()).unwrap();
    }

    /// What is not durable is lost.
    fn cut_power(&mut self) {
        // EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH: nothing more reaches the image from here on.
        let shutdown = r#"open(my $d, "<", $ARGV[0]) or die "$!"; my $how = pack("L", 2); ioctl($d, 0x8004587d, $how) or die "$!""#;
        run(Command::new("perl").args(["-e", shutdown]).arg(self.at("mnt")));
        self.unmount();
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Runs `work` with the power cut at each of its calls.
fn cut_everywhere(work: Work, mode: Mode, least: usize) {
    let disks: Vec<Mutex<Disk>> = (0..AT_A_TIME).map(|_| Mutex::new(Disk::new())).collect();
    let scene = |disk: &MutexGuard<'_, Disk>| {
        let at = disk.at("mnt").join(number().to_string());
        fs::create_dir(&at).unwrap();
        let scene = Scene::new(work, mode, at);
        disk.sync();
        scene
    };
    let calls = scene(&lock(&disks[0])).calls(processors()[0]);
    println!("{work:?} {mode:?}: {} calls", calls.len());
    assert!(calls.len() >= least, "{work:?} {mode:?}: {calls:#?}");
    for forward in work.directions() {
        at_each(&calls, |call, processor| {
            let free = disks.iter().find_map(|disk| disk.try_lock().ok());
            let mut disk = free.expect("there are as many disks as workers");
            let scene = scene(&disk);
            let killed = scene.cut(call, processor);
            disk.cut_power();
            let case = format!("{work:?} {mode:?} power cut at {call:?}, forward: {forward}");
            scene.check(*forward, &case);
            fs::remove_dir_all(&scene.world.root).unwrap();
            killed
        });
    }
}

#[test]
#[ignore = "real: needs root, mkfs.ext4, loop devices, perl and strace"]
fn real_p08_the_power_goes_at_any_call_of_a_snapshot() {
    cut_everywhere(Work::Snapshot, Mode::Exchange, 50);
}

#[test]
#[ignore = "real: needs root, mkfs.ext4, loop devices, perl and strace"]
fn real_p08_the_power_goes_at_any_call_of_an_import() {
    cut_everywhere(Work::Import, Mode::Exchange, 50);
}

#[test]
#[ignore = "real: needs root, mkfs.ext4, loop devices, perl and strace"]
fn real_p04_the_power_goes_at_any_call_of_a_stage() {
    cut_everywhere(Work::Stage, Mode::Exchange, 100);
    cut_everywhere(Work::Reuse, Mode::Exchange, 100);
}

#[test]
#[ignore = "real: needs root, mkfs.ext4, loop devices, perl and strace"]
fn real_p04_the_power_goes_at_any_call_of_a_switch() {
    for mode in [Mode::Exchange, Mode::Link] {
        cut_everywhere(Work::Switch, mode, 50);
    }
}

#[test]
#[ignore = "real: needs root, mkfs.ext4, loop devices, perl and strace"]
fn real_p04_the_power_goes_at_any_call_of_an_undo() {
    for mode in [Mode::Exchange, Mode::Link] {
        cut_everywhere(Work::Undo, mode, 50);
    }
}

#[test]
#[ignore = "real: needs root, mkfs.ext4, loop devices, perl and strace"]
fn real_p05_the_power_goes_at_any_call_after_a_switch() {
    cut_everywhere(Work::After, Mode::Exchange, 50);
}
