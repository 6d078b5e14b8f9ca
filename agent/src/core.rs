//! The agent's centre: orders in, work done one piece at a time, every fact on disk before the next act.
//!
//! ```text
//! session ── orders ─▶ decide ─▶ ledger file (synced) ─▶ Ledger ─▶ work ─▶ hands
//!    ▲                   ▲                                                  │
//!    └─── reports ───────┴───────────────────── how it went ◀───────────────┘
//! ```
//!
//! Invariant: it goes on without a session: a begun track ends, and its answer waits in the ledger.
//! Invariant: a report leaves only after what it says is on disk.
//! Invariant: a ledger that cannot be written ends the process.

use std::sync::Arc;

use proto::trace::Held;

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::{
    hands::Hands,
    lease,
    ledger::{Found, Ledger, LedgerError, LedgerFile, Moment, Record, StepResult},
    order::{Before, Fence, LocalOrder, Order, TrackKey, Verb},
    text::shortened,
    trace,
    worker::{self, Input, Reply, Work},
};

/// Messages that wait for the core. A session sends one order at a time.
const QUEUED_MAX: usize = 64;

/// What a step's words and notes may be long: they are kept in the ledger and sent, several times over.
pub(crate) const DETAIL_BYTES_MAX: usize = 4096;
const NOTES_MAX: usize = 64;
const NOTE_BYTES_MAX: usize = 512;

/// What the coordinator is to be told.
#[derive(Clone, Debug)]
pub enum Report {
    /// These facts became durable.
    Facts(Arc<Ledger>, Vec<Record>),
    Refused(Box<Order>, String, Arc<Ledger>),
    /// Refused because root took the host since it was planned.
    Overtaken(Box<Order>, String, Arc<Ledger>),
    /// The recorded answer to an order that ended before.
    Answer(Box<Order>, Arc<Ledger>),
}

#[derive(Debug)]
enum Message {
    Order(Box<Order>),
    /// From root on the host, and who waits for its being begun or refused.
    Local(Box<LocalOrder>, oneshot::Sender<Result<(), String>>),
    /// A session begins: its coordinator's term, where reports go from here on, and who waits for what the ledger
    /// holds just before the first of them.
    Welcomed(Fence, mpsc::Sender<Report>, oneshot::Sender<Result<Arc<Ledger>, String>>),
    /// A release on trial was looked at: when, and whether its time is over and it is kept; and who waits for that being
    /// on record.
    Tried(TrackKey, Moment, bool, oneshot::Sender<()>),
    /// Whether a session with a coordinator is up.
    HasSession(oneshot::Sender<bool>),
}

/// The way to the core.
#[derive(Clone, Debug)]
pub struct CoreHandle {
    messages: mpsc::Sender<Message>,
    ledger: watch::Receiver<Arc<Ledger>>,
}

impl CoreHandle {
    /// Gives it an order. False, where the core is gone.
    pub async fn order(&self, order: Order) -> bool {
        self.messages.send(Message::Order(Box::new(order))).await.is_ok()
    }

    /// Gives it an order of root's. An open track of a coordinator is taken back first. Answered once it is on
    /// record, or why it is not begun.
    pub async fn local(&self, order: LocalOrder) -> Result<(), String> {
        let (sender, receiver) = oneshot::channel();
        let gone = || "the agent is going down".to_owned();
        let message = Message::Local(Box::new(order), sender);
        self.messages.send(message).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }

    /// A coordinator welcomed us. Once its term is durable as our fence, reports go to `reports`; answers what the
    /// ledger held just before the first of them, or why this coordinator has no say here. None, where the core
    /// is gone.
    pub async fn welcomed(
        &self,
        fence: Fence,
        reports: mpsc::Sender<Report>,
    ) -> Option<Result<Arc<Ledger>, String>> {
        let (sender, receiver) = oneshot::channel();
        self.messages.send(Message::Welcomed(fence, reports, sender)).await.ok()?;
        receiver.await.ok()
    }

