//! What `ctl` exits with: public API. A code never changes its meaning and is never used again for another; a code
//! that is not known to a script means failure.
//!
//! ```text
//! OperationResult ─▶ of_result ─┐
//! tonic::Status ───▶ of_status ─┼─▶ Exit
//! DialError ───────▶ of_dial ───┘
//! ```
//!
//! Invariant: 0 is given only on evidence; unknown hosts, partial success and automatic restores are never 0.

use std::process::ExitCode;

use proto::{
    status::{self, StatusKind},
    tls::DialError,
    v1::{Operation, OperationKind, OperationResult},
};
use tonic::Code;

use crate::render::words;

/// Every exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The goal was reached and verified, or there was nothing to do. With `--detach`: it was begun, as asked.
    Done = 0,
    /// Something that should not happen: a defect, or a disk or a pipe that failed here.
    Failed = 1,
    /// Not understood: wrong usage, an unknown name, or a confirmation is needed and there is no terminal.
    Usage = 2,
    /// The fleet file is not valid; nothing was applied.
    InvalidFleet = 3,
    /// No identity, or one that is not allowed to do this.
    NotAllowed = 4,
    /// The coordinator cannot be reached.
    Unreachable = 5,
    /// Refused before any change: a policy, a check before the start, a freeze, no earlier good release, or a "no".
    Refused = 10,
    /// Another operation holds the fleet.
    Busy = 11,
    /// The fleet is no longer as it was when the plan was made.
    Stale = 12,
    /// Waiting for an approval.
    Approval = 13,
    /// It failed, and everything was put back as it was.
    PutBack = 20,
    /// It failed; the fleet is mixed or a host is unknown: a person is needed.
    Mixed = 21,
    /// The wanted release runs everywhere but is not verified everywhere.
    Unverified = 22,
    /// A forward action ended in an automatic rollback: the judge, a trigger, or a time that was over took it back.
    Reverted = 23,
    /// Watching took too long; the operation goes on.
    TimedOut = 24,
    /// Only with `--dry-run --detailed-exitcode`: there is something to do.
    Changes = 30,
    /// Interrupted: no longer watching; the operation goes on.
    Detached = 130,
}

