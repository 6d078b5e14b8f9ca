//! `ctl doctor`: would a rollback work right now?

use clap::Args;
use proto::v1;

use crate::{
    error::CtlError,
    exit::Exit,
    render::{doctor, json},
    session::Session,
};

/// See `ctl doctor --help`.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct DoctorArgs {
    /// Exit 10 for a warning too, not only where a rollback would not work
    #[arg(long)]
    pub strict: bool,
}

/// Runs the command. Exits 10 where a rollback would not work; with `--strict` also for a warning.
///
/// # Errors
/// No connection, or a fleet that is not known.
pub async fn run(args: DoctorArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let request = v1::DoctorRequest { fleet: session.fleet() };
    let mut client = session.client().await?;
    let answer = client.doctor(request).await.map_err(CtlError::call("look at the fleet"))?;
    let answer = answer.into_inner();
    let ctl = session.ctl();
    session.out.show(|view| doctor::doctor(view, &answer, &ctl), || json::Doctor::from(&answer))?;
    let warned = answer.findings.iter().any(|finding| finding.severity() == v1::Severity::Warning);
    Ok(if !answer.ready || (args.strict && warned) { Exit::Refused } else { Exit::Done })
}
