//! What agents' probes saw of late.
//!
//! Invariant: memory is bounded, whatever an agent sends: so many checks per host, so many intervals per check, for so long.
//! Invariant: each interval has a number that only grows; who reads goes on from the last one that he had.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use engine::{ComponentName, HostName, Timestamp, judge::Sample};

/// For how long intervals are kept.
const KEPT_MS: i64 = 15 * 60 * 1000;
/// Intervals that are kept of one check.
const INTERVALS_MAX: usize = 1000;
/// Checks that are kept of one host.
const CHECKS_MAX: usize = 64;

/// One interval of one check, as a host told it.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub component: ComponentName,
    pub check: String,
    pub sample: Sample,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    sample: Sample,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Samples {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    hosts: BTreeMap<HostName, BTreeMap<(ComponentName, String), VecDeque<Kept>>>,
}

impl Samples {
    /// Takes an interval that ended now.
    pub fn take(&self, host: &HostName, told: Told) {
        let Told { component, check, sample } = told;
        let mut inner = self.lock();
        inner.next += 1;
        let number = inner.next;
        let checks = inner.hosts.entry(host.clone()).or_default();
        let oldest = sample.to.0.saturating_sub(KEPT_MS);
        checks.retain(|_, rows| rows.back().is_some_and(|row| row.sample.to.0 >= oldest));
        if checks.len() >= CHECKS_MAX && !checks.contains_key(&(component.clone(), check.clone())) {
            return;
        }
        let rows = checks.entry((component, check)).or_default();
        while rows.front().is_some_and(|row| row.sample.to.0 < oldest)
            || rows.len() >= INTERVALS_MAX
        {
            rows.pop_front();
        }
        rows.push_back(Kept { number, sample });
    }

    /// The number of the newest interval: what comes after it is new.
    pub fn newest(&self) -> u64 {
        self.lock().next
    }

    /// The intervals of these hosts that came after a number, oldest first; and the number to go on from.
    pub fn after(&self, hosts: &[HostName], number: u64) -> (Vec<Sample>, u64) {
        let inner = self.lock();
        let mut rows: Vec<&Kept> =
            rows_of(&inner, hosts).filter(|row| row.number > number).collect();
        rows.sort_by_key(|row| row.number);
        let next = rows.last().map_or(number, |row| row.number);
        (rows.into_iter().map(|row| row.sample.clone()).collect(), next)
    }

    /// All that these hosts counted in intervals that began at `since` or later, as one.
    pub fn since(&self, hosts: &[HostName], since: Timestamp) -> Sample {
        let inner = self.lock();
        let mut all = Sample { from: since, to: since, ..Sample::default() };
        for row in rows_of(&inner, hosts).filter(|row| row.sample.from >= since) {
            all.to = all.to.max(row.sample.to);
            all.good = all.good.saturating_add(row.sample.good);
            all.bad = all.bad.saturating_add(row.sample.bad);
            all.latency.merge(&row.sample.latency);
        }
        all
    }

    /// Forgets a host that left its fleet.
    pub fn forget(&self, host: &HostName) {
        self.lock().hosts.remove(host);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rows_of<'a>(inner: &'a Inner, hosts: &[HostName]) -> impl Iterator<Item = &'a Kept> {
    hosts.iter().filter_map(|host| inner.hosts.get(host)).flat_map(BTreeMap::values).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    fn told(check: &str, to: i64, bad: u64) -> Told {
        let (from, to) = (Timestamp(to - 1000), Timestamp(to));
        let sample = Sample { from, to, good: 10 - bad, bad, ..Sample::default() };
        let component = ComponentName::new("crm").unwrap();
        Told { component, check: check.to_owned(), sample }
    }

    #[test]
    fn who_reads_gets_each_interval_once() {
        let samples = Samples::default();
        let hosts = [host("a"), host("b")];
        samples.take(&hosts[0], told("x", 1000, 1));
        samples.take(&hosts[1], told("x", 900, 0));
        let (first, next) = samples.after(&hosts, 0);
        assert_eq!(first.iter().map(|row| row.to.0).collect::<Vec<_>>(), [1000, 900]);
        samples.take(&hosts[1], told("x", 950, 2));
        let (then, next) = samples.after(&hosts, next);
        assert_eq!(then.iter().map(|row| row.bad).collect::<Vec<_>>(), [2]);
        assert_eq!(samples.after(&hosts, next), (Vec::new(), next));
        assert_eq!(samples.after(&[host("c")], 0), (Vec::new(), 0));
    }

    #[test]
    fn a_window_is_summed_up_without_what_began_before_it() {
        let samples = Samples::default();
        for (to, bad) in [(1000, 5), (2000, 1), (3000, 2)] {
            samples.take(&host("a"), told("x", to, bad));
        }
        let sum = samples.since(&[host("a")], Timestamp(1000));
        assert_eq!((sum.good, sum.bad, sum.to), (17, 3, Timestamp(3000)));
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let samples = Samples::default();
        for number in 0..5000_i64 {
            let check = format!("c{}", number % 200);
            samples.take(&host("a"), told(&check, 1000, 1));
            samples.take(&host("b"), told("x", 1000, 1));
        }
        let inner = samples.lock();
        assert_eq!(inner.hosts[&host("a")].len(), CHECKS_MAX);
        assert_eq!(inner.hosts[&host("b")].values().next().map_or(0, VecDeque::len), INTERVALS_MAX);
        drop(inner);
        // What is too old goes with the next that comes.
        samples.take(&host("a"), told("new", KEPT_MS * 2, 1));
        assert_eq!(samples.lock().hosts[&host("a")].len(), 1);
    }
}
