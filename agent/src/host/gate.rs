//! The schema gate: can the database that a release would find be the one that it knows?
//!
//! ```text
//! facts: applied when it was recorded ─┐
//! database: applied now ───────────────┴─judge─▶ Fits, Crosses (which), CannotTell (why) ─admit─▶ words, or a refusal
//! ```
//!
//! Asked by preflight, before anything stops. The database is found as the release itself would find it: by the URL in
//! its own env file. One whose password has changed since could not log in either.
//!
//! Invariant: what cannot be told does not pass; only a person's order (`across_migrations`) goes past it.
//! Invariant: the URL is read, used and dropped: it is in no word, no fact and no log.

use std::sync::Arc;

use proto::policy::MigrationsPolicy;

use super::env::{self, At};
use crate::{
    dotenv::named,
    http,
    postgres::{self, Unreadable},
    store::{ComponentFiles, Store},
};

/// More than a URL can be.
const URL_BYTES_MAX: usize = 8 * 1024;

/// How what is applied now compares with what a release was recorded with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing was applied since but what an older release can live with: these.
    Fits(Vec<String>),
    Crosses {
        /// Applied since, and not declared backward-safe.
        since: Vec<String>,
        /// The release was recorded with them; the database no longer has them.
        gone: Vec<String>,
    },
    CannotTell(String),
}

/// Compares. `recorded` and `now` are either known, or why they are not.
pub(super) fn judge(
    recorded: Result<&[String], String>,
    now: Result<&[String], String>,
    backward_safe: &[String],
) -> Verdict {
    let (recorded, now) = match (recorded, now) {
        (Ok(recorded), Ok(now)) => (recorded, now),
        (Err(why), Ok(_)) | (Ok(_), Err(why)) => return Verdict::CannotTell(why),
        (Err(why), Err(also)) => return Verdict::CannotTell(format!("{why}; {also}")),
    };
    let missing_in = |names: &[String], of: &[String]| -> Vec<String> {
        of.iter().filter(|name| !names.contains(name)).cloned().collect()
    };
    let is_safe = |name: &String| backward_safe.iter().any(|pattern| matches(pattern, name));
    let (safe, since): (Vec<_>, Vec<_>) =
        missing_in(recorded, now).into_iter().partition(|name| is_safe(name));
    let gone = missing_in(now, recorded);
    if since.is_empty() && gone.is_empty() {
        return Verdict::Fits(safe);
    }
    Verdict::Crosses { since, gone }
}

impl Verdict {
    /// The words of a preflight that goes on, or why it does not.
    pub(super) fn admit(self, across_migrations: bool) -> Result<String, String> {
        let (what, mend) = match self {
            Self::Fits(safe) if safe.is_empty() => {
                return Ok("database: no migration since".to_owned());
            }
            Self::Fits(safe) => {
                return Ok(format!("database: backward-safe since: {}", named(&safe)));
            }
            Self::Crosses { since, gone } => {
                let mut what = Vec::new();
                if !since.is_empty() {
                    what.push(format!(
                        "migrations were applied since this release was recorded that are not declared \
                         backward-safe: {}",
                        named(&since)
                    ));
                }
                if !gone.is_empty() {
                    what.push(format!("the database no longer has {}", named(&gone)));
                }
                (what.join("; "), "roll the database back first")
            }
            Self::CannotTell(why) => (
                format!("whether the database fits this release cannot be told: {why}"),
                "mend that",
            ),
        };
        if across_migrations {
            return Ok(format!("goes on by order (--across-migrations) although {what}"));
        }
        Err(format!(
            "{what}; nothing was stopped; {mend}, or go back all the same with --across-migrations"
        ))
    }
}

/// What is applied in the database that the files at `at` lead to, or why it cannot be told.
pub(super) async fn applied(
    migrations: &MigrationsPolicy,
    store: &Arc<Store>,
    files: &Arc<ComponentFiles>,
    at: At,
) -> Result<Vec<String>, String> {
    let url = url(migrations, store, files, at).await?;
    let applied = postgres::applied(&url, &migrations.table, &migrations.column).await;
    applied.map_err(|error: Unreadable| error.to_string())
}

