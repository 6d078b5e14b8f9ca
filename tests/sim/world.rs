//! One run: a fleet of eight, a plan of the real planner, one clock, one queue of things to come.
//!
//! ```text
//! seed ─▶ fleet, faults ─▶ queue: (time, number) ─▶ one thing happens ─▶ every promise is checked ─▶ …
//!           chaos until `heal`, then everything comes back ─▶ quiet ─▶ every host has ended
//! ```
//!
//! Invariant: one generator, ordered maps, simulated time: equal seeds give equal runs.

use std::collections::{BTreeMap, BTreeSet};

use agent::order::{Fence, Order};
use engine::{
    Abort, Ask, Event, HostName, Input, Operation, OperationId, Outcome, Phase, RunResult,
    SeenTrack, StepReport, TrackEnding, judge::Verdict,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    agent::{Agent, Instant},
    canary::Tried,
    coordinator::{Coordinator, OldTerm},
    faults::{CrashAt, Faults, Mutant, Who},
    fleet::Draft,
    gates::Gates,
    host::Machine,
    invariants::Watch,
};

/// How many hosts a fleet has.
pub(crate) const HOSTS: usize = 8;
/// A run that is not quiet this long after everything healed does not end.
const BOUND_MS: u64 = 4 * 60 * 60_000;

/// What comes down to an agent.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    /// The coordinator's term.
    Welcome(Fence),
    Order(Box<Order>),
}

/// What goes up from an agent.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    Hello,
    /// What its ledger holds, after the term of the welcome was recorded; and whether root took the host.
    Status(Vec<SeenTrack>, Taken),
    /// Root took the host, in the middle of a session.
    Taken(Taken),
    Step {
        stage: usize,
        attempt: u32,
        step: StepReport,
    },
    Ended {
        stage: usize,
        attempt: u32,
        ending: TrackEnding,
    },
    Refused {
        stage: usize,
        attempt: u32,
        why: String,
        overtaken: bool,
    },
}

/// Whether root ever took a host, and the fence on its record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    pub(crate) newest: Option<String>,
    pub(crate) fence: Option<Fence>,
}

/// Whom a session leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Coordinator,
    OldTerm,
}

/// An agent's side of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) session: u64,
    pub(crate) peer: Peer,
}

/// Something to come.
#[derive(Clone, Debug)]
pub(crate) enum Due {
    Up { host: usize, session: u64, life: u64, message: Up },
    Down { host: usize, session: u64, message: Down },
    Dial { host: usize },
    AgentNotices { host: usize, session: u64 },
    CoordinatorNotices { host: usize, session: u64, life: u64 },
    Work { host: usize, life: u64, job: u64, instant: Instant },
    AgentDies { host: usize, life: u64 },
    SomebodyDies,
    AgentStarts { host: usize },
    Turn { life: u64 },
    CoordinatorStarts,
    PersonAsks,
    HostileOrder { host: usize },
    RootActs { host: usize },
    LooksAtTrials { host: usize, life: u64 },
    JudgeLooks { life: u64 },
    JudgeSays { life: u64, stage: usize, verdict: Verdict },
    Heal,
}

/// What makes one run different from another.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    /// Nothing goes wrong but what `crash` says.
    pub(crate) calm: bool,
    pub(crate) crash: Option<CrashAt>,
    pub(crate) mutant: Option<Mutant>,
    /// No coordinator: orders of any term, attempt and goal come out of nowhere.
    pub(crate) hostile: bool,
    /// What is put live is on trial.
    pub(crate) leases: bool,
    /// A release is tried on a few hosts first.
    pub(crate) canary: bool,
    /// Keep the lines of what happened.
    pub(crate) trace: bool,
}

