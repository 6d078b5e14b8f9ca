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
/// What systemd said of a unit: how much is read, and how much of it is told.
const SAID_LINES_READ: usize = 12;
const SAID_LINES_MAX: usize = 2;
/// How often it is asked whether it has heard of an end.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// The last `count` lines of a unit since `begun_unix_us`: its own, and what systemd said of its end. With what is said of
/// a main process that `ended_unix_us`, where that is not 0.
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
        && read(arguments(&Of::Manager(unit), ended_unix_us, 1), 1).await.is_empty()
        && Instant::now() < deadline
    {
        sleep(ASK_EVERY).await;
    }
    // A line of the same moment belongs to it.
    let since = begun_unix_us / 1_000_000 * 1_000_000;
    let said = read(arguments(&Of::Manager(unit), since, SAID_LINES_READ), SAID_LINES_READ).await;
    let said: Vec<String> = said.into_iter().filter(|line| is_of_an_end(line)).collect();
    let said = &said[said.len().saturating_sub(SAID_LINES_MAX.min(count))..];
    let own = count - said.len();
    let mut lines = read(arguments(&Of::Service(unit), since, own), own).await;
    lines.extend_from_slice(said);
    lines
}

/// Whose lines.
enum Of<'a> {
    /// The unit's own processes.
    Service(&'a str),
    /// What systemd says of the unit.
    Manager(&'a str),
}

/// What systemd says of an end is news; that it starts something, again and again, would push the service's own words out.
fn is_of_an_end(line: &str) -> bool {
    ["Started ", "Starting ", "Stopped ", "Stopping "].iter().all(|word| !line.starts_with(word))
        && !line.contains("Scheduled restart job")
        && !line.contains("Deactivated successfully")
}

async fn read(arguments: Vec<String>, count: usize) -> Vec<String> {
    if count == 0 {
        return Vec::new();
    }
    match exec::run(&Spec::new(arguments), READ_WITHIN).await {
        Ok(output) if output.status.success() => last_lines(&output.stdout, count),
        Ok(_) | Err(_) => Vec::new(),
    }
}

fn arguments(of: &Of<'_>, since_unix_us: u64, count: usize) -> Vec<String> {
    let (seconds, us) = (since_unix_us / 1_000_000, since_unix_us % 1_000_000);
    let (lines, since) = (format!("--lines={count}"), format!("--since=@{seconds}.{us:06}"));
    let fixed = [JOURNALCTL, "--quiet", "--no-pager", "--output=cat"].map(str::to_owned);
    let matches = match of {
        Of::Service(unit) => vec![format!("_SYSTEMD_UNIT={unit}")],
        Of::Manager(unit) => vec!["_PID=1".to_owned(), format!("UNIT={unit}")],
    };
    fixed.into_iter().chain([lines, since]).chain(matches).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_since_is_asked_for() {
        let service = arguments(&Of::Service("app.service"), 1_763_800_000_900_000, 5);
        let wanted = ["--lines=5", "--since=@1763800000.900000", "_SYSTEMD_UNIT=app.service"];
        assert_eq!(service[4..], wanted);
        let manager = arguments(&Of::Manager("app.service"), 1_763_800_000_000_000, 1);
        assert_eq!(manager[6..], ["_PID=1", "UNIT=app.service"]);
    }

    #[test]
    fn that_it_is_started_again_is_no_news() {
        let said = [
            "app.service: Main process exited, code=exited, status=1/FAILURE",
            "app.service: Failed with result 'exit-code'.",
            "app.service: Scheduled restart job, restart counter is at 1.",
            "Stopped app.service - The app.",
            "Started app.service - The app.",
        ];
        let news: Vec<&str> = said.into_iter().filter(|line| is_of_an_end(line)).collect();
        assert_eq!(news, said[..2]);
    }
}
