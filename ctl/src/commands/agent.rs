//! `ctl agent`: which agents there are, and identities for new ones.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use proto::{
    tls::{Ca, Role},
    v1,
};

use super::init::{CA_DIR, Made};
use crate::{
    error::CtlError,
    exit::Exit,
    render::{json, lists},
    session::{Session, quote},
};

/// See `ctl agent --help`.
#[derive(Clone, Debug, Subcommand)]
pub enum AgentCommand {
    /// Every agent that the coordinator knows: connected or not, version, certificate
    #[command(
        after_help = "Examples:\n  ctl agent list\n  ctl agent list -o json | jq '.agents[] | select(.connected | not)'"
    )]
    List,
    /// Make an identity for one host's agent, from the CA, without the coordinator
    #[command(
        after_help = "Examples:\n  ctl agent issue --host crm-b1 --dir lastgood\n  scp -r lastgood/agents/crm-b1/. root@crm-b1:/var/lib/lastgood/identity/"
    )]
    Issue(IssueArgs),
    /// Say that you have looked at what root did on a host itself
    #[command(after_help = "Examples:\n  ctl agent acknowledge --host crm-b1")]
    Acknowledge(AcknowledgeArgs),
}

/// See `ctl agent acknowledge --help`.
#[derive(Args, Clone, Debug)]
pub struct AcknowledgeArgs {
    /// The host's name, as in the fleet file
    #[arg(long, value_name = "HOST")]
    pub host: String,
}

/// See `ctl agent issue --help`.
#[derive(Args, Clone, Debug)]
pub struct IssueArgs {
    /// The host's name, as in the fleet file
    #[arg(long, value_name = "HOST")]
    pub host: String,
    /// The directory that `ctl init` made
    #[arg(long, value_name = "DIR", default_value = "lastgood")]
    pub dir: PathBuf,
    /// How long it holds
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub days: u16,
}

/// Runs the command.
///
/// # Errors
/// No connection; a CA that cannot be read.
pub async fn run(command: &AgentCommand, session: &mut Session) -> Result<Exit, CtlError> {
    match command {
        AgentCommand::List => list(session).await,
        AgentCommand::Issue(args) => issue(args, session),
        AgentCommand::Acknowledge(args) => acknowledge(args, session).await,
    }
}

async fn acknowledge(args: &AcknowledgeArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let mut client = session.client().await?;
    let (fleet, host) = (session.fleet(), args.host.clone());
    let request = v1::AcknowledgeHostRequest { fleet, host };
    let response = client.acknowledge_host(request).await;
    let response = response.map_err(CtlError::call("acknowledge it"))?.into_inner();
    match &response.local_operation {
        Some(local) => session.out.show(
            |_| format!("{}: {} is acknowledged\n", args.host, local.id),
            || json::LocalOperation::from(local),
        )?,
        None => session.out.talk(&format!("{}: nothing waits for a look\n", args.host)),
    }
    Ok(Exit::Done)
}

async fn list(session: &mut Session) -> Result<Exit, CtlError> {
    let mut client = session.client().await?;
    let response = client.list_agents(v1::ListAgentsRequest {}).await;
    let agents = response.map_err(CtlError::call("list the agents"))?.into_inner();
    session.out.show(|view| lists::agents(view, &agents), || json::Agents::from(&agents))?;
    Ok(Exit::Done)
}

fn issue(args: &IssueArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let ca = Ca::load(&args.dir.join(CA_DIR))
        .map_err(|source| CtlError::Issue { doing: "read the CA", source })?;
    let at = args.dir.join("agents").join(&args.host);
    let issued = Made::new(&ca, Role::Agent, &args.host, &[], args.days)?.save(&at)?;
    let host = quote(&args.host);
    let next = format!(
        "Next:  1. scp -r {}/. root@{host}:/var/lib/lastgood/identity/\n\
         \x20      2. ctl policy render --host {host} | ssh root@{host} 'umask 022; cat > /etc/lastgood/policy.yaml'\n",
        quote(&issued.directory)
    );
    session
        .out
        .show(|_| format!("{}: {}\n", issued.identity, issued.directory), || issued.clone())?;
    session.out.talk(&next);
    Ok(Exit::Done)
}
