//! Both ends of the wire on loopback: who gets in, who does not, what each side says, and when it ends.

use std::time::Instant;

use proto::{
    tls::{Ca, Identity, Issued, Role, Validity, channel, client_config, connect, explain},
    v1,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::TLS13,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use tonic::{Code, transport::Server};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::*;
use crate::{
    identities::Identities,
    journal::memory::{MemoryDisk, MemoryJournal},
    roles::RoleLayer,
};

const DOMAIN: &str = "ace.example.com";
const HOUR: Duration = Duration::from_secs(3600);
/// Long enough for any machine; no test waits for it unless it fails.
const DEADLINE: Duration = Duration::from_secs(20);

fn issue(ca: &Ca, role: Role, validity: Validity) -> Issued {
    let name = match role {
        Role::Operator => "maria",
        Role::Agent => "web-1",
        Role::Coordinator => "main",
    };
    let hosts = match role {
        Role::Coordinator => vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
        Role::Operator | Role::Agent => Vec::new(),
    };
    ca.issue(&Identity::new(ca.domain(), role, name).unwrap(), &hosts, validity).unwrap()
}

fn load(issued: &Issued) -> IdentityDir {
    let dir = tempfile::tempdir().unwrap();
    issued.save(dir.path()).unwrap();
    IdentityDir::load(dir.path()).unwrap()
}

fn member(ca: &Ca, role: Role) -> IdentityDir {
    load(&issue(ca, role, Validity::lasting(HOUR)))
}

fn client(own: &IdentityDir) -> Arc<ClientConfig> {
    Arc::new(client_config(own).unwrap())
}

/// A coordinator with nothing but health and reflection; ends when it is dropped.
struct Running {
    address: String,
    server: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn serve(own: &IdentityDir) -> Running {
    let acceptor = Acceptor::bind("127.0.0.1:0".parse().unwrap(), own).unwrap();
    let address = acceptor.address().to_string();
    let journal = MemoryJournal::open(&MemoryDisk::default(), 0);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .build_v1()
        .unwrap();
    let server = Server::builder()
        .layer(RoleLayer::new(Arc::new(Identities::load(Arc::new(journal)).unwrap())))
        .add_service(tonic_health::server::health_reporter().1)
        .add_service(reflection)
        .serve_with_incoming(acceptor.connections());
    Running { address, server: tokio::spawn(async move { server.await.unwrap() }) }
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("nothing happened before the deadline")
}

/// As [`door`], while the peer goes on.
async fn door_while<F: Future<Output = ()> + Send + 'static>(
    own: &IdentityDir,
    peer: impl FnOnce(SocketAddr) -> F,
) -> Result<Connection, String> {
    let mut acceptor = Acceptor::bind("127.0.0.1:0".parse().unwrap(), own).unwrap();
    tokio::spawn(peer(acceptor.address));
    let (socket, address) = acceptor.listener.accept().await.unwrap();
    let admitted = in_time(admit(&acceptor.tls.now(), &acceptor.limits, socket, address)).await;
    admitted.map_err(|refusal| refusal.to_string())
}

/// What the coordinator makes of the one connection that `peer` opens.
async fn door<F: Future<Output = ()> + Send + 'static>(
    own: &IdentityDir,
    peer: impl FnOnce(SocketAddr) -> F,
) -> Result<Connection, String> {
    let mut acceptor = Acceptor::bind("127.0.0.1:0".parse().unwrap(), own).unwrap();
    let peer = tokio::spawn(peer(acceptor.address));
    let (socket, address) = acceptor.listener.accept().await.unwrap();
    let admitted = in_time(admit(&acceptor.tls.now(), &acceptor.limits, socket, address)).await;
    peer.abort();
    admitted.map_err(|refusal| refusal.to_string())
}

/// A peer that says `bytes` and then only listens.
async fn says(address: SocketAddr, bytes: Vec<u8>) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(&bytes).await.unwrap();
    socket.read_to_end(&mut Vec::new()).await.ok();
}

/// A peer that does TLS as `config` says and then only listens.
async fn handshakes(address: SocketAddr, config: ClientConfig) {
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, socket).await;
    if let Ok(mut tls) = connected {
        tls.read_to_end(&mut Vec::new()).await.ok();
    }
}

/// A client that checks the server against `ca_pem` and nothing else, and shows `identity` if any.
fn bare_client(ca_pem: &str, identity: Option<&Issued>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        Some(issued) => builder.with_client_auth_cert(chain(issued), key(issued)).unwrap(),
        None => builder.with_no_client_auth(),
    }
}

fn chain(issued: &Issued) -> Vec<CertificateDer<'static>> {
    vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap()]
}

fn key(issued: &Issued) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap()
}

