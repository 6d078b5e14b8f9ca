//! What is live, and whether there is a way back.

use proto::v1;

use super::{
    BAD, BOLD, DIM, GOOD, View, WARN, canary, field, paint,
    plan::fleet_and_app,
    table::{Cell, Table, styled},
    triggers, visible,
    words::{age, clean, count, day_and_time, or_dash},
};
use crate::session::quote;

/// A fleet at a glance. `operation` is the one that runs, where it was asked for; `ctl` begins each command.
pub fn status(
    view: &View,
    fleet: &v1::GetFleetResponse,
    operation: Option<&v1::Operation>,
    ctl: &str,
) -> String {
    let traffic = fleet.traffic.as_ref();
    let canary = operation.and_then(|operation| canary::Now::new(operation, traffic));
    let place = fleet_and_app(&fleet.fleet, &fleet.app);
    let head = format!("{}   {}", paint(BOLD, &place), or_dash(&fleet.environment));
    let live = canary.as_ref().and_then(shared).unwrap_or_else(|| live(&fleet.hosts, traffic));
    let live = format!("live: {live}");
    let fits = visible(&head) + 3 + visible(&live) <= view.width;
    let mut text = format!("{head}{}{live}\n", if fits { "   " } else { "\n  " });
    if !fleet.fenced.is_empty() {
        let why = format!("the coordinator sends no orders: {}", clean(&fleet.fenced));
        text += &field(view, "! Fenced", &why);
    }
    text += &hosts(view, &fleet.hosts);
    let connected = fleet.hosts.iter().filter(|host| host.connected).count();
    text += &field(view, "Agents", &format!("{connected} of {} connected", fleet.hosts.len()));
    if let Some(traffic) = &fleet.traffic {
        text += &super::traffic::now(view, traffic, ctl);
    }
    text += &field(view, "Operation", &self::operation(fleet));
    if let Some(canary) = &canary {
        text += &canary::glance(view, canary, ctl);
    }
    text += &triggers::triggers(view, &fleet.triggers);
    text += &triggers::waiting(view, &fleet.proposals, ctl);
    text += &field(view, "Deploys", &freeze(view, fleet.freeze.as_ref()));
    text += &field(view, "Way back", &way_back(fleet));
    text + &next(fleet, canary.as_ref(), ctl)
}

/// `v1.4.2 for 95 % of users, v1.4.3 for 5 %`, while a canary has a share: two releases are meant to be live then.
fn shared(canary: &canary::Now<'_>) -> Option<String> {
    let plan = canary.operation.plan.as_ref()?;
    let share = canary.observed.filter(|share| (1..100).contains(share))?;
    let (from, to) = (or_dash(&plan.from_release), or_dash(&plan.to_release));
    Some(format!("{from} for {} % of users, {to} for {share} %", 100 - share))
}

/// `v1.4.3 on 5 of 6 hosts`; where hosts differ, each release, and first the one that users get, where that is one. A
/// host that says that it has no component does not count.
fn live(hosts: &[v1::HostView], traffic: Option<&v1::TrafficView>) -> String {
    let releases = count_releases(hosts.iter());
    if let (Some(observed), [_, _, ..]) = (traffic.and_then(|t| t.observed.as_ref()), &*releases) {
        let (served, idle): (Vec<_>, Vec<_>) =
            hosts.iter().partition(|host| super::traffic::reaches(observed, host));
        if let [(release, _)] = count_releases(served.into_iter()).as_slice() {
            let others = count_releases(idle.into_iter());
            let parts = others.iter().map(|(release, on)| format!("{} on {on}", clean(release)));
            let idle = parts.collect::<Vec<_>>().join(", ");
            return format!("{} for users; idle: {idle}", clean(release));
        }
    }
    match releases.as_slice() {
        [] => "not known".to_owned(),
        [(release, on)] => {
            let empty = |host: &&v1::HostView| {
                host.status.as_ref().is_some_and(|s| s.components.is_empty())
            };
            let all = hosts.len() - hosts.iter().filter(empty).count();
            format!("{} on {on} of {}", clean(release), count(all, "host"))
        }
        many => {
            let parts = many.iter().map(|(release, on)| format!("{} on {on}", clean(release)));
            paint(WARN, &format!("mixed: {}", parts.collect::<Vec<_>>().join(", ")))
        }
    }
}

