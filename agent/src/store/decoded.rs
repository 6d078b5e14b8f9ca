//! Decoded manifests, for as long as an operation works with them: one of 50,000 paths takes as long to decode as the
//! tree takes to walk.
//!
//! Invariant: nothing is kept while nobody works; an idle agent holds no manifest.

use std::{collections::HashMap, sync::Arc, sync::Mutex};

use super::{hash::Hash, lock, manifest::SetManifest};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    workers: usize,
    sets: HashMap<Hash, Arc<SetManifest>>,
}

/// What was decoded is kept for as long as one of these lives.
#[derive(Debug)]
pub(super) struct Working<'d>(&'d Decoded);

impl Decoded {
    pub(super) fn work(&self) -> Working<'_> {
        lock(&self.kept).workers += 1;
        Working(self)
    }

    /// The manifests of a snapshot, decoded by `decode` unless they are kept.
    pub(super) fn get<E>(
        &self,
        exact: Hash,
        decode: impl FnOnce() -> Result<SetManifest, E>,
    ) -> Result<Arc<SetManifest>, E> {
        if let Some(known) = lock(&self.kept).sets.get(&exact) {
            return Ok(Arc::clone(known));
        }
        let set = Arc::new(decode()?);
        let mut kept = lock(&self.kept);
        if kept.workers > 0 {
            kept.sets.insert(exact, Arc::clone(&set));
        }
        Ok(set)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let mut kept = lock(&self.0.kept);
        kept.workers -= 1;
        if kept.workers == 0 {
            kept.sets = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_kept_while_somebody_works_and_no_longer() {
        let decoded = Decoded::default();
        let exact = Hash::of(b"release");
        let empty = || Ok::<_, ()>(SetManifest { parts: Vec::new() });
        let again = || -> Result<SetManifest, ()> { Err(()) };
        decoded.get(exact, empty).unwrap();
        assert_eq!(decoded.get(exact, again), Err(()));
        {
            let _one = decoded.work();
            decoded.get(exact, empty).unwrap();
            drop(decoded.work());
            assert!(decoded.get(exact, again).is_ok());
        }
        assert_eq!(decoded.get(exact, again), Err(()));
    }
}
