//! What must hold of a fleet file beyond its form.
//!
//! ```text
//! names and references ─▶ each component's lists ─▶ what meets on one host ─▶ rollback, traffic, canary, …
//! ```
//!
//! Invariant: every problem is reported at once, each with its place and what mends it.
//! Invariant: a fleet file without problems gives policies without problems.

mod canary;
mod sections;
mod triggers;

use std::collections::{BTreeMap, BTreeSet};

use proto::policy::{
    ComponentPolicy, ServicePolicy,
    check::{self, Placed},
    yaml::{At, Problem, Report, mend_word},
};

use super::{Component, FleetFile, policy::component_on};

/// How a Prometheus is given what is secret.
const AT_THE_COORDINATOR: &str = "the coordinator's `--prometheus-credentials`";

/// Checks a fleet file that was read from the document at `at`. Fails with every problem, in the order of the file.
pub(super) fn check(fleet: &FleetFile, at: At<'_>) -> Result<(), Vec<Problem>> {
    let mut report = Report::default();
    check::name(&fleet.fleet, "fleet", at.key("fleet"), &mut report);
    check::name(&fleet.app, "app", at.key("app"), &mut report);
    text(&fleet.environment, at.key("environment"), &mut report);
    hosts(fleet, at.name("hosts"), &mut report);
    if fleet.components.is_empty() {
        report.add(
            at.name("components"),
            "the fleet has no component",
            "name what goes back as one piece",
        );
    }
    for (name, component) in &fleet.components {
        let at = at.key("components").name(name);
        check::component_name(name, at, &mut report);
        self::component(fleet, name, component, at, &mut report);
    }
    cycles(&fleet.components, at.key("components"), &mut report);
    hosts_side_by_side(fleet, at.key("components"), &mut report);
    check::sources(&fleet.sources, at.key("sources"), &mut report);

    sections::rollback(&fleet.rollback, at.key("rollback"), &mut report);
    if let Some(traffic) = &fleet.traffic {
        sections::traffic(fleet, traffic, at.key("traffic"), &mut report);
    }
    if let Some(canary) = &fleet.canary {
        canary::check(fleet, canary, at.key("canary"), &mut report);
    }
    for (name, trigger) in &fleet.triggers {
        let at = at.key("triggers").name(name);
        check::name(name, "trigger", at, &mut report);
        triggers::check(fleet, trigger, at, &mut report);
    }
    if let Some(approvals) = &fleet.approvals {
        sections::approvals(approvals, at.key("approvals"), &mut report);
    }
    if let Some(notify) = &fleet.notify {
        sections::notify(notify, at.key("notify"), &mut report);
    }
    report.finish()
}

fn hosts(fleet: &FleetFile, at: At<'_>, report: &mut Report) {
    if fleet.all_hosts().next().is_none() {
        report.add(
            at,
            "the fleet has no host",
            "name a group and its hosts, like `blue: [web-1, web-2]`",
        );
    }
    let mut groups: BTreeMap<&str, &str> = BTreeMap::new();
    for (group, hosts) in &fleet.hosts {
        check::name(group, "group", at.name(group), report);
        for (index, host) in hosts.iter().enumerate() {
            let at = at.key(group).item(index);
            check::name(host, "host", at, report);
            if let Some(other) = groups.insert(host, group) {
                let place = if other == group {
                    "twice in".to_owned()
                } else {
                    format!("in group `{other}` and in")
                };
                report.add(
                    at,
                    format!("host `{host}` is {place} group `{group}`"),
                    "keep it in one place",
                );
            }
        }
    }
}

