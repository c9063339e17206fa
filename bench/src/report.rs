//! The report: a table for people, JSON lines for programs, and whether everything holds.

use std::{fs::File, io::Write, path::PathBuf, process::ExitCode};

use anyhow::Context;
use comfy_table::{Table, presets};
use serde::Serialize;

/// What a figure has to keep to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// Nothing: it is shown so that others can be understood.
    Shown,
}

/// One thing that was measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    /// Names it for programs: `group.what`.
    pub name: &'static str,
    pub value: f64,
    /// What the value counts; `x` for a ratio.
    pub unit: &'static str,
    pub bound: Bound,
}

/// A figure as a program reads it.
#[derive(Debug, Serialize)]
struct Line<'a> {
    name: &'a str,
    value: f64,
    unit: &'a str,
    /// Absent where nothing is promised.
    limit: Option<f64>,
    /// Value by limit; absent where that is nothing.
    ratio: Option<f64>,
    holds: bool,
}

impl Figure {
    /// Names what was measured.
    pub(crate) fn new(name: &'static str, value: f64, unit: &'static str, bound: Bound) -> Self {
        Self { name, value, unit, bound }
    }

    fn line(&self) -> Line<'_> {
        let (limit, holds) = match self.bound {
            Bound::AtMost(limit) => (Some(limit), self.value <= limit),
            Bound::AtLeast(limit) => (Some(limit), self.value >= limit),
            Bound::Shown => (None, true),
        };
        let ratio = limit.filter(|limit| *limit != 0.0).map(|limit| self.value / limit);
        // A value that is no number holds nothing.
        Line {
            name: self.name,
            value: self.value,
            unit: self.unit,
            limit,
            ratio,
            holds: holds && self.value.is_finite(),
        }
    }
}

/// Everything that was measured, shown as it comes in.
pub(crate) struct Report {
    figures: Vec<Figure>,
    json: Option<PathBuf>,
}

impl Report {
    /// Begins one.
    pub(crate) fn new(json: Option<PathBuf>) -> Self {
        Self { figures: Vec::new(), json }
    }

    /// Says what is being done, to whoever waits.
    pub(crate) fn say(&self, text: &str) {
        eprintln!("{text}");
    }

    /// Adds a figure.
    pub(crate) fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Writes it all; the exit status is 1 where something falls short.
    pub(crate) fn finish(self) -> anyhow::Result<ExitCode> {
        let lines: Vec<Line<'_>> = self.figures.iter().map(Figure::line).collect();
        let mut json = Vec::new();
        for line in &lines {
            serde_json::to_writer(&mut json, line).context("writing JSON")?;
            json.push(b'\n');
        }
        let to_stdout = self.json.as_deref().is_some_and(|path| path.as_os_str() == "-");
        if to_stdout {
            std::io::stdout().write_all(&json).context("writing the figures")?;
        } else {
            println!("{}", self.table(&lines));
        }
        if let Some(path) = self.json.filter(|_| !to_stdout) {
            let written = File::create(&path).and_then(|mut file| file.write_all(&json));
            written.with_context(|| format!("writing the figures to {}", path.display()))?;
        }
        let short = lines.iter().filter(|line| !line.holds).count();
        if short > 0 {
            eprintln!("{short} of {} figures fall short", lines.len());
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn table(&self, lines: &[Line<'_>]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["figure", "value", "unit", "limit", "ratio", "holds"]);
        for (line, figure) in lines.iter().zip(&self.figures) {
            let limit = match figure.bound {
                Bound::AtMost(limit) => format!("at most {}", number(limit)),
                Bound::AtLeast(limit) => format!("at least {}", number(limit)),
                Bound::Shown => String::new(),
            };
            let holds = match (figure.bound, line.holds) {
                (Bound::Shown, true) => "",
                (_, true) => "yes",
                (_, false) => "NO",
            };
            let ratio = line.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            table.add_row([line.name.into(), number(line.value), line.unit.into(), limit, ratio, holds.into()]);
        }
        table
    }
}

/// A number with as many digits as people read.
fn number(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_falls_short_is_told_by_its_bound() {
        let holds = |value, bound| Figure::new("a", value, "x", bound).line().holds;
        assert!(holds(2.0, Bound::AtMost(2.0)) && !holds(2.1, Bound::AtMost(2.0)));
        assert!(holds(0.6, Bound::AtLeast(0.6)) && !holds(0.5, Bound::AtLeast(0.6)));
        assert!(holds(9.0, Bound::Shown));
        assert!(!holds(f64::NAN, Bound::AtMost(2.0)) && !holds(f64::NAN, Bound::Shown));
        assert!(!holds(f64::INFINITY, Bound::AtLeast(1.0)));
    }

    #[test]
    fn a_line_has_what_programs_read() {
        let figure = Figure::new("a.b", 1.0, "requests", Bound::AtMost(2.0));
        let line = serde_json::to_string(&figure.line()).unwrap();
        assert_eq!(line, r#"{"name":"a.b","value":1.0,"unit":"requests","limit":2.0,"ratio":0.5,"holds":true}"#);
    }
}
