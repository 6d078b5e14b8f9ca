//! The dead-man over the real core, ledger file and worker, on a host in memory; its time passes as fast as it can.
//!
//! Invariant: a kill drops every task of the agent at once; the host in memory and the ledger on disk stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::*;
use crate::{
    core::{Core, CoreHandle, Report},
    drivers::Doing,
    hands::{About, Hands},
    ledger::{Found, LedgerFile, StepResult},
    local::{self, Import, Imported, Shape},
    order::{Before, Evidence, Fence, Goal, OnFailure, Order, Origin},
    retention,
    status::{ComponentStatus, HostStatus, ServiceStatus, Snapshot},
};

const CRM: &str = "crm";
const JOBS: &str = "jobs";
const LASTING: Duration = Duration::from_secs(60);
const READY: Duration = Duration::from_secs(8);
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(3600);

fn hash(release: &str) -> String {
    crate::store::Hash::of(release.as_bytes()).to_string()
}

/// A host in memory.
struct Machine {
    state: Mutex<State>,
    begun: Instant,
    lease: Lease,
}

#[derive(Clone, Debug)]
struct State {
    /// Snapshot and whether it runs, by component.
    parts: BTreeMap<String, (String, bool)>,
    /// Snapshots that do not hold; their verify passes all the same.
    bad: BTreeSet<String>,
    /// Steps of this verb to this snapshot fail.
    fails: Option<(Verb, String)>,
    done: Vec<String>,
    /// Grows with each agent: what a dead one began does not happen.
    life: u64,
    boot: u64,
    booted: Duration,
    /// How far ahead wall time is.
    wall_ms: i64,
}

impl Machine {
    fn new(components: &[&str], wants_coordinator: bool) -> Arc<Self> {
        let part = |name: &&str| ((*name).to_owned(), (hash("v1"), true));
        let state = State {
            parts: components.iter().map(part).collect(),
            bad: BTreeSet::new(),
            fails: None,
            done: Vec::new(),
            life: 0,
            boot: 1,
            booted: Duration::ZERO,
            wall_ms: 0,
        };
        let lease = Lease { lasting: LASTING, wants_coordinator, ready_within: READY };
        Arc::new(Self { state: Mutex::new(state), begun: Instant::now(), lease })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn breaks(&self, release: &str) {
        self.lock().bad.insert(hash(release));
    }

    fn mends(&self, release: &str) {
        self.lock().bad.remove(&hash(release));
    }

    /// Everything starts anew, as at a boot: what is enabled runs.
    fn reboot(&self) {
        let mut state = self.lock();
        state.boot += 1;
        state.booted = self.begun.elapsed();
        state.parts.values_mut().for_each(|(_, runs)| *runs = true);
    }

    /// Whether every component runs on this release.
    fn is_on(&self, release: &str) -> bool {
        let wanted = (hash(release), true);
        self.lock().parts.values().all(|part| *part == wanted)
    }

    /// How often something was switched to a release.
    fn switches(&self, release: &str) -> usize {
        let wanted = format!("switch {CRM} {}", hash(release));
        self.lock().done.iter().filter(|done| **done == wanted).count()
    }

    fn act(&self, step: &Step, to: &str, runs: Option<bool>) {
        let mut state = self.lock();
        let part = state.parts.get_mut(&step.component).expect("a component of this host");
        match step.verb {
            Verb::Switch => {
                // What a boot started again is stopped again.
                *part = (to.to_owned(), false);
            }
            Verb::Stop => part.1 = runs.unwrap_or(false),
            Verb::Start => part.1 = runs.unwrap_or(true),
            Verb::Preflight
            | Verb::Snapshot
            | Verb::Stage
            | Verb::Verify
            | Verb::Discard
            | Verb::Check
            | Verb::Reload
            | Verb::Hook
            | Verb::Fetch
            | Verb::SetWeights
            | Verb::Drain => {}
        }
        state.done.push(format!("{} {} {to}", step.verb, step.component));
    }
}

impl Hands for Machine {
    fn forbidden(&self, step: &Step) -> Option<String> {
        let known = self.lock().parts.contains_key(&step.component);
        (!known).then(|| format!("component `{}` is not in this host's policy", step.component))
    }

