//! Figures to look at (`--nocapture`), never any to pass or fail by.

use std::time::Duration;

/// Tells how a time was spread over some runs.
#[expect(clippy::print_stderr, reason = "for the person who measures")]
pub(crate) fn tell(what: &str, times: impl IntoIterator<Item = Duration>) {
    let mut times: Vec<Duration> = times.into_iter().collect();
    times.sort();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
    let (median, p95, min, max) = (at(50), at(95), at(0), at(100));
    eprintln!(
        "{what}: median {median:.2?}, p95 {p95:.2?}, min {min:.2?}, max {max:.2?} of {}",
        times.len()
    );
}