    /// A release on trial goes on to be, or is kept; answered once that is on record. Where the core is gone, the next one
    /// looks.
    pub async fn tried(&self, key: &TrackKey, at: Moment, kept: bool) {
        let (sender, receiver) = oneshot::channel();
        if self.messages.send(Message::Tried(key.clone(), at, kept, sender)).await.is_ok() {
            receiver.await.ok();
        }
    }

    /// Whether a session with a coordinator is up.
    pub async fn has_session(&self) -> bool {
        let (sender, receiver) = oneshot::channel();
        let asked = self.messages.send(Message::HasSession(sender)).await.is_ok();
        asked && receiver.await.unwrap_or(false)
    }

    /// The ledger as it is, and as it changes.
    pub fn ledger(&self) -> watch::Receiver<Arc<Ledger>> {
        self.ledger.clone()
    }
}

/// See the module.
pub struct Core<H> {
    file: Option<LedgerFile>,
    ledger: Arc<Ledger>,
    hands: Arc<H>,
    messages: mpsc::Receiver<Message>,
    published: watch::Sender<Arc<Ledger>>,
    reports: Option<mpsc::Sender<Report>>,
    /// Spans of the open track's steps.
    steps: Held,
    /// Waits for the open track to be taken back. Not durable: who asked sees the agent go and asks again.
    waiting: Option<Waiting>,
}

type Waiting = (Box<LocalOrder>, oneshot::Sender<Result<(), String>>);

impl<H> std::fmt::Debug for Core<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("ledger", &self.ledger).finish_non_exhaustive()
    }
}

impl<H: Hands> Core<H> {
    /// A core over an opened ledger.
    pub fn new(file: LedgerFile, ledger: Ledger, hands: Arc<H>) -> (Self, CoreHandle) {
        let (sender, messages) = mpsc::channel(QUEUED_MAX);
        let ledger = Arc::new(ledger);
        let (published, watched) = watch::channel(ledger.clone());
        let core = Self {
            file: Some(file),
            ledger,
            hands,
            messages,
            published,
            reports: None,
            steps: Held::default(),
            waiting: None,
        };
        (core, CoreHandle { messages: sender, ledger: watched })
    }

    /// Runs until every handle is gone. An error is a ledger that cannot be written: the process has to end.
    pub async fn run(mut self) -> Result<(), LedgerError> {
        let mut at_work: Option<JoinHandle<Input>> = None;
        loop {
            // Before anything else is heard: a coordinator's order does not get in between.
            if let Some((order, answer)) = self.waiting.take_if(|_| self.ledger.open().is_none()) {
                self.ordered_here(order, answer).await?;
            }
            if at_work.is_none() {
                at_work = worker::work(&self.ledger).map(|work| self.begin(work));
            }
            tokio::select! {
                message = self.messages.recv() => match message {
                    Some(Message::Order(order)) => self.ordered(*order).await?,
                    Some(Message::Local(order, answer)) => self.ordered_here(order, answer).await?,
                    Some(Message::Welcomed(fence, reports, answer)) => {
                        let welcomed = self.welcomed(fence, reports).await?;
                        if answer.send(welcomed).is_err() {
                            self.reports = None;
                        }
                    }
                    Some(Message::Tried(key, at, kept, answer)) => {
                        let decision = worker::decide(&self.ledger, Input::Tried { key, at, kept });
                        self.commit(decision.records).await?;
                        // Who asked may be gone: it looks again where it is started again.
                        answer.send(()).ok();
                    }
                    Some(Message::HasSession(answer)) => {
                        let up = self.reports.as_ref().is_some_and(|reports| !reports.is_closed());
                        answer.send(up).ok();
                    }
                    None => return Ok(()),
                },
                ended = done(&mut at_work) => {
                    at_work = None;
                    let mut records = worker::decide(&self.ledger, ended).records;
                    let lease = |component: &str| self.hands.lease(component);
                    let now = || self.hands.moment();
                    records.extend(lease::begins(&self.ledger, &records, lease, now));
                    self.commit(records).await?;
                }
            }
        }
    }

