//! The proof of the engine: its tables, for a reader, and its laws, for random fleets, plans and inputs.
//!
//! ```text
//! worlds   fleets and hosts to plan for            tables          every state × every event, as text
//! plans    drafts of plans to run                  planner_tables  what a rollback goes to, case by case
//!                                                  edge_tables     the order of hosts, and the look from the edge
//!                                                  learned         what is learned, and what is quarantined
//!                                                  planner_laws    what holds for every plan
//!                                                  results         which outcomes give which result
//!                                                  edge_runs       runs of several stages that cut, case by case
//!                                                  canary          a release on a few hosts first: plans, runs, verbs
//!                                                  root_runs       root takes a host over, case by case
//!                                                  traffic_tables  where the traffic goes in each plan, case by case
//!                                                  traffic_runs    runs that move it, case by case
//!                                                  traffic_laws    what holds for each of them
//!                                                  run_laws        what holds for every run
//! ```
//!
//! Invariant: nothing here counts with the engine's own counters; each law keeps its own books from the events.

#![expect(
    clippy::unwrap_used,
    reason = "builders of fixed data are test code outside of a #[test] function"
)]

mod canary;
mod edge_runs;
mod edge_tables;
mod learned;
mod planner_laws;
mod planner_tables;
mod plans;
mod results;
mod root_runs;
mod run_laws;
mod tables;
mod traffic_laws;
mod traffic_runs;
mod traffic_tables;
mod worlds;
