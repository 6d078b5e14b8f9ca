//! What an agent tells of its probes, from the wire.
//!
//! Invariant: whatever is sent, it is taken or refused with a reason; what is taken is small.
//! Invariant: what is only shown costs nothing that is counted: a gauge that cannot be shown is left out by itself.

use engine::{
    ComponentName, Timestamp,
    judge::{Latency, Sample},
};
use proto::v1;

use crate::measure::{Gauge, Told};

/// Checks of which one message tells.
const SAMPLES_MAX: usize = 256;
/// An agent tells each second; one that was held up tells of a little more.
const LENGTH_MS_MAX: i64 = 60_000;
/// No policy asks more often than every 20 ms; this leaves room for its jitter, and for what was asked before.
const SHORTEST_BEAT_MS: u64 = 10;
const ASKED_BEFORE_MAX: u64 = 16;
/// Bounds of one histogram. Agents have some 150, and name each that begins a bucket too.
const BUCKETS_MAX: usize = 320;
/// Of a check's name.
const NAME_BYTES_MAX: usize = 63;
/// Gauges of one check, and the length of their pointers: agents tell no more.
const GAUGES_MAX: usize = 16;
const POINTER_BYTES_MAX: usize = 128;

/// What a host's probes counted in intervals that ended now.
///
/// # Errors
/// What of it cannot be. Then nothing of the message counts.
pub(super) fn told(message: v1::Samples, now: Timestamp) -> Result<Vec<Told>, String> {
    let count = message.samples.len();
    if count > SAMPLES_MAX {
        return Err(format!("{count} samples at once; at most {SAMPLES_MAX} are taken"));
    }
    message.samples.into_iter().map(|sample| one(sample, now)).collect()
}

fn one(message: v1::Sample, now: Timestamp) -> Result<Told, String> {
    let v1::Sample { component, check, length_ms, good, bad, latency, gauges } = message;
    let component = ComponentName::new(component).map_err(|error| error.to_string())?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
    if check.is_empty() || check.len() > NAME_BYTES_MAX || !check.chars().all(plain) {
        return Err("a check has a name that no check has".to_owned());
    }
    let length =
        i64::try_from(length_ms).ok().filter(|length| (1..=LENGTH_MS_MAX).contains(length));
    let Some(length) = length else {
        return Err(format!("an interval of {length_ms} ms; one is 1 to {LENGTH_MS_MAX} ms long"));
    };
    let most = length_ms / SHORTEST_BEAT_MS + ASKED_BEFORE_MAX;
    let requests = good.checked_add(bad).filter(|requests| *requests <= most);
    let Some(requests) = requests else {
        return Err(format!("more than {most} answers in {length_ms} ms, which no agent asks for"));
    };
    let latency = histogram(&latency, requests)?;
    let from = Timestamp(now.0.saturating_sub(length));
    let sample = Sample { from, to: now, good, bad, latency };
    let gauges = gauges.into_iter().filter_map(gauge).take(GAUGES_MAX).collect();
    Ok(Told { component, check, sample, gauges })
}

/// None where it is no number with a bound, or not short.
fn gauge(message: v1::Gauge) -> Option<Gauge> {
    let v1::Gauge { pointer, value, at_most, at_least } = message;
    let is_short = pointer.len() <= POINTER_BYTES_MAX && !pointer.chars().any(char::is_control);
    let mut bounds = at_most.iter().chain(&at_least).peekable();
    let is_bound = bounds.peek().is_some() && bounds.all(|bound| bound.is_finite());
    (is_short && is_bound && value.is_finite()).then_some(Gauge {
        pointer,
        value,
        at_most,
        at_least,
    })
}

