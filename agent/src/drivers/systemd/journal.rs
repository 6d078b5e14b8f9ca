//! What a unit wrote: its lines in the journal.
//!
//! Invariant: bounded in time and size; a host without a journal has no lines, and no error.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::exec::{self, Spec, last_lines};

const JOURNALCTL: &str = "/usr/bin/journalctl";
/// A journal on a slow disk must not hold up the report of a failure.
const READ_WITHIN: Duration = Duration::from_secs(3);
/// For the journal to take what was just written to it.
const SYNC_WITHIN: Duration = Duration::from_secs(1);
/// How often it is asked whether it has heard of an end.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// The last `count` lines of a unit, by itself or of it, since `begun_unix_us`. With what is said of a main process that
/// `ended_unix_us`, where that is not 0.
///
/// Not by the id of its run: of a process that ended at once, the journal knows the unit and no longer the run.
pub(super) async fn lines(
    unit: &str,
    begun_unix_us: u64,
    ended_unix_us: u64,
    count: usize,
) -> Vec<String> {
    if count == 0 {
        return Vec::new();
    }
    let deadline = Instant::now() + SYNC_WITHIN;
    // A service's last words are often on their way when its end is known. A busy journal says that it is in step before
    // it has read them: what systemd says of the end comes after them.
    drop(exec::run(&Spec::new([JOURNALCTL, "--sync"]), SYNC_WITHIN).await);
    while ended_unix_us > 0
        && read(arguments(unit, ended_unix_us, 1), 1).await.is_empty()
        && Instant::now() < deadline
    {
        sleep(ASK_EVERY).await;
    }
    // A line of the same moment belongs to it.
    read(arguments(unit, begun_unix_us / 1_000_000 * 1_000_000, count), count).await
}

async fn read(arguments: Vec<String>, count: usize) -> Vec<String> {
    match exec::run(&Spec::new(arguments), READ_WITHIN).await {
        Ok(output) if output.status.success() => last_lines(&output.stdout, count),
        Ok(_) | Err(_) => Vec::new(),
    }
}

fn arguments(unit: &str, since_unix_us: u64, count: usize) -> Vec<String> {
    let (seconds, us) = (since_unix_us / 1_000_000, since_unix_us % 1_000_000);
    let unit = format!("--unit={unit}");
    let (lines, since) = (format!("--lines={count}"), format!("--since=@{seconds}.{us:06}"));
    let fixed = [JOURNALCTL, "--quiet", "--no-pager", "--output=cat"].map(str::to_owned);
    fixed.into_iter().chain([unit, lines, since]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_run_is_asked_for() {
        let arguments = arguments("app.service", 1_763_800_000_900_000, 5);
        let wanted = ["--unit=app.service", "--lines=5", "--since=@1763800000.900000"];
        assert_eq!(arguments[4..], wanted);
    }
}
