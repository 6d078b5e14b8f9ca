//! A release on a few hosts first: how one is drawn, what the judge says of it, and what a person does.
//!
//! ```text
//! JudgeLooks, while it stands at a weight ─▶ JudgeSays: late, twice, on a stage that is over ─▶ Input::Judged
//!     └─▶ a person who reads its status ─▶ promote                                               │
//! PersonAsks, at any moment ─▶ promote, pause, resume, abort ──────────────────────────────────────┴─▶ gates
//! ```
//!
//! Invariant: the judge's words die with the coordinator's process, as they do in the real one.

use engine::{
    Abort, Ask, Canary, CanaryStep, GroupName, Input, MetricSource, Timestamp, Waits,
    judge::{Analysis, Ruling, Verdict},
};
use rand::{RngExt as _, rngs::StdRng};

use crate::{
    faults::Mutant,
    gates::Gates,
    world::{Due, World},
};

/// How long it is between two looks of the judge.
const LOOKS_MS: std::ops::Range<u64> = 500..3_000;

/// A canary's part of a run.
#[derive(Debug)]
pub(crate) struct Tried {
    mood: Mood,
    /// Whether a person lets on what waits for one.
    pub(crate) keen: bool,
    pub(crate) gates: Gates,
}

/// What the judge thinks of the release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// He passes it, once he has seen enough.
    Passes,
    Fails,
    /// He can never say.
    Holds,
    /// Now this, now that.
    Changes,
}

/// How a release is tried, drawn.
pub(crate) fn config(rng: &mut StdRng) -> Canary {
    let mut steps = Vec::new();
    for weight in [5, 20, 50] {
        if steps.is_empty() || rng.random_bool(0.6) {
            let hold_ms = [0, 2_000, 10_000, 30_000][rng.random_range(0..4)];
            let asks = rng.random_bool(0.1);
            steps.push(CanaryStep { weight, hold_ms, asks });
        }
    }
    if rng.random_bool(0.8) {
        steps.push(CanaryStep { weight: 100, hold_ms: 0, asks: false });
    }
    Canary {
        group: GroupName::new("canary").expect("a fixed name is valid"),
        steps,
        analysis: Analysis::default(),
        source: MetricSource::Probes,
        armed_for_ms: 1_000,
        wait_at_most_ms: if rng.random_bool(0.5) { 20_000 } else { 120_000 },
    }
}

impl Tried {
    pub(crate) fn new(rng: &mut StdRng, gates: Gates) -> Self {
        let mood = match rng.random_range(0..20) {
            0..9 => Mood::Passes,
            9..12 => Mood::Fails,
            12..14 => Mood::Holds,
            _ => Mood::Changes,
        };
        Self { mood, keen: rng.random_bool(0.7), gates }
    }

    /// Whether it goes on, where nothing goes wrong; none where that is open.
    pub(crate) fn is_let_on(&self) -> Option<bool> {
        match self.mood {
            Mood::Passes if self.keen || !self.gates.asks() => Some(true),
            Mood::Passes => Some(false),
            // What a person lets on before the judge looked is let on.
            Mood::Fails | Mood::Holds => (!self.keen || !self.gates.asks()).then_some(false),
            Mood::Changes => None,
        }
    }

    /// What he says now.
    fn word(&self, rng: &mut StdRng) -> Verdict {
        match (self.mood, rng.random_range(0..20)) {
            (Mood::Passes, 0..15) | (Mood::Changes, 0..9) => Verdict::Pass,
            (Mood::Fails, 0..10) | (Mood::Changes, 9) => Verdict::Fail,
            (Mood::Passes | Mood::Fails | Mood::Holds | Mood::Changes, _) => Verdict::Hold,
        }
    }
}

impl World {
    /// The judge looks for as long as this process of the coordinator lives.
    pub(crate) fn judge_begins(&mut self) {
        if self.canary.is_some() {
            let (life, first) = (self.coordinator.life, self.rng.random_range(LOOKS_MS));
            self.later(first, Due::JudgeLooks { life });
        }
    }

