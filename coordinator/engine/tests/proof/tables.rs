//! Every state with everything that can happen in it, published as text (`snapshots/`).
//!
//! A change of policy shows here as a change of a table; a new variant does not compile until it has its row.

use std::fmt::Write as _;

use engine::{
    Abort, Ask, Budget, Elapsed, Event, Goal, Input, LateHosts, Operation, Phase, RunResult,
    StepReport, StepState, TrackEnd, TrackEnding, TrackEvent, TrackState, decide,
};

use crate::plans::{Sketch, host};

const GOALS: [Goal; 2] = [Goal::Forward, Goal::Undo];
const ENDS: [TrackEnd; 5] =
    [TrackEnd::Done, TrackEnd::Undone, TrackEnd::Left, TrackEnd::Stuck, TrackEnd::Refused];

fn track_states() -> Vec<TrackState> {
    let (since, why, reason) = (Elapsed(1), "why".to_owned(), "reason".to_owned());
    let mut states = vec![TrackState::Waiting];
    states.extend(GOALS.map(|goal| TrackState::InWork { goal, since }));
    states.extend(GOALS.map(|goal| TrackState::Unknown { goal, since, why: why.clone() }));
    states.push(TrackState::Done);
    states.push(TrackState::Undone { reason: reason.clone() });
    states.push(TrackState::Left { reason: reason.clone() });
    states.push(TrackState::Stuck { reason });
    states
}

fn track_events() -> Vec<TrackEvent> {
    let at = Elapsed(2);
    let mut events: Vec<TrackEvent> =
        GOALS.map(|goal| TrackEvent::Dispatched { goal, at }).to_vec();
    events.extend(ENDS.map(|end| TrackEvent::Ended { end, reason: "reason".to_owned() }));
    events.push(TrackEvent::BecameUnknown { why: "why".to_owned(), at });
    events.push(TrackEvent::SeenInWork { at });
    events.extend([true, false].map(|again| TrackEvent::SeenIdle { again }));
    events.push(TrackEvent::Overtaken { why: "why".to_owned() });
    events.push(TrackEvent::Retried);
    events
}

fn state_word(state: &TrackState) -> String {
    match state {
        TrackState::Waiting => "waiting".to_owned(),
        TrackState::InWork { goal, .. } => format!("in work {}", goal_word(*goal)),
        TrackState::Unknown { goal, .. } => format!("unknown {}", goal_word(*goal)),
        TrackState::Done => "done".to_owned(),
        TrackState::Undone { .. } => "undone".to_owned(),
        TrackState::Left { .. } => "left".to_owned(),
        TrackState::Stuck { .. } => "stuck".to_owned(),
    }
}

fn event_word(event: &TrackEvent) -> String {
    match event {
        TrackEvent::Dispatched { goal, .. } => format!("order {}", goal_word(*goal)),
        TrackEvent::Ended { end, .. } => format!("end {end:?}").to_lowercase(),
        TrackEvent::BecameUnknown { .. } => "loss".to_owned(),
        TrackEvent::SeenInWork { .. } => "seen in work".to_owned(),
        TrackEvent::SeenIdle { again: true } => "seen idle, try again".to_owned(),
        TrackEvent::SeenIdle { again: false } => "seen idle, let be".to_owned(),
        TrackEvent::Overtaken { .. } => "overtaken".to_owned(),
        TrackEvent::Retried => "retry".to_owned(),
    }
}

fn goal_word(goal: Goal) -> &'static str {
    match goal {
        Goal::Forward => "→",
        Goal::Undo => "←",
    }
}

#[test]
fn a_track_state_by_event() {
    let columns: Vec<String> = track_states().iter().map(state_word).collect();
    let rows = track_events().into_iter().map(|event| {
        let cell = |state: TrackState| match state.next(&event) {
            Ok(next) => state_word(&next),
            Err(_) => "·".to_owned(),
        };
        (event_word(&event), track_states().into_iter().map(cell).collect())
    });
    insta::assert_snapshot!(table("event ╲ state", &columns, rows.collect()));
}

#[test]
fn a_track_that_cannot_move_says_what_met_what() {
    let error = TrackState::Done.next(&TrackEvent::SeenInWork { at: Elapsed(1) }).unwrap_err();
    assert_eq!(error.to_string(), "a track cannot take a sight of work while it is done");
}