/// How a run went.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) broken: Option<String>,
    pub(crate) trace: Vec<String>,
    pub(crate) result: Option<RunResult>,
    /// How often each wrote.
    pub(crate) appends: BTreeMap<Who, u64>,
    /// How many trials ended with what was kept, and with a way back.
    pub(crate) trials: [usize; 2],
}

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: u64,
    queue: BTreeMap<(u64, u64), Due>,
    queued: u64,
    pub(crate) rng: StdRng,
    pub(crate) faults: Faults,
    pub(crate) mutant: Option<Mutant>,
    crash: Option<CrashAt>,
    appends: BTreeMap<Who, u64>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) coordinator: Coordinator,
    pub(crate) old_term: Option<OldTerm>,
    pub(crate) sessions: u64,
    pub(crate) watch: Watch,
    /// The snapshot of each component that the plan goes to.
    pub(crate) targets: BTreeMap<String, String>,
    /// The hosts of each stage that cuts, and how many of them may be out.
    pub(crate) budgets: Vec<(BTreeSet<usize>, usize)>,
    /// Nothing goes wrong.
    pub(crate) calm: bool,
    /// What is put live is on trial.
    pub(crate) leases: bool,
    pub(crate) canary: Option<Tried>,
    /// Nothing goes wrong but perhaps one crash; no person asks for anything but what waits for one.
    pub(crate) peaceful: bool,
    /// Hosts on which the wanted release never verifies.
    pub(crate) bad: Vec<bool>,
    /// Hosts on which taking back fails as often as anything else.
    pub(crate) unmendable: Vec<bool>,
    healed: Option<u64>,
    trace: Option<Vec<String>>,
}

/// Runs a setup to its end.
pub(crate) fn run(setup: Setup) -> Run {
    let mut world = World::new(setup);
    while world.watch.broken.is_none() {
        let Some(((at, _), due)) = world.queue.pop_first() else { break };
        if world.healed.is_some_and(|healed| at > healed + BOUND_MS) {
            let phase = world.coordinator.operation.phase();
            world.watch.judge(Err(format!("p06: not quiet in time: {phase:?}")));
            break;
        }
        world.now = at;
        world.happen(due);
        world.check();
        if world.is_quiet() {
            break;
        }
    }
    if world.watch.broken.is_none() {
        let verdict = world.p06_no_track_stays_open();
        world.watch.judge(verdict);
        let verdict = world.p03_a_canary_ends_as_it_says();
        world.watch.judge(verdict);
        let verdict = world.p12_what_fails_goes_back_and_what_holds_stays();
        world.watch.judge(verdict);
        let verdict = if setup.hostile { Ok(()) } else { world.p07_no_host_is_left_out() };
        world.watch.judge(verdict);
        let verdict = if setup.hostile { Ok(()) } else { world.p06_ended_for_each_host() };
        world.watch.judge(verdict);
    }
    let result = match world.coordinator.operation.phase() {
        Phase::Ended(result) => Some(result),
        Phase::Running | Phase::Paused | Phase::Halting | Phase::Aborting(_) => None,
    };
    let trials = world.trials_ended();
    let (broken, appends) = (world.watch.broken, world.appends);
    Run { broken, trace: world.trace.unwrap_or_default(), result, appends, trials }
}

/// The name of a host.
pub(crate) fn host_name(host: usize) -> HostName {
    HostName::new(format!("h{host}")).expect("a letter and a digit")
}

/// The number of a host.
pub(crate) fn host_index(name: &HostName) -> usize {
    name.as_str()[1..].parse().expect("a letter and a digit")
}

