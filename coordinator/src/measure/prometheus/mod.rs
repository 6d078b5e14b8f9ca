//! Asks a Prometheus server.
//!
//! ```text
//! query ─ client (deadline, size, no redirect) ─▶ answer (parsed) ─▶ series ─▶ number: exactly one
//!                                                                        └──▶ counters: what grew since the last look ─▶ Sample
//! ```
//!
//! Invariant: no answer, no data, an old value and what is no number are errors, each with its own word; none is a zero.
//! Invariant: an error says which server, and has the server's own words; no user, password or query of a URL is in it.
//! Invariant: a secret goes only to the server that the coordinator's owner named it for.

mod answer;
mod client;
mod counters;
mod error;
mod servers;
mod sources;
#[cfg(test)]
mod tests;

pub use answer::{Point, Series};
pub use client::{Ask, Prometheus};
pub use counters::CountersReader;
pub use error::{Fault, PrometheusError};
pub use servers::{Credentials, Servers};
pub use sources::try_sources;
