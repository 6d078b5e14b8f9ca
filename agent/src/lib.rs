//! The agent: does typed steps on its own host, and nothing that its policy does not name.

pub mod drivers;
pub mod exec;
pub mod http;
pub mod ledger;
pub mod order;
pub mod probe;
pub mod retry;
pub mod worker;
