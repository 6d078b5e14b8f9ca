//! Archives: tar, as it is or compressed by gzip or zstd, told by their first bytes and not by their names.
//!
//! ```text
//! file ─▶ Stream (gzip, zstd, none; ratio) ─▶ blocks of 512 ─▶ header + what PAX and GNU add ─▶ Building
//! ```
//!
//! Blocks are read here and fields by the `tar` crate; what is written where is `building`'s. Whatever two readers of tar
//! could take for two different things is refused.
//!
//! Invariant: no byte is taken from an archive that has not been checked against its digest.
//! Invariant: what is not known to mean nothing is refused: types, PAX keys, trailing bytes.

use std::{
    cell::Cell,
    fs::File,
    io::{self, BufReader, ErrorKind, Read},
    os::unix::fs::FileExt as _,
    rc::Rc,
};

use tar::Header;

use super::{
    building::{Building, Limits, Meta},
    error::ArtefactError,
    pax::{self, Pax},
};

const BLOCK_BYTES: usize = 512;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Where the magic of tar stands in a header, and its two spellings: POSIX and GNU.
const MAGIC_AT: std::ops::Range<usize> = 257..265;
const USTAR: &[u8] = b"ustar\x0000";
const GNU: &[u8] = b"ustar  \0";
const LONG_NAME_BYTES_MAX: u64 = 64 * 1024;
const PAX_BYTES_MAX: u64 = 1024 * 1024;

const MEND_WRITE: &str = "write the archive with GNU tar, bsdtar or git archive";
const MEND_SPECIAL: &str = "leave it out: a release is of files, directories and links";

/// Unpacks a whole archive.
pub(super) fn unpack(file: &File, building: &mut Building<'_>) -> Result<(), ArtefactError> {
    let mut stream = Stream::open(file, building.limits)?;
    let mut next = Next::default();
    loop {
        let Some(block) = stream.block()? else {
            return Err(ArtefactError::archive("it ends before its end mark"));
        };
        if block.iter().all(|byte| *byte == 0) {
            next.nothing_pending()?;
            return stream.only_zeros_follow();
        }
        entry(&block, &mut next, &mut stream, building)?;
    }
}

/// What the entries before a file say of it.
#[derive(Default)]
struct Next {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

impl Next {
    fn nothing_pending(&self) -> Result<(), ArtefactError> {
        if self.name.is_some() || self.link.is_some() || self.pax.is_some() {
            return Err(ArtefactError::archive("it ends after a header that belongs to a file"));
        }
        Ok(())
    }
}

fn entry(
    block: &[u8; BLOCK_BYTES],
    next: &mut Next,
    stream: &mut Stream,
    building: &mut Building<'_>,
) -> Result<(), ArtefactError> {
    let header = header(block)?;
    let field = |what: &str| ArtefactError::archive(format!("a header has no readable {what}"));
    let size_bytes = header.entry_size().map_err(|_| field("size"))?;
    let twice = || ArtefactError::archive("a file has two long names");
    match header.entry_type().as_byte() {
        b'L' => {
            let text = stream.text(size_bytes)?;
            return next.name.replace(text).map_or(Ok(()), |_| Err(twice()));
        }
        b'K' => {
            let text = stream.text(size_bytes)?;
            return next.link.replace(text).map_or(Ok(()), |_| Err(twice()));
        }
        b'x' => {
            let pax = pax::of_file(&stream.bytes(size_bytes, PAX_BYTES_MAX)?)?;
            return next.pax.replace(pax).map_or(Ok(()), |_| Err(twice()));
        }
        b'g' => {
            next.nothing_pending()?;
            return pax::of_archive(&stream.bytes(size_bytes, PAX_BYTES_MAX)?);
        }
        _ => {}
    }
    let Next { name, link, pax } = std::mem::take(next);
    let pax = pax.unwrap_or_default();
    let name = one_of(name, pax.path, header.path_bytes().into_owned())?;
    if pax.size_bytes.is_some_and(|size| size != size_bytes) {
        let what = "whose size is one in its header and another in its PAX header";
        return Err(ArtefactError::refused(&name, what, MEND_WRITE));
    }
    building.built.without_xattrs |= pax.has_xattrs;
    let meta = Meta {
        mode: header.mode().map_err(|_| field("mode"))?,
        // Years before 1970 and after 292 billion are none that a release needs.
        mtime_s: header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0),
    };
    let path = spelled(&name);
    let no_bytes = || {
        let what = "which has bytes although it is no file";
        if size_bytes == 0 { Ok(()) } else { Err(ArtefactError::refused(&name, what, MEND_WRITE)) }
    };
    let special = |what: &str| Err(ArtefactError::refused(&name, what, MEND_SPECIAL));
    match header.entry_type().as_byte() {
        b'0' | 0 if name.ends_with(b"/") => {
            Err(ArtefactError::refused(&name, "a file with the name of a directory", MEND_WRITE))
        }
        b'0' | 0 => {
            let mut left = size_bytes;
            building.file(path, meta, size_bytes, &mut |chunk| stream.some_of(&mut left, chunk))?;
            stream.padding(size_bytes)
        }
        b'5' => {
            no_bytes()?;
            building.dir(path.strip_suffix(b"/").unwrap_or(path), meta)
        }
        b'2' => {
            no_bytes()?;
            let target = header.link_name_bytes().map(|name| name.into_owned());
            let target = one_of(link, pax.link, target.unwrap_or_default())?;
            building.link(path, &target, meta.mtime_s)
        }
        b'1' => {
            let mend = "write the archive with `tar --hard-dereference`";
            Err(ArtefactError::refused(&name, "a hard link", mend))
        }
        b'3' | b'4' => special("a device"),
        b'6' => special("a fifo"),
        b'S' => {
            let mend = "write the archive without `--sparse`";
            Err(ArtefactError::refused(&name, "a sparse file", mend))
        }
        other => {
            let what = format!("an entry of the type `{}`", other.escape_ascii());
            Err(ArtefactError::refused(&name, what, MEND_WRITE))
        }
    }
}

