//! The traffic of a fleet, as an edge host divides it: the verbs on `traffic`, and the proxies that they are done with.
//!
//! ```text
//! step on `traffic` ─▶ Traffic ─┬─ division   percents by group ⇄ one weight for each host (pure)
//!                               ├─ reach      which hosts answer here, and as which version
//!                               ├─ record     what was asked, on the disk first
//!                               └─ Proxy      nginx │ haproxy │ sandbox: test, set, observe, open
//! ```
//!
//! | verb        | what it means |
//! |-------------|---------------|
//! | preflight   | the division is one, every group of it has a host that answers, and the proxy would take it; nothing changes |
//! | set weights | hosts that are given traffic answer; asked is on the disk; the proxy does it and says so itself |
//! | drain       | nothing is open any more to hosts that get nothing, or the policy's time is over |
//! | verify      | the running proxy divides as asked, and who gets traffic answers with the wanted version |
//!
//! A host that had no traffic and does not answer is not given any: it is left out and named, and stays an alarm. A group
//! that would have none left is an error before anything changes.
//!
//! Invariant: what is reported as observed was said by the running proxy.
//! Invariant: set weights ends with what was asked in force, or with what was before; else it says which of the two.
//! Invariant: taking back asks no host: what was before comes back as it was.

mod division;
mod file;
mod haproxy;
#[cfg(test)]
mod hosts;
mod judge;
mod nginx;
mod reach;
mod record;
mod sandbox;
mod set;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    time::Duration,
};

use proto::policy::{ProxyPolicy, TrafficPolicy};
use tokio::time::{Instant, timeout};

use self::{
    haproxy::Haproxy,
    nginx::Nginx,
    reach::Reach,
    record::{Asked, Record},
    sandbox::Sandbox,
};
use crate::{
    drivers::Doing,
    finding::Finding,
    http::{Client, HttpError},
    ledger::Found,
    order::{Before, Evidence, Step, Verb, Weights},
    status::{Problem, TrafficStatus},
};

/// How long the proxy may take when the host is only looked at.
const GLANCE: Duration = Duration::from_secs(2);
/// What sets the traffic anew, whatever is wrong with how it is divided.
const SET_ANEW: &str = "`ctl switch --to SLOT`";

/// What a step says, and what it showed.
type Shown = Result<(String, Option<Evidence>), String>;

/// What divides the traffic.
trait Proxy: fmt::Debug + Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether it would take a division. Nothing that serves changes.
    fn test<'a>(&'a self, to: &'a Weights, deadline: Instant) -> Doing<'a, Result<(), String>>;

    /// Makes it live, for restarts of the proxy too. Where that fails, what was before is put back; the words say whether
    /// it was.
    fn set<'a>(&'a self, to: &'a Weights, deadline: Instant) -> Doing<'a, Result<(), String>>;

    /// What the running proxy does; none where nothing was ever set.
    fn observe(&self) -> Doing<'_, Result<Option<Weights>, String>>;

    /// What is open to these hosts.
    fn open<'a>(&'a self, hosts: &'a BTreeSet<String>) -> Doing<'a, Result<Open, String>>;

    /// Why it will not go on as it runs now, where something beside it was changed. Cheap.
    fn troubles(&self) -> Doing<'_, Vec<Problem>>;

    /// What has to be there for it, good and bad. Changes nothing.
    fn findings(&self) -> Doing<'_, Vec<Finding>>;
}

/// Connections or requests that have not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Open {
    /// By host; those without any are left out.
    hosts: BTreeMap<String, u64>,
    /// Parts of the proxy that go by an earlier division until they end.
    old: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Traffic {
    policy: TrafficPolicy,
    proxy: Box<dyn Proxy>,
    reach: Reach,
    record: Record,
}

