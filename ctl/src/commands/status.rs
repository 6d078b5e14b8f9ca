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
        let (fleet, operation) = look(session).await?.map_err(CtlError::call(DOING))?;
        let (ctl, operation) = (session.ctl(), operation.as_ref());
        session.out.show(
            |view| status::status(view, &fleet, operation, &ctl),
            || json::Status::new(&fleet, operation),
        )?;
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

/// The fleet, and the operation that runs.
type Seen = (v1::GetFleetResponse, Option<v1::Operation>);

async fn look(session: &mut Session) -> Result<Result<Seen, tonic::Status>, CtlError> {
    let request = v1::GetFleetRequest { fleet: session.fleet() };
    let mut client = session.client().await?;
    let fleet = match client.get_fleet(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    if fleet.operation.is_empty() {
        return Ok(Ok((fleet, None)));
    }
    let request = v1::GetOperationRequest { operation: fleet.operation.clone() };
    // The fleet is told all the same where that cannot be had.
    let operation = client.get_operation(request).await.ok();
    Ok(Ok((fleet, operation.and_then(|response| response.into_inner().operation))))
}

/// Shows the fleet whenever it looks different.
async fn watch(session: &mut Session) -> Result<Exit, CtlError> {
    let ctl = session.ctl();
    let (mut last, mut drawn) = (None, 0);
    loop {
        match look(session).await? {
            Ok((fleet, operation)) => {
                let operation = operation.as_ref();
                let seen = shape(&fleet, operation);
                if session.out.redraws() && session.out.format() == Format::Text {
                    let text = status::status(&session.out.view(), &fleet, operation, &ctl);
                    session.out.redraw(drawn, &text);
                    drawn = text.lines().count();
                } else if last.as_ref() != Some(&seen) {
                    session.out.show(
                        |view| status::status(view, &fleet, operation, &ctl),
                        || json::Status::new(&fleet, operation),
                    )?;
                }
                last = Some(seen);
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

/// The fleet, and of its canary the step, what it waits for and the verdict, without what changes at every look.
fn shape(
    fleet: &v1::GetFleetResponse,
    operation: Option<&v1::Operation>,
) -> (v1::GetFleetResponse, Option<v1::CanaryView>) {
    let mut fleet = fleet.clone();
    for host in &mut fleet.hosts {
        host.last_seen_unix_ms = 0;
        if let Some(status) = &mut host.status {
            status.free_bytes = 0;
        }
    }
    for trigger in &mut fleet.triggers {
        trigger.detail.clear();
    }
    let canary = operation.and_then(|operation| operation.canary.clone()).map(|mut canary| {
        canary.ruling =
            canary.ruling.map(|said| v1::Ruling { verdict: said.verdict, ..v1::Ruling::default() });
        canary.gauges.clear();
        canary
    });
    (fleet, canary)
}
