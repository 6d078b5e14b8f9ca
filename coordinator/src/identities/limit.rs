//! How often an address may show a token that is none.
//!
//! A token has 192 random bits: nobody guesses one. This keeps whoever tries from filling the log and the processor.
//!
//! Invariant: memory is bounded whatever comes in; an address that is forgotten begins anew.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Failures of one address within [`WINDOW`] before it is turned away unheard. A person who mistypes stays below.
const FAILURES_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered at a time.
const ADDRESSES_MAX: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashMap<IpAddr, Count>>);

#[derive(Clone, Copy, Debug)]
struct Count {
    failures: u32,
    since: Instant,
}

impl Failures {
    /// Whether an address has failed too often of late.
    pub fn is_blocked(&self, address: IpAddr, now: Instant) -> bool {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&network(address)).is_some_and(|count| {
            count.failures >= FAILURES_MAX && now.duration_since(count.since) < WINDOW
        })
    }

    /// Counts a failure.
    pub fn failed(&self, address: IpAddr, now: Instant) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(address);
        if counts.len() >= ADDRESSES_MAX && !counts.contains_key(&address) {
            counts.retain(|_, count| now.duration_since(count.since) < WINDOW);
            let oldest = counts.iter().min_by_key(|(_, count)| count.since);
            if let Some(oldest) = oldest.map(|(address, _)| *address)
                && counts.len() >= ADDRESSES_MAX
            {
                counts.remove(&oldest);
            }
        }
        let count = counts.entry(address).or_insert(Count { failures: 0, since: now });
        if now.duration_since(count.since) >= WINDOW {
            *count = Count { failures: 0, since: now };
        }
        count.failures = count.failures.saturating_add(1);
    }
}

/// One customer has 2^64 addresses of IPv6; they count as one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + last).into())
    }

    #[test]
    fn an_address_that_fails_too_often_waits_a_minute_and_others_do_not() {
        let failures = Failures::default();
        let now = Instant::now();
        for _ in 0..FAILURES_MAX {
            assert!(!failures.is_blocked(v4(1), now));
            failures.failed(v4(1), now);
        }
        assert!(failures.is_blocked(v4(1), now));
        assert!(!failures.is_blocked(v4(2), now));
        assert!(!failures.is_blocked(v4(1), now + WINDOW));
        failures.failed(v4(1), now + WINDOW);
        assert!(!failures.is_blocked(v4(1), now + WINDOW));
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let failures = Failures::default();
        let now = Instant::now();
        for last in 0..FAILURES_MAX {
            failures.failed(format!("2001:db8::{last}").parse().unwrap(), now);
        }
        assert!(failures.is_blocked("2001:db8::ffff".parse().unwrap(), now));
        assert!(!failures.is_blocked("2001:db8:0:1::".parse().unwrap(), now));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_is_forgotten() {
        let failures = Failures::default();
        let now = Instant::now();
        for at in 0..5_000 {
            failures.failed(v4(at), now + Duration::from_millis(u64::from(at)));
        }
        let counts = failures.0.lock().unwrap();
        assert_eq!(counts.len(), ADDRESSES_MAX);
        assert!(counts.contains_key(&v4(4_999)) && !counts.contains_key(&v4(0)));
    }
}
