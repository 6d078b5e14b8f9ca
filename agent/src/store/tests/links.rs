//! Files with several names: they stay one file, within one tree and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// The names of each file below a directory that has several there; and that it has no others.
fn groups(dir: &Path) -> BTreeSet<BTreeSet<String>> {
    let mut by_inode: BTreeMap<u64, (BTreeSet<String>, u64)> = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                waiting.push(path);
            } else if meta.nlink() > 1 {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                let names = by_inode.entry(meta.ino()).or_default();
                names.0.insert(name);
                names.1 = meta.nlink();
            }
        }
    }
    for (names, links) in by_inode.values() {
        assert_eq!(u64::try_from(names.len()).unwrap(), *links, "{names:?} has a name elsewhere");
    }
    by_inode.into_values().map(|(names, _)| names).collect()
}

fn named(groups: &[&[&str]]) -> BTreeSet<BTreeSet<String>> {
    groups.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect()
}

/// Makes a directory of files, each with its names and its text, all of the same age.
fn lay_out(dir: &Path, files: &[(&[&str], &str)]) {
    if dir.exists() {
        fs::remove_dir_all(dir).unwrap();
    }
    for (names, text) in files {
        let first = dir.join(names[0]);
        fs::create_dir_all(first.parent().unwrap()).unwrap();
        fs::write(&first, text).unwrap();
        let file = fs::File::options().append(true).open(&first).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
        for name in &names[1..] {
            fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            fs::hard_link(&first, dir.join(name)).unwrap();
        }
    }
}

const ONE: [(&[&str], &str); 2] = [(&["d/b", "a/x", "z"], "shared"), (&["alone"], "alone")];
const OTHER: [(&[&str], &str); 2] = [(&["d/b", "alone"], "shared"), (&["a/x", "n"], "new")];

#[test]
fn names_of_one_file_are_one_file_again_after_a_switch_and_its_undo() {
    for mode in MODES {
        let world = World::new(mode);
        let dir = world.app().join("links");
        let store = world.store();
        lay_out(&dir, &ONE);
        let first = store.snapshot(&world.files(), label("v1")).unwrap();
        let first_picture = world.picture();
        world.deploy(2);
        lay_out(&dir, &OTHER);
        let second = store.snapshot(&world.files(), label("v2")).unwrap().exact;
        let second_picture = world.picture();
        let first_groups = named(&[&["d/b", "a/x", "z"]]);
        let second_groups = named(&[&["d/b", "alone"], &["a/x", "n"]]);
        store.stage(&world.files(), first.exact).unwrap();
        for _ in 0..2 {
            store.switch(&world.files(), second, first.exact).unwrap();
            assert_eq!(without_carrier(world.picture()), first_picture);
            assert_eq!(groups(&dir), first_groups);
            assert_eq!(store.digest_matches(&world.files(), first.exact).unwrap(), []);
            store.switch(&world.files(), first.exact, second).unwrap();
            assert_eq!(world.picture(), second_picture);
            assert_eq!(groups(&dir), second_groups);
            assert_eq!(store.digest_matches(&world.files(), second).unwrap(), []);
        }
        // From the store alone.
        store.switch(&world.files(), second, first.exact).unwrap();
        store.read_replaced(&world.files()).unwrap();
        store.discard(&world.files(), second).unwrap();
        assert!(!store.stage(&world.files(), second).unwrap().already);
        store.switch(&world.files(), first.exact, second).unwrap();
        assert_eq!(groups(&dir), second_groups);
    }
}

#[test]
fn bytes_count_once_and_a_deploy_that_does_not_link_brings_the_same_release() {
    let taken = |files: &[(&[&str], &str)]| {
        let world = World::new(SwitchMode::Exchange);
        lay_out(&world.app().join("links"), files);
        world.store().snapshot(&world.files(), label("v1")).unwrap()
    };
    let linked = taken(&[(&["a", "b", "c"], "0123456789")]);
    let copied = taken(&[(&["a"], "0123456789"), (&["b"], "0123456789"), (&["c"], "0123456789")]);
    assert_eq!(linked.content, copied.content);
    assert_eq!(copied.size_bytes - linked.size_bytes, 20);
    assert_eq!(copied.files - linked.files, 2);
}

