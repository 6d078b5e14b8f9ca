//! How the host is: what the coordinator is told of it.

use crate::order::{Verb, Weights};

/// Everything but the ledger's tracks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostStatus {
    pub policy_hash: String,
    pub components: Vec<ComponentStatus>,
    pub snapshots: Vec<Snapshot>,
    pub free_bytes: u64,
    /// Absent on a host that divides no traffic.
    pub traffic: Option<TrafficStatus>,
}

/// How the proxy of this host divides the traffic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrafficStatus {
    pub driver: String,
    /// What was set last; none where nothing was.
    pub asked: Option<Weights>,
    /// What the running proxy says; none where it cannot be asked.
    pub observed: Option<Weights>,
    pub problems: Vec<Problem>,
}

/// One component as it is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ComponentStatus {
    pub component: String,
    /// What the agent itself put or captured there; empty where it never did.
    pub release: String,
    pub snapshot: String,
    /// The content hash of what is there now; empty where it could not be looked at.
    pub content: String,
    pub changed: bool,
    /// What the version check reports; empty where none answers.
    pub version: String,
    pub services: Vec<ServiceStatus>,
    pub checks: Vec<CheckStatus>,
    pub held: bool,
    pub verbs: Vec<Verb>,
    /// What would keep a rollback of it from working.
    pub problems: Vec<Problem>,
}

/// Something that is not as it has to be, and what mends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    pub what: String,
    pub mend: String,
    /// A rollback would work all the same.
    pub warns: bool,
}

/// One service as its driver sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceStatus {
    pub service: String,
    pub driver: String,
    pub running: bool,
    pub detail: String,
}

/// One check as it answered now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckStatus {
    pub check: String,
    pub ok: bool,
    pub detail: String,
}

/// A snapshot in the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub component: String,
    pub exact: String,
    pub content: String,
    /// Empty for what was replaced without ever having been named.
    pub release: String,
    pub version: String,
    pub taken_at_unix_ms: i64,
    /// When it was learned to be good; 0 where somebody asked for it.
    pub learned_at_unix_ms: i64,
    pub size_bytes: u64,
    pub files: u64,
    /// Empty while it is whole.
    pub damage: String,
    /// When every byte of it was last read and found right; 0 for never.
    pub verified_at_unix_ms: i64,
    /// It stands beside the live one already.
    pub staged: bool,
}
