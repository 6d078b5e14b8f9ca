//! Where words go: stdout for data, stderr for talk, each with or without colour.
//!
//! ```text
//! data, document, event ─▶ stdout      text: what was asked for; json: one document; jsonl: one object per line
//! talk, ask, redraw ─────▶ stderr      everything else
//! ```
//!
//! Invariant: with `-o json` stdout holds one document and nothing else; with `-o jsonl` its first line is the version.
//! Invariant: a reader that went away (`ctl releases | head`) is no error.

use std::{
    io::{self, BufRead, IsTerminal as _, Write},
    sync::{Arc, Mutex},
};

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use clap::ValueEnum;
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{error::CtlError, render::View};

/// The version of what `-o json` and `-o jsonl` print. Names are added, never changed.
pub const SCHEMA: &str = "1.0";
/// What text is wrapped to where there is no terminal.
const WIDTH_DEFAULT: usize = 80;
/// Wider lines are harder to read.
const WIDTH_MAX: usize = 120;
/// In a narrower window rows would wrap, and could not be drawn in place.
const WIDTH_MIN: usize = 60;

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One document.
    Json,
    /// A stream of objects, one per line; the first is the version.
    Jsonl,
}

/// Something that `-o json` prints.
pub trait Document: Serialize {
    /// Its `type` in a stream.
    const TYPE: &'static str;

    /// Its lines in a stream; a list gives one per element.
    fn lines(&self) -> Vec<Value> {
        vec![typed(Self::TYPE, self)]
    }
}

/// `value` as a line of a stream.
pub fn typed<T: Serialize + ?Sized>(kind: &str, value: &T) -> Value {
    let mut line = json!({ "type": kind });
    let value = serde_json::to_value(value).expect("views have text keys and finite numbers");
    if let (Some(line), Value::Object(fields)) = (line.as_object_mut(), value) {
        line.extend(fields);
    }
    line
}

/// How talkative, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    pub format: Format,
    pub quiet: bool,
    pub verbose: bool,
    pub no_color: bool,
    pub no_input: bool,
}

/// Both streams, and the terminal's keyboard where there is one.
pub struct Out {
    manner: Manner,
    stdout: Stream,
    stderr: Stream,
    /// Lines on stderr can be drawn again in place.
    redraws: bool,
    width: usize,
    input: Option<Box<dyn BufRead + Send>>,
    versioned: bool,
    zone: TimeZone,
    now: fn() -> Timestamp,
}

struct Stream {
    write: Box<dyn Write + Send>,
    color: bool,
}

