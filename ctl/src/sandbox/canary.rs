//! The scenarios with a canary: a bad release that the judge takes back, a good one that goes to everybody, and an outage
//! that is nobody's fault.
//!
//! ```text
//! build ─▶ create, fetch ─▶ deploy --strategy canary ─▶ 5 % ─▶ judged ─▶ 50 % ─▶ judged ─▶ all ─▶ Report
//!                 │ prober: users through the edge, all the time   └─ aborted: nobody gets it any more, hosts are back
//!                 └ dependency-outage: every app fails for a while, whatever its release
//! ```

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use proto::{
    artefact,
    v1::{self, create_plan_request::Request, watch_operation_response::Event},
};

use super::{
    Scenario,
    forward::{create, served},
    layout::{GOOD, Layout, write_build},
    prober::Prober,
    report::{HostReport, Report, Verdict},
    scenario::{operate, told, users, version_of},
};
use crate::{
    render::words,
    run::{self, Ran, Start},
    session::{Client, Session},
};

/// The release that is tried.
const NEXT: &str = "v3.0.0";
/// The share of requests that the bad one fails, once it has answered so many.
const FAILS: (f64, u64) = (0.25, 40);
/// How long what everything depends on is down.
const OUTAGE: Duration = Duration::from_secs(9);

pub(super) async fn run(
    scenario: Scenario,
    layout: &Layout,
    session: &mut Session,
) -> anyhow::Result<Report> {
    let build = layout.builds().join(NEXT);
    let fails = if scenario == Scenario::CanaryAbort { FAILS } else { (0.0, 0) };
    write_build(&build, NEXT, fails)?;
    let digest = artefact::digest_of_directory(&build).context("the digest of the build")?;
    create(session, NEXT, digest.to_string()).await?;
    operate(session, Request::Fetch(NEXT.to_owned()), "a new release").await?;
    session.out.talk(&format!("✓ every host has fetched {NEXT}; nothing live was touched\n"));

    let prober = Prober::at_the_edge(layout)?;
    served(&prober, layout, GOOD).await?;
    let before = prober.all();
    let begun = Instant::now();
    let witness = Witness::new(scenario, layout);
    let listener = witness.listen(session.client().await.map_err(told)?);
    let (operation, exit_code) = deploy(session, &witness).await?;
    listener.abort();
    let total = begun.elapsed();
    let end = if scenario == Scenario::CanaryAbort { GOOD } else { NEXT };
    served(&prober, layout, end).await?;

    let edge = layout.edge_host().map(|host| prober.of(host.name)).unwrap_or_default();
    let failed = edge.failed.map(|(first, last)| last.saturating_duration_since(first));
    let mut report = Report {
        scenario,
        ok: false,
        problems: Vec::new(),
        operation: operation.id.clone(),
        exit_code,
        hosts: hosts(&operation, layout, end).await?,
        mitigated_ms: failed.filter(|_| scenario == Scenario::CanaryAbort).map(ms),
        mitigated_at_edge_ms: None,
        users: users(&prober, layout, &before),
        total_ms: ms(total),
        killed: Vec::new(),
        verdicts: witness.verdicts(),
        error_rate_before: 0.0,
        error_rate_after: 0.0,
    };
    report.problems = problems(scenario, &report, &operation, end);
    report.ok = report.problems.is_empty();
    Ok(report)
}

async fn deploy(session: &mut Session, witness: &Witness) -> anyhow::Result<(v1::Operation, u8)> {
    let deploy = v1::DeployRequest {
        release: NEXT.to_owned(),
        strategy: v1::Strategy::Canary.into(),
        ..v1::DeployRequest::default()
    };
    let plan = run::plan(session, Request::Deploy(deploy)).await.map_err(told)?;
    let start = Start {
        plan_id: plan.id,
        reason: "a new release".to_owned(),
        idempotency_key: run::new_key(),
        again: "ctl sandbox".to_owned(),
    };
    let operation = run::start(session, &start).await.map_err(told)?;
    let ran = run::watch(session, &operation, 0, &mut |event| witness.see(event)).await;
    let ran = ran.map_err(told)?;
    let exit = ran.exit().code();
    let Ran::Ended(operation) = ran else { bail!("the deploy did not end: {ran:?}") };
    Ok((*operation, exit))
}

/// Sees what happens, and brings the outage about at its time.
#[derive(Clone)]
struct Witness {
    outage: Vec<PathBuf>,
    begun: Arc<Mutex<bool>>,
    verdicts: Arc<Mutex<Vec<Verdict>>>,
}

impl Witness {
    fn new(scenario: Scenario, layout: &Layout) -> Self {
        let files = layout.app_hosts().map(|host| host.tree().join("uploads/outage"));
        let outage =
            if scenario == Scenario::DependencyOutage { files.collect() } else { Vec::new() };
        Self { outage, begun: Arc::default(), verdicts: Arc::default() }
    }

