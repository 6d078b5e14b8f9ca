//! What an idle agent costs: resident memory and CPU of the real binary, with a session up.
//!
//! `cargo build --release && cargo run --release -p tests --bin bench-idle -- [SECONDS]`

use std::{path::Path, process::Command, time::Duration};

use anyhow::Context as _;
use tests::cluster::{Cluster, FLEET};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let seconds: u64 = std::env::args().nth(1).map_or(Ok(30), |text| text.parse())?;
    let agent = std::env::current_exe()?.with_file_name("agent");
    anyhow::ensure!(agent.exists(), "{} is not built: cargo build --release", agent.display());
    let cluster = Cluster::start().await;
    cluster.apply(&["h1"], |_| {}).await;
    let dir = tempfile::tempdir()?;
    let identity = cluster.identity(proto::tls::Role::Agent, "h1");
    let policy = dir.path().join("policy.yaml");
    std::fs::write(&policy, format!("version: 1\nfleet: {FLEET}\nhost: h1\n"))?;
    let mut child = Command::new(agent)
        .args(["--coordinator", &cluster.address.to_string()])
        .arg("--identity")
        .arg(identity)
        .arg("--policy")
        .arg(policy)
        .arg("--state")
        .arg(dir.path().join("state"))
        .env("LASTGOOD_LOG", "warn")
        .spawn()?;
    cluster.connected(1).await;
    let process = Path::new("/proc").join(child.id().to_string());
    let before = cpu_ticks(&process)?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let ticks = cpu_ticks(&process)? - before;
    let status = std::fs::read_to_string(process.join("status"))?;
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .context("a field of /proc/PID/status");
        line.map(str::trim)
    };
    let (rss, own) = (field("VmRSS:")?, field("RssAnon:")?);
    let tick_ms = 1000 / rustix::param::clock_ticks_per_second();
    println!("idle agent over {seconds} s, session up, heartbeats on:");
    println!(
        "  resident memory {rss}, of which {own} are its own and the rest is the program's file"
    );
    println!(
        "  CPU {} ms, {:.3} % of one core",
        ticks * tick_ms,
        (ticks * tick_ms) as f64 / (seconds as f64 * 10.0)
    );
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn cpu_ticks(process: &Path) -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string(process.join("stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}
