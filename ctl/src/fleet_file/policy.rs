//! The policy of one host: what its agent may touch.
//!
//! Invariant: the same fleet file gives the same bytes, for the coordinator knows a policy by their hash.

use std::collections::BTreeMap;

use proto::policy::{self, ComponentPolicy, Policy};

use super::{Component, FleetFile};

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
    let components: BTreeMap<String, ComponentPolicy> =
        here.map(|(name, component)| (name.clone(), component_on(component, host))).collect();
    Ok(Policy {
        version: policy::VERSION,
        fleet: fleet.fleet.clone(),
        host: host.to_owned(),
        components,
    })
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
        ready_within: component.ready_within,
        stable_for: component.stable_for,
    }
}
