//! Documents: what `-o json` and `-o jsonl` print. The names are those of the glossary, and they are public API.
//!
//! Invariant: names are added, never renamed. Times are RFC 3339 or null, durations are numbers of milliseconds and say
//! so in their names, hashes are hex.

mod canary;
mod fleet;
mod operation;
mod prune;
mod release;

pub use self::{canary::*, fleet::*, operation::*, prune::*, release::*};

use jiff::Timestamp;
use proto::tls::Identity;
use serde::Serialize;
use serde_json::Value;

use super::words;
use crate::{
    context::Config,
    error::{CtlError, Failure},
    exit::Exit,
    out::{Document, typed},
    session::quote,
};

/// What an `apply` did or would do.
#[derive(Clone, Debug, Serialize)]
pub struct Applied {
    pub fleet: String,
    pub applied: bool,
    pub changes: Vec<String>,
    pub not_acted_upon: Vec<&'static str>,
    /// What holds, and will hardly do what was meant.
    pub warnings: Vec<String>,
    pub policy_hashes: std::collections::BTreeMap<String, String>,
}

impl Document for Applied {
    const TYPE: &'static str = "applied";
}

/// A fleet file that holds.
#[derive(Clone, Debug, Serialize)]
pub struct Valid {
    pub file: String,
    pub valid: bool,
    pub fleet: String,
    pub hosts: usize,
    pub components: usize,
    pub not_acted_upon: Vec<&'static str>,
    /// What holds, and will hardly do what was meant.
    pub warnings: Vec<String>,
    /// What each query of the file answered; with `--online` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<SourceTried>>,
}

/// What one query of a fleet file answered.
#[derive(Clone, Debug, Serialize)]
pub struct SourceTried {
    /// Where it stands: `canary.source.requests`.
    pub place: String,
    pub query: String,
    pub ok: bool,
    /// What it answered, or why not, in the source's own words.
    pub detail: String,
}

impl From<proto::v1::SourceTried> for SourceTried {
    fn from(row: proto::v1::SourceTried) -> Self {
        Self { place: row.place, query: row.query, ok: row.ok, detail: row.detail }
    }
}

impl Document for Valid {
    const TYPE: &'static str = "valid";
}

/// The policy of one host.
#[derive(Clone, Debug, Serialize)]
pub struct Policy {
    pub host: String,
    pub hash: String,
    pub policy: String,
}

impl Document for Policy {
    const TYPE: &'static str = "policy";
}

/// An identity that was made.
#[derive(Clone, Debug, Serialize)]
pub struct Issued {
    pub identity: String,
    pub directory: String,
    pub ends: Option<Timestamp>,
}

impl Issued {
    pub fn new(identity: &Identity, directory: &std::path::Path, ends_unix_ms: i64) -> Self {
        Self {
            identity: identity.to_string(),
            directory: directory.display().to_string(),
            ends: words::instant(ends_unix_ms),
        }
    }
}

impl Document for Issued {
    const TYPE: &'static str = "identity";
}

/// What lets one host in.
#[derive(Clone, Serialize)]
pub struct JoinToken {
    pub host: String,
    pub fleet: String,
    /// To type on the host.
    pub command: String,
    /// What it asks for.
    pub token: String,
    pub expires: Option<Timestamp>,
    pub ca_hash: String,
    pub policy_hash: String,
}

