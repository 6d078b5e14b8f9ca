//! How a host joins the fleet, keeps its certificate, and is shut out.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use agent::{
    join::{Join, JoinError},
    order::Verb,
};
use coordinator::{
    identities::{Identities, IdentitiesError, IdentityEvent, TokenHash},
    journal::SledJournal,
};
use engine::{HostName, Timestamp};
use proto::{
    policy,
    status::read,
    tls::{Identity, IdentityDir, Role, Validity},
    v1::{self, AgentIdentity, OperationResult, watch_operation_response::Event},
};
use tests::{
    cluster::{Cluster, FLEET},
    eventually,
    hands::ScriptedHands,
};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    operations::{fleet, fleet_on, rollback},
    refusals::session,
};

const HOST: &str = "h1";

fn policy_text(host: &str) -> String {
    format!("version: 1\nfleet: {FLEET}\nhost: {host}\n")
}

/// A coordinator that lets `h1` and `h2` join; a directory for what the hosts have.
async fn cluster() -> (Cluster, tempfile::TempDir) {
    let cluster = Cluster::start().await;
    cluster.let_hosts_join();
    let hosts = [HOST, "h2"];
    let hashes = hosts.map(|host| (host.to_owned(), policy::hash(policy_text(host).as_bytes())));
    cluster.apply(&hosts, |control| control.policy_hashes.extend(hashes)).await;
    (cluster, tempfile::tempdir().unwrap())
}

async fn token(cluster: &Cluster, host: &str) -> v1::CreateJoinTokenResponse {
    let request = v1::CreateJoinTokenRequest { host: host.to_owned(), ttl_ms: 0 };
    cluster.client().await.create_join_token(request).await.unwrap().into_inner()
}

/// What the printed line says, for a host whose identity goes to `identity`.
fn line(
    cluster: &Cluster,
    made: &v1::CreateJoinTokenResponse,
    dir: &Path,
    identity: PathBuf,
) -> Join {
    let policy = dir.join(format!("{}-policy.yaml", made.host));
    std::fs::write(&policy, policy_text(&made.host)).unwrap();
    Join {
        coordinator: cluster.address.to_string(),
        host: made.host.clone(),
        ca_hash: made.ca_hash.parse().unwrap(),
        policy_hash: made.policy_hash.clone(),
        policy,
        identity,
    }
}

async fn agent_view(cluster: &Cluster, host: &str) -> v1::AgentView {
    let agents = cluster.client().await.list_agents(v1::ListAgentsRequest {}).await.unwrap();
    agents.into_inner().agents.into_iter().find(|row| row.host == host).unwrap()
}

