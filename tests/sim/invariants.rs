//! The promises, checked against the ground truth after every event.
//!
//! ```text
//! appends, sends, effects ─▶ Watch (remembers) ─┐
//! machines, ledgers, journal ───────────────────┴─▶ p01_ … p08_ ─▶ the first broken promise ends the run
//! ```
//!
//! Invariant: nothing here asks the engine or the worker whether something is right; their state is only compared
//! with what the machines and the durable records say.

use std::collections::{BTreeMap, BTreeSet};

use agent::{
    ledger::{Ledger, Record},
    order::{Before, End, Fence, TrackKey},
};
use engine::{Event, Goal, Operation, Outcome, Phase, TrackEnd};

use crate::{
    host::{Machine, Tree},
    world::{Up, World, host_index},
};

/// What the oracles remember.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    hosts: Vec<HostWatch>,
    /// Orders that left the coordinator: host, stage, attempt.
    ordered: BTreeSet<(usize, usize, u32)>,
    /// How many events watchers have seen.
    shown: usize,
    /// Hosts that an undo order took out although they served.
    undoing: BTreeSet<usize>,
    /// Hosts that the coordinator counted as unknown, and so as out, at some time.
    unknown: BTreeSet<usize>,
    /// There is no coordinator whose words and budget could be held against the machines.
    alone: bool,
    /// The first broken promise.
    pub(crate) broken: Option<String>,
}

#[derive(Debug, Default)]
struct HostWatch {
    /// The machine before the operation.
    first: Option<Machine>,
    /// The highest fence on record, as it came over the wire.
    highest: Option<Fence>,
    /// The fence that each track was last ordered under.
    authority: BTreeMap<TrackKey, Fence>,
    /// Steps, forward (false) or back (true), whose effect began and of which neither a look nor a record tells.
    in_doubt: BTreeSet<(TrackKey, usize, bool)>,
    /// Steps whose durable outcome is `done`, in their attempt.
    settled: BTreeSet<(TrackKey, usize, bool)>,
    /// What was told to the coordinator of each track: attempt, and how it ended.
    told: BTreeMap<TrackKey, (u32, Option<End>)>,
    /// The highest term that was told that nothing is open here.
    idle_told: u64,
    out: bool,
    /// Root took it; and the coordinator has taken note of that.
    taken: bool,
    known: bool,
    /// An order of the coordinator was open when root did.
    interrupted: bool,
}

impl Watch {
    pub(crate) fn new(machines: &[Machine]) -> Self {
        let host =
            |machine: &Machine| HostWatch { first: Some(machine.clone()), ..HostWatch::default() };
        Self { hosts: machines.iter().map(host).collect(), ..Self::default() }
    }

