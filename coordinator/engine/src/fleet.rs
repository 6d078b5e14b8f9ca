//! The fleet: who belongs to it, which releases are known and how they stand, what is frozen, what runs.
//!
//! Invariant: a [`Fleet`] was validated by [`Fleet::check`]; [`FleetState`] changes only through
//! [`FleetState::apply`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    canary::Canary,
    event::TrackEnd,
    name::{ComponentName, FleetName, GroupName, HostName, OperationId, ReleaseName, SnapshotHash},
    operation::RunResult,
    plan::OperationKind,
    proposal::{Armed, Automatic, Decision, Proposal},
    quarantine::Left,
    release::{Pin, Release},
    time::Timestamp,
    trigger::Trigger,
    weights::Artefact,
};

/// The control part of a fleet file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    pub name: FleetName,
    pub environment: String,
    pub app: String,
    pub groups: Vec<Group>,
    pub components: Vec<Component>,
    pub rollback: Rollback,
    /// What each host's policy file must hash to.
    pub policy_hashes: BTreeMap<HostName, String>,
    /// Absent where no edge divides the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// Absent where no release is tried on a few hosts first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<Trigger>,
}

/// How traffic reaches the hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// The group of the proxies.
    pub edge: GroupName,
    /// The groups that take turns.
    pub slots: Vec<GroupName>,
    /// How long open requests have to end.
    pub drain_ms: u64,
    /// For how long the side that traffic left stays as it is.
    pub warm_ms: u64,
}

/// Hosts with one role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub name: GroupName,
    pub hosts: Vec<HostName>,
}

/// What goes back as one piece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    pub name: ComponentName,
    pub groups: Vec<GroupName>,
    pub needs: Vec<ComponentName>,
    pub services: Vec<String>,
    pub stop_within_ms: u64,
    pub ready_within_ms: u64,
    pub stable_for_ms: u64,
    /// Its services read their files anew while they run; they are never stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reloads: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// All slots use the same one: while it goes back, nothing that needs it runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

/// A command of the hosts' policies, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    pub name: String,
    pub at: HookPoint,
    pub within_ms: u64,
}

/// When a hook runs in its component's track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookPoint {
    BeforeStop,
    BeforeStart,
    AfterStart,
    AfterVerify,
}

/// How this fleet is rolled back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// Hosts per batch; the last one repeats.
    pub batches: Vec<Share>,
    pub budget_failed: u32,
    pub budget_unknown: u32,
    pub budget_out: Share,
    pub on_failure: OnFailure,
    pub late_hosts: LateHosts,
    pub deadline_ms: u64,
    pub soak_ms: u64,
    pub unknown_after_ms: u64,
    /// Takes traffic away from hosts before it touches them.
    #[serde(default = "traffic_first")]
    pub traffic_first: bool,
}

fn traffic_first() -> bool {
    true
}

/// A number of hosts, or a share of them in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Share {
    Hosts(u32),
    Percent(u8),
}

impl Share {
    /// How many of `all` it is: rounded down, but at least one.
    pub fn of(self, all: usize) -> u32 {
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        match self {
            Self::Hosts(hosts) => hosts.clamp(1, all.max(1)),
            Self::Percent(percent) => {
                (all.saturating_mul(u32::from(percent)) / 100).clamp(1, all.max(1))
            }
        }
    }
}

impl std::str::FromStr for Share {
    type Err = FleetError;

    fn from_str(text: &str) -> Result<Self, FleetError> {
        let error = || FleetError::Share(text.to_owned());
        if let Some(percent) = text.strip_suffix('%') {
            let percent: u8 = percent.parse().map_err(|_| error())?;
            return if (1..=100).contains(&percent) {
                Ok(Self::Percent(percent))
            } else {
                Err(error())
            };
        }
        match text.parse() {
            Ok(hosts) if hosts > 0 => Ok(Self::Hosts(hosts)),
            Ok(_) | Err(_) => Err(error()),
        }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hosts(hosts) => write!(f, "{hosts}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// What an agent does when a step of a track fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailure {
    /// Put the host back as it was.
    Restore,
    /// Leave it on the wanted release, where that is in place.
    Leave,
}

/// What happens to a host that comes back after it was counted as unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LateHosts {
    Rollback,
    Wait,
}

/// Why a control part is not a fleet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    #[error("`{0}` is not a number of hosts: write `1`, `5` or `20%`")]
    Share(String),
    #[error("{host} is in two groups, {first} and {second}")]
    HostTwice { host: HostName, first: GroupName, second: GroupName },
    #[error("group {0} is named twice")]
    GroupTwice(GroupName),
    #[error("component {0} is named twice")]
    ComponentTwice(ComponentName),
    #[error("component {component} names group {group}, which does not exist")]
    NoGroup { component: ComponentName, group: GroupName },
    #[error("component {component} needs {needs}, which does not exist")]
    NoNeed { component: ComponentName, needs: ComponentName },
    #[error("components need each other in a circle: {0}")]
    Cycle(String),
    #[error("a fleet without a batch size: `rollback.batches` is empty")]
    NoBatches,
    #[error("`rollback.deadline` is 0")]
    NoDeadline,
    #[error("canary: {0}")]
    Canary(String),
}

