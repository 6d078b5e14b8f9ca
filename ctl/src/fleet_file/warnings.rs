//! What holds, and will hardly do what was meant: said by `ctl validate` and `ctl apply`, refused by nobody.

use proto::policy::CheckPolicy;

use super::{Canary, FleetFile, Hold, Source, policy::sampled};

/// Sentences, in the order of the file.
pub fn warnings(fleet: &FleetFile) -> Vec<String> {
    let canary = fleet.canary.as_ref().map(canary).unwrap_or_default();
    canary.into_iter().chain(triggers(fleet)).chain(probes(fleet)).collect()
}

/// A step below 100 that holds for no time is over as soon as the judge says pass once. The last one, where no 100
/// follows, waits for a person anyway.
fn canary(canary: &Canary) -> Vec<String> {
    let followed = canary.steps.split_last().map_or(&[][..], |(_, before)| before);
    let at_once = followed.iter().filter(|step| step.hold == Hold::default());
    let said = at_once.map(|step| {
        format!(
            "canary {} % holds for no time: it goes on at the judge's first pass, after {} requests",
            step.weight, canary.min_requests
        )
    });
    said.collect()
}

/// Probes that nobody makes.
fn probes(fleet: &FleetFile) -> Option<String> {
    let checks: Vec<CheckPolicy> = fleet.checks().map(|(_, check)| check.clone()).collect();
    let said = fleet.components.values().any(|component| component.samples.is_some());
    let counted = fleet.counts_requests();
    (counted && !said && sampled(&checks).is_none()).then(|| {
        "nothing can be counted by probes: no check asks over HTTP with GET, and no component \
         has `samples`"
            .to_owned()
    })
}

fn triggers(fleet: &FleetFile) -> Vec<String> {
    let never = fleet.triggers.iter().filter_map(|(name, trigger)| {
        let Source::Check(check) = &trigger.source else { return None };
        let known = fleet.checks().any(|(_, known)| known.name == *check);
        (!known)
            .then(|| format!("trigger `{name}` can never fire: no component has a check `{check}`"))
    });
    never.collect()
}
