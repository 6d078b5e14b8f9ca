//! From the counters of one side, asked again and again, to the counts of disjoint intervals.
//!
//! ```text
//! $side ─▶ a|b, escaped ─▶ requests ─ at its moment ─▶ errors, latency ─▶ Counters ─ minus those before ─▶ Sample
//! ```
//!
//! A server has what it scraped last, which may be from before this reader began. So what grows first is left out: only
//! from then on it is certain that all of it is new. What a scrape has found is there a little later than its own time: of
//! one moment, errors may be known whose requests are not. They are counted with their requests, at the next look.
//!
//! Invariant: all three are of one moment of the server's clock; an interval begins where the one before ended.
//! Invariant: a counter that went back gives no sample, and that is said.

use std::time::Duration;

use engine::{
    Counters as Queries, HostName, Timestamp,
    judge::{Counters, Gap, Sample},
};

use super::{
    answer::{Series, finite, one},
    client::{Ask, Prometheus},
    error::{Fault, PrometheusError},
    servers::Servers,
};
use crate::host::wall;

/// What stands in a query for the names of a side's hosts.
pub(super) const SIDE: &str = "$side";

/// The counters of one side. One reader serves one weight step.
#[derive(Debug)]
pub struct CountersReader {
    server: Result<Prometheus, PrometheusError>,
    queries: Queries,
    has_hosts: bool,
    ask: Ask,
    last: Last,
}

/// What was read before.
#[derive(Clone, Debug)]
enum Last {
    /// Nobody has asked.
    Never,
    /// There was no data.
    Nothing,
    /// It may be of before this reader.
    Old(Counters),
    New(Counters),
}

impl CountersReader {
    /// A reader of what is counted from now on.
    pub fn new(servers: &Servers, queries: &Queries, hosts: &[HostName]) -> Self {
        Self {
            server: servers.at(&queries.url),
            queries: Queries {
                url: queries.url.clone(),
                requests: for_side(&queries.requests, hosts),
                errors: for_side(&queries.errors, hosts),
                latency: queries.latency.as_ref().map(|query| for_side(query, hosts)),
            },
            has_hosts: !hosts.is_empty(),
            ask: Ask::default(),
            last: Last::Never,
        }
    }

    /// What was scraped longer ago than this is no data.
    #[must_use]
    pub fn stale_after(mut self, stale_after: Duration) -> Self {
        self.ask.stale_after = stale_after;
        self
    }

    /// What was counted since it was read last; nothing as long as that cannot be told.
    ///
    /// # Errors
    /// No answer, or none that can be counted. What was counted meanwhile is in the next sample, but where a counter went
    /// back.
    pub async fn read(&mut self) -> Result<Option<Sample>, PrometheusError> {
        let server = self.server.clone()?;
        if !self.has_hosts {
            return Err(server.error(Fault::NoHosts, Vec::new()));
        }
        let now = match self.counters(&server).await {
            Ok(now) => now,
            Err(error) => {
                if error.fault == Fault::NoData && matches!(self.last, Last::Never) {
                    self.last = Last::Nothing;
                }
                return Err(error);
            }
        };
        let gap = |gap: Gap| {
            let fault = match gap {
                Gap::CounterReset => Fault::Reset,
                Gap::NotANumber => Fault::NotANumber("NaN".to_owned()),
                Gap::NoAnswer(why) => Fault::NotReached(why),
            };
            server.error(fault, Vec::new())
        };
        match std::mem::replace(&mut self.last, Last::New(now.clone())) {
            Last::Never => {
                self.last = Last::Old(now);
                Ok(None)
            }
            Last::Nothing => Ok(None),
            Last::Old(last) => {
                if is_same(&last, &now) {
                    self.last = Last::Old(last);
                }
                Ok(None)
            }
            Last::New(last) => {
                let sample = now.since(&last).map_err(gap)?;
                self.last = Last::New(counted(&last, now, &sample));
                Ok(Some(sample))
            }
        }
    }

    async fn counters(&self, server: &Prometheus) -> Result<Counters, PrometheusError> {
        // Before it is asked: what it counts after this moment may be in the answer, what it counted before is.
        let at = wall();
        let fault = |fault: Fault| server.error(fault, Vec::new());
        let requests = server.instant(&self.queries.requests, None, &self.ask).await?;
        let requests = one(&requests).map_err(fault)?;
        let moment = Some(requests.at);
        let errors = server.instant(&self.queries.errors, moment, &self.ask);
        let latency = self.latency(server, moment);
        let (errors, latency) = tokio::try_join!(errors, latency)?;
        let errors = match one(&errors) {
            Ok(errors) => errors.value,
            // A series of errors begins with the first of them.
            Err(Fault::NoData) => 0.0,
            Err(other) => return Err(fault(other)),
        };
        Ok(Counters { at, requests: requests.value, errors, latency })
    }

    async fn latency(
        &self,
        server: &Prometheus,
        at: Option<Timestamp>,
    ) -> Result<Vec<(f64, f64)>, PrometheusError> {
        let Some(query) = &self.queries.latency else { return Ok(Vec::new()) };
        let found = server.instant(query, at, &self.ask).await?;
        buckets(&found).map_err(|fault| server.error(fault, Vec::new()))
    }
}

/// A histogram's buckets: bound in seconds, and how many stayed below it.
pub(super) fn buckets(found: &[Series]) -> Result<Vec<(f64, f64)>, Fault> {
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for series in found {
        let no_bound = || Fault::NoBound(series.to_string());
        let le = series.labels.get("le").ok_or_else(no_bound)?;
        let bound: f64 = le.parse().map_err(|_| no_bound())?;
        if bound.is_nan() {
            return Err(no_bound());
        }
        if buckets.iter().any(|(known, _)| *known == bound) {
            return Err(Fault::Several { count: found.len(), such: series.to_string() });
        }
        let newest = series.points.last().ok_or(Fault::NoData)?;
        buckets.push((bound, finite(newest.value)?));
    }
    Ok(buckets)
}

/// A query about these hosts: their names as a regular expression, which a string of PromQL holds unchanged, whatever its
/// quotes are.
pub(super) fn for_side(query: &str, hosts: &[HostName]) -> String {
    // A name is of a-z, 0-9, `.` and `-`. Only the dot means something there; in brackets it needs no backslash.
    let names = hosts.iter().map(|host| host.as_str().replace('.', "[.]"));
    query.replace(SIDE, &names.collect::<Vec<_>>().join("|"))
}

/// What the next look begins at: errors without their requests are not counted yet.
fn counted(last: &Counters, now: Counters, sample: &Sample) -> Counters {
    let ahead = now.errors - last.errors > sample.requests() as f64;
    let errors = if ahead { last.errors + sample.bad as f64 } else { now.errors };
    Counters { errors, ..now }
}

fn is_same(one: &Counters, other: &Counters) -> bool {
    one.requests == other.requests && one.errors == other.errors && one.latency == other.latency
}
