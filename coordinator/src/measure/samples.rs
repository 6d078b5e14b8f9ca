//! What agents' probes saw of late.
//!
//! ```text
//! Told, stamped with our clock ─▶ fine: as told, for a minute ─▶ coarse: a quarter of a minute each, for a quarter of an hour
//!                                  └─ numbered: who reads goes on from the last that he had
//! ```
//!
//! Invariant: memory is bounded, whatever an agent sends: so many checks a host, so many rows and buckets a check, for so long.
//! Invariant: an interval has ended when it came, and began no later than its length before that.
//! Invariant: of what an app says of itself the newest is kept, with its interval; it is in no count.
//! Invariant: who reads by number gets each interval once; what was made coarse before he came is not given in parts.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use engine::{ComponentName, HostName, Timestamp, judge::Sample};

/// For how long intervals are kept.
const KEPT_MS: i64 = 15 * 60 * 1000;
/// For how long each is kept as it was told.
const FINE_MS: i64 = 60 * 1000;
/// How long those are that older ones are added up to.
const COARSE_MS: i64 = 15 * 1000;
/// Checks that are kept of one host.
const CHECKS_MAX: usize = 64;
/// Intervals that are kept of one check: a minute of them, ten times as often as agents tell, and the coarse ones.
const ROWS_MAX: usize = 660;
/// Buckets that are kept of one check, in all of its intervals.
const BUCKETS_MAX: usize = 16 * 1024;
/// Gauges that are kept of one check.
const GAUGES_MAX: usize = 16;
/// An interval that overlaps the one before by more than this share has been under way for long: it is older than it looks.
const OVERLAP_MAX: f64 = 0.5;

/// One interval of one check, as a host told it: it ended when it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub component: ComponentName,
    pub check: String,
    pub sample: Sample,
    /// What the app said last of itself.
    pub gauges: Vec<Gauge>,
}

/// A number that an app reckons itself, over a time that it alone knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Gauge {
    /// Where in the answer: a JSON pointer.
    pub pointer: String,
    pub value: f64,
    /// The bounds of the host's own check.
    pub at_most: Option<f64>,
    pub at_least: Option<f64>,
}

/// What the app of a host said last of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct GaugeNow {
    pub host: HostName,
    pub component: ComponentName,
    pub check: String,
    pub gauge: Gauge,
    /// The interval in which it said so.
    pub from: Timestamp,
    pub to: Timestamp,
}

/// See the module. Shared by all who read.
#[derive(Debug, Default)]
pub struct Samples {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    hosts: BTreeMap<HostName, BTreeMap<(ComponentName, String), Check>>,
    /// Hosts whose nonsense was logged.
    refused: BTreeSet<HostName>,
}

#[derive(Debug, Default)]
struct Check {
    /// Oldest first; the first `coarse` of them are added up.
    rows: VecDeque<Row>,
    coarse: usize,
    buckets: usize,
    failing_since: Option<Timestamp>,
    /// Newest first.
    gauges: VecDeque<Said>,
}

#[derive(Debug)]
struct Said {
    gauge: Gauge,
    from: Timestamp,
    to: Timestamp,
}

#[derive(Debug)]
struct Row {
    /// Of the oldest and the newest interval in it.
    first: u64,
    last: u64,
    sample: Sample,
}

/// How a check of a host stands, by its own probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckNow {
    pub host: HostName,
    pub component: ComponentName,
    pub check: String,
    /// The newest interval in which it was answered.
    pub newest: Sample,
    /// Since when no answer was good; none where one was in the newest interval.
    pub failing_since: Option<Timestamp>,
}

impl Samples {
    /// Takes an interval that ended now.
    pub fn take(&self, host: &HostName, told: Told) {
        let mut inner = self.lock();
        inner.refused.remove(host);
        inner.take(host, told);
    }

    /// A host told nonsense: said once, until it tells sense again.
    pub fn refused(&self, host: &HostName, why: &str) {
        if self.lock().refused.insert(host.clone()) {
            tracing::warn!(%host, why, "its samples are refused");
        }
    }

    /// The number of the newest interval: what comes after it is new.
    pub fn newest(&self) -> u64 {
        self.lock().next
    }

