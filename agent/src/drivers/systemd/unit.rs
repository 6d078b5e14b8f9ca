//! What systemd says of a unit at one moment, and what follows from it.
//!
//! ```text
//! properties of org.freedesktop.systemd1.{Unit,Service} ──▶ Unit ──▶ ServiceState, or why it cannot be started
//! ```
//!
//! Invariant: a property that systemd does not have (an older one) reads as empty, never as an error.
//! Invariant: `activating (auto-restart)` is not running.

use zbus::zvariant::OwnedValue;

use super::{
    super::{DriverError, Identity, ServiceState},
    bus::{Bus, Properties},
};

/// What D-Bus calls all interfaces of an object.
const EVERY_INTERFACE: &str = "";

/// One unit at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::drivers) struct Unit {
    pub(in crate::drivers) name: String,
    /// `loaded`, `not-found`, `masked`, `bad-setting`, `error`.
    pub(in crate::drivers) load_state: String,
    /// What is wrong with its files, in systemd's words.
    pub(in crate::drivers) load_error: String,
    pub(in crate::drivers) active_state: String,
    pub(in crate::drivers) sub_state: String,
    /// `enabled`, `disabled`, `static`, …
    pub(in crate::drivers) file_state: String,
    pub(in crate::drivers) need_reload: bool,
    pub(in crate::drivers) condition_held: bool,
    /// Paths of `ConditionPathExists=!…`.
    pub(in crate::drivers) absent_paths: Vec<String>,
    pub(in crate::drivers) triggered_by: Vec<String>,
    pub(in crate::drivers) can_start: bool,
    pub(in crate::drivers) can_stop: bool,
    pub(in crate::drivers) can_reload: bool,
    /// Empty where it never ran.
    pub(in crate::drivers) invocation: String,
    /// When it was last begun to be started, in microseconds since 1970; 0 where it never was.
    pub(in crate::drivers) begun_unix_us: u64,
    /// When the main process of its last run ended, in the same way; 0 while it runs.
    pub(in crate::drivers) ended_unix_us: u64,
    pub(in crate::drivers) main_pid: u32,
    pub(in crate::drivers) restarts: u64,
    /// `success`, `exit-code`, `signal`, `start-limit-hit`, `timeout`, …
    pub(in crate::drivers) result: String,
    /// `simple`, `notify`, `oneshot`, …
    pub(in crate::drivers) kind: String,
    pub(in crate::drivers) remain_after_exit: bool,
    /// Program and arguments of the first `ExecStart=`.
    pub(in crate::drivers) argv: Vec<String>,
}

impl Unit {
    /// Looks.
    pub(in crate::drivers) async fn look(bus: &Bus, name: &str) -> Result<Self, DriverError> {
        let object = bus.load(name).await?;
        // Of all its interfaces in one answer: a unit that is restarted between two would look like neither.
        let properties = bus.properties(&object, EVERY_INTERFACE).await?;
        Ok(Self::read(name, &properties))
    }

