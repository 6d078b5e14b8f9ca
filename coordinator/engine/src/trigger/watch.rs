//! How one trigger stands: what each reading makes of it.
//!
//! ```text
//!  off ──arm──▶ well ◀──good reading── breached ──`for` has passed──▶ fired ──good reading──▶ well
//!                 └────bad reading───────▶┘      (says so once)
//!  held: while an operation of our own runs; afterwards the clock begins anew
//!  blind: no data, and no breach before it
//! ```
//!
//! Invariant: it fires on a bad reading only, and once per breach: not again before a good one, or before it is armed anew.
//! Invariant: missing data neither begins nor ends a breach.

use serde::{Deserialize, Serialize};

use super::{Breach, Metric, Trigger, TriggerSource, breach::Bound};
use crate::{
    judge::{ago, count, percent},
    time::Timestamp,
};

/// More than this between two readings is not counted: nobody looked, or the clock jumped.
const LOOK_AT_MOST_MS: u64 = 60_000;

/// What a source said at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    pub at: Timestamp,
    /// In the unit of its metric; of a check, on how many hosts it fails; of an alert, 1 while it is posted, else 0.
    pub value: Option<f64>,
    /// How many requests it was measured on. It counts for probes only.
    pub requests: u64,
    /// Why there is no value.
    pub why_none: Option<String>,
}

impl Reading {
    /// The value, or why there is none.
    pub fn known(&self) -> Result<f64, String> {
        match self.value {
            Some(value) if value.is_finite() => Ok(value),
            Some(_) => Err("the source answers with no number".to_owned()),
            None => Err(self.why_none.clone().unwrap_or_else(|| "nothing was measured".to_owned())),
        }
    }
}

/// How a trigger stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TriggerStands {
    /// Not armed: nothing was deployed that it could take back, or that is too long ago.
    Off,
    Well,
    /// Nothing is known: no data, or too few requests.
    Blind,
    /// Quiet while an operation of our own is the cause of gaps.
    Held,
    Breached,
    /// It has spoken, and does not again before all is well.
    Fired,
}

/// That a breach has lasted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fired {
    pub at: Timestamp,
    /// The first bad reading.
    pub since: Timestamp,
    /// The newest.
    pub value: f64,
    pub bound: f64,
    /// What the control group has; `None` where that is not known or there is none.
    pub control: Option<f64>,
    /// Whether that passes the bound too: then it is not the release.
    pub control_as_bad: Option<bool>,
    /// What was measured, in one sentence.
    pub sentence: String,
}

impl Fired {
    /// The same, with what the hosts without the release have at the same time; by the same bound, and on as many
    /// requests as are enough to judge.
    pub fn against(self, trigger: &Trigger, control: Option<&Reading>) -> Self {
        let counts = trigger.source == TriggerSource::Probes;
        let control = control.filter(|read| !counts || read.requests >= trigger.min_requests);
        let control = control.and_then(|read| read.known().ok());
        let control_as_bad = control.map(|value| trigger.breach.passes(value, self.bound));
        Self { control, control_as_bad, ..self }
    }
}

/// One trigger and how it stands.
#[derive(Clone, Debug)]
pub struct Watch {
    trigger: Trigger,
    stands: TriggerStands,
    since: Timestamp,
    armed: Option<Armed>,
    breach: Option<Bad>,
    fired: bool,
    detail: String,
    /// The newest reading.
    newest: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
struct Armed {
    /// `None`: until it is disarmed.
    until: Option<Timestamp>,
}

/// A breach that lasts.
#[derive(Clone, Copy, Debug)]
struct Bad {
    since: Timestamp,
    lasted_ms: u64,
    /// For how long of it nothing was measured, and whether nothing is now.
    blind_ms: u64,
    blind: bool,
}

/// What a reading comes to.
enum Seen {
    Missing(String),
    Good { value: f64, bound: f64 },
    Bad { value: f64, bound: f64 },
}

impl Watch {
    /// A trigger that is not armed.
    pub fn new(trigger: Trigger, now: Timestamp) -> Self {
        Self {
            trigger,
            stands: TriggerStands::Off,
            since: now,
            armed: None,
            breach: None,
            fired: false,
            detail: "nothing was deployed that it could take back".to_owned(),
            newest: None,
        }
    }

