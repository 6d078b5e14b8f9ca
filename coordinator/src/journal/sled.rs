//! The embedded journal: sled for the order and the lookup, our own sync, checksums and count around it.
//!
//! ```text
//! append ─▶ queue ─▶ writer thread: all that waits ─▶ one sled batch each ─▶ flush ─▶ fdatasync ─▶ watermark ─▶ answers
//! open   ─▶ format ─▶ fdatasync ─▶ sled recovers ─▶ every record checked ─▶ next term, durable ─▶ journal
//!
//! <path>/format      which build can read the rest
//! <path>/watermark   how many records were acknowledged
//! <path>/db, conf, … sled's own
//! ```
//!
//! sled's `flush` does not sync the file on Linux (sled issue 1452), so this module does. sled meets some damage
//! with a panic: every call into it is fenced.
//!
//! Invariant: nothing is answered before flush, fdatasync and watermark have succeeded, in this order.
//! Invariant: after a failed one the process ends; no second try may call lost pages written.
//! Invariant: no type of sled leaves this file.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::{
    BoxFuture, Epoch, Journal, JournalError, Place, Stream, check_sizes,
    envelope::{self, ScanError},
    watermark::Watermark,
};

/// What the format file says.
const FORMAT: &str = "lastgood-journal 1";
/// Without a bound sled's cache was seen to grow to half a gigabyte.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// sled's default, said here because a journal can only be opened with the size that it was made with, and because
/// `envelope::PART_BYTES` hangs on it.
const SEGMENT_BYTES: usize = 512 * 1024;
/// Appends that may wait for the writer; more wait in their callers.
const QUEUE_APPENDS: usize = 1024;
/// Appends that share one sync at most: bounds how long the first of them waits.
const GROUP_APPENDS: usize = 256;
/// How long opening waits for a process that is just ending to let go of the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// See the module.
pub struct SledJournal {
    shared: Arc<Shared>,
    epoch: Epoch,
    /// `None` only while it is dropped.
    queue: Option<mpsc::Sender<Append>>,
    writer: Option<JoinHandle<()>>,
}

/// What is done when something cannot be made durable. Nothing is acknowledged any more, whatever it does.
pub type OnFatal = Box<dyn FnMut(&io::Error) + Send>;

impl SledJournal {
    /// Opens the journal in the directory `path`, or makes a new one there, checks every record and begins a term.
    ///
    /// `at_least` raises the term's counter: after a restore from an old backup, above what the agents have seen.
    /// Blocks: for about a second per million records, and up to three for another process's lock.
    ///
    /// # Errors
    /// [`JournalError::Open`], [`Locked`](JournalError::Locked), [`Format`](JournalError::Format),
    /// [`Damaged`](JournalError::Damaged).
    pub fn open(path: &Path, at_least: u64) -> Result<Self, JournalError> {
        Self::open_with(path, at_least, Box::new(abort))
    }

    /// As [`open`](Self::open), with something else than the end of the process for a failed write or sync.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: &Path, at_least: u64, on_fatal: OnFatal) -> Result<Self, JournalError> {
        Self::open_on(path, at_least, on_fatal, Box::new(File::sync_data))
    }

    pub(super) fn open_on(
        path: &Path,
        at_least: u64,
        on_fatal: OnFatal,
        sync: Sync,
    ) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Open { path: path.to_owned(), source };
        prepare_directory(path)?;
        let db = open_sled(path)?;
        let file = File::open(path.join("db")).map_err(failed)?;
        let (lengths, last_epoch) = check(&db, path)?;
        let (watermark, acknowledged) = Watermark::open(&path.join("watermark")).map_err(failed)?;
        check_nothing_lost(path, acknowledged, lengths.values().sum())?;

        let total = lengths.values().sum();
        let mut store =
            Store { db: db.clone(), file, sync, watermark, lengths, total, grown: Vec::new() };
        let epoch = Epoch::after(last_epoch.as_ref(), at_least);
        store.begin(&epoch).map_err(failed)?;
        sync_directory(path).map_err(failed)?;

        store.grown.clear();
        let lengths = RwLock::new(store.lengths.clone());
        let shared = Arc::new(Shared { path: path.to_owned(), db, lengths });
        let (queue, appends) = mpsc::channel(QUEUE_APPENDS);
        let writer = Writer { store, shared: Arc::clone(&shared), on_fatal };
        let writer = thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(appends))
            .map_err(failed)?;
        Ok(Self { shared, epoch, queue: Some(queue), writer: Some(writer) })
    }
}

