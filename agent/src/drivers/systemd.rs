//! `systemd`: a unit of the host's service manager, spoken to over D-Bus.
//!
//! | verb   | what it means here |
//! |--------|--------------------|
//! | start  | changed unit files are read, failures forgotten, a start job ends as `done`, and the unit is up afterwards |
//! | stop   | a stop job; what is left after its time is killed; done when the unit is at rest and its cgroup empty |
//! | status | the unit's own state; another InvocationID or main process is another run |
//!
//! ```text
//! SystemdDriver ──▶ bus (D-Bus: load, job, kill) ──▶ systemd ──▶ unit (what it says now)
//!      ├─ hold      drop-in: no start in the middle of a switch
//!      ├─ triggers  sockets, timers, paths: stopped and started with it      <state>/systemd/<component>.<service>.json
//!      └─ files     unit file and drop-ins that go back with the release
//! ```
//!
//! Invariant: nothing is read from what `systemctl` prints.
//! Invariant: a job that is done is not believed: the unit is looked at afterwards.

pub(super) mod bus;
mod files;
mod hold;
mod journal;
#[cfg(test)]
pub(super) mod real;
mod triggers;
pub(super) mod unit;

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use proto::policy::FilesPolicy;
use tokio::time::{Instant, sleep, timeout_at};

use self::{
    bus::Bus,
    triggers::{Record, Stopped},
    unit::Unit,
};
use super::{Context, Doing, DriverError, ServiceDriver, ServiceState, Triggers, Verb, process};

/// How long a look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// How often a killed unit is looked at until nothing of it is left.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How many processes that are left are named.
const PROCESSES_NAMED: usize = 5;

/// One unit.
#[derive(Debug)]
pub struct SystemdDriver {
    unit: String,
    hold: Hold,
    triggers: Record,
    /// Of the unit files, when systemd last read them for us.
    read: Mutex<Option<blake3::Hash>>,
    /// When its start was last ordered; microseconds since 1970, 0 for never. A unit that is started again and again
    /// says why it ended before the start that systemd calls its last.
    ordered_unix_us: AtomicU64,
}

/// Where a unit's hold is, and the drop-in that makes the unit heed it.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    unit: String,
    path: PathBuf,
    drop_in: PathBuf,
}

impl SystemdDriver {
    /// The driver of `unit`. Nothing is asked of systemd before the first verb.
    pub fn new(service: &str, unit: &str, context: &Context) -> Self {
        let (component, service) =
            (process::file_name(&context.component), process::file_name(service));
        Self {
            unit: unit.to_owned(),
            hold: Hold::new(unit, context),
            triggers: Record::new(&context.state_dir, &format!("{component}.{service}")),
            read: Mutex::new(None),
            ordered_unix_us: AtomicU64::new(0),
        }
    }

    async fn look(&self, bus: &Bus) -> Result<Unit, DriverError> {
        Unit::look(bus, &self.unit).await
    }

