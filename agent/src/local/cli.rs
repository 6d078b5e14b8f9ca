//! `agent local …`: what a person types on the host when no coordinator answers.
//!
//! ```text
//! args ─▶ agent there? socket : own ledger and store ─▶ plan ─▶ "yes" ─▶ steps as they happen ─▶ exit code
//! ```
//!
//! Invariant: nothing is begun without a confirmation or `--yes`; where there is no terminal, `--yes` has to be said.
//! Invariant: 0 is given only on evidence.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::{
    direct::Direct,
    import::{self, Import, Mapped, Owner},
    plan::{Ask, Plan, Refusal},
    render::{self, Clock},
    socket::{Talk, TalkError},
    wire::{Ended, Request, Response},
};
use crate::order::End;

/// See `agent local --help`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "No coordinator and no network is needed. Asks the running agent; where none runs, does it \
itself.\n\nExit codes:\n  0   done and verified, or nothing to do\n  1   failed here: a disk, a defect\n  2   wrong \
usage, an unknown name, or no terminal to confirm on\n  4   not root\n  10  refused, or failed before anything was \
stopped\n  11  busy: a local operation is at work here\n  12  the host changed since the plan was made\n  20  it \
failed; everything was put back as it was\n  21  it failed half-way: look now\n  22  the release is in place, its \
checks do not hold\n\nExamples:\n  agent local status\n  agent local rollback\n  agent local rollback --to v1.4.2 \
--yes\n  agent local import --component crm --from /var/backups/ace-crm/previous --as v1.4.1"
)]
pub struct LocalArgs {
    #[command(subcommand)]
    command: LocalCommand,
    /// Where the ledger, the store and the holds are kept.
    #[arg(
        long,
        global = true,
        env = "LASTGOOD_STATE",
        value_name = "DIR",
        default_value = "/var/lib/lastgood"
    )]
    state: PathBuf,
    /// What may be touched on this host; read where no agent runs.
    #[arg(
        long,
        global = true,
        env = "LASTGOOD_POLICY",
        value_name = "FILE",
        default_value = "/etc/lastgood/policy.yaml"
    )]
    policy: PathBuf,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum LocalCommand {
    /// What is live, whether it is well, and what it can go back to.
    Status,
    /// The releases on this host, and what speaks for each.
    Releases,
    /// Capture what is live, under a name.
    Snapshot {
        #[arg(long = "as", value_name = "RELEASE")]
        release: String,
    },
    /// Measure what is live: files, services and checks, for as long as the policy says.
    Verify,
    /// Go back to an earlier release on this host alone.
    Rollback(RollbackArgs),
    /// Make releases of backups that were made before.
    #[command(
        after_help = "What DIR holds stands for the component's tree; `keep` paths in it are left out. \
Declared files are taken from their place in DIR, or from there with `.backup` at the end, or with --from from beside \
DIR.\n\nExamples:\n  agent local import --component crm --from /var/backups/ace-crm/previous --as v1.4.1\n  agent \
local import --component crm --all-in /var/backups/ace-crm\n  agent local import --component proxy --from \
/var/backups/ace-crm/previous --as v1.4.1 \\\n    --file /etc/nginx/sites-available/ace-crm=/var/backups/ace-crm/previous/nginx.conf"
    )]
    Import(ImportArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct RollbackArgs {
    /// Where to. Left out: the newest release here that is older than the live one and was verified here.
    #[arg(long, value_name = "RELEASE")]
    to: Option<String>,
    /// Keep the release in place even where its checks do not hold.
    #[arg(long)]
    leave: bool,
    /// Go back although migrations were applied since that are not declared backward-safe, or nobody can tell.
    #[arg(long)]
    across_migrations: bool,
    /// Do it without asking.
    #[arg(long, short)]
    yes: bool,
    /// Show what would be done, and do nothing.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

#[derive(Clone, Debug, clap::Args)]
struct ImportArgs {
    /// The component that the backup is of.
    #[arg(long)]
    component: String,
    /// The directory that stands for the component's tree.
    #[arg(long, value_name = "DIR", required_unless_present = "all_in", requires = "release")]
    from: Option<PathBuf>,
    /// The release's name.
    #[arg(long = "as", value_name = "RELEASE")]
    release: Option<String>,
    /// A directory of backups: each directory in it becomes a release of its name and time.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["from", "release"])]
    all_in: Option<PathBuf>,
    /// Where a declared file or tree is in the backup, as PATH-IN-POLICY=FILE.
    #[arg(long = "file", value_name = "PATH=FILE", value_parser = mapped)]
    files: Vec<Mapped>,
    /// Owners as of the live files, whoever owns the backup.
    #[arg(long)]
    owner_from_live: bool,
    /// Owners as in the backup, even where all of it is root's.
    #[arg(long, conflicts_with = "owner_from_live")]
    owner_as_found: bool,
}

fn mapped(text: &str) -> Result<Mapped, String> {
    let (declared, source) = text.split_once('=').ok_or("say PATH-IN-POLICY=FILE")?;
    Ok(Mapped { declared: declared.into(), source: source.into() })
}

/// What it exits with; where `ctl` has the code, it means the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotAllowed = 4,
    Refused = 10,
    Busy = 11,
    Stale = 12,
    PutBack = 20,
    Stuck = 21,
    Unverified = 22,
}

/// Runs a command to its end.
pub fn main(args: &LocalArgs) -> ExitCode {
    // Checks over HTTPS need it where this process does them; an error says that it is there already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done =
        runtime.context("starting the runtime").and_then(|runtime| runtime.block_on(run(args)));
    let exit = match done {
        Ok(exit) => exit,
        Err(error) => {
            complain(&format!("agent local: {error:#}\n"));
            match error.downcast_ref::<TalkError>() {
                Some(TalkError::NotAllowed { .. }) => Exit::NotAllowed,
                Some(_) | None => Exit::Failed,
            }
        }
    };
    ExitCode::from(exit as u8)
}

async fn run(args: &LocalArgs) -> anyhow::Result<Exit> {
    let mut host = HostEnd { args, direct: None };
    let done = host.run(&args.command).await;
    match host.direct {
        Some(direct) => direct.end().await.and(done),
        None => done,
    }
}

/// Whoever answers for the host.
struct HostEnd<'a> {
    args: &'a LocalArgs,
    /// Once it was seen that no agent runs.
    direct: Option<Direct>,
}

