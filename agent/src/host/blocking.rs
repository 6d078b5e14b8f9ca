//! The store's work on threads that may block.
//!
//! Invariant: after a failed sync, and after a defect in the store, the process ends: what is on disk says how to go on.

use std::sync::Arc;

use crate::store::{ComponentFiles, Store, StoreError};

/// Runs something of the store on a thread that may block.
pub(super) async fn stored<T: Send + 'static>(
    store: &Arc<Store>,
    files: &Arc<ComponentFiles>,
    work: impl FnOnce(&Store, &ComponentFiles) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, String> {
    let (store, files) = (store.clone(), files.clone());
    let done = tokio::task::spawn_blocking(move || work(&store, &files)).await;
    match done {
        Ok(done) => done.map_err(|error| {
            end_after_failed_sync(&error);
            error.reason()
        }),
        Err(error) => {
            tracing::error!(%error, "the store panicked; the process ends");
            std::process::abort()
        }
    }
}

/// What the disk holds after a failed sync is not known; the restarted agent looks.
pub(super) fn end_after_failed_sync(error: &StoreError) {
    if matches!(error, StoreError::Fsync { .. }) {
        tracing::error!(reason = error.reason(), "a sync failed; the process ends");
        std::process::abort()
    }
}
