//! The hold: a file that keeps a component's services from starting on a mix, and says how to go on.
//!
//! ```text
//! (none) ──write, durable──▶ hold/<component> ──every part in place, durable, digest equal──▶ removed, durable
//! ```
//!
//! Invariant: it is whole or absent, and it is durable before the first name of the component moves.
//! Invariant: one whose checksum does not agree is not followed: a wrong inode number would take one tree for the other.
//! Invariant: it tells the two sides apart by what a crash cannot change: inode numbers, and the text of links.

use serde::{Deserialize, Serialize};

use super::{
    Store,
    error::StoreError,
    hash::Hash,
    records::{read, seal, unseal, write_durably},
};

pub(super) const HOLD: &[u8; 4] = b"LGH1";

/// A switch that has begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hold {
    pub(super) from: Hash,
    pub(super) to: Hash,
    /// Which of the two was live when it began; turning it round does not change that.
    pub(super) was_live: Hash,
    /// One per part that moves by itself.
    pub(super) parts: Vec<Marks>,
}

/// How the two sides of one part are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marks {
    /// The part's index.
    pub(super) part: usize,
    pub(super) from: Mark,
    pub(super) to: Mark,
    /// The modification times that the moves will change, in either tree, as they were before.
    pub(super) from_times: Vec<Time>,
    pub(super) to_times: Vec<Time>,
}

/// The modification time of a directory of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Time {
    pub(super) path: Vec<u8>,
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

/// What stands at a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mark {
    Nothing,
    Inode(u64),
    /// Where a release link leads, below the parent of the live link.
    Link(Vec<u8>),
}

impl Hold {
    /// The same switch, the other way.
    fn reversed(self) -> Self {
        let turn = |marks: Marks| Marks {
            part: marks.part,
            from: marks.to,
            to: marks.from,
            from_times: marks.to_times,
            to_times: marks.from_times,
        };
        let parts = self.parts.into_iter().map(turn).collect();
        Self { from: self.to, to: self.from, was_live: self.was_live, parts }
    }
}

impl Store {
    /// The hold of a component; none where no switch is under way.
    pub(super) fn hold(&self, component: &str) -> Result<Option<Hold>, StoreError> {
        let Some(bytes) = read(&self.hold, component.as_bytes())? else { return Ok(None) };
        match unseal(HOLD, &bytes) {
            Ok(hold) => Ok(Some(hold)),
            Err(why) => Err(StoreError::HoldDamaged {
                component: component.to_owned(),
                path: self.hold.at(component.as_bytes()),
                why: format!("it {why}"),
            }),
        }
    }

    /// The hold of exactly this switch, turned round where it began the other way; none where none is under way.
    ///
    /// # Errors
    /// [`StoreError::Held`] where it is that of another switch.
    pub(super) fn hold_of(
        &self,
        component: &str,
        from: Hash,
        to: Hash,
    ) -> Result<Option<Hold>, StoreError> {
        match self.hold(component)? {
            None => Ok(None),
            Some(hold) if (hold.from, hold.to) == (from, to) => Ok(Some(hold)),
            Some(hold) if (hold.to, hold.from) == (from, to) => {
                let hold = hold.reversed();
                self.set_hold(component, &hold)?;
                Ok(Some(hold))
            }
            Some(Hold { from, to, .. }) => {
                Err(StoreError::Held { component: component.to_owned(), from, to })
            }
        }
    }

    pub(super) fn set_hold(&self, component: &str, hold: &Hold) -> Result<(), StoreError> {
        write_durably(&self.tmp, &self.hold, component.as_bytes(), &seal(HOLD, hold))
    }

    pub(super) fn lift_hold(&self, component: &str) -> Result<(), StoreError> {
        self.hold.unlink(component.as_bytes())?;
        self.hold.sync()
    }

    /// Refuses to touch a component in the middle of a switch.
    pub(super) fn refuse_held(&self, component: &str) -> Result<(), StoreError> {
        match self.hold(component)? {
            None => Ok(()),
            Some(Hold { from, to, .. }) => {
                Err(StoreError::Held { component: component.to_owned(), from, to })
            }
        }
    }
}
