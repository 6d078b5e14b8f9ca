//! What this host was ordered, what it began and how it ended: the state, from its records.
//!
//! ```text
//! records on disk (file) ─ replay ─▶ Ledger ◀─ apply ─ records, once durable
//! ```
//!
//! Invariant: [`Ledger::apply`] is the only mutator, for live work and after a crash alike.
//! Invariant: at most one track is open at a time.

mod file;
mod trial;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use file::{LedgerError, LedgerFile};
pub use trial::{Moment, Over, Switched, Trial};

use crate::order::{Before, Ending, Evidence, Fence, Goal, Order, Step, TrackKey};

/// A fact of the ledger. The persisted form: variants and fields are added, never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A higher fence was seen; nothing below it is begun from here on.
    Fenced(Fence),
    Accepted(Box<Order>),
    /// What undoes the step is written down before the step begins.
    StepBegan {
        key: TrackKey,
        index: usize,
        before: Before,
    },
    /// After a crash: how far the open step was found to be.
    Observed {
        key: TrackKey,
        index: usize,
        found: Found,
    },
    StepEnded {
        key: TrackKey,
        index: usize,
        result: StepResult,
    },
    /// From here on the track is taken back.
    TurnedBack {
        key: TrackKey,
        why: String,
    },
    UndoBegan {
        key: TrackKey,
        index: usize,
    },
    UndoEnded {
        key: TrackKey,
        index: usize,
        result: StepResult,
    },
    Ended {
        key: TrackKey,
        ending: Ending,
    },
    /// Ended long ago; no longer needed for answers.
    Dropped {
        key: TrackKey,
    },
    /// What this track put live is on trial: as it stands now, or how that ended.
    Trial {
        key: TrackKey,
        trial: Trial,
    },
}

/// How far a step was found to be, by looking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    NotDone,
    Partial,
    Done,
    /// Cannot be told, and why.
    Unknown(String),
}

/// How a step, or its undo, went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepResult {
    pub ok: bool,
    /// The host's own words.
    pub detail: String,
    pub duration_ms: u64,
    pub evidence: Option<Evidence>,
}

/// The state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub(crate) fence: Option<Fence>,
    pub(crate) tracks: BTreeMap<TrackKey, Track>,
    /// The open track.
    pub(crate) open: Option<TrackKey>,
    /// This process did not begin the open step: it must look before it acts.
    pub(crate) doubt: bool,
    /// What is on trial, by the track that put it live.
    pub(crate) trials: BTreeMap<TrackKey, Trial>,
    /// Grows with each acceptance; tells which tracks are oldest.
    accepted: u64,
}

/// A track as this host knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    pub(crate) order: Order,
    pub(crate) steps: Vec<StepState>,
    /// Why it is being taken back, once it is.
    pub(crate) back: Option<String>,
    pub(crate) ending: Option<Ending>,
    pub(crate) accepted: u64,
}

/// A step as this host knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepState {
    /// The way back that an earlier attempt left, where it was not taken.
    pub(crate) inherited: Option<Before>,
    /// Set once it was begun.
    pub(crate) before: Option<Before>,
    pub(crate) result: Option<StepResult>,
    /// How often it was looked at after a crash.
    pub(crate) looks: u32,
    pub(crate) undo_begun: u32,
    pub(crate) undo: Option<StepResult>,
}

impl Ledger {
    /// The state after a start of the process: an open step is in doubt.
    pub fn replay<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut ledger = Self::default();
        for record in records {
            ledger.apply(record);
        }
        ledger.doubt = ledger.open_step().is_some();
        ledger
    }

    /// The only mutator.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Fenced(fence) => self.fence = Some(fence.clone()),
            Record::Accepted(order) => self.accept(order),
            Record::StepBegan { key, index, before } => {
                self.doubt = false;
                self.with_step(key, *index, |step| {
                    step.before = Some(step.inherited.take().unwrap_or(before.clone()))
                });
            }
            Record::Observed { key, index, .. } => {
                self.doubt = false;
                self.with_step(key, *index, |step| step.looks += 1);
            }
            Record::StepEnded { key, index, result } => {
                self.doubt = false;
                self.with_step(key, *index, |step| step.result = Some(result.clone()));
            }
            Record::TurnedBack { key, why } => {
                if let Some(track) = self.tracks.get_mut(key) {
                    track.back = Some(why.clone());
                }
            }
            Record::UndoBegan { key, index } => {
                self.doubt = false;
                self.with_step(key, *index, |step| {
                    step.undo_begun += 1;
                    step.undo = None;
                });
            }
            Record::UndoEnded { key, index, result } => {
                self.doubt = false;
                self.with_step(key, *index, |step| step.undo = Some(result.clone()));
            }
            Record::Ended { key, ending } => {
                self.doubt = false;
                self.open = None;
                if let Some(track) = self.tracks.get_mut(key) {
                    track.ending = Some(ending.clone());
                }
                self.end_trials(key);
            }
            Record::Dropped { key } => {
                self.tracks.remove(key);
                self.trials.remove(key);
            }
            Record::Trial { key, trial } => self.try_out(key, trial),
        }
    }

    /// The highest fence that was durably recorded.
    pub fn fence(&self) -> Option<&Fence> {
        self.fence.as_ref()
    }

    /// All tracks that it still holds, oldest first.
    pub fn tracks(&self) -> Vec<&Track> {
        let mut tracks: Vec<&Track> = self.tracks.values().collect();
        tracks.sort_by_key(|track| track.accepted);
        tracks
    }

    /// The open track.
    pub fn open(&self) -> Option<&Track> {
        self.tracks.get(self.open.as_ref()?)
    }

    /// The newest track with which root took the host.
    pub(crate) fn newest_local(&self) -> Option<&Track> {
        let taken = self.tracks.values().filter(|track| track.order.overtakes());
        taken.max_by_key(|track| track.accepted)
    }

    /// The step that was begun, forward or back, and has not ended.
    pub(crate) fn open_step(&self) -> Option<usize> {
        let track = self.open()?;
        track.steps.iter().position(StepState::is_open)
    }

    fn accept(&mut self, order: &Order) {
        self.fence = Some(order.fence.clone());
        self.accepted += 1;
        let previous = self.tracks.remove(&order.key);
        let track = match (order.goal, previous) {
            // An undo takes over what the earlier attempts did.
            (Goal::Undo, Some(previous)) => Track {
                order: Order { steps: previous.order.steps, ..order.clone() },
                ending: None,
                ..previous
            },
            (Goal::Undo | Goal::Forward, previous) => Track {
                steps: fresh_steps(order, previous.as_ref()),
                order: order.clone(),
                back: None,
                ending: None,
                accepted: self.accepted,
            },
        };
        self.open = Some(order.key.clone());
        self.tracks.insert(order.key.clone(), track);
    }

    fn with_step(&mut self, key: &TrackKey, index: usize, change: impl FnOnce(&mut StepState)) {
        if let Some(step) = self.tracks.get_mut(key).and_then(|track| track.steps.get_mut(index)) {
            change(step);
        }
    }
}

