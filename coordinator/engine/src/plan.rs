//! The plan: everything that an operation will do, fixed before it begins.
//!
//! ```text
//! Plan ─ stages ─ batches ─ tracks (one host) ─ steps (one verb on one component)
//! ```
//!
//! Invariant: a [`Plan`] was validated by [`Plan::new`]; nothing later checks it again.
//! Invariant: equal plans have equal hashes; there is no time in a plan.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    canary::MetricSource,
    fleet::{LateHosts, OnFailure},
    judge::Analysis,
    name::{ComponentName, FleetName, GroupName, HostName, OperationId, ReleaseName, SnapshotHash},
    weights::{Artefact, Weights},
};

/// More hosts than this in one plan are refused.
pub(crate) const HOSTS_MAX: usize = 10_000;
/// More steps than this on one host in one stage are refused; by agents too.
pub(crate) const STEPS_MAX: usize = 64;

/// A validated, immutable plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PlanDraft", into = "PlanDraft")]
pub struct Plan {
    draft: PlanDraft,
    hash: String,
}

impl std::ops::Deref for Plan {
    type Target = PlanDraft;

    fn deref(&self) -> &PlanDraft {
        &self.draft
    }
}

/// The parts of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanDraft {
    pub kind: OperationKind,
    pub fleet: FleetName,
    pub app: String,
    /// What is live; absent where it is not known or where hosts differ.
    pub from: Option<ReleaseName>,
    pub to: Option<ReleaseName>,
    /// One sentence.
    pub why_target: String,
    pub stages: Vec<Stage>,
    /// Every host of the fleet, each once.
    pub hosts: Vec<PlannedHost>,
    /// What a full success does to the fleet beside moving it.
    pub marks_from_bad: bool,
    pub freezes: bool,
    pub on_failure: OnFailure,
    pub late_hosts: LateHosts,
    pub deadline_ms: u64,
    /// How long a host may be silent before it counts as unknown.
    pub unknown_after_ms: u64,
    pub interruption: Vec<String>,
    pub not_rolled_back: Vec<String>,
    pub warnings: Vec<String>,
    /// How the traffic was divided when the plan was made, and will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_before: Option<Weights>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_after: Option<Weights>,
}

/// What an operation is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationKind {
    Rollback,
    /// Takes back an earlier operation.
    Undo(OperationId),
    /// Takes a snapshot on every host.
    Snapshot,
    /// Reads every byte of a release's snapshots.
    Check,
    /// Brings a release's artefacts to the hosts.
    Fetch,
    /// Puts a release live.
    Deploy,
    /// Moves traffic to another slot.
    Switch,
}

impl OperationKind {
    /// The first letters of its operations' ids.
    pub fn prefix(&self) -> &'static str {
        match self {
            Self::Rollback => "rb",
            Self::Undo(_) => "un",
            Self::Snapshot => "sn",
            Self::Check => "ck",
            Self::Fetch => "ft",
            Self::Deploy => "dp",
            Self::Switch => "sw",
        }
    }
}

/// A host of the fleet and what the plan means for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedHost {
    pub host: HostName,
    pub group: GroupName,
    pub from: Option<ReleaseName>,
    /// Whether its agent was connected when the plan was made.
    pub reachable: bool,
    /// Why it has no track, where it has none.
    pub left_out: Option<String>,
}

/// Hosts that act together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub name: String,
    pub batches: Vec<Batch>,
    pub budget: Budget,
    /// How long it must have held before the next stage begins.
    pub soak_ms: u64,
    pub cuts_capacity: bool,
    /// Once it has ended well, no host that gets traffic runs what the plan leaves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mitigates: bool,
    /// Its effect is meant for the stages before this one: where the run halts before that begins, or before it has done
    /// on a host what it is to change there, it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<usize>,
    /// Stages of one series share their budget: it is that of the hosts of all of them. The index of the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<usize>,
    /// What must hold before the next stage begins, beside the soak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
}

/// A share of the traffic goes to the canary. The next stage begins once the judge says pass; where he says fail, all
/// is taken back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    pub canary: GroupName,
    pub weight: u32,
    /// A person has to promote it, whatever the judge says.
    pub asks: bool,
    pub analysis: Analysis,
    pub source: MetricSource,
}

impl Stage {
    /// All its tracks, in order.
    pub fn tracks(&self) -> impl Iterator<Item = &Track> {
        self.batches.iter().flat_map(|batch| &batch.tracks)
    }
}

/// Hosts that begin together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    pub tracks: Vec<Track>,
}

/// How many hosts may be lost before the operation halts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub failed: u32,
    pub unknown: u32,
    /// Failed, unknown and in work together.
    pub out: u32,
}

/// The ordered steps of one host in one stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Track {
    pub host: HostName,
    pub steps: Vec<Step>,
}

