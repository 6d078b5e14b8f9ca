//! Which release a local rollback goes to, and what speaks for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{Refusal, Shape, View, live};
use crate::{
    ledger::Track,
    order::{End, Verb},
    status::Snapshot,
};

/// A release, and its snapshot of each component.
pub(super) struct Target {
    pub(super) release: String,
    pub(super) snapshots: BTreeMap<String, String>,
    pub(super) why: String,
    pub(super) warnings: Vec<String>,
}

/// What speaks for or against a snapshot here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// An operation put it there and its checks held.
    Verified {
        by: String,
    },
    /// The check reported this version when it was captured.
    Answered {
        version: String,
    },
    /// This host was rolled back from it.
    Left {
        by: String,
    },
    Nothing,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified { by } => write!(f, "{by} verified it here"),
            Self::Answered { version } => {
                write!(f, "its check reported {version} when it was captured here")
            }
            Self::Left { by } => write!(f, "{by} rolled this host back from it"),
            Self::Nothing => f.write_str("it was never verified here"),
        }
    }
}

/// The release that a person named.
pub(super) fn named(view: View<'_>, name: &str) -> Result<Target, Refusal> {
    let known = releases(view);
    if !known.contains(name) {
        return Err(Refusal::NotKnown {
            name: name.to_owned(),
            known: known.into_iter().collect(),
        });
    }
    let snapshots = whole(view, name).map_err(|why| {
        let older = next_older(view, name);
        Refusal::NotWhole { name: name.to_owned(), why, older }
    })?;
    let found = evidence(view, &snapshots);
    let warning = match &found {
        Evidence::Verified { .. } | Evidence::Answered { .. } => None,
        Evidence::Left { .. } | Evidence::Nothing => Some(format!("{name}: {found}")),
    };
    let (release, why) = (name.to_owned(), "named by --to".to_owned());
    Ok(Target { release, snapshots, why, warnings: warning.into_iter().collect() })
}

/// The newest release that is whole, older than the live one, verified here and not left behind.
pub(super) fn newest_verified(view: View<'_>) -> Result<Target, Refusal> {
    let live = live(view.status);
    let live_since = live.as_deref().map(|name| taken_at(view, name));
    let rows = by_age(view);
    let older = live.as_ref().map_or_else(String::new, |live| format!(" older than {live} (live)"));
    let mut candidates = Vec::new();
    for release in rows {
        let why_not = |why: &str| (release.clone(), why.to_owned());
        if live.as_ref() == Some(&release) {
            candidates.push(why_not("it is live now"));
            continue;
        }
        if live_since.is_some_and(|since| taken_at(view, &release) >= since) {
            candidates.push(why_not("it is not older than the live release"));
            continue;
        }
        let snapshots = match whole(view, &release) {
            Ok(snapshots) => snapshots,
            Err(why) => {
                let proven = is_proven(&evidence(view, &captured(view, &release)));
                let older = next_older(view, &release).filter(|_| proven);
                if older.is_some() && is_damaged(view, &release) {
                    return Err(Refusal::NotWhole { name: release, why, older });
                }
                candidates.push(why_not(&why.join("; ")));
                continue;
            }
        };
        let proof = evidence(view, &snapshots);
        if !is_proven(&proof) {
            candidates.push(why_not(&proof.to_string()));
            continue;
        }
        let why = format!("newest release{older} that is whole here; {proof}");
        return Ok(Target { release, snapshots, why, warnings: Vec::new() });
    }
    Err(Refusal::NoTarget { candidates })
}

/// The newest release that is whole, older than this one, verified here and neither left behind nor live.
fn next_older(view: View<'_>, than: &str) -> Option<String> {
    let (live, age) = (live(view.status), taken_at(view, than));
    by_age(view).into_iter().find(|name| {
        let fits = name != than && live.as_ref() != Some(name) && taken_at(view, name) <= age;
        fits && whole(view, name).is_ok_and(|snapshots| is_proven(&evidence(view, &snapshots)))
    })
}

fn is_proven(evidence: &Evidence) -> bool {
    match evidence {
        Evidence::Verified { .. } | Evidence::Answered { .. } => true,
        Evidence::Left { .. } | Evidence::Nothing => false,
    }
}

/// The releases here, newest first.
fn by_age(view: View<'_>) -> Vec<String> {
    let mut rows: Vec<String> = releases(view).into_iter().collect();
    rows.sort_by_key(|name| std::cmp::Reverse((taken_at(view, name), name.clone())));
    rows
}

