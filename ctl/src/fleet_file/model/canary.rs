//! How a new release is tried on a few hosts first, as it is written.
//!
//! Invariant: what is left out has the value that its description names.

use proto::span::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

/// How a new release is tried on a few hosts first, with a share of the traffic, compared with the rest.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// The group whose hosts get it first; no slot and no proxies. Default: `canary`.
    #[serde(default = "default_group")]
    pub group: String,
    /// Rising shares of traffic. 100 is the whole fleet; without it the rest waits for `ctl canary promote --full`.
    pub steps: Vec<CanaryStep>,
    /// What of the canary is compared with the rest. Default: errors and p95.
    #[serde(default = "default_compare")]
    pub compare: Vec<Measure>,
    /// The largest share of failed requests, whatever the rest does, such as 0.05. Default: none.
    pub errors_at_most: Option<f64>,
    /// How many times the rest's a latency may be. Default: 1.5.
    #[serde(default = "default_latency_ratio")]
    pub latency_ratio: f64,
    /// How likely a canary that is no worse is to be taken back, over all looks of one step. Default: 0.01.
    #[serde(default = "default_false_alarm")]
    pub false_alarm: f64,
    /// Fewer requests than this, to the canary or to the rest, are no pass. Default: 100.
    #[serde(default = "default_min_requests")]
    pub min_requests: u64,
    /// Measurements that are older than this are missing. Default: 30s.
    #[serde(default = "default_stale_after")]
    pub stale_after: Span,
    /// Where counts of requests come from. Default: the agents' own probes.
    #[serde(default)]
    pub source: CanarySource,
    /// How long triggers stay armed after 100 %. Default: 24h.
    #[serde(default = "default_day")]
    pub armed_for: Span,
    /// How long a canary may wait beyond its holds, for measurements or for a person, before it goes back. Default: 24h.
    #[serde(default = "default_day")]
    pub wait_at_most: Span,
}

fn default_group() -> String {
    "canary".to_owned()
}

fn default_compare() -> Vec<Measure> {
    vec![Measure::Errors, Measure::P95]
}

const fn default_latency_ratio() -> f64 {
    1.5
}

const fn default_false_alarm() -> f64 {
    0.01
}

const fn default_min_requests() -> u64 {
    100
}

const fn default_stale_after() -> Span {
    Span::seconds(30)
}

const fn default_day() -> Span {
    Span::seconds(24 * 60 * 60)
}

/// One step of a canary.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryStep {
    /// The share of traffic in percent, 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub weight: u32,
    /// How long it is looked at before the next step; or `ask`: a person has to promote it. Default: 0s.
    #[serde(default)]
    pub hold: Hold,
}

/// How long a step is looked at: `10m`, or `ask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    For(Span),
    /// A person has to promote it, whatever the judge says.
    Ask,
}

impl Default for Hold {
    fn default() -> Self {
        Self::For(Span::seconds(0))
    }
}

impl<'de> Deserialize<'de> for Hold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "ask" {
            return Ok(Self::Ask);
        }
        let error = |_| {
            format!("`{text}` is not how long a step holds; write it like `30s`, `10m` or `ask`")
        };
        text.parse().map(Self::For).map_err(error).map_err(de::Error::custom)
    }
}

impl JsonSchema for Hold {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Hold".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A duration such as 10m; or `ask`: a person has to promote it.",
            "examples": ["10m", "ask"]
        })
    }
}

/// A measurement that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// The share of requests that failed.
    Errors,
    /// The answer time that half of the requests stay below.
    P50,
    /// The answer time that 95 % of the requests stay below.
    P95,
    /// The answer time that 99 % of the requests stay below.
    P99,
}

/// Where counts of requests come from: `probes`, or counters of a Prometheus server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CanarySource {
    /// The agents' own probes.
    #[default]
    Probes,
    Prometheus(Counters),
}

/// Counters of a Prometheus server. In each query `$side` stands for the names of the canary's hosts, or of the rest's, as
/// `a|b`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// The URL of a Prometheus server.
    #[serde(rename = "prometheus")]
    pub url: String,
    /// How many requests there were: a number that only grows, such as `sum(http_requests_total{instance=~"$side"})`.
    pub requests: String,
    /// How many of them failed: a number that only grows.
    pub errors: String,
    /// Buckets of a histogram in seconds, by `le`, such as `sum by (le) (http_seconds_bucket{instance=~"$side"})`. Wanted
    /// where a latency is compared.
    pub latency: Option<String>,
}

const SOURCES: &str = "write `probes` or `{ prometheus: URL, requests: '…$side…', errors: '…$side…', latency: '…$side…' }`";

impl<'de> Deserialize<'de> for CanarySource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CanarySourceVisitor)
    }
}

struct CanarySourceVisitor;

impl<'de> de::Visitor<'de> for CanarySourceVisitor {
    type Value = CanarySource;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a source of counts")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<CanarySource, E> {
        if word == "probes" {
            Ok(CanarySource::Probes)
        } else {
            Err(E::custom(format!("`{word}` is not a source of counts; {SOURCES}")))
        }
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<CanarySource, A::Error> {
        let map = de::value::MapAccessDeserializer::new(map);
        Counters::deserialize(map).map(CanarySource::Prometheus)
    }
}

impl JsonSchema for CanarySource {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CanarySource".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let counters = generator.subschema_for::<Counters>();
        schemars::json_schema!({
            "description": "Where counts of requests come from: `probes`, or counters of a Prometheus server.",
            "oneOf": [{ "const": "probes" }, counters]
        })
    }
}