fn component(
    fleet: &FleetFile,
    name: &str,
    component: &Component,
    at: At<'_>,
    report: &mut Report,
) {
    if component.hosts.is_empty() {
        report.add(
            at.key("hosts"),
            format!("component `{name}` has no group of hosts"),
            "name one, like `hosts: [blue]`",
        );
    }
    for (index, group) in component.hosts.iter().enumerate() {
        let at = at.key("hosts").item(index);
        self::group(fleet, group, at, report);
        if component.hosts.iter().take(index).any(|other| other == group) {
            report.add(at, format!("group `{group}` is given twice"), "keep one of the two");
        }
    }
    for (index, needed) in component.needs.iter().enumerate() {
        if !fleet.components.contains_key(needed) {
            let mend = mend_word(
                needed,
                fleet.components.keys().map(String::as_str).filter(|known| *known != name),
            );
            report.add(
                at.key("needs").item(index),
                format!("`{name}` needs `{needed}`, which is not a component"),
                mend,
            );
        }
    }
    if component.files.is_empty() && component.services.is_empty() && component.overrides.is_empty()
    {
        report.add(
            at,
            format!("component `{name}` has neither files nor services"),
            "add `files: [{ tree: … }]` or `services: …`",
        );
    }
    check::files(&component.files, at.key("files"), report);
    check::services(&component.services, at.key("services"), report);
    check::checks(&component.checks, at.key("checks"), report);
    check::hooks(&component.hooks, at.key("hooks"), report);
    check::positive(component.ready_within, at.key("ready_within"), report);
    if let Some(migrations) = &component.migrations {
        check::migrations(migrations, &component.files, at.key("migrations"), report);
    }
    if let Some(capture) = &component.capture {
        let mut on_hosts = of_component(fleet, component).map(|host| component_on(component, host));
        let lacks = |on: &ComponentPolicy| on.checks.is_empty() || on.files.is_empty();
        // One host's problem stands for all of them.
        let on = on_hosts.find(lacks).unwrap_or_else(|| component_on(component, ""));
        check::capture(capture, &on.files, &on.checks, at.key("capture"), report);
    }
    if let Some(retention) = component.retention {
        check::retention(retention, at.key("retention"), report);
    }
    if let Some(lease) = component.lease {
        let mut on_hosts = of_component(fleet, component).map(|host| component_on(component, host));
        let lacks = |on: &ComponentPolicy| on.checks.is_empty();
        let on = on_hosts.find(lacks).unwrap_or_else(|| component_on(component, ""));
        check::lease(lease, component.stable_for, &on.checks, at.key("lease"), report);
    }
    if let Some(samples) = &component.samples {
        let at = at.key("samples");
        let lacks = |on: &ComponentPolicy| {
            let mut alone = Report::default();
            check::samples(samples, &on.checks, at, &mut alone);
            alone.finish().is_err()
        };
        let mut on_hosts = of_component(fleet, component).map(|host| component_on(component, host));
        let on = on_hosts.find(lacks).unwrap_or_else(|| component_on(component, ""));
        check::samples(samples, &on.checks, at, report);
    }
    overrides(fleet, name, component, at.key("overrides"), report);
}

fn overrides(
    fleet: &FleetFile,
    name: &str,
    component: &Component,
    at: At<'_>,
    report: &mut Report,
) {
    let groups_known = component.hosts.iter().all(|group| fleet.hosts.contains_key(group));
    for (host, other) in &component.overrides {
        let at = at.name(host);
        match fleet.group_of(host) {
            None => {
                report.add(
                    at,
                    format!("`{host}` is not a host of this fleet"),
                    mend_word(host, of_component(fleet, component)),
                );
            }
            Some(group) if groups_known && !component.hosts.iter().any(|known| known == group) => {
                let mend = format!("leave it out, or add `{group}` to the component's hosts");
                report.add(
                    at,
                    format!("host `{host}` of group `{group}` has no component `{name}`"),
                    mend,
                );
            }
            Some(_) => {}
        }
        check::files(other.files.as_deref().unwrap_or_default(), at.key("files"), report);
        check::checks(other.checks.as_deref().unwrap_or_default(), at.key("checks"), report);
        if let Some(services) = &other.services {
            check::services(services, at.key("services"), report);
            if names(services) != names(&component.services) {
                report.add(
                    at.name("services"),
                    format!("services on `{host}` are {}", shown(services)),
                    format!(
                        "give the component's names in its order: {}",
                        shown(&component.services)
                    ),
                );
            }
        }
    }
}