#[test]
fn a_name_outside_of_the_tree_does_not_count() {
    let world = World::new(SwitchMode::Exchange);
    let app = world.app();
    let store = world.store();
    let names = ["uploads/kept", ".env.production", "inside", "later"];
    fs::remove_file(app.join(".env.production")).unwrap();
    fs::write(app.join("inside"), "shared").unwrap();
    for other in ["srv/app/uploads/kept", "srv/app/.env.production", "srv/app/later"] {
        fs::hard_link(app.join("inside"), world.root.join(other)).unwrap();
    }
    fs::hard_link(app.join("inside"), world.root.join("srv/portal/theirs")).unwrap();
    fs::hard_link(app.join("inside"), world.root.join("outside")).unwrap();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    fs::write(app.join("server.js"), "serve(2)").unwrap();
    let second = store.snapshot(&world.files(), label("v2")).unwrap().exact;
    store.stage(&world.files(), first).unwrap();
    store.switch(&world.files(), second, first).unwrap();
    let stat = |path: &str| {
        let meta = fs::metadata(world.root.join("srv").join(path)).unwrap();
        (meta.ino(), meta.nlink())
    };
    let [kept, env, inside, later] = names.map(|name| stat(&format!("app/{name}")));
    assert_eq!(inside, later);
    assert_eq!(inside.1, 2, "nothing that was built is linked to anything else");
    assert_eq!((env.1, stat("portal/theirs").1), (1, 1));
    // What is kept is the very file that it was.
    assert_eq!(kept, (fs::metadata(world.root.join("outside")).unwrap().ino(), 6));
    assert_eq!(fs::read_to_string(app.join(".env.production")).unwrap(), "shared");
}

/// Replaces a file by a copy that nobody could tell from it but by its inode.
fn break_link(path: &Path) {
    let copy = path.with_extension("copy");
    let meta = fs::metadata(path).unwrap();
    fs::copy(path, &copy).unwrap();
    let file = fs::File::options().append(true).open(&copy).unwrap();
    file.set_modified(meta.modified().unwrap()).unwrap();
    fs::rename(copy, path).unwrap();
}

#[test]
fn a_link_that_was_broken_or_made_by_hand_is_drift() {
    let world = World::new(SwitchMode::Exchange);
    let dir = world.app().join("links");
    lay_out(&dir, &ONE);
    let store = world.store();
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    fs::write(world.app().join("server.js"), "serve(2)").unwrap();
    let second = store.snapshot(&world.files(), label("v2")).unwrap().exact;
    let at = |name: &str| dir.join(name).display().to_string();

    break_link(&dir.join("d/b"));
    assert!(store.live(&world.files()).unwrap().changed);
    let differences = store.digest_matches(&world.files(), second).unwrap();
    let broken = DifferenceKind::NoLongerSame(at("a/x"));
    assert!(
        differences.iter().any(|one| one.kind == broken && one.is_failure()),
        "{differences:?}"
    );
    let staged = store.stage(&world.files(), first).unwrap();
    assert_eq!(staged.drift, [format!("{} is no longer another name of {}", at("d/b"), at("a/x"))]);
    assert_ne!(staged.before, second);
    store.switch(&world.files(), staged.before, first).unwrap();
    assert_eq!(groups(&dir), named(&[&["d/b", "a/x", "z"]]));
    store.switch(&world.files(), first, staged.before).unwrap();
    assert_eq!(groups(&dir), named(&[&["a/x", "z"]]));
    store.switch(&world.files(), staged.before, first).unwrap();

    fs::remove_file(dir.join("alone")).unwrap();
    fs::write(dir.join("alone"), "shared").unwrap();
    let changed = store.snapshot(&world.files(), label("v3")).unwrap().exact;
    fs::remove_file(dir.join("alone")).unwrap();
    fs::hard_link(dir.join("z"), dir.join("alone")).unwrap();
    let told = store.digest_matches(&world.files(), changed).unwrap();
    let told: Vec<_> = told.iter().filter(|one| one.is_failure()).map(|one| &one.kind).collect();
    assert_eq!(told, [&DifferenceKind::NowSame(at("a/x"))]);
}

