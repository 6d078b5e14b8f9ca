//! One file per noun: its arguments, and what it does with a session.
//!
//! Invariant: a command prints data through [`Out::show`](crate::out::Out::show) only, so that every one of them has
//! `-o json` and `-o jsonl`.

pub mod agent;
pub mod canary;
pub mod context;
pub mod doctor;
pub mod fleet;
pub mod forward;
pub mod freeze;
pub mod init;
pub mod operation;
pub mod planned;
pub mod proposals;
pub mod prune;
pub mod release;
pub mod rollback;
pub mod snapshot;
pub mod status;
