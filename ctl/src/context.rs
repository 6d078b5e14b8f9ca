//! Contexts: where a coordinator is, and which identity is shown to it.
//!
//! ```text
//! LASTGOOD_CONFIG, or $XDG_CONFIG_HOME/lastgood/config.yaml, or ~/.config/lastgood/config.yaml
//!     current: prod
//!     contexts: [{ name: prod, coordinator: "lastgood.example.com:7443", identity: /home/mira/lastgood/operators/mira }]
//! ```
//!
//! Invariant: no key stands in the file, only the directory that holds it.

use std::{
    env, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::error::CtlError;

/// Names another file.
pub const CONFIG_VARIABLE: &str = "LASTGOOD_CONFIG";

/// One way to one coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    pub name: String,
    /// `host:port`; the host is among the names of the coordinator's certificate.
    pub coordinator: String,
    /// The directory with `ca.pem`, `cert.pem` and `key.pem`; relative to the file.
    pub identity: PathBuf,
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The context that is used where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    #[serde(default)]
    pub contexts: Vec<Context>,
}

impl Config {
    /// Reads the file; an absent one has no contexts.
    ///
    /// # Errors
    /// [`CtlError::Read`], [`CtlError::Config`].
    pub fn load(path: &Path) -> Result<Self, CtlError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(CtlError::Read { path: path.to_owned(), source }),
        };
        let mut config: Self = serde_saphyr::from_str(&text).map_err(|error| CtlError::Config {
            path: path.to_owned(),
            why: error.to_string().lines().next().unwrap_or_default().to_owned(),
        })?;
        let base = path.parent().unwrap_or(Path::new("."));
        for context in &mut config.contexts {
            context.identity = base.join(&context.identity);
        }
        Ok(config)
    }

    /// Writes the file whole.
    ///
    /// # Errors
    /// [`CtlError::Write`].
    pub fn save(&self, path: &Path) -> Result<(), CtlError> {
        let failed = |source| CtlError::Write { path: path.to_owned(), source };
        let text = serde_saphyr::to_string(self).map_err(io::Error::other).map_err(failed)?;
        let base = path.parent().unwrap_or(Path::new("."));
        let write = || -> io::Result<()> {
            fs::create_dir_all(base)?;
            let mut file = tempfile::NamedTempFile::new_in(base)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        write().map_err(failed)
    }

    /// The context of that name, or the current one, or the only one.
    ///
    /// # Errors
    /// [`CtlError::Usage`], with the nearest name.
    pub fn choose(&self, name: Option<&str>) -> Result<&Context, CtlError> {
        match (name.or(self.current.as_deref()), self.contexts.as_slice()) {
            (None, [only]) => Ok(only),
            (None, []) => Err(CtlError::usage(
                "there is no context: ctl does not know any coordinator",
                &["ctl init --coordinator HOST:PORT    # a new installation"],
            )),
            (None, _) => Err(CtlError::usage(
                format!("there are several contexts and none is in use: {}", self.names()),
                &["ctl context use NAME"],
            )),
            (Some(name), contexts) => contexts
                .iter()
                .find(|context| context.name == name)
                .ok_or_else(|| self.unknown(name)),
        }
    }

    /// Adds a context, or replaces the one of its name, and makes it the current one.
    pub fn put(&mut self, context: Context) {
        self.current = Some(context.name.clone());
        self.contexts.retain(|known| known.name != context.name);
        self.contexts.push(context);
    }

    fn unknown(&self, name: &str) -> CtlError {
        let near = self
            .contexts
            .iter()
            .map(|context| (strsim::damerau_levenshtein(&context.name, name), &context.name))
            .filter(|(distance, _)| *distance <= 2)
            .min();
        let near = near.map_or_else(String::new, |(_, near)| format!("; did you mean `{near}`?"));
        CtlError::usage(format!("context `{name}` is not known{near}"), &["ctl context list"])
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.contexts.iter().map(|context| context.name.as_str()).collect();
        names.join(", ")
    }
}

/// Where the file is, by the environment.
///
/// # Errors
/// [`CtlError::Usage`] where neither a home nor another place is known.
pub fn config_path() -> Result<PathBuf, CtlError> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set(CONFIG_VARIABLE)
        .or_else(|| set("XDG_CONFIG_HOME").map(|dir| dir.join("lastgood/config.yaml")))
        .or_else(|| set("HOME").map(|home| home.join(".config/lastgood/config.yaml")))
        .ok_or_else(|| {
            CtlError::usage(
                "neither HOME nor LASTGOOD_CONFIG is set",
                &["export LASTGOOD_CONFIG=FILE"],
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(name: &str) -> Context {
        let coordinator = format!("{name}.example.com:7443");
        Context { name: name.to_owned(), coordinator, identity: "/k".into() }
    }

    #[test]
    fn what_is_saved_is_read_back_and_the_last_one_put_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config.yaml");
        let mut config = Config::load(&path).unwrap();
        assert_eq!(config, Config::default());
        for name in ["prod", "staging", "prod"] {
            config.put(context(name));
        }
        config.save(&path).unwrap();
        let read = Config::load(&path).unwrap();
        assert_eq!(read, config);
        assert_eq!(read.contexts.len(), 2);
        assert_eq!(read.choose(None).unwrap().name, "prod");
        assert_eq!(read.choose(Some("staging")).unwrap().name, "staging");
    }

    #[test]
    fn an_identity_is_found_relative_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        fs::write(&path, "contexts: [{ name: a, coordinator: \"c:1\", identity: id }]").unwrap();
        assert_eq!(Config::load(&path).unwrap().contexts[0].identity, dir.path().join("id"));
    }

    #[test]
    fn an_unknown_context_is_named_with_the_nearest() {
        let config = Config { current: None, contexts: vec![context("prod"), context("staging")] };
        let error = config.choose(Some("prdo")).unwrap_err();
        assert_eq!(error.to_string(), "context `prdo` is not known; did you mean `prod`?");
        assert!(config.choose(None).unwrap_err().to_string().contains("prod, staging"));
        assert!(Config::default().choose(None).unwrap_err().to_string().contains("no context"));
    }

    #[test]
    fn a_file_that_does_not_hold_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        fs::write(&path, "contexts: []\nserver: x\n").unwrap();
        let error = Config::load(&path).unwrap_err();
        assert!(
            matches!(&error, CtlError::Config { why, .. } if why.contains("server")),
            "{error:?}"
        );
    }
}