impl Fleet {
    /// Whether it is whole and free of contradictions.
    pub fn check(&self) -> Result<(), FleetError> {
        let mut groups = BTreeMap::new();
        let mut homes: BTreeMap<&HostName, &GroupName> = BTreeMap::new();
        for group in &self.groups {
            if groups.insert(&group.name, ()).is_some() {
                return Err(FleetError::GroupTwice(group.name.clone()));
            }
            for host in &group.hosts {
                if let Some(first) = homes.insert(host, &group.name) {
                    let (first, second) = (first.clone(), group.name.clone());
                    return Err(FleetError::HostTwice { host: host.clone(), first, second });
                }
            }
        }
        let mut names = BTreeSet::new();
        for component in &self.components {
            if !names.insert(&component.name) {
                return Err(FleetError::ComponentTwice(component.name.clone()));
            }
            if let Some(group) = component.groups.iter().find(|group| !groups.contains_key(group)) {
                return Err(FleetError::NoGroup {
                    component: component.name.clone(),
                    group: group.clone(),
                });
            }
        }
        if self.rollback.batches.is_empty() {
            return Err(FleetError::NoBatches);
        }
        if self.rollback.deadline_ms == 0 {
            return Err(FleetError::NoDeadline);
        }
        if let Some(canary) = &self.canary {
            self.check_canary(canary).map_err(FleetError::Canary)?;
        }
        self.ordered().map(|_| ())
    }

    fn check_canary(&self, canary: &Canary) -> Result<(), String> {
        let Canary { group, steps, .. } = canary;
        if !self.groups.iter().any(|known| known.name == *group) {
            return Err(format!("group {group} does not exist"));
        }
        if let Some(traffic) = &self.traffic
            && (traffic.edge == *group || traffic.slots.contains(group))
        {
            return Err(format!("group {group} is a slot or the edge: a canary is neither"));
        }
        let weights: Vec<u32> = steps.iter().map(|step| step.weight).collect();
        let rise = weights.windows(2).all(|pair| pair[0] < pair[1]);
        if weights.is_empty() || !rise || weights.iter().any(|weight| !(1..=100).contains(weight)) {
            return Err(format!("its weights have to rise, from 1 to 100: {weights:?}"));
        }
        Ok(())
    }

    /// All hosts with their groups, in the file's order.
    pub fn hosts(&self) -> impl Iterator<Item = (&HostName, &GroupName)> {
        self.groups.iter().flat_map(|group| group.hosts.iter().map(move |host| (host, &group.name)))
    }

    /// The group of a host.
    pub fn group_of(&self, host: &HostName) -> Option<&GroupName> {
        self.hosts().find(|(name, _)| *name == host).map(|(_, group)| group)
    }

    /// The components of a group, each after those that it needs.
    pub fn components_of(&self, group: &GroupName) -> Vec<&Component> {
        let ordered = self.ordered().expect("a fleet was checked when it was applied");
        ordered.into_iter().filter(|component| component.groups.contains(group)).collect()
    }

    /// The components, each after those that it needs; otherwise in the file's order.
    fn ordered(&self) -> Result<Vec<&Component>, FleetError> {
        let mut done: Vec<&Component> = Vec::new();
        let mut path = Vec::new();
        for component in &self.components {
            self.visit(component, &mut done, &mut path)?;
        }
        Ok(done)
    }

