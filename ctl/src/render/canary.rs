//! How a canary stands: its weight, the step, what the judge says, what it waits for, what to type.
//!
//! ```text
//! Operation.canary + its plan ─▶ Stands ─▶ Now ─┬─▶ `ctl canary status`   everything, with the figures
//! GetFleet.traffic ─ observed weight ──────────▶│─▶ `ctl status`          two lines
//!                                               └─▶ json::Canary
//! ```
//!
//! Invariant: a weight that was asked for is not shown as one that the edges have.

use anstyle::Style;
use proto::v1;

use super::{
    BAD, BOLD, DIM, GOOD, View, WARN, field, gauges, paint,
    plan::fleet_and_app,
    table::{Table, styled},
    words::{self, clean, clock, day_and_time, duration_ms, or_dash},
};
use crate::session::quote;

/// Where a canary stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// No weight is set yet.
    Prepares,
    /// The weight of this step is set.
    At(usize),
    /// It is on its way to the whole fleet.
    Promoted,
    Over,
}

/// An operation with a canary, as it stands now.
#[derive(Clone, Copy, Debug)]
pub struct Now<'a> {
    pub operation: &'a v1::Operation,
    pub canary: &'a v1::CanaryView,
    /// What the edges say that it gets; absent where they do not say the same, or nothing.
    pub observed: Option<u32>,
}

impl<'a> Now<'a> {
    /// Absent where the operation has no canary.
    pub fn new(operation: &'a v1::Operation, traffic: Option<&v1::TrafficView>) -> Option<Self> {
        let canary = operation.canary.as_ref()?;
        Some(Self { operation, canary, observed: observed(traffic, &canary.group) })
    }

    pub fn stands(&self) -> Stands {
        let last = self.canary.steps.last().map_or(0, |step| step.stage);
        match self.canary.step {
            _ if self.canary.waits() == v1::CanaryWaits::Nothing => Stands::Over,
            Some(step) => Stands::At(step as usize),
            None if self.operation.stage > last => Stands::Promoted,
            None => Stands::Prepares,
        }
    }

    /// The weight that is set; 0 before the first. Past the last step it is not one any more.
    pub fn weight(&self) -> Option<u32> {
        match self.stands() {
            Stands::Prepares => Some(0),
            Stands::At(step) => self.canary.steps.get(step).map(|step| step.weight),
            Stands::Promoted | Stands::Over => None,
        }
    }

    /// The weight of the next step; 100 is the whole fleet.
    pub fn next_weight(&self) -> u32 {
        let next = match self.stands() {
            Stands::Prepares => 0,
            Stands::At(step) => step + 1,
            Stands::Promoted | Stands::Over => usize::MAX,
        };
        self.canary.steps.get(next).map_or(100, |step| step.weight)
    }

    fn plan(&self) -> v1::Plan {
        self.operation.plan.clone().unwrap_or_default()
    }
}

/// What the edges say that a group gets; absent where they do not say the same, or nothing.
pub fn observed(traffic: Option<&v1::TrafficView>, group: &str) -> Option<u32> {
    let shares = traffic?.observed.as_ref()?;
    Some(shares.groups.iter().find(|row| row.group == group).map_or(0, |row| row.percent))
}

/// `canary 5 % → 50 %`.
pub fn moves(group: &str, from: Option<u32>, to: u32) -> String {
    let percent = |weight: u32| format!("{weight} %");
    format!("{} {} → {to} %", clean(group), from.map_or_else(|| "?".to_owned(), percent))
}

/// `pass`, `fail`, `hold`.
pub fn verdict(verdict: i32) -> String {
    let known = v1::Verdict::try_from(verdict).map(words::verdict);
    known.map_or_else(|_| format!("verdict-{verdict}"), ToOwned::to_owned)
}

pub(super) fn verdict_style(verdict: i32) -> Style {
    match v1::Verdict::try_from(verdict) {
        Ok(v1::Verdict::Pass) => GOOD,
        Ok(v1::Verdict::Fail) => BAD,
        Ok(v1::Verdict::Hold | v1::Verdict::Unspecified) | Err(_) => WARN,
    }
}