impl Journal for SledJournal {
    fn append(
        &self,
        stream: Stream,
        expected: u64,
        records: Vec<Vec<u8>>,
    ) -> BoxFuture<'_, Result<u64, JournalError>> {
        Box::pin(async move {
            check_sizes(&stream, &records)?;
            let queue = self.queue.as_ref().ok_or(JournalError::Stopped)?;
            let (answer, answered) = oneshot::channel();
            let append = Append { stream, expected, records, answer };
            queue.send(append).await.map_err(|_| JournalError::Stopped)?;
            answered.await.map_err(|_| JournalError::Stopped)?
        })
    }

    fn replay(&self, stream: &Stream) -> Result<Vec<Vec<u8>>, JournalError> {
        let length = self.shared.length(stream);
        let range = envelope::first_key(stream, 0)..envelope::first_key(stream, length);
        let mut records = Vec::new();
        let scanned = fenced(|| {
            envelope::scan(self.shared.db.range(range), |_, _, record| records.push(record))
        });
        let place = || Place::Stream { stream: stream.to_string() };
        let path = &self.shared.path;
        match scanned.map_err(|error| damaged(path, place(), error))? {
            Ok(_) if records.len() as u64 == length => Ok(records),
            Ok(_) => {
                let what = format!("{} records are left of {length}", records.len());
                Err(damaged(path, place(), what))
            }
            Err(ScanError::Store(error)) => {
                Err(JournalError::Read { stream: stream.clone(), source: error.into() })
            }
            Err(ScanError::Damage(damage)) => Err(damaged(path, damage.place, damage.what)),
        }
    }

    fn streams(&self, prefix: &str) -> Result<Vec<Stream>, JournalError> {
        let lengths = self.shared.lengths.read().unwrap_or_else(PoisonError::into_inner);
        let public = lengths.keys().filter(|stream| envelope::is_public(stream));
        Ok(public.filter(|stream| stream.as_str().starts_with(prefix)).cloned().collect())
    }

    fn epoch(&self) -> &Epoch {
        &self.epoch
    }
}

impl Drop for SledJournal {
    /// Waits for the appends that are already in the queue, so that the directory is free afterwards.
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the journal's writer panicked");
        }
    }
}

impl fmt::Debug for SledJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledJournal").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// What callers read and the writer publishes.
struct Shared {
    path: PathBuf,
    db: sled::Db,
    /// Durable records per stream.
    lengths: RwLock<BTreeMap<Stream, u64>>,
}

impl Shared {
    fn length(&self, stream: &Stream) -> u64 {
        let lengths = self.lengths.read().unwrap_or_else(PoisonError::into_inner);
        lengths.get(stream).copied().unwrap_or(0)
    }
}

struct Append {
    stream: Stream,
    expected: u64,
    records: Vec<Vec<u8>>,
    answer: oneshot::Sender<Result<u64, JournalError>>,
}

/// The one thread that writes.
struct Writer {
    store: Store,
    shared: Arc<Shared>,
    on_fatal: OnFatal,
}

