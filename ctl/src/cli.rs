//! The command tree, and the way from it to the commands.
//!
//! ```text
//! argv ─▶ Cli ─▶ Session ─▶ commands/* ─▶ Exit
//!                               └─ CtlError ─▶ failure block on stderr, a document on stdout where one is wanted
//! ```
//!
//! Invariant: `--help` and `--version` need neither network nor files.

use std::{process::ExitCode, time::Duration};

use clap::{ArgMatches, Args, CommandFactory as _, Parser, Subcommand};
use proto::{
    span::Span,
    telemetry,
    trace::{self, SpanKind, TraceContext},
};

use crate::{
    commands::{
        agent::{self, AgentCommand},
        canary::{self, CanaryCommand},
        context::{self as context_command, ContextCommand},
        doctor::{self, DoctorArgs},
        fleet::{self, ApplyArgs, PolicyCommand, ValidateArgs},
        forward::{self, DeployArgs, SwitchArgs},
        freeze::{self, FreezeCommand},
        init::{self, InitArgs},
        operation::{self, AbortArgs, HistoryArgs, LogsArgs, OperationArgs, RetryArgs},
        proposals::{self, ApproveArgs, RejectArgs},
        prune::{self, PruneArgs},
        release::{
            self, DiffArgs, DigestArgs, FetchArgs, MarkArgs, NewArgs, PinArgs, QuarantineArgs,
            UnpinArgs,
        },
        rollback::{self, RollbackArgs},
        snapshot::{self, CreateArgs, ListArgs, VerifyArgs},
        status::{self, StatusArgs},
    },
    context::config_path,
    error::CtlError,
    exit::Exit,
    out::{Format, Manner, Out},
    render::{failure, json},
    sandbox::{self, Part, SandboxArgs},
    session::{Place, Session},
};

/// Take a fleet back to its last good release, and prove it.
#[derive(Debug, Parser)]
#[command(
    name = "ctl",
    version,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        ctl rollback --fleet prod            back to the last good release; asks before it starts\n  \
        ctl status                           what is live, and is there a way back\n  \
        ctl deploy --release v1.4.4          a new release, with the way back kept\n  \
        ctl canary status                    a release on a few hosts first: the judge's words\n  \
        ctl watch rb-0193                    see how it goes on\n\n\
        Exit codes:\n  \
        0 done and verified   10 refused, nothing changed   21 mixed: needs a person\n  \
        1 defect              11 another one holds it       22 runs, not verified\n  \
        2 usage               12 the plan is stale          23 reverted by itself\n  \
        3 fleet file          13 wants an approval          24 goes on, watched enough\n  \
        4 not allowed         20 failed, all put back       30 changes (dry run)\n  \
        5 no coordinator                                   130 goes on, not watched"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "For every command")]
