//! What can go wrong in `ctl`, and what a person is told about it.
//!
//! ```text
//! CtlError ─┬─ exit ──▶ Exit
//!           └─ told ──▶ Failure: what failed, cause, state now, next commands ─▶ render::failure, render::json
//! ```
//!
//! Invariant: every error says what to do next; a call that failed says whether anything was changed.

use std::{io, path::PathBuf};

use proto::{
    status,
    telemetry::TelemetryError,
    tls::{self, DialError, TlsError},
};

use crate::{
    exit::{Exit, dial_error},
    fleet_file::Problem,
    render::words::count,
};

/// One variant per attempted operation.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    #[error("{what}")]
    Usage { what: String, next: Vec<String> },

    #[error("the {what} needs a confirmation, and there is no terminal to ask on")]
    NotConfirmed { what: String, command: String },

    #[error("not confirmed: {why}")]
    Declined { why: String },

    /// Not in this state: nobody was asked to do it.
    #[error("{what}")]
    State { what: String, now: Vec<String>, next: Vec<String> },

    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("{} does not hold", path.display())]
    Config { path: PathBuf, why: String },

    #[error("{file} does not hold: {}", count(problems.len(), "problem"))]
    FleetFile { file: String, problems: Vec<Problem> },

    #[error("the identity in {} cannot be used", dir.display())]
    Identity {
        dir: PathBuf,
        #[source]
        source: TlsError,
    },

    #[error("cannot {doing}")]
    Issue {
        doing: &'static str,
        #[source]
        source: TlsError,
    },

    #[error("there is no connection to the coordinator")]
    Dial(#[source] DialError),

    #[error("cannot {doing}")]
    Call {
        doing: &'static str,
        #[source]
        status: Box<tonic::Status>,
    },

    #[error("it is not known whether plan {plan} was begun")]
    StartUnknown {
        plan: String,
        again: String,
        #[source]
        status: Box<tonic::Status>,
    },

    #[error("the coordinator's answer to `{doing}` is incomplete")]
    Answer { doing: &'static str },

    #[error("cannot write the output")]
    Output(#[source] io::Error),

    #[error("the sandbox did not come about")]
    Sandbox(#[source] anyhow::Error),

    #[error("cannot set up logs and traces")]
    Telemetry(#[source] TelemetryError),
}

/// What a person reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    pub what: String,
    /// Lines, in the words of who refused.
    pub cause: Vec<String>,
    /// The state that things are in now; lines.
    pub now: Vec<String>,
    /// Commands to type, or what else to do.
    pub next: Vec<String>,
}

impl Failure {
    /// The same with commands that begin with `ctl`, so that what is pasted reaches the same coordinator.
    #[must_use]
    pub fn with_ctl(mut self, ctl: &str) -> Self {
        for command in &mut self.next {
            if let Some(rest) = command.strip_prefix("ctl ") {
                *command = match rest.strip_prefix("--context ") {
                    Some(_) => command.clone(),
                    None => format!("{ctl} {rest}"),
                };
            }
        }
        self
    }
}

impl CtlError {
    /// Usage that clap cannot know to be wrong.
    pub fn usage(what: impl Into<String>, next: &[&str]) -> Self {
        Self::Usage { what: what.into(), next: next.iter().map(ToString::to_string).collect() }
    }

    /// A call that failed; `doing` is an infinitive: "make a plan".
    pub fn call(doing: &'static str) -> impl FnOnce(tonic::Status) -> Self {
        move |status| Self::Call { doing, status: Box::new(status) }
    }

    /// What to exit with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } | Self::NotConfirmed { .. } | Self::Config { .. } => Exit::Usage,
            Self::Read { .. } => Exit::Usage,
            Self::Declined { .. } | Self::State { .. } => Exit::Refused,
            Self::FleetFile { .. } => Exit::InvalidFleet,
            Self::Identity { .. } => Exit::NotAllowed,
            Self::Dial(source) => Exit::of_dial(source),
            Self::Call { status, .. } => Exit::of_status(status),
            Self::StartUnknown { .. } => Exit::Unreachable,
            Self::Issue { source: TlsError::Exists { .. } | TlsError::Host { .. }, .. } => {
                Exit::Usage
            }
            Self::Write { .. }
            | Self::Issue { .. }
            | Self::Answer { .. }
            | Self::Output(_)
            | Self::Sandbox(_)
            | Self::Telemetry(_) => Exit::Failed,
        }
    }

    /// What a person is told.
    pub fn told(&self) -> Failure {
        let what = self.to_string();
        match self {
            Self::Usage { next, .. } => Failure { what, next: next.clone(), ..Failure::default() },
            Self::State { now, next, .. } => {
                Failure { what, now: now.clone(), next: next.clone(), ..Failure::default() }
            }
            Self::NotConfirmed { command, .. } => Failure {
                what,
                now: vec!["nothing was started".to_owned()],
                next: vec![command.clone()],
                ..Failure::default()
            },
            Self::Declined { .. } => Failure {
                what,
                now: vec!["nothing was started, nothing was changed".to_owned()],
                ..Failure::default()
            },
            Self::FleetFile { file, problems } => Failure {
                what,
                cause: problems.iter().map(|problem| problem.in_file(file)).collect(),
                now: vec!["nothing was applied".to_owned()],
                next: vec![format!("ctl validate -f {file}")],
            },
            Self::Config { why, .. } => Failure {
                what,
                cause: vec![why.clone()],
                next: vec!["mend or remove that file; `ctl init` writes it".to_owned()],
                ..Failure::default()
            },
            Self::Identity { source, .. } => Failure {
                what,
                cause: vec![chain(source)],
                now: vec!["nothing was asked of the coordinator".to_owned()],
                next: vec!["ctl context list".to_owned()],
            },
            Self::Dial(source) => unreached(source, NOTHING_CHANGED),
            Self::Call { doing, status } => called(doing, status),
            Self::StartUnknown { again, status, .. } => Failure {
                what,
                cause: vec![explain(status)],
                now: vec!["it may run: the answer was lost on the way".to_owned()],
                next: vec![
                    "ctl status".to_owned(),
                    format!("{again}    # safe: it never runs twice"),
                ],
            },
            Self::Read { source, .. } | Self::Write { source, .. } => {
                Failure { what, cause: vec![source.to_string()], ..Failure::default() }
            }
            Self::Output(source) => {
                Failure { what, cause: vec![source.to_string()], ..Failure::default() }
            }
            Self::Issue { source, .. } => {
                Failure { what, cause: vec![chain(source)], ..Failure::default() }
            }
            Self::Sandbox(source) => Failure {
                what,
                cause: vec![format!("{source:#}")],
                now: vec![
                    "what it had started is ended, what it had written is removed".to_owned(),
                ],
                ..Failure::default()
            },
            Self::Telemetry(source) => {
                Failure { what, cause: vec![chain(source)], ..Failure::default() }
            }
            Self::Answer { .. } => Failure {
                what,
                cause: vec!["ctl and coordinator are probably of different versions".to_owned()],
                next: vec!["ctl version".to_owned(), "ctl agent list".to_owned()],
                ..Failure::default()
            },
        }
    }
}

const NOTHING_CHANGED: &str = "this command changed nothing; operations that run go on without ctl";

fn called(doing: &str, status: &tonic::Status) -> Failure {
    if let Some(dial) = dial_error(status) {
        return unreached(dial, NOTHING_CHANGED);
    }
    if let Some(told) = status::read(status) {
        let next = told.mend.into_iter().collect();
        return Failure { what: told.what, cause: told.details, now: Vec::new(), next };
    }
    let next: &[&str] = match (Exit::of_status(status), status.code()) {
        (Exit::Unreachable, _) => &["ctl status"],
        (Exit::NotAllowed, _) => &["ctl context list"],
        (_, tonic::Code::Unimplemented) => &["ctl version"],
        (_, _) => &[],
    };
    let next = next.iter().map(ToString::to_string).collect();
    let cause = vec![explain(status)];
    Failure { what: format!("cannot {doing}"), cause, now: Vec::new(), next }
}

fn unreached(error: &DialError, now: &str) -> Failure {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let next = match error {
        DialError::Address { .. } => vec!["ctl context list".to_owned()],
        DialError::Refused { .. } => vec![
            "ctl context list    # which identity is in use".to_owned(),
            "ask for a new certificate where the CA is kept".to_owned(),
        ],
        DialError::Reach { .. }
        | DialError::Timeout { .. }
        | DialError::Server { .. }
        | DialError::Closed { .. } => vec![
            "ctl context list    # is this the right address?".to_owned(),
            "look at the coordinator's log on its host".to_owned(),
        ],
    };
    Failure {
        what: error.to_string(),
        cause: cause.into_iter().collect(),
        now: vec![now.to_owned()],
        next,
    }
}

/// Why a call failed, in words. A peer that was killed is the usual cause of a torn connection; what TLS has to say of
/// that helps nobody.
pub fn explain(status: &tonic::Status) -> String {
    let words = tls::explain(status);
    if words.contains("close_notify") {
        return "the connection to the coordinator was lost: it went away".to_owned();
    }
    words
}

/// An error with its sources, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let words: Vec<String> = std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect();
    words.join(": ")
}
