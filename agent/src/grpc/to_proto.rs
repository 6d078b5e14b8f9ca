//! Our types to the wire. Free functions that cannot fail.

use proto::v1;

use crate::{
    core::{DETAIL_BYTES_MAX, Report},
    lease,
    ledger::{Ledger, Moment, Record, StepResult, StepState, Track},
    local::{self, LocalOperation},
    order::{End, Evidence, Fence, Goal, Order, TrackKey, Verb, Weights},
    retention,
    sampler::{Gauge, Sample},
    status::{ComponentStatus, HostStatus, Problem, Snapshot, TrafficStatus},
    store::Fate,
    text::shortened,
};

/// The messages of one report, in order.
pub fn report(report: &Report, host: &str) -> Vec<v1::Report> {
    match report {
        Report::Facts(ledger, records) => {
            records.iter().filter_map(|record| fact(ledger, record, host)).collect()
        }
        Report::Refused(order, reason, ledger) => vec![refused(order, reason, ledger, host, false)],
        Report::Overtaken(order, reason, ledger) => {
            vec![refused(order, reason, ledger, host, true)]
        }
        Report::Answer(order, ledger) => {
            let track = ledger.tracks().into_iter().find(|track| track.order().key == order.key);
            let ended = track.and_then(track_ended);
            ended
                .map(|ended| v1::Report {
                    id: Some(id(order, host)),
                    report: Some(v1::report::Report::Ended(ended)),
                })
                .into_iter()
                .collect()
        }
    }
}

/// The answer to a prune.
pub fn pruned(id: u64, done: Result<retention::Report, String>) -> v1::Pruned {
    let retention::Report { rows, freed_bytes, notes, failures } = match done {
        Ok(report) => report,
        Err(why) => return v1::Pruned { id, failed: cut(&why), ..v1::Pruned::default() },
    };
    let row = |row: retention::Row| {
        let (goes, why) = match row.fate {
            Fate::Goes(why) => (true, why),
            Fate::Stays(why) => (false, why),
        };
        v1::PrunedRow {
            component: row.component,
            snapshot: row.exact.to_string(),
            releases: row.releases,
            size_bytes: row.size_bytes,
            taken_at_unix_ms: row.taken_at_unix_ms,
            goes,
            why,
        }
    };
    let rows = rows.into_iter().map(row).collect();
    v1::Pruned { id, rows, freed_bytes, notes, failed: String::new(), failures }
}

/// What was counted; the connection knows whose.
pub fn samples(samples: Vec<Sample>) -> v1::Samples {
    let bucket =
        |(bound, count): (Option<u64>, u64)| v1::Bucket { up_to_us: bound.unwrap_or(0), count };
    let gauge = |gauge: Gauge| v1::Gauge {
        pointer: gauge.pointer,
        value: gauge.value,
        at_most: gauge.at_most,
        at_least: gauge.at_least,
    };
    let sample = |sample: Sample| v1::Sample {
        component: sample.component,
        check: sample.check,
        length_ms: u64::try_from(sample.length.as_millis()).unwrap_or(u64::MAX),
        good: sample.good,
        bad: sample.bad,
        latency: sample.latency.into_iter().map(bucket).collect(),
        gauges: sample.gauges.into_iter().map(gauge).collect(),
    };
    v1::Samples { samples: samples.into_iter().map(sample).collect() }
}

fn refused(
    order: &Order,
    reason: &str,
    ledger: &Ledger,
    host: &str,
    overtaken: bool,
) -> v1::Report {
    let fence = ledger.fence();
    let refused = v1::Refused {
        reason: reason.to_owned(),
        highest_epoch: fence.map(epoch),
        highest_sequence: fence.map_or(0, |fence| fence.sequence),
        overtaken,
    };
    v1::Report { id: Some(id(order, host)), report: Some(v1::report::Report::Refused(refused)) }
}

fn epoch(fence: &Fence) -> v1::Epoch {
    v1::Epoch { counter: fence.epoch, instance: fence.instance.clone() }
}