    /// Lets systemd read the unit files where what it knows may be another release's.
    async fn refresh(&self, bus: &Bus) -> Result<(), DriverError> {
        let unit = self.unit.clone();
        let reading = tokio::task::spawn_blocking(move || files::fingerprint(&unit)).await;
        let now = reading.expect("reading unit files does not panic").ok();
        let known = *self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if now.is_none() || now != known || self.look(bus).await?.need_reload {
            bus.reload_units().await?;
            *self.read.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
        Ok(())
    }

    async fn start_unit(&self, deadline: Instant) -> Result<(), DriverError> {
        let bus = Bus::connect(deadline).await?;
        let stopped = self.triggers.load()?;
        if stopped.is_none() && self.look(&bus).await?.is_active() {
            return Ok(());
        }
        self.refresh(&bus).await?;
        let unit = self.look(&bus).await?;
        if let Some(why) = unit.unstartable() {
            return Err(DriverError::Permanent(why));
        }
        if let Some(stopped) = &stopped {
            self.triggers.save(&Stopped { between: true, ..stopped.clone() })?;
            for socket in stopped.sockets() {
                run(&bus, "StartUnit", socket).await?;
            }
        }
        bus.reset_failed(&self.unit).await?;
        let result = run(&bus, "StartUnit", &self.unit).await;
        self.is_up(&self.look(&bus).await?, result?)?;
        self.arm_rest(&bus, stopped).await
    }

    /// After a start job that ended so.
    fn is_up(&self, unit: &Unit, result: JobEnd) -> Result<(), DriverError> {
        let name = &self.unit;
        if result == JobEnd::Done && (unit.is_active() || unit.is_running()) {
            return Ok(());
        }
        if !unit.condition_held && unit.is_at_rest() {
            return Err(self.hold.unmet(unit));
        }
        let how = match result {
            JobEnd::Done => "systemd started it, and it ended at once".to_owned(),
            JobEnd::Other(result) => format!("systemd's start job ended as `{result}`"),
        };
        Err(DriverError::Permanent(format!(
            "{name}: {how}; it is {}; see `systemctl status {name}`",
            unit.words()
        )))
    }

    async fn arm_rest(&self, bus: &Bus, stopped: Option<Stopped>) -> Result<(), DriverError> {
        let Some(stopped) = stopped else { return Ok(()) };
        for unit in stopped.others() {
            run(bus, "StartUnit", unit).await?;
        }
        for unit in &stopped.units {
            let now = Unit::look(bus, unit).await?;
            // A trigger that a release took away cannot come back with another.
            if !now.is_active() && now.load_state != "not-found" {
                return Err(DriverError::Permanent(format!(
                    "{unit}, which starts {}, was active before the stop and is {} now; `systemctl start {unit}`",
                    self.unit,
                    now.words()
                )));
            }
        }
        self.triggers.clear()
    }

    async fn rearm_unit(&self, deadline: Instant) -> Result<(), DriverError> {
        let Some(stopped) = self.triggers.load()? else { return Ok(()) };
        let bus = Bus::connect(deadline).await?;
        self.refresh(&bus).await?;
        for socket in stopped.sockets() {
            run(&bus, "StartUnit", socket).await?;
        }
        self.arm_rest(&bus, Some(stopped)).await
    }

    async fn stop_unit(&self, within: Duration, deadline: Instant) -> Result<(), DriverError> {
        let bus = Bus::connect(deadline).await?;
        let unit = self.look(&bus).await?;
        let disarmed = self.disarm(&bus, &unit).await?;
        if !(unit.is_at_rest() && bus.processes(&self.unit).await?.is_empty()) {
            self.end(&bus, &unit, within).await?;
        }
        match disarmed {
            Some(stopped) => self.triggers.save(&Stopped { between: false, ..stopped }),
            None => Ok(()),
        }
    }

    /// Stops what would start the unit again, once it is on record.
    async fn disarm(&self, bus: &Bus, unit: &Unit) -> Result<Option<Stopped>, DriverError> {
        let known = self.triggers.load()?;
        let mut active = Vec::new();
        for trigger in &unit.triggered_by {
            if !Unit::look(bus, trigger).await?.is_at_rest() {
                active.push(trigger.clone());
            }
        }
        if known.is_none() && active.is_empty() {
            return Ok(None);
        }
        let mut units = known.map(|known| known.units).unwrap_or_default();
        units.extend(
            active.iter().filter(|unit| !units.contains(unit)).cloned().collect::<Vec<_>>(),
        );
        let stopped = Stopped { between: true, units };
        self.triggers.save(&stopped)?;
        for trigger in &active {
            run(bus, "StopUnit", trigger).await?;
        }
        Ok(Some(stopped))
    }

    /// Ends every process of the unit: by a stop job, and by KILL what is left after `within`.
    async fn end(&self, bus: &Bus, unit: &Unit, within: Duration) -> Result<(), DriverError> {
        if !unit.is_at_rest() {
            let patience = bus.deadline().min(Instant::now() + within);
            let mut job = bus.job("StopUnit", &self.unit).await?;
            match timeout_at(patience, job.result()).await {
                // How it ended, the look below tells.
                Ok(ended) => drop(ended?),
                Err(_) => bus.kill(&self.unit).await?,
            }
        }
        // Also what the unit leaves alone when it stops (`KillMode=process`).
        loop {
            let (unit, left) = (self.look(bus).await?, bus.processes(&self.unit).await?);
            if unit.is_at_rest() && left.is_empty() {
                return Ok(());
            }
            if unit.is_at_rest() {
                bus.kill(&self.unit).await?;
            }
            if Instant::now() >= bus.deadline() {
                let left: Vec<_> = left
                    .iter()
                    .take(PROCESSES_NAMED)
                    .map(|(pid, command)| format!("{pid} {command}"))
                    .collect();
                return Err(DriverError::TimedOut(format!(
                    "{} is still {} after KILL; left of it: {}; a process that hangs in the kernel goes only with what \
                     it waits for",
                    self.unit,
                    unit.words(),
                    left.join(", ")
                )));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn try_problems(&self) -> Result<Vec<String>, DriverError> {
        let bus = Bus::connect(Instant::now() + LOOK_WITHIN).await?;
        let unit = self.look(&bus).await?;
        let mut problems: Vec<String> = unit.unstartable().into_iter().collect();
        let name = &self.unit;
        if unit.load_state == "loaded" {
            if !unit.can_stop {
                problems.push(format!(
                    "unit {name} refuses to be stopped by hand (RefuseManualStop=); allow it in the unit file"
                ));
            }
            if unit.kind == "oneshot" && !unit.remain_after_exit {
                problems.push(format!(
                    "unit {name} is Type=oneshot and ends by itself, so that nothing of it runs which could be verified; \
                     set RemainAfterExit=yes, or leave it out of the policy"
                ));
            }
        }
        problems.extend(self.hold.problem(&bus, &unit).await?);
        Ok(problems)
    }
}

impl ServiceDriver for SystemdDriver {
    fn name(&self) -> &'static str {
        "systemd"
    }

    fn verbs(&self) -> &'static [Verb] {
        &[Verb::Start, Verb::Stop, Verb::Status, Verb::Log]
    }

    fn set_up(&self, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(async move {
            let written = self.hold.ensure().await?;
            let bus = Bus::connect(deadline).await?;
            if written {
                bus.reload_units().await?;
            }
            self.refresh(&bus).await?;
            self.hold.in_force(&self.look(&bus).await?)
        })
    }

    fn start(&self, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        let now = jiff::Timestamp::now().as_microsecond();
        self.ordered_unix_us.store(u64::try_from(now).unwrap_or(0), Ordering::Relaxed);
        Box::pin(self.start_unit(deadline))
    }

    fn stop(&self, within: Duration, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(self.stop_unit(within, deadline))
    }

    fn triggers(&self) -> Triggers {
        self.triggers.state()
    }

    fn rearm(&self, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(self.rearm_unit(deadline))
    }

    fn files(&self) -> Vec<FilesPolicy> {
        files::of(&self.unit)
    }

    fn problems(&self) -> Doing<'_, Vec<String>> {
        Box::pin(async {
            self.try_problems().await.unwrap_or_else(|error| vec![error.to_string()])
        })
    }

    fn status(&self) -> Doing<'_, Result<ServiceState, DriverError>> {
        Box::pin(status(&self.unit))
    }

