//! The connected agents: what each told last, and the way to each.
//!
//! ```text
//! agent_service ── open / status / close ──▶ Sessions ◀── order ── runner
//! ```
//!
//! Invariant: a session is named by its host and generation; the late end of an old one never removes a new one.
//! Invariant: nothing is sent while any agent has seen a higher epoch than ours.
//! Invariant: an answer counts only from the session that was asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use engine::{
    ComponentName, Goal, HostName, OnFailure, OperationId, SnapshotHash, Step, Timestamp,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    host::{Hello, HostStatus, wall},
    journal::Epoch,
    quarantine::Barred,
    retention::Kept,
};

/// Orders that wait for one agent. One operation has at most a few orders for a host at a time.
pub const ORDERS_QUEUED_MAX: usize = 64;

/// An order on its way to a host.
#[derive(Clone, Debug)]
pub struct Order {
    pub operation: OperationId,
    pub stage: usize,
    pub host: HostName,
    pub attempt: u32,
    pub plan_hash: String,
    pub goal: Goal,
    pub steps: Vec<Step>,
    pub on_failure: OnFailure,
    /// The newest local operation of the host that is on record; empty for none.
    pub after_local: String,
    pub epoch: Epoch,
    pub sequence: u64,
    /// The operation's place in its trace, as W3C writes it; may be empty.
    pub traceparent: String,
}

/// A coordinator begins an epoch each time it is started; one further ahead than this is no epoch of a coordinator.
const EPOCHS_AHEAD_MAX: u64 = 1_000_000;

/// What goes down to an agent.
#[derive(Clone, Debug)]
pub enum Down {
    Order(Box<Order>),
    /// It is to tell how its host is now.
    Look,
    Keep(Keep),
    Prune(Box<Prune>),
    Quarantine(Quarantine),
}

/// What a host must keep, and by whose word.
#[derive(Clone, Debug)]
pub struct Keep {
    pub epoch: Epoch,
    pub at: Timestamp,
    pub rows: Vec<Kept>,
}

/// What a host does not go forward to, and by whose word.
#[derive(Clone, Debug)]
pub struct Quarantine {
    pub epoch: Epoch,
    pub rows: Vec<Barred>,
}

/// What a host is asked to prune.
#[derive(Clone, Debug)]
pub struct Prune {
    pub id: u64,
    pub dry_run: bool,
    /// None for every component.
    pub component: Option<ComponentName>,
    pub keep: Keep,
    /// Nothing but these goes, where there is a list.
    pub only: Option<Vec<(ComponentName, SnapshotHash)>>,
}

/// What a host answered to that.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    pub rows: Vec<PrunedRow>,
    pub freed_bytes: u64,
    pub notes: Vec<String>,
    /// Components that could not be pruned, and why.
    pub failures: Vec<String>,
}

/// Why a host told nothing of its snapshots.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    #[error("its agent is not connected")]
    NotConnected,
    #[error("nothing is sent to it: {0}")]
    Fenced(String),
    #[error("too much waits for its agent; try again")]
    Full,
    /// In its own words.
    #[error("{0}")]
    Refused(String),
    #[error("its agent {0}")]
    NoAnswer(String),
}

/// One of its snapshots.
#[derive(Clone, Debug)]
pub struct PrunedRow {
    pub component: ComponentName,
    pub snapshot: SnapshotHash,
    pub releases: Vec<String>,
    pub size_bytes: u64,
    pub taken_at: Timestamp,
    pub goes: bool,
    pub why: String,
}

/// Which session of a host: grows with each one.
pub type Generation = u64;

/// All hosts that were seen since the coordinator started.
#[derive(Debug)]
pub struct Sessions {
    epoch: Epoch,
    inner: Mutex<Inner>,
    /// Moves with every word that comes in.
    heard: watch::Sender<u64>,
    /// Moves with every session that begins.
    opened: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    hosts: BTreeMap<HostName, Host>,
    /// Why nothing is sent, where nothing is.
    fenced: Option<String>,
    generation: Generation,
    /// Who waits for the answer to a prune.
    pruning: BTreeMap<u64, Pruning>,
    prunes: u64,
}

#[derive(Debug)]
struct Pruning {
    host: HostName,
    generation: Generation,
    answer: oneshot::Sender<Result<Pruned, String>>,
}