impl Exit {
    /// Every code, in order.
    pub const ALL: [Self; 17] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::InvalidFleet,
        Self::NotAllowed,
        Self::Unreachable,
        Self::Refused,
        Self::Busy,
        Self::Stale,
        Self::Approval,
        Self::PutBack,
        Self::Mixed,
        Self::Unverified,
        Self::Reverted,
        Self::TimedOut,
        Self::Changes,
        Self::Detached,
    ];

    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// How an operation stands.
    pub const fn of_result(result: OperationResult) -> Self {
        match result {
            OperationResult::Verified => Self::Done,
            OperationResult::Refused => Self::Refused,
            OperationResult::PutBack => Self::PutBack,
            OperationResult::Mixed => Self::Mixed,
            OperationResult::Unverified => Self::Unverified,
            OperationResult::Running | OperationResult::Paused => Self::TimedOut,
            OperationResult::Unspecified => Self::Failed,
        }
    }

    /// How an operation stands, and who ended it: a deploy that Lastgood took back by itself is no mere failure.
    pub fn of_operation(operation: &Operation) -> Self {
        let forward = operation.plan.as_ref().is_some_and(|plan| {
            matches!(plan.kind(), OperationKind::Deploy | OperationKind::Switch)
        });
        let by_itself = words::by_itself(&operation.aborted_by);
        let result = operation.result();
        if result == OperationResult::PutBack && forward && by_itself {
            return Self::Reverted;
        }
        Self::of_result(result)
    }

    /// How an abort that should put everything back ended. What had reached its target before the abort came was not
    /// put back: the abort was refused by the facts.
    pub const fn of_restoring_abort(result: OperationResult) -> Self {
        match result {
            OperationResult::PutBack | OperationResult::Refused => Self::Done,
            OperationResult::Verified => Self::Refused,
            OperationResult::Unspecified
            | OperationResult::Running
            | OperationResult::Paused
            | OperationResult::Mixed
            | OperationResult::Unverified => Self::of_result(result),
        }
    }

    /// A call that failed.
    pub fn of_status(status: &tonic::Status) -> Self {
        if let Some(dial) = dial_error(status) {
            return Self::of_dial(dial);
        }
        match status::read(status) {
            Some(told) => Self::of_kind(told.kind),
            None => Self::of_code(status.code()),
        }
    }

    /// A refusal of the coordinator.
    pub const fn of_kind(kind: StatusKind) -> Self {
        match kind {
            StatusKind::InvalidFleet => Self::InvalidFleet,
            StatusKind::NotAllowed => Self::NotAllowed,
            StatusKind::Refused => Self::Refused,
            StatusKind::Busy => Self::Busy,
            StatusKind::StalePlan => Self::Stale,
            StatusKind::NotFound => Self::Usage,
        }
    }

    /// A connection that did not come about.
    pub const fn of_dial(error: &DialError) -> Self {
        match error {
            DialError::Address { .. } => Self::Usage,
            DialError::Refused { .. } => Self::NotAllowed,
            DialError::Reach { .. }
            | DialError::Timeout { .. }
            | DialError::Server { .. }
            | DialError::Closed { .. } => Self::Unreachable,
        }
    }

    /// A status that says nothing but its code.
    const fn of_code(code: Code) -> Self {
        match code {
            Code::Ok => Self::Done,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::Unreachable,
            Code::PermissionDenied | Code::Unauthenticated => Self::NotAllowed,
            Code::InvalidArgument | Code::NotFound | Code::OutOfRange => Self::Usage,
            Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => Self::Refused,
            Code::Unknown
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The connection's own error behind a failed call.
pub(crate) fn dial_error<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a DialError> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tonic::Status;

    use super::*;

    #[test]
    fn the_numbers_are_the_published_ones_and_each_is_used_once() {
        let codes: Vec<u8> = Exit::ALL.into_iter().map(Exit::code).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 20, 21, 22, 23, 24, 30, 130]);
        assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len());
    }

    #[test]
    fn only_a_verified_operation_is_zero() {
        let table = [
            (OperationResult::Unspecified, 1, 1),
            (OperationResult::Running, 24, 24),
            (OperationResult::Paused, 24, 24),
            (OperationResult::Verified, 0, 10),
            (OperationResult::Refused, 10, 0),
            (OperationResult::PutBack, 20, 0),
            (OperationResult::Mixed, 21, 21),
            (OperationResult::Unverified, 22, 22),
        ];
        for (result, code, of_abort) in table {
            assert_eq!(Exit::of_result(result).code(), code, "{result:?}");
            assert_eq!(Exit::of_restoring_abort(result).code(), of_abort, "{result:?}");
        }
    }

    #[test]
    fn a_deploy_that_was_taken_back_by_itself_is_23_and_one_that_failed_or_was_aborted_is_20() {
        use proto::v1::Plan;
        let table = [
            (OperationKind::Deploy, "judge", OperationResult::PutBack, 23),
            (OperationKind::Deploy, "lastgood", OperationResult::PutBack, 23),
            (OperationKind::Deploy, "trigger errors", OperationResult::PutBack, 23),
            (OperationKind::Deploy, "alert HighErrors", OperationResult::PutBack, 23),
            (OperationKind::Deploy, "mira", OperationResult::PutBack, 20),
            (OperationKind::Deploy, "", OperationResult::PutBack, 20),
            (OperationKind::Rollback, "lastgood", OperationResult::PutBack, 20),
            (OperationKind::Deploy, "judge", OperationResult::Mixed, 21),
            (OperationKind::Deploy, "judge", OperationResult::Verified, 0),
        ];
        for (kind, by, result, code) in table {
            let operation = Operation {
                plan: Some(Plan { kind: kind.into(), ..Plan::default() }),
                aborted_by: by.to_owned(),
                result: result.into(),
                ..Operation::default()
            };
            assert_eq!(Exit::of_operation(&operation).code(), code, "{kind:?} {by} {result:?}");
        }
    }

    #[test]
    fn every_refusal_has_its_code_whatever_the_grpc_code_says() {
        let table = [
            (StatusKind::InvalidFleet, 3),
            (StatusKind::NotAllowed, 4),
            (StatusKind::Refused, 10),
            (StatusKind::Busy, 11),
            (StatusKind::StalePlan, 12),
            (StatusKind::NotFound, 2),
        ];
        assert_eq!(table.map(|(kind, _)| kind), StatusKind::ALL);
        for (kind, code) in table {
            for grpc in [Code::Unavailable, Code::NotFound, Code::Internal] {
                let status = status::status(kind, grpc, "no", &[], "");
                assert_eq!(Exit::of_status(&status).code(), code, "{kind:?}");
            }
        }
    }

    #[test]
    fn a_bare_grpc_code_is_read_too() {
        let table = [
            (Status::unavailable(""), 5),
            (Status::deadline_exceeded(""), 5),
            (Status::permission_denied(""), 4),
            (Status::unauthenticated(""), 4),
            (Status::not_found(""), 2),
            (Status::failed_precondition(""), 10),
            (Status::internal(""), 1),
            (Status::unimplemented(""), 1),
        ];
        for (status, code) in table {
            assert_eq!(Exit::of_status(&status).code(), code, "{status:?}");
        }
    }

    #[test]
    fn a_connection_that_never_was_says_whose_fault_it_is() {
        let (address, why) = (|| "c:1".to_owned(), || "expired".to_owned());
        let table = [
            (DialError::Address { address: address() }, 2),
            (DialError::Refused { address: address(), why: why() }, 4),
            (DialError::Server { address: address(), why: why() }, 5),
            (DialError::Timeout { address: address() }, 5),
            (DialError::Closed { address: address() }, 5),
        ];
        for (error, code) in table {
            assert_eq!(Exit::of_dial(&error).code(), code, "{error}");
            let mut status = Status::unavailable("connect");
            status.set_source(std::sync::Arc::new(error));
            assert_eq!(Exit::of_status(&status).code(), code);
        }
    }
}
