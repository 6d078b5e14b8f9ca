//! What holds for every plan: random fleets, pasts and requests.

use std::collections::{BTreeMap, BTreeSet};

use engine::{
    Component, ComponentName, Fleet, FleetName, Group, GroupName, HostName, LateHosts, OnFailure,
    Plan, Rollback, Share, Standing, Verb,
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
        },
    )
}

/// Up to 40 hosts in up to four groups, one of them the canary; up to three components that need each other.
fn fleet() -> impl Strategy<Value = Fleet> {
    let sizes = proptest::collection::vec(0..11usize, 1..5);
    let components = proptest::collection::vec((any::<[bool; 4]>(), any::<[bool; 3]>()), 1..4);
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
                .map(|(index, (homes, needs))| Component {
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
                    reloads: false,
                    hooks: Vec::new(),
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
    let moved = plan.hosts.iter().filter(|row| row.left_out.is_none()).count();
    for stage in plan.stages.iter().filter(|stage| stage.cuts_capacity) {
        let out = world.fleet().rollback.budget_out.of(moved);
        assert_eq!(stage.budget.out, out);
        for batch in &stage.batches {
            assert!((1..=out as usize).contains(&batch.tracks.len()));
        }
    }
    let away = plan.hosts.iter().filter(|row| row.left_out.is_none() && !row.reachable).count();
    let room = plan.stages.iter().all(|stage| away == 0 || away < stage.budget.out as usize);
    let within = away <= world.fleet().rollback.budget_unknown as usize;
    assert!(plan.stages.is_empty() || (room && within), "{away} unreachable hosts are planned");
}

/// Stop all, switch all, start all, verify all; what another needs stops after it and starts before it.
fn steps_keep_their_order(world: &World, plan: &Plan) {
    for track in plan.stages.iter().filter(|s| s.cuts_capacity).flat_map(engine::Stage::tracks) {
        let verbs: Vec<Verb> = track.steps.iter().map(|step| step.verb).collect();
        assert!(verbs.is_sorted(), "{}: {verbs:?}", track.host);
        let of = |verb: Verb| -> Vec<&ComponentName> {
            let mine = track.steps.iter().filter(|step| step.verb == verb);
            mine.map(|step| &step.component).collect()
        };
        let (stop, start) = (of(Verb::Stop), of(Verb::Start));
        assert_eq!(stop.iter().rev().collect::<Vec<_>>(), start.iter().collect::<Vec<_>>());
        assert_eq!(of(Verb::Switch), start);
        let place = |name: &ComponentName| start.iter().position(|other| *other == name);
        for component in &world.fleet().components {
            for needs in &component.needs {
                if let (Some(one), Some(other)) = (place(&component.name), place(needs)) {
                    assert!(other < one, "{} needs {needs}", component.name);
                }
            }
        }
        let verified: BTreeSet<&ComponentName> = of(Verb::Verify).into_iter().collect();
        let home: &GroupName = world.fleet().group_of(&track.host).unwrap();
        let all = world.fleet().components_of(home).into_iter().map(|component| &component.name);
        assert_eq!(verified, all.collect(), "everything on the host is verified");
    }
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
