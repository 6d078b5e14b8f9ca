//! `ctl releases` and `ctl release mark`, `pin`, `unpin`: what there is to go back to, and what people say of it.

use clap::{Args, ValueEnum};
use proto::v1;

use crate::{
    error::CtlError,
    exit::Exit,
    render::{json, lists, words},
    session::Session,
};

/// See `ctl release mark --help`.
#[derive(Args, Clone, Debug)]
pub struct MarkArgs {
    #[arg(value_name = "RELEASE")]
    pub release: String,
    pub standing: Standing,
    /// Why; kept with the release
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// See `ctl release pin --help`.
#[derive(Args, Clone, Debug)]
pub struct PinArgs {
    #[arg(value_name = "RELEASE")]
    pub release: String,
    /// Why; shown where it is kept from being pruned
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// See `ctl release unpin --help`.
#[derive(Args, Clone, Debug)]
pub struct UnpinArgs {
    #[arg(value_name = "RELEASE")]
    pub release: String,
}

/// What a person says of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Standing {
    /// It may be gone back to
    Good,
    /// Never go back to it
    Bad,
    /// Take back what was said of it
    Unproven,
}

/// `ctl releases`.
///
/// # Errors
/// No connection, or a fleet that is not known.
pub async fn list(session: &mut Session) -> Result<Exit, CtlError> {
    let mut client = session.client().await?;
    let fleet = session.fleet();
    let releases = client
        .list_releases(v1::ListReleasesRequest { fleet: fleet.clone() })
        .await
        .map_err(CtlError::call("list the releases"))?
        .into_inner();
    let fleet = client
        .get_fleet(v1::GetFleetRequest { fleet })
        .await
        .map_err(CtlError::call("look at the fleet"))?
        .into_inner();
    session.out.show(
        |view| lists::releases(view, &releases, &fleet.way_back),
        || json::Releases::new(&releases, &fleet.way_back),
    )?;
    Ok(Exit::Done)
}

/// `ctl release mark`.
///
/// # Errors
/// No connection, or a release that is not known.
pub async fn mark(args: &MarkArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let standing = match args.standing {
        Standing::Good => v1::Standing::Good,
        Standing::Bad => v1::Standing::Bad,
        Standing::Unproven => v1::Standing::Unproven,
    };
    let request = v1::MarkReleaseRequest {
        fleet: session.fleet(),
        release: args.release.clone(),
        standing: standing.into(),
        reason: args.reason.clone(),
    };
    let mut client = session.client().await?;
    client.mark_release(request).await.map_err(CtlError::call("mark the release"))?;
    let word = words::standing(standing.into());
    session.out.show(
        |_| format!("{} is marked {word}.\n", args.release),
        || json::Marked {
            release: args.release.clone(),
            standing: word.clone(),
            reason: args.reason.clone(),
        },
    )?;
    Ok(Exit::Done)
}

/// `ctl release pin`.
///
/// # Errors
/// No connection, or a release that is not known.
pub async fn pin(args: &PinArgs, session: &mut Session) -> Result<Exit, CtlError> {
    set_pin(&args.release, Some(&args.reason), session).await
}

/// `ctl release unpin`.
///
/// # Errors
/// No connection, or a release that is not known.
pub async fn unpin(args: &UnpinArgs, session: &mut Session) -> Result<Exit, CtlError> {
    set_pin(&args.release, None, session).await
}

async fn set_pin(
    release: &str,
    reason: Option<&str>,
    session: &mut Session,
) -> Result<Exit, CtlError> {
    let (pinned, why) = (reason.is_some(), reason.unwrap_or_default().to_owned());
    let request = v1::PinReleaseRequest {
        fleet: session.fleet(),
        release: release.to_owned(),
        pinned,
        reason: why.clone(),
    };
    let mut client = session.client().await?;
    let doing = if pinned { "pin the release" } else { "take the pin away" };
    let answer = client.pin_release(request).await.map_err(CtlError::call(doing))?;
    let changed = answer.into_inner().changed;
    session.out.show(
        |_| match (pinned, changed) {
            (true, true) => format!("{release} is pinned: no host prunes it.\n"),
            (true, false) => format!("{release} is pinned already.\n"),
            (false, true) => {
                format!("{release} is no longer pinned: each host's own retention says how long it stays.\n")
            }
            (false, false) => format!("{release} was not pinned.\n"),
        },
        || json::Pinned {
            release: release.to_owned(),
            pinned,
            changed,
            reason: reason.map(str::to_owned),
        },
    )?;
    Ok(Exit::Done)
}
