//! What a tired person reads at 80 columns. Pure.

use jiff::{Timestamp, tz::TimeZone};

use super::{
    import::Imported,
    plan::{Ask, Plan, Refusal, ReleaseRow},
    wire::{AtWork, Component, Ended, Local, Status, Step, StepWord},
};
use crate::order::{End, Verb};

/// No line is longer.
const COLUMNS: usize = 80;

/// The time of day of the host.
pub(super) struct Clock {
    zone: TimeZone,
}

impl Clock {
    /// The host's own.
    pub(super) fn now() -> Self {
        Self { zone: TimeZone::system() }
    }

    fn day(&self, unix_ms: i64) -> String {
        self.format(unix_ms, "%Y-%m-%d %H:%M")
    }

    fn time(&self, unix_ms: i64) -> String {
        self.format(unix_ms, "%H:%M:%S")
    }

    fn format(&self, unix_ms: i64, format: &str) -> String {
        match Timestamp::from_millisecond(unix_ms) {
            Ok(at) => at.to_zoned(self.zone.clone()).strftime(format).to_string(),
            Err(_) => "?".to_owned(),
        }
    }
}

/// The host at a glance.
pub(super) fn status(status: &Status, clock: &Clock) -> String {
    let mut text = format!("{}: {}\n\n", clean(&status.host), live(&status.components));
    for row in &status.components {
        text += &component(row);
    }
    if let Some(AtWork { operation, step, to_release }) = &status.at_work {
        let step = step.as_ref().map_or_else(String::new, |step| format!(", at `{step}`"));
        let to = if to_release.is_empty() { String::new() } else { format!(" → {to_release}") };
        text += &field("At work", &format!("{operation}{to}{step}; it goes on by itself"));
    }
    for row in status.local.iter().rev().take(3) {
        text += &field("Local", &local(row, clock));
    }
    let back = match &status.way_back {
        Some(release) => format!("{release}   (agent local rollback)"),
        None => "none by itself; name one: agent local rollback --to RELEASE".to_owned(),
    };
    text += &field("Way back", &back);
    text += "\n";
    text + &releases(&status.releases, clock)
}

fn live(rows: &[Component]) -> String {
    let mut names: Vec<String> = rows.iter().map(release_of).collect();
    names.sort();
    names.dedup();
    match names.as_slice() {
        [] => "its policy has no component".to_owned(),
        [one] => format!("{one} is live"),
        many => format!("mixed: {}", many.join(", ")),
    }
}

fn release_of(row: &Component) -> String {
    match (row.release.as_str(), row.changed) {
        ("", _) if row.version.is_empty() => "an unknown release".to_owned(),
        ("", _) => format!("version {}", clean(&row.version)),
        (release, false) => clean(release),
        (release, true) => format!("{}, changed since", clean(release)),
    }
}

fn component(row: &Component) -> String {
    let service = |(name, runs): &(String, bool)| {
        format!("{} {}", clean(name), if *runs { "runs" } else { "IS DOWN" })
    };
    let mut words: Vec<String> = vec![release_of(row)];
    if !row.version.is_empty() {
        words.push(format!("reports {}", clean(&row.version)));
    }
    words.extend(row.services.iter().map(service));
    if row.checks > 0 {
        words.push(format!("checks {}/{}", row.checks - row.failing.len(), row.checks));
    }
    if row.held {
        words.push("HELD in the middle of a switch".to_owned());
    }
    let mut text = field(&row.component, &words.join(", "));
    for (check, detail) in &row.failing {
        text += &field("", &format!("! {}: {}", clean(check), clean(detail)));
    }
    text
}

fn local(row: &Local, clock: &Clock) -> String {
    let end = match &row.ended {
        None => "running".to_owned(),
        Some((end, reason)) if reason.is_empty() => end_word(*end).to_owned(),
        Some((end, reason)) => format!("{}: {}", end_word(*end), clean(reason)),
    };
    let (by, to) = (clean(&row.by), clean(&row.release));
    format!("{} by {by} → {to}, {}: {end}", clean(&row.operation), clock.day(row.at_unix_ms))
}

