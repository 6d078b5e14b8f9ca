//! `nginx`: a proxy that reads its files anew while it serves. It is never stopped.
//!
//! | verb   | what it means here |
//! |--------|--------------------|
//! | reload | `nginx -t`, the unit's reload job, and then the proof: the same master, and none but new workers accept |
//! | accepts | `nginx -t` on the files as they stand |
//! | status | the master is alive |
//!
//! ```text
//! NginxDriver ──▶ systemd::bus (ReloadUnit) ──▶ nginx ──▶ workers (/proc: who accepts now)
//!           └──▶ nginx -t, its error log: its own words
//! ```
//!
//! nginx answers a reload before it has done it, and keeps its old files where it cannot use the new: only its workers tell.
//! One that does not run is started by a reload: a host that rebooted in the middle of a switch, or whose bad release
//! took nginx down, has nothing to reload.
//!
//! Invariant: a reload is done when no worker that served before it accepts any more.

#[cfg(test)]
mod real;
mod workers;

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use self::workers::Workers;
use super::{
    Context, Doing, DriverError, ServiceDriver, ServiceState, Verb,
    systemd::{self, Hold, JobEnd, bus::Bus, unit::Unit},
};
use crate::exec::{self, ExecError, Spec, last_lines};

/// The program that tests the files. A policy cannot name another.
const PROGRAM: &str = "/usr/sbin/nginx";
/// Runs a test among files of its own.
const SYSTEMD_RUN: &str = "/usr/bin/systemd-run";
/// How long a look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// The last look is taken so long before the deadline, so that it is what ends the verb.
const LAST_LOOK: Duration = Duration::from_millis(500);
/// How often the workers are looked at during a reload.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How many of nginx's lines a failure quotes.
const LINES_QUOTED: usize = 5;
/// How much of what was logged during a reload is read.
const LOG_BYTES_MAX: u64 = 64 * 1024;

/// One nginx.
#[derive(Debug)]
pub struct NginxDriver {
    unit: String,
    hold: Hold,
}

/// nginx's processes at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Processes {
    pub(crate) master: i32,
    /// Workers that take connections.
    pub(crate) accepting: Vec<i32>,
    /// Workers that only end the connections that they have.
    pub(crate) ending: Vec<i32>,
}

impl NginxDriver {
    /// The driver of the nginx that `unit` runs.
    pub fn new(unit: &str, context: &Context) -> Self {
        Self { unit: unit.to_owned(), hold: Hold::new(unit, context) }
    }

    /// Whether nginx would take its files with `candidate` in the place of `file`, which has to be there. Nobody else sees
    /// it there: systemd binds it for the one process.
    pub(crate) async fn accepts_with(
        &self,
        file: &Path,
        candidate: &Path,
        deadline: Instant,
    ) -> Result<(), DriverError> {
        let bus = Bus::connect(deadline).await?;
        let unit = Unit::look(&bus, &self.unit).await?;
        let within = deadline.saturating_duration_since(Instant::now());
        let argv = bound_argv(file, candidate, within, test_argv(&unit.argv))?;
        self.run_test(&Spec::new(argv), deadline).await
    }

    /// Its processes; none where it does not run.
    pub(crate) async fn processes(&self) -> Result<Option<Processes>, DriverError> {
        let bus = Bus::connect(Instant::now() + LOOK_WITHIN).await?;
        let unit = Unit::look(&bus, &self.unit).await?;
        if unit.main_pid == 0 {
            return Ok(None);
        }
        let master = master(&unit)?;
        let workers = self.workers(master)?;
        let accepting = workers.accepting.into_iter().map(|(pid, _)| pid).collect();
        Ok(Some(Processes { master, accepting, ending: workers.ending }))
    }

    /// What of its unit would keep it from being reloaded.
    pub(crate) async fn unit_problems(&self) -> Vec<String> {
        let looked = async {
            let bus = Bus::connect(Instant::now() + LOOK_WITHIN).await?;
            Unit::look(&bus, &self.unit).await
        };
        match looked.await {
            Ok(unit) => self.problems_of(&unit),
            Err(error) => vec![error.to_string()],
        }
    }

