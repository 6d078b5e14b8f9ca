//! Judges a component over time: do its checks come to pass, and do they hold?
//!
//! ```text
//! a task per check --Tried, every `every`--> ready: each passed `pass` times in a row, within `ready_within`
//!                                              --> stable: no try fails, the same processes, for `stable_for`
//!                                                    --> one last try of each --> Verified
//! ```
//!
//! Invariant: one failing try in the stability window is a failure; there is no majority.
//! Invariant: what is called verified was looked at when the window ended, not only before.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use proto::policy::CheckPolicy;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{Prober, Times, Tried, Wanted};

/// The shortest `every`: less would be a load test.
const EVERY_MIN: Duration = Duration::from_millis(10);
/// How often the processes are looked at in the stability window. A restart between two looks shows all the same.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What has been running all along has no more time to answer than this.
const AT_ONCE_WITHIN: Duration = Duration::from_secs(5);
/// Tries that may wait to be judged: the judge only ever waits for a look.
const TRIES_MAX: usize = 64;

/// How long the two parts of a verification may and must take.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// How long the checks may take to pass.
    pub ready_within: Duration,
    /// How long they must then hold.
    pub stable_for: Duration,
}

/// What a verification asks. At once: every check once, without the window, for what has been running all along.
pub fn asked(
    checks: &[CheckPolicy],
    windows: Windows,
    at_once: bool,
) -> (Cow<'_, [CheckPolicy]>, Windows) {
    if !at_once {
        return (Cow::Borrowed(checks), windows);
    }
    let once = |check: &CheckPolicy| CheckPolicy { pass: 1, ..check.clone() };
    let ready_within = windows.ready_within.min(AT_ONCE_WITHIN);
    (checks.iter().map(once).collect(), Windows { ready_within, stable_for: Duration::ZERO })
}

/// The evidence that a component is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What the first check that asks for a version was told. `None` where none asks.
    pub version: Option<String>,
    /// How long it was watched after it was ready.
    pub stable_for: Duration,
    /// By the check's name: how long its last try's requests took.
    pub times: BTreeMap<String, Times>,
    /// What a person may want to know all the same.
    pub notes: Vec<String>,
}

/// A component that is not shown to be good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotVerified {
    pub reason: String,
    /// What each check showed last, in the policy's order.
    pub last: Vec<LastTry>,
}

/// What a check showed last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastTry {
    pub check: String,
    /// `None` where no try has ended.
    pub tried: Option<Tried>,
}

impl Prober {
    /// Tries all `checks` until they are good and have held, or are shown not to.
    ///
    /// `still` says whether the same processes run as before: it is asked in the stability window only, at its beginning,
    /// in between and at its end; its error is in the host's own words.
    ///
    /// # Errors
    /// Not ready in time, or not stable, with the check and its words.
    pub async fn verify<S, F>(
        &self,
        checks: &[CheckPolicy],
        wanted: &Wanted,
        windows: Windows,
        still: S,
    ) -> Result<Verified, NotVerified>
    where
        S: Fn() -> F,
        F: Future<Output = Result<(), String>>,
    {
        let mut watched = Watched::begin(self, checks, wanted);
        let judged = watched.judge(windows, &still).await;
        // Ended and not only told to end: a command of a check must not outlive this.
        watched.tasks.shutdown().await;
        judged.map_err(|reason| NotVerified { reason, last: watched.last() })
    }
}

/// The checks under way, and what they showed so far.
struct Watched<'a> {
    prober: &'a Prober,
    wanted: &'a Wanted,
    checks: Vec<Checked<'a>>,
    tries: mpsc::Receiver<(usize, Tried)>,
    tasks: JoinSet<()>,
}

struct Checked<'a> {
    policy: &'a CheckPolicy,
    passed_in_a_row: u32,
    failed: u32,
    last: Option<Tried>,
}

impl<'a> Watched<'a> {
    fn begin(prober: &'a Prober, checks: &'a [CheckPolicy], wanted: &'a Wanted) -> Self {
        let (sender, tries) = mpsc::channel(TRIES_MAX);
        let mut tasks = JoinSet::new();
        for (index, check) in checks.iter().enumerate() {
            let (prober, check, sender) = (prober.clone(), check.clone(), sender.clone());
            let wanted = wanted.clone();
            tasks.spawn(async move {
                loop {
                    let next = Instant::now() + check.every.0.max(EVERY_MIN);
                    let tried = prober.try_once(&check, &wanted).await;
                    if sender.send((index, tried)).await.is_err() {
                        return;
                    }
                    sleep_until(next).await;
                }
            });
        }
        let checked = |policy| Checked { policy, passed_in_a_row: 0, failed: 0, last: None };
        Self { prober, wanted, checks: checks.iter().map(checked).collect(), tries, tasks }
    }