pub struct Global {
    /// Which coordinator [default: the context in use]
    #[arg(long, global = true, value_name = "NAME", env = "CTL_CONTEXT")]
    pub context: Option<String>,
    /// Which fleet; may be left out where the coordinator has one
    #[arg(long, global = true, value_name = "FLEET", env = "CTL_FLEET")]
    pub fleet: Option<String>,
    /// How data is printed
    #[arg(
        short = 'o',
        long = "output",
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        env = "CTL_OUTPUT"
    )]
    pub output: Format,
    /// Only data and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Every step, with the hosts' own words
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// No colours
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Never ask; fail with the line to run instead
    #[arg(long, global = true, env = "CTL_NO_INPUT", value_parser = clap::builder::FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub no_input: bool,
    /// How long to watch: 90s, 10m; the operation itself goes on
    #[arg(long, global = true, value_name = "SPAN")]
    pub timeout: Option<Span>,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What is live, whether agents are connected, and whether there is a way back
    #[command(
        after_help = "Examples:\n  ctl status\n  ctl status --fleet prod --watch\n  ctl status -o json | jq -r .way_back"
    )]
    Status(StatusArgs),
    /// Would a rollback work right now: way back, space, drivers, certificates, policies; changes nothing
    #[command(
        after_help = "Examples:\n  ctl doctor --fleet prod\n  ctl doctor --fleet prod --strict -o json"
    )]
    Doctor(DoctorArgs),
    /// What there is to go back to: age, standing, and on which hosts it is whole
    #[command(after_help = "Examples:\n  ctl releases\n  ctl releases --fleet prod -o json")]
    Releases,
    /// Take a fleet back to its last good release
    #[command(after_help = "Examples:\n  \
        ctl rollback --fleet prod                     the newest good release; asks before it starts\n  \
        ctl rollback --fleet prod --dry-run           show the plan and do nothing\n  \
        ctl rollback --fleet prod --to v1.4.1 --reason '5xx after v1.4.3'\n  \
        ctl rollback --plan 8f21c0de --confirm prod   run exactly that plan, without a question\n  \
        ctl rollback --undo rb-0193                   back to what was live before rb-0193")]
    Rollback(RollbackArgs),
    /// Put a release live: on the side without traffic and then the traffic, host by host, or on a few hosts first
    #[command(after_help = "Examples:\n  \
        ctl deploy --fleet prod --release v1.4.4                     fetched, planned, and asked before it starts\n  \
        ctl deploy --fleet prod --release v1.4.4 --strategy rolling\n  \
        ctl deploy --fleet prod --release v1.4.4 --strategy canary   a few hosts first\n  \
        ctl deploy --release v1.4.4 --dry-run                        show the plan and do nothing")]
    Deploy(DeployArgs),
    /// Move the traffic to another side, once that was seen to be healthy
    #[command(after_help = "Examples:\n  \
        ctl switch --fleet prod --to green\n  \
        ctl switch --undo sw-0204          back to how it was divided before sw-0204")]
    Switch(SwitchArgs),
    /// A release on a few hosts first: how it stands, go on, stand still, take it back
    #[command(
        subcommand,
        after_help = "Examples:\n  \
        ctl canary start --fleet prod --release v1.4.4\n  \
        ctl canary status                              the weight, the judge's words, what to type\n  \
        ctl canary promote                             on before its time; --full for the whole fleet\n  \
        ctl canary abort                               back, until the edges say 0 %"
    )]
    Canary(CanaryCommand),
    /// What triggers and alerts proposed: it waits for a person, or did
    #[command(after_help = "Examples:\n  ctl proposals --fleet prod\n  ctl proposals -o json")]
    Proposals,
    /// Begin what was proposed; shows what it would do now, and asks before it starts
    #[command(
        after_help = "Examples:\n  ctl approve rb-0208\n  ctl approve rb-0208 --reason 'users see it' --confirm prod"
    )]
    Approve(ApproveArgs),
    /// Say that what was proposed is not to be
    #[command(after_help = "Examples:\n  ctl reject rb-0208 --reason 'it was the proxy'")]
    Reject(RejectArgs),
    /// Follow an operation to its end; Ctrl-C stops watching only
    #[command(
        after_help = "Examples:\n  ctl watch rb-0193\n  ctl watch rb-0193 --timeout 2m -o jsonl"
    )]
    Watch(OperationArgs),
    /// What was done, when, by whom, and how it ended
    #[command(
        after_help = "Examples:\n  ctl history\n  ctl history --fleet prod --since 30d\n  ctl history -o json"
    )]
    History(HistoryArgs),
    /// Every step of an operation, with the hosts' own words
    #[command(after_help = "Examples:\n  ctl logs rb-0193\n  ctl logs rb-0193 --host crm-g2")]
    Logs(LogsArgs),
    /// Begin no more hosts until `ctl resume`; hosts that have begun go on
    #[command(after_help = "Examples:\n  ctl pause rb-0193\n  ctl resume rb-0193")]
    Pause(OperationArgs),
    /// Go on with a paused operation
    #[command(after_help = "Examples:\n  ctl resume rb-0193\n  ctl watch rb-0193")]
    Resume(OperationArgs),
    /// Stop an operation: put everything back, or leave it as it is
    #[command(
        after_help = "Examples:\n  ctl abort rb-0193 --restore   every host as it was before (exit 0 when it is)\n  ctl abort rb-0193 --leave     what has begun ends, no more begins"
    )]
    Abort(AbortArgs),
    /// Try the hosts again that are not on target
    #[command(after_help = "Examples:\n  ctl retry rb-0193\n  ctl retry rb-0193 --hosts crm-g2")]
    Retry(RetryArgs),
    /// Keep new deploys from going out, or let them; rollbacks are never kept back
    #[command(
        subcommand,
        after_help = "Examples:\n  ctl freeze on --fleet prod --reason 'black friday'\n  ctl freeze off --fleet prod --reason 'v1.4.4 fixes it'"
    )]
    Freeze(FreezeCommand),
    /// Record what is live as a release, or look at what is recorded
    #[command(
        subcommand,
        after_help = "Examples:\n  ctl snapshot create --as v1.4.3\n  ctl snapshot verify v1.4.2\n  ctl snapshot prune --dry-run"
    )]
    Snapshot(SnapshotCommand),
    /// Make a release known, compare two, say what you know of one
    #[command(
        subcommand,
        after_help = "Examples:\n  ctl release create v1.4.4 --artefact crm=builds:crm-1.4.4.tar.zst@sha256:9f86…\n  ctl release diff v1.4.2 v1.4.3\n  ctl release mark v1.4.3 bad --reason 'mails are sent twice'\n  ctl release mark v1.4.2 good --reason 'ran for a week'\n  ctl release pin v1.4.2 --reason 'the audit looks at it'"
    )]
    Release(ReleaseCommand),
    /// Agents: which there are, who may join, who is shut out
    #[command(
        subcommand,
        after_help = "Examples:\n  ctl agent list\n  ctl agent token create --host crm-g1\n  ctl agent revoke --host crm-g1 --reason 'the machine was sold'"
    )]
    Agent(AgentCommand),
    /// Make a CA, the coordinator's identity and yours, and a context
    #[command(
        after_help = "Examples:\n  ctl init --coordinator lastgood.example.com:7443\n  ctl init --coordinator 10.0.0.5:7443 --name staging --dir ~/lastgood-staging"
    )]
    Init(InitArgs),
    /// Check a fleet file; every problem with line, column and mend
    #[command(
        after_help = "Examples:\n  ctl validate\n  ctl validate -f deploy/fleet.yaml\n  ctl validate --online          the coordinator tries each query of the file once"
    )]
    Validate(ValidateArgs),
    /// Tell the coordinator what the fleet file says: hosts, order, budgets; no path and no command leaves
    #[command(
        after_help = "Examples:\n  ctl apply -f fleet.yaml --dry-run\n  ctl apply -f fleet.yaml"
    )]
    Apply(ApplyArgs),
    /// The files that say what agents may touch
    #[command(
        subcommand,
        after_help = "Examples:\n  ctl policy render --host crm-b1 > policy.yaml"
    )]
    Policy(PolicyCommand),
    /// Which coordinator is asked
    #[command(subcommand, after_help = "Examples:\n  ctl context list\n  ctl context use staging")]
    Context(ContextCommand),
    /// See it work: a fleet on this machine, a bad release, a rollback
    #[command(
        after_help = "Examples:\n  ctl sandbox\n  ctl sandbox --scenario coordinator-crash\n  ctl sandbox --keep, then: ctl --context sandbox status"
    )]
    Sandbox(SandboxArgs),
    /// The sandbox's own processes.
    #[command(flatten)]
    Part(Part),
    /// What this build is
    #[command(after_help = "Examples:\n  ctl version\n  ctl version -o json")]
    Version,
}