    pub fn trigger(&self) -> &Trigger {
        &self.trigger
    }

    /// How it stands, since when, and what was measured last.
    pub fn stands(&self) -> (TriggerStands, Timestamp, &str) {
        (self.stands, self.since, &self.detail)
    }

    /// Until when it is armed; `None` where it is not, or has no end.
    pub fn armed_until(&self) -> Option<Timestamp> {
        self.armed.and_then(|armed| armed.until)
    }

    /// Something was deployed: from now on it is watched, and what was before is forgotten.
    pub fn arm(&mut self, now: Timestamp, until: Option<Timestamp>) {
        self.armed = Some(Armed { until });
        self.forget();
        self.fired = false;
        self.enter(TriggerStands::Blind, now, "nothing was measured yet".to_owned());
    }

    /// There is nothing to take back any more.
    pub fn disarm(&mut self, now: Timestamp, why: &str) {
        self.armed = None;
        self.forget();
        self.fired = false;
        self.enter(TriggerStands::Off, now, why.to_owned());
    }

    /// Takes what the sources say of the fleet and of the control group, where there is one. `held` says which
    /// operation of our own runs or has just ended.
    pub fn take(
        &mut self,
        fleet: &Reading,
        control: Option<&Reading>,
        held: Option<&str>,
    ) -> Option<Fired> {
        let at = fleet.at;
        let passed = self.newest.replace(at).map_or(0, |newest| later(at, newest));
        let armed = self.armed?;
        if armed.until.is_some_and(|until| at >= until) {
            self.disarm(at, "the time for which it was armed is over");
            return None;
        }
        if let Some(held) = held {
            self.forget();
            self.enter(TriggerStands::Held, at, held.to_owned());
            return None;
        }
        if let Some(bad) = &mut self.breach {
            let passed = passed.min(LOOK_AT_MOST_MS);
            bad.lasted_ms = bad.lasted_ms.saturating_add(passed);
            if bad.blind {
                bad.blind_ms = bad.blind_ms.saturating_add(passed);
            }
        }
        match self.seen(fleet, control) {
            Seen::Missing(why) => self.missing(at, &why),
            Seen::Good { value, bound } => {
                self.forget();
                self.fired = false;
                let detail = self.measured(value, bound, fleet.requests);
                self.enter(TriggerStands::Well, at, detail);
            }
            Seen::Bad { value, bound } => return self.bad(fleet, control, value, bound),
        }
        None
    }

    fn seen(&self, fleet: &Reading, control: Option<&Reading>) -> Seen {
        let least = self.trigger.min_requests;
        let counts = self.trigger.source == TriggerSource::Probes;
        let value = match fleet.known() {
            Err(why) => return Seen::Missing(why),
            Ok(_) if counts && fleet.requests < least => {
                let (requests, least) = (count(fleet.requests), count(least));
                return Seen::Missing(format!("{requests} requests; {least} are enough to judge"));
            }
            Ok(value) => value,
        };
        let baseline = control.map_or_else(|| Err("there is none".to_owned()), Reading::known);
        match (self.trigger.breach.bound(baseline.as_ref().ok().copied()), baseline) {
            (None, Ok(_)) => Seen::Missing("there is no bound".to_owned()),
            (None, Err(why)) => Seen::Missing(format!("the baseline: {why}")),
            (Some(bound), _) if self.trigger.breach.passes(value, bound) => {
                Seen::Bad { value, bound }
            }
            (Some(bound), _) => Seen::Good { value, bound },
        }
    }

    /// A breach before it goes on, as far as is known.
    fn missing(&mut self, at: Timestamp, why: &str) {
        match &mut self.breach {
            Some(bad) => {
                bad.blind = true;
                let stands = self.stands_breached();
                self.enter(stands, at, format!("no data ({why}); breached before it"));
            }
            None => {
                let stands = if self.fired { TriggerStands::Fired } else { TriggerStands::Blind };
                self.enter(stands, at, format!("no data: {why}"));
            }
        }
    }

