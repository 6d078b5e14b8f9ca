//! How a service is told to stop: the same in coordinator and agent.

use tokio::signal::unix::{SignalKind, signal};

/// Comes back when the process is told to stop by TERM or INT. Where neither can be heard it never does: the default
/// of the signals then ends the process, as a kill would.
pub async fn told_to_stop() {
    let mut signals =
        [SignalKind::terminate(), SignalKind::interrupt()].map(|kind| signal(kind).ok());
    let [terminate, interrupt] = &mut signals;
    tokio::select! {
        Some(()) = async { terminate.as_mut()?.recv().await } => {}
        Some(()) = async { interrupt.as_mut()?.recv().await } => {}
        else => std::future::pending().await,
    }
}
