//! Wire to our types. What this agent does not know it refuses, never ignores.

use std::collections::{BTreeMap, BTreeSet};

use proto::v1;

use crate::{
    local::OPERATION_PREFIX,
    order::{Artefact, Fence, Goal, OnFailure, Order, Origin, Step, TrackKey, Verb, Weights},
    quarantine,
    retention::{Ask, Kept, KeptRow},
    store::Hash,
};

/// Names and hashes are short; anything longer is not one.
const TEXT_BYTES_MAX: usize = 256;
/// A person's reason may be in it.
const WORDS_BYTES_MAX: usize = 8192;
/// More steps than this are no order of ours.
const STEPS_MAX: usize = 64;
/// No coordinator sends so many orders; above it is room for what root orders on the host.
const SEQUENCE_MAX: u64 = u64::MAX / 2;

/// An order that does not say what it has to, or says what this agent does not know.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{field}` has the value {value}, which this agent does not know")]
    Enum { field: &'static str, value: i32 },
    #[error("`{0}` is too long")]
    TooLong(&'static str),
    #[error("`{0}` is not the hash of a snapshot")]
    Hash(&'static str),
}

/// An order. For another host it is an error.
pub fn order(message: v1::Order, host: &str) -> Result<Order, WireError> {
    let on_failure = match message.on_failure() {
        v1::OnFailure::Restore => OnFailure::Restore,
        v1::OnFailure::Leave => OnFailure::Leave,
        v1::OnFailure::Unspecified => {
            return Err(WireError::Enum { field: "on_failure", value: message.on_failure });
        }
    };
    let goal = match message.goal() {
        v1::Goal::Forward => Goal::Forward,
        v1::Goal::Undo => Goal::Undo,
        v1::Goal::Unspecified => {
            return Err(WireError::Enum { field: "goal", value: message.goal });
        }
    };
    let id = message.id.ok_or(WireError::Missing("id"))?;
    if id.host != host {
        return Err(WireError::Missing("an id for this host"));
    }
    if id.operation.starts_with(OPERATION_PREFIX) {
        return Err(WireError::Missing("an id of a coordinator's operation"));
    }
    if message.sequence > SEQUENCE_MAX {
        return Err(WireError::TooLong("sequence"));
    }
    let epoch = message.epoch.ok_or(WireError::Missing("epoch"))?;
    if message.steps.len() > STEPS_MAX {
        return Err(WireError::TooLong("steps"));
    }
    Ok(Order {
        key: TrackKey { operation: short("operation", id.operation)?, stage: id.stage },
        attempt: id.attempt,
        plan_hash: short("plan_hash", id.plan_hash)?,
        fence: Fence {
            epoch: epoch.counter,
            instance: short("instance", epoch.instance)?,
            sequence: message.sequence,
        },
        goal,
        steps: message.steps.into_iter().map(step).collect::<Result<_, _>>()?,
        on_failure,
        traceparent: short("traceparent", message.traceparent)?,
        taken: None,
        origin: Origin::Coordinator,
        after: short("after_local", message.after_local)?,
    })
}

fn step(message: v1::Step) -> Result<Step, WireError> {
    let verb = match message.verb() {
        v1::Verb::Preflight => Verb::Preflight,
        v1::Verb::Snapshot => Verb::Snapshot,
        v1::Verb::Stage => Verb::Stage,
        v1::Verb::Stop => Verb::Stop,
        v1::Verb::Switch => Verb::Switch,
        v1::Verb::Start => Verb::Start,
        v1::Verb::Verify => Verb::Verify,
        v1::Verb::Discard => Verb::Discard,
        v1::Verb::Check => Verb::Check,
        v1::Verb::Reload => Verb::Reload,
        v1::Verb::Hook => Verb::Hook,
        v1::Verb::Fetch => Verb::Fetch,
        v1::Verb::SetWeights => Verb::SetWeights,
        v1::Verb::Drain => Verb::Drain,
        v1::Verb::Unspecified => {
            return Err(WireError::Enum { field: "verb", value: message.verb });
        }
    };
    Ok(Step {
        verb,
        component: short("component", message.component)?,
        release: short("release", message.release)?,
        snapshot: short("snapshot", message.snapshot)?,
        deadline_ms: message.deadline_ms,
        hook: short("hook", message.hook)?,
        across_migrations: message.across_migrations,
        weights: message.weights.map(weights).transpose()?,
        artefact: message.artefact.map(artefact).transpose()?,
        at_once: message.at_once,
        forward: message.forward,
    })
}

fn weights(message: v1::Weights) -> Result<Weights, WireError> {
    let mut weights = Weights { groups: BTreeMap::new(), out: BTreeSet::new() };
    let mut sum: u32 = 0;
    for row in message.groups {
        sum = sum.saturating_add(row.percent);
        if row.percent > 0
            && weights.groups.insert(short("weights.groups", row.group)?, row.percent).is_some()
        {
            return Err(WireError::Missing("groups of weights that differ"));
        }
    }
    if sum != 100 {
        return Err(WireError::Missing("weights that sum to 100"));
    }
    for host in message.out {
        weights.out.insert(short("weights.out", host)?);
    }
    Ok(weights)
}

fn artefact(message: v1::Artefact) -> Result<Artefact, WireError> {
    Ok(Artefact {
        source: short("artefact.source", message.source)?,
        name: long("artefact.name", message.name)?,
        digest: short("artefact.digest", message.digest)?,
    })
}

/// What must stay. A list that is not understood in full is none.
pub fn keep(message: v1::Keep) -> Result<Kept, WireError> {
    let epoch = message.epoch.ok_or(WireError::Missing("epoch"))?;
    let (counter, instance) = (epoch.counter, short("instance", epoch.instance)?);
    let row = |row: v1::KeepRow| {
        let exact = row.snapshot.parse().map_err(|_| WireError::Hash("snapshot"))?;
        let (component, why) = (short("component", row.component)?, long("why", row.why)?);
        Ok(KeptRow { component, exact, why })
    };
    Ok(Kept {
        term: Fence { epoch: counter, instance, sequence: 0 },
        rows: message.rows.into_iter().map(row).collect::<Result<_, _>>()?,
        at_unix_ms: message.at_unix_ms,
        heard: tokio::time::Instant::now(),
    })
}

/// What was left as bad. A list that is not understood in full is none.
pub fn quarantine(message: v1::Quarantine) -> Result<quarantine::Told, WireError> {
    let epoch = message.epoch.ok_or(WireError::Missing("epoch"))?;
    let (counter, instance) = (epoch.counter, short("instance", epoch.instance)?);
    let row = |row: v1::QuarantineRow| {
        let (component, why) = (short("component", row.component)?, long("why", row.why)?);
        Ok(quarantine::Row { component, content: short("content", row.content)?, why })
    };
    Ok(quarantine::Told {
        term: Fence { epoch: counter, instance, sequence: 0 },
        rows: message.rows.into_iter().map(row).collect::<Result<_, _>>()?,
    })
}

/// What is to be pruned, with what must stay.
pub fn prune(message: v1::Prune) -> Result<(v1::Keep, Ask), WireError> {
    let keep = message.keep.ok_or(WireError::Missing("keep"))?;
    let only = |row: v1::KeepRow| {
        let exact: Hash = row.snapshot.parse().map_err(|_| WireError::Hash("only"))?;
        Ok((short("component", row.component)?, exact))
    };
    let only = message.only.into_iter().map(only).collect::<Result<Vec<_>, WireError>>()?;
    let component = Some(short("component", message.component)?).filter(|name| !name.is_empty());
    let only = message.agreed.then_some(only);
    Ok((keep, Ask { dry_run: message.dry_run, component, only, ..Ask::default() }))
}

fn long(field: &'static str, text: String) -> Result<String, WireError> {
    if text.len() > WORDS_BYTES_MAX { Err(WireError::TooLong(field)) } else { Ok(text) }
}

fn short(field: &'static str, text: String) -> Result<String, WireError> {
    if text.len() > TEXT_BYTES_MAX { Err(WireError::TooLong(field)) } else { Ok(text) }
}
