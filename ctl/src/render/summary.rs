//! How an operation ended: the one thing to read at 3 a.m.
//!
//! ```text
//! verified     ✓ prod serves v1.4.2 … , hosts, what to know, how to undo
//! anything else ✗ what, Cause (the hosts' own words), Now (state), Next (commands), hosts
//! ```
//!
//! Invariant: a host that is unknown or failed is named; nothing that is not verified reads like success.

use anstyle::Style;
use proto::v1;

use super::{
    BAD, BOLD, DIM, GOOD, View, WARN, canary, edge,
    failure::{self, LABEL_WIDTH},
    field, paint,
    table::{Cell, Table, styled},
    words::{self, between_ms, clean, count, duration_ms, or_dash, some_of},
};
use crate::{error::Failure, session::quote};

/// More hosts than this are counted by outcome, and only those that are not restored are listed.
const HOSTS_LISTED_MAX: usize = 12;

/// The end of an operation, several lines; or how it stands, where it has not ended. `ctl` begins each command.
/// `traffic` is what the edges say now, where an operation that moves traffic did not succeed.
pub fn summary(
    view: &View,
    operation: &v1::Operation,
    ctl: &str,
    traffic: Option<&v1::TrafficView>,
) -> String {
    let default = v1::Plan::default();
    let plan = operation.plan.as_ref().unwrap_or(&default);
    let told = Told { view, operation, plan, ctl, traffic };
    match v1::OperationResult::try_from(operation.result) {
        Ok(v1::OperationResult::Verified) => told.verified(),
        Ok(v1::OperationResult::Running | v1::OperationResult::Paused) => told.going_on(),
        Ok(result) => told.failed(result),
        Err(_) => told.failed(v1::OperationResult::Unspecified),
    }
}

struct Told<'a> {
    view: &'a View,
    operation: &'a v1::Operation,
    plan: &'a v1::Plan,
    ctl: &'a str,
    traffic: Option<&'a v1::TrafficView>,
}

