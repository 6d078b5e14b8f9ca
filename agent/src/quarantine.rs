//! Content that was left as bad, as the coordinator told it: this host does not go forward to it, whatever it is called.
//!
//! ```text
//! coordinator ── Quarantine ──▶ session ──▶ Quarantine::take ──▶ <state>/quarantine.json (whole or absent)
//! preflight, stage, switch that go forward, and fetch ──▶ refuses(component, content)
//! ```
//!
//! A way back never asks. A host that was never told anything refuses nothing.
//!
//! Invariant: the newest list counts, with no coordinator too; one of a term that is over takes nothing's place.
//! Invariant: the file is whole or absent: written beside, synced, renamed, and its directory synced.
//! Invariant: a list that cannot be read is not taken for an empty one: nothing goes forward until it is told anew.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::order::Fence;

const NAME: &str = "quarantine.json";
/// The one version of this format.
const VERSION: u32 = 1;

/// What a coordinator told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// Whose word it is; the sequence means nothing here.
    pub term: Fence,
    pub rows: Vec<Row>,
}

/// Content that a component does not go forward to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub component: String,
    /// Content hash.
    pub content: String,
    /// Words that follow `this is `.
    pub why: String,
}

/// Why a list was not taken. What counted before still does.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    #[error("epoch {told} has no say here any more: the list is of epoch {known}")]
    Outranked { told: u64, known: u64 },
    #[error("could not write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// **The process must end**: what the disk holds is not known.
    #[error("could not make {} durable: {source}", path.display())]
    Fsync { path: PathBuf, source: io::Error },
}

#[derive(Debug)]
enum List {
    NeverTold,
    Told(Told),
    /// Completes the sentence "<path> …".
    Damaged(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    version: u32,
    /// Of `told` in its plain form.
    blake3: String,
    told: Told,
}

/// See the module.
#[derive(Debug)]
pub struct Quarantine {
    directory: PathBuf,
    list: Mutex<List>,
}

impl Quarantine {
    /// The list of a host with its state in `state`, as its file has it.
    pub fn open(state: &Path) -> Self {
        let path = state.join(NAME);
        let list = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => List::NeverTold,
            Err(error) => List::Damaged(format!("cannot be read: {error}")),
            Ok(bytes) => match unseal(&bytes) {
                Ok(told) => List::Told(told),
                Err(why) => List::Damaged(why),
            },
        };
        if let List::Damaged(why) = &list {
            tracing::error!(path = %path.display(), why, "nothing goes forward until it is told anew");
        }
        Self { directory: state.to_owned(), list: Mutex::new(list) }
    }

    /// Why a component does not go forward to this content, where it does not. Never to be asked for a way back.
    pub fn refuses(&self, component: &str, content: &str) -> Option<String> {
        match &*self.lock() {
            List::NeverTold => None,
            List::Told(told) => {
                let listed = |row: &&Row| row.component == component && row.content == content;
                told.rows.iter().find(listed).map(|row| format!("this is {}", row.why))
            }
            List::Damaged(why) => Some(format!(
                "whether this content was left as bad cannot be told: {} {why}; nothing goes forward on this host \
                 until its coordinator has told the list anew; a rollback works",
                self.path().display()
            )),
        }
    }

    /// Whether there is anything that could be refused.
    pub fn is_empty(&self) -> bool {
        match &*self.lock() {
            List::NeverTold => true,
            List::Told(told) => told.rows.is_empty(),
            List::Damaged(_) => false,
        }
    }

    /// Takes the place of what was told before; durable when this returns. Blocks.
    ///
    /// # Errors
    /// [`QuarantineError`]; after [`QuarantineError::Fsync`] the process must end.
    pub fn take(&self, told: Told) -> Result<(), QuarantineError> {
        let mut list = self.lock();
        if let List::Told(known) = &*list {
            if known.term.epoch > told.term.epoch {
                let (told, known) = (told.term.epoch, known.term.epoch);
                return Err(QuarantineError::Outranked { told, known });
            }
            if *known == told {
                return Ok(());
            }
        }
        self.write(&seal(&told))?;
        tracing::info!(
            rows = told.rows.len(),
            epoch = told.term.epoch,
            "what is in quarantine was told"
        );
        *list = List::Told(told);
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<(), QuarantineError> {
        let path = self.path();
        let beside = self.directory.join(format!("{NAME}.new"));
        let writing = |source| QuarantineError::Write { path: path.clone(), source };
        let syncing = |source| QuarantineError::Fsync { path: path.clone(), source };
        let mut options = OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&beside);
        let mut file = opened.map_err(writing)?;
        file.write_all(bytes).map_err(writing)?;
        file.sync_all().map_err(syncing)?;
        fs::rename(&beside, &path).map_err(writing)?;
        let directory = File::open(&self.directory).map_err(writing)?;
        directory.sync_all().map_err(syncing)
    }

    fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seal(told: &Told) -> Vec<u8> {
    let sealed = Sealed { version: VERSION, blake3: checksum(told), told: told.clone() };
    serde_json::to_vec_pretty(&sealed).expect("a list of strings")
}

/// The error completes the sentence "<path> …".
fn unseal(bytes: &[u8]) -> Result<Told, String> {
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
    if checksum(&sealed.told) != sealed.blake3 {
        return Err("does not have its checksum".to_owned());
    }
    Ok(sealed.told)
}

fn checksum(told: &Told) -> String {
    let plain = serde_json::to_vec(told).expect("a list of strings");
    blake3::hash(&plain).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHY: &str = "the content of v2, which was left bad by rb-0007";

    fn told(epoch: u64, contents: &[&str]) -> Told {
        let row = |content: &&str| Row {
            component: "crm".to_owned(),
            content: (*content).to_owned(),
            why: WHY.to_owned(),
        };
        let term = Fence { epoch, instance: "one".to_owned(), sequence: 0 };
        Told { term, rows: contents.iter().map(row).collect() }
    }

    #[test]
    fn a_host_that_was_never_told_refuses_nothing() {
        let state = tempfile::tempdir().unwrap();
        let list = Quarantine::open(state.path());
        assert_eq!((list.refuses("crm", "aa"), list.is_empty()), (None, true));
    }

    #[test]
    fn the_newest_list_counts_and_holds_over_a_restart() {
        let state = tempfile::tempdir().unwrap();
        let list = Quarantine::open(state.path());
        list.take(told(1, &["aa", "bb"])).unwrap();
        let again = Quarantine::open(state.path());
        for list in [&list, &again] {
            assert_eq!(list.refuses("crm", "aa").unwrap(), format!("this is {WHY}"));
            assert_eq!((list.refuses("crm", "cc"), list.refuses("jobs", "aa")), (None, None));
        }
        again.take(told(1, &["bb"])).unwrap();
        let again = Quarantine::open(state.path());
        assert!(again.refuses("crm", "aa").is_none() && again.refuses("crm", "bb").is_some());
    }

    #[test]
    fn p01_a_term_that_is_over_has_no_say() {
        let state = tempfile::tempdir().unwrap();
        let list = Quarantine::open(state.path());
        list.take(told(3, &["aa"])).unwrap();
        let again = Quarantine::open(state.path());
        let refused = again.take(told(2, &[])).unwrap_err();
        assert!(matches!(refused, QuarantineError::Outranked { told: 2, known: 3 }), "{refused}");
        assert!(again.refuses("crm", "aa").is_some());
        again.take(told(4, &[])).unwrap();
        assert!(again.is_empty());
    }

    #[test]
    fn p08_a_damaged_list_is_no_empty_one() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(NAME);
        Quarantine::open(state.path()).take(told(1, &["aa"])).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        for (bad, word) in [
            (whole.replace("\"aa\"", "\"ab\""), "does not have its checksum"),
            (whole[..whole.len() / 2].to_owned(), "is not what the agent wrote"),
            (String::new(), "is not what the agent wrote"),
            (
                whole.replace("\"version\": 1", "\"version\": 2"),
                "is of version 2, this agent knows 1",
            ),
        ] {
            fs::write(&path, &bad).unwrap();
            // It stays so over restarts, until it is told anew.
            for _ in 0..2 {
                let list = Quarantine::open(state.path());
                let why = list.refuses("crm", "anything").unwrap();
                assert!(why.contains(word) && why.ends_with("a rollback works"), "{why}");
            }
            let list = Quarantine::open(state.path());
            list.take(told(1, &["bb"])).unwrap();
            assert!(list.refuses("crm", "aa").is_none() && list.refuses("crm", "bb").is_some());
        }
    }

    #[test]
    fn what_cannot_be_written_does_not_count() {
        let state = tempfile::tempdir().unwrap();
        let list = Quarantine::open(&state.path().join("gone"));
        assert!(matches!(list.take(told(1, &["aa"])), Err(QuarantineError::Write { .. })));
        assert!(list.is_empty());
    }
}
