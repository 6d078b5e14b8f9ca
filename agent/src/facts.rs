//! What was measured of a release while it was good: its answer times, and the database migrations it was recorded with;
//! and what it was made of.
//!
//! ```text
//! snapshot ──▶ applied migrations ─┐                       ┌─▶ preflight: which were applied since?
//! verify that held ──▶ Times ──────┴─▶ <state>/facts.json ─┴─▶ verify: how slow is it against then?
//! ```
//!
//! By component and *exact* hash: the very files that were measured on this very host, its env file included. A second
//! snapshot of the same content with another env file may talk to another database.
//!
//! - A snapshot's own answer times are never replaced: compared with itself again and again, a release could grow slow
//!   by small steps. To measure anew, remove the file while the agent is stopped.
//! - Its migrations are those of its first recording, until it is recorded again *and* its checks then hold.
//!
//! Invariant: the file is whole or absent: written beside, synced, renamed, and its directory synced.
//! Invariant: a file that cannot be read, or whose checksum does not match, is set aside, never used, and said.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::probe::Times;

const NAME: &str = "facts.json";
/// The one version of this format.
const VERSION: u32 = 1;
/// Snapshots of one component that are remembered: the newest. Far more than a host keeps.
const SNAPSHOTS_MAX: usize = 64;

/// What is known of one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotFacts {
    /// When something was recorded last.
    recorded_at_unix_ms: i64,
    /// When its checks held last.
    verified_at_unix_ms: Option<i64>,
    /// Those that were applied when it was recorded.
    pub migrations: Option<Vec<String>>,
    /// Those of a later recording whose checks have not held yet.
    offered: Option<Vec<String>>,
    /// By the check's name.
    pub times: BTreeMap<String, Times>,
    /// What it was made of, where it was fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_of: Option<MadeOf>,
}

/// What a snapshot was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeOf {
    /// The artefact's digest.
    pub digest: String,
    /// Declared files that were taken as they were live, because the artefact does not have them or must not.
    pub from_live: Vec<PathBuf>,
}

/// Component → exact hash → facts.
type Known = BTreeMap<String, BTreeMap<String, SnapshotFacts>>;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    version: u32,
    /// Of `facts` in their plain form.
    blake3: String,
    facts: Known,
}

/// The facts of a host, and their file.
#[derive(Debug)]
pub struct Facts {
    directory: PathBuf,
    known: Mutex<Known>,
    /// Why what was there could not be read.
    lost: Option<String>,
}

/// Why something could not be recorded. What was known before still is.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    #[error("could not write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// **The process must end**: what the disk holds is not known.
    #[error("could not make {} durable: {source}", path.display())]
    Fsync { path: PathBuf, source: io::Error },
}

impl Facts {
    /// Reads them. A file that does not hold is set aside as `facts.json.damaged`, and [`Facts::lost`] says so.
    pub fn open(state: &Path) -> Self {
        let path = state.join(NAME);
        let read = match fs::read(&path) {
            Ok(bytes) => unseal(&bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        };
        let (known, lost) = match read {
            Ok(known) => (known.unwrap_or_default(), None),
            Err(why) => {
                let why = format!("{} {why}", path.display());
                tracing::error!(why, "what was recorded of good releases is lost");
                if let Err(error) = fs::rename(&path, state.join(format!("{NAME}.damaged"))) {
                    tracing::warn!(%error, "the damaged file could not be set aside");
                }
                (Known::new(), Some(why))
            }
        };
        Self { directory: state.to_owned(), known: Mutex::new(known), lost }
    }

    /// Why what an earlier run recorded is not known.
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// What is known of a snapshot; nothing of one that never was recorded.
    pub fn of(&self, component: &str, exact: &str) -> SnapshotFacts {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(component).and_then(|all| all.get(exact)).cloned().unwrap_or_default()
    }

    /// What each check is compared with: the snapshot's own times, else those of the snapshot that was verified last.
    pub fn baselines(&self, component: &str, exact: Option<&str>) -> BTreeMap<String, Times> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(all) = known.get(component) else { return BTreeMap::new() };
        let mut by_age: Vec<&SnapshotFacts> =
            all.values().filter(|facts| facts.verified_at_unix_ms.is_some()).collect();
        by_age.sort_by_key(|facts| facts.verified_at_unix_ms);
        let own = exact.and_then(|exact| all.get(exact));
        let mut baselines = BTreeMap::new();
        for facts in by_age.into_iter().chain(own) {
            baselines.extend(facts.times.clone());
        }
        baselines
    }

