//! The mark: which objects some record names.
//!
//! ```text
//! every record of every component ──▶ its manifests, each checked against its hash ──▶ the hashes in them
//! ```
//!
//! Manifests are read one at a time; of each only the hashes stay in memory.
//!
//! Invariant: where a record or a manifest cannot be read, every object counts as named: it may be one of its.
//! Invariant: a mark only grows. What was named once in its time stays named, and is freed by a later one.

use std::collections::HashSet;

use super::{
    error::StoreError,
    hash::Hash,
    records::{Found, Records},
};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Mark {
    named: HashSet<Hash>,
    /// The manifests that were read.
    read: HashSet<Hash>,
    /// That of the records that were looked at.
    generation: Option<u64>,
    unreadable: Option<String>,
}

impl Mark {
    /// Looks at the records that have come since it was done last.
    pub(super) fn look(&mut self, records: &Records) -> Result<(), StoreError> {
        let generation = records.generation();
        if self.generation == Some(generation) {
            return Ok(());
        }
        for known in records.everything_again()?.values().flat_map(|rows| rows.values()) {
            match &known.found {
                Found::Damaged(damage) => {
                    self.unreadable.get_or_insert_with(|| damage.to_string());
                }
                Found::Record(record) => {
                    for part in &record.parts {
                        if !self.read.insert(part.exact) {
                            continue;
                        }
                        match records.part(part.exact)? {
                            Ok(manifest) => self.named.extend(manifest.files().map(|file| file.2)),
                            Err(what) => {
                                let (component, exact) = (&record.component, record.exact);
                                self.unreadable.get_or_insert_with(|| {
                                    format!("snapshot {exact} of component `{component}`: {what}")
                                });
                            }
                        }
                    }
                }
            }
        }
        self.generation = Some(generation);
        Ok(())
    }

    /// Whether nothing was written or removed since it looked.
    pub(super) fn is_true(&self, records: &Records) -> bool {
        self.generation == Some(records.generation())
    }

    /// Why nothing may be freed, where that is so.
    pub(super) fn unreadable(&self) -> Option<&str> {
        self.unreadable.as_deref()
    }

    pub(super) fn names(&self, hash: Hash) -> bool {
        self.unreadable.is_some() || self.named.contains(&hash)
    }
}
