//! What every host is told to keep: pins, the last good release, the way back, and what an operation in work names. And
//! what it is not to go forward to.
//!
//! ```text
//! fleets change ─┐          ┌─ rows ──▶ Sessions::keep ─▶ agent: prunes by its own rules, but never these
//! session opens ─┼─▶ Keeper ┴─ barred ▶ Sessions::bar ──▶ agent: see `quarantine`
//! a while passes ┘
//! ```
//!
//! Invariant: a host that is told too much keeps too much; nothing here makes anything go.
//! Invariant: nothing is told that a host does not have.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use engine::{
    ComponentName, Elapsed, FleetName, FleetState, HostName, Plan, ReleaseName, SnapshotHash,
    Standing, planner,
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    fleets::Fleets,
    host::HostStatus,
    operations::{Operations, inventory},
    quarantine::{self, Barred},
    sessions::Sessions,
};

/// What is live may change without our doing: then the way back does too.
const EVERY: Duration = Duration::from_secs(30);
/// The first change is told at once, those that come soon after it together.
const TOGETHER: Duration = Duration::from_millis(50);
/// How much of a person's reason an agent is told.
const REASON_CHARS_MAX: usize = 80;

/// A snapshot that a host is to keep, and why, in words that follow `stays: `.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub component: ComponentName,
    pub snapshot: SnapshotHash,
    pub why: String,
}

/// Tells every connected host what to keep, whenever that changes.
#[derive(Debug)]
pub struct Keeper {
    pub sessions: Arc<Sessions>,
    pub fleets: Arc<Fleets>,
    pub operations: Arc<Operations>,
}

impl Keeper {
    /// Runs for ever.
    pub async fn run(self) {
        let (mut fleets, mut opened) = (self.fleets.changed(), self.sessions.opened());
        loop {
            fleets.borrow_and_update();
            opened.borrow_and_update();
            self.tell().await;
            sleep(TOGETHER).await;
            let next = Instant::now() + EVERY;
            tokio::select! {
                changed = fleets.changed() => if changed.is_err() { return },
                changed = opened.changed() => if changed.is_err() { return },
                () = sleep_until(next) => {}
            }
        }
    }

    async fn tell(&self) {
        for fleet in self.fleets.names().await {
            for (host, rows) in rows(&self.fleets, &self.sessions, &self.operations, &fleet).await {
                self.sessions.keep(&host, rows);
            }
            for (host, rows) in barred(&self.fleets, &self.sessions, &fleet).await {
                self.sessions.bar(&host, rows);
            }
        }
    }
}

/// What each connected host of a fleet is to keep.
pub async fn rows(
    fleets: &Fleets,
    sessions: &Sessions,
    operations: &Operations,
    fleet: &FleetName,
) -> BTreeMap<HostName, Vec<Kept>> {
    let read = |state: &FleetState| {
        let way_back = planner::way_back(&inventory(state, sessions)).ok();
        let busy = state.busy.as_ref().and_then(|id| operations.runner(id.as_str()));
        let plan = busy.map(|runner| {
            let view = runner.view();
            let operation = view.borrow().operation.clone();
            (operation.id().to_string(), operation)
        });
        let running = plan.as_ref().map(|(id, operation)| (id.as_str(), &**operation.plan()));
        let hosts = state.fleet.iter().flat_map(|fleet| fleet.hosts());
        let told = hosts.filter_map(|(host, _)| {
            let seen = sessions.get(host).filter(|seen| seen.generation().is_some())?;
            let known = Known { state, host, way_back: way_back.as_ref(), running };
            Some((host.clone(), known.rows(&seen.status)))
        });
        told.collect()
    };
    fleets.read(fleet, read).await.unwrap_or_default()
}

/// What each connected host of a fleet does not go forward to.
async fn barred(
    fleets: &Fleets,
    sessions: &Sessions,
    fleet: &FleetName,
) -> BTreeMap<HostName, Vec<Barred>> {
    let read = |state: &FleetState| {
        let told = quarantine::rows(state);
        let hosts = state.fleet.iter().flat_map(|fleet| fleet.hosts());
        let up = hosts.filter(|(host, _)| sessions.generation(host).is_some());
        up.map(|(host, group)| (host.clone(), told.get(group).cloned().unwrap_or_default()))
            .collect()
    };
    fleets.read(fleet, read).await.unwrap_or_default()
}

