//! What can be ordered, by the coordinator or by root on the host, in the agent's own types.
//!
//! Invariant: no path, no command line, no secret: components and verbs by name, snapshots by hash.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

/// The fence of an order: whose term, and how far in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    pub epoch: u64,
    /// Tells coordinators of the same counter apart.
    pub instance: String,
    pub sequence: u64,
}

impl Fence {
    /// Whether what a coordinator of this term says counts on a host with that fence.
    pub fn counts(&self, fence: Option<&Fence>) -> bool {
        fence.is_none_or(|fence| {
            let same = self.epoch == fence.epoch && self.instance == fence.instance;
            same || self.epoch > fence.epoch
        })
    }
}

/// The steps of one stage on this host, whatever the attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TrackKey {
    pub operation: String,
    pub stage: u32,
}

/// An order to this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub key: TrackKey,
    /// Grows with each new order for the same track; a repeat has the same.
    pub attempt: u32,
    pub plan_hash: String,
    pub fence: Fence,
    pub goal: Goal,
    pub steps: Vec<Step>,
    pub on_failure: OnFailure,
    /// W3C trace context of the operation; may be empty.
    pub traceparent: String,
    /// Set by the session that it came in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<Taken>,
    #[serde(default, skip_serializing_if = "Origin::is_coordinator")]
    pub origin: Origin,
    /// The newest local operation that its sender knew of; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub after: String,
}

/// When and where an order was taken, and its track's own place in the trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub host: String,
    pub at_unix_ms: i64,
    /// As W3C writes it; empty where the order has none.
    pub traceparent: String,
}

impl Order {
    /// Whether root on the host took the host with it: what coordinators planned before does not hold any more.
    pub fn overtakes(&self) -> bool {
        let takes = self.goal == Goal::Undo || self.steps.iter().any(|step| step.verb.cuts());
        self.origin.made_here().is_some() && takes
    }
}

/// Whose order it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    #[default]
    Coordinator,
    Host(MadeHere),
}

/// A local operation: what root asked for on the host itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeHere {
    /// `local-20261122-101500`.
    pub operation: String,
    /// Who says to have asked.
    pub by: String,
    pub at_unix_ms: i64,
    /// Where it goes, or what it names.
    pub release: String,
}

impl MadeHere {
    /// Why what was planned before does not hold any more.
    pub fn took_over(&self) -> String {
        format!(
            "{} took this host over with {}; what was planned before does not hold",
            self.by, self.operation
        )
    }
}

impl Origin {
    /// The local operation that an order belongs to.
    pub fn made_here(&self) -> Option<&MadeHere> {
        match self {
            Self::Coordinator => None,
            Self::Host(made) => Some(made),
        }
    }

    fn is_coordinator(&self) -> bool {
        self.made_here().is_none()
    }
}

/// What root asks for on the host: the same steps as a coordinator's, without its fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalOrder {
    pub made: MadeHere,
    pub plan_hash: String,
    pub steps: Vec<Step>,
    pub on_failure: OnFailure,
    /// Where nobody asked, but a release on trial did not hold: the track that put it live, and what spoke against it.
    pub trial: Option<(TrackKey, String)>,
}

impl LocalOrder {
    /// See [`Order::overtakes`].
    pub fn overtakes(&self) -> bool {
        self.steps.iter().any(|step| step.verb.cuts())
    }

    /// Its one track.
    pub fn key(&self) -> TrackKey {
        TrackKey { operation: self.made.operation.clone(), stage: 0 }
    }
}

/// Which way an order goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    Forward,
    /// Take back what earlier attempts of this track did.
    Undo,
}

/// What to do when a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailure {
    Restore,
    Leave,
}

/// One verb on one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub verb: Verb,
    pub component: String,
    /// The release and the exact hash of its snapshot here; empty where the verb has none.
    pub release: String,
    pub snapshot: String,
    pub deadline_ms: u64,
    /// The name of the hook, where the verb is one; else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hook: String,
    /// Only for `preflight`: a person allowed the code to go back further than the database's migrations.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub across_migrations: bool,
    /// How the traffic is to be divided, where the step is on [`Step::TRAFFIC`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    /// Only for `fetch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artefact: Option<Artefact>,
    /// Only for `verify`: everything once, without the window, for what has been running all along.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_once: bool,
    /// A step of going forward: what was left as bad is refused, and the lease begins with the switch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forward: bool,
}

impl Step {
    /// What a step that is about the traffic stands on in place of a component; no component is called so.
    pub const TRAFFIC: &str = "traffic";
}

/// How a proxy divides the traffic. What is not listed gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// Percent by group; the sum is 100, and none is 0.
    pub groups: BTreeMap<String, u32>,
    /// Hosts of those groups that get nothing.
    pub out: BTreeSet<String>,
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |(group, percent): (&String, &u32)| format!("{group} {percent} %");
        f.write_str(&self.groups.iter().map(share).collect::<Vec<_>>().join(", "))?;
        if self.out.is_empty() {
            return Ok(());
        }
        let out: Vec<&str> = self.out.iter().map(String::as_str).collect();
        write!(f, " without {}", out.join(", "))
    }
}

/// What a release is made of, in one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artefact {
    /// The name of a source in the policy.
    pub source: String,
    /// What it is called there.
    pub name: String,
    /// `sha256:HEX`, `tree:HEX` or `git:HEX`.
    pub digest: String,
}

/// What can be done to a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    Preflight,
    Snapshot,
    Stage,
    Stop,
    Switch,
    Start,
    Verify,
    Discard,
    Check,
    Reload,
    Hook,
    Fetch,
    SetWeights,
    Drain,
}

impl Verb {
    /// Whether it changes what serves, so that it has something to undo.
    pub fn cuts(self) -> bool {
        match self {
            Self::Stop | Self::Switch | Self::Start | Self::Reload | Self::SetWeights => true,
            Self::Preflight
            | Self::Snapshot
            | Self::Stage
            | Self::Verify
            | Self::Discard
            | Self::Check
            | Self::Hook
            | Self::Fetch
            | Self::Drain => false,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Preflight => "preflight",
            Self::Snapshot => "snapshot",
            Self::Stage => "stage",
            Self::Stop => "stop",
            Self::Switch => "switch",
            Self::Start => "start",
            Self::Verify => "verify",
            Self::Discard => "discard",
            Self::Check => "check",
            Self::Reload => "reload",
            Self::Hook => "hook",
            Self::Fetch => "fetch",
            Self::SetWeights => "set weights",
            Self::Drain => "drain",
        })
    }
}

/// How things were just before a step: what undoes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Before {
    Nothing,
    /// The services of the component that ran.
    Running(Vec<String>),
    /// The exact hash of what was live.
    Live(String),
    /// How the traffic was divided; none where nothing had been set.
    Weights(Option<Weights>),
}

/// What a step showed that was measured after the fact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub component: String,
    /// The digest of the live tree after the switch and before the start.
    pub snapshot: Option<String>,
    pub version: Option<String>,
    pub stable_ms: u64,
    /// What was live before the switch.
    pub replaced: Option<String>,
    /// Its content hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_content: Option<String>,
    pub notes: Vec<String>,
    /// How the proxy divides the traffic, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
}

/// The last word on a track.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    pub end: End,
    /// Why it is not done; empty where it is.
    pub reason: String,
}

/// How a track ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Every step done.
    Done,
    /// Taken back: the host is as it was.
    Undone,
    /// The wanted release is in place but not verified: it was left so by order, or was only to be looked at.
    Left,
    /// Neither: a person has to look.
    Stuck,
}
