//! `ctl agent`: which agents there are, who may join, and who is shut out.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use proto::{
    span::Span,
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
    /// A one-time token with which a host joins
    #[command(
        subcommand,
        after_help = "Examples:\n  ctl agent token create --host crm-g1 --ttl 15m"
    )]
    Token(TokenCommand),
    /// Shut a host out: its certificates are refused and its session is cut, until it joins again
    #[command(
        after_help = "Examples:\n  ctl agent revoke --host crm-g1 --reason 'the machine was sold'\n  ctl agent token create --host crm-g1    let it in again"
    )]
    Revoke(RevokeArgs),
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

/// See `ctl agent token --help`.
#[derive(Clone, Debug, Subcommand)]
pub enum TokenCommand {
    /// Print the line to paste on the host, and the token to give it when it asks
    #[command(
        after_help = "Examples:\n  ctl agent token create --host crm-g1\n  ctl agent token create --host crm-g1 --ttl 5m -o json"
    )]
    Create(TokenArgs),
}

/// See `ctl agent token create --help`.
#[derive(Args, Clone, Debug)]
pub struct TokenArgs {
    /// The host's name, as in the fleet file
    #[arg(long, value_name = "HOST")]
    pub host: String,
    /// How long it holds: 1m to 1h
    #[arg(long, value_name = "SPAN", default_value = "15m")]
    pub ttl: Span,
}

/// See `ctl agent revoke --help`.
#[derive(Args, Clone, Debug)]
pub struct RevokeArgs {
    /// The host's name
    #[arg(long, value_name = "HOST")]
    pub host: String,
    /// Why; kept, and told to whoever is refused
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
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
        AgentCommand::Token(TokenCommand::Create(args)) => create_token(args, session).await,
        AgentCommand::Revoke(args) => revoke(args, session).await,
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

async fn create_token(args: &TokenArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let coordinator = session.coordinator()?;
    let request = v1::CreateJoinTokenRequest { host: args.host.clone(), ttl_ms: args.ttl.as_ms() };
    let mut client = session.client().await?;
    let response = client.create_join_token(request).await;
    let made = response.map_err(CtlError::call("make a token"))?.into_inner();
    let made = json::JoinToken::new(made, &coordinator);
    let (host, ctl) = (quote(&made.host), session.ctl());
    let hint = format!(
        "Paste the first line on {host} as root, and the second where it asks for the\n\
         token, which holds once and for {}. The host's policy goes there first:\n  \
         {ctl} policy render --host {host} | ssh root@{host} 'umask 022; cat > /etc/lastgood/policy.yaml'\n",
        args.ttl
    );
    session.out.show(|_| format!("{}\n{}\n", made.command, made.token), || made.clone())?;
    session.out.talk(&hint);
    Ok(Exit::Done)
}

async fn revoke(args: &RevokeArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let (host, reason) = (args.host.clone(), args.reason.clone());
    let mut client = session.client().await?;
    let response = client.revoke_agent(v1::RevokeAgentRequest { host: host.clone(), reason }).await;
    let was_connected =
        response.map_err(CtlError::call("shut the host out"))?.into_inner().was_connected;
    let session_was = if was_connected { "its session is cut" } else { "it was not connected" };
    let text = format!("{host} is shut out; {session_was}.\n");
    let next = format!(
        "Plans count it as out of reach. To let it in again:\n  {} agent token create --host {}\n",
        session.ctl(),
        quote(&host)
    );
    session.out.show(|_| text, || json::Revoked { host, was_connected })?;
    session.out.talk(&next);
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
