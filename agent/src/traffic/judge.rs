//! Measures: what the running proxy does, who answers behind it, and what is still open.
//!
//! Invariant: nothing changes.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    Open, Shown, Traffic, asked, division, evidence,
    reach::{self, deadline, is_version_of},
};
use crate::order::{Evidence, Step, Weights};

/// How often it is looked again whether what is verified holds.
const VERIFY_EVERY: Duration = Duration::from_millis(500);
/// How often it is asked what is still open.
const OPEN_EVERY: Duration = Duration::from_millis(100);
/// For so long nothing was open: what goes by an earlier division opens nothing any more.
const QUIET: Duration = Duration::from_secs(2);

impl Traffic {
    /// Whether the running proxy divides as asked, and who gets traffic answers as the wanted release. Once, or until it
    /// holds or the time is over.
    pub(super) async fn verify(&self, step: &Step) -> Shown {
        let (asked, deadline) = (asked(step)?, deadline(step.deadline_ms));
        loop {
            match self.verify_once(step, asked).await {
                Ok((words, evidence)) => return Ok((words, Some(evidence))),
                Err(why) if step.at_once || Instant::now() + VERIFY_EVERY >= deadline => {
                    return Err(why);
                }
                Err(why) => tracing::debug!(why, "the traffic is not as it is to be yet"),
            }
            sleep(VERIFY_EVERY).await;
        }
    }

    async fn verify_once(
        &self,
        step: &Step,
        asked: &Weights,
    ) -> Result<(String, Evidence), String> {
        let name = self.proxy.name();
        let observed = self.proxy.observe().await?;
        let observed = observed.ok_or_else(|| format!("{name} does not say what it does"))?;
        // Hosts that were left out for they did not answer are no fault of the division: who gets traffic is judged.
        let known = self.record.read()?.asked.filter(|known| known.weights == *asked);
        let left_out = known.map(|known| known.left_out).unwrap_or_default();
        let mut told = asked.clone();
        told.out.extend(left_out.iter().cloned());
        if observed != self.plain(&told) {
            return Err(format!("{name} divides {observed}; asked was {told}"));
        }
        let hosts = self.reached(&observed);
        let answers = self.reach.ask(&hosts).await;
        let silent: Vec<String> = reach::silent(&answers).into_values().collect();
        if !silent.is_empty() {
            return Err(format!("gets traffic and does not answer: {}", silent.join(", ")));
        }
        let mut versions: Vec<(&String, &String)> = Vec::new();
        for (host, answered) in &answers {
            if let Ok(Some(version)) = answered {
                versions.push((host, version));
            }
        }
        let wrong = |(_, version): &&(&String, &String)| {
            !step.release.is_empty() && !is_version_of(version, &step.release)
        };
        let wrong: Vec<String> =
            versions.iter().filter(wrong).map(|(host, at)| format!("{host} serves {at}")).collect();
        if !wrong.is_empty() {
            return Err(format!("wanted is {}, and {}", step.release, wrong.join(", ")));
        }
        let mut evidence = evidence(&observed);
        evidence.version = versions.first().map(|(_, version)| (*version).clone());
        let mut words = vec![format!("{name} divides {observed}")];
        let count = hosts.len();
        words.push(match &evidence.version {
            Some(version) if !step.release.is_empty() => {
                format!("{count} of {count} hosts answer as {version}")
            }
            Some(_) | None => format!("{count} of {count} hosts answer"),
        });
        if !self.reach.asks_for_versions() && !step.release.is_empty() {
            evidence.notes.push("which version they serve was not asked: no `version`".to_owned());
        }
        if !left_out.is_empty() {
            let names = division::listed(&left_out);
            evidence.notes.push(format!("left out when the traffic was set: {names}"));
        }
        words.extend(evidence.notes.iter().cloned());
        Ok((words.join("; "), evidence))
    }

    /// Waits until nothing is open to hosts that get nothing. That the policy's time is over is no failure: who waits
    /// longer has an app that never ends a request.
    pub(super) async fn drain(&self, step: &Step) -> Shown {
        let begun = Instant::now();
        let until = (begun + self.policy.drain.0).min(deadline(step.deadline_ms));
        let weights = match &step.weights {
            Some(weights) => Some(weights.clone()),
            None => self.proxy.observe().await?,
        };
        let Some(weights) = weights else {
            return Ok(("no traffic was ever set: nothing to drain".to_owned(), None));
        };
        let hosts = division::unreached(&self.policy.groups, &weights);
        let mut quiet_since: Option<Instant> = None;
        loop {
            let open = self.proxy.open(&hosts).await?;
            let quiet = match (open.hosts.is_empty(), quiet_since) {
                (true, since) => *quiet_since.insert(since.unwrap_or_else(Instant::now)),
                (false, _) => {
                    quiet_since = None;
                    Instant::now()
                }
            };
            let done = open.hosts.is_empty() && (open.old == 0 || quiet.elapsed() >= QUIET);
            if done || Instant::now() >= until {
                return Ok((drained(&open, begun.elapsed(), done), None));
            }
            sleep(OPEN_EVERY).await;
        }
    }
}

/// `drained in 1.2 s`, `2 connections still on crm-b1 after 20.0 s`.
fn drained(open: &Open, took: Duration, done: bool) -> String {
    let took = format!("{:.1} s", took.as_secs_f64());
    let on = |(host, count): (&String, &u64)| {
        format!(
            "{count} {} still on {host}",
            if *count == 1 { "connection" } else { "connections" }
        )
    };
    let left: Vec<String> = open.hosts.iter().map(on).collect();
    let old = match open.old {
        0 => String::new(),
        1 => "; an old worker ends what it has elsewhere".to_owned(),
        old => format!("; {old} old workers end what they have elsewhere"),
    };
    match (left.is_empty(), done) {
        (true, true) => format!("drained in {took}{old}"),
        (true, false) => format!("nothing was open after {took}{old}"),
        (false, _) => format!("{} after {took}", left.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_with_its_host() {
        let open = |rows: &[(&str, u64)], old| Open {
            hosts: rows.iter().map(|(host, count)| ((*host).to_owned(), *count)).collect(),
            old,
        };
        let took = Duration::from_millis(1234);
        assert_eq!(drained(&open(&[], 0), took, true), "drained in 1.2 s");
        let two = open(&[("crm-b1", 2), ("crm-b2", 1)], 1);
        let words = "2 connections still on crm-b1, 1 connection still on crm-b2 after 20.0 s";
        assert_eq!(drained(&two, Duration::from_secs(20), false), words);
        let old = drained(&open(&[], 1), took, true);
        assert_eq!(old, "drained in 1.2 s; an old worker ends what it has elsewhere");
    }
}
