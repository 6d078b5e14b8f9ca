//! A coordinator and its agents in one process, over real mTLS on loopback, with real journals and ledgers.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent::{
    Agent,
    hands::Hands,
    host::{Host, learning::Pace},
};
use coordinator::{Coordinator, alerts::AlertsConfig, journal::SledJournal};
use proto::{
    policy::Policy,
    tls::{self, Ca, Identity, IdentityDir, Role, Validity},
    v1::{self, operator_service_client::OperatorServiceClient},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::{eventually, hands::COMPONENT};

/// The fleet, and the domain of its certificates.
pub const FLEET: &str = "test";

/// Long enough that nobody is told of its end.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

/// What alerts have to come with.
pub const ALERTS_TOKEN: &str = "a-token-that-nobody-guesses";

/// A client of the operator service.
pub type Client = OperatorServiceClient<Channel>;

/// See the module.
#[derive(Debug)]
pub struct Cluster {
    dir: TempDir,
    pub ca: Ca,
    /// In a runtime of its own: dropping that ends everything of it at once, as a kill does.
    coordinator: Option<(Runtime, Coordinator)>,
    pub address: SocketAddr,
    /// Where alerts are posted to.
    pub alerts: SocketAddr,
    agents: BTreeMap<String, Agent>,
}

impl Cluster {
    /// A coordinator without a fleet.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ca = Ca::create(FLEET).expect("a CA");
        let mut cluster = Self {
            ca,
            coordinator: None,
            address: "127.0.0.1:0".parse().expect("an address"),
            alerts: "127.0.0.1:0".parse().expect("an address"),
            agents: BTreeMap::new(),
            dir,
        };
        cluster.identity(Role::Coordinator, "coordinator");
        cluster.identity(Role::Operator, "mira");
        cluster.start_coordinator().await;
        cluster
    }

    /// Starts the coordinator, at the address that it had before.
    pub async fn start_coordinator(&mut self) {
        let identity =
            IdentityDir::load(&self.path("coordinator")).expect("the coordinator's identity");
        let journal = self.path("journal");
        let journal = eventually("the journal is free", || {
            let opened = SledJournal::open(&journal, 0).ok();
            async { opened }
        });
        let journal = Arc::new(journal.await);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let address = self.address;
        let token_file = self.path("alerts-token");
        std::fs::write(&token_file, ALERTS_TOKEN).expect("a written token");
        let alerts = Some(AlertsConfig { listen: self.alerts, token_file });
        let start =
            async move { Coordinator::start_with(address, &identity, journal, alerts).await };
        let started = runtime.spawn(start).await.expect("no panic").expect("a coordinator");
        self.address = started.address();
        self.alerts = started.alerts_address().expect("it listens for alerts");
        self.coordinator = Some((runtime, started));
    }

    /// Ends the coordinator.
    pub fn stop_coordinator(&mut self) {
        if let Some((runtime, _)) = self.coordinator.take() {
            runtime.shutdown_background();
        }
    }

    /// An identity of this fleet; answers its directory.
    pub fn identity(&self, role: Role, name: &str) -> PathBuf {
        let dir = self.path(name);
        let identity = Identity::new(FLEET, role, name).expect("a name");
        let hosts = ["127.0.0.1".to_owned()];
        let hosts = if role == Role::Coordinator { &hosts[..] } else { &[] };
        let issued = self.ca.issue(&identity, hosts, Validity::lasting(CERTIFICATE_LIFETIME));
        std::fs::create_dir_all(&dir).expect("a directory");
        issued.expect("a certificate").save(&dir).expect("a saved identity");
        dir
    }

    /// Puts the CA's key beside the coordinator's identity: from now on hosts can join and renew.
    pub fn let_hosts_join(&self) {
        self.ca.save_key(&self.path("coordinator")).expect("a saved key");
    }

    /// Where a host's identity is, or will be.
    pub fn identity_of(&self, host: &str) -> PathBuf {
        self.path(host)
    }

    /// Starts the agent of a host.
    pub fn start_agent<H: Hands>(&mut self, host: &str, hands: Arc<H>) {
        let identity = self.path(host);
        if !identity.exists() {
            self.identity(Role::Agent, host);
        }
        let state = self.state(host);
        let agent =
            Agent::start_with(self.address.to_string(), identity, &state, hands).expect("an agent");
        self.agents.insert(host.to_owned(), agent);
    }

    /// Starts the agent of a host with real files and checks, which learns in this pace.
    pub async fn start_host(&mut self, host: &str, policy: &Policy, pace: Pace) {
        let state = self.state(host);
        let opened = eventually("nobody has the host's store", || {
            let opened = Host::open(policy, String::new(), &state).ok();
            async { opened }
        });
        let hands = Arc::new(opened.await);
        self.ledger_is_free(host).await;
        self.start_agent(host, hands.clone());
        self.agents.get_mut(host).expect("just started").learn(hands, pace);
    }

    /// Ends the agent of a host, as a kill does: nothing more is done or said.
    pub fn stop_agent(&mut self, host: &str) {
        self.agents.remove(host);
    }

    /// Waits until nobody holds a host's ledger: what an aborted agent had in its hands is put down.
    pub fn ledger_is_free(&self, host: &str) -> impl Future<Output = ()> + use<> {
        let dir = self.path(&format!("{host}-state")).join("ledger");
        eventually("the ledger is free", move || {
            let opened = agent::ledger::LedgerFile::open(&dir).ok().map(drop);
            async move { opened }
        })
    }

    /// A client as the operator `mira`.
    pub async fn client(&self) -> Client {
        self.client_as(&self.path("mira")).await
    }

    /// A client with the identity in a directory.
    pub async fn client_as(&self, identity: &Path) -> Client {
        let identity = IdentityDir::load(identity).expect("an identity");
        let config = Arc::new(tls::client_config(&identity).expect("a client's configuration"));
        let channel = tls::connect(&self.address.to_string(), config).await.expect("a connection");
        OperatorServiceClient::new(channel)
            .max_decoding_message_size(proto::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(proto::MESSAGE_BYTES_MAX)
    }

    /// Applies a fleet of one component on these hosts.
    pub async fn apply(&self, hosts: &[&str], change: impl FnOnce(&mut v1::FleetControl)) {
        let mut control = control(hosts);
        change(&mut control);
        let request = v1::ApplyFleetRequest { control: Some(control), dry_run: false };
        self.client().await.apply_fleet(request).await.expect("an applied fleet");
    }

    /// Waits until all these hosts are connected.
    pub async fn connected(&self, hosts: usize) {
        let client = self.client().await;
        eventually("all agents are connected", || {
            let mut client = client.clone();
            async move {
                let request = v1::GetFleetRequest { fleet: FLEET.to_owned() };
                let fleet = client.get_fleet(request).await.ok()?.into_inner();
                (fleet.hosts.iter().filter(|host| host.connected).count() == hosts).then_some(())
            }
        })
        .await;
    }

    /// Takes a host's ledger away, as a replaced disk does. Its agent must be stopped.
    pub fn forget(&self, host: &str) {
        std::fs::remove_dir_all(self.path(&format!("{host}-state"))).expect("a state directory");
    }

    /// The state directory of a host's agent.
    pub fn state(&self, host: &str) -> PathBuf {
        self.path(&format!("{host}-state"))
    }

    /// Where the journal is.
    pub fn journal(&self) -> PathBuf {
        self.path("journal")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A runtime must not be dropped where it would have to wait.
        self.stop_coordinator();
    }
}

/// A fleet of one component on one group of hosts.
pub fn control(hosts: &[&str]) -> v1::FleetControl {
    v1::FleetControl {
        fleet: FLEET.to_owned(),
        environment: "test".to_owned(),
        app: "app".to_owned(),
        groups: vec![v1::Group {
            name: "app".to_owned(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        }],
        components: vec![v1::Component {
            name: COMPONENT.to_owned(),
            groups: vec!["app".to_owned()],
            needs: Vec::new(),
            services: vec!["app".to_owned()],
            stop_within_ms: 5_000,
            ready_within_ms: 5_000,
            stable_for_ms: 0,
            reloads: false,
            hooks: Vec::new(),
            shared: false,
        }],
        rollback: Some(v1::RollbackStrategy {
            batches: vec!["1".to_owned(), "50%".to_owned()],
            budget_failed: 1,
            budget_unknown: 1,
            budget_out: "50%".to_owned(),
            on_failure: v1::OnFailure::Restore.into(),
            late_hosts: v1::LateHosts::Rollback.into(),
            deadline_ms: 60_000,
            soak_ms: 0,
            unknown_after_ms: 5_000,
            traffic_first: true,
        }),
        policy_hashes: std::collections::HashMap::new(),
        traffic: None,
        canary: None,
        triggers: Vec::new(),
    }
}