    fn visit<'a>(
        &'a self,
        component: &'a Component,
        done: &mut Vec<&'a Component>,
        path: &mut Vec<&'a ComponentName>,
    ) -> Result<(), FleetError> {
        if done.iter().any(|other| other.name == component.name) {
            return Ok(());
        }
        if let Some(start) = path.iter().position(|name| **name == component.name) {
            path.push(&component.name);
            let circle: Vec<&str> = path[start..].iter().map(|name| name.as_str()).collect();
            return Err(FleetError::Cycle(circle.join(" → ")));
        }
        path.push(&component.name);
        for needs in &component.needs {
            let Some(other) = self.components.iter().find(|other| other.name == *needs) else {
                return Err(FleetError::NoNeed {
                    component: component.name.clone(),
                    needs: needs.clone(),
                });
            };
            self.visit(other, done, path)?;
        }
        path.pop();
        done.push(component);
        Ok(())
    }
}

/// How a release is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    Unproven,
    Good,
    Bad,
}

/// Who judged it. Learned ranks below the other two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StandingSource {
    Operated,
    Learned,
    Marked,
}

/// A change of a fleet. The persisted form: append only, never rename.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FleetEvent {
    Applied {
        fleet: Box<Fleet>,
        by: String,
        at: Timestamp,
    },
    SnapshotSeen {
        host: HostName,
        component: ComponentName,
        release: ReleaseName,
        seen: SeenSnapshot,
    },
    Marked {
        release: ReleaseName,
        standing: Standing,
        by: String,
        reason: String,
        at: Timestamp,
    },
    /// An operation proved on these hosts that the release is good or bad.
    Proven {
        release: ReleaseName,
        hosts: Vec<HostName>,
        standing: Standing,
        operation: OperationId,
        at: Timestamp,
    },
    Frozen {
        by: String,
        reason: String,
        at: Timestamp,
    },
    Thawed {
        by: String,
        reason: String,
        at: Timestamp,
    },
    OperationOpened {
        operation: OperationId,
        key: String,
        at: Timestamp,
    },
    OperationEnded {
        operation: OperationId,
        result: RunResult,
        at: Timestamp,
    },
    /// What a successful rollback put there: a bare one does not go further back.
    RolledBackTo {
        release: ReleaseName,
        operation: OperationId,
    },
    /// A host told of an operation that root ran on it, or how that one stands.
    ActedLocally {
        host: HostName,
        local: LocalOperation,
        at: Timestamp,
    },
    /// A person, or an operation that restored the host since, has looked at it.
    LocalSettled {
        host: HostName,
        by: String,
        at: Timestamp,
    },
    /// A host learned that its part of a release is good, and nothing spoke against it then.
    Learned {
        host: HostName,
        component: ComponentName,
        release: ReleaseName,
        snapshot: SnapshotHash,
        at: Timestamp,
    },
    /// What hosts replaced when a rollback left a release as bad.
    Left {
        left: Left,
        at: Timestamp,
    },
    /// The release is not to be pruned on any host.
    Pinned {
        release: ReleaseName,
        by: String,
        reason: String,
        at: Timestamp,
    },
    Unpinned {
        release: ReleaseName,
        by: String,
        at: Timestamp,
    },
    /// A person said what a release is made of.
    Created {
        release: ReleaseName,
        artefacts: BTreeMap<ComponentName, Artefact>,
        by: String,
        at: Timestamp,
    },
    /// Traffic left a side that stays as the way back; or there is none such any more.
    SideLeft {
        warm: Option<Warm>,
        at: Timestamp,
    },
    /// An operation waits for a person.
    Proposed {
        proposal: Proposal,
    },
    /// A person, or the time, decided on what was proposed.
    Decided {
        operation: OperationId,
        decision: Decision,
        by: String,
        reason: String,
        at: Timestamp,
    },
    /// An operation went forward: triggers may take it back until then; or nothing is to be taken back any more.
    Armed {
        armed: Option<Armed>,
        at: Timestamp,
    },
    /// What a trigger measures while nothing new is live: what `* baseline` is of.
    BaselineMeasured {
        trigger: String,
        value: f64,
        at: Timestamp,
    },
    /// A trigger began an operation by itself.
    ActedAutomatically {
        operation: OperationId,
        trigger: String,
        at: Timestamp,
    },
    /// A host no longer has a snapshot that it told of before.
    SnapshotGone {
        host: HostName,
        component: ComponentName,
        release: ReleaseName,
        at: Timestamp,
    },
}

