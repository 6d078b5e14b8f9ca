//! Fleets with a past: hosts, releases, what is live. What a planner sees.

use std::{collections::BTreeMap, fmt::Write as _};

use engine::{
    Component, ComponentName, Fleet, FleetEvent, FleetName, FleetState, Group, GroupName, HostName,
    HostNow, Inventory, LateHosts, LiveNow, OnFailure, OperationId, Plan, ReleaseName, Rollback,
    SeenSnapshot, Share, SnapshotHash, SnapshotNow, Standing, Step, Timestamp, Traffic, Weights,
};

/// A fleet's record and its connected hosts.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) state: FleetState,
    pub(crate) hosts: BTreeMap<HostName, HostNow>,
}

/// Checked names, short.
pub(crate) fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}
pub(crate) fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}
pub(crate) fn component(name: &str) -> ComponentName {
    ComponentName::new(name).unwrap()
}
pub(crate) fn release(name: &str) -> ReleaseName {
    ReleaseName::new(name).unwrap()
}
pub(crate) fn operation(name: &str) -> OperationId {
    OperationId::new(name).unwrap()
}

/// The snapshot of a release of a component on a host.
pub(crate) fn snapshot(host: &str, component: &str, release: &str) -> SnapshotHash {
    let hash = blake3::hash(format!("{host}/{component}/{release}").as_bytes());
    SnapshotHash::new(hash.to_hex().to_string()).unwrap()
}

/// One at a time, no budget for failures, everything else as the example fleet has it.
pub(crate) fn strategy() -> Rollback {
    Rollback {
        batches: vec![Share::Hosts(1)],
        budget_failed: 0,
        budget_unknown: 1,
        budget_out: Share::Hosts(1),
        on_failure: OnFailure::Restore,
        late_hosts: LateHosts::Rollback,
        deadline_ms: 900_000,
        soak_ms: 0,
        unknown_after_ms: 30_000,
        traffic_first: true,
    }
}

impl World {
    /// A fleet of these groups, on which every host has each component; `(name, needs)`.
    pub(crate) fn new(groups: &[(&str, &[&str])], components: &[(&str, &[&str])]) -> Self {
        let all: Vec<GroupName> = groups.iter().map(|(name, _)| group(name)).collect();
        let groups = groups.iter().map(|(name, hosts)| Group {
            name: group(name),
            hosts: hosts.iter().map(|name| host(name)).collect(),
        });
        let components = components.iter().map(|(name, needs)| Component {
            name: component(name),
            groups: all.clone(),
            needs: needs.iter().map(|name| component(name)).collect(),
            services: vec![(*name).to_owned()],
            stop_within_ms: 20_000,
            ready_within_ms: 60_000,
            stable_for_ms: 30_000,
            reloads: false,
            hooks: Vec::new(),
            shared: false,
        });
        Self::of(Fleet {
            name: FleetName::new("prod").unwrap(),
            environment: "production".to_owned(),
            app: "crm".to_owned(),
            groups: groups.collect(),
            components: components.collect(),
            rollback: strategy(),
            policy_hashes: BTreeMap::new(),
            traffic: None,
            canary: None,
            triggers: Vec::new(),
        })
    }

    /// The usual one: two blue hosts and a green one, one component; v1 good, v2 good, v3 live.
    pub(crate) fn usual() -> Self {
        let mut world = Self::new(&[("blue", &["b1", "b2"]), ("green", &["g1"])], &[("crm", &[])]);
        for (name, age) in [("v1", 1), ("v2", 2), ("v3", 3)] {
            world.release(name, age);
        }
        for name in ["v1", "v2"] {
            world.proven(name, &["b1", "b2", "g1"], Standing::Good);
        }
        world.live("v3");
        world
    }

    /// Apps on two blue hosts and a proxy before them that reloads; v1 good, v2 good, v3 live.
    pub(crate) fn with_edge() -> Self {
        let mut world = Self::new(&[("blue", &["b1", "b2"]), ("edge", &["lb"])], &[("crm", &[])]);
        let fleet = world.state.fleet.as_mut().unwrap();
        fleet.components[0].groups = vec![group("blue")];
        let mut proxy = fleet.components[0].clone();
        (proxy.name, proxy.groups) = (component("proxy"), vec![group("edge")]);
        (proxy.needs, proxy.reloads) = (vec![component("crm")], true);
        fleet.components.push(proxy);
        for (name, age) in [("v1", 1), ("v2", 2), ("v3", 3)] {
            world.release(name, age);
        }
        for name in ["v1", "v2"] {
            world.proven(name, &["b1", "b2", "lb"], Standing::Good);
        }
        world.live("v3");
        world
    }

