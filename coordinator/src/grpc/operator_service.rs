//! One method per RPC of ctl: decode, call, encode.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use engine::{
    Abort, Ask, FleetEvent, FleetName, FleetState, HostName, OperationKind, RunResult, planner,
};
use proto::{
    status::{StatusKind, status},
    v1,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{
    canary, from_proto, to_proto,
    watch::{follow, send},
};
use crate::{
    doctor,
    fleets::{Fleets, FleetsError},
    host::{live_release, wall},
    judging::Judging,
    measure::{Servers, try_sources},
    operations::{Operations, StartError, inventory},
    proposals::Proposals,
    registrar::{Registrar, RegistrarError},
    retention, roles,
    runner::View,
    sessions::Sessions,
    triggers::Triggers,
};

/// Events that wait for one watcher's connection.
const WATCH_QUEUED_MAX: usize = 256;
/// Operations that one answer lists at most.
const HISTORY_MAX: usize = 200;
/// The longest text that a person gives as a reason.
const REASON_BYTES_MAX: usize = 4096;

/// See the module.
#[derive(Clone, Debug)]
pub struct OperatorService {
    pub sessions: Arc<Sessions>,
    pub fleets: Arc<Fleets>,
    pub operations: Arc<Operations>,
    pub registrar: Arc<Registrar>,
    pub judging: Arc<Judging>,
    pub triggers: Arc<Triggers>,
    pub proposals: Proposals,
    pub servers: Servers,
}

type Answer<T> = Result<Response<T>, Status>;

fn caller<T>(request: &Request<T>) -> Result<String, Status> {
    Ok(roles::peer(request)?.identity.name().to_owned())
}

fn reason(text: String) -> Result<String, Status> {
    if text.len() > REASON_BYTES_MAX {
        return Err(Status::invalid_argument(format!(
            "a reason has at most {REASON_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

/// A host as a person writes it.
fn named_host(text: &str) -> Result<HostName, Status> {
    HostName::new(text).map_err(|_| {
        RegistrarError::NoHost { host: text.chars().take(64).collect(), near: None }.into()
    })
}

#[tonic::async_trait]
impl v1::operator_service_server::OperatorService for OperatorService {
    type WatchOperationStream = ReceiverStream<Result<v1::WatchOperationResponse, Status>>;

    async fn apply_fleet(
        &self,
        request: Request<v1::ApplyFleetRequest>,
    ) -> Answer<v1::ApplyFleetResponse> {
        let by = caller(&request)?;
        let v1::ApplyFleetRequest { control, dry_run } = request.into_inner();
        let invalid = |what: &str| {
            let code = Code::InvalidArgument;
            status(StatusKind::InvalidFleet, code, what, &[], "ctl validate -f fleet.yaml")
        };
        let control = control.ok_or_else(|| Status::invalid_argument("`control` is missing"))?;
        let fleet = from_proto::fleet(control).map_err(|error| invalid(&error.to_string()))?;
        fleet.check().map_err(|error| invalid(&error.to_string()))?;
        for (host, _) in fleet.hosts() {
            match self.fleets.of_host(host).await {
                Some(other) if other != fleet.name => {
                    return Err(invalid(&format!(
                        "{host} belongs to fleet {other}; one agent serves one fleet"
                    )));
                }
                Some(_) | None => {}
            }
        }
        let mut changes = Vec::new();
        let name = fleet.name.clone();
        let apply = |state: &FleetState| {
            changes = super::differences::differences(state.fleet.as_ref(), &fleet);
            if changes.is_empty() || dry_run {
                return Ok(Vec::new());
            }
            if let Some(holder) = &state.busy {
                let (holder, fleet) = (holder.clone(), fleet.name.clone());
                return Err(StartError::Busy { holder, fleet });
            }
            Ok(vec![FleetEvent::Applied { fleet: Box::new(fleet), by, at: wall() }])
        };
        self.fleets.change(&name, apply).await?;
        let applied = !dry_run && !changes.is_empty();
        Ok(Response::new(v1::ApplyFleetResponse { changes, applied }))
    }

    async fn get_fleet(
        &self,
        request: Request<v1::GetFleetRequest>,
    ) -> Answer<v1::GetFleetResponse> {
        let name = self.fleets.named(&request.into_inner().fleet).await?;
        let view = self.fleets.read(&name, |state| self.fleet_view(&name, state)).await;
        Ok(Response::new(view.unwrap_or_default()))
    }

    async fn list_releases(
        &self,
        request: Request<v1::ListReleasesRequest>,
    ) -> Answer<v1::ListReleasesResponse> {
        let name = self.fleets.named(&request.into_inner().fleet).await?;
        let list = |state: &FleetState| (self.releases(state), self.horizon(state));
        let (releases, horizon) = self.fleets.read(&name, list).await.unwrap_or_default();
        let (fleet, horizon) = (name.to_string(), Some(horizon));
        Ok(Response::new(v1::ListReleasesResponse { fleet, releases, horizon }))
    }

    async fn create_release(
        &self,
        request: Request<v1::CreateReleaseRequest>,
    ) -> Answer<v1::CreateReleaseResponse> {
        let by = caller(&request)?;
        let message = request.into_inner();
        let fleet = self.fleets.named(&message.fleet).await?;
        let created = self.create(&fleet, message, by).await?;
        Ok(Response::new(v1::CreateReleaseResponse { created }))
    }

    async fn diff_releases(
        &self,
        request: Request<v1::DiffReleasesRequest>,
    ) -> Answer<v1::DiffReleasesResponse> {
        let message = request.into_inner();
        let fleet = self.fleets.named(&message.fleet).await?;
        Ok(Response::new(self.diff(&fleet, message).await?))
    }

    async fn mark_release(
        &self,
        request: Request<v1::MarkReleaseRequest>,
    ) -> Answer<v1::MarkReleaseResponse> {
        let by = caller(&request)?;
        let message = request.into_inner();
        let fleet = self.fleets.named(&message.fleet).await?;
        let release = from_proto::release(message.release)?;
        let standing = from_proto::standing(message.standing)?;
        let reason = reason(message.reason)?;
        let mark = |state: &FleetState| {
            if !state.releases.contains_key(&release) {
                let known: Vec<String> = state.releases.keys().map(ToString::to_string).collect();
                let near = crate::fleets::nearest(release.as_str(), &known);
                let name = release.to_string();
                return Err(
                    planner::Refusal::NotKnown { what: "release", name, near, known }.into()
                );
            }
            Ok::<_, StartError>(vec![FleetEvent::Marked {
                release,
                standing,
                by,
                reason,
                at: wall(),
            }])
        };
        self.fleets.change(&fleet, mark).await?;
        Ok(Response::new(v1::MarkReleaseResponse {}))
    }

    async fn pin_release(
        &self,
        request: Request<v1::PinReleaseRequest>,
    ) -> Answer<v1::PinReleaseResponse> {
        let by = caller(&request)?;
        let v1::PinReleaseRequest { fleet, release, pinned, reason: why } = request.into_inner();
        let fleet = self.fleets.named(&fleet).await?;
        let (release, reason) = (from_proto::release(release)?, reason(why)?);
        if pinned && reason.trim().is_empty() {
            return Err(Status::invalid_argument("a release is pinned with a reason"));
        }
        let changed = self.pin(&fleet, release, pinned, by, reason).await?;
        Ok(Response::new(v1::PinReleaseResponse { changed }))
    }

    async fn prune_snapshots(
        &self,
        request: Request<v1::PruneSnapshotsRequest>,
    ) -> Answer<v1::PruneSnapshotsResponse> {
        let by = caller(&request)?;
        let request = request.into_inner();
        let fleet = self.fleets.named(&request.fleet).await?;
        Ok(Response::new(self.prune(&fleet, request, &by).await?))
    }

    async fn set_freeze(
        &self,
        request: Request<v1::SetFreezeRequest>,
    ) -> Answer<v1::SetFreezeResponse> {
        let by = caller(&request)?;
        let v1::SetFreezeRequest { fleet, frozen, reason: why } = request.into_inner();
        let fleet = self.fleets.named(&fleet).await?;
        let reason = reason(why)?;
        if reason.trim().is_empty() {
            return Err(Status::invalid_argument("a freeze is set and lifted with a reason"));
        }
        let change = |state: &FleetState| {
            let at = wall();
            Ok::<_, FleetsError>(match (frozen, &state.freeze) {
                (true, _) => vec![FleetEvent::Frozen { by, reason, at }],
                (false, Some(_)) => vec![FleetEvent::Thawed { by, reason, at }],
                (false, None) => Vec::new(),
            })
        };
        self.fleets.change(&fleet, change).await?;
        let freeze =
            self.fleets.read(&fleet, |state| to_proto::freeze(state.freeze.as_ref())).await;
        Ok(Response::new(v1::SetFreezeResponse { freeze }))
    }

    async fn list_agents(
        &self,
        _: Request<v1::ListAgentsRequest>,
    ) -> Answer<v1::ListAgentsResponse> {
        let mut agents = Vec::new();
        for fleet in self.fleets.names().await {
            let rows = self.fleets.read(&fleet, |state| self.agents(&fleet, state)).await;
            agents.extend(rows.unwrap_or_default());
        }
        let epoch = Some(to_proto::epoch(self.sessions.epoch()));
        Ok(Response::new(v1::ListAgentsResponse { agents, epoch }))
    }

    async fn doctor(&self, request: Request<v1::DoctorRequest>) -> Answer<v1::DoctorResponse> {
        let fleet = self.fleets.named(&request.into_inner().fleet).await?;
        self.operations.look(&fleet).await;
        let last = self.last_rollback(&fleet).await;
        let cuts_ms = last.iter().flat_map(|view| view.operation.outcomes());
        let cuts_ms = cuts_ms.map(|row| (row.host, row.cut_ms)).collect();
        let fenced = self.sessions.fenced();
        let judge = |state: &FleetState| {
            let hosts = state.fleet.iter().flat_map(|fleet| fleet.hosts());
            let hosts =
                hosts.filter_map(|(host, _)| Some((host.clone(), self.sessions.get(host)?)));
            let inventory = inventory(state, &self.sessions);
            let readiness = doctor::judge(&doctor::Known {
                state,
                inventory: &inventory,
                hosts: &hosts.collect(),
                cuts_ms: &cuts_ms,
                fenced: fenced.as_deref(),
                now: wall(),
            });
            (readiness, self.horizon(state))
        };
        let readiness = self.fleets.read(&fleet, judge).await;
        let (mut readiness, horizon) =
            readiness.ok_or_else(|| Status::not_found("the fleet is not known"))?;
        let control = self.fleets.read(&fleet, |state| state.fleet.clone()).await.flatten();
        if let Some(control) = &control {
            readiness.findings.extend(doctor::sources(&try_sources(&self.servers, control).await));
        }
        let expected_ms = last.map_or(0, |view| view.operation.last().0);
        let answer = to_proto::readiness(&fleet, readiness, expected_ms);
        Ok(Response::new(v1::DoctorResponse { horizon: Some(horizon), ..answer }))
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Answer<v1::CreateJoinTokenResponse> {
        let by = caller(&request)?;
        let v1::CreateJoinTokenRequest { host, ttl_ms } = request.into_inner();
        let host = named_host(&host)?;
        let ttl = (ttl_ms > 0).then(|| Duration::from_millis(ttl_ms));
        let made = self.registrar.make_token(&host, ttl, by).await?;
        Ok(Response::new(v1::CreateJoinTokenResponse {
            host: host.to_string(),
            fleet: made.fleet.to_string(),
            token: made.token,
            expires_unix_ms: made.expires.0,
            ca_hash: made.ca.to_string(),
            policy_hash: made.policy_hash,
        }))
    }

    async fn revoke_agent(
        &self,
        request: Request<v1::RevokeAgentRequest>,
    ) -> Answer<v1::RevokeAgentResponse> {
        let by = caller(&request)?;
        let v1::RevokeAgentRequest { host, reason: why } = request.into_inner();
        let host = named_host(&host)?;
        let was_connected = self.sessions.generation(&host).is_some();
        self.registrar.revoke(&host, reason(why)?, by).await?;
        Ok(Response::new(v1::RevokeAgentResponse { was_connected }))
    }

    async fn acknowledge_host(
        &self,
        request: Request<v1::AcknowledgeHostRequest>,
    ) -> Answer<v1::AcknowledgeHostResponse> {
        let by = caller(&request)?;
        let v1::AcknowledgeHostRequest { fleet, host } = request.into_inner();
        let fleet = self.fleets.named(&fleet).await?;
        let mut acknowledged = None;
        let settle = |state: &FleetState| {
            let hosts = state.fleet.iter().flat_map(|fleet| fleet.hosts());
            let known: Vec<String> = hosts.map(|(host, _)| host.to_string()).collect();
            let Some(host) = HostName::new(host.clone()).ok().filter(|_| known.contains(&host))
            else {
                let near = crate::fleets::nearest(&host, &known);
                let refusal = planner::Refusal::NotKnown { what: "host", name: host, near, known };
                return Err(StartError::from(refusal));
            };
            let seen = state.local.get(&host).filter(|seen| seen.settled.is_none());
            acknowledged = seen.map(|seen| to_proto::local_operation(&seen.operation));
            let event = FleetEvent::LocalSettled { host, by, at: wall() };
            Ok(acknowledged.iter().map(|_| event.clone()).collect())
        };
        self.fleets.change(&fleet, settle).await?;
        Ok(Response::new(v1::AcknowledgeHostResponse { local_operation: acknowledged }))
    }

    async fn create_plan(
        &self,
        request: Request<v1::CreatePlanRequest>,
    ) -> Answer<v1::CreatePlanResponse> {
        let v1::CreatePlanRequest { fleet, request } = request.into_inner();
        let fleet = self.fleets.named(&fleet).await?;
        let request = request.ok_or_else(|| Status::invalid_argument("`request` is missing"))?;
        let plan = self.operations.plan(&fleet, from_proto::plan_request(request)?).await?;
        let environment = self.environment(&fleet).await;
        let expected = self.expected_ms(&plan).await;
        let plan = to_proto::plan(&plan, &environment, expected, Instant::now());
        Ok(Response::new(v1::CreatePlanResponse { plan: Some(plan) }))
    }

    async fn start_operation(
        &self,
        request: Request<v1::StartOperationRequest>,
    ) -> Answer<v1::StartOperationResponse> {
        let by = caller(&request)?;
        let v1::StartOperationRequest { plan_id, reason: why, idempotency_key } =
            request.into_inner();
        let operation = self.operations.start(&plan_id, by, reason(why)?, idempotency_key).await?;
        Ok(Response::new(v1::StartOperationResponse { operation: operation.to_string() }))
    }

    async fn get_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Answer<v1::GetOperationResponse> {
        let operation = Some(self.operation(&request.into_inner().operation).await?);
        Ok(Response::new(v1::GetOperationResponse { operation }))
    }

    async fn list_operations(
        &self,
        request: Request<v1::ListOperationsRequest>,
    ) -> Answer<v1::ListOperationsResponse> {
        let v1::ListOperationsRequest { fleet, since_unix_ms } = request.into_inner();
        let fleet = self.fleets.named(&fleet).await?;
        let ids = |state: &FleetState| {
            state.operations.iter().rev().map(|row| row.id.clone()).collect::<Vec<_>>()
        };
        let ids = self.fleets.read(&fleet, ids).await.unwrap_or_default();
        let environment = self.environment(&fleet).await;
        let mut operations = Vec::new();
        for id in ids.into_iter().take(HISTORY_MAX) {
            // One that cannot be read does not hide the others.
            match self.operations.view(id.as_str()).await {
                Ok(view) if view.started().0 >= since_unix_ms => {
                    operations.push(to_proto::operation(&view, &environment));
                }
                Ok(_) => break,
                Err(error) => tracing::warn!(%id, %error, "left out of the history"),
            }
        }
        Ok(Response::new(v1::ListOperationsResponse { operations }))
    }

    async fn watch_operation(
        &self,
        request: Request<v1::WatchOperationRequest>,
    ) -> Answer<Self::WatchOperationStream> {
        let v1::WatchOperationRequest { operation, from_index } = request.into_inner();
        let (sender, receiver) = mpsc::channel(WATCH_QUEUED_MAX);
        let from = usize::try_from(from_index).unwrap_or(usize::MAX);
        match self.operations.runner(&operation) {
            Some(runner) => {
                tokio::spawn(follow(runner, from, sender));
            }
            None => {
                let view = self.operations.view(&operation).await?;
                tokio::spawn(async move {
                    send(&view, from, &sender).await;
                });
            }
        }
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn pause_operation(
        &self,
        request: Request<v1::PauseOperationRequest>,
    ) -> Answer<v1::PauseOperationResponse> {
        let by = caller(&request)?;
        let operation = Some(self.ask(&request.into_inner().operation, Ask::Pause, by).await?);
        Ok(Response::new(v1::PauseOperationResponse { operation }))
    }

    async fn resume_operation(
        &self,
        request: Request<v1::ResumeOperationRequest>,
    ) -> Answer<v1::ResumeOperationResponse> {
        let by = caller(&request)?;
        let operation = Some(self.ask(&request.into_inner().operation, Ask::Resume, by).await?);
        Ok(Response::new(v1::ResumeOperationResponse { operation }))
    }

    async fn abort_operation(
        &self,
        request: Request<v1::AbortOperationRequest>,
    ) -> Answer<v1::AbortOperationResponse> {
        let by = caller(&request)?;
        let message = request.into_inner();
        let abort = match message.mode() {
            v1::AbortMode::Restore => Abort::Restore,
            v1::AbortMode::Leave => Abort::Leave,
            v1::AbortMode::Unspecified => {
                return Err(Status::invalid_argument("say --restore or --leave"));
            }
        };
        let operation = Some(self.ask(&message.operation, Ask::Abort(abort), by).await?);
        Ok(Response::new(v1::AbortOperationResponse { operation }))
    }

    async fn retry_operation(
        &self,
        request: Request<v1::RetryOperationRequest>,
    ) -> Answer<v1::RetryOperationResponse> {
        let by = caller(&request)?;
        let v1::RetryOperationRequest { operation, hosts } = request.into_inner();
        let hosts = self.retried(&operation, from_proto::hosts(hosts)?).await?;
        let operation = Some(self.ask(&operation, Ask::Retry(hosts), by).await?);
        Ok(Response::new(v1::RetryOperationResponse { operation }))
    }

    async fn promote_operation(
        &self,
        request: Request<v1::PromoteOperationRequest>,
    ) -> Answer<v1::PromoteOperationResponse> {
        let by = caller(&request)?;
        let operation = Some(self.promote(request.into_inner(), by).await?);
        Ok(Response::new(v1::PromoteOperationResponse { operation }))
    }

    async fn list_proposals(
        &self,
        request: Request<v1::ListProposalsRequest>,
    ) -> Answer<v1::ListProposalsResponse> {
        let fleet = self.fleets.named(&request.into_inner().fleet).await?;
        let all = |state: &FleetState| {
            let rows = state.proposals.iter().rev();
            rows.map(|row| canary::proposal(fleet.as_str(), row)).collect()
        };
        let proposals = self.fleets.read(&fleet, all).await.unwrap_or_default();
        Ok(Response::new(v1::ListProposalsResponse { proposals }))
    }

    async fn approve_operation(
        &self,
        request: Request<v1::ApproveOperationRequest>,
    ) -> Answer<v1::ApproveOperationResponse> {
        let by = caller(&request)?;
        let v1::ApproveOperationRequest { operation, reason: why } = request.into_inner();
        let (fleet, row) = self.proposals.approve(&operation, by, reason(why)?).await?;
        let proposal = Some(canary::proposal(fleet.as_str(), &row));
        Ok(Response::new(v1::ApproveOperationResponse { proposal }))
    }

    async fn reject_operation(
        &self,
        request: Request<v1::RejectOperationRequest>,
    ) -> Answer<v1::RejectOperationResponse> {
        let by = caller(&request)?;
        let v1::RejectOperationRequest { operation, reason: why } = request.into_inner();
        let why = reason(why)?;
        if why.trim().is_empty() {
            return Err(Status::invalid_argument("a proposal is rejected with a reason"));
        }
        let (fleet, row) = self.proposals.reject(&operation, by, why).await?;
        let proposal = Some(canary::proposal(fleet.as_str(), &row));
        Ok(Response::new(v1::RejectOperationResponse { proposal }))
    }

    async fn try_sources(
        &self,
        request: Request<v1::TrySourcesRequest>,
    ) -> Answer<v1::TrySourcesResponse> {
        let control = request.into_inner().control;
        let control = control.ok_or_else(|| Status::invalid_argument("`control` is missing"))?;
        let fleet = from_proto::fleet(control)?;
        let sources = try_sources(&self.servers, &fleet).await;
        Ok(Response::new(v1::TrySourcesResponse { sources }))
    }
}

impl OperatorService {
    fn fleet_view(&self, name: &FleetName, state: &FleetState) -> v1::GetFleetResponse {
        let found = planner::way_back(&inventory(state, &self.sessions));
        let way_back_source =
            found.as_ref().ok().and_then(|name| state.releases.get(name)?.standing().1);
        let (way_back, no_way_back) = match found {
            Ok(release) => (release.to_string(), String::new()),
            Err(refusal) => (String::new(), refusal.to_string()),
        };
        let fleet = state.fleet.as_ref();
        let runner = state.busy.as_ref().and_then(|id| self.operations.runner(id.as_str()));
        v1::GetFleetResponse {
            fleet: name.to_string(),
            environment: fleet.map_or_else(String::new, |fleet| fleet.environment.clone()),
            app: fleet.map_or_else(String::new, |fleet| fleet.app.clone()),
            freeze: Some(to_proto::freeze(state.freeze.as_ref())),
            operation: state.busy.as_ref().map_or_else(String::new, ToString::to_string),
            hosts: fleet
                .iter()
                .flat_map(|fleet| fleet.hosts())
                .map(|(host, group)| self.host_view(state, host, group.as_str()))
                .collect(),
            fenced: self.sessions.fenced().unwrap_or_default(),
            way_back_source: to_proto::source(way_back_source).into(),
            way_back,
            no_way_back,
            operation_trace_id: runner
                .map_or_else(String::new, |runner| runner.view().borrow().trace_id()),
            traffic: super::releases::traffic_view(state, &self.sessions),
            proposals: state.waiting().map(|row| canary::proposal(name.as_str(), row)).collect(),
            triggers: self.triggers.views(name, state),
        }
    }

    fn host_view(&self, state: &FleetState, host: &HostName, group: &str) -> v1::HostView {
        let mut view = v1::HostView {
            host: host.to_string(),
            group: group.to_owned(),
            ..v1::HostView::default()
        };
        let local = state.local.get(host).filter(|seen| seen.settled.is_none());
        view.local_operation = local.map(|seen| to_proto::local_operation(&seen.operation));
        let Some(seen) = self.sessions.get(host) else { return view };
        view.connected = seen.generation().is_some();
        view.last_seen_unix_ms = seen.last_seen.0;
        view.agent_version.clone_from(&seen.agent_version);
        let live = seen.status.components.iter().map(|row| live_release(state, host, row));
        let mut live: Vec<String> =
            live.map(|release| release.map_or_else(|| "?".to_owned(), |r| r.to_string())).collect();
        live.dedup();
        view.live_release = live.join(", ");
        view.policy_drift = seen.status.policy_drift(state.fleet.as_ref(), host);
        view.alarms = seen.status.alarms(state).iter().map(to_proto::problem).collect();
        view.status = Some(to_proto::host_status(&seen.status));
        view
    }

    fn horizon(&self, state: &FleetState) -> v1::Horizon {
        to_proto::horizon(retention::horizon(state, &self.sessions, &[], wall().0))
    }

    fn releases(&self, state: &FleetState) -> Vec<v1::Release> {
        let inventory = inventory(state, &self.sessions);
        let mut rows: Vec<_> = state.releases.iter().collect();
        rows.sort_by(|a, b| (b.1.first_seen, b.0).cmp(&(a.1.first_seen, a.0)));
        let live: BTreeSet<&engine::ReleaseName> = inventory
            .hosts
            .values()
            .flat_map(|now| now.live.values())
            .filter_map(|row| row.release.as_ref())
            .collect();
        let row = |(name, release): (&engine::ReleaseName, &engine::Release)| {
            let missing = planner::missing_on(&inventory, name);
            let snapshots =
                inventory.hosts.keys().filter_map(|host| Some((host, self.sessions.get(host)?)));
            let snapshots = snapshots.flat_map(|(host, seen)| {
                let held = seen
                    .status
                    .snapshots
                    .into_iter()
                    .filter(|row| row.release.as_ref() == Some(name));
                let held: Vec<_> = held
                    .map(|row| v1::HostSnapshot {
                        host: host.to_string(),
                        snapshot: Some(to_proto::snapshot(&row)),
                    })
                    .collect();
                held
            });
            to_proto::release(name, release, &missing, live.contains(name), snapshots.collect())
        };
        rows.into_iter().map(row).collect()
    }

    fn agents(&self, fleet: &FleetName, state: &FleetState) -> Vec<v1::AgentView> {
        let hosts = state.fleet.iter().flat_map(|fleet| fleet.hosts());
        let row = |(host, group): (&HostName, &engine::GroupName)| {
            let seen = self.sessions.get(host);
            let drift = seen
                .as_ref()
                .is_some_and(|seen| seen.status.policy_drift(state.fleet.as_ref(), host));
            let (identity, told, ends) =
                self.registrar.identities.read(host, |state| to_proto::identity(state, wall()));
            let mut notes = Vec::from_iter(told);
            if drift {
                notes.push("its policy is not the fleet file's".to_owned());
            }
            let ends = ends.or(seen.as_ref().map(|seen| seen.certificate_ends));
            v1::AgentView {
                host: host.to_string(),
                fleet: fleet.to_string(),
                group: group.to_string(),
                connected: seen.as_ref().is_some_and(|seen| seen.generation().is_some()),
                last_seen_unix_ms: seen.as_ref().map_or(0, |seen| seen.last_seen.0),
                agent_version: seen
                    .as_ref()
                    .map_or_else(String::new, |seen| seen.agent_version.clone()),
                certificate_ends_unix_ms: ends.map_or(0, |ends| ends.0),
                note: notes.join("; "),
                identity: identity.into(),
            }
        };
        hosts.map(row).collect()
    }

    async fn environment(&self, fleet: &FleetName) -> String {
        let read = |state: &FleetState| state.fleet.as_ref().map(|fleet| fleet.environment.clone());
        self.fleets.read(fleet, read).await.flatten().unwrap_or_default()
    }

    /// How long the newest verified operation of the same kind took here; 0 where there is none.
    async fn expected_ms(&self, plan: &engine::Plan) -> u64 {
        let last = self.last_verified(&plan.fleet, &plan.kind).await;
        last.map_or(0, |view| view.operation.last().0)
    }

    async fn last_rollback(&self, fleet: &FleetName) -> Option<View> {
        self.last_verified(fleet, &OperationKind::Rollback).await
    }

    /// The newest verified operation of a kind.
    async fn last_verified(&self, fleet: &FleetName, kind: &OperationKind) -> Option<View> {
        let verified = |state: &FleetState| {
            let rows =
                state.operations.iter().rev().filter(|row| row.result == Some(RunResult::Verified));
            let same = rows.filter(|row| row.id.as_str().starts_with(kind.prefix()));
            same.map(|row| row.id.clone()).next()
        };
        let id = self.fleets.read(fleet, verified).await.flatten()?;
        self.operations.view(id.as_str()).await.ok()
    }

    pub(super) async fn operation(&self, id: &str) -> Result<v1::Operation, Status> {
        let view = self.operations.view(id).await?;
        let environment = self.environment(&view.operation.plan().fleet).await;
        let mut operation = to_proto::operation(&view, &environment);
        let now = self.operations.runner(id).map(|runner| runner.now());
        let newest = self.judging.newest(view.operation.id());
        operation.canary = canary::canary_view(&view, now, newest.as_ref());
        if let Some(shown) = &mut operation.canary {
            let gauges = self.judging.gauges(view.operation.id());
            shown.gauges = gauges.into_iter().map(canary::gauges).collect();
        }
        Ok(operation)
    }
}
