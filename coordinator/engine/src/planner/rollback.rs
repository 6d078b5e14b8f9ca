//! Back to an earlier release: stage everywhere while the old one serves, then host by host in batches.
//!
//! A part of the fleet (`--hosts`) goes back without a look from the edge: the fleet is mixed then on purpose, and
//! which of its releases a request through the edge meets is chance. The plan says so. Who wants the look names the
//! edge hosts too.

use std::collections::BTreeSet;

use super::{
    Planned, Refusal,
    hosts::{self, Chosen, planned},
    stages::{self, Move, Staged},
    target,
    tracks::{self, Goes},
};
use crate::{
    fleet::Fleet,
    inventory::Inventory,
    levels::Levels,
    name::{HostName, ReleaseName},
    plan::{OperationKind, Plan, PlanDraft, PlannedHost, Stage, Target, Verb},
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
        to: Some(target.release),
        why: target.why,
        warnings: target.warnings,
        whole_fleet: request.hosts.is_empty(),
        across_migrations: request.across_migrations,
    };
    about.warnings.extend(not_seen_from_the_edge(fleet, &chosen));
    let moves: Vec<Move<'_, '_>> =
        canary_first(&chosen).map(|row| (row, goes_to(inventory, row, &release))).collect();
    assemble(inventory, fleet, &chosen, &moves, OperationKind::Rollback, about)
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
}

/// A bare rollback after a rollback goes no further back (design: it changes nothing).
fn already_rolled_back(
    inventory: &Inventory<'_>,
    fleet: &Fleet,
    chosen: &[Chosen<'_>],
) -> Option<Planned> {
    let (release, operation) = inventory.state.rolled_back_to.as_ref()?;
    let mut live = planned(chosen).map(|row| hosts::live_release(inventory, row));
    if !live.all(|live| live.as_ref() == Some(release)) {
        return None;
    }
    let why = format!(
        "{release} was put there by {operation}; to go further back, name a release with --to"
    );
    let hosts = hosts::listing(inventory, chosen).into_iter().map(|row| PlannedHost {
        left_out: row.left_out.or_else(|| Some(format!("is on {release} already"))),
        ..row
    });
    let about = About {
        to: Some(release.clone()),
        why,
        warnings: Vec::new(),
        whole_fleet: false,
        across_migrations: false,
    };
    let (hosts, looking) = (hosts.collect(), BTreeSet::new());
    let draft = draft(fleet, OperationKind::Rollback, about, hosts, &looking, Vec::new());
    Some(Plan::new(draft).map_err(Refusal::Defect))
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
    kind: OperationKind,
    mut about: About,
) -> Planned {
    let Staged { stages, looking, warnings } =
        stages::stages(inventory, fleet, moves, about.across_migrations)?;
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
    let hosts = hosts::listing(inventory, chosen);
    let draft = draft(fleet, kind, about, hosts, &looking, stages);
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
    looking: &BTreeSet<HostName>,
    stages: Vec<Stage>,
) -> PlanDraft {
    // A host that is in place and only looks says nothing of the release that the others leave.
    let from = hosts::common_release(hosts.iter().filter(|row| !looking.contains(&row.host)));
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
    let cuts: Vec<&Stage> = stages.iter().filter(|stage| stage.cuts_capacity).collect();
    if cuts.is_empty() {
        return Default::default();
    }
    let interruption = cuts.iter().map(|stage| match cuts.len() {
        1 => interrupted(stage),
        _ => format!("{}: {}", stage.name, interrupted(stage)),
    });
    let stays = "data that the app wrote: databases, `keep` paths, mail already sent".to_owned();
    let hooks = hooks(stages);
    let hooks = (!hooks.is_empty()).then(|| {
        let names: Vec<String> =
            hooks.into_iter().map(|(c, hook)| format!("{hook} of {c}")).collect();
        format!("what hooks did: {}", names.join(", "))
    });
    (interruption.collect(), [stays].into_iter().chain(hooks).collect())
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
