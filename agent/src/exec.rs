//! Runs commands that end: checks, hooks, the tools that drivers call. And prepares those that stay.
//!
//! ```text
//! Spec --prepare--> Prepared (argv, environment, group, user) --> drivers::process: services
//!   \---run------> child --exit or deadline--> TERM, KILL of its group --> reaped --> Output --> CommandFailure
//!   \---run_into:      the same, but what it says goes into a file (artefact::git: an archive)
//!   \---run_and_leave: the same, but what it started goes on after a good end (drivers::script: start scripts)
//! ```
//!
//! Invariant: no shell; the child sees the environment, groups and umask it was given and nothing of the agent's.
//! Invariant: when [`run`] returns, or is dropped, nothing of the command's process group goes on running.
//! Invariant: root runs only what nobody but root could have written: see [`trust`].
//! Invariant: output is bounded; of more than that the end is kept.

pub(crate) mod members;
pub mod proc;
pub mod spawn;
pub mod trust;
pub(crate) mod user;

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io,
    os::unix::{
        fs::PermissionsExt as _,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Gid, Signal, geteuid};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt as _},
    process::Child,
    time::timeout,
};

use self::{
    proc::{Identity, Watch, signal_group},
    spawn::{Groups, Prepared},
    trust::Untrusted,
};

/// How much of each stream is kept: enough for a stack trace, little enough for a report.
pub const STREAM_BYTES_MAX: usize = 64 * 1024;

/// The `PATH` of commands that are given none.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a command that overran has between TERM and KILL.
const TERM_GRACE: Duration = Duration::from_secs(1);
/// How long the kernel may take to end what was killed. Longer means that it hangs in the kernel.
const KILL_GRACE: Duration = Duration::from_secs(2);
/// How long output may still come once the command ended: a daemon that it left behind may hold the pipe for ever.
const DRAIN_WITHIN: Duration = Duration::from_millis(250);

/// How many lines of stderr a failure quotes.
const QUOTED_LINES: usize = 5;

/// What to run and as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Program (absolute) and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
    pub directory: PathBuf,
    /// A name in `/etc/passwd`; `None` is the agent's own.
    pub user: Option<String>,
}

impl Spec {
    /// `argv` in `/`, with nothing in its environment but a `PATH`, as the agent's own user.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            environment: BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]),
            directory: PathBuf::from("/"),
            user: None,
        }
    }

    /// The same, as another user.
    pub fn as_user(self, user: Option<String>) -> Self {
        Self { user, ..self }
    }
}

/// What a command left.
#[derive(Clone, Debug)]
pub struct Output {
    pub status: ExitStatus,
    /// The last [`STREAM_BYTES_MAX`] bytes, as text.
    pub stdout: String,
    /// The last [`STREAM_BYTES_MAX`] bytes, as text.
    pub stderr: String,
    /// It was still running at its deadline and was ended.
    pub timed_out: bool,
}

impl Output {
    /// Itself where the command exited 0 in time.
    ///
    /// # Errors
    /// It did not: what was run, how it ended, and its last words.
    pub fn success(self, spec: &Spec) -> Result<Self, CommandFailure> {
        if self.status.success() && !self.timed_out {
            return Ok(self);
        }
        let ended = if self.timed_out {
            "was still running at its deadline and was ended".to_owned()
        } else {
            status_words(self.status)
        };
        Err(CommandFailure {
            argv: spec.argv.clone(),
            ended,
            stderr: last_lines(&self.stderr, QUOTED_LINES),
        })
    }
}

/// A command that ran and did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CommandFailure {
    pub argv: Vec<String>,
    /// `exit 3`, `killed by signal 9`, …
    pub ended: String,
    /// Its last lines on stderr, oldest first.
    pub stderr: Vec<String>,
}

