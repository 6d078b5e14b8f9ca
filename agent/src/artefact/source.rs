//! Which source an order means, and whether what it names can be there. The host has the last word.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use proto::{
    artefact::{Digest, path_refusal, revision_refusal},
    policy::{GitSource, HttpsSource, SourcePolicy},
};

use super::{building::Limits, error::ArtefactError};
use crate::{
    exec::{self, Spec},
    finding::Finding,
    order::Artefact,
    store::{dir, dir::Dir},
};

const CHUNK_BYTES: usize = 256 * 1024;

/// An artefact that may be asked for.
#[derive(Debug)]
pub(super) enum Wanted<'a> {
    /// `sha256` of an archive or `tree` of a directory.
    Directory {
        path: PathBuf,
        digest: Digest,
    },
    Https {
        source: &'a HttpsSource,
        digest: Digest,
    },
    Git {
        source: &'a GitSource,
        commit: String,
    },
}

/// What an order means by the policy's sources.
pub(super) fn wanted<'a>(
    sources: &'a BTreeMap<String, SourcePolicy>,
    artefact: &Artefact,
) -> Result<Wanted<'a>, ArtefactError> {
    let Artefact { source, name, digest } = artefact;
    let Some(found) = sources.get(source) else {
        let known: Vec<&str> = sources.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let asked = source.escape_default().to_string();
        return Err(ArtefactError::NoSource { asked, known });
    };
    let digest: Digest = digest.parse()?;
    let (kind, refusal) = match found {
        SourcePolicy::Directory(_) => ("a directory", path_refusal(name)),
        SourcePolicy::Https(_) => ("an https source", path_refusal(name)),
        SourcePolicy::Git(_) => ("a git repository", revision_refusal(name)),
    };
    if let Some(why) = refusal {
        let name = name.escape_default().to_string();
        return Err(ArtefactError::Name { name, kind, why });
    }
    let other = |wanted, digest| Err(ArtefactError::OtherDigest { kind, wanted, digest });
    match (found, digest) {
        (SourcePolicy::Directory(path), digest @ (Digest::Sha256(_) | Digest::Tree(_))) => {
            Ok(Wanted::Directory { path: path.clone(), digest })
        }
        (SourcePolicy::Https(source), digest @ Digest::Sha256(_)) => {
            Ok(Wanted::Https { source, digest })
        }
        (SourcePolicy::Git(source), Digest::Git(commit)) => Ok(Wanted::Git { source, commit }),
        (SourcePolicy::Directory(_), digest @ Digest::Git(_)) => {
            other("`sha256:` or `tree:`", digest)
        }
        (SourcePolicy::Https(_), digest @ (Digest::Tree(_) | Digest::Git(_))) => {
            other("`sha256:`", digest)
        }
        (SourcePolicy::Git(_), digest @ (Digest::Sha256(_) | Digest::Tree(_))) => {
            other("`git:`", digest)
        }
    }
}

/// What of a source is not as it has to be; good ones are told, too. Nothing is asked over the network.
pub(super) fn findings(name: &str, source: &SourcePolicy) -> Vec<Finding> {
    let what = format!("source {name}");
    let readable = |key: &str, file: &Option<PathBuf>| {
        let file = file.as_ref()?;
        let error = File::open(file).err()?;
        let why = format!("{key} {} cannot be read: {error}", file.display());
        Some(Finding::bad(&what, why, "put it there, readable by the agent's user only"))
    };
    let bad: Vec<Finding> = match source {
        SourcePolicy::Directory(path) => {
            let mend = "make the directory, or name the real one in the policy";
            let error = Dir::open(path).err();
            error.map(|error| Finding::bad(&what, error.reason(), mend)).into_iter().collect()
        }
        SourcePolicy::Https(https) => {
            let files = [("bearer_file", &https.bearer_file), ("ca_file", &https.ca_file)];
            files.into_iter().filter_map(|(key, file)| readable(key, file)).collect()
        }
        SourcePolicy::Git(git) => match super::git::program() {
            None => {
                let mend = "install it (Debian: apt-get install git)";
                vec![Finding::bad(&what, "git is not installed on this host", mend)]
            }
            Some(program) => {
                let spec = Spec::new([program]).as_user(Some(git.user.clone()));
                exec::refusal(&spec).iter().map(|why| Finding::of_words(&what, why)).collect()
            }
        },
    };
    if bad.is_empty() { vec![Finding::ok(what)] } else { bad }
}

/// Copies an archive from below a directory, with no link on the way.
pub(super) fn copy_archive(
    source: &Path,
    name: &str,
    into: &File,
    limits: &Limits,
    end: Instant,
) -> Result<(), ArtefactError> {
    let (above, last) = dir::split(name.as_bytes());
    let above = Dir::open(source)?.dir(above)?;
    let mut file = above.file(last)?;
    let at = above.at(last);
    let found = file.metadata().map_err(ArtefactError::io(format!("look at {at}")))?;
    if !found.is_file() {
        let what =
            "no file, and a digest of `sha256:` is one of an archive; a directory has `tree:`";
        return Err(ArtefactError::NotThere { path: at, what });
    }
    let mut into = into.try_clone().map_err(ArtefactError::io("write the archive"))?;
    room_for(found.len(), limits, &into, &at)?;
    let (mut chunk, mut copied) = (vec![0; CHUNK_BYTES], 0u64);
    loop {
        if Instant::now() >= end {
            return Err(ArtefactError::Late);
        }
        let read = file.read(&mut chunk).map_err(ArtefactError::io(format!("read {at}")))?;
        if read == 0 {
            return Ok(());
        }
        copied = copied.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        if copied > limits.bytes {
            return Err(ArtefactError::Limit { what: "bytes", limit: limits.bytes });
        }
        let writing = ArtefactError::io(format!("copy {at}"));
        into.write_all(&chunk[..read]).map_err(writing)?;
    }
}

/// An archive is at least as large unpacked, so that it is known early where it cannot fit.
fn room_for(bytes: u64, limits: &Limits, into: &File, at: &str) -> Result<(), ArtefactError> {
    if bytes > limits.bytes {
        return Err(ArtefactError::Limit { what: "bytes", limit: limits.bytes });
    }
    let stat = rustix::fs::fstatvfs(into)
        .map_err(|errno| ArtefactError::io("see how much is free")(errno.into()))?;
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed_bytes = bytes.saturating_mul(2).saturating_add(limits.reserve_bytes);
    if needed_bytes > free_bytes {
        let path = format!("the state directory, for {at}");
        return Err(ArtefactError::NoSpace { path, needed_bytes, free_bytes });
    }
    Ok(())
}