impl Told<'_> {
    fn verified(&self) -> String {
        let planned = self.planned().count();
        let (fleet, to) = (clean(&self.plan.fleet), or_dash(&self.plan.to_release));
        let what = match v1::OperationKind::try_from(self.plan.kind) {
            Ok(v1::OperationKind::Fetch) => {
                format!("{to} is on {}; nothing live was touched", count(planned, "host"))
            }
            Ok(v1::OperationKind::Switch) => format!("{fleet} serves {to}: the traffic has moved"),
            Ok(v1::OperationKind::Deploy) => {
                let on_it = self.with(v1::Outcome::Restored).len();
                format!("{fleet} serves {to}; {on_it} of {} verified", count(planned, "host"))
            }
            Ok(v1::OperationKind::Rollback | v1::OperationKind::Undo) => {
                let restored = self.with(v1::Outcome::Restored).len();
                format!(
                    "{fleet} serves {to}; {restored} of {} restored and verified",
                    count(planned, "host")
                )
            }
            Ok(v1::OperationKind::Snapshot) => {
                format!("{to} is recorded and its checks hold on {}", count(planned, "host"))
            }
            Ok(v1::OperationKind::Check) => {
                format!("every byte of {to} is whole on {}", count(planned, "host"))
            }
            Ok(v1::OperationKind::Unspecified) | Err(_) => format!("{} is verified", self.id()),
        };
        let mut text = self.first_line(GOOD, "✓", &what);
        text += &super::traffic::times(self.view, self.operation, self.plan);
        text += &self.promoted();
        text += &self.hosts();
        text += &self.seen_from_the_edge();
        let frozen = match self.plan.from_release.as_str() {
            "" => String::new(),
            left => format!(", so that nothing puts {} back", clean(left)),
        };
        if self.plan.marks_from_bad {
            text += &format!("  {} is marked bad.\n", or_dash(&self.plan.from_release));
        }
        if self.plan.freezes {
            text += &format!("  New deploys to {fleet} are frozen{frozen}.\n");
            text += &format!(
                "  {:<LABEL_WIDTH$}{} freeze off --fleet {} --reason '…'\n",
                "Lift",
                self.ctl,
                quote(&self.plan.fleet)
            );
        }
        if self.moves() {
            text += &format!("  {:<LABEL_WIDTH$}{}\n", "Undo", self.undo());
        }
        text
    }

    fn going_on(&self) -> String {
        let paused = self.operation.result() == v1::OperationResult::Paused;
        let what = if paused { "is paused: no new host begins" } else { "goes on" };
        let mut text = self.first_line(WARN, "…", &format!("{} {what}", self.id()));
        text += &super::traffic::times(self.view, self.operation, self.plan);
        text += &self.hosts();
        if super::plan::is_canary(self.plan) {
            let fleet = quote(&self.plan.fleet);
            let second = if paused { "resume" } else { "status" };
            for (label, command) in [("Next", second), ("", "abort")] {
                text += &format!(
                    "  {label:<LABEL_WIDTH$}{} canary {command} --fleet {fleet}\n",
                    self.ctl
                );
            }
            return text;
        }
        let first = if paused { "resume" } else { "watch" };
        for (label, command) in [("Next", first), ("", "abort")] {
            let restore = if command == "abort" { " --restore" } else { "" };
            text +=
                &format!("  {label:<LABEL_WIDTH$}{} {command} {}{restore}\n", self.ctl, self.id());
        }
        text
    }

    fn failed(&self, result: v1::OperationResult) -> String {
        let what = match result {
            v1::OperationResult::Refused => format!("{} was refused before any change", self.id()),
            v1::OperationResult::PutBack => self.put_back(),
            v1::OperationResult::Mixed if !self.moves() => {
                format!("{} did not succeed on every host", self.id())
            }
            v1::OperationResult::Mixed => {
                format!("{}: {} is mixed and needs a person", self.id(), clean(&self.plan.fleet))
            }
            v1::OperationResult::Unverified => {
                let to = or_dash(&self.plan.to_release);
                format!("{}: {to} runs everywhere but is not verified everywhere", self.id())
            }
            v1::OperationResult::Unspecified
            | v1::OperationResult::Running
            | v1::OperationResult::Paused
            | v1::OperationResult::Verified => {
                format!("{} ended as {}", self.id(), words::result(self.operation.result))
            }
        };
        let failure = Failure {
            what: String::new(),
            cause: self.causes(),
            now: self.now(result),
            next: self.next(result),
        };
        let mut text = self.first_line(BAD, "✗", &what);
        text += &failure::rest(self.view, &failure);
        text += &super::traffic::times(self.view, self.operation, self.plan);
        text += &self.hosts();
        match result {
            v1::OperationResult::Mixed | v1::OperationResult::Unverified => {
                text + &self.seen_from_the_edge()
            }
            // Nothing has moved that could be seen.
            v1::OperationResult::Refused
            | v1::OperationResult::PutBack
            | v1::OperationResult::Unspecified
            | v1::OperationResult::Running
            | v1::OperationResult::Paused
            | v1::OperationResult::Verified => text,
        }
    }

    /// Who took it back, where somebody did.
    fn put_back(&self) -> String {
        let (id, to) = (self.id(), or_dash(&self.plan.to_release));
        match self.operation.aborted_by.as_str() {
            "" => format!("{id} did not succeed; everything was put back"),
            "judge" => format!("{id}: the judge took {to} back; everything is as it was"),
            "lastgood" => format!("{id}: {to} was taken back by itself; everything is as it was"),
            by if words::by_itself(by) => {
                format!("{id}: {} took {to} back; everything is as it was", clean(by))
            }
            by => format!("{id} was aborted by {}; everything was put back", clean(by)),
        }
    }

    /// What the judge said last of a canary that went through.
    fn promoted(&self) -> String {
        let said = self.operation.canary.as_ref().and_then(|canary| canary.ruling.as_ref());
        said.map_or_else(String::new, |said| field(self.view, "Judge", &canary::ruling(said)))
    }

    /// What the hosts saw that need the others, once those had moved. Nothing where there are none.
    fn seen_from_the_edge(&self) -> String {
        let traffic = super::plan::edges(self.plan);
        let after_a_cut = self.plan.stages.iter().skip_while(|stage| !stage.cuts_capacity).skip(1);
        // Where an edge moves the traffic, what comes after it are hosts that need nobody: they are no edge.
        let needs = |stage: &&v1::Stage| traffic.is_empty() || is_look(stage);
        let tracks = after_a_cut.filter(needs).flat_map(|stage| &stage.batches);
        let tracks = tracks.flat_map(|batch| &batch.tracks).map(|track| track.host.as_str());
        let edge: Vec<&str> = tracks.chain(traffic.iter().copied()).collect();
        let mut said: Vec<(String, Vec<&str>)> = Vec::new();
        for host in self.operation.hosts.iter().filter(|host| edge.contains(&host.host.as_str())) {
            let what = match host.outcome() {
                v1::Outcome::Restored => format!("verified, reports {}", observed(host)),
                v1::Outcome::Failed => "not verified".to_owned(),
                v1::Outcome::Unknown => "unknown".to_owned(),
                v1::Outcome::Original | v1::Outcome::Skipped | v1::Outcome::Unspecified => {
                    "not looked at".to_owned()
                }
            };
            match said.iter_mut().find(|(known, _)| *known == what) {
                Some((_, names)) => names.push(&host.host),
                None => said.push((what, vec![&host.host])),
            }
        }
        let lines = said.into_iter().enumerate().map(|(index, (what, names))| {
            let label = if index == 0 { "From the edge" } else { "" };
            format!("  {label:<15}{}: {what}\n", some_of(names, 40))
        });
        lines.collect()
    }

    fn first_line(&self, style: Style, mark: &str, what: &str) -> String {
        let end = match self.operation.ended_unix_ms {
            0 => self.view.now.as_millisecond(),
            ended => ended,
        };
        let took = duration_ms(between_ms(self.operation.started_unix_ms, end));
        edge(self.view, &format!("{} {}", paint(style, mark), paint(BOLD, what)), &took)
    }

    /// Why it halted, then every host that is in trouble, in its own words.
    fn causes(&self) -> Vec<String> {
        let halted = Some(self.operation.halted.clone()).filter(|why| !why.is_empty());
        // Why the judge said fail is said once, and first.
        let ruling = self.operation.canary.as_ref().and_then(|canary| canary.ruling.as_ref());
        let failed = ruling.filter(|ruling| ruling.verdict() == v1::Verdict::Fail);
        let sentence = failed.map(|ruling| ruling.sentence.clone());
        let sentence = sentence.filter(|said| !said.is_empty());
        let halted =
            halted.filter(|why| sentence.as_ref().is_none_or(|said| !why.contains(said.as_str())));
        let hosts = self.operation.hosts.iter();
        // Hosts that went back because somebody wanted it are no cause.
        let wanted = !self.operation.aborted_by.is_empty();
        let hosts = hosts.filter(|host| !host.reason.is_empty() && is_trouble(host));
        let hosts = hosts.filter(|host| !wanted || host.outcome() != v1::Outcome::Original);
        // Hosts that say the same share a line.
        let mut seen: Vec<(&str, Vec<&str>)> = Vec::new();
        for host in hosts {
            match seen.iter_mut().find(|(reason, _)| *reason == host.reason) {
                Some((_, names)) => names.push(&host.host),
                None => seen.push((&host.reason, vec![&host.host])),
            }
        }
        let said =
            seen.into_iter().map(|(reason, names)| format!("{}: {reason}", some_of(names, 40)));
        sentence.into_iter().chain(halted).chain(said).collect()
    }

    /// How things stand: the hosts, and then what users get.
    fn now(&self, result: v1::OperationResult) -> Vec<String> {
        let traffic = self.traffic.map(super::traffic::told).unwrap_or_default();
        self.hosts_now(result).into_iter().chain(traffic).collect()
    }

    fn hosts_now(&self, result: v1::OperationResult) -> Vec<String> {
        let was = match self.plan.from_release.as_str() {
            "" => "what ran before".to_owned(),
            was => clean(was),
        };
        match result {
            v1::OperationResult::Refused => {
                return vec![format!(
                    "nothing was stopped, nothing was changed; {was} is still live"
                )];
            }
            v1::OperationResult::PutBack => {
                // The side without users may have been on another.
                let known = |host: &&v1::PlannedHost| !host.from_release.is_empty();
                let mut known = self.planned().filter(known);
                let alike = known.all(|host| host.from_release == self.plan.from_release);
                let on = if alike { format!(", on {was}") } else { String::new() };
                return vec![format!("every host is as it was before{on}")];
            }
            v1::OperationResult::Unspecified
            | v1::OperationResult::Running
            | v1::OperationResult::Paused
            | v1::OperationResult::Verified
            | v1::OperationResult::Mixed
            | v1::OperationResult::Unverified => {}
        }
        let on_target = format!("on {}", or_dash(&self.plan.to_release));
        let parts = [
            (v1::Outcome::Failed, "failed".to_owned()),
            (v1::Outcome::Unknown, "unknown, counted as down".to_owned()),
            (v1::Outcome::Restored, on_target),
            (v1::Outcome::Original, "as before".to_owned()),
            (v1::Outcome::Unspecified, "not reached".to_owned()),
        ];
        let parts = parts.into_iter().filter_map(|(outcome, words)| {
            let names = self.with(outcome);
            (!names.is_empty()).then(|| format!("{words}: {}", some_of(names, 50)))
        });
        parts.collect()
    }

    fn next(&self, result: v1::OperationResult) -> Vec<String> {
        let (ctl, id, fleet) = (self.ctl, self.id(), quote(&self.plan.fleet));
        let trouble =
            self.with(v1::Outcome::Failed).into_iter().chain(self.with(v1::Outcome::Original));
        let host =
            trouble.map(|host| format!(" --host {}", quote(host))).next().unwrap_or_default();
        let mut next = Vec::new();
        if self.edge_in_the_way() {
            let to = quote(&self.plan.to_release);
            next.push(format!("{ctl} rollback --fleet {fleet} --to {to} --in-place"));
        }
        next.push(format!("{ctl} logs {id}{host}"));
        if !self.moves() {
            next.push(format!("{ctl} retry {id}"));
            return next;
        }
        match result {
            v1::OperationResult::Refused => {
                next.push(format!("{ctl} releases --fleet {fleet}"));
                next.push(format!("{ctl} rollback --fleet {fleet} --to RELEASE"));
            }
            // What was taken back on purpose is not to be tried again as it is.
            v1::OperationResult::PutBack if !self.operation.aborted_by.is_empty() => {
                next.push(format!("{ctl} status --fleet {fleet}"));
            }
            v1::OperationResult::PutBack => {
                next.push(format!("{ctl} retry {id}"));
                next.push(format!("{ctl} rollback --fleet {fleet} --to RELEASE"));
            }
            v1::OperationResult::Mixed
            | v1::OperationResult::Unverified
            | v1::OperationResult::Unspecified
            | v1::OperationResult::Running
            | v1::OperationResult::Paused
            | v1::OperationResult::Verified => {
                next.push(format!("{ctl} retry {id}    # hosts that are not on target"));
                next.push(format!("{}    # everything as it was before", self.undo()));
            }
        }
        next
    }

    fn hosts(&self) -> String {
        let all = self.operation.hosts.len();
        let quiet = |host: &v1::HostOutcome| {
            matches!(host.outcome(), v1::Outcome::Restored | v1::Outcome::Skipped)
        };
        let short = all > HOSTS_LISTED_MAX;
        let mut table = if self.moves() {
            Table::new(["HOST", "GROUP", "OUTCOME", "RELEASE", "REPORTS", "OUT FOR"])
        } else {
            Table::new(["HOST", "GROUP", "OUTCOME", "REPORTS", "NOTES"])
        };
        let mut hidden = 0;
        for host in &self.operation.hosts {
            if short && quiet(host) {
                hidden += 1;
                continue;
            }
            if self.moves() {
                table.row(self.moved(host));
            } else {
                table.row(self.looked_at(host));
            }
        }
        let mut text = table.render(self.view);
        if hidden > 0 {
            let restored = self.with(v1::Outcome::Restored).len();
            text += &format!(
                "  {}\n",
                paint(
                    DIM,
                    &format!(
                        "and {hidden} more: {restored} {}, {} skipped",
                        words::outcome_of(self.plan.kind(), "restored"),
                        hidden - restored
                    )
                )
            );
        }
        text
    }

    fn moved(&self, host: &v1::HostOutcome) -> [Cell; 6] {
        let out = if host.cut_ms == 0 { "-".to_owned() } else { duration_ms(host.cut_ms) };
        [
            clean(&host.host).into(),
            clean(&host.group).into(),
            styled(outcome_style(host.outcome), self.outcome(host)),
            self.release(host).into(),
            observed(host).into(),
            out.into(),
        ]
    }

    /// A host of an operation that moves none. What is said above as a cause is not said again.
    fn looked_at(&self, host: &v1::HostOutcome) -> [Cell; 5] {
        let told = self.operation.result() != v1::OperationResult::Verified && is_trouble(host);
        let note = if told { String::new() } else { clean(&host.reason) };
        [
            clean(&host.host).into(),
            clean(&host.group).into(),
            styled(outcome_style(host.outcome), self.outcome(host)),
            observed(host).into(),
            note.into(),
        ]
    }

    fn outcome(&self, host: &v1::HostOutcome) -> String {
        words::outcome_of(self.plan.kind(), &words::outcome(host.outcome)).to_owned()
    }

    /// Where the host came from and went to, as far as that is known.
    fn release(&self, host: &v1::HostOutcome) -> String {
        let Some(planned) = self.plan.hosts.iter().find(|planned| planned.host == host.host) else {
            return "-".to_owned();
        };
        if !planned.left_out.is_empty() {
            return clean(&planned.left_out);
        }
        if super::plan::edges(self.plan).contains(host.host.as_str()) {
            return "divides the traffic".to_owned();
        }
        let (from, to) = (or_dash(&planned.from_release), or_dash(&planned.to_release));
        match host.outcome() {
            v1::Outcome::Restored if from == to => format!("{to}, in place"),
            v1::Outcome::Failed | v1::Outcome::Unknown if from == to => format!("{to} ?"),
            v1::Outcome::Restored => format!("{from} → {to}"),
            v1::Outcome::Original => format!("{from}, as before"),
            v1::Outcome::Failed | v1::Outcome::Unknown => format!("{from} → {to} ?"),
            v1::Outcome::Unspecified | v1::Outcome::Skipped => from,
        }
    }

    fn with(&self, outcome: v1::Outcome) -> Vec<&str> {
        let hosts = self.operation.hosts.iter().filter(|host| host.outcome() == outcome);
        hosts.map(|host| host.host.as_str()).collect()
    }

    /// Hosts that have something to do.
    fn planned(&self) -> impl Iterator<Item = &v1::PlannedHost> {
        self.plan.hosts.iter().filter(|host| host.left_out.is_empty())
    }

    /// Whether it moves hosts from one release to another.
    fn moves(&self) -> bool {
        matches!(
            v1::OperationKind::try_from(self.plan.kind),
            Ok(v1::OperationKind::Rollback
                | v1::OperationKind::Undo
                | v1::OperationKind::Deploy
                | v1::OperationKind::Switch)
        )
    }

    /// Whether a way back stopped at an edge that could not move the traffic: hosts can go back without it.
    fn edge_in_the_way(&self) -> bool {
        let back =
            matches!(self.plan.kind(), v1::OperationKind::Rollback | v1::OperationKind::Undo);
        let edges = super::plan::edges(self.plan);
        let stuck =
            |host: &&v1::HostOutcome| edges.contains(host.host.as_str()) && is_trouble(host);
        back && self.operation.mitigated_unix_ms == 0
            && !self.plan.to_release.is_empty()
            && self.operation.hosts.iter().any(|host| stuck(&host))
    }

    /// The command that takes it back.
    fn undo(&self) -> String {
        format!("{} {} {}", self.ctl, words::undo(self.plan.kind), self.id())
    }

    fn id(&self) -> String {
        clean(&self.operation.id)
    }
}