    fn look<'a>(&'a self, step: &'a Step, _: Option<String>) -> Doing<'a, Result<Before, String>> {
        Box::pin(async move {
            let (live, runs) = self.lock().parts[&step.component].clone();
            let running = if runs { vec!["app".to_owned()] } else { Vec::new() };
            Ok(match step.verb {
                Verb::Stop | Verb::Start => Before::Running(running),
                Verb::Switch => Before::Live(live),
                Verb::Preflight
                | Verb::Snapshot
                | Verb::Stage
                | Verb::Verify
                | Verb::Discard
                | Verb::Check
                | Verb::Reload
                | Verb::Hook
                | Verb::Fetch
                | Verb::SetWeights
                | Verb::Drain => Before::Nothing,
            })
        })
    }

    fn perform<'a>(&'a self, step: &'a Step, _: &'a Before) -> Doing<'a, StepResult> {
        Box::pin(async move {
            let life = self.lock().life;
            sleep(Duration::from_millis(500)).await;
            if self.lock().life != life {
                return std::future::pending().await;
            }
            let fails = self.lock().fails.clone();
            let ok = fails.is_none_or(|(verb, to)| verb != step.verb || to != step.snapshot);
            if ok {
                self.act(step, &step.snapshot, None);
            }
            sleep(Duration::from_millis(500)).await;
            let evidence = Evidence { component: step.component.clone(), ..Evidence::default() };
            let detail = if ok { "" } else { "the test says no" };
            StepResult { ok, detail: detail.to_owned(), duration_ms: 1, evidence: Some(evidence) }
        })
    }

    fn observe<'a>(
        &'a self,
        step: &'a Step,
        before: &'a Before,
        undo: bool,
    ) -> Doing<'a, (Found, Option<Evidence>)> {
        Box::pin(async move {
            let (live, runs) = self.lock().parts[&step.component].clone();
            let done = match (step.verb, before, undo) {
                (Verb::Switch, Before::Live(from), true) => live == *from,
                (Verb::Switch, _, _) => live == step.snapshot,
                (Verb::Stop, _, false) | (Verb::Start, _, true) => !runs,
                (Verb::Start, _, false) | (Verb::Stop, _, true) => runs,
                _ => false,
            };
            (if done { Found::Done } else { Found::NotDone }, None)
        })
    }

    fn undo<'a>(&'a self, step: &'a Step, before: &'a Before) -> Doing<'a, StepResult> {
        Box::pin(async move {
            match before {
                Before::Live(from) => self.act(step, from, None),
                Before::Running(running) => self.act(step, "undo", Some(!running.is_empty())),
                Before::Nothing | Before::Weights(_) => {}
            }
            StepResult { ok: true, detail: String::new(), duration_ms: 1, evidence: None }
        })
    }

    fn status(&self) -> Doing<'_, HostStatus> {
        Box::pin(async move {
            let state = self.lock().clone();
            let row = |(name, (live, running)): (&String, &(String, bool))| ComponentStatus {
                component: name.clone(),
                snapshot: live.clone(),
                services: vec![ServiceStatus { running: *running, ..ServiceStatus::default() }],
                ..ComponentStatus::default()
            };
            let snapshots = state.parts.keys().map(|name| Snapshot {
                component: name.clone(),
                exact: hash("v1"),
                release: "v1".to_owned(),
                ..Snapshot::default()
            });
            HostStatus {
                components: state.parts.iter().map(row).collect(),
                snapshots: snapshots.collect(),
                ..HostStatus::default()
            }
        })
    }

    fn lease(&self, component: &str) -> Option<Lease> {
        // Only one of them has a lease: they go back together all the same.
        (component == CRM).then_some(self.lease)
    }

    fn holds<'a>(&'a self, component: &'a str, snapshot: &'a str) -> Doing<'a, Result<(), String>> {
        Box::pin(async move {
            let state = self.lock();
            let (live, runs) = &state.parts[component];
            assert_eq!((live.as_str(), *runs), (snapshot, true), "it is looked at as it is");
            if state.bad.contains(live) { Err("check `health`: 500".to_owned()) } else { Ok(()) }
        })
    }

    fn moment(&self) -> Moment {
        let state = self.lock();
        let now = self.begun.elapsed();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap();
        Moment {
            boot: format!("boot-{}", state.boot),
            since_boot_ms: ms(now - state.booted),
            unix_ms: i64::try_from(ms(now)).unwrap() + state.wall_ms,
        }
    }

    fn about(&self) -> About {
        let shape = |name: &String| Shape {
            name: name.clone(),
            reloads: false,
            stop_within_ms: 1,
            ready_within_ms: 1,
            stable_for_ms: 0,
            hooks: Vec::new(),
        };
        About { host: "h1".to_owned(), shapes: self.lock().parts.keys().map(shape).collect() }
    }

    fn import<'a>(&'a self, _: &'a Import) -> Doing<'a, Result<Imported, String>> {
        Box::pin(async { Err("it has no files".to_owned()) })
    }

    fn prune<'a>(&'a self, _: &'a retention::Ask) -> Doing<'a, Result<retention::Report, String>> {
        Box::pin(async { Ok(retention::Report::default()) })
    }
}

