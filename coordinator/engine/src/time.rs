//! The two times: what deadlines are counted in, and what people read.

use serde::{Deserialize, Serialize};

/// Operation time: milliseconds that a coordinator has spent on an operation since it was opened.
///
/// It never jumps: a changed wall clock does not move it, and it stands still while no coordinator runs. So a
/// deadline cannot expire because a clock was set or because the coordinator was away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Elapsed(pub u64);

impl Elapsed {
    /// `ms` later.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; 0 if that is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Wall time for people: Unix milliseconds. Nothing is decided by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub i64);
