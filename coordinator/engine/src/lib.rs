//! The sequencing core: what an operation does next, decided without any I/O.
//!
//! ```text
//! Request + Inventory ── planner ──▶ Plan            leaves nothing to choose at run time
//!
//!            ┌──────────── Operation ◀── apply ──┐   the only mutator, live and in recovery
//!            ▼                                   │
//! Input ─▶ decide ─▶ Events ─▶ (journal, flushed)┘
//!            │
//!            └─ Operation::outstanding ─▶ Commands   derived, never stored
//! ```
//!
//! Invariant: no clock, no randomness, no I/O. Time is an argument ([`Elapsed`]).
//! Invariant: only [`Operation::apply`] and [`FleetState::apply`] change state; replaying the journal through
//! them gives the live state.
//! Invariant: a host whose state is not known counts as down, never as done.

mod canary;
mod consequences;
mod decide;
mod event;
mod fleet;
mod inventory;
pub mod judge;
mod levels;
mod name;
mod operation;
mod plan;
pub mod planner;
mod proposal;
mod quarantine;
mod release;
mod time;
mod track;
pub mod trigger;
mod weights;

pub use canary::{Canary, CanaryNow, CanaryStage, CanaryStep, Counters, MetricSource, Waits};
pub use consequences::consequences;
pub use decide::{BY_ITSELF, BY_THE_JUDGE, Input, SeenTrack, decide};
pub use event::{Abort, Ask, Event, StepReport, StepState, TrackEnd, TrackEnding};
pub use fleet::{
    Component, Fleet, FleetError, FleetEvent, FleetState, Freeze, Group, Hook, HookPoint,
    LateHosts, LocalOperation, LocalSeen, OnFailure, OperationRow, Rollback, SeenSnapshot, Share,
    Standing, StandingSource, Traffic, Warm,
};
pub use inventory::{HostNow, Inventory, LiveNow, SnapshotNow};
pub use name::{
    ComponentName, FleetName, GroupName, HostName, NameError, OperationId, ReleaseName,
    SnapshotHash,
};
pub use operation::{Command, HostOutcome, IllegalEvent, Operation, Outcome, Phase, RunResult};
pub use plan::{
    Batch, Budget, Gate, OperationKind, Plan, PlanDraft, PlanError, PlannedHost, Stage, Step,
    Target, Track, Verb,
};
pub use proposal::{Armed, Automatic, Decided, Decision, Proposal};
pub use quarantine::{Left, Quarantined};
pub use release::{HostRelease, Pin, Release};
pub use time::{Elapsed, Timestamp};
pub use track::{Goal, TrackEvent, TrackState};
pub use weights::{Artefact, NotWhole, Weights};

/// What was measured on a host after the fact.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Evidence {
    pub component: ComponentName,
    /// The digest of the live tree after the switch and before the start.
    pub snapshot: Option<SnapshotHash>,
    /// What the version check reported.
    pub version: Option<String>,
    /// How long everything held.
    pub stable_ms: u64,
    /// What was live before, where this host exchanged something: the way back of this operation.
    pub replaced: Option<SnapshotHash>,
    /// Its content hash: the same on every host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_content: Option<String>,
    pub notes: Vec<String>,
    /// How the proxy divides the traffic, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
}
