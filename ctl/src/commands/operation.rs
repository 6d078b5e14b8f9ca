//! Commands on an operation that exists: watch, logs, history, pause, resume, abort, retry.

use clap::Args;
use jiff::SignedDuration;
use proto::v1;

use crate::{
    error::CtlError,
    exit::Exit,
    render::{json, lists, summary, words},
    run,
    session::Session,
};

/// An operation by its id.
#[derive(Args, Clone, Debug)]
pub struct OperationArgs {
    /// The operation, such as rb-0193
    #[arg(value_name = "OPERATION")]
    pub operation: String,
}

/// See `ctl logs --help`.
#[derive(Args, Clone, Debug)]
pub struct LogsArgs {
    #[command(flatten)]
    pub of: OperationArgs,
    /// Only what is about this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
}

/// See `ctl history --help`.
#[derive(Args, Clone, Debug)]
pub struct HistoryArgs {
    /// How far back: 12h, 7d, 4w
    #[arg(long, value_name = "SPAN", default_value = "7d", value_parser = parse_ago)]
    pub since: SignedDuration,
}

/// See `ctl abort --help`.
#[derive(Args, Clone, Debug)]
#[group(id = "how", required = true, multiple = false, args = ["restore", "leave"])]
pub struct AbortArgs {
    #[command(flatten)]
    pub of: OperationArgs,
    /// Put every host back as it was before the operation
    #[arg(long)]
    pub restore: bool,
    /// Let hosts that have begun end; begin no more
    #[arg(long)]
    pub leave: bool,
}

/// See `ctl retry --help`.
#[derive(Args, Clone, Debug)]
pub struct RetryArgs {
    #[command(flatten)]
    pub of: OperationArgs,
    /// Only these hosts [default: every host that is not on target]
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    pub hosts: Vec<String>,
}

/// `ctl watch`.
///
/// # Errors
/// No connection, or an operation that is not known.
pub async fn watch(args: &OperationArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let ran = run::watch(session, &args.operation, 0, &mut |_| {}).await?;
    run::show(session, &ran).await
}

/// `ctl logs`.
///
/// # Errors
/// No connection, or an operation that is not known.
pub async fn logs(args: &LogsArgs, session: &mut Session) -> Result<Exit, CtlError> {
    const DOING: &str = "read the operation";
    let name = args.of.operation.clone();
    let mut client = session.client().await?;
    let request = v1::GetOperationRequest { operation: name.clone() };
    let response = client.get_operation(request).await.map_err(CtlError::call(DOING))?;
    let operation = answered(response.into_inner().operation, DOING)?;
    let mut events = Vec::new();
    if operation.events > 0 {
        let request = v1::WatchOperationRequest { operation: name.clone(), from_index: 0 };
        let stream = client.watch_operation(request).await.map_err(CtlError::call(DOING))?;
        let mut stream = stream.into_inner();
        // The stream of a running operation has no end: what was there when we asked is enough.
        while let Some(event) = stream.message().await.map_err(CtlError::call(DOING))? {
            let last = event.index + 1 >= operation.events;
            events.push(event);
            if last {
                break;
            }
        }
    }
    let host = args.host.as_deref();
    let plan = operation.plan.clone().unwrap_or_default();
    session.out.show(
        |view| lists::logs(view, &operation, &events, host),
        || json::Logs {
            result: json::Operation::from(&operation),
            events: events
                .iter()
                .filter(|event| host.is_none_or(|host| lists::concerns(event, host)))
                .map(|event| json::event(&name, &plan, event))
                .collect(),
        },
    )?;
    Ok(Exit::Done)
}

/// `ctl history`.
///
/// # Errors
/// No connection, or a fleet that is not known.
pub async fn history(args: &HistoryArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let since_unix_ms = words::before(session.out.view().now, args.since);
    let request = v1::ListOperationsRequest { fleet: session.fleet(), since_unix_ms };
    let mut client = session.client().await?;
    let response =
        client.list_operations(request).await.map_err(CtlError::call("list the operations"))?;
    let operations = response.into_inner().operations;
    let request = v1::ListProposalsRequest { fleet: session.fleet() };
    let response = client.list_proposals(request).await;
    let mut proposals =
        response.map_err(CtlError::call("list the proposals"))?.into_inner().proposals;
    // One that was approved is an operation, of the same id.
    proposals.retain(|row| {
        row.state() != v1::ProposalState::Approved && row.at_unix_ms >= since_unix_ms
    });
    session.out.show(
        |view| lists::history(view, &operations, &proposals),
        || json::Operations {
            operations: operations.iter().map(json::Operation::from).collect(),
            proposals: proposals.iter().map(json::Proposal::from).collect(),
        },
    )?;
    Ok(Exit::Done)
}

