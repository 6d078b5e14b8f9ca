//! When a trigger is breached: `error_rate > 0.10`, `p95 > 1.5 * baseline`, `> 0.02`, or that something fails.
//!
//! Invariant: a breach fits its source: [`Breach::of`] is the way in from a fleet file.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::TriggerSource;

/// When a trigger is breached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Breach {
    /// The check fails on some host, or the alert is posted: the value is above 0.
    Fails,
    Measured {
        metric: Metric,
        comparison: Comparison,
        bound: Bound,
    },
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Metric {
    /// The share of requests that failed, of 1.
    ErrorRate,
    /// How many hosts answer well.
    Available,
    /// Latencies, in milliseconds.
    P50,
    P95,
    P99,
    /// Whatever the query answers with.
    Value,
}

/// How the measured value stands to the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// What it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Bound {
    Number(f64),
    /// So many times what the control group has.
    TimesBaseline(f64),
}

/// Why a text is no breach.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BreachError {
    #[error(
        "`{0}` is no condition: write `[METRIC] > NUMBER`, where `>=`, `<`, `<=` and `NUMBER * baseline` are allowed too"
    )]
    Shape(String),
    #[error("`{0}` is not measured: write error_rate, available, p50, p95 or p99")]
    Metric(String),
    #[error("`{0}` is no comparison: write >, >=, < or <=")]
    Comparison(String),
    #[error("`{0}` is no number to compare with: write one like 0.10, not below 0")]
    Number(String),
    #[error("error_rate is a share from 0 to 1: {0} can never be passed; for 10 % write 0.10")]
    Share(String),
    #[error("probes measure several things: say which, like `error_rate > 0.10`")]
    NoMetric,
    #[error("a query measures one thing: write `> 0.02`, without `{0}`")]
    MetricOfQuery(Metric),
    #[error("it does not say when it is breached: write it like `{0}`")]
    Missing(&'static str),
    #[error("{0} is breached when it {1}: leave `breach` out")]
    NotMeasured(&'static str, &'static str),
}

impl Breach {
    /// From what the fleet file says of a source.
    pub fn of(source: &TriggerSource, text: Option<&str>) -> Result<Self, BreachError> {
        let text = text.filter(|text| !text.trim().is_empty());
        match (source, text) {
            (TriggerSource::Check(_) | TriggerSource::Alert(_), None) => Ok(Self::Fails),
            (TriggerSource::Check(_), Some(_)) => Err(BreachError::NotMeasured("a check", "fails")),
            (TriggerSource::Alert(_), Some(_)) => {
                Err(BreachError::NotMeasured("an alert", "is posted"))
            }
            (TriggerSource::Probes, None) => Err(BreachError::Missing("error_rate > 0.10")),
            (TriggerSource::Prometheus { .. }, None) => Err(BreachError::Missing("> 0.02")),
            (TriggerSource::Probes, Some(text)) => match text.parse()? {
                Self::Measured { metric: Metric::Value, .. } => Err(BreachError::NoMetric),
                breach @ (Self::Measured { .. } | Self::Fails) => Ok(breach),
            },
            (TriggerSource::Prometheus { .. }, Some(text)) => match text.parse()? {
                breach @ (Self::Measured { metric: Metric::Value, .. } | Self::Fails) => Ok(breach),
                Self::Measured { metric, .. } => Err(BreachError::MetricOfQuery(metric)),
            },
        }
    }

    /// What the value may not pass: `None` where the baseline that it depends on is not known.
    pub fn bound(&self, baseline: Option<f64>) -> Option<f64> {
        match self {
            Self::Fails => Some(0.0),
            Self::Measured { bound: Bound::Number(number), .. } => Some(*number),
            Self::Measured { bound: Bound::TimesBaseline(times), .. } => {
                baseline.map(|baseline| times * baseline)
            }
        }
    }

    /// Whether the bound is a multiple of what was measured before.
    pub fn is_of_baseline(&self) -> bool {
        match self {
            Self::Fails | Self::Measured { bound: Bound::Number(_), .. } => false,
            Self::Measured { bound: Bound::TimesBaseline(_), .. } => true,
        }
    }

    /// Whether a value passes a bound.
    pub fn passes(&self, value: f64, bound: f64) -> bool {
        match self {
            Self::Fails => value > bound,
            Self::Measured { comparison, .. } => match comparison {
                Comparison::Above => value > bound,
                Comparison::AtLeast => value >= bound,
                Comparison::Below => value < bound,
                Comparison::AtMost => value <= bound,
            },
        }
    }
}

impl FromStr for Breach {
    type Err = BreachError;

    fn from_str(text: &str) -> Result<Self, BreachError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (metric, rest) = match words.split_first() {
            Some((first, rest)) if first.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                (first.parse()?, rest)
            }
            Some(_) => (Metric::Value, words.as_slice()),
            None => return Err(BreachError::Shape(text.to_owned())),
        };
        let (comparison, number, times) = match rest {
            [comparison, number] => (comparison, number, false),
            [comparison, number, "*", "baseline"] => (comparison, number, true),
            _ => return Err(BreachError::Shape(text.to_owned())),
        };
        let comparison = match *comparison {
            ">" => Comparison::Above,
            ">=" => Comparison::AtLeast,
            "<" => Comparison::Below,
            "<=" => Comparison::AtMost,
            other => return Err(BreachError::Comparison(other.to_owned())),
        };
        let parsed: Option<f64> = number.parse().ok();
        let parsed = parsed.filter(|n| n.is_finite() && (*n >= 0.0 || metric == Metric::Value));
        let parsed = parsed.ok_or_else(|| BreachError::Number((*number).to_owned()))?;
        if metric == Metric::ErrorRate && !times && parsed > 1.0 {
            return Err(BreachError::Share((*number).to_owned()));
        }
        let bound = if times { Bound::TimesBaseline(parsed) } else { Bound::Number(parsed) };
        Ok(Self::Measured { metric, comparison, bound })
    }
}

impl FromStr for Metric {
    type Err = BreachError;

    fn from_str(text: &str) -> Result<Self, BreachError> {
        match text {
            "error_rate" => Ok(Self::ErrorRate),
            "available" => Ok(Self::Available),
            "p50" => Ok(Self::P50),
            "p95" => Ok(Self::P95),
            "p99" => Ok(Self::P99),
            other => Err(BreachError::Metric(other.to_owned())),
        }
    }
}

/// As in the fleet file.
impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (metric, comparison, bound) = match self {
            Self::Fails => return f.write_str("fails"),
            Self::Measured { metric, comparison, bound } => (metric, comparison, bound),
        };
        if *metric != Metric::Value {
            write!(f, "{metric} ")?;
        }
        match bound {
            Bound::Number(number) => write!(f, "{comparison} {number}"),
            Bound::TimesBaseline(times) => write!(f, "{comparison} {times} * baseline"),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ErrorRate => "error_rate",
            Self::Available => "available",
            Self::P50 => "p50",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::Value => "value",
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Above => ">",
            Self::AtLeast => ">=",
            Self::Below => "<",
            Self::AtMost => "<=",
        })
    }
}
