//! What an apply changes, in sentences.

use engine::Fleet;

/// What an apply changes, in sentences.
pub(super) fn differences(old: Option<&Fleet>, new: &Fleet) -> Vec<String> {
    let Some(old) = old else {
        let count = |number: usize, noun: &str| {
            format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
        };
        let (hosts, components) =
            (count(new.hosts().count(), "host"), count(new.components.len(), "component"));
        return vec![format!("fleet {} is new: {hosts}, {components}", new.name)];
    };
    let mut changes = Vec::new();
    for (host, group) in new.hosts() {
        match old.group_of(host) {
            None => changes.push(format!("host {host} joins group {group}")),
            Some(before) if before != group => {
                changes.push(format!("host {host} moves from {before} to {group}"))
            }
            Some(_) => {}
        }
        let (before, after) = (old.policy_hashes.get(host), new.policy_hashes.get(host));
        if before != after && old.group_of(host).is_some() {
            changes.push(format!("the policy of {host} changes; bring it to the host"));
        }
    }
    for (host, group) in old.hosts().filter(|(host, _)| new.group_of(host).is_none()) {
        changes.push(format!("host {host} leaves group {group}; its agent will be refused"));
    }
    for component in &new.components {
        match old.components.iter().find(|other| other.name == component.name) {
            None => changes.push(format!("component {} is new", component.name)),
            Some(before) if before != component => {
                changes.push(format!("component {} changes", component.name))
            }
            Some(_) => {}
        }
    }
    let gone =
        old.components.iter().filter(|c| new.components.iter().all(|other| other.name != c.name));
    changes
        .extend(gone.map(|component| format!("component {} is no longer there", component.name)));
    if old.rollback != new.rollback {
        changes.push("the rollback strategy changes".to_owned());
    }
    if old.traffic != new.traffic {
        changes.push("how the traffic is divided changes".to_owned());
    }
    if old.canary != new.canary {
        changes.push(match (&old.canary, &new.canary) {
            (None, _) => "releases can be tried as a canary from now on".to_owned(),
            (_, None) => "there is no canary any more".to_owned(),
            (Some(_), Some(_)) => "how a canary goes changes".to_owned(),
        });
    }
    for trigger in &new.triggers {
        match old.triggers.iter().find(|other| other.name == trigger.name) {
            None => changes.push(format!("trigger {} is new: {}", trigger.name, trigger.rule())),
            Some(before) if before != trigger => {
                changes.push(format!("trigger {} changes: {}", trigger.name, trigger.rule()))
            }
            Some(_) => {}
        }
    }
    let gone = old.triggers.iter().filter(|t| new.triggers.iter().all(|o| o.name != t.name));
    changes.extend(gone.map(|trigger| format!("trigger {} is no longer there", trigger.name)));
    if (&old.environment, &old.app) != (&new.environment, &new.app) {
        changes.push("environment or app change".to_owned());
    }
    changes
}
