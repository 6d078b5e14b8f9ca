//! ACE CRM on real hosts, under Lastgood as its users set it up: binaries, units, identities, policies, ctl.
//!
//! ```text
//! this machine, at the bridge's address            each host
//!   coordinator ◀───────────── mTLS ────────────── lastgood-agent.service  (deploy/systemd, as shipped)
//!   ctl --context prod                              /etc/lastgood/{policy.yaml,agent.env}  /var/lib/lastgood
//!                                                   /var/www/ace-crm        the app
//! ```
//!
//! Invariant: everything is done through `ctl` and the hosts' own commands, as a person would.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    app::{self, Release, Runs, SERVICES, STARTS, TREE, version_at},
    edge, fleet_file,
    hosts::{Host, gateway, texts},
    proxies::Proxy,
};

/// What an owner asks of a host before its agent runs.
pub(crate) const CHECK: &str = "set -a; . /etc/lastgood/agent.env; set +a; agent check";
const AGENT: &str = env!("CARGO_BIN_EXE_agent-under-test");
const CTL: &str = env!("CARGO_BIN_EXE_ctl-under-test");
const COORDINATOR: &str = env!("CARGO_BIN_EXE_coordinator-under-test");
/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a test wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) hosts: usize,
    pub(crate) edge: Edge,
    pub(crate) runs: Runs,
    /// How many files the app's library has.
    pub(crate) files: usize,
    /// How long the app may take until it answers.
    pub(crate) ready_within: &'static str,
    /// How long a host may be silent in an operation.
    pub(crate) unknown_after: &'static str,
}

/// What is before the app's hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    No,
    /// One nginx, whose file goes back with a release.
    Plain,
    /// So many proxies that divide the traffic between the first half of the app's hosts, blue, and the second, green.
    Divides(Proxy, usize),
    /// One proxy before three hosts: blue, green and the canary.
    Tries(Proxy),
}

impl Edge {
    fn hosts(self) -> usize {
        match self {
            Self::No => 0,
            Self::Plain | Self::Tries(_) => 1,
            Self::Divides(_, hosts) => hosts,
        }
    }
}

