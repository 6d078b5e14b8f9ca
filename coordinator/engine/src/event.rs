//! The facts that an operation's journal holds.
//!
//! Invariant: this is the persisted form. Variants and fields are added, never renamed or removed; a golden
//! journal of each released format is replayed by the tests.

use serde::{Deserialize, Serialize};

use crate::{
    Evidence, judge::Ruling, name::HostName, operation::RunResult, plan::Plan, time::Elapsed,
    track::Goal,
};

/// Something that happened in an operation, at `at` of its own time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// Always the first.
    Opened {
        plan: Box<Plan>,
        by: String,
        reason: String,
    },
    StageBegan {
        stage: usize,
        at: Elapsed,
    },
    /// One event for all hosts that begin together. Attempts follow from the state.
    Dispatched {
        stage: usize,
        hosts: Vec<HostName>,
        goal: Goal,
        at: Elapsed,
    },
    StepReported {
        host: HostName,
        stage: usize,
        attempt: u32,
        step: StepReport,
    },
    TrackEnded {
        host: HostName,
        stage: usize,
        attempt: u32,
        ending: TrackEnding,
    },
    HostLost {
        host: HostName,
        at: Elapsed,
    },
    HostBack {
        host: HostName,
        at: Elapsed,
    },
    BecameUnknown {
        host: HostName,
        stage: usize,
        why: String,
        at: Elapsed,
    },
    /// A host that was unknown was seen to be at work on this order.
    SeenInWork {
        host: HostName,
        stage: usize,
        attempt: u32,
        at: Elapsed,
    },
    /// A host that was unknown was seen never to have begun.
    SeenIdle {
        host: HostName,
        stage: usize,
        again: bool,
        at: Elapsed,
    },
    /// Root took the host over: none of this operation's orders hold there any more.
    Overtaken {
        host: HostName,
        why: String,
        at: Elapsed,
    },
    /// The stage's last track has ended; its soak begins.
    StageEnded {
        stage: usize,
        at: Elapsed,
    },
    Asked {
        ask: Ask,
        by: String,
        at: Elapsed,
    },
    /// The judge's verdict on the stage in work changed.
    Judged {
        stage: usize,
        ruling: Ruling,
        at: Elapsed,
    },
    /// No new track begins from here on; what is in work ends.
    Halted {
        why: String,
        at: Elapsed,
    },
    Ended {
        result: RunResult,
        at: Elapsed,
    },
}

/// What a person asked of a running operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    Pause,
    Resume,
    Abort(Abort),
    /// These hosts again.
    Retry(Vec<HostName>),
    /// The gates before this stage stand open, whatever the time and the judge say.
    Promote {
        to_stage: usize,
    },
}

/// How an abort leaves the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Abort {
    /// Every host is put back as it was.
    Restore,
    /// Begun tracks end; no more begin.
    Leave,
}

/// How a step on a host stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    pub index: usize,
    pub state: StepState,
    pub duration_ms: u64,
    /// The host's own words.
    pub detail: String,
}

/// See [`StepReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepState {
    Running,
    Done,
    Failed,
    Undone,
}

/// The agent's last word on an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackEnding {
    pub end: TrackEnd,
    /// Why it is not done; empty where it is.
    pub reason: String,
    pub steps: Vec<StepReport>,
    pub evidence: Vec<Evidence>,
}

/// How a track ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrackEnd {
    /// Every step done.
    Done,
    /// Taken back: the host is as it was.
    Undone,
    /// The wanted release is in place but is not verified: it was left so by order, or was only to be looked at.
    Left,
    /// Neither: a person has to look.
    Stuck,
    /// The agent did not begin it: nothing was changed by this order.
    Refused,
}
