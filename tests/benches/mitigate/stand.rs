//! The fleet that the rollback is measured on, and how a bad release gets there.
//!
//! Invariant: every release goes the users' way: a stated artefact, fetched by each host, deployed to the idle side.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use agent::host::learning::Pace;
use anyhow::{Context as _, ensure};
use ctl::{
    context::{Config, Context},
    fleet_file,
    sandbox::edge::{EdgeArgs, Listen, command, socket},
};
use proto::{
    policy::SourcePolicy,
    v1::{self, create_plan_request::Request},
};
use serde_json::{Value, json};
use tests::cluster::{Client, Cluster, FLEET};

pub(crate) const GOOD: &str = "v1.0.0";
/// Each host has an address of its own; the app has its port on all of them.
const HOSTS: [(&str, &str); 4] =
    [("crm-b1", "blue"), ("crm-b2", "blue"), ("crm-g1", "green"), ("crm-g2", "green")];
const EDGE: &str = "lb-1";
const PORT: u16 = 5000;
/// The share of requests that fail under a bad release.
const ERROR_RATE: f64 = 0.25;
const LIBRARY_FILES: usize = 240;
const ENVIRONMENT: &str =
    "SUPABASE_URL=https://example.invalid\nJWT_SECRET=a\nSTRIPE_SECRET_KEY=b\n";

/// See the module.
pub(crate) struct Stand {
    /// Where users come in.
    pub(crate) front: SocketAddr,
    // Before the directory: the agents end first.
    cluster: Cluster,
    client: Client,
    own: PathBuf,
    edge: Child,
    dir: tempfile::TempDir,
}

impl Stand {
    /// Everything runs, the good release is known as good, and all traffic goes to blue.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let own = std::env::current_exe()?;
        let net = [rand::random_range(64..=250_u8), rand::random_range(1..=250_u8)];
        let address = |last: u8| IpAddr::from([127, net[0], net[1], last]);
        let addresses: BTreeMap<&str, IpAddr> =
            HOSTS.iter().map(|(name, _)| *name).zip((11..).map(address)).collect();
        let front = SocketAddr::new(address(10), PORT);
        let builds = dir.path().join("builds");
        fs::create_dir_all(&builds)?;
        for host in addresses.keys() {
            write_release(&tree(dir.path(), host), GOOD, 0.0)?;
        }