    /// Two blue hosts with all the traffic and on v2, two green ones on v1, and an edge; both releases good.
    pub(crate) fn with_traffic() -> Self {
        let mut world = Self::new(
            &[("blue", &["b1", "b2"]), ("green", &["g1", "g2"]), ("edge", &["lb"])],
            &[("crm", &[])],
        );
        world.divided(&["blue", "green"]);
        for (name, age) in [("v1", 1), ("v2", 2)] {
            world.release(name, age);
            world.proven(name, &["b1", "b2", "g1", "g2"], Standing::Good);
        }
        world.live_on(&["b1", "b2"], "v2");
        world.live_on(&["g1", "g2"], "v1");
        world.traffic(&[("blue", 100)]);
        world
    }

    /// The app lives in these groups, and an edge divides the traffic between blue and green.
    pub(crate) fn divided(&mut self, groups: &[&str]) {
        let fleet = self.state.fleet.as_mut().unwrap();
        fleet.components[0].groups = groups.iter().map(|name| group(name)).collect();
        fleet.traffic = Some(Traffic {
            edge: group("edge"),
            slots: vec![group("blue"), group("green")],
            drain_ms: 20_000,
            warm_ms: 1_800_000,
        });
    }

    /// Another edge that divides the traffic as the first one does.
    pub(crate) fn second_edge(&mut self) {
        let fleet = self.state.fleet.as_mut().unwrap();
        fleet.groups.last_mut().unwrap().hosts.push(host("lb2"));
        let now = self.hosts[&host("lb")].clone();
        self.hosts.insert(host("lb2"), now);
    }

    /// How the edges divide the traffic now.
    pub(crate) fn traffic(&mut self, shares: &[(&str, u32)]) {
        let shares = shares.iter().map(|(name, percent)| (group(name), *percent));
        let weights = Weights::new(shares, []).unwrap();
        for name in ["lb", "lb2"] {
            if let Some(edge) = self.hosts.get_mut(&host(name)) {
                edge.weights = Some(weights.clone());
            }
        }
    }

    pub(crate) fn component(&mut self, name: &str) -> &mut Component {
        let fleet = self.state.fleet.as_mut().unwrap();
        fleet.components.iter_mut().find(|row| row.name.as_str() == name).unwrap()
    }

    /// A fleet without a past.
    pub(crate) fn of(fleet: Fleet) -> Self {
        fleet.check().unwrap();
        let mut state = FleetState::default();
        let (by, at) = ("ada".to_owned(), Timestamp(0));
        let hosts = fleet.hosts().map(|(host, _)| (host.clone(), HostNow::default())).collect();
        state.apply(&FleetEvent::Applied { fleet: Box::new(fleet), by, at });
        Self { state, hosts }
    }