    /// The intervals of these hosts that came after a number, oldest first; and the number to go on from.
    pub fn after(&self, hosts: &[HostName], number: u64) -> (Vec<Sample>, u64) {
        let inner = self.lock();
        let mut rows: Vec<&Row> = inner.rows(hosts).filter(|row| row.first > number).collect();
        rows.sort_by_key(|row| row.last);
        let next = rows.last().map_or(number, |row| row.last);
        (rows.into_iter().map(|row| row.sample.clone()).collect(), next)
    }

    /// The intervals of these hosts that began at `since` or later, in the order in which they ended.
    pub fn wholly_since(&self, hosts: &[HostName], since: Timestamp) -> Vec<Sample> {
        let inner = self.lock();
        let mut rows: Vec<&Row> =
            inner.rows(hosts).filter(|row| row.sample.from >= since).collect();
        rows.sort_by_key(|row| row.last);
        rows.into_iter().map(|row| row.sample.clone()).collect()
    }

    /// All of them as one: from the first's beginning to the last's end. Without any, an empty one at `since`.
    pub fn since(&self, hosts: &[HostName], since: Timestamp) -> Sample {
        let empty = Sample { from: since, to: since, ..Sample::default() };
        let sum = self.wholly_since(hosts, since).into_iter().reduce(added);
        sum.unwrap_or(empty)
    }

    /// When a host told last that anything was answered; none where it has not for a quarter of an hour.
    pub fn told_at(&self, host: &HostName) -> Option<Timestamp> {
        let inner = self.lock();
        inner.rows(std::slice::from_ref(host)).map(|row| row.sample.to).max()
    }

    /// How each check of these hosts stands, by host, component and check.
    pub fn checks(&self, hosts: &[HostName]) -> Vec<CheckNow> {
        let inner = self.lock();
        let of = |host: &HostName| inner.hosts.get(host).map(|checks| (host.clone(), checks));
        let of_host = |(host, checks): (HostName, &BTreeMap<(ComponentName, String), Check>)| {
            let now = |((component, check), state): (&(ComponentName, String), &Check)| {
                Some(CheckNow {
                    host: host.clone(),
                    component: component.clone(),
                    check: check.clone(),
                    newest: state.rows.back()?.sample.clone(),
                    failing_since: state.failing_since,
                })
            };
            checks.iter().filter_map(now).collect::<Vec<_>>()
        };
        hosts.iter().filter_map(of).flat_map(of_host).collect()
    }

    /// What the apps of these hosts said last of themselves, each with its interval: how old it is, who reads has to see.
    pub fn gauges(&self, hosts: &[HostName]) -> Vec<GaugeNow> {
        let inner = self.lock();
        let mut rows = Vec::new();
        for host in hosts {
            for ((component, check), state) in inner.hosts.get(host).into_iter().flatten() {
                rows.extend(state.gauges.iter().map(|said| GaugeNow {
                    host: host.clone(),
                    component: component.clone(),
                    check: check.clone(),
                    gauge: said.gauge.clone(),
                    from: said.from,
                    to: said.to,
                }));
            }
        }
        rows
    }

    /// Forgets hosts that left their fleets.
    pub fn keep_only(&self, is_known: impl Fn(&HostName) -> bool) {
        let mut inner = self.lock();
        inner.hosts.retain(|host, _| is_known(host));
        inner.refused.retain(|host| is_known(host));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn rows<'a>(&'a self, hosts: &'a [HostName]) -> impl Iterator<Item = &'a Row> {
        let checks = hosts.iter().filter_map(|host| self.hosts.get(host));
        checks.flat_map(BTreeMap::values).flat_map(|check| &check.rows)
    }

    fn take(&mut self, host: &HostName, told: Told) {
        let Told { component, check, sample, gauges } = told;
        let checks = self.hosts.entry(host.clone()).or_default();
        let oldest = sample.to.0.saturating_sub(KEPT_MS);
        checks.retain(|_, check| check.rows.back().is_some_and(|row| row.sample.to.0 >= oldest));
        let key = (component, check);
        if checks.len() >= CHECKS_MAX && !checks.contains_key(&key) {
            return;
        }
        let check = checks.entry(key).or_default();
        if check.is_late(&sample) {
            return;
        }
        self.next += 1;
        let (from, to) = (sample.from, sample.to);
        check.add(Row { first: self.next, last: self.next, sample });
        check.says(gauges, from, to);
    }
}

impl Check {
    /// Whether an interval came so much later than it ended that its time cannot be told: a connection that was stuck gives
    /// all at once what was sent one by one.
    fn is_late(&self, sample: &Sample) -> bool {
        let Some(newest) = self.rows.back().map(|row| row.sample.to.0) else { return false };
        let length = sample.to.0.saturating_sub(sample.from.0);
        let overlap = newest.saturating_sub(sample.from.0);
        // One that is of before all of them says that our clock was set back, not that it is late.
        sample.to.0 >= newest && overlap as f64 > length as f64 * OVERLAP_MAX
    }

