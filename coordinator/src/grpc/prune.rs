//! Pins and pruning, for [`OperatorService`].
//!
//! ```text
//! PruneSnapshots ─▶ look at all hosts ─▶ what each must keep ─▶ Prune to each that is connected ─▶ rows, horizon
//! ```
//!
//! Invariant: a host that did not answer is named as such; nothing is said of its snapshots.
//! Invariant: nothing is pruned while an operation holds the fleet.

use std::{collections::BTreeSet, time::Duration};

use engine::{
    ComponentName, FleetEvent, FleetName, FleetState, HostName, ReleaseName, SnapshotHash, planner,
};
use proto::v1;
use tokio::task::JoinSet;
use tonic::Status;

use super::{from_proto, operator_service::OperatorService, status, to_proto};
use crate::{
    fleets::nearest,
    host::wall,
    operations::StartError,
    retention::{self, Kept},
    sessions::{Prune, PruneError, Pruned},
};

/// How long a host may take: it reads manifests, and removes trees. Below the time that a call may take as a whole.
const PRUNED_WITHIN: Duration = Duration::from_secs(20);

type Agreed = Vec<(HostName, ComponentName, SnapshotHash)>;

impl OperatorService {
    /// Pins a release, or takes the pin away; answers whether that was new.
    pub(super) async fn pin(
        &self,
        fleet: &FleetName,
        release: ReleaseName,
        pinned: bool,
        by: String,
        reason: String,
    ) -> Result<bool, Status> {
        let mut changed = false;
        let pin = |state: &FleetState| {
            let Some(known) = state.releases.get(&release) else {
                let known: Vec<String> = state.releases.keys().map(ToString::to_string).collect();
                let near = nearest(release.as_str(), &known);
                let name = release.to_string();
                let refusal = planner::Refusal::NotKnown { what: "release", name, near, known };
                return Err(StartError::from(refusal));
            };
            let at = wall();
            let same = |pin: &engine::Pin| pin.by == by && pin.reason == reason;
            let event = match (pinned, &known.pinned) {
                (true, Some(pin)) if same(pin) => None,
                (true, _) => Some(FleetEvent::Pinned { release, by, reason, at }),
                (false, Some(_)) => Some(FleetEvent::Unpinned { release, by, at }),
                (false, None) => None,
            };
            changed = event.is_some();
            Ok(event.into_iter().collect())
        };
        self.fleets.change(fleet, pin).await?;
        Ok(changed)
    }

    /// Asks hosts to prune, and tells what each answered.
    pub(super) async fn prune(
        &self,
        fleet: &FleetName,
        request: v1::PruneSnapshotsRequest,
        by: &str,
    ) -> Result<v1::PruneSnapshotsResponse, Status> {
        let v1::PruneSnapshotsRequest { dry_run, component, hosts, agreed, agreed_only, .. } =
            request;
        let only = from_proto::hosts(hosts)?;
        let component = from_proto::component_name(component)?;
        let agreed = agreed.into_iter().map(from_proto::agreed).collect::<Result<Agreed, _>>()?;
        let chosen = self.chosen(fleet, &only, component.as_ref(), dry_run).await?;
        self.operations.look(fleet).await;
        let mut told = retention::rows(&self.fleets, &self.sessions, &self.operations, fleet).await;
        if !dry_run {
            tracing::info!(%fleet, by, hosts = chosen.len(), "an operator prunes snapshots");
        }
        let mut asked = JoinSet::new();
        for (place, host) in chosen.into_iter().enumerate() {
            let rows: Vec<Kept> = told.remove(&host).unwrap_or_default();
            let here = agreed.iter().filter(|(at, _, _)| *at == host);
            let here = here.map(|(_, component, snapshot)| (component.clone(), snapshot.clone()));
            let only = agreed_only.then(|| here.collect());
            let (component, sessions) = (component.clone(), self.sessions.clone());
            let prune = move |id, keep| Prune { id, dry_run, component, keep, only };
            asked.spawn(async move {
                let answer = sessions.prune(&host, prune, rows, PRUNED_WITHIN).await;
                let answer = answer.map_err(|error| in_words(&error, dry_run));
                (place, host, answer)
            });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(place, _, _)| *place);
        let gone: Agreed =
            answers.iter().flat_map(|(_, host, answer)| going(host, answer)).collect();
        let known = |state: &FleetState| {
            let horizon = retention::horizon(state, &self.sessions, &gone, wall().0);
            let environment = state.fleet.as_ref().map(|fleet| fleet.environment.as_str());
            (to_proto::horizon(horizon), environment == Some("production"))
        };
        let (horizon, production) = self.fleets.read(fleet, known).await.unwrap_or_default();
        let hosts =
            answers.into_iter().map(|(_, host, answer)| to_proto::host_pruned(&host, answer));
        Ok(v1::PruneSnapshotsResponse {
            fleet: fleet.to_string(),
            production,
            hosts: hosts.collect(),
            horizon: Some(horizon),
        })
    }

    /// The hosts that are meant, in the fleet's order. Refuses names that are not known.
    async fn chosen(
        &self,
        fleet: &FleetName,
        only: &[HostName],
        component: Option<&ComponentName>,
        dry_run: bool,
    ) -> Result<Vec<HostName>, Status> {
        let choose = |state: &FleetState| {
            if let Some(holder) = state.busy.clone().filter(|_| !dry_run) {
                return Err(StartError::Busy { holder, fleet: fleet.clone() }.into());
            }
            let groups = state.fleet.iter().flat_map(|fleet| fleet.hosts());
            let all: Vec<HostName> = groups.map(|(host, _)| host.clone()).collect();
            let known: BTreeSet<&HostName> = all.iter().collect();
            if let Some(stranger) = only.iter().find(|host| !known.contains(host)) {
                let known = all.iter().map(ToString::to_string).collect();
                return Err(not_known("host", stranger.as_str(), known));
            }
            let components = state.fleet.iter().flat_map(|fleet| &fleet.components);
            let components: Vec<String> = components.map(|row| row.name.to_string()).collect();
            if let Some(stranger) = component.filter(|name| !components.contains(&name.to_string()))
            {
                return Err(not_known("component", stranger.as_str(), components));
            }
            let wanted = |host: &HostName| only.is_empty() || only.contains(host);
            Ok(all.into_iter().filter(wanted).collect())
        };
        self.fleets.read(fleet, choose).await.unwrap_or_else(|| Ok(Vec::new()))
    }
}

fn in_words(error: &PruneError, dry_run: bool) -> String {
    let after = match error {
        PruneError::NoAnswer(_) if !dry_run => "; what it pruned is not known",
        PruneError::NoAnswer(_)
        | PruneError::NotConnected
        | PruneError::Fenced(_)
        | PruneError::Full
        | PruneError::Refused(_) => "",
    };
    format!("{error}{after}")
}

fn going<'a>(
    host: &'a HostName,
    answer: &'a Result<Pruned, String>,
) -> impl Iterator<Item = (HostName, ComponentName, SnapshotHash)> + 'a {
    let rows = answer.iter().flat_map(|pruned| &pruned.rows).filter(|row| row.goes);
    rows.map(|row| (host.clone(), row.component.clone(), row.snapshot.clone()))
}

fn not_known(what: &'static str, name: &str, known: Vec<String>) -> Status {
    let (name, near) = (name.to_owned(), nearest(name, &known));
    status::refused(&planner::Refusal::NotKnown { what, name, near, known })
}