/// Ways in which the same few names can belong together.
const LAYOUTS: [&[(&[&str], &str)]; 8] = [
    &[(&["a", "b", "c"], "1")],
    &[(&["a"], "1"), (&["b", "c"], "1")],
    &[(&["a", "b"], "1"), (&["c"], "1")],
    &[(&["b", "c"], "1")],
    &[(&["a", "b", "c"], "2")],
    &[(&["a"], "1"), (&["b"], "1"), (&["c"], "1")],
    &[(&["a", "c"], "2"), (&["b"], "1")],
    &[(&["0", "a", "b", "c"], "1")],
];

#[test]
fn a_tree_that_is_made_anothers_has_the_links_of_that_one() {
    let world = World::new(SwitchMode::Exchange);
    let dir = world.app().join("links");
    let store = world.store();
    let mut releases = Vec::new();
    for (number, layout) in LAYOUTS.iter().enumerate() {
        lay_out(&dir, layout);
        let info = store.snapshot(&world.files(), label(&format!("v{number}"))).unwrap();
        releases.push((info.exact, *layout));
    }
    lay_out(&dir, &[]);
    let live = store.snapshot(&world.files(), label("live")).unwrap().exact;
    let staged = |exact: Hash| world.root.join(format!("srv/.lastgood/app.{}", exact.short()));
    for (from, _) in &releases {
        for (to, layout) in releases.iter().filter(|(to, _)| to != from) {
            for (release, _) in &releases {
                store.discard(&world.files(), *release).unwrap();
            }
            store.stage(&world.files(), *from).unwrap();
            let born = |exact| {
                let meta = fs::metadata(staged(exact).join("bin/run")).unwrap();
                (meta.ino(), meta.created().unwrap())
            };
            let before = born(*from);
            assert!(!store.stage(&world.files(), *to).unwrap().already);
            assert_eq!(
                born(*to),
                before,
                "it was taken over, and nothing was wrong with it: {layout:?}"
            );
            let several: Vec<&[&str]> =
                layout.iter().map(|(names, _)| *names).filter(|names| names.len() > 1).collect();
            let built = staged(*to).join("links");
            assert_eq!(groups(&built), named(&several), "{layout:?}");
            for (names, text) in *layout {
                for name in *names {
                    assert_eq!(fs::read_to_string(built.join(name)).unwrap(), *text, "{layout:?}");
                }
            }
        }
    }
    let (last, _) = releases[7];
    store.stage(&world.files(), last).unwrap();
    store.switch(&world.files(), live, last).unwrap();
    assert_eq!(groups(&dir), named(&[&["0", "a", "b", "c"]]));
}

#[test]
fn what_stays_in_a_tree_that_is_made_anothers_is_the_file_that_it_was() {
    let world = World::new(SwitchMode::Exchange);
    let dir = world.app().join("links");
    let store = world.store();
    lay_out(&dir, &ONE);
    let first = store.snapshot(&world.files(), label("v1")).unwrap().exact;
    fs::hard_link(dir.join("z"), dir.join("zz")).unwrap();
    let second = store.snapshot(&world.files(), label("v2")).unwrap().exact;
    lay_out(&dir, &[]);
    store.snapshot(&world.files(), label("v3")).unwrap();
    store.stage(&world.files(), first).unwrap();
    let born = |exact: Hash| {
        let path = world.root.join(format!("srv/.lastgood/app.{}/links/z", exact.short()));
        let meta = fs::metadata(path).unwrap();
        (meta.ino(), meta.created().unwrap(), meta.nlink())
    };
    let (inode, time, links) = born(first);
    store.stage(&world.files(), second).unwrap();
    assert_eq!(born(second), (inode, time, links + 1));
}

#[test]
fn a_linked_name_needs_no_room() {
    let world = World::new(SwitchMode::Exchange);
    let dir = world.app().join("links");
    let store = world.store();
    let text = "x".repeat(1_000_000);
    let mut needed = Vec::new();
    for names in [&["a"][..], &["a", "b", "c", "d"]] {
        lay_out(&dir, &[(names, &text)]);
        let release = format!("v{}", names.len());
        let exact = store.snapshot(&world.files(), label(&release)).unwrap().exact;
        needed.push(store.preflight(&world.files(), exact).unwrap().bytes_needed);
    }
    assert_eq!(needed[0], needed[1]);
}
