//! One scenario from the first process to the report.
//!
//! ```text
//! up ─▶ snapshot v1 ─▶ deploy v2 over it ─▶ see it fail ─▶ rollback (ctl's own) ─▶ look at every host ─▶ Report
//!                                                              └─ saboteur: sees every event, kills on cue
//! ```

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use proto::v1::{self, watch_operation_response::Event};

use super::{
    Scenario, canary, context, edge, forward,
    layout::{BAD, FLEET, GOOD, Layout, SandboxHost},
    own_binary, pipeline,
    prober::{Prober, Seen},
    processes::{Process, services_of},
    report::{HostReport, Killed, Report, Users},
};
use crate::{
    commands::{
        planned::Asked,
        rollback::{self, RollbackArgs},
    },
    error::CtlError,
    exit::Exit,
    fleet_file,
    render::words,
    run::{self, Ran, Start},
    session::Session,
};

/// The longest that anything takes to come about on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests that must have been seen under the bad release before it is called bad.
const SEEN_MIN: u64 = 150;
/// Requests to each host that are counted after the rollback.
const AFTER_MIN: u64 = 20;
/// The share of requests that fail under the bad release.
const BAD_RATE: f64 = 0.25;
/// The host that is lost, or whose agent or store is harmed.
const VICTIM: &str = "crm-g2";

/// Runs a scenario; what it started is ended by the caller.
pub(super) async fn run(
    scenario: Scenario,
    layout: &Layout,
    session: &mut Session,
) -> anyhow::Result<Report> {
    session.turn_to(context(layout), FLEET.to_owned());
    let running = Arc::new(Mutex::new(up(layout, session).await?));
    let good = Prober::start(layout)?;
    let all: Vec<&SandboxHost> = layout.app_hosts().collect();
    seen_on(&good, &all, GOOD, &running).await?;
    session.out.talk(&format!("✓ {GOOD} serves on all app hosts\n"));
    let snapshot = v1::create_plan_request::Request::Snapshot(GOOD.to_owned());
    operate(session, snapshot, "the release that serves well").await?;
    session.out.talk(&format!("✓ {GOOD} is recorded on every host, and proven by its checks\n"));
    let to = v1::SwitchRequest { to: "blue".to_owned() };
    operate(session, v1::create_plan_request::Request::Switch(to), "the first side").await?;
    session.out.talk("✓ the edge sends all traffic to blue\n");
    match scenario {
        Scenario::BlueGreen => return forward::run(layout, session).await,
        Scenario::CanaryAbort | Scenario::CanaryPromote | Scenario::DependencyOutage => {
            drop(good);
            return canary::run(scenario, layout, session).await;
        }
        Scenario::Rollback
        | Scenario::CoordinatorCrash
        | Scenario::AgentCrash
        | Scenario::HostLost
        | Scenario::BadTarget => {}
    }

    // Where users are to be helped first, one side is left good; in the others all hosts have to be repaired.
    let groups: &[&str] = if scenario == Scenario::Rollback { &["blue"] } else { &[] };
    pipeline::deploy(layout, groups, BAD, BAD_RATE)?;
    let deployed: Vec<&SandboxHost> = layout
        .app_hosts()
        .filter(|host| groups.is_empty() || groups.contains(&host.group))
        .collect();
    seen_on(&good, &deployed, BAD, &running).await?;
    drop(good);
    let prober = Prober::start(layout)?;
    let error_rate_before = failing(&prober, &deployed).await?;
    session.out.talk(&format!(
        "✗ {BAD} was deployed over it by another tool: {:.0} % of requests fail\n\n",
        error_rate_before * 100.0
    ));
    if scenario == Scenario::BadTarget {
        let object = damage(layout)?;
        session.out.talk(&format!(
            "✗ one byte of {GOOD} was flipped on {VICTIM}, in {}\n\n",
            object.display()
        ));
    }

    let mut saboteur = Saboteur::new(scenario, layout, running.clone());
    saboteur.begin();
    let begun = Instant::now();
    let before = prober.all();
    let reason = "5xx after the deploy".to_owned();
    let args = RollbackArgs {
        in_place: scenario != Scenario::Rollback,
        asked: Asked { yes: true, reason, ..Asked::default() },
        ..RollbackArgs::default()
    };
    let ran = rollback::execute(&args, session, &mut |event| saboteur.see(event)).await;
    let total = begun.elapsed();
    let killed = saboteur.end()?;
    let ran = ran.map_err(told)?;
    let Ran::Ended(operation) = &ran else { bail!("the rollback did not end: {ran:?}") };

    let hosts = hosts(operation, layout, &prober, begun).await?;
    let error_rate_after = failing_now(&prober, &hosts).await?;
    let users = users(&prober, layout, &before);
    let edge = layout.edge_host().map(|host| prober.of(host.name)).unwrap_or_default();
    let mitigated = edge.last.get(BAD).copied();
    let still_bad = users.version.as_deref() == Some(BAD);
    let mitigated_at_edge = operation.mitigated_unix_ms.checked_sub(operation.started_unix_ms);
    let mut report = Report {
        scenario,
        ok: false,
        problems: Vec::new(),
        operation: operation.id.clone(),
        exit_code: ran.exit().code(),
        hosts,
        mitigated_ms: mitigated
            .filter(|_| !still_bad)
            .map(|at| ms(at.saturating_duration_since(begun))),
        mitigated_at_edge_ms: mitigated_at_edge.and_then(|ms| u64::try_from(ms).ok()),
        users,
        total_ms: ms(total),
        killed,
        verdicts: Vec::new(),
        error_rate_before,
        error_rate_after,
    };
    report.problems = problems(scenario, &report, layout);
    report.ok = report.problems.is_empty();
    Ok(report)
}

