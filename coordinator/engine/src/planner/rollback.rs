//! Back to an earlier release: stage everywhere while the old one serves, then host by host in batches.

use super::{
    Planned, Refusal,
    hosts::{self, Chosen, planned},
    target,
    tracks::{self, Goes},
};
use crate::{
    fleet::Fleet,
    inventory::Inventory,
    name::{HostName, ReleaseName},
    plan::{Batch, Budget, OperationKind, Plan, PlanDraft, PlannedHost, Stage, Target, Track},
};

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Absent: the newest good release older than the live one.
    pub to: Option<ReleaseName>,
    /// Empty: all.
    pub hosts: Vec<HostName>,
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
    let about = About { to: Some(target.release), why: target.why, warnings: target.warnings };
    let whole_fleet = request.hosts.is_empty();
    let moves = canary_first(&chosen).map(|row| (row, goes_to(inventory, row, &release))).collect();
    assemble(inventory, fleet, &chosen, moves, OperationKind::Rollback, about, whole_fleet)
}

/// What a plan of moves says of its target.
pub(super) struct About {
    pub(super) to: Option<ReleaseName>,
    pub(super) why: String,
    pub(super) warnings: Vec<String>,
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
    let about = About { to: Some(release.clone()), why, warnings: Vec::new() };
    let draft = draft(fleet, OperationKind::Rollback, about, hosts.collect(), Vec::new(), false);
    Some(Plan::new(draft).map_err(Refusal::Defect))
}

fn goes_to<'a>(
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

/// Stages of a plan that moves hosts; shared with `undo`.
pub(super) fn assemble<'a>(
    inventory: &Inventory<'_>,
    fleet: &'a Fleet,
    chosen: &[Chosen<'a>],
    moves: Vec<(&Chosen<'a>, Vec<Goes<'a>>)>,
    kind: OperationKind,
    about: About,
    whole_fleet: bool,
) -> Planned {
    let strategy = &fleet.rollback;
    let out = strategy.budget_out.of(moves.len());
    // One place has to be left: what is unknown counts as out, and a plan that could move no host is none.
    let allowed = strategy.budget_unknown.min(out.saturating_sub(1));
    refuse_unreachable(inventory, &moves, allowed)?;
    let prepare: Vec<Track> =
        moves.iter().filter_map(|(row, goes)| tracks::prepare(row, goes)).collect();
    let restore: Vec<Track> = moves.iter().map(|(row, goes)| tracks::restore(row, goes)).collect();
    let mut stages = Vec::new();
    if !prepare.is_empty() {
        // Nothing has been stopped yet, so one host that cannot go back is reason enough not to begin.
        let budget = Budget { failed: 0, unknown: strategy.budget_unknown, out };
        let batches = vec![Batch { tracks: prepare }];
        stages.push(Stage {
            name: "prepare".to_owned(),
            batches,
            budget,
            soak_ms: 0,
            cuts_capacity: false,
        });
    }
    let budget = Budget { failed: strategy.budget_failed, unknown: strategy.budget_unknown, out };
    stages.push(Stage {
        name: "restore".to_owned(),
        batches: tracks::batches(restore, strategy, out),
        budget,
        soak_ms: strategy.soak_ms,
        cuts_capacity: true,
    });
    let hosts = hosts::listing(inventory, chosen);
    let draft = draft(fleet, kind, about, hosts, stages, whole_fleet);
    Plan::new(draft).map_err(Refusal::Defect)
}

/// The canary goes first: the fewest users notice if going back fails.
pub(super) fn canary_first<'a, 'b>(
    chosen: &'b [Chosen<'a>],
) -> impl Iterator<Item = &'b Chosen<'a>> {
    let is_canary = |row: &&Chosen<'_>| row.group.as_str() == "canary";
    planned(chosen).filter(is_canary).chain(planned(chosen).filter(move |row| !is_canary(row)))
}

fn refuse_unreachable(
    inventory: &Inventory<'_>,
    moves: &[(&Chosen<'_>, Vec<Goes<'_>>)],
    allowed: u32,
) -> Result<(), Refusal> {
    let away =
        moves.iter().map(|(row, _)| row.host).filter(|host| !inventory.hosts.contains_key(*host));
    let hosts: Vec<HostName> = away.cloned().collect();
    if hosts.len() > allowed as usize {
        return Err(Refusal::TooManyUnreachable { hosts, planned: moves.len(), allowed });
    }
    Ok(())
}

fn draft(
    fleet: &Fleet,
    kind: OperationKind,
    about: About,
    hosts: Vec<PlannedHost>,
    stages: Vec<Stage>,
    whole_fleet: bool,
) -> PlanDraft {
    let from = hosts::common_release(&hosts);
    let moves = from.is_some() && from != about.to;
    let consequences = whole_fleet && kind == OperationKind::Rollback && !stages.is_empty();
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
    }
}

fn sentences(stages: &[Stage]) -> (Vec<String>, Vec<String>) {
    let Some(cut) = stages.iter().find(|stage| stage.cuts_capacity) else {
        return Default::default();
    };
    let sizes: Vec<String> =
        cut.batches.iter().map(|batch| batch.tracks.len().to_string()).collect();
    let hosts = cut.tracks().count();
    let interruption = format!(
        "each host is out from stop to start; {} at a time, never more than {} of {hosts}",
        sizes.join(", then "),
        cut.budget.out
    );
    let stays = "data that the app wrote: databases, `keep` paths, mail already sent".to_owned();
    (vec![interruption], vec![stays])
}