    async fn welcomed(
        &mut self,
        fence: Fence,
        reports: mpsc::Sender<Report>,
    ) -> Result<Result<Arc<Ledger>, String>, LedgerError> {
        self.reports = None;
        let decision = worker::decide(&self.ledger, Input::Welcomed(fence));
        self.commit(decision.records).await?;
        if let Some(Reply::Refused(why)) = decision.reply {
            return Ok(Err(why));
        }
        self.reports = Some(reports);
        Ok(Ok(self.ledger.clone()))
    }

    async fn ordered(&mut self, order: Order) -> Result<(), LedgerError> {
        let forbidden = order.steps.iter().find_map(|step| self.hands.forbidden(step));
        let decision =
            worker::decide(&self.ledger, Input::Order { order: order.clone(), forbidden });
        self.commit(decision.records).await?;
        match decision.reply {
            Some(Reply::Refused(why)) => {
                tracing::warn!(operation = order.key.operation, why, "an order was refused");
                self.report(Report::Refused(Box::new(order), why, self.ledger.clone()));
            }
            Some(Reply::Overtaken(why)) => {
                tracing::warn!(operation = order.key.operation, why, "an order came too late");
                self.report(Report::Overtaken(Box::new(order), why, self.ledger.clone()));
            }
            Some(Reply::Ended(_)) => {
                self.report(Report::Answer(Box::new(order), self.ledger.clone()))
            }
            Some(Reply::Taken | Reply::Waits) | None => {}
        }
        Ok(())
    }

    async fn ordered_here(
        &mut self,
        order: Box<LocalOrder>,
        answer: oneshot::Sender<Result<(), String>>,
    ) -> Result<(), LedgerError> {
        let begun = match &self.waiting {
            Some((first, _)) => {
                Err(format!("{} waits for this host already", first.made.operation))
            }
            None => {
                let forbidden = order.steps.iter().find_map(|step| self.hands.forbidden(step));
                let input = Input::Local { order: (*order).clone(), forbidden };
                let decision = worker::decide(&self.ledger, input);
                self.commit(decision.records).await?;
                match decision.reply {
                    Some(Reply::Waits) => {
                        self.waiting = Some((order, answer));
                        return Ok(());
                    }
                    Some(Reply::Refused(why) | Reply::Overtaken(why)) => Err(why),
                    Some(Reply::Taken | Reply::Ended(_)) | None => Ok(()),
                }
            }
        };
        if answer.send(begun).is_err() {
            tracing::debug!("who ordered it on the host is gone; it goes on");
        }
        Ok(())
    }

    /// On disk, applied, told: in that order.
    async fn commit(&mut self, records: Vec<Record>) -> Result<(), LedgerError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut file = self.file.take().expect("the file is always put back");
        let (file, written, records) = tokio::task::spawn_blocking(move || {
            let written = file.append(&records);
            (file, written, records)
        })
        .await
        .expect("appending does not panic");
        self.file = Some(file);
        written?;
        let ledger = Arc::make_mut(&mut self.ledger);
        for record in &records {
            trace::recorded(ledger, record, &self.steps);
            trace::log_span_of(ledger, record).in_scope(|| log(record));
            ledger.apply(record);
        }
        self.published.send_replace(self.ledger.clone());
        self.report(Report::Facts(self.ledger.clone(), records));
        self.compact().await
    }

    /// A long ledger is written anew while nothing is open.
    async fn compact(&mut self) -> Result<(), LedgerError> {
        let long = self.file.as_ref().is_some_and(LedgerFile::is_long);
        if !long || self.ledger.open().is_some() {
            return Ok(());
        }
        let mut file = self.file.take().expect("the file is always put back");
        let ledger = self.ledger.clone();
        let (file, written) = tokio::task::spawn_blocking(move || {
            let written = file.compact(&ledger);
            (file, written)
        })
        .await
        .expect("compacting does not panic");
        self.file = Some(file);
        written
    }

    /// Best effort: a session that cannot keep up asks again when it resends its orders.
    fn report(&mut self, report: Report) {
        if self.reports.as_ref().is_some_and(|reports| reports.try_send(report).is_err()) {
            tracing::debug!("a report found no session");
        }
    }

    fn begin(&self, work: Work) -> JoinHandle<Input> {
        let (ledger, hands, steps) = (self.ledger.clone(), self.hands.clone(), self.steps.clone());
        tokio::spawn(async move {
            let doing = do_work(&ledger, &*hands, work.clone());
            trace::traced(&ledger, &work, &steps, doing).await
        })
    }
}