    pub(crate) fn inventory(&self) -> Inventory<'_> {
        Inventory { state: &self.state, hosts: self.hosts.clone() }
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        self.state.fleet.as_ref().unwrap()
    }

    pub(crate) fn strategy(&mut self) -> &mut Rollback {
        &mut self.state.fleet.as_mut().unwrap().rollback
    }

    /// Every host has a snapshot of every component of it, taken at `age`.
    pub(crate) fn release(&mut self, name: &str, age: i64) {
        for (at, component) in self.places() {
            let hash = snapshot(at.as_str(), component.as_str(), name);
            let seen = SeenSnapshot {
                snapshot: hash.clone(),
                content: String::new(),
                version: None,
                taken_at: Timestamp(age),
            };
            let now = SnapshotNow { release: Some(release(name)), snapshot: hash, damage: None };
            let kept = self.hosts.get_mut(&at).unwrap();
            kept.snapshots.entry(component.clone()).or_default().push(now);
            let release = release(name);
            self.state.apply(&FleetEvent::SnapshotSeen { host: at, component, release, seen });
        }
    }

    /// Every component of these hosts is on it.
    pub(crate) fn live_on(&mut self, hosts: &[&str], name: &str) {
        for (at, component) in self.places() {
            if hosts.contains(&at.as_str()) {
                let hash = snapshot(at.as_str(), component.as_str(), name);
                let live =
                    LiveNow { release: Some(release(name)), snapshot: Some(hash), changed: false };
                self.hosts.get_mut(&at).unwrap().live.insert(component, live);
            }
        }
    }

    pub(crate) fn live(&mut self, name: &str) {
        let all: Vec<String> = self.hosts.keys().map(ToString::to_string).collect();
        self.live_on(&all.iter().map(String::as_str).collect::<Vec<_>>(), name);
    }

    /// An operation judged it on these hosts.
    pub(crate) fn proven(&mut self, name: &str, hosts: &[&str], standing: Standing) {
        let hosts = hosts.iter().map(|name| host(name)).collect();
        let (operation, at) = (operation("rb-0007"), Timestamp(90));
        let release = release(name);
        self.state.apply(&FleetEvent::Proven { release, hosts, standing, operation, at });
    }

    /// A person judged it.
    pub(crate) fn marked(&mut self, name: &str, standing: Standing, reason: &str) {
        let (release, reason) = (release(name), reason.to_owned());
        let (by, at) = ("ada".to_owned(), Timestamp(91));
        self.state.apply(&FleetEvent::Marked { release, standing, by, reason, at });
    }

    /// Its agent is not connected.
    pub(crate) fn away(&mut self, name: &str) {
        self.hosts.remove(&host(name));
    }

    /// A snapshot on a host is damaged.
    /// It did not tell in time how it is.
    pub(crate) fn silent(&mut self, name: &str) {
        self.hosts.get_mut(&host(name)).unwrap().silent = true;
    }

    pub(crate) fn damaged(&mut self, at: &str, name: &str, damage: &str) {
        let now = self.hosts.get_mut(&host(at)).unwrap();
        for row in
            now.snapshots.values_mut().flatten().filter(|row| row.release == Some(release(name)))
        {
            row.damage = Some(damage.to_owned());
        }
    }

    /// A host does not hold it any more.
    pub(crate) fn missing(&mut self, at: &str, name: &str) {
        let now = self.hosts.get_mut(&host(at)).unwrap();
        for rows in now.snapshots.values_mut() {
            rows.retain(|row| row.release != Some(release(name)));
        }
    }

    fn places(&self) -> Vec<(HostName, ComponentName)> {
        let mut places = Vec::new();
        for (host, group) in self.fleet().hosts() {
            for component in self.fleet().components_of(group) {
                places.push((host.clone(), component.name.clone()));
            }
        }
        places
    }
}

/// A plan as a reviewer reads it.
pub(crate) fn show(plan: &Plan) -> String {
    let mut out = String::new();
    let name = |release: &Option<ReleaseName>| {
        release.as_ref().map_or("?".to_owned(), ToString::to_string)
    };
    let mut line = |text: String| writeln!(out, "{text}").unwrap();
    line(format!("{:?}: {} → {}", plan.kind, name(&plan.from), name(&plan.to)));
    line(format!("because: {}", plan.why_target));
    for stage in &plan.stages {
        let engine::Budget { failed, unknown, out } = stage.budget;
        let mitigates = if stage.mitigates { ", mitigates" } else { "" };
        let held = stage
            .held_until
            .map_or(String::new(), |until| format!(", until `{}`", plan.stages[until].name));
        let gate = stage.gate.as_ref().map_or(String::new(), |gate| {
            let asks = if gate.asks { " and a person" } else { "" };
            format!(", {} ms, gate {} {} %{asks}", stage.soak_ms, gate.canary, gate.weight)
        });
        line(format!(
            "stage {}: failed {failed}, unknown {unknown}, out {out}{mitigates}{held}{gate}",
            stage.name
        ));
        for (number, batch) in stage.batches.iter().enumerate() {
            for track in &batch.tracks {
                let steps: Vec<String> = track.steps.iter().map(step).collect();
                line(format!("  batch {number}  {}: {}", track.host, steps.join(", ")));
            }
        }
    }
    for row in &plan.hosts {
        let away = if row.reachable { "" } else { ", out of reach" };
        let left_out =
            row.left_out.as_ref().map_or(String::new(), |why| format!(", left out: {why}"));
        line(format!("host {} ({}): {}{away}{left_out}", row.host, row.group, name(&row.from)));
    }
    line(format!("marks bad: {}, freezes: {}", plan.marks_from_bad, plan.freezes));
    for text in &plan.interruption {
        line(format!("interruption: {text}"));
    }
    for text in &plan.not_rolled_back {
        line(format!("not rolled back: {text}"));
    }
    for text in &plan.warnings {
        line(format!("warning: {text}"));
    }
    out
}

fn step(step: &Step) -> String {
    let verb = format!("{:?}", step.verb).to_lowercase();
    let hook = step.hook.as_ref().map_or(String::new(), |hook| format!(" {hook} of"));
    let across = if step.across_migrations { " across migrations" } else { "" };
    let weights = step.weights.as_ref().map_or(String::new(), |weights| format!(" ({weights})"));
    let at_once = if step.at_once { " at once" } else { "" };
    let forward = if step.forward { " forward" } else { "" };
    format!("{verb}{hook} {}{across}{weights}{at_once}{forward}", step.component)
}
