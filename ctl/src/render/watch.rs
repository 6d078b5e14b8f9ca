//! The live view: a few rows that are drawn again in place, or one line per event where there is no terminal.
//!
//! Invariant: at most [`ROWS_MAX`] rows, however large the fleet; what is wrong comes first, what is over collapses.

use anstyle::Style;
use proto::v1::{self, watch_operation_response::Event};

use super::{
    BAD, BOLD, DIM, GOOD, View, WARN, canary, cut, paint,
    plan::fleet_and_app,
    progress::{Host, HostState, Progress},
    traffic, visible,
    words::{self, between_ms, clean, clock, count, duration_ms, or_dash, some_of},
    wrap,
};

/// The height of the live view.
pub const ROWS_MAX: usize = 8;
/// Rows beside those of single hosts: done, waiting, more, bar, hint; and the canary's, where a weight stands.
const ROWS_OTHER: usize = 5;
const ROWS_CANARY: usize = 2;
const BAR_WIDTH: usize = 20;
/// A time of day, and what keeps it from the text.
const CLOCK_WIDTH: usize = 10;
const SPINNER: [&str; 8] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧"];

/// The connection to the coordinator, as the watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    Up,
    Lost { since_unix_ms: i64 },
}

/// The line above the live rows; it stays.
pub fn header(view: &View, progress: &Progress) -> String {
    let plan = &progress.plan;
    let place = fleet_and_app(&plan.fleet, &plan.app);
    let operation = paint(BOLD, &clean(&progress.operation));
    let at = clock(view, progress.started_unix_ms);
    let by =
        if progress.by.is_empty() { String::new() } else { format!("by {} ", clean(&progress.by)) };
    let to = or_dash(&plan.to_release);
    // What changes nothing that is live must not look as if it did.
    let what = if words::goes_live(plan.kind) {
        format!("→ {to}")
    } else {
        format!("{} {to}", words::kind(plan.kind))
    };
    format!("{operation}  {place} {what}   {by}{at}\n")
}

/// Whether an event is part of what happened, and stays above the live rows.
pub fn stays(progress: &Progress, response: &v1::WatchOperationResponse) -> bool {
    match &response.event {
        Some(Event::StageEnded(ended)) => {
            ended.mitigated_after_ms > 0 || gate(progress, ended.stage).is_some()
        }
        Some(Event::Judged(_) | Event::Asked(_)) => true,
        None
        | Some(
            Event::Opened(_)
            | Event::StageBegan(_)
            | Event::Dispatched(_)
            | Event::Step(_)
            | Event::HostEnded(_)
            | Event::HostUnknown(_)
            | Event::Halted(_)
            | Event::Ended(_)
            | Event::Noted(_),
        ) => false,
    }
}

/// The gate behind a stage of the plan.
fn gate(progress: &Progress, stage: u32) -> Option<&v1::Gate> {
    progress.plan.stages.get(stage as usize)?.gate.as_ref()
}

/// The live rows. `tick` turns the spinner.
pub fn rows(view: &View, progress: &Progress, link: &Link, tick: usize) -> Vec<String> {
    let mut rows = Vec::new();
    let done: Vec<&str> = progress.in_state(HostState::Done).collect();
    if !done.is_empty() {
        let names = names(view, &done);
        rows.push(format!(" {} done     {names}", paint(GOOD, "✓")));
    }
    let (single, more) = in_work(progress);
    let spinner = SPINNER[tick % SPINNER.len()];
    rows.extend(single.iter().map(|(name, host)| host_row(view, name, host, spinner)));
    if more > 0 {
        rows.push(format!(" {} and {} in work", paint(DIM, "…"), count(more, "more host")));
    }
    let waiting: Vec<&str> = progress.in_state(HostState::Waiting).collect();
    if !waiting.is_empty() {
        let names = names(view, &waiting);
        rows.push(paint(DIM, &format!(" · waiting  {names}")));
    }
    rows.extend(held(view, progress));
    rows.push(bar(view, progress));
    rows.push(hint(view, progress, link));
    rows
}

/// An event on one line, with the time before it; absent for what only the live view shows.
pub fn line(
    view: &View,
    progress: &Progress,
    response: &v1::WatchOperationResponse,
    verbose: bool,
) -> Option<String> {
    let text = event_words(progress, response.event.as_ref()?, verbose)?;
    Some(format!("{}  {text}\n", clock(view, response.at_unix_ms)))
}

