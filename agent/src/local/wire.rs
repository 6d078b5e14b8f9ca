//! What `agent local` and the agent say to each other: one JSON value per line, a request and then answers.
//!
//! ```text
//! Request ─▶ …  Status │ Plan │ Imported │ Begun, Step…, Ended │ Refused
//! ```
//!
//! Invariant: an answer that ends the talk is the last one; see [`Response::is_last`].

use serde::{Deserialize, Serialize};

use super::{
    import::{Import, Imported},
    plan::{Ask, Plan, Refusal, ReleaseRow},
};
use crate::order::{End, Evidence, Verb};

/// The longest request, and the longest answer, as a line.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
pub const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest name of who asks.
pub const BY_BYTES_MAX: usize = 64;

/// What root asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// How the host is, and what it can go back to.
    Status,
    /// What would be done.
    Plan(Ask),
    /// Do it, if the plan still is the one of that hash.
    Start { ask: Ask, hash: String, by: String },
    /// Make a release of a backup.
    Import(Import),
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    Status(Box<Status>),
    Plan {
        plan: Box<Plan>,
        hash: String,
    },
    Imported(Imported),
    /// It is on record, or waits for the track that is taken back first.
    Begun {
        operation: String,
    },
    Step(Step),
    Ended(Ended),
    /// There is no plan. Nothing was changed.
    NoPlan(Refusal),
    /// The host no longer is as the plan found it. Nothing was changed.
    Stale,
    /// Not begun, and why.
    Refused {
        why: String,
    },
}

impl Response {
    /// Whether nothing follows it.
    pub fn is_last(&self) -> bool {
        match self {
            Self::Begun { .. } | Self::Step(_) => false,
            Self::Status(_)
            | Self::Plan { .. }
            | Self::Imported(_)
            | Self::Ended(_)
            | Self::NoPlan(_)
            | Self::Stale
            | Self::Refused { .. } => true,
        }
    }
}

/// The host, for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub host: String,
    pub policy_hash: String,
    pub components: Vec<Component>,
    pub releases: Vec<ReleaseRow>,
    /// What is at work here, and on which release: an operation of a coordinator, or a local one.
    pub at_work: Option<AtWork>,
    /// Local operations that took the host, newest last.
    pub local: Vec<Local>,
    /// What a rollback that names no release would take, or why it takes none.
    pub way_back: Option<String>,
    pub free_bytes: u64,
}

/// One component of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    pub component: String,
    /// By the agent's own record; empty where it has none.
    pub release: String,
    pub changed: bool,
    pub held: bool,
    pub version: String,
    /// Name and whether it runs.
    pub services: Vec<(String, bool)>,
    /// Those that do not hold, with what they said; and how many there are.
    pub failing: Vec<(String, String)>,
    pub checks: usize,
}

/// An open track.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtWork {
    pub operation: String,
    pub step: Option<String>,
    pub to_release: String,
}

/// A local operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    pub operation: String,
    pub by: String,
    pub at_unix_ms: i64,
    pub release: String,
    pub ended: Option<(End, String)>,
}

/// A step as it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub at_unix_ms: i64,
    pub operation: String,
    pub index: usize,
    pub verb: Verb,
    pub component: String,
    pub release: String,
    pub hook: String,
    pub state: StepWord,
    pub duration_ms: u64,
    pub detail: String,
}

/// How a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepWord {
    Running,
    Done,
    Failed,
    /// Being taken back, and taken back, and not.
    TakingBack,
    TakenBack,
    Stuck,
}

/// The end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub operation: String,
    pub end: End,
    pub reason: String,
    pub evidence: Vec<Evidence>,
    /// What is live afterwards, by record and by the check's word.
    pub components: Vec<Component>,
}
