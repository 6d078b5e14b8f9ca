//! Operations that wait for a person, and what triggers may take back.
//!
//! Invariant: what was decided stays decided; a proposal that was not decided in time expires.
//! Invariant: a fleet is not rolled back automatically twice without a person in between: [`FleetState::automatic`] stands
//! until one lifts the freeze, marks a release or decides on a proposal.

use serde::{Deserialize, Serialize};

use crate::{
    fleet::FleetState,
    name::{HostName, OperationId, ReleaseName},
    time::Timestamp,
    trigger::TriggerSeverity,
};

/// How many decided proposals are remembered.
const DECIDED_MAX: usize = 100;

/// A rollback that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The id that it will have.
    pub operation: OperationId,
    pub to: ReleaseName,
    /// One sentence, with its numbers.
    pub why: String,
    /// Why it did not begin by itself.
    pub why_not_automatic: String,
    pub severity: TriggerSeverity,
    /// `trigger errors`, `alert HighErrorRate`.
    pub by: String,
    pub at: Timestamp,
    pub until: Timestamp,
    pub decided: Option<Decided>,
}

/// How a proposal ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    pub decision: Decision,
    pub by: String,
    pub reason: String,
    pub at: Timestamp,
}

/// See [`Decided`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    Approved,
    Rejected,
    /// Nobody decided in time, or what it was about is over.
    Expired,
}

/// What went forward, and until when triggers may take it back by themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    pub operation: OperationId,
    pub release: ReleaseName,
    /// Where it went live.
    pub hosts: Vec<HostName>,
    pub since: Timestamp,
    pub until: Timestamp,
}

/// See [`FleetState::automatic`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Automatic {
    pub operation: OperationId,
    pub trigger: String,
    pub at: Timestamp,
}

impl FleetState {
    /// The proposals that wait.
    pub fn waiting(&self) -> impl Iterator<Item = &Proposal> {
        self.proposals.iter().filter(|proposal| proposal.decided.is_none())
    }

    /// The proposal of an operation's id.
    pub fn proposal(&self, operation: &OperationId) -> Option<&Proposal> {
        self.proposals.iter().find(|proposal| proposal.operation == *operation)
    }

    /// Proposals whose time is over.
    pub fn expired(&self, now: Timestamp) -> Vec<OperationId> {
        let over = self.waiting().filter(|proposal| proposal.until <= now);
        over.map(|proposal| proposal.operation.clone()).collect()
    }

    pub(crate) fn decided(
        &mut self,
        operation: &OperationId,
        decision: Decision,
        by: &str,
        reason: &str,
        at: Timestamp,
    ) {
        let waits = |row: &&mut Proposal| row.operation == *operation && row.decided.is_none();
        if let Some(row) = self.proposals.iter_mut().find(waits) {
            let (by, reason) = (by.to_owned(), reason.to_owned());
            row.decided = Some(Decided { decision, by, reason, at });
        }
        match decision {
            Decision::Approved | Decision::Rejected => self.automatic = None,
            Decision::Expired => {}
        }
        let decided = self.proposals.iter().filter(|row| row.decided.is_some()).count();
        let mut too_many = decided.saturating_sub(DECIDED_MAX);
        self.proposals.retain(|row| {
            let goes = row.decided.is_some() && too_many > 0;
            too_many -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::FleetEvent;

    fn proposal(number: usize, until: i64) -> FleetEvent {
        let operation = OperationId::new(format!("rb-{number:04}")).unwrap();
        let proposal = Proposal {
            operation,
            to: ReleaseName::new("v1").unwrap(),
            why: "error_rate 23 %".to_owned(),
            why_not_automatic: "trigger errors only proposes".to_owned(),
            severity: TriggerSeverity::High,
            by: "trigger errors".to_owned(),
            at: Timestamp(0),
            until: Timestamp(until),
            decided: None,
        };
        FleetEvent::Proposed { proposal }
    }

    fn decided(number: usize, decision: Decision, by: &str) -> FleetEvent {
        let operation = OperationId::new(format!("rb-{number:04}")).unwrap();
        let (by, reason) = (by.to_owned(), String::new());
        FleetEvent::Decided { operation, decision, by, reason, at: Timestamp(5) }
    }

    #[test]
    fn what_was_decided_stays_decided_and_the_rest_expires() {
        let mut state = FleetState::default();
        for (number, until) in [(1, 10), (2, 20), (3, 10)] {
            state.apply(&proposal(number, until));
        }
        state.apply(&decided(1, Decision::Rejected, "mira"));
        state.apply(&decided(1, Decision::Approved, "ada"));
        let first = state.proposal(&OperationId::new("rb-0001").unwrap()).unwrap();
        let first = first.decided.as_ref().unwrap();
        assert_eq!((first.decision, first.by.as_str()), (Decision::Rejected, "mira"));
        assert_eq!(state.expired(Timestamp(9)), []);
        let over: Vec<String> =
            state.expired(Timestamp(10)).iter().map(ToString::to_string).collect();
        assert_eq!(over, ["rb-0003"]);
    }

    #[test]
    fn those_that_wait_are_kept_however_many_were_decided() {
        let mut state = FleetState::default();
        state.apply(&proposal(0, 10));
        for number in 1..=DECIDED_MAX + 20 {
            state.apply(&proposal(number, 10));
            state.apply(&decided(number, Decision::Expired, "lastgood"));
        }
        assert_eq!(state.proposals.len(), DECIDED_MAX + 1);
        assert_eq!(
            state.waiting().map(|row| row.operation.as_str()).collect::<Vec<_>>(),
            ["rb-0000"]
        );
    }

    #[test]
    fn only_a_person_lets_a_trigger_act_a_second_time() {
        let operation = OperationId::new("rb-0009").unwrap();
        let acted = FleetEvent::ActedAutomatically {
            operation,
            trigger: "errors".to_owned(),
            at: Timestamp(1),
        };
        let (by, reason, at) = ("mira".to_owned(), "mended".to_owned(), Timestamp(9));
        let acts = [
            (decided(1, Decision::Expired, "lastgood"), false),
            (decided(1, Decision::Approved, "mira"), true),
            (decided(1, Decision::Rejected, "mira"), true),
            (FleetEvent::Frozen { by: by.clone(), reason: reason.clone(), at }, false),
            (FleetEvent::Thawed { by, reason, at }, true),
        ];
        for (act, clears) in acts {
            let mut state = FleetState::default();
            state.apply(&proposal(1, 10));
            state.apply(&acted);
            state.apply(&act);
            assert_eq!(state.automatic.is_none(), clears, "{act:?}");
        }
    }
}
