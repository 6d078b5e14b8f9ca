//! The words for what the wire has numbers for: verbs, outcomes, times, lists.
//!
//! Invariant: a number that this build does not know is shown as a number, never as something it is not.

use jiff::{SignedDuration, Timestamp};
use proto::v1;

use super::View;

/// `stop`, `switch`, …
pub fn verb(verb: i32) -> String {
    let word = match v1::Verb::try_from(verb) {
        Ok(v1::Verb::Preflight) => "preflight",
        Ok(v1::Verb::Snapshot) => "snapshot",
        Ok(v1::Verb::Stage) => "stage",
        Ok(v1::Verb::Stop) => "stop",
        Ok(v1::Verb::Switch) => "switch",
        Ok(v1::Verb::Start) => "start",
        Ok(v1::Verb::Verify) => "verify",
        Ok(v1::Verb::Discard) => "discard",
        Ok(v1::Verb::Check) => "check",
        Ok(v1::Verb::Reload) => "reload",
        Ok(v1::Verb::Hook) => "hook",
        Ok(v1::Verb::Fetch) => "fetch",
        Ok(v1::Verb::SetWeights) => "set weights",
        Ok(v1::Verb::Drain) => "drain",
        Ok(v1::Verb::Unspecified) | Err(_) => return format!("verb-{verb}"),
    };
    word.to_owned()
}

/// What steps about the traffic stand on in place of a component.
pub(super) const TRAFFIC: &str = "traffic";

/// `verify crm`, `hook drain of crm`; of the traffic `set weights green 100 %`, where it is known what is set.
pub fn step(verb: i32, component: &str, hook: &str, weights: Option<&v1::Weights>) -> String {
    if component == TRAFFIC {
        return traffic_step(verb, weights);
    }
    let verb = self::verb(verb);
    match hook {
        "" => format!("{verb} {}", clean(component)),
        hook => format!("{verb} {} of {}", clean(hook), clean(component)),
    }
}

fn traffic_step(verb: i32, weights: Option<&v1::Weights>) -> String {
    let with = |word: &str| match weights {
        Some(weights) => format!("{word} {}", super::traffic::weights(weights)),
        None => word.to_owned(),
    };
    match v1::Verb::try_from(verb) {
        Ok(v1::Verb::SetWeights) => with("set weights"),
        Ok(v1::Verb::Preflight) => with("test weights"),
        Ok(v1::Verb::Verify) => "verify traffic".to_owned(),
        Ok(v1::Verb::Drain) => match weights.map(|weights| weights.out.as_slice()) {
            Some([_, ..]) => {
                let out = weights.iter().flat_map(|weights| &weights.out);
                format!("drain {}", out.map(|host| clean(host)).collect::<Vec<_>>().join(", "))
            }
            Some([]) | None => "drain".to_owned(),
        },
        Ok(
            v1::Verb::Unspecified
            | v1::Verb::Snapshot
            | v1::Verb::Stage
            | v1::Verb::Stop
            | v1::Verb::Switch
            | v1::Verb::Start
            | v1::Verb::Discard
            | v1::Verb::Check
            | v1::Verb::Reload
            | v1::Verb::Hook
            | v1::Verb::Fetch,
        )
        | Err(_) => format!("{} traffic", self::verb(verb)),
    }
}

/// `running`, `done`, …
pub fn step_state(state: i32) -> String {
    let word = match v1::StepState::try_from(state) {
        Ok(v1::StepState::Running) => "running",
        Ok(v1::StepState::Done) => "done",
        Ok(v1::StepState::Failed) => "failed",
        Ok(v1::StepState::Undone) => "undone",
        Ok(v1::StepState::Unspecified) | Err(_) => return format!("state-{state}"),
    };
    word.to_owned()
}

