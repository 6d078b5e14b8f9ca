//! Running an operation from a plan to its end: the one path of `ctl rollback`, `ctl snapshot` and `ctl sandbox`.
//!
//! ```text
//! plan ─▶ (confirm) ─▶ start ─▶ watch ─▶ Ran ─▶ show ─▶ Exit
//! ```
//!
//! Invariant: a start is sent with one key, so that trying again never begins a second operation.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use proto::v1;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tonic::Status;

use crate::{
    error::CtlError,
    exit::Exit,
    follow::{self, Followed, RETRY_CALLS_FOR, is_passing, pace},
    live::Live,
    render::{json, plan as plan_view, summary, watch as watch_view},
    session::{Client, Session},
};

/// Sees every event of an operation, from its first; for those who need more than the exit code.
pub type Observe<'a> = &'a mut (dyn FnMut(&v1::WatchOperationResponse) + Send);

/// How far it came.
#[derive(Clone, Debug, PartialEq)]
pub enum Ran {
    /// Only planned, as asked; with the command that runs exactly this plan.
    Planned {
        plan: Box<v1::Plan>,
        command: String,
        detailed_exit: bool,
    },
    /// The fleet is where it should be already.
    NothingToDo(Box<v1::Plan>),
    /// Begun and left to itself, as asked.
    Begun {
        operation: String,
    },
    Ended(Box<v1::Operation>),
    /// The person stopped watching.
    Detached {
        operation: String,
    },
    TimedOut {
        operation: String,
    },
}

impl Ran {
    /// What to exit with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Planned { plan, detailed_exit: true, .. } if !plan.nothing_to_do => Exit::Changes,
            Self::Planned { .. } | Self::NothingToDo(_) | Self::Begun { .. } => Exit::Done,
            Self::Ended(operation) => Exit::of_operation(operation),
            Self::Detached { .. } => Exit::Detached,
            Self::TimedOut { .. } => Exit::TimedOut,
        }
    }

    /// The operation, where one was begun and has ended.
    pub fn ended(&self) -> Option<&v1::Operation> {
        match self {
            Self::Ended(operation) => Some(operation),
            Self::Planned { .. }
            | Self::NothingToDo(_)
            | Self::Begun { .. }
            | Self::Detached { .. }
            | Self::TimedOut { .. } => None,
        }
    }
}

/// A plan for a request; changes nothing.
///
/// # Errors
/// [`CtlError::Call`] with the coordinator's reason, or no connection.
pub async fn plan(
    session: &mut Session,
    request: v1::create_plan_request::Request,
) -> Result<v1::Plan, CtlError> {
    let request = v1::CreatePlanRequest { fleet: session.fleet(), request: Some(request) };
    let mut client = session.client().await?;
    let response = client.create_plan(request).await.map_err(CtlError::call("make a plan"))?;
    response.into_inner().plan.ok_or(CtlError::Answer { doing: "make a plan" })
}

/// Which plan to begin, why, and how to say it again.
#[derive(Clone, Debug)]
pub struct Start {
    pub plan_id: String,
    pub reason: String,
    pub idempotency_key: String,
    /// The command that sends the same again.
    pub again: String,
}

/// A key that nobody has used.
pub fn new_key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Begins a plan, and gives the operation's id. Tries again for ten seconds where the way is broken.
///
/// # Errors
/// [`CtlError::Call`] where it is refused, [`CtlError::StartUnknown`] where the answer was lost.
pub async fn start(session: &mut Session, start: &Start) -> Result<String, CtlError> {
    let client = session.client().await?;
    let began = Instant::now();
    loop {
        match start_once(client.clone(), start).await {
            Ok(operation) => {
                if let Some(trace_id) = session.trace_id() {
                    session.out.talk(&format!("trace  {trace_id}"));
                }
                return Ok(operation);
            }
            Err(status) if is_passing(&status) && began.elapsed() < RETRY_CALLS_FOR => {
                sleep(pace(Duration::ZERO)).await;
            }
            Err(status) if is_passing(&status) => {
                let (plan, again) = (start.plan_id.clone(), start.again.clone());
                return Err(CtlError::StartUnknown { plan, again, status: Box::new(status) });
            }
            Err(status) => return Err(CtlError::call("start the plan")(status)),
        }
    }
}

async fn start_once(mut client: Client, start: &Start) -> Result<String, Status> {
    let request = v1::StartOperationRequest {
        plan_id: start.plan_id.clone(),
        reason: start.reason.clone(),
        idempotency_key: start.idempotency_key.clone(),
    };
    Ok(client.start_operation(request).await?.into_inner().operation)
}

/// Follows an operation to its end, live. Events below `said_until` are not said again.
///
/// # Errors
/// [`CtlError::Call`] for an operation that is not known; [`CtlError::Output`].
pub async fn watch(
    session: &mut Session,
    operation: &str,
    said_until: u64,
    observe: Observe<'_>,
) -> Result<Ran, CtlError> {
    match watch_until(session, operation, said_until, observe, &mut |_| false).await? {
        Some(ran) => Ok(ran),
        None => Ok(Ran::Detached { operation: operation.to_owned() }),
    }
}