impl Stream {
    fn put(&mut self, text: &str) -> io::Result<()> {
        let text = if self.color { text.to_owned() } else { strip_str(text).to_string() };
        match self.write.write_all(text.as_bytes()).and_then(|()| self.write.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

impl Out {
    /// The process's own streams.
    pub fn process(manner: Manner) -> Self {
        let color = |choice| !manner.no_color && choice != ColorChoice::Never;
        let terminal = io::stderr().is_terminal();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let asks = terminal && io::stdin().is_terminal() && !manner.no_input;
        Self {
            manner,
            stdout: Stream {
                write: Box::new(io::stdout()),
                color: color(AutoStream::choice(&io::stdout())),
            },
            stderr: Stream {
                write: Box::new(io::stderr()),
                color: color(AutoStream::choice(&io::stderr())),
            },
            redraws: terminal && !dumb && terminal_width().is_some_and(|width| width >= WIDTH_MIN),
            width: WIDTH_DEFAULT,
            input: asks.then(|| Box::new(io::BufReader::new(io::stdin())) as Box<_>),
            versioned: false,
            zone: TimeZone::system(),
            now: Timestamp::now,
        }
    }

    /// Streams into memory, without a terminal, in UTC.
    pub fn captured(manner: Manner) -> (Self, Captured) {
        let captured = Captured::default();
        let stream = |buffer: &Buffer| Stream { write: Box::new(buffer.clone()), color: false };
        let out = Self {
            manner,
            stdout: stream(&captured.stdout),
            stderr: stream(&captured.stderr),
            redraws: false,
            width: WIDTH_DEFAULT,
            input: None,
            versioned: false,
            zone: TimeZone::UTC,
            now: Timestamp::now,
        };
        (out, captured)
    }

    /// The same with somebody at the keyboard.
    #[must_use]
    pub fn with_input(mut self, input: impl BufRead + Send + 'static) -> Self {
        self.input = Some(Box::new(input));
        self
    }

    /// The same on a terminal whose rows can be drawn again.
    #[cfg(test)]
    pub(crate) const fn with_redraws(mut self) -> Self {
        self.redraws = true;
        self
    }

    /// What views need to know of here and now.
    pub fn view(&self) -> View {
        // A window may be resized while rows are drawn in it.
        let width = if self.redraws { terminal_width() } else { None }.unwrap_or(self.width);
        let width = width.clamp(WIDTH_MIN, WIDTH_MAX);
        View { now: (self.now)(), zone: self.zone.clone(), width }
    }

    pub const fn format(&self) -> Format {
        self.manner.format
    }

    pub const fn is_verbose(&self) -> bool {
        self.manner.verbose
    }

    /// Whether rows on stderr can be drawn in place.
    pub const fn redraws(&self) -> bool {
        self.redraws && !self.manner.quiet
    }

    /// What was asked for, for people or for programs as the format says.
    ///
    /// # Errors
    /// [`CtlError::Output`].
    pub fn show<D: Document>(
        &mut self,
        text: impl FnOnce(&View) -> String,
        document: impl FnOnce() -> D,
    ) -> Result<(), CtlError> {
        match self.manner.format {
            Format::Text => {
                let text = text(&self.view());
                self.data(&text)
            }
            Format::Json => {
                let mut line = serde_json::to_value(document())
                    .expect("views have text keys and finite numbers");
                if let Some(fields) = line.as_object_mut() {
                    fields.insert("schema".to_owned(), SCHEMA.into());
                }
                self.data(&format!("{line:#}\n"))
            }
            Format::Jsonl => document().lines().iter().try_for_each(|line| self.line(line)),
        }
    }

    /// One object of a stream; printed with `-o jsonl` only.
    ///
    /// # Errors
    /// [`CtlError::Output`].
    pub fn event(&mut self, event: impl FnOnce() -> Value) -> Result<(), CtlError> {
        match self.manner.format {
            Format::Jsonl => self.line(&event()),
            Format::Text | Format::Json => Ok(()),
        }
    }

    /// Text or bytes of a file, as they are.
    ///
    /// # Errors
    /// [`CtlError::Output`].
    pub fn data(&mut self, text: &str) -> Result<(), CtlError> {
        self.stdout.put(text).map_err(CtlError::Output)
    }

    /// A word to the person, unless they want quiet. Where stderr cannot be written there is nobody to tell.
    pub fn talk(&mut self, text: &str) {
        if !self.manner.quiet && !text.is_empty() {
            self.insist(text);
        }
    }

    /// A word to the person even if they want quiet: errors and questions.
    pub fn insist(&mut self, text: &str) {
        let ended = if text.ends_with('\n') { "" } else { "\n" };
        self.stderr.put(&format!("{text}{ended}")).ok();
    }

    /// Takes back the last `rows` lines on the terminal and puts `text` in their place. Cursor movements are sent even
    /// where colours are not wanted.
    pub fn redraw(&mut self, rows: usize, text: &str) {
        let text = if self.stderr.color { text.to_owned() } else { strip_str(text).to_string() };
        let up = if rows == 0 { String::new() } else { format!("\x1b[{rows}A\r\x1b[J") };
        let write = &mut self.stderr.write;
        write.write_all(format!("{up}{text}").as_bytes()).and_then(|()| write.flush()).ok();
    }

    /// Asks; `None` where there is nobody to ask.
    pub fn ask(&mut self, question: &str) -> Option<String> {
        let mut input = self.input.take()?;
        self.stderr.put(question).ok();
        let mut answer = String::new();
        let read = input.read_line(&mut answer);
        self.input = Some(input);
        // An end of input is an answer too: it confirms nothing.
        Some(if read.is_ok() { answer.trim().to_owned() } else { String::new() })
    }

    /// Whether there is somebody to ask.
    pub const fn can_ask(&self) -> bool {
        self.input.is_some()
    }

    fn line(&mut self, line: &Value) -> Result<(), CtlError> {
        if !self.versioned {
            self.versioned = true;
            self.data(&format!("{}\n", json!({ "type": "version", "schema": SCHEMA })))?;
        }
        self.data(&format!("{line}\n"))
    }
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Out").field("manner", &self.manner).finish_non_exhaustive()
    }
}

/// What was written by [`Out::captured`].
#[derive(Clone, Debug, Default)]
pub struct Captured {
    stdout: Buffer,
    stderr: Buffer,
}

impl Captured {
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub fn stderr(&self) -> String {
        self.stderr.text()
    }
}

#[derive(Clone, Debug, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok()?;
    (size.ws_col > 0).then(|| usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Row {
        host: &'static str,
    }

    impl Document for Row {
        const TYPE: &'static str = "row";
    }

    fn printed(format: Format) -> String {
        let (mut out, captured) = Out::captured(Manner { format, ..Manner::default() });
        out.talk("talk");
        out.show(|_| "text\n".to_owned(), || Row { host: "a" }).unwrap();
        out.event(|| typed("row", &Row { host: "b" })).unwrap();
        assert_eq!(captured.stderr(), "talk\n");
        captured.stdout()
    }

    #[test]
    fn each_format_prints_its_own_and_nothing_else() {
        assert_eq!(printed(Format::Text), "text\n");
        let document: Value = serde_json::from_str(&printed(Format::Json)).unwrap();
        assert_eq!(document, json!({ "host": "a", "schema": "1.0" }));
        let stream = "{\"schema\":\"1.0\",\"type\":\"version\"}\n{\"host\":\"a\",\"type\":\"row\"}\n{\"host\":\"b\",\"type\":\"row\"}\n";
        assert_eq!(printed(Format::Jsonl), stream);
    }

    #[test]
    fn quiet_silences_talk_but_not_errors() {
        let (mut out, captured) = Out::captured(Manner { quiet: true, ..Manner::default() });
        out.talk("talk");
        out.insist("error");
        assert_eq!(captured.stderr(), "error\n");
    }
}