/// `restored`, `original`, …; `open` while it is not decided.
pub fn outcome(outcome: i32) -> String {
    let word = match v1::Outcome::try_from(outcome) {
        Ok(v1::Outcome::Unspecified) => "open",
        Ok(v1::Outcome::Restored) => "restored",
        Ok(v1::Outcome::Original) => "original",
        Ok(v1::Outcome::Failed) => "failed",
        Ok(v1::Outcome::Unknown) => "unknown",
        Ok(v1::Outcome::Skipped) => "skipped",
        Err(_) => return format!("outcome-{outcome}"),
    };
    word.to_owned()
}

/// The same for a person: `restored` is a word for what goes back; a host that goes forward, or only looks, is `done`.
pub fn outcome_of(kind: v1::OperationKind, outcome: &str) -> &str {
    let back = matches!(kind, v1::OperationKind::Rollback | v1::OperationKind::Undo);
    if outcome == "restored" && !back { "done" } else { outcome }
}

/// `verified`, `mixed`, …
pub fn result(result: i32) -> String {
    let word = match v1::OperationResult::try_from(result) {
        Ok(v1::OperationResult::Running) => "running",
        Ok(v1::OperationResult::Paused) => "paused",
        Ok(v1::OperationResult::Verified) => "verified",
        Ok(v1::OperationResult::Refused) => "refused",
        Ok(v1::OperationResult::PutBack) => "put_back",
        Ok(v1::OperationResult::Mixed) => "mixed",
        Ok(v1::OperationResult::Unverified) => "unverified",
        Ok(v1::OperationResult::Unspecified) | Err(_) => return format!("result-{result}"),
    };
    word.to_owned()
}

/// `rollback`, `deploy`, `switch`, `fetch`, …
pub fn kind(kind: i32) -> String {
    let word = match v1::OperationKind::try_from(kind) {
        Ok(v1::OperationKind::Rollback) => "rollback",
        Ok(v1::OperationKind::Undo) => "undo",
        Ok(v1::OperationKind::Snapshot) => "snapshot",
        Ok(v1::OperationKind::Check) => "check",
        Ok(v1::OperationKind::Fetch) => "fetch",
        Ok(v1::OperationKind::Deploy) => "deploy",
        Ok(v1::OperationKind::Switch) => "switch",
        Ok(v1::OperationKind::Unspecified) | Err(_) => return format!("kind-{kind}"),
    };
    word.to_owned()
}

/// Whether operations of a kind change what users get.
pub fn goes_live(kind: i32) -> bool {
    match v1::OperationKind::try_from(kind) {
        Ok(
            v1::OperationKind::Rollback
            | v1::OperationKind::Undo
            | v1::OperationKind::Deploy
            | v1::OperationKind::Switch,
        ) => true,
        Ok(
            v1::OperationKind::Snapshot
            | v1::OperationKind::Check
            | v1::OperationKind::Fetch
            | v1::OperationKind::Unspecified,
        )
        | Err(_) => false,
    }
}

/// The command that takes an operation of a kind back, without the operation's name.
pub fn undo(kind: i32) -> &'static str {
    match v1::OperationKind::try_from(kind) {
        Ok(v1::OperationKind::Switch) => "switch --undo",
        Ok(
            v1::OperationKind::Rollback
            | v1::OperationKind::Undo
            | v1::OperationKind::Deploy
            | v1::OperationKind::Snapshot
            | v1::OperationKind::Check
            | v1::OperationKind::Fetch
            | v1::OperationKind::Unspecified,
        )
        | Err(_) => "rollback --undo",
    }
}

/// `pass`, `fail`, `hold`; `none` where nothing was said.
pub fn verdict(verdict: v1::Verdict) -> &'static str {
    match verdict {
        v1::Verdict::Pass => "pass",
        v1::Verdict::Fail => "fail",
        v1::Verdict::Hold => "hold",
        v1::Verdict::Unspecified => "none",
    }
}

/// Whether nobody did it: the name of a person is one word, and none of these.
pub fn by_itself(by: &str) -> bool {
    let rule = by.starts_with("trigger ") || by.starts_with("alert ");
    matches!(by, "judge" | "lastgood") || rule
}

