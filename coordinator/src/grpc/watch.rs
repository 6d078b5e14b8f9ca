//! A watcher's stream: what an operation has done, and what it does from now on.

use engine::Phase;
use proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

use super::to_proto;
use crate::runner::{RunnerHandle, View};

/// Sends events from an index on, and goes on until the operation has ended or nobody listens.
pub(super) async fn follow(
    runner: RunnerHandle,
    mut from: usize,
    sender: mpsc::Sender<Result<v1::WatchOperationResponse, Status>>,
) {
    let mut views = runner.view();
    loop {
        let view = views.borrow_and_update().clone();
        match send(&view, from, &sender).await {
            Some(next) => from = next,
            None => return,
        }
        if matches!(view.operation.phase(), Phase::Ended(_)) {
            return;
        }
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
    }
}

/// Sends what a view has from an index on; answers the next index, or nothing where nobody listens.
pub(super) async fn send(
    view: &View,
    from: usize,
    sender: &mpsc::Sender<Result<v1::WatchOperationResponse, Status>>,
) -> Option<usize> {
    for (index, entry) in view.entries.iter().enumerate().skip(from) {
        sender.send(Ok(to_proto::watched(view, index, entry))).await.ok()?;
    }
    Some(view.entries.len().max(from))
}
