//! A host as its agent tells it, in the coordinator's own types.

use std::collections::BTreeSet;

use engine::{
    ComponentName, Elapsed, HostNow, LiveNow, LocalOperation, ReleaseName, SeenSnapshot, SeenTrack,
    SnapshotHash, SnapshotNow, Standing, Timestamp, Weights,
};
use engine::{Fleet, FleetEvent, FleetState, HostName, OperationId};

/// How a name begins that a host made up for what it learned.
const MADE_UP: &str = "learned-";

/// What an agent says when its session begins.
#[derive(Clone, Debug)]
pub struct Hello {
    pub protocol_min: u32,
    pub protocol_max: u32,
    pub agent_version: String,
    /// The highest epoch on its record: counter and instance.
    pub highest_epoch: Option<(u64, String)>,
}

/// Everything that is known of a connected host.
#[derive(Clone, Debug, Default)]
pub struct HostStatus {
    pub policy_hash: String,
    pub components: Vec<ComponentStatus>,
    pub snapshots: Vec<HeldSnapshot>,
    pub tracks: Vec<(OperationId, SeenTrack)>,
    pub free_bytes: u64,
    /// The newest operation that root ran on the host itself.
    pub local: Option<LocalOperation>,
    /// The fence on its record: counter and instance of the epoch, and the sequence.
    pub fence: Option<(u64, String, u64)>,
    /// Absent on a host that divides no traffic.
    pub traffic: Option<TrafficStatus>,
}

/// How the proxy of a host divides the traffic.
#[derive(Clone, Debug)]
pub struct TrafficStatus {
    pub driver: String,
    /// What was set last; absent where nothing was.
    pub asked: Option<Weights>,
    /// What the running proxy says; absent where it cannot be asked.
    pub observed: Option<Weights>,
    pub problems: Vec<Problem>,
}

/// One component as it is now.
#[derive(Clone, Debug)]
pub struct ComponentStatus {
    pub component: ComponentName,
    pub release: Option<ReleaseName>,
    pub snapshot: Option<SnapshotHash>,
    /// The content hash of what is there now; empty where it could not be looked at.
    pub content: String,
    pub changed: bool,
    pub version: Option<String>,
    pub services: Vec<ServiceStatus>,
    pub checks: Vec<CheckStatus>,
    pub held: bool,
    pub verbs: Vec<engine::Verb>,
    /// What would keep a rollback of it from working.
    pub problems: Vec<Problem>,
    /// Until when what a deploy put there is on trial, by the host's clock.
    pub lease_until: Option<Timestamp>,
}

/// Something on a host that is not as it has to be, and what mends it.
#[derive(Clone, Debug)]
pub struct Problem {
    pub what: String,
    pub mend: String,
    /// A rollback would work all the same.
    pub warns: bool,
}

/// One service as its driver sees it.
#[derive(Clone, Debug)]
pub struct ServiceStatus {
    pub service: String,
    pub driver: String,
    pub running: bool,
    pub detail: String,
}

/// One check as it answered last.
#[derive(Clone, Debug)]
pub struct CheckStatus {
    pub check: String,
    pub ok: bool,
    pub detail: String,
}

/// A snapshot in the host's store.
#[derive(Clone, Debug)]
pub struct HeldSnapshot {
    pub component: ComponentName,
    /// Absent for what an operation replaced without its ever having had a name.
    pub release: Option<ReleaseName>,
    pub seen: SeenSnapshot,
    pub size_bytes: u64,
    pub files: u64,
    pub damage: Option<String>,
    /// When every byte of it was last read and found right.
    pub verified_at: Option<Timestamp>,
    /// It stands beside the live one already.
    pub staged: bool,
    /// When the host had learned that it is good; absent where somebody asked for it.
    pub learned_at: Option<Timestamp>,
}

impl HostStatus {
    /// The host as a planner sees it.
    pub fn now(&self, state: &FleetState, host: &HostName) -> HostNow {
        let weights = self.traffic.as_ref().and_then(|traffic| traffic.observed.clone());
        let mut now = HostNow { weights, ..HostNow::default() };
        for row in &self.components {
            let release = live_release(state, host, row);
            let live = LiveNow { release, snapshot: row.snapshot.clone(), changed: row.changed };
            now.live.insert(row.component.clone(), live);
        }
        for row in &self.snapshots {
            let snapshot = SnapshotNow {
                release: row.release.clone(),
                snapshot: row.seen.snapshot.clone(),
                damage: row.damage.clone(),
            };
            now.snapshots.entry(row.component.clone()).or_default().push(snapshot);
        }
        now
    }

