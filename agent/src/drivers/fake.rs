//! `fake`: a driver that runs nothing and fails as it is told to: it stands in for the others in tests of their callers.
//!
//! Invariant: it keeps the rules that the conformance suite asks of every driver, but for the faults that were set.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};

use super::{Doing, DriverError, Identity, ServiceDriver, ServiceState, Verb};

/// A service that is only a flag.
#[derive(Debug, Default)]
pub struct FakeDriver {
    state: Mutex<State>,
}

/// What shall go wrong.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// This verb fails, permanently.
    pub fail_on: Option<Verb>,
    /// So many starts and stops fail as transient before one works.
    pub transient_times: u32,
    /// Every start and stop takes so long.
    pub hang_for: Duration,
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    running: bool,
    /// Grows with every start: a new start is a new process.
    starts: u64,
    restarts: u64,
    calls: Vec<Verb>,
}

impl FakeDriver {
    /// Sets what shall go wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// As if the process had died and had been started again.
    pub fn crash(&self) {
        let mut state = self.state();
        state.starts += 1;
        state.restarts += 1;
    }

    /// Every start and stop that was asked for, in order.
    pub fn calls(&self) -> Vec<Verb> {
        self.state().calls.clone()
    }

    async fn act(&self, verb: Verb, deadline: Instant) -> Result<(), DriverError> {
        let hang_for = {
            let mut state = self.state();
            state.calls.push(verb);
            state.faults.hang_for
        };
        let late = |_| DriverError::TimedOut(format!("{verb} was not done by its deadline"));
        timeout_at(deadline, sleep(hang_for)).await.map_err(late)?;
        let mut state = self.state();
        if state.faults.transient_times > 0 {
            state.faults.transient_times -= 1;
            return Err(DriverError::Transient(format!("{verb} failed for a moment")));
        }
        state.refused(verb)?;
        let wanted = verb == Verb::Start;
        state.starts += u64::from(wanted && !state.running);
        state.running = wanted;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refused(&self, verb: Verb) -> Result<(), DriverError> {
        if self.faults.fail_on == Some(verb) {
            return Err(DriverError::Permanent(format!("{verb} was told to fail")));
        }
        Ok(())
    }
}

impl ServiceDriver for FakeDriver {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn verbs(&self) -> &'static [Verb] {
        &[Verb::Start, Verb::Stop, Verb::Status, Verb::Log]
    }

    fn start(&self, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(self.act(Verb::Start, deadline))
    }

    fn stop(&self, _within: Duration, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(self.act(Verb::Stop, deadline))
    }

    fn status(&self) -> Doing<'_, Result<ServiceState, DriverError>> {
        Box::pin(async {
            let state = self.state();
            state.refused(Verb::Status)?;
            let identity = Identity::Run(format!("start {}", state.starts));
            Ok(ServiceState {
                running: state.running,
                identity: state.running.then_some(identity),
                restarts: state.restarts,
                detail: if state.running { "running" } else { "stopped" }.to_owned(),
            })
        })
    }

    fn last_log_lines(&self, count: usize) -> Doing<'_, Vec<String>> {
        Box::pin(async move { vec!["a line of the fake's log".to_owned(); count.min(1)] })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::conformance, *};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn it_conforms() {
        conformance::check(&FakeDriver::default(), &Vec::new).await.unwrap();
    }

    #[tokio::test]
    async fn it_fails_as_it_is_told() {
        let driver = FakeDriver::default();
        driver.set_faults(Faults { transient_times: 1, ..Faults::default() });
        assert!(matches!(driver.start(soon()).await, Err(DriverError::Transient(_))));
        driver.start(soon()).await.unwrap();
        driver.set_faults(Faults { fail_on: Some(Verb::Stop), ..Faults::default() });
        assert!(matches!(
            driver.stop(Duration::ZERO, soon()).await,
            Err(DriverError::Permanent(_))
        ));
        assert!(driver.status().await.unwrap().running);
        driver.set_faults(Faults { hang_for: Duration::from_secs(600), ..Faults::default() });
        let late = driver.stop(Duration::ZERO, Instant::now()).await;
        assert!(matches!(late, Err(DriverError::TimedOut(_))));
        assert_eq!(driver.calls(), [Verb::Start, Verb::Start, Verb::Stop, Verb::Stop]);
    }

    #[tokio::test]
    async fn a_driver_that_lies_does_not_conform() {
        let driver = FakeDriver::default();
        driver.set_faults(Faults { fail_on: Some(Verb::Status), ..Faults::default() });
        assert!(conformance::check(&driver, &Vec::new).await.is_err());
        let leaky = || vec!["pid 7".to_owned()];
        let violation = conformance::check(&FakeDriver::default(), &leaky).await.unwrap_err();
        assert!(violation.to_string().contains("pid 7"), "{violation}");
    }
}
