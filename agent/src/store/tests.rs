//! The store on real files.
//!
//! What is on disk is judged by [`picture`], which shares no code with the scanner.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use proto::policy::{FilePolicy, FilesPolicy, SwitchMode, TreePolicy};
use tempfile::TempDir;

use super::*;

/// A host with one component: two trees, a file inside the first, two files of their own.
struct World {
    _temp: TempDir,
    root: PathBuf,
    mode: SwitchMode,
}

/// Path → everything that a restore must reproduce.
type Picture = BTreeMap<PathBuf, String>;

impl World {
    fn new(mode: SwitchMode) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("srv")).unwrap();
        let world = Self { _temp: temp, root, mode };
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
        Store::open(&self.root.join("state")).unwrap()
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
        ComponentFiles { component: "crm".to_owned(), files }
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
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let stamp = UNIX_EPOCH + Duration::new(1_700_000_000 + u64::from(version), 123_456_789);
            fs::File::options().append(true).open(&path).unwrap().set_modified(stamp).unwrap();
        };
        write("app/server.js", &format!("serve({version})"), 0o644);
        write("app/.env", &format!("V={version}"), 0o640);
        write("app/.env.production", &format!("SECRET={version}"), 0o600);
        write("app/bin/run", "#!/bin/sh", 0o755);
        write("app/same", "the same in both", 0o444);
        write("portal/index.html", &format!("portal {version}"), 0o644);
        let odd = OsStr::from_bytes(b"odd \xff\nname");
        fs::write(app.join(odd), format!("odd {version}")).unwrap();
        symlink("server.js", app.join("link")).unwrap();
        symlink("/nowhere/at/all", app.join("dangling")).unwrap();
        fs::write(self.root.join("etc/app.conf"), format!("conf {version}")).unwrap();
        if version == 1 {
            fs::create_dir(app.join("empty")).unwrap();
            fs::set_permissions(app.join("empty"), Permissions::from_mode(0o2750)).unwrap();
        } else {
            // Here the kept `var/logs` has a place that the first release does not have.
            fs::create_dir_all(app.join("var/logs")).unwrap();
            fs::write(app.join("var/logs/today"), "log").unwrap();
            fs::create_dir_all(app.join("only-v2/deep")).unwrap();
            fs::write(app.join("only-v2/deep/file"), "new").unwrap();
            fs::write(self.root.join("etc/only-v2.conf"), "new").unwrap();
        }
    }

    /// What goes back with a release.
    fn picture(&self) -> Picture {
        let mut picture = Picture::new();
        for top in ["srv/app", "srv/portal", "etc/app.conf", "etc/only-v2.conf"] {
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
        let world = Self::new(mode);
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
    let known = format!("{mode:o} {uid} {gid} {mtime}.{ns} {what}");
    // The release directory behind a link has another name each time.
    let key = Path::new(top.components().nth_back(0).unwrap().as_os_str());
    let key = if top.to_string_lossy().contains("/releases/") { Path::new("app") } else { key };
    picture.insert(key.join(rel), known);
}

fn label(release: &str) -> Label {
    let version = Some(release.trim_start_matches('v').to_owned());
    Label { release: release.to_owned(), version, taken_at_unix_ms: 1_700_000_000_000 }
}

fn without_carrier(mut picture: Picture) -> Picture {
    // `var` holds nothing but the kept logs in the first release.
    picture.remove(Path::new("app/var"));
    picture
}

const MODES: [SwitchMode; 2] = [SwitchMode::Exchange, SwitchMode::Link];

#[test]
fn p04_a_rollback_restores_everything_and_can_be_undone() {
    for mode in MODES {
        let Rollback { world, first, first_picture, second, second_picture } =
            World::at_second(mode);
        let store = world.store();

        store.switch(&world.files(), second, first).unwrap();
        assert_eq!(without_carrier(world.picture()), first_picture);
        assert!(!world.app().join("only-v2").exists());
        assert!(!world.root.join("etc/only-v2.conf").exists());
        assert_eq!(world.kept(), [Some("mine".to_owned()), Some("log".to_owned())]);
        assert_eq!(store.held().unwrap(), Vec::<String>::new());
        assert_eq!(store.observe(&world.files(), second, first).unwrap(), Observed::Done);
        assert_eq!(store.digest_matches(&world.files(), first).unwrap(), []);

        store.switch(&world.files(), first, second).unwrap();
        assert_eq!(world.picture(), second_picture);
        assert_eq!(world.kept(), [Some("mine".to_owned()), Some("log".to_owned())]);
        assert_eq!(store.observe(&world.files(), second, first).unwrap(), Observed::NotDone);
    }
}

#[test]
fn the_undo_copies_nothing() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    let inode = |world: &World| fs::metadata(world.app().join("server.js")).unwrap().ino();
    let replaced = inode(&world);
    let store = world.store();
    store.switch(&world.files(), second, first).unwrap();
    let beside = format!("srv/.lastgood/app.{}", second.short());
    assert_eq!(fs::metadata(world.root.join(beside).join("server.js")).unwrap().ino(), replaced);
    store.switch(&world.files(), first, second).unwrap();
    assert_eq!(inode(&world), replaced);
}

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

