//! Where everything of a sandbox is: directories, addresses, identities, the fleet file, the app's trees.
//!
//! ```text
//! <root>/ca  <root>/coordinator/{identity,state}  <root>/operator  <root>/fleet.yaml
//! <root>/hosts/<host>/{agent/identity, policy.yaml, www/ace-crm or edge}
//! <root>/builds/<release>              what a release is made of: every host's source of artefacts
//! ```
//!
//! Each host has an address of its own in 127.0.0.0/8, so that the app has its usual ports on each.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use proto::tls::{Ca, Identity, Role, Validity};
use serde_json::{Value, json};

use super::edge::{self, EdgeArgs, Listen};
use crate::fleet_file;

/// The name of the fleet, its domain and its context.
pub(super) const FLEET: &str = "sandbox";
/// The release that is good, and the one that is not.
pub(super) const GOOD: &str = "v1.0.0";
/// See [`GOOD`].
pub(super) const BAD: &str = "v2.0.0";
/// The name of the source of artefacts.
pub(super) const BUILDS: &str = "builds";
/// The check that does what users do.
const USED: &str = "contacts";
/// The services of the app, with the ports that they have on every host.
pub(super) const SERVICES: [(&str, u16); 3] =
    [("backend", 5000), ("frontend", 3000), ("client-portal", 3001)];
/// Files of a tree that are the same in every release: what an app carries along.
const LIBRARY_FILES: usize = 240;
const LIBRARY_FILE_BYTES: usize = 16 * 1024;
/// A sandbox is used for minutes.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// One host of the sandbox.
#[derive(Clone, Debug)]
pub(super) struct SandboxHost {
    pub name: &'static str,
    pub group: &'static str,
    pub address: IpAddr,
    pub dir: PathBuf,
}

impl SandboxHost {
    /// Whether the app runs there.
    pub(super) fn has_app(&self) -> bool {
        self.group != "edge"
    }

    /// The app's live tree.
    pub(super) fn tree(&self) -> PathBuf {
        self.dir.join("www/ace-crm")
    }

    /// The agent's state.
    pub(super) fn state(&self) -> PathBuf {
        self.dir.join("agent")
    }

    /// The agent's policy file.
    pub(super) fn policy(&self) -> PathBuf {
        self.dir.join("policy.yaml")
    }

    /// The proxy that users come through, where this is the edge.
    pub(super) fn edge(&self) -> EdgeArgs {
        let listen = SERVICES.map(|(name, port)| Listen {
            port: name.to_owned(),
            at: SocketAddr::new(self.address, port),
        });
        EdgeArgs { state: self.dir.join("edge"), listen: listen.into() }
    }

    /// Where one of its services answers.
    pub(super) fn url(&self, port: u16, path: &str) -> String {
        format!("http://{}:{port}{path}", self.address)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub root: PathBuf,
    pub coordinator: SocketAddr,
    pub hosts: Vec<SandboxHost>,
}

const HOSTS: [(&str, &str); 6] = [
    ("crm-b1", "blue"),
    ("crm-b2", "blue"),
    ("crm-g1", "green"),
    ("crm-g2", "green"),
    ("crm-c1", "canary"),
    ("lb-1", "edge"),
];

impl Layout {
    /// A sandbox below `root`, at addresses that another one on this machine is unlikely to have.
    pub(super) fn new(root: PathBuf) -> Self {
        let net = [rand::random_range(64..=250_u8), rand::random_range(1..=250_u8)];
        let address = |last: u8| IpAddr::V4(Ipv4Addr::new(127, net[0], net[1], last));
        let hosts = HOSTS.iter().zip(11..).map(|((name, group), last)| SandboxHost {
            name,
            group,
            address: address(last),
            dir: root.join("hosts").join(name),
        });
        let hosts = hosts.collect();
        Self { coordinator: SocketAddr::new(address(1), 7443), hosts, root }
    }

    /// The hosts that the app runs on.
    pub(super) fn app_hosts(&self) -> impl Iterator<Item = &SandboxHost> {
        self.hosts.iter().filter(|host| host.has_app())
    }

    /// The operator's identity.
    pub(super) fn operator(&self) -> PathBuf {
        self.root.join("operator")
    }

    /// The coordinator's identity and state.
    pub(super) fn coordinator_dir(&self) -> PathBuf {
        self.root.join("coordinator")
    }