    /// A snapshot was taken while these migrations were applied; `None` where they could not be read.
    ///
    /// # Errors
    /// It is not recorded.
    pub fn taken(
        &self,
        component: &str,
        exact: &str,
        applied: Option<Vec<String>>,
    ) -> Result<(), FactsError> {
        self.change(component, exact, |facts| match (&facts.migrations, applied) {
            (None, applied) => facts.migrations = applied,
            (Some(known), Some(now)) if *known == now => facts.offered = None,
            (Some(_), now) => facts.offered = now,
        })
    }

    /// A snapshot was made of an artefact.
    ///
    /// # Errors
    /// It is not recorded.
    pub fn made_of(&self, component: &str, exact: &str, made: MadeOf) -> Result<(), FactsError> {
        self.change(component, exact, |facts| facts.made_of = Some(made))
    }

    /// The checks of a snapshot held. `recorded_anew`: it was taken just before, so that what it was taken with counts.
    /// Returns the names of the checks that were measured for the first time.
    ///
    /// # Errors
    /// It is not recorded.
    pub fn verified(
        &self,
        component: &str,
        exact: &str,
        times: &BTreeMap<String, Times>,
        recorded_anew: bool,
    ) -> Result<Vec<String>, FactsError> {
        let mut first = Vec::new();
        self.change(component, exact, |facts| {
            facts.verified_at_unix_ms = Some(jiff::Timestamp::now().as_millisecond());
            if recorded_anew && let Some(offered) = facts.offered.take() {
                facts.migrations = Some(offered);
            }
            for (check, times) in times {
                if !facts.times.contains_key(check) {
                    facts.times.insert(check.clone(), *times);
                    first.push(check.clone());
                }
            }
        })?;
        Ok(first)
    }

    fn change(
        &self,
        component: &str,
        exact: &str,
        change: impl FnOnce(&mut SnapshotFacts),
    ) -> Result<(), FactsError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = known.clone();
        let all = next.entry(component.to_owned()).or_default();
        let facts = all.entry(exact.to_owned()).or_default();
        change(facts);
        facts.recorded_at_unix_ms = jiff::Timestamp::now().as_millisecond();
        while all.len() > SNAPSHOTS_MAX {
            let others = all.iter().filter(|(name, _)| *name != exact);
            let oldest = others.min_by_key(|(_, facts)| facts.recorded_at_unix_ms);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { break };
            all.remove(&oldest);
        }
        self.write(&seal(&next))?;
        *known = next;
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<(), FactsError> {
        let path = self.directory.join(NAME);
        let beside = self.directory.join(format!("{NAME}.new"));
        let writing = |source| FactsError::Write { path: path.clone(), source };
        let syncing = |source| FactsError::Fsync { path: path.clone(), source };
        let mut options = OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&beside);
        let mut file = opened.map_err(writing)?;
        file.write_all(bytes).map_err(writing)?;
        file.sync_all().map_err(syncing)?;
        fs::rename(&beside, &path).map_err(writing)?;
        let directory = File::open(&self.directory).map_err(writing)?;
        directory.sync_all().map_err(syncing)
    }
}

fn seal(facts: &Known) -> Vec<u8> {
    let sealed = Sealed { version: VERSION, blake3: checksum(facts), facts: facts.clone() };
    serde_json::to_vec_pretty(&sealed).expect("facts are strings, numbers and lists")
}

/// The error completes the sentence "<path> …".
fn unseal(bytes: &[u8]) -> Result<Known, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let not_ours = |_| "is not what the agent wrote".to_owned();
    let Version { version } = serde_json::from_slice(bytes).map_err(not_ours)?;
    if version != VERSION {
        return Err(format!("is of version {version}, this agent knows {VERSION}"));
    }
    let sealed: Sealed = serde_json::from_slice(bytes).map_err(not_ours)?;
    if checksum(&sealed.facts) != sealed.blake3 {
        return Err("does not have its checksum".to_owned());
    }
    Ok(sealed.facts)
}