#[test]
fn p04_a_switch_that_stops_at_any_step_goes_forward_or_back_as_a_set() {
    for mode in MODES {
        let steps = steps_of(mode);
        assert!(steps >= 9, "{steps}");
        for stop in 0..steps {
            for forward in [true, false] {
                let case = format!("{mode:?}, stopped at step {stop}, forward: {forward}");
                let Rollback { world, first, first_picture, second, second_picture } =
                    World::at_second(mode);
                let (from, to) = (second, first);
                let store = world.store_with(stop_at(stop));
                let stopped = store.switch(&world.files(), from, to);
                assert!(matches!(stopped, Err(StoreError::Step { .. })), "{case}");
                drop(store);

                let store = world.store();
                assert_eq!(store.held().unwrap(), ["crm"], "{case}");
                assert_eq!(
                    store.observe(&world.files(), from, to).unwrap(),
                    Observed::Partial,
                    "{case}"
                );
                if forward {
                    store.switch(&world.files(), from, to).unwrap();
                    assert_eq!(without_carrier(world.picture()), first_picture, "{case}");
                } else {
                    store.switch(&world.files(), to, from).unwrap();
                    assert_eq!(world.picture(), second_picture, "{case}");
                }
                assert_eq!(
                    world.kept(),
                    [Some("mine".to_owned()), Some("log".to_owned())],
                    "{case}"
                );
                assert!(store.held().unwrap().is_empty(), "{case}");

                // And whatever happened, the other one still stands.
                let (live, other) = if forward { (to, from) } else { (from, to) };
                store.switch(&world.files(), live, other).unwrap();
            }
        }
    }
}

#[test]
fn p04_stopped_again_and_again_it_still_comes_through() {
    for mode in MODES {
        let Rollback { world, first, first_picture, second, second_picture } =
            World::at_second(mode);
        for (round, stop) in (0..steps_of(mode)).cycle().take(30).enumerate() {
            let store = world.store_with(stop_at(stop));
            // Now forward, now back, as a wavering operator would.
            let (from, to) = if round % 3 == 2 { (first, second) } else { (second, first) };
            let stopped = store.switch(&world.files(), from, to);
            assert!(!matches!(
                stopped,
                Err(StoreError::Digest { .. } | StoreError::Displaced { .. })
            ));
        }
        let store = world.store();
        store.switch(&world.files(), second, first).unwrap();
        assert_eq!(without_carrier(world.picture()), first_picture);
        store.switch(&world.files(), first, second).unwrap();
        assert_eq!(world.picture(), second_picture);
        assert_eq!(world.kept(), [Some("mine".to_owned()), Some("log".to_owned())]);
    }
}