    /// Whether the policy file there is another one than the fleet file says.
    pub fn policy_drift(&self, fleet: Option<&Fleet>, host: &HostName) -> bool {
        let wanted = fleet.and_then(|fleet| fleet.policy_hashes.get(host));
        wanted.is_some_and(|wanted| *wanted != self.policy_hash)
    }

    /// Snapshots that the fleet's record does not have yet.
    pub fn unseen(&self, state: &FleetState, host: &HostName) -> Vec<FleetEvent> {
        let mut events = Vec::new();
        for row in self.snapshots.iter().filter(|row| row.damage.is_none()) {
            let Some(release) = &row.release else { continue };
            let known = state.releases.get(release).and_then(|release| release.hosts.get(host));
            if known.and_then(|on_host| on_host.holds(&row.component)) != Some(&row.seen) {
                events.push(FleetEvent::SnapshotSeen {
                    host: host.clone(),
                    component: row.component.clone(),
                    release: release.clone(),
                    seen: row.seen.clone(),
                });
            }
            events.extend(learned(state, host, release, row));
        }
        events.extend(self.gone(state, host));
        if let Some(local) = self.unseen_local(state, host) {
            let (host, local) = (host.clone(), local.clone());
            events.push(FleetEvent::ActedLocally { host, local, at: wall() });
        }
        events
    }

    /// Hosts that made up names for the same content go by the first one that is on record, so that a release which
    /// reports no version is one release on all of them.
    pub fn join_names(&mut self, state: &FleetState) {
        for row in &mut self.snapshots {
            let made = |name: &ReleaseName| name.as_str().starts_with(MADE_UP);
            let own = row.release.clone().filter(|name| row.learned_at.is_some() && made(name));
            let Some(own) = own else { continue };
            let same = |release: &engine::Release| {
                let mut hosts = release.hosts.values();
                hosts.any(|on_host| {
                    let seen = on_host.snapshots.get(&row.component);
                    seen.is_some_and(|seen| seen.content == row.seen.content)
                })
            };
            let recorded = state.releases.iter().filter(|(name, row)| made(name) && same(row));
            let first = recorded.min_by_key(|(name, row)| (row.first_seen, *name));
            let Some((first, _)) = first.filter(|(name, _)| **name != own) else { continue };
            row.release = Some(first.clone());
            for live in self.components.iter_mut().filter(|live| live.component == row.component) {
                if live.release.as_ref() == Some(&own) {
                    live.release = Some(first.clone());
                }
            }
        }
    }

    /// Where what was left as bad runs again.
    pub fn alarms(&self, state: &FleetState) -> Vec<Problem> {
        let alarm = |row: &ComponentStatus| {
            let bad = state.quarantined(&row.component, &row.content)?;
            let what = format!("{} runs {bad}", row.component);
            Some(Problem { what, mend: "ctl rollback".to_owned(), warns: true })
        };
        self.components.iter().filter_map(alarm).collect()
    }

    /// Snapshots of the fleet's record that the host no longer has: it pruned them, or lost its disk.
    fn gone(&self, state: &FleetState, host: &HostName) -> Vec<FleetEvent> {
        let here: BTreeSet<(&ReleaseName, &ComponentName)> = self
            .snapshots
            .iter()
            .filter_map(|row| Some((row.release.as_ref()?, &row.component)))
            .collect();
        let mut events = Vec::new();
        for (name, release) in &state.releases {
            let held = release.hosts.get(host).into_iter().flat_map(|on_host| on_host.held());
            for (component, _) in held.filter(|(component, _)| !here.contains(&(name, component))) {
                let (component, release) = (component.clone(), name.clone());
                let (host, at) = (host.clone(), wall());
                events.push(FleetEvent::SnapshotGone { host, component, release, at });
            }
        }
        events
    }

    /// A local operation that the fleet's record does not have, or not as it stands now.
    fn unseen_local(&self, state: &FleetState, host: &HostName) -> Option<&LocalOperation> {
        let local = self.local.as_ref()?;
        let known = state.local.get(host).map(|seen| &seen.operation);
        (known != Some(local)).then_some(local)
    }

    /// What its ledger holds of one operation.
    pub fn tracks_of(&self, operation: &OperationId) -> Vec<SeenTrack> {
        let rows = self.tracks.iter().filter(|(id, _)| id == operation);
        rows.map(|(_, track)| track.clone()).collect()
    }
}

