//! The driver under a systemd that has booted. Run as root inside such a host.
//!
//! Invariant: a test makes its own units and takes them away, however it ends.

use std::{
    fs,
    os::unix::fs::symlink,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::SystemTime,
};

use proto::policy::Policy;
use rustix::process::Signal;
use tempfile::TempDir;

use super::*;
use crate::{
    drivers::{Identity, conformance},
    exec::proc::Proc,
    hands::Hands as _,
    host::Host,
    order::{self, Before, Step},
};

/// Longer than anything here takes: a test that gets there has failed.
const LONG: Duration = Duration::from_secs(60);
const PATIENT: Duration = Duration::from_secs(30);

/// Units of one test, and somewhere for its files.
pub(in crate::drivers) struct Units {
    pub(in crate::drivers) root: TempDir,
    /// Begins the name of every unit of this test, and of no other's.
    name: String,
}

impl Units {
    pub(in crate::drivers) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Ends so that none is the beginning of another.
        let name = format!("lg-test-{}-{number}-unit", std::process::id());
        Self { root: tempfile::tempdir_in("/var/tmp").unwrap(), name }
    }

    /// The name of its service.
    pub(in crate::drivers) fn service(&self) -> String {
        format!("{}.service", self.name)
    }

    /// Writes a unit file.
    pub(in crate::drivers) fn write(&self, suffix: &str, text: &str) {
        fs::write(etc(&format!("{}.{suffix}", self.name)), text).unwrap();
    }

    /// Writes the file of a service that carries this test's mark.
    fn write_service(&self, text: &str) {
        let mark = self.mark();
        self.write("service", &format!("[Service]\nEnvironment={mark}\n{text}\n"));
    }

    fn mark(&self) -> String {
        format!("LG_TEST={}", self.name)
    }

    pub(in crate::drivers) fn context(&self) -> Context {
        let state_dir = self.root.path().join("state");
        fs::create_dir_all(state_dir.join("hold")).unwrap();
        let hold_path = state_dir.join("hold/app");
        Context { component: "app".to_owned(), state_dir, hold_path, autostart: true }
    }

    fn driver(&self) -> SystemdDriver {
        SystemdDriver::new("app", &self.service(), &self.context())
    }

    /// What is alive of its service.
    fn alive(&self) -> Vec<String> {
        let mark = [self.mark()];
        let all = Proc::all().unwrap().into_iter();
        all.filter(|proc| proc.alive && proc.has_in_environment(&mark))
            .map(|proc| format!("pid {}", proc.pid))
            .collect()
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        let all = format!("{}*", self.name);
        systemctl(&["kill", "--signal=KILL", &all]);
        for directory in ["/etc/systemd/system", super::hold::DIRECTORY] {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if !entry.file_name().to_string_lossy().starts_with(&self.name) {
                    continue;
                }
                let path = entry.path();
                drop(fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)));
            }
        }
        systemctl(&["daemon-reload"]);
        systemctl(&["stop", &all]);
        systemctl(&["reset-failed", &all]);
    }
}

pub(in crate::drivers) fn systemctl(arguments: &[&str]) -> bool {
    Command::new("/usr/bin/systemctl").args(arguments).output().unwrap().status.success()
}

pub(in crate::drivers) fn soon() -> Instant {
    Instant::now() + LONG
}

fn etc(name: &str) -> PathBuf {
    PathBuf::from("/etc/systemd/system").join(name)
}

