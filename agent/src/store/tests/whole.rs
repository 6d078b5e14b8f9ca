//! Everything that a release can consist of, once as a whole, on an ext4 of its own. Needs root; run with `--ignored`.
//!
//! What is on disk is judged by [`Seen`], which shares no code with the scanner.

use rustix::fs::{CWD, FileType, Mode, SeekFrom, XattrFlags};

use super::{privileged::BIND, *};

/// A file system in a file, for as long as it is in scope.
struct Disk {
    temp: TempDir,
}

impl Disk {
    fn new(features: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (image, at) = (temp.path().join("image"), temp.path().join("disk"));
        fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        fs::create_dir(&at).unwrap();
        let run = |program: &str, args: &[&OsStr]| {
            let status = std::process::Command::new(program).args(args).status().unwrap();
            assert!(status.success(), "{program} {args:?}");
        };
        let plain = ["-q", "-I", "256", "-O", features].map(OsStr::new);
        run("mkfs.ext4", &[&plain[..], &[image.as_os_str()]].concat());
        run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), at.as_os_str()]);
        Self { temp }
    }

    fn root(&self) -> PathBuf {
        self.temp.path().canonicalize().unwrap().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg(self.root()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

/// What there is to see of one path.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of a file, target of a link.
    content: Content,
    /// Where a file has bytes.
    data: Vec<(u64, u64)>,
    blocks: u64,
    /// The first name of the file, and how many it has.
    links: (PathBuf, u64),
}

/// Shown in short.
#[derive(PartialEq, Eq)]
struct Content(Vec<u8>);

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes: {}", self.0.len(), self.0[..self.0.len().min(60)].escape_ascii())
    }
}

fn see(top: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut firsts: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for path in walk(top) {
        let meta = path.symlink_metadata().unwrap();
        let kind = FileType::from_raw_mode(meta.mode());
        let rel = path.strip_prefix(top).unwrap().to_owned();
        let mut links = (rel.clone(), 1);
        let (mut data, mut blocks) = (Vec::new(), 0);
        let content = match kind {
            FileType::Symlink => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            FileType::Directory => Vec::new(),
            FileType::RegularFile => {
                links = (firsts.entry(meta.ino()).or_insert(rel.clone()).clone(), meta.nlink());
                let file = fs::File::open(&path).unwrap();
                file.sync_all().unwrap();
                let mut at = 0;
                while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
                    at = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap();
                    data.push((start, at));
                }
                blocks = file.metadata().unwrap().blocks();
                fs::read(&path).unwrap()
            }
            // They are no part of a release.
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => continue,
        };
        let (mode, owner) = (meta.mode(), (meta.uid(), meta.gid()));
        let mtime = (meta.mtime(), meta.mtime_nsec());
        let (xattrs, content) = (xattrs(&path), Content(content));
        seen.insert(rel, Seen { mode, owner, mtime, xattrs, content, data, blocks, links });
    }
    seen
}