#[test]
fn p04_each_path_is_one_whole_version_at_every_step() {
    for mode in MODES {
        let Rollback { world, first, second, .. } = World::at_second(mode);
        let world = Arc::new(world);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (looked, kept) = (Arc::clone(&world), Arc::clone(&seen));
        let store = world.store_with(move |step| {
            let app = looked.app();
            let text = |path: &str| fs::read_to_string(app.join(path)).map_err(io::Error::other);
            let pair = (text("server.js")?, text(".env.production")?);
            let whole = [("serve(1)", "SECRET=1"), ("serve(2)", "SECRET=2")];
            assert!(whole.contains(&(pair.0.as_str(), pair.1.as_str())), "{step}: {pair:?}");
            kept.lock().unwrap().push(step.to_owned());
            Ok(())
        });
        store.switch(&world.files(), second, first).unwrap();
        let seen = seen.lock().unwrap();
        assert!(seen.iter().any(|step| step.starts_with("switch: placed")), "{seen:?}");
    }
}

#[test]
fn a_switch_that_is_asked_for_twice_is_done_once() {
    for mode in MODES {
        let Rollback { world, first, second, .. } = World::at_second(mode);
        let store = world.store();
        store.switch(&world.files(), second, first).unwrap();
        let speaks = world.speaks();
        let again = store.switch(&world.files(), second, first).unwrap();
        assert_eq!(again.notes, ["nothing had to be moved"]);
        assert_eq!(world.speaks(), speaks);
    }
}

#[test]
fn p03_a_change_after_the_switch_is_no_longer_the_release() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    let store = world.store();
    store.switch(&world.files(), second, first).unwrap();
    fs::write(world.app().join("server.js"), "hacked").unwrap();
    fs::write(world.app().join("new.pid"), "1").unwrap();
    let again = store.switch(&world.files(), second, first);
    assert!(matches!(again, Err(StoreError::Digest { .. })), "{again:?}");
    let differences = store.digest_matches(&world.files(), first).unwrap();
    let failures: Vec<String> =
        differences.iter().filter(|one| one.is_failure()).map(ToString::to_string).collect();
    assert_eq!(failures, [format!("{}/server.js has other content", world.app().display())]);
    let extra =
        |one: &Difference| one.kind == DifferenceKind::Extra && one.path.ends_with("new.pid");
    assert!(differences.iter().any(extra));
    assert!(store.live(&world.files()).unwrap().changed);
}

#[test]
fn p05_what_changed_between_staging_and_the_stop_comes_back_with_the_undo() {
    for mode in MODES {
        let Rollback { world, first, first_picture, second, .. } = World::at_second(mode);
        fs::write(world.app().join("server.js"), "fixed by hand").unwrap();
        fs::write(world.app().join("note"), "written late").unwrap();
        fs::write(world.root.join("etc/app.conf"), "conf by hand").unwrap();
        let late = world.picture();
        let store = world.store();
        let switched = store.switch(&world.files(), second, first).unwrap();
        let notes = switched.notes.join("\n");
        for changed in
            ["server.js has other content", "note was added", "app.conf has other content"]
        {
            assert!(notes.contains(changed), "{notes}");
        }
        assert_eq!(without_carrier(world.picture()), first_picture);
        store.switch(&world.files(), first, second).unwrap();
        assert_eq!(world.picture(), late);
        assert_eq!(store.digest_matches(&world.files(), second).unwrap(), []);
    }
}

#[test]
fn the_way_back_of_a_switch_that_never_began_changes_nothing() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    fs::write(world.app().join("server.js"), "last words").unwrap();
    let before = world.picture();
    let store = world.store();
    assert_eq!(store.observe(&world.files(), second, first).unwrap(), Observed::NotDone);
    let switched = store.switch(&world.files(), first, second).unwrap();
    assert!(switched.notes.join("\n").contains("server.js has other content"));
    assert_eq!(world.picture(), before);
    assert_eq!(store.digest_matches(&world.files(), second).unwrap(), []);
}