/// A new attempt begins with nothing done; but what an earlier one left undone keeps its way back.
fn fresh_steps(order: &Order, previous: Option<&Track>) -> Vec<StepState> {
    let kept = |index: usize, step: &Step| {
        let previous = previous?;
        let old = previous.steps.get(index).filter(|old| old.changed())?;
        let same = previous
            .order
            .steps
            .get(index)
            .is_some_and(|o| o.verb == step.verb && o.component == step.component);
        if same { old.before().cloned() } else { None }
    };
    let steps = order.steps.iter().enumerate();
    steps
        .map(|(index, step)| StepState { inherited: kept(index, step), ..StepState::default() })
        .collect()
}

impl Track {
    /// The order as it was last accepted.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Whether it is about a component.
    pub fn touches(&self, component: &str) -> bool {
        self.order.steps.iter().any(|step| step.component == component)
    }

    /// How it ended, once it has.
    pub fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// What undoes a step, once it was begun.
    pub fn before(&self, index: usize) -> Option<&Before> {
        self.steps.get(index)?.before()
    }

    /// The steps that were begun, with their ends; those too that only an earlier attempt began and that stand.
    pub fn steps(&self) -> impl Iterator<Item = (usize, &StepState)> {
        self.steps.iter().enumerate().filter(|(_, step)| step.before().is_some())
    }

    /// What was measured, one row per component.
    pub fn evidence(&self) -> Vec<Evidence> {
        let mut rows: Vec<Evidence> = Vec::new();
        let found = self.steps.iter().filter_map(|step| step.result.as_ref()?.evidence.as_ref());
        for new in found {
            let Some(row) = rows.iter_mut().find(|row| row.component == new.component) else {
                rows.push(new.clone());
                continue;
            };
            row.snapshot = new.snapshot.clone().or(row.snapshot.take());
            row.version = new.version.clone().or(row.version.take());
            row.replaced = new.replaced.clone().or(row.replaced.take());
            row.replaced_content = new.replaced_content.clone().or(row.replaced_content.take());
            row.weights = new.weights.clone().or(row.weights.take());
            row.stable_ms = row.stable_ms.max(new.stable_ms);
            row.notes.extend(new.notes.iter().cloned());
        }
        rows
    }
}

impl StepState {
    /// How things were before it, once it was begun in this attempt or an earlier one: what undoes it.
    pub fn before(&self) -> Option<&Before> {
        self.before.as_ref().or(self.inherited.as_ref())
    }

    /// How it went, once it has.
    pub fn result(&self) -> Option<&StepResult> {
        self.result.as_ref()
    }

    /// How taking it back went, once it has.
    pub fn undo(&self) -> Option<&StepResult> {
        self.undo.as_ref()
    }

    /// Taking it back was begun and has not ended.
    pub fn is_being_undone(&self) -> bool {
        self.undo_begun > 0 && self.undo.is_none()
    }

    /// Begun in either direction and not ended in it.
    fn is_open(&self) -> bool {
        let forward = self.before.is_some() && self.result.is_none() && self.undo_begun == 0;
        let back = self.undo_begun > 0 && self.undo.is_none();
        forward || back
    }

    /// It may have changed something that was not taken back.
    pub(crate) fn changed(&self) -> bool {
        self.before().is_some() && self.undo.as_ref().is_none_or(|undo| !undo.ok)
    }
}