/// A run in each phase: h00 was restored, h01 is in work, h02 waits. In the ended one h01 is unknown.
fn phases() -> Vec<(&'static str, Operation)> {
    let budget = Budget { failed: 1, unknown: 1, out: 1 };
    let mut usual = Sketch::usual(3, budget);
    usual.late_hosts = LateHosts::Rollback;
    let mut running = usual.open();
    go(&mut running, vec![Input::Tick], Elapsed(0));
    for n in 0..3 {
        go(&mut running, vec![ended(n, 0, TrackEnd::Done)], Elapsed(1));
    }
    go(&mut running, vec![ended(0, 1, TrackEnd::Done)], Elapsed(2));
    let with = |inputs: Vec<Input>, now| {
        let mut operation = running.clone();
        go(&mut operation, inputs, now);
        operation
    };
    let mut halting = running.clone();
    halting.apply(&Event::Halted { why: "a test".to_owned(), at: Elapsed(3) }).unwrap();
    let mut over = with(vec![asked(Ask::Abort(Abort::Leave))], Elapsed(3));
    go(&mut over, vec![Input::AgentLost { host: host(1) }], Elapsed(3));
    go(&mut over, vec![Input::Tick], Elapsed(10_000));
    vec![
        ("running", running.clone()),
        ("paused", with(vec![asked(Ask::Pause)], Elapsed(3))),
        ("halting", halting),
        ("aborting, leave", with(vec![asked(Ask::Abort(Abort::Leave))], Elapsed(3))),
        ("aborting, restore", with(vec![asked(Ask::Abort(Abort::Restore))], Elapsed(3))),
        ("ended", over),
    ]
}

fn phase_word(phase: Phase) -> String {
    match phase {
        Phase::Running => "running".to_owned(),
        Phase::Paused => "paused".to_owned(),
        Phase::Halting => "halting".to_owned(),
        Phase::Aborting(Abort::Leave) => "aborting, leave".to_owned(),
        Phase::Aborting(Abort::Restore) => "aborting, restore".to_owned(),
        Phase::Ended(result) => format!("ended: {result:?}"),
    }
}

fn asked(ask: Ask) -> Input {
    Input::Asked { ask, by: "ada".to_owned() }
}

fn ending(end: TrackEnd) -> TrackEnding {
    TrackEnding { end, reason: "reason".to_owned(), steps: vec![], evidence: vec![] }
}

fn ended(n: usize, stage: usize, end: TrackEnd) -> Input {
    Input::TrackEnded { host: host(n), stage, attempt: 1, ending: ending(end) }
}

fn go(operation: &mut Operation, inputs: Vec<Input>, now: Elapsed) {
    for event in decide(operation, inputs, now) {
        operation.apply(&event).unwrap();
    }
}

#[test]
fn b_phase_by_ask() {
    let asks = [
        ("pause", Ask::Pause),
        ("resume", Ask::Resume),
        ("abort --leave", Ask::Abort(Abort::Leave)),
        ("abort --restore", Ask::Abort(Abort::Restore)),
        ("retry h00 (done)", Ask::Retry(vec![host(0)])),
        ("retry h01 (unknown)", Ask::Retry(vec![host(1)])),
        ("retry h02 (waiting)", Ask::Retry(vec![host(2)])),
        ("retry h01 and h02", Ask::Retry(vec![host(1), host(2)])),
        ("retry nobody", Ask::Retry(vec![])),
        ("retry a stranger", Ask::Retry(vec![host(99)])),
    ];
    let columns: Vec<String> = phases().iter().map(|(name, _)| (*name).to_owned()).collect();
    let rows = asks.into_iter().map(|(name, ask)| {
        let cell = |(_, mut operation): (_, Operation)| {
            let allowed = operation.allows(&ask);
            let before = operation.clone();
            go(&mut operation, vec![asked(ask.clone())], Elapsed(10_001));
            assert_eq!(allowed, before != operation, "`allows` is what `decide` does");
            if allowed { phase_word(operation.phase()) } else { "·".to_owned() }
        };
        (name.to_owned(), phases().into_iter().map(cell).collect())
    });
    insta::assert_snapshot!(table("ask ╲ phase", &columns, rows.collect()));
}

#[test]
fn c_phase_by_event() {
    let columns: Vec<String> = phases().iter().map(|(name, _)| (*name).to_owned()).collect();
    let rows = events().into_iter().map(|event| {
        let cell = |(_, mut operation): (_, Operation)| match operation.apply(&event) {
            Ok(()) => phase_word(operation.phase()),
            Err(_) => "·".to_owned(),
        };
        (name_of(&event), phases().into_iter().map(cell).collect())
    });
    insta::assert_snapshot!(table("event ╲ phase", &columns, rows.collect()));
}