/// `steps`, `hold`, `judge`, `person`, `resume`, `nothing`.
pub fn waits(waits: i32) -> String {
    let word = match v1::CanaryWaits::try_from(waits) {
        Ok(v1::CanaryWaits::Steps) => "steps",
        Ok(v1::CanaryWaits::Hold) => "hold",
        Ok(v1::CanaryWaits::Judge) => "judge",
        Ok(v1::CanaryWaits::Person) => "person",
        Ok(v1::CanaryWaits::Resume) => "resume",
        Ok(v1::CanaryWaits::Nothing) => "nothing",
        Ok(v1::CanaryWaits::Unspecified) | Err(_) => return format!("waits-{waits}"),
    };
    word.to_owned()
}

/// `pass: errors 0.4 % against 0.3 %`.
pub(super) fn ruling(ruling: &v1::Ruling) -> String {
    let verdict = paint(verdict_style(ruling.verdict), &verdict(ruling.verdict));
    match ruling.sentence.as_str() {
        "" => verdict,
        sentence => format!("{verdict}: {}", clean(sentence)),
    }
}

/// What a plan's canary will do, in one line; empty where it has none.
pub(super) fn planned(plan: &v1::Plan) -> String {
    let gates = plan.stages.iter().filter_map(|stage| Some((stage.gate.as_ref()?, stage.soak_ms)));
    let steps: Vec<String> =
        gates.map(|(gate, hold)| step_words(gate.weight, hold, gate.asks)).collect();
    if steps.is_empty() {
        return String::new();
    }
    format!(
        "{} → the whole fleet; all goes back by itself where the judge says fail",
        steps.join(" → ")
    )
}

/// What stands behind a plan's stage with a gate: `hold 10m, judged by errors, p95`.
pub(super) fn gate_words(gate: &v1::Gate, hold_ms: u64) -> String {
    let hold = if hold_ms > 0 { format!("hold {}, ", duration_ms(hold_ms)) } else { String::new() };
    let by = gate.measures.join(", ");
    let judged = if by.is_empty() { "judged".to_owned() } else { format!("judged by {by}") };
    let asks = if gate.asks { ", then waits for: ctl canary promote" } else { "" };
    let then = format!("{judged}{asks}");
    format!("{hold}{then}")
}

/// `5 % for 10m`, `50 % until promoted`, `50 % for 10m and until promoted`.
fn step_words(weight: u32, hold_ms: u64, asks: bool) -> String {
    let hold = if hold_ms > 0 { format!(" for {}", duration_ms(hold_ms)) } else { String::new() };
    let asks = match (asks, hold_ms) {
        (false, _) => "",
        (true, 0) => " until promoted",
        (true, _) => " and until promoted",
    };
    format!("{weight} %{hold}{asks}")
}

/// Everything that is known of a running canary. `ctl` begins each command.
pub fn status(view: &View, now: &Now<'_>, ctl: &str) -> String {
    let plan = now.plan();
    let operation = now.operation;
    let by = format!(
        "{}, by {} {}",
        clean(&operation.id),
        or_dash(&operation.by),
        day_and_time(view, operation.started_unix_ms).trim()
    );
    let mut text = format!(
        "{}   {} of {}   {by}\n",
        paint(BOLD, &fleet_and_app(&plan.fleet, &plan.app)),
        clean(&now.canary.group),
        or_dash(&plan.to_release),
    );
    text += &field(view, "Weight", &weight_words(now));
    text += &field(view, "Steps", &steps(now));
    text += &judge(view, now.canary);
    text += &gauges::gauges(view, now.canary);
    text += &field(view, "Waits for", &waits_words(view, now, ctl));
    text + &next(now, &plan.fleet, ctl)
}

/// Two lines for `ctl status`, and what to type.
pub(super) fn glance(view: &View, now: &Now<'_>, ctl: &str) -> String {
    let release = or_dash(&now.plan().to_release);
    let mut text = field(view, "Canary", &format!("{release} at {}", weight_words(now)));
    text += &field(view, "", &format!("waits for {}", waits_words(view, now, ctl)));
    if let Some(said) = &now.canary.ruling {
        text += &field(view, "Judge", &ruling(said));
    }
    text
}

fn weight_words(now: &Now<'_>) -> String {
    let all = now.canary.steps.len();
    let asked = match now.stands() {
        Stands::Prepares => "0 %: it is being prepared".to_owned(),
        Stands::Promoted => "100 %: on its way to the whole fleet".to_owned(),
        Stands::Over => "no weight: it is over".to_owned(),
        Stands::At(step) => {
            let weight = now.weight().unwrap_or_default();
            format!("{weight} %, step {} of {all}", step + 1)
        }
    };
    match (now.stands(), now.observed) {
        (Stands::At(_), None) => paint_words(&format!("{asked}; the edges do not say it as one")),
        (Stands::At(_), Some(seen)) if now.weight() != Some(seen) => {
            paint_words(&format!("{asked}; the edges say {seen} %"))
        }
        (Stands::At(_) | Stands::Prepares | Stands::Promoted | Stands::Over, _) => asked,
    }
}