async fn revoke(cluster: &Cluster, host: &str, reason: &str) -> v1::RevokeAgentResponse {
    let request = v1::RevokeAgentRequest { host: host.to_owned(), reason: reason.to_owned() };
    cluster.client().await.revoke_agent(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_joins_with_its_own_key_and_has_a_session() {
    let (mut cluster, dir) = cluster().await;
    let before = agent_view(&cluster, HOST).await;
    assert_eq!((before.identity(), before.connected), (AgentIdentity::None, false));
    let made = token(&cluster, HOST).await;
    assert!(made.token.len() >= 4 + 32 && made.expires_unix_ms > 0, "{made:?}");
    assert!(agent_view(&cluster, HOST).await.note.contains("may join until"));
    let join = line(&cluster, &made, dir.path(), cluster.identity_of(HOST));
    let joined = join.run(&made.token).await.unwrap();
    assert_eq!(joined.fleet, FLEET);
    let own = IdentityDir::load(&join.identity).unwrap();
    assert_eq!(own.identity().to_string(), format!("spiffe://{FLEET}/agent/{HOST}"));
    let after = agent_view(&cluster, HOST).await;
    assert_eq!(after.identity(), AgentIdentity::Joined);
    assert_eq!(after.certificate_ends_unix_ms, joined.ends_unix_ms);

    cluster.start_agent(HOST, ScriptedHands::new("v1", &["v1"]));
    cluster.connected(1).await;
    // And it is known after a restart.
    cluster.stop_coordinator();
    cluster.start_coordinator().await;
    cluster.connected(1).await;
    assert_eq!(agent_view(&cluster, HOST).await.identity(), AgentIdentity::Joined);
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_a_wrong_used_or_foreign_token_lets_nobody_in() {
    let (cluster, dir) = cluster().await;
    let made = token(&cluster, HOST).await;
    let join = line(&cluster, &made, dir.path(), cluster.identity_of(HOST));
    let other = line(&cluster, &made, dir.path(), dir.path().join("other"));
    let refused = |error: JoinError| {
        let JoinError::Refused { why, .. } = error else { panic!("{error}") };
        why
    };
    let unknown = refused(join.run("lgj_0000").await.unwrap_err());
    assert!(unknown.contains("no such token") && unknown.contains("ctl agent token create"));
    // Whether a host exists, or waits, is nothing that a wrong token tells.
    for host in ["h2", "nowhere"] {
        let policy = dir.path().join("p.yaml");
        std::fs::write(&policy, policy_text(host)).unwrap();
        let policy_hash = policy::hash(policy_text(host).as_bytes());
        let identity = dir.path().join("stranger");
        let join = Join { host: host.to_owned(), policy, policy_hash, identity, ..join.clone() };
        assert_eq!(refused(join.run(&made.token).await.unwrap_err()), unknown, "{host}");
    }
    join.run(&made.token).await.unwrap();
    let used = refused(other.run(&made.token).await.unwrap_err());
    assert!(used.contains("has been used"), "{used}");
    assert!(IdentityDir::load(&other.identity).is_err(), "nothing was put into use");
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_an_expired_token_lets_nobody_in() {
    let (mut cluster, dir) = cluster().await;
    let made = token(&cluster, HOST).await;
    cluster.stop_coordinator();
    let (path, host) = (cluster.journal(), HostName::new(HOST).unwrap());
    let journal = eventually("the journal is free", || {
        let opened = SledJournal::open(&path, 0).ok();
        async { opened }
    });
    let identities = Identities::load(Arc::new(journal.await)).unwrap();
    let (hash, by) = (TokenHash::of("lgj_old"), "mira".to_owned());
    let (at, expires) = (Timestamp(1_000), Timestamp(2_000));
    let old = IdentityEvent::TokenMade { hash, by, at, expires };
    let change = |_: &_| Ok::<_, IdentitiesError>((vec![old], ()));
    identities.change(&host, change).await.unwrap();
    drop(identities);
    cluster.start_coordinator().await;
    let join = line(&cluster, &made, dir.path(), cluster.identity_of(HOST));
    let error = join.run("lgj_old").await.unwrap_err().to_string();
    assert!(error.contains("expired"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_whoever_fails_too_often_is_not_heard() {
    let (cluster, dir) = cluster().await;
    let made = token(&cluster, HOST).await;
    let join = line(&cluster, &made, dir.path(), cluster.identity_of(HOST));
    for _ in 0..10 {
        let error = join.run("lgj_guess").await.unwrap_err().to_string();
        assert!(error.contains("no such token"), "{error}");
    }
    let error = join.run(&made.token).await.unwrap_err().to_string();
    assert!(error.contains("too many"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_of_two_joins_with_one_token_one_is_the_host_and_the_other_is_told() {
    let (mut cluster, dir) = cluster().await;
    let made = token(&cluster, HOST).await;
    let joins = ["a", "b"].map(|name| line(&cluster, &made, dir.path(), dir.path().join(name)));
    let (a, b) = tokio::join!(joins[0].run(&made.token), joins[1].run(&made.token));
    let (winner, loser, why) = match (a, b) {
        (Ok(_), Err(why)) => (&joins[0], &joins[1], why.to_string()),
        (Err(why), Ok(_)) => (&joins[1], &joins[0], why.to_string()),
        other => panic!("{other:?}"),
    };
    assert!(
        why.contains("another join has shown this token") || why.contains("has been used"),
        "{why}"
    );
    assert!(IdentityDir::load(&loser.identity).is_err());
    std::fs::rename(&winner.identity, cluster.identity_of(HOST)).unwrap();
    cluster.start_agent(HOST, ScriptedHands::new("v1", &["v1"]));
    cluster.connected(1).await;
}

/// Lets so many connections through to `to`, and cuts all others off.
async fn lets_through(to: SocketAddr, connections: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (mut from, _) = listener.accept().await.unwrap();
            if number < connections {
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(to).await.unwrap();
                    tokio::io::copy_bidirectional(&mut from, &mut to).await.ok();
                });
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_was_cut_off_goes_on_with_the_same_token_and_counts_only_then() {
    let (mut cluster, dir) = cluster().await;
    let made = token(&cluster, HOST).await;
    let join = line(&cluster, &made, dir.path(), cluster.identity_of(HOST));
    // The certificate comes, and the connection with it does not.
    let cut_off =
        Join { coordinator: lets_through(cluster.address, 1).await.to_string(), ..join.clone() };
    let error = cut_off.run(&made.token).await.unwrap_err();
    assert!(matches!(error, JoinError::NotTaken(_)), "{error}");
    assert!(IdentityDir::load(&join.identity).is_err(), "nothing was put into use");
    let generations = join.identity.join("generations");
    let kept = std::fs::read_dir(&generations).unwrap().next().unwrap().unwrap().path();
    let refused = session(&cluster, &kept).await;
    assert!(refused.contains("not acknowledged"), "{refused}");
    assert_eq!(agent_view(&cluster, HOST).await.identity(), AgentIdentity::None);
    // Meanwhile somebody else does not get in with it.
    let other = line(&cluster, &made, dir.path(), dir.path().join("other"));
    let error = other.run(&made.token).await.unwrap_err().to_string();
    assert!(error.contains("another join has shown this token"), "{error}");

    // The coordinator's restart changes nothing of that.
    cluster.stop_coordinator();
    cluster.start_coordinator().await;
    join.run(&made.token).await.unwrap();
    let serial = IdentityDir::load(&join.identity).unwrap().serial().to_owned();
    assert_eq!(serial, IdentityDir::load(&kept).unwrap().serial(), "the same certificate again");
    // The last answer was lost: once more does no harm, and is the same.
    std::fs::remove_dir_all(&join.identity).unwrap();
    let error = join.run(&made.token).await.unwrap_err().to_string();
    assert!(error.contains("has been used"), "another key: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_another_policy_than_the_lines_is_refused_with_the_mend_before_anything_is_sent() {
    let (cluster, dir) = cluster().await;
    let made = token(&cluster, HOST).await;
    let join = line(&cluster, &made, dir.path(), cluster.identity_of(HOST));
    std::fs::write(&join.policy, format!("{}# changed\n", policy_text(HOST))).unwrap();
    let error = join.run(&made.token).await.unwrap_err();
    assert!(matches!(error, JoinError::OtherPolicy { .. }));
    assert!(error.to_string().contains("ctl policy render --host h1"), "{error}");
    assert!(error.to_string().contains("the token still holds"), "{error}");
    std::fs::write(&join.policy, policy_text(HOST)).unwrap();
    join.run(&made.token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_an_impostor_in_the_coordinators_place_gets_no_token() {
    let (cluster, dir) = cluster().await;
    // The same names, another CA.
    let impostor = Cluster::start().await;
    let made = token(&cluster, HOST).await;
    let join = line(&cluster, &made, dir.path(), cluster.identity_of(HOST));
    let tricked = Join { coordinator: impostor.address.to_string(), ..join.clone() };
    let error = tricked.run(&made.token).await.unwrap_err();
    let JoinError::Dial(source) = &error else { panic!("{error}") };
    let said = source.to_string();
    assert!(said.contains("its CA has the hash sha256:"), "{said}");
    assert!(said.contains(&made.ca_hash), "{said}");
    assert!(error.to_string().contains("the token still holds"), "{error}");
    join.run(&made.token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_cas_key_nobody_joins_and_the_way_round_is_named() {
    let cluster = Cluster::start().await;
    cluster
        .apply(&[HOST], |control| {
            control.policy_hashes.insert(HOST.to_owned(), policy::hash(b"x"));
        })
        .await;
    let mut client = cluster.client().await;
    let request = |host: &str, ttl_ms| v1::CreateJoinTokenRequest { host: host.to_owned(), ttl_ms };
    let refused = client.create_join_token(request(HOST, 0)).await.unwrap_err();
    let told = read(&refused).unwrap();
    assert!(told.what.contains("no ca-key.pem"), "{}", told.what);
    assert_eq!(told.mend.unwrap(), "ctl agent issue --host h1 --dir lastgood");
    cluster.let_hosts_join();
    client.create_join_token(request(HOST, 0)).await.unwrap();
    for ttl_ms in [1, 59_999, 3_600_001] {
        let refused = client.create_join_token(request(HOST, ttl_ms)).await.unwrap_err();
        assert!(refused.message().contains("1m to 1h"), "{refused}");
    }
    let refused = client.create_join_token(request("h11", 0)).await.unwrap_err();
    assert!(refused.message().contains("did you mean `h1`"), "{refused}");
}

/// Gives a host a certificate by hand that is due since some time.
fn issue_due(cluster: &Cluster, host: &str) {
    let now = SystemTime::now();
    let validity = Validity {
        from: now - Duration::from_secs(20 * 3600),
        until: now + Duration::from_secs(3600),
    };
    let identity = Identity::new(FLEET, Role::Agent, host).unwrap();
    let issued = cluster.ca.issue(&identity, &[], validity).unwrap();
    issued.save(&cluster.identity_of(host)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_renews_itself_and_the_operation_in_work_does_not_notice() {
    let cluster = Cluster::start().await;
    issue_due(&cluster, HOST);
    let mut fleet = fleet_on(cluster, |_| {}).await;
    let by_hand = IdentityDir::load(&fleet.cluster.identity_of(HOST)).unwrap().not_after_unix_ms();

    // Nobody can issue yet, which stops nothing.
    fleet.hands[HOST].hold_back(Verb::Verify);
    let id = fleet.begin(rollback("", &[HOST])).await;
    eventually("the host is at work", || {
        let hands = fleet.hands[HOST].clone();
        async move { hands.performed().contains(&"start".to_owned()).then_some(()) }
    })
    .await;
    assert_eq!(agent_view(&fleet.cluster, HOST).await.certificate_ends_unix_ms, by_hand);
    fleet.cluster.let_hosts_join();
    eventually("the host has shown its new certificate", || async {
        let row = agent_view(&fleet.cluster, HOST).await;
        let renewed = row.identity() == AgentIdentity::Joined && row.connected;
        (renewed && row.certificate_ends_unix_ms > by_hand).then_some(())
    })
    .await;
    fleet.hands[HOST].let_go();
    let ended = fleet.ended(&id).await;
    assert_eq!(ended.result(), OperationResult::Verified);

    let request = v1::WatchOperationRequest { operation: id, from_index: 0 };
    let mut events = fleet.client.watch_operation(request).await.unwrap().into_inner();
    while let Some(event) = events.message().await.unwrap() {
        assert!(!matches!(event.event, Some(Event::HostUnknown(_))), "{event:?}");
        if let Some(Event::Noted(noted)) = event.event {
            assert!(!noted.what.contains("out of reach"), "{noted:?}");
        }
    }
    // What it had before counts no more.
    let generations = fleet.cluster.identity_of(HOST).join("generations");
    let now = IdentityDir::load(&fleet.cluster.identity_of(HOST)).unwrap().serial().to_owned();
    let before = std::fs::read_dir(&generations).unwrap().map(|entry| entry.unwrap().path());
    let before: Vec<PathBuf> =
        before.filter(|path| IdentityDir::load(path).unwrap().serial() != now).collect();
    let [before] = &before[..] else { panic!("{before:?}") };
    let refused = session(&fleet.cluster, before).await;
    assert!(refused.contains("was renewed on"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_a_revoked_host_is_cut_off_counts_as_unreachable_and_comes_back_by_joining() {
    let mut fleet = fleet().await;
    fleet.cluster.let_hosts_join();
    let was = revoke(&fleet.cluster, HOST, "the machine was sold").await;
    assert!(was.was_connected);
    eventually("its session is cut", || async {
        (!agent_view(&fleet.cluster, HOST).await.connected).then_some(())
    })
    .await;
    let row = agent_view(&fleet.cluster, HOST).await;
    assert_eq!(row.identity(), AgentIdentity::Revoked);
    assert!(row.note.contains("by mira: the machine was sold"), "{}", row.note);
    let refused = session(&fleet.cluster, &fleet.cluster.identity_of(HOST)).await;
    assert!(refused.contains("shut out") && refused.contains("the machine was sold"), "{refused}");
    let plan =
        fleet.client.create_plan(rollback("", &[])).await.unwrap().into_inner().plan.unwrap();
    let unreachable: Vec<_> =
        plan.hosts.iter().filter(|row| !row.reachable).map(|row| &*row.host).collect();
    assert_eq!(unreachable, [HOST]);
    // A certificate by hand does not bring it back, and a restart does not either.
    let by_hand = fleet.cluster.identity(Role::Agent, "h1-by-hand");
    let identity = Identity::new(FLEET, Role::Agent, HOST).unwrap();
    let validity = Validity::lasting(Duration::from_secs(3600));
    fleet.cluster.ca.issue(&identity, &[], validity).unwrap().save(&by_hand).unwrap();
    fleet.cluster.stop_coordinator();
    fleet.cluster.start_coordinator().await;
    fleet.cluster.connected(3).await;
    let refused = session(&fleet.cluster, &by_hand).await;
    assert!(refused.contains("shut out"), "{refused}");

    let hashes = [(HOST.to_owned(), policy::hash(policy_text(HOST).as_bytes()))];
    let hosts = crate::operations::HOSTS;
    fleet.cluster.apply(&hosts, |control| control.policy_hashes.extend(hashes)).await;
    let made = token(&fleet.cluster, HOST).await;
    let dir = tempfile::tempdir().unwrap();
    let join = line(&fleet.cluster, &made, dir.path(), fleet.cluster.identity_of(HOST));
    join.run(&made.token).await.unwrap();
    // The agent that runs takes it up by itself.
    fleet.cluster.connected(4).await;
    assert_eq!(agent_view(&fleet.cluster, HOST).await.identity(), AgentIdentity::Joined);
    let refused = session(&fleet.cluster, &by_hand).await;
    assert!(refused.contains("only a certificate from a join counts"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_a_new_join_cuts_the_session_of_the_identity_before() {
    let (mut cluster, dir) = cluster().await;
    let made = token(&cluster, HOST).await;
    line(&cluster, &made, dir.path(), cluster.identity_of(HOST)).run(&made.token).await.unwrap();
    cluster.start_agent(HOST, ScriptedHands::new("v1", &["v1"]));
    cluster.connected(1).await;
    // The machine is replaced; the old one still runs.
    let made = token(&cluster, HOST).await;
    let new = line(&cluster, &made, dir.path(), dir.path().join("new"));
    new.run(&made.token).await.unwrap();
    eventually("the old machine is cut off", || async {
        (!agent_view(&cluster, HOST).await.connected).then_some(())
    })
    .await;
    let refused = session(&cluster, &cluster.identity_of(HOST)).await;
    assert!(refused.contains("replaced by a newer one"), "{refused}");
}