    fn see(&self, event: &v1::WatchOperationResponse) {
        match &event.event {
            Some(Event::Judged(judged)) => {
                let ruling = judged.ruling.clone().unwrap_or_default();
                let verdict = Verdict {
                    weight: judged.weight,
                    verdict: words::verdict(ruling.verdict()).to_owned(),
                    sentence: ruling.sentence,
                };
                self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).push(verdict);
            }
            Some(Event::StageEnded(stage)) if stage.name == "canary 5 %" => self.begin(),
            Some(_) | None => {}
        }
    }

    /// Hears what the judge says while everything fails, whether or not that changes his verdict.
    fn listen(&self, mut client: Client) -> tokio::task::JoinHandle<()> {
        let witness = self.clone();
        tokio::spawn(async move {
            let mut heard = None;
            loop {
                tokio::time::sleep(Duration::from_millis(250)).await;
                let down = witness.outage.iter().all(|file| file.exists());
                match (down && !witness.outage.is_empty(), heard.take()) {
                    (true, _) => heard = ruling(&mut client).await,
                    (false, Some(last)) => {
                        witness.verdicts.lock().unwrap_or_else(PoisonError::into_inner).push(last);
                    }
                    (false, None) => {}
                }
            }
        })
    }

    /// Everything fails from now on, for a while.
    fn begin(&self) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if self.outage.is_empty() || std::mem::replace(&mut *begun, true) {
            return;
        }
        let files = self.outage.clone();
        std::thread::spawn(move || {
            for file in &files {
                fs::write(file, "").ok();
            }
            std::thread::sleep(OUTAGE);
            for file in &files {
                fs::remove_file(file).ok();
            }
        });
    }

    fn verdicts(&self) -> Vec<Verdict> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the judge says now of the canary that runs.
async fn ruling(client: &mut Client) -> Option<Verdict> {
    let fleet = client.get_fleet(v1::GetFleetRequest::default()).await.ok()?.into_inner();
    let request = v1::GetOperationRequest { operation: fleet.operation };
    let operation = client.get_operation(request).await.ok()?.into_inner().operation?;
    let canary = operation.canary?;
    let (step, ruling) = (canary.step?, canary.ruling?);
    let weight = canary.steps.get(usize::try_from(step).ok()?)?.weight;
    let verdict = words::verdict(ruling.verdict()).to_owned();
    Some(Verdict { weight, verdict, sentence: ruling.sentence })
}

async fn hosts(
    operation: &v1::Operation,
    layout: &Layout,
    end: &str,
) -> anyhow::Result<Vec<HostReport>> {
    let mut rows = Vec::new();
    for host in &layout.hosts {
        let outcome = operation.hosts.iter().find(|row| row.host == host.name);
        let outcome = outcome.with_context(|| format!("{} is not accounted for", host.name))?;
        // The side that traffic left stays as the way back.
        let wanted = if host.group == "blue" { GOOD } else { end };
        rows.push(HostReport {
            host: host.name.to_owned(),
            group: host.group.to_owned(),
            outcome: words::outcome(outcome.outcome),
            version_wanted: host.has_app().then(|| wanted.to_owned()),
            outage_ms: host.has_app().then_some(0),
            version_observed: if host.has_app() { version_of(host).await } else { None },
            reason: outcome.reason.lines().next().unwrap_or_default().to_owned(),
        });
    }
    Ok(rows)
}

fn problems(
    scenario: Scenario,
    report: &Report,
    operation: &v1::Operation,
    end: &str,
) -> Vec<String> {
    let mut problems = Vec::new();
    for row in &report.hosts {
        if row.version_observed != row.version_wanted {
            problems.push(format!(
                "{} answers {:?} instead of {:?}",
                row.host, row.version_observed, row.version_wanted
            ));
        }
    }
    if report.users.version.as_deref() != Some(end) {
        problems.push(format!("users get {:?} instead of {end}", report.users.version));
    }
    let said = |word: &str| report.verdicts.iter().any(|row| row.verdict == word);
    match scenario {
        Scenario::CanaryAbort => {
            if operation.aborted_by != "judge" || !said("fail") {
                problems.push("the judge did not take it back".to_owned());
            }
        }
        Scenario::CanaryPromote | Scenario::DependencyOutage => {
            if said("fail") {
                problems.push("the judge failed a good release".to_owned());
            }
            if report.users.failures > 0 && scenario == Scenario::CanaryPromote {
                problems.push(format!("{} requests of users failed", report.users.failures));
            }
            if report.users.failures == 0 && scenario == Scenario::DependencyOutage {
                problems.push("nobody noticed the outage".to_owned());
            }
            let alone = report.verdicts.iter().any(|row| row.sentence.contains("not this release"));
            if !alone && scenario == Scenario::DependencyOutage {
                problems.push("the judge did not see that both sides failed".to_owned());
            }
        }
        Scenario::Rollback
        | Scenario::BlueGreen
        | Scenario::CoordinatorCrash
        | Scenario::AgentCrash
        | Scenario::HostLost
        | Scenario::BadTarget => {}
    }
    problems
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
