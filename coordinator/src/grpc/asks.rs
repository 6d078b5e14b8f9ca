//! What people ask of an operation that is begun: pause, resume, abort, retry, promote.

use engine::{Ask, FleetState, HostName, Outcome, planner};
use proto::{
    status::{StatusKind, status},
    v1,
};
use tonic::{Code, Status};

use super::{canary, operator_service::OperatorService, status as refusals};

impl OperatorService {
    /// A canary goes on before its time.
    pub(super) async fn promote(
        &self,
        request: v1::PromoteOperationRequest,
        by: String,
    ) -> Result<v1::Operation, Status> {
        let view = self.operations.view(&request.operation).await?;
        let to_stage = canary::promoted_to(&view.operation, request.to)?;
        self.ask(&request.operation, Ask::Promote { to_stage }, by).await
    }

    pub(super) async fn ask(
        &self,
        id: &str,
        ask: Ask,
        by: String,
    ) -> Result<v1::Operation, Status> {
        let Some(runner) = self.operations.runner(id) else {
            let view = self.operations.view(id).await?;
            let id = view.operation.id();
            let holds = |state: &FleetState| state.busy.as_ref() == Some(id);
            let holds = self.fleets.read(&view.operation.plan().fleet, holds).await == Some(true);
            let what = if holds {
                format!(
                    "operation {id} holds the fleet, but this coordinator could not go on with it: see its log"
                )
            } else {
                format!("operation {id} is over for good: another one has changed the fleet since")
            };
            return Err(status(
                StatusKind::Refused,
                Code::FailedPrecondition,
                &what,
                &[],
                "ctl history",
            ));
        };
        runner.ask(ask, by).await?;
        self.operation(id).await
    }

    /// The hosts that a retry is about: named ones, or all that are not on target.
    pub(super) async fn retried(
        &self,
        id: &str,
        named: Vec<HostName>,
    ) -> Result<Vec<HostName>, Status> {
        let view = self.operations.view(id).await?;
        let outcomes = view.operation.outcomes();
        if let Some(stranger) = named.iter().find(|host| {
            !outcomes.iter().any(|row| row.host == **host && row.outcome != Outcome::Skipped)
        }) {
            let known = outcomes.iter().map(|row| row.host.to_string()).collect::<Vec<_>>();
            let near = crate::fleets::nearest(stranger.as_str(), &known);
            let refusal = planner::Refusal::NotKnown {
                what: "host",
                name: stranger.to_string(),
                near,
                known,
            };
            return Err(refusals::refused(&refusal));
        }
        if let Some(row) =
            outcomes.iter().find(|row| row.outcome == Outcome::Unknown && named.contains(&row.host))
        {
            let what =
                format!("{} is out of reach; it is looked at when its agent is back", row.host);
            return Err(status(
                StatusKind::Refused,
                Code::FailedPrecondition,
                &what,
                &[],
                "ctl agent list",
            ));
        }
        if !named.is_empty() {
            return Ok(named);
        }
        let open =
            |row: &engine::HostOutcome| matches!(row.outcome, Outcome::Original | Outcome::Failed);
        let unknown: Vec<String> = outcomes
            .iter()
            .filter(|row| row.outcome == Outcome::Unknown)
            .map(|row| row.host.to_string())
            .collect();
        let hosts = outcomes.into_iter().filter(open).map(|row| row.host);
        // A host that only looked and was done may stand as before because the others were taken back.
        let hosts: Vec<HostName> =
            hosts.filter(|host| view.operation.allows(&Ask::Retry(vec![host.clone()]))).collect();
        if hosts.is_empty() {
            let what = if unknown.is_empty() {
                format!("every host of {id} is on target; there is nothing to retry")
            } else {
                format!(
                    "{} unknown: looked at when its agent is back, not before",
                    unknown.join(", ")
                )
            };
            return Err(status(
                StatusKind::Refused,
                Code::FailedPrecondition,
                &what,
                &[],
                "ctl agent list",
            ));
        }
        Ok(hosts)
    }
}
