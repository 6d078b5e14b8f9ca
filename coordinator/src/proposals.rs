//! Rollbacks that wait for a person: proposed by triggers and alerts, approved, rejected, or out of time.
//!
//! ```text
//! trigger, alert ─▶ propose ─▶ Proposed (on record) ─▶ ctl approve OP ─▶ planned anew ─▶ opened under the same id
//!                                                   ├▶ ctl reject OP
//!                                                   └▶ its time is over, or the fleet went back already
//! ```
//!
//! Invariant: what was proposed is on record before anybody is told of it; what was decided stays decided.
//! Invariant: a fleet has one proposal to one release at a time: a second breach says nothing new.

use std::{sync::Arc, time::Duration};

use engine::{
    Decided, Decision, FleetEvent, FleetName, FleetState, OperationId, OperationKind, Proposal,
    ReleaseName, planner, trigger::TriggerSeverity,
};

use crate::{
    fleets::{Fleets, FleetsError},
    host::wall,
    operations::{Operations, Request, StartError, Word},
};

/// For how long a proposal waits for a person.
pub const WAITS: Duration = Duration::from_secs(3600);

/// Why a proposal was not decided.
#[derive(Debug, thiserror::Error)]
pub enum ProposalError {
    #[error("no operation `{id}` waits for a person{}", near.as_ref().map_or_else(String::new, |near| format!("; did you mean `{near}`?")))]
    NotKnown { id: String, near: Option<String> },
    #[error("{id} was {how} already")]
    Decided { id: String, how: String },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Fleets(#[from] FleetsError),
}

/// What is proposed.
#[derive(Clone, Debug)]
pub struct Proposed {
    pub to: ReleaseName,
    pub why: String,
    pub why_not_automatic: String,
    pub severity: TriggerSeverity,
    pub by: String,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Proposals {
    pub fleets: Arc<Fleets>,
    pub operations: Arc<Operations>,
}

impl Proposals {
    /// Proposes a rollback; answers its id, and whether that is new.
    pub async fn propose(
        &self,
        fleet: &FleetName,
        what: Proposed,
    ) -> Result<(OperationId, bool), FleetsError> {
        let id = self.operations.next_id(&OperationKind::Rollback);
        let mut known = None;
        let record = |state: &FleetState| {
            known = state.waiting().find(|row| row.to == what.to).map(|row| row.operation.clone());
            if known.is_some() {
                return Ok::<_, FleetsError>(Vec::new());
            }
            let at = wall();
            let waits = i64::try_from(WAITS.as_millis()).unwrap_or(i64::MAX);
            let proposal = Proposal {
                operation: id.clone(),
                to: what.to,
                why: what.why,
                why_not_automatic: what.why_not_automatic,
                severity: what.severity,
                by: what.by,
                at,
                until: engine::Timestamp(at.0.saturating_add(waits)),
                decided: None,
            };
            Ok(vec![FleetEvent::Proposed { proposal }])
        };
        self.fleets.change(fleet, record).await?;
        let new = known.is_none();
        let id = known.unwrap_or(id);
        if new {
            tracing::warn!(%fleet, operation = %id, "a rollback is proposed");
        }
        Ok((id, new))
    }

    /// Begins what was proposed, as it has to be done now.
    pub async fn approve(
        &self,
        id: &str,
        by: String,
        reason: String,
    ) -> Result<(FleetName, Proposal), ProposalError> {
        let (fleet, proposal) = self.waiting(id).await?;
        let request = Request::Rollback(planner::Request {
            to: Some(proposal.to.clone()),
            ..planner::Request::default()
        });
        let why = match reason.as_str() {
            "" => format!("approved: {}", proposal.why),
            reason => format!("{reason} (approved: {})", proposal.why),
        };
        let key = format!("approve {}", proposal.operation);
        // Approved and taken in one record: who rejects meanwhile is told so, or it does not begin.
        let word = Word::Approved { proposal: proposal.operation.clone(), reason };
        self.operations.begin(&fleet, request, (by, why, key), word).await?;
        let proposal = self.read(&fleet, &proposal.operation).await.unwrap_or(proposal);
        Ok((fleet, proposal))
    }

    /// Says that it is not to be.
    pub async fn reject(
        &self,
        id: &str,
        by: String,
        reason: String,
    ) -> Result<(FleetName, Proposal), ProposalError> {
        let (fleet, proposal) = self.waiting(id).await?;
        self.decide(&fleet, &proposal.operation, Decision::Rejected, by, reason).await?;
        let proposal = self.read(&fleet, &proposal.operation).await.unwrap_or(proposal);
        Ok((fleet, proposal))
    }

    /// Ends those whose time is over.
    pub async fn expire(&self) -> Result<(), FleetsError> {
        for fleet in self.fleets.names().await {
            let over = self.fleets.read(&fleet, |state| state.expired(wall())).await;
            for id in over.into_iter().flatten() {
                let (by, reason) = ("lastgood".to_owned(), "nobody decided in time".to_owned());
                match self.decide(&fleet, &id, Decision::Expired, by, reason).await {
                    Ok(()) => tracing::info!(%fleet, operation = %id, "a proposal has expired"),
                    Err(ProposalError::Fleets(error)) => return Err(error),
                    // Somebody decided in this very moment.
                    Err(
                        ProposalError::Decided { .. }
                        | ProposalError::NotKnown { .. }
                        | ProposalError::Start(_),
                    ) => {}
                }
            }
        }
        Ok(())
    }

    async fn decide(
        &self,
        fleet: &FleetName,
        operation: &OperationId,
        decision: Decision,
        by: String,
        reason: String,
    ) -> Result<(), ProposalError> {
        let record = |state: &FleetState| {
            if let Some(known) = state.proposal(operation).and_then(|row| row.decided.as_ref()) {
                let (id, how) = (operation.to_string(), how(known));
                return Err(ProposalError::Decided { id, how });
            }
            let (operation, at) = (operation.clone(), wall());
            Ok(vec![FleetEvent::Decided { operation, decision, by, reason, at }])
        };
        self.fleets.change(fleet, record).await
    }

    async fn read(&self, fleet: &FleetName, id: &OperationId) -> Option<Proposal> {
        self.fleets.read(fleet, |state| state.proposal(id).cloned()).await.flatten()
    }

    async fn waiting(&self, id: &str) -> Result<(FleetName, Proposal), ProposalError> {
        let mut known = Vec::new();
        for fleet in self.fleets.names().await {
            let rows = self.fleets.read(&fleet, |state| state.proposals.clone()).await;
            for row in rows.into_iter().flatten() {
                if row.operation.as_str() == id {
                    return match &row.decided {
                        None => Ok((fleet, row)),
                        Some(decided) => {
                            Err(ProposalError::Decided { id: id.to_owned(), how: how(decided) })
                        }
                    };
                }
                known.extend(row.decided.is_none().then(|| row.operation.to_string()));
            }
        }
        let near = crate::fleets::nearest(id, &known);
        Err(ProposalError::NotKnown { id: id.to_owned(), near })
    }
}

/// How it was decided, and by whom.
pub fn how(decided: &Decided) -> String {
    let word = match decided.decision {
        Decision::Approved => "approved",
        Decision::Rejected => "rejected",
        Decision::Expired => "out of time, ended",
    };
    format!("{word} by {}", decided.by)
}
