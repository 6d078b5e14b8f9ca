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

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::hosts::{Host, gateway, texts};

/// The app's tree.
pub(crate) const TREE: &str = "/var/www/ace-crm";
/// Where the services write down on what they start.
const STARTS: &str = "/var/log/ace-crm/starts.log";
const SERVICES: [(&str, u16); 3] = [("backend", 5000), ("frontend", 3000), ("client-portal", 3001)];
const CTL: &str = env!("CARGO_BIN_EXE_ctl-under-test");
const COORDINATOR: &str = env!("CARGO_BIN_EXE_coordinator-under-test");
/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How the app's services are run on the hosts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Runs {
    /// By the agent itself.
    Process,
}

/// What a test wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) hosts: usize,
    pub(crate) runs: Runs,
    /// How many files the app's library has.
    pub(crate) files: usize,
    /// How long the app may take until it answers.
    pub(crate) ready_within: &'static str,
}

impl Wanted {
    /// So many hosts, and an app of the usual size.
    pub(crate) const fn hosts(hosts: usize, runs: Runs) -> Self {
        Self { hosts, runs, files: 3000, ready_within: "20s" }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Fleet {
    // Before the hosts: they are gone first.
    pub(crate) hosts: Vec<Host>,
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
        let names: Vec<String> =
            (1..=wanted.hosts).map(|number| format!("{test}-{number}")).collect();
        let gateway = gateway();
        let hosts = Host::boot_new(&names);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let free = TcpListener::bind((gateway.as_str(), 0)).expect("a free port");
        let address = free.local_addr().expect("an address").to_string();
        drop(free);
        let keys = dir.path().join("keys");
        let mut init = ctl_at(dir.path());
        init.args(["init", "--name", "prod", "--operator", "mira", "--coordinator", &address]);
        done(init.arg("--dir").arg(&keys));
        let coordinator = coordinator(dir.path(), &address);
        let fleet = Self { hosts, coordinator, dir, address, wanted };
        fleet.write_fleet_file();
        thread::scope(|scope| {
            for host in &fleet.hosts {
                scope.spawn(|| fleet.install(host));
            }
        });
        eventually("the coordinator answers", || {
            let applied = fleet.ctl(&["apply", "-f", &fleet.file()]);
            (applied.code == 0).then_some(())
        });
        fleet.connected(fleet.hosts.len());
        fleet.serves("v1.0.0");
        let snapshot = fleet.ctl(&["snapshot", "create", "--as", "v1.0.0"]);
        assert_eq!(snapshot.code, 0, "{snapshot:?}");
        fleet
    }

    fn file(&self) -> String {
        self.dir.path().join("fleet.yaml").display().to_string()
    }

    fn write_fleet_file(&self) {
        let names: Vec<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
        let service = |(name, port): &(&str, u16)| match self.wanted.runs {
            Runs::Process => json!({
                "name": name,
                "stop_within": "3s",
                "process": {
                    "command": ["/usr/local/bin/ace-crm", "serve", TREE, name, format!("0.0.0.0:{port}")],
                    "directory": "/",
                    "user": "www-data",
                },
            }),
        };
        let check = |(name, port): &(&str, u16)| {
            json!({
                "name": name,
                "http": format!("http://127.0.0.1:{port}/api/health"),
                "expect": { "status": 200, "json": { "/status": "healthy" }, "version_at": "/version" },
                "every": "100ms",
                "timeout": "2s",
            })
        };
        let file = json!({
            "version": 1,
            "fleet": "prod",
            "environment": "production",
            "app": "ace-crm",
            "hosts": { "app": names },
            "components": { "crm": {
                "hosts": ["app"],
                "files": [
                    { "tree": TREE, "keep": ["uploads", "logs"] },
                    { "file": format!("{TREE}/.env.production"), "secret": true,
                      "require": ["SUPABASE_URL", "JWT_SECRET", "STRIPE_SECRET_KEY"] },
                ],
                "services": SERVICES.iter().map(service).collect::<Vec<_>>(),
                "checks": SERVICES.iter().map(check).collect::<Vec<_>>(),
                "ready_within": self.wanted.ready_within,
                "stable_for": "500ms",
            } },
            "rollback": {
                "batches": ["100%"],
                "budget": { "failed": 1, "unknown": names.len(), "out": "100%" },
                "on_failure": "restore",
                "late_hosts": "rollback",
                "deadline": "2m",
                "unknown_after": "8s",
            },
        });
        fs::write(self.file(), file.to_string()).expect("a fleet file");
    }

    /// What an owner does on a new host.
    fn install(&self, host: &Host) {
        let keys = self.dir.path().join("keys");
        let name = host.name.as_str();
        let mut issue = self.command();
        done(issue.args(["agent", "issue", "--host", name, "--dir"]).arg(&keys));
        let policy = self.dir.path().join(format!("policy-{name}.yaml"));
        let mut render = self.command();
        let rendered = done(render.args(["policy", "render", "--host", name, "-f", &self.file()]));
        fs::write(&policy, rendered).expect("a policy");
        let unit =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/lastgood-agent.service");
        host.sh("mkdir -p /etc/lastgood /var/lib/lastgood/identity; chmod 700 /var/lib/lastgood");
        host.put(&stripped(env!("CARGO_BIN_EXE_agent-under-test")), "/usr/sbin/agent");
        host.put(&stripped(env!("CARGO_BIN_EXE_ace-crm")), "/usr/local/bin/ace-crm");
        host.put(&unit, "/etc/systemd/system/lastgood-agent.service");
        host.put(&policy, "/etc/lastgood/policy.yaml");
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            let from = keys.join("agents").join(name).join(file);
            host.put(&from, "/var/lib/lastgood/identity/");
        }
        host.sh(&format!(
            "chmod 644 /etc/lastgood/policy.yaml
            echo LASTGOOD_COORDINATOR={} >/etc/lastgood/agent.env
            ace-crm release {TREE} v1.0.0 --files {}
            mkdir -p {TREE}/uploads/2026 {TREE}/logs /var/log/ace-crm
            echo 'of customer {name}' >{TREE}/uploads/2026/contract.pdf
            chown -R www-data: {TREE} /var/log/ace-crm
            systemctl daemon-reload; systemctl enable --now lastgood-agent.service",
            self.address, self.wanted.files
        ));
    }

