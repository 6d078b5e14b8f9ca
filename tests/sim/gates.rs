//! What must hold of a canary: no traffic that nobody allowed, and all of it back where it is taken back.
//!
//! ```text
//! the judge's words, what a person asked ─┐
//! the journal, as it grows ───────────────┴─▶ Gates: how much the canary may have ─▶ the edges' own weights, after every event
//! ```
//!
//! Invariant: who is let on follows from what was said and asked, from the journal and from the clock; never from what
//! the engine makes of them.

use std::collections::{BTreeMap, BTreeSet};

use agent::order::Weights;
use engine::{
    Abort, Ask, Elapsed, Event, Operation, Outcome, Phase, Plan, RunResult, judge::Verdict,
};

use crate::{
    host::Machine,
    world::{World, host_index},
};

/// How much later than its time something may happen: the coordinator collects before it decides.
const SLACK_MS: u64 = 10;

/// What the oracles remember of a canary.
#[derive(Debug)]
pub(crate) struct Gates {
    rows: Vec<Row>,
    group: String,
    /// The groups without traffic before: they get some only when the last gate has been passed.
    free: BTreeSet<String>,
    /// The edges, with how each divided the traffic before.
    edges: BTreeMap<usize, Weights>,
    /// How many of the gates' weights may be set by now.
    open: usize,
    /// Whether it was let on past the last of them.
    passed: bool,
    /// The stage that stands, and since when.
    stands: Option<(usize, Elapsed)>,
    /// The judge's newest word of it to this process of the coordinator.
    said: Option<Verdict>,
    /// Since when nothing but the hold was in the way.
    free_since: Elapsed,
    paused: bool,
    /// The stages that a person asked to promote to; and the gates before which stand open.
    asked: BTreeSet<usize>,
    promoted: usize,
    aborted: Option<Abort>,
    /// The time of the last record.
    last: Elapsed,
    /// When it ends at the latest where nobody lets it on; what a late host opens again has as long again.
    deadline: Elapsed,
    lasts_ms: u64,
    over: bool,
    /// A host was lost or did not do as it should.
    pub(crate) troubled: bool,
}

/// One gate.
#[derive(Clone, Copy, Debug)]
struct Row {
    stage: usize,
    weight: u32,
    hold_ms: u64,
    asks: bool,
}

impl Gates {
    /// Of a plan that is a canary.
    pub(crate) fn of(plan: &Plan, machines: &[Machine]) -> Self {
        let stages = plan.stages.iter().enumerate();
        let gates = stages.filter_map(|(stage, is)| Some((stage, is, is.gate.as_ref()?)));
        let rows: Vec<Row> = gates
            .map(|(stage, is, gate)| {
                let (weight, hold_ms, asks) = (gate.weight, is.soak_ms, gate.asks);
                Row { stage, weight, hold_ms, asks }
            })
            .collect();
        let edges = machines.iter().enumerate();
        let edges: BTreeMap<usize, Weights> =
            edges.filter_map(|(host, machine)| Some((host, machine.weights.clone()?))).collect();
        let group = |host: &engine::PlannedHost| host.group.to_string();
        let has = |group: &String| edges.values().any(|was| was.groups.contains_key(group));
        let free = plan.hosts.iter().map(group).filter(|group| !has(group)).collect();
        Self {
            rows,
            group: "canary".to_owned(),
            free,
            edges,
            open: 0,
            passed: false,
            stands: None,
            said: None,
            free_since: Elapsed(0),
            paused: false,
            asked: BTreeSet::new(),
            promoted: 0,
            aborted: None,
            last: Elapsed(0),
            deadline: Elapsed(plan.deadline_ms),
            lasts_ms: plan.deadline_ms,
            over: false,
            troubled: false,
        }
    }

    /// Whether a person is needed at some gate.
    pub(crate) fn asks(&self) -> bool {
        self.rows.iter().any(|row| row.asks)
    }

    /// The judge told this process of the coordinator something.
    pub(crate) fn heard(&mut self, stage: usize, verdict: Verdict, at: Elapsed) {
        if self.stands.is_some_and(|(stands, _)| stands == stage) {
            if verdict == Verdict::Pass && self.said != Some(Verdict::Pass) {
                self.free_since = at;
            }
            self.said = Some(verdict);
        }
    }

    /// A person asked for it, allowed or not.
    pub(crate) fn promote_was_asked(&mut self, to_stage: usize) {
        self.asked.insert(to_stage);
    }

    /// A new process: it knows what the journal says, and nothing that the judge said before.
    pub(crate) fn restarted(&mut self, operation: &Operation) -> Result<(), String> {
        self.said = None;
        let now = operation.last();
        if now != self.last {
            return Err(format!(
                "p08: the journal ends at {:?}, the operation at {now:?}",
                self.last
            ));
        }
        let ended = matches!(operation.phase(), Phase::Ended(_));
        let counts = matches!(operation.phase(), Phase::Running | Phase::Paused);
        let hold = self.hold_of(self.stands).filter(|until| *until > now && !ended);
        let stored = operation.canary(now).and_then(|canary| canary.hold_until);
        if !self.paused && counts && stored != hold {
            return Err(format!("p08: the hold ends at {hold:?}, after a restart at {stored:?}"));
        }
        if counts && operation.wake_at().is_none_or(|at| at > self.deadline) {
            return Err(format!("p08: after a restart nothing ends it at {:?}", self.deadline));
        }
        Ok(())
    }

