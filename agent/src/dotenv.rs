//! Reads env files (`.env.production`): which keys are there, which have a value, which differ between two of them.
//!
//! ```text
//! bytes --parse--> EnvFile (key → value that is never shown; odd lines, counted) --lacking--> required keys without a value
//!                                                                             \--changes--> names of keys, never values
//! ```
//!
//! Understood: `KEY=value`, `export KEY=value`, `#` comments, CRLF, values in `"…"`, `'…'` or backquotes over several
//! lines, and a PEM block that was pasted without quotes. Where a key is given twice the last one counts, as it does
//! for those who read such files.
//!
//! Invariant: pure. No value, and no line that is not understood, leaves this module, not even through `Debug`.

use std::{collections::BTreeMap, fmt};

/// Longer than any name of a variable. A longer word before a `=` may be a piece of a key or of a certificate.
const KEY_CHARS_MAX: usize = 64;
/// How many keys are named before the rest is counted.
const KEYS_NAMED: usize = 20;

/// What an env file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EnvFile {
    values: BTreeMap<String, Value>,
    odd_lines: usize,
}

/// A value. Its only use is to be compared, or handed to who needs it.
#[derive(PartialEq, Eq)]
struct Value(String);

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(empty)" } else { "(hidden)" })
    }
}

impl EnvFile {
    /// Reads a file. It never fails: what is not understood is counted.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut file = Self::default();
        let mut rest = text.trim_start_matches('\u{feff}');
        while !rest.is_empty() {
            rest = file.line(rest);
        }
        file
    }

    /// The value of a key, for whoever needs it and shows it to nobody; `None` where it is missing or empty.
    pub(crate) fn secret(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|value| value.0.as_str()).filter(|value| !value.is_empty())
    }

    /// Those of `required` that are missing, or there without a value: in words.
    pub(crate) fn lacking(&self, required: &[String]) -> Vec<String> {
        let lacks = |key: &String| match self.values.get(key) {
            None => Some(format!("{key} is missing")),
            Some(value) if value.0.is_empty() => Some(format!("{key} has no value")),
            Some(_) => None,
        };
        required.iter().filter_map(lacks).collect()
    }

    /// What changes for the app when `to` takes the place of this file, by the names of keys; none where nothing does.
    pub(crate) fn changes(&self, to: &Self) -> Option<String> {
        let names = |keep: &dyn Fn(&str) -> bool, of: &Self| -> Vec<String> {
            of.values.keys().filter(|key| keep(key)).cloned().collect()
        };
        let back = names(&|key| !self.values.contains_key(key), to);
        let gone = names(&|key| !to.values.contains_key(key), self);
        let other = names(
            &|key| self.values.get(key).is_some_and(|value| to.values.get(key) != Some(value)),
            to,
        );
        let mut words: Vec<String> = [
            (back, "key comes back", "keys come back"),
            (other, "value changes", "values change"),
            (gone, "goes", "go"),
        ]
        .into_iter()
        .filter(|(keys, _, _)| !keys.is_empty())
        .map(|(keys, one, many)| {
            let what = if keys.len() == 1 { one } else { many };
            format!("{} {what} ({})", keys.len(), named(&keys))
        })
        .collect();
        if to.odd_lines > 0 {
            let lines = if to.odd_lines == 1 { "line" } else { "lines" };
            words.push(format!("{} {lines} of it not understood", to.odd_lines));
        }
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// Takes one entry off the front of `rest`, which is not empty; returns what comes after it.
    fn line<'t>(&mut self, rest: &'t str) -> &'t str {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            return after;
        }
        let Some((key, value)) = key_of(trimmed) else {
            self.odd_lines += 1;
            return after;
        };
        let Some(quote) = value.chars().next().filter(|first| "\"'`".contains(*first)) else {
            self.set(key, without_comment(value));
            return self.pem(value, after);
        };
        // From here on in the whole text: the closing quote may stand lines below.
        let from = rest.find(value).map_or("", |at| &rest[at + quote.len_utf8()..]);
        let Some((inside, behind)) = closing(from, quote) else {
            // Never closed: a value that merely begins with a quote.
            self.odd_lines += 1;
            self.set(key, value);
            return after;
        };
        self.set(key, inside);
        let (tail, after) = behind.split_once('\n').unwrap_or((behind, ""));
        let tail = tail.trim();
        if !tail.is_empty() && !tail.starts_with('#') {
            self.odd_lines += 1;
        }
        after
    }

    /// Passes over the lines of a PEM block that began in an unquoted value: they are neither keys nor to be named.
    fn pem<'t>(&mut self, value: &str, after: &'t str) -> &'t str {
        if !value.contains("-----BEGIN ") || value.contains("-----END ") {
            return after;
        }
        let mut rest = after;
        while !rest.is_empty() {
            let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
            self.odd_lines += 1;
            rest = after;
            if line.contains("-----END ") {
                break;
            }
        }
        rest
    }

    fn set(&mut self, key: &str, value: &str) {
        self.values.insert(key.to_owned(), Value(value.replace("\r\n", "\n").trim().to_owned()));
    }
}

/// Keys as they may be shown.
pub(crate) fn named(keys: &[String]) -> String {
    let mut text = keys.iter().take(KEYS_NAMED).cloned().collect::<Vec<_>>().join(", ");
    if keys.len() > KEYS_NAMED {
        text.push_str(&format!(" and {} more", keys.len() - KEYS_NAMED));
    }
    text
}

