//! The services of one component, in their order.
//!
//! Invariant: started first to last, stopped last to first.
//! Invariant: only a failure that calls itself transient is tried again.

use std::{path::Path, time::Duration};

use proto::policy::{FilesPolicy, ServicePolicy};
use tokio::time::Instant;

use crate::{
    drivers::{
        self, BuildError, Context, DriverError, Identity, ServiceDriver, ServiceState, Triggers,
        Verb,
    },
    retry::Tries,
    status::ServiceStatus,
    trace,
};

/// How many of a service's last lines go into a failure's words.
const LOG_LINES: usize = 5;

/// See the module.
#[derive(Debug)]
pub(super) struct Services(Vec<Service>);

#[derive(Debug)]
struct Service {
    name: String,
    driver: Box<dyn ServiceDriver>,
    stop_within: Duration,
    reloads: bool,
}

/// The process of each service at one moment.
pub(super) type Identities = Vec<(String, Option<Identity>, u64)>;

impl Services {
    /// Builds the driver of each service.
    pub(super) fn build(
        component: &str,
        policies: &[ServicePolicy],
        state: &Path,
        hold: &Path,
    ) -> Result<Self, BuildError> {
        let context = Context {
            component: component.to_owned(),
            state_dir: state.to_owned(),
            hold_path: hold.to_owned(),
            autostart: true,
        };
        let build = |policy: &ServicePolicy| {
            let driver = drivers::build(policy, &context)?;
            let (name, stop_within) = (policy.name.clone(), policy.stop_within.0);
            Ok(Service { name, driver, stop_within, reloads: policy.driver.reloads() })
        };
        policies.iter().map(build).collect::<Result<_, _>>().map(Self)
    }

    /// The services that run, or why that cannot be told.
    pub(super) async fn running(&self) -> Result<Vec<String>, String> {
        let mut running = Vec::new();
        for service in &self.0 {
            if service.state().await?.running {
                running.push(service.name.clone());
            }
        }
        Ok(running)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether they read their files anew while they run, instead of being stopped and started: all or none do.
    pub(super) fn reload(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|service| service.reloads)
    }

    /// Files of the service managers that go back with the component.
    pub(super) fn files(&self) -> Vec<FilesPolicy> {
        self.0.iter().flat_map(|service| service.driver.files()).collect()
    }

    /// Makes the host ready for them.
    pub(super) async fn set_up(&self, deadline: Instant) -> Result<(), String> {
        for service in &self.0 {
            let ready = tried(|| service.driver.set_up(deadline)).await;
            ready.map_err(|error| format!("{}: {error}", service.name))?;
        }
        Ok(())
    }

    /// How what starts them by itself is: of their states the one that is farthest from its owner's.
    pub(super) fn triggers(&self) -> Triggers {
        let states: Vec<_> = self.0.iter().map(|service| service.driver.triggers()).collect();
        // A service without any is armed for ever.
        [Triggers::Between, Triggers::Disarmed]
            .into_iter()
            .find(|state| states.contains(state))
            .unwrap_or(Triggers::Armed)
    }

    /// Starts again what starts those that `wanted` names by itself, and not the services.
    pub(super) async fn rearm(
        &self,
        wanted: impl Fn(&str) -> bool,
        deadline: Instant,
    ) -> Result<(), String> {
        for service in self.0.iter().filter(|service| wanted(&service.name)) {
            let armed = tried(|| service.driver.rearm(deadline)).await;
            armed.map_err(|error| format!("{}: {error}", service.name))?;
        }
        Ok(())
    }

    /// Whether they would take their files as they stand now.
    pub(super) async fn accept(&self, deadline: Instant) -> Result<(), String> {
        for service in &self.0 {
            let accepted = tried(|| service.driver.accepts(deadline)).await;
            accepted.map_err(|error| format!("{}: {error}", service.name))?;
        }
        Ok(())
    }

    /// Makes them read their files anew, in order.
    pub(super) async fn read_anew(&self, deadline: Instant) -> Result<String, String> {
        let mut reloaded = Vec::new();
        for service in &self.0 {
            if let Err(error) = tried(|| service.driver.reload(deadline)).await {
                return Err(format!("reload {}: {error}", service.name));
            }
            reloaded.push(service.name.as_str());
        }
        Ok(reloaded.join(", "))
    }

    /// Starts those that `wanted` names, in order.
    pub(super) async fn start(
        &self,
        wanted: impl Fn(&str) -> bool,
        deadline: Instant,
    ) -> Result<String, String> {
        let mut started = Vec::new();
        for service in self.0.iter().filter(|service| wanted(&service.name)) {
            let begun = service.call(Verb::Start, || service.driver.start(deadline)).await;
            if let Err(error) = begun {
                return Err(service.failure("start", &error).await);
            }
            started.push(service.name.as_str());
        }
        Ok(started.join(", "))
    }

