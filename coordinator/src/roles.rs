//! Who may call what: one table, and the layer that holds every call to it.
//!
//! ```text
//! connection (Peer) ─▶ RoleLayer: path × caller, and does its certificate count ─▶ handler: peer(&request), agent(&request)
//!                          └─▶ refused, logged
//! ```
//!
//! Invariant: whoever shows no certificate is nobody, and has one row: Join.
//! Invariant: an agent whose certificate was not acknowledged has one row: Acknowledge; one that does not count has none.
//! Invariant: a call without a row is refused, whoever makes it; a test fails for an RPC of ours without one.
//! Invariant: an agent acts for the host that its certificate names; handlers take the name from [`agent`], never
//! from a message.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use engine::HostName;
use proto::tls::{PeerIdentity, Role};
use tonic::{
    Request, Status,
    codegen::{Service, http},
};

use crate::{
    accept::Peer,
    identities::{Identities, Standing},
    registrar::standing_words,
};

/// Who calls, as far as the table goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The connection shows no certificate.
    Nobody,
    Member(Role),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody"),
            Self::Member(role) => role.fmt(f),
        }
    }
}

const NOBODY: &[Caller] = &[Caller::Nobody];
const OPERATOR: &[Caller] = &[Caller::Member(Role::Operator)];
const AGENT: &[Caller] = &[Caller::Member(Role::Agent)];
const BOTH: &[Caller] = &[Caller::Member(Role::Operator), Caller::Member(Role::Agent)];

/// The only call that a certificate may make which was not acknowledged yet.
const ACKNOWLEDGE: &str = "/lastgood.v1.AgentService/Acknowledge";

/// Every call that there is, and who may make it.
const TABLE: &[(&str, &[Caller])] = &[
    ("/lastgood.v1.AgentService/Join", NOBODY),
    (ACKNOWLEDGE, AGENT),
    ("/lastgood.v1.AgentService/Renew", AGENT),
    ("/lastgood.v1.AgentService/Session", AGENT),
    ("/lastgood.v1.OperatorService/ApplyFleet", OPERATOR),
    ("/lastgood.v1.OperatorService/GetFleet", OPERATOR),
    ("/lastgood.v1.OperatorService/ListReleases", OPERATOR),
    ("/lastgood.v1.OperatorService/CreateRelease", OPERATOR),
    ("/lastgood.v1.OperatorService/DiffReleases", OPERATOR),
    ("/lastgood.v1.OperatorService/MarkRelease", OPERATOR),
    ("/lastgood.v1.OperatorService/PinRelease", OPERATOR),
    ("/lastgood.v1.OperatorService/PruneSnapshots", OPERATOR),
    ("/lastgood.v1.OperatorService/SetFreeze", OPERATOR),
    ("/lastgood.v1.OperatorService/ListAgents", OPERATOR),
    ("/lastgood.v1.OperatorService/Doctor", OPERATOR),
    ("/lastgood.v1.OperatorService/CreateJoinToken", OPERATOR),
    ("/lastgood.v1.OperatorService/RevokeAgent", OPERATOR),
    ("/lastgood.v1.OperatorService/AcknowledgeHost", OPERATOR),
    ("/lastgood.v1.OperatorService/CreatePlan", OPERATOR),
    ("/lastgood.v1.OperatorService/StartOperation", OPERATOR),
    ("/lastgood.v1.OperatorService/GetOperation", OPERATOR),
    ("/lastgood.v1.OperatorService/ListOperations", OPERATOR),
    ("/lastgood.v1.OperatorService/WatchOperation", OPERATOR),
    ("/lastgood.v1.OperatorService/PauseOperation", OPERATOR),
    ("/lastgood.v1.OperatorService/ResumeOperation", OPERATOR),
    ("/lastgood.v1.OperatorService/AbortOperation", OPERATOR),
    ("/lastgood.v1.OperatorService/RetryOperation", OPERATOR),
    ("/lastgood.v1.OperatorService/PromoteOperation", OPERATOR),
    ("/lastgood.v1.OperatorService/ListProposals", OPERATOR),
    ("/lastgood.v1.OperatorService/ApproveOperation", OPERATOR),
    ("/lastgood.v1.OperatorService/RejectOperation", OPERATOR),
    ("/lastgood.v1.OperatorService/TrySources", OPERATOR),
    ("/grpc.health.v1.Health/Check", BOTH),
    ("/grpc.health.v1.Health/Watch", BOTH),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", OPERATOR),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", OPERATOR),
];

