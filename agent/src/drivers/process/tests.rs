//! The driver on real processes.
//!
//! Invariant: a test ends every process that carries its own mark, however it ends itself.

use std::{collections::BTreeMap, fs, path::PathBuf};

use rustix::process::{Signal, geteuid};
use tempfile::TempDir;
use tokio::time::sleep;

use super::{
    state::{Desired, Record},
    *,
};
use crate::{
    drivers::{self, conformance},
    exec::proc::{Identity, Proc},
};

/// Longer than anything here takes: a test that gets there has failed.
const LONG: Duration = Duration::from_secs(30);

/// A component's place on a host: state, hold, and somewhere for scripts.
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
        Self { directory, context }
    }

    fn policy(&self, command: &[&str]) -> ProcessPolicy {
        ProcessPolicy {
            command: command.iter().map(|part| (*part).to_owned()).collect(),
            directory: self.directory.path().to_owned(),
            environment: BTreeMap::from([("PATH".to_owned(), exec::PATH.to_owned())]),
            user: None,
        }
    }

    fn driver(&self, command: &[&str]) -> ProcessDriver {
        ProcessDriver::build("web", &self.policy(command), &self.context).unwrap()
    }

    fn script(&self, script: &str) -> ProcessDriver {
        self.driver(&["/bin/sh", "-c", script])
    }

    fn record_path(&self) -> PathBuf {
        self.context.state_dir.join("process/crm.web.json")
    }

    fn record(&self) -> Record {
        state::load(&self.record_path()).unwrap().unwrap()
    }

    /// What is alive of the service.
    fn alive(&self) -> Vec<Proc> {
        let mark = Mark::new("crm.web", &self.context.state_dir).unwrap();
        let entries: Vec<_> =
            mark.variables().iter().map(|(key, value)| format!("{key}={value}")).collect();
        let all = Proc::all().unwrap();
        all.into_iter().filter(|proc| proc.alive && proc.has_in_environment(&entries)).collect()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for proc in self.alive() {
            proc.signal(Signal::KILL).unwrap();
        }
    }
}

