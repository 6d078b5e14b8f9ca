//! Triggers and what they proposed: how each stands, and what a person can do about it.

use anstyle::Style;
use proto::v1;

use super::{
    BAD, DIM, GOOD, View, WARN, field,
    table::{Table, styled},
    words::{self, clean, clock, day_and_time, or_dash},
};

/// `critical`, `high`, `low`.
pub fn severity(severity: i32) -> String {
    let word = match v1::TriggerSeverity::try_from(severity) {
        Ok(v1::TriggerSeverity::Critical) => "critical",
        Ok(v1::TriggerSeverity::High) => "high",
        Ok(v1::TriggerSeverity::Low) => "low",
        Ok(v1::TriggerSeverity::Unspecified) | Err(_) => return format!("severity-{severity}"),
    };
    word.to_owned()
}

/// `propose`, `rollback`.
pub fn then(then: i32) -> String {
    let word = match v1::Then::try_from(then) {
        Ok(v1::Then::Propose) => "propose",
        Ok(v1::Then::Rollback) => "rollback",
        Ok(v1::Then::Unspecified) | Err(_) => return format!("then-{then}"),
    };
    word.to_owned()
}

/// `off`, `well`, `blind`, `held`, `breached`, `fired`.
pub fn state(state: i32) -> String {
    let word = match v1::TriggerState::try_from(state) {
        Ok(v1::TriggerState::Off) => "off",
        Ok(v1::TriggerState::Well) => "well",
        Ok(v1::TriggerState::Blind) => "blind",
        Ok(v1::TriggerState::Held) => "held",
        Ok(v1::TriggerState::Breached) => "breached",
        Ok(v1::TriggerState::Fired) => "fired",
        Ok(v1::TriggerState::Unspecified) | Err(_) => return format!("state-{state}"),
    };
    word.to_owned()
}

fn state_style(state: i32) -> Style {
    match v1::TriggerState::try_from(state) {
        Ok(v1::TriggerState::Well) => GOOD,
        Ok(v1::TriggerState::Breached | v1::TriggerState::Fired) => BAD,
        Ok(v1::TriggerState::Blind | v1::TriggerState::Held) => WARN,
        Ok(v1::TriggerState::Off | v1::TriggerState::Unspecified) | Err(_) => DIM,
    }
}

/// `waiting`, `approved`, `rejected`, `expired`.
pub fn proposal_state(state: i32) -> String {
    let word = match v1::ProposalState::try_from(state) {
        Ok(v1::ProposalState::Waiting) => "waiting",
        Ok(v1::ProposalState::Approved) => "approved",
        Ok(v1::ProposalState::Rejected) => "rejected",
        Ok(v1::ProposalState::Expired) => "expired",
        Ok(v1::ProposalState::Unspecified) | Err(_) => return format!("state-{state}"),
    };
    word.to_owned()
}

/// Each trigger in a row, for `ctl status`; nothing where there is none.
pub(super) fn triggers(view: &View, triggers: &[v1::TriggerView]) -> String {
    let mut table = Table::new(["TRIGGER", "STATE", "THEN", "RULE", "SEEN"]);
    for row in triggers {
        table.row([
            clean(&row.name).into(),
            styled(state_style(row.state), state(row.state)),
            then(row.then).into(),
            or_dash(&row.rule).into(),
            seen(view, row).into(),
        ]);
    }
    table.render(view)
}

fn seen(view: &View, row: &v1::TriggerView) -> String {
    let until = match row.armed_until_unix_ms {
        0 => None,
        until => Some(format!("armed until {}", day_and_time(view, until).trim())),
    };
    let detail = Some(clean(&row.detail)).filter(|detail| !detail.is_empty());
    detail.into_iter().chain(until).collect::<Vec<_>>().join("; ")
}

/// What waits for a person, for `ctl status`: first what, then why, then what to type.
pub(super) fn waiting(view: &View, proposals: &[v1::Proposal], ctl: &str) -> String {
    let waits = proposals.iter().filter(|row| row.state() == v1::ProposalState::Waiting);
    waits.map(|row| asks(view, row, ctl)).collect()
}

fn asks(view: &View, row: &v1::Proposal, ctl: &str) -> String {
    let id = clean(&row.operation);
    let label = format!("! {id}");
    let (what, until) = (what(row), clock(view, row.until_unix_ms));
    let mut text = field(view, &label, &format!("{what} waits for a person, until {until}"));
    text += &why(view, row);
    text += &field(view, "", &format!("{ctl} approve {id}"));
    text + &field(view, "", &format!("{ctl} reject {id} --reason '…'"))
}

/// `rollback to v1.4.3`.
fn what(row: &v1::Proposal) -> String {
    format!("{} to {}", words::kind(row.kind), or_dash(&row.to_release))
}

fn why(view: &View, row: &v1::Proposal) -> String {
    let by = match row.by.as_str() {
        "" => String::new(),
        by => format!(" ({}, {})", clean(by), severity(row.severity)),
    };
    let mut text = field(view, "", &format!("{}{by}", clean(&row.why)));
    if !row.why_not_automatic.is_empty() {
        let why = format!("not begun by itself: {}", clean(&row.why_not_automatic));
        text += &field(view, "", &why);
    }
    text
}

