//! Who may call what: one table, and the layer that holds every call to it.
//!
//! ```text
//! connection (Peer) ─▶ RoleLayer: path × role ─▶ handler: peer(&request), agent(&request)
//!                          └─▶ refused, logged
//! ```
//!
//! Invariant: a call without a row is refused, whoever makes it; a test fails for an RPC of ours without one.
//! Invariant: an agent acts for the host that its certificate names; handlers take the name from [`agent`], never
//! from a message.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use proto::tls::Role;
use tonic::{
    Request, Status,
    codegen::{Service, http},
};

use crate::accept::Peer;

const OPERATOR: &[Role] = &[Role::Operator];
const AGENT: &[Role] = &[Role::Agent];
const BOTH: &[Role] = &[Role::Operator, Role::Agent];

/// Every call that there is, and who may make it.
const TABLE: &[(&str, &[Role])] = &[
    ("/lastgood.v1.AgentService/Session", AGENT),
    ("/lastgood.v1.OperatorService/ApplyFleet", OPERATOR),
    ("/lastgood.v1.OperatorService/GetFleet", OPERATOR),
    ("/lastgood.v1.OperatorService/ListReleases", OPERATOR),
    ("/lastgood.v1.OperatorService/MarkRelease", OPERATOR),
    ("/lastgood.v1.OperatorService/SetFreeze", OPERATOR),
    ("/lastgood.v1.OperatorService/ListAgents", OPERATOR),
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
    ("/grpc.health.v1.Health/Check", BOTH),
    ("/grpc.health.v1.Health/Watch", BOTH),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", OPERATOR),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", OPERATOR),
];

/// Who made a call. Every call that reached a handler has one.
///
/// # Errors
/// `UNAUTHENTICATED` for a request that came in by another door than [`accept`](crate::accept).
pub fn peer<T>(request: &Request<T>) -> Result<&Peer, Status> {
    request.extensions().get().ok_or_else(nobody)
}

/// The host whose agent made a call: the only host that the call may be about.
///
/// # Errors
/// As [`peer`]; `PERMISSION_DENIED` for anybody but an agent.
pub fn agent<T>(request: &Request<T>) -> Result<&str, Status> {
    let identity = peer(request)?.identity();
    match identity.role() {
        Role::Agent => Ok(identity.name()),
        Role::Operator | Role::Coordinator => {
            Err(Status::permission_denied(format!("{identity} is no agent")))
        }
    }
}

/// Holds every call to the table. Goes around all services of the server.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoleLayer;

impl<S> tower::Layer<S> for RoleLayer {
    type Service = RoleService<S>;

    fn layer(&self, inner: S) -> RoleService<S> {
        RoleService { inner }
    }
}

/// See [`RoleLayer`].
#[derive(Clone, Debug)]
pub struct RoleService<S> {
    inner: S,
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
        match check(request.uri().path(), request.extensions().get()) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(status) => Box::pin(async move { Ok(status.into_http()) }),
        }
    }
}

fn check(path: &str, peer: Option<&Peer>) -> Result<(), Status> {
    let identity = peer.ok_or_else(nobody)?.identity();
    let verdict = judge(path, identity.role());
    if let Err(status) = &verdict {
        tracing::warn!(peer = %identity, path, "call refused: {}", status.message());
    }
    verdict
}

fn judge(path: &str, role: Role) -> Result<(), Status> {
    match TABLE.iter().find(|(rpc, _)| *rpc == path) {
        Some((_, roles)) if roles.contains(&role) => Ok(()),
        Some(_) => Err(Status::permission_denied(format!("{path} is not for the role {role}"))),
        None => Err(Status::unimplemented(format!(
            "this coordinator has no {path}; it may be older than what asks for it"
        ))),
    }
}

fn nobody() -> Status {
    Status::unauthenticated("the connection has no identity")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;
    use tonic::Code;

    use super::*;

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
            let open_to: &[Role] = match service.as_str() {
                "lastgood.v1.AgentService" => &[Role::Agent],
                "lastgood.v1.OperatorService" => &[Role::Operator],
                "grpc.health.v1.Health" => &[Role::Agent, Role::Operator],
                "grpc.reflection.v1.ServerReflection"
                | "grpc.reflection.v1alpha.ServerReflection" => &[Role::Operator],
                other => panic!("say here who may call {other}"),
            };
            for role in Role::ALL {
                match judge(&path, role) {
                    Ok(()) => assert!(open_to.contains(&role), "{path} {role}"),
                    Err(status) => {
                        assert!(!open_to.contains(&role), "{path} {role}");
                        assert_eq!(status.code(), Code::PermissionDenied);
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
            "/lastgood.v1.AgentService/Join",
        ] {
            for role in Role::ALL {
                assert_eq!(judge(path, role).unwrap_err().code(), Code::Unimplemented, "{path}");
            }
        }
    }

    #[test]
    fn a_request_without_a_connection_of_ours_is_nobodys() {
        assert_eq!(check(TABLE[0].0, None).unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(agent(&Request::new(())).unwrap_err().code(), Code::Unauthenticated);
    }
}
