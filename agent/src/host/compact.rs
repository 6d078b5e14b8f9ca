//! When the store is compacted: after the background work that follows a snapshot or a switch, and every hour.
//!
//! ```text
//! prestage, keep_replaced ──ask──▶ a thread of low priority ──▶ Store::compact ──made way for an operation──▶ soon again
//! ```
//!
//! Invariant: no operation waits for it, and an agent that ends does not either: what it was doing is done another time.

use std::{
    sync::{
        Arc, Weak,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    time::Duration,
};

use super::blocking::end_after_failed_sync;
use crate::store::{Compacted, Compaction, Left, Store};

/// What grows old is compressed, and what retention let go is freed, also where nothing happens.
const EVERY: Duration = Duration::from_secs(3600);
/// How soon it is tried again where an operation came first.
const SOON: Duration = Duration::from_secs(60);
/// The lowest priority there is.
const NICE: i32 = 19;

/// Asks for a compaction. The thread ends with the last of its copies.
#[derive(Clone, Debug)]
pub(super) struct Compactor {
    ask: SyncSender<()>,
}

impl Compactor {
    pub(super) fn start(store: &Arc<Store>) -> Self {
        // One that waits stands for all that are asked for meanwhile.
        let (ask, asked) = mpsc::sync_channel(1);
        let store = Arc::downgrade(store);
        std::thread::spawn(move || run(&store, &asked));
        Self { ask }
    }

    /// Soon; nobody waits for it.
    pub(super) fn ask(&self) {
        if let Err(mpsc::TrySendError::Disconnected(())) = self.ask.try_send(()) {
            tracing::error!("the store is no longer compacted until the agent starts again");
        }
    }
}

fn run(store: &Weak<Store>, asked: &Receiver<()>) {
    // Of this thread only.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "compaction runs at the priority of everything else");
    }
    let mut wait = EVERY;
    loop {
        match asked.recv_timeout(wait) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(store) = store.upgrade() else { return };
        wait = EVERY;
        match store.compact(&Compaction::default()) {
            Ok(done) => {
                if done.left.iter().any(|left| matches!(left, Left::MadeWay { .. })) {
                    wait = SOON;
                }
                tell(&done);
            }
            Err(error) => {
                end_after_failed_sync(&error);
                tracing::warn!(reason = error.reason(), "the store was not compacted");
            }
        }
    }
}

fn tell(done: &Compacted) {
    for left in &done.left {
        match left {
            Left::MadeWay { .. } | Left::AlreadyRunning | Left::Relied => {
                tracing::debug!(%left, "compaction goes on another time");
            }
            Left::Unreadable { .. } | Left::NoSpace { .. } | Left::CannotRead { .. } => {
                tracing::warn!(%left, "the store is compacted in part only");
            }
        }
    }
    if done.freed_objects > 0 || done.compressed_objects > 0 {
        tracing::info!(
            freed_objects = done.freed_objects,
            freed_bytes = done.freed_bytes,
            compressed_objects = done.compressed_objects,
            saved_bytes = done.saved_bytes,
            "the store was compacted"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Steps;

    /// A compaction that does not begin within this time does not begin at all.
    const WITHIN: Duration = Duration::from_secs(60);

    #[test]
    fn it_runs_when_it_is_asked_and_keeps_no_store_open() {
        let temp = tempfile::tempdir().unwrap();
        let (reached, steps) = mpsc::channel();
        let hook =
            Steps::new(move |step| reached.send(step.to_owned()).map_err(std::io::Error::other));
        let store = Arc::new(Store::open_with(&temp.path().join("state"), hook).unwrap());
        let compactor = Compactor::start(&store);
        for _ in 0..2 {
            compactor.ask();
            assert_eq!(steps.recv_timeout(WITHIN).as_deref(), Ok("compact: marked"));
        }
        drop((compactor, store));
        while steps.recv_timeout(WITHIN).is_ok() {}
        assert_eq!(steps.recv_timeout(WITHIN), Err(RecvTimeoutError::Disconnected));
    }
}
