//! What one interval of one check has counted.

use tokio::time::Instant;

use super::{Answered, Gauge, Sample, Sampled, latency::Latency};

#[derive(Debug)]
pub(super) struct Counts {
    since: Instant,
    good: u64,
    bad: u64,
    latency: Latency,
    gauges: Vec<Gauge>,
}

impl Counts {
    pub(super) fn new(since: Instant) -> Self {
        Self { since, good: 0, bad: 0, latency: Latency::new(), gauges: Vec::new() }
    }

    pub(super) fn add(&mut self, answered: Answered) {
        if answered.good {
            self.good += 1;
        } else {
            self.bad += 1;
        }
        if let Some(took) = answered.took {
            self.latency.add(took);
        }
        for gauge in answered.gauges {
            self.gauges.retain(|before| before.pointer != gauge.pointer);
            self.gauges.push(gauge);
        }
    }

    /// What was counted since, and begins the next interval; nothing where nothing was counted.
    pub(super) fn take(&mut self, sampled: &Sampled, now: Instant) -> Option<Sample> {
        let Self { since, good, bad, latency, gauges } = std::mem::replace(self, Self::new(now));
        (good + bad > 0).then(|| Sample {
            component: sampled.component.clone(),
            check: sampled.check.name.clone(),
            length: now - since,
            good,
            bad,
            latency: latency.rows(),
            gauges,
        })
    }
}
