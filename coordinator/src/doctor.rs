//! Would a rollback work right now? What is known of each host, judged.
//!
//! ```text
//! fleet's record, hosts as they told just now, cuts of the last rollback, wall time ─▶ judge ─▶ Readiness
//! ```
//!
//! Invariant: pure. It judges what was measured; nothing is changed anywhere.
//! Invariant: ready means that a bare rollback would begin now and that nothing known says it would fail.

use std::collections::BTreeMap;

use engine::{
    ComponentName, Fleet, FleetState, GroupName, HostName, Inventory, ReleaseName, Standing,
    Timestamp, planner,
};
use proto::v1;

use crate::{
    host::{ComponentStatus, HeldSnapshot, Problem, live_release},
    sessions::Host,
};

const DAY_MS: i64 = 24 * 3600 * 1000;
/// A certificate that ends sooner was not renewed in time: agents do that at two thirds of its life.
const CERTIFICATE_SOON_MS: i64 = 7 * DAY_MS;
/// A way back that was not read for so long may have rotted unseen.
const VERIFIED_WITHIN_MS: i64 = 30 * DAY_MS;
/// Added to the bytes that have to be copied: directories, manifests, what the app writes meanwhile.
const SPACE_MARGIN_PERCENT: u64 = 10;

/// What is known when the question is asked.
#[derive(Debug)]
pub struct Known<'a> {
    pub state: &'a FleetState,
    pub inventory: &'a Inventory<'a>,
    /// As each host told last, connected or not.
    pub hosts: &'a BTreeMap<HostName, Host>,
    /// How long each host's capacity was cut by the last verified rollback.
    pub cuts_ms: &'a BTreeMap<HostName, u64>,
    pub fenced: Option<&'a str>,
    pub now: Timestamp,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub ready: bool,
    pub way_back: Option<ReleaseName>,
    /// Nothing older is good, but what is live is: a later deploy can be taken back to it.
    pub way_back_is_live: bool,
    pub hosts: Vec<HostReadiness>,
    pub findings: Vec<Finding>,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReadiness {
    pub host: HostName,
    pub group: GroupName,
    pub ready: bool,
    pub live: Option<String>,
    /// Nothing has to be copied to go back.
    pub staged: bool,
    pub bytes_needed: u64,
    pub free_bytes: u64,
    /// When every byte of its way back was last read.
    pub verified_at: Option<Timestamp>,
    pub certificate_ends: Option<Timestamp>,
    pub expected_cut_ms: u64,
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Absent where it is about the whole fleet.
    pub host: Option<HostName>,
    pub component: Option<ComponentName>,
    pub severity: Severity,
    pub what: String,
    pub mend: String,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Note,
    /// It would work now, and may not for long.
    Warning,
    /// A rollback would be refused, or fail there.
    Blocking,
}