enum Answers {
    Agent(Talk),
    Here(mpsc::Receiver<Response>),
}

impl Answers {
    async fn next(&mut self) -> anyhow::Result<Response> {
        match self {
            Self::Agent(talk) => Ok(talk.next().await?),
            Self::Here(answers) => Ok(answers.recv().await.ok_or(TalkError::BrokenOff)?),
        }
    }
}

impl HostEnd<'_> {
    async fn ask(&mut self, request: Request) -> anyhow::Result<Answers> {
        if self.direct.is_none() {
            match Talk::begin(&self.args.state, &request).await {
                Ok(talk) => return Ok(Answers::Agent(talk)),
                Err(TalkError::Absent { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let direct = Direct::open(&self.args.state, &self.args.policy)?;
            complain(
                "No agent runs here: this command works on the ledger and the store itself.\n",
            );
            self.direct = Some(direct);
        }
        let direct = self.direct.as_ref().expect("it was opened just now");
        Ok(Answers::Here(direct.ask(request)))
    }

    async fn run(&mut self, command: &LocalCommand) -> anyhow::Result<Exit> {
        match command {
            LocalCommand::Status | LocalCommand::Releases => self.show(command).await,
            LocalCommand::Snapshot { release } => {
                self.operate(Ask::Snapshot { release: release.clone() }, true, false).await
            }
            LocalCommand::Verify => self.operate(Ask::Verify, true, false).await,
            LocalCommand::Rollback(args) => {
                let RollbackArgs { to, leave, across_migrations, .. } = args.clone();
                let ask = Ask::Rollback { to, leave, across_migrations };
                self.operate(ask, args.yes, args.dry_run).await
            }
            LocalCommand::Import(args) => self.import(args).await,
        }
    }

    async fn show(&mut self, command: &LocalCommand) -> anyhow::Result<Exit> {
        let clock = Clock::now();
        let answer = self.ask(Request::Status).await?.next().await?;
        let Response::Status(status) = &answer else { return Ok(not_done(&answer)) };
        if matches!(command, LocalCommand::Releases) {
            say(&render::releases(&status.releases, &clock));
        } else {
            say(&render::status(status, &clock));
        }
        Ok(Exit::Done)
    }

    /// Plan, confirmation, steps, end.
    async fn operate(&mut self, ask: Ask, yes: bool, dry_run: bool) -> anyhow::Result<Exit> {
        let answer = self.ask(Request::Plan(ask.clone())).await?.next().await?;
        let Response::Plan { plan, hash } = &answer else { return Ok(not_done(&answer)) };
        say(&render::plan(plan));
        if dry_run {
            return Ok(Exit::Done);
        }
        if !yes && !confirmed(plan)? {
            return Ok(Exit::Usage);
        }
        if let Some(direct) = &mut self.direct {
            direct.outlive_the_terminal()?;
        }
        let mut answers = self.ask(Request::Start { ask, hash: hash.clone(), by: who() }).await?;
        let clock = Clock::now();
        let mut cut = false;
        loop {
            match answers.next().await? {
                Response::Begun { operation } => say(&render::begun(&operation)),
                Response::Step(step) => {
                    cut |= step.verb.cuts();
                    say(&render::step(&step, &clock));
                }
                Response::Ended(ended) => {
                    say(&render::ended(plan, &ended, cut));
                    return Ok(code(plan, &ended, cut));
                }
                other @ (Response::Status(_)
                | Response::Plan { .. }
                | Response::Imported(_)
                | Response::NoPlan(_)
                | Response::Stale
                | Response::Refused { .. }) => return Ok(not_done(&other)),
            }
        }
    }

    async fn import(&mut self, args: &ImportArgs) -> anyhow::Result<Exit> {
        let imports = imports(args)?;
        if imports.is_empty() {
            complain("There is no directory in it that could be a backup.\n");
            return Ok(Exit::Refused);
        }
        let clock = Clock::now();
        let mut worst = Exit::Done;
        for import in imports {
            let name = import.release.clone();
            let answer = self.ask(Request::Import(import)).await?.next().await?;
            if let Response::Imported(imported) = &answer {
                say(&render::imported(imported, &clock));
            } else {
                complain(&format!("{name}: "));
                worst = not_done(&answer);
            }
        }
        Ok(worst)
    }
}

fn imports(args: &ImportArgs) -> anyhow::Result<Vec<Import>> {
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).with_context(|| format!("the path {}", path.display()))
    };
    let files: Vec<Mapped> = args
        .files
        .iter()
        .map(|row| Ok(Mapped { source: absolute(&row.source)?, declared: row.declared.clone() }))
        .collect::<anyhow::Result<_>>()?;
    let owner = match (args.owner_from_live, args.owner_as_found) {
        (true, _) => Owner::Live,
        (false, true) => Owner::Found,
        (false, false) => Owner::Guess,
    };
    let import = |release: String, from: PathBuf, taken_at_unix_ms: i64, beside: bool| Import {
        component: args.component.clone(),
        from,
        release,
        taken_at_unix_ms,
        files: files.clone(),
        owner,
        beside,
    };
    let failed = |path: &PathBuf| format!("looking at {}", path.display());
    match (&args.all_in, &args.from, &args.release) {
        (Some(dir), _, _) => {
            let dir = absolute(dir)?;
            let backups = import::backups_in(&dir).with_context(|| failed(&dir))?;
            let each = backups.into_iter().map(|(name, path, at)| import(name, path, at, false));
            Ok(each.collect())
        }
        (None, Some(from), Some(release)) => {
            let from = absolute(from)?;
            let at = import::taken_at(&from).with_context(|| failed(&from))?;
            Ok(vec![import(release.clone(), from, at, true)])
        }
        (None, _, _) => anyhow::bail!("say --from DIR --as RELEASE, or --all-in DIR"),
    }
}

