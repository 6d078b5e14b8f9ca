//! What the tests share: a whole Lastgood on loopback, real but for the hosts' hands.
//!
//! ```text
//! Cluster ── CA, coordinator (sled, mTLS), agents (sessions, cores, ledgers)
//!               └─ ScriptedHands: a host in memory whose steps can be made to fail or to wait
//! Collector ── what processes under test export of their traces
//! Load ── users of an app, and what they got
//! ```

pub mod cluster;
pub mod collector;
pub mod hands;
pub mod load;

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// The longest that a test waits for something that has to come. Far longer than it takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `holds` gives something; panics with `what` when patience ends.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut holds: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = holds().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
