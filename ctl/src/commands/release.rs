//! `ctl releases` and `ctl release mark`: what there is to go back to, and what people say of it.

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
