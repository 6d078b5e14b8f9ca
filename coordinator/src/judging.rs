//! Feeds the judge: for each canary that stands at a weight, the samples of both sides, and his word to its runner.
//!
//! ```text
//! runners at a gate ─▶ who is canary, who is baseline (the plan) ─▶ samples since the weight was set ─▶ Judge ─▶ Input::Judged
//!                                                     agents' probes, or Prometheus ──┘                    └─▶ newest, for status
//! what the apps of both sides say of themselves ──────────────────────────────────────────────────────────────────▶ for status
//! ```
//!
//! Invariant: a judge lives for one weight; a coordinator that was started anew begins to look anew.
//! Invariant: what a source cannot tell is a gap with its own words, never a zero.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use engine::{
    Gate, HostName, Input, MetricSource, Operation, OperationId,
    judge::{Gap, Judge, Ruling, Sample, Side},
};
use tokio::{task::JoinSet, time::MissedTickBehavior};

use crate::{
    host::wall,
    measure::{Compared, CountersReader, Gauges, Samples, Servers},
    operations::Operations,
    runner::RunnerHandle,
};

/// How often the judge looks.
const LOOKS_EVERY: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub struct Judging {
    operations: Arc<Operations>,
    samples: Arc<Samples>,
    servers: Servers,
    newest: Mutex<BTreeMap<OperationId, Ruling>>,
    compared: Mutex<BTreeMap<OperationId, Compared>>,
}

/// Where a canary at a weight is looked at: whoever looks takes the watch along and brings it back.
#[derive(Debug)]
struct Desk {
    stage: usize,
    watch: Option<Watch>,
    look: JoinSet<Watch>,
}

/// A canary at a weight.
#[derive(Debug)]
struct Watch {
    judge: Judge,
    canary: Eye,
    baseline: Eye,
}

/// Where one side's samples come from, and up to when they were taken.
#[derive(Debug)]
struct Eye {
    hosts: Vec<HostName>,
    counters: Option<CountersReader>,
    /// The last interval that was taken.
    number: u64,
}

impl Judging {
    pub fn new(operations: Arc<Operations>, samples: Arc<Samples>, servers: Servers) -> Self {
        let (newest, compared) = (Mutex::default(), Mutex::default());
        Self { operations, samples, servers, newest, compared }
    }

    /// What the judge says now of an operation's canary.
    pub fn newest(&self, operation: &OperationId) -> Option<Ruling> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).get(operation).cloned()
    }

    /// What the apps of both sides say of themselves at an operation's weight; nothing where none is set. The judge does
    /// not get it.
    pub fn gauges(&self, operation: &OperationId) -> Vec<Gauges> {
        let compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        let compared = compared.get(operation).cloned();
        compared.map_or_else(Vec::new, |compared| compared.gauges(&self.samples, wall))
    }

    /// Looks for as long as the coordinator lives.
    pub async fn run(self: Arc<Self>) {
        let mut desks: BTreeMap<OperationId, Desk> = BTreeMap::new();
        let mut ticks = tokio::time::interval(LOOKS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut at_gate = BTreeMap::new();
            for runner in self.operations.running() {
                let operation = runner.view().borrow().operation.clone();
                if let Some(stage) = operation.gate_in_force() {
                    at_gate.insert(operation.id().clone(), (runner, operation, stage));
                }
            }
            let stands = |id: &OperationId| at_gate.get(id).map(|(_, _, stage)| *stage);
            desks.retain(|id, desk| stands(id) == Some(desk.stage));
            for (id, (runner, operation, stage)) in at_gate {
                let new = || Desk { stage, watch: None, look: JoinSet::new() };
                let desk = desks.entry(id).or_insert_with(new);
                if let Some(Ok(back)) = desk.look.try_join_next() {
                    desk.watch = Some(back);
                }
                // A canary whose source does not answer keeps no other one waiting.
                if !desk.look.is_empty() {
                    continue;
                }
                if let Some(watch) = desk.watch.take().or_else(|| self.watch(&operation, stage)) {
                    desk.look.spawn(self.clone().look(runner, stage, watch));
                }
            }
            let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
            newest.retain(|id, _| desks.contains_key(id));
            let mut compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
            compared.retain(|id, _| desks.contains_key(id));
        }
    }

    /// Begins to look at a weight.
    fn watch(&self, operation: &Operation, stage: usize) -> Option<Watch> {
        let (watch, compared) = Watch::of(operation, stage, &self.servers)?;
        let mut all = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(operation.id().clone(), compared);
        Some(watch)
    }

    /// One look; answers who looked, for the next one.
    async fn look(self: Arc<Self>, runner: RunnerHandle, stage: usize, mut watch: Watch) -> Watch {
        let ruling = watch.look(&self.samples).await;
        self.tell(&runner, stage, ruling).await;
        watch
    }

    async fn tell(&self, runner: &RunnerHandle, stage: usize, ruling: Ruling) {
        let id = runner.operation().clone();
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).insert(id, ruling.clone());
        runner.tell(Input::Judged { stage, ruling }).await;
    }
}

