//! The sampler over an app in memory; time passes as fast as it can.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use proto::policy::Policy;
use tokio::sync::mpsc;

use super::*;
use crate::{
    drivers::Doing,
    hands::About,
    ledger::{Found, Record, StepResult},
    local::{Import, Imported},
    order::{
        Before, End, Ending, Evidence, Fence, Goal, OnFailure, Order, Origin, Step, TrackKey, Verb,
    },
    retention,
    status::HostStatus,
};

/// How an app answers its request of this number: what it says, after how long.
type Reply = Box<dyn Fn(u64) -> (Answered, Duration) + Send + Sync>;

struct App {
    every: Duration,
    reply: Mutex<Reply>,
    asked: AtomicU64,
    answered: AtomicU64,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

impl App {
    fn new(
        every_ms: u64,
        reply: impl Fn(u64) -> (Answered, Duration) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            every: Duration::from_millis(every_ms),
            reply: Mutex::new(Box::new(reply)),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        })
    }
}

impl Hands for App {
    fn sampled(&self) -> Vec<Sampled> {
        let policy = Policy::parse(
            "version: 1\nfleet: prod\nhost: h1\ncomponents:\n  crm:\n    checks: [{ name: contacts, http: \
             \"http://127.0.0.1/\" }]\n    ready_within: 1m\n    stable_for: 1s\n",
        );
        let check = policy.unwrap().components["crm"].checks[0].clone();
        vec![Sampled { component: "crm".to_owned(), check, every: self.every }]
    }

    fn ask<'a>(&'a self, _: &'a Sampled) -> Doing<'a, Option<Answered>> {
        Box::pin(async move {
            let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_in_flight.fetch_max(now, Ordering::SeqCst);
            let number = self.asked.fetch_add(1, Ordering::SeqCst);
            let (answered, after) = (self.reply.lock().unwrap())(number);
            tokio::time::sleep(after).await;
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
            self.answered.fetch_add(1, Ordering::SeqCst);
            Some(answered)
        })
    }

    fn forbidden(&self, _: &Step) -> Option<String> {
        None
    }

    fn look<'a>(&'a self, _: &'a Step, _: Option<String>) -> Doing<'a, Result<Before, String>> {
        Box::pin(async { Ok(Before::Nothing) })
    }

    fn perform<'a>(&'a self, _: &'a Step, _: &'a Before) -> Doing<'a, StepResult> {
        Box::pin(std::future::pending())
    }

    fn observe<'a>(
        &'a self,
        _: &'a Step,
        _: &'a Before,
        _: bool,
    ) -> Doing<'a, (Found, Option<Evidence>)> {
        Box::pin(std::future::pending())
    }

    fn undo<'a>(&'a self, _: &'a Step, _: &'a Before) -> Doing<'a, StepResult> {
        Box::pin(std::future::pending())
    }

    fn status(&self) -> Doing<'_, HostStatus> {
        Box::pin(async { HostStatus::default() })
    }

    fn about(&self) -> About {
        About::default()
    }

    fn import<'a>(&'a self, _: &'a Import) -> Doing<'a, Result<Imported, String>> {
        Box::pin(async { Err("it has no files".to_owned()) })
    }

    fn prune<'a>(&'a self, _: &'a retention::Ask) -> Doing<'a, Result<retention::Report, String>> {
        Box::pin(async { Ok(retention::Report::default()) })
    }
}

fn good(ms: u64) -> (Answered, Duration) {
    let took = Duration::from_millis(ms);
    (Answered { good: true, took: Some(took), gauges: Vec::new() }, took)
}

fn bad(ms: u64) -> (Answered, Duration) {
    let took = Duration::from_millis(ms);
    (Answered { good: false, took: Some(took), gauges: Vec::new() }, took)
}

/// A sampler, what it sends, and the ledger that it heeds.
struct Running {
    _sampler: Sampler,
    sent: mpsc::UnboundedReceiver<(Instant, u64, Sample)>,
    ledger: watch::Sender<Arc<Ledger>>,
}

impl Running {
    fn start(app: &Arc<App>) -> Self {
        let (tell, sent) = mpsc::unbounded_channel();
        let (ledger, watched) = watch::channel(Arc::new(Ledger::default()));
        let seen = app.clone();
        let sampler = Sampler::start(app.clone(), watched, move |samples| {
            let answered = seen.answered.load(Ordering::SeqCst);
            for sample in samples {
                tell.send((Instant::now(), answered, sample)).unwrap();
            }
            true
        });
        Self { _sampler: sampler, sent, ledger }
    }

