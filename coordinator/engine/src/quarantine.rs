//! Content that was left as bad, and must not come back unnoticed.
//!
//! ```text
//! rollback: what each host replaced ─▶ Left (by content) ─┐
//! releases that are bad, with their snapshots ────────────┴─▶ quarantined(component, content) ─▶ an alarm, not a way back
//! ```
//!
//! A content hash is the same on every host, so what one host left is recognised on all.
//!
//! Invariant: content that a good release has, too, is not quarantined: one component of several may not have changed.
//! What was only learned to be good does not count for that.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    fleet::{FleetState, Standing, StandingSource},
    name::{ComponentName, HostName, OperationId, ReleaseName},
    release::{HostRelease, Release},
};

/// What hosts replaced when a release was left as bad, whether or not it was ever recorded under its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    pub release: ReleaseName,
    pub component: ComponentName,
    pub content: String,
    pub operation: OperationId,
}

/// The bad release that some content belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    pub release: ReleaseName,
    /// Completes "the content of RELEASE, which …".
    pub which: String,
}

impl std::fmt::Display for Quarantined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the content of {}, which {}", self.release, self.which)
    }
}

impl FleetState {
    /// Everything that [`Self::quarantined`] knows of, in one pass: component, content, and why.
    pub fn quarantine(&self) -> Vec<(ComponentName, String, Quarantined)> {
        let (mut good, mut bad) = (BTreeSet::new(), BTreeMap::new());
        for (name, release) in &self.releases {
            let found = Quarantined { release: name.clone(), which: self.found(name) };
            for (host, row) in &release.hosts {
                let contents = row.snapshots.iter().map(|(name, seen)| (name, &*seen.content));
                match release.standing_on(host) {
                    (Standing::Good, Some(StandingSource::Operated | StandingSource::Marked)) => {
                        good.extend(contents);
                    }
                    (Standing::Bad, _) => {
                        contents.for_each(|key| _ = bad.entry(key).or_insert(found.clone()));
                    }
                    (Standing::Good | Standing::Unproven, _) => {}
                }
            }
        }
        let stands = self.releases.iter().map(|(name, release)| (name, release.standing().0));
        let stands: BTreeMap<&ReleaseName, Standing> = stands.collect();
        let left = self.left.iter().filter(|row| stands.get(&row.release) == Some(&Standing::Bad));
        bad.extend(left.map(|row| ((&row.component, &*row.content), self.by_leaving(row))));
        let listed = bad.into_iter().filter(|(key, _)| !key.1.is_empty() && !good.contains(key));
        listed.map(|((name, content), why)| (name.clone(), content.to_owned(), why)).collect()
    }

    /// A release that is bad, by what a person or else an operation said of it.
    fn found(&self, release: &ReleaseName) -> String {
        self.marked(release).unwrap_or_else(|| "an operation found bad".to_owned())
    }

    fn by_leaving(&self, left: &Left) -> Quarantined {
        let by = || format!("was left bad by {}", left.operation);
        let release = left.release.clone();
        Quarantined { which: self.marked(&release).unwrap_or_else(by), release }
    }

    fn marked(&self, release: &ReleaseName) -> Option<String> {
        let (_, reason) = self.releases.get(release)?.marked.as_ref()?;
        Some(format!("is marked bad: {reason}"))
    }

    /// The bad release that has this content of a component; none where there is none, or a good one has it, too.
    pub fn quarantined(&self, component: &ComponentName, content: &str) -> Option<Quarantined> {
        if content.is_empty() {
            return None;
        }
        let rows =
            || self.releases.iter().flat_map(|(name, row)| having(name, row, component, content));
        let is_good = |(_, row, host): &(&ReleaseName, &Release, &HostName)| {
            matches!(
                row.standing_on(host),
                (Standing::Good, Some(StandingSource::Operated | StandingSource::Marked))
            )
        };
        if rows().any(|row| is_good(&row)) {
            return None;
        }
        let mut left = self.left.iter().rev();
        let left = left.find(|row| {
            let release = self.releases.get(&row.release);
            let bad = release.is_some_and(|release| release.standing().0 == Standing::Bad);
            row.component == *component && row.content == content && bad
        });
        if let Some(left) = left {
            return Some(self.by_leaving(left));
        }
        let (release, _, _) =
            rows().find(|(_, row, host)| row.standing_on(host).0 == Standing::Bad)?;
        Some(Quarantined { release: release.clone(), which: self.found(release) })
    }
}

/// The hosts on which a release has this content.
fn having<'a>(
    name: &'a ReleaseName,
    release: &'a Release,
    component: &'a ComponentName,
    content: &'a str,
) -> impl Iterator<Item = (&'a ReleaseName, &'a Release, &'a HostName)> {
    let has = move |(host, row): (&'a HostName, &'a HostRelease)| {
        let same = row.snapshots.get(component).is_some_and(|seen| seen.content == content);
        same.then_some((name, release, host))
    };
    release.hosts.iter().filter_map(has)
}
