//! How long users get a bad release after somebody has typed `ctl rollback`.
//!
//! ```text
//! round: deploy blue-green of a bad v2 ─▶ users get it ─▶ `ctl rollback` ─▶ the edge says that nobody gets it any more
//!                300 requests a second through the edge, all the time ─▶ the last answer of v2 ─┘
//! ```
//!
//! Two blue and two green hosts and an edge, on loopback: a real coordinator and agents over mTLS (in this process), the
//! app's services, the sandbox's proxy and ctl (each a process: this program, run again as each of them).
//!
//! `cargo run --release -p tests --bin bench-mitigate -- [ROUNDS]`

mod stand;

use std::{
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use tests::load::{Load, Plan};

use stand::{GOOD, Stand};

/// Answers of a release after which users are said to have it.
const SEEN_MIN: u64 = 100;

fn main() -> ExitCode {
    let rounds = match std::env::args().nth(1) {
        None => 20,
        Some(word) => match word.parse() {
            Ok(rounds) => rounds,
            Err(_) => return ctl::main_impl(),
        },
    };
    // As the agent does where it is its own process; a second default is refused.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime.context("starting").and_then(|runtime| runtime.block_on(bench(rounds))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What one round showed, from the moment at which ctl was started.
#[derive(Debug)]
struct Round {
    /// By the edge's own measurement, which the coordinator wrote down.
    mitigated: Duration,
    /// By the users' last answer of the bad release.
    last_bad: Duration,
    /// Until ctl had ended: every host is back.
    whole: Duration,
}

async fn bench(rounds: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut stand = Stand::start().await?;
    println!("2 blue, 2 green, 1 edge; {GOOD} on all of them after {:.2?}", begun.elapsed());
    let load = Load::start(Plan { get: "/api/contacts".to_owned(), ..Plan::usual(stand.front) });
    let mut all = Vec::new();
    for number in 1..=rounds {
        let version = format!("v2.0.{number}");
        stand.deploy_bad(&version).await?;
        wait_until_users_get(&load, &version).await?;
        let (asked, asked_at) = (Instant::now(), SystemTime::now());
        let operation = stand.rollback().await?;
        let whole = asked.elapsed();
        let mitigated = SystemTime::UNIX_EPOCH
            + Duration::from_millis(u64::try_from(operation.mitigated_unix_ms)?);
        anyhow::ensure!(
            operation.mitigated_unix_ms > 0,
            "it was not measured when users were on {GOOD}"
        );
        let last_bad = load.so_far().last_of(&version).context("users never got it")?;
        all.push(Round {
            // The journal's times are in whole milliseconds.
            mitigated: mitigated.duration_since(asked_at).unwrap_or_default(),
            last_bad: last_bad.saturating_duration_since(asked),
            whole,
        });
        stand.thaw().await?;
    }
    let report = load.stop();
    println!("{rounds} rollbacks, from the start of ctl:");
    print(
        "users are on the good release, as the edge measured it",
        all.iter().map(|it| it.mitigated),
    );
    print("the last answer of the bad one to a user", all.iter().map(|it| it.last_bad));
    print("every host is back on the good one", all.iter().map(|it| it.whole));
    println!(
        "users: {} requests; {} failed on fresh connections, {} on kept ones, {} idle resets",
        report.sent,
        report.fresh.count(),
        report.kept.count(),
        report.idle_resets
    );
    println!("failures by kind: fresh {:?}, kept {:?}", report.fresh, report.kept);
    Ok(())
}

async fn wait_until_users_get(load: &Load, version: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + tests::PATIENCE;
    while load.so_far().versions.get(version).is_none_or(|seen| seen.count < SEEN_MIN) {
        anyhow::ensure!(Instant::now() < deadline, "users do not get {version}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn print(what: &str, times: impl Iterator<Item = Duration>) {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    let Some(median) = times.get(times.len() / 2) else { return };
    let all: Vec<String> =
        times.iter().map(|time| format!("{:.0}", time.as_secs_f64() * 1e3)).collect();
    println!("  {what}: median {median:.2?}; ms: {}", all.join(" "));
}
