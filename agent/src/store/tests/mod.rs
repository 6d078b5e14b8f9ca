//! The store on real files.
//!
//! What is on disk is judged by [`picture`], which shares no code with the scanner.

mod compact;
mod confined;
mod cut;
mod damage;
mod flipped;
mod full;
mod fuzzed;
mod import;
mod learn;
mod links;
mod own;
mod privileged;
mod prune;
mod race;
mod real;
mod records;
mod reuse;
mod snapshot;
mod sparse;
mod stage;
mod switch;
mod verify;
mod whole;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, chown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use proto::policy::{FilePolicy, FilesPolicy, SwitchMode, TreePolicy};
use tempfile::TempDir;

use super::*;

/// A host with one component: two trees, a file inside the first, two files of their own; and of its service manager a
/// unit file that is never there and two directories of drop-ins, of which each release has one.
struct World {
    /// None where somebody else made the directory, and removes it.
    _temp: Option<TempDir>,
    root: PathBuf,
    mode: SwitchMode,
    /// One of its files is too large for a pack.
    large: bool,
}

/// Path → everything that a restore must reproduce.
type Picture = BTreeMap<PathBuf, String>;

impl World {
    fn new(mode: SwitchMode) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        Self { _temp: Some(temp), root, mode, large: false }.made()
    }

    /// One that is there already.
    fn there(root: PathBuf, mode: SwitchMode) -> Self {
        Self { _temp: None, root, mode, large: true }
    }

    /// Makes it what it is before anything of ours runs.
    fn made(self) -> Self {
        let mode = self.mode;
        let world = self;
        fs::create_dir_all(world.root.join("etc")).unwrap();
        fs::create_dir_all(world.root.join("srv")).unwrap();
        if mode == SwitchMode::Link {
            fs::create_dir_all(world.root.join("srv/releases/first")).unwrap();
            symlink("releases/first", world.app()).unwrap();
        }
        fs::create_dir_all(world.app().join("uploads")).unwrap();
        fs::write(world.app().join("uploads/photo"), "mine").unwrap();
        world.deploy(1);
        world
    }

    fn app(&self) -> PathBuf {
        self.root.join("srv/app")
    }

    fn store(&self) -> Store {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match Store::open(&self.root.join("state")) {
                // A child of another test has the lock between its fork and its exec.
                Err(StoreError::InUse { .. }) if Instant::now() < deadline => thread::yield_now(),
                opened => return opened.unwrap(),
            }
        }
    }

    fn store_with(&self, hook: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static) -> Store {
        Store::open_with(&self.root.join("state"), Steps::new(hook)).unwrap()
    }

    fn files(&self) -> ComponentFiles {
        let tree = |path: &str, switch, keep: &[&str]| {
            FilesPolicy::Tree(TreePolicy {
                tree: self.root.join(path),
                switch,
                keep: keep.iter().map(PathBuf::from).collect(),
                privileged_files: true,
                from: None,
            })
        };
        let file = |path: &str| {
            let file = self.root.join(path);
            FilesPolicy::File(FilePolicy { file, secret: true, require: Vec::new() })
        };
        let files = vec![
            tree("srv/app", self.mode, &["uploads", "var/logs"]),
            file("srv/app/.env.production"),
            file("etc/app.conf"),
            tree("srv/portal", SwitchMode::Exchange, &[]),
            file("etc/only-v2.conf"),
        ];
        let managers = vec![
            file("etc/app.service"),
            tree("etc/app.service.d", SwitchMode::Exchange, &[]),
            tree("etc/web.service.d", SwitchMode::Exchange, &[]),
        ];
        ComponentFiles { component: "crm".to_owned(), files, managers }
    }

    /// What a deploy by hand does: everything but the kept paths is written anew, in place.
    fn deploy(&self, version: u32) {
        let app = self.app();
        for entry in fs::read_dir(&app).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name() == Some(OsStr::new("uploads")) {
                continue;
            }
            if path.symlink_metadata().unwrap().is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
        let write = |path: &str, text: &str, mode| {
            let path = self.root.join("srv").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            if mode & 0o4000 != 0 && rustix::process::geteuid().is_root() {
                chown(&path, Some(1234), Some(4321)).unwrap();
            }
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let stamp = UNIX_EPOCH + Duration::new(1_700_000_000 + u64::from(version), 123_456_789);
            fs::File::options().append(true).open(&path).unwrap().set_modified(stamp).unwrap();
        };
        write("app/server.js", &format!("serve({version})"), 0o644);
        write("app/.env", &format!("V={version}"), 0o640);
        write("app/.env.production", &format!("SECRET={version}"), 0o600);
        write("app/bin/run", "#!/bin/sh", 0o4755);
        write("app/same", "the same in both", 0o444);
        fs::hard_link(app.join("same"), app.join("bin/again")).unwrap();
        if self.large {
            write("app/bin/large", &version.to_string().repeat(150_000), 0o755);
        }
        write("portal/index.html", &format!("portal {version}"), 0o644);
        let odd = OsStr::from_bytes(b"odd \xff\nname");
        fs::write(app.join(odd), format!("odd {version}")).unwrap();
        symlink("server.js", app.join("link")).unwrap();
        symlink("/nowhere/at/all", app.join("dangling")).unwrap();
        fs::write(self.root.join("etc/app.conf"), format!("conf {version}")).unwrap();
        if version == 1 {
            fs::create_dir_all(self.root.join("etc/app.service.d")).unwrap();
            fs::write(self.root.join("etc/app.service.d/10.conf"), "[Service]").unwrap();
            fs::create_dir(app.join("empty")).unwrap();
            fs::set_permissions(app.join("empty"), Permissions::from_mode(0o2750)).unwrap();
        } else {
            // Here the kept `var/logs` has a place that the first release does not have.
            fs::create_dir_all(app.join("var/logs")).unwrap();
            fs::write(app.join("var/logs/today"), "log").unwrap();
            fs::create_dir_all(app.join("only-v2/deep")).unwrap();
            fs::write(app.join("only-v2/deep/file"), "new").unwrap();
            fs::hard_link(app.join("same"), app.join("only-v2/again")).unwrap();
            fs::write(self.root.join("etc/only-v2.conf"), "new").unwrap();
            if version == 2 {
                fs::remove_dir_all(self.root.join("etc/app.service.d")).unwrap();
            }
            fs::create_dir_all(self.root.join("etc/web.service.d")).unwrap();
            fs::write(self.root.join("etc/web.service.d/10.conf"), "[Unit]").unwrap();
        }
    }

    /// What goes back with a release.
    fn picture(&self) -> Picture {
        let mut picture = Picture::new();
        let etc = ["etc/app.conf", "etc/only-v2.conf", "etc/app.service.d", "etc/web.service.d"];
        for top in ["srv/app", "srv/portal"].into_iter().chain(etc) {
            let mut top = self.root.join(top);
            if top.is_dir() {
                top = top.canonicalize().unwrap();
            }
            look(&top, &top, &mut picture);
        }
        picture
    }

    /// What lives across releases.
    fn kept(&self) -> Vec<Option<String>> {
        ["uploads/photo", "var/logs/today"]
            .map(|path| fs::read_to_string(self.app().join(path)).ok())
            .to_vec()
    }

    /// One release of every path, in the words of an app that would be started now.
    fn speaks(&self) -> String {
        let read = |path: &str| fs::read_to_string(self.root.join(path)).unwrap_or_default();
        [
            read("srv/app/server.js"),
            read("srv/app/.env.production"),
            read("etc/app.conf"),
            read("srv/portal/index.html"),
            read("etc/only-v2.conf"),
        ]
        .join(" ")
    }

    /// Both releases captured, the second one live and the first one staged.
    fn at_second(mode: SwitchMode) -> Rollback {
        Self::new(mode).taken_to_second()
    }

    /// The same from a world that was made just now.
    fn taken_to_second(self) -> Rollback {
        let world = self;
        let store = world.store();
        let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
        let first_picture = world.picture();
        world.deploy(2);
        let second = store.snapshot(&world.files(), label("v2")).unwrap().exact;
        let second_picture = world.picture();
        let staged = store.stage(&world.files(), first).unwrap();
        assert_eq!(staged, Staged { before: second, drift: Vec::new(), already: false });
        assert_eq!(world.picture(), second_picture, "staging changes nothing live");
        Rollback { world, first, first_picture, second, second_picture }
    }
}

