//! A host in memory: what is live, what is in its store, and steps that can be told to fail or to wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent::{
    drivers::Doing,
    hands::{About, Hands},
    host::VERBS,
    ledger::{Found, StepResult},
    local::{Import, Imported, Shape},
    order::{Before, Evidence, Step, Verb, Weights},
    probe::Prober,
    retention::{Ask, Report},
    sampler::{Answered, Sampled},
    status::{CheckStatus, ComponentStatus, HostStatus, Problem, Snapshot, TrafficStatus},
};
use proto::policy::{
    CheckPolicy, ProbePolicy, TcpProbe, default_every, default_pass, default_timeout,
};
use tokio::sync::Semaphore;

/// The one component of a scripted host.
pub const COMPONENT: &str = "crm";

/// See the module. Survives the agent that uses it, as a host does.
#[derive(Debug)]
pub struct ScriptedHands {
    state: Mutex<State>,
    /// One permit per step of the verb that may pass, where steps of it wait.
    gate: Semaphore,
}

#[derive(Clone, Debug)]
struct State {
    live: String,
    running: bool,
    held: bool,
    releases: Vec<String>,
    fail: Option<(Verb, String)>,
    wait: Option<Verb>,
    performed: Vec<String>,
    damage: String,
    verified_at_unix_ms: i64,
    problems: Vec<Problem>,
    /// Its check `payment` fails.
    sick: bool,
    sampled: bool,
    /// An app that really is there is asked this all the time.
    asks: Option<CheckPolicy>,
    /// It is an edge, and divides the traffic so.
    divides: Option<Weights>,
}

/// The exact hash that stands for a release here.
pub fn hash(release: &str) -> String {
    let digits: String = release.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits:0>64}")
}

impl ScriptedHands {
    /// A host on which `live` runs and which holds snapshots of `releases`, oldest first.
    pub fn new(live: &str, releases: &[&str]) -> Arc<Self> {
        let state = State {
            live: live.to_owned(),
            running: true,
            held: false,
            releases: releases.iter().map(|release| (*release).to_owned()).collect(),
            fail: None,
            wait: None,
            performed: Vec::new(),
            damage: String::new(),
            verified_at_unix_ms: jiff::Timestamp::now().as_millisecond(),
            problems: Vec::new(),
            sick: false,
            sampled: false,
            asks: None,
            divides: None,
        };
        Arc::new(Self { state: Mutex::new(state), gate: Semaphore::new(0) })
    }

    /// Every snapshot is damaged from now on; not, where there is nothing to say.
    pub fn damage(&self, what: &str) {
        what.clone_into(&mut self.lock().damage);
    }

    /// Something on the host is in the way of a rollback.
    pub fn problem(&self, what: &str, mend: &str) {
        let problem = Problem { what: what.to_owned(), mend: mend.to_owned(), warns: false };
        self.lock().problems.push(problem);
    }

    /// Its check `payment` is asked all the time, where this is called before an agent uses it.
    pub fn is_sampled(&self) {
        self.lock().sampled = true;
    }

    /// Its app is a real one, which is asked this all the time, where this is called before an agent uses it.
    pub fn asks(&self, check: CheckPolicy) {
        self.lock().asks = Some(check);
    }

    /// It is an edge, and all its traffic goes to this group.
    pub fn divides(&self, group: &str) {
        let groups = [(group.to_owned(), 100)].into();
        self.lock().divides = Some(Weights { groups, out: [].into() });
    }

    /// Whether its check `payment` passes from now on.
    pub fn pays(&self, well: bool) {
        self.lock().sick = !well;
    }

    /// No snapshot was ever read back.
    pub fn never_verified(&self) {
        self.lock().verified_at_unix_ms = 0;
    }

    /// Steps of this verb fail from now on.
    pub fn fail(&self, verb: Verb, why: &str) {
        self.lock().fail = Some((verb, why.to_owned()));
    }

    /// Steps work again.
    pub fn mend(&self) {
        self.lock().fail = None;
    }

    /// Steps of this verb wait from now on until they are let go.
    pub fn hold_back(&self, verb: Verb) {
        self.lock().wait = Some(verb);
    }

