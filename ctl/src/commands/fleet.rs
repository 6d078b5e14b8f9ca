//! `ctl validate`, `ctl apply`, `ctl policy render`: from the fleet file to the coordinator and to the hosts.
//!
//! ```text
//! fleet.yaml ─ parse ─┬─▶ control part + one hash per host ─▶ ApplyFleet
//!                     └─▶ policy of one host ─▶ stdout, for the owner to bring there
//! ```
//!
//! Invariant: paths, commands and units never leave for the coordinator.

use std::{collections::BTreeMap, fs, path::PathBuf};

use clap::{Args, Subcommand};
use proto::{policy, v1};

use crate::{
    error::CtlError,
    exit::Exit,
    fleet_file::{self, FleetFile},
    render::{
        BAD, GOOD, View, json, labelled, paint, paint_warning,
        words::{clean, count},
    },
    session::{Session, quote},
};

/// The fleet file.
#[derive(Args, Clone, Debug)]
pub struct FileArgs {
    /// The fleet file
    #[arg(short = 'f', long = "file", value_name = "FILE", default_value = "fleet.yaml")]
    pub file: PathBuf,
}

/// See `ctl validate --help`.
#[derive(Args, Clone, Debug)]
pub struct ValidateArgs {
    #[command(flatten)]
    pub file: FileArgs,
    /// Have the coordinator try each query of the file once; applies nothing
    #[arg(long)]
    pub online: bool,
}

/// See `ctl apply --help`.
#[derive(Args, Clone, Debug)]
pub struct ApplyArgs {
    #[command(flatten)]
    pub file: FileArgs,
    /// Say what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// See `ctl policy --help`.
#[derive(Clone, Debug, Subcommand)]
pub enum PolicyCommand {
    /// Print the policy of one host: the file that says what its agent may touch
    #[command(
        after_help = "Examples:\n  ctl policy render --host crm-b1 > policy.yaml\n  ctl policy render --host crm-b1 | ssh root@crm-b1 'umask 022; cat > /etc/lastgood/policy.yaml'"
    )]
    Render(RenderArgs),
}

/// See `ctl policy render --help`.
#[derive(Args, Clone, Debug)]
pub struct RenderArgs {
    #[command(flatten)]
    pub file: FileArgs,
    /// The host
    #[arg(long, value_name = "HOST")]
    pub host: String,
}

/// `ctl validate`.
///
/// # Errors
/// [`CtlError::Read`], [`CtlError::FleetFile`]; with `--online` no connection.
pub async fn validate(args: &ValidateArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let fleet = read(&args.file)?;
    let sources = if args.online { Some(tried(&fleet, session).await?) } else { None };
    let valid = json::Valid {
        file: args.file.file.display().to_string(),
        valid: true,
        fleet: fleet.fleet.clone(),
        hosts: fleet.all_hosts().count(),
        components: fleet.components.len(),
        not_acted_upon: fleet.not_acted_upon(),
        warnings: fleet_file::warnings(&fleet),
        sources,
    };
    let text = format!(
        "{} is valid: fleet {}, {}, {}\n",
        valid.file,
        valid.fleet,
        count(valid.hosts, "host"),
        count(valid.components, "component")
    );
    let sources = valid.sources.as_deref();
    session.out.show(
        |view| text + &sources.map(|rows| tries(view, rows)).unwrap_or_default(),
        || valid.clone(),
    )?;
    warn(session, &valid.warnings, &valid.not_acted_upon);
    let failed = sources.into_iter().flatten().any(|row| !row.ok);
    Ok(if failed { Exit::InvalidFleet } else { Exit::Done })
}

/// What each query of the file answers.
async fn tried(
    fleet: &FleetFile,
    session: &mut Session,
) -> Result<Vec<json::SourceTried>, CtlError> {
    let control = fleet_file::control(fleet, &policy_hashes(fleet)?);
    let request = v1::TrySourcesRequest { control: Some(control) };
    let mut client = session.client().await?;
    let response = client.try_sources(request).await;
    let sources = response.map_err(CtlError::call("try the queries"))?.into_inner().sources;
    Ok(sources.into_iter().map(json::SourceTried::from).collect())
}

