//! A few threads that share work which grows while it is done: a walk, a build, a check.
//!
//! ```text
//! first jobs ──▶ stack ──▶ worker: one job ──▶ what it found, and more jobs ──▶ stack … empty and nobody at work: done
//! ```
//!
//! The last job in is the first one out, so that few directories wait with an open handle.
//!
//! Invariant: the first error ends the work; no job begins after it, and no thread outlives the call.

use std::{
    num::NonZero,
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

use super::{error::StoreError, lock};

/// An agent stands beside an app that has the host for itself.
const THREADS_MAX: usize = 4;

/// What is to be done, and by how many it is being done.
struct Stack<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
}

struct State<J> {
    jobs: Vec<J>,
    at_work: usize,
    failed: Option<StoreError>,
    abandoned: bool,
}

/// Does every job, and those that `each` adds to its last argument; returns what the workers have gathered.
pub(super) fn share<J: Send, W: Send>(
    jobs: Vec<J>,
    worker: impl Fn() -> W + Sync,
    each: impl Fn(&mut W, J, &mut Vec<J>) -> Result<(), StoreError> + Sync,
) -> Result<Vec<W>, StoreError> {
    let stack = Stack {
        state: Mutex::new(State { jobs, at_work: 0, failed: None, abandoned: false }),
        changed: Condvar::new(),
    };
    let run = || {
        let mut worker = worker();
        let mut more = Vec::new();
        let _left = Left(&stack);
        while let Some(job) = stack.take() {
            let done = each(&mut worker, job, &mut more);
            stack.done(done, &mut more);
        }
        worker
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    let workers = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut workers = vec![run()];
        for other in others {
            workers.push(other.join().expect("a worker does not panic"));
        }
        workers
    });
    let state = stack.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match state.failed {
        Some(error) => Err(error),
        None => Ok(workers),
    }
}

impl<J> Stack<J> {
    /// The next job; none once there is nothing left and nobody who could add to it.
    fn take(&self) -> Option<J> {
        let mut state = lock(&self.state);
        loop {
            if state.failed.is_some() || state.abandoned {
                return None;
            }
            if let Some(job) = state.jobs.pop() {
                state.at_work += 1;
                return Some(job);
            }
            if state.at_work == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, done: Result<(), StoreError>, more: &mut Vec<J>) {
        let mut state = lock(&self.state);
        state.at_work -= 1;
        state.jobs.append(more);
        if let Err(error) = done {
            state.failed.get_or_insert(error);
        }
        self.changed.notify_all();
    }
}

/// Lets nobody wait for a worker that panicked.
struct Left<'s, J>(&'s Stack<J>);

impl<J> Drop for Left<'_, J> {
    fn drop(&mut self) {
        if thread::panicking() {
            lock(&self.0.state).abandoned = true;
            self.0.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_grows_is_done_to_its_end() {
        let each = |sum: &mut u64, job: u64, more: &mut Vec<u64>| {
            *sum += 1;
            more.extend((0..job).map(|_| job - 1));
            Ok(())
        };
        let sums = share(vec![6], || 0u64, each).unwrap();
        // 6 jobs that each make 5 that each make 4 …
        assert_eq!(sums.into_iter().sum::<u64>(), 1957);
    }

    #[test]
    fn the_first_error_ends_it() {
        let failed = share(
            vec![0u64],
            || (),
            |(), job, more| {
                more.push(job + 1);
                if job < 1000 {
                    return Ok(());
                }
                Err(StoreError::Changing { path: job.to_string() })
            },
        );
        assert!(matches!(failed, Err(StoreError::Changing { .. })));
    }
}