    /// What the judge said before this process began is of samples that nobody has any more.
    pub(crate) fn judge_begins_anew(&mut self) {
        if self.canary.is_none() {
            return;
        }
        let gate = self.coordinator.operation.gate_in_force();
        if self.mutant != Some(Mutant::TakesTheOldVerdict)
            && let Some(stage) = gate
        {
            let ruling = self.ruling(Verdict::Hold);
            self.tell_coordinator(Input::Judged { stage, ruling });
        }
        self.judge_begins();
    }

    /// One look, where it stands at a weight.
    pub(crate) fn judge_looks(&mut self, life: u64) {
        if !self.coordinator.up || self.coordinator.life != life {
            return;
        }
        let again = self.rng.random_range(LOOKS_MS);
        self.later(again, Due::JudgeLooks { life });
        let Some(stage) = self.coordinator.operation.gate_in_force() else { return };
        let Some(tried) = &self.canary else { return };
        let (verdict, keen) = (tried.word(&mut self.rng), tried.keen);
        let stages = self.coordinator.operation.plan().stages.len();
        let wrong = self.chance(self.faults.repeat);
        let about = if wrong { self.rng.random_range(0..stages) } else { stage };
        let copies = if self.chance(self.faults.repeat) { 2 } else { 1 };
        for _ in 0..copies {
            let late = self.chance(self.faults.late);
            let delay = self.rng.random_range(if late { 40..4_000 } else { 1..40 });
            self.later(delay, Due::JudgeSays { life, stage: about, verdict });
        }
        let now = self.coordinator.elapsed(self.now);
        let waits = self.coordinator.operation.canary(now).map(|canary| canary.waits);
        if keen && waits == Some(Waits::Person) && self.rng.random_bool(0.3) {
            self.asks(Ask::Promote { to_stage: stage + 1 });
        }
    }

    /// The judge's word comes to the coordinator.
    pub(crate) fn judge_says(&mut self, life: u64, stage: usize, verdict: Verdict) {
        if !self.coordinator.up || self.coordinator.life != life {
            return;
        }
        let at = self.coordinator.elapsed(self.now);
        if let Some(tried) = &mut self.canary {
            tried.gates.heard(stage, verdict, at);
        }
        self.note(|| format!("the judge says {verdict:?} of stage {stage}"));
        let here = self.coordinator.operation.gate_in_force();
        let any = self.mutant == Some(Mutant::HearsOfAnyStage);
        let stage = here.filter(|_| any).unwrap_or(stage);
        let ruling = self.ruling(verdict);
        self.tell_coordinator(Input::Judged { stage, ruling });
    }

    fn ruling(&self, verdict: Verdict) -> Ruling {
        let at = Timestamp(i64::try_from(self.now).expect("a short run"));
        Ruling { verdict, sentence: String::new(), numbers: Vec::new(), at }
    }

    /// What a person asks of a canary at any moment; mostly that it goes on, and not always from where it stands.
    pub(crate) fn ask_of_a_canary(&mut self) -> Ask {
        let stages = self.coordinator.operation.plan().stages.len();
        match self.rng.random_range(0..20) {
            0..3 => Ask::Pause,
            3..9 => Ask::Resume,
            9 => Ask::Abort(Abort::Restore),
            10 => Ask::Abort(Abort::Leave),
            _ => Ask::Promote { to_stage: self.rng.random_range(0..=stages) },
        }
    }

    /// A person asks.
    pub(crate) fn asks(&mut self, ask: Ask) {
        if let (Some(tried), Ask::Promote { to_stage }) = (&mut self.canary, &ask) {
            tried.gates.promote_was_asked(*to_stage);
        }
        self.tell_coordinator(Input::Asked { ask, by: "ada".to_owned() });
    }
}
