//! What people are told when a trigger fires.

use super::{Fired, Response, Trigger, TriggerSeverity};
use crate::judge::percent;

/// Where more of the traffic than this is affected, it is critical whatever the trigger says.
const CRITICAL_SHARE: f64 = 0.75;

/// How bad it is, where this share of the traffic, of 1, goes to hosts with the release.
pub fn severity(trigger: &Trigger, affected: Option<f64>) -> TriggerSeverity {
    match affected {
        Some(share) if share > CRITICAL_SHARE => TriggerSeverity::Critical,
        Some(_) | None => trigger.severity,
    }
}

/// One sentence: how bad, what was measured, who is affected, what follows.
pub fn notice(
    trigger: &Trigger,
    fired: &Fired,
    affected: Option<f64>,
    response: &Response,
) -> String {
    let severity = severity(trigger, affected).name();
    let affected = match affected {
        Some(share) => format!("{} of the traffic is affected", percent(share)),
        None => "how much of the traffic is affected is not known".to_owned(),
    };
    let follows = match response {
        Response::Rollback { to } => format!("rolling back to {to}"),
        Response::Propose { to, why_not_automatic } => {
            format!("a rollback to {to} waits for a person ({why_not_automatic})")
        }
        Response::Nothing { why } => format!("no rollback: {why}"),
    };
    let (name, sentence) = (&trigger.name, &fired.sentence);
    format!("{severity}: {name}: {sentence}; {affected}; {follows}")
}
