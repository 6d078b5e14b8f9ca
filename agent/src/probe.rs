//! Tries a check: asks the app what it says of itself.
//!
//! ```text
//! CheckPolicy + wanted version --Prober::try_once--> Tried (ok, the host's own words, version)
//!             \--Prober::verify--> many tries over time --> Verified, or NotVerified (see `verify`)
//! ```
//!
//! Invariant: what cannot be judged has not passed.
//! Invariant: a bearer token is in no detail, even where the app sends it back.

mod judge;
mod verify;

#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use proto::policy::{CheckPolicy, CommandProbe, HttpProbe, ProbePolicy, TcpProbe};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use self::judge::Judge;
pub use self::verify::{LastTry, NotVerified, Verified, Windows};
use crate::{
    exec::{self, ExecError, Spec},
    http::{self, Bearer, Client, HttpError, Request},
};

/// Longer than any token.
const BEARER_BYTES_MAX: usize = 8 * 1024;

/// One try of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    pub ok: bool,
    /// What was seen, in the host's own words.
    pub detail: String,
    /// What the app calls its version, where the check asks for it and it answered.
    pub version: Option<String>,
    pub took: Duration,
}

/// Tries checks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Prober {
    http: Client,
}

impl Prober {
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn new() -> Result<Self, HttpError> {
        Client::new().map(|http| Self { http })
    }

    /// Tries `check` once, for its `timeout` at most. Where `wanted_version` is `None`, any version is good.
    pub async fn try_once(&self, check: &CheckPolicy, wanted_version: Option<&str>) -> Tried {
        let begun = Instant::now();
        let seen = match unsupported(check) {
            Some(why) => Seen::bad(why),
            None => match &check.probe {
                ProbePolicy::Http(probe) => {
                    self.try_http(probe, wanted_version, check.timeout.0).await
                }
                ProbePolicy::Tcp(probe) => try_tcp(probe, check.timeout.0).await,
                ProbePolicy::Command(probe) => try_command(probe, check.timeout.0).await,
            },
        };
        let (ok, detail) = match seen.verdict {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        Tried { ok, detail, version: seen.version, took: begun.elapsed() }
    }

    /// All requests of one try, one after the other: the first that fails is the try's failure.
    async fn try_http(&self, probe: &HttpProbe, wanted: Option<&str>, within: Duration) -> Seen {
        let token = match read_bearer(probe.bearer_file.as_deref()).await {
            Ok(token) => token,
            Err(why) => return Seen::bad(why),
        };
        let end = Instant::now() + within;
        let requests = probe.requests.unwrap_or(1);
        let mut seen = Seen::bad("no request was made".to_owned());
        for number in 1..=requests {
            let left = end.saturating_duration_since(Instant::now());
            seen = self.ask(probe, token.as_deref(), wanted, left).await;
            if let Err(why) = &mut seen.verdict {
                if requests > 1 {
                    why.push_str(&format!(" (request {number} of {requests})"));
                }
                break;
            }
        }
        seen
    }

    async fn ask(
        &self,
        probe: &HttpProbe,
        token: Option<&str>,
        wanted: Option<&str>,
        within: Duration,
    ) -> Seen {
        let method = probe.method.as_deref().unwrap_or("GET");
        let what = format!("{method} {}", http::shown(&probe.http));
        let bearer = match token.map(Bearer::new) {
            None => None,
            Some(Some(bearer)) => Some(bearer),
            Some(None) => {
                return Seen::bad(format!("{what} → its bearer token cannot stand in a header"));
            }
        };
        let request = Request {
            method,
            url: &probe.http,
            body: probe.body.as_deref(),
            bearer: bearer.as_ref(),
            within,
        };
        match self.http.ask(&request).await {
            Ok(answer) => {
                let (what, expect) = (&what, &probe.expect);
                Judge { what, answer: &answer, expect, wanted_version: wanted, token }.judge()
            }
            Err(error) => Seen::bad(format!("{what} → {error}")),
        }
    }
}

/// Why this agent refuses `check`, `None` where it can try it. Asked when a policy is loaded, and again at each try.
pub fn unsupported(check: &CheckPolicy) -> Option<String> {
    if check.pass == 0 {
        return Some("`pass: 0` would pass without a try; write 1 or more".to_owned());
    }
    match &check.probe {
        ProbePolicy::Http(probe) => unsupported_http(probe),
        ProbePolicy::Tcp(_) => None,
        ProbePolicy::Command(probe) => match probe.command.first() {
            None => Some(ExecError::Empty.to_string()),
            Some(program) if !Path::new(program).is_absolute() => {
                Some(ExecError::Relative(program.clone()).to_string())
            }
            Some(_) => None,
        },
    }
}

fn unsupported_http(probe: &HttpProbe) -> Option<String> {
    if probe.expect.p95_over_baseline.is_some() {
        return Some(
            "`p95_over_baseline` is not supported by this agent yet; take it out".to_owned(),
        );
    }
    if probe.requests == Some(0) {
        return Some("`requests: 0` would ask nothing; write 1 or more".to_owned());
    }
    let pointers = probe.expect.json.keys().chain(&probe.expect.version_at);
    for pointer in pointers {
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Some(format!("`{pointer}` is not a JSON pointer; it begins with `/`"));
        }
    }
    http::refusal(probe.method.as_deref().unwrap_or("GET"), &probe.http)
}

/// What one try showed: good or bad, in words either way.
struct Seen {
    verdict: Result<String, String>,
    version: Option<String>,
}

impl Seen {
    fn bad(why: String) -> Self {
        Self { verdict: Err(why), version: None }
    }
}

async fn try_tcp(probe: &TcpProbe, within: Duration) -> Seen {
    let what = format!("connect {}", probe.tcp);
    let verdict = match timeout(within, TcpStream::connect(&probe.tcp)).await {
        Ok(Ok(_)) => Ok(format!("{what} → accepted")),
        Ok(Err(error)) => Err(format!("{what} → {}", http::words(&error))),
        Err(_) => Err(format!("{what} → no answer within {within:?}")),
    };
    Seen { verdict, version: None }
}

async fn try_command(probe: &CommandProbe, within: Duration) -> Seen {
    let spec = Spec::new(probe.command.clone()).as_user(probe.user.clone());
    let verdict = match exec::run(&spec, within).await {
        Ok(output) => match output.success(&spec) {
            Ok(_) => Ok(format!("`{}` → exit 0", spec.argv.join(" "))),
            Err(failure) => Err(failure.to_string()),
        },
        Err(error) => Err(error.words()),
    };
    Seen { verdict, version: None }
}

/// The token in `file`, read anew at each try: it may be rotated at any time.
async fn read_bearer(file: Option<&Path>) -> Result<Option<String>, String> {
    let Some(file) = file.map(PathBuf::from) else { return Ok(None) };
    let shown = file.display().to_string();
    let text = tokio::fs::read_to_string(&file).await;
    let text = text.map_err(|error| format!("bearer_file {shown} → {}", http::words(&error)))?;
    match text.trim() {
        "" => Err(format!("bearer_file {shown} is empty")),
        token if token.len() > BEARER_BYTES_MAX => {
            Err(format!("bearer_file {shown} is too long for a token"))
        }
        token => Ok(Some(token.to_owned())),
    }
}
