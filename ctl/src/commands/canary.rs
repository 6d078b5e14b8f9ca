//! `ctl canary`: a release on a few hosts first, and what a person does about it.
//!
//! ```text
//! GetFleet.operation ─▶ GetOperation.canary ─▶ say the weights ─▶ ask the coordinator ─▶ watch ─▶ say the weights
//! ```
//!
//! Invariant: nobody names the operation: it is the one that runs in the fleet, or there is none.
//! Invariant: an abort is a success only when the edges say that the canary gets nothing.

use std::time::Duration;

use clap::{Args, Subcommand};
use proto::v1::{self, promote_operation_request::To};
use tokio::time::{Instant, sleep};

use crate::{
    commands::forward::{self, DeployArgs, Strategy},
    commands::planned::Asked,
    confirm::{Given, Question, confirm},
    error::CtlError,
    exit::Exit,
    follow::has_ended,
    render::{
        canary::{self, Now, Stands},
        json, paint_warning,
    },
    run::{self, Ran},
    session::{Session, quote},
};

/// How long the edges may take to say what they do, once the operation is over: a host tells at its next heartbeat.
const EDGES_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// See `ctl canary --help`.
#[derive(Clone, Debug, Subcommand)]
pub enum CanaryCommand {
    /// Try a release on a few hosts first; the same as `ctl deploy --strategy canary`
    #[command(
        after_help = "Examples:\n  ctl canary start --fleet prod --release v1.4.4\n  ctl canary start --release v1.4.4 --dry-run"
    )]
    Start(Box<StartArgs>),
    /// The weight, the judge's words with their numbers, what it waits for, what to type
    #[command(
        after_help = "Examples:\n  ctl canary status --fleet prod\n  ctl canary status -o json | jq -r .ruling.verdict"
    )]
    Status,
    /// Go on before its time: to the next weight, to one that is named, or to the whole fleet
    #[command(after_help = "Examples:\n  \
        ctl canary promote --fleet prod           to the next weight\n  \
        ctl canary promote --to 50                to that one of its weights\n  \
        ctl canary promote --full --confirm prod  to the whole fleet, without a question")]
    Promote(PromoteArgs),
    /// Stand still at its weight; the judge still looks, and takes it back where he says fail
    #[command(after_help = "Examples:\n  ctl canary pause --fleet prod\n  ctl canary resume")]
    Pause,
    /// Go on where it stood
    #[command(after_help = "Examples:\n  ctl canary resume --fleet prod")]
    Resume,
    /// Take it back: no traffic to the canary, every host as it was; never asks
    #[command(
        after_help = "Examples:\n  ctl canary abort --fleet prod     exit 0 when the edges say 0 % and every host is back\n  ctl canary abort --detach"
    )]
    Abort(AbortArgs),
}

/// See `ctl canary start --help`.
#[derive(Args, Clone, Debug)]
pub struct StartArgs {
    /// The release that is tried; made known by `ctl release create` or `ctl snapshot create`
    #[arg(long, value_name = "RELEASE", required_unless_present = "plan", conflicts_with = "plan")]
    pub release: Option<String>,
    /// Change the side that is still kept as the instant way back
    #[arg(long, conflicts_with = "plan")]
    pub give_up_warm: bool,
    /// Let the code go to where the database's migrations are not known to fit; say why
    #[arg(long, requires = "reason", conflicts_with = "plan")]
    pub across_migrations: bool,
    /// Do not fetch first: take what the hosts have
    #[arg(long, conflicts_with = "plan")]
    pub no_fetch: bool,
    #[command(flatten)]
    pub asked: Asked,
}

/// See `ctl canary promote --help`.
#[derive(Args, Clone, Debug)]
pub struct PromoteArgs {
    /// A weight of its steps, in percent [default: the next one]
    #[arg(long, value_name = "PERCENT", conflicts_with = "full")]
    pub to: Option<u32>,
    /// To the whole fleet
    #[arg(long)]
    pub full: bool,
    /// The fleet's name, instead of typing it
    #[arg(long, value_name = "FLEET")]
    pub confirm: Option<String>,
    /// Do not ask; outside production only
    #[arg(long)]
    pub yes: bool,
    /// Ask for it, and do not watch
    #[arg(long)]
    pub detach: bool,
}