    fn add(&mut self, row: Row) {
        let Sample { from, to, good, bad, .. } = row.sample;
        if self.rows.back().is_some_and(|newest| newest.sample.to > to) {
            // Our clock was set back: what was counted before would for ever seem to be newer.
            let failing_since = self.failing_since.map(|_| from);
            *self = Self { failing_since, ..Self::default() };
        }
        if good > 0 {
            self.failing_since = None;
        } else if bad > 0 {
            self.failing_since.get_or_insert(from);
        }
        self.buckets += row.sample.latency.buckets();
        self.rows.push_back(row);
        self.settle(to.0.saturating_sub(FINE_MS));
        let oldest = to.0.saturating_sub(KEPT_MS);
        while self.rows.len() > ROWS_MAX
            || self.buckets > BUCKETS_MAX
            || self.rows.front().is_some_and(|row| row.sample.to.0 < oldest)
        {
            let Some(gone) = self.rows.pop_front() else { break };
            self.buckets -= gone.sample.latency.buckets();
            self.coarse = self.coarse.saturating_sub(1);
        }
    }

    fn says(&mut self, gauges: Vec<Gauge>, from: Timestamp, to: Timestamp) {
        for gauge in gauges {
            self.gauges.retain(|said| said.gauge.pointer != gauge.pointer);
            self.gauges.push_front(Said { gauge, from, to });
        }
        self.gauges.truncate(GAUGES_MAX);
    }

    /// Adds up what ended before `until`.
    fn settle(&mut self, until: i64) {
        while let Some(row) = self.rows.get(self.coarse).filter(|row| row.sample.to.0 < until) {
            let before = self.coarse.checked_sub(1);
            let before = before.filter(|before| {
                row.sample.to.0.saturating_sub(self.rows[*before].sample.from.0) <= COARSE_MS
            });
            let Some(before) = before else {
                self.coarse += 1;
                continue;
            };
            let Some(row) = self.rows.remove(self.coarse) else { return };
            let into = &mut self.rows[before];
            self.buckets -= row.sample.latency.buckets() + into.sample.latency.buckets();
            into.last = row.last;
            into.sample = added(std::mem::take(&mut into.sample), row.sample);
            self.buckets += into.sample.latency.buckets();
        }
    }
}

/// Two as one. What lies between them counts as measured: it is no more than a gap in it.
fn added(mut one: Sample, other: Sample) -> Sample {
    one.from = one.from.min(other.from);
    one.to = one.to.max(other.to);
    one.good = one.good.saturating_add(other.good);
    one.bad = one.bad.saturating_add(other.bad);
    one.latency.merge(&other.latency);
    one
}

#[cfg(test)]
mod tests {
    use engine::judge::Latency;

    use super::*;

