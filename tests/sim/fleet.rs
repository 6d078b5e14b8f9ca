//! A fleet of eight, drawn: groups, components that need each other, budgets; and the real planner's plan for it.
//! Mostly its edge carries a proxy that needs the apps and reloads; components may have hooks.
//!
//! Invariant: v1 is good and whole on every host, so that a bare rollback always has a way back; a canary is of v3.

use std::collections::BTreeMap;

use engine::{
    Canary, Component, ComponentName, Fleet, FleetEvent, FleetName, FleetState, Group, GroupName,
    Hook, HookPoint, HostName, HostNow, Inventory, LateHosts, LiveNow, OnFailure, Plan,
    ReleaseName, Rollback, SeenSnapshot, Share, SnapshotHash, SnapshotNow, Standing, Timestamp,
    Traffic, Weights, planner,
};
use rand::{RngExt as _, rngs::StdRng};

use crate::{
    canary,
    host::{Machine, Part, Tree},
    world::{HOSTS, host_name},
};

/// A fleet and what is live on it.
pub(crate) struct Draft {
    strategy: Rollback,
    /// Which group has which components; a component needs those before it.
    components: Vec<(&'static str, Vec<&'static str>)>,
    /// How many hosts are not connected when the plan is made.
    pub(crate) away: usize,
    /// Hosts that are on the target already.
    there: Vec<bool>,
    /// What every component runs beside its steps.
    hooks: Vec<HookPoint>,
    /// Whether its edge divides the traffic.
    traffic: bool,
    /// The groups that take turns, and what each gets before the operation.
    slots: Vec<(&'static str, u32)>,
    /// How a release is tried on a few hosts first, where the operation is such a deploy.
    canary: Option<Canary>,
}

const GROUPS: [(&str, std::ops::Range<usize>); 4] =
    [("canary", 0..1), ("blue", 1..4), ("green", 4..6), ("edge", 6..HOSTS)];
const COMPONENTS: [&str; 4] = ["db-proxy", "crm", "web", PROXY];
/// The component that reloads.
const PROXY: &str = "proxy";
const POINTS: [HookPoint; 4] =
    [HookPoint::BeforeStop, HookPoint::BeforeStart, HookPoint::AfterStart, HookPoint::AfterVerify];

impl Draft {
    /// A fleet to roll back.
    pub(crate) fn random(rng: &mut StdRng) -> Self {
        Self::draw(rng, false)
    }

    /// A fleet on which a release is tried first: with a slot that is free for it, or without.
    pub(crate) fn tried(rng: &mut StdRng) -> Self {
        let mut draft = Self::draw(rng, true);
        draft.slots = match rng.random_range(0..4) {
            0 => vec![("blue", 100)],
            1 => vec![("blue", 60), ("green", 40)],
            _ => vec![("blue", 100), ("green", 0)],
        };
        draft.canary = Some(canary::config(rng));
        draft.away = if rng.random_bool(0.2) { draft.away } else { 0 };
        if draft.planned(draft.away).is_err() {
            draft.away = 0;
        }
        draft
    }

