//! A release on a few hosts first: what is planned, what the judge and people can do to it in each state.

use std::fmt::Write as _;

use engine::{
    Abort, Ask, BY_ITSELF, BY_THE_JUDGE, Canary, CanaryStep, Elapsed, FleetEvent, FleetState,
    Input, MetricSource, Outcome, Phase, Plan, RunResult, Standing, Timestamp, TrackEnd, Waits,
    consequences, decide,
    judge::{Analysis, Ruling, Verdict},
    planner::{self, Deploy, Refusal, Strategy},
};

use crate::{
    edge_runs::{Run, seen},
    worlds::{World, group, host, operation, release, show},
};

const HOLD_MS: u64 = 600_000;

/// 5 %, 50 %, all.
pub(crate) fn config(hold_ms: u64) -> Canary {
    let step = |weight, hold_ms| CanaryStep { weight, hold_ms, asks: false };
    Canary {
        group: group("canary"),
        steps: vec![step(5, hold_ms), step(50, hold_ms), step(100, 0)],
        analysis: Analysis::default(),
        source: MetricSource::Probes,
        armed_for_ms: 1_000,
        wait_at_most_ms: 86_400_000,
    }
}

/// As `with_traffic`, with a canary host on v2 that has no traffic; v3 is new everywhere.
fn world(green: bool) -> World {
    let mut groups: Vec<(&str, &[&str])> = vec![("blue", &["b1", "b2"]), ("canary", &["c1"])];
    if green {
        groups.push(("green", &["g1", "g2"]));
    }
    groups.push(("edge", &["lb"]));
    let mut world = World::new(&groups, &[("crm", &[])]);
    let backends: &[&str] = if green { &["blue", "canary", "green"] } else { &["blue", "canary"] };
    world.divided(backends);
    let fleet = world.state.fleet.as_mut().unwrap();
    if !green {
        fleet.traffic.as_mut().unwrap().slots.pop();
    }
    fleet.canary = Some(config(HOLD_MS));
    fleet.check().unwrap();
    let hosts: Vec<String> =
        fleet.hosts().map(|(host, _)| host.to_string()).filter(|host| host != "lb").collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    for (name, age) in [("v1", 1), ("v2", 2), ("v3", 3)] {
        world.release(name, age);
    }
    for name in ["v1", "v2"] {
        world.proven(name, &hosts, Standing::Good);
    }
    world.live_on(&hosts, "v2");
    world.traffic(&[("blue", 100)]);
    world
}

fn canary(world: &World) -> Plan {
    asked(world).unwrap()
}

fn asked(world: &World) -> Result<Plan, Refusal> {
    let request = Deploy {
        release: release("v3"),
        strategy: Strategy::Canary,
        hosts: vec![],
        across_migrations: false,
        give_up_warm: false,
    };
    planner::deploy(&world.inventory(), &request, Timestamp(9))
}

fn ruling(verdict: Verdict) -> Ruling {
    Ruling {
        verdict,
        sentence: format!("{verdict:?}, by the numbers"),
        numbers: Vec::new(),
        at: Timestamp(0),
    }
}

/// A run that has just given the canary its first share.
fn at_five(world: &World) -> Run {
    let mut run = Run::of(canary(world));
    let stage = stage_of(&run, 5);
    run.until(&format!("lb/{stage}→"));
    run.end("lb", TrackEnd::Done, "");
    assert_eq!(run.operation.gate_in_force(), Some(stage));
    run
}

fn stage_of(run: &Run, weight: u32) -> usize {
    let stages = &run.operation.plan().stages;
    let gate = |stage: &engine::Stage| stage.gate.as_ref().is_some_and(|g| g.weight == weight);
    stages.iter().position(gate).unwrap()
}

/// The fleet's record with the run on it.
fn opened(world: &World) -> FleetState {
    let mut state = world.state.clone();
    let (operation, key) = (operation("rb-0200"), String::new());
    state.apply(&FleetEvent::OperationOpened { operation, key, at: Timestamp(10) });
    state
}

impl Run {
    fn judged(&mut self, verdict: Verdict) {
        let stage = self.operation.stage();
        self.input(Input::Judged { stage, ruling: ruling(verdict) });
    }

    fn pass_time(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
        self.input(Input::Tick);
    }

    fn waits(&self) -> Waits {
        self.operation.canary(self.now).unwrap().waits
    }
}