fn fact(ledger: &Ledger, record: &Record, host: &str) -> Option<v1::Report> {
    // What root ordered is no report on a coordinator's order; the status tells of it.
    let theirs = |track: &&Track| track.order().origin.made_here().is_none();
    let track = |key: &TrackKey| {
        ledger.tracks().into_iter().filter(theirs).find(|track| track.order().key == *key)
    };
    let step = |key: &TrackKey, index: usize, state: v1::StepState, result: Option<&StepResult>| {
        let report = v1::StepReport {
            index: small(index),
            state: state.into(),
            duration_ms: result.map_or(0, |result| result.duration_ms),
            detail: result.map_or_else(String::new, |result| cut(&result.detail)),
        };
        let id = Some(id(track(key)?.order(), host));
        Some(v1::Report { id, report: Some(v1::report::Report::Step(report)) })
    };
    match record {
        Record::StepBegan { key, index, .. } => step(key, *index, v1::StepState::Running, None),
        Record::StepEnded { key, index, result } => {
            let state = if result.ok { v1::StepState::Done } else { v1::StepState::Failed };
            step(key, *index, state, Some(result))
        }
        Record::UndoEnded { key, index, result } => {
            let state = if result.ok { v1::StepState::Undone } else { v1::StepState::Failed };
            step(key, *index, state, Some(result))
        }
        Record::Ended { key, .. } => {
            let track = track(key)?;
            let ended = v1::report::Report::Ended(track_ended(track)?);
            Some(v1::Report { id: Some(id(track.order(), host)), report: Some(ended) })
        }
        Record::Fenced(_)
        | Record::Accepted(_)
        | Record::Observed { .. }
        | Record::TurnedBack { .. }
        | Record::UndoBegan { .. }
        | Record::Dropped { .. }
        | Record::Trial { .. } => None,
    }
}

/// How the host is, with all that the ledger holds.
pub fn host_status(status: &HostStatus, ledger: &Ledger, host: &str) -> v1::HostStatus {
    let now = Moment::now();
    v1::HostStatus {
        policy_hash: status.policy_hash.clone(),
        components: status.components.iter().map(|row| component(row, ledger, &now)).collect(),
        snapshots: status.snapshots.iter().map(snapshot).collect(),
        tracks: ledger
            .tracks()
            .into_iter()
            .filter(|track| track.order().origin.made_here().is_none())
            .map(|track| track_status(track, host))
            .collect(),
        free_bytes: status.free_bytes,
        local_operations: local::operations(ledger).iter().map(local_operation).collect(),
        highest_epoch: ledger.fence().map(epoch),
        highest_sequence: ledger.fence().map_or(0, |fence| fence.sequence),
        traffic: status.traffic.as_ref().map(traffic),
    }
}

fn traffic(row: &TrafficStatus) -> v1::TrafficStatus {
    v1::TrafficStatus {
        driver: row.driver.clone(),
        asked: row.asked.as_ref().map(weights),
        observed: row.observed.as_ref().map(weights),
        problems: row.problems.iter().map(problem).collect(),
    }
}

fn weights(weights: &Weights) -> v1::Weights {
    let share = |(group, percent): (&String, &u32)| v1::GroupWeight {
        group: group.clone(),
        percent: *percent,
    };
    v1::Weights {
        groups: weights.groups.iter().map(share).collect(),
        out: weights.out.iter().cloned().collect(),
    }
}

fn local_operation(row: &LocalOperation) -> v1::LocalOperation {
    v1::LocalOperation {
        id: row.made.operation.clone(),
        at_unix_ms: row.made.at_unix_ms,
        by: row.made.by.clone(),
        to_release: row.made.release.clone(),
        ended: row.ending.as_ref().map(|ending| v1::LocalEnd {
            end: track_end(ending.end).into(),
            reason: cut(&ending.reason),
        }),
    }
}

fn component(row: &ComponentStatus, ledger: &Ledger, now: &Moment) -> v1::ComponentStatus {
    let did_not_hold = lease::problems(ledger, &row.component);
    let services = row.services.iter().map(|service| v1::ServiceStatus {
        service: service.service.clone(),
        driver: service.driver.clone(),
        running: service.running,
        detail: cut(&service.detail),
    });
    let checks = row.checks.iter().map(|check| v1::CheckStatus {
        check: check.check.clone(),
        ok: check.ok,
        detail: cut(&check.detail),
    });
    v1::ComponentStatus {
        component: row.component.clone(),
        release: row.release.clone(),
        snapshot: row.snapshot.clone(),
        changed: row.changed,
        version: row.version.clone(),
        services: services.collect(),
        checks: checks.collect(),
        held: row.held,
        verbs: row.verbs.iter().map(|v| verb(*v).into()).collect(),
        problems: row.problems.iter().chain(&did_not_hold).map(problem).collect(),
        content: row.content.clone(),
        lease_until_unix_ms: lease::until_unix_ms(ledger, &row.component, now).unwrap_or(0),
    }
}

