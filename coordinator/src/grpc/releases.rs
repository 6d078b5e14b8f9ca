//! What releases are made of and how they differ, and where the traffic is; for [`OperatorService`].
//!
//! Invariant: what a release is made of never changes once it was said.
//! Invariant: an artefact names a source of the hosts' policies, never a path or an address.

use std::collections::BTreeMap;

use engine::{
    Artefact, ComponentName, FleetEvent, FleetName, FleetState, HostName, Release, ReleaseName,
    Weights, planner,
};
use proto::v1;
use tonic::{Code, Status};

use super::{from_proto, operator_service::OperatorService, status, to_proto};
use crate::{
    fleets::nearest,
    host::{live_release, wall},
    operations::{StartError, inventory},
    sessions::Sessions,
};

/// Longer than any name that a person gives to a file.
const NAME_BYTES_MAX: usize = 1024;

impl OperatorService {
    /// Records what a release is made of; answers whether that was new.
    pub(super) async fn create(
        &self,
        fleet: &FleetName,
        message: v1::CreateReleaseRequest,
        by: String,
    ) -> Result<bool, Status> {
        let release = from_proto::release(message.release)?;
        let mut artefacts = BTreeMap::new();
        for (component, artefact) in message.artefacts {
            let component = from_proto::component_name(component)?
                .ok_or_else(|| Status::invalid_argument("an artefact without a component"))?;
            artefacts.insert(component, checked(from_proto::artefact(artefact))?);
        }
        if artefacts.is_empty() {
            return Err(Status::invalid_argument("a release is made of at least one artefact"));
        }
        let mut refused = None;
        let mut created = false;
        let create = |state: &FleetState| {
            if let Some((name, known)) = unknown_component(state, &artefacts) {
                let near = nearest(&name, &known);
                let refusal = planner::Refusal::NotKnown { what: "component", name, near, known };
                return Err(StartError::from(refusal));
            }
            match state.releases.get(&release) {
                Some(known) if known.artefacts == artefacts => return Ok(Vec::new()),
                Some(known) => {
                    refused = Some(already(&release, known));
                    return Ok(Vec::new());
                }
                None => created = true,
            }
            Ok(vec![FleetEvent::Created { release, artefacts, by, at: wall() }])
        };
        self.fleets.change(fleet, create).await?;
        match refused {
            Some(what) => {
                let mend = "ctl release create ANOTHER-NAME …";
                let kind = proto::status::StatusKind::Refused;
                Err(proto::status::status(kind, Code::AlreadyExists, &what, &[], mend))
            }
            None => Ok(created),
        }
    }

    /// What differs between two releases.
    pub(super) async fn diff(
        &self,
        fleet: &FleetName,
        message: v1::DiffReleasesRequest,
    ) -> Result<v1::DiffReleasesResponse, Status> {
        let to = from_proto::release(message.to)?;
        let from = match message.from.is_empty() {
            true => None,
            false => Some(from_proto::release(message.from)?),
        };
        let sessions = &self.sessions;
        let read = |state: &FleetState| {
            for name in from.iter().chain([&to]) {
                if !state.releases.contains_key(name) {
                    let known: Vec<String> =
                        state.releases.keys().map(ToString::to_string).collect();
                    let (what, near) = ("release", nearest(name.as_str(), &known));
                    let name = name.to_string();
                    return Err(planner::Refusal::NotKnown { what, name, near, known });
                }
            }
            Ok(difference(state, sessions, from.as_ref(), &to))
        };
        let answer = self.fleets.read(fleet, read).await;
        answer
            .unwrap_or_else(|| Ok(v1::DiffReleasesResponse::default()))
            .map_err(|refusal| status::refused(&refusal))
    }
}

fn unknown_component(
    state: &FleetState,
    artefacts: &BTreeMap<ComponentName, Artefact>,
) -> Option<(String, Vec<String>)> {
    let components = state.fleet.iter().flat_map(|fleet| &fleet.components);
    let known: Vec<String> = components.map(|component| component.name.to_string()).collect();
    let name = artefacts.keys().find(|name| !known.iter().any(|known| known == name.as_str()))?;
    Some((name.to_string(), known))
}

fn already(name: &ReleaseName, known: &Release) -> String {
    if known.artefacts.is_empty() {
        return format!("{name} is known already: hosts have snapshots of that name");
    }
    let parts = known.artefacts.iter().map(|(component, artefact)| {
        format!("{component} is {}:{}@{}", artefact.source, artefact.name, artefact.digest)
    });
    let parts: Vec<String> = parts.collect();
    format!("{name} is known already, made of other artefacts: {}", parts.join(", "))
}