#[test]
fn the_plans() {
    let mut out = String::new();
    for green in [true, false] {
        writeln!(out, "{}", show(&canary(&world(green)))).unwrap();
    }
    let mut asks = world(false);
    asks.state.fleet.as_mut().unwrap().canary.as_mut().unwrap().steps.pop();
    writeln!(out, "{}", show(&canary(&asks))).unwrap();
    insta::assert_snapshot!(out);
}

#[test]
fn what_is_refused_before_anything_changes() {
    let mut out = String::new();
    let mut say = |name: &str, world: &World| {
        writeln!(out, "{name}: {}", asked(world).unwrap_err()).unwrap();
    };
    let mut none = world(true);
    none.state.fleet.as_mut().unwrap().canary = None;
    say("no canary", &none);
    let mut shared = world(true);
    shared.traffic(&[("blue", 95), ("canary", 5)]);
    say("a share already", &shared);
    let mut away = world(true);
    away.away("lb");
    say("edge away", &away);
    let mut bad = world(true);
    bad.proven("v3", &["c1"], Standing::Bad);
    say("found bad", &bad);
    insta::assert_snapshot!(out);
}

#[test]
fn a_good_release_goes_on_when_its_time_is_over_and_the_judge_says_pass() {
    for green in [true, false] {
        let mut run = at_five(&world(green));
        assert_eq!(run.waits(), Waits::Hold);
        run.pass_time(HOLD_MS);
        assert_eq!((run.waits(), run.orders()), (Waits::Judge, String::new()));
        run.judged(Verdict::Hold);
        assert_eq!((run.waits(), run.orders()), (Waits::Judge, String::new()));
        run.judged(Verdict::Pass);
        let fifty = stage_of(&run, 50);
        assert_eq!(run.orders(), format!("lb/{fifty}→"));
        run.end("lb", TrackEnd::Done, "");
        // The word on the step before says nothing of this one.
        run.pass_time(HOLD_MS);
        assert_eq!((run.waits(), run.orders()), (Waits::Judge, String::new()));
        run.judged(Verdict::Pass);
        assert_eq!(run.orders(), format!("lb/{}→", fifty + 1));
        run.until("");
        assert_eq!(run.operation.phase(), Phase::Ended(RunResult::Verified));
        assert_eq!(run.waits(), Waits::Nothing);
    }
}

#[test]
fn a_pass_that_comes_early_waits_for_its_time_and_can_be_taken_back() {
    let mut run = at_five(&world(true));
    run.judged(Verdict::Pass);
    assert_eq!(run.operation.wake_at(), Some(run.now.plus(HOLD_MS)));
    run.judged(Verdict::Hold);
    run.pass_time(HOLD_MS);
    assert_eq!((run.waits(), run.orders()), (Waits::Judge, String::new()));
    assert!(run.operation.wake_at().unwrap() > run.now, "nothing to wake up for but the deadline");
}

#[test]
fn the_judges_fail_takes_the_traffic_back_first_and_then_the_hosts() {
    for paused in [false, true] {
        let world = world(true);
        let mut run = at_five(&world);
        if paused {
            run.ask(Ask::Pause);
        }
        run.judged(Verdict::Fail);
        let five = stage_of(&run, 5);
        assert_eq!(run.orders(), format!("lb/{five}←"), "paused: {paused}");
        assert_eq!(run.operation.aborted_by(), Some(BY_THE_JUDGE));
        run.until("");
        assert_eq!(run.operation.phase(), Phase::Ended(RunResult::PutBack));
        let outcomes = run.operation.outcomes();
        let moved = outcomes.iter().filter(|row| row.outcome != Outcome::Skipped);
        assert!(moved.clone().all(|row| row.outcome == Outcome::Original), "{outcomes:?}");
        // It does not come back by another deploy.
        let mut state = opened(&world);
        for event in consequences(&run.operation, &state, Timestamp(100)) {
            state.apply(&event);
        }
        let bad = state.releases[&release("v3")].standing_on(&host("c1")).0;
        assert_eq!(bad, Standing::Bad);
        assert_eq!(state.armed, None);
        assert_eq!(consequences(&run.operation, &state, Timestamp(101)), Vec::<FleetEvent>::new());
    }
}

