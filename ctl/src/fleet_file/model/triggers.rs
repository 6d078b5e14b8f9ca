//! Rules on measurements that propose or start a rollback, as they are written.
//!
//! Invariant: a source is exactly one of the four kinds.

use proto::span::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

/// A rule on measurements.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// Where the measurements come from.
    pub source: Source,
    /// When it is breached: `"error_rate > 0.10"` with probes (also `available`, `p50`, `p95`, `p99`), `"> 0.02"` or
    /// `"> 1.5 * baseline"` with a query. A check is breached when it fails, an alert when it is posted.
    pub breach: Option<String>,
    /// How long the breach must last. An alert has waited already.
    #[serde(rename = "for")]
    pub lasting: Option<Span>,
    /// Below this number of requests there is no judgement. Default: 0.
    #[serde(default)]
    pub min_requests: u64,
    /// How bad it is.
    pub severity: Severity,
    /// What follows.
    pub then: Then,
}

/// Where measurements come from: `probes`, `{ prometheus: URL, query: … }`, `{ check: NAME }` or `{ alert: NAME }`.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The agents' own probes.
    Probes,
    /// A query that a Prometheus server answers.
    Prometheus { url: String, query: String },
    /// A check of a component, by name.
    Check(String),
    /// An alert that Alertmanager posts to the coordinator, by name.
    Alert(String),
}

/// A source that is written as a map: exactly one of `prometheus`, `check` and `alert`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SourceMap {
    /// The URL of a Prometheus server.
    prometheus: Option<String>,
    /// The query that it answers with one number.
    query: Option<String>,
    /// The name of a component's check.
    check: Option<String>,
    /// The name of an alert, its label `alertname`.
    alert: Option<String>,
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

struct SourceVisitor;

const SOURCES: &str =
    "write `probes`, `{ prometheus: URL, query: … }`, `{ check: NAME }` or `{ alert: NAME }`";

impl<'de> de::Visitor<'de> for SourceVisitor {
    type Value = Source;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a source of measurements")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Source, E> {
        if word == "probes" {
            Ok(Source::Probes)
        } else {
            Err(E::custom(format!("`{word}` is not a source of measurements; {SOURCES}")))
        }
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Source, A::Error> {
        let map = SourceMap::deserialize(de::value::MapAccessDeserializer::new(map))?;
        match (map.prometheus, map.query, map.check, map.alert) {
            (Some(url), Some(query), None, None) => Ok(Source::Prometheus { url, query }),
            (None, None, Some(check), None) => Ok(Source::Check(check)),
            (None, None, None, Some(alert)) => Ok(Source::Alert(alert)),
            (Some(_), None, None, None) => {
                Err(de::Error::custom("`prometheus` needs a query; add `query: …`"))
            }
            _ => Err(de::Error::custom(format!("this is not a source of measurements; {SOURCES}"))),
        }
    }
}

impl JsonSchema for Source {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Source".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let map = generator.subschema_for::<SourceMap>();
        schemars::json_schema!({
            "description": "Where measurements come from: `probes`, `{ prometheus: URL, query: … }`, `{ check: NAME }` or `{ alert: NAME }`.",
            "oneOf": [{ "const": "probes" }, map]
        })
    }
}

/// How bad a breach is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Critical,
    High,
    Low,
}

/// What follows a breach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// A rollback begins.
    Rollback,
    /// A rollback is planned, and people are asked.
    Propose,
}