impl Watch {
    /// Also who is compared, for those who only look on.
    fn of(operation: &Operation, stage: usize, servers: &Servers) -> Option<(Self, Compared)> {
        let gate = operation.plan().stages.get(stage)?.gate.as_ref()?;
        let since = wall();
        let eye = |side| Eye::new(operation, gate, side, servers);
        let (canary, baseline) = (eye(Side::Canary), eye(Side::Baseline));
        let compared = Compared {
            canary: canary.hosts.clone(),
            baseline: baseline.hosts.clone(),
            since,
            stale_after_ms: gate.analysis.stale_after_ms,
        };
        Some((Self { judge: Judge::new(&gate.analysis, since), canary, baseline }, compared))
    }

    async fn look(&mut self, samples: &Samples) -> Ruling {
        // Both at once: a server that hangs costs one deadline.
        let (canary, baseline) =
            tokio::join!(self.canary.look(samples), self.baseline.look(samples));
        let now = wall();
        for (side, seen) in [(Side::Canary, canary), (Side::Baseline, baseline)] {
            match seen {
                Ok(new) => new.iter().for_each(|sample| self.judge.take(side, sample)),
                Err(why) => self.judge.missed(side, now, why),
            }
        }
        self.judge.ruling(now)
    }
}

impl Eye {
    fn new(operation: &Operation, gate: &Gate, side: Side, servers: &Servers) -> Self {
        let plan = operation.plan();
        let before = plan.weights_before.as_ref();
        let hosts = plan.hosts.iter().filter(|row| match side {
            Side::Canary => row.group == gate.canary && row.left_out.is_none(),
            Side::Baseline => before.is_some_and(|before| before.reaches(&row.host, &row.group)),
        });
        let hosts: Vec<HostName> = hosts.map(|row| row.host.clone()).collect();
        let counters = match &gate.source {
            MetricSource::Probes => None,
            MetricSource::Prometheus(counters) => {
                let stale_after = Duration::from_millis(gate.analysis.stale_after_ms);
                Some(CountersReader::new(servers, counters, &hosts).stale_after(stale_after))
            }
        };
        // What is older than the weight is left out by the judge.
        Self { hosts, counters, number: 0 }
    }

    /// What is new, or why nothing is.
    async fn look(&mut self, samples: &Samples) -> Result<Vec<Sample>, Gap> {
        match &mut self.counters {
            None => {
                let (new, number) = samples.after(&self.hosts, self.number);
                self.number = number;
                Ok(new)
            }
            Some(reader) => match reader.read().await {
                Ok(sample) => Ok(sample.into_iter().collect()),
                Err(error) => Err(error.gap()),
            },
        }
    }
}