/// What is known when a host is told.
struct Known<'a> {
    state: &'a FleetState,
    host: &'a HostName,
    way_back: Option<&'a ReleaseName>,
    running: Option<(&'a str, &'a Plan)>,
}

impl Known<'_> {
    /// One row per reason; the first of a snapshot is the one that is shown.
    fn rows(&self, status: &HostStatus) -> Vec<Kept> {
        let mut newest_good: BTreeMap<&ComponentName, (i64, &SnapshotHash)> = BTreeMap::new();
        let (mut pinned, mut others) = (Vec::new(), Vec::new());
        for row in &status.snapshots {
            let Some(name) = &row.release else { continue };
            let kept = |why: String| {
                let (component, snapshot) = (row.component.clone(), row.seen.snapshot.clone());
                Kept { component, snapshot, why }
            };
            let release = self.state.releases.get(name);
            if let Some(pin) = release.and_then(|release| release.pinned.as_ref()) {
                let reason: String = pin.reason.chars().take(REASON_CHARS_MAX).collect();
                pinned.push(kept(format!("pinned by {}: \"{reason}\"", pin.by)));
            }
            if self.way_back == Some(name) {
                others.push(kept("a bare rollback goes here".to_owned()));
            }
            if self.to_come() == Some(name) {
                others.push(kept("created, and not deployed yet".to_owned()));
            }
            if let Some((operation, plan)) = self.running
                && self.names(plan, name, &row.seen.snapshot)
            {
                others.push(kept(format!("named by {operation}")));
            }
            let good =
                release.is_some_and(|release| release.standing_on(self.host).0 == Standing::Good);
            let taken = (row.seen.taken_at.0, &row.seen.snapshot);
            if good && row.damage.is_none() {
                let newest = newest_good.entry(&row.component).or_insert(taken);
                *newest = taken.max(*newest);
            }
        }
        let good = newest_good.into_iter().map(|(component, (_, snapshot))| Kept {
            component: component.clone(),
            snapshot: snapshot.clone(),
            why: "last good".to_owned(),
        });
        pinned.into_iter().chain(good).chain(others).collect()
    }

    /// The newest release that somebody said what it is made of, while nothing was found out about it.
    fn to_come(&self) -> Option<&ReleaseName> {
        let rows = self.state.releases.iter().filter(|(_, row)| !row.artefacts.is_empty());
        let newest = rows.max_by_key(|(name, row)| (row.first_seen, *name));
        newest.filter(|(_, row)| row.standing().0 == Standing::Unproven).map(|(name, _)| name)
    }

    /// Whether a plan goes from or to a snapshot here.
    fn names(&self, plan: &Plan, release: &ReleaseName, snapshot: &SnapshotHash) -> bool {
        let here = plan.hosts.iter().find(|row| row.host == *self.host);
        let from = here.and_then(|row| row.from.as_ref()) == Some(release);
        let tracks = plan.stages.iter().flat_map(|stage| stage.tracks());
        let steps = tracks.filter(|track| track.host == *self.host).flat_map(|track| &track.steps);
        let mut targets = steps.filter_map(|step| step.target.as_ref());
        from || plan.to.as_ref() == Some(release)
            || targets.any(|target| target.snapshot.as_ref() == Some(snapshot))
    }
}