/// See `ctl canary abort --help`.
#[derive(Args, Clone, Copy, Debug)]
pub struct AbortArgs {
    /// Ask for it, and do not watch
    #[arg(long)]
    pub detach: bool,
}

/// `ctl canary`.
///
/// # Errors
/// No connection; no canary runs; the coordinator's refusal; not confirmed.
pub async fn run(command: &CanaryCommand, session: &mut Session) -> Result<Exit, CtlError> {
    match command {
        CanaryCommand::Start(args) => start(args, session).await,
        CanaryCommand::Status => {
            let running = running(session).await?;
            show(session, &running)?;
            Ok(Exit::Done)
        }
        CanaryCommand::Promote(args) => promote(args, session).await,
        CanaryCommand::Pause => pause(session).await,
        CanaryCommand::Resume => resume(session).await,
        CanaryCommand::Abort(args) => abort(*args, session).await,
    }
}

async fn start(args: &StartArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let deploy = DeployArgs {
        release: args.release.clone(),
        strategy: Some(Strategy::Canary),
        hosts: Vec::new(),
        give_up_warm: args.give_up_warm,
        across_migrations: args.across_migrations,
        no_fetch: args.no_fetch,
        asked: args.asked.clone(),
    };
    forward::deploy(&deploy, session).await
}

/// The fleet's canary.
struct Running {
    fleet: v1::GetFleetResponse,
    operation: v1::Operation,
}

impl Running {
    /// Absent where the operation that runs has none.
    fn now(&self) -> Option<Now<'_>> {
        Now::new(&self.operation, self.fleet.traffic.as_ref())
    }

    fn group(&self) -> String {
        self.operation.canary.as_ref().map(|canary| canary.group.clone()).unwrap_or_default()
    }
}

/// The canary that runs in the fleet.
async fn running(session: &mut Session) -> Result<Running, CtlError> {
    let fleet = fleet(session).await?;
    let none = |fleet: &v1::GetFleetResponse, now: String| CtlError::State {
        what: format!("no canary runs in {}", fleet.fleet),
        now: vec![now],
        next: vec![format!("ctl status --fleet {}", quote(&fleet.fleet))],
    };
    if fleet.operation.is_empty() {
        return Err(none(&fleet, "no operation runs there".to_owned()));
    }
    let operation = operation(session, &fleet.operation).await?;
    if operation.canary.is_none() {
        let now = format!("{} runs there, which has no canary", fleet.operation);
        return Err(none(&fleet, now));
    }
    if has_ended(&operation) {
        return Err(none(&fleet, format!("{} is over", fleet.operation)));
    }
    Ok(Running { fleet, operation })
}

async fn fleet(session: &mut Session) -> Result<v1::GetFleetResponse, CtlError> {
    let request = v1::GetFleetRequest { fleet: session.fleet() };
    let mut client = session.client().await?;
    let fleet = client.get_fleet(request).await.map_err(CtlError::call("look at the fleet"))?;
    Ok(fleet.into_inner())
}

async fn operation(session: &mut Session, id: &str) -> Result<v1::Operation, CtlError> {
    const DOING: &str = "look at the operation";
    let request = v1::GetOperationRequest { operation: id.to_owned() };
    let mut client = session.client().await?;
    let response = client.get_operation(request).await.map_err(CtlError::call(DOING))?;
    response.into_inner().operation.ok_or(CtlError::Answer { doing: DOING })
}

/// How it stands, as data.
fn show(session: &mut Session, running: &Running) -> Result<(), CtlError> {
    let Some(now) = running.now() else {
        return Err(CtlError::Answer { doing: "look at the operation" });
    };
    let ctl = session.ctl();
    session.out.show(|view| canary::status(view, &now, &ctl), || json::Canary::from(&now))
}

