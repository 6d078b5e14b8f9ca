//! The env files of a component: the keys that a release must have, and which of them a step changes.
//!
//! ```text
//! snapshot's own file ─┐              ┌─▶ lacking: required keys without a value ─▶ preflight and verify refuse
//! live file ───────────┴─ dotenv ─────┴─▶ changes: names of keys ─▶ the words of preflight and stage
//! ```
//!
//! Invariant: names of keys are shown, values never; and names only of a file that is an env file by its name or by
//! `require`: a line of any other file may be a secret as a whole.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use proto::policy::{FilePolicy, FilesPolicy};

use crate::{
    dotenv::EnvFile,
    store::{ComponentFiles, Hash, Store, StoreError},
};

/// Which state of the files is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Live,
    Snapshot(Hash),
}

/// What required keys the files lack, in words that begin with the file's name; empty where none does.
pub(super) fn lacking(
    store: &Store,
    files: &ComponentFiles,
    at: At,
) -> Result<Vec<String>, StoreError> {
    let mut lacking = Vec::new();
    for file in declared(files).filter(|file| !file.require.is_empty()) {
        let name = shown(file);
        match read(store, files, file, at)? {
            None => lacking.push(format!("{name} is missing")),
            Some(found) => {
                let keys = found.lacking(&file.require);
                if !keys.is_empty() {
                    lacking.push(format!("in {name} {}", keys.join(", ")));
                }
            }
        }
    }
    Ok(lacking)
}

/// What changes for the app when the snapshot `to` takes the place of what is live: a line per file that differs.
pub(super) fn changes(
    store: &Store,
    files: &ComponentFiles,
    to: Hash,
) -> Result<Vec<String>, StoreError> {
    let mut changes = Vec::new();
    for file in declared(files).filter(|file| has_keys(file)) {
        let live = read(store, files, file, At::Live)?.unwrap_or_default();
        let target = read(store, files, file, At::Snapshot(to))?.unwrap_or_default();
        if let Some(words) = live.changes(&target) {
            changes.push(format!("{}: {words}", shown(file)));
        }
    }
    Ok(changes)
}

/// The value of a key in the first `secret` file that has one. For whoever needs it and shows it to nobody.
pub(super) fn secret(
    store: &Store,
    files: &ComponentFiles,
    at: At,
    key: &str,
) -> Result<Option<String>, StoreError> {
    for file in declared(files).filter(|file| file.secret) {
        let found = read(store, files, file, at)?.unwrap_or_default();
        if let Some(value) = found.secret(key) {
            return Ok(Some(value.to_owned()));
        }
    }
    Ok(None)
}

/// What is said where a release lacks keys that it needs.
pub(super) fn refusal(lacking: &[String]) -> String {
    format!(
        "the release could not work: {}; take a release that has them, put them back, or take them out of `require` \
         in this host's policy",
        lacking.join("; ")
    )
}

fn declared(files: &ComponentFiles) -> impl Iterator<Item = &FilePolicy> {
    files.files.iter().filter_map(|entry| match entry {
        FilesPolicy::File(file) => Some(file),
        FilesPolicy::Tree(_) => None,
    })
}

/// `.env`, `.env.production`, `app.env`; or any file of which keys are required.
fn has_keys(file: &FilePolicy) -> bool {
    let name = file.file.file_name().map_or(b"".as_slice(), OsStr::as_bytes);
    let named = name == b".env" || name.starts_with(b".env.") || name.ends_with(b".env");
    named || !file.require.is_empty()
}

fn read(
    store: &Store,
    files: &ComponentFiles,
    file: &FilePolicy,
    at: At,
) -> Result<Option<EnvFile>, StoreError> {
    let bytes = match at {
        At::Live => store.live_file(files, &file.file)?,
        At::Snapshot(exact) => store.file_in(files, exact, &file.file)?,
    };
    Ok(bytes.map(|bytes| EnvFile::parse(&bytes)))
}

