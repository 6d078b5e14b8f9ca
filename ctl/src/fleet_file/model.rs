//! The fleet file's types, as they are written. The field docs are the descriptions in the published schema.
//!
//! Invariant: unknown keys are refused everywhere.
//! Invariant: no field takes a secret; a secret is named by the file that holds it.

mod canary;
mod triggers;

pub use self::{
    canary::{Canary, CanarySource, CanaryStep, Counters, Hold, Measure},
    triggers::{Severity, Source, Then, Trigger},
};

use std::{collections::BTreeMap, path::PathBuf};

use proto::{
    policy::{
        CapturePolicy, CheckPolicy, FilesPolicy, HookPolicy, LeasePolicy, MigrationsPolicy,
        RetentionPolicy, SamplesPolicy, ServicePolicy, SourcePolicy, VersionProbe,
        default_nginx_unit,
    },
    span::Span,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Amount;

/// A fleet: its hosts, what runs on them, and how it goes back to the last good release.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FleetFile {
    /// The version of this format.
    #[schemars(extend("const" = 1))]
    pub version: u32,
    /// The fleet's name: the hosts that run one app in one environment.
    pub fleet: String,
    /// What the fleet is for: `production`, `staging`, or any other word.
    pub environment: String,
    /// The app that the fleet runs.
    pub app: String,
    /// Hosts by group. A host's name is the one in its agent's certificate; it belongs to one group.
    pub hosts: BTreeMap<String, Vec<String>>,
    /// What goes back as one piece, by name.
    pub components: BTreeMap<String, Component>,
    /// Where the artefacts of releases come from, by the name that releases use.
    #[serde(default)]
    pub sources: BTreeMap<String, SourcePolicy>,
    /// How requests reach the hosts.
    pub traffic: Option<Traffic>,
    /// How a rollback goes through the fleet.
    #[serde(default)]
    pub rollback: Rollback,
    /// How a new release is tried on a few hosts first.
    pub canary: Option<Canary>,
    /// Rules on measurements that propose or start a rollback, by name.
    #[serde(default)]
    pub triggers: BTreeMap<String, Trigger>,
    /// Who must agree, and to what.
    pub approvals: Option<Approvals>,
    /// Who is told.
    pub notify: Option<Notify>,
}

impl FleetFile {
    /// The group that a host belongs to.
    pub fn group_of(&self, host: &str) -> Option<&str> {
        let group = self.hosts.iter().find(|(_, hosts)| hosts.iter().any(|known| known == host));
        group.map(|(name, _)| name.as_str())
    }

    /// Every host, group by group.
    pub fn all_hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.values().flatten().map(String::as_str)
    }

    /// The checks of every component, those of single hosts among them, each with its component's name.
    pub fn checks(&self) -> impl Iterator<Item = (&str, &CheckPolicy)> + Clone {
        self.components.iter().flat_map(|(name, component)| {
            let overridden = component.overrides.values().filter_map(|host| host.checks.as_ref());
            let checks = component.checks.iter().chain(overridden.flatten());
            checks.map(move |check| (name.as_str(), check))
        })
    }

    /// Whether something counts the requests of the agents' own probes.
    pub fn counts_requests(&self) -> bool {
        let canary = self.canary.as_ref();
        canary.is_some_and(|canary| canary.source == CanarySource::Probes)
            || self.triggers.values().any(|trigger| trigger.source == Source::Probes)
    }

    /// Whether something is judged by what the agents' own probes say.
    pub fn counts_probes(&self) -> bool {
        let check = |trigger: &Trigger| matches!(trigger.source, Source::Check(_));
        self.counts_requests() || self.triggers.values().any(check)
    }

    /// The sections of this file that this version checks but does not act on, so that nobody relies on them unknowingly.
    pub fn not_acted_upon(&self) -> Vec<&'static str> {
        let sections = [("approvals", self.approvals.is_some()), ("notify", self.notify.is_some())];
        sections.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }
}

