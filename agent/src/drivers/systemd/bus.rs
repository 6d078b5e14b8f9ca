//! The way to systemd: its manager on the system bus.
//!
//! ```text
//! Bus::connect ──▶ call(method) ──▶ answer, or DriverError in systemd's words
//!             └──▶ job(StartUnit …) ──▶ Job ── JobRemoved ──▶ its result
//! ```
//!
//! A connection lives as long as one verb. It costs a millisecond, an idle agent holds none, and a bus that was
//! restarted is simply connected to the next time.
//!
//! Invariant: every wait ends at the deadline that the verb was given.
//! Invariant: a job's signal is listened for before the job is asked for.

use std::collections::HashMap;

use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout_at};
use tokio_stream::StreamExt as _;
use zbus::{
    Connection, MatchRule, MessageStream, connection,
    message::Type,
    zvariant::{DynamicType, OwnedObjectPath, OwnedValue, Type as Signature},
};

use super::super::DriverError;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// A unit has few jobs at a time; a signal that is not read holds up the connection's others.
const SIGNALS_QUEUED_MAX: usize = 64;
const SIGKILL: i32 = 9;

/// Errors that a restart of the bus or of systemd causes: the next try finds it again.
const PASSING: [&str; 8] = [
    "org.freedesktop.DBus.Error.Disconnected",
    "org.freedesktop.DBus.Error.LimitsExceeded",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.NoMemory",
    "org.freedesktop.DBus.Error.NoReply",
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.Timeout",
    "org.freedesktop.systemd1.ShuttingDown",
];
/// systemd has no such unit, not even by name.
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// This connection had a job before.
const SUBSCRIBED: &str = "org.freedesktop.systemd1.AlreadySubscribed";
/// There is no process to signal.
const NO_SUCH_PROCESS: &str = "org.freedesktop.DBus.Error.UnixProcessIdUnknown";

/// The properties of one interface of a unit.
pub(in crate::drivers) type Properties = HashMap<String, OwnedValue>;

/// A connection for one verb.
#[derive(Debug)]
pub(in crate::drivers) struct Bus {
    connection: Connection,
    deadline: Instant,
}

impl Bus {
    /// Connects to the system bus, where `DBUS_SYSTEM_BUS_ADDRESS` or the usual socket says.
    pub(in crate::drivers) async fn connect(deadline: Instant) -> Result<Self, DriverError> {
        let connecting = async { connection::Builder::system()?.build().await };
        match timeout_at(deadline, connecting).await {
            Ok(Ok(connection)) => Ok(Self { connection, deadline }),
            Ok(Err(error)) => {
                let why = format!(
                    "cannot reach systemd over D-Bus: {error}; see that dbus.service runs, and that the agent may open \
                     /run/dbus/system_bus_socket"
                );
                Err(DriverError::Transient(why))
            }
            Err(_) => Err(DriverError::TimedOut("D-Bus did not answer in time".to_owned())),
        }
    }

    /// When it has to end.
    pub(in crate::drivers) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The object of a unit; systemd reads the unit's files where it does not know it.
    pub(in crate::drivers) async fn load(
        &self,
        unit: &str,
    ) -> Result<OwnedObjectPath, DriverError> {
        self.manager("LoadUnit", &(unit,)).await
    }

    /// Every property that an interface of a unit has.
    pub(in crate::drivers) async fn properties(
        &self,
        object: &OwnedObjectPath,
        interface: &str,
    ) -> Result<Properties, DriverError> {
        let got = self.call(object.as_str(), PROPERTIES, "GetAll", &(interface,)).await;
        self.answer("GetAll", got)
    }

    /// Where systemd looks for unit files and drop-ins.
    pub(in crate::drivers) async fn unit_path(&self) -> Result<Vec<String>, DriverError> {
        let got = self.call(MANAGER_PATH, PROPERTIES, "Get", &(MANAGER, "UnitPath")).await;
        let value: OwnedValue = self.answer("Get", got)?;
        Ok(value.try_into().unwrap_or_default())
    }

    /// systemd reads all unit files anew.
    pub(in crate::drivers) async fn reload_units(&self) -> Result<(), DriverError> {
        self.manager("Reload", &()).await
    }

    /// Forgets that a unit failed, and how often it was started: manual starts count for its limit too.
    pub(in crate::drivers) async fn reset_failed(&self, unit: &str) -> Result<(), DriverError> {
        let call = self.call(MANAGER_PATH, MANAGER, "ResetFailedUnit", &(unit,)).await;
        // systemd drops a unit that it has nothing to remember of.
        self.answer("ResetFailedUnit", unless(&[NO_SUCH_UNIT], call))
    }

    /// Kills every process of a unit. That there is none is fine.
    pub(in crate::drivers) async fn kill(&self, unit: &str) -> Result<(), DriverError> {
        let call = self.call(MANAGER_PATH, MANAGER, "KillUnit", &(unit, "all", SIGKILL)).await;
        self.answer("KillUnit", unless(&[NO_SUCH_UNIT, NO_SUCH_PROCESS], call))
    }

