//! What is known, in tables: releases, operations, agents, contexts, and an operation's steps.

use proto::v1::{self, watch_operation_response::Event};

use super::{
    BAD, BOLD, DIM, GOOD, View, WARN, paint,
    progress::Progress,
    status::agent,
    summary::outcome_style,
    table::{Cell, Table, styled},
    triggers, watch,
    words::{
        self, age, between_ms, clean, count, day_and_time, duration_ms, horizon, instant, or_dash,
        some_of,
    },
};
use crate::context::{Config, Context};

/// A certificate that ends sooner is pointed at.
const CERTIFICATE_SOON_MS: u64 = 14 * 24 * 3600 * 1000;

/// Text at least this wide has room for the ids of traces.
const TRACES_WIDTH_MIN: usize = 120;

/// Releases, newest first; `way_back` is the one that a bare rollback takes.
pub fn releases(view: &View, list: &v1::ListReleasesResponse, way_back: &str) -> String {
    if list.releases.is_empty() {
        return "no release is known; record what is live now: ctl snapshot create --as NAME\n"
            .to_owned();
    }
    let mut table = Table::new(["RELEASE", "AGE", "STANDING", "WHOLE ON", "NOTES"]);
    for release in &list.releases {
        let (on, all) = (release.on_hosts.len(), release.on_hosts.len() + release.missing_on.len());
        let whole = if release.missing_on.is_empty() { GOOD } else { WARN };
        table.row([
            clean(&release.release).into(),
            age(view, release.first_seen_unix_ms).into(),
            standing(release),
            styled(whole, format!("{on}/{all}")),
            release_notes(release, way_back).join("; ").into(),
        ]);
    }
    table.render(view)
}

/// Snapshots, per release, host and component.
pub fn snapshots(view: &View, list: &v1::ListReleasesResponse) -> String {
    let mut table =
        Table::new(["RELEASE", "HOST", "COMPONENT", "SNAPSHOT", "TAKEN", "SIZE", "STATE"]);
    for release in &list.releases {
        for row in &release.snapshots {
            let Some(snapshot) = &row.snapshot else { continue };
            let state = match snapshot.damage.as_str() {
                "" if snapshot.learned_at_unix_ms > 0 => styled(GOOD, "whole, learned"),
                "" => styled(GOOD, "whole"),
                damage => styled(BAD, clean(damage)),
            };
            table.row([
                clean(&release.release).into(),
                clean(&row.host).into(),
                clean(&snapshot.component).into(),
                short(&snapshot.snapshot).into(),
                day_and_time(view, snapshot.taken_at_unix_ms).into(),
                size(snapshot.size_bytes).into(),
                state,
            ]);
        }
    }
    match table.render(view) {
        none if none.is_empty() => {
            "nothing is recorded; record what is live: ctl snapshot create --as NAME\n".to_owned()
        }
        text => match horizon(list.horizon.as_ref()) {
            none if none.is_empty() => text,
            reach => text + &format!("Horizon: {reach}.\n"),
        },
    }
}

pub(super) fn short(hash: &str) -> String {
    or_dash(hash.get(..8).unwrap_or(hash))
}

/// `430 MiB`: binary units, three digits.
pub(super) fn size(bytes: u64) -> String {
    let (mut size, mut unit) = (bytes, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1024 {
            break;
        }
        (size, unit) = (size / 1024, next);
    }
    format!("{size} {unit}")
}

fn standing(release: &v1::Release) -> Cell {
    let style = match v1::Standing::try_from(release.standing) {
        Ok(v1::Standing::Good) => GOOD,
        Ok(v1::Standing::Bad) => BAD,
        Ok(v1::Standing::Unproven | v1::Standing::Unspecified) | Err(_) => DIM,
    };
    let source = match words::source(release.source) {
        source if source.is_empty() => String::new(),
        source => format!(" ({source})"),
    };
    styled(style, format!("{}{source}", words::standing(release.standing)))
}

