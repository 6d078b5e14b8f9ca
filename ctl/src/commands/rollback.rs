//! `ctl rollback`: back to the last good release.
//!
//! ```text
//! CreatePlan ─▶ show ─▶ confirm ─▶ StartOperation ─▶ watch ─▶ summary
//! --dry-run stops here ─┘          ▲
//! --plan ID begins here ───────────┘
//! ```
//!
//! Invariant: what runs is exactly the plan that was shown; the coordinator refuses it when the fleet has changed.

use clap::Args;
use proto::v1;

use crate::{
    confirm::{Given, Question, confirm},
    error::CtlError,
    exit::Exit,
    render::plan as plan_view,
    run::{self, Observe, Ran, Start},
    session::{Session, quote},
};

/// See `ctl rollback --help`.
#[derive(Args, Clone, Debug, Default)]
pub struct RollbackArgs {
    /// The release to go to [default: the newest good one older than the live one]
    #[arg(long, value_name = "RELEASE")]
    pub to: Option<String>,
    /// Only these hosts; then no release is marked bad and nothing is frozen
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    pub hosts: Vec<String>,
    /// Let the code go back further than the database's migrations, which each host refuses else; say why
    #[arg(long, requires = "reason", conflicts_with_all = ["plan", "undo"])]
    pub across_migrations: bool,
    /// Leave the traffic as it is: for an edge that cannot move it. Each host is out from stop to start.
    #[arg(long, conflicts_with = "undo")]
    pub in_place: bool,
    /// Why; kept in the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Show the plan and do nothing
    #[arg(long, conflicts_with_all = ["plan", "detach"])]
    pub dry_run: bool,
    /// With --dry-run: exit 30 where there is something to do
    #[arg(long, requires = "dry_run")]
    pub detailed_exitcode: bool,
    /// Run exactly this plan, shown by --dry-run before; refused (12) when the fleet has changed
    #[arg(long, value_name = "ID", conflicts_with_all = ["to", "hosts", "undo", "yes"])]
    pub plan: Option<String>,
    /// The fleet's name, instead of typing it
    #[arg(long, value_name = "FLEET")]
    pub confirm: Option<String>,
    /// Do not ask; outside production only
    #[arg(long)]
    pub yes: bool,
    /// Begin, print the operation's id, and do not watch
    #[arg(long)]
    pub detach: bool,
    /// Go back to what was live before this operation
    #[arg(long, value_name = "OPERATION", conflicts_with_all = ["to", "hosts"])]
    pub undo: Option<String>,
    /// The same key never begins a second operation [default: a new one]
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// As [`execute`].
pub async fn run(args: &RollbackArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let ran = execute(args, session, &mut |_| {}).await?;
    run::show(session, &ran)
}

/// Everything that `ctl rollback` does but printing its result: the plan, the question and the live view go to stderr.
/// `observe` sees each event.
///
/// # Errors
/// No connection; the coordinator's refusal; not confirmed.
pub async fn execute(
    args: &RollbackArgs,
    session: &mut Session,
    observe: Observe<'_>,
) -> Result<Ran, CtlError> {
    let start = match &args.plan {
        Some(id) => given_plan(args, session, id).await?,
        None => match new_plan(args, session).await? {
            Next::Start(start) => start,
            Next::Stop(ran) => return Ok(ran),
        },
    };
    let operation = run::start(session, &start).await?;
    if args.detach {
        return Ok(Ran::Begun { operation });
    }
    run::watch(session, &operation, 0, observe).await
}

enum Next {
    Start(Start),
    Stop(Ran),
}

async fn new_plan(args: &RollbackArgs, session: &mut Session) -> Result<Next, CtlError> {
    let plan = run::plan(session, request(args)).await?;
    let command = command(args, session, &plan.fleet, &plan.id);
    let plan = Box::new(plan);
    if args.dry_run {
        let detailed_exit = args.detailed_exitcode;
        return Ok(Next::Stop(Ran::Planned { plan, command, detailed_exit }));
    }
    if plan.nothing_to_do {
        return Ok(Next::Stop(Ran::NothingToDo(plan)));
    }
    let text = plan_view::plan(&session.out.view(), &plan, "");
    if args.confirm.is_none() && !args.yes && session.out.can_ask() {
        // Nobody is asked to agree to what they have not seen, however quiet they want it.
        session.out.insist(&text);
    } else {
        session.out.talk(&text);
    }
    let question = Question {
        what: &plan_view::name(&plan),
        fleet: &plan.fleet,
        production: plan.production,
        command: &command,
    };
    confirm(&mut session.out, &question, given(args))?;
    Ok(Next::Start(begin(args, &plan.id, command)))
}

/// A plan that was shown before. What it says is not asked for again, so the name is always wanted.
async fn given_plan(
    args: &RollbackArgs,
    session: &mut Session,
    id: &str,
) -> Result<Start, CtlError> {
    let request = v1::GetFleetRequest { fleet: session.fleet() };
    let mut client = session.client().await?;
    let fleet = client.get_fleet(request).await.map_err(CtlError::call("look at the fleet"))?;
    let fleet = fleet.into_inner().fleet;
    let command = command(args, session, &fleet, id);
    let question = Question {
        what: &format!("plan {id} of {fleet}"),
        fleet: &fleet,
        production: true,
        command: &command,
    };
    confirm(&mut session.out, &question, given(args))?;
    Ok(begin(args, id, command))
}

fn request(args: &RollbackArgs) -> v1::create_plan_request::Request {
    match &args.undo {
        Some(operation) => v1::create_plan_request::Request::Undo(operation.clone()),
        None => v1::create_plan_request::Request::Rollback(v1::RollbackRequest {
            to_release: args.to.clone().unwrap_or_default(),
            hosts: args.hosts.clone(),
            across_migrations: args.across_migrations,
            in_place: args.in_place,
        }),
    }
}

fn given(args: &RollbackArgs) -> Given<'_> {
    Given { confirm: args.confirm.as_deref(), yes: args.yes }
}

fn begin(args: &RollbackArgs, plan_id: &str, command: String) -> Start {
    let key = args.idempotency_key.clone().unwrap_or_else(run::new_key);
    let again = match args.idempotency_key {
        Some(_) => command,
        None => format!("{command} --idempotency-key {key}"),
    };
    Start { plan_id: plan_id.to_owned(), reason: args.reason.clone(), idempotency_key: key, again }
}

/// The line that runs exactly this plan without a question.
fn command(args: &RollbackArgs, session: &Session, fleet: &str, plan_id: &str) -> String {
    let fleet = quote(fleet);
    let mut line = format!(
        "{} rollback --fleet {fleet} --plan {} --confirm {fleet}",
        session.ctl(),
        quote(plan_id)
    );
    if !args.reason.is_empty() {
        line += &format!(" --reason {}", quote(&args.reason));
    }
    if args.detach {
        line += " --detach";
    }
    if let Some(key) = &args.idempotency_key {
        line += &format!(" --idempotency-key {}", quote(key));
    }
    line
}
