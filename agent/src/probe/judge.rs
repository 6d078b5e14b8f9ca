//! Judges one answer: is it what the check expects?
//!
//! Invariant: pure. What was not asked for is not looked at.
//! Invariant: what the app sent is quoted only short, and only with every secret that it was sent taken out first.

use std::collections::{BTreeMap, BTreeSet};

use proto::policy::HttpExpect;
use serde_json::Value;

use super::Seen;
use crate::{http::Answer, sampler::Gauge};

/// How much of a value that an app sent is quoted.
pub(super) const QUOTED_CHARS: usize = 120;

/// Gauges of one answer: a policy with more bounds tells the first.
const GAUGES_MAX: usize = 16;
/// Of a JSON pointer that is told.
const POINTER_BYTES_MAX: usize = 128;

/// An answer and what is needed to speak of it.
pub(super) struct Judge<'a> {
    /// `GET http://127.0.0.1/health`.
    pub(super) what: &'a str,
    pub(super) answer: &'a Answer,
    pub(super) expect: &'a HttpExpect,
    pub(super) wanted_version: Option<&'a str>,
    /// What the app was sent and nobody else may see; longer ones first, should one be part of another.
    pub(super) secrets: &'a [String],
    /// The answer's, where it is JSON.
    pub(super) body: Option<Value>,
}

/// What an answer says, where it is JSON.
pub(super) fn json_of(answer: &Answer) -> Option<Value> {
    serde_json::from_slice(&answer.body).ok()
}

impl Judge<'_> {
    pub(super) fn judge(&self) -> Seen {
        let body = self.body.as_ref();
        let at = |pointer: &String| body.and_then(|body| body.pointer(pointer));
        let version = self.expect.version_at.as_ref().and_then(at).and_then(text_of);
        let said = format!("{} → {}", self.what, self.answer.status);
        let verdict = self
            .status_and_speed()
            .and_then(|()| self.json(body))
            .and_then(|()| self.bounds(body))
            .and_then(|()| self.version(version.as_deref()));
        let words = |words: String| format!("{said}{words}");
        Seen {
            verdict: verdict.map(words).map_err(words),
            version: version.map(|version| self.quote_text(&version)),
            times: None,
        }
    }

    /// The numbers that stand where the check has a bound, whatever else the answer is; none that shows a secret.
    pub(super) fn gauges(&self) -> Vec<Gauge> {
        let HttpExpect { at_most, at_least, .. } = self.expect;
        let Some(body) = &self.body else { return Vec::new() };
        let pointers: BTreeSet<&String> = at_most.keys().chain(at_least.keys()).collect();
        let gauge = |pointer: &String| {
            let found = body.pointer(pointer).filter(|_| pointer.len() <= POINTER_BYTES_MAX)?;
            let shown = found.to_string();
            let value = found.as_f64().filter(|_| self.without_secrets(&shown) == shown)?;
            let bound = |bounds: &BTreeMap<String, f64>| bounds.get(pointer).copied();
            let (at_most, at_least) = (bound(at_most), bound(at_least));
            Some(Gauge { pointer: pointer.clone(), value, at_most, at_least })
        };
        pointers.into_iter().filter_map(gauge).take(GAUGES_MAX).collect()
    }

    fn status_and_speed(&self) -> Result<(), String> {
        let status = self.expect.status.unwrap_or(200);
        if self.answer.status != status {
            return Err(format!(", wanted {status}"));
        }
        match self.expect.within {
            Some(within) if self.answer.took > within.0 => {
                Err(format!(" in {}, wanted within {within}", self.took()))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn json(&self, body: Option<&Value>) -> Result<(), String> {
        let Some(body) = body else {
            let HttpExpect { json, at_most, at_least, version_at, .. } = self.expect;
            let looks = !json.is_empty() || !at_most.is_empty() || !at_least.is_empty();
            if !looks && version_at.is_none() {
                return Ok(());
            }
            let why = if self.answer.cut { "is longer than 64 KiB" } else { "is not JSON" };
            return Err(format!(", but the answer {why}"));
        };
        for (pointer, wanted) in &self.expect.json {
            match body.pointer(pointer) {
                Some(found) if found == wanted => {}
                Some(found) => {
                    return Err(format!(", `{pointer}` is {}, wanted {wanted}", self.quote(found)));
                }
                None => return Err(format!(", `{pointer}` is missing, wanted {wanted}")),
            }
        }
        Ok(())
    }

    /// Numbers that may not be too large or too small. What is no number has not passed.
    fn bounds(&self, body: Option<&Value>) -> Result<(), String> {
        type Breaks = fn(&f64, &f64) -> bool;
        let lists: [(_, _, Breaks); 2] = [
            (&self.expect.at_most, "at most", |found, bound| found > bound),
            (&self.expect.at_least, "at least", |found, bound| found < bound),
        ];
        for (bounds, words, breaks) in lists {
            for (pointer, bound) in bounds {
                let Some(found) = body.and_then(|body| body.pointer(pointer)) else {
                    return Err(format!(", `{pointer}` is missing, wanted {words} {bound}"));
                };
                let shown = self.quote(found);
                match found.as_f64() {
                    Some(number) if breaks(&number, bound) => {
                        return Err(format!(", `{pointer}` is {shown}, wanted {words} {bound}"));
                    }
                    Some(_) => {}
                    None => {
                        return Err(format!(
                            ", `{pointer}` is {shown}, not a number; wanted {words} {bound}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    fn version(&self, version: Option<&str>) -> Result<String, String> {
        match (&self.expect.version_at, version, self.wanted_version) {
            (None, _, _) => Ok(format!(" in {}", self.took())),
            (Some(pointer), None, _) => Err(format!(", but there is no version at `{pointer}`")),
            (Some(_), Some(version), Some(wanted)) if version != wanted => {
                Err(format!(", version is {}, wanted {wanted}", self.quote_text(version)))
            }
            (Some(_), Some(version), _) => {
                Ok(format!(" in {}, version is {}", self.took(), self.quote_text(version)))
            }
        }
    }

    fn took(&self) -> String {
        format!("{} ms", self.answer.took.as_millis())
    }

    fn quote(&self, value: &Value) -> String {
        let mut value = value.clone();
        self.hide_secrets(&mut value);
        cut(&value.to_string())
    }

    fn quote_text(&self, text: &str) -> String {
        cut(&self.without_secrets(text))
    }

    /// In the value, not in its text: JSON may write the same string in several ways.
    fn hide_secrets(&self, value: &mut Value) {
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::Number(number) => {
                let shown = number.to_string();
                let hidden = self.without_secrets(&shown);
                if hidden != shown {
                    *value = Value::String(hidden);
                }
            }
            Value::String(text) => *text = self.without_secrets(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.hide_secrets(item)),
            Value::Object(entries) => {
                let hidden = std::mem::take(entries).into_iter().map(|(key, mut value)| {
                    self.hide_secrets(&mut value);
                    (self.without_secrets(&key), value)
                });
                *entries = hidden.collect();
            }
        }
    }

    fn without_secrets(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets {
            text = text.replace(secret.as_str(), "(hidden)");
        }
        text
    }
}

/// A version as text. A number is one too; anything else is none.
fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| value.is_number().then(|| value.to_string()))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