fn end_word(end: End) -> &'static str {
    match end {
        End::Done => "done",
        End::Undone => "put back as it was",
        End::Left => "in place, not verified",
        End::Stuck => "failed half-way",
    }
}

/// Every release here.
pub(super) fn releases(rows: &[ReleaseRow], clock: &Clock) -> String {
    if rows.is_empty() {
        return "No release is on this host. Capture one: agent local snapshot --as NAME\n"
            .to_owned();
    }
    let wide = rows.iter().map(|row| row.release.chars().count()).max().unwrap_or(0).clamp(7, 24);
    let mut text = format!("{:wide$}  {:16}  {:>8}  HERE\n", "RELEASE", "CAPTURED", "SIZE");
    for row in rows {
        let here = if row.missing.is_empty() {
            let live = if row.live { "live; " } else { "" };
            format!("{live}{}", row.proof)
        } else {
            format!("not whole: {}", row.missing.join("; "))
        };
        let head = format!(
            "{:wide$}  {:16}  {:>8}  ",
            clean(&row.release),
            clock.day(row.taken_at_unix_ms),
            bytes(row.size_bytes)
        );
        text += &hanging(&head, &clean(&here));
    }
    text
}

/// What will be done.
pub(super) fn plan(plan: &Plan) -> String {
    let mut text = match &plan.ask {
        Ask::Rollback { .. } => {
            let from = plan.from.as_ref().map_or_else(|| "what is live".to_owned(), |f| clean(f));
            format!("Roll this host back: {from} → {}\n", clean(&plan.release))
        }
        Ask::Snapshot { .. } => format!("Capture what is live as {}\n", clean(&plan.release)),
        Ask::Verify => format!("Measure {}\n", clean(&plan.release)),
    };
    text += &field("Why", &clean(&plan.why));
    if let Some(first) = &plan.first {
        let first = format!("{first} is at work here; it is taken back before anything else");
        text += &field("First", &first);
    }
    for warning in &plan.warnings {
        text += &field("Careful", &clean(warning));
    }
    let steps: Vec<String> =
        plan.steps.iter().map(|s| named(s.verb, &s.hook, &s.component)).collect();
    text += &field("Steps", &steps.join(", "));
    if plan.cuts() {
        text += &field(
            "Fails",
            if plan.leave {
                "before the checks: put back as it was; in the checks: left in place"
            } else {
                "put back as it was"
            },
        );
        text += &field("Stays", "data that the app wrote: databases, `keep` paths");
    }
    text
}

fn named(verb: Verb, hook: &str, component: &str) -> String {
    match verb {
        Verb::Hook => format!("hook {} of {}", clean(hook), clean(component)),
        Verb::Preflight
        | Verb::Snapshot
        | Verb::Stage
        | Verb::Stop
        | Verb::Switch
        | Verb::Start
        | Verb::Verify
        | Verb::Discard
        | Verb::Check
        | Verb::Reload
        | Verb::Fetch
        | Verb::SetWeights
        | Verb::Drain => format!("{verb} {}", clean(component)),
    }
}

/// That it was begun.
pub(super) fn begun(operation: &str) -> String {
    format!("\n{operation} begins. It goes to its end without this terminal.\n")
}

/// A step as it changes.
pub(super) fn step(step: &Step, clock: &Clock) -> String {
    let name = named(step.verb, &step.hook, &step.component);
    let (word, timed) = match step.state {
        StepWord::Running => ("…", false),
        StepWord::Done => ("done", true),
        StepWord::Failed => ("FAILED", true),
        StepWord::TakingBack => ("is taken back …", false),
        StepWord::TakenBack => ("taken back", true),
        StepWord::Stuck => ("TAKING BACK FAILED", true),
    };
    let took = if timed { format!(" ({})", seconds(step.duration_ms)) } else { String::new() };
    let detail = clean(&step.detail);
    let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    hanging(&format!("{}  ", clock.time(step.at_unix_ms)), &format!("{name} {word}{took}{detail}"))
}

