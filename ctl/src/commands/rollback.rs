//! `ctl rollback`: back to the last good release.
//!
//! Invariant: what runs is exactly the plan that was shown; the coordinator refuses it when the fleet has changed.

use clap::Args;
use proto::v1;

use crate::{
    commands::{
        canary,
        planned::{self, Asked},
    },
    error::CtlError,
    exit::Exit,
    run::{self, Observe, Ran},
    session::Session,
};

/// See `ctl rollback --help`.
#[derive(Args, Clone, Debug, Default)]
pub struct RollbackArgs {
    /// The release to go to [default: the newest good one older than the live one]
    #[arg(long, value_name = "RELEASE", conflicts_with = "plan")]
    pub to: Option<String>,
    /// Only these hosts; then no release is marked bad and nothing is frozen
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', conflicts_with = "plan")]
    pub hosts: Vec<String>,
    /// Let the code go back further than the database's migrations, which each host refuses else; say why
    #[arg(long, requires = "reason", conflicts_with_all = ["plan", "undo"])]
    pub across_migrations: bool,
    /// Leave the traffic as it is, where an edge cannot move it: each host is out from stop to start
    #[arg(long, conflicts_with_all = ["plan", "undo"])]
    pub in_place: bool,
    /// Go back to what was live before this operation
    #[arg(long, value_name = "OPERATION", conflicts_with_all = ["to", "hosts", "plan"])]
    pub undo: Option<String>,
    #[command(flatten)]
    pub asked: Asked,
}

/// Runs the command.
///
/// # Errors
/// As [`execute`].
pub async fn run(args: &RollbackArgs, session: &mut Session) -> Result<Exit, CtlError> {
    if is_bare(args)
        && let Some(exit) = canary::going_back(session, args.asked.detach).await?
    {
        return Ok(exit);
    }
    let ran = execute(args, session, &mut |_| {}).await?;
    run::show(session, &ran).await
}

/// Everything that `ctl rollback` does but printing its result. `observe` sees each event.
///
/// # Errors
/// No connection; the coordinator's refusal; not confirmed.
pub async fn execute(
    args: &RollbackArgs,
    session: &mut Session,
    observe: Observe<'_>,
) -> Result<Ran, CtlError> {
    planned::execute(&args.asked, "rollback", request(args), session, observe).await
}

/// Only that it has to go back: not where to, nor which hosts, nor how it would.
fn is_bare(args: &RollbackArgs) -> bool {
    let RollbackArgs { to, hosts, across_migrations, in_place, undo, asked } = args;
    let named = to.is_some() || undo.is_some() || !hosts.is_empty();
    !named && !across_migrations && !in_place && !asked.dry_run && asked.plan.is_none()
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