impl JoinToken {
    pub fn new(made: proto::v1::CreateJoinTokenResponse, coordinator: &str) -> Self {
        let command = format!(
            "agent join --coordinator {} --host {} --ca-hash {} --policy-hash {}",
            quote(coordinator),
            quote(&made.host),
            quote(&made.ca_hash),
            quote(&made.policy_hash)
        );
        Self {
            host: made.host,
            fleet: made.fleet,
            command,
            token: made.token,
            expires: words::instant(made.expires_unix_ms),
            ca_hash: made.ca_hash,
            policy_hash: made.policy_hash,
        }
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Document for JoinToken {
    const TYPE: &'static str = "join-token";
}

/// A host that was shut out.
#[derive(Clone, Debug, Serialize)]
pub struct Revoked {
    pub host: String,
    pub was_connected: bool,
}

impl Document for Revoked {
    const TYPE: &'static str = "revoked";
}

/// What `init` made.
#[derive(Clone, Debug, Serialize)]
pub struct Initialised {
    pub domain: String,
    pub ca: String,
    pub context: String,
    pub identities: Vec<Issued>,
}

impl Document for Initialised {
    const TYPE: &'static str = "initialised";
}

/// Contexts.
#[derive(Clone, Debug, Serialize)]
pub struct Contexts {
    pub current: Option<String>,
    pub contexts: Vec<crate::context::Context>,
}

impl Document for Contexts {
    const TYPE: &'static str = "contexts";

    fn lines(&self) -> Vec<Value> {
        self.contexts.iter().map(|context| typed("context", context)).collect()
    }
}

impl From<&Config> for Contexts {
    fn from(config: &Config) -> Self {
        let current = config.choose(None).ok().map(|context| context.name.clone());
        Self { current, contexts: config.contexts.clone() }
    }
}

/// A standing that a person gave.
#[derive(Clone, Debug, Serialize)]
pub struct Marked {
    pub release: String,
    pub standing: String,
    pub reason: String,
}

impl Document for Marked {
    const TYPE: &'static str = "marked";
}

/// What this build is.
#[derive(Clone, Debug, Serialize)]
pub struct Version {
    pub version: &'static str,
    pub protocol_min: u32,
    pub protocol_max: u32,
}

impl Document for Version {
    const TYPE: &'static str = "ctl";
}

/// Why a command did not do what it was asked.
#[derive(Clone, Debug, Serialize)]
pub struct Error {
    pub error: String,
    pub cause: Vec<String>,
    pub now: Vec<String>,
    pub next: Vec<String>,
    pub exit_code: u8,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<FileProblem>,
}

/// What is wrong in a file, and where.
#[derive(Clone, Debug, Serialize)]
pub struct FileProblem {
    pub line: u64,
    pub column: u64,
    pub what: String,
    pub mend: String,
}

impl Document for Error {
    const TYPE: &'static str = "error";
}

impl Error {
    /// What is told of an error.
    pub fn new(error: &CtlError, told: Failure) -> Self {
        let Failure { what, cause, now, next } = told;
        let problems =
            if let CtlError::FleetFile { problems, .. } = error { problems } else { &vec![] };
        let problem = |problem: &crate::fleet_file::Problem| FileProblem {
            line: problem.line,
            column: problem.column,
            what: problem.what.clone(),
            mend: problem.mend.clone(),
        };
        let exit_code = Exit::code(error.exit());
        Self {
            error: what,
            cause,
            now,
            next,
            exit_code,
            problems: problems.iter().map(problem).collect(),
        }
    }
}

/// `None` for what the wire leaves empty.
pub(super) fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proto::v1;

    use super::*;
    use crate::render::{plan, status, watch};

    fn shown<D: Document>(document: &D) -> String {
        serde_json::to_string_pretty(document).unwrap()
    }

    #[test]
    fn a_plan() {
        let mut plan = plan::tests::example();
        plan.stages.truncate(1);
        plan.stages[0].batches[0].tracks.truncate(1);
        plan.hosts.truncate(4);
        let command = "ctl rollback --plan 8f21c0de --confirm prod".to_owned();
        insta::assert_snapshot!(shown(&Plan::new(&plan, Some(command))));
    }

    #[test]
    fn a_status() {
        insta::assert_snapshot!(shown(&Status::new(&status::tests::example(), None)));
    }

    #[test]
    fn every_event_is_one_typed_line() {
        let plan = plan::tests::example();
        let lines: Vec<String> = watch::tests::events()
            .iter()
            .map(|response| event("rb-0193", &plan, response).to_string())
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn events_of_the_traffic_say_what_is_set_and_when_users_were_safe() {
        let plan = plan::tests::traffic_first();
        let lines: Vec<String> = watch::tests::traffic_events()
            .iter()
            .map(|response| event("rb-0193", &plan, response).to_string())
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn an_operation_with_its_hosts() {
        let host = v1::HostOutcome {
            host: "crm-b1".to_owned(),
            group: "blue".to_owned(),
            outcome: v1::Outcome::Restored.into(),
            cut_ms: 2_140,
            evidence: vec![v1::Evidence {
                version: "v1.4.2".to_owned(),
                stable_ms: 10_000,
                ..v1::Evidence::default()
            }],
            ..v1::HostOutcome::default()
        };
        let operation = v1::Operation {
            result: v1::OperationResult::Verified.into(),
            ended_unix_ms: watch::tests::started_ms() + 96_400,
            hosts: vec![host],
            ..watch::tests::operation()
        };
        let run = Run {
            exit_code: 0,
            ended: true,
            changed: true,
            operation: Some(operation.id.clone()),
            result: Some(Operation::from(&operation)),
            plan: None,
            traffic: None,
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
        };
        insta::assert_snapshot!(shown(&run));
    }

    #[test]
    fn an_error() {
        let error =
            CtlError::Usage { what: "no".to_owned(), next: vec!["ctl releases".to_owned()] };
        insta::assert_snapshot!(shown(&Error::new(&error, error.told())));
    }
}
