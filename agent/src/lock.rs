//! Locks on files that one process may have open at a time.

use std::{
    fs::{File, TryLockError},
    io,
    time::{Duration, Instant},
};

/// How long a lock is waited for. A process that was killed between fork and exec of a child leaves it to that child for
/// a moment; another agent keeps it for good.
const WAIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

/// Takes the lock. False, where another process keeps it.
pub(crate) fn take(file: &File) -> io::Result<bool> {
    let deadline = Instant::now() + WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}
