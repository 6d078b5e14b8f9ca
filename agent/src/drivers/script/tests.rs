//! The driver on real scripts: a service of two processes, one in the group of its start script and one in a session
//! of its own.
//!
//! Invariant: a test ends every process that its scripts wrote down, however it ends itself.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use tempfile::TempDir;

use super::*;
use crate::{drivers::conformance, exec::proc::Proc};

/// Longer than anything here takes: a test that gets there has failed.
const LONG: Duration = Duration::from_secs(30);

const START: &str = "echo starting
sleep 600 & echo $! >> pids
setsid sleep 600 & echo $! >> pids
echo started >&2";
const STOP: &str = "for pid in $(cat pids); do kill $pid; done";
const FORCE: &str = "for pid in $(cat pids); do kill -9 $pid; done; true";
/// A killed child of nobody may be a zombie for a moment.
const STATUS: &str = "[ -e pids ] || exit 3
for pid in $(cat pids); do
  state=$(cut -d' ' -f3 /proc/$pid/stat 2>/dev/null) || continue
  [ \"$state\" = Z ] || { echo \"$pid runs\"; exit 0; }
done
echo nothing runs
exit 3";

struct Bed {
    directory: TempDir,
    context: Context,
}

impl Bed {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join("state");
        fs::create_dir(&state_dir).unwrap();
        let context = Context {
            component: "crm".to_owned(),
            hold_path: state_dir.join("hold"),
            state_dir,
            autostart: false,
        };
        let bed = Self { directory, context };
        for (name, text) in [("start", START), ("stop", STOP), ("force", FORCE), ("status", STATUS)]
        {
            bed.script(name, text);
        }
        bed
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a script, in place of an earlier one.
    fn script(&self, name: &str, text: &str) -> Vec<String> {
        let path = self.path().join(format!("{name}.sh"));
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        vec![path.display().to_string()]
    }

    fn policy(&self) -> ScriptPolicy {
        let argv = |name: &str| vec![self.path().join(format!("{name}.sh")).display().to_string()];
        ScriptPolicy {
            start: argv("start"),
            stop: argv("stop"),
            force_stop: Some(argv("force")),
            status: argv("status"),
            directory: self.path().to_owned(),
            environment: BTreeMap::new(),
            user: own_user(),
        }
    }

    fn driver(&self) -> ScriptDriver {
        ScriptDriver::build("web", &self.policy(), &self.context).unwrap()
    }

    /// What the scripts wrote down and is alive.
    fn alive(&self) -> Vec<Proc> {
        let pids = fs::read_to_string(self.path().join("pids")).unwrap_or_default();
        let found = pids.lines().filter_map(|pid| Proc::read(pid.parse().ok()?));
        found.filter(|proc| proc.alive).collect()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for proc in self.alive() {
            proc.signal(Signal::KILL).unwrap();
        }
    }
}

fn own_user() -> String {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid)).unwrap();
    line.split(':').next().unwrap().to_owned()
}

fn soon() -> Instant {
    Instant::now() + LONG
}

#[tokio::test]
async fn it_keeps_what_every_driver_must() {
    let bed = Bed::new();
    let leftovers = || bed.alive().iter().map(|proc| proc.pid.to_string()).collect();
    let kept = conformance::check(&bed.driver(), &leftovers).await;
    kept.unwrap_or_else(|violation| panic!("{violation}: {violation:?}"));
}

#[tokio::test]
async fn what_a_start_leaves_lives_on_and_its_words_are_kept() {
    let bed = Bed::new();
    let driver = bed.driver();
    driver.start(soon()).await.unwrap();
    assert_eq!(bed.alive().len(), 2, "one in the script's group, one in its own session");
    assert_eq!(driver.last_log_lines(5).await, ["starting", "started"]);
    let state = driver.status().await.unwrap();
    assert!(state.running && state.identity.is_none() && state.detail.ends_with("runs"));
    drop(driver);
    let next = bed.driver();
    assert!(next.status().await.unwrap().running, "another agent finds it");
    next.stop(LONG, soon()).await.unwrap();
    assert!(bed.alive().is_empty());
}

#[tokio::test]
async fn one_that_does_not_stop_is_forced_to() {
    let bed = Bed::new();
    let driver = bed.driver();
    for stop in ["echo no such thing; exit 1", "true", "sleep 600"] {
        bed.script("stop", stop);
        driver.start(soon()).await.unwrap();
        driver.stop(Duration::from_millis(300), soon()).await.unwrap();
        assert!(bed.alive().is_empty(), "{stop}");
    }
    let gentle = ScriptPolicy { force_stop: None, ..bed.policy() };
    let gentle = ScriptDriver::build("web", &gentle, &bed.context).unwrap();
    bed.script("stop", "true");
    gentle.start(soon()).await.unwrap();
    let error = gentle.stop(Duration::from_millis(300), soon()).await.unwrap_err();
    assert!(
        matches!(&error, DriverError::TimedOut(why) if why.contains("`force_stop`")),
        "{error}"
    );
    bed.script("force", "echo cannot >&2; exit 4");
    let error = driver.stop(Duration::ZERO, soon()).await.unwrap_err().to_string();
    assert!(error.contains("exit 4: cannot"), "{error}");
}

