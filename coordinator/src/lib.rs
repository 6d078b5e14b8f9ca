//! Takes a fleet back: what the coordinator knows, decides and remembers.

pub mod journal;