#[test]
fn nothing_that_is_told_together_with_a_fail_undoes_it() {
    let at_once = at_five(&world(true));
    let (five, fifty) = (stage_of(&at_once, 5), stage_of(&at_once, 50));
    let judged = |verdict| Input::Judged { stage: five, ruling: ruling(verdict) };
    let promote = || {
        let ask = Ask::Promote { to_stage: fifty };
        Input::Asked { ask, by: "ada".to_owned() }
    };
    for after in [vec![judged(Verdict::Hold)], vec![judged(Verdict::Pass)], vec![promote()]] {
        let mut run = at_five(&world(true));
        let told = [vec![judged(Verdict::Fail)], after.clone()].concat();
        for event in decide(&run.operation, told, run.now.plus(HOLD_MS)) {
            run.operation.apply(&event).unwrap();
        }
        assert_eq!(run.operation.aborted_by(), Some(BY_THE_JUDGE), "{after:?}");
        assert_eq!(run.orders(), format!("lb/{five}←"), "{after:?}");
    }
}

#[test]
fn fifty_percent_go_back_step_by_step_to_none() {
    let mut run = at_five(&world(true));
    let (five, fifty) = (stage_of(&run, 5), stage_of(&run, 50));
    run.ask(Ask::Promote { to_stage: fifty });
    run.until(&format!("lb/{fifty}→"));
    run.end("lb", TrackEnd::Done, "");
    run.judged(Verdict::Fail);
    assert_eq!(run.orders(), format!("lb/{fifty}←"));
    run.end("lb", TrackEnd::Undone, "");
    assert_eq!(run.orders(), format!("lb/{five}←"));
    run.until("");
    assert_eq!(run.operation.phase(), Phase::Ended(RunResult::PutBack));
}

#[test]
fn an_edge_that_is_unknown_at_a_weight_goes_back_from_it_before_the_weights_below() {
    let at_fifty = || {
        let mut run = at_five(&world(true));
        let fifty = stage_of(&run, 50);
        run.ask(Ask::Promote { to_stage: fifty });
        run.until(&format!("lb/{fifty}→"));
        run.lost("lb");
        // Whatever else goes back meanwhile: to take back 5 % now, and then 50 %, would leave it at 5 %.
        assert!(!run.orders().contains("lb/"), "{}", run.orders());
        run
    };
    let [five, fifty] = [5, 50].map(|weight| stage_of(&at_five(&world(true)), weight));
    let tells = [
        (vec![seen(five, Some(TrackEnd::Done)), seen(fifty, Some(TrackEnd::Done))], fifty),
        (vec![seen(five, Some(TrackEnd::Done)), seen(fifty, None)], fifty),
        (vec![seen(five, Some(TrackEnd::Done)), seen(fifty, Some(TrackEnd::Undone))], five),
        (vec![seen(five, Some(TrackEnd::Done))], five),
    ];
    for (told, first) in tells {
        for over in [false, true] {
            let mut run = at_fifty();
            if over {
                run.until("");
                assert_eq!(run.result(), RunResult::Mixed, "{told:?}");
            }
            run.back("lb", told.clone());
            let mut went = Vec::new();
            while let Some(to) = run.operation.outstanding().into_iter().next() {
                let edge =
                    run.orders().split(' ').find(|to| to.starts_with("lb/")).map(str::to_owned);
                let next = edge.as_ref().map_or(to.host.as_str(), |_| "lb").to_owned();
                went.extend(edge);
                run.end(&next, TrackEnd::Undone, "");
            }
            let mut wanted = vec![format!("lb/{five}←")];
            if first == fifty {
                wanted.insert(0, format!("lb/{fifty}←"));
            }
            assert_eq!(went, wanted, "over: {over}, {told:?}");
            assert_eq!(run.result(), RunResult::PutBack, "over: {over}, {told:?}");
        }
    }
}

