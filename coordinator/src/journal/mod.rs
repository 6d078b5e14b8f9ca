//! What the coordinator must never forget: named streams of records, each append durable before it is answered.
//!
//! ```text
//! runner ── append(op/rb-0193, expected 7, [events]) ──▶ Journal ── durable ──▶ next index 9
//! start  ── replay(op/rb-0193) ───────────────────────▶ the same records, in order
//!           epoch() ──▶ this opening's term, already durable when the journal is handed out
//! ```
//!
//! Invariant: an acknowledged append survives kill -9 and power loss, whole and in its place.
//! Invariant: an append is whole or absent; no reader ever sees a part of one.
//! Invariant: damaged data is refused with its place named, never returned and never repaired in silence.
//! Invariant: nothing outside this module knows which implementation runs.

mod envelope;
pub mod memory;
pub mod sled;
#[cfg(test)]
mod tests;
mod watermark;

use std::{fmt, future::Future, io, path::PathBuf, pin::Pin, str::FromStr};

pub use self::{memory::MemoryJournal, sled::SledJournal};

/// The largest record, in bytes. A plan of 10,000 hosts fits several times over.
pub const RECORD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The longest stream name, in bytes.
pub const STREAM_NAME_BYTES_MAX: usize = 200;

/// A future that an object-safe trait can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Streams of records that outlive the process.
///
/// The durability contract, which every implementation passes the same tests for:
///
/// - A stream begins empty; record `n` is the `n`-th ever appended, counted from 0. Records are never changed or
///   removed.
/// - [`append`](Self::append) answers `Ok` only when its records would survive the loss of power at that moment.
///   All records of one append are there after a crash, or none.
/// - An append that was not answered, or whose future was dropped, may be there or not: replay tells.
/// - [`replay`](Self::replay) and [`streams`](Self::streams) show durable records only, so what they show is
///   never taken back.
/// - When durability cannot be had (a write or a sync failed) nothing more is acknowledged: the journal stops,
///   and the process with it. What is true is then what is on disk.
pub trait Journal: Send + Sync + fmt::Debug {
    /// Adds `records` to `stream`, which holds `expected` records before; answers the next index, `expected` plus
    /// the number of records, once they are durable.
    ///
    /// No records: only the expectation is checked.
    ///
    /// # Errors
    /// [`JournalError::Conflict`] when the stream holds another number of records, [`JournalError::TooLarge`],
    /// [`JournalError::Stopped`]. Nothing was appended in the first two cases; after the third, replay tells.
    fn append(
        &self,
        stream: Stream,
        expected: u64,
        records: Vec<Vec<u8>>,
    ) -> BoxFuture<'_, Result<u64, JournalError>>;

    /// All durable records of a stream, in order; none for a stream that was never written.
    ///
    /// Reads from disk on the calling thread.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] or [`JournalError::Read`]; never a part of the records.
    fn replay(&self, stream: &Stream) -> Result<Vec<Vec<u8>>, JournalError>;

    /// The names of all streams with at least one durable record that begin with `prefix`, in byte order.
    ///
    /// # Errors
    /// [`JournalError::Stopped`].
    fn streams(&self, prefix: &str) -> Result<Vec<Stream>, JournalError>;

    /// The term that began when this journal was opened; durable since before the journal was handed out.
    fn epoch(&self) -> &Epoch;
}

/// The coordinator's term. Every opening of a journal begins a higher one.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Epoch {
    /// Only grows. Starts at 1.
    pub counter: u64,
    /// 32 random hex digits: tells two journals with the same counter apart.
    pub instance: String,
}

impl Epoch {
    /// The term after `last`, at least `at_least`.
    fn after(last: Option<&Self>, at_least: u64) -> Self {
        let counter = last.map_or(0, |epoch| epoch.counter).saturating_add(1).max(at_least);
        Self { counter, instance: format!("{:032x}", rand::random::<u128>()) }
    }
}

/// The name of a stream: `fleet/prod`, `op/rb-0193`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream(String);

impl Stream {
    /// A name of letters, digits, `.`, `_` and `-`, in parts separated by single `/`.
    ///
    /// # Errors
    /// [`StreamError`] for anything else, and for more than [`STREAM_NAME_BYTES_MAX`] bytes.
    pub fn new(name: impl Into<String>) -> Result<Self, StreamError> {
        let name = name.into();
        let letter = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        let part = |part: &str| !part.is_empty() && part.bytes().all(letter);
        if name.len() <= STREAM_NAME_BYTES_MAX && name.split('/').all(part) {
            Ok(Self(name))
        } else {
            Err(StreamError(name))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Stream {
    type Err = StreamError;

    fn from_str(name: &str) -> Result<Self, StreamError> {
        Self::new(name)
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that names no stream.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` cannot name a journal stream: letters, digits, `.`, `_` and `-` in parts separated by `/`, at most \
     {STREAM_NAME_BYTES_MAX} bytes"
)]
pub struct StreamError(String);

/// Why the journal did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another writer was faster, or the caller's view is old. Replay, decide again.
    #[error("stream {stream} holds {actual} records, {expected} were expected")]
    Conflict { stream: Stream, expected: u64, actual: u64 },

    #[error("a record of {bytes} bytes for stream {stream} is larger than {RECORD_BYTES_MAX}")]
    TooLarge { stream: Stream, bytes: usize },

    /// The journal could not make something durable, or is closing. Nothing more is acknowledged.
    #[error(
        "the journal has stopped; what is durable is what is on disk: start the coordinator again"
    )]
    Stopped,

    #[error("cannot read stream {stream}")]
    Read {
        stream: Stream,
        #[source]
        source: io::Error,
    },

    #[error("cannot open the journal {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error(
        "the journal {} is in use by another process; one coordinator at a time: stop the other one first",
        path.display()
    )]
    Locked { path: PathBuf },

    #[error(
        "the journal {} has the format `{found}`, and this build reads only `{reads}`; run the version that wrote \
         it, or restore the backup that was made before the upgrade",
        path.display()
    )]
    Format { path: PathBuf, found: String, reads: &'static str },

    #[error(
        "the journal {} is damaged: {place}: {what}; nothing of it is used. Restore the whole directory from a \
         backup, or move it away and start afresh: agents keep their own ledgers. Either way start once with \
         `--epoch-at-least N`, N higher than the epoch counter that the agents last saw",
        path.display()
    )]
    Damaged { path: PathBuf, place: Place, what: String },
}

/// Where a journal is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Journal,
    Stream { stream: String },
    Record { stream: String, record: u64 },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Journal => f.write_str("the journal as a whole"),
            Self::Stream { stream } => write!(f, "stream {stream}"),
            Self::Record { stream, record } => write!(f, "stream {stream}, record {record}"),
        }
    }
}

/// Refuses what no implementation takes.
fn check_sizes(stream: &Stream, records: &[Vec<u8>]) -> Result<(), JournalError> {
    match records.iter().find(|record| record.len() > RECORD_BYTES_MAX) {
        Some(record) => Err(JournalError::TooLarge { stream: stream.clone(), bytes: record.len() }),
        None => Ok(()),
    }
}