/// `good`, `bad`, `unproven`.
pub fn standing(standing: i32) -> String {
    let word = match v1::Standing::try_from(standing) {
        Ok(v1::Standing::Unspecified | v1::Standing::Unproven) => "unproven",
        Ok(v1::Standing::Good) => "good",
        Ok(v1::Standing::Bad) => "bad",
        Err(_) => return format!("standing-{standing}"),
    };
    word.to_owned()
}

/// `operated`, `learned`, `marked`; nothing where there is no source.
pub fn source(source: i32) -> String {
    let word = match v1::StandingSource::try_from(source) {
        Ok(v1::StandingSource::Unspecified) => "",
        Ok(v1::StandingSource::Operated) => "operated",
        Ok(v1::StandingSource::Learned) => "learned",
        Ok(v1::StandingSource::Marked) => "marked",
        Err(_) => return format!("source-{source}"),
    };
    word.to_owned()
}

/// `none`, `joined`, `issued`, `revoked`.
pub fn identity(identity: i32) -> String {
    use v1::AgentIdentity as Identity;
    match Identity::try_from(identity) {
        Ok(Identity::None) => "none",
        Ok(Identity::Joined) => "joined",
        Ok(Identity::Issued) => "issued",
        Ok(Identity::Revoked) => "revoked",
        Ok(Identity::Unspecified) | Err(_) => "unknown",
    }
    .to_owned()
}

/// `done`, `undone`, `stuck`, `left`.
pub fn track_end(end: i32) -> String {
    let word = match v1::TrackEnd::try_from(end) {
        Ok(v1::TrackEnd::Done) => "done",
        Ok(v1::TrackEnd::Undone) => "undone",
        Ok(v1::TrackEnd::Left) => "left",
        Ok(v1::TrackEnd::Stuck) => "stuck",
        Ok(v1::TrackEnd::Unspecified) | Err(_) => return format!("end-{end}"),
    };
    word.to_owned()
}

/// A text of somebody else, on one line and without control characters.
pub fn clean(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `-` for what is not known.
pub fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { clean(text) }
}

/// `420ms`, `2.1s`, `1m 36s`, `3h 5m`, `4d`.
pub fn duration_ms(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms}ms"),
        1..=9 => format!("{seconds}.{}s", ms % 1000 / 100),
        10..=59 => format!("{seconds}s"),
        60..=3599 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..=86_399 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn two(major: u64, major_unit: &str, minor: u64, minor_unit: &str) -> String {
    if minor == 0 {
        format!("{major}{major_unit}")
    } else {
        format!("{major}{major_unit} {minor}{minor_unit}")
    }
}

/// How long it was from one instant to another, in milliseconds; 0 where the clocks disagree.
pub fn between_ms(from_unix_ms: i64, to_unix_ms: i64) -> u64 {
    u64::try_from(to_unix_ms.saturating_sub(from_unix_ms)).unwrap_or(0)
}

