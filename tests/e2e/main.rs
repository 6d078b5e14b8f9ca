//! A whole Lastgood in one process: what an operator asks for, and what becomes of it on every host.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod app;
mod canary;
mod doctor;
mod golden;
mod join;
mod learning;
mod lease;
mod local;
mod operations;
mod refusals;
mod retention;
mod traces;
mod triggers;
