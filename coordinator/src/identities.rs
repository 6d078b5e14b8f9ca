//! The record of who the hosts are: one stream of events per host, `identity/<host>`.
//!
//! ```text
//! registrar ── change ─▶ decide on the state, append, apply ─▶ changed()   open sessions look again
//! roles, sessions ── standing ─▶ does this certificate count
//! ```
//!
//! Invariant: a change is decided, appended, flushed, and only then applied; nobody sees it before it is durable.
//! Invariant: no token is on record, only its hash.

mod limit;
mod state;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use engine::{HostName, Timestamp};
use proto::tls::PeerIdentity;
use tokio::sync::{Mutex, watch};

pub use self::{
    limit::Failures,
    state::{
        Answer, Cause, Certificate, Current, HostIdentity, IdentityEvent, Origin, Revoked, Shown,
        Standing, TokenError, TokenHash,
    },
};
use crate::journal::{Journal, JournalError, Stream};

const PREFIX: &str = "identity/";

/// Why the record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentitiesError {
    #[error("writing the record of identities")]
    Journal(#[source] JournalError),
    #[error("the record of the identity of {host} holds what this build cannot read")]
    Decode {
        host: String,
        #[source]
        source: serde_json::Error,
    },
}

/// All hosts of this coordinator.
#[derive(Debug)]
pub struct Identities {
    journal: Arc<dyn Journal>,
    /// One change at a time. They are rare: a join or a renewal per host and month.
    turn: Arc<Mutex<()>>,
    hosts: Arc<RwLock<BTreeMap<HostName, Entry>>>,
    changed: Arc<watch::Sender<()>>,
}

#[derive(Debug, Default)]
struct Entry {
    state: HostIdentity,
    next: u64,
}

impl Identities {
    /// Replays all records.
    ///
    /// # Errors
    /// [`IdentitiesError`].
    pub fn load(journal: Arc<dyn Journal>) -> Result<Self, IdentitiesError> {
        let mut hosts = BTreeMap::new();
        for stream in journal.streams(PREFIX).map_err(IdentitiesError::Journal)? {
            let text = stream.as_str().trim_start_matches(PREFIX);
            let Ok(name) = HostName::new(text) else { continue };
            let mut entry = Entry::default();
            for bytes in journal.replay(&stream).map_err(IdentitiesError::Journal)? {
                let event: IdentityEvent = serde_json::from_slice(&bytes)
                    .map_err(|source| IdentitiesError::Decode { host: text.to_owned(), source })?;
                entry.state.apply(&event);
                entry.next += 1;
            }
            hosts.insert(name, entry);
        }
        Ok(Self {
            journal,
            turn: Arc::default(),
            hosts: Arc::new(RwLock::new(hosts)),
            changed: Arc::new(watch::Sender::new(())),
        })
    }

    /// How a host stands; the blank state for one that was never heard of.
    pub fn read<T>(&self, host: &HostName, read: impl FnOnce(&HostIdentity) -> T) -> T {
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        let blank = HostIdentity::default();
        read(hosts.get(host).map_or(&blank, |entry| &entry.state))
    }

    /// Whether the certificate of an agent counts.
    pub fn standing(&self, host: &HostName, peer: &PeerIdentity) -> Standing {
        self.read(host, |state| state.standing(shown(peer)))
    }

    /// Moves with every change.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Decides on the state as it is, writes the events down, applies them.
    ///
    /// # Errors
    /// What `decide` refuses with; [`IdentitiesError`].
    pub async fn change<T, E: From<IdentitiesError>>(
        &self,
        host: &HostName,
        decide: impl FnOnce(&HostIdentity) -> Result<(Vec<IdentityEvent>, T), E>,
    ) -> Result<T, E> {
        let turn = self.turn.clone().lock_owned().await;
        let (events, answer) = self.read(host, decide)?;
        if events.is_empty() {
            return Ok(answer);
        }
        let name = format!("{PREFIX}{host}");
        let stream = Stream::new(name).expect("a host's name is a stream's name");
        let encode = |event| {
            serde_json::to_vec(event).expect("an event has only strings, numbers and lists")
        };
        let records: Vec<Vec<u8>> = events.iter().map(encode).collect();
        let (host, journal) = (host.clone(), self.journal.clone());
        let (hosts, changed) = (self.hosts.clone(), self.changed.clone());
        // A caller may go away at any moment (its client hung up); what was appended must still be applied.
        let applied = tokio::spawn(async move {
            let next = {
                let hosts = hosts.read().unwrap_or_else(PoisonError::into_inner);
                hosts.get(&host).map_or(0, |entry| entry.next)
            };
            let next =
                journal.append(stream, next, records).await.map_err(IdentitiesError::Journal)?;
            let mut all = hosts.write().unwrap_or_else(PoisonError::into_inner);
            let entry = all.entry(host).or_default();
            for event in &events {
                entry.state.apply(event);
            }
            entry.next = next;
            drop(all);
            changed.send_replace(());
            drop(turn);
            Ok::<_, IdentitiesError>(())
        });
        applied.await.expect("appending and applying do not panic")?;
        Ok(answer)
    }
}

/// What a connection shows of its peer.
pub fn shown(peer: &PeerIdentity) -> Shown<'_> {
    Shown {
        serial: &peer.serial,
        key: &peer.key,
        issued: Timestamp(peer.issued_unix_ms),
        ends: Timestamp(peer.not_after_unix_ms),
    }
}
