//! How a record lies in an ordered key-value store: cut into parts, each with its place and a checksum of its own.
//!
//! ```text
//! key    stream name | 0x00 | index, u64 big endian | part, u32 big endian
//! value  version, 1 | index, u64 | parts, u32 | crc32 of all else, u32 | payload
//! ```
//!
//! Parts keep values small: sled moves large pages into files of their own, which no sync of ours reaches.
//!
//! Invariant: [`scan`] hands out whole records in order without a gap, or says what is wrong and where.

use std::collections::BTreeMap;

use super::{Place, Stream};

/// The version byte of every value.
const VERSION: u8 = 1;
/// Bytes before the payload.
const HEADER_BYTES: usize = 1 + 8 + 4 + 4;
/// The largest payload of one part. Seventeen of them, the most that a leaf of sled holds, stay below a quarter of
/// its segment, above which it spills into files.
const PART_BYTES: usize = 4 * 1024;
/// Where terms are kept. No [`Stream`] of a caller can have this name.
const EPOCHS: &str = "#epochs";

/// The stream of terms.
pub(super) fn epochs() -> Stream {
    Stream(EPOCHS.to_owned())
}

/// Whether a caller may see the stream.
pub(super) fn is_public(stream: &Stream) -> bool {
    stream.as_str() != EPOCHS
}

/// The first key of record `index`; also the end of the range of the records before it.
pub(super) fn first_key(stream: &Stream, index: u64) -> Vec<u8> {
    key(stream, index, 0)
}

/// The keys and values that hold one record.
pub(super) fn encode(stream: &Stream, index: u64, record: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let parts = record.len().div_ceil(PART_BYTES).max(1);
    let parts_u32 = u32::try_from(parts).unwrap_or(u32::MAX);
    let piece = |part: u32| {
        let from = part as usize * PART_BYTES;
        let payload = &record[from..record.len().min(from + PART_BYTES)];
        let key = key(stream, index, part);
        let mut value = Vec::with_capacity(HEADER_BYTES + payload.len());
        value.push(VERSION);
        value.extend(index.to_be_bytes());
        value.extend(parts_u32.to_be_bytes());
        value.extend(checksum(&key, VERSION, index, parts_u32, payload).to_be_bytes());
        value.extend(payload);
        (key, value)
    };
    (0..parts_u32).map(piece).collect()
}

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) place: Place,
    pub(super) what: String,
}

/// Why a scan ended early: the store could not be read, or what was read is not right.
#[derive(Debug)]
pub(super) enum ScanError<E> {
    Store(E),
    Damage(Damage),
}

/// Walks keys and values in key order and hands out each record; answers how many each stream holds.
pub(super) fn scan<K: AsRef<[u8]>, V: AsRef<[u8]>, E>(
    entries: impl Iterator<Item = Result<(K, V), E>>,
    mut record: impl FnMut(&Stream, u64, Vec<u8>),
) -> Result<BTreeMap<Stream, u64>, ScanError<E>> {
    let mut whole = BTreeMap::new();
    let mut open: Option<OpenRecord> = None;
    for entry in entries {
        let (key, value) = entry.map_err(ScanError::Store)?;
        let (key, value) = (key.as_ref(), value.as_ref());
        let (stream, index, part) = parse_key(key).ok_or_else(|| {
            damage(Place::Journal, format!("the key {} is none of ours", key.escape_ascii()))
        })?;
        let place = Place::Record { stream: stream.0.clone(), record: index };
        let (parts, payload) =
            decode(key, index, value).map_err(|what| damage(place.clone(), what))?;

        let mut current = match open.take() {
            Some(current) if current.is_at(&stream, index) => current,
            Some(current) => return Err(current.incomplete()),
            None => {
                let expected = whole.get(&stream).copied().unwrap_or(0);
                if index != expected {
                    let what = format!("record {expected} is missing before it");
                    return Err(damage(place, what));
                }
                OpenRecord { stream, index, parts, next_part: 0, payload: Vec::new() }
            }
        };
        if part != current.next_part || parts != current.parts {
            return Err(current.incomplete());
        }
        current.payload.extend_from_slice(payload);
        current.next_part += 1;
        if current.next_part < current.parts {
            open = Some(current);
        } else {
            record(&current.stream, index, current.payload);
            whole.insert(current.stream, index + 1);
        }
    }
    match open {
        Some(current) => Err(current.incomplete()),
        None => Ok(whole),
    }
}

/// A record of which not all parts have come by.
struct OpenRecord {
    stream: Stream,
    index: u64,
    parts: u32,
    next_part: u32,
    payload: Vec<u8>,
}

impl OpenRecord {
    fn is_at(&self, stream: &Stream, index: u64) -> bool {
        self.stream == *stream && self.index == index
    }

    fn incomplete<E>(&self) -> ScanError<E> {
        let place = Place::Record { stream: self.stream.0.clone(), record: self.index };
        damage(place, format!("part {} of {} is missing", self.next_part + 1, self.parts))
    }
}