impl Track {
    /// The longest that it may take, its undo included: what is done can take as long to take back.
    pub fn deadline_ms(&self) -> u64 {
        let forward: u64 = self.steps.iter().map(|step| step.deadline_ms).sum();
        forward.saturating_mul(2)
    }

    /// Whether it only verifies what is in place: it changes nothing, so that nothing of it can be taken back.
    pub fn only_looks(&self) -> bool {
        self.steps.iter().all(|step| step.verb == Verb::Verify)
    }
}

/// One verb on one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub verb: Verb,
    pub component: ComponentName,
    pub target: Option<Target>,
    pub deadline_ms: u64,
    /// The name of the hook, where the verb is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
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
    /// A step of going forward: the host refuses what was left as bad, and its lease begins with the switch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forward: bool,
}

impl Step {
    /// What a step that is about the traffic stands on in place of a component; no component is called so.
    pub const TRAFFIC: &str = "traffic";
}

/// What a step brings a component to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub release: ReleaseName,
    /// Absent only where the step makes it: `snapshot`.
    pub snapshot: Option<SnapshotHash>,
}

/// What can be done to a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// Whether it takes capacity away or changes what is live.
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

/// Why a draft is not a plan. Each is a defect of a planner, never of an operator's input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("{0} hosts in one plan, at most {HOSTS_MAX}")]
    TooManyHosts(usize),
    #[error("{host} has {steps} steps in stage `{stage}`, at most {STEPS_MAX} and at least one")]
    StepCount { host: HostName, stage: String, steps: usize },
    #[error("{host} is twice in stage `{stage}`")]
    HostTwice { host: HostName, stage: String },
    #[error("{0} is twice in the list of hosts")]
    ListedTwice(HostName),
    #[error("{0} has a track but is not listed, or is listed as left out")]
    NotListed(HostName),
    #[error("{0} is listed without a reason to be left out, but has no track")]
    NoTrack(HostName),
    #[error("stage `{0}` has an empty batch")]
    EmptyBatch(String),
    #[error("a batch of stage `{stage}` takes {size} hosts out, its budget allows {out}")]
    BatchOverBudget { stage: String, size: usize, out: u32 },
    #[error("stage `{0}` has a step that cuts capacity but is not declared to")]
    HiddenCut(String),
    #[error(
        "{host}: `switch {component}` stands neither between a stop and a start nor before a reload, with a verify after them"
    )]
    SwitchOutOfOrder { host: HostName, component: ComponentName },
    #[error(
        "{host}: a step of {component} is a hook without a name, or has the name of one and is none"
    )]
    HookName { host: HostName, component: ComponentName },
    #[error("{host}: hook `{hook}` belongs to {component}, which is not switched there")]
    HookWithoutSwitch { host: HostName, component: ComponentName, hook: String },
    #[error("{host}: a step has no deadline")]
    NoDeadline { host: HostName },
    #[error("a plan without a deadline")]
    NoPlanDeadline,
}

impl Plan {
    /// Validates a draft.
    pub fn new(draft: PlanDraft) -> Result<Self, PlanError> {
        check_hosts(&draft)?;
        for stage in &draft.stages {
            check_stage(stage)?;
        }
        if draft.deadline_ms == 0 && !draft.stages.is_empty() {
            return Err(PlanError::NoPlanDeadline);
        }
        let bytes =
            serde_json::to_vec(&draft).expect("a draft has only strings, numbers and lists");
        let hash = blake3::hash(&bytes).to_hex().to_string();
        Ok(Self { draft, hash })
    }

    /// All of the hash, in hex.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What a person types for it.
    pub fn id(&self) -> &str {
        &self.hash[..8]
    }

    /// The hosts on which it can change what is live, each once.
    pub fn moved_hosts(&self) -> Vec<HostName> {
        let of_host = |track: &&Track| {
            let mut steps = track.steps.iter();
            steps.any(|step| step.verb.cuts() && step.component.as_str() != Step::TRAFFIC)
        };
        let tracks = self.draft.stages.iter().flat_map(Stage::tracks).filter(of_host);
        let hosts: std::collections::BTreeSet<&HostName> =
            tracks.map(|track| &track.host).collect();
        hosts.into_iter().cloned().collect()
    }

    /// The hosts that run what it goes to, or are about to, when the stages before this one have ended.
    pub fn on_target_before(&self, stage: usize) -> Vec<HostName> {
        let on_component = |track: &&Track| {
            let moves = |step: &Step| match step.verb {
                Verb::Switch | Verb::Start | Verb::Verify | Verb::Reload => {
                    step.component.as_str() != Step::TRAFFIC
                }
                Verb::Preflight
                | Verb::Snapshot
                | Verb::Stage
                | Verb::Stop
                | Verb::Discard
                | Verb::Check
                | Verb::Hook
                | Verb::Fetch
                | Verb::SetWeights
                | Verb::Drain => false,
            };
            track.steps.iter().any(moves)
        };
        let stages = self.draft.stages.iter().take(stage);
        let tracks = stages.flat_map(Stage::tracks).filter(on_component);
        let hosts: std::collections::BTreeSet<&HostName> =
            tracks.map(|track| &track.host).collect();
        hosts.into_iter().cloned().collect()
    }

