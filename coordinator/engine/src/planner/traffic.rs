//! Where the traffic goes, as a planner sees it, and the stages that move it.
//!
//! ```text
//! all edges can be asked and agree ─▶ Edge { now }  ─▶ who gets traffic, which slot is idle
//!
//! shift   [test, more than one edge]  ─▶ set weights, verify  ─▶ drain        users are on the good side from here on
//! around  set weights without hosts, drain ─▶ (the hosts' own stage) ─▶ set weights back
//! ```
//!
//! Invariant: weights are read from the edges themselves. Where one is out of reach or they differ, nothing is known, and
//! no plan moves traffic.
//! Invariant: a stage that takes hosts out of the traffic is taken back where the run halts before it lets them in again.

use super::{
    hosts::Chosen,
    stages::together,
    tracks::{Goes, MARGIN_MS},
};
use crate::{
    fleet::{Fleet, Traffic},
    inventory::Inventory,
    name::{ComponentName, GroupName, HostName, ReleaseName},
    plan::{Batch, Budget, Stage, Step, Target, Track, Verb},
    weights::Weights,
};

/// The longest that a proxy takes to test, to take on and to tell a division, and its hosts to be asked.
const SET_MS: u64 = 30_000;

/// The edges, which all divide the traffic alike.
#[derive(Debug)]
pub(super) struct Edge<'a> {
    pub(super) traffic: &'a Traffic,
    hosts: Vec<&'a HostName>,
    pub(super) now: Weights,
}

/// The edges of a fleet; none where it has no traffic to divide. Fails with why nothing is known of them.
pub(super) fn edge<'a>(
    inventory: &Inventory<'_>,
    fleet: &'a Fleet,
) -> Result<Option<Edge<'a>>, String> {
    let Some((traffic, hosts)) = edges(fleet) else { return Ok(None) };
    let mut known: Option<(&HostName, &Weights)> = None;
    for host in &hosts {
        let Some(now) = inventory.hosts.get(*host) else {
            return Err(format!("edge {host} is out of reach"));
        };
        let Some(weights) = &now.weights else {
            return Err(format!("edge {host} cannot tell how it divides the traffic"));
        };
        match known {
            Some((other, theirs)) if theirs != weights => {
                return Err(format!(
                    "edges differ: {other} has {theirs}, {host} has {weights}; `ctl switch --to SLOT` makes them one"
                ));
            }
            Some(_) => {}
            None => known = Some((host, weights)),
        }
    }
    match known {
        Some((_, now)) => Ok(Some(Edge { traffic, now: now.clone(), hosts })),
        None => Err(format!("group {} has no host", traffic.edge)),
    }
}

/// Why no plan could move the traffic of a fleet, where it has edges and none could.
pub fn immovable(inventory: &Inventory<'_>) -> Option<String> {
    edge(inventory, inventory.state.fleet.as_ref()?).err()
}

/// The edges of a fleet that can be reached, whatever they do now; for who sets them all anew.
pub(super) fn reachable<'a>(
    inventory: &Inventory<'_>,
    fleet: &'a Fleet,
) -> Result<Edges<'a>, String> {
    let (traffic, hosts) =
        edges(fleet).ok_or_else(|| "the fleet file has no `traffic`".to_owned())?;
    match hosts.iter().find(|host| !inventory.hosts.contains_key(**host)) {
        Some(host) => Err(format!("edge {host} is out of reach")),
        None if hosts.is_empty() => Err(format!("group {} has no host", traffic.edge)),
        None => Ok(Edges { traffic, hosts }),
    }
}

/// Edges of which is only known that they can be reached.
pub(super) struct Edges<'a> {
    pub(super) traffic: &'a Traffic,
    pub(super) hosts: Vec<&'a HostName>,
}

fn edges(fleet: &Fleet) -> Option<(&Traffic, Vec<&HostName>)> {
    let traffic = fleet.traffic.as_ref()?;
    let hosts = fleet.hosts().filter(|(_, group)| **group == traffic.edge).map(|(host, _)| host);
    Some((traffic, hosts.collect()))
}

/// Whether a group is one that traffic can go to: it has a component that a slot has, too.
pub(super) fn is_backend(fleet: &Fleet, group: &GroupName) -> bool {
    let Some(traffic) = &fleet.traffic else { return false };
    let both = |component: &crate::fleet::Component| {
        component.groups.contains(group)
            && component.groups.iter().any(|other| traffic.slots.contains(other))
    };
    *group != traffic.edge && fleet.components.iter().any(both)
}

impl<'a> Edge<'a> {
    /// Whether users do not reach a host that they could reach: what is live there is not what they get.
    pub(super) fn is_idle(&self, fleet: &Fleet, row: &Chosen<'_>) -> bool {
        is_backend(fleet, row.group) && !self.now.reaches(row.host, row.group)
    }

    /// Whether traffic can go to a host at all.
    pub(super) fn may_serve(&self, fleet: &Fleet, row: &Chosen<'_>) -> bool {
        is_backend(fleet, row.group)
    }

