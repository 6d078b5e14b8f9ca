//! Drafts of plans to run: more shapes than the planner makes today.

use engine::{
    Batch, Budget, Event, FleetName, GroupName, HostName, LateHosts, OnFailure, Operation,
    OperationId, OperationKind, Plan, PlanDraft, PlannedHost, ReleaseName, SnapshotHash, Stage,
    Step, Target, Track, Verb,
};

/// A stage in short: who acts together, and under which budget.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) batches: Vec<Vec<usize>>,
    pub(crate) budget: Budget,
    pub(crate) soak_ms: u64,
    pub(crate) does: Does,
}

/// What the tracks of a stage are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    Prepare,
    Cut,
    /// Only verify what is in place.
    Look,
}

/// A plan in short.
#[derive(Clone, Debug)]
pub(crate) struct Sketch {
    pub(crate) hosts: usize,
    /// Hosts whose agents were not connected.
    pub(crate) away: Vec<usize>,
    pub(crate) stages: Vec<Shape>,
    pub(crate) late_hosts: LateHosts,
}

/// How long each step of a sketch may take.
pub(crate) const STEP_MS: u64 = 10_000;
/// After which silence a host of a sketch is unknown.
pub(crate) const UNKNOWN_AFTER_MS: u64 = 5_000;
/// How long a sketch may run.
pub(crate) const DEADLINE_MS: u64 = 600_000;

/// The name of the n-th host.
pub(crate) fn host(n: usize) -> HostName {
    HostName::new(format!("h{n:02}")).unwrap()
}

impl Sketch {
    /// Prepare all, then restore in batches of one: the usual rollback.
    pub(crate) fn usual(hosts: usize, budget: Budget) -> Self {
        let all: Vec<usize> = (0..hosts).collect();
        let prepare = Shape {
            batches: vec![all.clone()],
            budget: Budget { failed: 0, ..budget },
            soak_ms: 0,
            does: Does::Prepare,
        };
        let batches = all.iter().map(|n| vec![*n]).collect();
        let restore = Shape { batches, budget, soak_ms: 0, does: Does::Cut };
        Self { hosts, away: vec![], stages: vec![prepare, restore], late_hosts: LateHosts::Wait }
    }

    /// The plan. Hosts without a track are left out by name.
    pub(crate) fn plan(&self) -> Plan {
        let row = |n: usize| {
            let has_track = self.stages.iter().any(|s| s.batches.iter().flatten().any(|h| *h == n));
            PlannedHost {
                host: host(n),
                group: GroupName::new("blue").unwrap(),
                from: None,
                reachable: !self.away.contains(&n),
                left_out: (!has_track).then(|| "left out by --hosts".to_owned()),
            }
        };
        let stages = self.stages.iter().enumerate();
        Plan::new(PlanDraft {
            kind: OperationKind::Rollback,
            fleet: FleetName::new("prod").unwrap(),
            app: "crm".to_owned(),
            from: None,
            to: Some(ReleaseName::new("v1").unwrap()),
            why_target: "a test".to_owned(),
            stages: stages.map(|(index, shape)| shape.stage(index)).collect(),
            hosts: (0..self.hosts).map(row).collect(),
            marks_from_bad: false,
            freezes: false,
            on_failure: OnFailure::Restore,
            late_hosts: self.late_hosts,
            deadline_ms: DEADLINE_MS,
            unknown_after_ms: UNKNOWN_AFTER_MS,
            interruption: vec![],
            not_rolled_back: vec![],
            warnings: vec![],
            weights_before: None,
            weights_after: None,
        })
        .unwrap()
    }

    /// The first event of a run of it.
    pub(crate) fn opened(&self) -> Event {
        let plan = Box::new(self.plan());
        Event::Opened { plan, by: "ada".to_owned(), reason: "a test".to_owned() }
    }

    /// A run of it that has just been opened.
    pub(crate) fn open(&self) -> Operation {
        Operation::open(id(), &self.opened()).unwrap()
    }
}

/// The id of every run here.
pub(crate) fn id() -> OperationId {
    OperationId::new("rb-0001").unwrap()
}

impl Shape {
    fn stage(&self, index: usize) -> Stage {
        let track = |n: &usize| Track { host: host(*n), steps: steps(self.does) };
        let batches = self.batches.iter();
        Stage {
            name: format!("stage {index}"),
            batches: batches.map(|b| Batch { tracks: b.iter().map(track).collect() }).collect(),
            budget: self.budget,
            soak_ms: self.soak_ms,
            cuts_capacity: self.does == Does::Cut,
            mitigates: false,
            held_until: None,
            series: None,
            gate: None,
        }
    }
}

fn steps(does: Does) -> Vec<Step> {
    let verbs: &[Verb] = match does {
        Does::Prepare => &[Verb::Preflight, Verb::Stage],
        Does::Cut => &[Verb::Stop, Verb::Switch, Verb::Start, Verb::Verify],
        Does::Look => &[Verb::Verify],
    };
    let target = Target {
        release: ReleaseName::new("v1").unwrap(),
        snapshot: Some(SnapshotHash::new("a".repeat(64)).unwrap()),
    };
    let step = |verb: &Verb| Step {
        verb: *verb,
        component: engine::ComponentName::new("crm").unwrap(),
        target: Some(target.clone()),
        deadline_ms: STEP_MS,
        hook: None,
        across_migrations: false,
        weights: None,
        artefact: None,
        at_once: false,
        forward: false,
    };
    verbs.iter().map(step).collect()
}