    fn draw(rng: &mut StdRng, canary: bool) -> Self {
        let batches = match rng.random_range(0..4) {
            0 => vec![Share::Hosts(1)],
            1 => vec![Share::Hosts(1), Share::Hosts(2)],
            2 => vec![Share::Hosts(1), Share::Percent(50)],
            _ => vec![Share::Percent(25)],
        };
        let budget_unknown = rng.random_range(0..3);
        let out = rng.random_range(1..5);
        let pick = |rng: &mut StdRng, one, other| if rng.random_bool(0.5) { one } else { other };
        let strategy = Rollback {
            batches,
            budget_failed: rng.random_range(0..4),
            budget_unknown,
            budget_out: Share::Hosts(out),
            on_failure: if rng.random_bool(0.7) { OnFailure::Restore } else { OnFailure::Leave },
            late_hosts: if rng.random_bool(0.5) { LateHosts::Rollback } else { LateHosts::Wait },
            deadline_ms: pick(rng, 60_000, 900_000),
            soak_ms: pick(rng, 0, 3_000),
            unknown_after_ms: pick(rng, 2_000, 10_000),
            traffic_first: true,
        };
        let edge = rng.random_bool(0.7) || canary;
        let mut components = vec![("crm", vec!["canary", "blue", "green"])];
        if !edge {
            components[0].1.push("edge");
        }
        if rng.random_bool(0.5) {
            components.push(("web", vec!["blue", "green"]));
        }
        if rng.random_bool(0.3) {
            components.push(("db-proxy", vec!["green"]));
        }
        if edge {
            components.push((PROXY, vec!["edge"]));
        }
        let away = rng.random_range(0..=budget_unknown.min(out - 1)) as usize;
        let looks = edge && rng.random_bool(0.4);
        let is_edge = |host: usize| GROUPS[3].1.contains(&host);
        let there = |host| rng.random_range(0..12) == 0 || (looks && is_edge(host));
        let there: Vec<bool> = (0..HOSTS).map(there).collect();
        let hooks = POINTS.into_iter().filter(|_| rng.random_bool(0.3)).collect();
        // Where users are on the target already, there is no way back from what they have.
        let users_are_there = GROUPS[1].1.clone().all(|host| host < away || there[host]);
        let traffic = rng.random_bool(0.5) && !users_are_there || canary;
        let slots = vec![("blue", 100), ("green", 0)];
        Self { strategy, components, away, there, hooks, traffic, slots, canary: None }
    }

    fn fleet(&self) -> Fleet {
        let group = |(name, hosts): (&str, std::ops::Range<usize>)| Group {
            name: group_name(name),
            hosts: hosts.map(host_name).collect(),
        };
        let component = |(index, (name, groups)): (usize, &(&str, Vec<&str>))| Component {
            name: component_name(name),
            groups: groups.iter().map(|name| group_name(name)).collect(),
            needs: self.components[..index]
                .iter()
                .map(|(other, _)| component_name(other))
                .collect(),
            services: services(name),
            stop_within_ms: 5_000,
            ready_within_ms: 5_000,
            stable_for_ms: 1_000,
            reloads: *name == PROXY,
            hooks: self.hooks.iter().map(hook).collect(),
            shared: false,
        };
        let fleet = Fleet {
            name: FleetName::new("prod").expect("a fixed name is valid"),
            environment: "prod".to_owned(),
            app: "crm".to_owned(),
            groups: GROUPS.into_iter().map(group).collect(),
            components: self.components.iter().enumerate().map(component).collect(),
            rollback: self.strategy.clone(),
            policy_hashes: BTreeMap::new(),
            traffic: self.traffic.then(|| Traffic {
                edge: group_name("edge"),
                slots: self.slots.iter().map(|(name, _)| group_name(name)).collect(),
                drain_ms: 2_000,
                warm_ms: 60_000,
            }),
            canary: self.canary.clone(),
            triggers: Vec::new(),
        };
        fleet.check().expect("the drawn fleet is whole");
        fleet
    }

    /// The real planner's plan of a bare rollback, or of the canary.
    pub(crate) fn plan(&self, away: usize) -> Plan {
        self.planned(away).expect("a whole fleet has a way, back and forward")
    }