/// The end, with what was measured.
pub(super) fn ended(plan: &Plan, ended: &Ended, cut: bool) -> String {
    let to = clean(&plan.release);
    let line = match (ended.end, &plan.ask) {
        (End::Done, Ask::Rollback { .. }) => format!("DONE: {to} is live and verified."),
        (End::Done, Ask::Snapshot { .. }) => format!("DONE: {to} is captured."),
        (End::Done, Ask::Verify) => "DONE: what is live holds.".to_owned(),
        (End::Undone, Ask::Verify) => "NOT VERIFIED: what is live does not hold.".to_owned(),
        (End::Undone, _) if cut => "FAILED, and everything was put back as it was.".to_owned(),
        (End::Undone, _) => "FAILED before anything that serves was touched.".to_owned(),
        (End::Left, _) => format!("{to} is in place, but its checks do not hold."),
        (End::Stuck, _) => "FAILED HALF-WAY. Look now: the host may be down.".to_owned(),
    };
    let mut text = format!("\n{line}\n");
    if !ended.reason.is_empty() {
        text += &field("Why", &clean(&ended.reason));
    }
    // What was measured and then taken back is no evidence of how things are.
    let stands = matches!(ended.end, End::Done | End::Left);
    for row in ended.evidence.iter().filter(|_| stands) {
        let mut words = Vec::new();
        words.extend(row.snapshot.as_ref().map(|hash| format!("files {}", short(hash))));
        words.extend(row.version.as_ref().map(|version| format!("reports {}", clean(version))));
        if row.stable_ms > 0 {
            words.push(format!("held for {}", seconds(row.stable_ms)));
        }
        words.extend(row.notes.iter().map(|note| clean(note)));
        if !words.is_empty() {
            text += &field(&row.component, &words.join(", "));
        }
    }
    if ended.end != End::Done || plan.cuts() {
        text += "\nNow:\n";
        for row in &ended.components {
            text += &component(row);
        }
    }
    text += match ended.end {
        End::Done if plan.cuts() => {
            "\nNext:  when the coordinator is back, `ctl status` shows this host for a look\n"
        }
        End::Done => "",
        End::Undone | End::Left | End::Stuck => "\nNext:  agent local status\n",
    };
    text
}

/// A backup that became a release.
pub(super) fn imported(row: &Imported, clock: &Clock) -> String {
    let files = if row.files == 1 { "1 file".to_owned() } else { format!("{} files", row.files) };
    let mut text = format!(
        "{} of {}: {files}, {}, from {}\n",
        clean(&row.release),
        clean(&row.component),
        bytes(row.size_bytes),
        clock.day(row.taken_at_unix_ms)
    );
    for note in &row.notes {
        text += &field("", &clean(note));
    }
    text
}

/// Why there is no plan.
pub(super) fn refusal(refusal: &Refusal) -> String {
    let mut text = format!("Not done: {refusal}\n");
    match refusal {
        Refusal::NoTarget { candidates } => {
            for (release, why_not) in candidates {
                text += &field(release, &clean(why_not));
            }
            text += "\nNext:  agent local rollback --to RELEASE\n";
        }
        Refusal::NotKnown { known, .. } => text += &field("Here", &known.join(", ")),
        Refusal::Live(_) => text += "Next:  agent local verify\n",
        Refusal::Busy(_) => text += "Next:  agent local status\n",
        Refusal::NotWhole { older: Some(older), .. } => {
            text += &field("Older", &format!("{older} is whole and was verified here"));
            text += &format!("\nNext:  agent local rollback --to {older}\n");
        }
        Refusal::NoComponents | Refusal::NotWhole { older: None, .. } | Refusal::BadName(_) => {}
    }
    text
}

