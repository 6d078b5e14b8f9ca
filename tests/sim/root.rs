//! Root on a host, without the coordinator: a local rollback at any moment, over whatever is at work.
//!
//! ```text
//! RootActs ─▶ worker::decide(Local) ─▶ an open track is taken back first ─▶ the local one
//!                  └─▶ Taken, to the coordinator: nothing planned before is sent there any more
//! ```

use agent::{
    ledger::Record,
    order::{LocalOrder, MadeHere, OnFailure, Step, Verb},
    worker::{self, Input, Reply},
};
use rand::RngExt as _;

use crate::world::{Due, HOSTS, Taken, Up, World};

/// A tree that no plan knows.
const OTHER_TREE: &str = "10ca1";
const DEADLINE_MS: u64 = 10_000;

impl World {
    /// The moments at which root comes.
    pub(crate) fn root_comes(&mut self) {
        for _ in 0..self.faults.root {
            let when = self.rng.random_range(0..self.faults.until_ms.max(1));
            let host = self.rng.random_range(0..HOSTS);
            self.later(when, Due::RootActs { host });
        }
    }

    /// Root types a command. Without an agent it would be one itself: the same as one that starts just then.
    pub(crate) fn root_acts(&mut self, host: usize) {
        if !self.agents[host].alive || self.agents[host].waiting.is_some() {
            return;
        }
        let (now, other) = (self.now, self.rng.random_bool(0.5));
        let leave = self.rng.random_bool(0.3);
        let tree = |component: &String| {
            if other { format!("{OTHER_TREE:0>64}") } else { self.targets[component].clone() }
        };
        let components: Vec<String> = self.machines[host].parts.keys().cloned().collect();
        let step = |verb: Verb, component: &String| Step {
            verb,
            component: component.clone(),
            release: "local".to_owned(),
            snapshot: tree(component),
            deadline_ms: DEADLINE_MS,
            hook: String::new(),
            across_migrations: false,
            weights: None,
            artefact: None,
            at_once: false,
            forward: false,
        };
        let mut steps: Vec<Step> = components.iter().map(|name| step(Verb::Stage, name)).collect();
        // The same as the agent's own local plan: what reloads is not stopped.
        let reloads = |name: &String| self.machines[host].parts[name].read.is_some();
        let stopped = components.iter().rev().filter(|name| !reloads(name));
        steps.extend(stopped.map(|name| step(Verb::Stop, name)));
        steps.extend(components.iter().map(|name| step(Verb::Switch, name)));
        let begins = |name: &String| if reloads(name) { Verb::Reload } else { Verb::Start };
        steps.extend(components.iter().map(|name| step(begins(name), name)));
        steps.extend(components.iter().map(|name| step(Verb::Verify, name)));
        let made = MadeHere {
            operation: format!("local-{now}"),
            by: "root".to_owned(),
            at_unix_ms: i64::try_from(now).expect("a short run"),
            release: "local".to_owned(),
        };
        let on_failure = if leave { OnFailure::Leave } else { OnFailure::Restore };
        self.note(|| format!("root comes to h{host}: {}", made.operation));
        self.root_orders(
            host,
            LocalOrder { made, plan_hash: "local".to_owned(), steps, on_failure, trial: None },
        );
    }

    /// What waits is begun once nothing is open.
    pub(crate) fn root_goes_on(&mut self, host: usize) {
        if self.agents[host].ledger.open().is_none()
            && let Some(order) = self.agents[host].waiting.take()
        {
            self.root_orders(host, order);
        }
    }

    pub(crate) fn root_orders(&mut self, host: usize, order: LocalOrder) {
        let input = Input::Local { order: order.clone(), forbidden: None };
        let decision = worker::decide(&self.agents[host].ledger, input);
        let accepted = decision.records.iter().find_map(|record| match record {
            Record::Accepted(order) => Some((order.key.clone(), order.fence.clone())),
            Record::Fenced(_)
            | Record::StepBegan { .. }
            | Record::Observed { .. }
            | Record::StepEnded { .. }
            | Record::TurnedBack { .. }
            | Record::UndoBegan { .. }
            | Record::UndoEnded { .. }
            | Record::Ended { .. }
            | Record::Dropped { .. }
            | Record::Trial { .. } => None,
        });
        if !self.record(host, decision.records, accepted.as_ref()) {
            return;
        }
        if decision.reply == Some(Reply::Waits) {
            self.agents[host].waiting = Some(order);
        }
        if accepted.is_some() {
            let taken = self.taken(host);
            self.send_up(host, Up::Taken(taken));
        }
        // What is taken back may have had nothing to take back.
        self.root_goes_on(host);
        self.pursue(host);
    }

    /// What a status tells of it.
    pub(crate) fn taken(&self, host: usize) -> Taken {
        let ledger = &self.agents[host].ledger;
        let newest = agent::local::operations(ledger).pop().map(|row| row.made.operation);
        Taken { newest, fence: ledger.fence().cloned() }
    }
}
