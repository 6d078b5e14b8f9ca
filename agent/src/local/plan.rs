//! What a local operation will do: where to, why there, and in which steps. Pure.
//!
//! ```text
//! Shapes (policy) + HostStatus + Ledger ── make(Ask) ──▶ Plan, or why there is none
//! ```
//!
//! The agent knows no standing of a release: that is the coordinator's. It knows its snapshots, what is live, and
//! what its own ledger saw. A rollback that names no release goes to the newest one that is whole here, older than
//! the live one, verified here, and not one that this host was rolled back from.
//!
//! Invariant: the steps are those of the coordinator's planner, in its order.
//! Invariant: a release is whole on every component of the host, or it is no target.

mod target;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use proto::policy::{ComponentPolicy, HookPoint};
use serde::{Deserialize, Serialize};

use crate::{
    ledger::Ledger,
    order::{Goal, OnFailure, Step, Verb},
    status::{ComponentStatus, HostStatus},
};

/// The longest that a look takes.
const PREFLIGHT_MS: u64 = 30_000;
/// The longest that reading or writing a whole tree takes.
const COPY_MS: u64 = 10 * 60_000;
/// The longest that a switch takes: renames, and one full digest.
const SWITCH_MS: u64 = 2 * 60_000;
/// Added to what the policy allows, so that the driver's own deadline is the one that speaks.
const MARGIN_MS: u64 = 10_000;

/// A component as a planner sees it: what is done to it, and how long that may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    pub name: String,
    /// Its services read their files anew while they run; they are never stopped.
    pub reloads: bool,
    pub stop_within_ms: u64,
    pub ready_within_ms: u64,
    pub stable_for_ms: u64,
    pub hooks: Vec<Hook>,
}

/// A command of the policy, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    pub name: String,
    pub at: HookPoint,
    pub within_ms: u64,
}

impl Shape {
    /// What the policy says of a component.
    pub fn of(name: &str, policy: &ComponentPolicy) -> Self {
        let ms = |span: proto::span::Span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX);
        let hook = |hook: &proto::policy::HookPolicy| Hook {
            name: hook.name.clone(),
            at: hook.at,
            within_ms: ms(hook.within),
        };
        let services = &policy.services;
        Self {
            name: name.to_owned(),
            reloads: !services.is_empty() && services.iter().all(|row| row.driver.reloads()),
            stop_within_ms: services.iter().map(|service| ms(service.stop_within)).sum(),
            ready_within_ms: ms(policy.ready_within),
            stable_for_ms: ms(policy.stable_for),
            hooks: policy.hooks.iter().map(hook).collect(),
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    Rollback {
        /// Absent: the plan finds one.
        to: Option<String>,
        /// Where its checks do not hold, the release stays all the same.
        leave: bool,
        /// The code may go back further than the database's migrations.
        #[serde(default)]
        across_migrations: bool,
    },
    Snapshot {
        release: String,
    },
    /// Measures what is live.
    Verify,
}

/// What will be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub ask: Ask,
    /// What is live; absent where it is none that the agent knows.
    pub from: Option<String>,
    /// Where to, or what is captured or measured.
    pub release: String,
    pub why: String,
    /// The operation of a coordinator that is taken back first.
    pub first: Option<String>,
    pub warnings: Vec<String>,
    pub steps: Vec<Step>,
    pub leave: bool,
}

/// Why there is no plan. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    #[error("this host's policy has no component: there is nothing to go back")]
    NoComponents,
    #[error("no release that this host could go back to by itself")]
    NoTarget { candidates: Vec<(String, String)> },
    #[error("release `{name}` is not on this host")]
    NotKnown { name: String, known: Vec<String> },
    /// `older` is what could be gone back to instead: never taken without a word of the person who asks.
    #[error("release `{name}` is not whole on this host: {}", why.join("; "))]
    NotWhole { name: String, why: Vec<String>, older: Option<String> },
    #[error("`{0}` cannot be a release's name: {RELEASE_RULE}")]
    BadName(String),
    #[error("`{0}` is live already, unchanged, and its services run")]
    Live(String),
    #[error("this host is at work on {0}")]
    Busy(String),
}

