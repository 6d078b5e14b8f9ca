//! The agent: does typed steps on its own host, and nothing that its policy does not name.

pub mod ledger;
pub mod order;
pub mod worker;