/// See `ctl snapshot --help`.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Record everything as it is now, on every host, under one name; proven by the checks
    #[command(
        after_help = "Examples:\n  ctl snapshot create --as v1.4.3\n  ctl snapshot create --as v1.4.3 --fleet prod --reason 'before the big one'"
    )]
    Create(CreateArgs),
    /// What is recorded, per host and component
    #[command(after_help = "Examples:\n  ctl snapshot list\n  ctl snapshot list v1.4.2")]
    List(ListArgs),
    /// Read every byte of a release on every host
    #[command(
        after_help = "Examples:\n  ctl snapshot verify v1.4.2\n  ctl snapshot verify v1.4.2 -o json"
    )]
    Verify(VerifyArgs),
    /// Let go what the hosts' retention no longer keeps; never what is live, last good, staged or pinned
    #[command(
        after_help = "Examples:\n  ctl snapshot prune --dry-run\n  ctl snapshot prune --fleet prod --confirm prod\n  ctl snapshot prune --component crm --hosts crm-b1,crm-b2"
    )]
    Prune(PruneArgs),
}

/// See `ctl release --help`.
#[derive(Debug, Subcommand)]
pub enum ReleaseCommand {
    /// Say what it is made of, and have every host fetch it; nothing live changes
    #[command(
        after_help = "Examples:\n  ctl release create v1.4.4 --artefact crm=builds:crm-1.4.4.tar.zst@sha256:9f86…\n  ctl release create v1.4.4 --artefact crm=repo:v1.4.4@git:1f3a…\n\n\
        A source is a name in each host's policy: which directory, server or repository it is, only the host knows.\n\
        Digests: `ctl release digest PATH` for a file or a directory;\n\
        git: and `git rev-parse TAG^{commit}` for a commit.\n\
        What a release is made of never changes: asking again with the same is well,\n\
        with anything else is refused."
    )]
    Create(NewArgs),
    /// Have every host fetch it again: hosts that were away, or that lack it
    #[command(
        after_help = "Examples:\n  ctl release fetch v1.4.4\n  ctl release fetch v1.4.4 --dry-run"
    )]
    Fetch(FetchArgs),
    /// What there is to go back to; the same as `ctl releases`
    #[command(after_help = "Examples:\n  ctl release list --fleet prod")]
    List,
    /// What differs between two releases, or between what is live and one
    #[command(
        after_help = "Examples:\n  ctl release diff v1.4.2 v1.4.3\n  ctl release diff v1.4.4        what is live against v1.4.4"
    )]
    Diff(DiffArgs),
    /// The digest of a file or of a directory, as `ctl release create` takes it
    #[command(
        after_help = "Examples:\n  ctl release digest crm-1.4.4.tar.zst\n  ctl release digest ./dist"
    )]
    Digest(DigestArgs),
    /// Mark it bad: no host goes forward to its content, whatever it is called; rollbacks never ask
    #[command(
        after_help = "Examples:\n  ctl release quarantine v1.4.3 --reason 'mails are sent twice'\n  ctl release mark v1.4.3 unproven --reason 'it was the proxy'   takes it back"
    )]
    Quarantine(QuarantineArgs),
    /// Mark it good, bad or unproven; a bad one is never gone back to
    #[command(
        after_help = "Examples:\n  ctl release mark v1.4.3 bad --reason 'mails are sent twice'\n  ctl release mark v1.4.3 unproven --reason 'it was the proxy'"
    )]
    Mark(MarkArgs),
    /// Keep it on every host, whatever retention says; its standing stays as it is
    #[command(after_help = "Examples:\n  ctl release pin v1.4.2 --reason 'the audit looks at it'")]
    Pin(PinArgs),
    /// Take the pin away; nothing goes before the next prune
    #[command(after_help = "Examples:\n  ctl release unpin v1.4.2")]
    Unpin(UnpinArgs),
}

