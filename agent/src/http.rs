//! The agent's way to ask over HTTP, with the bounds that everything it asks has.
//!
//! ```text
//! Request --Client::ask--> Answer (status, the first 64 KiB, time taken)  or  HttpError (the host's own words)
//! Request --Client::download--> every byte to whoever asked, up to a limit; only of a 200
//! ```
//!
//! Invariant: the only module that knows the HTTP library.
//! Invariant: no proxy, no redirect, no reused connection: what answers is what the URL names, now.
//! Invariant: no bearer token, secret header, password or query of a URL is in an error.

use std::{
    error::Error,
    path::Path,
    time::{Duration, Instant},
};

use reqwest::{
    Method, Url,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName,
        HeaderValue, TRANSFER_ENCODING, UPGRADE,
    },
    redirect,
};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

/// How much of an answer is read. A health check's is far smaller.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a connection may take, whatever the whole request may.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// What to ask.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    /// `http` or `https`.
    pub url: &'a str,
    /// Sent as JSON where it is JSON, else as text; a `Content-Type` among the headers goes before.
    pub body: Option<&'a str>,
    pub headers: &'a [Header],
    /// From the connection to the last byte.
    pub within: Duration,
}

/// A header to send.
#[derive(Clone, Debug)]
pub struct Header {
    name: HeaderName,
    value: HeaderValue,
}

impl Header {
    /// A header that anybody may see. `None` where it cannot be one.
    pub fn open(name: &str, value: &str) -> Option<Self> {
        Some(Self { name: name.parse().ok()?, value: value.parse().ok()? })
    }

    /// A header whose value is never shown. `None` where it cannot be one.
    pub fn secret(name: &str, value: &str) -> Option<Self> {
        let mut header = Self::open(name, value)?;
        // Its `Debug` hides it from now on.
        header.value.set_sensitive(true);
        Some(header)
    }

    /// `Authorization: Bearer …`. `None` where `token` cannot stand in a header.
    pub fn bearer(token: &str) -> Option<Self> {
        Self::secret(AUTHORIZATION.as_str(), &format!("Bearer {token}"))
    }
}

/// What was answered, whatever the status.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// The first [`BODY_BYTES_MAX`] bytes.
    pub body: Vec<u8>,
    /// There was more.
    pub cut: bool,
    /// From the request to the last byte that was read.
    pub took: Duration,
}

/// Why there is no answer, in the host's own words. The library's error is kept without its URL.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("cannot set up the HTTP client: {}", words(.0))]
    SetUp(reqwest::Error),
    #[error("the url is not one: {0}")]
    Url(String),
    #[error("method `{0}` is not one")]
    Method(String),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("{}", words(.0))]
    Ask(reqwest::Error),
    #[error("these are no certificates in PEM: {}", words(.0))]
    Roots(reqwest::Error),
    #[error("the server answers {status}{}", status_words(*status))]
    Status { status: u16 },
    #[error("it is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("it ended after {got} of {wanted} bytes")]
    Short { got: u64, wanted: u64 },
    #[error("what was received could not be kept: {}", words(.0))]
    Keep(std::io::Error),
}

impl HttpError {
    /// Nobody listens there.
    pub fn is_unheard(&self) -> bool {
        match self {
            Self::Ask(error) => error.is_connect(),
            Self::SetUp(_)
            | Self::Url(_)
            | Self::Method(_)
            | Self::TimedOut(_)
            | Self::Roots(_)
            | Self::Status { .. }
            | Self::TooLarge { .. }
            | Self::Short { .. }
            | Self::Keep(_) => false,
        }
    }
}

/// The one HTTP client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client(reqwest::Client);

impl Client {
    /// Sets it up. The process has installed its TLS provider by now.
    ///
    /// # Errors
    /// TLS cannot be set up. A host without root certificates is none: there, every `https` request fails.
    pub fn new() -> Result<Self, HttpError> {
        let with_roots = builder().build();
        let built = with_roots.or_else(|error| {
            tracing::warn!(
                error = words(&error),
                "no root certificates on this host: https will fail"
            );
            builder().tls_certs_only([]).build()
        });
        built.map(Self).map_err(HttpError::SetUp)
    }