/// Whether a stage only looks.
fn is_look(stage: &v1::Stage) -> bool {
    let mut tracks = stage.batches.iter().flat_map(|batch| &batch.tracks);
    let looks = |step: &v1::Step| step.verb() == v1::Verb::Verify;
    !stage.cuts_capacity && tracks.all(|track| track.steps.iter().all(looks))
}

fn is_trouble(host: &v1::HostOutcome) -> bool {
    matches!(host.outcome(), v1::Outcome::Failed | v1::Outcome::Unknown | v1::Outcome::Original)
}

/// The version that the host's own checks reported last; each once.
pub fn observed(host: &v1::HostOutcome) -> String {
    let mut versions: Vec<String> = Vec::new();
    for evidence in host.evidence.iter().filter(|evidence| !evidence.version.is_empty()) {
        let version = clean(&evidence.version);
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    if versions.is_empty() { "-".to_owned() } else { versions.join(" ") }
}

/// The colour of an outcome.
pub(super) fn outcome_style(outcome: i32) -> Style {
    match v1::Outcome::try_from(outcome) {
        Ok(v1::Outcome::Restored) => GOOD,
        Ok(v1::Outcome::Original) => WARN,
        Ok(v1::Outcome::Failed | v1::Outcome::Unknown) => BAD,
        Ok(v1::Outcome::Skipped | v1::Outcome::Unspecified) | Err(_) => DIM,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{
        tests::{plain, view},
        watch::tests::{operation, started_ms},
    };

    fn host(host: &str, group: &str, outcome: v1::Outcome, reason: &str) -> v1::HostOutcome {
        let version = if outcome == v1::Outcome::Restored {
            "v1.4.2"
        } else if outcome == v1::Outcome::Original {
            "v1.4.3"
        } else {
            ""
        };
        let evidence = v1::Evidence {
            component: "crm".to_owned(),
            version: version.to_owned(),
            ..v1::Evidence::default()
        };
        v1::HostOutcome {
            host: host.to_owned(),
            group: group.to_owned(),
            outcome: outcome.into(),
            reason: reason.to_owned(),
            evidence: vec![evidence],
            cut_ms: if version.is_empty() { 0 } else { 2_140 },
        }
    }

    fn ended(
        result: v1::OperationResult,
        outcomes: [(v1::Outcome, &str); 5],
        halted: &str,
    ) -> v1::Operation {
        let names = [
            ("crm-b1", "blue"),
            ("crm-b2", "blue"),
            ("crm-c1", "canary"),
            ("crm-g1", "green"),
            ("crm-g2", "green"),
        ];
        let mut hosts: Vec<v1::HostOutcome> = names
            .into_iter()
            .zip(outcomes)
            .map(|((name, group), (outcome, reason))| host(name, group, outcome, reason))
            .collect();
        hosts.push(host("lb-1", "edge", v1::Outcome::Skipped, "has no component of the app"));
        v1::Operation {
            result: result.into(),
            ended_unix_ms: started_ms() + 96_400,
            hosts,
            halted: halted.to_owned(),
            ..operation()
        }
    }

    const CAUSE: &str = "verify crm: GET http://127.0.0.1:5000/api/health → 503, 30 of 30; running version is v1.4.2";

    #[test]
    fn verified() {
        let operation = ended(v1::OperationResult::Verified, [(v1::Outcome::Restored, ""); 5], "");
        insta::assert_snapshot!(plain(&summary(&view(), &operation, "ctl", None)));
    }

    /// A rollback that moves users first; the edge ends so.
    fn traffic_first(result: v1::OperationResult, edge: v1::Outcome, why: &str) -> v1::Operation {
        use v1::Outcome::{Original, Restored};
        let done = if edge == Restored { Restored } else { Original };
        let outcomes = [(done, ""), (done, ""), (done, ""), (Restored, ""), (Restored, "")];
        let mut operation = ended(result, outcomes, "");
        operation.plan = Some(crate::render::plan::tests::traffic_first());
        operation.hosts.retain(|row| row.group != "edge");
        for row in operation.hosts.iter_mut().filter(|row| row.group == "green") {
            row.cut_ms = 0;
        }
        let mut edge = host("lb-1", "edge", edge, why);
        edge.cut_ms = 0;
        operation.hosts.push(edge);
        operation
    }

    #[test]
    fn users_first_has_two_times() {
        let mut verified = traffic_first(v1::OperationResult::Verified, v1::Outcome::Restored, "");
        verified.mitigated_unix_ms = started_ms() + 2_140;
        insta::assert_snapshot!(plain(&summary(&view(), &verified, "ctl", None)));
    }

    #[test]
    fn an_edge_that_cannot_move_is_no_reason_to_wait() {
        let why = "set weights: nginx: [emerg] host not found in upstream";
        let mut halted = traffic_first(v1::OperationResult::PutBack, v1::Outcome::Original, why);
        halted.halted = "1 host failed; the budget of stage `shift traffic` is 0".to_owned();
        let blue = v1::Weights {
            groups: vec![v1::GroupWeight { group: "blue".to_owned(), percent: 100 }],
            out: Vec::new(),
        };
        let traffic = v1::TrafficView { observed: Some(blue.clone()), ..Default::default() };
        let put_back = plain(&summary(&view(), &halted, "ctl", Some(&traffic)));
        halted.result = v1::OperationResult::Mixed.into();
        halted.hosts.last_mut().unwrap().outcome = v1::Outcome::Failed.into();
        let status = v1::TrafficStatus { asked: Some(blue), ..v1::TrafficStatus::default() };
        let edge = v1::EdgeView { host: "lb-1".to_owned(), status: Some(status) };
        let traffic = v1::TrafficView { edges: vec![edge], ..v1::TrafficView::default() };
        let mixed = plain(&summary(&view(), &halted, "ctl", Some(&traffic)));
        insta::assert_snapshot!(format!("{put_back}\n{mixed}"));
    }

    #[test]
    fn a_deploy_a_switch_and_a_fetch_have_their_own_words() {
        let mut text = String::new();
        for kind in [v1::OperationKind::Deploy, v1::OperationKind::Switch, v1::OperationKind::Fetch]
        {
            let mut operation =
                traffic_first(v1::OperationResult::Verified, v1::Outcome::Restored, "");
            operation.mitigated_unix_ms = started_ms() + 2_140;
            let plan = operation.plan.as_mut().unwrap();
            plan.kind = kind.into();
            (plan.marks_from_bad, plan.freezes) = (false, false);
            if kind == v1::OperationKind::Fetch {
                operation.mitigated_unix_ms = 0;
                plan.stages.truncate(1);
            }
            text += &plain(&summary(&view(), &operation, "ctl", None));
            text += "\n";
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_fetch_that_was_refused_says_why_once() {
        let why = "the agent refused: this host's policy has no source `nosource`";
        let outcomes = [(v1::Outcome::Original, why); 5];
        let mut operation = ended(v1::OperationResult::Refused, outcomes, "");
        operation.plan.as_mut().unwrap().kind = v1::OperationKind::Fetch.into();
        let text = plain(&summary(&view(), &operation, "ctl", None));
        assert_eq!(text.matches("has no source").count(), 1, "{text}");
    }

    fn with_edge(result: v1::OperationResult, looked: v1::Outcome, words: &str) -> v1::Operation {
        let mut operation = ended(result, [(v1::Outcome::Restored, ""); 5], "");
        operation.plan = Some(crate::render::plan::tests::with_edge());
        operation.hosts.retain(|row| row.group != "edge");
        operation.hosts.push(host("lb-1", "edge", v1::Outcome::Restored, ""));
        operation.hosts.push(host("lb-2", "edge", looked, words));
        operation
    }

    #[test]
    fn what_the_edge_saw_has_a_line() {
        let seen = with_edge(v1::OperationResult::Verified, v1::Outcome::Restored, "");
        insta::assert_snapshot!(plain(&summary(&view(), &seen, "ctl", None)));
    }

    #[test]
    fn what_the_edge_did_not_see_is_said_in_its_words() {
        let words = "verify proxy: GET https://crm.example/ → 502, 30 of 30";
        let bad = with_edge(v1::OperationResult::Unverified, v1::Outcome::Failed, words);
        insta::assert_snapshot!(plain(&summary(&view(), &bad, "ctl", None)));
    }

    #[test]
    fn mixed_names_who_needs_a_person_and_who_is_unknown() {
        use v1::Outcome::{Failed, Original, Restored, Unknown};
        let outcomes = [
            (Original, CAUSE),
            (Unknown, "its agent is out of reach since its order was sent"),
            (Restored, ""),
            (
                Failed,
                "start crm: ace-crm-backend.service: Main process exited, code=exited, status=1",
            ),
            (Restored, ""),
        ];
        let halted = "2 hosts failed; the budget of stage `restore` is 1";
        let operation = ended(v1::OperationResult::Mixed, outcomes, halted);
        insta::assert_snapshot!(plain(&summary(&view(), &operation, "ctl", None)));
    }

    #[test]
    fn refused_says_that_nothing_was_touched() {
        use v1::Outcome::Original;
        let damaged = "stage crm: object 5d2e77 of the snapshot is damaged";
        let outcomes =
            [(Original, damaged), (Original, ""), (Original, ""), (Original, ""), (Original, "")];
        let halted = "1 host failed; the budget of stage `prepare` is 0";
        let operation = ended(v1::OperationResult::Refused, outcomes, halted);
        insta::assert_snapshot!(plain(&summary(&view(), &operation, "ctl", None)));
    }

    #[test]
    fn put_back() {
        let operation = ended(
            v1::OperationResult::PutBack,
            [(v1::Outcome::Original, CAUSE); 5],
            "2 hosts failed; the budget of stage `restore` is 1",
        );
        insta::assert_snapshot!(plain(&summary(&view(), &operation, "ctl --context prod", None)));
    }

    #[test]
    fn still_running() {
        let outcomes = [(v1::Outcome::Unspecified, ""); 5];
        let running =
            v1::Operation { ended_unix_ms: 0, ..ended(v1::OperationResult::Running, outcomes, "") };
        insta::assert_snapshot!(plain(&summary(&view(), &running, "ctl", None)));
    }

    #[test]
    fn a_snapshot_has_its_own_words() {
        let mut operation =
            ended(v1::OperationResult::Verified, [(v1::Outcome::Restored, ""); 5], "");
        let plan = operation.plan.as_mut().unwrap();
        (plan.kind, plan.marks_from_bad, plan.freezes) =
            (v1::OperationKind::Snapshot.into(), false, false);
        insta::assert_snapshot!(plain(&summary(&view(), &operation, "ctl", None)));
    }
}