/// The whole program.
pub fn main_impl() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Where neither stream can be written there is nobody to tell.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code()));
        }
    };
    if let Command::Part(part) = cli.command {
        return sandbox::run_part(part);
    }
    // A second default is refused; whichever was first is ring as well, the only provider in this build.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(source) => {
                let mut out = Out::process(manner(&cli.global));
                return report(&mut out, CTL, &CtlError::Output(source)).into();
            }
        };
    let exit = runtime.block_on(run(cli));
    // A lookup or a read of the keyboard that still hangs must not hold the prompt.
    runtime.shutdown_background();
    exit.into()
}

/// One command, from its arguments to its exit code.
pub async fn run(cli: Cli) -> Exit {
    let mut out = Out::process(manner(&cli.global));
    // Declared first, so that it ends last.
    let _telemetry = match telemetry() {
        Ok(guard) => guard,
        Err(error) => return report(&mut out, CTL, &error),
    };
    let place = match config_path() {
        Ok(path) => Place::Config { path, context: cli.global.context.clone() },
        Err(error) => return report(&mut out, CTL, &error),
    };
    let timeout = cli.global.timeout.map(|span: Span| -> Duration { span.0 });
    let mut session = Session::new(out, place, cli.global.fleet.clone(), timeout);
    if telemetry::exports() && !trace::exporting() {
        session
            .out
            .talk("! no traces are exported: the OTEL_EXPORTER_OTLP_… variables cannot be used");
    }
    let mut span = trace::Span::begin(words(), SpanKind::Internal, TraceContext::of_caller());
    session.hang_on(span.context());
    let exit = match Box::pin(dispatch(&cli.command, &mut session)).await {
        Ok(exit) => exit,
        Err(error) => {
            let ctl = session.ctl();
            report(&mut session.out, &ctl, &error)
        }
    };
    span.attribute("process.exit.code", i64::from(exit.code()));
    // Watched enough, or a change that a dry run found: that is what was asked.
    let as_asked = matches!(exit, Exit::Done | Exit::Changes | Exit::Detached | Exit::TimedOut);
    span.result(if as_asked { Ok(()) } else { Err("exit") });
    exit
}

