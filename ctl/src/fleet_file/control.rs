//! The control part: what the coordinator gets of a fleet file.
//!
//! Invariant: names, order, budgets and times only; no path, no command, no secret. The one address in it is that of a
//! Prometheus server, which the coordinator itself asks.

mod trial;

use std::collections::BTreeMap;

use proto::{
    policy::{HookPoint, HookPolicy, ServicePolicy},
    v1,
};

use super::{Component, FleetFile, LateHosts, OnFailure, Rollback, Traffic};

/// What an agent needs to stop services beyond their own `stop_within`: to kill, reap and look.
const STOP_MARGIN_MS: u64 = 5_000;

/// The control part of a fleet file. `policy_hashes` has one hash per host: of the bytes of its rendered policy.
///
/// Components come in the order in which they can be restored: each after what it needs.
pub fn control(fleet: &FleetFile, policy_hashes: &BTreeMap<String, String>) -> v1::FleetControl {
    v1::FleetControl {
        fleet: fleet.fleet.clone(),
        environment: fleet.environment.clone(),
        app: fleet.app.clone(),
        groups: fleet
            .hosts
            .iter()
            .map(|(name, hosts)| v1::Group { name: name.clone(), hosts: hosts.clone() })
            .collect(),
        components: in_order(&fleet.components)
            .into_iter()
            .map(|(name, part)| component(name, part))
            .collect(),
        rollback: Some(rollback(&fleet.rollback)),
        policy_hashes: policy_hashes
            .iter()
            .map(|(host, hash)| (host.clone(), hash.clone()))
            .collect(),
        traffic: fleet.traffic.as_ref().map(traffic),
        canary: fleet.canary.as_ref().map(trial::canary),
        triggers: fleet.triggers.iter().map(|(name, rule)| trial::trigger(name, rule)).collect(),
    }
}

fn traffic(traffic: &Traffic) -> v1::Traffic {
    v1::Traffic {
        edge: traffic.edge().to_owned(),
        slots: traffic.slots.clone(),
        drain_ms: traffic.drain.as_ms(),
        warm_ms: traffic.warm.as_ms(),
    }
}

fn component(name: &str, component: &Component) -> v1::Component {
    let overridden = component.overrides.values().filter_map(|other| other.services.as_deref());
    let longest =
        overridden.chain([component.services.as_slice()]).map(stop_within_ms).max().unwrap_or(0);
    v1::Component {
        name: name.to_owned(),
        groups: component.hosts.clone(),
        needs: component.needs.clone(),
        services: component.services.iter().map(|service| service.name.clone()).collect(),
        stop_within_ms: longest.saturating_add(STOP_MARGIN_MS),
        ready_within_ms: component.ready_within.as_ms(),
        stable_for_ms: component.stable_for.as_ms(),
        reloads: !component.services.is_empty()
            && component.services.iter().all(|service| service.driver.reloads()),
        hooks: component.hooks.iter().map(hook).collect(),
        shared: component.shared,
    }
}

fn hook(hook: &HookPolicy) -> v1::Hook {
    let at = match hook.at {
        HookPoint::BeforeStop => v1::HookPoint::BeforeStop,
        HookPoint::BeforeStart => v1::HookPoint::BeforeStart,
        HookPoint::AfterStart => v1::HookPoint::AfterStart,
        HookPoint::AfterVerify => v1::HookPoint::AfterVerify,
    };
    v1::Hook { name: hook.name.clone(), at: at.into(), within_ms: hook.within.as_ms() }
}

/// Services stop one after the other.
fn stop_within_ms(services: &[ServicePolicy]) -> u64 {
    services.iter().fold(0, |sum: u64, service| sum.saturating_add(service.stop_within.as_ms()))
}

fn rollback(rollback: &Rollback) -> v1::RollbackStrategy {
    let on_failure = match rollback.on_failure {
        OnFailure::Restore => v1::OnFailure::Restore,
        OnFailure::Leave => v1::OnFailure::Leave,
    };
    let late_hosts = match rollback.late_hosts {
        LateHosts::Rollback => v1::LateHosts::Rollback,
        LateHosts::Wait => v1::LateHosts::Wait,
    };
    v1::RollbackStrategy {
        batches: rollback.batches.iter().map(ToString::to_string).collect(),
        budget_failed: rollback.budget.failed,
        budget_unknown: rollback.budget.unknown,
        budget_out: rollback.budget.out.to_string(),
        on_failure: on_failure.into(),
        late_hosts: late_hosts.into(),
        deadline_ms: rollback.deadline.as_ms(),
        soak_ms: rollback.soak.as_ms(),
        unknown_after_ms: rollback.unknown_after.as_ms(),
        traffic_first: rollback.traffic_first,
    }
}

/// Each component after what it needs, otherwise by name. The check has refused cycles and unknown names.
fn in_order(components: &BTreeMap<String, Component>) -> Vec<(&str, &Component)> {
    let mut ordered: Vec<(&str, &Component)> = Vec::new();
    while ordered.len() < components.len() {
        let placed = |name: &String| ordered.iter().any(|(done, _)| done == name);
        let next =
            components.iter().find(|(name, part)| !placed(name) && part.needs.iter().all(placed));
        match next {
            Some((name, part)) => ordered.push((name, part)),
            None => break,
        }
    }
    ordered
}
