//! The declared hooks of a component: commands of the app's owners that run at stated points of a track.
//!
//! ```text
//! Step (hook by name) ──named──▶ HookPolicy ──exec::run, as its user──▶ exit 0: done, else the step fails
//! after a crash: what is left of it is ended ──▶ repeatable: not done, it runs again; else unknown, the track turns back
//! ```
//!
//! A hook runs in `/` with PATH, HOME and names: LASTGOOD_COMPONENT, LASTGOOD_RELEASE, LASTGOOD_HOOK. It is run to its
//! end; what it leaves in the background is ended with it.
//!
//! Invariant: only what the policy names is run, and no argument comes from the coordinator.
//! Invariant: a hook that is not `repeatable` is never run twice for one step.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use proto::policy::HookPolicy;
use tokio::time::Instant;

use crate::{
    exec::{
        self, Spec, last_lines,
        members::{Mark, Patience, end},
        status_words, user,
    },
    ledger::Found,
    order::Step,
};

/// How many of a hook's last lines go into its step's words.
const LINES: usize = 8;
/// What a crash left of a hook has this long to end by itself; and the kernel after that.
const LEFTOVERS_WITHIN: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(super) struct Hooks {
    component: String,
    state: PathBuf,
    policies: Vec<HookPolicy>,
}

impl Hooks {
    pub(super) fn new(component: &str, policies: &[HookPolicy], state: &Path) -> Self {
        Self {
            component: component.to_owned(),
            state: state.to_owned(),
            policies: policies.to_vec(),
        }
    }

    /// The hook of that name, or why it is refused.
    pub(super) fn named(&self, name: &str) -> Result<&HookPolicy, String> {
        let found = self.policies.iter().find(|hook| hook.name == name);
        found.ok_or_else(|| {
            format!("hook `{name}` of component `{}` is not in this host's policy", self.component)
        })
    }

    /// Runs it to its end: in how long it may take, or by the step's deadline.
    pub(super) async fn run(&self, step: &Step) -> Result<String, String> {
        let hook = self.named(&step.hook)?;
        let within = hook.within.0.min(Duration::from_millis(step.deadline_ms));
        let spec = self.spec(hook, step)?;
        let output = exec::run(&spec, within).await;
        let output = output.map_err(|error| format!("hook `{}`: {}", hook.name, error.words()))?;
        let ended = if output.timed_out {
            format!("still ran after {} ms and was ended", within.as_millis())
        } else {
            status_words(output.status)
        };
        let mut words = format!("hook `{}` → {ended}", hook.name);
        for line in
            last_lines(&output.stdout, LINES).into_iter().chain(last_lines(&output.stderr, LINES))
        {
            words.push_str(&format!("\n  {line}"));
        }
        if output.status.success() && !output.timed_out { Ok(words) } else { Err(words) }
    }

    /// After a crash in it: what goes on of it is ended; then it is not done, or nobody can say.
    pub(super) async fn observe(&self, step: &Step) -> Result<Found, String> {
        let hook = self.named(&step.hook)?;
        let patience =
            Patience { term_until: Instant::now() + LEFTOVERS_WITHIN, kill_for: LEFTOVERS_WITHIN };
        let failed = |error: &dyn std::fmt::Display| {
            format!("what is left of hook `{}` cannot be ended: {error}", hook.name)
        };
        let ended = end(&self.mark(hook)?, None, patience).await;
        match (ended, hook.repeatable) {
            (Err(error), true) => Err(failed(&error)),
            (Ok(()), true) => Ok(Found::NotDone),
            (ended, false) => {
                let left = ended.err().map(|error| format!("; {}", failed(&error)));
                Ok(Found::Unknown(format!(
                    "hook {} was interrupted and may not be run twice{}",
                    hook.name,
                    left.unwrap_or_default()
                )))
            }
        }
    }

    /// What keeps the declared hooks from being run, by name.
    pub(super) fn refusal(hook: &HookPolicy) -> Option<String> {
        exec::refusal(&Spec::new(hook.command.clone()).as_user(Some(hook.user.clone())))
    }

    fn spec(&self, hook: &HookPolicy, step: &Step) -> Result<Spec, String> {
        let mut spec = Spec::new(hook.command.clone()).as_user(Some(hook.user.clone()));
        // Where the user is not there, running it says so.
        if let Ok(Some(user)) = user::look_up(&hook.user) {
            spec.environment.insert("HOME".to_owned(), user.home.display().to_string());
        }
        let names = [
            ("LASTGOOD_COMPONENT", self.component.as_str()),
            ("LASTGOOD_RELEASE", step.release.as_str()),
            ("LASTGOOD_HOOK", hook.name.as_str()),
        ];
        let mark = self.mark(hook)?;
        let marks = mark.variables().iter().map(|(key, value)| (*key, value.as_str()));
        for (key, value) in names.into_iter().chain(marks) {
            // A release is named by people elsewhere; what cannot stand in an environment is left out.
            spec.environment.insert(key.to_owned(), value.replace('\0', ""));
        }
        Ok(spec)
    }

