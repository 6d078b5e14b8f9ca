//! The wire: free functions between it and the agent's own types.

pub mod from_proto;
pub mod to_proto;