impl Wanted {
    /// So many hosts, and an app of the usual size.
    pub(crate) const fn hosts(hosts: usize, runs: Runs) -> Self {
        let (ready_within, unknown_after) = ("20s", "8s");
        Self { hosts, edge: Edge::No, runs, files: 3000, ready_within, unknown_after }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Fleet {
    // Before the hosts: they are gone first.
    pub(crate) hosts: Vec<Host>,
    pub(crate) edges: Vec<Host>,
    coordinator: Child,
    dir: TempDir,
    address: String,
    wanted: Wanted,
}

/// Waits until `find` has something, or fails with what it was waited for.
pub(crate) fn eventually<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited too long until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

impl Fleet {
    /// Hosts with agents and the app in version v1.0.0, recorded as a good release.
    pub(crate) fn start(test: &str, wanted: Wanted) -> Self {
        Self::start_as(test, wanted, |_, _| {})
    }

    /// The same; what only one test wants is written into its fleet file once the app's hosts have addresses.
    pub(crate) fn start_as(
        test: &str,
        wanted: Wanted,
        amend: impl FnOnce(&mut Value, &[Host]),
    ) -> Self {
        let mut names: Vec<String> =
            (1..=wanted.hosts).map(|number| format!("{test}-{number}")).collect();
        names.extend((1..=wanted.edge.hosts()).map(|number| format!("{test}-lb{number}")));
        let gateway = gateway();
        let mut hosts = Host::boot_new(&names);
        let edges = hosts.split_off(wanted.hosts);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let free = TcpListener::bind((gateway.as_str(), 0)).expect("a free port");
        let address = free.local_addr().expect("an address").to_string();
        drop(free);
        let keys = dir.path().join("keys");
        let mut init = ctl_at(dir.path());
        init.args(["init", "--name", "prod", "--operator", "mira", "--coordinator", &address]);
        done(init.arg("--dir").arg(&keys));
        let coordinator = coordinator(dir.path(), &address);
        let fleet = Self { hosts, edges, coordinator, dir, address, wanted };
        let mut file = fleet_file::document(wanted, &fleet.hosts, &fleet.edges);
        amend(&mut file, &fleet.hosts);
        // JSON is YAML.
        fs::write(fleet.file(), file.to_string()).expect("a fleet file");
        eventually("the coordinator answers", || {
            let applied = fleet.ctl(&["apply", "-f", &fleet.file()]);
            (applied.code == 0).then_some(())
        });
        thread::scope(|scope| {
            for host in fleet.all() {
                scope.spawn(|| fleet.install(host));
            }
        });
        fleet.connected(fleet.all().count());
        fleet.serves("v1.0.0");
        let snapshot = fleet.ctl(&["snapshot", "create", "--as", "v1.0.0"]);
        assert_eq!(snapshot.code, 0, "{snapshot:?}");
        fleet
    }

    /// Every host: the app's, then the edges.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().chain(&self.edges)
    }

    /// The first edge.
    pub(crate) fn edge(&self) -> &Host {
        self.edges.first().expect("an edge was wanted")
    }

    /// The hosts of the two sides, blue and green.
    pub(crate) fn sides(&self) -> (&[Host], &[Host]) {
        let half = self.hosts.len() / 2;
        (&self.hosts[..half], &self.hosts[half..2 * half])
    }

    fn file(&self) -> String {
        self.dir.path().join("fleet.yaml").display().to_string()
    }

    fn release<'a>(&self, version: &'a str, fault: Option<&'a str>) -> Release<'a> {
        Release { version, fault, files: self.wanted.files }
    }

    /// What an owner does on a new host, on which the app runs.
    fn install(&self, host: &Host) {
        let name = host.name.as_str();
        let policy = self.dir.path().join(format!("policy-{name}.yaml"));
        let mut render = self.command();
        let rendered = done(render.args(["policy", "render", "--host", name, "-f", &self.file()]));
        fs::write(&policy, rendered).expect("a policy");
        let unit =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/lastgood-agent.service");
        host.sh("mkdir -p /etc/lastgood/secrets /srv/builds");
        host.put(&stripped(AGENT), "/usr/sbin/agent");
        host.put(&stripped(env!("CARGO_BIN_EXE_ace-crm")), "/usr/local/bin/ace-crm");
        host.put(&unit, "/etc/systemd/system/lastgood-agent.service");
        host.put(&policy, "/etc/lastgood/policy.yaml");
        let first = self.release("v1.0.0", None);
        let is_edge = self.edges.iter().any(|edge| edge.name == name);
        host.sh(&match self.wanted.edge {
            Edge::Plain if is_edge => edge::install_script(first.version, &self.hosts),
            Edge::Divides(proxy, _) | Edge::Tries(proxy) if is_edge => {
                let (live, idle) = self.hosts.split_at(self.sides().0.len());
                proxy.install_script(live, idle)
            }
            Edge::No | Edge::Plain | Edge::Divides(..) | Edge::Tries(_) => {
                app::install_script(first, self.wanted.runs, name)
            }
        });
        let token = self.ctl(&["agent", "token", "create", "--host", name]).json;
        let [line, token] = ["command", "token"].map(|key| token[key].as_str().expect("its line"));
        host.sh(&format!(
            "chmod 644 /etc/lastgood/policy.yaml
            echo LASTGOOD_COORDINATOR={} >/etc/lastgood/agent.env
            (umask 077; echo test-token >/etc/lastgood/secrets/test-token)
            echo {token} | {line}",
            self.address
        ));
        // Whoever joins a host looks before its agent runs.
        host.sh(&format!(
            "{CHECK}; systemctl daemon-reload; systemctl enable --now lastgood-agent"
        ));
    }

    /// Deploys a release to every app host as the team did until now: copied over what is there.
    pub(crate) fn deploy(&self, version: &str, fault: Option<&str>) {
        let script = app::deploy_script(self.release(version, fault), self.wanted.runs);
        thread::scope(|scope| {
            for host in &self.hosts {
                scope.spawn(|| host.sh(&script));
            }
        });
    }

    /// Waits until every service of every host answers as this version.
    pub(crate) fn serves(&self, version: &str) {
        for host in &self.hosts {
            for (service, port) in SERVICES {
                eventually(&format!("{service} of {} is {version}", host.name), || {
                    (version_at(host, port)? == version).then_some(())
                });
            }
        }
    }

    /// Waits until so many agents are connected.
    pub(crate) fn connected(&self, hosts: usize) {
        eventually(&format!("{hosts} agents are connected"), || {
            let list = self.ctl(&["agent", "list"]).json;
            let agents = list["agents"].as_array()?;
            let count = agents.iter().filter(|agent| agent["connected"] == true).count();
            (count == hosts).then_some(())
        });
    }

    /// Runs `ctl` to its end; what it says is a document.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Told {
        self.ctl_text(&[&["-o", "json"], arguments].concat())
    }

    /// The same as a person reads it.
    pub(crate) fn ctl_text(&self, arguments: &[&str]) -> Told {
        let output = self.command().args(arguments).output().expect("ctl runs");
        let (words, complaint) = texts(&output);
        let json = serde_json::from_str(&words).unwrap_or(Value::Null);
        Told { code: output.status.code().unwrap_or(-1), json, words, complaint }
    }