impl Writer {
    fn run(mut self, mut appends: mpsc::Receiver<Append>) {
        while let Some(first) = appends.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP_APPENDS
                && let Ok(append) = appends.try_recv()
            {
                group.push(append);
            }
            if let Err(error) = self.commit(group) {
                tracing::error!(
                    %error,
                    "the journal cannot make records durable; nothing more is acknowledged"
                );
                return (self.on_fatal)(&error);
            }
        }
        // The next opening must find what was acknowledged even after a power loss.
        if let Err(error) = self.store.watermark.sync() {
            tracing::warn!(%error, "the journal's watermark may be behind");
        }
    }

    fn commit(&mut self, group: Vec<Append>) -> io::Result<()> {
        let mut answers = Vec::with_capacity(group.len());
        for Append { stream, expected, records, answer } in group {
            answers.push((answer, self.store.apply(stream, expected, &records)?));
        }
        self.store.make_durable()?;
        let mut lengths = self.shared.lengths.write().unwrap_or_else(PoisonError::into_inner);
        lengths.extend(self.store.grown.drain(..));
        drop(lengths);
        for (answer, result) in answers {
            // A caller that has gone asked for nothing more.
            drop(answer.send(result));
        }
        Ok(())
    }
}

type Sync = Box<dyn FnMut(&File) -> io::Result<()> + Send>;

/// sled and what stands around it.
struct Store {
    db: sled::Db,
    /// sled's data file, for our own sync.
    file: File,
    sync: Sync,
    watermark: Watermark,
    /// Records per stream, those included that are not durable yet.
    lengths: BTreeMap<Stream, u64>,
    /// Their sum.
    total: u64,
    /// The lengths that changed since they were last published.
    grown: Vec<(Stream, u64)>,
}

impl Store {
    /// Writes an append into sled's log; the answer holds once [`make_durable`](Self::make_durable) has succeeded.
    fn apply(
        &mut self,
        stream: Stream,
        expected: u64,
        records: &[Vec<u8>],
    ) -> io::Result<Result<u64, JournalError>> {
        let actual = self.lengths.get(&stream).copied().unwrap_or(0);
        if actual != expected {
            return Ok(Err(JournalError::Conflict { stream, expected, actual }));
        }
        if records.is_empty() {
            return Ok(Ok(expected));
        }
        let mut batch = sled::Batch::default();
        for (index, record) in (expected..).zip(records) {
            for (key, value) in envelope::encode(&stream, index, record) {
                batch.insert(key, value);
            }
        }
        fenced(|| self.db.apply_batch(batch))??;
        let next = expected + records.len() as u64;
        self.total += records.len() as u64;
        self.grown.push((stream.clone(), next));
        self.lengths.insert(stream, next);
        Ok(Ok(next))
    }

    fn make_durable(&mut self) -> io::Result<()> {
        fenced(|| self.db.flush())??;
        (self.sync)(&self.file)?;
        self.watermark.write(self.total)
    }

    /// Makes `epoch` the journal's last term.
    fn begin(&mut self, epoch: &Epoch) -> io::Result<()> {
        let stream = envelope::epochs();
        let expected = self.lengths.get(&stream).copied().unwrap_or(0);
        let record = serde_json::to_vec(epoch)?;
        match self.apply(stream, expected, &[record])? {
            Ok(_) => self.make_durable()?,
            Err(conflict) => return Err(io::Error::other(conflict)),
        }
        self.watermark.sync()
    }
}

/// Reads and checks every record; answers how many each stream holds, and the last term.
fn check(
    db: &sled::Db,
    path: &Path,
) -> Result<(BTreeMap<Stream, u64>, Option<Epoch>), JournalError> {
    let epochs = envelope::epochs();
    let mut last_epoch = None;
    let scanned = fenced(|| {
        envelope::scan(db.iter(), |stream, _, record| {
            if *stream == epochs {
                last_epoch = Some(record);
            }
        })
    });
    let lengths = match scanned.map_err(|error| damaged(path, Place::Journal, error))? {
        Ok(lengths) => lengths,
        Err(ScanError::Store(error)) => return Err(refused_by_sled(path, error)),
        Err(ScanError::Damage(damage)) => return Err(damaged(path, damage.place, damage.what)),
    };
    let last_epoch =
        match last_epoch {
            Some(record) => Some(serde_json::from_slice(&record).map_err(|error| {
                damaged(path, Place::Stream { stream: epochs.to_string() }, error)
            })?),
            None => None,
        };
    Ok((lengths, last_epoch))
}

