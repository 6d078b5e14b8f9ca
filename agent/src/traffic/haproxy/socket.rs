//! HAProxy's runtime socket: a line there, its answer until the end.
//!
//! Invariant: an answer is whole and bounded, or it is none.

use std::path::{Path, PathBuf};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::{Instant, timeout_at},
};

use crate::http::words;

/// Thousands of servers with a line each.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Where HAProxy listens.
#[derive(Clone, Debug)]
pub(super) struct Socket(PathBuf);

impl Socket {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(super) fn shown(&self) -> String {
        self.0.display().to_string()
    }

    /// Asks one line; several commands stand between `;`.
    pub(super) async fn ask(&self, line: &str, deadline: Instant) -> Result<String, String> {
        let shown = self.shown();
        let asking = async {
            let mut stream = UnixStream::connect(&self.0).await?;
            stream.write_all(format!("{line}\n").as_bytes()).await?;
            let mut answer = Vec::new();
            stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = match timeout_at(deadline, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                let why = words(&error);
                return Err(format!(
                    "HAProxy does not answer on {shown}: {why}; mend: see that it runs, and has `stats socket {shown} level \
                     admin`"
                ));
            }
            Err(_) => return Err(format!("HAProxy did not answer on {shown} in time")),
        };
        let whole = u64::try_from(answer.len()).is_ok_and(|length| length < ANSWER_BYTES_MAX);
        let text = String::from_utf8(answer).ok().filter(|_| whole);
        let text = text.ok_or_else(|| format!("what answers on {shown} is no HAProxy"))?;
        if text.trim_start().starts_with("Permission denied") {
            return Err(format!(
                "{shown} is not of level admin; mend: `stats socket {shown} level admin`"
            ));
        }
        Ok(text)
    }
}