/// How many hosts each release is live on, most first.
fn count_releases<'a>(hosts: impl Iterator<Item = &'a v1::HostView>) -> Vec<(&'a str, usize)> {
    let mut releases: Vec<(&str, usize)> = Vec::new();
    for host in hosts.filter(|host| !host.live_release.is_empty()) {
        match releases.iter_mut().find(|(release, _)| *release == host.live_release) {
            Some((_, hosts)) => *hosts += 1,
            None => releases.push((&host.live_release, 1)),
        }
    }
    releases.sort_by_key(|(_, hosts)| std::cmp::Reverse(*hosts));
    releases
}

fn hosts(view: &View, hosts: &[v1::HostView]) -> String {
    let mut table = Table::new(["HOST", "GROUP", "AGENT", "LIVE", "CHECKS", "NOTES"]);
    for host in hosts {
        let notes = notes(view, host);
        let style = if notes.is_empty() { DIM } else { WARN };
        table.row([
            clean(&host.host).into(),
            clean(&host.group).into(),
            agent(view, host.connected, host.last_seen_unix_ms),
            or_dash(&host.live_release).into(),
            checks(host.status.as_ref()),
            styled(style, notes.join("; ")),
        ]);
    }
    table.render(view)
}

/// `connected`, `lost 4m ago` or `never seen`.
pub(super) fn agent(view: &View, connected: bool, last_seen_unix_ms: i64) -> Cell {
    match (connected, last_seen_unix_ms) {
        (true, _) => styled(GOOD, "connected"),
        (false, 0) => styled(DIM, "never seen"),
        (false, seen) => styled(BAD, format!("lost {} ago", age(view, seen))),
    }
}

fn checks(status: Option<&v1::HostStatus>) -> Cell {
    let checks = status.iter().flat_map(|status| &status.components);
    let checks: Vec<&v1::CheckStatus> = checks.flat_map(|component| &component.checks).collect();
    if checks.is_empty() {
        return styled(DIM, "-");
    }
    let ok = checks.iter().filter(|check| check.ok).count();
    let style = if ok == checks.len() { GOOD } else { BAD };
    styled(style, format!("{ok}/{}", checks.len()))
}

/// What is not as it should be, worst first.
fn notes(view: &View, host: &v1::HostView) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(host.alarms.iter().map(|alarm| clean(&alarm.what)));
    notes.extend(host.local_operation.as_ref().map(|local| acted_locally(view, &host.host, local)));
    for component in host.status.iter().flat_map(|status| &status.components) {
        let name = clean(&component.component);
        if component.held {
            notes.push(format!("{name} is held: its services do not start"));
        }
        for service in component.services.iter().filter(|service| !service.running) {
            notes.push(format!("{} is down", clean(&service.service)));
        }
        for check in component.checks.iter().filter(|check| !check.ok) {
            notes.push(format!("{}: {}", clean(&check.check), or_dash(&check.detail)));
        }
        if component.changed {
            notes.push(format!("{name} was changed by hand"));
        }
    }
    if host.policy_drift {
        notes.push("its policy is not the one of the fleet file".to_owned());
    }
    notes
}

/// What root did on a host itself, which nobody has looked at yet.
fn acted_locally(view: &View, host: &str, local: &v1::LocalOperation) -> String {
    let to = or_dash(&local.to_release);
    let at = day_and_time(view, local.at_unix_ms);
    let (at, by) = (at.trim(), or_dash(&local.by));
    let what = match local.ended.as_ref().map(|ended| (ended.end(), clean(&ended.reason))) {
        None => return format!("is being rolled back on the host to {to}, begun {at} by {by}"),
        Some((v1::TrackEnd::Done, _)) => format!("rolled back on the host to {to} {at} by {by}"),
        Some((v1::TrackEnd::Left, why)) => {
            format!("rolled back on the host to {to} {at} by {by}, not verified: {why}")
        }
        Some((v1::TrackEnd::Undone, why)) => {
            format!("a rollback on the host to {to} {at} by {by} was put back: {why}")
        }
        Some((v1::TrackEnd::Stuck | v1::TrackEnd::Unspecified, why)) => {
            format!("a rollback on the host to {to} {at} by {by} failed half-way: {why}")
        }
    };
    format!("{what}; look, then ctl agent acknowledge --host {}", quote(host))
}

fn operation(fleet: &v1::GetFleetResponse) -> String {
    match (fleet.operation.as_str(), fleet.operation_trace_id.as_str()) {
        ("", _) => "none".to_owned(),
        (operation, "") => clean(operation),
        (operation, trace) => format!("{}, trace {}", clean(operation), clean(trace)),
    }
}