    fn host(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    fn told(to: i64, good: u64, bad: u64) -> Told {
        let (from, to) = (Timestamp(to - 1000), Timestamp(to));
        let sample = Sample { from, to, good, bad, ..Sample::default() };
        let component = ComponentName::new("crm").unwrap();
        Told { component, check: "contacts".to_owned(), sample, gauges: Vec::new() }
    }

    /// Host `a` tells each second, from second 1 on, what these seconds had: good and bad.
    fn seconds(samples: &Samples, seconds: impl IntoIterator<Item = (i64, u64, u64)>) {
        for (second, good, bad) in seconds {
            samples.take(&host("a"), told(second * 1000, good, bad));
        }
    }

    #[test]
    fn who_reads_gets_each_interval_once_in_order() {
        let samples = Samples::default();
        let hosts = [host("a"), host("b")];
        let tell = |host: usize, at, bad| {
            samples.take(&hosts[host], told(at, 10, bad));
        };
        tell(0, 1000, 1);
        tell(1, 1400, 0);
        let (first, next) = samples.after(&hosts, 0);
        assert_eq!(
            first.iter().map(|row| (row.from.0, row.to.0)).collect::<Vec<_>>(),
            [(0, 1000), (400, 1400)]
        );
        tell(1, 2400, 2);
        assert_eq!(samples.newest(), 3);
        let (then, next) = samples.after(&hosts, next);
        assert_eq!(then.iter().map(|row| row.bad).collect::<Vec<_>>(), [2]);
        assert_eq!(samples.after(&hosts, next), (Vec::new(), next));
        assert_eq!(samples.after(&[host("c")], 0), (Vec::new(), 0));
        assert_eq!(samples.told_at(&hosts[1]), Some(Timestamp(2400)));
        assert_eq!(samples.told_at(&host("c")), None);
        samples.keep_only(|host| *host != hosts[1]);
        assert_eq!(samples.told_at(&hosts[1]), None);
    }

    #[test]
    fn what_began_before_a_time_is_not_after_it() {
        let samples = Samples::default();
        seconds(&samples, [(1, 5, 5), (2, 9, 1), (3, 8, 2)]);
        let since = |at| {
            let sum = samples.since(&[host("a")], Timestamp(at));
            (sum.good, sum.bad, sum.from.0, sum.to.0)
        };
        assert_eq!(since(1000), (17, 3, 1000, 3000));
        assert_eq!(since(1001), (8, 2, 2000, 3000));
        assert_eq!(since(2001), (0, 0, 2001, 2001));
        assert_eq!(samples.wholly_since(&[host("a")], Timestamp(1000)).len(), 2);
    }

    #[test]
    fn since_when_a_check_fails_is_kept_for_as_long_as_it_does() {
        let samples = Samples::default();
        let now = || samples.checks(&[host("a"), host("b")]).remove(0);
        seconds(&samples, [(1, 1, 0), (2, 1, 1)]);
        assert_eq!(now().failing_since, None, "one was good");
        // Longer than anything is kept.
        seconds(&samples, (3..2000).map(|second| (second, 0, 1)));
        assert_eq!(now().failing_since, Some(Timestamp(2000)));
        assert_eq!((now().newest.bad, now().newest.to), (1, Timestamp(1_999_000)));
        assert_eq!((now().component.as_str(), now().check.as_str()), ("crm", "contacts"));
        seconds(&samples, [(2000, 1, 0)]);
        assert_eq!(now().failing_since, None);
    }

    #[test]
    fn what_is_old_is_coarse_and_loses_no_count() {
        let samples = Samples::default();
        let hosts = [host("a")];
        seconds(&samples, (1..=600).map(|second| (second, 1, 1)));
        let rows = samples.wholly_since(&hosts, Timestamp(0));
        assert_eq!(rows.iter().map(|row| row.good + row.bad).sum::<u64>(), 1200);
        assert!(rows.len() < 110, "{}", rows.len());
        assert!(rows.windows(2).all(|two| two[0].to == two[1].from), "disjoint, and without a gap");
        assert!(rows.iter().rev().take(60).all(|row| row.to.0 - row.from.0 == 1000));
        assert!(rows.iter().all(|row| row.to.0 - row.from.0 <= COARSE_MS));
        // Who had some of a coarse row gets none of it again.
        let (late, next) = samples.after(&hosts, 7);
        assert_eq!((late[0].from.0, next), (15_000, 600));
        assert_eq!(samples.after(&hosts, 0).0.len(), rows.len());
        seconds(&samples, (601..=2000).map(|second| (second, 1, 1)));
        let kept = samples.wholly_since(&hosts, Timestamp(0));
        assert!(
            kept[0].to.0 >= 2_000_000 - KEPT_MS
                && kept[0].from.0 <= 2_000_000 - KEPT_MS + COARSE_MS
        );
    }

    #[test]
    fn what_was_stuck_on_its_way_is_not_taken_for_new() {
        let samples = Samples::default();
        let hosts = [host("a")];
        let tell = |at| samples.take(&hosts[0], told(at, 10, 0));
        tell(1000);
        // A little late, and the next in time again.
        tell(2300);
        tell(3000);
        assert_eq!(samples.after(&hosts, 0).0.len(), 3);
        // Ten seconds at once: but for the first, none can have been counted since.
        (0..10).for_each(|_| tell(13_000));
        let (rows, _) = samples.after(&hosts, 3);
        assert_eq!(rows.len(), 1);
        tell(14_000);
        assert_eq!(samples.told_at(&hosts[0]), Some(Timestamp(14_000)));
    }

    #[test]
    fn a_clock_that_was_set_back_stops_nothing() {
        let samples = Samples::default();
        seconds(&samples, (1000..1010).map(|second| (second, 0, 1)));
        seconds(&samples, (5..8).map(|second| (second, 0, 1)));
        let rows = samples.wholly_since(&[host("a")], Timestamp(0));
        assert_eq!(rows.iter().map(|row| row.to.0).collect::<Vec<_>>(), [5000, 6000, 7000]);
        let now = samples.checks(&[host("a")]).remove(0);
        assert_eq!(now.failing_since, Some(Timestamp(4000)), "it still fails");
    }

    fn saying(pointer: &str, value: f64) -> Gauge {
        Gauge { pointer: pointer.to_owned(), value, at_most: Some(0.05), at_least: None }
    }

    #[test]
    fn what_an_app_said_last_is_kept_with_its_interval() {
        let samples = Samples::default();
        let hosts = [host("a")];
        let tell = |at, gauges| samples.take(&hosts[0], Told { gauges, ..told(at, 1, 0) });
        let kept = || -> Vec<(String, f64, i64, i64)> {
            let rows = samples.gauges(&hosts).into_iter();
            rows.map(|row| (row.gauge.pointer, row.gauge.value, row.from.0, row.to.0)).collect()
        };
        tell(1000, vec![saying("/errorRate", 0.1), saying("/queue", 3.0)]);
        tell(2000, vec![saying("/errorRate", 0.2)]);
        // It said nothing of the kind: what it said before is as old as it was.
        tell(3000, Vec::new());
        let rows =
            [("/errorRate".to_owned(), 0.2, 1000, 2000), ("/queue".to_owned(), 3.0, 0, 1000)];
        assert_eq!(kept(), rows);
        // What was stuck on its way says nothing new either.
        tell(3100, vec![saying("/errorRate", 0.9)]);
        assert_eq!(kept(), rows);
        assert_eq!(samples.gauges(&[host("b")]), []);
        // Our clock was set back: it is not known any more how old that is.
        tell(500, vec![saying("/queue", 4.0)]);
        assert_eq!(kept(), [("/queue".to_owned(), 4.0, -500, 500)]);
        samples.keep_only(|_| false);
        assert_eq!(kept(), []);
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let samples = Samples::default();
        let latency = Latency::new((1..=100).map(|bound| (Some(bound * 10), 1)));
        for number in 0..20_000_i64 {
            let mut row = told(number / 200 * 1000, 100, 0);
            (row.check, row.sample.latency) = (format!("c{}", number % 200), latency.clone());
            samples.take(&host("a"), row);
            // As often as anything can be told.
            let mut row = told(number, 16, 0);
            row.sample.from = Timestamp(number - 1);
            row.gauges = vec![saying(&format!("/{number}"), 1.0)];
            samples.take(&host("b"), row);
        }
        let inner = samples.lock();
        let of = |name| inner.hosts[&host(name)].values();
        assert_eq!(of("a").count(), CHECKS_MAX);
        for check in of("a").chain(of("b")) {
            let buckets: usize = check.rows.iter().map(|row| row.sample.latency.buckets()).sum();
            assert_eq!(check.buckets, buckets, "what is counted is what is there");
            assert!(check.rows.len() <= ROWS_MAX && buckets <= BUCKETS_MAX);
            assert!(check.coarse <= check.rows.len());
        }
        let b = of("b").next().unwrap();
        assert_eq!((b.rows.len(), b.gauges.len()), (ROWS_MAX, GAUGES_MAX));
        drop(inner);
        // What is too old goes with the next that comes.
        seconds(&samples, [(KEPT_MS, 1, 0)]);
        assert_eq!(samples.lock().hosts[&host("a")].len(), 1);
    }

    #[test]
    fn nonsense_is_said_once_until_there_is_sense() {
        let samples = Samples::default();
        let is_noted = || samples.lock().refused.contains(&host("a"));
        samples.refused(&host("a"), "nonsense");
        samples.refused(&host("a"), "nonsense");
        assert!(is_noted());
        seconds(&samples, [(1, 1, 0)]);
        assert!(!is_noted());
    }
}