#[test]
fn drift_is_named_and_what_drifted_is_known() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    fs::write(world.app().join(".env"), "V=by hand").unwrap();
    let store = world.store();
    let staged = store.stage(&world.files(), first).unwrap();
    assert!(staged.already);
    assert_ne!(staged.before, second);
    assert_eq!(staged.drift, [format!("{}/.env has other content", world.app().display())]);
    let drifted = world.picture();
    store.switch(&world.files(), staged.before, first).unwrap();
    // It was never named, its bytes are in no store, and still it can be gone back to.
    assert!(store.discard(&world.files(), staged.before).unwrap().join("").contains("only copy"));
    assert!(store.stage(&world.files(), staged.before).unwrap().already);
    store.switch(&world.files(), first, staged.before).unwrap();
    assert_eq!(world.picture(), drifted);
}

#[test]
fn a_replaced_tree_outlives_its_removal_once_it_is_stored() {
    let Rollback { world, first, .. } = World::at_second(SwitchMode::Exchange);
    fs::write(world.app().join(".env"), "V=by hand").unwrap();
    let drifted = world.picture();
    let store = world.store();
    let before = store.stage(&world.files(), first).unwrap().before;
    store.switch(&world.files(), before, first).unwrap();
    store.store_replaced(&world.files(), before).unwrap();
    assert_eq!(store.discard(&world.files(), before).unwrap(), Vec::<String>::new());
    store.check("crm", before).unwrap();
    assert!(!store.stage(&world.files(), before).unwrap().already);
    store.switch(&world.files(), first, before).unwrap();
    assert_eq!(world.picture(), drifted);
}

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
    assert_eq!(store.list().unwrap(), [first.clone()]);
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

/// Every file below a directory, largest first.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    files
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn p08_a_flipped_bit_in_any_object_is_found_named_and_never_staged() {
    let world = World::new(SwitchMode::Exchange);
    let first = world.store().snapshot(&world.files(), label("v1")).unwrap().exact;
    world.deploy(2);
    let before = world.picture();
    let objects = world.root.join("state/store/objects");
    let object = objects.join(hash_path("serve(1)"));
    flip(&object);
    let store = world.store();
    let error = store.stage(&world.files(), first).unwrap_err();
    let text = error.reason();
    assert!(matches!(error, StoreError::Damaged(_)), "{text}");
    assert!(text.contains("server.js") && text.contains(&object.display().to_string()), "{text}");
    assert_eq!(world.picture(), before);
    assert_eq!(staged_names(&world), Vec::<String>::new());
    let damage = store.list().unwrap()[0].damage.clone().unwrap();
    assert!(damage.contains("server.js"), "{damage}");
    assert!(matches!(store.preflight(&world.files(), first), Err(StoreError::Damaged(_))));
    assert!(matches!(store.check("crm", first), Err(StoreError::Damaged(_))));

    // Where the release stands again, taking it again mends it.
    fs::write(world.root.join("server.js"), "serve(1)").unwrap();
    world.deploy(1);
    fs::write(world.app().join("extra"), "so that it is another snapshot").unwrap();
    store.snapshot(&world.files(), label("v1b")).unwrap();
    store.check("crm", first).unwrap();
    assert_eq!(store.list().unwrap().iter().filter(|info| info.damage.is_some()).count(), 0);
    store.stage(&world.files(), first).unwrap();
}

#[test]
fn p08_check_reads_every_byte() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    store.check("crm", first).unwrap();
    for object in files_below(&world.root.join("state/store/objects")) {
        let whole = fs::read(&object).unwrap();
        flip(&object);
        let error = store.check("crm", first).unwrap_err().reason();
        assert!(error.contains(&object.display().to_string()), "{error}");
        fs::write(&object, whole).unwrap();
        store.check("crm", first).unwrap();
    }
}