/// Names only: what they stand for, each host's policy says.
fn checked(artefact: Artefact) -> Result<Artefact, Status> {
    let invalid = |why: String| Err(Status::invalid_argument(why));
    let Artefact { source, name, digest } = &artefact;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if source.is_empty() || source.len() > 64 || !source.chars().all(plain) {
        return invalid(format!("`{source}` is not the name of a source"));
    }
    let segments = || name.split('/');
    let bad = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
    if name.len() > NAME_BYTES_MAX || segments().any(bad) || name.chars().any(char::is_control) {
        return invalid(format!("`{name}` is not a name in a source: relative, without `..`"));
    }
    let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let fits = match digest.split_once(':') {
        Some(("sha256" | "tree", text)) => text.len() == 64 && hex(text),
        Some(("git", text)) => matches!(text.len(), 40 | 64) && hex(text),
        Some(_) | None => false,
    };
    if !fits {
        return invalid(format!(
            "`{digest}` is not a digest: sha256:HEX of a file, tree:HEX of a directory, git:HEX of a commit"
        ));
    }
    Ok(artefact)
}

fn difference(
    state: &FleetState,
    sessions: &Sessions,
    from: Option<&ReleaseName>,
    to: &ReleaseName,
) -> v1::DiffReleasesResponse {
    let Some(fleet) = &state.fleet else { return v1::DiffReleasesResponse::default() };
    let mut live: Option<String> = None;
    let mut components = Vec::new();
    for component in &fleet.components {
        let artefact = |name: Option<&ReleaseName>| {
            let made_of = state.releases.get(name?)?.artefacts.get(&component.name)?;
            Some(to_proto::artefact(made_of))
        };
        let mut hosts = Vec::new();
        let homes = fleet.hosts().filter(|(_, group)| component.groups.contains(group));
        for (host, _) in homes {
            let Some(seen) = sessions.get(host) else {
                hosts.push(v1::HostDiff { host: host.to_string(), ..v1::HostDiff::default() });
                continue;
            };
            let held = |name: &ReleaseName| {
                let mut rows = seen.status.snapshots.iter();
                let row = rows.find(|row| {
                    row.component == component.name && row.release.as_ref() == Some(name)
                });
                row.map(to_proto::snapshot)
            };
            let now = || {
                let row = seen.status.components.iter().find(|row| row.component == component.name);
                let row = row?;
                let release = live_release(state, host, row);
                live = live.take().or_else(|| release.map(|name| name.to_string()));
                let mut rows = seen.status.snapshots.iter();
                let snapshot = rows.find(|held| Some(&held.seen.snapshot) == row.snapshot.as_ref());
                snapshot.map(to_proto::snapshot)
            };
            let from = from.map_or_else(now, held);
            hosts.push(v1::HostDiff { host: host.to_string(), from, to: held(to) });
        }
        components.push(v1::ComponentDiff {
            component: component.name.to_string(),
            hosts,
            from: artefact(from),
            to: artefact(Some(to)),
        });
    }
    v1::DiffReleasesResponse {
        from: from.map_or_else(|| live.unwrap_or_default(), ToString::to_string),
        to: to.to_string(),
        components,
    }
}

/// How the traffic is divided now; none where no edge divides it.
pub(super) fn traffic_view(state: &FleetState, sessions: &Sessions) -> Option<v1::TrafficView> {
    let fleet = state.fleet.as_ref()?;
    let traffic = fleet.traffic.as_ref()?;
    let now = inventory(state, sessions);
    let edges = fleet.hosts().filter(|(_, group)| **group == traffic.edge);
    let edges: Vec<&HostName> = edges.map(|(host, _)| host).collect();
    let told: Vec<Option<&Weights>> =
        edges.iter().map(|host| now.hosts.get(*host)?.weights.as_ref()).collect();
    let same = told.iter().all(|weights| weights.is_some() && *weights == told[0]);
    let view = |host: &&HostName| {
        let seen = sessions.get(host).filter(|seen| seen.generation().is_some());
        let status =
            seen.and_then(|seen| Some(to_proto::traffic_status(seen.status.traffic.as_ref()?)));
        v1::EdgeView { host: host.to_string(), status }
    };
    let warm = state.warm.as_ref().filter(|warm| warm.until > wall());
    Some(v1::TrafficView {
        observed: told.first().copied().flatten().filter(|_| same).map(to_proto::weights),
        edges: edges.iter().map(view).collect(),
        slots: traffic.slots.iter().map(ToString::to_string).collect(),
        warm: warm.map_or_else(String::new, |warm| warm.group.to_string()),
        warm_release: warm.map_or_else(String::new, |warm| warm.release.to_string()),
        warm_until_unix_ms: warm.map_or(0, |warm| warm.until.0),
    })
}
