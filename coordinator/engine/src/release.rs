//! A release as it is known: what it is made of, which host has what of it, and how it stands.
//!
//! Invariant: a person's mark beats what an operation found, and that beats what a host learned.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    fleet::{SeenSnapshot, Standing, StandingSource},
    name::{ComponentName, HostName, SnapshotHash},
    time::Timestamp,
    weights::Artefact,
};

/// A named revision and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// When its first snapshot was taken: what "older" means.
    pub first_seen: Timestamp,
    /// A person's word; it beats what operations found.
    pub marked: Option<(Standing, String)>,
    #[serde(default)]
    pub pinned: Option<Pin>,
    /// What it is made of, where somebody said so.
    #[serde(default)]
    pub artefacts: BTreeMap<ComponentName, Artefact>,
    pub hosts: BTreeMap<HostName, HostRelease>,
}

/// Who wants a release to stay, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub by: String,
    pub reason: String,
    pub since: Timestamp,
}

/// A release on one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRelease {
    /// Whatever was ever told of: a content hash is recognised long after its snapshot was pruned.
    pub snapshots: BTreeMap<ComponentName, SeenSnapshot>,
    /// Those of them that the host no longer has.
    #[serde(default)]
    pub gone: BTreeSet<ComponentName>,
    /// What an operation found.
    pub standing: Option<(Standing, StandingSource)>,
    /// What the host learned to be good.
    #[serde(default)]
    pub learned: BTreeMap<ComponentName, SnapshotHash>,
}

impl HostRelease {
    /// Whether the host learned all that it has of the release.
    fn is_learned(&self) -> bool {
        let learned = |(component, seen): (&ComponentName, &SeenSnapshot)| {
            self.learned.get(component) == Some(&seen.snapshot)
        };
        !self.snapshots.is_empty() && self.snapshots.iter().all(learned)
    }
}

impl HostRelease {
    /// The snapshots that the host has, as far as it told.
    pub fn held(&self) -> impl Iterator<Item = (&ComponentName, &SeenSnapshot)> {
        self.snapshots.iter().filter(|(component, _)| !self.gone.contains(*component))
    }

    /// The snapshot of one component.
    pub fn holds(&self, component: &ComponentName) -> Option<&SeenSnapshot> {
        self.held().find(|(name, _)| *name == component).map(|(_, seen)| seen)
    }
}

impl Release {
    /// How it stands on a host: a person's mark first, then what an operation found there, then what the host learned.
    /// What an operation found bad on any host is not learned to be good on another.
    pub fn standing_on(&self, host: &HostName) -> (Standing, Option<StandingSource>) {
        if let Some((standing, _)) = &self.marked {
            return (*standing, Some(StandingSource::Marked));
        }
        let row = self.hosts.get(host);
        match row.and_then(|row| row.standing) {
            Some((standing, source)) => (standing, Some(source)),
            None if row.is_some_and(HostRelease::is_learned) && !self.found_bad() => {
                (Standing::Good, Some(StandingSource::Learned))
            }
            None => (Standing::Unproven, None),
        }
    }

    fn found_bad(&self) -> bool {
        let bad = |row: &HostRelease| matches!(row.standing, Some((Standing::Bad, _)));
        self.hosts.values().any(bad)
    }

    /// How it stands as a whole: bad anywhere is bad, good is good on every host that has it, and learned where it is so
    /// on any.
    pub fn standing(&self) -> (Standing, Option<StandingSource>) {
        let mut found = self.hosts.keys().map(|host| self.standing_on(host));
        let Some(mut worst) = found.next() else {
            return match &self.marked {
                Some((standing, _)) => (*standing, Some(StandingSource::Marked)),
                None => (Standing::Unproven, None),
            };
        };
        for next in found {
            worst = match (worst.0, next.0) {
                (Standing::Bad, _) => worst,
                (_, Standing::Bad) => next,
                (Standing::Unproven, _) => worst,
                (_, Standing::Unproven) => next,
                (Standing::Good, Standing::Good) if next.1 == Some(StandingSource::Learned) => next,
                (Standing::Good, Standing::Good) => worst,
            };
        }
        worst
    }
}