/// Judges.
pub fn judge(known: &Known<'_>) -> Readiness {
    let mut findings = Vec::new();
    let live = live_and_good(known);
    let way_back = fleet_wide(known, live, &mut findings);
    let way_back_is_live = way_back.is_some() && way_back == live_everywhere(known);
    let mut hosts = Vec::new();
    if let Some(fleet) = &known.state.fleet {
        for (host, group) in fleet.hosts() {
            let components = fleet.components_of(group);
            findings.extend(traffic(known, host));
            if components.is_empty() {
                continue;
            }
            let names = components.iter().map(|component| &component.name).collect();
            let row = Judged { known, fleet, host, components: names, way_back: way_back.as_ref() };
            hosts.push(row.judge(group, &mut findings));
        }
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    // A host out of reach blocks only beyond the budget, and that the planner has judged.
    let ready = findings.iter().all(|finding| finding.severity != Severity::Blocking);
    Readiness { ready, way_back, way_back_is_live, hosts, findings }
}

/// What the sources of measurements say that do not answer: a canary holds without them, and a trigger is blind.
pub fn sources(tried: &[v1::SourceTried]) -> Vec<Finding> {
    let finding = |row: &v1::SourceTried| Finding {
        host: None,
        component: None,
        severity: Severity::Warning,
        what: format!("{}: {}", row.place, row.detail),
        mend: "ctl validate --online".to_owned(),
    };
    tried.iter().filter(|row| !row.ok).map(finding).collect()
}

/// What an edge says of its own proxy.
fn traffic(known: &Known<'_>, host: &HostName) -> Vec<Finding> {
    let seen = known.hosts.get(host).filter(|seen| seen.generation().is_some());
    let problems = seen.and_then(|seen| seen.status.traffic.as_ref()).map(|it| &it.problems);
    let finding = |problem: &Problem| Finding {
        host: Some(host.clone()),
        component: None,
        severity: Severity::Warning,
        what: problem.what.clone(),
        mend: problem.mend.clone(),
    };
    problems.into_iter().flatten().map(finding).collect()
}

/// The release that every connected host says is live.
fn live_everywhere(known: &Known<'_>) -> Option<ReleaseName> {
    let connected = known.hosts.iter().filter(|(_, seen)| seen.generation().is_some());
    let mut live = connected.flat_map(|(host, seen)| {
        seen.status.components.iter().map(|row| live_release(known.state, host, row))
    });
    let first = live.next()??;
    live.all(|other| other.as_ref() == Some(&first)).then_some(first)
}

/// The same, where it is good and whole: what a deploy from here is taken back to.
fn live_and_good(known: &Known<'_>) -> Option<ReleaseName> {
    let live = live_everywhere(known)?;
    let (standing, _) = known.state.releases.get(&live)?.standing();
    let request = planner::Request { to: Some(live.clone()), ..planner::Request::default() };
    let whole = planner::rollback(known.inventory, &request).is_ok();
    (whole && standing == Standing::Good).then_some(live)
}

/// What is about no single host; answers the release that a bare rollback would take.
fn fleet_wide(
    known: &Known<'_>,
    live: Option<ReleaseName>,
    findings: &mut Vec<Finding>,
) -> Option<ReleaseName> {
    let mut find = |severity, what: String, mend: &str| {
        let mend = mend.to_owned();
        findings.push(Finding { host: None, component: None, severity, what, mend });
    };
    if let Some(why) = known.fenced {
        let what = format!("this coordinator dispatches nothing: {why}");
        find(Severity::Blocking, what, "use the coordinator that took over, or stop it");
    }
    if let Some(operation) = &known.state.busy {
        let what = format!("operation {operation} holds the fleet");
        find(Severity::Warning, what, &format!("ctl watch {operation}"));
    }
    if let Some(why) = planner::immovable(known.inventory) {
        let what = format!("{why}: a rollback would leave the traffic and restore hosts in place");
        find(Severity::Warning, what, &movable_again(known));
    }
    let way_back = match planner::way_back(known.inventory) {
        Ok(release) => release,
        Err(planner::Refusal::NoTarget { .. }) if live.is_some() => return live,
        Err(planner::Refusal::NoTarget { candidates }) if candidates.is_empty() => {
            let what = "nothing is recorded yet that it could go back to".to_owned();
            find(Severity::Blocking, what, "ctl snapshot create --as NAME");
            return None;
        }
        Err(refusal) => {
            let looked_at: Vec<String> = match &refusal {
                planner::Refusal::NoTarget { candidates } => candidates
                    .iter()
                    .map(|one| format!("; {}: {}", one.release, one.why_not))
                    .collect(),
                planner::Refusal::NotKnown { .. }
                | planner::Refusal::MarkedBad { .. }
                | planner::Refusal::NotWhole { .. }
                | planner::Refusal::TooManyUnreachable { .. }
                | planner::Refusal::NothingToUndo(_)
                | planner::Refusal::NotNewest { .. }
                | planner::Refusal::StillRuns(_)
                | planner::Refusal::NoHosts
                | planner::Refusal::Frozen { .. }
                | planner::Refusal::Quarantined { .. }
                | planner::Refusal::NoArtefacts(_)
                | planner::Refusal::NotFetched { .. }
                | planner::Refusal::Traffic(_)
                | planner::Refusal::Canary(_)
                | planner::Refusal::Warm { .. }
                | planner::Refusal::Defect(_) => Vec::new(),
            };
            let what = format!("{refusal}{}", looked_at.concat());
            find(Severity::Blocking, what, "ctl releases");
            return None;
        }
    };
    let request = planner::Request { to: Some(way_back.clone()), ..planner::Request::default() };
    if let Err(refusal) = planner::rollback(known.inventory, &request) {
        let what = format!("a rollback to {way_back} would be refused: {refusal}");
        find(Severity::Blocking, what, &format!("ctl rollback --to {way_back} --dry-run"));
    }
    if let Some(what) = warm(known, &way_back) {
        find(Severity::Note, what, "");
    }
    Some(way_back)
}

/// What makes the edges move traffic again.
fn movable_again(known: &Known<'_>) -> String {
    let Some((fleet, traffic)) = known.state.fleet.as_ref().and_then(|fleet| {
        let traffic = fleet.traffic.as_ref()?;
        Some((fleet, traffic))
    }) else {
        return String::new();
    };
    let edges = || fleet.hosts().filter(|(_, group)| **group == traffic.edge).map(|(host, _)| host);
    let seen = |host: &HostName| {
        known.hosts.get(host).filter(|seen| seen.generation().is_some()).map(|seen| &seen.status)
    };
    if let Some(away) = edges().find(|host| seen(host).is_none()) {
        return format!("on {away}: systemctl status lastgood-agent");
    }
    // What was set once and cannot be told now is the proxy's trouble; it says so itself.
    let mute = |host: &&HostName| {
        let traffic = seen(host).and_then(|status| status.traffic.as_ref());
        traffic.is_some_and(|told| told.observed.is_none() && told.asked.is_some())
    };
    if let Some(mute) = edges().find(mute) {
        return format!("on {mute}: see that its proxy runs; then: ctl doctor");
    }
    let slots: Vec<&str> = traffic.slots.iter().map(GroupName::as_str).collect();
    format!("ctl switch --to SLOT, one of: {}", slots.join(", "))
}

/// The side that traffic left last, while it still stands with the way back: going there needs no copy and no start.
fn warm(known: &Known<'_>, way_back: &ReleaseName) -> Option<String> {
    let warm = known.state.warm.as_ref()?;
    let left_ms = warm.until.0.saturating_sub(known.now.0);
    let ready = left_ms > 0 && warm.release == *way_back;
    ready.then(|| {
        let minutes = left_ms / 60_000 + 1;
        format!(
            "{} still runs {way_back}, for {minutes} more min: a rollback would move the traffic there first",
            warm.group
        )
    })
}

struct Judged<'a> {
    known: &'a Known<'a>,
    fleet: &'a Fleet,
    host: &'a HostName,
    components: Vec<&'a ComponentName>,
    way_back: Option<&'a ReleaseName>,
}