/// A running agent.
struct Running {
    core: CoreHandle,
    tasks: Vec<JoinHandle<()>>,
    machine: Arc<Machine>,
}

impl Running {
    fn start(state: &Path, machine: &Arc<Machine>) -> Self {
        let (file, ledger) = LedgerFile::open(state).expect("nobody holds the ledger");
        let (core, handle) = Core::new(file, ledger, machine.clone());
        let leases = Leases { hands: machine.clone(), core: handle.clone() };
        let core = tokio::spawn(async move { core.run().await.expect("a ledger that is written") });
        let tasks = vec![core, tokio::spawn(leases.run())];
        Self { core: handle, tasks, machine: machine.clone() }
    }

    async fn kill(self) {
        self.machine.lock().life += 1;
        for task in self.tasks {
            task.abort();
            drop(task.await);
        }
    }

    fn ledger(&self) -> Arc<Ledger> {
        self.core.ledger().borrow().clone()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Ledger) -> bool) {
        let mut ledger = self.core.ledger();
        let waited = tokio::time::timeout(PATIENCE, ledger.wait_for(|ledger| holds(ledger))).await;
        drop(waited.unwrap_or_else(|_| panic!("waited in vain for: {what}")).expect("a core"));
    }

    /// Orders, and waits for the end.
    async fn order(&self, order: Order) -> End {
        let key = order.key.clone();
        assert!(self.core.order(order).await);
        let ending = |ledger: &Ledger| ledger.tracks.get(&key)?.ending.clone();
        self.until("an end", |ledger| ending(ledger).is_some()).await;
        ending(&self.ledger()).expect("it was seen").end
    }

    async fn welcome(&self, epoch: u64) -> mpsc::Receiver<Report> {
        let (reports, reported) = mpsc::channel(1024);
        let term = Fence { epoch, instance: "one".to_owned(), sequence: 0 };
        self.core.welcomed(term, reports).await.expect("a core").expect("it has a say");
        reported
    }
}

fn is_idle(ledger: &Ledger) -> bool {
    ledger.open().is_none() && ledger.trials().all(|(_, trial, _)| trial.over.is_some())
}