fn shown(file: &FilePolicy) -> String {
    file.file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
        path::PathBuf,
    };

    use proto::policy::{SwitchMode, TreePolicy};

    use super::*;
    use crate::store::Label;

    /// An app whose env file lies in its tree, with two releases of it in the store.
    struct App {
        _temp: tempfile::TempDir,
        root: PathBuf,
        store: Store,
        files: ComponentFiles,
    }

    impl App {
        fn new(env: &str) -> Self {
            let temp = tempfile::tempdir().unwrap();
            let root = temp.path().canonicalize().unwrap();
            fs::create_dir_all(root.join("app")).unwrap();
            let tree = TreePolicy {
                tree: root.join("app"),
                switch: SwitchMode::Exchange,
                keep: Vec::new(),
                privileged_files: false,
                from: None,
            };
            let file = FilePolicy {
                file: root.join("app/.env.production"),
                secret: true,
                require: ["SUPABASE_URL", "JWT_SECRET"].map(str::to_owned).to_vec(),
            };
            let files = vec![FilesPolicy::Tree(tree), FilesPolicy::File(file)];
            let files = ComponentFiles { component: "crm".to_owned(), files, managers: Vec::new() };
            let store = Store::open(&root.join("state")).unwrap();
            let app = Self { _temp: temp, root, store, files };
            app.write(env);
            app
        }

        fn env(&self) -> PathBuf {
            self.root.join("app/.env.production")
        }

        fn write(&self, env: &str) {
            fs::write(self.env(), env).unwrap();
            fs::set_permissions(self.env(), fs::Permissions::from_mode(0o640)).unwrap();
        }

        fn snapshot(&self, release: &str) -> Hash {
            let label = Label {
                release: release.to_owned(),
                version: None,
                taken_at_unix_ms: 1_700,
                learned_at_unix_ms: None,
            };
            self.store.snapshot(&self.files, label).unwrap().exact
        }

        fn lacking(&self, at: At) -> Vec<String> {
            lacking(&self.store, &self.files, at).unwrap()
        }
    }

    const GOOD: &str = "SUPABASE_URL=https://hunter2\nJWT_SECRET=hunter2\nOLD=hunter2\n";
    const BAD: &str = "SUPABASE_URL=https://hunter3\nJWT_SECRET=\nNEW=hunter3\n";

    #[test]
    fn p05_a_release_is_judged_by_its_own_env_file() {
        let app = App::new(GOOD);
        let good = app.snapshot("v1");
        app.write(BAD);
        let bad = app.snapshot("v2");
        assert!(app.lacking(At::Snapshot(good)).is_empty());
        let lacks = ["in .env.production JWT_SECRET has no value"];
        assert_eq!(app.lacking(At::Snapshot(bad)), lacks);
        assert_eq!(app.lacking(At::Live), lacks);
        let words = changes(&app.store, &app.files, good).unwrap();
        assert_eq!(
            words,
            [
                ".env.production: 1 key comes back (OLD), 2 values change (JWT_SECRET, SUPABASE_URL), 1 goes (NEW)"
            ]
        );
        assert!(changes(&app.store, &app.files, bad).unwrap().is_empty());
        let key = |at| secret(&app.store, &app.files, at, "JWT_SECRET").unwrap();
        assert_eq!((key(At::Snapshot(good)).as_deref(), key(At::Live)), (Some("hunter2"), None));
        fs::remove_file(app.env()).unwrap();
        assert_eq!(app.lacking(At::Live), [".env.production is missing"]);
        assert!(refusal(&app.lacking(At::Live)).contains(".env.production is missing; take a"));
    }

    #[test]
    fn p10_a_link_in_its_place_is_not_followed() {
        let app = App::new(GOOD);
        fs::remove_file(app.env()).unwrap();
        symlink("/etc/passwd", app.env()).unwrap();
        let link = app.snapshot("v1");
        for at in [At::Live, At::Snapshot(link)] {
            let error = lacking(&app.store, &app.files, at).unwrap_err().reason();
            assert!(error.contains("not a regular file"), "{error}");
        }
    }

    #[test]
    fn only_a_file_of_keys_has_its_keys_named() {
        let app = App::new(GOOD);
        let mut files = app.files.clone();
        files.files.truncate(1);
        let token = app.root.join("app/token");
        fs::write(&token, "hunter2=").unwrap();
        let file = FilePolicy { file: token.clone(), secret: true, require: Vec::new() };
        files.files.push(FilesPolicy::File(file));
        let label = Label {
            release: "v1".to_owned(),
            version: None,
            taken_at_unix_ms: 1_700,
            learned_at_unix_ms: None,
        };
        let exact = app.store.snapshot(&files, label).unwrap().exact;
        fs::write(&token, "hunter3=").unwrap();
        assert!(changes(&app.store, &files, exact).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_goes_back_keeps_its_mode_and_owner() {
        let app = App::new(GOOD);
        let root = rustix::process::geteuid().is_root();
        if root {
            chown(app.env(), Some(1234), Some(4321)).unwrap();
        }
        let (uid, gid) = {
            let meta = fs::metadata(app.env()).unwrap();
            (meta.uid(), meta.gid())
        };
        let good = app.snapshot("v1");
        fs::remove_file(app.env()).unwrap();
        app.write(BAD);
        fs::set_permissions(app.env(), fs::Permissions::from_mode(0o666)).unwrap();
        let before = app.store.stage(&app.files, good).unwrap().before;
        app.store.switch(&app.files, before, good).unwrap();
        let meta = fs::metadata(app.env()).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o640, uid, gid));
        assert_eq!((uid, gid) == (1234, 4321), root);
        assert_eq!(fs::read_to_string(app.env()).unwrap(), GOOD);
    }
}