impl Judged<'_> {
    fn judge(&self, group: &GroupName, findings: &mut Vec<Finding>) -> HostReadiness {
        let mut row = HostReadiness {
            host: self.host.clone(),
            group: group.clone(),
            ready: false,
            live: None,
            staged: false,
            bytes_needed: 0,
            free_bytes: 0,
            verified_at: None,
            certificate_ends: None,
            expected_cut_ms: self.known.cuts_ms.get(self.host).copied().unwrap_or(0),
        };
        let mut found = Vec::new();
        match self.known.hosts.get(self.host) {
            None => found.push(self.finding(
                None,
                Severity::Warning,
                "its agent was never connected".to_owned(),
                format!("ctl agent token create --host {}", self.host),
            )),
            Some(seen) => {
                if seen.generation().is_none() {
                    found.push(self.finding(
                        None,
                        Severity::Warning,
                        "its agent is not connected; what follows is what it told last".to_owned(),
                        "on the host: systemctl status lastgood-agent".to_owned(),
                    ));
                }
                self.identity(seen, &mut row, &mut found);
                self.policy(seen, &mut found);
                for status in &seen.status.components {
                    self.component(status, &mut found);
                }
                for Problem { what, mend, warns: _ } in seen.status.alarms(self.known.state) {
                    found.push(self.finding(None, Severity::Warning, what, mend));
                }
                self.damage(seen, &mut found);
                self.way_back(seen, &mut row, &mut found);
                let live = seen.status.components.iter();
                let live: Vec<String> = live
                    .map(|status| live_release(self.known.state, self.host, status))
                    .map(|release| release.map_or_else(|| "?".to_owned(), |name| name.to_string()))
                    .collect();
                row.live = live.first().map(|first| {
                    if live.iter().all(|other| other == first) {
                        first.clone()
                    } else {
                        live.join(", ")
                    }
                });
                row.free_bytes = seen.status.free_bytes;
            }
        }
        let connected =
            self.known.hosts.get(self.host).is_some_and(|seen| seen.generation().is_some());
        let blocked = found.iter().any(|finding| finding.severity == Severity::Blocking);
        row.ready = connected && self.way_back.is_some() && !blocked;
        findings.extend(found);
        row
    }

    fn identity(&self, seen: &Host, row: &mut HostReadiness, found: &mut Vec<Finding>) {
        row.certificate_ends = Some(seen.certificate_ends);
        let left_ms = seen.certificate_ends.0.saturating_sub(self.known.now.0);
        let mend = format!(
            "on the host: systemctl restart lastgood-agent; else: ctl agent token create --host {}",
            self.host
        );
        if left_ms <= 0 {
            let what = "its certificate has ended: once its session is lost it will not come back";
            found.push(self.finding(None, Severity::Warning, what.to_owned(), mend));
        } else if left_ms < CERTIFICATE_SOON_MS {
            let what = format!("its certificate ends in {}", days(left_ms));
            found.push(self.finding(None, Severity::Warning, what, mend));
        }
    }

    fn policy(&self, seen: &Host, found: &mut Vec<Finding>) {
        if seen.status.policy_drift(Some(self.fleet), self.host) {
            let mend = format!(
                "ctl policy render --host {} > policy.yaml; bring it there, then restart its agent",
                self.host
            );
            let what = "its policy file is not the one that the fleet file says".to_owned();
            found.push(self.finding(None, Severity::Warning, what, mend));
        }
        for component in &self.components {
            let known = seen.status.components.iter().any(|status| status.component == **component);
            if !known {
                let mend = format!("ctl policy render --host {} > policy.yaml", self.host);
                let what = "it is not in the policy there".to_owned();
                found.push(self.finding(Some(component), Severity::Blocking, what, mend));
            }
        }
    }

    fn component(&self, status: &ComponentStatus, found: &mut Vec<Finding>) {
        let name = Some(&status.component);
        if status.held {
            let what = "a switch was begun and not ended; its services are held back".to_owned();
            let mend = "on the host: agent local status".to_owned();
            found.push(self.finding(name, Severity::Blocking, what, mend));
        }
        for problem in &status.problems {
            let (what, mend) = (problem.what.clone(), problem.mend.clone());
            let severity = if problem.warns { Severity::Warning } else { Severity::Blocking };
            found.push(self.finding(name, severity, what, mend));
        }
        if status.changed {
            let what =
                "files were changed since the release was put there; they are kept beside it"
                    .to_owned();
            found.push(self.finding(name, Severity::Note, what, String::new()));
        }
        for check in status.checks.iter().filter(|check| !check.ok) {
            let what = format!("check `{}` fails now: {}", check.check, check.detail);
            found.push(self.finding(name, Severity::Note, what, String::new()));
        }
    }

    /// Damage is blocking on the way back, and a warning on any other.
    fn damage(&self, seen: &Host, found: &mut Vec<Finding>) {
        for snapshot in &seen.status.snapshots {
            let Some(damage) = &snapshot.damage else { continue };
            let name = snapshot
                .release
                .as_ref()
                .map_or_else(|| "a release that was replaced".to_owned(), ToString::to_string);
            let severity = if snapshot.release.as_ref() == self.way_back {
                Severity::Blocking
            } else {
                Severity::Warning
            };
            let what = format!("{name} is damaged there: {damage}");
            let mend = "go back to another: ctl releases".to_owned();
            found.push(self.finding(Some(&snapshot.component), severity, what, mend));
        }
    }

    fn way_back(&self, seen: &Host, row: &mut HostReadiness, found: &mut Vec<Finding>) {
        let Some(release) = self.way_back else { return };
        let mut held: Vec<&HeldSnapshot> = Vec::new();
        for component in &self.components {
            let of = seen.status.snapshots.iter().filter(|row| row.component == **component);
            match of.into_iter().find(|row| row.release.as_ref() == Some(release)) {
                Some(snapshot) => held.push(snapshot),
                None => {
                    let what = format!("{release} is not there: nothing to go back to");
                    let mend = "ctl releases".to_owned();
                    found.push(self.finding(Some(component), Severity::Blocking, what, mend));
                }
            }
        }
        let to_copy = held.iter().filter(|snapshot| !snapshot.staged).map(|row| row.size_bytes);
        row.bytes_needed = to_copy.sum();
        row.staged = !held.is_empty() && held.iter().all(|snapshot| snapshot.staged);
        let wanted = row.bytes_needed.saturating_mul(100 + SPACE_MARGIN_PERCENT) / 100;
        if wanted > seen.status.free_bytes {
            let what = format!(
                "{release} needs {wanted} bytes there, {} are free",
                seen.status.free_bytes
            );
            let mend = "make room on the host".to_owned();
            found.push(self.finding(None, Severity::Blocking, what, mend));
        }
        row.verified_at = held.iter().map(|snapshot| snapshot.verified_at).min().flatten();
        let old = |at: Timestamp| self.known.now.0.saturating_sub(at.0) > VERIFIED_WITHIN_MS;
        if !held.is_empty() && row.verified_at.is_none_or(old) {
            let what = match row.verified_at {
                None => format!("{release} was never read back there"),
                Some(at) => {
                    let age = days(self.known.now.0.saturating_sub(at.0));
                    format!("{release} was last read back there {age} ago")
                }
            };
            let mend = format!("ctl snapshot verify {release}");
            found.push(self.finding(None, Severity::Warning, what, mend));
        }
    }

    fn finding(
        &self,
        component: Option<&ComponentName>,
        severity: Severity,
        what: String,
        mend: String,
    ) -> Finding {
        let (host, component) = (Some(self.host.clone()), component.cloned());
        Finding { host, component, severity, what, mend }
    }
}

fn days(ms: i64) -> String {
    match ms / DAY_MS {
        0 => format!("{} h", ms / 3_600_000),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}
