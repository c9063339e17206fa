//! What several programs took for the same thing in turns, and the figures that come of it.

use std::collections::BTreeMap;

use crate::{
    limit::median,
    report::{Bound, Figure, Report},
    rivals::run::Taken,
};

/// What the machine could do at best.
pub(crate) const LIMIT: &str = "limit";

/// Ourselves.
pub(crate) const VARVE: &str = "varve";

/// Everybody who takes turns.
const TURNS: [&str; 4] = [LIMIT, VARVE, "restic", "kopia"];

/// The order of turns in a round: each comes first, and last, about as often as any other.
pub(crate) fn order(round: usize) -> impl Iterator<Item = &'static str> {
    TURNS.into_iter().cycle().skip(round % TURNS.len()).take(TURNS.len())
}

/// What each took in each round, for each thing that was done.
#[derive(Debug, Default)]
pub(crate) struct Contest(BTreeMap<(&'static str, &'static str), Vec<Taken>>);

impl Contest {
    /// Adds what one took in a round.
    pub(crate) fn add(&mut self, phase: &'static str, who: &'static str, taken: Taken) {
        self.0.entry((phase, who)).or_default().push(taken);
    }

    fn values(&self, phase: &str, who: &str, of: impl Fn(&Taken) -> f64) -> Vec<f64> {
        let found = self.0.iter().find(|((one, other), _)| *one == phase && *other == who);
        found.map(|(_, taken)| taken.iter().map(of).collect()).unwrap_or_default()
    }

    /// The middle one of what the rounds say; not a number where there was none.
    pub(crate) fn median(&self, phase: &str, who: &str, of: impl Fn(&Taken) -> f64) -> f64 {
        median(self.values(phase, who, of))
    }

    /// The median of the seconds that one took.
    pub(crate) fn wall(&self, phase: &str, who: &str) -> f64 {
        self.median(phase, who, |taken| taken.wall.as_secs_f64())
    }

    /// Shows what everybody took for a phase, under its name.
    pub(crate) fn show(&self, report: &mut Report, phase: &str, unit: &'static str, of: impl Fn(&Taken) -> f64) {
        for who in TURNS {
            let values = self.values(phase, who, &of);
            if !values.is_empty() {
                report.measured(format!("{phase}.{who}"), unit, values);
            }
        }
    }

    /// Shows what all programs took for a phase, under another name.
    pub(crate) fn show_as(
        &self,
        report: &mut Report,
        phase: &str,
        name: &str,
        unit: &'static str,
        of: impl Fn(&Taken) -> f64,
    ) {
        for who in TURNS.into_iter().filter(|who| *who != LIMIT) {
            let values = self.values(phase, who, &of);
            if !values.is_empty() {
                report.measured(format!("{name}_{who}"), unit, values);
            }
        }
    }

    /// Shows the most memory that each had resident, of which ours is bounded, in MiB.
    pub(crate) fn show_peaks(&self, report: &mut Report, phase: &str, name: &str, most: f64) {
        for who in TURNS.into_iter().filter(|who| *who != LIMIT) {
            let values = self.values(phase, who, |taken| taken.peak_memory as f64 / f64::from(1 << 20));
            let Some(peak) = values.iter().copied().reduce(f64::max) else { continue };
            report.samples(format!("{name}_{who}"), "MiB", values);
            let figure = match who {
                VARVE => Figure::new(name.to_owned(), peak, "MiB", Bound::AtMost(most)),
                rival => Figure::new(format!("{name}_{rival}"), peak, "MiB", Bound::Shown),
            };
            report.add(figure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn_in_each_round_and_each_begins_once() {
        let first: Vec<_> = (0..TURNS.len()).filter_map(|round| order(round).next()).collect();
        assert_eq!(first, TURNS);
        for round in 0..5 {
            let mut turns: Vec<_> = order(round).collect();
            turns.sort_unstable();
            assert_eq!(turns, ["kopia", "limit", "restic", "varve"]);
        }
    }
}
