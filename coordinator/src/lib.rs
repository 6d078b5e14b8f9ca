//! Takes a fleet back: what the coordinator knows, decides and remembers.

pub mod accept;
pub mod journal;
pub mod roles;