/// The connection that a call came by. Every call that reached a handler has one.
///
/// # Errors
/// `UNAUTHENTICATED` for a request that came in by another door than [`accept`](crate::accept).
pub fn connection<T>(request: &Request<T>) -> Result<&Peer, Status> {
    request.extensions().get().ok_or_else(nobody)
}

/// Who made a call: what its certificate says.
///
/// # Errors
/// `UNAUTHENTICATED` where there is none.
pub fn peer<T>(request: &Request<T>) -> Result<&PeerIdentity, Status> {
    connection(request)?.member().ok_or_else(nobody)
}

/// The host whose agent made a call: the only host that the call may be about.
///
/// # Errors
/// As [`peer`]; `PERMISSION_DENIED` for anybody but an agent.
pub fn agent<T>(request: &Request<T>) -> Result<HostName, Status> {
    let identity = &peer(request)?.identity;
    match identity.role() {
        Role::Agent => HostName::new(identity.name())
            .map_err(|error| Status::invalid_argument(error.to_string())),
        Role::Operator | Role::Coordinator => {
            Err(Status::permission_denied(format!("{identity} is no agent")))
        }
    }
}

/// Holds every call to the table. Goes around all services of the server.
#[derive(Clone, Debug)]
pub struct RoleLayer {
    identities: Arc<Identities>,
}

impl RoleLayer {
    /// Agents are held to that record.
    pub const fn new(identities: Arc<Identities>) -> Self {
        Self { identities }
    }
}

impl<S> tower::Layer<S> for RoleLayer {
    type Service = RoleService<S>;

    fn layer(&self, inner: S) -> RoleService<S> {
        RoleService { inner, identities: self.identities.clone() }
    }
}

/// See [`RoleLayer`].
#[derive(Clone, Debug)]
pub struct RoleService<S> {
    inner: S,
    identities: Arc<Identities>,
}

impl<S, B, R> Service<http::Request<B>> for RoleService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        match check(request.uri().path(), request.extensions().get(), &self.identities) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(status) => Box::pin(async move { Ok(status.into_http()) }),
        }
    }
}

fn check(path: &str, peer: Option<&Peer>, identities: &Identities) -> Result<(), Status> {
    let peer = peer.ok_or_else(nobody)?;
    let caller =
        peer.member().map_or(Caller::Nobody, |member| Caller::Member(member.identity.role()));
    let verdict = judge(path, caller).and_then(|()| match peer.member() {
        Some(member) if member.identity.role() == Role::Agent => counts(path, member, identities),
        Some(_) | None => Ok(()),
    });
    if let Err(status) = &verdict {
        tracing::warn!(%peer, path, "call refused: {}", status.message());
    }
    verdict
}

fn judge(path: &str, caller: Caller) -> Result<(), Status> {
    match TABLE.iter().find(|(rpc, _)| *rpc == path) {
        Some((_, callers)) if callers.contains(&caller) => Ok(()),
        Some(_) => Err(match caller {
            Caller::Nobody => nobody(),
            Caller::Member(role) => {
                Status::permission_denied(format!("{path} is not for the role {role}"))
            }
        }),
        // Whoever is nobody learns nothing of what there is.
        None if caller == Caller::Nobody => Err(nobody()),
        None => Err(Status::unimplemented(format!(
            "this coordinator has no {path}; it may be older than what asks for it"
        ))),
    }
}