/// A header whose checksum holds.
fn header(block: &[u8; BLOCK_BYTES]) -> Result<Header, ArtefactError> {
    let magic = &block[MAGIC_AT];
    if magic != USTAR && magic != GNU {
        return Err(ArtefactError::archive("a header is none of POSIX or GNU tar"));
    }
    let header = Header::from_byte_slice(block).clone();
    let mut summed = header.clone();
    summed.set_cksum();
    match (header.cksum(), summed.cksum()) {
        (Ok(says), Ok(is)) if says == is => Ok(header),
        _ => Err(ArtefactError::archive("the checksum of a header is wrong")),
    }
}

/// The name that counts; two long ones are one too many.
fn one_of(
    gnu: Option<Vec<u8>>,
    pax: Option<Vec<u8>>,
    short: Vec<u8>,
) -> Result<Vec<u8>, ArtefactError> {
    match (gnu, pax) {
        (Some(_), Some(_)) => Err(ArtefactError::archive("a file has two long names")),
        (Some(long), None) | (None, Some(long)) => Ok(long),
        (None, None) => Ok(short),
    }
}

/// A path as it is below the root: `tar -C dir .` begins each with `./`, and the root is `./` itself.
fn spelled(name: &[u8]) -> &[u8] {
    match name.strip_prefix(b"./") {
        Some(rest) => rest,
        None if name == b"." => b"",
        None => name,
    }
}

/// The bytes of a tar archive, whatever it is compressed with.
struct Stream {
    plain: Box<dyn Read>,
    packed_bytes: Rc<Cell<u64>>,
    plain_bytes: u64,
    limits: Limits,
}

/// Counts what is read of the archive as it lies on the disk.
struct Counted {
    file: File,
    bytes: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let at = self.bytes.get();
        let read = self.file.read_at(into, at)?;
        self.bytes.set(at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX)));
        Ok(read)
    }
}

