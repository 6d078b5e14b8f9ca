//! What must hold of the sections beside hosts and components: rollback, traffic, approvals,
//! notify.
//!
//! Invariant: a section that this version does not act on is checked as if it did.

use std::collections::BTreeSet;

use proto::policy::{
    FilesPolicy,
    check::{self, Placed},
    yaml::{At, Report},
};

use super::{group, text};
use crate::fleet_file::{Approvals, FleetFile, Notify, Rollback, Traffic, TrafficDriver, policy};

pub(super) fn rollback(rollback: &Rollback, at: At<'_>, report: &mut Report) {
    if rollback.batches.is_empty() {
        report.add(
            at.key("batches"),
            "there is no batch",
            "write how many hosts at a time, like `[1, \"50%\"]`",
        );
    }
    check::positive(rollback.deadline, at.key("deadline"), report);
    check::positive(rollback.unknown_after, at.key("unknown_after"), report);
    if rollback.soak >= rollback.deadline {
        report.add(
            at.key("soak"),
            "one stage is watched longer than the whole rollback may take",
            "shorten `soak`, or raise `deadline`",
        );
    }
}

pub(super) fn traffic(fleet: &FleetFile, traffic: &Traffic, at: At<'_>, report: &mut Report) {
    let through = at.key("through");
    let driver = match &traffic.through {
        TrafficDriver::Nginx(_) => through.key("nginx"),
        TrafficDriver::Haproxy(_) => through.key("haproxy"),
        TrafficDriver::Sandbox(_) => through.key("sandbox"),
    };
    group(fleet, traffic.edge(), driver.key("hosts"), report);
    for host in traffic.addresses.keys() {
        if fleet.group_of(host).is_none() {
            report.add(
                at.key("addresses").name(host),
                format!("the fleet has no host `{host}`"),
                "name a host of `hosts`",
            );
        }
    }
    edges(fleet, traffic, at, report);
    let different: BTreeSet<&String> = traffic.slots.iter().collect();
    if different.len() < 2 || different.len() < traffic.slots.len() {
        report.add(
            at.key("slots"),
            "slots must be two groups or more, each once",
            "write them like `[blue, green]`",
        );
    }
    for (index, slot) in traffic.slots.iter().enumerate() {
        let at = at.key("slots").item(index);
        group(fleet, slot, at, report);
        if slot == traffic.edge() {
            report.add(
                at,
                format!("`{slot}` is the group of the proxies"),
                "a slot is a group of app hosts",
            );
        }
        if fleet.hosts.get(slot).is_some_and(Vec::is_empty) {
            report.add(at, format!("slot `{slot}` has no host"), "list its hosts under `hosts`");
        }
    }
}

/// What the agents of its hosts will hold it to.
fn edges(fleet: &FleetFile, traffic: &Traffic, at: At<'_>, report: &mut Report) {
    let policy = policy::traffic(fleet, traffic);
    // What is wrong with one edge host is wrong with all, but where a host has other files than they.
    let mut known: Vec<Vec<FilesPolicy>> = Vec::new();
    for host in fleet.hosts.get(traffic.edge()).into_iter().flatten() {
        let here = fleet.components.iter();
        let here =
            here.filter(|(_, component)| component.hosts.iter().any(|at| at == traffic.edge()));
        let built: Vec<_> = here
            .map(|(name, component)| (name.as_str(), policy::component_on(component, host)))
            .collect();
        let files: Vec<FilesPolicy> =
            built.iter().flat_map(|(_, component)| component.files.clone()).collect();
        if known.contains(&files) {
            continue;
        }
        let placed: Vec<Placed<'_>> = built
            .iter()
            .map(|(name, component)| Placed {
                name,
                files: &component.files,
                files_at: at,
                services: &component.services,
                services_at: at,
            })
            .collect();
        check::edge(&policy, &placed, at, report);
        known.push(files);
    }
}

pub(super) fn approvals(approvals: &Approvals, at: At<'_>, report: &mut Report) {
    if approvals.from.is_empty() {
        report.add(at.key("from"), "nobody may approve", "name a role, like `from: [leads]`");
    }
    for (index, role) in approvals.from.iter().enumerate() {
        check::name(role, "role", at.key("from").item(index), report);
    }
}

pub(super) fn notify(notify: &Notify, at: At<'_>, report: &mut Report) {
    if let Some(slack) = &notify.slack {
        check::absolute(&slack.webhook_file, at.key("slack").key("webhook_file"), report);
    }
    if let Some(statuspage) = &notify.statuspage {
        check::absolute(&statuspage.key_file, at.key("statuspage").key("key_file"), report);
        text(&statuspage.page, at.key("statuspage").key("page"), report);
    }
    let mut before = None;
    for (index, step) in notify.escalate.iter().enumerate() {
        let at = at.key("escalate").item(index);
        text(&step.level, at.key("level"), report);
        let known = ["slack:#", "mail:"]
            .iter()
            .any(|kind| step.to.strip_prefix(kind).is_some_and(|to| !to.is_empty()));
        if !known {
            report.add(
                at.key("to"),
                format!("`{}` is not a way to reach anybody", step.to),
                "write `slack:#channel` or `mail:address`",
            );
        }
        if before.is_some_and(|before| step.after < before) {
            report.add(
                at.key("after"),
                "this level is called before the one above it",
                "order levels by `after`",
            );
        }
        before = Some(step.after);
    }
}
