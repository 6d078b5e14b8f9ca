//! Promise 10 against an opponent: an unprivileged process that swaps directories and files for links to somewhere
//! else, as fast as it can, during every kind of file operation. Needs root; run with `--ignored`.
//!
//! ```text
//! nobody:  app/sub ⇄ link to outside, app/file ⇄ link to outside/key            root:  open, read, create, rename, …
//! ```
//!
//! An attempt counts where it overlapped: where what stood at the name before it was not what stood there after it. Of
//! those with an even number of changes in between nothing is known, so there were more.
//!
//! Invariant: the same operations without the protection do get out, so that the test can see it.

use std::{
    io::Read as _,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
};

use rustix::fs::Mode;

use super::{
    super::{
        dir::{self, Dir, Rename},
        meta,
    },
    *,
};

const NOBODY: u32 = 65534;
const OVERLAPS: u64 = 1_000_000;
const SECRET: &str = "outside";

/// Makes a name and a link change places, for ever.
struct Attacker(Child);

impl Attacker {
    fn new(app: &Path, name: &str, link: &str) -> Self {
        // renameat2(AT_FDCWD, name, AT_FDCWD, link, RENAME_EXCHANGE)
        let renameat2 = if cfg!(target_arch = "x86_64") { 316 } else { 276 };
        let swap = format!(
            "($a, $b) = ('{name}', '{link}'); \
             while (1) {{ syscall({renameat2}, -100, $a, -100, $b, 2) == 0 or die \"$!\" }}"
        );
        let mut perl = Command::new("perl");
        perl.args(["-e", &swap]).current_dir(app).uid(NOBODY).gid(NOBODY);
        Self(perl.spawn().expect("this test needs root, and perl"))
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        assert!(self.0.kill().is_ok() && self.0.wait().is_ok());
    }
}

type Operation = fn(&Dir) -> Result<Option<String>, StoreError>;

/// Every kind of operation, below a directory that may be a link by now. Some(text): what was read.
const OPERATIONS: [Operation; 14] = [
    |root| text(root.dir(b"sub")?.file(b"key")?),
    |root| text(root.dir(b"sub/deep")?.file(b"key")?),
    |root| text(root.file(b"file")?),
    |root| Ok(Some(root.dir(b"sub")?.names()?.iter().map(|name| shown(name)).collect())),
    |root| {
        let dir = root.dir(b"sub")?;
        dir.create(b"probe")?;
        dir.rename(b"probe", &dir, b"probe.2", Rename::New)?;
        dir.unlink(b"probe.2").map(|()| None)
    },
    |root| {
        let dir = root.dir(b"sub")?;
        dir.make_dir(b"probe.d")?;
        super::super::remove::tree(&dir, b"probe.d").map(|()| None)
    },
    |root| {
        let dir = root.dir(b"sub")?;
        dir.symlink(b"nowhere", b"probe.l")?;
        dir.unlink(b"probe.l").map(|()| None)
    },
    |root| {
        let file = root.dir(b"sub")?.file(b"key")?;
        rustix::fs::fchmod(&file, Mode::RUSR).unwrap();
        Ok(None)
    },
    |root| {
        let (dir, name) = root.parent_of(b"sub/deep")?;
        let stat = dir.stat(name)?;
        Ok(stat.map(|stat| if stat.st_uid == NOBODY { String::new() } else { SECRET.to_owned() }))
    },
    |root| {
        let dir = root.dir(b"sub")?;
        dir.create(b"probe.a")?;
        dir.create(b"probe.b")?;
        dir.rename(b"probe.a", &dir, b"probe.b", Rename::Exchange)?;
        dir.rename(b"probe.a", &dir, b"probe.b", Rename::Over)?;
        dir.unlink(b"probe.b").map(|()| None)
    },
    |root| {
        let dir = root.dir(b"sub")?;
        drop(dir.ensure_dir(b"probe.e")?);
        dir.remove_dir(b"probe.e").map(|()| None)
    },
    |root| {
        let file = root.dir(b"sub")?.file(b"key")?;
        let stat = meta::stat_of(&file, "key")?;
        let meta = meta::of_open(&file, &stat, || "key".to_owned())?;
        meta::apply(&file, &meta, "key").map(|()| None)
    },
    |root| {
        let dir = root.dir(b"sub")?;
        dir.symlink(b"key", b"probe.m")?;
        let stat = dir.stat(b"probe.m")?.expect("it was made just now");
        let meta = meta::of_link(&dir, b"probe.m", &stat)?;
        meta::apply_to_link(&dir, b"probe.m", &meta)?;
        dir.unlink(b"probe.m").map(|()| None)
    },
    |root| {
        let (from, to) = (root.dir(b"sub")?, root.dir(b"sub")?);
        from.create(b"probe.f")?;
        from.link(b"probe.f", &to, b"probe.g")?;
        to.unlink(b"probe.g")?;
        from.unlink(b"probe.f").map(|()| None)
    },
];