async fn done(at_work: &mut Option<JoinHandle<Input>>) -> Input {
    match at_work {
        // A defect in a driver must not pass for a result; the restarted agent looks what it left.
        Some(task) => task.await.expect("work does not panic"),
        None => std::future::pending().await,
    }
}

async fn do_work<H: Hands>(ledger: &Ledger, hands: &H, work: Work) -> Input {
    let track = ledger.open().expect("work is of the open track");
    let steps = &track.order().steps;
    let nothing = Before::Nothing;
    let before_of = |index: usize| track.before(index).unwrap_or(&nothing);
    match work {
        Work::Look { key, index } => {
            let staged = staged(ledger, &key.operation, &steps[index].component);
            let mut before = hands.look(&steps[index], staged).await;
            if let Err(why) = &mut before {
                *why = shortened(why, DETAIL_BYTES_MAX);
            }
            Input::Looked { key, index, before }
        }
        Work::Perform { key, index } => {
            let begun = tokio::time::Instant::now();
            let result = hands.perform(&steps[index], before_of(index)).await;
            Input::Performed { key, index, result: timed(result, begun) }
        }
        Work::Observe { key, index, undo } => {
            let (mut found, evidence) = hands.observe(&steps[index], before_of(index), undo).await;
            if let Found::Unknown(why) = &mut found {
                *why = shortened(why, DETAIL_BYTES_MAX);
            }
            Input::Observed { key, index, found, evidence }
        }
        Work::Undo { key, index, before } => {
            let begun = tokio::time::Instant::now();
            let result = hands.undo(&steps[index], &before).await;
            Input::Undone { key, index, result: timed(result, begun) }
        }
    }
}

fn timed(result: StepResult, begun: tokio::time::Instant) -> StepResult {
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let evidence = result.evidence.map(|mut evidence| {
        evidence.notes.truncate(NOTES_MAX);
        evidence.notes.iter_mut().for_each(|note| *note = shortened(note, NOTE_BYTES_MAX));
        evidence
    });
    let detail = shortened(&result.detail, DETAIL_BYTES_MAX);
    StepResult { duration_ms, detail, evidence, ..result }
}

/// What the same operation's stage step found live of a component.
fn staged(ledger: &Ledger, operation: &str, component: &str) -> Option<String> {
    let tracks =
        ledger.tracks().into_iter().rev().filter(|track| track.order().key.operation == operation);
    let mut steps = tracks
        .flat_map(|track| track.steps().map(|(index, step)| (&track.order().steps[index], step)));
    steps.find_map(|(step, state)| {
        let wanted = step.verb == Verb::Stage && step.component == component;
        if wanted { state.result()?.evidence.as_ref()?.replaced.clone() } else { None }
    })
}

fn log(record: &Record) {
    match record {
        Record::Accepted(order) => {
            let (operation, stage, attempt) =
                (&order.key.operation, order.key.stage, order.attempt);
            tracing::info!(operation, stage, attempt, goal = ?order.goal, steps = order.steps.len(), "order taken");
        }
        Record::StepEnded { key, index, result } | Record::UndoEnded { key, index, result }
            if !result.ok =>
        {
            tracing::warn!(
                operation = key.operation,
                index,
                detail = result.detail,
                "a step failed"
            );
        }
        Record::TurnedBack { key, why } => {
            tracing::warn!(operation = key.operation, why, "turned back")
        }
        Record::Ended { key, ending } => {
            tracing::info!(operation = key.operation, stage = key.stage, end = ?ending.end, "track ended");
        }
        Record::Fenced(_)
        | Record::StepBegan { .. }
        | Record::Observed { .. }
        | Record::StepEnded { .. }
        | Record::UndoBegan { .. }
        | Record::UndoEnded { .. }
        | Record::Dropped { .. } => tracing::debug!(?record, "recorded"),
        Record::Trial { key, trial } => lease::log(key, trial),
    }
}
