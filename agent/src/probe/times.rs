//! How long the requests of one try took, and how that compares with when the release was good.
//!
//! Invariant: pure. Differences below [`NOISE`] never fail a check: on a quiet host they are all there is.

use std::time::Duration;

use proto::policy::HttpExpect;
use serde::{Deserialize, Serialize};

/// How much slower than its baseline an answer may always be: what a scheduler, a cold cache or a neighbour costs.
pub const NOISE: Duration = Duration::from_millis(5);

/// Answer times of the requests of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    pub average_us: u64,
    /// The nearest rank: of 20 requests the 19th fastest, of 1 that one.
    pub p95_us: u64,
}

impl Times {
    /// `None` of no requests.
    pub(super) fn of(mut each: Vec<Duration>) -> Option<Self> {
        each.sort_unstable();
        let count = u32::try_from(each.len()).ok()?;
        let average = each.iter().sum::<Duration>().checked_div(count)?;
        let rank = (each.len() * 95).div_ceil(100);
        Some(Self { average_us: micros(average), p95_us: micros(*each.get(rank.checked_sub(1)?)?) })
    }

    /// Whether they are as expected. Where there is no baseline, there is nothing to compare with.
    pub(super) fn judge(self, expect: &HttpExpect, baseline: Option<Self>) -> Result<(), String> {
        let bounds = [
            ("average", self.average_us, expect.average_within),
            ("p95", self.p95_us, expect.p95_within),
        ];
        for (name, us, within) in bounds {
            if let Some(within) = within
                && us > micros(within.0)
            {
                return Err(format!("the {name} is {}, wanted within {within}", shown(us)));
            }
        }
        let Some(good) = baseline else { return Ok(()) };
        let factors = [
            ("average", self.average_us, good.average_us, expect.average_over_baseline),
            ("p95", self.p95_us, good.p95_us, expect.p95_over_baseline),
        ];
        for (name, us, good_us, factor) in factors {
            if let Some(factor) = factor
                && is_slower(us, good_us, factor)
            {
                return Err(format!(
                    "the {name} is {}, it was {} while the release was good; wanted at most {factor} times that",
                    shown(us),
                    shown(good_us)
                ));
            }
        }
        Ok(())
    }

    /// `average 3.2 ms, p95 12 ms`.
    pub fn words(self) -> String {
        format!("average {}, p95 {}", shown(self.average_us), shown(self.p95_us))
    }
}

/// Whether a check compares with what was recorded.
pub fn compares(expect: &HttpExpect) -> bool {
    expect.average_over_baseline.is_some() || expect.p95_over_baseline.is_some()
}

fn is_slower(us: u64, good_us: u64, factor: f64) -> bool {
    let allowed = Duration::from_micros(good_us).as_secs_f64() * factor;
    let measured = Duration::from_micros(us);
    measured.as_secs_f64() > allowed && measured > Duration::from_micros(good_us) + NOISE
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn shown(us: u64) -> String {
    let (ms, tenth) = (us / 1000, us % 1000 / 100);
    if ms < 10 { format!("{ms}.{tenth} ms") } else { format!("{ms} ms") }
}

#[cfg(test)]
mod tests {
    use proto::span::Span;

    use super::*;

    fn ms(each: impl IntoIterator<Item = u64>) -> Times {
        Times::of(each.into_iter().map(Duration::from_millis).collect()).unwrap()
    }

    #[test]
    fn average_and_p95_of_a_try() {
        assert_eq!(Times::of(Vec::new()), None);
        assert_eq!(ms([7]), Times { average_us: 7_000, p95_us: 7_000 });
        assert_eq!(ms((1..=20).rev()), Times { average_us: 10_500, p95_us: 19_000 });
        assert_eq!(ms((1..=100).rev()).p95_us, 95_000);
        assert_eq!(ms([1, 2]).words(), "average 1.5 ms, p95 2.0 ms");
    }

    #[test]
    fn bounds_are_kept() {
        let expect = |average, p95| HttpExpect {
            average_within: Some(Span(Duration::from_millis(average))),
            p95_within: Some(Span(Duration::from_millis(p95))),
            ..HttpExpect::default()
        };
        let times = ms([10, 10, 40]);
        assert_eq!(times.judge(&expect(20, 40), None), Ok(()));
        assert!(times.judge(&expect(19, 40), None).unwrap_err().contains("the average is 20 ms"));
        assert!(times.judge(&expect(20, 39), None).unwrap_err().contains("the p95 is 40 ms"));
    }

    #[test]
    fn a_factor_is_of_what_was_recorded_and_noise_never_counts() {
        let expect = HttpExpect {
            average_over_baseline: Some(1.5),
            p95_over_baseline: Some(2.0),
            ..HttpExpect::default()
        };
        let judge = |now, good| ms([now]).judge(&expect, Some(ms([good])));
        assert_eq!(ms([900]).judge(&expect, None), Ok(()), "nothing to compare with");
        assert_eq!(judge(150, 100), Ok(()));
        assert_eq!(
            judge(151, 100).unwrap_err(),
            "the average is 151 ms, it was 100 ms while the release was good; wanted at most 1.5 times that"
        );
        // Six times as slow, and still nothing that anybody would notice.
        assert_eq!(judge(6, 1), Ok(()));
        assert!(judge(7, 1).is_err());
        let p95 = HttpExpect { p95_over_baseline: Some(2.0), ..HttpExpect::default() };
        assert!(ms([21]).judge(&p95, Some(ms([10]))).unwrap_err().contains("the p95"));
        assert!(compares(&p95) && !compares(&HttpExpect::default()));
    }
}
