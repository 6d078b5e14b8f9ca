//! `ctl snapshot`: record what is live, see what is recorded, read it in full.
//!
//! Invariant: none of these changes what is live, so none asks.

use clap::Args;
use proto::v1;

use crate::{
    error::CtlError,
    exit::Exit,
    render::{json, lists},
    run::{self, Ran, Start},
    session::Session,
};

/// See `ctl snapshot create --help`.
#[derive(Args, Clone, Debug)]
pub struct CreateArgs {
    /// The release that everything as it is now is recorded under
    #[arg(long = "as", value_name = "RELEASE")]
    pub release: String,
    /// Why; kept in the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// See `ctl snapshot verify --help`.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    #[arg(value_name = "RELEASE")]
    pub release: String,
}

/// See `ctl snapshot list --help`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Only this release
    #[arg(value_name = "RELEASE")]
    pub release: Option<String>,
}

/// `ctl snapshot create`.
///
/// # Errors
/// No connection, or the coordinator's refusal.
pub async fn create(args: &CreateArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let request = v1::create_plan_request::Request::Snapshot(args.release.clone());
    run_plan(session, request, &args.reason).await
}

/// `ctl snapshot verify`.
///
/// # Errors
/// No connection, or the coordinator's refusal.
pub async fn verify(args: &VerifyArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let request = v1::create_plan_request::Request::Check(args.release.clone());
    run_plan(session, request, "").await
}

/// `ctl snapshot list`.
///
/// # Errors
/// No connection, or a fleet that is not known.
pub async fn list(args: &ListArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let mut client = session.client().await?;
    let request = v1::ListReleasesRequest { fleet: session.fleet() };
    let response = client.list_releases(request).await;
    let mut list = response.map_err(CtlError::call("list the snapshots"))?.into_inner();
    list.releases.retain(|row| args.release.as_ref().is_none_or(|only| *only == row.release));
    session.out.show(|view| lists::snapshots(view, &list), || json::Snapshots::new(&list))?;
    Ok(Exit::Done)
}

async fn run_plan(
    session: &mut Session,
    request: v1::create_plan_request::Request,
    reason: &str,
) -> Result<Exit, CtlError> {
    let plan = run::plan(session, request).await?;
    if plan.nothing_to_do {
        return run::show(session, &Ran::NothingToDo(Box::new(plan))).await;
    }
    let start = Start {
        plan_id: plan.id,
        reason: reason.to_owned(),
        idempotency_key: run::new_key(),
        again: format!("{} history", session.ctl()),
    };
    let operation = run::start(session, &start).await?;
    let ran = run::watch(session, &operation, 0, &mut |_| {}).await?;
    run::show(session, &ran).await
}