    /// The fleet is where it should be already.
    pub fn nothing_to_do(&self) -> bool {
        self.draft.stages.is_empty()
    }
}

impl TryFrom<PlanDraft> for Plan {
    type Error = PlanError;

    fn try_from(draft: PlanDraft) -> Result<Self, PlanError> {
        Self::new(draft)
    }
}

impl From<Plan> for PlanDraft {
    fn from(plan: Plan) -> Self {
        plan.draft
    }
}

fn check_hosts(draft: &PlanDraft) -> Result<(), PlanError> {
    if draft.hosts.len() > HOSTS_MAX {
        return Err(PlanError::TooManyHosts(draft.hosts.len()));
    }
    let mut listed = BTreeSet::new();
    let mut planned = BTreeSet::new();
    for row in &draft.hosts {
        if !listed.insert(&row.host) {
            return Err(PlanError::ListedTwice(row.host.clone()));
        }
        if row.left_out.is_none() {
            planned.insert(&row.host);
        }
    }
    let mut tracked = BTreeSet::new();
    for track in draft.stages.iter().flat_map(Stage::tracks) {
        if !planned.contains(&track.host) {
            return Err(PlanError::NotListed(track.host.clone()));
        }
        tracked.insert(&track.host);
    }
    match planned.difference(&tracked).next() {
        Some(host) => Err(PlanError::NoTrack((*host).clone())),
        None => Ok(()),
    }
}

fn check_stage(stage: &Stage) -> Result<(), PlanError> {
    let mut seen = BTreeSet::new();
    for batch in &stage.batches {
        if batch.tracks.is_empty() {
            return Err(PlanError::EmptyBatch(stage.name.clone()));
        }
        if stage.cuts_capacity && batch.tracks.len() > stage.budget.out as usize {
            let size = batch.tracks.len();
            return Err(PlanError::BatchOverBudget {
                stage: stage.name.clone(),
                size,
                out: stage.budget.out,
            });
        }
        for track in &batch.tracks {
            if !seen.insert(&track.host) {
                return Err(PlanError::HostTwice {
                    host: track.host.clone(),
                    stage: stage.name.clone(),
                });
            }
            check_track(stage, track)?;
        }
    }
    Ok(())
}

fn check_track(stage: &Stage, track: &Track) -> Result<(), PlanError> {
    let steps = track.steps.len();
    if steps == 0 || steps > STEPS_MAX {
        return Err(PlanError::StepCount {
            host: track.host.clone(),
            stage: stage.name.clone(),
            steps,
        });
    }
    if track.steps.iter().any(|step| step.deadline_ms == 0) {
        return Err(PlanError::NoDeadline { host: track.host.clone() });
    }
    if !stage.cuts_capacity && track.steps.iter().any(|step| step.verb.cuts()) {
        return Err(PlanError::HiddenCut(stage.name.clone()));
    }
    for (index, step) in track.steps.iter().enumerate() {
        if (step.verb == Verb::Hook) != step.hook.is_some() {
            let (host, component) = (track.host.clone(), step.component.clone());
            return Err(PlanError::HookName { host, component });
        }
        if step.verb == Verb::Switch {
            check_switch(track, index)?;
        }
        if let Some(hook) = &step.hook
            && !has(&track.steps, Verb::Switch, &step.component)
        {
            let (host, component) = (track.host.clone(), step.component.clone());
            return Err(PlanError::HookWithoutSwitch { host, component, hook: hook.clone() });
        }
    }
    Ok(())
}

/// Its services are stopped before and started after, or read their files anew; and are verified in the end.
fn check_switch(track: &Track, index: usize) -> Result<(), PlanError> {
    let component = &track.steps[index].component;
    let (before, after) = (&track.steps[..index], &track.steps[index + 1..]);
    let restarts = has(before, Verb::Stop, component) && has(after, Verb::Start, component);
    let stays = [Verb::Stop, Verb::Start].iter().all(|verb| !has(&track.steps, *verb, component));
    let reloads = stays && has(after, Verb::Reload, component);
    if (restarts || reloads) && has(after, Verb::Verify, component) {
        return Ok(());
    }
    let (host, component) = (track.host.clone(), component.clone());
    Err(PlanError::SwitchOutOfOrder { host, component })
}

fn has(steps: &[Step], verb: Verb, component: &ComponentName) -> bool {
    steps.iter().any(|step| step.verb == verb && step.component == *component)
}