    /// A rollback by a person in a hurry, to its end.
    pub(crate) fn rollback(&self, more: &[&str]) -> Told {
        let arguments = [&["rollback", "--fleet", "prod", "--confirm", "prod"], more].concat();
        self.ctl(&arguments)
    }

    /// The plan of a rollback, to be run with `--plan`.
    pub(crate) fn plan(&self, more: &[&str]) -> String {
        let planned = self.ctl(&[&["rollback", "--dry-run"], more].concat());
        let id = planned.json["plan"]["id"].as_str().or(planned.json["id"].as_str());
        id.unwrap_or_else(|| panic!("{planned:?}")).to_owned()
    }

    fn command(&self) -> Command {
        ctl_at(self.dir.path())
    }
}

impl Fleet {
    /// Nobody answers any more.
    pub(crate) fn stop_coordinator(&mut self) {
        // It may have ended by itself.
        self.coordinator.kill().ok();
        self.coordinator.wait().ok();
    }

    /// It does again, with what it knew.
    pub(crate) fn start_coordinator(&mut self) {
        self.coordinator = coordinator(self.dir.path(), &self.address);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if thread::panicking() {
            self.tell();
        }
        self.stop_coordinator();
    }
}

impl Fleet {
    /// What a failed test leaves to read.
    #[expect(clippy::print_stderr, reason = "for the person who reads why the test failed")]
    fn tell(&self) {
        let log = fs::read_to_string(self.dir.path().join("coordinator.log")).unwrap_or_default();
        eprintln!("coordinator:\n{}", last(&log, 20));
        for host in self.all() {
            let script = format!(
                "journalctl -q -b -u lastgood-agent -o cat --no-pager | tail -n 25; cat {STARTS} | tail -n 12;
                find {TREE} -maxdepth 1; find /var/www/.lastgood -maxdepth 1; ls /var/lib/lastgood/hold"
            );
            eprintln!("{}:\n{}", host.name, host.try_sh(&script).0);
        }
    }
}

/// What `ctl` said, and how it exited.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: i32,
    pub(crate) json: Value,
    pub(crate) words: String,
    pub(crate) complaint: String,
}

impl Told {
    /// The operation's id.
    pub(crate) fn operation(&self) -> &str {
        self.json["operation"].as_str().unwrap_or_else(|| panic!("{self:?}"))
    }

    /// Whether it said this, in its document or beside it, however it was broken into lines.
    pub(crate) fn says(&self, words: &str) -> bool {
        [&self.words, &self.complaint]
            .iter()
            .any(|text| text.split_whitespace().collect::<Vec<_>>().join(" ").contains(words))
    }

    /// How a host ended in the operation.
    pub(crate) fn outcome(&self, host: &Host) -> String {
        let hosts = self.json["result"]["hosts"].as_array();
        let row = hosts.and_then(|rows| rows.iter().find(|row| row["host"] == *host.name));
        row.and_then(|row| row["outcome"].as_str())
            .unwrap_or_else(|| panic!("{} has no outcome: {self:?}", host.name))
            .to_owned()
    }
}

fn coordinator(dir: &Path, address: &str) -> Child {
    let log = fs::File::options().create(true).append(true).open(dir.join("coordinator.log"));
    let log = log.expect("a log");
    Command::new(COORDINATOR)
        .arg("--state")
        .arg(dir.join("coordinator"))
        .arg("--identity")
        .arg(dir.join("keys/coordinator"))
        .args(["--listen", address])
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("the coordinator starts")
}

fn ctl_at(dir: &Path) -> Command {
    let mut command = Command::new(CTL);
    command.env("LASTGOOD_CONFIG", dir.join("config.yaml")).stdin(Stdio::null());
    command
}

fn done(command: &mut Command) -> String {
    let output = command.output().expect("a command");
    let (words, complaint) = texts(&output);
    assert!(output.status.success(), "{command:?}: {words}{complaint}");
    words
}

/// The binary without what only a debugger reads: it is copied to many hosts.
pub(crate) fn stripped(binary: &str) -> PathBuf {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let from = Path::new(binary);
    let to = from.with_extension("stripped");
    let age = |path: &Path| path.metadata().and_then(|found| found.modified()).ok();
    if age(&to) < age(from) {
        let part = from.with_extension("stripping");
        done(Command::new("strip").arg(from).arg("-o").arg(&part));
        fs::rename(&part, &to).expect("a stripped binary");
    }
    to
}

fn last(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
