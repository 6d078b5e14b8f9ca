//! How a scenario went: the document, and the same for people.

use serde::Serialize;

use super::layout::{BAD, FLEET, Layout};
use crate::{
    out::Document,
    render::{View, table::Table},
};

/// The document of `-o json`. Names are a contract: added to, never changed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub scenario: &'static str,
    /// It ended as this scenario should.
    pub ok: bool,
    /// What was not as it should be.
    pub problems: Vec<String>,
    pub operation: String,
    /// What `ctl rollback` itself would have exited with.
    pub exit_code: u8,
    pub hosts: Vec<HostReport>,
    /// From the start to the last answer of the bad release anywhere; absent where it still answers.
    pub mitigated_ms: Option<u64>,
    /// From the start to the operation's end.
    pub total_ms: u64,
    pub killed: Vec<Killed>,
    /// The share of requests that failed under the bad release.
    pub error_rate_before: f64,
    /// The same after the rollback, of the hosts that answer.
    pub error_rate_after: f64,
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
            row.outcome.clone().into(),
            observed.into(),
            outage.into(),
            row.reason.clone().into(),
        ]);
    }
    let mut text = format!("\nScenario {}, operation {}\n", report.scenario, report.operation);
    text += &table.render(view);
    let percent = |rate: f64| format!("{:.0} %", rate * 100.0);
    text += &format!(
        "  Users saw {} of requests fail under {BAD}, {} afterwards.\n",
        percent(report.error_rate_before),
        percent(report.error_rate_after),
    );
    text += &match report.mitigated_ms {
        Some(ms) => format!("  The last answer of {BAD} came after {ms} ms"),
        None => format!("  {BAD} still answers"),
    };
    text += &format!("; the operation ended after {} ms.\n", report.total_ms);
    for killed in &report.killed {
        let again = killed
            .new_pid
            .map_or_else(|| "never started again".to_owned(), |pid| format!("pid {pid} took over"));
        text += &format!("  Killed: {} (pid {}), {again}.\n", killed.what, killed.old_pid);
    }
    text += &format!("  `ctl rollback` would have exited with {}.\n", report.exit_code);
    let verdict = if report.ok { "✓ as it should be" } else { "✗ not as it should be" };
    text += &format!("{verdict}\n");
    for problem in &report.problems {
        text += &format!("  {problem}\n");
    }
    text
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
