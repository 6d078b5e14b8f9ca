//! What stands under `.lastgood`, beside the live tree: how it gets its name there, and how it goes.
//!
//! ```text
//! <name>.<16>.tmp ──finish──▶ <name>.<16> ──set_aside──▶ <name>.<16>.gone-1 ──sweep──▶ removed
//!                             with `switch: link`: a link to <releases>/lastgood-<name>-<16>
//! ```
//!
//! Invariant: a name is taken out of use by a rename, so that nothing slow happens while services are stopped.
//! Invariant: of the app's own release directories none is ever removed.

use proto::policy::SwitchMode;
use rustix::fs::{AtFlags, FileType, Gid, Uid};

use super::{
    dir::{self, Dir, Rename},
    error::StoreError,
    hash::Hash,
    remove,
    set::Site,
};

/// How the release directories are called that we make beside those of the app's own deploys (`switch: link`).
const RELEASE_PREFIX: &[u8] = b"lastgood-";

/// Takes a staged name out of use at once; [`sweep`] removes it when there is time.
pub(super) fn set_aside(
    site: &Site<'_>,
    staging: &Dir,
    name: &[u8],
    exact: Hash,
) -> Result<(), StoreError> {
    if staging.stat(name)?.is_none() {
        return Ok(());
    }
    let mut number = 1;
    let mut gone = site.part.gone_name(exact, number);
    while staging.stat(&gone)?.is_some() {
        number += 1;
        gone = site.part.gone_name(exact, number);
    }
    staging.rename(name, staging, &gone, Rename::New)?;
    staging.sync()
}

/// Removes what interrupted builds left, and what was set aside.
pub(super) fn sweep(site: &Site<'_>) -> Result<(), StoreError> {
    let staging = site.staging()?;
    for probe in site.part.probe_names() {
        staging.remove_dir(&probe)?;
    }
    for name in staging.names()? {
        if site.part.is_leftover(&name) {
            if site.mode() == SwitchMode::Link {
                sweep_release(site, staging, &name)?;
            }
            remove::tree(staging, &name)?;
        }
    }
    Ok(())
}

/// Removes what was set aside, with `switch: exchange`.
pub(super) fn sweep_gone(site: &Site<'_>) -> Result<(), StoreError> {
    let Some(staging) = &site.staging else { return Ok(()) };
    for name in staging.names()? {
        if site.part.is_gone(&name) {
            remove::tree(staging, &name)?;
        }
    }
    Ok(())
}

/// Removes the release directory behind a link that was set aside, if it is of our making and nothing else leads
/// there. It is first moved to where only the agent can reach.
fn sweep_release(site: &Site<'_>, staging: &Dir, name: &[u8]) -> Result<(), StoreError> {
    if !is_link(staging, name)? {
        return Ok(());
    }
    let target = site.link_target(staging, name)?;
    let (above, release) = dir::split(&target);
    let live = &site.part.name;
    if is_link(&site.parent, live)? && site.link_target(&site.parent, live)? == target {
        return Ok(());
    }
    for other in staging.names()? {
        if other != name
            && is_link(staging, &other)?
            && site.link_target(staging, &other)? == target
        {
            return Ok(());
        }
    }
    let Some(above) = site.parent.dir_if_there(above)? else { return Ok(()) };
    if release.starts_with(RELEASE_PREFIX) && above.stat(release)?.is_some() {
        let gone = [name, b".0"].concat();
        above.rename(release, staging, &gone, Rename::New)?;
        remove::tree(staging, &gone)?;
    }
    Ok(())
}

pub(super) fn is_link(dir: &Dir, name: &[u8]) -> Result<bool, StoreError> {
    let stat = dir.stat(name)?;
    Ok(stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink))
}

/// Gives what was built, and read back, its final name.
pub(super) fn finish(site: &Site<'_>, to: Hash) -> Result<(), StoreError> {
    let staging = site.staging()?;
    let (building, staged) = (site.part.building_name(to), site.part.staged_name(to));
    if staging.stat(&building)?.is_none() {
        // A declared file that is absent in this release.
        return Ok(());
    }
    match site.mode() {
        SwitchMode::Exchange => staging.rename(&building, staging, &staged, Rename::New)?,
        SwitchMode::Link => finish_release(site, staging, &building, &staged, to)?,
    }
    staging.sync()
}

/// With `switch: link`: the tree goes beside the app's other releases, and a link to it waits in `.lastgood`.
fn finish_release(
    site: &Site<'_>,
    staging: &Dir,
    building: &[u8],
    staged: &[u8],
    to: Hash,
) -> Result<(), StoreError> {
    let live = &site.part.name;
    let target = site.link_target(&site.parent, live)?;
    let (above, _) = dir::split(&target);
    let releases = site.parent.dir(above)?;
    let wanted = [RELEASE_PREFIX, live, b"-", to.short().as_bytes()].concat();
    let mut release = wanted.clone();
    let mut tried = 1;
    // One of that name may be live with changes, or be what somebody's link still leads to.
    while releases.stat(&release)?.is_some() {
        tried += 1;
        release = [&wanted, b"-".as_slice(), tried.to_string().as_bytes()].concat();
    }
    let text = if above.is_empty() { release.clone() } else { [above, &release].join(&b'/') };
    staging.symlink(&text, staged)?;
    if let Some(stat) = site.parent.stat(live)? {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        let own = staging.stat(staged)?.map(|own| (own.st_uid, own.st_gid));
        if own != Some((stat.st_uid, stat.st_gid)) {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(staging, staged, Some(uid), Some(gid), flags).map_err(|errno| {
                StoreError::Metadata {
                    path: staging.at(staged),
                    what: "the owner",
                    source: errno.into(),
                }
            })?;
        }
    }
    staging.rename(building, &releases, &release, Rename::New)?;
    releases.sync()
}

/// Tries on two empty directories whether names can be exchanged in one step, where it will have to be done.
pub(super) fn refuse_no_exchange(site: &Site<'_>) -> Result<(), StoreError> {
    let staging = site.staging()?;
    let probes = site.part.probe_names();
    let [one, other] = &probes;
    for probe in &probes {
        staging.remove_dir(probe)?;
        staging.make_dir(probe)?;
    }
    let exchanged = staging.rename(one, staging, other, Rename::Exchange);
    for probe in &probes {
        staging.remove_dir(probe)?;
    }
    match exchanged {
        Err(StoreError::Rename { source, .. }) => {
            Err(StoreError::NotAtomic { path: site.parent.at(b""), source })
        }
        exchanged => exchanged,
    }
}
