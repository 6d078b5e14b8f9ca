//! Whether a release on trial holds: decided from looks, without any I/O.
//!
//! ```text
//! look: passed ─┬─ time left ──▶ goes on          failed ─┬─ for less than `ready_within` ──▶ goes on
//!               └─ none left ──▶ passed the trial         ├─ for that long ──▶ back
//!                                                         └─ no time left, and three looks in a row ──▶ back
//! ```
//!
//! Invariant: a failure counts only as long as this process saw nothing but failures: time in which nobody looked, or in
//! which an operation was at work, speaks neither for nor against.
//! Invariant: what starts with the host is given `ready_within`, whatever is left of the lease.

use std::time::Duration;

/// A release does not go back for a look or two.
const LOOKS_MIN: u32 = 3;
/// The longest from one look to the next.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(5);
/// The shortest.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(250);

/// What a look saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Passed,
    /// In the host's own words.
    Failed(String),
    /// An operation is at work.
    Operation,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    GoesOn,
    /// Its time is over, and its checks pass.
    Passed,
    Back(String),
}

/// The looks at one trial by this process. Times are since any fixed moment of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Nothing that would speak against it was seen before.
    since: Duration,
    failing: Option<Failing>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Failing {
    since: Duration,
    looks: u32,
}

impl Watch {
    /// Nobody has looked yet.
    pub fn new(now: Duration) -> Self {
        Self { since: now, failing: None }
    }

    /// What follows from a look that began at `now`, with so much of the lease left.
    pub fn look(
        &mut self,
        seen: Seen,
        now: Duration,
        left: Duration,
        ready_within: Duration,
    ) -> Verdict {
        let why = match seen {
            Seen::Operation => {
                *self = Self::new(now);
                return Verdict::GoesOn;
            }
            Seen::Passed => {
                self.failing = None;
                return if left.is_zero() { Verdict::Passed } else { Verdict::GoesOn };
            }
            Seen::Failed(why) => why,
        };
        let failing = self.failing.get_or_insert(Failing { since: now, looks: 0 });
        failing.looks = failing.looks.saturating_add(1);
        let failing_for = now.saturating_sub(failing.since);
        let over = left.is_zero() && now.saturating_sub(self.since) >= ready_within;
        if failing.looks >= LOOKS_MIN && (over || failing_for >= ready_within) {
            return Verdict::Back(why);
        }
        Verdict::GoesOn
    }
}

/// From one look to the next: often enough to see a failure in time, and at the end just then.
pub fn look_every(ready_within: Duration, left: Duration) -> Duration {
    let every = (ready_within / 4).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX);
    if left.is_zero() { every } else { every.min(left) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Duration = Duration::from_secs(30);

    /// The second, what it saw, and the seconds left.
    type Look = (u64, &'static str, u64);

    /// What follows from the last look.
    fn play(watch: &mut Watch, looks: &[Look]) -> Verdict {
        let mut verdict = Verdict::GoesOn;
        for (at, word, left) in looks {
            assert_eq!(verdict, Verdict::GoesOn, "before {at}");
            let seen = match *word {
                "pass" => Seen::Passed,
                "op" => Seen::Operation,
                why => Seen::Failed(why.to_owned()),
            };
            let (now, left) = (Duration::from_secs(*at), Duration::from_secs(*left));
            verdict = watch.look(seen, now, left, READY);
        }
        verdict
    }

    #[test]
    fn a_trial_is_decided_by_its_checks() {
        let back = Verdict::Back("bad".to_owned());
        let table: [(&str, &[Look], Verdict); 10] = [
            ("it holds", &[(0, "pass", 60), (30, "pass", 30), (60, "pass", 0)], Verdict::Passed),
            (
                "one bad look is none",
                &[(0, "bad", 90), (40, "pass", 50), (45, "bad", 45)],
                Verdict::GoesOn,
            ),
            (
                "bad for long, early",
                &[(0, "bad", 90), (15, "bad", 75), (30, "bad", 60)],
                back.clone(),
            ),
            ("two looks are too few", &[(0, "bad", 90), (80, "bad", 10)], Verdict::GoesOn),
            (
                "a pass in between",
                &[
                    (0, "bad", 90),
                    (20, "pass", 70),
                    (25, "bad", 65),
                    (40, "bad", 50),
                    (50, "bad", 40),
                ],
                Verdict::GoesOn,
            ),
            (
                "bad at the end",
                &[(0, "pass", 50), (50, "bad", 0), (51, "bad", 0), (52, "bad", 0)],
                back.clone(),
            ),
            (
                "kept by the last of three looks",
                &[(0, "pass", 50), (50, "bad", 0), (51, "bad", 0), (52, "pass", 0)],
                Verdict::Passed,
            ),
            (
                "started after the end",
                &[(0, "bad", 0), (10, "bad", 0), (29, "bad", 0)],
                Verdict::GoesOn,
            ),
            ("and does not come up", &[(0, "bad", 0), (10, "bad", 0), (30, "bad", 0)], back),
            (
                "an operation",
                &[
                    (0, "bad", 9),
                    (20, "bad", 0),
                    (29, "op", 0),
                    (40, "bad", 0),
                    (50, "bad", 0),
                    (58, "bad", 0),
                ],
                Verdict::GoesOn,
            ),
        ];
        for (what, looks, wanted) in table {
            let mut watch = Watch::new(Duration::ZERO);
            assert_eq!(play(&mut watch, looks), wanted, "{what}");
        }
    }

    #[test]
    fn the_last_look_is_when_the_time_is_over() {
        let seconds = Duration::from_secs;
        assert_eq!(look_every(READY, seconds(600)), seconds(5));
        assert_eq!(look_every(READY, seconds(2)), seconds(2));
        assert_eq!(look_every(seconds(2), seconds(600)), Duration::from_millis(500));
        assert_eq!(look_every(seconds(2), Duration::ZERO), Duration::from_millis(500));
    }
}
