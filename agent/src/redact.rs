//! Hides secret values in words that leave the host: what an app's own scripts and hooks print is not ours to trust.
//!
//! ```text
//! env files, token files, URL files --Redactor::new--> values, the longest first --hide--> text with (hidden) in it
//! ```
//!
//! It takes more for a secret than a reader of env files would: each value, with and without its quotes, each line of
//! one that goes over several, and the password in a URL. A value of fewer than four characters is not hidden: `1` or
//! `on` would take every word with it. Nor is a number of up to five digits: it is a port far more often than a secret, and
//! a failed check that does not say which port helps nobody.
//!
//! Invariant: pure. No value leaves this module, not even through `Debug`.

use std::{collections::BTreeSet, fmt};

/// What stands in a value's place.
pub(crate) const HIDDEN: &str = "(hidden)";
/// A shorter value hides nothing: see the module.
const SECRET_CHARS_MIN: usize = 4;
/// A number of no more digits is no secret: see the module.
const PORT_DIGITS_MAX: usize = 5;

/// Values that may not be shown.
#[derive(Clone, Default)]
pub(crate) struct Redactor {
    /// The longest first: one may be a part of another.
    values: Vec<String>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").field("values", &self.values.len()).finish()
    }
}

impl Redactor {
    /// Of what files hold: env files, or files with one value.
    pub(crate) fn new<B: AsRef<[u8]>>(files: impl IntoIterator<Item = B>) -> Self {
        let mut values = BTreeSet::new();
        for file in files {
            let text = String::from_utf8_lossy(file.as_ref()).into_owned();
            add(&mut values, &text);
            for line in text.lines() {
                add(&mut values, line);
                if let Some((_, value)) = line.split_once('=') {
                    add(&mut values, value);
                    // With a comment behind it, too.
                    add(&mut values, value.split(" #").next().unwrap_or_default());
                }
            }
        }
        let mut values: Vec<String> = values.into_iter().collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        Self { values }
    }

    /// The text without them.
    pub(crate) fn hide(&self, text: &str) -> String {
        let mut hidden = String::with_capacity(text.len());
        let mut rest = text;
        // From left to right, so that a value that is part of `(hidden)` finds nothing there.
        'next: while let Some(first) = rest.chars().next() {
            for value in &self.values {
                if let Some(after) = rest.strip_prefix(value.as_str()) {
                    hidden.push_str(HIDDEN);
                    rest = after;
                    continue 'next;
                }
            }
            hidden.push(first);
            rest = &rest[first.len_utf8()..];
        }
        hidden
    }
}

fn add(values: &mut BTreeSet<String>, value: &str) {
    let value = value.trim();
    if value.starts_with('#') || value.chars().count() < SECRET_CHARS_MIN {
        return;
    }
    if let Some(password) = password_of(value) {
        add(values, password);
    }
    let bare = value.trim_matches(['"', '\'', '`']);
    if bare.len() < value.len() {
        add(values, bare);
    }
    if value.len() > PORT_DIGITS_MAX || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        values.insert(value.to_owned());
    }
}

/// The password in `scheme://user:password@host`.
fn password_of(value: &str) -> Option<&str> {
    let (_, rest) = value.split_once("://")?;
    let (user, _) = rest.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn p11_values_of_an_env_file_are_hidden_however_they_are_written() {
        let redactor = Redactor::new([concat!(
            "# a comment that may be shown\n",
            "JWT_SECRET=hunter2\nexport QUOTED=\"hunter three\" # why\n",
            "DATABASE_URL=postgres://crm:p4ssw0rd@db/crm\n",
            "PEM=\"-----BEGIN KEY-----\nMIIEabcdef\n-----END KEY-----\"\nDEBUG=1\n"
        )]);
        let shown = |text: &str| redactor.hide(text);
        assert_eq!(shown("token hunter2, hunter2x!"), "token (hidden), (hidden)x!");
        assert_eq!(shown("'hunter three' failed"), "'(hidden)' failed");
        assert_eq!(shown("login crm/p4ssw0rd"), "login crm/(hidden)");
        assert_eq!(shown("got postgres://crm:p4ssw0rd@db/crm"), "got (hidden)");
        assert_eq!(shown("line MIIEabcdef"), "line (hidden)");
        assert_eq!(
            shown("exit 1: a comment that may be shown"),
            "exit 1: a comment that may be shown"
        );
        assert!(!format!("{redactor:?}").contains("hunter"));
    }

    #[test]
    fn p11_the_whole_of_a_token_file_is_hidden() {
        let redactor = Redactor::new(["eyJhbGciOi.abc=\n"]);
        assert_eq!(redactor.hide("sent eyJhbGciOi.abc= twice"), "sent (hidden) twice");
    }

    #[test]
    fn a_value_like_our_own_word_does_no_harm() {
        let redactor = Redactor::new(["A=hidden\nB=(hidden)x\n"]);
        assert_eq!(redactor.hide("hidden (hidden)x (hidden)"), "(hidden) (hidden) ((hidden))");
    }

    proptest! {
        #[test]
        fn p11_no_value_survives(value in "[!-~]{8,30}", before in "[a-z ]{0,9}", after in "[a-z ]{0,9}") {
            prop_assume!(!value.starts_with('#') && !HIDDEN.contains(&value));
            let redactor = Redactor::new([format!("KEY={value}\n")]);
            let shown = redactor.hide(&format!("{before}{value}{after}"));
            prop_assert!(!shown.contains(&value));
        }
    }
}