/// Every path from here on, sorted, without following anything.
fn walk(top: &Path) -> Vec<PathBuf> {
    let (mut all, mut waiting) = (vec![top.to_owned()], vec![top.to_owned()]);
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                waiting.push(path.clone());
            }
            all.push(path);
        }
    }
    all.sort();
    all
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut all: Vec<(Vec<u8>, Vec<u8>)> = names
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect();
    all.sort();
    all
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// An ACL as the kernel keeps it: version, then tag, permissions and id of each entry.
fn acl(user: u32) -> Vec<u8> {
    let mut acl = 2u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, permissions, id) in
        [(1u16, 7u16, none), (2, 5, user), (4, 5, none), (0x10, 5, none), (0x20, 0, none)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

/// A release with everything in it. `seed` changes each value and leaves each path.
fn release(app: &Path, seed: u32) {
    if app.exists() {
        fs::remove_dir_all(app).unwrap();
    }
    fs::create_dir(app).unwrap();
    let write = |name: &OsStr| {
        let path = app.join(name);
        fs::write(&path, format!("{name:?} {seed}")).unwrap();
        path
    };
    let text = |name: &str| write(OsStr::new(name));
    // Modes and owners.
    for mode in [0o000, 0o400, 0o644, 0o755, 0o1644, 0o2755, 0o4755, 0o6711] {
        let path = text(&format!("mode-{mode:o}"));
        chown(&path, Some(1000 + seed), Some(2000 + seed)).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    // Odd names.
    let long = [b'n'; 255];
    for name in [&b"odd \xff\xfe"[..], b"new\nline", b"-rf", b" ", b"*", b"\\", b"\x01", &long] {
        write(OsStr::from_bytes(name));
    }
    // Extended attributes.
    let path = text("xattrs");
    set_xattr(&path, "user.origin", &seed.to_le_bytes());
    set_xattr(&path, "user.empty", b"");
    set_xattr(&path, "trusted.root", b"only");
    set_xattr(&path, "system.posix_acl_access", &acl(1000 + seed));
    let path = text("capable");
    chown(&path, Some(1000), None).unwrap();
    set_xattr(&path, "security.capability", &BIND);
    // Links, also of other owners, and with attributes of their own.
    for (name, target) in [("link", "xattrs"), ("dangling", "/nowhere/at/all"), ("up", "../..")] {
        let target = if seed == 1 { target.to_owned() } else { format!("{target}{seed}") };
        symlink(target, app.join(name)).unwrap();
        std::os::unix::fs::lchown(app.join(name), Some(3000 + seed), Some(4000)).unwrap();
    }
    set_xattr(&app.join("link"), "trusted.link", &seed.to_le_bytes());
    // Directories.
    for (name, mode) in [("empty", 0o755), ("set-gid", 0o2775), ("sticky", 0o1777), ("closed", 0)] {
        fs::create_dir(app.join(name)).unwrap();
        chown(app.join(name), Some(1000 + seed), Some(2000)).unwrap();
        fs::set_permissions(app.join(name), Permissions::from_mode(mode)).unwrap();
    }
    // In both of these what is made takes over something of the directory.
    text("set-gid/file");
    fs::create_dir(app.join("set-gid/directory")).unwrap();
    fs::create_dir(app.join("acl")).unwrap();
    set_xattr(&app.join("acl"), "system.posix_acl_default", &acl(1000 + seed));
    let plain = text("acl/file");
    rustix::fs::lremovexattr(&plain, "system.posix_acl_access").unwrap();
    fs::create_dir(app.join("acl/directory")).unwrap();
    let deep = app.join(vec!["d"; 200].join("/"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), format!("deep {seed}")).unwrap();
    // Names of one file: other ones in each release.
    let first = text("names");
    let other = if seed == 1 { "set-gid/name" } else { "empty/name" };
    fs::hard_link(&first, app.join(other)).unwrap();
    fs::hard_link(&first, app.join("a-name")).unwrap();
    // Holes.
    for (name, size) in [("hole", 4096), ("holes", 64 * 1024), ("large-holes", 4 << 20)] {
        let file = fs::File::create(app.join(name)).unwrap();
        file.set_len(size).unwrap();
        if size > 4096 {
            std::os::unix::fs::FileExt::write_all_at(&file, &[7; 100], u64::from(seed) * 8192)
                .unwrap();
        }
    }
    fs::write(app.join("large"), seed.to_le_bytes().repeat(100_000)).unwrap();
    fs::write(app.join("nothing"), "").unwrap();
    // What is no part of a release. To open one of these fails, or waits for ever.
    let mode = Mode::from_raw_mode(0o600);
    let no_driver = rustix::fs::makedev(240, 99);
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("character", FileType::CharacterDevice, no_driver),
        ("block", FileType::BlockDevice, no_driver),
        ("socket", FileType::Socket, 0),
    ] {
        rustix::fs::mknodat(CWD, app.join(name), kind, mode, device).unwrap();
    }
    // Times, leaves first; before 1970 and after 2038 too.
    for (number, path) in walk(app).iter().enumerate().rev() {
        let number = i64::try_from(number).unwrap();
        let seconds = [-86_400, 1_700_000_000, 5_000_000_000][usize::try_from(number % 3).unwrap()];
        let time = rustix::fs::Timespec {
            tv_sec: seconds + i64::from(seed),
            tv_nsec: 123_456_789 + number,
        };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(CWD, path, &times, flags).unwrap();
    }
}

#[test]
#[ignore = "real: needs root, mkfs.ext4 and a loop device"]
fn real_p03_everything_that_a_release_can_consist_of_comes_back() {
    for features in ["^inline_data", "inline_data"] {
        let disk = Disk::new(features);
        let app = disk.root().join("app");
        let tree = TreePolicy {
            tree: app.clone(),
            switch: SwitchMode::Exchange,
            keep: Vec::new(),
            privileged_files: true,
            from: None,
        };
        let files = ComponentFiles {
            component: "app".to_owned(),
            files: vec![FilesPolicy::Tree(tree)],
            managers: Vec::new(),
        };
        let mut releases = Vec::new();
        let store = Store::open(&disk.root().join("state")).unwrap();
        for seed in 1..=3 {
            release(&app, seed);
            let info = store.snapshot(&files, label(&format!("v{seed}"))).unwrap();
            let skipped: Vec<&str> =
                info.skipped.iter().filter_map(|path| path.rsplit('/').next()).collect();
            assert_eq!(skipped, ["block", "character", "fifo", "socket"]);
            releases.push((info.exact, see(&app)));
        }
        let [(first, first_seen), (second, second_seen), (third, third_seen)] = &releases[..]
        else {
            panic!("{}", releases.len())
        };
        assert_eq!(first_seen.keys().filter(|path| !second_seen.contains_key(*path)).count(), 1);
        for path in first_seen.keys().filter(|path| second_seen.contains_key(*path)) {
            assert_ne!(first_seen[path], second_seen[path], "{path:?} differs in the releases");
        }
        let bad = problems::look(&files).into_iter().find(|one| one.bad.is_some());
        assert_eq!(bad, None);
        // Built from the store, and back.
        store.stage(&files, *first).unwrap();
        store.switch(&files, *third, *first).unwrap();
        same(&see(&app), first_seen);
        assert_eq!(store.digest_matches(&files, *first).unwrap(), []);
        store.switch(&files, *first, *third).unwrap();
        same(&see(&app), third_seen);
        // Built from the tree that stands staged.
        store.stage(&files, *second).unwrap();
        assert!(!store.is_staged(&files, *first).unwrap(), "it was taken over");
        store.switch(&files, *third, *second).unwrap();
        same(&see(&app), second_seen);
        // Where only a part of it differs.
        let fourth = {
            fs::write(app.join("names"), "changed").unwrap();
            chown(app.join("capable"), Some(7), None).unwrap();
            store.snapshot(&files, label("v4")).unwrap().exact
        };
        store.stage(&files, *second).unwrap();
        store.switch(&files, fourth, *second).unwrap();
        same(&see(&app), second_seen);
        store.check("app", *first).unwrap();
    }
}

/// Says which path differs rather than everything.
fn same(found: &BTreeMap<PathBuf, Seen>, expected: &BTreeMap<PathBuf, Seen>) {
    for (path, seen) in expected {
        assert_eq!(found.get(path), Some(seen), "{}", path.display());
    }
    assert_eq!(found.len(), expected.len());
}