/// The same on a terminal, whose own breaks would be in the middle of a word: under itself, beside the time.
pub fn wrapped(view: &View, line: &str) -> String {
    let Some((time, text)) = line.split_at_checked(CLOCK_WIDTH) else { return line.to_owned() };
    let lines = wrap(text, view.width.saturating_sub(CLOCK_WIDTH));
    let beside = |(index, text): (usize, &String)| {
        format!("{:CLOCK_WIDTH$}{text}\n", if index == 0 { time } else { "" })
    };
    lines.iter().enumerate().map(beside).collect()
}

/// What is said where nothing has happened for a while.
pub fn heartbeat(view: &View, progress: &Progress) -> String {
    let (done, all) = progress.steps();
    let hosts = progress.hosts().count();
    let ready = progress.in_state(HostState::Done).count();
    let now = view.now.as_millisecond();
    let elapsed = duration_ms(between_ms(progress.started_unix_ms, now));
    format!(
        "{}  … {done}/{all} steps, {ready} of {hosts} hosts done, {elapsed}\n",
        clock(view, now)
    )
}

/// What is said of the connection, with the time before it.
pub fn link_line(view: &View, operation: &str, lost: Option<&str>) -> String {
    let now = clock(view, view.now.as_millisecond());
    match lost {
        Some(why) => format!(
            "{now}  {} {}; {} goes on, trying again\n",
            paint(WARN, "!"),
            clean(why),
            clean(operation)
        ),
        None => format!("{now}  {} connected again\n", paint(GOOD, "✓")),
    }
}

/// What a person is told who stops watching.
pub fn detached(ctl: &str, operation: &str, why: &str) -> String {
    let operation = clean(operation);
    format!(
        "{why}: {operation} goes on.\n  Watch:    {ctl} watch {operation}\n  Stop it:  {ctl} abort {operation} --restore\n"
    )
}

/// The hosts that get rows of their own, worst first, and how many more there are.
fn in_work(progress: &Progress) -> (Vec<(&str, &Host)>, usize) {
    let shown = |host: &Host| !matches!(host.state, HostState::Done | HostState::Waiting);
    let mut hosts: Vec<(&str, &Host)> = progress.hosts().filter(|(_, host)| shown(host)).collect();
    hosts.sort_by_key(|(_, host)| host.state);
    let canary = if progress.held.is_some() { ROWS_CANARY } else { 0 };
    let room = ROWS_MAX - ROWS_OTHER - canary;
    let more = hosts.len().saturating_sub(room);
    hosts.truncate(room);
    (hosts, more)
}

fn names(view: &View, hosts: &[&str]) -> String {
    let room = view.width.saturating_sub(12);
    cut(&some_of(hosts.iter().copied(), room), room)
}

fn host_row(view: &View, name: &str, host: &Host, spinner: &str) -> String {
    let (mark, words): (String, String) = match host.state {
        HostState::Working if host.words.is_empty() => (spinner.to_owned(), host.step.clone()),
        HostState::Working if host.step.is_empty() => (spinner.to_owned(), host.words.clone()),
        HostState::Working => (spinner.to_owned(), format!("{}: {}", host.step, host.words)),
        HostState::Left => (paint(WARN, "!"), format!("on target, not verified: {}", host.words)),
        HostState::Undoing => (paint(WARN, spinner), format!("taking back: {}", host.step)),
        HostState::PutBack => (paint(WARN, "↶"), format!("put back: {}", host.words)),
        HostState::Unknown => (paint(BAD, "?"), format!("unknown: {}", host.words)),
        HostState::Stuck => (paint(BAD, "✗"), format!("needs a person: {}", host.words)),
        HostState::Waiting | HostState::Done => (" ".to_owned(), String::new()),
    };
    let since = duration_ms(between_ms(host.since_unix_ms, view.now.as_millisecond()));
    let left = format!(" {mark} {:<8} {words}", clean(name));
    right(view, &left, &since)
}

