//! An operation that ends at any of its system calls: what a process that comes after it finds, and makes of it.
//!
//! ```text
//! once:           a world ──▶ strace ▸ this test binary ▸ one operation ──▶ every call that can change something on disk
//! for each call:  a world ──▶ the same, killed as it makes this call ──▶ what stands on disk
//!     ──▶ [the power goes, the disk is mounted anew] ──▶ a store is opened, goes on or back ──▶ checked
//! ```
//!
//! The signal comes as the call is entered, so the call is not made: killed at each call is killed after each call. The
//! child has one processor, so that its workers are one thread and the calls are the same in each round.
//!
//! Invariant: what is judged is judged from the disk by [`picture`], not from what the store says of it.

mod killed;
mod power;

use std::{os::unix::process::ExitStatusExt as _, process::Command, sync::atomic::AtomicU64};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::{
    import::{made, previous},
    *,
};

/// Tells a re-executed test what to do; unset in the usual run.
const CHILD: &str = "LASTGOOD_TEST_STORE_CHILD";
/// What changes something on disk, and what makes it durable.
const CALLS: &str = "openat2,renameat2,linkat,symlinkat,mkdir,mkdirat,unlinkat,fchmod,fchmodat,fchown,fchownat,utimensat,\
                     fsetxattr,lsetxattr,setxattr,fremovexattr,lremovexattr,removexattr,write,pwrite64,ftruncate,\
                     fallocate,ioctl,copy_file_range,fsync,fdatasync,syncfs";
/// The harness writes a little before the child's thread begins; what is to be cut comes after as many writes of that.
const WARM_UP: usize = 50;
/// Each waits for its disk most of the time.
const AT_A_TIME: usize = 4;
const TRIES: usize = 20;
/// The call of a child that is not killed.
const END: &str = "end";

/// What is cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Work {
    /// The second release is taken while it is live.
    Snapshot,
    /// A third one is taken from a directory, as a fetch does with what it unpacked.
    Import,
    /// The first one is built beside it from objects.
    Stage,
    /// It is built from a third one that stands staged.
    Reuse,
    /// It takes the place of the second one.
    Switch,
    /// The same back, as nothing was read meanwhile.
    Undo,
    /// What a switch replaced is read and stored, and what is no longer of use goes.
    After,
}

impl Work {
    /// Whether a process that comes after it goes on, or back. What stands staged by then is used as it is instead of
    /// being staged again.
    fn directions(self) -> &'static [bool] {
        match self {
            Self::Switch | Self::Undo | Self::Stage | Self::Reuse => &[true, false],
            Self::Snapshot | Self::Import | Self::After => &[true],
        }
    }
}

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    work: Work,
    mode: Mode,
    root: PathBuf,
    processor: usize,
    from: Option<Hash>,
    to: Option<Hash>,
}

/// [`SwitchMode`] on its way to the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    Exchange,
    Link,
}

impl Mode {
    fn switch(self) -> SwitchMode {
        match self {
            Self::Exchange => SwitchMode::Exchange,
            Self::Link => SwitchMode::Link,
        }
    }
}

/// A world in which `work` is about to be done, with what the two releases look like.
struct Scene {
    work: Work,
    mode: Mode,
    world: World,
    from: Option<Hash>,
    to: Option<Hash>,
    first_picture: Picture,
    second_picture: Picture,
}