impl Traffic {
    /// The traffic of a policy, with the agent's state in `state`. Asks and starts nothing.
    pub fn new(policy: &TrafficPolicy, state: &Path) -> Result<Self, HttpError> {
        let http = Client::new()?;
        let proxy: Box<dyn Proxy> = match &policy.through {
            ProxyPolicy::Nginx(nginx) => Box::new(Nginx::new(nginx, policy, state, http.clone())),
            ProxyPolicy::Haproxy(haproxy) => Box::new(Haproxy::new(haproxy, policy)),
            ProxyPolicy::Sandbox(sandbox) => Box::new(Sandbox::new(sandbox, policy)?),
        };
        Ok(Self::with(proxy, http, policy, state))
    }

    fn with(proxy: Box<dyn Proxy>, http: Client, policy: &TrafficPolicy, state: &Path) -> Self {
        let (reach, record) = (Reach::new(http, policy), Record::new(state));
        Self { policy: policy.clone(), proxy, reach, record }
    }

    /// Why a step is refused before anything begins, where it is.
    pub fn forbidden(&self, step: &Step) -> Option<String> {
        match (step.verb, &step.weights) {
            (Verb::Preflight | Verb::SetWeights | Verb::Verify, None) => {
                Some(format!("`{}` of traffic does not say how it is to be divided", step.verb))
            }
            (Verb::Preflight | Verb::SetWeights | Verb::Verify | Verb::Drain, Some(weights)) => {
                division::refusal(&self.policy.groups, weights)
            }
            (Verb::Drain, None) => None,
            (
                Verb::Snapshot
                | Verb::Stage
                | Verb::Stop
                | Verb::Switch
                | Verb::Start
                | Verb::Discard
                | Verb::Check
                | Verb::Reload
                | Verb::Hook
                | Verb::Fetch,
                _,
            ) => Some(format!("`{}` is not done to traffic", step.verb)),
        }
    }

    /// How things are before a step: what undoes it.
    pub async fn look(&self, step: &Step) -> Result<Before, String> {
        if step.verb != Verb::SetWeights {
            return Ok(Before::Nothing);
        }
        match self.proxy.observe().await {
            Ok(observed) => Ok(Before::Weights(observed)),
            // It may not run at all, and this is to start it.
            Err(why) => {
                tracing::warn!(
                    why,
                    "the proxy cannot be asked; what it was told last stands for it"
                );
                Ok(Before::Weights(self.record.read()?.asked.map(|asked| asked.told())))
            }
        }
    }

    /// Does a step.
    pub async fn perform(&self, step: &Step) -> Shown {
        if let Some(why) = self.forbidden(step) {
            return Err(why);
        }
        match step.verb {
            Verb::Preflight => self.preflight(step).await,
            Verb::SetWeights => self.set_weights(step).await,
            Verb::Drain => self.drain(step).await,
            Verb::Verify => self.verify(step).await,
            Verb::Snapshot
            | Verb::Stage
            | Verb::Stop
            | Verb::Switch
            | Verb::Start
            | Verb::Discard
            | Verb::Check
            | Verb::Reload
            | Verb::Hook
            | Verb::Fetch => Err(format!("`{}` is not done to traffic", step.verb)),
        }
    }

    /// After a crash: how far a step, or its undo, got. Where the proxy cannot be asked it is done again: that does no
    /// harm, and starts a proxy that does not run.
    pub async fn observe(
        &self,
        step: &Step,
        before: &Before,
        undo: bool,
    ) -> Result<(Found, Option<Evidence>), String> {
        let (Verb::SetWeights, Some(weights)) = (step.verb, &step.weights) else {
            return Ok((Found::NotDone, None));
        };
        let before = match before {
            Before::Weights(before) => before.as_ref().map(|before| self.plain(before)),
            Before::Nothing | Before::Running(_) | Before::Live(_) => {
                return Err(format!(
                    "the ledger does not say how things were before {}",
                    step.verb
                ));
            }
        };
        let asked = self.record.read()?.asked.filter(|asked| asked.weights == *weights);
        let told = asked.map(|asked| self.plain(&asked.told()));
        let running = self.proxy.observe().await.ok().flatten();
        // What runs has to be what a restart of the proxy brings back, too.
        let settled = self.proxy.troubles().await.is_empty();
        let (wanted, other) = if undo { (before, told) } else { (told, before) };
        let found = match running {
            Some(running) if settled && wanted.as_ref() == Some(&running) => {
                let evidence = (!undo).then(|| evidence(&running));
                return Ok((Found::Done, evidence));
            }
            running if running == other => Found::NotDone,
            Some(_) | None => Found::Partial,
        };
        Ok((found, None))
    }

