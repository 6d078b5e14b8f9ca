//! `ctl init`: the CA, the coordinator's identity, the first operator's, and a context for it.
//!
//! ```text
//! DIR/ca/             ca.pem ca-key.pem       stays here: whoever has the key is anybody
//! DIR/coordinator/    to the coordinator's host; with the CA's key, so that hosts can join there
//! DIR/operators/NAME/ named by the context
//! DIR/agents/HOST/    where no coordinator issues: by `ctl agent issue`
//! ```
//!
//! Invariant: a CA that is there is never overwritten.

use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use clap::Args;
use proto::tls::{Ca, Identity, IdentityDir, Issued, Role, TlsError, Validity};

use crate::{
    context::{Config, Context},
    error::CtlError,
    exit::Exit,
    render::json,
    session::{Session, quote},
};

/// The CA's own directory in that of `init`.
pub(super) const CA_DIR: &str = "ca";
/// Reachable through a tunnel on the operator's own host, too: name servers fail in emergencies.
const ALWAYS_NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// See `ctl init --help`.
#[derive(Args, Clone, Debug)]
pub struct InitArgs {
    /// Where agents and operators reach the coordinator: HOST:PORT
    #[arg(long, value_name = "HOST:PORT")]
    pub coordinator: String,
    /// What to call it: the context, and the domain of all its identities
    #[arg(long, value_name = "NAME", default_value = "lastgood")]
    pub name: String,
    /// Where keys and certificates go
    #[arg(long, value_name = "DIR", default_value = "lastgood")]
    pub dir: PathBuf,
    /// The first operator
    #[arg(long, value_name = "NAME", env = "USER", hide_env_values = true)]
    pub operator: String,
    /// Other names or addresses that the coordinator is reached by
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    pub also: Vec<String>,
    /// How long the two identities hold
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub days: u16,
}

/// Runs the command.
///
/// # Errors
/// [`CtlError::Issue`] for a CA that is there or names that are none, [`CtlError::Write`].
pub fn run(args: &InitArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let dir =
        absolute(&args.dir).map_err(|source| CtlError::Read { path: args.dir.clone(), source })?;
    let config_path = session.config_path()?.clone();
    let mut config = Config::load(&config_path)?;
    if config.contexts.iter().any(|context| context.name == args.name) {
        let what = format!("there is a context `{}` already", args.name);
        return Err(CtlError::usage(what, &["ctl context list", "ctl init --name ANOTHER …"]));
    }
    let (host, _) = args.coordinator.rsplit_once(':').ok_or_else(|| {
        CtlError::usage("--coordinator wants a port", &["ctl init --coordinator HOST:7443"])
    })?;
    let failed = |doing| move |source| CtlError::Issue { doing, source };
    let ca = Ca::create(&args.name).map_err(failed("make a CA"))?;
    let mut names = vec![host.trim_matches(['[', ']']).to_owned()];
    names.extend(args.also.iter().cloned());
    names.extend(
        ALWAYS_NAMES
            .map(str::to_owned)
            .into_iter()
            .filter(|name| name != &names[0])
            .collect::<Vec<_>>(),
    );
    let coordinator = Made::new(&ca, Role::Coordinator, "coordinator", &names, args.days)?;
    let operator = Made::new(&ca, Role::Operator, &args.operator, &[], args.days)?;
    // Names that are none were refused above, before anything was written.
    ca.save(&dir.join(CA_DIR)).map_err(failed("keep the CA"))?;
    let at = dir.join("operators").join(&args.operator);
    ca.save_key(&dir.join("coordinator"))
        .map_err(failed("put the CA's key beside the coordinator"))?;
    let identities = vec![coordinator.save(&dir.join("coordinator"))?, operator.save(&at)?];
    config.put(Context {
        name: args.name.clone(),
        coordinator: args.coordinator.clone(),
        identity: at,
    });
    config.save(&config_path)?;
    let made = json::Initialised {
        domain: args.name.clone(),
        ca: dir.join(CA_DIR).display().to_string(),
        context: args.name.clone(),
        identities,
    };
    session.out.show(|_| text(&made), || made.clone())?;
    session.out.talk(&next(&dir));
    Ok(Exit::Done)
}

/// A new identity that is not written yet.
pub(super) struct Made {
    identity: Identity,
    issued: Issued,
}

impl Made {
    pub(super) fn new(
        ca: &Ca,
        role: Role,
        name: &str,
        hosts: &[String],
        days: u16,
    ) -> Result<Self, CtlError> {
        let identity = Identity::new(ca.domain(), role, name)
            .map_err(|error| CtlError::usage(error.to_string(), &[]))?;
        let validity = Validity::lasting(Duration::from_secs(u64::from(days) * 24 * 3600));
        let issued = ca.issue(&identity, hosts, validity).map_err(not_issued)?;
        Ok(Self { identity, issued })
    }

    /// Writes it into a directory of its own.
    pub(super) fn save(&self, at: &Path) -> Result<json::Issued, CtlError> {
        self.issued.save(at).map_err(not_issued)?;
        let written = IdentityDir::load(at).map_err(not_issued)?;
        Ok(json::Issued::new(&self.identity, at, written.not_after_unix_ms()))
    }
}

const fn not_issued(source: TlsError) -> CtlError {
    CtlError::Issue { doing: "issue an identity", source }
}

fn text(made: &json::Initialised) -> String {
    let mut text = format!("CA of {}: {}\n", made.domain, made.ca);
    for issued in &made.identities {
        text += &format!("{}: {}\n", issued.identity, issued.directory);
    }
    text + &format!("Context {} is in use.\n", made.context)
}

fn next(dir: &Path) -> String {
    let dir = quote(&dir.display().to_string());
    format!(
        "Whoever reads {dir}/ca or {dir}/coordinator/ca-key.pem can be any host and\n\
         any operator. Keep the first offline. The second lets hosts join and renew; without\n\
         it there, identities are issued here: ctl agent issue --host HOST\n\
         Next:  1. bring {dir}/coordinator to the coordinator's host and start it there\n\
         \x20      2. ctl apply -f fleet.yaml\n\
         \x20      3. ctl agent token create --host HOST    # once per host\n"
    )
}
