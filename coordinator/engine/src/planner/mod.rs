//! From a request and the inventory to a plan, or to a refusal that says why and what to do.
//!
//! ```text
//! rollback  which release, then the stages        shared by all: stages (the order of hosts),
//! undo      back to what an operation replaced                  tracks (steps of a host), batches
//! snapshot  everything under one release name
//! check     read every byte of a release
//! deploy    a release that the hosts have goes live      traffic: where users are, and how they are moved
//! switch    only the traffic moves                       shared: what all slots use goes back
//! fetch     a release's artefacts come to the hosts
//! ```
//!
//! Invariant: pure, synchronous, deterministic: equal inventories give equal plans.

mod deploy;
mod hosts;
mod rollback;
mod shared;
mod single;
mod stages;
mod target;
mod tracks;
mod traffic;
mod undo;

pub use deploy::{Deploy, Strategy, deploy, fetch, switch};
pub use rollback::{Request, rollback};
pub use single::{check, missing_on, snapshot};
pub use target::{horizon, way_back, why_not_automatic};
pub use traffic::immovable;
pub use undo::undo;

use crate::{
    name::{ComponentName, GroupName, HostName, OperationId, ReleaseName},
    plan::{Plan, PlanError},
    quarantine::Quarantined,
    time::Timestamp,
};

/// A plan, or that there is nothing to do.
pub type Planned = Result<Plan, Refusal>;

/// Why there is no plan. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{what} `{name}` is not known{}", nearest(.near.as_deref()))]
    NotKnown { what: &'static str, name: String, near: Option<String>, known: Vec<String> },
    #[error("no earlier good release to go back to")]
    NoTarget { candidates: Vec<Candidate> },
    #[error("{release} is marked bad: {reason}")]
    MarkedBad { release: ReleaseName, reason: String },
    /// `older` is what could be gone back to instead: never taken without a word of the person who asks.
    #[error("{release} is not whole on {}{}", list(.hosts), instead(.older.as_ref()))]
    NotWhole { release: ReleaseName, hosts: Vec<(HostName, String)>, older: Option<ReleaseName> },
    #[error("{} of the {planned} planned hosts are out of reach; the budget allows {allowed}", .hosts.len())]
    TooManyUnreachable { hosts: Vec<HostName>, planned: usize, allowed: u32 },
    #[error("operation {0} exchanged nothing that could be taken back")]
    NothingToUndo(OperationId),
    #[error(
        "operation {operation} is not the newest that changed the fleet: {newest} came after it"
    )]
    NotNewest { operation: OperationId, newest: OperationId },
    #[error("operation {0} still runs; `abort --restore` takes a running one back")]
    StillRuns(OperationId),
    #[error("no host of the fleet has a component of the app")]
    NoHosts,
    #[error("the fleet is frozen by {by}: {reason}")]
    Frozen { by: String, reason: String },
    #[error("{component} of {release} is {bad}")]
    Quarantined { release: ReleaseName, component: ComponentName, bad: Quarantined },
    #[error("nobody said what {0} is made of")]
    NoArtefacts(ReleaseName),
    #[error("{release} is not on every host yet{}", missing(.hosts))]
    NotFetched { release: ReleaseName, hosts: Vec<(HostName, String)> },
    /// Why traffic cannot be moved, or is not known.
    #[error("the traffic cannot be moved: {0}")]
    Traffic(String),
    /// Why no release can be tried on a few hosts first.
    #[error("no canary can run: {0}")]
    Canary(String),
    #[error("{group} still runs {release}, kept as the way back")]
    Warm { group: GroupName, release: ReleaseName, until: Timestamp },
    #[error("the planner made a plan that does not hold")]
    Defect(#[source] PlanError),
}

/// A release that was looked at, and why it was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub release: ReleaseName,
    pub why_not: String,
}

fn nearest(near: Option<&str>) -> String {
    near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

fn instead(older: Option<&ReleaseName>) -> String {
    older.map_or_else(String::new, |older| {
        format!("; the next older release that is good and whole on all planned hosts is {older}")
    })
}

fn missing(hosts: &[(HostName, String)]) -> String {
    if hosts.is_empty() { String::new() } else { format!(": {}", list(hosts)) }
}

fn list(hosts: &[(HostName, String)]) -> String {
    hosts.iter().map(|(host, why)| format!("{host} ({why})")).collect::<Vec<_>>().join(", ")
}