#[test]
fn p08_a_flipped_bit_in_a_manifest_or_record_is_found_and_the_rest_is_listed() {
    let Rollback { world, first, second, second_picture, .. } =
        World::at_second(SwitchMode::Exchange);
    let store = world.store();
    store.discard(&world.files(), first).unwrap();
    for kind in ["manifests", "snapshots"] {
        for file in files_below(&world.root.join("state/store").join(kind)) {
            let whole = fs::read(&file).unwrap();
            flip(&file);
            let damaged: Vec<Hash> = [first, second]
                .into_iter()
                .filter(|exact| matches!(store.check("crm", *exact), Err(StoreError::Damaged(_))))
                .collect();
            assert!(!damaged.is_empty(), "{}", file.display());
            let listed = store.list().unwrap();
            assert_eq!(listed.len(), 2);
            for info in listed {
                assert_eq!(info.damage.is_some(), damaged.contains(&info.exact), "{info:?}");
            }
            if damaged.contains(&first) {
                let error = store.stage(&world.files(), first).unwrap_err();
                assert!(matches!(error, StoreError::Damaged(_)), "{}", error.reason());
            }
            assert_eq!(world.picture(), second_picture);
            fs::write(&file, whole).unwrap();
            for exact in [first, second] {
                store.check("crm", exact).unwrap();
            }
        }
    }
}

#[test]
fn p08_what_an_interrupted_snapshot_left_is_gone_and_the_next_one_is_whole() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store_with(stop_at(0));
    store.snapshot(&world.files(), label("v1")).unwrap_err();
    drop(store);
    fs::write(world.root.join("state/store/tmp/torn"), "half").unwrap();
    let store = world.store();
    assert!(store.list().unwrap().is_empty());
    assert_eq!(fs::read_dir(world.root.join("state/store/tmp")).unwrap().count(), 0);
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    store.check("crm", first).unwrap();
}

fn hash_path(text: &str) -> PathBuf {
    let hex = Hash::of(text.as_bytes()).to_string();
    Path::new(&hex[..2]).join(&hex[2..])
}

