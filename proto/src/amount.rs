//! Ages and sizes as people write them: `30d`, `36h`, `20GiB`, `500MB`.
//!
//! Invariant: what is written back is read as the same amount.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::span::Span;

const DAY_SECONDS: u64 = 24 * 60 * 60;
/// Ten years: what is to stay longer is pinned.
const OLDEST_DAYS: u64 = 3660;

/// How old something may grow: whole days (`30d`), or a shorter span as [`Span`] reads it (`36h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age(pub Duration);

/// A text that is not an age.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not an age of at most ten years; write it like `30d` or `36h`")]
pub struct AgeError(String);

impl Age {
    /// Whole days.
    pub const fn days(days: u64) -> Self {
        Self(Duration::from_secs(days * DAY_SECONDS))
    }
}

impl FromStr for Age {
    type Err = AgeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || AgeError(text.to_owned());
        let Some(days) = text.strip_suffix('d') else {
            return text.parse::<Span>().map(|span| Self(span.0)).map_err(|_| error());
        };
        match whole(days) {
            Some(days) if days <= OLDEST_DAYS => Ok(Self::days(days)),
            Some(_) | None => Err(error()),
        }
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let whole_days = self.0.subsec_nanos() == 0 && seconds.is_multiple_of(DAY_SECONDS);
        match seconds / DAY_SECONDS {
            days @ 1.. if whole_days => write!(f, "{days}d"),
            _ => Span(self.0).fmt(f),
        }
    }
}

/// A number of bytes: `20GiB`, `500MB`. `GB` is 1000³, `GiB` is 1024³.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A text that is not a size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a size; write it like `20GiB` or `500MB`")]
pub struct SizeError(String);

/// Of those that divide a number, the first writes it shortest.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let unit = text.find(|c: char| !c.is_ascii_digit())?;
            let (digits, unit) = text.split_at(unit);
            let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit)?;
            whole(digits)?.checked_mul(*bytes).map(Self)
        };
        read().ok_or_else(|| SizeError(text.to_owned()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, bytes): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*bytes);
        let (unit, bytes) = UNITS.iter().find(fits).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / bytes)
    }
}

/// Digits and nothing else.
fn whole(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

impl<'de> Deserialize<'de> for Age {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Age {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A plain scalar is read as its text, whether it is quoted or not.
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl schemars::JsonSchema for Age {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Age".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "How old something may grow, such as 30d or 36h; ten years at most.",
            "examples": ["30d", "90d", "36h"]
        })
    }
}

impl schemars::JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A number of bytes, such as 20GiB (1024³) or 500MB (1000²).",
            "pattern": "^[0-9]+(B|kB|KiB|MB|MiB|GB|GiB|TB|TiB)$",
            "examples": ["20GiB", "500MB"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_written_as_read() {
        for text in ["1d", "30d", "90d", "3660d", "36h", "1h30m", "0s"] {
            assert_eq!(text.parse::<Age>().unwrap().to_string(), text);
        }
        assert_eq!("24h".parse::<Age>().unwrap().to_string(), "1d");
    }

    #[test]
    fn sizes_are_written_as_read() {
        for (text, bytes) in [
            ("20GiB", 20 << 30),
            ("500MB", 500_000_000),
            ("1TiB", 1 << 40),
            ("3kB", 3_000),
            ("7B", 7),
            ("0B", 0),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, text));
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_mend() {
        for text in ["", "d", "30", "-3d", "+3d", "1.5d", "3661d", "30 d", "soon", "1d12h"] {
            assert!(text.parse::<Age>().unwrap_err().to_string().contains("like `30d`"), "{text}");
        }
        for text in ["", "20", "GiB", "20 GiB", "-1GB", "1.5GB", "20gib", "20G", "99999999999TiB"] {
            let error = text.parse::<Size>().unwrap_err();
            assert!(error.to_string().contains("like `20GiB`"), "{text}");
        }
    }

    #[test]
    fn any_size_comes_back() {
        let around = |bytes: u64| [bytes - 1, bytes, bytes + 1, bytes.saturating_mul(37)];
        for bytes in UNITS.iter().flat_map(|(_, bytes)| around(*bytes)).chain([u64::MAX]) {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
    }
}
