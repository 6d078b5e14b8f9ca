//! How long it takes to save a tree, to save it again, and to get the first one back: the store, and the tools that
//! people use for it today, in turn on the same tree.
//!
//! ```text
//! for each round, for each tool:   a new file system ─ version 1 ─ save ─ change 2 % ─ save ─ back to version 1
//! ```
//!
//! Each figure includes a sync of the file system. Peak memory is that of a process that does nothing else.
//!
//! `cargo run --release -p tests --bin bench-store -- [--tree node|big] [--rounds 5] [--files 45000] [--cold]`

mod outage;
mod place;
mod tools;
mod trees;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use agent::store::{Compaction, Store};
use clap::Parser;

use self::{
    outage::Measured,
    place::Place,
    tools::{Tool, Version, files, known},
    trees::Tree,
};

/// What is measured.
#[derive(Debug, Parser)]
struct Arguments {
    /// node or big
    #[arg(long, default_value = "node")]
    tree: String,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How many files the node tree has
    #[arg(long, default_value_t = 45_000)]
    files: usize,
    /// Forget all caches before the restore
    #[arg(long)]
    cold: bool,
    /// Where to measure
    #[arg(long, default_value = "/var/tmp")]
    within: PathBuf,
    /// In a plain directory, not in an ext4 of its own
    #[arg(long)]
    plain: bool,
    /// Only this tool
    #[arg(long)]
    only: Option<String>,
    /// One step of ours in a process of its own, for its peak memory
    #[arg(long, hide = true)]
    step: Option<String>,
    #[arg(long, hide = true)]
    root: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Figures {
    rows: BTreeMap<&'static str, Vec<Duration>>,
    /// Of the outage.
    parts: BTreeMap<&'static str, Vec<Duration>>,
    bytes: BTreeMap<&'static str, Vec<u64>>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let (Some(step), Some(root)) = (&arguments.step, &arguments.root) {
        return one_step(step, root);
    }
    let tree = match arguments.tree.as_str() {
        "node" => Tree::Node { files: arguments.files },
        "big" => Tree::Big,
        other => anyhow::bail!("no tree `{other}`: node or big"),
    };
    let chosen =
        |tool: &Tool| arguments.only.as_deref().is_none_or(|only| tool.name().starts_with(only));
    let (here, missing): (Vec<Tool>, Vec<Tool>) =
        Tool::ALL.into_iter().filter(chosen).partition(|tool| tool.is_here());
    for tool in missing {
        println!("not on this machine: {}", tool.name());
    }
    let looped = !arguments.plain && rustix::process::geteuid().is_root();
    println!(
        "tree {}, {} rounds, {}, {} cache",
        tree.name(),
        arguments.rounds,
        if looped { "a new ext4 per tool and round" } else { "a plain directory" },
        if arguments.cold { "cold" } else { "warm" }
    );
    let mut figures: Vec<(Tool, Figures)> =
        here.into_iter().map(|tool| (tool, Figures::default())).collect();
    for _ in 0..arguments.rounds {
        for (tool, figures) in &mut figures {
            measure(*tool, tree, &arguments, looped, figures)?;
        }
    }
    print(&figures);
    Ok(())
}

fn measure(
    tool: Tool,
    tree: Tree,
    arguments: &Arguments,
    looped: bool,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let place = Place::new(&arguments.within, looped)?;
    tree.build(&place.path("live"))?;
    tool.prepare(&place)?;
    let mut note = |what: &'static str, took: Duration| {
        figures.rows.entry(what).or_default().push(took);
    };
    note("1 first save", place.timed(|| tool.save(&place, Version::One))?);
    tree.change(&place.path("live"))?;
    note("2 second save", place.timed(|| tool.save(&place, Version::Two))?);
    let saved = place.taken("saved")?;
    figures.bytes.entry("disk after the second").or_default().push(saved);
    if tool == Tool::Ours {
        return ours(&place, arguments, figures);
    }
    if arguments.cold {
        place.forget()?;
    }
    let what = "3 restore";
    figures.rows.entry(what).or_default().push(place.timed(|| tool.restore(&place))?);
    Ok(())
}