/// An abort that leaves takes back what was only held: there, too, the last weight first.
#[test]
fn an_abort_that_leaves_waits_as_well_for_an_edge_that_is_unknown_at_a_later_weight() {
    for (end, first) in [(TrackEnd::Done, 50), (TrackEnd::Undone, 5)] {
        let mut run = at_five(&world(true));
        let (five, fifty) = (stage_of(&run, 5), stage_of(&run, 50));
        run.ask(Ask::Promote { to_stage: fifty });
        run.until(&format!("lb/{fifty}→"));
        run.ask(Ask::Abort(Abort::Leave));
        run.lost("lb");
        assert_eq!((run.orders(), run.result()), (String::new(), RunResult::Mixed));
        run.back("lb", vec![seen(five, Some(TrackEnd::Done)), seen(fifty, Some(end))]);
        assert_eq!(run.orders(), format!("lb/{}←", stage_of(&run, first)), "{end:?}");
        run.end("lb", TrackEnd::Undone, "");
        if first == 50 {
            assert_eq!(run.orders(), format!("lb/{five}←"));
            run.end("lb", TrackEnd::Undone, "");
        }
        assert_eq!(run.orders(), "");
        assert!(matches!(run.operation.phase(), Phase::Ended(_)), "{end:?}");
    }
}

#[test]
fn a_promotion_goes_over_time_and_judge_but_only_from_a_weight() {
    let mut run = Run::of(canary(&world(true)));
    let (five, fifty) = (stage_of(&run, 5), stage_of(&run, 50));
    assert!(!run.operation.allows(&Ask::Promote { to_stage: fifty }), "its hosts are not ready");
    run.until(&format!("lb/{five}→"));
    run.end("lb", TrackEnd::Done, "");
    assert!(!run.operation.allows(&Ask::Promote { to_stage: five }), "that is no step forward");
    run.judged(Verdict::Hold);
    run.ask(Ask::Promote { to_stage: fifty + 1 });
    // Past every weight, to all: no hold, and no word of the judge on the way.
    run.until(&format!("lb/{}→", fifty + 1));
    run.until("");
    assert_eq!(run.operation.phase(), Phase::Ended(RunResult::Verified));
}

#[test]
fn what_asks_for_a_person_goes_on_for_nobody_else() {
    let mut world = world(true);
    world.state.fleet.as_mut().unwrap().canary.as_mut().unwrap().steps[0].asks = true;
    let mut run = at_five(&world);
    run.judged(Verdict::Pass);
    run.pass_time(HOLD_MS);
    assert_eq!((run.waits(), run.orders()), (Waits::Person, String::new()));
    let fifty = stage_of(&run, 50);
    run.ask(Ask::Promote { to_stage: fifty });
    assert_eq!(run.orders(), format!("lb/{fifty}→"));
}

#[test]
fn whatever_halts_a_canary_takes_it_back() {
    // An edge that cannot set the second weight; a canary host that cannot start; the deadline.
    let mut run = at_five(&world(true));
    run.judged(Verdict::Pass);
    run.pass_time(HOLD_MS);
    run.end("lb", TrackEnd::Undone, "nginx refuses its files");
    assert_eq!(run.operation.aborted_by(), Some(BY_ITSELF));
    run.until("");
    assert_eq!(run.operation.phase(), Phase::Ended(RunResult::PutBack));

    let mut run = at_five(&world(true));
    run.now = Elapsed(run.operation.plan().deadline_ms);
    run.input(Input::Tick);
    assert_eq!(run.operation.halted(), Some("the operation's deadline has passed"));
    assert_eq!(run.operation.aborted_by(), Some(BY_ITSELF));
    run.until("");
    assert_eq!(run.operation.phase(), Phase::Ended(RunResult::PutBack));
    let again = Ask::Retry(vec![host("c1")]);
    assert!(!run.operation.allows(&again), "a canary is deployed anew");
}

#[test]
fn a_release_that_is_live_everywhere_arms_the_triggers_for_a_while() {
    let world = world(true);
    let mut run = at_five(&world);
    let last = stage_of(&run, 50) + 1;
    run.ask(Ask::Promote { to_stage: last });
    run.until("");
    let mut state = opened(&world);
    for event in consequences(&run.operation, &state, Timestamp(100)) {
        state.apply(&event);
    }
    let armed = state.armed.clone().unwrap();
    assert_eq!((armed.release, armed.until), (release("v3"), Timestamp(1_100)));
    assert_eq!(consequences(&run.operation, &state, Timestamp(101)), Vec::<FleetEvent>::new());
}

/// The states of a canary, as its table names them.
const STATES: [&str; 7] = ["prepares", "holds", "waits", "paused", "promoted", "goes back", "over"];

