//! What on this host would keep a rollback from working: asked by `agent check`, and again while the agent runs.
//!
//! ```text
//! policy ──each component──▶ files (store::problems) + services (drivers) + hooks + checks + secret files ──▶ Finding…
//!                                                                     Host::problems: the bad ones, by component
//! ```
//!
//! It works from the policy alone, so that nothing is started, opened or locked for it.
//!
//! Invariant: nothing on the host is changed.
//! Invariant: everything is looked at, whatever was found before.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use proto::policy::{ComponentPolicy, Policy, ProbePolicy};

use super::{Host, hooks::Hooks, secrets};
use crate::{
    drivers::{self, Context},
    exec::{self, Spec},
    finding::{Bad, Finding},
    store::{ComponentFiles, problems},
};

/// Something that is not as it has to be, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub component: String,
    /// What it is about, and what is wrong with it.
    pub what: String,
    pub mend: String,
}

impl Host {
    /// What would keep a rollback from working now. Walks the trees' metadata, so not for every second.
    pub async fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (component, finding) in findings(&self.policy, &self.state).await {
            if let Finding { what, bad: Some(Bad { why, mend }) } = finding {
                problems.push(Problem { component, what: format!("{what}: {why}"), mend });
            }
        }
        problems
    }
}

/// Everything that the policy names, as it is on this host; good and bad, by component.
pub async fn findings(policy: &Policy, state: &Path) -> Vec<(String, Finding)> {
    let mut found = Vec::new();
    for (name, component) in &policy.components {
        let of_component = of_component(name, component, state).await;
        found.extend(of_component.into_iter().map(|finding| (name.clone(), finding)));
    }
    found
}

async fn of_component(name: &str, policy: &ComponentPolicy, state: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    if !policy.files.is_empty() {
        let files = ComponentFiles {
            component: name.to_owned(),
            files: policy.files.clone(),
            managers: Vec::new(),
        };
        let looked = tokio::task::spawn_blocking(move || problems::look(&files)).await;
        found.extend(looked.unwrap_or_else(|error| {
            vec![Finding::bad("files", error.to_string(), "report this: it is a defect")]
        }));
    }
    let context = Context {
        component: name.to_owned(),
        state_dir: state.to_owned(),
        hold_path: state.join("hold").join(name),
        autostart: false,
    };
    for service in &policy.services {
        let what = format!("service {}", service.name);
        push(&mut found, &what, drivers::problems(service, &context).await);
    }
    for hook in &policy.hooks {
        push(&mut found, &format!("hook {}", hook.name), Hooks::refusal(hook));
    }
    for check in &policy.checks {
        if let ProbePolicy::Command(probe) = &check.probe {
            let spec = Spec::new(probe.command.clone()).as_user(probe.user.clone());
            push(&mut found, &format!("check {}", check.name), exec::refusal(&spec));
        }
    }
    for path in secrets::files(policy) {
        push(&mut found, &format!("secret file {}", path.display()), secret_refusal(&path));
    }
    found
}

fn push(found: &mut Vec<Finding>, what: &str, words: impl IntoIterator<Item = String>) {
    let before = found.len();
    found.extend(words.into_iter().map(|words| Finding::of_words(what, &words)));
    if found.len() == before {
        found.push(Finding::ok(what));
    }
}

/// Why a file is no place for a secret.
fn secret_refusal(path: &Path) -> Option<String> {
    let shown = path.display();
    let own = rustix::process::geteuid().as_raw();
    match std::fs::metadata(path) {
        Err(error) => Some(format!("{error}; mend: put the secret there, `chmod 0600 {shown}`")),
        Ok(found) if !found.is_file() => Some("is not a file; mend: name one".to_owned()),
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            let mode = found.permissions().mode() & 0o7777;
            Some(format!("is open to others (mode {mode:o}); mend: `chmod 0600 {shown}`"))
        }
        Ok(found) if found.uid() != 0 && found.uid() != own => {
            let owner = found.uid();
            Some(format!("belongs to user {owner}; mend: `chown root:root {shown}`"))
        }
        Ok(found) if found.len() == 0 => Some("is empty; mend: put the secret there".to_owned()),
        Ok(_) => None,
    }
}
