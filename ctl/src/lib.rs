//! `ctl`: the voice of Lastgood. It asks; the coordinator decides and owns what it began.
//!
//! ```text
//! cli ─▶ commands/* ─▶ session ─▶ OperatorService
//!            │             └── context: where the coordinator is, and who we are
//!            ├─▶ run: plan ─▶ confirm ─▶ start ─▶ follow ─▶ Ran      one path, also for `ctl sandbox`
//!            └─▶ render: pure views ─▶ out: stdout = data, stderr = talk
//! ```
//!
//! Invariant: no state but contexts and keys; closing the laptop changes nothing.
//! Invariant: help is parsed first and never touches the network.
//! Invariant: exit codes are in [`exit`], all of them.

pub mod cli;
pub mod commands;
pub mod confirm;
pub mod context;
pub mod error;
pub mod exit;
pub mod fleet_file;
pub mod follow;
pub mod live;
pub mod out;
pub mod render;
pub mod run;
pub mod sandbox;
pub mod session;
#[cfg(test)]
mod tests;

pub use cli::main_impl;