/// `ctl rollback`: the command without what was given to it.
fn words() -> String {
    let mut words = CTL.to_owned();
    let matches = Cli::command().try_get_matches().ok();
    let mut below = matches.as_ref().and_then(ArgMatches::subcommand);
    while let Some((word, matches)) = below {
        words = format!("{words} {word}");
        below = matches.subcommand();
    }
    words
}

/// The command on a session.
///
/// # Errors
/// Whatever went wrong, not yet told to anybody.
pub async fn dispatch(command: &Command, session: &mut Session) -> Result<Exit, CtlError> {
    match command {
        Command::Status(args) => status::run(args, session).await,
        Command::Doctor(args) => doctor::run(*args, session).await,
        Command::Releases => release::list(session).await,
        Command::Rollback(args) => rollback::run(args, session).await,
        Command::Deploy(args) => forward::deploy(args, session).await,
        Command::Switch(args) => forward::switch(args, session).await,
        Command::Canary(command) => canary::run(command, session).await,
        Command::Proposals => proposals::list(session).await,
        Command::Approve(args) => proposals::approve(args, session).await,
        Command::Reject(args) => proposals::reject(args, session).await,
        Command::Watch(args) => operation::watch(args, session).await,
        Command::History(args) => operation::history(args, session).await,
        Command::Logs(args) => operation::logs(args, session).await,
        Command::Pause(args) => operation::pause(args, session).await,
        Command::Resume(args) => operation::resume(args, session).await,
        Command::Abort(args) => operation::abort(args, session).await,
        Command::Retry(args) => operation::retry(args, session).await,
        Command::Freeze(command) => freeze::run(command, session).await,
        Command::Snapshot(SnapshotCommand::Create(args)) => snapshot::create(args, session).await,
        Command::Snapshot(SnapshotCommand::List(args)) => snapshot::list(args, session).await,
        Command::Snapshot(SnapshotCommand::Verify(args)) => snapshot::verify(args, session).await,
        Command::Snapshot(SnapshotCommand::Prune(args)) => prune::run(args, session).await,
        Command::Release(ReleaseCommand::Create(args)) => release::create(args, session).await,
        Command::Release(ReleaseCommand::Fetch(args)) => release::fetch(args, session).await,
        Command::Release(ReleaseCommand::List) => release::list(session).await,
        Command::Release(ReleaseCommand::Diff(args)) => release::diff(args, session).await,
        Command::Release(ReleaseCommand::Digest(args)) => release::digest(args, session),
        Command::Release(ReleaseCommand::Quarantine(args)) => {
            release::quarantine(args, session).await
        }
        Command::Release(ReleaseCommand::Mark(args)) => release::mark(args, session).await,
        Command::Release(ReleaseCommand::Pin(args)) => release::pin(args, session).await,
        Command::Release(ReleaseCommand::Unpin(args)) => release::unpin(args, session).await,
        Command::Agent(command) => agent::run(command, session).await,
        Command::Init(args) => init::run(args, session),
        Command::Validate(args) => fleet::validate(args, session).await,
        Command::Apply(args) => fleet::apply(args, session).await,
        Command::Policy(PolicyCommand::Render(args)) => fleet::render(args, session),
        Command::Context(command) => context_command::run(command, session),
        Command::Sandbox(args) => sandbox::run(args, session).await,
        Command::Part(_) => {
            Err(CtlError::usage("a part of the sandbox runs by itself", &["ctl sandbox"]))
        }
        Command::Version => version(session),
    }
}

/// How this program is called before a session knows better.
const CTL: &str = "ctl";

/// Tells a person, and a program that waits for a document, what went wrong. `ctl` begins each
/// command that they may type next.
pub fn report(out: &mut Out, ctl: &str, error: &CtlError) -> Exit {
    let told = error.told().with_ctl(ctl);
    out.insist(&failure::failure(&out.view(), &told));
    if out.format() != Format::Text {
        // The exit code says it as well, where stdout is gone.
        out.show(|_| String::new(), || json::Error::new(error, told)).ok();
    }
    error.exit()
}

