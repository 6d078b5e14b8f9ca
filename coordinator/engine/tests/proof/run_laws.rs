//! What holds for every run: random plans, random inputs, hosts that lie, repeat themselves and vanish.
//!
//! ```text
//! Act ─▶ Input ─▶ decide ─▶ events ─▶ Books (kept from the events alone) ─▶ apply
//! ```
//!
//! Invariant: the [`Books`] know only events; where they and the engine differ, the test fails.

use std::collections::{BTreeMap, BTreeSet};

use engine::{
    Abort, Ask, Budget, Command, Elapsed, Event, Goal, HostName, Input, LateHosts, Operation,
    Outcome, Phase, Plan, RunResult, SeenTrack, StepReport, StepState, TrackEnd, TrackEnding,
    decide,
};
use proptest::prelude::*;

use crate::plans::{self, Does, Shape, Sketch, host};

/// Something that the world does to a run.
#[derive(Clone, Debug)]
enum Act {
    Tick(u64),
    /// The n-th outstanding order ends.
    Answer(usize, TrackEnd),
    /// A step of it is reported.
    Step(usize),
    /// An end for any host, stage and attempt, wanted or not.
    Stray(usize, usize, u32, TrackEnd),
    Lost(usize),
    /// Its ledger tells the truth about what it was sent.
    Back(usize),
    /// Its ledger holds anything.
    StrangeBack(usize, Vec<(usize, u32, Option<TrackEnd>)>),
    /// Root took the host over.
    Overtaken(usize),
    Ask(Ask),
    /// The same inputs as last time again.
    Repeat,
}

