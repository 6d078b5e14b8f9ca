//! What holds for every plan: random fleets, pasts and requests.

use std::collections::{BTreeMap, BTreeSet};

use engine::{
    Component, ComponentName, Fleet, FleetName, Group, GroupName, Hook, HookPoint, HostName,
    LateHosts, OnFailure, Plan, Rollback, Share, Stage, Standing, Step, Track, Verb,
    planner::{self, Refusal, Request},
};
use proptest::prelude::*;

use crate::worlds::{World, component, group, host, release};

const RELEASES: [&str; 5] = ["v0", "v1", "v2", "v3", "v4"];

fn share() -> impl Strategy<Value = Share> {
    prop_oneof![(1..12u32).prop_map(Share::Hosts), (1..=100u8).prop_map(Share::Percent)]
}

fn strategy() -> impl Strategy<Value = Rollback> {
    let batches = proptest::collection::vec(share(), 1..4);
    (batches, 0..4u32, 0..12u32, share(), any::<bool>(), any::<bool>(), 0..2u64).prop_map(
        |(batches, failed, unknown, out, restore, late, soak)| Rollback {
            batches,
            budget_failed: failed,
            budget_unknown: unknown,
            budget_out: out,
            on_failure: if restore { OnFailure::Restore } else { OnFailure::Leave },
            late_hosts: if late { LateHosts::Rollback } else { LateHosts::Wait },
            deadline_ms: 900_000,
            soak_ms: soak * 10_000,
            unknown_after_ms: 30_000,
            traffic_first: true,
        },
    )
}

const POINTS: [HookPoint; 4] =
    [HookPoint::BeforeStop, HookPoint::BeforeStart, HookPoint::AfterStart, HookPoint::AfterVerify];

/// Up to 40 hosts in up to four groups, one of them the canary; up to four components that need each other, some of
/// which reload and some of which have hooks.
fn fleet() -> impl Strategy<Value = Fleet> {
    let sizes = proptest::collection::vec(0..11usize, 1..5);
    let hooks = proptest::sample::subsequence(POINTS.to_vec(), 0..3);
    let row = (any::<[bool; 4]>(), any::<[bool; 3]>(), any::<bool>(), hooks);
    let components = proptest::collection::vec(row, 1..5);
    (sizes, components, strategy(), any::<bool>()).prop_map(
        |(sizes, components, rollback, turn)| {
            let names = ["blue", "canary", "green", "edge"];
            let groups: Vec<Group> = sizes
                .iter()
                .zip(names)
                .map(|(size, name)| Group {
                    name: group(name),
                    hosts: (0..*size).map(|n| host(&format!("{name}-{n}"))).collect(),
                })
                .collect();
            let mut components: Vec<Component> = components
                .into_iter()
                .enumerate()
                .map(|(index, (homes, needs, reloads, hooks))| Component {
                    name: component(&format!("c{index}")),
                    groups: groups
                        .iter()
                        .zip(homes)
                        .filter(|(_, home)| *home)
                        .map(|(group, _)| group.name.clone())
                        .collect(),
                    needs: (0..index)
                        .filter(|other| needs[*other])
                        .map(|other| component(&format!("c{other}")))
                        .collect(),
                    services: vec![],
                    stop_within_ms: 1_000,
                    ready_within_ms: 1_000,
                    stable_for_ms: 1_000,
                    reloads,
                    hooks: hooks
                        .into_iter()
                        .map(|at| Hook { name: format!("{at:?}"), at, within_ms: 1_000 })
                        .collect(),
                    shared: false,
                })
                .collect();
            if turn {
                components.reverse();
            }
            Fleet {
                name: FleetName::new("prod").unwrap(),
                environment: String::new(),
                app: "crm".to_owned(),
                groups,
                components,
                rollback,
                policy_hashes: BTreeMap::new(),
                traffic: None,
                canary: None,
                triggers: Vec::new(),
            }
        },
    )
}

/// What a host is like: its live release, changed by hand, out of reach; and each release's snapshot on it.
type HostDraw = (usize, bool, bool, [u8; 5]);

fn world() -> impl Strategy<Value = World> {
    let hosts = proptest::collection::vec(
        (0..12usize, prop::bool::weighted(0.05), prop::bool::weighted(0.05), any::<[u8; 5]>()),
        44,
    );
    let standings = any::<[u8; 5]>();
    (fleet(), hosts, standings).prop_map(|(fleet, hosts, standings)| draw(fleet, &hosts, standings))
}