    /// Only what concerns a single host is checked from here on.
    pub(crate) fn alone(&mut self) {
        self.alone = true;
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Keeps the first broken promise.
    pub(crate) fn judge(&mut self, verdict: Result<(), String>) {
        if let (None, Err(why)) = (&self.broken, verdict) {
            self.broken = Some(why);
        }
    }

    /// Promise 1: what is durably recorded of an order, and whether a step may begin under it. `wire` is the
    /// fence of the order that the records answer, as it was sent.
    pub(crate) fn p01_one_authority(
        &mut self,
        host: usize,
        records: &[Record],
        wire: Option<&(TrackKey, Fence)>,
    ) -> Result<(), String> {
        let watch = &mut self.hosts[host];
        for record in records {
            match record {
                Record::Accepted(_) | Record::Fenced(_) => {
                    let fenced = |fence: &Fence| (fence.epoch, fence.sequence);
                    let (key, fence) = match (record, wire) {
                        (_, Some((key, fence))) => (Some(key.clone()), fence.clone()),
                        (Record::Fenced(fence), None) => (None, fence.clone()),
                        (_, None) => return Err(format!("p01: h{host} accepted what nobody sent")),
                    };
                    if let Some(highest) = &watch.highest {
                        let other =
                            highest.epoch == fence.epoch && highest.instance != fence.instance;
                        if other || fenced(&fence) <= fenced(highest) {
                            return Err(format!(
                                "p01: h{host} took {fence:?} although it had recorded {highest:?}"
                            ));
                        }
                    }
                    let theirs = matches!(record, Record::Accepted(order) if order.origin.made_here().is_none());
                    if theirs && watch.taken && !self.alone {
                        return Err(format!(
                            "p01: h{host} began an order that was planned before root took it"
                        ));
                    }
                    if matches!(record, Record::Accepted(_)) && fence.epoch < watch.idle_told {
                        return Err(format!(
                            "p01: h{host} began an order of term {} after it told term {} that it is idle",
                            fence.epoch, watch.idle_told
                        ));
                    }
                    watch.highest = Some(fence.clone());
                    if let Some(key) = key {
                        watch.authority.insert(key, fence);
                    }
                }
                Record::StepBegan { key, .. } | Record::UndoBegan { key, .. } => {
                    if watch.authority.get(key) != watch.highest.as_ref() {
                        return Err(format!(
                            "p01: h{host} begins a step of {key:?} under {:?} although it had recorded {:?}",
                            watch.authority.get(key),
                            watch.highest
                        ));
                    }
                }
                Record::Observed { .. }
                | Record::StepEnded { .. }
                | Record::TurnedBack { .. }
                | Record::UndoEnded { .. }
                | Record::Ended { .. }
                | Record::Dropped { .. }
                | Record::Trial { .. } => {}
            }
        }
        Ok(())
    }

    /// Promise 2: an effect begins at most once, unless a look or a durable failure lies between.
    pub(crate) fn p02_at_most_once(
        &mut self,
        host: usize,
        key: &TrackKey,
        index: usize,
        back: bool,
    ) -> Result<(), String> {
        let watch = &mut self.hosts[host];
        let id = (key.clone(), index, back);
        if watch.settled.contains(&id) {
            return Err(format!("p02: h{host} does {id:?} again although it is on record as done"));
        }
        if !watch.in_doubt.insert(id.clone()) {
            return Err(format!("p02: h{host} does {id:?} again without a look"));
        }
        Ok(())
    }

    /// A look was taken: the effect may be begun again.
    pub(crate) fn looked(&mut self, host: usize, key: &TrackKey, index: usize, back: bool) {
        self.hosts[host].in_doubt.remove(&(key.clone(), index, back));
    }

    /// What durable records settle.
    pub(crate) fn recorded(&mut self, host: usize, records: &[Record]) {
        let watch = &mut self.hosts[host];
        for record in records {
            let (key, index, back, ok) = match record {
                Record::StepEnded { key, index, result } => (key, *index, false, result.ok),
                Record::UndoEnded { key, index, result } => (key, *index, true, result.ok),
                Record::Accepted(order) => {
                    // A new attempt of a track begins with nothing done; an undo, with nothing taken back.
                    let undo = order.goal == agent::order::Goal::Undo;
                    watch.settled.retain(|(key, _, back)| *key != order.key || (undo && !back));
                    continue;
                }
                Record::Fenced(_)
                | Record::StepBegan { .. }
                | Record::Observed { .. }
                | Record::TurnedBack { .. }
                | Record::UndoBegan { .. }
                | Record::Ended { .. }
                | Record::Dropped { .. }
                | Record::Trial { .. } => continue,
            };
            let id = (key.clone(), index, back);
            watch.in_doubt.remove(&id);
            if ok {
                watch.settled.insert(id);
            }
        }
    }

    /// Root's orders: what they are taken back to, and what they take from the coordinator.
    pub(crate) fn root_took(&mut self, host: usize, records: &[Record], machine: &Machine) {
        let watch = &mut self.hosts[host];
        for record in records {
            let Record::Accepted(order) = record else { continue };
            let Some(made) = order.origin.made_here() else { continue };
            watch.taken = true;
            if made.operation == order.key.operation {
                // What is neither whole nor running cannot be compared with afterwards.
                watch.first = (!machine.is_torn()).then(|| machine.clone());
            } else {
                watch.interrupted = true;
            }
        }
    }

    /// Whether root took a host.
    pub(crate) fn is_taken(&self, host: usize) -> bool {
        self.hosts[host].taken
    }

    /// Whether a host serves what it served before the operation; what cannot be compared with counts as that.
    pub(crate) fn is_as_at_first(&self, host: usize, machine: &Machine) -> bool {
        self.hosts[host].first.as_ref().is_none_or(|first| same_service(first, machine))
    }

    /// The coordinator decided with the knowledge that root took these hosts.
    pub(crate) fn coordinator_knows(&mut self, hosts: Vec<usize>) {
        for host in hosts {
            self.hosts[host].known = true;
        }
    }

    /// What an agent told the coordinator; it has to be on record when the agent starts again.
    pub(crate) fn agent_told(&mut self, host: usize, operation: &str, message: &Up) {
        let told = &mut self.hosts[host].told;
        let mut enter = |stage: usize, attempt: u32, end: Option<End>| {
            let stage = u32::try_from(stage).expect("few stages");
            let key = TrackKey { operation: operation.to_owned(), stage };
            let row = told.entry(key).or_insert((attempt, end));
            if row.0 < attempt || (row.0 == attempt && end.is_some()) {
                *row = (attempt, end);
            }
        };
        match message {
            Up::Step { stage, attempt, .. } => enter(*stage, *attempt, None),
            Up::Ended { stage, attempt, ending } => enter(*stage, *attempt, end(ending.end)),
            Up::Status(tracks, _) => {
                for track in tracks {
                    let end = track.ending.as_ref().and_then(|ending| end(ending.end));
                    enter(track.stage, track.attempt, end);
                }
            }
            Up::Hello | Up::Refused { .. } | Up::Taken(_) => {}
        }
    }

    /// An agent without an open track told a coordinator of this term what it holds.
    pub(crate) fn told_idle(&mut self, host: usize, term: u64) {
        let told = &mut self.hosts[host].idle_told;
        *told = term.max(*told);
    }

    /// Promise 8, on a host: what it told is on record after a crash.
    pub(crate) fn p08_told_is_on_record(&self, host: usize, ledger: &Ledger) -> Result<(), String> {
        for (key, (attempt, end)) in &self.hosts[host].told {
            let tracks = ledger.tracks();
            let Some(track) = tracks.into_iter().find(|track| track.order().key == *key) else {
                return Err(format!("p08: h{host} told of {key:?} and does not know it any more"));
            };
            if track.order().attempt < *attempt {
                return Err(format!(
                    "p08: h{host} told of attempt {attempt} of {key:?} and forgot it"
                ));
            }
            let same = track.order().attempt == *attempt;
            let now = track.ending().map(|ending| ending.end);
            if same && end.is_some() && now != *end {
                return Err(format!(
                    "p08: h{host} told that {key:?} ended {end:?}; on record: {now:?}"
                ));
            }
        }
        Ok(())
    }

    /// The coordinator counts a host as out from here on.
    pub(crate) fn became_unknown(&mut self, host: usize) {
        self.unknown.insert(host);
    }

    /// An order left the coordinator.
    pub(crate) fn ordered(&mut self, host: usize, stage: usize, attempt: u32) {
        self.ordered.insert((host, stage, attempt));
    }

    /// Watchers saw the journal up to here.
    pub(crate) fn shown(&mut self, events: usize) {
        self.shown = events;
    }

    /// Promise 8, in the coordinator: what it sent or showed is in its journal after a crash.
    pub(crate) fn p08_sent_is_in_the_journal(&self, journal: &[Event]) -> Result<(), String> {
        if journal.len() < self.shown {
            return Err(format!(
                "p08: {} events were shown, {} survive",
                self.shown,
                journal.len()
            ));
        }
        let mut attempts: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        for event in journal {
            if let Event::Dispatched { stage, hosts, .. } = event {
                for host in hosts {
                    *attempts.entry((host_index(host), *stage)).or_default() += 1;
                }
            }
        }
        for (host, stage, attempt) in &self.ordered {
            if attempts.get(&(*host, *stage)).is_none_or(|known| known < attempt) {
                return Err(format!(
                    "p08: attempt {attempt} of stage {stage} was sent to h{host} and is not in the journal"
                ));
            }
        }
        Ok(())
    }

    /// Promise 3, at the moment when an agent durably says that it is done.
    pub(crate) fn p03_done_is_true(
        &self,
        host: usize,
        machine: &Machine,
        ledger: &Ledger,
        records: &[Record],
    ) -> Result<(), String> {
        for record in records.iter().filter(|_| !self.alone) {
            let Record::Ended { key, ending } = record else { continue };
            let tracks = ledger.tracks();
            let Some(track) = tracks.into_iter().find(|track| track.order().key == *key) else {
                return Err(format!("p03: h{host} ends {key:?}, which it does not know"));
            };
            let cuts = track.order().steps.iter().any(|step| step.verb.cuts());
            for step in track.order().steps.iter().filter(|_| cuts) {
                let on = step.verb == agent::order::Verb::Drain || machine.is_as_wanted(step);
                if ending.end == End::Done && !on {
                    return Err(format!("p03: h{host} says done, but {} is not", step.component));
                }
            }
            // A track takes nothing back of what others did: neither one that cuts nothing, nor one that moves traffic.
            let steps = &track.order().steps;
            let moves = cuts && steps.iter().any(|s| s.component != agent::order::Step::TRAFFIC);
            let first = self.hosts[host].first.as_ref().filter(|_| moves);
            if ending.end == End::Undone && first.is_some_and(|first| !same_service(first, machine))
            {
                return Err(format!("p03: h{host} says undone, but is not as it was"));
            }
        }
        Ok(())
    }
}

/// Whether two machines serve the same: trees and services; what is staged does not matter.
fn same_service(one: &Machine, other: &Machine) -> bool {
    one.parts.iter().all(|(name, part)| {
        let now = &other.parts[name];
        part.live == now.live && part.read == now.read && part.services == now.services
    })
}

fn end(end: TrackEnd) -> Option<End> {
    match end {
        TrackEnd::Done => Some(End::Done),
        TrackEnd::Undone => Some(End::Undone),
        TrackEnd::Left => Some(End::Left),
        TrackEnd::Stuck => Some(End::Stuck),
        TrackEnd::Refused => None,
    }
}

impl World {
    /// What must hold between any two events.
    pub(crate) fn check(&mut self) {
        if self.watch.alone {
            return;
        }
        let verdict = self.p07_bounded_blast_radius();
        self.watch.judge(verdict);
        let verdict = self.p03_no_lies();
        self.watch.judge(verdict);
        let verdict = self.p07_no_traffic_that_nobody_allowed();
        self.watch.judge(verdict);
    }

