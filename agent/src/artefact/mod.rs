//! Artefacts: what a deploy brings to a host, fetched while the old release serves.
//!
//! ```text
//! order: source, name, digest
//!   └─ source: does the policy have it, can this be a name there?          no: refused before anything begins
//!        ├─ directory ── archive copied ─┐
//!        ├─ https ────── downloaded ─────┴─▶ every byte has the digest? ─▶ unpack ─┐
//!        ├─ directory ── copied by handles, hashed on the way ─────────────────────┼─▶ a tree of the agent's own ─▶ store
//!        └─ git ──────── this very commit? ─▶ archive ─▶ unpack ─▶ its tree? ──────┘         (Store::import, then gone)
//! ```
//!
//! Invariant: nothing live is touched, and nothing outside of the agent's own directories is written.
//! Invariant: nothing is unpacked before its digest holds; what does not hold is removed at once.
//! Invariant: the coordinator names a source and what it is called there; where that is, only the policy says.

mod building;
mod copy;
mod digest;
#[cfg(any(test, fuzzing))]
pub mod door;
mod error;
mod git;
mod https;
mod pax;
mod place;
mod source;
#[cfg(test)]
mod tests;
mod unpack;

use std::{collections::BTreeMap, fs::File, path::Path, path::PathBuf, time::Instant};

use proto::{
    artefact::Digest,
    policy::{GitSource, HttpsSource, SourcePolicy},
};

use self::{
    building::{Building, Limits},
    git::blocking,
    place::{Place, Places},
    source::Wanted,
};
pub use self::{
    building::{Built, TreeRule},
    error::ArtefactError,
};
use crate::{
    finding::Finding,
    order::Artefact,
    store::{StoreError, dir::Dir},
};

/// The sources of a host's policy, and where what is fetched stands meanwhile.
#[derive(Debug)]
pub struct Artefacts {
    sources: BTreeMap<String, SourcePolicy>,
    places: Places,
    limits: Limits,
}

/// What was fetched: a tree of the agent's own, until this is dropped.
#[derive(Debug)]
pub struct Fetched {
    place: Place,
    pub built: Built,
    /// `v2.tar.zst from builds, sha256 matches`.
    pub words: String,
}

impl Fetched {
    /// Where its root is.
    pub fn root(&self) -> PathBuf {
        self.place.path.join(TREE)
    }

    /// Whether there is anything at a path in it.
    pub fn has(&self, path: &Path) -> bool {
        self.root().join(path).symlink_metadata().is_ok()
    }
}

const TREE: &str = "tree";
const ARCHIVE: &[u8] = b"archive";

impl Artefacts {
    /// In a state directory whose store is open. What an earlier run left is removed.
    ///
    /// # Errors
    /// The directory for it cannot be made or emptied.
    pub fn open(
        state: &Path,
        sources: &BTreeMap<String, SourcePolicy>,
    ) -> Result<Self, StoreError> {
        Ok(Self { sources: sources.clone(), places: Places::open(state)?, limits: Limits::DEFAULT })
    }

    /// Whether the policy has no source.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Why an artefact is not fetched, whatever is there; none where it may be.
    pub fn refusal(&self, artefact: &Artefact) -> Option<String> {
        source::wanted(&self.sources, artefact).err().map(|error| error.reason())
    }

    /// Fetches an artefact by `end`. `trees` say where in it the component's trees are.
    ///
    /// # Errors
    /// It is not there, not what the digest says, or not fit to be a release. Nothing of it is left.
    pub async fn fetch(
        &self,
        artefact: &Artefact,
        trees: Vec<TreeRule>,
        end: Instant,
    ) -> Result<Fetched, ArtefactError> {
        let wanted = source::wanted(&self.sources, artefact)?;
        let place = self.places.fresh()?;
        place.dir.make_dir(TREE.as_bytes())?;
        let root = place.dir.dir(TREE.as_bytes())?;
        let into = Into { root, trees: trees.clone(), limits: self.limits, end };
        let built = match wanted {
            Wanted::Directory { path, digest } => {
                directory(&path, artefact, digest, &place, into).await
            }
            Wanted::Https { source, digest } => {
                download(source, artefact, digest, &place, into).await
            }
            Wanted::Git { source, commit } => {
                self.commit(source, artefact, &commit, &place, into).await
            }
        }?;
        for tree in trees.iter().filter(|tree| !tree.from.is_empty()) {
            // With no link on the way.
            place.dir.dir(&[TREE.as_bytes(), b"/", &tree.from].concat()).map_err(|_| {
                let path = crate::store::shown(&tree.from);
                ArtefactError::NotThere {
                    path,
                    what: "no directory of the artefact, and a tree's `from` in the policy",
                }
            })?;
        }
        let kind = artefact.digest.split(':').next().unwrap_or_default();
        let words = format!("{} from {}, {kind} matches", artefact.name, artefact.source);
        Ok(Fetched { place, built, words })
    }

    async fn commit(
        &self,
        source: &GitSource,
        artefact: &Artefact,
        commit: &str,
        place: &Place,
        into: Into,
    ) -> Result<Built, ArtefactError> {
        let digest = Digest::Git(commit.to_owned());
        let Into { root, trees, limits, end } = into;
        let rules = (trees, limits, end);
        git::fetch(source, &artefact.name, &digest, commit, &self.places, (place, root), rules)
            .await
    }
}

/// What is to be said of a policy's sources, for `agent check`.
pub fn findings(sources: &BTreeMap<String, SourcePolicy>) -> Vec<Finding> {
    sources.iter().flat_map(|(name, source)| source::findings(name, source)).collect()
}

/// Where and how it is built.
struct Into {
    root: Dir,
    trees: Vec<TreeRule>,
    limits: Limits,
    end: Instant,
}

async fn directory(
    path: &Path,
    artefact: &Artefact,
    digest: Digest,
    place: &Place,
    into: Into,
) -> Result<Built, ArtefactError> {
    let (path, name) = (path.to_owned(), artefact.name.clone());
    if let Digest::Tree(_) = digest {
        return blocking(move || {
            let from = Dir::open(&path)?.dir(name.as_bytes())?;
            let mut building = Building::new(&into.root, &into.trees, into.limits, into.end);
            let found = copy::copy(&from, &mut building)?;
            digest::check(&name, &digest, &found)?;
            building.finish()
        })
        .await;
    }
    let archive = place.dir.create(ARCHIVE)?;
    blocking(move || {
        // A copy: its owner could write to it between the look at its bytes and their use.
        source::copy_archive(&path, &name, &archive, &into.limits, into.end)?;
        checked(&name, &digest, &archive, &into)
    })
    .await
}

async fn download(
    source: &HttpsSource,
    artefact: &Artefact,
    digest: Digest,
    place: &Place,
    into: Into,
) -> Result<Built, ArtefactError> {
    let archive = place.dir.create(ARCHIVE)?;
    let writing = archive.try_clone().map_err(ArtefactError::io("write the archive"))?;
    https::download(source, &artefact.name, writing, &into.limits, into.end).await?;
    let name = artefact.name.clone();
    blocking(move || checked(&name, &digest, &archive, &into)).await
}

/// Unpacks an archive that is the agent's own by now, if it is the one.
fn checked(
    name: &str,
    wanted: &Digest,
    archive: &File,
    into: &Into,
) -> Result<Built, ArtefactError> {
    digest::check(name, wanted, &digest::sha256(archive, into.end)?)?;
    let mut building = Building::new(&into.root, &into.trees, into.limits, into.end);
    unpack::unpack(archive, &mut building)?;
    building.finish()
}
