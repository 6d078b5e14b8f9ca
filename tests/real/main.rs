//! Tests on real hosts: booted systemds with addresses and disks of their own, the shipped units, real faults.
//!
//! ```text
//! tests/run ── required.txt ──▶ this target ──▶ fleet.rs ──▶ hosts.rs ──▶ tests/real/rig
//! ```
//!
//! But for `prometheus`, each test boots hosts of its own and leaves none; by hand: `cargo test -p tests --test real -- --ignored NAME`.

mod app;
mod canary;
mod edge;
mod faults;
mod figures;
mod fleet;
mod fleet_file;
mod hosts;
mod lease;
mod matrix;
mod mitigation;
mod power;
mod process;
mod prometheus;
mod proxies;
mod refused;
mod scraper;
mod stepper;
mod systemd;
mod traffic;
mod users;
