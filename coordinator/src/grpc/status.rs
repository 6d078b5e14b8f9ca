//! Our errors as what a person reads: what failed, why, what to type next. The only place that makes a
//! [`tonic::Status`] of them.

use engine::planner::Refusal;
use proto::status::{StatusKind, status};
use tonic::{Code, Status};

use super::from_proto::WireError;
use crate::{
    fleets::FleetsError,
    journal::JournalError,
    operations::StartError,
    proposals::ProposalError,
    registrar::{RegistrarError, TOKEN_TTL_MAX},
    runner::{AskError, RunnerError},
};

impl From<WireError> for Status {
    fn from(error: WireError) -> Self {
        Status::invalid_argument(error.to_string())
    }
}

impl From<FleetsError> for Status {
    fn from(error: FleetsError) -> Self {
        let what = error.to_string();
        match &error {
            FleetsError::NotKnown { known, .. } => {
                let details = [format!("known fleets: {}", known.join(", "))];
                status(
                    StatusKind::NotFound,
                    Code::NotFound,
                    &what,
                    &details,
                    "ctl status --fleet NAME",
                )
            }
            FleetsError::NameOne { .. } => status(
                StatusKind::NotFound,
                Code::InvalidArgument,
                &what,
                &[],
                "ctl status --fleet NAME",
            ),
            FleetsError::None => {
                status(StatusKind::NotFound, Code::NotFound, &what, &[], "ctl apply -f fleet.yaml")
            }
            FleetsError::Journal(_) | FleetsError::Decode { .. } => internal(&error),
        }
    }
}

impl From<RegistrarError> for Status {
    fn from(error: RegistrarError) -> Self {
        let what = error.to_string();
        let refuse = |kind, code, mend: &str| status(kind, code, &what, &[], mend);
        match &error {
            RegistrarError::Token(_) => refuse(
                StatusKind::NotAllowed,
                Code::PermissionDenied,
                "ctl agent token create --host HOST",
            ),
            RegistrarError::TooMany => refuse(StatusKind::NotAllowed, Code::ResourceExhausted, ""),
            RegistrarError::NoHost { .. } => {
                refuse(StatusKind::NotFound, Code::NotFound, "ctl agent list")
            }
            RegistrarError::NoPolicy { .. } => refuse(
                StatusKind::InvalidFleet,
                Code::FailedPrecondition,
                "ctl apply -f fleet.yaml",
            ),
            RegistrarError::Ttl => {
                let mend = format!("--ttl {}", proto::span::Span(TOKEN_TTL_MAX));
                refuse(StatusKind::Refused, Code::InvalidArgument, &mend)
            }
            RegistrarError::NoReason => {
                refuse(StatusKind::Refused, Code::InvalidArgument, "--reason TEXT")
            }
            RegistrarError::NoCa { host, .. } => {
                let details = [
                    "bring the CA's ca-key.pem to that directory, readable by the coordinator only; or:"
                        .to_owned(),
                ];
                let mend = format!("ctl agent issue --host {host} --dir lastgood");
                status(StatusKind::Refused, Code::FailedPrecondition, &what, &details, &mend)
            }
            RegistrarError::Request(_) | RegistrarError::SameKey => Status::invalid_argument(what),
            RegistrarError::Standing(_) => Status::permission_denied(what),
            RegistrarError::Ca(_) | RegistrarError::Made(_) | RegistrarError::Record(_) => {
                internal(&error)
            }
        }
    }
}

impl From<JournalError> for Status {
    fn from(error: JournalError) -> Self {
        internal(&error)
    }
}

impl From<RunnerError> for Status {
    fn from(error: RunnerError) -> Self {
        internal(&error)
    }
}

impl From<StartError> for Status {
    fn from(error: StartError) -> Self {
        if let StartError::Fleet(error) = error {
            return error.into();
        }
        let what = error.to_string();
        match &error {
            StartError::Fleet(source) => internal(source),
            StartError::Refused(refusal) => refused(refusal),
            StartError::Runner(source) => internal(source),
            StartError::NoOperation { .. } => {
                status(StatusKind::NotFound, Code::NotFound, &what, &[], "ctl history")
            }
            StartError::NoPlan(_) | StartError::Stale(_) => {
                let mend = "ctl rollback --dry-run";
                let details = ["nothing was changed; make a new plan and look at it".to_owned()];
                status(StatusKind::StalePlan, Code::FailedPrecondition, &what, &details, mend)
            }
            StartError::Busy { holder, .. } => {
                let mend = format!("ctl watch {holder}");
                status(StatusKind::Busy, Code::FailedPrecondition, &what, &[], &mend)
            }
            StartError::Decided { .. } => {
                status(StatusKind::Refused, Code::FailedPrecondition, &what, &[], "ctl proposals")
            }
            StartError::Nothing(_) | StartError::ActedBefore(_) | StartError::NotAutomatic(_) => {
                status(StatusKind::Refused, Code::FailedPrecondition, &what, &[], "ctl status")
            }
            StartError::Fenced(_) => {
                status(StatusKind::Refused, Code::FailedPrecondition, &what, &[], "")
            }
        }
    }
}