/// What an answer that is not the wanted one means.
fn not_done(response: &Response) -> Exit {
    match response {
        Response::NoPlan(refusal) => {
            complain(&render::refusal(refusal));
            match refusal {
                Refusal::Live(_) => Exit::Done,
                Refusal::Busy(_) => Exit::Busy,
                Refusal::NotKnown { .. } | Refusal::BadName(_) => Exit::Usage,
                Refusal::NoComponents | Refusal::NoTarget { .. } | Refusal::NotWhole { .. } => {
                    Exit::Refused
                }
            }
        }
        Response::Stale => {
            complain("The host changed since the plan was shown. Nothing was done. Ask again.\n");
            Exit::Stale
        }
        Response::Refused { why } => {
            complain(&format!("Not done: {why}\n"));
            Exit::Refused
        }
        Response::Status(_)
        | Response::Plan { .. }
        | Response::Imported(_)
        | Response::Begun { .. }
        | Response::Step(_)
        | Response::Ended(_) => {
            complain("The agent answered something else than was asked; use its own binary.\n");
            Exit::Failed
        }
    }
}

/// What an end is worth. `cut`: something that serves was touched.
fn code(plan: &Plan, ended: &Ended, cut: bool) -> Exit {
    match (ended.end, &plan.ask) {
        (End::Done, _) => Exit::Done,
        (End::Undone, Ask::Verify) => Exit::Unverified,
        (End::Undone, Ask::Rollback { .. }) if cut => Exit::PutBack,
        (End::Undone, Ask::Rollback { .. } | Ask::Snapshot { .. }) => Exit::Refused,
        (End::Left, _) => Exit::Unverified,
        (End::Stuck, _) => Exit::Stuck,
    }
}

