//! What follows a fire, in all combinations of what is so; and what people are told.

use super::{at, errors};
use crate::{
    name::{OperationId, ReleaseName},
    plan::OperationKind,
    trigger::{
        Circumstances, Control, Fired, LastAutomatic, Recent, Response, Then, Trigger,
        TriggerSeverity, Way, notice, response, severity,
    },
};

fn release(name: &str) -> ReleaseName {
    ReleaseName::new(name).unwrap()
}

fn operation(id: &str) -> OperationId {
    OperationId::new(id).unwrap()
}

/// Every value of each circumstance.
fn all() -> Vec<(Trigger, Circumstances)> {
    let mut rows = Vec::new();
    let recent = Recent { operation: operation("dp-0007"), release: release("v2"), ended: at(0) };
    let last =
        |person_since| LastAutomatic { operation: operation("rb-0003"), at: at(5), person_since };
    let to = |why: Option<&str>| Way::To {
        release: release("v1"),
        why_not_automatic: why.map(str::to_owned),
    };
    for then in [Then::Propose, Then::Rollback] {
        for changed in [None, Some(recent.clone())] {
            for control in [
                Control::Absent,
                Control::Unknown("no sample".to_owned()),
                Control::Well,
                Control::AsBad,
            ] {
                for last_automatic in [None, Some(last(true)), Some(last(false))] {
                    for way in [
                        Way::None("no good release".to_owned()),
                        to(None),
                        to(Some("v1 is unproven on h1")),
                    ] {
                        for busy in [
                            None,
                            Some((operation("rb-0009"), OperationKind::Rollback)),
                            Some((operation("dp-0009"), OperationKind::Deploy)),
                            Some((operation("rb-0009"), OperationKind::Undo(operation("dp-0007")))),
                        ] {
                            let trigger = Trigger { then, ..errors() };
                            let (changed, control) = (changed.clone(), control.clone());
                            let (last_automatic, way) = (last_automatic.clone(), way.clone());
                            rows.push((
                                trigger,
                                Circumstances { changed, control, last_automatic, way, busy },
                            ));
                        }
                    }
                }
            }
        }
    }
    rows
}

/// What speaks against a rollback that begins by itself: a part of each sentence.
fn against(trigger: &Trigger, circumstances: &Circumstances) -> Vec<&'static str> {
    let Circumstances { control, last_automatic, way, busy, .. } = circumstances;
    let mut against = Vec::new();
    against.extend((trigger.then == Then::Propose).then_some("trigger errors only proposes"));
    against.extend(busy.as_ref().map(|_| "-0009 still runs"));
    against.extend(match way {
        Way::To { why_not_automatic: Some(_), .. } => Some("v1 is unproven on h1"),
        Way::To { why_not_automatic: None, .. } | Way::None(_) => None,
    });
    against.extend(match control {
        Control::Absent | Control::Well => None,
        Control::Unknown(_) => Some("not known whether the hosts without it are well: no sample"),
        Control::AsBad => Some("it is not the release"),
    });
    let twice = last_automatic.as_ref().is_some_and(|last| !last.person_since);
    against.extend(twice.then_some("rb-0003 rolled back by itself at 16:00:05 UTC"));
    against
}

#[test]
fn what_follows_in_all_combinations() {
    let (mut rollbacks, mut proposals, mut nothings) = (0, 0, 0);
    for (trigger, circumstances) in all() {
        let row = format!("{:?} {circumstances:?}", trigger.then);
        let runs = circumstances.busy.as_ref().map(|(_, kind)| kind);
        let why_nothing = if circumstances.changed.is_none() {
            Some("nothing was deployed of late that a rollback could take back")
        } else if runs == Some(&OperationKind::Rollback) {
            Some("rb-0009 already takes it back")
        } else if circumstances.way == Way::None("no good release".to_owned()) {
            Some("there is nothing to go back to: no good release")
        } else {
            None
        };
        let against = against(&trigger, &circumstances);
        match (response(&trigger, &circumstances), why_nothing) {
            (Response::Nothing { why }, Some(expected)) => {
                nothings += 1;
                assert_eq!(why, expected, "{row}");
            }
            (Response::Rollback { to }, None) => {
                rollbacks += 1;
                assert_eq!(to, release("v1"), "{row}");
                assert_eq!(against, [""; 0], "{row}");
            }
            (Response::Propose { to, why_not_automatic }, None) => {
                proposals += 1;
                assert_eq!(to, release("v1"), "{row}");
                assert!(!against.is_empty(), "{row}");
                let all = against.iter().all(|reason| why_not_automatic.contains(reason));
                assert!(all, "{row}: {why_not_automatic}");
                assert_eq!(why_not_automatic.split("; ").count(), against.len(), "{row}");
            }
            (response, why) => panic!("{row}: {response:?}, expected nothing for {why:?}"),
        }
    }
    // Of 576: it begins by itself only where a deploy can be taken back to a proven release, nothing runs, the control
    // group is well or absent, and no rollback by itself came before without a person since.
    assert_eq!((rollbacks, proposals, nothings), (4, 140, 432));
}

#[test]
fn the_notice_names_severity_share_and_what_follows() {
    let sentence = "error_rate 23 % of 1,204 requests (bound 10 %), for 30 s".to_owned();
    let (control, control_as_bad) = (None, None);
    let fired = Fired {
        at: at(30),
        since: at(0),
        value: 0.23,
        bound: 0.1,
        control,
        control_as_bad,
        sentence,
    };
    let trigger = errors();
    let to = release("v1");
    let rollback = Response::Rollback { to: to.clone() };
    assert_eq!(
        notice(&trigger, &fired, Some(0.4), &rollback),
        "high: errors: error_rate 23 % of 1,204 requests (bound 10 %), for 30 s; 40 % of the traffic is affected; \
         rolling back to v1"
    );
    let why_not_automatic = "trigger errors only proposes".to_owned();
    let propose = Response::Propose { to, why_not_automatic };
    assert_eq!(
        notice(&trigger, &fired, Some(0.76), &propose),
        "critical: errors: error_rate 23 % of 1,204 requests (bound 10 %), for 30 s; 76 % of the traffic is affected; \
         a rollback to v1 waits for a person (trigger errors only proposes)"
    );
    let nothing = Response::Nothing { why: "rb-0009 already takes it back".to_owned() };
    assert_eq!(
        notice(&trigger, &fired, None, &nothing),
        "high: errors: error_rate 23 % of 1,204 requests (bound 10 %), for 30 s; how much of the traffic is affected is \
         not known; no rollback: rb-0009 already takes it back"
    );
    assert_eq!(severity(&trigger, Some(0.75)), TriggerSeverity::High);
    assert_eq!(severity(&trigger, Some(1.0)), TriggerSeverity::Critical);
}
