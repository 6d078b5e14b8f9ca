//! The scenario `blue-green`: a release goes live on the side without traffic, users move there, and back.
//!
//! ```text
//! build ─▶ create, fetch on every host ─▶ deploy to green, traffic to green ─▶ switch to blue ─▶ Report
//!                        prober: users through the edge, all the time; none may fail
//! ```

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use proto::{
    artefact,
    v1::{self, create_plan_request::Request},
};

use super::{
    Scenario,
    layout::{BUILDS, GOOD, Layout, write_build},
    prober::Prober,
    report::{HostReport, Report},
    scenario::{operate, until, users, version_of},
};
use crate::{render::words, session::Session};

/// The release that goes live.
const NEXT: &str = "v3.0.0";
/// What every host of a group is to answer with in the end.
const END: [(&str, &str); 3] = [("blue", GOOD), ("green", NEXT), ("canary", GOOD)];
/// How long users are watched after each move.
const WATCHED: Duration = Duration::from_secs(1);

pub(super) async fn run(layout: &Layout, session: &mut Session) -> anyhow::Result<Report> {
    let build = layout.builds().join(NEXT);
    write_build(&build, NEXT, (0.0, 0))?;
    let digest = artefact::digest_of_directory(&build).context("the digest of the build")?;
    create(session, NEXT, digest.to_string()).await?;
    operate(session, Request::Fetch(NEXT.to_owned()), "a new release").await?;
    session.out.talk(&format!("✓ every host has fetched {NEXT}; nothing live was touched\n"));

    let prober = Prober::start(layout)?;
    served(&prober, layout, GOOD).await?;
    let before = prober.all();
    let begun = Instant::now();
    let deploy = v1::DeployRequest {
        release: NEXT.to_owned(),
        strategy: v1::Strategy::BlueGreen.into(),
        ..v1::DeployRequest::default()
    };
    let operation = operate(session, Request::Deploy(deploy), "a new release").await?;
    let total = begun.elapsed();
    served(&prober, layout, NEXT).await?;
    session.out.talk(&format!("✓ {NEXT} is live on green; blue stays as the way back\n"));
    let moved = Instant::now();
    let to = v1::SwitchRequest { to: "blue".to_owned() };
    operate(session, Request::Switch(to), "to see the way back").await?;
    let switched = moved.elapsed();
    served(&prober, layout, GOOD).await?;
    session
        .out
        .talk(&format!("✓ users are on {GOOD} again, {} ms after it was asked\n", ms(switched)));

    let users = users(&prober, layout, &before);
    let edge_ms = operation.mitigated_unix_ms.checked_sub(operation.started_unix_ms);
    let mut report = Report {
        scenario: Scenario::BlueGreen,
        ok: false,
        problems: Vec::new(),
        operation: operation.id.clone(),
        exit_code: 0,
        hosts: hosts(&operation, layout).await?,
        mitigated_ms: Some(ms(switched)),
        mitigated_at_edge_ms: edge_ms.and_then(|ms| u64::try_from(ms).ok()),
        users,
        total_ms: ms(total),
        killed: Vec::new(),
        verdicts: Vec::new(),
        error_rate_before: 0.0,
        error_rate_after: 0.0,
    };
    report.problems = problems(&report);
    report.ok = report.problems.is_empty();
    Ok(report)
}

/// Says what a release is made of.
pub(super) async fn create(
    session: &mut Session,
    release: &str,
    digest: String,
) -> anyhow::Result<()> {
    let made_of = v1::Artefact { source: BUILDS.to_owned(), name: release.to_owned(), digest };
    let request = v1::CreateReleaseRequest {
        fleet: session.fleet(),
        release: release.to_owned(),
        artefacts: [("crm".to_owned(), made_of)].into(),
    };
    let mut client = session.client().await?;
    let created = client.create_release(request).await;
    created.map_err(|status| anyhow!("creating {release}: {}", status.message()))?;
    Ok(())
}

/// Waits until users get this version, and then a while longer: who is still on the other would be seen.
pub(super) async fn served(prober: &Prober, layout: &Layout, version: &str) -> anyhow::Result<()> {
    let edge = layout.edge_host().context("the sandbox has no edge")?;
    until(&format!("users get {version}"), &mut || None, async || {
        let seen = prober.of(edge.name);
        let newest = seen.last.iter().max_by_key(|(_, at)| **at)?;
        (newest.0 == version).then_some(())
    })
    .await?;
    tokio::time::sleep(WATCHED).await;
    Ok(())
}

async fn hosts(operation: &v1::Operation, layout: &Layout) -> anyhow::Result<Vec<HostReport>> {
    let wanted: BTreeMap<&str, &str> = END.into_iter().collect();
    let mut rows = Vec::new();
    for host in &layout.hosts {
        let outcome = operation.hosts.iter().find(|row| row.host == host.name);
        let outcome = outcome.with_context(|| format!("{} is not accounted for", host.name))?;
        rows.push(HostReport {
            host: host.name.to_owned(),
            group: host.group.to_owned(),
            outcome: words::outcome(outcome.outcome),
            version_wanted: wanted.get(host.group).map(|version| (*version).to_owned()),
            outage_ms: host.has_app().then_some(0),
            version_observed: if host.has_app() { version_of(host).await } else { None },
            reason: outcome.reason.lines().next().unwrap_or_default().to_owned(),
        });
    }
    Ok(rows)
}

fn problems(report: &Report) -> Vec<String> {
    let mut problems = Vec::new();
    for row in &report.hosts {
        if row.version_observed != row.version_wanted {
            problems.push(format!(
                "{} answers {:?} instead of {:?}",
                row.host, row.version_observed, row.version_wanted
            ));
        }
    }
    if report.users.failures > 0 {
        problems.push(format!("{} requests of users failed", report.users.failures));
    }
    if report.users.requests == 0 {
        problems.push("no user asked anything".to_owned());
    }
    if report.users.version.as_deref() != Some(GOOD) {
        problems.push(format!("users get {:?} instead of {GOOD}", report.users.version));
    }
    problems
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