    /// Stops those that `wanted` names, in the reverse order; done means that nothing of them runs.
    pub(super) async fn stop(
        &self,
        wanted: impl Fn(&str) -> bool,
        deadline: Instant,
    ) -> Result<String, String> {
        let mut stopped = Vec::new();
        for service in self.0.iter().rev().filter(|service| wanted(&service.name)) {
            let stop = || service.driver.stop(service.stop_within, deadline);
            let begun = service.call(Verb::Stop, stop).await;
            if let Err(error) = begun {
                return Err(service.failure("stop", &error).await);
            }
            if service.state().await?.running {
                return Err(format!("{} still runs after its stop", service.name));
            }
            stopped.push(service.name.as_str());
        }
        Ok(stopped.join(", "))
    }

    /// Which processes serve now; why not, where one does not run.
    pub(super) async fn identities(&self) -> Result<Identities, String> {
        let mut rows = Vec::new();
        for service in &self.0 {
            let state = service.state().await?;
            if !state.running {
                let log = service.log().await;
                return Err(format!("{} does not run: {}{log}", service.name, state.detail));
            }
            rows.push((service.name.clone(), state.identity, state.restarts));
        }
        Ok(rows)
    }

    /// Whether the same processes serve as before.
    pub(super) async fn still(&self, before: &Identities) -> Result<(), String> {
        let now = self.identities().await?;
        match now.iter().zip(before).find(|(now, before)| now != before) {
            Some(((name, _, _), _)) => Err(format!("{name} was restarted in the stability window")),
            None => Ok(()),
        }
    }

    /// Those of which nobody could see whether they were restarted: what a verification may not claim.
    pub(super) fn unwatched(&self) -> Vec<String> {
        let not_seen = |service: &&Service| !service.driver.watches();
        let words = |service: &Service| {
            let (name, driver) = (&service.name, service.driver.name());
            format!(
                "{name}: whether it was restarted was not watched; driver `{driver}` names no process"
            )
        };
        self.0.iter().filter(not_seen).map(words).collect()
    }

    /// How each is.
    pub(super) async fn status(&self) -> Vec<ServiceStatus> {
        let mut rows = Vec::new();
        for service in &self.0 {
            let (running, detail) = match service.driver.status().await {
                Ok(state) => (state.running, state.detail),
                Err(error) => (false, error.to_string()),
            };
            let (name, driver) = (service.name.clone(), service.driver.name().to_owned());
            rows.push(ServiceStatus { service: name, driver, running, detail });
        }
        rows
    }

    /// The last lines of every service, for a failure that may be any one's.
    pub(super) async fn logs(&self) -> String {
        let mut text = String::new();
        for service in &self.0 {
            let log = service.log().await;
            if !log.is_empty() {
                text.push_str(&format!("\n{}:{log}", service.name));
            }
        }
        text
    }
}

impl Service {
    async fn state(&self) -> Result<ServiceState, String> {
        tried(|| self.driver.status()).await.map_err(|error| format!("{}: {error}", self.name))
    }

    /// A call that changes something: it has a span.
    async fn call<'a, T>(
        &self,
        verb: Verb,
        call: impl Fn() -> drivers::Doing<'a, Result<T, DriverError>>,
    ) -> Result<T, DriverError> {
        let mut span = trace::call_span(self.driver.name(), verb, &self.name);
        let done = tried(call).await;
        span.result(trace::call_result(&done));
        done
    }

    async fn failure(&self, verb: &str, error: &DriverError) -> String {
        format!("{verb} {}: {error}{}", self.name, self.log().await)
    }

    async fn log(&self) -> String {
        let lines = self.driver.last_log_lines(LOG_LINES).await;
        lines.iter().map(|line| format!("\n  {line}")).collect()
    }
}

async fn tried<'a, T>(
    verb: impl Fn() -> drivers::Doing<'a, Result<T, DriverError>>,
) -> Result<T, DriverError> {
    let mut tries = Tries::transient();
    loop {
        match verb().await {
            Err(DriverError::Transient(why)) => match tries.next_delay() {
                Some(delay) => tokio::time::sleep(delay).await,
                None => return Err(DriverError::Transient(why)),
            },
            done @ (Ok(_)
            | Err(
                DriverError::Permanent(_) | DriverError::Unsupported(_) | DriverError::TimedOut(_),
            )) => {
                return done;
            }
        }
    }
}
