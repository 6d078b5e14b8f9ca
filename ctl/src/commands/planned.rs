//! What asks first: a plan that is shown, agreed to, and run exactly so.
//!
//! ```text
//! CreatePlan ─▶ show ─▶ confirm ─▶ StartOperation ─▶ watch
//! --dry-run stops here ─┘          ▲
//! --plan ID begins here ───────────┘
//! ```

use clap::Args;
use proto::v1;

use crate::{
    confirm::{Given, Question, confirm},
    error::CtlError,
    render::plan as plan_view,
    run::{self, Observe, Ran, Start},
    session::{Session, quote},
};

/// What each command takes that asks first.
#[derive(Args, Clone, Debug, Default)]
pub struct Asked {
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
    #[arg(long, value_name = "ID", conflicts_with = "yes")]
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
    /// The same key never begins a second operation [default: a new one]
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// Plans a request, or takes the plan that was given; asks; runs: the plan, the question and the live view go to stderr.
/// `again` is the command as it was meant, without what is common to all of them. `observe` sees each event.
///
/// # Errors
/// No connection; the coordinator's refusal; not confirmed.
pub async fn execute(
    asked: &Asked,
    again: &str,
    request: v1::create_plan_request::Request,
    session: &mut Session,
    observe: Observe<'_>,
) -> Result<Ran, CtlError> {
    if let Some(id) = &asked.plan {
        return given(asked, id, again, session, observe).await;
    }
    match new_plan(asked, again, request, session).await? {
        Next::Start(start) => begun(asked, &start, session, observe).await,
        Next::Stop(ran) => Ok(ran),
    }
}

/// Runs exactly a plan that was shown before.
///
/// # Errors
/// As [`execute`].
pub async fn given(
    asked: &Asked,
    id: &str,
    again: &str,
    session: &mut Session,
    observe: Observe<'_>,
) -> Result<Ran, CtlError> {
    let start = given_plan(asked, again, session, id).await?;
    begun(asked, &start, session, observe).await
}

async fn begun(
    asked: &Asked,
    start: &Start,
    session: &mut Session,
    observe: Observe<'_>,
) -> Result<Ran, CtlError> {
    let operation = run::start(session, start).await?;
    if asked.detach {
        return Ok(Ran::Begun { operation });
    }
    run::watch(session, &operation, 0, observe).await
}

enum Next {
    Start(Start),
    Stop(Ran),
}

async fn new_plan(
    asked: &Asked,
    again: &str,
    request: v1::create_plan_request::Request,
    session: &mut Session,
) -> Result<Next, CtlError> {
    let plan = run::plan(session, request).await?;
    let command = command(asked, again, session, &plan.fleet, &plan.id);
    let plan = Box::new(plan);
    if asked.dry_run {
        let detailed_exit = asked.detailed_exitcode;
        return Ok(Next::Stop(Ran::Planned { plan, command, detailed_exit }));
    }
    if plan.nothing_to_do {
        return Ok(Next::Stop(Ran::NothingToDo(plan)));
    }
    let text = plan_view::plan(&session.out.view(), &plan, "");
    if asked.confirm.is_none() && !asked.yes && session.out.can_ask() {
        // Nobody is asked to agree to what they have not seen, however quiet they want it.
        session.out.insist(&text);
    } else {
        session.out.talk(&text);
    }
    let what = plan_view::name(&plan);
    let production = plan.production;
    agree(asked, session, (&what, &plan.fleet, production), &command)?;
    Ok(Next::Start(begin(asked, &plan.id, command)))
}

/// A plan that was shown before. What it says is not asked for again, so the name is always wanted.
async fn given_plan(
    asked: &Asked,
    again: &str,
    session: &mut Session,
    id: &str,
) -> Result<Start, CtlError> {
    let request = v1::GetFleetRequest { fleet: session.fleet() };
    let mut client = session.client().await?;
    let fleet = client.get_fleet(request).await.map_err(CtlError::call("look at the fleet"))?;
    let fleet = fleet.into_inner().fleet;
    let command = command(asked, again, session, &fleet, id);
    agree(asked, session, (&format!("plan {id} of {fleet}"), &fleet, true), &command)?;
    Ok(begin(asked, id, command))
}

fn agree(
    asked: &Asked,
    session: &mut Session,
    (what, fleet, production): (&str, &str, bool),
    command: &str,
) -> Result<(), CtlError> {
    let question = Question { what, fleet, production, command };
    let given = Given { confirm: asked.confirm.as_deref(), yes: asked.yes };
    confirm(&mut session.out, &question, given)
}

fn begin(asked: &Asked, plan_id: &str, command: String) -> Start {
    let key = asked.idempotency_key.clone().unwrap_or_else(run::new_key);
    let again = match asked.idempotency_key {
        Some(_) => command,
        None => format!("{command} --idempotency-key {key}"),
    };
    Start { plan_id: plan_id.to_owned(), reason: asked.reason.clone(), idempotency_key: key, again }
}

/// The line that runs exactly this plan without a question.
fn command(asked: &Asked, again: &str, session: &Session, fleet: &str, plan_id: &str) -> String {
    let fleet = quote(fleet);
    let mut line = format!(
        "{} {again} --fleet {fleet} --plan {} --confirm {fleet}",
        session.ctl(),
        quote(plan_id)
    );
    if !asked.reason.is_empty() {
        line += &format!(" --reason {}", quote(&asked.reason));
    }
    if asked.detach {
        line += " --detach";
    }
    if let Some(key) = &asked.idempotency_key {
        line += &format!(" --idempotency-key {}", quote(key));
    }
    line
}
