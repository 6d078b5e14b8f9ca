//! The outage of one host that is the store's and the ledger's doing, part by part: from the stop call's return to the
//! start call.
//!
//! ```text
//! stop returned ─ ledger: stop ended, switch began ─ hold ─ single files ─ kept paths and names ─ durable ─ recorded
//!               ─ hold lifted ─ ledger: switch ended, start began ─ start is called
//! ```
//!
//! No byte of the trees is read in it: what is staged was read back whole when it was built and has stood out of reach
//! since (its seal says so), and what is replaced is read after the start.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use agent::{
    ledger::{LedgerFile, Record, StepResult},
    order::{Before, TrackKey},
    store::{ComponentFiles, Hash, Steps, Store},
};

/// A store whose switches are measured, and a ledger beside it.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) store: Store,
    ledger: LedgerFile,
    marks: Arc<Mutex<Marks>>,
}

#[derive(Debug)]
struct Marks {
    last: Instant,
    parts: BTreeMap<&'static str, Duration>,
}

impl Marks {
    fn note(&mut self, part: &'static str) {
        let now = Instant::now();
        *self.parts.entry(part).or_default() += now - self.last;
        self.last = now;
    }
}

impl Measured {
    pub(crate) fn open(saved: &Path) -> anyhow::Result<Self> {
        let marks = Arc::new(Mutex::new(Marks { last: Instant::now(), parts: BTreeMap::new() }));
        let noted = marks.clone();
        let steps = Steps::new(move |step| {
            noted.lock().unwrap_or_else(PoisonError::into_inner).note(part(step));
            Ok(())
        });
        let store = Store::open_with(saved, steps)?;
        let (ledger, _) = LedgerFile::open(&saved.join("ledger"))?;
        Ok(Self { store, ledger, marks })
    }

    /// One switch; the whole outage, and its parts.
    pub(crate) fn switch(
        &mut self,
        files: &ComponentFiles,
        (from, to): (Hash, Hash),
    ) -> anyhow::Result<(Duration, BTreeMap<&'static str, Duration>)> {
        let begun = Instant::now();
        *self.marks() = Marks { last: begun, parts: BTreeMap::new() };
        self.ledger.append(&[ended(0), began(1)])?;
        self.marks().note("ledger");
        self.store.switch(files, from, to)?;
        self.marks().note("hold lifted");
        self.ledger.append(&[ended(1), began(2)])?;
        self.marks().note("ledger");
        Ok((begun.elapsed(), std::mem::take(&mut self.marks().parts)))
    }

    fn marks(&self) -> std::sync::MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of the outage that ends with a step of the store.
fn part(step: &str) -> &'static str {
    match step {
        "switch: held" => "hold set",
        "switch: replaced known" => "single files",
        "switch: durable" => "times, names durable",
        "switch: recorded" => "recorded",
        _ if step.starts_with("switch: kept") => "kept paths",
        _ if step.starts_with("switch: ") => "exchange",
        _ => "before the stop",
    }
}

fn key() -> TrackKey {
    TrackKey { operation: "rb-0193".to_owned(), stage: 1 }
}

fn began(index: usize) -> Record {
    Record::StepBegan { key: key(), index, before: Before::Running(vec!["backend".to_owned()]) }
}

fn ended(index: usize) -> Record {
    let (detail, duration_ms) = ("backend stopped; frontend stopped".to_owned(), 1200);
    let result = StepResult { ok: true, detail, duration_ms, evidence: None };
    Record::StepEnded { key: key(), index, result }
}