pub(in crate::drivers) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = soon();
    while !holds().await {
        assert!(Instant::now() < end, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The words of a verb that failed for good.
pub(in crate::drivers) fn permanent(done: Result<(), DriverError>) -> String {
    match done {
        Err(DriverError::Permanent(why)) => why,
        other => panic!("not a permanent failure: {other:?}"),
    }
}

fn main_pid(state: &ServiceState) -> i32 {
    let Some(Identity::Run(run)) = &state.identity else { panic!("{state:?} does not run") };
    run.split_once('/').unwrap().1.parse().unwrap()
}

async fn active(unit: &str) -> String {
    let bus = Bus::connect(soon()).await.unwrap();
    Unit::look(&bus, unit).await.unwrap().active_state
}

const SLEEPS: &str = "ExecStart=/bin/sleep infinity";

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn it_conforms() {
    let units = Units::new();
    units.write_service(SLEEPS);
    conformance::check(&units.driver(), &|| units.alive()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn it_conforms_with_a_service_that_is_deaf_and_whose_children_are_left_alone() {
    let units = Units::new();
    units.write_service(
        "KillMode=process\nTimeoutStopSec=600\n\
         ExecStart=/bin/sh -c 'trap \"\" TERM; (trap \"\" TERM; sleep 600; :) & while :; do sleep 600; done'",
    );
    // Its patience is the suite's ten seconds; what it has none for is killed at once.
    conformance::check(&units.driver(), &|| units.alive()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn a_unit_that_fails_at_once_says_so_with_its_own_lines() {
    let units = Units::new();
    units.write_service("Type=notify\nExecStart=/bin/sh -c 'echo \"no database here\"; exit 3'");
    let driver = units.driver();
    let why = permanent(driver.start(soon()).await);
    assert!(why.contains("start job ended as `failed`"), "{why}");
    assert!(why.contains("failed: exit-code"), "{why}");
    let lines = driver.last_log_lines(10).await;
    assert!(lines.iter().any(|line| line == "no database here"), "{lines:?}");
    let state = driver.status().await.unwrap();
    assert!(!state.running && state.identity.is_none(), "{state:?}");
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn a_crash_loop_is_not_a_running_service_and_can_be_stopped() {
    let units = Units::new();
    units.write(
        "service",
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=1\nExecStart=/bin/false\n",
    );
    let driver = units.driver();
    driver.start(soon()).await.ok();
    let mut seen = driver.status().await.unwrap();
    eventually("it waits for its second restart", async || {
        seen = driver.status().await.unwrap();
        seen.restarts >= 1 && seen.detail.starts_with("activating (auto-restart)")
    })
    .await;
    assert!(!seen.running && seen.identity.is_none(), "{seen:?}");
    assert!(seen.detail.contains("exit-code"), "{seen:?}");
    driver.stop(PATIENT, soon()).await.unwrap();
    assert_ne!(active(&units.service()).await, "activating");
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn one_that_ignores_term_is_killed_when_its_time_is_over() {
    let units = Units::new();
    units.write_service(
        "TimeoutStopSec=600\nExecStart=/bin/sh -c 'trap \"\" TERM; echo deaf; while :; do sleep 1; done'",
    );
    let driver = units.driver();
    driver.start(soon()).await.unwrap();
    eventually("it is deaf", async || driver.last_log_lines(5).await.contains(&"deaf".to_owned()))
        .await;
    driver.stop(Duration::from_millis(200), soon()).await.unwrap();
    let state = driver.status().await.unwrap();
    assert!(!state.running, "{state:?}");
    assert!(state.detail.contains("signal"), "{state:?}");
    assert_eq!(units.alive(), [] as [String; 0]);
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn a_masked_unit_is_named_with_the_mend() {
    let units = Units::new();
    symlink("/dev/null", etc(&units.service())).unwrap();
    let driver = units.driver();
    let why = permanent(driver.start(soon()).await);
    assert!(why.contains(&format!("systemctl unmask {}", units.service())), "{why}");
    assert!(driver.problems().await.iter().any(|why| why.contains("masked")));
    assert_eq!(driver.status().await.unwrap().detail, "masked");
    driver.stop(PATIENT, soon()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn a_unit_that_is_not_there_or_cannot_be_read_is_named_with_the_mend() {
    let units = Units::new();
    let driver = units.driver();
    let why = permanent(driver.start(soon()).await);
    assert!(why.contains("is not found") && why.contains(&units.service()), "{why}");
    assert!(driver.problems().await.iter().any(|why| why.contains("is not found")));
    assert!(!driver.status().await.unwrap().running);
    driver.stop(PATIENT, soon()).await.unwrap();

    units.write("service", "[Service]\nType=simple\n");
    let why = permanent(driver.start(soon()).await);
    assert!(why.contains("cannot be loaded") || why.contains("not found"), "{why}");

    units.write("service", "[Service]\nType=oneshot\nExecStart=/bin/true\n");
    systemctl(&["daemon-reload"]);
    let problems = driver.problems().await;
    assert!(problems.iter().any(|why| why.contains("Type=oneshot")), "{problems:?}");
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn a_start_limit_that_was_hit_does_not_stand_in_the_way() {
    let units = Units::new();
    let good = units.root.path().join("good");
    units.write(
        "service",
        &format!(
            "[Unit]\nStartLimitIntervalSec=600\nStartLimitBurst=2\n[Service]\nRestart=always\nRestartSec=0\n\
             ExecStart=/bin/sh -c 'test -e {} && exec sleep infinity; :'\n",
            good.display()
        ),
    );
    systemctl(&["daemon-reload"]);
    systemctl(&["start", &units.service()]);
    let driver = units.driver();
    eventually("systemd gives up", async || {
        driver.status().await.unwrap().detail.starts_with("failed: start-limit-hit")
    })
    .await;
    fs::write(good, "").unwrap();
    driver.start(soon()).await.unwrap();
    assert!(driver.status().await.unwrap().running);
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn a_unit_file_that_went_back_is_read_though_it_is_older() {
    let units = Units::new();
    units.write_service("Type=exec\nExecStart=/bin/sleep 86401");
    let driver = units.driver();
    driver.start(soon()).await.unwrap();
    driver.stop(PATIENT, soon()).await.unwrap();

    units.write_service("Type=exec\nExecStart=/bin/sleep 86402");
    let old = SystemTime::now() - Duration::from_secs(90 * 24 * 3600);
    let file = fs::File::options().append(true).open(etc(&units.service())).unwrap();
    file.set_modified(old).unwrap();
    let bus = Bus::connect(soon()).await.unwrap();
    let known = Unit::look(&bus, &units.service()).await.unwrap();
    assert!(!known.need_reload, "systemd sees an older file as changed by itself");
    driver.start(soon()).await.unwrap();
    let pid = main_pid(&driver.status().await.unwrap());
    let cmdline = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(cmdline.contains("86402"), "{cmdline}");
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn p04_a_hold_keeps_it_from_starting_whoever_starts_it() {
    let units = Units::new();
    units.write_service(SLEEPS);
    let (driver, hold) = (units.driver(), units.context().hold_path);
    // The agent's first start writes it; where it was taken away since, that is said.
    let holds = hold.parent().unwrap();
    fs::remove_dir(holds).unwrap();
    assert_eq!(driver.problems().await, [] as [String; 0]);
    fs::create_dir(holds).unwrap();
    let problems = driver.problems().await;
    assert!(problems.iter().any(|why| why.contains("the hold of")), "{problems:?}");
    driver.set_up(soon()).await.unwrap();
    driver.set_up(soon()).await.unwrap();
    assert_eq!(driver.problems().await, [] as [String; 0]);

    fs::write(&hold, "").unwrap();
    let why = permanent(driver.start(soon()).await);
    assert!(why.contains("in the middle of a switch"), "{why}");
    systemctl(&["start", &units.service()]);
    assert!(!driver.status().await.unwrap().running);
    fs::remove_file(&hold).unwrap();
    driver.start(soon()).await.unwrap();
    assert!(driver.status().await.unwrap().running);

    let drop_in = etc(&format!("{}.d", units.service()));
    fs::create_dir_all(&drop_in).unwrap();
    fs::write(drop_in.join("90-mine.conf"), "[Unit]\nConditionPathExists=\n").unwrap();
    let why = permanent(driver.set_up(soon()).await);
    assert!(why.contains("does not heed its hold"), "{why}");
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn what_starts_it_by_itself_is_stopped_with_it_and_comes_back() {
    let units = Units::new();
    let listen = units.root.path().join("socket");
    units.write_service(SLEEPS);
    units.write("socket", &format!("[Socket]\nListenStream={}\n", listen.display()));
    units.write("timer", "[Timer]\nOnCalendar=2199-01-01\n");
    systemctl(&["daemon-reload"]);
    let (socket, timer) = (format!("{}.socket", units.name), format!("{}.timer", units.name));
    assert!(systemctl(&["start", &socket, &timer]));
    let states = async || (active(&socket).await, active(&timer).await);
    let (on, off) = (
        ("active".to_owned(), "active".to_owned()),
        ("inactive".to_owned(), "inactive".to_owned()),
    );

    let driver = units.driver();
    driver.start(soon()).await.unwrap();
    driver.stop(PATIENT, soon()).await.unwrap();
    driver.stop(PATIENT, soon()).await.unwrap();
    assert_eq!(states().await, off);
    assert_eq!(driver.triggers(), Triggers::Disarmed);
    drop(driver);

    // Another agent finds on disk what the first had stopped.
    let driver = units.driver();
    driver.start(soon()).await.unwrap();
    assert_eq!(states().await, on);
    assert!(driver.status().await.unwrap().running);
    assert_eq!(driver.triggers(), Triggers::Armed);
    let before = driver.status().await.unwrap().identity;
    driver.start(soon()).await.unwrap();
    assert_eq!(driver.status().await.unwrap().identity, before);

    // One that only waits for its first connection.
    driver.stop(PATIENT, soon()).await.unwrap();
    driver.rearm(soon()).await.unwrap();
    assert_eq!(states().await, on);
    assert!(!driver.status().await.unwrap().running);
    driver.stop(PATIENT, soon()).await.unwrap();
    assert_eq!(states().await, off);
    driver.rearm(soon()).await.unwrap();
    assert_eq!(states().await, on);
    systemctl(&["stop", &socket, &timer]);
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn a_restart_that_nobody_asked_for_is_seen() {
    let units = Units::new();
    units.write_service("Restart=always\nRestartSec=0\nExecStart=/bin/sleep infinity");
    let driver = units.driver();
    driver.start(soon()).await.unwrap();
    let before = driver.status().await.unwrap();
    assert_eq!((before.detail.as_str(), before.restarts), ("active (running)", 0));
    Proc::read(main_pid(&before)).unwrap().signal(Signal::KILL).unwrap();
    eventually("it runs again", async || {
        let now = driver.status().await.unwrap();
        // A reload of systemd between the two makes it count one restart twice.
        now.running && now.identity != before.identity && now.restarts > 0
    })
    .await;
    driver.stop(PATIENT, soon()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a booted systemd"]
async fn the_unit_file_and_its_drop_ins_go_back_with_the_release() {
    let units = Units::new();
    let app = units.root.path().join("app");
    fs::create_dir_all(&app).unwrap();
    fs::write(app.join("version"), "1").unwrap();
    units.write_service("ExecStart=/bin/sleep 86401");
    let host = host(&units, &format!("[{{tree: {}}}]", app.display()), "systemd");
    host.set_up().await;
    assert_eq!(host.problems().await, []);
    done(&host, order::Verb::Start, "", &Before::Nothing).await;
    let first = taken(&host, "v1").await;

    let drop_in = etc(&format!("{}.d", units.service()));
    fs::write(app.join("version"), "2").unwrap();
    units.write_service("ExecStart=/bin/sleep 86402");
    fs::create_dir(&drop_in).unwrap();
    fs::write(drop_in.join("10-env.conf"), "[Service]\nEnvironment=SECOND=1\n").unwrap();
    systemctl(&["daemon-reload"]);
    systemctl(&["restart", &units.service()]);
    let second = taken(&host, "v2").await;
    assert_ne!(first, second);

    for (from, to, seconds, has_drop_in) in
        [(&second, &first, "86401", false), (&first, &second, "86402", true)]
    {
        done(&host, order::Verb::Preflight, to, &Before::Nothing).await;
        done(&host, order::Verb::Stage, to, &Before::Nothing).await;
        done(&host, order::Verb::Stop, "", &Before::Nothing).await;
        done(&host, order::Verb::Switch, to, &Before::Live(from.clone())).await;
        done(&host, order::Verb::Start, "", &Before::Nothing).await;
        done(&host, order::Verb::Verify, to, &Before::Nothing).await;
        assert_eq!(drop_in.exists(), has_drop_in);
        let pid = main_pid(&status(&units.service()).await.unwrap());
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap();
        assert!(String::from_utf8(read("cmdline")).unwrap().contains(seconds));
        assert_eq!(String::from_utf8(read("environ")).unwrap().contains("SECOND"), has_drop_in);
    }
    done(&host, order::Verb::Stop, "", &Before::Nothing).await;
    fs::remove_dir_all("/etc/systemd/system/.lastgood").unwrap();
}

/// A host with one component `app` whose one service `driver` runs.
pub(in crate::drivers) fn host(units: &Units, files: &str, driver: &str) -> Arc<Host> {
    let text = format!(
        "version: 1\nfleet: prod\nhost: a\ncomponents:\n  app:\n    files: {files}\n    services: [{{name: app, {driver}: \
         {}}}]\n    ready_within: 5s\n    stable_for: 100ms\n",
        units.service()
    );
    // An error only says that another test was first.
    rustls::crypto::ring::default_provider().install_default().ok();
    let policy = Policy::parse(&text).unwrap();
    let state = units.root.path().join("state");
    Arc::new(Host::open(&policy, String::new(), &state).unwrap())
}

pub(in crate::drivers) fn step(verb: order::Verb, snapshot: &str) -> Step {
    Step {
        verb,
        component: "app".to_owned(),
        release: String::new(),
        snapshot: snapshot.to_owned(),
        deadline_ms: 60_000,
        hook: String::new(),
        across_migrations: false,
        weights: None,
        artefact: None,
        at_once: false,
        forward: false,
    }
}

pub(in crate::drivers) async fn done(
    host: &Host,
    verb: order::Verb,
    snapshot: &str,
    before: &Before,
) {
    let result = host.perform(&step(verb, snapshot), before).await;
    assert!(result.ok, "{verb}: {}", result.detail);
}

/// Takes a snapshot; answers its hash.
pub(in crate::drivers) async fn taken(host: &Host, release: &str) -> String {
    let step = Step { release: release.to_owned(), ..step(order::Verb::Snapshot, "") };
    let result = host.perform(&step, &Before::Nothing).await;
    assert!(result.ok, "{}", result.detail);
    result.evidence.unwrap().snapshot.unwrap()
}
