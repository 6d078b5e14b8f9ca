//! A machine: what is live, what runs, and what the steps of an agent do to it.
//!
//! ```text
//! Perform ─▶ half ─▶ whole      a switch has an instant in which the tree is neither; a crash there leaves a hold
//! ```
//!
//! What reloads reads its tree anew when it is told to, when it starts, and when its switch is taken back; until then
//! it serves what it has read.
//!
//! Invariant: this is the ground truth. The engine and the worker never read it but through looks and results.
//! Invariant: no randomness; what fails is told by the caller.

use std::collections::{BTreeMap, BTreeSet};

use agent::{
    ledger::Found,
    order::{Before, Evidence, Step, Verb, Weights},
};

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) parts: BTreeMap<String, Part>,
    /// How its proxy divides the traffic, where it is an edge.
    pub(crate) weights: Option<Weights>,
}

/// One component on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) live: Tree,
    /// The tree that its services have read, where they reload and are never stopped.
    pub(crate) read: Option<String>,
    pub(crate) staged: BTreeSet<String>,
    pub(crate) services: BTreeMap<String, bool>,
}

/// What stands at the live path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    Whole(String),
    /// Between two; a hold keeps its services from starting.
    Mixed {
        from: String,
        to: String,
    },
}

/// How far an effect goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Half,
    Whole,
}

impl Machine {
    /// Stages the wanted tree of every component.
    pub(crate) fn stage_all(&mut self, targets: &BTreeMap<String, String>) {
        for (name, part) in &mut self.parts {
            part.staged.insert(targets[name].clone());
        }
    }

    /// How things are before a step.
    pub(crate) fn look(&self, step: &Step) -> Before {
        if step.component == Step::TRAFFIC {
            return Before::Weights(self.weights.clone());
        }
        let part = &self.parts[&step.component];
        match step.verb {
            Verb::Stop | Verb::Start => Before::Running(part.running()),
            Verb::Switch => match &part.live {
                // The hold says what it was set upon.
                Tree::Whole(tree) | Tree::Mixed { from: tree, .. } => Before::Live(tree.clone()),
            },
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
            | Verb::Drain => Before::Nothing,
        }
    }

    /// What a step does. An error is a broken promise, not a failed step.
    pub(crate) fn perform(&mut self, step: &Step, extent: Extent) -> Result<(), String> {
        if step.component == Step::TRAFFIC {
            if step.verb == Verb::SetWeights && extent == Extent::Whole {
                self.weights.clone_from(&step.weights);
            }
            return Ok(());
        }
        match step.verb {
            Verb::Stage if extent == Extent::Whole => {
                self.part(step).staged.insert(step.snapshot.clone());
                Ok(())
            }
            Verb::Stop if extent == Extent::Whole => {
                self.part(step).run(|_| false);
                Ok(())
            }
            Verb::Switch => self.part(step).switch(&step.snapshot, extent),
            Verb::Reload if extent == Extent::Whole => {
                self.p04_nothing_starts_on_a_mix(step)?;
                self.part(step).reload();
                Ok(())
            }
            Verb::Hook if extent == Extent::Whole => self.a_hook_runs_at_its_point(step),
            Verb::Start if extent == Extent::Whole => {
                self.p04_nothing_starts_on_a_mix(step)?;
                self.part(step).run(|_| true);
                Ok(())
            }
            Verb::Stage
            | Verb::Stop
            | Verb::Start
            | Verb::Preflight
            | Verb::Snapshot
            | Verb::Verify
            | Verb::Discard
            | Verb::Check
            | Verb::Reload
            | Verb::Hook
            | Verb::Fetch
            | Verb::SetWeights
            | Verb::Drain => Ok(()),
        }
    }

    /// What taking a step back does.
    pub(crate) fn undo(
        &mut self,
        step: &Step,
        before: &Before,
        extent: Extent,
    ) -> Result<(), String> {
        match before {
            Before::Weights(weights) => {
                if step.verb == Verb::SetWeights && extent == Extent::Whole {
                    self.weights.clone_from(weights);
                }
                Ok(())
            }
            Before::Live(tree) => {
                let part = self.part(step);
                part.switch(tree, extent)?;
                if extent == Extent::Whole {
                    part.reload();
                }
                Ok(())
            }
            Before::Running(services) if extent == Extent::Whole => {
                if step.verb == Verb::Stop && !services.is_empty() {
                    self.p04_nothing_starts_on_a_mix(step)?;
                }
                self.part(step).run(|name| services.contains(name));
                Ok(())
            }
            Before::Running(_) | Before::Nothing => Ok(()),
        }
    }

