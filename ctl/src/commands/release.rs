//! `ctl releases` and `ctl release …`: what there is to go back to, what it is made of, and what people say of it.

use std::{collections::HashMap, path::PathBuf, str::FromStr};

use clap::{Args, ValueEnum};
use proto::{
    artefact::{self, Digest},
    v1,
};

use crate::{
    commands::forward,
    error::CtlError,
    exit::Exit,
    render::{difference, json, lists, plan, words},
    run,
    session::{Session, quote},
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

/// See `ctl release create --help`.
#[derive(Args, Clone, Debug)]
pub struct NewArgs {
    #[arg(value_name = "RELEASE")]
    pub release: String,
    /// What a component is made of: where each host finds it by its own policy, and its digest
    #[arg(long = "artefact", value_name = "COMPONENT=SOURCE:NAME@DIGEST", required = true)]
    pub artefacts: Vec<Made>,
    /// Only make it known; fetch it later
    #[arg(long)]
    pub no_fetch: bool,
    /// Why; kept in the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// See `ctl release fetch --help`.
#[derive(Args, Clone, Debug)]
pub struct FetchArgs {
    #[arg(value_name = "RELEASE")]
    pub release: String,
    /// Show the plan and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Why; kept in the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// See `ctl release diff --help`.
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    /// The release that is left, or, alone, the one that is gone to
    #[arg(value_name = "FROM")]
    pub from: String,
    #[arg(value_name = "TO")]
    pub to: Option<String>,
}

/// See `ctl release digest --help`.
#[derive(Args, Clone, Debug)]
pub struct DigestArgs {
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

/// See `ctl release quarantine --help`.
#[derive(Args, Clone, Debug)]
pub struct QuarantineArgs {
    #[arg(value_name = "RELEASE")]
    pub release: String,
    /// Why; every host says it that refuses the content
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// `crm=builds:crm-1.4.4.tar.zst@sha256:…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    pub component: String,
    pub artefact: v1::Artefact,
}

impl FromStr for Made {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || {
            "write COMPONENT=SOURCE:NAME@DIGEST, like crm=builds:v2.tar.zst@sha256:9f86…".to_owned()
        };
        let (component, rest) = text.split_once('=').ok_or_else(form)?;
        let (source, rest) = rest.split_once(':').ok_or_else(form)?;
        let (name, digest) = rest.rsplit_once('@').ok_or_else(form)?;
        if component.is_empty() || source.is_empty() || name.is_empty() {
            return Err(form());
        }
        let digest: Digest = digest.parse().map_err(|error| format!("{error}"))?;
        if let Some(why) = artefact::path_refusal(name) {
            return Err(format!("`{name}`: {why}"));
        }
        let artefact = v1::Artefact {
            source: source.to_owned(),
            name: name.to_owned(),
            digest: digest.to_string(),
        };
        Ok(Self { component: component.to_owned(), artefact })
    }
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

/// `ctl release create`.
///
/// # Errors
/// No connection, a component that is not known, or a name that is taken.
pub async fn create(args: &NewArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let mut artefacts = HashMap::new();
    for made in &args.artefacts {
        if artefacts.insert(made.component.clone(), made.artefact.clone()).is_some() {
            let what = format!("{} has two artefacts", made.component);
            return Err(CtlError::Usage {
                what,
                next: vec!["ctl release create --help".to_owned()],
            });
        }
    }
    let (fleet, release) = (session.fleet(), args.release.clone());
    let request = v1::CreateReleaseRequest { fleet, release: release.clone(), artefacts };
    let mut client = session.client().await?;
    let answer = client.create_release(request).await;
    let created = answer.map_err(CtlError::call("create the release"))?.into_inner().created;
    if args.no_fetch {
        let ctl = session.ctl();
        session.out.show(
            |_| {
                let known = if created { "is known now" } else { "was known already, just so" };
                let fetch = format!("{ctl} release fetch {}", quote(&release));
                format!("{release} {known}. Bring it to the hosts:  {fetch}\n")
            },
            || json::Created { release: release.clone(), created },
        )?;
        return Ok(Exit::Done);
    }
    let known = if created { "is known now" } else { "was known already, just so" };
    session.out.talk(&format!("{release} {known}; every host fetches it\n"));
    let ran = forward::fetch(&release, &args.reason, session).await?;
    run::show(session, &ran).await
}

/// `ctl release fetch`.
///
/// # Errors
/// No connection, or the coordinator's refusal.
pub async fn fetch(args: &FetchArgs, session: &mut Session) -> Result<Exit, CtlError> {
    if args.dry_run {
        let request = v1::create_plan_request::Request::Fetch(args.release.clone());
        let planned = run::plan(session, request).await?;
        session
            .out
            .show(|view| plan::plan(view, &planned, ""), || json::Plan::new(&planned, None))?;
        return Ok(Exit::Done);
    }
    let ran = forward::fetch(&args.release, &args.reason, session).await?;
    run::show(session, &ran).await
}

/// `ctl release diff`.
///
/// # Errors
/// No connection, or a release that is not known.
pub async fn diff(args: &DiffArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let (from, to) = match &args.to {
        Some(to) => (args.from.clone(), to.clone()),
        None => (String::new(), args.from.clone()),
    };
    let request = v1::DiffReleasesRequest { fleet: session.fleet(), from, to };
    let mut client = session.client().await?;
    let answer = client.diff_releases(request).await;
    let found = answer.map_err(CtlError::call("compare the releases"))?.into_inner();
    session.out.show(|view| difference::text(view, &found), || json::Difference::new(&found))?;
    Ok(Exit::Done)
}

/// `ctl release digest`: of a file its bytes, of a directory everything in it.
///
/// # Errors
/// A path that cannot be read.
pub fn digest(args: &DigestArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let path = &args.path;
    let digest = if path.is_dir() {
        artefact::digest_of_directory(path).map_err(|error| error.to_string())
    } else {
        artefact::digest_of_file(path).map_err(|error| error.to_string())
    };
    let digest = digest.map_err(|error| CtlError::Usage {
        what: format!("{} cannot be read: {error}", path.display()),
        next: vec!["ctl release digest PATH".to_owned()],
    })?;
    let digest = digest.to_string();
    session.out.show(|_| format!("{digest}\n"), || json::PathDigest { digest: digest.clone() })?;
    Ok(Exit::Done)
}

/// `ctl release quarantine`.
///
/// # Errors
/// No connection, or a release that is not known.
pub async fn quarantine(args: &QuarantineArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let QuarantineArgs { release, reason } = args.clone();
    let marking = MarkArgs { release, standing: Standing::Bad, reason };
    let exit = mark(&marking, session).await?;
    let ctl = session.ctl();
    // Said once it is so; hosts that are away hear of it when they are back.
    session.out.talk(&format!(
        "No host goes forward to its content, whatever it is called; rollbacks never ask.\n  \
         Lift    {ctl} release mark {} unproven --reason '…'\n",
        quote(&marking.release)
    ));
    Ok(exit)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artefact_is_read_as_it_is_written() {
        let digest = format!("sha256:{}", "9f".repeat(32));
        let made: Made = format!("crm=builds:v2/crm.tar.zst@{digest}").parse().unwrap();
        let artefact =
            v1::Artefact { source: "builds".to_owned(), name: "v2/crm.tar.zst".to_owned(), digest };
        assert_eq!(made, Made { component: "crm".to_owned(), artefact });
    }

    #[test]
    fn what_is_no_artefact_is_refused_with_the_form() {
        let digest = format!("sha256:{}", "9f".repeat(32));
        for text in [
            "crm".to_owned(),
            "crm=builds".to_owned(),
            "crm=builds:v2.tar".to_owned(),
            format!("=builds:v2.tar@{digest}"),
            format!("crm=builds:../v2.tar@{digest}"),
            format!("crm=builds:/srv/v2.tar@{digest}"),
            "crm=builds:v2.tar@sha256:9f".to_owned(),
            "crm=builds:v2.tar@md5:9f86".to_owned(),
        ] {
            let refused = text.parse::<Made>().unwrap_err();
            assert!(!refused.is_empty(), "{text}");
        }
    }
}
