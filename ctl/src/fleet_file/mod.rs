//! The fleet file: what a person writes, and the two parts that come out of it.
//!
//! ```text
//! fleet.yaml ── parse ──▶ FleetFile ─┬─ control ──▶ FleetControl   to the coordinator: order, budgets, names
//!                 │                  ├─ policy ───▶ Policy         to one host: paths, units, commands, checks
//!                 │                  └─ warnings ─▶ what holds, and will hardly do what was meant
//!                 └───▶ every Problem, each with line, column and mend
//! ```
//!
//! Invariant: the control part holds no path, no command and no secret.
//! Invariant: the same file renders to the same policy bytes; the coordinator knows a policy by their hash.
//! Invariant: a policy that is rendered here is one that the agent accepts.

mod amount;
mod check;
mod control;
mod model;
mod policy;
mod schema;
#[cfg(test)]
mod tests;
mod warnings;

pub use proto::policy::yaml::Problem;

pub use self::{
    amount::Amount,
    control::control,
    model::*,
    policy::{UnknownHost, policy, render_policy},
    schema::schema,
    warnings::warnings,
};

/// The one version of this format.
pub const VERSION: u32 = 1;

/// Reads a fleet file. An error of form (YAML, an unknown key, a value of the wrong kind) is given alone; of meaning, all
/// are given, in the order of the file.
pub fn parse(text: &str) -> Result<FleetFile, Vec<Problem>> {
    let (fleet, document) =
        proto::policy::yaml::read(text, VERSION).map_err(|problem| vec![problem])?;
    check::check(&fleet, document.at())?;
    Ok(fleet)
}
