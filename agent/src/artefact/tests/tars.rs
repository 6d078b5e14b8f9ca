//! Archives as they are written here, byte by byte, so that each can be wrong in one place; and good ones of real tools.

use std::{io::Write as _, process::Command};

use tar::{EntryType, Header};

use super::*;

/// An archive in the making.
#[derive(Clone, Default)]
pub(super) struct Tar(pub(super) Vec<u8>);

pub(super) const MTIME: u64 = 1_700_000_000;

impl Tar {
    /// A header with its checksum, as POSIX has it.
    pub(super) fn header(name: &[u8], kind: u8, mode: u32, size: u64, link: &[u8]) -> Header {
        let mut header = Header::new_ustar();
        let raw = header.as_ustar_mut().unwrap();
        raw.name[..name.len()].copy_from_slice(name);
        raw.linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(MTIME);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        header
    }

    pub(super) fn with(mut self, header: &Header, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &str, mode: u32, bytes: &[u8]) -> Self {
        let size = u64::try_from(bytes.len()).unwrap();
        self.with(&Self::header(name.as_bytes(), b'0', mode, size, b""), bytes)
    }

    pub(super) fn dir(self, name: &str, mode: u32) -> Self {
        self.with(&Self::header(name.as_bytes(), b'5', mode, 0, b""), b"")
    }

    pub(super) fn link(self, name: &str, target: &str) -> Self {
        self.with(&Self::header(name.as_bytes(), b'2', 0o777, 0, target.as_bytes()), b"")
    }

    /// An entry that says something of the next one, or of all.
    pub(super) fn extended(self, kind: u8, bytes: &[u8]) -> Self {
        let size = u64::try_from(bytes.len()).unwrap();
        self.with(&Self::header(b"extended", kind, 0o644, size, b""), bytes)
    }

    pub(super) fn pax(self, records: &[(&str, &str)]) -> Self {
        self.extended(b'x', &pax(records))
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

pub(super) fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let length = (1..).find(|length| length.to_string().len() + rest.len() == *length).unwrap();
        bytes.extend_from_slice(format!("{length}{rest}").as_bytes());
    }
    bytes
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 3).unwrap()
}

/// The same archive in each dress.
pub(super) fn dresses(bytes: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    [("tar", bytes.to_vec()), ("gzip", gzip(bytes)), ("zstd", zstd(bytes))]
}

/// All that may be in one.
pub(super) fn good() -> Tar {
    Tar::default()
        .dir("./", 0o755)
        .file("./server.js", 0o644, b"serve(2)")
        .file("./bin/run", 0o755, b"#!/bin/sh")
        .dir("./bin", 0o750)
        .dir("./empty", 0o2775)
        .link("./bin/server", "../server.js")
        .link("current", "bin")
        .extended(b'L', format!("long/{}\0", "n".repeat(200)).as_bytes())
        .file("cut off", 0o600, b"long")
        .pax(&[("path", "gr\u{f6}\u{df}e"), ("mtime", "1.5"), ("SCHILY.xattr.user.x", "1")])
        .file("ascii", 0o444, b"")
}

#[tokio::test]
async fn a_good_archive_is_the_same_tree_in_every_dress() {
    let bed = Bed::new();
    let artefacts = bed.artefacts();
    let mut first: Option<Picture> = None;
    for (dress, bytes) in dresses(&good().end()) {
        // Its name says nothing of what it is.
        let digest = bed.archive("v2.zip", &bytes);
        let fetched = fetch(&artefacts, "v2.zip", &digest).await.unwrap();
        let found = picture(&fetched.root());
        let mode = |path: &str| found[path].1;
        assert_eq!(found["server.js"].3, "serve(2)", "{dress}");
        let modes = ["server.js", "bin/run", "bin", "empty", "größe"].map(mode);
        assert_eq!(modes, [0o644, 0o755, 0o750, 0o775, 0o444], "{dress}");
        assert_eq!(found["bin/server"], ('l', 0, MTIME as i64, "../server.js".to_owned()));
        assert_eq!(found["current"].3, "bin");
        assert_eq!(found[&format!("long/{}", "n".repeat(200))].3, "long");
        assert!(found.values().all(|(_, _, mtime, _)| *mtime == MTIME as i64), "{found:?}");
        let built = Built { files: 4, links: 2, bytes: 21, without_xattrs: true };
        assert_eq!(fetched.built, built);
        assert_eq!(first.get_or_insert_with(|| found.clone()), &found, "{dress}");
        assert_eq!(fetched.words, "v2.zip from builds, sha256 matches");
    }
}

/// Names as a listing has them.
fn listed(picture: &Picture) -> Vec<String> {
    picture.keys().cloned().collect()
}

#[tokio::test]
async fn another_reader_of_tar_lists_the_same() {
    let bed = Bed::new();
    let artefacts = bed.artefacts();
    let app = bed.root.join("app");
    fs::create_dir_all(app.join("deep/er")).unwrap();
    let long = app.join(format!("deep/er/{}", "x".repeat(180)));
    for path in [app.join("a"), app.join("deep/größe b"), long] {
        fs::write(path, "bytes").unwrap();
    }
    std::os::unix::fs::symlink("../a", app.join("deep/link")).unwrap();
    for format in ["gnu", "pax", "ustar"] {
        let archive = bed.root.join("builds").join(format);
        // ustar has no room for so long a name.
        let exclude = if format == "ustar" { "--exclude=xxx*" } else { "--exclude=nothing" };
        let made = Command::new("tar")
            .args(["--format", format, exclude, "-C"])
            .arg(&app)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .status();
        assert!(made.unwrap().success());
        let listing =
            Command::new("tar").arg("-tf").arg(&archive).args(["--quoting-style=literal"]).output();
        let listing = String::from_utf8(listing.unwrap().stdout).unwrap();
        let plain = |line: &str| line.trim_start_matches("./").trim_end_matches('/').to_owned();
        let mut theirs: Vec<String> =
            listing.lines().map(plain).filter(|name| !name.is_empty()).collect();
        theirs.sort();
        let digest = sha256(&fs::read(&archive).unwrap());
        let fetched = fetch(&artefacts, format, &digest).await.unwrap();
        assert_eq!(listed(&picture(&fetched.root())), theirs, "{format}");
        assert!(theirs.len() >= 5, "{theirs:?}");
    }
}
