//! The contract: everything that two of our processes, or a person's file and a process, must agree on.
//!
//! ```text
//! lastgood/v1/*.proto   what ctl, coordinator and agents say to each other   -> v1
//! policy                the file that says what an agent may touch
//! artefact              digests of what a release is made of, and names in a source
//! span, amount          durations, ages and sizes as people write them
//! tls                   who is who: identities, certificates, the CA
//! status                refusals, with why and what to type next
//! telemetry, shutdown, ready   what the processes do the same way
//! trace                 how one operation becomes one trace
//! status                refusals: what the coordinator says beside a gRPC code, and how ctl reads it
//! ```
//!
//! Invariant: depends on nothing of ours.
//! Invariant: no secret value has a field in any message, but for the one-time token of a join, which is never shown.

pub mod amount;
pub mod artefact;
pub mod policy;
pub mod ready;
mod secret;
pub mod shutdown;
pub mod span;
pub mod status;
pub mod telemetry;
pub mod tls;
pub mod trace;

/// Messages and services, generated from `lastgood/v1/*.proto`.
#[allow(
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction
)]
pub mod v1 {
    tonic::include_proto!("lastgood.v1");
}

/// The encoded descriptors of [`v1`], for reflection and for the role table's test.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lastgood.binpb"));

/// The protocol versions that this build speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// See [`PROTOCOL_MIN`].
pub const PROTOCOL_MAX: u32 = 1;

/// The largest message that either side accepts or sends. A plan of 10,000 hosts with ten steps each fits.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