/// `4m`, `2h`, `19h`, `3d`: one unit, for columns of ages.
pub fn age(view: &View, unix_ms: i64) -> String {
    if unix_ms == 0 {
        return "-".to_owned();
    }
    let seconds = between_ms(unix_ms, view.now.as_millisecond()) / 1000;
    match seconds {
        0..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m", seconds / 60),
        3600..=86_399 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `5 releases, 9 days`: how many good releases one can go back to on every host, and how far; empty where it was not
/// told.
pub fn horizon(horizon: Option<&v1::Horizon>) -> String {
    let Some(v1::Horizon { releases, age_ms }) = horizon else { return String::new() };
    let minutes = age_ms / 60_000;
    let age = match (minutes / 1440, minutes / 60) {
        (1, _) => "1 day".to_owned(),
        (days @ 2.., _) => format!("{days} days"),
        (_, 1) => "1 hour".to_owned(),
        (_, hours @ 2..) => format!("{hours} hours"),
        (_, _) => format!("{minutes} min"),
    };
    match releases {
        0 => "no other release is good and whole on every host".to_owned(),
        1 => format!("1 release, {age}"),
        releases => format!("{releases} releases, {age}"),
    }
}

/// `03:12:07`, in the person's zone.
pub fn clock(view: &View, unix_ms: i64) -> String {
    format(view, unix_ms, "%H:%M:%S")
}

/// `today 03:12`, else `21 Nov 16:40`.
pub fn day_and_time(view: &View, unix_ms: i64) -> String {
    let today = view.now.to_zoned(view.zone.clone()).date();
    match instant(unix_ms).map(|instant| instant.to_zoned(view.zone.clone())) {
        Some(when) if when.date() == today => when.strftime("today %H:%M").to_string(),
        Some(when) if when.year() == today.year() => when.strftime("%e %b %H:%M").to_string(),
        Some(when) => when.strftime("%Y-%m-%d").to_string(),
        None => "-".to_owned(),
    }
}

/// The instant of a wire time; 0 stands for none.
pub fn instant(unix_ms: i64) -> Option<Timestamp> {
    if unix_ms == 0 { None } else { Timestamp::from_millisecond(unix_ms).ok() }
}

/// `6 hosts`, `1 host`.
pub fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// The names that fit into `room` columns, and how many more there are.
pub fn some_of<'a>(names: impl IntoIterator<Item = &'a str>, room: usize) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let mut shown = String::new();
    for (index, name) in names.iter().enumerate() {
        let rest = names.len() - index;
        let more = if rest > 1 { format!(" +{}", rest - 1).len() } else { 0 };
        if index > 0 && shown.len() + 1 + name.len() + more > room {
            return format!("{shown} +{rest}");
        }
        if index > 0 {
            shown.push(' ');
        }
        shown += &clean(name);
    }
    shown
}

/// How long ago, as a span for requests: now minus `ago`.
pub fn before(now: Timestamp, ago: SignedDuration) -> i64 {
    now.checked_sub(ago).map_or(0, Timestamp::as_millisecond)
}

fn format(view: &View, unix_ms: i64, pattern: &str) -> String {
    match instant(unix_ms) {
        Some(instant) => instant.to_zoned(view.zone.clone()).strftime(pattern).to_string(),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tests::view;

    #[test]
    fn durations_are_short() {
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (2_140, "2.1s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (96_400, "1m 36s"),
            (11_100_000, "3h 5m"),
            (400_000_000, "4d"),
        ] {
            assert_eq!(duration_ms(ms), text);
        }
    }

    #[test]
    fn times_are_in_the_persons_zone() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap().as_millisecond();
        assert_eq!(day_and_time(&view(), at("2026-11-22T03:12:07Z")), "today 03:12");
        assert_eq!(day_and_time(&view(), at("2026-11-21T16:40:00Z")), "21 Nov 16:40");
        assert_eq!(day_and_time(&view(), at("2025-11-21T16:40:00Z")), "2025-11-21");
        assert_eq!(day_and_time(&view(), 0), "-");
        assert_eq!(age(&view(), at("2026-11-22T01:12:07Z")), "2h");
        assert_eq!(age(&view(), at("2026-11-22T04:12:07Z")), "0s", "a clock that is ahead");
    }

    #[test]
    fn a_hosts_words_cannot_drive_the_terminal() {
        assert_eq!(clean("a\x1b[2J\nb\tc\u{7}"), "a\u{fffd}[2J b c\u{fffd}");
    }

    #[test]
    fn long_lists_say_how_many_more() {
        let names = ["crm-b1", "crm-b2", "crm-g1", "crm-g2"];
        assert_eq!(some_of(names, 80), "crm-b1 crm-b2 crm-g1 crm-g2");
        assert_eq!(some_of(names, 20), "crm-b1 crm-b2 +2");
        assert_eq!(some_of(names, 1), "crm-b1 +3");
    }
}
