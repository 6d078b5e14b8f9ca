//! The watcher at the terminal: rows in place, a line per event, or a stream of objects.
//!
//! ```text
//! events ─▶ Progress ─┬─ a terminal   rows on stderr, drawn again in place
//!                     ├─ none         lines on stderr, a heartbeat where nothing happens
//!                     └─ -o jsonl     objects on stdout
//! ```
//!
//! Invariant: whatever is drawn in place is gone when the watching ends; what stays was printed as a line.

use std::time::{Duration, Instant};

use proto::v1;

use crate::{
    error::CtlError,
    follow::Watcher,
    out::{Format, Out},
    render::{
        json,
        progress::Progress,
        watch::{self, Link},
    },
};

/// Without a terminal, silence is never longer than this: CI systems kill what is silent.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Shows an operation as it goes on.
pub struct Live<'a> {
    out: &'a mut Out,
    observe: &'a mut (dyn FnMut(&v1::WatchOperationResponse) + Send),
    operation: String,
    /// Events below this index are known already: they are counted, not said.
    said_until: u64,
    progress: Option<Progress>,
    link: Link,
    /// Rows that stand on the terminal.
    drawn: usize,
    ticks: usize,
    last_said: Instant,
    failed: Option<CtlError>,
}

impl<'a> Live<'a> {
    pub fn new(
        out: &'a mut Out,
        operation: &str,
        said_until: u64,
        observe: &'a mut (dyn FnMut(&v1::WatchOperationResponse) + Send),
    ) -> Self {
        Self {
            out,
            observe,
            operation: operation.to_owned(),
            said_until,
            progress: None,
            link: Link::Up,
            drawn: 0,
            ticks: 0,
            last_said: Instant::now(),
            failed: None,
        }
    }

    /// Takes the rows off the terminal.
    ///
    /// # Errors
    /// [`CtlError::Output`] where the stream could not be written.
    pub fn end(mut self) -> Result<(), CtlError> {
        self.erase();
        self.failed.take().map_or(Ok(()), Err)
    }

    fn streams(&self) -> bool {
        self.out.format() == Format::Jsonl
    }

    fn say(&mut self, text: &str) {
        if !self.streams() {
            self.out.talk(text);
        }
        self.last_said = Instant::now();
    }

    fn draw(&mut self) {
        if !self.out.redraws() || self.streams() {
            return;
        }
        let Some(progress) = &self.progress else { return };
        let rows = watch::rows(&self.out.view(), progress, &self.link, self.ticks);
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        self.out.redraw(self.drawn, &text);
        self.drawn = rows.len();
    }

    fn erase(&mut self) {
        if self.drawn > 0 {
            self.out.redraw(self.drawn, "");
            self.drawn = 0;
        }
    }

    fn emit(&mut self, line: impl FnOnce() -> serde_json::Value) {
        if let Err(error) = self.out.event(line) {
            self.failed.get_or_insert(error);
        }
    }

    fn link(&mut self, lost: Option<&str>) {
        let now = self.out.view().now;
        self.link = match lost {
            Some(_) => Link::Lost { since_unix_ms: now.as_millisecond() },
            None => Link::Up,
        };
        let operation = self.operation.clone();
        self.emit(|| json::connection(&operation, lost, now));
        // On a terminal this line stays, above the rows: it is part of what happened.
        self.erase();
        let text = watch::link_line(&self.out.view(), &operation, lost);
        self.say(&text);
        self.draw();
    }
}

impl std::fmt::Debug for Live<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("operation", &self.operation).finish_non_exhaustive()
    }
}

impl Watcher for Live<'_> {
    fn opened(&mut self, operation: &v1::Operation) {
        let progress = Progress::new(operation);
        let header = watch::header(&self.out.view(), &progress);
        self.progress = Some(progress);
        self.say(&header);
        self.draw();
    }

    fn event(&mut self, event: &v1::WatchOperationResponse) {
        (self.observe)(event);
        let Some(progress) = &mut self.progress else { return };
        progress.apply(event);
        if event.index < self.said_until {
            return;
        }
        let operation = self.operation.clone();
        self.emit(|| json::event(&operation, event));
        if self.out.redraws() {
            return;
        }
        let (view, verbose) = (self.out.view(), self.out.is_verbose());
        let line = self
            .progress
            .as_ref()
            .and_then(|progress| watch::line(&view, progress, event, verbose));
        if let Some(line) = line {
            self.say(&line);
        }
    }

    fn lost(&mut self, why: &str) {
        self.link(Some(why));
    }

    fn back(&mut self) {
        self.link(None);
    }

    fn tick(&mut self) {
        self.ticks += 1;
        if self.out.redraws() {
            self.draw();
        } else if self.last_said.elapsed() >= HEARTBEAT
            && let Some(progress) = &self.progress
        {
            let text = watch::heartbeat(&self.out.view(), progress);
            self.say(&text);
        }
    }
}
