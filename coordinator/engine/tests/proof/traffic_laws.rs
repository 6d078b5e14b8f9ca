//! What holds for every plan and every run that moves traffic.
//!
//! ```text
//! drawn fleet with edges ─▶ planner ─▶ plan ─▶ run, some tracks fail ─▶ what each edge does in the end
//! ```
//!
//! Invariant: the edges here are kept by the test alone: a division is set, or put back as it was.

use std::collections::BTreeMap;

use engine::{
    Abort, Ask, Elapsed, Event, Goal, HostName, Input, Operation, Phase, Plan, Stage, Standing,
    Step, Timestamp, TrackEnd, TrackEnding, Verb, Weights, decide,
    judge::{Ruling, Verdict},
    planner::{self, Deploy, Request, Strategy as How},
};
use proptest::prelude::*;

use crate::worlds::{World, group, host, operation, release};

/// Up to four hosts in each slot, a canary or none, one or two edges; what each side runs, and how the traffic is divided.
fn world() -> impl Strategy<Value = World> {
    let sizes = (1..5usize, 1..5usize, 0..2usize, any::<bool>());
    let live = proptest::collection::vec(0..3usize, 3);
    let weights = prop_oneof![
        4 => Just([100, 0, 0]),
        2 => Just([0, 100, 0]),
        1 => Just([95, 0, 5]),
        1 => Just([60, 40, 0]),
    ];
    let budget = (0..3u32, 1..4u32, any::<bool>());
    (sizes, live, weights, budget).prop_map(
        |((blue, green, canary, two), live, weights, budget)| {
            let names = |group: &str, count: usize| -> Vec<String> {
                (0..count).map(|n| format!("{group}-{n}")).collect()
            };
            let groups = [names("b", blue), names("g", green), names("c", canary)];
            let refs: Vec<Vec<&str>> =
                groups.iter().map(|hosts| hosts.iter().map(String::as_str).collect()).collect();
            let mut world = World::new(
                &[("blue", &refs[0]), ("green", &refs[1]), ("canary", &refs[2]), ("edge", &["lb"])],
                &[("crm", &[])],
            );
            let all: Vec<&str> = refs.iter().flatten().copied().collect();
            world.divided(&["blue", "green", "canary"]);
            for (name, age) in [("v1", 1), ("v2", 2), ("v3", 3)] {
                world.release(name, age);
                world.proven(name, &all, Standing::Good);
            }
            for (hosts, live) in refs.iter().zip(&live) {
                world.live_on(hosts, ["v1", "v2", "v3"][*live]);
            }
            if two {
                world.second_edge();
            }
            if canary > 0 {
                world.state.fleet.as_mut().unwrap().canary = Some(crate::canary::config(0));
            }
            let weights =
                if canary == 0 { [weights[0] + weights[2], weights[1], 0] } else { weights };
            world.traffic(&[("blue", weights[0]), ("green", weights[1]), ("canary", weights[2])]);
            let strategy = world.strategy();
            (strategy.budget_failed, strategy.budget_out) =
                (budget.0, engine::Share::Hosts(budget.1));
            strategy.traffic_first = budget.2 || budget.0 > 0;
            world
        },
    )
}

/// Any plan of a kind that may move traffic, where there is one.
fn plan(world: &World, kind: usize) -> Option<Plan> {
    let deploy = |strategy| Deploy {
        release: release("v3"),
        strategy,
        hosts: vec![],
        across_migrations: false,
        give_up_warm: false,
    };
    let inventory = world.inventory();
    let made = match kind {
        0 => planner::rollback(&inventory, &Request::default()),
        1 => {
            let to = Some(release("v1"));
            planner::rollback(&inventory, &Request { to, ..Request::default() })
        }
        2 => planner::deploy(&inventory, &deploy(How::Rolling), Timestamp(9)),
        3 => planner::deploy(&inventory, &deploy(How::BlueGreen), Timestamp(9)),
        4 => planner::switch(&inventory, &group("green")),
        5 => planner::deploy(&inventory, &deploy(How::Canary), Timestamp(9)),
        _ => planner::switch(&inventory, &group("blue")),
    };
    made.ok().filter(|plan| !plan.nothing_to_do())
}

fn set_by(stage: &Stage) -> Option<&Weights> {
    let mut steps = stage.tracks().flat_map(|track| &track.steps);
    steps.find(|step| step.verb == Verb::SetWeights).and_then(|step| step.weights.as_ref())
}

