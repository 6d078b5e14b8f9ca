//! Whether an archive is the one that a release names: all of its bytes, before one of them is looked at.

use std::{fs::File, os::unix::fs::FileExt as _, time::Instant};

use proto::artefact::Digest;
use ring::digest::{Context, SHA256};

use super::error::ArtefactError;

const CHUNK_BYTES: usize = 256 * 1024;

/// `sha256:…` of a whole file.
pub(super) fn sha256(file: &File, end: Instant) -> Result<Digest, ArtefactError> {
    let mut context = Context::new(&SHA256);
    let (mut chunk, mut at) = (vec![0; CHUNK_BYTES], 0u64);
    loop {
        if Instant::now() >= end {
            return Err(ArtefactError::Late);
        }
        let read = file.read_at(&mut chunk, at).map_err(ArtefactError::io("read the archive"))?;
        if read == 0 {
            return Ok(Digest::Sha256(hex(context.finish().as_ref())));
        }
        context.update(&chunk[..read]);
        at = at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
}

/// Refuses what is not wanted.
pub(super) fn check(what: &str, wanted: &Digest, found: &Digest) -> Result<(), ArtefactError> {
    if wanted == found {
        return Ok(());
    }
    Err(ArtefactError::Wrong {
        what: what.to_owned(),
        wanted: wanted.clone(),
        found: found.to_string(),
    })
}

/// Bytes as text.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