    /// The same, for servers whose certificates lead to one of these, in PEM, and to no other.
    ///
    /// # Errors
    /// They are none.
    pub fn with_roots(pem: &[u8]) -> Result<Self, HttpError> {
        let roots = reqwest::Certificate::from_pem_bundle(pem).map_err(HttpError::Roots)?;
        builder().tls_certs_only(roots).build().map(Self).map_err(HttpError::Roots)
    }

    /// Gets something large: writes it to `into` as it comes, at most `limit` bytes. Answers how many there were.
    ///
    /// # Errors
    /// The status is not 200, it is too large, it was not whole in time, or it could not be written. What was written until
    /// then is to be thrown away.
    pub async fn download(
        &self,
        request: &Request<'_>,
        limit: u64,
        into: &mut (impl AsyncWrite + Unpin),
    ) -> Result<u64, HttpError> {
        let asked = self.0.request(method(request.method)?, url(request.url)?);
        let mut asked = asked.timeout(request.within).header(ACCEPT_ENCODING, "identity");
        for header in request.headers {
            asked = asked.header(header.name.clone(), header.value.clone());
        }
        let failed = |error: reqwest::Error| {
            if error.is_timeout() {
                HttpError::TimedOut(request.within)
            } else {
                HttpError::Ask(error.without_url())
            }
        };
        let mut response = asked.send().await.map_err(failed)?;
        if response.status().as_u16() != 200 {
            return Err(HttpError::Status { status: response.status().as_u16() });
        }
        let says = response.content_length();
        if says.is_some_and(|says| says > limit) {
            return Err(HttpError::TooLarge { limit });
        }
        let mut got = 0u64;
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) if error.is_timeout() => return Err(failed(error)),
                Err(error) => match says {
                    Some(wanted) => return Err(HttpError::Short { got, wanted }),
                    None => return Err(failed(error)),
                },
            };
            got = got.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            if got > limit {
                return Err(HttpError::TooLarge { limit });
            }
            into.write_all(&chunk).await.map_err(HttpError::Keep)?;
        }
        into.flush().await.map_err(HttpError::Keep)?;
        match says {
            Some(wanted) if wanted != got => Err(HttpError::Short { got, wanted }),
            Some(_) | None => Ok(got),
        }
    }

    /// One whose every request goes to this socket on the host, whatever its URL names.
    ///
    /// # Errors
    /// It cannot be set up.
    pub fn on_socket(socket: &Path) -> Result<Self, HttpError> {
        let built = builder().tls_certs_only([]).unix_socket(socket).build();
        built.map(Self).map_err(HttpError::SetUp)
    }

    /// Asks once.
    ///
    /// # Errors
    /// There was no whole answer in time.
    pub async fn ask(&self, request: &Request<'_>) -> Result<Answer, HttpError> {
        let method = method(request.method)?;
        let mut asked = self.0.request(method, url(request.url)?).timeout(request.within);
        for header in request.headers {
            asked = asked.header(header.name.clone(), header.value.clone());
        }
        if let Some(body) = request.body {
            if !request.headers.iter().any(|header| header.name == CONTENT_TYPE) {
                asked = asked.header(CONTENT_TYPE, content_type(body));
            }
            asked = asked.body(body.to_owned());
        }
        let failed = |error: reqwest::Error| {
            if error.is_timeout() {
                HttpError::TimedOut(request.within)
            } else {
                HttpError::Ask(error.without_url())
            }
        };
        let begun = Instant::now();
        let mut response = asked.send().await.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > BODY_BYTES_MAX {
                break;
            }
        }
        let cut = body.len() > BODY_BYTES_MAX;
        body.truncate(BODY_BYTES_MAX);
        Ok(Answer { status: response.status().as_u16(), body, cut, took: begun.elapsed() })
    }
}