fn check_nothing_lost(
    path: &Path,
    acknowledged: Option<u64>,
    held: u64,
) -> Result<(), JournalError> {
    match acknowledged {
        Some(acknowledged) if held >= acknowledged => Ok(()),
        Some(acknowledged) => {
            let what = format!("{acknowledged} records were acknowledged, {held} are left");
            Err(damaged(path, Place::Journal, what))
        }
        None => Err(damaged(path, Place::Journal, "its watermark file is unreadable")),
    }
}

/// Sees that `path` is a journal's directory of a format that we read, or makes it one.
fn prepare_directory(path: &Path) -> Result<(), JournalError> {
    let failed = |source| JournalError::Open { path: path.to_owned(), source };
    let format = |found: &str| JournalError::Format {
        path: path.to_owned(),
        found: found.escape_default().to_string(),
        reads: FORMAT,
    };
    match fs::read(path.join("format")) {
        Ok(bytes) => match String::from_utf8_lossy(&bytes).trim_end() {
            FORMAT => Ok(()),
            other => Err(format(other)),
        },
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        Err(_) if path.join("db").exists() => Err(format("")),
        Err(_) => create_directory(path).map_err(failed),
    }
}

/// The format file comes last: with it, everything else is there.
fn create_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    Watermark::create(&path.join("watermark"))?;
    let unfinished = path.join("format.new");
    let mut file = File::create(&unfinished)?;
    writeln!(file, "{FORMAT}")?;
    file.sync_all()?;
    fs::rename(unfinished, path.join("format"))?;
    sync_directory(path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        Some(_) | None => sync_directory(Path::new(".")),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn open_sled(path: &Path) -> Result<sled::Db, JournalError> {
    let failed = |source| JournalError::Open { path: path.to_owned(), source };
    // What a killed process left in the page cache becomes durable before sled writes anything that builds on it.
    match File::open(path.join("db")) {
        Ok(file) => file.sync_data().map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .segment_size(SEGMENT_BYTES)
        // Only the writer decides when to flush.
        .flush_every_ms(None);
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        match fenced(|| config.open()).map_err(|error| damaged(path, Place::Journal, error))? {
            Ok(db) => return Ok(db),
            Err(error) if !is_locked(&error) => return Err(refused_by_sled(path, error)),
            Err(_) if Instant::now() < give_up => thread::sleep(LOCK_RETRY),
            Err(_) => return Err(JournalError::Locked { path: path.to_owned() }),
        }
    }
}

/// sled gives the lock's failure no kind of its own.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

fn refused_by_sled(path: &Path, error: sled::Error) -> JournalError {
    match error {
        sled::Error::Io(source)
            if !matches!(
                source.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            JournalError::Open { path: path.to_owned(), source }
        }
        error @ (sled::Error::Io(_)
        | sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. }) => damaged(path, Place::Journal, error),
    }
}

fn damaged(path: &Path, place: Place, what: impl fmt::Display) -> JournalError {
    JournalError::Damaged { path: PathBuf::from(path), place, what: what.to_string() }
}

/// Runs a call into sled; its panic is an error like any other.
fn fenced<T>(call: impl FnOnce() -> T) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason");
        io::Error::new(io::ErrorKind::InvalidData, format!("the store gave up: {said}"))
    })
}

/// After a failed sync the kernel may have dropped the pages and would report the next one as done.
pub(super) fn abort(_: &io::Error) {
    std::process::abort();
}
