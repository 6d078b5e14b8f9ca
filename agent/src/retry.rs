//! How long to wait before the next try.
//!
//! ```text
//! failure -> Policy::next_delay() -> sleep -> try -> success -> reset()
//! failure -> Tries::next_delay()  -> Some: sleep, try   None: give up
//! ```
//!
//! Invariant: the only module that knows the `backoff` crate, so that replacing it changes one file.
//! Invariant: no delay is longer than its policy's cap.

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff};

/// How long a reconnect keeps to its first, short delays.
const RECONNECT_FAST_FOR: Duration = Duration::from_secs(10);
/// The longest of those: a coordinator that restarts is found again within this.
const RECONNECT_FAST_CAP: Duration = Duration::from_millis(300);
/// Where the delays start to grow from after that.
const RECONNECT_SLOW_FROM: Duration = Duration::from_secs(1);
/// The longest delay of a reconnect: shorter than a host may be silent before it counts as unknown. With 10,000
/// agents and full jitter: some 2,000 a second.
const RECONNECT_SLOW_CAP: Duration = Duration::from_secs(10);
/// A session that held this long was a good one: the next delay is short again.
const RECONNECT_SETTLED_AFTER: Duration = Duration::from_secs(5);

/// The first delay before a service that died is started again.
const RESTART_FROM: Duration = Duration::from_millis(100);
/// The longest: a service that cannot run costs one start per ten seconds.
const RESTART_CAP: Duration = Duration::from_secs(10);
/// A service that ran for this long did not die of its start: its delays begin anew.
const RESTART_SETTLED_AFTER: Duration = Duration::from_secs(30);

/// The first delay before a certificate is asked for again, and the longest.
const RENEWAL_FROM: Duration = Duration::from_secs(1);
const RENEWAL_CAP: Duration = Duration::from_secs(3600);

/// How often a transient driver failure is tried again: such a failure is over at once or is not transient.
const TRANSIENT_TRIES: u32 = 3;
const TRANSIENT_FROM: Duration = Duration::from_millis(100);
const TRANSIENT_CAP: Duration = Duration::from_secs(1);

/// Delays without an end: the thing is tried for as long as it is wanted.
#[derive(Debug)]
pub struct Policy {
    /// Used up first, where there is one; gives `None` once its time is over.
    first: Option<ExponentialBackoff>,
    then: ExponentialBackoff,
    settled_after: Duration,
    /// Nothing has failed since the last reset: the clock of `first` has not begun.
    fresh: bool,
}

impl Policy {
    /// For the session to the coordinator: up to 300 ms for ten seconds, then growing to 10 s, full jitter.
    pub fn reconnect() -> Self {
        let mut first = full_jitter(RECONNECT_FAST_CAP, RECONNECT_FAST_CAP);
        first.max_elapsed_time = Some(RECONNECT_FAST_FOR);
        Self {
            first: Some(first),
            then: full_jitter(RECONNECT_SLOW_FROM, RECONNECT_SLOW_CAP),
            settled_after: RECONNECT_SETTLED_AFTER,
            fresh: true,
        }
    }

    /// For a supervised process that died: 100 ms growing to 10 s.
    pub fn restart() -> Self {
        Self {
            first: None,
            then: steady(RESTART_FROM, RESTART_CAP),
            settled_after: RESTART_SETTLED_AFTER,
            fresh: true,
        }
    }

    /// For a new certificate: 1 s growing to an hour, full jitter. There are weeks left, and an operator may mend the
    /// coordinator meanwhile.
    pub fn renewal() -> Self {
        Self {
            first: None,
            then: full_jitter(RENEWAL_FROM, RENEWAL_CAP),
            settled_after: RENEWAL_CAP,
            fresh: true,
        }
    }

    /// The wait before the next try.
    pub fn next_delay(&mut self) -> Duration {
        if self.fresh {
            self.fresh = false;
            self.rewind();
        }
        let first = self.first.as_mut().and_then(Backoff::next_backoff);
        let cap = self.then.max_interval;
        // `then` has no time limit, so it always answers; its cap is the answer if that ever changes.
        first.or_else(|| self.then.next_backoff()).unwrap_or(cap)
    }

    /// It worked: the next failure begins with the shortest delays again.
    pub fn reset(&mut self) {
        self.fresh = true;
    }

    /// It worked for `up` and then failed: a [`reset`](Self::reset) if that was long enough to count.
    pub fn worked_for(&mut self, up: Duration) {
        if up >= self.settled_after {
            self.reset();
        }
    }