/// A host is only touched while it gets no traffic, but where the plan says that it cannot be taken out.
fn p07_no_user_meets_a_host_in_work(world: &World, plan: &Plan) {
    let Some(mut now) = plan.weights_before.clone() else { return };
    for stage in &plan.stages {
        now = set_by(stage).cloned().unwrap_or(now);
        for track in stage.tracks() {
            let cuts = |step: &&Step| step.verb.cuts() && step.component.as_str() != Step::TRAFFIC;
            let home = world.fleet().group_of(&track.host).unwrap();
            let said = plan.warnings.iter().any(|text| {
                text.contains(track.host.as_str()) && text.contains("cannot be taken out")
            });
            if track.steps.iter().any(|step| cuts(&step)) && !said {
                assert!(!now.reaches(&track.host, home), "{} in `{}`", track.host, stage.name);
            }
        }
    }
    assert_eq!(Some(&now), plan.weights_after.as_ref(), "it ends as it says");
}

fn what_is_held_is_held_for_a_later_stage(plan: &Plan) {
    for (index, stage) in plan.stages.iter().enumerate() {
        if let Some(until) = stage.held_until {
            assert!(index < until && until < plan.stages.len(), "`{}`", stage.name);
        }
    }
}

/// What the edges do, by what each stage set and what was put back; the first is how it was before.
struct Edges(BTreeMap<HostName, Vec<Set>>);

/// The stage that set it, and what it set.
type Set = (Option<usize>, Option<Weights>);

impl Edges {
    fn now(&self, edge: &HostName) -> Option<&Weights> {
        self.0[edge].last().and_then(|(_, weights)| weights.as_ref())
    }
}

/// What happens to a canary that stands at a weight.
#[derive(Clone, Copy, Debug)]
enum Gate {
    Pass,
    Fail,
    Hold,
    Promote,
    Pause,
    Resume,
}

fn gate() -> impl Strategy<Value = Gate> {
    prop_oneof![
        4 => Just(Gate::Pass),
        2 => Just(Gate::Fail),
        1 => Just(Gate::Hold),
        2 => Just(Gate::Promote),
        1 => Just(Gate::Pause),
        2 => Just(Gate::Resume),
    ]
}

/// What is drawn next for a canary that stands; it passes once nothing is drawn any more.
fn at_gate<'a>(run: &Operation, gates: &mut impl Iterator<Item = &'a Gate>) -> Vec<Input> {
    let Some(stage) = run.gate_in_force() else { return Vec::new() };
    let judged = |verdict| {
        let (sentence, numbers, at) = (String::new(), Vec::new(), Timestamp(0));
        Input::Judged { stage, ruling: Ruling { verdict, sentence, numbers, at } }
    };
    let asked = |ask| Input::Asked { ask, by: "ada".to_owned() };
    match gates.next() {
        None => vec![asked(Ask::Resume), judged(Verdict::Pass)],
        Some(Gate::Pass) => vec![judged(Verdict::Pass)],
        Some(Gate::Fail) => vec![judged(Verdict::Fail)],
        Some(Gate::Hold) => vec![judged(Verdict::Hold)],
        Some(Gate::Promote) => vec![asked(Ask::Promote { to_stage: stage + 1 })],
        Some(Gate::Pause) => vec![asked(Ask::Pause)],
        Some(Gate::Resume) => vec![asked(Ask::Resume)],
    }
}