/// What can be a release's name.
pub const RELEASE_RULE: &str = "use letters, digits, `.`, `_`, `+` and `-`, begin with a letter or digit, at most \
                                128 characters";

/// Whether a text can be a release's name; the coordinator takes no other.
pub fn is_release(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c))
}

/// Everything that a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub shapes: &'a [Shape],
    pub status: &'a HostStatus,
    pub ledger: &'a Ledger,
}

impl Plan {
    /// Tells two plans apart.
    pub fn hash(&self) -> String {
        let bytes = serde_json::to_vec(self).expect("a plan has only strings, numbers and lists");
        blake3::hash(&bytes).to_hex().to_string()
    }

    /// What a failure leads to.
    pub fn on_failure(&self) -> OnFailure {
        if self.leave { OnFailure::Leave } else { OnFailure::Restore }
    }

    /// Whether services go down or are reloaded.
    pub fn cuts(&self) -> bool {
        self.steps.iter().any(|step| step.verb.cuts())
    }
}

/// Makes a plan from the host as it is now.
///
/// # Errors
/// [`Refusal`]; nothing was changed.
pub fn make(view: View<'_>, ask: &Ask) -> Result<Plan, Refusal> {
    let shapes = in_order(view);
    if shapes.is_empty() {
        return Err(Refusal::NoComponents);
    }
    let from = live(view.status);
    let plan = |release: String, why: &str, steps| Plan {
        ask: ask.clone(),
        from: from.clone(),
        release,
        why: why.to_owned(),
        first: None,
        warnings: Vec::new(),
        steps,
        leave: false,
    };
    match ask {
        Ask::Snapshot { release } | Ask::Rollback { to: Some(release), .. }
            if !is_release(release) =>
        {
            Err(Refusal::BadName(release.clone()))
        }
        Ask::Snapshot { release } => {
            refuse_busy(view.ledger)?;
            let step = |shape: &&Shape| step(Verb::Snapshot, &shape.name, release, "", COPY_MS);
            let steps = shapes.iter().map(step).collect();
            Ok(plan(release.clone(), "what is live now, under this name", steps))
        }
        Ask::Verify => {
            refuse_busy(view.ledger)?;
            let steps = shapes.iter().map(|shape| verify_live(view.status, shape)).collect();
            let release = from.clone().unwrap_or_else(|| "what is live".to_owned());
            Ok(plan(release, "measures what is live and changes nothing", steps))
        }
        Ask::Rollback { to, leave, across_migrations } => {
            let first = to_take_back(view.ledger)?;
            let target = match to {
                Some(name) => target::named(view, name)?,
                None => target::newest_verified(view)?,
            };
            let goes: Vec<Goes<'_>> = shapes
                .iter()
                .map(|shape| goes(view.status, shape, &target, first.is_some()))
                .collect();
            if goes.iter().all(|go| go.there == There::Serves) {
                return Err(Refusal::Live(target.release));
            }
            let mut steps = steps(&goes, &target.release);
            for step in steps.iter_mut().filter(|step| step.verb == Verb::Preflight) {
                step.across_migrations = *across_migrations;
            }
            let warnings = target.warnings.clone();
            let base = plan(target.release.clone(), &target.why, steps);
            // What is live once that is taken back is not known yet.
            let from = base.from.clone().filter(|_| first.is_none());
            Ok(Plan { from, first, warnings, leave: *leave, ..base })
        }
    }
}

