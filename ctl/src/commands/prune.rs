//! `ctl snapshot prune`: what hosts no longer have to keep goes.
//!
//! ```text
//! dry run on every host ─▶ show ─▶ confirm ─▶ the same again, and nothing but what was shown ─▶ what went
//! --dry-run stops here ─────┘
//! ```
//!
//! Invariant: nothing goes that was not shown first, and no more than each host's own policy lets go.

use clap::Args;
use proto::v1;

use crate::{
    confirm::{Given, Question, confirm},
    error::CtlError,
    exit::Exit,
    render::{json, prune},
    session::{Session, quote},
};

/// See `ctl snapshot prune --help`.
#[derive(Args, Clone, Debug, Default)]
pub struct PruneArgs {
    /// Only this component [default: all]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub component: String,
    /// Only these hosts
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    pub hosts: Vec<String>,
    /// Show what would go and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run: exit 30 where something would go
    #[arg(long, requires = "dry_run")]
    pub detailed_exitcode: bool,
    /// The fleet's name, instead of typing it
    #[arg(long, value_name = "FLEET", conflicts_with = "dry_run")]
    pub confirm: Option<String>,
    /// Do not ask; outside production only
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,
}

/// Runs the command. Exits 21 where a host did not answer or could not prune everything.
///
/// # Errors
/// No connection; the coordinator's refusal; not confirmed.
pub async fn run(args: &PruneArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let shown = ask(args, session, None).await?;
    let goes = going(&shown);
    if args.dry_run || goes.is_empty() {
        let exit = match (args.dry_run, args.detailed_exitcode && !goes.is_empty()) {
            (true, true) => Exit::Changes,
            (true, false) => Exit::Done,
            (false, _) => ended(&shown),
        };
        show(session, &shown, prune::Tense::Would, exit)?;
        return Ok(exit);
    }
    let text = prune::prune(&session.out.view(), &shown, prune::Tense::Would);
    if args.confirm.is_none() && !args.yes && session.out.can_ask() {
        // Nobody is asked to agree to what they have not seen, however quiet they want it.
        session.out.insist(&text);
    } else {
        session.out.talk(&text);
    }
    let question = Question {
        what: &format!("prune of {}", shown.fleet),
        fleet: &shown.fleet,
        production: shown.production,
        command: &command(args, session, &shown.fleet),
    };
    let given = Given { confirm: args.confirm.as_deref(), yes: args.yes };
    confirm(&mut session.out, &question, given)?;
    let done = ask(args, session, Some(goes)).await?;
    let exit = ended(&done);
    show(session, &done, prune::Tense::Did, exit)?;
    Ok(exit)
}

/// Asks the coordinator: dry, or to do what was agreed to.
async fn ask(
    args: &PruneArgs,
    session: &mut Session,
    agreed: Option<Vec<v1::AgreedPrune>>,
) -> Result<v1::PruneSnapshotsResponse, CtlError> {
    let request = v1::PruneSnapshotsRequest {
        fleet: session.fleet(),
        dry_run: agreed.is_none(),
        component: args.component.clone(),
        hosts: args.hosts.clone(),
        agreed_only: agreed.is_some(),
        agreed: agreed.unwrap_or_default(),
    };
    let mut client = session.client().await?;
    let answer = client.prune_snapshots(request).await;
    Ok(answer.map_err(CtlError::call("prune the snapshots"))?.into_inner())
}

/// What goes, by host.
fn going(answer: &v1::PruneSnapshotsResponse) -> Vec<v1::AgreedPrune> {
    let rows = answer.hosts.iter().flat_map(|host| {
        host.rows.iter().filter(|row| row.goes).map(|row| v1::AgreedPrune {
            host: host.host.clone(),
            component: row.component.clone(),
            snapshot: row.snapshot.clone(),
        })
    });
    rows.collect()
}

/// What a host that is not known to be done makes of it.
fn ended(answer: &v1::PruneSnapshotsResponse) -> Exit {
    let open = |host: &v1::HostPruned| !host.failed.is_empty() || !host.failures.is_empty();
    if answer.hosts.iter().any(open) { Exit::Mixed } else { Exit::Done }
}

fn show(
    session: &mut Session,
    answer: &v1::PruneSnapshotsResponse,
    tense: prune::Tense,
    exit: Exit,
) -> Result<(), CtlError> {
    session.out.show(
        |view| prune::prune(view, answer, tense),
        || json::Pruned::new(answer, tense, exit.code()),
    )
}

/// The line that does the same without a question.
fn command(args: &PruneArgs, session: &Session, fleet: &str) -> String {
    let fleet = quote(fleet);
    let mut line = format!("{} snapshot prune --fleet {fleet}", session.ctl());
    if !args.component.is_empty() {
        line += &format!(" --component {}", quote(&args.component));
    }
    if !args.hosts.is_empty() {
        line += &format!(" --hosts {}", quote(&args.hosts.join(",")));
    }
    line + &format!(" --confirm {fleet}")
}