fn end() -> impl Strategy<Value = TrackEnd> {
    prop_oneof![
        8 => Just(TrackEnd::Done),
        2 => Just(TrackEnd::Undone),
        1 => Just(TrackEnd::Left),
        1 => Just(TrackEnd::Stuck),
        1 => Just(TrackEnd::Refused),
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    let hosts = proptest::collection::vec((0..9usize).prop_map(host), 0..3);
    prop_oneof![
        Just(Ask::Pause),
        Just(Ask::Resume),
        Just(Ask::Abort(Abort::Leave)),
        Just(Ask::Abort(Abort::Restore)),
        hosts.prop_map(Ask::Retry),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let seen = (0..4usize, 0..4u32, proptest::option::of(end()));
    prop_oneof![
        4 => (0..30_000u64).prop_map(Act::Tick),
        12 => (any::<usize>(), end()).prop_map(|(n, end)| Act::Answer(n, end)),
        2 => any::<usize>().prop_map(Act::Step),
        1 => (0..9usize, 0..4usize, 0..4u32, end()).prop_map(|(h, s, a, e)| Act::Stray(h, s, a, e)),
        3 => (0..9usize).prop_map(Act::Lost),
        4 => (0..9usize).prop_map(Act::Back),
        1 => (0..9usize, proptest::collection::vec(seen, 0..3)).prop_map(|(h, s)| Act::StrangeBack(h, s)),
        1 => (0..9usize).prop_map(Act::Overtaken),
        2 => ask().prop_map(Act::Ask),
        1 => Just(Act::Repeat),
    ]
}

/// What it does, its hosts where not all, the size of its batches, its budget, its soak.
type StageDraw = (Does, Option<[bool; 9]>, usize, (u32, u32, u32), u64);

/// Up to four stages, each of all hosts or of some, that prepare, cut or look.
fn sketch() -> impl Strategy<Value = Sketch> {
    let late = prop_oneof![Just(LateHosts::Rollback), Just(LateHosts::Wait)];
    let does = prop_oneof![1 => Just(Does::Prepare), 2 => Just(Does::Cut), 1 => Just(Does::Look)];
    let some = proptest::option::of(any::<[bool; 9]>());
    let stages = proptest::collection::vec(
        (does, some, 1..4usize, (0..3u32, 0..3u32, 1..4u32), 0..2u64),
        1..5,
    );
    let away = proptest::collection::vec(0..9usize, 0..3);
    (1..9usize, stages, away, late).prop_map(|(hosts, stages, away, late_hosts)| {
        let has = |some: &Option<[bool; 9]>, n: usize| some.is_none_or(|some| some[n]);
        let cut: Vec<Option<[bool; 9]>> =
            stages.iter().filter(|row| row.0 == Does::Cut).map(|row| row.1).collect();
        // Nobody prepares for nothing, where anybody moves.
        let prepares = |n: usize| cut.is_empty() || cut.iter().any(|some| has(some, n));
        let shape = |(does, some, size, (failed, unknown, out), soak): StageDraw| {
            let size = if does == Does::Cut { size.min(out as usize) } else { size };
            let here = (0..hosts).filter(|n| has(&some, *n));
            let here = here.filter(|n| does != Does::Prepare || prepares(*n));
            let here: Vec<usize> = here.collect();
            let batches = here.chunks(size).map(<[usize]>::to_vec).collect();
            let budget = Budget { failed, unknown, out };
            Shape { batches, budget, soak_ms: soak * 20_000, does }
        };
        let stages: Vec<Shape> = stages.into_iter().map(shape).collect();
        let stages = stages.into_iter().filter(|shape| !shape.batches.is_empty()).collect();
        let away = away.into_iter().filter(|n| *n < hosts).collect();
        Sketch { hosts, away, stages, late_hosts }
    })
}

/// A place in the plan as the events tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waiting,
    Work,
    Unknown,
    Done,
    /// Not on target, whatever the reason.
    Failed,
}

/// What the events say, counted without the engine.
struct Books {
    plan: Plan,
    places: BTreeMap<(HostName, usize), Place>,
    /// Hosts that an ended attempt left neither as they were nor verified: down until an attempt ends well.
    down: BTreeMap<(HostName, usize), bool>,
    goals: BTreeMap<(HostName, usize), Goal>,
    /// Where the attempt, or one that was not taken back before it, was told to have begun a step.
    begun: BTreeSet<(HostName, usize)>,
    /// Root's for good: nothing more is asked of them, and nothing that they say counts.
    taken: BTreeSet<HostName>,
    /// Since a retry: the hosts that may begin something that changes them.
    again: Option<BTreeSet<HostName>>,
    /// Hosts that were seen at work on what they were unknown in.
    late: BTreeSet<(HostName, usize)>,
    /// No forward order may follow until a person says so.
    stopped: bool,
    cut: bool,
}

impl Books {
    fn new(plan: &Plan) -> Self {
        let mut places = BTreeMap::new();
        for (index, stage) in plan.stages.iter().enumerate() {
            for track in stage.tracks() {
                places.insert((track.host.clone(), index), Place::Waiting);
            }
        }
        for row in plan.hosts.iter().filter(|row| !row.reachable) {
            let first = places.keys().find(|(host, _)| *host == row.host).cloned();
            if let Some(first) = first {
                places.insert(first, Place::Unknown);
            }
        }
        let (plan, down, goals) = (plan.clone(), BTreeMap::new(), BTreeMap::new());
        Self {
            plan,
            places,
            down,
            goals,
            begun: BTreeSet::new(),
            taken: BTreeSet::new(),
            again: None,
            late: BTreeSet::new(),
            stopped: false,
            cut: false,
        }
    }

    /// Hosts of a stage that count as out, each once.
    fn out(&self, stage: usize) -> usize {
        let counts = |host: &HostName| {
            let out = |place: &Place| match place {
                Place::Work | Place::Unknown | Place::Failed => true,
                Place::Waiting | Place::Done => false,
            };
            let mine = |key: &&(HostName, usize)| key.0 == *host;
            self.places
                .keys()
                .filter(mine)
                .any(|key| out(&self.places[key]) || self.down.get(key).copied().unwrap_or(false))
        };
        self.plan.stages[stage].tracks().filter(|track| counts(&track.host)).count()
    }

    fn looks(&self, host: &HostName, stage: usize) -> bool {
        let mut tracks = self.plan.stages[stage].tracks();
        tracks.any(|track| track.host == *host && track.only_looks())
    }

    fn place(&self, host: &HostName, stage: usize) -> Option<Place> {
        self.places.get(&(host.clone(), stage)).copied()
    }

    /// A stage begins when no host is at work in an earlier one, nor waits there although it could begin.
    fn stages_follow_each_other(&self, stage: usize) {
        for earlier in 0..stage {
            for track in self.plan.stages[earlier].tracks() {
                let host = &track.host;
                let mut before = (0..earlier).filter_map(|index| self.place(host, index));
                let ready =
                    before.all(|place| place == Place::Done) && self.may_begin(host, earlier);
                match self.place(host, earlier) {
                    Some(Place::Work) => assert!(
                        self.late.contains(&(host.clone(), earlier)),
                        "{host} is at work in stage {earlier} when {stage} begins"
                    ),
                    Some(Place::Waiting) => {
                        assert!(!ready, "{host} waits in stage {earlier} when {stage} begins");
                    }
                    Some(Place::Unknown | Place::Done | Place::Failed) | None => {}
                }
            }
        }
    }

    fn may_begin(&self, host: &HostName, stage: usize) -> bool {
        self.looks(host, stage) || self.again.as_ref().is_none_or(|again| again.contains(host))
    }

    /// What is done is taken back last stage first; what is unknown or stuck holds up nobody.
    fn undo_goes_backwards(&self, stage: usize, hosts: &[HostName]) {
        if hosts.iter().any(|host| self.place(host, stage) == Some(Place::Work)) {
            return;
        }
        for later in stage + 1..self.plan.stages.len() {
            for track in
                self.plan.stages[later].tracks().filter(|_| self.plan.stages[later].cuts_capacity)
            {
                let place = self.place(&track.host, later);
                let there = matches!(place, Some(Place::Work | Place::Done));
                assert!(!there, "{} is not back yet in stage {later}", track.host);
            }
        }
    }

    /// Something moves again: looks of that stage and later ones that were over are taken anew.
    fn look_again(&mut self, from: usize) {
        let looks: Vec<(HostName, usize)> = self
            .places
            .iter()
            .filter(|((_, stage), place)| {
                *stage >= from
                    && !self.plan.stages[*stage].cuts_capacity
                    && matches!(place, Place::Done | Place::Failed)
            })
            .map(|(key, _)| key.clone())
            .filter(|(host, stage)| self.looks(host, *stage) && !self.taken.contains(host))
            .collect();
        for key in looks {
            self.places.insert(key, Place::Waiting);
        }
    }

    fn came_late(&mut self, host: &HostName) {
        if let Some(again) = &mut self.again {
            again.insert(host.clone());
        }
    }

    /// What root took over is asked for nothing, and is not looked at again in this run.
    fn still_ours(&self, host: &HostName) {
        assert!(!self.taken.contains(host), "{host} is root's, and the run goes on with it");
    }

    fn only_looks(&self, host: &HostName) -> bool {
        let mine = self.places.keys().filter(|(other, _)| other == host);
        mine.into_iter().all(|(_, stage)| self.looks(host, *stage))
    }

    /// Whether an attempt left it neither as it was nor verified.
    fn is_down(&self, host: &HostName) -> bool {
        self.down.iter().any(|((other, _), down)| *down && other == host)
    }

    fn enter(&mut self, event: &Event) {
        match event {
            Event::Dispatched { stage, hosts, goal, .. } => {
                let before = self.out(*stage);
                if *goal == Goal::Undo {
                    self.undo_goes_backwards(*stage, hosts);
                }
                for host in hosts {
                    self.still_ours(host);
                    let meant = *goal == Goal::Undo || self.may_begin(host, *stage);
                    assert!(meant, "{host} was not meant by the retry");
                    self.late.remove(&(host.clone(), *stage));
                    let key = (host.clone(), *stage);
                    if *goal == Goal::Forward && !self.down.get(&key).copied().unwrap_or(false) {
                        self.begun.remove(&key);
                    } else if *goal == Goal::Forward {
                        self.begun.insert(key.clone());
                    }
                    self.places.insert(key.clone(), Place::Work);
                    self.goals.insert(key, *goal);
                }
                let out = self.out(*stage);
                let stage = &self.plan.stages[*stage];
                self.cut |= stage.cuts_capacity;
                if *goal == Goal::Forward {
                    assert!(!self.stopped, "a forward order after a halt or an abort");
                    let may = stage.budget.out as usize;
                    // To try a host again that is down takes no other out.
                    let fits = !stage.cuts_capacity || out <= may || out == before;
                    assert!(fits, "p07: {out} hosts out, stage `{}` allows {may}", stage.name);
                }
            }
            Event::TrackEnded { host, stage, ending, .. } => {
                self.still_ours(host);
                let key = (host.clone(), *stage);
                let forward = self.goals.get(&key) == Some(&Goal::Forward);
                let looks = self.looks(host, *stage);
                let (place, down) = match ending.end {
                    // Nothing was changed there, whatever is said of it.
                    end if looks => (
                        if end == TrackEnd::Done && forward { Place::Done } else { Place::Failed },
                        None,
                    ),
                    TrackEnd::Done if forward => (Place::Done, Some(false)),
                    // It took back nothing although it had begun something: it lost its ledger.
                    TrackEnd::Undone
                        if !forward && ending.steps.is_empty() && self.begun.contains(&key) =>
                    {
                        (Place::Failed, Some(true))
                    }
                    TrackEnd::Undone => (Place::Failed, Some(false)),
                    TrackEnd::Refused if forward => (Place::Failed, None),
                    TrackEnd::Done | TrackEnd::Left | TrackEnd::Stuck | TrackEnd::Refused => {
                        (Place::Failed, Some(true))
                    }
                };
                if let Some(down) = down {
                    self.down.insert(key.clone(), down);
                }
                self.places.insert(key, place);
            }
            Event::BecameUnknown { host, stage, .. } => {
                self.still_ours(host);
                self.places.insert((host.clone(), *stage), Place::Unknown);
            }
            Event::SeenInWork { host, stage, .. } => {
                self.still_ours(host);
                self.came_late(host);
                self.late.insert((host.clone(), *stage));
                self.places.insert((host.clone(), *stage), Place::Work);
            }
            Event::SeenIdle { host, stage, again, .. } => {
                self.still_ours(host);
                if *again {
                    self.came_late(host);
                    if !self.looks(host, *stage) {
                        self.look_again(*stage);
                    }
                }
                let place = if *again { Place::Waiting } else { Place::Failed };
                self.places.insert((host.clone(), *stage), place);
            }
            Event::StepReported { host, stage, .. } => {
                self.begun.insert((host.clone(), *stage));
            }
            Event::StageBegan { stage, .. } => self.stages_follow_each_other(*stage),
            Event::Overtaken { host, .. } => {
                self.taken.insert(host.clone());
                let mine = self.places.iter_mut().filter(|((other, _), _)| other == host);
                for (key, place) in mine {
                    *place = Place::Failed;
                    self.down.insert(key.clone(), true);
                }
            }
            Event::Asked { ask: Ask::Retry(hosts), .. } => {
                hosts.iter().for_each(|host| self.still_ours(host));
                self.stopped = false;
                self.again = Some(hosts.iter().cloned().collect());
                self.look_again(0);
                for (_, place) in
                    self.places.iter_mut().filter(|((host, _), _)| hosts.contains(host))
                {
                    *place = Place::Waiting;
                }
            }
            Event::Halted { .. } | Event::Asked { ask: Ask::Abort(_), .. } => self.stopped = true,
            Event::Opened { .. }
            | Event::HostLost { .. }
            | Event::HostBack { .. }
            | Event::StageEnded { .. }
            | Event::Asked { ask: Ask::Pause | Ask::Resume | Ask::Promote { .. }, .. }
            | Event::Judged { .. }
            | Event::Ended { .. } => {}
        }
    }
}

/// A run, its journal, and hosts that keep ledgers.
struct Run {
    operation: Operation,
    journal: Vec<Event>,
    books: Books,
    now: Elapsed,
    /// What each host was sent last in each stage, and how it ended.
    ledgers: BTreeMap<(HostName, usize), (u32, Option<TrackEnd>)>,
    last: Vec<Input>,
}

impl Run {
    fn new(sketch: &Sketch) -> Self {
        let opened = sketch.opened();
        let operation = Operation::open(plans::id(), &opened).unwrap();
        let books = Books::new(operation.plan());
        let (now, ledgers) = (Elapsed(0), BTreeMap::new());
        Self { operation, journal: vec![opened], books, now, ledgers, last: vec![] }
    }

    fn input(&mut self, inputs: Vec<Input>) {
        self.last.clone_from(&inputs);
        let was_over = matches!(self.operation.phase(), Phase::Ended(_));
        let only_ticks = inputs.iter().all(|input| *input == Input::Tick);
        let events = decide(&self.operation, inputs.clone(), self.now);
        assert_eq!(events, decide(&self.operation, inputs, self.now), "decide is deterministic");
        assert!(!(was_over && only_ticks && !events.is_empty()), "time moves an ended run");
        for event in &events {
            let text = serde_json::to_string(event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), *event, "{text}");
            self.books.enter(event);
            self.operation.apply(event).expect("decide emits only what can be applied");
            self.journal.push(event.clone());
            if let Event::Ended { result, .. } = event {
                self.check_result(*result);
            }
        }
        let again = Operation::replay(plans::id(), &self.journal).expect("the journal replays");
        assert_eq!(again, self.operation, "replay gives the live state");
        assert!(self.operation.wake_at().is_none_or(|at| at > self.now), "wakes without an end");
        assert_eq!(decide(&self.operation, vec![Input::Tick], self.now), vec![], "decide is whole");
        let rows = self.operation.outcomes();
        let listed: Vec<&HostName> = self.operation.plan().hosts.iter().map(|h| &h.host).collect();
        assert_eq!(rows.iter().map(|row| &row.host).collect::<Vec<_>>(), listed, "p07: accounted");
        for row in rows.iter().filter(|row| self.books.taken.contains(&row.host)) {
            assert_eq!(row.outcome, Outcome::Failed, "p03: root took {}", row.host);
            assert!(row.evidence.is_empty(), "p03: what was measured was true before");
        }
        for row in rows.iter().filter(|row| self.books.is_down(&row.host)) {
            let told = matches!(row.outcome, Outcome::Failed | Outcome::Unknown);
            assert!(told, "p03: {} is down and reported as {:?}", row.host, row.outcome);
        }
    }

    /// The rules of a result, from the outcomes and from whether anything that cuts was sent.
    fn check_result(&self, result: RunResult) {
        let outcomes: Vec<Outcome> =
            self.operation.outcomes().into_iter().map(|row| row.outcome).collect();
        let any = |wanted| outcomes.contains(&wanted);
        let can_cut = self.operation.plan().stages.iter().any(|stage| stage.cuts_capacity);
        // Hosts that only look have nothing to say of what was moved or put back.
        let moved = self.operation.outcomes().into_iter();
        let moved: Vec<Outcome> = moved
            .filter(|row| !self.books.only_looks(&row.host))
            .map(|row| row.outcome)
            .filter(|outcome| *outcome != Outcome::Skipped)
            .collect();
        let moved_any = |wanted| moved.contains(&wanted);
        match result {
            RunResult::Verified => {
                assert!(!any(Outcome::Original) && !any(Outcome::Failed) && !any(Outcome::Unknown));
            }
            RunResult::Unverified => {
                assert!(any(Outcome::Failed) || any(Outcome::Original));
                assert!(!moved_any(Outcome::Original) && !any(Outcome::Unknown));
            }
            // Nothing that cuts was sent to an unknown host: it is as it was, as far as this run goes.
            RunResult::PutBack => {
                assert!(!moved_any(Outcome::Restored));
                assert!(moved_any(Outcome::Original) || !self.books.cut || moved.is_empty());
            }
            RunResult::Refused => assert!(!self.books.cut, "something was begun"),
            RunResult::Mixed => {
                assert!(
                    self.books.cut || !can_cut || any(Outcome::Restored) || any(Outcome::Failed)
                );
            }
        }
        if self.books.cut && any(Outcome::Unknown) {
            assert_eq!(result, RunResult::Mixed, "an unknown host is never a success");
        }
    }

    fn act(&mut self, act: Act) {
        let inputs = match act {
            Act::Tick(ms) => {
                self.now = self.now.plus(ms);
                vec![Input::Tick]
            }
            Act::Answer(n, end) => {
                self.nth(n).map(|to| self.answer(&to, end)).into_iter().collect()
            }
            Act::Step(n) => self.nth(n).map(|to| step(&to)).into_iter().collect(),
            Act::Stray(n, stage, attempt, end) => {
                vec![Input::TrackEnded { host: host(n), stage, attempt, ending: ending(end) }]
            }
            Act::Lost(n) => vec![Input::AgentLost { host: host(n) }],
            Act::Back(n) => vec![self.back(&host(n))],
            Act::StrangeBack(n, tracks) => {
                let tracks = tracks.into_iter().map(|(stage, attempt, end)| SeenTrack {
                    stage,
                    attempt,
                    ending: end.map(ending),
                });
                vec![Input::AgentBack { host: host(n), tracks: tracks.collect() }]
            }
            Act::Overtaken(n) => {
                vec![Input::Overtaken { host: host(n), why: "root was here".to_owned() }]
            }
            Act::Ask(ask) => vec![Input::Asked { ask, by: "ada".to_owned() }],
            Act::Repeat => self.last.clone(),
        };
        self.input(inputs);
    }

    fn nth(&self, n: usize) -> Option<Command> {
        let commands = self.operation.outstanding();
        (!commands.is_empty()).then(|| commands[n % commands.len()].clone())
    }

    fn answer(&mut self, to: &Command, end: TrackEnd) -> Input {
        self.ledgers.insert((to.host.clone(), to.stage), (to.attempt, Some(end)));
        let (host, stage, attempt) = (to.host.clone(), to.stage, to.attempt);
        Input::TrackEnded { host, stage, attempt, ending: ending(end) }
    }

    fn back(&self, host: &HostName) -> Input {
        let mine = self.ledgers.iter().filter(|((other, _), _)| other == host);
        let tracks = mine.map(|((_, stage), (attempt, end))| SeenTrack {
            stage: *stage,
            attempt: *attempt,
            ending: end.map(ending),
        });
        Input::AgentBack { host: host.clone(), tracks: tracks.collect() }
    }

    /// Nothing more goes wrong: every agent is there and answers, a pause is lifted, time goes on.
    fn settle(&mut self) {
        for n in 0..self.operation.plan().hosts.len() {
            self.act(Act::Back(n));
        }
        let tracks: usize = self.operation.plan().stages.iter().map(|s| s.tracks().count()).sum();
        // A round ends one order, passes one deadline, or begins a stage.
        for _ in 0..8 * tracks + 16 {
            if let Phase::Ended(_) = self.operation.phase() {
                return;
            }
            self.act(Act::Ask(Ask::Resume));
            match self.nth(0) {
                Some(to) => {
                    let end = match to.goal {
                        Goal::Forward => TrackEnd::Done,
                        Goal::Undo => TrackEnd::Undone,
                    };
                    let input = self.answer(&to, end);
                    self.input(vec![input]);
                }
                None => {
                    self.now = self.operation.wake_at().unwrap_or(self.now).max(self.now);
                    self.input(vec![Input::Tick]);
                }
            }
        }
        panic!("p06: the run does not end: {:#?}", self.operation);
    }
}