/// A ClientHello of 2008: no supported_versions, so TLS 1.2 at most.
fn client_hello_of_tls_1_2() -> Vec<u8> {
    // x25519 and secp256r1; ecdsa_secp256r1_sha256.
    let extensions = [
        &[0x00, 0x0a, 0x00, 0x06, 0x00, 0x04, 0x00, 0x1d, 0x00, 0x17][..],
        &[0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04, 0x03],
        &[0x00, 0x0b, 0x00, 0x02, 0x01, 0x00],
    ]
    .concat();
    let mut body = vec![0x03, 0x03];
    body.extend([7; 32]);
    // No session; ECDHE-ECDSA-AES128-GCM-SHA256; no compression.
    body.extend([0x00, 0x00, 0x02, 0xc0, 0x2b, 0x01, 0x00]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut handshake = vec![0x01, 0x00];
    handshake.extend((body.len() as u16).to_be_bytes());
    handshake.extend(body);
    let mut record = vec![0x16, 0x03, 0x01];
    record.extend((handshake.len() as u16).to_be_bytes());
    record.extend(handshake);
    record
}

#[tokio::test]
async fn a_member_of_the_fleet_gets_through_and_is_known_by_its_certificate() {
    let ca = Ca::create(DOMAIN).unwrap();
    let running = serve(&member(&ca, Role::Coordinator));
    for role in [Role::Operator, Role::Agent] {
        for address in [running.address.clone(), running.address.replace("127.0.0.1", "localhost")]
        {
            let channel = connect(&address, client(&member(&ca, role))).await.unwrap();
            HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
        }
    }
    let own = member(&ca, Role::Agent);
    let config = client_config(&own).unwrap();
    let coordinator = member(&ca, Role::Coordinator);
    let connection = door(&coordinator, |address| handshakes(address, config)).await.unwrap();
    let peer = connection.connect_info();
    assert_eq!(peer.to_string(), "spiffe://ace.example.com/agent/web-1");
    assert_eq!(peer.member(), Some(own.owner()));
    assert!(peer.address().ip().is_loopback());
}

#[tokio::test]
async fn p09_whoever_speaks_anything_but_tls_1_3_is_refused() {
    let own = member(&Ca::create(DOMAIN).unwrap(), Role::Coordinator);
    let http = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec();
    let said = door(&own, |address| says(address, http)).await.unwrap_err();
    assert_eq!(said, "it does not speak TLS");
    let said = door(&own, |address| says(address, client_hello_of_tls_1_2())).await.unwrap_err();
    assert_eq!(said, "it does not speak TLS 1.3");
    let gone = door(&own, |address| async move {
        drop(TcpStream::connect(address).await.unwrap());
    });
    let said = gone.await.unwrap_err();
    assert!(said.contains("broke during the handshake"), "{said}");
}

#[tokio::test]
async fn p09_whoever_is_not_of_the_fleet_is_refused_and_both_sides_say_why() {
    let ca = Ca::create(DOMAIN).unwrap();
    let same_name = Ca::create(DOMAIN).unwrap();
    let neighbour = Ca::create("other.example.com").unwrap();
    // A coordinator that trusts the neighbour's CA too, as one does while CAs change, still keeps to its domain.
    let mut own = issue(&ca, Role::Coordinator, Validity::lasting(HOUR));
    own.ca_pem.push_str(&issue(&neighbour, Role::Agent, Validity::lasting(HOUR)).ca_pem);
    let own = load(&own);
    let running = serve(&own);

    let now = SystemTime::now();
    let past = Validity { from: now - 2 * HOUR, until: now - HOUR };
    let future = Validity { from: now + HOUR, until: now + 2 * HOUR };
    let good = Validity::lasting(HOUR);
    let cases = [
        (issue(&ca, Role::Agent, past), "has expired", "it has expired"),
        (issue(&ca, Role::Operator, future), "not valid yet", "clocks"),
        (issue(&same_name, Role::Agent, good), "not from this fleet's CA", "not from the CA"),
        (issue(&neighbour, Role::Agent, good), "of another domain, other.ex", "fleet's domain"),
    ];
    for (mut issued, at_the_door, at_the_client) in cases {
        issued.ca_pem = issue(&ca, Role::Agent, good).ca_pem;
        let config = bare_client(&issued.ca_pem, Some(&issued));
        let said = door(&own, |address| handshakes(address, config)).await.unwrap_err();
        assert!(said.contains(at_the_door), "{said}");

        // The neighbour's own client would turn our coordinator down first, so this one is bare too.
        let mut config = bare_client(&issued.ca_pem, Some(&issued));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        let error = connect(&running.address, Arc::clone(&config)).await.unwrap_err();
        assert!(error.to_string().contains("refused this certificate"), "{error}");
        assert!(error.to_string().contains(at_the_client), "{error}");
        // The same words come out of a call on a lazy channel.
        let lazy = channel(&running.address, config).unwrap();
        let status =
            HealthClient::new(lazy).check(HealthCheckRequest::default()).await.unwrap_err();
        assert_eq!(explain(&status), error.to_string());
    }
}

#[tokio::test]
async fn p09_whoever_shows_no_certificate_is_nobody_and_a_coordinators_is_refused() {
    let ca = Ca::create(DOMAIN).unwrap();
    let coordinator = issue(&ca, Role::Coordinator, Validity::lasting(HOUR));
    let own = load(&coordinator);
    let config = bare_client(&coordinator.ca_pem, None);
    let connection = door(&own, |address| handshakes(address, config)).await.unwrap();
    assert_eq!(connection.connect_info().member(), None);
    let config = bare_client(&coordinator.ca_pem, Some(&coordinator));
    let said = door(&own, |address| handshakes(address, config)).await.unwrap_err();
    assert_eq!(said, "its certificate is for another role");
}

fn stranger(ca_pem: &str) -> Arc<ClientConfig> {
    let mut config = bare_client(ca_pem, None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

#[tokio::test]
async fn p09_nobody_may_call_nothing_but_join() {
    let ca = Ca::create(DOMAIN).unwrap();
    let coordinator = issue(&ca, Role::Coordinator, Validity::lasting(HOUR));
    let running = serve(&load(&coordinator));
    let channel = connect(&running.address, stranger(&coordinator.ca_pem)).await.unwrap();
    let check = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await;
    let refused = check.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("only call without one is Join"), "{refused}");
    let mut operators = v1::operator_service_client::OperatorServiceClient::new(channel.clone());
    let refused = operators.list_agents(v1::ListAgentsRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // Let through by the table; this server has no service behind it.
    let mut agents = v1::agent_service_client::AgentServiceClient::new(channel);
    let answer = agents.join(v1::JoinRequest::default()).await.unwrap_err();
    assert_eq!(answer.code(), Code::Unimplemented);
}

#[tokio::test]
async fn p09_a_stranger_who_sends_more_than_a_join_has_is_cut() {
    let ca = Ca::create(DOMAIN).unwrap();
    let coordinator = issue(&ca, Role::Coordinator, Validity::lasting(HOUR));
    let own = load(&coordinator);
    let config = bare_client(&coordinator.ca_pem, None);
    let flood = |address| async move {
        let socket = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
        while tls.write_all(&[0; 1024]).await.is_ok() {}
    };
    let mut connection = door_while(&own, flood).await.unwrap();
    let mut read = 0;
    let mut buffer = [0; 1024];
    let error = in_time(async {
        loop {
            match connection.read(&mut buffer).await {
                Ok(count) => read += count,
                Err(error) => break error,
            }
        }
    })
    .await;
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(read <= STRANGER_BYTES_MAX && read > STRANGER_BYTES_MAX / 2, "{read}");
}

#[tokio::test]
async fn strangers_do_not_take_the_places_of_members() {
    let ca = Ca::create(DOMAIN).unwrap();
    let coordinator = issue(&ca, Role::Coordinator, Validity::lasting(HOUR));
    let running = serve(&load(&coordinator));
    let mut strangers = Vec::new();
    let full = in_time(async {
        loop {
            match connect(&running.address, stranger(&coordinator.ca_pem)).await {
                Ok(channel) => strangers.push(channel),
                Err(error) => break error,
            }
        }
    })
    .await;
    assert!(full.to_string().contains("closed the connection"), "{full}");
    assert!(strangers.len() >= 64, "{}", strangers.len());
    let channel = connect(&running.address, client(&member(&ca, Role::Agent))).await.unwrap();
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_new_certificate_of_our_own_is_taken_up_without_a_restart() {
    let ca = Ca::create(DOMAIN).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let put = |issued: &Issued| issued.save(dir.path()).unwrap();
    put(&issue(&ca, Role::Coordinator, Validity::lasting(HOUR)));
    let running = serve(&IdentityDir::load(dir.path()).unwrap());
    let shown = || async {
        let config = bare_client(&issue(&ca, Role::Agent, Validity::lasting(HOUR)).ca_pem, None);
        let socket = TcpStream::connect(&running.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
        let chain = tls.get_ref().1.peer_certificates().unwrap().to_vec();
        PeerIdentity::from_der(&chain[0]).unwrap().serial
    };
    let first = shown().await;
    assert_eq!(first, IdentityDir::load(dir.path()).unwrap().serial());
    // Half of a new one: what was there before is shown.
    let new = issue(&ca, Role::Coordinator, Validity::lasting(HOUR));
    std::fs::write(dir.path().join(proto::tls::CERT_FILE), &new.cert_pem).unwrap();
    assert_eq!(shown().await, first);
    put(&new);
    let second = shown().await;
    assert_ne!(second, first);
    assert_eq!(second, IdentityDir::load(dir.path()).unwrap().serial());
}

/// Answers one TLS handshake with `issued`, as somebody would who sits in the coordinator's place.
async fn impostor(issued: &Issued) -> String {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain(issued), key(issued))
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(config)).accept(socket).await.ok();
    });
    address
}

#[tokio::test]
async fn p09_a_client_speaks_to_nobody_but_its_fleets_coordinator() {
    let ca = Ca::create(DOMAIN).unwrap();
    let neighbour = Ca::create("other.example.com").unwrap();
    let good = Validity::lasting(HOUR);
    let now = SystemTime::now();
    let named = |host: &str| {
        let identity = Identity::new(DOMAIN, Role::Coordinator, "main").unwrap();
        ca.issue(&identity, &[host.to_owned()], good).unwrap()
    };
    let past = Validity { from: now - 2 * HOUR, until: now - HOUR };
    let mut own = issue(&ca, Role::Agent, good);
    own.ca_pem.push_str(&issue(&neighbour, Role::Agent, good).ca_pem);
    let cases = [
        (issue(&ca, Role::Agent, good), "for another role"),
        (issue(&neighbour, Role::Coordinator, good), "of another domain, other.example.com"),
        (issue(&Ca::create(DOMAIN).unwrap(), Role::Coordinator, good), "not from this fleet's CA"),
        (issue(&ca, Role::Coordinator, past), "has expired"),
        (named("elsewhere.example.com"), "not for the address that was dialled"),
    ];
    for (issued, words) in cases {
        let address = impostor(&issued).await;
        let error = in_time(connect(&address, client(&load(&own)))).await.unwrap_err().to_string();
        assert!(error.contains("is not this fleet's coordinator"), "{error}");
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_is_named_with_the_reason() {
    let ca = Ca::create(DOMAIN).unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let lazy = channel(&closed.to_string(), client(&member(&ca, Role::Operator))).unwrap();
    let status = HealthClient::new(lazy).check(HealthCheckRequest::default()).await.unwrap_err();
    let said = explain(&status);
    assert!(said.contains(&format!("cannot reach the coordinator at {closed}: ")), "{said}");
    assert!(said.contains("refused"), "{said}");
    for bad in ["", "localhost", "localhost:x", "a b:1", ":7443", "https://localhost:7443"] {
        let refused = channel(bad, client(&member(&ca, Role::Operator))).unwrap_err();
        assert!(refused.to_string().contains("write it like"), "{refused}");
    }
}

#[tokio::test]
async fn a_live_connection_is_cut_when_its_certificate_ends() {
    let ca = Ca::create(DOMAIN).unwrap();
    let running = serve(&member(&ca, Role::Coordinator));
    let own = load(&issue(&ca, Role::Agent, Validity::lasting(Duration::from_secs(3))));
    let channel = connect(&running.address, client(&own)).await.unwrap();
    let mut health = HealthClient::new(channel);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();

    // Nothing is sent: only the end of the certificate can end this.
    let ended = in_time(watch.message()).await.unwrap_err();
    let late = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64
        - own.not_after_unix_ms();
    assert!((-100..5_000).contains(&late), "{late} ms after the end");
    assert!(explain(&ended).contains("connection to the coordinator was lost"), "{ended:?}");

    // And it is not made again.
    let status = in_time(async {
        loop {
            let status = health.check(HealthCheckRequest::default()).await.unwrap_err();
            if explain(&status).contains("it has expired") {
                break status;
            }
        }
    })
    .await;
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn silent_peers_do_not_keep_others_out() {
    let ca = Ca::create(DOMAIN).unwrap();
    let running = serve(&member(&ca, Role::Coordinator));
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(&running.address).await.unwrap());
    }
    let began = Instant::now();
    let channel = connect(&running.address, client(&member(&ca, Role::Agent))).await.unwrap();
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
    assert!(began.elapsed() < HANDSHAKE_TIMEOUT / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn p09_calls_of_another_role_are_refused_on_the_wire() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    let ca = Ca::create(DOMAIN).unwrap();
    let running = serve(&member(&ca, Role::Coordinator));
    for (role, code) in [(Role::Operator, None), (Role::Agent, Some(Code::PermissionDenied))] {
        let channel = connect(&running.address, client(&member(&ca, role))).await.unwrap();
        let mut reflection = ServerReflectionClient::new(channel);
        let answer = reflection.server_reflection_info(tokio_stream::empty()).await;
        assert_eq!(answer.err().map(|status| status.code()), code, "{role}");
    }
}

#[tokio::test]
async fn the_door_closes_with_the_stream() {
    let ca = Ca::create(DOMAIN).unwrap();
    let acceptor =
        Acceptor::bind("127.0.0.1:0".parse().unwrap(), &member(&ca, Role::Coordinator)).unwrap();
    let address = acceptor.address();
    drop(acceptor.connections());
    in_time(async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
