//! Back to an earlier release: stage everywhere while the old one serves, then host by host in batches.
//!
//! A part of the fleet (`--hosts`) goes back without a look from the edge: the fleet is mixed then on purpose, and
//! which of its releases a request through the edge meets is chance. The plan says so. Who wants the look names the
//! edge hosts too.
//!
//! Where an edge divides the traffic and a slot without traffic has the release, users go there first and hosts are
//! repaired after.

use std::collections::BTreeSet;

use super::{
    Planned, Refusal,
    hosts::{self, Chosen, planned},
    stages::{self, How, Move, Route, Staged},
    target,
    tracks::{self, Goes},
    traffic::{self, Edge},
};
use crate::{
    fleet::Fleet,
    inventory::Inventory,
    levels::Levels,
    name::{GroupName, HostName, ReleaseName},
    plan::{OperationKind, Plan, PlanDraft, PlannedHost, Stage, Step, Target, Verb},
    weights::Weights,
};

/// What a person is told who goes back across migrations.
const ACROSS_MIGRATIONS: &str = "the code goes back although the database may hold migrations that it does not \
    know: no host checks that, and no data is taken back";

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Absent: the newest good release older than the live one.
    pub to: Option<ReleaseName>,
    /// Empty: all.
    pub hosts: Vec<HostName>,
    /// Whether the code may go back further than the database's migrations: a person's word, against each host's.
    pub across_migrations: bool,
    /// Whether the traffic stays as it is.
    pub in_place: bool,
}

/// Plans a rollback.
pub fn rollback(inventory: &Inventory<'_>, request: &Request) -> Planned {
    let fleet = hosts::fleet(inventory)?;
    let chosen = hosts::choose(fleet, &request.hosts)?;
    if request.to.is_none()
        && let Some(plan) = already_rolled_back(inventory, fleet, &chosen)
    {
        return plan;
    }
    let target = match &request.to {
        None => target::newest_good(inventory, &chosen)?,
        Some(name) => target::named(inventory, &chosen, name)?,
    };
    let release = target.release.clone();
    let mut about = About {
        why: target.why,
        warnings: target.warnings,
        whole_fleet: request.hosts.is_empty(),
        across_migrations: request.across_migrations,
        ..About::going_to(Some(target.release))
    };
    about.warnings.extend(not_seen_from_the_edge(fleet, &chosen));
    let moves: Vec<Move<'_, '_>> =
        canary_first(&chosen).map(|row| (row, goes_to(inventory, row, &release))).collect();
    let wanted = !request.in_place && fleet.rollback.traffic_first;
    let (route, warning) = route(inventory, fleet, &moves, (wanted, about.whole_fleet));
    about.warnings.extend(warning);
    assemble(inventory, fleet, &chosen, &moves, (OperationKind::Rollback, route), about)
}

/// How a rollback treats the traffic; and what a person has to know of it.
fn route<'a>(
    inventory: &Inventory<'_>,
    fleet: &'a Fleet,
    moves: &[Move<'_, '_>],
    (wanted, whole_fleet): (bool, bool),
) -> (Route<'a>, Option<String>) {
    if !wanted {
        return (Route::InPlace, None);
    }
    let edge = match traffic::edge(inventory, fleet) {
        Ok(Some(edge)) => edge,
        Ok(None) => return (Route::InPlace, None),
        Err(why) => {
            let warning =
                format!("{why}: traffic is not moved, each host is out from stop to start");
            return (Route::InPlace, Some(warning));
        }
    };
    let users_are_there = moves
        .iter()
        .filter(|(row, _)| edge.may_serve(fleet, row) && !edge.is_idle(fleet, row))
        .all(|(_, goes)| traffic::is_in_place(goes));
    match whole_fleet.then(|| good_side(inventory, &edge, moves)).flatten() {
        Some(slot) if !users_are_there => {
            (Route::Shifted(edge, Weights::all_to(slot.clone())), None)
        }
        Some(_) | None => (Route::Drained(edge), None),
    }
}

