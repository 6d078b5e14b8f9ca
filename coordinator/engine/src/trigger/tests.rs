//! Triggers: their texts, how they stand, what follows.

mod breach;
mod response;
mod watch;

use super::{Breach, Then, Trigger, TriggerSeverity, TriggerSource};
use crate::time::Timestamp;

fn at(second: i64) -> Timestamp {
    Timestamp(1_700_064_000_000 + second * 1000)
}

fn trigger(source: TriggerSource, breach: Option<&str>, for_seconds: u64) -> Trigger {
    let breach = Breach::of(&source, breach).unwrap();
    Trigger {
        name: "errors".to_owned(),
        source,
        breach,
        for_ms: for_seconds * 1000,
        min_requests: 100,
        severity: TriggerSeverity::High,
        then: Then::Rollback,
    }
}

fn errors() -> Trigger {
    trigger(TriggerSource::Probes, Some("error_rate > 0.10"), 30)
}

fn prometheus() -> TriggerSource {
    TriggerSource::Prometheus { url: "http://prom:9090".to_owned(), query: "up".to_owned() }
}