fn release_notes(release: &v1::Release, way_back: &str) -> Vec<String> {
    let mut notes = Vec::new();
    if release.live {
        notes.push("live".to_owned());
    }
    if !way_back.is_empty() && release.release == way_back {
        notes.push("a bare rollback goes here".to_owned());
    }
    if !release.missing_on.is_empty() {
        let hosts = some_of(release.missing_on.iter().map(String::as_str), 30);
        notes.push(format!("missing on {hosts}"));
    }
    let damaged = release.snapshots.iter().filter_map(|row| {
        let damage = row.snapshot.as_ref().map(|snapshot| snapshot.damage.as_str())?;
        (!damage.is_empty()).then(|| format!("damaged on {}: {}", clean(&row.host), clean(damage)))
    });
    notes.extend(damaged);
    if !release.reason.is_empty() {
        notes.push(clean(&release.reason));
    }
    if let Some(pin) = &release.pin {
        notes.push(format!("pinned by {}: {}", clean(&pin.by), clean(&pin.reason)));
    }
    notes
}

/// Operations, newest first, and what was proposed and is none: it waits, or nobody wanted it.
pub fn history(view: &View, operations: &[v1::Operation], proposals: &[v1::Proposal]) -> String {
    if operations.is_empty() && proposals.is_empty() {
        return "no operation in that time\n".to_owned();
    }
    let traces = view.width >= TRACES_WIDTH_MIN
        && operations.iter().any(|operation| !operation.trace_id.is_empty());
    let trace = if traces { "TRACE" } else { "" };
    let mut table = Table::new(["WHEN", "ID", "WHAT", "FROM → TO", "BY", "RESULT", trace]);
    let mut proposals = proposals.iter().peekable();
    for operation in operations {
        let newer = |row: &&v1::Proposal| row.at_unix_ms > operation.started_unix_ms;
        while let Some(row) = proposals.next_if(newer) {
            table.row(proposed(view, row));
        }
        let default = v1::Plan::default();
        let plan = operation.plan.as_ref().unwrap_or(&default);
        let took = match operation.ended_unix_ms {
            0 => String::new(),
            ended => format!(" {}", duration_ms(between_ms(operation.started_unix_ms, ended))),
        };
        table.row([
            day_and_time(view, operation.started_unix_ms).into(),
            clean(&operation.id).into(),
            what(plan).into(),
            moves(plan).into(),
            or_dash(&operation.by).into(),
            styled(
                result_style(operation.result),
                format!(
                    "{}{}{took}",
                    words::result(operation.result).replace('_', " "),
                    aborted(operation)
                ),
            ),
            (if traces { or_dash(&operation.trace_id) } else { String::new() }).into(),
        ]);
    }
    for row in proposals {
        table.row(proposed(view, row));
    }
    table.render(view)
}

/// A canary is a deploy; what a person remembers is that it was one.
fn what(plan: &v1::Plan) -> String {
    if super::plan::is_canary(plan) { "canary".to_owned() } else { words::kind(plan.kind) }
}

/// `, aborted by judge`.
fn aborted(operation: &v1::Operation) -> String {
    match operation.aborted_by.as_str() {
        "" => String::new(),
        by => format!(", aborted by {},", clean(by)),
    }
}

fn proposed(view: &View, row: &v1::Proposal) -> [Cell; 7] {
    [
        day_and_time(view, row.at_unix_ms).into(),
        clean(&row.operation).into(),
        format!("{}?", words::kind(row.kind)).into(),
        format!("→ {}", or_dash(&row.to_release)).into(),
        // Which one it was, `ctl proposals` says.
        or_dash(row.by.split(' ').next().unwrap_or_default()).into(),
        styled(WARN, format!("proposed, {}", triggers::decided(view, row))),
        "".into(),
    ]
}

fn moves(plan: &v1::Plan) -> String {
    match v1::OperationKind::try_from(plan.kind) {
        Ok(v1::OperationKind::Snapshot | v1::OperationKind::Check | v1::OperationKind::Fetch) => {
            or_dash(&plan.to_release)
        }
        Ok(
            v1::OperationKind::Rollback
            | v1::OperationKind::Undo
            | v1::OperationKind::Deploy
            | v1::OperationKind::Switch
            | v1::OperationKind::Unspecified,
        )
        | Err(_) => format!("{} → {}", or_dash(&plan.from_release), or_dash(&plan.to_release)),
    }
}

