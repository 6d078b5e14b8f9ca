//! Asks every query of a fleet once, so that a mistake is found while nothing depends on it.

use std::{sync::Arc, time::Duration};

use engine::{Counters, Fleet, HostName, MetricSource, trigger::TriggerSource};
use proto::v1;
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use super::{
    answer::{Series, one},
    client::Ask,
    counters::{SIDE, buckets, for_side},
    error::{Fault, PrometheusError},
    servers::Servers,
};

/// How long all of it may take: a call is answered within half a minute.
const WITHIN: Duration = Duration::from_secs(20);
/// Queries that are asked at a time.
const AT_ONCE: usize = 8;

/// One query, and what it is wanted for.
struct Source {
    place: String,
    url: String,
    query: String,
    /// It is asked of one side at a time.
    of_side: bool,
    wanted: Wanted,
}

#[derive(Clone, Copy)]
enum Wanted {
    Number,
    /// No data means none.
    NumberOrNone,
    Buckets,
}

/// One row for each query of the fleet, in the order of its file; `$side` stands for the canary's hosts.
pub async fn try_sources(servers: &Servers, fleet: &Fleet) -> Vec<v1::SourceTried> {
    let end = Instant::now() + WITHIN;
    let canary = fleet.canary.as_ref().map(|canary| &canary.group);
    let hosts = fleet.hosts().filter(|(_, group)| canary == Some(*group));
    let hosts: Arc<Vec<HostName>> = Arc::new(hosts.map(|(host, _)| host.clone()).collect());
    let seats = Arc::new(Semaphore::new(AT_ONCE));
    let mut tries = JoinSet::new();
    for (number, source) in sources(fleet).into_iter().enumerate() {
        let (servers, seats, hosts) = (servers.clone(), seats.clone(), hosts.clone());
        tries.spawn(async move {
            let asked = async {
                let _seat = seats.acquire().await;
                tried(&servers, &source, &hosts).await
            };
            let late = || Err("it was not asked: the others took too long".to_owned());
            let answer = tokio::time::timeout_at(end, asked).await.unwrap_or_else(|_| late());
            (number, row(source, answer))
        });
    }
    let mut rows = tries.join_all().await;
    rows.sort_by_key(|(number, _)| *number);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn sources(fleet: &Fleet) -> Vec<Source> {
    let mut sources = Vec::new();
    if let Some(canary) = &fleet.canary
        && let MetricSource::Prometheus(Counters { url, requests, errors, latency }) =
            &canary.source
    {
        let mut add = |name: &str, query: &str, wanted| {
            let (place, query) = (format!("canary.source.{name}"), query.to_owned());
            sources.push(Source { place, url: url.clone(), query, of_side: true, wanted });
        };
        add("requests", requests, Wanted::Number);
        add("errors", errors, Wanted::NumberOrNone);
        if let Some(latency) = latency {
            add("latency", latency, Wanted::Buckets);
        }
    }
    for trigger in &fleet.triggers {
        match &trigger.source {
            TriggerSource::Prometheus { url, query } => sources.push(Source {
                place: format!("triggers.{}.source.query", trigger.name),
                url: url.clone(),
                query: query.clone(),
                of_side: false,
                wanted: Wanted::Number,
            }),
            TriggerSource::Probes | TriggerSource::Check(_) | TriggerSource::Alert(_) => {}
        }
    }
    sources
}

/// What it answers, or why that is of no use.
async fn tried(servers: &Servers, source: &Source, hosts: &[HostName]) -> Result<String, String> {
    let server = servers.at(&source.url).map_err(|error| error.to_string())?;
    if source.of_side && !source.query.contains(SIDE) {
        let why = "it does not hold `$side`: canary and baseline would be the same";
        return Err(format!("{why}; write it like `instance=~\"($side):.*\"`"));
    }
    let query = if source.of_side { for_side(&source.query, hosts) } else { source.query.clone() };
    let asked = server.instant(&query, None, &Ask::default()).await;
    let asked = asked.and_then(|found| {
        said(source.wanted, &found).map_err(|fault| server.error(fault, Vec::new()))
    });
    asked.map_err(|error: PrometheusError| error.to_string())
}

fn said(wanted: Wanted, found: &[Series]) -> Result<String, Fault> {
    match wanted {
        Wanted::NumberOrNone if found.is_empty() => {
            Ok("no data, which counts as 0 while there are requests".to_owned())
        }
        Wanted::Number | Wanted::NumberOrNone => one(found).map(|point| point.value.to_string()),
        Wanted::Buckets => match buckets(found)?.len() {
            0 => Err(Fault::NoData),
            count => Ok(format!("a histogram of {count} buckets")),
        },
    }
}

fn row(source: Source, answer: Result<String, String>) -> v1::SourceTried {
    let Source { place, query, .. } = source;
    let (ok, detail) = match answer {
        Ok(detail) => (true, detail),
        Err(detail) => (false, detail),
    };
    v1::SourceTried { place, query, ok, detail }
}