fn draw(fleet: Fleet, hosts: &[HostDraw], standings: [u8; 5]) -> World {
    let names: Vec<String> = fleet.hosts().map(|(host, _)| host.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = World::of(fleet);
    for ((name, age), standing) in RELEASES.into_iter().zip(0..).zip(standings) {
        world.release(name, age);
        match standing % 8 {
            0 => world.marked(name, Standing::Bad, "drawn"),
            1 => {}
            2 => world.proven(name, &names[..names.len() / 2], Standing::Good),
            _ => world.proven(name, &names, Standing::Good),
        }
    }
    for (name, (live, changed, away, kept)) in names.iter().zip(hosts) {
        // Most hosts are on the newest; some on nothing known.
        if let Some(release) = RELEASES.get(4_usize.saturating_sub(live / 3)).filter(|_| *live < 11)
        {
            world.live_on(&[name], release);
        }
        for row in world.hosts.get_mut(&host(name)).unwrap().live.values_mut() {
            row.changed = *changed;
        }
        for (release, kept) in RELEASES.into_iter().zip(kept) {
            match kept {
                0..4 => world.missing(name, release),
                4..8 => world.damaged(name, release, "drawn"),
                _ => {}
            }
        }
        if *away {
            world.away(name);
        }
    }
    world
}

fn request(hosts: &[HostName]) -> impl Strategy<Value = Request> + use<> {
    let to = proptest::option::of(proptest::sample::select(RELEASES.to_vec()));
    let some = proptest::sample::subsequence(hosts.to_vec(), 0..=hosts.len().min(3));
    (to, some).prop_map(|(to, hosts)| Request { to: to.map(release), hosts, ..Request::default() })
}

fn asked() -> impl Strategy<Value = (World, Request)> {
    world().prop_flat_map(|world| {
        let hosts: Vec<HostName> = world.fleet().hosts().map(|(host, _)| host.clone()).collect();
        (Just(world), request(&hosts))
    })
}

/// Every host of the fleet once: planned, or left out for a reason that is said.
fn p07_every_host_is_accounted_for(world: &World, plan: &Plan) {
    let fleet: Vec<&HostName> = world.fleet().hosts().map(|(host, _)| host).collect();
    let listed: Vec<&HostName> = plan.hosts.iter().map(|row| &row.host).collect();
    assert_eq!(listed, fleet);
    for row in &plan.hosts {
        let tracks = plan.stages.iter().flat_map(engine::Stage::tracks);
        let planned = tracks.filter(|track| track.host == row.host).count();
        match &row.left_out {
            Some(why) => assert!(planned == 0 && !why.is_empty(), "{}", row.host),
            None => assert!((1..=plan.stages.len()).contains(&planned), "{}", row.host),
        }
        assert_eq!(row.reachable, world.hosts.contains_key(&row.host));
    }
}

fn p07_no_batch_is_over_budget(world: &World, plan: &Plan) {
    let strategy = &world.fleet().rollback;
    let away = |track: &&Track| !world.hosts.contains_key(&track.host);
    let mut all = BTreeSet::new();
    for stage in plan.stages.iter().filter(|stage| stage.cuts_capacity) {
        let hosts = stage.tracks().count();
        let out = strategy.budget_out.of(hosts);
        assert_eq!(stage.budget.out, out, "a share of the hosts of the stage");
        for batch in &stage.batches {
            assert!((1..=out as usize).contains(&batch.tracks.len()));
        }
        let away: Vec<&Track> = stage.tracks().filter(away).collect();
        let room = away.is_empty() || away.len() < out as usize || away.len() == hosts;
        assert!(room, "{} of {hosts} are away in `{}`, {out} may be out", away.len(), stage.name);
        all.extend(away.into_iter().map(|track| track.host.clone()));
    }
    assert!(all.len() <= strategy.budget_unknown as usize, "{} unreachable hosts", all.len());
    let mut moved =
        plan.stages.iter().filter(|s| s.cuts_capacity).flat_map(Stage::tracks).peekable();
    let none = moved.peek().is_some() && moved.all(|track| away(&track));
    assert!(!none, "a plan that can move no host is none");
}

/// Hooks that come before a stop, stop all, switch all, hooks, start or reload all, hooks, verify all, hooks.
fn steps_keep_their_order(world: &World, plan: &Plan) {
    for track in plan.stages.iter().filter(|s| s.cuts_capacity).flat_map(Stage::tracks) {
        let ranks: Vec<u8> = track.steps.iter().map(|step| rank(world, step)).collect();
        assert!(ranks.is_sorted(), "{}: {:?}", track.host, track.steps);
        let of = |wanted: fn(Verb) -> bool| -> Vec<&ComponentName> {
            let mine = track.steps.iter().filter(|step| wanted(step.verb));
            mine.map(|step| &step.component).collect()
        };
        let reloads = |name: &ComponentName| component_of(world, name).reloads;
        let stops = of(|verb| verb == Verb::Stop);
        let begins = of(|verb| matches!(verb, Verb::Start | Verb::Reload));
        let starts: Vec<&ComponentName> = begins.iter().copied().filter(|c| !reloads(c)).collect();
        assert_eq!(stops.iter().rev().collect::<Vec<_>>(), starts.iter().collect::<Vec<_>>());
        assert_eq!(of(|verb| verb == Verb::Switch), begins, "what is switched is read anew");
        let reloaded = of(|verb| verb == Verb::Reload);
        assert!(reloaded.iter().all(|name| reloads(name)), "only what reloads is reloaded");
        let place = |name: &ComponentName| begins.iter().position(|other| *other == name);
        for component in &world.fleet().components {
            for needs in &component.needs {
                if let (Some(one), Some(other)) = (place(&component.name), place(needs)) {
                    assert!(other < one, "{} needs {needs}", component.name);
                }
            }
        }
    }
}

fn rank(world: &World, step: &Step) -> u8 {
    let hook = step.hook.as_ref().map(|name| {
        let hooks = &component_of(world, &step.component).hooks;
        hooks.iter().find(|hook| hook.name == *name).expect("a declared hook").at
    });
    match (step.verb, hook) {
        (Verb::Hook, Some(HookPoint::BeforeStop)) => 0,
        (Verb::Stop, None) => 1,
        (Verb::Switch, None) => 2,
        (Verb::Hook, Some(HookPoint::BeforeStart)) => 3,
        (Verb::Start | Verb::Reload, None) => 4,
        (Verb::Hook, Some(HookPoint::AfterStart)) => 5,
        (Verb::Verify, None) => 6,
        (Verb::Hook, Some(HookPoint::AfterVerify)) => 7,
        other => panic!("{other:?} in a stage that cuts"),
    }
}

fn component_of<'a>(world: &'a World, name: &ComponentName) -> &'a Component {
    world.fleet().components.iter().find(|row| row.name == *name).unwrap()
}