    fn record(&self, records: &[Record]) {
        self.ledger.send_modify(|ledger| {
            records.iter().for_each(|record| Arc::make_mut(ledger).apply(record));
        });
    }
}

fn order(component: &str, verb: Verb, stage: u32) -> Order {
    let step = Step {
        verb,
        component: component.to_owned(),
        release: "v1".to_owned(),
        snapshot: "a".repeat(64),
        deadline_ms: 1_000,
        hook: String::new(),
        across_migrations: false,
        weights: None,
        artefact: None,
        at_once: false,
        forward: false,
    };
    Order {
        key: TrackKey { operation: "rb-0001".to_owned(), stage },
        attempt: 1,
        plan_hash: "p".to_owned(),
        fence: Fence { epoch: 1, instance: "one".to_owned(), sequence: u64::from(stage) },
        goal: Goal::Forward,
        steps: vec![step],
        on_failure: OnFailure::Restore,
        traceparent: String::new(),
        taken: None,
        origin: Origin::Coordinator,
        after: String::new(),
    }
}

fn accepted(component: &str, verb: Verb, stage: u32) -> Record {
    Record::Accepted(Box::new(order(component, verb, stage)))
}

fn ended(stage: u32) -> Record {
    let key = TrackKey { operation: "rb-0001".to_owned(), stage };
    Record::Ended { key, ending: Ending { end: End::Done, reason: String::new() } }
}

#[tokio::test(start_paused = true)]
async fn intervals_are_disjoint_and_lose_nothing() {
    let app = App::new(20, |number| match number % 4 {
        3 => bad(7),
        _ => good(3 + number % 60),
    });
    let begun = Instant::now();
    let mut running = Running::start(&app);
    let (mut until, mut counted, mut timed) = (begun, 0, 0);
    for _ in 0..30 {
        let (at, answered, sample) = running.sent.recv().await.unwrap();
        assert_eq!(at - sample.length, until, "it begins where the one before ended");
        until = at;
        counted += sample.good + sample.bad;
        timed += sample.latency.iter().map(|(_, count)| count).sum::<u64>();
        assert_eq!((counted, timed), (answered, answered), "each answer is in one interval");
        assert_eq!((sample.component.as_str(), sample.check.as_str()), ("crm", "contacts"));
        assert!(sample.good > 0 && sample.bad > 0, "{sample:?}");
    }
    // In beats of 20 ms, but for what jitter and rounding up cost.
    assert!((1200..=1650).contains(&counted), "{counted}");
}

/// What an app says of its error rate, in a bad answer; nothing where it has no number.
fn says(value: Option<f64>) -> (Answered, Duration) {
    let (answered, after) = bad(1);
    let gauge = |value| Gauge {
        pointer: "/errorRate".to_owned(),
        value,
        at_most: Some(0.05),
        at_least: None,
    };
    (Answered { gauges: value.map(gauge).into_iter().collect(), ..answered }, after)
}

#[tokio::test(start_paused = true)]
async fn what_the_app_said_last_goes_with_the_interval_and_is_not_said_again() {
    // Ten or so in a second; of a second's, the last one has no number. Later on none has.
    let app = App::new(100, |number| match number {
        0..40 => says((number % 2 == 0).then_some(f64::from(u32::try_from(number).unwrap()))),
        _ => says(None),
    });
    let mut running = Running::start(&app);
    let mut last = -1.0;
    loop {
        let (_, answered, sample) = running.sent.recv().await.unwrap();
        assert_eq!(sample.good, 0, "what a bad answer says is said too");
        if answered - sample.bad >= 39 {
            assert_eq!(sample.gauges, [], "no answer of it had a number");
            break;
        }
        let [gauge] = &sample.gauges[..] else { panic!("{sample:?}") };
        assert_eq!((gauge.pointer.as_str(), gauge.at_most), ("/errorRate", Some(0.05)));
        assert!(gauge.value > last, "{last}, then {gauge:?}");
        last = gauge.value;
        // The newest number of those that were answered; what comes later was not asked for.
        let newest = (0..answered.min(40)).rev().find(|number| number % 2 == 0).unwrap();
        assert_eq!(last, f64::from(u32::try_from(newest).unwrap()));
    }
    assert_eq!(last, 38.0);
}

#[tokio::test(start_paused = true)]
async fn what_the_release_before_said_of_itself_is_gone_with_it() {
    let app = App::new(100, |_| says(Some(0.5)));
    let mut running = Running::start(&app);
    assert_eq!(running.sent.recv().await.unwrap().2.gauges.len(), 1);
    *app.reply.lock().unwrap() = Box::new(|_| says(None));
    running.record(&[accepted("crm", Verb::Stop, 1), ended(1)]);
    let (_, _, sample) = running.sent.recv().await.unwrap();
    assert_eq!(sample.gauges, [], "{sample:?}");
}

