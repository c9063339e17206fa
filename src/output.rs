//! What a command answers with, on the standard output stream: a table for people or one JSON value for programs.

use std::io::{self, Write as _};

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde::Serialize;

/// The form of a command's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table for people.
    #[default]
    Table,
    /// One JSON value, with sizes in bytes.
    Json,
}

impl Output {
    /// Prints an answer in this form; `table` makes the one for people.
    ///
    /// # Errors
    /// The standard output stream's.
    pub(crate) fn print<T: Serialize + ?Sized>(
        self,
        answer: &T,
        table: impl FnOnce(&T) -> Table,
    ) -> anyhow::Result<()> {
        write(&match self {
            Self::Table => table(answer).trim_fmt(),
            Self::Json => serde_json::to_string_pretty(answer)?,
        })
    }
}

/// Writes text and a line end to the standard output stream.
///
/// # Errors
/// The stream's.
pub(crate) fn write(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush()) {
        // Whoever reads has seen enough, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Starts a table with one row a thing.
pub(crate) fn listing<const N: usize>(headings: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(headings);
    table
}

/// Makes a table with one row a property.
pub(crate) fn properties<const N: usize>(rows: [(&str, String); N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    table
}

/// Aligns columns of numbers to the right.
pub(crate) fn numbers(mut table: Table, columns: impl IntoIterator<Item = usize>) -> Table {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