/// Runs a plan; the n-th order that goes forward fails where `fails` says so, every undo succeeds.
fn run(
    world: &World,
    plan: &Plan,
    fails: &[bool],
    abort: Option<(usize, Abort)>,
    gates: &[Gate],
) -> (Operation, Edges) {
    let opened =
        Event::Opened { plan: Box::new(plan.clone()), by: "ada".to_owned(), reason: String::new() };
    let mut run = Operation::open(operation("dp-0200"), &opened).unwrap();
    let edges = ["lb", "lb2"].map(host).into_iter().filter(|name| world.hosts.contains_key(name));
    let first = |name: HostName| (name.clone(), vec![(None, world.hosts[&name].weights.clone())]);
    let mut edges = Edges(edges.map(first).collect());
    let mut inputs = vec![Input::Tick];
    let mut journal = vec![opened];
    let (mut orders, mut gates) = (0, gates.iter());
    for turn in 0..400 {
        if let Some((when, abort)) = abort
            && turn == when
        {
            let (ask, by) = (Ask::Abort(abort), "ada".to_owned());
            inputs.push(Input::Asked { ask, by });
        }
        for event in decide(&run, std::mem::take(&mut inputs), Elapsed(0)) {
            run.apply(&event).unwrap();
            journal.push(event);
        }
        if matches!(run.phase(), Phase::Ended(_)) {
            break;
        }
        let Some(to) = run.outstanding().into_iter().next() else {
            inputs.extend(at_gate(&run, &mut gates));
            continue;
        };
        let set = run
            .steps(&to)
            .iter()
            .find_map(|step| (step.verb == Verb::SetWeights).then(|| step.weights.clone()));
        let end = match to.goal {
            Goal::Forward => {
                orders += 1;
                let fails = fails.get(orders - 1).copied().unwrap_or(false);
                if let (Some(set), false) = (set, fails) {
                    edges.0.get_mut(&to.host).unwrap().push((Some(to.stage), set));
                }
                if fails { TrackEnd::Undone } else { TrackEnd::Done }
            }
            Goal::Undo => {
                if let (Some(_), Some(edge)) = (set, edges.0.get_mut(&to.host)) {
                    edge.retain(|(stage, _)| *stage != Some(to.stage));
                }
                TrackEnd::Undone
            }
        };
        // It names a step: an agent that took something back has a ledger.
        let (index, state, duration_ms, detail) = (0, engine::StepState::Undone, 1, String::new());
        let steps = vec![engine::StepReport { index, state, duration_ms, detail }];
        let ending = TrackEnding { end, reason: "drawn".to_owned(), steps, evidence: vec![] };
        let (host, stage, attempt) = (to.host, to.stage, to.attempt);
        inputs.push(Input::TrackEnded { host, stage, attempt, ending });
    }
    // What a coordinator that was killed here would go on with.
    let bytes = serde_json::to_vec(&journal).unwrap();
    let read: Vec<Event> = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(Operation::replay(operation("dp-0200"), &read).unwrap(), run);
    (run, edges)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn plans_keep_users_away_from_hosts_in_work(world in world(), kind in 0..7usize) {
        if let Some(plan) = plan(&world, kind) {
            p07_no_user_meets_a_host_in_work(&world, &plan);
            what_is_held_is_held_for_a_later_stage(&plan);
        }
    }

    #[test]
    fn a_run_that_ends_well_ends_as_planned(world in world(), kind in 0..7usize) {
        let Some(plan) = plan(&world, kind) else { return Ok(()) };
        let (run, edges) = run(&world, &plan, &[], None, &[]);
        prop_assert_eq!(run.phase(), Phase::Ended(engine::RunResult::Verified));
        for edge in edges.0.keys().filter(|_| plan.weights_after.is_some()) {
            prop_assert_eq!(edges.now(edge), plan.weights_after.as_ref());
        }
    }

    #[test]
    fn whatever_fails_edges_agree_and_no_host_is_left_out(
        world in world(),
        kind in 0..7usize,
        fails in proptest::collection::vec(prop::bool::weighted(0.15), 40),
        abort in proptest::option::weighted(0.3, (0..30usize, prop_oneof![Just(Abort::Leave), Just(Abort::Restore)])),
        gates in proptest::collection::vec(gate(), 0..8),
    ) {
        let Some(plan) = plan(&world, kind) else { return Ok(()) };
        let (run, edges) = run(&world, &plan, &fails, abort, &gates);
        prop_assert!(matches!(run.phase(), Phase::Ended(_)), "{:?}", run.phase());
        let mut all = edges.0.keys().map(|edge| edges.now(edge));
        let first = all.next().unwrap();
        prop_assert!(all.all(|other| other == first), "{:?}", edges.0);
        if let Some(now) = first {
            prop_assert!(now.out().is_empty(), "{now}");
        }
        if let (Phase::Ended(_), Some((_, Abort::Restore))) = (run.phase(), abort)
            && run.outcomes().iter().all(|row| row.outcome != engine::Outcome::Restored)
        {
            prop_assert_eq!(first, plan.weights_before.as_ref().or(first), "put back");
        }
        // Nobody is left on what was only tried, whoever took it back.
        if run.is_canary() && run.aborted_by().is_some() {
            prop_assert_eq!(first, plan.weights_before.as_ref());
            if abort.is_none_or(|(_, abort)| abort == Abort::Restore) {
                let restored = |row: &engine::HostOutcome| row.outcome == engine::Outcome::Restored;
                prop_assert!(!run.outcomes().iter().any(restored), "{:?}", run.outcomes());
            }
        }
    }
}
