//! What every host is told not to go forward to: content that was left as bad.
//!
//! ```text
//! engine: FleetState::quarantine ─ rows ─▶ Keeper ─▶ Sessions::bar ─▶ agent: keeps it on its disk, and refuses
//! ```
//!
//! Invariant: a host is told of its own components only.
//! Invariant: what is told is what the planner refuses: both ask the engine.

use std::collections::BTreeMap;

use engine::{ComponentName, FleetState, GroupName, Quarantined};

/// How much of the words an agent is told.
const WHY_CHARS_MAX: usize = 300;

/// Content that a host does not go forward to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barred {
    pub component: ComponentName,
    pub content: String,
    /// Words that follow `this is `.
    pub why: String,
}

/// What the hosts of each group are to be told.
pub fn rows(state: &FleetState) -> BTreeMap<GroupName, Vec<Barred>> {
    let all: Vec<Barred> = state.quarantine().into_iter().map(row).collect();
    let groups = state.fleet.iter().flat_map(|fleet| fleet.groups.iter().map(move |g| (fleet, g)));
    let of_group = groups.map(|(fleet, group)| {
        let here = fleet.components_of(&group.name);
        let own = all.iter().filter(|row| here.iter().any(|known| known.name == row.component));
        (group.name.clone(), own.cloned().collect())
    });
    of_group.collect()
}

fn row((component, content, bad): (ComponentName, String, Quarantined)) -> Barred {
    let why: String = bad.to_string().chars().take(WHY_CHARS_MAX).collect();
    let lift = format!("lift it with `ctl release mark {} unproven --reason …`", bad.release);
    Barred { component, content, why: format!("{why}; {lift}") }
}