    fn read(name: &str, properties: &Properties) -> Self {
        let text = |of: &Properties, key| get::<String>(of, key).unwrap_or_default();
        let flag = |of: &Properties, key| get::<bool>(of, key).unwrap_or_default();
        let load_error = get::<(String, String)>(properties, "LoadError").unwrap_or_default();
        let invocation: Vec<u8> = get(properties, "InvocationID").unwrap_or_default();
        let conditions: Vec<(String, bool, bool, String, i32)> =
            get(properties, "Conditions").unwrap_or_default();
        let absent_paths = conditions.into_iter().filter_map(|(kind, _, negated, path, _)| {
            (kind == "ConditionPathExists" && negated).then_some(path)
        });
        type Command = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);
        let commands: Vec<Command> = get(properties, "ExecStart").unwrap_or_default();
        Self {
            name: name.to_owned(),
            load_state: text(properties, "LoadState"),
            load_error: load_error.1,
            active_state: text(properties, "ActiveState"),
            sub_state: text(properties, "SubState"),
            file_state: text(properties, "UnitFileState"),
            need_reload: flag(properties, "NeedDaemonReload"),
            condition_held: flag(properties, "ConditionResult"),
            absent_paths: absent_paths.collect(),
            triggered_by: get(properties, "TriggeredBy").unwrap_or_default(),
            can_start: flag(properties, "CanStart"),
            can_stop: flag(properties, "CanStop"),
            can_reload: flag(properties, "CanReload"),
            invocation: invocation.iter().map(|byte| format!("{byte:02x}")).collect(),
            begun_unix_us: get(properties, "InactiveExitTimestamp").unwrap_or_default(),
            ended_unix_us: get(properties, "ExecMainExitTimestamp").unwrap_or_default(),
            main_pid: get(properties, "MainPID").unwrap_or_default(),
            restarts: get::<u32>(properties, "NRestarts").unwrap_or_default().into(),
            result: text(properties, "Result"),
            kind: text(properties, "Type"),
            remain_after_exit: flag(properties, "RemainAfterExit"),
            argv: commands.into_iter().next().map(|command| command.1).unwrap_or_default(),
        }
    }

    /// Something of it runs or is about to: what it reads must not be replaced.
    pub(in crate::drivers) fn is_running(&self) -> bool {
        self.main_pid != 0
            || match self.active_state.as_str() {
                "inactive" | "failed" => false,
                "activating" => !self.waits_for_restart(),
                _ => true,
            }
    }

    /// It is up.
    pub(in crate::drivers) fn is_active(&self) -> bool {
        matches!(self.active_state.as_str(), "active" | "reloading" | "refreshing")
    }

    /// Neither up nor on its way there.
    pub(in crate::drivers) fn is_at_rest(&self) -> bool {
        matches!(self.active_state.as_str(), "inactive" | "failed") && self.main_pid == 0
    }

    /// It died and systemd will start it again.
    pub(in crate::drivers) fn waits_for_restart(&self) -> bool {
        self.active_state == "activating" && self.sub_state.starts_with("auto-restart")
    }

    /// As the trait has it.
    pub(in crate::drivers) fn state(&self) -> ServiceState {
        let running = self.is_running();
        let run = format!("{}/{}", self.invocation, self.main_pid);
        ServiceState {
            running,
            identity: running.then_some(Identity::Run(run)),
            restarts: self.restarts,
            detail: self.words(),
        }
    }

    /// How it is, in systemd's words.
    pub(in crate::drivers) fn words(&self) -> String {
        if self.load_state != "loaded" && !self.is_running() {
            return self.load_state.clone();
        }
        let mut words = match self.active_state.as_str() {
            "failed" => format!("failed: {}", self.result),
            _ if self.waits_for_restart() => {
                format!("{} ({}): {}", self.active_state, self.sub_state, self.result)
            }
            _ => format!("{} ({})", self.active_state, self.sub_state),
        };
        if self.restarts > 0 {
            words.push_str(&format!(", {} restarts", self.restarts));
        }
        if self.file_state == "disabled" && self.triggered_by.is_empty() {
            words.push_str(", not enabled: it does not start at boot");
        }
        words
    }

    /// Why systemd would not start it, with the mend; none where it would.
    pub(in crate::drivers) fn unstartable(&self) -> Option<String> {
        let name = &self.name;
        match self.load_state.as_str() {
            "loaded" if self.can_start => None,
            "loaded" => Some(format!(
                "unit {name} refuses to be started by hand (RefuseManualStart=); allow it in the unit file"
            )),
            "masked" => Some(format!(
                "unit {name} is masked: nothing can start it; `systemctl unmask {name}`"
            )),
            "not-found" => Some(format!(
                "unit {name} is not found: no unit file of that name is on systemd's path; install it, or correct the \
                 policy"
            )),
            other => Some(format!(
                "unit {name} cannot be loaded ({other}): {}; correct its unit file, then `systemctl daemon-reload`",
                self.load_error
            )),
        }
    }
}

fn get<T: TryFrom<OwnedValue>>(properties: &Properties, key: &str) -> Option<T> {
    properties.get(key)?.try_clone().ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(active_state: &str, sub_state: &str, main_pid: u32) -> Unit {
        Unit {
            name: "app.service".into(),
            load_state: "loaded".into(),
            active_state: active_state.into(),
            sub_state: sub_state.into(),
            main_pid,
            can_start: true,
            result: "exit-code".into(),
            ..Unit::default()
        }
    }

    #[test]
    fn what_runs_is_told_from_what_only_will() {
        assert!(unit("active", "running", 7).is_running());
        assert!(unit("active", "exited", 0).is_running());
        assert!(unit("activating", "start", 0).is_running());
        assert!(unit("deactivating", "stop-sigterm", 0).is_running());
        assert!(!unit("activating", "auto-restart", 0).is_running());
        assert!(!unit("failed", "failed", 0).is_running());
        assert!(unit("failed", "failed", 7).is_running(), "a process that outlived its unit");
    }

    #[test]
    fn another_run_has_another_identity() {
        let mut one = unit("active", "running", 7);
        one.invocation = "aa".into();
        let restarted = Unit { invocation: "bb".into(), ..one.clone() };
        let other_main = Unit { main_pid: 8, ..one.clone() };
        assert_ne!(one.state().identity, restarted.state().identity);
        assert_ne!(one.state().identity, other_main.state().identity);
        assert_eq!(unit("inactive", "dead", 0).state().identity, None);
    }

    #[test]
    fn its_words_are_systemds() {
        assert_eq!(unit("active", "running", 7).words(), "active (running)");
        let failed = Unit { result: "start-limit-hit".into(), ..unit("failed", "failed", 0) };
        assert_eq!(failed.words(), "failed: start-limit-hit");
        let looping = Unit { restarts: 3, ..unit("activating", "auto-restart", 0) };
        assert_eq!(looping.words(), "activating (auto-restart): exit-code, 3 restarts");
        let masked = Unit { load_state: "masked".into(), ..unit("inactive", "dead", 0) };
        assert_eq!(masked.words(), "masked");
        assert!(masked.unstartable().unwrap().contains("systemctl unmask app.service"));
    }

    #[test]
    fn properties_that_are_not_there_read_as_empty() {
        let mut service = Properties::new();
        service.insert("MainPID".into(), OwnedValue::from(7_u32));
        let read = Unit::read("a.service", &service);
        assert_eq!((read.main_pid, read.load_state.as_str()), (7, ""));
    }
}