/// The weight that stands and for how long, and what the judge said last; nothing where none stands.
fn held(view: &View, progress: &Progress) -> Vec<String> {
    let Some(held) = progress.held else { return Vec::new() };
    let Some(stage) = progress.plan.stages.get(held.stage) else { return Vec::new() };
    let Some(gate) = &stage.gate else { return Vec::new() };
    let passed = between_ms(held.since_unix_ms, view.now.as_millisecond());
    let waits = match stage.soak_ms.saturating_sub(passed) {
        0 if gate.asks => "waits for: ctl canary promote".to_owned(),
        0 => "waits for the judge".to_owned(),
        left => format!("hold, {} left", duration_ms(left)),
    };
    let since = duration_ms(passed);
    let first =
        right(view, &format!(" ◆ {} {} %  {waits}", clean(&gate.canary), gate.weight), &since);
    let said = progress.ruling.as_ref().map(|ruling| {
        let text = format!("   {}", canary::ruling(ruling));
        let hidden = text.chars().count() - visible(&text);
        cut(&text, view.width + hidden)
    });
    [first].into_iter().chain(said).collect()
}

fn bar(view: &View, progress: &Progress) -> String {
    let (done, all) = progress.steps();
    let full = (done * BAR_WIDTH).checked_div(all).unwrap_or(0);
    let bar = format!("[{}{}]", "█".repeat(full), "░".repeat(BAR_WIDTH - full));
    let stage = progress.plan.stages.get(progress.stage).map(|stage| clean(&stage.name));
    let stage = stage.map_or_else(String::new, |name| {
        format!(", stage {}/{} {name}", progress.stage + 1, progress.plan.stages.len())
    });
    let elapsed = between_ms(progress.started_unix_ms, view.now.as_millisecond());
    let left = match progress.plan.expected_ms.saturating_sub(elapsed) {
        // How long a weight stands, the judge and people decide.
        _ if progress.held.is_some() => String::new(),
        0 => String::new(),
        left => format!(", about {} left", duration_ms(left)),
    };
    let text = format!(" {bar} {done}/{all} steps{stage}   {}{left}", duration_ms(elapsed));
    cut(&text, view.width)
}

fn hint(view: &View, progress: &Progress, link: &Link) -> String {
    let operation = clean(&progress.operation);
    let (style, text) = match link {
        Link::Lost { since_unix_ms } => {
            let since = duration_ms(between_ms(*since_unix_ms, view.now.as_millisecond()));
            (WARN, format!(" ! no coordinator for {since}; {operation} goes on, trying again"))
        }
        Link::Up if !progress.halted.is_empty() => {
            (WARN, format!(" ! halting: {}", progress.halted))
        }
        Link::Up if !progress.aborted_by.is_empty() => {
            (WARN, format!(" ! {operation} is being aborted, asked by {}", progress.aborted_by))
        }
        Link::Up if progress.paused => {
            (WARN, format!(" ! paused: no new host begins.  Go on: ctl resume {operation}"))
        }
        Link::Up if progress.held.is_some() => {
            let words =
                " Ctrl-C stops watching only.  On: ctl canary promote  Back: ctl canary abort";
            (DIM, words.to_owned())
        }
        Link::Up => {
            (DIM, format!(" Ctrl-C stops watching only.  Stop it: ctl abort {operation} --restore"))
        }
    };
    paint(style, &cut(&text, view.width))
}

/// `text` at the left, cut where needed, and `at_right` at the right edge.
fn right(view: &View, text: &str, at_right: &str) -> String {
    let room = view.width.saturating_sub(visible(at_right) + 2);
    let taken = visible(text);
    if taken <= room {
        return format!("{text}{}{at_right}", " ".repeat(view.width - taken - visible(at_right)));
    }
    // Styles end before the words begin, so that cutting at the end leaves them whole.
    let hidden = text.chars().count() - taken;
    format!("{}  {at_right}", cut(text, room + hidden))
}