/// The name that an operation is about, as the attacker moves it.
fn attacked(kind: usize) -> &'static [u8] {
    if kind == 2 { b"file" } else { b"sub" }
}

fn text(mut file: fs::File) -> Result<Option<String>, StoreError> {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    Ok(Some(text))
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// What was done while the names changed.
#[derive(Debug, Default)]
struct Tally {
    attempts: u64,
    /// Of these, where the name changed meanwhile.
    overlaps: u64,
    /// Because a link was met, by the kind of operation.
    refused: [u64; OPERATIONS.len()],
    escapes: u64,
}

/// Tries until so many overlapped, or something got out.
fn attack(root: &Path, overlaps: u64) -> Tally {
    let (app, outside) = (root.join("app"), root.join("outside"));
    let before = stamps(&outside);
    let mut tally = Tally::default();
    let handle = Dir::open(&app).unwrap();
    for (kind, operation) in OPERATIONS.iter().enumerate().cycle() {
        let stands = || handle.stat(attacked(kind)).unwrap().map(|stat| stat.st_ino);
        let stood = stands();
        let done = operation(&handle);
        tally.overlaps += u64::from(stands() != stood);
        match done {
            Ok(Some(text)) if text.contains(SECRET) => tally.escapes += 1,
            Ok(_) => {}
            Err(StoreError::Link { .. }) => tally.refused[kind] += 1,
            // The kernel itself gave up on a name that kept moving.
            Err(StoreError::Open { .. }) => {}
            // Two of ours in a directory that was swapped in between leave something behind.
            Err(StoreError::Create { .. } | StoreError::Rename { .. }) => {}
            Err(error) => panic!("{}", error.reason()),
        }
        tally.attempts += 1;
        if tally.attempts % 1000 == 0 && stamps(&outside) != before {
            tally.escapes += 1;
        }
        if tally.overlaps >= overlaps || tally.escapes > 0 {
            return tally;
        }
    }
    tally
}

/// What any write, rename, chmod or removal outside would change.
fn stamps(outside: &Path) -> Vec<(i64, i64, u32)> {
    ["", "key", "deep", "deep/key"]
        .map(|name| fs::symlink_metadata(outside.join(name)).unwrap())
        .map(|meta| (meta.ctime(), meta.ctime_nsec(), meta.mode()))
        .to_vec()
}

#[test]
#[ignore = "real: needs root, and perl as the attacker"]
fn real_p10_a_million_attempts_of_an_attacker_get_nothing() {
    // In memory the attacker is fastest.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let temp = tempfile::tempdir_in(place).unwrap();
    let root = temp.path().canonicalize().unwrap();
    fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
    for (top, text) in [("app/sub", "inside"), ("outside", SECRET)] {
        let top = root.join(top);
        fs::create_dir_all(top.join("deep")).unwrap();
        fs::write(top.join("key"), text).unwrap();
        fs::write(top.join("deep/key"), text).unwrap();
        fs::write(top.join(format!("only-{text}")), text).unwrap();
    }
    let app = root.join("app");
    fs::write(app.join("file"), "inside").unwrap();
    for path in ["", "sub", "sub/deep", "file", "sub/key"] {
        chown(app.join(path), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    symlink(root.join("outside"), app.join("sub.link")).unwrap();
    symlink(root.join("outside/key"), app.join("file.link")).unwrap();
    let _attackers =
        [Attacker::new(&app, "sub", "sub.link"), Attacker::new(&app, "file", "file.link")];

    let tally = attack(&root, OVERLAPS);
    println!("protected: {tally:?}");
    assert_eq!((tally.overlaps, tally.escapes), (OVERLAPS, 0));
    // It was a race for each of them: many attempts met a link, and many did not.
    let each = tally.attempts / OPERATIONS.len() as u64;
    let raced = |refused: &u64| *refused > each / 50 && *refused < each / 50 * 49;
    assert!(tally.refused.iter().all(raced), "{tally:?}");

    let tally = dir::unprotected(|| attack(&root, OVERLAPS));
    println!("without the protection: {tally:?}");
    assert!(tally.escapes > 0, "{tally:?}");
}
