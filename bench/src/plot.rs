//! Plots of a run, drawn from what it wrote: what was promised and how far it was kept, and what everybody took.
//!
//! The pictures are SVG, readable on light and dark ground, and the same for the same run.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context, ensure};

use crate::{
    limit::median,
    report::{Line, Run, Samples, beside, number},
};

/// Width of a picture, and of what is left and right of its bars, in pixels.
const WIDTH: f64 = 760.0;
const LEFT: f64 = 230.0;
const RIGHT: f64 = 190.0;

/// Height of a row and of a bar in it, and of what is above the rows and below them, in pixels.
const ROW: f64 = 24.0;
const BAR: f64 = 14.0;
const ABOVE: f64 = 44.0;
const BELOW: f64 = 30.0;

/// From this ratio of the largest to the smallest on, an axis is logarithmic.
const WIDE: f64 = 30.0;

/// How colours are chosen: by what a bar is, for light ground and for dark.
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:600}\
    .faint{fill:#59636e}.end{text-anchor:end}.grid{stroke:#d1d9e0}.bound{stroke:#1f2328;stroke-width:1.5}\
    .spread{stroke:#1f2328}.ours{fill:#0969da}.other{fill:#9aa4ae}.limit{fill:#1a7f37}.short{fill:#cf222e}\
    @media(prefers-color-scheme:dark){text{fill:#f0f6fc}.faint{fill:#9198a1}.grid{stroke:#3d444d}\
    .bound,.spread{stroke:#f0f6fc}.ours{fill:#4493f8}.other{fill:#6e7681}.limit{fill:#3fb950}.short{fill:#f85149}}";

/// One bar.
#[derive(Clone, Debug, PartialEq)]
struct Bar {
    label: String,
    /// Its colour: a class of [`STYLE`].
    class: &'static str,
    /// Where it ends.
    value: f64,
    /// The least and the most that were measured.
    spread: Option<(f64, f64)>,
    /// What stands right of it.
    note: String,
}

/// A picture of bars.
#[derive(Debug)]
struct Chart {
    title: String,
    bars: Vec<Bar>,
    /// Where a line stands that bars are compared with, from which they begin on a logarithmic axis.
    bound: Option<f64>,
}

/// Draws everything that a run's file of figures, and the file beside it, have.
///
/// # Errors
/// What cannot be read or written.
pub(crate) fn draw(from: &Path, to: &Path) -> anyhow::Result<()> {
    let file = BufReader::new(File::open(from).with_context(|| format!("opening {}", from.display()))?);
    let lines = file.lines().map(|line| serde_json::from_str(&line?).context("reading a figure"));
    let lines: Vec<Line> = lines.collect::<anyhow::Result<_>>()?;
    ensure!(!lines.is_empty(), "there are no figures in {}", from.display());
    let run = beside(from);
    let text = fs::read(&run).with_context(|| format!("opening {}", run.display()))?;
    let run: Run = serde_json::from_slice(&text).with_context(|| format!("reading {}", run.display()))?;

    let foot = format!("{}{}", run.machine, if run.quick { ", the smaller form" } else { "" });
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    let mut charts = vec![("promises".to_owned(), promises(&lines))];
    charts.extend(contests(&run.samples));
    for (name, chart) in charts.iter().filter(|(_, chart)| !chart.bars.is_empty()) {
        let path = to.join(format!("{}.svg", name.replace('.', "-")));
        fs::write(&path, chart.svg(&foot)).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Shows each figure that something was promised of, by how many times it is better than that.
fn promises(lines: &[Line]) -> Chart {
    let bars = lines.iter().filter_map(|line| {
        let (value, limit, ratio) = (line.value?, line.limit?, line.ratio?);
        // A line does not say which side of its limit is the good one; whether it holds there does.
        let at_least = (ratio >= 1.0) == line.holds;
        let note = format!("{} {} ({} {})", number(value), line.unit, if at_least { "≥" } else { "≤" }, number(limit));
        let class = if line.holds { "ours" } else { "short" };
        let value = if at_least { ratio } else { 1.0 / ratio };
        // What is better by more shows as this much: it would leave no room for others.
        Some(Bar { label: line.name.clone(), class, value: value.clamp(0.05, 20.0), spread: None, note })
    });
    Chart { title: "Times better than promised".into(), bars: bars.collect(), bound: Some(1.0) }
}

/// Shows what was measured of several side by side: those whose names differ in the last word alone.
fn contests(samples: &[Samples]) -> Vec<(String, Chart)> {
    let mut contests: BTreeMap<&str, Vec<(&str, &Samples)>> = BTreeMap::new();
    for samples in samples.iter().filter(|samples| !samples.values.is_empty()) {
        if let Some((what, who)) = samples.name.rsplit_once(['.', '_']) {
            contests.entry(what).or_default().push((who, samples));
        }
    }
    contests.retain(|_, who| who.len() > 1);
    let chart = |(what, who): (&str, Vec<(&str, &Samples)>)| {
        let unit = who.first().map(|(_, samples)| samples.unit.clone()).unwrap_or_default();
        let bars = who.into_iter().map(|(who, samples)| {
            let value = median(samples.values.clone());
            let least = samples.values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = samples.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let class = match who {
                "varve" => "ours",
                "limit" => "limit",
                _ => "other",
            };
            let note = format!("{} {}", number(value), samples.unit);
            Bar { label: who.into(), class, value, spread: Some((least, most)), note }
        });
        let title = format!("{what}: {unit}, median and spread, less is better");
        (what.to_owned(), Chart { title, bars: bars.collect(), bound: None })
    };
    contests.into_iter().map(chart).collect()
}

/// Where values are on an axis.
#[derive(Clone, Copy, Debug)]
struct Axis {
    least: f64,
    most: f64,
    logarithmic: bool,
}

impl Axis {
    fn of(chart: &Chart) -> Self {
        let ends = chart.bars.iter().flat_map(|bar| {
            let (least, most) = bar.spread.unwrap_or((bar.value, bar.value));
            [least, most, bar.value]
        });
        let ends = || ends.clone().chain(chart.bound).filter(|end| end.is_finite() && *end > 0.0);
        let (least, most) = (ends().fold(f64::INFINITY, f64::min), ends().fold(f64::MIN_POSITIVE, f64::max));
        if chart.bound.is_some() || most / least > WIDE {
            let decade = |value: f64| 10_f64.powf(value);
            return Self { least: decade(least.log10().floor()), most: decade(most.log10().ceil()), logarithmic: true };
        }
        let step = step(most);
        Self { least: 0.0, most: (most / step).ceil() * step, logarithmic: false }
    }

    fn x(self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.least).log10() - self.least.log10()) / (self.most.log10() - self.least.log10()).max(1e-9)
        } else {
            value / self.most
        };
        LEFT + part.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn ticks(self) -> Vec<f64> {
        let mut ticks = Vec::new();
        let mut tick = self.least;
        while tick <= self.most * 1.000_001 {
            ticks.push(tick);
            tick = if self.logarithmic { tick * 10.0 } else { tick + step(self.most) };
        }
        ticks
    }
}

/// A round number of which a few make up the whole.
fn step(most: f64) -> f64 {
    let decade = 10_f64.powf(most.log10().floor());
    [0.2, 0.5, 1.0].into_iter().map(|part| part * decade).find(|step| most / step <= 6.0).unwrap_or(2.0 * decade)
}

impl Chart {
    fn svg(&self, foot: &str) -> String {
        let axis = Axis::of(self);
        let rows = self.bars.iter().fold(0.0, |rows, _| rows + 1.0);
        let bottom = ABOVE + rows * ROW;
        let height = bottom + BELOW + 14.0;
        let mut svg = String::new();
        let mut put = |text: std::fmt::Arguments<'_>| {
            // Writing into a string cannot fail.
            let _ = svg.write_fmt(text);
            svg.push('\n');
        };
        put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             role=\"img\"><title>{}</title><style>{STYLE}</style>",
            escaped(&self.title)
        ));
        put(format_args!("<text class=\"title\" x=\"8\" y=\"20\">{}</text>", escaped(&self.title)));
        for tick in axis.ticks() {
            let x = axis.x(tick);
            put(format_args!("<path class=\"grid\" d=\"M{x:.1} {ABOVE}V{bottom}\"/>"));
            let (y, label) = (bottom + 14.0, tick_label(tick));
            put(format_args!("<text class=\"faint\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{y}\">{label}</text>"));
        }
        let start = self.bound.map_or(LEFT, |bound| axis.x(bound));
        let mut top = ABOVE;
        for bar in &self.bars {
            let (end, middle, y) = (axis.x(bar.value), top + ROW / 2.0, top + (ROW - BAR) / 2.0);
            let (from, width) = (start.min(end), (end - start).abs().max(1.0));
            let (label, note, class) = (escaped(&bar.label), escaped(&bar.note), bar.class);
            let text = middle + 4.0;
            put(format_args!("<text class=\"end\" x=\"{}\" y=\"{text}\">{label}</text>", LEFT - 8.0));
            put(format_args!(
                "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\"/>"
            ));
            if let Some((least, most)) = bar.spread.filter(|(least, most)| most > least) {
                let (least, most) = (axis.x(least), axis.x(most));
                put(format_args!("<path class=\"spread\" d=\"M{least:.1} {middle}H{most:.1}\"/>"));
            }
            put(format_args!("<text x=\"{}\" y=\"{text}\">{note}</text>", WIDTH - RIGHT + 10.0));
            top += ROW;
        }
        if let Some(bound) = self.bound {
            put(format_args!("<path class=\"bound\" d=\"M{:.1} {}V{bottom}\"/>", axis.x(bound), ABOVE - 6.0));
        }
        put(format_args!("<text class=\"faint\" x=\"8\" y=\"{}\">{}</text></svg>", height - 6.0, escaped(foot)));
        svg
    }
}

fn tick_label(tick: f64) -> String {
    let text = format!("{tick:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, value: f64, limit: f64, holds: bool) -> Line {
        let (value, ratio) = (Some(value), Some(value / limit));
        Line { name: name.into(), value, unit: "x".into(), limit: Some(limit), ratio, holds }
    }

    #[test]
    fn a_promise_is_kept_on_the_right_whichever_side_its_limit_is_on() {
        let lines = [
            line("rate", 1.4, 0.7, true),
            line("slow", 0.35, 0.7, false),
            line("memory", 64.0, 128.0, true),
            line("large", 256.0, 128.0, false),
        ];
        let values: Vec<f64> = promises(&lines).bars.iter().map(|bar| bar.value).collect();
        assert_eq!(values, [2.0, 0.5, 2.0, 0.5]);
    }

    #[test]
    fn what_differs_in_its_last_word_is_compared() {
        let samples =
            |name: &str, values: &[f64]| Samples { name: name.into(), unit: "s".into(), values: values.into() };
        let all = [
            samples("backup.varve", &[1.0, 3.0, 2.0]),
            samples("backup.restic", &[10.0]),
            samples("backup.cpu_varve", &[1.0]),
        ];
        let contests = contests(&all);
        assert_eq!(contests.len(), 1);
        let (name, chart) = &contests[0];
        assert_eq!((name.as_str(), chart.bars[0].value, chart.bars[0].spread), ("backup", 2.0, Some((1.0, 3.0))));
        let svg = chart.svg("a machine & more");
        assert!(svg.contains("class=\"ours\"") && svg.contains("a machine &amp; more"), "{svg}");
        assert_eq!(svg, chart.svg("a machine & more"));
    }

    #[test]
    fn an_axis_is_round_and_holds_everything() {
        let bar = |value| Bar { label: String::new(), class: "ours", value, spread: None, note: String::new() };
        let chart = |values: &[f64]| Chart {
            title: String::new(),
            bars: values.iter().map(|value| bar(*value)).collect(),
            bound: None,
        };
        let axis = Axis::of(&chart(&[3.2, 47.0]));
        assert_eq!((axis.most, axis.logarithmic, axis.ticks()), (50.0, false, vec![0.0, 10.0, 20.0, 30.0, 40.0, 50.0]));
        let axis = Axis::of(&chart(&[0.2, 47.0]));
        assert_eq!((axis.logarithmic, axis.ticks().len()), (true, 4));
    }
}
