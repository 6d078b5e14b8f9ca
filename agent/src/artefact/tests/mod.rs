//! Artefacts of every source, good ones and hostile ones, in directories of the test's own.

mod fuzzed;
mod git;
mod hostile;
mod https;
mod sources;
mod ssh;
mod tars;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;

/// Long enough for anything that a test fetches.
const LONG: Duration = Duration::from_secs(60);

/// A state directory, a source beside it, and something outside of both that must stay as it is.
struct Bed {
    _temp: tempfile::TempDir,
    root: PathBuf,
}

impl Bed {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        for dir in ["state", "builds", "outside"] {
            fs::create_dir(root.join(dir)).unwrap();
        }
        fs::set_permissions(root.join("state"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(root.join("outside/secret"), "hunter2").unwrap();
        Self { _temp: temp, root }
    }

    fn artefacts(&self) -> Artefacts {
        self.artefacts_of(SourcePolicy::Directory(self.root.join("builds")))
    }

    fn artefacts_of(&self, source: SourcePolicy) -> Artefacts {
        // Another test may have been first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let sources = BTreeMap::from([("builds".to_owned(), source)]);
        let mut artefacts = Artefacts::open(&self.root.join("state"), &sources).unwrap();
        artefacts.limits.reserve_bytes = 0;
        artefacts
    }

    /// Puts an archive there; answers its digest.
    fn archive(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.root.join("builds").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        sha256(bytes)
    }

    /// What stands where a fetch was, and outside.
    fn left(&self) -> (Vec<String>, Picture) {
        (names(&self.root.join("state/artefacts")), picture(&self.root.join("outside")))
    }
}

fn sha256(bytes: &[u8]) -> String {
    let found = ring::digest::digest(&ring::digest::SHA256, bytes);
    Digest::Sha256(digest::hex(found.as_ref())).to_string()
}

fn artefact(name: &str, digest: &str) -> Artefact {
    Artefact { source: "builds".to_owned(), name: name.to_owned(), digest: digest.to_owned() }
}

fn whole() -> Vec<TreeRule> {
    vec![TreeRule { from: Vec::new(), privileged: false }]
}

async fn fetch(artefacts: &Artefacts, name: &str, digest: &str) -> Result<Fetched, String> {
    let fetched = artefacts.fetch(&artefact(name, digest), whole(), Instant::now() + LONG).await;
    fetched.map_err(|error| error.reason())
}

/// Why it is not fetched.
async fn refused(artefacts: &Artefacts, name: &str, digest: &str) -> String {
    match fetch(artefacts, name, digest).await {
        Ok(fetched) => panic!("{name}: {}: {:?}", fetched.words, picture(&fetched.root())),
        Err(why) => why,
    }
}

/// Every path with its type, mode, time and bytes.
type Picture = BTreeMap<String, (char, u32, i64, String)>;

fn picture(root: &Path) -> Picture {
    fn look(root: &Path, dir: &Path, picture: &mut Picture) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let found = path.symlink_metadata().unwrap();
            let (kind, text) = if found.is_dir() {
                look(root, &path, picture);
                ('d', String::new())
            } else if found.is_symlink() {
                ('l', fs::read_link(&path).unwrap().display().to_string())
            } else {
                ('f', String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned())
            };
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let mode = if kind == 'l' { 0 } else { found.mode() & 0o7777 };
            picture.insert(name, (kind, mode, found.mtime(), text));
        }
    }
    let mut found = Picture::new();
    look(root, root, &mut found);
    found
}

fn names(dir: &Path) -> Vec<String> {
    let rows = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        rows.map(|row| row.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