/// As [`watch`], and no longer than to the event that `until` says yes to; then there is no answer. Events below
/// `said_until` are not asked about.
///
/// # Errors
/// As [`watch`].
pub async fn watch_until(
    session: &mut Session,
    operation: &str,
    said_until: u64,
    observe: Observe<'_>,
    until: &mut (dyn FnMut(&v1::WatchOperationResponse) -> bool + Send),
) -> Result<Option<Ran>, CtlError> {
    let (client, patience) = (session.client().await?, session.patience());
    let (enough, reached) = (Notify::new(), AtomicBool::new(false));
    let interrupt = async {
        tokio::select! {
            () = enough.notified() => {}
            // Without a handler for it Ctrl-C ends the process, and the operation goes on as well.
            () = interrupted() => {}
        }
    };
    let mut observe = |event: &v1::WatchOperationResponse| {
        observe(event);
        if event.index >= said_until && until(event) {
            reached.store(true, Ordering::Relaxed);
            enough.notify_one();
        }
    };
    let mut live = Live::new(&mut session.out, operation, said_until, &mut observe);
    let followed = follow::follow(client, operation, patience, interrupt, &mut live).await;
    live.end()?;
    let operation = operation.to_owned();
    Ok(match followed? {
        Followed::Ended(operation) => Some(Ran::Ended(operation)),
        Followed::Detached if reached.load(Ordering::Relaxed) => None,
        Followed::Detached => Some(Ran::Detached { operation }),
        Followed::TimedOut => Some(Ran::TimedOut { operation }),
    })
}

async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Prints how far it came, and gives what to exit with.
///
/// # Errors
/// [`CtlError::Output`].
pub async fn show(session: &mut Session, ran: &Ran) -> Result<Exit, CtlError> {
    show_as(session, ran, ran.exit()).await
}

/// As [`show`], where success means something else than that the operation's own goal was reached.
///
/// # Errors
/// [`CtlError::Output`].
pub async fn show_as(session: &mut Session, ran: &Ran, exit: Exit) -> Result<Exit, CtlError> {
    let (ctl, trace_id) = (session.ctl(), session.trace_id());
    let traffic = match ran {
        Ran::Ended(operation) => edges_now(session, operation).await,
        Ran::Planned { .. }
        | Ran::NothingToDo(_)
        | Ran::Begun { .. }
        | Ran::Detached { .. }
        | Ran::TimedOut { .. } => None,
    };
    match ran {
        Ran::Planned { plan, command, .. } => session.out.show(
            |view| plan_view::plan(view, plan, command),
            || json::Plan::new(plan, Some(command.clone())),
        )?,
        Ran::NothingToDo(plan) => session.out.show(
            |view| plan_view::plan(view, plan, ""),
            || json::Run {
                plan: Some(json::Plan::new(plan, None)),
                changed: false,
                ..document(trace_id, exit)
            },
        )?,
        Ran::Begun { operation } => session.out.show(
            |_| watch_view::detached(&ctl, operation, "Begun"),
            || json::Run { operation: Some(operation.clone()), ..document(trace_id, exit) },
        )?,
        Ran::Ended(operation) => session.out.show(
            |view| summary::summary(view, operation, &ctl, traffic.as_ref()),
            || json::Run {
                ended: true,
                traffic: traffic.as_ref().map(json::Traffic::from),
                operation: Some(operation.id.clone()),
                result: Some(json::Operation::from(operation.as_ref())),
                ..document(trace_id, exit)
            },
        )?,
        Ran::Detached { operation } => left(session, operation, "No longer watching", exit)?,
        Ran::TimedOut { operation } => {
            left(session, operation, "Watched for as long as --timeout says", exit)?;
        }
    }
    Ok(exit)
}

/// What the edges say, where an operation meant to move traffic and did not succeed. Nothing where nobody answers: how
/// the operation ended is told all the same.
async fn edges_now(session: &mut Session, operation: &v1::Operation) -> Option<v1::TrafficView> {
    let plan = operation.plan.as_ref()?;
    if operation.result() == v1::OperationResult::Verified || plan.weights_after.is_none() {
        return None;
    }
    let mut client = session.client().await.ok()?;
    let request = v1::GetFleetRequest { fleet: plan.fleet.clone() };
    client.get_fleet(request).await.ok()?.into_inner().traffic
}

/// The operation goes on without us.
fn left(session: &mut Session, operation: &str, why: &str, exit: Exit) -> Result<(), CtlError> {
    let text = watch_view::detached(&session.ctl(), operation, why);
    session.out.insist(&text);
    let trace_id = session.trace_id();
    session.out.show(
        |_| String::new(),
        || json::Run { operation: Some(operation.to_owned()), ..document(trace_id, exit) },
    )
}

fn document(trace_id: Option<String>, exit: Exit) -> json::Run {
    json::Run {
        exit_code: exit.code(),
        ended: false,
        changed: true,
        operation: None,
        result: None,
        plan: None,
        traffic: None,
        trace_id,
    }
}