/// The snapshots of a release, damaged ones too.
fn captured(view: View<'_>, release: &str) -> BTreeMap<String, String> {
    let all = view.shapes.iter().filter_map(|shape| row(view, &shape.name, release));
    all.map(|row| (row.component.clone(), row.exact.clone())).collect()
}

fn is_damaged(view: View<'_>, release: &str) -> bool {
    let mut all = view.shapes.iter().filter_map(|shape| row(view, &shape.name, release));
    all.any(|row| !row.damage.is_empty())
}

/// The names of all releases here.
pub(super) fn releases(view: View<'_>) -> BTreeSet<String> {
    let named = view.status.snapshots.iter().filter(|row| !row.release.is_empty());
    named.map(|row| row.release.clone()).collect()
}

/// The snapshot of every component, or what is missing or damaged.
pub(super) fn whole(
    view: View<'_>,
    release: &str,
) -> Result<BTreeMap<String, String>, Vec<String>> {
    let mut found = BTreeMap::new();
    let mut missing = Vec::new();
    for Shape { name, .. } in view.shapes {
        match row(view, name, release) {
            Some(row) if row.damage.is_empty() => {
                found.insert(name.clone(), row.exact.clone());
            }
            Some(row) => missing.push(format!("{name}: {}", row.damage)),
            None => missing.push(format!("no snapshot of {name}")),
        }
    }
    if missing.is_empty() { Ok(found) } else { Err(missing) }
}

/// When a release was captured: its last component.
pub(super) fn taken_at(view: View<'_>, release: &str) -> i64 {
    let rows = view.status.snapshots.iter().filter(|row| row.release == release);
    rows.map(|row| row.taken_at_unix_ms).max().unwrap_or(0)
}

/// The weakest of what speaks for each component; what speaks against one speaks against all.
pub(super) fn evidence(view: View<'_>, snapshots: &BTreeMap<String, String>) -> Evidence {
    let mut weakest: Option<Evidence> = None;
    for (component, exact) in snapshots {
        let answered = || {
            let rows = view.status.snapshots.iter();
            let mut rows = rows.filter(|row| row.component == *component && row.exact == *exact);
            let version = rows.find(|row| !row.version.is_empty())?.version.clone();
            Some(Evidence::Answered { version })
        };
        let found = recorded(view, component, exact).or_else(answered).unwrap_or(Evidence::Nothing);
        weakest = Some(match (weakest, found) {
            (None, found) => found,
            (Some(left @ Evidence::Left { .. }), _) | (_, left @ Evidence::Left { .. }) => left,
            (Some(Evidence::Nothing), _) | (_, Evidence::Nothing) => Evidence::Nothing,
            (Some(answered @ Evidence::Answered { .. }), _) => answered,
            (Some(Evidence::Verified { .. }), found) => found,
        });
    }
    weakest.unwrap_or(Evidence::Nothing)
}

/// What the ledger says last of a snapshot. A rollback to something newer says nothing against what it left.
fn recorded(view: View<'_>, component: &str, exact: &str) -> Option<Evidence> {
    let captured = |exact: &str| {
        let mut rows = view.status.snapshots.iter();
        Some(rows.find(|row| row.component == component && row.exact == exact)?.taken_at_unix_ms)
    };
    let forward =
        |to: &str| captured(exact).is_some_and(|at| captured(to).is_some_and(|to| to > at));
    let ended_well = |track: &&Track| track.ending().is_some_and(|ending| ending.end == End::Done);
    view.ledger.tracks().into_iter().rev().filter(ended_well).find_map(|track| {
        let by = track.order().key.operation.clone();
        let verified = track.steps().any(|(index, state)| {
            let step = &track.order().steps[index];
            let it = step.component == component && step.snapshot == exact;
            let ok = state.result().is_some_and(|result| result.ok);
            step.verb == Verb::Verify && it && ok
        });
        if verified {
            return Some(Evidence::Verified { by });
        }
        let rolls_back = ["rb-", super::super::OPERATION_PREFIX];
        let replaced = track.evidence().iter().any(|row| {
            row.component == component
                && row.replaced.as_deref() == Some(exact)
                && row.snapshot.as_deref().is_some_and(|to| to != exact && !forward(to))
        });
        let left = replaced && rolls_back.iter().any(|prefix| by.starts_with(prefix));
        left.then_some(Evidence::Left { by })
    })
}

fn row<'a>(view: View<'a>, component: &str, release: &str) -> Option<&'a Snapshot> {
    let mut rows = view.status.snapshots.iter();
    rows.find(|row| row.component == component && row.release == release)
}