/// How it stands after something was asked of it.
async fn show_again(session: &mut Session, before: Running) -> Result<(), CtlError> {
    let operation = operation(session, &before.operation.id).await?;
    let fleet = fleet(session).await?;
    show(session, &Running { fleet, operation })
}

async fn pause(session: &mut Session) -> Result<Exit, CtlError> {
    let running = running(session).await?;
    let request = v1::PauseOperationRequest { operation: running.operation.id.clone() };
    let mut client = session.client().await?;
    client.pause_operation(request).await.map_err(CtlError::call("pause the canary"))?;
    show_again(session, running).await?;
    Ok(Exit::Done)
}

async fn resume(session: &mut Session) -> Result<Exit, CtlError> {
    let running = running(session).await?;
    let request = v1::ResumeOperationRequest { operation: running.operation.id.clone() };
    let mut client = session.client().await?;
    client.resume_operation(request).await.map_err(CtlError::call("resume the canary"))?;
    show_again(session, running).await?;
    Ok(Exit::Done)
}

/// The weight that is meant, and the plan's stage that gives it; no stage for the whole fleet.
fn target(args: &PromoteArgs, now: &Now<'_>) -> Result<(u32, Option<u32>), CtlError> {
    let wanted = match (args.full, args.to) {
        (true, _) => 100,
        (false, Some(weight)) => weight,
        (false, None) => now.next_weight(),
    };
    let step = now.canary.steps.iter().find(|step| step.weight == wanted);
    match step {
        Some(step) => Ok((wanted, Some(step.stage))),
        None if wanted == 100 => Ok((100, None)),
        None => {
            let weights = now.canary.steps.iter().map(|step| step.weight.to_string());
            let weights: Vec<String> = weights.chain(["100".to_owned()]).collect();
            let what =
                format!("{wanted} is no weight of this canary: it has {}", weights.join(", "));
            Err(CtlError::usage(what, &["ctl canary status"]))
        }
    }
}

async fn promote(args: &PromoteArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let running = running(session).await?;
    let now = running.now().ok_or(CtlError::Answer { doing: "look at the operation" })?;
    let (wanted, stage) = target(args, &now)?;
    let moves = canary::moves(&now.canary.group, now.weight(), wanted);
    let plan = running.operation.plan.clone().unwrap_or_default();
    session.out.talk(&format!("{}  {moves}", running.operation.id));
    let what = format!("promotion of {} ({moves})", running.operation.id);
    let command = command(session, args, &plan.fleet);
    let question = Question {
        what: &what,
        fleet: &plan.fleet,
        production: plan.production,
        command: &command,
    };
    let given = Given { confirm: args.confirm.as_deref(), yes: args.yes };
    confirm(&mut session.out, &question, given)?;

    let to = match stage {
        // Without a name it is the next one, whichever that is by then.
        _ if args.to.is_none() && !args.full => None,
        Some(_) => Some(To::Weight(wanted)),
        None => Some(To::Full(true)),
    };
    let id = running.operation.id.clone();
    let request = v1::PromoteOperationRequest { operation: id.clone(), to };
    let mut client = session.client().await?;
    client.promote_operation(request).await.map_err(CtlError::call("promote the canary"))?;
    if args.detach {
        return run::show(session, &Ran::Begun { operation: id }).await;
    }
    // What was said before is known; what comes is to be told.
    let since = running.operation.events;
    let mut until = |event: &v1::WatchOperationResponse| stage.is_some_and(|it| is_set(event, it));
    match run::watch_until(session, &id, since, &mut |_| {}, &mut until).await? {
        // It ended before, or nobody waits any longer.
        Some(ran) => run::show(session, &ran).await,
        None => reached(session, running, wanted).await,
    }
}

/// Whether a stage's weight stands.
fn is_set(event: &v1::WatchOperationResponse, stage: u32) -> bool {
    use v1::watch_operation_response::Event;
    matches!(&event.event, Some(Event::StageEnded(ended)) if ended.stage == stage)
}