fn event_words(progress: &Progress, event: &Event, verbose: bool) -> Option<String> {
    let text = match event {
        Event::Opened(opened) => {
            let reason = match opened.reason.as_str() {
                "" => String::new(),
                reason => format!(": {}", clean(reason)),
            };
            format!("{} begun by {}{reason}", clean(&progress.operation), clean(&opened.by))
        }
        Event::StageBegan(began) => {
            format!(
                "stage {}/{} {}",
                began.stage + 1,
                progress.plan.stages.len(),
                clean(&began.name)
            )
        }
        Event::Dispatched(sent) => {
            let what = match sent.goal() {
                v1::Goal::Forward | v1::Goal::Unspecified => "begins",
                v1::Goal::Undo => "is taken back",
            };
            format!("{}: {what}", some_of(sent.hosts.iter().map(String::as_str), 60))
        }
        Event::Step(step) => return step_words(progress, step, verbose),
        Event::HostEnded(ended) => host_ended(progress, ended),
        Event::HostUnknown(unknown) => {
            format!(
                "{} {}: unknown: {}",
                paint(BAD, "?"),
                clean(&unknown.host),
                clean(&unknown.why)
            )
        }
        Event::Noted(noted) => format!("{}: {}", clean(&noted.host), clean(&noted.what)),
        Event::StageEnded(ended) => return stage_ended(progress, ended, verbose),
        Event::Judged(judged) => {
            let group = gate(progress, judged.stage).map_or("canary", |gate| &gate.canary);
            let said = judged.ruling.as_ref().map(canary::ruling).unwrap_or_default();
            format!("{} {} %: {said}", clean(group), judged.weight)
        }
        Event::Halted(halted) => format!("{} halted: {}", paint(BAD, "✗"), clean(&halted.why)),
        Event::Asked(asked) => format!("{} asked by {}", clean(&asked.what), clean(&asked.by)),
        Event::Ended(ended) => format!("ended: {}", words::result(ended.result).replace('_', " ")),
    };
    Some(text)
}

fn stage_ended(
    progress: &Progress,
    ended: &v1::watch_operation_response::StageEnded,
    verbose: bool,
) -> Option<String> {
    let good = paint(GOOD, "✓");
    if ended.mitigated_after_ms > 0 {
        let words = traffic::mitigated(&progress.plan, ended.mitigated_after_ms);
        return Some(format!("{good} {words}"));
    }
    let stage = progress.plan.stages.get(ended.stage as usize);
    if let Some((stage, gate)) = stage.and_then(|stage| Some((stage, stage.gate.as_ref()?))) {
        let (group, next) = (clean(&gate.canary), canary::gate_words(gate, stage.soak_ms));
        return Some(format!("{good} {group} gets {} % of the traffic; {next}", gate.weight));
    }
    verbose.then(|| format!("stage {} has ended", clean(&ended.name)))
}

fn step_words(
    progress: &Progress,
    step: &v1::watch_operation_response::StepChanged,
    verbose: bool,
) -> Option<String> {
    let name = format!("{}: {}", clean(&step.host), progress.step_name(step));
    let took = duration_ms(step.duration_ms);
    let detail = match step.detail.as_str() {
        "" => String::new(),
        detail => format!(": {}", clean(detail)),
    };
    match v1::StepState::try_from(step.state) {
        Ok(v1::StepState::Done) if verbose => Some(format!("{name} done in {took}{detail}")),
        Ok(v1::StepState::Done) => Some(format!("{name} done in {took}")),
        Ok(v1::StepState::Failed) => Some(format!("{} {name} failed{detail}", paint(BAD, "✗"))),
        Ok(v1::StepState::Undone) => Some(format!("{} {name} taken back", paint(WARN, "↶"))),
        Ok(v1::StepState::Running) => verbose.then(|| format!("{name} …")),
        Ok(v1::StepState::Unspecified) | Err(_) => {
            Some(format!("{name}: {}", words::step_state(step.state)))
        }
    }
}