fn staged_names(world: &World) -> Vec<String> {
    let Ok(staging) = fs::read_dir(world.root.join("srv/.lastgood")) else { return Vec::new() };
    staging.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_staged_tree_that_was_tampered_with_is_built_anew() {
    let Rollback { world, first, second, first_picture, .. } =
        World::at_second(SwitchMode::Exchange);
    let staged = world.root.join(format!("srv/.lastgood/app.{}", first.short()));
    fs::write(staged.join("server.js"), "tampered").unwrap();
    let store = world.store();
    assert!(!store.stage(&world.files(), first).unwrap().already);
    assert!(store.stage(&world.files(), first).unwrap().already);
    store.switch(&world.files(), second, first).unwrap();
    assert_eq!(without_carrier(world.picture()), first_picture);
}

#[test]
fn p03_a_staged_tree_that_is_wrong_is_found_after_the_switch_and_stays_held() {
    let Rollback { world, first, second, second_picture, .. } =
        World::at_second(SwitchMode::Exchange);
    let staged = world.root.join(format!("srv/.lastgood/app.{}", first.short()));
    fs::write(staged.join("server.js"), "tampered").unwrap();
    let store = world.store();
    let error = store.switch(&world.files(), second, first).unwrap_err();
    assert!(matches!(&error, StoreError::Digest { .. }), "{}", error.reason());
    assert!(error.reason().contains("server.js has other content"), "{}", error.reason());
    assert_eq!(store.held().unwrap(), ["crm"]);
    store.switch(&world.files(), first, second).unwrap();
    assert_eq!(world.picture(), second_picture);
    assert!(store.held().unwrap().is_empty());
}

#[test]
fn nothing_is_switched_that_was_not_staged() {
    let Rollback { world, first, second, second_picture, .. } =
        World::at_second(SwitchMode::Exchange);
    let store = world.store();
    store.discard(&world.files(), first).unwrap();
    assert_eq!(staged_names(&world), Vec::<String>::new());
    let error = store.switch(&world.files(), second, first).unwrap_err();
    assert!(matches!(error, StoreError::NotStaged { .. }), "{}", error.reason());
    assert!(store.held().unwrap().is_empty());
    assert_eq!(world.picture(), second_picture);
}

#[test]
fn a_half_staged_set_is_refused_before_anything_moves() {
    let Rollback { world, first, second, second_picture, .. } =
        World::at_second(SwitchMode::Exchange);
    fs::remove_dir_all(world.root.join(format!("srv/.lastgood/portal.{}", first.short()))).unwrap();
    let store = world.store();
    let error = store.switch(&world.files(), second, first).unwrap_err();
    assert!(error.reason().contains("portal"), "{}", error.reason());
    assert!(store.held().unwrap().is_empty());
    assert_eq!(world.picture(), second_picture);
    assert_eq!(world.kept(), [Some("mine".to_owned()), Some("log".to_owned())]);
}

#[test]
fn a_hold_of_another_switch_is_not_taken_over() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    let store = world.store_with(stop_at(3));
    store.switch(&world.files(), second, first).unwrap_err();
    drop(store);
    let store = world.store();
    let other = store.switch(&world.files(), first, first).unwrap_err();
    assert!(matches!(other, StoreError::Held { .. }), "{}", other.reason());
    assert!(matches!(store.stage(&world.files(), first), Err(StoreError::Held { .. })));
    assert!(matches!(store.snapshot(&world.files(), label("x")), Err(StoreError::Held { .. })));
    assert!(matches!(store.discard(&world.files(), first), Err(StoreError::Held { .. })));
    fs::write(store.hold_path("crm"), "{").unwrap();
    let observed = store.observe(&world.files(), second, first).unwrap();
    assert!(matches!(observed, Observed::Unknown(_)), "{observed:?}");
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
fn sockets_and_fifos_are_listed_and_never_opened() {
    let world = World::new(SwitchMode::Exchange);
    let _socket = UnixListener::bind(world.app().join("app.sock")).unwrap();
    let fifo = world.app().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
    // Opening the fifo for reading would wait for a writer for ever.
    let info = world.store().snapshot(&world.files(), label("v1")).unwrap();
    let expected = ["app.sock", "fifo"].map(|name| world.app().join(name).display().to_string());
    assert_eq!(info.skipped, expected);
}

#[test]
fn p10_a_link_in_place_of_a_directory_leads_nowhere() {
    let Rollback { world, first, second, .. } = World::at_second(SwitchMode::Exchange);
    let outside = world.root.join("outside");
    fs::create_dir_all(outside.join("logs")).unwrap();
    fs::write(outside.join("logs/passwd"), "root").unwrap();
    // Of a kept path's parent.
    fs::rename(world.app().join("var"), world.root.join("var.moved")).unwrap();
    symlink(&outside, world.app().join("var")).unwrap();
    let store = world.store();
    let error = store.switch(&world.files(), second, first).unwrap_err();
    assert!(matches!(error, StoreError::Link { .. }), "{}", error.reason());
    assert_eq!(fs::read_to_string(outside.join("logs/passwd")).unwrap(), "root");
    // In a snapshot it is a link and nothing else.
    let info = store.live(&world.files()).unwrap();
    assert!(info.changed);
    // Of the tree itself.
    fs::rename(world.app(), world.root.join("srv/app.moved")).unwrap();
    symlink(&outside, world.app()).unwrap();
    for error in [
        store.snapshot(&world.files(), label("v3")).unwrap_err(),
        store.stage(&world.files(), first).unwrap_err(),
        store.preflight(&world.files(), first).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Link { .. }), "{}", error.reason());
    }
    // Of a parent.
    fs::remove_file(world.app()).unwrap();
    fs::rename(world.root.join("srv"), world.root.join("srv.moved")).unwrap();
    symlink("srv.moved", world.root.join("srv")).unwrap();
    let error = store.stage(&world.files(), first).unwrap_err();
    assert!(matches!(error, StoreError::Link { .. }), "{}", error.reason());
}

