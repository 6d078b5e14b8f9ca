//! What a Prometheus server answers.

use engine::{Counters, Fleet, HostName, judge::Sample};
use proto::v1;

/// Why there is no answer, in the server's own words where it has any.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PrometheusError(pub String);

/// The counters of one side.
#[derive(Debug)]
pub struct CountersReader {}

impl CountersReader {
    pub fn new(_: &Counters, _: &[HostName]) -> Self {
        Self {}
    }

    /// What was counted since it was read last; nothing the first time.
    ///
    /// # Errors
    /// No answer, or none that can be counted.
    pub async fn read(&mut self) -> Result<Option<Sample>, PrometheusError> {
        Err(PrometheusError("not asked".to_owned()))
    }
}

/// One number.
///
/// # Errors
/// No answer, or none that is one number.
pub async fn number(_: &str, _: &str) -> Result<f64, PrometheusError> {
    Err(PrometheusError("not asked".to_owned()))
}

/// Asks every query of a fleet once.
pub async fn try_sources(_: &Fleet) -> Vec<v1::SourceTried> {
    Vec::new()
}