fn of_component<'a>(
    fleet: &'a FleetFile,
    component: &'a Component,
) -> impl Iterator<Item = &'a str> + Clone {
    let groups = fleet.hosts.iter().filter(|(group, _)| component.hosts.contains(group));
    groups.flat_map(|(_, hosts)| hosts).map(String::as_str)
}

fn names(services: &[ServicePolicy]) -> Vec<&str> {
    services.iter().map(|service| service.name.as_str()).collect()
}

fn shown(services: &[ServicePolicy]) -> String {
    format!("[{}]", names(services).join(", "))
}

fn group(fleet: &FleetFile, group: &str, at: At<'_>, report: &mut Report) {
    if !fleet.hosts.contains_key(group) {
        let mend = mend_word(group, fleet.hosts.keys().map(String::as_str));
        report.add(at, format!("`{group}` is not a group of `hosts`"), mend);
    }
}

/// Takes out what needs nothing that is left, until nothing can be taken: what is left leads into a circle.
fn cycles(components: &BTreeMap<String, Component>, at: At<'_>, report: &mut Report) {
    let mut left: BTreeSet<&str> = components.keys().map(String::as_str).collect();
    loop {
        let free: Vec<&str> = left
            .iter()
            .copied()
            .filter(|name| need_of(name, components, &left).is_none())
            .collect();
        left.retain(|name| !free.contains(name));
        if !free.is_empty() {
            continue;
        }
        let Some(mut name) = left.first().copied() else { return };
        let mut path = vec![name];
        while let Some(next) = need_of(name, components, &left).filter(|next| !path.contains(next))
        {
            path.push(next);
            name = next;
        }
        let Some(first) = need_of(name, components, &left) else { return };
        let mut cycle = path.split_off(path.iter().position(|known| *known == first).unwrap_or(0));
        left.retain(|name| !cycle.contains(name));
        cycle.push(first);
        report.add(
            at.key(first).name("needs"),
            format!("components need each other in a circle: {}", cycle.join(" → ")),
            "take one of these `needs` out",
        );
    }
}

/// The first need of a component that is in `left`.
fn need_of<'a>(
    name: &str,
    components: &'a BTreeMap<String, Component>,
    left: &BTreeSet<&str>,
) -> Option<&'a str> {
    let needs = components.get(name).into_iter().flat_map(|component| &component.needs);
    needs.map(String::as_str).find(|needed| left.contains(needed))
}

/// Checks what components share on a host: for one plain host of each group, and for each host with overrides.
fn hosts_side_by_side(fleet: &FleetFile, at: At<'_>, report: &mut Report) {
    let overridden = |host: &str| {
        fleet.components.values().any(|component| component.overrides.contains_key(host))
    };
    for (group, hosts) in &fleet.hosts {
        let plain = hosts.iter().find(|host| !overridden(host));
        for host in hosts.iter().filter(|host| overridden(host)).chain(plain) {
            let here =
                fleet.components.iter().filter(|(_, component)| component.hosts.contains(group));
            let built: Vec<(&str, &Component, ComponentPolicy)> = here
                .map(|(name, component)| (name.as_str(), component, component_on(component, host)))
                .collect();
            let placed: Vec<Placed<'_>> = built
                .iter()
                .map(|(name, component, policy)| place(name, component, policy, host, at))
                .collect();
            check::side_by_side(&placed, report);
        }
    }
}

fn place<'a>(
    name: &'a str,
    component: &Component,
    policy: &'a ComponentPolicy,
    host: &str,
    at: At<'a>,
) -> Placed<'a> {
    let other = component.overrides.get(host);
    let base = at.key(name);
    let over = base.key("overrides").key(host);
    let from = |given: bool, list: &str| if given { over.key(list) } else { base.key(list) };
    Placed {
        name,
        files: &policy.files,
        files_at: from(other.is_some_and(|other| other.files.is_some()), "files"),
        services: &policy.services,
        services_at: from(other.is_some_and(|other| other.services.is_some()), "services"),
    }
}

fn text(text: &str, at: At<'_>, report: &mut Report) {
    if text.trim().is_empty() || text.contains(char::is_control) {
        report.add(at, "this text is empty or holds control characters", "write a plain text");
    }
}