    /// Where artefacts are.
    pub(super) fn builds(&self) -> PathBuf {
        self.root.join("builds")
    }

    /// The proxy that users come through.
    pub(super) fn edge_host(&self) -> Option<&SandboxHost> {
        self.hosts.iter().find(|host| !host.has_app())
    }

    /// The fleet file.
    pub(super) fn fleet_file(&self) -> PathBuf {
        self.root.join("fleet.yaml")
    }

    /// Writes everything that is there before the first process starts.
    pub(super) fn write(&self, ctl: &Path) -> anyhow::Result<()> {
        self.write_identities()?;
        for host in self.app_hosts() {
            write_release(&host.tree(), GOOD, 0.0)?;
            for keep in ["uploads", "logs"] {
                fs::create_dir_all(host.tree().join(keep))?;
            }
            fs::write(host.tree().join("uploads/customer.txt"), "kept across releases\n")?;
        }
        fs::create_dir_all(self.builds())?;
        let text = serde_json::to_string_pretty(&self.fleet(ctl))?;
        fs::write(self.fleet_file(), &text)?;
        let fleet = fleet_file::parse(&text).map_err(|problems| {
            let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("the sandbox's own fleet file does not hold: {}", words.join("; "))
        })?;
        for host in &self.hosts {
            let policy = fleet_file::policy(&fleet, host.name)?;
            fs::write(host.policy(), fleet_file::render_policy(&policy))?;
        }
        Ok(())
    }

    fn write_identities(&self) -> anyhow::Result<()> {
        let ca = Ca::create(FLEET).context("creating the sandbox's CA")?;
        ca.save(&self.root.join("ca"))?;
        let issue = |role, name: &str, hosts: &[String], dir: &Path| -> anyhow::Result<()> {
            let identity = Identity::new(FLEET, role, name)?;
            // An agent takes no state directory that is open to others.
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            Ok(ca.issue(&identity, hosts, Validity::lasting(LIFETIME))?.save(dir)?)
        };
        let names = [self.coordinator.ip().to_string()];
        issue(Role::Coordinator, "coordinator", &names, &self.coordinator_dir().join("identity"))?;
        issue(Role::Operator, "sandbox", &[], &self.operator())?;
        for host in &self.hosts {
            issue(Role::Agent, host.name, &[], &host.state().join("identity"))?;
        }
        Ok(())
    }

    /// The fleet file, as JSON: which is YAML.
    fn fleet(&self, ctl: &Path) -> Value {
        let group = |group: &str| -> Vec<&str> {
            self.hosts.iter().filter(|host| host.group == group).map(|host| host.name).collect()
        };
        let mut overrides = serde_json::Map::new();
        for host in self.app_hosts() {
            overrides.insert(host.name.to_owned(), self.host_part(ctl, host));
        }
        let Some(first) = self.app_hosts().next() else { return Value::Null };
        let mut crm = self.host_part(ctl, first);
        if let Some(map) = crm.as_object_mut() {
            map.insert("hosts".to_owned(), json!(["blue", "green", "canary"]));
            map.insert("ready_within".to_owned(), json!("20s"));
            map.insert("stable_for".to_owned(), json!("1s"));
            let samples = json!({ "every": "100ms", "checks": [USED] });
            map.insert("samples".to_owned(), samples);
            map.insert("overrides".to_owned(), Value::Object(overrides));
        }
        json!({
            "version": 1,
            "fleet": FLEET,
            "environment": "sandbox",
            "app": "ace-crm",
            "hosts": {
                "blue": group("blue"), "green": group("green"), "canary": group("canary"), "edge": group("edge"),
            },
            "components": { "crm": crm },
            "sources": { BUILDS: { "directory": self.builds() } },
            "traffic": self.traffic(),
            "canary": {
                "steps": [
                    { "weight": 5, "hold": "6s" }, { "weight": 50, "hold": "4s" }, { "weight": 100 },
                ],
                "compare": ["errors"],
                "min_requests": 40,
                "stale_after": "10s",
            },
            "triggers": {
                "errors": {
                    "source": "probes", "breach": "error_rate > 0.10", "for": "3s",
                    "min_requests": 40, "severity": "critical", "then": "rollback",
                },
            },
            "rollback": {
                "batches": [1, "50%"],
                "budget": { "failed": 1, "unknown": 1, "out": "50%" },
                "on_failure": "restore",
                "late_hosts": "rollback",
                "deadline": "2m",
                "unknown_after": "3s",
            },
        })
    }