impl Scene {
    /// In an empty directory.
    fn new(work: Work, mode: Mode, root: PathBuf) -> Self {
        let world = World::there(root, mode.switch()).made();
        if work == Work::Snapshot {
            let first = world.store().snapshot(&world.files(), label("v1")).unwrap().exact;
            let first_picture = world.picture();
            world.deploy(2);
            let second_picture = world.picture();
            let to = Some(first);
            return Self { work, mode, world, from: None, to, first_picture, second_picture };
        }
        let Rollback { world, first, mut first_picture, second, second_picture } =
            world.taken_to_second();
        let (mut from, mut to) = (second, first);
        let store = world.store();
        match work {
            Work::Snapshot | Work::Switch => {}
            Work::Import => drop(previous(&world)),
            Work::Stage => drop(store.discard(&world.files(), first).unwrap()),
            Work::Reuse => {
                // The first release stands staged; the third one is live, and the second one is wanted.
                world.deploy(3);
                from = store.snapshot(&world.files(), label("v3")).unwrap().exact;
                store.stage(&world.files(), first).unwrap();
                (to, first_picture) = (second, second_picture);
                let second_picture = world.picture();
                drop(store);
                let (from, to) = (Some(from), Some(to));
                return Self { work, mode, world, from, to, first_picture, second_picture };
            }
            Work::Undo => {
                store.switch(&world.files(), second, first).unwrap();
                (from, to) = (first, second);
            }
            Work::After => {
                // A change in the last moment makes what is replaced something that no store has.
                fs::write(world.app().join("server.js"), "serve(2) // by hand").unwrap();
                store.switch(&world.files(), second, first).unwrap();
                (from, to) = (first, second);
            }
        }
        drop(store);
        let (from, to) = (Some(from), Some(to));
        Self { work, mode, world, from, to, first_picture, second_picture }
    }

    /// Every call that the work makes. It is done.
    fn calls(&self, processor: usize) -> Vec<Call> {
        let log = tempfile::NamedTempFile::new().unwrap();
        let log_path = log.path().to_str().unwrap();
        let (killed, _) = self.child(processor, &["-s", "200", "-o", log_path]);
        assert!(!killed);
        calls_of(&fs::read_to_string(log_path).unwrap())
    }

    /// Does the work in a child that is killed as it makes this call. Whether it did.
    #[must_use]
    fn cut(&self, call: &Call, processor: usize) -> bool {
        if call.name == END {
            return !self.child(processor, &["-o", "/dev/null"]).0;
        }
        let inject = format!("inject={}:signal=KILL:when={}", call.name, call.count);
        self.child(processor, &["-o", "/dev/null", "-e", &inject]).0
    }

    /// Whether it was killed, and what it said.
    fn child(&self, processor: usize, options: &[&str]) -> (bool, String) {
        let task = Task {
            work: self.work,
            mode: self.mode,
            root: self.world.root.clone(),
            processor,
            from: self.from,
            to: self.to,
        };
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qqq", "-e", &format!("trace={CALLS}")]).args(options);
        strace.arg(std::env::current_exe().unwrap());
        strace.args(["--exact", "store::tests::cut::child", "--test-threads=1"]);
        strace.env(CHILD, serde_json::to_string(&task).unwrap());
        let output = strace.output().expect("this test needs strace");
        let killed = output.status.signal() == Some(9);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(killed || output.status.success(), "{task:?}: {said}");
        assert!(killed || said.contains("1 passed"), "{said}");
        (killed, said)
    }
}

/// One call of the child's thread.
#[derive(Clone)]
struct Call {
    name: String,
    /// How many of that name it had made then, itself included: what `when=` counts.
    count: usize,
    /// As strace shows it.
    shown: String,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of number {}: {}", self.name, self.count, self.shown)
    }
}

