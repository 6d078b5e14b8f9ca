//! `ctl freeze`: whether new deploys may go out. Rollbacks never ask.

use clap::{Args, Subcommand};
use proto::v1;

use crate::{
    error::CtlError,
    exit::Exit,
    render::{json, status},
    session::Session,
};

/// See `ctl freeze --help`.
#[derive(Clone, Debug, Subcommand)]
pub enum FreezeCommand {
    /// No new deploy goes out until it is lifted
    On(FreezeArgs),
    /// New deploys may go out again
    Off(FreezeArgs),
}

/// Why.
#[derive(Args, Clone, Debug)]
pub struct FreezeArgs {
    /// Why; shown to whoever is kept from deploying
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// Runs the command.
///
/// # Errors
/// No connection, or a fleet that is not known.
pub async fn run(command: &FreezeCommand, session: &mut Session) -> Result<Exit, CtlError> {
    const DOING: &str = "set the freeze";
    let (frozen, args) = match command {
        FreezeCommand::On(args) => (true, args),
        FreezeCommand::Off(args) => (false, args),
    };
    let (fleet, reason) = (session.fleet(), args.reason.clone());
    let request = v1::SetFreezeRequest { fleet, frozen, reason };
    let mut client = session.client().await?;
    let response = client.set_freeze(request).await.map_err(CtlError::call(DOING))?;
    let freeze = response.into_inner().freeze.ok_or(CtlError::Answer { doing: DOING })?;
    session.out.show(
        |view| format!("New deploys: {}\n", status::freeze(view, Some(&freeze))),
        || json::Freeze::from(&freeze),
    )?;
    Ok(Exit::Done)
}
