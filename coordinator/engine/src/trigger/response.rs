//! What follows when a trigger fires.
//!
//! ```text
//! nothing    no deploy to take back, no way back, or a rollback already runs
//! propose    the trigger says so, or anything speaks against going by itself: all of it is named
//! rollback   otherwise
//! ```
//!
//! Invariant: a rollback begins by itself only to a proven release, where the control group is known to be well or there is
//! none, where no operation runs, and not twice in a row without a person.

use super::{Then, Trigger};
use crate::{
    judge::clock,
    name::{OperationId, ReleaseName},
    plan::OperationKind,
    time::Timestamp,
};

/// What is so when a trigger fires.
#[derive(Clone, Debug, PartialEq)]
pub struct Circumstances {
    /// What was deployed of late; `None` where nothing was since the triggers were last off.
    pub changed: Option<Recent>,
    pub control: Control,
    /// The last rollback that began by itself.
    pub last_automatic: Option<LastAutomatic>,
    pub way: Way,
    /// What runs.
    pub busy: Option<(OperationId, OperationKind)>,
}

/// A deploy that a rollback would take back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recent {
    pub operation: OperationId,
    pub release: ReleaseName,
    pub ended: Timestamp,
}

/// The hosts that get traffic and do not run the release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// The release runs everywhere.
    Absent,
    /// Why nothing is known of them.
    Unknown(String),
    Well,
    /// It is not the release.
    AsBad,
}

/// A rollback that no person asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastAutomatic {
    pub operation: OperationId,
    pub at: Timestamp,
    /// Whether a person has begun, approved or allowed anything on the fleet since.
    pub person_since: bool,
}

/// Where a rollback would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Why it cannot go anywhere.
    None(String),
    /// `why_not_automatic` as [`crate::planner::why_not_automatic`] has it.
    To { release: ReleaseName, why_not_automatic: Option<String> },
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A rollback to this release begins.
    Rollback {
        to: ReleaseName,
    },
    /// A rollback to this release waits for a person.
    Propose {
        to: ReleaseName,
        why_not_automatic: String,
    },
    Nothing {
        why: String,
    },
}

/// See the module.
pub fn response(trigger: &Trigger, circumstances: &Circumstances) -> Response {
    let Circumstances { changed, control, last_automatic, way, busy } = circumstances;
    let nothing = |why: String| Response::Nothing { why };
    if changed.is_none() {
        return nothing("nothing was deployed of late that a rollback could take back".to_owned());
    }
    if let Some((operation, OperationKind::Rollback)) = busy {
        return nothing(format!("{operation} already takes it back"));
    }
    let (to, unproven) = match way {
        Way::None(why) => return nothing(format!("there is nothing to go back to: {why}")),
        Way::To { release, why_not_automatic } => (release.clone(), why_not_automatic),
    };
    let mut against = Vec::new();
    match trigger.then {
        Then::Propose => against.push(format!("trigger {} only proposes", trigger.name)),
        Then::Rollback => {}
    }
    if let Some((operation, _)) = busy {
        against.push(format!("{operation} still runs"));
    }
    against.extend(unproven.clone());
    match control {
        Control::Absent | Control::Well => {}
        Control::Unknown(why) => {
            against.push(format!("it is not known whether the hosts without it are well: {why}"));
        }
        Control::AsBad => {
            against.push("the hosts without it are as bad: it is not the release".to_owned());
        }
    }
    if let Some(last) = last_automatic
        && !last.person_since
    {
        let LastAutomatic { operation, at, .. } = last;
        let at = clock(*at);
        against.push(format!(
            "{operation} rolled back by itself at {at}, and no person has acted since"
        ));
    }
    if against.is_empty() {
        Response::Rollback { to }
    } else {
        Response::Propose { to, why_not_automatic: against.join("; ") }
    }
}