/// What goes back as one piece on a host: trees and files, services in order, checks.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// The groups whose hosts have it.
    pub hosts: Vec<String>,
    /// Components that must be restored and verified before it.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Its trees and files, switched as a set.
    #[serde(default)]
    pub files: Vec<FilesPolicy>,
    /// Its services: started in this order, stopped in the reverse.
    #[serde(default)]
    pub services: Vec<ServicePolicy>,
    /// What "good" means on a host: every check must pass, then hold for `stable_for`.
    #[serde(default)]
    pub checks: Vec<CheckPolicy>,
    /// Commands that run at stated points of a track.
    #[serde(default)]
    pub hooks: Vec<HookPolicy>,
    /// How long the checks may take to pass after the start. Default: 60s.
    #[serde(default = "default_ready_within")]
    pub ready_within: Span,
    /// How long the checks must then hold. Default: 10s.
    #[serde(default = "default_stable_for")]
    pub stable_for: Span,
    /// Learns good releases by itself. Default: it does not.
    pub capture: Option<CapturePolicy>,
    /// Where the app records its database migrations.
    pub migrations: Option<MigrationsPolicy>,
    /// What of its snapshots each host keeps. Default: the newest 10 releases.
    pub retention: Option<RetentionPolicy>,
    /// How long a release that was deployed is on trial: where its checks fail in that time, a host goes back by itself.
    /// Default: it does not.
    pub lease: Option<LeasePolicy>,
    /// Which of its checks are asked all the time: what canaries and triggers are judged by. Default: where the file has a
    /// `canary` or a trigger that counts probes, all that ask over HTTP with GET, once a second; else none.
    pub samples: Option<SamplesPolicy>,
    /// All slots use the same one, like a database: while it goes back, nothing that needs it runs. Default: false.
    #[serde(default)]
    pub shared: bool,
    /// What is different on one host, by host: each list given replaces the component's on that host.
    #[serde(default)]
    pub overrides: BTreeMap<String, Override>,
}

fn default_ready_within() -> Span {
    Span::seconds(60)
}

fn default_stable_for() -> Span {
    Span::seconds(10)
}

/// What is different on one host. Services keep the component's names and order, for the plan speaks of them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Replaces the component's `files` on this host.
    pub files: Option<Vec<FilesPolicy>>,
    /// Replaces the component's `services` on this host: the same names in the same order.
    pub services: Option<Vec<ServicePolicy>>,
    /// Replaces the component's `checks` on this host.
    pub checks: Option<Vec<CheckPolicy>>,
}

/// How requests reach the hosts.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// What distributes the requests.
    pub through: TrafficDriver,
    /// The ports that are served, by name. An upstream (nginx) or backend (HAProxy) is called APP-PORT by it.
    pub ports: BTreeMap<String, u16>,
    /// The groups that take turns. Which one is live is state, never in this file.
    pub slots: Vec<String>,
    /// How long open requests have to end before a host is stopped. Default: 20s.
    #[serde(default = "default_drain")]
    pub drain: Span,
    /// For how long the side that traffic left stays as it is, as an instant way back. Default: 30m.
    #[serde(default = "default_warm")]
    pub warm: Span,
    /// The address of a host as its proxies reach it, where that is not its name. A proxy that has to ask a name server is
    /// one that can fail with it.
    #[serde(default)]
    pub addresses: BTreeMap<String, String>,
    /// How a host tells which version it serves: asked from the edge, it says when users are on the good one.
    pub version: Option<VersionProbe>,
}

impl Traffic {
    /// The group of the proxies.
    pub fn edge(&self) -> &str {
        match &self.through {
            TrafficDriver::Nginx(NginxTraffic { hosts, .. })
            | TrafficDriver::Haproxy(HaproxyTraffic { hosts, .. })
            | TrafficDriver::Sandbox(SandboxTraffic { hosts, .. }) => hosts,
        }
    }
}

fn default_warm() -> Span {
    Span::seconds(30 * 60)
}

fn default_drain() -> Span {
    Span::seconds(20)
}

/// What distributes the requests.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrafficDriver {
    /// nginx on the hosts of a group.
    Nginx(NginxTraffic),
    /// HAProxy on the hosts of a group.
    Haproxy(HaproxyTraffic),
    /// The small proxy of the sandbox.
    Sandbox(SandboxTraffic),
}

/// nginx with an include file that belongs to Lastgood.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NginxTraffic {
    /// The group of the proxies.
    pub hosts: String,
    /// The file with the upstreams, written by Lastgood only. Absolute.
    pub include: PathBuf,
    /// The systemd unit that runs it. Default: `nginx.service`.
    #[serde(default = "default_nginx_unit")]
    pub unit: String,
}

