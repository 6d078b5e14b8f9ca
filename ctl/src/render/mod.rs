//! Pure views: what came over the wire in, text for people or documents for programs out.
//!
//! ```text
//! v1::* ─┬─▶ plan, prune, progress ─▶ watch, summary, lists ─▶ text (styled; whoever prints it strips what is not wanted)
//!        └─▶ json ─▶ documents
//! ```
//!
//! Invariant: no clock and no terminal in here: now, zone and width come in a [`View`].
//! Invariant: words of hosts and coordinators are printed without control characters.

pub mod canary;
pub mod difference;
pub mod doctor;
pub mod failure;
mod gauges;
pub mod json;
pub mod lists;
pub mod plan;
pub mod progress;
pub mod prune;
pub mod status;
pub mod summary;
pub mod table;
mod traffic;
pub mod triggers;
pub mod watch;
pub mod words;

use anstyle::{AnsiColor, Style};
use jiff::{Timestamp, tz::TimeZone};

pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const BOLD: Style = Style::new().bold();

/// How wide a label of [`field`] is, its blanks included.
const LABEL_WIDTH: usize = 18;

/// What a view needs to know of here and now.
#[derive(Clone, Debug)]
pub struct View {
    pub now: Timestamp,
    pub zone: TimeZone,
    /// Columns of text.
    pub width: usize,
}

/// `text` in a style.
pub(crate) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// A line with a warning's mark before it.
pub fn paint_warning(text: &str) -> String {
    format!("{} {}\n", paint(WARN, "!"), words::clean(text))
}

/// A label and its text, wrapped under itself; nothing where the text is empty.
pub(crate) fn field(view: &View, label: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { labelled(view, label, LABEL_WIDTH, text) }
}

/// As [`field`], with the label in `label_width` columns.
pub(crate) fn labelled(view: &View, label: &str, label_width: usize, text: &str) -> String {
    let room = view.width.saturating_sub(label_width + 2).max(20);
    let mut lines = String::new();
    for (index, line) in wrap(text, room).iter().enumerate() {
        let label = if index == 0 { label } else { "" };
        lines += &format!("  {label:<label_width$}{line}\n");
    }
    lines
}

/// `left`, and `right` at the right edge of the text; on a line of its own where both do not fit.
pub(crate) fn edge(view: &View, left: &str, right: &str) -> String {
    let (taken, needed) = (visible(left), visible(right));
    if taken + needed + 2 > view.width {
        return format!("{left}\n  {right}\n");
    }
    format!("{left}{}{right}\n", " ".repeat(view.width - taken - needed))
}

/// Columns that a text takes, its styles aside.
pub(crate) fn visible(text: &str) -> usize {
    anstream::adapter::strip_str(text).to_string().chars().count()
}

/// Lines of at most `room` columns, broken at blanks; a longer word stays whole, for it may be a path to copy.
pub(crate) fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && visible(&line) + 1 + visible(word) > room {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += word;
        }
        lines.push(line);
    }
    lines
}

/// The beginning of a text, with a mark where something is missing.
pub(crate) fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let kept: String = text.chars().take(room.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// 80 columns, UTC, on 2026-11-22 at 03:13:00.
    pub(crate) fn view() -> View {
        View { now: "2026-11-22T03:13:00Z".parse().unwrap(), zone: TimeZone::UTC, width: 80 }
    }

    /// A text as it looks without colour; fails where a line is too wide.
    pub(crate) fn plain(text: &str) -> String {
        let text = anstream::adapter::strip_str(text).to_string();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "too wide: {line}");
            assert_eq!(line, line.trim_end(), "blanks at the end");
        }
        text
    }

    #[test]
    fn text_is_wrapped_under_its_label_and_long_words_stay_whole() {
        let long = "x".repeat(70);
        let text = field(&view(), "Why", &format!("one two {long} three\nfour"));
        assert_eq!(
            text.lines().map(str::trim).collect::<Vec<_>>(),
            ["Why               one two", &long, "three", "four"]
        );
        assert_eq!(field(&view(), "Why", ""), "");
    }
}