#[test]
fn p10_a_release_link_that_leads_out_is_refused() {
    let world = World::new(SwitchMode::Link);
    fs::create_dir(world.root.join("outside")).unwrap();
    let store = world.store();
    for target in [world.root.join("outside"), "../outside".into(), ".lastgood/x".into()] {
        fs::remove_file(world.app()).unwrap();
        symlink(&target, world.app()).unwrap();
        let error = store.snapshot(&world.files(), label("v1")).unwrap_err();
        assert!(matches!(error, StoreError::Unfit { .. }), "{}", error.reason());
    }
    // An absolute one that leads to a release is one.
    fs::remove_file(world.app()).unwrap();
    symlink(world.root.join("srv/releases/first"), world.app()).unwrap();
    store.snapshot(&world.files(), label("v1")).unwrap();
}

#[test]
fn p10_a_staging_directory_of_somebody_else_is_refused() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    world.deploy(2);
    fs::create_dir(world.root.join("srv/.lastgood")).unwrap();
    fs::set_permissions(world.root.join("srv/.lastgood"), Permissions::from_mode(0o777)).unwrap();
    let error = store.stage(&world.files(), first).unwrap_err();
    assert!(matches!(error, StoreError::Unfit { .. }), "{}", error.reason());
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

#[test]
fn a_tree_that_never_rests_is_refused_by_name() {
    let world = World::new(SwitchMode::Exchange);
    let busy = world.app().join("busy");
    fs::write(&busy, "0").unwrap();
    let stop = Arc::new(AtomicUsize::new(0));
    let (stopped, path) = (Arc::clone(&stop), busy.clone());
    let writer = std::thread::spawn(move || {
        let mut count = 0u64;
        while stopped.load(Ordering::Relaxed) == 0 {
            count += 1;
            fs::write(&path, count.to_string()).unwrap();
        }
    });
    let taken = world.store().snapshot(&world.files(), label("v1"));
    stop.store(1, Ordering::Relaxed);
    writer.join().unwrap();
    let error = taken.unwrap_err();
    assert!(matches!(error, StoreError::Changing { .. }), "{}", error.reason());
    assert!(error.reason().contains(&busy.display().to_string()), "{}", error.reason());
    assert!(world.store().list().unwrap().is_empty());
}

#[test]
fn one_process_at_a_time() {
    let world = World::new(SwitchMode::Exchange);
    let _open = world.store();
    let second = Store::open(&world.root.join("state"));
    assert!(matches!(second, Err(StoreError::InUse { .. })));
}

#[test]
fn the_state_directory_is_closed_to_others() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    world.deploy(2);
    store.stage(&world.files(), first).unwrap();
    for path in ["state", "state/store", "state/hold", "srv/.lastgood"] {
        let mode = fs::metadata(world.root.join(path)).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o700, "{path}");
    }
}

#[test]
fn what_cannot_fit_is_refused_with_what_is_needed() {
    let world = World::new(SwitchMode::Exchange);
    let store = world.store();
    // Two exabytes, of which no block exists.
    let huge = fs::File::create(world.app().join("huge")).unwrap();
    if huge.set_len(1 << 40).is_err() {
        panic!("the test's filesystem holds no sparse file of a terabyte");
    }
    let first = {
        fs::remove_file(world.app().join("huge")).unwrap();
        store.snapshot(&world.files(), label("v1")).unwrap().exact
    };
    world.deploy(2);
    let preflight = store.preflight(&world.files(), first).unwrap();
    assert!(preflight.bytes_needed > 0 && preflight.bytes_free > preflight.bytes_needed);
}

/// A small filesystem of its own, for as long as it is in scope.
struct SmallDisk {
    temp: TempDir,
}

impl SmallDisk {
    fn new(bytes: u64) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"])
            .arg(temp.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "this test has to mount a tmpfs");
        Self { temp }
    }

    fn root(&self) -> PathBuf {
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
    let tree = TreePolicy { tree: app.clone(), switch: SwitchMode::Exchange, keep: Vec::new() };
    let files =
        ComponentFiles { component: "app".to_owned(), files: vec![FilesPolicy::Tree(tree)] };
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
    for error in [
        Store::open(&state).unwrap().preflight(&files, first).unwrap_err(),
        Store::open(&state).unwrap().stage(&files, first).unwrap_err(),
    ] {
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
