//! One run of `ctl`: which coordinator, as whom, for which fleet, and where the words go.
//!
//! Invariant: nothing is read and nobody is called before a command needs it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use proto::{
    tls::{self, IdentityDir},
    trace::{TraceContext, Traced},
    v1::operator_service_client::OperatorServiceClient,
};
use tonic::{service::interceptor::InterceptedService, transport::Channel};

use crate::{
    context::{Config, Context},
    error::CtlError,
    follow::Patience,
    out::Out,
};

/// The coordinator's operator service.
pub type Client = OperatorServiceClient<InterceptedService<Channel, Traced>>;

/// How long `ctl` watches where `--timeout` does not say, beside what an operation's stages are to be held.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10 * 60);

/// What commands run in.
#[derive(Debug)]
pub struct Session {
    pub out: Out,
    place: Place,
    fleet: Option<String>,
    timeout: Option<Duration>,
    client: Option<Client>,
    trace: Option<TraceContext>,
}

/// How the coordinator is found.
#[derive(Clone, Debug)]
pub enum Place {
    /// In the file with the contexts; absent: the one in use.
    Config { path: PathBuf, context: Option<String> },
    /// Given by the caller.
    Direct(Context),
}

impl Session {
    /// A session; connects at the first call.
    pub const fn new(
        out: Out,
        place: Place,
        fleet: Option<String>,
        timeout: Option<Duration>,
    ) -> Self {
        Self { out, place, fleet, timeout, client: None, trace: None }
    }

    /// Where its calls hang in a trace.
    pub fn hang_on(&mut self, trace: Option<TraceContext>) {
        self.trace = trace;
    }

    /// The id of the trace that its calls are in, where they are in one.
    pub fn trace_id(&self) -> Option<String> {
        self.trace.map(TraceContext::trace_id)
    }

    /// Goes on with another coordinator and fleet.
    pub fn turn_to(&mut self, context: Context, fleet: String) {
        self.place = Place::Direct(context);
        self.fleet = Some(fleet);
        self.client = None;
    }

    /// The client, connected.
    ///
    /// # Errors
    /// No context, no usable identity, or no connection.
    pub async fn client(&mut self) -> Result<Client, CtlError> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let context = self.context()?;
        let dir = context.identity.clone();
        let identity = |source| CtlError::Identity { dir: dir.clone(), source };
        let own = IdentityDir::load(&context.identity).map_err(identity)?;
        let config = Arc::new(tls::client_config(&own).map_err(identity)?);
        let channel = tls::connect(&context.coordinator, config).await.map_err(CtlError::Dial)?;
        let client = OperatorServiceClient::with_interceptor(channel, Traced::new(self.trace))
            .max_decoding_message_size(proto::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(proto::MESSAGE_BYTES_MAX);
        Ok(self.client.insert(client).clone())
    }

    /// Where the coordinator is, as `host:port`.
    ///
    /// # Errors
    /// No context.
    pub fn coordinator(&self) -> Result<String, CtlError> {
        Ok(self.context()?.coordinator)
    }

    /// The fleet that was named; empty for the coordinator's only one.
    pub fn fleet(&self) -> String {
        self.fleet.clone().unwrap_or_default()
    }

    /// How long to watch.
    pub const fn patience(&self) -> Patience {
        match self.timeout {
            Some(timeout) => Patience::For(timeout),
            None => Patience::Beside(TIMEOUT_DEFAULT),
        }
    }

    /// The file with the contexts.
    ///
    /// # Errors
    /// [`CtlError::Usage`] in a session that was given its coordinator by hand.
    pub fn config_path(&self) -> Result<&PathBuf, CtlError> {
        match &self.place {
            Place::Config { path, .. } => Ok(path),
            Place::Direct(_) => Err(CtlError::usage("this session has no contexts", &[])),
        }
    }

    /// `ctl`, with the context where it was named: the beginning of every command that a person is told to type.
    pub fn ctl(&self) -> String {
        match &self.place {
            Place::Config { context: Some(name), .. } => format!("ctl --context {}", quote(name)),
            Place::Config { context: None, .. } => "ctl".to_owned(),
            Place::Direct(context) => format!("ctl --context {}", quote(&context.name)),
        }
    }

    fn context(&self) -> Result<Context, CtlError> {
        match &self.place {
            Place::Config { path, context } => {
                Config::load(path)?.choose(context.as_deref()).cloned()
            }
            Place::Direct(context) => Ok(context.clone()),
        }
    }
}

/// `word` as a shell reads it back.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@%+=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_is_one_word_to_a_shell() {
        for (word, quoted) in [
            ("prod", "prod"),
            ("5xx after -3", "'5xx after -3'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quote(word), quoted);
        }
    }
}
