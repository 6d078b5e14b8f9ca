//! Writing back early: what a batch has written goes to the disk while more is being read, so that making it durable at
//! the end has little left to wait for.
//!
//! ```text
//! batch: bytes written ──file──▶ one thread: fdatasync ──end()──▶ the first failure, if there was one
//! ```
//!
//! Invariant: only speed depends on it; what must be durable is synced by the batch itself all the same.
//! Invariant: a failed sync is told by [`Flusher::end`]: the kernel tells it only once.

use std::{
    fs::File,
    sync::mpsc::{self, SyncSender},
    thread::{self, JoinHandle},
};

use super::error::StoreError;

/// So many files wait with an open descriptor; beyond that they are written back at the end.
const WAITING_MAX: usize = 16;

/// See the module. Its thread begins with the first file.
#[derive(Debug, Default)]
pub(super) struct Flusher {
    thread: Option<Thread>,
}

#[derive(Debug)]
struct Thread {
    files: SyncSender<(File, String)>,
    handle: JoinHandle<Result<(), StoreError>>,
}

impl Flusher {
    /// Begins to write back what a file has now. `path` is for messages.
    pub(super) fn begin(&mut self, file: &File, path: String) {
        // Without another descriptor, or a thread, it is written back at the end.
        let Ok(file) = file.try_clone() else { return };
        if self.thread.is_none() {
            let (files, waiting) = mpsc::sync_channel::<(File, String)>(WAITING_MAX);
            let work = move || {
                waiting.into_iter().try_for_each(|(file, path)| {
                    file.sync_data().map_err(|source| StoreError::Fsync { path, source })
                })
            };
            let Ok(handle) = thread::Builder::new().name("flush".to_owned()).spawn(work) else {
                return;
            };
            self.thread = Some(Thread { files, handle });
        }
        if let Some(Thread { files, .. }) = &self.thread {
            // Full: written back at the end. Ended: after a failure, which `end` tells.
            let _later = files.try_send((file, path));
        }
    }

    /// Waits until everything is written back.
    ///
    /// # Errors
    /// [`StoreError::Fsync`].
    pub(super) fn end(self) -> Result<(), StoreError> {
        let Some(Thread { files, handle }) = self.thread else { return Ok(()) };
        drop(files);
        handle.join().expect("the thread that writes back does not panic")
    }
}
