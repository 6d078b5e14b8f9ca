//! The wire: decode, call, encode. Wire types stop here.
//!
//! ```text
//! agent_service     one session per agent       from_proto   wire → our types, every field checked
//! operator_service  one method per RPC          to_proto     our types → wire
//! prune             pins and pruning            status       our errors → what a person reads
//! releases          what they are made of, where the traffic is
//! differences       what an apply changes
//! asks              what people ask of an operation that is begun
//! canary            canaries, triggers, proposals
//! watch             a watcher's stream
//! samples           what agents' probes counted, wire → our types
//! ```

pub mod agent_service;
mod asks;
pub mod canary;
mod differences;
pub mod from_proto;
pub mod operator_service;
mod prune;
mod releases;
mod samples;
pub mod status;
pub mod to_proto;
mod watch;