fn host_ended(progress: &Progress, ended: &v1::watch_operation_response::HostEnded) -> String {
    let host = clean(&ended.host);
    let stage = progress.plan.stages.get(ended.stage as usize).map_or("", |stage| &stage.name);
    let (style, mark, words): (Style, &str, String) = match v1::TrackEnd::try_from(ended.end) {
        Ok(v1::TrackEnd::Done) => (GOOD, "✓", format!("{} done", clean(stage))),
        Ok(v1::TrackEnd::Undone) => (WARN, "↶", format!("put back: {}", clean(&ended.reason))),
        Ok(v1::TrackEnd::Left) => {
            (WARN, "!", format!("on target, not verified: {}", clean(&ended.reason)))
        }
        Ok(v1::TrackEnd::Stuck) => (BAD, "✗", format!("needs a person: {}", clean(&ended.reason))),
        Ok(v1::TrackEnd::Unspecified) | Err(_) => {
            (WARN, "?", format!("{}: {}", words::track_end(ended.end), clean(&ended.reason)))
        }
    };
    format!("{} {host}: {words}", paint(style, mark))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::render::{
        plan,
        tests::{plain, view},
    };
    use v1::watch_operation_response as w;

    pub(crate) const STARTED: &str = "2026-11-22T03:12:07Z";

    pub(crate) fn started_ms() -> i64 {
        STARTED.parse::<jiff::Timestamp>().unwrap().as_millisecond()
    }

    pub(crate) fn operation() -> v1::Operation {
        v1::Operation {
            id: "rb-0193".to_owned(),
            plan: Some(plan::tests::example()),
            result: v1::OperationResult::Running.into(),
            by: "mira".to_owned(),
            reason: "5xx after v1.4.3".to_owned(),
            started_unix_ms: started_ms(),
            ..v1::Operation::default()
        }
    }

    fn dispatched(stage: u32, hosts: &[&str]) -> Event {
        let hosts = hosts.iter().map(ToString::to_string).collect();
        Event::Dispatched(w::Dispatched { stage, hosts, goal: v1::Goal::Forward.into() })
    }

    fn step(
        host: &str,
        stage: u32,
        index: u32,
        verb: v1::Verb,
        state: v1::StepState,
        detail: &str,
    ) -> Event {
        Event::Step(w::StepChanged {
            host: host.to_owned(),
            stage,
            attempt: 1,
            index,
            verb: verb.into(),
            component: "crm".to_owned(),
            state: state.into(),
            duration_ms: 420,
            detail: detail.to_owned(),
            hook: String::new(),
        })
    }

    fn ended(host: &str, stage: u32, end: v1::TrackEnd, reason: &str) -> Event {
        let (host, reason) = (host.to_owned(), reason.to_owned());
        Event::HostEnded(w::HostEnded { host, stage, end: end.into(), reason })
    }

    /// A rollback in which one host is put back and one becomes unknown.
    pub(crate) fn events() -> Vec<v1::WatchOperationResponse> {
        use v1::{StepState as S, TrackEnd as T, Verb as V};
        let began =
            |stage, name: &str| Event::StageBegan(w::StageBegan { stage, name: name.to_owned() });
        let all = ["crm-b1", "crm-b2", "crm-c1", "crm-g1", "crm-g2"];
        let mut events = vec![
            Event::Opened(w::Opened {
                by: "mira".to_owned(),
                reason: "5xx after v1.4.3".to_owned(),
            }),
            began(0, "prepare"),
            dispatched(0, &all),
        ];
        events.extend(all.map(|host| ended(host, 0, T::Done, "")));
        events.extend([
            began(1, "restore"),
            dispatched(1, &["crm-c1"]),
            step("crm-c1", 1, 0, V::Stop, S::Running, ""),
            step("crm-c1", 1, 0, V::Stop, S::Done, ""),
            ended("crm-c1", 1, T::Done, ""),
            dispatched(1, &["crm-b1", "crm-b2"]),
            step("crm-b1", 1, 3, V::Verify, S::Failed, "GET http://127.0.0.1:5000/api/health → 503, 30 of 30; running version is v1.4.2"),
            ended("crm-b1", 1, T::Undone, "verify crm: GET http://127.0.0.1:5000/api/health → 503, 30 of 30; running version is v1.4.2"),
            step("crm-b2", 1, 2, V::Start, S::Running, ""),
            Event::HostUnknown(w::HostUnknown { host: "crm-b2".to_owned(), why: "its agent is out of reach since its order was sent".to_owned() }),
            dispatched(1, &["crm-g1"]),
            step("crm-g1", 1, 0, V::Stop, S::Done, ""),
            step("crm-g1", 1, 1, V::Switch, S::Running, ""),
        ]);
        let mut at = started_ms();
        let respond = |(index, event)| {
            at += 1_700;
            v1::WatchOperationResponse { index, at_unix_ms: at, event: Some(event) }
        };
        (0..).zip(events).map(respond).collect()
    }

    /// Users are moved, and the edge waits until nothing is open any more.
    pub(crate) fn traffic_events() -> Vec<v1::WatchOperationResponse> {
        use v1::{StepState as S, TrackEnd as T, Verb as V};
        let on_edge = |stage, index, verb: V, state: S, detail: &str| {
            let Event::Step(mut step) = step("lb-1", stage, index, verb, state, detail) else {
                panic!("a step is a step");
            };
            words::TRAFFIC.clone_into(&mut step.component);
            Event::Step(step)
        };
        let began =
            |stage, name: &str| Event::StageBegan(w::StageBegan { stage, name: name.to_owned() });
        let events = [
            began(1, "shift traffic"),
            dispatched(1, &["lb-1"]),
            on_edge(1, 0, V::SetWeights, S::Running, ""),
            on_edge(1, 0, V::SetWeights, S::Done, "traffic goes to green 100 %"),
            on_edge(1, 1, V::Verify, S::Done, "2 of 2 hosts answer as v1.4.2"),
            ended("lb-1", 1, T::Done, ""),
            Event::StageEnded(w::StageEnded {
                stage: 1,
                name: "shift traffic".to_owned(),
                mitigated_after_ms: 2_140,
            }),
            began(2, "drain"),
            dispatched(2, &["lb-1"]),
            on_edge(2, 0, V::Drain, S::Running, ""),
        ];
        let mut at = started_ms();
        let respond = |(index, event)| {
            at += 300;
            v1::WatchOperationResponse { index, at_unix_ms: at, event: Some(event) }
        };
        (0..).zip(events).map(respond).collect()
    }

    pub(crate) fn traffic_operation() -> v1::Operation {
        v1::Operation { plan: Some(plan::tests::traffic_first()), ..operation() }
    }

    #[test]
    fn the_traffic_is_told_with_what_is_set_and_when_users_are_safe() {
        let mut progress = Progress::new(&traffic_operation());
        let mut text = String::new();
        for (index, event) in traffic_events().iter().enumerate() {
            progress.apply(event);
            text += &line(&view(), &progress, event, false).unwrap_or_default();
            if index == 2 {
                text += &screen(&progress, &Link::Up, 1);
            }
        }
        text += &screen(&progress, &Link::Up, 4);
        insta::assert_snapshot!(plain(&text));
    }

    /// A canary at 5 %: the judge cannot say, then says pass, and a person promotes it.
    pub(crate) fn canary_events() -> Vec<v1::WatchOperationResponse> {
        let judged =
            |weight, ruling| Event::Judged(w::Judged { stage: 2, weight, ruling: Some(ruling) });
        let set = |stage: u32, name: &str| {
            let name = name.to_owned();
            Event::StageEnded(w::StageEnded { stage, name, mitigated_after_ms: 0 })
        };
        let asked = Event::Asked(w::Asked { what: "promote".to_owned(), by: "mira".to_owned() });
        let hold = canary::tests::ruled(v1::Verdict::Hold, "only 12 of 100 requests to the canary");
        let pass = canary::tests::ruled(
            v1::Verdict::Pass,
            "errors 0.4 % against 0.3 %; p95 181 ms against 152 ms",
        );
        let began =
            |stage, name: &str| Event::StageBegan(w::StageBegan { stage, name: name.to_owned() });
        let events = [
            began(2, "canary 5 %"),
            dispatched(2, &["lb-1"]),
            ended("lb-1", 2, v1::TrackEnd::Done, ""),
            set(2, "canary 5 %"),
            judged(5, hold),
            judged(5, pass),
            asked,
            began(3, "canary 50 %"),
            dispatched(3, &["lb-1"]),
            ended("lb-1", 3, v1::TrackEnd::Done, ""),
            set(3, "canary 50 %"),
        ];
        let mut at = started_ms();
        let respond = |(index, event)| {
            at += 20_000;
            v1::WatchOperationResponse { index, at_unix_ms: at, event: Some(event) }
        };
        (0..).zip(events).map(respond).collect()
    }

    #[test]
    fn a_canary_says_what_stands_what_the_judge_says_and_what_opens_the_gate() {
        let mut progress = Progress::new(&canary::tests::example());
        progress.started_unix_ms = started_ms();
        let mut text = String::new();
        for (index, event) in (1..).zip(canary_events()) {
            progress.apply(&event);
            let said = line(&view(), &progress, &event, false).unwrap_or_default();
            text += &wrapped(&view(), &said);
            if [4, 6, 11].contains(&index) {
                text += &screen(&progress, &Link::Up, 20 * index + 10);
            }
        }
        // Past its hold it waits for the person who was to be asked.
        text += &screen(&progress, &Link::Up, 11 * 20 + 600);
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
    }

    #[test]
    fn what_changes_nothing_live_does_not_look_as_if_it_did() {
        let mut operation = operation();
        operation.plan.as_mut().unwrap().kind = v1::OperationKind::Fetch.into();
        let header = plain(&header(&view(), &Progress::new(&operation)));
        assert!(header.contains("prod/ace-crm fetch v1.4.2"), "{header}");
    }

    fn progress(until: usize) -> Progress {
        let mut progress = Progress::new(&operation());
        for event in events().iter().take(until) {
            progress.apply(event);
        }
        progress
    }

    fn at(seconds: i64) -> View {
        View {
            now: jiff::Timestamp::from_millisecond(started_ms() + seconds * 1000).unwrap(),
            ..view()
        }
    }

    fn screen(progress: &Progress, link: &Link, seconds: i64) -> String {
        let view = at(seconds);
        let rows = rows(&view, progress, link, 2);
        assert!(rows.len() <= ROWS_MAX);
        plain(&format!("{}{}\n", header(&view, progress), rows.join("\n")))
    }

    #[test]
    fn the_live_view_as_it_goes_on() {
        insta::assert_snapshot!("live_preparing", screen(&progress(5), &Link::Up, 9));
        insta::assert_snapshot!("live_restoring", screen(&progress(11), &Link::Up, 20));
        insta::assert_snapshot!("live_in_trouble", screen(&progress(usize::MAX), &Link::Up, 48));
    }

    #[test]
    fn a_lost_coordinator_is_said_in_the_last_row() {
        let since_unix_ms = started_ms() + 20_000;
        insta::assert_snapshot!(screen(&progress(12), &Link::Lost { since_unix_ms }, 23));
    }

    #[test]
    fn a_large_fleet_keeps_its_height() {
        let mut operation = operation();
        let plan = operation.plan.as_mut().unwrap();
        let hosts: Vec<String> = (0..1000).map(|n| format!("web-{n:04}")).collect();
        let track = |host: &String| v1::Track {
            host: host.clone(),
            ..plan.stages[1].batches[0].tracks[0].clone()
        };
        plan.stages[1].batches = vec![v1::Batch { tracks: hosts.iter().map(track).collect() }];
        let mut progress = Progress::new(&operation);
        let sent: Vec<&str> = hosts.iter().take(600).map(String::as_str).collect();
        let events = [
            dispatched(1, &sent),
            ended("web-0001", 1, v1::TrackEnd::Done, ""),
            ended("web-0002", 1, v1::TrackEnd::Stuck, "x".repeat(300).as_str()),
        ];
        for (index, event) in (0..).zip(events) {
            progress.apply(&v1::WatchOperationResponse {
                index,
                at_unix_ms: started_ms(),
                event: Some(event),
            });
        }
        insta::assert_snapshot!(screen(&progress, &Link::Up, 1));
    }

    #[test]
    fn without_a_terminal_there_is_a_line_per_event() {
        let mut progress = Progress::new(&operation());
        let mut text = String::new();
        for event in events() {
            progress.apply(&event);
            text += &line(&view(), &progress, &event, false).unwrap_or_default();
        }
        text += &link_line(
            &view(),
            "rb-0193",
            Some("the connection to the coordinator was lost: broken pipe"),
        );
        text += &link_line(&view(), "rb-0193", None);
        text += &heartbeat(&view(), &progress);
        text += &detached("ctl", "rb-0193", "No longer watching");
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
    }

    #[test]
    fn what_is_left_unverified_or_only_noted_is_said() {
        let mut progress = Progress::new(&operation());
        let noted = |what: &str| {
            let (host, what) = ("crm-b1".to_owned(), what.to_owned());
            Event::Noted(w::Noted { host, what })
        };
        let events = [
            dispatched(1, &["crm-b1", "crm-b2"]),
            noted("its agent is out of reach"),
            ended("crm-b2", 1, v1::TrackEnd::Left, "aborted with --leave"),
            Event::StageEnded(w::StageEnded {
                stage: 1,
                name: "restore".to_owned(),
                ..w::StageEnded::default()
            }),
        ];
        let mut text = String::new();
        for (index, event) in (0..).zip(events) {
            let at_unix_ms = started_ms();
            let event = v1::WatchOperationResponse { index, at_unix_ms, event: Some(event) };
            progress.apply(&event);
            text += &line(&view(), &progress, &event, true).unwrap();
        }
        text += &screen(&progress, &Link::Up, 1);
        insta::assert_snapshot!(plain(&text));
    }

    #[test]
    fn events_that_come_twice_change_nothing() {
        let mut twice = progress(usize::MAX);
        let once = format!("{twice:?}");
        // After a lost connection the same event may come again; the last one is the one that can.
        twice.apply(events().last().unwrap());
        assert_eq!(format!("{twice:?}"), once);
    }
}