impl Stream {
    fn open(file: &File, limits: Limits) -> Result<Self, ArtefactError> {
        let reading = "read the archive";
        let mut first = [0; BLOCK_BYTES];
        let read = file.read_at(&mut first, 0).map_err(ArtefactError::io(reading))?;
        let first = &first[..read];
        let packed_bytes = Rc::new(Cell::new(0));
        let file = file.try_clone().map_err(ArtefactError::io(reading))?;
        let counted = BufReader::new(Counted { file, bytes: Rc::clone(&packed_bytes) });
        let plain: Box<dyn Read> = if first.starts_with(GZIP) {
            Box::new(flate2::bufread::MultiGzDecoder::new(counted))
        } else if first.starts_with(ZSTD) {
            let decoder = zstd::stream::read::Decoder::with_buffer(counted);
            Box::new(decoder.map_err(ArtefactError::io("set up zstd"))?)
        } else if first.get(MAGIC_AT).is_some_and(|magic| magic == USTAR || magic == GNU) {
            Box::new(counted)
        } else {
            let what = "it is neither tar nor tar compressed by gzip or zstd";
            return Err(ArtefactError::archive(what));
        };
        Ok(Self { plain, packed_bytes, plain_bytes: 0, limits })
    }

    /// Some bytes; none at the end.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, ArtefactError> {
        loop {
            match self.plain.read(into) {
                Ok(read) => {
                    let read_bytes = u64::try_from(read).unwrap_or(u64::MAX);
                    self.plain_bytes = self.plain_bytes.saturating_add(read_bytes);
                    let most = self.packed_bytes.get().saturating_mul(self.limits.ratio);
                    if self.plain_bytes > self.limits.ratio_from_bytes && self.plain_bytes > most {
                        let what = format!(
                            "its contents are more than {} times as large as it is",
                            self.limits.ratio
                        );
                        return Err(ArtefactError::archive(what));
                    }
                    return Ok(read);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Err(ArtefactError::archive("it is cut off"));
                }
                Err(error) => {
                    return Err(ArtefactError::archive(format!("it is damaged: {error}")));
                }
            }
        }
    }

    /// Fills it; none where nothing at all is left.
    fn fill(&mut self, into: &mut [u8]) -> Result<Option<()>, ArtefactError> {
        let mut filled = 0;
        while filled < into.len() {
            match self.read(&mut into[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(ArtefactError::archive("it is cut off")),
                read => filled += read,
            }
        }
        Ok(Some(()))
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, ArtefactError> {
        let mut block = [0; BLOCK_BYTES];
        Ok(self.fill(&mut block)?.map(|()| block))
    }

    /// Some of the `left` bytes of a file.
    fn some_of(&mut self, left: &mut u64, into: &mut [u8]) -> Result<usize, ArtefactError> {
        let most = into.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        let read = self.read(&mut into[..most])?;
        *left -= u64::try_from(read).unwrap_or(u64::MAX);
        Ok(read)
    }

    /// What fills the last block of a file.
    fn padding(&mut self, size_bytes: u64) -> Result<(), ArtefactError> {
        let over = usize::try_from(size_bytes % 512).unwrap_or(0);
        if over > 0 && self.fill(&mut [0; BLOCK_BYTES][over..])?.is_none() {
            return Err(ArtefactError::archive("it is cut off"));
        }
        Ok(())
    }

    /// A whole entry that says something of the next one.
    fn bytes(&mut self, size_bytes: u64, most: u64) -> Result<Vec<u8>, ArtefactError> {
        let length = usize::try_from(size_bytes).ok().filter(|_| size_bytes <= most);
        let Some(length) = length else {
            return Err(ArtefactError::archive("a header is larger than any header has to be"));
        };
        let mut bytes = vec![0; length];
        if length > 0 && self.fill(&mut bytes)?.is_none() {
            return Err(ArtefactError::archive("it is cut off"));
        }
        self.padding(size_bytes)?;
        Ok(bytes)
    }

    /// A long name of GNU tar; it ends in a NUL.
    fn text(&mut self, size_bytes: u64) -> Result<Vec<u8>, ArtefactError> {
        let mut bytes = self.bytes(size_bytes, LONG_NAME_BYTES_MAX)?;
        if bytes.last() == Some(&0) {
            bytes.pop();
        }
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(ArtefactError::archive("a long name is none"));
        }
        Ok(bytes)
    }

    fn only_zeros_follow(&mut self) -> Result<(), ArtefactError> {
        let mut chunk = [0; 8 * BLOCK_BYTES];
        loop {
            match self.read(&mut chunk)? {
                0 => return Ok(()),
                read if chunk[..read].iter().all(|byte| *byte == 0) => {}
                _ => return Err(ArtefactError::archive("something follows its end mark")),
            }
        }
    }
}