/// How far back a rollback can go, once some snapshots are gone: how many releases, and how old the oldest is.
pub fn horizon(
    state: &FleetState,
    sessions: &Sessions,
    gone: &[(HostName, ComponentName, SnapshotHash)],
    now_unix_ms: i64,
) -> (usize, Elapsed) {
    let mut inventory = inventory(state, sessions);
    for (host, component, snapshot) in gone {
        let now = inventory.hosts.get_mut(host);
        if let Some(rows) = now.and_then(|now| now.snapshots.get_mut(component)) {
            rows.retain(|row| row.snapshot != *snapshot);
        }
    }
    let releases = planner::horizon(&inventory);
    let oldest = releases.iter().map(|(_, first_seen)| first_seen.0).min();
    let age_ms = oldest.map_or(0, |oldest| now_unix_ms.saturating_sub(oldest));
    (releases.len(), Elapsed(u64::try_from(age_ms).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use engine::{FleetEvent, SeenSnapshot, Timestamp};

    use super::*;
    use crate::host::HeldSnapshot;

    fn hash(number: u8) -> SnapshotHash {
        SnapshotHash::new(format!("{number:02x}").repeat(32)).unwrap()
    }

    fn held(release: &str, number: u8, damage: Option<&str>) -> HeldSnapshot {
        HeldSnapshot {
            learned_at: None,
            component: ComponentName::new("crm").unwrap(),
            release: Some(ReleaseName::new(release).unwrap()),
            seen: SeenSnapshot {
                snapshot: hash(number),
                content: String::new(),
                version: None,
                taken_at: Timestamp(i64::from(number)),
            },
            size_bytes: 1,
            files: 1,
            damage: damage.map(str::to_owned),
            verified_at: None,
            staged: false,
        }
    }

    #[test]
    fn p05_a_host_is_told_its_newest_whole_good_release_what_is_pinned_and_the_way_back() {
        let host = HostName::new("h1").unwrap();
        let at = Timestamp(0);
        let mut state = FleetState::default();
        let release = |name: &str| ReleaseName::new(name).unwrap();
        for (name, number) in [("v1", 1), ("v2", 2), ("v3", 3), ("v4", 4)] {
            let (component, seen) =
                (ComponentName::new("crm").unwrap(), held(name, number, None).seen);
            let (host, release) = (host.clone(), release(name));
            state.apply(&FleetEvent::SnapshotSeen { host, component, release, seen });
        }
        for name in ["v1", "v2", "v3"] {
            let (by, reason) = ("anna".to_owned(), String::new());
            let (release, standing) = (release(name), Standing::Good);
            state.apply(&FleetEvent::Marked { release, standing, by, reason, at });
        }
        let (by, reason) = ("anna".to_owned(), "the audit".repeat(20));
        state.apply(&FleetEvent::Pinned { release: release("v4"), by, reason, at });
        // v3 is damaged here: the last one that can be gone back to is v2.
        let snapshots = vec![
            held("v1", 1, None),
            held("v2", 2, None),
            held("v3", 3, Some("an object is missing")),
            held("v4", 4, None),
        ];
        let status = HostStatus { snapshots, ..HostStatus::default() };
        let way_back = release("v1");
        let known = Known { state: &state, host: &host, way_back: Some(&way_back), running: None };
        let told: Vec<(SnapshotHash, String)> =
            known.rows(&status).into_iter().map(|row| (row.snapshot, row.why)).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(told[0].0, hash(4));
        assert!(told[0].1.starts_with("pinned by anna: \"the audit") && told[0].1.len() < 120);
        assert_eq!(told[1], (hash(2), "last good".to_owned()));
        assert_eq!(told[2], (hash(1), "a bare rollback goes here".to_owned()));

        state.apply(&FleetEvent::Unpinned { release: release("v4"), by: "anna".to_owned(), at });
        let known = Known { state: &state, host: &host, way_back: None, running: None };
        assert_eq!(known.rows(&status).len(), 1);

        let (source, name, digest) = ("builds".to_owned(), "v4.tar".to_owned(), String::new());
        let artefact = engine::Artefact { source, name, digest };
        let artefacts = BTreeMap::from([(ComponentName::new("crm").unwrap(), artefact)]);
        let (by, name) = ("anna".to_owned(), release("v4"));
        state.apply(&FleetEvent::Created { release: name, artefacts, by, at });
        let known = Known { state: &state, host: &host, way_back: None, running: None };
        let why: Vec<String> = known.rows(&status).into_iter().map(|row| row.why).collect();
        assert_eq!(why, ["last good", "created, and not deployed yet"]);
    }
}
