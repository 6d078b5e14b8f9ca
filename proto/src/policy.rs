//! The policy file: everything that an agent may touch on its host, and nothing else.
//!
//! ctl renders it from the fleet file, the owner brings it to the host, the agent reads it. Its hash (of the
//! file's bytes) is what the coordinator knows of it.
//!
//! ```text
//! policy.yaml ── yaml::read ──▶ written (flat, strict) ──▶ Policy ── check ──▶ Policy, or every problem with its place
//! ```
//!
//! Invariant: an unknown key is refused, never ignored.
//! Invariant: a [`Policy`] that was parsed names plain absolute paths only, and no tree of it overlaps another.

pub mod check;
mod written;
pub mod yaml;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::yaml::Problem;
use crate::{
    amount::{Age, Size},
    span::Span,
};

/// The one version of this format.
pub const VERSION: u32 = 1;

/// A whole policy file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub version: u32,
    pub fleet: String,
    pub host: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, ComponentPolicy>,
    /// Where artefacts may come from, by the name that releases use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, SourcePolicy>,
    /// The proxy of this host, where it divides the fleet's traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TrafficPolicy>,
}

impl Policy {
    /// Reads a policy file. Fails with everything that is wrong in it, each with line, column and mend.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let (policy, document): (Self, _) =
            yaml::read(text, VERSION).map_err(|problem| PolicyError(vec![problem]))?;
        check::policy(&policy, document.at()).map_err(PolicyError)?;
        Ok(policy)
    }
}

/// What is wrong with a policy file; at least one problem, in the order of the file.
#[derive(Debug, PartialEq, Eq)]
pub struct PolicyError(pub Vec<Problem>);

impl std::error::Error for PolicyError {}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// How one component is handled on this host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentPolicy {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FilesPolicy>,
    /// Started in this order, stopped in the reverse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServicePolicy>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckPolicy>,
    /// Commands that run at stated points of a track.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookPolicy>,
    /// Where the app records its database migrations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrations: Option<MigrationsPolicy>,
    /// How good releases are learned; not at all where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<CapturePolicy>,
    /// What of its snapshots the store keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionPolicy>,
    /// How a host that went forward goes back by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeasePolicy>,
    /// Which checks are asked all the time; none where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<SamplesPolicy>,
    /// How long the checks may take to pass.
    pub ready_within: Span,
    /// How long they must then hold.
    pub stable_for: Span,
}

/// A release that was put live by a deploy is on trial: where its checks fail for as long as `ready_within`, or do not pass
/// when the time is over, the host goes back by itself to what it replaced, whether or not anybody can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LeasePolicy {
    /// How long the trial lasts, from the switch on. It goes on through a restart and a reboot.
    #[serde(rename = "for")]
    pub lasting: Span,
    /// What follows where the checks pass, but no session with a coordinator began during the whole time, and none is up
    /// when it is over. Default: `hold`.
    #[serde(default)]
    pub without_coordinator: WithoutCoordinator,
}

/// The agent asks the app all the time and tells the coordinator how many answers were good and how fast they were: what
/// canaries and triggers are judged by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SamplesPolicy {
    /// From one request of a check to its next: 20ms to 1m. Default: 1s.
    #[serde(default = "default_samples_every")]
    pub every: Span,
    /// The names of checks of HTTP. Default: all of the component's that ask with GET.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<String>,
}

impl SamplesPolicy {
    /// Those of a component's checks that are asked.
    pub fn chosen<'a>(
        &'a self,
        checks: &'a [CheckPolicy],
    ) -> impl Iterator<Item = &'a CheckPolicy> {
        checks.iter().filter(|check| match &check.probe {
            ProbePolicy::Http(probe) if self.checks.is_empty() => {
                probe.method.as_deref().unwrap_or("GET") == "GET"
            }
            ProbePolicy::Http(_) => self.checks.contains(&check.name),
            ProbePolicy::Tcp(_) | ProbePolicy::Command(_) => false,
        })
    }
}

/// The default of `every` of samples.
pub fn default_samples_every() -> Span {
    Span::seconds(1)
}