/// A host as it was last seen.
#[derive(Clone, Debug)]
pub struct Host {
    pub status: HostStatus,
    pub agent_version: String,
    pub certificate_ends: Timestamp,
    pub last_seen: Timestamp,
    link: Option<Link>,
    sequence: u64,
    /// Which of all words that came in was its last.
    heard: u64,
}

#[derive(Clone, Debug)]
struct Link {
    generation: Generation,
    down: mpsc::Sender<Down>,
    /// What it was told last to keep.
    kept: Option<Vec<Kept>>,
    /// What it was told last not to go forward to.
    barred: Option<Vec<Barred>>,
}

impl Host {
    /// Its session, while it has one.
    pub fn generation(&self) -> Option<Generation> {
        self.link.as_ref().map(|link| link.generation)
    }
}

impl Sessions {
    /// No host yet.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            inner: Mutex::default(),
            heard: watch::Sender::new(0),
            opened: watch::Sender::new(0),
        }
    }

    /// Our term.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Begins a session; an older one of the same host ends, because its way down is dropped.
    pub fn open(
        &self,
        host: &HostName,
        hello: Hello,
        status: HostStatus,
        certificate_ends: Timestamp,
    ) -> (Generation, mpsc::Receiver<Down>) {
        let (down, receiver) = mpsc::channel(ORDERS_QUEUED_MAX);
        self.fence_if_outranked(host, hello.highest_epoch.as_ref());
        let mut inner = self.lock();
        inner.generation += 1;
        let generation = inner.generation;
        let sequence = inner.hosts.get(host).map_or(0, |host| host.sequence);
        let sequence = sequence.max(self.told_sequence(&status));
        let new = Host {
            status,
            agent_version: hello.agent_version,
            certificate_ends,
            last_seen: wall(),
            link: Some(Link { generation, down, kept: None, barred: None }),
            sequence,
            heard: self.next_word(),
        };
        inner.hosts.insert(host.clone(), new);
        inner.pruning.retain(|_, pruning| pruning.host != *host);
        self.opened.send_modify(|opened| *opened += 1);
        (generation, receiver)
    }

    /// Stops everything where an agent has seen a higher epoch than ours. True, where it has.
    pub fn fence_if_outranked(&self, host: &HostName, seen: Option<&(u64, String)>) -> bool {
        let Some(why) = outranked(&self.epoch, host, seen) else { return false };
        tracing::error!(%host, "{why}");
        self.lock().fenced = Some(why);
        true
    }

    /// A newer word from a host. False, where it comes from a session that is over.
    pub fn update(&self, host: &HostName, generation: Generation, status: HostStatus) -> bool {
        let mut inner = self.lock();
        match inner.hosts.get_mut(host).filter(|host| host.generation() == Some(generation)) {
            Some(host) => {
                host.sequence = host.sequence.max(self.told_sequence(&status));
                host.status = status;
                host.last_seen = wall();
                host.heard = self.next_word();
                true
            }
            None => false,
        }
    }

    /// Ends a session. False, where a newer one has taken its place.
    pub fn close(&self, host: &HostName, generation: Generation) -> bool {
        let mut inner = self.lock();
        let inner = &mut *inner;
        match inner.hosts.get_mut(host).filter(|host| host.generation() == Some(generation)) {
            Some(host) => {
                host.link = None;
                inner.pruning.retain(|_, pruning| pruning.generation != generation);
                true
            }
            None => false,
        }
    }

    /// Sends an order under our epoch and the host's next sequence. Answers the session that it went to; none
    /// where there is none, its queue is full, or we are fenced: the order stays outstanding.
    pub fn order(
        &self,
        order: impl FnOnce(Epoch, u64) -> Order,
        host: &HostName,
    ) -> Option<Generation> {
        let mut inner = self.lock();
        if inner.fenced.is_some() {
            return None;
        }
        let host = inner.hosts.get_mut(host)?;
        let link = host.link.clone()?;
        host.sequence += 1;
        let order = Down::Order(Box::new(order(self.epoch.clone(), host.sequence)));
        link.down.try_send(order).ok().map(|()| link.generation)
    }

    /// The session of a host, while it has one.
    pub fn generation(&self, host: &HostName) -> Option<Generation> {
        self.lock().hosts.get(host)?.generation()
    }

    /// A host as it was last seen.
    pub fn get(&self, host: &HostName) -> Option<Host> {
        self.lock().hosts.get(host).cloned()
    }

    /// Asks hosts how they are and waits until each that is connected has told, for `within` at most: what was
    /// told before something was deployed must not be planned with.
    pub async fn look(&self, hosts: &[HostName], within: Duration) -> BTreeSet<HostName> {
        let mut heard = self.heard.subscribe();
        let asked = *heard.borrow();
        let mut waiting: Vec<(HostName, Generation)> = Vec::new();
        for host in hosts {
            let link = self.lock().hosts.get(host).and_then(|host| host.link.clone());
            if let Some(link) = link.filter(|link| link.down.try_send(Down::Look).is_ok()) {
                waiting.push((host.clone(), link.generation));
            }
        }
        let told = async {
            loop {
                heard.borrow_and_update();
                waiting.retain(|(host, generation)| self.is_silent(host, *generation, asked));
                if waiting.is_empty() || heard.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(within, told).await.is_err() {
            tracing::warn!(
                ?waiting,
                "hosts did not tell in time how they are; what they told before may be over"
            );
        }
        waiting.into_iter().map(|(host, _)| host).collect()
    }

    /// Moves when a session has begun.
    pub fn opened(&self) -> watch::Receiver<u64> {
        self.opened.subscribe()
    }

    /// Tells a host what to keep, where it was told something else before in its session.
    pub fn keep(&self, host: &HostName, rows: Vec<Kept>) {
        let mut inner = self.lock();
        if inner.fenced.is_some() {
            return;
        }
        let link = inner.hosts.get_mut(host).and_then(|host| host.link.as_mut());
        let Some(link) = link.filter(|link| link.kept.as_ref() != Some(&rows)) else { return };
        let keep = Keep { epoch: self.epoch.clone(), at: wall(), rows: rows.clone() };
        // A full queue is tried again: what it was told before may be too little.
        link.kept = link.down.try_send(Down::Keep(keep)).ok().map(|()| rows);
    }

    /// Tells a host what it does not go forward to, where it was told something else before in its session.
    pub fn bar(&self, host: &HostName, rows: Vec<Barred>) {
        let mut inner = self.lock();
        if inner.fenced.is_some() {
            return;
        }
        let link = inner.hosts.get_mut(host).and_then(|host| host.link.as_mut());
        let Some(link) = link.filter(|link| link.barred.as_ref() != Some(&rows)) else { return };
        let told = Quarantine { epoch: self.epoch.clone(), rows: rows.clone() };
        // A full queue is tried again.
        link.barred = link.down.try_send(Down::Quarantine(told)).ok().map(|()| rows);
    }

    /// Asks a host to prune its store and waits for its answer, for `within` at most.
    ///
    /// # Errors
    /// [`PruneError::NoAnswer`]: what it did is not known.
    pub async fn prune(
        &self,
        host: &HostName,
        prune: impl FnOnce(u64, Keep) -> Prune,
        rows: Vec<Kept>,
        within: Duration,
    ) -> Result<Pruned, PruneError> {
        let (id, answered) = {
            let mut inner = self.lock();
            if let Some(why) = &inner.fenced {
                return Err(PruneError::Fenced(why.clone()));
            }
            let link = inner.hosts.get(host).and_then(|host| host.link.clone());
            let link = link.ok_or(PruneError::NotConnected)?;
            inner.prunes += 1;
            let id = inner.prunes;
            let keep = Keep { epoch: self.epoch.clone(), at: wall(), rows };
            let sent = link.down.try_send(Down::Prune(Box::new(prune(id, keep))));
            sent.map_err(|_| PruneError::Full)?;
            let (answer, answered) = oneshot::channel();
            let pruning = Pruning { host: host.clone(), generation: link.generation, answer };
            inner.pruning.insert(id, pruning);
            (id, answered)
        };
        let answered = tokio::time::timeout(within, answered).await;
        self.lock().pruning.remove(&id);
        match answered {
            Ok(Ok(pruned)) => pruned.map_err(PruneError::Refused),
            Ok(Err(_)) => Err(PruneError::NoAnswer("was lost before it answered".to_owned())),
            Err(_) => {
                let seconds = within.as_secs();
                Err(PruneError::NoAnswer(format!("did not answer within {seconds} s")))
            }
        }
    }

    /// The answer to a prune; one that nobody waits for any more is passed over.
    pub fn pruned(
        &self,
        host: &HostName,
        generation: Generation,
        id: u64,
        pruned: Result<Pruned, String>,
    ) {
        let mut inner = self.lock();
        let asked = |pruning: &Pruning| pruning.host == *host && pruning.generation == generation;
        if inner.pruning.get(&id).is_some_and(asked)
            && let Some(pruning) = inner.pruning.remove(&id)
            && pruning.answer.send(pruned).is_err()
        {
            tracing::debug!(%host, "nobody waits for this answer any more");
        }
    }

    /// Whether a session still lasts and has told nothing since.
    fn is_silent(&self, host: &HostName, generation: Generation, since: u64) -> bool {
        let inner = self.lock();
        inner
            .hosts
            .get(host)
            .is_some_and(|host| host.generation() == Some(generation) && host.heard <= since)
    }

    /// How far our term has come on a host: root's own operations take numbers of it, which ours have to rise above.
    fn told_sequence(&self, status: &HostStatus) -> u64 {
        match &status.fence {
            Some((counter, instance, sequence))
                if *counter == self.epoch.counter && *instance == self.epoch.instance =>
            {
                *sequence
            }
            Some(_) | None => 0,
        }
    }

    fn next_word(&self) -> u64 {
        let mut word = 0;
        self.heard.send_modify(|heard| {
            *heard += 1;
            word = *heard;
        });
        word
    }

    /// Why nothing is sent, where nothing is.
    pub fn fenced(&self) -> Option<String> {
        self.lock().fenced.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an agent's record makes us send nothing more, where it does.
fn outranked(ours: &Epoch, host: &HostName, seen: Option<&(u64, String)>) -> Option<String> {
    let (counter, instance) = seen?;
    if counter.saturating_sub(ours.counter) > EPOCHS_AHEAD_MAX {
        // No coordinator was started so often: that host is broken, or lies. It alone gets nothing from us.
        tracing::error!(%host, counter, "an agent tells an epoch that cannot be; it is left aside");
        return None;
    }
    let higher =
        *counter > ours.counter || (*counter == ours.counter && *instance != ours.instance);
    higher.then(|| {
        format!(
            "{host} has seen epoch {counter} of another coordinator, ours is {}: nothing is sent to any host. If \
             this journal was restored from a backup, start once with --epoch-at-least {}; if another coordinator \
             runs, stop one of the two; if that host is not to be trusted, take it out of the fleet file and restart",
            ours.counter,
            counter.saturating_add(1)
        )
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn host(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    fn open(sessions: &Sessions, name: &str) -> (Generation, mpsc::Receiver<Down>) {
        let hello = Hello {
            protocol_min: 1,
            protocol_max: 1,
            agent_version: String::new(),
            highest_epoch: None,
        };
        sessions.open(&host(name), hello, HostStatus::default(), Timestamp(0))
    }

    fn sessions() -> Arc<Sessions> {
        Arc::new(Sessions::new(Epoch { counter: 1, instance: "a".to_owned() }))
    }

    async fn asked(sessions: &Sessions, within: Duration) -> Result<Pruned, PruneError> {
        let prune = |id, keep| Prune { id, dry_run: true, component: None, keep, only: None };
        sessions.prune(&host("h1"), prune, Vec::new(), within).await
    }

    #[tokio::test]
    async fn an_answer_counts_only_from_the_session_that_was_asked() {
        let sessions = sessions();
        let not = asked(&sessions, LONG).await;
        assert!(matches!(not, Err(PruneError::NotConnected)), "{not:?}");

        let (generation, mut down) = open(&sessions, "h1");
        let (other, _other) = open(&sessions, "h2");
        let waiting = tokio::spawn({
            let sessions = sessions.clone();
            async move { asked(&sessions, LONG).await }
        });
        let Some(Down::Prune(prune)) = down.recv().await else { panic!("nothing was asked") };
        let rows = |bytes| Ok(Pruned { freed_bytes: bytes, ..Pruned::default() });
        sessions.pruned(&host("h2"), other, prune.id, rows(1));
        sessions.pruned(&host("h1"), generation + 7, prune.id, rows(2));
        sessions.pruned(&host("h1"), generation, prune.id + 1, rows(3));
        sessions.pruned(&host("h1"), generation, prune.id, rows(4));
        assert_eq!(waiting.await.unwrap().unwrap().freed_bytes, 4);
        // A second answer finds nobody.
        sessions.pruned(&host("h1"), generation, prune.id, rows(5));
    }

    #[tokio::test]
    async fn a_host_that_is_silent_or_lost_is_said_to_be() {
        let sessions = sessions();
        let (generation, mut down) = open(&sessions, "h1");
        let silent = asked(&sessions, Duration::ZERO).await;
        assert!(matches!(&silent, Err(PruneError::NoAnswer(why)) if why.contains("within 0 s")));
        assert!(sessions.lock().pruning.is_empty(), "nobody is waited for any more");
        let waiting = tokio::spawn({
            let sessions = sessions.clone();
            async move { asked(&sessions, LONG).await }
        });
        for _ in 0..2 {
            assert!(matches!(down.recv().await, Some(Down::Prune(_))));
        }
        assert!(sessions.close(&host("h1"), generation));
        let lost = waiting.await.unwrap();
        assert!(matches!(&lost, Err(PruneError::NoAnswer(why)) if why.contains("was lost")));
    }

    #[tokio::test]
    async fn a_host_is_told_what_to_keep_when_it_changed_and_anew_in_each_session() {
        let sessions = sessions();
        let rows = |why: &str| {
            let component = ComponentName::new("crm").unwrap();
            let snapshot = SnapshotHash::new("ab".repeat(32)).unwrap();
            vec![Kept { component, snapshot, why: why.to_owned() }]
        };
        let told = |down: &mut mpsc::Receiver<Down>| match down.try_recv() {
            Ok(Down::Keep(keep)) => Some(keep.rows.len()),
            Ok(Down::Order(_) | Down::Look | Down::Prune(_) | Down::Quarantine(_)) | Err(_) => None,
        };
        let (_, mut down) = open(&sessions, "h1");
        sessions.keep(&host("h1"), Vec::new());
        assert_eq!(told(&mut down), Some(0), "that there is nothing is a word too");
        sessions.keep(&host("h1"), rows("last good"));
        assert_eq!(told(&mut down), Some(1));
        sessions.keep(&host("h1"), rows("last good"));
        assert_eq!(told(&mut down), None);
        let (_, mut down) = open(&sessions, "h1");
        sessions.keep(&host("h1"), rows("last good"));
        assert_eq!(told(&mut down), Some(1));
    }

    #[tokio::test]
    async fn a_host_is_told_what_is_in_quarantine_when_it_changed_and_anew_in_each_session() {
        let sessions = sessions();
        let rows = |why: &str| {
            let component = ComponentName::new("crm").unwrap();
            vec![Barred { component, content: "ab".to_owned(), why: why.to_owned() }]
        };
        let told = |down: &mut mpsc::Receiver<Down>| match down.try_recv() {
            Ok(Down::Quarantine(told)) => Some((told.epoch.counter, told.rows.len())),
            Ok(Down::Order(_) | Down::Look | Down::Prune(_) | Down::Keep(_)) | Err(_) => None,
        };
        let (_, mut down) = open(&sessions, "h1");
        sessions.bar(&host("h1"), Vec::new());
        assert_eq!(told(&mut down), Some((1, 0)), "that nothing is any more is a word too");
        sessions.bar(&host("h1"), rows("left"));
        assert_eq!(told(&mut down), Some((1, 1)));
        sessions.bar(&host("h1"), rows("left"));
        assert_eq!(told(&mut down), None);
        let (_, mut down) = open(&sessions, "h1");
        sessions.bar(&host("h1"), rows("left"));
        assert_eq!(told(&mut down), Some((1, 1)));
        // A coordinator whose term is over says nothing more.
        let higher = (2, "b".to_owned());
        assert!(sessions.fence_if_outranked(&host("h1"), Some(&higher)));
        sessions.bar(&host("h1"), Vec::new());
        assert_eq!(told(&mut down), None);
    }
}
