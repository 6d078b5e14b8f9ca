//! How a scenario went: the document, and the same for people.

use clap::ValueEnum as _;
use proto::v1;
use serde::Serialize;

use super::{
    Scenario,
    layout::{BAD, FLEET, Layout},
};
use crate::{
    out::Document,
    render::{View, labelled, table::Table, words},
};

/// The document of `-o json`. Names are a contract: added to, never changed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub scenario: Scenario,
    /// It ended as this scenario should.
    pub ok: bool,
    /// What was not as it should be.
    pub problems: Vec<String>,
    pub operation: String,
    /// What `ctl rollback` itself would have exited with.
    pub exit_code: u8,
    pub hosts: Vec<HostReport>,
    /// From the start to the last answer of the bad release to a user; absent where it still answers.
    pub mitigated_ms: Option<u64>,
    /// The same as the edge measured it; absent where traffic was not moved.
    pub mitigated_at_edge_ms: Option<u64>,
    /// What users saw through the edge from the start on.
    pub users: Users,
    /// From the start to the operation's end.
    pub total_ms: u64,
    pub killed: Vec<Killed>,
    /// What the judge said of a canary, each time that it changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<Verdict>,
    /// The share of requests that failed under the bad release.
    pub error_rate_before: f64,
    /// The same after the rollback, of the hosts that answer.
    pub error_rate_after: f64,
}

/// What the judge said at a weight.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verdict {
    pub weight: u32,
    pub verdict: String,
    pub sentence: String,
}

/// What users saw through the edge.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Users {
    pub requests: u64,
    pub failures: u64,
    /// What answers them in the end; absent where nothing does.
    pub version: Option<String>,
}

/// One host's end.
#[derive(Clone, Debug, Serialize)]
pub(super) struct HostReport {
    pub host: String,
    pub group: String,
    pub outcome: String,
    /// Absent where the plan wants nothing there.
    pub version_wanted: Option<String>,
    /// By a request after the end; absent where nothing answers.
    pub version_observed: Option<String>,
    /// From the last good answer of the old release to the first of the wanted one, by a prober outside the agent;
    /// 0 where nothing was interrupted, absent where it never came back.
    pub outage_ms: Option<u64>,
    pub reason: String,
}

/// A process that was killed on purpose.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Killed {
    pub what: String,
    pub old_pid: u32,
    /// Absent where it was never started again.
    pub new_pid: Option<u32>,
    /// RFC 3339.
    pub at: String,
}

impl Document for Report {
    const TYPE: &'static str = "sandbox";
}

/// The same for people.
pub(super) fn text(view: &View, report: &Report) -> String {
    let mut table = Table::new(["HOST", "GROUP", "OUTCOME", "ANSWERS", "OUTAGE", "NOTE"]);
    let kind = match report.scenario {
        Scenario::CanaryAbort | Scenario::CanaryPromote | Scenario::DependencyOutage => {
            v1::OperationKind::Deploy
        }
        Scenario::Rollback
        | Scenario::BlueGreen
        | Scenario::CoordinatorCrash
        | Scenario::AgentCrash
        | Scenario::HostLost
        | Scenario::BadTarget => v1::OperationKind::Rollback,
    };
    for row in &report.hosts {
        let outage = match row.outage_ms {
            Some(ms) => format!("{ms} ms"),
            None if row.version_wanted.is_some() => "still down".to_owned(),
            None => "-".to_owned(),
        };
        let observed = row.version_observed.clone().unwrap_or_else(|| "-".to_owned());
        table.row([
            row.host.clone().into(),
            row.group.clone().into(),
            words::outcome_of(kind, &row.outcome).into(),
            observed.into(),
            outage.into(),
            row.reason.clone().into(),
        ]);
    }
    let name = report.scenario.to_possible_value();
    let name = name.as_ref().map_or("", |value| value.get_name());
    let mut text = format!("\nScenario {name}, operation {}\n", report.operation);
    text += &table.render(view);
    text += &match report.scenario {
        Scenario::BlueGreen => forward(report),
        Scenario::CanaryAbort | Scenario::CanaryPromote | Scenario::DependencyOutage => {
            canary(view, report)
        }
        Scenario::Rollback
        | Scenario::CoordinatorCrash
        | Scenario::AgentCrash
        | Scenario::HostLost
        | Scenario::BadTarget => back(report),
    };
    let verdict = if report.ok { "✓ as it should be" } else { "✗ not as it should be" };
    text += &format!("{verdict}\n");
    for problem in &report.problems {
        text += &format!("  {problem}\n");
    }
    text
}

fn forward(report: &Report) -> String {
    let deployed = report.mitigated_at_edge_ms.map_or_else(String::new, |ms| {
        format!("  Users were on the new release {ms} ms after the deploy began")
    });
    let back =
        report.mitigated_ms.map_or_else(String::new, |ms| format!("; back again took {ms} ms.\n"));
    deployed + &back + &users(&report.users)
}

fn canary(view: &View, report: &Report) -> String {
    let mut text = String::new();
    for verdict in &report.verdicts {
        let said = format!("{}: {}", verdict.verdict, verdict.sentence);
        text += &labelled(view, &format!("{:>3} %", verdict.weight), 6, &said);
    }
    if let Some(ms) = report.mitigated_ms {
        text += &format!(
            "  From the first failed request of a user to the last: {ms} ms; {} failed in all.\n",
            report.users.failures
        );
    }
    text + &users(&report.users)
}

fn back(report: &Report) -> String {
    let mut text = String::new();
    let percent = |rate: f64| format!("{:.0} %", rate * 100.0);
    text += &format!(
        "  Users saw {} of requests fail under {BAD}, {} afterwards.\n",
        percent(report.error_rate_before),
        percent(report.error_rate_after),
    );
    text += &match (report.mitigated_ms, report.mitigated_at_edge_ms) {
        (Some(ms), Some(edge)) => {
            format!("  No user got {BAD} after {ms} ms (the edge confirmed it after {edge} ms)")
        }
        (Some(ms), None) => format!("  The last answer of {BAD} came after {ms} ms"),
        (None, _) => format!("  {BAD} still answers"),
    };
    text += &format!("; every host was restored after {} ms.\n", report.total_ms);
    text += &users(&report.users);
    for killed in &report.killed {
        let again = killed
            .new_pid
            .map_or_else(|| "never started again".to_owned(), |pid| format!("pid {pid} took over"));
        text += &format!("  Killed: {} (pid {}), {again}.\n", killed.what, killed.old_pid);
    }
    text + &format!("  `ctl rollback` would have exited with {}.\n", report.exit_code)
}

fn users(users: &Users) -> String {
    if users.requests == 0 {
        return String::new();
    }
    format!(
        "  Through the edge: {} requests meanwhile, {} failed; it serves {} now.\n",
        users.requests,
        users.failures,
        users.version.as_deref().unwrap_or("nothing"),
    )
}

/// How a kept sandbox is used.
pub(super) fn kept(layout: &Layout, operation: &str) -> String {
    let Some(host) = layout.app_hosts().next() else { return String::new() };
    format!(
        "\nThe sandbox is left running in {}\n  \
         ctl --context {FLEET} status\n  \
         ctl --context {FLEET} releases\n  \
         ctl --context {FLEET} history\n  \
         ctl --context {FLEET} rollback --undo {operation}\n  \
         curl {}\n  \
         ctl sandbox --stop                ends it and removes it\n",
        layout.root.display(),
        host.url(5000, "/api/health"),
    )
}
