//! How many connections one identity, and strangers together, may have open.
//!
//! Invariant: a place is given back when its connection is dropped, however it ended.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use proto::tls::Identity;

/// An agent has one connection, two while it takes up a new certificate; an operator one per running ctl.
const PER_IDENTITY_MAX: usize = 16;
/// A join takes a second or two.
const STRANGERS_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Limits(Mutex<HashMap<Option<Identity>, usize>>);

/// Why there is no place for one more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("{0} has {PER_IDENTITY_MAX} connections already")]
    Member(Identity),
    #[error("{STRANGERS_MAX} connections without a certificate are open already")]
    Strangers,
}

/// One connection's; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    limits: Arc<Limits>,
    whose: Option<Identity>,
}

impl Limits {
    /// For a connection that has shown a certificate.
    pub(super) fn member(self: &Arc<Self>, who: &Identity) -> Result<Place, Full> {
        self.take(Some(who.clone()), PER_IDENTITY_MAX).ok_or_else(|| Full::Member(who.clone()))
    }

    /// For one that has not.
    pub(super) fn stranger(self: &Arc<Self>) -> Result<Place, Full> {
        self.take(None, STRANGERS_MAX).ok_or(Full::Strangers)
    }

    fn take(self: &Arc<Self>, whose: Option<Identity>, max: usize) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.get(&whose).copied().unwrap_or(0);
        if count >= max {
            return None;
        }
        open.insert(whose.clone(), count + 1);
        Some(Place { limits: Arc::clone(self), whose })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.limits.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::tls::Role;

    use super::*;

    #[test]
    fn one_identity_never_takes_anothers_place_and_gives_its_own_back() {
        let limits = Arc::new(Limits::default());
        let agent = |name| Identity::new("test", Role::Agent, name).unwrap();
        let (h1, h2) = (agent("h1"), agent("h2"));
        let mut places: Vec<Place> =
            (0..PER_IDENTITY_MAX).map(|_| limits.member(&h1).unwrap()).collect();
        assert_eq!(limits.member(&h1).unwrap_err(), Full::Member(h1.clone()));
        let other = limits.member(&h2).unwrap();
        let strangers: Vec<Place> =
            (0..STRANGERS_MAX).map(|_| limits.stranger().unwrap()).collect();
        assert_eq!(limits.stranger().unwrap_err(), Full::Strangers);
        places.pop();
        places.push(limits.member(&h1).unwrap());
        drop((places, other, strangers));
        assert!(limits.0.lock().unwrap().is_empty());
    }
}