/// That a host learned its part of a release to be good, unless that is on record, or the release or its content is bad:
/// then it is not made good by this.
fn learned(
    state: &FleetState,
    host: &HostName,
    release: &ReleaseName,
    row: &HeldSnapshot,
) -> Option<FleetEvent> {
    row.learned_at?;
    let known = state.releases.get(release);
    let on_host = known.and_then(|known| known.hosts.get(host));
    let (component, snapshot) = (row.component.clone(), row.seen.snapshot.clone());
    let recorded = on_host.and_then(|on_host| on_host.learned.get(&component)) == Some(&snapshot);
    let bad = known.is_some_and(|known| known.standing().0 == Standing::Bad)
        || state.quarantined(&component, &row.seen.content).is_some();
    let (host, release) = (host.clone(), release.clone());
    (!recorded && !bad).then(|| FleetEvent::Learned {
        host,
        component,
        release,
        snapshot,
        at: wall(),
    })
}

/// What is live of a component: by the check's own word where it answers, else by the agent's record.
pub fn live_release(
    state: &FleetState,
    host: &HostName,
    row: &ComponentStatus,
) -> Option<ReleaseName> {
    let Some(version) = &row.version else {
        return if row.changed { None } else { row.release.clone() };
    };
    // What was made of a backup has no version on record: nobody asked the app then.
    let version_of = |release: &ReleaseName| {
        let on_host = state.releases.get(release)?.hosts.get(host)?;
        on_host.snapshots.get(&row.component)?.version.as_ref()
    };
    // The record's own name first: several releases may report one version.
    let is_it = |release: &&ReleaseName| match version_of(release) {
        Some(recorded) => recorded == version,
        None => !row.changed,
    };
    if let Some(release) = row.release.as_ref().filter(is_it) {
        return Some(release.clone());
    }
    let known = state.releases.keys().filter(|release| version_of(release) == Some(version)).max();
    known.cloned().or_else(|| ReleaseName::new(version.clone()).ok())
}

/// Wall time now.
pub fn wall() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond())
}

/// Operation time: what was reached before this process, and this process's own monotonic time since.
#[derive(Clone, Copy, Debug)]
pub struct OperationClock {
    reached: Elapsed,
    since: std::time::Instant,
}

impl OperationClock {
    /// Goes on from `reached`.
    pub fn from(reached: Elapsed) -> Self {
        Self { reached, since: std::time::Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Elapsed {
        let ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.reached.plus(ms)
    }

    /// The instant of an operation time.
    pub fn instant(&self, at: Elapsed) -> std::time::Instant {
        self.since + std::time::Duration::from_millis(at.since(self.reached))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str, content: &str) -> HostStatus {
        let component = ComponentName::new("crm").unwrap();
        let release = Some(ReleaseName::new(name).unwrap());
        let snapshot = SnapshotHash::new("ab".repeat(32)).unwrap();
        let taken_at = Timestamp(5);
        let content = content.to_owned();
        let live = ComponentStatus {
            component: component.clone(),
            release: release.clone(),
            snapshot: Some(snapshot.clone()),
            content: content.clone(),
            changed: false,
            version: None,
            services: Vec::new(),
            checks: Vec::new(),
            held: false,
            verbs: Vec::new(),
            problems: Vec::new(),
            lease_until: None,
        };
        let held = HeldSnapshot {
            component,
            release,
            seen: SeenSnapshot { snapshot, content, version: None, taken_at },
            size_bytes: 1,
            files: 1,
            damage: None,
            verified_at: None,
            staged: false,
            learned_at: Some(Timestamp(6)),
        };
        HostStatus { components: vec![live], snapshots: vec![held], ..HostStatus::default() }
    }

    fn names(status: &HostStatus) -> [&str; 2] {
        [&status.components[0].release, &status.snapshots[0].release]
            .map(|name| name.as_ref().unwrap().as_str())
    }

    #[test]
    fn hosts_that_made_up_names_for_the_same_content_have_one_release() {
        let mut state = FleetState::default();
        let mut tell = |host: &str, mut status: HostStatus| {
            let host = HostName::new(host).unwrap();
            status.join_names(&state);
            for event in status.unseen(&state, &host) {
                state.apply(&event);
            }
            status
        };
        let first = "learned-2026-11-22T0310";
        assert_eq!(names(&tell("h1", told(first, "one"))), [first; 2]);
        assert_eq!(names(&tell("h2", told("learned-2026-11-22T0305", "one"))), [first; 2]);
        assert_eq!(names(&tell("h1", told(first, "one"))), [first; 2], "and it stays so");
        let other = "learned-2026-11-22T0400";
        assert_eq!(names(&tell("h3", told(other, "two"))), [other; 2], "other content");
        assert_eq!(names(&tell("h4", told("v1", "one"))), ["v1"; 2], "a name of its own");
        let release = &state.releases[&ReleaseName::new(first).unwrap()];
        assert_eq!(release.hosts.len(), 2);
        assert_eq!(release.standing().0, Standing::Good);
    }
}
