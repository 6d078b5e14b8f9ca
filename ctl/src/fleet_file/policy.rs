//! The policy of one host: what its agent may touch.
//!
//! Invariant: the same fleet file gives the same bytes, for the coordinator knows a policy by their hash.

use std::collections::BTreeMap;

use proto::policy::{
    self, CheckPolicy, ComponentPolicy, HaproxyProxy, NginxProxy, Policy, ProxyPolicy,
    SamplesPolicy, SandboxProxy, TrafficPolicy, default_samples_every,
};

use super::{
    Component, FleetFile, HaproxyTraffic, NginxTraffic, SandboxTraffic, Traffic, TrafficDriver,
};

/// A host that the fleet file does not have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the fleet file has no host `{0}`")]
pub struct UnknownHost(pub String);

/// The policy of one host.
pub fn policy(fleet: &FleetFile, host: &str) -> Result<Policy, UnknownHost> {
    let group = fleet.group_of(host).ok_or_else(|| UnknownHost(host.to_owned()))?;
    let here = fleet
        .components
        .iter()
        .filter(|(_, component)| component.hosts.iter().any(|known| known == group));
    let mut components: BTreeMap<String, ComponentPolicy> =
        here.map(|(name, component)| (name.clone(), component_on(component, host))).collect();
    // A proxy passes requests on; what answers them is asked on the app's own hosts.
    let edge = fleet.traffic.as_ref().is_some_and(|traffic| traffic.edge() == group);
    if fleet.counts_probes() && !edge {
        for component in components.values_mut() {
            component.samples = component.samples.take().or_else(|| sampled(&component.checks));
        }
    }
    Ok(Policy {
        version: policy::VERSION,
        fleet: fleet.fleet.clone(),
        host: host.to_owned(),
        // A host without components has nothing to fetch.
        sources: if components.is_empty() { BTreeMap::new() } else { fleet.sources.clone() },
        components,
        traffic: fleet
            .traffic
            .as_ref()
            .filter(|it| it.edge() == group)
            .map(|it| traffic(fleet, it)),
    })
}

/// What is asked all the time where nobody says what: nothing where no check only reads.
pub(super) fn sampled(checks: &[CheckPolicy]) -> Option<SamplesPolicy> {
    let samples = SamplesPolicy { every: default_samples_every(), checks: Vec::new() };
    let any = samples.chosen(checks).next().is_some();
    any.then_some(samples)
}

/// The proxy of an edge host, and every host that it can send requests to: those with a component that a slot has, too.
/// What the policy of an edge host says of the traffic.
pub(super) fn traffic(fleet: &FleetFile, traffic: &Traffic) -> TrafficPolicy {
    let through = match &traffic.through {
        TrafficDriver::Nginx(NginxTraffic { include, unit, .. }) => {
            ProxyPolicy::Nginx(NginxProxy { include: include.clone(), unit: unit.clone() })
        }
        TrafficDriver::Haproxy(HaproxyTraffic { socket, state_file, .. }) => {
            let (socket, state_file) = (socket.clone(), state_file.clone());
            ProxyPolicy::Haproxy(HaproxyProxy { socket, state_file })
        }
        TrafficDriver::Sandbox(SandboxTraffic { socket, .. }) => {
            ProxyPolicy::Sandbox(SandboxProxy { socket: socket.clone() })
        }
    };
    let serves = |group: &String| {
        let both = |component: &Component| {
            component.hosts.contains(group)
                && component.hosts.iter().any(|other| traffic.slots.contains(other))
        };
        group != traffic.edge() && fleet.components.values().any(both)
    };
    let address =
        |host: &String| (host.clone(), traffic.addresses.get(host).unwrap_or(host).clone());
    let groups = fleet.hosts.iter().filter(|(group, _)| serves(group));
    TrafficPolicy {
        through,
        app: fleet.app.clone(),
        ports: traffic.ports.clone(),
        groups: groups
            .map(|(group, hosts)| (group.clone(), hosts.iter().map(address).collect()))
            .collect(),
        drain: traffic.drain,
        version: traffic.version.clone(),
    }
}

/// The text of a policy file: deterministic YAML under a comment that says what it is.
pub fn render_policy(policy: &Policy) -> String {
    let Policy { fleet, host, .. } = policy;
    let options =
        serde_saphyr::ser_options! { prefer_block_scalars: false, compact_list_indent: false };
    let body = serde_saphyr::to_string_with_options(policy, options)
        .expect("a policy is text throughout: its paths come from UTF-8 and its values from YAML");
    format!(
        "# What the Lastgood agent on host {host} of fleet {fleet} may touch, and nothing else.\n\
         # Rendered from the fleet file by `ctl policy render --host {host}`: change that file, not this one.\n\
         # It must be owned by root and writable by nobody else. The coordinator knows it by the hash of its bytes.\n\
         {body}"
    )
}

/// A component as it is on one host, with the host's overrides.
pub(super) fn component_on(component: &Component, host: &str) -> ComponentPolicy {
    let other = component.overrides.get(host);
    ComponentPolicy {
        files: other.and_then(|other| other.files.as_ref()).unwrap_or(&component.files).clone(),
        services: other
            .and_then(|other| other.services.as_ref())
            .unwrap_or(&component.services)
            .clone(),
        checks: other.and_then(|other| other.checks.as_ref()).unwrap_or(&component.checks).clone(),
        hooks: component.hooks.clone(),
        migrations: component.migrations.clone(),
        capture: component.capture.clone(),
        retention: component.retention,
        lease: component.lease,
        samples: component.samples.clone(),
        ready_within: component.ready_within,
        stable_for: component.stable_for,
    }
}
