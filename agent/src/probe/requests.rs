//! One try of an HTTP check: all of its requests, one after the other, and what they show together.
//!
//! ```text
//! secrets from files, read anew ─▶ request 1 … n ─judge each─▶ any failed?  6 of 20 failed: …
//!                                    └─ answer times ─────────▶ average, p95 against bounds and baseline
//! ```
//!
//! Invariant: every request of a try must pass by itself; a good average excuses no failure.
//! Invariant: the whole try ends within the check's timeout; a request that was not made has not passed.
//! Invariant: secrets are read at each try, for they may be rotated at any time, and are in no word that leaves here.

use std::{path::Path, time::Duration};

use proto::policy::HttpProbe;
use tokio::time::Instant;

use super::{
    Seen,
    judge::{Judge, json_of},
    times::Times,
};
use crate::{
    http::{self, Answer, Client, Header, HttpError, Request},
    sampler::Answered,
};

/// Longer than any token.
const SECRET_BYTES_MAX: usize = 8 * 1024;
/// Failed requests that are named by their number; the rest is counted.
const NUMBERS_NAMED: usize = 5;

/// What is sent, and what of it nobody may see.
struct Sent {
    headers: Vec<Header>,
    /// Longer ones first.
    secrets: Vec<String>,
}

/// What went wrong so far.
#[derive(Default)]
struct Failed {
    /// The first failure's words.
    why: String,
    numbers: Vec<u32>,
    count: u32,
    /// What the app called its version where that was wrong.
    version: Option<String>,
}

/// All requests of one try.
pub(super) async fn try_all(
    client: &Client,
    probe: &HttpProbe,
    wanted_version: Option<&str>,
    baseline: Option<Times>,
    within: Duration,
) -> Seen {
    let what = format!("{} {}", method(probe), http::shown(&probe.http));
    let sent = match Sent::read(probe).await {
        Ok(sent) => sent,
        Err(why) => return Seen::bad(format!("{what} → {why}")),
    };
    let end = Instant::now() + within;
    let requests = probe.requests.unwrap_or(1);
    let (mut failed, mut each, mut good) = (Failed::default(), Vec::new(), None);
    let mut made = 0;
    while made < requests && (made == 0 || Instant::now() < end) {
        made += 1;
        let left = end.saturating_duration_since(Instant::now());
        let seen = match ask(client, probe, &sent, left).await {
            Ok(answer) => {
                each.push(answer.took);
                let (what, secrets, expect) = (&what, &sent.secrets, &probe.expect);
                let body = json_of(&answer);
                Judge { what, answer: &answer, expect, wanted_version, secrets, body }.judge()
            }
            Err(HttpError::TimedOut(_)) => {
                Seen::bad(format!("{what} → no answer within {within:?}"))
            }
            Err(error) => Seen::bad(format!("{what} → {error}")),
        };
        match &seen.verdict {
            Ok(_) => good = Some(seen),
            Err(_) => failed.note(made, seen),
        }
    }
    if failed.count > 0 || made < requests {
        return failed.seen(made, requests, &what, within);
    }
    let Some(mut seen) = good else { return Seen::bad(format!("{what} → no request was made")) };
    let Some(times) = Times::of(each) else { return seen };
    seen.times = Some(times);
    seen.verdict = match (times.judge(&probe.expect, baseline), seen.verdict) {
        (Err(why), _) => Err(format!("{what} → {why}")),
        (Ok(()), Ok(words)) if requests > 1 => {
            Ok(format!("{words}; {requests} requests: {}", times.words()))
        }
        (Ok(()), words) => words,
    };
    seen
}

/// One request by itself.
pub(super) async fn ask_one(client: &Client, probe: &HttpProbe, within: Duration) -> Answered {
    let Ok(sent) = Sent::read(probe).await else { return Answered::NONE };
    let Ok(answer) = ask(client, probe, &sent, within).await else { return Answered::NONE };
    let (secrets, expect) = (&sent.secrets, &probe.expect);
    let body = json_of(&answer);
    let judge = Judge { what: "", answer: &answer, expect, wanted_version: None, secrets, body };
    let good = judge.judge().verdict.is_ok();
    Answered { good, took: Some(answer.took), gauges: judge.gauges() }
}

async fn ask(
    client: &Client,
    probe: &HttpProbe,
    sent: &Sent,
    within: Duration,
) -> Result<Answer, HttpError> {
    let request = Request {
        method: method(probe),
        url: &probe.http,
        body: probe.body.as_deref(),
        headers: &sent.headers,
        within,
    };
    client.ask(&request).await
}

impl Sent {
    async fn read(probe: &HttpProbe) -> Result<Self, String> {
        let (mut headers, mut secrets) = (Vec::new(), Vec::new());
        for (name, value) in &probe.headers {
            let header = Header::open(name, value);
            headers.push(header.ok_or_else(|| format!("header `{name}` cannot be sent"))?);
        }
        for (name, file) in &probe.header_files {
            let value = read_secret(&format!("header_files `{name}`"), file).await?;
            let header = Header::secret(name, &value);
            let why = || format!("what {} holds cannot stand in a header", file.display());
            headers.push(header.ok_or_else(why)?);
            secrets.push(value);
        }
        if let Some(file) = &probe.bearer_file {
            let token = read_secret("bearer_file", file).await?;
            let header = Header::bearer(&token);
            headers.push(header.ok_or("its bearer token cannot stand in a header")?);
            secrets.push(token);
        }
        secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
        Ok(Self { headers, secrets })
    }
}

impl Failed {
    fn note(&mut self, number: u32, seen: Seen) {
        self.count += 1;
        if self.numbers.len() < NUMBERS_NAMED {
            self.numbers.push(number);
        }
        if let (Err(why), 1) = (seen.verdict, self.count) {
            (self.why, self.version) = (why, seen.version);
        }
    }

    /// `6 of 20 failed: GET … → 500, wanted 200 (requests 3, 7, 9, 12, 14 and 1 more)`.
    fn seen(self, made: u32, requests: u32, what: &str, within: Duration) -> Seen {
        let mut words = if self.count == 0 {
            format!("{what} → {made} of {requests} requests were answered within {within:?}")
        } else if requests == 1 {
            self.why
        } else {
            let numbers: Vec<String> = self.numbers.iter().map(u32::to_string).collect();
            let mut numbers = numbers.join(", ");
            let named = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
            if self.count > named {
                numbers.push_str(&format!(" and {} more", self.count - named));
            }
            let word = if self.count == 1 { "request" } else { "requests" };
            format!("{} of {made} failed: {} ({word} {numbers})", self.count, self.why)
        };
        if self.count > 0 && made < requests {
            words.push_str(&format!("; {} more were not made in time", requests - made));
        }
        Seen { verdict: Err(words), version: self.version, times: None }
    }
}

/// A secret, as its file holds it now.
async fn read_secret(what: &str, file: &Path) -> Result<String, String> {
    let shown = file.display();
    let text = tokio::fs::read_to_string(file).await;
    let text = text.map_err(|error| format!("{what} {shown}: {}", http::words(&error)))?;
    match text.trim() {
        "" => Err(format!("{what} {shown} is empty")),
        secret if secret.len() > SECRET_BYTES_MAX => {
            Err(format!("{what} {shown} is too long for a token"))
        }
        secret => Ok(secret.to_owned()),
    }
}

fn method(probe: &HttpProbe) -> &str {
    probe.method.as_deref().unwrap_or("GET")
}
