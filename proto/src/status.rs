//! Refusals: what the coordinator says beside a gRPC code, and how ctl reads it.
//!
//! ```text
//! status(kind, code, what, details, mend) ─▶ code, message = what
//!                                            lastgood-kind    refused
//!                                            lastgood-detail  percent-encoded JSON list of lines
//!                                            lastgood-mend    percent-encoded command to type next
//!                                          ─▶ read ─▶ Told
//! ```
//!
//! Invariant: what is written is read back the same, or shortened with a line that says so; never so large that a
//! peer's limit on headers turns a refusal into a broken connection.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use tonic::{
    Code, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
};

/// Which [`StatusKind`] it is.
pub const KIND_KEY: &str = "lastgood-kind";
/// Lines that explain it.
pub const DETAIL_KEY: &str = "lastgood-detail";
/// The command that mends it.
pub const MEND_KEY: &str = "lastgood-mend";

/// What fits beside everything else into the 16 KiB of headers that our clients accept.
const WHAT_BYTES_MAX: usize = 1024;
const DETAIL_BYTES_MAX: usize = 6 * 1024;
const MEND_BYTES_MAX: usize = 1024;

/// Percent itself, what is no visible ASCII, and blanks, which a proxy may trim.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%').add(b' ');

/// Why the coordinator did not do what it was asked. Nothing was changed by the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusKind {
    /// The fleet file does not hold.
    InvalidFleet,
    /// Not this person, or not with this role.
    NotAllowed,
    /// A policy, a check or a freeze is against it; also: there is no release to go back to.
    Refused,
    /// Another operation has the fleet.
    Busy,
    /// The fleet is no longer as it was when the plan was made, or the plan is too old.
    StalePlan,
    /// A fleet, host, release or operation that is not known.
    NotFound,
}

impl StatusKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::InvalidFleet,
        Self::NotAllowed,
        Self::Refused,
        Self::Busy,
        Self::StalePlan,
        Self::NotFound,
    ];

    /// As it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidFleet => "invalid-fleet",
            Self::NotAllowed => "not-allowed",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::StalePlan => "stale-plan",
            Self::NotFound => "not-found",
        }
    }
}

/// What [`read`] found in a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub kind: StatusKind,
    /// What was refused and why, in a sentence.
    pub what: String,
    /// Lines that explain it, such as each candidate and why it was not taken.
    pub details: Vec<String>,
    /// The next command to type.
    pub mend: Option<String>,
}

/// A refusal. `details` are lines; `mend` is a command to type, empty where there is none.
pub fn status(kind: StatusKind, code: Code, what: &str, details: &[String], mend: &str) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(KIND_KEY, MetadataValue::from_static(kind.as_str()));
    if !details.is_empty() {
        insert(&mut metadata, DETAIL_KEY, &fitting(details));
    }
    if !mend.is_empty() {
        insert(&mut metadata, MEND_KEY, cut(mend, MEND_BYTES_MAX));
    }
    Status::with_metadata(code, cut(what, WHAT_BYTES_MAX), metadata)
}

/// What a status says beside its code; `None` for one that was not made by [`status`], or is of a kind that this
/// build does not know.
pub fn read(status: &Status) -> Option<Told> {
    let kind = status.metadata().get(KIND_KEY)?.to_str().ok()?;
    let kind = StatusKind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    let details = value(status, DETAIL_KEY);
    Some(Told {
        kind,
        what: status.message().to_owned(),
        // A list that cannot be read is shown as it came: it is still the best explanation there is.
        details: details
            .map(|text| serde_json::from_str(&text).unwrap_or_else(|_| vec![text]))
            .unwrap_or_default(),
        mend: value(status, MEND_KEY),
    })
}

fn insert(metadata: &mut MetadataMap, key: &'static str, text: &str) {
    let encoded = encode(text);
    let value: MetadataValue<Ascii> =
        encoded.parse().expect("percent-encoded text is visible ASCII throughout");
    metadata.insert(key, value);
}

fn value(status: &Status, key: &str) -> Option<String> {
    let text = status.metadata().get(key)?.to_str().ok()?;
    Some(percent_decode_str(text).decode_utf8_lossy().into_owned())
}

/// As many of the lines as fit, as a JSON list; the last line then says how many do not.
fn fitting(details: &[String]) -> String {
    let mut kept: Vec<String> = Vec::new();
    // Brackets, and room for the last line.
    let mut bytes = 64;
    for detail in details {
        let detail = cut(detail, WHAT_BYTES_MAX);
        // Quotes and a comma are encoded at worst to nine bytes.
        bytes += encode(&json(detail)).len() + 9;
        if bytes > DETAIL_BYTES_MAX {
            kept.push(format!("… and {} more", details.len() - kept.len()));
            break;
        }
        kept.push(detail.to_owned());
    }
    json(&kept)
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("text is always JSON")
}

/// The beginning of `text`, at most `bytes_max` once it is encoded.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut bytes = 0;
    for (at, letter) in text.char_indices() {
        bytes += encode(letter.encode_utf8(&mut [0; 4])).len();
        if bytes > bytes_max {
            return &text[..at];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_back_as_it_was_told() {
        for kind in StatusKind::ALL {
            let details =
                ["v1: marked bad — 100 % errors, \"x\"".to_owned(), "zwei\nZeilen ".to_owned()];
            let mend = "ctl rollback --fleet prod --to v0 --reason \"ü\"";
            let told = read(&status(kind, Code::FailedPrecondition, "no way back", &details, mend));
            let what = "no way back".to_owned();
            let wanted =
                Told { kind, what, details: details.to_vec(), mend: Some(mend.to_owned()) };
            assert_eq!(told, Some(wanted));
        }
    }

    #[test]
    fn what_is_not_said_is_not_sent() {
        let status = status(StatusKind::Busy, Code::Aborted, "rb-1 has it", &[], "");
        assert_eq!(status.metadata().len(), 1);
        let told = read(&status).unwrap();
        assert_eq!((told.details, told.mend), (Vec::new(), None));
    }

    #[test]
    fn a_status_of_somebody_else_or_of_the_future_is_not_ours() {
        assert_eq!(read(&Status::unavailable("down")), None);
        let mut future = Status::aborted("no");
        future.metadata_mut().insert(KIND_KEY, "lunch-break".parse().unwrap());
        assert_eq!(read(&future), None);
    }

    #[test]
    fn many_and_long_lines_stay_below_the_limit_and_say_what_is_missing() {
        let many: Vec<String> =
            (0..5000).map(|n| format!("host-{n}: no snapshot of „app“")).collect();
        let long = ["ü".repeat(100_000)];
        for details in [&many[..], &long[..]] {
            let status = status(
                StatusKind::Refused,
                Code::FailedPrecondition,
                &"ä".repeat(9000),
                details,
                &"x".repeat(9000),
            );
            let bytes: usize = [KIND_KEY, DETAIL_KEY, MEND_KEY]
                .iter()
                .map(|key| status.metadata().get(*key).unwrap().len())
                .sum();
            assert!(bytes + encode(status.message()).len() < 10 * 1024, "{bytes}");
            assert!(!read(&status).unwrap().details.is_empty());
        }
        let status = status(StatusKind::Refused, Code::FailedPrecondition, "", &many, "");
        let told = read(&status).unwrap().details;
        assert_eq!(told.last().unwrap(), &format!("… and {} more", many.len() - (told.len() - 1)));
    }
}
