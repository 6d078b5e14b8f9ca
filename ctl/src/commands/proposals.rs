//! `ctl proposals`, `ctl approve`, `ctl reject`: operations that wait for a person.
//!
//! ```text
//! ListProposals ─▶ the one that waits ─▶ CreatePlan: what it would do now ─▶ confirm ─▶ ApproveOperation ─▶ watch
//! ```
//!
//! Invariant: what is approved was shown; a plan that cannot be shown keeps nobody from approving.

use clap::Args;
use proto::v1::{self, create_plan_request::Request};

use crate::{
    confirm::{Given, Question, confirm},
    error::CtlError,
    exit::Exit,
    render::{json, paint_warning, plan as plan_view, triggers, words},
    run::{self, Ran},
    session::{Session, quote},
};

/// See `ctl approve --help`.
#[derive(Args, Clone, Debug)]
pub struct ApproveArgs {
    /// What was proposed, such as rb-0208
    #[arg(value_name = "OPERATION")]
    pub operation: String,
    /// Why; kept in the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// The fleet's name, instead of typing it
    #[arg(long, value_name = "FLEET")]
    pub confirm: Option<String>,
    /// Do not ask; outside production only
    #[arg(long)]
    pub yes: bool,
    /// Begin, print the operation's id, and do not watch
    #[arg(long)]
    pub detach: bool,
}

/// See `ctl reject --help`.
#[derive(Args, Clone, Debug)]
pub struct RejectArgs {
    /// What was proposed, such as rb-0208
    #[arg(value_name = "OPERATION")]
    pub operation: String,
    /// Why; kept in the history
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// `ctl proposals`.
///
/// # Errors
/// No connection, or a fleet that is not known.
pub async fn list(session: &mut Session) -> Result<Exit, CtlError> {
    let proposals = all(session).await?;
    let ctl = session.ctl();
    session.out.show(
        |view| triggers::proposals(view, &proposals, &ctl),
        || json::Proposals { proposals: proposals.iter().map(json::Proposal::from).collect() },
    )?;
    Ok(Exit::Done)
}

/// `ctl approve`: shows what it would do now, asks, and follows it to its end.
///
/// # Errors
/// No connection; nothing of that name waits; the coordinator's refusal; not confirmed.
pub async fn approve(args: &ApproveArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let proposal = waiting(&args.operation, session).await?;
    let text = triggers::proposal(&session.out.view(), &proposal);
    let plan = plan(&proposal, session).await?;
    let text = match &plan {
        Some(plan) => text + &plan_view::plan(&session.out.view(), plan, ""),
        None => text,
    };
    if args.confirm.is_none() && !args.yes && session.out.can_ask() {
        session.out.insist(&text);
    } else {
        session.out.talk(&text);
    }
    let what = format!("proposed {} {}", words::kind(proposal.kind), proposal.operation);
    let fleet = quote(&proposal.fleet);
    let mut command = format!(
        "{} approve {} --fleet {fleet} --confirm {fleet}",
        session.ctl(),
        quote(&proposal.operation)
    );
    if !args.reason.is_empty() {
        command += &format!(" --reason {}", quote(&args.reason));
    }
    if args.detach {
        command += " --detach";
    }
    // Where it is not known what it is, it is taken for production.
    let production = plan.is_none_or(|plan| plan.production);
    let question = Question { what: &what, fleet: &proposal.fleet, production, command: &command };
    let given = Given { confirm: args.confirm.as_deref(), yes: args.yes };
    confirm(&mut session.out, &question, given)?;

    let (operation, reason) = (proposal.operation.clone(), args.reason.clone());
    let request = v1::ApproveOperationRequest { operation: operation.clone(), reason };
    let mut client = session.client().await?;
    client.approve_operation(request).await.map_err(CtlError::call("approve the operation"))?;
    if args.detach {
        return run::show(session, &Ran::Begun { operation }).await;
    }
    let ran = run::watch(session, &operation, 0, &mut |_| {}).await?;
    run::show(session, &ran).await
}

/// `ctl reject`.
///
/// # Errors
/// No connection; nothing of that name waits.
pub async fn reject(args: &RejectArgs, session: &mut Session) -> Result<Exit, CtlError> {
    const DOING: &str = "reject the operation";
    let (operation, reason) = (args.operation.clone(), args.reason.clone());
    let request = v1::RejectOperationRequest { operation, reason };
    let mut client = session.client().await?;
    let response = client.reject_operation(request).await.map_err(CtlError::call(DOING))?;
    let proposal = response.into_inner().proposal.ok_or(CtlError::Answer { doing: DOING })?;
    session
        .out
        .show(|view| triggers::proposal(view, &proposal), || json::Proposal::from(&proposal))?;
    Ok(Exit::Done)
}

async fn all(session: &mut Session) -> Result<Vec<v1::Proposal>, CtlError> {
    let request = v1::ListProposalsRequest { fleet: session.fleet() };
    let mut client = session.client().await?;
    let response = client.list_proposals(request).await;
    Ok(response.map_err(CtlError::call("list the proposals"))?.into_inner().proposals)
}

/// The proposal of that id, which nobody has decided on.
async fn waiting(id: &str, session: &mut Session) -> Result<v1::Proposal, CtlError> {
    let Some(row) = all(session).await?.into_iter().find(|row| row.operation == id) else {
        let what = format!("nothing of the name {id} was proposed");
        return Err(CtlError::usage(what, &["ctl proposals"]));
    };
    if row.state() == v1::ProposalState::Waiting {
        return Ok(row);
    }
    let by =
        if row.decided_by.is_empty() { String::new() } else { format!(" by {}", row.decided_by) };
    let fleet = quote(&row.fleet);
    Err(CtlError::State {
        what: format!("{id} was {} already{by}", triggers::proposal_state(row.state)),
        now: Vec::from_iter(Some(row.decided_reason).filter(|reason| !reason.is_empty())),
        next: vec![format!("ctl rollback --fleet {fleet} --dry-run")],
    })
}

/// What it would do now. It is planned anew when it begins; this is for the person who is asked.
async fn plan(
    proposal: &v1::Proposal,
    session: &mut Session,
) -> Result<Option<v1::Plan>, CtlError> {
    let to_release = proposal.to_release.clone();
    let request = v1::RollbackRequest { to_release, ..v1::RollbackRequest::default() };
    let request = v1::CreatePlanRequest {
        fleet: proposal.fleet.clone(),
        request: Some(Request::Rollback(request)),
    };
    let mut client = session.client().await?;
    match client.create_plan(request).await {
        Ok(response) => Ok(response.into_inner().plan),
        Err(status) => {
            let told = CtlError::call("show its plan")(status).told();
            let why = [vec![told.what], told.cause].concat().join(": ");
            session.out.insist(&paint_warning(&format!("what it would do cannot be shown: {why}")));
            Ok(None)
        }
    }
}
