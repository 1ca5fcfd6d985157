//! Tables for people: columns as wide as their widest cell, two blanks between, no trailing ones. On a terminal
//! the widest columns are cut so that a row is a line.

/// Rows of text under a header.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    /// Widest row that is wanted, characters.
    limit: Option<usize>,
}

/// Blanks between columns.
const GAP: usize = 2;
/// No column is cut below this: what is left would say nothing.
const COLUMN_MIN: usize = 8;
/// Stands for what was cut.
const ELLIPSIS: char = '\u{2026}';

impl Table {
    pub fn new<const N: usize>(header: [&str; N]) -> Self {
        Self { rows: vec![header.map(str::to_owned).to_vec()], limit: None }
    }

    /// Adds a row; an empty cell shows as `-`.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        let shown = |cell: String| if cell.is_empty() { "-".to_owned() } else { printable(&cell) };
        self.rows.push(cells.map(shown).to_vec());
    }

    /// Cuts the widest cells so that a row takes `columns` characters at most, as far as that can be.
    pub fn cut_to(&mut self, columns: usize) {
        self.limit = Some(columns);
    }

    /// The widths of the columns: as wide as needed, or the same width for all that are too wide.
    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let mut widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let Some(limit) = self.limit else { return widths };
        let mut over = (widths.iter().sum::<usize>() + GAP * columns.saturating_sub(1)).saturating_sub(limit);
        while over > 0 {
            let widest = widths.iter().copied().max().unwrap_or(0);
            if widest <= COLUMN_MIN {
                break;
            }
            let next = widths.iter().copied().filter(|width| *width < widest).max().unwrap_or(0);
            let equal = widths.iter().filter(|width| **width == widest).count();
            // All of the widest by the same, no further than to the next one.
            let cut = (widest - next.max(COLUMN_MIN)).min(over.div_ceil(equal));
            widths.iter_mut().filter(|width| **width == widest).for_each(|width| *width -= cut);
            over = over.saturating_sub(cut * equal);
        }
        widths
    }

    /// Whether there is nothing but the header.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }
}

/// Text of others (labels, paths) must not write to the terminal what it likes.
pub fn printable(text: &str) -> String {
    let safe = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(safe).collect()
}

/// At most `width` characters of a cell.
fn cut(cell: &str, width: usize) -> std::borrow::Cow<'_, str> {
    if cell.chars().count() <= width {
        return cell.into();
    }
    let mut shown: String = cell.chars().take(width.saturating_sub(1)).collect();
    shown.push(ELLIPSIS);
    shown.into()
}

/// Columns of the terminal that standard output is: what COLUMNS says, or the terminal itself. `None`: no
/// terminal, so a program reads it and wants everything.
pub fn terminal_columns() -> Option<usize> {
    if !std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        return None;
    }
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    said.or_else(|| Some(terminal_size::terminal_size()?.0.0.into())).filter(|columns| *columns > 0)
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let widths = self.widths();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{:width$}", cut(cell, *width)));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
