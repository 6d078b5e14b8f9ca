//! Users: requests on a schedule, whatever becomes of them, and what they got.
//!
//! ```text
//! schedule: request n at n / rate ──▶ fresh: a connection of its own
//!                                └──▶ kept: a new one until all are open, then the one that has been idle longest,
//!                                     and where none is idle one more
//!            every answer or failure ──▶ Tally ──▶ Report: versions, hosts, failures by kind, latency
//! ```
//!
//! An open loop: a server that hangs is asked as often as one that does not, and latency counts from the moment at
//! which the schedule wanted the request.
//!
//! Invariant: a request that was begun is in the report: answered, failed, or an idle connection's reset.

mod connection;
mod report;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use connection::{Connection, Failed, Got};
use report::Tally;
pub use report::{Failure, Failures, Latency, Report, Seen};

/// How often the end of a load without a stated number of requests is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Who asks for what, how often, and by which connections.
#[derive(Clone, Debug)]
pub struct Plan {
    pub server: SocketAddr,
    /// Requests in a second.
    pub rate: u32,
    /// It ends by itself after so many.
    pub requests: Option<u64>,
    /// Of every hundred requests, how many have a connection of their own.
    pub fresh_percent: u32,
    /// How many connections the others share.
    pub kept: usize,
    /// Of every hundred requests of each kind, how many are POST.
    pub post_percent: u32,
    pub get: String,
    pub post: String,
    /// Where an answer says its version: a JSON pointer (`/version`) or the name of a header.
    pub version_at: String,
    /// The header in which an answer says who gave it.
    pub host_at: String,
    /// A request without its whole answer in this time has failed.
    pub timeout: Duration,
}

impl Plan {
    /// 300 requests a second for an app behind a proxy: half of them by 50 connections that are kept, a quarter POST.
    pub fn usual(server: SocketAddr) -> Self {
        Self {
            server,
            rate: 300,
            requests: None,
            fresh_percent: 50,
            kept: 50,
            post_percent: 25,
            get: "/api/health".to_owned(),
            post: "/api/auth/test".to_owned(),
            version_at: "/version".to_owned(),
            host_at: "x-served-by".to_owned(),
            timeout: Duration::from_secs(10),
        }
    }
}

/// See the module. It has threads of its own: who watches it may block.
#[derive(Debug)]
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Begins.
    pub fn start(plan: Plan) -> Self {
        let (tally, over) = (Arc::new(Mutex::new(Tally::begin())), Arc::<AtomicBool>::default());
        let run = run(plan, tally.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(run);
        });
        Self { tally, over, thread: Some(thread) }
    }

    /// What users got so far.
    pub fn so_far(&self) -> Report {
        lock(&self.tally).report()
    }

    /// No request more; waits for those that are open.
    pub fn stop(self) -> Report {
        self.over.store(true, Ordering::Relaxed);
        self.wait()
    }

    /// Waits until as many requests as were planned have their end.
    pub fn wait(mut self) -> Report {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the load does not panic");
        }
        lock(&self.tally).report()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

async fn run(plan: Plan, tally: Arc<Mutex<Tally>>, over: Arc<AtomicBool>) {
    let users = Arc::new(Users { pool: Mutex::default(), tally, plan });
    let (mut open, mut fresh, mut post) = (JoinSet::new(), Share::default(), [Share::default(); 2]);
    let begun = Instant::now();
    for number in 0..users.plan.requests.unwrap_or(u64::MAX) {
        let due = begun + Duration::from_micros(number * 1_000_000 / u64::from(users.plan.rate));
        while Instant::now() < due && !over.load(Ordering::Relaxed) {
            sleep_until(due.min(Instant::now() + LOOK_EVERY)).await;
        }
        if over.load(Ordering::Relaxed) {
            break;
        }
        let fresh = fresh.next(users.plan.fresh_percent);
        let ask = Ask { fresh, post: post[usize::from(fresh)].next(users.plan.post_percent), due };
        lock(&users.tally).sent(fresh);
        open.spawn(users.clone().ask(ask));
        while open.try_join_next().is_some() {}
    }
    open.join_all().await;
}

/// A share of all things of a kind, evenly spread.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    owed: u32,
}

impl Share {
    fn next(&mut self, percent: u32) -> bool {
        self.owed += percent;
        let is_one = self.owed >= 100;
        if is_one {
            self.owed -= 100;
        }
        is_one
    }
}

#[derive(Clone, Copy, Debug)]
struct Ask {
    fresh: bool,
    post: bool,
    due: Instant,
}

#[derive(Debug)]
struct Users {
    plan: Plan,
    pool: Mutex<Pool>,
    tally: Arc<Mutex<Tally>>,
}

/// Connections that are kept.
#[derive(Debug, Default)]
struct Pool {
    /// Those that wait for their next request, the longest idle first.
    idle: VecDeque<(Connection, Place)>,
    places: Place,
}

/// Held by each connection that is kept, as long as it is; they are counted by it.
type Place = Arc<()>;

impl Pool {
    fn open(&self) -> usize {
        Arc::strong_count(&self.places) - 1
    }

    /// The next to use; a place for a new one where there are not enough.
    fn next(&mut self, kept: usize) -> Result<(Connection, Place), Place> {
        if self.open() < kept {
            return Err(self.places.clone());
        }
        self.idle.pop_front().ok_or_else(|| self.places.clone())
    }
}

impl Users {
    async fn ask(self: Arc<Self>, ask: Ask) {
        let result = match tokio::time::timeout(self.plan.timeout, self.send(ask)).await {
            Ok(result) => result,
            Err(_) => Err(Failed::Counts(Failure::Timeout)),
        };
        let mut tally = lock(&self.tally);
        match result {
            Ok((got, asked)) => {
                tally.answered(ask.fresh, got, asked.into_std(), ask.due.elapsed());
            }
            Err(Failed::Counts(failure)) => tally.failed(ask.fresh, failure),
            Err(Failed::IdleReset) => tally.idle_reset(),
        }
    }

    /// What is got, and when what got it was begun.
    async fn send(&self, ask: Ask) -> Result<(Got, Instant), Failed> {
        if ask.fresh {
            let asked = Instant::now();
            let connection = Connection::open(self.plan.server).await?;
            return Ok((connection.ask(&self.plan, ask).await?.0, asked));
        }
        let (got, connection, place, asked) = loop {
            let asked = Instant::now();
            let next = lock(&self.pool).next(self.plan.kept);
            let (idle, place) = match next {
                Ok(idle) => idle,
                Err(place) => {
                    lock(&self.tally).connected();
                    let connection = Connection::open(self.plan.server).await?;
                    let (got, connection) = connection.ask(&self.plan, ask).await?;
                    break (got, connection, place, asked);
                }
            };
            // One that was closed meanwhile is no failure: nothing was sent by it.
            if idle.is_open() {
                match idle.ask(&self.plan, ask).await {
                    Err(connection::Ended::NotSent) => {}
                    Err(connection::Ended::Failed(failed)) => return Err(failed),
                    Ok((got, connection)) => break (got, connection, place, asked),
                }
            }
        };
        let mut pool = lock(&self.pool);
        if pool.open() <= self.plan.kept {
            pool.idle.push_back((connection, place));
        }
        Ok((got, asked))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