fn damage<E>(place: Place, what: String) -> ScanError<E> {
    ScanError::Damage(Damage { place, what })
}

fn key(stream: &Stream, index: u64, part: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(stream.as_str().len() + 1 + 8 + 4);
    key.extend(stream.as_str().as_bytes());
    key.push(0);
    key.extend(index.to_be_bytes());
    key.extend(part.to_be_bytes());
    key
}

fn parse_key(key: &[u8]) -> Option<(Stream, u64, u32)> {
    let (rest, part) = key.split_last_chunk::<4>()?;
    let (rest, index) = rest.split_last_chunk::<8>()?;
    let (&zero, name) = rest.split_last()?;
    let name = std::str::from_utf8(name).ok()?;
    let stream = if name == EPOCHS { epochs() } else { Stream::new(name).ok()? };
    (zero == 0).then_some((stream, u64::from_be_bytes(*index), u32::from_be_bytes(*part)))
}

/// The number of parts and this part's payload, once everything has been checked.
fn decode<'a>(key: &[u8], index: u64, value: &'a [u8]) -> Result<(u32, &'a [u8]), String> {
    let short = || format!("{} bytes are too few for a record", value.len());
    let (&version, rest) = value.split_first().ok_or_else(short)?;
    if version != VERSION {
        return Err(format!("its format is {version}, this build reads {VERSION}"));
    }
    let (written_index, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let (parts, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (crc, payload) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (written_index, parts) = (u64::from_be_bytes(*written_index), u32::from_be_bytes(*parts));
    if checksum(key, version, written_index, parts, payload) != u32::from_be_bytes(*crc) {
        return Err("its checksum does not match its bytes".to_owned());
    }
    if written_index != index {
        return Err(format!("it was written as record {written_index}"));
    }
    Ok((parts, payload))
}

fn checksum(key: &[u8], version: u8, index: u64, parts: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&[version]);
    hasher.update(&index.to_be_bytes());
    hasher.update(&parts.to_be_bytes());
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Entries = Vec<(Vec<u8>, Vec<u8>)>;

    fn stream(name: &str) -> Stream {
        Stream::new(name).unwrap()
    }

    fn read(entries: &Entries) -> Result<Vec<(String, u64, Vec<u8>)>, Damage> {
        let mut entries = entries.clone();
        entries.sort();
        let mut records = Vec::new();
        let ok = entries.into_iter().map(Ok::<_, std::convert::Infallible>);
        match scan(ok, |stream, index, bytes| records.push((stream.to_string(), index, bytes))) {
            Ok(_) => Ok(records),
            Err(ScanError::Damage(damage)) => Err(damage),
        }
    }

    fn sample() -> Entries {
        let mut entries = encode(&stream("fleet/prod"), 0, b"applied");
        entries.extend(encode(&stream("op/rb-1"), 0, b""));
        entries.extend(encode(&stream("op/rb-1"), 1, &[7; PART_BYTES * 2 + 1]));
        entries.extend(encode(&stream("op/rb-10"), 0, &[9; PART_BYTES]));
        entries
    }

    #[test]
    fn what_is_written_is_read() {
        let records = read(&sample()).unwrap();
        let shape: Vec<_> = records.iter().map(|(s, i, r)| (s.as_str(), *i, r.len())).collect();
        assert_eq!(
            shape,
            [
                ("fleet/prod", 0, 7),
                ("op/rb-1", 0, 0),
                ("op/rb-1", 1, PART_BYTES * 2 + 1),
                ("op/rb-10", 0, PART_BYTES)
            ]
        );
    }

    #[test]
    fn any_missing_entry_but_a_streams_last_record_is_found() {
        let entries = sample();
        for gone in 0..entries.len() {
            let mut rest = entries.clone();
            let (key, _) = rest.remove(gone);
            let (name, index, _) = parse_key(&key).unwrap();
            let alone = entries.iter().filter(|(other, _)| parse_key(other).unwrap().0 == name);
            if alone.count() > 1 {
                let place = read(&rest).unwrap_err().place;
                let named = Place::Record { stream: name.to_string(), record: index.max(1) };
                assert_eq!(place, named, "entry {gone}");
            }
        }
    }

    #[test]
    fn any_flipped_byte_is_found() {
        let entries = encode(&stream("op/rb-1"), 0, b"some record");
        for byte in 0..entries[0].0.len() {
            let mut bad = entries.clone();
            bad[0].0[byte] ^= 0x10;
            read(&bad).unwrap_err();
        }
        for byte in 0..entries[0].1.len() {
            let mut bad = entries.clone();
            bad[0].1[byte] ^= 0x10;
            read(&bad).unwrap_err();
        }
    }

    #[test]
    fn a_record_in_anothers_place_is_found() {
        let (_, value) = encode(&stream("op/rb-1"), 0, b"some record").remove(0);
        let (other, _) = encode(&stream("op/rb-2"), 0, b"some record").remove(0);
        assert!(read(&vec![(other, value)]).unwrap_err().what.contains("checksum"));
    }
}