    async fn judge<S, F>(&mut self, windows: Windows, still: &S) -> Result<Verified, String>
    where
        S: Fn() -> F,
        F: Future<Output = Result<(), String>>,
    {
        self.become_ready(windows.ready_within).await?;
        let ready = Instant::now();
        let notes = self.notes();
        let unstable = |why: String| {
            let after = ready.elapsed();
            format!("not stable: after {after:.1?} of {:?}: {why}", windows.stable_for)
        };
        self.stay(ready + windows.stable_for, still).await.map_err(unstable)?;
        self.try_last().await.map_err(unstable)?;
        still().await.map_err(unstable)?;
        let tried = self.checks.iter().filter_map(|check| check.last.as_ref());
        let version = tried.filter_map(|tried| tried.version.clone()).next();
        let times = self.checks.iter().filter_map(|check| {
            let times = check.last.as_ref().and_then(|tried| tried.times)?;
            Some((check.policy.name.clone(), times))
        });
        let times = times.collect();
        Ok(Verified { version, stable_for: ready.elapsed(), times, notes })
    }

    /// Until every check has passed often enough in a row.
    async fn become_ready(&mut self, within: Duration) -> Result<(), String> {
        let deadline = Instant::now() + within;
        while !self.checks.iter().all(Checked::is_ready) {
            tokio::select! { biased;
                Some((index, tried)) = self.tries.recv() => self.note(index, tried),
                () = sleep_until(deadline) => return Err(self.not_ready(within)),
            }
        }
        Ok(())
    }

    /// Until `until`, as long as nothing fails.
    async fn stay<S, F>(&mut self, until: Instant, still: &S) -> Result<(), String>
    where
        S: Fn() -> F,
        F: Future<Output = Result<(), String>>,
    {
        still().await?;
        let mut look = Instant::now() + LOOK_EVERY;
        loop {
            tokio::select! { biased;
                Some((index, tried)) = self.tries.recv() => {
                    self.note(index, tried);
                    self.must_have_passed(index)?;
                }
                () = sleep_until(until) => return Ok(()),
                () = sleep_until(look) => {
                    still().await?;
                    look = Instant::now() + LOOK_EVERY;
                }
            }
        }
    }

    /// One more of each, begun after the window's end.
    async fn try_last(&mut self) -> Result<(), String> {
        self.tasks.shutdown().await;
        while let Ok((index, tried)) = self.tries.try_recv() {
            self.note(index, tried);
            self.must_have_passed(index)?;
        }
        let mut last = JoinSet::new();
        for (index, check) in self.checks.iter().enumerate() {
            let (prober, check) = (self.prober.clone(), check.policy.clone());
            let wanted = self.wanted.clone();
            last.spawn(async move { (index, prober.try_once(&check, &wanted).await) });
        }
        while let Some(ended) = last.join_next().await {
            let (index, tried) =
                ended.map_err(|error| format!("a check could not be tried: {error}"))?;
            self.note(index, tried);
            self.must_have_passed(index)?;
        }
        Ok(())
    }

    fn note(&mut self, index: usize, tried: Tried) {
        let check = &mut self.checks[index];
        tracing::debug!(check = check.policy.name, ok = tried.ok, detail = tried.detail, "tried");
        check.passed_in_a_row = if tried.ok { check.passed_in_a_row.saturating_add(1) } else { 0 };
        check.failed += u32::from(!tried.ok);
        check.last = Some(tried);
    }

    fn must_have_passed(&self, index: usize) -> Result<(), String> {
        let check = &self.checks[index];
        match &check.last {
            Some(tried) if !tried.ok => {
                Err(format!("check `{}`: {}", check.policy.name, tried.detail))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn not_ready(&self, within: Duration) -> String {
        let behind = self.checks.iter().filter(|check| !check.is_ready());
        let whys: Vec<_> = behind
            .map(|check| {
                let name = &check.policy.name;
                match &check.last {
                    None => format!("check `{name}`: no try has ended"),
                    Some(tried) if tried.ok => {
                        let (passed, pass) = (check.passed_in_a_row, check.policy.pass);
                        format!("check `{name}`: passed {passed} of {pass} times in a row")
                    }
                    Some(tried) => format!("check `{name}`: {}", tried.detail),
                }
            })
            .collect();
        format!("not ready within {within:?}: {}", whys.join("; "))
    }

    fn notes(&self) -> Vec<String> {
        let failed = self.checks.iter().filter(|check| check.failed > 0);
        failed
            .map(|check| {
                format!(
                    "check `{}` failed {} times before it was ready",
                    check.policy.name, check.failed
                )
            })
            .collect()
    }

    fn last(&self) -> Vec<LastTry> {
        let last = |check: &Checked<'_>| LastTry {
            check: check.policy.name.clone(),
            tried: check.last.clone(),
        };
        self.checks.iter().map(last).collect()
    }
}

impl Checked<'_> {
    fn is_ready(&self) -> bool {
        self.passed_in_a_row >= self.policy.pass
    }
}