/// What follows where no coordinator was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WithoutCoordinator {
    /// The host stays as it is: its checks pass.
    #[default]
    Hold,
    /// The host goes back to what was replaced.
    Revert,
}

/// Where artefacts come from. A release names the source and what it is called there, never a path or an address of
/// its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourcePolicy {
    /// A directory on the host; absolute. Its artefacts are `.tar`, `.tar.gz` and `.tar.zst` files, and directories.
    Directory(PathBuf),
    /// An address that ends in `/`; what a release names is added to it. Redirects are not followed.
    Https(HttpsSource),
    /// A git repository: a release names a tag, branch or commit of it.
    Git(GitSource),
}

/// A server with archives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpsSource {
    /// `https://host/path/`.
    pub url: String,
    /// A file on the host with a bearer token; its value is never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_file: Option<PathBuf>,
    /// A file on the host with the certificates that the server's must lead to; those of the system where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// A git repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GitSource {
    /// A directory on the host (absolute), or an `https://` or `ssh://` address.
    pub repository: String,
    /// The user that git runs as: it has the keys that a remote repository asks for.
    pub user: String,
}

/// The proxy of an edge host, and whom it divides the traffic among.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficPolicy {
    pub through: ProxyPolicy,
    /// The app's name: upstreams (nginx) and backends (HAProxy) are called APP-PORT, by the port's name.
    pub app: String,
    pub ports: BTreeMap<String, u16>,
    /// The address of each host, by group.
    pub groups: BTreeMap<String, BTreeMap<String, String>>,
    /// How long open requests have to end.
    pub drain: Span,
    /// How a host tells which version it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionProbe>,
}

/// How a host tells which version it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VersionProbe {
    /// The name of a port.
    pub port: String,
    /// The path of the request.
    pub path: String,
    /// JSON pointer to the version in the answer.
    pub version_at: String,
}

/// What divides the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyPolicy {
    /// nginx with an include file of its upstreams that belongs to Lastgood.
    Nginx(NginxProxy),
    /// HAProxy by its runtime socket.
    Haproxy(HaproxyProxy),
    /// The small proxy of the sandbox, by its socket.
    Sandbox(SandboxProxy),
}

/// nginx with an include file of its upstreams that belongs to Lastgood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NginxProxy {
    /// The file with the upstreams, included at `http` level and written by Lastgood only. Absolute.
    pub include: PathBuf,
    /// The systemd unit that runs nginx. Default: `nginx.service`.
    #[serde(default = "default_nginx_unit")]
    pub unit: String,
}

/// The default of `unit`.
pub fn default_nginx_unit() -> String {
    "nginx.service".to_owned()
}

/// HAProxy by its runtime socket. Its configuration has a backend APP-PORT for each port, with one server for each host,
/// called like it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HaproxyProxy {
    /// The runtime socket, of level admin. Absolute.
    pub socket: PathBuf,
    /// The file of `server-state-file`, which HAProxy reads when it starts. Absolute.
    pub state_file: PathBuf,
}

/// The small proxy of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxProxy {
    /// Its control socket. Absolute.
    pub socket: PathBuf,
}

/// A file tree or a single file that goes back with its component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, try_from = "written::Files")]
pub enum FilesPolicy {
    Tree(TreePolicy),
    File(FilePolicy),
}

/// A directory that is switched as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TreePolicy {
    /// The live directory, or with `switch: link` the link to it. Absolute.
    pub tree: PathBuf,
    #[serde(default)]
    pub switch: SwitchMode,
    /// Paths below it that live across releases: uploads, logs. Relative, no `..`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<PathBuf>,
    /// Its releases may hold files that are set-uid, set-gid or have file capabilities. Without it, such a file is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub privileged_files: bool,
    /// Where in the component's artefact it is: relative. Wanted where the component has several trees; else the whole
    /// artefact is the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
}

/// How the staged tree takes the place of the live one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SwitchMode {
    /// The two directories change places in one system call.
    #[default]
    Exchange,
    /// `tree` is a symlink to the live release; a new link takes its place by rename.
    Link,
}