        let cluster = Cluster::start().await;
        let client = cluster.client().await;
        let listen = vec![Listen { port: "backend".to_owned(), at: front }];
        let edge = EdgeArgs { state: dir.path().join("edge"), listen };
        let words = command(&own, &edge);
        let edge = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).spawn()?;
        let mut stand = Self { front, cluster, client, own, edge, dir };
        stand.bring_up(&addresses, &builds).await?;
        Ok(stand)
    }

    async fn bring_up(
        &mut self,
        addresses: &BTreeMap<&str, IpAddr>,
        builds: &Path,
    ) -> anyhow::Result<()> {
        let text = fleet(&self.own, self.dir.path(), addresses).to_string();
        let fleet = fleet_file::parse(&text).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        let control = fleet_file::control(&fleet, &BTreeMap::new());
        self.cluster.apply(&[], |empty| *empty = control).await;
        for host in addresses.keys().chain(&[EDGE]) {
            let mut policy = fleet_file::policy(&fleet, host)?;
            let source = SourcePolicy::Directory(builds.to_owned());
            policy.sources.insert("builds".to_owned(), source);
            // An agent takes no state directory that is open to others.
            fs::DirBuilder::new().recursive(true).mode(0o700).create(self.cluster.state(host))?;
            self.cluster.start_host(host, &policy, Pace::default()).await;
        }
        self.cluster.connected(addresses.len() + 1).await;
        self.write_context()?;
        self.run(Request::Snapshot(GOOD.to_owned())).await.context("the good release")?;
        self.run(Request::Switch(v1::SwitchRequest { to: "blue".to_owned() })).await?;
        Ok(())
    }

    /// The same release with another fault, put live on green, where users get it.
    pub(crate) async fn deploy_bad(&mut self, version: &str) -> anyhow::Result<()> {
        let build = self.dir.path().join("builds").join(version);
        write_release(&build, version, ERROR_RATE)?;
        let archive = build.with_extension("tar.gz");
        done(Command::new("tar").arg("-C").arg(&build).arg("-czf").arg(&archive).arg("."))?;
        fs::remove_dir_all(&build)?;
        let hashed = done(Command::new("sha256sum").arg(&archive))?;
        let digest = hashed.split_whitespace().next().context("a hash")?;
        let name = archive.file_name().context("a name")?.to_string_lossy().into_owned();
        let artefact =
            v1::Artefact { source: "builds".to_owned(), name, digest: format!("sha256:{digest}") };
        let request = v1::CreateReleaseRequest {
            fleet: FLEET.to_owned(),
            release: version.to_owned(),
            artefacts: [("crm".to_owned(), artefact)].into(),
        };
        self.client.create_release(request).await?;
        self.run(Request::Fetch(version.to_owned())).await.context("fetching it")?;
        let deploy = v1::DeployRequest {
            release: version.to_owned(),
            strategy: v1::Strategy::BlueGreen.into(),
            give_up_warm: true,
            ..Default::default()
        };
        self.run(Request::Deploy(deploy)).await.context("deploying it")?;
        Ok(())
    }

    /// As a person types it, to its end.
    pub(crate) async fn rollback(&mut self) -> anyhow::Result<v1::Operation> {
        let mut ctl = tokio::process::Command::new(&self.own);
        ctl.args(["-o", "json", "rollback", "--fleet", FLEET, "--confirm", FLEET])
            .args(["--reason", "5xx after the deploy"])
            .env("LASTGOOD_CONFIG", self.config())
            .stdin(Stdio::null());
        let output = ctl.output().await?;
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{words}{}", String::from_utf8_lossy(&output.stderr));
        let told: Value = serde_json::from_str(&words)?;
        let id = told["operation"].as_str().context("ctl names no operation")?;
        let request = v1::GetOperationRequest { operation: id.to_owned() };
        self.client.get_operation(request).await?.into_inner().operation.context("no operation")
    }

    /// A full rollback freezes the fleet.
    pub(crate) async fn thaw(&mut self) -> anyhow::Result<()> {
        let (fleet, reason) = (FLEET.to_owned(), "the next round".to_owned());
        self.client.set_freeze(v1::SetFreezeRequest { fleet, frozen: false, reason }).await?;
        Ok(())
    }

    /// Plans and runs an operation to its end, which must be a good one.
    async fn run(&mut self, request: Request) -> anyhow::Result<()> {
        let request = v1::CreatePlanRequest { fleet: FLEET.to_owned(), request: Some(request) };
        let plan = self.client.create_plan(request).await?.into_inner().plan.unwrap_or_default();
        if plan.nothing_to_do {
            return Ok(());
        }
        let start = v1::StartOperationRequest { plan_id: plan.id, ..Default::default() };
        let operation = self.client.start_operation(start).await?.into_inner().operation;
        let watch = v1::WatchOperationRequest { operation: operation.clone(), from_index: 0 };
        let mut events = self.client.watch_operation(watch).await?.into_inner();
        while events.message().await?.is_some() {}
        let request = v1::GetOperationRequest { operation };
        let ended = self.client.get_operation(request).await?.into_inner().operation;
        let ended = ended.unwrap_or_default();
        ensure!(ended.result() == v1::OperationResult::Verified, "{:?}", ended.hosts);
        Ok(())
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("config.yaml")
    }

    fn write_context(&self) -> anyhow::Result<()> {
        let mut config = Config::default();
        config.put(Context {
            name: FLEET.to_owned(),
            coordinator: self.cluster.address.to_string(),
            identity: self.cluster.identity_of("mira"),
        });
        Ok(config.save(&self.config())?)
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.edge.kill().ok();
        self.edge.wait().ok();
        for (host, _) in HOSTS {
            self.cluster.stop_agent(host);
        }
        end_all(self.dir.path());
    }
}

