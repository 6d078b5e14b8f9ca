//! What the coordinator's owner gives its servers to know it by.
//!
//! ```text
//! --prometheus-credentials https://prom:9090=/etc/lastgood/prom ─▶ origin ─▶ file, read anew for each request
//! ```
//!
//! A fleet file names addresses, and whoever may apply one could name any. So what is secret stands on the coordinator's
//! host only, and goes to the server that its owner named it for.
//!
//! Invariant: no secret is kept in memory beyond one request, nor shown.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr, sync::Arc};

use super::{
    client::{Ask, Prometheus, origin},
    error::PrometheusError,
};

/// Where the secret for one server is: `https://prom:9090=/etc/lastgood/prom`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Scheme, host and port.
    server: String,
    file: PathBuf,
}

impl FromStr for Credentials {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write it like `https://prometheus:9090=/etc/lastgood/prometheus-token`";
        let (url, file) = text.split_once('=').ok_or_else(|| form.to_owned())?;
        let server = origin(url).map_err(|why| format!("{why}; {form}"))?;
        if !file.starts_with('/') {
            return Err(format!("the file's whole path is wanted; {form}"));
        }
        Ok(Self { server, file: file.into() })
    }
}

/// The servers that a fleet file may name; some want to know who asks. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    files: Arc<BTreeMap<String, PathBuf>>,
}

impl Servers {
    /// Of two for one server, the last.
    pub fn new(credentials: impl IntoIterator<Item = Credentials>) -> Self {
        let files = credentials.into_iter().map(|given| (given.server, given.file));
        Self { files: Arc::new(files.collect()) }
    }

    /// The server at an address.
    ///
    /// # Errors
    /// The address is none.
    pub fn at(&self, url: &str) -> Result<Prometheus, PrometheusError> {
        let server = Prometheus::new(url)?;
        let file = origin(url).ok().and_then(|origin| self.files.get(&origin));
        Ok(match file {
            Some(file) => server.with_credentials(file.clone()),
            None => server,
        })
    }

    /// The one number that a query answers with.
    ///
    /// # Errors
    /// No answer, or none that is one number, of late.
    pub async fn number(&self, url: &str, query: &str) -> Result<f64, PrometheusError> {
        self.at(url)?.number(query, &Ask::default()).await
    }
}
