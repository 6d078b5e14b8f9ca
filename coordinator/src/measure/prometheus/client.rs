//! The way to a Prometheus server: one request, one bounded answer.
//!
//! Invariant: the only module of the coordinator that knows the HTTP library.
//! Invariant: an answer is whole within its deadline and its size, and comes from the server that was named: no proxy, no
//! redirect.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use engine::Timestamp;
use reqwest::{
    Response, StatusCode, Url,
    header::{CONTENT_TYPE, DATE, LOCATION},
    redirect,
};
use tokio::io::AsyncReadExt as _;

use super::{
    answer::{self, Series, Told, Wanted},
    error::{Fault, PrometheusError},
};
use crate::host::wall;

/// The longest answer: some ten thousand series.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest secret.
const SECRET_BYTES_MAX: u64 = 64 * 1024;
/// How long a connection may take, whatever the whole answer may.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How an answer is waited for, and how old it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// From the connection to the last byte.
    pub within: Duration,
    /// What is older is no data.
    pub stale_after: Duration,
}

impl Default for Ask {
    fn default() -> Self {
        // Twice the longest usual time from one scrape to the next.
        Self { within: Duration::from_secs(3), stale_after: Duration::from_secs(120) }
    }
}

/// One server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Prometheus {
    address: Url,
    /// As it may be shown.
    shown: String,
    /// Has one line: a bearer token, or `user:password`.
    credentials: Option<PathBuf>,
}

impl Prometheus {
    /// # Errors
    /// The address is none.
    pub fn new(url: &str) -> Result<Self, PrometheusError> {
        let failed = |server: String, why: String| {
            let fault = Fault::Address(why);
            Err(PrometheusError { server, fault, warnings: Vec::new() })
        };
        let address: Url = match url.parse() {
            Ok(address) => address,
            // It is not repeated: a password may stand in it.
            Err(error) => return failed("(no address)".to_owned(), words(&error)),
        };
        let shown = shown(&address);
        match (address.scheme(), address.has_host()) {
            ("http" | "https", true) => Ok(Self { address, shown, credentials: None }),
            (scheme, _) => failed(shown, format!("it begins with `{scheme}:`")),
        }
    }

    /// It is told who asks, by what stands in this file: it may be another one by the next request.
    #[must_use]
    pub fn with_credentials(mut self, file: PathBuf) -> Self {
        self.credentials = Some(file);
        self
    }

    /// What a query says at a moment of the server's clock, or now.
    ///
    /// # Errors
    /// No answer, or none of late. No series at all are none.
    pub async fn instant(
        &self,
        query: &str,
        at: Option<Timestamp>,
        ask: &Ask,
    ) -> Result<Vec<Series>, PrometheusError> {
        let mut parameters = vec![
            ("query", query.to_owned()),
            // What was scraped before that is as good as not there.
            ("lookback_delta", seconds(ask.stale_after.as_secs_f64())),
        ];
        parameters.extend(at.map(|at| ("time", seconds(at.0 as f64 / 1000.0))));
        let (told, server_now) = self.ask("query", &parameters, Wanted::Vector, ask).await?;
        let warnings = told.warnings;
        let judged = told.found.and_then(|found| {
            answer::stale(&found, at.unwrap_or(server_now), ask.stale_after).map(|()| found)
        });
        judged.map_err(|fault| self.error(fault, warnings))
    }

    /// The one number that a query says now.
    ///
    /// # Errors
    /// No answer, or none that is one finite number, of late.
    pub async fn number(&self, query: &str, ask: &Ask) -> Result<f64, PrometheusError> {
        let found = self.instant(query, None, ask).await?;
        answer::one(&found).map(|point| point.value).map_err(|fault| self.error(fault, Vec::new()))
    }

    /// What a query said from one moment of the server's clock to another, each `step`.
    ///
    /// # Errors
    /// No answer, no data, or none in the last part of it.
    pub async fn range(
        &self,
        query: &str,
        (from, to): (Timestamp, Timestamp),
        step: Duration,
        ask: &Ask,
    ) -> Result<Vec<Series>, PrometheusError> {
        let parameters = [
            ("query", query.to_owned()),
            ("start", seconds(from.0 as f64 / 1000.0)),
            ("end", seconds(to.0 as f64 / 1000.0)),
            ("step", seconds(step.as_secs_f64())),
            ("lookback_delta", seconds(ask.stale_after.as_secs_f64())),
        ];
        let (told, _) = self.ask("query_range", &parameters, Wanted::Matrix, ask).await?;
        let warnings = told.warnings;
        let judged = told.found.and_then(|found| {
            if found.is_empty() {
                return Err(Fault::NoData);
            }
            answer::stale(&found, to, ask.stale_after.saturating_add(step)).map(|()| found)
        });
        judged.map_err(|fault| self.error(fault, warnings))
    }

    pub(super) fn error(&self, fault: Fault, warnings: Vec<String>) -> PrometheusError {
        PrometheusError { server: self.shown.clone(), fault, warnings }
    }