fn result_style(result: i32) -> anstyle::Style {
    match v1::OperationResult::try_from(result) {
        Ok(v1::OperationResult::Verified) => GOOD,
        Ok(
            v1::OperationResult::Running
            | v1::OperationResult::Paused
            | v1::OperationResult::PutBack
            | v1::OperationResult::Refused
            | v1::OperationResult::Unverified,
        ) => WARN,
        Ok(v1::OperationResult::Mixed) => BAD,
        Ok(v1::OperationResult::Unspecified) | Err(_) => DIM,
    }
}

/// Agents of all fleets, and the coordinator's term.
pub fn agents(view: &View, list: &v1::ListAgentsResponse) -> String {
    let connected = list.agents.iter().filter(|agent| agent.connected).count();
    let epoch =
        list.epoch.as_ref().map_or_else(String::new, |epoch| format!(", epoch {}", epoch.counter));
    let mut text =
        format!("{connected} of {} connected{epoch}\n", count(list.agents.len(), "agent"));
    let mut table =
        Table::new(["HOST", "FLEET", "GROUP", "AGENT", "VERSION", "CERTIFICATE", "NOTES"]);
    for row in &list.agents {
        table.row([
            clean(&row.host).into(),
            or_dash(&row.fleet).into(),
            or_dash(&row.group).into(),
            agent(view, row.connected, row.last_seen_unix_ms),
            or_dash(&row.agent_version).into(),
            certificate(view, row),
            clean(&row.note).into(),
        ]);
    }
    text += &table.render(view);
    text
}

fn certificate(view: &View, agent: &v1::AgentView) -> Cell {
    let ends_unix_ms = agent.certificate_ends_unix_ms;
    let now = view.now.as_millisecond();
    match agent.identity() {
        v1::AgentIdentity::Revoked => return styled(BAD, "revoked"),
        v1::AgentIdentity::None if ends_unix_ms == 0 => return styled(WARN, "never joined"),
        v1::AgentIdentity::Unspecified
        | v1::AgentIdentity::None
        | v1::AgentIdentity::Joined
        | v1::AgentIdentity::Issued => {}
    }
    match (ends_unix_ms, between_ms(now, ends_unix_ms)) {
        (0, _) => styled(DIM, "-"),
        (_, 0) => styled(BAD, "ended"),
        (_, left @ ..=CERTIFICATE_SOON_MS) => {
            styled(WARN, format!("ends in {}", duration_ms(left)))
        }
        (ends, _) => match instant(ends) {
            Some(ends) => {
                ends.to_zoned(view.zone.clone()).strftime("to %Y-%m-%d").to_string().into()
            }
            None => styled(DIM, "-"),
        },
    }
}

/// Contexts; the one in use is marked.
pub fn contexts(view: &View, config: &Config) -> String {
    if config.contexts.is_empty() {
        return "no context yet; `ctl init` makes the first\n".to_owned();
    }
    let in_use = config.choose(None).ok().map(|context| context.name.as_str());
    let mut table = Table::new(["", "NAME", "COORDINATOR", "IDENTITY"]);
    for Context { name, coordinator, identity } in &config.contexts {
        let mark = if in_use == Some(name) { "*" } else { "" };
        table.row([
            styled(BOLD, mark),
            clean(name).into(),
            clean(coordinator).into(),
            identity.display().to_string().into(),
        ]);
    }
    table.render(view)
}

/// Everything that is on record of an operation, or of one host in it.
pub fn logs(
    view: &View,
    operation: &v1::Operation,
    events: &[v1::WatchOperationResponse],
    host: Option<&str>,
) -> String {
    let mut progress = Progress::new(operation);
    let mut text = watch::header(view, &progress);
    for event in events {
        progress.apply(event);
        if host.is_none_or(|host| concerns(event, host)) {
            text += &watch::line(view, &progress, event, true).unwrap_or_default();
        }
    }
    for row in operation.hosts.iter().filter(|row| host.is_none_or(|host| row.host == host)) {
        let outcome = paint(outcome_style(row.outcome), &words::outcome(row.outcome));
        let reason =
            if row.reason.is_empty() { String::new() } else { format!(": {}", clean(&row.reason)) };
        text += &format!("{}: {outcome}{reason}\n", clean(&row.host));
        for evidence in &row.evidence {
            text += &evidence_words(evidence);
        }
    }
    text
}