fn field(name: &str, text: &str) -> String {
    let name = clean(name);
    let gap = if name.chars().count() > 9 { "\n            " } else { "" };
    hanging(&format!("  {name:<9}{gap} "), text)
}

/// Words after a head, wrapped under their own beginning.
fn hanging(head: &str, text: &str) -> String {
    let indent = head.lines().last().unwrap_or_default().chars().count();
    let mut lines = head.to_owned();
    let mut at = indent;
    let mut first = true;
    for word in text.split_whitespace() {
        let long = word.chars().count();
        if !first && at + 1 + long > COLUMNS {
            lines += &format!("\n{}", " ".repeat(indent));
            (at, first) = (indent, true);
        }
        if !first {
            lines.push(' ');
            at += 1;
        }
        lines += word;
        at += long;
        first = false;
    }
    format!("{}\n", lines.trim_end())
}

/// What comes from the host's files and apps must not move the cursor.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut left = bytes;
    while left >= 10_000 && unit + 1 < UNITS.len() {
        left /= 1000;
        unit += 1;
    }
    format!("{left} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        Clock { zone: TimeZone::UTC }
    }

    fn example() -> Status {
        let row = |release: &str, days: i64, proof: &str, missing: &[&str]| ReleaseRow {
            release: release.to_owned(),
            taken_at_unix_ms: 1_795_342_500_000 - days * 86_400_000,
            size_bytes: 48_123_456,
            live: days == 0,
            missing: missing.iter().map(|s| (*s).to_owned()).collect(),
            proof: proof.to_owned(),
        };
        Status {
            host: "crm-b1".to_owned(),
            policy_hash: "ab".to_owned(),
            components: vec![Component {
                component: "crm".to_owned(),
                release: "v1.4.3".to_owned(),
                changed: false,
                held: false,
                version: "1.4.3".to_owned(),
                services: vec![("backend".to_owned(), true), ("frontend".to_owned(), false)],
                failing: vec![("login".to_owned(), "GET /login → 503\u{1b}[2J".to_owned())],
                checks: 3,
            }],
            releases: vec![
                row("v1.4.3", 0, "it was never verified here", &[]),
                row("v1.4.2", 2, "rb-0190 verified it here", &[]),
                row("v1.4.1", 9, "", &["no snapshot of crm"]),
            ],
            at_work: Some(AtWork {
                operation: "rb-0193".to_owned(),
                step: Some("start crm".to_owned()),
                to_release: "v1.4.2".to_owned(),
            }),
            local: vec![Local {
                operation: "local-20261121-101500".to_owned(),
                by: "mira (root)".to_owned(),
                at_unix_ms: 1_795_342_500_000,
                release: "v1.4.2".to_owned(),
                ended: Some((End::Undone, "verify crm: GET /api/health → 503".to_owned())),
            }],
            way_back: Some("v1.4.2".to_owned()),
            free_bytes: 1,
        }
    }

    #[test]
    fn a_host_at_a_glance() {
        let text = status(&example(), &clock());
        let expected = "\
crm-b1: v1.4.3 is live

  crm       v1.4.3, reports 1.4.3, backend runs, frontend IS DOWN, checks 2/3
            ! login: GET /login → 503 [2J
  At work   rb-0193 → v1.4.2, at `start crm`; it goes on by itself
  Local     local-20261121-101500 by mira (root) → v1.4.2, 2026-11-22 10:15: put
            back as it was: verify crm: GET /api/health → 503
  Way back  v1.4.2 (agent local rollback)

RELEASE  CAPTURED              SIZE  HERE
v1.4.3   2026-11-22 10:15     48 MB  live; it was never verified here
v1.4.2   2026-11-20 10:15     48 MB  rb-0190 verified it here
v1.4.1   2026-11-13 10:15     48 MB  not whole: no snapshot of crm
";
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS));
    }
}