    /// The answer, and what the server's clock says.
    async fn ask(
        &self,
        what: &str,
        parameters: &[(&str, String)],
        wanted: Wanted,
        ask: &Ask,
    ) -> Result<(Told, Timestamp), PrometheusError> {
        let told = tokio::time::timeout(ask.within, self.answer(what, parameters, wanted)).await;
        told.unwrap_or(Err(Fault::TimedOut(ask.within)))
            .map_err(|fault| self.error(fault, Vec::new()))
    }

    async fn answer(
        &self,
        what: &str,
        parameters: &[(&str, String)],
        wanted: Wanted,
    ) -> Result<(Told, Timestamp), Fault> {
        let mut url = self.address.clone();
        let path = format!("{}/api/v1/{what}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        // Posted, as a form: the names of many hosts are longer than a URL may be.
        let mut form = self.address.clone();
        form.query_pairs_mut().clear().extend_pairs(parameters);
        let body = form.query().unwrap_or_default().to_owned();
        let client = CLIENT.as_ref().map_err(|why| Fault::NotReached(why.clone()))?;
        let mut asked = client.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(file) = &self.credentials {
            // A token has no colon in it (RFC 6750, 2.1).
            let secret = secret(file).await?;
            asked = match secret.split_once(':') {
                Some((user, password)) => asked.basic_auth(user, Some(password)),
                None => asked.bearer_auth(&secret),
            };
        }
        let lost = |error: reqwest::Error| Fault::NotReached(words(&error.without_url()));
        let mut response = asked.body(body).send().await.map_err(lost)?;
        if response.status().is_redirection() {
            return Err(Fault::Redirect(self.leads_to(&response)));
        }
        if let status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) = response.status() {
            let (status, file) = (status.as_u16(), self.credentials.clone());
            return Err(Fault::Credentials { status, file });
        }
        let (status, kind) = (response.status().as_u16(), kind_of(&response));
        let now = server_now(&response);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(Fault::TooLong(BODY_BYTES_MAX));
            }
            body.extend_from_slice(&chunk);
        }
        let told = answer::read(&body, wanted);
        told.map(|told| (told, now)).ok_or(Fault::NotPrometheus { status, what: kind })
    }

    fn leads_to(&self, response: &Response) -> String {
        let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
        let to = to.and_then(|to| self.address.join(to).ok());
        to.map_or_else(|| "somewhere else".to_owned(), |to| shown(&to))
    }
}

static CLIENT: LazyLock<Result<reqwest::Client, String>> = LazyLock::new(|| {
    // An error only says that a provider was installed before, which does as well.
    rustls::crypto::ring::default_provider().install_default().ok();
    let with_roots = builder().build();
    let built = with_roots.or_else(|error| {
        let error = words(&error);
        tracing::warn!(error, "no root certificates on this host: https to Prometheus will fail");
        builder().tls_certs_only([]).build()
    });
    built.map_err(|error| format!("the HTTP client cannot be set up: {}", words(&error)))
});

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .referer(false)
        .http1_only()
        // A server that was started anew would break a kept connection in the middle of a request.
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT_WITHIN)
        .user_agent(concat!("lastgood-coordinator/", env!("CARGO_PKG_VERSION")))
}

/// Scheme, host and port: whom a secret is for.
pub(super) fn origin(url: &str) -> Result<String, String> {
    let address: Url = url.parse().map_err(|error| words(&error))?;
    let origin = address.origin();
    match (origin.is_tuple(), address.scheme()) {
        (true, "http" | "https") => Ok(origin.ascii_serialization()),
        (_, scheme) => Err(format!("it begins with `{scheme}:`")),
    }
}

async fn secret(file: &Path) -> Result<String, Fault> {
    let unread = |why: String| Fault::Unread { file: file.to_owned(), why };
    let open = tokio::fs::File::open(file).await.map_err(|error| unread(words(&error)))?;
    let (mut text, mut open) = (String::new(), open.take(SECRET_BYTES_MAX));
    open.read_to_string(&mut text).await.map_err(|error| unread(words(&error)))?;
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() || line.contains(char::is_control) {
        return Err(unread("one line is wanted: a token, or `user:password`".to_owned()));
    }
    Ok(line.to_owned())
}

/// An address without user, password, query and fragment.
fn shown(address: &Url) -> String {
    let mut address = address.clone();
    address.set_query(None);
    address.set_fragment(None);
    // They fail for an address without a host only, which has neither.
    if address.set_username("").is_err() || address.set_password(None).is_err() {
        return format!("{}:…", address.scheme());
    }
    address.as_str().trim_end_matches('/').to_owned()
}

fn kind_of(response: &Response) -> String {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or("no content type");
    kind.chars().take(64).collect()
}

/// By its own clock, to which its points are to be compared; by ours, where it does not say.
fn server_now(response: &Response) -> Timestamp {
    let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    date.map_or_else(wall, |date| Timestamp(date.timestamp().as_millisecond()))
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.3}")
}

/// What went wrong at the bottom of it, as the host says it: `connection refused`.
fn words(error: &dyn Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let text = deepest.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}