/// The key of a trimmed line, and what stands behind its `=`.
fn key_of(line: &str) -> Option<(&str, &str)> {
    let exported = line.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t']));
    let (key, value) = exported.unwrap_or(line).split_once('=')?;
    let key = key.trim();
    let begins = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    (begins && plain && key.len() <= KEY_CHARS_MAX).then(|| (key, value.trim_start()))
}

/// An unquoted value without the comment behind it.
fn without_comment(value: &str) -> &str {
    let comment = value.char_indices().find(|(at, c)| {
        *c == '#' && value[..*at].chars().next_back().is_none_or(char::is_whitespace)
    });
    comment.map_or(value, |(at, _)| &value[..at])
}

/// What stands before the closing quote, and what behind it. Only `"` knows an escaped quote.
fn closing(text: &str, quote: char) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' && quote == '"' {
            escaped = true;
        } else if c == quote {
            return Some((&text[..at], &text[at + c.len_utf8()..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> EnvFile {
        EnvFile::parse(text.as_bytes())
    }

    #[test]
    fn the_ways_of_writing_a_value() {
        let file = parse(concat!(
            "\u{feff}# the database\r\n\r\n",
            "PLAIN=one\r\n",
            "export EXPORTED = two # a comment\n",
            "HASH=a#b\n",
            "DOUBLE=\"three # no comment\" # one\n",
            "SINGLE='it''s'\n",
            "ESCAPED=\"a \\\" b\"\n",
            "MANY=\"first\nNOT_A_KEY=second\r\nthird\"\n",
            "BACK=`four`\n",
            "  INDENTED=five  \n",
            "TWICE=old\nTWICE=new\n",
            "EMPTY=\nQUOTED_EMPTY=\"\"\nONLY_COMMENT= # nothing\n",
            "LAST=no newline",
        ));
        let table = [
            ("PLAIN", Some("one")),
            ("EXPORTED", Some("two")),
            ("HASH", Some("a#b")),
            ("DOUBLE", Some("three # no comment")),
            ("SINGLE", Some("it")),
            ("ESCAPED", Some("a \\\" b")),
            ("MANY", Some("first\nNOT_A_KEY=second\nthird")),
            ("BACK", Some("four")),
            ("INDENTED", Some("five")),
            ("TWICE", Some("new")),
            ("EMPTY", None),
            ("QUOTED_EMPTY", None),
            ("ONLY_COMMENT", None),
            ("LAST", Some("no newline")),
            ("NOT_A_KEY", None),
        ];
        for (key, value) in table {
            assert_eq!(file.secret(key), value, "{key}");
        }
        assert!(!file.values.contains_key("NOT_A_KEY"));
        assert_eq!(file.odd_lines, 1, "what stands behind a closing quote");
    }

    #[test]
    fn odd_lines_are_counted_and_their_neighbours_still_read() {
        let file = parse("A=1\nnot a line\n=x\n1B=x\nmy key=x\nC=\"never closed\nD=2\n");
        assert_eq!((file.odd_lines, file.secret("A"), file.secret("D")), (5, Some("1"), Some("2")));
    }

    #[test]
    fn p11_pieces_of_a_pasted_key_are_no_keys() {
        let long = "A".repeat(70);
        let text = format!(
            "KEY=-----BEGIN PRIVATE KEY-----\nhunter2x=\nAbC=\n-----END PRIVATE KEY-----\n{long}=\nB=1\n"
        );
        let file = parse(&text);
        assert_eq!(file.values.keys().collect::<Vec<_>>(), ["B", "KEY"]);
        assert_eq!(file.odd_lines, 4);
    }

    #[test]
    fn required_keys_need_a_value() {
        let required = ["A", "B", "C"].map(str::to_owned);
        assert_eq!(parse("A=1\nB=\n").lacking(&required), ["B has no value", "C is missing"]);
        assert!(parse("A=1\nB=2\nC=3\n").lacking(&required).is_empty());
    }

    #[test]
    fn p11_changes_are_told_by_the_names_of_keys() {
        let live = parse("A=hunter2\nB=hunter2\nC=hunter2\nSAME=hunter2\n");
        let target = parse("A=hunter3\nB=hunter3\nJWT_SECRET=hunter4\nSAME=hunter2\nhunter5\n");
        let words = live.changes(&target).unwrap();
        assert_eq!(
            words,
            "1 key comes back (JWT_SECRET), 2 values change (A, B), 1 goes (C), 1 line of it not understood"
        );
        assert_eq!(live.changes(&live), None);
        assert!(!format!("{live:?} {target:?} {words}").contains("hunter"));
        let many: String = (0..30).map(|n| format!("K{n:02}=1\n")).collect();
        assert!(parse("").changes(&parse(&many)).unwrap().ends_with("K19 and 10 more)"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in any::<Vec<u8>>()) {
            EnvFile::parse(&bytes);
        }

        #[test]
        fn text_of_the_right_signs_is_read_without_a_panic(text in "[A-Z=\"'`#\\\\ \r\né-]{0,60}") {
            parse(&text);
        }

        #[test]
        fn what_is_written_in_quotes_is_read_back(value in "[a-z #=\n]{1,20}") {
            let file = parse(&format!("A='{value}'\nB=1"));
            prop_assert_eq!(file.secret("A").unwrap_or_default(), value.trim());
            prop_assert_eq!(file.secret("B"), Some("1"));
        }
    }
}