    async fn test(&self, unit: &Unit, deadline: Instant) -> Result<(), DriverError> {
        self.run_test(&Spec::new(test_argv(&unit.argv)), deadline).await
    }

    async fn run_test(&self, spec: &Spec, deadline: Instant) -> Result<(), DriverError> {
        let within = deadline.saturating_duration_since(Instant::now());
        let output = exec::run(spec, within).await.map_err(|error| not_run(&error))?;
        if output.timed_out {
            return Err(DriverError::TimedOut(
                "`nginx -t` was not done by its deadline".to_owned(),
            ));
        }
        if output.status.success() {
            return Ok(());
        }
        let lines = last_lines(&output.stderr, LINES_QUOTED).join(" | ");
        if !lines.contains("nginx:") {
            let ended = exec::status_words(output.status);
            let why = format!("`nginx -t` could not be run ({ended}): {lines}");
            return Err(DriverError::Permanent(why));
        }
        Err(DriverError::Permanent(format!("nginx refuses its files: {lines}")))
    }

    async fn reload_unit(&self, deadline: Instant) -> Result<(), DriverError> {
        let bus = Bus::connect(deadline).await?;
        let unit = Unit::look(&bus, &self.unit).await?;
        if unit.is_running() && !unit.is_active() {
            let why = format!("{} is {}", self.unit, unit.words());
            return Err(DriverError::Transient(why));
        }
        self.test(&unit, deadline).await?;
        if !unit.is_active() {
            return self.start_unit(&bus, &unit).await;
        }
        let master = master(&unit)?;
        let before = self.workers(master)?;
        let log = ErrorLog::of(master);
        let last_look = deadline.checked_sub(LAST_LOOK).unwrap_or(deadline);
        let result = systemd::run(&bus, "ReloadUnit", &self.unit).await?;
        if result != JobEnd::Done {
            return Err(self.kept(&log, &format!("systemd's reload job ended as {result:?}")));
        }
        loop {
            let now = Unit::look(&bus, &self.unit).await?;
            if now.main_pid != unit.main_pid {
                return Err(DriverError::Permanent(format!(
                    "the master of {} ended during the reload; it is {} now",
                    self.unit,
                    now.words()
                )));
            }
            if self.workers(master)?.newer_than(&before) {
                return Ok(());
            }
            if log.since().iter().any(|line| is_final(line)) {
                return Err(self.kept(&log, "nginx kept its old files"));
            }
            if Instant::now() >= last_look {
                let why = "its old workers still accepted connections at the deadline";
                return Err(DriverError::TimedOut(self.kept(&log, why).to_string()));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn start_unit(&self, bus: &Bus, unit: &Unit) -> Result<(), DriverError> {
        if let Some(why) = unit.unstartable() {
            return Err(DriverError::Permanent(why));
        }
        bus.reset_failed(&self.unit).await?;
        let result = systemd::run(bus, "StartUnit", &self.unit).await?;
        let now = Unit::look(bus, &self.unit).await?;
        if now.is_active() && result == JobEnd::Done {
            return Ok(());
        }
        if !now.condition_held && now.is_at_rest() {
            return Err(self.hold.unmet(&now));
        }
        Err(DriverError::Permanent(format!(
            "{} did not run and could not be started: it is {}",
            self.unit,
            now.words()
        )))
    }

    fn workers(&self, master: i32) -> Result<Workers, DriverError> {
        let unread = |error| {
            DriverError::Permanent(format!("the workers of {} cannot be seen: {error}", self.unit))
        };
        Workers::of(master).map_err(unread)
    }

    fn kept(&self, log: &ErrorLog, what: &str) -> DriverError {
        let lines = log.since().join(" | ");
        let lines = if lines.is_empty() { String::new() } else { format!(": {lines}") };
        DriverError::Permanent(format!("{}: {what}{lines}", self.unit))
    }

    async fn try_problems(&self) -> Result<Vec<String>, DriverError> {
        let bus = Bus::connect(Instant::now() + LOOK_WITHIN).await?;
        let unit = Unit::look(&bus, &self.unit).await?;
        let mut problems = self.problems_of(&unit);
        problems.extend(self.hold.problem(&bus, &unit).await?);
        Ok(problems)
    }

    fn problems_of(&self, unit: &Unit) -> Vec<String> {
        let mut problems: Vec<String> = unit.unstartable().into_iter().collect();
        let name = &self.unit;
        if !Path::new(PROGRAM).exists() {
            problems.push(format!("{PROGRAM} is not there; install nginx"));
        }
        if unit.load_state == "loaded" {
            match unit.argv.first() {
                Some(program) if program != PROGRAM => problems.push(format!(
                    "unit {name} runs {program}, and its files would be tested with {PROGRAM}; run that one"
                )),
                Some(_) | None => {}
            }
            // While it does not run systemd says that it cannot be reloaded, whatever its unit has.
            if unit.is_active() && !unit.can_reload {
                problems.push(format!(
                    "unit {name} has no ExecReload=; add `ExecReload=/bin/kill -HUP $MAINPID`"
                ));
            }
        }
        problems
    }
}

impl ServiceDriver for NginxDriver {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn verbs(&self) -> &'static [Verb] {
        &[Verb::Reload, Verb::Status, Verb::Log]
    }

    fn set_up(&self, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(async move {
            let written = self.hold.ensure().await?;
            let bus = Bus::connect(deadline).await?;
            if written || Unit::look(&bus, &self.unit).await?.need_reload {
                bus.reload_units().await?;
            }
            self.hold.in_force(&Unit::look(&bus, &self.unit).await?)
        })
    }

    fn start(&self, _deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(std::future::ready(Err(only_reloaded())))
    }

    fn stop(&self, _within: Duration, _deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(std::future::ready(Err(only_reloaded())))
    }

    fn accepts(&self, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(async move {
            let bus = Bus::connect(deadline).await?;
            self.test(&Unit::look(&bus, &self.unit).await?, deadline).await
        })
    }

    fn reload(&self, deadline: Instant) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(self.reload_unit(deadline))
    }

    fn problems(&self) -> Doing<'_, Vec<String>> {
        Box::pin(async {
            self.try_problems().await.unwrap_or_else(|error| vec![error.to_string()])
        })
    }