/// The processes of a sandbox, by what they are.
struct Running {
    coordinator: Process,
    agents: BTreeMap<&'static str, Process>,
    edges: Vec<Process>,
}

impl Running {
    fn ended(&mut self) -> Option<String> {
        let agents = self.agents.values_mut();
        self.coordinator.ended().or_else(|| agents.chain(&mut self.edges).find_map(Process::ended))
    }
}

fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts everything and applies the fleet file.
async fn up(layout: &Layout, session: &mut Session) -> anyhow::Result<Running> {
    let ctl = own_binary()?;
    let mut coordinator = Process::coordinator(&ctl, layout)?;
    let deadline = Instant::now() + PATIENCE;
    let mut client = loop {
        match session.client().await {
            Ok(client) => break client,
            Err(error) => {
                if let Some(why) = coordinator.ended() {
                    bail!(why);
                }
                ensure!(Instant::now() < deadline, "the coordinator does not answer: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let text = std::fs::read_to_string(layout.fleet_file())?;
    let fleet = fleet_file::parse(&text).map_err(|problems| anyhow!("{problems:?}"))?;
    let mut hashes = BTreeMap::new();
    for host in &layout.hosts {
        hashes.insert(host.name.to_owned(), proto::policy::hash(&std::fs::read(host.policy())?));
    }
    let control = Some(fleet_file::control(&fleet, &hashes));
    let applied = client.apply_fleet(v1::ApplyFleetRequest { control, dry_run: false }).await;
    applied.map_err(|status| anyhow!("applying the fleet file: {}", status.message()))?;
    let mut agents = BTreeMap::new();
    let mut edges = Vec::new();
    for host in &layout.hosts {
        if !host.has_app() {
            edges.push(Process::edge(&ctl, layout, host)?);
        }
        agents.insert(host.name, Process::agent(&ctl, layout, host)?);
    }
    let mut running = Running { coordinator, agents, edges };
    for host in layout.hosts.iter().filter(|host| !host.has_app()) {
        let control = edge::socket(&host.edge().state);
        let what = format!("the proxy of {} answers", host.name);
        until(&what, &mut || running.ended(), async || {
            edge::ask(&control, "GET", "/ports", None).await.ok()
        })
        .await?;
    }
    until("all agents are connected", &mut || running.ended(), async || {
        let fleet = client.get_fleet(v1::GetFleetRequest::default()).await.ok()?.into_inner();
        fleet.hosts.iter().all(|host| host.connected).then_some(())
    })
    .await?;
    session.out.talk(&format!(
        "✓ 1 coordinator, {} agents over mTLS: 2 blue, 2 green, 1 canary, 1 edge\n",
        layout.hosts.len()
    ));
    Ok(running)
}

/// What users saw of the edge since `before` was taken.
pub(super) fn users(
    prober: &Prober,
    layout: &Layout,
    before: &BTreeMap<&'static str, Seen>,
) -> Users {
    let Some(edge) = layout.edge_host() else { return Users::default() };
    let (now, before) = (prober.of(edge.name), before.get(edge.name).cloned().unwrap_or_default());
    let newest = now.last.iter().max_by_key(|(_, at)| **at);
    Users {
        requests: now.requests - before.requests,
        failures: now.failures - before.failures,
        version: newest.map(|(version, _)| version.clone()),
    }
}

/// Waits until each of these hosts gives good answers of a version.
async fn seen_on(
    prober: &Prober,
    hosts: &[&SandboxHost],
    version: &str,
    running: &Mutex<Running>,
) -> anyhow::Result<()> {
    let all = || hosts.iter().all(|host| prober.of(host.name).good.contains_key(version));
    until(
        &format!("{version} answers on {} hosts", hosts.len()),
        &mut || lock(running).ended(),
        async || all().then_some(()),
    )
    .await
}

/// Waits until enough was seen of the bad release; answers the share of requests that failed.
async fn failing(prober: &Prober, hosts: &[&SandboxHost]) -> anyhow::Result<f64> {
    let enough = || hosts.iter().all(|host| prober.of(host.name).requests >= SEEN_MIN);
    until("requests under the bad release", &mut || None, async || enough().then_some(())).await?;
    prober
        .error_rate_since(&BTreeMap::new(), hosts.iter().map(|host| host.name))
        .context("no request was made")
}

/// The share of requests that fail now, of the hosts that answer.
async fn failing_now(prober: &Prober, hosts: &[HostReport]) -> anyhow::Result<f64> {
    let answering =
        || hosts.iter().filter(|row| row.version_observed.is_some()).map(|row| row.host.as_str());
    let before = prober.all();
    let enough = || {
        answering().all(|host| {
            prober.of(host).requests >= before.get(host).map_or(0, |s| s.requests) + AFTER_MIN
        })
    };
    until("requests after the rollback", &mut || None, async || enough().then_some(())).await?;
    prober.error_rate_since(&before, answering()).context("no request was made")
}

/// Plans and runs what has to go well.
pub(super) async fn operate(
    session: &mut Session,
    request: v1::create_plan_request::Request,
    reason: &str,
) -> anyhow::Result<v1::Operation> {
    let plan = run::plan(session, request).await.map_err(told)?;
    let what = crate::render::plan::name(&plan);
    let start = Start {
        plan_id: plan.id,
        reason: reason.to_owned(),
        idempotency_key: run::new_key(),
        again: "ctl sandbox".to_owned(),
    };
    let operation = run::start(session, &start).await?;
    let ran = run::watch(session, &operation, 0, &mut |_| {}).await?;
    let why = || ran.ended().map(|ended| format!("{:?}", ended.hosts)).unwrap_or_default();
    ensure!(ran.exit() == Exit::Done, "the {what} failed: {}", why());
    ran.ended().cloned().with_context(|| format!("the {what} did not end: {ran:?}"))
}

/// An error of ctl with all that it says.
pub(super) fn told(error: CtlError) -> anyhow::Error {
    anyhow!("{}: {}", error, error.told().cause.join("; "))
}

/// Flips a byte of the good release in the victim's store, and takes away what stands staged of it.
fn damage(layout: &Layout) -> anyhow::Result<PathBuf> {
    let host = victim(layout)?;
    let mut largest: Option<(u64, PathBuf)> = None;
    let mut open = vec![host.state().join("store/objects"), host.state().join("store/packs")];
    while let Some(dir) = open.pop() {
        for entry in
            std::fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?
        {
            let entry = entry?;
            let found = entry.metadata()?;
            if found.is_dir() {
                open.push(entry.path());
            } else if largest.as_ref().is_none_or(|(size, _)| found.len() > *size) {
                largest = Some((found.len(), entry.path()));
            }
        }
    }
    let (_, path) = largest.context("the store is empty")?;
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // In place, as a disk does it: the agent may have the file open.
    std::fs::write(&path, bytes)?;
    let staging = host.tree().with_file_name(".lastgood");
    match std::fs::remove_dir_all(&staging) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", staging.display()))
        }
        _ => Ok(path),
    }
}

fn victim(layout: &Layout) -> anyhow::Result<&SandboxHost> {
    layout.hosts.iter().find(|host| host.name == VICTIM).context("the sandbox has no such host")
}

/// Kills what the scenario says, when it says so.
struct Saboteur {
    scenario: Scenario,
    layout: Layout,
    running: Arc<Mutex<Running>>,
    killed: Arc<Mutex<Vec<Killed>>>,
    failure: Option<anyhow::Error>,
    done: bool,
    watching: Arc<AtomicBool>,
    watcher: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Saboteur {
    fn new(scenario: Scenario, layout: &Layout, running: Arc<Mutex<Running>>) -> Self {
        Self {
            scenario,
            layout: layout.clone(),
            running,
            killed: Arc::default(),
            failure: None,
            done: false,
            watching: Arc::new(AtomicBool::new(true)),
            watcher: None,
        }
    }

    /// An agent's own switch is seen by its hold, which stands for as long as the switch is open.
    fn begin(&mut self) {
        if self.scenario != Scenario::AgentCrash {
            return;
        }
        let (layout, running) = (self.layout.clone(), self.running.clone());
        let (killed, watching) = (self.killed.clone(), self.watching.clone());
        self.watcher = Some(std::thread::spawn(move || {
            while watching.load(Ordering::Relaxed) {
                for host in layout.app_hosts() {
                    if kill_in_switch(host, &running, &killed)? {
                        return Ok(());
                    }
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            Ok(())
        }));
    }

    fn see(&mut self, event: &v1::WatchOperationResponse) {
        if self.done {
            return;
        }
        let struck = match (self.scenario, &event.event) {
            // At least one host has switched, and with three batches others have not.
            (Scenario::CoordinatorCrash, Some(Event::Step(step)))
                if step.verb() == v1::Verb::Switch && step.state() == v1::StepState::Done =>
            {
                self.done = true;
                self.kill_coordinator()
            }
            (Scenario::HostLost, Some(Event::StageBegan(stage))) if stage.name == "restore" => {
                self.done = true;
                self.lose_host()
            }
            (
                Scenario::Rollback
                | Scenario::BlueGreen
                | Scenario::CanaryAbort
                | Scenario::CanaryPromote
                | Scenario::DependencyOutage
                | Scenario::CoordinatorCrash
                | Scenario::AgentCrash
                | Scenario::HostLost
                | Scenario::BadTarget,
                _,
            ) => Ok(()),
        };
        if let Err(error) = struck {
            self.failure = Some(error);
        }
    }

    fn kill_coordinator(&self) -> anyhow::Result<()> {
        let process = &mut lock(&self.running).coordinator;
        let killed = kill(process, true)?;
        self.killed.lock().unwrap_or_else(PoisonError::into_inner).push(killed);
        Ok(())
    }

    fn lose_host(&self) -> anyhow::Result<()> {
        let host = victim(&self.layout)?;
        let mut running = lock(&self.running);
        let mut agent = running.agents.remove(host.name).context("no such agent")?;
        let killed = kill(&mut agent, false)?;
        for pid in services_of(host) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
        self.killed.lock().unwrap_or_else(PoisonError::into_inner).push(killed);
        Ok(())
    }

    fn end(mut self) -> anyhow::Result<Vec<Killed>> {
        self.watching.store(false, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            watcher.join().map_err(|_| anyhow!("the watcher of the holds panicked"))??;
        }
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let killed = self.killed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(killed)
    }
}

/// Kills a host's agent if it is in its switch now. It is stopped first, so that the switch cannot end meanwhile.
fn kill_in_switch(
    host: &SandboxHost,
    running: &Mutex<Running>,
    killed: &Mutex<Vec<Killed>>,
) -> anyhow::Result<bool> {
    let hold = host.state().join("hold/crm");
    if !hold.exists() {
        return Ok(false);
    }
    let mut running = lock(running);
    let agent = running.agents.get_mut(host.name).context("no such agent")?;
    agent.freeze()?;
    if !hold.exists() {
        agent.thaw()?;
        return Ok(false);
    }
    let row = kill(agent, true)?;
    killed.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    Ok(true)
}

fn kill(process: &mut Process, again: bool) -> anyhow::Result<Killed> {
    let old_pid = process.pid();
    process.kill()?;
    let at = jiff::Timestamp::now().to_string();
    let mut new_pid = None;
    if again {
        process.restart()?;
        new_pid = Some(process.pid());
    }
    Ok(Killed { what: process.what.clone(), old_pid, new_pid, at })
}

/// Each host as it is now, by a request of our own.
async fn hosts(
    operation: &v1::Operation,
    layout: &Layout,
    prober: &Prober,
    begun: Instant,
) -> anyhow::Result<Vec<HostReport>> {
    let mut rows = Vec::new();
    for host in &layout.hosts {
        let outcome = operation.hosts.iter().find(|row| row.host == host.name);
        let outcome = outcome.with_context(|| format!("{} is not accounted for", host.name))?;
        let observed = if host.has_app() { version_of(host).await } else { None };
        rows.push(HostReport {
            host: host.name.to_owned(),
            group: host.group.to_owned(),
            outcome: words::outcome(outcome.outcome),
            version_wanted: host.has_app().then(|| GOOD.to_owned()),
            outage_ms: if host.has_app() { outage(prober, host.name, begun) } else { None },
            version_observed: observed,
            reason: outcome.reason.lines().next().unwrap_or_default().to_owned(),
        });
    }
    Ok(rows)
}

pub(super) async fn version_of(host: &SandboxHost) -> Option<String> {
    let client =
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build().ok()?;
    let answer = client.get(host.url(5000, "/api/health")).send().await.ok()?;
    let health: serde_json::Value = answer.json().await.ok()?;
    Some(health.get("version")?.as_str()?.to_owned())
}

/// From the last good answer of the old release to the first of the wanted one.
fn outage(prober: &Prober, host: &str, begun: Instant) -> Option<u64> {
    let seen = prober.of(host);
    let Some((_, last_bad)) = seen.good.get(BAD).copied() else {
        // It was never on the bad one.
        return seen.good.contains_key(GOOD).then_some(0);
    };
    match seen.good.get(GOOD) {
        Some((first_good, _)) => Some(ms(first_good.saturating_duration_since(last_bad))),
        // It never left the old release, and still serves it.
        None if last_bad > begun && last_bad.elapsed() < Duration::from_secs(1) => Some(0),
        None => None,
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What is not as the scenario should end.
fn problems(scenario: Scenario, report: &Report, layout: &Layout) -> Vec<String> {
    let mut problems = Vec::new();
    let mut expect = |holds: bool, what: String| {
        if !holds {
            problems.push(what);
        }
    };
    let (exit, kills) = match scenario {
        Scenario::Rollback
        | Scenario::BlueGreen
        | Scenario::CanaryPromote
        | Scenario::DependencyOutage => (Exit::Done, 0),
        Scenario::CanaryAbort => (Exit::Reverted, 0),
        Scenario::CoordinatorCrash | Scenario::AgentCrash => (Exit::Done, 1),
        Scenario::HostLost => (Exit::Mixed, 1),
        Scenario::BadTarget => (Exit::Refused, 0),
    };
    expect(
        report.exit_code == exit.code(),
        format!("exit code {} instead of {}", report.exit_code, exit.code()),
    );
    expect(
        report.killed.len() == kills,
        format!("{} kills instead of {kills}", report.killed.len()),
    );
    for (row, host) in report.hosts.iter().zip(&layout.hosts) {
        let lost = scenario == Scenario::HostLost && row.host == VICTIM;
        let (outcome, version) = match scenario {
            // It only moves traffic, and only in this one.
            Scenario::Rollback if !host.has_app() => ("restored", None),
            _ if !host.has_app() => ("skipped", None),
            _ if lost => ("unknown", None),
            Scenario::BadTarget => ("original", Some(BAD)),
            Scenario::Rollback
            | Scenario::BlueGreen
            | Scenario::CanaryAbort
            | Scenario::CanaryPromote
            | Scenario::DependencyOutage
            | Scenario::CoordinatorCrash
            | Scenario::AgentCrash
            | Scenario::HostLost => ("restored", Some(GOOD)),
        };
        expect(
            row.outcome == outcome,
            format!("{} is {} instead of {outcome}", row.host, row.outcome),
        );
        let observed = row.version_observed.as_deref();
        expect(
            observed == version,
            format!("{} answers {observed:?} instead of {version:?}", row.host),
        );
        if host.has_app() && !lost {
            on_disk(&host.tree(), version.unwrap_or_default(), &mut expect);
        }
    }
    problems
}

/// The tree is that release and nothing else, and what is kept across releases is there.
fn on_disk(tree: &Path, version: &str, expect: &mut impl FnMut(bool, String)) {
    let only_bad = tree.join(format!("node_modules/only-in-{BAD}.js"));
    let shown = tree.display();
    expect(
        only_bad.exists() == (version == BAD),
        format!("{shown} is a mix: {}", only_bad.display()),
    );
    expect(tree.join("uploads/customer.txt").exists(), format!("{shown} has lost its uploads"));
    let env = std::fs::read_to_string(tree.join(".env.production")).unwrap_or_default();
    expect(env.contains(version), format!("{shown} has another release's .env.production"));
}

/// Waits for something that has to come; ends early where `broken` says why it cannot.
pub(super) async fn until<T>(
    what: &str,
    broken: &mut (dyn FnMut() -> Option<String> + Send),
    mut holds: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = holds().await {
            return Ok(found);
        }
        if let Some(why) = broken() {
            bail!(why);
        }
        ensure!(Instant::now() < deadline, "waited {} s in vain until {what}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