/// Whether new deploys may go out.
pub fn freeze(view: &View, freeze: Option<&v1::Freeze>) -> String {
    match freeze {
        Some(freeze) if freeze.frozen => format!(
            "frozen by {} {}: {}",
            or_dash(&freeze.by),
            day_and_time(view, freeze.since_unix_ms).trim(),
            or_dash(&freeze.reason)
        ),
        Some(_) | None => "allowed".to_owned(),
    }
}

fn way_back(fleet: &v1::GetFleetResponse) -> String {
    if fleet.way_back.is_empty() {
        format!("none: {}", or_dash(&fleet.no_way_back))
    } else {
        let learned = fleet.way_back_source() == v1::StandingSource::Learned;
        let how =
            if learned { ", learned: no operation or person said that it is good" } else { "" };
        format!("{}{how}", clean(&fleet.way_back))
    }
}

fn next(fleet: &v1::GetFleetResponse, canary: Option<&canary::Now<'_>>, ctl: &str) -> String {
    let name = quote(&fleet.fleet);
    if let Some(canary) = canary {
        let first = match (canary.canary.waits(), canary.stands()) {
            (v1::CanaryWaits::Resume, _) => "resume",
            (v1::CanaryWaits::Person, _) => "promote",
            (_, _) => "status",
        };
        let command = |verb: &str| format!("{ctl} canary {verb} --fleet {name}");
        return format!("Next:  {} | {}\n", command(first), command("abort"));
    }
    let waits = |row: &&v1::Proposal| row.state() == v1::ProposalState::Waiting;
    if let Some(row) = fleet.proposals.iter().find(waits) {
        return format!("Next:  {ctl} approve {}\n", clean(&row.operation));
    }
    let command = match (fleet.operation.as_str(), fleet.way_back.as_str()) {
        ("", "") => format!("{ctl} releases --fleet {name}"),
        ("", _) => format!("{ctl} rollback --fleet {name} --dry-run"),
        (operation, _) => format!("{ctl} watch {}", clean(operation)),
    };
    format!("Next:  {command}\n")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::render::tests::{plain, view};

    fn host(name: &str, group: &str, release: &str, failing: &[(&str, &str)]) -> v1::HostView {
        let check = |name: &str, detail: &str, ok| v1::CheckStatus {
            check: name.to_owned(),
            ok,
            detail: detail.to_owned(),
        };
        let mut checks: Vec<v1::CheckStatus> =
            failing.iter().map(|(name, detail)| check(name, detail, false)).collect();
        checks.push(check("login", "", true));
        let component = v1::ComponentStatus {
            component: "crm".to_owned(),
            checks,
            ..v1::ComponentStatus::default()
        };
        v1::HostView {
            host: name.to_owned(),
            group: group.to_owned(),
            connected: true,
            last_seen_unix_ms: view().now.as_millisecond() - 900,
            agent_version: "0.1.0".to_owned(),
            live_release: release.to_owned(),
            policy_drift: false,
            local_operation: None,
            alarms: Vec::new(),
            status: Some(v1::HostStatus {
                components: vec![component],
                ..v1::HostStatus::default()
            }),
        }
    }

    pub(crate) fn example() -> v1::GetFleetResponse {
        v1::GetFleetResponse {
            fleet: "prod".to_owned(),
            environment: "production".to_owned(),
            app: "ace-crm".to_owned(),
            hosts: vec![
                host("crm-b1", "blue", "v1.4.3", &[]),
                host(
                    "crm-b2",
                    "blue",
                    "v1.4.3",
                    &[("backend", "GET http://127.0.0.1:5000/api/health → 503")],
                ),
            ],
            way_back: "v1.4.2".to_owned(),
            ..v1::GetFleetResponse::default()
        }
    }

    #[test]
    fn one_release_and_a_way_back() {
        insta::assert_snapshot!(plain(&status(&view(), &example(), None, "ctl")));
    }

    #[test]
    fn after_a_deploy_to_one_side_what_users_get_comes_first() {
        let mut fleet = example();
        fleet.hosts[1] = host("crm-b2", "blue", "v1.4.3", &[]);
        fleet.hosts.push(host("crm-g1", "green", "v1.4.2", &[]));
        let mut edge = host("lb-1", "edge", "", &[]);
        edge.status = Some(v1::HostStatus::default());
        fleet.hosts.push(edge);
        let blue = v1::Weights {
            groups: vec![v1::GroupWeight { group: "blue".to_owned(), percent: 100 }],
            out: Vec::new(),
        };
        let status = v1::TrafficStatus {
            asked: Some(blue.clone()),
            observed: Some(blue.clone()),
            ..v1::TrafficStatus::default()
        };
        fleet.traffic = Some(v1::TrafficView {
            observed: Some(blue),
            edges: vec![v1::EdgeView { host: "lb-1".to_owned(), status: Some(status) }],
            slots: vec!["blue".to_owned(), "green".to_owned()],
            warm: "green".to_owned(),
            warm_release: "v1.4.2".to_owned(),
            warm_until_unix_ms: view().now.as_millisecond() + 600_000,
        });
        let text = plain(&status_of(&fleet));
        insta::assert_snapshot!(text);
        // One of the hosts that users reach is elsewhere: that is a mix, and is said to be one.
        fleet.hosts[1].live_release = "v1.4.2".to_owned();
        assert!(plain(&status_of(&fleet)).contains("mixed: v1.4.2 on 2, v1.4.3 on 1"));
    }

    fn status_of(fleet: &v1::GetFleetResponse) -> String {
        status(&view(), fleet, None, "ctl")
    }

    #[test]
    fn a_canary_its_triggers_and_what_waits_for_a_person() {
        let mut fleet = example();
        fleet.hosts[1] = host("crm-b2", "blue", "v1.4.3", &[]);
        fleet.hosts.push(host("crm-c1", "canary", "v1.4.4", &[]));
        fleet.operation = "dp-0207".to_owned();
        fleet.traffic = Some(canary::tests::traffic(5));
        fleet.triggers = triggers::tests::views();
        let with_canary = status(&view(), &fleet, Some(&canary::tests::example()), "ctl");
        fleet.operation.clear();
        fleet.proposals = vec![triggers::tests::example()];
        fleet.triggers.truncate(1);
        let proposed = status(&view(), &fleet, None, "ctl");
        insta::assert_snapshot!(plain(&format!("{with_canary}\n{proposed}")));
    }

    #[test]
    fn what_root_did_on_a_host_waits_for_a_look() {
        let mut fleet = example();
        let local = |by: &str, ended| {
            Some(v1::LocalOperation {
                id: "local-20261122-101500".to_owned(),
                at_unix_ms: view().now.as_millisecond() - 600_000,
                by: by.to_owned(),
                to_release: "v1.4.2".to_owned(),
                ended,
            })
        };
        let done = v1::LocalEnd { end: v1::TrackEnd::Done.into(), reason: String::new() };
        fleet.hosts[0].local_operation = local("root", Some(done));
        fleet.hosts[0].live_release = "v1.4.2".to_owned();
        fleet.hosts[1].local_operation = local("mira (root)", None);
        insta::assert_snapshot!(plain(&status(&view(), &fleet, None, "ctl")));
    }

    #[test]
    fn what_was_left_as_bad_and_runs_again_is_said_first() {
        let mut fleet = example();
        let what = "crm runs the content of v1.4.3, which was left bad by rb-0193".to_owned();
        let alarm = v1::Problem { what, mend: "ctl rollback".to_owned(), warns: true };
        fleet.hosts[0].alarms.push(alarm);
        fleet.way_back_source = v1::StandingSource::Learned.into();
        insta::assert_snapshot!(plain(&status(&view(), &fleet, None, "ctl --context prod")));
    }

    #[test]
    fn trouble_is_said_per_host() {
        let mut fleet = example();
        let seen = view().now.as_millisecond() - 240_000;
        fleet.hosts.push(v1::HostView {
            connected: false,
            last_seen_unix_ms: seen,
            policy_drift: true,
            ..host("crm-g1", "green", "v1.4.2", &[])
        });
        fleet.hosts.push(v1::HostView {
            connected: false,
            last_seen_unix_ms: 0,
            status: None,
            ..host("lb-1", "edge", "", &[])
        });
        let component = &mut fleet.hosts[2].status.as_mut().unwrap().components[0];
        (component.held, component.changed) = (true, true);
        fleet.operation = "rb-0193".to_owned();
        (fleet.way_back, fleet.no_way_back) =
            (String::new(), "no earlier good release to go back to".to_owned());
        fleet.fenced = "an agent has seen epoch 9, this coordinator is at 8".to_owned();
        fleet.freeze = Some(v1::Freeze {
            frozen: true,
            reason: "rb-0193 took prod off v1.4.3".to_owned(),
            by: "mira".to_owned(),
            since_unix_ms: seen,
        });
        insta::assert_snapshot!(plain(&status(&view(), &fleet, None, "ctl --context prod")));
    }
}