/// The database's URL, from its own file or from an env file. To be shown to nobody.
pub(super) async fn url(
    migrations: &MigrationsPolicy,
    store: &Arc<Store>,
    files: &Arc<ComponentFiles>,
    at: At,
) -> Result<String, String> {
    let Some(file) = &migrations.url_file else {
        let key = migrations.url_key.clone();
        let found = super::blocking::stored(store, files, move |store, files| {
            env::secret(store, files, at, &key)
        });
        return found.await?.ok_or_else(|| {
            format!("no `secret` env file of it has a value for {}", migrations.url_key)
        });
    };
    let read = tokio::fs::read_to_string(file).await;
    let text =
        read.map_err(|error| format!("url_file {}: {}", file.display(), http::words(&error)))?;
    match text.trim() {
        url if url.is_empty() || url.len() > URL_BYTES_MAX => {
            Err(format!("url_file {} holds no URL", file.display()))
        }
        url => Ok(url.to_owned()),
    }
}

/// Whether a name is as a pattern says: `*` stands for any signs, `?` for one.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last `*` stood, and how much it stands for so far.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(sign) if *sign == '?' || *sign == name[n] => (p, n) = (p + 1, n + 1),
            Some(_) | None => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|sign| *sign == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn judged(recorded: &[&str], now: &[&str], safe: &[&str]) -> Verdict {
        judge(Ok(&list(recorded)), Ok(&list(now)), &list(safe))
    }

    #[test]
    fn what_was_applied_since_must_be_declared_backward_safe() {
        assert_eq!(judged(&["0001_a"], &["0001_a"], &[]), Verdict::Fits(Vec::new()));
        assert_eq!(
            judged(&["0001_a"], &["0001_a", "0002_b"], &["0002_*"]),
            Verdict::Fits(list(&["0002_b"]))
        );
        let crosses = judged(&["0001_a", "0002_b"], &["0001_a", "0003_c", "0004_d"], &["0004_*"]);
        let (since, gone) = (list(&["0003_c"]), list(&["0002_b"]));
        assert_eq!(crosses, Verdict::Crosses { since, gone });
    }

    #[test]
    fn p05_a_refusal_names_each_and_what_to_do() {
        let refused = judged(&["0001_a"], &["0001_a", "0002_drop", "0003_c"], &["0003_*"]);
        assert_eq!(
            refused.clone().admit(false).unwrap_err(),
            "migrations were applied since this release was recorded that are not declared backward-safe: 0002_drop; \
             nothing was stopped; roll the database back first, or go back all the same with --across-migrations"
        );
        let told = refused.admit(true).unwrap();
        assert!(told.contains("by order") && told.contains("0002_drop"), "{told}");
        let gone = judged(&["0001_a"], &[], &["*"]).admit(false).unwrap_err();
        assert!(gone.starts_with("the database no longer has 0001_a; nothing"), "{gone}");
    }

    #[test]
    fn p03_what_cannot_be_told_does_not_pass() {
        let (known, why) = (list(&["0001"]), |what: &str| Err(what.to_owned()));
        for (recorded, now, words) in [
            (why("no list"), Ok(known.as_slice()), "told: no list; nothing"),
            (Ok(known.as_slice()), why("no answer"), "told: no answer; nothing"),
            (why("no list"), why("no answer"), "told: no list; no answer; nothing"),
        ] {
            let verdict = judge(recorded, now, &list(&["*"]));
            let refused = verdict.clone().admit(false).unwrap_err();
            assert!(refused.contains(words), "{refused}");
            assert!(verdict.admit(true).unwrap().contains("by order"));
        }
    }

    #[test]
    fn patterns() {
        for (pattern, name) in
            [("0001_*", "0001_init"), ("*", ""), ("*_safe", "0007_safe"), ("00?1*x*z", "0001axyz")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("0001_*", "0011_init"),
            ("", "a"),
            ("?", ""),
            ("*_safe", "0007_safely"),
            ("a*b", "ab c"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
