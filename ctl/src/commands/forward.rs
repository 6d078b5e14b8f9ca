//! `ctl deploy` and `ctl switch`: a release goes live, traffic goes to another side.
//!
//! ```text
//! deploy   [fetch: each host makes a snapshot of the release] ─▶ CreatePlan ─▶ show ─▶ confirm ─▶ start ─▶ watch
//! switch                                                         CreatePlan ─▶ …
//! ```
//!
//! Invariant: what runs is exactly the plan that was shown, with the hashes of what the hosts fetched before.

use clap::{Args, ValueEnum};
use proto::v1::{self, create_plan_request::Request};

use crate::{
    commands::planned::{Asked, execute, given},
    error::CtlError,
    exit::Exit,
    run::{self, Ran, Start},
    session::{Session, quote},
};

/// See `ctl deploy --help`.
#[derive(Args, Clone, Debug)]
pub struct DeployArgs {
    /// The release that goes live; made known by `ctl release create` or `ctl snapshot create`
    #[arg(long, value_name = "RELEASE", required_unless_present = "plan", conflicts_with = "plan")]
    pub release: Option<String>,
    /// How it goes live [default: blue-green where one side has no traffic, else rolling]
    #[arg(long, value_enum, value_name = "STRATEGY", conflicts_with = "plan")]
    pub strategy: Option<Strategy>,
    /// Only these hosts; rolling only
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', conflicts_with = "plan")]
    pub hosts: Vec<String>,
    /// Change the side that is still kept as the instant way back
    #[arg(long, conflicts_with = "plan")]
    pub give_up_warm: bool,
    /// Let the code go to where the database's migrations are not known to fit; say why
    #[arg(long, requires = "reason", conflicts_with = "plan")]
    pub across_migrations: bool,
    /// Do not fetch first: take what the hosts have
    #[arg(long, conflicts_with = "plan")]
    pub no_fetch: bool,
    #[command(flatten)]
    pub asked: Asked,
}

/// How a release goes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Strategy {
    /// Host by host, each out of the traffic meanwhile
    Rolling,
    /// On the side without traffic, and then the traffic
    BlueGreen,
    /// On a few hosts with a rising share of the traffic first, as the fleet file's `canary` says
    Canary,
}

impl Strategy {
    fn word(self) -> &'static str {
        match self {
            Self::Rolling => "rolling",
            Self::BlueGreen => "blue-green",
            Self::Canary => "canary",
        }
    }
}

/// See `ctl switch --help`.
#[derive(Args, Clone, Debug)]
pub struct SwitchArgs {
    /// The slot that gets all traffic
    #[arg(
        long,
        value_name = "SLOT",
        required_unless_present_any = ["undo", "plan"],
        conflicts_with = "plan"
    )]
    pub to: Option<String>,
    /// Back to how the traffic was divided before this operation
    #[arg(long, value_name = "OPERATION", conflicts_with_all = ["to", "plan"])]
    pub undo: Option<String>,
    #[command(flatten)]
    pub asked: Asked,
}

/// `ctl deploy`.
///
/// # Errors
/// No connection; the coordinator's refusal; not confirmed.
pub async fn deploy(args: &DeployArgs, session: &mut Session) -> Result<Exit, CtlError> {
    if matches!(args.strategy, Some(Strategy::BlueGreen | Strategy::Canary))
        && !args.hosts.is_empty()
    {
        let what = "--hosts is for a rolling deploy: the traffic would go to hosts without it";
        return Err(CtlError::usage(what, &["ctl deploy --help"]));
    }
    if let Some(id) = &args.asked.plan {
        let ran = given(&args.asked, id, "deploy", session, &mut |_| {}).await?;
        return run::show(session, &ran).await;
    }
    let Some(release) = &args.release else {
        return Err(CtlError::usage("no release was named", &["ctl deploy --help"]));
    };
    if let Some(ran) = fetched(release, args, session).await? {
        return run::show(session, &ran).await;
    }
    let strategy = match args.strategy {
        Some(strategy) => strategy,
        None if args.hosts.is_empty() => fitting(session).await?,
        None => Strategy::Rolling,
    };
    let request = Request::Deploy(v1::DeployRequest {
        release: release.clone(),
        strategy: match strategy {
            Strategy::Rolling => v1::Strategy::Rolling,
            Strategy::BlueGreen => v1::Strategy::BlueGreen,
            Strategy::Canary => v1::Strategy::Canary,
        }
        .into(),
        hosts: args.hosts.clone(),
        across_migrations: args.across_migrations,
        give_up_warm: args.give_up_warm,
    });
    let ran = execute(&args.asked, "deploy", request, session, &mut |_| {}).await?;
    run::show(session, &ran).await
}

