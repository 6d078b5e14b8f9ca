//! Who counts on objects that no record names yet, and when an object may therefore be freed.
//!
//! ```text
//! a batch finds an object "already there" ──counts on it──▶ its record is saved ──▶ a mark finds the object named
//!        └── Relied::rely ───────────────────────────────────────┘
//!                       Relied::by_nobody: nobody does, and whoever wants to waits for the moment that it takes
//! ```
//!
//! Invariant: nothing is freed while a batch, or what stays of it until its record is saved, is alive.
//! Invariant: nobody who adds objects waits for more than the few names that are freed in one go.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::lock;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Relied {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    relying: usize,
    freeing: bool,
}

/// As long as this is alive, every object that is there stays there.
#[derive(Debug)]
#[must_use = "what was found in the store may be freed once this is gone: keep it until the record is saved"]
pub(super) struct Rely<'r>(&'r Relied);

/// As long as this is alive, nobody counts on what no record names.
#[derive(Debug)]
pub(super) struct Alone<'r>(&'r Relied);

impl Relied {
    pub(super) fn rely(&self) -> Rely<'_> {
        let mut state = lock(&self.state);
        while state.freeing {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.relying += 1;
        Rely(self)
    }

    /// None, where somebody still counts on objects after this time. Meanwhile others may begin to.
    pub(super) fn by_nobody(&self, within: Duration) -> Option<Alone<'_>> {
        let deadline = Instant::now() + within;
        let mut state = lock(&self.state);
        while state.relying > 0 || state.freeing {
            let left = deadline.checked_duration_since(Instant::now())?;
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.freeing = true;
        Some(Alone(self))
    }
}

impl Drop for Rely<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).relying -= 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).freeing = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_freed_while_somebody_counts_on_it() {
        let relied = Relied::default();
        let one = relied.rely();
        let other = relied.rely();
        assert!(relied.by_nobody(Duration::ZERO).is_none());
        drop(one);
        assert!(relied.by_nobody(Duration::ZERO).is_none());
        drop(other);
        assert!(relied.by_nobody(Duration::ZERO).is_some());
        drop(relied.rely());
    }

    #[test]
    fn whoever_wants_to_count_on_something_waits_for_the_end_of_freeing() {
        let relied = Relied::default();
        let alone = relied.by_nobody(Duration::ZERO).unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| drop(relied.rely()));
            assert!(relied.by_nobody(Duration::ZERO).is_none());
            drop(alone);
            other.join().unwrap();
        });
        assert!(relied.by_nobody(Duration::ZERO).is_some());
    }
}
