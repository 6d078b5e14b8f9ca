//! What a planner sees: the fleet's record, and each host as it is now.

use std::collections::BTreeMap;

use crate::{
    fleet::FleetState,
    name::{ComponentName, HostName, ReleaseName, SnapshotHash},
    weights::Weights,
};

/// The record and the present.
#[derive(Clone, Debug)]
pub struct Inventory<'a> {
    pub state: &'a FleetState,
    /// Connected hosts only; a host of the fleet without a row is not reachable.
    pub hosts: BTreeMap<HostName, HostNow>,
}

/// A connected host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNow {
    pub live: BTreeMap<ComponentName, LiveNow>,
    pub snapshots: BTreeMap<ComponentName, Vec<SnapshotNow>>,
    /// It was asked how it is and did not tell in time: what is live there is what it told before, which may be over.
    pub silent: bool,
    /// How its proxy says that it divides the traffic; absent where it is no edge, or its proxy cannot be asked.
    pub weights: Option<Weights>,
}

/// What is live of a component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveNow {
    /// By the check's own word, else by the agent's record; absent where neither is known.
    pub release: Option<ReleaseName>,
    pub snapshot: Option<SnapshotHash>,
    /// Files differ from the snapshot that the agent recorded.
    pub changed: bool,
}

/// A snapshot that the host holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotNow {
    /// Absent for what an operation replaced without its ever having had a name.
    pub release: Option<ReleaseName>,
    pub snapshot: SnapshotHash,
    /// What is damaged, in the host's words; absent while it is whole.
    pub damage: Option<String>,
}

impl HostNow {
    /// The whole snapshot of a release of a component here.
    pub fn whole(&self, component: &ComponentName, release: &ReleaseName) -> Option<&SnapshotNow> {
        let mut rows = self.snapshots.get(component)?.iter();
        rows.find(|row| row.release.as_ref() == Some(release) && row.damage.is_none())
    }
}