fn problem(problem: &Problem) -> v1::Problem {
    v1::Problem { what: problem.what.clone(), mend: problem.mend.clone(), warns: problem.warns }
}

fn snapshot(row: &Snapshot) -> v1::SnapshotInfo {
    v1::SnapshotInfo {
        component: row.component.clone(),
        snapshot: row.exact.clone(),
        content: row.content.clone(),
        release: row.release.clone(),
        version: row.version.clone(),
        taken_at_unix_ms: row.taken_at_unix_ms,
        size_bytes: row.size_bytes,
        files: row.files,
        damage: row.damage.clone(),
        verified_at_unix_ms: row.verified_at_unix_ms,
        staged: row.staged,
        learned_at_unix_ms: row.learned_at_unix_ms,
    }
}

fn track_status(track: &Track, host: &str) -> v1::TrackStatus {
    let goal = match track.order().goal {
        Goal::Forward => v1::Goal::Forward,
        Goal::Undo => v1::Goal::Undo,
    };
    v1::TrackStatus {
        id: Some(id(track.order(), host)),
        goal: goal.into(),
        ended: track_ended(track),
    }
}

fn track_ended(track: &Track) -> Option<v1::TrackEnded> {
    let ending = track.ending()?;
    Some(v1::TrackEnded {
        end: track_end(ending.end).into(),
        reason: cut(&ending.reason),
        steps: track.steps().map(|(index, step)| step_report(index, step)).collect(),
        evidence: track.evidence().iter().map(evidence).collect(),
    })
}

fn track_end(end: End) -> v1::TrackEnd {
    match end {
        End::Done => v1::TrackEnd::Done,
        End::Undone => v1::TrackEnd::Undone,
        End::Left => v1::TrackEnd::Left,
        End::Stuck => v1::TrackEnd::Stuck,
    }
}

fn step_report(index: usize, step: &StepState) -> v1::StepReport {
    let (state, result) = match (step.undo(), step.result()) {
        (Some(undo), _) if undo.ok => (v1::StepState::Undone, Some(undo)),
        (Some(undo), _) => (v1::StepState::Failed, Some(undo)),
        (None, Some(result)) if result.ok => (v1::StepState::Done, Some(result)),
        (None, Some(result)) => (v1::StepState::Failed, Some(result)),
        (None, None) => (v1::StepState::Running, None),
    };
    v1::StepReport {
        index: small(index),
        state: state.into(),
        duration_ms: result.map_or(0, |result| result.duration_ms),
        detail: result.map_or_else(String::new, |result| cut(&result.detail)),
    }
}

fn evidence(row: &Evidence) -> v1::Evidence {
    v1::Evidence {
        component: row.component.clone(),
        snapshot: row.snapshot.clone().unwrap_or_default(),
        version: row.version.clone().unwrap_or_default(),
        stable_ms: row.stable_ms,
        notes: row.notes.iter().map(|note| cut(note)).collect(),
        replaced: row.replaced.clone().unwrap_or_default(),
        replaced_content: row.replaced_content.clone().unwrap_or_default(),
        weights: row.weights.as_ref().map(weights),
    }
}

fn id(order: &Order, host: &str) -> v1::OrderId {
    v1::OrderId {
        operation: order.key.operation.clone(),
        stage: order.key.stage,
        host: host.to_owned(),
        attempt: order.attempt,
        plan_hash: order.plan_hash.clone(),
    }
}

fn verb(verb: Verb) -> v1::Verb {
    match verb {
        Verb::Preflight => v1::Verb::Preflight,
        Verb::Snapshot => v1::Verb::Snapshot,
        Verb::Stage => v1::Verb::Stage,
        Verb::Stop => v1::Verb::Stop,
        Verb::Switch => v1::Verb::Switch,
        Verb::Start => v1::Verb::Start,
        Verb::Verify => v1::Verb::Verify,
        Verb::Discard => v1::Verb::Discard,
        Verb::Check => v1::Verb::Check,
        Verb::Reload => v1::Verb::Reload,
        Verb::Hook => v1::Verb::Hook,
        Verb::Fetch => v1::Verb::Fetch,
        Verb::SetWeights => v1::Verb::SetWeights,
        Verb::Drain => v1::Verb::Drain,
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn cut(text: &str) -> String {
    shortened(text, DETAIL_BYTES_MAX)
}
