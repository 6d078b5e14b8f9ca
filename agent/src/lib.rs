//! Placeholder.

pub mod drivers;
pub mod exec;
pub mod http;
pub mod probe;
pub mod retry;
