//! What a service writes: one file per service, kept across restarts.
//!
//! Invariant: the service appends to it by itself: no agent is needed for it to go on writing.
//! Invariant: at most one older file is kept. While a service runs its file is not cut.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::exec::last_lines;

/// A log longer than this is put aside when the service starts.
const ROTATE_BEYOND_BYTES: u64 = 1024 * 1024;

/// How far back last lines are looked for.
const TAIL_BYTES: u64 = 64 * 1024;

/// The log, ready to be appended to. A long one is put aside as `<name>.1` first.
pub(super) fn open(path: &Path) -> io::Result<File> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > ROTATE_BEYOND_BYTES => {
            let mut aside = path.as_os_str().to_owned();
            aside.push(".1");
            fs::rename(path, aside)?;
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The last `count` lines, oldest first.
pub(super) fn tail(path: &Path, count: usize) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(last_lines(&String::from_utf8_lossy(&bytes), count))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_long_log_is_put_aside_once_and_the_new_one_begins_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        let long = vec![b'x'; usize::try_from(ROTATE_BEYOND_BYTES).unwrap() + 1];
        for _ in 0..3 {
            open(&path).unwrap().write_all(&long).unwrap();
        }
        assert_eq!(open(&path).unwrap().metadata().unwrap().len(), 0);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_last_lines_are_the_last() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        let mut log = open(&path).unwrap();
        for line in 0..30_000 {
            writeln!(log, "line {line}").unwrap();
        }
        assert_eq!(tail(&path, 2).unwrap(), ["line 29998", "line 29999"]);
    }
}