    /// The slots without traffic, in the file's order.
    pub(super) fn idle_slots(&self) -> impl Iterator<Item = &'a GroupName> {
        self.traffic.slots.iter().filter(|slot| self.now.of(slot) == 0)
    }

    /// Whether a shift begins with a test of its own: several edges all test before one commits.
    pub(super) fn tests_first(&self) -> bool {
        self.hosts.len() > 1
    }

    /// The stages that move the traffic; `release` is what users get then. `first` is the index of the first of them.
    pub(super) fn shift(&self, to: &Weights, release: &ReleaseName, first: usize) -> Vec<Stage> {
        let edges = Edges { traffic: self.traffic, hosts: self.hosts.clone() };
        edges.shift(to, release, first)
    }

    /// The stages around one that takes hosts out: before it, and after it. `first` is the index of the one before; `last`
    /// says that what users get then is the release. None where a group with a share would have no host left.
    pub(super) fn around(
        &self,
        fleet: &Fleet,
        hosts: &[HostName],
        release: &ReleaseName,
        (first, last): (usize, bool),
    ) -> Option<(Stage, Stage)> {
        let without = self.now.without(hosts.iter().cloned());
        let left = |group: &GroupName| {
            fleet.hosts().any(|(host, home)| home == group && without.reaches(host, home))
        };
        if !without.groups().keys().all(left) {
            return None;
        }
        let names: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
        let drain = on_traffic(Verb::Drain, release, self.traffic.drain_ms + MARGIN_MS);
        let drain = Step { weights: Some(without.clone()), ..drain };
        let before = Stage {
            held_until: Some(first + 2),
            ..self.set(&format!("drain {}", names.join(", ")), &without, release, &[drain])
        };
        let looks = [verify(&self.now, release)];
        let looks: &[Step] = if last { &looks } else { &[] };
        let after =
            self.set(&format!("traffic to {}", names.join(", ")), &self.now, release, looks);
        Some((before, Stage { mitigates: last, ..after }))
    }

    /// A stage that sets a division on all edges.
    pub(super) fn set(
        &self,
        name: &str,
        weights: &Weights,
        release: &ReleaseName,
        then: &[Step],
    ) -> Stage {
        set(&self.hosts, name, weights, release, then)
    }
}

impl Edges<'_> {
    /// See [`Edge::shift`].
    pub(super) fn shift(&self, to: &Weights, release: &ReleaseName, first: usize) -> Vec<Stage> {
        let mut stages = Vec::new();
        if self.hosts.len() > 1 {
            // All test before one commits. A single edge tests as it sets.
            let test =
                Step { weights: Some(to.clone()), ..on_traffic(Verb::Preflight, release, SET_MS) };
            let stage = together("test traffic", self.tracks(&[test]));
            let budget = Budget { failed: 0, unknown: 0, ..stage.budget };
            stages.push(Stage { budget, ..stage });
        }
        let until = first + stages.len() + 1;
        let shift = set(&self.hosts, "shift traffic", to, release, &[verify(to, release)]);
        stages.push(Stage { mitigates: true, held_until: Some(until), ..shift });
        let drain = on_traffic(Verb::Drain, release, self.traffic.drain_ms + MARGIN_MS);
        let drain = Step { weights: Some(to.clone()), ..drain };
        stages.push(together("drain", self.tracks(&[drain])));
        stages
    }

    fn tracks(&self, steps: &[Step]) -> Vec<Track> {
        tracks(&self.hosts, steps)
    }
}

fn set(
    hosts: &[&HostName],
    name: &str,
    weights: &Weights,
    release: &ReleaseName,
    then: &[Step],
) -> Stage {
    let set =
        Step { weights: Some(weights.clone()), ..on_traffic(Verb::SetWeights, release, SET_MS) };
    let steps: Vec<Step> = [set].into_iter().chain(then.iter().cloned()).collect();
    let all = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
    Stage {
        name: name.to_owned(),
        batches: vec![Batch { tracks: tracks(hosts, &steps) }],
        // All or none: a mixed set of edges is nobody's wish.
        budget: Budget { failed: 0, unknown: 0, out: all },
        soak_ms: 0,
        cuts_capacity: true,
        mitigates: false,
        held_until: None,
        series: None,
        gate: None,
    }
}

fn tracks(hosts: &[&HostName], steps: &[Step]) -> Vec<Track> {
    let track = |host: &&HostName| Track { host: (*host).clone(), steps: steps.to_vec() };
    hosts.iter().map(track).collect()
}

fn verify(weights: &Weights, release: &ReleaseName) -> Step {
    let step = on_traffic(Verb::Verify, release, SET_MS);
    Step { weights: Some(weights.clone()), at_once: true, ..step }
}

fn on_traffic(verb: Verb, release: &ReleaseName, deadline_ms: u64) -> Step {
    Step {
        verb,
        component: ComponentName::new(Step::TRAFFIC).expect("a fixed name is valid"),
        target: Some(Target { release: release.clone(), snapshot: None }),
        deadline_ms,
        hook: None,
        across_migrations: false,
        weights: None,
        artefact: None,
        at_once: false,
        forward: false,
    }
}

/// Whether everything on a host is in place.
pub(super) fn is_in_place(goes: &[Goes<'_>]) -> bool {
    goes.iter().all(|go| go.there)
}