fn order(operation: &str, sequence: u64, components: &[&str], to: &str, forward: bool) -> Order {
    let step = |verb: Verb, component: &str| Step {
        verb,
        component: component.to_owned(),
        release: to.to_owned(),
        snapshot: hash(to),
        deadline_ms: 1_000,
        hook: String::new(),
        across_migrations: false,
        weights: None,
        artefact: None,
        at_once: false,
        forward: forward && verb == Verb::Switch,
    };
    let verbs = [Verb::Stop, Verb::Switch, Verb::Start, Verb::Verify];
    let steps = verbs.iter().flat_map(|verb| components.iter().map(|name| step(*verb, name)));
    Order {
        key: TrackKey { operation: operation.to_owned(), stage: 0 },
        attempt: 1,
        plan_hash: "p".to_owned(),
        fence: Fence { epoch: 1, instance: "one".to_owned(), sequence },
        goal: Goal::Forward,
        steps: steps.collect(),
        on_failure: OnFailure::Restore,
        traceparent: String::new(),
        taken: None,
        origin: Origin::Coordinator,
        after: String::new(),
    }
}

fn deploy(operation: &str, sequence: u64, to: &str) -> Order {
    order(operation, sequence, &[CRM], to, true)
}

fn left(ledger: &Ledger, machine: &Machine) -> Option<Duration> {
    let (_, trial, _) = ledger.trials().find(|(_, trial, _)| trial.over.is_none())?;
    Some(Duration::from_millis(trial.left_ms(&machine.moment())))
}

/// A host after a deploy of v2 that ended well.
async fn deployed(state: &Path, machine: &Arc<Machine>) -> Running {
    let agent = Running::start(state, machine);
    assert_eq!(agent.order(deploy("dp-0007", 1, "v2")).await, End::Done);
    assert!(machine.is_on("v2") && left(&agent.ledger(), machine).is_some());
    agent
}