/// A style per word, so that wrapping does not leave one open at the end of a line.
fn paint_words(text: &str) -> String {
    text.split(' ').map(|word| paint(WARN, word)).collect::<Vec<_>>().join(" ")
}

/// `[5 % for 10m] → 50 % for 15m → the whole fleet`.
fn steps(now: &Now<'_>) -> String {
    let stands = now.stands();
    let words = now.canary.steps.iter().enumerate().map(|(index, step)| {
        let words = step_words(step.weight, step.hold_ms, step.asks);
        if stands == Stands::At(index) { format!("[{words}]") } else { words }
    });
    let all = "the whole fleet".to_owned();
    let all = if stands == Stands::Promoted { format!("[{all}]") } else { all };
    words.chain([all]).collect::<Vec<_>>().join(" → ")
}

fn judge(view: &View, canary: &v1::CanaryView) -> String {
    let Some(said) = &canary.ruling else {
        return field(view, "Judge", "has said nothing yet");
    };
    let mut text = field(view, "Judge", &ruling(said));
    let at = clock(view, said.at_unix_ms);
    let mut table = Table::new(["", "CANARY", "REST", "AT MOST", "REQUESTS"]);
    for row in &said.figures {
        let figure = |value: Option<f64>| match value {
            Some(value) => figure(&row.name, value),
            None => "-".to_owned(),
        };
        table.row([
            clean(&row.name).into(),
            figure(row.canary).into(),
            figure(row.baseline).into(),
            figure(row.bound).into(),
            styled(DIM, format!("{}, rest {}", row.canary_requests, row.baseline_requests)),
        ]);
    }
    text += &table.render(view);
    text + &field(view, "", &paint(DIM, &format!("as of {at}")))
}

/// `0.40 %` of a share, `180 ms` of a latency.
pub(super) fn figure(name: &str, value: f64) -> String {
    if name.starts_with("errors") {
        format!("{:.2} %", value * 100.0)
    } else {
        format!("{value:.0} ms")
    }
}

fn waits_words(view: &View, now: &Now<'_>, ctl: &str) -> String {
    match v1::CanaryWaits::try_from(now.canary.waits) {
        Ok(v1::CanaryWaits::Steps) => "its hosts and the traffic".to_owned(),
        Ok(v1::CanaryWaits::Hold) => {
            let until = now.canary.hold_until_unix_ms;
            let left = words::between_ms(view.now.as_millisecond(), until);
            format!("the end of the hold: {} left, until {}", duration_ms(left), clock(view, until))
        }
        Ok(v1::CanaryWaits::Judge) => "the judge, who cannot say pass".to_owned(),
        Ok(v1::CanaryWaits::Person) => format!("a person: {ctl} canary promote"),
        Ok(v1::CanaryWaits::Resume) => format!("{ctl} canary resume: it is paused"),
        Ok(v1::CanaryWaits::Nothing) => "nothing: it is over".to_owned(),
        Ok(v1::CanaryWaits::Unspecified) | Err(_) => waits(now.canary.waits),
    }
}