#[tokio::test]
async fn a_script_that_hangs_is_ended_and_leaves_nothing() {
    let bed = Bed::new();
    let driver = bed.driver();
    driver.start(soon()).await.unwrap();
    // Deaf, with a child that is deaf too; both write themselves down.
    let hang =
        "trap '' TERM; echo $$ >> hung; (trap '' TERM; while :; do sleep 1; done) & echo $! >> hung
while :; do sleep 1; done";
    let gone = || {
        let pids = fs::read_to_string(bed.path().join("hung")).unwrap();
        pids.lines().all(|pid| Proc::read(pid.parse().unwrap()).is_none_or(|proc| !proc.alive))
    };
    bed.script("stop", hang);
    driver.stop(Duration::from_millis(300), soon()).await.unwrap();
    assert!(gone() && bed.alive().is_empty());
    bed.script("status", hang);
    let error = driver.runs(Instant::now() + Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(&error, DriverError::TimedOut(why) if why.contains("not known")), "{error}");
    assert!(gone());
}

#[tokio::test]
async fn a_status_that_is_neither_is_an_error_with_its_words() {
    let bed = Bed::new();
    bed.script("status", "echo the lock is odd >&2; exit 4");
    let driver = bed.driver();
    for error in [driver.status().await.unwrap_err(), driver.start(soon()).await.unwrap_err()] {
        let why = error.to_string();
        assert!(why.contains("exit 4") && why.contains("the lock is odd"), "{why}");
    }
    assert!(bed.alive().is_empty(), "what is not known is not started");
}

#[tokio::test]
async fn a_start_that_fails_or_lies_says_so() {
    let bed = Bed::new();
    bed.script("start", "echo no port left >&2; exit 1");
    let driver = bed.driver();
    let error = driver.start(soon()).await.unwrap_err().to_string();
    assert!(error.contains("exit 1"), "{error}");
    assert_eq!(driver.last_log_lines(1).await, ["no port left"]);
    bed.script("start", "true");
    let error = driver.start(Instant::now() + Duration::from_millis(500)).await.unwrap_err();
    assert!(error.to_string().contains("still says that it does not run"), "{error}");
}

#[tokio::test]
async fn p04_nothing_starts_while_it_is_held() {
    let bed = Bed::new();
    let driver = bed.driver();
    fs::write(&bed.context.hold_path, "held").unwrap();
    let error = driver.start(Instant::now() + Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(&error, DriverError::TimedOut(why) if why.contains("holds it")), "{error}");
    assert!(bed.alive().is_empty() && !bed.path().join("pids").exists());
}

#[tokio::test]
async fn a_start_that_a_dead_agent_left_is_ended_before_another() {
    let bed = Bed::new();
    let driver = bed.driver();
    // What is left of an agent that was killed: its script goes on, in its session.
    let start = bed.script("start", "echo $$ >> pids; while :; do sleep 1; done");
    let status = bed.script("status", "exit 3");
    let spec = driver.spec(&start);
    let mut prepared = exec::prepare(&spec).unwrap();
    prepared.output(std::process::Stdio::null(), std::process::Stdio::null());
    let mut left = prepared.spawn().unwrap();
    let end = soon();
    while bed.alive().is_empty() {
        assert!(Instant::now() < end, "the script never ran");
        sleep(Duration::from_millis(5)).await;
    }
    driver.stop(LONG, soon()).await.unwrap();
    assert!(left.wait().await.unwrap().code().is_none(), "it was ended");
    assert!(bed.alive().is_empty());
    assert_eq!(status.len(), 1);
}

#[test]
fn what_keeps_scripts_from_running_is_said_before_they_are_needed() {
    let bed = Bed::new();
    assert_eq!(ScriptDriver::refusals(&bed.policy()), Vec::<String>::new());
    let good = bed.policy();
    let one = |policy: ScriptPolicy| {
        let words = ScriptDriver::refusals(&policy).join("\n");
        assert!(words.contains("; mend: "), "{words}");
        words
    };
    let missing = one(ScriptPolicy { start: vec!["/no/such/start.sh".into()], ..good.clone() });
    assert!(missing.contains("/no/such/start.sh"), "{missing}");
    assert!(one(ScriptPolicy { user: "no-such-user".into(), ..good.clone() }).contains("passwd"));
    let nowhere = one(ScriptPolicy { directory: "/no/such/place".into(), ..good.clone() });
    assert!(nowhere.contains("/no/such/place"), "{nowhere}");
    fs::set_permissions(&good.stop[0], fs::Permissions::from_mode(0o644)).unwrap();
    assert!(one(good.clone()).contains("not executable"));
    fs::set_permissions(&good.stop[0], fs::Permissions::from_mode(0o755)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(bed.path(), Some(1000), None).unwrap();
        assert!(one(good).contains("root will not run it"), "a tree of the app's own user");
    }
}
