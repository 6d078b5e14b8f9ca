//! Seals: which trees beside the live one are known to be whole without a look at any of their files.
//!
//! ```text
//! stage: built or found, every file looked at ──▶ sealed ──switch──▶ live, the seal is gone
//! switch: what is replaced stands `unread` ──after the start: every file looked at──▶ sealed (undo goes back to it)
//! ```
//!
//! **Which bytes are read when, and why that is enough.** A tree that is built is read back whole, once it is durable.
//! One that stands already is looked at whenever it is staged: every file whose inode, size, mtime or ctime is not the
//! one that it was last read with is read again. From there to the switch it stands in `.lastgood` (root, 0700), never
//! was live since, and so nobody but root can have reached it: between stop and start its directory is known again by
//! inode and time of birth, and no file of it is looked at. What is replaced is looked at *after* the start: by then its
//! services have stopped, it stands where nobody else can reach it, and a durable note says that this is still to be
//! done, so that the record of it is honest whenever the power goes. Nothing is reported as restored before the whole
//! live tree was looked at once more, after the stability window ([`Store::digest_matches`]).
//!
//! With `switch: link` trees stand among the app's own releases, where others can reach them: they are never sealed, and
//! are looked at between stop and start.
//!
//! Invariant: a seal is durable only after the tree that it stands for is, and gone before that tree can serve.
//! Invariant: a seal that cannot be read is none.

use proto::policy::SwitchMode;
use rustix::fs::{AtFlags, StatxFlags};
use serde::{Deserialize, Serialize};

use super::{
    Shared, Store,
    compare::Difference,
    dir::Dir,
    error::StoreError,
    hash::Hash,
    records::Standing,
    scan::{self, Keep, Place, Read},
    set::{ComponentFiles, Set, Site, stands},
};

/// The trees and files of one snapshot that stand beside the live ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    pub(super) exact: Hash,
    /// One per part that moves by itself; none where nothing stands.
    roots: Vec<Option<Born>>,
}

/// What tells an inode from every other one of its file system, also from a later one of its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Born {
    inode: u64,
    seconds: i64,
    nanoseconds: u32,
}

impl Store {
    /// Reads what the last switch replaced, where that is still to be done, and makes it known if it changed between
    /// stage and stop; returns what there is to say of it. To be called once the new release runs.
    ///
    /// # Errors
    /// It cannot be read; it is tried again with the next operation.
    pub fn read_replaced(&self, files: &ComponentFiles) -> Result<Vec<String>, StoreError> {
        let set = Set::new(files)?;
        let shared = self.shared(&set.component)?;
        let _busy = shared.enter();
        let notes = self.read_unread(&set, &set.sites()?, &shared)?;
        self.save_cache(&set.component, &shared);
        Ok(notes)
    }

    /// [`Store::read_replaced`], in an operation.
    pub(super) fn read_unread(
        &self,
        set: &Set,
        sites: &[Site<'_>],
        shared: &Shared,
    ) -> Result<Vec<String>, StoreError> {
        let standing = self.records.standing(&set.component)?;
        let Some(was) = standing.unread else { return Ok(Vec::new()) };
        let mut notes = Vec::new();
        if stands(sites, was)? {
            let batch = self.objects.batch();
            let roots = scan::roots(set, sites, Place::Staged(was))?;
            let keep = Keep::SingleFiles(&batch);
            let scanned = scan::set(set, &roots, &shared.cache, Read::Changed, keep)?;
            if let Some(path) = scanned.unsettled {
                // Its services have stopped, so nothing should.
                return Err(StoreError::Changing { path });
            }
            let _named = batch.commit()?;
            for path in &scanned.skipped {
                notes.push(format!("{path} is no file and stayed with what was replaced"));
            }
            match self.closest(set, was, &scanned.manifest) {
                Ok(known) => {
                    let differences = known.map(|(_, all)| all).unwrap_or_default();
                    if !differences.is_empty() {
                        let really = self.notice(set, &scanned)?;
                        self.records.set_late(&set.component, was, Some(really))?;
                    }
                    let changes = Difference::worth_telling(&differences);
                    notes.extend(changes.iter().map(|one| format!("{one} since it was staged")));
                }
                Err(StoreError::OtherPolicy { .. } | StoreError::Damaged(_)) => {
                    notes.push(format!("what was replaced can no longer be compared with {was}"));
                }
                Err(error) => return Err(error),
            }
        }
        self.records.set_standing(&set.component, Standing { unread: None, ..standing })?;
        self.seal(set, sites, was)?;
        Ok(notes)
    }

    /// Remembers that what stands of a snapshot was looked at just now and is whole.
    pub(super) fn seal(
        &self,
        set: &Set,
        sites: &[Site<'_>],
        exact: Hash,
    ) -> Result<(), StoreError> {
        let mut standing = self.records.standing(&set.component)?;
        let mut seals = Vec::new();
        for seal in std::mem::take(&mut standing.seals) {
            // Of what no longer stands there is nothing to say.
            if seal.exact != exact && born(sites, seal.exact)?.as_ref() == Some(&seal) {
                seals.push(seal);
            }
        }
        seals.extend(born(sites, exact)?);
        standing.seals = seals;
        self.records.set_standing(&set.component, standing)
    }

    /// Whether what stands of a snapshot is what was sealed.
    pub(super) fn is_sealed(
        &self,
        set: &Set,
        sites: &[Site<'_>],
        exact: Hash,
    ) -> Result<bool, StoreError> {
        let seals = self.records.standing(&set.component)?.seals;
        let Some(sealed) = seals.into_iter().find(|seal| seal.exact == exact) else {
            return Ok(false);
        };
        Ok(born(sites, exact)? == Some(sealed))
    }
}

/// What a seal of it would say now; none where it can have none.
fn born(sites: &[Site<'_>], exact: Hash) -> Result<Option<Seal>, StoreError> {
    let mut roots = Vec::new();
    for site in sites {
        let Some(staging) = site.staging.as_ref().filter(|_| can_seal(site)) else {
            return Ok(None);
        };
        let name = site.part.staged_name(exact);
        if staging.stat(&name)?.is_none() {
            roots.push(None);
            continue;
        }
        let Some(born) = birth(staging, &name)? else { return Ok(None) };
        roots.push(Some(born));
    }
    let any = roots.iter().any(Option::is_some);
    Ok(any.then_some(Seal { exact, roots }))
}

/// Whether what is staged here stands out of reach.
pub(super) fn can_seal(site: &Site<'_>) -> bool {
    site.mode() == SwitchMode::Exchange
}

fn birth(dir: &Dir, name: &[u8]) -> Result<Option<Born>, StoreError> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let stat = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, wanted)
        .map_err(|errno| StoreError::Stat { path: dir.at(name), source: errno.into() })?;
    let told = StatxFlags::from_bits_retain(stat.stx_mask).contains(wanted);
    let (seconds, nanoseconds) = (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
    Ok(told.then_some(Born { inode: stat.stx_ino, seconds, nanoseconds }))
}