    fn bad(
        &mut self,
        fleet: &Reading,
        control: Option<&Reading>,
        value: f64,
        bound: f64,
    ) -> Option<Fired> {
        let at = fleet.at;
        let begun = Bad { since: at, lasted_ms: 0, blind_ms: 0, blind: false };
        let bad = self.breach.get_or_insert(begun);
        bad.blind = false;
        let bad = *bad;
        let lasted = bad.lasted_ms;
        let fires = !self.fired && lasted >= self.trigger.for_ms;
        self.fired |= fires;
        let blind = match bad.blind_ms {
            0 => String::new(),
            ms => format!(", without data for {} of it", ago(ms)),
        };
        let measured = self.measured(value, bound, fleet.requests);
        let sentence = format!("{measured}, for {}{blind}", ago(lasted));
        let stands = self.stands_breached();
        self.enter(stands, at, sentence.clone());
        fires.then(|| {
            let (since, none) = (bad.since, None);
            let fired =
                Fired { at, since, value, bound, control: none, control_as_bad: None, sentence };
            // What it was like before is no word on the hosts without the release.
            let control = control.filter(|_| !self.trigger.breach.is_of_baseline());
            fired.against(&self.trigger, control)
        })
    }

    fn stands_breached(&self) -> TriggerStands {
        if self.fired { TriggerStands::Fired } else { TriggerStands::Breached }
    }

    fn forget(&mut self) {
        self.breach = None;
    }

    fn enter(&mut self, stands: TriggerStands, at: Timestamp, detail: String) {
        if self.stands != stands {
            self.stands = stands;
            self.since = at;
        }
        self.detail = detail;
    }

    /// `error_rate 23 % of 1,204 requests (bound 10 %)`.
    fn measured(&self, value: f64, bound: f64, requests: u64) -> String {
        let (metric, times) = match &self.trigger.breach {
            Breach::Fails => {
                return match (&self.trigger.source, value > bound) {
                    (TriggerSource::Alert(alert), true) => format!("alert {alert} is posted"),
                    (TriggerSource::Alert(alert), false) => format!("alert {alert} is not posted"),
                    (TriggerSource::Check(check), true) => {
                        format!("check {check} fails on {value} hosts")
                    }
                    (TriggerSource::Check(check), false) => format!("check {check} passes"),
                    (TriggerSource::Probes | TriggerSource::Prometheus { .. }, true) => {
                        format!("{value} fail")
                    }
                    (TriggerSource::Probes | TriggerSource::Prometheus { .. }, false) => {
                        "none fails".to_owned()
                    }
                };
            }
            Breach::Measured { metric, bound: Bound::Number(_), .. } => (*metric, None),
            Breach::Measured { metric, bound: Bound::TimesBaseline(times), .. } => {
                (*metric, Some(times))
            }
        };
        let of = match metric {
            Metric::ErrorRate => format!(" of {} requests", count(requests)),
            Metric::Available | Metric::P50 | Metric::P95 | Metric::P99 | Metric::Value => {
                String::new()
            }
        };
        let times = times.map_or_else(String::new, |times| format!(", {times} times the baseline"));
        let (value, bound) = (shown(metric, value), shown(metric, bound));
        format!("{metric} {value}{of} (bound {bound}{times})")
    }
}

/// A number in the unit of its metric.
fn shown(metric: Metric, value: f64) -> String {
    match metric {
        Metric::ErrorRate => percent(value),
        Metric::Available => format!("{value} hosts"),
        Metric::P50 | Metric::P95 | Metric::P99 => format!("{value:.0} ms"),
        Metric::Value => format!("{}", (value * 1e4).round() / 1e4),
    }
}

/// Milliseconds from one to the other; 0 if it is not later.
fn later(time: Timestamp, than: Timestamp) -> u64 {
    u64::try_from(time.0.saturating_sub(than.0)).unwrap_or(0)
}