/// HAProxy by its runtime socket. Its configuration has a backend APP-PORT for each port, with one server for each host,
/// called like it.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HaproxyTraffic {
    /// The group of the proxies.
    pub hosts: String,
    /// The runtime socket, of level admin. Absolute.
    pub socket: PathBuf,
    /// The file of `server-state-file`, which HAProxy reads when it starts. Absolute.
    pub state_file: PathBuf,
}

/// The small proxy of the sandbox.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxTraffic {
    /// The group of the proxies.
    pub hosts: String,
    /// Its control socket. Absolute.
    pub socket: PathBuf,
}

/// How a rollback goes through the fleet.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rollback {
    /// Takes traffic away from hosts before it touches them, where `traffic` says how. Default: true.
    pub traffic_first: bool,
    /// How many hosts at a time: `1`, `5` or `"20%"`; the last one repeats. Default: `[1, "50%"]`.
    pub batches: Vec<Amount>,
    /// How much may go wrong before the rollback halts.
    pub budget: Budget,
    /// What becomes of a host whose rollback failed. Default: `restore`.
    pub on_failure: OnFailure,
    /// What becomes of a host that was away and comes back later. Default: `rollback`.
    pub late_hosts: LateHosts,
    /// How long the rollback may take as a whole. Default: 5m.
    pub deadline: Span,
    /// How long each stage is watched before the next. Default: 0s.
    pub soak: Span,
    /// How long a host may be silent in an operation before it counts as unknown. Default: 15s.
    pub unknown_after: Span,
}

impl Default for Rollback {
    fn default() -> Self {
        Self {
            traffic_first: true,
            batches: vec![Amount::Hosts(1), Amount::Percent(50)],
            budget: Budget::default(),
            on_failure: OnFailure::default(),
            late_hosts: LateHosts::default(),
            deadline: Span::seconds(5 * 60),
            soak: Span::seconds(0),
            unknown_after: Span::seconds(15),
        }
    }
}

/// How much may go wrong before an operation halts.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// How many hosts may have failed. Default: 1.
    pub failed: u32,
    /// How many hosts may be unknown. Default: 1.
    pub unknown: u32,
    /// How many hosts may be out at once: failed, unknown and in work. Default: `"50%"`.
    pub out: Amount,
}

impl Default for Budget {
    fn default() -> Self {
        Self { failed: 1, unknown: 1, out: Amount::Percent(50) }
    }
}

/// What becomes of a host whose rollback failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It is put back as it was.
    #[default]
    Restore,
    /// It is left as it is, for a person to look at.
    Leave,
}

/// What becomes of a host that was away and comes back later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LateHosts {
    /// It is rolled back too.
    #[default]
    Rollback,
    /// It is kept out of traffic until a person decides.
    Wait,
}

/// Who must agree, and to what.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Approvals {
    /// What needs an approval.
    pub required_for: Vec<Act>,
    /// The roles that may give it.
    pub from: Vec<String>,
    /// Whether the one who asks may not be the one who approves. Default: true.
    #[serde(default = "default_not_requester")]
    pub not_requester: bool,
}

fn default_not_requester() -> bool {
    true
}

/// An act that may need an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Going back with data.
    DataRestore,
    /// Going to a release that is not proven good.
    UnprovenTarget,
    /// Going forward to a new release.
    Deploy,
}

/// Who is told.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// A Slack channel.
    pub slack: Option<Slack>,
    /// A page of Statuspage.
    pub statuspage: Option<Statuspage>,
    /// Who is called as time passes.
    #[serde(default)]
    pub escalate: Vec<Escalation>,
}

/// A Slack channel.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slack {
    /// The file on the coordinator's host that holds the webhook's URL. Absolute.
    pub webhook_file: PathBuf,
}

/// A page of Statuspage.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Statuspage {
    /// The page's id.
    pub page: String,
    /// The file on the coordinator's host that holds the API key. Absolute.
    pub key_file: PathBuf,
    /// Whether incidents are published without asking. Default: `ask`.
    #[serde(default)]
    pub publish: Publish,
}

/// Whether incidents are published without asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Publish {
    /// A person is asked first.
    #[default]
    Ask,
    /// At once.
    Always,
    /// Never.
    Never,
}

/// Who is called, and when.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Escalation {
    /// The level's name.
    pub level: String,
    /// `slack:#channel` or `mail:address`.
    pub to: String,
    /// How long after the beginning of the operation.
    pub after: Span,
}
