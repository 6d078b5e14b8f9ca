//! The policy file on this host: who may have written it, and whether this agent can do what it names.
//!
//! Invariant: a file that anyone but root (or the agent's own user, where that is not root) could have written is
//! not read.
//! Invariant: an agent that runs as root takes no policy with a command that does not say whom it runs as.
//! Invariant: what this agent cannot do is refused when it starts, not found out in the night.

use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use proto::policy::{
    self, CommandProbe, Policy, PolicyError, ProbePolicy, ProcessPolicy, ServiceDriver,
};

use crate::probe;

/// A policy is a page or two; anything larger is not one.
const POLICY_BYTES_MAX: u64 = 1024 * 1024;
/// Group and others may not write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Why the policy is not taken.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read the policy {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the policy {0} belongs to user {owner}, not to root; as root: chown root:root {0}",
        path.display()
    )]
    Owner { path: PathBuf, owner: u32 },
    #[error("the policy {0} can be written by others; as root: chmod 0644 {0}", path.display())]
    Mode { path: PathBuf },
    #[error("the policy {} is larger than a policy can be", path.display())]
    TooLarge { path: PathBuf },
    #[error("the policy {} does not hold: {source}", path.display())]
    Content { path: PathBuf, source: PolicyError },
    #[error("the policy {} is for host {named}, this agent's certificate says {own}", path.display())]
    OtherHost { path: PathBuf, named: String, own: String },
    #[error(
        "{what} of component {component} does not say whom it runs as, and this agent is root; \
         mend: add `user: …` with the app's own user"
    )]
    NoUser { component: String, what: String },
    #[error("check `{check}` of component {component}: {why}")]
    Check { component: String, check: String, why: String },
}

/// A policy that this agent can follow, and its hash.
#[derive(Debug)]
pub struct Loaded {
    pub policy: Policy,
    pub hash: String,
}

/// Reads, checks and hashes the policy for the host of that name.
pub fn load(path: &Path, host: &str) -> Result<Loaded, LoadError> {
    let loaded = load_any(path)?;
    if loaded.policy.host != host {
        let (named, own) = (loaded.policy.host, host.to_owned());
        return Err(LoadError::OtherHost { path: path.to_owned(), named, own });
    }
    Ok(loaded)
}

/// [`load`], where no certificate says which host this is: root put the file here.
pub fn load_any(path: &Path) -> Result<Loaded, LoadError> {
    let bytes = read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let content = |source| LoadError::Content { path: path.to_owned(), source };
    let policy = Policy::parse(&text).map_err(content)?;
    if rustix::process::geteuid().is_root() {
        refuse_no_user(&policy)?;
    }
    for (name, component) in &policy.components {
        for check in &component.checks {
            if let Some(why) = probe::unsupported(check) {
                let (component, check) = (name.clone(), check.name.clone());
                return Err(LoadError::Check { component, check, why });
            }
        }
    }
    Ok(Loaded { hash: policy::hash(&bytes), policy })
}

/// Refuses a command that would run as root because nobody said otherwise. Hooks and scripts cannot leave it out.
fn refuse_no_user(policy: &Policy) -> Result<(), LoadError> {
    for (component, declared) in &policy.components {
        let services = declared.services.iter().filter_map(|service| match &service.driver {
            ServiceDriver::Process(ProcessPolicy { user: None, .. }) => {
                Some(format!("service `{}`", service.name))
            }
            ServiceDriver::Process(_)
            | ServiceDriver::Systemd(_)
            | ServiceDriver::Nginx(_)
            | ServiceDriver::Script(_) => None,
        });
        let checks = declared.checks.iter().filter_map(|check| match &check.probe {
            ProbePolicy::Command(CommandProbe { user: None, .. }) => {
                Some(format!("check `{}`", check.name))
            }
            ProbePolicy::Command(_) | ProbePolicy::Http(_) | ProbePolicy::Tcp(_) => None,
        });
        if let Some(what) = services.chain(checks).next() {
            return Err(LoadError::NoUser { component: component.clone(), what });
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let error = |source| LoadError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(error)?;
    let found = file.metadata().map_err(error)?;
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != 0 && found.uid() != own {
        return Err(LoadError::Owner { path: path.to_owned(), owner: found.uid() });
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(LoadError::Mode { path: path.to_owned() });
    }
    if found.len() > POLICY_BYTES_MAX {
        return Err(LoadError::TooLarge { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(POLICY_BYTES_MAX).read_to_end(&mut bytes).map_err(error)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const TEXT: &str = "version: 1\nfleet: prod\nhost: crm-b1\n";

    fn written(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.yaml");
        std::fs::write(&path, TEXT).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_good_one_is_taken_and_hashed() {
        let (_directory, path) = written(0o644);
        assert_eq!(load(&path, "crm-b1").unwrap().hash, policy::hash(TEXT.as_bytes()));
    }

    #[test]
    fn p09_one_that_others_can_write_is_refused_with_the_mend() {
        let (_directory, path) = written(0o664);
        let error = load(&path, "crm-b1").unwrap_err().to_string();
        assert!(error.contains("chmod 0644"), "{error}");
    }

    #[test]
    fn p09_root_takes_no_command_without_a_user() {
        let policy = |service: &str, check: &str| {
            let text = format!(
                "{TEXT}components:\n  app:\n    services: [{service}]\n    checks: [{check}]\n    ready_within: 1s\n    stable_for: 1s\n"
            );
            refuse_no_user(&Policy::parse(&text).unwrap()).map_err(|error| error.to_string())
        };
        let service = |user: &str| {
            format!("{{ name: web, process: {{ command: [/bin/true], directory: /{user} }} }}")
        };
        let check = |user: &str| format!("{{ name: up, command: [/bin/true]{user} }}");
        policy(&service(", user: www"), &check(", user: www")).unwrap();
        let refused = policy(&service(""), &check(", user: www")).unwrap_err();
        assert!(refused.contains("service `web` of component app"), "{refused}");
        let refused = policy(&service(", user: www"), &check("")).unwrap_err();
        assert!(
            refused.contains("check `up`") && refused.contains("mend: add `user: …`"),
            "{refused}"
        );
    }

    #[test]
    fn one_of_another_host_is_refused() {
        let (_directory, path) = written(0o644);
        let error = load(&path, "crm-b2").unwrap_err().to_string();
        assert!(error.contains("is for host crm-b1"), "{error}");
    }
}