    /// How the traffic is divided now.
    pub async fn status(&self) -> TrafficStatus {
        let mut status =
            TrafficStatus { driver: self.proxy.name().to_owned(), ..TrafficStatus::default() };
        let problem = |what: String, mend: &str| Problem { what, mend: mend.into(), warns: false };
        let asked = match self.record.read() {
            Ok(known) => known.asked,
            Err(why) => {
                status.problems.push(problem(why, SET_ANEW));
                None
            }
        };
        let observed = timeout(GLANCE, self.proxy.observe()).await;
        let observed = observed.unwrap_or_else(|_| Err(format!("no answer within {GLANCE:?}")));
        match observed {
            Ok(observed) => status.observed = observed,
            Err(why) => {
                let what = format!("how the traffic is divided cannot be told: {why}");
                status.problems.push(problem(what, &format!("see that it runs; then {SET_ANEW}")));
            }
        }
        match (&asked, &status.observed) {
            (None, None) if status.problems.is_empty() => {
                let what = "how the traffic is to be divided was never said".to_owned();
                status.problems.push(problem(what, SET_ANEW));
            }
            (Some(asked), Some(observed)) if self.plain(&asked.told()) != *observed => {
                let what = format!("traffic goes to {observed}; asked was {}", asked.told());
                status.problems.push(problem(what, SET_ANEW));
            }
            (Some(_), None) if status.problems.is_empty() => {
                let what = "the proxy knows nothing of what was asked of it".to_owned();
                status.problems.push(problem(what, SET_ANEW));
            }
            (Some(_) | None, Some(_) | None) => {}
        }
        if let Some(Asked { left_out, .. }) = asked.as_ref().filter(|one| !one.left_out.is_empty())
        {
            let names = division::listed(left_out);
            let what = format!("{names} did not answer when the traffic was set, and gets nothing");
            let mend = format!("see why; once it answers, {SET_ANEW}");
            status.problems.push(Problem { what, mend, warns: true });
        }
        if let Ok(troubles) = timeout(GLANCE, self.proxy.troubles()).await {
            status.problems.extend(troubles);
        }
        status.asked = asked.map(|asked| asked.weights);
        status
    }

    /// What has to be there for the proxy, good and bad. Changes nothing.
    pub async fn findings(&self) -> Vec<Finding> {
        let mut found = self.proxy.findings().await;
        if let Err(why) = self.record.read() {
            found.push(Finding::of_words("what was asked of the proxy", &why));
        }
        found
    }

    fn plain(&self, weights: &Weights) -> Weights {
        division::plain(&self.policy.groups, weights)
    }

    /// The hosts that get traffic by a division.
    fn reached(&self, weights: &Weights) -> BTreeSet<String> {
        division::reached(&self.policy.groups, weights)
    }
}

/// What a step asks for.
fn asked(step: &Step) -> Result<&Weights, String> {
    let missing = || format!("`{}` of traffic does not say how it is to be divided", step.verb);
    step.weights.as_ref().ok_or_else(missing)
}

/// That the running proxy says so.
fn evidence(observed: &Weights) -> Evidence {
    Evidence {
        component: Step::TRAFFIC.to_owned(),
        weights: Some(observed.clone()),
        ..Evidence::default()
    }
}