    /// Deploys a release to every host as the team did until now: copied over what is there.
    pub(crate) fn deploy(&self, version: &str, fault: Option<&str>) {
        let fault = fault.map(|fault| format!("--fault {fault}")).unwrap_or_default();
        let files = self.wanted.files;
        thread::scope(|scope| {
            for host in &self.hosts {
                let script = format!(
                    "rm -rf /root/{version}; ace-crm release /root/{version} {version} {fault} --files {files}
                    cp -r /root/{version}/. {TREE}/
                    chown -R www-data: {TREE}"
                );
                let restart = "for pid in $(pidof ace-crm); do kill $pid; done";
                scope.spawn(move || host.sh(&format!("{script}\n{restart}")));
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

    /// Runs `ctl` to its end.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Told {
        let output =
            self.command().args(["-o", "json"]).args(arguments).output().expect("ctl runs");
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

impl Drop for Fleet {
    fn drop(&mut self) {
        if thread::panicking() {
            self.tell();
        }
        // It may have ended by itself.
        self.coordinator.kill().ok();
        self.coordinator.wait().ok();
    }
}

impl Fleet {
    /// What a failed test leaves to read.
    #[expect(clippy::print_stderr, reason = "for the person who reads why the test failed")]
    fn tell(&self) {
        let log = fs::read_to_string(self.dir.path().join("coordinator.log")).unwrap_or_default();
        eprintln!("coordinator:\n{}", last(&log, 20));
        for host in &self.hosts {
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
    #[expect(dead_code, reason = "for the words of a failed assertion")]
    words: String,
    #[expect(dead_code, reason = "for the words of a failed assertion")]
    complaint: String,
}

impl Told {
    /// The operation's id.
    pub(crate) fn operation(&self) -> &str {
        self.json["operation"].as_str().unwrap_or_else(|| panic!("{self:?}"))
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

/// Everything that a release is on a host, as one number: each path with its kind, mode, owner, time and content,
/// without what is kept across releases.
pub(crate) fn digest(host: &Host) -> String {
    host.sh(&digest_script(TREE, "%T@"))
}

/// The same without times, which are set back at the end of a switch.
pub(crate) fn content(host: &Host) -> String {
    host.sh(&digest_script(TREE, ""))
}

/// The same of a host that is not up.
pub(crate) fn content_on_disk(host: &Host) -> String {
    host.look(&digest_script(TREE.trim_start_matches('/'), ""))
}

fn digest_script(tree: &str, more: &str) -> String {
    format!(
        "cd {tree}
        all() {{ find . \\( -path ./uploads -o -path ./logs \\) -prune -o \"$@\"; }}
        (all -printf '%p %y %m %U %G {more} %l\\n' | LC_ALL=C sort
        all -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) | sha256sum | cut -c1-16"
    )
}

/// What the app's users have put there.
pub(crate) fn uploads(host: &Host) -> String {
    host.sh(&format!("cat {TREE}/uploads/2026/contract.pdf"))
}

/// Every set of releases that a service of this host has ever started on: `v1.0.0`, or `v1.0.0+v2.0.0` for a mix.
pub(crate) fn started_on(host: &Host) -> Vec<String> {
    let lines = host.sh(&format!("cut -d' ' -f3- {STARTS} | sort -u"));
    lines.lines().map(str::to_owned).collect()
}

/// What a service of a host answers as its version, asked from this machine.
pub(crate) fn version_at(host: &Host, port: u16) -> Option<String> {
    let url = format!("http://{}:{port}/api/health", host.address);
    let output = Command::new("curl").args(["-sS", "--max-time", "2", &url]).output().ok()?;
    let body: Value = serde_json::from_slice(&output.stdout).ok()?;
    body["version"].as_str().map(str::to_owned)
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
fn stripped(binary: &str) -> PathBuf {
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
