//! Where the traffic goes in each plan, case by case.

use std::collections::BTreeMap;

use engine::{
    Artefact, FleetEvent, Left, Plan, Standing, Timestamp, Warm,
    planner::{self, Deploy, Refusal, Request, Strategy},
};

use crate::worlds::{World, component, group, host, operation, release, show};

const NOW: Timestamp = Timestamp(1_000_000);

fn bare(world: &World) -> Result<Plan, Refusal> {
    planner::rollback(&world.inventory(), &Request::default())
}

fn deploy(world: &World, name: &str, strategy: Strategy) -> Result<Plan, Refusal> {
    let request = Deploy {
        release: release(name),
        strategy,
        hosts: vec![],
        across_migrations: false,
        give_up_warm: false,
    };
    planner::deploy(&world.inventory(), &request, NOW)
}

/// The usual one, and v3 on all hosts.
fn with_v3() -> World {
    let mut world = World::with_traffic();
    world.release("v3", 3);
    world
}

fn made_of(world: &mut World, name: &str) {
    let (source, digest) = ("builds".to_owned(), format!("sha256:{}", "0".repeat(64)));
    let made = Artefact { source, name: format!("{name}.tar"), digest };
    let artefacts = BTreeMap::from([(component("crm"), made)]);
    let (release, by, at) = (release(name), "ada".to_owned(), Timestamp(3));
    world.state.apply(&FleetEvent::Created { release, artefacts, by, at });
}

#[test]
fn a_rollback_moves_users_to_the_side_that_is_good_and_repairs_after() {
    insta::assert_snapshot!(show(&bare(&World::with_traffic()).unwrap()));
}

#[test]
fn a_side_that_only_holds_the_release_is_made_ready_first() {
    let mut world = World::with_traffic();
    world.live("v2");
    insta::assert_snapshot!(show(&bare(&world).unwrap()));
}

#[test]
fn two_edges_test_before_one_commits() {
    let mut world = World::with_traffic();
    world.second_edge();
    let plan = bare(&world).unwrap();
    let names: Vec<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(
        names,
        ["check green", "test traffic", "shift traffic", "drain", "prepare", "restore blue"]
    );
    assert_eq!(plan.stages[2].held_until, Some(3));
    assert_eq!(plan.stages[2].tracks().count(), 2);
}

#[test]
fn where_the_edges_say_nothing_certain_hosts_are_restored_in_place() {
    let mut away = World::with_traffic();
    away.away("lb");
    let mut mute = World::with_traffic();
    mute.hosts.get_mut(&host("lb")).unwrap().weights = None;
    let mut differ = World::with_traffic();
    differ.second_edge();
    differ.traffic(&[("green", 100)]);
    let other = differ.hosts[&host("lb")].clone();
    differ.traffic(&[("blue", 100)]);
    differ.hosts.insert(host("lb2"), other);
    let expected = [
        (away, "edge lb is out of reach"),
        (mute, "edge lb cannot tell how it divides the traffic"),
        (differ, "edges differ: lb has blue 100 %, lb2 has green 100 %"),
    ];
    for (world, why) in expected {
        let plan = bare(&world).unwrap();
        assert!(plan.warnings.iter().any(|warning| warning.starts_with(why)), "{plan:#?}");
        let names: Vec<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["prepare", "restore"]);
        assert!(plan.weights_after.is_none());
        let said = planner::immovable(&world.inventory()).unwrap();
        assert!(said.starts_with(why), "{said}");
    }
    assert_eq!(planner::immovable(&World::with_traffic().inventory()), None);
    assert_eq!(planner::immovable(&World::usual().inventory()), None);
}

#[test]
fn what_no_user_gets_is_not_live() {
    // The idle side has the newer release: going back starts from what users have.
    let mut world = with_v3();
    world.live_on(&["g1", "g2"], "v3");
    let plan = bare(&world).unwrap();
    assert_eq!((plan.from.clone(), plan.to.clone()), (Some(release("v2")), Some(release("v1"))));
}

#[test]
fn a_bare_rollback_twice_changes_nothing_whatever_the_side_without_traffic_runs() {
    let mut world = with_v3();
    world.live_on(&["b1", "b2"], "v2");
    world.live_on(&["g1", "g2"], "v3");
    let (release, operation) = (release("v2"), operation("rb-0009"));
    world.state.apply(&FleetEvent::RolledBackTo { release, operation });
    let plan = bare(&world).unwrap();
    assert!(plan.nothing_to_do(), "{}", show(&plan));
    let green = plan.hosts.iter().find(|row| row.host == host("g1")).unwrap();
    assert_eq!(green.left_out.as_deref(), Some("has no traffic; it stays as it is"));
}