fn step(to: &Command) -> Input {
    let (host, stage, attempt) = (to.host.clone(), to.stage, to.attempt);
    let step =
        StepReport { index: 0, state: StepState::Running, duration_ms: 0, detail: String::new() };
    Input::StepReported { host, stage, attempt, step }
}

fn ending(end: TrackEnd) -> TrackEnding {
    let reason = if end == TrackEnd::Done { "" } else { "as the test wants" };
    TrackEnding { end, reason: reason.to_owned(), steps: vec![], evidence: vec![] }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Budgets, replay, determinism, results and endings, through whatever the world does.
    #[test]
    fn p06_p07_p08_every_run_keeps_its_budget_replays_and_ends(
        sketch in sketch(),
        acts in proptest::collection::vec(act(), 0..60),
    ) {
        let mut run = Run::new(&sketch);
        run.input(vec![Input::Tick]);
        for act in acts {
            run.act(act);
        }
        run.settle();
    }

    /// A crash between two events of one decision loses the rest of it; the run still goes on and ends.
    #[test]
    fn p08_every_prefix_of_a_journal_is_a_run_that_ends(
        sketch in sketch(),
        acts in proptest::collection::vec(act(), 0..30),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut run = Run::new(&sketch);
        run.input(vec![Input::Tick]);
        for act in acts {
            run.act(act);
        }
        let keep = keep.index(run.journal.len()) + 1;
        let mut cut = Run::new(&sketch);
        for event in &run.journal[1..keep] {
            cut.books.enter(event);
            cut.operation.apply(event).unwrap();
            cut.journal.push(event.clone());
        }
        cut.now = cut.operation.last();
        cut.input(vec![Input::Tick]);
        cut.settle();
    }
}
