//! Tests a division, makes it live, and takes that back.
//!
//! ```text
//! hosts answer? ─▶ the proxy would take it? ─▶ asked (durable) ─▶ the proxy does it ─▶ the proxy says so
//!     └── no: nothing has changed ──┘                   └── no: what was before is back, and asked again
//! ```
//!
//! Invariant: no host begins to get traffic that does not answer here; what takes back is the one exception.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{
    Shown, Traffic, asked, division, evidence,
    reach::{self, Answers, deadline},
    record::{Asked, Known},
};
use crate::order::{Before, Step, Verb, Weights};

impl Traffic {
    pub(super) async fn preflight(&self, step: &Step) -> Shown {
        let asked = asked(step)?;
        let answers = self.reach.ask(&self.reached(asked)).await;
        self.has_hosts(asked, &answers, &BTreeSet::new())?;
        self.proxy.test(asked, deadline(step.deadline_ms)).await?;
        let mut words = vec![format!("{} would divide {asked}", self.proxy.name())];
        words.extend(reach::silent(&answers).into_values().map(|host| format!("silent: {host}")));
        Ok((words.join("; "), None))
    }

    pub(super) async fn set_weights(&self, step: &Step) -> Shown {
        let (asked, deadline) = (asked(step)?, deadline(step.deadline_ms));
        let running = self.proxy.observe().await.ok().flatten();
        let served = running.map(|running| self.reached(&running)).unwrap_or_default();
        let answers = self.reach.ask(&self.reached(asked)).await;
        let silent = reach::silent(&answers);
        let left_out: BTreeSet<String> = silent
            .keys()
            .filter(|host| !served.contains(**host))
            .map(|host| (*host).to_owned())
            .collect();
        self.has_hosts(asked, &answers, &left_out)?;
        let asked = Asked { weights: asked.clone(), left_out };
        let told = asked.told();
        self.proxy.test(&told, deadline).await?;
        let known = self.record.read().unwrap_or_default();
        self.record.ask(asked.clone()).map_err(|error| error.to_string())?;
        let observed = match self.make(&told, deadline).await {
            Ok(observed) => observed,
            Err(why) => return Err(self.not_asked(&known, why)),
        };
        let mut words = vec![format!("traffic goes to {observed}")];
        for (host, why) in &silent {
            let what = if asked.left_out.contains(*host) {
                "left out, for it does not answer"
            } else {
                "keeps its traffic although it does not answer"
            };
            words.push(format!("{what}: {why}"));
        }
        let mut evidence = evidence(&observed);
        evidence.notes = words[1..].to_vec();
        Ok((words.join("; "), Some(evidence)))
    }

    /// Takes a step back.
    pub async fn undo(&self, step: &Step, before: &Before) -> Shown {
        let before = match (step.verb, before) {
            (Verb::SetWeights, Before::Weights(Some(before))) => before,
            (Verb::SetWeights, Before::Weights(None)) => {
                let stays = "nothing had been set before; the traffic stays as it is divided now";
                return Ok((stays.to_owned(), None));
            }
            (Verb::SetWeights, Before::Nothing | Before::Running(_) | Before::Live(_)) => {
                return Err(format!(
                    "the ledger does not say how things were before {}",
                    step.verb
                ));
            }
            (
                Verb::Preflight
                | Verb::Snapshot
                | Verb::Stage
                | Verb::Stop
                | Verb::Switch
                | Verb::Start
                | Verb::Verify
                | Verb::Discard
                | Verb::Check
                | Verb::Reload
                | Verb::Hook
                | Verb::Fetch
                | Verb::Drain,
                _,
            ) => return Ok((String::new(), None)),
        };
        let before = self.plain(before);
        let known = self.record.read().unwrap_or_default();
        let same = |one: &&Asked| self.plain(&one.told()) == before;
        // With the hosts that were left out then, where that is known.
        let asked = [known.asked.as_ref(), known.before.as_ref()].into_iter().flatten().find(same);
        let asked = asked.cloned();
        let asked = asked.unwrap_or(Asked { weights: before.clone(), left_out: BTreeSet::new() });
        self.record.ask(asked).map_err(|error| error.to_string())?;
        let observed = self.make(&before, deadline(step.deadline_ms)).await?;
        Ok((format!("traffic goes to {observed} again"), Some(evidence(&observed))))
    }

    /// The proxy does it, and says so.
    async fn make(&self, told: &Weights, deadline: Instant) -> Result<Weights, String> {
        self.proxy.set(told, deadline).await?;
        let name = self.proxy.name();
        match self.proxy.observe().await? {
            Some(observed) if observed == self.plain(told) => Ok(observed),
            Some(other) => Err(format!("{name} was told {told}, and divides {other}")),
            None => Err(format!("{name} was told {told}, and does not say what it does")),
        }
    }

    /// What was asked before is asked again.
    fn not_asked(&self, known: &Known, why: String) -> String {
        match self.record.write(known) {
            Ok(()) => why,
            Err(error) => format!("{why}; and what was asked before could not be written: {error}"),
        }
    }

    /// Every group with a share has a host that is not out, and answers.
    fn has_hosts(
        &self,
        asked: &Weights,
        answers: &Answers,
        left_out: &BTreeSet<String>,
    ) -> Result<(), String> {
        let answers_now = |host: &String| answers.get(host).is_some_and(Result::is_ok);
        for (group, percent) in &asked.groups {
            let mut hosts = division::members(&self.policy.groups, asked, group);
            if hosts.any(|host| !left_out.contains(host) && answers_now(host)) {
                continue;
            }
            let hosts: Vec<&String> =
                division::members(&self.policy.groups, asked, group).collect();
            let silent = reach::silent(answers);
            let why: Vec<&str> = hosts
                .iter()
                .filter_map(|host| silent.get(host.as_str()).map(String::as_str))
                .collect();
            return Err(format!(
                "group {group} is to get {percent} %, and none of its hosts answers here: {}; nothing was changed",
                why.join(", ")
            ));
        }
        Ok(())
    }
}
