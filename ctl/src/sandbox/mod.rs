//! `ctl sandbox`: the whole of Lastgood on this machine, for as long as it takes to see it work.
//!
//! ```text
//! layout (CA, identities, fleet file, trees) ─▶ processes: coordinator, 6 agents ─▶ their services; edge
//!      snapshot of the good release ─▶ a bad one is deployed over it ─▶ ctl's own rollback ─▶ report
//!                       prober: a user's view of every host, all the time
//! ```
//!
//! The only place of ctl that uses coordinator and agent: it runs itself again as each of them, so that one binary
//! is enough and each is still a process that can be killed.
//!
//! Invariant: nothing is left running or on disk unless it was asked for.

pub mod app;
mod canary;
pub mod edge;
mod forward;
mod layout;
mod pipeline;
mod prober;
mod processes;
mod report;
mod scenario;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::{
    context::{Config, Context},
    error::CtlError,
    exit::Exit,
    session::Session,
};
use layout::{FLEET, Layout};

/// See `ctl sandbox --help`.
#[derive(Args, Clone, Debug)]
pub struct SandboxArgs {
    /// What happens in it
    #[arg(long, value_enum, default_value_t, value_name = "SCENARIO")]
    pub scenario: Scenario,
    /// Leave it running, and say how to use it
    #[arg(long)]
    pub keep: bool,
    /// End and remove a sandbox that was kept
    #[arg(long, conflicts_with_all = ["keep", "scenario"])]
    pub stop: bool,
}

/// What happens in a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// A bad release, and back: users first, hosts after
    #[default]
    Rollback,
    /// A good release on the side without traffic, the switch to it, and the switch back
    BlueGreen,
    /// A release that fails a quarter of the requests gets 5 % of the traffic: the judge takes it back
    CanaryAbort,
    /// A good release goes from 5 % to everybody by itself
    CanaryPromote,
    /// What all releases depend on fails while a canary runs: that is not the canary's fault
    DependencyOutage,
    /// The coordinator is killed in mid-rollback
    CoordinatorCrash,
    /// An agent is killed in its own switch
    AgentCrash,
    /// A host is lost in mid-rollback and never comes back
    HostLost,
    /// The snapshot to go back to is damaged on one host
    BadTarget,
}

/// The processes that a sandbox is made of.
#[derive(Debug, Subcommand)]
pub enum Part {
    #[command(name = "sandbox-coordinator", hide = true)]
    Coordinator(coordinator::Config),
    #[command(name = "sandbox-agent", hide = true)]
    Agent(agent::Config),
    #[command(name = "sandbox-app", hide = true)]
    App(app::AppArgs),
    #[command(name = "sandbox-edge", hide = true)]
    Edge(edge::EdgeArgs),
}

/// Runs one of the sandbox's processes in this one.
pub fn run_part(part: Part) -> ExitCode {
    match part {
        Part::Coordinator(config) => coordinator::run(config),
        Part::Agent(config) => agent::run(&config),
        Part::App(args) => run_small(app::serve(args)),
        Part::Edge(args) => run_small(async move { edge::Edge::start(&args).await?.ended().await }),
    }
}

/// One that needs no more than a thread.
fn run_small(serve: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.context("starting").and_then(|runtime| runtime.block_on(serve)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "its stderr is the service's log")]
            {
                eprintln!("{error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Runs a scenario and says how it went.
///
/// # Errors
/// The sandbox could not be set up; what was set up is gone again.
pub async fn run(args: &SandboxArgs, session: &mut Session) -> Result<Exit, CtlError> {
    if args.stop {
        return stop(session);
    }
    let config = if args.keep { Some(session.config_path()?.clone()) } else { None };
    if let Some(path) = &config
        && Config::load(path)?
            .contexts
            .iter()
            .any(|known| known.name == FLEET && known.identity.exists())
    {
        return Err(CtlError::usage("a sandbox is kept already", &["ctl sandbox --stop"]));
    }
    let mut place = Place::make().map_err(CtlError::Sandbox)?;
    let ran = tokio::select! {
        ran = scenario::run(args.scenario, &place.layout, session) => ran,
        () = told_to_stop() => {
            place.remove().map_err(CtlError::Sandbox)?;
            return Ok(Exit::Detached);
        }
    };
    let report = match ran {
        Ok(report) => report,
        Err(error) => {
            place.remove().map_err(CtlError::Sandbox)?;
            return Err(CtlError::Sandbox(error));
        }
    };
    let exit = if report.ok { Exit::Done } else { Exit::Failed };
    session.out.show(|view| report::text(view, &report), || report.clone())?;
    match config {
        None => place.remove().map_err(CtlError::Sandbox)?,
        Some(path) => {
            keep(&path, &place.layout)?;
            session.out.talk(&report::kept(&place.layout, &report.operation));
            place.kept = true;
        }
    }
    Ok(exit)
}

/// Ctrl-C, TERM, or the terminal that was closed.
async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let closed = async {
        match signal(SignalKind::hangup()) {
            Ok(mut hangup) => hangup.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = proto::shutdown::told_to_stop() => {}
        _ = closed => {}
    }
}

/// A sandbox's directory; whatever happens, nothing of it stays unless it is kept.
#[derive(Debug)]
struct Place {
    layout: Layout,
    kept: bool,
}

impl Place {
    fn make() -> anyhow::Result<Self> {
        let root = tempfile::Builder::new()
            .prefix("lastgood-sandbox-")
            .tempdir()
            .context("a temporary directory")?;
        let layout = Layout::new(root.keep());
        let place = Self { layout, kept: false };
        place.layout.write(&own_binary()?).context("laying it out")?;
        Ok(place)
    }

    fn remove(&mut self) -> anyhow::Result<()> {
        self.kept = true;
        remove(&self.layout.root)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            // The last way out (a panic): whoever sees it has a louder error already.
            remove(&self.layout.root).ok();
        }
    }
}

fn remove(root: &Path) -> anyhow::Result<()> {
    processes::end_all(root)?;
    std::fs::remove_dir_all(root).with_context(|| format!("removing {}", root.display()))
}

fn own_binary() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("finding this program")
}

fn keep(config: &Path, layout: &Layout) -> Result<(), CtlError> {
    let mut contexts = Config::load(config)?;
    contexts.put(context(layout));
    contexts.save(config)
}

/// How the sandbox's coordinator is reached.
fn context(layout: &Layout) -> Context {
    Context {
        name: FLEET.to_owned(),
        coordinator: layout.coordinator.to_string(),
        identity: layout.operator(),
    }
}

fn stop(session: &mut Session) -> Result<Exit, CtlError> {
    let path = session.config_path()?.clone();
    let mut config = Config::load(&path)?;
    let kept = config.contexts.iter().find(|context| context.name == FLEET);
    let Some(root) = kept.and_then(|context| context.identity.parent()).map(Path::to_owned) else {
        return Err(CtlError::usage("no sandbox was kept", &["ctl sandbox --keep"]));
    };
    // Only what a sandbox made: a context of that name could point anywhere.
    let ours = root
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("lastgood-sandbox-"));
    if ours && root.exists() {
        remove(&root).map_err(CtlError::Sandbox)?;
    }
    config.contexts.retain(|context| context.name != FLEET);
    config.current = config.current.filter(|current| current != FLEET);
    config.save(&path)?;
    session.out.talk("the sandbox is gone\n");
    Ok(Exit::Done)
}