    /// What its processes carry, so that they are found after a crash.
    fn mark(&self, hook: &HookPolicy) -> Result<Mark, String> {
        let name = format!("hook:{}.{}", self.component, hook.name);
        Mark::new(&name, &self.state).map_err(|error| {
            format!("cannot look at the state directory {}: {error}", self.state.display())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proto::{policy::HookPoint, span::Span};

    use super::*;
    use crate::{exec::proc::Proc, order::Verb};

    const LONG: Duration = Duration::from_secs(30);

    fn own_user() -> String {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid)).unwrap();
        line.split(':').next().unwrap().to_owned()
    }

    fn hooks(state: &Path, script: &str, within: Span, repeatable: bool) -> Hooks {
        let policy = HookPolicy {
            name: "warm".to_owned(),
            at: HookPoint::AfterStart,
            command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
            user: own_user(),
            within,
            repeatable,
        };
        Hooks::new("crm", &[policy], state)
    }

    fn step(hook: &str) -> Step {
        Step {
            verb: Verb::Hook,
            component: "crm".to_owned(),
            release: "v1.4.2".to_owned(),
            snapshot: String::new(),
            deadline_ms: 20_000,
            hook: hook.to_owned(),
            across_migrations: false,
            weights: None,
            artefact: None,
            at_once: false,
            forward: false,
        }
    }

    #[tokio::test]
    async fn it_sees_names_and_nothing_else() {
        let state = tempfile::tempdir().unwrap();
        let within = Span::seconds(20);
        let script = "env | cut -d= -f1 | sort | tr '\\n' ' '; echo; echo $LASTGOOD_RELEASE $LASTGOOD_COMPONENT $LASTGOOD_HOOK; pwd";
        let words = hooks(state.path(), script, within, false).run(&step("warm")).await.unwrap();
        let lines: Vec<&str> = words.lines().map(str::trim).collect();
        assert_eq!(lines[0], "hook `warm` → exit 0");
        let wanted = "HOME LASTGOOD_COMPONENT LASTGOOD_HOOK LASTGOOD_RELEASE LASTGOOD_SERVICE LASTGOOD_STATE PATH";
        let names: Vec<&str> = lines[1]
            .split(' ')
            .filter(|name| !["PWD", "OLDPWD", "_", "SHLVL"].contains(name))
            .collect();
        assert_eq!(names.join(" "), wanted);
        assert_eq!(lines[2..], ["v1.4.2 crm warm", "/"]);
    }

    #[tokio::test]
    async fn a_failure_and_an_overrun_fail_the_step_with_its_words() {
        let state = tempfile::tempdir().unwrap();
        let failing = hooks(state.path(), "echo cache gone >&2; exit 7", Span::seconds(20), false);
        let words = failing.run(&step("warm")).await.unwrap_err();
        assert_eq!(words, "hook `warm` → exit 7\n  cache gone");
        let slow = hooks(state.path(), "echo up; sleep 600", "200ms".parse().unwrap(), false);
        let words = slow.run(&step("warm")).await.unwrap_err();
        assert!(words.contains("was ended\n  up"), "{words}");
        let hurried = hooks(state.path(), "sleep 600", Span::seconds(600), false);
        let words = hurried.run(&Step { deadline_ms: 100, ..step("warm") }).await.unwrap_err();
        assert!(words.contains("after 100 ms"), "{words}");
    }

    #[tokio::test]
    async fn p09_a_hook_that_the_policy_does_not_name_is_refused() {
        let state = tempfile::tempdir().unwrap();
        let hooks = hooks(state.path(), "true", Span::seconds(20), true);
        for name in ["", "other", "warm; id"] {
            assert!(hooks.named(name).unwrap_err().contains("is not in this host's policy"));
            assert!(hooks.run(&step(name)).await.is_err());
        }
    }

    #[tokio::test]
    async fn p02_one_that_was_interrupted_is_ended_and_run_again_only_where_that_is_declared() {
        let state = tempfile::tempdir().unwrap();
        for (repeatable, wanted) in [
            (true, Found::NotDone),
            (
                false,
                Found::Unknown("hook warm was interrupted and may not be run twice".to_owned()),
            ),
        ] {
            let hooks =
                hooks(state.path(), "sleep 600 & sleep 600", Span::seconds(600), repeatable);
            // What an agent that was killed leaves: the hook, that nobody waits for any more.
            let spec = hooks.spec(hooks.named("warm").unwrap(), &step("warm")).unwrap();
            let mut prepared = exec::prepare(&spec).unwrap();
            prepared.output(std::process::Stdio::null(), std::process::Stdio::null());
            let mut left = prepared.spawn().unwrap();
            let group = i32::try_from(left.id().unwrap()).unwrap();
            let end = Instant::now() + LONG;
            while Proc::all().unwrap().iter().filter(|proc| proc.group == group).count() < 3 {
                assert!(Instant::now() < end, "the hook never ran");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(hooks.observe(&step("warm")).await, Ok(wanted));
            left.wait().await.unwrap();
            assert!(!crate::exec::proc::group_is_alive(group).unwrap());
        }
    }
}