fn histogram(buckets: &[v1::Bucket], requests: u64) -> Result<Latency, String> {
    if buckets.len() > BUCKETS_MAX {
        return Err(format!("{} buckets; at most {BUCKETS_MAX} are taken", buckets.len()));
    }
    // 0 stands for the open end, which comes last.
    let bound = |bucket: &v1::Bucket| (bucket.up_to_us > 0).then_some(bucket.up_to_us);
    let reach = |bucket: &v1::Bucket| bound(bucket).unwrap_or(u64::MAX);
    if buckets.windows(2).any(|two| reach(&two[0]) >= reach(&two[1])) {
        return Err("the bounds of a histogram do not rise".to_owned());
    }
    let answers = buckets.iter().try_fold(0_u64, |sum, bucket| sum.checked_add(bucket.count));
    if answers.is_none_or(|answers| answers > requests) {
        return Err(format!("a histogram of more answers than the {requests} that there were"));
    }
    Ok(Latency::new(buckets.iter().map(|bucket| (bound(bucket), bucket.count))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(length_ms: u64, good: u64, bad: u64) -> v1::Sample {
        v1::Sample {
            component: "crm".to_owned(),
            check: "contacts".to_owned(),
            length_ms,
            good,
            bad,
            latency: Vec::new(),
            gauges: Vec::new(),
        }
    }

    fn taken(sample: v1::Sample) -> Result<Sample, String> {
        let rows = told(v1::Samples { samples: vec![sample] }, Timestamp(5000));
        rows.map(|mut rows| rows.remove(0).sample)
    }

    fn buckets(rows: &[(u64, u64)]) -> Vec<v1::Bucket> {
        rows.iter()
            .map(|(up_to_us, count)| v1::Bucket { up_to_us: *up_to_us, count: *count })
            .collect()
    }

    #[test]
    fn what_an_agent_sends_is_taken_as_it_counted_it() {
        let latency = buckets(&[(250, 1), (459, 0), (500, 2), (0, 1)]);
        let told = taken(v1::Sample { latency, ..sample(1000, 3, 2) }).unwrap();
        assert_eq!((told.good, told.bad, told.latency.total()), (3, 2, 4));
        assert_eq!((told.from, told.to), (Timestamp(4000), Timestamp(5000)));
        // Between 459 and 500, as its own list says; and beyond all bounds.
        assert_eq!((told.latency.surely_above(459), told.latency.surely_above(500)), (3, 1));
        // A policy's shortest beat for the whole second, and four that were asked before.
        assert!(taken(sample(1000, 56, 4)).is_ok());
    }

    #[test]
    fn a_gauge_that_cannot_be_shown_costs_no_count() {
        let gauge = |pointer: &str, value, at_most| v1::Gauge {
            pointer: pointer.to_owned(),
            value,
            at_most,
            at_least: None,
        };
        let fine = gauge("/errorRate", 0.2, Some(0.05));
        let nonsense = [
            gauge("/a", f64::NAN, Some(1.0)),
            gauge("/b", f64::INFINITY, Some(1.0)),
            gauge("/c", 1.0, Some(f64::NAN)),
            gauge("/d", 1.0, None),
            gauge("/e\n", 1.0, Some(1.0)),
            gauge(&"/".repeat(129), 1.0, Some(1.0)),
        ];
        let told_of = |gauges: Vec<v1::Gauge>| {
            let samples = vec![v1::Sample { gauges, ..sample(1000, 3, 2) }];
            told(v1::Samples { samples }, Timestamp(5000)).unwrap().remove(0)
        };
        let taken = told_of(nonsense.into_iter().chain([fine]).collect());
        assert_eq!((taken.sample.good, taken.sample.bad), (3, 2));
        let [kept] = &taken.gauges[..] else { panic!("{taken:?}") };
        assert_eq!((kept.pointer.as_str(), kept.value), ("/errorRate", 0.2));
        assert_eq!((kept.at_most, kept.at_least), (Some(0.05), None));
        let many = (0..1000).map(|number| gauge(&format!("/{number}"), 1.0, Some(1.0)));
        assert_eq!(told_of(many.collect()).gauges.len(), GAUGES_MAX);
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        let named = |component: &str, check: &str| v1::Sample {
            component: component.to_owned(),
            check: check.to_owned(),
            ..sample(1000, 1, 0)
        };
        let with =
            |rows: &[(u64, u64)]| v1::Sample { latency: buckets(rows), ..sample(1000, 5, 0) };
        let many: Vec<(u64, u64)> = (1..=321).map(|bound| (bound, 0)).collect();
        let table = [
            (named("../etc", "contacts"), "not a"),
            (named("crm", ""), "a name that no check has"),
            (named("crm", &"x".repeat(64)), "a name that no check has"),
            (named("crm", "a\nb"), "a name that no check has"),
            (sample(0, 1, 0), "an interval of 0 ms"),
            (sample(u64::MAX, 1, 0), "one is 1 to 60000 ms long"),
            (sample(1000, 117, 0), "more than 116 answers in 1000 ms"),
            (sample(1000, u64::MAX, u64::MAX), "more than 116 answers"),
            (with(&[(500, 1), (250, 1)]), "do not rise"),
            (with(&[(250, 1), (250, 1)]), "do not rise"),
            (with(&[(0, 1), (250, 1)]), "do not rise"),
            (with(&[(250, 6)]), "more answers than the 5"),
            (with(&[(250, u64::MAX), (500, 2)]), "more answers than the 5"),
            (with(&many), "321 buckets"),
        ];
        for (sample, expected) in table {
            let why = taken(sample).unwrap_err();
            assert!(why.contains(expected), "{why}: {expected}");
        }
        let samples = vec![sample(1000, 1, 0); SAMPLES_MAX + 1];
        let why = told(v1::Samples { samples }, Timestamp(0)).unwrap_err();
        assert!(why.starts_with("257 samples"), "{why}");
    }
}