    fn status(&self) -> Doing<'_, Result<ServiceState, DriverError>> {
        Box::pin(systemd::status(&self.unit))
    }

    fn last_log_lines(&self, count: usize) -> Doing<'_, Vec<String>> {
        Box::pin(async move {
            let mut lines = systemd::log_lines(&self.unit, 0, count).await;
            if lines.is_empty()
                && let Ok(bus) = Bus::connect(Instant::now() + LOOK_WITHIN).await
                && let Ok(unit) = Unit::look(&bus, &self.unit).await
                && let Ok(master) = master(&unit)
            {
                lines = last_lines(&ErrorLog::of(master).from(0), count);
            }
            lines
        })
    }
}

/// `nginx -t` with the arguments that the unit starts it with: they say where its files are.
fn test_argv(started_with: &[String]) -> Vec<String> {
    let mut argv = vec![PROGRAM.to_owned(), "-t".to_owned()];
    argv.extend(started_with.iter().skip(1).cloned());
    argv
}

/// The same test in a mount namespace where `candidate` stands in the place of `file`. A path that means something else
/// to systemd than itself is refused.
fn bound_argv(
    file: &Path,
    candidate: &Path,
    within: Duration,
    test: Vec<String>,
) -> Result<Vec<String>, DriverError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    let mut shown = Vec::new();
    for path in [candidate, file] {
        let text = path.display().to_string();
        if !text.chars().all(plain) {
            let why = format!("{text} cannot be bound for a test; use letters, digits and `._-+@`");
            return Err(DriverError::Permanent(why));
        }
        shown.push(text);
    }
    let mut argv: Vec<String> =
        [SYSTEMD_RUN, "--quiet", "--pipe", "--wait", "--collect"].map(str::to_owned).into();
    argv.push(format!("--property=BindReadOnlyPaths={}", shown.join(":")));
    argv.push(format!("--property=RuntimeMaxSec={}", within.as_secs().max(1)));
    argv.push("--".to_owned());
    argv.extend(test);
    Ok(argv)
}