/// The side that traffic left, kept as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warm {
    pub group: GroupName,
    pub release: ReleaseName,
    pub until: Timestamp,
    pub operation: OperationId,
}

/// An operation that root ran on a host itself, as its agent tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalOperation {
    pub id: String,
    pub at: Timestamp,
    pub by: String,
    pub to: String,
    /// How it ended, and why where it is not done; absent while it runs.
    pub ended: Option<(TrackEnd, String)>,
}

/// The newest local operation of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalSeen {
    pub operation: LocalOperation,
    /// The newest operation of the fleet when it was told of: this one and those before were planned without it.
    pub over: Option<OperationId>,
    /// Who has looked since; absent while somebody has to.
    pub settled: Option<String>,
}

/// A snapshot on a host, as the agent told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenSnapshot {
    pub snapshot: SnapshotHash,
    pub content: String,
    pub version: Option<String>,
    pub taken_at: Timestamp,
}

/// A fleet as it stands, from its events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetState {
    pub fleet: Option<Fleet>,
    pub releases: BTreeMap<ReleaseName, Release>,
    pub freeze: Option<Freeze>,
    /// The operation that holds the fleet.
    pub busy: Option<OperationId>,
    pub operations: Vec<OperationRow>,
    pub rolled_back_to: Option<(ReleaseName, OperationId)>,
    #[serde(default)]
    pub local: BTreeMap<HostName, LocalSeen>,
    #[serde(default)]
    pub left: Vec<Left>,
    #[serde(default)]
    pub warm: Option<Warm>,
    /// What was proposed, newest last.
    #[serde(default)]
    pub proposals: Vec<Proposal>,
    #[serde(default)]
    pub armed: Option<Armed>,
    /// By trigger: what it measured last while nothing new was live, and when.
    #[serde(default)]
    pub baselines: BTreeMap<String, (f64, Timestamp)>,
    /// What a trigger began by itself last, for as long as no person has acted since.
    #[serde(default)]
    pub automatic: Option<Automatic>,
}

/// One operation of the fleet, newest last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRow {
    pub id: OperationId,
    /// The idempotency key that it was started with.
    pub key: String,
    pub result: Option<RunResult>,
}

impl OperationRow {
    /// Whether it is of a kind that changes what is live.
    pub fn moves_hosts(&self) -> bool {
        let prefix = self.id.as_str().split('-').next();
        let moves = [
            OperationKind::Rollback,
            OperationKind::Undo(self.id.clone()),
            OperationKind::Deploy,
            OperationKind::Switch,
        ];
        moves.iter().any(|kind| Some(kind.prefix()) == prefix)
    }
}

/// Deploys forward are refused while this stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    pub by: String,
    pub reason: String,
    pub since: Timestamp,
}

