//! The fleets' record: releases, standing, freeze, who holds a fleet.
//!
//! Invariant: a change is decided, appended, flushed, and only then applied; nobody sees it before it is durable.

use std::{collections::BTreeMap, sync::Arc};

use engine::{FleetEvent, FleetName, FleetState, HostName};
use tokio::sync::{Mutex, watch};

use crate::journal::{Journal, JournalError, Stream};

/// Why a fleet could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum FleetsError {
    #[error("fleet `{name}` is not known{}", near.as_ref().map_or_else(String::new, |near| format!("; did you mean `{near}`?")))]
    NotKnown { name: String, near: Option<String>, known: Vec<String> },
    #[error("name a fleet: this coordinator has {}", known.join(", "))]
    NameOne { known: Vec<String> },
    #[error("nothing was applied yet: this coordinator knows no fleet")]
    None,
    #[error("writing the fleet's record")]
    Journal(#[source] JournalError),
    #[error("the record of fleet {fleet} holds what this build cannot read")]
    Decode {
        fleet: String,
        #[source]
        source: serde_json::Error,
    },
}

/// All fleets of this coordinator.
#[derive(Debug)]
pub struct Fleets {
    journal: Arc<dyn Journal>,
    inner: Arc<Mutex<BTreeMap<FleetName, Entry>>>,
    /// Moves with every change that was applied.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Entry {
    state: FleetState,
    next: u64,
}

impl Fleets {
    /// Replays all records.
    pub fn load(journal: Arc<dyn Journal>) -> Result<Self, FleetsError> {
        let mut fleets = BTreeMap::new();
        for stream in journal.streams("fleet/").map_err(FleetsError::Journal)? {
            let text = stream.as_str().trim_start_matches("fleet/");
            let Ok(name) = FleetName::new(text) else { continue };
            let mut entry = Entry::default();
            for bytes in journal.replay(&stream).map_err(FleetsError::Journal)? {
                let event: FleetEvent = serde_json::from_slice(&bytes)
                    .map_err(|source| FleetsError::Decode { fleet: text.to_owned(), source })?;
                entry.state.apply(&event);
                entry.next += 1;
            }
            fleets.insert(name, entry);
        }
        let (inner, changed) = (Arc::new(Mutex::new(fleets)), watch::Sender::new(0));
        Ok(Self { journal, inner, changed })
    }

    /// Decides on the state as it is, writes the events down, applies them. Others wait meanwhile.
    pub async fn change<E: From<FleetsError>>(
        &self,
        fleet: &FleetName,
        decide: impl FnOnce(&FleetState) -> Result<Vec<FleetEvent>, E>,
    ) -> Result<(), E> {
        let mut inner = self.inner.clone().lock_owned().await;
        let blank = FleetState::default();
        let (state, next) =
            inner.get(fleet).map_or((&blank, 0), |entry| (&entry.state, entry.next));
        let events = decide(state)?;
        if events.is_empty() {
            return Ok(());
        }
        let stream =
            Stream::new(format!("fleet/{fleet}")).expect("a fleet's name is a stream's name");
        let encode = |event| {
            serde_json::to_vec(event).expect("an event has only strings, numbers and lists")
        };
        let records: Vec<Vec<u8>> = events.iter().map(encode).collect();
        let (fleet, journal, changed) = (fleet.clone(), self.journal.clone(), self.changed.clone());
        // A caller may go away at any moment (its client hung up); what was appended must still be applied.
        let applied = tokio::spawn(async move {
            let next = journal.append(stream, next, records).await.map_err(FleetsError::Journal)?;
            let entry = inner.entry(fleet).or_default();
            for event in &events {
                entry.state.apply(event);
            }
            entry.next = next;
            changed.send_modify(|changes| *changes += 1);
            Ok::<_, FleetsError>(())
        });
        Ok(applied.await.expect("appending and applying do not panic")?)
    }

    /// Moves when any fleet has changed.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Reads a fleet.
    pub async fn read<T>(
        &self,
        fleet: &FleetName,
        read: impl FnOnce(&FleetState) -> T,
    ) -> Option<T> {
        self.inner.lock().await.get(fleet).map(|entry| read(&entry.state))
    }

    /// The fleet that a person means: by name, or the only one.
    pub async fn named(&self, name: &str) -> Result<FleetName, FleetsError> {
        let inner = self.inner.lock().await;
        let applied = inner.iter().filter(|(_, entry)| entry.state.fleet.is_some());
        let mut known: Vec<&FleetName> = applied.map(|(name, _)| name).collect();
        if name.is_empty() {
            return match (known.pop(), known.is_empty()) {
                (Some(only), true) => Ok(only.clone()),
                (None, _) => Err(FleetsError::None),
                (Some(last), false) => {
                    known.push(last);
                    Err(FleetsError::NameOne {
                        known: known.iter().map(ToString::to_string).collect(),
                    })
                }
            };
        }
        if let Some(found) = known.iter().find(|fleet| fleet.as_str() == name) {
            return Ok((*found).clone());
        }
        if known.is_empty() {
            return Err(FleetsError::None);
        }
        let known: Vec<String> = known.into_iter().map(ToString::to_string).collect();
        let near = nearest(name, &known);
        Err(FleetsError::NotKnown { name: name.to_owned(), near, known })
    }

    /// The names of all fleets.
    pub async fn names(&self) -> Vec<FleetName> {
        self.inner.lock().await.keys().cloned().collect()
    }

    /// The names of all hosts.
    pub async fn hosts(&self) -> Vec<String> {
        let inner = self.inner.lock().await;
        let fleets = inner.values().filter_map(|entry| entry.state.fleet.as_ref());
        fleets.flat_map(|fleet| fleet.hosts()).map(|(host, _)| host.to_string()).collect()
    }

    /// The fleet that a host belongs to.
    pub async fn of_host(&self, host: &HostName) -> Option<FleetName> {
        let inner = self.inner.lock().await;
        let has = |entry: &Entry| {
            entry.state.fleet.as_ref().is_some_and(|fleet| fleet.group_of(host).is_some())
        };
        inner.iter().find(|(_, entry)| has(entry)).map(|(name, _)| name.clone())
    }
}

/// The known name that is most like `name`, if any is like it.
pub fn nearest(name: &str, known: &[String]) -> Option<String> {
    let scored = known.iter().map(|other| (strsim::damerau_levenshtein(name, other), other));
    let (distance, best) = scored.min()?;
    (distance <= 3.max(name.len() / 3)).then(|| best.clone())
}