/// A single file, inside a tree or on its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilePolicy {
    /// Absolute.
    pub file: PathBuf,
    /// Its key names may be shown, its values never.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
    /// Keys that an env file must have with a value. A release whose own file lacks one is not gone back to, and while
    /// the live file lacks one no release is good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<String>,
}

/// One service of a component and the driver that runs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "written::Service")]
pub struct ServicePolicy {
    /// The component's own name for it.
    pub name: String,
    #[serde(flatten)]
    pub driver: ServiceDriver,
    /// How long it has to stop by itself before it is killed.
    pub stop_within: Span,
}

/// The default of `stop_within`.
pub fn default_stop_within() -> Span {
    Span::seconds(10)
}

/// Which technology runs a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceDriver {
    /// A command that the agent itself starts and watches.
    Process(ProcessPolicy),
    /// The name of a systemd unit.
    Systemd(String),
    /// The name of the systemd unit that runs nginx. It is reloaded, never stopped.
    Nginx(String),
    /// The app's own scripts.
    Script(ScriptPolicy),
}

impl ServiceDriver {
    /// Whether it reads its files anew while it runs, instead of being stopped and started.
    pub fn reloads(&self) -> bool {
        match self {
            Self::Nginx(_) => true,
            Self::Process(_) | Self::Systemd(_) | Self::Script(_) => false,
        }
    }
}

/// The app's own scripts: what starts it, stops it and tells whether it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScriptPolicy {
    /// Exits 0 once the service was started. Program (absolute) and arguments. No shell.
    pub start: Vec<String>,
    /// Exits 0 once nothing of the service runs.
    pub stop: Vec<String>,
    /// Run where `stop` failed or overran `stop_within`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_stop: Option<Vec<String>>,
    /// Exits 0 while the service runs, 3 while it does not (as init scripts do); anything else is not known.
    pub status: Vec<String>,
    /// The working directory. Absolute.
    pub directory: PathBuf,
    /// The whole environment: nothing is inherited, and no secret may stand here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// The user that they run as.
    pub user: String,
}

/// A command that runs at a stated point of its component's track.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HookPolicy {
    /// The hook's name in plans; unique in its component.
    pub name: String,
    /// When it runs.
    pub at: HookPoint,
    /// Program (absolute) and arguments. No shell.
    pub command: Vec<String>,
    /// The user that it runs as.
    pub user: String,
    /// How long it may take. Default: 60s.
    #[serde(default = "default_hook_within")]
    pub within: Span,
    /// It may be run again after a crash in it. Where it may not, a host that crashed in it is taken back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeatable: bool,
}

/// The default of a hook's `within`.
pub fn default_hook_within() -> Span {
    Span::seconds(60)
}

/// When a hook runs. A component that is reloaded has no stop and no start: its hooks run around the reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HookPoint {
    /// While the old release still serves, just before it is stopped.
    BeforeStop,
    /// The new files are in place and nothing runs yet.
    BeforeStart,
    /// Everything was started; checks follow.
    AfterStart,
    /// The checks have held.
    AfterVerify,
}

/// Where the app records its database migrations: what a rollback must not cross unless it is backward-safe.
///
/// A snapshot records what is applied. Before a host goes back, and before anything stops, what is applied now is
/// compared with that. Where it cannot be told, the host does not go back; `--across-migrations` goes back all the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrationsPolicy {
    /// The table that lists them; `schema.table` where it is not on the search path.
    pub table: String,
    /// The column with their names. Default: `version`.
    #[serde(default = "default_migrations_column")]
    pub column: String,
    /// Patterns of those that an older release can live with, such as `0001_*`: `*` stands for any signs, `?` for one.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backward_safe: Vec<String>,
    /// The key in one of the component's `secret` env files that holds the database's URL. Each release is judged by the
    /// URL in its own file. `sslmode` means what it means to libpq. Default: `DATABASE_URL`.
    #[serde(default = "default_migrations_url_key")]
    pub url_key: String,
    /// A file on the host with the database's URL, in place of `url_key`. Absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
}

fn default_migrations_column() -> String {
    "version".to_owned()
}