    fn hold_of(&self, stands: Option<(usize, Elapsed)>) -> Option<Elapsed> {
        let (stage, since) = stands?;
        let row = self.rows.iter().find(|row| row.stage == stage)?;
        Some(since.plus(row.hold_ms))
    }

    /// What became durable.
    pub(crate) fn recorded(&mut self, events: &[Event]) -> Result<(), String> {
        let mut failed = false;
        for event in events {
            match event {
                Event::StageBegan { stage, at } => {
                    self.goes_on(*stage, *at)?;
                    self.reached(*at);
                }
                Event::StageEnded { stage, at } => {
                    (self.stands, self.said, self.free_since) = (Some((*stage, *at)), None, *at);
                    self.reached(*at);
                }
                Event::Asked { ask, at, .. } => {
                    self.person(ask, *at)?;
                    self.reached(*at);
                }
                Event::Judged { ruling, at, .. } => {
                    failed |= ruling.verdict == Verdict::Fail;
                    self.reached(*at);
                }
                Event::Halted { at, .. } => {
                    self.stands = None;
                    self.reached(*at);
                }
                Event::Ended { at, .. } => {
                    (self.stands, self.over) = (None, true);
                    self.reached(*at);
                }
                Event::SeenInWork { at, .. } | Event::SeenIdle { at, again: true, .. } => {
                    if std::mem::take(&mut self.over) {
                        self.deadline = at.plus(self.lasts_ms);
                    }
                    self.reached(*at);
                }
                Event::HostLost { at, .. }
                | Event::HostBack { at, .. }
                | Event::Dispatched { at, .. }
                | Event::SeenIdle { at, again: false, .. } => self.reached(*at),
                Event::BecameUnknown { at, .. } | Event::Overtaken { at, .. } => {
                    self.troubled = true;
                    self.reached(*at);
                }
                Event::TrackEnded { ending, .. } => {
                    self.troubled |= ending.end != engine::TrackEnd::Done && self.aborted.is_none();
                }
                Event::Opened { .. } | Event::StepReported { .. } => {}
            }
        }
        if failed && self.aborted.is_none() {
            return Err("p07: the judge's fail is on record, and nothing goes back".to_owned());
        }
        Ok(())
    }

    fn reached(&mut self, at: Elapsed) {
        self.last = self.last.max(at);
    }

    /// A stage begins: whether it was let past all gates before it.
    fn goes_on(&mut self, stage: usize, at: Elapsed) -> Result<(), String> {
        let (stands, said) = (self.stands.take(), self.said.take());
        if self.paused || self.aborted.is_some() {
            return Err(format!("p07: stage {stage} begins although it is paused or goes back"));
        }
        let open = self.rows.iter().filter(|row| row.stage <= stage).count();
        let passed = self.rows.last().is_some_and(|row| row.stage < stage);
        // The gates that it passes now: those whose weight was set, and the last one.
        let before = self.rows.iter().take(if passed { open } else { open.saturating_sub(1) });
        let known = if self.passed { self.rows.len() } else { self.open.saturating_sub(1) };
        for row in before.skip(known) {
            if self.promoted > row.stage {
                continue;
            }
            let since = stands.filter(|(stage, _)| *stage == row.stage);
            let over = since.map(|(_, since)| since.plus(row.hold_ms)).filter(|over| *over <= at);
            match over {
                Some(over) if !row.asks && said == Some(Verdict::Pass) => {
                    let free = over.max(self.free_since);
                    if at.since(free) > SLACK_MS {
                        return Err(format!("p08: it could go on at {free:?}, and does at {at:?}"));
                    }
                }
                Some(_) | None => {
                    return Err(format!(
                        "p07: stage {stage} begins at {at:?}; the gate of {} % stands since {since:?}, \
                         the judge said {said:?}, and nobody promoted",
                        row.weight
                    ));
                }
            }
        }
        self.open = self.open.max(open);
        self.passed |= passed;
        Ok(())
    }

    fn person(&mut self, ask: &Ask, at: Elapsed) -> Result<(), String> {
        match ask {
            Ask::Pause => self.paused = true,
            Ask::Resume => (self.paused, self.free_since) = (false, self.free_since.max(at)),
            Ask::Abort(abort) => {
                (self.paused, self.stands) = (false, None);
                if self.aborted != Some(Abort::Restore) {
                    self.aborted = Some(*abort);
                }
            }
            Ask::Promote { to_stage } => {
                let gate = self.stands.map(|(stage, _)| stage);
                let gate = gate.filter(|stage| self.rows.iter().any(|row| row.stage == *stage));
                let asked = self.asked.contains(to_stage);
                if !asked || self.paused || gate.is_none_or(|gate| gate >= *to_stage) {
                    return Err(format!(
                        "p07: promoted to {to_stage} from {gate:?}; asked: {asked}"
                    ));
                }
                self.promoted = *to_stage;
            }
            Ask::Retry(_) => return Err("p07: a canary is tried again".to_owned()),
        }
        Ok(())
    }

