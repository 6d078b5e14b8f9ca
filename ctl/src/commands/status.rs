//! `ctl status`: what is live, and whether a rollback would work.

use std::time::Duration;

use clap::Args;
use proto::v1;
use tokio::time::sleep;

use crate::{
    error::{CtlError, explain},
    exit::Exit,
    follow::is_passing,
    out::Format,
    render::{json, paint_warning, status},
    session::Session,
};

/// How often `--watch` looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// See `ctl status --help`.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct StatusArgs {
    /// Look again every second, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

/// Runs the command.
///
/// # Errors
/// No connection, or a fleet that is not known.
pub async fn run(args: &StatusArgs, session: &mut Session) -> Result<Exit, CtlError> {
    if !args.watch {
        let fleet = look(session).await?.map_err(CtlError::call(DOING))?;
        let ctl = session.ctl();
        session
            .out
            .show(|view| status::status(view, &fleet, &ctl), || json::Status::from(&fleet))?;
        return Ok(Exit::Done);
    }
    if session.out.format() == Format::Json {
        let what = "-o json prints one document, --watch many";
        return Err(CtlError::usage(what, &["ctl status --watch -o jsonl"]));
    }
    tokio::select! {
        error = watch(session) => error,
        _ = tokio::signal::ctrl_c() => Ok(Exit::Done),
    }
}

const DOING: &str = "look at the fleet";

async fn look(
    session: &mut Session,
) -> Result<Result<v1::GetFleetResponse, tonic::Status>, CtlError> {
    let request = v1::GetFleetRequest { fleet: session.fleet() };
    let mut client = session.client().await?;
    Ok(client.get_fleet(request).await.map(tonic::Response::into_inner))
}

/// Shows the fleet whenever it looks different.
async fn watch(session: &mut Session) -> Result<Exit, CtlError> {
    let ctl = session.ctl();
    let (mut last, mut drawn) = (None, 0);
    loop {
        match look(session).await? {
            Ok(fleet) => {
                if session.out.redraws() && session.out.format() == Format::Text {
                    let text = status::status(&session.out.view(), &fleet, &ctl);
                    session.out.redraw(drawn, &text);
                    drawn = text.lines().count();
                } else if last.as_ref() != Some(&shape(&fleet)) {
                    session.out.show(
                        |view| status::status(view, &fleet, &ctl),
                        || json::Status::from(&fleet),
                    )?;
                }
                last = Some(shape(&fleet));
            }
            Err(status) if is_passing(&status) => {
                let text = paint_warning(&explain(&status));
                if session.out.redraws() {
                    session.out.redraw(drawn, &text);
                    drawn = 1;
                } else if last.take().is_some() {
                    session.out.talk(&text);
                }
            }
            Err(status) => return Err(CtlError::call(DOING)(status)),
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The fleet without what changes at every look.
fn shape(fleet: &v1::GetFleetResponse) -> v1::GetFleetResponse {
    let mut fleet = fleet.clone();
    for host in &mut fleet.hosts {
        host.last_seen_unix_ms = 0;
        if let Some(status) = &mut host.status {
            status.free_bytes = 0;
        }
    }
    fleet
}
