//! What Prometheus answers, as its HTTP API v1 writes it: `{"status":"success","data":{"resultType":"vector","result":[…]}}`.
//!
//! Invariant: pure. What has not this form is no answer of Prometheus.

use std::{collections::BTreeMap, fmt, time::Duration};

use engine::Timestamp;
use serde::Deserialize;

use super::error::Fault;

/// How much of the server's own words is told.
const WORDS_CHARS: usize = 300;
/// Warnings that are told.
const WARNINGS_MAX: usize = 3;

/// One series of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub labels: BTreeMap<String, String>,
    /// Oldest first, at least one.
    pub points: Vec<Point>,
}

/// One value; it may be infinite or no number at all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// By the server's clock.
    pub at: Timestamp,
    pub value: f64,
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.labels.iter().map(|(name, value)| format!("{name}={value:?}"));
        write!(f, "{{{}}}", labels.collect::<Vec<_>>().join(", "))
    }
}

/// What was found, or what is wrong, with the server's warnings either way.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) found: Result<Vec<Series>, Fault>,
    pub(super) warnings: Vec<String>,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Vector,
    Matrix,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    status: Status,
    data: Option<Data>,
    #[serde(default)]
    error_type: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Success,
    Error,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: serde_json::Value,
}

#[derive(Deserialize)]
struct Row {
    metric: BTreeMap<String, String>,
    value: Option<(f64, String)>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

/// Reads an answer. `None` where it is none of Prometheus.
pub(super) fn read(body: &[u8], wanted: Wanted) -> Option<Told> {
    let written: Written = serde_json::from_slice(body).ok()?;
    let warnings = written.warnings.iter().take(WARNINGS_MAX).map(|words| cut(words)).collect();
    let found = match (written.status, written.data) {
        (Status::Error, _) => {
            Err(Fault::Refused { kind: cut(&written.error_type), words: cut(&written.error) })
        }
        (Status::Success, None) => return None,
        (Status::Success, Some(data)) => match (data.result_type.as_str(), wanted) {
            ("vector", Wanted::Vector) | ("matrix", Wanted::Matrix) => {
                let rows: Vec<Row> = serde_json::from_value(data.result).ok()?;
                rows.into_iter().map(series).collect()
            }
            ("scalar", Wanted::Vector) => Err(Fault::Scalar),
            (got, Wanted::Vector) => Err(Fault::Kind { wanted: "vector", got: cut(got) }),
            (got, Wanted::Matrix) => Err(Fault::Kind { wanted: "matrix", got: cut(got) }),
        },
    };
    Some(Told { found, warnings })
}

fn series(row: Row) -> Result<Series, Fault> {
    let points = row.value.into_iter().chain(row.values).map(point);
    let points = points.collect::<Result<Vec<_>, _>>()?;
    if points.is_empty() {
        // It has a histogram in place of a value.
        return Err(Fault::Kind { wanted: "number", got: "native histogram".to_owned() });
    }
    Ok(Series { labels: row.metric, points })
}

fn point((at, value): (f64, String)) -> Result<Point, Fault> {
    let number = value.parse().map_err(|_| Fault::NotANumber(cut(&value)))?;
    Ok(Point { at: Timestamp((at * 1000.0).round() as i64), value: number })
}

/// The newest value of the one series.
pub(super) fn one(found: &[Series]) -> Result<Point, Fault> {
    match found {
        [] => Err(Fault::NoData),
        [only] => {
            let newest = *only.points.last().ok_or(Fault::NoData)?;
            finite(newest.value).map(|_| newest)
        }
        [first, ..] => Err(Fault::Several { count: found.len(), such: cut(&first.to_string()) }),
    }
}

/// A number that can be counted with.
pub(super) fn finite(value: f64) -> Result<f64, Fault> {
    if value.is_finite() { Ok(value) } else { Err(Fault::NotANumber(value.to_string())) }
}

/// How old the newest of all points is; nothing where that is no older than allowed.
pub(super) fn stale(found: &[Series], now: Timestamp, stale_after: Duration) -> Result<(), Fault> {
    let newest = found.iter().flat_map(|series| &series.points).map(|point| point.at).max();
    let Some(newest) = newest else { return Ok(()) };
    let age = u64::try_from(now.0.saturating_sub(newest.0)).unwrap_or(0);
    let age = Duration::from_millis(age);
    if age > stale_after { Err(Fault::Stale(age)) } else { Ok(()) }
}

fn cut(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match text.char_indices().nth(WORDS_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