/// `ctl pause`.
///
/// # Errors
/// No connection, or an operation that cannot be paused.
pub async fn pause(args: &OperationArgs, session: &mut Session) -> Result<Exit, CtlError> {
    const DOING: &str = "pause the operation";
    let request = v1::PauseOperationRequest { operation: args.operation.clone() };
    let mut client = session.client().await?;
    let response = client.pause_operation(request).await.map_err(CtlError::call(DOING))?;
    state(session, &answered(response.into_inner().operation, DOING)?)
}

/// `ctl resume`.
///
/// # Errors
/// No connection, or an operation that is not paused.
pub async fn resume(args: &OperationArgs, session: &mut Session) -> Result<Exit, CtlError> {
    const DOING: &str = "resume the operation";
    let request = v1::ResumeOperationRequest { operation: args.operation.clone() };
    let mut client = session.client().await?;
    let response = client.resume_operation(request).await.map_err(CtlError::call(DOING))?;
    state(session, &answered(response.into_inner().operation, DOING)?)
}

/// `ctl abort`: asks, then waits for what it leads to. Its success is that of the abort, not of the operation.
///
/// # Errors
/// No connection, or an operation that has ended.
pub async fn abort(args: &AbortArgs, session: &mut Session) -> Result<Exit, CtlError> {
    const DOING: &str = "abort the operation";
    let mode = if args.restore { v1::AbortMode::Restore } else { v1::AbortMode::Leave };
    let operation = args.of.operation.clone();
    let request = v1::AbortOperationRequest { operation, mode: mode.into() };
    let mut client = session.client().await?;
    let response = client.abort_operation(request).await.map_err(CtlError::call(DOING))?;
    let operation = answered(response.into_inner().operation, DOING)?;
    let ran = run::watch(session, &operation.id, operation.events, &mut |_| {}).await?;
    let exit = match ran.ended() {
        Some(ended) if args.restore => Exit::of_restoring_abort(ended.result()),
        Some(_) | None => ran.exit(),
    };
    run::show_as(session, &ran, exit).await
}

/// `ctl retry`.
///
/// # Errors
/// No connection, or an operation that has not ended or has no such host.
pub async fn retry(args: &RetryArgs, session: &mut Session) -> Result<Exit, CtlError> {
    const DOING: &str = "retry the operation";
    let (operation, hosts) = (args.of.operation.clone(), args.hosts.clone());
    let request = v1::RetryOperationRequest { operation, hosts };
    let mut client = session.client().await?;
    let response = client.retry_operation(request).await.map_err(CtlError::call(DOING))?;
    let operation = answered(response.into_inner().operation, DOING)?;
    let ran = run::watch(session, &operation.id, operation.events, &mut |_| {}).await?;
    run::show(session, &ran).await
}

fn state(session: &mut Session, operation: &v1::Operation) -> Result<Exit, CtlError> {
    let ctl = session.ctl();
    session.out.show(
        |view| summary::summary(view, operation, &ctl, None),
        || json::Operation::from(operation),
    )?;
    Ok(Exit::Done)
}

fn answered(
    operation: Option<v1::Operation>,
    doing: &'static str,
) -> Result<v1::Operation, CtlError> {
    operation.ok_or(CtlError::Answer { doing })
}

fn parse_ago(text: &str) -> Result<SignedDuration, String> {
    let error = || format!("`{text}` is not a span; write it like `12h`, `7d` or `4w`");
    let span: jiff::Span = text.parse().map_err(|_| error())?;
    let duration =
        span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| error())?;
    if duration.is_negative() { Err(error()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_back_are_read_in_days_too() {
        assert_eq!(parse_ago("7d").unwrap(), SignedDuration::from_hours(168));
        assert_eq!(parse_ago("90m").unwrap(), SignedDuration::from_mins(90));
        for text in ["", "7", "-1d", "soon"] {
            assert!(parse_ago(text).unwrap_err().contains("write it like"), "{text}");
        }
    }
}