/// Whether the certificate of an agent counts for that call.
fn counts(path: &str, member: &PeerIdentity, identities: &Identities) -> Result<(), Status> {
    let host = HostName::new(member.identity.name())
        .map_err(|error| Status::permission_denied(error.to_string()))?;
    match identities.standing(&host, member) {
        Standing::Good => Ok(()),
        Standing::Pending if path == ACKNOWLEDGE => Ok(()),
        refused @ (Standing::Pending
        | Standing::Replaced { .. }
        | Standing::Dropped
        | Standing::Revoked { .. }
        | Standing::ByHand) => Err(Status::permission_denied(standing_words(&host, &refused))),
    }
}

fn nobody() -> Status {
    Status::unauthenticated(
        "the connection shows no certificate; the only call without one is Join",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;
    use tonic::Code;

    use super::*;
    use crate::journal::memory::{MemoryDisk, MemoryJournal};

    const CALLERS: [Caller; 4] = [
        Caller::Nobody,
        Caller::Member(Role::Operator),
        Caller::Member(Role::Agent),
        Caller::Member(Role::Coordinator),
    ];

    /// The path and the service of every RPC that the coordinator serves.
    fn rpcs() -> Vec<(String, String)> {
        let sets = [
            proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut rpcs = Vec::new();
        for file in sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).unwrap().file) {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                for method in &service.method {
                    rpcs.push((format!("/{name}/{}", method.name()), name.clone()));
                }
            }
        }
        rpcs
    }

    #[test]
    fn p09_every_rpc_has_exactly_one_row_and_every_row_an_rpc() {
        let rpcs: BTreeSet<_> = rpcs().into_iter().map(|(path, _)| path).collect();
        let rows: BTreeSet<_> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(rpcs, rows);
        assert_eq!(rows.len(), TABLE.len());
    }

    #[test]
    fn p09_every_rpc_is_open_to_exactly_its_roles() {
        for (path, service) in rpcs() {
            let open_to: &[Caller] = match service.as_str() {
                "lastgood.v1.AgentService" if path.ends_with("/Join") => NOBODY,
                "lastgood.v1.AgentService" => AGENT,
                "lastgood.v1.OperatorService" => OPERATOR,
                "grpc.health.v1.Health" => BOTH,
                "grpc.reflection.v1.ServerReflection"
                | "grpc.reflection.v1alpha.ServerReflection" => OPERATOR,
                other => panic!("say here who may call {other}"),
            };
            for caller in CALLERS {
                match judge(&path, caller) {
                    Ok(()) => assert!(open_to.contains(&caller), "{path} {caller}"),
                    Err(status) => {
                        assert!(!open_to.contains(&caller), "{path} {caller}");
                        let code = match caller {
                            Caller::Nobody => Code::Unauthenticated,
                            Caller::Member(_) => Code::PermissionDenied,
                        };
                        assert_eq!(status.code(), code);
                    }
                }
            }
        }
    }

    #[test]
    fn p09_a_path_that_is_only_almost_a_row_is_refused() {
        for path in [
            "",
            "/",
            "/lastgood.v1.AgentService",
            "/lastgood.v1.AgentService/",
            "/lastgood.v1.AgentService/session",
            "/lastgood.v1.AgentService/Session/",
            "//lastgood.v1.AgentService/Session",
            "/lastgood.v1.AgentService/%53ession",
            "/lastgood.v1.AgentService/join",
            "/lastgood.v1.OperatorService/Join",
        ] {
            for caller in CALLERS {
                let code = match caller {
                    Caller::Nobody => Code::Unauthenticated,
                    Caller::Member(_) => Code::Unimplemented,
                };
                assert_eq!(judge(path, caller).unwrap_err().code(), code, "{path}");
            }
        }
    }

    #[test]
    fn a_request_without_a_connection_of_ours_is_nobodys() {
        let journal = MemoryJournal::open(&MemoryDisk::default(), 0);
        let identities = Identities::load(Arc::new(journal)).unwrap();
        let refused = check(TABLE[0].0, None, &identities).unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert_eq!(agent(&Request::new(())).unwrap_err().code(), Code::Unauthenticated);
    }
}
