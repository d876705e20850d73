//! Tables for eyes: columns aligned, two blanks between them, no lines.

use anstyle::Style;
use std::io::{self, Write};

const HEADING: Style = Style::new().bold();

/// One field.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    style: Style,
}

/// Rows under headings.
#[derive(Debug)]
pub struct Table<const COLUMNS: usize> {
    columns: [Column; COLUMNS],
    rows: Vec<[Cell; COLUMNS]>,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    name: &'static str,
    right: bool,
    width: usize,
    shown: bool,
}

impl Cell {
    /// In a style, where colours are wanted.
    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::new())
    }
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// No rows yet. A column whose name starts with `>` is aligned right.
    pub fn new(names: [&'static str; COLUMNS]) -> Self {
        let columns = names.map(|name| match name.strip_prefix('>') {
            Some(name) => Column { name, right: true, width: name.len(), shown: true },
            None => Column { name, right: false, width: name.len(), shown: true },
        });
        Self { columns, rows: Vec::new() }
    }

    /// Leaves out columns that can be spared, the first ones first, until a line has no more than `width` characters.
    pub fn fit(&mut self, width: Option<usize>, spared: &[&str]) {
        let Some(width) = width else { return };
        for name in spared {
            let shown = self.columns.iter().filter(|column| column.shown);
            if shown.map(|column| column.width + 2).sum::<usize>() <= width + 2 {
                return;
            }
            self.leave_out(name);
        }
    }

    /// Leaves out a column.
    pub fn leave_out(&mut self, name: &str) {
        self.columns.iter_mut().filter(|column| column.name == name).for_each(|column| column.shown = false);
    }

    /// One more row.
    pub fn row(&mut self, cells: [Cell; COLUMNS]) {
        for (column, cell) in self.columns.iter_mut().zip(&cells) {
            column.width = column.width.max(cell.width());
        }
        self.rows.push(cells);
    }

    /// All of it, one line a row.
    pub fn write(&self, colours: bool, out: &mut dyn Write) -> io::Result<()> {
        self.write_row(&self.columns.map(|column| Cell::styled(column.name, HEADING)), colours, out)?;
        self.rows.iter().try_for_each(|row| self.write_row(row, colours, out))
    }

    fn write_row(&self, cells: &[Cell; COLUMNS], colours: bool, out: &mut dyn Write) -> io::Result<()> {
        // Blanks are written before the next text, so that no line ends with them.
        let mut blanks = 0;
        for (column, cell) in self.columns.iter().zip(cells).filter(|(column, _)| column.shown) {
            let padding = column.width.saturating_sub(cell.width());
            let (before, behind) = if column.right { (padding, 0) } else { (0, padding) };
            blanks += before;
            if !cell.text.is_empty() {
                let style = if colours { cell.style } else { Style::new() };
                write!(out, "{:blanks$}{style}{}{style:#}", "", cell.text)?;
                blanks = 0;
            }
            blanks += behind + 2;
        }
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["NAME", ">USE", "WHY"]);
        table.row(["ä".into(), "12.4 k".into(), "because".into()]);
        table.row([Cell::styled("longer", HEADING), "7".into(), "".into()]);
        let written = |colours| {
            let mut text = Vec::new();
            table.write(colours, &mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        assert_eq!(written(false), "NAME       USE  WHY\nä       12.4 k  because\nlonger       7\n");
        assert!(written(true).contains("\u{1b}[1mlonger\u{1b}[0m       7\n"));
    }

    #[test]
    fn a_narrow_screen_has_fewer_columns_and_no_longer_lines() {
        let width = |most: usize| {
            let mut table = Table::new(["NAME", ">USE", "WHY"]);
            table.row(["longer".into(), "7".into(), "because".into()]);
            table.fit(Some(most), &["USE", "WHY"]);
            let mut text = Vec::new();
            table.write(false, &mut text).unwrap();
            String::from_utf8(text).unwrap().lines().map(str::len).max().unwrap()
        };
        assert_eq!([20, 19, 15, 14, 3].map(width), [20, 15, 15, 6, 6]);
    }
}