/// A slot without traffic, all of whose hosts can be reached and can be brought to the release; one that is there
/// already before one that is not.
fn good_side<'a>(
    inventory: &Inventory<'_>,
    edge: &Edge<'a>,
    moves: &[Move<'_, '_>],
) -> Option<&'a GroupName> {
    let of = |slot: &GroupName| -> Vec<&Move<'_, '_>> {
        moves.iter().filter(|(row, _)| row.group == slot).collect()
    };
    let can = |row: &&Move<'_, '_>| {
        let (host, goes) = row;
        inventory.hosts.contains_key(host.host) && goes.len() == host.components.len()
    };
    let ready = |slot: &&GroupName| {
        let rows = of(slot);
        !rows.is_empty() && rows.iter().all(can)
    };
    let there = |slot: &&GroupName| of(slot).iter().all(|(_, goes)| traffic::is_in_place(goes));
    let mut slots = edge.idle_slots().filter(ready).collect::<Vec<_>>();
    slots.sort_by_key(|slot| !there(slot));
    slots.first().copied()
}

/// The hosts through which users would see what moves, where they have no part.
fn not_seen_from_the_edge(fleet: &Fleet, chosen: &[Chosen<'_>]) -> Option<String> {
    let levels = Levels::of(fleet);
    let sees = |row: &&Chosen<'_>| {
        row.left_out.is_some()
            && planned(chosen).any(|moved| levels.reaches(row.group, moved.group))
    };
    let hosts: Vec<String> = chosen.iter().filter(sees).map(|row| row.host.to_string()).collect();
    (!hosts.is_empty()).then(|| {
        format!("what users get through {} is not verified: it is left out", hosts.join(", "))
    })
}

/// What a plan of moves says of its target.
pub(super) struct About {
    pub(super) to: Option<ReleaseName>,
    pub(super) why: String,
    pub(super) warnings: Vec<String>,
    pub(super) whole_fleet: bool,
    pub(super) across_migrations: bool,
    pub(super) forward: bool,
    /// What is in place on the side that gets the traffic is looked at once.
    pub(super) at_once: bool,
    /// Stages that come last.
    pub(super) last: Vec<Stage>,
}

impl About {
    /// A plan of a part of the fleet, with nothing to say of it yet.
    pub(super) fn going_to(to: Option<ReleaseName>) -> Self {
        Self {
            to,
            why: String::new(),
            warnings: Vec::new(),
            whole_fleet: false,
            across_migrations: false,
            forward: false,
            at_once: true,
            last: Vec::new(),
        }
    }
}

/// A bare rollback after a rollback goes no further back (design: it changes nothing).
fn already_rolled_back(
    inventory: &Inventory<'_>,
    fleet: &Fleet,
    chosen: &[Chosen<'_>],
) -> Option<Planned> {
    let (release, operation) = inventory.state.rolled_back_to.as_ref()?;
    // What no user gets is not live.
    let edge = traffic::edge(inventory, fleet).ok().flatten();
    let served = |row: &&Chosen<'_>| edge.as_ref().is_none_or(|edge| !edge.is_idle(fleet, row));
    let rows = planned(chosen).filter(served);
    let mut live = rows.map(|row| hosts::live_release(inventory, row)).peekable();
    live.peek()?;
    if !live.all(|live| live.as_ref() == Some(release)) {
        return None;
    }
    let why = format!(
        "{release} was put there by {operation}; to go further back, name a release with --to"
    );
    Some(in_place_already(fleet, hosts::listing(inventory, chosen), release, why))
}

/// A plan that does nothing, and says why.
pub(super) fn in_place_already(
    fleet: &Fleet,
    hosts: Vec<PlannedHost>,
    release: &ReleaseName,
    why: String,
) -> Planned {
    let why_not = |row: &PlannedHost| {
        if row.from.as_ref() == Some(release) {
            format!("is on {release} already")
        } else {
            "has no traffic; it stays as it is".to_owned()
        }
    };
    let hosts = hosts.into_iter().map(|row| PlannedHost {
        left_out: row.left_out.clone().or_else(|| Some(why_not(&row))),
        ..row
    });
    let about = About { why, ..About::going_to(Some(release.clone())) };
    let draft = draft(fleet, OperationKind::Rollback, about, hosts.collect(), None, Vec::new());
    Plan::new(draft).map_err(Refusal::Defect)
}

/// Where each component of a host goes for a release.
pub(super) fn goes_to<'a>(
    inventory: &Inventory<'_>,
    row: &Chosen<'a>,
    release: &ReleaseName,
) -> Vec<Goes<'a>> {
    let goes = row.components.iter().filter_map(|component| {
        let snapshot = tracks::snapshot_of(inventory, row, &component.name, release)?;
        let there = tracks::is_there(inventory, row, &component.name, &snapshot);
        let target = Target { release: release.clone(), snapshot: Some(snapshot) };
        Some(Goes { component, target, there })
    });
    goes.collect()
}