impl FleetState {
    /// The only mutator.
    pub fn apply(&mut self, event: &FleetEvent) {
        match event {
            FleetEvent::Applied { fleet, .. } => self.fleet = Some((**fleet).clone()),
            FleetEvent::SnapshotSeen { host, component, release, seen } => {
                let row = self.release(release, seen.taken_at);
                row.first_seen = row.first_seen.min(seen.taken_at);
                let on_host = row.hosts.entry(host.clone()).or_default();
                on_host.gone.remove(component);
                on_host.snapshots.insert(component.clone(), seen.clone());
            }
            FleetEvent::Marked { release, standing, reason, at, .. } => {
                self.automatic = None;
                self.release(release, *at).marked = Some((*standing, reason.clone()));
            }
            FleetEvent::Proven { release, hosts, standing, at, .. } => {
                let row = self.release(release, *at);
                for host in hosts {
                    let on_host = row.hosts.entry(host.clone()).or_default();
                    on_host.standing = Some((*standing, StandingSource::Operated));
                }
            }
            FleetEvent::Frozen { by, reason, at } => {
                self.freeze = Some(Freeze { by: by.clone(), reason: reason.clone(), since: *at });
            }
            FleetEvent::Thawed { .. } => {
                self.freeze = None;
                self.automatic = None;
            }
            FleetEvent::OperationOpened { operation, key, .. } => {
                self.busy = Some(operation.clone());
                match self.operations.iter_mut().find(|row| row.id == *operation) {
                    Some(row) => row.result = None,
                    None => {
                        let row =
                            OperationRow { id: operation.clone(), key: key.clone(), result: None };
                        self.operations.push(row);
                    }
                }
            }
            FleetEvent::OperationEnded { operation, result, .. } => {
                if self.busy.as_ref() == Some(operation) {
                    self.busy = None;
                }
                if let Some(row) = self.operations.iter_mut().find(|row| row.id == *operation) {
                    row.result = Some(*result);
                }
            }
            FleetEvent::RolledBackTo { release, operation } => {
                self.rolled_back_to = Some((release.clone(), operation.clone()));
            }
            FleetEvent::ActedLocally { host, local, .. } => {
                let over = self.operations.last().map(|row| row.id.clone());
                let seen = LocalSeen { operation: local.clone(), over, settled: None };
                self.local.insert(host.clone(), seen);
            }
            FleetEvent::LocalSettled { host, by, .. } => {
                if let Some(seen) = self.local.get_mut(host) {
                    seen.settled = Some(by.clone());
                }
            }
            FleetEvent::Learned { host, component, release, snapshot, at } => {
                let on_host = self.release(release, *at).hosts.entry(host.clone()).or_default();
                on_host.learned.insert(component.clone(), snapshot.clone());
            }
            FleetEvent::Left { left, .. } => self.left.push(left.clone()),
            FleetEvent::Pinned { release, by, reason, at } => {
                let pin = Pin { by: by.clone(), reason: reason.clone(), since: *at };
                self.release(release, *at).pinned = Some(pin);
            }
            FleetEvent::Unpinned { release, .. } => {
                if let Some(row) = self.releases.get_mut(release) {
                    row.pinned = None;
                }
            }
            FleetEvent::Created { release, artefacts, at, .. } => {
                self.release(release, *at).artefacts.clone_from(artefacts);
            }
            FleetEvent::SideLeft { warm, .. } => self.warm.clone_from(warm),
            FleetEvent::Proposed { proposal } => self.proposals.push(proposal.clone()),
            FleetEvent::Decided { operation, decision, by, reason, at } => {
                self.decided(operation, *decision, by, reason, *at);
            }
            FleetEvent::Armed { armed, .. } => self.armed.clone_from(armed),
            FleetEvent::BaselineMeasured { trigger, value, at } => {
                self.baselines.insert(trigger.clone(), (*value, *at));
            }
            FleetEvent::ActedAutomatically { operation, trigger, at } => {
                let (operation, trigger) = (operation.clone(), trigger.clone());
                self.automatic = Some(Automatic { operation, trigger, at: *at });
            }
            FleetEvent::SnapshotGone { host, component, release, .. } => {
                let on_host =
                    self.releases.get_mut(release).and_then(|row| row.hosts.get_mut(host));
                if let Some(on_host) = on_host {
                    on_host.gone.insert(component.clone());
                }
            }
        }
    }

    /// Why what an operation planned for a host does not hold there any more, where root took the host since.
    pub fn overtaken(&self, operation: &OperationId, host: &HostName) -> Option<String> {
        let seen = self.local.get(host)?;
        let place = |id: &OperationId| self.operations.iter().position(|row| row.id == *id);
        let before = place(operation)? <= place(seen.over.as_ref()?)?;
        let LocalOperation { id, by, to, .. } = &seen.operation;
        before.then(|| {
            format!("{by} took this host over on the host itself ({id}, to {to}); look at it first")
        })
    }

    fn release(&mut self, name: &ReleaseName, at: Timestamp) -> &mut Release {
        let new = || Release {
            first_seen: at,
            marked: None,
            pinned: None,
            artefacts: BTreeMap::new(),
            hosts: BTreeMap::new(),
        };
        self.releases.entry(name.clone()).or_insert_with(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_down_but_never_to_nothing() {
        for (text, all, expected) in
            [("1", 5, 1), ("5", 3, 3), ("20%", 5, 1), ("50%", 5, 2), ("1%", 5, 1), ("100%", 7, 7)]
        {
            let share: Share = text.parse().unwrap();
            assert_eq!(share.of(all), expected, "{text} of {all}");
            assert_eq!(share.to_string(), text);
        }
        for text in ["0", "0%", "101%", "-1", "x", ""] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }
}
