//! What every driver must keep, checked on a real one.
//!
//! ```text
//! stop, stop -> not running      start, start -> running, one process      status, status -> the same
//! stop without any patience -> not running, nothing left behind            start again -> another process
//! ```
//!
//! Which process runs is asked of those drivers only that say they can tell.
//!
//! Invariant: the suite knows the trait only, never a driver.

use std::time::Duration;

use tokio::time::Instant;

use super::{DriverError, ServiceDriver, ServiceState, Verb};

/// How long one verb of a driver under test may take.
const VERB_WITHIN: Duration = Duration::from_secs(30);
/// How long its service has to stop by itself.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A rule that a driver broke.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    #[error("{verb} failed")]
    Failed {
        verb: Verb,
        #[source]
        source: DriverError,
    },
    #[error("{rule}, but it found: {found}")]
    Broken { rule: &'static str, found: String },
}

/// Runs the suite. The service must be one that can run; it is stopped at the end. `leftovers` names what is alive of it.
///
/// # Errors
/// The first rule that was broken.
pub async fn check(
    driver: &dyn ServiceDriver,
    leftovers: &(dyn Fn() -> Vec<String> + Sync),
) -> Result<(), Violation> {
    let suite = Suite { driver, leftovers };
    suite.stop_is_idempotent().await?;
    suite.start_is_idempotent().await?;
    suite.nothing_outlives_a_stop_without_patience().await?;
    suite.a_new_start_is_another_process().await?;
    suite.stop_is_idempotent().await
}

struct Suite<'a> {
    driver: &'a dyn ServiceDriver,
    leftovers: &'a (dyn Fn() -> Vec<String> + Sync),
}

impl Suite<'_> {
    async fn stop_is_idempotent(&self) -> Result<(), Violation> {
        for _ in 0..2 {
            self.stop(STOP_WITHIN).await?;
            self.is_stopped("after a stop it does not run").await?;
        }
        Ok(())
    }

    async fn start_is_idempotent(&self) -> Result<(), Violation> {
        self.start().await?;
        let first = self.is_running("after a start it runs").await?;
        self.start().await?;
        let second = self.is_running("after a second start it runs").await?;
        let rule = "a second start leaves the process that runs";
        expect(first.identity == second.identity, rule, || format!("{first:?}, then {second:?}"))
    }

    async fn nothing_outlives_a_stop_without_patience(&self) -> Result<(), Violation> {
        self.start().await?;
        self.stop(Duration::ZERO).await?;
        self.is_stopped("after a stop that had no time it does not run").await
    }

    async fn a_new_start_is_another_process(&self) -> Result<(), Violation> {
        self.start().await?;
        let first = self.is_running("after a start it runs").await?;
        self.stop(STOP_WITHIN).await?;
        self.start().await?;
        let second = self.is_running("after another start it runs").await?;
        if !self.driver.watches() {
            return Ok(());
        }
        let rule = "a process that was started anew has another identity";
        expect(first.identity != second.identity, rule, || format!("{second:?} both times"))
    }

    async fn start(&self) -> Result<(), Violation> {
        let started = self.driver.start(Instant::now() + VERB_WITHIN).await;
        started.map_err(|source| Violation::Failed { verb: Verb::Start, source })
    }

    async fn stop(&self, within: Duration) -> Result<(), Violation> {
        let stopped = self.driver.stop(within, Instant::now() + VERB_WITHIN).await;
        stopped.map_err(|source| Violation::Failed { verb: Verb::Stop, source })
    }

    async fn is_running(&self, rule: &'static str) -> Result<ServiceState, Violation> {
        let state = self.look().await?;
        let named = state.identity.is_some() == self.driver.watches();
        expect(state.running && named, rule, || format!("{state:?}"))?;
        Ok(state)
    }

    async fn is_stopped(&self, rule: &'static str) -> Result<(), Violation> {
        let state = self.look().await?;
        expect(!state.running && state.identity.is_none(), rule, || format!("{state:?}"))?;
        let left = (self.leftovers)();
        expect(left.is_empty(), "a stop leaves nothing behind", || left.join(", "))
    }

    async fn look(&self) -> Result<ServiceState, Violation> {
        let look = || self.driver.status();
        let failed = |source| Violation::Failed { verb: Verb::Status, source };
        let (first, second) = (look().await.map_err(failed)?, look().await.map_err(failed)?);
        expect(first.running == second.running, "a look changes nothing", || {
            format!("{first:?}, then {second:?}")
        })?;
        Ok(second)
    }
}

fn expect(
    holds: bool,
    rule: &'static str,
    found: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::Broken { rule, found: found() }) }
}