/// The plan of these moves; shared with `undo`.
pub(super) fn assemble<'a>(
    inventory: &Inventory<'_>,
    fleet: &'a Fleet,
    chosen: &[Chosen<'a>],
    moves: &[Move<'a, '_>],
    (kind, route): (OperationKind, Route<'_>),
    mut about: About,
) -> Planned {
    let (before, after) = match &route {
        Route::InPlace => (None, None),
        Route::Drained(edge) => (Some(edge.now.clone()), Some(edge.now.clone())),
        Route::Shifted(edge, to) => (Some(edge.now.clone()), Some(to.clone())),
        Route::Tried(trial) => (Some(trial.edge.now.clone()), Some(trial.after())),
    };
    let waits_ms = match &route {
        Route::Tried(trial) => trial.waits_ms(),
        Route::InPlace | Route::Drained(_) | Route::Shifted(..) => 0,
    };
    // A plan that names no release says what is live only in words.
    let release = about.to.clone().unwrap_or_else(super::undo::replaced_name);
    let how = How {
        across_migrations: about.across_migrations,
        forward: about.forward,
        at_once: about.at_once,
        release: &release,
        whole_fleet: about.whole_fleet,
        route,
    };
    let Staged { mut stages, looking, warnings } = stages::stages(inventory, fleet, moves, &how)?;
    stages.append(&mut about.last);
    about.warnings.extend(warnings);
    let silent = planned(chosen).filter(|row| is_silent(inventory, row));
    about.warnings.extend(silent.map(|row| {
        format!(
            "{} did not tell in time how it is: what is live there is not known, so it goes all the way",
            row.host
        )
    }));
    if about.across_migrations {
        about.warnings.push(ACROSS_MIGRATIONS.to_owned());
    }
    let hosts = hosts::listed(inventory, chosen, &stages);
    let moves_traffic = before != after;
    let served = |row: &&PlannedHost| match &before {
        Some(now) if now.reaches(&row.host, &row.group) => true,
        Some(_) => !moves_traffic && !traffic::is_backend(fleet, &row.group),
        None => true,
    };
    let from = if moves_traffic {
        // Whoever has a part or not: what users have is what the traffic leaves.
        hosts::common_release_of(hosts.iter().filter(served).filter(|row| row.reachable))
    } else {
        let seen = hosts.iter().filter(|row| !looking.contains(&row.host)).filter(served);
        hosts::common_release(seen.filter(|row| !fleet.components_of(&row.group).is_empty()))
    };
    let draft = draft(fleet, kind, about, hosts, from, stages);
    let deadline_ms = draft.deadline_ms.saturating_add(waits_ms);
    let draft = PlanDraft { weights_before: before, weights_after: after, deadline_ms, ..draft };
    Plan::new(draft).map_err(Refusal::Defect)
}

fn is_silent(inventory: &Inventory<'_>, row: &Chosen<'_>) -> bool {
    inventory.hosts.get(row.host).is_some_and(|now| now.silent)
}

/// The canary goes first: the fewest users notice if going back fails.
pub(super) fn canary_first<'a, 'b>(
    chosen: &'b [Chosen<'a>],
) -> impl Iterator<Item = &'b Chosen<'a>> {
    let is_canary = |row: &&Chosen<'_>| row.group.as_str() == "canary";
    planned(chosen).filter(is_canary).chain(planned(chosen).filter(move |row| !is_canary(row)))
}