    /// Lets steps go that wait, and none waits any more.
    pub fn let_go(&self) {
        self.lock().wait = None;
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// What is live.
    pub fn live(&self) -> String {
        self.lock().live.clone()
    }

    /// Whether its service runs.
    pub fn runs(&self) -> bool {
        self.lock().running
    }

    /// What was done, in order: `stop`, `undo stop`.
    pub fn performed(&self) -> Vec<String> {
        self.lock().performed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act(&self, step: &Step) -> Result<Evidence, String> {
        let mut state = self.lock();
        if let Some((_, why)) = state.fail.clone().filter(|(verb, _)| *verb == step.verb) {
            return Err(why);
        }
        state.performed.push(step.verb.to_string());
        let mut evidence = Evidence { component: step.component.clone(), ..Evidence::default() };
        if step.component == Step::TRAFFIC {
            if step.verb == Verb::SetWeights {
                state.divides.clone_from(&step.weights);
            }
            evidence.weights.clone_from(&state.divides);
            return Ok(evidence);
        }
        match step.verb {
            Verb::Stop => state.running = false,
            Verb::Start => state.running = true,
            Verb::Stage => {
                evidence.replaced = Some(hash(&state.live));
                evidence.replaced_content = Some(hash(&state.live));
            }
            Verb::Switch => {
                evidence.replaced = Some(hash(&state.live));
                evidence.snapshot = Some(step.snapshot.clone());
                step.release.clone_into(&mut state.live);
            }
            Verb::Verify => evidence.version = Some(state.live.clone()),
            Verb::Snapshot => {
                let name = step.release.clone();
                if !state.releases.contains(&name) {
                    state.releases.push(name);
                }
            }
            Verb::Preflight | Verb::Discard | Verb::Check | Verb::Reload | Verb::Hook => {}
            Verb::Fetch | Verb::SetWeights | Verb::Drain => {}
        }
        Ok(evidence)
    }
}

impl Hands for ScriptedHands {
    fn forbidden(&self, step: &Step) -> Option<String> {
        let here = if self.lock().divides.is_some() { Step::TRAFFIC } else { COMPONENT };
        (step.component != here).then(|| format!("component `{}` is not here", step.component))
    }

    fn look<'a>(&'a self, step: &'a Step, _: Option<String>) -> Doing<'a, Result<Before, String>> {
        Box::pin(async move {
            let state = self.lock();
            Ok(match step.verb {
                Verb::Stop | Verb::Start => {
                    Before::Running(if state.running { vec!["app".to_owned()] } else { Vec::new() })
                }
                Verb::Switch => Before::Live(state.live.clone()),
                Verb::SetWeights => Before::Weights(state.divides.clone()),
                Verb::Preflight
                | Verb::Snapshot
                | Verb::Stage
                | Verb::Verify
                | Verb::Discard
                | Verb::Check
                | Verb::Reload
                | Verb::Hook
                | Verb::Fetch
                | Verb::Drain => Before::Nothing,
            })
        })
    }

    fn perform<'a>(&'a self, step: &'a Step, _: &'a Before) -> Doing<'a, StepResult> {
        Box::pin(async move {
            let waits = self.lock().wait == Some(step.verb);
            if waits && let Ok(permit) = self.gate.acquire().await {
                permit.forget();
            }
            match self.act(step) {
                Ok(evidence) => StepResult {
                    ok: true,
                    detail: String::new(),
                    duration_ms: 0,
                    evidence: Some(evidence),
                },
                Err(detail) => StepResult { ok: false, detail, duration_ms: 0, evidence: None },
            }
        })
    }