fn checksum(facts: &Known) -> String {
    let plain = serde_json::to_vec(facts).expect("facts are strings, numbers and lists");
    blake3::hash(&plain).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(us: u64) -> BTreeMap<String, Times> {
        BTreeMap::from([("api".to_owned(), Times { average_us: us, p95_us: us })])
    }

    fn list(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn what_was_recorded_is_there_after_a_restart() {
        let state = tempfile::tempdir().unwrap();
        let facts = Facts::open(state.path());
        assert_eq!(facts.of("crm", "aa"), SnapshotFacts::default());
        facts.taken("crm", "aa", list(&["0001", "0002"])).unwrap();
        assert_eq!(facts.verified("crm", "aa", &times(7), true).unwrap(), ["api"]);
        assert!(facts.verified("crm", "aa", &times(9), false).unwrap().is_empty());
        let again = Facts::open(state.path());
        assert_eq!((again.of("crm", "aa"), again.lost()), (facts.of("crm", "aa"), None));
        assert_eq!(again.of("crm", "aa").migrations, list(&["0001", "0002"]));
        assert_eq!(again.of("crm", "aa").times, times(7), "its own times stay");
        assert_eq!(again.of("other", "aa"), SnapshotFacts::default());
    }

    #[test]
    fn a_check_is_compared_with_its_own_release_first() {
        let state = tempfile::tempdir().unwrap();
        let facts = Facts::open(state.path());
        assert!(facts.baselines("crm", Some("aa")).is_empty());
        facts.verified("crm", "aa", &times(10), true).unwrap();
        let mut at = facts.known.lock().unwrap();
        at.get_mut("crm").unwrap().get_mut("aa").unwrap().verified_at_unix_ms = Some(1);
        drop(at);
        facts.verified("crm", "bb", &times(20), true).unwrap();
        facts.taken("crm", "cc", None).unwrap();
        assert_eq!(facts.baselines("crm", Some("aa")), times(10));
        assert_eq!(facts.baselines("crm", Some("cc")), times(20), "the newest that was verified");
        assert_eq!(facts.baselines("crm", None), times(20));
    }

    #[test]
    fn migrations_of_a_later_recording_count_once_its_checks_held() {
        let state = tempfile::tempdir().unwrap();
        let facts = Facts::open(state.path());
        facts.taken("crm", "aa", None).unwrap();
        assert_eq!(facts.of("crm", "aa").migrations, None);
        facts.taken("crm", "aa", list(&["0001"])).unwrap();
        facts.taken("crm", "aa", list(&["0001", "0002"])).unwrap();
        assert_eq!(facts.of("crm", "aa").migrations, list(&["0001"]));
        facts.verified("crm", "aa", &times(1), false).unwrap();
        assert_eq!(facts.of("crm", "aa").migrations, list(&["0001"]), "of a rollback's verify");
        facts.verified("crm", "aa", &times(1), true).unwrap();
        assert_eq!(facts.of("crm", "aa").migrations, list(&["0001", "0002"]));
    }

    #[test]
    fn p08_a_damaged_file_is_set_aside_and_never_used() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(NAME);
        let facts = Facts::open(state.path());
        facts.taken("crm", "aa", list(&["0001_first"])).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        let newer = whole.replace("\"version\": 1", "\"version\": 2");
        for (bad, word) in [
            (whole.replace("0001_first", "0001_other"), "does not have its checksum"),
            (whole[..whole.len() / 2].to_owned(), "is not what the agent wrote"),
            (String::new(), "is not what the agent wrote"),
            (newer, "is of version 2, this agent knows 1"),
        ] {
            fs::write(&path, &bad).unwrap();
            let lost = Facts::open(state.path());
            assert!(lost.lost().unwrap().ends_with(word), "{:?}", lost.lost());
            assert_eq!(lost.of("crm", "aa"), SnapshotFacts::default());
            assert_eq!(fs::read_to_string(state.path().join("facts.json.damaged")).unwrap(), bad);
            lost.taken("crm", "bb", list(&["0002"])).unwrap();
            let again = Facts::open(state.path());
            assert_eq!((again.of("crm", "bb").migrations, again.lost()), (list(&["0002"]), None));
        }
    }

    #[test]
    fn what_cannot_be_written_is_not_known_either() {
        let state = tempfile::tempdir().unwrap();
        let facts = Facts::open(&state.path().join("gone"));
        assert!(matches!(facts.taken("crm", "aa", None), Err(FactsError::Write { .. })));
        assert_eq!(facts.of("crm", "aa"), SnapshotFacts::default());
    }

    #[test]
    fn only_the_newest_are_kept() {
        let state = tempfile::tempdir().unwrap();
        let facts = Facts::open(state.path());
        for number in 0..=SNAPSHOTS_MAX {
            facts.taken("crm", &number.to_string(), None).unwrap();
        }
        assert_eq!(facts.known.lock().unwrap()["crm"].len(), SNAPSHOTS_MAX);
        assert_ne!(facts.of("crm", &SNAPSHOTS_MAX.to_string()), SnapshotFacts::default());
    }
}