    fn rewind(&mut self) {
        self.then.reset();
        if let Some(first) = &mut self.first {
            first.reset();
        }
    }
}

/// Delays that end: after a few the failure stands.
#[derive(Debug)]
pub struct Tries {
    left: u32,
    delays: ExponentialBackoff,
}

impl Tries {
    /// For a driver failure that calls itself transient: three more tries within about two seconds.
    pub fn transient() -> Self {
        Self { left: TRANSIENT_TRIES, delays: steady(TRANSIENT_FROM, TRANSIENT_CAP) }
    }

    /// The wait before the next try, `None` when it is time to give up.
    pub fn next_delay(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        self.delays.next_backoff()
    }
}

/// Anything between nothing and the interval: many waiters spread evenly. The crate spreads around its interval,
/// so it is given half.
fn full_jitter(from: Duration, cap: Duration) -> ExponentialBackoff {
    curve(from / 2, cap / 2, 1.0)
}

/// Around the interval, and never far from it: one waiter that should not hurry. A fifth is taken off so that the
/// upper end of the spread stays within the cap.
fn steady(from: Duration, cap: Duration) -> ExponentialBackoff {
    curve(from * 4 / 5, cap * 4 / 5, 0.25)
}

fn curve(from: Duration, cap: Duration, spread: f64) -> ExponentialBackoff {
    ExponentialBackoff {
        current_interval: from,
        initial_interval: from,
        randomization_factor: spread,
        multiplier: 2.0,
        max_interval: cap,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the crate's rounding may add to a delay.
    const ROUNDING: Duration = Duration::from_nanos(1);

    /// As if the first failure had been `ago`.
    fn aged(mut policy: Policy, ago: Duration) -> Policy {
        policy.next_delay();
        if let Some(first) = &mut policy.first {
            first.start_time -= ago;
        }
        policy
    }

    #[test]
    fn a_reconnect_is_tried_within_300_ms_for_ten_seconds() {
        let mut policy = aged(Policy::reconnect(), Duration::from_secs(9));
        for _ in 0..200 {
            assert!(policy.next_delay() <= RECONNECT_FAST_CAP + ROUNDING);
        }
    }

    #[test]
    fn then_it_grows_to_its_cap_and_not_beyond() {
        let mut policy = aged(Policy::reconnect(), RECONNECT_FAST_FOR);
        let delays: Vec<_> = (0..300).map(|_| policy.next_delay()).collect();
        assert!(delays[0] <= RECONNECT_SLOW_FROM + ROUNDING);
        assert!(delays.iter().all(|delay| *delay <= RECONNECT_SLOW_CAP + ROUNDING));
        assert!(delays.iter().any(|delay| *delay > RECONNECT_SLOW_CAP / 2), "it never grew");
        assert!(
            delays.iter().any(|delay| *delay < RECONNECT_SLOW_CAP / 4),
            "that is no full jitter"
        );
    }

    #[test]
    fn a_session_that_held_begins_with_the_short_delays_again() {
        let mut policy = aged(Policy::reconnect(), Duration::from_secs(3600));
        for _ in 0..20 {
            policy.next_delay();
        }
        policy.reset();
        assert!(policy.next_delay() <= RECONNECT_FAST_CAP + ROUNDING);
    }

    #[test]
    fn a_restart_waits_100_ms_at_first_and_10_s_at_most() {
        let mut policy = Policy::restart();
        let delays: Vec<_> = (0..12).map(|_| policy.next_delay()).collect();
        assert!(delays[0] >= RESTART_FROM / 2 && delays[0] <= RESTART_FROM + ROUNDING);
        assert!(delays[11] >= RESTART_CAP / 2 && delays[11] <= RESTART_CAP + ROUNDING);
    }

    #[test]
    fn only_a_service_that_settled_is_started_at_once_again() {
        let mut policy = Policy::restart();
        for _ in 0..12 {
            policy.next_delay();
        }
        policy.worked_for(RESTART_SETTLED_AFTER - Duration::from_secs(1));
        assert!(policy.next_delay() >= RESTART_CAP / 2);
        policy.worked_for(RESTART_SETTLED_AFTER);
        assert!(policy.next_delay() <= RESTART_FROM + ROUNDING);
    }

    #[test]
    fn a_transient_failure_is_tried_a_few_times_only() {
        let mut tries = Tries::transient();
        let delays: Vec<_> = std::iter::from_fn(|| tries.next_delay()).collect();
        assert_eq!(delays.len(), 3);
        assert!(delays.iter().all(|delay| *delay <= TRANSIENT_CAP + ROUNDING));
    }
}
