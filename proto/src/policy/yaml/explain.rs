//! The YAML reader's errors in words that name the mend.
//!
//! Invariant: messages of our own types, which have the form `what; mend`, are taken apart, never shown as they are.

use serde_saphyr::{Error, Location, MessageFormatter as _};

use super::{Document, Problem, mend_word, problem};

/// What the YAML reader found, in words that name the mend.
///
/// Messages of our own types have the form `what; mend`.
pub(super) fn explain(error: &Error) -> Problem {
    let error = error.without_snippet();
    let at = error.location().unwrap_or(Location::UNKNOWN);
    if let Error::AliasError { error, .. } = error {
        let Problem { what, mend, .. } = explain(error);
        return problem(at, what, mend);
    }
    if let Error::Message { msg, .. } = error
        && let Some((what, mend)) = msg.rsplit_once("; ")
    {
        return problem(at, what, mend);
    }
    if let Error::SerdeUnknownField { field, expected, .. } = error {
        return problem(
            at,
            format!("unknown key `{field}`"),
            mend_word(field, expected.iter().copied()),
        );
    }
    if let Error::SerdeUnknownVariant { variant, expected, .. } = error {
        return problem(
            at,
            format!("`{variant}` is not known here"),
            mend_word(variant, expected.iter().copied()),
        );
    }
    if let Error::SerdeMissingField { field, .. } = error {
        return problem(at, format!("`{field}` is missing"), format!("add `{field}: …` here"));
    }
    if let Error::DuplicateMappingKey { key, .. } = error {
        let key = key.as_deref().unwrap_or("…");
        return problem(at, format!("key `{key}` is given twice"), "keep one of the two");
    }
    if let Error::InvalidBooleanStrict { .. } = error {
        return problem(at, "this is not a boolean", "write `true` or `false`");
    }
    if let Error::InvalidScalar { ty, .. } = error {
        let kind = if ty.starts_with('f') { "number" } else { "whole number of the allowed size" };
        return problem(
            at,
            format!("this is not a {kind}"),
            "write a number without quotes, such as `5`",
        );
    }
    if let Error::MergeKeyNotAllowed { .. } = error {
        return problem(at, "merge keys (`<<`) are not read here", "write the keys out");
    }
    if let Error::UnsupportedTag { tag, .. } = error {
        return problem(at, format!("tag `{tag}` is not read here"), "leave the tag out");
    }
    if let Error::Eof { .. } = error {
        return problem(
            at,
            "the file is empty or ends too early",
            "begin the file with `version: 1`",
        );
    }
    if let Error::MultipleDocuments { .. } = error {
        return problem(
            at,
            "a second document begins here",
            "keep one document per file and take the `---` out",
        );
    }
    if let Error::NullIntoString { .. } = error {
        return problem(at, "there is no value here", "write the value, or leave the key out");
    }
    let what = serde_saphyr::UserMessageFormatter.format_message(error).into_owned();
    if let Error::Unexpected { expected, .. } = error {
        return problem(at, kind_expected(expected), mend_kind(expected));
    }
    let mend = if what.contains("tab") {
        "use spaces"
    } else {
        "check indentation, brackets and quotes here and above"
    };
    problem(at, what, mend)
}

/// As [`explain`]. The reader says of a missing key where the last key stands that is there; the map's beginning says more.
pub(super) fn explain_in(error: &Error, document: &Document) -> Problem {
    let problem = explain(error);
    let missing = matches!(error.without_snippet(), Error::SerdeMissingField { .. });
    let map = error
        .location()
        .filter(|_| missing)
        .and_then(|last_key| document.at().map_with_key_at(last_key));
    map.map_or(problem.clone(), |map| map.problem(problem.what, problem.mend))
}

fn kind_expected(expected: &str) -> String {
    match expected {
        "sequence start" => "a list is expected here".to_owned(),
        "mapping start" => "a map of keys and values is expected here".to_owned(),
        "string scalar" => "a plain text is expected here".to_owned(),
        other => format!("{other} is expected here"),
    }
}

fn mend_kind(expected: &str) -> &'static str {
    match expected {
        "sequence start" => "write it as `[a, b]`, or as lines that begin with `- `",
        "mapping start" => "write it as `{ key: value }`, or as indented lines `key: value`",
        "string scalar" => "write one value, in quotes if it has special characters",
        _ => "check indentation, brackets and quotes here and above",
    }
}
