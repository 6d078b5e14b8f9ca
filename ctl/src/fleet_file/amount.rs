//! A number of hosts as people write it: `1`, `5` or `"20%"`.
//!
//! Invariant: never nothing, never more than 100%.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

/// A number of hosts, or a share of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// At least 1.
    Hosts(u32),
    /// 1 to 100.
    Percent(u32),
}

/// A text that is not an amount.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a number of hosts; write it like `1`, `5` or `\"20%\"` (1% to 100%)")]
pub struct AmountError(String);

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (digits, percent) =
            text.strip_suffix('%').map_or((text, false), |digits| (digits, true));
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        match digits.parse() {
            Ok(count @ 1..=100) if plain && percent => Ok(Self::Percent(count)),
            Ok(count @ 1..) if plain && !percent => Ok(Self::Hosts(count)),
            Ok(_) | Err(_) => Err(AmountError(text.to_owned())),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hosts(count) => write!(f, "{count}"),
            Self::Percent(share) => write!(f, "{share}%"),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A plain scalar is read as its text, whether it is quoted or not.
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of hosts, or a share of them such as \"20%\".",
            "oneOf": [
                { "type": "integer", "minimum": 1 },
                { "type": "string", "pattern": "^([1-9][0-9]*|([1-9][0-9]?|100)%)$" }
            ],
            "examples": [1, 5, "20%"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_as_read() {
        for text in ["1", "5", "1%", "20%", "100%"] {
            assert_eq!(text.parse::<Amount>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn nothing_too_much_and_nonsense_are_refused() {
        for text in ["", "0", "-1", "+1", "0%", "101%", "%", "1.5", "half", "99999999999"] {
            assert!(text.parse::<Amount>().is_err(), "{text}");
        }
    }
}
