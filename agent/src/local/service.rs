//! What root asks, answered: the same whether over the socket of a running agent or in a process of its own.
//!
//! ```text
//! Request ─▶ look at the host ─▶ plan ─▶ Core ─▶ follow the ledger ─▶ Responses
//! ```

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::mpsc;

use super::{
    OPERATION_PREFIX, operations,
    plan::{self, Ask, Plan, Refusal, View},
    wire::{
        AtWork, BY_BYTES_MAX, Component, Ended, Local, Request, Response, Status, Step, StepWord,
    },
};
use crate::{
    core::CoreHandle,
    hands::Hands,
    ledger::{Ledger, StepState, Track},
    order::{LocalOrder, MadeHere, TrackKey},
    status::{ComponentStatus, HostStatus},
    text::shortened,
};

/// See the module.
#[derive(Debug)]
pub struct Service<H> {
    hands: Arc<H>,
    core: CoreHandle,
}

impl<H> Clone for Service<H> {
    fn clone(&self) -> Self {
        Self { hands: self.hands.clone(), core: self.core.clone() }
    }
}

impl<H: Hands> Service<H> {
    /// A service beside a core.
    pub fn new(hands: Arc<H>, core: CoreHandle) -> Self {
        Self { hands, core }
    }

    /// Answers a request. What was begun goes on when nobody listens any more.
    pub async fn answer(&self, request: Request, say: &mpsc::Sender<Response>) {
        let response = match request {
            Request::Status => Response::Status(Box::new(self.status().await)),
            Request::Plan(ask) => match self.plan(&ask).await {
                Ok(plan) => Response::Plan { hash: plan.hash(), plan: Box::new(plan) },
                Err(refusal) => Response::NoPlan(refusal),
            },
            Request::Start { ask, hash, by } => self.start(&ask, &hash, &by, say).await,
            Request::Import(import) => match self.hands.import(&import).await {
                Ok(imported) => {
                    let (release, component) = (&imported.release, &imported.component);
                    tracing::info!(release, component, from = %import.from.display(), "imported");
                    Response::Imported(imported)
                }
                Err(why) => Response::Refused { why },
            },
        };
        if say.send(response).await.is_err() {
            tracing::debug!("who asked on the host is gone");
        }
    }

    async fn plan(&self, ask: &Ask) -> Result<Plan, Refusal> {
        let status = self.hands.status().await;
        let about = self.hands.about();
        let ledger = self.core.ledger().borrow().clone();
        plan::make(View { shapes: &about.shapes, status: &status, ledger: &ledger }, ask)
    }

    async fn status(&self) -> Status {
        let status = self.hands.status().await;
        let about = self.hands.about();
        let ledger = self.core.ledger().borrow().clone();
        let view = View { shapes: &about.shapes, status: &status, ledger: &ledger };
        let bare = Ask::Rollback { to: None, leave: false, across_migrations: false };
        Status {
            way_back: plan::make(view, &bare).ok().map(|plan| plan.release),
            releases: plan::releases(view),
            host: about.host,
            policy_hash: status.policy_hash.clone(),
            components: components(&status),
            at_work: ledger.open().map(at_work),
            local: operations(&ledger).into_iter().map(local).collect(),
            free_bytes: status.free_bytes,
        }
    }

    async fn start(
        &self,
        ask: &Ask,
        hash: &str,
        by: &str,
        say: &mpsc::Sender<Response>,
    ) -> Response {
        let plan = match self.plan(ask).await {
            Ok(plan) if plan.hash() == hash => plan,
            Ok(_) => return Response::Stale,
            Err(refusal) => return Response::NoPlan(refusal),
        };
        let mut ledger = self.core.ledger();
        let order = order(&ledger.borrow(), &plan, by);
        let key = order.key();
        let begun = Response::Begun { operation: key.operation.clone() };
        let core = self.core.clone();
        let mut taken = tokio::spawn(async move { core.local(order).await });
        let mut told = Told::default();
        let mut answered = false;
        // Words about it are worth less than it: where nobody listens, it goes on all the same.
        say.send(begun).await.ok();
        loop {
            let now = ledger.borrow_and_update().clone();
            for step in told.news(&now, &key) {
                say.send(Response::Step(step)).await.ok();
            }
            let track = now.tracks().into_iter().find(|track| track.order().key == key);
            if let Some(track) = track.filter(|track| track.ending().is_some()) {
                return self.ended(track).await;
            }
            tokio::select! {
                changed = ledger.changed() => if changed.is_err() {
                    let why = "the agent ended; what it left is looked at when it starts again";
                    return Response::Refused { why: why.to_owned() };
                },
                refused = &mut taken, if !answered => {
                    answered = true;
                    if let Err(why) = refused.expect("handing an order over does not panic") {
                        return Response::Refused { why };
                    }
                }
            }
        }
    }

