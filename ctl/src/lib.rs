//! Placeholder.

pub mod fleet_file;