fn master(unit: &Unit) -> Result<i32, DriverError> {
    match i32::try_from(unit.main_pid) {
        Ok(pid) if pid > 0 => Ok(pid),
        Ok(_) | Err(_) => Err(DriverError::Permanent(format!(
            "systemd does not know the master of {}; give its unit a PIDFile=",
            unit.name
        ))),
    }
}

/// Whether the master gave up on new files. An address that is in use it tries again a few times, and then says so.
fn is_final(line: &str) -> bool {
    line.contains("[emerg]") && !line.contains(" bind() to ")
}

fn only_reloaded() -> DriverError {
    DriverError::Unsupported("driver `nginx` neither starts nor stops: it reloads".to_owned())
}

fn not_run(error: &ExecError) -> DriverError {
    let why = error.words();
    if error.is_transient() { DriverError::Transient(why) } else { DriverError::Permanent(why) }
}

/// The master's error log, from the end that it had when the reload began. nginx makes its stderr the same file.
#[derive(Debug)]
struct ErrorLog {
    path: PathBuf,
    from: u64,
}

impl ErrorLog {
    fn of(master: i32) -> Self {
        let path = PathBuf::from(format!("/proc/{master}/fd/2"));
        let from = std::fs::metadata(&path).map_or(0, |found| found.size());
        Self { path, from }
    }

    /// The last lines that were logged since.
    fn since(&self) -> Vec<String> {
        last_lines(&self.from(self.from), LINES_QUOTED)
    }

    /// Empty where it is no file, or cannot be read.
    fn from(&self, offset: u64) -> String {
        let read = || {
            // A pipe or a terminal would have to be waited for.
            if !std::fs::metadata(&self.path)?.is_file() {
                return Ok(Vec::new());
            }
            let mut file = File::open(&self.path)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(offset.max(length.saturating_sub(LOG_BYTES_MAX))))?;
            let mut bytes = Vec::new();
            file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
            Ok::<_, std::io::Error>(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_tested_as_the_unit_names_them() {
        let unit = ["/usr/sbin/nginx", "-c", "/srv/edge/nginx.conf", "-g", "daemon on;"];
        let argv = test_argv(&unit.map(str::to_owned));
        let wanted = ["/usr/sbin/nginx", "-t", "-c", "/srv/edge/nginx.conf", "-g", "daemon on;"];
        assert_eq!(argv, wanted);
        assert_eq!(test_argv(&[]), ["/usr/sbin/nginx", "-t"]);
    }

    #[test]
    fn a_candidate_is_tested_in_the_place_of_a_file() {
        let bound = |file: &str| {
            let candidate = Path::new("/var/lib/lastgood/candidate.conf");
            bound_argv(Path::new(file), candidate, Duration::from_secs(20), test_argv(&[]))
        };
        let wanted = [
            "/usr/bin/systemd-run",
            "--quiet",
            "--pipe",
            "--wait",
            "--collect",
            "--property=BindReadOnlyPaths=/var/lib/lastgood/candidate.conf:/etc/nginx/conf.d/crm.conf",
            "--property=RuntimeMaxSec=20",
            "--",
            "/usr/sbin/nginx",
            "-t",
        ];
        assert_eq!(bound("/etc/nginx/conf.d/crm.conf").unwrap(), wanted);
        for path in ["/etc/%h.conf", "/etc/a:b.conf", "/etc/a b.conf"] {
            assert!(bound(path).unwrap_err().to_string().contains("cannot be bound"), "{path}");
        }
    }

    #[test]
    fn an_address_in_use_is_tried_again_before_the_master_gives_up() {
        let at = "2026/11/22 10:00:00 [emerg] 77#77:";
        assert!(!is_final(&format!(
            "{at} bind() to 127.0.0.1:80 failed (98: Address already in use)"
        )));
        assert!(is_final(&format!("{at} still could not bind()")));
        assert!(is_final(&format!(
            "{at} open() \"/srv/x.conf\" failed (2: No such file or directory)"
        )));
        assert!(!is_final("2026/11/22 10:00:00 [notice] 77#77: reconfiguring"));
    }
}