    /// How many percent the canary may have now.
    fn allowed(&self) -> u32 {
        self.open.checked_sub(1).map_or(0, |last| self.rows[last].weight)
    }
}

impl World {
    /// The journal has grown.
    pub(crate) fn canary_recorded(&mut self, events: &[Event]) {
        let Some(tried) = &mut self.canary else { return };
        let before = tried.gates.open;
        let mut verdict = tried.gates.recorded(events);
        if verdict.is_ok() && tried.gates.open > before {
            verdict = self.p07_the_canary_is_ready();
        }
        self.watch.judge(verdict);
    }

    /// A coordinator starts from its journal.
    pub(crate) fn canary_restarted(&mut self) {
        if let Some(tried) = &mut self.canary {
            let verdict = tried.gates.restarted(&self.coordinator.operation);
            self.watch.judge(verdict);
        }
    }

    /// No user is sent to a host of the canary that is not ready.
    fn p07_the_canary_is_ready(&self) -> Result<(), String> {
        for row in &self.coordinator.operation.plan().hosts {
            let host = host_index(&row.host);
            if row.group.as_str() != "canary" || self.watch.is_taken(host) {
                continue;
            }
            for (component, part) in &self.machines[host].parts {
                if !self.machines[host].is_on(component, &self.targets[component]) {
                    return Err(format!("p07: h{host} gets users, and {component} is {part:?}"));
                }
            }
        }
        Ok(())
    }

    /// No edge gives the canary, or a slot that had nothing, more than somebody has allowed.
    pub(crate) fn p07_no_traffic_that_nobody_allowed(&self) -> Result<(), String> {
        let Some(tried) = &self.canary else { return Ok(()) };
        let gates = &tried.gates;
        for host in gates.edges.keys() {
            let Some(now) = &self.machines[*host].weights else {
                return Err(format!("p07: h{host} does not know how it divides the traffic"));
            };
            for (group, share) in &now.groups {
                let may = match group {
                    group if *group == gates.group => gates.allowed(),
                    group if gates.free.contains(group) && !gates.passed => 0,
                    _ => 100,
                };
                if *share > may {
                    return Err(format!(
                        "p07: h{host} gives {group} {share} %, allowed are {may} %"
                    ));
                }
            }
        }
        Ok(())
    }

    /// In the end: the canary has no share, what was taken back is as it was, and where it is not, the outcome says so.
    pub(crate) fn p03_a_canary_ends_as_it_says(&self) -> Result<(), String> {
        let Some(tried) = &self.canary else { return Ok(()) };
        let gates = &tried.gates;
        let operation = &self.coordinator.operation;
        let Phase::Ended(result) = operation.phase() else {
            return Err(format!("p06: the canary is still {:?}", operation.phase()));
        };
        let back = gates.aborted == Some(Abort::Restore);
        for row in operation.outcomes() {
            let host = host_index(&row.host);
            let said = matches!(row.outcome, Outcome::Failed | Outcome::Unknown);
            if said || self.watch.is_taken(host) {
                continue;
            }
            if back && row.outcome == Outcome::Restored {
                return Err(format!("p03: h{host} is reported restored, and all was taken back"));
            }
            if let (Some(before), Some(now)) =
                (gates.edges.get(&host), &self.machines[host].weights)
            {
                let share = now.groups.get(&gates.group).copied().unwrap_or(0);
                let same = !back || now == before;
                if share > 0 || !same {
                    let outcome = row.outcome;
                    return Err(format!("p03: h{host} is reported {outcome:?} and has {now}"));
                }
            }
            if (back || result == RunResult::PutBack)
                && !self.watch.is_as_at_first(host, &self.machines[host])
            {
                return Err(format!("p03: h{host} was taken back, and is not as it was"));
            }
        }
        let on = matches!(result, RunResult::Verified | RunResult::Unverified);
        if on && !gates.passed {
            return Err(format!("p07: {result:?}, and nobody let it on"));
        }
        self.p06_who_is_let_on_gets_there(result)
    }

    /// Where no host gave trouble and no person spoke, it ends as the judge saw it.
    fn p06_who_is_let_on_gets_there(&self, result: RunResult) -> Result<(), String> {
        let Some(tried) = &self.canary else { return Ok(()) };
        if tried.gates.troubled || !self.peaceful {
            return Ok(());
        }
        match (tried.is_let_on(), result) {
            (Some(true), RunResult::Verified) | (Some(false), RunResult::PutBack) | (None, _) => {
                Ok(())
            }
            (Some(on), result) => Err(format!("p06: let on: {on}, and it ended {result:?}")),
        }
    }
}