impl From<ProposalError> for Status {
    fn from(error: ProposalError) -> Self {
        let what = error.to_string();
        match error {
            ProposalError::NotKnown { .. } => {
                status(StatusKind::NotFound, Code::NotFound, &what, &[], "ctl proposals")
            }
            ProposalError::Decided { .. } => {
                status(StatusKind::Refused, Code::FailedPrecondition, &what, &[], "ctl proposals")
            }
            ProposalError::Start(source) => source.into(),
            ProposalError::Fleets(source) => source.into(),
        }
    }
}

impl From<AskError> for Status {
    fn from(error: AskError) -> Self {
        let what = error.to_string();
        match &error {
            AskError::NotNow(_) => {
                status(StatusKind::Refused, Code::FailedPrecondition, &what, &[], "")
            }
            AskError::Busy(holder) => {
                let mend = format!("ctl watch {holder}");
                status(StatusKind::Busy, Code::FailedPrecondition, &what, &[], &mend)
            }
            AskError::NotNewest(_) => status(
                StatusKind::Refused,
                Code::FailedPrecondition,
                &what,
                &[],
                "ctl rollback --dry-run",
            ),
            AskError::Overtaken { .. } => status(
                StatusKind::Refused,
                Code::FailedPrecondition,
                &what,
                &[],
                "ctl rollback --dry-run",
            ),
            AskError::Gone => Status::unavailable(what),
        }
    }
}

/// A planner's refusal, with what it looked at.
pub fn refused(refusal: &Refusal) -> Status {
    let what = refusal.to_string();
    let refuse = |details: &[String], mend: &str| {
        status(StatusKind::Refused, Code::FailedPrecondition, &what, details, mend)
    };
    match refusal {
        Refusal::NotKnown { what: kind, known, .. } => {
            let details = [format!("known {kind}s: {}", known.join(", "))];
            let mend = if *kind == "release" { "ctl releases" } else { "ctl status" };
            status(StatusKind::NotFound, Code::NotFound, &what, &details, mend)
        }
        Refusal::NoTarget { candidates } if candidates.is_empty() => {
            let details = ["no host holds a snapshot of any release yet".to_owned()];
            refuse(&details, "ctl snapshot create --as NAME")
        }
        Refusal::NoTarget { candidates } => {
            let line =
                |row: &engine::planner::Candidate| format!("{}: {}", row.release, row.why_not);
            let details: Vec<String> = candidates.iter().map(line).collect();
            refuse(&details, "ctl releases, then: ctl rollback --to NAME")
        }
        Refusal::MarkedBad { release, .. } => {
            let mend = format!("ctl release mark {release} unproven --reason \"...\"");
            refuse(&[], &mend)
        }
        Refusal::NotWhole { older: Some(older), .. } => {
            refuse(&[], &format!("ctl rollback --to {older}"))
        }
        Refusal::NotWhole { older: None, .. } => refuse(&[], "ctl releases"),
        Refusal::TooManyUnreachable { hosts, .. } => {
            let details: Vec<String> =
                hosts.iter().map(|host| format!("{host}: out of reach")).collect();
            refuse(&details, "ctl agent list, then leave hosts out with --hosts")
        }
        Refusal::NothingToUndo(_) | Refusal::NotNewest { .. } => refuse(&[], "ctl history"),
        Refusal::StillRuns(operation) => refuse(&[], &format!("ctl abort {operation} --restore")),
        Refusal::NoHosts => refuse(&[], "ctl status"),
        Refusal::Frozen { .. } => refuse(&[], "ctl freeze off --reason \"...\""),
        Refusal::Quarantined { bad, .. } => {
            refuse(&[], &format!("ctl release mark {} unproven --reason \"...\"", bad.release))
        }
        Refusal::NoArtefacts(release) => refuse(
            &[],
            &format!("ctl release create {release} --artefact COMPONENT=SOURCE:NAME@DIGEST"),
        ),
        Refusal::NotFetched { release, .. } => refuse(&[], &format!("ctl release fetch {release}")),
        Refusal::Traffic(_) | Refusal::Canary(_) => refuse(&[], "ctl status"),
        Refusal::Warm { release, .. } => {
            let details =
                [format!("a deploy to it would give up the instant way back to {release}")];
            refuse(&details, "wait, or say --give-up-warm")
        }
        Refusal::Defect(source) => Status::internal(format!("{what}: {source}")),
    }
}

/// A defect or a disk: the whole chain goes to the log, the words to the caller.
pub fn internal(error: &(dyn std::error::Error + 'static)) -> Status {
    tracing::error!(error, "a call failed");
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    Status::internal(words)
}