/// The weight stands: as the edges say it, where they do so in time.
async fn reached(session: &mut Session, before: Running, wanted: u32) -> Result<Exit, CtlError> {
    let seen = seen(session, &before.group(), wanted).await?;
    show_again(session, before).await?;
    Ok(if seen { Exit::Done } else { Exit::Unverified })
}

/// Waits until the edges say that a group gets this weight. Says so where they do not.
async fn seen(session: &mut Session, group: &str, weight: u32) -> Result<bool, CtlError> {
    let began = Instant::now();
    loop {
        let fleet = fleet(session).await?;
        let observed = canary::observed(fleet.traffic.as_ref(), group);
        if observed == Some(weight) {
            return Ok(true);
        }
        if began.elapsed() >= EDGES_WITHIN {
            let says = observed.map_or_else(
                || "do not say the same, or nothing".to_owned(),
                |observed| format!("say {observed} %"),
            );
            let text = format!("{group} should get {weight} % now; the edges {says}");
            session.out.insist(&paint_warning(&text));
            return Ok(false);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// A bare rollback while a canary runs is its abort: what was live before is what it goes back to. Nothing where none
/// runs.
///
/// # Errors
/// As the abort's.
pub async fn going_back(session: &mut Session, detach: bool) -> Result<Option<Exit>, CtlError> {
    let running = match running(session).await {
        Ok(running) => running,
        Err(CtlError::State { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let id = running.operation.id.clone();
    if !running.operation.aborted_by.is_empty() {
        session.out.talk(&format!("{id}, a canary, is going back already"));
        let ran = run::watch(session, &id, running.operation.events, &mut |_| {}).await?;
        let ended = |ended: &v1::Operation| Exit::of_restoring_abort(ended.result());
        let exit = ran.ended().map_or(ran.exit(), ended);
        return run::show_as(session, &ran, exit).await.map(Some);
    }
    session.out.talk(&format!("{id}, a canary, runs: to roll back is to abort it"));
    taken_back(running, AbortArgs { detach }, session).await.map(Some)
}

async fn abort(args: AbortArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let running = running(session).await?;
    taken_back(running, args, session).await
}

async fn taken_back(
    running: Running,
    args: AbortArgs,
    session: &mut Session,
) -> Result<Exit, CtlError> {
    let now = running.now().ok_or(CtlError::Answer { doing: "look at the operation" })?;
    let (group, id) = (running.group(), running.operation.id.clone());
    let moves = match now.stands() {
        Stands::Promoted => format!("{group} → 0 %, and everything as it was"),
        Stands::Prepares | Stands::At(_) | Stands::Over => canary::moves(&group, now.weight(), 0),
    };
    session.out.talk(&format!("{id}  {moves}"));
    let mode = v1::AbortMode::Restore.into();
    let request = v1::AbortOperationRequest { operation: id.clone(), mode };
    let mut client = session.client().await?;
    client.abort_operation(request).await.map_err(CtlError::call("abort the canary"))?;
    if args.detach {
        return run::show(session, &Ran::Begun { operation: id }).await;
    }
    let ran = run::watch(session, &id, running.operation.events, &mut |_| {}).await?;
    let exit = match ran.ended().map(|ended| Exit::of_restoring_abort(ended.result())) {
        None => ran.exit(),
        Some(exit) if exit != Exit::Done => exit,
        Some(_) if seen(session, &group, 0).await? => {
            session.out.talk(&format!("{group} 0 %, as the edges say"));
            Exit::Done
        }
        Some(_) => Exit::Unverified,
    };
    run::show_as(session, &ran, exit).await
}

/// The line that does the same without a question.
fn command(session: &Session, args: &PromoteArgs, fleet: &str) -> String {
    let fleet = quote(fleet);
    let to = match (args.full, args.to) {
        (true, _) => " --full".to_owned(),
        (false, Some(weight)) => format!(" --to {weight}"),
        (false, None) => String::new(),
    };
    let detach = if args.detach { " --detach" } else { "" };
    format!("{} canary promote{to} --fleet {fleet} --confirm {fleet}{detach}", session.ctl())
}