impl World {
    fn new(setup: Setup) -> Self {
        let mut rng = StdRng::seed_from_u64(setup.seed);
        let fleet = if setup.canary { Draft::tried(&mut rng) } else { Draft::random(&mut rng) };
        let faults = Faults::random(&mut rng);
        // A canary with a bad step soon goes back: half of them go on as far as they are let.
        let well = setup.canary && rng.random_bool(0.5);
        let faults = match setup.mutant {
            _ if setup.calm => Faults::none(),
            Some(Mutant::ForgetsTheWelcome) => faults.two_terms(),
            Some(_) | None if well => faults.no_bad_step(),
            Some(_) | None => faults,
        };
        let away = if setup.calm { 0 } else { fleet.away };
        let plan = fleet.plan(away);
        let machines = fleet.machines();
        let some = |rng: &mut StdRng, of: u32| {
            (0..HOSTS)
                .map(|_| rng.random_range(0..of) == 0 && !setup.calm && !well)
                .collect::<Vec<_>>()
        };
        let (bad, unmendable) = (some(&mut rng, 8), some(&mut rng, 3));
        let opened = Event::Opened {
            plan: Box::new(plan),
            by: "ada".to_owned(),
            reason: "the simulator".to_owned(),
        };
        let id = OperationId::new("rb-0001").expect("a fixed id is valid");
        let operation = Operation::open(id, &opened).expect("`Opened` opens");
        let gates = setup.canary.then(|| Gates::of(operation.plan(), &machines));
        let canary = gates.map(|gates| Tried::new(&mut rng, gates));
        let cuts = operation.plan().stages.iter().filter(|stage| stage.cuts_capacity);
        let budget = |stage: &engine::Stage| {
            let hosts = stage.tracks().map(|track| host_index(&track.host)).collect();
            (hosts, stage.budget.out as usize)
        };
        let budgets = cuts.map(budget).collect();
        let mut world = Self {
            now: 0,
            queue: BTreeMap::new(),
            queued: 0,
            rng,
            mutant: setup.mutant,
            crash: setup.crash,
            appends: BTreeMap::new(),
            watch: Watch::new(&machines),
            machines,
            agents: (0..HOSTS).map(|_| Agent::new()).collect(),
            coordinator: Coordinator::new(opened, operation),
            old_term: None,
            sessions: 0,
            targets: fleet.targets(),
            budgets,
            calm: setup.calm && setup.crash.is_none(),
            leases: setup.leases,
            canary,
            peaceful: setup.calm,
            bad,
            unmendable,
            healed: None,
            trace: setup.trace.then(Vec::new),
            faults,
        };
        if setup.hostile {
            world.begin_hostile()
        } else {
            world.begin(away)
        }
        world
    }

    fn begin_hostile(&mut self) {
        self.coordinator.up = false;
        self.watch.alone();
        for host in 0..HOSTS {
            self.machines[host].stage_all(&self.targets);
            self.later(1, Due::AgentStarts { host });
            for _ in 0..30 {
                let when = self.rng.random_range(0..self.faults.until_ms);
                self.later(when, Due::HostileOrder { host });
            }
        }
        self.root_comes();
        self.later(self.faults.until_ms, Due::Heal);
    }

