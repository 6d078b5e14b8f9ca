//! What a unit wrote: its lines in the journal.
//!
//! Invariant: bounded in time and size; a host without a journal has no lines, and no error.

use std::time::Duration;

use crate::exec::{self, Spec, last_lines};

const JOURNALCTL: &str = "/usr/bin/journalctl";
/// A journal on a slow disk must not hold up the report of a failure.
const READ_WITHIN: Duration = Duration::from_secs(3);
/// For the journal to take what was just written to it.
const SYNC_WITHIN: Duration = Duration::from_secs(1);

/// The last `count` lines of a unit's run `invocation`; of the unit, where it has none.
pub(super) async fn lines(unit: &str, invocation: &str, count: usize) -> Vec<String> {
    if count == 0 {
        return Vec::new();
    }
    // A service's last words are often on their way when its end is known.
    drop(exec::run(&Spec::new([JOURNALCTL, "--sync"]), SYNC_WITHIN).await);
    match exec::run(&Spec::new(arguments(unit, invocation, count)), READ_WITHIN).await {
        Ok(output) if output.status.success() => last_lines(&output.stdout, count),
        Ok(_) | Err(_) => Vec::new(),
    }
}

fn arguments(unit: &str, invocation: &str, count: usize) -> Vec<String> {
    let mut arguments: Vec<String> =
        [JOURNALCTL, "--quiet", "--no-pager", "--output=cat"].map(str::to_owned).to_vec();
    arguments.push(format!("--lines={count}"));
    if invocation.is_empty() {
        arguments.push(format!("--unit={unit}"));
    } else {
        // What it wrote itself, or what systemd wrote about it.
        arguments.push(format!("_SYSTEMD_INVOCATION_ID={invocation}"));
        arguments.push("+".to_owned());
        arguments.push(format!("INVOCATION_ID={invocation}"));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_asked_for_by_its_id() {
        let arguments = arguments("app.service", "ab12", 5);
        let wanted = ["--lines=5", "_SYSTEMD_INVOCATION_ID=ab12", "+", "INVOCATION_ID=ab12"];
        assert_eq!(arguments[4..], wanted);
        assert_eq!(self::arguments("app.service", "", 5)[5], "--unit=app.service");
    }
}
