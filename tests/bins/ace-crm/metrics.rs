//! What a service counts of its users' requests, in the text that Prometheus scrapes.
//!
//! ```text
//! http_requests_total{code="200"} 812
//! http_request_duration_seconds_bucket{le="0.1"} 812   …   {le="+Inf"} 815   _sum   _count
//! ```
//!
//! As with the usual client libraries a code has no series before its first answer.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The usual ones of a client library, in seconds.
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    codes: BTreeMap<u16, u64>,
    /// Answers that took at most so long.
    within: [u64; BOUNDS.len()],
    seconds: f64,
}

impl Metrics {
    pub(crate) fn answered(&self, code: u16, took: Duration) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        *counted.codes.entry(code).or_default() += 1;
        let seconds = took.as_secs_f64();
        counted.seconds += seconds;
        let bounds = counted.within.iter_mut().zip(BOUNDS);
        bounds.filter(|(_, bound)| seconds <= *bound).for_each(|(count, _)| *count += 1);
    }

    pub(crate) fn text(&self) -> String {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = "# TYPE http_requests_total counter\n".to_owned();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            writeln!(text, "{name} {value}").expect("a text takes every line");
        };
        for (code, count) in &counted.codes {
            line(&format!("http_requests_total{{code=\"{code}\"}}"), count);
        }
        let all: u64 = counted.codes.values().sum();
        line("# TYPE http_request_duration_seconds", &"histogram");
        for (bound, count) in BOUNDS.iter().zip(counted.within) {
            line(&format!("http_request_duration_seconds_bucket{{le=\"{bound}\"}}"), &count);
        }
        line("http_request_duration_seconds_bucket{le=\"+Inf\"}", &all);
        line("http_request_duration_seconds_sum", &counted.seconds);
        line("http_request_duration_seconds_count", &all);
        text
    }
}