fn soon() -> Instant {
    Instant::now() + LONG
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = soon();
    while !holds().await {
        assert!(Instant::now() < end, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// The process that runs, where one does.
async fn process(driver: &ProcessDriver) -> Option<Identity> {
    match driver.status().await.unwrap().identity? {
        drivers::Identity::Process(process) => Some(process),
        drivers::Identity::Run(run) => panic!("{run} is no process"),
    }
}

async fn identity(driver: &ProcessDriver) -> Identity {
    process(driver).await.expect("it runs")
}

/// Waits until another process than `before` runs.
async fn next_identity(driver: &ProcessDriver, before: &Identity) -> Identity {
    let mut now = None;
    eventually("it is restarted", async || {
        now = process(driver).await;
        now.as_ref().is_some_and(|now| now != before)
    })
    .await;
    now.unwrap()
}

fn kill(identity: &Identity) {
    identity.look().unwrap().signal(Signal::KILL).unwrap();
}

/// Deaf to TERM, with a child that is too and one that left the group.
const STUBBORN: &str =
    "trap '' TERM; (sleep 600; :) & setsid sleep 600 & echo up; while :; do sleep 600; done";

#[tokio::test]
async fn it_conforms() {
    let bed = Bed::new();
    let leftovers = || bed.alive().iter().map(|proc| format!("pid {}", proc.pid)).collect();
    conformance::check(&bed.driver(&["/bin/sleep", "600"]), &leftovers).await.unwrap();
}

#[tokio::test]
async fn it_conforms_with_a_service_that_leaves_its_group_alone() {
    let bed = Bed::new();
    let leftovers = || bed.alive().iter().map(|proc| format!("pid {}", proc.pid)).collect();
    let driver = bed.script("sleep 600 & setsid sleep 600 & wait");
    conformance::check(&driver, &leftovers).await.unwrap();
}

#[tokio::test]
async fn one_that_ignores_term_is_killed_with_all_that_it_started() {
    let bed = Bed::new();
    let driver = bed.script(STUBBORN);
    driver.start(soon()).await.unwrap();
    eventually("all of it runs", async || bed.alive().len() >= 4).await;
    driver.stop(Duration::from_millis(50), soon()).await.unwrap();
    assert_eq!(bed.alive(), []);
    assert!(!driver.status().await.unwrap().running);
}

#[tokio::test]
async fn one_that_ends_at_term_may_finish_first() {
    let bed = Bed::new();
    let driver = bed.script(
        "trap 'sleep 0.1; echo finished; exit 0' TERM; echo up; while :; do sleep 0.05; done",
    );
    driver.start(soon()).await.unwrap();
    eventually("it listens", async || !driver.last_log_lines(1).await.is_empty()).await;
    driver.stop(LONG, soon()).await.unwrap();
    assert_eq!(driver.last_log_lines(1).await, ["finished"]);
    let detail = driver.status().await.unwrap().detail;
    assert_eq!(detail, "stopped; before that: exit 0");
}

#[tokio::test]
async fn a_group_whose_leader_died_is_ended_before_the_next_start() {
    let bed = Bed::new();
    // The child's environment is empty, so that only its group tells whose it is.
    let driver = bed.script("env -i sleep 600 & echo $!; wait");
    driver.start(soon()).await.unwrap();
    eventually("its child runs", async || !driver.last_log_lines(1).await.is_empty()).await;
    let child: i32 = driver.last_log_lines(1).await[0].parse().unwrap();
    let leader = identity(&driver).await;
    assert_eq!(Proc::read(child).unwrap().group, leader.pid);
    kill(&leader);
    next_identity(&driver, &leader).await;
    assert!(Proc::read(child).is_none_or(|proc| !proc.alive));
    // A stop finds it by its group too.
    eventually("the next child runs", async || {
        driver.last_log_lines(1).await != [child.to_string()]
    })
    .await;
    let next: i32 = driver.last_log_lines(1).await[0].parse().unwrap();
    driver.stop(LONG, soon()).await.unwrap();
    assert!(Proc::read(next).is_none_or(|proc| !proc.alive));
}

#[tokio::test]
async fn one_that_dies_is_started_again_and_counted() {
    let bed = Bed::new();
    let driver = bed.driver(&["/bin/sleep", "600"]);
    driver.start(soon()).await.unwrap();
    let mut before = identity(&driver).await;
    for restarts in 1..=2 {
        kill(&before);
        before = next_identity(&driver, &before).await;
        let state = driver.status().await.unwrap();
        assert_eq!(state.restarts, restarts);
        assert!(state.detail.contains("killed by signal 9"), "{}", state.detail);
    }
    assert_eq!(bed.record().process, Some(before));
    driver.stop(LONG, soon()).await.unwrap();
    driver.start(soon()).await.unwrap();
    assert_eq!(driver.status().await.unwrap().restarts, 0, "an ordered start counts anew");
}

#[tokio::test]
async fn a_stop_outruns_the_next_restart() {
    let bed = Bed::new();
    let driver = bed.driver(&["/bin/false"]);
    driver.start(soon()).await.unwrap();
    eventually("it died twice", async || driver.status().await.unwrap().restarts >= 2).await;
    driver.stop(LONG, soon()).await.unwrap();
    let state = driver.status().await.unwrap();
    assert_eq!((state.running, state.detail.as_str()), (false, "stopped; before that: exit 1"));
    assert_eq!(bed.record().desired, Desired::Stopped);
}

#[tokio::test]
async fn nothing_starts_while_it_is_held() {
    let bed = Bed::new();
    fs::write(&bed.context.hold_path, "").unwrap();
    let driver = bed.driver(&["/bin/sleep", "600"]);
    let late = driver.start(Instant::now() + Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(&late, DriverError::TimedOut(words) if words.contains("held: ")), "{late}");
    assert_eq!(bed.alive(), []);
    fs::remove_file(&bed.context.hold_path).unwrap();
    eventually("it is started", async || driver.status().await.unwrap().running).await;
}

#[tokio::test]
async fn one_that_dies_while_it_is_held_stays_down_until_the_hold_is_lifted() {
    let bed = Bed::new();
    let driver = bed.driver(&["/bin/sleep", "600"]);
    driver.start(soon()).await.unwrap();
    let before = identity(&driver).await;
    fs::write(&bed.context.hold_path, "").unwrap();
    kill(&before);
    eventually("it is held", async || driver.status().await.unwrap().detail.contains("held: "))
        .await;
    assert_eq!(bed.alive(), []);
    // The same for an agent that comes back: it wants the service, and the hold forbids it.
    drop(driver);
    let driver = bed.driver(&["/bin/sleep", "600"]);
    eventually("it is held", async || driver.status().await.unwrap().detail.contains("held: "))
        .await;
    assert_eq!(bed.alive(), []);
    fs::remove_file(&bed.context.hold_path).unwrap();
    eventually("it is started", async || driver.status().await.unwrap().running).await;
}

#[tokio::test]
async fn a_held_start_ends_with_the_stop_that_comes_after_it() {
    let bed = Bed::new();
    fs::write(&bed.context.hold_path, "").unwrap();
    let driver = bed.driver(&["/bin/sleep", "600"]);
    let (started, stopped) = tokio::join!(driver.start(soon()), async {
        eventually("it is held", async || driver.status().await.unwrap().detail.contains("held: "))
            .await;
        driver.stop(LONG, soon()).await
    });
    assert!(matches!(started, Err(DriverError::Permanent(_))), "{started:?}");
    stopped.unwrap();
}

#[tokio::test]
async fn an_agent_that_comes_back_finds_its_process_again() {
    let bed = Bed::new();
    let driver = bed.driver(&["/bin/sleep", "600"]);
    driver.start(soon()).await.unwrap();
    let first = identity(&driver).await;
    drop(driver);

    let driver = bed.driver(&["/bin/sleep", "600"]);
    assert_eq!(identity(&driver).await, first);
    driver.start(soon()).await.unwrap();
    assert_eq!(identity(&driver).await, first, "a second copy was started");
    assert_eq!(bed.alive().len(), 1);

    kill(&first);
    next_identity(&driver, &first).await;
    assert_eq!(driver.status().await.unwrap().restarts, 1);
    drop(driver);

    let driver = bed.driver(&["/bin/sleep", "600"]);
    driver.stop(LONG, soon()).await.unwrap();
    assert_eq!(bed.alive(), []);
}

#[tokio::test]
async fn one_that_died_while_no_agent_ran_is_started_again() {
    let bed = Bed::new();
    let driver = bed.driver(&["/bin/sleep", "600"]);
    driver.start(soon()).await.unwrap();
    let first = identity(&driver).await;
    drop(driver);
    kill(&first);
    let driver = bed.driver(&["/bin/sleep", "600"]);
    next_identity(&driver, &first).await;
}

#[tokio::test]
async fn p02_a_process_whose_pid_was_never_written_is_found_and_not_started_twice() {
    let bed = Bed::new();
    let driver = bed.driver(&["/bin/sleep", "600"]);
    driver.start(soon()).await.unwrap();
    let first = identity(&driver).await;
    drop(driver);
    // As a crash between the spawn and the writing of the pid leaves it.
    state::save(&bed.record_path(), &Record::new(Desired::Running)).unwrap();
    let driver = bed.driver(&["/bin/sleep", "600"]);
    assert_eq!(identity(&driver).await, first);
    assert_eq!(bed.record().process, Some(first));
    assert_eq!(bed.alive().len(), 1);
}

#[tokio::test]
async fn p08_a_damaged_record_is_not_used() {
    let bed = Bed::new();
    let driver = bed.driver(&["/bin/sleep", "600"]);
    driver.start(soon()).await.unwrap();
    let first = identity(&driver).await;
    drop(driver);
    fs::write(bed.record_path(), "{\"desired\":\"stopp").unwrap();
    let driver = bed.driver(&["/bin/sleep", "600"]);
    assert_eq!(identity(&driver).await, first);
    assert_eq!(bed.record().desired, Desired::Running);
    driver.stop(LONG, soon()).await.unwrap();
    drop(driver);
    fs::write(bed.record_path(), "").unwrap();
    let driver = bed.driver(&["/bin/sleep", "600"]);
    assert!(!driver.status().await.unwrap().running);
    assert_eq!(bed.alive(), []);
}

#[tokio::test]
async fn a_stranger_with_the_recorded_pid_is_left_alone() {
    let bed = Bed::new();
    let mut stranger = std::process::Command::new("/bin/sleep").arg("600").spawn().unwrap();
    let theirs = Identity::of(i32::try_from(stranger.id()).unwrap()).unwrap().unwrap();
    let reused = Identity { start_time: theirs.start_time + 1, ..theirs.clone() };
    let rebooted = Identity { boot_id: "an earlier boot".to_owned(), ..theirs.clone() };
    for recorded in [reused, rebooted] {
        fs::create_dir_all(bed.record_path().parent().unwrap()).unwrap();
        let record = Record { process: Some(recorded), ..Record::new(Desired::Running) };
        state::save(&bed.record_path(), &record).unwrap();
        let driver = bed.driver(&["/bin/sleep", "600"]);
        eventually("our own runs", async || driver.status().await.unwrap().running).await;
        assert_ne!(identity(&driver).await.pid, theirs.pid);
        driver.stop(Duration::ZERO, soon()).await.unwrap();
        assert!(theirs.is_alive(), "a stranger was killed");
    }
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn what_cannot_start_says_why_and_does_not_start_later() {
    let bed = Bed::new();
    let driver = bed.driver(&["/no/such/program"]);
    let error = driver.start(soon()).await.unwrap_err();
    let DriverError::Permanent(words) = &error else { panic!("{error:?}") };
    assert!(words.contains("`/no/such/program`") && words.contains("No such file"), "{words}");
    assert_eq!(bed.record().desired, Desired::Stopped);
    let state = driver.status().await.unwrap();
    assert!(!state.running && state.detail.contains("No such file"), "{state:?}");
}

#[tokio::test]
async fn an_unknown_user_is_refused_at_the_door_and_at_the_start() {
    let bed = Bed::new();
    let policy =
        ProcessPolicy { user: Some("no-such-user".into()), ..bed.policy(&["/bin/sleep", "1"]) };
    assert!(ProcessDriver::refusal(&policy).unwrap().contains("no-such-user"));
    assert_eq!(ProcessDriver::refusal(&bed.policy(&["/bin/sleep", "1"])), None);
    let driver = ProcessDriver::build("web", &policy, &bed.context).unwrap();
    assert!(matches!(driver.start(soon()).await, Err(DriverError::Permanent(_))));
}

#[tokio::test]
async fn it_runs_with_its_own_environment_directory_and_user_and_its_words_are_kept() {
    let bed = Bed::new();
    let mut policy = bed.policy(&[
        "/bin/sh",
        "-c",
        "env | cut -d= -f1 | sort; id -un; echo words >&2; sleep 600",
    ]);
    policy.environment.insert("GIVEN".into(), "yes".into());
    policy.directory = PathBuf::from("/");
    let user = if geteuid().is_root() { "nobody" } else { "root" };
    policy.user = geteuid().is_root().then(|| user.to_owned());
    let driver = ProcessDriver::build("web", &policy, &bed.context).unwrap();
    driver.start(soon()).await.unwrap();
    eventually("it spoke", async || driver.last_log_lines(1).await == ["words"]).await;
    let lines = driver.last_log_lines(20).await;
    assert_eq!(lines[..4], ["GIVEN", "LASTGOOD_SERVICE", "LASTGOOD_STATE", "PATH"]);
    if geteuid().is_root() {
        assert_eq!(lines[lines.len() - 2], user);
    }
}

#[tokio::test]
async fn our_own_variables_cannot_be_declared() {
    let bed = Bed::new();
    let mut policy = bed.policy(&["/bin/sleep", "1"]);
    policy.environment.insert("LASTGOOD_STATE".into(), "x".into());
    let refused = ProcessDriver::build("web", &policy, &bed.context);
    assert!(matches!(refused, Err(SetUpError::OwnVariable(_))));
}

#[test]
fn no_name_leaves_its_directory_or_meets_another() {
    assert_eq!(file_name("web-1_a"), "web-1_a");
    assert_eq!(file_name("../x"), "%2E%2E%2Fx");
    assert_ne!(file_name("a.b"), file_name("a%2Eb"));
}

/// Where the agent of [`services_outlive_an_agent_that_is_killed`] finds its bed.
const AGENT_STATE: &str = "LASTGOOD_TEST_STATE";

#[tokio::test]
async fn services_outlive_an_agent_that_is_killed() {
    let bed = Bed::new();
    let mut agent = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "drivers::process::tests::an_agent_to_be_killed"])
        .env(AGENT_STATE, &bed.context.state_dir)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("its pid is recorded", async || {
        state::load(&bed.record_path())
            .is_ok_and(|record| record.is_some_and(|it| it.process.is_some()))
    })
    .await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    let process = bed.record().process.unwrap();
    assert!(process.is_alive());

    let driver = bed.driver(&["/bin/sleep", "600"]);
    assert_eq!(identity(&driver).await, process);
    kill(&process);
    let next = next_identity(&driver, &process).await;
    driver.stop(LONG, soon()).await.unwrap();
    assert!(!next.is_alive());
    assert_eq!(bed.alive(), []);
}

#[tokio::test]
#[ignore = "it is the agent of `services_outlive_an_agent_that_is_killed`"]
async fn an_agent_to_be_killed() {
    let state_dir = PathBuf::from(std::env::var_os(AGENT_STATE).expect("run by the other test"));
    let context = Context {
        component: "crm".into(),
        hold_path: state_dir.join("hold"),
        state_dir,
        autostart: false,
    };
    let policy = ProcessPolicy {
        command: vec!["/bin/sleep".into(), "600".into()],
        directory: "/".into(),
        environment: BTreeMap::new(),
        user: None,
    };
    let driver = ProcessDriver::build("web", &policy, &context).unwrap();
    driver.start(soon()).await.unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_service_that_was_never_ordered_anything_starts_where_the_agent_is_its_supervisor() {
    let mut bed = Bed::new();
    bed.context.autostart = true;
    let driver = bed.driver(&["/bin/sleep", "600"]);
    eventually("it runs", async || driver.status().await.unwrap().running).await;
    driver.stop(Duration::from_secs(1), soon()).await.unwrap();
    drop(driver);
    let again = bed.driver(&["/bin/sleep", "600"]);
    assert!(!again.status().await.unwrap().running, "a stop by order outlives the agent");
}