fn events() -> Vec<Event> {
    let at = Elapsed(10_002);
    let (stage, attempt, why) = (1, 1, "why".to_owned());
    let order = |n, goal| Event::Dispatched { stage, hosts: vec![host(n)], goal, at };
    let ask = |ask| Event::Asked { ask, by: "ada".to_owned(), at };
    let step =
        StepReport { index: 0, state: StepState::Done, duration_ms: 5, detail: String::new() };
    vec![
        Sketch::usual(1, Budget { failed: 1, unknown: 1, out: 1 }).opened(),
        Event::StageBegan { stage, at },
        order(2, Goal::Forward),
        order(0, Goal::Undo),
        Event::StepReported { host: host(1), stage, attempt, step },
        Event::TrackEnded { host: host(1), stage, attempt, ending: ending(TrackEnd::Done) },
        Event::TrackEnded { host: host(1), stage, attempt: 9, ending: ending(TrackEnd::Done) },
        Event::HostLost { host: host(1), at },
        Event::HostBack { host: host(1), at },
        Event::BecameUnknown { host: host(1), stage, why: why.clone(), at },
        Event::SeenInWork { host: host(1), stage, attempt: 1, at },
        Event::SeenIdle { host: host(1), stage, again: true, at },
        Event::SeenIdle { host: host(1), stage, again: false, at },
        Event::Overtaken { host: host(1), why: why.clone(), at },
        Event::StageEnded { stage, at },
        ask(Ask::Pause),
        ask(Ask::Resume),
        ask(Ask::Abort(Abort::Leave)),
        ask(Ask::Abort(Abort::Restore)),
        ask(Ask::Retry(vec![host(0)])),
        Event::Halted { why, at },
        Event::Ended { result: RunResult::Mixed, at },
    ]
}

fn name_of(event: &Event) -> String {
    match event {
        Event::Opened { .. } => "opened".to_owned(),
        Event::StageBegan { .. } => "stage began".to_owned(),
        Event::Dispatched { goal, .. } => format!("order {}", goal_word(*goal)),
        Event::StepReported { .. } => "step reported".to_owned(),
        Event::TrackEnded { attempt, .. } => format!("track ended, attempt {attempt}"),
        Event::HostLost { .. } => "host lost".to_owned(),
        Event::HostBack { .. } => "host back".to_owned(),
        Event::BecameUnknown { .. } => "became unknown".to_owned(),
        Event::SeenInWork { .. } => "seen in work".to_owned(),
        Event::SeenIdle { again: true, .. } => "seen idle, try again".to_owned(),
        Event::SeenIdle { again: false, .. } => "seen idle, let be".to_owned(),
        Event::Overtaken { .. } => "overtaken".to_owned(),
        Event::StageEnded { .. } => "stage ended".to_owned(),
        Event::Asked { ask, .. } => format!("asked {ask:?}").to_lowercase(),
        Event::Judged { ruling, .. } => format!("judged {:?}", ruling.verdict).to_lowercase(),
        Event::Halted { .. } => "halted".to_owned(),
        Event::Ended { .. } => "ended".to_owned(),
    }
}

/// Aligned columns; `·` where the pair has no meaning.
fn table(corner: &str, columns: &[String], rows: Vec<(String, Vec<String>)>) -> String {
    let width = |texts: &mut dyn Iterator<Item = &String>| {
        texts.map(|text| text.chars().count()).max().unwrap_or(0)
    };
    let first = width(&mut rows.iter().map(|(name, _)| name)).max(corner.chars().count());
    let widths: Vec<usize> = (0..columns.len())
        .map(|n| {
            width(&mut rows.iter().map(|(_, cells)| &cells[n])).max(columns[n].chars().count())
        })
        .collect();
    let mut out = String::new();
    let mut line = |name: &str, cells: &[String]| {
        let mut text = format!("{name:first$}");
        for (cell, width) in cells.iter().zip(&widths) {
            write!(text, "  {cell:width$}").unwrap();
        }
        writeln!(out, "{}", text.trim_end()).unwrap();
    };
    line(corner, columns);
    for (name, cells) in &rows {
        line(name, cells);
    }
    out
}
