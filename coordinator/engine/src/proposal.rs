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