    fn last_log_lines(&self, count: usize) -> Doing<'_, Vec<String>> {
        Box::pin(log_lines(&self.unit, self.ordered_unix_us.load(Ordering::Relaxed), count))
    }
}

impl Hold {
    pub(super) fn new(unit: &str, context: &Context) -> Self {
        let (unit, path) = (unit.to_owned(), context.hold_path.clone());
        Self { drop_in: hold::path(&unit), unit, path }
    }

    /// Writes the drop-in where it is missing; says whether it was.
    pub(super) async fn ensure(&self) -> Result<bool, DriverError> {
        let (drop_in, path) = (self.drop_in.clone(), self.path.clone());
        let written = tokio::task::spawn_blocking(move || hold::ensure(&drop_in, &path)).await;
        written.expect("writing a drop-in does not panic").map_err(|error| {
            DriverError::Permanent(format!(
                "cannot write {}, which keeps {} from starting in the middle of a switch: {error}",
                self.drop_in.display(),
                self.unit
            ))
        })
    }

    /// Whether systemd goes by it. A unit whose files are not there yet has nothing that could start.
    pub(super) fn in_force(&self, unit: &Unit) -> Result<(), DriverError> {
        let path = self.path.display().to_string();
        if unit.load_state != "loaded" || unit.absent_paths.contains(&path) {
            return Ok(());
        }
        Err(DriverError::Permanent(format!(
            "{} does not heed its hold: systemd does not have the condition of {}; take out what resets \
             ConditionPathExists= in the unit's other drop-ins (`systemctl cat {}`)",
            self.unit,
            self.drop_in.display(),
            self.unit
        )))
    }