    fn traffic(&self) -> Value {
        let Some(edge) = self.edge_host() else { return Value::Null };
        let ports: BTreeMap<&str, u16> = SERVICES.into_iter().collect();
        let addresses: BTreeMap<&str, String> =
            self.app_hosts().map(|host| (host.name, host.address.to_string())).collect();
        let socket = edge::socket(&edge.edge().state);
        json!({
            "through": { "sandbox": { "hosts": "edge", "socket": socket } },
            "ports": ports,
            "slots": ["blue", "green"],
            "drain": "5s",
            "warm": "10m",
            "addresses": addresses,
            "version": { "port": SERVICES[0].0, "path": "/api/health", "version_at": "/version" },
        })
    }

    fn host_part(&self, ctl: &Path, host: &SandboxHost) -> Value {
        let tree = host.tree();
        // An agent that is root takes no command that does not say whom it runs as.
        let user = rustix::process::geteuid().is_root().then_some("root");
        let service = |(name, port): &(&str, u16)| {
            let mut process = json!({
                "command": [ctl, "sandbox-app", "--tree", tree, "--service", name,
                            "--listen", SocketAddr::new(host.address, *port).to_string()],
                "directory": tree,
            });
            if let (Some(user), Some(process)) = (user, process.as_object_mut()) {
                process.insert("user".to_owned(), json!(user));
            }
            json!({ "name": name, "stop_within": "5s", "process": process })
        };
        let check = |(name, port): &(&str, u16)| {
            json!({
                "name": name,
                "http": host.url(*port, "/api/health"),
                "expect": { "status": 200, "json": { "/status": "healthy" }, "version_at": "/version" },
                "every": "200ms",
                "timeout": "2s",
            })
        };
        let mut checks: Vec<Value> = SERVICES.iter().map(check).collect();
        checks.push(json!({
            "name": USED,
            "http": host.url(SERVICES[0].1, "/api/contacts"),
            "expect": { "status": 200 },
            "every": "200ms",
            "timeout": "2s",
        }));
        json!({
            "files": [
                { "tree": tree, "keep": ["uploads", "logs"] },
                { "file": tree.join(".env.production"), "secret": true,
                  "require": ["SUPABASE_URL", "JWT_SECRET", "STRIPE_SECRET_KEY"] },
            ],
            "services": SERVICES.iter().map(service).collect::<Vec<_>>(),
            "checks": checks,
        })
    }
}

/// Copies a release over a tree, as the hand-run procedure does: in place, nothing removed.
pub(super) fn write_release(tree: &Path, version: &str, error_rate: f64) -> anyhow::Result<()> {
    for (service, _) in SERVICES {
        write_service(tree, service, version, json!({ "error_rate": error_rate }))?;
    }
    write_library(tree, version)?;
    let env = format!(
        "SUPABASE_URL=https://{version}.example.invalid\nJWT_SECRET=jwt-{version}\nSTRIPE_SECRET_KEY=stripe-{version}\n"
    );
    Ok(fs::write(tree.join(".env.production"), env)?)
}

/// What a pipeline builds: the same without secrets, which each host has. Its backend fails so many requests once it has
/// answered `after` of them.
pub(super) fn write_build(
    tree: &Path,
    version: &str,
    (error_rate, after): (f64, u64),
) -> anyhow::Result<()> {
    for (service, _) in SERVICES {
        let behaviour = json!({ "error_rate": error_rate, "after": after });
        write_service(tree, service, version, behaviour)?;
    }
    write_library(tree, version)
}

fn write_service(
    tree: &Path,
    service: &str,
    version: &str,
    behaviour: Value,
) -> anyhow::Result<()> {
    let dir = tree.join(service);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("version"), format!("{version}\n"))?;
    Ok(fs::write(dir.join("behaviour.json"), behaviour.to_string())?)
}

fn write_library(tree: &Path, version: &str) -> anyhow::Result<()> {
    let library = tree.join("node_modules");
    fs::create_dir_all(&library)?;
    for number in 0..LIBRARY_FILES {
        let path = library.join(format!("module-{number:03}.js"));
        if !path.exists() {
            let line = format!("// module {number}\n");
            fs::write(path, line.repeat(LIBRARY_FILE_BYTES / line.len()))?;
        }
    }
    fs::write(library.join(format!("only-in-{version}.js")), version)?;
    Ok(())
}
