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
        let stays = watch::stays(progress, event);
        if event.index < self.said_until {
            return;
        }
        let operation = self.operation.clone();
        if self.streams()
            && let Some(line) = self
                .progress
                .as_ref()
                .map(|progress| json::event(&operation, &progress.plan, event))
        {
            self.emit(|| line);
        }
        if self.out.redraws() && !stays {
            return;
        }
        let (view, verbose) = (self.out.view(), self.out.is_verbose());
        let line = self
            .progress
            .as_ref()
            .and_then(|progress| watch::line(&view, progress, event, verbose));
        if let Some(line) = line {
            let line = if self.out.redraws() { watch::wrapped(&view, &line) } else { line };
            self.erase();
            self.say(&line);
            self.draw();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{out::Manner, render::watch::tests as example};

    /// What stands on a terminal after `text` was written to it: enough of one for [`Out::redraw`].
    fn screen(text: &str) -> Vec<String> {
        let mut lines = vec![String::new()];
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(sequence) = rest.strip_prefix("\x1b[") {
                let end = sequence.find(|c: char| c.is_ascii_alphabetic()).unwrap();
                match &sequence[end..=end] {
                    "A" => {
                        let up: usize = sequence[..end].parse().unwrap();
                        assert!(up < lines.len(), "above the first line");
                        lines.truncate(lines.len() - up);
                    }
                    "J" => lines.last_mut().unwrap().clear(),
                    other => panic!("{other}"),
                }
                rest = &sequence[end + 1..];
            } else {
                let letter = rest.chars().next().unwrap();
                match letter {
                    '\n' => lines.push(String::new()),
                    '\r' => {}
                    letter => lines.last_mut().unwrap().push(letter),
                }
                rest = &rest[letter.len_utf8()..];
            }
        }
        lines
    }

    #[test]
    fn rows_are_drawn_in_place_and_gone_at_the_end() {
        let (out, captured) = Out::captured(Manner::default());
        let mut out = out.with_redraws();
        let mut observe = |_: &v1::WatchOperationResponse| {};
        let mut live = Live::new(&mut out, "rb-0193", 0, &mut observe);
        live.opened(&example::operation());
        for event in example::events() {
            live.event(&event);
            live.tick();
            let shown = screen(&captured.stderr());
            assert!(shown.len() <= 1 + watch::ROWS_MAX + 1, "{shown:#?}");
            assert_eq!(shown.iter().filter(|line| line.contains(" steps, stage ")).count(), 1);
        }
        live.lost("the connection was lost");
        live.back();
        assert!(screen(&captured.stderr()).iter().any(|line| line.contains("crm-b2   unknown")));
        live.end().unwrap();
        let left = screen(&captured.stderr());
        let words = ["rb-0193  prod/ace-crm", "the connection was lost", "connected again", ""];
        assert_eq!(left.len(), words.len(), "{left:#?}");
        for (line, words) in left.iter().zip(words) {
            assert!(line.contains(words), "{left:#?}");
        }
    }

    #[test]
    fn that_users_are_safe_stays_on_the_terminal() {
        let (out, captured) = Out::captured(Manner::default());
        let mut out = out.with_redraws();
        let mut observe = |_: &v1::WatchOperationResponse| {};
        let mut live = Live::new(&mut out, "rb-0193", 0, &mut observe);
        live.opened(&example::traffic_operation());
        for event in example::traffic_events() {
            live.event(&event);
            live.tick();
        }
        let shown = screen(&captured.stderr());
        assert!(shown.iter().any(|line| line.contains("lb-1     drain")), "{shown:#?}");
        live.end().unwrap();
        let left = screen(&captured.stderr());
        assert_eq!(left.len(), 3, "{left:#?}");
        assert!(left[1].contains("mitigated after 2.1s: users are on v1.4.2"), "{left:#?}");
    }
}