    /// The processes in a unit's control group: pid and command line.
    pub(in crate::drivers) async fn processes(
        &self,
        unit: &str,
    ) -> Result<Vec<(u32, String)>, DriverError> {
        let call = self.call(MANAGER_PATH, MANAGER, "GetUnitProcesses", &(unit,)).await;
        let rows: Vec<(String, u32, String)> =
            self.answer("GetUnitProcesses", unless(&[NO_SUCH_UNIT], call))?;
        Ok(rows.into_iter().map(|(_, pid, command)| (pid, command)).collect())
    }

    /// Asks for a job (`StartUnit`, `StopUnit`, `ReloadUnit`) that takes the place of any other of the unit.
    pub(in crate::drivers) async fn job(
        &self,
        method: &'static str,
        unit: &str,
    ) -> Result<Job, DriverError> {
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(SYSTEMD)
            .and_then(|rule| rule.interface(MANAGER))
            .and_then(|rule| rule.member("JobRemoved"))
            .and_then(|rule| rule.arg(2, unit))
            .map(zbus::match_rule::Builder::build);
        let rule = self.answer(method, rule)?;
        let listening =
            MessageStream::for_match_rule(rule, &self.connection, Some(SIGNALS_QUEUED_MAX));
        let removed = timeout_at(self.deadline, listening).await.map_err(|_| late(method))?;
        let removed = self.answer(method, removed)?;
        let subscribed = self.call(MANAGER_PATH, MANAGER, "Subscribe", &()).await;
        self.answer("Subscribe", unless::<()>(&[SUBSCRIBED], subscribed))?;
        let path = self.manager(method, &(unit, "replace")).await?;
        Ok(Job { path, removed })
    }

    async fn manager<B, R>(&self, method: &'static str, body: &B) -> Result<R, DriverError>
    where
        B: Serialize + DynamicType,
        R: DeserializeOwned + Signature,
    {
        self.answer(method, self.call(MANAGER_PATH, MANAGER, method, body).await)
    }

    async fn call<B, R>(
        &self,
        path: &str,
        interface: &str,
        method: &'static str,
        body: &B,
    ) -> zbus::Result<R>
    where
        B: Serialize + DynamicType,
        R: DeserializeOwned + Signature,
    {
        let call = self.connection.call_method(Some(SYSTEMD), path, Some(interface), method, body);
        let answered = timeout_at(self.deadline, call).await;
        let late =
            |_| zbus::Error::InputOutput(std::sync::Arc::new(std::io::ErrorKind::TimedOut.into()));
        answered.map_err(late)??.body().deserialize()
    }

    fn answer<T>(&self, method: &str, answered: zbus::Result<T>) -> Result<T, DriverError> {
        answered.map_err(|error| failure(method, error))
    }
}

/// A job that systemd has taken.
#[derive(Debug)]
pub(in crate::drivers) struct Job {
    path: OwnedObjectPath,
    removed: MessageStream,
}

impl Job {
    /// How it ended: `done`, `failed`, `canceled`, `timeout`, `dependency`, `skipped`, … Cancel safe.
    pub(in crate::drivers) async fn result(&mut self) -> Result<String, DriverError> {
        while let Some(message) = self.removed.next().await {
            let message = message.map_err(|error| failure("JobRemoved", error))?;
            let body = message.body();
            let read = body.deserialize::<(u32, OwnedObjectPath, String, String)>();
            let (_, job, _, result) = read.map_err(|error| failure("JobRemoved", error))?;
            if job == self.path {
                return Ok(result);
            }
        }
        let why = "the connection to D-Bus ended before systemd's job did";
        Err(DriverError::Transient(why.to_owned()))
    }
}

/// Nothing, where systemd refused with one of `names`.
fn unless<T: Default>(names: &[&str], answered: zbus::Result<T>) -> zbus::Result<T> {
    match answered {
        Err(zbus::Error::MethodError(name, _, _)) if names.contains(&name.as_str()) => {
            Ok(T::default())
        }
        answered => answered,
    }
}

fn late(method: &str) -> DriverError {
    DriverError::TimedOut(format!("systemd did not answer {method} in time"))
}

fn failure(method: &str, error: zbus::Error) -> DriverError {
    if let zbus::Error::MethodError(name, text, _) = &error {
        let text = text.as_ref().map_or(name.as_str(), String::as_str);
        let why = format!("systemd refused {method}: {text}");
        return if PASSING.contains(&name.as_str()) {
            DriverError::Transient(why)
        } else {
            DriverError::Permanent(why)
        };
    }
    if let zbus::Error::InputOutput(error) = &error {
        return if error.kind() == std::io::ErrorKind::TimedOut {
            late(method)
        } else {
            DriverError::Transient(format!("the connection to D-Bus ended in {method}: {error}"))
        };
    }
    DriverError::Permanent(format!("{method} over D-Bus: {error}"))
}
