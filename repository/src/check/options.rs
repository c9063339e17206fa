//! What a check is asked to look at.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// How deep to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Records and runs are readable and refer to one another rightly.
    Structure,
    /// Also every pack is there, of the right size, and its table is whole.
    #[default]
    Presence,
    /// Also every chunk decrypts, decompresses and hashes to its id.
    Content,
}

/// A part of the whole, in per cent: more than 0 and at most 100.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// Takes a number; `None` where it is no such part.
    #[must_use]
    pub fn new(percent: f64) -> Option<Self> {
        (percent > 0.0 && percent <= 100.0).then_some(Self(percent))
    }

    /// Returns so much of a number of bytes, rounded up.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a part of it is no larger than the whole, and a sample need not be exact"
    )]
    pub(super) fn of(self, bytes: u64) -> u64 {
        ((bytes as f64 * self.0 / 100.0).ceil() as u64).min(bytes)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

/// What to look at, and what to leave to other runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// How deep to look.
    pub level: Level,
    /// At [`Level::Content`], read only so much of the packs, by bytes and chosen at random; of the others only the tables.
    /// Together with `resume` it is a part that the pass has not looked at yet, so that each run covers more of it.
    pub sample: Option<Percent>,
    /// A file that remembers what was looked at, so that another run goes on behind it. It is removed once everything
    /// has been.
    pub resume: Option<PathBuf>,
}

impl From<Level> for Options {
    fn from(level: Level) -> Self {
        Self { level, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_more_than_nothing_and_at_most_all() {
        for percent in [0.0, -1.0, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Percent::new(percent), None, "{percent}");
        }
        let part = |percent, bytes| Percent::new(percent).unwrap().of(bytes);
        assert_eq!((part(100.0, 1001), part(10.0, 1001), part(0.001, 10), part(50.0, 0)), (1001, 101, 1, 0));
    }
}
