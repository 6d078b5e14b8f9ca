//! An archive from a server.
//!
//! Invariant: what is asked for is the policy's address with the artefact's name, each part of it encoded, and no other.
//! Invariant: the token is in no error.

use std::{fs::File, path::Path, time::Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use proto::policy::HttpsSource;

use super::{building::Limits, error::ArtefactError};
use crate::http::{self, Client, Header, HttpError, Request};

/// All but what RFC 3986 calls unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Longer than any token.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Gets it into a file.
pub(super) async fn download(
    source: &HttpsSource,
    name: &str,
    into: File,
    limits: &Limits,
    end: Instant,
) -> Result<u64, ArtefactError> {
    let url = url(source, name);
    let failed = |source| ArtefactError::Http { url: http::shown(&url), source };
    let client = match &source.ca_file {
        None => Client::new().map_err(failed)?,
        Some(file) => {
            let pem = tokio::fs::read(file).await;
            let pem = pem.map_err(ArtefactError::io(format!("read {}", file.display())))?;
            Client::with_roots(&pem).map_err(failed)?
        }
    };
    let headers = match &source.bearer_file {
        None => Vec::new(),
        Some(file) => vec![bearer(file).await?],
    };
    let request = Request {
        method: "GET",
        url: &url,
        body: None,
        headers: &headers,
        within: end.saturating_duration_since(Instant::now()),
    };
    let stat = rustix::fs::fstatvfs(&into)
        .map_err(|errno| ArtefactError::io("see how much is free")(errno.into()))?;
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    let room_bytes = free_bytes.saturating_sub(limits.reserve_bytes);
    let mut into = tokio::fs::File::from_std(into);
    match client.download(&request, limits.bytes.min(room_bytes), &mut into).await {
        Ok(bytes) => Ok(bytes),
        Err(HttpError::TooLarge { .. }) if room_bytes < limits.bytes => {
            let path = "the state directory".to_owned();
            let needed_bytes = room_bytes.saturating_add(limits.reserve_bytes).saturating_add(1);
            Err(ArtefactError::NoSpace { path, needed_bytes, free_bytes })
        }
        Err(HttpError::TimedOut(_)) => Err(ArtefactError::Late),
        Err(error) => Err(failed(error)),
    }
}

fn url(source: &HttpsSource, name: &str) -> String {
    let parts: Vec<String> =
        name.split('/').map(|part| utf8_percent_encode(part, SEGMENT).to_string()).collect();
    format!("{}{}", source.url, parts.join("/"))
}

async fn bearer(file: &Path) -> Result<Header, ArtefactError> {
    let shown = file.display();
    let text = tokio::fs::read_to_string(file).await;
    let text = text.map_err(ArtefactError::io(format!("read bearer_file {shown}")))?;
    let token = text.trim();
    let fits = !token.is_empty() && token.len() <= TOKEN_BYTES_MAX;
    let header = fits.then(|| Header::bearer(token)).flatten();
    header.ok_or_else(|| ArtefactError::Secret(format!("bearer_file {shown} holds no token")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_become_another_part_of_the_address() {
        let url_text = "https://builds.example.com/crm/".to_owned();
        let source = HttpsSource { url: url_text, bearer_file: None, ca_file: None };
        for (name, expected) in [
            ("v2.tar.zst", "v2.tar.zst"),
            ("v2/app.tar", "v2/app.tar"),
            ("a?b#c", "a%3Fb%23c"),
            ("..%2f..", "..%252f.."),
            ("größe x", "gr%C3%B6%C3%9Fe%20x"),
            ("a\\b@c:d", "a%5Cb%40c%3Ad"),
        ] {
            assert_eq!(url(&source, name), format!("https://builds.example.com/crm/{expected}"));
        }
    }
}