    /// Promise 3: what the coordinator would say of each host now is true of the machine.
    fn p03_no_lies(&self) -> Result<(), String> {
        if !self.coordinator.up {
            return Ok(());
        }
        for row in self.coordinator.operation.outcomes() {
            let host = host_index(&row.host);
            let machine = &self.machines[host];
            let watch = &self.watch.hosts[host];
            if watch.taken {
                let ended = matches!(self.coordinator.operation.phase(), Phase::Ended(_));
                let as_planned = matches!(row.outcome, Outcome::Restored | Outcome::Original);
                // Of an ended operation the outcome was true then.
                if watch.known && !ended && as_planned {
                    return Err(format!(
                        "p03: root took h{host}, and it is reported {:?}",
                        row.outcome
                    ));
                }
                if watch.interrupted && row.outcome == Outcome::Restored {
                    return Err(format!(
                        "p03: root broke into h{host}, and it is reported restored"
                    ));
                }
                continue;
            }
            match row.outcome {
                Outcome::Restored => {
                    for (component, snapshot) in &self.targets {
                        let has = machine.parts.contains_key(component);
                        if has && !machine.is_on(component, snapshot) {
                            return Err(format!(
                                "p03: h{host} is reported restored; {component} is not"
                            ));
                        }
                    }
                }
                Outcome::Original | Outcome::Skipped => {
                    let first = self.watch.hosts[host].first.as_ref();
                    if first.is_some_and(|first| !same_service(first, machine)) {
                        return Err(format!(
                            "p03: h{host} is reported {:?}, but changed",
                            row.outcome
                        ));
                    }
                }
                Outcome::Failed | Outcome::Unknown => {}
            }
        }
        Ok(())
    }