fn default_migrations_url_key() -> String {
    "DATABASE_URL".to_owned()
}

/// How good releases are learned: what was deployed by other means becomes a release once its checks have held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CapturePolicy {
    /// How long the checks must hold, while no file changes, before what runs is recorded as a release.
    pub after_healthy: Span,
}

/// What of a component's snapshots a host keeps. A limit that is left out is none; without `retention` the newest 10
/// releases are kept.
///
/// Whatever it says, these stay: what is live, what the last switch replaced, what is staged, the newest good release and
/// the one that a bare rollback would go to, what an operation that runs or can be taken back names, and what is pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionPolicy {
    /// So many of the newest releases stay; what is beyond goes once it is a day old. At least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub releases: Option<u32>,
    /// What is older goes. At least 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<Age>,
    /// The oldest go until all files of its snapshots, each counted once, and its staged trees take no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Size>,
}

impl RetentionPolicy {
    /// What holds where nothing is written.
    pub const DEFAULT: Self = Self { releases: Some(10), age: None, disk: None };
}

/// A command that the agent starts and watches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessPolicy {
    /// Program (absolute) and arguments. No shell.
    pub command: Vec<String>,
    /// The working directory. Absolute.
    pub directory: PathBuf,
    /// The whole environment: nothing is inherited, and no secret may stand here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// The user it runs as; the agent's own where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// One thing that must hold for a component to be good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "written::Check")]
pub struct CheckPolicy {
    pub name: String,
    #[serde(flatten)]
    pub probe: ProbePolicy,
    /// How often it is tried.
    pub every: Span,
    /// How many passes in a row make it pass.
    pub pass: u32,
    /// How long one try may take.
    pub timeout: Span,
}

/// The default of `every`.
pub fn default_every() -> Span {
    Span::seconds(1)
}

/// The default of `pass`.
pub fn default_pass() -> u32 {
    2
}

/// The default of `timeout`.
pub fn default_timeout() -> Span {
    Span::seconds(5)
}

/// What a check does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[expect(
    clippy::large_enum_variant,
    reason = "a policy has a handful of checks, most of them of HTTP"
)]
pub enum ProbePolicy {
    Http(HttpProbe),
    Tcp(TcpProbe),
    Command(CommandProbe),
}

/// A request to the app and what it must answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    /// The URL.
    pub http: String,
    /// GET where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// A file on the host with a bearer token; its value is never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_file: Option<PathBuf>,
    /// Headers whose values may be seen by anybody.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Headers whose values stand in files on the host: read anew at each try, never shown.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub header_files: BTreeMap<String, PathBuf>,
    /// How many requests make one try, one after the other within the check's `timeout`; each must pass. 1 where it is
    /// left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    #[serde(default)]
    pub expect: HttpExpect,
}

/// What an HTTP check expects. What is left out is not looked at, but for the status: 200.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpExpect {
    /// The answer's status. Default: 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// JSON pointer → the value that must stand there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub json: BTreeMap<String, serde_json::Value>,
    /// JSON pointer → the largest number that may stand there. What is missing or no number fails.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub at_most: BTreeMap<String, f64>,
    /// JSON pointer → the smallest number that may stand there. What is missing or no number fails.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub at_least: BTreeMap<String, f64>,
    /// JSON pointer to the running version; it must be the wanted one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_at: Option<String>,
    /// The longest answer time of one request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
    /// The longest average answer time of a try's requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_within: Option<Span>,
    /// The longest p95 of a try's requests: of 20, the 19th fastest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_within: Option<Span>,
    /// The average, as a multiple of what was recorded while the release was good: 1.5 is half as slow again. A release
    /// without a record is compared with the last one that was verified on this host; the very first records its own.
    /// Less than 5 ms over the record never fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_over_baseline: Option<f64>,
    /// The p95, as a multiple of what was recorded while the release was good, in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_over_baseline: Option<f64>,
}

/// A port that must accept a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {
    /// `address:port`.
    pub tcp: String,
}

/// A command that must exit 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandProbe {
    /// Program (absolute) and arguments. No shell.
    pub command: Vec<String>,
    /// The user it runs as; the agent's own where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// The hash by which the coordinator knows a policy file: blake3 of its bytes, in hex.
