//! What was asked last of this host's proxy, on the disk before the proxy is told.
//!
//! ```text
//! set weights ─▶ <state>/traffic.json { asked, left out, what was asked before } ─▶ the proxy
//! ```
//!
//! What the proxy does, the proxy is asked; this is what it is compared with.
//!
//! Invariant: the file is whole or absent, and one that does not hold is said and never used.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::file::{self, FileError};
use crate::order::Weights;

const NAME: &str = "traffic.json";
/// The one version of this format.
const VERSION: u32 = 1;

/// What was asked, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    pub(super) weights: Weights,
    /// Hosts that were to get traffic and did not answer.
    pub(super) left_out: BTreeSet<String>,
}

impl Asked {
    /// What the proxy was told.
    pub(super) fn told(&self) -> Weights {
        let mut told = self.weights.clone();
        told.out.extend(self.left_out.iter().cloned());
        told
    }
}

/// What is on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Known {
    pub(super) asked: Option<Asked>,
    /// What was asked before it, for who takes it back.
    pub(super) before: Option<Asked>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    version: u32,
    /// Of `known` in its plain form.
    blake3: String,
    known: Known,
}

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Record(PathBuf);

impl Record {
    pub(super) fn new(state: &Path) -> Self {
        Self(state.join(NAME))
    }

    /// What was asked. Fails with what is wrong with the file, and the mend.
    pub(super) fn read(&self) -> Result<Known, String> {
        let path = self.0.display();
        let bytes = file::read(&self.0).map_err(|error| error.to_string())?;
        let Some(bytes) = bytes else { return Ok(Known::default()) };
        let sealed: Option<Sealed> = serde_json::from_slice(&bytes).ok();
        match sealed {
            Some(sealed)
                if sealed.version == VERSION && sealed.blake3 == checksum(&sealed.known) =>
            {
                Ok(sealed.known)
            }
            Some(_) | None => Err(format!(
                "{path} is not what the agent wrote: what was asked of the proxy is not known; mend: remove it"
            )),
        }
    }

    /// Writes what is asked from now on; what was asked before is kept beside it.
    pub(super) fn ask(&self, asked: Asked) -> Result<(), FileError> {
        // One that is damaged says nothing of before, and is replaced.
        let before = self.read().unwrap_or_default().asked.filter(|before| *before != asked);
        self.write(&Known { asked: Some(asked), before })
    }

    /// Writes all of it.
    pub(super) fn write(&self, known: &Known) -> Result<(), FileError> {
        let sealed = Sealed { version: VERSION, blake3: checksum(known), known: known.clone() };
        let bytes = serde_json::to_vec_pretty(&sealed).expect("names and numbers can be written");
        file::write(&self.0, &bytes, file::CLOSED)
    }
}

fn checksum(known: &Known) -> String {
    let plain = serde_json::to_vec(known).expect("names and numbers can be written");
    blake3::hash(&plain).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn all_to(group: &str) -> Asked {
        let groups = [(group.to_owned(), 100)].into();
        Asked { weights: Weights { groups, out: BTreeSet::new() }, left_out: BTreeSet::new() }
    }

    #[test]
    fn what_was_asked_is_known_after_a_restart_and_what_was_before_it() {
        let state = tempfile::tempdir().unwrap();
        let record = Record::new(&state.path().canonicalize().unwrap());
        assert_eq!(record.read().unwrap(), Known::default());
        record.ask(all_to("blue")).unwrap();
        record.ask(all_to("green")).unwrap();
        let known = Known { asked: Some(all_to("green")), before: Some(all_to("blue")) };
        assert_eq!(record.read().unwrap(), known);
    }

    #[test]
    fn p08_a_damaged_record_is_said_and_never_used() {
        let state = tempfile::tempdir().unwrap();
        let root = state.path().canonicalize().unwrap();
        let record = Record::new(&root);
        record.ask(all_to("blue")).unwrap();
        let path = root.join(NAME);
        let whole = fs::read_to_string(&path).unwrap();
        for bad in [whole.replace("blue", "glue"), whole[..40].to_owned(), String::new()] {
            fs::write(&path, bad).unwrap();
            assert!(record.read().unwrap_err().contains("is not what the agent wrote"));
        }
        record.ask(all_to("green")).unwrap();
        assert_eq!(record.read().unwrap(), Known { asked: Some(all_to("green")), before: None });
    }
}