/// What was proposed, before a person says yes or no to it.
pub fn proposal(view: &View, row: &v1::Proposal) -> String {
    let at = day_and_time(view, row.at_unix_ms);
    field(view, &clean(&row.operation), &format!("{}, proposed {}", what(row), at.trim()))
        + &why(view, row)
        + &field(view, "", &decided(view, row))
}

/// What was proposed, newest first.
pub fn proposals(view: &View, rows: &[v1::Proposal], ctl: &str) -> String {
    if rows.is_empty() {
        return "nothing was proposed\n".to_owned();
    }
    let waiting = rows.iter().find(|row| row.state() == v1::ProposalState::Waiting);
    let text: String = rows.iter().map(|row| proposal(view, row)).collect();
    match waiting {
        Some(row) => text + &format!("Next:  {ctl} approve {}\n", clean(&row.operation)),
        None => text,
    }
}

/// `waits until 04:12:00`, `rejected by mira today 03:20: it was the proxy`.
pub(super) fn decided(view: &View, row: &v1::Proposal) -> String {
    let state = proposal_state(row.state);
    match v1::ProposalState::try_from(row.state) {
        Ok(v1::ProposalState::Waiting) => {
            format!("waits until {}", clock(view, row.until_unix_ms))
        }
        Ok(
            v1::ProposalState::Approved
            | v1::ProposalState::Rejected
            | v1::ProposalState::Expired
            | v1::ProposalState::Unspecified,
        )
        | Err(_) => {
            let by = match row.decided_by.as_str() {
                _ if row.state() == v1::ProposalState::Expired => String::new(),
                "" => String::new(),
                by => format!(" by {}", clean(by)),
            };
            let at = day_and_time(view, row.decided_unix_ms);
            let reason = match row.decided_reason.as_str() {
                "" => String::new(),
                reason => format!(": {}", clean(reason)),
            };
            format!("{state}{by} {}{reason}", at.trim())
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::render::tests::{plain, view};

    pub(crate) fn example() -> v1::Proposal {
        let now = view().now.as_millisecond();
        v1::Proposal {
            operation: "rb-0208".to_owned(),
            kind: v1::OperationKind::Rollback.into(),
            to_release: "v1.4.3".to_owned(),
            why: "error_rate was 14.2 % (> 10 %) for 31s, of 4 120 requests".to_owned(),
            why_not_automatic:
                "the last rollback of prod was automatic as well, and no person has acted since"
                    .to_owned(),
            severity: v1::TriggerSeverity::Critical.into(),
            by: "trigger errors".to_owned(),
            at_unix_ms: now - 60_000,
            until_unix_ms: now + 3_540_000,
            state: v1::ProposalState::Waiting.into(),
            fleet: "prod".to_owned(),
            ..v1::Proposal::default()
        }
    }

    pub(crate) fn views() -> Vec<v1::TriggerView> {
        let row = |name: &str, rule: &str, state: v1::TriggerState, detail: &str| v1::TriggerView {
            name: name.to_owned(),
            rule: rule.to_owned(),
            severity: v1::TriggerSeverity::Critical.into(),
            then: v1::Then::Rollback.into(),
            state: state.into(),
            detail: detail.to_owned(),
            since_unix_ms: view().now.as_millisecond() - 30_000,
            armed_until_unix_ms: 0,
        };
        let mut rows = vec![
            row("down", "available < 1 for 5m", v1::TriggerState::Well, "6 of 6 hosts answer"),
            row(
                "errors",
                "error_rate > 0.10 for 30s",
                v1::TriggerState::Fired,
                "14.2 % of 4 120 requests",
            ),
            row(
                "slow",
                "> 1.5 * baseline for 2m",
                v1::TriggerState::Blind,
                "http://prom:9090 does not answer: connection refused",
            ),
        ];
        rows[0].armed_until_unix_ms = view().now.as_millisecond() + 86_400_000;
        rows
    }

    #[test]
    fn how_triggers_stand_and_what_waits() {
        let text = triggers(&view(), &views()) + &waiting(&view(), &[example()], "ctl");
        insta::assert_snapshot!(plain(&text));
    }

    #[test]
    fn what_was_proposed_and_decided() {
        let rejected = v1::Proposal {
            operation: "rb-0206".to_owned(),
            state: v1::ProposalState::Rejected.into(),
            decided_by: "ana".to_owned(),
            decided_reason: "it was the proxy".to_owned(),
            decided_unix_ms: view().now.as_millisecond() - 90_000_000,
            why_not_automatic: String::new(),
            ..example()
        };
        let expired = v1::Proposal {
            operation: "rb-0205".to_owned(),
            state: v1::ProposalState::Expired.into(),
            decided_by: "lastgood".to_owned(),
            decided_reason: "nobody decided in time".to_owned(),
            ..rejected.clone()
        };
        let text = proposals(&view(), &[example(), rejected, expired], "ctl");
        insta::assert_snapshot!(plain(&text));
        assert_eq!(proposals(&view(), &[], "ctl"), "nothing was proposed\n");
    }
}