impl fmt::Display for CommandFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` → {}", self.argv.join(" "), self.ended)?;
        if !self.stderr.is_empty() {
            write!(f, ": {}", self.stderr.join(" | "))?;
        }
        Ok(())
    }
}

/// A command that could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("the command is empty; mend: declare a program and its arguments")]
    Empty,
    #[error("program `{0}` is not an absolute path; mend: write it in full")]
    Relative(String),
    #[error("user `{0}` is not in /etc/passwd; mend: create it or declare another")]
    NoUser(String),
    #[error("cannot look up user `{user}`")]
    LookUpUser {
        user: String,
        #[source]
        source: io::Error,
    },
    #[error("working directory {} is not there; mend: create it or declare another", .0.display())]
    NoDirectory(PathBuf),
    #[error("`{program}` is not started")]
    Untrusted {
        program: String,
        #[source]
        source: Untrusted,
    },
    #[error("cannot start `{program}`")]
    Spawn {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot watch process {pid}")]
    Watch {
        pid: i32,
        #[source]
        source: io::Error,
    },
    #[error("process {pid} is still there after KILL; it hangs in the kernel")]
    Unkillable { pid: i32 },
    #[error("cannot keep what `{program}` writes")]
    Pour {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("`{program}` wrote more than {bytes_max} bytes and was ended")]
    TooMuch { program: String, bytes_max: u64 },
}

impl ExecError {
    /// It may work in a moment: the host was out of processes or memory, or the program was being written.
    pub fn is_transient(&self) -> bool {
        use io::ErrorKind::{ExecutableFileBusy, Interrupted, OutOfMemory, WouldBlock};
        let source = match self {
            Self::LookUpUser { source, .. }
            | Self::Spawn { source, .. }
            | Self::Watch { source, .. } => source,
            Self::Empty
            | Self::Relative(_)
            | Self::NoUser(_)
            | Self::NoDirectory(_)
            | Self::Untrusted { .. }
            | Self::Unkillable { .. }
            | Self::Pour { .. }
            | Self::TooMuch { .. } => {
                return false;
            }
        };
        matches!(source.kind(), ExecutableFileBusy | Interrupted | OutOfMemory | WouldBlock)
    }

    /// The whole of it in one line: what failed and the host's own words.
    pub fn words(&self) -> String {
        let mut words = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            words.push_str(&format!(": {error}"));
            source = error.source();
        }
        words
    }
}

/// Runs a command to its end, for `within` at most; then TERM, a second later KILL, to all of its process group.
///
/// A background process that it leaves in its group is killed too; a daemon of its own session stays.
///
/// # Errors
/// It could not be started or ended. That it failed is no error here: [`Output::success`] asks.
pub async fn run(spec: &Spec, within: Duration) -> Result<Output, ExecError> {
    let mut command = prepare(spec)?;
    command.output(Stdio::piped(), Stdio::piped());
    let mut leash = Leash::spawn(command, &spec.argv, Left::Ended)?;
    let (stdout, stderr) = (leash.child.stdout.take(), leash.child.stderr.take());
    let (mut out, mut err) = (Tail::default(), Tail::default());
    let timed_out = {
        let reading = async { tokio::join!(out.fill(stdout), err.fill(stderr)) };
        let living = leash.end_of_life(within);
        tokio::pin!(reading, living);
        let (timed_out, drained) = tokio::select! {
            timed_out = &mut living => (timed_out?, false),
            _ = &mut reading => ((&mut living).await?, true),
        };
        if !drained && timeout(DRAIN_WITHIN, reading).await.is_err() {
            tracing::debug!(program = %spec.argv[0], "a process that left its group holds the output open");
        }
        timed_out
    };
    let status = leash.reap().await?;
    Ok(Output { status, stdout: out.text(), stderr: err.text(), timed_out })
}

/// As [`run`], but its stdout goes into a file, of which at most `bytes_max` are written.
///
/// # Errors
/// It could not be started or ended, or what it wrote not be kept.
pub async fn run_into(
    spec: &Spec,
    within: Duration,
    into: File,
    bytes_max: u64,
) -> Result<Output, ExecError> {
    let end = tokio::time::Instant::now() + within;
    let mut command = prepare(spec)?;
    command.output(Stdio::piped(), Stdio::piped());
    let mut leash = Leash::spawn(command, &spec.argv, Left::Ended)?;
    let (stdout, stderr) = (leash.child.stdout.take(), leash.child.stderr.take());
    let mut err = Tail::default();
    let timed_out = {
        let pouring = pour(spec, stdout, into, bytes_max);
        let reading = async { tokio::join!(pouring, err.fill(stderr)).0 };
        let living = leash.end_of_life(within);
        tokio::pin!(reading, living);
        tokio::select! {
            // Nothing may be missing of it, so that its end is waited for.
            timed_out = &mut living => match (timed_out?, tokio::time::timeout_at(end, reading).await) {
                (false, Ok(poured)) => poured.map(|()| false)?,
                (true, _) | (_, Err(_)) => true,
            },
            // Where it fails, the command is of no use: the leash ends it.
            poured = &mut reading => {
                poured?;
                (&mut living).await?
            }
        }
    };
    let status = leash.reap().await?;
    Ok(Output { status, stdout: String::new(), stderr: err.text(), timed_out })
}

async fn pour(
    spec: &Spec,
    stream: Option<impl AsyncRead + Unpin>,
    into: File,
    bytes_max: u64,
) -> Result<(), ExecError> {
    let program = || spec.argv.first().cloned().unwrap_or_default();
    let failed = |source| ExecError::Pour { program: program(), source };
    let Some(mut stream) = stream else { return Ok(()) };
    let mut into = tokio::fs::File::from_std(into);
    let (mut chunk, mut written) = (vec![0; 256 * 1024], 0u64);
    loop {
        let read = stream.read(&mut chunk).await.map_err(failed)?;
        if read == 0 {
            return into.flush().await.map_err(failed);
        }
        written = written.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        if written > bytes_max {
            return Err(ExecError::TooMuch { program: program(), bytes_max });
        }
        into.write_all(&chunk[..read]).await.map_err(failed)?;
    }
}

/// As [`run`], but what the command leaves in the background lives on where the command ended by itself; where it
/// did not, all of it is ended. It writes to `log`, which what it leaves may go on doing: the texts of the output are
/// empty.
///
/// # Errors
/// It could not be started or ended, or the log not be used.
pub async fn run_and_leave(spec: &Spec, within: Duration, log: File) -> Result<Output, ExecError> {
    let mut command = prepare(spec)?;
    let spawn = |source| ExecError::Spawn { program: spec.argv.join(" "), source };
    let other = log.try_clone().map_err(spawn)?;
    command.output(log, other);
    let mut leash = Leash::spawn(command, &spec.argv, Left::Alone)?;
    let timed_out = leash.end_of_life(within).await?;
    let status = leash.reap().await?;
    Ok(Output { status, stdout: String::new(), stderr: String::new(), timed_out })
}

/// A command that is ready to be spawned: own environment, own process group, no shell.
///
/// # Errors
/// It cannot be run as declared.
pub fn prepare(spec: &Spec) -> Result<Prepared, ExecError> {
    let (program, arguments) = spec.argv.split_first().ok_or(ExecError::Empty)?;
    if !Path::new(program).is_absolute() {
        return Err(ExecError::Relative(program.clone()));
    }
    if !spec.directory.is_dir() {
        return Err(ExecError::NoDirectory(spec.directory.clone()));
    }
    let user = match &spec.user {
        None => None,
        Some(name) => {
            let failed = |source| ExecError::LookUpUser { user: name.clone(), source };
            let found = user::look_up(name).map_err(failed)?;
            Some(found.ok_or_else(|| ExecError::NoUser(name.clone()))?)
        }
    };
    if geteuid().is_root() && user.as_ref().is_none_or(|user| user.uid == 0) {
        let refused = |source| ExecError::Untrusted { program: program.clone(), source };
        trust::command(&spec.argv, &spec.directory).map_err(refused)?;
    }
    let mut command = std::process::Command::new(program);
    command
        .args(arguments)
        .current_dir(&spec.directory)
        .env_clear()
        .envs(&spec.environment)
        .process_group(0);
    let mut groups = None;
    if let Some(user) = user.filter(|user| !user::is_own(user)) {
        command.uid(user.uid).gid(user.gid);
        let all = user.groups.into_iter().map(Gid::from_raw).collect();
        groups = Some(Groups { first: Gid::from_raw(user.gid), all });
    }
    Ok(Prepared::new(command, groups))
}

/// Why a command would not be run as it is declared, with the mend; `None` where nothing is known against it. Runs
/// nothing.
pub fn refusal(spec: &Spec) -> Option<String> {
    let program = spec.argv.first().map(Path::new).filter(|program| program.is_absolute());
    if let Some(program) = program {
        let shown = program.display();
        match program.metadata() {
            Err(error) => {
                return Some(format!("program {shown}: {error}; mend: install it or name another"));
            }
            Ok(found) if !found.is_file() || found.permissions().mode() & 0o111 == 0 => {
                return Some(format!(
                    "program {shown} is not executable; mend: `chmod a+x {shown}`"
                ));
            }
            Ok(_) => {}
        }
    }
    if let Err(error) = prepare(spec) {
        return Some(error.words());
    }
    let name = spec.user.as_ref().filter(|_| !geteuid().is_root())?;
    let user = user::look_up(name).ok().flatten().filter(|user| !user::is_own(user))?;
    let uid = user.uid;
    Some(format!(
        "only root can run it as `{name}` (user {uid}); mend: run the agent as root, or as `{name}`"
    ))
}

/// How a process ended, in words.
pub fn status_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The last `count` lines that are not blank, oldest first.
pub fn last_lines(text: &str, count: usize) -> Vec<String> {
    let mut lines: Vec<_> = text
        .lines()
        .rev()
        .filter(|line| !line.trim().is_empty())
        .take(count)
        .map(str::to_owned)
        .collect();
    lines.reverse();
    lines
}

/// A child and its process group, killed when this is dropped. The child is not waited for before its group is: until
/// then nobody else can get the group's number.
struct Leash {
    child: Child,
    group: i32,
    left: Left,
    reaped: bool,
}

/// What becomes of the rest of the group once the command itself has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Ended,
    Alone,
}

impl Leash {
    fn spawn(command: Prepared, argv: &[String], left: Left) -> Result<Self, ExecError> {
        let lost = |source| ExecError::Spawn { program: argv.join(" "), source };
        let child = command.spawn().map_err(lost)?;
        let group = child.id().and_then(|pid| i32::try_from(pid).ok());
        let group = group.ok_or_else(|| lost(io::Error::other("it has no process id")))?;
        Ok(Self { child, group, left, reaped: false })
    }

    /// Waits for the exit, or makes it happen; then kills what is left of the group, unless that is to live on. True
    /// where it was made to happen.
    async fn end_of_life(&self, within: Duration) -> Result<bool, ExecError> {
        let failed = |source| ExecError::Watch { pid: self.group, source };
        let identity = Identity::of(self.group).map_err(failed)?;
        let watch = identity.as_ref().map(Watch::open).transpose().map_err(failed)?.flatten();
        let timed_out = match &watch {
            None => false,
            Some(watch) if timeout(within, watch.exited()).await.is_ok() => false,
            Some(watch) => {
                signal_group(self.group, Signal::TERM).map_err(failed)?;
                drop(timeout(TERM_GRACE, watch.exited()).await);
                true
            }
        };
        if timed_out || self.left == Left::Ended {
            signal_group(self.group, Signal::KILL).map_err(failed)?;
        }
        Ok(timed_out)
    }

    async fn reap(&mut self) -> Result<ExitStatus, ExecError> {
        let pid = self.group;
        let waited = timeout(KILL_GRACE, self.child.wait()).await;
        let status = waited.map_err(|_| ExecError::Unkillable { pid })?;
        self.reaped = true;
        status.map_err(|source| ExecError::Watch { pid, source })
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        // The runtime reaps it afterwards.
        if !self.reaped
            && let Err(error) = signal_group(self.group, Signal::KILL)
        {
            tracing::warn!(group = self.group, %error, "cannot kill a command that is no longer waited for");
        }
    }
}

/// The end of a stream.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    async fn fill(&mut self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(mut stream) = stream else { return };
        let mut chunk = vec![0; 8 * 1024];
        // A read that fails ends the output as its end does: the exit status is what counts.
        while let Ok(read @ 1..) = stream.read(&mut chunk).await {
            self.0.extend_from_slice(&chunk[..read]);
            // Cut at twice the bound, so that bytes are moved once per bound and not once per read.
            if self.0.len() >= 2 * STREAM_BYTES_MAX {
                self.cut();
            }
        }
    }

    fn text(mut self) -> String {
        self.cut();
        String::from_utf8_lossy(&self.0).into_owned()
    }

    fn cut(&mut self) {
        self.0.drain(..self.0.len().saturating_sub(STREAM_BYTES_MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{proc::Proc, *};

    const LONG: Duration = Duration::from_secs(20);

    fn sh(script: &str) -> Spec {
        Spec::new(["/bin/sh", "-c", script])
    }

    /// Waits until `holds`, and fails where it never does.
    async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + LONG;
        while !holds() {
            assert!(Instant::now() < end, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn what_it_wrote_and_how_it_ended_is_told() {
        let spec = sh("echo out; echo first >&2; echo last >&2; exit 3");
        let output = run(&spec, LONG).await.unwrap();
        assert_eq!((output.stdout.as_str(), output.timed_out), ("out\n", false));
        let failure = output.success(&spec).unwrap_err();
        assert_eq!(failure.ended, "exit 3");
        assert!(failure.to_string().ends_with("→ exit 3: first | last"), "{failure}");
    }

    #[tokio::test]
    async fn a_signal_is_told_as_one() {
        let spec = sh("kill -9 $$");
        let failure = run(&spec, LONG).await.unwrap().success(&spec).unwrap_err();
        assert_eq!(failure.ended, "killed by signal 9");
    }

    #[tokio::test]
    async fn a_timeout_leaves_no_child_behind() {
        // Deaf to TERM, with a child in the background that is deaf too.
        let spec =
            sh("trap '' TERM; (trap '' TERM; sleep 600) & echo $$; while :; do sleep 1; done");
        let output = run(&spec, Duration::from_millis(100)).await.unwrap();
        assert!(output.timed_out);
        let group: i32 = output.stdout.trim().parse().unwrap();
        eventually("the group is gone", || !proc::group_is_alive(group).unwrap()).await;
        assert_eq!(Proc::read(group), None, "a zombie was left");
        let failure = output.success(&spec).unwrap_err();
        assert!(failure.ended.contains("at its deadline"), "{failure}");
    }

    #[tokio::test]
    async fn one_that_exits_at_term_is_not_made_to_wait_for_kill() {
        let begun = Instant::now();
        let output = run(&sh("sleep 600"), Duration::from_millis(50)).await.unwrap();
        assert!(output.timed_out);
        assert_eq!(output.status.signal(), Some(15));
        assert!(begun.elapsed() < LONG);
    }

    #[tokio::test]
    async fn what_it_leaves_in_the_background_is_ended_with_it() {
        let output = run(&sh("sleep 600 & echo $$"), LONG).await.unwrap();
        assert!(!output.timed_out);
        let group: i32 = output.stdout.trim().parse().unwrap();
        eventually("the group is gone", || !proc::group_is_alive(group).unwrap()).await;
    }

    #[tokio::test]
    async fn a_daemon_that_holds_the_pipe_does_not_hold_us() {
        // It leaves the group, so it survives; its own end is ours to see to.
        let left = r#"until [ "$(cut -d' ' -f5 /proc/$!/stat)" = $! ]; do :; done"#;
        let output = run(&sh(&format!("setsid sleep 600 & {left}; echo $!")), LONG).await.unwrap();
        assert!(!output.timed_out);
        let daemon = Proc::read(output.stdout.trim().parse().unwrap()).unwrap();
        daemon.signal(Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn one_that_nobody_waits_for_any_more_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let spec = sh(&format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 600", file.display()));
        let running =
            tokio::spawn(async move { run(&spec, LONG).await.map(|output| output.timed_out) });
        eventually("it runs", || file.exists()).await;
        let group: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        running.abort();
        eventually("the group is gone", || !proc::group_is_alive(group).unwrap()).await;
    }

    #[tokio::test]
    async fn of_long_output_the_end_is_kept() {
        let spec =
            sh("i=0; while [ $i -lt 40000 ]; do echo line $i; i=$((i+1)); done; echo the end");
        let output = run(&spec, LONG).await.unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout.len(), STREAM_BYTES_MAX);
        assert!(output.stdout.ends_with("line 39999\nthe end\n"));
    }

    #[tokio::test]
    async fn nothing_of_the_agents_environment_is_seen() {
        assert!(std::env::vars_os().count() > 2, "the test would prove nothing");
        let mut spec = Spec::new(["/usr/bin/env"]);
        spec.environment.insert("GIVEN".into(), "yes".into());
        let output = run(&spec, LONG).await.unwrap();
        assert_eq!(output.stdout, format!("GIVEN=yes\nPATH={PATH}\n"));
    }

    #[tokio::test]
    async fn it_runs_where_and_as_whom_it_was_told() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        let spec = Spec { directory: real.clone(), ..sh("pwd") };
        let output = run(&spec, LONG).await.unwrap();
        assert_eq!(output.stdout.trim(), real.display().to_string());
        if rustix::process::geteuid().is_root() {
            let spec = sh("id -u; id -ru; id -g; id -G").as_user(Some("nobody".into()));
            let nobody = user::look_up("nobody").unwrap().unwrap();
            let wanted = format!("{0}\n{0}\n{1}\n{1}\n", nobody.uid, nobody.gid);
            assert_eq!(run(&spec, LONG).await.unwrap().stdout, wanted);
        }
    }

    #[tokio::test]
    async fn it_has_the_groups_of_its_user_and_a_umask_of_its_own() {
        let before = (rustix::process::getgroups().unwrap(), rustix::process::getuid());
        let spec = sh("umask");
        assert_eq!(run(&spec, LONG).await.unwrap().stdout.trim(), "0022");
        if !geteuid().is_root() {
            return;
        }
        let own = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
        let (mut command, groups) = (std::process::Command::new("/bin/sh"), [65534, 4, 6]);
        command
            .args(["-c", "id -G; grep -E '^(Uid|Gid|CapEff|CapPrm):' /proc/$$/status"])
            .env_clear()
            .envs(own)
            .uid(65534)
            .gid(65534);
        let first = Gid::from_raw(65534);
        let all = groups.map(Gid::from_raw).to_vec();
        let mut prepared = Prepared::new(command, Some(Groups { first, all }));
        prepared.output(Stdio::piped(), Stdio::null());
        let output = prepared.spawn().unwrap().wait_with_output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines = text.lines();
        let groups = lines.next().unwrap_or_default().split_whitespace();
        let found: std::collections::BTreeSet<&str> = groups.collect();
        assert_eq!(found, ["65534", "4", "6"].into());
        for line in lines {
            let (name, values) = line.split_once(':').unwrap();
            let wanted = if name.starts_with("Cap") { "0000000000000000" } else { "65534" };
            assert!(values.split_whitespace().all(|value| value == wanted), "{text}");
        }
        assert_eq!(text.lines().count(), 5, "{text}");
        // The agent itself, and this thread of it, are as they were.
        assert_eq!((rustix::process::getgroups().unwrap(), rustix::process::getuid()), before);
    }

    #[tokio::test]
    async fn p09_root_runs_no_file_of_another_user() {
        if !geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().canonicalize().unwrap().join("run.sh");
        std::fs::write(&script, "#!/bin/sh\ntrue\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).unwrap();
        let spec = Spec::new([script.display().to_string()]);
        run(&spec, LONG).await.unwrap().success(&spec).unwrap();
        std::os::unix::fs::chown(&script, Some(1000), None).unwrap();
        for user in [None, Some("root".to_owned())] {
            let words = run(&spec.clone().as_user(user), LONG).await.unwrap_err().words();
            assert!(words.contains("belongs to user 1000") && words.contains("mend:"), "{words}");
        }
    }

    #[tokio::test]
    async fn what_a_start_leaves_lives_on_unless_it_overran() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = || File::options().create(true).append(true).open(&path).unwrap();
        let pid = |text: String| text.lines().next_back().unwrap().parse::<i32>().unwrap();
        let spec = sh("sleep 600 & echo $!");
        let output = run_and_leave(&spec, LONG, log()).await.unwrap();
        output.success(&spec).unwrap();
        let left = Proc::read(pid(std::fs::read_to_string(&path).unwrap())).unwrap();
        assert!(left.alive);
        left.signal(Signal::KILL).unwrap();

        let spec = sh("sleep 600 & echo $!; sleep 600");
        let output = run_and_leave(&spec, Duration::from_millis(200), log()).await.unwrap();
        assert!(output.timed_out);
        let left = pid(std::fs::read_to_string(&path).unwrap());
        eventually("all of it is gone", || Proc::read(left).is_none_or(|proc| !proc.alive)).await;
    }

    #[tokio::test]
    async fn what_cannot_run_says_why() {
        let words = async |spec: Spec| run(&spec, LONG).await.unwrap_err().words();
        assert!(words(Spec::new(Vec::<String>::new())).await.contains("empty"));
        assert!(words(Spec::new(["sleep"])).await.contains("absolute"));
        let missing = words(Spec::new(["/no/such/program"])).await;
        assert!(
            missing.contains("`/no/such/program`") && missing.contains("No such file"),
            "{missing}"
        );
        let nobody = words(sh("true").as_user(Some("no-such-user".into()))).await;
        assert!(nobody.contains("`no-such-user`"), "{nobody}");
        let nowhere = words(Spec { directory: "/no/such/place".into(), ..sh("true") }).await;
        assert!(nowhere.contains("/no/such/place"), "{nowhere}");
    }
}
