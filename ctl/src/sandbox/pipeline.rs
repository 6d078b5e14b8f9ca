//! A deploy by somebody else's tool: what Lastgood has to live with.
//!
//! It copies the new release over the old one in place, as the hand-run procedure does, and ends the services so
//! that their supervisor starts them anew. Lastgood is not told.

use rustix::process::{Signal, kill_process};

use super::{
    layout::{Layout, SandboxHost, write_release},
    processes::services_of,
};

/// Puts a release on the app hosts of these groups; of all where there are none.
pub(super) fn deploy(
    layout: &Layout,
    groups: &[&str],
    version: &str,
    error_rate: f64,
) -> anyhow::Result<()> {
    let meant = |host: &&SandboxHost| groups.is_empty() || groups.contains(&host.group);
    for host in layout.app_hosts().filter(meant) {
        write_release(&host.tree(), version, error_rate)?;
        for pid in services_of(host) {
            // One that has just ended by itself is restarted as well.
            kill_process(pid, Signal::TERM).ok();
        }
    }
    Ok(())
}