    fn planned(&self, away: usize) -> planner::Planned {
        let mut state = FleetState::default();
        let by = || "ada".to_owned();
        state.apply(&FleetEvent::Applied {
            fleet: Box::new(self.fleet()),
            by: by(),
            at: Timestamp(0),
        });
        for (release, age) in [("v1", 1), ("v2", 2), ("v3", 3)].into_iter().take(self.releases()) {
            for (host, component) in self.places() {
                let seen = SeenSnapshot {
                    snapshot: SnapshotHash::new(snapshot(component, release)).expect("64 digits"),
                    content: String::new(),
                    version: None,
                    taken_at: Timestamp(age),
                };
                let (host, component) = (host_name(host), component_name(component));
                let release = release_name(release);
                state.apply(&FleetEvent::SnapshotSeen { host, component, release, seen });
            }
        }
        let (release, reason) = (release_name("v1"), String::new());
        let (standing, at) = (Standing::Good, Timestamp(3));
        state.apply(&FleetEvent::Marked { release, standing, by: by(), reason, at });
        let mut hosts: BTreeMap<HostName, HostNow> = BTreeMap::new();
        for (host, component) in self.places().filter(|(host, _)| *host >= away) {
            let now = hosts.entry(host_name(host)).or_default();
            let live = self.live(host);
            let hash =
                |release| SnapshotHash::new(snapshot(component, release)).expect("64 digits");
            let row = LiveNow {
                release: Some(release_name(live)),
                snapshot: Some(hash(live)),
                changed: false,
            };
            now.live.insert(component_name(component), row);
            let kept = SnapshotNow {
                release: Some(release_name(self.to())),
                snapshot: hash(self.to()),
                damage: None,
            };
            now.snapshots.entry(component_name(component)).or_default().push(kept);
        }
        for host in (away..HOSTS).filter(|host| self.divides(*host)) {
            let now = hosts.entry(host_name(host)).or_default();
            let shares = self.slots.iter().map(|(name, share)| (group_name(name), *share));
            now.weights = Some(Weights::new(shares, []).expect("drawn to be whole"));
        }
        let inventory = Inventory { state: &state, hosts };
        if self.canary.is_none() {
            return planner::rollback(&inventory, &planner::Request::default());
        }
        let request = planner::Deploy {
            release: release_name(self.to()),
            strategy: planner::Strategy::Canary,
            hosts: Vec::new(),
            across_migrations: false,
            give_up_warm: false,
        };
        planner::deploy(&inventory, &request, Timestamp(4))
    }

    /// The release that the operation goes to.
    fn to(&self) -> &'static str {
        if self.canary.is_some() { "v3" } else { "v1" }
    }

    /// How many releases there are.
    fn releases(&self) -> usize {
        if self.canary.is_some() { 3 } else { 2 }
    }

    fn live(&self, host: usize) -> &'static str {
        if self.there[host] { self.to() } else { "v2" }
    }

    fn divides(&self, host: usize) -> bool {
        self.traffic && GROUPS[3].1.contains(&host)
    }

    /// Every component on every host of its groups.
    fn places(&self) -> impl Iterator<Item = (usize, &'static str)> + '_ {
        self.components.iter().flat_map(|(name, groups)| {
            let mine = GROUPS.into_iter().filter(|(group, _)| groups.contains(group));
            mine.flat_map(|(_, hosts)| hosts).map(|host| (host, *name))
        })
    }

    pub(crate) fn machines(&self) -> Vec<Machine> {
        let mut machines: Vec<Machine> = (0..HOSTS)
            .map(|host| Machine {
                parts: BTreeMap::new(),
                weights: self.divides(host).then(|| self.weights()),
            })
            .collect();
        for (host, component) in self.places() {
            let running = services(component).into_iter().map(|name| (name, true)).collect();
            let part = Part {
                live: Tree::Whole(snapshot(component, self.live(host))),
                read: (component == PROXY).then(|| snapshot(component, self.live(host))),
                staged: Default::default(),
                services: running,
            };
            machines[host].parts.insert(component.to_owned(), part);
        }
        machines
    }

    pub(crate) fn targets(&self) -> BTreeMap<String, String> {
        let target =
            |(name, _): &(&str, Vec<&str>)| ((*name).to_owned(), snapshot(name, self.to()));
        self.components.iter().map(target).collect()
    }

    fn weights(&self) -> agent::order::Weights {
        let shares = self.slots.iter().filter(|(_, share)| *share > 0);
        let groups = shares.map(|(name, share)| ((*name).to_owned(), *share)).collect();
        agent::order::Weights { groups, out: Default::default() }
    }
}

fn hook(at: &HookPoint) -> Hook {
    Hook { name: format!("{at:?}"), at: *at, within_ms: 3_000 }
}

fn group_name(name: &str) -> GroupName {
    GroupName::new(name).expect("a fixed name is valid")
}

fn component_name(name: &str) -> ComponentName {
    ComponentName::new(name).expect("a fixed name is valid")
}

fn release_name(name: &str) -> ReleaseName {
    ReleaseName::new(name).expect("a fixed name is valid")
}

fn services(component: &str) -> Vec<String> {
    vec![component.to_owned(), format!("{component}-worker")]
}

/// 64 digits that tell component and release.
fn snapshot(component: &str, release: &str) -> String {
    let number = COMPONENTS.iter().position(|name| *name == component).unwrap_or(9);
    format!("{:0>62}{number}{}", 0, &release[1..])
}
