//! Break-glass: what root can ask of this host itself, with no coordinator and no network.
//!
//! ```text
//! agent local … ── cli ─┬─ socket (root only) ─▶ the running agent ─┐
//!                       └─ no agent: ledger and store, opened here ─┴─▶ Service ── plan (pure) ─▶ Core, as any order
//! ```
//!
//! Invariant: there is one worker. What root orders is an [`Order`](crate::order::Order) like a coordinator's: every
//! step on record before it begins, the same drivers, the same evidence.
//! Invariant: nothing here dials, resolves a name, or needs to know of a coordinator.
//! Invariant: what a coordinator planned before is taken back first, and refused from then on.

pub mod cli;
mod direct;
mod import;
pub mod plan;
mod render;
mod service;
pub mod socket;
pub mod wire;

pub use import::{Import, Imported, Owner};
pub use plan::{Hook, Shape, is_release};
pub use service::{Service, fresh_id};

use crate::{
    ledger::{Ledger, Track},
    order::{End, Ending, MadeHere},
};

/// What the ids of local operations begin with; no coordinator's does.
pub const OPERATION_PREFIX: &str = "local-";

/// A local operation that took the host, as far as the ledger holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalOperation {
    pub made: MadeHere,
    /// Absent while it runs.
    pub ending: Option<Ending>,
}

/// Every local operation that took the host, newest last: in the order of the ledger, whatever the clock said.
pub fn operations(ledger: &Ledger) -> Vec<LocalOperation> {
    let mut rows: Vec<LocalOperation> = Vec::new();
    let tracks = ledger.tracks().into_iter().filter(|track| track.order().overtakes());
    for track in tracks {
        let Some(made) = track.order().origin.made_here() else { continue };
        let ending = ending(track, made);
        match rows.iter_mut().find(|row| row.made.operation == made.operation) {
            // Its own track says how it ended, not the one that it took back first.
            Some(row) if track.order().key.operation == made.operation => row.ending = ending,
            Some(_) => {}
            None => rows.push(LocalOperation { made: made.clone(), ending }),
        }
    }
    rows
}

/// How it ended so far. Where only a coordinator's track was taken back for it, that is all there was.
fn ending(track: &Track, made: &MadeHere) -> Option<Ending> {
    let ending = track.ending()?;
    let theirs = &track.order().key.operation;
    if *theirs == made.operation {
        return Some(ending.clone());
    }
    let reason = match ending.end {
        End::Done | End::Undone => format!("{theirs} was taken back; nothing more was begun"),
        End::Left | End::Stuck => format!("taking back {theirs}: {}", ending.reason),
    };
    Some(Ending { end: ending.end, reason })
}