/// The steps of going back to exactly these snapshots (release and exact hash, by component), and of nothing else. A
/// component that the policy no longer has is named all the same: the host refuses it.
pub fn back(view: View<'_>, to: &BTreeMap<String, (String, String)>) -> Vec<Step> {
    let snapshots = to.iter().map(|(name, (_, exact))| (name.clone(), exact.clone())).collect();
    let (release, why) = (String::new(), String::new());
    let target = target::Target { release, snapshots, why, warnings: Vec::new() };
    let shapes = in_order(view).into_iter().filter(|shape| to.contains_key(&shape.name));
    let goes: Vec<Goes<'_>> =
        shapes.map(|shape| goes(view.status, shape, &target, false)).collect();
    let unknown = to.keys().filter(|name| goes.iter().all(|go| go.shape.name != **name));
    let mut all: Vec<Step> =
        unknown.map(|name| step(Verb::Preflight, name, "", &to[name].1, PREFLIGHT_MS)).collect();
    all.extend(steps(&goes, ""));
    for step in &mut all {
        step.release.clone_from(&to[&step.component].0);
    }
    all
}

/// Tells two lists of steps apart.
pub fn hash_of(steps: &[Step]) -> String {
    let bytes = serde_json::to_vec(steps).expect("steps have only strings, numbers and lists");
    blake3::hash(&bytes).to_hex().to_string()
}

/// The release that is live, where all components agree and none was changed.
fn live(status: &HostStatus) -> Option<String> {
    let known = |row: &ComponentStatus| {
        (!row.changed && !row.release.is_empty()).then(|| row.release.clone())
    };
    let first = known(status.components.first()?)?;
    let same = |row: &ComponentStatus| known(row).as_ref() == Some(&first);
    status.components.iter().all(same).then_some(first)
}

fn refuse_busy(ledger: &Ledger) -> Result<(), Refusal> {
    match ledger.open() {
        Some(open) => Err(Refusal::Busy(open.order().key.operation.clone())),
        None => Ok(()),
    }
}

/// A coordinator's operation gives way; another local one does not.
fn to_take_back(ledger: &Ledger) -> Result<Option<String>, Refusal> {
    let Some(open) = ledger.open() else { return Ok(None) };
    match open.order().origin.made_here() {
        Some(made) => Err(Refusal::Busy(made.operation.clone())),
        None => Ok(Some(open.order().key.operation.clone())),
    }
}

/// Components in the order in which they start. The policy does not say which needs which; the last order of a
/// coordinator did. Those that it did not name come by name, first.
fn in_order(view: View<'_>) -> Vec<&Shape> {
    let tracks = view.ledger.tracks().into_iter().rev().map(|track| track.order());
    let mut orders = tracks.filter(|order| {
        order.goal == Goal::Forward && order.steps.iter().any(|step| step.verb == Verb::Switch)
    });
    let last: Vec<&str> = orders.next().map_or_else(Vec::new, |order| {
        let switches = order.steps.iter().filter(|step| step.verb == Verb::Switch);
        switches.map(|step| step.component.as_str()).collect()
    });
    let place = |shape: &&Shape| last.iter().position(|name| *name == shape.name);
    let mut shapes: Vec<&Shape> = view.shapes.iter().collect();
    shapes.sort_by_key(place);
    shapes
}

/// How much of the target is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    No,
    /// The files are; a service does not run.
    Files,
    Serves,
}

struct Goes<'a> {
    shape: &'a Shape,
    snapshot: &'a str,
    there: There,
}

/// Where a track is taken back first, what is live then is not what is live now: everything is done.
fn goes<'a>(
    status: &HostStatus,
    shape: &'a Shape,
    target: &'a target::Target,
    moves: bool,
) -> Goes<'a> {
    let snapshot = target.snapshots.get(&shape.name).map_or("", String::as_str);
    let row = status.components.iter().find(|row| row.component == shape.name);
    let there = match row {
        Some(row) if !moves && !row.changed && !row.held && row.snapshot == snapshot => {
            let serves = row.services.iter().all(|service| service.running);
            if serves { There::Serves } else { There::Files }
        }
        Some(_) | None => There::No,
    };
    Goes { shape, snapshot, there }
}

