//! The files of a unit that go back with its release: those that an administrator or a deploy wrote.
//!
//! ```text
//! app.service     /etc/systemd/system/app.service      app.service.d/
//! app@1.service   /etc/systemd/system/app@.service     app@.service.d/   app@1.service   app@1.service.d/
//! ```
//!
//! A package's own (`/lib/systemd/system`) belong to the package. Which links enable a unit is not part of a release.
//!
//! Invariant: the names follow from the unit's alone, so that a file that is absent now can come back.

use std::{fs, io, path::Path};

use proto::policy::{FilePolicy, FilesPolicy, SwitchMode, TreePolicy};

/// Where an administrator's unit files are.
const DIRECTORY: &str = "/etc/systemd/system";

/// See the module.
pub(super) fn of(unit: &str) -> Vec<FilesPolicy> {
    let mut files = Vec::new();
    for name in names(unit) {
        let file = Path::new(DIRECTORY).join(&name);
        files.push(FilesPolicy::File(FilePolicy { file, secret: false, require: Vec::new() }));
        let tree = Path::new(DIRECTORY).join(format!("{name}.d"));
        let switch = SwitchMode::Exchange;
        files.push(FilesPolicy::Tree(TreePolicy {
            tree,
            switch,
            keep: Vec::new(),
            privileged_files: false,
            from: None,
        }));
    }
    files
}

/// What they hold now, as one hash. systemd itself takes only a *newer* modification time for a change, and a file that
/// went back is older.
pub(super) fn fingerprint(unit: &str) -> io::Result<blake3::Hash> {
    fingerprint_in(Path::new(DIRECTORY), unit)
}

fn fingerprint_in(directory: &Path, unit: &str) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut add = |path: &Path, bytes: &[u8]| {
        let name = path.as_os_str().as_encoded_bytes();
        for part in [name, bytes] {
            hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            hasher.update(part);
        }
    };
    for name in names(unit) {
        let path = directory.join(&name);
        if let Some(bytes) = if_there(fs::read(&path))? {
            add(&path, &bytes);
        }
        let Some(listed) = if_there(fs::read_dir(directory.join(format!("{name}.d"))))? else {
            continue;
        };
        let mut paths = listed.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort_unstable();
        // systemd reads no others.
        for path in paths.iter().filter(|path| path.extension().is_some_and(|it| it == "conf")) {
            if let Some(bytes) = if_there(fs::read(path))? {
                add(path, &bytes);
            }
        }
    }
    Ok(hasher.finalize())
}

/// The unit's name, and that of its template before it.
fn names(unit: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let (Some((before, _)), Some((_, suffix))) = (unit.split_once('@'), unit.rsplit_once('.')) {
        names.push(format!("{before}@.{suffix}"));
    }
    if !names.iter().any(|name| name == unit) {
        names.push(unit.to_owned());
    }
    names
}

fn if_there<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(unit: &str) -> Vec<String> {
        let path = |files: &FilesPolicy| match files {
            FilesPolicy::Tree(tree) => tree.tree.display().to_string(),
            FilesPolicy::File(file) => file.file.display().to_string(),
        };
        of(unit).iter().map(path).collect()
    }

    #[test]
    fn a_unit_has_its_file_and_its_drop_ins() {
        let wanted = ["/etc/systemd/system/app.service", "/etc/systemd/system/app.service.d"];
        assert_eq!(paths("app.service"), wanted);
    }

    #[test]
    fn an_instance_has_those_of_its_template_too() {
        assert_eq!(names("app@1.service"), ["app@.service", "app@1.service"]);
        assert_eq!(names("app@v1.2.service"), ["app@.service", "app@v1.2.service"]);
        assert_eq!(paths("app@1.service").len(), 4);
    }

    #[test]
    fn what_they_hold_tells_them_apart_and_their_times_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let now = || fingerprint_in(directory.path(), "app.service").unwrap();
        let nothing = now();
        fs::write(at("app.service"), "[Service]").unwrap();
        let first = now();
        fs::create_dir(at("app.service.d")).unwrap();
        assert_eq!(now(), first, "an empty directory says nothing");
        fs::write(at("app.service.d/a.conf"), "[Service]").unwrap();
        let with = now();
        fs::remove_file(at("app.service.d/a.conf")).unwrap();
        fs::write(at("app.service"), "[Service]").unwrap();
        assert_eq!(now(), first);
        assert!(nothing != first && first != with);
    }
}
