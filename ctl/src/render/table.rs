//! Tables: columns as wide as they need, the widest cut first where there is no room, the last one wrapped.
//!
//! Invariant: no line is wider than the view; no line ends in blanks.

use anstyle::Style;

use super::{DIM, View, cut, paint, wrap};

/// Columns are never cut below this.
const COLUMN_MIN: usize = 6;
/// The last column, which wraps, keeps at least this.
const LAST_MIN: usize = 16;
const INDENT: usize = 2;
const GAP: usize = 2;

/// Rows under a head.
#[derive(Clone, Debug)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// A text, perhaps styled.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    style: Style,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, style: Style::new() }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// A text in a style.
pub fn styled(style: Style, text: impl Into<String>) -> Cell {
    Cell { text: text.into(), style }
}

impl Table {
    pub fn new<const COLUMNS: usize>(head: [&'static str; COLUMNS]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub fn row<const COLUMNS: usize>(&mut self, cells: [Cell; COLUMNS]) {
        self.rows.push(cells.to_vec());
    }

    /// The lines; nothing where there is no row.
    pub fn render(&self, view: &View) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        if let Some(empty) = self.empty() {
            return self.without(empty).render(view);
        }
        let widths = self.widths(view.width.saturating_sub(INDENT));
        let head = self.head.iter().map(|text| styled(DIM, *text)).collect::<Vec<_>>();
        let mut text = String::new();
        for row in std::iter::once(&head).chain(&self.rows) {
            text += &lines(row, &widths);
        }
        text
    }

    /// A column without a head and without a text.
    fn empty(&self) -> Option<usize> {
        let empty = |column: &usize| {
            self.head[*column].is_empty()
                && self.rows.iter().all(|row| row[*column].text.is_empty())
        };
        (0..self.head.len()).find(empty)
    }

    fn without(&self, column: usize) -> Self {
        let mut table = self.clone();
        table.head.remove(column);
        for row in &mut table.rows {
            row.remove(column);
        }
        table
    }

    /// As wide as the longest cell; where that is too much, the widest is taken from, until it fits.
    fn widths(&self, room: usize) -> Vec<usize> {
        let longest = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].text.chars().count());
            cells.chain([self.head[column].chars().count()]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.head.len()).map(longest).collect();
        let last = widths.len() - 1;
        let gaps = last * GAP;
        while widths.iter().sum::<usize>() + gaps > room {
            // The last column gives first: what it loses goes to its next line.
            let column = if widths[last] > LAST_MIN {
                last
            } else {
                (0..last).max_by_key(|column| widths[*column]).unwrap_or(last)
            };
            if widths[column] <= COLUMN_MIN {
                break;
            }
            widths[column] -= 1;
        }
        widths
    }
}

fn lines(row: &[Cell], widths: &[usize]) -> String {
    let last = row.len() - 1;
    let mut rest = wrap(&row[last].text, widths[last]);
    // A word that is longer than the column is cut: here are names, not commands.
    for line in &mut rest {
        *line = cut(line, widths[last].max(1));
    }
    let mut first = " ".repeat(INDENT);
    for (cell, width) in row[..last].iter().zip(widths) {
        let text = cut(&cell.text, *width);
        let blanks = " ".repeat(width.saturating_sub(text.chars().count()) + GAP);
        first += &format!("{}{blanks}", paint(cell.style, &text));
    }
    let under = " ".repeat(INDENT + widths[..last].iter().map(|width| width + GAP).sum::<usize>());
    let style = row[last].style;
    let mut text = String::new();
    match rest.split_first() {
        None => text += &format!("{}\n", trimmed(&first)),
        Some((start, more)) => {
            text += &format!("{first}{}\n", paint(style, start));
            for line in more {
                text += &format!("{under}{}\n", paint(style, line));
            }
        }
    }
    text
}

/// Without the blanks at the end, which stand after the last style's end.
fn trimmed(line: &str) -> &str {
    line.trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tests::{plain, view};

    #[test]
    fn what_is_too_wide_is_cut_and_the_last_column_wraps() {
        let mut table = Table::new(["HOST", "LIVE", "NOTE"]);
        table.row(["crm-b1".into(), "v1".into(), "".into()]);
        let long = "policy on the host is not the one of the fleet file; check login: 503 Service Unavailable";
        table.row([
            "a-very-long-host-name.europe-west1.example.com".into(),
            "v1".into(),
            long.into(),
        ]);
        insta::assert_snapshot!(plain(&table.render(&view())));
    }

    #[test]
    fn no_row_no_head() {
        assert_eq!(Table::new(["HOST"]).render(&view()), "");
    }
}