#[test]
fn in_place_and_a_part_of_the_fleet_leave_the_traffic_where_it_is() {
    let world = World::with_traffic();
    let in_place = Request { in_place: true, ..Request::default() };
    let plan = planner::rollback(&world.inventory(), &in_place).unwrap();
    assert!(plan.weights_after.is_none() && plan.stages.len() == 2);
    let part = Request { hosts: vec![host("b1")], ..Request::default() };
    let plan = planner::rollback(&world.inventory(), &part).unwrap();
    insta::assert_snapshot!(show(&plan));
}

#[test]
fn the_only_host_of_a_group_cannot_be_taken_out() {
    let mut world = World::with_traffic();
    let fleet = world.state.fleet.as_mut().unwrap();
    fleet.groups[0].hosts.truncate(1);
    world.hosts.remove(&host("b2"));
    let part = Request { hosts: vec![host("b1")], ..Request::default() };
    let plan = planner::rollback(&world.inventory(), &part).unwrap();
    let why = "b1 cannot be taken out of the traffic: its group would have no other host; it is out from stop to start";
    assert!(plan.warnings.iter().any(|warning| warning == why), "{:?}", plan.warnings);
}

#[test]
fn a_blue_green_deploy_takes_a_whole_slot() {
    let one = Deploy {
        release: release("v3"),
        strategy: Strategy::BlueGreen,
        hosts: vec![host("g1")],
        across_migrations: false,
        give_up_warm: false,
    };
    let refused = planner::deploy(&with_v3().inventory(), &one, NOW).unwrap_err();
    assert!(matches!(refused, Refusal::Traffic(_)), "{refused}");
    let rolling = Deploy { strategy: Strategy::Rolling, ..one };
    assert!(planner::deploy(&with_v3().inventory(), &rolling, NOW).is_ok());
}

#[test]
fn a_blue_green_deploy_and_a_rolling_one() {
    let world = with_v3();
    let blue_green = show(&deploy(&world, "v3", Strategy::BlueGreen).unwrap());
    let rolling = show(&deploy(&world, "v3", Strategy::Rolling).unwrap());
    insta::assert_snapshot!(format!("{blue_green}\n{rolling}"));
}

#[test]
fn a_switch() {
    let world = World::with_traffic();
    let plan = planner::switch(&world.inventory(), &group("green")).unwrap();
    insta::assert_snapshot!(show(&plan));
    let there = planner::switch(&world.inventory(), &group("blue")).unwrap();
    assert!(there.nothing_to_do());
}

#[test]
fn the_first_switch_sets_what_no_edge_has_yet() {
    let mut world = World::with_traffic();
    world.hosts.get_mut(&host("lb")).unwrap().weights = None;
    let plan = planner::switch(&world.inventory(), &group("blue")).unwrap();
    assert_eq!((plan.weights_before.clone(), plan.stages.len()), (None, 3));
    assert!(plan.why_target.contains("no common division"), "{}", plan.why_target);
}

#[test]
fn a_fetch_goes_to_every_host_that_can_be_reached() {
    let mut world = World::with_traffic();
    made_of(&mut world, "v3");
    world.away("b2");
    insta::assert_snapshot!(show(&planner::fetch(&world.inventory(), &release("v3")).unwrap()));
}

#[test]
fn what_all_slots_share_goes_back_in_a_full_outage() {
    let mut world = World::new(
        &[("blue", &["b1"]), ("green", &["g1"]), ("db", &["d1"])],
        &[("data", &[]), ("crm", &["data"])],
    );
    world.component("data").groups = vec![group("db")];
    world.component("data").shared = true;
    world.component("crm").groups = vec![group("blue"), group("green")];
    for (name, age) in [("v1", 1), ("v2", 2)] {
        world.release(name, age);
        world.proven(name, &["b1", "g1", "d1"], Standing::Good);
    }
    world.live("v2");
    world.live_on(&["g1"], "v1");
    insta::assert_snapshot!(show(&bare(&world).unwrap()));
}