/// `ctl apply`.
///
/// # Errors
/// [`CtlError::Read`], [`CtlError::FleetFile`]; no connection, or the coordinator's refusal.
pub async fn apply(args: &ApplyArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let fleet = read(&args.file)?;
    let hashes = policy_hashes(&fleet)?;
    let control = fleet_file::control(&fleet, &hashes);
    let request = v1::ApplyFleetRequest { control: Some(control), dry_run: args.dry_run };
    let mut client = session.client().await?;
    let response = client.apply_fleet(request).await;
    let response = response.map_err(CtlError::call("apply the fleet file"))?.into_inner();
    let applied = json::Applied {
        fleet: fleet.fleet.clone(),
        applied: response.applied,
        changes: response.changes,
        not_acted_upon: fleet.not_acted_upon(),
        warnings: fleet_file::warnings(&fleet),
        policy_hashes: hashes,
    };
    session.out.show(|_| applied_text(&applied, args.dry_run), || applied.clone())?;
    warn(session, &applied.warnings, &applied.not_acted_upon);
    let file = quote(&args.file.file.display().to_string());
    session.out.talk(&if args.dry_run {
        format!("Next:  {} apply -f {file}", session.ctl())
    } else {
        format!(
            "Next:  {} policy render --host HOST -f {file}    # then bring it to the host",
            session.ctl()
        )
    });
    Ok(Exit::Done)
}

/// `ctl policy render`.
///
/// # Errors
/// [`CtlError::Read`], [`CtlError::FleetFile`], [`CtlError::Usage`] for a host that the file does not have.
pub fn render(args: &RenderArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let fleet = read(&args.file)?;
    let (text, hash) = policy_of(&fleet, &args.host)?;
    session.out.show(
        |_| text.clone(),
        || json::Policy { host: args.host.clone(), hash: hash.clone(), policy: text.clone() },
    )?;
    let host = quote(&args.host);
    session.out.talk(&format!(
        "blake3 {hash}\nInstall it on {host} as /etc/lastgood/policy.yaml: owned by root, 0644, its parents too:\n  \
         … | ssh root@{host} 'umask 022; cat > /etc/lastgood/policy.yaml'\n"
    ));
    Ok(Exit::Done)
}

fn read(args: &FileArgs) -> Result<FleetFile, CtlError> {
    let text = fs::read_to_string(&args.file)
        .map_err(|source| CtlError::Read { path: args.file.clone(), source })?;
    let file = args.file.display().to_string();
    fleet_file::parse(&text).map_err(|problems| CtlError::FleetFile { file, problems })
}

/// The hash of every host's policy file.
fn policy_hashes(fleet: &FleetFile) -> Result<BTreeMap<String, String>, CtlError> {
    let hash = |host: &str| policy_of(fleet, host).map(|(_, hash)| (host.to_owned(), hash));
    fleet.all_hosts().map(hash).collect()
}

/// The text of a host's policy file, and its hash.
pub fn policy_of(fleet: &FleetFile, host: &str) -> Result<(String, String), CtlError> {
    let policy = fleet_file::policy(fleet, host).map_err(|error| {
        let near = fleet.all_hosts().map(|known| (strsim::damerau_levenshtein(known, host), known));
        let near = near.filter(|(distance, _)| *distance <= 2).min();
        let near = near.map_or_else(String::new, |(_, near)| format!("; did you mean `{near}`?"));
        let hosts: Vec<&str> = fleet.all_hosts().collect();
        let what = format!("{error}{near}");
        CtlError::Usage { what, next: vec![format!("one of: {}", hosts.join(" "))] }
    })?;
    let text = fleet_file::render_policy(&policy);
    let hash = policy::hash(text.as_bytes());
    Ok((text, hash))
}

fn applied_text(applied: &json::Applied, dry_run: bool) -> String {
    let what = match (dry_run, applied.applied, applied.changes.len()) {
        (_, _, 0) => format!("{}: nothing differs from what was applied before\n", applied.fleet),
        (true, _, changes) => {
            format!("{}: {} would be made\n", applied.fleet, count(changes, "change"))
        }
        (false, true, changes) => {
            format!("{}: applied, {}\n", applied.fleet, count(changes, "change"))
        }
        (false, false, changes) => {
            format!("{}: not applied, {}\n", applied.fleet, count(changes, "change"))
        }
    };
    let changes = applied.changes.iter().map(|change| format!("  {change}\n"));
    what + &changes.collect::<String>()
}

/// A line for each query: what it answered, or why not.
fn tries(view: &View, rows: &[json::SourceTried]) -> String {
    if rows.is_empty() {
        return "  no query in it\n".to_owned();
    }
    let line = |row: &json::SourceTried| {
        let (style, mark) = if row.ok { (GOOD, "✓") } else { (BAD, "✗") };
        let first = format!("{} {}", paint(style, mark), clean(&row.place));
        format!("{first}\n{}", labelled(view, "", 2, &clean(&row.detail)))
    };
    rows.iter().map(line).collect()
}

fn warn(session: &mut Session, warnings: &[String], sections: &[&str]) {
    for warning in warnings {
        session.out.talk(&paint_warning(warning));
    }
    session.out.talk(&not_acted_upon(sections));
}

fn not_acted_upon(sections: &[&str]) -> String {
    if sections.is_empty() {
        return String::new();
    }
    format!("Checked, but not acted upon by this version: {}\n", sections.join(", "))
}