/// The store: up to where only the switch is left, with nothing staged, with another release staged, and with this one
/// staged; then the outage, and once more with nothing staged from a compacted store; and the peak memory of each step.
fn ours(place: &Place, arguments: &Arguments, figures: &mut Figures) -> anyhow::Result<()> {
    let (live, saved) = (place.path("live"), place.path("saved"));
    let mut note = |what: &'static str, took: Duration| {
        figures.rows.entry(what).or_default().push(took);
    };
    let open = || Store::open(&saved);
    let store = open()?;
    let (one, two) = (known(&store, "v1")?, known(&store, "v2")?);
    drop(store);
    // An agent has its store open long before an order comes, and so it is here.
    let ready = |what: &'static str| -> anyhow::Result<(&'static str, Duration)> {
        if arguments.cold {
            place.forget()?;
        }
        let store = open()?;
        store.list()?;
        let stage = || store.stage(&files(&live), one);
        Ok((what, place.timed(|| Ok(stage().map(|_| ())?))?))
    };
    let (what, took) = ready("3c restore, nothing staged")?;
    note(what, took);
    // What the agent does in the background after each snapshot.
    let store = open()?;
    let background = place.timed(|| {
        store.discard(&files(&live), one)?;
        store.prestage(&files(&live), two, 2)?;
        Ok(())
    })?;
    drop(store);
    note("background: stage v2", background);
    let (what, took) = ready("3 restore")?;
    note(what, took);
    let (what, took) = ready("3a restore, it is staged")?;
    note(what, took);

    // As the agent does it: stage in the same process, and after the start a look at what was replaced.
    let mut measured = Measured::open(&saved)?;
    measured.store.stage(&files(&live), one)?;
    let (took, parts) = measured.switch(&files(&live), (two, one))?;
    note("4 outage: staged switch", took);
    for (part, took) in parts {
        figures.parts.entry(part).or_default().push(took);
    }
    let begun = Instant::now();
    measured.store.read_replaced(&files(&live))?;
    let mut note = |what: &'static str, took: Duration| {
        figures.rows.entry(what).or_default().push(took);
    };
    note("background: read replaced", begun.elapsed());
    note("5 outage: its undo", measured.switch(&files(&live), (one, two))?.0);
    drop(measured);
    let mut peak = 0;
    let took = place.timed(|| {
        peak = peak_of("compact", place)?;
        Ok(())
    })?;
    note("background: compact", took);
    let store = open()?;
    store.discard(&files(&live), one)?;
    drop(store);
    let (what, took) = ready("3d the same, compacted")?;
    note(what, took);
    let mut count = |what, bytes| figures.bytes.entry(what).or_default().push(bytes);
    count("disk after compaction", place.taken("saved")?);
    count("peak memory, compaction", peak);
    count("peak memory, snapshot", peak_of("snapshot", place)?);
    count("peak memory, stage", peak_of("stage", place)?);
    Ok(())
}

/// Peak memory of one step, in a process of its own.
fn peak_of(step: &str, place: &Place) -> anyhow::Result<u64> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--step", step, "--root"])
        .arg(place.path(""))
        .output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

/// One step on what is there, into a store of its own; prints this process's peak memory in bytes.
fn one_step(step: &str, root: &std::path::Path) -> anyhow::Result<()> {
    let (live, saved) = (root.join("live"), root.join("saved-once-more"));
    match step {
        "snapshot" => {
            let label = agent::store::Label {
                release: "v2".to_owned(),
                version: None,
                taken_at_unix_ms: 1,
                learned_at_unix_ms: None,
            };
            Store::open(&saved)?.snapshot(&files(&live), label)?;
        }
        "stage" => {
            let store = Store::open(&root.join("saved"))?;
            let one = known(&store, "v1")?;
            store.discard(&files(&live), one)?;
            store.stage(&files(&live), one)?;
        }
        "compact" => {
            let now = Compaction { min_age: Duration::ZERO, ..Compaction::default() };
            let done = Store::open(&root.join("saved"))?.compact(&now)?;
            anyhow::ensure!(done.left.is_empty(), "{done:?}");
        }
        other => anyhow::bail!("no step `{other}`"),
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line
        .and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse().ok())
        .ok_or_else(|| anyhow::anyhow!("the kernel does not tell this process's peak memory"))?;
    println!("{}", kib * 1024);
    Ok(())
}

fn print(figures: &[(Tool, Figures)]) {
    let ours = figures.iter().find(|(tool, _)| *tool == Tool::Ours);
    for (tool, figures) in figures {
        println!("{}", tool.name());
        for (what, times) in &figures.rows {
            let median = median(&mut times.clone());
            let ours = ours.and_then(|(_, ours)| ours.rows.get(what));
            let ratio = match ours.filter(|_| *tool != Tool::Ours) {
                Some(ours) => {
                    let ours = self::median(&mut ours.clone());
                    format!("   ours is {:.2} of it", ours.as_secs_f64() / median.as_secs_f64())
                }
                None => String::new(),
            };
            println!("  {what:26} {:9.1} ms{ratio}", median.as_secs_f64() * 1000.0);
        }
        for (what, times) in &figures.parts {
            let median = median(&mut times.clone());
            println!("    of the outage: {what:22} {:6.2} ms", median.as_secs_f64() * 1000.0);
        }
        for (what, bytes) in &figures.bytes {
            let mut bytes = bytes.clone();
            bytes.sort_unstable();
            println!("  {what:26} {:9.1} MB", bytes[bytes.len() / 2] as f64 / 1e6);
        }
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