#[tokio::test(start_paused = true)]
async fn an_app_that_hangs_is_not_buried_and_what_it_says_late_counts() {
    let app = App::new(20, |_| bad(5_000));
    let mut running = Running::start(&app);
    let (_, _, sample) = running.sent.recv().await.unwrap();
    assert_eq!((sample.good, sample.bad), (0, IN_FLIGHT_MAX as u64));
    assert_eq!(app.most_in_flight.load(Ordering::SeqCst), IN_FLIGHT_MAX);
}

#[tokio::test(start_paused = true)]
async fn what_is_answered_while_this_agent_is_at_work_is_in_no_sample() {
    // What serves is told apart by how long it takes to answer, from 700 ms on: there is always one on its way.
    let serves = Arc::new(AtomicU64::new(OLD));
    let now = serves.clone();
    let app = App::new(100, move |_| bad(now.load(Ordering::SeqCst)));
    let mut running = Running::start(&app);
    let serving = |what| serves.store(what, Ordering::SeqCst);
    assert!(is_of(OLD, &running.sent.recv().await.unwrap().2));

    // Not its own component, and a stage that cuts nothing.
    running.record(&[accepted("portal", Verb::Stop, 1)]);
    assert!(is_of(OLD, &running.sent.recv().await.unwrap().2));
    running.record(&[ended(1), accepted("crm", Verb::Stage, 2)]);
    assert!(is_of(OLD, &running.sent.recv().await.unwrap().2));

    running.record(&[ended(2), accepted("crm", Verb::Stop, 3)]);
    serving(STOPPED);
    let quiet = tokio::time::timeout(Duration::from_secs(60), running.sent.recv()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    let asked = app.asked.load(Ordering::SeqCst);

    running.record(&[ended(3)]);
    serving(NEW);
    let over = Instant::now();
    let (at, _, sample) = running.sent.recv().await.unwrap();
    assert!(is_of(NEW, &sample), "{sample:?}");
    assert!(at - sample.length >= over, "it began once the work was over");
    assert!(app.asked.load(Ordering::SeqCst) > asked);

    // Over before anybody looked: what was asked before it is of the release before, all the same.
    serving(BETWEEN);
    tokio::time::sleep(Duration::from_millis(300)).await;
    running.record(&[accepted("crm", Verb::Reload, 4), ended(4)]);
    serving(NEWEST);
    let over = Instant::now();
    while let Ok((at, _, sample)) = running.sent.try_recv() {
        assert!(at <= over && is_of(NEW, &sample), "{sample:?}");
    }
    let (at, _, sample) = running.sent.recv().await.unwrap();
    assert!(is_of(NEWEST, &sample), "{sample:?}");
    assert!(at - sample.length >= over);
}

/// How long what serves takes to answer, in milliseconds; each in a bucket of its own.
const OLD: u64 = 900;
const STOPPED: u64 = 100;
const NEW: u64 = 800;
const BETWEEN: u64 = 600;
const NEWEST: u64 = 700;

/// Whether all answers are of what takes so long.
fn is_of(ms: u64, sample: &Sample) -> bool {
    let answers: Vec<_> = sample.latency.iter().filter(|(_, count)| *count > 0).collect();
    let [(Some(up_to), count)] = answers[..] else { return false };
    (ms * 1000..=ms * 1100).contains(up_to) && *count == sample.bad && sample.good == 0
}

#[tokio::test(start_paused = true)]
async fn what_the_session_has_no_room_for_is_not_kept_for_later() {
    let app = App::new(20, |_| good(1));
    let (tell, mut sent) = mpsc::unbounded_channel();
    let (_ledger, watched) = watch::channel(Arc::new(Ledger::default()));
    let mut turn = 0;
    let _sampler = Sampler::start(app, watched, move |samples| {
        turn += 1;
        let room = turn % 10 == 0;
        tell.send((Instant::now(), room, samples)).unwrap();
        room
    });
    for _ in 0..40 {
        let (_, _, samples) = sent.recv().await.unwrap();
        assert!(samples.iter().all(|sample| sample.length <= SEND_EVERY), "{samples:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_whoever_holds_it() {
    let app = App::new(20, |_| good(1));
    let mut running = Running::start(&app);
    running.sent.recv().await.unwrap();
    let Running { _sampler, mut sent, .. } = running;
    drop(_sampler);
    assert!(sent.recv().await.is_none(), "its way to tell is gone with it");
    let asked = app.asked.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(app.asked.load(Ordering::SeqCst), asked);
}