/// Prepare while the old release serves; then stop all, in the reverse of their order; switch all; start all;
/// verify all. What is reloaded is not stopped: it is reloaded in the place of its start.
fn steps(goes: &[Goes<'_>], release: &str) -> Vec<Step> {
    let to = |verb, go: &Goes<'_>, ms| step(verb, &go.shape.name, release, go.snapshot, ms);
    let hooks = |go: &Goes<'_>, at| -> Vec<Step> {
        let hooks = go.shape.hooks.iter().filter(|hook| hook.at == at);
        hooks
            .map(|hook| Step {
                hook: hook.name.clone(),
                ..to(Verb::Hook, go, hook.within_ms.saturating_add(MARGIN_MS))
            })
            .collect()
    };
    let new = |go: &&Goes<'_>| go.there == There::No;
    let moves = |go: &&Goes<'_>| go.there != There::Serves;
    let mut steps = Vec::new();
    for go in goes.iter().filter(new) {
        steps.push(to(Verb::Preflight, go, PREFLIGHT_MS));
        steps.push(to(Verb::Stage, go, COPY_MS));
    }
    for go in goes.iter().rev().filter(moves) {
        steps.extend(hooks(go, HookPoint::BeforeStop));
        if !go.shape.reloads {
            steps.push(to(Verb::Stop, go, go.shape.stop_within_ms.saturating_add(MARGIN_MS)));
        }
    }
    steps.extend(goes.iter().filter(new).map(|go| to(Verb::Switch, go, SWITCH_MS)));
    for go in goes.iter().filter(moves) {
        steps.extend(hooks(go, HookPoint::BeforeStart));
        let verb = if go.shape.reloads { Verb::Reload } else { Verb::Start };
        steps.push(to(verb, go, go.shape.ready_within_ms.saturating_add(MARGIN_MS)));
        steps.extend(hooks(go, HookPoint::AfterStart));
    }
    for go in goes {
        steps.push(to(Verb::Verify, go, verify_ms(go.shape)));
        if go.there != There::Serves {
            steps.extend(hooks(go, HookPoint::AfterVerify));
        }
    }
    steps
}

/// The files are compared too where they are a release that is on record.
fn verify_live(status: &HostStatus, shape: &Shape) -> Step {
    let row = status.components.iter().find(|row| row.component == shape.name && !row.changed);
    let (release, snapshot) =
        row.map_or(("", ""), |row| (row.release.as_str(), row.snapshot.as_str()));
    step(Verb::Verify, &shape.name, release, snapshot, verify_ms(shape))
}

fn verify_ms(shape: &Shape) -> u64 {
    shape.ready_within_ms.saturating_add(shape.stable_for_ms).saturating_add(MARGIN_MS)
}

fn step(verb: Verb, component: &str, release: &str, snapshot: &str, deadline_ms: u64) -> Step {
    Step {
        verb,
        component: component.to_owned(),
        release: release.to_owned(),
        snapshot: snapshot.to_owned(),
        deadline_ms,
        hook: String::new(),
        across_migrations: false,
        weights: None,
        artefact: None,
        at_once: false,
        forward: false,
    }
}

/// A release as this host knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRow {
    pub release: String,
    pub taken_at_unix_ms: i64,
    pub size_bytes: u64,
    pub live: bool,
    /// Empty while it is whole on every component.
    pub missing: Vec<String>,
    /// What speaks for it here, in words.
    pub proof: String,
}

/// Every release here, newest first.
pub fn releases(view: View<'_>) -> Vec<ReleaseRow> {
    let live = live(view.status);
    let row = |release: String| {
        let rows = view.status.snapshots.iter().filter(|row| row.release == release);
        let (missing, proof) = match target::whole(view, &release) {
            Ok(snapshots) => (Vec::new(), target::evidence(view, &snapshots).to_string()),
            Err(why) => (why, String::new()),
        };
        ReleaseRow {
            taken_at_unix_ms: target::taken_at(view, &release),
            size_bytes: rows.map(|row| row.size_bytes).sum(),
            live: live.as_ref() == Some(&release),
            missing,
            proof,
            release,
        }
    };
    let mut rows: Vec<ReleaseRow> = target::releases(view).into_iter().map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse((row.taken_at_unix_ms, row.release.clone())));
    rows
}