    /// Promise 4: no service starts while its set is neither one release nor the other.
    fn p04_nothing_starts_on_a_mix(&self, step: &Step) -> Result<(), String> {
        match &self.parts[&step.component].live {
            Tree::Whole(_) => Ok(()),
            Tree::Mixed { .. } => Err(format!("p04: {} is started on a mix", step.component)),
        }
    }

    /// What a hook may rely on: the wanted tree stands before a start, and serves after it.
    fn a_hook_runs_at_its_point(&self, step: &Step) -> Result<(), String> {
        let part = &self.parts[&step.component];
        let stopped = part.read.is_some() || part.running().is_empty();
        let holds = match step.hook.as_str() {
            "BeforeStop" => true,
            "BeforeStart" => part.at(&step.snapshot) == Found::Done && stopped,
            _ => self.is_on(&step.component, &step.snapshot),
        };
        if holds {
            Ok(())
        } else {
            Err(format!("hook {} of {} runs too early", step.hook, step.component))
        }
    }

    /// How far a step got.
    pub(crate) fn observe(&self, step: &Step) -> Found {
        if step.component == Step::TRAFFIC {
            let done = step.verb == Verb::SetWeights && self.weights == step.weights;
            return if done { Found::Done } else { Found::NotDone };
        }
        let part = &self.parts[&step.component];
        let done = match step.verb {
            Verb::Stage => part.staged.contains(&step.snapshot),
            Verb::Stop => part.running().is_empty(),
            Verb::Start => part.services.values().all(|runs| *runs),
            Verb::Switch => return part.at(&step.snapshot),
            Verb::Reload => part.read.as_ref() == Some(&step.snapshot),
            Verb::Preflight
            | Verb::Snapshot
            | Verb::Verify
            | Verb::Discard
            | Verb::Check
            | Verb::Hook
            | Verb::Fetch
            | Verb::SetWeights
            | Verb::Drain => false,
        };
        if done { Found::Done } else { Found::NotDone }
    }

    /// How far the undo of a step got.
    pub(crate) fn observe_undo(&self, step: &Step, before: &Before) -> Found {
        if let Before::Weights(weights) = before {
            let done = step.verb != Verb::SetWeights || self.weights == *weights;
            return if done { Found::Done } else { Found::NotDone };
        }
        let part = &self.parts[&step.component];
        match before {
            Before::Live(tree) if part.read.as_ref().is_some_and(|read| read != tree) => {
                match part.at(tree) {
                    Found::Done => Found::NotDone,
                    found @ (Found::NotDone | Found::Partial | Found::Unknown(_)) => found,
                }
            }
            Before::Live(tree) => part.at(tree),
            Before::Running(services) if part.running() == *services => Found::Done,
            Before::Running(_) => Found::NotDone,
            Before::Nothing | Before::Weights(_) => Found::Done,
        }
    }

    /// Whether a component is on this snapshot with everything running.
    pub(crate) fn is_on(&self, component: &str, snapshot: &str) -> bool {
        let part = &self.parts[component];
        let read = part.read.as_ref().is_none_or(|read| read == snapshot);
        part.at(snapshot) == Found::Done && read && part.services.values().all(|runs| *runs)
    }

    /// Whether something that ran at first does not run now.
    pub(crate) fn is_down(&self) -> bool {
        self.parts.values().any(|part| part.services.values().any(|runs| !*runs))
    }

    /// Whether what a verify looks at is as the step wants it.
    pub(crate) fn is_as_wanted(&self, step: &Step) -> bool {
        if step.component == Step::TRAFFIC {
            return self.weights == step.weights;
        }
        self.is_on(&step.component, &step.snapshot)
    }

    /// Between two releases, or with a service down.
    pub(crate) fn is_torn(&self) -> bool {
        self.parts.values().any(Part::is_between) || self.is_down()
    }

    /// What a step shows: the digest for a switch.
    pub(crate) fn evidence(&self, step: &Step, before: Option<&Before>) -> Option<Evidence> {
        if step.component == Step::TRAFFIC {
            return None;
        }
        let Tree::Whole(live) = &self.parts[&step.component].live else { return None };
        let replaced = match before {
            Some(Before::Live(tree)) => Some(tree.clone()),
            Some(Before::Running(_) | Before::Nothing | Before::Weights(_)) | None => None,
        };
        (step.verb == Verb::Switch).then(|| Evidence {
            component: step.component.clone(),
            snapshot: Some(live.clone()),
            replaced,
            ..Evidence::default()
        })
    }

