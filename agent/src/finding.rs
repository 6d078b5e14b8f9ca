//! One thing that was looked at on this host: good, or bad with why and what mends it.
//!
//! Invariant: a bad one always carries a mend.

use std::fmt;

/// What is told where an error names no mend of its own.
const LOOK_AGAIN: &str = "see why, and run `agent check` again";
/// Between a problem and its mend, in every text of ours.
const MEND: &str = "; mend: ";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at: `tree /var/www/ace-crm`.
    pub what: String,
    pub bad: Option<Bad>,
}

/// What is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    pub why: String,
    pub mend: String,
}

impl Finding {
    pub fn ok(what: impl Into<String>) -> Self {
        Self { what: what.into(), bad: None }
    }

    pub fn bad(what: impl Into<String>, why: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), bad: Some(Bad { why: why.into(), mend: mend.into() }) }
    }

    /// A bad one of an error's words: `why; mend: how`, or `why; how`.
    pub fn of_words(what: impl Into<String>, words: &str) -> Self {
        let halves = words.split_once(MEND).or_else(|| words.rsplit_once("; "));
        let (why, mend) = halves.unwrap_or((words, LOOK_AGAIN));
        Self::bad(what, why, mend)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.bad {
            None => write!(f, "ok   {}", self.what),
            Some(Bad { why, mend }) => write!(f, "bad  {}: {why}{MEND}{mend}", self.what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_one_says_why_and_what_mends_it() {
        assert_eq!(Finding::ok("tree /srv/app").to_string(), "ok   tree /srv/app");
        for (words, shown) in [
            ("it is a; b; mend: do; that", "bad  x: it is a; b; mend: do; that"),
            ("it is a; b; do that", "bad  x: it is a; b; mend: do that"),
            ("it broke", "bad  x: it broke; mend: see why, and run `agent check` again"),
        ] {
            assert_eq!(Finding::of_words("x", words).to_string(), shown);
        }
    }
}