pub fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "version: 1
fleet: prod
host: web-1
components:
  app:
    files: [{ tree: /srv/app, keep: [logs] }, { file: /srv/app/.env, secret: true }]
    services: [{ systemd: app.service }]
    checks: [{ name: up, tcp: \"127.0.0.1:80\" }]
    ready_within: 1m
    stable_for: 10s
";

    #[test]
    fn what_is_left_out_has_its_default() {
        let policy = Policy::parse(GOOD).unwrap();
        let app = &policy.components["app"];
        assert_eq!(app.services[0].name, "app");
        assert_eq!(app.services[0].stop_within, default_stop_within());
        assert_eq!(
            (app.checks[0].every, app.checks[0].pass, app.checks[0].timeout),
            (default_every(), 2, default_timeout())
        );
        assert!(
            matches!(&app.files[0], FilesPolicy::Tree(tree) if tree.switch == SwitchMode::Exchange)
        );
    }

    #[test]
    fn what_an_agent_must_not_accept_is_refused_with_its_place() {
        let table = [
            ("version: 1", "version: 2", "1:10: version `2` is not known to this build"),
            ("fleet: prod", "fleet: prod\nfleet: prod", "3:1: key `fleet` is given twice"),
            ("host: web-1\n", "", "1:1: `host` is missing"),
            (
                "systemd: app.service",
                "systmd: app.service",
                "7:18: unknown key `systmd`; mend: did you mean `systemd`?",
            ),
            (
                "file: /srv/app/.env,",
                "file: /srv/app/.env, privileged_files: true,",
                "6:47: `privileged_files` says something of a `tree`, not of a `file`",
            ),
            ("keep: [logs]", "privileged_files: 1", "6:49: this is not a boolean"),
            ("secret: true", "secret: on", "6:78: this is not a boolean"),
            ("keep: [logs]", "keep: [logs], also: 1", "6:45: unknown key `also`"),
            (
                "tcp: \"127.0.0.1:80\"",
                "http: \"http://a/\", expect: { code: 1 }",
                "8:55: unknown key `code`",
            ),
            ("tree: /srv/app", "tree: srv/app", "6:21: path `srv/app` is not absolute"),
            ("tree: /srv/app", "tree: /srv/../etc", "6:21: path `/srv/../etc` holds `..`"),
            (
                "keep: [logs]",
                "keep: [../logs]",
                "6:38: `../logs` is not a plain path below the tree",
            ),
            (
                "file: /srv/app/.env,",
                "tree: /srv/app/lib }, { file: /srv/app/.env,",
                "6:55: tree `/srv/app/lib` lies inside",
            ),
            (
                "ready_within: 1m",
                "lease: { for: 9s }\n    ready_within: 1m",
                "9:19: a release cannot show what it is worth in that time",
            ),
            (
                "ready_within: 1m",
                "lease: { for: 10s, without_coordinator: hold }\n    ready_within: 1m",
                "9:19: it would be over before the checks have held for `stable_for: 10s`",
            ),
            (
                "checks: [{ name: up, tcp: \"127.0.0.1:80\" }]",
                "lease: { for: 10m }",
                "8:12: nothing says whether what runs is good",
            ),
            (
                "app.service",
                "app/../x.service",
                "7:27: `app/../x.service` cannot be the name of a unit",
            ),
        ];
        for (from, to, expected) in table {
            assert!(GOOD.contains(from), "{from}");
            let error = Policy::parse(&GOOD.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.lines().any(|line| line.starts_with(expected)), "{to}: {error}");
        }
    }

    #[test]
    fn a_deep_or_growing_text_is_refused_not_followed() {
        let deep = format!("version: 1\nx: {}", "[".repeat(100_000));
        let growing: String =
            (1..40).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}]\n", n - 1)).collect();
        for text in [deep, format!("version: 1\na0: &a0 [x, x]\n{growing}")] {
            assert_eq!(Policy::parse(&text).unwrap_err().0.len(), 1);
        }
    }
}