#[tokio::test(start_paused = true)]
async fn a_release_that_holds_is_kept_and_nothing_more_happens() {
    let (state, machine) = (tempfile::tempdir().unwrap(), Machine::new(&[CRM], false));
    let agent = deployed(state.path(), &machine).await;
    let key = deploy("dp-0007", 1, "v2").key;
    assert!(until_unix_ms(&agent.ledger(), CRM, &machine.moment()).is_some());
    let begun = Instant::now();
    agent.until("it is over", is_idle).await;
    assert!(begun.elapsed() > LASTING - Duration::from_secs(5) && begun.elapsed() < LASTING);
    let ledger = agent.ledger();
    assert!(machine.is_on("v2") && local::operations(&ledger).is_empty());
    assert_eq!((ledger.on_trial(&key), problems(&ledger, CRM)), (None, Vec::new()));
    assert_eq!(until_unix_ms(&ledger, CRM, &machine.moment()), None);
    // Later it fails: that is not the lease's any more.
    machine.breaks("v2");
    sleep(PATIENCE).await;
    assert!(machine.is_on("v2"));
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_for_ready_within_goes_back_by_a_local_operation() {
    let (state, machine) = (tempfile::tempdir().unwrap(), Machine::new(&[CRM, JOBS], false));
    let agent = Running::start(state.path(), &machine);
    let both = order("dp-0007", 1, &[JOBS, CRM], "v2", true);
    assert_eq!(agent.order(both).await, End::Done);
    machine.breaks("v2");
    let begun = Instant::now();
    agent.until("it went back", is_idle).await;
    assert!(begun.elapsed() >= READY && begun.elapsed() < LASTING / 2, "{:?}", begun.elapsed());
    assert!(machine.is_on("v1"), "both components: {:?}", machine.lock());
    let ledger = agent.ledger();
    let [row] = &local::operations(&ledger)[..] else { panic!("{ledger:?}") };
    assert_eq!((row.made.by.as_str(), row.made.release.as_str()), ("the lease of dp-0007", "v1"));
    assert_eq!(row.ending.as_ref().unwrap().end, End::Done);
    let [problem] = &problems(&ledger, CRM)[..] else { panic!("it is told") };
    let words = format!(
        "v2 did not hold (crm: check `health`: 500); the lease of dp-0007 took it back by {}",
        row.made.operation
    );
    assert_eq!(problem.what, words);
    // Nothing that was planned before holds here; what is planned after does.
    let fence = ledger.fence().unwrap().clone();
    assert!(fence.sequence > 1);
    agent.kill().await;
    let agent = Running::start(state.path(), &machine);
    assert_eq!(agent.ledger().trials, ledger.trials);
    let mut next = order("rb-0008", fence.sequence + 1, &[JOBS, CRM], "v0", false);
    next.after = row.made.operation.clone();
    assert_eq!(agent.order(next).await, End::Done);
    assert!(machine.is_on("v0") && problems(&agent.ledger(), CRM).is_empty());
    assert!(is_idle(&agent.ledger()), "a rollback is on no trial");
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_when_the_time_is_over_goes_back_then() {
    let (state, machine) = (tempfile::tempdir().unwrap(), Machine::new(&[CRM], false));
    let agent = deployed(state.path(), &machine).await;
    // It fails now and then, never for long.
    while left(&agent.ledger(), &machine).is_some_and(|left| left > READY / 2) {
        machine.breaks("v2");
        sleep(READY / 2).await;
        machine.mends("v2");
        sleep(READY / 2).await;
        assert!(machine.is_on("v2"));
    }
    machine.breaks("v2");
    agent.until("it went back", is_idle).await;
    assert!(machine.is_on("v1"));
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_is_away_is_no_reason_but_where_the_policy_says_so() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Seen {
        Never,
        Welcomed,
        UpAllTheTime,
        /// Its session was up at the switch, and no other came.
        LostAfter,
    }
    for (wants, seen, wanted) in [
        (false, Seen::Never, "v2"),
        (false, Seen::LostAfter, "v2"),
        (true, Seen::Never, "v1"),
        (true, Seen::LostAfter, "v1"),
        (true, Seen::Welcomed, "v2"),
        (true, Seen::UpAllTheTime, "v2"),
    ] {
        let (state, machine) = (tempfile::tempdir().unwrap(), Machine::new(&[CRM], wants));
        let agent = Running::start(state.path(), &machine);
        let session = match seen {
            Seen::UpAllTheTime | Seen::LostAfter => Some(agent.welcome(1).await),
            Seen::Never | Seen::Welcomed => None,
        };
        assert_eq!(agent.order(deploy("dp-0007", 1, "v2")).await, End::Done);
        let up = session.filter(|_| seen == Seen::UpAllTheTime);
        if seen == Seen::Welcomed {
            drop(agent.welcome(1).await);
        }
        // It counts after a restart, too.
        agent.kill().await;
        let agent = Running::start(state.path(), &machine);
        let again = match up {
            Some(_) => Some(agent.welcome(1).await),
            None => None,
        };
        agent.until("it is over", is_idle).await;
        drop(again);
        assert!(machine.is_on(wanted), "{wants} {seen:?}");
        let told = problems(&agent.ledger(), CRM).pop().map(|problem| problem.what);
        let why =
            told.is_some_and(|what| what.contains("no coordinator was there during its lease"));
        assert_eq!(why, wanted == "v1", "{wants} {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_up_when_the_time_is_over_counts() {
    let (state, machine) = (tempfile::tempdir().unwrap(), Machine::new(&[CRM], true));
    let agent = Running::start(state.path(), &machine);
    let session = agent.welcome(1).await;
    assert_eq!(agent.order(deploy("dp-0007", 1, "v2")).await, End::Done);
    agent.until("it is over", is_idle).await;
    assert!(machine.is_on("v2"));
    drop(session);
}

#[tokio::test(start_paused = true)]
async fn neither_restarts_nor_reboots_nor_clocks_make_a_lease_longer_or_shorter_than_said() {
    for reboots in [false, true] {
        let (state, machine) = (tempfile::tempdir().unwrap(), Machine::new(&[CRM], false));
        let mut agent = deployed(state.path(), &machine).await;
        let begun = Instant::now();
        let mut rounds = 0_u32;
        while left(&agent.ledger(), &machine).is_some() {
            rounds += 1;
            agent.kill().await;
            // A day ahead, a day behind.
            machine.lock().wall_ms =
                if rounds.is_multiple_of(2) { 86_400_000 } else { -86_400_000 };
            sleep(Duration::from_millis(700)).await;
            if reboots {
                machine.reboot();
            }
            agent = Running::start(state.path(), &machine);
            let before = left(&agent.ledger(), &machine);
            // Not even long enough for what is left to be written twice.
            sleep(Duration::from_millis(5_100)).await;
            assert!(left(&agent.ledger(), &machine) < before || before.is_none());
        }
        let took = begun.elapsed();
        assert!(took >= LASTING - Duration::from_secs(10), "{reboots}: {took:?}");
        // A reboot gives back what passed since it was written, and the time in which nothing ran.
        let most = if reboots { LASTING * 3 } else { LASTING + Duration::from_secs(10) };
        assert!(took <= most, "{reboots}: {took:?} in {rounds} rounds");
        assert!(machine.is_on("v2"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_over_while_the_host_is_down_is_decided_when_it_is_up() {
    for (bad, wanted) in [(true, "v1"), (false, "v2")] {
        let (state, machine) = (tempfile::tempdir().unwrap(), Machine::new(&[CRM], false));
        deployed(state.path(), &machine).await.kill().await;
        sleep(LASTING * 2).await;
        if bad {
            machine.breaks("v2");
        }
        let agent = Running::start(state.path(), &machine);
        let begun = Instant::now();
        agent.until("it is over", is_idle).await;
        assert!(machine.is_on(wanted));
        assert_eq!(begun.elapsed() >= READY, bad, "what starts is given its time");
    }
}

#[tokio::test(start_paused = true)]
async fn another_operation_ends_a_trial_unless_it_is_taken_back() {
    let (state, machine) = (tempfile::tempdir().unwrap(), Machine::new(&[CRM], false));
    let agent = deployed(state.path(), &machine).await;
    // A deploy of v3 that is taken back: v2 is on trial as before.
    machine.lock().fails = Some((Verb::Verify, hash("v3")));
    assert_eq!(agent.order(deploy("dp-0008", 2, "v3")).await, End::Undone);
    let keys = |ledger: &Ledger| -> Vec<String> {
        ledger.trials().map(|(key, _, _)| key.operation.clone()).collect()
    };
    assert_eq!(keys(&agent.ledger()), ["dp-0007"]);
    // One that stands takes its place.
    machine.lock().fails = None;
    assert_eq!(agent.order(deploy("dp-0009", 3, "v3")).await, End::Done);
    assert_eq!(keys(&agent.ledger()), ["dp-0009"]);
    // What does not work out goes back to what was live before, and no further.
    machine.breaks("v3");
    agent.until("it went back", is_idle).await;
    assert!(machine.is_on("v2"), "{:?}", machine.lock());
}

#[tokio::test(start_paused = true)]
async fn a_rollback_that_is_at_work_when_it_fails_is_let_be() {
    let (state, machine) = (tempfile::tempdir().unwrap(), Machine::new(&[CRM], false));
    let agent = deployed(state.path(), &machine).await;
    machine.breaks("v2");
    sleep(READY / 2).await;
    assert_eq!(agent.order(order("rb-0008", 2, &[CRM], "v1", false)).await, End::Done);
    assert!(is_idle(&agent.ledger()) && agent.ledger().trials.is_empty());
    sleep(PATIENCE).await;
    assert!(machine.is_on("v1") && local::operations(&agent.ledger()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_way_back_that_fails_is_told_and_not_tried_again() {
    for (fails, end, on) in [(Verb::Stage, End::Undone, "v2"), (Verb::Verify, End::Left, "v1")] {
        let (state, machine) = (tempfile::tempdir().unwrap(), Machine::new(&[CRM], false));
        let agent = deployed(state.path(), &machine).await;
        machine.breaks("v2");
        machine.lock().fails = Some((fails, hash("v1")));
        agent.until("it was tried", is_idle).await;
        sleep(PATIENCE).await;
        assert!(machine.is_on(on));
        let ledger = agent.ledger();
        let [row] = &local::operations(&ledger)[..] else { panic!("once: {ledger:?}") };
        assert_eq!(row.ending.as_ref().unwrap().end, end);
        let told = &problems(&ledger, CRM)[0];
        assert!(
            told.what.contains("which failed: ") && told.mend.contains("agent local"),
            "{told:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_way_back_that_cannot_begin_is_told() {
    let (state, machine) = (tempfile::tempdir().unwrap(), Machine::new(&[CRM, JOBS], false));
    let agent = Running::start(state.path(), &machine);
    assert_eq!(agent.order(order("dp-0007", 1, &[JOBS, CRM], "v2", true)).await, End::Done);
    machine.lock().parts.remove(JOBS);
    machine.breaks("v2");
    agent.until("it was tried", is_idle).await;
    let told = &problems(&agent.ledger(), CRM)[0].what;
    assert!(
        told.ends_with("could not take it back: component `jobs` is not in this host's policy"),
        "{told}"
    );
    agent.kill().await;
    assert!(is_idle(&Running::start(state.path(), &machine).ledger()), "and it stays so");
    assert!(machine.is_on("v2"));
}

/// The agent is killed after each append, once; the host is rebooted besides, or is not.
#[tokio::test(start_paused = true)]
async fn p02_a_host_on_trial_goes_back_once_whenever_the_agent_is_killed() {
    for reboots in [false, true] {
        let mut kill_after = 0;
        loop {
            let (state, machine) = (tempfile::tempdir().unwrap(), Machine::new(&[CRM], false));
            machine.breaks("v2");
            let mut agent = Running::start(state.path(), &machine);
            let mut ledger = agent.core.ledger();
            assert!(agent.core.order(deploy("dp-0007", 1, "v2")).await);
            let mut appends = 0;
            let went_back = |ledger: &Ledger| {
                let begun = !ledger.tracks.is_empty();
                begun && is_idle(ledger) && !local::operations(ledger).is_empty()
            };
            while appends < kill_after && !went_back(&ledger.borrow()) {
                ledger.changed().await.unwrap();
                appends += 1;
            }
            let done = went_back(&ledger.borrow());
            agent.kill().await;
            if reboots {
                machine.reboot();
            }
            agent = Running::start(state.path(), &machine);
            if !agent.ledger().tracks.is_empty() {
                agent.until("it went back", went_back).await;
                assert_eq!(machine.switches("v1"), 1, "after {kill_after}: {:?}", machine.lock());
            }
            assert!(machine.is_on("v1"), "after {kill_after}: {:?}", machine.lock());
            agent.kill().await;
            if done {
                assert!(kill_after > 20, "it was killed at every append before");
                break;
            }
            kill_after += 1;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p05_what_it_goes_back_to_stays_and_so_does_its_track() {
    let (state, mut machine) = (tempfile::tempdir().unwrap(), Machine::new(&[CRM, JOBS], false));
    Arc::get_mut(&mut machine).unwrap().lease.lasting = LASTING * 10;
    let agent = Running::start(state.path(), &machine);
    assert_eq!(agent.order(deploy("dp-0007", 1, "v2")).await, End::Done);
    for number in 0..100 {
        let mut other = order(&format!("ck-{number:04}"), 2 + number, &[JOBS], "v1", false);
        other.steps.retain(|step| step.verb == Verb::Verify);
        assert_eq!(agent.order(other).await, End::Done);
    }
    let ledger = agent.ledger();
    assert!(ledger.tracks.len() < 70, "others are dropped");
    let kept = retention::named(&ledger);
    assert!(kept.iter().any(|row| row.exact.to_string() == hash("v1") && row.component == CRM));
    // A ledger that was written anew says the same.
    agent.kill().await;
    let (mut file, found) = LedgerFile::open(state.path()).unwrap();
    file.compact(&found).unwrap();
    drop(file);
    let agent = Running::start(state.path(), &machine);
    assert_eq!(agent.ledger().trials, ledger.trials);
    machine.breaks("v2");
    agent.until("it went back", is_idle).await;
    assert_eq!(machine.lock().parts[CRM], (hash("v1"), true));
}
