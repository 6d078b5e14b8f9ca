//! Whether this agent is at work on a component: its answers then say nothing of the release.
//!
//! Invariant: two looks between which it was at work differ, however short it was.

use crate::ledger::{Ledger, Track};

/// Its work on one component, up to a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    /// The newest track that changes what serves there; 0 before there is one.
    newest: u64,
    under_way: bool,
}

impl Work {
    /// From the acceptance of an order that changes what serves until its track has ended, verified or taken back.
    pub(super) fn on(component: &str, ledger: &Ledger) -> Self {
        let cuts = |track: &Track| {
            let mut steps = track.order().steps.iter();
            steps.any(|step| step.component == component && step.verb.cuts())
        };
        let tracks = ledger.tracks().into_iter().rev();
        let newest = tracks.filter(|track| cuts(track)).map(|track| track.accepted).next();
        Self { newest: newest.unwrap_or(0), under_way: ledger.open().is_some_and(cuts) }
    }

    pub(super) fn is_under_way(self) -> bool {
        self.under_way
    }
}