/// A person's word. None is taken where there is no terminal.
fn confirmed(plan: &Plan) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        let to = &plan.release;
        complain(&format!(
            "There is no terminal to confirm on. If that is what you want:\n\n  agent local rollback --to {to} --yes\n"
        ));
        return Ok(false);
    }
    say("Type yes to do it: ");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("reading the answer")?;
    let yes = line.trim().eq_ignore_ascii_case("yes");
    if !yes {
        say("Nothing was done.\n");
    }
    Ok(yes)
}

/// Who asks, for the record. Root can say what it likes; the usual case is sudo.
fn who() -> String {
    match std::env::var("SUDO_USER") {
        Ok(user) if !user.is_empty() && user != "root" => format!("{user} (root)"),
        Ok(_) | Err(_) => "root".to_owned(),
    }
}

/// A reader or a terminal that has gone does not stop what was begun.
fn say(text: &str) {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
}

/// For the person, apart from the data.
fn complain(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).ok();
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::{Cli, Command};

    #[test]
    fn nothing_of_a_coordinator_is_asked_for() {
        for line in [
            "agent local status",
            "agent local rollback --to v1 --yes --state /tmp/x",
            "agent local import --component crm --from /b --as v1 --file /etc/a=/b/a",
            "agent local import --component crm --all-in /b --owner-from-live",
        ] {
            let parsed = Cli::try_parse_from(line.split(' ')).map(|cli| cli.command);
            assert!(matches!(parsed, Ok(Command::Local(_))), "{line}: {parsed:?}");
        }
        for line in [
            "agent local import --component crm --from /b",
            "agent local import --component crm",
            "agent local import --component crm --all-in /b --as v1",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn only_what_is_done_is_zero() {
        let plan = |ask| Plan {
            ask,
            from: None,
            release: "v1".to_owned(),
            why: String::new(),
            first: None,
            warnings: Vec::new(),
            steps: Vec::new(),
            leave: false,
        };
        let back = plan(Ask::Rollback { to: None, leave: false, across_migrations: false });
        let ended = |end| Ended {
            operation: String::new(),
            end,
            reason: String::new(),
            evidence: Vec::new(),
            components: Vec::new(),
        };
        let table = [
            (End::Done, true, 0),
            (End::Undone, true, 20),
            (End::Undone, false, 10),
            (End::Stuck, true, 21),
            (End::Left, true, 22),
        ];
        for (end, cut, expected) in table {
            assert_eq!(code(&back, &ended(end), cut) as u8, expected, "{end:?} {cut}");
        }
        assert_eq!(code(&plan(Ask::Verify), &ended(End::Undone), false) as u8, 22);
    }
}