/// What may change something of all calls in a log of strace.
fn calls_of(log: &str) -> Vec<Call> {
    let lines = || log.lines().filter_map(|line| line.split_once(' '));
    let (thread, _) = lines().find(|(_, call)| call.contains(r#", ".", 1) "#)).unwrap();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut calls = Vec::new();
    for (_, shown) in lines().filter(|(of, _)| *of == thread) {
        let shown = shown.trim_start();
        let Some((name, _)) = shown.split_once('(') else { continue };
        let count = counts.entry(name).or_default();
        *count += 1;
        let passed_over = match name {
            "openat2" => !shown.contains("O_CREAT"),
            "write" => *count < WARM_UP,
            _ => false,
        };
        if !passed_over {
            calls.push(Call { name: name.to_owned(), count: *count, shown: shown.to_owned() });
        }
    }
    calls.push(Call { name: END.to_owned(), count: 1, shown: "it has ended".to_owned() });
    calls
}

/// The child of the tests below.
#[test]
fn child() {
    let Some(task) = std::env::var_os(CHILD) else { return };
    let task: Task = serde_json::from_str(task.to_str().unwrap()).unwrap();
    let mut processors = CpuSet::new();
    processors.set(task.processor);
    sched_setaffinity(None, &processors).unwrap();
    let nowhere = fs::File::options().write(true).open("/dev/null").unwrap();
    for _ in 1..WARM_UP {
        rustix::io::write(&nowhere, b".").unwrap();
    }
    let world = World::there(task.root, task.mode.switch());
    let files = world.files();
    let store = world.store();
    match (task.work, task.from, task.to) {
        (Work::Snapshot, ..) => drop(store.snapshot(&files, label("v2")).unwrap()),
        (Work::Import, ..) => import(&store, &world),
        (Work::Stage | Work::Reuse, _, Some(to)) => drop(store.stage(&files, to).unwrap()),
        (Work::Switch | Work::Undo, Some(from), Some(to)) => {
            store.switch(&files, from, to).unwrap();
        }
        (Work::After, ..) => after(&store, &files),
        (work, ..) => panic!("{work:?} of what?"),
    }
}

fn import(store: &Store, world: &World) {
    let backup = made(world, BackupOwner::Found);
    store.import(&world.files(), &backup, label("v3")).unwrap();
}

/// What an agent does once the new release runs.
fn after(store: &Store, files: &ComponentFiles) {
    store.read_replaced(files).unwrap();
    for row in store.list().unwrap().iter().filter(|row| !row.in_store) {
        store.store_replaced(files, row.exact).unwrap();
    }
    store.tidy(files).unwrap();
}

/// The processors that this process may use.
fn processors() -> Vec<usize> {
    let allowed = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)).collect()
}

/// Does `each` at every call, several at a time. It is done again where it was through before that call came: a file
/// that is too young to be told from a changed one is read once more, which is one more to open.
fn at_each(calls: &[Call], each: impl Fn(&Call, usize) -> bool + Sync) {
    let next = AtomicUsize::new(0);
    let processors = processors();
    thread::scope(|scope| {
        for worker in 0..AT_A_TIME {
            let (next, each) = (&next, &each);
            let processor = processors[worker % processors.len()];
            scope.spawn(move || {
                while let Some(call) = calls.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let came = (0..TRIES).any(|_| each(call, processor));
                    assert!(came, "{call:?} did not come again");
                }
            });
        }
    });
}

impl Scene {
    /// What a fresh process finds, and that all of it is well once that has gone on, or back.
    fn check(&self, forward: bool, case: &str) {
        let world = &self.world;
        let files = world.files();
        self.check_disk(case);
        let store = world.store();
        let tmp = world.root.join("state/store/tmp");
        assert_eq!(fs::read_dir(tmp).unwrap().count(), 0, "{case}");
        self.check_known(&store, case);
        let (live, other) = match (self.work, self.from, self.to) {
            (Work::Snapshot, _, Some(first)) => {
                assert_eq!(world.picture(), self.second_picture, "{case}");
                let taken = store.snapshot(&files, label("v2")).unwrap().exact;
                (taken, first)
            }
            (Work::Import, Some(from), Some(to)) => {
                assert_eq!(world.picture(), self.second_picture, "{case}");
                import(&store, world);
                let known = store.list().unwrap();
                assert!(known.iter().any(|row| row.release == "v3"), "{case}: {known:?}");
                (from, to)
            }
            (Work::Stage | Work::Reuse, Some(from), Some(to)) => {
                assert_eq!(world.picture(), self.second_picture, "{case}");
                assert!(store.held().unwrap().is_empty(), "{case}");
                (from, to)
            }
            (Work::Switch | Work::Undo, Some(from), Some(to)) => {
                self.go_on(&store, (from, to), forward, case)
            }
            (Work::After, Some(from), Some(to)) => (from, to),
            (work, ..) => panic!("{case}: {work:?} of what?"),
        };
        self.check_live(&store, live, case);
        // And whatever happened, the other one is still to be had.
        after(&store, &files);
        self.check_known(&store, case);
        if forward || !store.is_staged(&files, other).unwrap() {
            store.stage(&files, other).unwrap_or_else(|error| panic!("{case}: {}", error.reason()));
        }
        store
            .switch(&files, live, other)
            .unwrap_or_else(|error| panic!("{case}: {}", error.reason()));
        self.check_live(&store, other, case);
        self.check_disk(case);
        self.check_known(&store, case);
        after(&store, &files);
        self.check_left(case);
    }