/// All hooks of what is switched, none of what is only verified; and what they did is said not to go back.
fn hooks_run_where_something_moves(world: &World, plan: &Plan) {
    for track in plan.stages.iter().flat_map(Stage::tracks) {
        let mut expected: Vec<(&ComponentName, &str)> = Vec::new();
        for step in track.steps.iter().filter(|step| step.verb == Verb::Switch) {
            let hooks = &component_of(world, &step.component).hooks;
            expected.extend(hooks.iter().map(|hook| (&step.component, hook.name.as_str())));
        }
        let mut found: Vec<(&ComponentName, &str)> =
            track.steps.iter().filter_map(|s| Some((&s.component, s.hook.as_deref()?))).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{}", track.host);
        for (component, hook) in found {
            let said =
                plan.not_rolled_back.iter().any(|t| t.contains(&format!("{hook} of {component}")));
            assert!(said, "{:?}", plan.not_rolled_back);
        }
    }
}

/// Everything on a planned host is verified after its last change, and a host acts in one stage beside prepare.
fn p03_everything_is_verified_in_the_end(world: &World, plan: &Plan) {
    for row in plan.hosts.iter().filter(|row| row.left_out.is_none()) {
        let tracks = plan.stages.iter().flat_map(Stage::tracks).filter(|t| t.host == row.host);
        let verifies = |track: &&Track| track.steps.iter().any(|step| step.verb == Verb::Verify);
        let last: Vec<&Track> = tracks.filter(verifies).collect();
        assert_eq!(last.len(), 1, "{} acts in one stage beside prepare", row.host);
        let place = |verb: Verb, component: &ComponentName| {
            last[0].steps.iter().rposition(|s| s.verb == verb && s.component == *component)
        };
        for component in world.fleet().components_of(&row.group) {
            let verified = place(Verb::Verify, &component.name).expect("everything is verified");
            for verb in [Verb::Stop, Verb::Switch, Verb::Start, Verb::Reload] {
                assert!(place(verb, &component.name).is_none_or(|at| at < verified));
            }
        }
    }
}