#[test]
fn going_forward_is_refused_before_anything_changes() {
    let reason = || "it loses mail".to_owned();
    let mut frozen = with_v3();
    let (by, at) = ("ada".to_owned(), Timestamp(5));
    frozen.state.apply(&FleetEvent::Frozen { by, reason: reason(), at });
    let mut bad = with_v3();
    bad.marked("v3", Standing::Bad, "it loses mail");
    let mut unfetched = World::with_traffic();
    made_of(&mut unfetched, "v3");
    let mut warm = with_v3();
    let (release_left, operation_left) = (release("v1"), operation("dp-0004"));
    let kept = Warm {
        group: group("green"),
        release: release_left,
        until: Timestamp(NOW.0 + 1),
        operation: operation_left,
    };
    warm.state.apply(&FleetEvent::SideLeft { warm: Some(kept), at: Timestamp(5) });
    let mut away = with_v3();
    away.away("lb");
    let mut split = with_v3();
    split.traffic(&[("blue", 50), ("green", 50)]);
    let mut no_traffic = with_v3();
    no_traffic.state.fleet.as_mut().unwrap().traffic = None;
    let rows = [
        (&frozen, "v3", "the fleet is frozen by ada: it loses mail"),
        (&bad, "v3", "v3 is marked bad: it loses mail"),
        (&bad, "v9", "release `v9` is not known"),
        (
            &unfetched,
            "v3",
            "v3 is not on every host yet: g1 (no snapshot of crm), g2 (no snapshot of crm)",
        ),
        (&warm, "v3", "green still runs v1, kept as the way back"),
        (&away, "v3", "the traffic cannot be moved: edge lb is out of reach"),
        (
            &split,
            "v3",
            "the traffic cannot be moved: every slot has traffic (blue 50 %, green 50 %): none is free for a new release",
        ),
        (&no_traffic, "v3", "the traffic cannot be moved: the fleet file has no `traffic`"),
    ];
    for (world, name, why) in rows {
        let refused = deploy(world, name, Strategy::BlueGreen).unwrap_err();
        assert_eq!(refused.to_string(), why);
    }
    let request = Deploy {
        release: release("v3"),
        strategy: Strategy::BlueGreen,
        hosts: vec![],
        across_migrations: false,
        give_up_warm: true,
    };
    assert!(planner::deploy(&warm.inventory(), &request, NOW).is_ok());
    assert!(bare(&frozen).is_ok(), "going back asks no freeze");
}

#[test]
fn bad_content_is_refused_whatever_its_name() {
    let mut world = with_v3();
    let (component, content) = (component("crm"), "beef".to_owned());
    let hash = crate::worlds::snapshot("g1", "crm", "v3");
    let seen = engine::SeenSnapshot {
        snapshot: hash,
        content: content.clone(),
        version: None,
        taken_at: Timestamp(3),
    };
    world.state.apply(&FleetEvent::SnapshotSeen {
        host: host("g1"),
        component: component.clone(),
        release: release("v3"),
        seen,
    });
    let (operation, at) = (operation("rb-0003"), Timestamp(4));
    let left = Left { release: release("v2.1"), component, content, operation };
    world.state.apply(&FleetEvent::Left { left, at });
    world.proven("v2.1", &["b1"], Standing::Bad);
    let refused = deploy(&world, "v3", Strategy::BlueGreen).unwrap_err().to_string();
    assert_eq!(refused, "crm of v3 is the content of v2.1, which was left bad by rb-0003");
}

#[test]
fn a_switch_is_refused_where_the_other_side_is_not_known_to_be_fit() {
    let mut away = World::with_traffic();
    away.away("g2");
    let mut mixed = World::with_traffic();
    mixed.live_on(&["g2"], "v2");
    let mut bad = World::with_traffic();
    bad.marked("v1", Standing::Bad, "it loses mail");
    let mut frozen = with_v3();
    frozen.live_on(&["g1", "g2"], "v3");
    let (by, reason, at) = ("ada".to_owned(), "an incident".to_owned(), Timestamp(5));
    frozen.state.apply(&FleetEvent::Frozen { by, reason, at });
    let rows = [
        (
            &away,
            "green",
            "the traffic cannot be moved: g2 of green is out of reach: its health cannot be seen",
        ),
        (
            &mixed,
            "green",
            "the traffic cannot be moved: the hosts of green do not run one and the same release",
        ),
        (&bad, "green", "v1 is marked bad: it loses mail"),
        (&frozen, "green", "the fleet is frozen by ada: an incident"),
        (&away, "red", "slot `red` is not known"),
    ];
    for (world, to, why) in rows {
        let refused = planner::switch(&world.inventory(), &group(to)).unwrap_err();
        assert_eq!(refused.to_string(), why);
    }
    // To an older one is going back.
    let mut back = World::with_traffic();
    let (by, reason, at) = ("ada".to_owned(), "an incident".to_owned(), Timestamp(5));
    back.state.apply(&FleetEvent::Frozen { by, reason, at });
    assert!(planner::switch(&back.inventory(), &group("green")).is_ok());
}