struct Rollback {
    world: World,
    first: Hash,
    first_picture: Picture,
    second: Hash,
    second_picture: Picture,
}

fn look(top: &Path, path: &Path, picture: &mut Picture) {
    let Ok(meta) = path.symlink_metadata() else { return };
    let rel = path.strip_prefix(top).unwrap();
    if rel == Path::new("uploads") || rel == Path::new("var/logs") {
        return;
    }
    let what = if meta.is_symlink() {
        format!("-> {:?}", fs::read_link(path).unwrap())
    } else if meta.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for name in names {
            look(top, &name, picture);
        }
        "dir".to_owned()
    } else {
        format!("{:?}", fs::read(path).unwrap())
    };
    let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
    let (mtime, ns) = (meta.mtime(), meta.mtime_nsec());
    let names = if meta.is_file() { meta.nlink() } else { 1 };
    let known = format!("{mode:o} {uid} {gid} {mtime}.{ns} {names} {what}");
    // The release directory behind a link has another name each time.
    let key = Path::new(top.components().nth_back(0).unwrap().as_os_str());
    let key = if top.to_string_lossy().contains("/releases/") { Path::new("app") } else { key };
    picture.insert(key.join(rel), known);
}

fn label(release: &str) -> Label {
    let version = Some(release.trim_start_matches('v').to_owned());
    Label {
        release: release.to_owned(),
        version,
        taken_at_unix_ms: 1_700_000_000_000,
        learned_at_unix_ms: None,
    }
}

fn without_carrier(mut picture: Picture) -> Picture {
    // `var` holds nothing but the kept logs in the first release.
    picture.remove(Path::new("app/var"));
    picture
}

const MODES: [SwitchMode; 2] = [SwitchMode::Exchange, SwitchMode::Link];

/// The names of the steps of one whole switch.
fn steps_of(mode: SwitchMode) -> usize {
    let Rollback { world, first, second, .. } = World::at_second(mode);
    let steps = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&steps);
    let store = world.store_with(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    store.switch(&world.files(), second, first).unwrap();
    steps.load(Ordering::Relaxed)
}

/// Stops at the step of this number, counted from 0.
fn stop_at(number: usize) -> impl Fn(&str) -> io::Result<()> + Send + Sync + 'static {
    let steps = AtomicUsize::new(0);
    move |_| match steps.fetch_add(1, Ordering::Relaxed) {
        step if step == number => Err(io::Error::other("power cut")),
        _ => Ok(()),
    }
}

fn staged_names(world: &World) -> Vec<String> {
    let Ok(staging) = fs::read_dir(world.root.join("srv/.lastgood")) else { return Vec::new() };
    staging.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// What pruning does to the records of a snapshot.
fn forget(store: &Store, component: &str, exact: Hash) {
    store.records.retire(component, exact).unwrap();
    store.records.sweep_manifests().unwrap();
    store.records.forget_all_of(component, exact).unwrap();
    store.records.drop_retired(component, exact).unwrap();
}