    /// What would let the unit start in the middle of a switch.
    pub(super) async fn problem(
        &self,
        bus: &Bus,
        unit: &Unit,
    ) -> Result<Option<String>, DriverError> {
        if !bus.unit_path().await?.iter().any(|path| path == hold::DIRECTORY) {
            return Ok(Some(format!(
                "systemd does not look for drop-ins in {}, where the hold of {} has to be; start systemd without \
                 SYSTEMD_UNIT_PATH",
                hold::DIRECTORY,
                self.unit
            )));
        }
        if !hold::stands(&self.drop_in, &self.path) {
            // Where no agent has run yet, its first start writes it: nothing for anybody to mend.
            if !self.path.parent().is_some_and(Path::exists) {
                return Ok(None);
            }
            return Ok(Some(format!(
                "the hold of {} is not installed: {} is missing; the agent writes it when it starts",
                self.unit,
                self.drop_in.display()
            )));
        }
        Ok(self.in_force(unit).err().map(|error| error.to_string()))
    }

    /// Why a unit whose condition did not hold was not started.
    pub(super) fn unmet(&self, unit: &Unit) -> DriverError {
        let name = &self.unit;
        DriverError::Permanent(if self.path.exists() {
            format!(
                "{name} was not started: it is held in the middle of a switch ({} is there); the agent starts it when \
                 the switch has gone through or back",
                self.path.display()
            )
        } else {
            format!(
                "{name} was not started: a condition of its unit does not hold; it is {}; `systemctl status {name}` \
                 names the condition",
                unit.words()
            )
        })
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JobEnd {
    Done,
    /// systemd's word for it.
    Other(String),
}

/// Asks for a job and waits for its end. That it did not go well is for the caller to judge by a look.
pub(super) async fn run(
    bus: &Bus,
    method: &'static str,
    unit: &str,
) -> Result<JobEnd, DriverError> {
    let mut job = bus.job(method, unit).await?;
    match timeout_at(bus.deadline(), job.result()).await {
        Ok(Ok(result)) if result == "done" => Ok(JobEnd::Done),
        Ok(Ok(result)) if result == "canceled" => Err(DriverError::Transient(format!(
            "another job for {unit} took the place of {method}"
        ))),
        Ok(Ok(result)) => Ok(JobEnd::Other(result)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(DriverError::TimedOut(format!(
            "{method} of {unit} was not done by its deadline; the job goes on in systemd"
        ))),
    }
}

/// Looks at a unit.
pub(super) async fn status(unit: &str) -> Result<ServiceState, DriverError> {
    let bus = Bus::connect(Instant::now() + LOOK_WITHIN).await?;
    Ok(Unit::look(&bus, unit).await?.state())
}

/// The last lines of a unit since its start was ordered; where none was, of its last run.
pub(super) async fn log_lines(unit: &str, ordered_unix_us: u64, count: usize) -> Vec<String> {
    let run = async {
        let bus = Bus::connect(Instant::now() + LOOK_WITHIN).await?;
        let unit = Unit::look(&bus, unit).await?;
        Ok::<_, DriverError>((unit.begun_unix_us, unit.ended_unix_us))
    };
    let (begun, ended) = run.await.unwrap_or_default();
    let since = if ordered_unix_us > 0 { begun.min(ordered_unix_us) } else { begun };
    journal::lines(unit, since, ended, count).await
}
