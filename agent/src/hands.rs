//! What is done to a host: the seam between the worker, which decides, and what it decides about.

use crate::{
    drivers::Doing,
    lease::Lease,
    ledger::{Found, Moment, StepResult},
    local::{Import, Imported, Shape},
    order::{Before, Evidence, Step},
    quarantine,
    retention::{Ask, Report},
    sampler::{Answered, Sampled},
    status::HostStatus,
};

/// One host's components and every verb on them. The host itself is one implementation; a host that does nothing,
/// for measuring everything else, is another.
pub trait Hands: Send + Sync + 'static {
    /// Why this host does not do such a step, where it does not.
    fn forbidden(&self, step: &Step) -> Option<String>;

    /// How things are before a step: what will undo it. `staged` is what the same operation's stage step found live.
    fn look<'a>(
        &'a self,
        step: &'a Step,
        staged: Option<String>,
    ) -> Doing<'a, Result<Before, String>>;

    /// Does the step.
    fn perform<'a>(&'a self, step: &'a Step, before: &'a Before) -> Doing<'a, StepResult>;

    /// After a crash: how far the step, or its undo, got.
    fn observe<'a>(
        &'a self,
        step: &'a Step,
        before: &'a Before,
        undo: bool,
    ) -> Doing<'a, (Found, Option<Evidence>)>;

    /// Takes a step back that was done wholly or in part.
    fn undo<'a>(&'a self, step: &'a Step, before: &'a Before) -> Doing<'a, StepResult>;

    /// How the host is now.
    fn status(&self) -> Doing<'_, HostStatus>;

    /// How long a release of a component is on trial that a deploy put there; none where it is not.
    fn lease(&self, _component: &str) -> Option<Lease> {
        None
    }

    /// Whether a component on trial holds now, on this snapshot: its services run and its checks pass, each tried once. Why
    /// not, where it does not.
    fn holds<'a>(
        &'a self,
        component: &'a str,
        _snapshot: &'a str,
    ) -> Doing<'a, Result<(), String>> {
        Box::pin(async move { Err(format!("nothing says how {component} is")) })
    }

    /// The checks that are asked all the time.
    fn sampled(&self) -> Vec<Sampled> {
        Vec::new()
    }

    /// Asks one of them once, within its timeout; none where what it says would not count, for a hold stands.
    fn ask<'a>(&'a self, _sampled: &'a Sampled) -> Doing<'a, Option<Answered>> {
        Box::pin(async { None })
    }

    /// The host's clock, by which a trial's time passes.
    fn moment(&self) -> Moment {
        Moment::now()
    }

    /// Which host it is, and what a plan has to know of its components.
    fn about(&self) -> About;

    /// Makes a release of a backup that a person has. Nothing live is touched.
    fn import<'a>(&'a self, import: &'a Import) -> Doing<'a, Result<Imported, String>>;

    /// Takes up what was left as bad: the host does not go forward to it from here on. One that goes nowhere has no use for
    /// it.
    fn quarantine<'a>(&'a self, _told: &'a quarantine::Told) -> Doing<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    /// Removes the snapshots that the host's own rules let go, but for what must stay. Nothing live is touched.
    fn prune<'a>(&'a self, ask: &'a Ask) -> Doing<'a, Result<Report, String>>;
}

/// See [`Hands::about`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    pub host: String,
    pub shapes: Vec<Shape>,
}
