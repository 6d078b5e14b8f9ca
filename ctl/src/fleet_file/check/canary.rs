//! What must hold of the section `canary`: who gets the release first, with how much traffic, and what is compared.
//!
//! Invariant: an analysis that is accepted here is one that the judge can work by.

use proto::policy::{
    check,
    yaml::{At, Report},
};

use super::{AT_THE_COORDINATOR, group, text};
use crate::fleet_file::{Canary, CanarySource, Component, Counters, FleetFile, Hold, Measure};

/// What stands for the hosts of one side in a query.
const SIDE: &str = "$side";

/// The largest chance of a false alarm that anybody can want.
const FALSE_ALARM_MAX: f64 = 0.1;

pub(super) fn check(fleet: &FleetFile, canary: &Canary, at: At<'_>, report: &mut Report) {
    first(fleet, canary, at, report);
    steps(canary, at, report);
    analysis(canary, at, report);
    if let CanarySource::Prometheus(counters) = &canary.source {
        self::counters(canary, counters, at.key("source"), report);
    }
    check::positive(canary.stale_after, at.key("stale_after"), report);
    check::positive(canary.wait_at_most, at.key("wait_at_most"), report);
}

/// The group that gets it first takes a share of a slot's traffic: it has what a slot has, and is none.
fn first(fleet: &FleetFile, canary: &Canary, at: At<'_>, report: &mut Report) {
    let name = &canary.group;
    let at = at.key("group");
    group(fleet, name, at, report);
    if fleet.hosts.get(name).is_some_and(Vec::is_empty) {
        report.add(at, format!("group `{name}` has no host"), "list its hosts under `hosts`");
    }
    let Some(traffic) = &fleet.traffic else {
        let mend = "add `traffic`, or leave `canary` out";
        return report.add(
            at,
            "nothing divides the traffic, so nobody can get a share of it",
            mend,
        );
    };
    if name == traffic.edge() {
        let mend = "name a group of app hosts";
        return report.add(at, format!("`{name}` is the group of the proxies"), mend);
    }
    if traffic.slots.contains(name) {
        let mend = "name a group that is not in `traffic.slots`";
        return report.add(at, format!("`{name}` is a slot, which gets all or nothing"), mend);
    }
    let both = |component: &Component| {
        component.hosts.contains(name)
            && component.hosts.iter().any(|group| traffic.slots.contains(group))
    };
    if fleet.hosts.contains_key(name) && !fleet.components.values().any(both) {
        let what = format!("no component is on `{name}` and on a slot: it cannot take traffic");
        report.add(at, what, format!("add `{name}` to the hosts of the app's components"));
    }
}

fn steps(canary: &Canary, at: At<'_>, report: &mut Report) {
    if canary.steps.is_empty() {
        report.add(
            at.key("steps"),
            "there is no step",
            "write steps like `[{ weight: 5, hold: 10m }, { weight: 100 }]`",
        );
    }
    let mut before = 0;
    for (index, step) in canary.steps.iter().enumerate() {
        let at = at.key("steps").item(index);
        let weight = at.key("weight");
        if !(1..=100).contains(&step.weight) {
            report.add(
                weight,
                format!("weight {} is not a share of traffic", step.weight),
                "write a percentage from 1 to 100",
            );
        } else if step.weight <= before {
            report.add(
                weight,
                format!("weight {} does not rise above the {before} before it", step.weight),
                "let each step rise",
            );
        }
        if step.weight == 100 && step.hold != Hold::default() {
            report.add(
                at.key("hold"),
                "at 100 the release is live everywhere: there is nothing to hold back",
                "leave it out; what waits before 100 is the `hold` of the step before",
            );
        }
        before = step.weight;
    }
    if let [only] = canary.steps.as_slice()
        && only.weight == 100
    {
        report.add(
            at.key("steps"),
            "the whole fleet gets it at once",
            "begin with a small step, like `{ weight: 5, hold: 10m }`",
        );
    }
}

fn analysis(canary: &Canary, at: At<'_>, report: &mut Report) {
    let compare = at.key("compare");
    if canary.compare.is_empty() && canary.errors_at_most.is_none() {
        let mend = "name `errors`, `p50`, `p95` or `p99`";
        report.add(compare, "nothing is compared", mend);
    }
    for (index, measure) in canary.compare.iter().enumerate() {
        if canary.compare[..index].contains(measure) {
            report.add(compare.item(index), "this is given twice", "keep one of the two");
        }
    }
    if let Some(share) = canary.errors_at_most
        && !(share > 0.0 && share < 1.0)
    {
        report.add(
            at.key("errors_at_most"),
            format!("{share} is not a share of failed requests"),
            "write a number between 0 and 1, like `0.05`",
        );
    }
    if !(canary.latency_ratio >= 1.0 && canary.latency_ratio.is_finite()) {
        report.add(
            at.key("latency_ratio"),
            format!("a latency of {} times the rest's is asked for", canary.latency_ratio),
            "write 1 or more, like `1.5`",
        );
    }
    if !(canary.false_alarm > 0.0 && canary.false_alarm <= FALSE_ALARM_MAX) {
        report.add(
            at.key("false_alarm"),
            format!("{} is no chance of a false alarm", canary.false_alarm),
            "write a number above 0 and up to 0.1, like `0.01`",
        );
    }
    if canary.min_requests == 0 {
        let what = "a pass that no request speaks for is none";
        report.add(at.key("min_requests"), what, "write at least `1`, better `100`");
    }
}

fn counters(canary: &Canary, counters: &Counters, at: At<'_>, report: &mut Report) {
    check::url(&counters.url, AT_THE_COORDINATOR, at.key("prometheus"), report);
    let queries = [
        ("requests", Some(&counters.requests)),
        ("errors", Some(&counters.errors)),
        ("latency", counters.latency.as_ref()),
    ];
    for (key, query) in queries.into_iter().filter_map(|(key, query)| Some((key, query?))) {
        let at = at.key(key);
        text(query, at, report);
        if !query.contains(SIDE) {
            report.add(
                at,
                "this query asks of all hosts alike: it does not say `$side`",
                "name the hosts by it, like `{instance=~\"($side):.*\"}`",
            );
        }
    }
    let slow = canary.compare.iter().any(|measure| *measure != Measure::Errors);
    if slow && counters.latency.is_none() {
        report.add(
            at,
            "a latency is compared, and no query tells any",
            "add `latency: …`, or write `compare: [errors]`",
        );
    }
}