/// What can be typed now, each with what it leads to.
fn next(now: &Now<'_>, fleet: &str, ctl: &str) -> String {
    let (group, from, fleet) = (&now.canary.group, now.weight(), quote(fleet));
    let promote = format!(
        "{ctl} canary promote --fleet {fleet}    # {}",
        moves(group, from, now.next_weight())
    );
    let back = match now.stands() {
        Stands::At(_) => moves(group, from, 0),
        Stands::Prepares | Stands::Promoted | Stands::Over => "everything as it was".to_owned(),
    };
    let abort = format!("{ctl} canary abort --fleet {fleet}    # {back}");
    let resume = format!("{ctl} canary resume --fleet {fleet}");
    let watch = format!("{ctl} watch {}", clean(&now.operation.id));
    let commands = match (now.canary.waits(), now.stands()) {
        (_, Stands::Over) => vec![watch],
        (v1::CanaryWaits::Resume, _) => vec![resume, abort],
        (_, Stands::At(_)) => vec![promote, abort],
        (_, Stands::Prepares | Stands::Promoted) => vec![watch, abort],
    };
    let line =
        |(index, command)| format!("{:<7}{command}\n", if index == 0 { "Next:" } else { "" });
    commands.into_iter().enumerate().map(line).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::render::{
        json, lists, plan, summary,
        tests::{plain, view},
        triggers, watch,
    };

    pub(crate) fn ruled(verdict: v1::Verdict, sentence: &str) -> v1::Ruling {
        let figure = |name: &str, canary, baseline, bound| v1::Figure {
            name: name.to_owned(),
            canary: Some(canary),
            baseline: Some(baseline),
            bound,
            canary_requests: 1_812,
            baseline_requests: 34_011,
        };
        v1::Ruling {
            verdict: verdict.into(),
            sentence: sentence.to_owned(),
            figures: vec![
                figure("errors", 0.004, 0.003, Some(0.02)),
                figure("p95", 181.0, 152.0, None),
            ],
            at_unix_ms: view().now.as_millisecond() - 2_000,
        }
    }

    /// A canary at 5 %, four minutes into its hold.
    pub(crate) fn example() -> v1::Operation {
        let now = view().now.as_millisecond();
        let step =
            |weight, stage, asks| v1::CanaryStepView { weight, hold_ms: 600_000, stage, asks };
        v1::Operation {
            id: "dp-0207".to_owned(),
            plan: Some(plan::tests::canary()),
            result: v1::OperationResult::Running.into(),
            by: "mira".to_owned(),
            started_unix_ms: now - 400_000,
            stage: 2,
            canary: Some(v1::CanaryView {
                group: "canary".to_owned(),
                steps: vec![step(5, 2, false), step(50, 3, true)],
                step: Some(0),
                ruling: Some(ruled(
                    v1::Verdict::Pass,
                    "errors 0.4 % against 0.3 %; p95 181 ms against 152 ms",
                )),
                hold_until_unix_ms: now + 360_000,
                waits: v1::CanaryWaits::Hold.into(),
                gauges: vec![gauges::tests::example()],
            }),
            ..v1::Operation::default()
        }
    }

    pub(crate) fn traffic(weight: u32) -> v1::TrafficView {
        let share = |group: &str, percent| v1::GroupWeight { group: group.to_owned(), percent };
        let mut groups = vec![share("blue", 100 - weight)];
        groups.extend((weight > 0).then(|| share("canary", weight)));
        v1::TrafficView {
            observed: Some(v1::Weights { groups, out: Vec::new() }),
            slots: vec!["blue".to_owned(), "green".to_owned()],
            ..v1::TrafficView::default()
        }
    }

    fn shown(operation: &v1::Operation, weight: u32) -> String {
        let traffic = traffic(weight);
        plain(&status(&view(), &Now::new(operation, Some(&traffic)).unwrap(), "ctl"))
    }

    #[test]
    fn in_every_state_it_says_what_it_waits_for_and_what_to_type() {
        let with = |change: fn(&mut v1::CanaryView)| {
            let mut operation = example();
            change(operation.canary.as_mut().unwrap());
            operation
        };
        let prepares = v1::Operation {
            stage: 0,
            ..with(|canary| {
                (canary.step, canary.ruling) = (None, None);
                canary.gauges.clear();
                canary.waits = v1::CanaryWaits::Steps.into();
            })
        };
        let judge = with(|canary| {
            canary.waits = v1::CanaryWaits::Judge.into();
            canary.ruling = Some(ruled(v1::Verdict::Hold, "only 12 of 100 requests to the canary"));
        });
        let person = with(|canary| {
            (canary.step, canary.waits) = (Some(1), v1::CanaryWaits::Person.into());
        });
        let paused = with(|canary| canary.waits = v1::CanaryWaits::Resume.into());
        let promoted = v1::Operation {
            stage: 4,
            ..with(|canary| {
                canary.gauges.clear();
                (canary.step, canary.waits) = (None, v1::CanaryWaits::Steps.into());
            })
        };
        let texts = [
            shown(&prepares, 0),
            shown(&example(), 5),
            shown(&judge, 5),
            shown(&person, 5),
            shown(&paused, 5),
            shown(&promoted, 0),
        ];
        insta::assert_snapshot!(texts.join("\n"));
    }

    fn ended(change: impl FnOnce(&mut v1::Operation)) -> v1::Operation {
        let mut operation = example();
        let plan = operation.plan.clone().unwrap();
        operation.result = v1::OperationResult::PutBack.into();
        operation.ended_unix_ms = view().now.as_millisecond();
        operation.hosts = plan
            .hosts
            .iter()
            .map(|host| v1::HostOutcome {
                host: host.host.clone(),
                group: host.group.clone(),
                outcome: match host.left_out.as_str() {
                    "" => v1::Outcome::Original.into(),
                    _ => v1::Outcome::Skipped.into(),
                },
                ..v1::HostOutcome::default()
            })
            .collect();
        let canary = operation.canary.as_mut().unwrap();
        (canary.step, canary.waits) = (None, v1::CanaryWaits::Nothing.into());
        canary.gauges.clear();
        change(&mut operation);
        operation
    }

    /// Fewer errors would have been fewer words.
    pub(crate) const WORSE: &str =
        "errors 25.1 % (of 187) against 0.2 % (of 3 554): worse than chance allows (1 in 100)";

    #[test]
    fn who_took_it_back_is_said_first_and_then_where_users_are() {
        let by_judge = ended(|operation| {
            operation.aborted_by = "judge".to_owned();
            operation.halted = format!("the judge says fail: {WORSE}");
            let canary = operation.canary.as_mut().unwrap();
            canary.ruling = Some(ruled(v1::Verdict::Fail, WORSE));
        });
        let by_itself = ended(|operation| {
            operation.aborted_by = "lastgood".to_owned();
            operation.halted =
                "the canary waited for 24h at 5 %, and nobody promoted it".to_owned();
        });
        let by_trigger = ended(|operation| operation.aborted_by = "trigger errors".to_owned());
        let by_person = ended(|operation| operation.aborted_by = "mira".to_owned());
        let promoted = ended(|operation| {
            operation.result = v1::OperationResult::Verified.into();
            for host in &mut operation.hosts {
                if host.outcome() == v1::Outcome::Original {
                    host.outcome = v1::Outcome::Restored.into();
                }
            }
        });
        let shown = |operation: &v1::Operation| {
            plain(&summary::summary(&view(), operation, "ctl", Some(&traffic(0))))
        };
        let texts = [&by_judge, &by_itself, &by_trigger, &by_person, &promoted].map(shown);
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn the_history_has_canaries_who_aborted_them_and_what_was_only_proposed() {
        let aborted = ended(|operation| operation.aborted_by = "judge".to_owned());
        let running = v1::Operation { id: "dp-0209".to_owned(), ..example() };
        let rejected = v1::Proposal {
            operation: "rb-0206".to_owned(),
            at_unix_ms: aborted.started_unix_ms - 60_000,
            state: v1::ProposalState::Rejected.into(),
            decided_by: "ana".to_owned(),
            decided_reason: "it was the proxy".to_owned(),
            decided_unix_ms: aborted.started_unix_ms - 30_000,
            ..triggers::tests::example()
        };
        let proposals = [triggers::tests::example(), rejected];
        insta::assert_snapshot!(plain(&lists::history(&view(), &[running, aborted], &proposals)));
    }

    #[test]
    fn a_canary_as_a_document() {
        let operation = example();
        let traffic = traffic(5);
        let document = json::Canary::new(&operation, Some(&traffic)).unwrap();
        insta::assert_snapshot!(serde_json::to_string_pretty(&document).unwrap());
        let judged = watch::tests::canary_events();
        let plan = operation.plan.unwrap();
        let lines =
            judged[3..7].iter().map(|event| json::event("dp-0207", &plan, event).to_string());
        insta::assert_snapshot!("events_as_lines", lines.collect::<Vec<_>>().join("\n"));
        let proposal = json::Proposal::from(&triggers::tests::example());
        insta::assert_snapshot!("a_proposal", serde_json::to_string_pretty(&proposal).unwrap());
        let trigger = json::Trigger::from(&triggers::tests::views()[1]);
        insta::assert_snapshot!("a_trigger", serde_json::to_string_pretty(&trigger).unwrap());
    }

    #[test]
    fn the_next_weight_is_that_of_the_next_step_and_then_the_whole_fleet() {
        let mut operation = example();
        let weights = |operation: &v1::Operation| {
            let now = Now::new(operation, None).unwrap();
            (now.weight(), now.next_weight())
        };
        assert_eq!(weights(&operation), (Some(5), 50));
        operation.canary.as_mut().unwrap().step = Some(1);
        assert_eq!(weights(&operation), (Some(50), 100));
        operation.canary.as_mut().unwrap().step = None;
        operation.stage = 4;
        assert_eq!(weights(&operation), (None, 100));
        operation.stage = 0;
        assert_eq!(weights(&operation), (Some(0), 5));
    }
}
