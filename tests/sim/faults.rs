//! What goes wrong in a run, and the broken shells that the oracles must catch.
//!
//! Invariant: everything is drawn from the seed before the run begins or from its one generator; nothing else varies.

use rand::{RngExt as _, rngs::StdRng};

/// How often things go wrong: each a chance in thousandths.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// A message is lost; its session breaks, and each side notices in its own time.
    pub(crate) loss: u32,
    /// A message comes twice.
    pub(crate) repeat: u32,
    /// A message is late and is overtaken.
    pub(crate) late: u32,
    /// At an append the process dies, before or after it is durable.
    pub(crate) crash_coordinator: u32,
    pub(crate) crash_agent: u32,
    /// An agent dies in the middle of a step.
    pub(crate) crash_in_step: u32,
    /// How many times somebody dies at any moment.
    pub(crate) deaths: u32,
    /// A crashed coordinator goes on in another place with what it had in flight.
    pub(crate) old_term: u32,
    /// A step, or its undo, fails without an effect, with half of it, or with all of it.
    pub(crate) step_fails: u32,
    /// A step takes until its deadline.
    pub(crate) step_hangs: u32,
    /// How many times a person asks for something.
    pub(crate) asks: u32,
    /// How many times root rolls a host back by itself.
    pub(crate) root: u32,
    /// How long all this goes on.
    pub(crate) until_ms: u64,
}

impl Faults {
    /// A run in which nothing goes wrong.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// Much of what shows whether two coordinators can be kept apart.
    pub(crate) fn two_terms(self) -> Self {
        Self { loss: 60, deaths: 40, old_term: 1_000, step_fails: 0, asks: 0, root: 0, ..self }
    }

    /// Steps do as they should and root stays away: then all that waits for somebody is reached.
    pub(crate) fn no_bad_step(self) -> Self {
        Self { step_fails: 0, step_hangs: 0, root: 0, ..self }
    }

    /// Some of everything; in each seed some of it much and some of it not at all.
    pub(crate) fn random(rng: &mut StdRng) -> Self {
        let mut some = |much: u32| match rng.random_range(0..4) {
            0 => 0,
            1 => much / 4,
            _ => much,
        };
        Self {
            loss: some(40),
            repeat: some(100),
            late: some(150),
            crash_coordinator: some(30),
            crash_agent: some(20),
            crash_in_step: some(40),
            deaths: some(12),
            old_term: some(600),
            step_fails: some(60),
            step_hangs: some(20),
            asks: some(8),
            root: some(3),
            until_ms: rng.random_range(20_000..120_000),
        }
    }
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Coordinator,
    Agent(usize),
}

/// One crash at one append.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrashAt {
    pub(crate) who: Who,
    /// Counted from 0.
    pub(crate) append: u64,
    /// Whether what was written survives.
    pub(crate) durable: bool,
}

/// A shell that is broken on purpose. The engine and the worker stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The agent tells how a track ended before that is durable.
    AgentTellsFirst,
    /// The coordinator sends its orders before they are durable.
    CoordinatorSendsFirst,
    /// After a crash the agent takes an open step for not done, without a look.
    SkipsTheLook,
    /// The agent takes orders of any term.
    IgnoresTheFence,
    /// The agent tells what it holds without recording the term of whom it tells.
    ForgetsTheWelcome,
    /// The coordinator takes a lost agent for one that is done.
    LostIsDone,
    /// The coordinator does not listen to what root did on a host.
    IgnoresRoot,
    /// A switch that was half done counts as done.
    HalfIsDone,
    /// The coordinator takes what the judge said before it was started again.
    TakesTheOldVerdict,
    /// The coordinator takes the judge's word on any stage for one on the stage that stands.
    HearsOfAnyStage,
    /// The coordinator orders the weight of the next gate.
    WeighsAhead,
}

impl Mutant {
    /// Whether it can only be seen where a release is tried on a few hosts first.
    pub(crate) fn is_of_a_canary(self) -> bool {
        match self {
            Self::TakesTheOldVerdict | Self::HearsOfAnyStage | Self::WeighsAhead => true,
            Self::AgentTellsFirst
            | Self::CoordinatorSendsFirst
            | Self::SkipsTheLook
            | Self::IgnoresTheFence
            | Self::ForgetsTheWelcome
            | Self::LostIsDone
            | Self::IgnoresRoot
            | Self::HalfIsDone => false,
        }
    }
}