    /// Promise 7. A host is *out* when a service of it that ran at first does not run, its tree is mixed, or its
    /// ledger has an open track that began a step that cuts capacity. Whenever one more host of a stage goes out, at
    /// most as many as the budget of that stage allows are out, it included. One exception: an abort with restore may take
    /// one serving host out at a time to put it back, however many are down for good, or unknown and therefore
    /// counted as down already.
    fn p07_bounded_blast_radius(&mut self) -> Result<(), String> {
        let out: Vec<bool> = (0..self.machines.len()).map(|host| self.is_out(host)).collect();
        for (host, is_out) in out.iter().enumerate() {
            let was_out = std::mem::replace(&mut self.watch.hosts[host].out, *is_out);
            if !is_out {
                self.watch.undoing.remove(&host);
                continue;
            }
            if was_out {
                continue;
            }
            if self.is_undoing(host) {
                self.watch.undoing.insert(host);
            }
            for (hosts, budget) in self.budgets.iter().filter(|(hosts, _)| hosts.contains(&host)) {
                let count = hosts.iter().filter(|host| out[**host]).count();
                let undoing = self.watch.undoing.difference(&self.watch.unknown);
                let beside = undoing.filter(|host| hosts.contains(host)).count();
                let alone = self.watch.undoing.contains(&host) && beside <= 1;
                if count > *budget && !alone {
                    return Err(format!(
                        "p07: h{host} goes out; {count} of its stage are out, the budget allows {budget}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Promise 7: in the end, where no edge failed, is unknown or was taken by root, all edges divide the traffic alike and
    /// leave nobody out.
    pub(crate) fn p07_no_host_is_left_out(&self) -> Result<(), String> {
        let outcomes = self.coordinator.operation.outcomes();
        let edges = || {
            let rows = outcomes.iter().map(|row| (host_index(&row.host), row.outcome));
            rows.filter(|(host, _)| self.machines[*host].weights.is_some())
        };
        let lost = |(host, outcome): (usize, Outcome)| {
            let failed = matches!(outcome, Outcome::Failed | Outcome::Unknown);
            failed || self.watch.hosts[host].taken
        };
        if edges().any(lost) {
            return Ok(());
        }
        let mut first = None;
        for (host, _) in edges() {
            let now = self.machines[host].weights.as_ref();
            let first = *first.get_or_insert(now);
            if now != first || now.is_some_and(|now| !now.out.is_empty()) {
                return Err(format!("p07: in the end h{host} divides the traffic as {now:?}"));
            }
        }
        Ok(())
    }

    /// A stage begins when no host is at work in an earlier one, but for those that were unknown and came late: what
    /// an edge needs is there, or is known not to come.
    pub(crate) fn stages_follow_each_other(&self, stage: usize) -> Result<(), String> {
        let operation = &self.coordinator.operation;
        for to in operation.outstanding() {
            let host = host_index(&to.host);
            let late = self.watch.unknown.contains(&host);
            if to.stage < stage && to.goal == Goal::Forward && !late {
                return Err(format!(
                    "h{host} is at work in stage {} when {stage} begins",
                    to.stage
                ));
            }
        }
        Ok(())
    }

    /// Nothing went wrong: when the last stage begins, all that moved before it is on target.
    pub(crate) fn the_edge_finds_its_apps(&self, stage: usize) -> Result<(), String> {
        let plan = self.coordinator.operation.plan();
        let before = plan.stages[..stage].iter().filter(|stage| stage.cuts_capacity);
        for step in before
            .flat_map(engine::Stage::tracks)
            .flat_map(|track| track.steps.iter().map(move |step| (host_index(&track.host), step)))
        {
            let (host, step) = step;
            let component = step.component.as_str();
            if component == engine::Step::TRAFFIC {
                continue;
            }
            if !self.machines[host].is_on(component, &self.targets[component]) {
                return Err(format!("{component} of h{host} is not on target when {stage} begins"));
            }
        }
        Ok(())
    }

    fn is_out(&self, host: usize) -> bool {
        let machine = &self.machines[host];
        // No budget of a coordinator's binds root.
        if self.watch.hosts[host].taken {
            return false;
        }
        let mixed = machine.parts.values().any(|part| matches!(part.live, Tree::Mixed { .. }));
        let open = self.agents[host].ledger.open();
        let cutting = open.is_some_and(|track| {
            // An edge that divides the traffic anew goes on serving.
            let cuts = |index: usize| {
                let step = &track.order().steps[index];
                step.verb.cuts() && step.component != agent::order::Step::TRAFFIC
            };
            track
                .steps()
                .any(|(index, step)| cuts(index) && step.undo().is_none_or(|undo| !undo.ok))
        });
        machine.is_down() || mixed || cutting
    }

    /// Whether the coordinator has ordered this host back.
    fn is_undoing(&self, host: usize) -> bool {
        let aborting = |operation: &Operation| {
            let commands = operation.outstanding();
            commands.iter().any(|to| host_index(&to.host) == host && to.goal == Goal::Undo)
        };
        aborting(&self.coordinator.operation)
    }

    /// Promise 6, on a host: once nothing happens any more, no track is open.
    pub(crate) fn p06_no_track_stays_open(&self) -> Result<(), String> {
        for (host, agent) in self.agents.iter().enumerate() {
            if let Some(track) = agent.ledger.open() {
                return Err(format!("p06: {:?} stays open on h{host}", track.order().key));
            }
        }
        Ok(())
    }

    /// Promise 6 and 7, once everything is healed and quiet: the run has ended, every host of the fleet is
    /// accounted for once, and nothing is unknown.
    pub(crate) fn p06_ended_for_each_host(&self) -> Result<(), String> {
        let operation = &self.coordinator.operation;
        let Phase::Ended(result) = operation.phase() else {
            return Err(format!("p06: quiet, but {:?}", operation.phase()));
        };
        let rows = operation.outcomes();
        let named: BTreeSet<usize> = rows.iter().map(|row| host_index(&row.host)).collect();
        if rows.len() != self.machines.len() || named.len() != self.machines.len() {
            return Err(format!("p07: {} hosts accounted for", named.len()));
        }
        if let Some(row) = rows.iter().find(|row| row.outcome == Outcome::Unknown) {
            return Err(format!("p06: {} stays unknown: {}", row.host, row.reason));
        }
        let replayed = Operation::replay(operation.id().clone(), &self.coordinator.journal)
            .map_err(|error| format!("p08: the journal does not replay: {error}"))?;
        if replayed != *operation {
            return Err(format!("p08: replay differs from what ended as {result:?}"));
        }
        Ok(())
    }
}

/// What an undo takes back to; only for reading in traces.
pub(crate) fn before_word(before: &Before) -> String {
    match before {
        Before::Nothing => "nothing".to_owned(),
        Before::Running(services) => format!("running {services:?}"),
        Before::Weights(weights) => format!("weights {weights:?}"),
        Before::Live(tree) => format!("live …{}", &tree[tree.len() - 4..]),
    }
}