/// What another host needs, itself or through others, moves in an earlier stage than it moves or looks; but for
/// groups that need each other.
fn the_edge_comes_after_what_it_needs(world: &World, plan: &Plan) {
    let fleet = world.fleet();
    let stage_of = |host: &HostName| {
        let verifies = |track: &Track| track.steps.iter().any(|step| step.verb == Verb::Verify);
        plan.stages.iter().position(|s| s.tracks().any(|t| t.host == *host && verifies(t)))
    };
    let moves = |host: &HostName| {
        let mut tracks = plan.stages.iter().flat_map(Stage::tracks).filter(|t| t.host == *host);
        tracks.any(|track| track.steps.iter().any(|step| step.verb == Verb::Switch))
    };
    let needs = chains(fleet);
    for (host, group) in fleet.hosts() {
        for (other, home) in fleet.hosts() {
            let (Some(mine), Some(theirs)) = (stage_of(host), stage_of(other)) else { continue };
            if !needs.contains(&(group, home)) {
                continue;
            }
            let circle = needs.contains(&(home, group));
            if moves(host) && moves(other) {
                assert_eq!(theirs < mine, !circle, "{host} needs {other}");
            } else if moves(other) {
                assert!(theirs < mine, "{host} looks at {other}");
                assert!(!plan.stages[mine].cuts_capacity, "to look cuts nothing");
                assert_eq!(mine, plan.stages.len() - 1, "users are asked last");
            }
        }
    }
}

/// Pairs of groups of which the first needs what lives on hosts of the second and not on its own, through any number
/// of others. By rounds over all pairs, so that it shares nothing with the planner.
fn chains(fleet: &Fleet) -> BTreeSet<(&GroupName, &GroupName)> {
    let lives = |component: &Component, group: &Group| {
        component.groups.contains(&group.name) && !group.hosts.is_empty()
    };
    let nowhere = |component: &Component| !fleet.groups.iter().any(|group| lives(component, group));
    let find = |name: &ComponentName| fleet.components.iter().find(|c| c.name == *name).unwrap();
    let mut pairs = BTreeSet::new();
    for group in &fleet.groups {
        let mut wanted: Vec<&Component> =
            fleet.components.iter().filter(|c| c.groups.contains(&group.name)).collect();
        for _ in 0..fleet.components.len() {
            let needed: Vec<&Component> = wanted.iter().flat_map(|c| &c.needs).map(&find).collect();
            let elsewhere = needed.into_iter().filter(|c| !c.groups.contains(&group.name));
            let elsewhere: Vec<&Component> = elsewhere.collect();
            for component in &elsewhere {
                let homes = fleet.groups.iter().filter(|home| lives(component, home));
                pairs.extend(homes.map(|home| (&group.name, &home.name)));
            }
            wanted = elsewhere.into_iter().filter(|component| nowhere(component)).collect();
        }
    }
    for _ in 0..fleet.groups.len() {
        let more: Vec<_> = pairs
            .iter()
            .flat_map(|(a, b)| {
                pairs.iter().filter(move |(c, _)| c == b).map(move |(_, d)| (*a, *d))
            })
            .collect();
        pairs.extend(more);
    }
    pairs
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn p07_every_plan_holds_and_equal_inventories_give_equal_plans((world, request) in asked()) {
        let planned = planner::rollback(&world.inventory(), &request);
        prop_assert_eq!(&planned, &planner::rollback(&world.inventory(), &request));
        match planned {
            Ok(plan) => {
                p07_every_host_is_accounted_for(&world, &plan);
                p07_no_batch_is_over_budget(&world, &plan);
                steps_keep_their_order(&world, &plan);
                hooks_run_where_something_moves(&world, &plan);
                p03_everything_is_verified_in_the_end(&world, &plan);
                the_edge_comes_after_what_it_needs(&world, &plan);
                let text = serde_json::to_string(&plan).unwrap();
                prop_assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan, "read as written");
            }
            Err(Refusal::Defect(error)) => prop_assert!(false, "{}", error),
            Err(_) => {}
        }
    }

    /// A bare rollback never goes to a release that is not good on every planned host, nor forward.
    #[test]
    fn a_bare_rollback_goes_to_a_good_release_only((world, request) in asked()) {
        let request = Request { to: None, ..request };
        if let Ok(plan) = planner::rollback(&world.inventory(), &request) {
            let to = plan.to.clone().unwrap();
            for row in plan.hosts.iter().filter(|row| row.left_out.is_none()) {
                let standing = world.state.releases[&to].standing_on(&row.host).0;
                prop_assert_eq!(standing, Standing::Good, "{} on {}", to, row.host);
            }
            let newest = plan.hosts.iter().filter(|r| r.left_out.is_none()).filter_map(|r| r.from.as_ref()).max();
            prop_assert!(newest.is_none_or(|newest| to < *newest), "{} is not older", to);
        }
    }
}