fn in_state(state: &str) -> Run {
    let world = world(true);
    if state == "prepares" {
        return Run::of(canary(&world));
    }
    let mut run = at_five(&world);
    match state {
        "waits" => run.pass_time(HOLD_MS),
        "paused" => run.ask(Ask::Pause),
        "promoted" => {
            let last = stage_of(&run, 50) + 1;
            run.ask(Ask::Promote { to_stage: last });
            run.until(&format!("lb/{last}→"));
        }
        "goes back" => run.judged(Verdict::Fail),
        "over" => {
            run.judged(Verdict::Fail);
            run.until("");
        }
        _ => {}
    }
    run
}

/// The published table (`deploy/canary.md`): what each verb does in each state. The first word of each cell is held here.
#[test]
fn each_verb_in_each_state_is_as_published() {
    let docs = include_str!("../../../../deploy/canary.md");
    let rows = docs.lines().filter(|line| line.starts_with('|'));
    let cells = |row: &str| -> Vec<String> {
        row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let rows: Vec<Vec<String>> = rows.map(cells).collect();
    let verbs = ["promote", "pause", "resume", "abort", "rollback"];
    let head = rows.iter().position(|row| row[1..] == verbs).expect("the table has its head");
    let verb = |run: &Run, verb: &str| -> Option<Ask> {
        let next = run.operation.stage() + 1;
        match verb {
            "promote" => Some(Ask::Promote { to_stage: next }),
            "pause" => Some(Ask::Pause),
            "resume" => Some(Ask::Resume),
            "abort" => Some(Ask::Abort(Abort::Restore)),
            _ => None,
        }
    };
    for state in STATES {
        let row = rows.iter().find(|row| row[0] == state);
        let row = row.unwrap_or_else(|| panic!("`{state}` has no row"));
        for (name, published) in rows[head][1..].iter().zip(&row[1..]) {
            let mut run = in_state(state);
            let Some(ask) = verb(&run, name) else {
                // A rollback of a fleet that a canary holds is its abort.
                let expected = match run.operation.phase() {
                    Phase::Running | Phase::Paused | Phase::Halting => "goes back",
                    Phase::Aborting(_) => "follows",
                    Phase::Ended(_) => "goes through",
                };
                assert!(published.starts_with(expected), "{state} × {name}: {published}");
                continue;
            };
            let allowed = run.operation.allows(&ask);
            assert_eq!(!published.starts_with("refused"), allowed, "{state} × {name}: {published}");
            if !allowed {
                continue;
            }
            run.ask(ask);
            let ends_in = match run.operation.phase() {
                Phase::Running => "goes on",
                Phase::Paused => "stands still",
                Phase::Halting | Phase::Aborting(_) => "goes back",
                Phase::Ended(_) => "over",
            };
            assert!(published.starts_with(ends_in), "{state} × {name}: {published}, {ends_in}");
        }
    }
}

#[test]
fn a_rollback_that_went_through_settles_what_was_proposed() {
    let world = World::usual();
    let plan = planner::rollback(&world.inventory(), &planner::Request::default()).unwrap();
    let mut run = Run::of(plan);
    run.until("");
    let mut state = opened(&world);
    let proposal = |id: &str| engine::Proposal {
        operation: operation(id),
        to: release("v2"),
        why: "error_rate 23 %".to_owned(),
        why_not_automatic: String::new(),
        severity: engine::trigger::TriggerSeverity::High,
        by: "trigger errors".to_owned(),
        at: Timestamp(1),
        until: Timestamp(900),
        decided: None,
    };
    for id in ["rb-0199", "rb-0200"] {
        state.apply(&FleetEvent::Proposed { proposal: proposal(id) });
    }
    for event in consequences(&run.operation, &state, Timestamp(100)) {
        state.apply(&event);
    }
    let how = |id: &str| {
        let decided = state.proposal(&operation(id)).unwrap().decided.clone().unwrap();
        (decided.decision, decided.by)
    };
    assert_eq!(how("rb-0199"), (engine::Decision::Expired, "rb-0200".to_owned()));
    assert_eq!(how("rb-0200"), (engine::Decision::Approved, "ada".to_owned()));
    // What is proposed later is about something new, and waits.
    state.apply(&FleetEvent::Proposed { proposal: proposal("rb-0201") });
    assert_eq!(consequences(&run.operation, &state, Timestamp(101)), Vec::<FleetEvent>::new());
}

#[test]
fn the_slot_that_waits_for_the_traffic_has_the_release_while_the_canary_is_tried() {
    let run = at_five(&world(true));
    let tried = run.operation.plan().on_target_before(run.operation.gate_in_force().unwrap());
    assert_eq!(tried, [host("c1"), host("g1"), host("g2")], "none of them is a control group");
    let run = at_five(&world(false));
    let tried = run.operation.plan().on_target_before(run.operation.gate_in_force().unwrap());
    assert_eq!(tried, [host("c1")], "the rest comes later");
    let moved = run.operation.plan().moved_hosts();
    assert_eq!(
        moved,
        [host("b1"), host("b2"), host("c1")],
        "an edge that only divides is not moved"
    );
}

#[test]
fn hosts_that_got_the_release_before_stay_armed_and_late_ones_come_to_them() {
    let world = world(true);
    let mut run = at_five(&world);
    run.ask(Ask::Promote { to_stage: stage_of(&run, 50) + 1 });
    run.until("");
    let all = |release: &str, hosts: &[&str], by: &str, until: i64| {
        let mut state = opened(&world);
        state.armed = Some(engine::Armed {
            operation: operation(by),
            release: crate::worlds::release(release),
            hosts: hosts.iter().map(|name| host(name)).collect(),
            since: Timestamp(1),
            until: Timestamp(until),
        });
        for event in consequences(&run.operation, &state.clone(), Timestamp(100)) {
            state.apply(&event);
        }
        let armed = state.armed.unwrap();
        let mut hosts: Vec<String> = armed.hosts.iter().map(ToString::to_string).collect();
        hosts.sort();
        (hosts.join(" "), armed.since)
    };
    let none = (String::from("c1 g1 g2"), Timestamp(100));
    assert_eq!(all("v2", &["b1"], "dp-0100", 1_000), none, "another release");
    assert_eq!(all("v3", &["b1"], "dp-0100", 99), none, "its time was over");
    let both = String::from("b1 c1 g1 g2");
    assert_eq!(all("v3", &["b1"], "dp-0100", 1_000), (both, Timestamp(100)));
    // The operation itself, once more: a host has told late.
    assert_eq!(all("v3", &["g1"], "rb-0200", 1_000), (none.0, Timestamp(1)));
}

#[test]
fn a_person_who_moves_the_traffic_off_the_release_leaves_nothing_to_take_back() {
    let world = world(true);
    let mut run = Run::of(planner::switch(&world.inventory(), &group("green")).unwrap());
    run.until("");
    assert!(run.operation.mitigated().is_some());
    for (armed, stays) in [("v3", false), ("v2", true)] {
        let mut state = opened(&world);
        state.armed = Some(engine::Armed {
            operation: operation("dp-0100"),
            release: release(armed),
            hosts: vec![host("b1")],
            since: Timestamp(1),
            until: Timestamp(1_000),
        });
        for event in consequences(&run.operation, &state.clone(), Timestamp(100)) {
            state.apply(&event);
        }
        assert_eq!(state.armed.is_some(), stays, "{armed}");
    }
}

#[test]
fn a_canary_that_could_not_be_one_is_refused_by_whoever_applies_it() {
    let good = world(true).state.fleet.unwrap();
    let with = |change: fn(&mut Canary)| {
        let mut fleet = good.clone();
        change(fleet.canary.as_mut().unwrap());
        fleet.check().unwrap_err().to_string()
    };
    let said = [
        with(|canary| canary.group = group("canaries")),
        with(|canary| canary.group = group("green")),
        with(|canary| canary.group = group("edge")),
        with(|canary| canary.steps.clear()),
        with(|canary| canary.steps.swap(0, 1)),
        with(|canary| canary.steps[0].weight = 0),
        with(|canary| canary.steps[2].weight = 101),
    ];
    assert_eq!(
        said,
        [
            "canary: group canaries does not exist",
            "canary: group green is a slot or the edge: a canary is neither",
            "canary: group edge is a slot or the edge: a canary is neither",
            "canary: its weights have to rise, from 1 to 100: []",
            "canary: its weights have to rise, from 1 to 100: [50, 5, 100]",
            "canary: its weights have to rise, from 1 to 100: [0, 50, 100]",
            "canary: its weights have to rise, from 1 to 100: [5, 50, 101]",
        ]
    );
}