    fn begin(&mut self, away: usize) {
        for host in 0..HOSTS {
            let late = if host < away { self.rng.random_range(5_000..150_000) } else { 1 };
            self.later(late, Due::AgentStarts { host });
        }
        for _ in 0..self.faults.asks {
            let when = self.rng.random_range(0..self.faults.until_ms.max(1));
            self.later(when, Due::PersonAsks);
        }
        for _ in 0..self.faults.deaths {
            let when = self.rng.random_range(0..self.faults.until_ms.max(1));
            self.later(when, Due::SomebodyDies);
        }
        self.root_comes();
        self.later(self.faults.until_ms, Due::Heal);
        self.judge_begins();
        self.tell_coordinator(Input::Tick);
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Up { host, session, life, message } => self.take_up(host, session, life, message),
            Due::Down { host, session, message } => self.take_down(host, session, message),
            Due::Dial { host } => self.dial(host),
            Due::AgentNotices { host, session } => self.agent_notices(host, session),
            Due::CoordinatorNotices { host, session, life } => {
                self.coordinator_notices(host, session, life);
            }
            Due::Work { host, life, job, instant } => self.work_goes_on(host, life, job, instant),
            Due::AgentDies { host, life } => {
                if self.healed.is_none() && self.agents[host].life == life {
                    self.crash_agent(host);
                }
            }
            Due::SomebodyDies => self.somebody_dies(),
            Due::AgentStarts { host } => self.start_agent(host),
            Due::Turn { life } => self.turn(life),
            Due::CoordinatorStarts => self.start_coordinator(),
            Due::PersonAsks => self.person_asks(),
            Due::HostileOrder { host } => self.hostile_order(host),
            Due::RootActs { host } => self.root_acts(host),
            Due::LooksAtTrials { host, life } => self.looks_at_trials(host, life),
            Due::JudgeLooks { life } => self.judge_looks(life),
            Due::JudgeSays { life, stage, verdict } => self.judge_says(life, stage, verdict),
            Due::Heal => self.heal(),
        }
    }

    /// The network holds and nobody crashes from here on. Steps may still fail.
    fn heal(&mut self) {
        self.note(|| "everything heals".to_owned());
        self.healed = Some(self.now);
        self.old_term = None;
        let faults = std::mem::take(&mut self.faults);
        self.faults.step_fails = faults.step_fails;
        self.faults.step_hangs = faults.step_hangs;
        for host in 0..HOSTS {
            if let Some(link) = self.agents[host].session {
                self.break_session(host, link.session);
            }
        }
        self.tell_coordinator(Input::Asked { ask: Ask::Resume, by: "ada".to_owned() });
        // A coordinator that is down now hears it when it is up.
        self.later(10_000, Due::PersonAsks);
    }

    fn somebody_dies(&mut self) {
        match self.rng.random_range(0..HOSTS + 2) {
            host if host < HOSTS && self.agents[host].alive => self.crash_agent(host),
            host if host >= HOSTS && self.coordinator.up => self.crash_coordinator(),
            _ => {}
        }
    }

    fn person_asks(&mut self) {
        let ask = match self.rng.random_range(0..8) {
            _ if self.healed.is_some() => Ask::Resume,
            _ if self.canary.is_some() => self.ask_of_a_canary(),
            0 => Ask::Pause,
            1 | 2 => Ask::Resume,
            3 => Ask::Abort(Abort::Leave),
            4 => Ask::Abort(Abort::Restore),
            _ => {
                let rows = self.coordinator.operation.outcomes().into_iter();
                let again = rows.filter(|row| row.outcome != Outcome::Skipped);
                let again: Vec<HostName> = again.map(|row| row.host).collect();
                let some = again.into_iter().filter(|_| self.rng.random_bool(0.4));
                Ask::Retry(some.collect())
            }
        };
        // What cannot be retried is left out, as a person would after the first answer.
        let ask = match ask {
            Ask::Retry(hosts) => {
                let operation = &self.coordinator.operation;
                let may = |host: &HostName| operation.allows(&Ask::Retry(vec![host.clone()]));
                Ask::Retry(hosts.into_iter().filter(may).collect())
            }
            ask @ (Ask::Pause | Ask::Resume | Ask::Abort(_) | Ask::Promote { .. }) => ask,
        };
        self.asks(ask);
    }

    fn is_quiet(&self) -> bool {
        let ended = matches!(self.coordinator.operation.phase(), Phase::Ended(_));
        let idle = |agent: &Agent| agent.alive && agent.ledger.open().is_none();
        let flying = |due: &Due| match due {
            Due::Up { .. } | Due::Down { .. } | Due::AgentNotices { .. } | Due::Dial { .. } => true,
            Due::CoordinatorNotices { life, .. } => *life == self.coordinator.life,
            Due::AgentStarts { .. } | Due::CoordinatorStarts | Due::PersonAsks | Due::Heal => true,
            Due::Work { .. }
            | Due::AgentDies { .. }
            | Due::SomebodyDies
            | Due::Turn { .. }
            | Due::HostileOrder { .. }
            | Due::RootActs { .. }
            | Due::JudgeLooks { .. }
            | Due::JudgeSays { .. }
            | Due::LooksAtTrials { .. } => false,
        };
        self.healed.is_some()
            && ended
            && self.coordinator.is_quiet(HOSTS)
            && self.agents.iter().all(idle)
            && self.no_trials()
            && !self.queue.values().any(flying)
    }

    /// To happen `ms` from now.
    pub(crate) fn later(&mut self, ms: u64, due: Due) {
        self.queued += 1;
        self.queue.insert((self.now + ms, self.queued), due);
    }

    /// True in `thousandths` of the cases.
    pub(crate) fn chance(&mut self, thousandths: u32) -> bool {
        thousandths > 0 && self.rng.random_range(0..1_000) < thousandths
    }

    /// Whether this append is the last of its process, and then whether it is durable.
    pub(crate) fn crash_at_append(&mut self, who: Who) -> Option<bool> {
        let count = self.appends.entry(who).or_default();
        let this = *count;
        *count += 1;
        if let Some(crash) = self.crash.filter(|crash| crash.who == who && crash.append == this) {
            return Some(crash.durable);
        }
        let often = match who {
            Who::Coordinator => self.faults.crash_coordinator,
            Who::Agent(_) => self.faults.crash_agent,
        };
        self.chance(often).then(|| self.rng.random_bool(0.5))
    }

    /// A line of the trace; made only where it is kept.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now:>8} ms  {}", line()));
        }
    }
}
