//! Compression of what is kept for long: zstd, where it pays.
//!
//! ```text
//! small: bytes ──▶ one frame, in a pack                 large: file ──▶ <name>.z: LGZ1, raw size (u64, little-endian), one frame
//! ```
//!
//! Invariant: nothing is written or kept in memory beyond the size that is known beforehand, whatever the frame claims.
//! Invariant: bytes that come out are checked against their hash by whoever asked for them, as all bytes are.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, BufReader, Read, Seek as _, SeekFrom, Write},
    os::unix::fs::FileExt as _,
};

use zstd::{
    bulk::{Compressor, Decompressor},
    stream::{read::Decoder, write::Encoder},
};

/// Slower levels save little on code and libraries.
const LEVEL: i32 = 3;
/// What the decoder may keep in memory, as a power of two; twice what this level uses.
const WINDOW_LOG_MAX: u32 = 22;
const MAGIC: &[u8; 4] = b"LGZ1";
/// What stands before the frame of a large object.
pub(super) const HEADER_BYTES: usize = MAGIC.len() + 8;

thread_local! {
    // Making one takes longer than what a small object needs it for.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Whether so many bytes are worth the time that it takes to get them back.
pub(super) fn pays(stored: u64, raw: u64) -> bool {
    u128::from(stored) * 10 < u128::from(raw) * 9
}

/// The bytes as one frame; none where that does not pay.
pub(super) fn small(bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    COMPRESSOR.with_borrow_mut(|made| {
        let compressor = match made {
            Some(compressor) => compressor,
            none => none.insert(Compressor::new(LEVEL)?),
        };
        let frame = compressor.compress(bytes)?;
        Ok(pays(frame.len() as u64, bytes.len() as u64).then_some(frame))
    })
}

/// What [`small`] was made of; none where it is not a frame of exactly so many bytes.
pub(super) fn small_again(frame: &[u8], raw_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    DECOMPRESSOR.with_borrow_mut(|made| {
        let decompressor = match made {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new()?),
        };
        let mut bytes = Vec::with_capacity(raw_bytes);
        let whole = decompressor.decompress_to_buffer(frame, &mut bytes);
        Ok(whole.is_ok_and(|count| count == raw_bytes).then_some(bytes))
    })
}

/// Writes a large object compressed.
pub(super) struct Large<'f> {
    encoder: Encoder<'static, &'f File>,
}

impl<'f> Large<'f> {
    /// Into a new file.
    pub(super) fn new(mut file: &'f File, raw_bytes: u64) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES];
        header[..MAGIC.len()].copy_from_slice(MAGIC);
        header[MAGIC.len()..].copy_from_slice(&raw_bytes.to_le_bytes());
        file.write_all(&header)?;
        let mut encoder = Encoder::new(file, LEVEL)?;
        encoder.set_pledged_src_size(Some(raw_bytes))?;
        Ok(Self { encoder })
    }

    pub(super) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.encoder.write_all(chunk)
    }

    /// Every byte has been handed to the file.
    pub(super) fn end(self) -> io::Result<()> {
        self.encoder.finish().map(drop)
    }
}

/// The raw size of a large compressed object; none where its header is not one.
pub(super) fn raw_bytes(file: &File) -> io::Result<Option<u64>> {
    let mut header = [0; HEADER_BYTES];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let size = header.strip_prefix(MAGIC).and_then(|size| size.try_into().ok());
    Ok(size.map(u64::from_le_bytes))
}

/// What a large compressed object was made of, and never more than one byte beyond it. An error that has no number of
/// the kernel's says that the frame is damaged.
pub(super) fn large_again(mut file: File, raw_bytes: u64) -> io::Result<impl Read> {
    file.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
    let mut decoder = Decoder::with_buffer(BufReader::with_capacity(64 * 1024, file))?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(decoder.take(raw_bytes.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn large(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        let mut large = Large::new(&file, bytes.len() as u64).unwrap();
        bytes.chunks(1000).for_each(|chunk| large.write(chunk).unwrap());
        large.end().unwrap();
        file
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(b"the same words again".to_vec()), 0..5000)
    }

    proptest! {
        #[test]
        fn small_ones_come_back(bytes in text()) {
            if let Some(frame) = small(&bytes).unwrap() {
                prop_assert!(frame.len() * 10 < bytes.len() * 9);
                prop_assert_eq!(small_again(&frame, bytes.len()).unwrap(), Some(bytes.clone()));
                prop_assert_eq!(small_again(&frame, bytes.len() + 1).unwrap(), None);
                prop_assert_eq!(small_again(&frame, bytes.len() - 1).unwrap(), None);
            }
        }

        #[test]
        fn large_ones_come_back(bytes in text()) {
            let file = large(&bytes);
            prop_assert_eq!(raw_bytes(&file).unwrap(), Some(bytes.len() as u64));
            let mut again = Vec::new();
            large_again(file, bytes.len() as u64).unwrap().read_to_end(&mut again).unwrap();
            prop_assert_eq!(again, bytes);
        }

        #[test]
        fn any_bytes_are_no_frame_and_no_panic(bytes in any::<Vec<u8>>(), size in 0..9999usize) {
            if let Some(out) = small_again(&bytes, size).unwrap() {
                prop_assert_eq!(out.len(), size);
            }
            let file = tempfile::tempfile().unwrap();
            (&file).write_all(&bytes).unwrap();
            if let Some(size) = raw_bytes(&file).unwrap() {
                prop_assert!(bytes.starts_with(MAGIC), "{}", size);
            }
        }
    }

    #[test]
    fn more_than_was_announced_is_cut_off() {
        let bytes = vec![b'a'; 5_000_000];
        let mut again = Vec::new();
        large_again(large(&bytes), 10).unwrap().read_to_end(&mut again).unwrap();
        assert_eq!(again.len(), 11);
    }

    #[test]
    fn noise_does_not_pay() {
        let mut noise = vec![0; 3000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(small(&noise).unwrap(), None);
    }
}