    fn part(&mut self, step: &Step) -> &mut Part {
        self.parts.get_mut(&step.component).expect("the plan knows the host's components")
    }
}

impl Part {
    fn running(&self) -> Vec<String> {
        self.services.iter().filter(|(_, runs)| **runs).map(|(name, _)| name.clone()).collect()
    }

    /// Neither one release nor the other: on the disk, or what serves is not what stands there.
    fn is_between(&self) -> bool {
        match &self.live {
            Tree::Whole(live) => self.read.as_ref().is_some_and(|read| read != live),
            Tree::Mixed { .. } => true,
        }
    }

    fn reload(&mut self) {
        if let (Some(read), Tree::Whole(live)) = (&mut self.read, &self.live) {
            read.clone_from(live);
        }
    }

    fn run(&mut self, wanted: impl Fn(&String) -> bool) {
        let stood = self.running().is_empty();
        for (name, runs) in &mut self.services {
            *runs = wanted(name);
        }
        if stood && !self.running().is_empty() {
            self.reload();
        }
    }

    fn at(&self, snapshot: &str) -> Found {
        match &self.live {
            Tree::Whole(tree) if tree == snapshot => Found::Done,
            Tree::Whole(_) => Found::NotDone,
            Tree::Mixed { .. } => Found::Partial,
        }
    }

    /// Exchanges the live tree with a staged one, or finishes an exchange in either direction.
    fn switch(&mut self, to: &str, extent: Extent) -> Result<(), String> {
        if self.read.is_none() && !self.running().is_empty() {
            return Err("p04: a tree is replaced under a running service".to_owned());
        }
        match (&self.live, extent) {
            (Tree::Whole(from), _) if from == to => {}
            (Tree::Whole(from), Extent::Half) => {
                if !self.staged.contains(to) {
                    return Err(format!("p05: {to} is not staged"));
                }
                self.live = Tree::Mixed { from: from.clone(), to: to.to_owned() };
            }
            (Tree::Whole(from), Extent::Whole) => {
                if !self.staged.remove(to) {
                    return Err(format!("p05: {to} is not staged"));
                }
                self.staged.insert(from.clone());
                self.live = Tree::Whole(to.to_owned());
            }
            (Tree::Mixed { .. }, Extent::Half) => {}
            (Tree::Mixed { from, to: other }, Extent::Whole) => {
                let old = if from == to { other.clone() } else { from.clone() };
                self.staged.remove(to);
                self.staged.insert(old);
                self.live = Tree::Whole(to.to_owned());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(verb: Verb) -> Step {
        Step {
            verb,
            component: "proxy".to_owned(),
            release: "v1".to_owned(),
            snapshot: "new".to_owned(),
            deadline_ms: 1,
            hook: String::new(),
            across_migrations: false,
            weights: None,
            artefact: None,
            at_once: false,
            forward: false,
        }
    }

    fn proxy() -> Machine {
        let part = Part {
            live: Tree::Whole("old".to_owned()),
            read: Some("old".to_owned()),
            staged: ["new".to_owned()].into(),
            services: BTreeMap::from([("proxy".to_owned(), true)]),
        };
        Machine { parts: BTreeMap::from([("proxy".to_owned(), part)]), weights: None }
    }

    /// Whatever put the tree there: what starts reads what stands there then.
    #[test]
    fn what_starts_serves_the_tree_that_stands_there() {
        let mut machine = proxy();
        for verb in [Verb::Stop, Verb::Switch, Verb::Start] {
            machine.perform(&step(verb), Extent::Whole).unwrap();
        }
        assert!(machine.is_on("proxy", "new"));
        assert!(!machine.is_torn());
    }

    /// An undo reads anew what stands there: it cannot bring back what served before and stood nowhere.
    #[test]
    fn what_serves_another_tree_than_stands_there_is_torn() {
        let mut machine = proxy();
        machine.perform(&step(Verb::Switch), Extent::Whole).unwrap();
        assert!(!machine.is_on("proxy", "new") && machine.is_torn());
        machine.perform(&step(Verb::Reload), Extent::Whole).unwrap();
        assert!(machine.is_on("proxy", "new") && !machine.is_torn());
    }
}
