//! How an operation and each of its hosts ended: derived from the state, never stored.
//!
//! Hosts that move decide whether the fleet is on target, put back or mixed. Hosts that only look decide whether it is
//! verified: where one of them did not see what it should, or did not look, everything on target is `Unverified`.
//!
//! What root took over may be anything by now: it is no host that only looks any more, and needs a person.
//!
//! Invariant: what is not known is unknown, and unknown is never success.

use serde::{Deserialize, Serialize};

use super::{HostState, Operation};
use crate::{
    Evidence,
    event::Abort,
    name::{GroupName, HostName},
    plan::{OperationKind, Verb},
    track::TrackState,
};

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunResult {
    /// Every planned host on target, on evidence.
    Verified,
    /// Stopped before it changed anything on any host.
    Refused,
    /// Whatever it changed is as it was before.
    PutBack,
    /// Some on target and some not, or some unknown.
    Mixed,
    /// All on target, but not all verified: on a host itself, or by one that looks from the edge.
    Unverified,
}

/// How a host ended in an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Outcome {
    Restored,
    Original,
    /// Needs a person.
    Failed,
    Unknown,
    Skipped,
}

/// A host's end, with why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostOutcome {
    pub host: HostName,
    pub group: GroupName,
    pub outcome: Outcome,
    pub reason: String,
    pub evidence: Vec<Evidence>,
    /// How long its capacity was cut, by the agent's own step times; 0 where nothing was.
    pub cut_ms: u64,
}

impl Operation {
    /// How each host of the fleet stands; final once the operation has ended.
    pub fn outcomes(&self) -> Vec<HostOutcome> {
        self.plan
            .hosts
            .iter()
            .map(|row| self.outcome(&row.host, &row.group, row.left_out.as_deref()))
            .collect()
    }

    fn outcome(&self, host: &HostName, group: &GroupName, left_out: Option<&str>) -> HostOutcome {
        let Some(state) = self.hosts.get(host) else {
            let reason = left_out.unwrap_or_default().to_owned();
            let (host, group, outcome) = (host.clone(), group.clone(), Outcome::Skipped);
            return HostOutcome { host, group, outcome, reason, evidence: Vec::new(), cut_ms: 0 };
        };
        let (outcome, reason) = self.ending(state);
        let evidence =
            state.tracks.values().flat_map(|slot| slot.evidence.iter().cloned()).collect();
        let cut_ms = self.cut_ms(state);
        HostOutcome { host: host.clone(), group: group.clone(), outcome, reason, evidence, cut_ms }
    }

    fn ending(&self, state: &HostState) -> (Outcome, String) {
        if state.only_looks() && state.taken.is_none() && self.abort == Some(Abort::Restore) {
            // Whatever it saw was taken back, and it had nothing to take back itself.
            return (Outcome::Original, "nothing was changed there".to_owned());
        }
        state.outcome()
    }

    /// From the first stop to the last start. What only reloads is never out.
    fn cut_ms(&self, state: &HostState) -> u64 {
        let mut total = 0;
        for (stage, slot) in &state.tracks {
            let steps = &self.track(*stage, slot).steps;
            let Some(first) = steps.iter().position(|step| step.verb == Verb::Stop) else {
                continue;
            };
            let last = steps.iter().rposition(|step| step.verb == Verb::Start).unwrap_or(first);
            let out = slot.steps.iter().filter(|report| (first..=last).contains(&report.index));
            total += out.map(|report| report.duration_ms).sum::<u64>();
        }
        total
    }

    /// What the operation ends with if it ends now.
    pub(crate) fn result(&self) -> RunResult {
        let (mut restored, mut left, mut original) = (0, 0, 0);
        let (mut seen, mut unseen, mut not_looked) = (0, 0, 0);
        for state in self.hosts.values() {
            match (self.ending(state).0, state.only_looks() && state.taken.is_none()) {
                (Outcome::Restored, true) => seen += 1,
                (Outcome::Original, true) => not_looked += 1,
                (Outcome::Failed, true) => unseen += 1,
                (Outcome::Restored, false) => restored += 1,
                (Outcome::Original, false) => original += 1,
                (Outcome::Failed, false) if state.is_left() => left += 1,
                (Outcome::Failed, false) | (Outcome::Unknown, _) => return self.mixed_or_refused(),
                (Outcome::Skipped, _) => {}
            }
        }
        match (restored, left, original) {
            (0, 0, 0) if seen + unseen == 0 && not_looked > 0 => self.untouched(),
            (_, 0, 0) if unseen + not_looked == 0 => RunResult::Verified,
            (_, _, 0) => RunResult::Unverified,
            (0, 0, _) => self.untouched(),
            (_, _, _) => RunResult::Mixed,
        }
    }

    /// A host that is unknown although nothing that changes anything was ever sent is no mix.
    fn mixed_or_refused(&self) -> RunResult {
        if self.cut || self.plan.stages.iter().all(|stage| !stage.cuts_capacity) {
            return RunResult::Mixed;
        }
        self.untouched()
    }

    fn untouched(&self) -> RunResult {
        if self.cut || self.abort.is_some() { RunResult::PutBack } else { RunResult::Refused }
    }

    /// What each host had live before, where this operation exchanged it.
    pub fn replaced(&self) -> Vec<(HostName, &Evidence)> {
        let mut found = Vec::new();
        for (host, state) in &self.hosts {
            let cuts =
                state.tracks.iter().filter(|(stage, _)| self.plan.stages[**stage].cuts_capacity);
            for evidence in
                cuts.flat_map(|(_, slot)| &slot.evidence).filter(|row| row.replaced.is_some())
            {
                found.push((host.clone(), evidence));
            }
        }
        found
    }

    /// Whether it is one whose success says that the release it brought is good.
    pub fn proves(&self) -> bool {
        match self.plan.kind {
            OperationKind::Rollback
            | OperationKind::Undo(_)
            | OperationKind::Snapshot
            | OperationKind::Deploy
            | OperationKind::Switch => true,
            OperationKind::Check | OperationKind::Fetch => false,
        }
    }
}

impl HostState {
    /// The outcome if the operation ended now, and why.
    fn outcome(&self) -> (Outcome, String) {
        let mut done = 0;
        let mut undone = None;
        let mut down = false;
        for slot in self.tracks.values() {
            match &slot.state {
                TrackState::Stuck { reason } | TrackState::Left { reason } => {
                    return (Outcome::Failed, reason.clone());
                }
                TrackState::Unknown { why, .. } => return (Outcome::Unknown, why.clone()),
                TrackState::Undone { reason } => undone = Some(reason.clone()),
                TrackState::InWork { .. } => {
                    return (Outcome::Unknown, "it is still in work".to_owned());
                }
                TrackState::Waiting => down |= slot.left_down,
                TrackState::Done => done += 1,
            }
        }
        if down {
            let reason = undone.unwrap_or_else(|| "it was not tried again".to_owned());
            return (Outcome::Failed, reason);
        }
        if let Some(reason) = undone {
            return (Outcome::Original, reason);
        }
        if done == self.tracks.len() {
            return (Outcome::Restored, String::new());
        }
        (Outcome::Original, "nothing was changed there".to_owned())
    }

    /// On the wanted release, but not verified.
    fn is_left(&self) -> bool {
        self.tracks.values().any(|slot| matches!(slot.state, TrackState::Left { .. }))
    }
}