    async fn ended(&self, track: &Track) -> Response {
        let ending = track.ending().cloned().expect("it was seen to have ended");
        Response::Ended(Ended {
            operation: track.order().key.operation.clone(),
            end: ending.end,
            reason: ending.reason,
            evidence: track.evidence(),
            components: components(&self.hands.status().await),
        })
    }
}

fn order(ledger: &Ledger, plan: &Plan, by: &str) -> LocalOrder {
    let now = jiff::Timestamp::now();
    let operation = fresh_id(ledger);
    let printable: String = by.chars().filter(|c| !c.is_control()).collect();
    LocalOrder {
        made: MadeHere {
            operation,
            by: shortened(&printable, BY_BYTES_MAX),
            at_unix_ms: now.as_millisecond(),
            release: plan.release.clone(),
        },
        plan_hash: plan.hash(),
        steps: plan.steps.clone(),
        on_failure: plan.on_failure(),
        trial: None,
    }
}

/// A name for a local operation that begins now.
pub fn fresh_id(ledger: &Ledger) -> String {
    let stem = format!("{OPERATION_PREFIX}{}", jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S"));
    let taken = |id: &String| {
        let mut tracks = ledger.tracks().into_iter();
        tracks.any(|track| track.order().key.operation == *id)
    };
    // Twice within a second.
    let mut ids = std::iter::once(stem.clone()).chain((2u32..).map(|n| format!("{stem}-{n}")));
    ids.find(|id| !taken(id)).expect("there is always a next number")
}

/// What was told of each step of a local operation, the coordinator's track that is taken back for it included.
#[derive(Default)]
struct Told(BTreeMap<(TrackKey, usize), (StepWord, u64)>);

impl Told {
    fn news(&mut self, ledger: &Ledger, key: &TrackKey) -> Vec<Step> {
        let mut news = Vec::new();
        for track in ledger.tracks() {
            let own = track.order().key == *key;
            let made = track.order().origin.made_here();
            if !own && made.is_none_or(|made| made.operation != key.operation) {
                continue;
            }
            for (index, state) in track.steps() {
                let (word, duration_ms, detail) = word(state);
                // Of a track that is taken back only that is news.
                let back = match word {
                    StepWord::TakingBack | StepWord::TakenBack | StepWord::Stuck => true,
                    StepWord::Running | StepWord::Done | StepWord::Failed => false,
                };
                let at = (track.order().key.clone(), index);
                let new = (word, duration_ms);
                if (!own && !back) || self.0.get(&at) == Some(&new) {
                    continue;
                }
                self.0.insert(at, new);
                let step = &track.order().steps[index];
                news.push(Step {
                    at_unix_ms: jiff::Timestamp::now().as_millisecond(),
                    operation: track.order().key.operation.clone(),
                    index,
                    verb: step.verb,
                    component: step.component.clone(),
                    release: step.release.clone(),
                    hook: step.hook.clone(),
                    state: word,
                    duration_ms,
                    detail,
                });
            }
        }
        news
    }
}

fn word(state: &StepState) -> (StepWord, u64, String) {
    match (state.undo(), state.is_being_undone(), state.result()) {
        (Some(undo), _, _) if undo.ok => {
            (StepWord::TakenBack, undo.duration_ms, undo.detail.clone())
        }
        (Some(undo), _, _) => (StepWord::Stuck, undo.duration_ms, undo.detail.clone()),
        (None, true, _) => (StepWord::TakingBack, 0, String::new()),
        (None, false, Some(result)) => {
            let word = if result.ok { StepWord::Done } else { StepWord::Failed };
            (word, result.duration_ms, result.detail.clone())
        }
        (None, false, None) => (StepWord::Running, 0, String::new()),
    }
}

fn at_work(track: &Track) -> AtWork {
    let step = track.steps().last().map(|(index, _)| {
        let step = &track.order().steps[index];
        format!("{} {}", step.verb, step.component)
    });
    let releases = track.order().steps.iter().map(|step| step.release.clone());
    AtWork {
        operation: track.order().key.operation.clone(),
        step,
        to_release: releases.max_by_key(String::len).unwrap_or_default(),
    }
}

fn local(row: super::LocalOperation) -> Local {
    Local {
        operation: row.made.operation,
        by: row.made.by,
        at_unix_ms: row.made.at_unix_ms,
        release: row.made.release,
        ended: row.ending.map(|ending| (ending.end, ending.reason)),
    }
}

fn components(status: &HostStatus) -> Vec<Component> {
    let row = |row: &ComponentStatus| Component {
        component: row.component.clone(),
        release: row.release.clone(),
        changed: row.changed,
        held: row.held,
        version: row.version.clone(),
        services: row.services.iter().map(|one| (one.service.clone(), one.running)).collect(),
        failing: row
            .checks
            .iter()
            .filter(|check| !check.ok)
            .map(|check| (check.check.clone(), check.detail.clone()))
            .collect(),
        checks: row.checks.len(),
    };
    status.components.iter().map(row).collect()
}