fn version(session: &mut Session) -> Result<Exit, CtlError> {
    let version = json::Version {
        version: env!("CARGO_PKG_VERSION"),
        protocol_min: proto::PROTOCOL_MIN,
        protocol_max: proto::PROTOCOL_MAX,
    };
    let text = format!(
        "ctl {}, protocol {} to {}\n",
        version.version, version.protocol_min, version.protocol_max
    );
    session.out.show(|_| text, || version.clone())?;
    Ok(Exit::Done)
}

const fn manner(global: &Global) -> Manner {
    Manner {
        format: global.output,
        quiet: global.quiet,
        verbose: global.verbose,
        no_color: global.no_color,
        no_input: global.no_input,
    }
}

/// How long the prompt waits for the last spans.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Logs only where they are asked for: stderr belongs to the live view.
fn telemetry() -> Result<telemetry::Guard, CtlError> {
    let logs = std::env::var_os(telemetry::LOG_VARIABLE).is_some_and(|value| !value.is_empty());
    let guard = if logs {
        telemetry::init("lastgood-ctl", telemetry::Format::Text).map_err(CtlError::Telemetry)?
    } else {
        telemetry::traces_only("lastgood-ctl")
    };
    Ok(guard.within(FLUSH_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn refused(line: &str) -> ErrorKind {
        parsed(line).map(|cli| panic!("{line} was read as {cli:?}")).unwrap_err().kind()
    }

    #[test]
    fn the_tree_is_sound_and_every_command_has_examples() {
        fn walk(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let is_freeze = ["on", "off", "list", "use"].contains(&command.get_name());
            assert!(
                help.contains("Examples:") || is_freeze || command.is_hide_set(),
                "{}",
                command.get_name()
            );
            for line in help.lines() {
                assert!(line.chars().count() <= 110, "{line}");
            }
            command.get_subcommands().for_each(walk);
        }
        let command = Cli::command();
        command.clone().debug_assert();
        walk(&command);
    }

    #[test]
    fn what_every_command_takes_may_stand_anywhere() {
        for line in [
            "ctl --fleet prod -o json rollback --timeout 90s",
            "ctl rollback -o json --timeout 90s --fleet prod",
        ] {
            let cli = parsed(line).unwrap();
            assert_eq!(cli.global.fleet.as_deref(), Some("prod"));
            assert_eq!(cli.global.output, Format::Json);
            assert_eq!(cli.global.timeout, Some(Span::seconds(90)));
        }
    }

    #[test]
    fn a_rollback_is_read_as_it_is_written() {
        let cli =
            parsed("ctl rollback --to v1 --hosts a,b --reason x --detach --confirm f").unwrap();
        let Command::Rollback(args) = cli.command else { panic!() };
        assert_eq!(
            (args.to.as_deref(), args.hosts),
            (Some("v1"), vec!["a".to_owned(), "b".to_owned()])
        );
        let asked = args.asked;
        assert!(asked.detach && !asked.dry_run);
        assert_eq!((asked.reason.as_str(), asked.confirm.as_deref()), ("x", Some("f")));
    }

    #[test]
    fn what_contradicts_itself_is_refused_before_anything_is_asked() {
        for line in [
            "ctl rollback --plan 8f --to v1",
            "ctl rollback --plan 8f --yes",
            "ctl rollback --plan 8f --dry-run",
            "ctl rollback --undo rb-1 --to v1",
            "ctl rollback --undo rb-1 --in-place",
            "ctl switch --to green --undo sw-1",
            "ctl deploy --release v2 --plan 8f --yes",
            "ctl abort rb-1 --restore --leave",
            "ctl canary promote --to 50 --full",
            "ctl canary start --plan 8f --release v2",
            "ctl status -q -v",
        ] {
            assert_eq!(refused(line), ErrorKind::ArgumentConflict, "{line}");
        }
        for line in [
            "ctl abort rb-1",
            "ctl freeze on",
            "ctl release mark v1 bad",
            "ctl release quarantine v1",
            "ctl release create v1",
            "ctl deploy",
            "ctl switch",
            "ctl canary start",
            "ctl approve",
            "ctl reject rb-1",
            "ctl snapshot create",
            "ctl rollback --detailed-exitcode",
        ] {
            assert_eq!(refused(line), ErrorKind::MissingRequiredArgument, "{line}");
        }
        assert_eq!(refused("ctl rollbak"), ErrorKind::InvalidSubcommand);
        assert_eq!(refused("ctl rollback --help"), ErrorKind::DisplayHelp);
    }
}