fn draft(
    fleet: &Fleet,
    kind: OperationKind,
    about: About,
    hosts: Vec<PlannedHost>,
    // Of the hosts that users reach: one that is in place and only looks says nothing of what the others leave.
    from: Option<ReleaseName>,
    stages: Vec<Stage>,
) -> PlanDraft {
    let moves = from.is_some() && from != about.to;
    let consequences = about.whole_fleet && kind == OperationKind::Rollback && !stages.is_empty();
    let (interruption, not_rolled_back) = sentences(&stages);
    PlanDraft {
        marks_from_bad: consequences && moves,
        freezes: consequences,
        kind,
        fleet: fleet.name.clone(),
        app: fleet.app.clone(),
        from,
        to: about.to,
        why_target: about.why,
        stages,
        hosts,
        on_failure: fleet.rollback.on_failure,
        late_hosts: fleet.rollback.late_hosts,
        deadline_ms: fleet.rollback.deadline_ms,
        unknown_after_ms: fleet.rollback.unknown_after_ms,
        interruption,
        not_rolled_back,
        warnings: about.warnings,
        weights_before: None,
        weights_after: None,
    }
}

fn sentences(stages: &[Stage]) -> (Vec<String>, Vec<String>) {
    let steps = |stage: &Stage, wanted: fn(&Step) -> bool| {
        stage.tracks().flat_map(|track| &track.steps).any(wanted)
    };
    let moves_hosts = |step: &Step| step.verb.cuts() && step.component.as_str() != Step::TRAFFIC;
    let cuts: Vec<&Stage> = stages.iter().filter(|stage| steps(stage, moves_hosts)).collect();
    let mut interruption = Vec::new();
    if stages.iter().any(|stage| stage.name == "stop writers") {
        interruption.push(
            "full outage: what all slots share goes back, and nothing that needs it runs meanwhile"
                .to_owned(),
        );
    } else if let Some(first) = stages.iter().find_map(|stage| stage.gate.as_ref()) {
        let asks = if first.asks { ", and a person says so" } else { "" };
        interruption.push(format!(
            "none for most users: {} % of the traffic meets the new release first; the others once the judge says pass{asks}",
            first.weight
        ));
    } else if let Some(shift) = stages.iter().find(|stage| stage.name == "shift traffic") {
        let to =
            shift.tracks().flat_map(|track| &track.steps).find_map(|step| step.weights.as_ref());
        let to = to.map_or_else(String::new, ToString::to_string);
        interruption.push(format!(
            "none for users: the traffic moves to {to}, and hosts change while they get none"
        ));
    } else if stages.iter().any(|stage| steps(stage, |step| step.verb == Verb::Drain)) {
        interruption.push(
            "none for users: each host is taken out of the traffic before it is touched".to_owned(),
        );
    } else {
        interruption.extend(cuts.iter().map(|stage| match cuts.len() {
            1 => interrupted(stage),
            _ => format!("{}: {}", stage.name, interrupted(stage)),
        }));
    }
    if cuts.is_empty() {
        return (interruption, Vec::new());
    }
    let stays = "data that the app wrote: databases, `keep` paths, mail already sent".to_owned();
    let hooks = hooks(stages);
    let hooks = (!hooks.is_empty()).then(|| {
        let names: Vec<String> =
            hooks.into_iter().map(|(c, hook)| format!("{hook} of {c}")).collect();
        format!("what hooks did: {}", names.join(", "))
    });
    (interruption, [stays].into_iter().chain(hooks).collect())
}

fn interrupted(stage: &Stage) -> String {
    let stops = stage.tracks().flat_map(|track| &track.steps).any(|step| step.verb == Verb::Stop);
    let what = if stops {
        "each host is out from stop to start"
    } else {
        "nothing is stopped, services read their files anew"
    };
    let sizes: Vec<String> =
        stage.batches.iter().map(|batch| batch.tracks.len().to_string()).collect();
    format!(
        "{what}; {} at a time, never more than {} of {}",
        sizes.join(", then "),
        stage.budget.out,
        stage.tracks().count()
    )
}

/// Every hook that runs, once, with its component.
fn hooks(stages: &[Stage]) -> BTreeSet<(&str, &str)> {
    let steps = stages.iter().flat_map(Stage::tracks).flat_map(|track| &track.steps);
    steps.filter_map(|step| Some((step.component.as_str(), step.hook.as_deref()?))).collect()
}
