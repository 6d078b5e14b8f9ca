//! The wire: decode, call, encode. Wire types stop here.
//!
//! ```text
//! agent_service     one session per agent       from_proto   wire → our types, every field checked
//! operator_service  one method per RPC          to_proto     our types → wire
//! prune             pins and pruning            status       our errors → what a person reads
//! ```

pub mod agent_service;
pub mod from_proto;
pub mod operator_service;
mod prune;
pub mod status;
pub mod to_proto;