    fn observe<'a>(
        &'a self,
        step: &'a Step,
        _: &'a Before,
        undo: bool,
    ) -> Doing<'a, (Found, Option<Evidence>)> {
        Box::pin(async move {
            let state = self.lock();
            let done = match step.verb {
                Verb::Stop => !state.running,
                Verb::Start => state.running,
                Verb::Switch => state.live == step.release,
                Verb::Preflight
                | Verb::Snapshot
                | Verb::Stage
                | Verb::Verify
                | Verb::Discard
                | Verb::Check
                | Verb::Reload
                | Verb::Hook
                | Verb::Fetch
                | Verb::SetWeights
                | Verb::Drain => false,
            };
            (if done == undo { Found::NotDone } else { Found::Done }, None)
        })
    }

    fn undo<'a>(&'a self, step: &'a Step, before: &'a Before) -> Doing<'a, StepResult> {
        Box::pin(async move {
            let mut state = self.lock();
            match (step.verb, before) {
                (Verb::Stop | Verb::Start, Before::Running(running)) => {
                    state.running = !running.is_empty()
                }
                (Verb::Switch, Before::Live(live)) => live.clone_into(&mut state.live),
                (Verb::SetWeights, Before::Weights(before)) => state.divides.clone_from(before),
                (_, _) => {}
            }
            state.performed.push(format!("undo {}", step.verb));
            StepResult { ok: true, detail: String::new(), duration_ms: 0, evidence: None }
        })
    }

    fn status(&self) -> Doing<'_, HostStatus> {
        Box::pin(async move {
            let state = self.lock().clone();
            if let Some(divides) = state.divides {
                let traffic = TrafficStatus {
                    driver: "scripted".to_owned(),
                    asked: Some(divides.clone()),
                    observed: Some(divides),
                    problems: Vec::new(),
                };
                return HostStatus { traffic: Some(traffic), ..HostStatus::default() };
            }
            let component = ComponentStatus {
                component: COMPONENT.to_owned(),
                release: state.live.clone(),
                snapshot: hash(&state.live),
                content: hash(&state.live),
                version: if state.running { state.live.clone() } else { String::new() },
                held: state.held,
                verbs: VERBS.to_vec(),
                checks: vec![CheckStatus {
                    check: "payment".to_owned(),
                    ok: !state.sick,
                    detail: String::new(),
                }],
                problems: state.problems.clone(),
                ..ComponentStatus::default()
            };
            let snapshot = |(age, release): (i64, &String)| Snapshot {
                component: COMPONENT.to_owned(),
                exact: hash(release),
                content: hash(release),
                release: release.clone(),
                version: release.clone(),
                taken_at_unix_ms: 1_700_000_000_000 + age * 1000,
                size_bytes: 1,
                files: 1,
                damage: state.damage.clone(),
                learned_at_unix_ms: 0,
                verified_at_unix_ms: state.verified_at_unix_ms,
                staged: false,
            };
            HostStatus {
                policy_hash: String::new(),
                components: vec![component],
                snapshots: (0..).zip(&state.releases).map(snapshot).collect(),
                free_bytes: 1 << 30,
                traffic: None,
            }
        })
    }

    fn sampled(&self) -> Vec<Sampled> {
        let every = std::time::Duration::from_millis(50);
        if let Some(check) = self.lock().asks.clone() {
            return vec![Sampled { component: COMPONENT.to_owned(), check, every }];
        }
        let probe = ProbePolicy::Tcp(TcpProbe { tcp: String::new() });
        let (beat, pass, timeout) = (default_every(), default_pass(), default_timeout());
        let check = CheckPolicy { name: "payment".to_owned(), probe, every: beat, pass, timeout };
        let sampled = Sampled { component: COMPONENT.to_owned(), check, every };
        if self.lock().sampled { vec![sampled] } else { Vec::new() }
    }

    fn ask<'a>(&'a self, sampled: &'a Sampled) -> Doing<'a, Option<Answered>> {
        if self.lock().asks.is_some() {
            return Box::pin(async move {
                let prober = Prober::new().expect("a client");
                Some(prober.ask_once(&sampled.check).await)
            });
        }
        let good = !self.lock().sick;
        let took = Some(std::time::Duration::from_millis(1));
        Box::pin(async move { Some(Answered { good, took, gauges: Vec::new() }) })
    }

    fn about(&self) -> About {
        let shape = Shape {
            name: COMPONENT.to_owned(),
            reloads: false,
            stop_within_ms: 5_000,
            ready_within_ms: 5_000,
            stable_for_ms: 0,
            hooks: Vec::new(),
        };
        About { host: "scripted".to_owned(), shapes: vec![shape] }
    }

    fn import<'a>(&'a self, import: &'a Import) -> Doing<'a, Result<Imported, String>> {
        Box::pin(async move { Err(format!("{} has no files here", import.component)) })
    }

    fn prune<'a>(&'a self, _: &'a Ask) -> Doing<'a, Result<Report, String>> {
        Box::pin(async { Ok(Report::default()) })
    }
}
