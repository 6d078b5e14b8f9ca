//! Names that were checked once, at the door.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that is not a name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: {rule}")]
pub struct NameError {
    kind: &'static str,
    text: String,
    rule: &'static str,
}

const PLAIN: &str =
    "use a-z, 0-9, `.` and `-`, begin with a letter or digit, at most 63 characters";
const LABEL: &str = "use letters, digits, `.`, `_`, `+` and `-`, begin with a letter or digit, at most 128 characters";
const HEX: &str = "it has 64 lower-case hex digits";

fn plain(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-')
}

fn label(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c))
}

fn hex(text: &str) -> bool {
    text.len() == 64 && text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident: $kind:literal, $check:ident, $rule:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the text.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                if $check(&text) { Ok(Self(text)) } else { Err(NameError { kind: $kind, text, rule: $rule }) }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

names! {
    /// The hosts that run one app in one environment: `prod`.
    FleetName: "fleet name", plain, PLAIN;
    /// One machine with one agent: `crm-b1`.
    HostName: "host name", plain, PLAIN;
    /// `blue`, `green`, `canary`, `edge`, `db` or any name.
    GroupName: "group name", plain, PLAIN;
    /// What goes back as one piece on a host: `crm`.
    ComponentName: "component name", plain, PLAIN;
    /// A named revision of the fleet: `v1.4.2`.
    ReleaseName: "release name", label, LABEL;
    /// One run of a plan: `rb-0193`.
    OperationId: "operation id", plain, PLAIN;
    /// The exact hash of a snapshot: its name on its host.
    SnapshotHash: "snapshot hash", hex, HEX;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        for text in ["prod", "crm-b1", "a", "0x.y"] {
            assert_eq!(HostName::new(text).unwrap().as_str(), text);
        }
        assert!(ReleaseName::new("v1.4.2+build_7").is_ok());
        assert!(SnapshotHash::new("0123456789abcdef".repeat(4)).is_ok());
    }

    #[test]
    fn bad_names_say_the_rule() {
        for text in ["", "-a", "A", "a b", "a/b", "ä", &"x".repeat(64)] {
            let error = HostName::new(text).unwrap_err().to_string();
            assert!(error.contains("is not a host name: use a-z"), "{error}");
        }
        assert!(ReleaseName::new("../v1").is_err());
        assert!(SnapshotHash::new("ABC").is_err());
    }

    #[test]
    fn a_bad_name_is_not_read_from_the_journal() {
        assert!(serde_json::from_str::<HostName>("\"a/b\"").is_err());
    }
}
