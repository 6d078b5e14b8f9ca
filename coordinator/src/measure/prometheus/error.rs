//! Why a Prometheus server has not told what was asked.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use engine::judge::Gap;

/// Which server, why, and what else it said.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("Prometheus at {server}: {fault}{}", warned(warnings))]
pub struct PrometheusError {
    /// Its address as it may be shown.
    pub server: String,
    pub fault: Fault,
    /// The server's own.
    pub warnings: Vec<String>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error("this is no address to ask: {0}; write it like `http://prometheus:9090`")]
    Address(String),
    #[error("it cannot be reached: {0}")]
    NotReached(String),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("it sends us to {0}, and nobody is followed; write the address that answers itself")]
    Redirect(String),
    #[error("status {status} with {what}, which is no answer of Prometheus; is the address right?")]
    NotPrometheus { status: u16, what: String },
    #[error("{}", refused(*status, file.as_deref()))]
    Credentials { status: u16, file: Option<PathBuf> },
    #[error("what it knows the coordinator by cannot be read from {}: {why}", file.display())]
    Unread { file: PathBuf, why: String },
    #[error("its answer is longer than {0} bytes; ask for fewer series")]
    TooLong(usize),
    /// Its `errorType` and `error`.
    #[error("{kind}: {words}")]
    Refused { kind: String, words: String },
    #[error("no data")]
    NoData,
    #[error("no data since {0:?}")]
    Stale(Duration),
    #[error("`{0}` is no number to judge by")]
    NotANumber(String),
    #[error("{count} series where one is wanted, such as {such}; write `sum(…)`")]
    Several { count: usize, such: String },
    #[error("a scalar, whose age cannot be told; leave `scalar(…)` out")]
    Scalar,
    #[error("a {got} where a {wanted} is wanted")]
    Kind { wanted: &'static str, got: String },
    #[error("series {0} has no `le`; write `sum by (le) (…_bucket…)`")]
    NoBound(String),
    #[error(
        "a counter went back, as it does when its app is started anew: what it counted meanwhile is left out"
    )]
    Reset,
    #[error("there are no hosts to ask about")]
    NoHosts,
}

impl PrometheusError {
    /// The same for the judge.
    pub fn gap(&self) -> Gap {
        match &self.fault {
            Fault::Reset => Gap::CounterReset,
            Fault::NotANumber(_) => Gap::NotANumber,
            Fault::Address(_)
            | Fault::NotReached(_)
            | Fault::TimedOut(_)
            | Fault::Redirect(_)
            | Fault::NotPrometheus { .. }
            | Fault::Credentials { .. }
            | Fault::Unread { .. }
            | Fault::TooLong(_)
            | Fault::Refused { .. }
            | Fault::NoData
            | Fault::Stale(_)
            | Fault::Several { .. }
            | Fault::Scalar
            | Fault::Kind { .. }
            | Fault::NoBound(_)
            | Fault::NoHosts => Gap::NoAnswer(self.to_string()),
        }
    }
}

fn refused(status: u16, file: Option<&Path>) -> String {
    match file {
        Some(file) => {
            format!("status {status}: it does not take what stands in {}", file.display())
        }
        None => format!(
            "status {status}: it wants to know who asks; start the coordinator with `--prometheus-credentials URL=FILE`"
        ),
    }
}

fn warned(warnings: &[String]) -> String {
    warnings.iter().map(|warning| format!("; it warns: {warning}")).collect()
}