/// Why `method` and `url` cannot be asked, `None` where they can.
pub fn refusal(method_name: &str, address: &str) -> Option<String> {
    method(method_name).err().or_else(|| url(address).err()).map(|error| error.to_string())
}

/// Why a check cannot send a header of this name, `None` where it can.
pub fn header_refusal(name: &str) -> Option<String> {
    match name.parse::<HeaderName>() {
        Err(_) => Some(format!("`{name}` cannot be the name of a header")),
        Ok(name) if [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE].contains(&name) => {
            Some(format!("header `{name}` is the agent's own to send; take it out"))
        }
        Ok(_) => None,
    }
}

/// A URL as it may be shown: without user, password and query.
pub fn shown(address: &str) -> String {
    let Ok(mut url) = url(address) else { return "(not a url)".to_owned() };
    let query = if url.query().is_some() { "?…" } else { "" };
    url.set_query(None);
    url.set_fragment(None);
    // They fail for a URL without a host only, which `url` refuses.
    if url.set_username("").is_err() || url.set_password(None).is_err() {
        return "(not a url)".to_owned();
    }
    format!("{url}{query}")
}

/// What went wrong at the bottom of it, as the host says it: `connection refused`.
pub fn words(error: &dyn Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let text = deepest.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

fn status_words(status: u16) -> &'static str {
    match status {
        300..=399 => ", a redirect, and none is followed",
        401 | 403 => ", so that it does not let this host have it",
        404 | 410 => ", so that it does not have it",
        _ => "",
    }
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .referer(false)
        .http1_only()
        // A kept connection would still reach the process that was replaced.
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT_WITHIN)
        .user_agent(concat!("lastgood-agent/", env!("CARGO_PKG_VERSION")))
}

fn method(name: &str) -> Result<Method, HttpError> {
    Method::from_bytes(name.as_bytes()).map_err(|_| HttpError::Method(name.to_owned()))
}

fn url(address: &str) -> Result<Url, HttpError> {
    let url: Url = address.parse().map_err(|error| HttpError::Url(words(&error)))?;
    match (url.scheme(), url.has_host()) {
        ("http" | "https", true) => Ok(url),
        (scheme, _) => {
            Err(HttpError::Url(format!("it begins with `{scheme}:`, not with http:// or https://")))
        }
    }
}

fn content_type(body: &str) -> &'static str {
    match serde_json::from_str::<serde::de::IgnoredAny>(body) {
        Ok(_) => "application/json",
        Err(_) => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_what_may_be_secret() {
        let shown = shown("http://me:hunter2@127.0.0.1:8080/health?token=hunter2#hunter2");
        assert_eq!(shown, "http://127.0.0.1:8080/health?…");
    }

    #[test]
    fn what_cannot_be_asked_is_refused_without_showing_it() {
        assert_eq!(refusal("GET", "https://localhost/health"), None);
        assert!(refusal("G ET", "https://localhost/").unwrap().contains("method"));
        for url in ["localhost:80", "ftp://hunter2@host/", "/health", "http://"] {
            let refusal = refusal("GET", url).unwrap();
            assert!(refusal.contains("url") && !refusal.contains("hunter2"), "{refusal}");
        }
    }

    #[test]
    fn a_secret_header_is_not_shown() {
        for header in [Header::bearer("hunter2"), Header::secret("x-key", "hunter2")] {
            assert!(!format!("{:?}", header.unwrap()).contains("hunter2"));
        }
        assert!(Header::bearer("two\nlines").is_none() && Header::open("x y", "1").is_none());
    }

    #[test]
    fn what_frames_a_request_is_not_the_checks_to_say() {
        assert_eq!(header_refusal("X-Probe"), None);
        for name in ["Content-Length", "transfer-encoding", "Connection", "two words"] {
            assert!(header_refusal(name).is_some(), "{name}");
        }
    }
}