    /// What is true at every moment, whoever looks.
    fn check_disk(&self, case: &str) {
        let world = &self.world;
        let (mut photos, mut logs) = (Vec::new(), Vec::new());
        for path in files_below(&world.root.join("srv")) {
            match path.file_name().and_then(OsStr::to_str) {
                Some("photo") => photos.push(fs::read_to_string(path).unwrap()),
                Some("today") => logs.push(fs::read_to_string(path).unwrap()),
                Some(_) | None => {}
            }
        }
        assert_eq!((photos, logs), (vec!["mine".to_owned()], vec!["log".to_owned()]), "{case}");
        let held = world.root.join("state/hold/crm").exists();
        assert!(held || self.release_of_disk().is_some(), "{case}: a mix that is not held");
    }

    /// The release that is live, whole; none where it is a mix.
    fn release_of_disk(&self) -> Option<usize> {
        let found = without_carrier(self.world.picture());
        [&self.first_picture, &self.second_picture]
            .iter()
            .position(|picture| without_carrier((*picture).clone()) == found)
    }

    /// Goes on, or back, as an agent does that has started again; returns what is live, and the other one.
    fn go_on(&self, store: &Store, sides: (Hash, Hash), forward: bool, case: &str) -> (Hash, Hash) {
        let (from, to) = sides;
        let files = self.world.files();
        let held = !store.held().unwrap().is_empty();
        match store.observe(&files, from, to).unwrap() {
            Observed::Partial => assert!(held, "{case}"),
            Observed::NotDone => assert!(!held && self.is(from), "{case}"),
            Observed::Done => assert!(!held && self.is(to), "{case}"),
            Observed::Unknown(why) => panic!("{case}: {why}"),
        }
        let (from, to) = if forward { (from, to) } else { (to, from) };
        let gone = store.switch(&files, from, to);
        gone.unwrap_or_else(|error| panic!("{case}: {}", error.reason()));
        (to, from)
    }

    /// Whether what is live is this release, from the disk.
    fn is(&self, exact: Hash) -> bool {
        // The first one is what a switch goes to, and what an undo goes from.
        let first = match self.work {
            Work::Switch | Work::Stage | Work::Reuse | Work::Import | Work::Snapshot => self.to,
            Work::Undo | Work::After => self.from,
        };
        self.release_of_disk() == Some(usize::from(first != Some(exact)))
    }

    fn check_live(&self, store: &Store, live: Hash, case: &str) {
        let files = self.world.files();
        assert!(store.held().unwrap().is_empty(), "{case}");
        // After a change by hand there is a third one.
        assert!(self.is(live) || self.work == Work::After, "{case}: {:?}", self.world.picture());
        assert_eq!(store.digest_matches(&files, live).unwrap(), [], "{case}");
        let found = store.live(&files).unwrap();
        assert!(!found.changed, "{case}");
    }

    /// Every release is listed, whole, and is what it was.
    fn check_known(&self, store: &Store, case: &str) {
        let rows = store.list().unwrap();
        for row in &rows {
            assert_eq!(row.damage, None, "{case}: {row:?}");
            let checked = store.check("crm", row.exact);
            checked.unwrap_or_else(|error| panic!("{case}: {}", error.reason()));
        }
        let has = |exact: Option<Hash>| {
            exact.is_none_or(|exact| rows.iter().any(|row| row.exact == exact && row.in_store))
        };
        assert!(has(self.from) && has(self.to), "{case}: {rows:?}");
    }

    /// Nothing is left that nobody knows of.
    fn check_left(&self, case: &str) {
        for name in staged_names(&self.world) {
            let (_, id) = name.rsplit_once('.').unwrap();
            let known = id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(known, "{case}: {name} was left");
        }
    }
}

/// Every file below a directory; no link is followed.
pub(super) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

/// A number that no other world of this run has.
fn number() -> u64 {
    static WORLDS: AtomicU64 = AtomicU64::new(0);
    WORLDS.fetch_add(1, Ordering::Relaxed)
}