/// What was seen there; nothing of what nobody looked for.
fn evidence_words(evidence: &v1::Evidence) -> String {
    let component = clean(&evidence.component);
    let mut seen = Vec::new();
    if !evidence.version.is_empty() {
        seen.push(format!("reports {}", clean(&evidence.version)));
    }
    if !evidence.snapshot.is_empty() {
        seen.push(format!("snapshot {}", short(&evidence.snapshot)));
    }
    if evidence.stable_ms > 0 {
        seen.push(format!("stable for {}", duration_ms(evidence.stable_ms)));
    }
    let mut text = match seen.as_slice() {
        [] => String::new(),
        seen => format!("  {component}: {}\n", seen.join(", ")),
    };
    for note in &evidence.notes {
        text += &format!("  {component}: {}\n", clean(note));
    }
    text
}

/// Whether an event is about a host.
pub fn concerns(event: &v1::WatchOperationResponse, host: &str) -> bool {
    match &event.event {
        None => false,
        Some(Event::Step(step)) => step.host == host,
        Some(Event::HostEnded(ended)) => ended.host == host,
        Some(Event::HostUnknown(unknown)) => unknown.host == host,
        Some(Event::Noted(noted)) => noted.host == host,
        Some(Event::Dispatched(sent)) => sent.hosts.iter().any(|sent| sent == host),
        Some(
            Event::Opened(_)
            | Event::Judged(_)
            | Event::StageBegan(_)
            | Event::StageEnded(_)
            | Event::Halted(_)
            | Event::Asked(_)
            | Event::Ended(_),
        ) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{
        tests::{plain, view},
        watch::tests::{events, operation, started_ms},
    };

    fn ago(hours: i64) -> i64 {
        view().now.as_millisecond() - hours * 3_600_000
    }

    #[test]
    fn releases_say_where_a_bare_rollback_goes_and_why_not_elsewhere() {
        let release = |name: &str,
                       hours,
                       standing: v1::Standing,
                       source: v1::StandingSource,
                       missing: &[&str]| v1::Release {
            release: name.to_owned(),
            first_seen_unix_ms: ago(hours),
            standing: standing.into(),
            source: source.into(),
            on_hosts: ["a", "b", "c", "d", "e"][missing.len()..]
                .iter()
                .map(ToString::to_string)
                .collect(),
            missing_on: missing.iter().map(ToString::to_string).collect(),
            ..v1::Release::default()
        };
        use v1::{Standing as S, StandingSource as From};
        let mut releases_ = vec![
            release("v1.4.3", 2, S::Unproven, From::Unspecified, &[]),
            release("v1.4.2", 19, S::Good, From::Operated, &[]),
            release("learned-2026-11-19T0310", 65, S::Good, From::Learned, &[]),
            release("v1.4.1", 70, S::Bad, From::Marked, &["crm-b2"]),
        ];
        releases_[0].live = true;
        releases_[3].reason = "mails were sent twice".to_owned();
        let snapshot = v1::SnapshotInfo {
            component: "crm".to_owned(),
            snapshot: "9f".repeat(32),
            size_bytes: 451_000_000,
            taken_at_unix_ms: ago(70),
            damage: "object 5d2e77 does not match its hash".to_owned(),
            ..v1::SnapshotInfo::default()
        };
        let learned = v1::SnapshotInfo {
            damage: String::new(),
            learned_at_unix_ms: ago(64),
            ..snapshot.clone()
        };
        let on_host =
            |snapshot| v1::HostSnapshot { host: "crm-g1".to_owned(), snapshot: Some(snapshot) };
        releases_[2].snapshots = vec![on_host(learned)];
        releases_[3].snapshots = vec![on_host(snapshot)];
        releases_[1].pin = Some(v1::Pin {
            by: "anna".to_owned(),
            reason: "the audit looks at it".to_owned(),
            since_unix_ms: ago(1),
        });
        let list = v1::ListReleasesResponse {
            fleet: "prod".to_owned(),
            releases: releases_,
            horizon: Some(v1::Horizon { releases: 1, age_ms: 19 * 3_600_000 }),
        };
        insta::assert_snapshot!(plain(&releases(&view(), &list, "v1.4.2")));
        insta::assert_snapshot!("snapshots", plain(&snapshots(&view(), &list)));
        assert!(
            releases(&view(), &v1::ListReleasesResponse::default(), "")
                .contains("ctl snapshot create")
        );
    }

    #[test]
    fn history_newest_first() {
        let ended = |id: &str, result: v1::OperationResult, started| v1::Operation {
            id: id.to_owned(),
            result: result.into(),
            started_unix_ms: started,
            ended_unix_ms: started + 96_400,
            ..operation()
        };
        let mut snapshot = ended("sn-0192", v1::OperationResult::Verified, ago(30));
        snapshot.plan.as_mut().unwrap().kind = v1::OperationKind::Snapshot.into();
        let running = v1::Operation {
            ended_unix_ms: 0,
            ..ended("rb-0195", v1::OperationResult::Running, started_ms())
        };
        let operations =
            [running, ended("rb-0193", v1::OperationResult::PutBack, ago(2)), snapshot];
        insta::assert_snapshot!(plain(&history(&view(), &operations, &[])));
    }

    #[test]
    fn agents_with_what_needs_a_look() {
        let agent = |host: &str, connected, days: i64, note: &str| v1::AgentView {
            host: host.to_owned(),
            fleet: "prod".to_owned(),
            group: "blue".to_owned(),
            connected,
            last_seen_unix_ms: ago(1),
            agent_version: "0.1.0".to_owned(),
            certificate_ends_unix_ms: view().now.as_millisecond() + days * 86_400_000,
            note: note.to_owned(),
            identity: v1::AgentIdentity::Joined.into(),
        };
        let shut_out = v1::AgentView {
            identity: v1::AgentIdentity::Revoked.into(),
            ..agent("crm-g1", false, 20, "shut out 11-22 02:10 UTC by mira: the machine was sold")
        };
        let awaited = v1::AgentView {
            identity: v1::AgentIdentity::None.into(),
            last_seen_unix_ms: 0,
            agent_version: String::new(),
            certificate_ends_unix_ms: 0,
            ..agent("crm-g2", false, 0, "may join until 11-22 03:20 UTC")
        };
        let agents_ = vec![
            agent("crm-b1", true, 300, ""),
            agent("crm-b2", false, 6, ""),
            agent(
                "crm-x9",
                true,
                -1,
                "not a host of any fleet: add it to the fleet file, or stop its agent",
            ),
            shut_out,
            awaited,
        ];
        let epoch = Some(v1::Epoch { counter: 8, instance: "ab".repeat(16) });
        insta::assert_snapshot!(plain(&agents(
            &view(),
            &v1::ListAgentsResponse { agents: agents_, epoch }
        )));
    }

    #[test]
    fn contexts_mark_the_one_in_use() {
        let context = |name: &str| Context {
            name: name.to_owned(),
            coordinator: "lastgood.example.com:7443".to_owned(),
            identity: "/home/mira/lastgood/operators/mira".into(),
        };
        let config = Config {
            current: Some("prod".to_owned()),
            contexts: vec![context("prod"), context("staging")],
        };
        insta::assert_snapshot!(plain(&contexts(&view(), &config)));
    }

    #[test]
    fn logs_of_one_host_are_only_its_own() {
        let evidence = v1::Evidence {
            component: "crm".to_owned(),
            snapshot: "9f".repeat(32),
            version: "v1.4.3".to_owned(),
            stable_ms: 10_000,
            replaced: "5d".repeat(32),
            replaced_content: "6e".repeat(32),
            notes: vec!["2 files were written by the app: logs/a, logs/b".to_owned()],
            weights: None,
        };
        let outcome = v1::HostOutcome {
            host: "crm-b1".to_owned(),
            outcome: v1::Outcome::Original.into(),
            reason: "verify crm: 503, 30 of 30".to_owned(),
            evidence: vec![evidence],
            ..v1::HostOutcome::default()
        };
        let operation = v1::Operation { hosts: vec![outcome], ..operation() };
        let text = logs(&view(), &operation, &events(), Some("crm-b1"));
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
        assert!(!text.contains("crm-g1:"));
    }
}