/// Ends the services that the agents have started: a directory of this run stands in their command lines.
fn end_all(dir: &Path) {
    let needle = dir.as_os_str().as_encoded_bytes();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw)
            && line.windows(needle.len()).any(|window| window == needle)
        {
            // Gone in between is as good.
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
    }
}

fn tree(dir: &Path, host: &str) -> PathBuf {
    dir.join("hosts").join(host).join("www/ace-crm")
}

/// A release of the sandbox's app, in a directory that is not there yet.
fn write_release(tree: &Path, version: &str, error_rate: f64) -> anyhow::Result<()> {
    let (service, library) = (tree.join("backend"), tree.join("node_modules"));
    fs::create_dir_all(&service)?;
    fs::create_dir_all(&library)?;
    fs::write(service.join("version"), format!("{version}\n"))?;
    fs::write(service.join("behaviour.json"), json!({ "error_rate": error_rate }).to_string())?;
    fs::write(tree.join(".env.production"), ENVIRONMENT)?;
    for number in 0..LIBRARY_FILES {
        let line = format!("// module {number} of {version}\n");
        fs::write(library.join(format!("module-{number:03}.js")), line.repeat(500))?;
    }
    Ok(())
}

/// The fleet file, as JSON: which is YAML.
fn fleet(own: &Path, dir: &Path, addresses: &BTreeMap<&str, IpAddr>) -> Value {
    let part =
        |host: &str| component(own, &tree(dir, host), SocketAddr::new(addresses[host], PORT));
    let group = |group: &str| -> Vec<&str> {
        HOSTS.iter().filter(|(_, of)| *of == group).map(|(host, _)| *host).collect()
    };
    let mut crm = part(HOSTS[0].0);
    crm["hosts"] = json!(["blue", "green"]);
    crm["ready_within"] = json!("20s");
    crm["stable_for"] = json!("1s");
    crm["overrides"] = addresses.keys().map(|host| ((*host).to_owned(), part(host))).collect();
    json!({
        "version": 1,
        "fleet": FLEET,
        "environment": "bench",
        "app": "ace-crm",
        "hosts": { "blue": group("blue"), "green": group("green"), "edge": [EDGE] },
        "components": { "crm": crm },
        "traffic": {
            "through": { "sandbox": { "hosts": "edge", "socket": socket(&dir.join("edge")) } },
            "ports": { "backend": PORT },
            "slots": ["blue", "green"],
            "drain": "10s",
            "addresses": addresses,
            "version": { "port": "backend", "path": "/api/health", "version_at": "/version" },
        },
        "rollback": {
            "batches": ["100%"],
            "budget": { "failed": 1, "unknown": 1, "out": "50%" },
            "on_failure": "restore",
            "late_hosts": "rollback",
            "deadline": "2m",
        },
    })
}

fn component(own: &Path, tree: &Path, at: SocketAddr) -> Value {
    // An agent that is root takes no command that does not say whom it runs as.
    let user = rustix::process::geteuid().is_root().then_some("root");
    let mut process = json!({
        "command": [own, "sandbox-app", "--tree", tree, "--service", "backend", "--listen", at.to_string()],
        "directory": tree,
    });
    if let Some(user) = user {
        process["user"] = json!(user);
    }
    json!({
        "files": [{ "tree": tree }],
        "services": [{ "name": "backend", "stop_within": "5s", "process": process }],
        "checks": [{
            "name": "backend",
            "http": format!("http://{at}/api/health"),
            "expect": { "status": 200, "json": { "/status": "healthy" }, "version_at": "/version" },
            "every": "100ms",
            "timeout": "2s",
        }],
    })
}

fn done(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
