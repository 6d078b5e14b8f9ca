//! One host's part in one stage, as a state machine.
//!
//! ```text
//!              Dispatched                   Ended(Done)
//!   Waiting ───────────────▶ InWork ───────────────────────▶ Done
//!      ▲                     │    ▲  │ Ended(Undone|Refused)─▶ Undone
//!      │ SeenIdle{again}     │    │  │ Ended(Left) ──────────▶ Left
//!      │         BecameUnknown    │  └ Ended(Stuck) ─────────▶ Stuck
//!      │                     ▼    │SeenInWork
//!      └───────────────── Unknown ┘      every end leaves Unknown too: a fresh observation does
//!
//!   an order to go back that ends as anything but Undone: Stuck
//!   root took the host over (Overtaken), in any state: Stuck
//! ```
//!
//! Invariant: [`TrackState::next`] is total: every pair is either a move or an [`IllegalMove`].

use serde::{Deserialize, Serialize};

use crate::{event::TrackEnd, time::Elapsed};

/// Why what was out of reach has nothing to take back.
pub(crate) const NOTHING_BEGUN: &str = "it was out of reach; nothing was begun there";

/// Which way an order goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    Forward,
    /// Take back what earlier attempts of this stage did on this host.
    Undo,
}

/// Where a track stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrackState {
    Waiting,
    InWork { goal: Goal, since: Elapsed },
    Unknown { goal: Goal, since: Elapsed, why: String },
    Done,
    Undone { reason: String },
    Left { reason: String },
    Stuck { reason: String },
}

/// What happens to a track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackEvent {
    Dispatched {
        goal: Goal,
        at: Elapsed,
    },
    Ended {
        end: TrackEnd,
        reason: String,
    },
    BecameUnknown {
        why: String,
        at: Elapsed,
    },
    SeenInWork {
        at: Elapsed,
    },
    SeenIdle {
        again: bool,
    },
    /// Root took the host over: what this operation did or will do there holds no more.
    Overtaken {
        why: String,
    },
    /// A person wants it tried again. Not what is unknown: only a fresh observation leads out of that.
    Retried,
}

/// A pair that has no meaning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a track cannot take {event} while it is {state}")]
pub struct IllegalMove {
    state: &'static str,
    event: &'static str,
}

impl TrackState {
    /// The next state, or why there is none.
    pub fn next(&self, event: &TrackEvent) -> Result<Self, IllegalMove> {
        let illegal = || Err(IllegalMove { state: self.word(), event: event.word() });
        match (self, event) {
            (Self::Waiting, TrackEvent::Dispatched { goal: Goal::Forward, at }) => {
                Ok(Self::InWork { goal: Goal::Forward, since: *at })
            }
            // An undo may follow whatever was begun: done, left, stuck or still in work.
            (
                Self::Done
                | Self::Left { .. }
                | Self::Stuck { .. }
                | Self::InWork { goal: Goal::Forward, .. },
                TrackEvent::Dispatched { goal: Goal::Undo, at },
            ) => Ok(Self::InWork { goal: Goal::Undo, since: *at }),
            (
                Self::InWork { goal, .. } | Self::Unknown { goal, .. },
                TrackEvent::Ended { end, reason },
            ) => Ok(Self::ended(*goal, *end, reason)),
            (Self::Waiting, TrackEvent::BecameUnknown { why, at }) => {
                Ok(Self::Unknown { goal: Goal::Forward, since: *at, why: why.clone() })
            }
            (Self::InWork { goal, .. }, TrackEvent::BecameUnknown { why, at }) => {
                Ok(Self::Unknown { goal: *goal, since: *at, why: why.clone() })
            }
            (Self::Unknown { goal, .. }, TrackEvent::SeenInWork { at }) => {
                Ok(Self::InWork { goal: *goal, since: *at })
            }
            (Self::Unknown { goal: Goal::Forward, .. }, TrackEvent::SeenIdle { again: true }) => {
                Ok(Self::Waiting)
            }
            (Self::Unknown { goal: Goal::Forward, .. }, TrackEvent::SeenIdle { again: false }) => {
                Ok(Self::Undone { reason: NOTHING_BEGUN.to_owned() })
            }
            (
                Self::Waiting
                | Self::InWork { .. }
                | Self::Unknown { .. }
                | Self::Done
                | Self::Undone { .. }
                | Self::Left { .. }
                | Self::Stuck { .. },
                TrackEvent::Overtaken { why },
            ) => Ok(Self::Stuck { reason: why.clone() }),
            (
                Self::Waiting
                | Self::Done
                | Self::Undone { .. }
                | Self::Left { .. }
                | Self::Stuck { .. },
                TrackEvent::Retried,
            ) => Ok(Self::Waiting),
            (
                Self::Waiting
                | Self::InWork { .. }
                | Self::Unknown { .. }
                | Self::Done
                | Self::Undone { .. }
                | Self::Left { .. }
                | Self::Stuck { .. },
                _,
            ) => illegal(),
        }
    }

    /// Whether nothing more is to come without someone's doing.
    pub fn at_rest(&self) -> bool {
        match self {
            Self::Waiting | Self::InWork { .. } => false,
            Self::Unknown { .. }
            | Self::Done
            | Self::Undone { .. }
            | Self::Left { .. }
            | Self::Stuck { .. } => true,
        }
    }

    fn ended(goal: Goal, end: TrackEnd, reason: &str) -> Self {
        let reason = reason.to_owned();
        match (goal, end) {
            (Goal::Forward, TrackEnd::Done) => Self::Done,
            (Goal::Forward, TrackEnd::Left) => Self::Left { reason },
            (Goal::Forward, TrackEnd::Refused) | (_, TrackEnd::Undone) => Self::Undone { reason },
            // What was to be taken back was not: it is not as it was, and sending it again would not end.
            (Goal::Undo, TrackEnd::Done | TrackEnd::Left | TrackEnd::Refused) => {
                Self::Stuck { reason: format!("it was not taken back: {reason}") }
            }
            (_, TrackEnd::Stuck) => Self::Stuck { reason },
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::InWork { goal: Goal::Forward, .. } => "in work",
            Self::InWork { goal: Goal::Undo, .. } => "being undone",
            Self::Unknown { .. } => "unknown",
            Self::Done => "done",
            Self::Undone { .. } => "undone",
            Self::Left { .. } => "left",
            Self::Stuck { .. } => "stuck",
        }
    }
}

impl TrackEvent {
    fn word(&self) -> &'static str {
        match self {
            Self::Dispatched { goal: Goal::Forward, .. } => "a forward order",
            Self::Dispatched { goal: Goal::Undo, .. } => "an undo order",
            Self::Ended { .. } => "an end",
            Self::BecameUnknown { .. } => "a loss",
            Self::SeenInWork { .. } => "a sight of work",
            Self::SeenIdle { .. } => "a sight of idleness",
            Self::Overtaken { .. } => "a takeover by root",
            Self::Retried => "a retry",
        }
    }
}
