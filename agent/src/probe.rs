//! Tries a check: asks the app what it says of itself.
//!
//! ```text
//! CheckPolicy + Wanted --Prober::try_once--> Tried (ok, the host's own words, version, answer times)
//!        \--Prober::verify--> many tries over time --> Verified, or NotVerified (see `verify`)
//! ```
//!
//! Invariant: what cannot be judged has not passed.
//! Invariant: a secret that was sent is in no detail, even where the app sends it back.

mod judge;
mod requests;
mod times;
mod verify;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::Path, time::Duration};

use proto::policy::{CheckPolicy, CommandProbe, HttpProbe, ProbePolicy, TcpProbe};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

pub use self::{
    times::{NOISE, Times, compares},
    verify::{LastTry, NotVerified, Verified, Windows, asked},
};
use crate::{
    exec::{self, ExecError, Spec},
    http::{self, Client, HttpError},
    sampler::Answered,
};

/// What checks are held to besides their own expectations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Where it is `None`, any version is good.
    pub version: Option<String>,
    /// By the check's name: how long it took while the release was good.
    pub baselines: BTreeMap<String, Times>,
}

/// One try of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    pub ok: bool,
    /// What was seen, in the host's own words.
    pub detail: String,
    /// What the app calls its version, where the check asks for it and it answered.
    pub version: Option<String>,
    /// Where all requests of an HTTP check passed by themselves.
    pub times: Option<Times>,
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

    /// Tries `check` once, for its `timeout` at most.
    pub async fn try_once(&self, check: &CheckPolicy, wanted: &Wanted) -> Tried {
        let begun = Instant::now();
        let within = check.timeout.0;
        let seen = match unsupported(check) {
            Some(why) => Seen::bad(why),
            None => match &check.probe {
                ProbePolicy::Http(probe) => {
                    let baseline = wanted.baselines.get(&check.name).copied();
                    let version = wanted.version.as_deref();
                    requests::try_all(&self.http, probe, version, baseline, within).await
                }
                ProbePolicy::Tcp(probe) => try_tcp(probe, within).await,
                ProbePolicy::Command(probe) => try_command(probe, within).await,
            },
        };
        let (ok, detail) = match seen.verdict {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        Tried { ok, detail, version: seen.version, times: seen.times, took: begun.elapsed() }
    }
}

impl Prober {
    /// One request of an HTTP check, for its `timeout` at most, judged by itself: by what one answer can show, without
    /// averages and baselines. What cannot be asked is bad.
    pub async fn ask_once(&self, check: &CheckPolicy) -> Answered {
        match (&check.probe, unsupported(check)) {
            (ProbePolicy::Http(probe), None) => {
                requests::ask_one(&self.http, probe, check.timeout.0).await
            }
            (ProbePolicy::Http(_) | ProbePolicy::Tcp(_) | ProbePolicy::Command(_), _) => {
                Answered::NONE
            }
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
    if probe.requests == Some(0) {
        return Some("`requests: 0` would ask nothing; write 1 or more".to_owned());
    }
    let expect = &probe.expect;
    let bounds = expect.at_most.keys().chain(expect.at_least.keys());
    for pointer in expect.json.keys().chain(&expect.version_at).chain(bounds) {
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Some(format!("`{pointer}` is not a JSON pointer; it begins with `/`"));
        }
    }
    let bearer = probe.bearer_file.is_some().then_some("authorization");
    let mut names: Vec<String> = Vec::new();
    for name in probe.headers.keys().chain(probe.header_files.keys()).map(String::as_str) {
        if let Some(why) = http::header_refusal(name) {
            return Some(why);
        }
        names.push(name.to_ascii_lowercase());
    }
    names.extend(bearer.map(str::to_owned));
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|two| two[0] == two[1]) {
        return Some(format!("header `{}` is given twice; give it once", twice[0]));
    }
    http::refusal(probe.method.as_deref().unwrap_or("GET"), &probe.http)
}

/// What one try showed: good or bad, in words either way.
struct Seen {
    verdict: Result<String, String>,
    version: Option<String>,
    times: Option<Times>,
}

impl Seen {
    fn bad(why: String) -> Self {
        Self { verdict: Err(why), version: None, times: None }
    }
}

async fn try_tcp(probe: &TcpProbe, within: Duration) -> Seen {
    let what = format!("connect {}", probe.tcp);
    let verdict = match timeout(within, TcpStream::connect(&probe.tcp)).await {
        Ok(Ok(_)) => Ok(format!("{what} → accepted")),
        Ok(Err(error)) => Err(format!("{what} → {}", http::words(&error))),
        Err(_) => Err(format!("{what} → no answer within {within:?}")),
    };
    Seen { verdict, version: None, times: None }
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
    Seen { verdict, version: None, times: None }
}
