//! The report: a table for people, JSON lines for programs, and whether everything holds.
//!
//! Beside the lines, a second file tells of the run: the machine, how long each group took, and what was measured round by
//! round. Plots are [drawn](crate::plot) from both.

use std::{
    borrow::Cow,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};

use crate::{limit::median, machine::Machine};

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
    pub name: Cow<'static, str>,
    pub value: f64,
    /// What the value counts; `x` for a ratio.
    pub unit: &'static str,
    pub bound: Bound,
}

/// A figure as a program reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub name: String,
    /// Absent where it is no number.
    pub value: Option<f64>,
    pub unit: String,
    /// Absent where nothing is promised.
    pub limit: Option<f64>,
    /// Value by limit; absent where that is nothing.
    pub ratio: Option<f64>,
    pub holds: bool,
}

/// What was measured, round by round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Samples {
    /// Names it for programs, as a figure.
    pub name: String,
    pub unit: String,
    pub values: Vec<f64>,
}

/// How long a group of figures took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub name: String,
    pub seconds: f64,
    /// Why it was not measured to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// What else is known of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub machine: Machine,
    /// Whether it was the smaller form.
    pub quick: bool,
    pub groups: Vec<Group>,
    pub samples: Vec<Samples>,
}

impl Figure {
    /// Names what was measured.
    pub(crate) fn new(name: impl Into<Cow<'static, str>>, value: f64, unit: &'static str, bound: Bound) -> Self {
        Self { name: name.into(), value, unit, bound }
    }

    fn line(&self) -> Line {
        let (limit, holds) = match self.bound {
            Bound::AtMost(limit) => (Some(limit), self.value <= limit),
            Bound::AtLeast(limit) => (Some(limit), self.value >= limit),
            Bound::Shown => (None, true),
        };
        let ratio =
            limit.filter(|limit| *limit != 0.0).map(|limit| self.value / limit).filter(|ratio| ratio.is_finite());
        // A value that is no number holds nothing.
        Line {
            name: self.name.clone().into_owned(),
            value: Some(self.value).filter(|value| value.is_finite()),
            unit: self.unit.into(),
            limit,
            ratio,
            holds: holds && self.value.is_finite(),
        }
    }
}

/// Everything that was measured, shown as it comes in.
pub(crate) struct Report {
    figures: Vec<Figure>,
    run: Run,
    json: Option<PathBuf>,
}

impl Report {
    /// Begins one.
    pub(crate) fn new(json: Option<PathBuf>, quick: bool, machine: Machine) -> Self {
        Self { figures: Vec::new(), run: Run { machine, quick, ..Run::default() }, json }
    }

    /// Says what is being done, to whoever waits.
    pub(crate) fn say(&self, text: &str) {
        eprintln!("{text}");
    }

    /// Adds a figure.
    pub(crate) fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Adds what was measured round by round, from which plots are drawn.
    pub(crate) fn samples(&mut self, name: impl Into<String>, unit: &'static str, values: Vec<f64>) {
        self.run.samples.push(Samples { name: name.into(), unit: unit.into(), values });
    }

    /// Shows the median of what was measured round by round, and adds the rounds.
    pub(crate) fn measured(&mut self, name: impl Into<String>, unit: &'static str, values: Vec<f64>) {
        let name = name.into();
        self.add(Figure::new(name.clone(), median(values.clone()), unit, Bound::Shown));
        self.samples(name, unit, values);
    }

    /// Says how long a group took, and how it ended where that was too early.
    pub(crate) fn ended(&mut self, group: &str, took: Duration, failure: Option<String>) {
        let seconds = took.as_secs_f64();
        match &failure {
            None => self.say(&format!("{group}: took {seconds:.0} s")),
            Some(failure) => self.say(&format!("{group}: FAILED after {seconds:.0} s: {failure}")),
        }
        self.run.groups.push(Group { name: group.into(), seconds, failure });
    }

    /// Writes it all; the exit status is 1 where something falls short or could not be measured.
    pub(crate) fn finish(self) -> anyhow::Result<ExitCode> {
        let lines: Vec<Line> = self.figures.iter().map(Figure::line).collect();
        let mut json = Vec::new();
        for line in &lines {
            serde_json::to_writer(&mut json, line).context("writing JSON")?;
            json.push(b'\n');
        }
        let to_stdout = self.json.as_deref().is_some_and(|path| path.as_os_str() == "-");
        if to_stdout {
            std::io::stdout().write_all(&json).context("writing the figures")?;
        } else {
            println!("{}\n{}", self.run.machine, self.table(&lines));
        }
        if let Some(path) = self.json.as_ref().filter(|_| !to_stdout) {
            let written = File::create(path).and_then(|mut file| file.write_all(&json));
            written.with_context(|| format!("writing the figures to {}", path.display()))?;
            let run = serde_json::to_vec_pretty(&self.run).context("writing JSON")?;
            let beside = beside(path);
            fs::write(&beside, run).with_context(|| format!("writing {}", beside.display()))?;
        }
        let short = lines.iter().filter(|line| !line.holds).count();
        let failed = self.run.groups.iter().filter(|group| group.failure.is_some()).count();
        if short > 0 {
            eprintln!("{short} of {} figures fall short", lines.len());
        }
        if failed > 0 {
            eprintln!("{failed} of {} groups could not be measured", self.run.groups.len());
        }
        Ok(if short + failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn table(&self, lines: &[Line]) -> Table {
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
            let value = number(figure.value);
            table.add_row([line.name.clone(), value, line.unit.clone(), limit, ratio, holds.into()]);
        }
        table
    }
}

/// The file that tells of the run whose figures are in another.
pub(crate) fn beside(figures: &Path) -> PathBuf {
    figures.with_extension("run.json")
}

/// A number with as many digits as people read.
pub(crate) fn number(value: f64) -> String {
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
