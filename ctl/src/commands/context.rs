//! `ctl context`: which coordinator is asked.

use clap::{Args, Subcommand};

use crate::{
    context::Config,
    error::CtlError,
    exit::Exit,
    render::{json, lists},
    session::Session,
};

/// See `ctl context --help`.
#[derive(Clone, Debug, Subcommand)]
pub enum ContextCommand {
    /// Every context; the one in use has a star
    List,
    /// Use this one from now on
    Use(UseArgs),
}

/// A context by name.
#[derive(Args, Clone, Debug)]
pub struct UseArgs {
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// Runs the command.
///
/// # Errors
/// A file that cannot be read or written, or a context that is not known.
pub fn run(command: &ContextCommand, session: &mut Session) -> Result<Exit, CtlError> {
    let path = session.config_path()?.clone();
    let mut config = Config::load(&path)?;
    if let ContextCommand::Use(args) = command {
        let name = config.choose(Some(&args.name))?.name.clone();
        config.current = Some(name);
        config.save(&path)?;
    }
    session.out.show(|view| lists::contexts(view, &config), || json::Contexts::from(&config))?;
    Ok(Exit::Done)
}
