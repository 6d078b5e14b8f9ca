//! Pins and pruning as documents.

use jiff::Timestamp;
use proto::v1;
use serde::Serialize;
use serde_json::Value;

use super::{Horizon, text};
use crate::{
    out::{Document, typed},
    render::{prune::Tense, words},
};

/// What would go, or went, on every host.
#[derive(Clone, Debug, Serialize)]
pub struct Pruned {
    pub fleet: String,
    pub dry_run: bool,
    pub exit_code: u8,
    pub freed_bytes: u64,
    pub horizon: Option<Horizon>,
    pub hosts: Vec<HostPruned>,
}

#[derive(Clone, Debug, Serialize)]
pub struct HostPruned {
    pub host: String,
    /// Why nothing is known of it.
    pub failed: Option<String>,
    pub failures: Vec<String>,
    pub notes: Vec<String>,
    pub freed_bytes: u64,
    pub snapshots: Vec<PrunedSnapshot>,
}

#[derive(Clone, Debug, Serialize)]
pub struct PrunedSnapshot {
    pub component: String,
    pub releases: Vec<String>,
    pub snapshot: String,
    pub size_bytes: u64,
    pub taken: Option<Timestamp>,
    pub goes: bool,
    pub why: String,
}

impl Document for Pruned {
    const TYPE: &'static str = "pruned";

    fn lines(&self) -> Vec<Value> {
        self.hosts.iter().map(|host| typed("host", host)).collect()
    }
}

impl Pruned {
    pub fn new(answer: &v1::PruneSnapshotsResponse, tense: Tense, exit_code: u8) -> Self {
        Self {
            fleet: answer.fleet.clone(),
            dry_run: tense == Tense::Would,
            exit_code,
            freed_bytes: answer.hosts.iter().map(|host| host.freed_bytes).sum(),
            horizon: answer.horizon.as_ref().map(Horizon::from),
            hosts: answer.hosts.iter().map(host).collect(),
        }
    }
}

fn host(host: &v1::HostPruned) -> HostPruned {
    let row = |row: &v1::PrunedRow| PrunedSnapshot {
        component: row.component.clone(),
        releases: row.releases.clone(),
        snapshot: row.snapshot.clone(),
        size_bytes: row.size_bytes,
        taken: words::instant(row.taken_at_unix_ms),
        goes: row.goes,
        why: row.why.clone(),
    };
    HostPruned {
        host: host.host.clone(),
        failed: text(&host.failed),
        failures: host.failures.clone(),
        notes: host.notes.clone(),
        freed_bytes: host.freed_bytes,
        snapshots: host.rows.iter().map(row).collect(),
    }
}

/// Whether a release may be pruned.
#[derive(Clone, Debug, Serialize)]
pub struct Pinned {
    pub release: String,
    pub pinned: bool,
    /// It was not so before.
    pub changed: bool,
    pub reason: Option<String>,
}

impl Document for Pinned {
    const TYPE: &'static str = "pinned";
}