/// `ctl switch`.
///
/// # Errors
/// No connection; the coordinator's refusal; not confirmed.
pub async fn switch(args: &SwitchArgs, session: &mut Session) -> Result<Exit, CtlError> {
    if let Some(id) = &args.asked.plan {
        let ran = given(&args.asked, id, "switch", session, &mut |_| {}).await?;
        return run::show(session, &ran).await;
    }
    let request = match (&args.undo, &args.to) {
        (Some(operation), _) => Request::Undo(operation.clone()),
        (None, Some(to)) => Request::Switch(v1::SwitchRequest { to: to.clone() }),
        (None, None) => return Err(CtlError::usage("no slot was named", &["ctl switch --help"])),
    };
    let ran = execute(&args.asked, "switch", request, session, &mut |_| {}).await?;
    run::show(session, &ran).await
}

/// Brings the release to the hosts, where it is known what it is made of. Answers how that ended, where it is no reason
/// to go on.
async fn fetched(
    release: &str,
    args: &DeployArgs,
    session: &mut Session,
) -> Result<Option<Ran>, CtlError> {
    if args.no_fetch || args.asked.dry_run || !made_of(release, session).await? {
        return Ok(None);
    }
    let ran = fetch(release, &args.asked.reason, session).await?;
    if ran.exit() != Exit::Done {
        return Ok(Some(ran));
    }
    session.out.talk(&format!("✓ {release} is on every host; now it goes live\n"));
    Ok(None)
}

/// Whether somebody said what a release is made of.
async fn made_of(release: &str, session: &mut Session) -> Result<bool, CtlError> {
    let request = v1::ListReleasesRequest { fleet: session.fleet() };
    let mut client = session.client().await?;
    let list = client.list_releases(request).await.map_err(CtlError::call("list the releases"))?;
    let rows = list.into_inner().releases;
    Ok(rows.iter().any(|row| row.release == release && !row.artefacts.is_empty()))
}

/// Every host fetches a release by its own policy. Nothing live changes, so nobody is asked.
///
/// # Errors
/// No connection, or the coordinator's refusal.
pub async fn fetch(release: &str, reason: &str, session: &mut Session) -> Result<Ran, CtlError> {
    let plan = run::plan(session, Request::Fetch(release.to_owned())).await?;
    let start = Start {
        plan_id: plan.id,
        reason: reason.to_owned(),
        idempotency_key: run::new_key(),
        again: format!("{} release fetch {}", session.ctl(), quote(release)),
    };
    let operation = run::start(session, &start).await?;
    run::watch(session, &operation, 0, &mut |_| {}).await
}

/// What fits the fleet as it is now; said aloud, for nobody named it.
async fn fitting(session: &mut Session) -> Result<Strategy, CtlError> {
    let request = v1::GetFleetRequest { fleet: session.fleet() };
    let mut client = session.client().await?;
    let fleet = client.get_fleet(request).await.map_err(CtlError::call("look at the fleet"))?;
    let (strategy, why) = match fleet.into_inner().traffic {
        None => (Strategy::Rolling, "no edge divides the traffic".to_owned()),
        Some(traffic) => match (&traffic.observed, idle(&traffic)) {
            (Some(_), Some(slot)) => (Strategy::BlueGreen, format!("{slot} has no traffic")),
            (Some(_), None) => (Strategy::Rolling, "every side has traffic".to_owned()),
            (None, _) => {
                (Strategy::Rolling, "it is not known how the traffic is divided".to_owned())
            }
        },
    };
    session.out.talk(&format!("strategy  {}: {why}\n", strategy.word()));
    Ok(strategy)
}

fn idle(traffic: &v1::TrafficView) -> Option<&str> {
    let shares = traffic.observed.as_ref()?;
    let served = |slot: &&String| shares.groups.iter().any(|row| row.group == **slot);
    traffic.slots.iter().find(|slot| !served(slot)).map(String::as_str)
}
