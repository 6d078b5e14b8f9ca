//! Durations as people write them: `30s`, `2m`, `1h30m`.

use std::{fmt, str::FromStr, time::Duration};

use jiff::{
    SignedDuration,
    fmt::friendly::{Spacing, SpanPrinter},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration in a file: written and read as `30s`, `2m`, `1h30m`, never negative. Read ones are a year at most, so
/// that adding one to a clock cannot overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// A span of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Whole milliseconds, as the wire carries it.
    pub fn as_ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A text that is not a duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a duration of at most a year; write it like `30s`, `2m` or `1h30m`")]
pub struct SpanError(String);

const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || SpanError(text.to_owned());
        let signed: SignedDuration = text.parse().map_err(|_| error())?;
        let duration = Duration::try_from(signed).map_err(|_| error())?;
        if duration <= LONGEST { Ok(Self(duration)) } else { Err(error()) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signed = SignedDuration::try_from(self.0).map_err(|_| fmt::Error)?;
        f.write_str(&SpanPrinter::new().spacing(Spacing::None).duration_to_string(&signed))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl schemars::JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A duration such as 30s, 2m or 1h30m.",
            "examples": ["30s", "2m", "1h30m"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_as_read() {
        for text in ["0s", "30s", "2m", "1h30m", "250ms", "1s500ms", "8760h"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_mend() {
        for text in ["", "30", "-3s", "soon", "9000h", "99999999999999999h"] {
            let error = text.parse::<Span>().unwrap_err();
            assert!(error.to_string().contains("write it like"), "{text}");
        }
    }
}
