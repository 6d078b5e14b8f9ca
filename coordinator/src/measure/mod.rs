//! Where measurements come from.
//!
//! ```text
//! agents ──Samples──▶ samples: by host and check, a quarter of an hour ─┐
//! Prometheus ◀──query── prometheus: counters of one side, one number ───┴─▶ judging, triggers
//! ```
//!
//! Invariant: a time here is the coordinator's own: hosts' clocks may be wrong.

mod gauges;
mod prometheus;
mod samples;

pub use gauges::{Compared, Gauges, SideSays};
pub use prometheus::{
    Ask, CountersReader, Credentials, Fault, Point, Prometheus, PrometheusError, Series, Servers,
    try_sources,
};
pub use samples::{CheckNow, Gauge, GaugeNow, Samples, Told};
